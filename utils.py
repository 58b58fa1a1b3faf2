"""User errors, messages, atomic files, and the common part of all commands.

Imports neither numpy nor torch, which take long to import.
"""
import argparse
import errno
import gzip
import io
import json
import math
import os
import re
import shutil
import stat
import sys
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from tqdm import tqdm

MAX_DEPTH = 100  # nesting of JSON that is written
MAX_GUNZIPPED = 2 ** 30  # bytes; a few megabytes of gzip could otherwise fill the memory
IMAGE_SIGNATURES = r'\x89PNG|<\?xml|%PDF'  # how files of `save_figure` begin


class InputError(Exception):
    """Bad input: one line for the user with the file and the fix."""


# ---- messages -------------------------------------------------------------------------------------------------------

def warn(message: str) -> None:
    """Print one line on standard error, on rank 0 only."""
    if os.environ.get('RANK', '0') == '0':
        print_line(f'warning: {message}', sys.stderr)


def print_line(line: str, file: TextIO | None = None) -> None:
    """Print a line on standard output or another file, above the progress bar of a terminal."""
    module = sys.modules.get('tqdm')  # without it there is no bar
    with module.tqdm.external_write_mode(file) if module else nullcontext():
        print(line, file=file, flush=True)


def printable(text: object) -> str:
    """Return a text in one line: control characters and lone surrogates are escaped."""
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def is_utf8(text: str) -> bool:
    """Return whether a text can be written in UTF-8: undecodable file names contain lone surrogates."""
    return not any('\ud800' <= c <= '\udfff' for c in text)


def truncate(text: object, length: int = 200) -> str:
    """Return a `printable` text of at most `length` characters."""
    text = printable(text)
    return text if len(text) <= length else text[:length - 3] + '...'


def quote(name: str) -> str:
    """Return a name from a file for a message: quoted, in one line, truncated."""
    return repr(name if len(name) <= 60 else name[:57] + '...')


def plural(count: int, noun: str) -> str:
    """Return `count` and the noun, in the plural where it is not 1."""
    return f'{count} {noun}' + ('s' if count != 1 else '')


def preview(names: list[str], shown: int = 3) -> str:
    """Return the first few names for a message, and how many more there are."""
    return truncate(', '.join(names[:shown])) + (f' and {len(names) - shown} more' if len(names) > shown else '')


def print_section(title: str, lines: Iterable[str], width: int = 9) -> None:
    """Print lines with a title in front of the first one."""
    for line in lines:
        print(f'{title:<{width}}{truncate(line, 500)}', flush=True)
        title = ''


# ---- progress -------------------------------------------------------------------------------------------------------

BAR = '{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]'
LINE = '{desc}: {unit} {n_fmt}/{total_fmt}, {remaining} left{postfix}'
LINE_SECONDS = 60  # between two lines


class LineWriter:
    """A file for tqdm that prints each state of a bar as a line on standard error."""

    def write(self, text: str) -> None:
        """Print a state, but neither an empty one nor movements of the cursor."""
        if text.startswith('\r') and (line := text.strip()):
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Do nothing: each line is flushed."""


def progress(items: Iterable | None = None, *, delay: float = 1, leave: bool = False, **options: Any) -> 'tqdm':
    """Return a tqdm bar; where standard error is not a terminal, it prints a line per minute instead.

    It appears after `delay` seconds; without a terminal 0 prints the first line at once.
    """
    from tqdm import tqdm
    if sys.stderr.isatty():
        return tqdm(items, bar_format=BAR, dynamic_ncols=True, delay=delay, leave=leave, **options)
    return tqdm(items, bar_format=LINE, file=LineWriter(), mininterval=LINE_SECONDS, miniters=1, leave=False,
                delay=delay and LINE_SECONDS, **options)


def show_details(bar: 'tqdm', details: list[str]) -> None:
    """Show details with a bar: all of them without a terminal, otherwise as many of the first ones as fit."""
    values, shown = bar.format_dict, list(details)
    columns = values.pop('ncols')  # without this, the bar itself takes ten
    while columns and len(shown) > 1 and columns < len(bar.format_meter(**{**values, 'postfix': ', '.join(shown)})):
        shown.pop()
    bar.set_postfix_str(', '.join(shown), refresh=False)


def pace(bar: 'tqdm') -> tuple[float, str]:
    """Return the seconds per step of a bar, and the time left."""
    values = bar.format_dict
    rate = values['rate'] or (values['n'] - values['initial']) / max(values['elapsed'], 1e-9)
    return (1 / rate, bar.format_interval((values['total'] - values['n']) / rate)) if rate else (math.nan, '?')


# ---- atomic files ---------------------------------------------------------------------------------------------------

def open_file(path: str | os.PathLike) -> io.BufferedReader:
    """Open a regular file to read bytes; raises InputError for a pipe or a device, which may never end, or OSError."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(number).st_mode
    if stat.S_ISREG(mode):
        return open(number, 'rb')
    os.close(number)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    raise InputError(f'{path}: is a pipe or a device; give the path of a regular file')


