"""The network and the mining against torch's own convolutions and slow loops over videos, snippets and classes."""
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from engine.device import LARGE_STEP, check_precision, matmul_speed, suggest_precision
from engine.runtime import M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, tune_malloc
from model import AICL, Mined, TemporalConv1d, mine_snippets, pseudo_labels
from utils import InputError

ROOT = Path(__file__).resolve().parents[1]
D, C, H = 5, 4, 6  # features per modality, classes, hidden width

RECIPE = {'fusion_weight': 1 / 3, 'topk_ratio': 8}  # of THUMOS14


def table_layers(feature_dim=D, num_classes=C, hidden_dim=H, modalities=('rgb', 'flow')):
    """The layers of the network: released name -> torch module, in the released order of creation."""
    layers = {'base_module.0': nn.Conv1d(len(modalities) * feature_dim, hidden_dim, 3, padding=1),
              'cls.0': nn.Conv1d(hidden_dim, num_classes, 1)}
    for modality in modalities:
        layers[f'action_module_{modality}.0'] = nn.Conv1d(feature_dim, hidden_dim, 3, padding=1)
        layers[f'cls_{modality}'] = nn.Conv1d(hidden_dim, 1, 1)
    return layers


def same_network(seed=0, modalities=('rgb', 'flow'), **options):
    """The network in float64, and torch's modules with the same weights."""
    torch.manual_seed(seed)
    model = AICL(D, C, H, modalities=modalities, **{**RECIPE, **options}).double()
    torch.manual_seed(seed)
    table = table_layers(modalities=modalities)
    layers = nn.ModuleDict({name.replace('.', '/'): layer for name, layer in table.items()})
    return model, layers.double()


def slow_forward(layers, video, modalities=('rgb', 'flow')):
    """One video (T, M D) through torch's Conv1d: S (T, C), embeddings (T, H), attentions (T,)."""
    x = video.T[None]  # (1, M D, T)
    embedding = layers['base_module/0'](x).relu()
    embeddings, attentions = {}, {}
    for i, modality in enumerate(modalities):
        own = layers[f'action_module_{modality}/0'](x[:, i * D:(i + 1) * D]).relu()
        embeddings[modality] = own[0].T
        attentions[modality] = layers[f'cls_{modality}'](own).sigmoid()[0, 0]
    return layers['cls/0'](embedding)[0].T, embedding[0].T, embeddings, attentions


