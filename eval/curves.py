"""curves.npz: the network outputs for every snippet of the test videos, for figures that do not need the network.

The class scores are stored only for the classes that matter in a video (predicted or annotated), as float16: enough for
a figure. The actionnesses are float32, because they are compared with their medians: 1 - 1e-4 and 1 - 2e-4, values of
saturated sigmoids, are the same number in float16.
"""
import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from utils import InputError, open_file, write_bytes

ACTION, INCONSISTENT, BACKGROUND = 2, 1, 0  # regions


class Curves(NamedTuple):
    """Curves of N videos, T sampled snippets each, and of M pairs of a video and a class that matters in it."""

    videos: list[str]         # (N,)
    labels: list[str]         # (C,)
    seconds: np.ndarray       # (N,) float64, length of one of the T snippets: snippet i starts at i * seconds
    num_snippets: np.ndarray  # (N,) int64, L: feature rows of the video before sampling
    aware: np.ndarray         # (N, T) float32, class-aware actionness
    agnostic: np.ndarray      # (N, T) float32, class-agnostic actionness
    video: np.ndarray         # (M,) int64 index into videos, ascending
    label: np.ndarray         # (M,) int64 index into labels
    selection: np.ndarray     # (M, T) float16, A_score
    cas: np.ndarray           # (M, T) float16, class activation sequence


def pick_curves(videos: Sequence[str], labels: Sequence[str], seconds: np.ndarray, num_snippets: np.ndarray,
                aware: np.ndarray, agnostic: np.ndarray, selection: np.ndarray, cas: np.ndarray,
                keep: np.ndarray) -> Curves:
    """Return the curves of N videos from network outputs: selection and cas (N, T, C) where `keep` (N, C) is true."""
    video, label = np.nonzero(keep)
    largest = np.finfo(np.float16).max
    half = [np.clip(values[video, :, label], -largest, largest).astype(np.float16) for values in (selection, cas)]
    return Curves(list(videos), list(labels), np.asarray(seconds, np.float64), np.asarray(num_snippets, np.int64),
                  np.asarray(aware, np.float32), np.asarray(agnostic, np.float32), video, label, *half)


def regions(aware: np.ndarray, agnostic: np.ndarray) -> np.ndarray:
    """Return the regions of snippets from both actionnesses (..., T) (section 3.3 of the paper).

    uint8: ACTION or BACKGROUND where both agree, INCONSISTENT elsewhere. Each is binarized at its own median over time;
    only greater values are action.
    """
    aware_on, agnostic_on = (a > np.median(a, axis=-1, keepdims=True) for a in (aware, agnostic))
    return aware_on.astype(np.uint8) + agnostic_on


def write_curves(path: str | os.PathLike, curves: Curves) -> None:
    """Write a curves.npz atomically; raises InputError if it cannot be written."""
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in curves._asdict().items()}
    for name in ('videos', 'labels'):
        arrays[name] = arrays[name].astype(np.str_)  # an empty list would be float64
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(path, content.getvalue())


def read_curves(path: str | os.PathLike) -> Curves:
    """Read a curves.npz; raises InputError if it is not one, or if its arrays do not fit each other."""
    try:
        with open_file(path) as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in Curves._fields}
    except InputError:
        raise
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or "not a curves.npz"}') from None
    except Exception:  # a damaged archive makes zipfile and numpy raise almost anything
        raise InputError(f'{path}: not a curves.npz, or damaged; write it again with --inference_only') from None
    are_arrays = all(isinstance(array, np.ndarray) for array in arrays.values())  # numpy returns other files as bytes
    problem = _find_problem(arrays) if are_arrays else 'contains files that are not arrays'
    if problem:
        raise InputError(f'{path}: {problem}; write it again with --inference_only')
    names = {name: arrays.pop(name).tolist() for name in ('videos', 'labels')}
    return Curves(**names, **arrays)


def _find_problem(arrays: dict[str, np.ndarray]) -> str | None:
    """Return what is wrong with the arrays of a file, None if nothing is."""
    n, m, c = (arrays[name].size for name in ('videos', 'video', 'labels'))
    t = arrays['aware'].shape[-1] if arrays['aware'].ndim else 0
    shapes = {'videos': (n,), 'labels': (c,), 'seconds': (n,), 'num_snippets': (n,), 'aware': (n, t),
              'agnostic': (n, t), 'video': (m,), 'label': (m,), 'selection': (m, t), 'cas': (m, t)}
    kinds = {'videos': 'U', 'labels': 'U', 'num_snippets': 'i', 'video': 'i', 'label': 'i'}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or not t:
            return f'"{name}" has the shape {array.shape}, which does not fit the other arrays'
        if array.dtype.kind != kinds.get(name, 'f'):
            return f'"{name}" has the type {array.dtype}'
        if array.dtype.kind == 'f' and not np.isfinite(array).all():
            return f'"{name}" contains NaN or infinity'
    for name, length in (('video', n), ('label', c)):
        index = arrays[name]
        if m and not 0 <= index.min() <= index.max() < length:
            return f'"{name}" contains an index out of range'
    if (np.diff(arrays['video']) < 0).any():
        return '"video" is not in ascending order'
    if len(set(arrays['videos'].tolist())) < n:
        return '"videos" has duplicates'
    if (arrays['seconds'] <= 0).any():
        return '"seconds" has a length that is not positive'
    return None
