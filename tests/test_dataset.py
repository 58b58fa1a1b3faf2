"""Data folders as people have them, good and broken; the reference's random numbers; caches; the check command."""
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dataset
from formats.annotations import read_annotations, read_split_file
from formats.data_folder import find_split
from dataset import (BatchIndices, Shard, ShuffledSampler, UniformSampler, VideoDataset, make_loader, random_indices, uniform_indices)
from engine.runtime import free_memory
from formats.annotations import read_ground_truth
from formats.features import FeatureFolder, Stream
from utils import InputError

# ---- making data ----------------------------------------------------------------------------------------------------

def annotate(folder, subsets, **more):
    """Write gt.json: {name: (subset, labels)}, every label once; `more` are further keys of each video."""
    database = {name: {'subset': subset, **more,
                       'annotations': [{'label': label, 'segment': [1, 2]} for label in labels]}
                for name, (subset, labels) in subsets.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    return database


def features_of(name, length, width=4):
    """Features (L, 2 width) that differ from video to video and that float16 holds exactly."""
    rng = np.random.RandomState(sum(map(ord, name)))
    return rng.randint(-1000, 1000, (length, 2 * width)).astype(np.float32) / 64


def save(folder, split, name, array, layout='two-stream', base='features'):
    """Write the features (L, 2D) of one video in a layout."""
    half = array.shape[1] // 2
    parts = {'.': array} if layout == 'joint' else {'rgb': array[:, :half], 'flow': array[:, half:]}
    for part, columns in parts.items():
        path = folder / base / split / part / f'{name}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, columns)


LENGTHS = {'b': 30, 'a': 7, 'c': 1, 'd': 50, 'e': 2}


@pytest.fixture
def folder(tmp_path):
    """Three training videos b, a, c and two test videos d, e, in this order, two-stream."""
    annotate(tmp_path, {'a': ('train', ['Run']), 'b': ('train', ['Jump', 'Run']), 'c': ('train', ['Jump']),
                        'd': ('test', ['Run']), 'e': ('test', ['Jump'])})
    for split, names in (('train', 'bac'), ('test', 'de')):
        (tmp_path / f'split_{split}.txt').write_text('\n'.join(names) + '\n')
        for name in names:
            save(tmp_path, split, name, features_of(name, LENGTHS[name]))
    return tmp_path


def open_set(folder, split='train', **options):
    truth = read_annotations(folder)
    modalities, layout = options.pop('modalities', ('rgb', 'flow')), options.pop('layout', 'auto')
    found = find_split(folder, split, truth, truth.labels or ['Jump', 'Run'], modalities, layout)
    return VideoDataset(found, options.pop('cache', 'auto'), **options)


def features(videos, name):
    """All rows of a video as the data set gives them."""
    i = videos.names.index(name)
    return videos.__getitems__(BatchIndices([i], np.arange(videos.lengths[i])[None], 1)).features[0].numpy()


def complaint(call, *args, **options):
    with pytest.raises(InputError) as error:
        call(*args, **options)
    assert '\n' not in str(error.value)
    return str(error.value)


# ---- sampling -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('num_segments', [1, 2, 7, 50, 100, 750])
def test_random_rows_are_the_reference_s_numbers(num_segments):
    """The reference draws one `choice` a cell from numpy's global generator."""
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
        assert rng.randint(2 ** 31) == np.random.randint(2 ** 31)    # the stream stands at the same place


@given(st.integers(1, 3000), st.integers(1, 800), st.integers(0, 2 ** 32 - 1))
@settings(max_examples=300, deadline=None)
def test_rows_stay_in_their_cells(length, num_segments, seed):
    uniform = uniform_indices(length, num_segments)
    assert uniform.tolist() == [i * length // num_segments for i in range(num_segments)]
    rows = random_indices(length, num_segments, np.random.RandomState(seed))
    assert (rows >= uniform).all() and (rows <= np.append(uniform[1:], length - 1)).all()


def test_rows_of_many_videos_are_those_of_each_in_turn():
    lengths, together, alone = [7, 1, 20, 9, 9, 2614], np.random.RandomState(3), np.random.RandomState(3)
    assert uniform_indices(lengths, 9).tolist() == [uniform_indices(length, 9).tolist() for length in lengths]
    assert random_indices(lengths, 9, together).tolist() == [random_indices(length, 9, alone).tolist() for length in lengths]


def test_rows_of_the_tiniest_videos():
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
    assert [draw.videos for draw in UniformSampler(lengths, 2, 2)] == [[0, 1], [2, 3], [4]]
    torch.manual_seed(1)
    sampler = ShuffledSampler(lengths, 2, 2, drop_last, np.random.RandomState(0))
    batches = list(sampler)
    assert [len(draw.videos) for draw in batches] == sizes and len(sampler) == len(sizes)
    torch.manual_seed(1)    # what a DataLoader with shuffle=True draws
    expected = [v for batch in torch.utils.data.DataLoader(range(5), 2, shuffle=True, drop_last=drop_last,
                                                           generator=None) for v in batch.tolist()]
    torch.manual_seed(1)
    torch.empty((), dtype=torch.int64).random_()    # the loader draws one number before its sampler does
    assert [v for draw in sampler for v in draw.videos] == expected


def test_ranks_share_every_batch_and_draw_the_same():
    def draws(share, left_out=0):
        torch.manual_seed(5)
        sampler = ShuffledSampler([9, 8, 7, 6, 5, 4, 3], 3, 3, False, np.random.RandomState(5), share)
        sampler.skip_batches(left_out)
        return [([(video, tuple(rows)) for video, rows in zip(draw.videos, draw.rows)], draw.weight)
                for draw in sampler]

    whole, first, second = draws(Shard(0, 1)), draws(Shard(0, 2)), draws(Shard(1, 2))
    assert [(len(batch), weight) for batch, weight in whole] == [(3, 1), (3, 1), (1, 1)]
    for (batch, _), (a, a_weight), (b, b_weight) in zip(whole[:2], first, second):
        assert a == batch[0::2] and b == batch[1::2]
        assert (a_weight, b_weight) == (2 / 3, 1 / 3)
    assert first[2] == whole[2]
    assert second[2] == (whole[2][0], 0)    # nobody is left without a video, but this one counts nothing
    assert draws(Shard(0, 1), left_out=2) == whole[2:] and draws(Shard(0, 1), left_out=3) == []


# ---- layouts, names, labels -----------------------------------------------------------------------------------------

def test_two_streams_are_read_in_the_order_of_the_list(folder):
    train, test = open_set(folder), open_set(folder, 'test')
    assert train.names == ['b', 'a', 'c'] and train.lengths == [30, 7, 1] and test.names == ['d', 'e']
    assert train.layout == 'two-stream' and train.feature_dim == 4 and train.folder == folder / 'features/train'
    assert train.labels.tolist() == [[1, 1], [0, 1], [1, 0]]    # Jump, Run
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
        ours, theirs = open_set(other, split), open_set(folder, split)
        assert ours.layout == 'joint' and ours.names == theirs.names and ours.feature_dim == theirs.feature_dim == 4
        assert torch.equal(ours.table, theirs.table) and torch.equal(ours.labels, theirs.labels)


@pytest.mark.parametrize('layout', ['two-stream', 'joint'])
def test_one_stream_alone(folder, layout):
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
        assert '--modal rgb' in complaint(open_set, folder)


def test_one_video_by_either_spelling(tmp_path):
    """v_ in the list, none in gt.json, and files with and without; one id really starts with v_."""
    annotate(tmp_path, {'abc': ('train', ['Run']), 'v_xyz': ('train', ['Jump']), 'v_q': ('train', ['Run'])})
    (tmp_path / 'split_train.txt').write_text('v_abc\nv_v_xyz\nq\n')
    for name in ('abc', 'v_xyz', 'v_q'):
        save(tmp_path, 'train', name, features_of(name, 3))
    train = open_set(tmp_path)
    assert train.names == ['abc', 'v_xyz', 'v_q']    # gt.json's spelling
    for name in train.names:
        np.testing.assert_array_equal(features(train, name), features_of(name, 3))


def test_the_exact_spelling_comes_first(tmp_path):
    annotate(tmp_path, {'v_a': ('train', ['Run'])})
    (tmp_path / 'split_train.txt').write_text('v_a\n')
    save(tmp_path, 'train', 'a', features_of('a', 3))
    save(tmp_path, 'train', 'v_a', features_of('v_a', 5))
    assert open_set(tmp_path).lengths == [5]


def test_the_folder_that_holds_the_videos_is_taken(folder):
    """An official test folder without annotations may lie beside the validation folder that is tested on."""
    (folder / 'features/test').rename(folder / 'features/validation')
    save(folder, 'test', 'somebody_else', features_of('x', 9))
    test = open_set(folder, 'test')
    assert test.folder.name == 'validation' and test.names == ['d', 'e']


# ---- types and shapes of files --------------------------------------------------------------------------------------

@pytest.mark.parametrize('convert, kept', [
    (lambda a: a.astype(np.float16), torch.float16), (lambda a: a.astype(np.float64), torch.float32),
    (lambda a: a.astype('>f4'), torch.float32), (lambda a: a.astype('>f2'), torch.float16),
    (np.asfortranarray, torch.float32), (lambda a: a.astype(np.longdouble), torch.float32)])
@pytest.mark.parametrize('cache', ['ram', 'none'])
def test_every_type_of_float(folder, convert, kept, cache):
    for path in folder.glob('features/*/*/*.npy'):
        np.save(path, convert(np.load(path)))
    train = open_set(folder, cache=cache)
    assert cache == 'none' or train.cached_features.dtype == kept
    for name in 'bac':
        found = features(train, name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, features_of(name, LENGTHS[name]))


def test_one_file_of_float32_keeps_all_at_float32(folder):
    for path in folder.glob('features/train/rgb/[ab].npy'):
        np.save(path, np.load(path).astype(np.float16))
    assert open_set(folder).table.dtype == torch.float32


@pytest.mark.parametrize('modality', ['rgb', 'flow'])
@pytest.mark.parametrize('rows', [1, 2])
def test_uneven_streams_are_cut_to_the_shorter_with_one_warning(folder, capsys, modality, rows):
    for name in 'ab':
        path = folder / f'features/train/{modality}/{name}.npy'
        np.save(path, np.load(path)[:-rows])
    train = open_set(folder)
    assert train.lengths == [30 - rows, 7 - rows, 1]
    np.testing.assert_array_equal(features(train, 'b'), features_of('b', 30)[:-rows])
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and 'cut to the shorter: b, a' in warnings[0]


def test_streams_that_differ_more_are_an_error_that_names_the_video(folder):
    path = folder / 'features/train/flow/b.npy'
    np.save(path, np.load(path)[:-3])
    assert complaint(open_set, folder).startswith('b: 30 rgb rows but 27 flow rows')


# ---- broken files ---------------------------------------------------------------------------------------------------

def write_header(path, shape):
    """A header that promises `shape` and 64 bytes of data."""
    with open(path, 'wb') as file:
        np.lib.format.write_array_header_1_0(file, {'descr': '<f4', 'fortran_order': False, 'shape': shape})
        file.write(bytes(64))


BROKEN = {
    'empty': (lambda p: p.write_bytes(b''), 'not a readable .npy file'),
    'truncated': (lambda p: p.write_bytes(p.read_bytes()[:-1]), 'truncated: 239 of 240 bytes are there'),
    'half a header': (lambda p: p.write_bytes(p.read_bytes()[:20]), 'not a readable .npy file'),
    'text': (lambda p: p.write_text('hello'), 'not a readable .npy file'),
    'lie': (lambda p: write_header(p, (10 ** 9, 1024)), 'truncated: 192 of 4096000000128 bytes are there'),
    'big lie': (lambda p: write_header(p, (2 ** 62, 2 ** 62)), 'truncated: 192 of '),
    'huge lie': (lambda p: write_header(p, (2 ** 80, 4)), 'truncated: 192 of '),
    'negative': (lambda p: write_header(p, (-4, 4)), 'found (-4, 4)'),
    'true for a number': (lambda p: write_header(p, (True, 4)), 'found (True, 4)'),
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
def test_a_broken_file_is_named(folder, case):
    spoil, expected = BROKEN[case]
    path = folder / 'features/train/rgb/a.npy'
    spoil(path)
    message = complaint(open_set, folder)
    assert message.startswith(f'{path}: ') and expected in message


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_array_or_a_complaint(tmp_path_factory, data):
    """Random bytes, and a good file with some bytes changed."""
    path = tmp_path_factory.mktemp('bytes') / 'x.npy'
    np.save(path, np.ones((3, 4), np.float32))
    good = path.read_bytes()
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=300))
    else:
        content = bytearray(good)
        change = st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255))
        for place, value in data.draw(st.lists(change, max_size=5)):
            content[place] = value
    path.write_bytes(content)
    try:
        lone = FeatureFolder(path.parent, 'two-stream', False, ('rgb',), [Stream(path.parent, ['x'], '.npy')])
        file = lone.inspect((path,))
        file.read(slice(None), np.empty((file.length, file.width), np.float32))
    except InputError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
        return
    assert file.length * file.width * file.dtype.itemsize <= len(content)


