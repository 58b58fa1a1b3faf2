"""The trainer: what makes it repeatable and lets another process resume it."""
import random

import numpy as np
import torch

from config import parse_args
from dataset import Batch
from engine import trainer
from engine.checkpoint import read_weights
from engine.runtime import (
    get_rng_state,
    get_sampler_rng_state,
    seed_everything,
    set_rng_state,
    set_sampler_rng_state,
)
from engine.torch_io import save
from engine.trainer import Trainer, TrainerOptions

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


def test_without_memory_for_a_cuda_graph_steps_are_eager(monkeypatch):
    batch, tried, ends = make_batch(), [], []

    def refuse(*_):
        tried.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(trainer, 'GraphedStep', refuse)
    for use_cuda_graphs in (False, True):
        own = make_trainer()
        own.use_cuda_graphs = use_cuda_graphs
        terms = torch.stack([own.step(batch) for _ in range(4)])
        ends.append([terms, *(value.detach() for value in own.network.parameters())])
    for eager, refused in zip(*ends):
        assert torch.equal(eager, refused)
    assert len(tried) == 1 and not own.use_cuda_graphs  # at the second batch, and never again


def test_the_flop_of_a_step_are_those_of_its_matmuls():
    own = make_trainer()
    weights = sum(p.numel() for p in own.network.parameters())
    assert own.step_flops == 4 * 24 * 4 * weights  # a multiplication and an addition, forward and backward
