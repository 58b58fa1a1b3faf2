"""Optical flow between grey frames: OpenCV's TV-L1 and DIS on a processor, the same TV-L1 in torch for a GPU.

    flow = tvl1(first, second)              # (H, W) uint8 each -> (H, W, 2) float32 in pixels, horizontal first
    flows = torch_tvl1(firsts, seconds)     # (N, H, W) each -> (N, H, W, 2), on their device
    quantize(flow)                          # what I3D was trained on: 256 levels in [-1, 1]

TV-L1 is Zach, Pock and Bischof's (DAGM 2007) as OpenCV's DualTVL1OpticalFlow computes it with its default settings.
"""
import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def nothing(frame: np.ndarray) -> np.ndarray:
    """No motion (H, W, 2), which both methods begin with."""
    return np.zeros((*frame.shape, 2), np.float32)


def tvl1(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """OpenCV's TV-L1 from one grey frame (H, W) uint8 to the next -> (H, W, 2) float32 in pixels."""
    return np.asarray(cv2.optflow.DualTVL1OpticalFlow.create().calc(first, second, nothing(first)))


def dis(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """OpenCV's DIS (Kroeger et al., ECCV 2016), many times faster, for drafts: shapes as in `tvl1`.

    Not the flow that the published I3D weights were trained on.
    """
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return np.asarray(method.calc(first, second, nothing(first)))


def quantize(flow: np.ndarray, bound: float = 20, enabled: bool = True) -> np.ndarray:
    """Flow in pixels, of any shape, clipped to +-bound -> float32 in [-1, 1], at 256 levels if enabled.

    Flow was stored as 8-bit pictures, so that the value 0 lies between two levels: it becomes 1 / 255.
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
SMALLEST = 16    # pixels of the shorter side of the coarsest scale


@torch.inference_mode()
def torch_tvl1(firsts: Tensor, seconds: Tensor) -> Tensor:
    """TV-L1 from each grey frame of firsts (N, H, W), values 0 to 255, to its second -> (N, H, W, 2) float32."""
    pyramid = [torch.stack([firsts, seconds], dim=1).float()]    # (N, 2, H, W)
    while len(pyramid) < SCALES:
        smaller = shrink(pyramid[-1])
        if min(smaller.shape[-2:]) < SMALLEST:
            break
        pyramid.append(smaller)
    flow = torch.zeros_like(pyramid[-1])
    for frames in reversed(pyramid):
        flow = F.interpolate(flow, size=frames.shape[-2:], mode='bilinear') / SCALE_STEP    # no change of zeros
        flow = refine(frames[:, :1], frames[:, 1:], flow)
    return flow.movedim(1, -1)


def shrink(frames: Tensor) -> Tensor:
    """The next scale of the pyramid, linearly between the pixel centres."""
    height, width = (((torch.arange(round(size * SCALE_STEP), device=frames.device) + 0.5) / SCALE_STEP - 0.5)
                     for size in frames.shape[-2:])
    y, x = torch.meshgrid(height, width, indexing='ij')
    return sample(frames, x.expand(len(frames), -1, -1), y.expand(len(frames), -1, -1), 'bilinear', 'border')


def sample(frames: Tensor, x: Tensor, y: Tensor, mode: str, outside: str) -> Tensor:
    """frames (N, C, H, W) at the pixels x, y (N, H', W') -> (N, C, H', W')."""
    height, width = frames.shape[-2:]
    grid = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(frames, grid, mode, outside, align_corners=True)


def refine(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    """The flow of one scale, frames (N, 1, H, W), from the flow that the coarser scale gave."""
    height, width = (torch.arange(size, device=flow.device) for size in flow.shape[-2:])
    around = F.pad(second, (1, 1, 1, 1), mode='replicate')
    source = torch.cat([second, (around[..., 1:-1, 2:] - around[..., 1:-1, :-2]) / 2,
                        (around[..., 2:, 1:-1] - around[..., :-2, 1:-1]) / 2], dim=1)
    dual = flow.new_zeros(len(flow), 2, 2, *flow.shape[-2:])
    for _ in range(WARPS):
        x, y = width + flow[:, 0], height[:, None] + flow[:, 1]
        warped = sample(source, x, y, 'bicubic', 'zeros')
        gradient = warped[:, 1:]
        constant = warped[:, :1] - (gradient * flow).sum(dim=1, keepdim=True) - first
        flow, dual = minimise(flow, dual, gradient, constant)
    return flow


def minimise(flow: Tensor, dual: Tensor, gradient: Tensor, constant: Tensor) -> tuple[Tensor, Tensor]:
    """Flow and dual after the iterations of one warp: each pair stops by itself, where its flow hardly moves."""
    squared = (gradient ** 2).sum(dim=1, keepdim=True).clamp_min(torch.finfo(gradient.dtype).eps)
    smallest_move = EPSILON ** 2 * flow[0, 0].numel()
    moves = torch.ones(len(flow), 1, 1, 1, dtype=torch.bool, device=flow.device)
    for _ in range(OUTER):
        flow = torch.where(moves, median(flow), flow)
        for _ in range(INNER):
            residual = constant + (gradient * flow).sum(dim=1, keepdim=True)
            pulled = flow + (-residual / squared).clamp(-LAMBDA * THETA, LAMBDA * THETA) * gradient
            updated = pulled + THETA * divergence(dual)
            slope = forward_differences(updated)
            updated_dual = (dual + TAU / THETA * slope) / (1 + TAU / THETA * slope.norm(dim=2, keepdim=True))
            move = ((updated - flow) ** 2).sum(dim=(1, 2, 3), keepdim=True)
            flow = torch.where(moves, updated, flow)
            dual = torch.where(moves[..., None], updated_dual, dual)
            moves = moves & (move > smallest_move)
            if not moves.any():
                return flow, dual
    return flow, dual


def median(flow: Tensor) -> Tensor:
    """The median of the 5 x 5 pixels around each, the border repeated."""
    around = F.pad(flow, (MEDIAN // 2,) * 4, mode='replicate')
    return around.unfold(-2, MEDIAN, 1).unfold(-2, MEDIAN, 1).flatten(-2).median(dim=-1).values


def forward_differences(flow: Tensor) -> Tensor:
    """(N, 2, H, W) -> (N, 2, 2, H, W): to the right and down, 0 at the last pixel."""
    right = F.pad(flow[..., 1:] - flow[..., :-1], (0, 1))
    down = F.pad(flow[..., 1:, :] - flow[..., :-1, :], (0, 0, 0, 1))
    return torch.stack([right, down], dim=2)


def divergence(dual: Tensor) -> Tensor:
    """(N, 2, 2, H, W) -> (N, 2, H, W): differences to the left and up, with 0 outside."""
    x, y = dual.unbind(dim=2)
    return x - F.pad(x[..., :-1], (1, 0)) + y - F.pad(y[..., :-1, :], (0, 0, 1, 0))