def features(num_videos, length, width=2 * D, seed=1):
    return torch.randn(num_videos, length, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- the network ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('modalities', [('rgb', 'flow'), ('rgb',), ('flow',)])
def test_parameters_have_the_released_names_and_start_from_the_values_of_the_table_s_order(modalities):
    torch.manual_seed(3)
    found = AICL(D, C, H, modalities=modalities, **RECIPE).state_dict()
    torch.manual_seed(3)
    expected = {f'actionness_module.{name}.{kind}': getattr(layer, kind)
                for name, layer in table_layers(modalities=modalities).items() for kind in ('weight', 'bias')}
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_parameters_have_the_released_shapes():
    shapes = {name: tuple(value.shape) for name, value in AICL(1024, 20, 512, **RECIPE).state_dict().items()}
    assert shapes == {
        'actionness_module.base_module.0.weight': (512, 2048, 3), 'actionness_module.base_module.0.bias': (512,),
        'actionness_module.cls.0.weight': (20, 512, 1), 'actionness_module.cls.0.bias': (20,),
        'actionness_module.action_module_rgb.0.weight': (512, 1024, 3),
        'actionness_module.action_module_rgb.0.bias': (512,),
        'actionness_module.cls_rgb.weight': (1, 512, 1), 'actionness_module.cls_rgb.bias': (1,),
        'actionness_module.action_module_flow.0.weight': (512, 1024, 3),
        'actionness_module.action_module_flow.0.bias': (512,),
        'actionness_module.cls_flow.weight': (1, 512, 1), 'actionness_module.cls_flow.bias': (1,)}


@pytest.mark.parametrize('length', [1, 2, 3, 20])
@pytest.mark.parametrize('modalities', [('rgb', 'flow'), ('rgb',), ('flow',)])
def test_branches_equal_torch_convolutions_up_to_the_borders_of_every_video(modalities, length):
    model, layers = same_network(modalities=modalities)
    batch = features(3, length, len(modalities) * D)
    with torch.no_grad():
        out = model(batch)
        for n, video in enumerate(batch):
            cas, embedding, embeddings, attentions = slow_forward(layers, video, modalities)
            torch.testing.assert_close(out.cas[n], cas)
            torch.testing.assert_close(out.embedding[n], embedding)
            for modality in ('rgb', 'flow'):
                for name, expected in (('embedding', embeddings), ('attention', attentions)):
                    found = getattr(out, f'{name}_{modality}')
                    if modality in modalities:
                        torch.testing.assert_close(found[n], expected[modality])
                    else:
                        assert found is None


@pytest.mark.parametrize('modalities', [('rgb', 'flow'), ('rgb',), ('flow',)])
@pytest.mark.parametrize('fusion_weight', [1 / 3, 1 / 2])
def test_actionness_and_selection_score_are_those_of_the_method(fusion_weight, modalities):
    model, layers = same_network(modalities=modalities, fusion_weight=fusion_weight)
    batch = features(2, 12, len(modalities) * D)
    with torch.no_grad():
        out = model(batch)
        for n, video in enumerate(batch):
            cas, _, _, attentions = slow_forward(layers, video, modalities)
            for t in range(12):
                aware = 1 / (1 + torch.exp(-sum(cas[t, c] for c in range(C))))
                agnostic = sum(attention[t] for attention in attentions.values()) / len(modalities)
                torch.testing.assert_close(out.actionness_aware[n, t], aware)
                torch.testing.assert_close(out.actionness_agnostic[n, t], agnostic)
                for c in range(C):
                    share = torch.exp(cas[t, c]) / sum(torch.exp(cas[t, i]) for i in range(C))
                    expected = fusion_weight * share + (1 - fusion_weight) * agnostic
                    torch.testing.assert_close(out.selection[n, t, c], expected)


def test_fusion_of_a_third_is_the_plain_mean_of_three():
    model, _ = same_network()
    with torch.no_grad():
        out = model(features(2, 9))
    three = out.cas.softmax(2) + out.attention_rgb[..., None] + out.attention_flow[..., None]
    torch.testing.assert_close(out.selection, three / 3)


@pytest.mark.parametrize('length, ratio, k', [
    (750, 8, 93), (50, 2, 25), (16, 8, 2), (15, 8, 1), (7, 8, 1), (3, 8, 1), (1, 8, 1)])
def test_video_logit_is_the_mean_over_the_snippets_of_largest_selection_score(length, ratio, k):
    model, _ = same_network(topk_ratio=ratio)
    with torch.no_grad():
        out = model(features(2, length))
    assert out.top_snippets.shape == (2, k, C)
    for n in range(2):
        for c in range(C):
            best = sorted(range(length), key=lambda t: -out.selection[n, t, c])[:k]
            assert set(out.top_snippets[n, :, c].tolist()) == set(best)
            torch.testing.assert_close(out.video_logits[n, c], sum(out.cas[n, t, c] for t in best) / k)


def test_a_video_does_not_depend_on_the_others_in_its_batch():
    model, _ = same_network()
    batch = features(5, 11)
    batch[1] *= 1e6  # would swamp a neighbor that it leaks into
    batch[3] *= 1e6
    with torch.no_grad():
        together = model(batch)
        for n in (0, 2, 4):
            for name, value in zip(together._fields, model(batch[n:n + 1])):
                torch.testing.assert_close(getattr(together, name)[n], value[0], msg=name)


def test_gradients_equal_those_through_torch_convolutions():
    model, layers = same_network(topk_ratio=4)
    batch = features(3, 10)
    out = model(batch)
    top = out.top_snippets

    def scalar(values, parts):  # a different weight on every entry of every output that carries a gradient
        return sum((part * torch.sin(torch.arange(part.numel(), dtype=torch.float64) + i).view_as(part)).sum()
                   for i, part in enumerate(parts)) + values.square().sum()

    slow = [slow_forward(layers, video) for video in batch]
    cas, embedding = torch.stack([s[0] for s in slow]), torch.stack([s[1] for s in slow])
    rgb, flow = (torch.stack([s[3][m] for s in slow]) for m in ('rgb', 'flow'))
    expected = scalar(cas.gather(1, top).mean(1), [
        cas, rgb, flow, cas.sum(2).sigmoid(), (rgb + flow) / 2, embedding,
        *(torch.stack([s[2][m] for s in slow]) for m in ('rgb', 'flow'))])
    found = scalar(out.video_logits, [
        out.cas, out.attention_rgb, out.attention_flow, out.actionness_aware, out.actionness_agnostic,
        out.embedding, out.embedding_rgb, out.embedding_flow])
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for name, parameter in model.named_parameters():
        layer, kind = name.removeprefix('actionness_module.').rsplit('.', 1)
        torch.testing.assert_close(parameter.grad, getattr(layers[layer.replace('.', '/')], kind).grad, msg=name)


# ---- the fast temporal convolution -----------------------------------------------------------------------------------

def conv_pair(kernel_size):
    """A TemporalConv1d and torch's Conv1d with the same weights, in float64."""
    torch.manual_seed(3)
    fast = TemporalConv1d(2 * D, H, kernel_size).double()
    slow = nn.Conv1d(2 * D, H, kernel_size, padding=kernel_size // 2).double()
    slow.load_state_dict(fast.state_dict())
    return fast, slow


@pytest.mark.parametrize('length', [1, 2, 3, 9])
@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7])
def test_the_temporal_convolution_equals_conv1d_for_any_odd_kernel(kernel_size, length):
    fast, slow = conv_pair(kernel_size)
    results = []
    for layer in (fast, slow):
        x = features(3, length).transpose(1, 2).detach().requires_grad_()
        y = layer(x)
        assert y.shape == (3, H, length)
        (y * torch.sin(torch.arange(y.numel(), dtype=torch.float64)).view(y.shape)).sum().backward()
        results.append([y, x.grad, layer.weight.grad, layer.bias.grad])
    for found, expected in zip(*results):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('kernel_size', [3, 5])
