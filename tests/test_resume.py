"""A run that was stopped or killed at any point resumes to the same files. (In one process: test_main.py.)"""
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from runs import ROOT, Call, HalfAFile, Rename, Signal, command, contents, differences, start, status
from test_main import write_data

KILL, TERM, INT = Signal(signal.SIGKILL), Signal(signal.SIGTERM), Signal(signal.SIGINT)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def undisturbed(data, tmp_path_factory):
    """The folder of a run of 7 steps: an epoch ends after 3 and 6, evaluations come after 2, 4, 6 and 7."""
    base = tmp_path_factory.mktemp('undisturbed')
    assert status(start(command(data, base / 'run'), base / 'log')) == 0, (base / 'log').read_text()
    return base / 'run'


@pytest.fixture
def folder(tmp_path):
    return tmp_path / 'run'  # the same name, which is in the report


def resume(data, folder, log, *flags, steps=7):
    """Resume to the end; return the new output."""
    start_of_output = log.stat().st_size if log.exists() else 0
    assert status(start(command(data, folder, '--resume', *flags, steps=steps), log)) == 0, log.read_text()
    return log.read_text()[start_of_output:]


# Every step writes a checkpoint: files are then renamed far more often than in a real run.
@pytest.mark.parametrize('call, expected', [
    (Call('engine.trainer.aicl_losses', 5, TERM), 128 + signal.SIGTERM),
    (Call('engine.trainer.aicl_losses', 3, INT), 128 + signal.SIGINT),  # an epoch ends with this step
    (Call('engine.inference.Evaluator.predict', 2, TERM), 128 + signal.SIGTERM),  # in the middle of the second epoch
    (Call('engine.trainer.aicl_losses', 1, KILL), -signal.SIGKILL),  # before there is anything to resume
    pytest.param(Call('engine.trainer.aicl_losses', 6, KILL), -signal.SIGKILL, marks=pytest.mark.long),
    pytest.param(Call('engine.inference.Evaluator.predict', 2, KILL), -signal.SIGKILL, marks=pytest.mark.long),
    (Call('engine.run_folder.write_checkpoint', 5, KILL), -signal.SIGKILL),  # the results are newer than the checkpoint
    (Call('engine.run_folder.print_next_steps', 1, KILL), -signal.SIGKILL),  # all is done
    (HalfAFile(12), -signal.SIGKILL)], ids=str)
def test_a_stopped_run_resumes_to_the_same_files(data, undisturbed, folder, tmp_path, call, expected):
    log = tmp_path / 'log'
    assert status(start(command(data, folder), log, call, checkpoint_seconds=0)) == expected, log.read_text()
    if expected > 0:
        assert 'resume with the same command and --resume' in log.read_text()
        assert 'Traceback' not in log.read_text()
    resume(data, folder, log)
    assert not differences(folder, contents(undisturbed))


def kill_at(data, undisturbed, base, call, log):
    """Whether the run came to this call; if so, it was killed there and is now compared."""
    folder = base / 'run'
    found = status(start(command(data, folder), log, call, checkpoint_seconds=0))
    if found == 0:
        return False
    assert found == -signal.SIGKILL, log.read_text()
    resume(data, folder, log)
    assert not differences(folder, contents(undisturbed)), call
    return True


@pytest.mark.long
@pytest.mark.parametrize('kind', ['before a file is renamed', 'in the middle of a file', 'before rows of a table'])
def test_a_kill_at_every_change_of_a_file(data, undisturbed, tmp_path, kind):
    """One by one, at every file that the run writes, renames or lengthens."""
    number = 1
    while kill_at(data, undisturbed, tmp_path / str(number), {
            'before a file is renamed': lambda: Call('os.replace', number, KILL),
            'in the middle of a file': lambda: HalfAFile(number),
            'before rows of a table': lambda: Call('engine.run_folder.CSVLogger.append', number, KILL)}[kind](),
            tmp_path / 'log'):
        number += 1
    print(f'{number - 1} kills {kind}')
    assert number > (10 if 'rows' in kind else 25)