def test_a_pickle_is_never_run(folder, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'sprung'),)
    np.save(folder / 'features/train/rgb/a.npy', np.array([[Trap()]], object), allow_pickle=True)
    complaint(open_set, folder)
    assert not (tmp_path / 'sprung').exists()


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize('cache', ['ram', 'none', 'device'])
def test_a_bad_number_is_named_with_file_and_row(folder, value, cache):
    path = folder / 'features/train/flow/b.npy'
    array = np.load(path).astype(np.float64)
    array[[17, 20], 2] = value
    np.save(path, array)

    def read_rows():
        train = open_set(folder, cache=cache)
        train.__getitems__(BatchIndices([0], np.array([[3, 20, 20, 29]]), 1))

    row = 20 if cache == 'none' else 17    # `none` looks at the rows that it reads
    assert complaint(read_rows) == f'{path}: NaN or infinite feature in row {row}; extract it again'


def test_widths_have_to_agree(folder):
    save(folder, 'train', 'a', features_of('a', 7, 5))
    assert 'a.npy: features are 5 wide a modality, but 4 in' in complaint(open_set, folder)
    np.save(folder / 'features/train/rgb/a.npy', np.ones((7, 6), np.float32))
    assert complaint(open_set, folder).startswith('a: rgb features are 6 wide but flow features 5')


