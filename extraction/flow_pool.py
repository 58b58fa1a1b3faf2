"""Optical flow of whole snippets: in worker processes, bounded and in order, or on a GPU."""
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
    """How flow fields are made of grey frames, and what of them is kept. Calling it computes them."""
    method: str = 'tvl1'
    bound: float = 20        # pixels a frame, beyond which motion is cut off
    quantized: bool = True
    crop: int = 224

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """The flow from each frame to the next: (F + 1, H, W) uint8 -> (F, crop, crop, 2) float32 in [-1, 1]."""
        return self.keep([METHODS[self.method](first, second) for first, second in pairwise(grey)])

    def keep(self, fields: Iterable[np.ndarray]) -> np.ndarray:
        """What the network sees of flow fields (H, W, 2) in pixels, computed for all of the frame."""
        return np.stack([quantize(centre(field, self.crop), self.bound, self.quantized) for field in fields])


def centre(image: np.ndarray, crop: int) -> np.ndarray:
    """The square of `crop` pixels in the midst of an image (H, W, ...)."""
    top, left = ((side - crop) // 2 for side in image.shape[:2])
    return image[top:top + crop, left:left + crop]


class FlowPool:
    """Processes that compute `recipe(grey)`, a picklable function; with 0 workers this process does it."""

    def __init__(self, recipe: Callable[[np.ndarray], np.ndarray], workers: int):
        self.recipe = recipe
        self.depth = 2 * workers    # snippets in flight: one at work and one waiting for each worker
        self.executor = ProcessPoolExecutor(workers, get_context('spawn'), _begin_work) if workers else None

    def submit(self, grey: np.ndarray) -> 'Future[np.ndarray]':
        """Begin with the flow of a snippet."""
        if self.executor is None:
            done: Future[np.ndarray] = Future()
            done.set_result(self.recipe(grey))
            return done
        try:
            return self.executor.submit(self.recipe, grey)
        except BrokenProcessPool:
            raise _killed() from None

    def result(self, task: 'Future[np.ndarray]') -> np.ndarray:
        """The flow of a snippet once it is there. Raises InputError where a worker was killed."""
        try:
            return task.result()
        except BrokenProcessPool:
            raise _killed() from None

    def __enter__(self) -> 'FlowPool':
        return self

    def __exit__(self, *exception: object) -> None:
        """End the workers; work that nobody waits for any more is dropped."""
        if self.executor is not None:
            self.executor.shutdown(cancel_futures=True)


class TorchFlow(FlowPool):
    """The same on a GPU: TV-L1 of a snippet's pairs at once."""

    def __init__(self, recipe: FlowRecipe, device: torch.device):
        def compute(grey: np.ndarray) -> np.ndarray:
            frames = torch.from_numpy(grey).to(device)
            return recipe.keep(torch_tvl1(frames[:-1], frames[1:]).cpu().numpy())

        super().__init__(compute, workers=0)


def _killed() -> InputError:
    return InputError('a process that computes optical flow was killed, perhaps for lack of memory; start again with '
                      'fewer --workers: videos that are done are kept')


def _begin_work() -> None:
    """A worker uses one core, ends without a word at Ctrl-C and does not outlive its parent."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
