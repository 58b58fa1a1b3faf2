"""Seeds, devices, and weights on disk: what loads, what is refused and with which words."""
import json
import os
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from model import AICL, load_weights, num_classes_of, read_weights
from run import (
    Table,
    digest,
    pick_device,
    random_state,
    read_checkpoint,
    rows_state,
    save,
    seed_everything,
    set_random_state,
    set_rows_state,
    write_checkpoint,
)
from utils import InputError, read_json, write_json, write_text

D, C, H = 4, 3, 6
PREFIX = 'actionness_module.'


def network(seed=0):
    torch.manual_seed(seed)
    return AICL(D, C, H)


def assert_equal(model, state):
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


# ---- seeds and devices ----------------------------------------------------------------------------------------------

def test_a_seed_repeats_torch_numpy_and_python():
    def draw():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    seed_everything(5)
    first = draw()
    assert draw() != first
    seed_everything(5)
    assert draw() == first
    torch.manual_seed(5)
    assert torch.rand(3).tolist() == first[0]    # the plain seeds, which decide the reference's numbers


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


# ---- weights that load ----------------------------------------------------------------------------------------------

def test_weights_come_back_as_they_were_saved(tmp_path):
    state = network(1).state_dict()
    save(state, tmp_path / 'weights.pt')
    found, model = read_weights(tmp_path / 'weights.pt'), network(2)
    load_weights(model, found, 'weights.pt')
    assert_equal(model, state)
    assert num_classes_of(found, 'weights.pt') == C


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_floating_point_types_and_another_order_of_names_load(dtype):
    state = {name: value.to(dtype) for name, value in reversed(network(1).state_dict().items())}
    model = network(2)
    load_weights(model, state, 'weights.pt')
    assert_equal(model, state)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize('zipped', [True, False])
def test_both_file_formats_of_torch_load_under_any_name(tmp_path, zipped):
    state = network(1).state_dict()
    torch.save(dict(state), tmp_path / 'CAS_Only.pkl', _use_new_zipfile_serialization=zipped)
    model = network(2)
    load_weights(model, read_weights(tmp_path / 'CAS_Only.pkl'), 'CAS_Only.pkl')
    assert_equal(model, state)


def test_strided_and_shared_tensors_load(tmp_path):
    state = network(1).state_dict()
    name = f'{PREFIX}cls.0.weight'
    state[name] = torch.stack([state[name], state[name] + 1], dim=-1)[..., 0]    # a view into something larger
    torch.save(state, tmp_path / 'weights.pt')
    model = network(2)
    load_weights(model, read_weights(tmp_path / 'weights.pt'), 'weights.pt')
    assert_equal(model, state)


# ---- weights that do not --------------------------------------------------------------------------------------------

def test_every_missing_extra_and_mis_shaped_parameter_is_listed_and_nothing_is_loaded():
    model, state = network(1), network(2).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    del state[f'{PREFIX}cls_rgb.weight'], state[f'{PREFIX}cls_flow.bias']
    state['module.head.weight'] = torch.zeros(1)
    state[f'{PREFIX}cls.0.weight'] = torch.zeros(C + 1, H, 1)
    with pytest.raises(InputError) as error:
        load_weights(model, state, 'some/file.pt')
    message = str(error.value)
    for part in ('some/file.pt', f'{PREFIX}cls_rgb.weight', f'{PREFIX}cls_flow.bias', 'module.head.weight',
                 f'{PREFIX}cls.0.weight', f'({C}, {H}, 1)', f'({C + 1}, {H}, 1)'):
        assert part in message, part
    assert '\n' not in message and 'base_module' not in message
    assert_equal(model, before)


@pytest.mark.parametrize('value, words', [
    (torch.full((C,), float('nan')), 'NaN'), (torch.full((C,), float('inf')), 'infin'),
    (torch.full((C,), 1e300, dtype=torch.float64), 'infin'),    # finite there, infinite in the float32 of the network
    (torch.zeros(C, dtype=torch.int64), 'floating'), (torch.zeros(C, dtype=torch.complex64), 'floating'),
    ([0.0] * C, 'tensor'), (None, 'tensor')])
