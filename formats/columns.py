"""Bulk reading and checking of gt.json and detections.json: all rows of a file as a few arrays.

`read_file` parses a file and passes its videos to a function that builds the result. That function goes through
`row_blocks` and takes one column after the other out of each block: `label_column`, `segment_column`, `values_of` and
`to_float64`. Each of these checks a whole column at once and raises InputError with the file, the video and the row of
the first bad value.
"""
import gc
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
import orjson

from utils import InputError, parse_json, preview, quote, read_bytes, truncate

BLOCK_SIZE = 1000  # rows that are processed together: half a megabyte
MAX_SECONDS = 1e12  # a later time (30,000 years) is an error, and lengths could overflow

Location = Callable[[int], str]  # of the i-th value of a column: file, video and row, for a message
# Builds the result from the content of a file and its path; also returns the number of JSON keys in the videos.
Builder = Callable[[dict[str, Any], str | os.PathLike], tuple[Any, int]]


# ---- files ----------------------------------------------------------------------------------------------------------

@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause garbage collection, which would scan millions of new rows again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@gc_paused()
def read_file(path: str | os.PathLike, builders: dict[str, Builder], kind: str) -> Any:
    """Read a JSON file with the first of the `builders` whose key it has.

    `kind` is what the file should contain, for messages. Raises InputError for anything else, and for duplicate keys.
    """
    # orjson is fast, but silently drops all but the last value of a duplicate key. Every key has a colon, so nothing
    # was dropped if the file has as many colons as keys were seen. If it has more, because of names with colons or
    # objects elsewhere, the parsed value is written again and must have as many colons as the file. If that fails too,
    # or anything is wrong with the file, Python's parser decides: it reports duplicate keys, and it reads NaN, nesting
    # beyond 254 levels and escaped surrogates, which orjson does not.
    content = read_bytes(path)
    try:
        value = orjson.loads(content)
        result, num_keys = _build(value, path, builders, kind)
        num_colons = content.count(b':')
        if num_keys == num_colons:
            return result
        may_have_escaped_colons = b'\\u003' in content  # they would be written as plain ones
        if not may_have_escaped_colons and orjson.dumps(value).count(b':') == num_colons:
            return result
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, InputError):
        pass
    return _build(parse_json(content, path), path, builders, kind)[0]


def _build(value: Any, path: str | os.PathLike, builders: dict[str, Builder], kind: str) -> tuple[Any, int]:
    """Return the result of the first builder whose key the value has, and the number of keys seen in the value."""
    for key, builder in builders.items():
        if type(value) is dict and type(value.get(key)) is dict:
            result, num_keys = builder(value, path)
            return result, num_keys + len(value) + sum(len(inner) for inner in value.values() if type(inner) is dict)
    needed = ' or '.join(f'{{"{key}": {{video: ...}}}}' for key in builders)
    raise InputError(f'{path}: not a file of {kind}: it needs {needed}')


# ---- rows -----------------------------------------------------------------------------------------------------------

def row_blocks(path: str | os.PathLike, rows_of_video: dict[str, list], kind: str
               ) -> Iterator[tuple[slice, list[dict], Location]]:
    """Yield the rows of all videos in blocks: the slice of the block among all rows, the rows, and their locations.

    A block stays in the CPU's cache while its columns are taken out one by one; all rows together would not.
    """
    remaining, start = chain.from_iterable(rows_of_video.values()), 0
    while rows := list(islice(remaining, BLOCK_SIZE)):
        location = partial(_location_of_row, path, rows_of_video, kind, start)
        check_types(rows, {dict}, location, 'must be an object {"label": ..., "segment": [start, end]}')
        yield slice(start, start + len(rows)), rows, location
        start += len(rows)


def _location_of_row(path: str | os.PathLike, rows_of_video: dict[str, list], kind: str, start: int, index: int) -> str:
    """Return file, video and number of a row: the one at `index` in the block that begins at row `start`."""
    index += start
    for video, rows in rows_of_video.items():
        if index < len(rows):
            break
        index -= len(rows)
    return f'{path}: video {quote(video)}, {kind} {index + 1}'


# ---- columns --------------------------------------------------------------------------------------------------------

def video_column(rows_of_video: dict[str, list]) -> np.ndarray:
    """Return the index of the video of each row: (R,) int64."""
    lengths = np.fromiter(map(len, rows_of_video.values()), np.int64, len(rows_of_video))
    return np.repeat(np.arange(len(rows_of_video)), lengths)


def label_ids() -> defaultdict[str, int]:
    """Return a dictionary that gives every new label the next id, from 0 on."""
    return defaultdict(count().__next__)


def label_column(rows: list[dict], ids: defaultdict[str, int], location: Location) -> np.ndarray:
    """Return the id of each row's label: (R,) int64."""
    names = values_of(rows, 'label')
    check_types(names, {str}, location, 'needs a "label" that is a string')
    return np.fromiter(map(ids.__getitem__, names), np.int64, len(names))


