"""Training runs compared: the best and the last mAP of each, and their spread over seeds.

    python -m eval.summary outputs/first-seed1 outputs/first-seed2 outputs/first-seed3
    python -m eval.summary outputs/first-* --csv summary.csv --markdown summary.md

Runs whose arguments differ in nothing but the seed, and in where and how they ran, are one group; args.json names
those that may differ. Papers of this field report the best of many evaluations on the test videos, of the best seed.
Here it stands beside what it hides: the mean over seeds, the mAP of the last weights, which nobody picked, and the
spread of both.
"""
import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils import InputError, Parser, keep_inputs, printable, read_json, run_command, write_text

# "differ" in args.json names the arguments in which the runs of a group may differ. These stand for it in older files.
DIFFER = ('seed', 'exp_name', 'output_dir', 'inference_only', 'model_file', 'device', 'num_workers', 'cache', 'compile',
          'resume', 'overwrite', 'log_every', 'figures')
RECORDS = ('differ', 'versions', 'commit')  # in args.json, but no arguments

NOTE = ("best: the highest of a run's evaluations on the test videos; best of best: that of all seeds, as papers "
        'report it; last: the weights at the end, picked by nobody; ± and late sd: sample standard deviations, over '
        'runs and over the evaluations in the second half of a run')
NOTE_ON_SINGLES = 'A group of one run tells nothing about the spread over seeds.'


class Unfinished(InputError):
    """A run that cannot be compared yet: reason for a warning as long as there are others."""


class Run(NamedTuple):
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


class Comparison(NamedTuple):
    """All runs (R rows) and their groups (G rows), in the order given; `mean` and `sd` are over the runs of a group."""
    settings: pd.DataFrame  # (R, differing arguments) texts
    runs: pd.DataFrame  # the fields of Run without settings, `group` (index into groups) and best_minus_last
    groups: pd.DataFrame  # name, runs, best_of_best, best, best_sd, last, last_sd, best_minus_last, late_sd


# ---- reading --------------------------------------------------------------------------------------------------------

def text_of(value: Any) -> str:
    """A name, or an argument's value, as a `printable` text that is the same for 5 and 5.0."""
    if isinstance(value, list):
        return ' '.join(map(text_of, value))
    if isinstance(value, str):
        return printable(value)
    return re.sub(r'\.0$', '', json.dumps(value, sort_keys=True))


def read_run(folder: Path) -> Run:
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
    (best, best_step), (last, last_step) = read_results(folder / 'results.json')
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
    return Run(text_of(folder.resolve().name), text_of(args.get('seed', '-')), settings, best, best_step, last,
               last_step, late.std(), len(metrics))


def read_results(path: Path) -> list[tuple[float, int]]:
    """The average mAP and the step of the best and of the last weights."""
    results = read_json(path)
    pairs = []
    for name in ('best', 'last'):
        block = results.get(name) if type(results) is dict else None
        if type(block) is not dict or type(block.get('step')) is not int:
            raise InputError(f'{path}: not results of a training run: it needs "best" and "last", each with a "step"')
        if 'average_mAP' not in block:
            raise Unfinished(f'{path}: has no mAP, because the test videos are not annotated')
        value = block['average_mAP']
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise InputError(f'{path}: "average_mAP" of "{name}" must be a number from 0 to 1')
        pairs.append((float(value), block['step']))
    return pairs


def read_metrics(path: Path) -> pd.DataFrame:
    """All evaluations of a run: at least the columns step, epoch and average_mAP."""
    columns = ['step', 'epoch', 'average_mAP']
    try:
        metrics = pd.read_csv(path)[columns].astype(float)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror}') from None
    except (ValueError, KeyError):  # not a table, not these columns, not numbers
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


