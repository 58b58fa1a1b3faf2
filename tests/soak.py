"""Kills training runs again and again and resumes them: what they come to must be the files of an undisturbed run.

    python tests/soak.py                                         1,000 kills over all modes
    python tests/soak.py --kills 50 --modes plain fingerprint

Kills are SIGKILL. Of three lives of a run one is killed at a random moment, one a random while after it has come to a
place of the mode's choice, and one so or not at all, in turns. A life that ends before it is killed counts as no kill;
when a run has come to its end, its files are compared and the next one begins anew. Lives are forked from this process,
which has imported all that they need and started no thread, so that none pays for imports.
"""
import argparse
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ['OMP_NUM_THREADS'] = '1'    # before numpy and torch come: a process that is forked must have no threads
TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import numpy as np  # noqa: E402 the number of threads comes first
import torch._dynamo  # noqa: E402 for the lives, as the next two
import torch.utils.tensorboard  # noqa: E402, F401
from runs import command, contents, differences  # noqa: E402
from test_main import write_data  # noqa: E402

import eval.timeline  # noqa: E402, F401
from engine import inference  # noqa: E402
import main as program  # noqa: E402
import model  # noqa: E402
from engine import run_folder  # noqa: E402

# What a life does is written into a file when it begins and ends: at a kill this says what it has interrupted.
PLACES = {'folder and lock': (run.Lock, '__enter__'), 'fingerprint': (run, 'data_fingerprint'),
          'checkpoint': (run, 'write_checkpoint'), 'evaluation': (inference.Evaluator, 'look'),
          'results': (program, 'record_evaluation'), 'detections': (run.Run, 'rest'),
          'report': (inference.Evaluation, 'write_report')}
ELSEWHERE = ('checkpoint', 'evaluation', 'results', 'detections')    # where kills of most modes are aimed at
PATIENCE = 120    # seconds that a life may take on a busy machine
FORK = multiprocessing.get_context('fork')


class Mode(NamedTuple):
    """A way to train, and who is killed in it, where."""
    flags: tuple = ()
    weight: float = 1                      # of its share of the kills
    aims: tuple[str, ...] = ELSEWHERE
    num_ranks: int = 1
    num_rivals: int = 1                    # runs that are started in one folder at about the same time


MODES = {'plain': Mode(weight=2), 'workers': Mode(('--num_workers', 2)), 'cache none': Mode(('--cache', 'none')),
         'bf16': Mode(('--precision', 'bf16')), 'fp64': Mode(('--precision', 'fp64')), 'rgb': Mode(('--modal', 'rgb')),
         'two ranks': Mode(num_ranks=2, weight=0.5), 'two runs': Mode(num_rivals=2),
         'report': Mode(aims=('report',)), 'fingerprint': Mode(aims=('fingerprint',))}


