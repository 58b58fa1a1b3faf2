"""Behavior that all commands of eval/ have in common: odd paths, terminals and numbers."""
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dataset import Normalization
from engine.torch_io import read_torch_file
from eval import detection, diagnosis, events, export, pseudo_labels, report, subtitles, timeline
from eval.curves import read_curves
from eval.summary import read_metrics
from formats.annotations import read_durations, read_ground_truth, read_labels, read_split_file
from formats.detections import read_any, read_detections
from formats.features import mmap_npy
from scripts.convert import load_array, load_objects
from utils import InputError, write_text

COMMANDS: dict[str, tuple[Callable, list[str]]] = {
    'detection': (detection.main, ['gt.json', 'd.json', '--classes', '--output', 'results.json']),
    'diagnosis': (diagnosis.main, ['gt.json', 'd.json', '--output', 'diagnosis.json']),
    'report': (report.main, ['gt.json', 'd.json', '-o', 'report.html']),
    'timeline': (timeline.main, ['gt.json', 'd.json', '--video', 'VIDEO', '-o', 'timeline.svg']),
    'subtitles': (subtitles.main, ['d.json', '-o', 'subtitles']),
    'events': (events.main, ['d.json', '--gt', 'gt.json', '-o', 'events.csv']),
    'export': (export.main, ['d.json', '--to', 'label_studio', '--fps', '25', '-o', 'tasks.json']),
    'pseudo_labels': (pseudo_labels.main, ['gt.json', 'd.json', '-o', 'pseudo.json'])}


def write(folder: Path, video: str, label: str, rows: list[dict], **entry: object) -> None:
    gt = {video: {'subset': 'test', 'annotations': [{'label': label, 'segment': [0, 4]}], **entry}}
    (folder / 'gt.json').write_text(json.dumps({'database': gt}))
    (folder / 'd.json').write_text(json.dumps({'results': {video: rows}}))


def status_of(name: str, folder: Path, video: str = 'v') -> int:
    main, arguments = COMMANDS[name]
    files = {'VIDEO': video}
    return main([files.get(a, str(folder / a) if '.' in a or a == 'subtitles' else a) for a in arguments])


@pytest.mark.parametrize('name', COMMANDS)
def test_an_ascii_terminal_gets_other_characters_escaped(tmp_path, monkeypatch, name):
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


@pytest.mark.parametrize('name', [name for name, (_, words) in COMMANDS.items() if 'gt.json' in words])
@pytest.mark.parametrize(('segment', 'part'), [([25, 75], 'are the times frames instead'), ([0.1, 0.3], 'fractions of'),
                                               ([3, 1], 'end before they start')])
def test_times_in_other_units_are_named_by_every_command_that_compares(tmp_path, capsys, name, segment, part):
    write(tmp_path, 'v', 'x', [{'label': 'x', 'segment': segment, 'score': 1}], duration=20)
    database = json.loads((tmp_path / 'gt.json').read_text())['database']
    database['v']['annotations'].append({'label': 'tag'})
    (tmp_path / 'gt.json').write_text(json.dumps({'database': database}))
    is_refused = name == 'pseudo_labels' and segment != [0.1, 0.3]  # no detection is left
    assert status_of(name, tmp_path) == (2 if is_refused else 0)
    err = capsys.readouterr().err
    if name == 'report':  # on the page
        err = (tmp_path / 'report.html').read_text()
    assert part in err
    if name in ('detection', 'diagnosis', 'report'):
        assert '1 label without a time' in err


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('name', COMMANDS)
@pytest.mark.parametrize(('scores', 'end', 'duration'), [
    ([1e-120, 1e-300, 5e-324], 3, 4), ([1e308, -1e308, 0], 3, 4), ([0.5, 0.5, 0.5], 1e12, 1e12),
    ([0.5, 0.1, 1], 3, 1e-300)])
def test_odd_numbers_are_accepted_or_give_one_line(tmp_path, capsys, name, scores, end, duration):
    rows = [{'label': 'x', 'segment': [i, end], 'score': score} for i, score in enumerate(scores)]
    write(tmp_path, 'v', 'x', rows, duration=duration)
    status = status_of(name, tmp_path)
    error = capsys.readouterr().err
    assert status == 0 or status == 2 and error.startswith('error: ') and error.count('\n') == 1


@pytest.mark.parametrize('name', COMMANDS)
def test_other_files_are_not_overwritten(tmp_path, capsys, name):
    write(tmp_path, 'v', 'x', [{'label': 'x', 'segment': [0, 3], 'score': 0.5}])
    output = COMMANDS[name][1][-1]
    path = tmp_path / output / 'v.srt' if name == 'subtitles' else tmp_path / output
    assert [status_of(name, tmp_path) for _ in range(2)] == [0, 0]  # the second time the file of the first
    path.write_bytes(b'{"best": 1} or weights, or notes')
    assert status_of(name, tmp_path) == 2
    assert 'of another kind' in capsys.readouterr().err and path.read_bytes() == b'{"best": 1} or weights, or notes'


@pytest.mark.parametrize('kind', ['pipe', 'device'])
@pytest.mark.parametrize('read', [
    read_ground_truth, read_detections, read_any, read_durations, read_labels, read_split_file, read_curves,
    mmap_npy, load_array, load_objects, read_metrics, Normalization.load, read_torch_file])
def test_pipes_and_devices_are_refused_before_they_are_read(tmp_path, kind, read):
    path = tmp_path / 'x'
    os.mkfifo(path) if kind == 'pipe' else path.symlink_to('/dev/zero')
    with pytest.raises(InputError, match='x: is a pipe or a device; give the path of a regular file'):
        read(path)


def test_a_pipe_without_a_reader_is_no_output(tmp_path):
    os.mkfifo(tmp_path / 'x')
    with pytest.raises(InputError, match='x: cannot be written'):
        write_text(tmp_path / 'x', 'text')
    reader = os.open(tmp_path / 'x', os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / 'x', 'text')
    assert os.read(reader, 9) == b'text'
    os.close(reader)


@pytest.mark.parametrize('name', ['detection', 'diagnosis', 'report'])
def test_thresholds_may_be_a_range(tmp_path, capsys, name):
    write(tmp_path, 'v', 'x', [{'label': 'x', 'segment': [0, 3], 'score': 0.5}])
    main, (*arguments, output) = COMMANDS[name]
    arguments = [str(tmp_path / word) if '.json' in word else word for word in arguments]
    written = []
    for thresholds in (['0.5:0.05:0.95'], [f'{i / 20:g}' for i in range(10, 20)]):
        assert main([*arguments, str(tmp_path / output), '--tiou', *thresholds]) == 0
        written.append((tmp_path / output).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize('row, count', [('v,x,1,3,0.5', 0), ('v,x,1000,3000,0.5', 1), ('w,x,1,3,0.5', 1),
                                        ('v,X,1,3,0.5', 1)])
def test_a_report_with_the_events_of_another_run_is_a_warning(tmp_path, capsys, row, count):
    write(tmp_path, 'v', 'x', [{'label': 'x', 'segment': [0, 3], 'score': 0.5}])
    (tmp_path / 'e.csv').write_text(f'video,label,start,end,score\nv,x,0,3,0.5\n{row}\n')
    main, (*arguments, output) = COMMANDS['report']
    arguments = [str(tmp_path / word) if '.json' in word else word for word in arguments]
    assert main([*arguments, str(tmp_path / output), '--events', str(tmp_path / 'e.csv')]) == 0
    assert ('e.csv: 1 of 2 events are of other videos, classes or times' in capsys.readouterr().err) == bool(count)
