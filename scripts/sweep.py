"""Train several runs one after another and print a table of their results: scripts/seeds.sh and scripts/ablation.sh.

    python -m scripts.sweep {seeds,ablation} N [DATA_PATH] [flags of main.py]

seeds trains one recipe with the seeds 1 to N; ablation trains five variants with N seeds each.
"""
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for python scripts/sweep.py
from config import get_parser, parse_explicit
from eval import summary
from scripts.make_sample import write_sample
from utils import InputError, quote, run_cli

ROOT = Path(__file__).resolve().parents[1]
# The classification and generalized cross entropy terms always count; a weight of 0 removes one of the others.
VARIANTS = {
    'baseline': ['--lambda_action', '0', '--lambda_contrast', '0', '--lambda_modality', '0'],
    'action': ['--lambda_contrast', '0', '--lambda_modality', '0'],
    'contrast': ['--lambda_action', '0', '--lambda_modality', '0'],
    'modality': ['--lambda_action', '0', '--lambda_contrast', '0'],
    'full': [],
}
# 400 steps and 20 evaluations; at the recipe's learning rate these would only be the beginning.
SAMPLE_FLAGS = ['--num_segments', '100', '--num_epochs', '100', '--detection_inf_step', '20', '--lr', '1e-3']


class Sweep(NamedTuple):
    """What is trained."""

    variants: dict[str, list[str]]  # the flags of each group of runs, by the name of the group
    num_seeds: int
    flags: list[str]                # of all runs
    output_dir: Path
    table: str                      # name of the files with the results, without suffix


def parse(argv: list[str]) -> Sweep:
    """Return the sweep of a command line; raises InputError for a wrong one."""
    if len(argv) < 2 or argv[0] not in ('seeds', 'ablation'):
        raise InputError('usage: python -m scripts.sweep {seeds,ablation} N [DATA_PATH] [flags of main.py]')
    kind, count, *flags = argv
    if not re.fullmatch('[1-9][0-9]{0,2}', count):
        raise InputError(f'{quote(count)} seeds: give a number from 1 to 999')
    data_path = flags.pop(0) if flags and not flags[0].startswith('-') else os.environ.get('DATA_PATH', '')
    given: dict[str, Any] = parse_explicit(get_parser(), flags)
    if 'seed' in given:
        raise InputError('--seed is set by this script to 1, 2, 3 and so on')
    dataset, output_dir = given.get('dataset', 'thumos14'), Path(given.get('output_dir', ROOT / 'outputs'))
    data_path = given.get('data_path', data_path)
    if not data_path and dataset != 'thumos14':
        raise InputError(f'--dataset {dataset} needs a data folder: the sample is for thumos14')
    name = given.get('exp_name', dataset if data_path else 'sample')
    if not data_path:
        print('No data folder given: using the synthetic sample, whose numbers do not predict those of real '
              'videos.', flush=True)
        write_sample(ROOT / 'data' / 'sample')
    defaults = [f'--data_path={data_path or ROOT / "data" / "sample"}', f'--output_dir={output_dir}']
    defaults += [] if data_path else SAMPLE_FLAGS
    if not given.get('overwrite'):
        defaults.append('--resume')
    groups = {name: []} if kind == 'seeds' else {f'{name}-{variant}': flags for variant, flags in VARIANTS.items()}
    return Sweep(groups, int(count), defaults + flags, output_dir, f'{name}-{kind}')


def run_forwarding_signals(command: list[str]) -> int:
    """Run a command and return its exit status, or 128 + signal where SIGINT or SIGTERM arrived, which are forwarded.

    It runs in a separate process group, so that Ctrl-C in a terminal reaches it once.
    """
    received: list[int] = []
    process = None

    def forward(number: int, _: object) -> None:
        received.append(number)
        if process:
            process.send_signal(number)

    previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    process = subprocess.Popen(command, process_group=0)
    if received:  # while it was started
        process.send_signal(received[-1])
    status = process.wait()
    for number, handler in previous.items():
        signal.signal(number, handler)
    return 128 + received[-1] if received else status if status >= 0 else 128 - status


def run(argv: list[str]) -> int:
    """Train all runs that are not finished, then write the table; return the exit status."""
    if {'-h', '--help'} & set(argv):
        print((__doc__ or '').strip())
        return 0
    sweep = parse(argv)
    folders = []
    for group, flags in sweep.variants.items():
        for seed in range(1, sweep.num_seeds + 1):
            print(' '.join([f'\n======== {group}, seed {seed} of {sweep.num_seeds}', *flags]), flush=True)
            name = f'{group}-seed{seed}'
            status = run_forwarding_signals([sys.executable, str(ROOT / 'main.py'), *sweep.flags, f'--exp_name={name}',
                                             '--seed', str(seed), *flags])
            if status:
                return status
            folders.append(str(sweep.output_dir / name))
    table = sweep.output_dir / sweep.table
    print(f'\n======== {len(folders)} runs', flush=True)
    status = summary.main([*folders, '--csv', f'{table}.csv', '--markdown', f'{table}.md'])
    if not status:
        print(f'\nThe same tables: {table}.csv and .md')
    return status


if __name__ == '__main__':
    sys.exit(run_cli(lambda: run(sys.argv[1:])))
