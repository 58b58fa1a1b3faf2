"""The two files the field exchanges, read with care and written whole: gt.json and detections.json.

    gt.json           {"database": {video: {"subset", "duration", "annotations": [{"label", "segment": [start, end]}]}}}
    detections.json   {"results": {video: [{"label", "score", "segment": [start, end]}]}}

and detections.csv, for tables: `video,label,start,end,score`. Columns are checked and converted in bulk; whoever is at
fault is looked up only once something is wrong. Limits: a time lies within `MAX_SECONDS`, a whole number has at most
4300 digits, nesting goes as deep as Python's parser follows, names are texts that UTF-8 can hold.
"""
import gc
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice
from typing import Any, NamedTuple

import numpy as np
import orjson

from utils import InputError, parse_json, quote, read_bytes, write_bytes, write_text

BLOCK = 1000  # rows that are gone through at once: half a megabyte
MAX_SECONDS = 1e12  # beyond it (30,000 years) a time is a mistake, and lengths could overflow
SUBSETS = {'train': 'training', 'val': 'validation', 'test': 'testing'}


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


class Detections(NamedTuple):
    """R detections in the file's order."""
    videos: list[str]  # every key of "results", also those with an empty list
    labels: list[str]  # the labels used, sorted (ASCII)
    video: np.ndarray  # (R,) int64 index into videos
    label: np.ndarray  # (R,) int64 index into labels
    segments: np.ndarray  # (R, 2) float64 seconds
    scores: np.ndarray  # (R,) float64


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


def select_detections(detections: Detections, keep: np.ndarray) -> Detections:
    """The detections where `keep` (R,) bool is true; `videos` and `labels` stay as they are."""
    return detections._replace(video=detections.video[keep], label=detections.label[keep],
                               segments=detections.segments[keep], scores=detections.scores[keep])


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection meanwhile: it would go through all rows again and again, and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def read_ground_truth(path: str | os.PathLike) -> GroundTruth:
    """Reads a gt.json; a video without "annotations", or with null there, is an unannotated one.

    An annotation without "segment" is a tag: it says that something happens in the video, not when. Raises InputError
    naming file, video and mend for anything that is not of the form above.
    """
    return _read(path, {'database': _ground_truth}, 'ground truth')


def read_detections(path: str | os.PathLike) -> Detections:
    """Reads a detections.json; the key of a score is `score`, or `score300` as in the released files.

    Raises InputError naming file, video and mend for anything that is not of the form above.
    """
    return _read(path, {'results': _detections}, 'detections')


def read_either(path: str | os.PathLike) -> GroundTruth | Detections:
    """Reads a file of ground truth or of detections, whichever it is."""
    return _read(path, {'database': _ground_truth, 'results': _detections}, 'ground truth or detections')


@without_collection()
def _read(path: str | os.PathLike, forms: dict[str, Callable], kind: str) -> Any:
    """What a file holds, by the first of the `forms` whose key it has.

    orjson drops the first of the values of a key given twice without a word. But every key has its colon: where the
    file has no more colons than keys were found, none was dropped. Names with colons and objects elsewhere need a
    second look: what was read is written again, and as many colons must come out as went in. If not, and for a file
    with anything wrong, Python's parser has the word. It alone reads NaN, nesting beyond 254 and escaped surrogates,
    and names a key given twice.
    """
    content = read_bytes(path)
    try:
        value = orjson.loads(content)
        found, keys = _interpret(value, path, forms, kind)
        colons = content.count(b':')
        if keys == colons:
            return found
        escaped = b'\\u003' in content  # perhaps a colon, which would come out as such
        if not escaped and orjson.dumps(value).count(b':') == colons:
            return found
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, InputError):
        pass
    return _interpret(parse_json(content, path), path, forms, kind)[0]


def _interpret(value: Any, path: str | os.PathLike, forms: dict[str, Callable], kind: str) -> tuple[Any, int]:
    """What a value holds, by the first of the `forms` whose key it has, and the number of keys that were seen in it."""
    for key, form in forms.items():
        if type(value) is dict and type(value.get(key)) is dict:
            found, keys = form(value[key], path)
            return found, keys + len(value) + sum(len(inner) for inner in value.values() if type(inner) is dict)
    needed = ' or '.join(f'{{"{key}": {{video: ...}}}}' for key in forms)
    raise InputError(f'{path}: not a file of {kind}: it needs {needed}')


