"""The files of the field: what is read, what is refused and with which words, and what is written."""
import csv
import gc
import json
from contextlib import contextmanager

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from formats.annotations import match_videos, read_ground_truth, select_videos, subset_name
from formats.columns import BLOCK
from formats.detections import Detections, read_detections, write_detections, write_detections_csv
from utils import InputError, quote

ROW = {'label': 'x', 'segment': [0, 1], 'score': 0.5}


def written(folder, content) -> str:
    """The path of a file with these bytes, this text, or this value as JSON."""
    path = folder / 'file.json'
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return str(path)


def truth_file(folder, annotations) -> str:
    return written(folder, {'database': {'fine': {'annotations': [ROW, ROW]}, 'odd': {'annotations': annotations}}})


def test_ground_truth(tmp_path):
    rows = [{'label': label, 'segment': segment} for label, segment in
            (('b', ['0.5', 2]), ('a', [3, 3]), ('b', [5.5, ' 4 ']))]
    truth = read_ground_truth(written(tmp_path, {'version': 1, 'database': {
        'u': {'subset': 'Validation', 'duration': 9, 'annotations': rows, 'url': None},
        'bare': {'subset': 'test', 'duration': -1}, 'null': {'annotations': None, 'duration': None},
        'w': {'subset': 'Wild', 'duration': '7.5', 'annotations': [{'label': 'a', 'segment': [0, 1]}]}}}))
    assert truth.videos == ['u', 'bare', 'null', 'w'] and truth.labels == ['a', 'b']
    assert truth.subsets == ['Validation', 'test', '', 'Wild']
    assert [*map(subset_name, truth.subsets)] == ['validation', 'testing', '', 'wild']
    np.testing.assert_array_equal(truth.durations, [9, np.nan, np.nan, 7.5])
    assert (truth.video.tolist(), truth.label.tolist()) == ([0, 0, 0, 3], [1, 0, 1, 0])
    assert truth.segments.tolist() == [[0.5, 2], [3, 3], [5.5, 4], [0, 1]] and truth.segments.dtype == np.float64

    some = select_videos(truth, np.array([False, True, False, True]))
    assert (some.videos, some.subsets, some.labels) == (['bare', 'w'], ['test', 'Wild'], ['a', 'b'])
    assert (some.video.tolist(), some.label.tolist(), some.segments.tolist()) == ([1], [0], [[0, 1]])


@pytest.mark.parametrize(('name', 'spellings'), [
    ('training', ['train', 'Train', 'training', 'TRAINING', ' train']), ('testing', ['test', 'Test', 'testing']),
    ('validation', ['val', 'Val', 'validation', 'Validation']), ('trainval', ['TrainVal']), ('', [''])])
def test_subset_names(name, spellings):
    assert {subset_name(spelling) for spelling in spellings} == {name}


def test_detections_there_and_back(tmp_path):
    path = written(tmp_path, {'results': {'v': [{'label': 'b', 'score': 0.25, 'segment': [0, 1.5]},
                                                {'label': 'a', 'score300': 1, 'segment': ['2', 3]}],
                                          'none': [], 'w': [{'label': 'b', 'score': -2, 'segment': [4, 3]}]}})
    detections = read_detections(path)
    assert (detections.videos, detections.labels) == (['v', 'none', 'w'], ['a', 'b'])
    assert (detections.video.tolist(), detections.label.tolist()) == ([0, 0, 2], [1, 0, 1])
    assert (detections.scores.tolist(), detections.segments.tolist()) == ([0.25, 1, -2], [[0, 1.5], [2, 3], [4, 3]])

    write_detections(path, detections)
    assert all(np.array_equal(a, b) for a, b in zip(read_detections(path), detections))
    content = json.loads((tmp_path / 'file.json').read_text())
    assert set(content) == {'version', 'results', 'external_data'}
    assert content['results']['v'][1] == {'label': 'a', 'score': 1, 'segment': [2, 3]}
    assert content['results']['none'] == []