def sort_labels(path: str | os.PathLike, ids: dict[str, int], column: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the labels in ASCII order, and a column of ids as indices into them."""
    labels = sorted(ids)
    check_names(path, labels)
    index = {name: i for i, name in enumerate(labels)}
    index_of_id = np.fromiter(map(index.__getitem__, ids), np.int64, len(ids))
    return labels, index_of_id[column]


def segment_column(pairs: list, location: Location) -> np.ndarray:
    """Return segments as (R, 2) float64 seconds."""
    message = 'needs a "segment": [start, end]'
    check_types(pairs, {list}, location, message)
    check_all(np.fromiter(map(len, pairs), np.int64, len(pairs)) == 2, location, message)
    segments = to_float64(list(chain.from_iterable(pairs))).reshape(-1, 2)
    in_range = np.abs(segments) <= MAX_SECONDS
    check_all(in_range[:, 0] & in_range[:, 1], location,
              f'"segment" must contain two finite numbers of seconds, at most {MAX_SECONDS:g}')
    return segments


def duration_column(values: list) -> np.ndarray:
    """Return durations as float64 seconds, NaN for anything but a positive number."""
    seconds = to_float64(values)
    return np.where((seconds > 0) & (seconds <= MAX_SECONDS), seconds, np.nan)


def values_of(rows: list[dict], key: str, other_key: str = '') -> list:
    """Return the value of `key` in each row, else that of `other_key`, else None."""
    try:
        return [row[key] for row in rows]  # three times as fast
    except KeyError:
        return [row.get(key, row.get(other_key)) for row in rows]


def to_float64(values: list) -> np.ndarray:
    """Return numbers, or strings that contain one, as float64; NaN for anything else, also for true and false."""
    def convert(value: Any) -> float:
        try:
            return float(value) if type(value) in (float, int, str) else np.nan
        except (ValueError, OverflowError):  # not a number, or an integer beyond float64
            return np.nan

    if set(map(type, values)) <= {float}:
        return np.fromiter(values, np.float64, len(values))
    return np.fromiter(map(convert, values), np.float64, len(values))


# ---- similar names --------------------------------------------------------------------------------------------------

def plain_form(name: str) -> str:
    """Return a name without case, Unicode form, spaces, underscores and hyphens, for comparisons."""
    return ''.join(c for c in unicodedata.normalize('NFC', name).casefold() if not c.isspace() and c not in '_-')


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.75) -> str | None:
    """Return the most similar of the known names, None where none is similar."""
    names = {plain_form(one): one for one in known}
    found = get_close_matches(plain_form(name), names, 1, cutoff)
    return names[found[0]] if found else None


def quote_distinct(names: Sequence[str]) -> list[str]:
    """Return names for a message, quoted; escaped where they look alike because only their Unicode forms differ."""
    looks = [unicodedata.normalize('NFC', name) for name in names]
    return [quote(name) if looks.count(look) == 1 else truncate(ascii(name), 60) for name, look in zip(names, looks)]


def similar_names(names: Iterable[str]) -> list[str]:
    """Return a line with the names that differ only in case, spaces or Unicode form, if there are any."""
    same = defaultdict(list)
    for name in names:
        same[plain_form(name)].append(name)
    groups = [' and '.join(quote_distinct(group)) for group in same.values() if len(group) > 1]
    return [f'different labels that differ only in case, spaces or Unicode form: {preview(groups)}; spell them alike '
            f'if they are one class'] if groups else []


def misspelled_keys(objects: Iterable[dict[str, Any]], known: Sequence[str], what: str) -> list[str]:
    """Return a line for each unknown key that is almost a known one which its object lacks."""
    objects, lines = list(objects), []
    for key in sorted(set().union(*objects) - {*known}):
        near = nearest_name(key, known, 0.85)
        if near and (count := sum(key in one and near not in one for one in objects)):
            lines.append(f'the key {quote(key)} of {count} {what} is ignored: did you mean "{near}"?')
    return lines


# ---- checks ---------------------------------------------------------------------------------------------------------

def check_all(valid: np.ndarray | Sequence[bool], location: Location, message: str) -> None:
    """Raise InputError for the first value that is not valid."""
    valid = np.asarray(valid, bool)
    if not valid.all():
        raise InputError(f'{location(int(np.argmin(valid)))}: {message}')


def check_types(values: Iterable, types: set[type], location: Location, message: str) -> None:
    """Raise InputError for the first value that has none of the `types`."""
    if not set(map(type, values)) <= types:
        check_all([type(value) in types for value in values], location, message)


def check_names(path: str | os.PathLike, names: Iterable[str]) -> None:
    """Raise InputError for a name that cannot be printed or written."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f'{path}: the name {quote(name)} is not valid text: it has half of a UTF-16 surrogate '
                             'pair; fix it in the file') from None


def check_video_names(path: str | os.PathLike, videos: dict[str, Any]) -> None:
    """Raise InputError for a video that is spelled both `v_X` and `X`, and for a name that is not valid text."""
    for name in videos:
        if 'v_' + name in videos:
            raise InputError(f'{path}: {quote(name)} and {quote("v_" + name)} name the same video, keep one of them')
    check_names(path, videos)
