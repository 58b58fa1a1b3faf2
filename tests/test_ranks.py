"""Two processes on one global batch give what one process gives."""
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_main import words, write_data

ROOT = Path(__file__).resolve().parents[1]


def losses(folder):
    with open(folder / 'losses.csv', newline='') as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


def test_two_ranks_train_and_evaluate_as_one_process(tmp_path):
    # Seven videos in batches of three: parts of two and one, and a last batch that leaves the second rank without any.
    data = write_data(tmp_path / 'data', num_train=7, num_test=5)
    flags = ['--num_steps', 7, '--batch_size', 3, '--detection_inf_step', 3, '--precision', 'fp64']
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    for name, start in (('one', []), ('two', launcher)):
        done = subprocess.run([sys.executable, *start, 'main.py', *words(data, tmp_path / name, *flags)], cwd=ROOT,
                              capture_output=True, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        assert done.stdout.count('best weights') == 1  # only the first rank speaks
    one, two = tmp_path / 'one', tmp_path / 'two'
    assert len(losses(two)) == 7
    for ours, theirs in zip(losses(one), losses(two)):
        assert theirs == pytest.approx(ours, rel=1e-9)
    results = [json.loads((folder / 'results.json').read_text()) for folder in (one, two)]
    for name in ('best', 'last'):
        assert results[0][name]['mAP'] == pytest.approx(results[1][name]['mAP'], abs=1e-9)
        assert results[0][name]['num_predictions'] == results[1][name]['num_predictions']
        assert results[0][name]['video_accuracy'] == results[1][name]['video_accuracy']
