"""Data folders: labels without times, durations, split lists, the videos of a split, the time base."""
import json
import shutil

import numpy as np
import pytest
from data_folders import LENGTHS, annotate, error_of, features_of, open_split, save, write_folder
from golden_data import GOLDEN
from hypothesis import given, settings
from hypothesis import strategies as st

from formats.annotations import missing_annotations, read_annotations, read_ground_truth, read_labels, read_split_file
from formats.data_folder import find_split, has_test_videos
from utils import InputError, read_json

BOTH = ('rgb', 'flow')


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def write(folder, text, name='labels.csv'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def add_features(folder, split, *names, length=4):
    for stream in BOTH:
        for name in names:
            path = folder / 'features' / split / stream / f'{name}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.ones((length, 3), np.float32))


def tags(gt):
    return {(gt.videos[v], gt.labels[c]) for v, c in zip(gt.tag_video.tolist(), gt.tag_label.tolist())}


@pytest.mark.parametrize('text', [
    'video,label\na,Run\nb,Jump\na,Jump\n', 'Video, LABEL\na,Run\nb,Jump\na,Jump\n',
    'label,video\r\nRun,a\r\nJump,b\r\n\r\nJump,a\r\n',
    '\ufeffvideo, label\na.mp4,Run\nv_b,Jump\nb.MKV,Jump\n"a",Jump\na.npy,Run\n'])
def test_one_label_per_row(tmp_path, text):
    gt = read_labels(write(tmp_path, text))
    assert gt.labels == ['Jump', 'Run'] and len(gt.segments) == 0
    assert {(name.removeprefix('v_'), label) for name, label in tags(gt)} == {
        ('a', 'Run'), ('a', 'Jump'), ('b', 'Jump')} and len(gt.videos) == 2


def test_quoted_names_may_contain_commas(tmp_path):
    path = write(tmp_path, 'video,label\n"one, two.mp4","Run, fast"\n')
    assert tags(read_labels(path)) == {('one, two', 'Run, fast')}


@pytest.mark.parametrize('text, part', [
    ('', 'found nothing'), ('a,Run\n', 'header video,label'), ('video,label,start\na,Run,1\n', 'header video,label'),
    ('video,label\n', 'contains no labels'), ('video,label\na\n', 'row 2'), ('video,label\na,Run\nb,Run,3\n', 'row 3'),
    ('video,label\na,\n', 'contains no labels'), ('video,label\na,\na,Run\n', 'and another one'),
    ('video,label\n,Run\n', 'row 2'), (b'video,label\na,\xff\xfe\n', 'not a readable'),
    ('video,label\na,"Run\n', 'not a readable')])
def test_other_label_files_are_refused_with_the_row(tmp_path, text, part):
    error = error_of(read_labels, write(tmp_path, text))
    assert 'labels.csv' in error and part in error


def test_labeled_videos_are_trained_on_and_those_in_the_test_folder_are_tested(tmp_path):
    write(tmp_path, 'video,label\na,Run\nb,Jump\nt,Run\n')
    add_features(tmp_path, 'train', 'a', 'b')
    gt = read_annotations(tmp_path)
    assert not has_test_videos(tmp_path, gt)
    assert find_split(tmp_path, 'train', gt, gt.labels, BOTH).without_features == ['t']
    add_features(tmp_path, 'test', 't', 'u')
    assert has_test_videos(tmp_path, gt)
    train = find_split(tmp_path, 'train', gt, gt.labels, BOTH).require()
    test = find_split(tmp_path, 'test', gt, gt.labels, BOTH).require()
    assert train.names == ['a', 'b'] and train.labels.tolist() == [[0, 1], [1, 0]] and not train.without_features
    assert test.names == ['t', 'u'] and test.labels.tolist() == [[0, 1], [0, 0]]
    assert train.summary().tags == 2


def test_gt_json_is_preferred_to_labels_csv(tmp_path):
    write(tmp_path, 'video,label\na,Run\n')
    write(tmp_path, json.dumps({'database': {'a': {'annotations': [{'label': 'Jump'}]}}}), 'gt.json')
    assert tags(read_annotations(tmp_path)) == {('a', 'Jump')}


def test_missing_durations_are_read_from_extraction_json(tmp_path):
    write(tmp_path, json.dumps({'database': {'v_a': {'duration': 7}, 'b': {}}}), 'gt.json')
    seconds = {'a': 99, 'b': 4.5, 'c': 3, 'd': None}
    extraction = {'videos': {name: {'duration': value} for name, value in seconds.items()}}
    write(tmp_path, json.dumps(extraction), 'extraction.json')
    gt = read_annotations(tmp_path)
    assert gt.videos == ['v_a', 'b', 'c'] and gt.durations.tolist() == [7, 4.5, 3]
    write(tmp_path, '{"videos": [1]}', 'extraction.json')
    with pytest.raises(InputError, match='extraction.json'):
        read_annotations(tmp_path)


def test_a_list_may_contain_file_names(tmp_path):
    assert read_split_file(write(tmp_path, 'a.npy\nb\n', 'split_test.txt')) == ['a', 'b']


def test_the_message_suggests_to_rename_another_file_of_annotations(tmp_path):
    assert 'labels.csv' in str(missing_annotations(tmp_path))
    (tmp_path / 'thumos14.json').write_text('{}')
    assert 'if thumos14.json contains the annotations, rename it to gt.json' in str(missing_annotations(tmp_path))


# ---- folders and lists ----------------------------------------------------------------------------------------------

def test_the_folder_with_the_videos_is_used(folder):
    """An official test folder without annotations may exist next to the validation folder that is tested."""
    (folder / 'features/test').rename(folder / 'features/validation')
    save(folder, 'test', 'other', features_of('x', 9))
    test = open_split(folder, 'test')
    assert test.folder.path.name == 'validation' and test.names == ['d', 'e']


def test_no_features_at_all(folder):
    shutil.rmtree(folder / 'features')
    message = error_of(open_split, folder)
    assert message.startswith(f'{folder}: no train features found; expected features/train/rgb/*.npy')
    for modality in ('rgb', 'flow'):
        (folder / 'features/train' / modality).mkdir(parents=True)
    assert error_of(open_split, folder).startswith(f'{folder}/features/train/rgb: contains no .npy files')


@pytest.mark.parametrize('modality', ['rgb', 'flow'])
def test_a_listed_video_needs_features_of_every_stream(folder, modality):
    (folder / f'features/train/{modality}/a.npy').unlink()
    (folder / f'features/train/{modality}/c.npy').unlink()
    message = error_of(open_split, folder)
    assert message.startswith(f'{folder}/features/train: no features for 2 of the 3 videos in split_train.txt: a, c; ')


@pytest.mark.parametrize('name', ['../test/rgb/d', '../../secret', '/etc/passwd', 'rgb/../b', '.', '..', 'b\x00'])
def test_a_name_never_leads_out_of_the_folder(folder, name):
    np.save(folder / 'secret.npy', np.ones((3, 4), np.float32))
    (folder / 'split_train.txt').write_text(f'b\n{name}\n')
    assert 'no features for 1 of the 2 videos' in error_of(open_split, folder)


@pytest.mark.parametrize('content, expected', [
    (b'', 'lists no videos'), (b'\n \n', 'lists no videos'), (b'a\nb\na\n', 'contains a more than once'),
    (b'v_a\nb\na\n', 'contains a more than once'), (b'a\n\xff\xfe\n', 'not a readable text file')])
def test_broken_lists(tmp_path, content, expected):
    path = tmp_path / 'split_train.txt'
    path.write_bytes(content)
    message = error_of(read_split_file, path)
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


# ---- the videos of a split ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('train, test', [('train', 'test'), ('Training', 'Validation'), ('training', 'val'),
                                         ('validation', 'Test'), ('Train', 'testing')])
