"""A training run's process and its folder: ranks, signals, tables, checkpoints, the best and the last weights.

    with StopSignal() as stop, Run(folder, ...) as run:
        run.losses.add(step, epoch, terms, videos)    # waits on the device until `fetch`
        run.keep(step, epoch, evaluation, weights)
        run.save(training.state())
"""
import csv
import errno
import fcntl
import hashlib
import io
import math
import os
import platform
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dataset import STOP_SIGNALS, Share, UniformSampler, VideoDataset
from eval.detection import tiou_key
from eval.files import GroundTruth
from features import SPLIT_FOLDERS, split_folders
from inference import Evaluation, ScoredEvaluation
from losses import Losses
from model import read_weights
from training import TrainingState
from utils import InputError, clear_temporary, first_few, is_json, shorten, warn, write_bytes, write_json, write_text

FIGURE_SECONDS = 30        # between evaluations whose timelines are drawn, at least: drawing takes a second
CHECKPOINTS = 'checkpoint.next.pt', 'checkpoint.pt', 'checkpoint.previous.pt'    # the first only if a kill left it
# All that a training run or an inference writes into its folder.
FILES = (*CHECKPOINTS, 'losses.csv', 'metrics.csv', 'best.pt', 'last.pt', 'results.json', 'detections.json',
         'detections.csv', 'curves.npz', 'report.html', 'labels.txt', 'inference_args.json',
         'events.out.tfevents.*', 'args.json')


# ---- device, ranks and signals --------------------------------------------------------------------------------------

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
    index = environment_number('LOCAL_RANK', 0) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(f'--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices '
                         f'here; use --device cpu')
    torch.cuda.set_device(index)
    return torch.device('cuda', index)


def environment_number(name: str, default: int, lowest: int = 0) -> int:
    """A number that torchrun sets. Raises InputError where it is none."""
    text = os.environ.get(name, str(default))
    if not (text.isdecimal() and len(text) < 10 and int(text) >= lowest):
        raise InputError(f'{name}={shorten(text, 40)} in the environment: must be a whole number from {lowest}; '
                         f'torchrun sets it, for a process alone unset it')
    return int(text)


class Ranks:
    """The processes that torchrun started together, or this one alone. Rank 0 writes the files.

    Raises InputError where they cannot come together.
    """

    def __init__(self, device: torch.device):
        self.count = environment_number('WORLD_SIZE', 1, lowest=1)
        environment_number('LOCAL_WORLD_SIZE', 1, lowest=1)    # which the data set goes by
        if self.count > 1:
            try:
                dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
            except (ValueError, RuntimeError) as error:    # variables are missing, the port is taken, nobody answers
                reason = shorten(str(error).splitlines()[0], 200)
                raise InputError(f'WORLD_SIZE={self.count}: the processes cannot come together ({reason}); start them '
                                 f'with torchrun, with another --master_port if it is taken, or unset WORLD_SIZE for '
                                 f'one alone') from None
        self.rank = dist.get_rank() if self.count > 1 else 0
        self.is_first = self.rank == 0

    @property
    def share(self) -> Share:
        """Of every batch."""
        return Share(self.rank, self.count)

    def gather(self, value: Any) -> list:
        """The values of several ranks, in order, on rank 0; nothing elsewhere, nor where there is one rank alone."""
        if self.count == 1:
            return []
        values = [None] * self.count if self.is_first else None
        dist.gather_object(value, values)
        return values or []

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

    def wait(self) -> None:
        """Go on once every rank has come here."""
        self.largest(0)

    def has_lost_one(self, error: RuntimeError) -> bool:
        """Whether this error came of another rank's end."""
        return self.count > 1 and (isinstance(error, dist.DistError) or 'gloo' in str(error) or 'NCCL' in str(error))

    def close(self) -> None:
        if self.count > 1:
            dist.destroy_process_group()