def test_a_kill_while_a_broken_checkpoint_is_replaced_loses_nothing(data, undisturbed, folder, tmp_path):
    log = tmp_path / 'log'
    status(start(command(data, folder), log, Call('engine.trainer.aicl_losses', 6, KILL), checkpoint_seconds=0))
    (folder / 'checkpoint.pt').write_bytes(b'torn')
    # It goes on from the one before, and dies when the broken one has taken that one's place.
    again = start(command(data, folder, '--resume'), log, Rename('checkpoint.pt'), checkpoint_seconds=0)
    assert status(again) == -signal.SIGKILL
    assert not (folder / 'checkpoint.pt').exists()
    resume(data, folder, log)
    assert not differences(folder, contents(undisturbed))


def test_two_damaged_checkpoints_are_one_line_with_a_fix(data, folder, tmp_path):
    log = tmp_path / 'log'
    status(start(command(data, folder), log, Call('engine.trainer.aicl_losses', 6, KILL), checkpoint_seconds=0))
    log.unlink()
    before = {}
    for name in ('checkpoint.pt', 'checkpoint.previous.pt'):
        content = bytearray((folder / name).read_bytes())
        weight = torch.load(folder / name, weights_only=True)['model']['actionness_module.cls.0.weight']
        content[content.index(weight.numpy().tobytes())] ^= 64  # one flipped bit, in the weights
        (folder / name).write_bytes(content)
        before[name] = bytes(content)
    assert status(start(command(data, folder, '--resume'), log)) == 2
    *warnings, error = log.read_text().splitlines()
    assert len(warnings) == 2 and all(line.startswith('warning: ') and 'damaged' in line for line in warnings)
    assert error.startswith('error: ') and '--overwrite' in error
    assert {name: (folder / name).read_bytes() for name in before} == before


def test_workers_and_a_longer_schedule_do_not_change_a_run(data, undisturbed, folder, tmp_path):
    log = tmp_path / 'log'
    assert status(start(command(data, folder, steps=5), log)) == 0  # evaluated at its end, unlike a longer run
    resume(data, folder, log, '--num_workers', 2, '--cache', 'none')
    expected = contents(undisturbed)
    rows = (folder / 'metrics.csv').read_text().splitlines()
    assert sorted(differences(folder, expected)) in (['metrics.csv', 'report.html'], [])  # the page draws this row
    assert [row for row in rows if not row.startswith('5,')] == expected['metrics.csv'].decode().splitlines()


def test_a_finished_run_is_reported_again_and_a_shorter_one_is_refused(data, undisturbed, folder, tmp_path):
    log = tmp_path / 'log'
    assert status(start(command(data, folder), log)) == 0
    output = resume(data, folder, log)
    assert 'best weights' in output and 'last weights' in output
    assert not differences(folder, contents(undisturbed))
    for name in ('results.json', 'detections.json', 'report.html'):  # as inference in this folder would
        (folder / name).write_text('{}')
    resume(data, folder, log)
    assert not differences(folder, contents(undisturbed))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert status(start(command(data, folder, '--resume', steps=4), log)) == 2
    assert '--num_steps' in log.read_text().splitlines()[-1]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_overwriting_leaves_nothing_of_the_old_run_and_all_else(data, folder, tmp_path):
    log = tmp_path / 'log'
    leaves_the_next = Rename('checkpoint.pt', 3)
    status(start(command(data, folder), log, leaves_the_next, checkpoint_seconds=0))
    (folder / '.results.json.12-ab.tmp').write_text('half')  # as a kill leaves it
    (folder / 'notes.txt').write_text('mine')
    (folder / 'figures').mkdir()
    old = {path.name for path in folder.glob('events.out.tfevents.*')}
    assert status(start(command(data, folder, '--overwrite', steps=1), log)) == 0, log.read_text()
    new = {path.name for path in folder.glob('events.out.tfevents.*')}
    assert old and new and not old & new
    assert {path.name for path in folder.iterdir()} == {
        'args.json', 'labels.txt', 'losses.csv', 'metrics.csv', 'best.pt', 'last.pt', 'checkpoint.pt',
        'detections.json', 'detections.csv', 'events.csv', 'results.json', 'curves.npz',
        'report.html', 'notes.txt', 'figures', *new}
    assert (folder / 'notes.txt').read_text() == 'mine'


