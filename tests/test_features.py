"""Feature files in every layout that people have, and layouts that are a guess."""
import numpy as np
import pytest

from formats.features import I3D_WIDTH, find_folder, find_flat_features
from utils import InputError

BOTH = ('rgb', 'flow')


def save(path, length, width):
    """Features that differ from file to file, (length, width) float32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.RandomState(len(str(path)) + length).rand(length, width).astype(np.float32)
    np.save(path, array)
    return array


def read(folder, name):
    """All rows of a video, as the folder's layout has them."""
    file = folder.inspect(folder.locate([name])[0])
    rows = np.empty((file.length, file.width * len(folder.modalities)), np.float32)
    file.read(slice(None), rows)
    return rows


def complaint(call, *args):
    with pytest.raises(InputError) as error:
        call(*args)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_pairs_in_one_folder_are_two_streams(tmp_path):
    rgb, flow = (save(tmp_path / f'train/{stem}.npy', 5, 3) for stem in ('X_rgb', 'X_flow'))
    folder = find_folder(tmp_path, 'train', BOTH, 'auto', None)
    assert folder.layout == 'paired' and folder.names == ['X'] and not folder.guess()
    np.testing.assert_array_equal(read(folder, 'X'), np.hstack([rgb, flow]))
    np.testing.assert_array_equal(read(find_folder(tmp_path, 'train', ('flow',), 'auto', None), 'v_X'), flow)


def test_one_file_without_its_pair_is_no_pair(tmp_path):
    for stem in ('X_rgb', 'X_flow', 'Y'):
        save(tmp_path / f'train/{stem}.npy', 5, 4)
    folder = find_folder(tmp_path, 'train', BOTH, 'auto', None)
    assert folder.layout == 'joint' and folder.names == ['X_flow', 'X_rgb', 'Y']


def test_a_joint_layout_that_nobody_confirmed_is_said_to_be_a_guess(tmp_path):
    array = save(tmp_path / 'train/X.npy', 4, 6)
    guessed, said = (find_folder(tmp_path, 'train', BOTH, layout, None) for layout in ('auto', 'joint'))
    assert '--layout' in guessed.guess() and not said.guess()
    for folder in (guessed, said):
        np.testing.assert_array_equal(read(folder, 'X'), array)


def test_files_as_wide_as_one_stream_are_not_halved(tmp_path):
    array = save(tmp_path / 'train/X.npy', 4, I3D_WIDTH)
    message = complaint(read, find_folder(tmp_path, 'train', BOTH, 'auto', None), 'X')
    assert 'X.npy' in message and '--layout single' in message and '--layout joint' in message
    for folder in (find_folder(tmp_path, 'train', ('rgb',), 'auto', None),
                   find_folder(tmp_path, 'train', ('flow',), 'single', None)):
        np.testing.assert_array_equal(read(folder, 'X'), array)
    half = read(find_folder(tmp_path, 'train', ('flow',), 'joint', None), 'X')
    np.testing.assert_array_equal(half, array[:, I3D_WIDTH // 2:])
    assert '--modal' in complaint(find_folder, tmp_path, 'train', BOTH, 'single', None)


def test_features_that_lie_in_no_tree(tmp_path):
    joint = save(tmp_path / 'flat/X.npy', 4, 6)
    parts = [save(tmp_path / f'streams/{stream}/X.npy', 4, 3) for stream in BOTH]
    np.testing.assert_array_equal(read(find_flat_features(tmp_path / 'flat', BOTH, 'auto'), 'X'), joint)
    np.testing.assert_array_equal(read(find_flat_features(tmp_path / 'flat/X.npy', BOTH, 'auto'), 'X'), joint)
    np.testing.assert_array_equal(read(find_flat_features(tmp_path / 'streams', BOTH, 'auto'), 'X'), np.hstack(parts))
    (tmp_path / 'X.txt').write_text('no features')
    assert 'X.txt' in complaint(find_flat_features, tmp_path / 'X.txt', BOTH, 'auto')
    assert 'no features found' in complaint(find_flat_features, tmp_path, BOTH, 'auto')
    (tmp_path / 'half/rgb').mkdir(parents=True)
    assert '--modal rgb' in complaint(find_flat_features, tmp_path / 'half', BOTH, 'auto')


@pytest.mark.parametrize('modalities', [BOTH, ('rgb',)])
def test_streams_where_another_layout_is_asked_for_are_not_called_incomplete(tmp_path, modalities):
    for stream in BOTH:
        save(tmp_path / f'train/{stream}/X.npy', 4, 3)
    message = complaint(find_folder, tmp_path, 'train', modalities, 'joint', None)
    assert 'other modality' not in message and '--layout joint' in message
