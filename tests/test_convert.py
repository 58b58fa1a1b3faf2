"""The converter: every published layout becomes the same data folder, and its source does not change."""
import json
import os
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from formats.annotations import read_annotations
from formats.data_folder import find_split
from scripts import convert
from utils import InputError, run_cli

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 6
LENGTHS = {'video_validation_01': 9, 'video_validation_02': 4, 'video_test_01': 7, 'video_test_02': 11}
TRAIN, TEST = (tuple(name for name in LENGTHS if subset in name) for subset in ('validation', 'test'))


def features() -> dict[str, np.ndarray]:
    """Return (L, 2 WIDTH) of every video; no two numbers are equal."""
    random = np.random.RandomState(0)
    return {name: random.rand(length, 2 * WIDTH).astype(np.float32) for name, length in LENGTHS.items()}


def annotations() -> dict:
    """Return annotations like ActionFormer's thumos14.json: more keys, capital subsets, frames next to seconds."""
    return {'version': 'Thumos14-30fps', 'database': {
        name: {'subset': 'Validation' if name in TRAIN else 'Test', 'duration': length * 0.64, 'fps': 30.0,
               'annotations': [{'label': 'Dive' if '01' in name else 'Jump', 'segment': [0.5, 2.0],
                                'segment(frames)': [15.0, 60.0], 'label_id': 0}]}
        for name, length in LENGTHS.items()}}


def save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        path = folder / f'{name}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)


def halves() -> dict[str, dict[str, np.ndarray]]:
    return {name: {'rgb': array[:, :WIDTH], 'flow': array[:, WIDTH:]} for name, array in features().items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def check(dest: Path) -> None:
    """Check that the converted folder has both splits, the labels and every number of every feature."""
    gt = read_annotations(dest)
    for split, names in (('train', TRAIN), ('test', TEST)):
        result = find_split(dest, split, gt, gt.labels, ('rgb', 'flow'))
        assert tuple(result.names) == names and result.members.source == f'split_{split}.txt' and not result.problems
        for name, file in zip(result.names, result.files):
            out = np.empty((LENGTHS[name], 2 * WIDTH), np.float32)
            file.read(slice(None), out)
            np.testing.assert_array_equal(out, features()[name])


def write_layout(root: Path, layout: str) -> Path:
    """Write the features in a published layout with their annotations; returns the SOURCE."""
    root.mkdir()
    if layout != 'W-TALC':
        (root / 'annotations').mkdir()
        (root / 'annotations' / 'thumos14.json').write_text(json.dumps(annotations()))
        (root / 'annotations' / 'scores.json').write_text('[1, 2]')
    if layout == 'joint':
        save(root / 'i3d_features', features())
        return root
    if layout == 'suffixes':
        save(root / 'i3d', {f'{name}_{stream}': a for name, arrays in halves().items() for stream, a in arrays.items()})
        return root / 'i3d'
    if layout == 'stream folders':
        save(root / 'I3D', {f'{stream.upper()}/{name}': a for name, arrays in halves().items()
                            for stream, a in arrays.items()})
        return root
    if layout == 'leading axis':
        save(root / 'x', {name: array[None] for name, array in features().items()})
    if layout == 'trailing axes':
        save(root / 'x', {name: array[:, :, None, None] for name, array in features().items()})
    if layout == 'time second':
        save(root / 'x', {name: array.T for name, array in features().items()})
    if layout == 'W-TALC':
        return write_wtalc(root)
    return root


def ragged(rows: list) -> np.ndarray:
    array = np.empty(len(rows), object)
    array[:] = rows
    return array


def write_wtalc(root: Path, **other: np.ndarray) -> Path:
    """Write the seven arrays of W-TALC, texts as bytes; those of CO2-Net are the same."""
    entries = annotations()['database'].values()
    columns = {'videoname': np.array(list(LENGTHS), 'S'), 'duration': np.array([[e['duration']] for e in entries]),
               'subset': np.array([e['subset'].lower() for e in entries], 'S'),
               'classlist': np.array([b'Dive', b'Jump']),
               'segments': ragged([[a['segment'] for a in e['annotations']] for e in entries]),
               'labels': ragged([[a['label'] for a in e['annotations']] for e in entries]),
               'labels_all': ragged([[a['label'] for a in e['annotations']] for e in entries])} | other
    save(root / 'Thumos14reduced-Annotations', columns)
    path = root / 'Thumos14reduced-I3D-JOINTFeatures.npy'
    np.save(path, ragged(list(features().values())), allow_pickle=True)
    return path


@pytest.mark.parametrize('layout, done', [
    ('joint', '4 arrays linked'), ('suffixes', '8 arrays linked'), ('stream folders', '8 arrays linked'),
    ('leading axis', '4 arrays written as (snippets, width)'),
    ('trailing axes', '4 arrays written as (snippets, width)'),
    ('time second', '4 arrays written with time as the first axis'),
    ('W-TALC', '4 arrays written as (snippets, width)')])
def test_a_published_layout_becomes_a_data_folder_and_does_not_change(tmp_path, capsys, layout, done):
    source = write_layout(tmp_path / 'thumos', layout)
    before = contents(tmp_path / 'thumos')
    convert.convert(source, tmp_path / 'data', None, copy=False)
    check(tmp_path / 'data')
    output = capsys.readouterr().out
    assert done in output and '2 training and 2 test videos' in output
    assert output.endswith(f'check    python main.py --data_path {tmp_path / "data"} --check\n')
    assert contents(tmp_path / 'thumos') == before
    assert sorted(os.listdir(tmp_path)) == ['data', 'thumos']


def test_the_printed_check_finds_no_problem(tmp_path, capsys):
    convert.convert(write_layout(tmp_path / 'thumos', 'joint'), tmp_path / 'my data', None, copy=False)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:3] == ['check', 'python', 'main.py']
    assert main.main(command[3:]) == 0, capsys.readouterr().out


