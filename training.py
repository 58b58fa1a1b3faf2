"""A training: the network, its optimiser, the order of its batches, and what makes it repeatable.

    training = Training(options, feature_dim=1024, num_classes=20, lengths=train_set.lengths, device=device)
    for batch in training.batches(train_set):
        terms = training.step(batch)

`state` and `restore` carry a training from one process to the next, bit for bit on CPU. What a method of this family
does differently in a step is in `Training.losses`.
"""
import gc
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dataset import Batch, Share, ShuffledSampler, VideoDataset, loader
from losses import Losses, LossWeights, aicl_losses
from model import (NetworkOptions, build_network, find_fault, is_plain, load_weights, mine, network_options,
                   pseudo_targets)
from utils import InputError, pick


class TrainingOptions(NamedTuple):
    """What a training is made of besides its data."""
    network: NetworkOptions
    loss_weights: LossWeights
    num_segments: int      # T, snippets sampled from a video
    contrast_ratio: int    # K = T // contrast_ratio snippets are mined a set
    q_val: float           # q of generalized cross entropy
    batch_size: int        # videos a step, of all processes together
    drop_last: bool        # leave out the last, smaller batch of an epoch
    lr: float
    weight_decay: float    # L2, inside Adam
    seed: int


def training_options(values: Mapping[str, Any]) -> TrainingOptions:
    """The options that the flags of these names and values ask for; a loss weight X is that of the flag lambda_X."""
    weights = LossWeights(**{name: values[f'lambda_{name}'] for name in LossWeights._fields})
    return pick(TrainingOptions, values, network=network_options(values), loss_weights=weights)


@dataclass
class Progress:
    """How far a training is, and the random states from which this epoch's order and rows can be drawn again."""
    step: int = 0
    epoch: int = 0
    position: int = 0                                  # batches of this epoch that are done
    epoch_start: dict = field(default_factory=dict)    # of torch's and Python's generators
    rows_start: list = field(default_factory=list)     # of the generator that draws the rows


class TrainingState(NamedTuple):
    """What a training goes on from, as tensors and plain values."""
    progress: dict     # the fields of `Progress`
    random: dict       # see `random_state`
    model: dict        # the network's parameters
    optimizer: dict    # Adam's own


class Recording:
    """Loss terms and gradients of the batches of one shape, recorded on a GPU and played as one piece.

    Below fp32 a GPU computes the hundreds of kernels of a step in less time than a processor takes to launch them.
    `measure` maps features (N, T, M D) and labels (N, C) to `Losses`; it has been called before, so that all that it
    needs is loaded. Raises torch.OutOfMemoryError where there is no room for what lies between the kernels.
    """

    def __init__(self, measure: Callable[[Tensor, Tensor], Losses], parameters: list[nn.Parameter], features: Tensor,
                 labels: Tensor):
        self.parameters, self.features, self.labels = parameters, features.clone(), labels.clone()
        for parameter in parameters:    # their gradients are then the recording's own
            parameter.grad = None
        gc.collect()    # an earlier recording that is let go while this one is made would spoil it
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode='thread_local'):    # others may pin memory meanwhile
            losses = measure(self.features, self.labels)
            losses.total.backward()
            self.terms = torch.stack(losses).detach()
        self.gradients = [parameter.grad for parameter in parameters]

    def play(self, features: Tensor, labels: Tensor) -> Tensor:
        """The terms of `Losses` (9,) of a batch, whose gradients the parameters then have."""
        self.features.copy_(features, non_blocking=True)
        self.labels.copy_(labels, non_blocking=True)
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients):
            parameter.grad = gradient
        return self.terms.clone()    # the next one is played over it


