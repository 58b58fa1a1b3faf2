"""Standardize features by the mean and deviation of the training videos, into a second data folder.

    python -m scripts.standardize DATA_FOLDER NEW_FOLDER

Every column of a stream gets mean 0 and deviation 1 over all snippets of the training videos; the test videos are
scaled by the same numbers. Columns that never change become 0. It takes what `python -m extraction` writes.
"""
import argparse
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extraction.record import write_array
from utils import InputError, Parser, plural, run_cli


class Scale(NamedTuple):
    """Mean and deviation (D,) of a stream's columns."""
    mean: np.ndarray
    deviation: np.ndarray


def read(path: Path) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path}: not a readable .npy file ({error}); extract it again') from None
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise InputError(f'{path}: needs (snippets, width) finite numbers; extract it again')
    return rows.astype(np.float64)


def measure(paths: list[Path]) -> Scale:
    """The scale of all rows in some files, a file in memory at a time."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for path in paths:
        rows = read(path)
        count, total = count + len(rows), total + rows.sum(axis=0)
    mean = total / count
    for path in paths:    # once more: the sum of squares alone would cancel
        squares = squares + ((read(path) - mean) ** 2).sum(axis=0)
    return Scale(mean, np.sqrt(squares / count))


def standardize(rows: np.ndarray, scale: Scale) -> np.ndarray:
    constant = scale.deviation <= 1e-6 * np.abs(scale.mean)
    return np.where(constant, 0, (rows - scale.mean) / np.where(constant, 1, scale.deviation)).astype(np.float32)


def run(argv: list[str] | None) -> None:
    parser = Parser(prog='python -m scripts.standardize', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, metavar='DATA_FOLDER')
    parser.add_argument('output', type=Path, metavar='NEW_FOLDER')
    args = parser.parse_args(argv)
    if args.output.resolve() == args.folder.resolve():
        raise InputError(f'{args.output}: is read by this command; give another name')
    features = args.folder / 'features'
    streams = sorted(path.name for path in (features / 'train').glob('*') if path.is_dir())
    if not streams:
        raise InputError(f'{features / "train"}: holds no streams (rgb/*.npy, flow/*.npy) to measure')
    files = 0
    for stream in streams:
        train = sorted((features / 'train' / stream).glob('*.npy'))
        if not train:
            raise InputError(f'{features / "train" / stream}: holds no .npy file')
        scale = measure(train)
        for path in sorted(features.glob(f'*/{stream}/*.npy')):
            write_array(args.output / path.relative_to(args.folder), standardize(read(path), scale))
            files += 1
    for name in ('extraction.json', 'labels.csv', 'gt.json'):
        if (args.folder / name).exists():
            shutil.copyfile(args.folder / name, args.output / name)
    print(f'{plural(files, "file")} standardized to {args.output}', flush=True)


def main(argv: list[str] | None = None) -> int:
    return run_cli(lambda: run(argv))


if __name__ == '__main__':
    sys.exit(main())
