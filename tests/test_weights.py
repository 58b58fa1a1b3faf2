"""Weights on disk: what loads, what is refused and with which words."""
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from engine.checkpoint import infer_num_classes, load_weights, read_weights
from engine.torch_io import save
from model import AICL
from utils import InputError

D, C, H = 4, 3, 6
PREFIX = 'actionness_module.'
RECIPE = {'fusion_weight': 1 / 3, 'topk_ratio': 8}  # of THUMOS14


def network(seed=0):
    torch.manual_seed(seed)
    return AICL(D, C, H, **RECIPE)


def assert_equal(model, state):
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


# ---- weights that load ----------------------------------------------------------------------------------------------

def test_weights_come_back_as_they_were_saved(tmp_path):
    state = network(1).state_dict()
    save(state, tmp_path / 'weights.pt')
    found, model = read_weights(tmp_path / 'weights.pt'), network(2)
    load_weights(model, found, 'weights.pt')
    assert_equal(model, state)
    assert infer_num_classes(found, 'weights.pt') == C


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
    state[name] = torch.stack([state[name], state[name] + 1], dim=-1)[..., 0]  # a view into something larger
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


def test_of_many_faults_the_first_ones_are_listed():
    state = {f'backbone.{i}.weight': torch.zeros(1) for i in range(150)}
    with pytest.raises(InputError) as error:
        load_weights(network(), state, 'some/file.pt')
    count = 150 + len(network().state_dict())
    assert f'and {count - 5} more' in str(error.value) and len(str(error.value)) < 300


def test_parameters_that_the_network_does_not_have_are_left_out_with_a_warning(capsys):
    state, model = network(2).state_dict(), network(1)
    load_weights(model, {**state, 'head.bias': torch.zeros(1), 'mask': torch.ones(2)}, 'CAS_Only.pkl')
    assert_equal(model, state)
    warning, = capsys.readouterr().err.splitlines()
    assert warning == ('warning: CAS_Only.pkl: 2 parameters that this network does not have are ignored: '
                       'head.bias, mask')


@pytest.mark.parametrize('value, words', [
    (torch.full((C,), float('nan')), 'NaN'), (torch.full((C,), float('inf')), 'infin'),
    (torch.full((C,), 1e300, dtype=torch.float64), 'infin'),  # finite there, infinite in the float32 of the network
    (torch.zeros(C, dtype=torch.int64), 'floating'), (torch.zeros(C, dtype=torch.complex64), 'floating'),
    ([0.0] * C, 'tensor'), (None, 'tensor')])
def test_values_that_are_no_weights_are_refused(value, words):
    state = network(1).state_dict()
    state[f'{PREFIX}cls.0.bias'] = value
    with pytest.raises(InputError, match=f'cls.0.bias.*{words}'):
        load_weights(network(2), state, 'weights.pt')


def test_weights_of_another_width_name_the_flag():
    wide = AICL(D, C, 2 * H, **RECIPE).state_dict()
    with pytest.raises(InputError, match=f'weights.pt: was trained with --hidden_dim {2 * H}, not {H}, and'):
        load_weights(network(1), wide, 'weights.pt')


def test_a_dictionary_of_something_else_is_named_as_that():
    name = f'{PREFIX}cls.0.weight'
    for state in ({}, {'model': {}}, {name: 3}, {name: torch.tensor(3.0)}, {7: torch.zeros(2)}):
        with pytest.raises(InputError, match='some.pt.*cls.0.weight'):
            infer_num_classes(state, 'some.pt')


@pytest.mark.parametrize('empty', [b'', bytes(10240)], ids=['nothing', 'a tar of nothing'])
def test_what_is_no_file_of_torch_is_not_unpacked(tmp_path, monkeypatch, empty):
    monkeypatch.setattr('tempfile.mkdtemp', lambda *_: pytest.fail('unpacks'))
    (tmp_path / 'weights.pt').write_bytes(empty)
    with pytest.raises(InputError, match='weights.pt: damaged, or not a file of tensors'):
        read_weights(tmp_path / 'weights.pt')


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
    assert harm.exists()  # the file does hold code


@pytest.mark.filterwarnings('error')  # a warning of torch's would be a second line for the user
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
        assert 'weights_only' not in str(error.value)  # torch's own advice is how to run the code of the file


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
        for place in rng.randint(0, min(len(whole), 2000), 3):  # the pickle comes first: most damage is done there
            damaged[place] = rng.randint(256)
        path.write_bytes(damaged)
        try:
            load_weights(network(), read_weights(path), path)
        except InputError as error:
            assert '\n' not in str(error)
