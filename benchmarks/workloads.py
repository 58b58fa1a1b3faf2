"""Synthetic data, batches and trainers of the published data sets' sizes, all from fixed seeds.

Lengths and annotations are the published ones in tests/golden, or for other sizes drawn from similar distributions.
Features are noise plus a pattern per class, and the weights are matched filters of these patterns, so that localization
has about as much to do as with the authors' weights.
"""
import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import RandomState

from config import parse_args
from dataset import Batch, uniform_indices
from engine.trainer import Trainer, TrainerOptions
from formats.annotations import GroundTruth, in_subset, read_ground_truth, select_videos
from formats.detections import Detections
from formats.videos import match_videos
from model import NetworkOptions, build_network
from utils import atomic_folder

GOLDEN = Path(__file__).resolve().parents[1] / 'tests' / 'golden'
SHARED = Path(__file__).resolve().parents[2] / 'shared' / 'data'  # a video to decode, where it exists
SNIPPET_SECONDS = 16 / 25
VERSION = '2'  # change it together with what is written: folders of other versions are written again


class Size(NamedTuple):
    """Size of a data set, and the flags of its runs."""

    dataset: str
    num_train: int
    num_test: int
    num_classes: int
    feature_dim: int
    num_detections: int = 300
    flags: tuple[str, ...] = ()  # besides the recipe

    def command(self) -> list[str]:
        """Return the flags of main.py for every run of this size."""
        return ['--dataset', self.dataset, *self.flags]

    def args(self, *flags: str) -> Namespace:
        """Return all arguments of such a run."""
        return parse_args([*self.command(), '--data_path', 'none', '--exp_name', 'benchmark', *flags])


THUMOS14 = Size('thumos14', 200, 210, 20, 1024, 36_195)  # detections: as in the authors' released file
ACTIVITYNET12 = Size('activitynet1.2', 4441, 2383, 100, 1024)
ACTIVITYNET = Size('activitynet1.3', 9032, 4427, 200, 1024, 300_000)  # videos: those with published I3D features


# ---- batches and trainers -------------------------------------------------------------------------------------------

def make_batch(size: Size, device: torch.device) -> Batch:
    """Return a batch of random features on the device, with one label per video."""
    args, generator = size.args(), torch.Generator().manual_seed(0)
    features = torch.rand(args.batch_size, args.num_segments, 2 * size.feature_dim, generator=generator)
    labels = F.one_hot(torch.arange(args.batch_size) % size.num_classes, size.num_classes).float()
    return Batch(features.to(device), labels.to(device), list(range(args.batch_size)), 1.)


def make_trainer(size: Size, device: torch.device, *flags: str) -> Trainer:
    """Return the trainer that main.py would build with these flags."""
    args = size.args(*flags)
    lengths = [args.num_segments] * args.batch_size
    return Trainer(TrainerOptions.from_args(args), size.feature_dim, size.num_classes, lengths, device)


# ---- annotations and detections -------------------------------------------------------------------------------------

def thumos14_gt(size: Size = THUMOS14) -> GroundTruth:
    """Return THUMOS14's annotations, or drawn ones: median length 252 and mean 339 snippets, 16 instances per video."""
    if size[:3] == THUMOS14[:3]:
        return read_ground_truth(GOLDEN / 'thumos14' / 'gt.json.gz')
    rng = RandomState(14)
    lengths = np.exp(rng.normal(np.log(252), 0.77, size.num_train + size.num_test)).clip(23, 2614).astype(int)
    return draw_gt(rng, lengths, size, 16)


def thumos14_test_gt(size: Size = THUMOS14) -> GroundTruth:
    """Return the annotations of the test videos alone."""
    gt = thumos14_gt(size)
    return select_videos(gt, in_subset(gt, 'testing'))


def activitynet_gt(size: Size = ACTIVITYNET) -> GroundTruth:
    """Return the annotations of ActivityNet 1.3's validation set, or drawn ones."""
    if size[:3] == ACTIVITYNET[:3]:
        return read_ground_truth(GOLDEN / 'activitynet1.3.json.gz')
    rng = RandomState(13)
    return draw_gt(rng, rng.randint(20, 340, size.num_test), size._replace(num_train=0), 1.5)


def draw_gt(rng: RandomState, lengths: np.ndarray, size: Size, per_video: float) -> GroundTruth:
    """Draw annotations: videos of one class each with `per_video` instances of 2 to 12 snippets on average."""
    counts = 1 + rng.poisson(per_video - 1, len(lengths))
    video = np.repeat(np.arange(len(lengths)), counts)
    start = rng.rand(len(video)) * (lengths[video] - 12)
    segments = np.stack([start, start + rng.uniform(2, 12, len(video))], axis=1) * SNIPPET_SECONDS
    subsets = ['training'] * size.num_train + ['testing'] * size.num_test
    return GroundTruth([f'video_{i:05}' for i in range(len(lengths))], subsets, lengths * SNIPPET_SECONDS,
                       [f'class_{c:03}' for c in range(size.num_classes)], video,
                       (np.arange(len(lengths)) % size.num_classes)[video], segments)


