"""What is measured on a GPU: one function a group of lines."""
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import workloads
from benchmarks.cpu import run
from benchmarks.step import precisions, step
from benchmarks.table import Row
from benchmarks.workloads import THUMOS14, Size


def train(data: Path, name: str, device: torch.device, size: Size, *flags: object) -> tuple[float, np.ndarray]:
    """Train with main.py; its seconds and every row of losses.csv from the total on, (steps, terms)."""
    folder = workloads.thumos14(data / 'thumos14', size)
    seconds = run('-P', 'main.py', *size.command(), '--data_path', folder, '--exp_name', name, '--output_dir',
                  data / 'outputs', '--device', device.type, '--overwrite', *flags)
    with open(data / 'outputs' / name / 'losses.csv', newline='') as file:
        rows = list(csv.reader(file))[1:]
    return seconds, np.array([[float(value) for value in row[2:]] for row in rows])


def schedule(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14, epochs: int = 900) -> list[Row]:
    """The complete THUMOS14 schedule as `python main.py` runs it."""
    rows = []
    for precision in precisions(device):
        seconds, losses = train(data, f'schedule_{precision}', device, size, '--precision', precision,
                                '--num_epochs', epochs)
        evaluations = (data / 'outputs' / f'schedule_{precision}' / 'metrics.csv').read_text().count('\n') - 1
        what = f'{epochs} epochs, {len(losses):,} steps, {evaluations} evaluations, {precision}, whole process'
        rows.append(Row(what, [seconds], target='<= 300 s'))
    return rows


def agreement(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14, steps: int = 50) -> list[Row]:
    """Losses of the first step against the processor's, and curves of 50 steps against fp32."""
    def losses(name: str, device: torch.device, steps: int, precision: str = 'fp32') -> np.ndarray:
        return train(data, f'agreement_{name}', device, size, '--num_steps', steps, '--precision', precision,
                     '--detection_inf_step', 'never')[1]

    first, curve = losses('cpu', torch.device('cpu'), 1), losses('fp32', device, steps)
    worst = float(np.abs(curve[0] / first[0] - 1).max())
    rows = [Row('losses of the first step in fp32: largest relative difference of a term to the processor', [worst], '',
                target='<= 0.0001 ')]
    for precision in precisions(device)[1:]:
        worst = float(100 * np.abs(losses(precision, device, steps, precision)[:, 0] / curve[:, 0] - 1).max())
        rows.append(Row(f'total loss over {steps} steps in {precision}: largest difference to fp32', [worst], '%',
                        target='<= 2 %'))
    return rows


GROUPS: dict[str, Callable[..., list[Row]]] = {'step': step, 'schedule': schedule, 'agreement': agreement}
