"""Lines of a table, measured in turns."""
import resource
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Times(NamedTuple):
    """Seconds of one call in every round."""
    wall: list[float]
    processor: list[float]    # of all its threads and of the processes that it started and waited for

    def times(self, factor: float) -> 'Times':
        return Times([factor * s for s in self.wall], [factor * s for s in self.processor])


class Row(NamedTuple):
    """One line of a table."""
    what: str
    values: list[float]               # one a round, in `unit`
    unit: str = 's'
    processor: list[float] | None = None
    limit: list[float] | None = None  # what it is compared with in the same rounds, in `unit`
    target: str = ''                  # '<= 0.15 s' for the median, '<= 1.5 x' for the ratio; '' where none is asked for
    elsewhere: str = ''               # how many times as long others took, side by side on another machine
    limit_processor: list[float] | None = None

    @property
    def median(self) -> float:
        return float(np.median(self.values))

    @property
    def ratio(self) -> float | None:
        """Median of the rounds' ratios to the limit."""
        return None if self.limit is None else float(np.median(np.divide(self.values, self.limit)))

    @property
    def processor_ratio(self) -> float | None:
        """The same of processor times, which do not count the time that other work had the processors."""
        if not self.processor or not self.limit_processor:
            return None
        return float(np.median(np.divide(self.processor, self.limit_processor)))

    @property
    def met(self) -> bool | None:
        if not self.target:
            return None
        number, unit = self.target.removeprefix('<= ').rsplit(' ', 1)
        if unit not in ('x', self.unit):
            raise ValueError(f'{self.what}: a target in {unit} for a value in {self.unit}')
        measured = self.ratio if unit == 'x' else self.median
        return measured is not None and measured <= float(number)


def timed(what: str, times: Times, limit: Times | None = None, target: str = '', elsewhere: str = '') -> Row:
    return Row(what, times.wall, 's', times.processor, limit.wall if limit else None, target, elsewhere,
               limit.processor if limit else None)


def processor_seconds() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def take_turns(calls: dict[str, Callable[[], object]], rounds: int, synchronize: Callable[[], None] = lambda: None,
               before: dict[str, Callable[[], None]] = {}) -> dict[str, Times]:
    """Times of every call in every round, after one round that does not count.

    A call that returns an int has done so many pieces of work; its times are those of one. `before` a call something
    may be done that is not measured.
    """
    measured = {name: Times([], []) for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            if name in before:
                before[name]()
            synchronize()
            start, used = time.perf_counter(), processor_seconds()
            done = call()
            synchronize()
            wall, processor = time.perf_counter() - start, processor_seconds() - used
            pieces = done if type(done) is int else 1
            if i:
                measured[name].wall.append(wall / pieces)
                measured[name].processor.append(processor / pieces)
    return measured


def show(value: float, unit: str) -> str:
    """A number with three digits and its unit; short times in milliseconds."""
    if unit == 's' and value < 1:
        value, unit = 1000 * value, 'ms'
    digits = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f'{value:.{min(digits, 4)}f} {unit}'


def verdict(row: Row) -> str:
    """What stands behind a target: nothing if it is met."""
    if row.met is not False:
        return ''
    waited = row.processor and row._replace(values=row.processor).met and not row.target.endswith(' x')
    return ', missed while it waited for a busy processor' if waited else ', **missed**'


def table(rows: list[Row]) -> str:
    """The rows as Markdown; in parentheses ratios of processor times."""
    head = ['', 'median', 'fastest - slowest', 'processor time', 'limit', 'ratio', 'target', 'others, elsewhere']
    lines = [head, ['---'] * len(head)]
    for row in rows:
        spread = ' - '.join(show(value, row.unit) for value in (min(row.values), max(row.values)))
        lines.append([
            row.what, show(row.median, row.unit), spread if len(row.values) > 1 else 'one run',
            show(float(np.median(row.processor)), row.unit) if row.processor else '',
            show(float(np.median(row.limit)), row.unit) if row.limit else '',
            f'{row.ratio:.2f}' + (f' ({row.processor_ratio:.2f})' if row.processor_ratio else '') if row.limit else '',
            row.target + verdict(row), row.elsewhere])
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)
