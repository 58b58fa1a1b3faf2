"""Anything for all readers: read, or refused in one line; no file touched, no hang, no code run, bounded memory.

    bash scripts/test.sh --long tests/test_fuzz.py -s     also 100,000 inputs, and what came of them; see fuzz.py
"""
import io
import json
import subprocess
import sys
import zipfile

import fuzz
import numpy as np
import pytest
import torch
from runs import ROOT, command
from test_main import write_data

import main
from engine.checkpoint import sha256_of

HUGE = 10 ** 400    # more than a float can hold, and JSON may have it
NAMES = ['gt.json', 'detections.json', 'the scorer', 'labels.csv', 'split file', 'extraction.json',
         'extraction, gone on with', 'args.json', 'beside weights', 'losses.csv', 'runs of a summary',
         'published numbers', 'features', 'flat features', 'data folder', 'converter', 'converter of W-TALC',
         'weights', 'weights of I3D', 'checkpoint', 'curves.npz']


@pytest.fixture(scope='module')
def readers(tmp_path_factory):
    sys.addaudithook(fuzz.audit)
    return fuzz.get_readers(tmp_path_factory.mktemp('readers'))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', NAMES)
def test_damaged_files_are_read_or_refused(readers, tmp_path, name):
    assert sorted(NAMES) == sorted(readers)
    found = set()
    for number in range(3 if name == 'weights of I3D' else 30):
        outcome, what = fuzz.try_to_read(readers[name], tmp_path, readers[name].make(fuzz.seeded(7, name, number)))
        assert outcome != 'FAULT', f'{number}: {what}'
        found.add(outcome)
    assert 'read' in found    # whole files are among them


@pytest.mark.long
def test_very_many_are_read_or_refused():
    program = [sys.executable, 'tests/fuzz.py', '--inputs', '100000']
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- what was found in this way --------------------------------------------------------------------------------------

def as_json(value):
    return json.dumps(value).encode()


def table(*rows):
    return '\n'.join(map(','.join, [fuzz.STEPS[0], *rows])).encode()


def record(**changes):
    return {'extraction.json': as_json({**fuzz.EXTRACTED, **changes})}


def of_run(scores=fuzz.SCORES, metrics=fuzz.METRICS):
    return {'args.json': as_json({'num_steps': 6}), 'results.json': as_json({'best': scores, 'last': scores}),
            'metrics.csv': '\n'.join(map(','.join, metrics)).encode()}


def wtalc(**changes):
    """W-TALC's files, with other columns."""
    columns = {'I-I3D-JOINTFeatures': [fuzz.FEATURES], 'videoname': [b'a'], 'subset': [b'test'],
               'segments': [[[0.0, 1.5]]], 'labels': [['x']], **changes}
    files = {}
    for name, column in columns.items():
        array, content = np.empty(1, object), io.BytesIO()
        array[0] = column[0]
        np.save(content, array, allow_pickle=True)
        files[f'{"" if "Features" in name else "I-Annotations/"}{name}.npy'] = content.getvalue()
    return files


def nowhere():
    """Weights of I3D of which one lies on torch's device that holds nothing."""
    with torch.device('meta'):
        empty = fuzz.I3D('rgb').state_dict()
    state = {name: torch.ones(()).expand(value.shape) for name, value in empty.items()}
    name = next(name for name in empty if name.endswith('weight'))
    state[name] = empty[name]
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


class Short:
    """Pickled as an array of nine objects of which one is there: numpy reads on behind it, and crashes."""

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b'b'), (1, (9,), np.dtype(object), False, ['x'])


def curves_without_magic():
    content = io.BytesIO()
    np.savez(content, **fuzz.CURVES)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(changed := io.BytesIO(), 'w') as new:
        for name in old.namelist():
            new.writestr(name, b'aware' if name == 'aware.npy' else old.read(name))
    return {'curves.npz': changed.getvalue()}


ROW = ['0', *['0.5'] * 9]
DEEP = {'a': 1}
for _ in range(300):
    DEEP = {'a': DEEP}

