"""Write a small synthetic data set in the two-stream THUMOS14 layout, to try the program without any download.

    python scripts/make_sample.py data/sample [--seed 0]

It contains random numbers with structure, the same for the same seed: two streams of 64 non-negative features per
snippet (0.64 s), 60 training and 30 test videos of 20 to 400 snippets, 8 invented motion classes. What makes it hard:

- Most videos of a class show the same scene from the first snippet to the last, with or without action. A network that
  only classifies videos therefore responds everywhere.
- The background moves too: distractor motions of no class come in runs that look like actions in time, and the camera
  shakes.
- Actions last 2 to 30 snippets, begin and end anywhere within a snippet, fade in and out, and differ in strength.
- About a quarter of the videos contain actions of two classes.

It is not video: no feature comes from a camera or a network. A score on it shows that the program works and learns, and
does not predict the scores of AICL on real videos.
"""
import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for python scripts/make_sample.py
from utils import InputError, Parser, atomic_folder, bounded, run_cli

CLASSES = ['Bounce', 'Circle', 'Flick', 'Ripple', 'Shake', 'Swing', 'Twist', 'Zigzag']
NUM_SCENES = 6
NUM_DISTRACTORS = 6
NUM_FEATURES = 64          # per stream
NUM_VIDEOS = {'train': 60, 'test': 30}
LENGTHS = (20, 400)        # snippets per video
ACTION_LENGTHS = (2, 30)   # snippets per action
FEATURE_SCALE = 3.         # suits the default learning rate
SNIPPET_SECONDS = 16 / 25
VERSION = 1                # raise it when the files change: older samples are then replaced


class Patterns(NamedTuple):
    """Feature vectors (count, D) of which videos are mixtures."""

    scenes: np.ndarray       # rgb
    appearances: np.ndarray  # rgb, of the classes
    motions: np.ndarray      # flow, of the classes
    distractors: np.ndarray  # flow
    shake: np.ndarray        # flow, one


class Video(NamedTuple):
    """Features (L, D) of both streams, and the actions as (class, start, end) in snippets."""

    rgb: np.ndarray
    flow: np.ndarray
    actions: list[tuple[int, float, float]]


def draw_patterns(random: np.random.RandomState) -> Patterns:
    """Return sparse random non-negative vectors of length 1."""
    def draw(count: int) -> np.ndarray:
        values = random.gamma(2., 1., (count, NUM_FEATURES)) * (random.rand(count, NUM_FEATURES) < 0.2)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    return Patterns(draw(NUM_SCENES), draw(len(CLASSES)), draw(len(CLASSES)), draw(NUM_DISTRACTORS), draw(1))


def draw_runs(random: np.random.RandomState, length: int, fraction: float) -> list[tuple[float, float]]:
    """Return random runs (start, end) in snippets that cover about `fraction` of `length`; at least one."""
    shortest, longest = ACTION_LENGTHS[0], min(ACTION_LENGTHS[1], length / 5)
    runs: list[tuple[float, float]] = []
    position = 0.
    while True:
        duration = np.exp(random.uniform(np.log(shortest), np.log(longest)))
        start = position + 1 + random.exponential(duration * (1 - fraction) / fraction)
        if start + duration > length:
            return runs or [(length / 2 - duration / 2, length / 2 + duration / 2)]
        runs.append((start, start + duration))
        position = start + duration


def envelope(random: np.random.RandomState, length: int, start: float, end: float) -> np.ndarray:
    """Return the weight (L,) of a run in each snippet: the covered part, with soft borders, times a random strength."""
    snippets = np.arange(length)
    inside = np.clip(np.minimum(end, snippets + 1) - np.maximum(start, snippets), 0, 1)
    return np.convolve(inside, [0.2, 0.6, 0.2], 'same') * random.uniform(0.7, 1.3)


