"""Features and annotations from disk, sampling to T snippets, batches.

A data folder holds `gt.json`, `split_train.txt`, `split_test.txt` and snippet features in one of two layouts:

    features/{train,test}/{rgb,flow}/<video>.npy    two-stream, each (L, D)
    [features/]{train,test}/<video>.npy             joint, each (L, 2D), RGB first

The test folder may also be called `validation` or `val`. `v_X` and `X` name the same video.
"""
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler
from tqdm import tqdm

from eval.files import GroundTruth, InputError, match_videos
from utils import shorten, warn

SPLIT_FOLDERS = {'train': ('train', 'training'), 'test': ('test', 'testing', 'validation', 'val')}
MAX_UNEVEN_ROWS = 2    # RGB and flow of one video may differ by so many rows: the extractors round differently


class Batch(NamedTuple):
    """N videos sampled to T snippets."""
    features: Tensor    # (N, T, M D), float32
    labels: Tensor      # (N, C) multi-hot, float32
    videos: list[int]   # N indices into the data set


class FeatureFile(NamedTuple):
    """Where the features of one video lie: one file a modality, or a single joint one."""
    paths: tuple[Path, ...]
    columns: slice        # of each file
    length: int           # L snippets
    width: int            # features a modality, D
    dtype: np.dtype

    def read(self) -> list[np.ndarray]:
        """One (L, columns) array a file, memory-mapped."""
        return [open_array(path)[:self.length, self.columns] for path in self.paths]


# ---- sampling -------------------------------------------------------------------------------------------------------

def uniform_rows(length: int, num_segments: int) -> np.ndarray:
    """The first row of each of T equal cells of a video of L rows: (T,) int64, the reference's test sampling."""
    return (np.arange(num_segments) * length / num_segments).astype(np.int64)


def random_rows(length: int, num_segments: int, rng: np.random.RandomState) -> np.ndarray:
    """One random row of each of T equal cells of a video of L rows: (T,) int64, the reference's training sampling.

    Draws what the reference draws one by one with `choice`: nothing for L == T or for a cell of one row.
    """
    rows = uniform_rows(length, num_segments)
    if length == num_segments:
        return rows
    last = np.append(rows[1:], length - 1)    # quirk: both ends are included, so neighbouring cells share one
    return rng.randint(rows, last + 1)


class SnippetSampler:
    """Batches of (video, rows) pairs: the video order from torch's global generator, the rows from `rng`.

    Without `rng` the videos come in order with uniform rows. Everything random is drawn here, in the main process and
    in the order of the batches, so that the number of workers does not change a run.
    """

    def __init__(self, lengths: list[int], num_segments: int, batch_size: int, rng: np.random.RandomState | None = None,
                 drop_last: bool = False):
        order = RandomSampler(lengths) if rng is not None else SequentialSampler(lengths)
        self.batches = BatchSampler(order, batch_size, drop_last)
        self.lengths, self.num_segments, self.rng = lengths, num_segments, rng

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, np.ndarray]]]:
        for batch in self.batches:
            yield [(video, self.rows(video)) for video in batch]

    def rows(self, video: int) -> np.ndarray:
        if self.rng is None:
            return uniform_rows(self.lengths[video], self.num_segments)
        return random_rows(self.lengths[video], self.num_segments, self.rng)


# ---- files ----------------------------------------------------------------------------------------------------------

def open_array(path: Path) -> np.ndarray:
    """Memory-map a feature file. Raises InputError where it is not a whole, plain `.npy` file of (L, D) floats."""
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path}: not a readable .npy file ({shorten(error)}); extract or download it again') from None
    if not isinstance(array, np.ndarray) or array.ndim != 2 or not all(array.shape):
        raise InputError(f'{path}: features must be one array of shape (snippets, width), '
                         f'found {getattr(array, "shape", "an archive")}')
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(f'{path}: features must be floating point numbers, found {array.dtype}')
    return array


