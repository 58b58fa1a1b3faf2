"""The command line and the two runs, end to end on a tiny data set made up here."""
import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from config import parse_args
from dataset import VideoDataset
from engine import inference, run_folder, trainer
from engine.checkpoint import load_class_names
from engine.trainer import Trainer
from eval import detection, events
from eval.curves import read_curves
from eval.events import EventOptions, select_events
from formats.annotations import empty_ground_truth
from formats.detections import read_detections
from model import AICL

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ['Dive', 'Jump', 'Run']
WIDTH, HIDDEN = 8, 16
TINY = ['--device', 'cpu', '--num_segments', '16', '--hidden_dim', str(HIDDEN), '--topk_ratio', '4',
        '--contrast_ratio', '4', '--batch_size', '2', '--lr', '0.003', '--scale', '4', '--figures', '0']
LOSSES = ('step,epoch,total,mil,gce_rgb,gce_flow,modality_consistency,action_consistency,'
          'contrastive_joint,contrastive_rgb,contrastive_flow')
# Name and shape of every parameter that a released checkpoint has, here with this data set's sizes.
RELEASED = {'base_module.0': (HIDDEN, 2 * WIDTH, 3), 'cls.0': (len(CLASSES), HIDDEN, 1),
            'action_module_rgb.0': (HIDDEN, WIDTH, 3), 'cls_rgb': (1, HIDDEN, 1),
            'action_module_flow.0': (HIDDEN, WIDTH, 3), 'cls_flow': (1, HIDDEN, 1)}


# ---- the tiny data set ----------------------------------------------------------------------------------------------

def write_data(root, classes=CLASSES, num_train=5, num_test=3, width=WIDTH, seed=0):
    """Two-stream layout; in the actions the features move towards those of their class."""
    rng = np.random.RandomState(seed)
    prototypes = 3 * rng.randn(len(classes), 2, 1, width)
    database = {}
    for split, subset, count in (('train', 'Validation', num_train), ('test', 'Test', num_test)):
        names = [f'{split}_{i}' for i in range(count)]
        for i, name in enumerate(names):
            length = int(rng.randint(6, 30))
            streams, annotations = rng.randn(2, length, width), []
            for label in {i % len(classes), (i + (i == 0)) % len(classes)}:  # the first video has two labels
                start = rng.randint(0, length // 2)
                stop = start + max(2, length // 3)
                streams[:, start:stop] += prototypes[label]
                annotations.append({'label': classes[label], 'segment': [f'{0.64 * start:.2f}', 0.64 * stop]})
            database[name] = {'subset': subset, 'annotations': annotations}
            for stream, values in zip(('rgb', 'flow'), streams):
                path = root / 'features' / split / stream / f'{name}.npy'
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, values.astype(np.float32))
        (root / f'split_{split}.txt').write_text('\n'.join(names) + '\n')
    (root / 'gt.json').write_text(json.dumps({'version': 'x', 'database': database}))
    return root


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture
def own_data(data, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(data, tmp_path / 'data'))


def words(data, output, *flags):
    """The command line of a run of the tiny data set; `output` is the run's folder."""
    return ['--dataset', 'thumos14', '--data_path', str(data), '--output_dir', str(output.parent),
            '--exp_name', output.name, *TINY, *map(str, flags)]


def train(data, output, *flags, steps=6):
    assert main.main(words(data, output, '--num_steps', steps, *flags)) == 0
    return output


def localize(data, weights, output, *flags):
    assert main.main(words(data, output, '--inference_only', '--model_file', weights, *flags)) == 0
    return output


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """A training run with evaluations at steps 2, 4 and 6, to be looked at only."""
    return train(data, tmp_path_factory.mktemp('outputs') / 'finished', '--detection_inf_step', 2, '--seed', 3)


def next_command(out, name):
    """The words of a next command that a run prints."""
    return shlex.split(re.search(rf'^{name}: python main.py (.*)$', out, re.MULTILINE).group(1))


def read_csv(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def weights(path):
    return torch.load(path, weights_only=True)


def network(width, num_classes, hidden_dim, **options):
    return AICL(width, num_classes, hidden_dim, fusion_weight=1 / 3, topk_ratio=8, **options)


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob('*') if path.is_file()}


def refused(capsys, argv, *parts):
    """The message of a run that ends with exit status 2 and one line on standard error, which holds all `parts`."""
    capsys.readouterr()
    try:
        status = main.main(argv)
    except SystemExit as stop:
        status = stop.code
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith('training: step 0/')]
    assert status == 2, err
    assert len(lines) == 1 and lines[0].startswith('error: '), err
    for part in parts:
        assert str(part) in lines[0], lines[0]
    return lines[0]


# ---- the command line -----------------------------------------------------------------------------------------------

REQUIRED = ['--data_path', 'data', '--exp_name', 'x']


def parse(*flags):
    return parse_args([*REQUIRED, *map(str, flags)])


TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
TWENTIETHS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
ACTIVITYNET = dict(num_segments=50, topk_ratio=2, fusion_weight=0.5, batch_size=32, drop_last=True, num_epochs=None,
                   num_steps=50_000, detection_inf_step=200, seed=0, class_th=0.1, nms_thresh=0.7)


@pytest.mark.parametrize('dataset, values, tiou', [
    ('thumos14', dict(num_segments=750, topk_ratio=8, hidden_dim=512, fusion_weight=1 / 3, batch_size=16,
                      drop_last=False, num_epochs=900, num_steps=None, detection_inf_step=50, seed=1, class_th=0.25,
                      nms_thresh=0.4), TENTHS),
    ('activitynet1.2', dict(ACTIVITYNET, hidden_dim=512), TWENTIETHS),
    ('activitynet1.3', dict(ACTIVITYNET, hidden_dim=1024), TWENTIETHS)])
def test_recipes_are_those_of_the_method(dataset, values, tiou):
    args = parse('--dataset', dataset)
    same = dict(contrast_ratio=20, lr=1e-4, weight_decay=5e-4, q_val=0.7, lambda_modality=5, lambda_contrast=0.01,
                lambda_action=0.1, scale=24, nms_alpha=0.35, soft_nms=True, oic_margin=0.2, oic_class_weight=0.2,
                feature_fps=25, snippet_frames=16, num_workers=0, device='auto', precision='fp32', output_dir='outputs')
    for name, value in {**same, **values}.items():
        assert getattr(args, name) == value, name
    assert list(args.tiou) == pytest.approx(tiou, abs=1e-12)
    assert 750 // 8 == 93 and 750 // 20 == 37 and 50 // 2 == 25 and 50 // 20 == 2  # k and K of the recipes


CONTRACT = dict(num_segments=7, scale=3, lr=0.5, weight_decay=0.25, batch_size=9, num_epochs=4, num_steps=11,
                detection_inf_step=13, q_val=0.5, class_th=0.75, nms_alpha=0.125, nms_thresh=0.625, oic_margin=0.375,
                oic_class_weight=0.875, fusion_weight=0.0625, hidden_dim=17, topk_ratio=5, contrast_ratio=6,
                lambda_modality=1.5, lambda_contrast=2.5, lambda_action=3.5, feature_fps=30, snippet_frames=8, seed=12,
                num_workers=2, device='cuda:1', precision='fp64', log_every=10, output_dir='elsewhere',
                model_file='w.pt')


@pytest.mark.parametrize('dataset', ['thumos14', 'activitynet1.2', 'activitynet1.3'])
def test_every_flag_of_the_contract_is_there_and_wins_over_the_recipe(dataset):
    flags = [word for name, value in CONTRACT.items() for word in (f'--{name}', value)]
    args = parse('--dataset', dataset, *flags, '--no-soft_nms', '--inference_only')
    for name, value in CONTRACT.items():
        assert getattr(args, name) == value, name
    assert args.soft_nms is False and args.inference_only is True
    assert parse('--soft_nms').soft_nms is True
    assert parse('--drop_last').drop_last is True and parse('--dataset', dataset, '--no-drop_last').drop_last is False


def test_gamma_is_another_name_of_the_margin():
    assert parse('--gamma', 0.5).oic_margin == 0.5
    assert parse('--gamma', 0.5).oic_class_weight == 0.2


def test_a_length_that_is_given_replaces_the_recipe_s_and_steps_win_over_epochs(data, tmp_path):
    assert parse('--num_steps', 5, '--num_epochs', 3).num_steps == 5
    args = parse('--dataset', 'activitynet1.3', '--num_epochs', 3)
    assert (args.num_steps, args.num_epochs) == (None, 3)
    # Five videos in batches of two: three steps an epoch, or two where the smaller last batch is left out.
    for flags, epochs in ((['--num_epochs', 2], [0, 0, 0, 1, 1, 1]), (['--num_epochs', 2, '--drop_last'], [0, 0, 1, 1]),
                          (['--num_epochs', 9, '--num_steps', 4], [0, 0, 0, 1])):
        output = tmp_path / '_'.join(map(str, flags)).replace('--', '')
        assert main.main(words(data, output, *flags)) == 0
        rows = read_csv(output / 'losses.csv')
        assert [int(row['epoch']) for row in rows] == epochs
        assert [int(row['step']) for row in rows] == list(range(1, len(epochs) + 1))


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit) as stop:
        main.main(['--help'])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in (*CONTRACT, 'soft_nms', 'no-soft_nms', 'gamma', 'dataset', 'data_path', 'exp_name', 'inference_only'):
        assert f'--{name}' in text, name


