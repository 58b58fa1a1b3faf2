"""The timeline figure: its panels contain the data of the files."""
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from eval.curves import pick_curves, read_curves, write_curves
from eval.diagnosis import COLORS
from eval.timeline import TYPE_NAMES, ResultFile, _short_name, classify_detections, main, merge, plot_timeline
from formats.annotations import read_ground_truth
from formats.detections import Detections, read_detections
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
    results = [ResultFile(name, read_detections(files / name / 'detections.json')) for name in 'ab']
    return read_ground_truth(files / 'gt.json'), results, read_curves(files / 'curves.npz')


def titles(figure) -> list[str]:
    return [ax.get_title(place) for ax in figure.axes for place in ('left', 'right') if ax.get_title(place)]


def test_panels_of_a_video_with_two_result_files_and_curves(files):
    gt, results, curves = open_files(files)
    figure = plot_timeline('one', gt, results, curves)
    assert titles(figure) == ['Jump', 'a: 0 detections', 'b: 0 detections', 'Run', 'a: 3 detections', 'b: 3 detections',
                              'Swim', 'a: 1 detection', 'b: 1 detection', 'Actionness']
    assert figure.axes[0].get_xlim() == (0, COUNT * STEP)


def test_bars_are_the_detections_and_instances_of_the_files(files):
    gt, results, _ = open_files(files)
    figure = plot_timeline('one', gt, results)
    by_title = {ax.get_title('left') or ax.get_title('right'): ax for ax in figure.axes}
    patches = by_title['b: 3 detections'].patches
    bars = sorted((bar.get_x(), bar.get_width(), bar.get_y() + bar.get_height() / 2) for bar in patches
                  if bar.get_height() < 0.5)  # the taller ones shade the instances
    np.testing.assert_allclose(bars, [(2, 2, 0.9), (7, 2, 0.2), (8, 2, 0.2)])
    spans = [path.get_extents() for path in by_title['Run'].collections[0].get_paths()]
    assert [(box.x0, box.x1) for box in spans] == [(1, 3), (5, 9)]
    assert figure.axes[0].get_xlim() == (0, 10)  # no duration, no curves: the last end of all


def test_scores_below_the_minimum_are_left_out(files):
    gt, results, _ = open_files(files)
    figure = plot_timeline('one', gt, results[:1], min_score=0.5)
    assert titles(figure) == ['Jump', 'a: 0 detections', 'Run', 'a: 1 detection', 'Swim', 'a: 1 detection']


def test_medians_and_regions_are_those_of_the_curves(files):
    gt, results, curves = open_files(files)
    ax = plot_timeline('one', gt, results, curves).axes[-1]
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


def test_detections_have_the_colors_of_their_error_types(files):
    """Of the three of Run two match and one is a second match; Swim is not a label of the ground truth."""
    gt, results, _ = open_files(files)
    error_types = classify_detections('one', gt, results[0].detections, 0.5)
    assert [TYPE_NAMES[i] for i in error_types] == ['true positive', 'true positive', 'double detection',
                                                     'unclassified', 'localization']
    figure = plot_timeline('one', gt, [results[0]._replace(error_types=error_types)])
    by_title = {ax.get_title('left') or ax.get_title('right'): ax for ax in figure.axes}
    patches = by_title['a: 3 detections'].patches
    bars = {bar.get_x(): to_hex(bar.get_facecolor()) for bar in patches if bar.get_height() < 0.5}
    assert bars == {1: COLORS[0].lower(), 6: COLORS[0].lower(), 7: COLORS[1].lower()}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        'true positive', 'double detection', 'unclassified']
    assert classify_detections('three', gt, results[0].detections, 0.5) is None
    assert not plot_timeline('one', gt, results).legends


def test_without_ground_truth_detections_and_curves_are_plotted(files):
    _, results, curves = open_files(files)
    figure = plot_timeline('one', None, results[:1], curves)
    assert titles(figure) == ['Run', 'a: 3 detections', 'Swim', 'a: 1 detection', 'Actionness']
    assert 'gt' not in [ax.get_ylabel() for ax in figure.axes]
    assert 'gt' in [ax.get_ylabel() for ax in plot_timeline('one', open_files(files)[0], results).axes]


def test_only_segments_that_overlap_the_window_are_plotted(files):
    gt, results, _ = open_files(files)
    figure = plot_timeline('one', gt, results[:1], window=(5, 8.5))
    assert titles(figure) == ['Run', 'a: 2 detections', 'Swim', 'a: 1 detection']
    assert figure.axes[0].get_xlim() == (5, 8.5)
    with pytest.raises(InputError, match='nothing to plot from 50 s to the end'):
        plot_timeline('one', gt, results, window=(50, np.inf))


def test_annotated_classes_come_first_then_those_with_the_best_scores_and_the_title_has_their_number(files):
    gt, results, _ = open_files(files)
    labels = [f'class {i:02}' for i in range(50)]
    many = Detections(['one'], labels, np.zeros(50, int), np.arange(50), np.tile([0., 5], (50, 1)), np.arange(50) / 50)
    figure = plot_timeline('one', gt, [ResultFile('many', many)])
    assert titles(figure)[::2][:5] == ['Jump', 'Run', 'class 49', 'class 48', 'class 47']
    assert figure.get_suptitle() == 'one, 30 of 52 classes' and len(figure.axes) == 60


