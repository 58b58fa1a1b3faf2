"""The AICL network and the mining of consistent and inconsistent snippets.

    outputs = AICL(1024, 20, 512, fusion_weight=1 / 3, topk_ratio=8)(features)    # features (N, T, 2048), RGB first
    mined = mine(outputs.actionness_aware, outputs.actionness_agnostic, num_mined=T // 20)

Shapes: N videos, T snippets, C classes, D features a modality, H hidden width, k snippets a class, K mined.
"""
import ctypes
import os
import stat
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from settings import MODALITIES
from utils import InputError, first_few, number_of, pick, shorten, warn


class Outputs(NamedTuple):
    """What the network says of a batch. The parts of a modality that it was built without are None."""
    cas: Tensor                    # (N, T, C) class logits of every snippet, the class activation sequence
    attention_rgb: Tensor | None   # (N, T) in [0, 1]
    attention_flow: Tensor | None  # (N, T) in [0, 1]
    actionness_aware: Tensor       # (N, T) of the class-aware branch
    actionness_agnostic: Tensor    # (N, T) of the class-agnostic branch
    selection: Tensor              # (N, T, C) selection score P: ranks snippets here, is localized later
    video_logits: Tensor           # (N, C)
    top_snippets: Tensor           # (N, k, C) the k snippets of each class with the largest selection score
    embedding: Tensor              # (N, T, H) of the class-aware branch
    embedding_rgb: Tensor | None   # (N, T, H)
    embedding_flow: Tensor | None  # (N, T, H)


class Mined(NamedTuple):
    """Four sets of K snippet indices, each (N, K)."""
    consistent_action: Tensor
    consistent_background: Tensor
    inconsistent_action: Tensor
    inconsistent_background: Tensor


# ---- the convolution over time ---------------------------------------------------------------------------------------

def pad_videos(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, T, D) -> (N, T + 1, D) of another type, with a row of zeros after each video.

    Read as one matrix of N (T + 1) rows, no video has another one's snippet beside its own.
    """
    padded = x.new_empty(len(x), x.shape[1] + 1, x.shape[2], dtype=dtype)
    padded[:, :-1] = x
    padded[:, -1] = 0
    return padded


def taps_first(weight: Tensor) -> Tensor:
    """A weight (H, M D, 3) as it is, but in memory one tap after the other, a matrix (H, M D) each.

    So each tap is ready for a product, and so is the place of its gradient: neither is transposed in a step.
    """
    return weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)


def taps_of(weight: Tensor, num_parts: int) -> Tensor:
    """Weights (H, M D, 3) as a matrix for each of M parts of the features and each tap: a view (M, 3, H, D)."""
    return weight.unflatten(1, (num_parts, -1)).permute(1, 3, 0, 2)


def joined_rows(output: Tensor, part: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For each of the three taps the rows of a padded output that it adds to, and those of the input that it reads."""
    output, part = output.flatten(0, 1), part.flatten(0, 1)
    return [(output[1:], part[:-1]), (output, part), (output[:-1], part[1:])]