class Training:
    """The network and all that a step changes.

    lengths: snippets L of each training video. Of several processes each takes its `share` of every batch, weighted so
    that the gradients are those of the whole batch. Raises InputError where the videos do not make a batch.
    """

    def __init__(self, options: TrainingOptions, feature_dim: int, num_classes: int, lengths: list[int],
                 device: torch.device, share: Share = Share()):
        self.options, self.share, self.device, self.progress = options, share, device, Progress()
        # Seeded before the network and again before the first batch, as the reference is.
        seed_everything(options.seed)
        self.network = build_network(options.network, feature_dim, num_classes, device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=options.lr, weight_decay=options.weight_decay,
                                          fused=True)
        seed_everything(options.seed)
        self.sampler = ShuffledSampler(lengths, options.num_segments, options.batch_size, options.drop_last,
                                       np.random.RandomState(options.seed), share)
        if not len(self.sampler):
            raise InputError(f'--batch_size {options.batch_size} is more than the {len(lengths)} training videos; '
                             f'lower it or add --no-drop_last')
        self.dtype = next(self.network.parameters()).dtype
        self.num_mined = max(1, options.num_segments // options.contrast_ratio)
        self.forward = self.network if share.count == 1 else DistributedDataParallel(self.network)
        self.records = device.type == 'cuda' and share.count == 1
        self.recordings: dict[tuple[int, ...], Recording | None] = {}    # by the batch's shape; None: seen once

    @property
    def steps_per_epoch(self) -> int:
        return len(self.sampler)

    def losses(self, features: Tensor, labels: Tensor) -> Losses:
        """All loss terms of features (N, T, M D) with multi-hot labels (N, C)."""
        outputs = self.forward(features)
        mined = mine(outputs.actionness_aware, outputs.actionness_agnostic, self.num_mined)
        targets = pseudo_targets(outputs, labels)
        return aicl_losses(outputs, mined, labels, targets, self.options.loss_weights, self.options.q_val)

    def step(self, batch: Batch) -> Tensor:
        """Take one step of the optimiser; the terms of `Losses` (9,), on the device, weighted by this share.

        Nothing here waits for the device, but for the recording of a shape, once.
        """
        terms = self.recorded(batch) if self.records else None
        if terms is None:
            terms = self.launched(batch)
        self.optimizer.step()
        self.progress.step += 1
        self.progress.position += 1
        return terms

    def launched(self, batch: Batch) -> Tensor:
        """Loss terms and gradients of a batch, kernel by kernel."""
        features = batch.features.to(self.device, self.dtype, non_blocking=True)
        labels = batch.labels.to(self.device, self.dtype, non_blocking=True)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(features, labels)
        (losses.total * (batch.weight * self.share.count)).backward()    # the processes' gradients are averaged
        return torch.stack(losses).detach() * batch.weight

    def recorded(self, batch: Batch) -> Tensor | None:
        """The same by the recording for this shape, which is made at its second batch; None where there is none."""
        shape = tuple(batch.features.shape)
        if shape not in self.recordings:
            self.recordings[shape] = None
            return None
        recording = self.recordings[shape]
        if recording is None:
            features = batch.features.to(self.device, self.dtype)
            labels = batch.labels.to(self.device, self.dtype)
            try:
                recording = Recording(self.losses, list(self.network.parameters()), features, labels)
            except torch.OutOfMemoryError:
                self.records, self.recordings = False, {}
                return None
            self.recordings[shape] = recording
        return recording.play(batch.features, batch.labels)

    def batches(self, train_set: VideoDataset, num_workers: int = 0) -> Iterator[Batch]:
        """Batches of one epoch after the other, without end, from where the training stands."""
        progress = self.progress
        while True:
            now = None
            if progress.position:    # resumed: draw this epoch's order and rows again, and pass over what is done
                now = random_state()
                set_random_state(progress.epoch_start)
                set_rows_state(self.sampler.rng, progress.rows_start)
                self.sampler.leave_out(progress.position)
            else:
                progress.epoch_start, progress.rows_start = random_state(), rows_state(self.sampler.rng)
            for batch in loader(train_set, self.sampler, num_workers, self.device.type == 'cuda'):
                if now:
                    set_random_state(now)
                    now = None
                yield batch
            if now:
                set_random_state(now)
            progress.epoch, progress.position = progress.epoch + 1, 0

    def check_finite(self) -> None:
        """Raises InputError where a step has made a parameter NaN or infinite."""
        for name, value in self.network.state_dict().items():
            if not torch.isfinite(value).all():
                raise InputError(f'step {self.progress.step}: made {name} NaN or infinite, so it is not finite and not '
                                 f'saved; lower --lr')

    def state(self) -> TrainingState:
        """All that `restore` needs."""
        return TrainingState(vars(self.progress), random_state(), self.network.state_dict(),
                             self.optimizer.state_dict())

    def find_fault(self, state: TrainingState) -> str:
        """What of a state is not as this training would write it, '' if nothing. Nothing else may be restored."""
        progress, steps = state.progress, self.steps_per_epoch
        named = [progress.get(name) for name in ('step', 'epoch', 'position')]
        counts = [count for count in named if type(count) is int and count >= 0]
        if progress.keys() != vars(self.progress).keys() or len(counts) < len(named):
            return 'progress'
        step, epoch, position = counts
        if step != epoch * steps + position or position > steps:
            return 'progress'
        if position and not (is_random_state(progress['epoch_start']) and is_rows_state(progress['rows_start'])):
            return 'progress'
        if not is_random_state(state.random):
            return 'random'
        if not has_form(state.model, self.network.state_dict()):
            return 'model'
        return '' if self.fits_optimizer(state.optimizer, step) else 'optimizer'

    def fits_optimizer(self, state: dict, step: int) -> bool:
        """Whether this is a state of our Adam after so many steps."""
        own = self.optimizer.state_dict()
        if state.keys() != own.keys() or not isinstance(state['state'], dict):
            return False
        groups, (own_group,) = state['param_groups'], own['param_groups']
        if not isinstance(groups, list) or len(groups) != 1 or not isinstance(groups[0], dict):
            return False
        for name, value in own_group.items():    # other versions of torch have some more or less of them
            theirs = groups[0].get(name, value)
            if type(theirs) is not type(value) or find_fault(theirs) or repr(theirs) != repr(value):
                return False
        parameters = dict(enumerate(self.network.parameters()))
        for index, moments in state['state'].items():
            if type(index) is not int or index not in parameters:
                return False
            form = {'step': torch.tensor(0.), 'exp_avg': parameters[index], 'exp_avg_sq': parameters[index]}
            if not has_form(moments, form) or not 0 < float(moments['step']) <= step:
                return False
        return True

    def restore(self, state: TrainingState) -> None:
        """Go on where `state`, one without fault, was taken. Raises InputError where its weights are not finite."""
        load_weights(self.network, state.model, 'checkpoint.pt')
        self.progress = Progress(**state.progress)
        groups = self.optimizer.state_dict()['param_groups']
        self.optimizer.load_state_dict({'state': state.optimizer['state'], 'param_groups': groups})
        for parameter, moments in self.optimizer.state.items():    # in memory as their parameter lies there
            for name in ('exp_avg', 'exp_avg_sq'):
                moments[name] = torch.empty_like(parameter).copy_(moments[name])
        set_random_state(state.random)


def has_form(value: Any, form: Any) -> bool:
    """Whether a value has the keys, lengths and types of another one, and its tensors their shapes and dtypes."""
    if isinstance(form, Tensor):
        return is_plain(value) and value.shape == form.shape and value.dtype == form.dtype
    if isinstance(form, dict):
        return (isinstance(value, dict) and value.keys() == form.keys()
                and all(has_form(value[name], form[name]) for name in form))
    if isinstance(form, (list, tuple)):
        return type(value) is type(form) and len(value) == len(form) and all(map(has_form, value, form))
    return type(value) is type(form)


# ---- random numbers -------------------------------------------------------------------------------------------------

def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy's and Python's global generators."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def random_state() -> dict:
    """The state of torch's and Python's global generators, in types that a checkpoint may hold."""
    return {'torch': torch.get_rng_state(), 'python': random.getstate(), 'cuda': torch.cuda.get_rng_state_all()}


def set_random_state(state: dict) -> None:
    """Bring the global generators back to a `random_state`."""
    torch.set_rng_state(state['torch'])
    random.setstate(state['python'])
    if len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])


