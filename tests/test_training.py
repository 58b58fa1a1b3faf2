"""The trainer: what makes it repeatable and lets another process resume it."""
import os
import random
import resource
from dataclasses import replace

import numpy as np
import pytest
import torch

from config import parse_args
from dataset import Batch
from engine import trainer
from engine.checkpoint import read_weights
from engine.runtime import (
    check_open_files,
    get_rng_state,
    get_sampler_rng_state,
    seed_everything,
    set_rng_state,
    set_sampler_rng_state,
)
from engine.torch_io import save
from engine.trainer import Trainer, TrainerOptions
from model import build_network
from utils import InputError

CPU = torch.device('cpu')
FLAGS = ['--data_path', 'data', '--exp_name', 'x', '--hidden_dim', '5', '--num_segments', '24', '--batch_size', '4']


def make_trainer():
    """A trainer for four videos of 20 snippets, 3 classes and two streams of width 6."""
    return Trainer(TrainerOptions.from_args(parse_args(FLAGS)), 6, 3, [20] * 4, CPU)


def make_batch():
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(4, 24, 12, generator=generator), torch.eye(3)[[0, 1, 2, 0]], [0, 1, 2, 3], 1.0)


def test_a_seed_repeats_torch_numpy_and_python():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    seed_everything(5)
    first = draw()
    assert draw() != first
    seed_everything(5)
    assert draw() == first
    torch.manual_seed(5)
    assert torch.rand(3).tolist() == first[0]  # the plain seeds, which determine the reference's numbers


def test_batches_of_the_caller_need_neither_a_data_set_nor_a_device():
    batch = make_batch()
    trainer, other = make_trainer(), Trainer(TrainerOptions.from_args(parse_args(FLAGS)), 6, 3)
    for _ in range(3):
        assert torch.equal(other.step(Batch(batch.features, batch.labels)), trainer.step(batch))


def test_generators_continue_from_a_saved_state(tmp_path):
    seed_everything(3)
    rows = np.random.RandomState(4)
    torch.rand(5), random.random(), rows.randint(0, 100, 7), rows.normal()  # normal() caches a second number
    save({'rng': get_rng_state(), 'rows': get_sampler_rng_state(rows)}, tmp_path / 'state.pt')

    def draw(rng):
        ours = torch.rand(3).tolist(), torch.randperm(9).tolist(), random.random()
        return ours, rng.randint(0, 100, 5).tolist(), rng.normal()

    expected = draw(rows)
    seed_everything(99)
    rows = np.random.RandomState(99)
    state = read_weights(tmp_path / 'state.pt')
    set_rng_state(state['rng'])
    set_sampler_rng_state(rows, state['rows'])
    assert draw(rows) == expected


def test_moments_of_an_older_checkpoint_get_the_memory_layout_of_their_weights():
    batch, ends = make_batch(), []
    for layout in (torch.preserve_format, torch.contiguous_format):  # that of today, and an earlier one
        first = make_trainer()
        for _ in range(2):
            first.step(batch)
        state = first.state()
        for moments in state.optimizer['state'].values():
            for name in ('exp_avg', 'exp_avg_sq'):
                moments[name] = moments[name].clone(memory_format=layout)
        loop = {**state.loop, 'epoch': 2, 'batch_in_epoch': 0}  # two epochs of one batch
        second = make_trainer()
        second.restore(state._replace(loop=loop, model={name: value.clone() for name, value in state.model.items()}))
        second.step(batch)
        ends.append([value.detach().clone() for value in second.network.parameters()])
    for now, before in zip(*ends):
        assert torch.equal(now, before)


@pytest.fixture
def graphs(monkeypatch):
    """Stand-ins for what needs a GPU; a graph repeats the Python numbers of its capture. The list of captures."""
    captured = []

    class Graph:
        def __init__(self, loss_fn, parameters, features, labels):
            random.random()  # a capture may draw
            captured.append(tuple(features.shape))
            self.trainer, self.loop = loss_fn.__self__, replace(loss_fn.__self__.loop)

        def replay(self, features, labels):
            now, self.trainer.loop = self.trainer.loop, self.loop
            terms = self.trainer.eager_step(Batch(features, labels, [], 1.0))
            self.trainer.loop = now
            return terms

    monkeypatch.setattr(trainer, 'GraphedStep', Graph)
    monkeypatch.setattr(Trainer, 'can_capture', True)
    monkeypatch.setattr(torch.cuda, 'set_sync_debug_mode', lambda mode: None)
    return captured


class WithLoss(Trainer):
    """A trainer whose total loss has a factor, a function of the trainer."""

    def __init__(self, factor, use_cuda_graphs):
        super().__init__(TrainerOptions.from_args(parse_args(FLAGS)), 6, 3, [20] * 4, CPU)
        self.network.add_module('norm', torch.nn.BatchNorm1d(12))  # has buffers
        self.factor, self.use_cuda_graphs = factor, use_cuda_graphs

    def compute_losses(self, features, labels):
        losses = super().compute_losses(self.network.norm(features.mT).mT, labels)
        return losses._replace(total=losses.total * self.factor(self))


