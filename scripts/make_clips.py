"""Render short clips of moving shapes whose motions are the classes, to try the way from videos to times on.

    python -m scripts.make_clips data/clips [--train 24] [--test 12] [--seconds 16] [--size 96] [--seed 0]

A clip shows a patterned background that drifts, a shape that wanders over it, and another one that does the same and
now and then moves as its class says: it slides left and right, bounces up and down, or grows and shrinks. Shapes,
colours and background say nothing about the class. What it writes:

    train/*.mp4, test/*.mp4    H.264, 25 frames a second
    labels.csv                 what happens in the training clips, without times
    gt.json                    when it happens in the test clips, for scoring alone
    rgb.pt, flow.pt            I3D with random filters, under the names of the published files
"""
import argparse
import io
import sys
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch

from extraction.i3d import CHANNELS, I3D
from utils import InputError, Parser, bounded, plural, read_json, run_cli, write_bytes, write_json, write_text

FPS = 25
MOTIONS = ('Bounce', 'Pulse', 'Slide')
SWINGS = 2.            # of a motion, a second
ACTION_SECONDS = (2.0, 4.0)
REST_SECONDS = (1.5, 4.0)
SHAPES = ('disc', 'square', 'diamond')


class Action(NamedTuple):
    """A motion's frames, from `start` up to but without `end`."""
    label: str
    start: int
    end: int


class Clip(NamedTuple):
    """Frames (F, size, size, 3) uint8, and when something happens in them."""
    frames: np.ndarray
    actions: list[Action]


# ---- a clip ---------------------------------------------------------------------------------------------------------

def draw_actions(random: np.random.RandomState, num_frames: int, label: str) -> list[Action]:
    """BatchIndices when the motion of a clip happens, at least once."""
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
    """A slow way (F, 2) within bounds."""
    time = np.arange(num_frames)[:, None] / FPS
    speed, phase = random.uniform(0.05, 0.12, (1, 2)), random.uniform(0, 1, (1, 2))
    return (low + high) / 2 + (high - low) / 2 * np.sin(2 * np.pi * (speed * time + phase))


def draw_background(random: np.random.RandomState, num_frames: int, size: int) -> np.ndarray:
    """A pattern (F, size, size, 3) that drifts in one direction."""
    coarse = random.uniform(40, 150, (size // 8, size // 8, 3))
    pattern = np.kron(coarse, np.ones((8, 8, 1)))
    for axis in (0, 1):    # soft borders, or the flow of the drift would jump
        pattern = np.mean([np.roll(pattern, shift, axis) for shift in range(-3, 4)], axis=0)
    ways = np.round(np.arange(num_frames)[:, None] / FPS * random.uniform(-8, 8, (1, 2))).astype(int)
    return np.stack([np.roll(pattern, tuple(way), (0, 1)) for way in ways])


def inside(shape: str, size: int, centre: np.ndarray, radius: float) -> np.ndarray:
    """How much of each pixel (size, size, 1) lies in a shape."""
    y, x = np.abs(np.indices((size, size)) - centre[:, None, None])
    distance = {'disc': np.hypot(x, y), 'square': np.maximum(x, y) * 1.1, 'diamond': (x + y) * 0.85}[shape]
    return np.clip(radius - distance + 0.5, 0, 1)[..., None]


def draw_clip(random: np.random.RandomState, label: str, seconds: float, size: int) -> Clip:
    """BatchIndices a clip in which the motion `label` happens."""
    num_frames = round(seconds * FPS)
    actions = draw_actions(random, num_frames, label)
    frames = draw_background(random, num_frames, size)
    for moves in (False, True):
        shape, colour = SHAPES[random.randint(len(SHAPES))], random.uniform(100, 255, 3)
        centres = wander(random, num_frames, 0.3 * size, 0.7 * size)
        radii = np.full(num_frames, random.uniform(0.11, 0.15) * size)
        for action in actions if moves else ():
            swing = np.sin(2 * np.pi * SWINGS * np.arange(action.end - action.start) / FPS)
            if label == 'Pulse':
                radii[action.start:action.end] *= 1 + 0.6 * swing
            else:
                centres[action.start:action.end, MOTIONS.index(label) // 2] += 0.2 * size * swing
        for frame, centre, radius in zip(frames, centres, radii):
            covered = inside(shape, size, centre, radius)
            frame[...] = (1 - covered) * frame + covered * colour
    return Clip(frames.round().astype(np.uint8), actions)


def encode(frames: np.ndarray) -> bytes:
    """An H.264 file that browsers play and seek in."""
    file = io.BytesIO()
    with av.open(file, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=FPS, options={'crf': '20', 'preset': 'veryfast', 'threads': '1',
                                                                    'g': str(FPS)})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, 'rgb24')))
        container.mux(stream.encode())
    return file.getvalue()


