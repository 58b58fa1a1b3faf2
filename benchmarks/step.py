"""One training step and one forward pass, alone: what the speed of the network is measured with."""
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.workloads import Size
from losses import LossWeights, aicl_losses
from model import AICL, ActionnessModule, mine, pseudo_targets


class ConvolutionModule(ActionnessModule):
    """The same network by Conv1d layers, as it is usually written and as the reference computes it."""

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        x = features.transpose(1, 2)                    # (N, M D, T)
        embedding, embeddings, attentions = self.base_module(x), {}, {}
        for part, modality in zip(x.chunk(len(self.modalities), dim=1), self.modalities):
            own = getattr(self, f'action_module_{modality}')(part)
            attentions[modality] = torch.sigmoid(getattr(self, f'cls_{modality}')(own)).squeeze(1)
            embeddings[modality] = own.transpose(1, 2)
        return embedding.transpose(1, 2), self.cls(embedding).transpose(1, 2), embeddings, attentions


def make_network(size: Size, device: torch.device, precision: str = 'fp32', convolutions: bool = False) -> AICL:
    """The network in one of main.py's precisions; with `convolutions` by Conv1d layers."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
    model = AICL(size.feature_dim, size.num_classes, size.hidden_dim,
                 product_dtype=torch.bfloat16 if precision == 'bf16' else None)
    if convolutions:
        model.actionness_module.__class__ = ConvolutionModule
    return model.to(device)


def make_batch(size: Size, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features (N, T, 2D) and labels (N, C) of one batch, on the device."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(size.batch_size, size.num_segments, 2 * size.feature_dim, generator=generator)
    labels = F.one_hot(torch.arange(size.batch_size) % size.num_classes, size.num_classes).float()
    return features.to(device), labels.to(device)


def training_step(model: AICL, features: Tensor, labels: Tensor, compiled: bool = False) -> Callable[[], Tensor]:
    """A function that takes one step as the training loop does: forward, losses, backward, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=5e-4, fused=True)
    num_mined = max(1, features.shape[1] // 20)

    def losses_of(features: Tensor, labels: Tensor) -> Tensor:
        outputs = model(features)
        mined = mine(outputs.actionness_aware, outputs.actionness_agnostic, num_mined)
        return aicl_losses(outputs, mined, labels, pseudo_targets(outputs, labels), LossWeights())

    losses_of = torch.compile(losses_of) if compiled else losses_of

    def step() -> Tensor:
        losses = losses_of(features, labels)
        optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        optimizer.step()
        return torch.stack(losses).detach()

    return step


def forward_pass(model: AICL, features: Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def forward() -> None:
        model(features)

    return forward


def product(size: Size, device: torch.device, precision: str = 'fp32', gradient: bool = False) -> Callable[[], None]:
    """A plain matrix product of a quarter of a step's arithmetic: (N T, 3D) @ (3D, 2H), twice a forward pass.

    With `gradient` that of a weight gradient, (3D, N T) @ (N T, 2H), also twice a step.
    """
    dtype = torch.bfloat16 if precision == 'bf16' else torch.float32
    rows, width = size.batch_size * size.num_segments, 3 * size.feature_dim
    left = torch.rand(rows, width, device=device, dtype=dtype)
    right = torch.rand(rows if gradient else width, 2 * size.hidden_dim, device=device, dtype=dtype)
    left = left.t() if gradient else left

    def multiply() -> None:
        torch.set_float32_matmul_precision('high' if precision == 'tf32' else 'highest')
        torch.mm(left, right)

    return multiply
