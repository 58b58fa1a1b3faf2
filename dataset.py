"""Features and annotations from disk, sampling to T snippets, batches.

    python dataset.py DIR [--dataset NAME] [--deep]     checks a data folder before anyone trains on it
"""
import argparse
import math
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, get_worker_info
from tqdm import tqdm

from data_folder import (Split, Summary, TimeBase, find_split, has_test_videos, missing_annotations, no_annotations,
                         noted, read_annotations)
from eval.files import GroundTruth
from features import MAX_UNEVEN_ROWS
from settings import LAYOUTS, MODALITIES
from utils import InputError, Parser, first_few, number, number_of, print_block, run_command, shorten, warn

SHARE = {'device': 0.6, 'ram': 0.7}    # of the free memory that `auto` gives to features; the rest is for the network
STOP_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP    # they end a run


class Batch(NamedTuple):
    """N videos sampled to T snippets: this process's share of a batch."""
    features: Tensor    # (N, T, M D), float32
    labels: Tensor      # (N, C) multi-hot, float32
    videos: list[int]   # N indices into the data set
    weight: float       # share of the whole batch's videos that these are; 1 where one process takes them all


# ---- sampling -------------------------------------------------------------------------------------------------------

def uniform_rows(lengths: ArrayLike, num_segments: int) -> np.ndarray:
    """The first row of each of T equal cells of videos of L rows: (..., T) int64, the reference's test sampling."""
    length = np.asarray(lengths)[..., None]
    return (np.arange(num_segments) * length / num_segments).astype(np.int64)


def random_rows(lengths: ArrayLike, num_segments: int, rng: np.random.RandomState) -> np.ndarray:
    """One random row of each of T equal cells of videos of L rows: (..., T), the reference's training sampling.

    Draws video by video what the reference draws one by one with `choice`: nothing for L == T or a cell of one row.
    """
    length = np.asarray(lengths)[..., None]
    rows = uniform_rows(lengths, num_segments)
    last = np.append(rows[..., 1:], length - 1, axis=-1)    # quirk: both ends are included, so neighbours share one
    return rng.randint(rows, np.where(length == num_segments, rows, last) + 1)


@dataclass(frozen=True)
class Share:
    """Which part of every batch a process takes: of `count` processes number `rank`, from 0, every count-th video."""
    rank: int = 0
    count: int = 1


class Draw(NamedTuple):
    """What a process samples of one batch: n videos, the rows of each, and its share of the batch's videos."""
    videos: list[int]
    rows: np.ndarray    # (n, T) int64
    weight: float


def take_share(videos: list[int], rows: np.ndarray, share: Share) -> Draw:
    """A process's share of a batch. Where there are too few videos it takes part with the first one, at weight 0."""
    own = slice(share.rank, None, share.count)
    weight = len(videos[own]) / len(videos)
    if not weight:    # every process takes every step, or the others would wait for it for ever
        own = slice(0, 1)
    return Draw(videos[own], rows[own], weight)


class UniformSampler:
    """Draws of the videos in their order with uniform rows, as a test samples them."""

    def __init__(self, lengths: list[int], num_segments: int, batch_size: int, share: Share = Share()):
        self.lengths, self.num_segments, self.share = np.array(lengths), num_segments, share
        self.batches = BatchSampler(SequentialSampler(lengths), batch_size, drop_last=False)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Draw]:
        for videos in self.batches:
            rows = uniform_rows(self.lengths[videos], self.num_segments)
            yield take_share(videos, rows, self.share)


class ShuffledSampler:
    """Draws of the videos in an order from torch's global generator with random rows from `rng`, as training samples.

    Everything random is drawn here, in the main process and in the order of the batches, so that neither the number of
    workers nor that of processes changes a run: each process draws all and takes its share of every batch.
    """

    def __init__(self, lengths: list[int], num_segments: int, batch_size: int, drop_last: bool,
                 rng: np.random.RandomState, share: Share = Share()):
        self.lengths, self.num_segments, self.rng, self.share = np.array(lengths), num_segments, rng, share
        self.batches = BatchSampler(RandomSampler(lengths), batch_size, drop_last)
        self.left_out = 0

    def __len__(self) -> int:
        return len(self.batches)

    def leave_out(self, num_batches: int) -> None:
        """Let the next epoch, and that one alone, draw its first batches without giving them."""
        self.left_out = num_batches

    def __iter__(self) -> Iterator[Draw]:
        left_out, self.left_out = self.left_out, 0
        for place, videos in enumerate(self.batches):
            rows = random_rows(self.lengths[videos], self.num_segments, self.rng)
            if place >= left_out:
                yield take_share(videos, rows, self.share)