def test_joint_files_have_an_even_width(folder):
    shutil.rmtree(folder / 'features')
    for name in 'bac':
        path = folder / 'train' / f'{name}.npy'
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.ones((3, 7), np.float32))
    assert 'must be even, found 7' in complaint(open_set, folder)


# ---- broken folders and lists ---------------------------------------------------------------------------------------

def test_no_features_at_all(folder):
    shutil.rmtree(folder / 'features')
    message = complaint(open_set, folder)
    assert message.startswith(f'{folder}: no train features found; expected features/train/rgb/*.npy')
    for modality in ('rgb', 'flow'):
        (folder / 'features/train' / modality).mkdir(parents=True)
    assert complaint(open_set, folder).startswith(f'{folder}/features/train/rgb: holds no .npy file')


@pytest.mark.parametrize('modality', ['rgb', 'flow'])
def test_a_listed_video_needs_features_of_every_stream(folder, modality):
    (folder / f'features/train/{modality}/a.npy').unlink()
    (folder / f'features/train/{modality}/c.npy').unlink()
    message = complaint(open_set, folder)
    assert message.startswith(f'{folder}/features/train: no features for 2 of the 3 videos by split_train.txt: a, c; ')


@pytest.mark.parametrize('name', ['../test/rgb/d', '../../secret', '/etc/passwd', 'rgb/../b', '.', '..', 'b\x00'])
def test_a_name_never_leads_out_of_the_folder(folder, name):
    np.save(folder / 'secret.npy', np.ones((3, 4), np.float32))
    (folder / 'split_train.txt').write_text(f'b\n{name}\n')
    assert 'no features for 1 of the 2 videos' in complaint(open_set, folder)


