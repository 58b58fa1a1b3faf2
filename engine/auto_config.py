"""Settings that depend on the training data, for recipes that leave them unset (figures in docs/videos.md)."""
import math

import numpy as np
import torch

from config import Choice
from dataset import VideoDataset
from engine.runtime import Distributed
from engine.trainer import Trainer, TrainerOptions
from losses import Losses
from utils import plural, progress

SEGMENTS = 40, 750  # bounds of T; from 40 on, two snippets are mined per set
BATCH_SIZE = 16
STEPS = 1_000, 12_000
EPOCHS = 60
TOPK_RATIOS = 8, 4, 2
TRIAL_STEPS = 100, 200  # of each ratio, at least and at most
TRIAL_EPOCHS = 40     # between them; a longer training memorizes a small set of videos, with any k
MEASURED_PART = 0.3   # the last steps of a trial
MIL_FACTOR, MIL_MARGIN = 1.25, 0.1  # a k whose MIL loss is above factor * lowest + margin is left out
LARGEST_FACTOR = 0.88  # of the loss of T/2: a smaller k lowers the loss even where it is too small


def choose_sizes(lengths: list[int]) -> list[Choice]:
    """Return T, the batch size and the number of steps for training videos with L snippets each."""
    low, high = SEGMENTS
    longest = math.ceil(np.percentile(lengths, 98) / 10) * 10
    batch_size = min(BATCH_SIZE, len(lengths))
    steps_per_epoch = -(-len(lengths) // batch_size)
    num_steps = min(max(STEPS[0], EPOCHS * steps_per_epoch), STEPS[1])
    return [
        Choice('num_segments', min(max(longest, low), high), f'98 % of the videos have at most {longest} snippets'),
        Choice('batch_size', batch_size, f'of {plural(len(lengths), "training video")}'),
        Choice('num_steps', num_steps, f'{num_steps // steps_per_epoch} epochs')]


def choose_topk_ratio(options: TrainerOptions, train_set: VideoDataset, device: torch.device,
                      distributed: Distributed) -> Choice:
    """Train briefly with k = T/8, T/4 and T/2, and return the ratio with the lowest generalized cross entropy.

    That loss measures how well the attentions can follow the pseudo labels of this k: it is low where k matches the
    part of a video that actions fill. No times are needed. A k below T/2 must be lower by LARGEST_FACTOR. Attentions
    can also follow the background; then the classes are learned from the wrong snippets, and the MIL loss stays high.
    """
    gce: dict[int, float] = {}
    mil: dict[int, float] = {}
    low, high = TRIAL_STEPS
    num_steps = min(max(low, TRIAL_EPOCHS * len(train_set.lengths) // options.batch_size), high)
    bar = progress(total=len(TOPK_RATIOS) * num_steps, desc='choosing k', unit='step',
                   disable=not distributed.is_main_process)
    for ratio in TOPK_RATIOS:
        trainer = Trainer(options._replace(network=options.network._replace(topk_ratio=ratio)), train_set.feature_dim,
                          len(train_set.class_names), train_set.lengths, device, distributed.shard)
        batches, terms = trainer.batches(train_set), []
        for _ in range(num_steps):
            batch = next(batches)
            with distributed.waiting():
                step_terms = trainer.step(batch)
            terms.append(distributed.all_reduce_sum(step_terms))
            bar.update()
        mean = Losses(*torch.stack(terms[-round(MEASURED_PART * num_steps):]).mean(dim=0))
        gce[ratio] = float(mean.gce_rgb + mean.gce_flow) / len(options.network.modalities)
        mil[ratio] = float(mean.mil)
    bar.close()
    limit = MIL_FACTOR * min(mil.values()) + MIL_MARGIN
    learned = [ratio for ratio in TOPK_RATIOS if mil[ratio] <= limit]
    best = min(learned, key=lambda ratio: gce[ratio] * (LARGEST_FACTOR if ratio == min(TOPK_RATIOS) else 1))
    notes = {ratio: '' if ratio in learned else f' (MIL loss {mil[ratio]:.2f}, too high)' for ratio in TOPK_RATIOS}
    figures = ', '.join(f'T/{ratio} {value:.3f}{notes[ratio]}' for ratio, value in gce.items())
    return Choice('topk_ratio', best, f'generalized cross entropy after {num_steps} steps with k = {figures}')