# ---- the data set ---------------------------------------------------------------------------------------------------

def free_memory() -> float:
    """Bytes of memory that this process may still take: what the machine has free, or its control group."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = [1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
        groups = [line.split(':', 2) for line in Path('/proc/self/cgroup').read_text().splitlines()]
    except OSError:    # not Linux
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2
    for _, controllers, group in groups:
        if not controllers:
            root, limit, usage = '/sys/fs/cgroup', 'memory.max', 'memory.current'
        elif 'memory' in controllers.split(','):
            root, limit, usage = '/sys/fs/cgroup/memory', 'memory.limit_in_bytes', 'memory.usage_in_bytes'
        else:
            continue
        own = Path(root + group)
        for folder in (own, *own.parents):
            try:
                stat = dict(line.split() for line in (folder / 'memory.stat').read_text().splitlines())
                used = int((folder / usage).read_text()) - int(stat['inactive_file'])    # page cache gives way
                free.append(int((folder / limit).read_text()) - used)
            except (OSError, KeyError, ValueError):    # above the root, or 'max'
                continue
    return max(0, min(free)) / int(os.environ.get('LOCAL_WORLD_SIZE', 1))    # each process of a machine keeps its own


def choose_cache(cache: str, num_bytes: int, device: torch.device) -> str:
    """Where `num_bytes` of features are kept: 'device', 'ram' or 'none'; 'auto' takes the first that fits.

    Raises InputError where a choice of the user cannot hold them.
    """
    free = {'device': torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else 0, 'ram': free_memory()}
    if cache == 'auto':
        return next((place for place in free if num_bytes <= SHARE[place] * free[place]), 'none')
    if cache == 'device' and device.type != 'cuda':
        cache = 'ram'    # the memory of this device
    if num_bytes > free.get(cache, num_bytes):
        raise InputError(f'--cache {cache}: the features take {num_bytes / 1e9:.1f} GB, but {free[cache] / 1e9:.1f} GB '
                         f'are free; use --cache auto or none')
    return cache


class VideoDataset(Dataset):
    """The videos of one split, their features and their multi-hot labels.

    names: V, spelled as in the annotations where these know them; lengths: V; class_names: C; labels: (V, C);
    durations: (V,) seconds, NaN where unknown;
    cache: 'ram' or 'device' where all rows are kept in one table in memory, 'none' where they are read when sampled.
    `__getitems__` takes a Draw of a sampler and gives a Batch, the same whatever the cache.
    """

    def __init__(self, split: Split, cache: str, device: torch.device = torch.device('cpu')):
        self.split = split.require()
        self.warn_of_left_out()
        self.class_names, self.durations = self.split.class_names, self.split.durations
        self.names, self.files, self.labels = self.split.names, self.split.files, torch.from_numpy(self.split.labels)
        self.layout, self.folder = self.split.folder.layout, self.split.folder.path
        self.lengths = [file.length for file in self.files]
        self.feature_dim = self.files[0].width
        self.num_features = self.split.shape[1]
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])    # where each video begins in the table
        self.cache = choose_cache(cache, self.split.shape[0] * self.num_features * self.split.dtype.itemsize, device)
        self.table = None if self.cache == 'none' else self.load(device)

    def warn_of_left_out(self) -> None:
        """Say which videos the split goes without, and which files were cut to fit."""
        found = self.split
        left_out = [(found.without_features, 'have no features')]
        if found.name == 'train':
            left_out.append((found.without_annotation, 'have no annotation in gt.json'))
        for names, what in left_out:
            if names:
                warn(f'{found.folder.path}: {len(names)} of the {len(found.members.names)} {found.name} videos by '
                     f'{found.members.source} {what} and are left out: {first_few(names)}')
        if found.uneven:
            warn(f'{found.folder.path}: {number_of(len(found.uneven), "video")} with 1 or {MAX_UNEVEN_ROWS} rows more '
                 f'of one modality than of the other, cut to the shorter: {first_few(found.uneven)}')

    def load(self, device: torch.device) -> Tensor:
        """Read every feature once, video by video: (sum L, M D), in memory or on `device`."""
        shape, dtype, on_device = self.split.shape, self.split.dtype, self.cache == 'device'
        stage = allocate((max(self.lengths), self.num_features), dtype)    # where a video waits for its way to a GPU
        table = torch.empty(shape, dtype=stage.dtype, device=device) if on_device else allocate(shape, dtype)
        videos = tqdm(self.files, desc=f'reading {self.split.name} features', unit='video', leave=False, delay=1)
        for file, start in zip(videos, self.offsets):
            rows = table[start:start + file.length]
            part = stage[:file.length] if on_device else rows
            file.read(slice(None), part.numpy())
            if on_device:
                rows.copy_(part)
        return table

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, draw: Draw) -> Batch | InputError:
        try:
            return Batch(self.sample(draw), self.labels[draw.videos], draw.videos, draw.weight)
        except InputError as error:
            if get_worker_info() is None:
                raise
            return error    # raised in a worker it would arrive wrapped in a traceback; the Loader raises it

    def sample(self, draw: Draw) -> Tensor:
        """The drawn rows: (N, T, M D) float32, on the device where the table is there."""
        shape, table = (*draw.rows.shape, self.num_features), self.table
        if table is None:
            features = allocate(shape, np.dtype(np.float32))
            for video, wanted, out in zip(draw.videos, draw.rows, features.numpy()):
                self.files[video].read(wanted, out)
            return features
        rows = torch.from_numpy((self.offsets[draw.videos][:, None] + draw.rows).ravel())
        if table.is_cuda:
            rows = rows.pin_memory().to(table.device, non_blocking=True)    # pinned: nothing waits for the copy
            return table.index_select(0, rows).float().view(shape)
        picked = allocate((len(rows), self.num_features), table.numpy().dtype)
        torch.index_select(table, 0, rows, out=picked)
        if picked.dtype != torch.float32:
            picked = allocate(picked.shape, np.dtype(np.float32)).copy_(picked)
        return picked.view(shape)

    def summary(self, feature_fps: float = 25, snippet_frames: float = 16) -> Summary:
        return self.split.summary(feature_fps, snippet_frames)

    def time_base(self, feature_fps: float = 25, snippet_frames: float = 16) -> TimeBase | None:
        return self.split.time_base(feature_fps, snippet_frames)


def free_shared_memory() -> float:
    """Bytes through which workers may still hand over batches."""
    try:
        disk = os.statvfs('/dev/shm')
    except OSError:    # not Linux
        return math.inf
    return disk.f_bavail * disk.f_frsize / int(os.environ.get('LOCAL_WORLD_SIZE', 1))


def check_batches(datasets: list[VideoDataset], num_segments: int, batch_size: int, num_workers: int,
                  share: Share) -> None:
    """Raises InputError where a batch, or all batches that workers hold ready, cannot fit in memory.

    Warns where there are more workers than processors.
    """
    sizes = [4 * num_segments * videos.num_features * min(-(-batch_size // share.count), len(videos))
             for videos in datasets]
    free = free_memory()
    if 2 * max(sizes) > free:
        raise InputError(f'--num_segments {num_segments}: a batch of features takes {max(sizes) / 1e9:.1f} GB and as '
                         f'much again in the network, but {free / 1e9:.1f} GB are free; lower it or --batch_size')
    # A worker has two batches ready; one more is in use.
    handed_over = sum(size for size, videos in zip(sizes, datasets) if videos.table is None or not videos.table.is_cuda)
    needed, free = (2 * num_workers + 1) * handed_over, free_shared_memory()
    if num_workers and needed > free:
        raise InputError(f'--num_workers {num_workers}: their batches take {needed / 1e6:.0f} MB of shared memory, but '
                         f'/dev/shm has {free / 1e6:.0f} MB free; use --num_workers 0, or give more (docker run '
                         f'--shm-size)')
    processors = len(os.sched_getaffinity(0))
    if handed_over and num_workers > processors:
        warn(f'--num_workers {num_workers}: {number_of(processors, "processor")} may be used here; more readers '
             f'help only where the disk is slow to answer')


def allocate(shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    """Uninitialised memory from numpy, which asks for huge pages: to touch 100 MB first takes 10 ms, not 100."""
    return torch.from_numpy(np.empty(shape, dtype))


def loader(dataset: VideoDataset, sampler: UniformSampler | ShuffledSampler, num_workers: int = 0,
           pin_memory: bool = False) -> Iterator[Batch]:
    """Batches of `dataset` as `sampler` orders them; from a table on a GPU they come without workers or pinning.

    To begin with, one number is drawn from torch's global generator, as a DataLoader does.
    """
    if dataset.table is not None and dataset.table.is_cuda:
        num_workers, pin_memory = 0, False
    draws: Any = sampler    # DataLoader expects lists of indices, and passes on what it gets
    try:
        # A signal to all processes, as from Slurm or `timeout`, is the main one's alone.
        with signals_held_back(), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'This DataLoader will create')    # of many workers: `check_batches` tells
            batches = iter(DataLoader(dataset, batch_sampler=draws, num_workers=num_workers, pin_memory=pin_memory,
                                      collate_fn=as_it_is, worker_init_fn=obey_the_main_process))
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except (ConnectionError, EOFError, FileNotFoundError) as error:    # between this process and a worker
        raise lost_worker(error) from None


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Here the signals that end a run wait; processes that start here are never reached by them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_the_main_process(worker: int) -> None:
    """In a worker, even while a read hangs: end where the main process says so, or at a second SIGINT."""
    main_process = multiprocessing.parent_process()

    def listen() -> None:
        interrupts = 0
        while True:
            received = signal.sigwaitinfo(STOP_SIGNALS)
            interrupts += received.si_signo == signal.SIGINT
            if main_process and received.si_pid == main_process.pid or interrupts == 2:
                os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)    # where it is not a fork, which has them blocked
    threading.Thread(target=listen, daemon=True).start()


def has_lost_worker(error: RuntimeError) -> bool:
    """Whether a worker's end gave this error, which torch raises wherever this process is just then."""
    return 'DataLoader worker (pid' in str(error) or '</torch_' in str(error)


