"""Annotations: gt.json, labels.csv, subsets, durations, split lists, the time base.

    gt = read_ground_truth('gt.json')  # any file of the ActivityNet format
    gt = read_annotations(folder)  # gt.json or labels.csv of a data folder, and the durations in extraction.json
    validation = select_videos(gt, in_subset(gt, 'validation'))
"""
import csv
import io
import os
import re
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from formats.columns import (
    check_all,
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
from utils import InputError, open_file, plural, preview, quote, read_json, truncate

# The subsets in the order of their use, and how they are spelled, in any case.
SUBSETS = {'training': ('train', 'training'), 'validation': ('validation', 'val'), 'testing': ('test', 'testing')}
SPELLINGS = {spelling: name for name, spellings in SUBSETS.items() for spelling in spellings}

NEGATIVE = ''  # the label of a video without any of the classes: it is trained on, never detected nor scored

COMMON_SNIPPET_FRAMES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
COMMON_FPS = (10, 12.5, 15, 20, 24, 25, 30, 50, 60, 100, 200)
OWN_RATE = 'video'  # --feature_fps: each video has its own rate
SLACK = 0.2  # seconds by which a duration may be inexact
FEW = 0.02  # of the videos: 4 of THUMOS14's 410 are annotated after their end
MAX_BEYOND = 0.02  # share of times after the end of their video; 0.1 % of THUMOS14's annotations are
MIN_SHARE, MIN_KNOWN = 0.05, 10  # of a video up to which all of at least 10 segments end: another unit


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
    fps: dict[str, float] = {}  # frame rate of the videos for which it is known
    version: str = ''  # of the file, '' where absent

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
    return build_ground_truth({'database': database}, path)[0]


def build_ground_truth(content: dict[str, Any], path: str | os.PathLike) -> tuple[GroundTruth, int]:
    """Return the ground truth and the number of JSON keys of its videos and annotations; see `columns.Builder`."""
    database = content['database']
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
        check_all([row['label'] != NEGATIVE or 'segment' not in row for row in rows], location,
                  'has a "segment", but no label; an empty label without "segment" is for a video with none of the '
                  'classes')
        untimed += [row for row in rows if 'segment' not in row]
        num_keys += sum(map(len, rows))
    labels, label = sort_labels(path, ids, label)
    if any(name.isspace() for name in labels):
        raise InputError(f'{path}: a label consists of spaces; write the name of a class, or "" without "segment" for '
                         f'a video with none of the classes')
    negative = np.array([name == NEGATIVE for name in labels], bool)[label]
    for index in np.intersect1d(video[negative], video[~negative])[:1].tolist():
        raise InputError(f'{location_of_video(index)}: has an empty label (none of the classes) and another one; '
                         f'remove one of the annotations')
    lines = [*misspelled_keys(entries, ('subset', 'duration', 'fps', 'annotations'), 'videos'),
             *unreadable_numbers(database),
             *misspelled_keys(untimed, ('label', 'segment'), 'annotations'), *similar_names(labels)]
    gt = GroundTruth(list(database), [subset or '' for subset in subsets], durations, labels, video[timed],
                     label[timed], segments[timed], video[~timed], label[~timed],
                     tuple(f'{path}: {line}' for line in lines), fps=positive_numbers(database, 'fps'),
                     version=str(content.get('version', '')))
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
        cause = ('it is not UTF-8, save it as that' if isinstance(error, UnicodeDecodeError) else
                 truncate(error.strerror or error))
        raise InputError(f'{path}: not a readable {kind} file ({cause}); {fix}') from None


# ---- labels.csv -----------------------------------------------------------------------------------------------------

def read_labels(path: Path) -> GroundTruth:
    """Read a labels.csv: a header `video,label`, then one row per label of a video, in any order; all are tags.

    An empty label means that a video contains none of the classes.

    Raises InputError with the row for anything else.
    """
    fix = 'write the header video,label, then one row per label of a video'
    text = read_utf8(path, 'CSV', fix)
    first_line = text.partition('\n')[0].strip().lower()
    for separator in ';\t|':
        if sorted(cell.strip(' "') for cell in first_line.split(separator)) == ['label', 'video']:
            raise InputError(f'{path}: the columns are separated by {separator!r}; separate them by commas, as in '
                             f'video,label')
    try:
        rows = list(csv.reader(io.StringIO(text, newline=''), strict=True))
    except csv.Error as error:
        raise InputError(f'{path}: not a readable CSV file ({truncate(error)}); {fix}') from None
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if sorted(header) != ['label', 'video']:
        raise InputError(f'{path}: the first line must be the header video,label, found '
                         f'{truncate(",".join(rows[0] if rows else []), 60) or "nothing"}')
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
    several = [name for name in names if name != (first := re.split('[,;|/+&]', name)[0].strip()) and first in names]
    pairs = np.array([(v, names.index(label)) for v, name in enumerate(videos) for label in sorted(labels_of[name])])
    return empty_ground_truth()._replace(
        videos=videos, subsets=[''] * len(videos), durations=np.full(len(videos), np.nan), labels=names,
        tag_video=pairs[:, 0], tag_label=pairs[:, 1],
        warnings=tuple(f'{path}: {line}' for line in [*similar_names(names), *(
            f'the label {quote(name)} looks like several and is trained as one class: write one row per label'
            for name in several[:1])]))


# ---- durations ------------------------------------------------------------------------------------------------------

def positive_numbers(videos: dict[str, dict], key: str) -> dict[str, float]:
    """Return the value of a key of the videos that have a positive number there, or a fraction as "30000/1001"."""
    values = [entry.get(key) for entry in videos.values()]
    if any(type(value) is str and '/' in value for value in values):
        parts = [value.split('/') if type(value) is str and value.count('/') == 1 else (value, 1) for value in values]
        numbers = duration_column([first for first, _ in parts]) / duration_column([second for _, second in parts])
    else:
        numbers = duration_column(values)
    return {name: value for name, value in zip(videos, numbers.tolist()) if not np.isnan(value)}


def unreadable_numbers(videos: dict[str, dict]) -> list[str]:
    """Return a line each for values of "duration" and "fps" that are not positive numbers and thus ignored."""
    lines = []
    for key in ('duration', 'fps'):
        known = positive_numbers(videos, key)
        wrong = [name for name, entry in videos.items() if entry.get(key) is not None and name not in known]
        if wrong:
            lines.append(f'"{key}" of {plural(len(wrong), "video")} is ignored, it is no positive number: '
                         f'{truncate(videos[wrong[0]][key], 20)!r} for {quote(wrong[0])}')
    return lines


def read_durations(path: str | os.PathLike) -> dict[str, float]:
    """Read the duration in seconds of every video of an extraction.json or a gt.json that has one.

    Raises InputError for another file.
    """
    return positive_numbers(read_videos(path), 'duration')


def read_videos(path: str | os.PathLike) -> dict[str, dict]:
    """Read the entries of the videos of an extraction.json or a gt.json; raises InputError for another file."""
    content = read_json(path)
    videos = content.get('videos', content.get('database')) if isinstance(content, dict) else None
    if not isinstance(videos, dict) or not all(isinstance(entry, dict) for entry in videos.values()):
        raise InputError(f'{path}: contains no durations: it needs {{"videos": {{video: {{"duration": seconds}}}}}}; '
                         f'extract again, or use another file')
    return videos


def add_durations(gt: GroundTruth, seconds: dict[str, float], fps: dict[str, float]) -> GroundTruth:
    """Fill in missing durations, and replace frame rates by those of features; new videos are appended."""
    index = match_videos(list(seconds), gt.videos).tolist()
    new = [name for name, v in zip(seconds, index) if v < 0]
    durations = np.append(gt.durations, [seconds[name] for name in new])
    for v, value in zip(index, seconds.values()):
        if v >= 0 and np.isnan(durations[v]):
            durations[v] = value
    names = {name: gt.videos[v] if v >= 0 else name for name, v in zip(seconds, index)}
    return gt._replace(videos=gt.videos + new, subsets=gt.subsets + [''] * len(new), durations=durations,
                       fps=gt.fps | {names[name]: rate for name, rate in fps.items() if name in names})


# ---- a data folder --------------------------------------------------------------------------------------------------

def read_annotations(root: Path) -> GroundTruth:
    """Read gt.json, or else labels.csv, and the durations in extraction.json; files that do not exist are skipped."""
    gt = empty_ground_truth()
    if (root / 'gt.json').exists():
        gt = read_ground_truth(root / 'gt.json')
    elif (root / 'labels.csv').exists():
        gt = read_labels(root / 'labels.csv')
    if (root / 'extraction.json').exists():
        videos = read_videos(root / 'extraction.json')
        gt = add_durations(gt, positive_numbers(videos, 'duration'), positive_numbers(videos, 'fps'))
    return gt


def require_annotations(root: Path) -> GroundTruth:
    """Return the annotations of a data folder; raises InputError where they contain no label."""
    gt = read_annotations(root)
    if not gt.labels and (root / 'gt.json').exists():
        raise InputError(f'{root / "gt.json"}: no annotation has a label; write each as {{"label": ..., "segment": '
                         f'[start, end]}}, or {{"label": ...}} for a video-level label')
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
    text = read_utf8(path, 'text', 'write one video name per line')
    names = [line.strip(' \t') for line in re.split('\r\n|\r|\n', text)]  # splitlines() also splits at U+2028
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


# ---- times ----------------------------------------------------------------------------------------------------------

def suspicious_times(kind: str, segments: np.ndarray, durations: np.ndarray) -> list[str]:
    """Return a line for each kind of times that are impossible, or in another unit than seconds.

    kind: what has these segments (R, 2) in videos of these durations (R,), NaN where unknown.
    """
    lines, (start, end) = [], segments.T.copy()  # contiguous
    for wrong, what, share in ((end < start, 'end before they start, and match nothing', 0),
                               (end == start, 'have no length, and match nothing', MAX_BEYOND),
                               (start < -1, 'start before second 0', 0)):
        if wrong.sum() > share * len(segments):
            lines.append(f'{int(wrong.sum())} of {len(segments)} {kind} {what}: are their times [start, end] in '
                         f'seconds?')
    known = ~np.isnan(durations)
    beyond = int((end > np.maximum(1.1 * durations, durations + 1)).sum())  # False for NaN
    if beyond > MAX_BEYOND * known.sum():
        lines.append(f'{beyond} of {int(known.sum())} {kind} end after their videos: are the times frames instead of '
                     f'seconds?')
    long = known & (durations > 10)
    with np.errstate(over='ignore'):  # tiny durations
        share = (end / durations).max(initial=-np.inf, where=known)
    if 0 < end.max(initial=-np.inf, where=long) <= 1:
        lines.append(f'all {kind} lie within the first second of videos of up to {durations[long].max():.4g} s: are '
                     f'the times fractions of the duration?')
    elif 0 < share <= MIN_SHARE and known.sum() >= MIN_KNOWN:
        lines.append(f'all {kind} lie within the first {100 * share:.2g} % of their videos: is "duration" in seconds, '
                     f'and are the times?')
    return lines


class TimeBase(NamedTuple):
    """The time that the features of V videos cover, and what is known about it.

    A feature row covers `snippet_frames` frames at `feature_fps`, or with OWN_RATE at the rate of its video.
    """

    names: list[str]
    lengths: np.ndarray    # (V,) L, number of snippets
    durations: np.ndarray  # (V,) seconds, NaN where unknown
    fps: np.ndarray        # (V,) frame rate of the video, NaN where unknown
    last_end: np.ndarray   # (V,) seconds, end of the last instance, 0 without one
    feature_fps: float | str
    snippet_frames: float

    def frame_rates(self) -> np.ndarray:
        """Return the frame rate of the features of each video: (V,), NaN where unknown.

        The own rate of a video is its `fps`, if its features last as long as the video at this rate; otherwise that at
        which its L snippets last as long as the video.
        """
        if self.feature_fps != OWN_RATE:
            return np.full(len(self.lengths), float(self.feature_fps))
        by_duration = self.snippet_frames * self.lengths / self.durations
        return np.where(np.isnan(self.fps) | self.is_off(self.fps, 0), by_duration, self.fps)

    def is_off(self, fps: float | np.ndarray, tolerance: float = 0.03) -> np.ndarray:
        """Return which videos are known to be longer or shorter than their features at a frame rate: (V,) bool.

        Up to one snippet is no difference, because the last, incomplete snippet of a video has no features.
        """
        snippet = self.snippet_frames / fps
        difference = np.abs(self.durations - self.lengths * snippet)
        return (difference > snippet + SLACK) & (difference > tolerance * self.durations)  # False for NaN

    @property
    def ratios(self) -> np.ndarray:
        """Of the videos whose duration is known: relative to that of their features."""
        ratios = self.durations * self.frame_rates() / (self.lengths * self.snippet_frames)
        return ratios[~np.isnan(ratios)]

    def lines(self) -> list[str]:
        """Return what is known about the time base."""
        num_known = int((~np.isnan(self.durations)).sum())
        if self.feature_fps == OWN_RATE:
            seconds = self.snippet_frames / self.frame_rates()
            known = seconds[~np.isnan(seconds)]
            return [f'time base: {known.min():.4g} to {known.max():.4g} s per snippet, by the duration or fps of each '
                    f'video'] if len(known) else []
        if not num_known:
            rates = self.fps[~np.isnan(self.fps)]
            own = (f'; --feature_fps {OWN_RATE} if the features have the frame rates of the videos, {rates.min():.4g} '
                   f'to {rates.max():.4g}') if len(rates) and (rates != self.feature_fps).any() else ''
            return [f'time base: not checked, because no duration is known; gt.json may contain "duration"{own}']
        rest = len(self.names) - num_known
        return [f'the videos last {np.median(self.ratios):.3f} times as long as their features '
                f'({self.snippet_frames / float(self.feature_fps):g} s per snippet, median of {num_known}'
                + (f'; {plural(rest, "video")} without a duration: not checked)' if rest else ')')]

    def warnings(self) -> list[str]:
        """Return a line each for durations and for annotations that do not match the features."""
        lines, fps = [], self.frame_rates()
        if self.is_off(fps).any():
            lines.append(self.advice())
        snippet = self.snippet_frames / fps
        beyond = [name for name, is_beyond in zip(self.names, self.last_end > (self.lengths + 1) * snippet + SLACK)
                  if is_beyond]
        num_annotated = int((self.last_end > 0).sum())
        if len(beyond) > FEW * num_annotated:
            lines.append(f'{len(beyond)} of {plural(num_annotated, "video")} with annotations that '
                         f'end after the features ({np.nanmedian(snippet):.3g} s per snippet): {preview(beyond)}')
        if len(self.names) > 1 and len({*self.lengths}) == 1 and self.lengths[0] in (1024, 2048):  # widths of I3D
            lines.append(f'every video has {self.lengths[0]} rows: if the files are (width, snippets), python -m '
                         f'scripts.convert SOURCE DEST turns them')
        return lines

    def advice(self) -> str:
        """Return what is wrong at these flags, and the flag that fixes it: a common value, or OWN_RATE."""
        fps, ratio, num_known = float(self.feature_fps), float(np.median(self.ratios)), len(self.ratios)
        # A video is half a snippet longer than its features, on average.
        middle = float(np.nanmedian(self.durations * fps / ((self.lengths + 0.5) * self.snippet_frames)))
        options: list[tuple[str, float, float]] = [('snippet_frames', frames, frames / self.snippet_frames)
                                                   for frames in COMMON_SNIPPET_FRAMES]
        options += [('feature_fps', rate, fps / rate) for rate in COMMON_FPS]
        options.sort(key=lambda option: abs(np.log(option[2] / middle)))
        options.append(('snippet_frames', self.snippet_frames * ratio, ratio))
        num_off = int(self.is_off(fps).sum())
        fitting = [option for option in options if self.is_off(fps / option[2]).sum() <= 0.1 * num_known]
        at = f'at --feature_fps {fps:g} --snippet_frames {self.snippet_frames:g}'
        if not fitting or num_off <= 0.1 * num_known:
            low, high = self.ratios.min(), self.ratios.max()
            few = 'correct or extract these, or ' if num_off <= 0.1 * num_known else ''
            names = preview([name for name, off in zip(self.names, self.is_off(fps)) if off])
            return (f'TIME BASE: the durations of {num_off} of {plural(num_known, "video")} do not match '
                    f'their features {at} (the videos are {low:.3g} to {high:.3g} times as long), their detections '
                    f'would be misplaced: {names}; {few}try --feature_fps {OWN_RATE}, the rate of each video')
        flag, value, _ = fitting[0]
        return (f'TIME BASE: the videos are {ratio:.3g} times as long as their features {at} (median of {num_known}), '
                f'so every detection would be misplaced; a snippet seems to last '
                f'{ratio * self.snippet_frames / fps:.3g} s: try --{flag} {value:.4g}')
