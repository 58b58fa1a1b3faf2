"""From frames to feature rows: snippets of 16 frames, their RGB and flow clips, a network for each.

`F` frames give `F - 1` flow fields and `L = (F - 1) // 16` rows in both streams. Row `i` is made of the frames
`16 i ... 16 i + 15` and of the flow from each of them to the next.
"""
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from extraction.flow_pool import FlowPool, centre

SNIPPET_FRAMES = 16
Network = Callable[[Tensor], Tensor]    # (N, C, F, crop, crop) in [-1, 1] -> (N, P, D)


class Snippet(NamedTuple):
    """The frames that a row is made of; H and W are those after resizing."""
    rgb: np.ndarray     # (16, H, W, 3) uint8
    grey: np.ndarray    # (17, H, W) uint8: also the first frame of the next snippet


class Clips(NamedTuple):
    """What the networks see of a snippet."""
    rgb: np.ndarray     # (16, crop, crop, 3) uint8
    flow: np.ndarray    # (16, crop, crop, 2) float32 in [-1, 1]


class Features(NamedTuple):
    """The rows of a video."""
    streams: dict[str, np.ndarray]    # 'rgb', 'flow': (L, D) float32; empty where there is no row
    num_frames: int                   # F


def num_rows(num_frames: int) -> int:
    """L of F frames: the last row needs a frame behind it, which its last flow field leads to."""
    return max(0, num_frames - 1) // SNIPPET_FRAMES


def snippets(frames: Iterable[np.ndarray]) -> Iterator[Snippet]:
    """Cut frames (H, W, 3) uint8 into snippets that do not overlap; what is left over at the end is dropped."""
    rgb: list[np.ndarray] = []
    grey: list[np.ndarray] = []
    for frame in frames:
        rgb.append(frame)
        grey.append(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        if len(rgb) > SNIPPET_FRAMES:
            yield Snippet(np.stack(rgb[:-1]), np.stack(grey))
            rgb, grey = rgb[-1:], grey[-1:]


def clips(frames: Iterable[np.ndarray], pool: FlowPool, crop: int) -> Iterator[Clips]:
    """The clips of each snippet in order; flow of later ones is computed meanwhile."""
    waiting: deque = deque()
    for snippet in snippets(frames):
        rgb = np.stack([centre(frame, crop) for frame in snippet.rgb])
        waiting.append((rgb, pool.submit(snippet.grey)))
        if len(waiting) > pool.depth:
            rgb, task = waiting.popleft()
            yield Clips(rgb, pool.result(task))
    for rgb, task in waiting:
        yield Clips(rgb, pool.result(task))


def extract(frames: Iterable[np.ndarray], networks: dict[str, Network], pool: FlowPool, crop: int = 224,
            batch_size: int = 1, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> Features:
    """The rows of a video by the networks for 'rgb' and 'flow', `batch_size` snippets at a time.

    Clips are made in `dtype` on `device`. Memory is bounded: a few snippets are held, and the rows.
    """
    num_frames = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_frames
        for frame in frames:
            num_frames += 1
            yield frame

    rows: dict[str, list[np.ndarray]] = {stream: [] for stream in networks}
    for batch in batches(clips(counted(), pool, crop), batch_size):
        for stream, network in networks.items():
            clip = to_clip([getattr(one, stream) for one in batch], device, dtype)
            with torch.inference_mode():
                found = network(clip).mean(dim=1).float().cpu().numpy()    # (N, 1, D) -> (N, D)
            rows[stream].append(found.copy())    # torch's memory, if kept, leaves holes: 2 GiB in two hours of video
    return Features({stream: np.concatenate(parts) for stream, parts in rows.items() if parts}, num_frames)


def to_clip(images: list[np.ndarray], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """N times (F, H, W, C), bytes or already in [-1, 1], as the networks take them: (N, C, F, H, W) in [-1, 1]."""
    clip = torch.from_numpy(np.stack(images)).to(device)
    if clip.dtype == torch.uint8:
        clip = 2 * clip.to(dtype) / 255 - 1
    return clip.to(dtype).permute(0, 4, 1, 2, 3)


def batches(items: Iterable[Clips], size: int) -> Iterator[list[Clips]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