def test_only_the_best_bars_of_many_are_plotted(files):
    rng = np.random.default_rng(0)
    many = Detections(['one'], ['x'], np.zeros(9000, int), np.zeros(9000, int), rng.random((9000, 2)), rng.random(9000))
    ax = plot_timeline('one', None, [ResultFile('many', many)]).axes[1]
    assert ax.get_title('right') == 'many: 9000 detections, the best 2000 shown' and len(ax.patches) == 2000
    least = min(bar.get_y() + bar.get_height() / 2 for bar in ax.patches)
    assert least == pytest.approx(np.sort(many.scores)[-2000])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=12), st.integers(0, 3))
def test_merged_segments_cover_the_same_times_and_the_gaps(pairs, gap):
    merged = merge(np.array(pairs, float).reshape(-1, 2), gap)
    assert (merged[1:, 0] > merged[:-1, 1] + gap).all() and (merged[:, 0] < merged[:, 1]).all()
    covered = {t for start, end in pairs for t in range(start, end)}
    now = {t for start, end in merged.astype(int).tolist() for t in range(start, end)}
    assert covered <= now and {edge for edge in merged.ravel()} <= {time for pair in pairs for time in pair}
    assert all({t - i for i in range(gap + 1)} & covered for t in now)


def test_a_figure_has_the_given_width(files):
    gt, results, curves = open_files(files)
    for width in 3.3, 20:
        figure = plot_timeline('one', gt, results, curves, width=width)
        figure.draw_without_rendering()
        assert figure.get_figwidth() == width
        for ax in figure.axes:
            box = ax.get_tightbbox().transformed(figure.dpi_scale_trans.inverted())
            assert -0.02 <= box.x0 and box.x1 <= width + 0.02, (width, ax.get_title('left'), box)


def test_a_video_in_no_file_is_an_input_error(files):
    gt, results, curves = open_files(files)
    with pytest.raises(InputError, match="'three'"):
        plot_timeline('three', gt, results, curves)


def test_a_video_without_any_data_is_plotted(files, tmp_path):
    (tmp_path / 'none.json').write_text('{"database": {"one": {}}}')
    assert titles(plot_timeline('v_one', read_ground_truth(tmp_path / 'none.json'))) == ['no class']


@pytest.mark.parametrize('ending', ['png', 'svg', 'pdf'])
@pytest.mark.filterwarnings('error')
def test_command_writes_the_same_figure_twice_with_odd_labels(files, ending):
    figures = []
    for i in range(2):
        path = files / f'{i}.{ending}'
        results = [str(files / name / 'detections.json') for name in 'ab']
        assert main([str(files / 'gt.json'), *results, '--video', 'two', '--curves', str(files / 'curves.npz'),
                     '-o', str(path)]) == 0
        figures.append(path.read_bytes())
    assert figures[0] == figures[1] and len(figures[0]) > 5000
    assert b'<script' not in figures[0]
    assert ending != 'svg' or b'A_score</text>' in figures[0]  # text, not outlines


def test_the_command_without_ground_truth_and_with_a_window(files, capsys):
    command = [str(files / name / 'detections.json') for name in 'ab']
    command += ['--video', 'one', '--from', '2', '--to', '6', '--width', '5', '-o', str(files / 'x.png')]
    assert main(command) == 0
    assert matplotlib.image.imread(files / 'x.png').shape[1] == 5 * 130


def test_characters_that_the_font_lacks_give_one_line(files, capsys):
    row = {'label': '\U0001f938 跳', 'score': 1, 'segment': [0, 1]}
    (files / 'odd.json').write_text(json.dumps({'results': {'v': [row]}}))
    for ending, lines in ('png', 1), ('svg', 0):
        assert main([str(files / 'odd.json'), '--video', 'v', '-o', str(files / f'x.{ending}')]) == 0
        error = capsys.readouterr().err
        assert error.count('\n') == lines and 'Glyph' not in error and ('lacks some characters' in error) == bool(lines)
    assert '跳'.encode() in (files / 'x.svg').read_bytes()


def test_result_files_with_the_same_name_are_named_after_their_folders(files):
    paths = [str(files / name / 'detections.json') for name in 'ab']
    assert [_short_name(path, paths) for path in paths] == ['a', 'b']
    assert _short_name(paths[0], paths[:1]) == 'detections.json'


@pytest.mark.parametrize('change, words', [
    (['--video', 'three'], "'three'"), (['--curves', 'gt.json'], 'gt.json'), (['-o', 'x.gif'], '.png, .svg or .pdf'),
    (['-o', 'nowhere/x.png'], 'nowhere'),
    (['-o', 'gt.json'], 'would be overwritten'), (['--min_score', 'high'], 'min_score'), (['--width', '0'], 'width'),
    (['-o', 'precious.png'], 'another kind'), (['-o', 'x.png', 'other.json'], 'both contain ground truth'),
    (['--to', '-1'], 'to'),
    (['--from', '5', '--to', '4'], 'nothing to plot from 5 s to 4 s'), (['--tiou', '0'], 'tIoU'),
    (['-o', 'x.png', 'neither.json'], 'not a file of ground truth or detections')])
def test_bad_usage_gives_one_line_and_status_2(files, capsys, monkeypatch, change, words):
    monkeypatch.chdir(files)
    (files / 'precious.png').write_text('notes')
    (files / 'neither.json').write_text('{}')
    (files / 'other.json').write_bytes((files / 'gt.json').read_bytes())
    try:
        status = main(['--video', 'one', *change, 'gt.json', 'a/detections.json'])
    except SystemExit as end:
        status = end.code
    message = capsys.readouterr().err
    assert status == 2 and message.startswith('error: ') and message.count('\n') == 1 and words in message


def test_matplotlib_is_imported_only_to_plot():
    code = 'import sys, eval.timeline; sys.exit("matplotlib" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == 0