def read_bytes(path: str | os.PathLike) -> bytes:
    """Read a file, decompressed where it is a gzip file; raises InputError if it cannot be read."""
    try:
        with open_file(path) as file:
            content = file.read()
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    return gunzip(content, path) if content.startswith(b'\x1f\x8b') else content


def gunzip(content: bytes, path: str | os.PathLike) -> bytes:
    """Decompress gzip; raises InputError with the path if it is damaged or decompresses to over MAX_GUNZIPPED bytes."""
    whole = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            while part := file.read(2 ** 20):
                whole += part
                if len(whole) > MAX_GUNZIPPED:
                    raise InputError(f'{path}: decompresses to over {MAX_GUNZIPPED >> 20} MiB; run gunzip on it first')
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f'{path}: a damaged gzip file ({error}); download or compress it again') from None
    return bytes(whole)


def read_json(path: str | os.PathLike) -> Any:
    """Read a JSON file in UTF-8; raises InputError if it is not valid JSON or has a duplicate key."""
    return parse_json(read_bytes(path), path)


def parse_json(content: bytes, path: str | os.PathLike) -> Any:
    """Parse JSON in UTF-8; raises InputError with the path if it is not valid or has a duplicate key."""
    try:
        return json.loads(content.decode('utf-8-sig'), object_pairs_hook=_object)
    except RecursionError:
        raise InputError(f'{path}: nested too deep to be read') from None
    except UnicodeDecodeError:
        raise InputError(f'{path}: not a valid JSON file: it is not UTF-8, save it as that') from None
    except ValueError as error:  # not JSON, a duplicate key, a number that is too long
        reason = str(error).partition('; use sys.')[0] if content else 'it is empty'
        raise InputError(f'{path}: not a valid JSON file: {reason}') from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raises ValueError for a duplicate key, of which the parser would drop the first."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        duplicate = next(key for key in counts if counts[key] > 1)
        raise ValueError(f'the key {quote(duplicate)} appears twice in one object, keep one')
    return value


def is_json(value: Any) -> bool:
    """Return whether nested dictionaries and lists of plain values can be written as JSON."""
    stack = [(value, 0)]
    while stack:
        inner, depth = stack.pop()
        if depth > MAX_DEPTH:
            return False
        if isinstance(inner, (list, tuple)):
            stack += [(one, depth + 1) for one in inner]
        elif isinstance(inner, dict):
            if not all(isinstance(name, str) for name in inner):
                return False
            stack += [(one, depth + 1) for one in inner.values()]
        elif not (inner is None or type(inner) in (bool, int, str) or type(inner) is float and math.isfinite(inner)):
            return False
    return True


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write indented JSON atomically; raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, text.encode('utf-8'))


