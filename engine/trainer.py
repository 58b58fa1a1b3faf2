"""The trainer and the training loop.

    trainer = Trainer(options, feature_dim=1024, num_classes=20, lengths=train_set.lengths, device=device)
    for batch in trainer.batches(train_set):  # or batches made by the caller, without `lengths`
        terms = trainer.step(batch)

For another two-branch method, override `Trainer.compute_losses`.
"""
import argparse
import gc
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dataset import Batch, Shard, ShuffledSampler, VideoDataset, make_loader
from engine.checkpoint import TrainingState, is_dense, load_weights
from engine.runtime import (
    Distributed,
    StopSignal,
    get_rng_state,
    get_sampler_rng_state,
    seed_everything,
    set_rng_state,
    set_sampler_rng_state,
)
from losses import Losses, LossWeights, aicl_losses
from model import AICL, NetworkOptions, build_network, mine_snippets, pseudo_labels
from utils import InputError, pace, print_line, progress, show_details, truncate, warn

if TYPE_CHECKING:
    from tqdm import tqdm

CHECKPOINT_SECONDS = 60  # between two checkpoints, at least
LATE_STEP_OFFSET = 10 ** 6  # steps and epochs, after which any schedule has changed


class TrainerOptions(NamedTuple):
    """What a training is made of besides its data."""

    network: NetworkOptions
    loss_weights: LossWeights
    num_segments: int    # T, snippets sampled per video
    contrast_ratio: int  # K = T // contrast_ratio snippets are mined per set
    q_val: float         # q of the generalized cross entropy
    batch_size: int      # videos per step, over all processes
    drop_last: bool      # drop the last, smaller batch of an epoch
    lr: float
    weight_decay: float  # L2, inside Adam
    seed: int
    cuda_graphs: bool = True  # replay steps as CUDA graphs, on one GPU

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> 'TrainerOptions':
        """Pick the options from the command line; the flag of a loss weight X is lambda_X."""
        weights = LossWeights(*(getattr(args, f'lambda_{name}') for name in LossWeights._fields))
        return cls(NetworkOptions.from_args(args), weights, *(getattr(args, name) for name in cls._fields[2:]))


@dataclass
class LoopState:
    """Position of a training, and the random states at the start of the epoch, from which its order can be redrawn."""

    step: int = 0
    epoch: int = 0
    batch_in_epoch: int = 0
    epoch_start: dict = field(default_factory=dict)        # of torch's and Python's generators
    sampler_rng_start: list = field(default_factory=list)  # of the generator that draws rows


