"""Error diagnosis of detections, after DETAD.

Alwassel, Caba Heilbron, Escorcia, Ghanem: Diagnosing Error in Temporal Action Detectors. ECCV 2018.

    python -m eval.diagnosis gt.json detections.json
    python -m eval.diagnosis gt.json detections.json --tiou 0.3 0.5 0.7 --output diagnosis.json --figure diagnosis.png

**False positives.** For each class, which has N_c instances, the 10 N_c best detections are kept. Those matched at
tIoU a, as for mAP, are true positives. The type of every other one depends on the instance of its video, of any class,
with the largest tIoU (the first of equal ones):

                        same label          another label
    a   <= tIoU         double detection    wrong label
    0.1 <= tIoU < a     localization        confusion
           tIoU < 0.1   background (also a detection in a video without instances)

The profile is the number of detections of each type among the N_c, 2 N_c ... 10 N_c best of each class, over all
classes. The gain of an error type is the increase of the mAP of the kept detections when those of this type are
removed (in the paper of the normalized mAP, here of the mAP of `eval.detection`).

**False negatives.** An instance without a matched detection, kept or not, is missed.

**Sensitivity.** The mAP on the instances of one bin: detections matched to other instances are ignored, and precision
is normalized, because bins differ in size: r N / (r N + false positives) at recall r, with N the mean number of
instances per class. Classes without an instance in the bin are excluded.

The last two are computed for three characteristics of an instance: its coverage (length / duration of the video), its
length in seconds, and the number of instances of its class in its video. `BINS` has the bins of the paper and its
released code.

Everything is computed separately at each tIoU; an average is the mean over the tIoUs.
"""
import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from eval.detection import Matches, check_tiou, evaluate, match, overlapping_pairs, scored_subset, tiou_key, warnings
from formats.annotations import GroundTruth, read_ground_truth
from formats.detections import Detections, read_detections
from utils import (
    IMAGE_SIGNATURES,
    InputError,
    Parser,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    save_figure,
    warn,
    write_json,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERROR_TYPES = ('true positive', 'double detection', 'wrong label', 'localization', 'confusion', 'background')
UNCLASSIFIED = len(ERROR_TYPES)  # a detection beyond the 10 N_c best, or of a label without instances
COLORS = ('#009E73', '#56B4E9', '#F0E442', '#E69F00', '#CC79A7', '#BBBBBB')  # of ERROR_TYPES, after Okabe and Ito
MIN_TIOU = 0.1  # below it a detection is background
DEPTH = 10  # detections that are kept, as a multiple of the instances of their class

SIZES = ('XS', 'S', 'M', 'L', 'XL')

# The bins of the paper and its code, by their upper ends, which are included; the last bin has none.
BINS = {
    'thumos14': {'coverage': (0.02, 0.04, 0.06, 0.08), 'length': (3, 6, 12, 18), 'instances': (1, 40, 80)},
    'activitynet': {'coverage': (0.2, 0.4, 0.6, 0.8), 'length': (30, 60, 120, 180), 'instances': (1, 4, 8)},
}
TITLES = {'coverage': 'coverage', 'length': 'length (s)', 'instances': 'number of instances in the video'}
SIGNATURE = r'{\s*"num_videos": \d+,\s*"num_instances"'  # how files of --output begin


class ErrorTypes(NamedTuple):
    """The error type of M kept detections at K thresholds; sorted by class, then by descending score."""

    detection: np.ndarray   # (M,) index into the detections
    label: np.ndarray       # (M,) index into the labels of the ground truth
    depth: np.ndarray       # (M,) 0 for the N_c best of its class, 1 for the next N_c, ... 9
    error_type: np.ndarray  # (K, M) index into ERROR_TYPES


class Characteristic(NamedTuple):
    """False negatives and sensitivity of the instances in B bins at K thresholds; NaN for an empty bin."""

    name: str  # 'coverage', 'length' or 'instances'
    bins: list[str]  # (B,) 'XS', 'S', ...
    ranges: list[str]  # (B,) '<= 3', '3-6', ... '> 18'
    instances: np.ndarray  # (B,) number of instances
    missed: np.ndarray  # (K, B) fraction of them that is not matched
    mean_ap: np.ndarray  # (K, B) normalized mAP
    unknown: int  # instances without a bin, because the duration of their video is unknown


class Diagnosis(NamedTuple):
    """All results at K thresholds."""

    tiou: np.ndarray  # (K,)
    num_videos: int
    num_instances: int
    num_detections: int
    profile: np.ndarray  # (K, 10, 6) number of each of ERROR_TYPES among the m N_c best detections, m = 1..10
    mean_ap: np.ndarray  # (K,) mAP of the kept detections
    map_gain: np.ndarray  # (K, 5) increase of it without the detections of each of ERROR_TYPES[1:]
    missed: np.ndarray  # (K,) fraction of the instances that is not matched
    normalized_mean_ap: np.ndarray  # (K,) of all detections on all instances, to compare those of the bins with
    characteristics: list[Characteristic]  # without coverage if all durations are unknown
    matches: Matches  # from which all results are computed
    errors: ErrorTypes

    @property
    def num_kept(self) -> int:
        """Return the number of detections among the 10 N_c best of their class."""
        return int(self.profile[0, -1].sum())

    @property
    def shares(self) -> np.ndarray:
        """Return the profile as fractions of the detections, (K, 10, 6); 0 without detections."""
        return self.profile / np.maximum(self.profile.sum(axis=2, keepdims=True), 1)

    @property
    def error_types(self) -> np.ndarray:
        """Return the type of each of the R detections, (K, R) uint8: an index into ERROR_TYPES, or UNCLASSIFIED.

        A matched detection is a true positive even if it is not kept.
        """
        types = np.full((len(self.tiou), self.num_detections), UNCLASSIFIED, np.uint8)
        types[:, self.errors.detection] = self.errors.error_type
        threshold, place = np.nonzero(self.matches.instance >= 0)
        types[threshold, self.matches.order[place]] = 0
        return types

    @property
    def matched_instances(self) -> np.ndarray:
        """Return which of the G instances are matched, (K, G) bool; the others are false negatives."""
        return matched_instances(self.matches, self.num_instances)


def classify_errors(gt: GroundTruth, detections: Detections, tiou: ArrayLike, matches: Matches | None = None
                    ) -> ErrorTypes:
    """Return the error type of the 10 N_c best detections of each class, see the module.

    `matches` at the same `tiou` saves the matching. Raises InputError for a wrong threshold.
    """
    thresholds = check_tiou(tiou)
    matches = match(gt, detections, thresholds) if matches is None else matches
    label = matches.label[matches.order]
    rank = np.arange(len(label)) - np.searchsorted(label, label)
    depth = rank // np.bincount(gt.label, minlength=len(gt.labels))[label]
    kept = np.flatnonzero(depth < DEPTH)
    rows, label = matches.order[kept], label[kept]

    overlap, nearest_label = _nearest_instance(gt, matches.video[rows], detections.segments[rows])
    error_type = np.where(overlap >= thresholds[:, None], 1, np.where(overlap >= MIN_TIOU, 3, 5))
    error_type += (error_type < 5) & (nearest_label != label)
    is_matched = matches.instance[:, kept] >= 0
    return ErrorTypes(rows, label, depth[kept], np.where(is_matched, 0, error_type))


def _nearest_instance(gt: GroundTruth, video: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest tIoU (M,) with any instance of the video, else 0, and the label of that instance (M,)."""
    overlap, label = np.zeros(len(video)), np.full(len(video), -1)
    for place, instance, pairs in overlapping_pairs(segments, video, gt.segments, gt.video):
        begin = np.flatnonzero(np.diff(place, prepend=-1))
        if not len(begin):
            continue
        rows = place[begin]
        overlap[rows] = np.maximum.reduceat(pairs, begin)
        first = np.minimum.reduceat(np.where(pairs == overlap[place], instance, len(gt.label)), begin)
        label[rows] = gt.label[first]  # the first of equal ones
    return overlap, label


def diagnose(gt: GroundTruth, detections: Detections, tiou: ArrayLike = (0.5,),
             bins: Mapping[str, Sequence[float]] = BINS['thumos14']) -> Diagnosis:
    """Diagnose detections against all videos of `gt` (see `eval.detection.scored_subset`), see the module.

    `bins` contains the upper ends of the bins of 'coverage', 'length' (seconds) and 'instances'. Raises InputError if
    there is no instance, or for a wrong threshold.
    """
    thresholds = check_tiou(tiou)
    if not len(gt.segments):
        raise InputError('the ground truth has no annotated instance: there is nothing to diagnose')
    matches = match(gt, detections, thresholds)
    errors = classify_errors(gt, detections, thresholds, matches)
    cells = errors.depth * len(ERROR_TYPES) + errors.error_type
    profile = [np.bincount(row, minlength=DEPTH * len(ERROR_TYPES)).reshape(DEPTH, -1).cumsum(axis=0) for row in cells]

    num_instances, hit = np.bincount(gt.label), errors.error_type == 0
    mean_ap = _mean_ap(errors.label, hit, ~hit, num_instances)
    map_gain = [_mean_ap(errors.label, hit, ~hit & (errors.error_type != error_type), num_instances) - mean_ap
                for error_type in range(1, len(ERROR_TYPES))]

    matched = matched_instances(matches, len(gt.segments))
    return Diagnosis(
        thresholds, len(gt.videos), len(gt.segments), len(detections.scores), np.stack(profile),
        mean_ap, np.stack(map_gain, axis=1), 1 - matched.mean(axis=1),
        _sensitivity(gt, matches, np.ones(len(gt.segments), bool)),
        [_characteristic(gt, matches, matched, name, values, bins[name])
         for name, values in _characteristic_values(gt).items() if not np.isnan(values).all()],
        matches, errors)


def matched_instances(matches: Matches, num_instances: int) -> np.ndarray:
    """Return which of the G instances are matched, (K, G) bool; the others are false negatives."""
    matched = np.zeros((len(matches.instance), num_instances), bool)
    threshold, place = np.nonzero(matches.instance >= 0)
    matched[threshold, matches.instance[threshold, place]] = True
    return matched


def _mean_ap(label: np.ndarray, hit: np.ndarray, miss: np.ndarray, num_instances: np.ndarray,
             normalized_count: float | None = None) -> np.ndarray:
    """Return the mAP (K,) over the classes with instances of detections sorted by `label` (P,), then by score.

    `hit` and `miss` (K, P): the true and the false positives; other detections are ignored. `num_instances` (C,). The
    precision of a class is computed as if it had `normalized_count` instances.
    """
    ap = []
    for c in np.flatnonzero(num_instances):
        rows = slice(*np.searchsorted(label, (c, c + 1)))
        places = np.flatnonzero(hit[:, rows].any(axis=0))  # elsewhere precision only decreases
        hits = np.cumsum(hit[:, rows][:, places], axis=1)
        hits = hits * (normalized_count / num_instances[c] if normalized_count else 1)
        misses = np.cumsum(miss[:, rows], axis=1, dtype=np.int32)[:, places]
        precision = hits / np.maximum(hits + misses, 1e-99)  # 0 before the first hit or miss
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ap.append((envelope * hit[:, rows][:, places]).sum(axis=1) / num_instances[c])
    return np.mean(ap, axis=0)


def _sensitivity(gt: GroundTruth, matches: Matches, inside: np.ndarray) -> np.ndarray:
    """Return the normalized mAP (K,) on the instances `inside` (G,) bool, without detections matched to others."""
    matched = matches.instance >= 0
    hit = np.zeros_like(matched)
    threshold, place = np.nonzero(matched)
    hit[threshold, place] = inside[matches.instance[threshold, place]]
    return _mean_ap(matches.label[matches.order], hit, ~matched, np.bincount(gt.label[inside]),
                    normalized_count=len(inside) / len(np.unique(gt.label)))


def _characteristic_values(gt: GroundTruth) -> dict[str, np.ndarray]:
    """Return the characteristics of every instance, (G,) each; NaN if the duration of the video is unknown."""
    length, duration = gt.segments[:, 1] - gt.segments[:, 0], gt.durations[gt.video]
    _, group, count = np.unique(gt.video * len(gt.labels) + gt.label, return_inverse=True, return_counts=True)
    with np.errstate(over='ignore'):  # a duration near 0 is not worth a warning: the last bin
        coverage = np.divide(length, duration, out=np.full(len(length), np.nan), where=duration > 0)
    return {'coverage': coverage, 'length': length, 'instances': count[group].astype(np.float64)}


def _characteristic(gt: GroundTruth, matches: Matches, matched: np.ndarray, name: str, values: np.ndarray,
                    ends: Sequence[float]) -> Characteristic:
    """Return the results for the bins of `values` (G,); `matched` (K, G): which instances are matched."""
    if not 0 < len(ends) < len(SIZES) or not (np.diff(ends) > 0).all():
        raise InputError(f'the bins of {name} need 1 to {len(SIZES) - 1} ascending upper ends, not {list(ends)}')
    lows = [end + 1 for end in ends] if name == 'instances' else ends  # whole numbers: 2-40, 41-80
    ranges = [f'<= {ends[0]:g}', *(f'{low:g}-{high:g}' for low, high in zip(lows, ends[1:])), f'> {ends[-1]:g}']
    bins = np.where(np.isnan(values), -1, np.searchsorted(ends, values))
    missed, mean_ap = np.full((2, len(matched), len(ranges)), np.nan)
    for b in np.unique(bins[bins >= 0]):
        missed[:, b] = 1 - matched[:, bins == b].mean(axis=1)
        mean_ap[:, b] = _sensitivity(gt, matches, bins == b)
    return Characteristic(name, list(SIZES[:len(ranges)]), ranges, np.bincount(bins + 1, minlength=len(ranges) + 1)[1:],
                          missed, mean_ap, int((bins < 0).sum()))


def to_json(diagnosis: Diagnosis) -> dict:
    """Return the content of --output: fractions, thresholds as keys, null for empty bins."""
    keys = [tiou_key(threshold) for threshold in diagnosis.tiou]

    def by_tiou(values: np.ndarray) -> dict:
        return {key: None if np.isnan(value) else value for key, value in zip(keys, values.tolist())}

    return {
        'num_videos': diagnosis.num_videos, 'num_instances': diagnosis.num_instances,
        'num_predictions': diagnosis.num_detections, 'num_kept': diagnosis.num_kept,
        'share': {name: by_tiou(diagnosis.shares[:, -1, i]) for i, name in enumerate(ERROR_TYPES)},
        'profile': {key: dict(zip(ERROR_TYPES, shares.T.tolist())) for key, shares in zip(keys, diagnosis.shares)},
        'mAP_of_kept': by_tiou(diagnosis.mean_ap),
        'mAP_gain': {name: by_tiou(gain) for name, gain in zip(ERROR_TYPES[1:], diagnosis.map_gain.T)},
        'average_mAP_of_kept': float(diagnosis.mean_ap.mean()),
        'average_mAP_gain': dict(zip(ERROR_TYPES[1:], diagnosis.map_gain.mean(axis=0).tolist())),
        'missed': by_tiou(diagnosis.missed), 'normalized_mAP': by_tiou(diagnosis.normalized_mean_ap),
        'characteristics': {c.name: {
            'instances_of_unknown_duration': c.unknown,
            'bins': [{'bin': c.bins[b], 'range': c.ranges[b], 'instances': int(c.instances[b]),
                      'missed': by_tiou(c.missed[:, b]), 'normalized_mAP': by_tiou(c.mean_ap[:, b])}
                     for b in range(len(c.bins))]} for c in diagnosis.characteristics}}


def format_table(diagnosis: Diagnosis) -> str:
    """Return the diagnosis in percent as text: types and gains by tIoU; profile and bins as means over the tIoUs."""
    def row(name: str, values: Iterable, form: str = '8.2f') -> str:
        return f'{name:<32}' + ''.join(f'{value:{form}}' for value in values)

    def by_tiou(name: str, values: np.ndarray) -> str:
        return row(name, 100 * (values if len(values) == 1 else np.append(values, values.mean())))

    def of_bin(name: str, instances: int, missed: np.ndarray, mean_ap: np.ndarray) -> str:
        cells = [f'{100 * values.mean():.2f}' if instances else '-' for values in (missed, mean_ap)]
        return row(name, [instances, *cells], '>16')

    tious = [*map(tiou_key, diagnosis.tiou), 'mean'] if len(diagnosis.tiou) > 1 else [tiou_key(diagnosis.tiou[0])]
    lines = [f'{diagnosis.num_videos} videos, {diagnosis.num_instances} instances, {diagnosis.num_detections} '
             f'detections, of which {diagnosis.num_kept} are kept: the {DEPTH} N_c best of each class',
             '', row('share of the kept (%), tIoU', tious, '>8')]
    lines += [by_tiou(name, diagnosis.shares[:, -1, i]) for i, name in enumerate(ERROR_TYPES)]
    lines += ['', by_tiou('mAP of the kept (%)', diagnosis.mean_ap), 'gain in mAP without']
    lines += [by_tiou(f'  {name}', gain) for name, gain in zip(ERROR_TYPES[1:], diagnosis.map_gain.T)]
    lines += ['', row('profile (%), best of each class', [f'{depth} N_c' for depth in range(1, DEPTH + 1)], '>8')]
    lines += [row(name, shares) for name, shares in zip(ERROR_TYPES, 100 * diagnosis.shares.mean(axis=0).T)]
    lines += ['', row('instances by', ('instances', 'missed (%)', 'norm. mAP (%)'), '>16'),
              of_bin('  all', diagnosis.num_instances, diagnosis.missed, diagnosis.normalized_mean_ap)]
    for c in diagnosis.characteristics:
        lines += [f'  {TITLES[c.name]}']
        lines += [of_bin(f'    {size:<4}{c.ranges[b]}', c.instances[b], c.missed[:, b], c.mean_ap[:, b])
                  for b, size in enumerate(c.bins)]
    return '\n'.join(lines + [f'note: {line}' for line in notes(diagnosis)])


def notes(diagnosis: Diagnosis) -> list[str]:
    """Return a line about the instances without coverage, if the duration of a video is unknown."""
    unknown = {c.name: c.unknown for c in diagnosis.characteristics}.get('coverage', diagnosis.num_instances)
    return [f'coverage excludes {unknown} of {diagnosis.num_instances} instances: '
            'the ground truth has no "duration" of their videos'] if unknown else []


def plot(diagnosis: Diagnosis) -> 'Figure':
    """Plot the profile, the gains, false negatives and sensitivity in one figure, as means over the tIoUs."""
    from matplotlib.figure import Figure
    tious = ', '.join(map(tiou_key, diagnosis.tiou))
    figure = Figure(figsize=(13, 9.5), layout='constrained')
    figure.supxlabel('\n'.join(notes(diagnosis)), fontsize='medium')
    figure.suptitle(f'Error diagnosis, mean over tIoU {tious}' if ',' in tious else f'Error diagnosis at tIoU {tious}')
    halves = figure.add_gridspec(2, 1, height_ratios=(4, 5))
    top = halves[0].subgridspec(1, 2, width_ratios=(3, 2))
    _plot_profile(figure.add_subplot(top[0]), diagnosis)

    ax = figure.add_subplot(top[1])
    bars = ax.barh(ERROR_TYPES[1:], 100 * diagnosis.map_gain.mean(axis=0), color=COLORS[1:])
    ax.bar_label(bars, fmt='%.2f', padding=3)
    ax.set(title='mAP gain from removing an error type', xlabel='percentage points')
    ax.margins(x=0.15)

    widths = [len(c.bins) for c in diagnosis.characteristics]
    grid = halves[1].subgridspec(2, len(widths), width_ratios=widths)
    for row, (name, color) in enumerate((('missed instances (%)', '#D55E00'), ('normalized mAP (%)', '#0072B2'))):
        for column, c in enumerate(diagnosis.characteristics):
            values = 100 * (c.mean_ap if row else c.missed).mean(axis=0)
            total = 100 * (diagnosis.normalized_mean_ap if row else diagnosis.missed).mean()
            ax = figure.add_subplot(grid[row, column])
            bars = ax.bar(np.arange(len(values)), np.nan_to_num(values), color=color)
            ax.bar_label(bars, ['-' if np.isnan(value) else f'{value:.1f}' for value in values], padding=2,
                         bbox={'color': 'white', 'pad': 0.5})
            ax.axhline(total, color='black', linestyle='--', linewidth=1, zorder=0, label=f'all: {total:.1f}')
            ax.legend(loc='upper right', frameon=False, borderpad=0)
            ax.set(ylim=(0, 135), yticks=range(0, 101, 25), ylabel='' if column else name,
                   title='' if row else f'by {TITLES[c.name]}', xticks=np.arange(len(values)),
                   xticklabels=[f'{size}\n{interval.replace("<=", "≤")}\nn = {count}' if row else ''
                                for size, interval, count in zip(c.bins, c.ranges, c.instances)])
    for ax in figure.axes:
        ax.spines[['top', 'right']].set_visible(False)
    return figure


def _plot_profile(ax: 'Axes', diagnosis: Diagnosis) -> None:
    """Plot the profile as stacked bars."""
    depth, shares = np.arange(1, DEPTH + 1), 100 * diagnosis.shares.mean(axis=0)
    for name, color, top, height in zip(ERROR_TYPES, COLORS, np.cumsum(shares, axis=1).T, shares.T):
        ax.bar(depth, height, 0.85, top - height, color=color, label=f'{name}: {height[-1]:.2f} %')
    ax.set(title='False positive profile: error types of the best detections', ylabel='share (%)', ylim=(0, 100),
           xlabel='detections of each class, as a multiple of its number of instances, $N_c$', xticks=depth)
    ax.legend(reverse=True, title=f'best {DEPTH} $N_c$', loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.diagnosis', description='Error diagnosis of a result file, after DETAD.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--subset', metavar='NAME',
                        help='subset to diagnose (default: the one that contains the videos with detections)')
    parser.add_argument('--tiou', type=float, nargs='+', default=[0.5], metavar='T',
                        help='tIoU thresholds (default: 0.5)')
    parser.add_argument('--bins', choices=BINS, default='thumos14', help='bins of the instances (default: thumos14)')
    parser.add_argument('--output', metavar='FILE', help='also write the numbers to this file, as JSON')
    parser.add_argument('--figure', '--picture', metavar='FILE', help='also plot them to this .png, .svg or .pdf')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the outputs even if they are other kinds '
                        'of files')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Diagnose a result file."""
    refuse_overwriting_inputs([args.ground_truth, args.detections], args.output, args.figure)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, SIGNATURE)
        refuse_overwriting_foreign(args.figure, IMAGE_SIGNATURES)
    gt, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    gt = scored_subset(gt, detections.videos, args.subset)
    diagnosis = diagnose(gt, detections, args.tiou, BINS[args.bins])
    for line in warnings(evaluate(gt, detections, args.tiou, diagnosis.matches)):
        warn(line)
    if args.output:
        write_json(args.output, to_json(diagnosis))
    if args.figure:
        save_figure(args.figure, plot(diagnosis))
    print(f'subset {gt.subsets[0]!a}:', format_table(diagnosis), flush=True)


if __name__ == '__main__':
    sys.exit(main())