class FeatureFolder:
    """The feature files of one split, its layout found by looking."""

    def __init__(self, root: Path, split: str, modalities: tuple[str, ...]):
        self.modalities = modalities
        candidates = [base / name for base in (root / 'features', root) for name in SPLIT_FOLDERS[split]]
        for folder in candidates:
            streams = [folder / modality for modality in modalities]
            if all(stream.is_dir() for stream in streams):
                self.layout, self.folder, self.streams = 'two-stream', folder, streams
                break
            if folder.is_dir() and any(folder.glob('*.npy')):
                self.layout, self.folder, self.streams = 'joint', folder, [folder]
                break
        else:
            raise InputError(f'{root}: no {split} features found; expected features/{split}/rgb and flow, or {split}/*.npy')
        self.stems = [sorted(path.stem for path in stream.glob('*.npy')) for stream in self.streams]
        for stream, stems in zip(self.streams, self.stems):
            if not stems:
                raise InputError(f'{stream}: holds no .npy file')

    def locate(self, names: list[str]) -> list[tuple[Path | None, ...]]:
        """The files of each video, by either spelling of its name; None where there is none.

        Names are looked up in the folder's listing, never joined to a path, so that none can lead out of it.
        """
        found = [match_videos(names, stems) for stems in self.stems]
        return [tuple(None if index[i] < 0 else stream / f'{stems[index[i]]}.npy'
                      for stream, stems, index in zip(self.streams, self.stems, found)) for i in range(len(names))]

    def inspect(self, paths: tuple[Path, ...]) -> FeatureFile:
        """Read the headers of one video's files. Raises InputError where shapes do not fit."""
        arrays = [open_array(path) for path in paths]
        lengths, widths = [len(a) for a in arrays], [a.shape[1] for a in arrays]
        if max(lengths) - min(lengths) > MAX_UNEVEN_ROWS:
            raise InputError(f'{paths[0].stem}: {lengths[0]} rgb rows but {lengths[1]} flow rows '
                             f'({paths[0]}, {paths[1]}); extract both again with one stride')
        if len(set(widths)) > 1:
            raise InputError(f'{paths[0].stem}: rgb features are {widths[0]} wide but flow features {widths[1]}')
        width, columns = widths[0], slice(None)
        if self.layout == 'joint':
            if width % 2:
                raise InputError(f'{paths[0]}: joint features hold RGB and flow side by side, '
                                 f'so their width must be even, found {width}')
            width //= 2
            columns = slice(width * ('rgb' not in self.modalities), width * (1 + ('flow' in self.modalities)))
        return FeatureFile(paths, columns, min(lengths), width, np.result_type(*arrays))


def read_split_file(path: Path) -> list[str]:
    """Video names, one a line, in the file's order."""
    try:
        names = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({shorten(error)})') from None
    names = [name for name in names if name]
    if not names:
        raise InputError(f'{path}: names no video; write one a line')
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(f'{path}: names {shorten(twice[0])} more than once; keep one line')
    return names


def split_videos(root: Path, split: str, truth: GroundTruth | None) -> list[str] | None:
    """Who belongs to a split: its list file, else a subset of the annotations, else None (whoever has features).

    The first annotated subset of (training, validation, testing) is trained on, the last one is tested on.
    """
    path = root / f'split_{split}.txt'
    if path.is_file():
        return read_split_file(path)
    annotated = set() if truth is None else {truth.subsets[v] for v in truth.video}
    subsets = [name for name in ('training', 'validation', 'testing') if name in annotated]
    if split == 'test' and not subsets:
        return None
    if len(subsets) < 2:
        raise InputError(f'{path}: not found, and gt.json does not have two annotated subsets to go by; write the list')
    chosen, has_instance = subsets[0 if split == 'train' else -1], set(truth.video.tolist())
    return [name for i, name in enumerate(truth.videos) if truth.subsets[i] == chosen and i in has_instance]


# ---- the data set ---------------------------------------------------------------------------------------------------

