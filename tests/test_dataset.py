"""Sampling, the data set in every layout and cache, the loader."""
import os
import shutil

import numpy as np
import pytest
import torch
from data_folders import LENGTHS, annotate, error_of, features_of, open_split, save, write_folder
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from dataset import (
    BatchIndices,
    Shard,
    ShuffledSampler,
    UniformSampler,
    VideoDataset,
    free_memory,
    make_loader,
    random_indices,
    uniform_indices,
)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def open_set(folder, split='train', cache='auto', **options):
    return VideoDataset(open_split(folder, split, **options), cache)


def features(videos, name):
    """Return all rows of a video of the data set."""
    i = videos.names.index(name)
    return videos.__getitems__(BatchIndices([i], np.arange(videos.lengths[i])[None], 1)).features[0].numpy()


# ---- sampling -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('num_segments', [1, 2, 7, 50, 100, 750])
def test_random_rows_are_those_of_the_reference(num_segments):
    """The reference draws one `choice` per cell from numpy's global generator."""
    np.random.seed(num_segments)
    rng = np.random.RandomState(num_segments)
    for length in [1, 2, 3, 7, 23, 49, 50, 51, 99, 100, 101, 252, 749, 750, 751, 2614, num_segments]:
        expected = []
        cells = [int(c) for c in np.arange(num_segments) * length / num_segments]
        for i, first in enumerate(cells):
            last = cells[i + 1] if i + 1 < num_segments else length - 1
            if length == num_segments or first == last:
                expected.append(first)
            else:
                expected.append(np.random.choice(range(first, last + 1)))
        assert random_indices(length, num_segments, rng).tolist() == expected
        assert rng.randint(2 ** 31) == np.random.randint(2 ** 31)  # the streams are in the same state


