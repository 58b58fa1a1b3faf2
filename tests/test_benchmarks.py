"""The benchmarks: tables, measuring in turns, the synthetic data, and every group at a tiny size."""
import time
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as bench
from benchmarks import workloads
from benchmarks.__main__ import Line, Setup, format_table, matmuls, measure_in_turns, show, use_plain_convolutions
from benchmarks.workloads import Size, make_batch, make_trainer
from dataset import VideoDataset
from engine.inference import EvaluatorOptions
from eval.detection import evaluate
from eval.localization import localize
from formats.annotations import in_subset, read_ground_truth
from formats.data_folder import find_split
from formats.detections import Detections
from main import main
from model import TemporalConv1d

CPU = torch.device('cpu')
FLAGS = ('--hidden_dim', '6', '--batch_size', '2', '--num_segments', '40')
TINY = Size('thumos14', num_train=5, num_test=4, num_classes=3, feature_dim=8, num_detections=300, flags=FLAGS)
SMALL = Size('activitynet1.3', num_train=30, num_test=20, num_classes=5, feature_dim=8, num_detections=1000,
             flags=FLAGS)


@pytest.fixture
def setup(tmp_path):
    return Setup(tmp_path, rounds=1, device=CPU, thumos14=TINY, activitynet=SMALL)


# ---- tables ---------------------------------------------------------------------------------------------------------

def test_the_ratio_is_the_median_of_the_ratios_per_round():
    # A round in which the machine was ten times slower does not change it: the reference was slower, too.
    values, reference = np.array([[2., 1.], [30., 1.], [4., 1.]]), np.array([[1., 2.], [10., 2.], [2., 2.]])
    assert Line('x', values, 'y', reference).ratios() == [2, 0.5]
    assert Line('x', values).ratios() == []


def test_a_table_has_a_row_per_line_with_all_its_numbers():
    rows = format_table([Line('first', np.array([[1., 1.], [3., 3.], [2., 2.]]), 'a copy', np.full((3, 2), 4.)),
                         Line('second', np.array([[0.0123]]), unit='GB')]).splitlines()
    cells = [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]
    assert len(cells) == 4 and len({len(row) for row in cells}) == 1
    assert cells[2] == ['first', '2.00 s', '1.00 s - 3.00 s', '4.00 s, a copy', '0.50', '0.50']
    assert cells[3] == ['second', '0.0123 GB', 'one run', '', '', '']


@pytest.mark.parametrize('value, unit, text', [(0.0123, 's', '12.3 ms'), (1.5, 's', '1.50 s'), (123.4, 's', '123 s'),
                                               (1234., 's', '1234 s'), (0.5, 'GB', '0.500 GB'), (0., 'GB', '0 GB')])
def test_numbers_have_three_digits(value, unit, text):
    assert show(value, unit) == text


# ---- measuring ------------------------------------------------------------------------------------------------------

