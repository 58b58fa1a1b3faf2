"""Bring every feature to mean 0 and deviation 1 over all training rows, in a data folder of its own.

    python -m scripts.standardize data/clips-features data/clips-standardized

Features of random filters differ by little, and each by something else; the network learns from what differs. Features
of trained networks need none of this.
"""
import argparse
import sys
from pathlib import Path

import numpy as np

from extraction.record import write_array
from utils import InputError, Parser, number_of, read_bytes, run_command, write_bytes


def standardize(source: Path, dest: Path) -> int:
    """Write features/{train,test}/{rgb,flow} of `source` anew into `dest`, and extraction.json; the number of files.

    Raises InputError where there are no training features, or a file is not one.
    """
    count = 0
    for stream in ('rgb', 'flow'):
        train = load(source / 'features' / 'train' / stream)
        if not train:
            raise InputError(f'{source}: has no features/train/{stream}; extract them first')
        rows = np.concatenate(list(train.values())).astype(np.float64)
        mean, deviation = rows.mean(axis=0), rows.std(axis=0)
        deviation[deviation == 0] = 1
        for split, found in (('train', train), ('test', load(source / 'features' / 'test' / stream))):
            for name, features in found.items():
                path = dest / 'features' / split / stream / name
                write_array(path, ((features - mean) / deviation).astype(np.float32))
            count += len(found)
    write_bytes(dest / 'extraction.json', read_bytes(source / 'extraction.json'))
    return count


def load(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a folder by the names of their files."""
    try:
        return {path.name: np.load(path, allow_pickle=False) for path in sorted(folder.glob('*.npy'))}
    except (OSError, ValueError) as error:
        raise InputError(f'{folder}: holds a file that is no .npy array ({error}); extract it again') from None


def run(args: argparse.Namespace) -> None:
    try:
        count = standardize(args.source, args.dest)
    except OSError as error:
        raise InputError(f'{args.dest}: cannot be written: {error.strerror}') from None
    print(f'{number_of(count, "file")} standardized in {args.dest}')


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog='python -m scripts.standardize', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', type=Path, help='data folder of an extraction')
    parser.add_argument('dest', type=Path, help='data folder to write')
    args = parser.parse_args(argv)
    return run_command(lambda: run(args))


if __name__ == '__main__':
    sys.exit(main())
