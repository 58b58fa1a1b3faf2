"""Annotations: gt.json, labels.csv, split lists, durations, the time base."""
import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.columns import (MAX_SECONDS, _blocks, _check_types, _check_videos, _labels, _numbering, _numbers, _read, _segments, _sort_labels, _videos_of_rows)
from utils import InputError, preview, plural, quote, read_json, truncate

SUBSETS = {'train': 'training', 'val': 'validation', 'test': 'testing'}

SUBSET_ORDER = ('training', 'validation', 'testing')

SUFFIXES = ('.npy', '.mp4', '.m4v', '.mkv', '.avi', '.mov', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.3gp', '.ts')

USUAL_FRAMES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)          # a snippet

USUAL_FPS = (10, 12.5, 15, 20, 24, 25, 30, 50, 60, 100, 200)



class GroundTruth(NamedTuple):
    """Annotations of V videos: G instances of C labels, as the file has them."""
    videos: list[str]  # (V,) names as the file spells them, annotated or not, in the file's order
    subsets: list[str]  # (V,) as the file spells them, '' where absent; see `subset_name`
    durations: np.ndarray  # (V,) float64 seconds, NaN where absent or not a positive number
    labels: list[str]  # (C,) used anywhere in the file, sorted (ASCII)
    video: np.ndarray  # (G,) int64 index into videos
    label: np.ndarray  # (G,) int64 index into labels
    segments: np.ndarray  # (G, 2) float64 seconds; lengths <= 0 and duplicates are kept
    tag_video: np.ndarray = np.zeros(0, np.int64)  # (A,) index into videos of each annotation without a time: a tag
    tag_label: np.ndarray = np.zeros(0, np.int64)  # (A,) index into labels

    def video_labels(self) -> tuple[np.ndarray, np.ndarray]:
        """What happens in which video, timed or not: indices into videos and into labels, both (G + A,)."""
        return np.concatenate([self.video, self.tag_video]), np.concatenate([self.label, self.tag_label])



def subset_name(name: str) -> str:
    """One spelling a subset: 'training', 'validation' or 'testing' for all of theirs, any other in lower case."""
    name = name.strip().lower()
    return SUBSETS.get(name, name)



def in_subset(truth: GroundTruth, subset: str) -> np.ndarray:
    """(V,) bool: which videos lie in a subset, whatever the spelling."""
    sought = subset_name(subset)
    return np.fromiter((subset_name(name) == sought for name in truth.subsets), bool, len(truth.subsets))



