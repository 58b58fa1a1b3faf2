"""What the stages of extraction cost beside bare calls of what they are made of: needs requirements-video.txt."""
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import Row, take_turns, timed
from extraction.flow import torch_tvl1
from extraction.flow_pool import FlowRecipe
from extraction.i3d import CHANNELS, EPSILON, I3D, Weights, build_i3d

HEIGHT, WIDTH = 256, 340
MOTIONS = {'no motion, noise alone': 0., 'moderate motion, 3 pixels a frame': 3., 'strong motion, 15': 15.}
PRODUCT = 2048    # side of the square matrices whose product is the network's limit


def grey_frames(pixels: float, count: int = 3) -> np.ndarray:
    """(count, HEIGHT, WIDTH) uint8: a texture that moves to the left by so many pixels a frame, with a little noise."""
    rng = np.random.RandomState(0)
    texture = np.zeros((HEIGHT, 2 * WIDTH))
    for cell, weight in ((4, 0.2), (12, 0.3), (40, 0.5)):
        coarse = rng.uniform(0, 255, (HEIGHT // cell, 2 * WIDTH // cell))
        texture += weight * np.asarray(cv2.resize(coarse, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC))
    starts = [round(i * pixels) for i in range(count)]
    noise = rng.normal(0, 1, (count, HEIGHT, WIDTH))
    frames = np.stack([texture[:, start:start + WIDTH] for start in starts]) + noise
    return frames.clip(0, 255).astype(np.uint8)


def bare(method: Callable[[], cv2.DenseOpticalFlow], frames: np.ndarray) -> None:
    """OpenCV's own call for every pair, nothing else."""
    for first, second in pairwise(frames):
        method().calc(first, second, np.zeros((HEIGHT, WIDTH, 2), np.float32))


def flow(rounds: int) -> list[Row]:
    """Optical flow in one process, with cropping and quantisation, against OpenCV's calls alone; in torch beside it."""
    methods: dict[str, Callable[[], cv2.DenseOpticalFlow]] = {
        'tvl1': cv2.optflow.DualTVL1OpticalFlow.create,
        'dis': partial(cv2.DISOpticalFlow.create, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)}
    rows = []
    for what, pixels in MOTIONS.items():
        frames = grey_frames(pixels)
        firsts, seconds = torch.from_numpy(frames[:-1]), torch.from_numpy(frames[1:])
        calls: dict[str, Callable[[], object]] = {'torch': partial(torch_tvl1, firsts, seconds)}
        for name, method in methods.items():
            calls[name], calls[f'bare {name}'] = partial(FlowRecipe(name), frames), partial(bare, method, frames)
        times = {name: one.times(1 / (len(frames) - 1)) for name, one in take_turns(calls, rounds).items()}
        rows += [timed(f'{name} of a pair at {WIDTH} x {HEIGHT}, {what}; limit: bare OpenCV', times[name],
                       times[f'bare {name}']) for name in methods]
        rows.append(timed(f'TV-L1 in torch on the processor, {what}; limit: bare OpenCV', times['torch'],
                          times['bare tvl1']))
    return rows


def network(rounds: int, batch: int = 2) -> list[Row]:
    """I3D against `torch.mm` of as much arithmetic."""
    matrix = torch.rand(PRODUCT, PRODUCT)
    calls: dict[str, Callable[[], object]] = {'product': partial(torch.mm, matrix, matrix)}
    operations = {}
    for modality, channels in CHANNELS.items():
        weights = Weights('', modality, '', '', I3D(modality).state_dict())
        network, clips = build_i3d(weights, EPSILON), torch.rand(batch, channels, 16, 224, 224)
        calls[modality] = partial(network, clips)
        with FlopCounterMode(display=False) as counter:
            network(clips)
        operations[modality] = counter.get_total_flops() / batch
    times = take_turns(calls, rounds)
    return [timed(f'I3D of a snippet, {modality}, {batch} at a time, {count / 1e9:.1f} GFLOP; limit: `torch.mm` of '
                  'as many', times[modality].times(1 / batch), times['product'].times(count / (2 * PRODUCT ** 3)))
            for modality, count in operations.items()]


def extraction(data: Path, rounds: int, device: torch.device) -> list[Row]:
    """All stages."""
    cv2.setNumThreads(1)    # as in a worker
    return flow(rounds) + network(rounds)