def test_a_finished_run_keeps_one_checkpoint_and_a_longer_one_two(data, undisturbed, folder, tmp_path):
    log = tmp_path / 'log'
    assert status(start(command(data, folder, steps=4), log, checkpoint_seconds=0)) == 0, log.read_text()
    assert [path.name for path in folder.glob('checkpoint*')] == ['checkpoint.pt']
    # Longer, killed when the only checkpoint has been renamed and the next one not yet.
    longer = start(command(data, folder, '--resume'), log, Rename('checkpoint.pt'), checkpoint_seconds=0)
    assert status(longer) == -signal.SIGKILL and not (folder / 'checkpoint.pt').exists()
    killed = start(command(data, folder, '--resume'), log, Call('engine.trainer.aicl_losses', 2, KILL),
                   checkpoint_seconds=0)
    assert status(killed) == -signal.SIGKILL and (folder / 'checkpoint.previous.pt').exists()
    (folder / 'checkpoint.pt').write_bytes(b'torn')
    resume(data, folder, log)
    assert not differences(folder, contents(undisturbed))
    assert [path.name for path in folder.glob('checkpoint*')] == ['checkpoint.pt']


def test_a_kill_in_the_clearing_never_leaves_a_run_in_parts(data, undisturbed, folder, tmp_path):
    """What is left of the old run can be resumed, or is not a run."""
    log = tmp_path / 'log'
    for number in (2, 5):
        killed = Call('engine.trainer.aicl_losses', 6, KILL)
        status(start(command(data, folder, '--overwrite'), log, killed, checkpoint_seconds=0))
        again = start(command(data, folder, '--overwrite'), log, Call('pathlib.Path.unlink', number, KILL))
        assert status(again) == -signal.SIGKILL
        assert status(start(command(data, folder), log)) == 2  # still known as a run
        resume(data, folder, log)
        assert not differences(folder, contents(undisturbed))


@pytest.mark.parametrize('flags', [
    ['--kills', '7', '--steps', '20', '--modes', 'plain', 'two runs', 'report'],
    pytest.param(['--kills', '100'], marks=pytest.mark.long)], ids=['a few', 'a hundred, in every mode'])
def test_kills_at_random_moments_change_nothing(flags):
    done = subprocess.run([sys.executable, 'tests/stress/kill_resume.py', *flags], cwd=ROOT, capture_output=True,
                          text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- two processes --------------------------------------------------------------------------------------------------

@pytest.mark.long
@pytest.mark.parametrize('victim', [0, 1])
def test_the_death_of_one_rank_ends_the_other_and_both_resume(data, tmp_path, victim):
    """Killed in the middle of a step, so that the other waits for it."""
    driver = (f'import os, signal, sys\n'
              f'import main\n'
              f'from engine import trainer\n'
              f'trainer.CHECKPOINT_SECONDS, losses, count = 0, trainer.aicl_losses, [0]\n'
              f'def killed(*args):\n'
              f'    count[0] += 1\n'
              f'    if count[0] == 6 and os.environ["RANK"] == "{victim}": os.kill(os.getpid(), signal.SIGKILL)\n'
              f'    return losses(*args)\n'
              f'trainer.aicl_losses = killed\n'
              f'sys.exit(main.main())')
    (tmp_path / 'driver.py').write_text(driver)

    def pair(program, folder, *flags):
        began = time.monotonic()
        launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
        done = subprocess.run([*launcher, program, *command(data, folder, *flags)], cwd=ROOT, capture_output=True,
                              text=True, timeout=300,
                              env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)})
        return done, time.monotonic() - began

    whole, seconds = pair('main.py', tmp_path / 'whole' / 'run')
    assert whole.returncode == 0, whole.stderr
    killed, until = pair(str(tmp_path / 'driver.py'), tmp_path / 'killed' / 'run')
    assert killed.returncode == 1 and until < seconds + 60
    (message,) = [line for line in re.split('[\r\n]|(?=error: rank)', killed.stderr) if line.startswith('error: ')]
    assert 'another rank died' in message and '--resume' in message
    again, _ = pair('main.py', tmp_path / 'killed' / 'run', '--resume')
    assert again.returncode == 0, again.stderr
    assert not differences(tmp_path / 'killed' / 'run', contents(tmp_path / 'whole' / 'run'))