class StopSignal:
    """Remembers SIGINT, SIGTERM or SIGHUP, so that a run can end after its step; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> 'StopSignal':
        self.before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        if self.before[signal.SIGHUP] == signal.SIG_IGN:    # by nohup: the user wants it to go on
            del self.before[signal.SIGHUP]
        for number in self.before:
            signal.signal(number, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():    # back to whom they came to before
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


# ---- checkpoints ----------------------------------------------------------------------------------------------------

def save(value: object, path: Path) -> None:
    """`torch.save`, whole or not at all. Raises InputError where it cannot be written."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except RuntimeError as error:    # torch ends its archive even where the memory did not suffice for it
        raise error.__context__ if isinstance(error.__context__, MemoryError) else error
    write_bytes(path, buffer.getbuffer())


def digest(value: Any, sha: Any = None) -> str:
    """SHA-256 of a nest of dictionaries, lists, tensors and plain values."""
    sha = sha or hashlib.sha256()
    if isinstance(value, Tensor):
        sha.update(f'{value.dtype} {tuple(value.shape)}'.encode())
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)    # of any strides
        sha.update(plain.flatten().view(torch.uint8).numpy())
    elif isinstance(value, (dict, list, tuple)):
        sha.update(f'{type(value).__name__} {len(value)}'.encode())
        for item in value.items() if isinstance(value, dict) else value:
            digest(item, sha)
    else:
        sha.update(repr(value).encode())
    return sha.hexdigest()


class Checkpoint(NamedTuple):
    """All that a run goes on from. In its file the parts of the training stand beside the others."""
    args: dict               # of the command line
    identity: dict           # what was found in the data, see `describe_data`
    machine: dict            # what else decides the digits, see `describe_machine`
    training: TrainingState
    results: dict            # by 'best' and 'last': what results.json says of them; empty before the first evaluation
    best: dict | None        # the weights of 'best'

    def to_file(self) -> dict:
        """What its file holds besides the digest."""
        state = self._asdict()
        training = state.pop('training')
        return {**state, **training._asdict()}

    @classmethod
    def from_file(cls, state: dict) -> 'Checkpoint':
        """What a file holds, if it has this form: without this nothing in it is looked at. Raises InputError."""
        state = {'machine': {}, **state}    # which older versions did not write
        names = {*cls._fields, *TrainingState._fields} - {'training'}
        if state.keys() != names or not all(isinstance(state[name], dict) for name in names - {'best'}):
            raise InputError('is not a checkpoint of this program')
        if not all(is_json(state[name]) for name in ('args', 'identity', 'machine', 'results')):
            raise InputError('holds arguments, data or results that are no plain values')
        training = TrainingState(*(state.pop(name) for name in TrainingState._fields))
        found = cls(training=training, **state)
        if not found.results and found.best is None:
            return found
        steps = [result.get('step') if isinstance(result, dict) else None for result in found.results.values()]
        if found.results.keys() != {'best', 'last'} or not all(type(step) is int and step > 0 for step in steps):
            raise InputError('holds results that are none')
        scores = [result.get('average_mAP', 0.0) for result in found.results.values()]
        if not isinstance(found.best, dict) or not all(isinstance(score, (int, float)) for score in scores):
            raise InputError('holds results that are none')
        return found


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write checkpoint.pt with its digest; the one before stays as checkpoint.previous.pt."""
    fresh, path, previous = (folder / name for name in CHECKPOINTS)
    state = checkpoint.to_file()
    save({**state, 'digest': digest(state)}, fresh)
    if path.exists():
        os.replace(path, previous)
    os.replace(fresh, path)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, None where it wrote none yet. Raises InputError if all are damaged."""
    paths = [path for path in map(folder.joinpath, CHECKPOINTS) if path.exists()]
    for path in paths:
        try:
            state = read_weights(path)
            expected = state.pop('digest', None)
            if digest(state) == expected:
                return Checkpoint.from_file(state)
            fault = f'{path}: damaged, its contents do not have the digest {shorten(expected, 70)}'
        except InputError as error:
            fault = str(error) if str(path) in str(error) else f'{path}: damaged, it {error}'
        warn(f'{fault}; trying the checkpoint before it')
    if paths:
        raise InputError(f'{folder}: no checkpoint can be read; mend what the warnings name or start again with '
                         f'--overwrite')
    return None