def test_values_that_are_no_weights_are_refused(value, words):
    state = network(1).state_dict()
    state[f'{PREFIX}cls.0.bias'] = value
    with pytest.raises(InputError, match=f'cls.0.bias.*{words}'):
        load_weights(network(2), state, 'weights.pt')


def test_weights_of_another_width_name_the_flag():
    wide = AICL(D, C, 2 * H).state_dict()
    with pytest.raises(InputError, match=f'weights.pt: was trained with --hidden_dim {2 * H}, not {H}, and does not fit'):
        load_weights(network(1), wide, 'weights.pt')


def test_a_dictionary_of_something_else_is_named_as_that():
    for state in ({}, {'model': {}}, {f'{PREFIX}cls.0.weight': 3}, {f'{PREFIX}cls.0.weight': torch.tensor(3.0)}, {7: torch.zeros(2)}):
        with pytest.raises(InputError, match='some.pt.*cls.0.weight'):
            num_classes_of(state, 'some.pt')


@pytest.mark.parametrize('empty', [b'', bytes(10240)], ids=['nothing', 'a tar of nothing'])
def test_what_is_no_file_of_torch_is_not_unpacked(tmp_path, monkeypatch, empty):
    monkeypatch.setattr('tempfile.mkdtemp', lambda *_: pytest.fail('unpacks'))
    (tmp_path / 'weights.pt').write_bytes(empty)
    with pytest.raises(InputError, match='weights.pt: damaged, or not a file of tensors'):
        read_weights(tmp_path / 'weights.pt')


def test_a_digest_is_of_the_values_whatever_their_strides():
    values = torch.arange(6.).view(2, 3)
    assert digest(values.t().contiguous().t()) == digest(values) != digest(values + 1)
    assert digest(torch.ones(1).as_strided((1,), (0,))) == digest(torch.ones(1))


