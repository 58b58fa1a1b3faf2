"""The reference numbers of tests/golden/, and the inputs they belong to, from numpy's frozen RandomState streams.

Every array is the same on every machine and with every version of numpy. The tests check sums of them against the sums
that were recorded with the reference numbers.
"""
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState

from formats.annotations import read_ground_truth
from formats.detections import read_detections
from utils import read_json

GOLDEN = Path(__file__).with_name('golden')
THUMOS14 = GOLDEN / 'thumos14'
GT, RELEASED = THUMOS14 / 'gt.json.gz', THUMOS14 / 'detections.json.gz'

CLASSES = ['BaseballPitch', 'BasketballDunk', 'Billiards', 'CleanAndJerk', 'CliffDiving', 'CricketBowling',
           'CricketShot', 'Diving', 'FrisbeeCatch', 'GolfSwing', 'HammerThrow', 'HighJump', 'JavelinThrow', 'LongJump',
           'PoleVault', 'Shotput', 'SoccerPenalty', 'TennisSwing', 'ThrowDiscus', 'VolleyballSpiking']
NUM_VIDEOS = {'train': 24, 'test': 20}
WIDTH, HIDDEN = 1024, 512  # features per modality; channels of the network
SNIPPET_SECONDS = 16 / 25
SEED = 2023


# ---- a small data set and weights that localize in it ---------------------------------------------------------------

def class_patterns(rng):
    """Return the sparse pattern of every class, (20, 1024) per modality: the first numbers of the stream."""
    patterns = {}
    for modality in ('rgb', 'flow'):
        values = rng.rand(len(CLASSES), WIDTH)
        patterns[modality] = 0.5 * values * (rng.rand(len(CLASSES), WIDTH) < 0.1)
    return patterns


def draw_annotations(rng, length, first_class):
    """Return 1 to 3 instances of the first class and, in 30 % of the videos, of another one: class, start, end."""
    classes = [first_class]
    if rng.rand() < 0.3:
        classes.append(rng.randint(len(CLASSES)))
    instances = []
    for index in classes:
        for _ in range(rng.randint(1, 4)):
            duration = rng.randint(2, 12)
            start = rng.randint(0, max(1, length - duration))
            instances.append((index, start, min(length, start + duration)))
    return instances


def write_data(folder):
    """Write 24 training and 20 test videos of noise with class patterns, two-stream, as a data folder."""
    rng = RandomState(SEED)
    patterns, database = class_patterns(rng), {}
    for split, count in NUM_VIDEOS.items():
        names = [f'golden_{split}_{number:03}' for number in range(count)]
        for number, name in enumerate(names):
            length = rng.randint(25, 140)
            instances = draw_annotations(rng, length, number % len(CLASSES))
            is_active = np.zeros((length, len(CLASSES)))
            for index, start, end in instances:
                is_active[start:end, index] = 1
            for modality, pattern in patterns.items():
                features = 0.3 * rng.rand(length, WIDTH) ** 2 + is_active @ pattern
                path = folder / 'features' / split / modality / f'{name}.npy'
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, features.astype(np.float32))
            database[name] = {'subset': split, 'annotations': [
                {'label': CLASSES[index], 'segment': [f'{bound * SNIPPET_SECONDS:.1f}' for bound in bounds]}
                for index, *bounds in instances]}
        (folder / f'split_{split}.txt').write_text(''.join(f'{name}\n' for name in names))
    (folder / 'gt.json').write_text(json.dumps({'database': database}))


def matched_filter(rng, pattern, gain):
    """Return the weight (512, D, 3) and bias of a convolution whose first 20 channels respond to the class patterns."""
    weight, bias = 0.004 * rng.standard_normal((HIDDEN, pattern.shape[1], 3)), np.zeros(HIDDEN)
    weight[:len(CLASSES)] += gain * pattern[:, :, None] * [0.25, 0.5, 0.25]
    bias[:len(CLASSES)] = -gain * (0.1 * pattern.sum(axis=1) + 0.5 * (pattern ** 2).sum(axis=1))
    return weight, bias


def write_weights(path):
    """Write weights under the names of the released checkpoints: they localize well in the data, but not perfectly."""
    patterns, rng, state = class_patterns(RandomState(SEED)), RandomState(SEED + 1), {}

    def add(module, weight, bias):
        for name, array in ('weight', weight), ('bias', bias):
            state[f'actionness_module.{module}.{name}'] = torch.from_numpy(array).float()

    add('base_module.0', *matched_filter(rng, np.hstack([patterns['rgb'], patterns['flow']]), 0.5))
    classifier = 0.02 * rng.standard_normal((len(CLASSES), HIDDEN, 1))
    classifier[:, :len(CLASSES), 0] += np.eye(len(CLASSES))
    add('cls.0', classifier, np.full(len(CLASSES), -0.5))
    for modality, pattern in patterns.items():
        add(f'action_module_{modality}.0', *matched_filter(rng, pattern, 0.7))
        attention = 0.02 * rng.standard_normal((1, HIDDEN, 1))
        attention[:, :len(CLASSES)] += 1
        add(f'cls_{modality}', attention, np.full(1, -1.5))
    torch.save(state, path)


# ---- I3D ------------------------------------------------------------------------------------------------------------

def i3d_names(modality):
    """Return the two published names and the shape of every parameter, in the order of the stream."""
    return [(*names, tuple(shape)) for *names, shape in read_json(GOLDEN / 'i3d_names.json.gz')[modality]]


def i3d_weights(modality, seed, naming):
    """Return a state dict of I3D in one of the two published namings, 0 or 1."""
    rng, state = RandomState(seed), {}
    for *names, shape in i3d_names(modality):
        first = names[0]
        if first.endswith(('running_var', 'bn.weight')):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.standard_normal(shape)
            if first.endswith('running_mean'):
                value *= 0.2
            elif first.endswith('bias'):
                value *= 0.1
            else:
                value *= np.sqrt(2 / np.prod(shape[1:]))
        state[names[naming]] = torch.from_numpy(np.asarray(value, np.float32))
        if first.endswith('running_var'):
            state[names[naming].removesuffix('running_var') + 'num_batches_tracked'] = torch.tensor(0)
    return state


def i3d_clip(modality, num_frames, seed):
    """Return a clip (1, C, F, 224, 224) in [-1, 1] that is smooth in space and time."""
    size = {'rgb': 3, 'flow': 2}[modality], (num_frames + 3) // 4 + 1, 15, 15
    coarse = torch.from_numpy(RandomState(seed).uniform(-1, 1, size).astype(np.float32))
    return F.interpolate(coarse[None], (num_frames, 224, 224), mode='trilinear', align_corners=True)


# ---- published annotations and detections ---------------------------------------------------------------------------

def read_released():
    """Return THUMOS14's annotations, and the detections that the authors of AICL released for its test videos."""
    return read_ground_truth(GT), read_detections(RELEASED)


def write_gt_212(path):
    """Write the annotations with the two further test videos that some copies contain."""
    content = read_json(GT)
    content['database'] |= read_json(THUMOS14 / 'two_more_videos.json')
    path.write_text(json.dumps(content))
