"""Train for many steps on a tiny data set and print the resources that the process holds on the way.

    python tests/stress/long_run.py [--steps 20000] [--every 10] [--workers 2]

The run evaluates often, writes a checkpoint per second, logs figures every five seconds, and restarts its DataLoader
workers for every epoch and evaluation. No column but the first two and the last should grow.
"""
import argparse
import os
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

# ruff: noqa: E402
from runs import command
from test_main import write_data

import main as program
from engine import run_folder, trainer
from engine.inference import FinishedEvaluation

COLUMNS = ['step', 'evaluations', 'RSS (MB)', 'open files', 'threads', 'children', '/dev/shm (MB)', 'seconds']


def resources() -> list[float]:
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    children = Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()
    disk = os.statvfs('/dev/shm')
    return [round(pages * os.sysconf('SC_PAGE_SIZE') / 1e6), len(os.listdir('/proc/self/fd')),
            len(os.listdir('/proc/self/task')), len(children),
            round((disk.f_blocks - disk.f_bfree) * disk.f_frsize / 1e6, 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=20_000)
    parser.add_argument('--every', type=int, default=10, help='steps between evaluations')
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    evaluations, table, start = args.steps // args.every, sys.stdout, time.monotonic()
    shown = {round(evaluations * fraction) for fraction in (0.01, 0.1, 0.25, 0.5, 0.75, 1)}
    log_evaluation = run_folder.RunLogger.log_evaluation

    def log_resources(logger: run_folder.RunLogger, finished: FinishedEvaluation) -> None:
        log_evaluation(logger, finished)
        step = finished.step
        if step % args.every == 0 and step // args.every in shown:
            row = [step, step // args.every, *resources(), round(time.monotonic() - start)]
            print('|', ' | '.join(map(str, row)), '|', file=table, flush=True)

    run_folder.RunLogger.log_evaluation = log_resources  # type: ignore[method-assign]
    trainer.CHECKPOINT_SECONDS, run_folder.FIGURE_SECONDS = 1, 5
    print('|', ' | '.join(COLUMNS), '|\n|' + '---|' * len(COLUMNS), flush=True)
    with tempfile.TemporaryDirectory() as base, open(os.devnull, 'w') as null, redirect_stdout(null):
        data = write_data(Path(base) / 'data', num_train=20)
        flags = ['--detection_inf_step', args.every, '--figures', 2, '--num_workers', args.workers, '--cache', 'none']
        return program.main(command(data, Path(base) / 'run', *flags, steps=args.steps))


if __name__ == '__main__':
    sys.exit(main())