@pytest.mark.parametrize('flags, part', [
    (['--unknown'], '--unknown'), (['--num_seg', '9'], '--num_seg'), (['--dataset', 'thumos15'], 'thumos15'),
    (['--precision', 'fp8'], '--precision'), (['--device', 'tpu'], '--device'), (['--device', 'cuda:64'], '--device'),
    (['--num_segments', '0'], '--num_segments'), (['--num_segments', '1.5'], '--num_segments'),
    (['--num_segments', '9' * 400], '--num_segments'), (['--scale', '0'], '--scale'), (['--lr', '-1'], '--lr'),
    (['--lr', 'nan'], '--lr'), (['--lr', 'inf'], '--lr'), (['--lr', 'fast'], '--lr'),
    (['--batch_size', '0'], '--batch_size'), (['--num_epochs', '0'], '--num_epochs'),
    (['--num_steps', '0'], '--num_steps'), (['--num_steps', '-3'], '--num_steps'),
    (['--detection_inf_step', '-1'], '--detection_inf_step'), (['--class_th', '1.1'], '--class_th'),
    (['--nms_thresh', '-0.1'], '--nms_thresh'), (['--nms_alpha', '0'], '--nms_alpha'),
    (['--fusion_weight', '2'], '--fusion_weight'), (['--topk_ratio', '0'], '--topk_ratio'),
    (['--contrast_ratio', '0'], '--contrast_ratio'), (['--q_val', '0'], '--q_val'),
    (['--feature_fps', '0'], '--feature_fps'), (['--snippet_frames', '0'], '--snippet_frames'),
    (['--oic_margin', '-1'], '--oic_margin'), (['--seed', '-2'], '--seed'), (['--seed', str(2 ** 32)], '--seed'),
    (['--num_workers', '-1'], '--num_workers'), (['--log_every', '0'], '--log_every'), (['--tiou', '0'], '--tiou'),
    (['--tiou', '1.5'], '--tiou'), (['--tiou', '0.5', '0.5'], '--tiou: a tI'),
    (['--min_score', 'nan'], '--min_score'), (['--min_score', 'inf'], '--min_score'),
    (['--detection_inf_step', 'sometimes'], "nor 'never'"), (['--inference_only'], '--model_file'),
    (['--model_file', 'w.pt'], '--inference_only'), (['--lr'], '--lr'), (['--exp_name', ''], '--exp_name'),
    (['--exp_name', '.'], '--exp_name'), (['--exp_name', 'a/../../b'], '--exp_name'),
    (['--exp_name', '/tmp/b'], '--exp_name')])
def test_bad_usage_ends_with_status_2_and_one_line_before_anything_is_written(data, tmp_path, capsys, flags, part):
    refused(capsys, words(data, tmp_path / 'run', '--num_steps', 1, *flags), part)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('flag, value', [
    ('oic_margin', '1e300'), ('oic_class_weight', '1e308'), ('nms_alpha', '1e-9'), ('nms_alpha', '1e300'),
    ('feature_fps', '1e-300'), ('feature_fps', '1e308'), ('snippet_frames', '1e308'), ('weight_decay', '1e308'),
    ('lambda_contrast', '1e308'), ('lr', '1e38'), ('lr', '1e308'), ('q_val', '1e-9'), ('nms_thresh', '0'),
    ('class_th', '0'), ('topk_ratio', '99999'), ('tiou', '1'), ('seed', 2 ** 32 - 1)])
def test_extreme_values_run_or_are_refused_in_one_line(data, tmp_path, capsys, flag, value):
    argv = words(data, tmp_path / 'run', '--num_steps', 1, f'--{flag}', value)
    try:
        status = main.main(argv)
    except SystemExit as stop:
        status = stop.code
    assert status in (0, 2)
    assert len(re.findall('error: ', capsys.readouterr().err)) == (status == 2)


def test_required_flags_are_named(capsys):
    assert '--exp_name' in refused(capsys, ['--data_path', 'x'], '--exp_name')
    assert '--data_path' in refused(capsys, ['--exp_name', 'x'], '--data_path')


@pytest.mark.parametrize('flags, status', [
    (['--help'], 0), (['--num_seg', '9'], 2), (['--data_path', 'nowhere', '--exp_name', 'x', '--num_steps', '1'], 2)])
