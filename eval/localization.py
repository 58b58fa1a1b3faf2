"""From snippet scores to detections: thresholding, outer-inner contrast and NMS, for all videos at once.

The order of the steps and every quirk are those of the released code.
"""
from typing import NamedTuple

import numpy as np

THRESHOLDS = np.arange(0.1, 1, 0.1)  # with numpy's rounding, as in the reference: the third is 0.30000000000000004
CHUNK_SAMPLES = 2 ** 17              # upsampled scores per chunk, about 60 bytes each: they fit into the CPU's cache
BLOCK_ROWS = 2 ** 11                 # pairs of video and class per block of NMS: their spans fit, too


class LocalizationOptions(NamedTuple):
    """Settings of the localization; see the recipes for values."""

    class_th: float          # minimum video-level probability of a class to localize
    scale: int               # samples per snippet after upsampling
    oic_margin: float        # outer region on each side, as a fraction of the span's length; not negative
    oic_class_weight: float  # weight of the class probability in the score of a span
    nms_thresh: float        # overlap with a better span from which a span is suppressed
    nms_alpha: float         # soft NMS multiplies suppressed scores by exp(-overlap^2 / nms_alpha)
    soft_nms: bool           # False: suppressed spans are dropped
    feature_fps: float | np.ndarray  # frame rate at which the features were extracted, or (N,) that of each video
    snippet_frames: int      # frames per snippet


class Spans(NamedTuple):
    """R maximal spans of samples at or above a threshold, sorted by row, then threshold, then time."""

    row: np.ndarray       # (R,) int64
    start: np.ndarray     # (R,) int64, first sample
    end: np.ndarray       # (R,) int64, one past the last sample
    contrast: np.ndarray  # (R,) float64, mean of the inner minus mean of the outer region


class Proposals(NamedTuple):
    """R localized segments, sorted by video, then label, then descending score before soft NMS."""

    video: np.ndarray     # (R,) int64
    label: np.ndarray     # (R,) int64
    segments: np.ndarray  # (R, 2) float64, seconds
    scores: np.ndarray    # (R,) float64


def predict_classes(class_probs: np.ndarray, class_th: float) -> np.ndarray:
    """Return the predicted classes of every video: those of probability >= class_th, else the most probable one.

    class_probs (N, C), compared in its own precision -> (N, C) bool. Source: released code.
    """
    predicted = class_probs >= float(class_th)
    undecided = np.flatnonzero(~predicted.any(axis=1))
    predicted[undecided, class_probs[undecided].argmax(axis=1)] = True
    return predicted


def upsample(rows: np.ndarray, scale: float) -> np.ndarray:
    """Interpolate rows of scores linearly at np.arange(0, T, 1 / scale).

    rows (R, T) float64 -> (R, M), bit for bit those of scipy's `interp1d(..., fill_value='extrapolate')`, which the
    released code uses; a single snippet has no slope and gives constant samples.
    """
    num_snippets = rows.shape[1]
    x = np.arange(0, num_snippets, 1 / scale)
    # quirk: a snippet's score sits at its start, so the samples after the last one are extrapolated from the last two
    lo = (np.ceil(x).astype(np.int64) - 1).clip(0, max(num_snippets - 2, 0))
    samples = np.take(np.diff(rows, append=rows[:, -1:]), lo, axis=1)
    samples *= x - lo
    samples += np.take(rows, lo, axis=1)
    return samples


def threshold_and_score(samples: np.ndarray, margin: float) -> Spans:
    """Return all spans at all thresholds, scored by their outer-inner contrast.

    samples (R, M) float64; the outer region is `margin` times the span's length on each side. Source: released code.
    """
    num_rows, num_samples = samples.shape
    inside = samples[:, None] >= THRESHOLDS[:, None]                 # (R, thresholds, M)
    edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))  # start, end, start, end, ...
    start, end = (edges % (num_samples + 1)).reshape(-1, 2).T
    cell = edges[::2] // (num_samples + 1)                           # row and threshold of each span
    valid = (end > 1) | (np.bincount(cell)[cell] > 1)  # quirk: no span where sample 0 alone reaches a threshold
    row, start, end = cell[valid] // len(THRESHOLDS), start[valid], end[valid]

    # Means are differences of prefix sums. Rounding errors before a span cancel, so the error is about 1e-12.
    prefix = np.zeros((num_rows, num_samples + 1))
    np.cumsum(samples, axis=1, out=prefix[:, 1:])
    reach = margin * (end - start)
    outer_start = np.maximum(0, (start - reach).astype(np.int64))    # truncated, not rounded
    outer_end = np.minimum(num_samples - 1, (end - 1 + reach).astype(np.int64)) + 1
    at_start, at_end = prefix[row, start], prefix[row, end]
    outer_sum = (at_start - prefix[row, outer_start]) + (prefix[row, outer_end] - at_end)
    outer_size = (start - outer_start) + (outer_end - end)           # may be 0; then the sum is 0, too
    return Spans(row, start, end, (at_end - at_start) / (end - start) - outer_sum / np.maximum(outer_size, 1))