def find_checkpoint(folder: Path, resume: bool, overwrite: bool) -> Checkpoint | None:
    """The checkpoint to go on from, None for a new run. Raises InputError as `check_folder` does."""
    check_folder(folder, resume, overwrite)
    return read_checkpoint(folder) if resume else None


def check_same_run(folder: Path, found: Checkpoint, own: Checkpoint, changeable: Iterable[str]) -> None:
    """Raises InputError, by name, where arguments or data make this another run than the checkpoint's.

    `own` is what a new run would begin with, `changeable` names the arguments that may differ.
    """
    changed = [f'--{name} was {shorten(repr(value))} and is {own.args[name]!r}' for name, value in found.args.items()
               if name not in changeable and own.args.get(name, value) != value]
    changed += [f'the {name} are others' for name, value in own.identity.items()
                if found.identity.get(name, value) != value]
    if changed:
        raise InputError(f'{folder}: cannot be resumed with other settings or data: {"; ".join(changed)}; put them '
                         f'back, or start again with --overwrite')
    if unknown := [name for name in own.identity if name not in found.identity]:
        warn(f'{folder}: its checkpoint is of an older version, which did not note the {", ".join(unknown)}; whether '
             f'they are still the same is not checked')
    others = [f'{name} ({shorten(found.machine[name], 40)}, now {value})' for name, value in own.machine.items()
              if found.machine.get(name, value) != value]
    if others:
        warn(f'{folder}: goes on with other {", ".join(others)}; the last digits may differ from those of a run that '
             f'was never stopped')


def begin_run(folder: Path, first: Checkpoint) -> None:
    """Write the first checkpoint of a new run over that of an earlier one.

    It comes before every other file: a folder with files of a run has a checkpoint, whenever a kill comes.
    """
    fresh, _, previous = (folder / name for name in CHECKPOINTS)
    fresh.unlink(missing_ok=True)
    write_checkpoint(folder, first)
    previous.unlink(missing_ok=True)


def describe_machine(device: torch.device, num_ranks: int) -> dict:
    """What decides the order of sums, and so the last digits, besides the arguments."""
    model = torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()
    return {'threads': torch.get_num_threads(), 'ranks': num_ranks, 'device': f'{device.type} {model}',
            'instruction set': torch.backends.cpu.get_cpu_capability(), 'torch': str(torch.__version__),
            'numpy': np.__version__}


# ---- the data that a run was begun with -----------------------------------------------------------------------------

SAMPLED_BYTES = 2 ** 26    # of the features of a split that are looked at, about: a fifth of a second


def describe_data(train_set: VideoDataset, test_set: VideoDataset, truth: GroundTruth | None) -> dict:
    """What a run is begun with, by the names that a message gives it; what is large, by digest.

    `truth` is what the test videos are scored against.
    """
    arrays = [torch.from_numpy(part) if isinstance(part, np.ndarray) else part for part in truth or ()]
    return {'classes': train_set.class_names, 'training videos': train_set.names,
            'lengths of videos': train_set.lengths, 'training labels': digest(train_set.labels),
            'training features': digest_features(train_set), 'test videos': test_set.names,
            'lengths of test videos': test_set.lengths, 'test annotations': digest(arrays),
            'test features': digest_features(test_set)}


def digest_features(videos: VideoDataset) -> str:
    """SHA-256 of the features of a split: of all where they are few, else of rows spread evenly over every video."""
    rows_that_fit = SAMPLED_BYTES // (4 * videos.num_features * len(videos))
    num_rows = min(max(rows_that_fit, 2), max(videos.lengths))
    sha = hashlib.sha256(repr((videos.lengths, videos.num_features)).encode())
    for draw in UniformSampler(videos.lengths, num_rows, batch_size=32):
        sha.update(videos.sample(draw).cpu().numpy().data)
    return sha.hexdigest()


# ---- the run's folder -----------------------------------------------------------------------------------------------