def is_random_state(value: Any) -> bool:
    """Whether the generators would take this: tried on some that nobody draws from."""
    form = {**random_state(), 'cuda': []}
    if not isinstance(value, dict) or value.keys() != form.keys() or not isinstance(value['cuda'], list):
        return False
    python, form['python'] = value['python'], (3, form['python'][1])    # the third may be None or a number
    if not isinstance(python, tuple) or len(python) != 3 or not (python[2] is None or type(python[2]) is float):
        return False
    if not has_form({**value, 'python': python[:2], 'cuda': []}, form):
        return False
    if not all(is_plain(own) and own.dtype == torch.uint8 and own.shape == (16,) for own in value['cuda']):
        return False
    try:
        torch.Generator().set_state(value['torch'])
        random.Random().setstate(python)
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return False
    return True


def rows_state(rng: np.random.RandomState) -> list:
    """The state of the generator that draws the rows, in types that a checkpoint may hold."""
    state = rng.get_state(legacy=False)
    inner, gauss = state['state'], [state['has_gauss'], state['gauss']]
    return [state['bit_generator'], torch.from_numpy(inner['key'].copy()), inner['pos'], *gauss]


def set_rows_state(rng: np.random.RandomState, state: list) -> None:
    name, keys, *rest = state
    rng.set_state((name, keys.numpy(), *rest))


def is_rows_state(value: Any) -> bool:
    """Whether numpy's generator would take this; it does not look at the position itself."""
    form = rows_state(np.random.RandomState())
    return has_form(value, form) and value[0] == form[0] and 0 <= value[2] <= 624 and value[3] in (0, 1)