def test_without_lists_the_annotated_subsets_decide(folder, train, test):
    for split in ('train', 'test'):
        (folder / f'split_{split}.txt').unlink()
    annotate(folder, {'a': (train, ['Run']), 'd': (test, ['Run']), 'c': (train, ['Jump']), 'e': (test, ['Jump']),
                      'z': ('testing' if test.lower().startswith('val') else 'other', [])})
    assert open_split(folder).names == ['a', 'c'] and open_split(folder, 'test').names == ['d', 'e']


@pytest.mark.parametrize('gt', [None, {'d': ('test', ['Run'])}, {'b': ('train', ['Run'])}])
def test_without_list_and_two_annotated_subsets_all_features_in_the_test_folder_are_tested(folder, gt):
    (folder / 'split_test.txt').unlink()
    (folder / 'gt.json').unlink() if gt is None else annotate(folder, gt)
    assert open_split(folder, 'test').names == ['d', 'e']


def test_one_video_in_two_files_is_refused_without_a_list(folder):
    (folder / 'split_test.txt').unlink()
    (folder / 'gt.json').unlink()
    save(folder, 'test', 'v_d', features_of('d', 50))
    assert error_of(open_split, folder, 'test').startswith(f'{folder}/features/test/rgb: contains d more than once')


@pytest.mark.parametrize('split', ['train', 'test'])
def test_a_list_that_cannot_be_read_is_not_ignored(folder, split):
    (folder / f'split_{split}.txt').unlink()
    (folder / f'split_{split}.txt').symlink_to(folder / 'moved.txt')
    assert f'split_{split}.txt: not a readable text file' in error_of(open_split, folder, split)