class Life:
    """A process that trains, from its start to its end."""

    def __init__(self, argv: list[str], base: Path, name: str, environment: dict[str, str] | None = None):
        self.place, self.log = base / f'place_{name}', base / f'log_{name}'
        self.place.write_text('')
        self.log.unlink(missing_ok=True)    # a worker of the life before may still write into that one's log
        self.log.touch()
        self.process = FORK.Process(target=self.live, args=(argv, environment or {}))
        self.process.start()
        self.born = time.monotonic()

    def live(self, argv: list[str], environment: dict[str, str]) -> None:
        """In the process: the command line, watched."""
        for number in (1, 2):
            os.dup2(os.open(self.log, os.O_WRONLY | os.O_APPEND), number)
        os.environ.update(environment)
        file = os.open(self.place, os.O_WRONLY)
        for name, (owner, function) in PLACES.items():
            setattr(owner, function, self.watched(getattr(owner, function), file, name))
        # A processor without bf16 may compute with it, slowly: the run would refuse that.
        model.check_precision = lambda *_: ''
        program.CHECKPOINT_SECONDS = 0.02
        sys.exit(program.main(argv))

    @staticmethod
    def watched(function: Callable, file: int, name: str) -> Callable:
        def call(*args, **kwargs):
            os.pwrite(file, name.ljust(20).encode(), 0)
            try:
                return function(*args, **kwargs)
            finally:
                os.pwrite(file, b'between'.ljust(20), 0)
        return call

    @property
    def at(self) -> str:
        return self.place.read_text().strip() or 'start'

    def wait_until(self, reached: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Wait for this, or for its end; whether one of them has come."""
        deadline = time.monotonic() + seconds
        while self.process.is_alive() and not reached():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0005)
        return True

    def kill(self) -> str | None:
        """Where it was when it was killed; None where it had come to its end."""
        self.process.kill()
        self.process.join()
        return self.at if self.process.exitcode < 0 else None

    def end(self, *may_say: str) -> bool:
        """Wait for its end; whether it was at that of the run. Anything but what it `may_say` is a failure."""
        if not self.wait_until(lambda: False):
            sys.exit(f'hangs at {self.at}:\n{self.log.read_text()[-3000:]}')
        self.process.join()
        status, said = self.process.exitcode, self.log.read_text()
        is_expected = status == 0 or status < 0 or status == 2 and any(words in said for words in may_say)
        complains = 'Traceback' in said and status >= 0    # workers find out loudly that their run was killed
        if not is_expected or complains or 'damaged' in said:
            sys.exit(f'ended with status {status}:\n{said[-3000:]}')
        return status == 0


def begin(mode: Mode, argv: list[str], base: Path, rng: np.random.RandomState) -> list[Life]:
    """The processes of one life: of one run, of its ranks, or of two runs that want one folder."""
    if mode.num_rivals > 1:
        first = Life(argv, base, 'first')
        time.sleep(rng.choice([0, rng.uniform(0, 1)]))
        return [first, Life(argv, base, 'second')]
    if mode.num_ranks == 1:
        return [Life(argv, base, 'alone')]
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    shared = {'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    return [Life(argv, base, f'rank_{rank}', {**shared, 'RANK': str(rank), 'LOCAL_RANK': str(rank)})
            for rank in range(mode.num_ranks)]


def attack(lives: list[Life], mode: Mode, aim: str, rng: np.random.RandomState) -> list[str]:
    """Kill one of the ranks, or of the runs one after the other; where the kills hit."""
    victims = [lives[rng.randint(len(lives))]] if mode.num_ranks > 1 else lives
    hit = []
    for victim in victims:
        if aim == 'anywhere':
            time.sleep(rng.uniform(0, 1))
        else:
            # A rank but the first is never at what the first one writes.
            victim.wait_until(lambda: lives[0].at == aim or victim.at == aim)
            time.sleep(rng.exponential(0.002))
        hit.append(victim.kill())
    if mode.num_ranks > 1:
        for life in lives:    # the others find out themselves; at the start, which waits longer, torchrun ends them
            life.wait_until(lambda: False, seconds=2)
            life.kill()
    return [place for place in hit if place]


def soak(mode: Mode, data: Path, base: Path, kills: int, steps: int, rng: np.random.RandomState) -> list[object]:
    """Kill until there were so many and the last run has come to its end; the row of the table."""
    def argv(folder: Path, *flags: str) -> list[str]:
        return command(data, folder, '--detection_inf_step', 7, *mode.flags, *flags, steps=steps)

    alone = mode._replace(num_rivals=1)
    for life in begin(alone, argv(base / 'whole' / 'run'), base, rng):
        if not life.end():
            sys.exit(life.log.read_text())
    expected, hit, torn, finished, turn = contents(base / 'whole' / 'run'), Counter[str](), 0, 0, 0
    folder = base / 'killed' / 'run'
    while hit.total() < kills or folder.exists():
        turn += 1
        aim = ('anywhere', str(rng.choice(mode.aims)), str(rng.choice(['anywhere', 'nowhere', *mode.aims])))[turn % 3]
        lives = begin(mode, argv(folder, '--resume'), base, rng)
        if hit.total() < kills and aim != 'nowhere':
            hit.update(attack(lives, mode, aim, rng))
            torn += any(path.name.endswith('.tmp') for path in folder.glob('*'))
        is_over = [life.end('in use by', 'has lost another process', 'cannot come together') for life in lives]
        if any(is_over):
            finished += 1
            if wrong := differences(folder, expected):
                sys.exit(f'a run that was killed differs in {", ".join(wrong)}, see {folder}')
            folder = base / f'killed_{finished}' / 'run'
    where = ', '.join(f'{count} {name}' for name, count in hit.most_common())
    return [hit.total(), where, torn, finished, finished]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=1000, help='over all modes')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES))
    parser.add_argument('--steps', type=int, default=120, help='of the runs that are killed')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    if len(os.listdir('/proc/self/task')) > 1:
        sys.exit('threads run already: start this from the command line')
    modes, began, rows = {name: MODES[name] for name in args.modes}, time.monotonic(), []
    print('| mode | kills | where they hit | half-written files left | runs finished | identical |\n'
          '|---|---|---|---|---|---|', flush=True)
    for number, (name, mode) in enumerate(modes.items()):
        left = args.kills - sum(row[0] for row in rows)
        others = sum(later.weight for later in list(modes.values())[number:])
        with tempfile.TemporaryDirectory() as base:
            rows.append(soak(mode, write_data(Path(base) / 'data'), Path(base), round(left * mode.weight / others),
                             args.steps, np.random.RandomState([args.seed, number])))
        print('|', ' | '.join(map(str, [name, *rows[-1]])), '|', flush=True)
    kills, _, torn, finished, same = (sum(column) if type(column[0]) is int else '' for column in zip(*rows))
    print(f'| all | {kills} | | {torn} | {finished} | {same} |\n\n{time.monotonic() - began:.0f} s')
    return 0


if __name__ == '__main__':
    sys.exit(main())