@pytest.mark.parametrize('content, expected', [
    (b'', 'names no video'), (b'\n \n', 'names no video'), (b'a\nb\na\n', 'names a more than once'),
    (b'v_a\nb\na\n', 'names a more than once'), (b'a\n\xff\xfe\n', 'not a readable text file')])
def test_broken_lists(tmp_path, content, expected):
    path = tmp_path / 'split_train.txt'
    path.write_bytes(content)
    message = complaint(read_split_file, path)
    assert message.startswith(f'{path}: {expected}')


def test_lists_from_other_systems(tmp_path):
    path = tmp_path / 'split_train.txt'
    path.write_bytes('\ufeffb \r\n\r\n a\r\nZürich'.encode())
    assert read_split_file(path) == ['b', 'a', 'Zürich']


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_list_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp('list') / 'split_test.txt'
    path.write_bytes(content)
    try:
        names = read_split_file(path)
    except InputError as error:
        assert str(error).isprintable()
        return
    assert names and all(names) and len(set(names)) == len(names)


# ---- who belongs to a split -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('train, test', [('train', 'test'), ('Trainer', 'Validation'), ('training', 'val'),
                                         ('validation', 'Test'), ('Train', 'testing')])
def test_without_lists_the_annotated_subsets_decide(folder, train, test):
    for split in ('train', 'test'):
        (folder / f'split_{split}.txt').unlink()
    annotate(folder, {'a': (train, ['Run']), 'd': (test, ['Run']), 'c': (train, ['Jump']), 'e': (test, ['Jump']),
                      'z': ('testing' if test.lower().startswith('val') else 'other', [])})
    assert open_set(folder).names == ['a', 'c'] and open_set(folder, 'test').names == ['d', 'e']


