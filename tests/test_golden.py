"""Number for number: training and inference against the reference implementation, scores of the released detections.

The reference numbers are in tests/golden/, and the inputs are written by golden_data.py.
"""
import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, GT, RELEASED, read_released, write_data, write_gt_212, write_weights

import main
from dataset import UniformSampler, VideoDataset, make_loader
from engine import trainer
from eval import detection
from eval.detection import scored_subset
from eval.diagnosis import diagnose
from formats.annotations import read_annotations
from formats.data_folder import find_split
from model import AICL
from utils import read_json


@pytest.fixture(scope='module')
def golden(tmp_path_factory):
    """Return a data folder and a weights file."""
    folder = tmp_path_factory.mktemp('golden')
    write_data(folder / 'data')
    write_weights(folder / 'weights.pkl')
    return folder / 'data', folder / 'weights.pkl'


def run(data, output, flags, *more):
    """Run main.py in this process with flags as the golden files hold them; the run's folder."""
    words = []
    for name, value in flags.items():
        words += [f'--{"" if value else "no-"}{name}'] if isinstance(value, bool) else [f'--{name}', str(value)]
    assert main.main(['--dataset', 'thumos14', '--data_path', str(data), '--output_dir', str(output),
                      '--exp_name', 'golden', '--device', 'cpu', *words, *map(str, more)]) == 0
    return output / 'golden'


