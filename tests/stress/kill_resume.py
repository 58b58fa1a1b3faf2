"""Kill training runs repeatedly and resume them: the results must equal those of an undisturbed run, byte for byte.

    python tests/stress/kill_resume.py                                       1,000 kills over all modes
    python tests/stress/kill_resume.py --kills 50 --modes plain fingerprint

Of three processes of a run, one is killed (SIGKILL) at a random moment, one shortly after it enters a function of the
mode, and one in either way or not at all. Processes are forked from this one, which has imported everything and has no
threads, so that none spends time on imports.
"""
import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ['OMP_NUM_THREADS'] = '1'  # before numpy and torch are imported: a forked process must not have threads
TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

# ruff: noqa: E402
import numpy as np
import torch._dynamo  # this and the next are imported for the forked processes
import torch.utils.tensorboard  # noqa: F401
from runs import command, contents, differences
from test_main import write_data

import eval.timeline  # noqa: F401
import main as program
from engine import checkpoint, device, inference, lock, run_folder, trainer

# A process records which of these it is in, so that a kill can aim at it and the table can name what was interrupted.
FUNCTIONS = {'lock': (lock.Lock, '__enter__'), 'fingerprint': (checkpoint, 'data_fingerprint'),
             'first checkpoint': (checkpoint, 'write_checkpoint'), 'checkpoint': (run_folder, 'write_checkpoint'),
             'evaluation': (inference.Evaluator, 'predict'), 'results': (run_folder.RunLogger, 'log_evaluation'),
             'detections': (run_folder.RunLogger, 'flush_best'), 'report': (inference.Evaluation, 'write_report')}
PATIENCE = 120  # seconds that a process may take on a busy machine
FORK: Any = multiprocessing.get_context('fork')


class Mode(NamedTuple):
    """A way to train, and where it is killed."""

    flags: tuple = ()
    weight: float = 1  # share of the kills
    aims: tuple[str, ...] = ('checkpoint', 'evaluation', 'results', 'detections')
    num_runs: int = 1  # started in the same folder at about the same time


MODES = {'plain': Mode(weight=2), 'workers': Mode(('--num_workers', 2)), 'cache none': Mode(('--cache', 'none')),
         'bf16': Mode(('--precision', 'bf16')), 'fp64': Mode(('--precision', 'fp64')), 'rgb': Mode(('--modal', 'rgb')),
         'two runs': Mode(num_runs=2), 'report': Mode(aims=('report',)),
         'fingerprint': Mode(aims=('fingerprint', 'first checkpoint'))}


class TrainingProcess:
    """A forked process that trains."""

    def __init__(self, argv: list[str], base: Path, name: str):
        self.position, self.log = base / f'position_{name}', base / f'log_{name}'
        self.position.write_text('')
        self.log.unlink(missing_ok=True)  # workers of the previous process may still write into its log
        self.log.touch()
        self.process = FORK.Process(target=self.train, args=(argv,))
        self.process.start()

    def train(self, argv: list[str]) -> None:
        for number in (1, 2):
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_APPEND), number)
        file = os.open(self.position, os.O_WRONLY)
        for name, (owner, function) in FUNCTIONS.items():
            setattr(owner, function, self.watched(getattr(owner, function), file, name))
        device.check_precision = lambda *_: None  # CPUs without bf16 emulate it, which a run refuses
        trainer.CHECKPOINT_SECONDS = 0.02
        sys.exit(program.main(argv))

    @staticmethod
    def watched(function: Callable, file: int, name: str) -> Callable:
        def call(*args: Any, **kwargs: Any) -> Any:
            os.pwrite(file, name.ljust(20).encode(), 0)
            try:
                return function(*args, **kwargs)
            finally:
                os.pwrite(file, b'between'.ljust(20), 0)
        return call

    @property
    def current(self) -> str:
        return self.position.read_text().strip() or 'start'

    def wait_for(self, name: str = '') -> None:
        """Wait until the process enters a function or ends."""
        deadline = time.monotonic() + PATIENCE
        while self.process.is_alive() and self.current != name:
            if time.monotonic() > deadline:
                sys.exit(f'hangs in {self.current}:\n{self.log.read_text()[-3000:]}')
            time.sleep(0.0005)

    def kill(self) -> str | None:
        """Kill the process; return where it was, None if it had ended."""
        self.process.kill()
        self.process.join()
        return self.current if self.process.exitcode < 0 else None

    def finish(self) -> bool:
        """Wait for the end of the process; return whether the run is complete. Unexpected errors end this program."""
        self.wait_for()
        self.process.join()
        status, output = self.process.exitcode, self.log.read_text()
        is_expected = status <= 0 or status == 2 and 'in use by' in output
        has_traceback = 'Traceback' in output and status >= 0  # workers of a killed process print one
        if not is_expected or has_traceback or 'damaged' in output:
            sys.exit(f'ended with status {status}:\n{output[-3000:]}')
        return status == 0


