"""gt.json and detections.json: what is read, what is refused with which message, and what is written."""
import csv
import gc
import json
from contextlib import contextmanager

import numpy as np
import orjson
import pandas as pd
import pytest
from golden_data import GOLDEN, GT, read_released
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from formats.annotations import (
    GroundTruth,
    parse_ground_truth,
    read_durations,
    read_ground_truth,
    select_videos,
    subset_name,
)
from formats.columns import BLOCK_SIZE, nearest_name
from formats.detections import Detections, read_any, read_detections, write_detections, write_detections_csv
from formats.videos import match_videos
from utils import InputError, quote

ROW = {'label': 'x', 'segment': [0, 1], 'score': 0.5}


def write(folder, content) -> str:
    """Write bytes, text, or a value as JSON; return the path."""
    path = folder / 'file.json'
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)
    return str(path)


def write_ground_truth(folder, annotations) -> str:
    return write(folder, {'database': {'fine': {'annotations': [ROW, ROW]}, 'odd': {'annotations': annotations}}})


def test_ground_truth(tmp_path):
    rows = [{'label': label, 'segment': segment} for label, segment in
            (('b', ['0.5', 2]), ('a', [3, 3]), ('b', [5.5, ' 4 ']))]
    gt = read_ground_truth(write(tmp_path, {'version': 1, 'database': {
        'u': {'subset': 'Validation', 'duration': 9, 'annotations': rows, 'url': None},
        'bare': {'subset': 'test', 'duration': -1}, 'null': {'annotations': None, 'duration': None},
        'w': {'subset': 'Wild', 'duration': '7.5', 'annotations': [{'label': 'a', 'segment': [0, 1]}]}}}))
    assert gt.videos == ['u', 'bare', 'null', 'w'] and gt.labels == ['a', 'b']
    assert gt.subsets == ['Validation', 'test', '', 'Wild']
    assert [*map(subset_name, gt.subsets)] == ['validation', 'testing', '', 'wild']
    np.testing.assert_array_equal(gt.durations, [9, np.nan, np.nan, 7.5])
    assert (gt.video.tolist(), gt.label.tolist()) == ([0, 0, 0, 3], [1, 0, 1, 0])
    assert gt.segments.tolist() == [[0.5, 2], [3, 3], [5.5, 4], [0, 1]] and gt.segments.dtype == np.float64

    some = select_videos(gt, np.array([False, True, False, True]))
    assert (some.videos, some.subsets, some.labels) == (['bare', 'w'], ['test', 'Wild'], ['a', 'b'])
    assert (some.video.tolist(), some.label.tolist(), some.segments.tolist()) == ([1], [0], [[0, 1]])


@pytest.mark.parametrize(('name', 'spellings'), [
    ('training', ['train', 'Train', 'training', 'TRAINING', ' train']), ('testing', ['test', 'Test', 'testing']),
    ('validation', ['val', 'Val', 'validation', 'Validation']), ('trainval', ['TrainVal']), ('', [''])])
def test_subset_names(name, spellings):
    assert {subset_name(spelling) for spelling in spellings} == {name}


