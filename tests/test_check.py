"""`python main.py --check`: what is reported about good and broken data folders."""
import json
import re
import shutil

import numpy as np
import pytest
from data_folders import annotate, features_of, save, write_folder
from golden_data import GT, THUMOS14

import main
from utils import read_bytes, read_json


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


def check(folder, capsys, *flags):
    """Return the exit status, standard output and the last line of standard error."""
    status = main.main(['--data_path', str(folder), '--check', *flags])
    out, err = capsys.readouterr()
    err = re.sub('\r[^\r]*', '', err)  # progress bars, on a slow machine
    assert err.count('\n') == (status != 0)
    return status, out, err


def test_a_good_folder(folder, capsys):
    status, out, _ = check(folder, capsys)
    assert status == 0 and out.endswith('fine: ready to train\n') and 'warning' not in out
    status, out, _ = check(folder, capsys, '--dataset', 'thumos14')
    assert status == 0 and out.endswith('\nready to train, but see 1 warning above\n')
    for part in ('2 classes, 5 videos (3 train, 2 test), 6 instances',
                 '3 videos in split_train.txt, 3 of them annotated',
                 'features/train (two-stream layout): 3 videos, feature width 4 per modality (rgb, flow), float32',
                 '38 snippets; a video has 1 to 30, median 7, mean 12.7',
                 'the data set of --dataset has 20 classes, 200 training and 210 test videos, this folder 2, 3 and 2'):
        assert part in out


def test_the_classes_are_listed_with_their_counts(folder, capsys):
    out = check(folder, capsys)[1]
    title, row = out[out.index('classes  '):].splitlines()[:2]
    assert title.split(maxsplit=1)[1] == 'numbers of train videos, test videos, instances:'
    assert row.split() == 'Jump 2 1 3 Run 2 1 3'.split()


def test_of_many_classes_the_smallest_and_the_largest_are_listed(tmp_path, capsys):
    videos = {f'v{i}': ('train', [f'class_{j:02}' for j in range(60) if i <= j]) for i in range(60)}
    annotate(tmp_path, videos)
    for name in videos:
        save(tmp_path, 'train', name, features_of(name, 3))
    out = check(tmp_path, capsys)[1]
    title, *rows = out[out.index('classes  '):].splitlines()[:11]
    assert 'of the 10 classes with the fewest and the 10 with the most train videos' in title
    assert [row.split() for row in rows] == [[f'class_{j:02}', f'{j + 1}', f'{j + 1}', f'class_{50 + j}', f'{51 + j}',
                                              f'{51 + j}'] for j in range(10)]


def test_the_flags_of_a_training_apply(folder, capsys):
    shutil.rmtree(folder / 'features/train/flow')
    assert check(folder, capsys, '--modal', 'all')[0] == 2
    status, out, _ = check(folder, capsys)  # the stream that is there
    assert status == 0 and 'per modality (rgb)' in out
    status, out, _ = check(folder, capsys, '--modal', 'rgb')
    assert status == 0 and 'fine: ready to train' in out
    status, out, _ = check(folder, capsys, '--modal', 'rgb', '--layout', 'joint')
    assert status == 2 and 'searched for --layout joint' in out


def test_a_folder_without_test_videos(folder, capsys):
    (folder / 'split_test.txt').unlink()
    shutil.rmtree(folder / 'features/test')
    annotate(folder, {name: ('train', ['Run']) for name in 'abc'})
    status, out, _ = check(folder, capsys)
    assert status == 0 and 'no test videos: the training videos will be localized, without scores' in out


def test_all_problems_are_reported_together(folder, capsys):
    (folder / 'features/train/rgb/a.npy').write_text('hello')
    (folder / 'features/test/flow/e.npy').unlink()
    path = folder / 'features/test/rgb/d.npy'
    array = np.load(path)
    array[3] = np.nan
    np.save(path, array)
    status, out, err = check(folder, capsys)
    problems = [line.split('problem: ')[1] for line in out.splitlines() if 'problem: ' in line]
    assert status == 2 and err == f'error: {folder}: 3 problems: training would fail\n' and len(problems) == 3
    for problem, part in zip(problems, ('a.npy: not a readable', 'no features for 1 of the 2 videos', 'd.npy: NaN')):
        assert part in problem


@pytest.mark.parametrize('spoil, part', [
    (lambda f: (f / 'gt.json').unlink(), 'gt.json: not found; write it, or labels.csv'),
    (lambda f: (f / 'gt.json').write_text('{'), 'gt.json: not a valid JSON file'),
    (lambda f: annotate(f, {name: ('train', []) for name in 'abc'}), 'gt.json: no annotation has a label'),
    (lambda f: shutil.rmtree(f / 'features/train'), 'no train features found'),
    (lambda f: (f / 'split_train.txt').write_text(''), 'split_train.txt: lists no videos'),
    (lambda f: annotate(f, {'x': ('train', ['Run'])}), 'annotates none of the 3 training videos'),
    (lambda f: save(f, 'train', 'c', features_of('c', 3, 9)), 'c.npy: features have width 9 per modality'),
    (lambda f: [save(f, 'test', n, features_of(n, 3, 9)) for n in 'de'],
     'training features have width 4 per modality, test features 9'),
    (lambda f: [p.unlink() for p in f.glob('features/train/rgb/*')], 'train/rgb: contains no .npy files')])
