"""Seeds, device, checkpoints, the run's folder and its logs."""
import csv
import errno
import hashlib
import io
import math
import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from model import read_weights
from utils import InputError, shorten, warn, write_bytes, write_json

# ---- seeds ----------------------------------------------------------------------------------------------------------

def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def random_state() -> dict:
    """The state of torch's and Python's global generators, in types that a checkpoint may hold."""
    return {'torch': torch.get_rng_state(), 'python': random.getstate(), 'cuda': torch.cuda.get_rng_state_all()}


def set_random_state(state: dict) -> None:
    """Bring the global generators back to a `random_state`."""
    torch.set_rng_state(state['torch'])
    random.setstate(state['python'])
    if len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])


def rows_state(rng: np.random.RandomState) -> list:
    """The state of the generator that draws the rows, in types that a checkpoint may hold."""
    name, keys, *rest = rng.get_state()
    return [name, torch.from_numpy(keys.copy()), *rest]


def set_rows_state(rng: np.random.RandomState, state: list) -> None:
    name, keys, *rest = state
    rng.set_state((name, keys.numpy(), *rest))


# ---- device and ranks -----------------------------------------------------------------------------------------------

def pick_device(name: str) -> torch.device:
    """'auto' (CUDA where there is one), 'cpu', 'cuda' or 'cuda:N'. Raises InputError where there is no such device.

    Under torchrun 'auto' and 'cuda' are the device of the local rank.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'--device {shorten(name)}: unknown; use auto, cpu, cuda or cuda:N') from None
    if device.type not in ('cpu', 'cuda'):
        raise InputError(f'--device {shorten(name)}: only cpu and cuda are supported')
    if device.type == 'cpu':
        return device
    index = int(os.environ.get('LOCAL_RANK', 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(f'--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices '
                         f'here; use --device cpu')
    torch.cuda.set_device(index)
    return torch.device('cuda', index)


class Ranks:
    """The processes that torchrun started together, or this one alone. Rank 0 writes the files."""

    def __init__(self, device: torch.device):
        self.count = int(os.environ.get('WORLD_SIZE', 1))
        if self.count > 1:
            dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
        self.rank = dist.get_rank() if self.count > 1 else 0
        self.is_first = self.rank == 0

    def gather(self, value: Any) -> list | None:
        """The values of several ranks, in order, on rank 0; None elsewhere."""
        values = [None] * self.count if self.is_first else None
        dist.gather_object(value, values)
        return values

    def sum(self, value: Tensor) -> Tensor:
        """The sum of all ranks' tensors, on every rank and on the device; `value` itself is used up."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def largest(self, value: int) -> int:
        """The largest of all ranks' numbers, on every rank."""
        if self.count == 1:
            return int(value)
        number = torch.tensor(int(value), device='cuda' if dist.get_backend() == 'nccl' else 'cpu')
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return int(number)

    def has_lost_one(self, error: RuntimeError) -> bool:
        """Whether this error came of another rank's end."""
        return self.count > 1 and (isinstance(error, dist.DistError) or 'gloo' in str(error) or 'NCCL' in str(error))

    def close(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


class StopSignal:
    """Remembers SIGINT or SIGTERM, so that a run can end after its step; a second SIGINT interrupts at once."""

    def __init__(self):
        self.number = 0
        self.before = {number: signal.signal(number, self.receive) for number in (signal.SIGINT, signal.SIGTERM)}

    def release(self) -> None:
        """Give signals back to whom they came to before."""
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: object) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


# ---- weights and checkpoints ----------------------------------------------------------------------------------------

