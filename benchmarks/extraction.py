"""How long the steps from a video to features take, a frame or a snippet, beside what bounds them.

    python -m benchmarks.extraction [decode ...] [--video FILE] [--rounds N]

It needs requirements-video.txt. What is compared takes turns, round by round, so that a busy machine slows both.
"""
import argparse
import os
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
from av.filter import Graph

from benchmarks.table import Row, table, take_turns, timed
from benchmarks.workloads import SHARED
from extraction.frames import read_frames

CLIP = SHARED / 'video' / 'women_long_jump.mp4'    # 480 x 360, 24.8 frames a second, 35 s
RESIZE = '340x256'


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
    width, height = map(int, RESIZE.split('x'))
    with av.open(str(video)) as container:
        shown = 0
        for frame in container.decode(video=0):
            while frame.time is not None and shown / 25 <= frame.time:
                yield cv2.resize(frame.to_ndarray(format='rgb24'), (width, height), interpolation=cv2.INTER_LINEAR)
                shown += 1


def count(frames: Iterator[object]) -> int:
    return sum(1 for _ in frames)


def decode(video: Path, rounds: int) -> list[Row]:
    """A frame at 25 a second and 340 x 256, from the file to RGB."""
    scale = ('scale', f'{RESIZE.replace("x", ":")}:flags=bilinear')
    calls: dict[str, Callable[[], object]] = {
        'graph': lambda: count(graph_alone(video, ('fps', '25'), scale)),
        'rgb graph': lambda: count(graph_alone(video, ('fps', '25'), scale, ('format', 'rgb24'))),
        'ours': lambda: count(read_frames(video, 25, RESIZE)),
        'python': lambda: count(selection_in_python(video)),
    }
    times = take_turns(calls, rounds)
    return [timed("PyAV's filter graph, `fps` and `scale`, frames left in YUV", times['graph']),
            timed('the same graph, frames in RGB; limit: the line above', times['rgb graph'], times['graph']),
            timed('`read_frames`; limit: the graph in RGB', times['ours'], times['rgb graph']),
            timed('frames selected in Python, resized by OpenCV; limit: the graph in RGB', times['python'],
                  times['rgb graph'])]


GROUPS = {'decode': decode}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='python -m benchmarks.extraction', description=(__doc__ or '').split('\n')[0])
    parser.add_argument('groups', nargs='*', metavar='GROUP', help=' '.join(GROUPS))
    parser.add_argument('--video', type=Path, default=CLIP)
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args(argv)
    if not args.video.is_file():
        parser.error(f'{args.video} is not there; give a --video')
    for name in args.groups or GROUPS:
        load = os.getloadavg()[0]
        print(f'\n### {name}\n\n{args.video.name}, load average at the start {load:.1f}\n\n'
              f'{table(GROUPS[name](args.video, args.rounds))}', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