def lost_worker(error: Exception) -> InputError:
    reason = shorten(str(error).splitlines()[-1] if str(error) else type(error).__name__, 150)
    return InputError(f'a process that reads features (--num_workers) has ended ({reason}): it was killed, or memory '
                      f'or shared memory ran out; use fewer, and where a training runs go on with the same command and '
                      f'--resume')


def as_it_is(batch: Any) -> Any:
    return batch


# ---- python dataset.py ----------------------------------------------------------------------------------------------

MAX_LINES = 50    # of problems that are printed
WIDTH = 11        # of the titles


class Findings(NamedTuple):
    """What a check has to say."""
    problems: list[str]    # training would stop at these
    cautions: list[str]    # it would not, but may give wrong results


def describe_features(split: Split) -> list[str]:
    """Where the features of a split lie and what they look like."""
    lengths = np.array([file.length for file in split.files])
    kinds = Counter(str(file.dtype) for file in split.files)
    widths = sorted({file.width for file in split.files})
    size = np.prod(split.shape) * split.dtype.itemsize / 1e9
    return [f'{split.folder.path} ({split.folder.layout}): {number_of(len(split.files), "video")}, '
            f'{" or ".join(map(str, widths))} features a modality, {", ".join(kinds)}, {size:.2f} GB in memory',
            f'{lengths.sum()} snippets; a video has {lengths.min()} to {lengths.max()}, median {np.median(lengths):g}, '
            f'mean {lengths.mean():.1f}', *filter(None, [split.folder.guess()])]