@given(st.integers(1, 3000), st.integers(1, 800), st.integers(0, 2 ** 32 - 1))
@settings(max_examples=300, deadline=None)
def test_rows_stay_in_their_cells(length, num_segments, seed):
    uniform = uniform_indices(length, num_segments)
    assert uniform.tolist() == [i * length // num_segments for i in range(num_segments)]
    rows = random_indices(length, num_segments, np.random.RandomState(seed))
    assert (rows >= uniform).all() and (rows <= np.append(uniform[1:], length - 1)).all()


def test_rows_of_many_videos_are_those_of_each_one_in_turn():
    lengths, rng, other_rng = [7, 1, 20, 9, 9, 2614], np.random.RandomState(3), np.random.RandomState(3)
    assert uniform_indices(lengths, 9).tolist() == [uniform_indices(length, 9).tolist() for length in lengths]
    rows = random_indices(lengths, 9, rng)
    assert rows.tolist() == [random_indices(length, 9, other_rng).tolist() for length in lengths]


def test_rows_of_the_shortest_videos():
    assert uniform_indices(1, 5).tolist() == [0] * 5
    assert uniform_indices(2, 5).tolist() == [0, 0, 0, 1, 1]
    assert random_indices(1, 5, np.random.RandomState(0)).tolist() == [0] * 5
    assert uniform_indices(7, 7).tolist() == list(range(7))


def test_both_ends_of_a_cell_are_drawn():
    rng = np.random.RandomState(0)
    drawn = np.array([random_indices(20, 2, rng) for _ in range(500)])
    assert set(drawn[:, 0]) == set(range(11)) and set(drawn[:, 1]) == set(range(10, 20))


@pytest.mark.parametrize('drop_last, sizes', [(False, [2, 2, 1]), (True, [2, 2])])
def test_batches_in_order_or_shuffled(drop_last, sizes):
    lengths = [3, 1, 4, 1, 5]
    assert [batch.videos for batch in UniformSampler(lengths, 2, 2)] == [[0, 1], [2, 3], [4]]
    torch.manual_seed(1)
    sampler = ShuffledSampler(lengths, 2, 2, drop_last, np.random.RandomState(0))
    batches = list(sampler)
    assert [len(batch.videos) for batch in batches] == sizes and len(sampler) == len(sizes)
    torch.manual_seed(1)  # what a DataLoader with shuffle=True draws
    expected = [v for batch in torch.utils.data.DataLoader(range(5), 2, shuffle=True, drop_last=drop_last,
                                                           generator=None) for v in batch.tolist()]
    torch.manual_seed(1)
    torch.empty((), dtype=torch.int64).random_()  # the loader draws one number before its sampler does
    assert [v for batch in sampler for v in batch.videos] == expected


def test_ranks_shard_every_batch_and_draw_the_same():
    def batches(shard, num_skipped=0):
        torch.manual_seed(5)
        sampler = ShuffledSampler([9, 8, 7, 6, 5, 4, 3], 3, 3, False, np.random.RandomState(5), shard)
        sampler.skip_batches(num_skipped)
        return [([(video, tuple(rows)) for video, rows in zip(batch.videos, batch.rows)], batch.weight)
                for batch in sampler]

    whole, first, second = batches(Shard(0, 1)), batches(Shard(0, 2)), batches(Shard(1, 2))
    assert [(len(batch), weight) for batch, weight in whole] == [(3, 1), (3, 1), (1, 1)]
    for (batch, _), (a, a_weight), (b, b_weight) in zip(whole[:2], first, second):
        assert a == batch[0::2] and b == batch[1::2]
        assert (a_weight, b_weight) == (2 / 3, 1 / 3)
    assert first[2] == whole[2]
    assert second[2] == (whole[2][0], 0)  # no rank is without a video, but this one has no weight
    assert batches(Shard(0, 1), num_skipped=2) == whole[2:] and batches(Shard(0, 1), num_skipped=3) == []


# ---- layouts, names, labels -----------------------------------------------------------------------------------------

def test_two_streams_are_read_in_the_order_of_the_list(folder):
    train, test = open_set(folder), open_set(folder, 'test')
    assert train.names == ['b', 'a', 'c'] and train.lengths == [30, 7, 1] and test.names == ['d', 'e']
    assert train.layout == 'two-stream' and train.feature_dim == 4 and train.folder == folder / 'features/train'
    assert train.labels.tolist() == [[1, 1], [0, 1], [1, 0]]  # Jump, Run
    for name in 'bac':
        np.testing.assert_array_equal(features(train, name), features_of(name, LENGTHS[name]))


@pytest.mark.parametrize('base', ['features', '.'])
@pytest.mark.parametrize('test_folder', ['test', 'validation', 'val', 'testing'])
def test_joint_files_give_the_same_as_two_streams(folder, tmp_path_factory, base, test_folder):
    other = tmp_path_factory.mktemp('joint')
    for path in folder.glob('*.*'):
        shutil.copy(path, other)
    for split, names in (('train', 'bac'), (test_folder, 'de')):
        for name in names:
            save(other, split, name, features_of(name, LENGTHS[name]), 'joint', base)
    for split in ('train', 'test'):
        joint, two_stream = open_set(other, split), open_set(folder, split)
        assert joint.layout == 'joint' and joint.names == two_stream.names
        assert joint.feature_dim == two_stream.feature_dim == 4
        assert torch.equal(joint.cached_features, two_stream.cached_features)
        assert torch.equal(joint.labels, two_stream.labels)


@pytest.mark.parametrize('layout', ['two-stream', 'joint'])
def test_a_single_stream(folder, layout):
    shutil.rmtree(folder / 'features')
    for name in 'bac':
        save(folder, 'train', name, features_of(name, LENGTHS[name]), layout)
    for modality, columns in (('rgb', slice(0, 4)), ('flow', slice(4, 8))):
        videos = open_set(folder, modalities=(modality,))
        assert videos.feature_dim == 4
        np.testing.assert_array_equal(features(videos, 'b'), features_of('b', 30)[:, columns])
    if layout == 'two-stream':
        shutil.rmtree(folder / 'features/train/flow')
        assert len(open_set(folder, modalities=('rgb',))) == 3
        assert '--modal rgb' in error_of(open_set, folder)


def test_a_video_in_either_spelling(tmp_path):
    """v_ in the list, none in gt.json, and files with and without; one id really starts with v_."""
    annotate(tmp_path, {'abc': ('train', ['Run']), 'v_xyz': ('train', ['Jump']), 'v_q': ('train', ['Run'])})
    (tmp_path / 'split_train.txt').write_text('v_abc\nv_v_xyz\nq\n')
    for name in ('abc', 'v_xyz', 'v_q'):
        save(tmp_path, 'train', name, features_of(name, 3))
    train = open_set(tmp_path)
    assert train.names == ['abc', 'v_xyz', 'v_q']  # gt.json's spelling
    for name in train.names:
        np.testing.assert_array_equal(features(train, name), features_of(name, 3))


def test_the_exact_spelling_is_preferred(tmp_path):
    annotate(tmp_path, {'v_a': ('train', ['Run'])})
    (tmp_path / 'split_train.txt').write_text('v_a\n')
    save(tmp_path, 'train', 'a', features_of('a', 3))
    save(tmp_path, 'train', 'v_a', features_of('v_a', 5))
    assert open_set(tmp_path).lengths == [5]


# ---- excluded videos ------------------------------------------------------------------------------------------------

def test_without_lists_videos_without_features_are_excluded_with_one_warning(folder, capsys):
    for split in ('train', 'test'):
        (folder / f'split_{split}.txt').unlink()
    (folder / 'features/train/flow/b.npy').unlink()
    train = open_set(folder)
    assert train.names == ['a', 'c']
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert '1 of the 3 train videos in subset training have no features and are left out: b' in warnings[0]
    for path in (folder / 'features/train/rgb').iterdir():
        path.rename(path.with_stem('other_' + path.stem))
    assert 'no features for 3 of the 3 videos in subset training' in error_of(open_set, folder)


def test_training_videos_without_annotation_are_excluded_with_one_warning(folder, capsys):
    annotate(folder, {'a': ('train', ['Run']), 'b': ('train', [])})  # c is missing
    train = open_set(folder)
    assert train.names == ['a']
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and '2 of the 3 train videos in split_train.txt have no annotation' in warnings[0]
    assert warnings[0].endswith('left out: b, c')
    annotate(folder, {'other': ('train', ['Run'])})
    assert 'annotates none of the 3 training videos in split_train.txt' in error_of(open_set, folder)


def test_test_videos_without_annotation_are_included(folder, capsys):
    annotate(folder, {'d': ('test', ['Run'])})
    test = open_set(folder, 'test')
    assert test.names == ['d', 'e'] and test.labels.tolist() == [[1], [0]] and not capsys.readouterr().err


# ---- types and values -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('convert, dtype', [
    (lambda a: a.astype(np.float16), torch.float16), (lambda a: a.astype(np.float64), torch.float32),
    (lambda a: a.astype('>f4'), torch.float32), (lambda a: a.astype('>f2'), torch.float16),
    (np.asfortranarray, torch.float32), (lambda a: a.astype(np.longdouble), torch.float32)])
