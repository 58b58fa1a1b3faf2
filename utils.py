"""The ground that every room stands on: bad input, messages, whole files, the frame of a command.

Neither numpy nor torch here: they take long to import.
"""
import argparse
import io
import json
import math
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from matplotlib.figure import Figure


MAX_DEPTH = 100  # of JSON that is written
PICTURES = r'\x89PNG|<\?xml|%PDF'  # how files of `write_picture` begin


class InputError(Exception):
    """Bad input from outside: one line for the user that names the file and the mend."""


# ---- messages -------------------------------------------------------------------------------------------------------

def warn(message: str) -> None:
    """One line on standard error, from the first rank alone."""
    if os.environ.get('RANK', '0') == '0':
        print(f'warning: {message}', file=sys.stderr, flush=True)


def printable(text: object) -> str:
    """A text from outside in one line: control characters and lone surrogates escaped."""
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def is_text(text: str) -> bool:
    """Whether a text can be written in UTF-8: names of files that are not hold lone surrogates."""
    return not any('\ud800' <= c <= '\udfff' for c in text)


def shorten(text: object, length: int = 200) -> str:
    """A `printable` text, the end of a long one left out."""
    text = printable(text)
    return text if len(text) <= length else text[:length - 3] + '...'


def quote(name: str) -> str:
    """A name from a file for a message: quoted, in one line, not too long."""
    return repr(name if len(name) <= 60 else name[:57] + '...')


def number_of(count: int, noun: str) -> str:
    return f'{count} {noun}' + ('s' if count != 1 else '')


def first_few(names: list[str], shown: int = 3) -> str:
    """`names` for a message, the first few of many."""
    return shorten(', '.join(names[:shown])) + (f' and {len(names) - shown} more' if len(names) > shown else '')


def print_block(title: str, lines: Iterable[str], width: int = 9) -> None:
    """Lines beside a title, which stands before the first of them."""
    for line in lines:
        print(f'{title:<{width}}{shorten(line, 500)}', flush=True)
        title = ''


# ---- whole files ----------------------------------------------------------------------------------------------------

def read_json(path: str | os.PathLike) -> Any:
    """The value of a JSON file in UTF-8; InputError if it cannot be read, is not JSON or names a key twice."""
    return parse_json(read_bytes(path), path)


def read_bytes(path: str | os.PathLike) -> bytes:
    """The content of a file; InputError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None


def parse_json(content: bytes, path: str | os.PathLike) -> Any:
    """The value of JSON in UTF-8; InputError naming the file it is from if it is none, or names a key twice."""
    try:
        return json.loads(content.decode('utf-8-sig'), object_pairs_hook=_object)
    except RecursionError:
        raise InputError(f'{path}: nested too deep to be read') from None
    except ValueError as error:  # not UTF-8, not JSON, a key twice, a number without end
        reason = str(error).partition('; use sys.')[0] if content else 'it is empty'    # that is for programmers
        raise InputError(f'{path}: not a JSON file that can be used: {reason}') from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object that refuses a key given twice, of which the parser would silently drop the first."""
    value = dict(pairs)
    if len(value) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key in counts if counts[key] > 1)
        raise ValueError(f'the key {quote(twice)} stands twice in one object, keep one')
    return value