def compare(runs: Sequence[Run]) -> Comparison:
    """Group runs that differ in nothing but the seed."""
    settings = pd.DataFrame([run.settings for run in runs]).fillna('-')  # '-': this run knows no such argument
    settings = settings.loc[:, settings.nunique() > 1]
    table = pd.DataFrame(runs, columns=Run._fields).drop(columns='settings')
    table['best_minus_last'] = table['best'] - table['last']
    table['group'] = settings.groupby(list(settings), sort=False).ngroup() if len(settings.columns) else 0
    groups = table.groupby('group').agg(
        name=('name', lambda names: group_name(list(names))), runs=('name', 'size'),
        best_of_best=('best', 'max'), best=('best', 'mean'), best_sd=('best', 'std'),
        last=('last', 'mean'), last_sd=('last', 'std'),
        best_minus_last=('best_minus_last', 'mean'), late_sd=('late_sd', 'mean'))
    return Comparison(settings, table, groups)


def repeated_seeds(comparison: Comparison) -> list[str]:
    """A line for every group with more than one run of a seed."""
    runs = comparison.runs
    twice = runs[runs.duplicated(['group', 'seed'], keep=False) & (runs['seed'] != '-')]
    return [f'{", ".join(names)} have the same seed {seed}: their spread is not that over seeds'
            for (_, seed), names in twice.groupby(['group', 'seed'])['name']]


# ---- showing --------------------------------------------------------------------------------------------------------

def percent(value: float, sd: float = math.nan) -> str:
    return '-' if math.isnan(value) else f'{100 * value:.2f}' + ('' if math.isnan(sd) else f' ± {100 * sd:.2f}')


def tables(comparison: Comparison) -> tuple[list[list[str]], list[list[str]]]:
    """The cells of the table of groups and of that of runs, in per cent, header first."""
    settings, runs, groups = comparison
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


def format_summary(comparison: Comparison, tiou: str, layout: Callable[[list[list[str]]], str]) -> str:
    """Both tables and what their columns are."""
    title = 'Average mAP in per cent' + (f' over tIoU {tiou}' if tiou else '')
    of_groups, of_runs = map(layout, tables(comparison))
    note = f'{NOTE}. {NOTE_ON_SINGLES}' if (comparison.groups['runs'] == 1).any() else f'{NOTE}.'
    return f'{title}\n\n{of_groups}\n\n{of_runs}\n\n{note}\n'


def text_table(rows: list[list[str]]) -> str:
    """Cells in columns, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return '\n'.join(map('  '.join, padded))


def markdown_table(rows: list[list[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f'| {" | ".join(cells)} |'

    head, *body = [[re.sub(r'([\\|<*`])', r'\\\1', ' '.join(cell.split())) for cell in row] for row in rows]
    return '\n'.join([line(head), line(['---', *['---:'] * (len(head) - 1)]), *map(line, body)])


def to_csv(comparison: Comparison) -> str:
    """A row for every group, then one for every run; fractions with all their digits."""
    settings, runs, groups = comparison
    heads = settings.groupby(runs['group']).first()
    runs = runs.drop(columns='group').assign(kind='run', runs=1)
    numbers = pd.concat([groups.assign(kind='group'), runs], ignore_index=True)
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
    parser.add_argument('folders', metavar='RUN', nargs='+', type=Path, help='folder of a training run')
    parser.add_argument('--csv', metavar='FILE', help='also write groups and runs there, as fractions')
    parser.add_argument('--markdown', metavar='FILE', help='also write the tables there')
    args = parser.parse_args(arguments)
    return run_command(lambda: summarize(args))


def summarize(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    read = [folder / name for folder in args.folders for name in ('args.json', 'results.json', 'metrics.csv')]
    keep_inputs(read, args.csv, args.markdown)
    runs, left_out = [], []
    for folder in {path.resolve(): path for path in args.folders}.values():
        try:
            runs.append(read_run(folder))
        except Unfinished as error:
            left_out.append(str(error))
    if not runs:
        raise InputError(f'none of these runs can be compared: {"; ".join(left_out)}')
    comparison = compare(runs)
    for line in [*(f'{reason}; it is left out' for reason in left_out), *repeated_seeds(comparison)]:
        print(f'warning: {line}', file=sys.stderr)
    tiou = '' if 'tiou' in comparison.settings else runs[0].settings.get('tiou', '')
    print(format_summary(comparison, tiou, text_table), end='', flush=True)
    if args.csv:
        write_text(args.csv, to_csv(comparison))
    if args.markdown:
        write_text(args.markdown, format_summary(comparison, tiou, markdown_table))


if __name__ == '__main__':
    sys.exit(main())
