"""Sampling of videos to T snippets, batches, and the loader.

    train_set = build_dataset(DataOptions.from_args(args), 'train', gt, gt.labels, cache='ram')
    sampler = ShuffledSampler(train_set.lengths, 750, 16, drop_last=False, rng=np.random.RandomState(1))
    for batch in make_loader(train_set, sampler):    # Batch
"""
import argparse
import io
import multiprocessing
import os
import signal
import threading
import warnings
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

from config import MODALITIES
from formats.annotations import GroundTruth
from formats.data_folder import Split, find_split
from formats.features import MAX_LENGTH_MISMATCH
from utils import InputError, open_file, plural, preview, progress, truncate, warn, write_bytes

STOP_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGHUP  # they end a run
MEMORY_FRACTION = {'device': 0.6, 'ram': 0.7}  # of the free memory that --cache auto gives to features


class Batch(NamedTuple):
    """N videos sampled to T snippets: this process's shard of a batch."""

    features: Tensor        # (N, T, M D), float32
    labels: Tensor          # (N, C) multi-hot, float32
    videos: list[int] = []  # N indices into the data set
    weight: float = 1.      # fraction of the whole batch's videos that these are


# ---- sampling -------------------------------------------------------------------------------------------------------

def uniform_indices(lengths: ArrayLike, num_segments: int) -> np.ndarray:
    """Return the first row of each of T equal cells of videos with L rows: (..., T) int64 (the reference's test)."""
    length = np.asarray(lengths)[..., None]
    return (np.arange(num_segments) * length / num_segments).astype(np.int64)


def random_indices(lengths: ArrayLike, num_segments: int, rng: np.random.RandomState) -> np.ndarray:
    """Draw one row of each of T equal cells for videos of L rows: (..., T). The reference's training sampling.

    The stream of random numbers is that of the reference, which calls `choice` cell by cell: nothing is drawn for
    L == T or for a cell of one row.
    """
    length = np.asarray(lengths)[..., None]
    first = uniform_indices(lengths, num_segments)
    last = np.append(first[..., 1:], length - 1, axis=-1)  # quirk: both ends are included, so cells share one
    return rng.randint(first, np.where(length == num_segments, first, last) + 1)


@dataclass(frozen=True)
class Shard:
    """Which videos of every batch a process takes: those from `rank` on, in steps of `count`."""

    rank: int = 0
    count: int = 1


class BatchIndices(NamedTuple):
    """What a process samples for one batch: n videos and the rows of each."""

    videos: list[int]
    rows: np.ndarray  # (n, T) int64
    weight: float     # fraction of the batch's videos


def shard_batch(videos: list[int], rows: np.ndarray, shard: Shard) -> BatchIndices:
    """Return this rank's shard of a batch.

    A rank without videos computes the first one with weight 0, so that all ranks take part in every step.
    """
    own = slice(shard.rank, None, shard.count)
    weight = len(videos[own]) / len(videos)
    if not weight:
        own = slice(0, 1)
    return BatchIndices(videos[own], rows[own], weight)


class UniformSampler:
    """Batches of the videos in order with uniform rows, for testing."""

    def __init__(self, lengths: list[int], num_segments: int, batch_size: int, shard: Shard = Shard()):
        self.lengths, self.num_segments, self.shard = np.array(lengths), num_segments, shard
        self.batches = BatchSampler(SequentialSampler(lengths), batch_size, drop_last=False)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[BatchIndices]:
        for videos in self.batches:
            rows = uniform_indices(self.lengths[videos], self.num_segments)
            yield shard_batch(videos, rows, self.shard)


class ShuffledSampler:
    """Batches in an order from torch's global generator with random rows from `rng`, for training.

    Everything random is drawn here, in the main process and in the order of the batches, so that neither the number of
    workers nor that of processes changes a run: each process draws all batches and takes its shard of every one.
    """

    def __init__(self, lengths: list[int], num_segments: int, batch_size: int, drop_last: bool,
                 rng: np.random.RandomState, shard: Shard = Shard()):
        self.lengths, self.num_segments, self.rng, self.shard = np.array(lengths), num_segments, rng, shard
        self.batches = BatchSampler(RandomSampler(lengths), batch_size, drop_last)
        self.num_skipped = 0

    def __len__(self) -> int:
        return len(self.batches)

    def skip_batches(self, num_batches: int) -> None:
        """Draw the first batches of the next epoch without yielding them."""
        self.num_skipped = num_batches

    def __iter__(self) -> Iterator[BatchIndices]:
        num_skipped, self.num_skipped = self.num_skipped, 0
        for i, videos in enumerate(self.batches):
            rows = random_indices(self.lengths[videos], self.num_segments, self.rng)
            if i >= num_skipped:
                yield shard_batch(videos, rows, self.shard)