class GraphedStep:
    """CUDA graph of forward, losses and backward for one batch shape.

    In tf32 and bf16 a GPU runs the hundreds of kernels of a step faster than the CPU launches them. `loss_fn` maps
    features (N, T, M D) and labels (N, C) to Losses; it has run before, so that everything is initialized. Raises
    RuntimeError where it cannot be captured or the intermediate values do not fit.
    """

    def __init__(self, loss_fn: Callable[[Tensor, Tensor], Losses], parameters: list[nn.Parameter], features: Tensor,
                 labels: Tensor):
        self.parameters, self.features, self.labels = parameters, features.clone(), labels.clone()
        for parameter in parameters:  # allocate their gradients in the graph
            parameter.grad = None
        gc.collect()  # a graph freed during capture would invalidate it
        self.graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self.graph, capture_error_mode='thread_local'):  # other threads may pin memory
                losses = loss_fn(self.features, self.labels)
                losses.total.backward()
                self.terms = torch.stack(losses).detach()
        finally:
            torch.cuda.set_stream(stream)  # a failed capture leaves its own one in place
        self.gradients = [parameter.grad for parameter in parameters]

    def replay(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the loss terms of a batch, in the order of `Losses`, and set the parameters' gradients."""
        self.features.copy_(features, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.terms.clone()  # the next replay overwrites this buffer


class Trainer:
    """The network, its optimizer, and everything else that a step changes.

    lengths: snippets L of each training video, for `batches`; unset where the caller makes them. With several processes
    each takes its `shard` of every batch, weighted so that the gradients are those of the whole batch. Raises
    InputError where the videos do not fill a batch.
    """

    can_capture = True  # until a capture fails in this process, which may train more than once

    def __init__(self, options: TrainerOptions, feature_dim: int, num_classes: int, lengths: list[int] | None = None,
                 device: torch.device = torch.device('cpu'), shard: Shard = Shard()):
        self.options, self.shard, self.device, self.loop = options, shard, device, LoopState()
        # Seeded before the network and again before the first batch, as in the reference.
        seed_everything(options.seed)
        self.network = build_network(options.network, feature_dim, num_classes, device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=options.lr, weight_decay=options.weight_decay,
                                          fused=True)
        seed_everything(options.seed)
        lengths = [1] * options.batch_size if lengths is None else lengths
        self.sampler = ShuffledSampler(lengths, options.num_segments, options.batch_size, options.drop_last,
                                       np.random.RandomState(options.seed), shard)
        if not len(self.sampler):
            raise InputError(f'--batch_size {options.batch_size} is more than the {len(lengths)} training videos; '
                             f'lower it or add --no-drop_last')
        self.dtype = next(self.network.parameters()).dtype
        self.num_mined = max(1, options.num_segments // options.contrast_ratio)  # K
        self.ddp_model = self.network if shard.count == 1 else DistributedDataParallel(self.network)
        self.use_cuda_graphs = (options.cuda_graphs and Trainer.can_capture and device.type == 'cuda' and
                                shard.count == 1)
        self.graphs: dict[tuple[int, ...], GraphedStep | None] = {}  # by batch shape; None: seen once

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self.sampler)

    @property
    def step_flops(self) -> float:
        """FLOP of the matmuls of a step, about: forward, and backward to the weights."""
        rows = self.options.num_segments * self.options.batch_size / self.shard.count
        return 4 * rows * sum(parameter.numel() for parameter in self.network.parameters())

    def compute_losses(self, features: Tensor, labels: Tensor) -> Losses:
        """Return all loss terms for features (N, T, M D) with multi-hot labels (N, C)."""
        outputs = self.ddp_model(features)
        mined = mine_snippets(outputs.actionness_aware, outputs.actionness_agnostic, self.num_mined)
        targets = pseudo_labels(outputs, labels)
        return aicl_losses(outputs, mined, labels, targets, self.options.loss_weights, self.options.q_val)

    def step(self, batch: Batch) -> Tensor:
        """Take an optimizer step; return the loss terms as in `Losses`, weighted by this shard, on the device.

        Does not synchronize with the device, except once per batch shape to capture it.
        """
        terms = self.graph_step(batch) if self.use_cuda_graphs else None
        if terms is None:
            terms = self.eager_step(batch)
        self.optimizer.step()
        self.loop.step += 1
        self.loop.batch_in_epoch += 1
        return terms

    def eager_step(self, batch: Batch) -> Tensor:
        """Return the loss terms of a batch, and compute the gradients."""
        features = batch.features.to(self.device, self.dtype, non_blocking=True)
        labels = batch.labels.to(self.device, self.dtype, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.compute_losses(features, labels)
        (losses.total * (batch.weight * self.shard.count)).backward()  # DDP averages the gradients
        return torch.stack(losses).detach() * batch.weight

    def graph_step(self, batch: Batch) -> Tensor | None:
        """Return the loss terms, and compute the gradients, with the CUDA graph of this batch shape; None without one.

        It is captured at the second batch of a shape.
        """
        shape = tuple(batch.features.shape)
        if shape not in self.graphs:
            self.graphs[shape] = None
            return None
        graph = self.graphs[shape]
        if graph is None:
            features = batch.features.to(self.device, self.dtype)
            labels = batch.labels.to(self.device, self.dtype)
            rng = get_rng_state()
            try:
                self.check_capturable(features, labels)
                graph = GraphedStep(self.compute_losses, list(self.network.parameters()), features, labels)
            except Exception as error:  # of any kind: where the loss itself is wrong, the eager step raises again
                set_rng_state(rng)
                self.use_cuda_graphs = Trainer.can_capture = False
                self.graphs = {}
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                warn(f'steps are not replayed as CUDA graphs, which is slower: {truncate(reason, 150)} (see '
                     f'docs/developers.md; --no-cuda_graphs turns them off)')
                return None
            self.graphs[shape] = graph
        return graph.replay(batch.features, batch.labels)

    def check_capturable(self, features: Tensor, labels: Tensor) -> None:
        """Raise RuntimeError where a replayed step would not be an eager one.

        That is where it waits for the device, of which a failed capture might leave torch in an undefined state, or
        where the loss depends on a Python number that changes, as a schedule or a random number of the CPU: a graph
        contains the number of its capture. Two steps that differ only in these are compared; neither has an effect.
        """
        rng, loop, terms = get_rng_state(), self.loop, []
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        try:
            for later in (0, LATE_STEP_OFFSET):
                torch.cuda.set_rng_state_all(rng['cuda'])  # a graph draws new numbers of the GPU
                self.loop = replace(loop, step=loop.step + later, epoch=loop.epoch + later)
                with warnings.catch_warnings(action='ignore'):  # that this mode is experimental
                    torch.cuda.set_sync_debug_mode('error')
                losses = self.compute_losses(features, labels)
                losses.total.backward()
                torch.cuda.set_sync_debug_mode('default')
                terms.append(torch.stack(losses).detach())
        finally:
            torch.cuda.set_sync_debug_mode('default')
            self.loop = loop
            for buffer, value in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(value)
            set_rng_state(rng)
        if not torch.allclose(terms[0], terms[1], rtol=1e-3, equal_nan=True):
            raise RuntimeError('the loss depends on the step, the epoch or random numbers of the CPU')

    def batches(self, train_set: VideoDataset, num_workers: int = 0) -> Iterator[Batch]:
        """Yield batches epoch after epoch, without end, from the current position."""
        loop = self.loop
        while True:
            now = None
            if loop.batch_in_epoch:  # resumed: redraw the order and rows of this epoch, and skip what is done
                now = get_rng_state()
                set_rng_state(loop.epoch_start)
                set_sampler_rng_state(self.sampler.rng, loop.sampler_rng_start)
                self.sampler.skip_batches(loop.batch_in_epoch)
            else:
                loop.epoch_start = get_rng_state()
                loop.sampler_rng_start = get_sampler_rng_state(self.sampler.rng)
            for batch in make_loader(train_set, self.sampler, num_workers, self.device.type == 'cuda'):
                if now:
                    set_rng_state(now)
                    now = None
                yield batch
            if now:
                set_rng_state(now)
            loop.epoch, loop.batch_in_epoch = loop.epoch + 1, 0

    def check_finite(self) -> None:
        """Raise InputError where a step has made a parameter NaN or infinite."""
        for name, value in self.network.state_dict().items():
            if not torch.isfinite(value).all():
                raise InputError(f'step {self.loop.step}: {name} is not finite; this step is not saved; lower --lr')

    # ---- state ------------------------------------------------------------------------------------------------------

    def state(self) -> TrainingState:
        """Return everything that `restore` needs."""
        return TrainingState(vars(self.loop), get_rng_state(), self.network.state_dict(), self.optimizer.state_dict())

    def restore(self, state: TrainingState, best: dict | None = None) -> None:
        """Restore a `state`, bit for bit on a CPU; raises InputError where it or `best` does not match this trainer."""
        if best is not None:
            load_weights(self.network, best, 'checkpoint.pt')  # only to check them
        load_weights(self.network, state.model, 'checkpoint.pt')
        try:
            self.loop = LoopState(**state.loop)
            step, epoch, batch = self.loop.step, self.loop.epoch, self.loop.batch_in_epoch
            if step != epoch * self.steps_per_epoch + batch or not 0 <= batch <= self.steps_per_epoch:
                raise ValueError(f'step {step} is not batch {batch} of epoch {epoch}')
            if batch:
                set_sampler_rng_state(np.random.RandomState(), self.loop.sampler_rng_start)
                set_rng_state(self.loop.epoch_start)
            parameters, moments_of = list(self.network.parameters()), state.optimizer['state']
            for i, moments in moments_of.items():
                check_structure(moments, {'step': torch.tensor(0.), 'exp_avg': parameters[i],
                                          'exp_avg_sq': parameters[i]})
            groups = self.optimizer.state_dict()['param_groups']
            self.optimizer.load_state_dict({'state': moments_of, 'param_groups': groups})
            for parameter, moments in self.optimizer.state.items():  # in the memory layout of their parameter
                for name in ('exp_avg', 'exp_avg_sq'):
                    moments[name] = torch.empty_like(parameter).copy_(moments[name])
            set_rng_state(state.rng)
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(f'checkpoint.pt: does not match this training ({error}); start again with '
                             f'--overwrite') from None


def check_structure(value: dict, expected: dict[str, Tensor]) -> None:
    """Raise ValueError where the names, shapes or dtypes of tensors are not as expected."""
    if value.keys() != expected.keys():
        raise ValueError(f'optimizer: {list(value)} instead of {list(expected)}')
    for name, tensor in expected.items():
        if not is_dense(value[name]) or (value[name].shape, value[name].dtype) != (tensor.shape, tensor.dtype):
            raise ValueError(f'optimizer: {name} is not {tensor.dtype} of shape {tuple(tensor.shape)}')


# ---- the loop -------------------------------------------------------------------------------------------------------

class LossRow(NamedTuple):
    """The loss terms of a step, in the order of `Losses`."""

    step: int
    epoch: int
    terms: list[float]


class LossBuffer:
    """Losses that stay on the device until they are fetched together, so that no step waits for them."""

    def __init__(self) -> None:
        self.pending: list[tuple[int, int, Tensor, list[int]]] = []  # step, epoch, terms, videos

    def add(self, step: int, epoch: int, terms: Tensor, videos: list[int]) -> None:
        """Append the loss terms of a step, and the videos of its batch."""
        self.pending.append((step, epoch, terms, videos))

    def flush(self, names: list[str]) -> tuple[list[LossRow], InputError | None]:
        """Return the pending rows up to the first step with a non-finite term, and the error for that one."""
        pending, self.pending = self.pending, []
        values = torch.stack([terms for _, _, terms, _ in pending]).tolist() if pending else []
        rows = [LossRow(step, epoch, row) for (step, epoch, _, _), row in zip(pending, values, strict=True)]
        first_nonfinite = next((i for i, row in enumerate(rows) if not all(map(math.isfinite, row.terms))), None)
        if first_nonfinite is None:
            return rows, None
        terms = dict(zip(Losses._fields[1:], rows[first_nonfinite].terms[1:], strict=True))
        term = next((name for name, value in terms.items() if not math.isfinite(value)), 'total')
        videos = ', '.join(names[v] for v in pending[first_nonfinite][3])
        return rows[:first_nonfinite], InputError(
            f'step {rows[first_nonfinite].step}: the loss term {term} is not finite, on the videos {videos}; the '
            f'weights saved before are kept; lower --lr and check the features of these videos')


class Logger(Protocol):
    """What the loop needs of engine.run_folder.RunLogger."""

    results: dict[str, dict]
    new_evaluations: list[tuple[int, float, float]]

    def log_losses(self, rows: list[LossRow]) -> None:
        """Log loss terms."""

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint."""


class Evaluations(AbstractContextManager, Protocol):
    """What the loop needs of engine.inference.AsyncEvaluator."""

    def submit(self, step: int, epoch: int, network: AICL) -> None:
        """Evaluate the current weights."""

    def poll(self, wait: bool) -> None:
        """Log finished evaluations."""


def fit(trainer: Trainer, train_set: VideoDataset, num_steps: int, evaluations: Evaluations, logger: Logger | None,
        distributed: Distributed, eval_interval: int, log_every: int, num_workers: int) -> int:
    """Train up to step `num_steps`, with evaluations and checkpoints; return the signal that ended it early, else 0.

    `eval_interval` 0 evaluates only at the end. `logger` is None on all ranks but the first.
    """
    loop, batches, losses = trainer.loop, trainer.batches(train_set, num_workers), LossBuffer()
    total_losses: dict[int, float] = {}  # of the evaluated steps
    last_log = last_save = time.monotonic()
    bar = progress(total=num_steps, initial=loop.step, desc='training', unit='step', delay=0, leave=True,
                   disable=logger is None)
    with StopSignal() as stop, bar, evaluations:
        while loop.step < num_steps:
            # One step. Nothing here waits for the device.
            batch = next(batches)
            with distributed.waiting():  # DDP averages gradients
                terms = trainer.step(batch)
            losses.add(loop.step, loop.epoch, distributed.all_reduce_sum(terms), batch.videos)
            bar.update()

            is_last = loop.step == num_steps
            eval_due = eval_interval > 0 and loop.step % eval_interval == 0
            is_sync_step = distributed.world_size == 1 or loop.step % 10 == 0
            stopped_by = distributed.all_reduce_max(stop.number) if is_sync_step else 0
            save_due = is_last or bool(stopped_by) or time.monotonic() - last_save > CHECKPOINT_SECONDS

            # Fetch and log the losses, once per second.
            if is_last or eval_due or save_due or time.monotonic() - last_log > 1:
                total_loss = log_losses(losses, train_set.names, logger, log_every, bar)
                last_log = time.monotonic()
            if is_last or eval_due or save_due:
                trainer.check_finite()

            # Evaluate. Scoring continues in a thread during the next steps.
            if is_last or eval_due:
                rng, total_losses[loop.step] = get_rng_state(), total_loss
                evaluations.submit(loop.step, loop.epoch, trainer.network)
                if not eval_due:  # only because it is the last step: a longer run draws nothing here
                    set_rng_state(rng)
            evaluations.poll(wait=save_due)

            if save_due:
                if logger:
                    logger.save(trainer.state())
                last_save = time.monotonic()
            if logger:
                print_evaluations(logger, total_losses, bar)
            if stopped_by and not is_last:
                return stopped_by
    return 0


def log_losses(losses: LossBuffer, names: list[str], logger: Logger | None, log_every: int, bar: 'tqdm') -> float:
    """Fetch losses from the device and log them; return the newest loss.

    Raises InputError at the first step with a non-finite one.
    """
    rows, error = losses.flush(names)
    if logger:
        logger.log_losses([row for row in rows if row.step % log_every == 0])
    if error:
        raise error
    newest = dict(zip(Losses._fields, rows[-1].terms, strict=True))
    if logger:
        contrast = sum(value for name, value in newest.items() if name.startswith('contrastive'))
        details = [f'{pace(bar)[0]:.3g} s/step', f'loss {newest["total"]:.3f}', f'mil {newest["mil"]:.3f}',
                   f'consistency {newest["action_consistency"]:.3f}', f'contrast {contrast:.3f}']
        mean_ap = logger.results.get('last', {}).get('average_mAP')
        if mean_ap is not None:
            details.insert(0, f'mAP {100 * mean_ap:.2f}')
        show_details(bar, details)
    return newest['total']


def print_evaluations(logger: Logger, total_losses: dict[int, float], bar: 'tqdm') -> None:
    """Print a line for each new evaluation."""
    evaluations, logger.new_evaluations = logger.new_evaluations, []
    for step, mean_ap, best in evaluations:
        seconds, remaining = pace(bar)
        print_line(f'step {step}/{bar.total}, {remaining} left, mAP {100 * mean_ap:.2f} (best {100 * best:.2f}), '
                   f'{seconds:.3g} s/step, loss {total_losses.pop(step):.3f}')
