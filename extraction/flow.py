"""Optical flow between gray frames: OpenCV's TV-L1 and DIS on a CPU, the same TV-L1 in torch for a GPU.

    flow = tvl1(first, second)              # (H, W) uint8 each -> (H, W, 2) float32 in pixels, horizontal first
    flows = torch_tvl1(firsts, seconds)     # (N, H, W) each -> (N, H, W, 2), on their device
    quantize(flow)                          # 256 levels in [-1, 1], as in the training of I3D

TV-L1 is Zach, Pock and Bischof's (DAGM 2007) as OpenCV's DualTVL1OpticalFlow computes it with its default settings.
"""
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def zero_flow(frame: np.ndarray) -> np.ndarray:
    """Return zero flow (H, W, 2), the initial value of both methods."""
    return np.zeros((*frame.shape, 2), np.float32)


def tvl1(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute OpenCV's TV-L1 flow from one gray frame (H, W) uint8 to the next -> (H, W, 2) float32 in pixels."""
    return np.asarray(cv2.optflow.DualTVL1OpticalFlow.create().calc(first, second, zero_flow(first)))


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute OpenCV's DIS flow (Kroeger et al., ECCV 2016), many times faster, for drafts; shapes as in `tvl1`.

    Not the flow that the published I3D weights were trained on.
    """
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(method.calc(first, second, zero_flow(first)))


def quantize(flow: np.ndarray, bound: float = 20, enabled: bool = True) -> np.ndarray:
    """Clip flow in pixels, of any shape, to +-bound -> float32 in [-1, 1], in 256 levels if enabled.

    The levels are those of flow stored in 8-bit images, where 0 is between two levels: it becomes 1 / 255.
    """
    clipped = np.clip(flow.astype(np.float64), -bound, bound)
    if enabled:
        levels = np.rint(255 * (clipped + bound) / (2 * bound))
        return (2 * levels / 255 - 1).astype(np.float32)
    return (clipped / bound).astype(np.float32)


# ---- TV-L1 in torch -------------------------------------------------------------------------------------------------
# N pairs of (H, W) pixels at once. Flow is (N, 2, H, W), its dual (N, 2, 2, H, W): component, then axis, x first.

SCALES, SCALE_STEP, WARPS, OUTER, INNER, MEDIAN = 5, 0.8, 5, 10, 30, 5
TAU, LAMBDA, THETA, EPSILON = 0.25, 0.15, 0.3, 0.01
MIN_SIDE = 16  # pixels of the shorter side of the coarsest scale, at least


@torch.inference_mode()
def torch_tvl1(firsts: Tensor, seconds: Tensor) -> Tensor:
    """Compute TV-L1 flow of N pairs of gray frames (N, H, W), values 0 to 255 -> (N, H, W, 2) float32."""
    pyramid = [torch.stack([firsts, seconds], dim=1).float()]  # (N, 2, H, W)
    while len(pyramid) < SCALES:
        smaller = downscale(pyramid[-1])
        if min(smaller.shape[-2:]) < MIN_SIDE:
            break
        pyramid.append(smaller)
    flow = torch.zeros_like(pyramid[-1])
    for frames in reversed(pyramid):
        flow = F.interpolate(flow, size=frames.shape[-2:], mode='bilinear') / SCALE_STEP
        flow = refine(frames[:, :1], frames[:, 1:], flow)
    return flow.movedim(1, -1)


def downscale(frames: Tensor) -> Tensor:
    """Return the next scale of the pyramid, interpolated linearly between pixel centers."""
    height, width = (((torch.arange(round(size * SCALE_STEP), device=frames.device) + 0.5) / SCALE_STEP - 0.5)
                     for size in frames.shape[-2:])
    y, x = torch.meshgrid(height, width, indexing='ij')
    return sample(frames, x.expand(len(frames), -1, -1), y.expand(len(frames), -1, -1), 'bilinear', 'border')


def sample(frames: Tensor, x: Tensor, y: Tensor, mode: str, padding_mode: str) -> Tensor:
    """Sample frames (N, C, H, W) at the pixels x, y (N, H', W') -> (N, C, H', W')."""
    height, width = frames.shape[-2:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(frames, grid, mode, padding_mode, align_corners=True)


def refine(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """Return the flow of one scale from that of the coarser scale; frames are (N, 1, H, W)."""
    height, width = (torch.arange(size, device=flow.device) for size in flow.shape[-2:])
    padded = F.pad(second, (1, 1, 1, 1), mode='replicate')
    source = torch.cat([second, (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2,
                        (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2], dim=1)
    dual = flow.new_zeros(len(flow), 2, 2, *flow.shape[-2:])
    for _ in range(WARPS):
        x, y = width + flow[:, 0], height[:, None] + flow[:, 1]
        warped = sample(source, x, y, 'bicubic', 'zeros')
        gradient = warped[:, 1:]
        constant = warped[:, :1] - (gradient * flow).sum(dim=1, keepdim=True) - first
        flow, dual = minimize(flow, dual, gradient, constant)
    return flow


def minimize(flow: Tensor, dual: Tensor, gradient: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """Run the iterations of one warp; each pair stops separately, where its flow hardly changes.

    Returns flow and dual.
    """
    squared = (gradient ** 2).sum(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).eps)
    min_change = EPSILON ** 2 * flow[0, 0].numel()
    active = torch.ones(len(flow), 1, 1, 1, dtype=torch.bool, device=flow.device)
    for _ in range(OUTER):
        flow = torch.where(active, median(flow), flow)
        for _ in range(INNER):
            residual = constant + (gradient * flow).sum(dim=1, keepdim=True)
            thresholded = flow + (-residual / squared).clamp(-LAMBDA * THETA, LAMBDA * THETA) * gradient
            updated = thresholded + THETA * divergence(dual)
            slope = forward_differences(updated)
            updated_dual = (dual + TAU / THETA * slope) / (1 + TAU / THETA * slope.norm(dim=2, keepdim=True))
            change = ((updated - flow) ** 2).sum(dim=(1, 2, 3), keepdim=True)
            flow = torch.where(active, updated, flow)
            dual = torch.where(active[..., None], updated_dual, dual)
            active = active & (change > min_change)
            if not active.any():
                return flow, dual
    return flow, dual


def median(flow: Tensor) -> Tensor:
    """Return the median of 5 x 5 pixels, with the border repeated."""
    padded = F.pad(flow, (MEDIAN // 2,) * 4, mode='replicate')
    return padded.unfold(-2, MEDIAN, 1).unfold(-2, MEDIAN, 1).flatten(-2).median(dim=-1).values


def forward_differences(flow: Tensor) -> Tensor:
    """Return the differences to the right and down, 0 at the last pixel: (N, 2, H, W) -> (N, 2, 2, H, W)."""
    right = F.pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    down = F.pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([right, down], dim=2)


def divergence(dual: Tensor) -> Tensor:
    """Return the sum of the differences to the left and up, with 0 outside: (N, 2, 2, H, W) -> (N, 2, H, W)."""
    x, y = dual.unbind(dim=2)
    return x - F.pad(x[..., :-1], (1, 0)) + y - F.pad(y[..., :-1, :], (0, 0, 1, 0))
