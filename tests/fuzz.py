"""Damages whole files of every kind that the project reads, again and again: read, or refused in one line.

    TMPDIR=/dev/shm python tests/fuzz.py                              1,000,000 inputs over all readers
    python tests/fuzz.py --inputs 20000 --readers checkpoint weights
    python tests/fuzz.py --readers checkpoint --first 1234 --inputs 1     one input again, as the message names it

Damage is done to what a file holds (a value of a JSON, a tensor of a checkpoint, a cell of a table, a header), then
often to its bytes, too. Input `number` of a reader depends on the seed alone. Each reader works in a process of its
own: a crash and a hang are found out by the one that waits, anything but InputError by the reader's process itself.
"""
import argparse
import io
import json
import mmap
import multiprocessing
import os
import pickle
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ['OMP_NUM_THREADS'] = '1'    # before numpy and torch come: the readers' processes are forked
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402 the number of threads comes first
import torch  # noqa: E402
from runs import command  # noqa: E402
from test_main import write_data  # noqa: E402

import main as program  # noqa: E402
from formats.annotations import read_annotations, read_durations, read_labels, read_split_file
from formats.data_folder import find_split# noqa: E402
from eval import report  # noqa: E402
from eval.curves import read_curves  # noqa: E402
from eval.detection import evaluate, format_table, scored_subset, to_json  # noqa: E402
from formats.annotations import read_ground_truth
from formats.detections import read_detections, read_any# noqa: E402
from eval.summary import read_published, read_run  # noqa: E402
from extraction.i3d import I3D  # noqa: E402
from extraction.i3d import read_weights as read_i3d  # noqa: E402
from extraction.record import Record  # noqa: E402
from formats.features import find_flat_features# noqa: E402
from losses import Losses  # noqa: E402
from engine.checkpoint import is_dense, load_weights, infer_num_classes, read_weights, strip_wrappers
from model import AICL# noqa: E402
from engine.checkpoint import sha256_of, read_checkpoint
from engine.run_folder import CSVLogger# noqa: E402
from scripts.convert import convert  # noqa: E402
from config import format_recipe, resolve_config# noqa: E402
from utils import InputError  # noqa: E402

MAX_SECONDS, MAX_BYTES = 10, 1e9    # of processor for one input; that all may add to a reader's process
PATIENCE = 120                      # seconds for one input on a busy machine
Content = dict[str, bytes]          # of files, by name


# ---- damage ---------------------------------------------------------------------------------------------------------

ODD_TEXTS = ['', 'x', 'v_a', 'a', '\ud800', '\0', '\n', 'é', '🙂', '../a', '/', 'a' * 300, '1e5', ' 3 ', '٣', 'nan',
             'inf', 'True', '{}', ',', '"', '\r', '%', '1_0', '-0', '١e9']
ODD_VALUES = [None, True, False, 0, -1, 1, 2, 7, 2 ** 31, 2 ** 63, 2 ** 64, 10 ** 30, 10 ** 400, -10 ** 400, 0.5, 1e12,
              1e308, -1e308, 5e-324, float('nan'), float('inf'), float('-inf'), [], {}, [[]], {'': 0}, [0, 1], [1, 0],
              *ODD_TEXTS]


def odd_tensors() -> list:
    """Of every kind that torch saves."""
    with warnings.catch_warnings(action='ignore'):
        return [torch.zeros(0), torch.tensor(1.), torch.zeros(1), torch.ones(3, 4), torch.full((3,), float('nan')),
                torch.full((2, 2), 1e38), torch.ones(3).double(), torch.ones(3).half(), torch.ones(3).bfloat16(),
                torch.ones(3, dtype=torch.complex64), torch.ones(3, dtype=torch.complex64).conj(), torch.arange(4),
                torch.zeros(5056, dtype=torch.uint8), torch.zeros(3, dtype=torch.bool), torch.eye(3).to_sparse(),
                torch.eye(3).to_sparse_csr(), torch.empty(3, device='meta'), torch.ones(1).expand(10 ** 12),
                torch.ones(9).as_strided((3, 3), (1, 1)), torch.ones(9).as_strided((2, 2), (0, 1), 3),
                torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8), torch.nn.Parameter(torch.ones(2)),
                torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), torch.ones(2).requires_grad_(),
                torch.ones(3).to(torch.float8_e5m2), torch.zeros((0, 10 ** 12)), torch.ones(4)[::2], torch.Size([2, 3]),
                torch.float32, torch.device('cpu'), (), (1, 'a'), set(), {1, 2}, OrderedDict(a=1), 3 + 4j, b'bytes']


