"""What all commands share: bad usage and bad input end in one line on standard error and exit status 2."""
import argparse
import os
import sys
from collections.abc import Callable, Iterable

from eval.files import InputError


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> None:
        self.exit(2, f'error: {message} (--help tells more)\n')


def spare(inputs: Iterable[str | os.PathLike | None], *outputs: str | os.PathLike | None) -> None:
    """Raises InputError where a command would write over a file that it reads. None stands for a file not given."""
    for read in filter(None, inputs):
        for written in filter(None, outputs):
            if os.path.exists(written) and os.path.exists(read) and os.path.samefile(written, read):
                raise InputError(f'{written}: is read by this command and would be written over; give another name')


def run(command: Callable[[], int | None]) -> int:
    """Run a command; its exit status: what it returns, 0 for None, 2 after bad input, 130 after Ctrl-C."""
    try:
        return command() or 0
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f'{error.filename}: {error.strerror}'
        if not error.filename:  # a full disk behind `>`, a reader who has left: what waits for the exit goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            message = f'the output cannot be printed: {error.strerror or error}'
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in
                                                          ('out of memory', "can't allocate memory")):
            raise
        message = 'out of memory: give the program less at once (main.py: --batch_size, --cache) or more memory'
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130
    print(f'error: {message}', file=sys.stderr)
    return 2
