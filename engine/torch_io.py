"""Safe reading and atomic writing of torch files."""
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from utils import InputError, open_file, write_bytes


def read_torch_file(path: str | Path) -> Any:
    """Read a torch file of tensors and plain values with `weights_only`; no pickled code is run.

    Raises InputError for a file that is unreadable, damaged or of another kind.
    """
    try:
        with open_file(path) as file:
            head = file.read(4)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    try:
        if not head.startswith((b'PK\3\4', b'\x80')):  # torch would unpack a tar
            raise ValueError('neither zip nor pickle')
        with warnings.catch_warnings(action='ignore'):  # torch's own about damaged files
            return torch.load(path, map_location='cpu', weights_only=True)
    except MemoryError:
        raise
    except Exception:  # torch raises a dozen types, even OSError, with texts that suggest to run the file's code
        raise InputError(f'{path}: damaged, or not a file of tensors and plain values only; write or download it '
                         f'again') from None


def serialize(value: object) -> memoryview:
    """Return the content of the file that `torch.save` would write."""
    buffer = io.BytesIO()
    try:
        torch.save(value, buffer)
    except RuntimeError as error:  # torch closes its archive even after running out of memory
        raise error.__context__ if isinstance(error.__context__, MemoryError) else error
    return buffer.getbuffer()


def save(value: object, path: Path) -> None:
    """Call `torch.save` atomically; raises InputError where the file cannot be written."""
    write_bytes(path, serialize(value))
