"""Events: which proposals become one, their scores, and events.csv."""
import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_detection import make_detections

from eval.detection import scored_subset
from eval.events import EventOptions, EventScores, main, read_events, score_events, select_events
from formats.annotations import read_ground_truth
from formats.detections import Detections, write_detections, write_detections_csv
from utils import InputError, write_json


def rows_of(events: Detections) -> list[tuple]:
    return [(events.videos[video], events.labels[label], *segment, score) for video, label, segment, score in
            zip(events.video, events.label, events.segments.tolist(), events.scores.tolist())]


SOME = make_detections(
    ('b', 'run', 10, 20, 0.9), ('b', 'run', 12, 19, 0.8),    # inside a better one
    ('b', 'run', 19.5, 29.5, 0.7), ('b', 'run', 28, 35, 0.65),  # overlaps by 0.5 of 10 s, and by 1.5 of 7 s
    ('b', 'run', 40, 50, 0.6),                               # less than 0.7 * 0.9
    ('b', 'jump', 12, 19, 0.5), ('a', 'run', 3, 3, 1.0), ('a', 'run', 0, 2, 0.2))


def test_events_by_hand():
    assert rows_of(select_events(SOME)) == [
        ('a', 'run', 0, 2, 0.2), ('b', 'run', 10, 20, 0.9), ('b', 'jump', 12, 19, 0.5), ('b', 'run', 20, 29.5, 0.7)]
    assert rows_of(select_events(SOME, EventOptions(share=0.6, overlap=0))) == [
        ('a', 'run', 0, 2, 0.2), ('b', 'run', 10, 20, 0.9), ('b', 'jump', 12, 19, 0.5), ('b', 'run', 28, 35, 0.65),
        ('b', 'run', 40, 50, 0.6)]
    assert rows_of(select_events(SOME, EventOptions(min_score=0.71))) == [('b', 'run', 10, 20, 0.9)]


def test_of_two_overlapping_events_the_worse_one_is_cut_and_dropped_where_nothing_is_left():
    rows = ('v', 'x', 0, 10, 0.8), ('v', 'x', 9, 20, 0.9), ('v', 'x', 19.5, 30, 0.95)
    assert rows_of(select_events(make_detections(*rows))) == [
        ('v', 'x', 0, 9, 0.8), ('v', 'x', 9, 19.5, 0.9), ('v', 'x', 19.5, 30, 0.95)]
    rows = ('v', 'x', 0, 10, 0.9), ('v', 'x', 5, 15, 0.8), ('v', 'x', 10, 20, 0.9)
    assert rows_of(select_events(make_detections(*rows), EventOptions(overlap=0.5))) == [
        ('v', 'x', 0, 10, 0.9), ('v', 'x', 10, 20, 0.9)]


def greedy(rows: list[tuple], options: EventOptions) -> list[tuple]:
    """The definition, pair by pair."""
    taken: list[tuple] = []
    for row in sorted(rows, key=lambda row: -row[4]):
        video, label, start, end, score = row
        best = max(other[4] for other in rows if other[:2] == row[:2] and other[3] > other[2])
        others = [other for other in taken if other[:2] == row[:2]]
        if end > start and score >= max(options.share * best, options.min_score) and all(
                min(end, b) - max(start, a) <= options.overlap * min(end - start, b - a) for _, _, a, b, _ in others):
            taken.append(row)
    return taken


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from('vw'), st.sampled_from('xy'), st.integers(0, 40), st.integers(1, 30),
                          st.integers(1, 1000)), min_size=1, max_size=25, unique_by=lambda row: row[4]),
       st.sampled_from([0, 0.1, 0.25, 0.5]), st.sampled_from([0, 0.3, 0.7, 1]), st.sampled_from([0, 300]))
def test_events_are_those_of_the_definition_without_overlaps(rows, overlap, share, min_score):
    rows = [(video, label, start, start + length, score) for video, label, start, length, score in rows]
    options = EventOptions(share, overlap, min_score)
    expected = {row[4]: row for row in greedy(rows, options)}
    found = {row[4]: row for row in rows_of(select_events(make_detections(*rows), options))}
    assert found.keys() <= expected.keys()
    for score, (video, label, start, end, _) in found.items():
        assert (video, label) == expected[score][:2] and expected[score][2] <= start < end <= expected[score][3]
    for score, row in expected.items():  # cut by better ones only
        better = [r for other, r in expected.items() if other > score and r[:2] == row[:2]]
        left = [t for t in np.arange(row[2], row[3], 0.5) if not any(a <= t < b for _, _, a, b, _ in better)]
        kept = np.arange(*found[score][2:4], 0.5).tolist() if score in found else []
        assert kept == left
    assert list(found.values()) == sorted(found.values(), key=lambda row: (row[0], row[2], row[1]))


