"""The loss terms of AICL and their weighted total (section 3 of the paper; the released code's constants)."""
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.1  # tau of the contrastive terms


class LossWeights(NamedTuple):
    """Weights of the consistency and contrastive terms; the other terms have weight 1.

    In the comments the symbol and the value of the supplement.
    """

    modality: float  # gamma_2, 5
    contrast: float  # gamma_1, 0.01
    action: float    # gamma_3, 0.1


class Losses(NamedTuple):
    """Loss terms of one step as scalar tensors, in the order of losses.csv; `total` is the one to differentiate."""

    total: Tensor
    mil: Tensor
    gce_rgb: Tensor
    gce_flow: Tensor
    modality_consistency: Tensor
    action_consistency: Tensor
    contrastive_joint: Tensor
    contrastive_rgb: Tensor
    contrastive_flow: Tensor


def mil_loss(video_logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross entropy of video logits (N, C) and multi-hot labels (N, C), normalized to a sum of 1."""
    target = labels / labels.sum(dim=1, keepdim=True) + 1e-10  # quirk: the epsilon is added after the division
    return -(target * F.log_softmax(video_logits, dim=1)).sum(dim=1).mean()


def generalized_cross_entropy(attention: Tensor, target: Tensor, q: float) -> Tensor:
    """Return the generalized cross entropy of attentions (..., N, T) and pseudo labels (N, T) in {0, 1}: (...).

    Robust to noisy labels (Zhang and Sabuncu, NeurIPS 2018; in the form of ASL). Action and background snippets are
    averaged separately, so that neither outweighs the other.
    """
    score = torch.stack([attention, 1 - attention], dim=-3)  # (..., 2, N, T)
    mask = torch.stack([target, 1 - target])                 # (2, N, T)
    # quirk: snippets are counted in float32 in any precision, so from a count of 2 on the epsilon is lost
    count = mask.sum(dim=-1).float() + 1e-7
    per_class_terms = (mask * (1 - (score + 1e-7) ** q) / q).sum(dim=-1) / count  # of action and of background
    return per_class_terms.sum(dim=-2).mean(dim=-1)


def info_nce_loss(embeddings: Sequence[Tensor], mined) -> Tensor:
    """Return the contrastive loss of each of E embeddings (N, T, H): (E,) (section 3.3 of the paper).

    `mined` holds the index sets CA, CB, IA, IB, (N, K) each (see model.Mined). Query and key are normalized means
    over a set, each negative is normalized by itself:

        query    IA  CA  IB  CB
        key      CA  IA  CB  IB
        negative CB  CB  CA  CA
    """
    sets = (mined.consistent_action, mined.consistent_background,                     # CA, CB
            mined.inconsistent_action, mined.inconsistent_background)                 # IA, IB
    index = torch.cat(sets, dim=1).unsqueeze(-1).expand(-1, -1, embeddings[0].shape[-1])
    snippets = torch.stack([embedding.gather(1, index) for embedding in embeddings])  # (E, N, 4 K, H)
    snippets = snippets.unflatten(2, (4, -1))                                         # (E, N, 4, K, H)
    CA, CB, IA, IB = F.normalize(snippets.mean(dim=3), dim=-1).unbind(dim=2)          # means, (E, N, H) each
    each_CA, each_CB = F.normalize(snippets[:, :, :2], dim=-1).unbind(dim=2)          # (E, N, K, H) each

    query = torch.stack([IA, CA, IB, CB], dim=2)  # (E, N, 4, H)
    key = torch.stack([CA, IA, CB, IB], dim=2)
    positive = (query * key).sum(dim=-1, keepdim=True)  # (E, N, 4, 1)
    negative = torch.cat([query[:, :, :2] @ each_CB.transpose(-1, -2),
                          query[:, :, 2:] @ each_CA.transpose(-1, -2)], dim=2)  # (E, N, 4, K)
    logits = torch.cat([positive, negative], dim=-1) / TEMPERATURE
    return -F.log_softmax(logits, dim=-1)[..., 0].sum(dim=2).mean(dim=1)


def aicl_losses(outputs, mined, labels: Tensor, pseudo_labels: Tensor, weights: LossWeights, q: float) -> Losses:
    """Return all loss terms and their weighted total for one batch.

    `outputs` (model.Outputs), `mined` (model.Mined), `labels` (N, C) multi-hot, `pseudo_labels` (N, T) in {0, 1}.
    Terms of a modality that the network does not use are zero.
    """
    zero = outputs.cas.new_zeros(())

    def present(parts: list[Tensor | None]) -> list[Tensor]:
        return [part for part in parts if part is not None]

    def zero_if_absent(parts: list[Tensor | None], terms: Tensor) -> list[Tensor]:
        term = iter(terms)
        return [zero if part is None else next(term) for part in parts]

    attentions = [outputs.attention_rgb, outputs.attention_flow]
    embeddings = [outputs.embedding, outputs.embedding_rgb, outputs.embedding_flow]

    mil = mil_loss(outputs.video_logits, labels)
    gce_rgb, gce_flow = zero_if_absent(
        attentions, generalized_cross_entropy(torch.stack(present(attentions)), pseudo_labels, q))
    modality = F.mse_loss(*attentions) if len(present(attentions)) == 2 else zero
    action = F.mse_loss(outputs.actionness_aware, outputs.actionness_agnostic)
    joint, rgb, flow = zero_if_absent(embeddings, info_nce_loss(present(embeddings), mined))
    total = (mil + gce_rgb + gce_flow + weights.modality * modality + weights.contrast * (joint + rgb + flow)
             + weights.action * action)
    return Losses(total, mil, gce_rgb, gce_flow, modality, action, joint, rgb, flow)
