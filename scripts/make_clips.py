"""Render short video clips of moving shapes, to try the way from video files to detections without any download.

    python -m scripts.make_clips data/clips [--seed 0]

What is in the folder: `train/` and `test/` with H.264 clips, `labels.csv` with what happens in each training clip, and
`gt.json` with the seconds in which it happens in the test clips, for scoring alone. Beside them `rgb.pt` and `flow.pt`:
I3D with random filters, which stand in for the published weights.

What happens are three motions of a shape: it bounces up and down, shakes from side to side, or pulses in size. Before
and after, the shape drifts, a second one crosses the picture, and the background pans, so that motion alone tells
nothing. What this is not: real video, or features that were learned. A number measured on it says that the way from
pixels to seconds is right, nothing about AICL on real videos.
"""
import argparse
import io
import sys
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import torch
from numpy.random import RandomState

from extraction.i3d import CHANNELS, I3D
from utils import InputError, Parser, number_of, read_json, run_command, write_bytes, write_json, write_text

CLASSES = ['Bounce', 'Pulse', 'Shake']
NUM_CLIPS = {'train': 36, 'test': 18}
SIZE = 96               # pixels, both ways
FPS = 25
SECONDS = (12, 18)      # a clip
ACTION_SECONDS = (2, 5)
GAP_SECONDS = 1         # at least, between two actions
VERSION = 'rendered clips, version 1, seed'    # raise it when what is rendered changes


class Clip(NamedTuple):
    """What happens in a clip, and the numbers from which it is drawn."""
    name: str
    split: str
    num_frames: int
    actions: list[tuple[int, float, float]]    # class, start, end in seconds
    seed: int


# ---- what happens ---------------------------------------------------------------------------------------------------

def draw_clips(seed: int) -> list[Clip]:
    """All clips. Each shows one class, every fourth a second one too."""
    rng = RandomState(seed)
    return [draw_clip(rng, split, i) for split, count in NUM_CLIPS.items() for i in range(count)]


def draw_clip(rng: RandomState, split: str, i: int) -> Clip:
    length = rng.uniform(*SECONDS)
    classes = [i % len(CLASSES), i % len(CLASSES)]
    if i % 4 == 3:
        classes[1] = (classes[0] + 1) % len(CLASSES)
    actions, time = [], rng.uniform(0.5, 2)
    for c in classes:
        duration = rng.uniform(*ACTION_SECONDS)
        if time + duration > length - 0.5:
            break
        actions.append((c, round(time, 2), round(time + duration, 2)))
        time += duration + rng.uniform(GAP_SECONDS, 3)
    return Clip(f'clip_{split}_{i:03}', split, round(length * FPS), actions, rng.randint(2 ** 31))


# ---- pictures -------------------------------------------------------------------------------------------------------

def frames(clip: Clip) -> np.ndarray:
    """The pictures of a clip, (F, SIZE, SIZE, 3) uint8."""
    rng = RandomState(clip.seed)
    time = np.arange(clip.num_frames) / FPS
    happens = [np.zeros(clip.num_frames) for _ in CLASSES]
    for c, start, end in clip.actions:
        happens[c] = np.maximum(happens[c], (time >= start) & (time < end))
    wave = np.sin(2 * np.pi * rng.uniform(1.8, 2.4) * time)
    bounce, pulse, shake = (shown * wave for shown in happens)
    x = SIZE / 2 + 10 * wander(rng, time) + 9 * shake
    y = SIZE / 2 + 10 * wander(rng, time) + 9 * bounce
    radius = rng.uniform(11, 15) * (1 + 0.45 * pulse)
    scene, shift = texture(rng, 2 * SIZE), SIZE / 2 + 12 * wander(rng, time)
    shape, other = draw_shape(rng), draw_shape(rng)
    passing = SIZE * ((rng.rand() + time / rng.uniform(5, 9)) % 1.4 - 0.2)
    height = rng.uniform(0.15, 0.85) * SIZE
    pictures = []
    for i in range(clip.num_frames):
        picture = cv2.warpAffine(scene, np.array([[1, 0, -shift[i]], [0, 1, -shift[i] / 2]]), (SIZE, SIZE))
        put(picture, other, passing[i], height, 7)
        put(picture, shape, x[i], y[i], radius[i])
        pictures.append(picture)
    return np.stack(pictures)


