"""Choose settings for a training from its data, and print them as flags of main.py.

    python -m scripts.auto_config DATA_FOLDER
    python -m scripts.auto_config VIDEOS --labels LABELS.csv      check the labels, before the features are extracted

The recipes of the published data sets are for videos of some minutes and thousands of steps; your own videos may have
any length and number. The chosen values and the reasons are printed on standard error. Flags given to main.py override
them.
"""
import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from config import MODALITIES, RECIPES
from formats.annotations import match_videos, missing_annotations, read_annotations, read_labels
from formats.data_folder import find_split
from formats.videos import list_videos, video_stem
from utils import InputError, Parser, plural, preview, print_section, quote, run_cli, warn

THUMOS14 = RECIPES['thumos14']
SHORT = 200          # snippets, two minutes: in shorter videos actions fill a larger part
MIN_SEGMENTS = 40    # from which two snippets are mined per set
STEPS = (1_000, 12_000)


class Choice(NamedTuple):
    """A flag of main.py and the reason for its value."""

    flag: str
    value: int
    reason: str


def choose(lengths: list[int]) -> list[Choice]:
    """Return the settings for training videos with these numbers of snippets."""
    longest = int(np.ceil(np.percentile(lengths, 90) / 10)) * 10
    segments = min(max(longest, MIN_SEGMENTS), THUMOS14.num_segments)
    ratio = THUMOS14.topk_ratio if segments >= SHORT else THUMOS14.topk_ratio // 2
    batch = min(THUMOS14.batch_size, len(lengths))
    epoch = -(-len(lengths) // batch)
    steps = min(max((THUMOS14.num_epochs or 1) * epoch, STEPS[0]), STEPS[1])
    return [
        Choice('--num_segments', segments, f'nine of ten videos have at most {plural(longest, "snippet")}'),
        Choice('--topk_ratio', ratio, f'the top {segments // ratio} of {segments} snippets make a video score'),
        Choice('--batch_size', batch, f'there are {plural(len(lengths), "training video")}'),
        Choice('--num_steps', steps, f'{plural(steps // epoch, "epoch")}')]


def print_flags(folder: Path) -> None:
    """Print the settings for a data folder; raises InputError where it has no labels or no training features."""
    gt = read_annotations(folder)
    if not gt.labels:
        raise missing_annotations(folder)
    split = find_split(folder, 'train', gt, gt.labels, MODALITIES['all']).require()
    choices = choose([file.length for file in split.files])
    for choice in choices:
        print(f'chosen   {choice.flag} {choice.value}: {choice.reason}', file=sys.stderr)
    print(*(f'{choice.flag} {choice.value}' for choice in choices))


def check_label_file(folder: Path, labels: Path) -> None:
    """Check that a folder of videos and a labels.csv belong together, before hours are spent on features.

    Warns of videos without a label and of labels without a video; raises InputError where there would be nothing to
    train on.
    """
    if not folder.is_dir():
        raise InputError(f'{folder}: not a folder; give the folder of the videos')
    gt = read_labels(labels)
    names = [video_stem(path.name) for path in list_videos(folder)]
    has_video = match_videos(gt.videos, names) >= 0
    if not has_video.any():
        raise InputError(f'{labels}: no label is for one of the {plural(len(names), "video")} in {folder}; write the '
                         f'names of the files, like {quote([*names, "my_video"][0])}, not {quote(gt.videos[0])}')
    if missing := [name for name, has in zip(gt.videos, has_video) if not has]:
        warn(f'{labels}: {plural(len(missing), "labeled video")} not in {folder}: {preview(missing)}')
    if unlabeled := [name for name, index in zip(names, match_videos(names, gt.videos)) if index < 0]:
        warn(f'{folder}: {plural(len(unlabeled), "video")} without a label, left out of the training: '
             f'{preview(unlabeled)}')
    print_section('labels', [f'{plural(int(has_video.sum()), "video")} with {plural(len(gt.labels), "label")}: '
                             f'{preview(gt.labels)}'])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog='python -m scripts.auto_config', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, help='data folder with training features and labels; with --labels: '
                        'folder of videos')
    parser.add_argument('--labels', type=Path, metavar='LABELS.csv', help='only check that it belongs to the videos')
    args = parser.parse_args(argv)
    return run_cli(lambda: check_label_file(args.folder, args.labels) if args.labels else print_flags(args.folder))


if __name__ == '__main__':
    sys.exit(main())
