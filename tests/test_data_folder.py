"""Labels without times, durations, and who belongs to a split where little says so."""
import json

import numpy as np
import pytest

from formats.annotations import missing_annotations, read_annotations, read_labels, read_split_file
from formats.data_folder import find_split, has_test_videos
from utils import InputError

BOTH = ('rgb', 'flow')


def written(folder, text, name='labels.csv'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def add_features(folder, split, *names, length=4):
    for stream in BOTH:
        for name in names:
            path = folder / 'features' / split / stream / f'{name}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, np.ones((length, 3), np.float32))


def tags(truth):
    return {(truth.videos[v], truth.labels[c]) for v, c in zip(truth.tag_video.tolist(), truth.tag_label.tolist())}


@pytest.mark.parametrize('text', [
    'video,label\na,Run\nb,Jump\na,Jump\n', 'label,video\r\nRun,a\r\nJump,b\r\n\r\nJump,a\r\n',
    '\ufeffvideo, label\na.mp4,Run\nv_b,Jump\nb.MKV,Jump\n"a",Jump\na.npy,Run\n'])
def test_a_label_a_row_names_what_happens_in_a_video(tmp_path, text):
    truth = read_labels(written(tmp_path, text))
    assert truth.labels == ['Jump', 'Run'] and len(truth.segments) == 0
    found = {(name.removeprefix('v_'), label) for name, label in tags(truth)}
    assert found == {('a', 'Run'), ('a', 'Jump'), ('b', 'Jump')} and len(truth.videos) == 2


def test_quotes_hold_commas(tmp_path):
    path = written(tmp_path, 'video,label\n"one, two.mp4","Run, fast"\n')
    assert tags(read_labels(path)) == {('one, two', 'Run, fast')}


@pytest.mark.parametrize('text, part', [
    ('', 'found nothing'), ('a,Run\n', 'header video,label'), ('video,label,start\na,Run,1\n', 'header video,label'),
    ('video,label\n', 'labels no video'), ('video,label\na\n', 'row 2'), ('video,label\na,Run\nb,Run,3\n', 'row 3'),
    ('video,label\na,\n', 'row 2'), ('video,label\n,Run\n', 'row 2'), (b'video,label\na,\xff\xfe\n', 'not a readable'),
    ('video,label\na,"Run\n', 'not a readable')])
def test_other_label_files_are_refused_by_line(tmp_path, text, part):
    with pytest.raises(InputError) as error:
        read_labels(written(tmp_path, text))
    assert 'labels.csv' in str(error.value) and part in str(error.value) and '\n' not in str(error.value)


def test_whoever_has_labels_trains_and_whoever_lies_in_the_test_folder_is_tested(tmp_path):
    written(tmp_path, 'video,label\na,Run\nb,Jump\nt,Run\n')
    add_features(tmp_path, 'train', 'a', 'b')
    truth = read_annotations(tmp_path)
    assert not has_test_videos(tmp_path, truth)
    assert find_split(tmp_path, 'train', truth, truth.labels, BOTH).without_features == ['t']
    add_features(tmp_path, 'test', 't', 'u')
    assert has_test_videos(tmp_path, truth)
    train = find_split(tmp_path, 'train', truth, truth.labels, BOTH).require()
    test = find_split(tmp_path, 'test', truth, truth.labels, BOTH).require()
    assert train.names == ['a', 'b'] and train.labels.tolist() == [[0, 1], [1, 0]] and not train.without_features
    assert test.names == ['t', 'u'] and test.labels.tolist() == [[0, 1], [0, 0]]
    assert train.summary(25, 16).tags == 2


def test_annotations_win_over_labels(tmp_path):
    written(tmp_path, 'video,label\na,Run\n')
    written(tmp_path, json.dumps({'database': {'a': {'annotations': [{'label': 'Jump'}]}}}), 'gt.json')
    assert tags(read_annotations(tmp_path)) == {('a', 'Jump')}


def test_durations_come_from_the_extraction_where_nothing_else_says_them(tmp_path):
    written(tmp_path, json.dumps({'database': {'v_a': {'duration': 7}, 'b': {}}}), 'gt.json')
    seconds = {'a': 99, 'b': 4.5, 'c': 3, 'd': None}
    extraction = {'videos': {name: {'duration': value} for name, value in seconds.items()}}
    written(tmp_path, json.dumps(extraction), 'extraction.json')
    truth = read_annotations(tmp_path)
    assert truth.videos == ['v_a', 'b', 'c'] and truth.durations.tolist() == [7, 4.5, 3]
    written(tmp_path, '{"videos": [1]}', 'extraction.json')
    with pytest.raises(InputError, match='extraction.json'):
        read_annotations(tmp_path)


def test_a_list_may_name_the_files(tmp_path):
    assert read_split_file(written(tmp_path, 'a.npy\nb\n', 'split_test.txt')) == ['a', 'b']


def test_annotations_under_another_name_are_pointed_at(tmp_path):
    assert 'labels.csv' in str(missing_annotations(tmp_path))
    (tmp_path / 'thumos14.json').write_text('{}')
    assert 'thumos14.json is there' in str(missing_annotations(tmp_path))
