"""From frames to feature rows: snippets of 16 frames, their RGB and flow clips, one network for each.

A row every `stride` frames: row `i` is computed from the frames `s i ... s i + 15` and, with flow, the flow from each
of them to the next. `F` frames give `L = (F - 16) // s + 1` rows, with flow `(F - 17) // s + 1`.
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
from extraction.frames import BadVideo, describe
from utils import InputError

SNIPPET_FRAMES = 16
Network = Callable[[Tensor], Tensor]  # (N, C, F, crop, crop) in [-1, 1] -> (N, P, D)


class Snippet(NamedTuple):
    """The frames of one row; H and W are those after resizing, or crop."""

    rgb: np.ndarray          # (16, H, W, 3) uint8
    gray: np.ndarray | None  # (17, H, W) uint8: includes the frame after the row; None without flow
    video: int = 0           # the index of the video


class Clips(NamedTuple):
    """The inputs of the networks for one row; whole frames have H and W instead of crop."""

    rgb: np.ndarray   # (16, crop, crop, 3) uint8
    flow: np.ndarray  # (16, crop, crop, 2) float32 in [-1, 1]
    video: int = 0


class End(NamedTuple):
    """Follows the last snippet of a video."""

    video: int
    num_frames: int
    error: str = ''  # where the video cannot be used
    size: int = 0    # bytes of the file that was read


class Features(NamedTuple):
    """The rows of a video."""

    streams: dict[str, np.ndarray]  # 'rgb', 'flow': (L, D) float32; empty if L is 0
    num_frames: int                 # F


def num_rows(num_frames: int, stride: int = SNIPPET_FRAMES, flow: bool = True) -> int:
    """Return L for F frames: the last flow field of a row needs the frame after the row."""
    return max(0, (num_frames - SNIPPET_FRAMES - flow) // stride + 1)


def iter_snippets(frames: Iterable[np.ndarray], stride: int = SNIPPET_FRAMES, flow: bool = True) -> Iterator[Snippet]:
    """Cut frames (H, W, 3) uint8 into snippets; the remainder at the end is dropped."""
    rgb: list[np.ndarray] = []
    gray: list[np.ndarray] = []
    needed, skipped = SNIPPET_FRAMES + flow, 0
    for frame in frames:
        if skipped:  # between snippets that are further apart than their length
            skipped -= 1
            continue
        rgb.append(frame)
        if flow:
            gray.append(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))
        if len(rgb) == needed:
            yield Snippet(np.stack(rgb[:SNIPPET_FRAMES]), np.stack(gray) if flow else None)
            skipped = max(0, stride - needed)
            del rgb[:stride], gray[:stride]


def crop_snippets(frames: Iterable[np.ndarray], crop: int, stride: int, flow: bool,
                  video: int = 0) -> Iterator[Snippet | End]:
    """Yield the snippets of a video, RGB as center crops, and its end."""
    num_frames = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal num_frames
        for frame in frames:
            num_frames += 1
            yield frame if flow else center_crop(frame, crop)  # flow is computed on whole frames

    for snippet in iter_snippets(counted(), stride, flow):
        rgb = np.stack([center_crop(frame, crop) for frame in snippet.rgb]) if flow else snippet.rgb
        yield Snippet(rgb, snippet.gray, video)
    yield End(video, num_frames)


def with_flow(snippets: Iterable[Snippet | End], pool: FlowPool) -> Iterator[Clips | End]:
    """Yield each snippet's RGB frames and flow in order; the flow of later snippets is computed meanwhile.

    Where the flow of a snippet fails, the end of its video contains the error.
    """
    pending: deque[tuple[Snippet, Future[np.ndarray]] | End] = deque()
    errors: dict[int, str] = {}

    def first() -> Iterator[Clips | End]:
        item = pending.popleft()
        if isinstance(item, End):
            yield item._replace(error=item.error or errors.pop(item.video, ''))
            return
        try:
            yield Clips(item[0].rgb, pool.result(item[1]), item[0].video)
        except InputError:
            raise
        except Exception as error:
            errors[item[0].video] = f'optical flow {describe(error)}'

    for item in snippets:
        pending.append(item if isinstance(item, End) else (item, pool.submit(item.gray)))
        if len(pending) > pool.depth:
            yield from first()
    while pending:
        yield from first()


def extract_videos(snippets: Iterable[Snippet | End], networks: dict[str, Network], pool: FlowPool | None = None,
                   batch_size: int = 1, device: torch.device | str = 'cpu',
                   dtype: torch.dtype = torch.float32) -> Iterator[tuple[End, Features]]:
    """Compute the rows of videos with the networks for 'rgb' and 'flow', `batch_size` snippets at a time.

    A batch has snippets of one video, so that rows do not depend on other videos, whose snippets may come in between.
    Clips have `dtype` and are on `device`. Without networks for flow there is no pool. Memory is bounded by a batch per
    video and the rows.
    """
    waiting: dict[int, list[Snippet | Clips]] = {}
    rows: dict[int, dict[str, list[np.ndarray]]] = {}

    def compute(video: int) -> None:
        batch = waiting.pop(video, [])
        for stream, network in networks.items() if batch else ():
            clip = to_clip([getattr(clips, stream) for clips in batch], device, dtype)
            with torch.inference_mode():
                features = network(clip).mean(dim=1).float().cpu().numpy()  # (N, 1, D) -> (N, D)
            # A copy: rows in torch's memory fragment it, by 2 GiB in two hours of video.
            rows.setdefault(video, {}).setdefault(stream, []).append(features.copy())

    for item in snippets if pool is None else with_flow(snippets, pool):
        if isinstance(item, End):
            compute(item.video)
            streams = {stream: np.concatenate(parts) for stream, parts in rows.pop(item.video, {}).items()}
            yield item, Features(streams, item.num_frames)
            continue
        waiting.setdefault(item.video, []).append(item)
        if len(waiting[item.video]) == batch_size:
            compute(item.video)


def extract(frames: Iterable[np.ndarray], networks: dict[str, Network], pool: FlowPool | None = None, crop: int = 224,
            batch_size: int = 1, stride: int = SNIPPET_FRAMES) -> Features:
    """Compute the rows of one video on the CPU, see `extract_videos`; raises BadVideo where its flow fails."""
    snippets = crop_snippets(frames, crop, stride, flow=pool is not None)
    end, features = next(extract_videos(snippets, networks, pool, batch_size))
    if end.error:
        raise BadVideo(end.error)
    return features


def to_clip(images: list[np.ndarray], device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Stack N arrays (F, H, W, C), uint8 or already in [-1, 1], to a clip (N, C, F, H, W) in [-1, 1]."""
    clip = torch.from_numpy(np.stack(images)).to(device)
    if clip.dtype == torch.uint8:
        clip = 2 * clip.to(dtype) / 255 - 1
    return clip.to(dtype).permute(0, 4, 1, 2, 3)