def test_numbers_are_read_to_the_last_bit_and_written_so(tmp_path):
    texts = ['0.1', '1e-7', '123456789.12345678901234567890', '4.9e-324', '1e12', '18446744073709551616e-10',
             '0.' + '3' * 400, '100000000000000000000e-9', '-0.0']
    rows = ','.join(f'{{"label": "x", "segment": [0, {text}], "score": {text}}}' for text in texts)
    detections = read_detections(written(tmp_path, f'{{"results": {{"v": [{rows}]}}}}'))
    expected = [*map(float, texts)]
    assert detections.scores.tolist() == detections.segments[:, 1].tolist() == expected
    write_detections(tmp_path / 'again.json', detections)
    again = json.loads((tmp_path / 'again.json').read_bytes())['results']['v']
    assert [row['score'] for row in again] == [row['segment'][1] for row in again] == expected


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_what_json_cannot_hold_is_not_written(tmp_path, value):
    found = read_detections(written(tmp_path, {'results': {'v': [ROW]}}))
    for broken in found._replace(scores=found.scores * value), found._replace(segments=found.segments + value):
        with pytest.raises(ValueError):
            write_detections(tmp_path / 'new.json', broken)
    assert not (tmp_path / 'new.json').exists()


@pytest.mark.parametrize('text', [
    '{"results": {"a": [], "b": [], "a": []}}',
    '{"results": {"v": [%s, {"label": "x", "label": "x", "segment": [0, 1], "score": 1}]}}',
    '{"results": {"v": [%s, {"label": "x", "segment": [0, 1], "score": 1, "": {"k": 1, "k": ":"}}]}}',
    '{"results": {"v": [{"label": "a:b", "segment": [0, 1], "score": 1, "label": "c:d"}]}}',
    r'{"results": {"v": [{"label": "a\u003ab", "segment": [0, 1], "score": 1, "label": "c\u003Ad"}]}}',
    r'{"results": {"v": [{"label": "x", "segment": [0, 1], "score": 1, "lab\u0065l": "y"}]}}',
    '{"results": {"v": [%s]}, "results": {}}', '{"results": {}, "results": {"v": [%s]}}',
    '{"results": {"v": [%s]}, "external_data": {"k": 1, "k": 1}}',
    '{"results": {"v": [%s]}, "external_data": [{"k": {"k": 1, "k": 1}}]}',
    '{"results": {"v": [{"label": {"a": {"b": 1}}, "label": "x", "segment": [0, 1], "score": 1}]}}',
    '{"results": {"v": [{"label": "x", "segment": [0, 1], "segment": [0, 1]}]}}',  # and without a score
    '{"results": {"v": [{"k": 1, "k": 1}, 3]}}', '{"database": {"v": {}, "v": {}}}'])
def test_a_key_given_twice_is_refused_wherever_it_stands(tmp_path, text):
    path = written(tmp_path, text.replace('%s', json.dumps(ROW)))
    assert 'stands twice' in message(read_detections, path)


def test_the_garbage_collector_is_as_before_also_after_a_damaged_file(tmp_path):
    enabled = gc.isenabled()
    try:
        for switch in gc.disable, gc.enable:
            switch()
            before = gc.isenabled()
            read_detections(written(tmp_path, {'results': {'v': [ROW]}}))
            assert gc.isenabled() == before
            for damaged in '{"results": {"v": [3]}}', '{"results": ', '{"results": {}, "results": {}}':
                message(read_detections, written(tmp_path, damaged))
                assert gc.isenabled() == before
    finally:
        (gc.enable if enabled else gc.disable)()