def test_without_lists_videos_without_features_are_left_out_with_one_warning(folder, capsys):
    for split in ('train', 'test'):
        (folder / f'split_{split}.txt').unlink()
    (folder / 'features/train/flow/b.npy').unlink()
    train = open_set(folder)
    assert train.names == ['a', 'c']
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1
    assert '1 of the 3 train videos by subset training have no features and are left out: b' in warnings[0]
    for path in (folder / 'features/train/rgb').iterdir():
        path.rename(path.with_stem('other_' + path.stem))
    assert 'no features for 3 of the 3 videos by subset training' in complaint(open_set, folder)


def test_training_videos_without_annotation_are_left_out_with_one_warning(folder, capsys):
    annotate(folder, {'a': ('train', ['Run']), 'b': ('train', [])})    # c is not there at all
    train = open_set(folder)
    assert train.names == ['a']
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 1 and '2 of the 3 train videos by split_train.txt have no annotation' in warnings[0]
    assert warnings[0].endswith('left out: b, c')
    annotate(folder, {'somebody': ('train', ['Run'])})
    assert 'annotates none of the 3 training videos by split_train.txt' in complaint(open_set, folder)


def test_test_videos_without_annotation_are_kept(folder, capsys):
    annotate(folder, {'d': ('test', ['Run'])})
    test = open_set(folder, 'test')
    assert test.names == ['d', 'e'] and test.labels.tolist() == [[1], [0]] and not capsys.readouterr().err


