"""Trainer runs compared: the best and the last mAP of each, and their spread over seeds.

    python -m eval.summary outputs
    python -m eval.summary outputs/first-seed1 outputs/first-seed2 outputs/first-seed3
    python -m eval.summary outputs/first-* --csv summary.csv --markdown summary.md --latex summary.tex
    python -m eval.summary outputs/full-seed1 outputs/base-seed1 --classes last

Runs whose arguments differ in nothing but the seed, and in where and how they ran, are one group; args.json names those
that may differ. Papers of this field report the best of many evaluations on the test videos, of the best seed. Here it
stands beside what it hides: the mean over seeds, the mAP of the last weights, which nobody picked, and the spread of
both. Groups are compared by the differences between their runs of the same seed (Student's t, not corrected for the
number of comparisons). Runs on THUMOS14 stand beside the published numbers.
"""
import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils import InputError, Parser, refuse_overwriting_inputs, refuse_overwriting_foreign, printable, read_json, run_cli, write_text

# "differ" in args.json names the arguments in which the runs of a group may differ. These stand for it in older files.
DIFFER = ('seed', 'exp_name', 'output_dir', 'inference_only', 'model_file', 'device', 'num_workers', 'cache', 'compile',
          'resume', 'overwrite', 'log_every', 'figures')
RECORDS = ('differ', 'versions', 'commit')  # in args.json, but no arguments

TITLE = 'Average mAP in per cent'
NOTE = ("best: the highest of a run's evaluations on the test videos; best of best: that of all seeds, as papers "
        'report it; last: the weights at the end, picked by nobody; ± and late sd: sample standard deviations, over '
        'runs and over the evaluations in the second half of a run')
NOTE_ON_SINGLES = 'A group of one run tells nothing about the spread over seeds.'
NOTE_ON_SEEDS = ('95 %: of the mean over seeds, and of the difference between runs of the same seed; p: how likely '
                 'chance alone makes such a difference')
NOTE_ON_PUBLISHED = ('A published row lies inside where one more run of the group would be expected to lie, 19 times '
                     'of 20; best until a step is the highest until then')
MAX_STEPS = 10 ** 15  # whole numbers that a table holds exactly


class Unfinished(InputError):
    """A run that cannot be compared yet: reason for a warning as long as there are others."""


class RunLogger(NamedTuple):
    """What is compared of one run; mAP is the average over the tIoUs, a fraction."""
    name: str  # of its folder
    seed: str
    settings: dict[str, str]  # the arguments that tell its group, as texts
    best: float
    best_step: int
    last: float
    last_step: int
    late_sd: float  # of the evaluations in the second half of the run, NaN for fewer than two
    evaluations: int
    course: dict[int, float]  # best mAP until each step that was evaluated
    classes: dict[str, dict[str, float]]  # AP by class, mean over the tIoUs, of the 'best' and the 'last' weights


class Published(NamedTuple):
    """A number that others report: the best average mAP of a run, until `step` or, where that is 0, of all."""
    source: str
    mean_ap: float
    step: int = 0


# Of THUMOS14, average over tIoU 0.1:0.7. The log is of an unmodified run of the released code, made public in a fork.
PUBLISHED = (Published("the authors' README", 0.464), Published("the authors' detections, scored here", 0.4636),
             Published('log of an unmodified run', 0.3125, 50), Published('log of an unmodified run', 0.4256, 250),
             Published('log of an unmodified run, step 3600', 0.4636))
class Comparison(NamedTuple):
    """All runs (R rows) and their groups (G rows), in the order given; `mean` and `sd` are over the runs of a group."""
    settings: pd.DataFrame  # (R, differing arguments) texts
    runs: pd.DataFrame  # the fields of RunLogger without settings, `group` (index into groups) and best_minus_last
    groups: pd.DataFrame  # name, runs, best_of_best, best, best_sd, last, last_sd, best_minus_last, late_sd
    seeds: pd.DataFrame  # of each group of several runs, then of each pair with several seeds in common: name, runs
    # (or pairs), and of best and last the mean, the ends of its 95 % interval, and p (NaN for a group): best, best_low,
    # best_high, best_p, last, ...


