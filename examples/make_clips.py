"""Render short clips of moving shapes whose motions are the classes, to try the pipeline from videos to detections.

    python -m examples.make_clips data/clips [--train 24] [--test 12] [--seconds 16] [--size 96] [--seed 0]

A clip shows a patterned background that drifts and two shapes that move over it. At times one of them performs
the motion of the clip's class: it slides left and right, bounces up and down, or grows and shrinks. Shapes, colors and
background are independent of the class. The files:

    train/*.mp4, test/*.mp4    H.264, 25 frames per second
    labels.csv                 labels of the training clips, without times
    gt.json                    times of the actions in the test clips, for scoring only
"""
import argparse
import io
import sys
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np

from utils import (
    InputError,
    Parser,
    bounded,
    make_dir,
    plural,
    progress,
    read_json,
    run_cli,
    write_bytes,
    write_json,
    write_text,
)

FPS = 25
MOTIONS = ('Bounce', 'Pulse', 'Slide')
SWINGS = 2.            # of a motion, per second
ACTION_SECONDS = (3.5, 5.5)
REST_SECONDS = (2.5, 5.0)
SHAPES = ('disc', 'square', 'diamond')


class Action(NamedTuple):
    """The frames of a motion, from `start` up to but without `end`."""

    label: str
    start: int
    end: int


class Clip(NamedTuple):
    """Frames (F, size, size, 3) uint8, and the actions in them."""

    frames: np.ndarray
    actions: list[Action]


# ---- a clip ---------------------------------------------------------------------------------------------------------