def test_training_needs_a_list_or_an_annotated_subset(folder):
    (folder / 'split_train.txt').unlink()
    annotate(folder, {'b': ('mine', ['Run'])})
    assert 'split_train.txt: not found, and gt.json has no annotated training subset' in error_of(open_split, folder)


@pytest.mark.parametrize('version, num_videos, instances, empty, duplicates', [('1.2', 2383, 3582, 3, 7),
                                                                              ('1.3', 4926, 7654, 3, 21)])
def test_published_annotations_of_activitynet(tmp_path, version, num_videos, instances, empty, duplicates):
    """The validation subset, without a list and with one that lacks 9 videos and has names with v_."""
    content = read_json(GOLDEN / f'activitynet{version}.json.gz')
    content['database']['more'] = {'subset': 'training', 'annotations': [{'label': 'Ballet', 'segment': [1, 2]}]}
    (tmp_path / 'gt.json').write_text(json.dumps(content))
    gt = read_ground_truth(tmp_path / 'gt.json')
    found = find_split(tmp_path, 'test', gt, gt.labels, BOTH).summary()
    assert (found.source, found.annotated, found.instances) == ('subset validation', num_videos, instances)
    assert (found.empty_instances, found.duplicate_instances) == (empty, duplicates)

    names = [f'v_{name}' for name in gt.videos[9:-1]] + ['v_unknown']
    (tmp_path / 'split_test.txt').write_text('\n'.join(names))
    split = find_split(tmp_path, 'test', gt, gt.labels, BOTH)
    found = split.summary()
    assert len(split.problems) == 1 and 'no test features found' in split.problems[0]
    assert (found.listed, found.annotated, found.without_annotation) == (num_videos - 8, num_videos - 9, ['v_unknown'])
    assert found.unlisted == gt.videos[:9]


# ---- counts and the time base ---------------------------------------------------------------------------------------

def test_summary_counts_irregularities(folder):
    segments = [0, 1], ['0', 1.0], [2, 2], [3, 1], [5, 30 * 0.64 + 0.9]
    rows = [{'label': 'Run', 'segment': segment} for segment in segments]
    (folder / 'gt.json').write_text(json.dumps({'database': {
        'b': {'subset': 'train', 'annotations': rows}, 'a': {'subset': 'train', 'annotations': [
            {'label': 'Run', 'segment': [0, 7 * 0.64 + 0.6]}, {'label': 'Jump', 'segment': [0, 7 * 0.64 + 0.6]}]},
        'f': {'subset': 'train', 'annotations': rows[:1]}, 'g': {'subset': 'other', 'annotations': rows[:1]}}}))
    train = open_split(folder)
    summary = train.summary()
    assert summary == ('split_train.txt', 3, 2, 7, 2, 1, [], ['c'], ['f'], [], 0)
    for fps, frames, names in ((25, 16, '1 of 2 videos with'), (50, 16, '2 of 2 videos with'), (25, 32, '')):
        assert ''.join(train.time_base(fps, frames).warnings()).startswith(names)
    text = '\n'.join(summary.lines())
    for part in ('3 videos in split_train.txt, 2 of them annotated, 7 instances (2 of no length, 1 exact duplicates',
                 '1 video without annotation: c'):
        assert part in text


@pytest.mark.parametrize('seconds_per_row, fps, frames, advice', [
    (0.64, 25, 16, None), (0.64 * 1.025, 25, 16, None), (0.64 * 0.975, 25, 16, None),
    (0.64 * 1.11, 25, 16, '--snippet_frames 17.76'), (0.64 * 0.89, 25, 16, '--snippet_frames 14.24'),
    (2.56, 25, 16, '--snippet_frames 64'), (0.96, 25, 16, '--snippet_frames 24'), (0.16, 25, 16, '--snippet_frames 4'),
    (16 / 30, 25, 16, '--feature_fps 30'), (0.64, 30, 16, '--feature_fps 25'), (0.16, 25, 32, '--snippet_frames 4'),
    (7.7, 25, 16, '--snippet_frames 192.5')])
def test_time_base(folder, seconds_per_row, fps, frames, advice):
    database = annotate(folder, {name: ('train', ['Run']) for name in 'abc'})
    for name, entry in database.items():
        entry['duration'] = None if name == 'c' else LENGTHS[name] * seconds_per_row
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    time_base = open_split(folder).time_base(fps, frames)
    assert len(time_base.ratios) == 2 and np.median(time_base.ratios) == pytest.approx(seconds_per_row * fps / frames)
    assert '1 video without a duration: not checked' in time_base.lines()[0]
    found = time_base.warnings()
    assert [line.rpartition(' try ')[2] for line in found if 'TIME BASE' in line] == ([advice] if advice else [])