def read_csv(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def sums(state):
    return {name: [float(value.sum()), float(value.abs().sum())] for name, value in state.items()}


@pytest.fixture
def observed(monkeypatch):
    """What passes through the training step: the videos of each batch, sums of the inputs, targets and regions; the
    weights that the network starts from."""
    seen = {'steps': [], 'start': {}}

    class Watched(VideoDataset):
        def __getitems__(self, draw):
            batch = super().__getitems__(draw)
            if 'train' in str(self.folder):
                seen['steps'].append({'videos': [self.names[v] for v in batch.videos],
                                      'input_sum': float(batch.features.double().sum())})
            return batch

    def losses(outputs, mined, labels, targets, *rest):
        aware, agnostic = ((a > a.median(dim=1, keepdim=True).values)
                           for a in (outputs.actionness_aware, outputs.actionness_agnostic))
        seen['steps'][-1].update(pseudo_positives=int(targets.sum()), consistent_action=int((aware & agnostic).sum()),
                                 inconsistent=int((aware != agnostic).sum()))
        return aicl_losses(outputs, mined, labels, targets, *rest)

    def build(*args):
        model = build_network(*args)
        seen['start'] = sums(model.state_dict())
        return model

    aicl_losses, build_network = trainer.aicl_losses, trainer.build_network
    monkeypatch.setattr('dataset.VideoDataset', Watched)
    monkeypatch.setattr(trainer, 'aicl_losses', losses)
    monkeypatch.setattr(trainer, 'build_network', build)
    return seen


# ---- training -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['training', 'training_with_evaluation'])
def test_training_equals_the_reference_in_float64(golden, observed, tmp_path, name):
    expected = read_json(GOLDEN / f'{name}.json.gz')
    output = run(golden[0], tmp_path, expected['flags'])

    rows = read_csv(output / 'losses.csv')
    steps = [seen for seen in observed['steps'] if 'pseudo_positives' in seen]  # without batches after the training
    assert len(rows) == len(steps) == len(expected['steps']) == 30
    for row, seen, step in zip(rows, steps, expected['steps']):
        for key, value in step.items():
            if key in row:
                assert float(row[key]) == pytest.approx(value, rel=1e-8, abs=1e-12), (row['step'], key)
            elif isinstance(value, float):
                assert seen[key] == pytest.approx(value, rel=1e-8), (row['step'], key)
            else:
                assert seen[key] == value, (row['step'], key)

    if 'init_param_sum_abssum' in expected:
        for key, value in expected['init_param_sum_abssum'].items():
            assert observed['start'][key] == pytest.approx(value, rel=1e-8), key
    final = torch.load(output / 'last.pt', weights_only=True)
    for key, value in expected['final_param_sum_abssum'].items():
        assert sums(final)[key] == pytest.approx(value, rel=1e-8), key
    metrics = {int(row['step']): row for row in read_csv(output / 'metrics.csv')}
    for evaluation in expected.get('evaluations', []):
        row = metrics[evaluation['step']]
        assert float(row['average_mAP']) == pytest.approx(evaluation['average_mAP'], abs=1e-6)
        assert float(row['video_accuracy']) == pytest.approx(evaluation['video_accuracy'], abs=1e-6)


def test_training_starts_as_the_reference_in_float32(golden, tmp_path):
    expected = read_json(GOLDEN / 'training.json.gz')
    flags = {**expected['flags'], 'precision': 'fp32'}
    rows = read_csv(run(golden[0], tmp_path, flags, '--num_steps', 5) / 'losses.csv')
    assert len(rows) == 5
    for row, step in zip(rows, expected['steps']):
        for key in set(row) & set(step):
            assert float(row[key]) == pytest.approx(step[key], rel=1e-4), (row['step'], key)


def test_training_without_any_time_is_the_same_digit_for_digit(golden, tmp_path):
    data, _ = golden
    flags = read_json(GOLDEN / 'training.json.gz')['flags']
    untimed = Path(shutil.copytree(data, tmp_path / 'untimed'))
    content = json.loads((untimed / 'gt.json').read_text())
    names = (untimed / 'split_train.txt').read_text().split()
    for name in names:
        for annotation in content['database'][name]['annotations']:
            del annotation['segment']
    (untimed / 'gt.json').write_text(json.dumps(content))
    timed, tagged = (run(place, tmp_path / place.name, flags, '--num_steps', 4) for place in (data, untimed))
    assert len(read_csv(timed / 'losses.csv')) == 4
    for name in ('losses.csv', 'metrics.csv', 'last.pt', 'detections.json'):
        assert (timed / name).read_bytes() == (tagged / name).read_bytes(), name


# ---- inference ------------------------------------------------------------------------------------------------------

def network_sums(data, weights, num_segments):
    """Sums of the network's outputs on every test video, under the names of the golden files."""
    truth = read_annotations(data)
    test_set = VideoDataset(find_split(data, 'test', truth, truth.labels, ('rgb', 'flow')), 'auto')
    model = AICL(1024, 20, 512, fusion_weight=1 / 3, topk_ratio=8)
    model.load_state_dict(torch.load(weights, weights_only=True))
    sampler = UniformSampler(test_set.lengths, num_segments, 1)
    found = {}
    for batch in make_loader(test_set, sampler):
        with torch.inference_mode():
            out = model(batch.features)
        video = batch.videos[0]
        found[test_set.names[video]] = {
            'num_snippets': test_set.lengths[video], 'cas_sum': out.cas.sum(), 'cas_abssum': out.cas.abs().sum(),
            'attention_rgb_sum': out.attention_rgb.sum(), 'attention_flow_sum': out.attention_flow.sum(),
            'actionness_class_aware_sum': out.actionness_aware.sum(),
            'actionness_class_agnostic_sum': out.actionness_agnostic.sum()}
    return found


@pytest.mark.parametrize('case', ['T100_soft', 'T100_hard', 'T750_soft', 'T750_other_flags'])
def test_inference_equals_the_reference(golden, tmp_path, case):
    data, weights = golden
    expected = read_json(GOLDEN / 'inference.json.gz')[case]
    output = run(data, tmp_path, expected['flags'], '--inference_only', '--model_file', weights)

    results = json.loads((output / 'results.json').read_text())
    assert results['average_mAP'] == pytest.approx(expected['average_mAP'], abs=1e-6)
    assert list(results['mAP'].values()) == pytest.approx(expected['mAP_at_tIoU_0.1_to_0.7'], abs=1e-6)
    assert results['video_accuracy'] == pytest.approx(expected['video_label_accuracy'], abs=1e-6)

    detections = json.loads((output / 'detections.json').read_text())['results']
    assert set(detections) == set(expected['detections'])
    for video, wanted in expected['detections'].items():
        def key(detection):
            return detection['label'], [round(x, 3) for x in detection['segment']]
        found = sorted(detections[video], key=key)
        assert [d['label'] for d in found] == [d['label'] for d in sorted(wanted, key=key)]
        for ours, theirs in zip(found, sorted(wanted, key=key)):
            assert ours['segment'] == pytest.approx(theirs['segment'], abs=1e-4), video
            assert ours['score'] == pytest.approx(theirs['score'], abs=1e-4), video

    if case != 'T750_other_flags':  # its network outputs are those of T750_soft
        found = network_sums(data, weights, expected['flags']['num_segments'])
        for video, sums_of in expected['test_outputs'].items():
            for key, value in sums_of.items():
                assert float(found[video][key]) == pytest.approx(value, rel=1e-4), (video, key)


# ---- the detections that the authors released -----------------------------------------------------------------------

@pytest.mark.parametrize(('num_videos', 'mean_ap', 'average'), [
    (210, [0.73236012, 0.68024299, 0.57946204, 0.48824059, 0.36685992, 0.24994267, 0.14807955], 0.46359827),
    (212, None, 0.45775983)])
def test_the_map_of_the_released_detections(num_videos, mean_ap, average, tmp_path):
    """The reference's numbers. Those at 0.1 and 0.2 also depend on how numpy sorts equal tIoUs."""
    gt, output = GT, tmp_path / 'results.json'
    if num_videos == 212:
        gt = tmp_path / 'gt.json'
        write_gt_212(gt)
    assert detection.main([str(gt), str(RELEASED), '--output', str(output)]) == 0
    results = json.loads(output.read_text())
    assert list(results['mAP']) == ['0.1', '0.2', '0.3', '0.4', '0.5', '0.6', '0.7']
    if mean_ap:
        np.testing.assert_allclose(list(results['mAP'].values()), mean_ap, rtol=0, atol=1e-6)
    assert results['average_mAP'] == pytest.approx(average, abs=1e-6)
    assert len(results['AP']) == 20 and results['num_predictions'] == 36195
    assert results['num_videos'] == num_videos


def test_the_error_shares_of_the_released_detections_are_those_of_detad():
    gt, detections = read_released()
    diagnosis = diagnose(scored_subset(gt, detections.videos, 'test'), detections, [0.5])
    assert (diagnosis.num_videos, diagnosis.num_detections, diagnosis.num_kept) == (210, 36195, 29827)
    expected = [7.76, 21.04, 3.12, 29.90, 3.60, 34.58]  # of DETAD's own code
    np.testing.assert_allclose(100 * diagnosis.shares[0, -1], expected, atol=0.02, rtol=0)
    assert [c.unknown for c in diagnosis.characteristics] == [0, 0, 0]
    assert all(c.instances.sum() == 3311 for c in diagnosis.characteristics)