def test_calls_take_turns_and_the_first_round_does_not_count():
    order = []
    times = measure_in_turns({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, rounds=2, repeats=2)
    assert order == ['a', 'a', 'b', 'b'] * 3
    assert times['a'].shape == times['b'].shape == (2, 2)


def test_times_are_per_call_and_waiting_takes_no_cpu_time():
    times = measure_in_turns({'wait': lambda: time.sleep(0.02)}, rounds=1, repeats=5)
    assert 0.02 <= times['wait'][0, 0] < 0.2 and times['wait'][0, 1] < 0.01


# ---- synthetic data -------------------------------------------------------------------------------------------------

def test_drawn_annotations_have_the_known_distribution():
    size = workloads.THUMOS14._replace(dataset='drawn')
    gt = workloads.thumos14_gt(size)
    lengths = gt.durations / workloads.SNIPPET_SECONDS
    assert gt.subsets.count('training') == 200 and gt.subsets.count('testing') == 210
    assert 225 < np.median(lengths) < 280 and 300 < lengths.mean() < 380 and 22 < lengths.min() and lengths.max() < 2615
    assert 14 < len(gt.video) / len(gt.videos) < 18 and len(gt.labels) == 20
    assert (gt.segments[:, 1] <= gt.durations[gt.video]).all()
    assert len(workloads.thumos14_test_gt(size).videos) == 210


def test_annotations_have_the_published_size():
    gt = workloads.thumos14_gt()
    durations = gt.durations[in_subset(gt, 'test')]
    lengths = np.floor(durations / workloads.SNIPPET_SECONDS)
    assert (len(lengths), lengths.min(), np.floor(np.median(lengths))) == (210, 23, 252)
    assert (round(lengths.mean()), lengths.max()) == (339, 2614)
    assert len(workloads.activitynet_gt().videos) == 4926


def test_a_folder_is_written_once_per_size_and_fits_the_recipe(tmp_path):
    folder = workloads.write_thumos14(tmp_path / 'data', TINY)
    before = (folder / 'gt.json').stat().st_mtime_ns
    assert workloads.write_thumos14(folder, TINY) == folder and (folder / 'gt.json').stat().st_mtime_ns == before
    (folder / 'version.txt').write_text('older')
    workloads.write_thumos14(folder, TINY)
    assert (folder / 'gt.json').stat().st_mtime_ns != before
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    gt = read_ground_truth(folder / 'gt.json')
    for split, count in (('train', 5), ('test', 4)):
        videos = VideoDataset(find_split(folder, split, gt, gt.labels, ('rgb', 'flow')), 'ram')
        assert len(videos) == count and videos.feature_dim == 8 and videos.labels.any(dim=1).all()


def test_the_synthetic_data_are_the_same_every_time(tmp_path):
    first, second = (workloads.write_thumos14(tmp_path / name, TINY) for name in 'ab')
    names = [path.relative_to(first) for path in first.rglob('*.npy')]
    assert len(names) == 2 * (TINY.num_train + TINY.num_test)
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert torch.equal(make_batch(TINY, CPU).features, make_batch(TINY, CPU).features)


def test_the_matched_filters_detect_the_classes(tmp_path):
    size = TINY._replace(num_test=12, feature_dim=64)
    folder, name = workloads.write_thumos14(tmp_path / 'data', size), 'run'
    assert main([*size.command(), '--data_path', str(folder), '--exp_name', name, '--output_dir', str(tmp_path),
                 '--inference_only', '--model_file', str(folder / 'weights.pt'), '--device', 'cpu']) == 0
    results = (tmp_path / name / 'results.json').read_text()
    assert float(results.split('"average_mAP":')[1].split(',')[0]) > 0.2


def test_drawn_scores_localize_the_drawn_instances():
    gt = workloads.activitynet_gt(SMALL)
    args = SMALL.args()
    proposals = localize(*workloads.draw_selection(gt, args.num_segments),
                         EvaluatorOptions.from_args(args).localization)
    assert evaluate(gt, Detections(gt.videos, gt.labels, *proposals), [0.1]).average > 0.5


def test_drawn_detections_score_between_none_and_all():
    gt = workloads.activitynet_gt(SMALL)
    assert 0 < evaluate(gt, workloads.draw_detections(gt, 500), [0.5]).average < 1


def test_detections_are_finite_where_durations_are_unknown():
    gt = workloads.activitynet_gt(SMALL)
    gt.durations[::3] = np.nan
    detections = workloads.draw_detections(gt, 500)
    assert np.isfinite(detections.segments).all()
    for video in range(0, 20, 3):  # before the end of the last instance, or near an instance
        last = gt.segments[gt.video == video].max()
        assert (detections.segments[detections.video == video, 0] < last).all()


def test_ten_times_the_videos_have_ten_times_the_detections_and_the_same_map():
    gt = workloads.activitynet_gt(SMALL)
    detections = workloads.draw_detections(gt, 500)
    more_gt, more = workloads.repeat_videos(gt, detections, 10)
    assert len(set(more_gt.videos)) == len(more_gt.durations) == len(more_gt.subsets) == 200
    assert len(more.scores) == 5000 and more.video.max() == more_gt.video.max() == 19 + 9 * 20
    once, ten = (evaluate(*pair, [0.5]) for pair in ((gt, detections), (more_gt, more)))
    assert ten.average == pytest.approx(once.average, abs=1e-2)  # equal scores follow each other in another order


# ---- the step -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_plain_convolutions_are_the_same_network(precision):
    batch = make_batch(TINY, CPU)
    fast, plain = (make_trainer(TINY, CPU, '--precision', precision) for _ in range(2))
    use_plain_convolutions(plain.network)
    assert not any(isinstance(layer, TemporalConv1d) for layer in plain.network.modules())
    tolerance = {'rtol': 1e-4, 'atol': 1e-5} if precision == 'fp32' else {'rtol': 0.05, 'atol': 0.02}
    for a, b in zip(fast.network(batch.features), plain.network(batch.features)):
        if a.is_floating_point() or precision == 'fp32':
            torch.testing.assert_close(a, b, **tolerance)
    if precision == 'fp32':  # in bf16 other snippets may be mined
        for _ in range(2):  # the second step also shows that the optimizer updates the same parameters
            torch.testing.assert_close(fast.step(batch), plain.step(batch), **tolerance)


def test_a_step_lowers_the_loss():
    trainer, batch = make_trainer(TINY, CPU), make_batch(TINY, CPU)
    losses = [trainer.step(batch)[0].item() for _ in range(20)]
    assert losses[-1] < losses[0]


def test_four_matmuls_are_a_step():
    """A forward pass and the weight gradients take two matmuls each, of 2 x 3D x 2H x NT operations."""
    operations = []
    for call in matmuls(TINY, 'fp32', CPU).values():
        with FlopCounterMode(display=False) as counter:
            call()
        operations.append(counter.get_total_flops())
    args = TINY.args()
    rows, width, hidden = args.batch_size * args.num_segments, TINY.feature_dim, args.hidden_dim
    base, attentions = 2 * rows * 3 * (2 * width) * hidden, 2 * (2 * rows * 3 * width * hidden)
    assert operations == [(base + attentions) / 2] * 2


def test_bf16_is_measured_where_it_is_faster(monkeypatch):
    for gain in (0.5, 2.):
        monkeypatch.setattr(bench, 'bf16_gain', lambda device: gain)
        assert ('bf16' in bench.precisions(CPU)) == (gain > 1)


# ---- every group ----------------------------------------------------------------------------------------------------

def lines_of(group, setup, count):
    lines = bench.GROUPS['cpu'].get(group, bench.schedule)(setup)
    assert len(lines) == count, [line.what for line in lines]
    for line in lines:
        assert np.isfinite(line.values).all() and (line.values[:, 0] > 0).all(), line
        assert (line.reference == '') == (line.reference_values is None)
    assert len(format_table(lines).splitlines()) == count + 2
    return lines


def test_step(setup, monkeypatch):
    monkeypatch.setattr(bench, 'precisions', lambda device: ('fp32', 'bf16'))
    lines = lines_of('step', setup, 16)
    assert lines[0].reference_values[0, 0] > lines[1].reference_values[0, 0]  # a step's are more than a forward pass's
    assert [line.what for line in lines[:4]] == [
        'thumos14, fp32: training step', 'thumos14, fp32: forward pass', 'thumos14, fp32: training step, nn.Conv1d',
        'thumos14, fp32: forward pass, nn.Conv1d']


def test_loading(setup):
    lines_of('loading', setup, 3)


def test_localization(setup):
    lines = lines_of('localization', setup, 5)
    assert (lines[2].reference_values == 10 * lines[1].values).all() and lines[4].values > lines[3].values


def test_scoring(setup):
    lines = lines_of('scoring', setup, 7)
    assert (lines[2].reference_values == 10 * lines[1].values).all()
    assert '300 detections' in lines[0].what and '1,000 detections' in lines[1].what


def test_extraction(setup, monkeypatch):
    pytest.importorskip('av')
    from extraction import i3d
    monkeypatch.setattr(i3d, 'CHANNELS', {'rgb': 3})
    monkeypatch.setattr(bench, 'overlap', partial(bench.overlap, num_rows=1))
    lines = bench.extraction(setup)
    assert [line.reference for line in lines[1:-1]] == (['network alone'] * 2 if lines[2:] else [])
    assert 'I3D (rgb)' in lines[-1].what and lines[-1].values[0, 0] > 0


def test_whole_processes_from_the_command_line(tmp_path, monkeypatch, capsys):
    tiny = TINY._replace(flags=(*FLAGS, '--num_epochs', '1'))
    small = SMALL._replace(flags=(*FLAGS, '--num_steps', '3'))
    sizes = {'thumos14': tiny, 'activitynet': small, 'activitynet12': small._replace(dataset='activitynet1.2')}
    monkeypatch.setattr(bench, 'Setup', lambda *args: Setup(*args, **sizes))
    monkeypatch.setitem(bench.GROUPS['cpu'], 'schedule', bench.schedule)
    monkeypatch.setitem(bench.GROUPS['cpu'], 'activitynet', bench.activitynet)
    monkeypatch.setattr(bench, 'precisions', lambda device: ('fp32',))
    groups = 'inference', 'start', 'memory', 'schedule', 'activitynet'
    assert bench.main([*groups, '--rounds', '1', '--data', str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert output.count('### ') == 5
    rows = [row.split(' | ') for row in output.splitlines() if row.startswith('| ') and 'median' not in row]
    assert len([row for row in rows if '---' not in row[0]]) == 2 + 2 + 3 + 1 + 2
    peaks = [float(row[1].split()[0]) for row in rows if row[1].endswith('GB')]
    assert len(peaks) == 4 and all(0.05 < peak < 3 for peak in peaks)


@pytest.mark.parametrize('arguments', [['nothing'], ['--device', 'tpu'], ['--rounds', '0'],
                                       ['--device', 'cuda', 'scoring']])
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2 and 'error:' in capsys.readouterr().err


def test_a_data_folder_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / 'file').write_text('mine')
    assert bench.main(['loading', '--rounds', '1', '--data', str(tmp_path / 'file')]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and str(tmp_path / 'file') in err and err.count('\n') == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_a_missing_gpu_is_refused(tmp_path, capsys):
    assert bench.main(['step', '--device', 'cuda', '--data', str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith('error: ')
