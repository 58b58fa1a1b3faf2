"""Kills a training run again and again and resumes it: its files must be those of an undisturbed run.

    python tests/soak.py [--kills 60] [--seed 0]

Two thirds of the kills come at random moments, the others as soon as a checkpoint is being written or an evaluation
runs, a random while after. A life that ends before it is killed counts as no kill; the next run begins anew.
"""
import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from runs import ROOT, command, contents, differences  # noqa: E402 the path comes first
from test_main import write_data  # noqa: E402

# The run writes where it is into a file of its own: at a kill this says what it has interrupted.
DRIVER = '''
import os, sys
import main
main.CHECKPOINT_SECONDS = 0.02
place = os.open(sys.argv[1], os.O_WRONLY)

def watched(function, name):
    def call(*args, **kwargs):
        os.pwrite(place, name.ljust(12).encode(), 0)
        try:
            return function(*args, **kwargs)
        finally:
            os.pwrite(place, b'training'.ljust(12), 0)
    return call

run.write_checkpoint = watched(run.write_checkpoint, 'checkpoint')
inference.Evaluator.look = watched(inference.Evaluator.look, 'evaluation')
main.keep_evaluation = watched(main.keep_evaluation, 'results')
main.start_run = watched(main.start_run, 'start')
sys.exit(main.main(sys.argv[2:]))
'''
PLACES = ('checkpoint', 'evaluation', 'results')
PATIENCE = 120    # seconds
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}


def live(argv: list[str], log: Path, place: Path, aim: str, rng: np.random.RandomState) -> str | None:
    """One life of a run: where it was when it was killed, None where it came to its end first."""
    place.write_text('imports'.ljust(12))
    with open(log, 'ab') as file:
        process = subprocess.Popen([sys.executable, '-c', DRIVER, str(place), *argv], cwd=ROOT, stdout=file,
                                   stderr=file, env=ENVIRONMENT)
    deadline = time.monotonic() + PATIENCE

    def wait_until(reached) -> None:
        while process.poll() is None and not reached(place.read_text().strip()):
            if time.monotonic() > deadline:
                process.kill()
                sys.exit(f'hangs, see {log}')
            time.sleep(0.0002)

    if aim == 'anywhere':
        wait_until(lambda at: at != 'imports')
        time.sleep(rng.uniform(0, 1.5))
    else:
        time.sleep(rng.uniform(0, 0.3))
        wait_until(lambda at: at == aim)
        time.sleep(rng.exponential(0.002))
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return place.read_text().strip()
    if process.returncode:
        sys.exit(f'ended with status {process.returncode}:\n{log.read_text()[-3000:]}')
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=60)
    parser.add_argument('--steps', type=int, default=300, help='of the run that is killed')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    rng, started = np.random.RandomState(args.seed), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary)
        data, place = write_data(base / 'data'), base / 'place'
        flags = ['--detection_inf_step', 7]
        whole, folder, log = base / 'whole' / 'run', base / 'killed' / 'run', base / 'log'
        place.touch()
        subprocess.run([sys.executable, 'main.py', *command(data, whole, *flags, steps=args.steps)], cwd=ROOT,
                       check=True, capture_output=True, env=ENVIRONMENT)
        expected, killed, torn, finished = contents(whole), Counter(), 0, 0
        while killed.total() < args.kills or not (folder / 'results.json').exists():
            aim = rng.choice(PLACES) if killed.total() % 3 == 2 else 'anywhere'
            argv = command(data, folder, *flags, '--resume', steps=args.steps)
            at = live(argv, log, place, str(aim), rng)
            if at is None:
                finished += 1
                if wrong := differences(folder, expected):
                    sys.exit(f'a run that was killed {killed.total()} times differs in {", ".join(wrong)}')
                if killed.total() < args.kills:
                    folder = base / f'killed_{finished}' / 'run'
                continue
            killed[at] += 1
            torn += any(path.name.endswith('.tmp') for path in folder.iterdir()) if folder.exists() else 0
        while live(command(data, folder, *flags, '--resume', steps=args.steps), log, place, 'never', rng) is not None:
            pass
        wrong = differences(folder, expected)
        refused = log.read_text().count('warning: ')
    where = ', '.join(f'{count} in {name}' for name, count in sorted(killed.items()))
    outcome = f'DIFFERENT: {", ".join(wrong)}' if wrong else 'identical'
    print(f'{killed.total()} kills ({where}; {torn} left a half-written file; {refused} warnings) of {finished + 1} '
          f'runs of {args.steps} steps in {time.monotonic() - started:.0f} s: {outcome}')
    return bool(wrong)


if __name__ == '__main__':
    sys.exit(main())
