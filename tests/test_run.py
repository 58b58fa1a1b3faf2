"""A run's process and folder: devices, whole files, checkpoints, tables, and who may write where."""
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from test_main import CLASSES, ROOT, contents, localize, refused, stop_at, train, words, write_data

import main
from config import MODALITIES
from dataset import VideoDataset
from engine import checkpoint
from engine.checkpoint import (
    FILE_KEYS,
    Checkpoint,
    TrainingState,
    hash_features,
    infer_num_classes,
    load_weights,
    read_checkpoint,
    read_weights,
    sha256_of,
    write_checkpoint,
)
from engine.device import pick_device
from engine.inference import Evaluator
from engine.lock import Lock
from engine.run_folder import FILES, CSVLogger, check_output_dir, check_output_outside_data
from engine.runtime import Distributed, StopSignal
from engine.torch_io import save
from formats.annotations import read_ground_truth
from formats.data_folder import find_split
from model import AICL
from utils import InputError, write_bytes

D, C, H = 4, 3, 6
PREFIX = 'actionness_module.'


def network(seed=0):
    torch.manual_seed(seed)
    return AICL(D, C, H, 1 / 3, 8)


def assert_equal(model, state):
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def finished(data, tmp_path_factory):
    """A run of four steps, to be copied."""
    return train(data, tmp_path_factory.mktemp('outputs') / 'finished', '--detection_inf_step', 2, steps=4)


@pytest.fixture(scope='module')
def stopped(data, tmp_path_factory):
    """A run that SIGHUP, of a lost connection, ended in an epoch, after step 4, to be copied."""
    output = tmp_path_factory.mktemp('outputs') / 'stopped'
    with pytest.MonkeyPatch.context() as patch:
        stop_at(4, lambda: os.kill(os.getpid(), signal.SIGHUP), patch)
        assert main.main(words(data, output, '--num_steps', 6, '--detection_inf_step', 2)) == 128 + signal.SIGHUP
    return output


# ---- processes that come together -----------------------------------------------------------------------------------

@pytest.mark.parametrize(('name', 'value', 'words_of_it'), [
    ('WORLD_SIZE', 'abc', 'WORLD_SIZE=abc'), ('WORLD_SIZE', '0', 'from 1'), ('WORLD_SIZE', '2', 'RANK expected'),
    ('WORLD_SIZE', '9' * 5000, 'integer'), ('LOCAL_WORLD_SIZE', '0', 'LOCAL_WORLD_SIZE=0')])
def test_what_torchrun_would_have_set_is_checked(monkeypatch, name, value, words_of_it):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=words_of_it) as caught:
        Distributed(torch.device('cpu'))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        for name, value in {'WORLD_SIZE': 2, 'RANK': 0, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(InputError, match=f'{port}.*--master_port'):
            Distributed(torch.device('cpu'))


# ---- signals --------------------------------------------------------------------------------------------------------

def test_sighup_ends_a_run_unless_nohup_ignores_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, expected in ((signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, 0)):
            signal.signal(signal.SIGHUP, handler)
            with StopSignal() as stop:
                os.kill(os.getpid(), signal.SIGHUP)
                assert stop.number == expected
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- devices ----------------------------------------------------------------------------------------------

def test_automatic_device_is_cuda_where_there_is_one():
    assert pick_device('auto').type == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert pick_device('cpu') == torch.device('cpu')


@pytest.mark.parametrize('name', ['gpu', '', 'cuda:x', 'cuda:', 'cpu cpu', 'meta', 'mps', 'xla:0', 'cuda:64'])
def test_unknown_and_absent_devices_are_refused_by_name(name):
    with pytest.raises(InputError, match='--device') as error:
        pick_device(name)
    assert name in str(error.value) and 'cpu' in str(error.value)


def test_cuda_is_picked_where_it_is_there_and_refused_beyond_the_last_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda index: None)
    assert pick_device('cuda').type == 'cuda' and pick_device('cuda:1') == torch.device('cuda', 1)
    with pytest.raises(InputError, match='cuda:2.* 2 '):
        pick_device('cuda:2')