def known_durations(gt: GroundTruth) -> np.ndarray:
    """Return the seconds of each video, (V,); where unknown, the end of its last instance."""
    ends = np.zeros(len(gt.videos))
    np.maximum.at(ends, gt.video, gt.segments[:, 1])
    return np.where(np.isnan(gt.durations), ends, gt.durations)


def draw_detections(gt: GroundTruth, count: int) -> Detections:
    """Draw detections of the annotated videos: half of them near an instance, most with a label of their video."""
    rng = RandomState(count % 2 ** 32)
    source = rng.randint(0, len(gt.video), count)
    video, label, segments = gt.video[source], gt.label[source], gt.segments[source]
    label = np.where(rng.rand(count) < 0.85, label, rng.randint(0, len(gt.labels), count))
    length = (segments[:, 1] - segments[:, 0]).clip(0.5)
    near = segments + rng.normal(0, 0.3, (count, 2)) * length[:, None]
    start = rng.rand(count) * known_durations(gt)[video]
    segments = np.where(rng.rand(count, 1) < 0.5, near, np.stack([start, start + length], axis=1))
    return Detections(gt.videos, gt.labels, video, label, np.sort(segments, axis=1), rng.rand(count))


def repeat_videos(gt: GroundTruth, detections: Detections, times: int) -> tuple[GroundTruth, Detections]:
    """Return `times` as many videos, each with the instances and the detections of one of the given videos."""
    offsets = len(gt.videos) * np.arange(times)[:, None]
    videos = [f'{name}_{i}' for i in range(times) for name in gt.videos]
    durations, label, segments = (np.concatenate([column] * times) for column in (gt.durations, gt.label, gt.segments))
    repeated = gt._replace(videos=videos, subsets=gt.subsets * times, durations=durations, label=label,
                           segments=segments, video=(gt.video + offsets).ravel())
    label, segments, scores = (np.concatenate([column] * times) for column in detections[3:6])
    return repeated, Detections(videos, detections.labels, (detections.video + offsets).ravel(), label, segments,
                                scores)


# ---- features -------------------------------------------------------------------------------------------------------

def class_curves(rng: RandomState, length: int, actions: list[tuple[int, float, float]], num_classes: int
                 ) -> np.ndarray:
    """Draw how visible each class is, (length, C) in [0, 1], from a video's (class, start, end) in snippets."""
    curves = np.zeros((length, num_classes), np.float32)
    time = np.arange(length) + 0.5
    for label in {label for label, _, _ in actions}:
        inside = np.any([(time > start) & (time < end) for c, start, end in actions if c == label], axis=0)
        noise = np.convolve(rng.normal(size=length + 4), np.ones(5) / 5 ** 0.5, 'valid')  # changes within 3 snippets
        curves[:, label] = 1 / (1 + np.exp(1.5 - 3 * inside - 1.2 * noise))
    return curves


def actions_of(gt: GroundTruth, video: int) -> list[tuple[int, float, float]]:
    """Return (class, start, end) of a video's instances, in snippets."""
    rows = gt.video == video
    return [(label, *segment) for label, segment in zip(gt.label[rows].tolist(),
                                                        (gt.segments[rows] / SNIPPET_SECONDS).tolist())]


def build(folder: Path, size: Size, write: Callable[[Path], None]) -> Path:
    """Return the folder, filled by `write` unless it is from an earlier call with the same size."""
    stamp = f'{VERSION} {size}'
    if not (folder / 'version.txt').is_file() or (folder / 'version.txt').read_text() != stamp:
        with atomic_folder(folder) as new:
            write(new)
            (new / 'version.txt').write_text(stamp)
    return folder


def write_annotations(folder: Path, gt: GroundTruth, splits: dict[str, list[str]]) -> None:
    """Write gt.json and the split lists; the subsets are the splits."""
    subset = {name: split for split, names in splits.items() for name in names}
    database = {name: {'subset': subset[name], 'duration': duration, 'annotations': []}
                for name, duration in zip(gt.videos, gt.durations.tolist()) if name in subset}
    for video, label, segment in zip(gt.video.tolist(), gt.label.tolist(), gt.segments.tolist()):
        if gt.videos[video] in database:
            database[gt.videos[video]]['annotations'].append({'label': gt.labels[label], 'segment': segment})
    (folder / 'gt.json').write_text(json.dumps({'database': database}))
    for split, names in splits.items():
        (folder / f'split_{split}.txt').write_text(''.join(f'{name}\n' for name in names))


