"""The device of a command, and which precisions it supports and how fast they are."""
import os
import time
from collections.abc import Callable

import torch

from utils import InputError, truncate

LARGE_STEP = 3e10  # FLOP of a step's matmuls from which bf16 is worth a hint


def pick_device(name: str) -> torch.device:
    """Return the device for 'auto' (CUDA if available), 'cpu', 'cuda' or 'cuda:N'; raises InputError for any other.

    Under torchrun, 'auto' and 'cuda' are the device of the local rank.
    """
    if name == 'auto':
        name = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'--device {truncate(name)}: unknown; use auto, cpu, cuda or cuda:N') from None
    if device.type not in ('cpu', 'cuda'):
        raise InputError(f'--device {truncate(name)}: only cpu and cuda are supported')
    if device.type == 'cpu':
        return device
    index = environment_int('LOCAL_RANK', 0) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise InputError(f'--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices '
                         f'here; use --device cpu')
    torch.cuda.set_device(index)
    return torch.device('cuda', index)


def environment_int(name: str, default: int, lowest: int = 0) -> int:
    """Return an integer that torchrun sets; raises InputError where it is invalid."""
    text = os.environ.get(name, str(default))
    if not (text.isdecimal() and len(text) < 10 and int(text) >= lowest):
        raise InputError(f'{name}={truncate(text, 40)} in the environment: must be an integer from {lowest}; torchrun '
                         f'sets it, unset it for a single process')
    return int(text)


def matmul_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Measure FLOP/s of a matmul of the network's shape in about 20 ms, without drawing random numbers.

    On a CPU that of one thread, in its own CPU time, so that other load does not matter. The matmul grows until it
    takes 3 ms, so that an emulated type is measured as quickly.
    """
    on_gpu, num_threads = device.type == 'cuda', torch.get_num_threads()
    clock = time.perf_counter if on_gpu else time.thread_time
    right, rows, seconds = torch.ones(1024, 512, dtype=dtype, device=device), 16, 0.
    torch.set_num_threads(1)
    while seconds < 0.003 and rows < 8192:
        rows *= 2
        left, trials = torch.ones(rows, 1024, dtype=dtype, device=device), []
        for _ in range(3):
            start = clock()
            torch.mm(left, right)
            if on_gpu:
                torch.cuda.synchronize(device)
            trials.append(clock() - start)
        seconds = min(trials)
    torch.set_num_threads(num_threads)
    return 2 * rows * right.numel() / seconds


def bf16_gain(device: torch.device, speed: Callable[..., float] = matmul_speed) -> float:
    """Return the speed of matmuls in bf16 relative to fp32; CPUs without bf16 emulate it, up to 80 times slower."""
    return speed(torch.bfloat16, device) / speed(torch.float32, device)


def check_precision(precision: str, device: torch.device, speed: Callable[..., float] = matmul_speed) -> None:
    """Raise InputError for a precision that the device does not support or that is slower than fp32 on it."""
    if precision == 'tf32' and device.type == 'cpu':
        raise InputError('--precision tf32: not supported on a CPU; leave it out, or try bf16')
    if precision == 'bf16' and (gain := bf16_gain(device, speed)) < 1:
        raise InputError(f'--precision bf16: matmuls on {device} run at {gain:.2g} times the speed of fp32; leave it '
                         f'out')


def suggest_precision(precision: str, device: torch.device, step_flops: float,
                      speed: Callable[..., float] = matmul_speed) -> list[str]:
    """Return a hint, in a list, where a training with large matmuls would be faster in bf16."""
    if precision != 'fp32' or step_flops < LARGE_STEP or (gain := bf16_gain(device, speed)) < 1.5:
        return []
    return [f'--precision bf16 would make the matmuls {gain:.1f} times as fast on this device']
