"""Bulk reading and checking of the columns of gt.json and detections.json."""
import gc
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, count, islice
from typing import Any

import numpy as np
import orjson

from utils import InputError, parse_json, quote, read_bytes

BLOCK = 1000  # rows that are gone through at once: half a megabyte

MAX_SECONDS = 1e12  # beyond it (30,000 years) a time is a mistake, and lengths could overflow



@contextmanager
def gc_paused() -> Iterator[None]:
    """No garbage collection meanwhile: it would go through all rows again and again, and find nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()



@gc_paused()
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

