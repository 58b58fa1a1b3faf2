"""The loss terms of AICL and their weighted total (section 3 of the paper; the released code's constants)."""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1    # of every contrastive term


class LossWeights(NamedTuple):
    """Weights of the consistency and contrastive terms; the other terms count once."""
    modality: float = 5.0
    contrast: float = 0.01
    action: float = 0.1


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


def generalized_cross_entropy(attention: Tensor, target: Tensor, q: float = 0.7) -> Tensor:
    """Noise-tolerant cross entropy of an attention (N, T) in [0, 1] against pseudo targets (N, T) in {0, 1}.

    Action and background snippets are averaged apart, so that neither outweighs the other
    (Zhang and Sabuncu, NeurIPS 2018, in the form of ASL).
    """
    def side(score: Tensor, mask: Tensor) -> Tensor:
        # quirk: the reference counts snippets in float32, whatever the precision; from 2 on the epsilon is lost there
        count = mask.sum(dim=1).float() + 1e-7
        return (mask * (1 - (score + 1e-7) ** q) / q).sum(dim=1) / count

    return (side(attention, target) + side(1 - attention, 1 - target)).mean()


def contrastive(embedding: Tensor, mined) -> Tensor:
    """The four contrastive (InfoNCE) terms on one embedding (N, T, H), summed.

    `mined` holds four index sets (N, K): consistent action (CA) and background (CB), inconsistent action (IA) and
    background (IB). The means of CA and IA are each other's key with CB as negatives, those of CB and IB with CA.
    """
    index = torch.stack(mined, dim=1)                                                     # (N, 4, K)
    snippets = embedding.gather(1, index.flatten(1).unsqueeze(-1).expand(-1, -1, embedding.shape[-1]))
    snippets = snippets.unflatten(1, index.shape[1:])                                     # (N, 4, K, H)
    action, background, like_action, like_background = F.normalize(snippets.mean(dim=2), dim=-1).unbind(dim=1)
    action_negatives, background_negatives = F.normalize(snippets[:, :2], dim=-1).unbind(dim=1)    # (N, K, H)

    loss = 0
    for consistent, inconsistent, negatives in ((action, like_action, background_negatives),
                                                (background, like_background, action_negatives)):
        positive = (consistent * inconsistent).sum(dim=1, keepdim=True)                   # (N, 1)
        for query in (inconsistent, consistent):
            logits = torch.cat([positive, torch.einsum('nh,nkh->nk', query, negatives)], dim=1) / TEMPERATURE
            loss = loss + (torch.logsumexp(logits, dim=1) - logits[:, 0]).mean()
    return loss


def aicl_losses(outputs, mined, labels: Tensor, pseudo_targets: Tensor, weights: LossWeights, q: float = 0.7) -> Losses:
    """All terms and their weighted total for one batch.

    `outputs` are the network's (see model.Outputs), `mined` its index sets, `labels` (N, C) multi-hot,
    `pseudo_targets` (N, T) in {0, 1}. Terms of a modality that the network does not have are zero.
    """
    zero = outputs.cas.new_zeros(())

    def attention_loss(attention: Tensor | None) -> Tensor:
        return zero if attention is None else generalized_cross_entropy(attention, pseudo_targets, q)

    def contrast(embedding: Tensor | None) -> Tensor:
        return zero if embedding is None else contrastive(embedding, mined)

    mil = multiple_instance(outputs.video_logits, labels)
    gce_rgb, gce_flow = attention_loss(outputs.attention_rgb), attention_loss(outputs.attention_flow)
    both = outputs.attention_rgb is not None and outputs.attention_flow is not None
    modality = F.mse_loss(outputs.attention_rgb, outputs.attention_flow) if both else zero
    action = F.mse_loss(outputs.actionness_aware, outputs.actionness_agnostic)
    joint, rgb, flow = (contrast(e) for e in (outputs.embedding, outputs.embedding_rgb, outputs.embedding_flow))
    total = (mil + gce_rgb + gce_flow + weights.modality * modality + weights.contrast * (joint + rgb + flow)
             + weights.action * action)
    return Losses(total, mil, gce_rgb, gce_flow, modality, action, joint, rgb, flow)
