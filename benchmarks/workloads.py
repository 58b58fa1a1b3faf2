"""Synthetic data of the published data sets' sizes, written once and kept.

Lengths and annotations are the real ones where `../shared/data` lies beside the checkout, else drawn alike. Features
are noise to which a video's classes are added, and the weights are matched filters for these classes: a forward pass
costs what it always does, and localization gets about as much to do as with the authors' weights.
"""
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import RandomState

from dataset import uniform_indices
from formats.annotations import GroundTruth, in_subset, match_videos, read_ground_truth, select_videos
from formats.detections import Detections
from model import build_network, network_options
from config import parse_args

SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'
SNIPPET_SECONDS = 16 / 25
VERSION = '1'    # raise it when what is written changes: folders written before are then made anew


class Size(NamedTuple):
    """How large a data set is, and how its runs are started."""
    dataset: str
    num_train: int
    num_test: int
    num_classes: int
    feature_dim: int
    flags: tuple[str, ...] = ()    # beyond the recipe
    elsewhere: str = ''            # how its training step compares with the released code's (see README.md)

    def command(self) -> list[str]:
        """The flags of main.py that every run of it needs besides its data and its name."""
        return ['--dataset', self.dataset, *self.flags]

    def arguments(self, *flags: str) -> Namespace:
        """All arguments of such a run."""
        return parse_args([*self.command(), '--data_path', 'none', '--exp_name', 'benchmark', *flags])


THUMOS14 = Size('thumos14', 200, 210, 20, 1024, elsewhere='1.4x')
ACTIVITYNET = Size('activitynet1.3', 9032, 4427, 200, 1024)    # the videos of ActivityNet 1.3 that have I3D features


# ---- annotations and detections -------------------------------------------------------------------------------------

def thumos14_truth(size: Size = THUMOS14) -> GroundTruth:
    """THUMOS14's annotations, or drawn ones: median length 252 and mean 339 snippets, 16 instances a video."""
    path = SHARED / 'thumos14' / 'gt.json'
    if path.is_file() and size.num_train + size.num_test == THUMOS14.num_train + THUMOS14.num_test:
        truth = read_ground_truth(path)
        split = [(SHARED / 'thumos14' / f'split_{name}.txt').read_text().split() for name in ('train', 'test')]
        keep = np.isin(np.arange(len(truth.videos)), match_videos(sum(split, []), truth.videos))
        return select_videos(truth, keep)
    rng = RandomState(14)
    lengths = np.exp(rng.normal(np.log(252), 0.77, size.num_train + size.num_test)).clip(23, 2614).astype(int)
    return draw_truth(rng, lengths, size, 16)


def activitynet_truth(num_videos: int = 4926) -> GroundTruth:
    """The annotations of ActivityNet 1.3's validation set, or drawn ones."""
    path = SHARED / 'activitynet1.3' / 'gt.json'
    if path.is_file() and num_videos == 4926:
        truth = read_ground_truth(path)
        annotated = np.bincount(truth.video, minlength=len(truth.videos)) > 0
        return select_videos(truth, annotated & in_subset(truth, 'validation'))
    rng = RandomState(13)
    lengths = rng.randint(20, 340, num_videos)
    return draw_truth(rng, lengths, ACTIVITYNET._replace(num_train=0, num_test=num_videos), 1.5)


def draw_truth(rng: RandomState, lengths: np.ndarray, size: Size, per_video: float) -> GroundTruth:
    """Videos of one class each, with `per_video` instances of 2 to 12 snippets on average."""
    count = 1 + rng.poisson(per_video - 1, len(lengths))
    video = np.repeat(np.arange(len(lengths)), count)
    start = rng.rand(len(video)) * (lengths[video] - 12)
    segments = np.stack([start, start + rng.uniform(2, 12, len(video))], axis=1) * SNIPPET_SECONDS
    subsets = ['training'] * size.num_train + ['testing'] * size.num_test
    return GroundTruth([f'video_{i:05}' for i in range(len(lengths))], subsets, lengths * SNIPPET_SECONDS,
                       [f'class_{c:03}' for c in range(size.num_classes)], video,
                       (np.arange(len(lengths)) % size.num_classes)[video], segments)


def known_durations(truth: GroundTruth) -> np.ndarray:
    """Seconds of each video; up to the end of its last instance where the annotations do not say."""
    ends = np.zeros(len(truth.videos))
    np.maximum.at(ends, truth.video, truth.segments[:, 1])
    return np.where(np.isnan(truth.durations), ends, truth.durations)


