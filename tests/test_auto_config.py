"""The settings that are chosen from the training data."""
from types import SimpleNamespace

import pytest
import torch

from engine import auto_config
from engine.auto_config import choose_sizes, choose_topk_ratio
from engine.runtime import Distributed
from losses import Losses


@pytest.mark.parametrize('lengths, num_segments, batch_size, num_steps', [
    ([50, 60, 90] * 30, 90, 16, 1000),  # six batches per epoch: 60 epochs are fewer than the minimum
    ([5, 6], 40, 2, 1000),              # short clips, fewer videos than a batch
    ([3000] * 500, 750, 16, 60 * 32),   # long videos
    ([100] * 16_000, 100, 16, 12_000)])
def test_sizes_follow_the_lengths_and_the_number_of_videos(lengths, num_segments, batch_size, num_steps):
    found = {choice.flag: choice.value for choice in choose_sizes(lengths)}
    assert found == {'num_segments': num_segments, 'batch_size': batch_size, 'num_steps': num_steps}


# Generalized cross entropy with k = T/8, T/4, T/2 on real recordings and rendered clips, and the ratio whose training
# had the best average mAP.
@pytest.mark.parametrize('measured, expected', [
    ((0.055, 0.066, 0.027), 2),   # dense actions, a longer trial
    ((0.119, 0.139, 0.102), 2),   # the same videos
    ((0.065, 0.124, 0.169), 8),   # sparse actions, a longer trial
    ((0.113, 0.216, 0.235), 8),   # the same videos
    ((0.517, 0.483, 0.227), 2),   # muscle sensors
    ((0.043, 0.061, 0.062), 2)])  # rendered clips: T/8 75.0, T/4 87.4, T/2 86.1 mAP
def test_k_is_the_largest_unless_a_smaller_one_is_clearly_better(monkeypatch, measured, expected):
    values = dict(zip((8, 4, 2), measured))

    class FixedTrainer:
        """A trainer whose loss terms depend on k only."""

        def __init__(self, options, *_):
            gce = torch.tensor(values[options.network.topk_ratio])
            self.terms = torch.stack(Losses(*[torch.zeros(())] * len(Losses._fields))._replace(gce_rgb=gce))

        def batches(self, train_set):
            while True:
                yield None

        def step(self, batch):
            return self.terms

    class Options(SimpleNamespace):
        def _replace(self, **changes):
            return Options(**{**vars(self), **changes})

    monkeypatch.setattr(auto_config, 'Trainer', FixedTrainer)
    options = Options(network=Options(topk_ratio=None, modalities=('rgb',)))
    train_set = SimpleNamespace(feature_dim=4, class_names=['a', 'b'], lengths=[9])
    choice = choose_topk_ratio(options, train_set, torch.device('cpu'), Distributed(torch.device('cpu')))
    assert choice.flag == 'topk_ratio' and choice.value == expected
    assert f'T/8 {measured[0]:.3f}' in choice.reason
