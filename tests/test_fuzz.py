"""Anything for the readers and the scorer: read, or refused in one line; no file touched, no hang, bounded memory.

    bash scripts/test.sh --long tests/test_fuzz.py -s     110,000 inputs, and what they took
"""
import io
import json
import os
import resource
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from runs import command
from test_files import FILES, LISTS, VALUES
from test_main import write_data

import main
from data_folder import FeatureFolder, read_split_file
from eval.curves import pick_curves, read_curves, write_curves
from eval.detection import evaluate, format_table, scored_subset, to_json
from eval.files import read_detections, read_ground_truth
from model import AICL, load_weights, num_classes_of, read_weights
from run import Checkpoint, digest, read_checkpoint, write_checkpoint
from training import TrainingState
from utils import InputError

MODEL = AICL(2, 2, 3, 1 / 3, 8)
MAX_SECONDS, MAX_BYTES = 10, 1e9    # for one input; that all may add to the process, hypothesis' own included


def weights_file(zipped):
    content = io.BytesIO()
    torch.save(MODEL.state_dict(), content, _use_new_zipfile_serialization=zipped)
    return content.getvalue()


def array_file(array, fortran=False):
    content = io.BytesIO()
    np.save(content, np.asfortranarray(array) if fortran else array)
    return content.getvalue()


def header_file(text):
    """A .npy file whose header is this text."""
    text = text.encode('latin1', 'replace')
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + bytes(64)


def made_by(write, folder, name):
    write(folder)
    return (folder / name).read_bytes()


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    """Whole files to damage."""
    folder = tmp_path_factory.mktemp('good')
    rng = np.random.default_rng(0)
    curves = pick_curves(['a', 'b'], ['x', 'y'], np.ones(2), np.array([4, 5]), rng.random((2, 6)), rng.random((2, 6)),
                         rng.random((2, 6, 2)), rng.random((2, 6, 2)), np.ones((2, 2), bool))
    training = TrainingState({'step': 3, 'rows_start': ['MT19937', torch.arange(9), 1, 0, 0.0]}, {}, MODEL.state_dict(),
                             {})
    state = Checkpoint({'lr': 1e-4}, {}, {}, training, {}, None)
    return {'weights': [weights_file(True), weights_file(False)], 'features': [
        array_file(np.ones((3, 4), np.float32)), array_file(np.ones((3, 4), np.float16), True)],
        'curves': [made_by(lambda f: write_curves(f / 'curves.npz', curves), folder, 'curves.npz')],
        'checkpoint': [made_by(lambda f: write_checkpoint(f, state), folder, 'checkpoint.pt')],
        'split': [b'video_1\r\nv_video_2\n', '\ufeffa\n../b\n'.encode()],
        'truth': [json.dumps({'database': {'v': {'subset': 'Test', 'annotations': [
            {'label': 'x', 'segment': [0, 1]}]}}}).encode()]}


def damaged(files):
    """One of these files with a few bytes changed, cut off, or with something between; or any bytes at all."""
    def damage(content, changes, cut, middle):
        content = bytearray(content)
        for place, value in changes:
            content[int(place * len(content))] = value
        at = int(cut * len(content))
        return bytes(content[:at] + middle + content[at:]) if cut < 0.5 else bytes(content[:2 * at - len(content)])

    place = st.floats(0, 1, exclude_max=True)
    changes = st.lists(st.tuples(place, st.integers(0, 255)), max_size=6)
    part = st.builds(damage, st.sampled_from(files), changes, st.just(0.0) | place, st.binary(max_size=8))
    changed = st.builds(damage, st.sampled_from(files), changes, st.just(0.0), st.just(b''))
    return part | changed | st.binary()


def read_feature(path):
    file = FeatureFolder(path.parent, 'two-stream', ('rgb',), [path.parent], [[path.stem]]).inspect((path,))
    file.read(slice(None), np.empty((file.length, file.width), np.float32))


def read_network(path):
    state = read_weights(path)
    num_classes_of(state, path)
    load_weights(AICL(2, 2, 3, 1 / 3, 8), state, path)


def read_last(path):
    path.rename(path.with_name('checkpoint.pt'))
    assert read_checkpoint(path.parent)


def score(path):
    truth, detections = read_ground_truth(path), read_detections(path)
    if len(truth.video):
        truth = scored_subset(truth, truth.videos[:1], truth.subsets[0])
    scores = evaluate(truth, detections, [0.1, 0.5, 0.95])
    assert np.isfinite(scores.ap).all() and ((scores.ap >= 0) & (scores.ap <= 1)).all()
    json.dumps(to_json(scores), allow_nan=False), format_table(scores)


DESCRIPTIONS = st.sampled_from(['<f4', '<f8', '>f2', '|O', '<i8', '|V9', '<f16', [('a', '<f4')], '']) | VALUES
SHAPES = st.lists(st.integers(-2, 9) | st.integers(), max_size=3).map(tuple) | VALUES
HEADERS = st.builds(lambda *values: header_file("{'descr': %r, 'fortran_order': %r, 'shape': %r, }\n" % values),
                    DESCRIPTIONS, st.booleans() | VALUES, SHAPES)