def draw_detections(truth: GroundTruth, count: int) -> Detections:
    """Detections of the annotated videos: half of them lie near an instance, most have a label of their video."""
    rng = RandomState(count % 2 ** 32)
    source = rng.randint(0, len(truth.video), count)
    video, label, segments = truth.video[source], truth.label[source], truth.segments[source]
    label = np.where(rng.rand(count) < 0.85, label, rng.randint(0, len(truth.labels), count))
    length = (segments[:, 1] - segments[:, 0]).clip(0.5)
    near = segments + rng.normal(0, 0.3, (count, 2)) * length[:, None]
    start = rng.rand(count) * known_durations(truth)[video]
    segments = np.where(rng.rand(count, 1) < 0.5, near, np.stack([start, start + length], axis=1))
    return Detections(truth.videos, truth.labels, video, label, np.sort(segments, axis=1), rng.rand(count))


def repeat_detections(detections: Detections, times: int) -> Detections:
    """`times` as many: each one again, a little moved and with a score of its own."""
    rng = RandomState(times)
    segments = np.tile(detections.segments, (times, 1))
    segments[len(detections.scores):] += rng.normal(0, 0.2, (len(segments) - len(detections.scores), 2))
    scores = np.tile(detections.scores, times) * rng.uniform(0.9, 1, len(segments))
    return detections._replace(video=np.tile(detections.video, times), label=np.tile(detections.label, times),
                               segments=np.sort(segments, axis=1), scores=scores)


def repeat_videos(truth: GroundTruth, detections: Detections, times: int) -> tuple[GroundTruth, Detections]:
    """`times` as many videos, each with the instances and the detections of one of the videos given."""
    def moved(values: np.ndarray, step: int) -> np.ndarray:
        return np.concatenate([values + i * step for i in range(times)])

    def tiled(*columns: np.ndarray) -> list[np.ndarray]:
        return [np.concatenate([column] * times) for column in columns]

    videos = [f'{name}_{i}' for i in range(times) for name in truth.videos]
    durations, labels, segments = tiled(truth.durations, truth.label, truth.segments)
    many = truth._replace(videos=videos, subsets=truth.subsets * times, durations=durations, label=labels,
                          segments=segments, video=moved(truth.video, len(truth.videos)))
    labels, segments, scores = tiled(detections.label, detections.segments, detections.scores)
    return many, Detections(videos, detections.labels, moved(detections.video, len(truth.videos)), labels, segments,
                            scores)


# ---- features -------------------------------------------------------------------------------------------------------

def smooth_noise(rng: RandomState, length: int, width: int) -> np.ndarray:
    """(length, width) of variance 1 that changes over about three snippets."""
    noise = rng.normal(size=(length + 4, width))
    return np.sum([noise[i:i + length] for i in range(5)], axis=0) / 5 ** 0.5


def class_curves(rng: RandomState, length: int, actions: list[tuple[int, float, float]], num_classes: int
                 ) -> np.ndarray:
    """How clearly each class shows, (length, C) in [0, 1], from a video's (class, start, end) in snippets."""
    curves = np.zeros((length, num_classes), np.float32)
    time = np.arange(length) + 0.5
    for label in {label for label, _, _ in actions}:
        inside = np.any([(time > start) & (time < end) for c, start, end in actions if c == label], axis=0)
        curves[:, label] = 1 / (1 + np.exp(1.5 - 3 * inside - 1.2 * smooth_noise(rng, length, 1)[:, 0]))
    return curves


def actions_of(truth: GroundTruth, video: int) -> list[tuple[int, float, float]]:
    rows = truth.video == video
    return [(label, *segment) for label, segment in zip(truth.label[rows].tolist(),
                                                        (truth.segments[rows] / SNIPPET_SECONDS).tolist())]


