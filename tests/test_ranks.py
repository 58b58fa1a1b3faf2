"""Two processes on one global batch give what one process gives, or end where they differ."""
import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from unittest.mock import Mock

import pytest
import torch
from runs import Call, command, start, status
from test_main import train, words, write_data

import main
from engine import runtime
from utils import InputError

ROOT = Path(__file__).resolve().parents[1]


def losses(folder):
    with open(folder / 'losses.csv', newline='') as file:
        return [[float(value) for value in row] for row in list(csv.reader(file))[1:]]


def test_two_ranks_train_and_evaluate_as_one_process(tmp_path):
    # Seven videos in batches of three: parts of two and one, and a last batch that leaves the second rank without any.
    data = write_data(tmp_path / 'data', num_train=7, num_test=5)
    flags = ['--num_steps', 7, '--batch_size', 3, '--detection_inf_step', 3, '--precision', 'fp64']
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    for name, launch in (('one', []), ('two', launcher)):
        done = subprocess.run([sys.executable, *launch, 'main.py', *words(data, tmp_path / name, *flags)], cwd=ROOT,
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


# ---- ranks that differ ----------------------------------------------------------------------------------------------

class Environment(NamedTuple):
    """Armed: the run is a rank, as torchrun starts it."""
    rank: int
    port: int

    def arm(self) -> None:
        os.environ.update({'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2', 'RANK': str(self.rank), 'LOCAL_RANK': '0',
                           'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(self.port)})


def start_ranks(folder, *commands, armed=((), ())):
    """Start two ranks; what they print is in folder/0 and folder/1."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    folder.mkdir(exist_ok=True)
    return [start(argv, folder / str(rank), Environment(rank, port), *armed[rank])
            for rank, argv in enumerate(commands)]


def refused(folder, *commands):
    """The error of two ranks that end before the first step: one line of rank 0, nothing of rank 1."""
    assert [status(rank) for rank in start_ranks(folder, *commands)] == [2, 2]
    assert 'error' not in (folder / '1').read_text()
    (line,) = [line for line in (folder / '0').read_text().splitlines() if line.startswith('error: ')]
    assert 'Traceback' not in (folder / '0').read_text() + (folder / '1').read_text()
    return line


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.mark.parametrize('flags, words_of_it', [
    (['--lr', 0.01, '--seed', 4], ['--lr: 0.003 on rank 0, 0.01 on rank 1', '--seed: 3 on rank 0, 4 on rank 1']),
    (['--detection_inf_step', 3], ['--detection_inf_step: 2 on rank 0, 3 on rank 1']),
    (['--hidden_dim', 8, '--lambda_action', 1], ['--hidden_dim: 16', '--lambda_action: 0.1'])])
def test_ranks_with_other_arguments_are_refused(data, tmp_path, flags, words_of_it):
    argv = command(data, tmp_path / 'run')
    line = refused(tmp_path / 'logs', argv, [*argv, *map(str, flags)])
    assert all(part in line for part in words_of_it)
    assert not (tmp_path / 'run').exists()


def test_ranks_with_other_data_are_refused(data, tmp_path):
    other = write_data(tmp_path / 'other')
    truth = json.loads((other / 'gt.json').read_text())
    truth['database']['train_1']['annotations'][0]['label'] = 'Run'
    (other / 'gt.json').write_text(json.dumps(truth))
    line = refused(tmp_path / 'logs', command(data, tmp_path / 'run'), command(other, tmp_path / 'run'))
    assert 'the ranks differ in the training labels, on rank 1; start' in line
    assert not (tmp_path / 'run').exists()


def test_ranks_with_other_weights_are_refused(data, tmp_path):
    folder = train(data, tmp_path / 'trained', '--detection_inf_step', 1, steps=2)
    other = shutil.copytree(folder, tmp_path / 'other')
    state = torch.load(other / 'last.pt', weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, other / 'last.pt')
    commands = [words(data, tmp_path / 'run', '--inference_only', '--model_file', path / 'last.pt')
                for path in (folder, other)]
    assert 'the ranks differ in the weights, on rank 1; start' in refused(tmp_path / 'logs', *commands)


def test_what_may_differ_between_ranks_and_a_random_seed(data, tmp_path):
    first = command(data, tmp_path / 'run', '--seed', -1, steps=2)
    second = [*command(write_data(tmp_path / 'copy'), tmp_path / 'run', '--seed', -1, steps=2), '--cache', 'none']
    assert [status(rank) for rank in start_ranks(tmp_path / 'logs', first, second)] == [0, 0]


@pytest.mark.parametrize('error', [InputError('damaged'), SystemExit(2)])
def test_the_process_group_is_left_after_an_error(data, tmp_path, monkeypatch, error):
    """Otherwise the threads of gloo may abort the process at its end, with status 134."""
    left = []
    monkeypatch.setattr(runtime.Distributed, 'close', lambda self: left.append(True))
    monkeypatch.setattr(main, 'train', Mock(side_effect=error))
    try:
        assert main.main(command(data, tmp_path / 'run')) == 2
    except SystemExit as caught:
        assert caught is error
    assert left == [True]


# ---- ranks that wait ------------------------------------------------------------------------------------------------

def wait_briefly():
    runtime.SIGNAL_SECONDS = 0


def stop_this_process():
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_rank_that_waits_for_another_one_answers_signals(data, tmp_path, number):
    argv = command(data, tmp_path / 'run')
    hangs = Call('engine.trainer.aicl_losses', 3, stop_this_process)
    soon = Call('engine.runtime.WaitMonitor.__init__', 1, wait_briefly)
    first, second = start_ranks(tmp_path / 'logs', argv, argv, armed=((soon,), (hangs,)))
    losses_csv = tmp_path / 'run' / 'losses.csv'
    while open(f'/proc/{second.pid}/stat').read().split()[2] != 'T':
        time.sleep(0.05)
    os.kill(first.pid, number)
    try:
        assert status(first) == 128 + number and losses_csv.exists()
        assert f'error: rank 0: {number.name} during a wait' in (tmp_path / 'logs' / '0').read_text()
    finally:
        second.kill()