FOUND = {    # -> the reader, its files, and what becomes of them
    'a table that is not UTF-8': ('losses.csv', {'losses.csv': table() + b'\n\xff,\xff'}, 'read'),
    'a step in raised digits': ('losses.csv', {'losses.csv': table(['\u00b2', *ROW])}, 'read'),
    'a step of 5,000 digits': ('losses.csv', {'losses.csv': table(['9' * 5000, *ROW])}, 'read'),
    'a cell beyond the limit of the parser': ('losses.csv', {'losses.csv': table(['x' * 200_000])}, 'read'),
    'infinity in a record': ('extraction, gone on with', record(versions={'torch': np.inf}), 'refused'),
    'a deep record': ('extraction, gone on with', record(versions=DEEP), 'refused'),
    'a recipe that cannot be printed': ('extraction, gone on with', record(recipe={'\n': '\ud800'}), 'refused'),
    'a recipe without end': ('extraction, gone on with', record(recipe={'fps': HUGE}), 'refused'),
    'a duration beyond floats': ('extraction.json', {'e.json': as_json({'videos': {'a': {'duration': HUGE}}})}, 'read'),
    'a published mAP beyond floats': ('published numbers', {'p.json': as_json(
        [{'source': 'x', 'average_mAP': HUGE}])}, 'refused'),
    'a published step without end': ('published numbers', {'p.json': as_json(
        [{'source': 'x', 'average_mAP': 0.5, 'step': np.inf}])}, 'refused'),
    'a step beyond floats': ('runs of a summary', of_run({**fuzz.SCORES, 'step': HUGE}), 'refused'),
    'a metric beyond floats': ('runs of a summary', of_run(metrics=[fuzz.METRICS[0], ['6', '1', str(HUGE), '1']]),
                               'refused'),
    'an AP beyond floats': ('runs of a summary', of_run({**fuzz.SCORES, 'AP': {'x': {'0.5': HUGE}}}), 'refused'),
    'a threshold beyond floats': ('beside weights', {
        'gt.json': as_json(fuzz.TRUTH), 'results.json': as_json({'best': {'threshold': {'score': HUGE}}})}, 'read'),
    'a name that leads to the root': ('converter of W-TALC', wtalc(videoname=[b'/']), 'refused'),
    'a name that leads upwards': ('converter of W-TALC', wtalc(videoname=[b'../../a']), 'refused'),
    'no name': ('converter of W-TALC', wtalc(videoname=[b'']), 'refused'),
    'a name that is not UTF-8': ('converter of W-TALC', wtalc(videoname=[b'\xff']), 'refused'),
    'an array with fewer objects than it says': ('converter of W-TALC', wtalc(labels=[Short()]), 'refused'),
    'features of unequal length': ('converter of W-TALC', wtalc(**{'I-I3D-JOINTFeatures': [[[1.0], [1.0, 2.0]]]}),
                                   'refused'),
    'a time that is no number': ('converter of W-TALC', wtalc(segments=[[[0.0, np.nan]]]), 'refused'),
    'a time beyond floats': ('converter of W-TALC', wtalc(segments=[[[0, HUGE]]]), 'refused'),
    'weights that are nowhere': ('weights of I3D', {'i3d.pt': nowhere()}, 'refused'),
    'bytes instead of an array': ('curves.npz', curves_without_magic(), 'refused'),
    'no data set': ('args.json', {'args.json': as_json({'dataset': None, 'data_path': 'd'})}, 'refused'),
    'no length': ('args.json', {'args.json': as_json({'num_steps': None, 'num_epochs': None, 'data_path': 'd'})},
                  'refused')}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('case', FOUND)
def test_what_was_found_stays_mended(readers, tmp_path, case):
    name, files, expected = FOUND[case]
    assert fuzz.try_to_read(readers[name], tmp_path, files) == (expected, '')


def test_the_name_of_a_file_is_printed_as_one_line(capfd):
    from utils import run_cli

    def command():
        raise OSError(2, 'No such file or directory', 'a\n\udcff')
    assert run_cli(command) == 2
    assert capfd.readouterr().err == 'error: a\\n\\udcff: No such file or directory\n'


@pytest.mark.parametrize('value', [None, *(pytest.param(v, marks=pytest.mark.long) for v in (3, [], {}, 'x'))])
def test_a_checkpoint_of_another_shape_is_refused_in_one_line(tmp_path, capsys, value):
    """Whole and with a right sha256_of, but not as this program writes it."""
    data = write_data(tmp_path / 'data')
    argv = command(data, tmp_path / 'run', steps=2)
    assert main.main(argv) == 0
    path = tmp_path / 'run' / 'checkpoint.pt'
    state = torch.load(path, weights_only=True)
    del state['digest']
    for name in state:
        changed = {**state, name: value}
        torch.save({**changed, 'digest': sha256_of(changed)}, path)
        capsys.readouterr()
        found = main.main([*argv, '--resume'])
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
        assert found == 0 and not said or found == 2 and len(said) == 1, (name, value)