def test_files_of_several_blocks_are_read_and_their_faults_found_in_any(tmp_path):
    lists = {'a': BLOCK - 1, 'none': 0, 'b': 2, 'c': BLOCK + 1}
    rows = [{'label': str(i % 7), 'segment': [i, i + 0.5], 'score': i} for i in range(2 * BLOCK + 2)]
    left = iter(rows)
    results = {video: [next(left) for _ in range(size)] for video, size in lists.items()}
    found = read_detections(written(tmp_path, {'results': results}))
    assert found.segments.tolist() == [row['segment'] for row in rows]
    assert found.scores.tolist() == [row['score'] for row in rows]
    assert [found.labels[i] for i in found.label] == [row['label'] for row in rows]
    assert np.bincount(found.video).tolist() == list(lists.values())
    truth = read_ground_truth(written(tmp_path, {'database': {
        video: {'annotations': rows} for video, rows in results.items()}}))
    assert truth.segments.tolist() == found.segments.tolist() and truth.video.tolist() == found.video.tolist()
    assert truth.labels == found.labels and truth.label.tolist() == found.label.tolist()

    for video, place in ('a', 0), ('a', BLOCK - 2), ('b', 0), ('b', 1), ('c', 0), ('c', BLOCK - 1), ('c', BLOCK):
        for fault in {'label': 3}, {'segment': [0]}, {'score': None}:
            faulty = {**results, video: [*results[video]]}
            faulty[video][place] = {**ROW, **fault}
            said = message(read_detections, written(tmp_path, {'results': faulty}))
            assert f'video {video!r}, detection {place + 1}: ' in said and f'"{[*fault][0]}"' in said


def test_names_with_colons_are_names(tmp_path):
    text = r'{"results": {"a:b\u003ac": [{"label": "::\u003A\"", "segment": [0, 1], "score": 1}]}}'
    detections = read_detections(written(tmp_path, text))
    assert (detections.videos, detections.labels) == (['a:b:c'], ['::' + ':"'])


NAMES = ['plain', 'a,b', 'say "so"', 'two\nlines', 'car\rriage', ' spaces ', 'Ä:\t', "it's"]


