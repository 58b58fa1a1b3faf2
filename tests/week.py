"""A week in an hour: a long training on a tiny data set in one process, and what it holds at its start and at its end.

    python tests/week.py [--steps 20000] [--every 10] [--workers 2]

It is evaluated every so many steps, writes a checkpoint every second, draws figures every five seconds, and starts the
workers that read features anew for every epoch and every evaluation. What is held is looked at where an evaluation is
kept: resident memory, open files, threads, child processes, and what is taken of /dev/shm (by all processes).
"""
import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

os.environ['OMP_NUM_THREADS'] = '1'
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from runs import command  # noqa: E402 the path comes first
from test_main import write_data  # noqa: E402

import main as program  # noqa: E402
from engine import run_folder  # noqa: E402

COLUMNS = ['step', 'evaluations', 'RSS (MB)', 'open files', 'threads', 'children', '/dev/shm (MB)', 'seconds']


def held() -> list[float]:
    """What this process holds now."""
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    disk = os.statvfs('/dev/shm')
    used = round((disk.f_blocks - disk.f_bfree) * disk.f_frsize / 1e6, 1)
    return [round(pages * os.sysconf('SC_PAGE_SIZE') / 1e6), len(os.listdir('/proc/self/fd')),
            len(os.listdir('/proc/self/task')), len(children), used]


def watched(keep: Callable, looks: list[int], table: TextIO) -> Callable:
    """`record_evaluation`, which also notes what is held at some of the evaluations."""
    began, count = time.monotonic(), [0]

    def kept(own_run: run.Run, step: int, *found: object) -> None:
        keep(own_run, step, *found)
        count[0] += 1
        if count[0] in looks:
            row = [step, count[0], *held(), round(time.monotonic() - began)]
            print('|', ' | '.join(map(str, row)), '|', file=table, flush=True)
    return kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=20_000)
    parser.add_argument('--every', type=int, default=10, help='steps from one evaluation to the next')
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    evaluations, table = args.steps // args.every, sys.stdout
    looks = [round(evaluations * share) for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1)]
    program.record_evaluation = watched(program.record_evaluation, looks, table)
    program.CHECKPOINT_SECONDS, run.FIGURE_SECONDS = 1, 5
    print('|', ' | '.join(COLUMNS), '|\n|' + '---|' * len(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as base:
        data = write_data(Path(base) / 'data', num_train=20)
        flags = ['--detection_inf_step', args.every, '--figures', 2, '--num_workers', args.workers, '--cache', 'none']
        sys.stdout = open(os.devnull, 'w')    # what the run itself prints
        return program.main(command(data, Path(base) / 'run', *flags, steps=args.steps))


if __name__ == '__main__':
    sys.exit(main())