def test_no_detections_give_no_events(tmp_path):
    events = select_events(Detections(['v'], [], *np.zeros((2, 0), np.int64), np.zeros((0, 2)), np.zeros(0)))
    write_detections_csv(tmp_path / 'events.csv', events)
    assert (tmp_path / 'events.csv').read_text() == 'video,label,start,end,score\n'
    assert len(read_events(tmp_path / 'events.csv').scores) == 0


def test_precision_recall_and_f1_by_hand(tmp_path):
    write_json(tmp_path / 'gt.json', {'database': {'v': {'subset': 'test', 'annotations': [
        {'label': 'run', 'segment': segment} for segment in ([0, 10], [20, 30], [40, 50])]}}})
    gt = scored_subset(read_ground_truth(tmp_path / 'gt.json'), ['v'])
    events = make_detections(('v', 'run', 1, 10, 0.9), ('v', 'run', 20, 24, 0.8), ('v', 'run', 40, 51, 0.7),
                             ('v', 'jump', 20, 30, 0.9), ('w', 'run', 0, 10, 0.9))
    assert score_events(gt, events) == EventScores(5, 3, 2 / 5, 2 / 3, 4 / 8)
    assert score_events(gt, make_detections(('v', 'jump', 0, 1, 1.0))) == EventScores(1, 3, 0, 0, 0)


def test_the_command_writes_a_table_and_prints_the_scores(tmp_path, capsys):
    path, third = tmp_path / 'events.csv', 1 / 3
    write_detections(tmp_path / 'd.json', make_detections(
        ('w, "2"', 'run', 0, 1, 0.5), ('a', 'run', third, 2 * third, 0.123456),
        ('w, "2"', 'jump', 12345.67891, 1e6, 1)))
    write_json(tmp_path / 'gt.json', {'database': {'a': {'annotations': [{'label': 'run', 'segment': [0.33, 0.7]}]}}})
    assert main([str(tmp_path / 'd.json'), '-o', str(path), '--gt', str(tmp_path / 'gt.json')]) == 0
    assert capsys.readouterr().out == (
        "subset '': 3 events, 1 instance: precision 0.333, recall 1.000, F1 0.500 at tIoU 0.5\n")
    assert path.read_text() == ('video,label,start,end,score\na,run,0.3333,0.6667,0.1235\n'
                                '"w, ""2""",run,0.0,1.0,0.5\n"w, ""2""",jump,12345.6789,1000000.0,1.0\n')
    with open(path, newline='') as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [
            (video, label, *map(str, numbers)) for video, label, *numbers in rows_of(read_events(path))]
    assert main([str(tmp_path / 'd.json'), '--min_score', '0.4', '--share', '1', '--overlap', '0']) == 0
    assert capsys.readouterr().out == '2 events in 1 video\n'


def test_an_edited_table_is_read(tmp_path):
    (tmp_path / 'e.csv').write_text('\ufefflabel,note,video,end,start\r\n"jump, high",good,v,2.5,1\r\n',
                                    encoding='utf-8')
    assert rows_of(read_events(tmp_path / 'e.csv')) == [('v', 'jump, high', 1, 2.5, 1)]


@pytest.mark.parametrize('text, message', [
    ('video,label,start\n', 'lacks end'), ('', 'lacks video'),
    ('video,label,start,end\nv,x,1\n', 'line 2: end must be a number'),
    ('video,label,start,end\nv,x,1,nan\n', 'line 2: end must'),
    ('video,label,start,end\nv,x,2,1\n', 'line 2: the event ends'),
    ('video,label,start,end\nv,,1,2\n', 'line 2: needs a video'),
    ('video,label,start,end,score\nv,x,1,2,high\n', 'line 2: score must'), ('\udcff', 'not UTF-8')])
def test_a_wrong_table_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / 'e.csv').write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(InputError, match=message) as error:
        read_events(tmp_path / 'e.csv')
    assert str(tmp_path / 'e.csv') in str(error.value) and '\n' not in str(error.value)


def test_negative_scores_have_no_share_and_are_counted(tmp_path, capsys):
    write_detections(tmp_path / 'd.json', make_detections(
        ('a', 'run', 0, 2, -1), ('a', 'run', 3, 5, -2), ('b', 'run', 0, 1, 0.5), ('b', 'run', 3, 5, -0.5)))
    assert main([str(tmp_path / 'd.json')]) == 0
    out, err = capsys.readouterr()
    assert out.startswith('1 event in 1 video') and 'all scores of 1 video are negative' in err
    assert main([str(tmp_path / 'd.json'), '--share', '0', '--min_score', '-1.5']) == 0
    out, err = capsys.readouterr()
    assert out.startswith('3 events in 2 videos') and not err
