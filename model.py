"""The AICL network, its pseudo labels and its snippet mining (sections 3.2 and 3.3 and figure 2 of the paper).

    outputs = AICL(1024, 20, 512, fusion_weight=1 / 3, topk_ratio=8)(features)    # features (N, T, 2048), RGB first
    mined = mine_snippets(outputs.actionness_aware, outputs.actionness_agnostic, num_mined=T // 20)

Notation of the paper, and where it is here (a snippet is the paper's segment):

    f, f_R, f_F        base_module, action_module_rgb, action_module_flow    embeddings
    cls, cls_R, cls_F  cls, cls_rgb, cls_flow                                classifier, attentions
    A_ca, A            actionness_aware, actionness_agnostic                 actionness of the two branches
    A_score, gamma     selection, fusion_weight                              score that selects and localizes snippets
    k, K               T // topk_ratio, num_mined                            snippets pooled per class, mined per set
    CA, CB, IA, IB     the fields of Mined                                   consistent and inconsistent snippets

Shapes: N videos, T snippets, C classes, M modalities, D features per modality, H hidden width. Layers take (N,
channels, T), as nn.Conv1d does; everything else is (N, T, ...).
"""
import argparse
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from config import MODALITIES


class Outputs(NamedTuple):
    """Network outputs for a batch; fields of an unused modality are None."""

    cas: Tensor                    # (N, T, C) class activation sequence: class logits of every snippet
    attention_rgb: Tensor | None   # (N, T) in [0, 1]
    attention_flow: Tensor | None  # (N, T) in [0, 1]
    actionness_aware: Tensor       # (N, T) A_ca, of the class-aware branch
    actionness_agnostic: Tensor    # (N, T) A, of the class-agnostic branch
    selection: Tensor              # (N, T, C) A_score
    video_logits: Tensor           # (N, C)
    top_snippets: Tensor           # (N, k, C) indices of the k snippets per class with the largest A_score
    embedding: Tensor              # (N, T, H) f
    embedding_rgb: Tensor | None   # (N, T, H) f_R
    embedding_flow: Tensor | None  # (N, T, H) f_F


class Mined(NamedTuple):
    """Four sets of K snippet indices, each (N, K)."""

    consistent_action: Tensor        # CA
    consistent_background: Tensor    # CB
    inconsistent_action: Tensor      # IA
    inconsistent_background: Tensor  # IB