def ground_truth_of(database: dict[str, Any], path: str | os.PathLike = 'ground truth') -> GroundTruth:
    """What `read_ground_truth` gives for the value of "database"; messages name it by `path`."""
    return _ground_truth(database, path)[0]


def detections_of(results: dict[str, Any], path: str | os.PathLike = 'detections') -> Detections:
    """What `read_detections` gives for the value of "results"; messages name it by `path`."""
    return _detections(results, path)[0]


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


def _detections(results: dict[str, Any], path: str | os.PathLike) -> tuple[Detections, int]:
    """The detections, and how many keys they have."""
    _check_videos(path, results)
    _check_types(results.values(), {list}, lambda index: f'{path}: video {quote(list(results)[index])}',
                 'must have a list of detections')
    video = _videos_of_rows(results)
    label, segments, scores = np.zeros(len(video), np.int64), np.zeros((len(video), 2)), np.zeros(len(video))
    numbers, keys = _numbering(), 0
    for at, rows, where in _blocks(path, results, 'detection'):
        label[at] = _labels(rows, numbers, where)
        segments[at] = _segments(_values(rows, 'segment'), where)
        scores[at] = _numbers(_values(rows, 'score', 'score300'))
        _check(np.isfinite(scores[at]), where, 'needs a "score" that is a finite number')
        keys += sum(map(len, rows))
    labels, label = _sort_labels(path, numbers, label)
    return Detections(list(results), labels, video, label, segments, scores), keys


@without_collection()
def write_detections(path: str | os.PathLike, detections: Detections) -> None:
    """Writes a detections.json, video by video; a video without detections gets an empty list.

    Raises ValueError for NaN and infinity, which JSON cannot hold.
    """
    if not (np.isfinite(detections.scores).all() and np.isfinite(detections.segments).all()):
        raise ValueError('scores and segments must be finite')
    order = np.argsort(detections.video, kind='stable')
    ends = np.searchsorted(detections.video[order], np.arange(len(detections.videos)), 'right').tolist()
    names = [_writable(name) for name in detections.labels]
    columns = detections.label[order], detections.scores[order], detections.segments[order]
    rows = [{'label': names[label], 'score': score, 'segment': segment}
            for label, score, segment in zip(*(column.tolist() for column in columns))]
    results = {_writable(video): rows[start:end]
               for video, start, end in zip(detections.videos, [0, *ends], ends)}
    write_bytes(path, orjson.dumps({'version': 'VERSION 1.3', 'results': results, 'external_data': {}}))


def write_detections_csv(path: str | os.PathLike, detections: Detections) -> None:
    """Writes a table of detections in the order of the rows, one line each: video, label, start, end, score."""
    def cell(name: str) -> str:
        name = _writable(name)
        return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name

    videos, labels = (list(map(cell, names)) for names in (detections.videos, detections.labels))
    columns = detections.video, detections.label, *detections.segments.T, detections.scores
    lines = [f'{videos[video]},{labels[label]},{start},{end},{score}\n'
             for video, label, start, end, score in zip(*(column.tolist() for column in columns))]
    write_text(path, 'video,label,start,end,score\n' + ''.join(lines))


def _writable(name: str) -> str:
    """A name as UTF-8 can hold it: lone surrogates, which stand in file names that are no UTF-8, are escaped."""
    return name.encode('utf-8', 'backslashreplace').decode()


def _check_videos(path: str | os.PathLike, videos: dict[str, Any]) -> None:
    """Raises InputError for a video under both its spellings, and for a name that is no text."""
    for name in videos:
        if 'v_' + name in videos:
            raise InputError(f'{path}: {quote(name)} and {quote("v_" + name)} name the same video, keep one of them')
    _check_names(path, videos)


def _videos_of_rows(lists: dict[str, list]) -> np.ndarray:
    """The index of its video for each row, (R,) int64."""
    return np.repeat(np.arange(len(lists)), np.fromiter(map(len, lists.values()), np.int64, len(lists)))


