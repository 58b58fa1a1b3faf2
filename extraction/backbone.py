"""Any function from frames to rows instead of I3D: `--backbone MODULE:FUNCTION`."""
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np

from extraction.flow_workers import center_crop
from extraction.snippets import SNIPPET_FRAMES, Features
from utils import InputError, truncate

Backbone = Callable[..., np.ndarray]  # (F, H, W, 3) uint8, and stride=s if it has that parameter -> (rows, width)


def load_backbone(name: str) -> Backbone:
    """Import the function 'MODULE:FUNCTION' from Python's search path or the working directory."""
    module, _, attribute = name.partition(':')
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything
        raise InputError(f'--backbone {truncate(name)}: {describe_error(error)}; use MODULE:FUNCTION') from None
    if not callable(function):
        raise InputError(f'--backbone {truncate(name)}: is a {type(function).__name__}, not a function of frames')
    return function


def takes_stride(backbone: Backbone) -> bool:
    """Return whether a backbone has a parameter `stride`, the frames from each row to the next."""
    try:
        return 'stride' in inspect.signature(backbone).parameters
    except (TypeError, ValueError):  # some functions of C
        return False


def describe_error(error: Exception) -> str:
    """Return an exception of the user's code in one line, with the file and line that raised it."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return truncate(f'{type(error).__name__}: {error} ({frame.filename}, line {frame.lineno})')


def extract_by_backbone(backbone: Backbone, frames: Iterable[np.ndarray], crop: int, folder: Path) -> Features:
    """Compute the rows of a video, stream 'rgb', with one call of the backbone for all frames.

    The center crops of the frames are written to a temporary file in `folder`, which the backbone gets as a memory
    map: hours of video need no memory. Raises InputError where the backbone fails or does not return rows, except for
    a video shorter than a snippet, which has no rows then.
    """
    with TemporaryFile(dir=folder) as file:
        num_frames = 0
        for frame in frames:
            file.write(center_crop(frame, crop).tobytes())
            num_frames += 1
        if not num_frames:
            return Features({}, 0)
        file.flush()
        mapped = np.memmap(file, np.uint8, 'r', shape=(num_frames, crop, crop, 3))
        try:
            rows = np.array(backbone(mapped), np.float32)
        except Exception as error:
            if num_frames < SNIPPET_FRAMES:
                return Features({}, num_frames)
            raise InputError(f'the backbone failed: {describe_error(error)}') from None
    if not rows.size and num_frames < SNIPPET_FRAMES:
        return Features({}, num_frames)
    if rows.ndim != 2 or not rows.size:
        raise InputError(f'the backbone returned an array of shape {rows.shape} instead of (rows, width)')
    return Features({'rgb': rows}, num_frames)