class ActionnessModule(nn.Module):
    """Class-aware branch and one attention per modality, under the released parameter names."""

    def __init__(self, feature_dim: int, num_classes: int, hidden_dim: int, modalities: tuple[str, ...]):
        super().__init__()
        self.modalities, self.feature_dim = modalities, feature_dim
        # quirk: no dropout is applied; the released code creates such layers and never calls them
        # The order of creation determines the initial values; it is that of the released code.
        self.base_module = nn.Sequential(TemporalConv1d(len(modalities) * feature_dim, hidden_dim, 3), nn.ReLU())
        self.cls = nn.Sequential(TemporalConv1d(hidden_dim, num_classes, 1))
        for modality in modalities:
            setattr(self, f'action_module_{modality}',
                    nn.Sequential(TemporalConv1d(feature_dim, hidden_dim, 3), nn.ReLU()))
            setattr(self, f'cls_{modality}', TemporalConv1d(hidden_dim, 1, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Return embedding (N, H, T), CAS (N, C, T), and per modality embeddings (N, H, T) and attentions (N, T).

        x (N, M D, T), as nn.Conv1d takes it.
        """
        embedding = self.base_module(x)
        cas = self.cls(embedding)
        embeddings, attentions = {}, {}
        for modality, stream in zip(self.modalities, x.split(self.feature_dim, dim=1), strict=True):
            embeddings[modality] = getattr(self, f'action_module_{modality}')(stream)
            logits = getattr(self, f'cls_{modality}')(embeddings[modality])
            attentions[modality] = torch.sigmoid(logits).squeeze(1)
        return embedding, cas, embeddings, attentions


class AICL(nn.Module):
    """The two-branch network (section 3.2 of the paper).

    feature_dim: D; fusion_weight: gamma; topk_ratio: k = T // topk_ratio; compute_dtype: dtype of the features,
    and so of the matmuls of the first convolution of each branch; unchanged if None.
    """

    def __init__(self, feature_dim: int, num_classes: int, hidden_dim: int, fusion_weight: float, topk_ratio: int,
                 modalities: tuple[str, ...] = MODALITIES['all'], compute_dtype: torch.dtype | None = None):
        super().__init__()
        self.actionness_module = ActionnessModule(feature_dim, num_classes, hidden_dim, modalities)
        self.fusion_weight, self.topk_ratio, self.compute_dtype = fusion_weight, topk_ratio, compute_dtype

    def forward(self, features: Tensor) -> Outputs:
        """Return the outputs for features (N, T, M D), RGB first."""
        x = features.transpose(1, 2)
        embedding, cas, embeddings, attentions = self.actionness_module(x.to(self.compute_dtype or x.dtype))
        cas = cas.transpose(1, 2)
        aware = torch.sigmoid(cas.sum(dim=2))
        agnostic = torch.stack(list(attentions.values())).mean(dim=0)

        # Pool the k snippets of each class with the largest A_score into its video-level logit.
        with torch.no_grad():
            selection = self.fusion_weight * F.softmax(cas, dim=2) + (1 - self.fusion_weight) * agnostic.unsqueeze(2)
            k = max(1, features.shape[1] // self.topk_ratio)
            top_snippets = selection.topk(k, dim=1, sorted=False).indices
        video_logits = cas.gather(1, top_snippets).mean(dim=1)

        embeddings = {modality: value.transpose(1, 2) for modality, value in embeddings.items()}
        return Outputs(cas, attentions.get('rgb'), attentions.get('flow'), aware, agnostic, selection, video_logits,
                       top_snippets, embedding.transpose(1, 2), embeddings.get('rgb'), embeddings.get('flow'))


@torch.no_grad()
def pseudo_labels(outputs: Outputs, labels: Tensor) -> Tensor:
    """Return (N, T) in {0, 1}: 1 where a snippet is among the top k of any of the video's labels (N, C)."""
    is_top = torch.zeros_like(outputs.cas).scatter_(1, outputs.top_snippets, 1.0)  # (N, T, C)
    return (is_top * labels.unsqueeze(1)).amax(dim=2)


@torch.no_grad()
def mine_snippets(aware: Tensor, agnostic: Tensor, num_mined: int) -> Mined:
    """Mine consistent and inconsistent snippets from A_ca and A, (N, T) each (section 3.3 of the paper).

    Each is binarized at its own median over time. Equal scores are taken in temporal order.
    """
    actionness = torch.stack([aware, agnostic])
    aware_on, agnostic_on = actionness > actionness.median(dim=2, keepdim=True).values  # A_ca^bin, A^bin
    inconsistent = aware_on != agnostic_on
    # quirk: both rankings are by A_ca alone, and a set with fewer than K members is filled from outside, where all
    # scores are 0
    action, background = aware, aware.amax(dim=1, keepdim=True) - aware
    scores = torch.stack([action * (aware_on & agnostic_on),       # CA
                          background * ~(aware_on | agnostic_on),  # CB
                          action * inconsistent,                   # IA
                          background * inconsistent])              # IB
    return Mined(*scores.sort(dim=2, descending=True, stable=True).indices[..., :num_mined])


class NetworkOptions(NamedTuple):
    """What determines the network besides the feature width and the number of classes."""

    hidden_dim: int              # H
    fusion_weight: float         # gamma
    topk_ratio: int              # k = T // topk_ratio
    modalities: tuple[str, ...]  # ('rgb', 'flow'), or one of them
    precision: str               # 'fp32', 'tf32', 'bf16' (of the temporal convolutions) or 'fp64'

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> 'NetworkOptions':
        """Pick the options from the command line."""
        modalities = MODALITIES[args.modal or 'all']
        return cls(args.hidden_dim, args.fusion_weight, args.topk_ratio, modalities, args.precision)


def build_network(options: NetworkOptions, feature_dim: int, num_classes: int, device: torch.device) -> AICL:
    """Build the network with torch's default initialization from the global generator, in float32, then convert it.

    Its parameters are in float64 for 'fp64', otherwise in float32, on `device`.
    """
    network = AICL(feature_dim, num_classes, options.hidden_dim, options.fusion_weight, options.topk_ratio,
                   options.modalities, torch.bfloat16 if options.precision == 'bf16' else None)
    return network.to(device, torch.float64 if options.precision == 'fp64' else torch.float32)


# ---- the fast temporal convolution ----------------------------------------------------------------------------------

class TemporalConv1d(nn.Conv1d):
    """Convolution over time with zero padding: nn.Conv1d, computed as one matmul per tap for the whole batch.

    Replace by `nn.Conv1d(..., padding=kernel_size // 2)` to read or to compare; the parameters are the same. Faster
    because the features (N, T, D) stay as they are in memory. The matmuls are in the dtype of the input, everything
    else in that of the weight.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        if kernel_size % 2 == 0:
            raise ValueError(f'kernel_size {kernel_size}: must be odd, so that the output has as many snippets')
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        # One tap after the other in memory, each a contiguous matrix (H, D), for its matmul and for its gradient.
        self.weight.data = self.weight.data.permute(2, 0, 1).contiguous().permute(1, 2, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, H, T) for x (N, D, T), both views of a contiguous (N, T, *)."""
        return TapMatmuls.apply(x.transpose(1, 2), self.weight, self.bias).transpose(1, 2)


class TapMatmuls(torch.autograd.Function):
    """Forward and backward of `TemporalConv1d`: x (N, T, D), weight (H, D, taps), bias (H,) -> (N, T, H)."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the convolution."""
        ctx.save_for_backward(x, weight)
        output = bias.to(x.dtype).expand(*x.shape[:2], -1).contiguous()
        for shift, tap in taps_of(weight.to(x.dtype), x.shape[1]):
            add_shifted(output, x, tap.t(), shift)
        return output.to(weight.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Return the gradients of x (if needed), weight and bias."""
        x, weight = ctx.saved_tensors
        grad_bias = grad.sum(dim=(0, 1))
        grad = grad.to(x.dtype, copy=True, memory_format=torch.contiguous_format)
        grad_weight = torch.zeros_like(weight, dtype=x.dtype)
        for shift, tap in taps_of(grad_weight, x.shape[1]):
            edge = edge_snippets(grad, shift)
            kept = edge.clone()
            edge.zero_()
            rows, read = shifted_rows(grad, x, shift)
            torch.mm(rows.t(), read, out=tap)
            edge.copy_(kept)
        grad_x = None
        if ctx.needs_input_grad[0]:  # not for the features themselves
            grad_x = torch.zeros_like(x, memory_format=torch.contiguous_format)
            for shift, tap in taps_of(weight.to(x.dtype), x.shape[1]):
                add_shifted(grad_x, grad, tap, -shift)
        return grad_x, grad_weight.to(weight.dtype), grad_bias


def taps_of(weight: Tensor, num_snippets: int) -> list[tuple[int, Tensor]]:
    """Return (shift, matrix (H, D)) for every tap that reaches a snippet: output t reads input t + shift."""
    middle = weight.shape[2] // 2
    return [(tap - middle, weight[..., tap]) for tap in range(weight.shape[2]) if abs(tap - middle) < num_snippets]


def shifted_rows(output: Tensor, x: Tensor, shift: int) -> tuple[Tensor, Tensor]:
    """Return the rows of output (N, T, H) and of x (N, T, D) that a tap connects, both flattened over the batch."""
    output, x = output.flatten(0, 1), x.flatten(0, 1)
    end = len(x) - abs(shift)
    return output[max(0, -shift):][:end], x[max(0, shift):][:end]


def edge_snippets(output: Tensor, shift: int) -> Tensor:
    """Return the snippets of each video that a tap would connect with the padding, flattened with another video."""
    return output[:, :-shift] if shift < 0 else output[:, output.shape[1] - shift:]


def add_shifted(output: Tensor, x: Tensor, matrix: Tensor, shift: int) -> None:
    """Add x[:, t + shift] @ matrix to output[:, t], in place; outside of each video x is zero."""
    edge = edge_snippets(output, shift)
    kept = edge.clone()
    rows, read = shifted_rows(output, x, shift)
    rows.addmm_(read, matrix)
    edge.copy_(kept)
