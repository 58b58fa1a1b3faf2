"""Figure of the timeline of one video: network outputs, detections and ground truth.

    python -m eval.timeline gt.json detections.json --video video_test_0000004 --curves curves.npz -o timeline.png
    python -m eval.timeline gt.json baseline.json aicl.json --video video_test_0000004 -o compared.svg
    python -m eval.timeline detections.json --video street --from 60 --to 90 --width 7 -o street.pdf

From top to bottom: for every class of the video its ground truth, the detections of each result file by score, and its
A_score and class activation sequence (CAS); then both actionness curves with their medians. Shading shows where these
two agree, each binarized at its own median, only greater values being action: consistent action, consistent background,
inconsistent (section 3.3 of the paper). If the ground truth lists the video, the color of a detection is its error type
(see `eval.diagnosis`); otherwise every result file has its own color. Annotated classes come first, then those with the
best scores. The colors are those of Okabe and Ito.
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
from eval.detection import scored_subset, suspicious_files
from eval.diagnosis import COLORS, ERROR_TYPES, diagnose
from formats.annotations import GroundTruth, match_videos
from formats.detections import Detections, read_any
from utils import (
    IMAGE_SIGNATURES,
    InputError,
    Parser,
    bounded,
    plural,
    quote,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    save_figure,
    truncate,
    warn,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AWARE_COLOR, AGNOSTIC_COLOR, CAS_COLOR, GT_COLOR = '#0072B2', '#D55E00', '#CC79A7', '#222222'
FILE_COLORS = '#009E73', '#E69F00', '#56B4E9', '#CC79A7', '#0072B2', '#D55E00'
REGIONS = {ACTION: ('consistent action', '#009E73', 0.3), BACKGROUND: ('consistent background', '#999999', 0.2),
           INCONSISTENT: ('inconsistent', '#F0E442', 0.5)}
TYPE_COLORS = np.array([*COLORS, '#F4F4F4'])
TYPE_NAMES = *ERROR_TYPES, 'unclassified'
MAX_CLASSES = 30   # with one result file; the title states how many there are
MAX_FILES = 20
MAX_BARS = 2000    # of one class and file, the best
MERGE_GAP = 1e-5   # instances closer than this fraction of the shown time are plotted as one
NO_SEGMENTS = np.zeros((0, 2))


# ---- the data of a video --------------------------------------------------------------------------------------------

class ResultFile(NamedTuple):
    """The detections of one file, or of one network, and their error types if they are known."""

    name: str
    detections: Detections
    error_types: np.ndarray | None = None  # (R,) index into TYPE_NAMES, see `Diagnosis.error_types`


class ClassDetections(NamedTuple):
    """The detections of one class in one result file, by ascending score."""

    segments: np.ndarray  # (n, 2) seconds
    scores: np.ndarray    # (n,)
    colors: np.ndarray    # (n,) texts


class VideoCurves(NamedTuple):
    """The curves of one video over its T snippets."""

    time: np.ndarray                  # (T + 1,) seconds: start of every snippet, and end of the last one
    aware: np.ndarray                 # (T,) class-aware actionness
    agnostic: np.ndarray              # (T,) class-agnostic actionness
    selection: dict[str, np.ndarray]  # A_score (T,) of each class that matters in the video
    cas: dict[str, np.ndarray]        # and its class activation sequence (T,)


class VideoData(NamedTuple):
    """What the files contain about one video, by label."""

    instances: dict[str, np.ndarray] | None  # segments (n, 2), None if the ground truth does not list the video
    detections: list[tuple[str, dict[str, ClassDetections]]]  # with the name of each result file
    curves: VideoCurves | None

    @property
    def class_detections(self) -> list[ClassDetections]:
        """Return the detections of every class in every file."""
        return [rows for _, by_label in self.detections for rows in by_label.values()]


def find_video(video: str, gt: GroundTruth | None, results: Sequence[ResultFile], curves: Curves | None,
               min_score: float, window: tuple[float, float]) -> VideoData:
    """Return the data of a video within `window`; raises InputError if no file contains the video."""
    instances = find_instances(video, gt, window) if gt else None
    detections = [find_detections(video, result, FILE_COLORS[i % len(FILE_COLORS)], min_score, window)
                  for i, result in enumerate(results)]
    video_curves = find_curves(video, curves) if curves else None
    if instances is None and video_curves is None and all(by_label is None for by_label in detections):
        raise InputError(f'no file contains a video named {quote(video)}')
    return VideoData(instances, [(result.name, by_label or {}) for result, by_label in zip(results, detections)],
                     video_curves)


def find_instances(video: str, gt: GroundTruth, window: tuple[float, float]) -> dict[str, np.ndarray] | None:
    """Return the segments (n, 2) of a video within `window` by label; None if the ground truth does not list it."""
    index = match_videos([video], gt.videos)[0]
    if index < 0:
        return None
    rows = np.flatnonzero((gt.video == index) & _overlap_window(gt.segments, window))
    labels = gt.label[rows]
    return {gt.labels[c]: gt.segments[rows[labels == c]] for c in np.unique(labels)}


def find_detections(video: str, result: ResultFile, color: str, min_score: float, window: tuple[float, float]
                    ) -> dict[str, ClassDetections] | None:
    """Return a video's detections with at least `min_score` within `window` by label; None if the file lacks the video.

    They have the colors of their error types, else `color`.
    """
    detections = result.detections
    index = match_videos([video], detections.videos)[0]
    if index < 0:
        return None
    keep = (detections.video == index) & (detections.scores >= min_score) & _overlap_window(detections.segments, window)
    rows = np.flatnonzero(keep)
    rows = rows[np.argsort(detections.scores[rows], kind='stable')]
    labels = detections.label[rows]
    colors = np.full(len(rows), color) if result.error_types is None else TYPE_COLORS[result.error_types[rows]]
    scores = detections.scores[rows].clip(-1e100, 1e100)  # an axis overflows beyond
    return {detections.labels[c]: ClassDetections(detections.segments[rows[labels == c]], scores[labels == c],
                                                  colors[labels == c]) for c in np.unique(labels)}


def _overlap_window(segments: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    """Return which segments (n, 2) overlap a window, (n,) bool."""
    return (segments[:, 1] >= window[0]) & (segments[:, 0] <= window[1])


def find_curves(video: str, curves: Curves) -> VideoCurves | None:
    """Return the curves of a video, None if the file lacks it."""
    index = match_videos([video], curves.videos)[0]
    if index < 0:
        return None
    pairs = {curves.labels[curves.label[pair]]: pair for pair in np.flatnonzero(curves.video == index)}
    return VideoCurves(
        np.arange(curves.aware.shape[1] + 1) * curves.seconds[index], curves.aware[index], curves.agnostic[index],
        {label: curves.selection[pair].astype(np.float64) for label, pair in pairs.items()},
        {label: curves.cas[pair].astype(np.float64) for label, pair in pairs.items()})


def video_length(video: str, gt: GroundTruth | None, data: VideoData) -> float:
    """Return the seconds to show: the duration of the video, else of its curves, else the last end of all segments."""
    index = match_videos([video], gt.videos)[0] if gt else -1
    if gt and index >= 0 and gt.durations[index] > 0:
        return float(gt.durations[index])
    if data.curves:
        return float(data.curves.time[-1])
    all_segments = [*(data.instances or {}).values(), *(rows.segments for rows in data.class_detections)]
    return max([1e-3, *(float(segments[:, 1].max()) for segments in all_segments)])


def sort_labels(data: VideoData) -> list[str]:
    """Return the classes of a video: the annotated ones by name, then the others by descending best score."""
    annotated = sorted(data.instances or {})
    best: dict[str, float] = {}
    for _, by_label in data.detections:
        for label, rows in by_label.items():
            best[label] = max(best.get(label, -math.inf), float(rows.scores[-1]))
    return [*annotated, *sorted(best.keys() - set(annotated), key=lambda label: (-best[label], label))]


def merge(segments: np.ndarray, gap: float) -> np.ndarray:
    """Return the union of segments (n, 2) as disjoint ones (m, 2) in order, merged across gaps of up to `gap`."""
    segments = segments[segments[:, 0] < segments[:, 1]]
    segments = segments[np.argsort(segments[:, 0])]
    reach = np.maximum.accumulate(segments[:, 1])
    first = np.flatnonzero(np.append(True, segments[1:, 0] > reach[:-1] + gap))[:len(segments)]
    return np.stack([segments[first, 0], np.append(reach[first[1:] - 1], reach[-1:])], axis=1)


def classify_detections(video: str, gt: GroundTruth, detections: Detections, tiou: float) -> np.ndarray | None:
    """Return the error types of all detections (R,) in the subset of an annotated `video`; None without annotations."""
    index = match_videos([video], gt.videos)[0]
    if index < 0 or not (gt.video == index).any():
        return None
    return diagnose(scored_subset(gt, [video]), detections, [tiou]).error_types[0]


# ---- panels ---------------------------------------------------------------------------------------------------------

class Panel(Protocol):
    """One horizontal strip of the figure."""

    @property
    def height(self) -> float:
        """Return its relative height; 1 is about 2.7 cm."""

    def plot(self, ax: 'Axes') -> None:
        """Plot it."""


@dataclass(frozen=True)
class ClassPanel:
    """The name of a class, and its instances if the ground truth lists the video."""

    label: str
    instances: np.ndarray | None  # (n, 2) disjoint

    @property
    def height(self) -> float:
        """Return its relative height."""
        return 0.1 if self.instances is None else 0.4

    def plot(self, ax: 'Axes') -> None:
        """Plot the instances as blocks."""
        ax.set(ylim=(0, 1), yticks=[])
        ax.set_title(truncate(self.label, 90) or 'no class', loc='left', fontsize='medium', fontweight='bold',
                     parse_math=False)
        ax.spines[['left', 'top', 'right']].set_visible(False)
        if self.instances is None:
            ax.spines['bottom'].set_visible(False)
            ax.tick_params(bottom=False)
        else:
            ax.broken_barh([(start, end - start) for start, end in self.instances], (0, 1), color=GT_COLOR, linewidth=0)
            ax.set_ylabel('gt', rotation=0, ha='right', va='center')


@dataclass(frozen=True)
class DetectionsPanel:
    """The detections of a class in one result file."""

    name: str
    detections: ClassDetections
    instances: np.ndarray             # (n, 2) disjoint, shaded
    score_range: tuple[float, float]  # at the lower and the upper end

    @property
    def height(self) -> float:
        """Return its relative height."""
        return 1.6 if len(self.detections.scores) else 0.4

    def plot(self, ax: 'Axes') -> None:
        """Plot the detections as bars at their scores."""
        _shade(ax, self.instances)
        count = len(self.detections.scores)
        segments, scores, colors = (column[-MAX_BARS:] for column in self.detections)
        low, high = self.score_range
        thickness = 0.035 * (high - low)
        # The edges separate overlapping bars; the best ones are plotted last, on top.
        ax.barh(scores, segments[:, 1] - segments[:, 0], thickness, segments[:, 0], color=colors,
                edgecolor='#333333', linewidth=0.5)
        ax.set(ylim=(low - 2 * thickness, high + 2 * thickness))
        limit = f', the best {MAX_BARS} shown' if count > MAX_BARS else ''
        ax.set_title(f'{truncate(self.name, 28)}: {plural(count, "detection")}{limit}', loc='right', fontsize='small',
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
    """A_score and class activation sequence of a class."""

    time: np.ndarray       # (T,)
    selection: np.ndarray  # (T,)
    cas: np.ndarray        # (T,)
    instances: np.ndarray  # (n, 2) disjoint, shaded
    height: float = 1.1

    def plot(self, ax: 'Axes') -> None:
        """Plot both curves, each with an axis."""
        _shade(ax, self.instances)
        ax.plot(self.time, self.selection, color=AWARE_COLOR, linewidth=1.2)
        ax.set(ylim=(-0.03, 1.03))
        ax.set_ylabel('A_score', color=AWARE_COLOR)
        twin = ax.twinx()
        twin.plot(self.time, self.cas, color=CAS_COLOR, linewidth=1.2)
        twin.set_ylabel('CAS', color=CAS_COLOR)
        for axes in (ax, twin):
            axes.spines['top'].set_visible(False)


@dataclass(frozen=True)
class ActionnessPanel:
    """Both actionnesses with their medians, and where they agree."""

    curves: VideoCurves
    columns: int  # of the legend
    height: float = 1.5

    def plot(self, ax: 'Axes') -> None:
        """Plot both curves on the shaded regions."""
        edges, aware, agnostic = self.curves.time, self.curves.aware, self.curves.agnostic
        region = regions(aware, agnostic)
        cuts = np.flatnonzero(np.diff(region)) + 1
        starts, ends = np.concatenate(([0], cuts)), np.concatenate((cuts, [len(region)]))
        for value, (name, color, alpha) in REGIONS.items():
            spans = [(edges[a], edges[b] - edges[a]) for a, b in zip(starts, ends) if region[a] == value]
            ax.broken_barh(spans, (-0.03, 1.06), color=color, alpha=alpha, linewidth=0, label=name)
        for name, values, color in (('class-aware', aware, AWARE_COLOR), ('class-agnostic', agnostic, AGNOSTIC_COLOR)):
            ax.plot(edges[:-1], values, color=color, linewidth=1.2, label=name)
            median = np.median(values)
            ax.axhline(median, color=color, linestyle='--', linewidth=0.9, label=f'its median {median:.2f}')
        ax.set(ylim=(-0.03, 1.03), ylabel='actionness')
        ax.set_title('Actionness', loc='left', fontsize='medium', fontweight='bold')
        ax.legend(ncols=self.columns, loc='lower right', bbox_to_anchor=(1, 1), fontsize='small',
                  frameon=False, borderpad=0.2, columnspacing=1.2)
        ax.spines[['top', 'right']].set_visible(False)


def class_panels(labels: Sequence[str], instances: Mapping[str, np.ndarray] | None, data: VideoData) -> list[Panel]:
    """Return the panels of these classes from top to bottom; `instances` are disjoint."""
    scores = np.concatenate([[0, 1], *(rows.scores for rows in data.class_detections)])
    score_range = scores.min(), scores.max()  # the same for all panels, so that files can be compared
    no_detections = ClassDetections(NO_SEGMENTS, np.zeros(0), np.zeros(0, np.str_))
    panels: list[Panel] = []
    for label in labels:
        segments = instances.get(label, NO_SEGMENTS) if instances else NO_SEGMENTS
        panels.append(ClassPanel(label, None if instances is None else segments))
        for name, by_label in data.detections:
            panels.append(DetectionsPanel(name, by_label.get(label, no_detections), segments, score_range))
        if data.curves and label in data.curves.selection:
            # A snippet's score is plotted at its start, as in localization.
            panels.append(ScoresPanel(data.curves.time[:-1], data.curves.selection[label], data.curves.cas[label],
                                      segments))
    return panels


def _legend_columns(width: float) -> int:
    """Return the number of legend entries per row of so many inches."""
    return max(1, int(width / 1.8))


def _shade(ax: 'Axes', instances: np.ndarray) -> None:
    """Shade the instances in the background."""
    for start, end in instances:
        ax.axvspan(start, end, color=GT_COLOR, alpha=0.09, linewidth=0)


# ---- the figure -----------------------------------------------------------------------------------------------------

def plot_timeline(video: str, gt: GroundTruth | None, results: Sequence[ResultFile] = (), curves: Curves | None = None,
                  min_score: float = -math.inf, window: tuple[float, float] = (-math.inf, math.inf), width: float = 13
                  ) -> 'Figure':
    """Plot the timeline of a video, with `results` one below the other.

    It shows the classes that are annotated, or detected with at least `min_score`, within `window` (seconds). `width`
    is in inches. Raises InputError if no file contains the video.
    """
    if len(results) > MAX_FILES:
        raise InputError(f'{len(results)} result files are too many for one figure; give at most {MAX_FILES}')
    data = find_video(video, gt, results, curves, min_score, window)
    left, right = shown_range(video, window, video_length(video, gt, data))
    labels = sort_labels(data)
    shown = labels[:max(1, MAX_CLASSES // max(1, len(results)))]
    instances = None
    if data.instances is not None:
        instances = {label: merge(segments, MERGE_GAP * (right - left)) for label, segments in data.instances.items()}
    panels = class_panels(shown, instances, data)
    if data.curves:
        panels.append(ActionnessPanel(data.curves, _legend_columns(width)))

    figure = stack(panels or [ClassPanel('', NO_SEGMENTS)], width, (left, right))
    figure.suptitle(figure_title(video, width, min_score, len(shown), len(labels)), parse_math=False, wrap=True)
    if any(result.error_types is not None for result in results):
        add_legend(figure, {color for rows in data.class_detections for color in rows.colors})
    return figure


def shown_range(video: str, window: tuple[float, float], length: float) -> tuple[float, float]:
    """Return the seconds to show: the window, limited to the video; raises InputError if it is empty."""
    left, right = max(window[0], 0), length if window[1] == math.inf else window[1]
    if left >= right:
        end = 'the end' if window[1] == math.inf else f'{right:g} s'
        raise InputError(f'nothing to plot from {left:g} s to {end} of the video {quote(video)}; change --from and '
                         '--to')
    return left, right


def figure_title(video: str, width: float, min_score: float, num_shown: int, num_classes: int) -> str:
    """Return the title: the name of the video, and what is left out."""
    title = truncate(video, int(6 * width))
    if min_score > -math.inf:
        title += f', detections with a score of at least {min_score:g}'
    if num_shown < num_classes:
        title += f', {num_shown} of {num_classes} classes'
    return title


def stack(panels: Sequence[Panel], width: float, time_range: tuple[float, float]) -> 'Figure':
    """Plot panels from top to bottom, with a common time axis."""
    from matplotlib.figure import Figure
    heights = [panel.height for panel in panels]
    figure = Figure(figsize=(width, 1.5 + 1.08 * sum(heights)), layout='constrained')
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
    for ax, panel in zip(axes, panels):
        panel.plot(ax)
    axes[-1].set_xlabel('seconds')
    axes[-1].set_xlim(time_range)
    return figure


def add_legend(figure: 'Figure', colors: set[str]) -> None:
    """Add a legend of the error types with these colors below the panels."""
    from matplotlib.patches import Patch
    patches = [Patch(facecolor=color, edgecolor='#333333', linewidth=0.5, label=name)
               for name, color in zip(TYPE_NAMES, TYPE_COLORS) if color in colors]
    figure.legend(handles=patches, loc='outside lower center', ncols=_legend_columns(figure.get_figwidth()),
                  frameon=False, fontsize='small')


# ---- the command ----------------------------------------------------------------------------------------------------

def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    seconds = bounded(float, 0, 1e12)
    parser = Parser(prog='python -m eval.timeline', description='Figure of the timeline of one video.')
    parser.add_argument('files', nargs='+', metavar='FILE.json',
                        help='ground truth (optional) and result files, plotted one below the other')
    parser.add_argument('--video', required=True, metavar='NAME')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the run')
    parser.add_argument('--min_score', type=bounded(float, -math.inf, math.inf), default=-math.inf, metavar='S',
                        help='minimum score of a detection (default: all)')
    parser.add_argument('--tiou', type=float, default=0.5, metavar='T',
                        help='tIoU threshold of the error types (default: 0.5)')
    parser.add_argument('--from', dest='start', type=seconds, default=0, metavar='S', help='start in seconds')
    parser.add_argument('--to', dest='end', type=seconds, default=math.inf, metavar='S', help='end in seconds')
    parser.add_argument('--width', type=bounded(float, 2, 60), default=13, metavar='INCHES',
                        help='width of the figure in inches (default: 13)')
    parser.add_argument('-o', '--output', metavar='FILE', default='timeline.png',
                        help='a .png, .svg or .pdf (default: timeline.png)')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the output even if it is not a figure')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Write the timeline of a video."""
    refuse_overwriting_inputs([*args.files, args.curves], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, IMAGE_SIGNATURES)
    contents = {path: read_any(path) for path in args.files}
    ground_truths = {path: content for path, content in contents.items() if isinstance(content, GroundTruth)}
    if len(ground_truths) > 1:
        raise InputError(f'{" and ".join(list(ground_truths)[:2])} both contain ground truth; give one')
    gt = next(iter(ground_truths.values()), None)
    detections = {path: content for path, content in contents.items() if isinstance(content, Detections)}
    for path, rows in detections.items():
        for line in suspicious_files(gt, rows) if gt else ():
            warn(f'{path}: {line}')
    results = [ResultFile(_short_name(path, list(detections)), rows,
                          classify_detections(args.video, gt, rows, args.tiou) if gt else None)
               for path, rows in detections.items()]
    figure = plot_timeline(args.video, gt, results, read_curves(args.curves) if args.curves else None,
                           args.min_score, (args.start, args.end), args.width)
    save_figure(args.output, figure)
    print(args.output, flush=True)


def _short_name(path: str, paths: Sequence[str]) -> str:
    """Return the name of a result file, or of its folder if several files have the same name."""
    is_ambiguous = sum(Path(other).name == Path(path).name for other in paths) > 1
    return Path(path).resolve().parent.name if is_ambiguous else Path(path).name


if __name__ == '__main__':
    sys.exit(main())
