"""A training: what makes it repeatable and lets it go on in another process."""
import random

import numpy as np
import torch

from model import read_weights
from run import save
from training import random_state, rows_state, seed_everything, set_random_state, set_rows_state


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
    save({'random': random_state(), 'rows': rows_state(rows)}, tmp_path / 'state.pt')

    def draw(rng):
        ours = torch.rand(3).tolist(), torch.randperm(9).tolist(), random.random()
        return ours, rng.randint(0, 100, 5).tolist(), rng.normal()

    expected = draw(rows)
    seed_everything(99)
    rows = np.random.RandomState(99)
    state = read_weights(tmp_path / 'state.pt')
    set_random_state(state['random'])
    set_rows_state(rows, state['rows'])
    assert draw(rows) == expected
