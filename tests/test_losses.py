"""Every loss term against its formula written out in loops, and where its gradients go."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from losses import Losses, LossWeights, aicl_losses, generalized_cross_entropy, info_nce_loss, mil_loss
from model import AICL, Mined, mine_snippets, pseudo_labels

N, T, C, H, K = 3, 10, 4, 5, 2
RNG = np.random.RandomState


def tensor(values):
    return torch.tensor(np.asarray(values), dtype=torch.float64)


# ---- the formulas, written out in loops -----------------------------------------------------------------------------

def slow_mil(logits, labels):
    total = 0.0
    for z, y in zip(logits, labels):
        norm = math.log(sum(math.exp(v) for v in z))
        total -= sum((label / sum(y) + 1e-10) * (v - norm) for v, label in zip(z, y))
    return total / len(logits)


def slow_gce(attention, target, q):
    total = 0.0
    for a, g in zip(attention, target):
        action = sum(gt * (1 - (at + 1e-7) ** q) / q for at, gt in zip(a, g)) / (sum(g) + 1e-7)
        background = (sum((1 - gt) * (1 - (1 - at + 1e-7) ** q) / q for at, gt in zip(a, g))
                      / (sum(1 - gt for gt in g) + 1e-7))
        total += action + background
    return total / len(attention)


def slow_mse(a, b):
    return sum((x - y) ** 2 for x, y in zip(np.ravel(a), np.ravel(b))) / np.size(a)


def slow_info_nce(query, key, negatives):
    """One video: query and key (H,), negatives (K, H)."""
    def unit(v):
        return v / math.sqrt(sum(x * x for x in v))

    def similarity(other):
        return math.exp(sum(unit(query) * unit(other)) / 0.1)

    return -math.log(similarity(key) / (similarity(key) + sum(similarity(n) for n in negatives)))


def slow_contrastive(embedding, mined):
    total = 0.0
    for n in range(len(embedding)):
        snippets = {name: embedding[n][getattr(mined, field)[n]] for name, field in (
            ('CA', 'consistent_action'), ('CB', 'consistent_background'),
            ('IA', 'inconsistent_action'), ('IB', 'inconsistent_background'))}
        for query, key, negatives in (('IA', 'CA', 'CB'), ('IB', 'CB', 'CA'), ('CA', 'IA', 'CB'), ('CB', 'IB', 'CA')):
            total += slow_info_nce(snippets[query].mean(0), snippets[key].mean(0), snippets[negatives])
    return total / len(embedding)


# ---- a batch of network outputs made up -----------------------------------------------------------------------------

def make_batch(seed=0):
    rng = RNG(seed)
    values = SimpleNamespace(
        cas=rng.randn(N, T, C), video_logits=3 * rng.randn(N, C),
        attention_rgb=rng.rand(N, T), attention_flow=rng.rand(N, T),
        actionness_aware=rng.rand(N, T), actionness_agnostic=rng.rand(N, T), embedding=rng.rand(N, T, H),
        embedding_rgb=rng.rand(N, T, H), embedding_flow=rng.rand(N, T, H))
    labels = np.array([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0]], float)
    targets = (rng.rand(N, T) < 0.4).astype(float)
    mined = Mined(*(np.stack([rng.permutation(T)[:K] for _ in range(N)]) for _ in Mined._fields))
    return values, labels, targets, mined


def leaves(values):
    return SimpleNamespace(**{name: tensor(value).requires_grad_() for name, value in vars(values).items()})


def indices(mined):
    return Mined(*map(torch.from_numpy, mined))


WEIGHTS = LossWeights(modality=5, contrast=0.01, action=0.1)  # of the paper


def all_losses(outputs, labels, targets, mined, weights=WEIGHTS, q=0.7):
    return aicl_losses(outputs, indices(mined), tensor(labels), tensor(targets), weights, q)


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('q', [0.7, 0.3, 1.0])
def test_every_term_and_the_total_equal_their_formulas(seed, q):
    values, labels, targets, mined = make_batch(seed)
    losses = all_losses(leaves(values), labels, targets, mined, LossWeights(2, 3, 7), q=q)
    expected = {
        'mil': slow_mil(values.video_logits, labels),
        'gce_rgb': slow_gce(values.attention_rgb, targets, q), 'gce_flow': slow_gce(values.attention_flow, targets, q),
        'modality_consistency': slow_mse(values.attention_rgb, values.attention_flow),
        'action_consistency': slow_mse(values.actionness_aware, values.actionness_agnostic),
        'contrastive_joint': slow_contrastive(values.embedding, mined),
        'contrastive_rgb': slow_contrastive(values.embedding_rgb, mined),
        'contrastive_flow': slow_contrastive(values.embedding_flow, mined)}
    for name, value in expected.items():
        assert getattr(losses, name).item() == pytest.approx(value, rel=1e-7), name
    assert losses.total.item() == pytest.approx(
        expected['mil'] + expected['gce_rgb'] + expected['gce_flow'] + 2 * expected['modality_consistency']
        + 3 * (expected['contrastive_joint'] + expected['contrastive_rgb'] + expected['contrastive_flow'])
        + 7 * expected['action_consistency'], rel=1e-7)


def test_the_total_is_the_weighted_sum():
    values, labels, targets, mined = make_batch()
    losses = all_losses(leaves(values), labels, targets, mined)
    contrast = losses.contrastive_joint + losses.contrastive_rgb + losses.contrastive_flow
    torch.testing.assert_close(losses.total, losses.mil + losses.gce_rgb + losses.gce_flow
                               + 5 * losses.modality_consistency + 0.01 * contrast + 0.1 * losses.action_consistency)
    torch.testing.assert_close(losses.gce_rgb, generalized_cross_entropy(
        tensor(values.attention_rgb), tensor(targets), 0.7))


def test_terms_stand_in_the_order_of_the_header_of_losses_csv():
    assert ','.join(Losses._fields) == ('total,mil,gce_rgb,gce_flow,modality_consistency,action_consistency,'
                                        'contrastive_joint,contrastive_rgb,contrastive_flow')


# ---- multiple-instance loss -----------------------------------------------------------------------------------------

def test_epsilon_of_the_targets_is_added_after_the_division():
    # log_softmax is about (-log 2, -log 2, -1e9): the class that is not there weighs 1e-10, whatever their number.
    loss = mil_loss(tensor([[0, 0, -1e9]]), tensor([[1, 1, 0]]))
    assert loss.item() == pytest.approx(math.log(2) + 0.1, abs=1e-6)


def test_video_logits_of_any_size_give_a_finite_loss():
    loss = mil_loss(torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]]))
    assert loss.item() == pytest.approx(2e4, rel=1e-5)


# ---- generalized cross entropy --------------------------------------------------------------------------------------

@pytest.mark.parametrize('target', [0.0, 1.0])
@pytest.mark.parametrize('attention', [0.0, 1.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_saturated_attention_and_one_sided_targets_give_finite_losses_and_gradients(attention, target, dtype):
    a = torch.full((2, T), attention, dtype=dtype, requires_grad=True)
    loss = generalized_cross_entropy(a, torch.full((2, T), target, dtype=dtype), 0.7)
    loss.backward()
    # Only the side that has snippets counts: 0 where the attention agrees, (1 - eps^q) / q where it does not.
    expected = 0 if attention == target else (1 - 1e-7 ** 0.7) / 0.7
    assert loss.item() == pytest.approx(expected, abs=3e-7)
    assert torch.isfinite(a.grad).all()


def test_action_and_background_snippets_are_averaged_apart():
    # One action snippet missed of ten costs as much as all of nine background snippets missed.
    target = torch.zeros(1, T, dtype=torch.float64)
    target[0, 0] = 1
    nothing, everything = torch.zeros_like(target), torch.ones_like(target)
    assert float(generalized_cross_entropy(nothing, target, 0.7)) == pytest.approx(
        float(generalized_cross_entropy(everything, target, 0.7)), rel=1e-5)


# ---- consistency ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('term, first, second', [
    ('modality_consistency', 'attention_rgb', 'attention_flow'),
    ('action_consistency', 'actionness_aware', 'actionness_agnostic')])
def test_gradients_reach_both_sides_of_a_consistency_term(term, first, second):
    values, labels, targets, mined = make_batch()
    outputs = leaves(values)
    getattr(all_losses(outputs, labels, targets, mined), term).backward()
    a, b = getattr(values, first), getattr(values, second)
    np.testing.assert_allclose(getattr(outputs, first).grad, 2 * (a - b) / a.size)
    np.testing.assert_allclose(getattr(outputs, second).grad, 2 * (b - a) / a.size)


# ---- contrastive terms ----------------------------------------------------------------------------------------------

def test_query_and_key_are_normalised_after_the_mean_and_each_negative_by_itself():
    values, _, _, mined = make_batch()
    embedding = values.embedding * np.logspace(-2, 2, T)[:, None]  # long snippets outweigh short ones in a mean only
    expected = slow_contrastive(embedding, mined)
    assert float(info_nce_loss([tensor(embedding)], indices(mined))) == pytest.approx(expected, rel=1e-10)


def one_hot_batch(like_action, like_background):
    """One video of four snippets, one mined of each: consistent action along axis 0, consistent background along 1."""
    embedding = torch.zeros(1, 4, 3, dtype=torch.float64)
    embedding[0, 0, 0] = embedding[0, 1, 1] = embedding[0, 2, like_action] = embedding[0, 3, like_background] = 1
    mined = Mined(consistent_action=torch.tensor([[0]]), consistent_background=torch.tensor([[1]]),
                  inconsistent_action=torch.tensor([[2]]), inconsistent_background=torch.tensor([[3]]))
    return embedding, mined


def term(positive, negative):
    return -math.log(math.exp(positive / 0.1) / (math.exp(positive / 0.1) + math.exp(negative / 0.1)))


@pytest.mark.parametrize('like_action, like_background, terms', [
    # cosine of query and key, and of query and negative, in (IA, CA, CB), (IB, CB, CA), (CA, IA, CB), (CB, IB, CA)
    (0, 1, [(1, 0), (1, 0), (1, 0), (1, 0)]),
    (1, 0, [(0, 1), (0, 1), (0, 0), (0, 0)]),
    (2, 1, [(0, 0), (1, 0), (0, 0), (1, 0)]),
    (0, 2, [(1, 0), (0, 0), (1, 0), (0, 0)]),
    (1, 1, [(0, 1), (1, 0), (0, 0), (1, 0)]),
    (0, 0, [(1, 0), (0, 1), (1, 0), (0, 0)])])
def test_each_of_the_four_terms_draws_inconsistent_snippets_to_the_consistent_ones_of_their_kind(
        like_action, like_background, terms):
    embedding, mined = one_hot_batch(like_action, like_background)
    assert float(info_nce_loss([embedding], mined)) == pytest.approx(sum(term(*pair) for pair in terms), rel=1e-10)


def test_gradients_reach_the_mined_snippets_and_no_others():
    values, labels, targets, mined = make_batch()
    outputs = leaves(values)
    all_losses(outputs, labels, targets, mined).contrastive_rgb.backward()
    used = np.zeros((N, T), bool)
    for index in mined:
        np.put_along_axis(used, index, True, axis=1)
    assert (outputs.embedding_rgb.grad.abs().sum(-1).numpy() > 0).tolist() == used.tolist()
    assert not outputs.embedding.grad.any() and not outputs.embedding_flow.grad.any()


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_embeddings_of_zero_give_a_finite_loss_and_gradient(dtype):
    _, _, _, mined = make_batch()
    embedding = torch.zeros(N, T, H, dtype=dtype, requires_grad=True)  # as a ReLU leaves them where nothing fires
    loss = info_nce_loss([embedding], indices(mined))
    loss.backward()
    assert loss.item() == pytest.approx(4 * math.log(1 + K), rel=1e-6)  # all similarities are 0
    assert torch.isfinite(embedding.grad).all()


# ---- a single modality ----------------------------------------------------------------------------------------------

def test_terms_of_a_missing_modality_are_zero():
    values, labels, targets, mined = make_batch()
    outputs = leaves(values)
    outputs.attention_flow = outputs.embedding_flow = None
    losses = all_losses(outputs, labels, targets, mined)
    assert losses.gce_flow.item() == losses.contrastive_flow.item() == losses.modality_consistency.item() == 0
    assert losses.gce_rgb.item() > 0 and losses.contrastive_rgb.item() > 0
    losses.total.backward()
    assert outputs.attention_rgb.grad.any()


# ---- the whole step -------------------------------------------------------------------------------------------------

def test_a_step_takes_no_value_from_its_device_and_brings_none_from_another():
    device = torch.device('meta')  # holds no values: whatever would make the host wait for a GPU raises here
    model = AICL(H, C, H, fusion_weight=1 / 3, topk_ratio=8).to(device)
    labels = torch.ones(N, C, device=device)
    outputs = model(torch.ones(N, 40, 2 * H, device=device))
    mined = mine_snippets(outputs.actionness_aware, outputs.actionness_agnostic, K)
    losses = aicl_losses(outputs, mined, labels, pseudo_labels(outputs, labels), WEIGHTS, 0.7)
    losses.total.backward()
    assert {loss.device for loss in losses} == {p.grad.device for p in model.parameters()} == {device}
    with pytest.raises(RuntimeError, match='meta'):
        losses.total.item()
    with pytest.raises(RuntimeError, match='meta'):
        outputs.cas + torch.ones(N, 40, C)