def test_copies_do_not_need_their_source(tmp_path):
    source = write_layout(tmp_path / 'thumos', 'joint')
    convert.convert(source, tmp_path / 'data', None, copy=True)
    source.rename(tmp_path / 'gone')
    check(tmp_path / 'data')


def test_lists_in_the_source_override_subsets_and_videos_in_no_split_are_printed(tmp_path, capsys):
    source = write_layout(tmp_path / 'thumos', 'joint')
    (source / 'split_train.txt').write_text('video_test_01\nmoon\n')
    (source / 'split_test.txt').write_text('v_video_test_02\n')
    convert.convert(source, tmp_path / 'data', None, copy=False)
    assert (tmp_path / 'data' / 'split_train.txt').read_text() == 'video_test_01\n'
    assert (tmp_path / 'data' / 'split_test.txt').read_text() == 'video_test_02\n'
    output = capsys.readouterr().out
    assert '1 video of split_train.txt without features, left out: moon' in output
    assert '2 videos in no split: video_validation_01, video_validation_02' in output


def test_without_annotations_all_videos_are_test_videos(tmp_path, capsys):
    source = write_layout(tmp_path / 'thumos', 'suffixes')
    (tmp_path / 'thumos' / 'annotations' / 'thumos14.json').unlink()
    convert.convert(source, tmp_path / 'data', None, copy=False)
    assert 'no annotations (--annotations FILE): all videos are test videos' in capsys.readouterr().out
    assert not (tmp_path / 'data' / 'gt.json').exists() and not (tmp_path / 'data' / 'split_train.txt').exists()
    result = find_split(tmp_path / 'data', 'test', read_annotations(tmp_path / 'data'), [], ('rgb', 'flow'))
    assert result.names == sorted(LENGTHS) and not result.problems


def test_a_single_stream_stays_single(tmp_path):
    save(tmp_path / 'x', {f'{name}_flow': arrays['flow'] for name, arrays in halves().items()})
    convert.convert(tmp_path / 'x', tmp_path / 'data', None, copy=False)
    result = find_split(tmp_path / 'data', 'test', read_annotations(tmp_path / 'data'), [], ('flow',))
    assert result.names == sorted(LENGTHS) and not result.problems