def test_check_fails_where_training_would(folder, capsys, spoil, part):
    spoil(folder)
    status, out, err = check(folder, capsys)
    assert status == 2 and part in out and err == f'error: {folder}: 1 problem: training would fail\n'


def test_warnings_about_what_a_training_would_not_notice(folder, capsys):
    annotate(folder, {'a': ('train', ['Run']), 'b': ('train', ['Run']), 'd': ('test', ['Jump'])}, duration=500)
    (folder / 'split_test.txt').write_text('d\nb\n')
    save(folder, 'test', 'b', features_of('b', 30))
    np.save(folder / 'features/train/rgb/a.npy', np.zeros((7, 4), np.float32))
    np.save(folder / 'features/train/flow/a.npy', np.zeros((7, 4), np.float32))
    status, out, _ = check(folder, capsys)
    assert status == 0
    for part in ('TIME BASE', 'in both training and test: 1 video: b', '1 of 2 classes without training video: Jump',
                 '1 video with nothing but zeros: a'):
        assert part in out


@pytest.mark.parametrize('words, part', [
    (['--data_path', '/nowhere/at/all'], 'not a folder'), (['--data_path', 'x' * 300], 'xxx'), ([], '--data_path'),
    (['--data_path', '.', '--feature_fps', '0'], 'feature_fps'),
    (['--data_path', '.', '--feature_fps', 'nan'], 'feature_fps')])
def test_bad_usage(capsys, words, part):
    try:
        status = main.main(['--check', *words])
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert status == 2 and not out and err.startswith('error: ') and part in err and err.count('\n') == 1