# ---- the folder -----------------------------------------------------------------------------------------------------

def random_weights(modality: str, seed: int) -> bytes:
    """I3D whose filters are random, scaled so that values neither vanish nor grow on their way."""
    network = I3D(modality)
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim == 5:
            deviation = (2 / parameter[0].numel()) ** 0.5
            parameter.data = torch.randn(parameter.shape, generator=generator) * deviation
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


def write_clips(folder: Path, counts: dict[str, int], seconds: float, size: int, seed: int) -> int:
    """Write what is not there yet; how many clips that were. Raises InputError where other clips are there."""
    recipe = {**counts, 'seconds': seconds, 'size': size, 'seed': seed}
    claim(folder, recipe)
    written = 0
    tags = ['video,label']
    database = {}
    for part, (split, count) in enumerate(counts.items()):
        (folder / split).mkdir(exist_ok=True)
        for i in range(count):
            name, label = f'{split}_{i:03d}', MOTIONS[i % len(MOTIONS)]
            path = folder / split / f'{name}.mp4'
            if split == 'train':
                tags.append(f'{name},{label}')
            else:    # `draw_clip` draws the times first, so that they are known without the pictures
                times = draw_actions(np.random.RandomState([seed, part, i]), round(seconds * FPS), label)
                database[name] = {'subset': 'test', 'duration': round(seconds * FPS) / FPS, 'annotations': [
                    {'label': label, 'segment': [start / FPS, end / FPS]} for label, start, end in times]}
            if not path.exists():
                clip = draw_clip(np.random.RandomState([seed, part, i]), label, seconds, size)
                write_bytes(path, encode(clip.frames))
                written += 1
    write_text(folder / 'labels.csv', '\n'.join(tags) + '\n')
    write_json(folder / 'gt.json', {'version': 'clips of moving shapes', 'database': database})
    for place, modality in enumerate(CHANNELS):
        if not (folder / f'{modality}.pt').exists():
            write_bytes(folder / f'{modality}.pt', random_weights(modality, seed + place))
    return written


def claim(folder: Path, recipe: dict) -> None:
    """Note the recipe in the folder. Raises InputError where it holds other clips, or anything else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        others = any(folder.iterdir())
    except OSError as error:
        raise InputError(f'{folder}: cannot be made: {error.strerror}') from None
    note = folder / 'clips.json'
    if not note.exists():
        if others:
            raise InputError(f'{folder}: holds something else; give another folder, or remove it')
        write_json(note, recipe)
    elif read_json(note) != recipe:
        raise InputError(f'{folder}: holds other clips ({read_json(note)}); give another folder, or remove it')


def run(argv: list[str] | None) -> None:
    parser = Parser(prog='python -m scripts.make_clips', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where to write; made if it is not there')
    parser.add_argument('--train', type=bounded(int, 1, 10_000), default=24, help='training clips')
    parser.add_argument('--test', type=bounded(int, 1, 10_000), default=12, help='test clips')
    parser.add_argument('--seconds', type=bounded(float, 5, 3600), default=16, help='of a clip')
    parser.add_argument('--size', type=bounded(int, 32, 1024), default=96, help='of its pictures, in pixels')
    parser.add_argument('--seed', type=bounded(int, 0, 2 ** 32 - 1), default=0)
    args = parser.parse_args(argv)
    if args.size % 8:
        parser.error('--size must be a multiple of 8')
    written = write_clips(args.folder, {'train': args.train, 'test': args.test}, args.seconds, args.size, args.seed)
    total = args.train + args.test
    print(f'{plural(written, "clip")} rendered to {args.folder}, {total - written} there already', flush=True)


def main(argv: list[str] | None = None) -> int:
    return run_cli(lambda: run(argv))


if __name__ == '__main__':
    sys.exit(main())