def test_help_a_wrong_flag_and_a_missing_folder_wait_for_neither_numpy_nor_torch(flags, status):
    code = ('import sys, main\n'
            'try: sys.exit(main.main(sys.argv[1:]))\n'
            'finally: print("imported:", *{"numpy", "torch"} & {*sys.modules})')
    done = subprocess.run([sys.executable, '-c', code, *flags], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.splitlines()[-1] == 'imported:', done
    assert done.returncode == status and done.stderr.count('\n') == (status == 2), done


# ---- training -------------------------------------------------------------------------------------------------------

def test_a_training_run_leaves_every_file_of_the_contract(finished):
    names = {path.name for path in finished.iterdir()}
    assert {'args.json', 'losses.csv', 'metrics.csv', 'best.pt', 'last.pt', 'checkpoint.pt', 'detections.json',
            'results.json'} <= names
    assert any(name.startswith('events.out.tfevents') for path in finished.rglob('*') for name in [path.name])
    assert not [name for name in names if name.startswith('.') or name.endswith('.tmp')]
    args = json.loads((finished / 'args.json').read_text())
    assert args['dataset'] == 'thumos14' and args['num_segments'] == 16
    assert args['seed'] == 3 and args['class_th'] == 0.25


def test_losses_csv_holds_every_step_with_all_digits(finished):
    assert (finished / 'losses.csv').read_text().splitlines()[0] == LOSSES
    rows = read_csv(finished / 'losses.csv')
    assert [int(row['step']) for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        value = {name: float(text) for name, text in row.items()}
        contrast = value['contrastive_joint'] + value['contrastive_rgb'] + value['contrastive_flow']
        assert value['total'] == pytest.approx(
            value['mil'] + value['gce_rgb'] + value['gce_flow'] + 5 * value['modality_consistency'] + 0.01 * contrast
            + 0.1 * value['action_consistency'], rel=1e-6)
        for name in LOSSES.split(',')[2:]:
            assert np.float32(value[name]) == value[name] and value[name] > 0, name  # nothing was rounded away


def test_log_every_thins_losses_csv_and_changes_nothing_else(data, tmp_path, finished):
    thin = train(data, tmp_path / 'thin', '--detection_inf_step', 2, '--seed', 3, '--log_every', 4)
    assert read_csv(thin / 'losses.csv') == [row for row in read_csv(finished / 'losses.csv') if row['step'] == '4']
    assert same_weights(thin / 'last.pt', finished / 'last.pt')
    assert (thin / 'metrics.csv').read_bytes() == (finished / 'metrics.csv').read_bytes()


def test_metrics_csv_has_a_row_an_evaluation_that_agrees_with_results_json(finished):
    rows = {int(row['step']): row for row in read_csv(finished / 'metrics.csv')}
    assert list(rows) == [2, 4, 6]
    results = json.loads((finished / 'results.json').read_text())
    for block in results.values():
        row = rows[block['step']]
        assert float(row['average_mAP']) == block['average_mAP']
        assert float(row['video_accuracy']) == block['video_accuracy']
        for key, value in block['mAP'].items():
            assert value in [float(text) for name, text in row.items() if name.endswith(key)], key
    assert results['best']['average_mAP'] == max(float(row['average_mAP']) for row in rows.values())
    assert results['last']['step'] == 6


def check_block(block, keys):
    assert list(block['mAP']) == keys and set(block['AP']) == set(CLASSES)
    for ap in block['AP'].values():
        assert list(ap) == keys
    for key in keys:
        assert block['mAP'][key] == pytest.approx(np.mean([ap[key] for ap in block['AP'].values()]))
        assert 0 <= block['mAP'][key] <= 1
    assert block['average_mAP'] == pytest.approx(np.mean(list(block['mAP'].values())))
    assert 0 <= block['video_accuracy'] <= 1 and block['num_videos'] == 3 and block['num_predictions'] > 0


def test_scoring_detections_does_not_write_over_the_results_of_an_inference(data, finished, tmp_path, capsys):
    output = localize(data, finished / 'best.pt', tmp_path / 'again')
    before = (output / 'results.json').read_bytes()
    files = [str(data / 'gt.json'), str(output / 'detections.json'), '--output', str(output / 'results.json')]
    assert detection.main(files) == 2
    assert 'another kind' in capsys.readouterr().err and (output / 'results.json').read_bytes() == before


def test_results_json_has_the_shape_of_the_contract(data, finished, tmp_path):
    results = json.loads((finished / 'results.json').read_text())
    assert set(results) == {'best', 'last'}
    for block in results.values():
        check_block(block, ['0.1', '0.2', '0.3', '0.4', '0.5', '0.6', '0.7'])
    rows = read_detections(finished / 'detections.json')
    assert len(rows.scores) == results['best']['num_predictions']

    output = localize(data, finished / 'last.pt', tmp_path / 'inference', '--dataset', 'activitynet1.3')
    check_block(json.loads((output / 'results.json').read_text()),
                ['0.5', '0.55', '0.6', '0.65', '0.7', '0.75', '0.8', '0.85', '0.9', '0.95'])
    assert {path.name for path in output.iterdir()} >= {'detections.json', 'results.json'}


def test_weights_hold_the_released_names_and_nothing_else(finished):
    expected = {f'actionness_module.{name}.weight': shape for name, shape in RELEASED.items()}
    expected |= {f'actionness_module.{name}.bias': shape[:1] for name, shape in RELEASED.items()}
    for name in ('best.pt', 'last.pt'):
        assert {key: tuple(value.shape) for key, value in weights(finished / name).items()} == expected


def test_best_is_the_first_of_the_best_evaluations_and_last_is_the_last(data, tmp_path, monkeypatch):
    plan, evaluate = [0.2, 0.5, 0.5, 0.3], inference.evaluate

    def planned(*args):
        scores = evaluate(*args)
        return scores._replace(ap=np.full_like(scores.ap, planned.values.pop(0)))

    planned.values = list(plan)
    monkeypatch.setattr(inference, 'evaluate', planned)
    output = train(data, tmp_path / 'run', '--detection_inf_step', 2, steps=8)
    assert not planned.values  # one evaluation every second step, none twice
    results = json.loads((output / 'results.json').read_text())
    assert (results['best']['step'], results['last']['step']) == (4, 8)
    assert (results['best']['average_mAP'], results['last']['average_mAP']) == pytest.approx((0.5, 0.3))

    planned.values = list(plan)
    shorter = train(data, tmp_path / 'shorter', '--detection_inf_step', 2, steps=4)
    assert same_weights(output / 'best.pt', shorter / 'last.pt')
    assert not same_weights(output / 'best.pt', output / 'last.pt')
    assert (output / 'detections.json').read_bytes() == (shorter / 'detections.json').read_bytes()


def test_a_run_does_not_depend_on_the_timing_of_its_evaluations(data, tmp_path, monkeypatch):
    score, submit, step, order = inference.Evaluator.score, inference.AsyncEvaluator.submit, Trainer.step, []
    two_steps_later = threading.Event()

    def score_late(evaluator, predictions):
        two_steps_later.wait(60)
        order.append('scored')
        return score(evaluator, predictions)

    def submit_and_wait(evaluations, *args):
        submit(evaluations, *args)
        evaluations.poll(wait=True)

    def counted_step(trainer, batch):
        order.append('step')
        if len(order) == 5:
            two_steps_later.set()
        return step(trainer, batch)

    monkeypatch.setattr(Trainer, 'step', counted_step)
    monkeypatch.setattr(inference.Evaluator, 'score', score_late)
    overlapped = train(data, tmp_path / 'overlapped' / 'run', '--detection_inf_step', 3, steps=8)
    assert order[:5] == ['step'] * 5  # two steps during the first evaluation
    monkeypatch.setattr(inference.AsyncEvaluator, 'submit', submit_and_wait)
    order.clear()
    waited = train(data, tmp_path / 'waited' / 'run', '--detection_inf_step', 3, steps=8)
    assert order[:5] == ['step', 'step', 'step', 'scored', 'step']
    for name in ('losses.csv', 'metrics.csv', 'results.json', 'detections.json', 'best.pt', 'last.pt', 'curves.npz'):
        assert (overlapped / name).read_bytes() == (waited / name).read_bytes(), name


def test_a_run_is_evaluated_at_its_end_whatever_the_interval(data, tmp_path):
    output = train(data, tmp_path / 'run', '--detection_inf_step', 4, steps=5)
    assert [row['step'] for row in read_csv(output / 'metrics.csv')] == ['4', '5']


def test_tensorboard_gets_every_loss_and_every_map(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    board = EventAccumulator(str(finished)).Reload()
    tags = board.Tags()['scalars']
    rows = read_csv(finished / 'losses.csv')
    for name in LOSSES.split(',')[2:]:
        tag, = (tag for tag in tags if tag.endswith(f'/{name}'))
        assert [e.value for e in board.Scalars(tag)] == pytest.approx([float(row[name]) for row in rows], rel=1e-6)
    for tiou in TENTHS:
        assert any(tag.endswith(f'{tiou:g}') for tag in tags), tiou


def test_the_same_seed_gives_the_same_run_and_another_seed_another(data, tmp_path, finished):
    again = train(data, tmp_path / 'again', '--detection_inf_step', 2, '--seed', 3)
    for name in ('losses.csv', 'metrics.csv', 'detections.json', 'results.json'):
        assert (again / name).read_bytes() == (finished / name).read_bytes(), name
    for name in ('best.pt', 'last.pt'):
        assert same_weights(again / name, finished / name)
    other = train(data, tmp_path / 'other', '--detection_inf_step', 2, '--seed', 4)
    assert (other / 'losses.csv').read_bytes() != (finished / 'losses.csv').read_bytes()
    assert not same_weights(other / 'last.pt', finished / 'last.pt')


def test_workers_that_read_features_change_no_number(data, tmp_path):
    runs = [train(data, tmp_path / f'workers_{n}', '--num_workers', n, steps=4) for n in (0, 2)]
    for name in ('losses.csv', 'detections.json'):
        assert len({(run / name).read_bytes() for run in runs}) == 1, name
    assert same_weights(runs[0] / 'last.pt', runs[1] / 'last.pt')


def test_double_precision_starts_from_the_same_numbers(data, tmp_path, finished):
    double = read_csv(train(data, tmp_path / 'double', '--seed', 3, '--precision', 'fp64', steps=1) / 'losses.csv')
    single = read_csv(finished / 'losses.csv')
    for name in LOSSES.split(',')[2:]:
        assert float(double[0][name]) == pytest.approx(float(single[0][name]), rel=1e-4), name
    assert {value.dtype for value in weights(tmp_path / 'double' / 'last.pt').values()} == {torch.float64}


def test_training_helps(data, tmp_path):
    output = train(data, tmp_path / 'run', '--detection_inf_step', 40, '--lr', 0.01, steps=40)
    rows = read_csv(output / 'losses.csv')
    assert sum(float(row['mil']) for row in rows[-5:]) < 0.5 * sum(float(row['mil']) for row in rows[:5])


@pytest.mark.parametrize('modal', ['rgb', 'flow'])
def test_a_single_modality_trains_and_localizes(data, tmp_path, modal):
    output = train(data, tmp_path / 'run', '--modal', modal, steps=2)
    other = {'rgb': 'flow', 'flow': 'rgb'}[modal]
    assert not [name for name in weights(output / 'best.pt') if other in name]
    again = localize(data, output / 'best.pt', tmp_path / 'again', '--modal', modal)
    assert (again / 'detections.json').read_bytes() == (output / 'detections.json').read_bytes()


def test_the_smallest_data_set_trains(tmp_path):
    small = write_data(tmp_path / 'data', classes=['Dive'], num_train=1, num_test=1)
    output = train(small, tmp_path / 'run', '--num_segments', 1, steps=2)
    assert json.loads((output / 'results.json').read_text())['last']['num_videos'] == 1


def test_fewer_training_videos_than_a_batch_are_an_error_only_where_the_last_batch_is_dropped(data, tmp_path, capsys):
    argv = words(data, tmp_path / 'none', '--num_epochs', 1, '--batch_size', 6, '--drop_last')
    message = refused(capsys, argv, '--batch_size', 6, 5)
    assert '--no-drop_last' in message and not (tmp_path / 'none').exists()
    assert len(read_csv(train(data, tmp_path / 'one', '--batch_size', 6, steps=1) / 'losses.csv')) == 1


# ---- runs that were stopped -----------------------------------------------------------------------------------------

RUN_FILES = ('losses.csv', 'metrics.csv', 'detections.json', 'results.json')


def same_run(found, expected):
    for name in RUN_FILES:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    return all(same_weights(found / name, expected / name) for name in ('best.pt', 'last.pt'))


def stop_at(step, action, monkeypatch):
    """Let `action` happen in the loss of a step of the next run."""
    aicl_losses, count = trainer.aicl_losses, [0]

    def counted(*args):
        count[0] += 1
        if count[0] == step:
            action()
        return aicl_losses(*args)

    monkeypatch.setattr(trainer, 'aicl_losses', counted)


class Crash(Exception):
    pass


def crash():
    raise Crash


@pytest.fixture
def handlers():
    """Signal handlers as they were, afterwards."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


# Five videos in batches of two: an epoch ends after steps 3 and 6; evaluations after 2, 4 and 6.
@pytest.mark.parametrize('step', [1, 2, 3, 4, 5])
def test_a_run_stopped_by_a_signal_resumes_to_the_same_files(
        data, tmp_path, finished, monkeypatch, handlers, capsys, step):
    flags = ['--num_steps', 6, '--detection_inf_step', 2, '--seed', 3]
    number = (signal.SIGTERM, signal.SIGINT)[step % 2]
    stop_at(step, lambda: os.kill(os.getpid(), number), monkeypatch)
    assert main.main(words(data, tmp_path / 'run', *flags)) == 128 + number
    assert '--resume' in ''.join(capsys.readouterr())
    monkeypatch.undo()
    assert len(read_csv(tmp_path / 'run' / 'losses.csv')) == step
    torch.rand(7), np.random.rand(7)  # what another process would have drawn does not matter
    assert main.main(words(data, tmp_path / 'run', *flags, '--resume')) == 0
    assert same_run(tmp_path / 'run', finished)


def test_a_second_interrupt_stops_at_once_and_leaves_whole_files(
        data, tmp_path, finished, monkeypatch, handlers, capsys):
    flags = ['--num_steps', 6, '--detection_inf_step', 2, '--seed', 3]

    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    stop_at(4, twice, monkeypatch)
    assert main.main(words(data, tmp_path / 'run', *flags)) == 130
    assert 'Traceback' not in capsys.readouterr().err
    monkeypatch.undo()
    weights(tmp_path / 'run' / 'best.pt'), read_detections(tmp_path / 'run' / 'detections.json')
    assert main.main(words(data, tmp_path / 'run', *flags, '--resume')) == 0
    assert same_run(tmp_path / 'run', finished)


def test_what_was_written_after_the_last_checkpoint_is_written_again(data, tmp_path, finished, monkeypatch):
    flags = ['--num_steps', 6, '--detection_inf_step', 2, '--seed', 3]
    write_checkpoint = run_folder.write_checkpoint

    def once(folder, state):
        if not (folder / 'checkpoint.pt').exists():
            write_checkpoint(folder, state)

    monkeypatch.setattr(trainer, 'CHECKPOINT_SECONDS', -1)
    monkeypatch.setattr(run_folder, 'write_checkpoint', once)  # after step 1; later evaluations change the best
    stop_at(6, crash, monkeypatch)
    with pytest.raises(Crash):
        main.main(words(data, tmp_path / 'run', *flags))
    monkeypatch.undo()
    assert main.main(words(data, tmp_path / 'run', *flags, '--resume')) == 0
    assert same_run(tmp_path / 'run', finished)


def test_a_damaged_checkpoint_gives_way_to_the_one_before(data, tmp_path, finished, monkeypatch, capsys):
    flags = ['--num_steps', 6, '--detection_inf_step', 2, '--seed', 3]
    monkeypatch.setattr(trainer, 'CHECKPOINT_SECONDS', -1)
    stop_at(6, crash, monkeypatch)
    with pytest.raises(Crash):
        main.main(words(data, tmp_path / 'run', *flags))
    monkeypatch.undo()
    path = tmp_path / 'run' / 'checkpoint.pt'
    path.write_bytes(path.read_bytes()[:5000])
    capsys.readouterr()
    assert main.main(words(data, tmp_path / 'run', *flags, '--resume')) == 0
    assert 'checkpoint.pt' in capsys.readouterr().err
    assert same_run(tmp_path / 'run', finished)


def test_a_finished_run_can_be_made_longer_and_resuming_nothing_begins(data, tmp_path, finished):
    flags = ['--detection_inf_step', 2, '--seed', 3, '--resume']
    train(data, tmp_path / 'run', *flags, steps=4)
    train(data, tmp_path / 'run', *flags, steps=6)
    assert same_run(tmp_path / 'run', finished)
    train(data, tmp_path / 'run', *flags, steps=6)  # and resuming what is finished changes nothing
    assert same_run(tmp_path / 'run', finished)


def test_a_run_is_never_replaced_unasked(data, tmp_path, finished, capsys):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    (output / 'notes.txt').write_text('mine')
    before = contents(output)
    refused(capsys, words(data, output, '--num_steps', 2), output, '--resume', '--overwrite')
    assert contents(output) == before
    train(data, output, '--overwrite', steps=1)
    assert (output / 'notes.txt').read_text() == 'mine'
    assert [row['step'] for row in read_csv(output / 'losses.csv')] == ['1']


@pytest.mark.parametrize('flags, parts', [
    (['--lr', 0.5], ['--lr', 0.003, 0.5]), (['--seed', 4], ['--seed', 3, 4]), (['--batch_size', 3], ['--batch_size']),
    (['--precision', 'fp64'], ['--precision']), (['--hidden_dim', 17], ['--hidden_dim']),
    (['--no-soft_nms'], ['--soft_nms', 'soft_nms'])])
def test_a_run_is_not_resumed_with_other_settings(data, tmp_path, finished, capsys, flags, parts):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    before = contents(output)
    argv = words(data, output, '--num_steps', 9, '--detection_inf_step', 2, '--seed', 3, '--resume', *flags)
    refused(capsys, argv, *parts)
    assert contents(output) == before


def test_a_run_is_not_resumed_with_other_data(own_data, tmp_path, finished, capsys):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    (own_data / 'split_train.txt').write_text('train_0\ntrain_1\ntrain_2\n')
    argv = words(own_data, output, '--num_steps', 9, '--detection_inf_step', 2, '--seed', 3, '--resume')
    refused(capsys, argv, output, 'videos')


def test_a_stopped_run_leaves_its_tensorboard_events(data, tmp_path, monkeypatch, handlers):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    stop_at(3, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    main.main(words(data, tmp_path / 'run', '--num_steps', 6))
    board = EventAccumulator(str(tmp_path / 'run')).Reload()
    tag, = (tag for tag in board.Tags()['scalars'] if tag.endswith('/total'))
    assert [event.step for event in board.Scalars(tag)] == [1, 2, 3]


# ---- losses that are not finite -------------------------------------------------------------------------------------

def test_a_loss_that_is_nan_stops_the_run_and_keeps_what_there_was(data, tmp_path, capsys, monkeypatch):
    aicl_losses, seen = trainer.aicl_losses, []

    class Watched(VideoDataset):
        def __getitems__(self, draw):
            batch = super().__getitems__(draw)
            if 'train' in str(self.folder):
                seen.append([self.names[v] for v in batch.videos])
            return batch

    def broken(*args):
        losses = aicl_losses(*args)
        if len(seen) != 6:
            return losses
        nan = float('nan')
        return losses._replace(contrastive_rgb=losses.contrastive_rgb * nan, total=losses.total * nan)

    monkeypatch.setattr('dataset.VideoDataset', Watched)
    monkeypatch.setattr(trainer, 'aicl_losses', broken)
    output = tmp_path / 'run'
    message = refused(capsys, words(data, output, '--num_steps', 8, '--detection_inf_step', 4, '--seed', 3),
                      'step 6', 'contrastive_rgb')
    assert all(video in message for video in seen[5])
    monkeypatch.undo()
    shorter = train(data, tmp_path / 'shorter', '--detection_inf_step', 4, '--seed', 3, steps=4)
    assert same_weights(output / 'last.pt', shorter / 'last.pt')
    # What led there is on record.
    assert [row['step'] for row in read_csv(output / 'losses.csv')][:5] == ['1', '2', '3', '4', '5']


def test_nan_weights_are_never_saved_however_seldom_losses_are_logged(data, tmp_path, capsys):
    output = tmp_path / 'run'
    refused(capsys, words(data, output, '--num_steps', 6, '--lr', '1e30', '--log_every', 100), 'finite')
    for name in ('best.pt', 'last.pt'):
        assert not (output / name).exists() or all(torch.isfinite(v).all() for v in weights(output / name).values())


def test_weights_that_left_the_numbers_in_the_last_step_are_an_error_too(data, tmp_path, capsys):
    refused(capsys, words(data, tmp_path / 'run', '--num_steps', 1, '--lr', '1e38'), 'finite')


# ---- inference ------------------------------------------------------------------------------------------------------

def test_a_fresh_process_gives_the_same_detections_bit_for_bit(data, finished, tmp_path):
    output, trained = tmp_path / 'run', json.loads((finished / 'results.json').read_text())
    flags = ['--inference_only', '--model_file', finished / 'best.pt']
    command = [sys.executable, 'main.py', *words(data, output, *flags)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True,
                          env={**os.environ, 'OMP_NUM_THREADS': str(torch.get_num_threads())})
    assert done.returncode == 0, done.stderr
    assert (output / 'detections.json').read_bytes() == (finished / 'detections.json').read_bytes()
    assert {'step': trained['best']['step'], **json.loads((output / 'results.json').read_text())} == trained['best']

    again = localize(data, finished / 'last.pt', tmp_path / 'last')  # the last weights, in this process
    assert {'step': 6, **json.loads((again / 'results.json').read_text())} == trained['last']


@pytest.mark.parametrize('zipped', [True, False])
def test_a_released_checkpoint_loads_as_it_is(data, tmp_path, zipped):
    rng = np.random.RandomState(0)
    state = {}
    for name, shape in reversed(RELEASED.items()):  # another order, another type
        state[f'actionness_module.{name}.bias'] = torch.from_numpy(rng.randn(shape[0]))
        state[f'actionness_module.{name}.weight'] = torch.from_numpy(rng.randn(*shape))
    torch.save(state, tmp_path / 'CAS_Only.pkl', _use_new_zipfile_serialization=zipped)
    output = localize(data, tmp_path / 'CAS_Only.pkl', tmp_path / 'released')

    model = network(WIDTH, len(CLASSES), HIDDEN)
    model.load_state_dict({name: value.float() for name, value in state.items()})
    torch.save(model.state_dict(), tmp_path / 'same.pt')
    same = localize(data, tmp_path / 'same.pt', tmp_path / 'same')
    assert (same / 'detections.json').read_bytes() == (output / 'detections.json').read_bytes()


def test_inference_needs_the_test_features_and_nothing_else(own_data, finished, tmp_path, capsys):
    expected = localize(own_data, finished / 'best.pt', tmp_path / 'expected')
    shutil.rmtree(own_data / 'features' / 'train')
    (own_data / 'split_train.txt').unlink()
    output = localize(own_data, finished / 'best.pt', tmp_path / 'no_training_data')
    for name in ('detections.json', 'results.json'):
        assert (output / name).read_bytes() == (expected / name).read_bytes()

    (own_data / 'gt.json').unlink()
    capsys.readouterr()
    output = localize(own_data, finished / 'best.pt', tmp_path / 'no_annotations')
    assert 'nothing to score' in ''.join(capsys.readouterr())
    assert (output / 'detections.json').read_bytes() == (expected / 'detections.json').read_bytes()
    results = json.loads((output / 'results.json').read_text())
    assert results['num_videos'] == 3 and results['num_predictions'] > 0 and not results.get('mAP')

    (own_data / 'split_test.txt').unlink()
    output = localize(own_data, finished / 'best.pt', tmp_path / 'features_alone')
    assert (output / 'detections.json').read_bytes() == (expected / 'detections.json').read_bytes()


def test_inference_writes_its_arguments_to_another_file_than_training(data, finished, tmp_path):
    output = localize(data, finished / 'best.pt', tmp_path / 'run', '--nms_thresh', 0.9)
    args = json.loads((output / 'inference_args.json').read_text())
    assert (args['nms_thresh'], args['model_file']) == (0.9, str(finished / 'best.pt')) and 'torch' in args['versions']
    assert not (output / 'args.json').exists()


def test_wrapped_weights_localize_the_same(data, finished, tmp_path):
    wrapped = {'state_dict': {f'module.{name}': value for name, value in weights(finished / 'best.pt').items()}}
    torch.save(wrapped, tmp_path / 'wrapped.pt')
    outputs = [localize(data, path, tmp_path / path.stem) for path in (finished / 'best.pt', tmp_path / 'wrapped.pt')]
    assert len({(output / 'detections.json').read_bytes() for output in outputs}) == 1


def test_weights_alone_without_names_of_classes_number_them_and_say_so(own_data, finished, tmp_path, capsys):
    (own_data / 'gt.json').unlink()
    shutil.copy(finished / 'best.pt', tmp_path / 'moved.pt')
    output = localize(own_data, tmp_path / 'moved.pt', tmp_path / 'run')
    assert 'warning' in capsys.readouterr().err
    found, named = (read_detections(path / 'detections.json') for path in (output, finished))
    assert len(found.labels) == len(named.labels) and found.scores.tolist() == named.scores.tolist()


def annotate(data, change):
    """Rewrite gt.json by a function of its database."""
    path = data / 'gt.json'
    content = json.loads(path.read_text())
    change(content['database'])
    path.write_text(json.dumps(content))


def test_videos_without_annotations_are_localized_too(own_data, finished, tmp_path):
    def forget(database):
        database['test_1']['annotations'] = []
        del database['test_2']

    expected = json.loads((localize(own_data, finished / 'best.pt', tmp_path / 'all') / 'detections.json').read_text())
    annotate(own_data, forget)
    output = localize(own_data, finished / 'best.pt', tmp_path / 'run')
    assert json.loads((output / 'detections.json').read_text()) == expected
    results = json.loads((output / 'results.json').read_text())
    assert results['num_videos'] == 3
    assert results['video_accuracy'] in (0, 1)  # one annotated video is left to be right on


def test_settings_that_differ_from_the_training_are_warned_about(data, finished, tmp_path, capsys):
    localize(data, finished / 'best.pt', tmp_path / 'same')
    assert 'was trained with' not in capsys.readouterr().err
    localize(data, finished / 'best.pt', tmp_path / 'other', '--num_segments', 20)
    assert 'was trained with --num_segments 16, and is used with 20' in capsys.readouterr().err


def test_detections_in_videos_that_are_not_scored_are_counted_in_a_warning(own_data, finished, tmp_path, capsys):
    annotate(own_data, lambda database: database.pop('test_2'))
    localize(own_data, finished / 'best.pt', tmp_path / 'run')
    assert re.search('warning: .*detections', capsys.readouterr().err)


def test_video_accuracy_is_the_share_of_exactly_right_label_sets(own_data, finished, tmp_path, monkeypatch):
    def predicted(probabilities, class_th):
        # test_0 carries Dive and Jump, test_1 Jump, test_2 Run: one is right, one too small, one too large.
        return np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1]], bool)

    monkeypatch.setattr(inference, 'predict_classes', predicted)
    output = localize(own_data, finished / 'best.pt', tmp_path / 'run')
    assert json.loads((output / 'results.json').read_text())['video_accuracy'] == pytest.approx(1 / 3)


def test_annotated_test_videos_in_two_subsets_are_scored_alone(own_data, finished, tmp_path, capsys):
    expected = localize(own_data, finished / 'best.pt', tmp_path / 'expected')

    def move(database):
        database['test_2']['subset'] = 'Extra'
        database['other'] = {'subset': 'Extra', 'annotations': [{'label': 'Jump', 'segment': [0, 1]}]}

    annotate(own_data, move)
    capsys.readouterr()
    output = localize(own_data, finished / 'best.pt', tmp_path / 'run')
    assert re.search("warning: .*gt.json: the annotated test videos are in several subsets, 'Test', 'Extra'; ",
                     capsys.readouterr().err)
    assert (output / 'results.json').read_bytes() == (expected / 'results.json').read_bytes()


def test_training_videos_are_not_scored_where_the_annotations_name_no_subsets(own_data, finished, tmp_path, capsys):
    expected = localize(own_data, finished / 'best.pt', tmp_path / 'expected')
    annotate(own_data, lambda database: [entry.pop('subset') for entry in database.values()])
    capsys.readouterr()
    output = localize(own_data, finished / 'best.pt', tmp_path / 'run')
    found, wanted = (json.loads((folder / 'results.json').read_text())['mAP'] for folder in (output, expected))
    assert found == wanted
    assert re.search("warning: .*split_train.txt: lists [0-9]+ videos of the subset '', which contains the test videos",
                     capsys.readouterr().err)


# ---- bad inputs -----------------------------------------------------------------------------------------------------

def damage_stream(data, stream, change, split='test', video=1):
    path = data / 'features' / split / stream / f'{split}_{video}.npy'
    np.save(path, change(np.load(path)))


def put(value, *place):
    def change(array):
        array[place] = value
        return array
    return change


DAMAGES = {  # what is done to the data set -> what the message must name
    'no gt.json': (lambda d: (d / 'gt.json').unlink(), ['gt.json']),
    'gt.json is not JSON': (lambda d: (d / 'gt.json').write_text('{"database": '), ['gt.json']),
    'gt.json without classes': (
        lambda d: annotate(d, lambda b: [e.update(annotations=[]) for e in b.values()]), ['gt.json']),
    'gt.json without videos': (lambda d: (d / 'gt.json').write_text('{"database": {}}'), ['gt.json']),
    'no training features': (lambda d: shutil.rmtree(d / 'features' / 'train'), ['train']),
    'no test features': (lambda d: shutil.rmtree(d / 'features' / 'test'), ['test']),
    'no flow': (lambda d: shutil.rmtree(d / 'features' / 'test' / 'flow'), ['test']),
    'a file is missing': (lambda d: (d / 'features' / 'test' / 'flow' / 'test_1.npy').unlink(), ['test_1']),
    'a file is empty': (lambda d: (d / 'features' / 'train' / 'rgb' / 'train_1.npy').write_bytes(b''), ['train_1']),
    'a file is cut off': (lambda d: os.truncate(d / 'features' / 'train' / 'rgb' / 'train_1.npy', 200), ['train_1']),
    'streams of unequal length': (lambda d: damage_stream(d, 'rgb', lambda a: a[:-3]), ['test_1', 'rgb', 'flow']),
    'streams of unequal width': (lambda d: damage_stream(d, 'rgb', lambda a: a[:, 1:]), ['test_1', WIDTH, WIDTH - 1]),
    'no snippet': (lambda d: [damage_stream(d, s, lambda a: a[:0]) for s in ('rgb', 'flow')], ['test_1']),
    'not two axes': (lambda d: damage_stream(d, 'rgb', lambda a: a[None]), ['test_1']),
    'NaN': (lambda d: damage_stream(d, 'flow', put(np.nan, 2, 3)), ['test_1', 'flow']),
    'infinity in training': (lambda d: damage_stream(d, 'rgb', put(np.inf, 0, 0), 'train'), ['train_1', 'rgb']),
    'split names no video': (lambda d: (d / 'split_train.txt').write_text('\n'), ['split_train.txt']),
    'split names a video twice': (
        lambda d: (d / 'split_test.txt').write_text('test_0\ntest_0\n'), ['split_test.txt', 'test_0']),
    'split names a video that is not there': (lambda d: (d / 'split_test.txt').write_text('test_0\nmoon\n'), ['moon']),
    'split names a way out': (
        lambda d: (d / 'split_test.txt').write_text('test_0\n../../train/rgb/train_0\n'), ['train_0']),
    'training videos without annotations': (
        lambda d: annotate(d, lambda b: [b.pop(f'train_{i}') for i in range(5)]), ['gt.json'])}


@pytest.mark.parametrize('damage', DAMAGES)
def test_bad_data_is_refused_in_one_line_and_nothing_written_before_is_lost(
        own_data, tmp_path, finished, capsys, damage):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    before = contents(output)
    change, parts = DAMAGES[damage]
    change(own_data)
    refused(capsys, words(own_data, output, '--num_steps', 2, '--overwrite'), *parts)
    assert contents(output) == before


def test_training_and_test_features_of_unequal_width_are_refused(own_data, tmp_path, capsys):
    for video in range(3):
        for stream in ('rgb', 'flow'):
            damage_stream(own_data, stream, lambda a: a[:, :5], video=video)
    refused(capsys, words(own_data, tmp_path / 'run'), 8, 5)


@pytest.mark.parametrize('path', ['absent', 'gt.json', ''])
def test_a_data_path_that_is_no_data_set_is_refused(data, tmp_path, capsys, path):
    refused(capsys, words(data / path if path else tmp_path, tmp_path / 'run'), '' if not path else path)
    assert not (tmp_path / 'run').exists()


def without(state, name):
    return {key: value for key, value in state.items() if name not in key}


BAD_WEIGHTS = {
    'absent': (None, ['weights.pt']),
    'something else': ([1, 2, 3], ['weights.pt', 'list']),
    'another number of classes': (network(WIDTH, 7, HIDDEN).state_dict(), ['weights.pt', 7, 3]),
    'another feature width': (
        network(WIDTH + 1, 3, HIDDEN).state_dict(), ['base_module.0.weight', (HIDDEN, 18, 3), (HIDDEN, 16, 3)]),
    'another hidden width': (network(WIDTH, 3, 9).state_dict(), ['base_module.0.weight', 'cls.0.weight', (9, 16, 3)]),
    'a missing parameter': (
        without(network(WIDTH, 3, HIDDEN).state_dict(), 'cls_flow.bias'), ['cls_flow.bias', 'missing'])}


@pytest.mark.parametrize('fault', BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused_and_older_results_stay(data, tmp_path, finished, capsys, fault):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    before = contents(output)
    state, parts = BAD_WEIGHTS[fault]
    if state is not None:
        torch.save(state, tmp_path / 'weights.pt')
    refused(capsys, words(data, output, '--inference_only', '--model_file', tmp_path / 'weights.pt'), *parts)
    assert contents(output) == before


def test_weights_of_one_modality_need_no_flag_and_refuse_another(data, tmp_path, capsys):
    state = network(WIDTH, 3, HIDDEN, modalities=('rgb',)).state_dict()
    torch.save(state, tmp_path / 'weights.pt')
    argv = words(data, tmp_path / 'run', '--inference_only', '--model_file', tmp_path / 'weights.pt')
    assert main.main(argv) == 0
    assert json.loads((tmp_path / 'run' / 'inference_args.json').read_text())['modal'] == 'rgb'
    refused(capsys, [*argv, '--modal', 'all'], 'action_module_flow.0.weight', 'cls_flow.weight', '--modal rgb')


def test_a_data_folder_with_one_stream_trains_and_localizes_without_a_flag(own_data, tmp_path):
    for split in ('train', 'test'):
        shutil.rmtree(own_data / 'features' / split / 'flow')
    output = train(own_data, tmp_path / 'run', steps=2)
    assert json.loads((output / 'args.json').read_text())['modal'] == 'rgb'
    again = localize(own_data, output / 'best.pt', tmp_path / 'again')
    assert (again / 'detections.json').read_bytes() == (output / 'detections.json').read_bytes()


# ---- one's own videos -----------------------------------------------------------------------------------------------

OWN = ['--device', 'cpu', '--hidden_dim', HIDDEN, '--contrast_ratio', 4, '--scale', 4, '--figures', 0]


def own_words(data, output, *flags):
    return ['--data_path', str(data), '--output_dir', str(output.parent), '--exp_name', output.name,
            *map(str, [*OWN, *flags])]


def test_a_folder_with_labels_only_takes_the_recipe_for_own_videos(tagged, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr('engine.auto_config.TRIAL_STEPS', (3, 3))
    output = tmp_path / 'run'
    assert main.main(own_words(tagged, output, '--num_steps', 4)) == 0
    out = capsys.readouterr().out
    args = json.loads((output / 'args.json').read_text())
    assert args['dataset'] == 'own' and args['normalize'] and args['lr'] == 3e-4 and args['fusion_weight'] == 0.5
    # The longest of five videos has 6 to 29 snippets: T is the lower bound; five videos make one batch.
    assert (args['num_segments'], args['batch_size'], args['num_steps']) == (40, 5, 4)
    assert args['topk_ratio'] in (8, 4, 2)
    for flag in ('--num_segments 40', '--batch_size 5', f'--topk_ratio {args["topk_ratio"]}: generalized cross'):
        assert flag in out, flag
    assert 'chosen   --num_steps' not in out  # it was given
    # The settings and the normalization of the run are used again.
    again = tmp_path / 'again'
    flat = tagged / 'features' / 'train'
    assert main.main(own_words(flat, again, '--inference_only', '--model_file', output / 'last.pt')) == 0
    assert (again / 'detections.json').read_bytes() == (output / 'detections.json').read_bytes()
    (output / 'normalization.npz').unlink()
    argv = own_words(flat, again, '--inference_only', '--model_file', output / 'last.pt')
    refused(capsys, argv, 'normalization.npz', '--normalize')


def test_normalized_features_have_mean_0_and_one_deviation_per_modality(data):
    from config import parse_args
    from dataset import BatchIndices, DataOptions, build_dataset
    from formats.annotations import read_annotations
    gt = read_annotations(data)
    options = DataOptions.from_args(parse_args(['--data_path', str(data), '--exp_name', 'x']))
    videos = build_dataset(options, 'train', gt, gt.labels)
    videos.normalize(videos.measure())
    rows = np.concatenate([videos.sample(BatchIndices([i], np.arange(length)[None], 1))[0].numpy()
                           for i, length in enumerate(videos.lengths)])
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose([(part ** 2).mean() for part in np.split(rows, 2, axis=1)], 1, atol=1e-5)


def test_videos_without_any_class_are_trained_on_and_never_detected(tagged, tmp_path, capsys):
    rows = [line for line in (tagged / 'labels.csv').read_text().splitlines()[1:] if not line.startswith('train_2')]
    (tagged / 'labels.csv').write_text('\n'.join(['video,label', *rows, 'train_2.mp4,', '']))
    output = tmp_path / 'run'
    flags = ['--num_steps', 4, '--topk_ratio', 2, '--class_th', 0]
    assert main.main(own_words(tagged, output, *flags)) == 0
    state = weights(output / 'last.pt')
    names = (output / 'labels.txt').read_text().splitlines()
    assert names[0] == '' and len(names) == len(state['actionness_module.cls.0.weight'])
    found = read_detections(output / 'detections.json')
    assert set(found.labels) == set(names[1:]) and 'train_2' in found.videos
    assert main.main(own_words(tagged, tmp_path / 'known', *flags, '--known_labels')) == 0
    known = read_detections(tmp_path / 'known' / 'detections.json')
    assert 'train_2' not in {known.videos[v] for v in known.video}


def test_a_single_class_needs_videos_without_it(tagged, tmp_path, capsys):
    (tagged / 'labels.csv').write_text('video,label\n' + ''.join(f'train_{i},Dive\n' for i in range(5)))
    refused(capsys, own_words(tagged, tmp_path / 'run', '--num_steps', 4), 'single class', 'empty label')
    (tagged / 'labels.csv').write_text('video,label\n' + ''.join(f'train_{i},{"Dive" * (i < 3)}\n' for i in range(5)))
    assert main.main(own_words(tagged, tmp_path / 'run', '--num_steps', 4, '--topk_ratio', 2)) == 0


def test_the_end_of_a_training_compares_with_chance(data, tmp_path, capsys):
    train(data, tmp_path / 'none', '--lr', 0, steps=1)
    assert 'little was learned: the most probable class is right for' in capsys.readouterr().err
    train(data, tmp_path / 'run', '--lr', 0.01, steps=40)
    captured = capsys.readouterr()
    assert 'learned: the most probable class is right for' in captured.out and 'little was' not in captured.err


def test_annotations_that_name_more_classes_than_the_weights_name_both_numbers(own_data, finished, tmp_path, capsys):
    annotate(own_data, lambda b: b['test_0']['annotations'].append({'label': 'Swim', 'segment': [0, 1]}))
    (tmp_path / 'alone').mkdir()
    shutil.copy(finished / 'best.pt', tmp_path / 'alone')  # without the labels.txt of its training
    argv = words(own_data, tmp_path / 'run', '--inference_only', '--model_file', tmp_path / 'alone' / 'best.pt')
    refused(capsys, argv, 3, 4, 'classes')


def test_the_classes_of_the_training_decide_whatever_the_annotations_are_called(own_data, finished, tmp_path, capsys):
    expected = json.loads((localize(own_data, finished / 'best.pt', tmp_path / 'same') / 'results.json').read_text())

    def rename(database):
        for entry in database.values():
            for annotation in entry['annotations']:
                annotation['label'] = annotation['label'].replace('Jump', 'Aaa')  # moves to the front

    annotate(own_data, rename)
    found = json.loads((localize(own_data, finished / 'best.pt', tmp_path / 'renamed') / 'results.json').read_text())
    assert '1 label of the annotations are not among the 3 classes' in capsys.readouterr().err
    for name in ('Dive', 'Run'):  # what was not renamed scores as before
        assert found['AP'].get(name) == expected['AP'].get(name)
    labels = {row['label'] for rows in json.loads((tmp_path / 'renamed' / 'detections.json').read_text())[
        'results'].values() for row in rows}
    assert labels <= set(CLASSES)


def test_a_test_set_with_a_part_of_the_classes_is_scored_for_these(own_data, finished, tmp_path):
    annotate(own_data, lambda b: [b.update({name: {**entry, 'annotations': [
        a for a in entry['annotations'] if a['label'] == 'Run']}}) for name, entry in list(b.items())])
    found = json.loads((localize(own_data, finished / 'best.pt', tmp_path / 'run') / 'results.json').read_text())
    assert set(found['AP']) == {'Run'}


def test_names_of_classes_with_other_separators_read_back_and_with_line_breaks_are_refused(own_data, tmp_path, capsys):
    names = ['Dive', 'Ju\u2028mp\x85\x0b', ' Run\x1c']

    def rename(database):
        for entry in database.values():
            for annotation in entry['annotations']:
                annotation['label'] = {'Jump': names[1], 'Run': names[2]}.get(annotation['label'], annotation['label'])

    annotate(own_data, rename)
    run = train(own_data, tmp_path / 'run', '--detection_inf_step', 'never', steps=1)
    assert load_class_names(str(run / 'best.pt'), 'data', empty_ground_truth(), 3) == sorted(names)
    for broken in '\n', '\r':
        annotate(own_data, lambda b: b['train_0']['annotations'].append({'label': f'a{broken}b', 'segment': [0, 1]}))
        refused(capsys, words(own_data, tmp_path / 'other', '--num_steps', 2), 'a class name contains a line break')
        annotate(own_data, lambda b: b['train_0']['annotations'].pop())


def test_names_of_classes_that_cannot_be_read_are_refused_in_one_line(own_data, finished, tmp_path, capsys):
    (own_data / 'gt.json').unlink()
    (tmp_path / 'weights').mkdir()
    shutil.copy(finished / 'best.pt', tmp_path / 'weights')
    (tmp_path / 'weights' / 'labels.txt').write_bytes(b'\xff\xfe\x00')
    argv = words(own_data, tmp_path / 'run', '--inference_only', '--model_file', tmp_path / 'weights' / 'best.pt')
    refused(capsys, argv, 'labels.txt')


@pytest.mark.parametrize('inference', [True, False])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
        data, finished, tmp_path, capsys, inference, monkeypatch):
    (tmp_path / 'file').write_text('in the way')
    monkeypatch.setattr('engine.inference.Evaluator.predict', lambda *args: pytest.fail('worked before it looked'))
    flags = ['--inference_only', '--model_file', finished / 'best.pt'] if inference else ['--num_steps', 2]
    refused(capsys, words(data, tmp_path / 'file' / 'run', *flags), 'file')
    assert (tmp_path / 'file').read_text() == 'in the way'


@pytest.mark.parametrize('name', ['losses.csv', 'metrics.csv', 'best.pt', 'results.json', 'detections.json'])
def test_a_folder_in_the_place_of_a_file_is_one_line_too(data, tmp_path, capsys, name):
    (tmp_path / 'run' / name / 'x').mkdir(parents=True)
    refused(capsys, words(data, tmp_path / 'run', '--num_steps', 2), name)


# ---- labels without times -------------------------------------------------------------------------------------------

@pytest.fixture
def tagged(own_data):
    """The tiny data set with a labels.csv in the place of its annotations and lists, and no test videos."""
    content = json.loads((own_data / 'gt.json').read_text())
    rows = {(name, a['label']) for name, entry in content['database'].items() for a in entry['annotations']}
    lines = [f'{name}.mp4,{label}' for name, label in sorted(rows) if name.startswith('train')]
    (own_data / 'labels.csv').write_text('\n'.join(['video,label', *lines]) + '\n')
    for name in ('gt.json', 'split_train.txt', 'split_test.txt'):
        (own_data / name).unlink()
    shutil.rmtree(own_data / 'features' / 'test')
    return own_data


def test_videos_with_labels_alone_train_and_are_localized_themselves(tagged, tmp_path, capsys):
    output = train(tagged, tmp_path / 'run', '--detection_inf_step', 2, '--seed', 3)
    assert 'nothing to score' in capsys.readouterr().out
    assert same_weights(output / 'best.pt', output / 'last.pt')
    found = read_detections(output / 'detections.json')
    assert found.videos == [f'train_{i}' for i in range(5)] and len(found.scores)
    results = json.loads((output / 'results.json').read_text())
    assert set(results['last']) == {'step', 'video_accuracy', 'num_videos', 'num_predictions'}
    assert results['last']['step'] == 6 and not (output / 'metrics.csv').read_text().splitlines()[1:]
    assert main.main(words(tagged, output, '--num_steps', 8, '--resume')) == 0
    assert json.loads((output / 'results.json').read_text())['last']['step'] == 8


def test_training_from_labels_alone_takes_the_steps_of_training_from_annotations(data, tagged, tmp_path):
    timed = train(data, tmp_path / 'timed', '--detection_inf_step', 'never', '--seed', 3)
    untimed = train(tagged, tmp_path / 'untimed', '--detection_inf_step', 'never', '--seed', 3)
    assert (timed / 'losses.csv').read_bytes() == (untimed / 'losses.csv').read_bytes()


def test_a_test_video_with_labels_alone_counts_for_the_video_accuracy(own_data, finished, tmp_path, capsys):
    annotate(own_data, lambda b: [a.pop('segment') for a in b['test_1']['annotations']])
    output = localize(own_data, finished / 'best.pt', tmp_path / 'run')
    assert '1 test video with labels without a time' in capsys.readouterr().err
    results = json.loads((output / 'results.json').read_text())
    whole = json.loads((localize(own_data, finished / 'best.pt', tmp_path / 'all') / 'results.json').read_text())
    assert results['num_ground_truth_videos'] == 2 and results['video_accuracy'] == whole['video_accuracy']


def test_nothing_to_learn_from_is_refused_with_what_to_write(tagged, tmp_path, capsys):
    (tagged / 'labels.csv').unlink()
    refused(capsys, words(tagged, tmp_path / 'run', '--num_steps', 2), 'gt.json', 'labels.csv', 'video,label')
    (tagged / 'thumos14.json').write_text('{}')
    refused(capsys, words(tagged, tmp_path / 'run', '--num_steps', 2), 'if thumos14.json contains the annotations')


def test_a_labelled_video_can_be_held_to_its_labels(own_data, finished, tmp_path):
    annotate(own_data, lambda b: b.pop('test_2'))  # without a label, the predicted classes are localized
    flags = ['--class_th', 0]
    free, held = (read_detections(localize(own_data, finished / 'best.pt', tmp_path / name, *flags, *more)
                                  / 'detections.json') for name, more in (('free', []), ('held', ['--known_labels'])))

    def found(detections):
        return {(detections.videos[v], detections.labels[c]) for v, c in zip(detections.video, detections.label)}

    database = json.loads((own_data / 'gt.json').read_text())['database']
    for video in ('test_0', 'test_1'):
        own = {(video, row['label']) for row in database[video]['annotations']}
        assert {pair for pair in found(held) if pair[0] == video} == own
        assert {pair for pair in found(free) if pair[0] == video} > own
    assert {pair for pair in found(held) if pair[0] == 'test_2'} == {('test_2', name) for name in CLASSES}


# ---- what comes out -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('flags, min_score', [
    (['--dataset', 'own'], 0.65), (['--dataset', 'own', '--fusion_weight', 1 / 3], 1 - 0.7 / 3),
    (['--dataset', 'own', '--min_score', 0.2], 0.2), (['--dataset', 'thumos14'], -np.inf)])
def test_events_of_own_videos_need_evidence_for_their_class(flags, min_score):
    assert inference.EvaluatorOptions.from_args(parse(*flags)).events.min_score == pytest.approx(min_score)


def test_the_page_is_named_after_the_data_folder_and_the_run_and_shows_its_training(data, finished):
    page = (finished / 'report.html').read_text()
    best = json.loads((finished / 'results.json').read_text())['best']['step']
    assert re.sub(r'\s+', ' ', re.search('<h1>(.*?)</h1>', page, re.DOTALL)[1]) == (
        f'{data.name} · finished <small>best weights (step {best}), chosen on the test videos</small>')
    assert '"steps":[2.0,4.0,6.0],"lines":[["average",' in page


def test_videos_without_annotations_get_a_page_tables_and_their_events_as_subtitles(data, finished, tmp_path):
    threshold = json.loads((finished / 'results.json').read_text())['best']['threshold']['score']
    alone = Path(shutil.copytree(data / 'features' / 'test', tmp_path / 'alone'))
    output = localize(alone, finished / 'best.pt', tmp_path / 'default')
    page = (output / 'report.html').read_text()
    assert float(re.search(r'"threshold":([\d.e-]+)', page)[1]) <= threshold  # at most that of best F1
    assert (output / 'events.csv').read_text().startswith('video,label,start,end,score\ntest_0,')
    output = localize(alone, finished / 'best.pt', tmp_path / 'run', '--subtitles', 'srt', '--min_score', 0,
                      '--event_share', 0.5, '--event_overlap', 0)
    found = read_detections(output / 'detections.json')
    events = select_events(found, EventOptions(0.5, 0, 0))
    with open(output / 'events.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['video'] for row in rows] == [events.videos[video] for video in events.video]
    assert [float(row['start']) for row in rows] == pytest.approx(events.segments[:, 0].tolist(), abs=5.1e-5)
    assert {name for name in found.videos if ' --> ' in (output / 'subtitles' / f'{name}.srt').read_text()} == {
        row['video'] for row in rows} > set()
    with open(output / 'detections.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['video', 'label', 'start', 'end', 'score'] and len(rows) == len(found.scores)
    assert sorted(float(row['score']) for row in rows) == pytest.approx(sorted(found.scores.tolist()), abs=5.1e-5)
    assert rows == sorted(rows, key=lambda row: (row['video'], float(row['start'])))
    page = (output / 'report.html').read_text()
    assert 'test_1' in page and f'weights {finished / "best.pt"}' in page
    none = localize(alone, finished / 'best.pt', tmp_path / 'none', '--subtitles', 'vtt', '--min_score', 9)
    assert not any(' --> ' in (none / 'subtitles' / f'{name}.vtt').read_text() for name in found.videos)


@pytest.mark.parametrize('flags', [
    ['--exp_name', 'x' * 300, '--resume'], ['--exp_name', 'x' * 300, '--inference_only'],
    ['--exp_name', 'x', '--inference_only', '--model_file', f'{"x" * 300}/best.pt']])
def test_names_that_are_too_long_for_a_file_are_refused_in_one_line(data, tmp_path, capsys, flags):
    refused(capsys, ['--data_path', str(data), '--output_dir', str(tmp_path), *flags], 'x' * 60)


def test_a_missing_folder_of_videos_is_refused_first(data, tmp_path, capsys):
    refused(capsys, words(data, tmp_path / 'run', '--videos', tmp_path / 'nowhere'), '--videos', 'nowhere')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'unrelated.mp4').touch()
    refused(capsys, words(data, tmp_path / 'run', '--videos', tmp_path / 'other'), 'other: contains no file of these')
    assert not (tmp_path / 'run').exists()


# ---- features that lie in no tree -----------------------------------------------------------------------------------

@pytest.mark.parametrize('form', ['file', 'flat', 'streams', 'tree'])
def test_weights_localize_whatever_holds_features(data, finished, tmp_path, form):
    streams = [data / 'features' / 'test' / stream for stream in ('rgb', 'flow')]
    place = tmp_path / 'flat'
    if form == 'tree':
        shutil.copytree(data / 'features' / 'test', place / 'features' / 'test')
    elif form == 'streams':
        shutil.copytree(data / 'features' / 'test', place)
    else:
        place.mkdir()
        for path in streams[0].glob('*.npy'):
            np.save(place / path.name, np.hstack([np.load(path), np.load(streams[1] / path.name)]))
    one = place / 'test_1.npy' if form == 'file' else place
    found = read_detections(localize(one, finished / 'best.pt', tmp_path / 'run') / 'detections.json')
    expected = read_detections(localize(data, finished / 'best.pt', tmp_path / 'all') / 'detections.json')
    assert found.videos == (['test_1'] if form == 'file' else expected.videos)
    kept = np.isin(expected.video, [expected.videos.index(name) for name in found.videos])
    np.testing.assert_array_equal(found.scores, expected.scores[kept])
    np.testing.assert_array_equal(found.segments, expected.segments[kept])


# ---- settings of an earlier run -------------------------------------------------------------------------------------

def bare(data, output, *flags):
    """A command line without the flags that make the run tiny."""
    return ['--data_path', str(data), '--output_dir', str(output.parent), '--exp_name', output.name, *map(str, flags)]


def test_inference_takes_network_and_sampling_from_the_run_that_gave_the_weights(data, finished, tmp_path, capsys):
    flags = ['--inference_only', '--model_file', finished / 'best.pt', '--device', 'cpu']
    assert main.main(bare(data, tmp_path / 'own', *flags)) == 0
    assert f'from {finished / "args.json"}: ' in capsys.readouterr().out
    assert (tmp_path / 'own' / 'detections.json').read_bytes() == (finished / 'detections.json').read_bytes()
    assert main.main(bare(data, tmp_path / 'hard', *flags, '--no-soft_nms')) == 0  # flags win
    assert len(read_detections(tmp_path / 'hard' / 'detections.json').scores) < len(
        read_detections(finished / 'detections.json').scores)
    assert main.main(bare(data, tmp_path / 'other', *flags, '--hidden_dim', 9)) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert 'was trained with --hidden_dim 16, and is used with 9' in warning and 'does not match' in error


def test_a_resume_needs_the_name_alone(data, tmp_path, capsys):
    whole = train(data, tmp_path / 'whole', '--detection_inf_step', 2, '--seed', 3, '--lr', 0.01)
    train(data, tmp_path / 'run', '--detection_inf_step', 2, '--seed', 3, '--lr', 0.01, steps=4)
    command = ['--output_dir', str(tmp_path), '--exp_name', 'run', '--resume', '--num_steps', '6']
    assert main.main(command) == 0
    for name in ('losses.csv', 'metrics.csv', 'last.pt', 'detections.json'):
        assert (whole / name).read_bytes() == (tmp_path / 'run' / name).read_bytes(), name
    refused(capsys, [*command[:-1], '8', '--lr', '0.02'], '--lr was 0.01 and is 0.02')


@pytest.mark.parametrize('content, parts', [
    ('{"hidden_dim": "wide"}', ['hidden_dim', 'wide']), ('[]', ['must contain an object']),
    ('{', ['not a valid JSON file']),
    ('{"modal": "sound"}', ['modal', 'rgb']), ('{"tiou": 0.5}', ['tiou']), ('{"soft_nms": 1}', ['soft_nms']),
    ('{"num_segments": 0}', ['num_segments', 'between']), (None, ['cannot be read'])])
def test_arguments_that_no_run_wrote_are_refused(data, finished, tmp_path, capsys, content, parts):
    shutil.copy(finished / 'best.pt', tmp_path)
    path = tmp_path / 'args.json'
    path.write_text(content) if content else path.symlink_to(tmp_path / 'moved.json')
    flags = ['--inference_only', '--model_file', tmp_path / 'best.pt']
    refused(capsys, bare(data, tmp_path / 'run', *flags), 'args.json', *parts)


# ---- the command lines of the released code -------------------------------------------------------------------------

def test_the_released_inference_line_works(data, finished, tmp_path, capsys):
    (tmp_path / 'AICL').mkdir()
    torch.save(weights(finished / 'best.pt'), tmp_path / 'AICL' / 'CAS_Only.pkl')
    line = ['--exp_name', 'AICL', '--model_name', 'ThumosModel', '--soft_nms', '--inference_only', '--data_path',
            str(data), '--output_dir', str(tmp_path), '--num_segments1', '50', '--num_segments2', '1500',
            '--load_weight', '--verbose']
    assert main.main([*line, *TINY]) == 0
    out = capsys.readouterr().out
    for name in ('model_name', 'num_segments1', 'num_segments2', 'load_weight', 'verbose'):
        assert len([row for row in out.splitlines() if f'--{name} has no effect' in row]) == 1
    found = read_detections(tmp_path / 'AICL' / 'detections.json')
    np.testing.assert_array_equal(found.scores, read_detections(finished / 'detections.json').scores)
    refused(capsys, [*line[:1], 'unknown', *line[2:]], '--model_file', 'CAS_Only.pkl', 'best.pt')


def test_seed_minus_one_draws_and_prints_a_seed(data, tmp_path, capsys):
    seeds = []
    for name in 'ab':
        train(data, tmp_path / name, '--seed', -1, '--detection_inf_step', 'never', steps=1)
        seeds.append(json.loads((tmp_path / name / 'args.json').read_text())['seed'])
        assert f'the seed of this run is {seeds[-1]}' in capsys.readouterr().out
    assert seeds[0] != seeds[1] and all(seed >= 0 for seed in seeds)


@pytest.mark.parametrize(('kind', 'name'), [('data', 'it is'), ('tagged', '-x')])
def test_the_printed_next_commands_work(request, tmp_path, capsys, kind, name):
    folder = tmp_path / 'out puts' / name
    train(request.getfixturevalue(kind), tmp_path / 'out puts' / 'run', f'--exp_name={name}', '--known_labels',
          '--detection_inf_step', 2, steps=2)
    out = capsys.readouterr().out
    assert next_command(out, 'other thresholds')[-2:] == ['--min_score', '0.5']  # --class_th selects no known label
    assert main.main(next_command(out, 'longer')) == 0
    assert read_csv(folder / 'losses.csv')[-1]['step'] == '4'
    for flags, known in ([], True), (['--no-known_labels'], False):  # the flag of the training, and without it
        assert main.main([*next_command(out, 'other thresholds'), *flags]) == 0
        assert f'report: {folder.with_name(f"{name}-inference")}/report.html' in capsys.readouterr().out
        assert read_detections(folder.with_name(f'{name}-inference') / 'detections.json').known_labels == known

    from tensorboard.program import TensorBoard
    argv = shlex.split(re.search('^curves: (tensorboard .*)$', out, re.MULTILINE).group(1))
    program = TensorBoard()
    program.configure([*argv, '--inspect'])
    assert program.main() == 0 and f'{name}:' in capsys.readouterr().out


def test_results_with_known_labels_are_marked(data, tmp_path, capsys):
    run = train(data, tmp_path / 'run', '--known_labels', '--detection_inf_step', 2, steps=2)
    out = capsys.readouterr().out
    assert out.count('with known labels: only the given labels') == 2  # of the best and the last weights
    results = json.loads((run / 'results.json').read_text())
    assert results['best']['known_labels'] is True and results['last']['known_labels'] is True
    assert [row['known_labels'] for row in read_csv(run / 'metrics.csv')] == ['1']
    assert 'known labels' in (run / 'report.html').read_text()
    for command in (detection.main, events.main):
        argv = [str(run / 'detections.json'), '--gt'] if command is events.main else []
        argv += [str(data / 'gt.json')] + ([] if argv else [str(run / 'detections.json')])
        assert command(argv) == 0 and 'with known labels' in capsys.readouterr().out
    free = localize(data, run / 'best.pt', tmp_path / 'free', '--no-known_labels')
    assert 'known labels' not in capsys.readouterr().out and 'known_labels' not in (free / 'results.json').read_text()
    assert '"known_labels"' not in (free / 'detections.json').read_text()


# ---- the time base of each video ------------------------------------------------------------------------------------

def test_videos_may_have_their_own_frame_rate(own_data, tmp_path, capsys):
    """Videos of 10, 70 and 300 s, whose features are all at another rate: in training, and in inference from it."""
    seconds = {'test_0': 10.0, 'test_1': 70.0, 'test_2': 300.0}

    def set_durations(database):
        for name in seconds:
            database[name]['duration'] = seconds[name]

    flags = ['--feature_fps', 'video', '--detection_inf_step', 2]
    refused(capsys, words(own_data, tmp_path / 'run', '--num_steps', 2, *flags), 'neither duration nor fps is known')
    assert not (tmp_path / 'run').exists()
    annotate(own_data, set_durations)
    run = train(own_data, tmp_path / 'run', *flags, steps=2)
    curves = read_curves(run / 'curves.npz')
    assert dict(zip(curves.videos, curves.seconds * curves.aware.shape[1])) == pytest.approx(seconds)
    found = read_detections(run / 'detections.json')
    ends = np.array([seconds[found.videos[v]] for v in found.video])
    assert (found.segments[:, 1] <= ends + 1e-6).all() and (found.segments[:, 1] > 0.9 * ends).any()
    again = tmp_path / 'again'
    assert main.main(['--inference_only', '--model_file', str(run / 'best.pt'), '--data_path', str(own_data),
                      '--output_dir', str(tmp_path), '--exp_name', 'again']) == 0
    assert (again / 'detections.json').read_bytes() == (run / 'detections.json').read_bytes()


# ---- names of runs --------------------------------------------------------------------------------------------------

def test_a_resume_without_a_run_and_without_data_names_the_folder(tmp_path, capsys):
    refused(capsys, ['--exp_name', 'other', '--output_dir', str(tmp_path), '--resume'],
            f'{tmp_path / "other"}: there is no run to resume', '--data_path to start one')


@pytest.mark.parametrize(('name', 'similar'), [
    ('frist', True), ('First', True), ('fist', True), ('my-frist', False), ('second', False), ('first-seed2', False),
    ('long_name_action-seed1', False), ('long_nmae_full-seed1', True), ('first2', False), ('x' * 300, False)])
def test_a_resume_with_a_misspelled_name_lists_the_runs_and_starts_nothing(tmp_path, capsys, name, similar):
    for run in ('first', 'first-seed1', 'long_name_full-seed1'):
        (tmp_path / run).mkdir()
        (tmp_path / run / 'args.json').write_text('{}')
    argv = ['--data_path', 'DIR', '--output_dir', str(tmp_path), '--exp_name', name]
    assert parse_args(argv).exp_name == name  # without --resume
    if not similar:
        assert parse_args([*argv, '--resume']).resume
        return
    with pytest.raises(SystemExit):
        parse_args([*argv, '--resume'])
    error = capsys.readouterr().err
    assert 'there is no such run; did you mean --exp_name ' in error and error.count('\n') == 1
    assert 'first, first-seed1, long_name_full-seed1' in error and not (tmp_path / name).exists()


def test_a_name_is_neither_a_path_nor_ends_in_a_slash(tmp_path, monkeypatch, capsys):
    (tmp_path / 'out' / 'first').mkdir(parents=True)
    (tmp_path / 'out' / 'first' / 'args.json').write_text('{}')
    monkeypatch.chdir(tmp_path)
    argv = ['--data_path', 'DIR', '--output_dir', 'out', '--resume', '--exp_name']
    assert parse_args([*argv, 'first/']).exp_name == 'first'
    with pytest.raises(SystemExit):
        parse_args([*argv, 'out/first/'])
    assert 'out/first is one: give --output_dir out --exp_name first' in capsys.readouterr().err
