"""Standardize features by the mean and standard deviation of the training videos, into a second data folder.

    python -m scripts.standardize DATA_FOLDER NEW_FOLDER

Every column of a stream gets mean 0 and standard deviation 1 over all snippets of the training videos; the test videos
are scaled by the same numbers. Constant columns become 0. The data folder is one that `python -m extraction` writes.
"""
import argparse
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extraction.manifest import write_array
from utils import InputError, Parser, plural, run_cli


class Scale(NamedTuple):
    """Mean and standard deviation (D,) of the columns of a stream."""

    mean: np.ndarray
    std: np.ndarray


def read(path: Path) -> np.ndarray:
    """Return features (snippets, width) in float64; raises InputError for anything else."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f'{path}: not a readable .npy file ({error}); extract it again') from None
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise InputError(f'{path}: must contain finite numbers of shape (snippets, width); extract it again')
    return rows.astype(np.float64)


def measure(paths: list[Path]) -> Scale:
    """Return the scale of all rows of some files, with one file in memory at a time."""
    count, total, squares = 0, np.zeros(()), np.zeros(())
    for path in paths:
        rows = read(path)
        count, total = count + len(rows), total + rows.sum(axis=0)
    mean = total / count
    for path in paths:  # a second pass: the difference of two large sums would lose digits
        squares = squares + ((read(path) - mean) ** 2).sum(axis=0)
    return Scale(mean, np.sqrt(squares / count))


def standardize(rows: np.ndarray, scale: Scale) -> np.ndarray:
    """Return rows (N, D) with the scale removed, in float32."""
    constant = scale.std <= 1e-6 * np.abs(scale.mean)
    return np.where(constant, 0, (rows - scale.mean) / np.where(constant, 1, scale.std)).astype(np.float32)


def standardize_folder(folder: Path, output: Path) -> None:
    """Write the standardized copy of a data folder; raises InputError where there is nothing to measure."""
    if output.resolve() == folder.resolve():
        raise InputError(f'{output}: is the input of this command; use another name')
    features = folder / 'features'
    streams = sorted(path.name for path in (features / 'train').glob('*') if path.is_dir())
    if not streams:
        raise InputError(f'{features / "train"}: contains no streams (rgb/*.npy, flow/*.npy) to measure')
    files = 0
    for stream in streams:
        train = sorted((features / 'train' / stream).glob('*.npy'))
        if not train:
            raise InputError(f'{features / "train" / stream}: contains no .npy file')
        scale = measure(train)
        for path in sorted(features.glob(f'*/{stream}/*.npy')):
            write_array(output / path.relative_to(folder), standardize(read(path), scale))
            files += 1
    for name in ('extraction.json', 'labels.csv', 'gt.json'):
        if (folder / name).exists():
            shutil.copyfile(folder / name, output / name)
    print(f'{plural(files, "file")} standardized to {output}', flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog='python -m scripts.standardize', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, metavar='DATA_FOLDER')
    parser.add_argument('output', type=Path, metavar='NEW_FOLDER')
    args = parser.parse_args(argv)
    return run_cli(lambda: standardize_folder(args.folder, args.output))


if __name__ == '__main__':
    sys.exit(main())
