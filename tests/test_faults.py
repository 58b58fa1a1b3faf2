"""Real faults during a run: one line, exit status 2, complete files, and a run that can be resumed."""
import ctypes
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Call, command, contents, differences, start, status
from test_main import write_data

from dataset import STOP_SIGNALS
from engine.checkpoint import read_checkpoint
from eval.curves import read_curves
from formats.detections import read_detections

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason='needs root, to mount')
BALLAST = []  # memory that is held here


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / 'data')


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
    """The files of a run without any fault, of the same data in another place."""
    base = tmp_path_factory.mktemp('whole')
    assert status(start(command(write_data(base / 'data'), base / 'run'), base / 'log')) == 0
    return contents(base / 'run')


@pytest.fixture
def log(tmp_path):
    return tmp_path / 'log'


def mount(folder, *options):
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(['mount', *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'cannot mount here: {done.stderr.strip()}')


@pytest.fixture
def mounted(tmp_path):
    """A folder with a separate file system."""
    yield tmp_path / 'disk'
    subprocess.run(['umount', '-l', str(tmp_path / 'disk')], capture_output=True)


def error_of(log):
    """The one line that a run ended with; the progress bar and the tables are let pass."""
    text = log.read_text()
    assert 'Traceback' not in text and 'Exception' not in text, text
    lines = [line for line in re.split('[\r\n]|(?=error: )', text) if line.startswith('error: ')]
    assert len(lines) == 1, text
    print(lines[0])
    return lines[0]


def check_whole(folder):
    """Every file that is there can be read to its end, and its rows are whole."""
    for path in folder.iterdir():
        if path.suffix == '.pt':
            torch.load(path, weights_only=True)
        elif path.suffix == '.csv':
            text = path.read_text()
            assert text.endswith('\n') and len({line.count(',') for line in text.splitlines()}) == 1
        elif path.name == 'detections.json':
            read_detections(path)
        elif path.suffix == '.json':
            json.loads(path.read_text())
        elif path.suffix == '.npz':
            read_curves(path)
        assert not path.name.endswith('.tmp')


def check_resumes(data, folder, log, expected):
    assert status(start(command(data, folder, '--resume'), log)) == 0, log.read_text()
    assert not differences(folder, expected)


class Do:
    """An action that can travel to the run's process: a method of a path or of this module, with its arguments."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __call__(self):
        self.function(*self.args)


def fill(disk, left):
    """Leave so many bytes."""
    free = os.statvfs(disk)
    (disk / 'ballast').write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - left)))


@needs_root
@pytest.mark.parametrize('left', [0, 16384, *(pytest.param(n, marks=pytest.mark.long) for n in (4096, 8192, 40960))])
def test_a_full_disk(data, mounted, log, expected, left):
    """Full at once, or in the midst of this file or that."""
    mount(mounted, '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs')
    folder = mounted / 'run'
    full = Call('engine.trainer.aicl_losses', 5, Do(fill, mounted, left))
    assert status(start(command(data, folder), log, full, checkpoint_seconds=0)) == 2
    assert 'No space left on device' in error_of(log)
    check_whole(folder)
    (mounted / 'ballast').unlink()
    check_resumes(data, folder, log, expected)


@needs_root
def test_a_disk_that_turns_read_only(data, mounted, log, expected):
    folder = mounted / 'run'
    lock = f'mount --bind {mounted} {mounted} && mount -o remount,bind,ro {mounted}'  # under the feet of open files
    locked = Call('engine.trainer.aicl_losses', 5, Do(os.system, lock))
    found = status(start(command(data, folder), log, locked, checkpoint_seconds=0))
    if found == 0:
        pytest.skip('cannot mount a file system read-only that is written to')
    assert found == 2 and 'Read-only file system' in error_of(log)
    check_whole(folder)
    log.unlink()
    assert status(start(command(data, folder, '--resume'), log)) == 2
    assert 'Read-only file system' in error_of(log)
    subprocess.run(['umount', str(mounted)], check=True)
    check_resumes(data, folder, log, expected)


def give_up_privilege():
    """Root obeys the modes of files from now on, as anybody does. Linux asks for it through capabilities."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this process
    sets = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110  # of the effective ones: CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


@pytest.mark.parametrize('there', [True, False])
def test_a_folder_that_may_not_be_written(data, tmp_path, log, there):
    folder = tmp_path / 'outputs' / 'run'
    locked = folder if there else folder.parent
    locked.mkdir(parents=True)
    locked.chmod(0o555)
    as_a_user = [Call('main.make_dir', 1, give_up_privilege)] if os.geteuid() == 0 else []
    assert status(start(command(data, folder), log, *as_a_user)) == 2
    assert 'Permission denied' in error_of(log) and str(folder) in error_of(log)
    assert not folder.exists() or not list(folder.iterdir())


def truncate(path):
    """As a writer leaves it that died: a new, shorter file in the place of the old one."""
    half = Path(f'{path}.half')
    half.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    half.replace(path)


@pytest.mark.parametrize('fault, words, workers', [
    (Path.unlink, 'No such file', 0), (truncate, 'truncated', 0),
    pytest.param(Path.unlink, 'No such file', 1, marks=pytest.mark.long),
    pytest.param(truncate, 'truncated', 1, marks=pytest.mark.long)])
def test_a_feature_file_that_goes_in_mid_run(data, tmp_path, log, expected, fault, words, workers):
    path, folder = data / 'features' / 'test' / 'flow' / 'test_1.npy', tmp_path / 'run'
    whole = path.read_bytes()
    gone = Call('engine.trainer.aicl_losses', 5, Do(fault, path))  # found out by the evaluation after step 6
    argv = command(data, folder, '--cache', 'none', '--num_workers', workers)
    assert status(start(argv, log, gone, checkpoint_seconds=0)) == 2
    message = error_of(log)
    assert str(path) in message and words in message
    check_whole(folder)
    path.write_bytes(whole)
    check_resumes(data, folder, log, expected)


def limit_memory(more):
    """Let this process have so many bytes more than it uses now: what it has freed and keeps is taken away as well."""
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    size = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    with suppress(MemoryError):
        while True:
            BALLAST.append(bytearray(2 ** 18))
    del BALLAST[len(BALLAST) - more // 2 ** 18:]


@pytest.mark.parametrize('more', [2 ** 20, *(pytest.param(n, marks=pytest.mark.long) for n in (0, 2 ** 22, 2 ** 24))])
def test_too_little_memory(tmp_path, log, more):
    data = write_data(tmp_path / 'data', width=2048)  # a step takes some megabytes
    folder = tmp_path / 'run'
    small = Call('engine.trainer.aicl_losses', 5, Do(limit_memory, more))
    argv = command(data, folder, '--hidden_dim', 256)
    assert status(start(argv, log, small, checkpoint_seconds=0)) == 2, log.read_text()
    assert 'out of memory' in error_of(log)
    check_whole(folder)
    assert status(start([*argv, '--resume'], log)) == 0, log.read_text()
    whole = tmp_path / 'whole' / 'run'
    assert status(start(command(data, whole, '--hidden_dim', 256), log)) == 0
    assert not differences(folder, contents(whole))


def kill_a_worker():
    multiprocessing.active_children()[0].kill()


def test_a_killed_worker_is_one_line(tmp_path, log):
    folder = tmp_path / 'run'
    killed = Call('engine.trainer.aicl_losses', 4, Do(kill_a_worker))
    # 16 batches in the first epoch: the death of a worker without further batches would not be noticed.
    many = write_data(tmp_path / 'many', num_train=16)
    argv = command(many, folder, '--num_workers', 2, '--cache', 'none', '--detection_inf_step', 'never',
                   '--batch_size', 1, steps=16)
    assert status(start(argv, log, killed, checkpoint_seconds=0)) == 2
    message = error_of(log)
    assert '--num_workers' in message and '--resume' in message
    check_whole(folder)


def send(number, *processes):
    """From a process that is not the main one: what `timeout`, Slurm or a terminal sends to all."""
    subprocess.run(['kill', f'-{number}', *map(str, processes)], check=True)


def signal_workers():
    for number in STOP_SIGNALS:
        send(number.value, *(worker.pid for worker in multiprocessing.active_children()))


def signal_this_worker():
    for number in STOP_SIGNALS:
        send(number.value, os.getpid())


@pytest.mark.parametrize('when', [Call('engine.trainer.aicl_losses', 4, Do(signal_workers)),
                                  Call('dataset.worker_init', 1, Do(signal_this_worker))])
def test_workers_pass_over_the_signals_that_end_a_run(tmp_path, log, when):
    """Else a run that is asked to end finds them dead, and ends with an error."""
    many = write_data(tmp_path / 'many', num_train=16)
    argv = command(many, tmp_path / 'run', '--num_workers', 2, '--cache', 'none', '--detection_inf_step', 'never',
                   '--batch_size', 1, steps=16)
    assert status(start(argv, log, when)) == 0, log.read_text()


def interrupt_and_hang():
    while True:
        send('INT', os.getpid(), os.getppid())
        time.sleep(1)


def test_a_second_interrupt_ends_a_run_whose_worker_hangs(tmp_path, log, data):
    hangs = Call('dataset.VideoDataset.__getitems__', 1, Do(interrupt_and_hang))
    assert status(start(command(data, tmp_path / 'run', '--num_workers', 1, '--cache', 'none'), log, hangs)) == 130
    assert 'Traceback' not in log.read_text()


def spoil(value):
    """Every later loss of the cross entropy of the RGB attention is `value`."""
    from engine import trainer
    losses = trainer.aicl_losses
    trainer.aicl_losses = lambda *args: (found := losses(*args))._replace(gce_rgb=found.gce_rgb * value,
                                                                           total=found.total * value)


@pytest.mark.parametrize('value', [np.nan, pytest.param(np.inf, marks=pytest.mark.long)])
def test_a_loss_that_is_not_finite(data, tmp_path, log, expected, value):
    folder = tmp_path / 'run'
    broken = Call('engine.inference.Evaluator.predict', 2, Do(spoil, value))
    # The step looks its loss up in `training`, so it is spoiled from step 5 on.
    assert status(start(command(data, folder), log, broken, checkpoint_seconds=0)) == 2
    message = error_of(log)
    assert 'step 5: the loss term gce_rgb is not finite, on the videos train_' in message
    check_whole(folder)
    assert (folder / 'losses.csv').read_text().splitlines()[-1].startswith('4,')
    check_resumes(data, folder, log, expected)


# ---- output that cannot be printed ----------------------------------------------------------------------------------

class Output:
    """Armed: the run prints to this terminal or pipe."""

    def __init__(self, path):
        self.path = path

    def arm(self):
        os.setsid()  # the terminal becomes the controlling one
        number = os.open(self.path, os.O_RDWR if str(self.path).startswith('/dev/') else os.O_WRONLY)
        os.dup2(number, 1), os.dup2(number, 2)
        sys.stdout, sys.stderr = (open(number, 'w', closefd=False) for number in (1, 2))


def wait_for_hangup():
    os.write(1, b'@')
    while os.isatty(1):
        time.sleep(0.01)


def wait_for_mark(run, reader):
    """Read what a run prints up to the mark."""
    while run.is_alive():
        with suppress(BlockingIOError):
            if b'@' in os.read(reader, 10000):
                break
        time.sleep(0.01)


def test_a_closed_terminal_ends_a_run_after_the_step_with_a_checkpoint(data, tmp_path, log, expected):
    folder, (master, slave) = tmp_path / 'run', os.openpty()
    run = start(command(data, folder), log, Output(os.ttyname(slave)),
                Call('engine.trainer.aicl_losses', 4, Do(wait_for_hangup)))  # an evaluation comes after this step
    wait_for_mark(run, master)
    os.close(slave), os.close(master)
    assert status(run) == 128 + signal.SIGHUP, log.read_text()
    assert read_checkpoint(folder).training.loop['step'] == 4
    assert read_checkpoint(folder).results['last']['step'] == 4
    check_resumes(data, folder, log, expected)


@pytest.fixture
def reader(tmp_path):
    """The reading end of a pipe tmp_path/pipe, which a run opens for writing."""
    os.mkfifo(tmp_path / 'pipe')
    yield os.open(tmp_path / 'pipe', os.O_RDONLY | os.O_NONBLOCK)


def test_a_run_whose_reader_is_gone_writes_all_files(data, tmp_path, log, expected, reader):
    run = start(command(data, tmp_path / 'run'), log, Output(tmp_path / 'pipe'),
                Call('engine.trainer.aicl_losses', 2, Do(os.write, 1, b'@')))
    wait_for_mark(run, reader)
    os.close(reader)
    assert status(run) == 0, log.read_text()
    assert not differences(tmp_path / 'run', expected)


def test_a_run_whose_disk_for_output_is_full_writes_all_files(data, tmp_path, log, expected):
    assert status(start(command(data, tmp_path / 'run'), log, Output('/dev/full'))) == 0
    assert not differences(tmp_path / 'run', expected)


def fill_pipe_and_terminate():
    os.set_blocking(1, False)
    with suppress(BlockingIOError):
        while True:
            os.write(1, bytes(1))
    os.set_blocking(1, True)
    threading.Timer(4, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_a_run_whose_reader_is_stopped_answers_a_signal(data, tmp_path, log, expected, reader):
    run = start(command(data, tmp_path / 'run'), log, Output(tmp_path / 'pipe'),
                Call('engine.trainer.aicl_losses', 4, Do(fill_pipe_and_terminate)),
                Call('engine.trainer.aicl_losses', 5, Do(time.sleep, 2)))  # the evaluation of step 4 ends, and blocks
    assert status(run) == 128 + signal.SIGTERM
    assert 4 <= read_checkpoint(tmp_path / 'run').training.loop['step'] < 7
    check_resumes(data, tmp_path / 'run', log, expected)
    os.close(reader)