@pytest.mark.parametrize('cache', ['ram', 'none'])
def test_every_floating_type(folder, convert, dtype, cache):
    for path in folder.glob('features/*/*/*.npy'):
        np.save(path, convert(np.load(path)))
    train = open_set(folder, cache=cache)
    assert cache == 'none' or train.cached_features.dtype == dtype
    for name in 'bac':
        rows = features(train, name)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, features_of(name, LENGTHS[name]))


def test_one_file_of_float32_makes_all_float32(folder):
    for path in folder.glob('features/train/rgb/[ab].npy'):
        np.save(path, np.load(path).astype(np.float16))
    assert open_set(folder).cached_features.dtype == torch.float32


@pytest.mark.parametrize('modality', ['rgb', 'flow'])
@pytest.mark.parametrize('rows', [1, 2])
def test_streams_of_unequal_length_are_truncated_with_one_warning(folder, capsys, modality, rows):
    for name in 'ab':
        path = folder / f'features/train/{modality}/{name}.npy'
        np.save(path, np.load(path)[:-rows])
    train = open_set(folder)
    assert train.lengths == [30 - rows, 7 - rows, 1]
    np.testing.assert_array_equal(features(train, 'b'), features_of('b', 30)[:-rows])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and 'truncated to the shorter: b, a' in warnings[0]


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize('cache', ['ram', 'none', 'device'])
def test_a_bad_number_is_reported_with_file_and_row(folder, value, cache):
    path = folder / 'features/train/flow/b.npy'
    array = np.load(path).astype(np.float64)
    array[[17, 20], 2] = value
    np.save(path, array)

    def read_rows():
        train = open_set(folder, cache=cache)
        train.__getitems__(BatchIndices([0], np.array([[3, 20, 20, 29]]), 1))

    row = 20 if cache == 'none' else 17  # `none` checks only the rows that are read
    assert error_of(read_rows) == f'{path}: NaN or infinite feature in row {row}; extract it again'


# ---- caches and the loader ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('half', [False, True])
def test_every_cache_gives_the_same_batches(folder, workers, half):
    if half:
        for path in folder.glob('features/*/*/*.npy'):
            np.save(path, np.load(path).astype(np.float16))
    runs = []
    for cache in ('ram', 'none', 'device', 'auto'):
        train = open_set(folder, cache=cache)
        torch.manual_seed(3)
        sampler = ShuffledSampler(train.lengths, 10, 2, False, np.random.RandomState(3))
        runs.append([batch for _ in range(2) for batch in make_loader(train, sampler, workers)])
        runs[-1].append(torch.rand(1))
    for run in runs[1:]:
        for a, b in zip(run[:-1], runs[0][:-1], strict=True):
            assert torch.equal(a.features, b.features) and a.features.dtype == torch.float32
            assert torch.equal(a.labels, b.labels) and a.videos == b.videos
        assert torch.equal(run[-1], runs[0][-1])
    first = runs[0][0]
    assert first.features.shape == (2, 10, 8) and first.labels.shape == (2, 2)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_file_that_changes_during_a_run_is_one_line(folder, workers):
    train = open_set(folder, cache='none')
    path = folder / 'features/train/rgb/b.npy'
    np.save(path, np.load(path)[:5])

    def read():
        return list(make_loader(train, UniformSampler(train.lengths, 4, 3), workers))
    assert error_of(read).startswith(f'{path}: its shape has changed since the run began')
    np.save(path, np.ones((30, 3), np.float32))
    assert error_of(read).startswith(f'{path}: its shape has changed since the run began')
    path.unlink()
    assert error_of(read).startswith(f'{path}: not a readable .npy file')


def test_auto_picks_what_fits(folder, monkeypatch):
    size = 38 * 8 * 4  # three videos of 30, 7 and 1 rows
    for free, expected in ((size / 0.7 + 1, 'ram'), (size / 0.7 - 1, 'none')):
        monkeypatch.setattr(dataset, 'free_memory', lambda: free)
        assert open_set(folder).cache == expected
    monkeypatch.setattr(dataset, 'free_memory', lambda: size - 1)
    assert 'use --cache auto or none' in error_of(open_set, folder, cache='ram')
    assert open_set(folder, cache='none').cached_features is None


def test_free_memory_is_at_most_that_of_the_machine():
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    assert 0 < free_memory() <= pages