# ---- saving ---------------------------------------------------------------------------------------------------------

def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / 'best.pt'
    save({'a': torch.ones(3)}, path)
    with pytest.raises(Exception):
        save({'a': torch.zeros(1000), 'b': lambda: 0}, path)  # cannot be pickled, noticed half-way
    assert torch.equal(torch.load(path, weights_only=True)['a'], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ['best.pt']


def test_saving_where_it_is_not_possible_is_an_input_error(tmp_path):
    (tmp_path / 'best.pt').mkdir()
    for path in (tmp_path / 'absent' / 'best.pt', tmp_path / 'best.pt'):
        with pytest.raises(InputError, match='best.pt'):
            save({'a': torch.ones(3)}, path)


# ---- checkpoints ----------------------------------------------------------------------------------------------------

def trained(steps):
    """A network and an optimizer after some steps, as in a checkpoint."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        sum(p.square().sum() for p in model.parameters()).backward()
        optimizer.step()
    training = TrainingState({'step': steps}, {}, model.state_dict(), optimizer.state_dict())
    return Checkpoint({}, {}, {}, training, {}, None)


def with_weights(state):
    model = network(9)
    load_weights(model, state, 'checkpoint.pt')
    return model


def step_of(checkpoint):
    return checkpoint.training.loop['step']


def test_a_checkpoint_comes_back_whole_and_the_newest_first(tmp_path):
    assert read_checkpoint(tmp_path) is None
    for steps in (1, 2, 3):
        write_checkpoint(tmp_path, trained(steps))
        found, expected = read_checkpoint(tmp_path), trained(steps)
        assert step_of(found) == steps and found.best is None
        assert_equal(with_weights(found.training.model), expected.training.model)
        for key, slot in expected.training.optimizer['state'].items():
            for name, value in slot.items():
                assert torch.equal(found.training.optimizer['state'][key][name], value)


@pytest.mark.parametrize('damage', ['empty', 'truncated', 'a changed byte', 'absent'])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path, capsys, damage):
    write_checkpoint(tmp_path, trained(1))
    write_checkpoint(tmp_path, trained(2))
    path = tmp_path / 'checkpoint.pt'
    whole = path.read_bytes()
    bias = trained(2).training.model[f'{PREFIX}base_module.0.bias'].numpy().tobytes()
    changed = bytearray(whole)
    changed[whole.index(bias)] ^= 1  # loads without complaint, with another number in it
    if damage == 'absent':
        path.unlink()
    else:
        path.write_bytes({'empty': b'', 'truncated': whole[:-100], 'a changed byte': bytes(changed)}[damage])
    assert step_of(read_checkpoint(tmp_path)) == 1
    assert damage == 'absent' or 'checkpoint.pt' in capsys.readouterr().err

    (tmp_path / 'checkpoint.previous.pt').write_bytes(b'')
    with pytest.raises(InputError, match='checkpoint'):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_checkpoint(tmp_path, trained(1))
    with pytest.raises(Exception):
        write_checkpoint(tmp_path, trained(2)._replace(args={'code': lambda: 0}))
    assert step_of(read_checkpoint(tmp_path)) == 1


def test_a_digest_is_of_the_values_whatever_their_strides():
    values = torch.arange(6.).view(2, 3)
    assert sha256_of(values.t().contiguous().t()) == sha256_of(values) != sha256_of(values + 1)
    assert sha256_of(torch.ones(1).as_strided((1,), (0,))) == sha256_of(torch.ones(1))


def rewrite(folder, change):
    """Let `change` work on what checkpoint.pt holds, and write it with a digest that fits."""
    path = folder / 'checkpoint.pt'
    state = torch.load(path, weights_only=True)
    change(state)
    del state['digest']
    torch.save({**state, 'digest': sha256_of(state)}, path)


def set_in(*keys, value):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value
    return change


def not_dense():
    """Tensors of other kinds, of which torch warns that they are new or old."""
    with warnings.catch_warnings(action='ignore'):
        return {
            'sparse': torch.eye(3).to_sparse(), 'CSR': torch.eye(3).to_sparse_csr(),
            'meta': torch.empty(3, device='meta'), 'repeated': torch.ones(1).expand(10 ** 12),
            'nested': torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
            'quantized': torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8)}


NOT_DENSE = not_dense()


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', NOT_DENSE)
def test_tensors_that_are_not_dense_are_refused(tmp_path, kind):
    value = NOT_DENSE[kind]
    with pytest.raises(InputError, match='cls.0.weight'):
        infer_num_classes({'actionness_module.cls.0.weight': value}, 'weights.pt')
    with pytest.raises(InputError, match='cls.0.bias is not a dense floating point tensor'):
        load_weights(network(), {**network().state_dict(), 'actionness_module.cls.0.bias': value}, 'weights.pt')


@pytest.mark.parametrize('name', ['pipe', 'null'])
def test_a_pipe_or_a_device_is_refused_without_waiting(tmp_path, name):
    path = tmp_path / name
    os.mkfifo(path) if name == 'pipe' else path.symlink_to('/dev/zero')
    with pytest.raises(InputError, match=name):
        read_weights(path)
    path.rename(tmp_path / 'checkpoint.pt')
    with pytest.raises(InputError, match='no checkpoint'):
        read_checkpoint(tmp_path)


# One structural change of each kind, with a valid digest: of the names, shapes, dtypes and counts of a checkpoint.
MISMATCHED = {
    'a shape of the optimizer': set_in('optimizer', 'state', 0, 'exp_avg', value=torch.zeros(1)),
    'a dtype of the optimizer': set_in('optimizer', 'state', 0, 'exp_avg_sq', value=torch.zeros(2).half()),
    'a name of the optimizer': set_in('optimizer', 'state', 0, value={}),
    'a parameter that does not exist': set_in('optimizer', 'state', 99, value={}),
    'a shape of the model': set_in('model', 'actionness_module.cls.0.bias', value=torch.zeros(9)),
    'NaN in the model': set_in('model', 'actionness_module.cls.0.bias', value=torch.full((3,), np.nan)),
    'a name of the loop': set_in('progress', 'more', value=1),
    'another number of epochs': set_in('progress', 'epoch', value=7),
    'random bytes of another length': set_in('random', 'torch', value=torch.zeros(3, dtype=torch.uint8)),
    'best weights of another network': set_in('best', value={'a': torch.zeros(1)}),
    'results that are a tensor': set_in('results', value={'best': torch.zeros(1), 'last': {}}),
    'an unknown part': set_in('more', value=1)}


@pytest.mark.parametrize('name', MISMATCHED)
def test_a_checkpoint_of_another_structure_ends_a_resume_in_one_line(data, stopped, tmp_path, capsys, name):
    output = Path(shutil.copytree(stopped, tmp_path / 'run'))
    (output / 'checkpoint.previous.pt').unlink(missing_ok=True)
    rewrite(output, MISMATCHED[name])
    before = contents(output)
    capsys.readouterr()
    assert main.main(words(data, output, '--num_steps', 6, '--detection_inf_step', 2, '--resume')) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith('error: ') and 'checkpoint' in error
    assert contents(output) == before


def test_a_checkpoint_keeps_the_keys_of_earlier_versions(stopped):
    """So that either version can resume the runs of the other."""
    state = torch.load(stopped / 'checkpoint.pt', weights_only=True)
    assert set(state) == {'args', 'identity', 'machine', 'progress', 'random', 'model', 'optimizer', 'results', 'best',
                          'digest'}
    assert set(state['progress']) == {'step', 'epoch', 'position', 'epoch_start', 'rows_start'}
    assert set(FILE_KEYS.values()) < set(state)


def test_a_resume_on_another_machine_warns_about_the_last_digits(data, stopped, tmp_path, capsys):
    output = Path(shutil.copytree(stopped, tmp_path / 'run'))
    rewrite(output, lambda state: state['machine'].update(threads=77, torch='1.0'))
    train(data, output, '--detection_inf_step', 2, '--resume', steps=6)
    warning = capsys.readouterr().err
    assert f'threads (77, now {torch.get_num_threads()}), torch (1.0, now' in warning and 'digits may differ' in warning


def resume_warnings(data, output, capsys, **before):
    """The warnings about the code of a resume of a run that was trained by another version."""
    rewrite(output, lambda state: state['machine']['versions'][-1].update(before))
    capsys.readouterr()
    train(data, output, '--detection_inf_step', 2, '--resume', steps=6)
    return [line for line in capsys.readouterr().err.splitlines() if 'version of the code' in line]


@pytest.mark.parametrize('before, warned', [({}, 0), ({'code': 'abc'}, 1), ({'commit': '12' * 20}, 1),
                                            ({'commit': 'unknown'}, 0)])  # without git the files alone count
def test_a_resume_with_other_code_is_a_warning_and_args_json_lists_both(data, stopped, tmp_path, capsys, monkeypatch,
                                                                        before, warned):
    output = Path(shutil.copytree(stopped, tmp_path / 'run'))
    now = checkpoint.code_version()
    monkeypatch.setattr(checkpoint, 'code_version', lambda: {'commit': '34' * 20, 'code': now['code']})
    rewrite(output, lambda state: state['machine']['versions'][-1].update(commit='34' * 20))
    warnings = resume_warnings(data, output, capsys, **before)
    assert len(warnings) == warned and all(str(output) in line for line in warnings)
    versions = json.loads((output / 'args.json').read_text())['versions']
    assert (versions['commit'], versions['code']) == ('34' * 20, now['code'])
    history = versions.get('history', [])
    assert [one['step'] for one in history] == ([0, 4] if before else [])
    if before:
        assert before.items() <= history[0].items() and history[1]['commit'] == '34' * 20
        # Both stay when it is resumed again.
        rewrite(output, lambda state: state['machine']['versions'][-1].update(code='def'))
        train(data, output, '--detection_inf_step', 2, '--resume', steps=8)
        assert len(json.loads((output / 'args.json').read_text())['versions']['history']) == 3


def test_the_version_of_the_code_follows_its_files_without_git(tmp_path, monkeypatch):
    (tmp_path / 'engine').mkdir()
    for name in ('losses.py', 'engine/trainer.py', 'engine/.#trainer.py'):
        (tmp_path / name).write_text('x = 1')
    monkeypatch.setattr(checkpoint, '__file__', str(tmp_path / 'engine' / 'checkpoint.py'))
    found = [checkpoint.code_version.__wrapped__()]
    for name in ('losses.py', 'engine/trainer.py', 'engine/.#trainer.py'):  # the last one is of an editor
        (tmp_path / name).write_text('x = 2')
        found.append(checkpoint.code_version.__wrapped__())
    assert {version['commit'] for version in found} == {'unknown'}
    codes = [version['code'] for version in found]
    assert len(set(codes[:3])) == 3 and codes[3] == codes[2]


# ---- tables ---------------------------------------------------------------------------------------------------------

def test_a_table_holds_its_header_and_all_digits(tmp_path):
    table = CSVLogger(tmp_path / 'losses.csv', ['step', 'total'], 0)
    table.append([[1, 0.1], [2, 1 / 3]])
    table.append([[3, 1e-30]])
    header, *rows = (tmp_path / 'losses.csv').read_text().splitlines()
    assert header == 'step,total'
    assert [float(row.split(',')[1]) for row in rows] == [0.1, 1 / 3, 1e-30]


def test_a_table_of_a_resumed_run_drops_what_the_run_will_write_again(tmp_path):
    path = tmp_path / 'losses.csv'
    CSVLogger(path, ['step', 'total'], 0).append([[step, step / 10] for step in range(1, 16)])
    with open(path, 'a') as file:
        file.write('1')  # of step 16, torn off by a full disk
    CSVLogger(path, ['step', 'total'], 12).append([[13, 9.5]])
    rows = [line.split(',') for line in path.read_text().splitlines()]
    assert rows == [['step', 'total'], *([str(step), str(step / 10)] for step in range(1, 13)), ['13', '9.5']]


@pytest.mark.parametrize('content', [None, '', 'step,total\n\n'])
def test_a_lost_or_empty_csv_file_is_started_again(tmp_path, content):
    path = tmp_path / 'losses.csv'
    if content is not None:
        path.write_text(content)
    CSVLogger(path, ['step', 'total'], 5).append([[6, 0.5]])
    assert path.read_text().splitlines() == ['step,total', '6,0.5']


def test_a_pipe_instead_of_a_csv_file_is_an_error(tmp_path):
    os.mkfifo(tmp_path / 'losses.csv')
    for last_step, reason in (5, 'is a pipe'), (0, 'cannot be written'):
        with pytest.raises(InputError, match=f'losses.csv: {reason}'):
            CSVLogger(tmp_path / 'losses.csv', ['step', 'total'], last_step)


def test_rows_of_an_earlier_version_with_fewer_columns_are_kept(tmp_path):
    path = tmp_path / 'metrics.csv'
    path.write_text('step,mAP\n1,0.5\n2\n3,0.25\n4,0.1\n')
    CSVLogger(path, ['step', 'mAP', 'known_labels'], 3).append([[4, 0.75, 1]])
    assert path.read_text() == 'step,mAP,known_labels\n1,0.5,\n3,0.25,\n4,0.75,1\n'


# ---- whose folder it is ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', FILES)
def test_any_file_of_a_run_without_a_checkpoint_is_replaced_only_when_asked(tmp_path, name):
    (tmp_path / name.replace('*', '1')).write_text('mine')
    check_output_dir(tmp_path, resume=False, overwrite=True)
    for resume in (False, True):
        if resume and name.startswith('checkpoint'):
            continue  # which is then read, or found damaged
        with pytest.raises(InputError, match='--overwrite'):
            check_output_dir(tmp_path, resume, overwrite=False)


def test_results_of_a_run_without_its_checkpoints_are_not_deleted_by_resuming(data, finished, tmp_path, capsys):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    for path in output.glob('checkpoint*.pt'):  # to save space
        path.unlink()
    before = contents(output)
    argv = words(data, output, '--num_steps', 4, '--detection_inf_step', 2)
    assert 'best.pt' in refused(capsys, [*argv, '--resume'], output, 'no checkpoint', '--overwrite')
    (output / 'args.json').unlink()
    del before['args.json']
    refused(capsys, argv, output, 'no checkpoint', '--overwrite')
    assert contents(output) == before
    train(data, output, '--overwrite', steps=1)


def test_training_does_not_replace_the_results_of_an_inference_unasked(data, finished, tmp_path, capsys):
    output = localize(data, finished / 'best.pt', tmp_path / 'run')
    before = contents(output)
    for flag in ([], ['--resume']):
        refused(capsys, words(data, output, '--num_steps', 1, *flag), 'detections.json', '--overwrite')
    assert contents(output) == before


def test_no_run_writes_into_its_data(data, finished, tmp_path, capsys):
    own = Path(shutil.copytree(data, tmp_path / 'data'))
    (own / 'labels.txt').write_text('mine')
    before = contents(own)
    for place in (own, own / 'features' / 'x', own / 'features' / 'test' / 'rgb', own / 'val', tmp_path):
        for flags in (['--overwrite'], ['--inference_only', '--model_file', finished / 'best.pt']):
            refused(capsys, words(own, place, *flags), 'data folder', place)
    assert contents(own) == before


def test_links_do_not_hide_that_a_place_lies_in_the_data(tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'data' / 'features').symlink_to(tmp_path / 'disk')
    (tmp_path / 'link').symlink_to(tmp_path / 'data')
    for place in (tmp_path / 'link', tmp_path / 'disk', tmp_path / 'disk' / 'run', tmp_path / 'link' / 'features'):
        with pytest.raises(InputError, match='data folder'):
            check_output_outside_data(place, str(tmp_path / 'data'))
    check_output_outside_data(tmp_path / 'data' / 'outputs' / 'run', str(tmp_path / 'link'))


@contextmanager
def child(work):
    """Another process, which does `work` and then waits to be killed; its number."""
    done, ready = os.pipe()
    number = os.fork()
    if not number:
        try:
            work()
            os.write(ready, b'.')
            signal.pause()
        finally:
            os._exit(1)
    try:
        os.close(ready)
        assert os.read(done, 1) == b'.'
        yield number
    finally:
        os.close(done)
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def test_a_folder_in_use_is_refused_with_the_process_that_holds_it(tmp_path):
    with child(Lock(tmp_path).__enter__) as holder:
        with pytest.raises(InputError, match=f'{tmp_path}: in use by process {holder} on .*, since 20'), Lock(tmp_path):
            pass
    with Lock(tmp_path):  # released when the process was killed
        pass
    assert not list(tmp_path.iterdir())


def test_the_workers_of_a_killed_run_do_not_hold_its_folder(tmp_path):
    worker, sender = os.pipe()

    def hold_and_fork():
        Lock(tmp_path).__enter__()
        own = os.fork()
        if not own:
            signal.pause()
        os.write(sender, str(own).encode())

    with child(hold_and_fork):
        pass
    try:
        with Lock(tmp_path):
            pass
    finally:
        os.kill(int(os.read(worker, 20)), signal.SIGKILL)
        os.close(worker), os.close(sender)


def test_the_end_of_a_run_removes_only_its_own_lock_file(tmp_path):
    """A process that opened the file just before it was removed does not lock the removed one."""
    waiting = Lock(tmp_path)
    first = Lock(tmp_path).__enter__()
    real, os_open = os.open, []

    def open_then_end(path, flags):
        found = real(path, flags)
        if not os_open:
            os_open.append(path)
            first.__exit__()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'open', open_then_end)
        with waiting:
            assert os.path.samestat(os.fstat(waiting.file), os.stat(tmp_path / '.lock'))


def replace_folder(folder):
    folder.rename(folder.with_name('moved'))
    folder.mkdir()
    for name in ('.lock', 'checkpoint.pt', 'losses.csv', 'results.json'):
        (folder / name).write_text('of another run')


MOVES = {'moved': lambda folder: folder.rename(folder.with_name('moved')), 'replaced': replace_folder,
         'without its lock file': lambda folder: (folder / '.lock').unlink()}


@pytest.mark.parametrize('kind', MOVES)
def test_a_run_ends_when_its_folder_is_replaced_and_writes_nothing_into_the_new_one(data, tmp_path, capsys,
                                                                                    monkeypatch, kind):
    found = {}

    def files():  # TensorBoard's thread may write events of earlier steps at any time
        return {name: content for name, content in contents(tmp_path).items() if 'tfevents' not in name}

    def move():
        MOVES[kind](tmp_path / 'run')
        found.update(files())

    stop_at(3, move, monkeypatch)
    refused(capsys, words(data, tmp_path / 'run', '--num_steps', 6, '--detection_inf_step', 2),
            f'{tmp_path / "run"}: is no longer the folder of this run')
    assert found and files() == found
    if kind != 'without its lock file':
        monkeypatch.undo()
        train(data, tmp_path / 'moved', '--detection_inf_step', 2, '--resume', steps=6)


def test_an_inference_whose_folder_is_replaced_writes_nothing_into_the_new_one(data, finished, tmp_path, capsys,
                                                                               monkeypatch):
    evaluate = Evaluator.evaluate
    monkeypatch.setattr(Evaluator, 'evaluate', lambda *args: replace_folder(tmp_path / 'run') or evaluate(*args))
    refused(capsys, words(data, tmp_path / 'run', '--inference_only', '--model_file', finished / 'best.pt'),
            'is no longer the folder of this run')
    assert set(contents(tmp_path / 'run').values()) == {b'of another run'}


def test_a_run_in_a_folder_in_use_is_refused_before_it_writes(data, finished, tmp_path, capsys):
    for flags in (['--num_steps', 1], ['--inference_only', '--model_file', finished / 'best.pt']):
        folder = tmp_path / 'run'
        folder.mkdir(exist_ok=True)
        with child(Lock(folder).__enter__) as holder:
            refused(capsys, words(data, folder, *flags), folder, f'process {holder}')
        assert [path.name for path in folder.iterdir()] == ['.lock']


def test_two_writers_of_one_file_never_mix(tmp_path):
    path = tmp_path / 'file'
    contents_of = {letter: letter * 200_000 for letter in (b'a', b'b')}

    def write_often():
        os.write(ready, b'.')
        while True:
            write_bytes(path, contents_of[b'a'])

    started, ready = os.pipe()
    number = os.fork()
    if not number:
        write_often()
    try:
        os.read(started, 1)
        for _ in range(200):
            write_bytes(path, contents_of[b'b'])
            assert path.read_bytes() in contents_of.values()
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
        os.close(started), os.close(ready)


# ---- the data of a run ----------------------------------------------------------------------------------------------

def change_array(path, change):
    array = np.load(path)
    change(array)
    np.save(path, array)


def rotate_labels(data):
    """Every training video gets the label of another class."""
    truth = json.loads((data / 'gt.json').read_text())
    for name, video in truth['database'].items():
        for row in video['annotations'] if name.startswith('train') else ():
            row['label'] = CLASSES[(CLASSES.index(row['label']) + 1) % len(CLASSES)]
    (data / 'gt.json').write_text(json.dumps(truth))


def move_segments(data):
    truth = json.loads((data / 'gt.json').read_text())
    truth['database']['test_1']['annotations'][0]['segment'][1] = 1.5
    (data / 'gt.json').write_text(json.dumps(truth))


def halve(data):
    for stream in ('rgb', 'flow'):
        path = data / 'features' / 'test' / stream / 'test_2.npy'
        np.save(path, np.load(path)[::2])


CHANGES = {
    'training features': lambda d: change_array(d / 'features/train/flow/train_3.npy', lambda a: a[4].__iadd__(0.01)),
    'test features': lambda d: change_array(d / 'features/test/rgb/test_0.npy', lambda a: a[2].__iadd__(0.01)),
    'lengths of test videos': halve, 'training labels': rotate_labels, 'test annotations': move_segments}


@pytest.mark.parametrize('name', CHANGES)
def test_a_run_is_not_resumed_with_changed_data(data, finished, tmp_path, capsys, name):
    own = Path(shutil.copytree(data, tmp_path / 'data'))
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    before = contents(output)
    CHANGES[name](own)
    refused(capsys, words(own, output, '--num_steps', 6, '--detection_inf_step', 2, '--resume'), output,
            f'the {name} differ', '--overwrite')
    assert contents(output) == before


def test_a_checkpoint_without_a_data_fingerprint_is_resumed_with_a_warning(data, finished, tmp_path, capsys):
    output = Path(shutil.copytree(finished, tmp_path / 'run'))
    state = read_checkpoint(output)
    for name in ('training features', 'test annotations'):
        del state.data[name]
    write_checkpoint(output, state)
    train(data, output, '--detection_inf_step', 2, '--resume', steps=6)
    assert 'did not record the training features, test annotations' in capsys.readouterr().err


@pytest.mark.parametrize('cache', ['ram', 'none'])
def test_of_many_features_some_of_every_video_are_looked_at(data, monkeypatch, cache):
    truth = read_ground_truth(data / 'gt.json')
    videos = VideoDataset(find_split(data, 'train', truth, truth.labels, MODALITIES['all']), cache)
    whole = hash_features(videos)
    monkeypatch.setattr('engine.checkpoint.SAMPLED_BYTES', 1)
    looked_at, sample = [], videos.sample
    monkeypatch.setattr(videos, 'sample', lambda draw: looked_at.append(draw) or sample(draw))
    assert hash_features(videos) != whole
    assert [video for draw in looked_at for video in draw.videos] == list(range(5))
    assert all(len(rows) == 2 for draw in looked_at for rows in draw.rows)


# ---- names and streams ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('flag', ['--exp_name', '--data_path', '--output_dir', '--model_file'])
def test_names_that_are_no_text_are_refused_before_the_work(data, tmp_path, capsys, flag):
    argv = words(data, tmp_path / 'run', '--num_steps', 1)
    name = os.fsdecode(b'caf\xe9')
    flags = ['--inference_only'] if flag == '--model_file' else []
    refused(capsys, [*argv, *flags, flag, name], flag, 'UTF-8', r'caf\udce9')
    assert not list(tmp_path.iterdir())


def test_an_output_that_knows_few_letters_gets_numbers_for_the_others(data, tmp_path, monkeypatch):
    own = Path(shutil.copytree(data, tmp_path / 'data \U0001f600'))
    printed = io.BytesIO()
    monkeypatch.setattr(sys, 'stdout', io.TextIOWrapper(printed, 'ascii'))
    train(own, tmp_path / 'run \U0001f600', steps=1)
    sys.stdout.flush()
    assert rb'data \U0001f600' in printed.getvalue()


@pytest.mark.parametrize('streams', ['2>&-', '>&- 2>&-'])
def test_a_run_needs_no_standard_streams(data, tmp_path, streams):
    """Their numbers go to none of the run's files."""
    flags = shlex.join([sys.executable, 'main.py', *words(data, tmp_path / 'run', '--num_steps', 1)])
    assert subprocess.run(['bash', '-c', f'exec {flags} {streams}'], cwd=ROOT).returncode == 0
    assert read_checkpoint(tmp_path / 'run') and read_weights(tmp_path / 'run' / 'best.pt')


def test_an_error_that_cannot_be_printed_is_a_status(tmp_path):
    done = subprocess.run(['bash', '-c', f'{sys.executable} -c "import sys, utils; sys.exit(utils.run_cli('
                           f'lambda: utils.read_json(sys.argv[1])))" {tmp_path}/absent 2>/dev/full'], cwd=ROOT)
    assert done.returncode == 2


# ---- memory ---------------------------------------------------------------------------------------------------------

def test_batches_that_cannot_fit_are_refused_before_the_start(data, finished, tmp_path, capsys, monkeypatch):
    refused(capsys, words(data, tmp_path / 'run', '--num_segments', 10 ** 8), '--num_segments', 'GB are free')
    monkeypatch.setattr('engine.runtime.free_shared_memory', lambda: 10 ** 4)
    for flags in (['--num_steps', 1], ['--inference_only', '--model_file', finished / 'best.pt']):
        refused(capsys, words(data, tmp_path / 'run', '--num_workers', 2, *flags), '--num_workers 2', '/dev/shm')
    assert not (tmp_path / 'run').exists()


def test_more_workers_than_cores_give_one_warning(data, tmp_path, capsys, monkeypatch, recwarn):
    monkeypatch.setattr('os.sched_getaffinity', lambda process: {0})
    train(data, tmp_path / 'run', '--num_workers', 2, '--cache', 'none', steps=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if '--num_workers 2: only 1 CPU core ' in line]
    assert len(lines) == 1 and lines[0].startswith('warning: ')
    assert not [warning for warning in recwarn if 'DataLoader' in str(warning.message)]


def test_events_that_cannot_be_written_are_named_in_one_line(data, tmp_path, capsys, monkeypatch):
    from tensorboard.summary.writer.record_writer import RecordWriter
    write, count = RecordWriter.write, [0]

    def full(writer, content):
        count[0] += 1
        if count[0] > 5:
            raise OSError(28, 'No space left on device')
        write(writer, content)

    monkeypatch.setattr(RecordWriter, 'write', full)
    refused(capsys, words(data, tmp_path / 'run', '--num_steps', 6, '--detection_inf_step', 2),
            'events.out.tfevents', 'No space left')
    monkeypatch.undo()
    train(data, tmp_path / 'run', '--detection_inf_step', 2, '--resume', steps=6)
