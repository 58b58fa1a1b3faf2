"""Annotations: gt.json, labels.csv, subsets, durations, split lists, the time base.

    gt = read_ground_truth('gt.json')  # any file of the ActivityNet format
    gt = read_annotations(folder)  # gt.json or labels.csv of a data folder, and the durations in extraction.json
    validation = select_videos(gt, in_subset(gt, 'validation'))
"""
import csv
import io
import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.columns import (
    check_types,
    check_video_names,
    duration_column,
    label_column,
    label_ids,
    misspelled_keys,
    read_file,
    row_blocks,
    segment_column,
    similar_names,
    sort_labels,
    video_column,
)
from formats.videos import match_videos, video_stem
from utils import InputError, open_file, quote, read_json, truncate

# The subsets in the order of their use, and how they are spelled, in any case.
SUBSETS = {'training': ('train', 'training'), 'validation': ('validation', 'val'), 'testing': ('test', 'testing')}
SPELLINGS = {spelling: name for name, spellings in SUBSETS.items() for spelling in spellings}

NEGATIVE = ''  # the label of a video without any of the classes: it is trained on, never detected nor scored

COMMON_SNIPPET_FRAMES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
COMMON_FPS = (10, 12.5, 15, 20, 24, 25, 30, 50, 60, 100, 200)


