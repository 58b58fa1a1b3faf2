"""The timeline of one video as a picture: what the network sees, what is detected, and the truth.

    python -m eval.timeline gt.json detections.json --video video_test_0000004 --curves curves.npz -o timeline.png
    python -m eval.timeline gt.json baseline.json aicl.json --video video_test_0000004 -o compared.svg

From top to bottom: for every class of the video its ground truth, the detections of each result file, placed by their
score, and its selection score and class activation sequence; then both actionness curves with their medians. Shading
tells where these two agree, each binarised at its own median, strictly greater: consistent action, consistent
background, inconsistent (section 3.3 of the paper). Drawn with matplotlib, in the colours of Okabe and Ito.
"""
import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from eval.curves import ACTION, BACKGROUND, INCONSISTENT, Curves, read_curves, regions
from eval.files import Detections, GroundTruth, match_videos, read_detections, read_ground_truth
from utils import InputError, Parser, keep_inputs, number, quote, run_command, shorten, write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AWARE, AGNOSTIC, CAS, TRUTH = '#0072B2', '#D55E00', '#CC79A7', '#222222'
RESULTS = '#009E73', '#E69F00', '#56B4E9', '#CC79A7', '#0072B2', '#D55E00'
REGIONS = {ACTION: ('consistent action', '#009E73', 0.3), BACKGROUND: ('consistent background', '#999999', 0.2),
           INCONSISTENT: ('inconsistent', '#F0E442', 0.5)}
NOTHING = np.zeros((0, 2))  # segments


# ---- what the files know of a video ---------------------------------------------------------------------------------

class Found(NamedTuple):
    """What one result file has of one class, the best last."""
    segments: np.ndarray  # (n, 2) seconds
    scores: np.ndarray  # (n,)


class VideoCurves(NamedTuple):
    """The curves of one video over its T snippets."""
    time: np.ndarray  # (T + 1,) seconds: where the snippets begin, and where the last ends
    aware: np.ndarray  # (T,) class-aware actionness
    agnostic: np.ndarray  # (T,) class-agnostic actionness
    selection: dict[str, np.ndarray]  # of each class that matters in the video: its selection score (T,) ...
    cas: dict[str, np.ndarray]  # ... and its class activation sequence (T,)


def instances_of(video: str, truth: GroundTruth) -> dict[str, np.ndarray] | None:
    """Segments (n, 2) of a video by label; None if the ground truth does not list it."""
    index = match_videos([video], truth.videos)[0]
    rows = np.flatnonzero(truth.video == index)
    labels = truth.label[rows]
    return None if index < 0 else {truth.labels[c]: truth.segments[rows[labels == c]] for c in np.unique(labels)}


def detections_in(video: str, detections: Detections, min_score: float) -> dict[str, Found] | None:
    """The detections of a video with `min_score` or more by label; None if the file has no such video."""
    index = match_videos([video], detections.videos)[0]
    rows = np.flatnonzero((detections.video == index) & (detections.scores >= min_score))
    rows = rows[np.argsort(detections.scores[rows], kind='stable')]
    labels = detections.label[rows]
    by_label = {detections.labels[c]: rows[labels == c] for c in np.unique(labels)}
    return None if index < 0 else {label: Found(detections.segments[own], detections.scores[own])
                                   for label, own in by_label.items()}


def curves_of(video: str, curves: Curves) -> VideoCurves | None:
    """The curves of a video; None if there are none of it."""
    index = match_videos([video], curves.videos)[0]
    if index < 0:
        return None
    pairs = {curves.labels[curves.label[pair]]: pair for pair in np.flatnonzero(curves.video == index)}
    return VideoCurves(
        np.arange(curves.aware.shape[1] + 1) * curves.seconds[index], curves.aware[index], curves.agnostic[index],
        {label: curves.selection[pair].astype(np.float64) for label, pair in pairs.items()},
        {label: curves.cas[pair].astype(np.float64) for label, pair in pairs.items()})