def is_json(value: Any) -> bool:
    """Whether a nest of dictionaries and lists of plain values can be written as JSON."""
    waiting = [(value, 0)]
    while waiting:
        inner, depth = waiting.pop()
        if depth > MAX_DEPTH:    # the writer calls itself for every level
            return False
        if isinstance(inner, (list, tuple)):
            waiting += [(one, depth + 1) for one in inner]
        elif isinstance(inner, dict):
            if not all(isinstance(name, str) for name in inner):
                return False
            waiting += [(one, depth + 1) for one in inner.values()]
        elif not (inner is None or type(inner) in (bool, int, str) or type(inner) is float and math.isfinite(inner)):
            return False
    return True


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a value as indented JSON, as `write_text` does; NaN and infinity are refused with a ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + '\n')


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8 as `write_bytes` does."""
    write_bytes(path, text.encode('utf-8'))


def write_bytes(path: str | os.PathLike, content: bytes | memoryview) -> None:
    """Writes a file whole: beside its place, then renamed, so that it is old or new at every moment.

    Raises InputError if it cannot be written.
    """
    place = Path(os.path.realpath(path))
    # Of this process alone, so that two that write one file never mix; `clear_temporary` knows the pattern.
    temporary = place.with_name(f'.{place.name[:40]}.{os.getpid()}-{os.urandom(4).hex()}.tmp')
    try:
        if place.exists() and not place.is_file():  # /dev/null, a pipe: nothing to rename over
            place.write_bytes(content)
            return
        try:
            temporary.write_bytes(content)
            os.replace(temporary, place)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InputError(f'{path}: cannot be written: {error.strerror}') from None


def clear_temporary(folder: Path, name: str) -> None:
    """Remove what kills have left of files of this name, which may hold wildcards, half-written in `folder`."""
    for path in folder.glob(f'.{name}.*-*.tmp'):
        path.unlink(missing_ok=True)


def write_picture(path: str | os.PathLike, figure: 'Figure') -> None:
    """Writes a matplotlib figure as .png, .svg or .pdf, as `write_bytes` does; the same figure is the same file.

    The text of .svg and .pdf stays text. Raises InputError for another suffix.
    """
    suffix = Path(path).suffix.lower()
    undated = {'.png': None, '.svg': {'Date': None}, '.pdf': {'CreationDate': None}}
    if suffix not in undated:
        raise InputError(f'{path}: the name of a picture must end in .png, .svg or .pdf')
    import matplotlib
    content = io.BytesIO()
    # Type 42: the whole letters, not their outlines.
    with matplotlib.rc_context({'svg.hashsalt': 'AICL', 'svg.fonttype': 'none', 'pdf.fonttype': 42}), \
            warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings('always', 'Glyph .* missing')
        figure.savefig(content, format=suffix[1:], dpi=130, metadata=undated[suffix])
    if caught and suffix != '.svg':
        warn(f'{path}: the font has not all letters of the names in it; an .svg shows them')
    write_bytes(path, content.getvalue())


def keep_inputs(inputs: Iterable[str | os.PathLike | None], *outputs: str | os.PathLike | None) -> None:
    """Raises InputError where a command would write over a file that it reads, or over one that it has just written.

    None stands for a file not given.
    """
    files = Counter(os.path.realpath(path) for path in outputs
                    if path is not None and (os.path.isfile(path) or not os.path.exists(path)))    # not /dev/null
    for path, times in files.items():
        if times > 1:
            raise InputError(f'{path}: is named for more than one output; give each a name of its own')
    there = [path for path in inputs if path is not None and os.path.exists(path)]
    for written in outputs:
        for read in there:
            if written is not None and os.path.exists(written) and os.path.samefile(written, read):
                raise InputError(f'{written}: is read by this command and would be written over; give another name')


def keep_others(path: str | os.PathLike | None, ours: str) -> None:
    """Raises InputError where a command would write over a file that no command of its kind has written.

    `ours` is a regular expression for how its own files begin (the first 1,000 bytes). An empty file is nobody's loss.
    """
    if path is None or not os.path.isfile(path):
        return
    try:
        with open(path, 'rb') as file:
            head = file.read(1000)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    if head and not re.match(ours.encode(), head):
        raise InputError(f'{path}: is a file of another kind and would be written over; give another name, or '
                         '--overwrite')


# ---- the frame of a command -----------------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line, and suggests a flag where one is misspelt."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        arguments = sys.argv[1:] if args is None else list(args)
        self.check_texts(arguments)
        for argument in arguments:
            if argument == '--':    # what follows are no flags
                break
            self.check_flag(argument.partition('=')[0])
        return super().parse_known_args(arguments, namespace)

    def check_texts(self, arguments: list[str]) -> None:
        """Ends with a message where an argument is empty: to a path that would be the working folder, or not given."""
        for before, argument in zip([self.prog, *arguments], arguments):
            flag, sign, value = argument.partition('=')
            if not argument or flag.startswith('--') and sign and not value:
                self.error(f'nothing is given for {shorten(flag)}' if sign else
                           f'the argument after {shorten(before)} is empty: is a variable of the shell not set?')

    def check_flag(self, flag: str) -> None:
        """Ends with a suggestion where a flag is almost one of this command."""
        known = list(self._option_string_actions)
        longer = [name for name in known if name.startswith(flag)]
        if not flag.startswith('--') or flag in known or self.allow_abbrev and longer:
            return
        alike = longer or get_close_matches(flag, known, 1)
        if alike:
            self.error(f'there is no flag {shorten(flag)}: did you mean {alike[0]}?')

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'error: {message} (--help tells more)\n')


class FlagParser(Parser):
    """A parser whose flags have traits, and that gives only those flags that were on the command line."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.defaults: dict[str, Any] = {}
        self.traits: dict[str, tuple[str, ...]] = {}

    def section(self, title: str) -> 'Section':
        return Section(self, self.add_argument_group(title))

    def action_of(self, name: str) -> argparse.Action:
        return next(action for action in self._actions if action.dest == name)

    def with_trait(self, *traits: str) -> list[str]:
        """The names of the flags that have one of the traits."""
        return [name for name, own in self.traits.items() if set(traits) & set(own)]

    def tell_values(self, recipes: dict[str, list[Any]]) -> None:
        """Add to every flag's help the values that it has in the recipes, or its default."""
        for name, default in self.defaults.items():
            action = self.action_of(name)
            if name in recipes:
                values = recipes[name]
                said = values[:1] if len(set(map(str, values))) == 1 else values
                action.help = f'{action.help or ""} (recipes: {", ".join(map(show_value, said))})'.strip()
            elif default not in (None, False):
                action.help = f'{action.help or ""} (default: {show_value(default)})'.strip()

    def check(self, name: str, value: Any) -> Any:
        """What a file has for a flag, as the flag itself would give it. Raises ValueError where it would not."""
        action = self.action_of(name)
        if value is None:
            return None
        if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
            if type(value) is not bool:
                raise ValueError('not true or false')
            return value
        if (action.nargs == '+') != isinstance(value, list) or value == []:
            raise ValueError('not a list' if action.nargs == '+' else 'a list')
        found = [self.convert(action, one) for one in (value if isinstance(value, list) else [value])]
        return found if isinstance(value, list) else found[0]

    @staticmethod
    def convert(action: argparse.Action, value: Any) -> Any:
        """One value as the flag itself would read it. Raises ValueError where it would not."""
        convert: Any = action.type or str
        try:
            found = convert(str(value))
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None
        if action.choices is not None and found not in action.choices:
            raise ValueError(f'none of {", ".join(action.choices)}')
        return found