class GroundTruth(NamedTuple):
    """Annotations of V videos with C labels: G instances, and A tags (labels without a time)."""

    videos: list[str]  # (V,) names in the file's spelling and order, annotated or not
    subsets: list[str]  # (V,) in the file's spelling, '' where absent; see `subset_name`
    durations: np.ndarray  # (V,) float64 seconds, NaN where absent or not a positive number
    labels: list[str]  # (C,) used anywhere in the file, sorted (ASCII)
    video: np.ndarray  # (G,) int64 index into videos
    label: np.ndarray  # (G,) int64 index into labels
    segments: np.ndarray  # (G, 2) float64 seconds; lengths <= 0 and duplicates are included
    tag_video: np.ndarray = np.zeros(0, np.int64)  # (A,) index into videos
    tag_label: np.ndarray = np.zeros(0, np.int64)  # (A,) index into labels
    warnings: tuple[str, ...] = ()  # what looks wrong in the file, a line each
    negatives: tuple[str, ...] = ()  # videos of the scored subset without an instance, see eval.detection

    def video_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the video-level labels, of instances and tags: indices into videos and labels, both (G + A,)."""
        return np.concatenate([self.video, self.tag_video]), np.concatenate([self.label, self.tag_label])


def empty_ground_truth() -> GroundTruth:
    """Return a ground truth without videos."""
    no_index = np.zeros(0, np.int64)
    return GroundTruth([], [], np.zeros(0), [], no_index, no_index, np.zeros((0, 2)))


def select_videos(gt: GroundTruth, mask: np.ndarray) -> GroundTruth:
    """Return the videos where `mask` (V,) bool is true, with their annotations; `labels` is unchanged."""
    selected, new_index = np.flatnonzero(mask), np.cumsum(mask) - 1
    instances, tags = mask[gt.video], mask[gt.tag_video]
    return gt._replace(
        videos=[gt.videos[v] for v in selected], subsets=[gt.subsets[v] for v in selected],
        durations=gt.durations[selected], video=new_index[gt.video[instances]], label=gt.label[instances],
        segments=gt.segments[instances], tag_video=new_index[gt.tag_video[tags]], tag_label=gt.tag_label[tags])


# ---- gt.json --------------------------------------------------------------------------------------------------------

def read_ground_truth(path: str | os.PathLike) -> GroundTruth:
    """Read a gt.json: `{"database": {video: {"subset": ..., "duration": ..., "annotations": [...]}}}`.

    An annotation is `{"label": ..., "segment": [start, end]}`; without "segment" it is a tag. A video without
    "annotations", or with null there, is not annotated. Raises InputError with the file, the video and the fix for
    anything else.
    """
    return read_file(path, {'database': build_ground_truth}, 'ground truth')


def parse_ground_truth(database: dict[str, Any], path: str | os.PathLike = 'ground truth') -> GroundTruth:
    """Return the ground truth in the value of "database", as `read_ground_truth`; messages contain `path`."""
    return build_ground_truth(database, path)[0]


def build_ground_truth(database: dict[str, Any], path: str | os.PathLike) -> tuple[GroundTruth, int]:
    """Return the ground truth and the number of JSON keys of its videos and annotations; see `columns.Builder`."""
    check_video_names(path, database)
    entries = list(database.values())

    def location_of_video(index: int) -> str:
        return f'{path}: video {quote(list(database)[index])}'

    check_types(entries, {dict}, location_of_video, 'must be an object {"subset": ..., "annotations": [...]}')
    subsets = [entry.get('subset') for entry in entries]
    check_types(subsets, {str, type(None)}, location_of_video, '"subset" must be a string')
    durations = duration_column([entry.get('duration') for entry in entries])
    annotations = [entry.get('annotations') for entry in entries]
    check_types(annotations, {list, type(None)}, location_of_video, '"annotations" must be a list, or null')

    rows_of_video = dict(zip(database, (rows or [] for rows in annotations)))
    video = video_column(rows_of_video)
    label, segments, timed = np.zeros(len(video), np.int64), np.zeros((len(video), 2)), np.zeros(len(video), bool)
    ids, num_keys, untimed = label_ids(), sum(map(len, entries)), []
    for block, rows, location in row_blocks(path, rows_of_video, 'annotation'):
        label[block] = label_column(rows, ids, location)
        segments[block] = segment_column([row.get('segment', [0, 0]) for row in rows], location)
        timed[block] = ['segment' in row for row in rows]
        untimed += [row for row in rows if 'segment' not in row]
        num_keys += sum(map(len, rows))
    labels, label = sort_labels(path, ids, label)
    lines = [*misspelled_keys(entries, ('subset', 'duration', 'annotations'), 'videos'),
             *misspelled_keys(untimed, ('label', 'segment'), 'annotations'), *similar_names(labels)]
    gt = GroundTruth(list(database), [subset or '' for subset in subsets], durations, labels, video[timed],
                     label[timed], segments[timed], video[~timed], label[~timed],
                     tuple(f'{path}: {line}' for line in lines))
    return gt, num_keys


# ---- subsets --------------------------------------------------------------------------------------------------------

def subset_name(name: str) -> str:
    """Return 'training', 'validation' or 'testing' for all of their spellings, any other name in lower case."""
    name = name.strip().lower()
    return SPELLINGS.get(name, name)


def in_subset(gt: GroundTruth, subset: str) -> np.ndarray:
    """Return which videos belong to a subset, in any spelling: (V,) bool."""
    wanted = subset_name(subset)
    return np.fromiter((subset_name(name) == wanted for name in gt.subsets), bool, len(gt.subsets))


def annotated_subsets(gt: GroundTruth) -> list[str]:
    """Return those of training, validation and testing that contain an annotated video, in this order."""
    annotated = {subset_name(gt.subsets[v]) for v in np.unique(gt.video_labels()[0]).tolist()}
    return [name for name in SUBSETS if name in annotated]


def read_utf8(path: Path, kind: str, fix: str) -> str:
    """Return the text of a file; raises InputError with the fix where it is not UTF-8, or cannot be read."""
    try:
        with open_file(path) as file:
            content = file.read()
        if content.startswith((b'\xff\xfe', b'\xfe\xff')) or content.count(0) > len(content) // 3:
            raise InputError(f'{path}: is not UTF-8, it seems to be UTF-16; save it as UTF-8 (in Excel: "CSV UTF-8")')
        return content.decode('utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        cause = 'it is not UTF-8, save it as that' if isinstance(error, UnicodeDecodeError) else truncate(error)
        raise InputError(f'{path}: not a readable {kind} file ({cause}); {fix}') from None


# ---- labels.csv -----------------------------------------------------------------------------------------------------

def read_labels(path: Path) -> GroundTruth:
    """Read a labels.csv: a header `video,label`, then one row per label of a video, in any order; all are tags.

    An empty label means that a video contains none of the classes.

    Raises InputError with the row for anything else.
    """
    fix = 'write the header video,label, then one row per label of a video'
    text = read_utf8(path, 'CSV', fix)
    for separator in ';\t|':
        if sorted(cell.strip(' "') for cell in text.partition('\n')[0].strip().split(separator)) == ['label', 'video']:
            raise InputError(f'{path}: the columns are separated by {separator!r}; separate them by commas, as in '
                             f'video,label')
    try:
        rows = list(csv.reader(io.StringIO(text, newline=''), strict=True))
    except csv.Error as error:
        raise InputError(f'{path}: not a readable CSV file ({truncate(error)}); {fix}') from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    if sorted(header) != ['label', 'video']:
        raise InputError(f'{path}: the first line must be the header video,label, found '
                         f'{truncate(",".join(header), 60) or "nothing"}')
    column = header.index('video')
    labels_of: dict[str, set[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not cells[column]:
            raise InputError(f'{path}: row {number} must contain a video and a label, found '
                             f'{truncate(",".join(row), 60)!r}; quote names that contain a comma')
        name, label = video_stem(unicodedata.normalize('NFC', cells[column])), cells[1 - column]
        other = 'v_' + name if 'v_' + name in labels_of else name.removeprefix('v_')
        labels_of.setdefault(other if other in labels_of else name, set()).add(label)
    for name, labels in labels_of.items():
        if NEGATIVE in labels and len(labels) > 1:
            raise InputError(f'{path}: {quote(name)} has an empty label (none of the classes) and another one; remove '
                             f'one of the rows')
    if not any(labels - {NEGATIVE} for labels in labels_of.values()):
        raise InputError(f'{path}: contains no labels; write one row per label of a video')
    videos, names = list(labels_of), sorted(set().union(*labels_of.values()))
    pairs = np.array([(v, names.index(label)) for v, name in enumerate(videos) for label in sorted(labels_of[name])])
    return empty_ground_truth()._replace(
        videos=videos, subsets=[''] * len(videos), durations=np.full(len(videos), np.nan), labels=names,
        tag_video=pairs[:, 0], tag_label=pairs[:, 1],
        warnings=tuple(f'{path}: {line}' for line in similar_names(names)))


# ---- durations ------------------------------------------------------------------------------------------------------

def read_durations(path: str | os.PathLike) -> dict[str, float]:
    """Read the duration in seconds of every video of an extraction.json or a gt.json that has one.

    Raises InputError for another file.
    """
    content = read_json(path)
    videos = content.get('videos', content.get('database')) if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(entry, dict) for entry in videos.values()):
        raise InputError(f'{path}: contains no durations: it needs {{"videos": {{video: {{"duration": seconds}}}}}}; '
                         f'extract again, or use another file')
    durations = duration_column([entry.get('duration') for entry in videos.values()])
    return {name: seconds for name, seconds in zip(videos, durations.tolist()) if not np.isnan(seconds)}


def add_durations(gt: GroundTruth, seconds: dict[str, float]) -> GroundTruth:
    """Fill in missing durations; videos that are not in `gt` are appended."""
    index = match_videos(list(seconds), gt.videos).tolist()
    new = [name for name, v in zip(seconds, index) if v < 0]
    durations = np.append(gt.durations, [seconds[name] for name in new])
    for v, value in zip(index, seconds.values()):
        if v >= 0 and np.isnan(durations[v]):
            durations[v] = value
    return gt._replace(videos=gt.videos + new, subsets=gt.subsets + [''] * len(new), durations=durations)


# ---- a data folder --------------------------------------------------------------------------------------------------

def read_annotations(root: Path) -> GroundTruth:
    """Read gt.json, or else labels.csv, and the durations in extraction.json; files that do not exist are skipped."""
    gt = empty_ground_truth()
    if (root / 'gt.json').exists():
        gt = read_ground_truth(root / 'gt.json')
    elif (root / 'labels.csv').exists():
        gt = read_labels(root / 'labels.csv')
    if (root / 'extraction.json').exists():
        gt = add_durations(gt, read_durations(root / 'extraction.json'))
    return gt


def require_annotations(root: Path) -> GroundTruth:
    """Return the annotations of a data folder; raises InputError where they contain no label."""
    gt = read_annotations(root)
    if not gt.labels:
        raise missing_annotations(root)
    return gt


def missing_annotations(root: Path) -> InputError:
    """Return the error for a training without annotations."""
    whole = Path(os.path.abspath(root))
    around = [*whole.parents[:3], *sorted(path for path in whole.glob('*') if path.is_dir())]
    for other in around:
        if any((other / name).is_file() for name in ('gt.json', 'labels.csv')):
            return InputError(f'{root}: contains neither gt.json nor labels.csv, but {other} does: use --data_path '
                              f'{other}')
    fix = 'write it, or labels.csv with the columns video,label'
    others = [path.name for path in sorted(root.glob('*.json')) if path.name not in ('extraction.json', 'gt.json')]
    if others:
        fix = f'if {truncate(others[0])} contains the annotations, rename it to gt.json; otherwise {fix}'
    return InputError(f'{root / "gt.json"}: not found; {fix}')


def read_split_file(path: Path) -> list[str]:
    """Read video names, one per line, in the file's order.

    Raises InputError if there are none, or if a video is listed more than once.
    """
    names = [line.strip() for line in read_utf8(path, 'text', 'write one video name per line').splitlines()]
    names = [name.removesuffix('.npy') for name in names if name]  # some lists contain file names
    if not names:
        raise InputError(f'{path}: lists no videos; write one name per line')
    check_unique(names, path)
    return names


def check_unique(names: list[str], path: Path) -> None:
    """Raise InputError for a video that occurs more than once in a list file or folder, as `X` or `v_X`."""
    counts = Counter(names)
    for name in counts:
        if counts[name] > 1 or 'v_' + name in counts:
            raise InputError(f'{path}: contains {truncate(name)} more than once, with or without v_; keep one of them')


# ---- the time base --------------------------------------------------------------------------------------------------

class TimeBase(NamedTuple):
    """Durations of videos relative to those of their features, L snippets x snippet_frames / feature_fps."""

    num_videos: int
    ratio: float  # the median over the videos
    feature_fps: float
    snippet_frames: float

    @property
    def is_mismatched(self) -> bool:
        """Whether the two differ by more than 10 %."""
        return abs(self.ratio - 1) > 0.1

    def advice(self) -> str:
        """Return what is wrong, and the flag that fixes it with the nearest common value if one is near."""
        options: list[tuple[str, float, float]] = [('snippet_frames', frames, frames / self.snippet_frames)
                                                   for frames in COMMON_SNIPPET_FRAMES]
        options += [('feature_fps', fps, self.feature_fps / fps) for fps in COMMON_FPS]
        flag, value, factor = min(options, key=lambda option: abs(np.log(option[2] / self.ratio)))
        if abs(factor / self.ratio - 1) > 0.05:
            flag, value = 'snippet_frames', self.snippet_frames * self.ratio
        return (f'TIME BASE: the videos are {self.ratio:.3g} times as long as their features at '
                f'--feature_fps {self.feature_fps:g} --snippet_frames {self.snippet_frames:g} (median of '
                f'{self.num_videos}), so every detection would be misplaced; a snippet seems to last '
                f'{self.ratio * self.snippet_frames / self.feature_fps:.3g} s: try --{flag} {value:.4g}')