def train(factor, use_cuda_graphs, steps=5):
    """What six steps compute: losses, weights, buffers, moments, and the next random numbers."""
    own, batch = WithLoss(factor, use_cuda_graphs), make_batch()
    terms = [own.step(batch) for _ in range(steps)]
    values = [*own.network.state_dict().values(), *(value for moments in own.optimizer.state.values()
                                                    for value in moments.values())]
    return own, [*terms, *values, torch.rand(3), torch.tensor([random.random(), np.random.rand()])]


def fail(error):
    """Return a factor of the loss that raises in the second step, the first time."""
    calls = []

    def factor(own):
        calls.append(random.random() + torch.rand(()))  # what it draws is drawn once
        if len(calls) == 2 and own.use_cuda_graphs:
            raise error
        return 1
    return factor


@pytest.mark.parametrize('make_factor', [
    lambda: fail(torch.OutOfMemoryError('CUDA out of memory.')), lambda: fail(AssertionError()),
    lambda: fail(RuntimeError('CUDA error: operation not permitted when stream is capturing\nmore')),
    lambda: lambda own: min(1, own.loop.step / 3), lambda: lambda own: 0.9 ** own.loop.epoch + own.loop.step // 100,
    lambda: lambda own: random.random(), lambda: lambda own: np.random.rand(), lambda: lambda own: torch.rand(())])
def test_a_step_that_a_graph_would_not_repeat_is_eager_with_one_warning(graphs, capsys, make_factor):
    _, expected = train(make_factor(), use_cuda_graphs=False)
    own, found = train(make_factor(), use_cuda_graphs=True)
    for ours, eager in zip(found, expected, strict=True):
        assert torch.equal(ours, eager)
    warning, = capsys.readouterr().err.splitlines()
    assert 'CUDA graphs' in warning and '--no-cuda_graphs' in warning and len(warning) < 300
    assert not own.use_cuda_graphs and not Trainer.can_capture and not graphs


def test_a_failed_capture_has_no_effect(graphs, monkeypatch, capsys):
    def refuse(*_):
        random.random(), torch.rand(1)
        graphs.append('tried')
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trainer, 'GraphedStep', refuse)
    _, expected = train(lambda own: 1, use_cuda_graphs=False)
    _, found = train(lambda own: 1, use_cuda_graphs=True)
    for ours, eager in zip(found, expected, strict=True):
        assert torch.equal(ours, eager)
    assert graphs == ['tried'] and capsys.readouterr().err.count('warning') == 1  # at the second step, never again


def test_the_check_before_a_capture_has_no_effect(graphs, capsys):
    _, expected = train(lambda own: 0.5, use_cuda_graphs=False)
    own, found = train(lambda own: 0.5, use_cuda_graphs=True)
    random.random()  # as the one capture does
    assert graphs == [(4, 24, 12)] and own.use_cuda_graphs and not capsys.readouterr().err
    for ours, eager in zip(found[:-1], expected[:-1], strict=True):
        assert torch.equal(ours, eager)


@pytest.mark.parametrize(('flags', 'used'), [([], True), (['--no-cuda_graphs'], False)])
def test_cuda_graphs_are_for_a_single_gpu_and_can_be_turned_off(monkeypatch, flags, used):
    monkeypatch.setattr(Trainer, 'can_capture', True)
    monkeypatch.setattr(trainer, 'build_network', lambda *args: build_network(*args[:-1], CPU))
    options = TrainerOptions.from_args(parse_args([*FLAGS, *flags]))
    assert Trainer(options, 6, 3, [20] * 4, torch.device('cuda')).use_cuda_graphs == used
    assert not Trainer(options, 6, 3, [20] * 4, CPU).use_cuda_graphs


def test_the_flop_of_a_step_are_those_of_its_matmuls():
    own = make_trainer()
    weights = sum(p.numel() for p in own.network.parameters())
    assert own.step_flops == 4 * 24 * 4 * weights  # a multiplication and an addition, forward and backward


@pytest.mark.parametrize(('limit', 'highest', 'workers', 'expected'), [
    (1024, 1024, 8, 1024), (100, 200, 2, 100), (40, 4096, 8, 176), (40, 100, 8, 100), (40, 80, 8, None),
    (40, 40, 3, None), (20, 20, 0, 20), (40, resource.RLIM_INFINITY, 8, 176),
    (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 8, resource.RLIM_INFINITY)])
def test_the_limit_of_open_files_is_raised_for_workers_or_reported(monkeypatch, limit, highest, workers, expected):
    """Of a process with 6 open files, which 8 workers make 88."""
    limits = [(limit, highest)]
    monkeypatch.setattr(os, 'listdir', lambda path: list('123456'))
    monkeypatch.setattr(resource, 'getrlimit', lambda kind: limits[-1])
    monkeypatch.setattr(resource, 'setrlimit', lambda kind, value: limits.append(value))
    if expected is None:
        with pytest.raises(InputError, match=f'--num_workers {workers}: .*ulimit -n'):
            check_open_files(workers)
    else:
        check_open_files(workers)
        assert limits[-1] == (expected, highest)
