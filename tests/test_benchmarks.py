"""The benchmarks: what a table says of its numbers, that work is measured in turns, and every group at a tiny size."""
import json
import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import bench, cpu, cuda, stages, step, workloads
from benchmarks.step import make_batch, make_training, products
from benchmarks.table import Row, Times, show, table, take_turns, timed
from benchmarks.workloads import Size
from formats.data_folder import find_split
from dataset import VideoDataset
from eval.detection import evaluate
from formats.annotations import in_subset, read_ground_truth
from main import main

CPU = torch.device('cpu')
TINY = Size('thumos14', num_train=5, num_test=4, num_classes=3, feature_dim=8,
            flags=('--hidden_dim', '6', '--batch_size', '2', '--num_segments', '40'))


# ---- tables ---------------------------------------------------------------------------------------------------------

def test_the_ratio_is_the_median_of_the_rounds_ratios():
    # A round in which the machine was ten times slower changes neither: the limit of that round was slow, too.
    row = Row('x', [2., 30., 4.], limit=[1., 10., 2.])
    assert row.median == 4 and row.ratio == 2
    assert Row('x', [2.]).ratio is None


@pytest.mark.parametrize('target, met', [('<= 3 s', True), ('<= 2.9 s', False), ('<= 2 x', True),
                                         ('<= 1.9 x', False), ('', None)])
def test_targets(target, met):
    row = Row('x', [3.], limit=[1.5], target=target)
    assert row.met is met
    assert ('missed' in table([row])) == (met is False)


def test_a_target_must_be_in_the_unit_of_the_line():
    with pytest.raises(ValueError, match='GB'):
        Row('x', [1.], 'GB', target='<= 1 s').met


def test_a_target_missed_by_waiting_is_told_from_one_missed_by_work():
    waited, worked = (timed('x', Times([2.], [used]), target='<= 1 s') for used in (0.9, 1.1))
    assert 'waited for a busy processor' in table([waited]) and '**missed**' not in table([waited])
    assert '**missed**' in table([worked])


def test_a_table_has_a_line_for_every_row_and_all_its_numbers():
    lines = table([Row('first', [1., 3., 2.], limit=[4., 4., 4.], target='<= 1.5 x', elsewhere='60 s'),
                   Row('second', [0.0123])]).splitlines()
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    assert len(cells) == 4 and len({len(line) for line in cells}) == 1
    assert cells[2] == ['first', '2.00 s', '1.00 s - 3.00 s', '', '4.00 s', '0.50', '<= 1.5 x', '60 s']
    assert cells[3][:3] == ['second', '12.3 ms', 'one run']


@pytest.mark.parametrize('value, unit, text', [(0.0123, 's', '12.3 ms'), (1.5, 's', '1.50 s'), (123.4, 's', '123 s'),
                                               (1234., 's', '1234 s'), (0.5, 'GB', '0.500 GB'), (0., '%', '0 %')])
def test_numbers_have_three_digits(value, unit, text):
    assert show(value, unit) == text


def test_processor_times_have_a_ratio_of_their_own():
    row = timed('x', Times([2., 9.], [1.5, 1.5]), Times([1., 9.], [1., 1.]).times(2))
    assert row.limit == [2., 18.] and row.processor_ratio == 0.75
    assert '0.75 (0.75)' in table([row])


def test_groups_that_are_measured_again_replace_their_former_lines(tmp_path):
    for groups in ({'a': [Row('first', [1.])], 'b': [Row('second', [2.])]}, {'a': [Row('third', [3.], limit=[2.])]}):
        text = bench.save(tmp_path, 'cpu', 'a machine', groups, 0.5)
    assert 'first' not in text and 'second' in text and 'third' in text and (tmp_path / 'cpu.md').read_text() == text
    found = json.loads((tmp_path / 'cpu.json').read_text())
    assert found['a']['rows'][0]['ratio'] == 1.5 and found['a']['machine'] == 'a machine'


# ---- turns ----------------------------------------------------------------------------------------------------------

