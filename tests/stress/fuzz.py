"""Damage every kind of input file: each must be read, or refused with a one-line InputError.

    TMPDIR=/dev/shm python tests/stress/fuzz.py                                   1,000,000 inputs over all readers
    python tests/stress/fuzz.py --inputs 20000 --readers checkpoint weights
    python tests/stress/fuzz.py --readers checkpoint --first 1234 --inputs 1      repeat one input

The content is damaged (a JSON value, a tensor, a cell, a header), then often the bytes. An input depends only on the
seed, the reader and its number. Files outside of its folder, run code, hangs and memory are watched.
"""
import argparse
import faulthandler
import io
import json
import os
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ['OMP_NUM_THREADS'] = '1'  # before numpy and torch are imported
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

# ruff: noqa: E402
import numpy as np
import torch
from runs import command
from test_main import write_data

import main as program
from config import format_recipe, parse_args, resolve_config
from engine import checkpoint as ckpt
from engine.run_folder import CSVLogger, best_f1_threshold
from engine.trainer import Trainer, TrainerOptions
from eval import detection, summary
from eval.curves import read_curves
from extraction import i3d
from extraction.manifest import Manifest
from formats import annotations as ann
from formats.data_folder import find_split
from formats.detections import read_any, read_detections
from formats.features import find_flat_features
from losses import Losses
from model import AICL
from scripts.convert import convert
from utils import InputError

MAX_SECONDS, MAX_BYTES = 10, 2 ** 32  # CPU time per input, and memory that inputs may add
PATIENCE = 120  # seconds per input on a busy machine
Files = dict[str, bytes]  # content by name


# ---- damage ---------------------------------------------------------------------------------------------------------

ODD_TEXTS = ['', 'x', 'v_a', 'a', '\ud800', '\0', '\n', 'é', '🙂', '../a', '/', 'a' * 300, '1e5', ' 3 ', '٣', 'nan',
             'inf', 'True', '{}', ',', '"', '\r', '%', '1_0', '-0', '١e9', '1', '0', '-1', '1e999', '9' * 400]
ODD_VALUES = [None, True, False, 0, -1, 1, 2, 7, 2 ** 31, 2 ** 63, 2 ** 64, 10 ** 30, 10 ** 400, -10 ** 400, 0.5, 1e12,
              1e308, -1e308, 5e-324, float('nan'), float('inf'), float('-inf'), [], {}, [[]], {'': 0}, [0, 1], [1, 0],
              *ODD_TEXTS]


def odd_tensors() -> list:
    with warnings.catch_warnings(action='ignore'):
        return [torch.zeros(0), torch.tensor(1.), torch.ones(3, 4), torch.full((3,), float('nan')),
                torch.ones(3, dtype=torch.complex64).conj(), torch.arange(4), torch.zeros(5056, dtype=torch.uint8),
                torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr(), torch.empty(3, device='meta'),
                torch.ones(1).expand(10 ** 12), torch.ones(9).as_strided((3, 3), (1, 1)), torch.ones(4)[::2],
                torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8), torch.nn.Parameter(torch.ones(2)),
                torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), torch.ones(3).to(torch.float8_e5m2),
                torch.zeros((0, 10 ** 12)), torch.Size([2, 3]), torch.float32, (1, 'a'), {1, 2}, 3 + 4j, b'bytes']