class VideoDataset(Dataset):
    """The videos of one split, their features in memory as one table of rows, and their multi-hot labels.

    names: V, spelled as in gt.json where they are annotated; lengths: V; labels: (V, C);
    `__getitems__` takes (video, rows) pairs of a SnippetSampler and gives a Batch.
    """

    def __init__(self, root: str | Path, split: str, truth: GroundTruth | None, labels: list[str],
                 modalities: tuple[str, ...] = ('rgb', 'flow')):
        root = Path(root)
        folder = FeatureFolder(root, split, modalities)
        names = split_videos(root, split, truth)
        listed = (root / f'split_{split}.txt').is_file()
        if names is None:
            names = folder.stems[0]
        names, paths = drop_missing(names, folder.locate(names), listed, folder)
        known = match_videos(names, truth.videos) if truth else np.full(len(names), -1)
        multi_hot = label_matrix(known, truth, labels)
        if split == 'train':
            keep = annotated_only(names, multi_hot)
            names, paths, known, multi_hot = [names[i] for i in keep], [paths[i] for i in keep], known[keep], multi_hot[keep]
        self.names = [truth.videos[v] if v >= 0 else name for name, v in zip(names, known)]
        self.labels = torch.from_numpy(multi_hot)
        self.files = [folder.inspect(p) for p in paths]
        self.layout, self.folder = folder.layout, folder.folder
        self.lengths = [file.length for file in self.files]
        self.feature_dim = self.common_width()
        self.table, self.offsets = self.load()

    def common_width(self) -> int:
        """D, the same for every video."""
        first = self.files[0]
        for file in self.files:
            if file.width != first.width:
                raise InputError(f'{file.paths[0]}: features are {file.width} wide a modality, '
                                 f'but {first.width} in {first.paths[0]}')
        return first.width

    def load(self) -> tuple[Tensor, np.ndarray]:
        """Read every feature once: the rows of all videos (sum L, M D) and where each video begins (V,)."""
        half = all(file.dtype == np.float16 for file in self.files)
        offsets = np.concatenate([[0], np.cumsum(self.lengths)])
        widths = [array.shape[1] for array in self.files[0].read()]
        table = torch.empty(int(offsets[-1]), sum(widths), dtype=torch.float16 if half else torch.float32)
        view = table.numpy()
        uneven = []
        for i, file in enumerate(tqdm(self.files, desc=f'reading {self.folder.name} features', unit='video', leave=False)):
            rows = view[offsets[i]:offsets[i + 1]]
            arrays = file.read()
            for array, path, column in zip(arrays, file.paths, np.cumsum([0, *widths])):
                part = rows[:, column:column + array.shape[1]]
                with np.errstate(over='ignore'):    # float64 beyond float32 becomes infinite and is reported below
                    part[...] = array
                if not np.isfinite(part).all():
                    row = int(np.argmin(np.isfinite(part).all(axis=1)))
                    raise InputError(f'{path}: NaN or infinite feature in row {row}; extract it again')
            if len({len(open_array(path)) for path in file.paths}) > 1:
                uneven.append(self.names[i])
        if uneven:
            warn(f'{len(uneven)} videos have 1 or {MAX_UNEVEN_ROWS} rows more of one modality than of the other and were cut to the '
                 f'shorter: {shorten(", ".join(uneven))}')
        return table, offsets[:-1]

    def __len__(self) -> int:
        return len(self.names)

    def __getitems__(self, items: list[tuple[int, np.ndarray]]) -> Batch:
        videos = [video for video, _ in items]
        rows = np.stack([self.offsets[video] + rows for video, rows in items])
        features = self.table.index_select(0, torch.from_numpy(rows.ravel())).float()
        return Batch(features.view(*rows.shape, -1), self.labels[videos], videos)


def drop_missing(names: list[str], paths: list[tuple[Path | None, ...]], listed: bool, folder: FeatureFolder):
    """Leave out videos without features; one that a list file names is an error instead."""
    missing = [i for i, files in enumerate(paths) if None in files]
    if missing:
        where = folder.streams[paths[missing[0]].index(None)]
        message = (f'{where}: no features for {len(missing)} of {len(names)} videos: '
                   f'{shorten(", ".join(names[i] for i in missing))}')
        if listed or len(missing) == len(names):
            raise InputError(f'{message}; add the files or take the names out of the split file')
        warn(f'{message}; left out')
    keep = [i for i in range(len(names)) if i not in set(missing)]
    return [names[i] for i in keep], [paths[i] for i in keep]


def label_matrix(known: np.ndarray, truth: GroundTruth | None, labels: list[str]) -> np.ndarray:
    """(V, C) multi-hot float32 of the classes annotated in each video; `known` indexes truth.videos, -1 if not there."""
    matrix = np.zeros((len(known), len(labels)), np.float32)
    if truth is not None:
        position = {video: i for i, video in enumerate(known.tolist()) if video >= 0}
        column = np.array([labels.index(label) for label in truth.labels], np.int64)
        for video, label in zip(truth.video.tolist(), truth.label.tolist()):
            if video in position:
                matrix[position[video], column[label]] = 1
    return matrix


def annotated_only(names: list[str], multi_hot: np.ndarray) -> np.ndarray:
    """Indices of the videos that have a label: a video without one teaches nothing."""
    keep = np.flatnonzero(multi_hot.any(axis=1))
    if len(keep) < len(names):
        without = [name for name, row in zip(names, multi_hot) if not row.any()]
        if not len(keep):
            raise InputError(f'gt.json annotates none of the {len(names)} training videos; check the names: {shorten(", ".join(without))}')
        warn(f'{len(without)} training videos have no annotation and are left out: {shorten(", ".join(without))}')
    return keep


def loader(dataset: VideoDataset, sampler: SnippetSampler, num_workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Batches of `dataset` as `sampler` orders them. Iterating it draws one number from torch's global generator."""
    return DataLoader(dataset, batch_sampler=sampler, num_workers=num_workers, pin_memory=pin_memory, collate_fn=identity)


def identity(batch: Batch) -> Batch:
    return batch