def test_gradients_of_the_temporal_convolution_equal_differences(kernel_size):
    layer, _ = conv_pair(kernel_size)
    x = features(2, 4).transpose(1, 2).requires_grad_()
    weight, bias = (value.detach().clone().requires_grad_() for value in (layer.weight, layer.bias))

    def convolve(x, weight, bias):
        return torch.func.functional_call(layer, {'weight': weight, 'bias': bias}, x)

    assert torch.autograd.gradcheck(convolve, (x, weight, bias))


def test_a_stream_of_joint_features_is_read_in_place():
    """A split of the features is not contiguous; the convolution gives the same as for a copy."""
    fast = TemporalConv1d(D, H, 3).double()
    stream = features(3, 10).transpose(1, 2).split(D, dim=1)[1]
    assert not stream.transpose(1, 2).is_contiguous()
    torch.testing.assert_close(fast(stream), fast(stream.clone(memory_format=torch.contiguous_format)))


@pytest.mark.parametrize('kernel_size', [2, 4])
def test_an_even_kernel_is_refused_when_it_is_built(kernel_size):
    with pytest.raises(ValueError, match=f'kernel_size {kernel_size}.*odd'):
        TemporalConv1d(D, H, kernel_size)


# ---- edits of the network --------------------------------------------------------------------------------------------

def edited_outputs(edit):
    """The outputs of a network before and after an edit of its modules."""
    model, _ = same_network()
    batch = features(2, 12)
    before = model(batch)
    edit(model.actionness_module)
    return before, model(batch), model