@pytest.mark.parametrize('shapes, time_first', [
    ([(9, 1024), (4, 1024)], True), ([(1024, 9), (1024, 4)], False),  # different lengths
    ([(50, 1024), (50, 1024)], True), ([(1024, 50)] * 2, False), ([(2048, 50)], False),  # a usual width
    ([(50, 64)], True), ([(1024, 2048)], True), ([(1024, 1024)], True)])
def test_which_axis_is_time(shapes, time_first):
    assert convert.has_time_first(shapes, 'rgb') == time_first


def test_labels_of_wtalc_without_times_become_tags(tmp_path):
    tags = ragged([['Dive', 'Swim'], ['Jump'], ['Dive'], ['Jump']])
    path = write_wtalc(tmp_path, labels_all=tags)
    convert.convert(path, tmp_path / 'data', None, copy=False)
    database = json.loads((tmp_path / 'data' / 'gt.json').read_text())['database']
    assert database['video_validation_01'] == {
        'subset': 'validation', 'duration': pytest.approx(9 * 0.64),
        'annotations': [{'label': 'Dive', 'segment': [0.5, 2.0]}, {'label': 'Swim'}]}
    assert database['video_validation_02']['annotations'] == [{'label': 'Jump', 'segment': [0.5, 2.0]}]


def test_arrays_pickled_by_python_2_are_read(tmp_path):
    """np.save of Python 2 wrote protocol 2, with texts as byte strings: these are the opcodes."""
    def python2_string(value: str) -> bytes:
        return b'U' + bytes([len(value)]) + value.encode()

    path = tmp_path / 'labels.npy'
    np.save(path, ragged([['x']]), allow_pickle=True)
    header = path.read_bytes()[:128]
    inner = b'](' + python2_string('Dive') + python2_string('Jump') + b'e'  # a list of two
    state = (b'(K\x01K\x01\x85cnumpy\ndtype\n' + python2_string('O8') + b'K\x00K\x01\x87R(K\x03' + python2_string('|')
             + b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb\x89](' + inner + b'etb')
    body = b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85' + python2_string('b') + b'\x87R'
    path.write_bytes(header + body + state + b'.')
    assert convert.load_objects(path) == [['Dive', 'Jump']]


class Attack:
    def __reduce__(self):
        return os.system, ('touch attacked',)


def test_a_pickle_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wtalc(tmp_path, segments=ragged([Attack(), Attack(), Attack(), Attack()]))
    path = tmp_path / 'Thumos14reduced-I3D-JOINTFeatures.npy'
    with pytest.raises(InputError, match='segments.npy: not an array of only arrays and lists .*system'):
        convert.convert(path, tmp_path / 'data', None, copy=False)
    assert not (tmp_path / 'attacked').exists() and not (tmp_path / 'data').exists()
    for module, name in (('builtins', 'eval'), ('os', 'system'), ('numpy', 'load'), ('numpyx', 'dtype')):
        with pytest.raises(pickle.UnpicklingError):
            convert.ArraysOnly(open(os.devnull, 'rb')).find_class(module, name)


# ---- what is refused ------------------------------------------------------------------------------------------------

def spoil(name: str, change) -> None:
    path = next(Path().rglob(f'{name}.npy'))
    np.save(path, change(np.load(path)))


@pytest.mark.parametrize('damage, named', [
    (lambda: spoil('video_test_01', lambda a: np.stack([a] * 10)), ['video_test_01.npy', '(10, 7, 12)', 'crops']),
    (lambda: spoil('video_test_01', lambda a: a.astype(int)), ['video_test_01.npy', 'int64']),
    (lambda: spoil('video_test_01', lambda a: a[:, :5]), ['different widths', '(7, 5)']),
    (lambda: next(Path().rglob('video_test_01.npy')).write_bytes(b''), ['video_test_01.npy']),
    (lambda: np.save('thumos/video_test_01.npy', np.zeros((3, 12))), ['i3d_features/video_test_01.npy', 'same']),
    (lambda: np.save('thumos/video_test_09_rgb.npy', np.zeros((3, 12))), ['video_test_09', 'rgb']),
    (lambda: Path('data').mkdir() or Path('data/mine').touch(), ['data', 'not empty']),
    (lambda: Path('thumos/gt.json').write_text(json.dumps(annotations())), ['--annotations', 'thumos14.json']),
    (lambda: [path.unlink() for path in Path().rglob('*.npy')], ['no .npy file']),
    (lambda: Path('thumos').rename('elsewhere'), ['thumos: not found']),
    (lambda: [path.rename(path.with_name(f'other_{path.name}')) for path in Path().rglob('*.npy')],
     ['thumos: none of its 4 videos is in a split', "'other_video_test_01'", "'video_validation_01'"])])
def test_a_wrong_source_is_refused_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, damage, named):
    write_layout(tmp_path / 'thumos', 'joint')
    monkeypatch.chdir(tmp_path)
    damage()
    before = sorted(os.listdir())
    monkeypatch.setattr(sys, 'argv', ['convert.py', 'thumos', 'data'])
    assert run_cli(convert.main) == 2
    message = capsys.readouterr().err
    assert message.startswith('error: ') and message.count('\n') == 1, message
    assert all(part in message for part in named), message
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize('form', [('-m', 'scripts.convert'), ('scripts/convert.py',)])
def test_the_command(tmp_path, form):
    source = write_layout(tmp_path / 'thumos', 'joint')
    command = [sys.executable, *form, source, tmp_path / 'data', '--copy']
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0 and not ended.stderr and '4 arrays copied' in ended.stdout
    check(tmp_path / 'data')


