"""Print flags for main.py that fit a data folder; why stands on standard error.

    python -m scripts.choose_settings DATA_FOLDER
    python -m scripts.choose_settings --labels LABELS.csv    # only says whether that can be used

It looks at the lengths of the training videos alone. Its rules are rules of thumb; flags behind `--` win over them.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from data_folder import read_labels
from features import open_array
from utils import InputError, Parser, number_of, run_command

SEGMENTS = (20, 750)      # below 20 nothing would be mined (--contrast_ratio); THUMOS14 trains with 750
STEPS = (400, 3600)       # 900 epochs of 4 batches on THUMOS14
EPOCHS = 200
BATCH_SIZE = 16


def choose(lengths: list[int]) -> list[tuple[str, int, str]]:
    """Flags, values and reasons for videos of these lengths, in snippets."""
    long = int(np.ceil(np.quantile(lengths, 0.9)))
    segments = min(max(long, SEGMENTS[0]), SEGMENTS[1])
    batches = -(-len(lengths) // BATCH_SIZE)
    steps = min(max(EPOCHS * batches, STEPS[0]), STEPS[1])
    ratio = 8 if segments >= 100 else 4
    return [('--num_segments', segments, f'nine in ten training videos have at most {long} snippets'),
            ('--topk_ratio', ratio, f'a class is judged by its best {segments // ratio} of {segments} snippets'),
            ('--num_steps', steps, f'{number_of(len(lengths), "training video")}, an epoch is {number_of(batches, "step")}')]


def read_lengths(folder: Path) -> list[int]:
    for place in (folder / 'features' / 'train' / 'rgb', folder / 'features' / 'train'):
        paths = sorted(place.glob('*.npy'))
        if paths:
            return [open_array(path)[0].shape[0] for path in paths]
    raise InputError(f'{folder}: no features of training videos found in features/train')


def run(argv: list[str] | None) -> None:
    parser = Parser(prog='python -m scripts.choose_settings', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument('folder', type=Path, metavar='DATA_FOLDER', nargs='?')
    given.add_argument('--labels', type=Path, metavar='LABELS.csv', help='a list of labels to check before the work')
    args = parser.parse_args(argv)
    if args.labels:
        print(f'{args.labels}: labels of {number_of(len(read_labels(args.labels).videos), "video")}', flush=True)
        return
    chosen = choose(read_lengths(args.folder))
    for flag, value, reason in chosen:
        print(f'{flag} {value}: {reason}', file=sys.stderr)
    print(' '.join(f'{flag} {value}' for flag, value, _ in chosen))


def main(argv: list[str] | None = None) -> int:
    return run_command(lambda: run(argv))


if __name__ == '__main__':
    sys.exit(main())
