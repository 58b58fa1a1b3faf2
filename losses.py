"""The loss terms of AICL and their weighted total (section 3 of the paper; the released code's constants)."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1    # of every contrastive term


class LossWeights(NamedTuple):
    """Weights of the consistency and contrastive terms; the other terms count once."""
    modality: float
    contrast: float
    action: float


class Losses(NamedTuple):
    """Every term of one step as a scalar tensor, in the order of losses.csv. `total` is the one to differentiate."""
    total: Tensor
    mil: Tensor
    gce_rgb: Tensor
    gce_flow: Tensor
    modality_consistency: Tensor
    action_consistency: Tensor
    contrastive_joint: Tensor
    contrastive_rgb: Tensor
    contrastive_flow: Tensor


def multiple_instance(video_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of video logits (N, C) and the normalised multi-hot labels (N, C); every video has a label."""
    target = labels / labels.sum(dim=1, keepdim=True) + 1e-10    # quirk: the epsilon comes after the division
    return -(target * F.log_softmax(video_logits, dim=1)).sum(dim=1).mean()


def generalized_cross_entropy(attention: Tensor, target: Tensor, q: float) -> Tensor:
    """Noise-tolerant cross entropy of attentions (..., N, T) in [0, 1] against pseudo targets (N, T) in {0, 1}: (...).

    Action and background snippets are averaged apart, so that neither outweighs the other
    (Zhang and Sabuncu, NeurIPS 2018, in the form of ASL).
    """
    score = torch.stack([attention, 1 - attention], dim=-3)    # (..., 2, N, T)
    mask = torch.stack([target, 1 - target])                   # (2, N, T)
    # quirk: the reference counts snippets in float32, whatever the precision; from 2 on the epsilon is lost there
    count = mask.sum(dim=-1).float() + 1e-7
    sides = (mask * (1 - (score + 1e-7) ** q) / q).sum(dim=-1) / count
    return sides.sum(dim=-2).mean(dim=-1)


def contrastive(embeddings: Sequence[Tensor], mined) -> Tensor:
    """The four contrastive (InfoNCE) terms on each of E embeddings (N, T, H), summed: (E,).

    `mined` holds four index sets (N, K): consistent action (CA) and background (CB), inconsistent action (IA) and
    background (IB). The means of CA and IA are each other's key with CB as negatives, those of CB and IB with CA.
    """
    index = torch.cat(mined, dim=1).unsqueeze(-1).expand(-1, -1, embeddings[0].shape[-1])
    snippets = torch.stack([embedding.gather(1, index) for embedding in embeddings])      # (E, N, 4 K, H)
    # From here on 2 + 2: consistent and inconsistent ones, each of action and of background.
    snippets = snippets.unflatten(2, (2, 2, -1))                                           # (E, N, 2, 2, K, H)
    means = F.normalize(snippets.mean(dim=4), dim=-1)                                      # (E, N, 2, 2, H)
    negatives = F.normalize(snippets[:, :, 0], dim=-1)                                     # (E, N, 2, K, H)

    queries = means.transpose(2, 3).flip(2)    # background beside the negatives of action and the other way round
    positive = (queries[..., 0, :] * queries[..., 1, :]).sum(dim=-1)                       # (E, N, 2)
    logits = torch.cat([positive[..., None, None].expand(-1, -1, -1, 2, 1),
                        queries @ negatives.transpose(-1, -2)], dim=-1) / TEMPERATURE      # (E, N, 2, 2, 1 + K)
    return -F.log_softmax(logits, dim=-1)[..., 0].sum(dim=(2, 3)).mean(dim=1)


def aicl_losses(outputs, mined, labels: Tensor, pseudo_targets: Tensor, weights: LossWeights, q: float) -> Losses:
    """All terms and their weighted total for one batch.

    `outputs` are the network's (see model.Outputs), `mined` its index sets, `labels` (N, C) multi-hot,
    `pseudo_targets` (N, T) in {0, 1}. Terms of a modality that the network does not have are zero.
    """
    zero = outputs.cas.new_zeros(())

    def there(parts: list[Tensor | None]) -> list[Tensor]:
        return [part for part in parts if part is not None]

    def term_of_each(parts: list[Tensor | None], terms: Tensor) -> list[Tensor]:
        found = iter(terms)
        return [zero if part is None else next(found) for part in parts]

    attentions = [outputs.attention_rgb, outputs.attention_flow]
    embeddings = [outputs.embedding, outputs.embedding_rgb, outputs.embedding_flow]
    mil = multiple_instance(outputs.video_logits, labels)
    gce_rgb, gce_flow = term_of_each(
        attentions, generalized_cross_entropy(torch.stack(there(attentions)), pseudo_targets, q))
    modality = F.mse_loss(*attentions) if len(there(attentions)) == 2 else zero
    action = F.mse_loss(outputs.actionness_aware, outputs.actionness_agnostic)
    joint, rgb, flow = term_of_each(embeddings, contrastive(there(embeddings), mined))
    total = (mil + gce_rgb + gce_flow + weights.modality * modality + weights.contrast * (joint + rgb + flow)
             + weights.action * action)
    return Losses(total, mil, gce_rgb, gce_flow, modality, action, joint, rgb, flow)