def test_invalid_annotations_are_named(tmp_path):
    source = write_layout(tmp_path / 'thumos', 'joint')
    (tmp_path / 'mine.json').write_text('{')
    with pytest.raises(InputError, match=f'^{tmp_path}/mine.json: not a valid JSON file'):
        convert.convert(source, tmp_path / 'data', tmp_path / 'mine.json', copy=False)


def test_a_destination_that_cannot_be_written_is_named(tmp_path):
    source = write_layout(tmp_path / 'thumos', 'joint')
    (tmp_path / 'file').write_text('mine')
    with pytest.raises(InputError, match='file/data: cannot be written: Not a directory'):
        convert.convert(source, tmp_path / 'file' / 'data', None, copy=False)


def test_a_destination_in_the_source_is_refused(tmp_path):
    source = write_layout(tmp_path / 'thumos', 'joint')
    with pytest.raises(InputError, match='which is not changed'):
        convert.convert(source, source / 'data', None, copy=False)


@pytest.mark.parametrize('suffix', ['.npz', '.pt', '.csv', '.NPY'])
def test_other_file_formats_are_converted(tmp_path, suffix):
    source, arrays = tmp_path / 'source', features()
    source.mkdir()
    for name, array in arrays.items():
        if suffix == '.npz':
            np.savez(source / name, feats=array, fps=30.0)
        elif suffix == '.NPY':
            with open(source / f'{name}.NPY', 'wb') as file:
                np.save(file, array)
            (source / f'._{name}.npy').write_bytes(b'of macOS')
        elif suffix == '.pt':
            torch.save({'features': torch.from_numpy(array)}, source / f'{name}.pt')
        else:
            np.savetxt(source / f'{name}.csv', array, delimiter=',')
    convert.convert(source, tmp_path / 'data', None, False)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.load(tmp_path / f'data/features/test/{name}.npy'), array)


def test_side_files_of_video_features_are_left_out(tmp_path):
    save(tmp_path / 'source', {f'a_{kind}': np.ones((3, 4), np.float32) for kind in ('rgb', 'flow')})
    save(tmp_path / 'source', {'a_fps': np.array(30.0), 'a_timestamps_ms': np.arange(3.0)})
    convert.convert(tmp_path / 'source', tmp_path / 'data', None, False)
    assert sorted(path.name for path in (tmp_path / 'data').rglob('*.npy')) == ['a.npy', 'a.npy']


def test_a_source_without_features_is_an_error(tmp_path):
    assert run_cli(lambda: convert.convert(tmp_path, tmp_path.with_name('data'), None, False)) == 2