# ---- reading --------------------------------------------------------------------------------------------------------

def text_of(value: Any) -> str:
    """A name, or an argument's value, as a `printable` text that is the same for 5 and 5.0."""
    if isinstance(value, list):
        return ' '.join(map(text_of, value))
    if isinstance(value, str):
        return printable(value)
    return re.sub(r'\.0$', '', json.dumps(value, sort_keys=True))


def read_run(folder: Path) -> RunLogger:
    """Read args.json, results.json and metrics.csv of a training run.

    Raises Unfinished for a run without its final results, InputError for a folder that holds no run or a damaged one.
    """
    if not (folder / 'args.json').exists():
        raise InputError(f'{folder}: holds no training run, it has no args.json' if folder.is_dir() else
                         f'{folder}: is not a folder; give the folders of training runs, as outputs/NAME')
    args = read_json(folder / 'args.json')
    if type(args) is not dict:
        raise InputError(f'{folder}/args.json: must be an object of arguments')
    differ = args.get('differ', DIFFER)
    if type(differ) not in (list, tuple):
        raise InputError(f'{folder}/args.json: "differ" must be a list of names of arguments')
    if not (folder / 'results.json').exists():
        raise Unfinished(f'{folder}: has no results.json yet')
    results = read_results(folder / 'results.json')
    (best, best_step), (last, last_step) = ((block['average_mAP'], block['step']) for block in results.values())
    classes = {name: class_means(folder / 'results.json', block) for name, block in results.items()}
    metrics = read_metrics(folder / 'metrics.csv')
    planned = planned_steps(args, metrics)
    if last_step < planned:
        raise Unfinished(f'{folder}: is at step {last_step} of {planned}; if it stopped, --resume goes on with it')
    if metrics['step'].iloc[-1] != last_step:
        raise InputError(f'{folder}: metrics.csv does not end at the step of results.json, {last_step}')

    if args.get('num_steps'):
        args.pop('num_epochs', None)  # the steps win
    if type(args.get('data_path')) is str:
        args['data_path'] = os.path.abspath(args['data_path'])
    settings = {text_of(name): text_of(value) for name, value in args.items()
                if name not in differ and name not in RECORDS}
    late = metrics['average_mAP'][metrics['step'] > last_step / 2]
    course = dict(zip(metrics['step'].astype(int).tolist(), metrics['average_mAP'].cummax().tolist()))
    return RunLogger(text_of(folder.resolve().name), text_of(args.get('seed', '-')), settings, best, best_step, last,
               last_step, late.std(), len(metrics), course, classes)


def read_results(path: Path) -> dict[str, dict]:
    """The blocks 'best' and 'last', each with its average mAP and step."""
    results = read_json(path)
    blocks = {}
    for name in ('best', 'last'):
        block = results.get(name) if type(results) is dict else None
        if type(block) is not dict or type(block.get('step')) is not int or abs(block['step']) > MAX_STEPS:
            raise InputError(f'{path}: not results of a training run: it needs "best" and "last", each with a "step"')
        if 'average_mAP' not in block:
            raise Unfinished(f'{path}: has no mAP, because the test videos are not annotated')
        value = block['average_mAP']
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise InputError(f'{path}: "average_mAP" of "{name}" must be a number from 0 to 1')
        blocks[name] = block
    return blocks