def write_bytes(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Write a file atomically: to a temporary file in the same folder, which is then renamed.

    Raises InputError if it cannot be written.
    """
    target = Path(os.path.realpath(path))
    # Unique per process, so that two writers of one file never mix; `remove_stale_tmp` matches the pattern.
    temporary = target.with_name(f'.{target.name[:40]}.{os.getpid()}-{os.urandom(4).hex()}.tmp')
    try:
        if target.exists() and not target.is_file():  # /dev/null, a pipe: cannot be replaced
            number = os.open(target, os.O_WRONLY | os.O_NONBLOCK)  # an error, no wait, where a pipe has no reader
            os.set_blocking(number, True)
            with open(number, 'wb') as file:
                file.write(content)
            return
        try:
            temporary.write_bytes(content)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}') from None


@contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Fill a new folder under a temporary name and then rename it, so that it appears complete or not at all.

    An existing folder is replaced at the end. Raises InputError if it cannot be written.
    """
    target = Path(os.path.abspath(folder))
    suffix = f'{os.getpid()}-{os.urandom(4).hex()}'
    temporary, old = (target.with_name(f'.{target.name[:40]}.{suffix}.{kind}') for kind in ('tmp', 'old'))
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if target.exists():
                target.rename(old)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be written: {error.strerror}') from None


def num_cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def make_dir(folder: Path, fix: str = 'choose another folder') -> None:
    """Create a folder where it does not exist; raises InputError with the fix if that fails."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be created: {error.strerror}; {fix}') from None


def remove_stale_tmp(folder: Path, name: str) -> None:
    """Remove the temporary files that a killed process left for files of this name (a glob pattern)."""
    for path in folder.glob(f'.{name}.*-*.tmp'):
        path.unlink(missing_ok=True)


def save_figure(path: str | os.PathLike, figure: 'Figure') -> None:
    """Write a matplotlib figure as .png, .svg or .pdf, atomically and reproducibly.

    The text of .svg and .pdf stays text. Raises InputError for another suffix.
    """
    suffix = Path(path).suffix.lower()
    undated = {'.png': None, '.svg': {'Date': None}, '.pdf': {'CreationDate': None}}
    if suffix not in undated:
        raise InputError(f'{path}: the name of a figure must end in .png, .svg or .pdf')
    import matplotlib
    content = io.BytesIO()
    # Font type 42 embeds the glyphs as text instead of outlines.
    with matplotlib.rc_context({'svg.hashsalt': 'AICL', 'svg.fonttype': 'none', 'pdf.fonttype': 42}), \
            warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings('always', 'Glyph .* missing')
        figure.savefig(content, format=suffix[1:], dpi=130, metadata=undated[suffix])
    if caught and suffix != '.svg':
        warn(f'{path}: the font lacks some characters of the names; an .svg shows them')
    write_bytes(path, content.getvalue())


def refuse_overwriting_inputs(inputs: Iterable[str | os.PathLike | None], *outputs: str | os.PathLike | None) -> None:
    """Raise InputError where an output is one of the inputs or another output; None is a file that is not given."""
    files = Counter(os.path.realpath(path) for path in outputs
                    if path is not None and (os.path.isfile(path) or not os.path.exists(path)))  # not /dev/null
    for path, times in files.items():
        if times > 1:
            raise InputError(f'{path}: is given for more than one output; use a different name for each')
    existing = [path for path in inputs if path is not None and os.path.exists(path)]
    for output in outputs:
        for path in existing:
            if output is not None and os.path.exists(output) and os.path.samefile(output, path):
                raise InputError(f'{output}: is an input of this command and would be overwritten; use another name')


def refuse_overwriting_foreign(path: str | os.PathLike | None, signature: str) -> None:
    """Raise InputError where an existing file was not written by this kind of command.

    `signature` is a regular expression for the first 1,000 bytes of its files. An empty file may be overwritten.
    """
    if path is None or not os.path.isfile(path):
        return
    try:
        with open(path, 'rb') as file:
            head = file.read(1000)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    if head and not re.match(signature.encode(), head):
        raise InputError(f'{path}: is a file of another kind and would be overwritten; use another name, or '
                         '--overwrite')


# ---- the frame of a command -----------------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    """ArgumentParser with one-line errors that suggests a flag where one is misspelled and refuses empty values."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse arguments after these checks."""
        arguments = self.expand_ranges(sys.argv[1:] if args is None else list(args))
        self.check_not_empty(arguments)
        for argument in arguments:
            if argument == '--':
                break
            self.check_flag(argument.partition('=')[0])
        return super().parse_known_args(arguments, namespace)

    def check_not_empty(self, arguments: list[str]) -> None:
        """End with a message where an argument is empty: as a path it would be the working directory."""
        for before, argument in zip([self.prog, *arguments], arguments):
            flag, sign, value = argument.partition('=')
            if not argument or flag.startswith('--') and sign and not value:
                self.error(f'{truncate(flag)} has no value' if sign else
                           f'the argument after {truncate(before)} is empty: is a shell variable unset?')

    def expand_ranges(self, arguments: list[str]) -> list[str]:
        """Return arguments with the values of a range of --tiou instead of it: 0.5:0.05:0.95 is 0.5 0.55 ... 0.95."""
        expanded, flag = [], ''
        for argument in arguments:
            name, sign, value = argument.partition('=')
            flag = name if argument.startswith('--') else flag
            text, number = value if sign else argument, r'(\d*\.?\d+)'
            found = re.fullmatch(f'{number}:{number}:{number}', text)
            start, step, stop = map(float, found.groups()) if found else (0, 0, 0)
            if flag == '--tiou' and 0 < step <= stop - start < 1000 * step:
                values = (start + i * step for i in range(int((stop - start) / step + 1 + 1e-6)))
                expanded += [flag] * bool(sign) + [repr(round(one, 10)) for one in values]
            elif flag == '--tiou' and re.fullmatch(r'[\d.\[]+[:,][\d.:,\]]*', text):  # start:stop:step, a list
                self.error(f'--tiou {text}: give numbers, separated by spaces, or start:step:stop, as 0.5:0.05:0.95')
            else:
                expanded.append(argument)
        return expanded

    def check_flag(self, flag: str) -> None:
        """End with a suggestion where a flag is almost one of this command."""
        known = list(self._option_string_actions)
        longer = [name for name in known if name.startswith(flag)]
        if not flag.startswith('--') or flag in known or self.allow_abbrev and longer:
            return
        similar = longer or get_close_matches(flag, known, 1)
        if similar:
            self.error(f'unknown flag {truncate(flag)}: did you mean {similar[0]}?')

    def error(self, message: str) -> NoReturn:
        """End with status 2 and the message."""
        self.exit(2, f'error: {message} (see --help)\n')


def bounded(kind: type, low: float, high: float = 1e9) -> Callable[[str], Any]:
    """Return an argparse type: a `kind` from low to high."""
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'{text} is not between {low:g} and {high:g}')
        return value
    parse.__name__ = kind.__name__  # argparse uses it in its message when `kind` refuses the text
    return parse