# ---- memory ------------------------------------------------------------------------------------------------------

def free_memory() -> float:
    """Return the bytes of memory available to this process: of the machine, or of its control group."""
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        free = [1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable:')]
        groups = [line.split(':', 2) for line in Path('/proc/self/cgroup').read_text().splitlines()]
    except OSError:  # not Linux
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
                used = int((folder / usage).read_text()) - int(stat['inactive_file'])  # the page cache can be freed
                free.append(int((folder / limit).read_text()) - used)
            except (OSError, KeyError, ValueError):  # above the root, or no limit
                continue
    return max(0, min(free)) / int(os.environ.get('LOCAL_WORLD_SIZE', 1))  # each local process has its own cache


def choose_cache(cache: str, num_bytes: int, device: torch.device) -> str:
    """Return where features are kept, 'device', 'ram' or 'none'; 'auto' picks the first that fits.

    Raises InputError where an explicit choice does not fit.
    """
    free = {'device': torch.cuda.mem_get_info(device)[0] if device.type == 'cuda' else 0, 'ram': free_memory()}
    if cache == 'auto':
        return next((place for place in free if num_bytes <= MEMORY_FRACTION[place] * free[place]), 'none')
    if cache == 'device' and device.type != 'cuda':
        cache = 'ram'
    if num_bytes > free.get(cache, num_bytes):
        raise InputError(f'--cache {cache}: the features take {num_bytes / 1e9:.1f} GB, but {free[cache] / 1e9:.1f} GB '
                         f'are free; use --cache auto or none')
    return cache


# ---- the data set ---------------------------------------------------------------------------------------------------

class Normalization(NamedTuple):
    """Mean of every feature, and one deviation per modality, over the training snippets: float32 (M D,) each."""

    mean: np.ndarray
    deviation: np.ndarray

    def save(self, path: Path) -> None:
        """Write it atomically."""
        content = io.BytesIO()
        np.savez(content, **self._asdict())
        write_bytes(path, content.getbuffer())

    @classmethod
    def load(cls, path: Path) -> 'Normalization':
        """Read the file of a run; raises InputError where it is missing or damaged."""
        try:
            with open_file(path) as content, np.load(content, allow_pickle=False) as file:
                values = cls(*(np.asarray(file[name], np.float32) for name in cls._fields))
        except Exception as error:  # numpy raises almost anything for a damaged archive
            raise InputError(f'{path}: cannot be read ({truncate(error)}): these weights were trained with --normalize '
                             f'and need the file of their run') from None
        if values.mean.ndim != 1 or values.mean.shape != values.deviation.shape or not (values.deviation > 0).all():
            raise InputError(f'{path}: damaged; copy it again from the run')
        return values


class DataOptions(NamedTuple):
    """Which features of a data folder are read."""

    data_path: Path
    modalities: tuple[str, ...]
    layout: str

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> 'DataOptions':
        """Pick the options from the command line."""
        return cls(Path(args.data_path), MODALITIES[args.modal or 'all'], args.layout)


class VideoDataset(Dataset):
    """The videos of one split, their features and their multi-hot labels.

    names: V, spelled as in the annotations if they list them; lengths: V; class_names: C; labels: (V, C);
    durations: (V,) seconds, NaN where unknown.
    cache: 'ram' or 'device' keeps all features in memory, 'none' reads the sampled rows from disk, 'auto' picks.
    `__getitems__` maps the BatchIndices of a sampler to a Batch, the same for every cache.
    """

    def __init__(self, split: Split, cache: str = 'auto', device: torch.device = torch.device('cpu')):
        self.split = split.require()
        self.warn_excluded_videos()
        self.class_names, self.durations = split.class_names, split.durations
        self.names, self.files, self.labels = split.names, split.files, torch.from_numpy(split.labels)
        self.layout, self.folder = split.folder.layout, split.folder.path
        self.lengths = [file.length for file in self.files]
        self.feature_dim = self.files[0].width
        self.num_features = split.shape[1]
        self.offsets = np.concatenate([[0], np.cumsum(self.lengths)])  # first row of each video in the cache
        self.normalization: tuple[Tensor, Tensor] | None = None
        self.cache = choose_cache(cache, split.shape[0] * self.num_features * split.dtype.itemsize, device)
        self.cached_features = None if self.cache == 'none' else self.load(device)

    def warn_excluded_videos(self) -> None:
        """Warn about videos of the split that are not used, and about streams that were truncated."""
        split = self.split
        excluded = [(split.without_features, 'have no features')]
        if split.name == 'train':
            excluded.append((split.without_annotation, 'have no annotation in gt.json'))
        for names, reason in excluded:
            if names:
                warn(f'{split.folder.path}: {len(names)} of the {len(split.members.names)} {split.name} videos in '
                     f'{split.members.source} {reason} and are left out: {preview(names)}')
        if mismatched := split.length_mismatch:
            warn(f'{split.folder.path}: {plural(len(mismatched), "video")} with up to {MAX_LENGTH_MISMATCH} rows more '
                 f'in one stream than in the other, truncated to the shorter: {preview(mismatched)}')

    def load(self, device: torch.device) -> Tensor:
        """Read all features, video by video: (sum L, M D), in RAM or on `device`."""
        shape, dtype, on_device = self.split.shape, self.split.dtype, self.cache == 'device'
        buffer = empty_hugepages((max(self.lengths), self.num_features), dtype)  # staging area on the way to a GPU
        features = torch.empty(shape, dtype=buffer.dtype, device=device) if on_device else empty_hugepages(shape, dtype)
        videos = progress(self.files, desc=f'reading {self.split.name} features', unit='video')
        for file, start in zip(videos, self.offsets, strict=False):
            rows = features[start:start + file.length]
            target = buffer[:file.length] if on_device else rows
            file.read(slice(None), target.numpy())
            if on_device:
                rows.copy_(target)
        return features

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, indices: BatchIndices) -> Batch | InputError:
        try:
            return Batch(self.sample(indices), self.labels[indices.videos], indices.videos, indices.weight)
        except InputError as error:
            if get_worker_info() is None:
                raise
            return error  # raised in a worker it would be wrapped in a traceback; make_loader raises it

    def normalize(self, normalization: Normalization | None) -> None:
        """Standardize all features that are sampled from now on; None does nothing."""
        if normalization is None:
            return
        if len(normalization.mean) != self.num_features:
            raise InputError(f'{self.folder}: has {self.num_features} features per snippet, but the normalization of '
                             f'the run has {len(normalization.mean)}; use features of the same extraction')
        device = 'cpu' if self.cached_features is None else self.cached_features.device
        mean, deviation = (torch.from_numpy(values).to(device) for values in normalization)
        self.normalization = mean, 1 / deviation

    def measure(self) -> Normalization:
        """Return the normalization of these videos."""
        count, total, squares = self.offsets[-1], np.zeros(self.num_features), np.zeros(self.num_features)
        for rows in self.features_by_video():
            total += rows.sum(axis=0)
        mean = total / count
        for rows in self.features_by_video():  # a second pass: the mean of squares alone would cancel
            squares += ((rows - mean) ** 2).sum(axis=0)
        variance = (squares / count).reshape(-1, self.feature_dim).mean(axis=1)
        deviation = np.repeat(np.sqrt(np.maximum(variance, 1e-12)), self.feature_dim)
        return Normalization(mean.astype(np.float32), deviation.astype(np.float32))

    def features_by_video(self) -> Iterator[np.ndarray]:
        """Yield the features of each video, (L, M D) float64."""
        for i, length in enumerate(self.lengths):
            rows = self.sample_rows(BatchIndices([i], np.arange(length)[None], 1))
            yield rows[0].double().cpu().numpy()

    def sample(self, indices: BatchIndices) -> Tensor:
        """Return the indexed rows: (N, T, M D) float32, standardized if requested, on the device of the cache."""
        features = self.sample_rows(indices)
        if self.normalization:
            mean, scale = self.normalization
            features.sub_(mean).mul_(scale)
        return features

    def sample_rows(self, indices: BatchIndices) -> Tensor:
        """Return the indexed rows as they are in the files: (N, T, M D) float32."""
        shape, cached = (*indices.rows.shape, self.num_features), self.cached_features
        if cached is None:
            features = empty_hugepages(shape, np.dtype(np.float32))
            for video, rows, out in zip(indices.videos, indices.rows, features.numpy(), strict=True):
                self.files[video].read(rows, out)
            return features
        index = torch.from_numpy((self.offsets[indices.videos][:, None] + indices.rows).ravel())
        if cached.is_cuda:
            index = index.pin_memory().to(cached.device, non_blocking=True)  # pinned: no synchronization
            return cached.index_select(0, index).float().view(shape)
        selected = empty_hugepages((len(index), self.num_features), cached.numpy().dtype)
        torch.index_select(cached, 0, index, out=selected)
        if selected.dtype != torch.float32:
            selected = empty_hugepages(selected.shape, np.dtype(np.float32)).copy_(selected)
        return selected.view(shape)

    def describe(self, feature_fps: float | str, snippet_frames: float) -> list[str]:
        """Return what is in the data set, and warn where durations or annotations do not match the features."""
        counts, *irregular = self.split.summary().lines()
        features = (f'{self.folder} ({self.layout} layout): {plural(len(self), "video")} of {min(self.lengths)} to '
                    f'{max(self.lengths)} snippets, cache {self.cache}')
        time_base = self.split.time_base(feature_fps, snippet_frames)
        for line in time_base.warnings():
            warn(f'{self.split.name}: {line}')
        return [counts, features, *filter(None, [self.split.folder.layout_warning()]), *time_base.lines(), *irregular]