class TemporalEmbedding(torch.autograd.Function):
    """ReLU of a convolution over time, kernel 3, zero padding: a matrix product of the whole batch for every tap.

    weight (H, M D, 3), bias (H,) and M padded parts of the features, (N, T + 1, D) each -> (N, T, H). The products are
    in the type of the parts, all else in that of the weight. Faster than Conv1d where the weight lies `taps_first`.
    """

    @staticmethod
    def forward(ctx, weight: Tensor, bias: Tensor, *parts: Tensor) -> Tensor:
        dtype, matrices = parts[0].dtype, taps_of(weight, len(parts))
        if matrices.dtype != dtype:
            matrices = matrices.to(dtype, memory_format=torch.contiguous_format)
        output = bias.to(dtype).expand(*parts[0].shape[:2], -1).contiguous()
        for part, taps in zip(parts, matrices):
            for (rows, read), tap in zip(joined_rows(output, part), taps):
                rows.addmm_(read, tap.t())
        embedding = F.relu(output[:, :-1].to(weight.dtype))
        ctx.save_for_backward(weight, embedding, *parts)
        return embedding

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        weight, embedding, *parts = ctx.saved_tensors
        before_relu = torch.ops.aten.threshold_backward(gradient, embedding, 0)
        output = pad_videos(before_relu, parts[0].dtype)
        of_weight = torch.empty_like(weight)
        place = taps_of(of_weight, len(parts))
        of_taps = place if place.dtype == output.dtype else output.new_empty(place.shape)
        for part, matrices in zip(parts, of_taps):
            for (rows, read), of_tap in zip(joined_rows(output, part), matrices):
                torch.mm(rows.t(), read, out=of_tap)
        if of_taps is not place:
            place.copy_(of_taps)
        of_bias = output.sum(dim=(0, 1), dtype=weight.dtype)
        if not ctx.needs_input_grad[2]:    # as in training: features are data
            return of_weight, of_bias, *[None] * len(parts)
        of_parts = [torch.zeros_like(part) for part in parts]
        for of_part, matrices in zip(of_parts, taps_of(weight, len(parts)).to(output.dtype)):
            for (rows, read), tap in zip(joined_rows(output, of_part), matrices):
                read.addmm_(rows, tap)
        return of_weight, of_bias, *of_parts


# ---- the network -----------------------------------------------------------------------------------------------------

