"""The timeline of one video as a picture: what the network sees, what is detected, and the truth.

    python -m eval.timeline gt.json detections.json --video video_test_0000004 --curves curves.npz -o timeline.png
    python -m eval.timeline gt.json baseline.json aicl.json --video video_test_0000004 -o compared.svg
    python -m eval.timeline detections.json --video street --from 60 --to 90 --width 7 -o street.pdf

From top to bottom: for every class of the video its ground truth, the detections of each result file, placed by their
score, and its selection score and class activation sequence; then both actionness curves with their medians. Shading
tells where these two agree, each binarised at its own median, strictly greater: consistent action, consistent
background, inconsistent (section 3.3 of the paper). Where the ground truth lists the video, the colour of a detection
is its kind of error (see `eval.diagnosis`); otherwise every result file has its own. Annotated classes come first, then
those of the best scores. Drawn with matplotlib, in the colours of Okabe and Ito.
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
from eval.detection import scored_subset
from eval.diagnosis import COLOURS, KINDS, diagnose
from formats.annotations import GroundTruth, match_videos
from formats.detections import Detections, read_any
from utils import (
    IMAGE_SIGNATURES,
    InputError,
    Parser,
    refuse_overwriting_inputs,
    refuse_overwriting_foreign,
    number,
    quote,
    run_cli,
    truncate,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AWARE, AGNOSTIC, CAS, TRUTH = '#0072B2', '#D55E00', '#CC79A7', '#222222'
RESULTS = '#009E73', '#E69F00', '#56B4E9', '#CC79A7', '#0072B2', '#D55E00'
REGIONS = {ACTION: ('consistent action', '#009E73', 0.3), BACKGROUND: ('consistent background', '#999999', 0.2),
           INCONSISTENT: ('inconsistent', '#F0E442', 0.5)}
KIND_COLOURS = np.array([*COLOURS, '#F4F4F4'])
KIND_NAMES = *KINDS, 'not judged'
MOST_CLASSES = 30  # with one result file; more are no picture, and are counted in the title
MOST_FILES = 20
MOST_BARS = 2000  # of one class and file, the best
FINEST = 1e-5  # instances that are closer than this part of what is shown are drawn as one
NOTHING = np.zeros((0, 2))  # segments


# ---- what the files know of a video ---------------------------------------------------------------------------------

class Result(NamedTuple):
    """One result file, or one network's detections, and the kind of each if they were judged."""
    name: str
    detections: Detections
    kinds: np.ndarray | None = None  # (R,) index into KIND_NAMES, as `Diagnosis.kinds` has them


class Found(NamedTuple):
    """What one result file has of one class, the best last."""
    segments: np.ndarray  # (n, 2) seconds
    scores: np.ndarray  # (n,)
    colours: np.ndarray  # (n,) texts


class VideoCurves(NamedTuple):
    """The curves of one video over its T snippets."""
    time: np.ndarray  # (T + 1,) seconds: where the snippets begin, and where the last ends
    aware: np.ndarray  # (T,) class-aware actionness
    agnostic: np.ndarray  # (T,) class-agnostic actionness
    selection: dict[str, np.ndarray]  # of each class that matters in the video: its selection score (T,) ...
    cas: dict[str, np.ndarray]  # ... and its class activation sequence (T,)


def instances_of(video: str, truth: GroundTruth, window: tuple[float, float]) -> dict[str, np.ndarray] | None:
    """Segments (n, 2) of a video by label that reach into `window`; None if the ground truth does not list it."""
    index = match_videos([video], truth.videos)[0]
    if index < 0:
        return None
    rows = np.flatnonzero((truth.video == index) & _inside(truth.segments, window))
    labels = truth.label[rows]
    return {truth.labels[c]: truth.segments[rows[labels == c]] for c in np.unique(labels)}


def detections_in(video: str, result: Result, colour: str, min_score: float, window: tuple[float, float]
                  ) -> dict[str, Found] | None:
    """A video's detections with `min_score` or more by label, those that reach into `window`; None if it is not there.

    They have the colours of their kinds, or else `colour`.
    """
    detections = result.detections
    index = match_videos([video], detections.videos)[0]
    if index < 0:
        return None
    keep = (detections.video == index) & (detections.scores >= min_score) & _inside(detections.segments, window)
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(detections.scores[rows], kind='stable')]
    labels = detections.label[rows]
    colours = np.full(len(rows), colour) if result.kinds is None else KIND_COLOURS[result.kinds[rows]]
    scores = detections.scores[rows].clip(-1e100, 1e100)  # an axis overflows beyond
    return {detections.labels[c]: Found(detections.segments[rows[labels == c]], scores[labels == c],
                                        colours[labels == c]) for c in np.unique(labels)}


