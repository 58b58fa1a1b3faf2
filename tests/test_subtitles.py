"""Subtitles: at every moment they show the events of that moment, in files that players can read."""
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.events import EventOptions, select_events
from eval.subtitles import main, subtitles, write_subtitles
from formats.detections import Detections, write_detections
from utils import InputError

CUE = re.compile(r'(\d\d+):(\d\d):(\d\d)[,.](\d{3}) --> (\d\d+):(\d\d):(\d\d)[,.](\d{3})')


def make_detections(*rows: tuple[str, str, float, float, float]) -> Detections:
    """Return detections from rows of video, label, start, end, score."""
    videos, labels = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    return Detections(videos, labels, np.array([videos.index(row[0]) for row in rows]),
                      np.array([labels.index(row[1]) for row in rows]), np.array([row[2:4] for row in rows], float),
                      np.array([row[4] for row in rows], float))


def cues_of(text: str) -> list[tuple[int, int, list[str]]]:
    """Return start and end in milliseconds and the lines of every cue."""
    cues = []
    for block in re.split(r'\n{2,}', text.strip()):
        lines = block.split('\n')
        for at, match in enumerate(map(CUE.fullmatch, lines)):
            if match:
                h, m, s, ms, *end = map(int, match.groups())
                start = ((h * 60 + m) * 60 + s) * 1000 + ms
                cues.append((start, ((end[0] * 60 + end[1]) * 60 + end[2]) * 1000 + end[3], lines[at + 1:]))
    return cues


SOME = make_detections(('v', 'run', 1, 3.5, 0.9), ('v', 'run', 2, 6, 0.4), ('v', 'jump', 3, 4, 0.6),
                     ('v', 'swim', 3700.5, 3701, 0.25))


def test_cues_of_a_video_by_hand():
    assert subtitles(SOME, np.arange(4), 'srt') == (
        '1\n00:00:01,000 --> 00:00:03,000\nrun 0.90\n\n'
        '2\n00:00:03,000 --> 00:00:03,500\nrun 0.90\njump 0.60\n\n'
        '3\n00:00:03,500 --> 00:00:04,000\njump 0.60\nrun 0.40\n\n'
        '4\n00:00:04,000 --> 00:00:06,000\nrun 0.40\n\n'
        '5\n01:01:40,500 --> 01:01:41,000\nswim 0.25\n')
    text = subtitles(SOME, np.arange(4), 'vtt')
    assert text.startswith('WEBVTT - detections\n\n00:00:01.000 --> 00:00:03.000\nrun 0.90\n\n00:00:03.000')
    assert cues_of(text) == cues_of(subtitles(SOME, np.arange(4), 'srt'))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.just('v'), st.sampled_from('abc'), st.integers(-3, 12), st.integers(-3, 12),
                          st.integers(0, 9).map(lambda n: n / 10)), min_size=1, max_size=12))
def test_at_every_moment_the_best_of_each_class_is_shown(rows):
    cues = cues_of(subtitles(make_detections(*rows), np.arange(len(rows)), 'srt'))
    for end, start in zip([end for _, end, _ in cues], [start for start, *_ in cues[1:]]):
        assert end <= start
    for moment in range(-3, 12):
        expected = {}
        for _, label, start, end, score in rows:
            if max(start, 0) <= moment + 0.5 < end:
                expected[label] = max(score, expected.get(label, 0))
        shown = [lines for start, end, lines in cues if start <= 1000 * moment + 500 < end]
        assert len(shown) == bool(expected)
        assert sorted(*shown or [[]]) == sorted(f'{label} {score:.2f}' for label, score in expected.items())
        scores = [float(line.split()[1]) for line in (shown or [[]])[0]]
        assert scores == sorted(scores, reverse=True)


def test_one_file_per_video_with_a_cue_per_event(tmp_path):
    found = make_detections(('b/../c', 'x', 0, 1, 0.2), ('a', 'x', 0, 1, 0.9), ('a', 'x', 0, 0.9, 0.8),
                            ('%', 'x', 5, 6, 0.5))
    paths = write_subtitles(tmp_path / 'new' / 'subs', select_events(found, EventOptions(min_score=0.5)))
    assert [path.name for path in paths] == ['%25.srt', 'a.srt', 'b%2F..%2Fc.srt']
    assert sorted(tmp_path.rglob('*.srt')) == paths
    assert [len(cues_of(path.read_text())) for path in paths] == [1, 1, 0]


@pytest.mark.parametrize('form', ['srt', 'vtt'])
def test_odd_labels_are_escaped_in_one_line(form):
    found = make_detections(('v', '<i>a\n\nb --> & c', 0, 1, 1.0))
    ((_, _, lines),) = cues_of(subtitles(found, np.arange(1), form))
    assert lines == [r'&lt;i&gt;a\n\nb --&gt; &amp; c 1.00' if form == 'vtt' else r'<i>a\n\nb -> & c 1.00']


def test_other_subtitles_are_not_overwritten(tmp_path):
    for form in ('srt', 'vtt'):
        (path,) = write_subtitles(tmp_path, SOME, form=form)
        before = path.read_text()
        for min_score in (0.5, 7):  # above 7 there is no event
            write_subtitles(tmp_path, select_events(SOME, EventOptions(min_score=min_score)), form)
            assert path.read_text() != before
        write_subtitles(tmp_path, SOME, form=form)
        assert path.read_text() == before
        foreign = '1\n00:00:01,000 --> 00:00:03,000\nHello!\n'
        path.write_text(foreign)
        with pytest.raises(InputError, match='another kind'):
            write_subtitles(tmp_path, SOME, form=form)
        assert path.read_text() == foreign
        write_subtitles(tmp_path, SOME, form=form, overwrite=True)
        assert path.read_text() == before


def test_the_command(tmp_path, capsys):
    write_detections(tmp_path / 'd.json', SOME)
    assert main([str(tmp_path / 'd.json'), '-o', str(tmp_path / 'subs'), '--min_score', '0.5', '--format', 'vtt']) == 0
    assert capsys.readouterr().out == f'{tmp_path}/subs: 1 file\n'
    assert cues_of((tmp_path / 'subs' / 'v.vtt').read_text()) == [
        (1000, 3000, ['run 0.90']), (3000, 3500, ['run 0.90', 'jump 0.60']), (3500, 4000, ['jump 0.60'])]
    assert main([str(tmp_path / 'd.json'), '-o', str(tmp_path / 'subs'), '--share', '0.4', '--overlap', '0.5']) == 0
    capsys.readouterr()
    assert cues_of((tmp_path / 'subs' / 'v.srt').read_text())[-2:] == [
        (3500, 4000, ['jump 0.60']), (3700500, 3701000, ['swim 0.25'])]
    assert main([str(tmp_path / 'd.json'), '-o', str(tmp_path / 'd.json')]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and 'cannot be created' in error and error.count('\n') == 1