def read_all(split: Split, problems: list[str]) -> list[str]:
    """Read every feature, one video at a time; NaN and infinity are noted, the range is told."""
    ranges, empty = [], []
    videos = tqdm(split.names, desc=f'reading {split.name} features', unit='video', leave=False, delay=1)
    for video, file in zip(videos, split.files):
        rows = np.empty((file.length, file.width * len(split.folder.modalities)), np.float32)
        with noted(problems):
            file.read(slice(None), rows)
            ranges.append((rows.min(), rows.max()))
            if not rows.any():
                empty.append(video)
    lines = [f'{number_of(len(empty), "video")} with nothing but zeros: {first_few(empty)}'] if empty else []
    if ranges:
        lines.append(f'features from {min(low for low, _ in ranges):.4g} to {max(high for _, high in ranges):.4g}')
    return lines


def check_annotations(root: Path, found: Findings) -> GroundTruth:
    """Read and describe the annotations; none where they cannot be read."""
    truth = no_annotations()
    with noted(found.problems):
        truth = read_annotations(root)
        if not truth.labels:
            raise missing_annotations(root)
        subsets = ', '.join(f'{n} {name or "without"}' for name, n in Counter(truth.subsets).items())
        tags = f', {number_of(len(truth.tag_video), "label")} without a time' if len(truth.tag_video) else ''
        print_block('gt.json' if (root / 'gt.json').exists() else 'labels.csv',
                    [f'{len(truth.labels)} classes, {len(truth.videos)} videos ({subsets}), '
                     f'{len(truth.video)} instances{tags}'], WIDTH)
    return truth


