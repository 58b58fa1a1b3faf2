"""Global settings, processes, signals, memory and random states."""
import ctypes
import gc
import math
import os
import random
import resource
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dataset import STOP_SIGNALS, Shard, VideoDataset, free_memory
from engine.device import environment_int
from utils import InputError, give_up_blocked_output, num_cores, plural, print_final, printable, truncate, warn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
RANK_TIMEOUT = timedelta(minutes=10)  # of a wait for another rank, which may read its data more slowly
WAIT_WARNING_SECONDS = 60
SIGNAL_SECONDS = 5    # that a rank waits after a signal, in addition to its longest wait so far
MAX_USUAL_WAIT = 20
SAME_SECONDS = 0.9    # signals this close together are one: torchrun repeats a Ctrl-C, which all processes get already


# ---- global settings -------------------------------------------------------------------------------------------------

def configure(precision: str) -> None:
    """Make the global settings of a run: matmul precision and malloc."""
    torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
    tune_malloc()


def tune_malloc() -> None:
    """Raise glibc's mmap and trim thresholds, so that memory freed by a step is reused by the next one.

    Otherwise it is returned to the kernel and page-faulted back in (up to 10 % of a CPU step). No-op without glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return
    # Older glibc accepts no more than 32 MB. The trim threshold alone would leave the mmap threshold at 128 kB.
    if mallopt(M_MMAP_THRESHOLD, 2 ** 28) or mallopt(M_MMAP_THRESHOLD, 2 ** 25):
        mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)


# ---- processes ------------------------------------------------------------------------------------------------------

class WaitMonitor:
    """A thread that acts while the main thread waits for other ranks, in C++, where Python handles no signal.

    It ends the process after SIGINT, SIGTERM or SIGHUP unless the wait is over soon, and warns about long waits.
    """

    def __init__(self, rank: str):
        self.rank, self.since, self.longest = rank, math.inf, 0.  # `since`: the start of the current wait
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.writer, False)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)  # gets the number of a signal immediately
        threading.Thread(target=self.run, daemon=True, name='wait monitor').start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait for other ranks."""
        start = self.since = time.monotonic()
        try:
            yield
        finally:
            self.since = math.inf
            self.longest = min(max(self.longest, time.monotonic() - start), MAX_USUAL_WAIT)

    def run(self) -> None:
        """Watch signals and waits until the process ends."""
        received: list[int] = []
        last, warned = -math.inf, 0.
        while True:
            if select.select([self.reader], [], [], 0.5)[0]:
                signals = [number for number in os.read(self.reader, 100) if number in STOP_SIGNALS]
                if signals and time.monotonic() - last > SAME_SECONDS:
                    received.append(signals[0])
                    last = time.monotonic()
            waited = time.monotonic() - self.since
            # Waits as long as those before are normal, such as for an evaluation on rank 0.
            if received and waited > 0 and (received.count(signal.SIGINT) > 1 or
                                            min(waited, time.monotonic() - last) > SIGNAL_SECONDS + self.longest):
                print_final(f'error: rank {self.rank}: {signal.Signals(received[0]).name} during a wait of '
                            f'{waited:.0f} s for another rank; rerun with --resume')
                os._exit(128 + received[0])
            if waited - warned > WAIT_WARNING_SECONDS:
                warned = waited
                print_final(f'warning: rank {self.rank}: has waited {waited:.0f} s for another rank; it times out '
                            f'after {RANK_TIMEOUT.total_seconds():.0f} s')
            elif waited < warned:  # another wait, or none
                warned = 0


