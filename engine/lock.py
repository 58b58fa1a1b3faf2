"""Exclusive use of an output folder."""
import errno
import fcntl
import os
import platform
import time
from contextlib import suppress
from pathlib import Path

from utils import InputError, truncate, warn


class Lock:
    """Exclusive use of a folder by this process, by a system lock on its file `.lock`.

    It is released with the end of the process, however that ends; workers do not inherit it. Raises InputError with
    the process that holds it. The folder may be moved or replaced in the meantime: `check` before writing into it.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / '.lock'

    def __enter__(self) -> 'Lock':
        holder = f'process {os.getpid()} on {platform.node()}, since {time.strftime("%Y-%m-%d %H:%M:%S")}'
        try:
            self.file = self.acquire()
            os.truncate(self.file, 0)
            os.pwrite(self.file, holder.encode(), 0)
        except OSError as error:
            raise InputError(f'{self.path}: cannot be written: {error.strerror}') from None
        return self

    def acquire(self) -> int:
        """Return the descriptor of the locked file."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self.is_in_folder(file):
                    return file
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    holder = truncate(os.pread(file, 200, 0).decode(errors='replace'))
                    raise InputError(f'{self.folder}: in use by {holder or "another process"}; wait until it ends, or '
                                     f'choose another folder') from None
                warn(f'{self.path}: cannot be locked here ({error.strerror}); make sure that no other run uses this '
                     f'folder')
                return file
            os.close(file)  # the previous holder has just removed it

    def is_in_folder(self, file: int) -> bool:
        """Return whether this open file is the lock file of the folder."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except OSError:
            return False

    def check(self) -> None:
        """Raise InputError where the folder is no longer the one that was locked, and may be another process's."""
        if not self.is_in_folder(self.file):
            raise InputError(f'{self.folder}: is no longer the folder of this run: it or its file .lock was moved, '
                             f'removed or replaced; nothing more is written; resume the run where its files are now')

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a disk that became read-only
            if self.is_in_folder(self.file):  # otherwise it is the lock of another process
                self.path.unlink()  # before it is released, so that no process locks a removed file
        os.close(self.file)
