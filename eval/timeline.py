"""The timeline of one video as a picture: what the network sees, what is detected, and the truth.

    python -m eval.timeline gt.json detections.json --video video_test_0000004 --curves curves.npz -o timeline.png
    python -m eval.timeline gt.json baseline.json aicl.json --video video_test_0000004 -o compared.svg

From top to bottom: for every class of the video its ground truth, the detections of each result file, placed by their
score, and its selection score and class activation sequence; then both actionness curves with their medians. Shading
tells where these two agree, each binarised at its own median, strictly greater: consistent action, consistent
background, inconsistent (section 3.3 of the paper). Drawn with matplotlib, in the colours of Okabe and Ito.
"""
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.curves import ACTION, BACKGROUND, INCONSISTENT, Curves, read_curves, regions
from eval.files import Detections, GroundTruth, match_videos, read_detections, read_ground_truth
from utils import InputError, Parser, keep_inputs, quote, run_command, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AWARE, AGNOSTIC, CAS, TRUTH = '#0072B2', '#D55E00', '#CC79A7', '#222222'
RESULTS = '#009E73', '#E69F00', '#56B4E9', '#CC79A7', '#0072B2', '#D55E00'
REGIONS = {ACTION: ('consistent action', '#009E73', 0.3), BACKGROUND: ('consistent background', '#999999', 0.2),
           INCONSISTENT: ('inconsistent', '#F0E442', 0.5)}