def make_folder(folder: Path) -> None:
    """Make a folder where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be made: {error.strerror}; choose another --output_dir or '
                         f'--exp_name') from None


def keep_data(folder: Path, data_path: str) -> None:
    """Raises InputError where a run's folder is or holds the data folder, or lies among its features."""
    place, root = (Path(os.path.realpath(path)) for path in (folder, data_path))
    folders = [root / 'features', *(folder for split in SPLIT_FOLDERS for folder in split_folders(root, split))]
    trees = [Path(os.path.realpath(folder)) for folder in folders]
    if any(tree.is_relative_to(place) for tree in (root, *trees)) or any(map(place.is_relative_to, trees)):
        raise InputError(f'{folder}: is or holds the data folder {data_path}, or lies among its features, and would '
                         f'mix its files with theirs; choose another --output_dir or --exp_name')


def check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raises InputError where a run would write over files without being asked to, having no checkpoint of them."""
    found = [path.name for name in FILES for path in sorted(folder.glob(name))]
    is_run = any(name in CHECKPOINTS for name in found)
    if not found or overwrite or (resume and is_run):
        return
    if is_run:
        raise InputError(f'{folder}: holds a run already; add --resume to go on with it or --overwrite to replace it, '
                         f'or choose another --exp_name')
    raise InputError(f'{folder}: holds {first_few(found)} but no checkpoint to go on from; add --overwrite to replace '
                     f'what is there, or choose another --exp_name')


class Lock:
    """Holds a folder: no other process writes a run's files there as long as this one lives and is inside.

    It is the system's lock on the file `.lock`, which says who holds it. It ends with the process, however that ends,
    and the workers that a run forks do not inherit it. Raises InputError, which names the holder, where it is held.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / '.lock'

    def __enter__(self) -> 'Lock':
        holder = f'process {os.getpid()} on {platform.node()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}'
        try:
            self.file = self.take()
            os.truncate(self.file, 0)
            os.pwrite(self.file, holder.encode(), 0)
        except OSError as error:
            raise InputError(f'{self.path}: cannot be written: {error.strerror}') from None
        return self

    def take(self) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(self.path) and os.path.samestat(os.fstat(file), os.stat(self.path)):
                    return file
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    holder = shorten(os.pread(file, 200, 0).decode(errors='replace'))
                    raise InputError(f'{self.folder}: in use by {holder or "another process"}; wait for its end, or '
                                     f'choose another --exp_name') from None
                warn(f'{self.path}: cannot be locked here ({error.strerror}); see that no other run writes into this '
                     f'folder')
                return file
            os.close(file)    # the one before has just ended and taken the file away

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):    # a disk that has turned read-only
            self.path.unlink(missing_ok=True)    # before it is let go, so that nobody holds a file that is not there
        os.close(self.file)


def is_step(text: str) -> bool:
    return text.isdecimal() and len(text) < 19


class Table:
    """A CSV file that grows by rows of numbers, each led by a step. Rows after `last_step` are dropped first."""

    def __init__(self, path: Path, columns: list[str], last_step: int):
        self.path = path
        rows = self.read() if last_step and path.exists() else []
        kept = [row for row in rows if len(row) == len(columns) and is_step(row[0]) and int(row[0]) <= last_step]
        write_bytes(path, self.encode([columns, *kept]))

    def read(self) -> list[list[str]]:
        """Its rows, as far as it is a table."""
        rows = []
        with open(self.path, newline='', encoding='utf-8', errors='replace') as file, suppress(csv.Error):
            for row in csv.reader(file):
                rows.append(row)
        return rows

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


class LossRow(NamedTuple):
    """The loss terms of a step, as numbers, in the order of `Losses`."""
    step: int
    epoch: int
    terms: list[float]