def match_videos(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Index into `known` of the video that each name means, (len(names),) int64, -1 where there is none.

    `v_X` and `X` are one video. The exact spelling comes first, because ActivityNet has ids that start with `v_`.
    """
    place = {name: index for index, name in enumerate(known)}

    def find(name: str) -> int:
        spellings = name, 'v_' + name, name.removeprefix('v_')
        return next((place[spelling] for spelling in spellings if spelling in place), -1)

    return np.fromiter(map(find, names), np.int64, len(names))



def select_videos(truth: GroundTruth, keep: np.ndarray) -> GroundTruth:
    """The videos where `keep` (V,) bool is true, with their instances; `labels` stays as it is."""
    kept, rows = np.flatnonzero(keep), keep[truth.video]
    place, tags = np.cumsum(keep) - 1, keep[truth.tag_video]
    return truth._replace(
        videos=[truth.videos[i] for i in kept], subsets=[truth.subsets[i] for i in kept],
        durations=truth.durations[kept], video=place[truth.video[rows]],
        label=truth.label[rows], segments=truth.segments[rows],
        tag_video=place[truth.tag_video[tags]], tag_label=truth.tag_label[tags])



def read_ground_truth(path: str | os.PathLike) -> GroundTruth:
    """Reads a gt.json; a video without "annotations", or with null there, is an unannotated one.

    An annotation without "segment" is a tag: it says that something happens in the video, not when. Raises InputError
    naming file, video and mend for anything that is not of the form above.
    """
    return _read(path, {'database': _ground_truth}, 'ground truth')



def parse_ground_truth(database: dict[str, Any], path: str | os.PathLike = 'ground truth') -> GroundTruth:
    """What `read_ground_truth` gives for the value of "database"; messages name it by `path`."""
    return _ground_truth(database, path)[0]



def _ground_truth(database: dict[str, Any], path: str | os.PathLike) -> tuple[GroundTruth, int]:
    """The ground truth, and how many keys its videos and its annotations have."""
    _check_videos(path, database)
    entries = list(database.values())

    def where(index: int) -> str:
        return f'{path}: video {quote(list(database)[index])}'

    _check_types(entries, {dict}, where, 'must be an object {"subset": ..., "annotations": [...]}')
    subsets = [entry.get('subset') for entry in entries]
    _check_types(subsets, {str, type(None)}, where, '"subset" must be a text')
    seconds = _numbers([entry.get('duration') for entry in entries])
    annotations = [entry.get('annotations') for entry in entries]
    _check_types(annotations, {list, type(None)}, where, '"annotations" must be a list, or null')

    lists = dict(zip(database, (rows or [] for rows in annotations)))
    video = _videos_of_rows(lists)
    label, segments, timed = np.zeros(len(video), np.int64), np.zeros((len(video), 2)), np.zeros(len(video), bool)
    numbers, keys = _numbering(), sum(map(len, entries))
    for at, rows, where_row in _blocks(path, lists, 'annotation'):
        label[at] = _labels(rows, numbers, where_row)
        segments[at] = _segments([row.get('segment', [0, 0]) for row in rows], where_row)
        timed[at] = ['segment' in row for row in rows]
        keys += sum(map(len, rows))
    labels, label = _sort_labels(path, numbers, label)
    durations = np.where((seconds > 0) & (seconds <= MAX_SECONDS), seconds, np.nan)
    truth = GroundTruth(list(database), [subset or '' for subset in subsets], durations, labels, video[timed],
                        label[timed], segments[timed], video[~timed], label[~timed])
    return truth, keys



def empty_ground_truth() -> GroundTruth:
    nothing = np.zeros(0, np.int64)
    return GroundTruth([], [], np.zeros(0), [], nothing, nothing, np.zeros((0, 2)))



def read_annotations(root: Path) -> GroundTruth:
    """What gt.json says, or else labels.csv; nothing where there is neither. Durations also from extraction.json."""
    truth = empty_ground_truth()
    if (root / 'gt.json').exists():
        truth = read_ground_truth(root / 'gt.json')
    elif (root / 'labels.csv').exists():
        truth = read_labels(root / 'labels.csv')
    if (root / 'extraction.json').exists():
        truth = add_durations(truth, read_durations(root / 'extraction.json'))
    return truth



def missing_annotations(root: Path) -> InputError:
    """What to say to somebody who wants to train without annotations."""
    mend = 'write it, or labels.csv with the columns video,label'
    others = [path.name for path in sorted(root.glob('*.json')) if path.name not in ('extraction.json', 'gt.json')]
    if others:
        mend = f'{truncate(others[0])} is there: if it holds the annotations, name it gt.json; else {mend}'
    return InputError(f'{root / "gt.json"}: not found; {mend}')



def video_stem(name: str) -> str:
    """A video's name without the suffix of its file."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), '')
    return name[:len(name) - len(suffix)]



def read_labels(path: Path) -> GroundTruth:
    """Reads a labels.csv: a header `video,label`, then a label of a video a row, in any order, without any time.

    Raises InputError that names the line for anything else.
    """
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding='utf-8-sig'), newline=''), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{path}: not a readable CSV file ({truncate(error)}); write video,label, then a label of a '
                         f'video a line') from None
    header = [cell.strip() for cell in rows[0]] if rows else []
    if sorted(header) != ['label', 'video']:
        raise InputError(f'{path}: its first line must be the header video,label, found '
                         f'{truncate(",".join(header), 60) or "nothing"}')
    column = header.index('video')
    labels_of: dict[str, set[str]] = {}
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            raise InputError(f'{path}: row {number} must hold a video and a label, found '
                             f'{truncate(",".join(row), 60)!r}; quote what has a comma in it')
        name, label = video_stem(cells[column]), cells[1 - column]
        other = 'v_' + name if 'v_' + name in labels_of else name.removeprefix('v_')
        labels_of.setdefault(other if other in labels_of else name, set()).add(label)
    if not labels_of:
        raise InputError(f'{path}: labels no video; write a label of a video a line')
    videos, labels = list(labels_of), sorted(set().union(*labels_of.values()))
    pairs = np.array([(v, labels.index(label)) for v, name in enumerate(videos) for label in sorted(labels_of[name])])
    return empty_ground_truth()._replace(
        videos=videos, subsets=[''] * len(videos), durations=np.full(len(videos), np.nan), labels=labels,
        tag_video=pairs[:, 0], tag_label=pairs[:, 1])