def draw_video(random: np.random.RandomState, patterns: Patterns, label: int) -> Video:
    """Return a random video of the main class `label`."""
    length = int(np.exp(random.uniform(*np.log(LENGTHS))))
    scene = label % NUM_SCENES if random.rand() < 0.8 else random.randint(NUM_SCENES)
    other = (label + random.randint(1, len(CLASSES))) % len(CLASSES) if random.rand() < 0.4 else label

    rgb = np.outer(random.uniform(0.8, 1.2, length), patterns.scenes[scene])
    flow = np.outer(np.abs(random.randn(length)) * 0.4, patterns.shake[0])
    actions: list[tuple[int, float, float]] = []
    for start, end in draw_runs(random, length, 0.2):
        action = other if actions and random.rand() < 0.5 else label
        strength = envelope(random, length, start, end)
        rgb += np.outer(strength * 0.4, patterns.appearances[action])
        flow += np.outer(strength, patterns.motions[action])
        actions.append((action, start, end))
    for start, end in draw_runs(random, length, 0.3):
        flow += np.outer(envelope(random, length, start, end), patterns.distractors[random.randint(NUM_DISTRACTORS)])

    rgb, flow = (np.maximum(stream + random.randn(*stream.shape) * 0.15, 0) for stream in (rgb, flow))
    return Video((FEATURE_SCALE * rgb).astype(np.float32), (FEATURE_SCALE * flow).astype(np.float32), actions)


def version(seed: int) -> str:
    """Return the version of the sample, as written in gt.json."""
    return f'synthetic sample {VERSION}, seed {seed}'


def read_version(folder: Path) -> str:
    """Return the version of the sample in a folder, '' if there is none."""
    try:
        return str(json.loads((folder / 'gt.json').read_text(encoding='utf-8'))['version'])
    except (OSError, ValueError, KeyError, TypeError):
        return ''


def write_files(folder: Path, seed: int) -> None:
    """Write the data set into the new folder `folder`."""
    random = np.random.RandomState(seed)
    patterns = draw_patterns(random)
    database = {}
    for subset, count in NUM_VIDEOS.items():
        for stream in ('rgb', 'flow'):
            (folder / 'features' / subset / stream).mkdir(parents=True)
        names = [f'sample_{subset}_{i:04d}' for i in range(count)]
        for i, name in enumerate(names):
            video = draw_video(random, patterns, i % len(CLASSES))
            for stream in ('rgb', 'flow'):
                np.save(folder / 'features' / subset / stream / f'{name}.npy', getattr(video, stream))
            database[name] = {
                'subset': subset,
                'duration': round(len(video.rgb) * SNIPPET_SECONDS, 2),
                'annotations': [
                    {'label': CLASSES[action], 'segment': [round(edge * SNIPPET_SECONDS, 2) for edge in edges]}
                    for action, *edges in video.actions]}
        (folder / f'split_{subset}.txt').write_text('\n'.join(names) + '\n', encoding='utf-8')
    (folder / 'gt.json').write_text(json.dumps({'version': version(seed), 'database': database}), encoding='utf-8')


def write_sample(folder: Path, seed: int = 0) -> bool:
    """Write the sample of `seed` if `folder` does not contain it yet; return whether it was written.

    The folder appears complete or not at all, also when two processes write it at once. A sample of another seed or
    version is replaced; raises InputError where the folder contains anything else or cannot be written.
    """
    if read_version(folder) == version(seed):
        return False
    is_sample = read_version(folder).startswith('synthetic sample')
    if not is_sample and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f'{folder}: contains something else than the sample; give another folder, or remove it')
    try:
        with atomic_folder(folder) as new:
            write_files(new, seed)
    except InputError:
        if read_version(folder) != version(seed):  # not written by another process in the meantime
            raise
    return True


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog='python scripts/make_sample.py', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='folder to write; created if it does not exist')
    parser.add_argument('--seed', type=bounded(int, 0, 2 ** 32 - 1), default=0, help='random seed (default: 0)')
    args = parser.parse_args(argv)

    def command() -> None:
        written = write_sample(args.folder, args.seed)
        print(f'{"Wrote" if written else "Found"} the {version(args.seed)} in {args.folder}', flush=True)

    return run_cli(command)


if __name__ == '__main__':
    sys.exit(main())