def _blocks(path: str | os.PathLike, lists: dict[str, list], kind: str
            ) -> Iterator[tuple[slice, list[dict], Callable[[int], str]]]:
    """The rows of all videos in blocks: their place among all, the rows, and what tells where one of them stands.

    In blocks, because a block stays in the processor's cache while its columns are taken out one by one. All rows do
    not: each column would wait for the memory again.
    """
    waiting, start = chain.from_iterable(lists.values()), 0
    while rows := list(islice(waiting, BLOCK)):
        where = partial(_where, path, lists, kind, start)
        _check_types(rows, {dict}, where, 'must be an object {"label": ..., "segment": [start, end]}')
        yield slice(start, start + len(rows)), rows, where
        start += len(rows)


def _where(path: str | os.PathLike, lists: dict[str, list], kind: str, start: int, index: int) -> str:
    """The file, the video and the place in its list of the row with an index in the block from row `start` on."""
    index += start
    for video, rows in lists.items():
        if index < len(rows):
            break
        index -= len(rows)
    return f'{path}: video {quote(video)}, {kind} {index + 1}'


def _numbering() -> defaultdict[str, int]:
    """Numbers for names: a new name gets the next number."""
    return defaultdict(count().__next__)


def _labels(rows: list[dict], numbers: defaultdict[str, int], where: Callable[[int], str]) -> np.ndarray:
    """The number of each row's label."""
    names = _values(rows, 'label')
    _check_types(names, {str}, where, 'needs a "label" that is a text')
    return np.fromiter(map(numbers.__getitem__, names), np.int64, len(names))


def _sort_labels(path: str | os.PathLike, numbers: dict[str, int], label: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The labels in order, and for the column of their numbers the column of their places in that order."""
    labels = sorted(numbers)
    _check_names(path, labels)
    place = {name: index for index, name in enumerate(labels)}
    places = np.fromiter(map(place.__getitem__, numbers), np.int64, len(numbers))
    return labels, places[label]


def _segments(pairs: list, where: Callable[[int], str]) -> np.ndarray:
    """The segments (R, 2) of rows."""
    pair = 'needs a "segment": [start, end]'
    _check_types(pairs, {list}, where, pair)
    _check(np.fromiter(map(len, pairs), np.int64, len(pairs)) == 2, where, pair)
    segments = _numbers(list(chain.from_iterable(pairs))).reshape(-1, 2)
    inside = np.abs(segments) <= MAX_SECONDS
    _check(inside[:, 0] & inside[:, 1], where,
           f'"segment" must hold two finite numbers of seconds, at most {MAX_SECONDS:g}')
    return segments


def _values(rows: list[dict], key: str, other_key: str = '') -> list:
    """What the rows have under `key`, those without it under `other_key`; None where there is neither."""
    try:
        return [row[key] for row in rows]  # in a third of the time
    except KeyError:
        return [row.get(key, row.get(other_key)) for row in rows]


def _numbers(values: list) -> np.ndarray:
    """Numbers, or texts that hold one, as float64; NaN for anything else (true and false are not numbers)."""
    def number(value: Any) -> float:
        try:
            return float(value) if type(value) in (float, int, str) else np.nan
        except (ValueError, OverflowError):  # not a number, or a whole one beyond float64
            return np.nan
    if set(map(type, values)) <= {float}:
        return np.fromiter(values, np.float64, len(values))
    return np.fromiter(map(number, values), np.float64, len(values))


def _check(good: np.ndarray | Sequence[bool], where: Callable[[int], str], complaint: str) -> None:
    """Raises InputError for the first value that is not good."""
    good = np.asarray(good, bool)
    if not good.all():
        raise InputError(f'{where(int(np.argmin(good)))}: {complaint}')


def _check_types(values: Iterable, types: set[type], where: Callable[[int], str], complaint: str) -> None:
    """Raises InputError for the first value that is of no type in `types`."""
    if not set(map(type, values)) <= types:
        _check([type(value) in types for value in values], where, complaint)


def _check_names(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Raises InputError for a name that nobody could print or write."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f'{path}: the name {quote(name)} is not valid text: it has half of a UTF-16 surrogate '
                             'pair; mend it in the file') from None