def attack(processes: list[TrainingProcess], aim: str, rng: np.random.RandomState) -> list[str]:
    """Kill the processes one after the other; return where they were."""
    hits = []
    for process in processes:
        if aim == 'anywhere':
            time.sleep(rng.uniform(0, 1))
        else:
            process.wait_for(aim)
            time.sleep(rng.exponential(0.002))
        hits.append(process.kill())
    return [hit for hit in hits if hit]


def kill_and_resume(mode: Mode, base: Path, kills: int, steps: int, rng: np.random.RandomState) -> list[object]:
    """Kill and resume runs until the kills are used up and the last run is complete; return a row of the table."""
    data = write_data(base / 'data')

    def start(folder: Path, name: str = '0') -> TrainingProcess:
        flags = ['--resume', '--detection_inf_step', 7, *mode.flags]
        return TrainingProcess(command(data, folder, *flags, steps=steps), base, name)

    start(base / 'undisturbed' / 'run').finish()
    expected, hits, torn, finished, turn = contents(base / 'undisturbed' / 'run'), Counter[str](), 0, 0, 0
    folder = base / 'killed_0' / 'run'
    while hits.total() < kills or folder.exists():
        turn += 1
        aim = ('anywhere', str(rng.choice(mode.aims)), str(rng.choice(['anywhere', 'nowhere', *mode.aims])))[turn % 3]
        processes = [start(folder)]
        for i in range(1, mode.num_runs):
            time.sleep(rng.choice([0, rng.uniform(0, 1)]))
            processes.append(start(folder, str(i)))
        if hits.total() < kills and aim != 'nowhere':
            hits.update(attack(processes, aim, rng))
            torn += any(path.name.endswith('.tmp') for path in folder.glob('*'))
        if any([process.finish() for process in processes]):
            finished += 1
            if wrong := differences(folder, expected):
                sys.exit(f'a resumed run differs in {", ".join(wrong)}: {folder}')
            folder = base / f'killed_{finished}' / 'run'
    places = ', '.join(f'{count} {name}' for name, count in hits.most_common())
    return [hits.total(), places, torn, finished]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=1000, help='over all modes')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES))
    parser.add_argument('--steps', type=int, default=120, help='of each run')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    if len(os.listdir('/proc/self/task')) > 1:
        sys.exit('threads are running: start this program from the command line')
    print('| mode | kills | where | half-written files left | runs completed, identical |\n|---|---|---|---|---|',
          flush=True)
    kills_left, weight_left = args.kills, sum(MODES[name].weight for name in args.modes)
    for number, name in enumerate(args.modes):
        mode = MODES[name]
        with tempfile.TemporaryDirectory() as base:
            kills = max(1, round(kills_left * mode.weight / weight_left))
            row = kill_and_resume(mode, Path(base), kills, args.steps, np.random.RandomState([args.seed, number]))
        kills_left, weight_left = kills_left - int(str(row[0])), weight_left - mode.weight
        print('|', ' | '.join(map(str, [name, *row])), '|', flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
