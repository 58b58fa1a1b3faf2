"""Any video network of torchvision instead of I3D, by its name.

    pip install torchvision    # the version for your torch
    python -m extraction VIDEOS --output DIR --backbone examples.torchvision_backbone:s3d --fps 15
    python -m extraction VIDEOS --output DIR --backbone examples.torchvision_backbone:r3d_18 --fps 15 \
        --resize 171x128 --crop 112

One row every `--stride` frames, computed from 16 frames by the network without its classifier: 1024 values with s3d,
768 with mvit_v1_b, mvit_v2_s and swin3d_t, 512 with r3d_18, mc3_18 and r2plus1d_18. The weights are those trained on
Kinetics-400 that torchvision downloads (https://pytorch.org/vision/stable/models.html, video classification); they were
trained on 15 frames per second, except for mvit (7.5) and swin3d (15). A wrong --crop is refused.
"""
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import nn

CLIP_FRAMES = 16
BATCH_SIZE = 4  # snippets
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
HEADS = 'fc', 'classifier', 'head'  # names of the last layers in torchvision's networks


def __getattr__(name: str) -> Any:
    """Return the backbone for a network of torchvision.models.video."""
    if name.startswith('_'):
        raise AttributeError(name)
    return partial(compute_rows, name)


@cache
def load_network(name: str) -> tuple[nn.Module, Any]:
    """Return a network without its classifier, and the transforms of its weights."""
    from torchvision.models import get_model, get_model_weights
    weights = get_model_weights(name).DEFAULT
    network = get_model(name, weights=weights)
    for head in HEADS:
        if hasattr(network, head):
            setattr(network, head, nn.Identity())
    return network.eval().to(DEVICE), weights.transforms()


def compute_rows(name: str, frames: np.ndarray, stride: int = CLIP_FRAMES) -> np.ndarray:
    """Compute the rows of a video: frames (F, H, W, 3) uint8 -> (L, width) float32."""
    network, transforms = load_network(name)
    crop = list(transforms.crop_size) * 2
    if list(frames.shape[1:3]) != crop[:2]:
        height, width = (list(transforms.resize_size) * 2)[:2]
        size = f'{width}x{height}' if len(transforms.resize_size) == 2 else f'short{height}'
        raise ValueError(f'{name} was trained on another size, use --resize {size} --crop {crop[0]}')
    mean, std = (torch.tensor(values, device=DEVICE).view(3, 1, 1, 1) for values in (transforms.mean, transforms.std))
    starts = range(0, len(frames) - CLIP_FRAMES + 1, stride)
    rows = []
    for first in range(0, len(starts), BATCH_SIZE):
        clips = np.stack([frames[start:start + CLIP_FRAMES] for start in starts[first:first + BATCH_SIZE]])
        batch = torch.from_numpy(clips).to(DEVICE).permute(0, 4, 1, 2, 3) / 255  # (N, 3, 16, H, W)
        with torch.inference_mode():
            rows.append(network((batch - mean) / std).flatten(1).float().cpu().numpy())
    return np.concatenate(rows)
