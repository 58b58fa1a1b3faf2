"""Damaged input files are read, or refused in one line; nothing else is touched, no code is run, memory is bounded."""
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from runs import ROOT, command
from stress import fuzz
from test_main import write_data

import main
from engine.checkpoint import sha256_of

HUGE = 10 ** 400  # more than a float can represent; valid in JSON
NAMES = ['gt.json', 'detections.json', 'scoring', 'labels.csv', 'split list', 'durations', 'resumed extraction',
         'args.json', 'next to weights', 'losses.csv', 'summary', 'published numbers', 'features', 'flat features',
         'data folder', 'converter', 'converter of W-TALC', 'weights', 'I3D weights', 'checkpoint', 'curves.npz']


@pytest.fixture(scope='module')
def readers(tmp_path_factory):
    sys.addaudithook(fuzz.audit)
    return fuzz.get_readers(tmp_path_factory.mktemp('readers'))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', NAMES)
def test_damaged_files_are_read_or_refused(readers, name):
    assert sorted(NAMES) == sorted(readers)
    outcomes, faults = fuzz.fuzz(readers[name], name, 7, range(6 if name == 'I3D weights' else 30))
    assert not faults
    assert outcomes['read']  # undamaged files are among them


@pytest.mark.long
def test_many_damaged_files_are_read_or_refused():
    done = subprocess.run([sys.executable, 'tests/stress/fuzz.py', '--inputs', '100000'], cwd=ROOT,
                          capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- faults that were found this way --------------------------------------------------------------------------------

def as_json(value):
    return json.dumps(value).encode()


def as_csv(*rows):
    return '\n'.join(map(','.join, rows)).encode()


def losses(*rows):
    return {'l.csv': as_csv(fuzz.LOSSES[0], *rows)}


def extraction(**changes):
    return {'extraction.json': as_json({**fuzz.EXTRACTION, **changes})}


def published(**changes):
    return {'p.json': as_json([{'source': 'x', 'average_mAP': 0.5, **changes}])}


def run_files(scores=fuzz.SCORES, metrics=fuzz.METRICS):
    return {'args.json': as_json({'num_steps': 6}), 'results.json': as_json({'best': scores, 'last': scores}),
            'metrics.csv': as_csv(*metrics)}


def args_json(**changes):
    return {'args.json': as_json({'data_path': 'd', **changes})}


def wtalc(**changes):
    """Return the files of W-TALC for one video, with some columns replaced."""
    columns = {'I-I3D-JOINTFeatures': fuzz.FEATURES, 'videoname': b'a', 'subset': b'test', 'segments': [[0.0, 1.5]],
               'labels': ['x'], **changes}
    return {f'{"" if "Features" in name else "I-Annotations/"}{name}.npy': fuzz.object_array([value])
            for name, value in columns.items()}


def weights_on_meta():
    """Return weights of I3D of which one is on torch's meta device, without content."""
    with torch.device('meta'):
        empty = fuzz.i3d.I3D('rgb').state_dict()
    state = {name: torch.ones(()).expand(value.shape) for name, value in empty.items()}
    name = next(name for name in empty if name.endswith('weight'))
    state[name] = empty[name]
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


class ShortArray:
    """Pickled as an array of nine objects with only one: numpy reads beyond the end and crashes."""

    def __reduce__(self):
        return np.empty(0).__reduce__()[0], (np.ndarray, (0,), b'b'), (1, (9,), np.dtype(object), False, ['x'])


def curves_without_magic():
    content = io.BytesIO()
    np.savez(content, **fuzz.CURVES)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(changed := io.BytesIO(), 'w') as new:
        for name in old.namelist():
            new.writestr(name, b'aware' if name == 'aware.npy' else old.read(name))
    return changed.getvalue()


ROW = ['0', *['0.5'] * 9]
DEEP = {'a': 1}
for _ in range(300):
    DEEP = {'a': DEEP}

FOUND = {  # case: reader, its files, expected outcome
    'a CSV file that is not UTF-8': ('losses.csv', {'l.csv': losses()['l.csv'] + b'\n\xff,\xff'}, 'read'),
    'a step in superscript digits': ('losses.csv', losses(['\u00b2', *ROW]), 'read'),
    'a step of 5,000 digits': ('losses.csv', losses(['9' * 5000, *ROW]), 'read'),
    'a cell beyond the limit of the parser': ('losses.csv', losses(['x' * 200_000]), 'read'),
    'infinity in extraction.json': ('resumed extraction', extraction(versions={'torch': np.inf}), 'refused'),
    'deep nesting in extraction.json': ('resumed extraction', extraction(versions=DEEP), 'refused'),
    'a recipe that cannot be printed': ('resumed extraction', extraction(recipe={'\n': '\ud800'}), 'refused'),
    'a huge frame rate': ('resumed extraction', extraction(recipe={'fps': HUGE}), 'refused'),
    'a duration beyond floats': ('durations', {'e.json': as_json({'videos': {'a': {'duration': HUGE}}})}, 'read'),
    'a published mAP beyond floats': ('published numbers', published(average_mAP=HUGE), 'refused'),
    'an infinite published step': ('published numbers', published(step=np.inf), 'refused'),
    'a step beyond floats': ('summary', run_files({**fuzz.SCORES, 'step': HUGE}), 'refused'),
    'a metric beyond floats': ('summary', run_files(metrics=[fuzz.METRICS[0], ['6', '1', str(HUGE), '1']]), 'refused'),
    'an AP beyond floats': ('summary', run_files({**fuzz.SCORES, 'AP': {'x': {'0.5': HUGE}}}), 'refused'),
    'a threshold beyond floats': ('next to weights', {
        'gt.json': as_json(fuzz.GT), 'results.json': as_json({'best': {'threshold': {'score': HUGE}}})}, 'read'),
    'the root as a name': ('converter of W-TALC', wtalc(videoname=b'/'), 'refused'),
    'a parent folder as a name': ('converter of W-TALC', wtalc(videoname=b'../../a'), 'refused'),
    'an empty name': ('converter of W-TALC', wtalc(videoname=b''), 'refused'),
    'a name that is not UTF-8': ('converter of W-TALC', wtalc(videoname=b'\xff'), 'refused'),
    'an array with fewer objects than its shape': ('converter of W-TALC', wtalc(labels=ShortArray()), 'refused'),
    'features of unequal length': ('converter of W-TALC', wtalc(**{'I-I3D-JOINTFeatures': [[1.0], [1.0, 2.0]]}),
                                   'refused'),
    'a NaN time': ('converter of W-TALC', wtalc(segments=[[0.0, np.nan]]), 'refused'),
    'a time beyond floats': ('converter of W-TALC', wtalc(segments=[[0, HUGE]]), 'refused'),
    'weights on the meta device': ('I3D weights', {'i3d.pt': weights_on_meta()}, 'refused'),
    'bytes instead of an array': ('curves.npz', {'curves.npz': curves_without_magic()}, 'refused'),
    'no data set': ('args.json', args_json(dataset=None), 'refused')}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('case', FOUND)
def test_fixed_faults_stay_fixed(readers, case):
    name, files, expected = FOUND[case]
    assert fuzz.try_to_read(readers[name], files) == (expected, '')


def test_the_name_of_a_file_is_printed_in_one_line(capfd):
    from utils import run_cli

    def command():
        raise OSError(2, 'No such file or directory', 'a\n\udcff')
    assert run_cli(command) == 2
    assert capfd.readouterr().err == 'error: a\\n\\udcff: No such file or directory\n'


def test_a_checkpoint_with_an_empty_part_is_refused_in_one_line(tmp_path, capsys):
    """With a matching digest, but not as this program writes it."""
    argv = command(write_data(tmp_path / 'data'), tmp_path / 'run', steps=2)
    assert main.main(argv) == 0
    path = tmp_path / 'run' / 'checkpoint.pt'
    state = torch.load(path, weights_only=True)
    del state['digest']
    for name in state:
        changed = {**state, name: None}
        torch.save({**changed, 'digest': sha256_of(changed)}, path)
        capsys.readouterr()
        status = main.main([*argv, '--resume'])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
        assert status == 0 and not errors or status == 2 and len(errors) == 1, name
