"""The snippets of several videos, decoded ahead of the network: in a thread, or in worker processes for a GPU."""
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple, TypeVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from extraction.flow_workers import init_worker
from extraction.frames import BadVideo, describe, read_frames
from extraction.snippets import SNIPPET_FRAMES, End, Snippet, crop_snippets
from utils import InputError

T = TypeVar('T')
AHEAD = 4  # snippets that a decoder is ahead of the network
SHARED_MEMORY = Path('/dev/shm')


class Recipe(NamedTuple):
    """How videos are cut into snippets."""

    fps: float = 25
    resize: str = 'short256'
    crop: int = 224
    stride: int = SNIPPET_FRAMES
    flow: bool = False  # whether snippets have the gray frames for flow


def read_video(video: int, path: Path, recipe: Recipe, threads: int = 0) -> Iterator[Snippet | End]:
    """Yield the snippets of a video file and its end, with the error, of any kind, where the file cannot be used."""
    try:
        size = path.stat().st_size  # a file that changes while it is read is an error
        with closing(read_frames(path, recipe.fps, recipe.resize, threads)) as frames:
            for item in crop_snippets(frames, recipe.crop, recipe.stride, recipe.flow, video):
                yield item._replace(size=size) if isinstance(item, End) else item
    except Exception as error:
        yield End(video, 0, str(error) if isinstance(error, BadVideo) else describe(error))


def read_videos(paths: Sequence[Path], recipe: Recipe, processes: int = 0) -> Iterator[Snippet | End]:
    """Yield the snippets of the videos, each followed by its end, while the next ones are decoded.

    In a thread, video after video; with worker processes those of several videos are mixed. Raises InputError where a
    process was killed.
    """
    if processes:
        return prefetch(read_in_processes(paths, recipe, processes), AHEAD)
    return prefetch((item for video, path in enumerate(paths) for item in read_video(video, path, recipe)), AHEAD)


def prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    """Yield items that are computed in a thread, at most `depth` ahead."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        pending = deque(thread.submit(next, iterator, end) for _ in range(depth))
        while (item := pending.popleft().result()) is not end:
            pending.append(thread.submit(next, iterator, end))
            yield item  # type: ignore[misc]


def count_processes(wanted: int, num_videos: int, recipe: Recipe, device: torch.device) -> int:
    """Return the number of decoding processes: for a GPU one per video, as far as they fit into shared memory.

    Containers often have only 64 MB of it. On a CPU the network takes most of the time: 0, a thread is enough.
    """
    if device.type == 'cpu':
        return 0
    snippet = SNIPPET_FRAMES * 3 * recipe.crop ** 2 * (3 if recipe.flow else 1)  # bytes; gray frames are larger
    try:
        free = disk_usage(SHARED_MEMORY).free
    except OSError:
        return 0
    return min(wanted, num_videos, free // (2 * (AHEAD + 1) * snippet))


# ---- worker processes -----------------------------------------------------------------------------------------------

class SnippetDataset(IterableDataset):
    """The snippets of videos; each worker process takes the next video that no other one has taken."""

    def __init__(self, paths: Sequence[Path], recipe: Recipe, context: BaseContext):
        self.paths, self.recipe, self.num_taken = paths, recipe, context.Value('q', 0)

    def __iter__(self) -> Iterator[Snippet | End]:
        while True:
            with self.num_taken.get_lock():
                video = self.num_taken.value
                self.num_taken.value += 1
            if video >= len(self.paths):
                return
            yield from read_video(video, self.paths[video], self.recipe, threads=1)


def read_in_processes(paths: Sequence[Path], recipe: Recipe, processes: int) -> Iterator[Snippet | End]:
    """Yield the snippets of the videos, each as soon as one of the processes has decoded it.

    The loader passes arrays as tensors in shared memory, which is released here.
    """
    context = get_context('forkserver')  # this process has threads, and perhaps CUDA
    loader = DataLoader(SnippetDataset(paths, recipe, context), batch_size=None, num_workers=processes,
                        prefetch_factor=AHEAD, in_order=False, multiprocessing_context=context,
                        worker_init_fn=ignore_interrupts)
    try:
        for item in loader:
            if isinstance(item, End):
                yield item
            else:
                yield Snippet(item.rgb.numpy().copy(), None if item.gray is None else item.gray.numpy().copy(),
                              item.video)
    except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:  # the latter while data is passed
        if isinstance(error, RuntimeError) and 'DataLoader worker' not in str(error):
            raise
        raise InputError('a decoding process was killed, perhaps for lack of memory; run the same command again with '
                         'fewer --workers: finished videos are not extracted again') from None


def ignore_interrupts(worker: int) -> None:
    """Initialize a decoding process: the main process ends it."""
    init_worker(signal.SIG_IGN)