def run_cli(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit status: its own, 0 for None, 2 after bad input, 130 after Ctrl-C."""
    ensure_std_streams()
    try:
        return command() or 0
    except InputError as error:
        message = str(error)
    except OSError as error:
        message = f'{error.filename}: {error.strerror}'
        if error.errno in (errno.EMFILE, errno.ENFILE):
            message = f'{error.strerror}: raise the limit with ulimit -n 1024'
        elif not error.filename:  # standard output: a full disk behind `>`, a closed pipe
            discard_output(sys.stdout)
            message = f'the output cannot be printed: {error.strerror or error}'
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in
                                                          ('out of memory', "can't allocate memory")):
            raise
        message = 'out of memory: lower --batch_size or set --cache none (main.py), or use a machine with more memory'
    except KeyboardInterrupt:
        print_final('interrupted')
        return 130
    print_final(f'error: {printable(message)}')
    return 2


def ensure_std_streams() -> None:
    """Reopen closed stdin, stdout and stderr on /dev/null, so that no data file is opened as descriptor 0 to 2.

    Characters that their encoding lacks are printed escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(os.devnull, 'w')
    sys.stderr = sys.stderr or open(os.devnull, 'w')
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')


class LossyStream:
    """A standard stream that discards its text where the terminal or the reader is gone, or the disk is full."""

    def __init__(self, stream: TextIO):
        self.stream, self.blocked_since = stream, math.inf  # `blocked_since`: the start of a write in progress

    def write(self, text: str) -> int:
        """Write a text, or discard it."""
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Write what is in the buffer, or discard it."""
        self.attempt(self.stream.flush)

    def attempt(self, action: Callable, *args: Any) -> None:
        """Write; where that fails, discard this and all that follows."""
        if threading.current_thread() is threading.main_thread():
            self.blocked_since = time.monotonic()
        try:
            action(*args)
        except OSError as error:
            discard_output(self.stream)
            if self is sys.stdout:
                warn(f'standard output cannot be written ({error.strerror or error}); the run continues without it')
        finally:
            self.blocked_since = math.inf

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def discard_output(stream: TextIO) -> None:
    """Replace the file of a standard stream by /dev/null."""
    with suppress(OSError):  # a stream without a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def give_up_blocked_output() -> None:
    """In a signal handler: discard the output where a write of the main thread has been blocked for a second."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, LossyStream)]
    if any(time.monotonic() - stream.blocked_since > 1 for stream in streams):
        for stream in streams:
            discard_output(stream.stream)
        raise BlockingIOError(errno.EAGAIN, 'blocked')


@contextmanager
def lossy_output() -> Iterator[None]:
    """Make what a run computes and saves independent of whether its output can be printed."""
    streams = sys.stdout, sys.stderr
    lossy: Any = [LossyStream(stream) for stream in streams]
    sys.stdout, sys.stderr = lossy
    try:
        yield
    finally:
        for stream in lossy:
            stream.flush()
        sys.stdout, sys.stderr = streams


def print_final(line: str) -> None:
    """Print the last line of a command on standard error, if that can still be written."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        discard_output(sys.stderr)