class ActionnessModule(nn.Module):
    """Class-aware branch and one attention branch a modality, under the released parameter names."""

    def __init__(self, feature_dim: int, num_classes: int, hidden_dim: int, modalities: tuple[str, ...],
                 product_dtype: torch.dtype | None):
        super().__init__()
        self.modalities, self.feature_dim, self.product_dtype = modalities, feature_dim, product_dtype
        # quirk: no dropout is ever applied; the released code makes such layers and never calls them, so none is here
        # Creation order decides the random initial values: it is the released one.
        self.base_module = nn.Sequential(nn.Conv1d(len(modalities) * feature_dim, hidden_dim, 3, padding=1), nn.ReLU())
        self.cls = nn.Sequential(nn.Conv1d(hidden_dim, num_classes, 1))
        for modality in modalities:
            setattr(self, f'action_module_{modality}', nn.Sequential(
                nn.Conv1d(feature_dim, hidden_dim, 3, padding=1), nn.ReLU()))
            setattr(self, f'cls_{modality}', nn.Conv1d(hidden_dim, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv1d) and module.kernel_size == (3,):
                module.weight.data = taps_first(module.weight.data)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """features (N, T, M D) -> embedding (N, T, H), CAS (N, T, C), and by modality embeddings, attentions (N, T)."""
        if features.shape[-1] != len(self.modalities) * self.feature_dim:
            raise ValueError(f'{features.shape[-1]} features, not {len(self.modalities)} x {self.feature_dim}')
        base, classifier = self.base_module[0], self.cls[0]
        assert isinstance(base, nn.Conv1d) and isinstance(classifier, nn.Conv1d)    # Sequential does not say
        product_dtype = self.product_dtype or base.weight.dtype
        parts = [pad_videos(part, product_dtype) for part in features.split(self.feature_dim, dim=-1)]
        embedding = embed(base, *parts)
        embeddings, attentions = {}, {}
        for modality, part in zip(self.modalities, parts):
            embeddings[modality] = embed(getattr(self, f'action_module_{modality}')[0], part)
            logits = pointwise(embeddings[modality], getattr(self, f'cls_{modality}'))
            attentions[modality] = torch.sigmoid(logits).squeeze(-1)
        return embedding, pointwise(embedding, classifier), embeddings, attentions


def embed(convolution: nn.Conv1d, *parts: Tensor) -> Tensor:
    """ReLU of a convolution of kernel 3 applied to padded features: (N, T + 1, D) a part -> (N, T, H)."""
    return TemporalEmbedding.apply(convolution.weight, convolution.bias, *parts)


def pointwise(x: Tensor, convolution: nn.Conv1d) -> Tensor:
    """A convolution of kernel 1 applied to (N, T, H)."""
    return F.linear(x, convolution.weight.squeeze(-1), convolution.bias)


class AICL(nn.Module):
    """The two-branch network (section 3.2 of the paper).

    feature_dim: D; fusion_weight: share g of the class scores in the selection score;
    topk_ratio: k = T // topk_ratio snippets a class make its video logit; product_dtype: that of the large products,
    the parameters' own if None.
    """

    def __init__(self, feature_dim: int, num_classes: int, hidden_dim: int, fusion_weight: float,
                 topk_ratio: int, modalities: tuple[str, ...] = ('rgb', 'flow'),
                 product_dtype: torch.dtype | None = None):
        super().__init__()
        self.actionness_module = ActionnessModule(feature_dim, num_classes, hidden_dim, modalities, product_dtype)
        self.fusion_weight, self.topk_ratio = fusion_weight, topk_ratio

    def forward(self, features: Tensor) -> Outputs:
        """features (N, T, 2D), RGB first, or (N, T, D) for a single modality."""
        embedding, cas, embeddings, attentions = self.actionness_module(features)
        aware = torch.sigmoid(cas.sum(dim=2))
        agnostic = torch.stack(list(attentions.values())).mean(dim=0)
        with torch.no_grad():
            selection = (self.fusion_weight * F.softmax(cas, dim=2)
                         + (1 - self.fusion_weight) * agnostic.unsqueeze(2))
            k = max(1, features.shape[1] // self.topk_ratio)
            top_snippets = selection.topk(k, dim=1, sorted=False).indices
        video_logits = cas.gather(1, top_snippets).mean(dim=1)
        return Outputs(cas, attentions.get('rgb'), attentions.get('flow'), aware, agnostic, selection, video_logits,
                       top_snippets, embedding, embeddings.get('rgb'), embeddings.get('flow'))


@torch.no_grad()
def pseudo_targets(outputs: Outputs, labels: Tensor) -> Tensor:
    """(N, T) in {0, 1}: 1 where a snippet is among the top of any of the video's labels (N, C)."""
    chosen = torch.zeros_like(outputs.cas).scatter_(1, outputs.top_snippets, 1.0)    # (N, T, C)
    return (chosen * labels.unsqueeze(1)).amax(dim=2)


@torch.no_grad()
def mine(aware: Tensor, agnostic: Tensor, num_mined: int) -> Mined:
    """Mine consistent and inconsistent snippets from both actionnesses (N, T) (section 3.3 of the paper).

    Each is binarised at its own median over time. Equal scores are taken in the order of time.
    """
    actionness = torch.stack([aware, agnostic])
    aware_on, agnostic_on = actionness > actionness.median(dim=2, keepdim=True).values    # (N, T) each
    consistent = torch.stack([aware_on & agnostic_on, ~(aware_on | agnostic_on)])         # (2, N, T)
    inconsistent = aware_on != agnostic_on
    # quirk: both rankings are by the class-aware actionness alone, and a region of fewer than K snippets is
    # filled from outside, where every score is 0.
    as_action_or_background = torch.stack([aware, aware.amax(dim=1, keepdim=True) - aware])
    scores = torch.cat([as_action_or_background * consistent, as_action_or_background * inconsistent])    # (4, N, T)
    ranking = scores.sort(dim=2, descending=True, stable=True).indices
    return Mined(*ranking[..., :num_mined])


class NetworkOptions(NamedTuple):
    """What decides the network besides the width of its features and the number of its classes."""
    hidden_dim: int                # H
    fusion_weight: float           # g, share of the class scores in the selection score
    topk_ratio: int                # k = T // topk_ratio snippets of a class make its video logit
    modalities: tuple[str, ...]    # ('rgb', 'flow'), or one of them
    precision: str                 # 'fp32', 'tf32', 'bf16' (of the large products) or 'fp64'


def network_options(values: Mapping[str, Any]) -> NetworkOptions:
    """The options that the flags of these names and values ask for."""
    return pick(NetworkOptions, values, modalities=MODALITIES[values['modal']])


def build_network(options: NetworkOptions, feature_dim: int, num_classes: int, device: torch.device) -> AICL:
    """The network with torch's default initialisation from its global generator, in float32, then on `device`."""
    keep_freed_memory()
    torch.set_float32_matmul_precision('high' if options.precision == 'tf32' else 'highest')
    network = AICL(feature_dim, num_classes, options.hidden_dim, options.fusion_weight, options.topk_ratio,
                   options.modalities, torch.bfloat16 if options.precision == 'bf16' else None)
    return network.to(device, torch.float64 if options.precision == 'fp64' else torch.float32)


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3    # as glibc's malloc.h numbers them


def keep_freed_memory() -> None:
    """Keep what a step frees, pieces below 256 MB, for the next one; glibc alone has this, elsewhere nothing happens.

    Else the system takes it back, and hands it out again page by page, cleared: up to a tenth of a step on a processor.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return
    # Older glibc refuses more than 32 MB: mallopt(3). Set alone, the second threshold would leave the first at 128 kB.
    if mallopt(M_MMAP_THRESHOLD, 2 ** 28) or mallopt(M_MMAP_THRESHOLD, 2 ** 25):
        mallopt(M_TRIM_THRESHOLD, 2 ** 31 - 1)


def product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a matrix product of the network's kind, tried for about 20 ms; no random number is drawn.

    On a processor one thread's, by its own time: other work on the machine changes nothing. The product grows until it
    takes 3 ms, so that a type that is only emulated is found out as quickly.
    """
    on_gpu, num_threads = device.type == 'cuda', torch.get_num_threads()
    clock = time.perf_counter if on_gpu else time.thread_time
    right, rows, seconds = torch.ones(1024, 512, dtype=dtype, device=device), 16, 0.
    torch.set_num_threads(1)
    while seconds < 0.003 and rows < 8192:
        rows *= 2
        left, trials = torch.ones(rows, 1024, dtype=dtype, device=device), []
        for _ in range(3):
            start = clock()
            torch.mm(left, right)
            if on_gpu:
                torch.cuda.synchronize(device)
            trials.append(clock() - start)
        seconds = min(trials)
    torch.set_num_threads(num_threads)
    return 2 * rows * right.numel() / seconds


def precision_advice(precision: str, device: torch.device, speed: Callable[..., float] = product_speed) -> str:
    """What to say of a precision on this device, '' if nothing; `speed` tells the FLOP/s of a type there.

    Raises InputError where it gains nothing: processors without bf16 emulate it, up to 80 times slower than fp32.
    """
    if precision == 'tf32' and device.type == 'cpu':
        raise InputError('--precision tf32: a processor has no such type; leave it out, or try bf16')
    if precision not in ('fp32', 'bf16'):
        return ''
    gain = speed(torch.bfloat16, device) / speed(torch.float32, device)
    if precision == 'bf16':
        if gain < 1:
            raise InputError(f'--precision bf16: {device} multiplies at {gain:.2g} times the speed of fp32 with it; '
                             f'leave it out')
        return f'products take {1 / gain:.2g} of the time that they take in fp32'
    if gain > 1.5:
        return f'--precision bf16 would make the products {gain:.1f} times as fast here'
    return ''


# ---- weights under the released names --------------------------------------------------------------------------------

MAX_VALUES, MAX_DEPTH, MAX_NUMBER = 10 ** 6, 32, 2 ** 64    # in one file


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether this is a dense tensor that holds every value it shows: sparse, nested, quantized and meta ones do not,
    nor does one that repeats a few stored values by a stride of 0."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    if value.is_quantized or value.device.type == 'meta':
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def find_fault(content: object) -> str:
    """What of a file's content nobody who reads it should meet, '' if nothing: see `is_plain`, and endless nests."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Tensor) and not is_plain(value):
            return 'holds a tensor that is not dense or not stored in full'
        if isinstance(value, int) and abs(value) >= MAX_NUMBER:
            return 'holds a whole number of too many digits'
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            count += len(value)
            if count > MAX_VALUES or depth == MAX_DEPTH:
                return 'holds too many values, or nested too deep'
            waiting += [(inner, depth + 1) for inner in value]
            if isinstance(value, dict):
                waiting += [(inner, depth + 1) for inner in value.values()]
    return ''


def read_weights(path: str | Path) -> dict:
    """Read a dictionary of plain tensors and plain values; no pickled code is ever run."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):    # a pipe would be waited for
            raise InputError(f'{path}: not a file that can be read from end to end')
        with open(path, 'rb') as file:
            if not file.read(4).startswith((b'PK\3\4', b'\x80')):    # torch would unpack a tar into a folder of its own
                raise ValueError('neither zip nor pickle')
        with warnings.catch_warnings(action='ignore'):    # torch's own about damaged files
            state = torch.load(path, map_location='cpu', weights_only=True)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or shorten(error)}') from None
    except (MemoryError, InputError):
        raise
    except Exception:    # torch's readers raise a dozen types, and their texts advise to run what is in the file
        raise InputError(f'{path}: damaged, or not a file of tensors and plain values alone; write or download it '
                         f'again') from None
    if not isinstance(state, dict):
        raise InputError(f'{path}: holds a {type(state).__name__}, not a dictionary of parameters')
    if fault := find_fault(state):
        raise InputError(f'{path}: {fault}; write or download it again')
    return state


def unwrap(state: dict) -> dict:
    """Weights without what others put around them: a dictionary's 'state_dict', DataParallel's `module.`."""
    state = state['state_dict'] if isinstance(state.get('state_dict'), dict) else state
    return {str(name).removeprefix('module.'): value for name, value in state.items()}


CLASSIFIER = 'actionness_module.cls.0.weight'    # (C, H, 1)


def num_classes_of(state: dict, path: str | Path) -> int:
    """C, the number of classes that weights were trained on."""
    weight = state.get(CLASSIFIER)
    if not is_plain(weight) or not weight.ndim:
        mend = 'use best.pt or last.pt beside it' if 'optimizer' in state else 'these are not weights of AICL'
        raise InputError(f'{path}: {CLASSIFIER} is missing; {mend}')
    return weight.shape[0]


def modal_of(state: dict) -> str:
    """'all', 'rgb' or 'flow': the feature streams that weights are for; '' where they are for none."""
    found = [modality for modality in ('rgb', 'flow') if any(f'_{modality}.' in str(name) for name in state)]
    return 'all' if len(found) == 2 else ''.join(found)


def load_weights(model: nn.Module, state: dict, path: str | Path) -> None:
    """Load a state dict under the released names into `model`, from any device and floating point type.

    Parameters that the network does not have are left out with a warning: the released code passes over them, too.
    Raises InputError that lists every missing or mis-shaped parameter.
    """
    own = model.state_dict()
    foreign = [str(name) for name in state if name not in own]
    faults = [f'{name} is missing' for name in own if name not in state]
    faults += [f"{shorten(name)} is not one of this network's" for name in foreign if faults]
    for name in own.keys() & state.keys():
        value = state[name]
        if not is_plain(value) or not value.is_floating_point():
            faults.append(f'{name} is not a plain tensor of floating point numbers')
        elif value.shape != own[name].shape:
            faults.append(f'{name} is {tuple(value.shape)} where {tuple(own[name].shape)} is needed')
        elif not torch.isfinite(value.to(own[name].dtype)).all():
            faults.append(f'{name} holds NaN or infinity')
    if faults:
        theirs, ours = modal_of(state), modal_of(own)
        kind = f'was trained with --modal {theirs}, not {ours}, and ' if theirs not in ('', ours) else ''
        weight, width = state.get(CLASSIFIER), own[CLASSIFIER].shape[1]
        if is_plain(weight) and weight.ndim == 3 and weight.shape[1] != width:
            kind += f'was trained with --hidden_dim {weight.shape[1]}, not {width}, and '
        raise InputError(f'{path}: {kind}does not fit this network: {"; ".join(sorted(faults))}')
    if foreign:
        warn(f'{path}: {number_of(len(foreign), "parameter")} that this network does not have are left out: '
             f'{first_few(foreign)}')
    model.load_state_dict({name: state[name] for name in own})