def draw_actions(random: np.random.RandomState, num_frames: int, label: str) -> list[Action]:
    """Return random times of the motion of a clip; at least one."""
    actions: list[Action] = []
    position = 0
    while True:
        start = position + round(FPS * random.uniform(*REST_SECONDS))
        end = start + round(FPS * random.uniform(*ACTION_SECONDS))
        if end > num_frames - FPS // 2:
            return actions or [Action(label, num_frames // 3, num_frames // 3 + num_frames // 4)]
        actions.append(Action(label, start, end))
        position = end


def wander(random: np.random.RandomState, num_frames: int, low: float, high: float) -> np.ndarray:
    """Return a slow random path (F, 2) within bounds."""
    time = np.arange(num_frames)[:, None] / FPS
    speed, phase = random.uniform(0.05, 0.12, (1, 2)), random.uniform(0, 1, (1, 2))
    return (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * (speed * time + phase))


def draw_background(random: np.random.RandomState, num_frames: int, size: int) -> np.ndarray:
    """Return a random pattern (F, size, size, 3) that drifts in one direction."""
    coarse = random.uniform(40, 150, (size // 8, size // 8, 3))
    pattern = np.kron(coarse, np.ones((8, 8, 1)))
    for axis in (0, 1):  # soft borders, else the flow of the drift would jump
        pattern = np.mean([np.roll(pattern, shift, axis) for shift in range(-3, 4)], axis=0)
    shifts = np.round(np.arange(num_frames)[:, None] / FPS * random.uniform(-8, 8, (1, 2))).astype(int)
    return np.stack([np.roll(pattern, tuple(shift), (0, 1)) for shift in shifts])


def inside(shape: str, size: int, center: np.ndarray, radius: float) -> np.ndarray:
    """Return the part of each pixel (size, size, 1) that a shape covers."""
    y, x = np.abs(np.indices((size, size)) - center[:, None, None])
    distance = {'disc': np.hypot(x, y), 'square': np.maximum(x, y) * 1.1, 'diamond': (x + y) * 0.85}[shape]
    return np.clip(radius - distance + 0.5, 0, 1)[..., None]


def draw_clip(random: np.random.RandomState, label: str, seconds: float, size: int) -> Clip:
    """Return a random clip with the motion `label`."""
    num_frames = round(seconds * FPS)
    actions = draw_actions(random, num_frames, label)
    frames = draw_background(random, num_frames, size)
    for moves in (False, True):
        shape, color = SHAPES[random.randint(len(SHAPES))], random.uniform(100, 255, 3)
        centers = wander(random, num_frames, 0.3 * size, 0.7 * size)
        radii = np.full(num_frames, random.uniform(0.14, 0.19) * size)
        for action in actions if moves else ():
            swing = np.sin(2 * np.pi * SWINGS * np.arange(action.end - action.start) / FPS)
            if label == 'Pulse':
                radii[action.start:action.end] *= 1 + 0.6 * swing
            else:
                centers[action.start:action.end, MOTIONS.index(label) // 2] += 0.25 * size * swing
        for frame, center, radius in zip(frames, centers, radii):
            covered = inside(shape, size, center, radius)
            frame[...] = (1 - covered) * frame + covered * color
    return Clip(frames.round().astype(np.uint8), actions)


def encode(frames: np.ndarray) -> bytes:
    """Return an H.264 file that browsers can play and seek in."""
    file = io.BytesIO()
    with av.open(file, 'w', format='mp4') as container:
        # mbtree=0: with it the bytes of x264 differ from run to run
        stream = container.add_stream('libx264', rate=FPS, options={'crf': '20', 'preset': 'veryfast', 'threads': '1',
                                                                    'g': str(FPS), 'x264-params': 'mbtree=0'})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
        container.mux(stream.encode())
    return file.getvalue()


# ---- the folder -----------------------------------------------------------------------------------------------------

def write_clips(folder: Path, counts: dict[str, int], seconds: float, size: int, seed: int) -> int:
    """Write the missing files and return the number of rendered clips.

    Raises InputError where the folder contains other clips.
    """
    recipe = {**counts, 'seconds': seconds, 'size': size, 'seed': seed}
    claim(folder, recipe)
    written = 0
    tags = ['video,label']
    database = {}
    bar = progress(total=sum(counts.values()), desc='rendering', unit='clip')
    for part, (split, count) in enumerate(counts.items()):
        (folder / split).mkdir(exist_ok=True)
        for i in range(count):
            name, label = f'{split}_{i:03d}', MOTIONS[i % len(MOTIONS)]
            path = folder / split / f'{name}.mp4'
            if split == 'train':
                tags.append(f'{name},{label}')
            else:  # `draw_clip` draws the times first, so they are known without rendering
                times = draw_actions(np.random.RandomState([seed, part, i]), round(seconds * FPS), label)
                database[name] = {'subset': 'test', 'duration': round(seconds * FPS) / FPS, 'annotations': [
                    {'label': label, 'segment': [start / FPS, end / FPS]} for label, start, end in times]}
            if not path.exists():
                clip = draw_clip(np.random.RandomState([seed, part, i]), label, seconds, size)
                write_bytes(path, encode(clip.frames))
                written += 1
            bar.update()
    bar.close()
    write_text(folder / 'labels.csv', '\n'.join(tags) + '\n')
    write_json(folder / 'gt.json', {'version': 'synthetic clips of moving shapes', 'database': database})
    return written


def claim(folder: Path, recipe: dict) -> None:
    """Write the recipe into the folder; raises InputError where it contains other clips or anything else."""
    make_dir(folder)
    path = folder / 'clips.json'
    if not path.exists():
        if any(folder.iterdir()):
            raise InputError(f'{folder}: contains something else; give another folder, or remove it')
        write_json(path, recipe)
    elif read_json(path) != recipe:
        raise InputError(f'{folder}: contains other clips ({read_json(path)}); give another folder, or remove it')


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog='python -m examples.make_clips', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder to write; created if it does not exist')
    parser.add_argument('--train', type=bounded(int, 1, 10_000), default=24, help='number of training clips')
    parser.add_argument('--test', type=bounded(int, 1, 10_000), default=12, help='number of test clips')
    parser.add_argument('--seconds', type=bounded(float, 5, 3600), default=16, help='length of a clip')
    parser.add_argument('--size', type=bounded(int, 32, 1024), default=96, help='width and height in pixels')
    parser.add_argument('--seed', type=bounded(int, 0, 2 ** 32 - 1), default=0, help='random seed')
    args = parser.parse_args(argv)
    if args.size % 8:
        parser.error('--size must be a multiple of 8')

    def command() -> None:
        written = write_clips(args.folder, {'train': args.train, 'test': args.test}, args.seconds, args.size, args.seed)
        total = args.train + args.test
        print(f'{plural(written, "clip")} rendered to {args.folder}, {total - written} existed already', flush=True)

    return run_cli(command)


if __name__ == '__main__':
    sys.exit(main())
