"""A GPU gives the results of a CPU. Skipped without a CUDA device."""
import csv
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from test_main import words, write_data

import main
from config import parse_args
from dataset import Batch
from engine.trainer import Trainer, TrainerOptions
from extraction.i3d import CHANNELS, I3D, build_i3d, read_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


def make_trainer(precision):
    """A trainer of THUMOS14's recipe."""
    args = parse_args(['--data_path', 'data', '--exp_name', 'x', '--precision', precision])
    return Trainer(TrainerOptions.from_args(args), 1024, 20, [800] * 32, torch.device('cuda'))


def make_batch():
    generator = torch.Generator().manual_seed(0)
    labels = torch.eye(20)[torch.arange(16) % 20]
    return Batch(torch.rand(16, 750, 2048, generator=generator).cuda(), labels.cuda(), list(range(16)), 1.0)


def run(data, folder, device, *flags):
    argv = words(data, folder, *flags)
    argv[argv.index('--device') + 1] = device
    assert main.main(argv) == 0
    return folder


def losses(folder):
    with open(folder / 'losses.csv', newline='') as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


@pytest.mark.parametrize('cache', ['ram', 'device', 'none'])
def test_the_first_steps_equal_those_on_a_cpu(data, tmp_path, cache):
    flags = ['--num_steps', 3, '--cache', cache]
    slow = run(data, tmp_path / 'cpu', 'cpu', '--num_steps', 3)
    fast = run(data, tmp_path / 'cuda', 'cuda', *flags)
    for ours, theirs in zip(losses(slow), losses(fast)):
        assert theirs == pytest.approx(ours, rel=1e-4)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_neither_a_step_nor_a_forward_pass_synchronizes(precision):
    trainer, batch = make_trainer(precision), make_batch()

    @torch.inference_mode()
    def forward():
        trainer.network(batch.features)

    calls = partial(trainer.step, batch), forward
    for call in calls * 3:  # loading libraries and capturing the graph synchronize
        call()
    torch.cuda.set_sync_debug_mode('error')
    try:
        for call in calls:
            call()
        with pytest.raises(RuntimeError, match='synchronizing'):
            batch.labels[0, 0].item()
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_graphed_step_equals_an_eager_one(precision):
    ends, whole = [], make_batch()
    part = whole._replace(features=whole.features[:8] + 0.5, labels=whole.labels[:8])
    for use_cuda_graphs in (False, True):
        trainer = make_trainer(precision)
        trainer.use_cuda_graphs = use_cuda_graphs
        terms = torch.stack([trainer.step(batch) for batch in (whole, part, whole, part, part, whole)])
        assert len(trainer.graphs) == 2 * use_cuda_graphs
        assert None not in trainer.graphs.values()
        ends.append([terms, *(value.detach() for value in trainer.network.parameters())])
    for eager, graphed in zip(*ends):
        torch.testing.assert_close(graphed, eager, rtol=1e-3, atol=1e-4)


def synchronize(trainer, features):
    return float(features[0, 0, 0] > -1)


def mask(trainer, features):
    return 1 + 0 * features[features > 0.5].mean()


def warm_up(trainer, features):
    return min(1, (trainer.loop.step + 1) / 4)


def draw(trainer, features):
    return random.random()


@pytest.mark.parametrize('checked', [True, False])  # without the check the capture itself fails
@pytest.mark.parametrize('factor', [synchronize, mask, warm_up, draw])
def test_a_loss_that_cannot_be_captured_is_trained_eagerly(monkeypatch, capsys, factor, checked):
    if not checked and factor in (warm_up, draw):
        pytest.skip('a capture succeeds, with wrong numbers')

    def compute_losses(self, features, labels):
        losses = original(self, features, labels)
        return losses._replace(total=losses.total * factor(self, features))

    original = Trainer.compute_losses
    monkeypatch.setattr(Trainer, 'compute_losses', compute_losses)
    if not checked:
        monkeypatch.setattr(Trainer, 'check_capturable', lambda *_: None)
    ends, batch = [], make_batch()
    for use_cuda_graphs in (False, True):
        monkeypatch.setattr(Trainer, 'can_capture', True)
        trainer = make_trainer('fp32')
        trainer.use_cuda_graphs = use_cuda_graphs
        terms = torch.stack([trainer.step(batch) for _ in range(5)])
        ends.append([terms, *(value.detach() for value in trainer.network.parameters()), random.random(),
                     torch.rand(3, device='cuda')])
    for eager, fallen_back in zip(*ends):
        torch.testing.assert_close(fallen_back, eager, rtol=1e-3, atol=1e-4)
    assert capsys.readouterr().err.count('CUDA graphs') == 1 and not trainer.use_cuda_graphs
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.cuda.get_sync_debug_mode() == 0