def wander(rng: RandomState, time: np.ndarray) -> np.ndarray:
    """A slow way to and fro between -1 and 1."""
    return np.sin(2 * np.pi * (rng.rand() + time / rng.uniform(7, 12)))


def texture(rng: RandomState, size: int) -> np.ndarray:
    """A background with something to see at every place, (size, size, 3) uint8."""
    coarse = rng.uniform(60, 180, (size // 8, size // 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def draw_shape(rng: RandomState) -> tuple[np.ndarray, tuple[int, ...]]:
    """The corners (N, 2) of a shape of radius 1, and its colour."""
    count = rng.randint(3, 8)
    angles = 2 * np.pi * (np.arange(count) / count + rng.rand())
    bright = rng.choice([20, 235], 3)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1), tuple(bright.tolist())


def put(picture: np.ndarray, shape: tuple[np.ndarray, tuple[int, ...]], x: float, y: float, radius: float) -> None:
    """Draw a shape into a picture, to a sixteenth of a pixel."""
    corners, colour = shape
    points = np.rint(16 * (radius * corners + (x, y))).astype(np.int32)
    cv2.fillPoly(picture, [points], colour, cv2.LINE_AA, shift=4)


# ---- files ----------------------------------------------------------------------------------------------------------

def encode(pictures: np.ndarray) -> memoryview:
    """An MP4 file of H.264, which browsers play."""
    content = io.BytesIO()
    with av.open(content, 'w', format='mp4') as container:
        stream = container.add_stream('libx264', rate=FPS, options={'crf': '18', 'preset': 'veryfast', 'threads': '1'})
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, 'yuv420p'
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format='rgb24')))
        container.mux(stream.encode(None))
    return content.getbuffer()


def random_i3d(modality: str, seed: int) -> memoryview:
    """A file of I3D's parameters under their published names, with random filters that keep the size of what passes."""
    generator = torch.Generator().manual_seed(seed)
    state = I3D(modality).state_dict()
    for name, value in state.items():
        if name.endswith('conv3d.weight'):
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    content = io.BytesIO()
    torch.save(state, content)
    return content.getbuffer()


def annotations(clips: list[Clip], seed: int) -> dict:
    """gt.json of the test clips."""
    database = {clip.name: {'subset': 'test', 'duration': clip.num_frames / FPS, 'annotations': [
        {'label': CLASSES[c], 'segment': [start, end]} for c, start, end in clip.actions]}
        for clip in clips if clip.split == 'test'}
    return {'version': f'{VERSION} {seed}', 'database': database}


def tags(clips: list[Clip]) -> str:
    """labels.csv of the training clips."""
    rows = [f'{clip.name},{CLASSES[c]}\n' for clip in clips if clip.split == 'train'
            for c in sorted({c for c, _, _ in clip.actions})]
    return 'video,label\n' + ''.join(rows)


def make_clips(folder: Path, seed: int) -> int:
    """Write what is not there yet; the number of clips rendered.

    Raises InputError where the folder holds something else, or clips of another seed or version.
    """
    clips = draw_clips(seed)
    plan = folder / 'gt.json'
    if plan.is_file() and read_json(plan) != annotations(clips, seed) or not plan.exists() and folder.is_dir() and any(
            folder.iterdir()):
        raise InputError(f'{folder}: holds something else than the {VERSION} {seed}; remove it, or give another folder')
    for split in NUM_CLIPS:
        (folder / split).mkdir(parents=True, exist_ok=True)
    write_json(plan, annotations(clips, seed))
    write_text(folder / 'labels.csv', tags(clips))
    for i, modality in enumerate(CHANNELS):
        if not (folder / f'{modality}.pt').exists():
            write_bytes(folder / f'{modality}.pt', random_i3d(modality, seed + i))
    missing = [clip for clip in clips if not (folder / clip.split / f'{clip.name}.mp4').exists()]
    for clip in missing:
        write_bytes(folder / clip.split / f'{clip.name}.mp4', encode(frames(clip)))
    return len(missing)


def run(args: argparse.Namespace) -> None:
    try:
        rendered = make_clips(args.folder, args.seed)
    except OSError as error:
        raise InputError(f'{args.folder}: cannot be written: {error.strerror}') from None
    print(f'{number_of(rendered, "clip")} rendered in {args.folder}')


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog='python -m scripts.make_clips', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='where to write; made if it is not there')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    return run_command(lambda: run(args))


if __name__ == '__main__':
    sys.exit(main())