def test_published_annotations_and_lengths(tmp_path, capsys):
    """THUMOS14 with the lengths of its published features; training features of every fourth row."""
    (tmp_path / 'gt.json').write_bytes(read_bytes(GT))
    lengths = read_json(THUMOS14 / 'feature_lengths.json.gz')
    for name, entry in read_json(GT)['database'].items():
        split, length = entry['subset'], lengths.get(name, int(entry['duration'] / 0.64))
        save(tmp_path, split, name, features_of(name, length if split == 'test' else length // 4, 1))
    status, out, _ = check(tmp_path, capsys)
    assert status == 0 and '20 classes' in out and '3007 instances' in out and '3311 instances' in out
    assert out.count('TIME BASE') == 1 and 'try --snippet_frames 64' in out  # training and test differ
    out = check(tmp_path, capsys, '--snippet_frames', '64')[1]
    assert out.count('TIME BASE') == 1 and 'try --snippet_frames 16' in out


# ---- files of others ------------------------------------------------------------------------------------------------

def write_labeled(folder, labels, *names):
    """Write labels.csv, and features of videos for training."""
    for name in names:
        save(folder, 'train', name, features_of('x', 5))
    (folder / 'labels.csv').write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    return folder


def test_videos_without_label_and_labels_without_video_are_counted(tmp_path, capsys):
    status, out, _ = check(write_labeled(tmp_path, 'video,label\na,x\nb,y\nc,y\n', 'a', 'b', 'p', 'q'), capsys)
    assert status == 0 and '1 video without features: c' in out
    assert '2 videos with features, but neither annotated nor listed: p, q' in out


def test_ambiguous_is_named_as_no_class(folder, capsys):
    annotate(folder, {name: (split, ['Run', 'Ambiguous']) for name, split in
                      (('a', 'train'), ('b', 'train'), ('c', 'train'), ('d', 'test'), ('e', 'test'))})
    assert '"Ambiguous" is trained as a class' in check(folder, capsys)[1]


def test_labels_and_keys_that_look_wrong_are_warnings(folder, capsys):
    database = annotate(folder, {'a': ('train', ['Run']), 'b': ('train', ['run']), 'c': ('train', ['Run']),
                                 'd': ('test', ['Run']), 'e': ('test', ['Run'])})
    database['a']['Duration'] = 9
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    status, out, _ = check(folder, capsys)
    assert status == 0 and "warning: " in out and "'Run' and 'run'" in out and 'did you mean "duration"?' in out
    assert 'see 2 warnings above' in out


@pytest.mark.parametrize(('labels', 'part'), [
    ('video;label\na;x\nb;y\n', "labels.csv: the columns are separated by ';'"),
    ('"label"\t"video"\nx\ta\n', "labels.csv: the columns are separated by '\\t'"),
    ('video,label\nx,a\ny,b\n', 'the columns seem to be swapped; correct the header to label,video'),
    ('video,label\na,x\nb,y\n'.encode('utf-16'), 'labels.csv: is not UTF-8, it seems to be UTF-16'),
    ('video,label\na,x\nb,y\n'.encode('utf-16-le'), 'labels.csv: is not UTF-8, it seems to be UTF-16'),
    ('video,label\na,h\u00fcpfen\n'.encode('latin-1'), 'it is not UTF-8, save it as that')])
def test_one_problem_names_the_cause(tmp_path, capsys, labels, part):
    status, out, err = check(write_labeled(tmp_path, labels, 'a', 'b'), capsys)
    assert status == 2 and part in out and out.count('problem: ') == 1 and 'split_train' not in out
    assert err.endswith(': 1 problem: training would fail\n')


@pytest.mark.parametrize('inner', ['features', 'features/train', 'features/train/rgb', '..'])
def test_the_folder_with_the_annotations_is_named(tmp_path, capsys, inner):
    folder = write_folder(tmp_path / 'thumos')
    status, out, err = check(folder / inner, capsys)
    assert status == 2 and f'but {folder} does: use --data_path {folder}' in out and out.count('problem: ') == 1


def test_the_nearest_file_is_named(folder, capsys):
    (folder / 'split_train.txt').write_text('a\nb\nvideo_1\n')
    save(folder, 'train', 'vidoe_1', features_of('x', 5))
    status, out, _ = check(folder, capsys)
    assert status == 2 and "the folder contains 'vidoe_1', which is similar" in out


def test_few_videos_of_a_class_and_short_videos_are_warned_of(tmp_path, capsys):
    labels = {'a': 'Run', 'b': 'Run', 'c': 'Run', 'd': 'Jump', 'e': '', 'f': ''}
    rows = ''.join(f'{name},{label}\n' for name, label in labels.items())
    (tmp_path / 'labels.csv').write_text(f'video,label\n{rows}')
    for name in labels:
        save(tmp_path, 'train', name, features_of(name, 19))
    out = check(tmp_path, capsys)[1]
    assert f'warning: {tmp_path}: 1 of 2 classes with fewer than three training videos' in out
    assert f'warning: {tmp_path}: half of the videos have fewer than 20 snippets' in out
    for name in 'abc':
        save(tmp_path, 'train', name, features_of(name, 30))
    (tmp_path / 'labels.csv').write_text('video,label\na,Run\nb,Run\nc,Run\ne,\n')
    assert 'warning' not in check(tmp_path, capsys)[1]


def test_a_single_class_needs_negative_videos(folder, capsys):
    database = annotate(folder, {name: ('train' if name in 'abc' else 'test', ['Run']) for name in 'abcde'})
    status, out, _ = check(folder, capsys)
    assert status == 0 and 'a single class' in out and 'to gt.json, with the annotation {"label": ""}' in out
    database['a']['annotations'] = [{'label': ''}]  # what it advises
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    status, out, _ = check(folder, capsys)
    assert status == 0 and 'a single class' not in out


# ---- times ----------------------------------------------------------------------------------------------------------

def test_annotations_after_the_features_change_the_last_line(folder, capsys):
    out = check(folder, capsys)[1]
    assert 'time base: not checked' in out and out.endswith('fine: ready to train\n')
    out = check(folder, capsys, '--feature_fps', '100')[1]  # the rows of a, c and e last 1.12, 0.16 and 0.32 s
    assert 'warning: train: 1 of 3 videos with annotations that end after the features (0.16 s per snippet): c' in out
    assert 'warning: test: 1 of 2 videos' in out and out.endswith('\nready to train, but see 2 warnings above\n')


def test_rescaled_features_are_warned_about_and_videos_may_have_their_own_rate(folder, capsys):
    for split, names in (('train', 'bac'), ('test', 'de')):
        for name in names:
            save(folder, split, name, features_of(name, 10))
    database = read_json(folder / 'gt.json')['database']
    for name, seconds in zip('abcde', (3, 6.4, 20, 6.4, 64)):
        database[name]['duration'] = seconds
        for row in database[name]['annotations']:
            row['segment'] = [1, 2]
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    out = check(folder, capsys)[1]
    assert out.count('try --feature_fps video') == 2 and 'see 2 warnings above' in out
    assert check(folder, capsys, '--feature_fps', 'video')[1].endswith('fine: ready to train\n')
    del database['d']['duration'], database['a']['duration']  # a is trained on, without times
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    status, out, _ = check(folder, capsys, '--feature_fps', 'video')
    assert status == 2 and out.count('neither duration nor fps is known for 1 of 2 test videos: d') == 1


@pytest.mark.parametrize('segment, part', [([125, 300], 'end after their videos: are the times frames'),
                                           ([0.1, 0.9], 'are the times fractions'), ([5, 3], 'end before they start')])
def test_annotations_in_other_units_are_warned_about(folder, capsys, segment, part):
    database = annotate(folder, {name: (split, ['Run']) for split, names in (('train', 'abc'), ('test', 'de'))
                                 for name in names}, duration=19)
    for entry in database.values():
        entry['annotations'][0]['segment'] = segment
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    assert part in check(folder, capsys)[1]
