"""A training: what makes it repeatable and lets it go on in another process."""
import random

import numpy as np
import torch

from benchmarks.step import make_batch, make_training
from benchmarks.workloads import Size
from engine.checkpoint import read_weights
from engine.checkpoint import save
from engine.runtime import get_rng_state, get_sampler_rng_state, seed_everything, set_rng_state, set_sampler_rng_state


def test_a_seed_repeats_torch_numpy_and_python():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    seed_everything(5)
    first = draw()
    assert draw() != first
    seed_everything(5)
    assert draw() == first
    torch.manual_seed(5)
    assert torch.rand(3).tolist() == first[0]    # the plain seeds, which decide the reference's numbers


def test_generators_go_on_where_their_state_was_taken(tmp_path):
    seed_everything(3)
    rows = np.random.RandomState(4)
    torch.rand(5), random.random(), rows.randint(0, 100, 7), rows.normal()    # normal() leaves a second number behind
    save({'random': get_rng_state(), 'rows': get_sampler_rng_state(rows)}, tmp_path / 'state.pt')

    def draw(rng):
        ours = torch.rand(3).tolist(), torch.randperm(9).tolist(), random.random()
        return ours, rng.randint(0, 100, 5).tolist(), rng.normal()

    expected = draw(rows)
    seed_everything(99)
    rows = np.random.RandomState(99)
    state = read_weights(tmp_path / 'state.pt')
    set_rng_state(state['random'])
    set_sampler_rng_state(rows, state['rows'])
    assert draw(rows) == expected


def test_moments_of_an_older_checkpoint_are_brought_to_the_memory_order_of_their_weights():
    size, cpu = Size('thumos14', 4, 4, 3, 6, ('--hidden_dim', '5', '--num_segments', '24')), torch.device('cpu')
    batch, ends = make_batch(size, cpu), []
    for order in (torch.preserve_format, torch.contiguous_format):    # as it is, and as it was before
        training = make_training(size, cpu)
        training.step(batch)
        training.step(batch)
        state = training.state()
        for moments in state.optimizer['state'].values():
            for name in ('exp_avg', 'exp_avg_sq'):
                moments[name] = moments[name].clone(memory_format=order)
        training = make_training(size, cpu)
        training.restore(state._replace(model={name: value.clone() for name, value in state.model.items()}))
        training.step(batch)
        ends.append([value.detach().clone() for value in training.network.parameters()])
    for now, before in zip(*ends):
        assert torch.equal(now, before)


def test_where_a_recording_finds_no_room_the_steps_go_on_kernel_by_kernel(monkeypatch):
    size, cpu = Size('thumos14', 4, 4, 3, 6, ('--hidden_dim', '5', '--num_segments', '24')), torch.device('cpu')
    batch, tried, ends = make_batch(size, cpu), [], []

    def refuse(*_):
        tried.append(1)
        raise torch.OutOfMemoryError

    monkeypatch.setattr('engine.trainer.GraphedStep', refuse)
    for records in (False, True):
        training = make_training(size, cpu)
        training.use_cuda_graphs = records
        terms = torch.stack([training.step(batch) for _ in range(4)])
        ends.append([terms, *(value.detach() for value in training.network.parameters())])
    for launched, refused in zip(*ends):
        assert torch.equal(launched, refused)
    assert len(tried) == 1 and not training.use_cuda_graphs    # at the second batch, and never again