def damaged_tensor(rng: random.Random, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in another shape or type, or with another value."""
    kind = rng.randrange(6)
    if kind == 0 or not tensor.numel():
        return tensor.to(rng.choice([torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]))
    if kind == 1:
        return tensor.reshape(-1)
    if kind == 2:
        return tensor.flatten()[:rng.randrange(tensor.numel() + 1)]
    if kind == 3:
        return tensor[None]
    if kind == 4:
        return tensor.flatten()[0].expand(tensor.shape)
    tensor = tensor.clone(memory_format=torch.contiguous_format)
    tensor.view(-1)[rng.randrange(tensor.numel())] = rng.choice([0, 1, 255, 17])
    return tensor


def damaged(rng: random.Random, value: Any, odd: list) -> Any:
    """The value with one node of its tree changed, taken away, doubled, or under another name; the old one stays."""
    if type(value) in (dict, list, tuple) and value and rng.random() < 0.9:
        items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        at, kind = rng.randrange(len(items)), rng.random()
        name, inner = items[at]
        if kind < 0.8:
            items[at] = name, damaged(rng, inner, odd)
        elif kind < 0.87:
            del items[at]
        elif kind < 0.92:
            items[at] = rng.choice(ODD_TEXTS), inner
        elif kind < 0.97:
            items.insert(at, (rng.choice(ODD_TEXTS), rng.choice(odd)))
        else:
            items.insert(at, (f'v_{name}', inner))
        if isinstance(value, dict):
            return dict(items)
        return type(value)(inner for _, inner in items)
    if is_dense(value) and rng.random() < 0.5:
        return damaged_tensor(rng, value)
    return rng.choice(odd)


def damaged_bytes(rng: random.Random, content: bytes) -> bytes:
    """Some bytes changed, taken out, doubled, put in or cut off."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 6])):
        at, end = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        end = min(end, at + rng.choice([1, 2, 4, 8, 64, len(content) + 1]))
        content[at:end] = rng.choice([
            b'', content[at:end] * 2, rng.randbytes(end - at), bytes(end - at), b'\xff' * (end - at),
            struct.pack('<q', rng.choice([-1, 2 ** 31, 2 ** 62, 10 ** 12, 0])),
            rng.choice(ODD_TEXTS).encode('utf8', 'replace')])
    return bytes(content[:rng.randrange(len(content) + 1)] if rng.random() < 0.15 else content)


def perhaps(rng: random.Random, content: bytes, share: float = 0.25) -> bytes:
    return damaged_bytes(rng, content) if rng.random() < share else content


def damaged_json(rng: random.Random, value: Any) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        value = damaged(rng, value, ODD_VALUES)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.02:
        text = '[' * 5000 + text
    return perhaps(rng, text.encode('utf-8', 'surrogatepass'))


def damaged_table(rng: random.Random, rows: list[list]) -> bytes:
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        rows = damaged(rng, rows, [*ODD_TEXTS, '1', '0', '-1', '1e999', '9' * 400])
    lines = [','.join(map(str, row)) if isinstance(row, list) else str(row) for row in rows] \
        if isinstance(rows, list) else [str(rows)]
    return perhaps(rng, rng.choice(['\n', '\n', '\r\n', '\r']).join(lines).encode('utf-8', 'surrogatepass'))


def damaged_array(rng: random.Random, array: np.ndarray) -> bytes:
    """A .npy file of the array, perhaps of another type, shape, order or with a header that says something else."""
    kind = rng.random()
    if kind < 0.2:
        array = array.astype(rng.choice(['<f2', '>f4', '<f8', '<i4', '<c8', '?', 'U3', '<f16']))
    elif kind < 0.35:
        array = rng.choice([array[None], array[:0], array.ravel(), array.T, np.float32(3), array[:, :1], array[:1],
                            np.zeros((1, 1, 1, 1), np.float32), np.asfortranarray(array), array[:, :-1],
                            array[..., None]])
    elif kind < 0.45 and array.dtype.kind == 'f':
        array = array.copy()
        array.flat[rng.randrange(array.size)] = rng.choice([np.nan, np.inf, 1e-40, -3e38])
    content = io.BytesIO()
    np.save(content, array)
    if kind > 0.75:
        array = np.asarray(array)
        header = {'descr': np.lib.format.dtype_to_descr(array.dtype), 'fortran_order': False, 'shape': array.shape}
        odd = [*ODD_VALUES, '<f4', '|O', '|V9', [('a', '<f4')], (2, 3), '<f4,<f4', '>m8[s]']
        for _ in range(rng.choice([1, 1, 2])):
            header = damaged(rng, header, odd)
        text = repr(header).encode('latin1', 'replace')
        version = rng.choice([(1, 0), (2, 0), (3, 0), (9, 9)])
        length = struct.pack('<H' if version == (1, 0) else '<I', len(text) + rng.choice([0, 0, 0, 1, 60000]) & 0xffff)
        return b'\x93NUMPY' + bytes(version) + length + text + array.tobytes()
    return perhaps(rng, content.getvalue())


def saved(rng: random.Random, value: Any, share: float = 0.25) -> bytes:
    content = io.BytesIO()
    torch.save(value, content, _use_new_zipfile_serialization=rng.random() < 0.8)
    return perhaps(rng, content.getvalue(), share)


# ---- readers --------------------------------------------------------------------------------------------------------

class Reader(NamedTuple):
    """What makes an input, what reads it from its folder, and its part of all inputs."""
    make: Callable[[random.Random], Content]
    read: Callable[[Path], object]
    weight: float = 1


ANNOTATIONS = [{'label': 'x', 'segment': [0, 1.5]}, {'label': 'y', 'segment': ['2', 3]}, {'label': 'x'}]
TRUTH = {'version': '1', 'database': {'a': {'subset': 'Test', 'duration': 9.5, 'annotations': ANNOTATIONS},
                                      'v_b': {'subset': 'Validation', 'annotations': ANNOTATIONS[:2]},
                                      'c': {'subset': 'Test', 'annotations': None}}}
FOUND = {'version': '1', 'external_data': {}, 'results': {
    'a': [{'label': 'x', 'score': 0.5, 'segment': [0, 1]}, {'label': 'y', 'score': 0.25, 'segment': [1, 4.5]}],
    'b': [{'label': 'x', 'score300': 2, 'segment': [0, 1]}], 'c': []}}
EXTRACTED = {'videos': {'a': {'frames': 40, 'rows': 3, 'size': 0, 'split': 'test', 'duration': 4.5, 'file': 'a.mp4'}},
             'recipe': {'fps': 25}, 'weights': {'rgb': {'git_blob': 'ab'}}, 'versions': {'torch': '2'}}
SCORES = {'average_mAP': 0.5, 'step': 6, 'mAP': {'0.5': 0.5}, 'AP': {'x': {'0.5': 0.5}, 'y': {'0.5': 0.25}},
          'threshold': {'score': 0.1, 'f1': 0.5, 'precision': 0.5, 'recall': 0.5}}
PUBLISHED = [{'source': 'a paper', 'average_mAP': 0.46, 'step': 50}, {'source': 'a log', 'average_mAP': 0.3}]
CURVES = {'videos': np.array(['a', 'b']), 'labels': np.array(['x', 'y']), 'seconds': np.ones(2),
          'num_snippets': np.array([4, 5]), 'aware': np.ones((2, 6), np.float32),
          'agnostic': np.ones((2, 6), np.float32), 'video': np.array([0, 0, 1]), 'label': np.array([0, 1, 1]),
          'selection': np.ones((3, 6), np.float16), 'cas': np.ones((3, 6), np.float16)}
FEATURES = np.arange(12, dtype=np.float32).reshape(3, 4)
LABELS = [['video', 'label'], ['a', 'x'], ['a', 'y'], ['v_b.mp4', 'x']]
METRICS = [['step', 'epoch', 'average_mAP', 'mAP@0.5'], ['3', '0', '0.25', '0.5'], ['6', '1', '0.5', '0.5']]
STEPS = [['step', 'epoch', *Losses._fields], *([str(i), '0', *['0.5'] * 9] for i in (1, 2, 3))]


class Trained:
    """A run that was stopped: its arguments, the state in its checkpoint, and a training that goes on from it."""

    def __init__(self, folder: Path):
        data = write_data(folder / 'data')
        argv = command(data, folder / 'run', steps=3)
        taken = {}

        def resume(training, *others):
            taken['training'] = training
            return original(training, *others)

        original, program.resume = program.resume, resume
        out, sys.stdout, err, sys.stderr = sys.stdout, io.StringIO(), sys.stderr, io.StringIO()
        try:
            assert program.main(argv) == 0 and program.main([*argv, '--resume', '--num_steps', '4']) == 0
        finally:
            program.resume, sys.stdout, sys.stderr = original, out, err
        self.training = taken['training']
        self.args = json.loads((folder / 'run' / 'args.json').read_text())
        self.state = torch.load(folder / 'run' / 'checkpoint.pt', weights_only=True)
        del self.state['digest']


def make_checkpoint(rng: random.Random, state: dict, odd: list) -> Content:
    for _ in range(rng.choice([0, 1, 1, 1, 2, 4])):
        # Each of its parts as often as the others, whatever their sizes.
        name = rng.choice(list(state)) if isinstance(state, dict) and state else None
        state = damaged(rng, state, odd) if name is None or rng.random() < 0.2 else \
            {**state, name: damaged(rng, state[name], odd)}
    fitting = rng.random() < 0.9 and isinstance(state, dict)
    try:
        whole = {**state, 'digest': sha256_of(state)} if fitting else state
    except (RuntimeError, TypeError, NotImplementedError, ValueError):    # of what no digest can be taken
        whole = state
    return {'checkpoint.pt': saved(rng, whole, shard=0.1)}


def read_last(trained: Trained, folder: Path) -> None:
    state = read_checkpoint(folder)
    if state:
        program.resume(trained.training, state, folder, 9)


def make_weights(rng: random.Random, state: dict, odd: list) -> Content:
    if rng.random() < 0.1:
        state = {'state_dict': {f'module.{name}': value for name, value in state.items()}}
    for _ in range(rng.choice([0, 1, 1, 2])):
        state = damaged(rng, state, odd)
    return {'best.pt': saved(rng, state)}


def read_network(folder: Path) -> None:
    state = strip_wrappers(read_weights(folder / 'best.pt'))
    infer_num_classes(state, folder / 'best.pt')
    load_weights(AICL(2, 2, 3, 1 / 3, 8), state, folder / 'best.pt')


def make_curves(rng: random.Random) -> Content:
    arrays = dict(CURVES)
    for _ in range(rng.choice([0, 1, 1, 2])):
        name = rng.choice(list(CURVES))
        array = CURVES[name]
        others = [array.astype('S')] if array.dtype.kind == 'U' else [array.astype('<f8'), array * 0, -array]
        odd = [array[:-1], array[None], array[::-1], array.astype('U'), np.full_like(array, 5), np.array([]),
               np.array(3), np.array([np.nan]), np.zeros((2, 0)), np.array(['a', 'a']), *others]
        arrays[name] = rng.choice(odd)
        if rng.random() < 0.1:
            del arrays[name]
    content = io.BytesIO()
    rng.choice([np.savez, np.savez_compressed])(content, **arrays)
    return {'curves.npz': perhaps(rng, content.getvalue(), 0.4)}


def make_wtalc(rng: random.Random) -> Content:
    """W-TALC's one file and its annotations: arrays of objects, so pickles."""
    columns = {'I-I3D-JOINTFeatures': [FEATURES, FEATURES[:2]], 'videoname': [b'a', b'b'],
               'subset': [b'validation', b'test'], 'segments': [[[0.0, 1.5]], [[1.0, 2.0]]], 'labels': [['x'], ['y']],
               'labels_all': [['x', 'y'], ['y']], 'duration': [[3.5], [2.0]]}
    files = {}
    for name, column in columns.items():
        if rng.random() < 0.12:
            column = damaged(rng, column, [*ODD_VALUES, FEATURES, b'\xff', np.float64(3), np.array(['x'])])
        array = np.empty(len(column) if isinstance(column, list) else 1, object)
        array[:] = column if isinstance(column, list) else [column]
        content = io.BytesIO()
        np.save(content, array, allow_pickle=True)
        if rng.random() < 0.05:
            pickled = pickle.dumps(rng.choice([os.system, np.load, print, column]), protocol=rng.choice([0, 2, 4]))
            content = io.BytesIO(content.getvalue()[:128] + pickled)
        folder = '' if 'Features' in name else 'I-Annotations/'
        files[f'{folder}{name}.npy'] = perhaps(rng, content.getvalue(), 0.1)
    return files


def make_published(rng: random.Random) -> Content:
    """Feature files under odd names, with annotations, as somebody publishes them."""
    files = {'gt.json': damaged_json(rng, TRUTH) if rng.random() < 0.3 else json.dumps(TRUTH).encode()}
    ending = rng.choice(['', '_{}', '{}/'])
    for video in ('a', 'b', 'v_c')[:rng.randrange(1, 4)]:
        video = rng.choice([video] * 8 + ['é', 'a' * 200, '🙂', ' ', 'a b', '.a', 'a.npy', 'rgb'])
        for stream in ('rgb', 'flow'):
            name = ending.format(stream) + video if ending.endswith('/') else video + ending.format(stream)
            files[f'{name}.npy'] = damaged_array(rng, FEATURES) if rng.random() < 0.2 else array_file(FEATURES)
    return files


def make_data(rng: random.Random) -> Content:
    """A data folder with one file or more that is not as it should be."""
    files = {}
    for split, videos in (('train', 'bd'), ('test', 'ac')):
        base = rng.choice(['features/', 'features/', ''])
        for video in videos:
            for stream in ('rgb/', 'flow/'):
                whole = array_file(FEATURES) if rng.random() < 0.96 else damaged_array(rng, FEATURES)
                files[f'{base}{split}/{stream}{video}.npy'] = whole
        if rng.random() < 0.5:
            files[f'split_{split}.txt'] = damaged_table(rng, [[video] for video in videos])
    kind = rng.random()
    files['gt.json'] = damaged_json(rng, TRUTH) if rng.random() < 0.5 else json.dumps(TRUTH).encode()
    if kind < 0.3:
        files['labels.csv'] = damaged_table(rng, LABELS)
        del files['gt.json']
    if kind < 0.5:
        files['extraction.json'] = damaged_json(rng, EXTRACTED)
    return {name: content for name, content in files.items() if rng.random() < 0.99}


def read_data(folder: Path) -> None:
    truth = read_annotations(folder)
    for split in ('train', 'test'):
        found = find_split(folder, split, truth, truth.labels, ('rgb', 'flow'))
        found.summary(25, 16).lines()
        found.time_base(25, 16)
        read_rows(found.require().files[:1])


def array_file(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def read_rows(files: list) -> None:
    for file in files:
        streams = 1 if file.columns != slice(None) else len(file.paths)
        width = file.width * streams if file.columns == slice(None) else file.columns.stop - file.columns.start
        file.read(slice(None), np.empty((file.length, width), np.float32))


def make_loose(rng: random.Random) -> Content:
    files = make_published(rng)
    del files['gt.json']
    return files


def read_loose(folder: Path) -> None:
    found = find_flat_features(folder, ('rgb', 'flow'), 'auto')
    read_rows([found.inspect(paths) for paths in found.locate(found.names) if paths])


def make_scene(rng: random.Random) -> Content:
    truth = json.dumps(TRUTH).encode() if rng.random() < 0.5 else damaged_json(rng, TRUTH)
    return {'gt.json': truth, 'detections.json': damaged_json(rng, FOUND)}


def score(folder: Path) -> None:
    truth, detections = read_ground_truth(folder / 'gt.json'), read_detections(folder / 'detections.json')
    if len(truth.video):
        truth = scored_subset(truth, truth.videos[:1], truth.subsets[0])
    scores = evaluate(truth, detections, [0.1, 0.5, 0.95])
    assert np.isfinite(scores.ap).all() and ((scores.ap >= 0) & (scores.ap <= 1)).all()
    json.dumps(to_json(scores), allow_nan=False), format_table(scores)


def read_arguments(folder: Path) -> None:
    """As a resume takes them."""
    format_recipe(resolve_config(['--output_dir', str(folder.parent), '--exp_name', folder.name, '--resume']).args)


def read_beside(folder: Path) -> None:
    """What lies beside weights: names of classes, and the score of best F1."""
    args = argparse.Namespace(model_file=str(folder / 'best.pt'), data_path=str(folder), inference_only=True)
    program.load_class_names(args, read_ground_truth(folder / 'gt.json'), 2)
    program.default_min_score(args)


def read_record(folder: Path) -> None:
    own = Record(folder, 'test', ('rgb',), EXTRACTED['recipe'], EXTRACTED['weights'], EXTRACTED['versions'], False)
    own.open(['a'])
    (folder / 'a.mp4').touch()
    own.has('a', folder / 'a.mp4')


def either(read: Callable, name: str) -> Callable[[Path], object]:
    return lambda folder: read(folder / name)


def as_json(name: str, value: Any) -> Callable[[random.Random], Content]:
    return lambda rng: {name: damaged_json(rng, value)}


def as_table(name: str, rows: list[list]) -> Callable[[random.Random], Content]:
    return lambda rng: {name: damaged_table(rng, rows)}


def summary_files(rng: random.Random, args: dict) -> Content:
    """Of a training run, one damaged more often than the others."""
    which = rng.randrange(4)
    return {'args.json': damaged_json(rng, args) if which == 0 else json.dumps({**args, 'num_steps': 6}).encode(),
            'results.json': damaged_json(rng, {'best': SCORES, 'last': SCORES}) if which in (1, 3) else
            json.dumps({'best': SCORES, 'last': SCORES}).encode(),
            'metrics.csv': damaged_table(rng, METRICS) if which in (2, 3) else
            '\n'.join(map(','.join, METRICS)).encode()}


def get_readers(folder: Path) -> dict[str, Reader]:
    """All readers by name; a run is made in `folder` for them."""
    trained, odd, network = Trained(folder), [*ODD_VALUES, *odd_tensors()], AICL(2, 2, 3, 1 / 3, 8).state_dict()
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in I3D('rgb').state_dict().items()}
    i3d = {name: torch.ones(()).expand(shape) for name, shape in shapes.items()}
    return {
        'gt.json': Reader(as_json('gt.json', TRUTH), either(read_ground_truth, 'gt.json'), 6),
        'detections.json': Reader(as_json('d.json', FOUND), either(read_any, 'd.json'), 6),
        'the scorer': Reader(make_scene, score, 3),
        'labels.csv': Reader(as_table('labels.csv', LABELS), either(read_labels, 'labels.csv'), 6),
        'split file': Reader(as_table('split.txt', [['a'], ['v_b.npy'], ['c']]),
                             either(read_split_file, 'split.txt'), 6),
        'extraction.json': Reader(as_json('e.json', EXTRACTED), lambda folder: (
            read_durations(folder / 'e.json'), report.read_durations(folder / 'e.json')), 5),
        'extraction, gone on with': Reader(as_json('extraction.json', EXTRACTED), read_record, 4),
        'args.json': Reader(as_json('args.json', trained.args), read_arguments, 1.5),
        'beside weights': Reader(lambda rng: {
            'gt.json': json.dumps(TRUTH).encode(), 'labels.txt': damaged_table(rng, [['x'], ['y']]),
            'results.json': damaged_json(rng, {'best': SCORES, 'last': SCORES})}, read_beside, 3),
        'losses.csv': Reader(as_table('losses.csv', STEPS),
                             lambda folder: CSVLogger(folder / 'losses.csv', STEPS[0], 3), 4),
        'runs of a summary': Reader(lambda rng: summary_files(rng, trained.args), read_run, 1),
        'published numbers': Reader(as_json('p.json', PUBLISHED), either(read_published, 'p.json'), 4),
        'features': Reader(lambda rng: {'a.npy': damaged_array(rng, FEATURES)}, read_loose, 6),
        'flat features': Reader(make_loose, read_loose, 3),
        'data folder': Reader(make_data, read_data, 2),
        'converter': Reader(make_published, lambda folder: convert(folder, folder.with_name('new'), None, True), 1),
        'converter of W-TALC': Reader(make_wtalc, lambda folder: convert(
            folder / 'I-I3D-JOINTFeatures.npy', folder.with_name('new'), None, True), 1),
        'weights': Reader(lambda rng: make_weights(rng, network, odd), read_network, 2),
        'weights of I3D': Reader(lambda rng: {'i3d.pt': saved(rng, rng.choice([i3d, damaged(rng, i3d, odd)]))},
                                 lambda folder: read_i3d(folder / 'i3d.pt', 'rgb'), 0.05),
        'checkpoint': Reader(lambda rng: make_checkpoint(rng, trained.state, odd),
                             lambda folder: read_last(trained, folder), 0.8),
        'curves.npz': Reader(make_curves, either(read_curves, 'curves.npz'), 3)}


# ---- one input after the other --------------------------------------------------------------------------------------

watch: dict[str, Any] = {'base': None, 'found': []}


def audit(event: str, arguments: tuple) -> None:
    """Note what touches anything but the folder in `watch`; a hook cannot be taken off again."""
    if watch['base'] is None:
        return
    if event == 'open':
        path, _, flags = arguments
        writes = isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not os.fsdecode(path).startswith((watch['base'], '/dev/null')):
            watch['found'].append((event, path))
    elif event in ('os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink'):
        is_below = arguments[-1] != -1    # a name below an open folder, as rmtree takes it
        if not is_below and not str(arguments[0]).startswith(watch['base']):
            watch['found'].append((event, arguments[0]))
    elif event.startswith(('subprocess', 'os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'socket.connect',
                           'pickle.find_class')):
        watch['found'].append((event, arguments))


def empty(folder: Path) -> None:
    """Remove all that lies in a folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            empty(path)
            path.rmdir()
        else:
            path.unlink()


def try_to_read(reader: Reader, base: Path, files: Content) -> tuple[str, str]:
    """Put files there and read them: 'read', 'refused', 'no memory', or 'FAULT' and what it is."""
    empty(base)
    folder = base / 'input'
    folder.mkdir()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    watch.update(base=str(base), found=[])
    try:
        reader.read(folder)
        found = 'read', ''
    except InputError as error:
        message = str(error)
        is_line = message.isprintable() and len(message) < 2000
        found = ('refused', '') if is_line else ('FAULT', f'the message {message[:300]!r}')
    except MemoryError:
        found = 'no memory', ''
    except OSError as error:    # a command names the file
        found = ('refused', '') if error.filename else ('FAULT', traceback.format_exc())
    except SystemExit as error:    # of a command's parser
        found = ('refused', '') if error.code == 2 else ('FAULT', f'exit {error.code}')
    except BaseException:
        found = 'FAULT', traceback.format_exc()
    finally:
        watch['base'] = None
    return found if not watch['found'] else ('FAULT', f'touched {watch["found"]}')


def seeded(seed: int, name: str, number: int) -> random.Random:
    return random.Random(f'{seed} {name} {number}')


def work(reader: Reader, name: str, seed: int, numbers: range, base: Path, shared: mmap.mmap, results: Any) -> None:
    """In a process of its own: read the inputs, tell in `shared` which one it is at, and put what came of them."""
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    sys.addaudithook(audit)
    tally, longest, faults = Counter[str](), 0.0, []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    limit = int(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmSize'))) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit + 2 ** 32, limit + 2 ** 32))
    for number in numbers:
        shared[:8] = struct.pack('<q', number)
        began = time.process_time()
        outcome, what = try_to_read(reader, base, reader.make(seeded(seed, name, number)))
        seconds = time.process_time() - began
        longest = max(longest, seconds)
        tally[outcome] += 1
        if seconds > MAX_SECONDS:
            what += f' it took {seconds:.0f} s'
        if what:
            faults.append((number, what))
        if len(faults) > 20:
            break
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    results.send((tally, longest, more, faults))


def fuzz(reader: Reader, name: str, seed: int, numbers: range) -> tuple[Counter, float, float, list]:
    """Of these inputs: how many were read and refused, the most seconds of processor, bytes more, and the faults."""
    context, shared = multiprocessing.get_context('fork'), mmap.mmap(-1, 8)
    tally, longest, more, faults = Counter[str](), 0.0, 0.0, []
    while numbers and len(faults) < 20:
        with tempfile.TemporaryDirectory() as base:
            receive, send = context.Pipe(duplex=False)
            shared[:8] = struct.pack('<q', numbers[0])
            process = context.Process(target=work, args=(reader, name, seed, numbers, Path(base), shared, send))
            process.start()
            send.close()
            at, since = -1, time.monotonic()
            while process.is_alive() and time.monotonic() - since < PATIENCE and not receive.poll(0.2):
                if (now := struct.unpack('<q', shared[:8])[0]) != at:
                    at, since = now, time.monotonic()
            try:
                own = receive.recv() if receive.poll() else None
            except EOFError:
                own = None
            process.kill()
            process.join()
            if own:
                return tally + own[0], max(longest, own[1]), max(more, own[2]), faults + own[3]
            # It died, or hangs, over one input. What it had counted goes with it, but not how far it was.
            at = struct.unpack('<q', shared[:8])[0]
            faults.append((at, f'process ended with {process.exitcode}, or took more than {PATIENCE} s'))
            tally['not counted'] += at + 1 - numbers[0]
            numbers = range(at + 1, numbers[-1] + 1)
    return tally, longest, more, faults


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--inputs', type=int, default=1_000_000, help='over all readers')
    parser.add_argument('--readers', nargs='+')
    parser.add_argument('--first', type=int, default=0, help='number of the first input of each reader')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    began, counts, found = time.monotonic(), Counter[str](), []
    with tempfile.TemporaryDirectory() as folder:
        readers = get_readers(Path(folder))
        readers = {name: readers[name] for name in args.readers or readers}
        whole = sum(reader.weight for reader in readers.values())
        print('| reader | inputs | read | refused | of memory | longest (s) | memory more (MB) | faults |\n'
              '|---|---|---|---|---|---|---|---|', flush=True)
        for name, reader in readers.items():
            numbers = range(args.first, args.first + round(args.inputs * reader.weight / whole))
            tally, longest, more, faults = fuzz(reader, name, args.seed, numbers)
            counts += tally
            found += [(name, *fault) for fault in faults]
            if more > MAX_BYTES:
                found.append((name, 0, f'{more / 1e6:.0f} MB more'))
            print(f'| {name} | {tally.total()} | {tally["read"]} | {tally["refused"]} | {tally["no memory"]} | '
                  f'{longest:.2f} | {more / 1e6:.0f} | {len(faults)} |', flush=True)
    print(f'| all | {counts.total()} | {counts["read"]} | {counts["refused"]} | {counts["no memory"]} | | | '
          f'{len(found)} |\n\n{time.monotonic() - began:.0f} s')
    for name, number, what in found:
        print(f'\n{name}, input {number}: {what}')
    return bool(found)


if __name__ == '__main__':
    sys.exit(main())
