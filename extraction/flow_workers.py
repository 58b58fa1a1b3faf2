"""Optical flow of whole snippets, in order: in worker processes, or on a GPU."""
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import connection, get_context, parent_process

import cv2
import numpy as np
import torch

from extraction.flow import dis, quantize, torch_tvl1, tvl1
from utils import InputError

METHODS = {'tvl1': tvl1, 'dis': dis}


@dataclass(frozen=True)
class FlowRecipe:
    """How flow is computed from gray frames, cropped and quantized. Calling it computes the flow of a snippet."""

    method: str = 'tvl1'
    bound: float = 20  # pixels per frame at which flow is clipped
    quantized: bool = True
    crop: int = 224

    def __call__(self, gray: np.ndarray) -> np.ndarray:
        """Return the flow from each frame to the next: (F + 1, H, W) uint8 -> (F, crop, crop, 2) float32 in [-1, 1]."""
        return self.crop_and_quantize([METHODS[self.method](first, second) for first, second in pairwise(gray)])

    def crop_and_quantize(self, fields: Iterable[np.ndarray]) -> np.ndarray:
        """Return the network's input from flow fields (H, W, 2) in pixels, which cover the whole frame."""
        return np.stack([quantize(center_crop(field, self.crop), self.bound, self.quantized) for field in fields])


def center_crop(image: np.ndarray, crop: int) -> np.ndarray:
    """Return the central square of `crop` pixels of an image (H, W, ...)."""
    top, left = ((side - crop) // 2 for side in image.shape[:2])
    return image[top:top + crop, left:left + crop]


class FlowPool:
    """Worker processes that compute `recipe(gray)`, a picklable function; with 0 workers the main process does."""

    def __init__(self, recipe: Callable[[np.ndarray], np.ndarray], workers: int):
        self.recipe = recipe
        self.depth = 2 * workers  # snippets in flight: per worker, one that is computed and one that waits
        self.executor = ProcessPoolExecutor(workers, get_context('spawn'), init_worker) if workers else None

    def submit(self, gray: np.ndarray | None) -> 'Future[np.ndarray]':
        """Start to compute the flow of a snippet; raises InputError where a worker was killed."""
        assert gray is not None
        if self.executor is None:
            done: Future[np.ndarray] = Future()
            try:
                done.set_result(self.recipe(gray))
            except Exception as error:
                done.set_exception(error)
            return done
        try:
            return self.executor.submit(self.recipe, gray)
        except BrokenProcessPool:
            raise _worker_died() from None

    def result(self, task: 'Future[np.ndarray]') -> np.ndarray:
        """Wait for the flow of a snippet; raises InputError where a worker was killed."""
        try:
            return task.result()
        except BrokenProcessPool:
            raise _worker_died() from None

    def __enter__(self) -> 'FlowPool':
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop the workers; results that are not needed any more are dropped."""
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)


class TorchFlow(FlowPool):
    """The same on a GPU: TV-L1 of all frame pairs of a snippet at once."""

    def __init__(self, recipe: FlowRecipe, device: torch.device):
        def compute(gray: np.ndarray) -> np.ndarray:
            frames = torch.from_numpy(gray).to(device)
            return recipe.crop_and_quantize(torch_tvl1(frames[:-1], frames[1:]).cpu().numpy())

        super().__init__(compute, workers=0)


def _worker_died() -> InputError:
    return InputError('a worker process for optical flow was killed, perhaps for lack of memory; run the same command '
                      'again with fewer --workers: finished videos are not extracted again')


def init_worker(on_interrupt: signal.Handlers = signal.SIG_DFL) -> None:
    """Use one core, exit silently on Ctrl-C by default, and exit with the parent process."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, on_interrupt)
    parent = parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