@pytest.mark.parametrize('truth', [None, {'d': ('test', ['Run'])}, {'b': ('train', ['Run'])}])
def test_without_list_and_without_two_annotated_subsets_whoever_has_features_is_tested(folder, truth):
    (folder / 'split_test.txt').unlink()
    (folder / 'gt.json').unlink() if truth is None else annotate(folder, truth)
    assert open_set(folder, 'test').names == ['d', 'e']


def test_one_video_in_two_files_is_refused_where_the_folder_is_the_list(folder):
    (folder / 'split_test.txt').unlink()
    (folder / 'gt.json').unlink()
    save(folder, 'test', 'v_d', features_of('d', 50))
    assert complaint(open_set, folder, 'test').startswith(f'{folder}/features/test/rgb: names d more than once')


def test_training_needs_a_list_or_an_annotated_subset(folder):
    (folder / 'split_train.txt').unlink()
    annotate(folder, {'b': ('mine', ['Run'])})
    assert 'split_train.txt: not found, and gt.json annotates no training subset' in complaint(open_set, folder)


def test_real_activitynet_lists_against_their_annotations(shared):
    data = shared / 'data/activitynet1.3'
    truth = read_ground_truth(data / 'gt.json')
    found = {}
    for split in ('train', 'test'):
        looked = find_split(data, split, truth, truth.labels, ('rgb', 'flow'))
        found[split] = looked.summary(25, 16)
        assert len(looked.problems) == 1 and f'no {split} features found' in looked.problems[0]
    assert (found['train'].listed, found['train'].annotated, len(found['train'].without_annotation)) == (9032, 9019, 13)
    assert (found['test'].listed, found['test'].annotated, found['test'].without_annotation) == (4427, 4427, [])
    assert len(found['test'].unlisted) == 4926 - 4427 and len(found['train'].unlisted) == 9649 - 9019


@pytest.mark.parametrize('version, train, test, empty, twice', [('1.2', (4441, 6588), (2383, 3582), 9, 33),
                                                                ('1.3', (9649, 14859), (4926, 7654), 12, 47)])
def test_real_activitynet_without_lists(shared, tmp_path, version, train, test, empty, twice):
    shutil.copy(shared / f'data/activitynet{version}/gt.json', tmp_path)
    truth = read_ground_truth(tmp_path / 'gt.json')
    both = [find_split(tmp_path, split, truth, truth.labels, ('rgb', 'flow')).summary(25, 16)
            for split in ('train', 'test')]
    assert [(s.annotated, s.instances) for s in both] == [train, test]
    assert [s.source for s in both] == ['subset training', 'subset validation']
    assert sum(s.empty_instances for s in both) == empty and sum(s.duplicate_instances for s in both) == twice


# ---- what is counted ------------------------------------------------------------------------------------------------

def test_summary_counts_what_is_untidy(folder):
    segments = [0, 1], ['0', 1.0], [2, 2], [3, 1], [5, 30 * 0.64 + 0.7]
    rows = [{'label': 'Run', 'segment': segment} for segment in segments]
    (folder / 'gt.json').write_text(json.dumps({'database': {
        'b': {'subset': 'train', 'annotations': rows}, 'a': {'subset': 'train', 'annotations': [
            {'label': 'Run', 'segment': [0, 7 * 0.64 + 0.6]}, {'label': 'Jump', 'segment': [0, 7 * 0.64 + 0.6]}]},
        'f': {'subset': 'train', 'annotations': rows[:1]}, 'g': {'subset': 'other', 'annotations': rows[:1]}}}))
    train = open_set(folder)
    summary = train.summary()
    assert summary == ('split_train.txt', 3, 2, 7, 2, 1, [], ['c'], ['f'], [], ['b'], 0)
    assert train.summary(snippet_frames=32).late == [] and train.summary(feature_fps=50).late == ['b', 'a']
    text = '\n'.join(summary.lines())
    for part in ('3 videos by split_train.txt, 2 of them annotated, 7 instances (2 of no length, 1 exact duplicates',
                 '1 video without annotation: c', '1 video with annotations that end after the features: b'):
        assert part in text


