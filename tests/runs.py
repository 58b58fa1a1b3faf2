"""Runs in separate processes, which tests stop and kill at chosen points."""
import importlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from test_main import TINY

ROOT = Path(__file__).resolve().parents[1]
FILES = ('losses.csv', 'metrics.csv', 'best.pt', 'last.pt', 'detections.json', 'detections.csv', 'events.csv',
         'results.json', 'curves.npz', 'labels.txt', 'report.html')  # the same in an undisturbed and a resumed run
PATIENCE = 120  # seconds that a tiny run may take on a busy machine


class Call(NamedTuple):
    """What happens at one call of a function, before it or in its midst."""
    function: str  # 'module.function' or 'module.Class.function', of the run's process
    number: int    # of the call, from 1
    action: Callable[[], object]

    def arm(self) -> None:
        """Put the action in its place."""
        place, name = self.function.rsplit('.', 1)
        module, *inner = place.split('.')
        while True:
            try:
                owner = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, inner = module.rsplit('.', 1)[0], [module.rsplit('.', 1)[1], *inner]
        for part in inner:
            owner = getattr(owner, part)
        original, count = getattr(owner, name), [0]

        def counted(*args, **kwargs):
            count[0] += 1
            if count[0] == self.number:
                self.action()
            return original(*args, **kwargs)

        setattr(owner, name, counted)


class Signal(NamedTuple):
    """An action: this process gets a signal."""
    number: int

    def __call__(self) -> None:
        os.kill(os.getpid(), self.number)


class HalfAFile(NamedTuple):
    """Armed: the n-th file is written by half, then the process is killed."""
    number: int

    def arm(self) -> None:
        write_bytes, count = Path.write_bytes, [0]

        def counted(path, content):
            count[0] += 1
            if count[0] == self.number:
                write_bytes(path, bytes(content)[:len(content) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write_bytes(path, content)

        Path.write_bytes = counted


class Rename(NamedTuple):
    """Armed: the process is killed before it renames a file to this name for the n-th time."""
    name: str
    number: int = 1

    def arm(self) -> None:
        replace, count = os.replace, [0]

        def watched(source, target):
            count[0] += Path(target).name == self.name
            if count[0] == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = watched


def _work(argv: list[str], log: Path, checkpoint_seconds: float, armed: list) -> None:
    for descriptor in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    torch.set_num_threads(1)
    multiprocessing.set_start_method('fork', force=True)  # for its workers, as in a separate run
    import main
    from engine import trainer
    trainer.CHECKPOINT_SECONDS = checkpoint_seconds
    for call in armed:
        call.arm()
    sys.exit(main.main(argv))


def start(argv: list[str], log: Path, *armed: Call | HalfAFile | Rename,
          checkpoint_seconds: float = 60) -> multiprocessing.Process:
    """Begin a run; what it prints is added to `log`. Imports are done once, in a server that never runs anything."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['main', 'engine.run_folder', 'torch._dynamo', 'eval.timeline'])
    process = context.Process(target=_work, args=(argv, log, checkpoint_seconds, list(armed)))
    process.start()
    return process


def status(process: multiprocessing.Process) -> int:
    """The exit status of a run once it has ended, negative where a signal killed it."""
    process.join(PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f'a run of a tiny data set took more than {PATIENCE} s')
    return process.exitcode


def command(data: Path, folder: Path, *flags: object, steps: int = 7) -> list[str]:
    """A command line that trains on the tiny data set, with an evaluation inside epochs and at their ends."""
    return ['--dataset', 'thumos14', '--data_path', str(data), '--output_dir', str(folder.parent),
            '--exp_name', folder.name, *TINY, '--num_steps', str(steps), '--detection_inf_step', '2', '--seed', '3',
            *map(str, flags)]


def contents(folder: Path) -> dict[str, bytes]:
    """What a run has found, file by file."""
    return {name: (folder / name).read_bytes() for name in FILES}


def differences(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """The files that are not as expected, and half-written ones that were left."""
    left = [path.name for path in folder.iterdir() if path.name.endswith('.tmp')]
    same = [name for name in FILES if (folder / name).exists() and (folder / name).read_bytes() == expected[name]]
    return [name for name in FILES if name not in same] + left