def test_a_table_of_detections_is_what_any_reader_of_csv_expects(tmp_path):
    rng = np.random.default_rng(0)
    found = Detections(NAMES, NAMES[::-1], np.arange(8), np.arange(8), rng.normal(size=(8, 2)) * 1e-5, rng.random(8))
    write_detections_csv(tmp_path / 'a.csv', found)
    with open(tmp_path / 'a.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['video', 'label', 'start', 'end', 'score']
    assert [row['video'] for row in rows] == NAMES and [row['label'] for row in rows] == NAMES[::-1]
    for name, column in (('start', found.segments[:, 0]), ('end', found.segments[:, 1]), ('score', found.scores)):
        assert [float(row[name]) for row in rows] == column.tolist()
    table = pd.read_csv(tmp_path / 'a.csv')
    assert table['video'].tolist() == NAMES and table['score'].tolist() == pytest.approx(found.scores)


def test_names_that_are_no_text_are_refused_when_read_and_escaped_when_written(tmp_path):
    for text in (r'{"results": {"v": [{"label": "a\ud800", "segment": [0, 1], "score": 1}]}}',
                 r'{"results": {"a\ud800": []}}'):
        assert r"'a\ud800' is not valid text" in message(read_detections, written(tmp_path, text))
    assert 'not valid text' in message(read_ground_truth, truth_file(tmp_path, [{**ROW, 'label': '\udfff'}]))
    found = Detections(['v\udcff'], ['x\ud800'], np.zeros(1, int), np.zeros(1, int), np.ones((1, 2)), np.ones(1))
    write_detections(tmp_path / 'a.json', found)
    write_detections_csv(tmp_path / 'a.csv', found)
    again = read_detections(tmp_path / 'a.json')
    assert (again.videos, again.labels) == ([r'v\udcff'], [r'x\ud800'])
    assert (tmp_path / 'a.csv').read_text().splitlines()[1] == r'v\udcff,x\ud800,1.0,1.0,1.0'


@pytest.mark.parametrize('content', [{}, {'u': []}])
def test_files_without_rows(tmp_path, content):
    detections = read_detections(written(tmp_path, {'results': content}))
    assert detections.segments.shape == (0, 2) and detections.scores.shape == (0,)
    truth = read_ground_truth(written(tmp_path, {'database': {video: {} for video in content}}))
    assert truth.segments.shape == (0, 2) and truth.videos == list(content)
    assert not select_videos(truth, np.zeros(len(content), bool)).videos


def test_one_id_whatever_its_spelling():
    known = ['abc', 'v_UmAH95xls', 'v_def']
    names = ['v_abc', 'v_UmAH95xls', 'UmAH95xls', 'v_v_UmAH95xls', 'def', 'v_def', 'xyz']
    assert match_videos(names, known).tolist() == [0, 1, 1, 1, 2, 2, -1]
    assert match_videos([], known).dtype == np.int64
    assert match_videos(['v_a', 'a'], ['a', 'v_a']).tolist() == [1, 0]  # the exact spelling comes first


BAD_ROWS = {  # what is wrong: the words that say so
    '"fast"': 'must be an object', 'null': 'must be an object', '[]': 'must be an object',
    '{"segment": [0, 1]}': '"label"', '{"label": 3, "segment": [0, 1]}': '"label"',
    '{"label": null, "segment": [0, 1]}': '"label"', '{"label": ["x"], "segment": [0, 1]}': '"label"',
    '{"label": "x"}': '"segment"', '{"label": "x", "segment": null}': '"segment"',
    '{"label": "x", "segment": "12"}': '"segment"',
    '{"label": "x", "segment": {"0": 1, "1": 2}}': '"segment"', '{"label": "x", "segment": [0]}': '"segment"',
    '{"label": "x", "segment": [0, 1, 2]}': '"segment"', '{"label": "x", "segment": [0, null]}': 'finite',
    '{"label": "x", "segment": [0, true]}': 'finite', '{"label": "x", "segment": [0, "soon"]}': 'finite',
    '{"label": "x", "segment": [0, ""]}': 'finite', '{"label": "x", "segment": [0, [1]]}': 'finite',
    '{"label": "x", "segment": [NaN, 1]}': 'finite', '{"label": "x", "segment": [0, Infinity]}': 'finite',
    '{"label": "x", "segment": [0, "nan"]}': 'finite', '{"label": "x", "segment": [0, 1e400]}': 'finite',
    '{"label": "x", "segment": [-1e13, 1]}': 'finite', '{"label": "x", "segment": [0, 1%s]}' % ('0' * 400): 'finite',
}


NO_TIMES = '{"label": "x"}'    # bad for a detection, a tag in a ground truth


def message(read, path: str) -> str:
    """What the reader says; one line of a sensible length, whatever the file holds."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(path) and text.isprintable() and len(text) < len(path) + 300, text
    return text


@pytest.mark.parametrize('row', BAD_ROWS)
def test_bad_rows(tmp_path, row):
    good = json.dumps(ROW)
    text = f'{{"database": {{"fine": {{"annotations": [{good}]}}, "odd": {{"annotations": [{good}, {row}, {good}]}}}}}}'
    if row == NO_TIMES:
        assert read_ground_truth(written(tmp_path, text)).tag_video.tolist() == [1]
    else:
        said = message(read_ground_truth, written(tmp_path, text))
        assert "video 'odd', annotation 2" in said and BAD_ROWS[row] in said
    text = f'{{"results": {{"fine": [{good}], "odd": [{good}, {row}, {good}]}}}}'
    said = message(read_detections, written(tmp_path, text))
    assert "video 'odd', detection 2" in said and BAD_ROWS[row] in said


def test_annotations_without_times_are_tags_of_their_video(tmp_path):
    def entry(*rows):
        return {'annotations': [{'label': label, 'segment': segment} if segment else {'label': label}
                                for label, segment in rows]}

    truth = read_ground_truth(written(tmp_path, {'database': {
        'mixed': entry(('b', [1, 2]), ('c', None), ('a', [3, 4])), 'timed': entry(('b', [5, 6])),
        'tagged': entry(('d', None), ('a', None))}}))
    assert truth.labels == ['a', 'b', 'c', 'd']
    assert (truth.video.tolist(), truth.label.tolist()) == ([0, 0, 1], [1, 0, 1])
    assert truth.segments.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (truth.tag_video.tolist(), truth.tag_label.tolist()) == ([0, 2, 2], [2, 3, 0])
    videos, labels = truth.video_labels()
    assert sorted(zip(videos.tolist(), labels.tolist())) == [(0, 0), (0, 1), (0, 2), (1, 1), (2, 0), (2, 3)]
    some = select_videos(truth, np.array([False, True, True]))
    assert (some.tag_video.tolist(), some.tag_label.tolist(), some.segments.tolist()) == ([1, 1], [3, 0], [[5, 6]])


@pytest.mark.parametrize('score', ['null', 'true', '""', '"high"', 'NaN', '-Infinity', '[1]', '1e999', '9' * 400])
def test_bad_scores(tmp_path, score):
    text = f'{{"results": {{"odd": [{{"label": "x", "segment": [0, 1], "score": {score}}}]}}}}'
    assert "video 'odd', detection 1: needs a \"score\"" in message(read_detections, written(tmp_path, text))


@pytest.mark.parametrize('duration', ['long', '00:12', True, {}, [1], float('nan'), float('inf'), 1e13, 10 ** 400])
def test_a_duration_that_is_none_counts_as_absent(tmp_path, duration):
    truth = read_ground_truth(written(tmp_path, {'database': {'v': {'duration': duration, 'annotations': [ROW]}}}))
    assert np.isnan(truth.durations[0]) and len(truth.segments) == 1


@pytest.mark.parametrize(('entry', 'words'), [
    ([], 'must be an object'), (None, 'must be an object'), ('x', 'must be an object'), ({'subset': 3}, '"subset"'),
    ({'subset': ['test']}, '"subset"'), ({'annotations': {}}, '"annotations"'),
    ({'annotations': ''}, '"annotations"'), ({'annotations': False}, '"annotations"'),
    ({'annotations': 0}, '"annotations"')])
def test_bad_videos(tmp_path, entry, words):
    said = message(read_ground_truth, written(tmp_path, {'database': {'fine': {}, 'odd': entry}}))
    assert "video 'odd'" in said and words in said


@pytest.mark.parametrize('value', [
    'null', '"x"', '3', '[]', '{}', '{"database": [], "results": null}', '[{"results": {}}]'])
def test_files_of_another_kind(tmp_path, value):
    assert 'it needs {"database"' in message(read_ground_truth, written(tmp_path, value))
    assert 'it needs {"results"' in message(read_detections, written(tmp_path, value))


@pytest.mark.parametrize('rows', [None, {}, 'x', 3, True])
def test_detections_that_are_no_list(tmp_path, rows):
    assert "video 'odd': must have a list" in message(read_detections, written(tmp_path, {'results': {'odd': rows}}))


def test_a_video_under_both_spellings(tmp_path):
    path = written(tmp_path, {'database': {'v_X': {}, 'Y': {}, 'X': {}}})
    assert "'X' and 'v_X' name the same video" in message(read_ground_truth, path)
    path = written(tmp_path, {'results': {'v_X': [], 'X': []}})
    assert "'X' and 'v_X' name the same video" in message(read_detections, path)


def test_hostile_names_are_escaped_and_shortened(tmp_path):
    said = message(read_detections, written(tmp_path, {'results': {'a\n\x1b[31m\ud800' + 'z' * 5000: [3]}}))
    assert r"'a\n\x1b[31m\ud800zzz" in said
    assert len(quote('\0' * 10 ** 6)) < 300


def test_labels_are_told_apart_to_the_last_character(tmp_path):
    labels = ['a', 'a\0', 'a ', '../a', 'Ä', 'B']
    truth = read_ground_truth(truth_file(tmp_path, [{'label': label, 'segment': [0, 1]} for label in labels]))
    assert truth.labels == sorted([*labels, 'x'])
    assert [truth.labels[i] for i in truth.label[2:]] == labels


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10 ** 400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4))
TIMES = st.floats() | st.integers(-5, 50) | st.sampled_from(['0.2', 'x', None, True, 10 ** 400])
ROWS = st.just(ROW) | VALUES | st.fixed_dictionaries({}, optional={
    'label': st.sampled_from(['x', 'y', 3, None]), 'segment': st.lists(TIMES, max_size=3), 'score': TIMES,
    'score300': TIMES})
LISTS = st.lists(ROWS, max_size=4)
ENTRIES = VALUES | st.fixed_dictionaries({}, optional={
    'subset': st.sampled_from(['Train', 3]), 'duration': TIMES, 'annotations': LISTS | VALUES})
VIDEOS = st.text(max_size=4) | st.sampled_from(['v_a', 'a'])
FILES = st.builds(lambda database, results: json.dumps({'database': database, 'results': results}).encode(),
                  st.dictionaries(VIDEOS, ENTRIES, max_size=3), st.dictionaries(VIDEOS, LISTS, max_size=3))


@contextmanager
def only_pythons_parser():
    def refuse(content):
        raise orjson.JSONDecodeError('', '', 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orjson, 'loads', refuse)
        yield


WITH_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@WITH_FOLDER
@given(content=FILES | VALUES.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_file_is_read_or_refused_in_one_line_as_with_pythons_parser(tmp_path, content):
    path = written(tmp_path, content)
    for read in read_ground_truth, read_detections:
        try:
            found = read(path)
        except InputError:
            said = message(read, path)
            with only_pythons_parser():
                assert message(read, path) == said
        else:
            assert np.isfinite(found.segments).all() and found.segments.shape == (len(found.video), 2)
            assert found.labels == sorted({found.labels[i] for i in found.label})
            assert np.isfinite(getattr(found, 'scores', 0)).all()
            with only_pythons_parser():
                for column, other in zip(found, read(path), strict=True):
                    np.testing.assert_array_equal(column, other)


class Twice(dict):
    """An object that json.dumps writes with each of its keys twice."""

    def items(self):
        return [pair for pair in super().items() for _ in range(2)]


@WITH_FOLDER
@given(content=FILES, place=st.integers(0, 20))
@example(content=b'{"database": {";": null}, "results": {}}', place=0)
def test_a_key_given_twice_in_any_object_of_any_file_is_refused(tmp_path, content, place):
    objects = 0

    def nth_twice(value):
        nonlocal objects
        objects += 1
        return Twice(value) if value and objects == place + 1 else value

    text = json.dumps(json.loads(content, object_hook=nth_twice))
    path = written(tmp_path, text)
    if text != json.dumps(json.loads(content)):
        for read in read_ground_truth, read_detections:
            assert 'stands twice' in message(read, path)


@WITH_FOLDER
@given(number=st.integers(0, 30), seed=st.integers(0, 2 ** 32))
def test_any_detections_survive_the_way_through_a_file(tmp_path, number, seed):
    rng = np.random.default_rng(seed)
    found = Detections(['v', 'none', 'w'], ['a', 'b'], np.sort(rng.integers(3, size=number)),
                       rng.permutation(np.arange(number) % 2), rng.normal(size=(number, 2)), rng.normal(size=number))
    write_detections(tmp_path / 'detections.json', found)
    again = read_detections(tmp_path / 'detections.json')
    assert again.videos == found.videos
    np.testing.assert_array_equal(again.segments, found.segments)
    np.testing.assert_array_equal(again.scores, found.scores)
    assert [again.labels[i] for i in again.label] == [found.labels[i] for i in found.label]



# Published files


@pytest.mark.parametrize(('name', 'videos', 'instances', 'labels', 'untidy', 'duplicates'), [
    ('thumos14/gt.json', 410, 6318, 20, None, None), ('activitynet1.2/gt.json', 9092, 10170, 100, 9, 33),
    ('activitynet1.3/gt.json', 19426, 22513, 200, 12, 47)])
def test_published_annotations(shared, name, videos, instances, labels, untidy, duplicates):
    truth = read_ground_truth(shared / 'data' / name)
    assert (len(truth.videos), len(truth.label), len(truth.labels)) == (videos, instances, labels)
    assert truth.labels == sorted(truth.labels)
    if untidy:
        assert (truth.segments[:, 0] >= truth.segments[:, 1]).sum() == untidy
        assert instances - len(set(zip(truth.video, truth.label, map(tuple, truth.segments)))) == duplicates


def test_published_lists_find_their_videos(shared):
    folder = shared / 'data' / 'activitynet1.3'
    truth = read_ground_truth(folder / 'gt.json')
    annotated = np.bincount(truth.video, minlength=len(truth.videos)) > 0
    for name, listed, found in ('test', 4427, 4427), ('train', 9032, 9019):
        place = match_videos((folder / f'split_{name}.txt').read_text().split(), truth.videos)
        assert len(place) == listed and annotated[place[place >= 0]].sum() == found


def test_released_detections(shared):
    detections = read_detections(shared / 'data' / 'thumos14' / 'released_detections.json')
    assert (len(detections.videos), len(detections.labels), len(detections.scores)) == (210, 20, 36195)