class Section:
    """A group of flags in the help."""

    def __init__(self, parser: FlagParser, group: Any):
        self.parser, self.group = parser, group

    def flag(self, *names: str, traits: tuple[str, ...] = (), default: Any = None, **options: Any) -> None:
        """Declare a flag, as `add_argument` does, and its traits: words for what else there is to know of it."""
        action = self.group.add_argument(*names, default=argparse.SUPPRESS, **options)
        self.parser.traits[action.dest] = traits
        self.parser.defaults[action.dest] = False if options.get('action') == 'store_true' else default


def show_value(value: object) -> str:
    if value is None:
        return 'not set'
    if isinstance(value, list):
        return f'{value[0]:g} to {value[-1]:g}'
    return f'{value:g}' if isinstance(value, float) else str(value)


def number(kind: type, low: float, high: float = 1e9) -> Callable[[str], Any]:
    """An argparse type: a `kind` between low and high."""
    def parse(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'{text} is not between {low:g} and {high:g}')
        return value
    parse.__name__ = kind.__name__    # argparse names the type by it when `kind` itself refuses the text
    return parse


def pick(kind: Any, values: Mapping[str, Any], **others: Any) -> Any:
    """A NamedTuple of the values that have its fields' names, and of `others`."""
    own = {name: values[name] for name in kind._fields if name not in others}
    return kind(**own, **others)


def run_command(command: Callable[[], int | None]) -> int:
    """Run a command; its exit status: what it returns, 0 for None, 2 after bad input, 130 after Ctrl-C."""
    open_streams()
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
        say_last('interrupted')
        return 130
    say_last(f'error: {printable(message)}')
    return 2


def open_streams() -> None:
    """Give a closed standard stream a place, or the next file opened would take its number and all that is printed.

    What an encoding does not know is printed as its number.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)    # takes the lowest number that is free
    sys.stdout = sys.stdout or open(os.devnull, 'w')
    sys.stderr = sys.stderr or open(os.devnull, 'w')
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')


def say_last(line: str) -> None:
    """Print the line that a command ends with, where standard error can still be written."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
