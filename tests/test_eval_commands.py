"""What all commands of eval/ have in common: odd paths, odd terminals, odd numbers."""
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eval import detection, diagnosis, pseudo_labels, report, subtitles, timeline

COMMANDS: dict[str, tuple[Callable, list[str]]] = {
    'detection': (detection.main, ['gt.json', 'd.json', '--classes', '--output', 'results.json']),
    'diagnosis': (diagnosis.main, ['gt.json', 'd.json', '--output', 'diagnosis.json']),
    'report': (report.main, ['gt.json', 'd.json', '-o', 'report.html']),
    'timeline': (timeline.main, ['gt.json', 'd.json', '--video', 'VIDEO', '-o', 'timeline.svg']),
    'subtitles': (subtitles.main, ['d.json', '-o', 'subtitles']),
    'pseudo_labels': (pseudo_labels.main, ['gt.json', 'd.json', '-o', 'pseudo.json'])}


def write(folder: Path, video: str, label: str, rows: list[dict], **entry: object) -> None:
    truth = {video: {'subset': 'test', 'annotations': [{'label': label, 'segment': [0, 4]}], **entry}}
    (folder / 'gt.json').write_text(json.dumps({'database': truth}))
    (folder / 'd.json').write_text(json.dumps({'results': {video: rows}}))


def status_of(name: str, folder: Path, video: str = 'v') -> int:
    main, arguments = COMMANDS[name]
    files = {'VIDEO': video}
    return main([files.get(a, str(folder / a) if '.' in a or a == 'subtitles' else a) for a in arguments])


@pytest.mark.parametrize('name', COMMANDS)
def test_a_terminal_of_ascii_gets_names_that_it_does_not_know_escaped(tmp_path, monkeypatch, name):
    folder = tmp_path / '\U0001f3a5 Sprünge'
    folder.mkdir()
    write(folder, 'v \U0001f3a5', 'Weitsprung \U0001f938', [
        {'label': 'Weitsprung \U0001f938', 'segment': [0, 3], 'score': 0.9},
        {'label': 'Käse', 'segment': [0, 1], 'score': 1}])
    out, err = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(out, encoding='ascii'))
    monkeypatch.setattr(sys, 'stderr', io.TextIOWrapper(err, encoding='ascii'))
    assert status_of(name, folder, 'v \U0001f3a5') == 0
    sys.stdout.flush()
    assert out.getvalue()


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('name', COMMANDS)
@pytest.mark.parametrize(('scores', 'end', 'duration'), [
    ([1e-120, 1e-300, 5e-324], 3, 4), ([1e308, -1e308, 0], 3, 4), ([0.5, 0.5, 0.5], 1e12, 1e12),
    ([0.5, 0.1, 1], 3, 1e-300)])
def test_odd_numbers_are_taken_or_refused_in_one_line(tmp_path, capsys, name, scores, end, duration):
    rows = [{'label': 'x', 'segment': [i, end], 'score': score} for i, score in enumerate(scores)]
    write(tmp_path, 'v', 'x', rows, duration=duration)
    status = status_of(name, tmp_path)
    said = capsys.readouterr().err
    assert status == 0 or status == 2 and said.startswith('error: ') and said.count('\n') == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_only_files_from_here_are_written_over(tmp_path, capsys, name):
    write(tmp_path, 'v', 'x', [{'label': 'x', 'segment': [0, 3], 'score': 0.5}])
    output = COMMANDS[name][1][-1]
    path = tmp_path / output / 'v.srt' if name == 'subtitles' else tmp_path / output
    assert [status_of(name, tmp_path) for _ in range(2)] == [0, 0]  # the second time over its own
    path.write_bytes(b'{"best": 1} or weights, or notes')
    assert status_of(name, tmp_path) == 2
    assert 'of another kind' in capsys.readouterr().err and path.read_bytes() == b'{"best": 1} or weights, or notes'
