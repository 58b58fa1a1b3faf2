"""What lies in a data folder: feature files, who belongs to a split, labels, the time base. No feature is read here.

    features/{train,test}/{rgb,flow}/<video>.npy    two-stream, each (L, D)
    [features/]{train,test}/<video>.npy             joint, each (L, 2D), RGB first
    gt.json                                         annotations
    split_train.txt, split_test.txt                 who belongs to a split; where absent, the subsets of gt.json say it

The test folder may also be called `validation` or `val`. `v_X` and `X` name the same video.
"""
import math
import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from eval.files import GroundTruth, in_subset, match_videos, subset_name
from utils import InputError, first_few, number_of, shorten

MODALITIES = {'all': ('rgb', 'flow'), 'rgb': ('rgb',), 'flow': ('flow',)}
SPLIT_FOLDERS = {'train': ('train', 'training'), 'test': ('test', 'testing', 'validation', 'val')}
SUBSETS = ('training', 'validation', 'testing')
MAX_UNEVEN_ROWS = 2    # RGB and flow of one video may differ by so many rows: the extractors round differently
USUAL_FRAMES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)          # a snippet
USUAL_FPS = (10, 12.5, 15, 20, 24, 25, 30, 50, 60, 100, 200)


# ---- feature files --------------------------------------------------------------------------------------------------

