"""One training step and one forward pass, alone, against the matrix products that they cannot do without."""
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.table import Row, Times, take_turns, timed
from benchmarks.workloads import ACTIVITYNET, THUMOS14, Size
from dataset import Batch
from engine.runtime import matmul_speed
from model import ActionnessModule
from engine.trainer import Trainer, trainer_options

STEP_TARGETS = {('thumos14', 'fp32'): '<= 1.25 x'}    # of all others 1.5 x
FORWARD_TARGET = '<= 1.15 x'


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


def make_training(size: Size, device: torch.device, *flags: str, convolutions: bool = False) -> Trainer:
    """A training as main.py makes it with these flags; with `convolutions` its network computes by Conv1d layers."""
    args = size.arguments(*flags)
    training = Trainer(trainer_options(vars(args)), size.feature_dim, size.num_classes,
                        [args.num_segments] * args.batch_size, device)
    if convolutions:
        training.network.actionness_module.__class__ = ConvolutionModule    # the same parameters
        for parameter in training.network.parameters():    # as such layers have them in memory
            parameter.data = parameter.data.contiguous()
    return training


def make_batch(size: Size, device: torch.device) -> Batch:
    """One batch that lies on the device."""
    args, generator = size.arguments(), torch.Generator().manual_seed(0)
    features = torch.rand(args.batch_size, args.num_segments, 2 * size.feature_dim, generator=generator)
    labels = F.one_hot(torch.arange(args.batch_size) % size.num_classes, size.num_classes).float()
    return Batch(features.to(device), labels.to(device), list(range(args.batch_size)), 1.)


def forward_pass(training: Trainer, batch: Batch) -> Callable[[], object]:
    return torch.inference_mode()(lambda: training.network(batch.features))


def products(size: Size, device: torch.device, precision: str = 'fp32') -> dict[str, Callable[[], object]]:
    """A quarter of a step's arithmetic each: half a forward pass and half the weight gradients, each as one product.

    The operands lie as in the network: (N T, 3D) @ (2H, 3D)^T forward, (N T, 2H)^T @ (N T, 3D) for the gradients.
    """
    args, dtype = size.arguments(), torch.bfloat16 if precision == 'bf16' else torch.float32
    rows, width, hidden = args.batch_size * args.num_segments, 3 * size.feature_dim, 2 * args.hidden_dim
    features, weights, gradient = (torch.rand(shape, device=device, dtype=dtype)
                                   for shape in ((rows, width), (hidden, width), (rows, hidden)))
    return {'product': lambda: torch.mm(features, weights.t()), 'gradient': lambda: torch.mm(gradient.t(), features)}


def precisions(device: torch.device) -> tuple[str, ...]:
    """Those that main.py takes on this device, without fp64."""
    if device.type == 'cuda':
        return 'fp32', 'tf32', 'bf16'
    has_bf16 = matmul_speed(torch.bfloat16, device) > matmul_speed(torch.float32, device)
    return ('fp32', 'bf16') if has_bf16 else ('fp32',)


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def repeated(call: Callable[[], object], times: int) -> Callable[[], int]:
    """So many calls one after the other, as a training loop issues them: nothing waits in between."""
    def calls() -> int:
        for _ in range(times):
            call()
        return times

    return calls


def step(data: object, rounds: int, device: torch.device, sizes: tuple[Size, ...] = (THUMOS14, ACTIVITYNET)
         ) -> list[Row]:
    """The training step and the forward pass of both recipes in every precision of the device."""
    return [row for size in sizes for precision in precisions(device)
            for row in step_rows(size, precision, rounds, device)]


def step_rows(size: Size, precision: str, rounds: int, device: torch.device) -> list[Row]:
    """One recipe in one precision, and beside it by Conv1d layers or, on a GPU, without a recording."""
    batch, name = make_batch(size, device), f'{size.dataset}, {precision}'
    flags, calls = ('--precision', precision), products(size, device, precision)
    trainings = {'own': make_training(size, device, *flags)}
    if device.type == 'cuda':    # what a run has after its first steps
        for _ in range(3):
            trainings['own'].step(batch)
        trainings['kernel by kernel'] = make_training(size, device, *flags)
        trainings['kernel by kernel'].records = False
    elif precision == 'fp32':
        trainings['by `Conv1d` layers'] = make_training(size, device, convolutions=True)
    for variant, training in trainings.items():
        calls[variant] = partial(training.step, batch)
        if variant == 'own' or device.type == 'cpu':    # on a GPU no forward pass is recorded
            calls[f'{variant} forward'] = forward_pass(training, batch)
    if device.type == 'cuda':
        calls = {what: repeated(call, 20) for what, call in calls.items()}
    times = take_turns(calls, rounds, synchronize)
    forward, gradients = times['product'].times(2), times['gradient'].times(2)
    whole = Times(*(np.add(a, b).tolist() for a, b in zip(forward, gradients)))
    rows = [timed(f'training step, {name}; limit: its products by `torch.mm`', times['own'], whole,
                  STEP_TARGETS.get((size.dataset, precision), '<= 1.5 x'), size.elsewhere),
            timed(f'forward pass, {name}; limit: its products by `torch.mm`', times['own forward'], forward,
                  FORWARD_TARGET)]
    for variant in list(trainings)[1:]:
        rows.append(timed(f'training step, {name}, {variant}', times[variant], whole))
        if f'{variant} forward' in times:
            rows.append(timed(f'forward pass, {name}, {variant}', times[f'{variant} forward'], forward))
    return rows