class PendingLosses:
    """Losses that wait on the device, so that no step waits for them; they are fetched together."""

    def __init__(self) -> None:
        self.waiting: list[tuple[int, int, Tensor, list[int]]] = []    # step, epoch, terms, videos

    def add(self, step: int, epoch: int, terms: Tensor, videos: list[int]) -> None:
        """Remember the terms of `Losses` (9,) of a step, and the videos that it was taken on."""
        self.waiting.append((step, epoch, terms, videos))

    def fetch(self, names: list[str]) -> tuple[list[LossRow], InputError | None]:
        """What waited, up to the first step with a term that is not finite, and then the complaint about that one."""
        waiting, self.waiting = self.waiting, []
        values = torch.stack([terms for _, _, terms, _ in waiting]).tolist() if waiting else []
        rows = [LossRow(step, epoch, own) for (step, epoch, _, _), own in zip(waiting, values)]
        bad = next((i for i, row in enumerate(rows) if not all(map(math.isfinite, row.terms))), None)
        if bad is None:
            return rows, None
        terms = dict(zip(Losses._fields[1:], rows[bad].terms[1:]))
        term = next((name for name, value in terms.items() if not math.isfinite(value)), 'total')
        videos = ', '.join(names[v] for v in waiting[bad][3])
        return rows[:bad], InputError(
            f'step {rows[bad].step}: the loss term {term} is not finite, on the videos {videos}; the weights saved '
            f'before stay as they are, try a lower --lr and check the features of these videos')