class Distributed:
    """The processes that torchrun started, or a single one. Rank 0 writes the files.

    Raises InputError where they cannot be connected.
    """

    def __init__(self, device: torch.device):
        self.world_size = environment_int('WORLD_SIZE', 1, lowest=1)
        environment_int('LOCAL_WORLD_SIZE', 1, lowest=1)
        self.waiting: Callable[[], AbstractContextManager] = nullcontext  # around what waits for other ranks
        if self.world_size > 1:
            self.waiting = WaitMonitor(printable(os.environ.get('RANK', '?'))).waiting
            try:
                with self.waiting():
                    dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo', timeout=RANK_TIMEOUT)
            except (ValueError, RuntimeError) as error:  # unset variables, a port in use, a timeout
                reason = truncate(str(error).splitlines()[0], 200)
                raise InputError(f'WORLD_SIZE={self.world_size}: could not initialize torch.distributed ({reason}); '
                                 f'start the processes with torchrun, with another --master_port if it is in use, or '
                                 f'unset WORLD_SIZE for a single one') from None
        self.rank = dist.get_rank() if self.world_size > 1 else 0
        self.is_main_process = self.rank == 0

    @property
    def shard(self) -> Shard:
        """This rank's shard of every batch."""
        return Shard(self.rank, self.world_size)

    def gather(self, value: Any) -> list:
        """Gather to rank 0, in rank order; [] on other ranks and in a single process."""
        if self.world_size == 1:
            return []
        values = [None] * self.world_size if self.is_main_process else None
        with self.waiting():
            dist.gather_object(value, values)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """Return the value of rank 0."""
        values = [value]
        if self.world_size > 1:
            with self.waiting():
                dist.broadcast_object_list(values)
        return values[0]

    def require_same(self, values: dict[str, Any]) -> None:
        """End all ranks with status 2, and a line of rank 0 that names what differs, where these values differ.

        The values of flags are printed, those under other names, in the plural, are not.
        """
        if self.world_size == 1:
            return
        ranks: list[dict] = [{}] * self.world_size
        with self.waiting():
            dist.all_gather_object(ranks, values)
        differences = []
        for name in values:
            first = ranks[0].get(name)
            rank = next((rank for rank, own in enumerate(ranks) if own.get(name) != first), 0)
            if rank and name.startswith('--'):
                differences.append(f'{name}: {truncate(first, 40)} on rank 0, '
                                   f'{truncate(ranks[rank].get(name), 40)} on rank {rank}')
            elif rank:
                differences.append(f'the {name}, on rank {rank}')
        if differences:
            if self.is_main_process:
                print_final(f'error: the ranks differ in {"; ".join(differences[:5])}'
                            f'{" and more" * (len(differences) > 5)}; start all of them with the same command, data '
                            f'and code')
            self.barrier()  # torchrun ends the others as soon as one has ended
            raise SystemExit(2)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum over all ranks, on the device; `value` is overwritten."""
        if self.world_size > 1:
            with self.waiting():
                dist.all_reduce(value)
        return value

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum over all ranks."""
        if self.world_size == 1:
            return int(value)
        with self.waiting():
            number = torch.tensor(int(value), device='cuda' if dist.get_backend() == 'nccl' else 'cpu')
            dist.all_reduce(number, dist.ReduceOp.MAX)
            return int(number)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.all_reduce_max(0)

    def is_peer_failure(self, error: RuntimeError) -> bool:
        """Return whether this error is due to the death of another rank."""
        return self.world_size > 1 and (isinstance(error, dist.DistError) or 'gloo' in str(error)
                                        or 'NCCL' in str(error))

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1:
            gc.collect()  # DDP refers to the group; threads that are left at the end of the process abort it
            with self.waiting():
                dist.destroy_process_group()