def build_dataset(options: DataOptions, split: str, gt: GroundTruth, class_names: list[str], cache: str = 'auto',
                  device: torch.device = torch.device('cpu'), flat: bool = False) -> VideoDataset:
    """Open the videos of a split; with `flat` features may also lie outside of a split's folder."""
    found = find_split(options.data_path, split, gt, class_names, options.modalities, options.layout, flat)
    return VideoDataset(found, cache, device)


def empty_hugepages(shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    """Return uninitialized memory from numpy, which requests huge pages: first use of 100 MB takes 10 ms, not 100."""
    return torch.from_numpy(np.empty(shape, dtype))


# ---- the loader -----------------------------------------------------------------------------------------------------

def make_loader(dataset: VideoDataset, sampler: UniformSampler | ShuffledSampler, num_workers: int = 0,
                pin_memory: bool = False) -> Iterator[Batch]:
    """Yield the batches of a sampler; features cached on a GPU need neither workers nor pinned memory.

    Draws one number from torch's global generator at the start, as every DataLoader does.
    """
    if dataset.cached_features is not None and dataset.cached_features.is_cuda:
        num_workers, pin_memory = 0, False
    batch_sampler: Any = sampler  # DataLoader expects lists of indices, and passes on whatever it gets
    try:
        # A signal to all processes, as from Slurm or `timeout`, is handled by the main process only.
        with block_signals(), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'This DataLoader will create')  # `check_batches` warns instead
            batches = iter(DataLoader(dataset, batch_sampler=batch_sampler, num_workers=num_workers,
                                      pin_memory=pin_memory, collate_fn=identity_collate, worker_init_fn=worker_init))
        for batch in batches:
            if isinstance(batch, InputError):
                raise batch
            yield batch
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # between this process and a worker
        raise worker_died_error(error) from None