def test_detections_are_written_as_they_were_read(tmp_path):
    path = write(tmp_path, {'results': {'v': [{'label': 'b', 'score': 0.25, 'segment': [0, 1.5]},
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


def test_numbers_are_exact_to_the_last_bit(tmp_path):
    texts = ['0.1', '1e-7', '123456789.12345678901234567890', '4.9e-324', '1e12', '18446744073709551616e-10',
             '0.' + '3' * 400, '100000000000000000000e-9', '-0.0']
    rows = ','.join(f'{{"label": "x", "segment": [0, {text}], "score": {text}}}' for text in texts)
    detections = read_detections(write(tmp_path, f'{{"results": {{"v": [{rows}]}}}}'))
    expected = [*map(float, texts)]
    assert detections.scores.tolist() == detections.segments[:, 1].tolist() == expected
    write_detections(tmp_path / 'again.json', detections)
    again = json.loads((tmp_path / 'again.json').read_bytes())['results']['v']
    assert [row['score'] for row in again] == [row['segment'][1] for row in again] == expected


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_nan_and_infinity_are_not_written(tmp_path, value):
    good = read_detections(write(tmp_path, {'results': {'v': [ROW]}}))
    for broken in good._replace(scores=good.scores * value), good._replace(segments=good.segments + value):
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
def test_a_duplicate_key_is_refused_anywhere(tmp_path, text):
    path = write(tmp_path, text.replace('%s', json.dumps(ROW)))
    assert 'appears twice' in message(read_detections, path)


def test_the_garbage_collector_is_restored_also_after_a_damaged_file(tmp_path):
    enabled = gc.isenabled()
    try:
        for switch in gc.disable, gc.enable:
            switch()
            before = gc.isenabled()
            read_detections(write(tmp_path, {'results': {'v': [ROW]}}))
            assert gc.isenabled() == before
            for damaged in '{"results": {"v": [3]}}', '{"results": ', '{"results": {}, "results": {}}':
                message(read_detections, write(tmp_path, damaged))
                assert gc.isenabled() == before
    finally:
        (gc.enable if enabled else gc.disable)()


def test_files_of_several_blocks_are_read_and_errors_are_found_in_each(tmp_path):
    lists = {'a': BLOCK_SIZE - 1, 'none': 0, 'b': 2, 'c': BLOCK_SIZE + 1}
    rows = [{'label': str(i % 7), 'segment': [i, i + 0.5], 'score': i} for i in range(2 * BLOCK_SIZE + 2)]
    left = iter(rows)
    results = {video: [next(left) for _ in range(size)] for video, size in lists.items()}
    detections = read_detections(write(tmp_path, {'results': results}))
    assert detections.segments.tolist() == [row['segment'] for row in rows]
    assert detections.scores.tolist() == [row['score'] for row in rows]
    assert [detections.labels[i] for i in detections.label] == [row['label'] for row in rows]
    assert np.bincount(detections.video).tolist() == list(lists.values())
    gt = read_ground_truth(write(tmp_path, {'database': {
        video: {'annotations': rows} for video, rows in results.items()}}))
    assert gt.segments.tolist() == detections.segments.tolist() and gt.video.tolist() == detections.video.tolist()
    assert gt.labels == detections.labels and gt.label.tolist() == detections.label.tolist()

    places = {'a': (0, BLOCK_SIZE - 2), 'b': (0, 1), 'c': (0, BLOCK_SIZE - 1, BLOCK_SIZE)}
    for video, place in [(video, place) for video, of_video in places.items() for place in of_video]:
        for fault in {'label': 3}, {'segment': [0]}, {'score': None}:
            faulty = {**results, video: [*results[video]]}
            faulty[video][place] = {**ROW, **fault}
            error = message(read_detections, write(tmp_path, {'results': faulty}))
            assert f'video {video!r}, detection {place + 1}: ' in error and f'"{[*fault][0]}"' in error


def test_names_with_colons_are_names(tmp_path):
    text = r'{"results": {"a:b\u003ac": [{"label": "::\u003A\"", "segment": [0, 1], "score": 1}]}}'
    detections = read_detections(write(tmp_path, text))
    assert (detections.videos, detections.labels) == (['a:b:c'], ['::' + ':"'])


NAMES = ['plain', 'a,b', 'say "so"', 'two\nlines', 'car\rriage', ' spaces ', 'Ä:\t', "it's"]


def test_detections_csv_is_read_by_csv_and_pandas(tmp_path):
    rng = np.random.default_rng(0)
    scores, segments = rng.random(8), rng.normal(size=(8, 2)) * 100
    detections = Detections(NAMES, NAMES[::-1], np.arange(8), np.arange(8), segments, scores)
    order = sorted(range(8), key=NAMES.__getitem__)
    write_detections_csv(tmp_path / 'a.csv', detections)
    with open(tmp_path / 'a.csv', newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['video', 'label', 'start', 'end', 'score']
    assert [row['video'] for row in rows] == sorted(NAMES)
    assert [row['label'] for row in rows] == [NAMES[::-1][i] for i in order]
    for name, column in (('start', segments[:, 0]), ('end', segments[:, 1]), ('score', scores)):
        assert [float(row[name]) for row in rows] == [float(f'{value:.4f}') for value in column[order].tolist()]
    table = pd.read_csv(tmp_path / 'a.csv')
    assert table['video'].tolist() == sorted(NAMES)
    assert table['score'].tolist() == pytest.approx(scores[order], abs=6e-5)


def test_detections_csv_is_sorted_by_video_and_time_with_at_most_four_decimals(tmp_path):
    rows = [(1, 1, 7, 9, 0.1), (1, 0, 7, 8, 1 / 3), (0, 0, 30, 31, 2), (1, 0, 0.1 + 0.2, 1e6 + 1 / 3, 1e-9),
            (0, 1, 4, 5, -1e-9), (1, 0, 7, 7.5, 1e300)]
    video, label, start, end, scores = (np.array(column) for column in zip(*rows))
    write_detections_csv(tmp_path / 'a.csv', Detections(['w', 'v', 'none'], ['a', 'b'], video, label,
                                                        np.stack([start, end], axis=1), scores))
    assert (tmp_path / 'a.csv').read_text().splitlines()[1:] == [
        'v,a,0.3,1000000.3333,0.0', 'v,a,7.0,7.5,1e+300', 'v,a,7.0,8.0,0.3333', 'v,b,7.0,9.0,0.1',
        'w,b,4.0,5.0,0.0', 'w,a,30.0,31.0,2.0']


def test_invalid_text_is_refused_when_read_and_escaped_when_written(tmp_path):
    for text in (r'{"results": {"v": [{"label": "a\ud800", "segment": [0, 1], "score": 1}]}}',
                 r'{"results": {"a\ud800": []}}'):
        assert r"'a\ud800' is not valid text" in message(read_detections, write(tmp_path, text))
    assert 'not valid text' in message(read_ground_truth, write_ground_truth(tmp_path, [{**ROW, 'label': '\udfff'}]))
    detections = Detections(['v\udcff'], ['x\ud800'], np.zeros(1, int), np.zeros(1, int), np.ones((1, 2)), np.ones(1))
    write_detections(tmp_path / 'a.json', detections)
    write_detections_csv(tmp_path / 'a.csv', detections)
    again = read_detections(tmp_path / 'a.json')
    assert (again.videos, again.labels) == ([r'v\udcff'], [r'x\ud800'])
    assert (tmp_path / 'a.csv').read_text().splitlines()[1] == r'v\udcff,x\ud800,1.0,1.0,1.0'


@pytest.mark.parametrize('content', [{}, {'u': []}])
def test_files_without_rows(tmp_path, content):
    detections = read_detections(write(tmp_path, {'results': content}))
    assert detections.segments.shape == (0, 2) and detections.scores.shape == (0,)
    gt = read_ground_truth(write(tmp_path, {'database': {video: {} for video in content}}))
    assert gt.segments.shape == (0, 2) and gt.videos == list(content)
    assert not select_videos(gt, np.zeros(len(content), bool)).videos


def test_videos_are_matched_with_and_without_prefix():
    known = ['abc', 'v_UmAH95xls', 'v_def']
    names = ['v_abc', 'v_UmAH95xls', 'UmAH95xls', 'v_v_UmAH95xls', 'def', 'v_def', 'xyz']
    assert match_videos(names, known).tolist() == [0, 1, 1, 1, 2, 2, -1]
    assert match_videos([], known).dtype == np.int64
    assert match_videos(['v_a', 'a'], ['a', 'v_a']).tolist() == [1, 0]  # the exact spelling is preferred


BAD_ROWS = {  # row: part of the message
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


NO_TIME = '{"label": "x"}'  # bad for a detection, a tag in a ground gt


def message(read, path: str) -> str:
    """Return the message of the reader: one short line, whatever the file contains."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(path) and text.isprintable() and len(text) < len(path) + 300, text
    return text


@pytest.mark.parametrize('row', BAD_ROWS)
def test_bad_rows(tmp_path, row):
    good = json.dumps(ROW)
    text = f'{{"database": {{"fine": {{"annotations": [{good}]}}, "odd": {{"annotations": [{good}, {row}, {good}]}}}}}}'
    if row == NO_TIME:
        assert read_ground_truth(write(tmp_path, text)).tag_video.tolist() == [1]
    else:
        error = message(read_ground_truth, write(tmp_path, text))
        assert "video 'odd', annotation 2" in error and BAD_ROWS[row] in error
    text = f'{{"results": {{"fine": [{good}], "odd": [{good}, {row}, {good}]}}}}'
    error = message(read_detections, write(tmp_path, text))
    assert "video 'odd', detection 2" in error and BAD_ROWS[row] in error


def test_annotations_without_a_time_are_tags(tmp_path):
    def entry(*rows):
        return {'annotations': [{'label': label, 'segment': segment} if segment else {'label': label}
                                for label, segment in rows]}

    gt = read_ground_truth(write(tmp_path, {'database': {
        'mixed': entry(('b', [1, 2]), ('c', None), ('a', [3, 4])), 'timed': entry(('b', [5, 6])),
        'tagged': entry(('d', None), ('a', None))}}))
    assert gt.labels == ['a', 'b', 'c', 'd']
    assert (gt.video.tolist(), gt.label.tolist()) == ([0, 0, 1], [1, 0, 1])
    assert gt.segments.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (gt.tag_video.tolist(), gt.tag_label.tolist()) == ([0, 2, 2], [2, 3, 0])
    videos, labels = gt.video_labels()
    assert sorted(zip(videos.tolist(), labels.tolist())) == [(0, 0), (0, 1), (0, 2), (1, 1), (2, 0), (2, 3)]
    some = select_videos(gt, np.array([False, True, True]))
    assert (some.tag_video.tolist(), some.tag_label.tolist(), some.segments.tolist()) == ([1, 1], [3, 0], [[5, 6]])


@pytest.mark.parametrize('score', ['null', 'true', '""', '"high"', 'NaN', '-Infinity', '[1]', '1e999', '9' * 400])
def test_bad_scores(tmp_path, score):
    text = f'{{"results": {{"odd": [{{"label": "x", "segment": [0, 1], "score": {score}}}]}}}}'
    assert "video 'odd', detection 1: needs a \"score\"" in message(read_detections, write(tmp_path, text))


@pytest.mark.parametrize('duration', ['long', '00:12', True, {}, [1], float('nan'), float('inf'), 1e13, 10 ** 400])
def test_an_invalid_duration_counts_as_absent(tmp_path, duration):
    path = write(tmp_path, {'database': {'v': {'duration': duration, 'annotations': [ROW]}}})
    gt = read_ground_truth(path)
    assert np.isnan(gt.durations[0]) and len(gt.segments) == 1 and read_durations(path) == {}
    assert '"duration" of 1 video is ignored, it is no positive number' in gt.warnings[0]


def test_frame_rates_may_be_fractions(tmp_path):
    rates = {'a': '30000/1001', 'b': '25', 'c': '25/0', 'd': '1/2/3', 'e': None}
    gt = read_ground_truth(write(tmp_path, {'database': {name: {'fps': rate} for name, rate in rates.items()}}))
    assert gt.fps == {'a': pytest.approx(29.97003), 'b': 25}
    assert '"fps" of 2 videos is ignored' in gt.warnings[0] and "'25/0' for 'c'" in gt.warnings[0]


def test_an_instance_needs_a_label(tmp_path):
    rows = [ROW, {'label': ''}, {'label': '', 'segment': [1, 2]}]
    assert 'annotation 3: has a "segment", but no label' in message(
        read_ground_truth, write_ground_truth(tmp_path, rows))


@pytest.mark.parametrize(('annotations', 'part'), [
    ([{'label': ''}, {'label': 'run'}], "video 'v': has an empty label (none of the classes) and another one"),
    ([{'label': 'run', 'segment': [0, 1]}, {'label': ''}], "video 'v': has an empty label"),
    ([{'label': ' '}], 'a label consists of spaces')])
def test_a_video_has_none_of_the_classes_or_some(annotations, part):
    with pytest.raises(InputError) as error:
        parse_ground_truth({'u': {'annotations': [{'label': ''}]}, 'v': {'annotations': annotations}})
    assert part in str(error.value)


def test_durations_of_both_kinds_of_file(tmp_path):
    seconds = {'a': 7, 'b': '4.5', 'c': None, 'd': 0}
    for key in 'database', 'videos':
        path = write(tmp_path, {key: {name: {'duration': value} for name, value in seconds.items()} | {'e': {}}})
        assert read_durations(path) == {'a': 7, 'b': 4.5}
    for content in {'results': {}}, [], {'videos': [1]}, {'videos': {'a': 3}}, {'database': None}:
        assert 'contains no durations' in message(read_durations, write(tmp_path, content))


def test_either_kind_of_file(tmp_path):
    assert isinstance(read_any(write(tmp_path, {'results': {}})), Detections)
    assert isinstance(read_any(write(tmp_path, {'database': {}})), GroundTruth)
    assert 'it needs {"database": {video: ...}} or {"results": {video: ...}}' in message(read_any, write(tmp_path, {}))


@pytest.mark.parametrize(('entry', 'words'), [
    ([], 'must be an object'), (None, 'must be an object'), ('x', 'must be an object'), ({'subset': 3}, '"subset"'),
    ({'subset': ['test']}, '"subset"'), ({'annotations': {}}, '"annotations"'),
    ({'annotations': ''}, '"annotations"'), ({'annotations': False}, '"annotations"'),
    ({'annotations': 0}, '"annotations"')])
def test_bad_videos(tmp_path, entry, words):
    error = message(read_ground_truth, write(tmp_path, {'database': {'fine': {}, 'odd': entry}}))
    assert "video 'odd'" in error and words in error


@pytest.mark.parametrize('value', [
    'null', '"x"', '3', '[]', '{}', '{"database": [], "results": null}', '[{"results": {}}]'])
def test_files_of_another_kind(tmp_path, value):
    assert 'it needs {"database"' in message(read_ground_truth, write(tmp_path, value))
    assert 'it needs {"results"' in message(read_detections, write(tmp_path, value))


@pytest.mark.parametrize('rows', [None, {}, 'x', 3, True])
def test_detections_that_are_not_a_list(tmp_path, rows):
    assert "video 'odd': must have a list" in message(read_detections, write(tmp_path, {'results': {'odd': rows}}))


def test_a_video_in_both_spellings_is_refused(tmp_path):
    path = write(tmp_path, {'database': {'v_X': {}, 'Y': {}, 'X': {}}})
    assert "'X' and 'v_X' name the same video" in message(read_ground_truth, path)
    path = write(tmp_path, {'results': {'v_X': [], 'X': []}})
    assert "'X' and 'v_X' name the same video" in message(read_detections, path)


def test_hostile_names_are_escaped_and_truncated(tmp_path):
    error = message(read_detections, write(tmp_path, {'results': {'a\n\x1b[31m\ud800' + 'z' * 5000: [3]}}))
    assert r"'a\n\x1b[31m\ud800zzz" in error
    assert len(quote('\0' * 10 ** 6)) < 300


def test_labels_are_distinguished_to_the_last_character(tmp_path):
    labels = ['a', 'a\0', 'a ', '../a', 'Ä', 'B']
    gt = read_ground_truth(write_ground_truth(tmp_path, [{'label': label, 'segment': [0, 1]} for label in labels]))
    assert gt.labels == sorted([*labels, 'x'])
    assert [gt.labels[i] for i in gt.label[2:]] == labels


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
def pythons_parser_only():
    def refuse(content):
        raise orjson.JSONDecodeError('', '', 0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(orjson, 'loads', refuse)
        yield


WITH_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@WITH_FOLDER
@given(content=FILES | VALUES.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_file_is_read_or_refused_in_one_line_as_with_pythons_parser(tmp_path, content):
    path = write(tmp_path, content)
    for read in read_ground_truth, read_detections:
        try:
            detections = read(path)
        except InputError:
            error = message(read, path)
            with pythons_parser_only():
                assert message(read, path) == error
        else:
            assert np.isfinite(detections.segments).all() and detections.segments.shape == (len(detections.video), 2)
            assert detections.labels == sorted({detections.labels[i] for i in detections.label})
            assert np.isfinite(getattr(detections, 'scores', 0)).all()
            with pythons_parser_only():
                for column, other in zip(detections, read(path), strict=True):
                    np.testing.assert_array_equal(column, other)


class Doubled(dict):
    """An object that json.dumps writes with each of its keys twice."""

    def items(self):
        return [pair for pair in super().items() for _ in range(2)]


@WITH_FOLDER
@given(content=FILES, place=st.integers(0, 20))
@example(content=b'{"database": {";": null}, "results": {}}', place=0)
def test_a_duplicate_key_in_any_object_of_any_file_is_refused(tmp_path, content, place):
    objects = 0

    def double_nth(value):
        nonlocal objects
        objects += 1
        return Doubled(value) if value and objects == place + 1 else value

    text = json.dumps(json.loads(content, object_hook=double_nth))
    path = write(tmp_path, text)
    if text != json.dumps(json.loads(content)):
        for read in read_ground_truth, read_detections:
            assert 'appears twice' in message(read, path)


@WITH_FOLDER
@given(number=st.integers(0, 30), seed=st.integers(0, 2 ** 32))
def test_any_detections_are_the_same_after_writing_and_reading(tmp_path, number, seed):
    rng = np.random.default_rng(seed)
    detections = Detections(['v', 'none', 'w'], ['a', 'b'], np.sort(rng.integers(3, size=number)),
                       rng.permutation(np.arange(number) % 2), rng.normal(size=(number, 2)), rng.normal(size=number))
    write_detections(tmp_path / 'detections.json', detections)
    again = read_detections(tmp_path / 'detections.json')
    assert again.videos == detections.videos
    np.testing.assert_array_equal(again.segments, detections.segments)
    np.testing.assert_array_equal(again.scores, detections.scores)
    assert [again.labels[i] for i in again.label] == [detections.labels[i] for i in detections.label]


# ---- published files ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('path', 'videos', 'instances', 'labels', 'empty', 'duplicates'), [
    (GT, 410, 6318, 20, None, None), (GOLDEN / 'activitynet1.2.json.gz', 2383, 3582, 100, 3, 7),
    (GOLDEN / 'activitynet1.3.json.gz', 4926, 7654, 200, 3, 21)])
def test_published_annotations(path, videos, instances, labels, empty, duplicates):
    gt = read_ground_truth(path)
    assert (len(gt.videos), len(gt.label), len(gt.labels)) == (videos, instances, labels)
    assert gt.labels == sorted(gt.labels)
    if empty:
        assert (gt.segments[:, 0] >= gt.segments[:, 1]).sum() == empty
        assert instances - len(set(zip(gt.video, gt.label, map(tuple, gt.segments)))) == duplicates


def test_released_detections():
    detections = read_released()[1]
    assert (len(detections.videos), len(detections.labels), len(detections.scores)) == (210, 20, 36195)


# ---- names and keys that are almost right ---------------------------------------------------------------------------

@pytest.mark.parametrize(('entry', 'key', 'near'), [
    ({'annotations': [ROW, {'label': 'x', 'segement': [1, 2]}]}, 'segement', 'segment'),
    ({'annotations': [ROW, {'label': 'x', 'Segment': [1, 2]}]}, 'Segment', 'segment'),
    ({'anotations': [ROW]}, 'anotations', 'annotations'),
    ({'Duration': 9, 'annotations': [ROW]}, 'Duration', 'duration'),
    ({'sub-set': 'test', 'annotations': [ROW]}, 'sub-set', 'subset')])
def test_misspelled_keys_are_named(tmp_path, entry, key, near):
    gt = read_ground_truth(write(tmp_path, {'database': {'v': entry}}))
    assert len(gt.warnings) == 1 and gt.warnings[0].startswith(f'{tmp_path / "file.json"}: ')
    assert repr(key) in gt.warnings[0] and f'did you mean "{near}"?' in gt.warnings[0]


def test_other_keys_are_ignored(tmp_path):
    entry = {'subset': 'test', 'duration': 9, 'duration_frame': 270, 'fps': 30, 'url': '', 'resolution': '1x1',
             'segments': 3, 'annotations': [{**ROW, 'label_id': 3, 'segments': 1}, {'label': 'x', 'id': 7}]}
    assert read_ground_truth(write(tmp_path, {'database': {'v': entry}})).warnings == ()


def test_labels_that_differ_only_in_case_or_spaces_are_named(tmp_path):
    rows = [{**ROW, 'label': label} for label in ('High Jump', 'highjump', 'caf\u00e9', 'cafe\u0301', 'run', 'runs')]
    warning, = read_ground_truth(write_ground_truth(tmp_path, rows)).warnings
    assert "'High Jump' and 'highjump'" in warning and r"'cafe\u0301' and 'caf\xe9'" in warning
    assert 'run' not in warning


def test_the_nearest_name():
    assert nearest_name('high_jump ', ['Jump', 'HighJump', 'LongJump']) == 'HighJump'
    assert nearest_name('Runing', ['Run', 'Running']) == 'Running' and nearest_name('a', ['xyz']) is None


@pytest.mark.parametrize(('name', 'video'), [
    ('x.mp4', 'x'), ('x', 'v_x.OGV'), ('train/x.MKV', 'x'), ('a\\x', 'x'), ('caf\u00e9', 'cafe\u0301'), ('X', 'x'),
    ('v_X.mts', 'x'), ('x ', 'x'), (' x.mp4 ', 'x')])
def test_videos_are_matched_across_suffixes_folders_case_and_unicode_forms(name, video):
    assert match_videos([name, 'other'], ['y', video]).tolist() == [1, -1]


def test_names_that_could_be_several_videos_match_none():
    assert match_videos(['X'], ['x.mp4', 'x.avi']).tolist() == [-1]
    assert match_videos(['a/x', 'b/x'], ['x']).tolist() == [-1, -1]
    assert match_videos(['x', 'x.mp4'], ['x']).tolist() == [0, -1]
