"""Comparison of training runs: the best and the last mAP of each, and their spread over seeds.

    python -m eval.summary outputs
    python -m eval.summary outputs/first-seed1 outputs/first-seed2 outputs/first-seed3
    python -m eval.summary outputs/first-* --csv summary.csv --markdown summary.md --latex summary.tex
    python -m eval.summary outputs/full-seed1 outputs/base-seed1 --classes last

Runs whose arguments differ only in the seed, and in where and how they ran, form a group; args.json lists the arguments
that may differ. Papers of this field report the best of many evaluations on the test videos, of the best seed. Here the
mean over seeds, the mAP of the last weights, which are not selected on the test videos, and the spread of both are also
reported. Groups are compared by the differences between their runs of the same seed (Student's t, not corrected for the
number of comparisons), and runs on THUMOS14 with the published numbers.
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

from config import IGNORED_FOR_GROUPING
from eval.detection import KNOWN_LABELS
from utils import (
    InputError,
    Parser,
    open_file,
    preview,
    printable,
    read_json,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    warn,
    write_text,
)

# Older args.json files lack "differ", which lists the arguments in which the runs of a group may differ.
DEFAULT_DIFFER = IGNORED_FOR_GROUPING | {'compile'}
NOT_ARGUMENTS = ('differ', 'versions', 'commit')  # other entries of args.json

TITLE = 'Average mAP in percent'
SIGNATURE = 'Average mAP in per ?cent'  # how tables written here begin, also by earlier versions
NOTE = ("best: the highest of a run's evaluations on the test videos; best of best: that of all seeds, as papers "
        'report it; last: the weights at the end, not selected on the test videos; ± and late sd: sample standard '
        'deviations, over runs and over the evaluations in the second half of a run')
NOTE_ON_SINGLES = 'A group of one run has no spread over seeds.'
NOTE_ON_SEEDS = ('95 %: interval of the mean over seeds, and of the difference between runs of the same seed; p: '
                 'probability of such a difference by chance alone')
NOTE_ON_PUBLISHED = ('A published row is inside if it is in the interval that is expected to contain one more run of '
                     'the group, 19 times of 20; best until a step is the highest until then')
MAX_STEPS = 10 ** 15  # whole numbers that a table contains exactly


class UnfinishedRun(InputError):
    """A run that cannot be compared yet: a warning as long as there are others."""


class RunResult(NamedTuple):
    """Results of one run; mAP is the average over the tIoUs, a fraction."""

    name: str  # of its folder
    seed: str
    settings: dict[str, str]  # the arguments that define its group, as texts
    best: float
    best_step: int
    last: float
    last_step: int
    std_second_half: float  # standard deviation of the mAP over the second half of the run, NaN for fewer than two
    evaluations: int
    running_best: dict[int, float]  # best mAP until each evaluated step
    classes: dict[str, dict[str, float]]  # AP by class, mean over the tIoUs, of the 'best' and the 'last' weights
    scored_on: tuple[Any, Any]  # number of annotated videos and of instances, None in results of earlier versions


class Published(NamedTuple):
    """A published number: the best average mAP of a run, until `step` or, where that is 0, of all evaluations."""

    source: str
    mean_ap: float
    step: int = 0


# For THUMOS14, average over tIoU 0.1:0.7. The log is of an unmodified run of the released code, published in a fork.
PUBLISHED = (Published("the authors' README", 0.464), Published("the authors' detections, scored here", 0.4636),
             Published('log of an unmodified run', 0.3125, 50), Published('log of an unmodified run', 0.4256, 250),
             Published('log of an unmodified run, step 3600', 0.4636))
PUBLISHED_ON = (210, 3311)  # videos and instances


class Comparison(NamedTuple):
    """All runs (R rows) and their groups (G rows), in the given order; `mean` and `sd` are over the runs of a group."""

    settings: pd.DataFrame  # (R, differing arguments) texts
    runs: pd.DataFrame  # the numbers of RunResult, `group` (index into groups) and best_minus_last
    groups: pd.DataFrame  # name, runs, best_of_best, best, best_sd, last, last_sd, best_minus_last, late_sd
    seeds: pd.DataFrame  # see compare_seeds


# ---- reading --------------------------------------------------------------------------------------------------------

def text_of(value: Any) -> str:
    """Return a name, or the value of an argument, as a `printable` text, the same for 5 and 5.0."""
    if isinstance(value, list):
        return ' '.join(map(text_of, value))
    if isinstance(value, str):
        return printable(value)
    return re.sub(r'\.0$', '', json.dumps(value, sort_keys=True))


def read_run(folder: Path) -> RunResult:
    """Read args.json, results.json and metrics.csv of a training run.

    Raises UnfinishedRun for a run without its final results, InputError for any other folder and a damaged run.
    """
    if not (folder / 'args.json').exists():
        raise InputError(f'{folder}: is not a training run, it has no args.json' if folder.is_dir() else
                         f'{folder}: is not a folder; give the folders of training runs, like outputs/NAME')
    args = read_json(folder / 'args.json')
    if type(args) is not dict:
        raise InputError(f'{folder}/args.json: must be an object of arguments')
    differ = args.get('differ', DEFAULT_DIFFER)
    if type(differ) not in (list, frozenset):
        raise InputError(f'{folder}/args.json: "differ" must be a list of names of arguments')
    if not (folder / 'results.json').exists():
        raise UnfinishedRun(f'{folder}: has no results.json yet')
    results = read_results(folder / 'results.json')
    (best, best_step), (last, last_step) = ((block['average_mAP'], block['step']) for block in results.values())
    classes = {name: class_means(folder / 'results.json', block) for name, block in results.items()}
    metrics = read_metrics(folder / 'metrics.csv')
    planned = planned_steps(args, metrics)
    if last_step < planned:
        raise UnfinishedRun(f'{folder}: is at step {last_step} of {planned}; if it stopped, continue it with --resume')
    if metrics['step'].iloc[-1] != last_step:
        raise InputError(f'{folder}: metrics.csv does not end at the step of results.json, {last_step}')

    late = metrics['average_mAP'][metrics['step'] > last_step / 2]
    running_best = dict(zip(metrics['step'].astype(int).tolist(), metrics['average_mAP'].cummax().tolist()))
    scored_on = results['last'].get('num_ground_truth_videos'), results['last'].get('num_instances')
    return RunResult(text_of(folder.resolve().name), text_of(args.get('seed', '-')), group_settings(args, differ), best,
                     best_step, last, last_step, late.std(), len(metrics), running_best, classes, scored_on)


def group_settings(args: dict, differ: Sequence | frozenset) -> dict[str, str]:
    """Return the arguments that the runs of a group have in common, as texts."""
    args = {name: value for name, value in args.items() if name not in NOT_ARGUMENTS}
    args.pop('num_epochs' if args.get('num_steps') else 'num_steps', None)  # num_steps overrides num_epochs
    if type(args.get('data_path')) is str:
        args['data_path'] = os.path.abspath(args['data_path'])
    return {text_of(name): text_of(value) for name, value in args.items() if name not in differ}


def read_results(path: Path) -> dict[str, dict]:
    """Return the blocks 'best' and 'last' of a results.json, each with its average mAP and step."""
    results = read_json(path)
    blocks = {}
    for name in ('best', 'last'):
        block = results.get(name) if type(results) is dict else None
        if type(block) is not dict or type(block.get('step')) is not int or abs(block['step']) > MAX_STEPS:
            raise InputError(f'{path}: not results of a training run: it needs "best" and "last", each with a "step"')
        if 'average_mAP' not in block:
            raise UnfinishedRun(f'{path}: has no mAP, because the test videos are not annotated')
        value = block['average_mAP']
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise InputError(f'{path}: "average_mAP" of "{name}" must be a number from 0 to 1')
        blocks[name] = block
    return blocks


def class_means(path: Path, block: dict) -> dict[str, float]:
    """Return the AP of each class, mean over the tIoUs."""
    try:
        return {text_of(label): float(np.mean([*ap.values()])) for label, ap in block.get('AP', {}).items()}
    except (AttributeError, OverflowError, TypeError, ValueError):
        raise InputError(f'{path}: "AP" must have an object of numbers for each class') from None


def read_metrics(path: Path) -> pd.DataFrame:
    """Return all evaluations of a run: the columns step, epoch and average_mAP of a metrics.csv."""
    columns = ['step', 'epoch', 'average_mAP']
    try:
        with open_file(path) as file:
            metrics = pd.read_csv(file)[columns].astype(float)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    except (ValueError, KeyError, OverflowError):  # not a table, not these columns, not numbers
        raise InputError(f'{path}: not a table of evaluations with the columns {", ".join(columns)}') from None
    if not len(metrics) or not np.isfinite(metrics).all(axis=None) or (metrics < 0).any(axis=None):
        raise InputError(f'{path}: damaged: it must have a row of numbers for each evaluation')
    return metrics


def planned_steps(args: dict, metrics: pd.DataFrame) -> int:
    """Return the length of a run in steps; where only epochs are given, a lower bound."""
    steps, epochs = (value if type(value := args.get(name)) is int else 0 for name in ('num_steps', 'num_epochs'))
    return steps or epochs * math.ceil((metrics['step'] / (metrics['epoch'] + 1)).max())


# ---- comparison -----------------------------------------------------------------------------------------------------

def group_name(names: Sequence[str]) -> str:
    """Return the common part of the names of a group's runs, without `-seed1` at the end."""
    names = [re.sub(r'[-_.]?seed[-_.]?\d+$', '', name) or name for name in names]
    common = names[0] if len(set(names)) == 1 else os.path.commonprefix(names).rstrip('-_.')
    return common or f'{names[0]} ...'