def save(value: object, path: Path) -> None:
    """`torch.save`, whole or not at all. Raises InputError where it cannot be written."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except RuntimeError as error:    # torch ends its archive even where the memory did not suffice for it
        raise error.__context__ if isinstance(error.__context__, MemoryError) else error
    write_bytes(path, buffer.getbuffer())


def check_finite(model: nn.Module, step: int) -> None:
    """Raises InputError where a step has made a parameter NaN or infinite."""
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            raise InputError(f'step {step}: made {name} NaN or infinite, so it is not finite and not saved; lower --lr')


def digest(value: Any, sha: Any = None) -> str:
    """SHA-256 of a nest of dictionaries, lists, tensors and plain values."""
    sha = sha or hashlib.sha256()
    if isinstance(value, Tensor):
        sha.update(f'{value.dtype} {tuple(value.shape)}'.encode())
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)    # one value may have stride 0
        sha.update(plain.flatten().view(torch.uint8).numpy())
    elif isinstance(value, (dict, list, tuple)):
        sha.update(f'{type(value).__name__} {len(value)}'.encode())
        for item in value.items() if isinstance(value, dict) else value:
            digest(item, sha)
    else:
        sha.update(repr(value).encode())
    return sha.hexdigest()


def write_checkpoint(folder: Path, state: dict) -> None:
    """Write checkpoint.pt with its digest; the one before stays as checkpoint.previous.pt."""
    path, previous = folder / 'checkpoint.pt', folder / 'checkpoint.previous.pt'
    fresh = folder / 'checkpoint.next.pt'
    save({**state, 'digest': digest(state)}, fresh)
    if path.exists():
        os.replace(path, previous)
    os.replace(fresh, path)


def read_checkpoint(folder: Path) -> dict | None:
    """The newest whole checkpoint of a run, None where it wrote none yet. Raises InputError if all are damaged."""
    names = 'checkpoint.next.pt', 'checkpoint.pt', 'checkpoint.previous.pt'    # the first only if a kill left it
    paths = [path for path in map(folder.joinpath, names) if path.exists()]
    for path in paths:
        try:
            state = read_weights(path)
            expected = state.pop('digest', None)
            if digest(state) == expected:
                return state
            fault = f'{path}: damaged, its contents do not have the digest {expected}'
        except InputError as error:
            fault = str(error)
        warn(f'{fault}; trying the checkpoint before it')
    if paths:
        raise InputError(f'{folder}: no checkpoint can be read; mend what the warnings name or start again with '
                         f'--overwrite')
    return None


# ---- the run's folder -----------------------------------------------------------------------------------------------

class Table:
    """A CSV file that grows by rows of numbers, each led by a step. Rows after `last_step` are dropped first."""

    def __init__(self, path: Path, columns: list[str], last_step: int):
        self.path = path
        kept = []
        if last_step and path.exists():
            with open(path, newline='') as file:
                kept = [row for row in csv.reader(file) if len(row) == len(columns) and row[0].isdigit()
                        and int(row[0]) <= last_step]
        write_bytes(path, self.encode([columns, *kept]))

    def append(self, rows: list[list]) -> None:
        size = None
        try:
            with open(self.path, 'ab', buffering=0) as file:
                size, content = file.tell(), self.encode(rows)
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if size is not None:
                os.truncate(self.path, size)    # no half row where the disk is full
            raise InputError(f'{self.path}: cannot be written: {error.strerror}') from None

    @staticmethod
    def encode(rows: list[list]) -> bytes:
        text = io.StringIO(newline='')
        csv.writer(text, lineterminator='\n').writerows(rows)
        return text.getvalue().encode()


class Run:
    """The folder of a training run: its tables, TensorBoard events, and the best and the last weights and results."""

    # The checkpoints go first: where a kill comes between, nobody goes on with a run that lacks its other files.
    FILES = ('checkpoint.pt', 'checkpoint.next.pt', 'checkpoint.previous.pt', 'losses.csv', 'metrics.csv', 'best.pt',
             'last.pt', 'results.json', 'detections.json', 'curves.npz', 'report.html', 'labels.txt',
             'inference_args.json', 'events.out.tfevents.*', 'args.json')

    def __init__(self, folder: Path, loss_names: tuple[str, ...], metric_names: tuple[str, ...], last_step: int = 0):
        self.folder = folder
        self.losses = Table(folder / 'losses.csv', ['step', 'epoch', *loss_names], last_step)
        self.metrics = Table(folder / 'metrics.csv', ['step', 'epoch', *metric_names], last_step)
        self.loss_names, self.metric_names = loss_names, metric_names
        from torch.utils.tensorboard import SummaryWriter  # a second to import, which inference does not need
        self.board = SummaryWriter(str(folder), purge_step=last_step + 1 if last_step else None)
        self.results: dict[str, dict] = {}    # 'best' and 'last': what results.json says of them
        self.drawn = -math.inf                # when figures were last drawn

    @classmethod
    def clear(cls, folder: Path) -> None:
        """Remove the files of an earlier run, and nothing else."""
        for name in cls.FILES:
            for path in (*folder.glob(name), *folder.glob(f'.{name}.tmp')):    # the latter from a kill
                path.unlink()

    def log_losses(self, rows: list[tuple[int, int, list[float]]]) -> None:
        """Rows of step, epoch and every loss term."""
        self.losses.append([[step, epoch, *values] for step, epoch, values in rows])
        for step, _, values in rows:
            for name, value in zip(self.loss_names, values):
                self.board.add_scalar(f'loss/{name}', value, step)

    def log_metrics(self, step: int, epoch: int, values: list[float]) -> None:
        self.metrics.append([[step, epoch, *values]])
        for name, value in zip(self.metric_names, values):
            self.board.add_scalar(name.replace('@', '/'), value, step)

    def keep(self, step: int, result: dict, weights: dict) -> bool:
        """Keep weights as the last, and as the best if their average mAP is the largest yet; whether they are the best.

        Where nothing is scored the last ones count as the best.
        """
        self.results['last'] = {'step': step, **result}
        save(weights, self.folder / 'last.pt')
        best = self.results.get('best')
        # quirk: the best weights are chosen on the test videos, as in the reference; so the last ones stand beside them
        is_best = best is None or 'average_mAP' not in best or result['average_mAP'] > best['average_mAP']
        if is_best:
            self.results['best'] = self.results['last']
            save(weights, self.folder / 'best.pt')
        self.write_results()
        return is_best

    def write_results(self) -> None:
        """Write results.json."""
        write_json(self.folder / 'results.json', {name: self.results[name] for name in ('best', 'last')})

    def close(self, arguments: dict) -> None:
        """End the TensorBoard events with the run's hyper-parameters beside its best and last mAP."""
        plain = {name: value for name, value in arguments.items() if isinstance(value, (bool, int, float, str))}
        found = {f'hparam/{name}_average_mAP': result['average_mAP'] for name, result in self.results.items()
                 if 'average_mAP' in result}
        if found:
            self.board.add_hparams(plain, found, run_name='.')
        self.board.close()
