"""Global settings, processes, signals, memory and random states."""
import ctypes
import math
import os
import random
import signal
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from dataset import STOP_SIGNALS, Shard, VideoDataset, free_memory
from engine.device import environment_int
from utils import InputError, num_cores, plural, truncate, warn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


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

class Distributed:
    """The processes that torchrun started, or a single one. Rank 0 writes the files.

    Raises InputError where they cannot be connected.
    """

    def __init__(self, device: torch.device):
        self.world_size = environment_int('WORLD_SIZE', 1, lowest=1)
        environment_int('LOCAL_WORLD_SIZE', 1, lowest=1)
        if self.world_size > 1:
            try:
                dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
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
        dist.gather_object(value, values)
        return values or []

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Return the sum over all ranks, on the device; `value` is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def all_reduce_max(self, value: int) -> int:
        """Return the maximum over all ranks."""
        if self.world_size == 1:
            return int(value)
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
            dist.destroy_process_group()


class StopSignal:
    """Remember SIGINT, SIGTERM or SIGHUP, so that a run ends after the current step; a second SIGINT interrupts it."""

    def __init__(self) -> None:
        self.number = 0

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
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


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
    cores = num_cores()
    if shared and num_workers > cores:
        warn(f'--num_workers {num_workers}: only {plural(cores, "CPU core")} can be used; more workers help only with '
             f'a slow disk')


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