def set_clock(folder, **videos):
    """Write annotations of the training videos with further keys: a duration, a frame rate."""
    database = annotate(folder, {name: ('train', ['Run']) for name in 'abc'})
    for name, entry in videos.items():
        database[name] |= entry
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    return open_split(folder)


def test_no_duration_no_check(folder):
    for split in open_split(folder), open_split(folder, 'test'):
        time_base = split.time_base(25, 16)
        assert time_base.lines()[0].startswith('time base: not checked') and not time_base.warnings()


def test_the_remainder_of_a_clip_is_no_mismatch(folder):
    """Of 125 frames, 5 s, the first 112 are 7 snippets."""
    split = set_clock(folder, a={'duration': 5.0})
    assert not split.time_base(25, 16).warnings()
    assert '--feature_fps 24' in split.time_base(60, 16).warnings()[0]


@pytest.mark.parametrize('b, a', [(60.0, 60.0), (19.2 * 25 / 24, 14.0)])
def test_videos_of_different_rates_are_warned_about_and_get_their_own(folder, b, a):
    """30 rows and 7 rows: rescaled videos, or another frame rate."""
    split = set_clock(folder, b={'duration': b}, a={'duration': a}, c={'duration': 0.64})
    warning, = split.time_base(25, 16).warnings()
    assert 'TIME BASE: the durations of ' in warning and 'a; try --feature_fps video' in warning  # named
    assert not split.time_base('video', 16).warnings()
    assert split.frame_rates('video', 16) == pytest.approx([16 * 30 / b, 16 * 7 / a, 25])


def test_the_rate_of_a_video_is_used_where_its_duration_agrees(folder):
    """30 rows of 16 frames at 30 fps are 16 s; features at 25 fps of a video at 50 fps are those of its duration."""
    split = set_clock(folder, b={'duration': 16.5, 'fps': 30}, a={'duration': 4.6, 'fps': 50}, c={'fps': 24})
    assert split.frame_rates('video', 16) == pytest.approx([30, 16 * 7 / 4.6, 24])
    split = set_clock(folder, b={'duration': 16.5})
    assert 'neither duration nor fps is known for 2 of 3 train videos: a, c' in error_of(split.frame_rates, 'video', 16)
    assert split.frame_rates(25, 16).tolist() == [25, 25, 25]
    split = set_clock(folder, b={'fps': 30}, a={'fps': '24'})
    assert '--feature_fps video if the features have the frame rates of the videos, 24 to 30' in split.time_base(
        25, 16).lines()[0]


def test_the_rate_of_an_extraction_is_that_of_its_features(folder):
    videos = {name: {'fps': 10, 'duration': length * 1.6 + 0.1} for name, length in LENGTHS.items() if name in 'abc'}
    (folder / 'extraction.json').write_text(json.dumps({'videos': videos}))
    split = set_clock(folder, b={'fps': 30})
    assert split.frame_rates('video', 16).tolist() == [10, 10, 10]
    assert split.time_base(25, 16).warnings()[0].endswith('try --feature_fps 10')


# ---- names ----------------------------------------------------------------------------------------------------------

def write_labeled(folder, labels, *names):
    """Write labels.csv, and features of videos for training."""
    for name in names:
        save(folder, 'train', name, features_of('x', 5))
    (folder / 'labels.csv').write_text(labels, encoding='utf-8')
    return folder


def test_names_may_differ_in_suffix_unicode_form_and_case(tmp_path):
    labels = 'video,label\ncaf\u00e9.mp4,run\nb_2.ogv,run\nc.GIF,jump\nD,jump\n'
    write_labeled(tmp_path, labels, 'cafe\u0301', 'b_2', 'c', 'd')
    split = open_split(tmp_path)
    assert len(split.files) == 4 and not split.without_features


def test_labels_that_differ_in_case_are_a_warning(tmp_path):
    write_labeled(tmp_path, 'video,label\na,Run\nb,run\n', 'a', 'b')
    warning, = read_annotations(tmp_path).warnings
    assert "'Run' and 'run'" in warning


@pytest.mark.parametrize('text', ['"Run,Jump"', 'Run|Jump', 'Run; Jump'])
def test_several_labels_in_a_cell_are_a_warning(tmp_path, text):
    write_labeled(tmp_path, f'video,label\na,Run\nb,{text}\nc,Jump/Hop\n', 'a', 'b', 'c')
    warning, = read_annotations(tmp_path).warnings
    assert repr(text.strip('"')) in warning and 'write one row per label' in warning


def test_a_list_is_split_at_line_breaks_only(tmp_path):
    (tmp_path / 'split.txt').write_bytes('a\u2028b\r\n\t c\x85 \rd\x0c\n\n e.npy'.encode())
    assert read_split_file(tmp_path / 'split.txt') == ['a\u2028b', 'c\x85', 'd\x0c', 'e']
