"""Feature files and folders in every layout, assumed layouts, broken files."""
import os
import shutil

import numpy as np
import pytest
from data_folders import error_of, features_of, open_split, save, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.features import FeatureFolder, Stream, find_flat_features, find_folder
from utils import InputError

BOTH = ('rgb', 'flow')


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def write_random(path, length, width):
    """Write and return features that differ between files: (length, width) float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.RandomState(len(str(path)) + length).rand(length, width).astype(np.float32)
    np.save(path, array)
    return array


def read(folder, name):
    """Return all rows of a video."""
    file = folder.inspect(folder.locate([name])[0])
    rows = np.empty((file.length, file.width * len(folder.modalities)), np.float32)
    file.read(slice(None), rows)
    return rows


# ---- layouts --------------------------------------------------------------------------------------------------------

def test_pairs_in_one_folder_are_two_streams(tmp_path):
    rgb, flow = (write_random(tmp_path / f'train/{stem}.npy', 5, 3) for stem in ('X_rgb', 'X_flow'))
    folder = find_folder(tmp_path, 'train', BOTH)
    assert folder.layout == 'paired' and folder.names == ['X'] and folder.layout_warning() is None
    np.testing.assert_array_equal(read(folder, 'X'), np.hstack([rgb, flow]))
    np.testing.assert_array_equal(read(find_folder(tmp_path, 'train', ('flow',)), 'v_X'), flow)


def test_a_file_without_its_pair_makes_the_layout_joint(tmp_path):
    for stem in ('X_rgb', 'X_flow', 'Y'):
        write_random(tmp_path / f'train/{stem}.npy', 5, 4)
    folder = find_folder(tmp_path, 'train', BOTH)
    assert folder.layout == 'joint' and folder.names == ['X_flow', 'X_rgb', 'Y']


def test_an_assumed_joint_layout_is_reported(tmp_path):
    array = write_random(tmp_path / 'train/X.npy', 4, 6)
    assumed, given = (find_folder(tmp_path, 'train', BOTH, layout) for layout in ('auto', 'joint'))
    assert '--layout' in assumed.layout_warning() and given.layout_warning() is None
    for folder in (assumed, given):
        np.testing.assert_array_equal(read(folder, 'X'), array)


def test_files_of_the_width_of_one_stream_are_not_halved(tmp_path):
    array = write_random(tmp_path / 'train/X.npy', 4, 1024)
    message = error_of(read, find_folder(tmp_path, 'train', BOTH), 'X')
    assert 'X.npy' in message and '--layout single' in message and '--layout joint' in message
    for folder in (find_folder(tmp_path, 'train', ('rgb',)), find_folder(tmp_path, 'train', ('flow',), 'single')):
        np.testing.assert_array_equal(read(folder, 'X'), array)
    half = read(find_folder(tmp_path, 'train', ('flow',), 'joint'), 'X')
    np.testing.assert_array_equal(half, array[:, 1024 // 2:])
    assert '--modal' in error_of(find_folder, tmp_path, 'train', BOTH, 'single')


def test_features_without_split_folders(tmp_path):
    joint = write_random(tmp_path / 'flat/X.npy', 4, 6)
    parts = [write_random(tmp_path / f'streams/{stream}/X.npy', 4, 3) for stream in BOTH]
    np.testing.assert_array_equal(read(find_flat_features(tmp_path / 'flat', BOTH), 'X'), joint)
    np.testing.assert_array_equal(read(find_flat_features(tmp_path / 'flat/X.npy', BOTH), 'X'), joint)
    np.testing.assert_array_equal(read(find_flat_features(tmp_path / 'streams', BOTH), 'X'), np.hstack(parts))
    (tmp_path / 'X.txt').write_text('no features')
    assert 'X.txt' in error_of(find_flat_features, tmp_path / 'X.txt', BOTH)
    assert 'no features found' in error_of(find_flat_features, tmp_path, BOTH)
    (tmp_path / 'half/rgb').mkdir(parents=True)
    assert '--modal rgb' in error_of(find_flat_features, tmp_path / 'half', BOTH)


@pytest.mark.parametrize('modalities', [BOTH, ('rgb',)])
def test_two_streams_are_not_called_incomplete_if_another_layout_is_requested(tmp_path, modalities):
    for stream in BOTH:
        write_random(tmp_path / f'train/{stream}/X.npy', 4, 3)
    message = error_of(find_folder, tmp_path, 'train', modalities, 'joint')
    assert 'other modality' not in message and '--layout joint' in message


# ---- types, shapes and broken files ---------------------------------------------------------------------------------

def test_a_larger_length_mismatch_is_an_error_with_the_video(folder):
    path = folder / 'features/train/flow/b.npy'
    np.save(path, np.load(path)[:-3])
    assert error_of(open_split, folder).startswith('b: 30 rgb rows but 27 flow rows')


def write_header(path, shape):
    """Write a header for `shape`, and 64 bytes of data."""
    with open(path, 'wb') as file:
        np.lib.format.write_array_header_1_0(file, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
        file.write(bytes(64))


BROKEN = {
    'empty': (lambda p: p.write_bytes(b''), 'not a readable .npy file'),
    'truncated': (lambda p: p.write_bytes(p.read_bytes()[:-1]), 'truncated: 239 of 240 bytes are there'),
    'half a header': (lambda p: p.write_bytes(p.read_bytes()[:20]), 'not a readable .npy file'),
    'text': (lambda p: p.write_text('hello'), 'not a readable .npy file'),
    'wrong shape': (lambda p: write_header(p, (10 ** 9, 1024)), 'truncated: 192 of 4096000000128 bytes are there'),
    'huge shape': (lambda p: write_header(p, (2 ** 62, 2 ** 62)), 'truncated: 192 of '),
    'shape beyond int64': (lambda p: write_header(p, (2 ** 80, 4)), 'truncated: 192 of '),
    'negative': (lambda p: write_header(p, (-4, 4)), 'found (-4, 4)'),
    'true as a number': (lambda p: write_header(p, (True, 4)), 'found (True, 4)'),
    'pickle': (lambda p: np.save(p, np.array([[{}]], object), allow_pickle=True), 'numbers, found object'),
    'archive': (lambda p: np.savez(open(p, 'wb'), np.ones((3, 4))), 'not a readable .npy file'),
    'folder': (lambda p: (p.unlink(), p.mkdir()), 'not a readable .npy file'),
    'one axis': (lambda p: np.save(p, np.ones(4)), 'shape (snippets, width), found (4,)'),
    'three axes': (lambda p: np.save(p, np.ones((1, 3, 4))), 'found (1, 3, 4)'),
    'no axis': (lambda p: np.save(p, np.float32(1)), 'found ()'),
    'integers': (lambda p: np.save(p, np.ones((3, 4), int)), 'floating point numbers, found int64'),
    'complex': (lambda p: np.save(p, np.ones((3, 4), complex)), 'floating point numbers, found complex128'),
    'no row': (lambda p: np.save(p, np.ones((0, 4), np.float32)), 'found (0, 4)'),
    'no column': (lambda p: np.save(p, np.ones((3, 0), np.float32)), 'found (3, 0)'),
}


@pytest.mark.parametrize('case', BROKEN)
def test_a_broken_file_is_reported_with_its_path(folder, case):
    spoil, expected = BROKEN[case]
    path = folder / 'features/train/rgb/a.npy'
    spoil(path)
    message = error_of(open_split, folder)
    assert message.startswith(f'{path}: ') and expected in message


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_array_or_an_input_error(tmp_path_factory, data):
    """Random bytes, and a good file with some bytes changed."""
    path = tmp_path_factory.mktemp('bytes') / 'x.npy'
    np.save(path, np.ones((3, 4), np.float32))
    good = path.read_bytes()
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=300))
    else:
        content = bytearray(good)
        change = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))
        for index, value in data.draw(st.lists(change, max_size=5)):
            content[index] = value
    path.write_bytes(content)
    try:
        folder = FeatureFolder(path.parent, 'two-stream', False, ('rgb',), [Stream(path.parent, ['x'], '.npy')])
        file = folder.inspect((path,))
        file.read(slice(None), np.empty((file.length, file.width), np.float32))
    except InputError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return
    assert file.length * file.width * file.dtype.itemsize <= len(content)


def test_a_pickle_is_never_executed(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'),)
    np.save(folder / 'features/train/rgb/a.npy', np.array([[Trap()]], object), allow_pickle=True)
    error_of(open_split, folder)
    assert not (tmp_path / 'executed').exists()


def test_widths_must_be_equal(folder):
    save(folder, 'train', 'a', features_of('a', 7, 5))
    assert 'a.npy: features have width 5 per modality, but 4 in' in error_of(open_split, folder)
    np.save(folder / 'features/train/rgb/a.npy', np.ones((7, 6), np.float32))
    assert error_of(open_split, folder).startswith('a: rgb features have width 6 but flow features 5')


def test_joint_files_have_an_even_width(folder):
    shutil.rmtree(folder / 'features')
    for name in 'bac':
        path = folder / 'train' / f'{name}.npy'
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.ones((3, 7), np.float32))
    assert 'must be even, found 7' in error_of(open_split, folder)


# ---- files of other programs ----------------------------------------------------------------------------------------

@pytest.mark.parametrize('names', [None, ['X', 'v_Z']])
def test_other_files_next_to_pairs_are_left_out(tmp_path, names):
    arrays = {stem: write_random(tmp_path / f'train/{stem}.npy', 5, 3)
              for stem in ('X_rgb', 'X_flow', 'Z_rgb', 'Z_flow')}
    np.save(tmp_path / 'train/mean.npy', np.ones(3))
    for name, array in (('X_fps', np.array(30.0)), ('X_timestamps_ms', np.arange(5.0)), ('Z_fps', np.array(30.0))):
        np.save(tmp_path / f'train/{name}.npy', array)
    folder = find_folder(tmp_path, 'train', BOTH, names=names)
    assert folder.layout == 'paired' and folder.names == ['X', 'Z']
    np.testing.assert_array_equal(read(folder, 'X'), np.hstack([arrays['X_rgb'], arrays['X_flow']]))


def test_the_listed_videos_decide_between_pairs_and_single_files(tmp_path):
    for stem in ('X_rgb', 'X_flow', 'Y', 'Z'):
        write_random(tmp_path / f'train/{stem}.npy', 5, 4)
    assert find_folder(tmp_path, 'train', BOTH, names=['X']).names == ['X']
    assert find_folder(tmp_path, 'train', BOTH, names=['Y', 'Z']).layout == 'joint'


def test_side_files_and_endings_of_streams_in_their_folders(tmp_path):
    for stream in BOTH:
        write_random(tmp_path / f'train/{stream}/X_{stream}.npy', 5, 3)
        np.save(tmp_path / f'train/{stream}/X_fps.npy', np.array(25.0))
    folder = find_folder(tmp_path, 'train', BOTH)
    assert folder.names == ['X'] and read(folder, 'X').shape == (5, 6)
    for stem in ('a', 'b_fps'):  # the last one is a video
        write_random(tmp_path / f'test/{stem}.npy', 5, 4)
    np.save(tmp_path / 'test/a_fps.npy', np.array(25.0))
    assert find_folder(tmp_path, 'test', BOTH).names == ['a', 'b_fps']


@pytest.mark.parametrize('width', [256, 512, 768, 1408, 4096])
def test_widths_of_single_networks_are_not_halved(tmp_path, width):
    array = write_random(tmp_path / 'train/X.npy', 2, width)
    assert '--layout single with --modal' in error_of(read, find_folder(tmp_path, 'train', BOTH), 'X')
    np.testing.assert_array_equal(read(find_folder(tmp_path, 'train', ('rgb',)), 'X'), array)


@pytest.mark.parametrize('suffix', ['npz', 'pt', 'csv', 'NPZ', 'NPY', 'h5', 'pkl'])
@pytest.mark.parametrize('folder', ['train', 'features/train/rgb'])
def test_other_file_formats_are_named_with_the_converter(tmp_path, suffix, folder):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / f'X.{suffix}').write_bytes(b'x')
    for find in (lambda: find_folder(tmp_path, 'train', ('rgb',)), lambda: find_flat_features(tmp_path / folder, BOTH)):
        message = error_of(find)
        assert f'contains .{suffix} files' in message
        assert ('numpy.save' if suffix in ('h5', 'pkl') else 'python -m scripts.convert') in message


def test_other_axes_are_named_with_the_converter(tmp_path):
    path = tmp_path / 'train/X.npy'
    write_random(path, 1024, 7)
    message = error_of(read, find_folder(tmp_path, 'train', BOTH), 'X')
    assert 'if the file is (width, snippets), python -m scripts.convert' in message
    for shape in (1, 5, 4), (5, 1, 4), (5, 4, 1, 1):
        np.save(path, np.ones(shape, np.float32))
        message = error_of(read, find_folder(tmp_path, 'train', BOTH), 'X')
        assert f'found {shape}; python -m scripts.convert' in message
    np.save(path, np.ones((2, 5, 4), np.float32))
    assert 'convert' not in error_of(read, find_folder(tmp_path, 'train', BOTH), 'X')


def test_files_with_time_as_second_axis_are_named_with_the_converter(folder):
    for name in 'abc':
        save(folder, 'train', name, np.ones((512, 8 + 2 * ord(name)), np.float32))
    message = error_of(open_split, folder)
    assert 'if the files are (width, snippets), python -m scripts.convert' in message
    for name in 'abc':  # all of one length
        save(folder, 'train', name, np.ones((1024, 8), np.float32))
    assert any('every video has 1024 rows' in line for line in open_split(folder).time_base(25, 16).warnings())