def class_means(path: Path, block: dict) -> dict[str, float]:
    """The AP of each class, mean over the tIoUs."""
    try:
        return {text_of(label): float(np.mean([*ap.values()])) for label, ap in block.get('AP', {}).items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise InputError(f'{path}: "AP" must have an object of numbers for each class') from None


def read_metrics(path: Path) -> pd.DataFrame:
    """All evaluations of a run: at least the columns step, epoch and average_mAP."""
    columns = ['step', 'epoch', 'average_mAP']
    try:
        metrics = pd.read_csv(path)[columns].astype(float)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    except (ValueError, KeyError, OverflowError):  # not a table, not these columns, not numbers
        raise InputError(f'{path}: not a table of evaluations with the columns {", ".join(columns)}') from None
    if not len(metrics) or not np.isfinite(metrics).all(axis=None) or (metrics < 0).any(axis=None):
        raise InputError(f'{path}: damaged: it must have a row of numbers for each evaluation')
    return metrics


def planned_steps(args: dict, metrics: pd.DataFrame) -> int:
    """How many steps a run was to take; where that was said in epochs, at least so many."""
    steps, epochs = (value if type(value := args.get(name)) is int else 0 for name in ('num_steps', 'num_epochs'))
    return steps or epochs * math.ceil((metrics['step'] / (metrics['epoch'] + 1)).max())


# ---- comparing ------------------------------------------------------------------------------------------------------

def group_name(names: Sequence[str]) -> str:
    """What the names of a group's runs have in common, without `-seed1` at the end."""
    names = [re.sub(r'[-_.]?seed[-_.]?\d+$', '', name) or name for name in names]
    common = names[0] if len(set(names)) == 1 else os.path.commonprefix(names).rstrip('-_.')
    return common or f'{names[0]} ...'


def compare(runs: Sequence[RunLogger]) -> Comparison:
    """Group runs that differ in nothing but the seed."""
    settings = pd.DataFrame([run.settings for run in runs]).fillna('-')  # '-': this run knows no such argument
    settings = settings.loc[:, settings.nunique() > 1]
    table = pd.DataFrame(runs, columns=RunLogger._fields).drop(columns=['settings', 'course', 'classes'])
    table['best_minus_last'] = table['best'] - table['last']
    table['group'] = settings.groupby(list(settings), sort=False).ngroup() if len(settings.columns) else 0
    groups = table.groupby('group').agg(
        name=('name', lambda names: group_name(list(names))), runs=('name', 'size'),
        best_of_best=('best', 'max'), best=('best', 'mean'), best_sd=('best', 'std'),
        last=('last', 'mean'), last_sd=('last', 'std'),
        best_minus_last=('best_minus_last', 'mean'), late_sd=('late_sd', 'mean'))
    return Comparison(settings, table, groups, compare_seeds(table, list(groups['name'])))


def compare_seeds(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """What Comparison says of it."""
    rows: list[dict[str, Any]] = []
    if runs.groupby('group').size().max() < 2:
        return pd.DataFrame()
    by_seed = [own.drop_duplicates('seed').set_index('seed')[['best', 'last']] for _, own in runs.groupby('group')]
    for name, own in zip(names, by_seed):
        rows.append({'name': name, 'runs': len(own), **mean_and_interval(own)})
    for first, second in combinations(range(len(names)), 2):
        difference = (by_seed[second] - by_seed[first]).dropna()
        rows.append({'name': f'{names[second]} minus {names[first]}', 'runs': len(difference),
                     **mean_and_interval(difference, of_difference=True)})
    return pd.DataFrame([row for row in rows if row['runs'] > 1])


def mean_and_interval(values: pd.DataFrame, of_difference: bool = False) -> dict[str, float]:
    """Of the columns best and last the mean, its 95 % interval and, of a difference, p; NaN for fewer than two rows."""
    from scipy.stats import t  # a second to import
    found: dict[str, float] = {}
    for name, column in values.items():
        mean, degrees = column.mean(), max(len(column) - 1, 1)
        error = column.std() / math.sqrt(max(len(column), 1))
        reach = t.ppf(0.975, degrees) * error
        p = 2 * t.sf(abs(mean) / error, degrees) if of_difference and error > 0 else math.nan
        found |= {f'{name}': mean, f'{name}_low': mean - reach, f'{name}_high': mean + reach, f'{name}_p': p}
    return found


def repeated_seeds(comparison: Comparison) -> list[str]:
    """A line for every group with more than one run of a seed."""
    runs = comparison.runs
    twice = runs[runs.duplicated(['group', 'seed'], keep=False) & (runs['seed'] != '-')]
    return [f'{", ".join(names)} have the same seed {seed}: their spread is not that over seeds'
            for (_, seed), names in twice.groupby(['group', 'seed'])['name']]


def read_published(path: str) -> list[Published]:
    """Rows to compare with: a JSON list of {"source": text, "average_mAP": fraction, "step": number or absent}."""
    rows = read_json(path)
    try:
        found = [Published(printable(row['source']), float(row['average_mAP']), int(row.get('step', 0)))
                 for row in rows]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        found = []
    if not found or not all(0 <= row.mean_ap <= 1 for row in found):
        raise InputError(f'{path}: must be a list of {{"source": text, "average_mAP": a fraction, "step": a number}}')
    return found


def is_thumos14(run: RunLogger) -> bool:
    """Whether a run is scored as the published rows of THUMOS14 are, by its recipe and its classes."""
    return (run.settings.get('dataset') == 'thumos14' and run.settings.get('tiou') == '0.1 0.2 0.3 0.4 0.5 0.6 0.7'
            and len(run.classes['last']) == 20 and {'BaseballPitch', 'CliffDiving'} < run.classes['last'].keys())


# ---- showing --------------------------------------------------------------------------------------------------------

def percent(value: float, sd: float = math.nan) -> str:
    return '-' if math.isnan(value) else f'{100 * value:.2f}' + ('' if math.isnan(sd) else f' ± {100 * sd:.2f}')


def tables(comparison: Comparison) -> tuple[list[list[str]], list[list[str]]]:
    """The cells of the table of groups and of that of runs, in per cent, header first."""
    settings, runs, groups, _ = comparison
    heads = settings.groupby(runs['group']).first()
    of_groups = [['group', *heads, 'runs', 'best of best', 'best (mean ± sd)', 'last (mean ± sd)', 'best - last',
                  'late sd']]
    of_groups += [[g.name, *heads.loc[g.Index], str(g.runs), percent(g.best_of_best), percent(g.best, g.best_sd),
                   percent(g.last, g.last_sd), percent(g.best_minus_last), percent(g.late_sd)]
                  for g in groups.itertuples()]
    of_runs = [['run', 'seed', 'best', 'at step', 'last', 'at step', 'best - last', 'late sd', 'evaluations']]
    of_runs += [[r.name, r.seed, percent(r.best), str(r.best_step), percent(r.last), str(r.last_step),
                 percent(r.best_minus_last), percent(r.late_sd), str(r.evaluations)]
                for r in runs.sort_values('group', kind='stable').itertuples()]
    return of_groups, of_runs


def seeds_table(comparison: Comparison) -> list[list[str]]:
    """The cells of the table of means over seeds and of differences by seed; only a header if there are none."""
    rows = [['mean over seeds, or difference', 'seeds', 'best', '95 %', 'p', 'last', '95 %', 'p']]
    for row in comparison.seeds.to_dict('records'):
        cells = [row['name'], str(row['runs'])]
        for name in ('best', 'last'):
            cells += [percent(row[name]), span(row[f'{name}_low'], row[f'{name}_high']),
                      '' if math.isnan(row[f'{name}_p']) else f'{row[f"{name}_p"]:.3f}']
        rows.append(cells)
    return rows


def span(low: float, high: float) -> str:
    return f'{percent(low)} to {percent(high)}'


def published_table(runs: Sequence[RunLogger], comparison: Comparison, published: Sequence[Published]) -> list[list[str]]:
    """The cells of the table that sets every group beside the published rows."""
    from scipy import stats
    rows = [['published', 'until step', 'mAP', 'group', 'runs', 'best (mean ± sd)', 'last (mean ± sd)',
             'published lies']]
    for index, group in enumerate(comparison.groups.itertuples()):
        own = [run for run, number in zip(runs, comparison.runs['group']) if number == index]
        for row in published:
            values = np.array([best_until(run, row.step) for run in own])
            sd = values.std(ddof=1) if len(values) > 1 else math.nan
            place = '-'
            if sd > 0:  # where one more run would be expected
                reach = stats.t.ppf(0.975, len(values) - 1) * sd * math.sqrt(1 + 1 / len(values))
                low, high = values.mean() - reach, values.mean() + reach
                place = f'{"inside" if low <= row.mean_ap <= high else "outside"} {span(low, high)}'
            last = '-' if row.step else percent(group.last, group.last_sd)
            rows.append([row.source, str(row.step or 'end'), percent(row.mean_ap), group.name, str(len(own)),
                         percent(values.mean(), sd), last, place])
    return rows


def best_until(run: RunLogger, step: int) -> float:
    """The best mAP of a run until a step, 0 for its end; NaN before its first evaluation."""
    return max((best for at, best in run.course.items() if not step or at <= step), default=math.nan)


def class_table(runs: Sequence[RunLogger], comparison: Comparison, weights: str) -> list[list[str]]:
    """The cells of the table of AP by class, mean over the tIoUs: a column a group, or a run if there is one group.

    Of two columns the difference too, by which the rows are then sorted.
    """
    columns = comparison.runs['group'] if len(comparison.groups) > 1 else np.arange(len(runs))
    names = list(comparison.groups['name']) if len(comparison.groups) > 1 else [run.name for run in runs]
    table = pd.DataFrame([run.classes[weights] for run in runs]).groupby(np.asarray(columns)).mean().T.sort_index()
    if table.empty:
        raise InputError('the results of these runs hold no AP by class')
    table.columns = pd.Index(names)
    if len(names) == 2:
        table['difference'] = table.iloc[:, 1] - table.iloc[:, 0]
        table = table.sort_values('difference', ascending=False, kind='stable')
    return [[f'class ({weights} weights)', *table.columns],
            *([str(label), *map(percent, row)] for label, row in zip(table.index, table.to_numpy()))]


def format_summary(comparison: Comparison, tiou: str, layout: Callable[[list[list[str]]], str],
                   more: Sequence[list[list[str]]] = (), notes: Sequence[str] = ()) -> str:
    """All tables and what their columns are; `more` stand behind those of groups and runs."""
    title = TITLE + (f' over tIoU {tiou}' if tiou else '')
    blocks = [layout(rows) for rows in (*tables(comparison), *more)]
    note = '. '.join([NOTE, *notes]) + '.'
    if (comparison.groups['runs'] == 1).any():
        note += f' {NOTE_ON_SINGLES}'
    return '\n\n'.join([title, *blocks, note]) + '\n'


def text_table(rows: list[list[str]]) -> str:
    """Cells in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return '\n'.join('  '.join(cells).rstrip() for cells in padded)


def markdown_table(rows: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f'| {" | ".join(cells)} |'

    head, *body = [[re.sub(r'([\\|<*`])', r'\\\1', ' '.join(cell.split())) for cell in row] for row in rows]
    return '\n'.join([line(head), line(['---', *['---:'] * (len(head) - 1)]), *map(line, body)])


def latex_table(rows: list[list[str]]) -> str:
    """A plain tabular that needs no package."""
    special = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '±': r'$\pm$',
               **{c: f'\\{c}' for c in '&%$#_{}'}}

    def line(cells: Sequence[str]) -> str:
        return ' & '.join(''.join(special.get(c, c) for c in cell) for cell in cells) + r' \\'

    head, *body = rows
    return '\n'.join([rf'\begin{{tabular}}{{l{"r" * (len(head) - 1)}}}', r'\hline', line(head), r'\hline',
                      *map(line, body), r'\hline', r'\end{tabular}'])


def latex_summary(text: str) -> str:
    """The summary in the layout of `latex_table`, with what is no table as comments."""
    inside, lines = False, []
    for line in text.splitlines():
        inside = inside or line.startswith(r'\begin')
        lines.append(line if inside or not line else f'% {line}')
        inside = inside and not line.startswith(r'\end')
    return '\n'.join(lines) + '\n'


def to_csv(comparison: Comparison) -> str:
    """A row for every group, then one for every run, then the means over seeds; fractions with all their digits."""
    settings, runs, groups, seeds = comparison
    heads = settings.groupby(runs['group']).first()
    runs = runs.drop(columns='group').assign(kind='run', runs=1)
    numbers = pd.concat([groups.assign(kind='group'), runs, seeds.assign(kind='seeds')], ignore_index=True)
    steps = ['best_step', 'last_step', 'evaluations']
    numbers[steps] = numbers[steps].astype('Int64')    # stay whole numbers beside the gaps in the rows of groups
    first = ['kind', 'name', 'seed', 'runs']
    differing = pd.concat([heads, settings], ignore_index=True)
    parts = [numbers[first[:2]], differing, numbers[first[2:]], numbers.drop(columns=first)]
    return pd.concat(parts, axis=1).to_csv(index=False, lineterminator='\n')


# ---- the command ----------------------------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.summary', description='Best and last mAP of training runs, and their spread.')
    parser.add_argument('folders', metavar='RUN', nargs='+', type=Path,
                        help='folder of a training run, or a folder of such folders')
    parser.add_argument('--classes', choices=('best', 'last'), help='also print AP by class of these weights')
    parser.add_argument('--published', metavar='FILE.json', help='[{"source": text, "average_mAP": fraction, "step": '
                        'number or absent}, ...] to stand beside (default: those of THUMOS14, where runs are on it)')
    parser.add_argument('--csv', metavar='FILE', help='also write groups and runs there, as fractions')
    parser.add_argument('--markdown', metavar='FILE', help='also write the tables there')
    parser.add_argument('--latex', metavar='FILE', help='also write the tables there')
    parser.add_argument('--overwrite', action='store_true', help='also write over files that are no summaries')
    args = parser.parse_args(arguments)
    return run_cli(lambda: summarize(args))


def summarize(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    given = [path for path in args.folders if not is_table(path)] or args.folders
    folders = list({path.resolve(): path for folder in given for path in runs_in(folder)}.values())
    read = [folder / name for folder in folders for name in ('args.json', 'results.json', 'metrics.csv')]
    refuse_overwriting_inputs([*read, args.published], args.csv, args.markdown, args.latex)
    if not args.overwrite:
        for path, ours in ((args.csv, 'kind,name,'), (args.markdown, TITLE), (args.latex, f'% {TITLE}')):
            refuse_overwriting_foreign(path, ours)
    runs, left_out = read_runs(folders)
    comparison = compare(runs)
    for line in [*(f'{reason}; it is left out' for reason in left_out), *repeated_seeds(comparison)]:
        print(f'warning: {line}', file=sys.stderr)

    more, notes = [], []
    if len(comparison.seeds):
        more.append(seeds_table(comparison))
        notes.append(NOTE_ON_SEEDS)
    published = read_published(args.published) if args.published else PUBLISHED if all(map(is_thumos14, runs)) else ()
    if published:
        more.append(published_table(runs, comparison, published))
        notes.append(NOTE_ON_PUBLISHED)
    if args.classes:
        more.append(class_table(runs, comparison, args.classes))

    tiou = '' if 'tiou' in comparison.settings else runs[0].settings.get('tiou', '')
    print(format_summary(comparison, tiou, text_table, more, notes), end='', flush=True)
    if args.csv:
        write_text(args.csv, to_csv(comparison))
    if args.markdown:
        write_text(args.markdown, format_summary(comparison, tiou, markdown_table, more, notes))
    if args.latex:
        write_text(args.latex, latex_summary(format_summary(comparison, tiou, latex_table, more, notes)))


def is_table(path: Path) -> bool:
    """Whether this is a table that stands beside the runs, which outputs/NAME-seed* names along with them."""
    return path.suffix in ('.csv', '.md', '.tex') and path.is_file()


def runs_in(folder: Path) -> list[Path]:
    """The folder itself, or, where it is none of a run, those of the runs in it, if there are any."""
    if (folder / 'args.json').exists() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob('*/args.json')) or [folder]


def read_runs(folders: Sequence[Path]) -> tuple[list[RunLogger], list[str]]:
    """The runs that can be compared, and why others cannot yet; InputError if none can."""
    runs, left_out = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except Unfinished as error:
            left_out.append(str(error))
    if not runs:
        raise InputError(f'none of these runs can be compared: {"; ".join(left_out)}')
    return runs, left_out


if __name__ == '__main__':
    sys.exit(main())
