"""Measures what the README of this folder lists, and writes tables of it.

    python -m benchmarks.bench [cpu|cuda] [GROUP ...] [--rounds N]

What is measured and what it is compared with take turns, round by round, so that a busy machine slows both: the ratio
of a line is the median of its rounds' ratios. Results go to benchmarks/results/{cpu,cuda}.json and .md; groups that are
measured again replace their former lines.
"""
import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import torch

from benchmarks import cpu, cuda
from benchmarks.table import Row, table
from utils import Parser, bounded, run_cli

ROOT = Path(__file__).resolve().parents[1]


def machine(device: torch.device) -> str:
    """The machine and the versions, in one line."""
    names = [line.split(':')[1].strip() for line in Path('/proc/cpuinfo').read_text().splitlines()
             if line.startswith('model name')]
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2 ** 30
    gpu = f', {torch.cuda.get_device_name(device)}' if device.type == 'cuda' else ''
    return (f'{names[0]}, {os.cpu_count()} cores, {memory:.0f} GiB{gpu}; Python {platform.python_version()}, '
            f'torch {torch.__version__}, numpy {np.__version__}, {torch.get_num_threads()} threads')


def save(folder: Path, kind: str, where: str, groups: dict[str, list[Row]], load: float) -> str:
    """Put the groups into the results of earlier calls, as JSON and Markdown; the Markdown."""
    path = folder / f'{kind}.json'
    results = json.loads(path.read_text()) if path.is_file() else {}
    now = datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC')
    for name, rows in groups.items():
        results[name] = {'when': now, 'machine': where, 'load_at_start': round(load, 2),
                         'rows': [row._asdict() | {'median': row.median, 'ratio': row.ratio, 'met': row.met,
                                                   'processor_ratio': row.processor_ratio} for row in rows]}
    parts = []
    for name, group in results.items():
        rows = [Row(**{field: row[field] for field in Row._fields if field in row}) for row in group['rows']]
        parts.append(f'### {name}\n\n`bash scripts/bench.sh {kind} {name}`, {group["when"]}, {group["machine"]}; load '
                     f'average at the start {group["load_at_start"]}\n\n{table(rows)}\n')
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + '\n')
    text = '\n'.join(parts)
    path.with_suffix('.md').write_text(text)
    return text


def main(argv: list[str] | None = None) -> int:
    kinds = {'cpu': cpu.GROUPS, 'cuda': cuda.GROUPS}
    parser = Parser(prog='bash scripts/bench.sh', description=__doc__.partition('\n')[0])
    parser.add_argument('kind', nargs='?', choices=kinds, default='cpu')
    parser.add_argument('groups', nargs='*', metavar='GROUP',
                        help='; '.join(f'{kind}: {" ".join(groups)}' for kind, groups in kinds.items()))
    parser.add_argument('--rounds', type=bounded(int, 1), default=7)
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'bench', help='where the data are kept')
    parser.add_argument('--results', type=Path, default=ROOT / 'benchmarks' / 'results')
    args = parser.parse_args(argv)
    groups = kinds[args.kind]
    if unknown := [name for name in args.groups if name not in groups]:
        parser.error(f'{args.kind} has no group {", ".join(unknown)}; it has {", ".join(groups)}')
    if args.kind == 'cuda' and not torch.cuda.is_available():
        parser.error('torch sees no CUDA device here')
    return run_cli(lambda: measure(args, groups))


def measure(args: argparse.Namespace, groups: dict[str, Callable]) -> None:
    """Measure the groups and keep what comes out; results that cannot be kept are refused before the work."""
    args.results.mkdir(parents=True, exist_ok=True)
    device = torch.device(args.kind)
    for name in args.groups or groups:
        load = os.getloadavg()[0]
        rows = groups[name](args.data, args.rounds, device)
        save(args.results, args.kind, machine(device), {name: rows}, load)
        print(f'\n{name}\n{table(rows)}', flush=True)
    print(f'\nin {args.results / args.kind}.json and .md')


if __name__ == '__main__':
    sys.exit(main())