def _inside(segments: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Which segments (n, 2) reach into a window, (n,) bool."""
    return (segments[:, 1] >= window[0]) & (segments[:, 0] <= window[1])


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
        """BatchIndices it into axes of its own."""


@dataclass(frozen=True)
class ClassPanel:
    """The name of a class, and its instances where the ground truth lists the video."""
    label: str
    instances: np.ndarray | None  # (n, 2) disjoint

    @property
    def height(self) -> float:
        return 0.1 if self.instances is None else 0.4

    def draw(self, ax: 'Axes') -> None:
        ax.set(ylim=(0, 1), yticks=[])
        ax.set_title(truncate(self.label, 90) or 'no class', loc='left', fontsize='medium', fontweight='bold',
                     parse_math=False)
        ax.spines[['left', 'top', 'right']].set_visible(False)
        if self.instances is None:
            ax.spines['bottom'].set_visible(False)
            ax.tick_params(bottom=False)
        else:
            ax.broken_barh([(start, end - start) for start, end in self.instances], (0, 1), color=TRUTH, linewidth=0)
            ax.set_ylabel('truth', rotation=0, ha='right', va='center')


@dataclass(frozen=True)
class ResultPanel:
    """The detections of a class in one result file, placed by their score."""
    name: str
    found: Found
    instances: np.ndarray  # (n, 2) disjoint, shaded
    span: tuple[float, float]  # scores at the lower and the upper end

    @property
    def height(self) -> float:
        return 1.6 if len(self.found.scores) else 0.4

    def draw(self, ax: 'Axes') -> None:
        _shade(ax, self.instances)
        count = len(self.found.scores)
        segments, scores, colours = (column[-MOST_BARS:] for column in self.found)
        low, high = self.span
        thickness = 0.035 * (high - low)
        # The edge keeps those apart that lie on each other; the best are drawn last, on top.
        ax.barh(scores, segments[:, 1] - segments[:, 0], thickness, segments[:, 0], color=colours,
                edgecolor='#333333', linewidth=0.5)
        ax.set(ylim=(low - 2 * thickness, high + 2 * thickness))
        shown = f', the best {MOST_BARS} drawn' if count > MOST_BARS else ''
        ax.set_title(f'{truncate(self.name, 28)}: {count or "none"}{shown}', loc='right', fontsize='small',
                     color='#555555', pad=2, parse_math=False)
        if count:
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
    instances: np.ndarray  # (n, 2) disjoint, shaded
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
    columns: int  # of the legend
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
        ax.legend(ncols=self.columns, loc='lower right', bbox_to_anchor=(1, 1), fontsize='small',
                  frameon=False, borderpad=0.2, columnspacing=1.2)
        ax.spines[['top', 'right']].set_visible(False)


def _columns(width: float) -> int:
    """How many entries of a legend fit side by side into so many inches."""
    return max(1, int(width / 1.8))


def _shade(ax: 'Axes', instances: np.ndarray) -> None:
    for start, end in instances:
        ax.axvspan(start, end, color=TRUTH, alpha=0.09, linewidth=0)


# ---- the picture ----------------------------------------------------------------------------------------------------

def draw_timeline(video: str, truth: GroundTruth | None, results: Sequence[Result] = (), curves: Curves | None = None,
                  min_score: float = -math.inf, window: tuple[float, float] = (-math.inf, math.inf), width: float = 13
                  ) -> 'Figure':
    """The timeline of a video as a matplotlib figure; `results` are drawn one below the other.

    Classes drawn are those annotated, or detected with `min_score` or more, within `window` (seconds). `width` is in
    inches. Raises InputError if nobody knows the video.
    """
    if len(results) > MOST_FILES:
        raise InputError(f'{len(results)} result files are too many for one picture, {MOST_FILES} fit')
    instances = instances_of(video, truth, window) if truth else None
    found = [detections_in(video, result, RESULTS[i % len(RESULTS)], min_score, window)
             for i, result in enumerate(results)]
    own_curves = curves_of(video, curves) if curves else None
    if instances is None and own_curves is None and all(own is None for own in found):
        raise InputError(f'no file knows a video named {quote(video)}')
    by_name = [(result.name, own or {}) for result, own in zip(results, found)]

    left, right = shown_span(video, window, length_of(video, truth, instances or {}, by_name, own_curves))
    labels = order_labels(instances or {}, by_name)
    drawn = labels[:max(1, MOST_CLASSES // max(1, len(results)))]
    covered = None
    if instances is not None:
        covered = {label: merge(segments, FINEST * (right - left)) for label, segments in instances.items()}
    panels = class_panels(drawn, covered, by_name, own_curves)
    if own_curves:
        panels.append(ActionnessPanel(own_curves, _columns(width)))

    figure = stack(panels or [ClassPanel('', NOTHING)], width, (left, right))
    title = title_of(video, width, min_score, len(drawn), len(labels))
    figure.suptitle(title, parse_math=False, wrap=True)
    if any(result.kinds is not None for result in results):
        add_legend(figure, {colour for _, rows in by_name for own in rows.values() for colour in own.colours})
    return figure


def shown_span(video: str, window: tuple[float, float], length: float) -> tuple[float, float]:
    """The seconds that are drawn: the window, from 0 and up to the end. Raises InputError if nothing is left."""
    left, right = max(window[0], 0), length if window[1] == math.inf else window[1]
    if left >= right:
        end = 'the end' if window[1] == math.inf else f'{right:g} s'
        raise InputError(f'there is nothing to draw from {left:g} s to {end} of the video {quote(video)}')
    return left, right


def title_of(video: str, width: float, min_score: float, num_drawn: int, num_classes: int) -> str:
    title = truncate(video, int(6 * width))
    if min_score > -math.inf:
        title += f', detections with a score of at least {min_score:g}'
    if num_drawn < num_classes:
        title += f', {num_drawn} of {num_classes} classes'
    return title


def stack(panels: Sequence[Panel], width: float, span: tuple[float, float]) -> 'Figure':
    """Panels, the first on top, on one axis of time."""
    from matplotlib.figure import Figure
    heights = [panel.height for panel in panels]
    figure = Figure(figsize=(width, 1.5 + 1.08 * sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
    for ax, panel in zip(axes, panels):
        panel.draw(ax)
    axes[-1].set_xlabel('seconds')
    axes[-1].set_xlim(span)
    return figure


def add_legend(figure: 'Figure', colours: set[str]) -> None:
    """The kinds of error that have these colours, below the picture."""
    from matplotlib.patches import Patch
    kinds = [Patch(facecolor=colour, edgecolor='#333333', linewidth=0.5, label=name)
             for name, colour in zip(KIND_NAMES, KIND_COLOURS) if colour in colours]
    figure.legend(handles=kinds, loc='outside lower center', ncols=_columns(figure.get_figwidth()), frameon=False,
                  fontsize='small')


def order_labels(instances: Mapping[str, np.ndarray], results: Sequence[tuple[str, Mapping[str, Found]]]) -> list[str]:
    """The classes of a video: the annotated ones by name, then the others, the best scores first."""
    best: dict[str, float] = {}
    for _, found in results:
        for label, own in found.items():
            best[label] = max(best.get(label, -math.inf), float(own.scores[-1]))
    return [*sorted(instances), *sorted(best.keys() - instances.keys(), key=lambda label: (-best[label], label))]


def merge(segments: np.ndarray, gap: float) -> np.ndarray:
    """What segments (n, 2) cover: disjoint ones (m, 2) in the order of time, joined across gaps of up to `gap`."""
    segments = segments[segments[:, 0] < segments[:, 1]]
    segments = segments[np.argsort(segments[:, 0])]
    reach = np.maximum.accumulate(segments[:, 1])
    first = np.flatnonzero(np.append(True, segments[1:, 0] > reach[:-1] + gap))[:len(segments)]
    return np.stack([segments[first, 0], np.append(reach[first[1:] - 1], reach[-1:])], axis=1)


def class_panels(labels: Sequence[str], instances: Mapping[str, np.ndarray] | None,
                 results: Sequence[tuple[str, Mapping[str, Found]]], curves: VideoCurves | None) -> list[Panel]:
    """The panels of these classes from top to bottom."""
    scores = np.concatenate([[0, 1], *(own.scores for _, found in results for own in found.values())])
    span = scores.min(), scores.max()  # one axis for all, so that files can be compared
    panels: list[Panel] = []
    for label in labels:
        own = instances.get(label, NOTHING) if instances else NOTHING
        panels.append(ClassPanel(label, None if instances is None else own))
        for name, found in results:
            nothing = Found(NOTHING, np.zeros(0), np.zeros(0, np.str_))
            panels.append(ResultPanel(name, found.get(label, nothing), own, span))
        if curves and label in curves.selection:
            # A snippet's score sits at its start, as in localization.
            panels.append(ScoresPanel(curves.time[:-1], curves.selection[label], curves.cas[label], own))
    return panels


def length_of(video: str, truth: GroundTruth | None, instances: Mapping[str, np.ndarray],
              results: Sequence[tuple[str, Mapping[str, Found]]], curves: VideoCurves | None) -> float:
    """Seconds to show: the duration of the video, else what the curves cover, else the last end of all segments."""
    index = match_videos([video], truth.videos)[0] if truth else -1
    if truth and index >= 0 and truth.durations[index] > 0:
        return float(truth.durations[index])
    if curves:
        return float(curves.time[-1])
    everything = [*instances.values(), *(own.segments for _, found in results for own in found.values())]
    return max([1e-3, *(float(segments[:, 1].max()) for segments in everything)])


def judge_kinds(video: str, truth: GroundTruth, detections: Detections, tiou: float) -> np.ndarray | None:
    """The kinds of error of all detections (R,) in the subset in which `video` is annotated; None if it is not."""
    index = match_videos([video], truth.videos)[0]
    if index < 0 or not (truth.video == index).any():
        return None
    return diagnose(scored_subset(truth, [video]), detections, [tiou]).kinds[0]


# ---- the command ----------------------------------------------------------------------------------------------------

def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    seconds = number(float, 0, 1e12)
    parser = Parser(prog='python -m eval.timeline', description='The timeline of one video as a picture.')
    parser.add_argument('files', nargs='+', metavar='FILE.json',
                        help='ground truth, if there is one, and detections, drawn one below the other')
    parser.add_argument('--video', required=True, metavar='NAME')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the run')
    parser.add_argument('--min_score', type=number(float, -math.inf, math.inf), default=-math.inf, metavar='S',
                        help='leave out detections below it')
    parser.add_argument('--tiou', type=float, default=0.5, metavar='T',
                        help='threshold that tells the kinds of error (default: 0.5)')
    parser.add_argument('--from', dest='start', type=seconds, default=0, metavar='S', help='second to begin at')
    parser.add_argument('--to', dest='end', type=seconds, default=math.inf, metavar='S', help='second to end at')
    parser.add_argument('--width', type=number(float, 2, 60), default=13, metavar='INCHES',
                        help='of the picture (default: 13)')
    parser.add_argument('-o', '--output', metavar='FILE', default='timeline.png',
                        help='a .png, .svg or .pdf (default: timeline.png)')
    parser.add_argument('--overwrite', action='store_true', help='also write over a file that is no picture')
    args = parser.parse_args(arguments)
    return run_cli(lambda: draw_file(args))


def draw_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    refuse_overwriting_inputs([*args.files, args.curves], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, IMAGE_SIGNATURES)
    read = {path: read_any(path) for path in args.files}
    truths = [path for path, content in read.items() if isinstance(content, GroundTruth)]
    if len(truths) > 1:
        raise InputError(f'{truths[0]} and {truths[1]} both hold ground truth, give one')
    truth = next((content for content in read.values() if isinstance(content, GroundTruth)), None)
    found = {path: content for path, content in read.items() if isinstance(content, Detections)}
    results = [Result(_name(path, list(found)), detections,
                      judge_kinds(args.video, truth, detections, args.tiou) if truth else None)
               for path, detections in found.items()]
    figure = draw_timeline(args.video, truth, results, read_curves(args.curves) if args.curves else None,
                           args.min_score, (args.start, args.end), args.width)
    save_figure(args.output, figure)
    print(args.output, flush=True)


def _name(path: str, paths: Sequence[str]) -> str:
    """A short name of a result file: that of the file, or of its folder where files have the same name."""
    same = sum(Path(other).name == Path(path).name for other in paths) > 1
    return Path(path).resolve().parent.name if same else Path(path).name


if __name__ == '__main__':
    sys.exit(main())
