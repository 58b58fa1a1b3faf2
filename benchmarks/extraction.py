"""What the stages of extraction cost beside bare calls of what they are made of: needs requirements-video.txt."""
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.filter import Graph
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.table import Row, take_turns, timed
from benchmarks.workloads import SHARED
from extraction.flow_pool import FlowRecipe
from extraction.frames import BILINEAR, read_frames
from extraction.i3d import CHANNELS, EPSILON, I3D, Weights, build_i3d

CLIP = SHARED / 'video' / 'women_long_jump.mp4'    # 480 x 360, 24.8 frames a second, 35 s
HEIGHT, WIDTH = 256, 340
MOTIONS = {'no motion, noise alone': 0., 'moderate motion, 3 pixels a frame': 3., 'strong motion, 15': 15.}
PRODUCT = 2048    # side of the square matrices whose product is the network's limit


def graph_alone(video: Path, *filters: tuple[str, str]) -> Iterator[av.VideoFrame]:
    """PyAV's own filter graph on all frames of a video, and nothing else."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'
        graph = Graph()
        graph.link_nodes(graph.add_buffer(template=stream), *(graph.add(*one) for one in filters),
                         graph.add('buffersink')).configure()
        for frame in chain(container.decode(stream), [None]):
            graph.push(frame)
            try:
                while True:
                    yield graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                pass


def selection_in_python(video: Path) -> Iterator[np.ndarray]:
    """The same rate by choosing frames by their times in Python, resized by OpenCV: what scripts usually do."""
    with av.open(str(video)) as container:
        shown = 0
        for frame in container.decode(video=0):
            while frame.time is not None and shown / 25 <= frame.time:
                yield cv2.resize(frame.to_ndarray(format='rgb24'), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
                shown += 1


def count(frames: Iterator[object]) -> int:
    return sum(1 for _ in frames)


def decode(rounds: int, video: Path = CLIP) -> list[Row]:
    """A frame at 25 a second, from the file to RGB, against PyAV's own filter graph."""
    if not video.is_file():
        return []
    size = f'{WIDTH}:{HEIGHT}'
    scale, exact_scale = ('scale', f'{size}:flags=bilinear'), ('scale', f'{size}:flags={BILINEAR}')
    calls: dict[str, Callable[[], object]] = {
        'graph': lambda: count(graph_alone(video, ('fps', '25'), scale)),
        'rgb graph': lambda: count(graph_alone(video, ('fps', '25'), exact_scale, ('format', 'rgb24'))),
        'ours': lambda: count(read_frames(video, 25, f'{WIDTH}x{HEIGHT}')),
        'python': lambda: count(selection_in_python(video)),
    }
    times = take_turns(calls, rounds)
    return [timed("PyAV's filter graph, `fps` and `scale`, frames left in YUV", times['graph']),
            timed('the same graph, exactly to RGB; limit: the line above', times['rgb graph'], times['graph']),
            timed('`read_frames`; limit: the graph in RGB', times['ours'], times['rgb graph']),
            timed('frames selected in Python, resized by OpenCV; limit: the graph in RGB', times['python'],
                  times['rgb graph'])]


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
    """Optical flow in one process, with cropping and quantisation, against OpenCV's calls alone."""
    methods: dict[str, Callable[[], cv2.DenseOpticalFlow]] = {
        'tvl1': cv2.optflow.DualTVL1OpticalFlow.create,
        'dis': partial(cv2.DISOpticalFlow.create, cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)}
    rows = []
    for what, pixels in MOTIONS.items():
        frames = grey_frames(pixels)
        calls: dict[str, Callable[[], object]] = {}
        for name, method in methods.items():
            calls[name], calls[f'bare {name}'] = partial(FlowRecipe(name), frames), partial(bare, method, frames)
        times = {name: one.times(1 / (len(frames) - 1)) for name, one in take_turns(calls, rounds).items()}
        rows += [timed(f'{name} of a pair at {WIDTH} x {HEIGHT}, {what}; limit: bare OpenCV', times[name],
                       times[f'bare {name}']) for name in methods]
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
    return decode(rounds) + flow(rounds) + network(rounds)
