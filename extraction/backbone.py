"""Any function from frames to rows in place of I3D: `--backbone MODULE:FUNCTION`."""
import importlib
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from extraction.flow_pool import centre
from extraction.snippets import Features
from utils import InputError, truncate

Backbone = Callable[[np.ndarray], np.ndarray]    # (F, H, W, 3) uint8 -> (rows, width)


def load_backbone(name: str) -> Backbone:
    """The function that 'MODULE:FUNCTION' names, looked for as `import` does and in the current folder."""
    module, _, function = name.partition(':')
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:    # a module may raise anything
        raise InputError(f'--backbone {truncate(name)}: {where(error)}; give MODULE:FUNCTION') from None
    if not callable(found):
        raise InputError(f'--backbone {truncate(name)}: is a {type(found).__name__}, not a function of frames')
    return found


def where(error: Exception) -> str:
    """An exception of somebody else's code in one line, with the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return truncate(f'{type(error).__name__}: {error} ({place.filename}, line {place.lineno})')


def extract_by_backbone(backbone: Backbone, frames: Iterable[np.ndarray], crop: int, folder: Path) -> Features:
    """The rows of a video, in the stream 'rgb', that a backbone gives for all of its frames at once.

    The frames, cut to their centre, wait in a temporary file in `folder`, so that hours of them need no memory: what
    the backbone gets is that file, mapped. Raises InputError where it fails or gives something else than rows.
    """
    with TemporaryFile(dir=folder) as file:
        num_frames = 0
        for frame in frames:
            file.write(centre(frame, crop).tobytes())
            num_frames += 1
        if not num_frames:
            return Features({}, 0)
        file.flush()
        mapped = np.memmap(file, np.uint8, 'r', shape=(num_frames, crop, crop, 3))
        try:
            rows = np.array(backbone(mapped), np.float32)
        except Exception as error:
            raise InputError(f'the backbone failed: {where(error)}') from None
    if rows.ndim != 2 or not rows.size:
        raise InputError(f'the backbone gave an array of shape {rows.shape}, not (rows, width)')
    return Features({'rgb': rows}, num_frames)