# ---- the panels -----------------------------------------------------------------------------------------------------

class Panel(Protocol):
    """One strip of the picture."""
    @property
    def height(self) -> float:
        """A share of the picture's height; 1 is about 2.7 cm."""

    def draw(self, ax: 'Axes') -> None:
        """Draw it into axes of its own."""


@dataclass(frozen=True)
class TruthPanel:
    """The instances of a class, under its name."""
    label: str
    instances: np.ndarray  # (n, 2)
    height: float = 0.4

    def draw(self, ax: 'Axes') -> None:
        ax.broken_barh([(start, max(end - start, 0)) for start, end in self.instances], (0, 1), color=TRUTH,
                       linewidth=0)
        ax.set(ylim=(0, 1), yticks=[])
        ax.set_ylabel('truth', rotation=0, ha='right', va='center')
        ax.set_title(shorten(self.label, 90) or 'no class', loc='left', fontsize='medium', fontweight='bold',
                     parse_math=False)
        ax.spines[['left', 'top', 'right']].set_visible(False)


@dataclass(frozen=True)
class ResultPanel:
    """The detections of a class in one result file, placed by their score."""
    name: str
    found: Found
    instances: np.ndarray  # (n, 2), shaded
    colour: str
    span: tuple[float, float]  # scores at the lower and the upper end

    @property
    def height(self) -> float:
        return 1.6 if len(self.found.scores) else 0.4

    def draw(self, ax: 'Axes') -> None:
        _shade(ax, self.instances)
        start, end = self.found.segments.T
        low, high = self.span
        thickness = 0.035 * (high - low)
        # The edge keeps those apart that lie on each other; the best are drawn last, on top.
        ax.barh(self.found.scores, end - start, thickness, start, color=self.colour, edgecolor='#333333',
                linewidth=0.5)
        ax.set(ylim=(low - 2 * thickness, high + 2 * thickness))
        ax.set_title(f'{shorten(self.name, 28)}: {len(start) or "none"}', loc='right', fontsize='small',
                     color='#555555', pad=2, parse_math=False)
        if len(start):
            ax.set_ylabel('score')
            ax.grid(axis='y', color='#E3E3E3')
            ax.set_axisbelow(True)
        else:
            ax.set_yticks([])
        ax.spines[['top', 'right']].set_visible(False)


@dataclass(frozen=True)
class ScoresPanel:
    """Selection score and class activation sequence of a class."""
    time: np.ndarray  # (T,)
    selection: np.ndarray  # (T,)
    cas: np.ndarray  # (T,)
    instances: np.ndarray  # (n, 2), shaded
    height: float = 1.1

    def draw(self, ax: 'Axes') -> None:
        _shade(ax, self.instances)
        ax.plot(self.time, self.selection, color=AWARE, linewidth=1.2)
        ax.set(ylim=(-0.03, 1.03))
        ax.set_ylabel('selection', color=AWARE)
        other = ax.twinx()
        other.plot(self.time, self.cas, color=CAS, linewidth=1.2)
        other.set_ylabel('CAS', color=CAS)
        for axes in (ax, other):
            axes.spines['top'].set_visible(False)


@dataclass(frozen=True)
class ActionnessPanel:
    """Both actionnesses with their medians, and where they agree."""
    curves: VideoCurves
    height: float = 1.5

    def draw(self, ax: 'Axes') -> None:
        edges, aware, agnostic = self.curves.time, self.curves.aware, self.curves.agnostic
        region = regions(aware, agnostic)
        cuts = np.flatnonzero(np.diff(region)) + 1
        starts, ends = np.concatenate(([0], cuts)), np.concatenate((cuts, [len(region)]))
        for value, (name, colour, alpha) in REGIONS.items():
            spans = [(edges[a], edges[b] - edges[a]) for a, b in zip(starts, ends) if region[a] == value]
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