def identity_collate(batch: Any) -> Any:
    """Return a batch unchanged: the data set has collated it."""
    return batch


@contextmanager
def block_signals() -> Iterator[None]:
    """Block the signals that end a run, also in processes that are started here."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_init(worker: int) -> None:
    """Let a worker exit when the parent sends a signal, or on a second Ctrl-C, even during a blocked read."""
    main_process = multiprocessing.parent_process()

    def listen() -> None:
        interrupts = 0
        while True:
            received = signal.sigwaitinfo(STOP_SIGNALS)
            interrupts += received.si_signo == signal.SIGINT
            if main_process and received.si_pid == main_process.pid or interrupts == 2:
                os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # inherited by a fork, not by other start methods
    threading.Thread(target=listen, daemon=True).start()


def is_worker_failure(error: RuntimeError) -> bool:
    """Return whether this error, which torch raises at any point of the main process, is due to a dead worker."""
    return 'DataLoader worker (pid' in str(error) or '</torch_' in str(error)


def worker_died_error(error: Exception) -> InputError:
    """Return the message for a dead worker."""
    reason = truncate(str(error).splitlines()[-1] if str(error) else type(error).__name__, 150)
    return InputError(f'a DataLoader worker (--num_workers) has died ({reason}): it was killed, or memory or shared '
                      f'memory ran out; use fewer workers, and resume a training with the same command and --resume')