def build(folder: Path, write: Callable[[Path], None]) -> Path:
    """Have `write` fill `folder`, unless it is there already; it appears whole or not at all."""
    stamp = folder / 'version.txt'
    if stamp.is_file() and stamp.read_text() == VERSION:
        return folder
    print(f'writing {folder} (once)', flush=True)
    fresh = folder.with_name(f'.{folder.name}.{os.getpid()}')
    shutil.rmtree(folder, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        write(fresh)
        (fresh / 'version.txt').write_text(VERSION)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def write_annotations(folder: Path, truth: GroundTruth, splits: dict[str, list[str]]) -> None:
    """gt.json and the split lists; the subsets are those of the splits."""
    subset = {name: split for split, names in splits.items() for name in names}
    database = {name: {'subset': subset[name], 'duration': duration, 'annotations': []}
                for name, duration in zip(truth.videos, truth.durations.tolist()) if name in subset}
    for video, label, segment in zip(truth.video.tolist(), truth.label.tolist(), truth.segments.tolist()):
        if truth.videos[video] in database:
            row = {'label': truth.labels[label], 'segment': segment}
            database[truth.videos[video]]['annotations'].append(row)
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    for split, names in splits.items():
        (folder / f'split_{split}.txt').write_text(''.join(f'{name}\n' for name in names))


def thumos14(folder: Path, size: Size = THUMOS14, dtype: type = np.float32) -> Path:
    """Two streams of features for 200 training and 210 test videos, 1.1 GB in float32, and weights.pt."""
    def write(fresh: Path) -> None:
        truth, rng = thumos14_truth(size), RandomState(0)
        names = {split: np.array(truth.videos)[in_subset(truth, split)].tolist() for split in ('train', 'test')}
        write_annotations(fresh, truth, names)
        shape = size.num_classes, size.feature_dim
        prototypes = {stream: rng.rand(*shape) * (rng.rand(*shape) < 0.1)
                      for stream in ('rgb', 'flow')}
        for split in names:
            for stream in prototypes:
                (fresh / 'features' / split / stream).mkdir(parents=True)
        for split, videos in names.items():
            for name, video in zip(videos, match_videos(videos, truth.videos)):
                length = max(1, int(truth.durations[video] / SNIPPET_SECONDS))
                curves = class_curves(rng, length, actions_of(truth, video), size.num_classes)
                for stream, vectors in prototypes.items():
                    features = rng.rand(length, size.feature_dim) ** 2 * 0.3 + curves @ vectors
                    np.save(fresh / 'features' / split / stream / f'{name}.npy', features.astype(dtype))
        torch.save(matched_filter(prototypes, size), fresh / 'weights.pt')

    return build(folder, write)


def matched_filter(prototypes: dict[str, np.ndarray], size: Size) -> dict:
    """Weights under the released names: one hidden unit a class answers 1 where the class shows clearly."""
    torch.manual_seed(0)
    options = network_options(vars(size.arguments()))
    state = build_network(options, size.feature_dim, size.num_classes, torch.device('cpu')).state_dict()
    for value in state.values():
        value.mul_(0.02)
    classes = torch.arange(size.num_classes)
    for stream, patterns in prototypes.items():
        vectors = torch.from_numpy(patterns).float()
        filters = vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
        offset = 0.1 * filters.sum(dim=1)    # the mean of the noise is 0.1
        columns = slice(0, size.feature_dim) if stream == 'rgb' else slice(size.feature_dim, None)
        state['actionness_module.base_module.0.weight'][classes, columns, 1] += filters / 2
        state['actionness_module.base_module.0.bias'][classes] -= offset / 2
        state[f'actionness_module.action_module_{stream}.0.weight'][classes, :, 1] += filters
        state[f'actionness_module.action_module_{stream}.0.bias'][classes] -= offset
        state[f'actionness_module.cls_{stream}.weight'][0, classes, 0] += 5
        state[f'actionness_module.cls_{stream}.bias'] -= 3
    state['actionness_module.cls.0.weight'][classes, classes, 0] += 8
    return state


def activitynet(folder: Path, size: Size, mean_length: int = 180) -> Path:
    """Joint float16 features in the layout of ActivityNet 1.3: noise, because no number of it is looked at."""
    def write(fresh: Path) -> None:
        rng = RandomState(0)
        lengths = rng.randint(mean_length // 9, 2 * mean_length - mean_length // 9 + 1, size.num_train + size.num_test)
        truth = draw_truth(rng, lengths, size, 1.5)
        splits = {'train': truth.videos[:size.num_train], 'test': truth.videos[size.num_train:]}
        write_annotations(fresh, truth, splits)
        for split, names in splits.items():
            (fresh / split).mkdir()
            for name, length in zip(names, lengths[len(splits['train']) * (split == 'test'):]):
                features = rng.randint(0, 1000, (length, 2 * size.feature_dim), np.int16).astype(np.float16)
                np.save(fresh / split / f'{name}.npy', features * np.float16(0.001))

    return build(folder, write)


# ---- snippet scores -------------------------------------------------------------------------------------------------

def draw_selection(truth: GroundTruth, num_segments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What localization gets: selection scores (N, T, C) float32, class probabilities (N, C), lengths (N,)."""
    rng, num_videos, num_classes = RandomState(7), len(truth.videos), len(truth.labels)
    lengths = np.maximum(1, known_durations(truth) / SNIPPET_SECONDS).astype(int)
    selection = np.empty((num_videos, num_segments, num_classes), np.float32)
    probabilities = np.full((num_videos, num_classes), 0.001, np.float32)
    for video, length in enumerate(lengths.tolist()):
        actions = actions_of(truth, video)
        labels = list({label for label, _, _ in actions})
        probabilities[video, labels] = 0.97 / len(labels)
        curves = class_curves(rng, length, actions, num_classes)
        agnostic = curves.max(axis=1, keepdims=True)
        selection[video] = (curves / 3 + agnostic * 2 / 3)[uniform_indices(length, num_segments)]
    return selection, probabilities, lengths