def write_thumos14(folder: Path, size: Size = THUMOS14, dtype: type = np.float32) -> Path:
    """Write two-stream features for 200 training and 210 test videos (1.1 GB in float32) and weights.pt."""
    def write(new: Path) -> None:
        gt, rng = thumos14_gt(size), RandomState(0)
        splits = {split: np.array(gt.videos)[in_subset(gt, split)].tolist() for split in ('train', 'test')}
        write_annotations(new, gt, splits)
        shape = size.num_classes, size.feature_dim
        patterns = {stream: rng.rand(*shape) * (rng.rand(*shape) < 0.1) for stream in ('rgb', 'flow')}
        for split, names in splits.items():
            for stream in patterns:
                (new / 'features' / split / stream).mkdir(parents=True)
            for name, video in zip(names, match_videos(names, gt.videos)):
                length = max(1, int(gt.durations[video] / SNIPPET_SECONDS))
                curves = class_curves(rng, length, actions_of(gt, video), size.num_classes)
                for stream, vectors in patterns.items():
                    features = rng.rand(length, size.feature_dim) ** 2 * 0.3 + curves @ vectors
                    np.save(new / 'features' / split / stream / f'{name}.npy', features.astype(dtype))
        torch.save(matched_filter(patterns, size), new / 'weights.pt')

    return build(folder, size, write)


def matched_filter(patterns: dict[str, np.ndarray], size: Size) -> dict:
    """Return weights under the released names: one hidden unit per class is 1 where the class is clearly visible."""
    torch.manual_seed(0)
    options = NetworkOptions.from_args(size.args())
    state = build_network(options, size.feature_dim, size.num_classes, torch.device('cpu')).state_dict()
    for value in state.values():
        value.mul_(0.02)
    classes = torch.arange(size.num_classes)
    for stream, pattern in patterns.items():
        vectors = torch.from_numpy(pattern).float()
        filters = vectors / vectors.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
        offset = 0.1 * filters.sum(dim=1)  # the mean of the noise is 0.1
        columns = slice(0, size.feature_dim) if stream == 'rgb' else slice(size.feature_dim, None)
        state['actionness_module.base_module.0.weight'][classes, columns, 1] += filters / 2
        state['actionness_module.base_module.0.bias'][classes] -= offset / 2
        state[f'actionness_module.action_module_{stream}.0.weight'][classes, :, 1] += filters
        state[f'actionness_module.action_module_{stream}.0.bias'][classes] -= offset
        state[f'actionness_module.cls_{stream}.weight'][0, classes, 0] += 5
        state[f'actionness_module.cls_{stream}.bias'] -= 3
    state['actionness_module.cls.0.weight'][classes, classes, 0] += 8
    return state


def write_activitynet(folder: Path, size: Size, mean_length: int = 180) -> Path:
    """Write joint float16 features in the layout of ActivityNet 1.3: noise, for memory and time only."""
    def write(new: Path) -> None:
        rng = RandomState(0)
        lengths = rng.randint(mean_length // 9, 2 * mean_length - mean_length // 9 + 1, size.num_train + size.num_test)
        gt = draw_gt(rng, lengths, size, 1.5)
        splits = {'train': gt.videos[:size.num_train], 'test': gt.videos[size.num_train:]}
        write_annotations(new, gt, splits)
        for split, names in splits.items():
            (new / split).mkdir()
            for name, length in zip(names, lengths[size.num_train * (split == 'test'):]):
                features = rng.randint(0, 1000, (length, 2 * size.feature_dim), np.int16).astype(np.float16)
                np.save(new / split / f'{name}.npy', features * np.float16(0.001))

    return build(folder, size, write)


# ---- snippet scores -------------------------------------------------------------------------------------------------

def draw_selection(gt: GroundTruth, num_segments: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the input of localization: A_score (N, T, C) float32, class probabilities (N, C), lengths (N,)."""
    rng, num_videos, num_classes = RandomState(7), len(gt.videos), len(gt.labels)
    lengths = np.maximum(1, known_durations(gt) / SNIPPET_SECONDS).astype(int)
    selection = np.empty((num_videos, num_segments, num_classes), np.float32)
    probabilities = np.full((num_videos, num_classes), 0.001, np.float32)
    for video, length in enumerate(lengths.tolist()):
        actions = actions_of(gt, video)
        labels = list({label for label, _, _ in actions})
        probabilities[video, labels] = 0.97 / len(labels)
        curves = class_curves(rng, length, actions, num_classes)
        agnostic = curves.max(axis=1, keepdims=True)
        selection[video] = (curves / 3 + agnostic * 2 / 3)[uniform_indices(length, num_segments)]
    return selection, probabilities, lengths