class StopSignal:
    """Remember SIGINT, SIGTERM or SIGHUP, so that a run ends after the current step; a later SIGINT interrupts it."""

    def __init__(self) -> None:
        self.number, self.time = 0, math.inf

    def __enter__(self) -> 'StopSignal':
        self.before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        if self.before[signal.SIGHUP] == signal.SIG_IGN:  # nohup
            del self.before[signal.SIGHUP]
        for number in self.before:
            signal.signal(number, self.receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if number == signal.SIGINT and time.monotonic() - self.time > SAME_SECONDS:
            raise KeyboardInterrupt
        self.number, self.time = number, min(self.time, time.monotonic())
        give_up_blocked_output()


# ---- memory ---------------------------------------------------------------------------------------------------------

def free_shared_memory() -> float:
    """Return the bytes of shared memory available for the batches of workers."""
    try:
        disk = os.statvfs('/dev/shm')
    except OSError:  # not Linux
        return math.inf
    return disk.f_bavail * disk.f_frsize / int(os.environ.get('LOCAL_WORLD_SIZE', 1))


def check_batches(datasets: list[VideoDataset], num_segments: int, batch_size: int, num_workers: int,
                  shard: Shard) -> None:
    """Raise InputError where a batch, or all prefetched batches of the workers, do not fit in memory.

    Warns about more workers than CPU cores.
    """
    sizes = [4 * num_segments * videos.num_features * min(-(-batch_size // shard.count), len(videos))
             for videos in datasets]
    free = free_memory()
    if 2 * max(sizes) > free:
        raise InputError(f'--num_segments {num_segments}: a batch of features takes {max(sizes) / 1e9:.1f} GB and as '
                         f'much again in the network, but {free / 1e9:.1f} GB are free; lower it or --batch_size')
    # A worker prefetches two batches; one more is in use.
    shared = sum(size for size, videos in zip(sizes, datasets, strict=True)
                 if videos.cached_features is None or not videos.cached_features.is_cuda)
    needed, free = (2 * num_workers + 1) * shared, free_shared_memory()
    if num_workers and needed > free:
        raise InputError(f'--num_workers {num_workers}: their batches take {needed / 1e6:.0f} MB of shared memory, but '
                         f'/dev/shm has {free / 1e6:.0f} MB free; use --num_workers 0, or enlarge it (docker run '
                         f'--shm-size)')
    check_open_files(num_workers)
    cores = num_cores()
    if shared and num_workers > cores:
        warn(f'--num_workers {num_workers}: only {plural(cores, "CPU core")} can be used; more workers help only with '
             f'a slow disk')


def check_open_files(num_workers: int) -> None:
    """Raise the limit of open files where workers need more; raises InputError where that is not allowed."""
    limit, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Pipes and shared memory of each worker, for the loaders of a training and of an evaluation.
    needed = len(os.listdir('/dev/fd')) + 18 + 8 * num_workers
    unlimited = resource.RLIM_INFINITY
    if not num_workers or limit == unlimited or 2 * needed < limit:
        return
    if needed > highest != unlimited:
        raise InputError(f'--num_workers {num_workers}: needs {needed} open files, but only {highest} are allowed; '
                         f'lower it, or raise the limit with ulimit -n 4096')
    limit = 2 * needed if highest == unlimited else min(2 * needed, highest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, highest))


# ---- random states --------------------------------------------------------------------------------------------------

def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def get_rng_state() -> dict:
    """Return the state of the global generators, in types that a checkpoint may contain."""
    return {'torch': torch.get_rng_state(), 'python': random.getstate(), 'cuda': torch.cuda.get_rng_state_all(),
            'numpy': get_sampler_rng_state(np.random.mtrand._rand)}


def set_rng_state(state: dict) -> None:
    """Restore a `get_rng_state`."""
    torch.set_rng_state(state['torch'])
    random.setstate(state['python'])
    if 'numpy' in state:  # not in checkpoints of earlier versions
        set_sampler_rng_state(np.random.mtrand._rand, state['numpy'])
    if len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])


def get_sampler_rng_state(rng: np.random.RandomState) -> list:
    """Return the state of the generator that draws rows, in types that a checkpoint may contain."""
    state = rng.get_state(legacy=False)
    inner, gauss = state['state'], [state['has_gauss'], state['gauss']]
    return [state['bit_generator'], torch.from_numpy(inner['key'].copy()), inner['pos'], *gauss]


def set_sampler_rng_state(rng: np.random.RandomState, state: list) -> None:
    """Restore a `get_sampler_rng_state`."""
    name, keys, *rest = state
    rng.set_state((name, keys.numpy(), *rest))