@pytest.mark.parametrize('seconds_a_row, fps, frames, advice', [
    (0.64, 25, 16, None), (0.64 * 1.09, 25, 16, None), (0.64 * 0.91, 25, 16, None),
    (0.64 * 1.11, 25, 16, '--snippet_frames 17.76'), (0.64 * 0.89, 25, 16, '--snippet_frames 14.24'),
    (2.56, 25, 16, '--snippet_frames 64'), (0.96, 25, 16, '--snippet_frames 24'), (0.16, 25, 16, '--snippet_frames 4'),
    (16 / 30, 25, 16, '--feature_fps 30'), (0.64, 30, 16, '--feature_fps 25'), (0.16, 25, 32, '--snippet_frames 4'),
    (7.7, 25, 16, '--snippet_frames 192.5')])
def test_time_base(folder, seconds_a_row, fps, frames, advice):
    database = annotate(folder, {name: ('train', ['Run']) for name in 'abc'})
    for name, entry in database.items():
        entry['duration'] = None if name == 'c' else LENGTHS[name] * seconds_a_row
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    time_base = open_set(folder).time_base(fps, frames)
    assert time_base.num_videos == 2 and time_base.ratio == pytest.approx(seconds_a_row / (frames / fps))
    assert time_base.is_mismatched == (advice is not None)
    assert advice is None or time_base.advice().endswith(f'try {advice}')


def test_no_duration_no_time_base(folder):
    assert open_set(folder).time_base() is None
    (folder / 'gt.json').unlink()
    assert open_set(folder, 'test').time_base() is None


# ---- caches ---------------------------------------------------------------------------------------------------------

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
def test_a_file_that_changes_in_mid_run_is_one_line(folder, workers):
    train = open_set(folder, cache='none')
    path = folder / 'features/train/rgb/b.npy'
    np.save(path, np.load(path)[:5])

    def read():
        return list(make_loader(train, UniformSampler(train.lengths, 4, 3), workers))
    assert complaint(read).startswith(f'{path}: changed its shape since the run began')
    np.save(path, np.ones((30, 3), np.float32))
    assert complaint(read).startswith(f'{path}: changed its shape since the run began')
    path.unlink()
    assert complaint(read).startswith(f'{path}: not a readable .npy file')


def test_auto_takes_what_fits(folder, monkeypatch):
    size = 38 * 8 * 4    # three videos of 30, 7 and 1 rows
    for free, expected in ((size / 0.7 + 1, 'ram'), (size / 0.7 - 1, 'none')):
        monkeypatch.setattr(dataset, 'free_memory', lambda: free)
        assert open_set(folder).cache == expected
    monkeypatch.setattr(dataset, 'free_memory', lambda: size - 1)
    assert 'use --cache auto or none' in complaint(open_set, folder, cache='ram')
    assert open_set(folder, cache='none').cached_features is None


def test_free_memory_is_that_of_this_machine():
    pages = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    assert 0 < free_memory() <= pages


# ---- python dataset.py ----------------------------------------------------------------------------------------------

def check(folder, capsys, *flags):
    status = dataset.main([str(folder), *flags])
    out, err = capsys.readouterr()
    assert not re.sub('\r[^\r]*', '', err)    # nothing but progress, where it is slow
    return status, out


def test_check_of_a_good_folder(folder, capsys):
    status, out = check(folder, capsys)
    assert status == 0 and out.endswith('fine: ready to train\n') and 'warning' not in out
    status, out = check(folder, capsys, '--deep', '--expect', '20', '200', '210')
    assert status == 0 and out.endswith('\nready to train, but see 1 warning above\n')
    for part in ('2 classes, 5 videos (3 train, 2 test), 6 instances',
                 '3 videos by split_train.txt, 3 of them annotated',
                 'features/train (two-stream): 3 videos, 4 features a modality, float32',
                 '38 snippets; a video has 1 to 30, median 7, mean 12.7',
                 'expected: 20 classes, 200 training and 210 test videos; this folder: 2, 3 and 2'):
        assert part in out