def _shade(ax: 'Axes', instances: np.ndarray) -> None:
    for start, end in instances:
        ax.axvspan(start, end, color=TRUTH, alpha=0.09, linewidth=0)


# ---- the picture ----------------------------------------------------------------------------------------------------

def draw_timeline(video: str, truth: GroundTruth, results: Sequence[tuple[str, Detections]] = (),
                  curves: Curves | None = None, min_score: float = -math.inf) -> 'Figure':
    """The timeline of a video as a matplotlib figure; `results` are named detections, drawn one below the other.

    Classes drawn are those annotated, or detected with `min_score` or more. InputError if nobody knows the video.
    """
    from matplotlib.figure import Figure
    instances = instances_of(video, truth)
    found = [detections_in(video, detections, min_score) for _, detections in results]
    own_curves = curves_of(video, curves) if curves else None
    if instances is None and own_curves is None and all(own is None for own in found):
        raise InputError(f'no file knows a video named {quote(video)}')
    instances, by_name = instances or {}, [(name, own or {}) for (name, _), own in zip(results, found)]

    panels = choose_panels(instances, by_name, own_curves)
    heights = [panel.height for panel in panels]
    figure = Figure(figsize=(13, 1.5 + 1.08 * sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
    for ax, panel in zip(axes, panels):
        panel.draw(ax)
    axes[-1].set_xlabel('seconds')
    axes[-1].set_xlim(0, length_of(video, truth, instances, by_name, own_curves))
    least = f', detections with a score of at least {min_score:g}' if min_score > -math.inf else ''
    figure.suptitle(shorten(video, 80) + least, parse_math=False)
    return figure


def choose_panels(instances: Mapping[str, np.ndarray], results: Sequence[tuple[str, Mapping[str, Found]]],
                  curves: VideoCurves | None) -> list[Panel]:
    """The panels of a video from top to bottom, class by class; at least one."""
    labels = sorted({*instances, *(label for _, found in results for label in found)})
    scores = np.concatenate([[0, 1], *(own.scores for _, found in results for own in found.values())])
    span = scores.min(), scores.max()  # one axis for all, so that files can be compared
    panels: list[Panel] = []
    for label in labels:
        own = instances.get(label, NOTHING)
        panels.append(TruthPanel(label, own))
        for i, (name, found) in enumerate(results):
            rows = found.get(label, Found(NOTHING, np.zeros(0)))
            panels.append(ResultPanel(name, rows, own, RESULTS[i % len(RESULTS)], span))
        if curves and label in curves.selection:
            # A snippet's score sits at its start, as in localization.
            panels.append(ScoresPanel(curves.time[:-1], curves.selection[label], curves.cas[label], own))
    if curves:
        panels.append(ActionnessPanel(curves))
    return panels or [TruthPanel('', NOTHING)]


def length_of(video: str, truth: GroundTruth, instances: Mapping[str, np.ndarray],
              results: Sequence[tuple[str, Mapping[str, Found]]], curves: VideoCurves | None) -> float:
    """Seconds to show: the duration of the video, else what the curves cover, else the last end of all segments."""
    index = match_videos([video], truth.videos)[0]
    if index >= 0 and truth.durations[index] > 0:
        return float(truth.durations[index])
    if curves:
        return float(curves.time[-1])
    everything = [*instances.values(), *(own.segments for _, found in results for own in found.values())]
    return max([1e-3, *(float(segments[:, 1].max()) for segments in everything)])


# ---- the command ----------------------------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.timeline', description='The timeline of one video as a picture.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', nargs='+', metavar='DETECTIONS.json', help='drawn one below the other')
    parser.add_argument('--video', required=True, metavar='NAME')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the run')
    parser.add_argument('--min_score', type=number(float, -math.inf, math.inf), default=-math.inf, metavar='S',
                        help='leave out detections below it')
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