def nms(group: np.ndarray, segments: np.ndarray, scores: np.ndarray, thresh: float, alpha: float
        ) -> tuple[np.ndarray, np.ndarray]:
    """Suppress overlapping segments greedily in every group; each round takes the best one left of every group.

    group (R,) from 0, segments (R, 2) in seconds and scores (R,), all sorted by group, then descending score -> (R,)
    bool: the segments that are not suppressed; and (R,) scores, where a suppressed one is lowered once, by the better
    segment that suppressed it. Source: released code.
    """
    start, end = segments.T
    kept, scores = np.zeros(len(group), dtype=bool), scores.copy()
    left = np.arange(len(group))
    while left.size:
        is_best = np.diff(group[left], prepend=-1) != 0
        best = left[is_best][np.cumsum(is_best) - 1]  # (left,) the best one of the same group
        # quirk: one second is added to every length and to the intersection
        inter = np.maximum(0, np.minimum(end[left], end[best]) - np.maximum(start[left], start[best]) + 1)
        union = (end[left] - start[left] + 1) + (end[best] - start[best] + 1) - inter
        overlap = inter / union
        hit = (overlap >= thresh) & ~is_best
        kept[left[is_best]] = True
        scores[left[hit]] *= np.exp(-overlap[hit] ** 2 / alpha)
        left = left[~(hit | is_best)]
    return kept, scores


def localize(selection: np.ndarray, class_probs: np.ndarray, num_snippets: np.ndarray,
             options: LocalizationOptions, classes: np.ndarray | None = None) -> Proposals:
    """Localize the predicted classes of N videos, or the given `classes` (N, C) bool.

    selection (N, T, C): A_score of each sampled snippet, any float type, converted to float64; class_probs (N, C);
    num_snippets (N,): the number L of feature rows of each video. Spans of equal score are sorted by threshold, then by
    time. Memory grows only with the number of spans. Source: released code.
    """
    video, label = np.nonzero(predict_classes(class_probs, options.class_th) if classes is None else classes)
    blocks = []
    for first in range(0, max(1, len(video)), BLOCK_ROWS):  # one empty block without videos
        block = slice(first, first + BLOCK_ROWS)
        blocks.append(localize_rows(selection, class_probs, num_snippets, video[block], label[block], options))
    return Proposals(*map(np.concatenate, zip(*blocks)))


def localize_rows(selection: np.ndarray, class_probs: np.ndarray, num_snippets: np.ndarray, video: np.ndarray,
                  label: np.ndarray, options: LocalizationOptions) -> Proposals:
    """Localize class label[i] in video[i], for R of them; see `localize`."""
    num_sampled = selection.shape[1]
    step = max(1, int(CHUNK_SAMPLES / (num_sampled * options.scale)))
    chunks = []
    for first in range(0, max(1, len(video)), step):
        chunk = slice(first, first + step)
        rows = selection[video[chunk], :, label[chunk]].astype(np.float64)  # (step, T)
        spans = threshold_and_score(upsample(rows, options.scale), options.oic_margin)
        chunks.append(spans._replace(row=first + spans.row))
    row, start, end, contrast = map(np.concatenate, zip(*chunks))

    scores = contrast + options.oic_class_weight * class_probs[video, label].astype(np.float64)[row]
    order = np.lexsort((-scores, row))  # a stable sort
    row, scores = row[order], scores[order]
    sample_seconds = options.snippet_frames * num_snippets / (options.scale * num_sampled * options.feature_fps)
    segments = np.stack([start, end], axis=1)[order] * sample_seconds[video[row], None]
    kept, scores = nms(row, segments, scores, options.nms_thresh, options.nms_alpha)
    if not options.soft_nms:
        row, segments, scores = row[kept], segments[kept], scores[kept]
    return Proposals(video[row], label[row], segments, scores)