def compare(runs: Sequence[RunResult]) -> Comparison:
    """Group runs that differ only in the seed, and compare them."""
    settings = pd.DataFrame([run.settings for run in runs]).fillna('-')  # '-': an argument that this run lacks
    is_known = (settings.columns == 'known_labels') & (settings == 'true').any()
    settings = settings.loc[:, (settings.nunique() > 1) | is_known]
    table = pd.DataFrame(runs, columns=RunResult._fields)
    table = table.drop(columns=['settings', 'running_best', 'classes', 'scored_on'])
    table = table.rename(columns={'std_second_half': 'late_sd'})  # its name in the CSV file
    table['best_minus_last'] = table['best'] - table['last']
    table['group'] = settings.groupby(list(settings), sort=False).ngroup() if len(settings.columns) else 0
    groups = table.groupby('group').agg(
        name=('name', lambda names: group_name(list(names))), runs=('name', 'size'),
        best_of_best=('best', 'max'), best=('best', 'mean'), best_sd=('best', 'std'),
        last=('last', 'mean'), last_sd=('last', 'std'),
        best_minus_last=('best_minus_last', 'mean'), late_sd=('late_sd', 'mean'))
    return Comparison(settings, table, groups, compare_seeds(table, list(groups['name'])))


def compare_seeds(runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the means of each group with several seeds, then of each pair of groups with several seeds in common.

    Columns: name, runs (or pairs of runs), and the columns of `mean_and_interval`.
    """
    rows: list[dict[str, Any]] = []
    if runs.groupby('group').size().max() < 2:
        return pd.DataFrame()
    by_seed = [group.drop_duplicates('seed').set_index('seed')[['best', 'last']] for _, group in runs.groupby('group')]
    for name, group in zip(names, by_seed):
        rows.append({'name': name, 'runs': len(group), **mean_and_interval(group)})
    for first, second in combinations(range(len(names)), 2):
        difference = (by_seed[second] - by_seed[first]).dropna()
        rows.append({'name': f'{names[second]} minus {names[first]}', 'runs': len(difference),
                     **mean_and_interval(difference, of_difference=True)})
    return pd.DataFrame([row for row in rows if row['runs'] > 1])


def mean_and_interval(values: pd.DataFrame, of_difference: bool = False) -> dict[str, float]:
    """Return best, best_low, best_high, best_p and the same for last: mean, ends of its 95 % interval, and p.

    p is NaN except for differences; all but the mean are NaN for fewer than two rows.
    """
    from scipy.stats import t  # takes a second to import
    result: dict[str, float] = {}
    for name, column in values.items():
        mean, degrees = column.mean(), max(len(column) - 1, 1)
        error = column.std() / math.sqrt(max(len(column), 1))
        margin = t.ppf(0.975, degrees) * error
        p = 2 * t.sf(abs(mean) / error, degrees) if of_difference and error > 0 else math.nan
        result |= {f'{name}': mean, f'{name}_low': mean - margin, f'{name}_high': mean + margin, f'{name}_p': p}
    return result


def repeated_seeds(comparison: Comparison) -> list[str]:
    """Return a line for every group with more than one run of a seed."""
    runs = comparison.runs
    repeated = runs[runs.duplicated(['group', 'seed'], keep=False) & (runs['seed'] != '-')]
    return [f'{", ".join(names)} have the same seed {seed}: their spread is not that over seeds'
            for (_, seed), names in repeated.groupby(['group', 'seed'])['name']]


def read_published(path: str) -> list[Published]:
    """Read numbers to compare with: a JSON list of {"source": text, "average_mAP": fraction, "step": number or absent}.

    Raises InputError for any other content.
    """
    rows = read_json(path)
    try:
        published = [Published(printable(row['source']), float(row['average_mAP']), int(row.get('step', 0)))
                     for row in rows]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        published = []
    if not published or not all(0 <= row.mean_ap <= 1 for row in published):
        raise InputError(f'{path}: must be a list of {{"source": text, "average_mAP": a fraction, "step": a number}}')
    return published


def is_thumos14(run: RunResult) -> bool:
    """Return whether a run is on THUMOS14 as the published rows are, by its recipe and its classes."""
    return (run.settings.get('dataset') == 'thumos14' and run.settings.get('tiou') == '0.1 0.2 0.3 0.4 0.5 0.6 0.7'
            and len(run.classes['last']) == 20 and {'BaseballPitch', 'CliffDiving'} < run.classes['last'].keys())


def unlike_published(run: RunResult) -> str | None:
    """Return why the published rows of THUMOS14 are not of the same test as a run on it, None where they are."""
    if run.settings.get('known_labels') == 'true':
        return 'it is localized with known labels'
    if None in run.scored_on:
        return 'its results.json does not contain the number of scored videos and instances'
    if run.scored_on != PUBLISHED_ON:
        return (f'it is scored on {run.scored_on[0]} videos with {run.scored_on[1]} instances, and they on '
                f'{PUBLISHED_ON[0]} with {PUBLISHED_ON[1]}')
    return None


def choose_published(runs: Sequence[RunResult]) -> Sequence[Published]:
    """Return the published rows of THUMOS14 where all runs are on it; warn where they are not of the same test."""
    if not all(map(is_thumos14, runs)):
        return ()
    unlike = [f'{run.name}: {reason}' for run in runs if (reason := unlike_published(run))]
    if not unlike:
        return PUBLISHED
    more = f' (and {len(unlike) - 1} more)' if unlike[1:] else ''
    warn(f'not compared with the published numbers of THUMOS14: {unlike[0]}{more}')
    return ()


# ---- tables ---------------------------------------------------------------------------------------------------------

def percent(value: float, sd: float = math.nan) -> str:
    """Return a fraction in percent, with its standard deviation; '-' for NaN."""
    return '-' if math.isnan(value) else f'{100 * value:.2f}' + ('' if math.isnan(sd) else f' ± {100 * sd:.2f}')


def percent_range(low: float, high: float) -> str:
    """Return an interval in percent."""
    return f'{percent(low)} to {percent(high)}'


def tables(comparison: Comparison) -> tuple[list[list[str]], list[list[str]]]:
    """Return the cells of the table of groups and of that of runs, in percent, header first."""
    settings, runs, groups, _ = comparison
    of_group = settings.groupby(runs['group']).first()
    group_rows = [['group', *of_group, 'runs', 'best of best', 'best (mean ± sd)', 'last (mean ± sd)',
                  'best - last', 'late sd']]
    group_rows += [[g.name, *of_group.loc[g.Index], str(g.runs), percent(g.best_of_best),
                   percent(g.best, g.best_sd), percent(g.last, g.last_sd), percent(g.best_minus_last),
                   percent(g.late_sd)] for g in groups.itertuples()]
    run_rows = [['run', 'seed', 'best', 'at step', 'last', 'at step', 'best - last', 'late sd', 'evaluations']]
    run_rows += [[r.name, r.seed, percent(r.best), str(r.best_step), percent(r.last), str(r.last_step),
                 percent(r.best_minus_last), percent(r.late_sd), str(r.evaluations)]
                for r in runs.sort_values('group', kind='stable').itertuples()]
    return group_rows, run_rows


def seeds_table(comparison: Comparison) -> list[list[str]]:
    """Return the cells of the table of means over seeds and of differences by seed."""
    rows = [['mean over seeds, or difference', 'seeds', 'best', '95 %', 'p', 'last', '95 %', 'p']]
    for row in comparison.seeds.to_dict('records'):
        cells = [row['name'], str(row['runs'])]
        for name in ('best', 'last'):
            cells += [percent(row[name]), percent_range(row[f'{name}_low'], row[f'{name}_high']),
                      '' if math.isnan(row[f'{name}_p']) else f'{row[f"{name}_p"]:.3f}']
        rows.append(cells)
    return rows


def published_table(runs: Sequence[RunResult], comparison: Comparison, published: Sequence[Published]
                    ) -> list[list[str]]:
    """Return the cells of the table of every group and the published rows."""
    from scipy.stats import t
    rows = [['published', 'until step', 'mAP', 'group', 'runs', 'best (mean ± sd)', 'last (mean ± sd)',
             'published is']]
    for index, group in enumerate(comparison.groups.itertuples()):
        group_runs = [run for run, group_index in zip(runs, comparison.runs['group']) if group_index == index]
        for row in published:
            values = np.array([best_until(run, row.step) for run in group_runs])
            sd = values.std(ddof=1) if len(values) > 1 else math.nan
            position = '-'
            if sd > 0:  # the interval of one more run
                margin = t.ppf(0.975, len(values) - 1) * sd * math.sqrt(1 + 1 / len(values))
                low, high = values.mean() - margin, values.mean() + margin
                position = f'{"inside" if low <= row.mean_ap <= high else "outside"} {percent_range(low, high)}'
            last = '-' if row.step else percent(group.last, group.last_sd)
            rows.append([row.source, str(row.step or 'end'), percent(row.mean_ap), group.name, str(len(group_runs)),
                         percent(values.mean(), sd), last, position])
    return rows


def best_until(run: RunResult, step: int) -> float:
    """Return the best mAP of a run until a step, 0 for its end; NaN before its first evaluation."""
    return max((best for at, best in run.running_best.items() if not step or at <= step), default=math.nan)


def class_table(runs: Sequence[RunResult], comparison: Comparison, weights: str) -> list[list[str]]:
    """Return the cells of the table of AP by class, mean over the tIoUs.

    It has a column per group, or per run where there is one group. Two columns are followed by their difference,
    by which the rows are then sorted.
    """
    columns = comparison.runs['group'] if len(comparison.groups) > 1 else np.arange(len(runs))
    names = list(comparison.groups['name']) if len(comparison.groups) > 1 else [run.name for run in runs]
    table = pd.DataFrame([run.classes[weights] for run in runs]).groupby(np.asarray(columns)).mean().T.sort_index()
    if table.empty:
        raise InputError('the results of these runs contain no AP by class')
    table.columns = pd.Index(names)
    if len(names) == 2:
        table['difference'] = table.iloc[:, 1] - table.iloc[:, 0]
        table = table.sort_values('difference', ascending=False, kind='stable')
    return [[f'class ({weights} weights)', *table.columns],
            *([str(label), *map(percent, row)] for label, row in zip(table.index, table.to_numpy()))]


def format_summary(comparison: Comparison, tiou: str, layout: Callable[[list[list[str]]], str],
                   more_tables: Sequence[list[list[str]]] = (), notes: Sequence[str] = ()) -> str:
    """Return the tables of groups and runs, `more_tables`, and a note on their columns, in a layout."""
    title = TITLE + (f' over tIoU {tiou}' if tiou else '')
    blocks = [layout(rows) for rows in (*tables(comparison), *more_tables)]
    note = '. '.join([NOTE, *notes]) + '.'
    if (comparison.groups['runs'] == 1).any():
        note += f' {NOTE_ON_SINGLES}'
    return '\n\n'.join([title, *blocks, note]) + '\n'


def text_table(rows: list[list[str]]) -> str:
    """Return cells in columns, the first aligned left, the others right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return '\n'.join('  '.join(cells).rstrip() for cells in padded)


def markdown_table(rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    def line(cells: Sequence[str]) -> str:
        return f'| {" | ".join(cells)} |'

    header, *body = [[re.sub(r'([\\|<*`])', r'\\\1', ' '.join(cell.split())) for cell in row] for row in rows]
    return '\n'.join([line(header), line(['---', *['---:'] * (len(header) - 1)]), *map(line, body)])


def latex_table(rows: list[list[str]]) -> str:
    """Return a plain tabular that needs no package."""
    special = {'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '±': r'$\pm$',
               **{c: f'\\{c}' for c in '&%$#_{}'}}

    def line(cells: Sequence[str]) -> str:
        return ' & '.join(''.join(special.get(c, c) for c in cell) for cell in cells) + r' \\'

    header, *body = rows
    return '\n'.join([rf'\begin{{tabular}}{{l{"r" * (len(header) - 1)}}}', r'\hline', line(header), r'\hline',
                      *map(line, body), r'\hline', r'\end{tabular}'])


def latex_summary(text: str) -> str:
    """Turn every line outside of the tables of a summary in the layout of `latex_table` into a comment."""
    in_table, lines = False, []
    for line in text.splitlines():
        in_table = in_table or line.startswith(r'\begin')
        lines.append(line if in_table or not line else f'% {line}')
        in_table = in_table and not line.startswith(r'\end')
    return '\n'.join(lines) + '\n'


def to_csv(comparison: Comparison) -> str:
    """Return a row for every group, then one for every run, then the means over seeds; fractions with all digits."""
    settings, runs, groups, seeds = comparison
    of_group = settings.groupby(runs['group']).first()
    runs = runs.drop(columns='group').assign(kind='run', runs=1)
    numbers = pd.concat([groups.assign(kind='group'), runs, seeds.assign(kind='seeds')], ignore_index=True)
    steps = ['best_step', 'last_step', 'evaluations']
    numbers[steps] = numbers[steps].astype('Int64')  # whole numbers despite the empty cells in the rows of groups
    first = ['kind', 'name', 'seed', 'runs']
    differing = pd.concat([of_group, settings], ignore_index=True)
    parts = [numbers[first[:2]], differing, numbers[first[2:]], numbers.drop(columns=first)]
    return pd.concat(parts, axis=1).to_csv(index=False, lineterminator='\n')


# ---- the command ----------------------------------------------------------------------------------------------------

def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.summary', description='Best and last mAP of training runs, and their spread.')
    parser.add_argument('folders', metavar='RUN', nargs='+', type=Path,
                        help='folder of a training run, or a folder of such folders')
    parser.add_argument('--classes', choices=('best', 'last'), help='also print AP by class of these weights')
    parser.add_argument('--published', metavar='FILE.json', help='[{"source": text, "average_mAP": fraction, "step": '
                        'number or absent}, ...] to compare with (default: those of THUMOS14, for runs on it)')
    parser.add_argument('--csv', metavar='FILE', help='also write groups and runs to this file, as fractions')
    parser.add_argument('--markdown', metavar='FILE', help='also write the tables to this file')
    parser.add_argument('--latex', metavar='FILE', help='also write the tables to this file')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the outputs even if they are other kinds '
                        'of files')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Compare training runs."""
    given = [path for path in args.folders if not is_table(path)] or args.folders
    folders = list({path.resolve(): path for folder in given for path in find_runs(folder)}.values())
    inputs = [folder / name for folder in folders for name in ('args.json', 'results.json', 'metrics.csv')]
    refuse_overwriting_inputs([*inputs, args.published], args.csv, args.markdown, args.latex)
    if not args.overwrite:
        for path, signature in ((args.csv, 'kind,name,'), (args.markdown, SIGNATURE), (args.latex, f'% {SIGNATURE}')):
            refuse_overwriting_foreign(path, signature)
    runs, unfinished = read_runs(folders)
    comparison = compare(runs)
    for line in [*(f'{reason}; it is excluded' for reason in unfinished), *repeated_seeds(comparison)]:
        warn(line)

    more_tables, notes = [], []
    if len(comparison.seeds):
        more_tables.append(seeds_table(comparison))
        notes.append(NOTE_ON_SEEDS)
    if 'true' in [*comparison.settings.get('known_labels', ())]:
        notes.append(f'known_labels true: {KNOWN_LABELS}')
    if published := read_published(args.published) if args.published else choose_published(runs):
        more_tables.append(published_table(runs, comparison, published))
        notes.append(NOTE_ON_PUBLISHED)
    if args.classes:
        more_tables.append(class_table(runs, comparison, args.classes))

    tiou = '' if 'tiou' in comparison.settings else runs[0].settings.get('tiou', '')
    print(format_summary(comparison, tiou, text_table, more_tables, notes), end='', flush=True)
    if args.csv:
        write_text(args.csv, to_csv(comparison))
    if args.markdown:
        write_text(args.markdown, format_summary(comparison, tiou, markdown_table, more_tables, notes))
    if args.latex:
        write_text(args.latex, latex_summary(format_summary(comparison, tiou, latex_table, more_tables, notes)))


def is_table(path: Path) -> bool:
    """Return whether a path is a table next to the runs, which the shell pattern outputs/NAME-seed* also matches."""
    return path.suffix in ('.csv', '.md', '.tex') and path.is_file()


def find_runs(folder: Path) -> list[Path]:
    """Return the folder if it is a run, else the runs in it, else the folder."""
    if (folder / 'args.json').exists() or not folder.is_dir():
        return [folder]
    return sorted(path.parent for path in folder.glob('*/args.json')) or [folder]


def read_runs(folders: Sequence[Path]) -> tuple[list[RunResult], list[str]]:
    """Return the runs that can be compared, and why others cannot yet; raises InputError if none can."""
    runs, unfinished = [], []
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except UnfinishedRun as error:
            unfinished.append(str(error))
    if not runs:
        raise InputError(f'none of these runs can be compared: {preview(unfinished)}')
    return runs, unfinished


if __name__ == '__main__':
    sys.exit(main())
