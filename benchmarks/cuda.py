"""What is measured on a GPU: one function a group of lines."""
import csv
from pathlib import Path

import numpy as np
import torch

from benchmarks import workloads
from benchmarks.cpu import recipe, run
from benchmarks.step import forward_pass, make_batch, make_network, product, training_step
from benchmarks.table import Row, Times, take_turns, timed
from benchmarks.workloads import THUMOS14, Size

PRECISIONS = ('fp32', 'tf32', 'bf16')


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeated(call, times: int):
    """So many calls one after the other, as a training loop issues them: nothing waits in between."""
    def calls() -> int:
        for _ in range(times):
            call()
        return times

    return calls


def step(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """The training step and the forward pass in every precision, launched and compiled, against cuBLAS."""
    features, labels = make_batch(size, device)
    rows = []
    for precision in PRECISIONS:
        model = make_network(size, device, precision)
        calls = {'step': training_step(model, features, labels),
                 'compiled step': training_step(make_network(size, device, precision), features, labels, compiled=True),
                 'forward': forward_pass(model, features),
                 'product': product(size, device, precision),
                 'gradient': product(size, device, precision, gradient=True)}
        times = take_turns({name: repeated(call, 20) for name, call in calls.items()}, rounds, synchronize)
        forward = times['product'].times(2)
        whole = Times(*(np.add(a, b).tolist() for a, b in zip(forward, times['gradient'].times(2))))
        rows += [timed(f'training step, {precision}; limit: the same products by `torch.mm`', times['step'], whole,
                       '<= 1.5 x'),
                 timed(f'training step, {precision}, `--compile`', times['compiled step'], whole, '<= 1.5 x'),
                 timed(f'inference forward, {precision}', times['forward'], forward)]
    return rows


def train(data: Path, folder: Path, name: str, device: torch.device, size: Size, *flags: object
          ) -> tuple[float, np.ndarray]:
    """Train with main.py; its seconds and every row of losses.csv from the total on, (steps, terms)."""
    seconds = run('-P', 'main.py', '--data_path', folder, '--exp_name', name, '--output_dir', data / 'outputs',
                  '--device', device.type, '--overwrite', *recipe(size), *flags)
    with open(data / 'outputs' / name / 'losses.csv', newline='') as file:
        rows = list(csv.reader(file))[1:]
    return seconds, np.array([[float(value) for value in row[2:]] for row in rows])


def schedule(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14, epochs: int = 900) -> list[Row]:
    """The complete THUMOS14 schedule as `python main.py` runs it."""
    folder = workloads.thumos14(data / 'thumos14', size)
    rows = []
    for precision in PRECISIONS:
        for compiled in ([], ['--compile']):
            seconds, losses = train(data, folder, f'schedule_{precision}', device, size, '--precision', precision,
                                    '--num_epochs', epochs, *compiled)
            evaluations = (data / 'outputs' / f'schedule_{precision}' / 'metrics.csv').read_text().count('\n') - 1
            rows.append(Row(f'{epochs} epochs, {len(losses):,} steps, {evaluations} evaluations, {precision}'
                            f'{", `--compile`" if compiled else ""}, whole process', [seconds], target='<= 300 s'))
    return rows


def agreement(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14, steps: int = 50) -> list[Row]:
    """Losses of the first step against the processor's, and curves of 50 steps against fp32."""
    folder = workloads.thumos14(data / 'thumos14', size)

    def losses(name: str, device: torch.device, steps: int, precision: str = 'fp32') -> np.ndarray:
        return train(data, folder, f'agreement_{name}', device, size, '--num_steps', steps, '--precision', precision,
                     '--detection_inf_step', 'never')[1]

    first, curve = losses('cpu', torch.device('cpu'), 1), losses('fp32', device, steps)
    worst = np.abs(curve[0] / first[0] - 1).max()
    rows = [Row('losses of the first step in fp32: largest relative difference of a term to the processor',
                [float(worst)], '',
                target='<= 0.0001 ')]
    for precision in PRECISIONS[1:]:
        other = losses(precision, device, steps, precision)
        worst = 100 * np.abs(other[:, 0] / curve[:, 0] - 1).max()
        rows.append(Row(f'total loss over {steps} steps in {precision}: largest difference to fp32',
                        [float(worst)], '%',
                        target='<= 2 %'))
    return rows


GROUPS = {'step': step, 'schedule': schedule, 'agreement': agreement}
