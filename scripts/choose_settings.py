"""Choose settings for a training from its data, and print them as flags of main.py.

    python -m scripts.choose_settings DATA_FOLDER

The recipes of the published data sets are for videos of some minutes and thousands of steps; videos of one's own may be
of any length and number. What is chosen, and why, goes to standard error. A flag that is given to main.py wins.
"""
import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.annotations import missing_annotations, read_annotations
from formats.data_folder import find_split
from config import MODALITIES, RECIPES
from utils import Parser, plural, run_cli

THUMOS14 = RECIPES['thumos14']
SHORT = 200                  # snippets, two minutes: of shorter videos actions fill a larger part
FEWEST_SEGMENTS = 40         # from which two snippets are mined a set
STEPS = (1_000, 12_000)


class Choice(NamedTuple):
    """A flag of main.py, and why it has this value."""
    flag: str
    value: int
    reason: str


def choose(lengths: list[int]) -> list[Choice]:
    """Config for training videos of so many snippets each."""
    longest = int(np.ceil(np.percentile(lengths, 90) / 10)) * 10
    segments = min(max(longest, FEWEST_SEGMENTS), THUMOS14.num_segments)
    ratio = THUMOS14.topk_ratio if segments >= SHORT else THUMOS14.topk_ratio // 2
    batch = min(THUMOS14.batch_size, len(lengths))
    epoch = -(-len(lengths) // batch)
    steps = min(max((THUMOS14.num_epochs or 1) * epoch, STEPS[0]), STEPS[1])
    return [
        Choice('--num_segments', segments, f'nine of ten videos have at most {plural(longest, "snippet")}'),
        Choice('--topk_ratio', ratio, f'the best {segments // ratio} snippets of {segments} make a video\'s score'),
        Choice('--batch_size', batch, f'of {plural(len(lengths), "training video")}'),
        Choice('--num_steps', steps, f'{steps // epoch} times through the videos')]


def run(folder: Path) -> None:
    truth = read_annotations(folder)
    if not truth.labels:
        raise missing_annotations(folder)
    split = find_split(folder, 'train', truth, truth.labels, MODALITIES['all']).require()
    choices = choose([file.length for file in split.files])
    for choice in choices:
        print(f'chosen   {choice.flag} {choice.value}: {choice.reason}', file=sys.stderr)
    print(*(f'{choice.flag} {choice.value}' for choice in choices))


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog='python -m scripts.choose_settings', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='data folder with training features and labels')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args.folder))


if __name__ == '__main__':
    sys.exit(main())