def test_check_tells_all_problems_at_once(folder, capsys):
    BROKEN['text'][0](folder / 'features/train/rgb/a.npy')
    (folder / 'features/test/flow/e.npy').unlink()
    path = folder / 'features/test/rgb/d.npy'
    array = np.load(path)
    array[3] = np.nan
    np.save(path, array)
    assert check(folder, capsys)[1].count('problem: ') == 2
    status, out = check(folder, capsys, '--deep')
    problems = [line.split('problem: ')[1] for line in out.splitlines() if 'problem: ' in line]
    assert status == 1 and out.endswith('3 problems: training would fail\n') and len(problems) == 3
    for problem, part in zip(problems, ('a.npy: not a readable', 'no features for 1 of the 2 videos', 'd.npy: NaN')):
        assert part in problem


@pytest.mark.parametrize('spoil, part', [
    (lambda f: (f / 'gt.json').unlink(), 'gt.json: not found; write it, or labels.csv'),
    (lambda f: (f / 'gt.json').write_text('{'), 'gt.json: not a JSON file'),
    (lambda f: shutil.rmtree(f / 'features/train'), 'no train features found'),
    (lambda f: (f / 'split_train.txt').write_text(''), 'split_train.txt: names no video'),
    (lambda f: annotate(f, {'x': ('train', ['Run'])}), 'annotates none of the 3 training videos'),
    (lambda f: save(f, 'train', 'c', features_of('c', 3, 9)), 'c.npy: features are 9 wide'),
    (lambda f: [save(f, 'test', n, features_of(n, 3, 9)) for n in 'de'], 'training features are 4 wide a modality'),
    (lambda f: [p.unlink() for p in f.glob('features/train/rgb/*')], 'train/rgb: holds no .npy file')])
def test_check_fails_where_training_would(folder, capsys, spoil, part):
    spoil(folder)
    status, out = check(folder, capsys)
    assert status == 1 and part in out and out.endswith('1 problem: training would fail\n')


def test_check_warns_of_what_training_would_not_notice(folder, capsys):
    annotate(folder, {'a': ('train', ['Run']), 'b': ('train', ['Run']), 'd': ('test', ['Jump'])}, duration=500)
    (folder / 'split_test.txt').write_text('d\nb\n')
    save(folder, 'test', 'b', features_of('b', 30))
    np.save(folder / 'features/train/rgb/a.npy', np.zeros((7, 4), np.float32))
    np.save(folder / 'features/train/flow/a.npy', np.zeros((7, 4), np.float32))
    status, out = check(folder, capsys, '--deep')
    assert status == 0
    for part in ('TIME BASE', 'both in training and in test: 1 video: b', '1 of 2 classes without training video: Jump',
                 '1 video with nothing but zeros: a'):
        assert part in out


@pytest.mark.parametrize('words, part', [
    (['/nowhere/at/all'], 'not a folder'), (['x' * 300], 'not a folder'), ([], 'DIR'),
    (['.', '--feature_fps', '0'], 'feature_fps'),
    (['.', '--expect', '20', '200'], '--expect'), (['.', '--feature_fps', 'nan'], 'feature_fps')])
def test_bad_usage_of_the_check(capsys, words, part):
    with pytest.raises(SystemExit) as end:
        dataset.main(words)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and not out and err.startswith('error: ') and part in err and err.count('\n') == 1


def test_check_of_real_data(shared, capsys):
    flags = '--feature_fps', '200', '--snippet_frames', '32', '--deep'
    status, out = check(shared / 'data/emg_gestures', capsys, *flags)
    assert status == 0 and '7 classes' in out and 'TIME BASE' not in out and '1344 instances' in out
    assert 'TIME BASE' in check(shared / 'data/emg_gestures', capsys)[1]
    out = check(shared / 'data/anet_i3d_mini', capsys)[1]
    assert 'try --snippet_frames 64' in out and 'try --snippet_frames 24' in out    # training and test differ