ANY_JSON = VALUES.map(lambda value: json.dumps(value).encode())
# Instances and detections of one label in one video, as the scorer seldom meets them by chance.
TIMES = st.floats(-1e12, 1e12) | st.integers(-3, 9)
ROWS = st.lists(st.fixed_dictionaries({
    'label': st.sampled_from('xy'), 'segment': st.lists(TIMES, min_size=2, max_size=2),
    'score': st.floats(allow_nan=False, allow_infinity=False)}), max_size=8)
SCENES = st.builds(lambda truth, found: json.dumps({
    'database': {name: {'subset': 'Test', 'annotations': rows} for name, rows in truth.items()},
    'results': found}).encode(),
    *[st.dictionaries(st.sampled_from(['a', 'v_b', 'c']), ROWS, max_size=3)] * 2)

READERS = {    # -> what reads a file, and any content for it
    'gt.json': (read_ground_truth, lambda good: FILES | ANY_JSON | damaged(good['truth'])),
    'detections.json': (read_detections, lambda good: FILES | ANY_JSON | st.builds(
        lambda rows: json.dumps({'results': {'v': rows}}).encode(), LISTS)),
    'the scorer': (score, lambda good: SCENES | FILES),
    'split file': (read_split_file, lambda good: st.text().map(str.encode) | damaged(good['split'])),
    'features': (read_feature, lambda good: HEADERS | damaged(good['features'])),
    'weights': (read_network, lambda good: damaged(good['weights'])),
    'checkpoint': (read_last, lambda good: damaged(good['checkpoint'])),
    'curves.npz': (read_curves, lambda good: damaged(good['curves']))}

watch = {'base': None, 'found': []}


def audit(event, arguments):
    """Note what touches anything but the folder in `watch`; a hook cannot be taken off again."""
    if watch['base'] is None:
        return
    if event == 'open':
        path, mode, flags = arguments
        writes = isinstance(path, (str, bytes)) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not os.fsdecode(path).startswith((watch['base'], '/dev/null')):
            watch['found'].append((event, path))
    elif event in ('os.remove', 'os.rename', 'os.mkdir', 'os.rmdir', 'os.link', 'os.symlink'):
        if not str(arguments[0]).startswith(watch['base']):
            watch['found'].append((event, arguments[0]))
    elif event.startswith(('subprocess', 'os.system', 'os.exec', 'os.fork', 'os.posix_spawn', 'socket.connect',
                           'pickle.find_class')):
        watch['found'].append((event, arguments))


@pytest.fixture(scope='module', autouse=True)
def hook():
    sys.addaudithook(audit)


def fuzz(name, good, folder, count):
    read, contents = READERS[name]
    tally, longest = {'read': 0, 'refused': 0}, [0.0]

    @settings(max_examples=count, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
              suppress_health_check=list(HealthCheck))
    @given(content=contents(good))
    def any_content(content):
        for old in folder.iterdir():
            old.unlink()
        path = folder / 'input.npy'
        path.write_bytes(content)
        began = time.monotonic()
        watch.update(base=str(folder), found=[])
        try:
            read(path)
            outcome = 'read'
        except InputError as error:
            outcome, message = 'refused', str(error)
            assert str(folder) in message or name == 'the scorer', message    # which knows no file
            assert message.isprintable() and len(message) < 2000, message
        finally:
            watch['base'] = None
        longest[0] = max(longest[0], time.monotonic() - began)
        assert not watch['found'] and longest[0] < MAX_SECONDS
        assert len(list(folder.iterdir())) == 1    # nothing new beside it
        tally[outcome] += 1

    read_once = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    any_content()
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(f'\n{name}: {sum(tally.values())} inputs, {tally["read"]} read, {tally["refused"]} refused, '
          f'{time.monotonic() - read_once:.0f} s, the longest {longest[0]:.2f} s, {more / 1e6:.0f} MB more')
    assert more < MAX_BYTES and min(tally.values()) > 0


@pytest.mark.parametrize('name', READERS)
def test_any_content_is_read_or_refused(name, good, tmp_path, capfd):
    fuzz(name, good, tmp_path, 150)


@pytest.mark.long
@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', READERS)
def test_very_many_contents_are_read_or_refused(name, good, tmp_path):
    fuzz(name, good, tmp_path, 5_000 if name == 'the scorer' else 15_000)


@pytest.mark.parametrize('value', [None, *(pytest.param(v, marks=pytest.mark.long) for v in (3, [], {}, 'x'))])
def test_a_checkpoint_of_another_shape_is_refused_in_one_line(tmp_path, capsys, value):
    """Whole and with a right digest, but not as this program writes it."""
    data = write_data(tmp_path / 'data')
    argv = command(data, tmp_path / 'run', steps=2)
    assert main.main(argv) == 0
    path = tmp_path / 'run' / 'checkpoint.pt'
    state = torch.load(path, weights_only=True)
    del state['digest']
    for name in state:
        changed = {**state, name: value}
        torch.save({**changed, 'digest': digest(changed)}, path)
        capsys.readouterr()
        found = main.main([*argv, '--resume'])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
        assert found == 0 and not said or found == 2 and len(said) == 1, (name, value)