@pytest.mark.parametrize('name, edit', [
    ('dropout', lambda module: module.base_module.append(nn.Dropout(0.7))),
    ('GELU', lambda module: module.base_module.__setitem__(1, nn.GELU())),
    ('batch norm', lambda module: module.base_module.insert(1, nn.BatchNorm1d(H).double())),
    ('a deeper branch', lambda module: module.base_module.extend([TemporalConv1d(H, H, 3).double(), nn.ReLU()])),
    ('kernel 5', lambda module: module.base_module.__setitem__(0, TemporalConv1d(2 * D, H, 5).double())),
    ('a hidden classifier', lambda module: module.cls.insert(0, nn.Dropout(0.7)))])
def test_an_edited_layer_changes_the_class_scores(name, edit):
    before, after, model = edited_outputs(edit)
    assert after.cas.shape == before.cas.shape and not torch.allclose(after.cas, before.cas), name
    after.video_logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.actionness_module.base_module.parameters())


@pytest.mark.parametrize('modality', ['rgb', 'flow'])
def test_an_edited_layer_changes_the_attention_of_its_modality_only(modality):
    def edit(module):
        getattr(module, f'action_module_{modality}').append(nn.Dropout(0.7))

    before, after, _ = edited_outputs(edit)
    other = {'rgb': 'flow', 'flow': 'rgb'}[modality]
    assert not torch.allclose(getattr(after, f'attention_{modality}'), getattr(before, f'attention_{modality}'))
    assert torch.equal(getattr(after, f'attention_{other}'), getattr(before, f'attention_{other}'))
    assert torch.equal(after.cas, before.cas)


def test_conv1d_in_place_of_the_fast_convolution_gives_the_same_outputs():
    model, _ = same_network()
    batch = features(3, 10)
    expected = model(batch)
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, TemporalConv1d):
                plain = nn.Conv1d(layer.in_channels, layer.out_channels, layer.kernel_size, padding=layer.padding)
                plain.double().load_state_dict(layer.state_dict())
                setattr(module, name, plain)
    for name, found, value in zip(expected._fields, model(batch), expected):
        if name == 'top_snippets':  # their order is not defined
            assert torch.equal(found.sort(dim=1).values, value.sort(dim=1).values)
        else:
            torch.testing.assert_close(found, value, msg=name)


def test_matmuls_in_bf16_stay_near_and_gradients_keep_the_type_of_the_weights():
    exact, near = (same_network(topk_ratio=4, compute_dtype=dtype)[0].float() for dtype in (None, torch.bfloat16))
    batch = features(3, 10).float()
    for model in (exact, near):
        model(batch).video_logits.square().sum().backward()
    for (name, expected), found in zip(exact.named_parameters(), near.parameters()):
        if expected.grad is not None:
            assert found.grad.dtype == torch.float32
            largest = expected.grad.abs().max().item()
            torch.testing.assert_close(found.grad, expected.grad, rtol=0.1, atol=0.05 * largest, msg=name)
    torch.testing.assert_close(near(batch).embedding, exact(batch).embedding, rtol=0.02, atol=0.02)


def test_no_gradient_passes_through_the_choice_of_snippets():
    model, _ = same_network()
    out = model(features(2, 16))
    out.video_logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        # The attentions reach the video logits by the selection score alone.
        if 'rgb' in name or 'flow' in name:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert parameter.grad.any(), name
    assert not out.selection.requires_grad


# ---- pseudo targets -------------------------------------------------------------------------------------------------

def test_pseudo_target_is_one_where_a_snippet_is_among_the_top_of_any_of_the_labels():
    model, _ = same_network(topk_ratio=4)
    out = model(features(3, 16))
    labels = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]], dtype=torch.float64)
    targets = pseudo_labels(out, labels)
    assert not targets.requires_grad and targets.shape == (3, 16)
    for n in range(3):
        expected = set()
        for c in range(C):
            if labels[n, c]:
                expected |= set(sorted(range(16), key=lambda t: -out.selection[n, t, c])[:4])
        assert targets[n].tolist() == [float(t in expected) for t in range(16)]


# ---- mining ---------------------------------------------------------------------------------------------------------