def draw_timeline(video: str, truth: GroundTruth, results: Sequence[tuple[str, Detections]] = (),
                  curves: Curves | None = None, min_score: float = -np.inf) -> 'Figure':
    """The timeline of a video as a matplotlib figure; `results` are named detections, drawn one below the other.

    Classes drawn are those annotated, or detected with `min_score` or more. InputError if nobody knows the video.
    """
    from matplotlib.figure import Figure
    own_truth = _instances(video, truth)
    own = [(name, _detections(video, detections, min_score)) for name, detections in results]
    row = int(match_videos([video], curves.videos)[0]) if curves else -1
    if own_truth is None and all(found is None for _, found in own) and row < 0:
        raise InputError(f'no file knows a video named {quote(video)}')
    segments = own_truth or {}
    found = [(name, rows or {}) for name, rows in own]
    labels = sorted({*segments, *(label for _, rows in found for label in rows)})
    scores = np.concatenate([[0, 1], *(scores for _, rows in found for _, scores in rows.values())])
    span = scores.min(), scores.max()  # one axis for all, so that files can be compared

    panels = [(kind, label, height) for label in labels for kind, height in (
        ('truth', 0.4), *((('result', i), 1.6 if label in rows else 0.4) for i, (_, rows) in enumerate(found)),
        *((('scores', 1.1),) if _pair(curves, row, label) is not None else ()))]
    panels += [('actionness', '', 1.5)] if row >= 0 else []
    if not panels:
        panels = [('truth', '', 0.4)]
    heights = [height for *_, height in panels]
    figure = Figure(figsize=(13, 1.5 + 1.08 * sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
    for ax, (kind, label, _) in zip(axes, panels):
        own_segments = segments.get(label, np.zeros((0, 2)))
        if kind == 'truth':
            _draw_truth(ax, label, own_segments)
        elif kind == 'actionness':
            _draw_actionness(ax, curves, row)
        else:
            for start, end in own_segments:
                ax.axvspan(start, end, color=TRUTH, alpha=0.09, linewidth=0)
            if kind == 'scores':
                _draw_scores(ax, curves, row, _pair(curves, row, label))
            else:
                name, rows = found[kind[1]]
                _draw_detections(ax, _shorten(name, 28), rows.get(label), RESULTS[kind[1] % len(RESULTS)], span)
    axes[-1].set_xlabel('seconds')
    axes[-1].set_xlim(0, _length(video, truth, segments, found, curves, row))
    title = _shorten(video, 80)
    figure.suptitle(title + (f', detections with a score of at least {min_score:g}' if np.isfinite(min_score) else ''),
                    parse_math=False)
    return figure


def _shorten(name: str, length: int) -> str:
    """A name from a file in one line of at most `length` characters that a font can have."""
    name = ''.join(c if c.isprintable() else '\N{REPLACEMENT CHARACTER}' for c in name)
    return name if len(name) <= length else name[:length - 1] + '…'


def _instances(video: str, truth: GroundTruth) -> dict[str, np.ndarray] | None:
    """Segments (n, 2) of the video by label; None if the ground truth does not list it."""
    index = match_videos([video], truth.videos)[0]
    rows = np.flatnonzero(truth.video == index)
    labels = truth.label[rows]
    return None if index < 0 else {truth.labels[c]: truth.segments[rows[labels == c]] for c in np.unique(labels)}


def _detections(video: str, detections: Detections, min_score: float) -> dict[str, tuple] | None:
    """Segments (n, 2) and scores (n,) of the video by label, the best last; None if the file has no such video."""
    index = match_videos([video], detections.videos)[0]
    rows = np.flatnonzero((detections.video == index) & (detections.scores >= min_score))
    rows = rows[np.argsort(detections.scores[rows], kind='stable')]
    labels = detections.label[rows]
    return None if index < 0 else {
        detections.labels[c]: (detections.segments[rows[labels == c]], detections.scores[rows[labels == c]])
        for c in np.unique(labels)}


def _pair(curves: Curves | None, row: int, label: str) -> int | None:
    """The row of a class in the curves of a video, None if they do not have it."""
    if row < 0 or label not in curves.labels:
        return None
    rows = np.flatnonzero((curves.video == row) & (curves.label == curves.labels.index(label)))
    return int(rows[0]) if len(rows) else None


def _length(video: str, truth: GroundTruth, segments: dict, found: list, curves: Curves | None, row: int) -> float:
    """Seconds to show: the duration of the video, else what the curves cover, else the last end of all segments."""
    index = match_videos([video], truth.videos)[0]
    if index >= 0 and truth.durations[index] > 0:
        return truth.durations[index]
    if row >= 0:
        return curves.seconds[row] * curves.aware.shape[1]
    everything = [*segments.values(), *(detected for _, rows in found for detected, _ in rows.values())]
    return max([1e-3, *(ends.max() for _, ends in map(np.transpose, everything))])


def _draw_truth(ax: 'Axes', label: str, segments: np.ndarray) -> None:
    ax.broken_barh([(start, max(end - start, 0)) for start, end in segments], (0, 1), color=TRUTH, linewidth=0)
    ax.set(ylim=(0, 1), yticks=[])
    ax.set_ylabel('truth', rotation=0, ha='right', va='center')
    ax.set_title(_shorten(label, 90) or 'no class', loc='left', fontsize='medium', fontweight='bold', parse_math=False)
    ax.spines[['left', 'top', 'right']].set_visible(False)


def _draw_detections(ax: 'Axes', name: str, rows: tuple | None, colour: str, span: tuple[float, float]) -> None:
    segments, scores = rows or (np.zeros((0, 2)), np.zeros(0))
    height = 0.035 * (span[1] - span[0])
    # The edge keeps those apart that lie on each other; the best are drawn last, on top.
    ax.barh(scores, segments[:, 1] - segments[:, 0], height, segments[:, 0], color=colour, edgecolor='#333333',
            linewidth=0.5)
    ax.set(ylim=(span[0] - 2 * height, span[1] + 2 * height))
    ax.set_title(f'{name}: {len(scores) or "none"}', loc='right', fontsize='small', color='#555555', pad=2,
                 parse_math=False)
    if len(scores):
        ax.set_ylabel('score')
        ax.grid(axis='y', color='#E3E3E3')
        ax.set_axisbelow(True)
    else:
        ax.set_yticks([])
    ax.spines[['top', 'right']].set_visible(False)


def _draw_scores(ax: 'Axes', curves: Curves, row: int, pair: int) -> None:
    # A snippet's score sits at its start, as in localization.
    time = np.arange(curves.aware.shape[1]) * curves.seconds[row]
    ax.plot(time, curves.selection[pair].astype(np.float64), color=AWARE, linewidth=1.2)
    ax.set(ylim=(-0.03, 1.03))
    ax.set_ylabel('selection', color=AWARE)
    other = ax.twinx()
    other.plot(time, curves.cas[pair].astype(np.float64), color=CAS, linewidth=1.2)
    other.set_ylabel('CAS', color=CAS)
    for axes in (ax, other):
        axes.spines['top'].set_visible(False)


def _draw_actionness(ax: 'Axes', curves: Curves, row: int) -> None:
    aware, agnostic = curves.aware[row], curves.agnostic[row]
    edges = np.arange(len(aware) + 1) * curves.seconds[row]
    found = regions(aware, agnostic)
    cuts = np.flatnonzero(np.diff(found)) + 1
    starts, ends = np.concatenate(([0], cuts)), np.concatenate((cuts, [len(found)]))
    for region, (name, colour, alpha) in REGIONS.items():
        spans = [(edges[a], edges[b] - edges[a]) for a, b in zip(starts, ends) if found[a] == region]
        ax.broken_barh(spans, (-0.03, 1.06), color=colour, alpha=alpha, linewidth=0, label=name)
    for name, values, colour in (('class-aware', aware, AWARE), ('class-agnostic', agnostic, AGNOSTIC)):
        ax.plot(edges[:-1], values, color=colour, linewidth=1.2, label=name)
        median = np.median(values)
        ax.axhline(median, color=colour, linestyle='--', linewidth=0.9, label=f'its median {median:.2f}')
    ax.set(ylim=(-0.03, 1.03), ylabel='actionness')
    ax.set_title('Actionness', loc='left', fontsize='medium', fontweight='bold')
    ax.legend(ncols=7, loc='lower right', bbox_to_anchor=(1, 1), fontsize='small', frameon=False, borderpad=0.2,
              columnspacing=1.2)
    ax.spines[['top', 'right']].set_visible(False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.timeline', description='The timeline of one video as a picture.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', nargs='+', metavar='DETECTIONS.json', help='drawn one below the other')
    parser.add_argument('--video', required=True, metavar='NAME')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the run')
    parser.add_argument('--min_score', type=float, default=-np.inf, metavar='S', help='leave out detections below it')
    parser.add_argument('-o', '--output', metavar='FILE', default='timeline.png',
                        help='a .png or .svg (default: timeline.png)')
    args = parser.parse_args(arguments)
    return run_command(lambda: draw_file(args))


def draw_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    keep_inputs([args.ground_truth, *args.detections, args.curves], args.output)
    results = [(_name(path, args.detections), read_detections(path)) for path in args.detections]
    figure = draw_timeline(args.video, read_ground_truth(args.ground_truth), results,
                           read_curves(args.curves) if args.curves else None, args.min_score)
    write_picture(args.output, figure)
    print(args.output, flush=True)


def _name(path: str, paths: Sequence[str]) -> str:
    """A short name of a result file: that of the file, or of its folder where files have the same name."""
    same = sum(Path(other).name == Path(path).name for other in paths) > 1
    return Path(path).resolve().parent.name if same else Path(path).name


if __name__ == '__main__':
    sys.exit(main())
