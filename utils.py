"""Seeds, device, checkpoints, the run's folder and its logs."""
import csv
import os
import pickle
import random
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from eval.files import InputError


def warn(message: str) -> None:
    """One line on standard error."""
    print(f'warning: {message}', file=sys.stderr, flush=True)


def shorten(text: object, length: int = 200) -> str:
    """A text for one line of a message: control characters escaped, the end of a long one left out."""
    text = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
    return text if len(text) <= length else text[:length - 3] + '...'


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def pick_device(name: str) -> torch.device:
    """'auto' (CUDA where there is one), 'cpu', 'cuda' or 'cuda:N'. Raises InputError where there is no such device."""
    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f'--device {name}: unknown; use auto, cpu, cuda or cuda:N') from None
    if device.type not in ('cpu', 'cuda'):
        raise InputError(f'--device {name}: only cpu and cuda are supported')
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f'--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices '
                         f'here; use --device cpu')
    return device


# ---- weights and checkpoints ----------------------------------------------------------------------------------------

def save(value: object, path: Path) -> None:
    """`torch.save` beside the place, then rename: the file is whole at any moment, old or new."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        torch.save(value, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: str | Path) -> dict:
    """Read a file of tensors and plain values; no pickled code is ever run."""
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except FileNotFoundError:
        raise InputError(f'{path}: not found') from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError, pickle.UnpicklingError) as error:
        raise InputError(f'{path}: not a readable checkpoint ({shorten(error)})') from None
    if not isinstance(state, dict):
        raise InputError(f'{path}: holds a {type(state).__name__}, not a dictionary of parameters')
    return state


def num_classes_of(state: dict, path: str | Path) -> int:
    """C, the number of classes that weights were trained on."""
    weight = state.get('actionness_module.cls.0.weight')
    if not isinstance(weight, Tensor) or not weight.ndim:
        raise InputError(f'{path}: actionness_module.cls.0.weight is missing; these are not weights of AICL')
    return weight.shape[0]


def load_weights(model: nn.Module, state: dict, path: str | Path) -> None:
    """Load a state dict under the released names into `model`, strictly, from any device and floating point type.

    Raises InputError that lists every missing, extra or mis-shaped parameter.
    """
    own = model.state_dict()
    faults = [f'{name} is missing' for name in own if name not in state]
    faults += [f'{shorten(name)} is not one of AICL\'s' for name in state if name not in own]
    for name in own.keys() & state.keys():
        value = state[name]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            faults.append(f'{name} is not a tensor of floating point numbers')
        elif value.shape != own[name].shape:
            faults.append(f'{name} is {tuple(value.shape)} where {tuple(own[name].shape)} is needed')
        elif not torch.isfinite(value).all():
            faults.append(f'{name} holds NaN or infinity')
    if faults:
        raise InputError(f'{path}: does not fit this network: {"; ".join(sorted(faults))}')
    model.load_state_dict(state)


# ---- the run's logs -------------------------------------------------------------------------------------------------

class Table:
    """A CSV file that grows by rows; its header is `columns`."""

    def __init__(self, path: Path, columns: list[str]):
        self.path, self.columns = path, columns
        with open(path, 'w', newline='') as file:
            csv.writer(file).writerow(columns)

    def append(self, rows: list[list]) -> None:
        with open(self.path, 'a', newline='') as file:
            csv.writer(file).writerows(rows)