def test_a_gpu_localizes_like_a_cpu(data, tmp_path):
    weights = run(data, tmp_path / 'run', 'cpu', '--num_steps', 30, '--lr', 0.01) / 'best.pt'
    found = [json.loads((run(data, tmp_path / device, device, '--inference_only', '--model_file', weights)
                         / 'results.json').read_text()) for device in ('cpu', 'cuda')]
    assert found[1]['mAP'] == pytest.approx(found[0]['mAP'], abs=1e-3)
    assert found[1]['video_accuracy'] == found[0]['video_accuracy']


@pytest.mark.parametrize('precision', ['tf32', 'bf16'])
def test_lower_precisions_stay_near(data, tmp_path, precision):
    exact = run(data, tmp_path / 'fp32', 'cuda', '--num_steps', 10)
    near = run(data, tmp_path / precision, 'cuda', '--num_steps', 10, '--precision', precision)
    for ours, theirs in zip(losses(exact), losses(near)):
        assert theirs[2] == pytest.approx(ours[2], rel=0.02)  # the total


def test_a_run_on_a_gpu_resumes(data, tmp_path):
    run(data, tmp_path / 'run', 'cuda', '--num_steps', 4)
    run(data, tmp_path / 'run', 'cuda', '--num_steps', 8, '--resume')
    whole = run(data, tmp_path / 'whole', 'cuda', '--num_steps', 8)
    for ours, theirs in zip(losses(whole), losses(tmp_path / 'run')):
        assert theirs == pytest.approx(ours, rel=1e-3)


@pytest.mark.parametrize('modality', ['rgb', 'flow'])
@pytest.mark.parametrize('precision, near', [('fp32', 1e-4), ('bf16', 0.05)])
def test_i3d_on_a_gpu_gives_the_features_of_a_cpu(tmp_path, modality, precision, near):
    torch.manual_seed(0)
    torch.save(I3D(modality).state_dict(), tmp_path / 'weights.pt')
    weights = read_weights(tmp_path / 'weights.pt', modality)
    clips = 2 * torch.rand(3, CHANNELS[modality], 24, 224, 224) - 1
    exact = build_i3d(weights)(clips)
    found = build_i3d(weights, device='cuda', precision=precision)(clips.cuda())
    assert found.device.type == 'cuda' and found.dtype == torch.float32 and found.shape == (3, 2, 1024)
    assert (found.cpu() - exact).norm() < near * exact.norm()


def test_tvl1_on_a_gpu_is_that_on_a_cpu():
    pytest.importorskip('cv2', reason='needs OpenCV: pip install -r requirements-video.txt')
    from test_flow import levels, moved

    from extraction.flow import torch_tvl1
    pairs = [moved(0, 0, noise=2), moved(1.2, -0.7), moved(6.5, 4)]
    firsts, seconds = (torch.from_numpy(np.stack(frames)) for frames in zip(*pairs))
    exact = torch_tvl1(firsts, seconds)
    found = torch_tvl1(firsts.cuda(), seconds.cuda())
    assert found.device.type == 'cuda' and found.shape == (3, 48, 64, 2)
    assert (found.cpu() - exact).abs().mean() < 0.03
    assert (np.abs(levels(found.cpu().numpy()) - levels(exact.numpy())) <= 1).mean() > 0.98