def slow_mining(aware, agnostic):
    """One video, for each of the four sets the scores of the snippets that have one."""
    length = len(aware)
    aware_median, agnostic_median = sorted(aware)[(length - 1) // 2], sorted(agnostic)[(length - 1) // 2]
    first = [a > aware_median for a in aware]
    second = [a > agnostic_median for a in agnostic]
    action = {t: aware[t] for t in range(length)}
    background = {t: max(aware) - aware[t] for t in range(length)}
    inside = {'consistent_action': (action, [t for t in range(length) if first[t] and second[t]]),
              'consistent_background': (background, [t for t in range(length) if not first[t] and not second[t]]),
              'inconsistent_action': (action, [t for t in range(length) if first[t] != second[t]]),
              'inconsistent_background': (background, [t for t in range(length) if first[t] != second[t]])}
    return {name: {t: scores[t] for t in region if scores[t] > 0} for name, (scores, region) in inside.items()}


def scores(num_videos, length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, num_videos, length, dtype=torch.float64, generator=generator).unbind()


def check_mined(mined, aware, agnostic, num_mined):
    """Indices are valid and differ, and hold the best of each region, or all of a region that is too small."""
    assert mined._fields == (
        'consistent_action', 'consistent_background', 'inconsistent_action', 'inconsistent_background')
    for name, index in zip(mined._fields, mined):
        assert index.shape == (len(aware), num_mined) and not index.is_floating_point(), name
        for n in range(len(aware)):
            region = slow_mining(aware[n].tolist(), agnostic[n].tolist())[name]
            found = index[n].tolist()
            assert len(set(found)) == num_mined and set(found) <= set(range(aware.shape[1])), name
            best = sorted(region, key=lambda t: -region[t])[:num_mined]
            assert set(best) <= set(found), (name, n)


@pytest.mark.parametrize('length', [1, 2, 3, 10, 40, 41])
@pytest.mark.parametrize('seed', range(4))
def test_mining_equals_a_slow_loop(length, seed):
    aware, agnostic = scores(3, length, seed)
    for num_mined in {1, max(1, length // 20), max(1, length // 8), length // 2 + 1, length}:
        if num_mined <= length:
            check_mined(mine_snippets(aware, agnostic, num_mined), aware, agnostic, num_mined)


def test_regions_smaller_than_the_number_mined_are_filled_from_outside():
    # The two actionnesses agree everywhere: the inconsistent region is empty, the consistent ones hold 4 of 8 each.
    aware = torch.tensor([[.1, .2, .3, .4, .6, .7, .8, .9]])
    mined = mine_snippets(aware, aware, 6)
    check_mined(mined, aware, aware, 6)
    assert {4, 5, 6, 7} < set(mined.consistent_action[0].tolist())
    assert {0, 1, 2, 3} < set(mined.consistent_background[0].tolist())


def test_mining_ranks_by_the_class_aware_actionness_alone():
    aware, agnostic = scores(4, 30, 7)
    side = agnostic > agnostic.median(dim=1, keepdim=True).values
    other = torch.rand(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(9)) / 3
    other = torch.where(side, other + 2 / 3, other)  # other values on the same sides of the median
    for found, expected in zip(mine_snippets(aware, other, 3), mine_snippets(aware, agnostic, 3)):
        assert torch.equal(found.sort().values, expected.sort().values)


@pytest.mark.parametrize('aware, agnostic', [
    (torch.ones(2, 20), torch.ones(2, 20)), (torch.zeros(2, 20), torch.zeros(2, 20)),
    (torch.ones(2, 20), torch.rand(2, 20)), (torch.rand(2, 20), torch.zeros(2, 20)),
    (torch.ones(2, 20).index_fill(1, torch.tensor([3, 4]), 0), torch.full((2, 20), 0.5))])
def test_saturated_actionness_gives_valid_different_indices(aware, agnostic):
    check_mined(mine_snippets(aware, agnostic, 5), aware.double(), agnostic.double(), 5)


def test_nothing_is_differentiated_through_mining():
    aware, agnostic = (a.requires_grad_() for a in scores(2, 20, 0))
    assert isinstance(mine_snippets(aware, agnostic, 2), Mined)
    assert not any(index.requires_grad for index in mine_snippets(aware, agnostic, 2))


@pytest.mark.parametrize('length', [1, 2])
def test_the_shortest_sequences_pass_through_network_targets_and_mining(length):
    model, _ = same_network()
    out = model(features(2, length))
    targets = pseudo_labels(out, torch.ones(2, C, dtype=torch.float64))
    mined = mine_snippets(out.actionness_aware, out.actionness_agnostic, max(1, length // 20))
    assert targets.sum(1).ge(1).all()
    assert all(((0 <= index) & (index < length)).all() for index in mined)


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc has these thresholds')
def test_memory_freed_by_a_step_is_reused():
    """In a separate process: in this one a failed allocation may have moved later ones off the main heap."""
    code = """
import resource
import torch
from engine.runtime import configure

configure('fp32')

def pages_of(num_bytes):    # page faults of writing and freeing so much memory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(num_bytes, dtype=torch.uint8).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

piece = 100 * 2 ** 20
# The first pieces enlarge the heap; a busy system may reclaim pages at any time.
assert min(pages_of(piece) for _ in range(20)) < piece / resource.getpagesize() / 10
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('most, kept', [(2 ** 40, 2 ** 28), (2 ** 25, 2 ** 25), (2 ** 19, None)])
def test_an_older_libc_gets_the_largest_threshold_it_accepts(monkeypatch, most, kept):
    """Without an mmap threshold the trim threshold is not set: allocations above 128 kB would be mapped each time."""
    set_to = {}

    def mallopt(parameter, value):
        accepted = parameter == M_TRIM_THRESHOLD or value <= most
        if accepted:
            set_to[parameter] = value
        return int(accepted)

    monkeypatch.setattr('engine.runtime.ctypes.CDLL', lambda name: SimpleNamespace(mallopt=mallopt))
    tune_malloc()
    assert set_to.get(M_MMAP_THRESHOLD) == kept
    assert (M_TRIM_THRESHOLD in set_to) == (kept is not None)


# ---- what a precision gains -----------------------------------------------------------------------------------------

CPU, GPU = torch.device('cpu'), torch.device('cuda')


def speed_of(bf16):
    """A stand-in for the trial: fp32 runs at 100 FLOP/s, bf16 at so many."""
    return lambda dtype, device: {torch.float32: 100., torch.bfloat16: bf16}[dtype]


@pytest.mark.parametrize('device', [CPU, GPU])
def test_bf16_is_suggested_for_large_steps_on_a_device_where_it_is_faster(device):
    hint, = suggest_precision('fp32', device, 2 * LARGE_STEP, speed_of(280))
    assert '--precision bf16' in hint and '2.8 times' in hint
    for too_little in (120, 100, 1):
        assert suggest_precision('fp32', device, 2 * LARGE_STEP, speed_of(too_little)) == []
    assert suggest_precision('fp32', device, LARGE_STEP / 2, None) == []  # and nothing is measured
    assert suggest_precision('bf16', device, 2 * LARGE_STEP, None) == []


def test_bf16_is_refused_where_it_is_slower_than_fp32():
    with pytest.raises(InputError, match='--precision bf16.*0.02 times the speed of fp32.*leave it out'):
        check_precision('bf16', CPU, speed_of(2))
    check_precision('bf16', CPU, speed_of(400))


def test_tf32_is_refused_on_a_cpu_and_nothing_is_measured_for_it_or_for_fp64():
    with pytest.raises(InputError, match='--precision tf32'):
        check_precision('tf32', CPU, speed=None)
    for precision, device in (('tf32', GPU), ('fp64', CPU), ('fp32', CPU)):
        check_precision(precision, device, speed=None)


def test_the_speed_measurement_changes_neither_threads_nor_random_numbers():
    before = torch.get_num_threads(), torch.get_rng_state()
    assert matmul_speed(torch.float32, CPU) > 0
    assert torch.get_num_threads() == before[0] and torch.equal(torch.get_rng_state(), before[1])
