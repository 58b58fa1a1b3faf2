"""From frames to feature rows: snippets of 16 frames, their RGB and flow clips, one network for each.

`F` frames give `F - 1` flow fields and `L = (F - 1) // 16` rows in both streams. Row `i` is computed from the frames
`16 i ... 16 i + 15` and the flow from each of them to the next.
"""
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from extraction.flow_workers import FlowPool, center_crop

SNIPPET_FRAMES = 16
Network = Callable[[Tensor], Tensor]  # (N, C, F, crop, crop) in [-1, 1] -> (N, P, D)


class Snippet(NamedTuple):
    """The frames of one row; H and W are those after resizing."""

    rgb: np.ndarray   # (16, H, W, 3) uint8
    gray: np.ndarray  # (17, H, W) uint8: includes the first frame of the next snippet


class Clips(NamedTuple):
    """The inputs of the networks for one row; whole frames have H and W instead of crop."""

    rgb: np.ndarray   # (16, crop, crop, 3) uint8
    flow: np.ndarray  # (16, crop, crop, 2) float32 in [-1, 1]


class Features(NamedTuple):
    """The rows of a video."""

    streams: dict[str, np.ndarray]  # 'rgb', 'flow': (L, D) float32; empty if L is 0
    num_frames: int                 # F


def num_rows(num_frames: int) -> int:
    """Return L for F frames: the last flow field of a row needs the frame after the row."""
    return max(0, num_frames - 1) // SNIPPET_FRAMES


def iter_snippets(frames: Iterable[np.ndarray]) -> Iterator[Snippet]:
    """Cut frames (H, W, 3) uint8 into snippets that do not overlap; the remainder at the end is dropped."""
    rgb: list[np.ndarray] = []
    gray: list[np.ndarray] = []
    for frame in frames:
        rgb.append(frame)
        gray.append(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        if len(rgb) > SNIPPET_FRAMES:
            yield Snippet(np.stack(rgb[:-1]), np.stack(gray))
            rgb, gray = rgb[-1:], gray[-1:]


def with_flow(snippets: Iterable[Snippet], pool: FlowPool) -> Iterator[Clips]:
    """Yield each snippet's RGB frames and flow in order; the flow of later snippets is computed meanwhile."""
    pending: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
    for snippet in snippets:
        pending.append((snippet.rgb, pool.submit(snippet.gray)))
        if len(pending) > pool.depth:
            rgb, task = pending.popleft()
            yield Clips(rgb, pool.result(task))
    for rgb, task in pending:
        yield Clips(rgb, pool.result(task))


def extract(frames: Iterable[np.ndarray], networks: dict[str, Network], pool: FlowPool, crop: int = 224,
            batch_size: int = 1, device: torch.device | str = 'cpu', dtype: torch.dtype = torch.float32) -> Features:
    """Compute the rows of a video with the networks for 'rgb' and 'flow', `batch_size` snippets at a time.

    Clips have `dtype` and are on `device`. Memory is bounded by a few snippets and the rows.
    """
    num_frames = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_frames
        for frame in frames:
            num_frames += 1
            yield frame

    def cropped() -> Iterator[Snippet]:
        for rgb, gray in iter_snippets(counted()):
            yield Snippet(np.stack([center_crop(frame, crop) for frame in rgb]), gray)

    rows: dict[str, list[np.ndarray]] = {stream: [] for stream in networks}
    for batch in batches(with_flow(cropped(), pool), batch_size):
        for stream, network in networks.items():
            clip = to_clip([getattr(clips, stream) for clips in batch], device, dtype)
            with torch.inference_mode():
                features = network(clip).mean(dim=1).float().cpu().numpy()  # (N, 1, D) -> (N, D)
            # A copy: rows in torch's memory fragment it, by 2 GiB in two hours of video.
            rows[stream].append(features.copy())
    return Features({stream: np.concatenate(parts) for stream, parts in rows.items() if parts}, num_frames)


def to_clip(images: list[np.ndarray], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Stack N arrays (F, H, W, C), uint8 or already in [-1, 1], to a clip (N, C, F, H, W) in [-1, 1]."""
    clip = torch.from_numpy(np.stack(images)).to(device)
    if clip.dtype == torch.uint8:
        clip = 2 * clip.to(dtype) / 255 - 1
    return clip.to(dtype).permute(0, 4, 1, 2, 3)


def batches(clips: Iterable[Clips], size: int) -> Iterator[list[Clips]]:
    """Yield lists of `size` clips; the last one may be shorter."""
    batch = []
    for one in clips:
        batch.append(one)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
