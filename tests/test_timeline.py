"""The timeline picture: everything that is in the files is drawn, where it belongs, and nothing else."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval.curves import pick_curves, read_curves, write_curves
from eval.files import read_detections, read_ground_truth
from eval.timeline import _name, draw_timeline, main
from utils import InputError

ROOT = Path(__file__).resolve().parents[1]
STRANGE = '$\\frac{<script>\n' + 'x' * 300
COUNT, STEP = 50, 0.4  # snippets, seconds of each


@pytest.fixture
def files(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / 'gt.json').write_text(json.dumps({'database': {
        'v_one': {'subset': 'test', 'annotations': [
            {'label': 'Run', 'segment': [1, 3]}, {'label': 'Run', 'segment': [5, 9]},
            {'label': 'Jump', 'segment': [2, 2.5]}]},
        'two': {'subset': 'test', 'duration': 33, 'annotations': [{'label': STRANGE, 'segment': [1, 3]}]}}}))
    for name, shift in (('a', 0), ('b', 1)):
        rows = [{'label': label, 'score': score, 'segment': [start + shift, start + 2 + shift]}
                for label, score, start in (('Run', 0.9, 1), ('Run', 0.2, 6), ('Run', 0.2, 7), ('Swim', 0.5, 3))]
        (tmp_path / name).mkdir()
        (tmp_path / name / 'detections.json').write_text(json.dumps({'results': {
            'one': rows, 'two': [{'label': STRANGE, 'score': -0.1, 'segment': [0, 5]}]}}))
    curve = rng.random((2, COUNT, 3))
    write_curves(tmp_path / 'curves.npz', pick_curves(
        ['one', 'two'], ['Jump', 'Run', STRANGE], np.full(2, STEP), np.full(2, 40), curve[..., 0], curve[..., 1], curve,
        9 * curve - 3, np.array([[False, True, False], [False, False, True]])))
    return tmp_path


def open_files(files: Path):
    results = [(name, read_detections(files / name / 'detections.json')) for name in 'ab']
    return read_ground_truth(files / 'gt.json'), results, read_curves(files / 'curves.npz')


def titles(figure) -> list[str]:
    return [ax.get_title(place) for ax in figure.axes for place in ('left', 'right') if ax.get_title(place)]


def test_panels_of_a_video_with_two_result_files_and_curves(files):
    truth, results, curves = open_files(files)
    figure = draw_timeline('one', truth, results, curves)
    assert titles(figure) == ['Jump', 'a: none', 'b: none', 'Run', 'a: 3', 'b: 3', 'Swim', 'a: 1', 'b: 1', 'Actionness']
    assert figure.axes[0].get_xlim() == (0, COUNT * STEP)


def test_detections_and_instances_stand_where_the_files_say(files):
    truth, results, _ = open_files(files)
    figure = draw_timeline('one', truth, results)
    by_title = {ax.get_title('left') or ax.get_title('right'): ax for ax in figure.axes}
    bars = sorted((bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in by_title['b: 3'].patches
                  if bar.get_height() < 0.5)  # the taller ones shade the instances
    np.testing.assert_allclose(bars, [(2, 2, 0.9), (7, 2, 0.2), (8, 2, 0.2)])
    spans = [path.get_extents() for path in by_title['Run'].collections[0].get_paths()]
    assert [(box.x0, box.x1) for box in spans] == [(1, 3), (5, 9)]
    assert figure.axes[0].get_xlim() == (0, 10)  # no duration, no curves: the last end of all


def test_scores_below_the_least_are_left_out(files):
    truth, results, _ = open_files(files)
    figure = draw_timeline('one', truth, results[:1], min_score=0.5)
    assert titles(figure) == ['Jump', 'a: none', 'Run', 'a: 1', 'Swim', 'a: 1']


def test_medians_and_regions_are_those_of_the_curves(files):
    truth, results, curves = open_files(files)
    ax = draw_timeline('one', truth, results, curves).axes[-1]
    ax = next(ax for ax in [ax, *ax.figure.axes] if ax.get_title('left') == 'Actionness')
    lines = {line.get_label(): line.get_ydata() for line in ax.lines}
    medians = [np.median(values) for values in (curves.aware[0], curves.agnostic[0])]
    assert [list(lines[f'its median {m:.2f}']) for m in medians] == [[m, m] for m in medians]
    np.testing.assert_allclose(lines['class-aware'], curves.aware[0])

    shaded = {}
    for collection in ax.collections:
        seen = np.zeros(COUNT, bool)
        for path in collection.get_paths():
            box = path.get_extents()
            seen[round(box.x0 / STEP):round(box.x1 / STEP)] = True
        shaded[collection.get_label()] = seen.tolist()
    aware, agnostic = ([value > median for value in values]
                       for values, median in zip((curves.aware[0], curves.agnostic[0]), medians))
    assert shaded == {'consistent action': [a and b for a, b in zip(aware, agnostic)],
                      'consistent background': [not a and not b for a, b in zip(aware, agnostic)],
                      'inconsistent': [a != b for a, b in zip(aware, agnostic)]}


def test_a_video_that_nobody_knows_is_an_input_error(files):
    truth, results, curves = open_files(files)
    with pytest.raises(InputError, match="'three'"):
        draw_timeline('three', truth, results, curves)


def test_a_video_without_anything_is_still_drawn(files, tmp_path):
    (tmp_path / 'none.json').write_text('{"database": {"one": {}}}')
    assert titles(draw_timeline('v_one', read_ground_truth(tmp_path / 'none.json'))) == ['no class']


@pytest.mark.parametrize('ending', ['png', 'svg'])
@pytest.mark.filterwarnings('error')
def test_command_draws_the_same_picture_twice_whatever_the_labels(files, ending):
    pictures = []
    for i in range(2):
        path = files / f'{i}.{ending}'
        results = [str(files / name / 'detections.json') for name in 'ab']
        assert main([str(files / 'gt.json'), *results, '--video', 'two', '--curves', str(files / 'curves.npz'),
                     '-o', str(path)]) == 0
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1] and len(pictures[0]) > 5000
    assert b'<script' not in pictures[0]


def test_result_files_of_one_name_are_called_after_their_folders(files):
    paths = [str(files / name / 'detections.json') for name in 'ab']
    assert [_name(path, paths) for path in paths] == ['a', 'b'] and _name(paths[0], paths[:1]) == 'detections.json'


@pytest.mark.parametrize('change, said', [
    (['--video', 'three'], "'three'"), (['--curves', 'gt.json'], 'gt.json'), (['-o', 'x.pdf'], '.png or .svg'),
    (['-o', 'nowhere/x.png'], 'nowhere'),
    (['-o', 'gt.json'], 'would be written over'), (['--min_score', 'high'], 'min_score')])
def test_bad_usage_is_one_line_and_status_2(files, capsys, monkeypatch, change, said):
    monkeypatch.chdir(files)
    try:
        status = main(['gt.json', 'a/detections.json', '--video', 'one', *change])
    except SystemExit as end:
        status = end.code
    message = capsys.readouterr().err
    assert status == 2 and message.startswith('error: ') and message.count('\n') == 1 and said in message


def test_matplotlib_is_loaded_only_to_draw():
    code = 'import sys, eval.timeline; sys.exit("matplotlib" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