def read_durations(path: Path) -> dict[str, float]:
    """How many seconds each video lasts, as extraction.json says. Raises InputError where it is not one."""
    content = read_json(path)
    videos = content.get('videos') if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(entry, dict) for entry in videos.values()):
        raise InputError(f'{path}: not of the form {{"videos": {{NAME: {{"duration": ...}}}}}}; extract again or '
                         f'remove it')
    found = {name: entry.get('duration') for name, entry in videos.items()}
    return {name: float(value) for name, value in found.items()
            if type(value) in (int, float) and 0 < value <= MAX_SECONDS}



def add_durations(truth: GroundTruth, seconds: dict[str, float]) -> GroundTruth:
    """Fill in durations that are not known; videos that are not known at all come at the end."""
    place = match_videos(list(seconds), truth.videos)
    new = [name for name, at in zip(seconds, place.tolist()) if at < 0]
    durations = np.append(truth.durations, [seconds[name] for name in new])
    for at, value in zip(place.tolist(), seconds.values()):
        if at >= 0 and np.isnan(durations[at]):
            durations[at] = value
    return truth._replace(videos=truth.videos + new, subsets=truth.subsets + [''] * len(new), durations=durations)



def read_split_file(path: Path) -> list[str]:
    """Video names, one a line, in the file's order. Raises InputError where it is empty or names a video twice."""
    try:
        names = [line.strip() for line in path.read_text(encoding='utf-8-sig').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({truncate(error)}); write one video name a line') from None
    names = [name.removesuffix('.npy') for name in names if name]    # some lists name the files
    if not names:
        raise InputError(f'{path}: names no video; write one a line')
    check_unique(names, path)
    return names



def check_unique(names: list[str], path: Path) -> None:
    counts = Counter(names)
    for name in counts:
        if counts[name] > 1 or 'v_' + name in counts:
            raise InputError(f'{path}: names {truncate(name)} more than once, with or without v_; keep one of them')



class TimeBase(NamedTuple):
    """How long the videos are, measured in what their features last."""
    num_videos: int
    ratio: float             # median of duration / (L x snippet_frames / feature_fps)
    feature_fps: float
    snippet_frames: float

    @property
    def is_mismatched(self) -> bool:
        return abs(self.ratio - 1) > 0.1

    def advice(self) -> str:
        """What is wrong and the flag that mends it: the nearest usual value, if one is near."""
        options: list[tuple[str, float, float]] = [('snippet_frames', n, n / self.snippet_frames) for n in USUAL_FRAMES]
        options += [('feature_fps', fps, self.feature_fps / fps) for fps in USUAL_FPS]
        flag, value, factor = min(options, key=lambda option: abs(np.log(option[2] / self.ratio)))
        if abs(factor / self.ratio - 1) > 0.05:
            flag, value = 'snippet_frames', self.snippet_frames * self.ratio
        return (f'TIME BASE: by gt.json the videos last {self.ratio:.3g} times as long as their features at '
                f'--feature_fps {self.feature_fps:g} --snippet_frames {self.snippet_frames:g} (median of '
                f'{self.num_videos}), so every detection would lie in the wrong place; a row seems to last '
                f'{self.ratio * self.snippet_frames / self.feature_fps:.3g} s: try --{flag} {value:.4g}')



def annotated_subsets(truth: GroundTruth) -> list[str]:
    """Of training, validation and testing, in this order, those that hold an annotated video."""
    annotated = {subset_name(truth.subsets[v]) for v in np.unique(truth.video_labels()[0]).tolist()}
    return [name for name in SUBSET_ORDER if name in annotated]