class Payload:
    """Its unpickling makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'plain pickle'])
def test_code_in_a_checkpoint_is_refused_and_never_run(tmp_path, kind):
    harm, path = tmp_path / 'executed', tmp_path / 'weights.pkl'
    state = {**network().state_dict(), 'extra': Payload(harm)}
    if kind == 'plain pickle':
        path.write_bytes(pickle.dumps(Payload(harm)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == 'zip')
    with pytest.raises(InputError, match='weights.pkl'):
        read_weights(path)
    assert not harm.exists()
    torch.load(path, weights_only=False) if kind != 'plain pickle' else pickle.loads(path.read_bytes())
    assert harm.exists()    # the file does hold code


@pytest.mark.filterwarnings('error')    # a warning of torch's would be a second line for the user
def test_absent_files_folders_and_files_of_something_else_are_refused(tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'empty').write_bytes(b'')
    (tmp_path / 'text').write_text('not weights\n')
    (tmp_path / 'json').write_text('{"a": 1}')
    (tmp_path / 'noise').write_bytes(np.random.RandomState(0).bytes(1000))
    np.save(tmp_path / 'array.npy', np.zeros(3))
    with zipfile.ZipFile(tmp_path / 'zip', 'w') as file:
        file.writestr('hello.txt', 'hello')
    torch.save([1, 2], tmp_path / 'list')
    torch.save(torch.zeros(3), tmp_path / 'tensor')
    (tmp_path / 'pickle').write_bytes(pickle.dumps({'a': np.zeros(3)}))
    for name in ('absent', 'folder', 'empty', 'text', 'json', 'noise', 'array.npy', 'zip', 'list', 'tensor', 'pickle'):
        with pytest.raises(InputError, match=name) as error:
            read_weights(tmp_path / name)
        assert '\n' not in str(error.value)
        assert 'weights_only' not in str(error.value)    # torch's own advice is how to run the code of the file


@pytest.mark.parametrize('zipped', [True, False])
def test_a_truncated_or_damaged_checkpoint_is_refused_or_read_but_never_crashes(tmp_path, zipped):
    path = tmp_path / 'weights.pt'
    torch.save(network().state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in (1, 2, 10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match='weights.pt'):
            read_weights(path)
    rng = np.random.RandomState(0)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in rng.randint(0, min(len(whole), 2000), 3):    # the pickle comes first: most damage is done there
            damaged[place] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            load_weights(network(), read_weights(path), path)
        except InputError as error:
            assert '\n' not in str(error)


# ---- saving ---------------------------------------------------------------------------------------------------------

def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / 'best.pt'
    save({'a': torch.ones(3)}, path)
    with pytest.raises(Exception):
        save({'a': torch.zeros(1000), 'b': lambda: 0}, path)    # cannot be pickled, noticed half-way
    assert torch.equal(torch.load(path, weights_only=True)['a'], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ['best.pt']


def test_saving_where_it_is_not_possible_is_an_input_error(tmp_path):
    (tmp_path / 'best.pt').mkdir()
    for path in (tmp_path / 'absent' / 'best.pt', tmp_path / 'best.pt'):
        with pytest.raises(InputError, match='best.pt'):
            save({'a': torch.ones(3)}, path)


# ---- checkpoints ----------------------------------------------------------------------------------------------------

def test_generators_go_on_where_their_state_was_taken(tmp_path):
    seed_everything(3)
    rows = np.random.RandomState(4)
    torch.rand(5), random.random(), rows.randint(0, 100, 7), rows.normal()    # normal() leaves a second number behind
    save({'random': random_state(), 'rows': rows_state(rows)}, tmp_path / 'state.pt')

    def draw(rng):
        return torch.rand(3).tolist(), torch.randperm(9).tolist(), random.random(), rng.randint(0, 100, 5).tolist(), rng.normal()

    expected = draw(rows)
    seed_everything(99)
    rows = np.random.RandomState(99)
    state = read_weights(tmp_path / 'state.pt')
    set_random_state(state['random'])
    set_rows_state(rows, state['rows'])
    assert draw(rows) == expected


def trained(steps):
    """A network and an optimiser after some steps, as a checkpoint holds them."""
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(steps):
        sum(p.square().sum() for p in model.parameters()).backward()
        optimizer.step()
    return {'step': steps, 'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'best': None}


def with_weights(state):
    model = network(9)
    load_weights(model, state, 'checkpoint.pt')
    return model


def test_a_checkpoint_comes_back_whole_and_the_newest_first(tmp_path):
    assert read_checkpoint(tmp_path) is None
    for steps in (1, 2, 3):
        write_checkpoint(tmp_path, trained(steps))
        found, expected = read_checkpoint(tmp_path), trained(steps)
        assert found['step'] == steps and found['best'] is None
        assert_equal(with_weights(found['model']), expected['model'])
        for key, slot in expected['optimizer']['state'].items():
            for name, value in slot.items():
                assert torch.equal(found['optimizer']['state'][key][name], value)


@pytest.mark.parametrize('damage', ['empty', 'truncated', 'a changed byte', 'absent'])
def test_a_damaged_checkpoint_gives_way_to_the_one_before_with_a_warning(tmp_path, capsys, damage):
    write_checkpoint(tmp_path, trained(1))
    write_checkpoint(tmp_path, trained(2))
    path = tmp_path / 'checkpoint.pt'
    whole = path.read_bytes()
    weight = trained(2)['model'][f'{PREFIX}base_module.0.weight'].numpy().tobytes()
    changed = bytearray(whole)
    changed[whole.index(weight)] ^= 1    # loads without complaint, with another number in it
    if damage == 'absent':
        path.unlink()
    else:
        path.write_bytes({'empty': b'', 'truncated': whole[:-100], 'a changed byte': bytes(changed)}[damage])
    assert read_checkpoint(tmp_path)['step'] == 1
    assert damage == 'absent' or 'checkpoint.pt' in capsys.readouterr().err

    (tmp_path / 'checkpoint.previous.pt').write_bytes(b'')
    with pytest.raises(InputError, match='checkpoint'):
        read_checkpoint(tmp_path)


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(tmp_path):
    write_checkpoint(tmp_path, trained(1))
    with pytest.raises(Exception):
        write_checkpoint(tmp_path, {**trained(2), 'code': lambda: 0})
    assert read_checkpoint(tmp_path)['step'] == 1


# ---- tables ---------------------------------------------------------------------------------------------------------

def test_a_table_holds_its_header_and_all_digits(tmp_path):
    table = Table(tmp_path / 'losses.csv', ['step', 'total'], 0)
    table.append([[1, 0.1], [2, 1 / 3]])
    table.append([[3, 1e-30]])
    header, *rows = (tmp_path / 'losses.csv').read_text().splitlines()
    assert header == 'step,total'
    assert [float(row.split(',')[1]) for row in rows] == [0.1, 1 / 3, 1e-30]


def test_a_table_of_a_resumed_run_drops_what_the_run_will_write_again(tmp_path):
    path = tmp_path / 'losses.csv'
    Table(path, ['step', 'total'], 0).append([[step, step / 10] for step in range(1, 16)])
    with open(path, 'a') as file:
        file.write('1')    # of step 16, torn off by a full disk
    Table(path, ['step', 'total'], 12).append([[13, 9.5]])
    rows = [line.split(',') for line in path.read_text().splitlines()]
    assert rows == [['step', 'total'], *([str(step), str(step / 10)] for step in range(1, 13)), ['13', '9.5']]


@pytest.mark.parametrize('content', [None, '', 'step,total\n\n'])
def test_a_table_that_was_lost_or_emptied_starts_anew(tmp_path, content):
    path = tmp_path / 'losses.csv'
    if content is not None:
        path.write_text(content)
    Table(path, ['step', 'total'], 5).append([[6, 0.5]])
    assert path.read_text().splitlines() == ['step,total', '6,0.5']


# ---- whole files ----------------------------------------------------------------------------------------------------

def message(path: Path) -> str:
    """What the reader of JSON says; one line of a sensible length, whatever the file holds."""
    with pytest.raises(InputError) as caught:
        read_json(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < len(str(path)) + 300, text
    return text


@pytest.mark.parametrize(('content', 'words'), [
    (b'', 'empty'), (b'   ', 'not a JSON'), (b'{"database": ', 'not a JSON'), (b'\xff\xfe{}', "can't decode"),
    (b'\x80\x02}q\x00.', "can't decode"), (b'{"results": {}} more', 'not a JSON'), (b'[' * 10 ** 5, 'nested too deep'),
    (b'{"a":' * 10 ** 5, 'nested too deep'), (b'{"database": {"a": {}, "a": {}}}', "'a' stands twice"),
    (b'[1' + b'0' * 5000 + b']', 'digits')])
def test_files_that_are_no_json(tmp_path, content, words):
    (tmp_path / 'file.json').write_bytes(content)
    assert words in message(tmp_path / 'file.json')


def test_files_that_cannot_be_read(tmp_path):
    assert 'No such file' in message(tmp_path / 'missing.json')
    assert 'directory' in message(tmp_path)


def test_a_byte_order_mark_is_fine(tmp_path):
    (tmp_path / 'file.json').write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / 'file.json') == {'a': 1}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / 'results.json'
    write_json(path, {'a': 1})
    assert json.loads(path.read_text()) == {'a': 1} and os.listdir(tmp_path) == ['results.json']

    def fail(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', fail)
    with pytest.raises(InputError, match='results.json: cannot be written: No space left'):
        write_json(path, {'a': 2})
    assert json.loads(path.read_text()) == {'a': 1} and os.listdir(tmp_path) == ['results.json']


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / 'results.json', {'a': float('nan')})
    assert not os.listdir(tmp_path)


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match='cannot be written: No such file'):
        write_text(tmp_path / 'none' / 'file', 'x')
    with pytest.raises(InputError, match='cannot be written: Is a directory'):
        write_text(tmp_path, 'x')
    with pytest.raises(InputError, match='cannot be written'):
        write_text('/dev/full', 'x')


def test_links_and_devices_stay_what_they_are(tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'file')
    write_text(tmp_path / 'link', 'x')
    assert (tmp_path / 'link').is_symlink() and (tmp_path / 'file').read_text() == 'x'
    (tmp_path / 'null').symlink_to('/dev/null')
    write_text(tmp_path / 'null', 'x')
    assert not os.path.isfile('/dev/null')
