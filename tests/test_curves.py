"""The curves file: its content and precision, and errors for other files."""
import os

import numpy as np
import pytest

from eval.curves import ACTION, BACKGROUND, INCONSISTENT, Curves, pick_curves, read_curves, regions, write_curves
from utils import InputError

VIDEOS, LABELS = ['a', 'v_b', 'ünï <c>'], ['Run', 'Jump', 'x' * 300]


@pytest.fixture
def outputs() -> dict:
    rng = np.random.default_rng(0)
    return dict(seconds=np.array([0.5, 1.25, 2]), num_snippets=np.array([10, 20, 30]),
                aware=rng.random((3, 40), np.float32), agnostic=rng.random((3, 40), np.float32),
                selection=rng.random((3, 40, 3), np.float32), cas=rng.normal(0, 10, (3, 40, 3)).astype(np.float32),
                keep=np.array([[True, False, True], [False, False, False], [False, True, False]]))


@pytest.fixture
def path(tmp_path, outputs):
    path = tmp_path / 'curves.npz'
    write_curves(path, pick_curves(VIDEOS, LABELS, **outputs))
    return path


def test_round_trip_with_the_classes_that_matter(path, outputs):
    curves = read_curves(path)
    assert (curves.videos, curves.labels) == (VIDEOS, LABELS)
    assert list(zip(curves.video.tolist(), curves.label.tolist())) == [(0, 0), (0, 2), (2, 1)]
    assert np.array_equal(curves.aware, outputs['aware']) and np.array_equal(curves.agnostic, outputs['agnostic'])
    assert np.array_equal(curves.seconds, outputs['seconds']) and np.array_equal(curves.num_snippets, [10, 20, 30])
    for name in ('selection', 'cas'):
        assert getattr(curves, name).dtype == np.float16
        for row, (video, label) in enumerate([(0, 0), (0, 2), (2, 1)]):
            np.testing.assert_allclose(getattr(curves, name)[row], outputs[name][video, :, label], rtol=1e-3, atol=1e-4)


def test_same_content_gives_the_same_bytes_and_no_other_file(path, outputs, tmp_path):
    before = path.read_bytes()
    write_curves(path, pick_curves(VIDEOS, LABELS, **outputs))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ['curves.npz']


def test_logits_beyond_half_precision_stay_finite(tmp_path, outputs):
    outputs['cas'][0, 0, 0] = 1e6
    write_curves(tmp_path / 'c.npz', pick_curves(VIDEOS, LABELS, **outputs))
    assert read_curves(tmp_path / 'c.npz').cas[0, 0] == 65504


def test_a_file_of_the_size_of_thumos14_has_a_few_megabytes(tmp_path):
    rng = np.random.default_rng(1)
    smooth = np.cumsum(rng.normal(size=(210, 750)), axis=1)
    noise = rng.random((210, 750)).astype(np.float32)
    keep = np.zeros((210, 20), bool)
    keep[:, 0] = keep[:60, 1] = True
    stack = np.repeat(smooth[..., None], 20, axis=2)
    names = [str(i) for i in range(210)]
    write_curves(tmp_path / 'c.npz', pick_curves(names, names[:20], np.ones(210), np.full(210, 750), noise, noise[::-1],
                                                 stack, stack, keep))
    assert (tmp_path / 'c.npz').stat().st_size < 3e6


def test_regions_by_hand():
    aware = np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.9]])
    agnostic = np.array([[0.9, 0.1, 0.2, 0.8], [0.1, 0.2, 0.3, 0.4]])
    assert regions(aware, agnostic).tolist() == [
        [INCONSISTENT, BACKGROUND, INCONSISTENT, ACTION],  # medians 0.25 and 0.5
        [BACKGROUND, BACKGROUND, INCONSISTENT, ACTION]]  # medians 0.5, which only 0.9 exceeds, and 0.25


def test_actionness_is_more_precise_than_float16(tmp_path, outputs):
    outputs['aware'][0] = 1 - np.linspace(2e-4, 1e-4, 40)
    write_curves(tmp_path / 'c.npz', pick_curves(VIDEOS, LABELS, **outputs))
    assert (read_curves(tmp_path / 'c.npz').aware[0] > np.median(outputs['aware'][0])).sum() == 20


@pytest.mark.parametrize('change, named', [
    (dict(aware=np.zeros((2, 40), np.float32)), 'aware|agnostic|videos|seconds'),
    (dict(cas=np.zeros((3, 39), np.float16)), 'cas'),
    (dict(label=np.array([0, 3, 1])), 'label'),
    (dict(video=np.array([0, -1, 1])), 'video'),
    (dict(video=np.array([2, 0, 0])), 'order'),
    (dict(seconds=np.array([0.5, np.nan, 1])), 'seconds'),
    (dict(seconds=np.array([0.5, 0, 1])), 'length'),
    (dict(num_snippets=np.array([1.0, 2, 3])), 'num_snippets'),
    (dict(videos=['a', 'a', 'b']), 'duplicates'),
])
def test_arrays_that_do_not_fit_each_other_are_an_error(tmp_path, outputs, change, named):
    path = tmp_path / 'bad.npz'
    write_curves(path, pick_curves(VIDEOS, LABELS, **outputs)._replace(**change))
    with pytest.raises(InputError, match=named) as error:
        read_curves(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize('damage', ['missing', 'empty', 'text', 'cut', 'npy', 'pickle', 'other'])
def test_other_files_give_one_line(path, damage):
    whole = path.read_bytes()
    if damage == 'missing':
        path.unlink()
    elif damage == 'npy':
        np.save(path.with_suffix('.npy'), np.zeros(3))
        path.write_bytes(path.with_suffix('.npy').read_bytes())
    elif damage == 'pickle':
        np.savez(path, **{name: np.array([{}], object) for name in Curves._fields})
    elif damage == 'other':
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes({'empty': b'', 'text': b'hello', 'cut': whole[:len(whole) // 2]}[damage])
    with pytest.raises(InputError) as error:
        read_curves(path)
    assert str(path) in str(error.value) and '\n' not in str(error.value)


def test_a_flipped_byte_is_an_input_error_or_reads_as_before(path):
    whole = path.read_bytes()
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xff]) + whole[place + 1:])
        try:
            read_curves(path)
        except InputError as error:
            assert '\n' not in str(error)


def test_a_missing_folder_is_an_input_error(tmp_path, outputs):
    with pytest.raises(InputError, match='cannot be written'):
        write_curves(tmp_path / 'no' / 'c.npz', pick_curves(VIDEOS, LABELS, **outputs))