def check_split(split: Split, args: argparse.Namespace, found: Findings) -> None:
    """Describe a split, and note what is wrong with it."""
    found.problems.extend(split.problems)
    lines = split.summary(args.feature_fps, args.snippet_frames).lines()
    if split.files:
        lines += describe_features(split)
    if time_base := split.time_base(args.feature_fps, args.snippet_frames):
        lines.append(f'the videos last {time_base.ratio:.3f} times as long as their features '
                     f'({args.snippet_frames / args.feature_fps:g} s a snippet, median of {time_base.num_videos})')
        if time_base.is_off:
            found.cautions.append(f'{split.name}: {time_base.advice()}')
    if args.deep and split.files:
        lines += read_all(split, found.problems)
    print_block(split.name, lines, WIDTH)


def check_pair(root: Path, train: Split, test: Split, found: Findings) -> None:
    """Note what does not fit between training and test videos."""
    if train.files[0].width != test.files[0].width:
        found.problems.append(f'{root}: training features are {train.files[0].width} wide a modality, '
                              f'test features {test.files[0].width}')
    if both := sorted(set(train.names) & set(test.names)):
        found.cautions.append(f'both in training and in test: {number_of(len(both), "video")}: {first_few(both)}')


def check_counts(truth: GroundTruth, splits: dict[str, Split], expected: list[int] | None, found: Findings) -> None:
    """Note classes that nobody can learn, and numbers that are not those expected."""
    counts = [len(truth.labels), *(len(splits[name].names) if name in splits else 0 for name in ('train', 'test'))]
    if 'train' in splits:
        seen = splits['train'].labels.sum(axis=0)
        if unseen := [label for label, count in zip(truth.labels, seen) if not count]:
            found.cautions.append(f'{len(unseen)} of {len(truth.labels)} classes without training video: '
                                  f'{first_few(unseen)}')
    if expected and counts != expected:
        found.cautions.append('expected: {} classes, {} training and {} test videos; this folder: {}, {} and {}'
                              .format(*expected, *counts))


def check(args: argparse.Namespace) -> int:
    """Print what a data folder holds and all that training would stop at; 1 if there is something, else 0."""
    root, found = Path(args.data_path), Findings([], [])
    truth = check_annotations(root, found)
    splits: dict[str, Split] = {}
    for name in ('train', 'test'):
        if name == 'test' and not has_test_videos(root, truth):
            print_block(name, ['no test videos: those of the training will be localized, and nothing scored'], WIDTH)
            continue
        split = find_split(root, name, truth, truth.labels, MODALITIES[args.modal], args.layout)
        check_split(split, args, found)
        if split.files:
            splits[name] = split
    if len(splits) == 2:
        check_pair(root, splits['train'], splits['test'], found)
    check_counts(truth, splits, args.expect, found)
    return tell(found)


def tell(found: Findings) -> int:
    """Print the findings; 1 if training would stop at one of them, else 0."""
    problems, cautions = found
    print_block('', [f'warning: {caution}' for caution in cautions], WIDTH)
    print_block('', [f'problem: {problem}' for problem in problems[:MAX_LINES]], WIDTH)
    if len(problems) > MAX_LINES:
        print_block('', [f'and {number_of(len(problems) - MAX_LINES, "problem")} more'], WIDTH)
    if problems:
        print(f'{number_of(len(problems), "problem")}: training would fail')
    elif cautions:
        print(f'ready to train, but see {number_of(len(cautions), "warning")} above')
    else:
        print('fine: ready to train')
    return 1 if problems else 0


def main(argv: list[str] | None = None) -> int:
    """The check; exit status 0 if it is fine, 1 if training would fail, 2 for bad usage."""
    parser = Parser(prog='python dataset.py', description='Check a data folder before training.', allow_abbrev=False)
    positive = number(float, 1e-9)
    parser.add_argument('data_path', metavar='DIR', help='folder of features, gt.json or labels.csv, split files')
    parser.add_argument('--expect', type=number(int, 0), nargs=3, metavar=('CLASSES', 'TRAIN', 'TEST'),
                        help='warn where the numbers of classes, training and test videos are others')
    parser.add_argument('--feature_fps', type=positive, default=25., help='frames a second of the extracted features')
    parser.add_argument('--snippet_frames', type=positive, default=16., help='frames a feature row')
    parser.add_argument('--modal', choices=MODALITIES, default='all', help='feature streams to use')
    parser.add_argument('--layout', choices=LAYOUTS, default='auto', help='of the feature files')
    parser.add_argument('--deep', action='store_true', help='read every feature and look for NaN and infinity')
    args = parser.parse_args(argv)
    if not os.path.isdir(args.data_path):    # False for a name that is too long as well
        parser.error(f'{args.data_path}: not a folder')
    return run_command(lambda: check(args))


if __name__ == '__main__':
    sys.exit(main())