def damage_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with another shape, dtype or value."""
    flat = tensor.flatten()
    if not len(flat):
        return tensor.double()
    changed = tensor.clone(memory_format=torch.contiguous_format)
    changed.view(-1)[rng.randrange(len(flat))] = rng.choice([0, 1, 255, 17])
    dtype = rng.choice([torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool])
    return rng.choice([tensor.to(dtype), flat, flat[:rng.randrange(len(flat))], tensor[None],
                       flat[0].expand(tensor.shape), changed])


def damage(rng: random.Random, value: Any, odd: list) -> Any:
    """Return a copy of nested containers with one node changed, removed, renamed or added."""
    if type(value) in (dict, list, tuple) and value and rng.random() < 0.9:
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        i, kind = rng.randrange(len(items)), rng.random()
        name, inner = items[i]
        if kind < 0.8:
            items[i] = name, damage(rng, inner, odd)
        elif kind < 0.87:
            del items[i]
        elif kind < 0.92:
            items[i] = rng.choice(ODD_TEXTS), inner
        else:
            items.insert(i, rng.choice([(rng.choice(ODD_TEXTS), rng.choice(odd)), (f'v_{name}', inner)]))
        return dict(items) if isinstance(value, dict) else type(value)(inner for _, inner in items)
    if ckpt.is_dense(value) and rng.random() < 0.5:
        return damage_tensor(rng, value)
    return rng.choice(odd)


def damage_often(rng: random.Random, value: Any, odd: list) -> Any:
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        value = damage(rng, value, odd)
    return value


def damage_bytes(rng: random.Random, content: bytes, probability: float = 0.25) -> bytes:
    """Return content of which, with this probability, bytes are changed, removed, repeated, inserted or cut off."""
    if rng.random() >= probability:
        return content
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 6])):
        start, stop = sorted(rng.randrange(len(changed) + 1) for _ in range(2))
        stop = min(stop, start + rng.choice([1, 2, 4, 8, 64, len(changed) + 1]))
        changed[start:stop] = rng.choice([
            b'', changed[start:stop] * 2, rng.randbytes(stop - start), bytes(stop - start), b'\xff' * (stop - start),
            struct.pack('<q', rng.choice([-1, 2 ** 31, 2 ** 62, 10 ** 12, 0])),
            rng.choice(ODD_TEXTS).encode('utf8', 'replace')])
    return bytes(changed[:rng.randrange(len(changed) + 1)] if rng.random() < 0.15 else changed)


# ---- damaged files of each format -----------------------------------------------------------------------------------

def json_file(rng: random.Random | None, value: Any) -> bytes:
    """Return a damaged JSON file; without `rng` an undamaged one."""
    if rng is None:
        return json.dumps(value).encode()
    text = json.dumps(damage_often(rng, value, ODD_VALUES), ensure_ascii=rng.random() < 0.5)
    return damage_bytes(rng, ('[' * 5000 * (rng.random() < 0.02) + text).encode('utf-8', 'surrogatepass'))


def csv_file(rng: random.Random | None, rows: list[list]) -> bytes:
    """Return a damaged CSV file or list of names; without `rng` an undamaged one."""
    if rng is None:
        return '\n'.join(map(','.join, rows)).encode()
    rows = damage_often(rng, rows, ODD_TEXTS)
    lines = [','.join(map(str, row)) if isinstance(row, list) else str(row) for row in rows]
    return damage_bytes(rng, rng.choice(['\n', '\n', '\r\n', '\r']).join(lines).encode('utf-8', 'surrogatepass'))


def npy_bytes(array: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


def npy_file(rng: random.Random, array: np.ndarray) -> bytes:
    """Return a .npy file with another dtype, shape or value, or a header that does not match its content."""
    kind = rng.random()
    if kind < 0.2:
        array = array.astype(rng.choice(['<f2', '>f4', '<f8', '<i4', '<c8', '?', 'U3', '<f16']))
    elif kind < 0.4:
        array = np.asarray(rng.choice([array[None], array[:0], array.ravel(), array.T, np.float32(3), array[:, :1],
                                       array[:1], array[:, :-1], array * np.nan, array + 1e38, array / 1e40]))
    content = npy_bytes(array)
    if kind > 0.75:
        old = rng.choice([b"'<f4'", b'(3, 4)', b'False', b'}'])
        content = content.replace(old, rng.choice([b"'|O8'", b"'|V9'", b"'>m8'", b'(3, 9)', b'(3, -4)', b'(True, 4)',
                                                   b'(3, 4.)', b'(9999999999, 4)', b'()', b'True', b'{}', b'']))
    return damage_bytes(rng, content)


def torch_file(rng: random.Random, value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, _use_new_zipfile_serialization=rng.random() < 0.8)
    return damage_bytes(rng, content.getvalue())


ANNOTATIONS = [{'label': 'x', 'segment': [0, 1.5]}, {'label': 'y', 'segment': ['2', 3]}, {'label': 'x'}]
GT = {'version': '1', 'database': {'a': {'subset': 'Test', 'duration': 9.5, 'annotations': ANNOTATIONS},
                                   'v_b': {'subset': 'Validation', 'annotations': ANNOTATIONS[:2]},
                                   'c': {'subset': 'Test', 'annotations': None}}}
DETECTIONS = {'version': '1', 'external_data': {}, 'results': {
    'a': [{'label': 'x', 'score': 0.5, 'segment': [0, 1]}, {'label': 'y', 'score': 0.25, 'segment': [1, 4.5]}],
    'b': [{'label': 'x', 'score300': 2, 'segment': [0, 1]}], 'c': []}}
EXTRACTION = {'videos': {'a': {'frames': 40, 'rows': 3, 'size': 0, 'split': 'test', 'duration': 4.5, 'file': 'a.mp4'}},
              'recipe': {'fps': 25}, 'weights': {'rgb': {'git_blob': 'ab'}}, 'versions': {'torch': '2'}}
SCORES = {'average_mAP': 0.5, 'step': 6, 'mAP': {'0.5': 0.5}, 'AP': {'x': {'0.5': 0.5}, 'y': {'0.5': 0.25}},
          'threshold': {'score': 0.1, 'f1': 0.5, 'precision': 0.5, 'recall': 0.5}}
RESULTS = {'best': SCORES, 'last': SCORES}
PUBLISHED = [{'source': 'a paper', 'average_mAP': 0.46, 'step': 50}, {'source': 'a log', 'average_mAP': 0.3}]
CURVES = {'videos': np.array(['a', 'b']), 'labels': np.array(['x', 'y']), 'seconds': np.ones(2),
          'num_snippets': np.array([4, 5]), 'aware': np.ones((2, 6), np.float32),
          'agnostic': np.ones((2, 6), np.float32), 'video': np.array([0, 0, 1]), 'label': np.array([0, 1, 1]),
          'selection': np.ones((3, 6), np.float16), 'cas': np.ones((3, 6), np.float16)}
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)
WTALC = {'I-I3D-JOINTFeatures': [FEATURES, FEATURES[:2]], 'I-Annotations/videoname': [b'a', b'b'],
         'I-Annotations/subset': [b'validation', b'test'], 'I-Annotations/segments': [[[0.0, 1.5]], [[1.0, 2.0]]],
         'I-Annotations/labels': [['x'], ['y']], 'I-Annotations/labels_all': [['x', 'y'], ['y']],
         'I-Annotations/duration': [[3.5], [2.0]]}
LABELS = [['video', 'label'], ['a', 'x'], ['a', 'y'], ['v_b.mp4', 'x']]
METRICS = [['step', 'epoch', 'average_mAP', 'mAP@0.5'], ['3', '0', '0.25', '0.5'], ['6', '1', '0.5', '0.5']]
LOSSES = [['step', 'epoch', *Losses._fields], *([str(i), '0', *['0.5'] * 9] for i in (1, 2, 3))]


def object_array(column: Any) -> bytes:
    """Return a .npy file of pickled objects."""
    rows = column if isinstance(column, list) else [column]
    array = np.empty(len(rows), object)
    array[:] = rows
    return npy_bytes(array, allow_pickle=True)


def wtalc_files(rng: random.Random) -> Files:
    """Return the features of all videos and the annotations as published by W-TALC: arrays of pickled objects."""
    odd = [*ODD_VALUES, FEATURES, b'\xff', np.float64(3), np.array(['x']), os.system, np.load]
    return {f'{name}.npy': damage_bytes(rng, object_array(
        damage(rng, column, odd) if rng.random() < 0.15 else column), 0.1) for name, column in WTALC.items()}


def flat_files(rng: random.Random) -> Files:
    """Return feature files in several layouts and under odd names."""
    files, layout = {}, rng.choice(['{video}', '{video}_{stream}', '{stream}/{video}'])
    for video in ('a', 'b', 'v_c')[:rng.randrange(1, 4)]:
        video = rng.choice([video] * 8 + ['é', 'a' * 200, '🙂', ' ', 'a b', '.a', 'a.npy', 'rgb'])
        for stream in ('rgb', 'flow'):
            content = npy_file(rng, FEATURES) if rng.random() < 0.2 else npy_bytes(FEATURES)
            files[f'{layout.format(video=video, stream=stream)}.npy'] = content
    return files


def data_folder_files(rng: random.Random) -> Files:
    """Return a data folder in which some file is damaged or missing."""
    files = {}
    for split, videos in (('train', 'bd'), ('test', 'ac')):
        base = rng.choice(['features/', 'features/', ''])
        for name in (f'{base}{split}/{stream}/{video}.npy' for video in videos for stream in ('rgb', 'flow')):
            files[name] = npy_bytes(FEATURES) if rng.random() < 0.96 else npy_file(rng, FEATURES)
        if rng.random() < 0.5:
            files[f'split_{split}.txt'] = csv_file(rng, [[video] for video in videos])
    labels = {'labels.csv': csv_file(rng, LABELS)} if rng.random() < 0.3 else {'gt.json': json_file(None, GT)}
    damaged = {'gt.json': json_file(rng, GT), 'extraction.json': json_file(rng, EXTRACTION)}
    files |= labels if rng.random() < 0.5 else damaged
    return {name: content for name, content in files.items() if rng.random() < 0.99}


def curves_file(rng: random.Random) -> Files:
    """Return a curves.npz in which arrays are replaced or missing."""
    arrays, content = dict(CURVES), io.BytesIO()
    for name in rng.sample(list(CURVES), rng.choice([0, 1, 1, 2])):
        array = arrays.pop(name)
        if rng.random() < 0.9:
            arrays[name] = rng.choice([array[:-1], array[None], array[::-1], array.astype('U'), np.full_like(array, 5),
                                       *map(np.array, ([], 3, [np.nan], [[], []], ['a', 'a']))])
    np.savez(content, **arrays)
    return {'curves.npz': damage_bytes(rng, content.getvalue(), 0.4)}


def checkpoint_file(rng: random.Random, state: dict, odd: list) -> Files:
    """Return a checkpoint with damaged content, half of them with a digest that matches it."""
    name = rng.choice([*state, None])  # each part as often as the others
    changed = state if name is None else {**state, name: damage(rng, state[name], odd)}
    if rng.random() < 0.5:
        with suppress(RuntimeError, TypeError, ValueError):  # no digest of it can be computed
            changed = {**changed, 'digest': ckpt.sha256_of({n: v for n, v in changed.items() if n != 'digest'})}
    return {'checkpoint.pt': torch_file(rng, changed)}


# ---- readers --------------------------------------------------------------------------------------------------------

class Reader(NamedTuple):
    make: Callable[[random.Random], Files]
    read: Callable[[Path], object]    # of the folder with the files
    weight: float = 1                 # share of the inputs


def read_rows(files: list) -> None:
    for file in files:
        width = file.width * len(file.paths) if file.columns == slice(None) else file.columns.stop - file.columns.start
        file.read(slice(None), np.empty((file.length, width), np.float32))


def read_flat(folder: Path) -> None:
    found = find_flat_features(folder, ('rgb', 'flow'), 'auto')
    read_rows([found.inspect(paths) for paths in found.locate(found.names) if paths])


def read_data(folder: Path) -> None:
    gt = ann.read_annotations(folder)
    for name in ('train', 'test'):
        split = find_split(folder, name, gt, gt.labels, ('rgb', 'flow'))
        split.summary().lines()
        for rate in (25, 'video'):
            split.time_base(rate, 16).lines()
            split.time_base(rate, 16).warnings()
        read_rows(split.require().files[:1])


def score(folder: Path) -> None:
    gt, detections = ann.read_ground_truth(folder / 'gt.json'), read_detections(folder / 'detections.json')
    if len(gt.video):
        gt = detection.scored_subset(gt, gt.videos[:1], gt.subsets[0])
    scores = detection.evaluate(gt, detections, [0.1, 0.5, 0.95])
    assert np.isfinite(scores.ap).all() and ((scores.ap >= 0) & (scores.ap <= 1)).all()
    json.dumps(detection.to_json(scores), allow_nan=False), detection.format_table(scores)


def read_network(folder: Path) -> None:
    path = folder / 'best.pt'
    state = ckpt.strip_wrappers(ckpt.read_weights(path))
    ckpt.infer_num_classes(state, path)
    ckpt.load_weights(AICL(2, 2, 3, 1 / 3, 8), state, path)


def read_next_to_weights(folder: Path) -> None:
    weights = str(folder / 'best.pt')
    ckpt.load_class_names(weights, str(folder), ann.read_ground_truth(folder / 'gt.json'), 2)
    best_f1_threshold(weights)


def resume_extraction(folder: Path) -> None:
    saved = [EXTRACTION[part] for part in ('recipe', 'weights', 'versions')]
    manifest = Manifest(folder, 'test', ('rgb',), *saved, overwrite=False)
    manifest.open(['a'])
    (folder / 'a.mp4').touch()
    manifest.has('a', folder / 'a.mp4')


def resume_args(folder: Path) -> None:
    format_recipe(resolve_config(['--output_dir', str(folder.parent), '--exp_name', folder.name, '--resume']).args)


def train_run(folder: Path) -> tuple[Trainer, dict, dict]:
    """Train three steps; return a trainer that may resume them, and the content of args.json and checkpoint.pt."""
    argv = command(write_data(folder / 'data'), folder / 'run', steps=3)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        assert program.main(argv) == 0
    state = torch.load(folder / 'run' / 'checkpoint.pt', weights_only=True)
    data = ckpt.from_file({name: value for name, value in state.items() if name != 'digest'}).data
    trainer = Trainer(TrainerOptions.from_args(parse_args(argv)), 8, len(data['classes']), data['lengths of videos'],
                      torch.device('cpu'))
    return trainer, json.loads((folder / 'run' / 'args.json').read_text()), state


def get_readers(folder: Path) -> dict[str, Reader]:
    """Return all readers by name; `folder` is for a training run that they need."""
    trainer, args, state = train_run(folder)
    odd, network = [*ODD_VALUES, *odd_tensors()], AICL(2, 2, 3, 1 / 3, 8).state_dict()
    wrapped = {'state_dict': {f'module.{name}': value for name, value in network.items()}}
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in i3d.I3D('rgb').state_dict().items()}
    backbone = {name: torch.ones(()).expand(shape) for name, shape in shapes.items()}

    def resume(path: Path) -> None:
        if (checkpoint := ckpt.read_checkpoint(path)) is not None:
            trainer.restore(checkpoint.training)

    def files(**contents: Any) -> Callable[[random.Random], Files]:
        """Return a function that makes JSON and CSV files of these contents, of which one or more are damaged."""
        def make(rng: random.Random) -> Files:
            chosen, files = rng.choice(list(contents)), {}
            for name, value in contents.items():
                write = csv_file if isinstance(value, list) and isinstance(value[0], list) else json_file
                files[name.replace('_', '.')] = write(rng if name == chosen or rng.random() < 0.2 else None, value)
            return files
        return make

    def file(read: Callable, name: str) -> Callable[[Path], object]:
        return lambda path: read(path / name)

    def converted(name: str) -> Callable[[Path], object]:
        return lambda path: convert(path / name, path.with_name('new'), None, True)

    return {
        'gt.json': Reader(files(gt_json=GT), file(ann.read_ground_truth, 'gt.json')),
        'detections.json': Reader(files(d_json=DETECTIONS), file(read_any, 'd.json')),
        'scoring': Reader(files(gt_json=GT, detections_json=DETECTIONS), score),
        'labels.csv': Reader(files(labels_csv=LABELS), file(ann.read_labels, 'labels.csv')),
        'split list': Reader(files(s_txt=[['a'], ['v_b.npy'], ['c']]), file(ann.read_split_file, 's.txt')),
        'durations': Reader(files(e_json=EXTRACTION), file(ann.read_durations, 'e.json')),
        'resumed extraction': Reader(files(extraction_json=EXTRACTION), resume_extraction),
        'args.json': Reader(files(args_json=args), resume_args, 0.2),
        'next to weights': Reader(files(gt_json=GT, labels_txt=[['x'], ['y']], results_json=RESULTS),
                                  read_next_to_weights),
        'losses.csv': Reader(files(l_csv=LOSSES), lambda path: CSVLogger(path / 'l.csv', LOSSES[0], 3)),
        'summary': Reader(files(args_json={**args, 'num_steps': 6}, results_json=RESULTS, metrics_csv=METRICS),
                          summary.read_run),
        'published numbers': Reader(files(p_json=PUBLISHED), file(summary.read_published, 'p.json')),
        'features': Reader(lambda rng: {'a.npy': npy_file(rng, FEATURES)}, read_flat),
        'flat features': Reader(flat_files, read_flat),
        'data folder': Reader(data_folder_files, read_data, 0.5),
        'converter': Reader(lambda rng: flat_files(rng) | files(gt_json=GT)(rng), converted(''), 0.2),
        'converter of W-TALC': Reader(wtalc_files, converted('I-I3D-JOINTFeatures.npy'), 0.2),
        'weights': Reader(lambda rng: {'best.pt': torch_file(rng, damage_often(
            rng, rng.choice([network, wrapped]), odd))}, read_network, 0.5),
        'I3D weights': Reader(lambda rng: {'i3d.pt': torch_file(rng, rng.choice([backbone, damage(
            rng, backbone, odd)]))}, lambda path: i3d.read_weights(path / 'i3d.pt', 'rgb'), 0.01),
        'checkpoint': Reader(lambda rng: checkpoint_file(rng, state, odd), resume, 0.2),
        'curves.npz': Reader(curves_file, file(read_curves, 'curves.npz'))}


# ---- reading damaged files ------------------------------------------------------------------------------------------

watch: dict[str, Any] = {'base': None, 'events': []}


def audit(event: str, arguments: tuple) -> None:
    """Record file changes outside of the folder in `watch`, and code that is run; audit hooks cannot be removed."""
    if watch['base'] is None:
        return
    is_bad = event.startswith(('subprocess', 'os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'socket.connect',
                               'pickle.find_class'))
    if event == 'open':
        path, _, flags = arguments
        is_bad = isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and \
            not os.fsdecode(path).startswith((watch['base'], '/dev/null'))
    elif event in ('os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink'):
        is_relative = arguments[-1] != -1  # to an open folder, as rmtree does it
        is_bad = not is_relative and not str(arguments[0]).startswith(watch['base'])
    if is_bad:
        watch['events'].append((event, arguments))


def try_to_read(reader: Reader, files: Files, name: str = '') -> tuple[str, str]:
    """Write files and read them; return 'read', 'refused', 'no memory' or 'FAULT', and the details of a fault."""
    with tempfile.TemporaryDirectory(prefix=name) as base, redirect_stdout(io.StringIO()), \
            redirect_stderr(io.StringIO()):
        for name, content in files.items():
            path = Path(base, 'input', name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        watch.update(base=base, events=[])
        try:
            reader.read(Path(base, 'input'))
            outcome = 'read', ''
        except InputError as error:
            is_line = str(error).isprintable() and len(str(error)) < 2000
            outcome = ('refused', '') if is_line else ('FAULT', f'the message {str(error)[:300]!r}')
        except MemoryError:
            outcome = 'no memory', ''
        except (OSError, SystemExit) as error:  # utils.run_cli reports an OSError with a file in one line
            is_refused = error.code == 2 if isinstance(error, SystemExit) else error.filename
            outcome = ('refused', '') if is_refused else ('FAULT', traceback.format_exc())
        except BaseException:
            outcome = 'FAULT', traceback.format_exc()
        finally:
            watch['base'] = None
    return ('FAULT', f'side effects: {watch["events"]}') if watch['events'] else outcome


def rng_of(seed: int, name: str, number: int) -> random.Random:
    return random.Random(f'{seed} {name} {number}')


def fuzz(reader: Reader, name: str, seed: int, numbers: range) -> tuple[Counter, list[tuple[int, str]]]:
    """Read inputs; return how many had which outcome, and the faults. After a crash the input remains in TMPDIR."""
    outcomes, faults = Counter[str](), []
    for number in numbers:
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        start = time.process_time()
        outcome, details = try_to_read(reader, reader.make(rng_of(seed, name, number)), f'input_{number}_')
        outcomes[outcome] += 1
        if (seconds := time.process_time() - start) > MAX_SECONDS:
            details += f' took {seconds:.0f} s'
        if details:
            faults.append((number, details))
        if len(faults) == 20:
            break
    faulthandler.cancel_dump_traceback_later()
    return outcomes, faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--inputs', type=int, default=1_000_000, help='over all readers')
    parser.add_argument('--readers', nargs='+')
    parser.add_argument('--first', type=int, default=0, help='number of the first input of each reader')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        readers = get_readers(Path(folder))
        faulthandler.enable()
        warnings.simplefilter('ignore')
        sys.addaudithook(audit)
        size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize() + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        print('| reader | inputs | read | refused | out of memory | faults |\n|---|---|---|---|---|---|', flush=True)
        names, faults = args.readers or list(readers), []
        weights = sum(readers[name].weight for name in names)
        for name in names:
            count = round(args.inputs * readers[name].weight / weights)
            outcomes, found = fuzz(readers[name], name, args.seed, range(args.first, args.first + count))
            counts = ' | '.join(str(outcomes[key]) for key in ('read', 'refused', 'no memory'))
            print(f'| {name} | {outcomes.total()} | {counts} | {len(found)} |', flush=True)
            faults += [f'\n{name}, input {number}: {details}' for number, details in found]
    print('\n'.join(faults))
    return bool(faults)


if __name__ == '__main__':
    sys.exit(main())