def test_calls_take_turns_and_the_first_round_does_not_count():
    order = []
    times = take_turns({'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, rounds=2,
                       before={'b': lambda: order.append('before b')})
    assert order == ['a', 'before b', 'b'] * 3
    assert len(times['a'].wall) == len(times['b'].processor) == 2


def test_seconds_are_those_of_one_piece_and_waiting_is_no_work():
    def wait() -> int:
        time.sleep(0.1)
        return 5

    times = take_turns({'pieces': wait, 'not counted': lambda: time.sleep(0.01)}, rounds=1)
    assert 0.02 <= times['pieces'].wall[0] < 0.2 and times['pieces'].processor[0] < 0.01
    assert times['not counted'].wall[0] >= 0.01


def test_the_clock_does_not_count_nested_stages_twice():
    clock = stages.Clock()
    inner = clock.timed(lambda: time.sleep(0.05), 'inner')
    clock.timed(lambda: (inner(), time.sleep(0.1)), 'outer')()
    assert 0.05 <= clock.seconds['inner'] < 0.1 <= clock.seconds['outer'] < clock.seconds['inner'] + 0.1


# ---- workloads ------------------------------------------------------------------------------------------------------

def test_drawn_annotations_have_the_known_distribution(monkeypatch, tmp_path):
    monkeypatch.setattr(workloads, 'SHARED', tmp_path)
    truth = workloads.thumos14_truth()
    lengths = truth.durations / workloads.SNIPPET_SECONDS
    assert truth.subsets.count('training') == 200 and truth.subsets.count('testing') == 210
    assert 225 < np.median(lengths) < 280 and 300 < lengths.mean() < 380 and 22 < lengths.min() and lengths.max() < 2615
    assert 14 < len(truth.video) / len(truth.videos) < 18 and len(truth.labels) == 20
    assert (truth.segments[:, 1] <= truth.durations[truth.video]).all()


def test_real_annotations_have_the_published_size(shared):
    truth = workloads.thumos14_truth()
    durations = truth.durations[in_subset(truth, 'test')]
    lengths = np.floor(durations / workloads.SNIPPET_SECONDS)
    assert (len(lengths), lengths.min(), np.floor(np.median(lengths))) == (210, 23, 252)
    assert (round(lengths.mean()), lengths.max()) == (339, 2614)


def test_a_folder_is_written_once_and_its_data_fit_the_recipe(tmp_path):
    folder = workloads.thumos14(tmp_path / 'data', TINY)
    before = (folder / 'gt.json').stat().st_mtime_ns
    assert workloads.thumos14(tmp_path / 'data', TINY) == folder and (folder / 'gt.json').stat().st_mtime_ns == before
    (folder / 'version.txt').write_text('older')
    workloads.thumos14(folder, TINY)
    assert (folder / 'gt.json').stat().st_mtime_ns != before
    assert [path.name for path in tmp_path.iterdir()] == ['data']
    truth = read_ground_truth(folder / 'gt.json')
    for split, count in (('train', 5), ('test', 4)):
        videos = VideoDataset(find_split(folder, split, truth, truth.labels, ('rgb', 'flow')), 'ram')
        assert len(videos) == count and videos.feature_dim == 8 and videos.labels.any(dim=1).all()


def test_repeated_detections_score_alike():
    truth = workloads.activitynet_truth(50)
    detections = workloads.draw_detections(truth, 500)
    four = workloads.repeat_detections(detections, 4)
    assert len(four.scores) == 2000 and np.array_equal(four.segments[:500], detections.segments)
    once = evaluate(truth, detections, [0.5]).average
    assert 0 < once < 1 and evaluate(truth, four, [0.5]).average > 0


def test_no_detection_lies_at_nan_where_a_duration_is_not_known():
    truth = workloads.activitynet_truth(50)
    truth.durations[::3] = np.nan
    detections = workloads.draw_detections(truth, 500)
    assert np.isfinite(detections.segments).all()
    for video in range(0, 50, 3):    # then they lie before the end of its last instance, or by an instance
        last = truth.segments[truth.video == video].max()
        assert (detections.segments[detections.video == video, 0] < last).all()


def test_ten_times_the_videos_have_ten_times_the_detections_and_the_same_map():
    truth = workloads.activitynet_truth(50)
    detections = workloads.draw_detections(truth, 500)
    truths, more = workloads.repeat_videos(truth, detections, 10)
    assert len(set(truths.videos)) == len(truths.durations) == len(truths.subsets) == 500 and len(more.scores) == 5000
    assert more.video.max() == truths.video.max() == 499
    once, ten = (evaluate(*pair, [0.5]) for pair in ((truth, detections), (truths, more)))
    assert ten.average == pytest.approx(once.average, abs=1e-2)    # equal scores follow each other in another order


# ---- the step -------------------------------------------------------------------------------------------------------

def test_both_formulations_are_the_same_network():
    batch = make_batch(TINY, CPU)
    own, layers = (make_training(TINY, CPU, convolutions=convolutions) for convolutions in (False, True))
    assert type(own.network.actionness_module) is not type(layers.network.actionness_module)
    for a, b in zip(own.network(batch.features), layers.network(batch.features)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(own.step(batch), layers.step(batch), rtol=1e-4, atol=1e-5)


def test_a_step_lowers_the_loss():
    training, batch = make_training(TINY, CPU), make_batch(TINY, CPU)
    losses = [training.step(batch)[0].item() for _ in range(20)]
    assert losses[-1] < losses[0]


def test_four_products_are_a_step():
    """The limit's arithmetic: a forward pass and the weight gradients take two products each, of 2 x 3D x 2H x NT."""
    operations = []
    for call in products(TINY, CPU).values():
        with FlopCounterMode(display=False) as counter:
            call()
        operations.append(counter.get_total_flops())
    args = TINY.arguments()
    rows, width, hidden = args.batch_size * args.num_segments, TINY.feature_dim, args.hidden_dim
    base, attentions = 2 * rows * 3 * (2 * width) * hidden, 2 * (2 * rows * 3 * width * hidden)
    assert operations == [(base + attentions) / 2] * 2


# ---- every group ----------------------------------------------------------------------------------------------------

def rows_of(group: str, rows: list[Row], count: int) -> None:
    assert len(rows) == count, [row.what for row in rows]
    for row in rows:
        assert all(np.isfinite(row.values)), (group, row)
    assert len(table(rows).splitlines()) == count + 2


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Nothing but drawn data, and little of it."""
    monkeypatch.setattr(workloads, 'SHARED', tmp_path / 'none')
    monkeypatch.setattr(cpu, 'SHARED', tmp_path / 'none')
    return tmp_path


def test_scoring(drawn, monkeypatch):
    monkeypatch.setattr(cpu, 'NUM_DETECTIONS', 300)
    monkeypatch.setattr(cpu, 'NUM_ACTIVITYNET', 1000)
    few = workloads.activitynet_truth(20)
    monkeypatch.setattr(workloads, 'activitynet_truth', lambda: few)
    rows = cpu.scoring(drawn, 1, CPU)
    rows_of('scoring', rows, 10)
    assert rows[1].limit == [4 * rows[0].values[0]] and rows[2].limit == [16 * rows[0].values[0]]
    assert rows[4].limit == [10 * rows[3].values[0]] and '10,000 detections' in rows[4].what
    assert rows[6].values[0] > 2 * rows[5].values[0]
    assert '300 detections' in rows[0].what


def test_localization_loading_and_step(drawn, monkeypatch):
    few = workloads.activitynet_truth(20)
    monkeypatch.setattr(workloads, 'activitynet_truth', lambda: few)
    rows = cpu.localization(drawn, 1, CPU, (TINY, workloads.ACTIVITYNET))
    rows_of('localization', rows, 5)
    assert rows[2].limit == [10 * rows[1].values[0]] and rows[4].values[0] > rows[3].values[0]
    rows_of('loading', cpu.loading(drawn, 1, CPU, TINY), 4)
    monkeypatch.setattr(step, 'precisions', lambda device: ('fp32', 'bf16'))
    other = TINY._replace(dataset='activitynet1.3')
    rows = step.step(drawn, 1, CPU, (TINY, other))
    rows_of('step', rows, 12)
    assert rows[0].limit[0] > rows[1].limit[0]    # of a step more than of its forward pass
    assert [row.target for row in rows if row.what.startswith('training step')] == [
        '<= 1.25 x', '', '<= 1.5 x', '<= 1.5 x', '', '<= 1.5 x']


def test_bf16_is_measured_where_the_processor_has_it(monkeypatch):
    for faster in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(step, 'matmul_speed', lambda dtype, device: 2. if dtype == faster else 1.)
        assert ('bf16' in step.precisions(CPU)) == (faster == torch.bfloat16)


def test_whole_processes_and_the_table_that_they_write(drawn, monkeypatch):
    monkeypatch.setitem(cpu.GROUPS, 'inference', lambda *args: cpu.inference(*args, size=TINY))
    monkeypatch.setitem(cpu.GROUPS, 'training', lambda *args: cpu.training(*args, size=TINY))
    results = drawn / 'results'
    assert bench.main(['cpu', 'inference', 'training', '--rounds', '1', '--data', str(drawn / 'data'),
                       '--results', str(results)]) == 0
    found = json.loads((results / 'cpu.json').read_text())
    assert list(found) == ['inference', 'training']
    for name, stages_of in (('inference', {'forward passes', 'localization', 'scoring', 'imports', 'writing'}),
                            ('training', {'forward passes', 'losses', 'backward passes', 'optimizer'})):
        rows = [Row(**{field: row[field] for field in Row._fields}) for row in found[name]['rows']]
        assert stages_of <= {row.what.removeprefix('of it: ') for row in rows}
        assert all(row.values[0] > 0 for row in rows if row.what.removeprefix('of it: ') in stages_of)
        assert sum(row.values[0] for row in rows[1:-1]) == pytest.approx(rows[0].values[0], rel=0.02)
        assert 0.05 < rows[-1].values[0] < 3 and rows[-1].unit == 'GB'
    assert (results / 'cpu.md').read_text().count('\n### ') + 1 == 2


def test_what_is_measured_on_a_gpu_runs_here_too(drawn, monkeypatch):
    monkeypatch.setattr(cuda, 'precisions', lambda device: ('fp32',))
    monkeypatch.setattr(cuda, 'run', lambda *command: float(main(list(map(str, command[2:])))))    # saves the imports
    rows_of('schedule', cuda.schedule(drawn, 1, CPU, TINY, epochs=1), 1)
    monkeypatch.setattr('engine.runtime.check_precision', lambda *_: '')    # a processor without bf16 would be refused it
    monkeypatch.setattr(cuda, 'precisions', lambda device: ('fp32', 'bf16'))
    rows = cuda.agreement(drawn, 1, CPU, TINY, steps=2)
    rows_of('agreement', rows, 2)
    assert rows[0].values == [0.] and rows[0].met and 0 < rows[1].values[0] < 5    # the same device; another precision


@pytest.mark.parametrize('arguments', [['cpu', 'nothing'], ['tpu'], ['cpu', '--rounds', '0']] + (
    [] if torch.cuda.is_available() else [['cuda']]))
def test_bad_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(arguments)
    assert ended.value.code == 2 and 'error:' in capsys.readouterr().err


@pytest.mark.parametrize('flag', ['--data', '--results'])
def test_a_place_that_is_a_file_is_refused_before_anything_is_measured(tmp_path, capsys, flag):
    (tmp_path / 'file').write_text('mine')
    places = {'--data': str(tmp_path / 'data'), '--results': str(tmp_path / 'results'), flag: str(tmp_path / 'file')}
    assert bench.main(['cpu', 'loading', '--rounds', '1', *(word for pair in places.items() for word in pair)]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and str(tmp_path / 'file') in err and err.count('\n') == 1