class Run:
    """The folder of a training run: its tables, TensorBoard events, and the best and the last weights and results.

    `own` is what a new run would begin with, `state` the checkpoint to go on from, for a new run `own` itself;
    `may_differ` is for args.json.
    """

    def __init__(self, folder: Path, own: Checkpoint, may_differ: list[str], state: Checkpoint):
        self.folder, self.own, self.arguments = folder, own, own.args
        self.results: dict[str, dict] = {}                          # 'best' and 'last': what results.json says of them
        self.evaluated: dict[str, tuple[int, Evaluation]] = {}      # of these what this process found itself, by step
        self.is_written = True                                      # detections and curves are those of the best
        self.drawn = -math.inf                                      # when figures were last drawn
        last_step = state.training.progress['step']
        self.clear(is_new=last_step == 0)
        by_tiou = [f'mAP@{tiou_key(threshold)}' for threshold in own.args['tiou']]
        self.metric_names = ['average_mAP', 'video_accuracy', 'num_predictions', *by_tiou]
        self.losses = Table(folder / 'losses.csv', ['step', 'epoch', *Losses._fields], last_step)
        self.metrics = Table(folder / 'metrics.csv', ['step', 'epoch', *self.metric_names], last_step)
        from torch.utils.tensorboard import SummaryWriter  # a second to import, which inference does not need
        threading.excepthook = report_of_thread
        with self.writing_events():
            self.board = SummaryWriter(str(folder), purge_step=last_step + 1 if last_step else None)
        write_text(folder / 'labels.txt', ''.join(f'{name}\n' for name in own.identity['classes']))
        write_json(folder / 'args.json', {**arguments_and_versions(own.args), 'differ': may_differ})
        self.restore(state)

    def __enter__(self) -> 'Run':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None or issubclass(kind, (InputError, KeyboardInterrupt)):
                self.rest()
            with self.writing_events():
                self.board.close()
        except InputError:
            if kind is None:    # else what ended the run is told already
                raise

    @contextmanager
    def writing_events(self) -> Iterator[None]:
        """Name the TensorBoard events where they cannot be written; their writer does not."""
        try:
            yield
        except OSError as error:
            raise InputError(f'{self.folder}/events.out.tfevents.*: cannot be written: '
                             f'{error.strerror or error}') from None

    def clear(self, is_new: bool) -> None:
        """Remove what kills have left, and for a new run the files of an earlier one, and nothing else."""
        for name in FILES:
            clear_temporary(self.folder, name)
            if is_new and name not in CHECKPOINTS[:2]:    # one of these says that the run is at step 0
                for path in self.folder.glob(name):
                    path.unlink()

    def restore(self, state: Checkpoint) -> None:
        """Bring results and best weights to where a checkpoint has them: the files may be those of later steps."""
        self.results = state.results
        if self.results:
            self.write_results()
        if state.best:
            save(state.best, self.folder / 'best.pt')

    def rest(self) -> None:
        """Write the detections and curves of the best weights: not at each of a hundred new bests in a row."""
        if not self.is_written:
            _, best = self.evaluated['best']
            best.write(self.folder)
            self.is_written = True

    def save(self, training: TrainingState) -> None:
        """Write a checkpoint of the run at this state of its training."""
        self.rest()
        best = read_weights(self.folder / 'best.pt') if self.results else None
        write_checkpoint(self.folder, self.own._replace(training=training, results=self.results, best=best))

    def log_losses(self, rows: list[LossRow]) -> None:
        """Add to losses.csv and to the board."""
        self.losses.append([[row.step, row.epoch, *row.terms] for row in rows])
        for row in rows:
            self.add_points(row.step, {f'loss/{name}': value for name, value in zip(Losses._fields, row.terms)})

    def add_points(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each of these curves on the board, in one event: one each takes six times as long."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        writer: Any = self.board.file_writer    # torch does not tell its type
        with self.writing_events():
            writer.add_summary(Summary(value=points), step)

    def keep(self, step: int, epoch: int, evaluation: Evaluation, weights: dict) -> None:
        """Keep weights and evaluation as the last ones, and as the best if their average mAP is the largest yet.

        Where nothing is scored the last ones count as the best.
        """
        self.evaluated['last'] = step, evaluation
        result = evaluation.to_json()
        self.results['last'] = {'step': step, **result}
        save(weights, self.folder / 'last.pt')
        best = self.results.get('best')
        # quirk: the best weights are chosen on the test videos, as in the reference; so the last ones stand beside them
        is_best = best is None or 'average_mAP' not in best or result['average_mAP'] > best['average_mAP']
        if is_best:
            self.evaluated['best'], self.results['best'] = self.evaluated['last'], self.results['last']
            save(weights, self.folder / 'best.pt')
        self.write_results()
        self.is_written &= not is_best
        if isinstance(evaluation, ScoredEvaluation):
            self.log_metrics(step, epoch, evaluation)

    def log_metrics(self, step: int, epoch: int, evaluation: ScoredEvaluation) -> None:
        """Add to metrics.csv and to the board."""
        scores = evaluation.scores
        values = [scores.average, evaluation.video_accuracy, scores.num_detections, *scores.mean_ap.tolist()]
        self.metrics.append([[step, epoch, *values]])
        self.add_points(step, {name.replace('@', '/'): value for name, value in zip(self.metric_names, values)})

    def draw_in_turn(self, step: int, evaluation: Evaluation) -> None:
        """Draw an evaluation for TensorBoard, unless the one before was drawn less than FIGURE_SECONDS ago."""
        if time.monotonic() - self.drawn > FIGURE_SECONDS:
            self.draw('', step, evaluation)
            self.drawn = time.monotonic()

    def draw(self, name: str, step: int, evaluation: Evaluation) -> None:
        """Draw an evaluation for TensorBoard, among those of a name."""
        if self.arguments['figures'] and isinstance(evaluation, ScoredEvaluation):
            with self.writing_events():
                evaluation.draw(self.board, name, step, self.arguments['figures'])

    def write_results(self) -> None:
        """Write results.json."""
        write_json(self.folder / 'results.json', {name: self.results[name] for name in ('best', 'last')})

    def conclude(self) -> None:
        """Add the run's hyper-parameters beside its best and last mAP to the TensorBoard events."""
        plain = {name: value for name, value in self.arguments.items() if isinstance(value, (bool, int, float, str))}
        found = {f'hparam/{name}_average_mAP': result['average_mAP'] for name, result in self.results.items()
                 if 'average_mAP' in result}
        if found:
            with self.writing_events():
                self.board.add_hparams(plain, found, run_name='.')


def report_of_thread(failure: Any) -> None:
    """Threads report what ended them, but TensorBoard's: what they cannot write the run says in its own line."""
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith('tensorboard')):
        threading.__excepthook__(failure)


def arguments_and_versions(arguments: dict) -> dict:
    """What args.json says: every argument, and the versions of what computes with them."""
    versions = {'commit': commit(), 'python': platform.python_version(), 'torch': torch.__version__,
                'numpy': np.__version__}
    return {**arguments, 'versions': versions}


def commit() -> str:
    """The commit of this program, with -dirty where files were changed since; 'unknown' outside of a git checkout."""
    command = ['git', '-C', str(Path(__file__).parent), 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return 'unknown'