class FeatureFile(NamedTuple):
    """Where the features of one video lie: one file a modality, or a single joint one."""
    paths: tuple[Path, ...]
    columns: slice        # of each file
    length: int           # L snippets
    width: int            # features a modality, D
    dtype: np.dtype       # the widest of its files
    uneven: bool          # the files differ in length and are cut to the shorter

    def read(self, rows: slice | np.ndarray, out: np.ndarray) -> None:
        """Copy `rows` of all modalities, side by side, into `out` (rows, M D).

        Raises InputError where a file cannot be read any more or holds NaN or infinity in these rows.
        """
        column = 0
        for path in self.paths:
            header, content = open_array(path)
            array = np.ndarray(header.shape, header.dtype, content, header.offset, order=header.order)
            array = array[:self.length, self.columns]
            if array.shape != (self.length, out.shape[1] // len(self.paths)):
                raise InputError(f'{path}: changed its shape since the run began; put the old file back or start again')
            part = out[:, column:column + array.shape[1]]
            with np.errstate(over='ignore'):    # float64 beyond float32 becomes infinite and is reported below
                part[...] = array[rows]
            if not all_finite(part):
                bad = np.arange(self.length)[rows][~np.isfinite(part).all(axis=1)][0]
                raise InputError(f'{path}: NaN or infinite feature in row {bad}; extract it again')
            column += array.shape[1]


class Header(NamedTuple):
    """What a `.npy` file says of itself."""
    shape: tuple[int, int]    # (L, width)
    dtype: np.dtype
    order: str                # 'C' or 'F'
    offset: int               # where the numbers begin, bytes


def open_array(path: Path) -> tuple[Header, mmap.mmap]:
    """The header of a feature file and its content, mapped.

    Raises InputError where it is not a whole, plain `.npy` file of (L, D) floats. Nothing is unpickled, and no more is
    read than the file holds, whatever its header says.
    """
    try:
        with open(path, 'rb') as file:
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, is_fortran, dtype = read[np.lib.format.read_magic(file)](file)
            offset, content = file.tell(), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except Exception as error:    # a damaged header makes numpy raise almost anything
        raise InputError(f'{path}: not a readable .npy file ({shorten(error)}); extract or download it again') from None
    if not np.issubdtype(dtype, np.floating):
        raise InputError(f'{path}: features must be floating point numbers, found {dtype}')
    if len(shape) != 2 or min(shape) < 1:
        raise InputError(f'{path}: features must be one array of shape (snippets, width), found {shape}')
    promised = offset + math.prod(shape) * dtype.itemsize
    if promised > len(content):
        raise InputError(f'{path}: truncated: {len(content)} of {promised} bytes are there; download it again')
    return Header(shape, dtype, 'F' if is_fortran else 'C', offset), content


def all_finite(array: np.ndarray) -> bool:
    if array.dtype == np.float16:    # numpy is slow to ask: those that are not finite have all exponent bits set
        return bool((array.view(np.uint16) & 0x7c00).max() < 0x7c00)
    return bool(np.isfinite(array).all())


class FeatureFolder(NamedTuple):
    """The feature files of one split, as its folder lists them."""
    path: Path
    layout: str                    # 'two-stream' or 'joint'
    modalities: tuple[str, ...]    # in use
    streams: list[Path]            # one folder a modality, or the joint one
    stems: list[list[str]]         # names of the files in each, sorted

    def locate(self, names: list[str]) -> list[tuple[Path | None, ...]]:
        """The files of each video, by either spelling of its name; None where there is none.

        Names are looked up in the folder's listing, never joined to a path, so that none can lead out of it.
        """
        found = [match_videos(names, stems) for stems in self.stems]
        return [tuple(None if index[i] < 0 else stream / f'{stems[index[i]]}.npy'
                      for stream, stems, index in zip(self.streams, self.stems, found)) for i in range(len(names))]

    def inspect(self, paths: tuple[Path, ...]) -> FeatureFile:
        """Read the headers of one video's files. Raises InputError where shapes do not fit."""
        headers = [open_array(path)[0] for path in paths]
        lengths, widths = zip(*(header.shape for header in headers))
        if max(lengths) - min(lengths) > MAX_UNEVEN_ROWS:
            raise InputError(f'{paths[0].stem}: {lengths[0]} rgb rows but {lengths[1]} flow rows '
                             f'({paths[0]}, {paths[1]}); extract both again with one stride')
        if len(set(widths)) > 1:
            raise InputError(f'{paths[0].stem}: rgb features are {widths[0]} wide but flow features {widths[1]} '
                             f'({paths[0]}, {paths[1]}); both need one width')
        width, columns = widths[0], slice(None)
        if self.layout == 'joint':
            if width % 2:
                raise InputError(f'{paths[0]}: joint features hold RGB and flow side by side, '
                                 f'so their width must be even, found {width}')
            width //= 2
            columns = slice(width * ('rgb' not in self.modalities), width * (1 + ('flow' in self.modalities)))
        dtype = max((header.dtype for header in headers), key=lambda dtype: dtype.itemsize)
        return FeatureFile(paths, columns, min(lengths), width, dtype, len(set(lengths)) > 1)


def list_features(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob('*.npy') if not path.name.startswith('.'))


def find_folder(root: Path, split: str, modalities: tuple[str, ...], names: list[str] | None) -> FeatureFolder:
    """The feature folder of a split, found by looking; of several the one that holds most of `names`.

    Raises InputError where there is none.
    """
    found, lonely = [], ''
    for path in (base / name for base in (root / 'features', root) for name in SPLIT_FOLDERS[split]):
        streams = [path / modality for modality in modalities]
        there = [stream.name for stream in streams if stream.is_dir()]
        if len(there) == len(streams):
            found.append(FeatureFolder(path, 'two-stream', modalities, streams, [list_features(s) for s in streams]))
        elif path.is_dir() and (stems := list_features(path)):
            found.append(FeatureFolder(path, 'joint', modalities, [path], [stems]))
        elif there:
            lonely = lonely or f'{path}: has {there[0]} but not the other modality; add it or use --modal {there[0]}'
    if not found:
        raise InputError(lonely or f'{root}: no {split} features found; expected features/{split}/rgb/*.npy and '
                                   f'features/{split}/flow/*.npy, or {split}/*.npy')
    folder = max(found, key=lambda f: sum(None not in paths for paths in f.locate(names)) if names else 0)
    for stream, stems in zip(folder.streams, folder.stems):
        if not stems:
            raise InputError(f'{stream}: holds no .npy file; extract or download the features')
    return folder


# ---- who belongs to a split -----------------------------------------------------------------------------------------

def read_split_file(path: Path) -> list[str]:
    """Video names, one a line, in the file's order. Raises InputError where it is empty or names a video twice."""
    try:
        names = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({shorten(error)}); write one video name a line') from None
    names = [name for name in names if name]
    if not names:
        raise InputError(f'{path}: names no video; write one a line')
    refuse_twice(names, path)
    return names


def refuse_twice(names: list[str], path: Path) -> None:
    counts = Counter(names)
    for name in counts:
        if counts[name] > 1 or 'v_' + name in counts:
            raise InputError(f'{path}: names {shorten(name)} more than once, with or without v_; keep one of them')


class Split(NamedTuple):
    """The V videos of a split and those it had to leave out, before any feature is read."""
    source: str                     # what says who belongs to it
    listed: list[str]               # everybody it names
    truth: GroundTruth | None
    folder: FeatureFolder | None    # None only where a check noted that there is none
    names: list[str]                # V, spelled as in gt.json where that knows them
    files: list[FeatureFile]        # V
    known: np.ndarray               # (V,) index into truth.videos, -1 where it does not know them
    labels: np.ndarray              # (V, C) multi-hot, float32
    without_features: list[str]
    without_annotation: list[str]   # left out of training, kept in a test

    @property
    def shape(self) -> tuple[int, int]:
        """Of all features: (sum L, M D)."""
        return sum(file.length for file in self.files), self.files[0].width * len(self.folder.modalities)

    @property
    def dtype(self) -> np.dtype:
        """What all features fit in: float16 where every file is float16, else float32."""
        return np.dtype(np.float16 if all(file.dtype.itemsize == 2 for file in self.files) else np.float32)

    @property
    def uneven(self) -> list[str]:
        return [name for name, file in zip(self.names, self.files) if file.uneven]

    def summary(self, feature_fps: float, snippet_frames: float) -> 'Summary':
        """Count what is in the split. Counts of annotations are over everybody listed, with features or not."""
        counts = Summary(self.source, len(self.listed), 0, 0, 0, 0, self.without_features, self.without_annotation, [],
                         self.uneven, [])
        if self.truth is None:
            return counts
        rows = np.isin(self.truth.video, match_videos(self.listed, self.truth.videos))
        video, segments = self.truth.video[rows], self.truth.segments[rows]
        distinct = np.unique(np.column_stack([video, self.truth.label[rows], segments]), axis=0)
        end: dict[int, float] = {}
        for v, stop in zip(video.tolist(), segments[:, 1].tolist()):
            end[v] = max(end.get(v, 0), stop)
        subsets = {subset_name(self.truth.subsets[v]) for v in end}
        unlisted = [self.truth.videos[v] for v in np.unique(self.truth.video).tolist()
                    if v not in end and subset_name(self.truth.subsets[v]) in subsets]
        # The last, incomplete snippet of a video has no features: that much later is as it should be.
        late = [name for name, v, file in zip(self.names, self.known.tolist(), self.files)
                if end.get(v, 0) > (file.length + 1) * snippet_frames / feature_fps]
        return counts._replace(
            annotated=len(end), instances=len(video), empty_instances=int((segments[:, 1] <= segments[:, 0]).sum()),
            duplicate_instances=len(video) - len(distinct), unlisted=unlisted, late=late)

    def time_base(self, feature_fps: float, snippet_frames: float) -> 'TimeBase | None':
        """Compare the length of the features with the durations that gt.json knows; None where it knows none."""
        if self.truth is None or not self.files:
            return None
        durations = np.append(self.truth.durations, np.nan)[self.known]
        lasts = np.array([file.length for file in self.files]) * snippet_frames / feature_fps
        ratios = (durations / lasts)[np.isfinite(durations)]
        return TimeBase(len(ratios), float(np.median(ratios)), feature_fps, snippet_frames) if len(ratios) else None


class Summary(NamedTuple):
    """What is in a split and what is untidy about it."""
    source: str
    listed: int
    annotated: int
    instances: int
    empty_instances: int            # of no or negative length
    duplicate_instances: int        # exact repetitions
    without_features: list[str]
    without_annotation: list[str]
    unlisted: list[str]             # annotated, in a subset of the listed ones
    uneven: list[str]               # RGB and flow differ by a row or two
    late: list[str]                 # annotations end after the features

    def lines(self) -> list[str]:
        """For a person to read; what is in order is not mentioned."""
        untidy = [f'{count} {what}' for count, what in ((self.empty_instances, 'of no length'),
                                                        (self.duplicate_instances, 'exact duplicates')) if count]
        kept = f' ({", ".join(untidy)}; all are kept)' if untidy else ''
        lines = [f'{number_of(self.listed, "video")} by {self.source}, {self.annotated} of them annotated, '
                 f'{number_of(self.instances, "instance")}{kept}']
        for names, what in ((self.without_features, 'without features'),
                            (self.without_annotation, 'without annotation'),
                            (self.unlisted, 'annotated in the same subset but not listed'),
                            (self.uneven, 'with a row or two more of one modality, cut to the shorter'),
                            (self.late, 'with annotations that end after the features')):
            if names:
                lines.append(f'{number_of(len(names), "video")} {what}: {first_few(names)}')
        return lines


class TimeBase(NamedTuple):
    """How long the videos are, measured in what their features last."""
    num_videos: int
    ratio: float             # median of duration / (L x snippet_frames / feature_fps)
    feature_fps: float
    snippet_frames: float

    @property
    def is_off(self) -> bool:
        return abs(self.ratio - 1) > 0.1

    def advice(self) -> str:
        """What is wrong and the flag that mends it: the nearest usual value, if one is near."""
        options = [('snippet_frames', n, n / self.snippet_frames) for n in USUAL_FRAMES]
        options += [('feature_fps', fps, self.feature_fps / fps) for fps in USUAL_FPS]
        flag, value, factor = min(options, key=lambda option: abs(np.log(option[2] / self.ratio)))
        if abs(factor / self.ratio - 1) > 0.05:
            flag, value = 'snippet_frames', self.snippet_frames * self.ratio
        return (f'TIME BASE: by gt.json the videos last {self.ratio:.3g} times as long as their features at '
                f'--feature_fps {self.feature_fps:g} --snippet_frames {self.snippet_frames:g} (median of '
                f'{self.num_videos}), so every detection would lie in the wrong place; a row seems to last '
                f'{self.ratio * self.snippet_frames / self.feature_fps:.3g} s: try --{flag} {value:.4g}')


@contextmanager
def noted(problems: list[str] | None) -> Iterator[None]:
    """Note an InputError in `problems` and go on; where there is no list to note it in, it stops the run."""
    try:
        yield
    except InputError as error:
        if problems is None:
            raise
        problems.append(str(error))


def listed_videos(root: Path, split: str, truth: GroundTruth | None) -> tuple[str, list[str] | None]:
    """Who belongs to a split, and what says so: its list file, else a subset of the annotations.

    Of the annotated subsets (training, validation, testing) the first is trained on and the last is tested on. Where
    there are fewer than two, whoever has features in the test folder is tested (None).
    """
    path = root / f'split_{split}.txt'
    if path.is_file():
        return path.name, read_split_file(path)
    annotated = set() if truth is None else {subset_name(truth.subsets[v]) for v in truth.video.tolist()}
    subsets = [name for name in SUBSETS if name in annotated]
    if split == 'test' and len(subsets) < 2:
        return 'what lies in the test folder', None
    if not subsets:
        raise InputError(f'{path}: not found, and gt.json annotates no training subset to go by; write the list')
    chosen = subsets[0 if split == 'train' else -1]
    return f'subset {chosen}', [truth.videos[v] for v in np.flatnonzero(in_subset(truth, chosen))]


def find_split(root: Path, split: str, truth: GroundTruth | None, labels: list[str], modalities: tuple[str, ...],
               problems: list[str] | None = None) -> Split:
    """Find the videos of a split, their files and their labels; headers are read, features are not.

    A video that a split file names must have features; one that only a subset of gt.json names may lack them. Training
    leaves out videos without annotation, a test localizes them. Raises InputError, or notes it in `problems`.
    """
    source, listed, folder = f'split_{split}.txt', [], None
    with noted(problems):
        source, listed = listed_videos(root, split, truth)
    with noted(problems):
        folder = find_folder(root, split, modalities, listed)
        if listed is None:
            refuse_twice(folder.stems[0], folder.streams[0])
            listed = folder.stems[0]
    listed = listed or []
    known = match_videos(listed, truth.videos) if truth else np.full(len(listed), -1)
    multi_hot = label_matrix(known, truth, labels)
    paths = folder.locate(listed) if folder else [(None,)] * len(listed)

    missing = [name for name, files in zip(listed, paths) if None in files]
    with noted(problems):
        if folder and missing and (source.endswith('.txt') or len(missing) == len(listed)):
            raise InputError(f'{folder.path}: no features for {len(missing)} of the {len(listed)} videos by {source}: '
                             f'{first_few(missing)}; add the files or correct {source} (the folder holds '
                             f'{first_few(folder.stems[0], 1)})')
    without = [name for name, row in zip(listed, multi_hot) if not row.any()]
    with noted(problems):
        if split == 'train' and truth and listed and len(without) == len(listed):
            raise InputError(f'{root / "gt.json"}: annotates none of the {len(listed)} training videos by {source}; '
                             f'check the names: {first_few(without)}')

    files = {}
    for i in tqdm(range(len(listed)), desc=f'looking at {split} features', unit='video', leave=False, delay=1):
        if None not in paths[i] and (split == 'test' or multi_hot[i].any()):
            with noted(problems):
                files[i] = folder.inspect(paths[i])
                first = next(iter(files.values()))
                if files[i].width != first.width:
                    wide = files.pop(i)
                    raise InputError(f'{wide.paths[0]}: features are {wide.width} wide a modality, '
                                     f'but {first.width} in {first.paths[0]}')
    keep = list(files)
    with noted(problems):
        if not keep and not problems:
            raise InputError(f'{root}: no {split} video has both features and annotations')
    return Split(source, listed, truth, folder, [truth.videos[known[i]] if known[i] >= 0 else listed[i] for i in keep],
                 list(files.values()), known[keep], multi_hot[keep], missing, without)


def label_matrix(known: np.ndarray, truth: GroundTruth | None, labels: list[str]) -> np.ndarray:
    """(V, C) multi-hot float32 of the classes annotated in each video; `known` as in Split."""
    matrix = np.zeros((len(known), len(labels)), np.float32)
    if truth is not None:
        position = {video: i for i, video in enumerate(known.tolist()) if video >= 0}
        column = {label: i for i, label in enumerate(labels)}
        for video, label in zip(truth.video.tolist(), truth.label.tolist()):
            if video in position:
                matrix[position[video], column[truth.labels[label]]] = 1
    return matrix
