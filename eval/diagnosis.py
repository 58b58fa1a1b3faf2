"""Where the errors of a detector lie, after DETAD.

Alwassel, Caba Heilbron, Escorcia, Ghanem: Diagnosing Error in Temporal Action Detectors. ECCV 2018.

    python -m eval.diagnosis gt.json detections.json
    python -m eval.diagnosis gt.json detections.json --tiou 0.3 0.5 0.7 --output diagnosis.json --picture diagnosis.png

**False positives.** Of each class, which has N_c instances, the 10 N_c best detections are kept. Those that the mAP
rule matches at tIoU a are true positives. Every other one is judged by the one instance of its video, of any class,
with the largest tIoU (the first of equals):

                        same label          another label
    a   <= tIoU         double detection    wrong label
    0.1 <= tIoU < a     localization        confusion
           tIoU < 0.1   background (so is a detection in a video without instances)

The profile tells how the N_c, 2 N_c ... 10 N_c best detections of each class, pooled, divide into the six kinds. The
gain of a kind is what the mAP of the kept detections gains when those of the kind are removed (the paper states it in
normalized mAP, here it is the mAP of `eval.detection`).

**False negatives.** An instance that no detection matches, kept or not, is missed.

**Sensitivity.** The mAP on the instances of one bin: detections matched to other instances are left out, and precision
is normalized, because bins differ in size: r N / (r N + false positives) at recall r, with N the mean number of
instances a class. Classes without an instance in the bin do not enter.

The last two look at three characteristics of an instance: its coverage (length / duration of the video), its length in
seconds, and the number of instances of its class in its video. `BINS` has the bins of the paper and its released code.

Everything is judged at each tIoU by itself; an average is the mean over the tIoUs.
"""
import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from eval.detection import Matches, check_tiou, evaluate, match, overlapping, scored_subset, tiou_key, warnings
from formats.annotations import GroundTruth, read_ground_truth
from formats.detections import Detections, read_detections
from utils import IMAGE_SIGNATURES, InputError, Parser, refuse_overwriting_inputs, refuse_overwriting_foreign, run_cli, write_json, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ('true positive', 'double detection', 'wrong label', 'localization', 'confusion', 'background')
MIN_TIOU = 0.1  # below it a detection has nothing to do with an instance: background
DEPTH = 10  # detections that are kept, as a multiple of the instances of their class

SIZES = ('XS', 'S', 'M', 'L', 'XL')

# The bins of the paper and its code, by their upper ends, each included; the last bin has none.
BINS = {
    'thumos14': {'coverage': (0.02, 0.04, 0.06, 0.08), 'length': (3, 6, 12, 18), 'instances': (1, 40, 80)},
    'activitynet': {'coverage': (0.2, 0.4, 0.6, 0.8), 'length': (30, 60, 120, 180), 'instances': (1, 4, 8)},
}
TITLES = {'coverage': 'coverage', 'length': 'length (s)', 'instances': 'number of instances in the video'}
NOT_JUDGED = len(KINDS)  # the kind of a detection behind the 10 N_c best, or of a label that no instance has
COLOURS = ('#009E73', '#56B4E9', '#F0E442', '#E69F00', '#CC79A7', '#BBBBBB')  # of KINDS, after Okabe and Ito


class Judgement(NamedTuple):
    """The kind of each of M kept detections at K thresholds; class by class, inside a class by falling score."""
    detection: np.ndarray  # (M,) index into the detections
    label: np.ndarray  # (M,) index into the labels of the ground truth
    depth: np.ndarray  # (M,) 0 for one of the N_c best of its class, 1 for one of the next N_c, ... 9
    kind: np.ndarray  # (K, M) index into KINDS


class Characteristic(NamedTuple):
    """False negatives and sensitivity of the instances in B bins at K thresholds; NaN where a bin is empty."""
    name: str  # 'coverage', 'length' or 'instances'
    bins: list[str]  # (B,) 'XS', 'S', ...
    ranges: list[str]  # (B,) '<= 3', '3-6', ... '> 18'
    instances: np.ndarray  # (B,) number of instances
    missed: np.ndarray  # (K, B) share of them that nothing matched
    mean_ap: np.ndarray  # (K, B) normalized mAP
    unknown: int  # instances in no bin, because the duration of their video is not known


class Diagnosis(NamedTuple):
    """Everything, at K thresholds."""
    tiou: np.ndarray  # (K,)
    num_videos: int
    num_instances: int
    num_detections: int
    profile: np.ndarray  # (K, 10, 6) how many of the m N_c best detections, m = 1..10, are of each of KINDS
    mean_ap: np.ndarray  # (K,) mAP of the kept detections
    gain: np.ndarray  # (K, 5) what it gains without the detections of each of KINDS[1:]
    missed: np.ndarray  # (K,) share of the instances that nothing matched
    normalized_mean_ap: np.ndarray  # (K,) of all detections on all instances: what those of the bins compare with
    characteristics: list[Characteristic]  # coverage is left out if no video has a known duration
    matches: Matches  # what all this was computed from ...
    judgement: Judgement  # ... and the single verdicts

    @property
    def num_kept(self) -> int:
        """Detections among the 10 N_c best of their class."""
        return int(self.profile[0, -1].sum())

    @property
    def shares(self) -> np.ndarray:
        """The profile as shares of the detections, (K, 10, 6); 0 where there are none."""
        return self.profile / np.maximum(self.profile.sum(axis=2, keepdims=True), 1)

    @property
    def kinds(self) -> np.ndarray:
        """The kind of each of the R detections, (K, R) uint8: an index into KINDS, or NOT_JUDGED.

        One that matched an instance is a true positive also where it is not kept.
        """
        kinds = np.full((len(self.tiou), self.num_detections), NOT_JUDGED, np.uint8)
        kinds[:, self.judgement.detection] = self.judgement.kind
        threshold, place = np.nonzero(self.matches.instance >= 0)
        kinds[threshold, self.matches.order[place]] = 0
        return kinds

    @property
    def found(self) -> np.ndarray:
        """Which of the G instances a detection matched, (K, G) bool; the others are false negatives."""
        return found_instances(self.matches, self.num_instances)


def judge(truth: GroundTruth, detections: Detections, tiou: ArrayLike, matches: Matches | None = None) -> Judgement:
    """Tells the kind of every detection that is among the 10 N_c best of its class, as the module explains.

    `matches` saves the matching, if it is at hand for the same `tiou`. Raises InputError for a wrong threshold.
    """
    thresholds = check_tiou(tiou)
    matches = match(truth, detections, thresholds) if matches is None else matches
    label = matches.label[matches.order]
    rank = np.arange(len(label)) - np.searchsorted(label, label)
    depth = rank // np.bincount(truth.label, minlength=len(truth.labels))[label]
    kept = np.flatnonzero(depth < DEPTH)
    rows, label = matches.order[kept], label[kept]

    overlap, nearest = _nearest(truth, matches.video[rows], detections.segments[rows])
    kind = np.where(overlap >= thresholds[:, None], 1, np.where(overlap >= MIN_TIOU, 3, 5))
    kind += (kind < 5) & (nearest != label)
    return Judgement(rows, label, depth[kept], np.where(matches.instance[:, kept] >= 0, 0, kind))


def _nearest(truth: GroundTruth, video: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest tIoU (M,) with any instance of the video, 0 where there is none, and the label of that instance (M,)."""
    overlap, label = np.zeros(len(video)), np.full(len(video), -1)
    for place, instance, pairs in overlapping(segments, video, truth.segments, truth.video):
        begin = np.flatnonzero(np.diff(place, prepend=-1))
        if not len(begin):
            continue
        own = place[begin]
        overlap[own] = np.maximum.reduceat(pairs, begin)
        first = np.minimum.reduceat(np.where(pairs == overlap[place], instance, len(truth.label)), begin)
        label[own] = truth.label[first]  # of equals the first instance
    return overlap, label


def diagnose(truth: GroundTruth, detections: Detections, tiou: ArrayLike = (0.5,),
             bins: Mapping[str, Sequence[float]] = BINS['thumos14']) -> Diagnosis:
    """Diagnoses detections against all videos of `truth` (see `eval.detection.scored_subset`), as the module explains.

    `bins` gives the upper ends of the bins of 'coverage', 'length' (seconds) and 'instances'. Raises InputError if
    there is no instance, or for a wrong threshold.
    """
    thresholds = check_tiou(tiou)
    if not len(truth.segments):
        raise InputError('the ground truth has no annotated instance: there is nothing to diagnose')
    matches = match(truth, detections, thresholds)
    judgement = judge(truth, detections, thresholds, matches)
    cells = judgement.depth * len(KINDS) + judgement.kind
    profile = [np.bincount(row, minlength=DEPTH * len(KINDS)).reshape(DEPTH, -1).cumsum(axis=0) for row in cells]

    positives, hit = np.bincount(truth.label), judgement.kind == 0
    mean_ap = _mean_ap(judgement.label, hit, ~hit, positives)
    gain = [_mean_ap(judgement.label, hit, ~hit & (judgement.kind != kind), positives) - mean_ap
            for kind in range(1, len(KINDS))]

    found = found_instances(matches, len(truth.segments))
    return Diagnosis(
        thresholds, len(truth.videos), len(truth.segments), len(detections.scores), np.stack(profile),
        mean_ap, np.stack(gain, axis=1), 1 - found.mean(axis=1),
        _sensitivity(truth, matches, np.ones(len(truth.segments), bool)),
        [_characteristic(truth, matches, found, name, values, bins[name])
         for name, values in _values(truth).items() if not np.isnan(values).all()],
        matches, judgement)


def found_instances(matches: Matches, number: int) -> np.ndarray:
    """Which of the `number` instances a detection matched, (K, number) bool; the others are false negatives."""
    found = np.zeros((len(matches.instance), number), bool)
    threshold, place = np.nonzero(matches.instance >= 0)
    found[threshold, matches.instance[threshold, place]] = True
    return found


def _mean_ap(label: np.ndarray, hit: np.ndarray, miss: np.ndarray, positives: np.ndarray,
             normal: float | None = None) -> np.ndarray:
    """mAP (K,) over the classes with `positives` (C,) of detections sorted by `label` (P,), then by falling score.

    `hit` and `miss` (K, P) tell true and false positives; a detection that is neither is left out. The precision of a
    class is as if it had `normal` instances.
    """
    ap = []
    for c in np.flatnonzero(positives):
        own = slice(*np.searchsorted(label, (c, c + 1)))
        places = np.flatnonzero(hit[:, own].any(axis=0))  # elsewhere precision only falls
        hits = np.cumsum(hit[:, own][:, places], axis=1) * (normal / positives[c] if normal else 1)
        misses = np.cumsum(miss[:, own], axis=1, dtype=np.int32)[:, places]
        precision = hits / np.maximum(hits + misses, 1e-99)  # 0 before the first that counts
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        ap.append((envelope * hit[:, own][:, places]).sum(axis=1) / positives[c])
    return np.mean(ap, axis=0)


def _sensitivity(truth: GroundTruth, matches: Matches, inside: np.ndarray) -> np.ndarray:
    """Normalized mAP (K,) on the instances `inside` (G,) bool, without the detections matched to the others."""
    matched = matches.instance >= 0
    hit = np.zeros_like(matched)
    threshold, place = np.nonzero(matched)
    hit[threshold, place] = inside[matches.instance[threshold, place]]
    return _mean_ap(matches.label[matches.order], hit, ~matched,
                    np.bincount(truth.label[inside]), normal=len(inside) / len(np.unique(truth.label)))


def _values(truth: GroundTruth) -> dict[str, np.ndarray]:
    """The characteristics of every instance, (G,) each; NaN where the duration of the video is not known."""
    length, duration = truth.segments[:, 1] - truth.segments[:, 0], truth.durations[truth.video]
    _, group, count = np.unique(truth.video * len(truth.labels) + truth.label, return_inverse=True, return_counts=True)
    with np.errstate(over='ignore'):  # an absurdly short duration is no reason to complain: the last bin
        coverage = np.divide(length, duration, out=np.full(len(length), np.nan), where=duration > 0)
    return {'coverage': coverage, 'length': length, 'instances': count[group].astype(np.float64)}


def _characteristic(truth: GroundTruth, matches: Matches, found: np.ndarray, name: str, values: np.ndarray,
                    ends: Sequence[float]) -> Characteristic:
    """What becomes of the instances in each bin of `values` (G,); `found` (K, G) tells which were matched."""
    if not 0 < len(ends) < len(SIZES) or not (np.diff(ends) > 0).all():
        raise InputError(f'the bins of {name} need 1 to {len(SIZES) - 1} rising upper ends, not {list(ends)}')
    least = [end + 1 for end in ends] if name == 'instances' else ends  # whole numbers: 2-40, 41-80
    ranges = [f'<= {ends[0]:g}', *(f'{low:g}-{high:g}' for low, high in zip(least, ends[1:])), f'> {ends[-1]:g}']
    bins = np.where(np.isnan(values), -1, np.searchsorted(ends, values))
    missed, mean_ap = np.full((2, len(found), len(ranges)), np.nan)
    for b in np.unique(bins[bins >= 0]):
        missed[:, b] = 1 - found[:, bins == b].mean(axis=1)
        mean_ap[:, b] = _sensitivity(truth, matches, bins == b)
    return Characteristic(name, list(SIZES[:len(ranges)]), ranges, np.bincount(bins + 1, minlength=len(ranges) + 1)[1:],
                          missed, mean_ap, int((bins < 0).sum()))


def to_json(diagnosis: Diagnosis) -> dict:
    """The diagnosis as --output writes it: fractions, thresholds as keys, null for empty bins."""
    keys = [tiou_key(threshold) for threshold in diagnosis.tiou]

    def by_tiou(values: np.ndarray) -> dict:
        return {key: None if np.isnan(value) else value for key, value in zip(keys, values.tolist())}

    return {
        'num_videos': diagnosis.num_videos, 'num_instances': diagnosis.num_instances,
        'num_predictions': diagnosis.num_detections, 'num_kept': diagnosis.num_kept,
        'share': {kind: by_tiou(diagnosis.shares[:, -1, k]) for k, kind in enumerate(KINDS)},
        'profile': {key: dict(zip(KINDS, shares.T.tolist())) for key, shares in zip(keys, diagnosis.shares)},
        'mAP_of_kept': by_tiou(diagnosis.mean_ap),
        'mAP_gain': {kind: by_tiou(gain) for kind, gain in zip(KINDS[1:], diagnosis.gain.T)},
        'average_mAP_of_kept': float(diagnosis.mean_ap.mean()),
        'average_mAP_gain': dict(zip(KINDS[1:], diagnosis.gain.mean(axis=0).tolist())),
        'missed': by_tiou(diagnosis.missed), 'normalized_mAP': by_tiou(diagnosis.normalized_mean_ap),
        'characteristics': {c.name: {
            'instances_of_unknown_duration': c.unknown,
            'bins': [{'bin': c.bins[b], 'range': c.ranges[b], 'instances': int(c.instances[b]),
                      'missed': by_tiou(c.missed[:, b]), 'normalized_mAP': by_tiou(c.mean_ap[:, b])}
                     for b in range(len(c.bins))]} for c in diagnosis.characteristics}}


def format_table(diagnosis: Diagnosis) -> str:
    """The diagnosis as text in per cent: kinds and gains by tIoU; the profile and the bins as means over the tIoUs."""
    def row(name: str, values: Iterable, form: str = '8.2f') -> str:
        return f'{name:<32}' + ''.join(f'{value:{form}}' for value in values)

    def by_tiou(name: str, values: np.ndarray) -> str:
        return row(name, 100 * (values if len(values) == 1 else np.append(values, values.mean())))

    def of_bin(name: str, instances: int, missed: np.ndarray, mean_ap: np.ndarray) -> str:
        shown = [f'{100 * values.mean():.2f}' if instances else '-' for values in (missed, mean_ap)]
        return row(name, [instances, *shown], '>16')

    tious = [*map(tiou_key, diagnosis.tiou), 'mean'] if len(diagnosis.tiou) > 1 else [tiou_key(diagnosis.tiou[0])]
    lines = [f'{diagnosis.num_videos} videos, {diagnosis.num_instances} instances, {diagnosis.num_detections} '
             f'detections, of which {diagnosis.num_kept} are kept: the {DEPTH} N_c best of each class',
             '', row('share of the kept (%), tIoU', tious, '>8')]
    lines += [by_tiou(kind, diagnosis.shares[:, -1, k]) for k, kind in enumerate(KINDS)]
    lines += ['', by_tiou('mAP of the kept (%)', diagnosis.mean_ap), 'gain in mAP without']
    lines += [by_tiou(f'  {kind}', gain) for kind, gain in zip(KINDS[1:], diagnosis.gain.T)]
    lines += ['', row('profile (%), best of each class', [f'{depth} N_c' for depth in range(1, DEPTH + 1)], '>8')]
    lines += [row(kind, shares) for kind, shares in zip(KINDS, 100 * diagnosis.shares.mean(axis=0).T)]
    lines += ['', row('instances by', ('instances', 'missed (%)', 'norm. mAP (%)'), '>16'),
              of_bin('  all', diagnosis.num_instances, diagnosis.missed, diagnosis.normalized_mean_ap)]
    for c in diagnosis.characteristics:
        lines += [f'  {TITLES[c.name]}']
        lines += [of_bin(f'    {size:<4}{c.ranges[b]}', c.instances[b], c.missed[:, b], c.mean_ap[:, b])
                  for b, size in enumerate(c.bins)]
    return '\n'.join(lines + [f'note: {line}' for line in notes(diagnosis)])


def notes(diagnosis: Diagnosis) -> list[str]:
    """What the reader must know about coverage, if the duration of a video is not known."""
    unknown = {c.name: c.unknown for c in diagnosis.characteristics}.get('coverage', diagnosis.num_instances)
    return [f'coverage leaves out {unknown} of {diagnosis.num_instances} instances: '
            'the ground truth does not tell the "duration" of their videos'] if unknown else []


def draw(diagnosis: Diagnosis) -> 'Figure':
    """The profile, the gains, false negatives and sensitivity in one matplotlib figure, as means over the tIoUs."""
    from matplotlib.figure import Figure
    tious = ', '.join(map(tiou_key, diagnosis.tiou))
    figure = Figure(figsize=(13, 9.5), layout='constrained')
    figure.supxlabel('\n'.join(notes(diagnosis)), fontsize='medium')
    figure.suptitle(f'Error diagnosis, mean over tIoU {tious}' if ',' in tious else f'Error diagnosis at tIoU {tious}')
    rooms = figure.add_gridspec(2, 1, height_ratios=(4, 5))
    above = rooms[0].subgridspec(1, 2, width_ratios=(3, 2))

    axes = figure.add_subplot(above[0])
    depth, shares = np.arange(1, DEPTH + 1), 100 * diagnosis.shares.mean(axis=0)
    for kind, colour, top, height in zip(KINDS, COLOURS, np.cumsum(shares, axis=1).T, shares.T):
        axes.bar(depth, height, 0.85, top - height, color=colour, label=f'{kind}: {height[-1]:.2f} %')
    axes.set(title=f'What the best 1 to {DEPTH} $N_c$ detections of each class are', ylabel='share (%)', ylim=(0, 100),
             xlabel='detections of a class, as a multiple of its $N_c$ instances', xticks=depth)
    axes.legend(reverse=True, title=f'of {DEPTH} $N_c$', loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)

    axes = figure.add_subplot(above[1])
    bars = axes.barh(KINDS[1:], 100 * diagnosis.gain.mean(axis=0), color=COLOURS[1:])
    axes.bar_label(bars, fmt='%.2f', padding=3)
    axes.set(title='mAP gained if they were removed', xlabel=f'points on top of {100 * diagnosis.mean_ap.mean():.2f} %')
    axes.margins(x=0.15)

    widths = [len(c.bins) for c in diagnosis.characteristics]
    grid = rooms[1].subgridspec(2, len(widths), width_ratios=widths)
    for row, (what, colour) in enumerate((('missed instances (%)', '#D55E00'), ('normalized mAP (%)', '#0072B2'))):
        for column, c in enumerate(diagnosis.characteristics):
            values = 100 * (c.mean_ap if row else c.missed).mean(axis=0)
            whole = 100 * (diagnosis.normalized_mean_ap if row else diagnosis.missed).mean()
            axes = figure.add_subplot(grid[row, column])
            bars = axes.bar(np.arange(len(values)), np.nan_to_num(values), color=colour)
            axes.bar_label(bars, ['-' if np.isnan(value) else f'{value:.1f}' for value in values], padding=2,
                           bbox={'color': 'white', 'pad': 0.5})
            axes.axhline(whole, color='black', linestyle='--', linewidth=1, zorder=0, label=f'all: {whole:.1f}')
            axes.legend(loc='upper right', frameon=False, borderpad=0)
            axes.set(ylim=(0, 135), yticks=range(0, 101, 25), ylabel='' if column else what,
                     title='' if row else f'by {TITLES[c.name]}', xticks=np.arange(len(values)),
                     xticklabels=[f'{size}\n{span.replace("<=", "≤")}\nn = {number}' if row else ''
                                  for size, span, number in zip(c.bins, c.ranges, c.instances)])
    for axes in figure.axes:
        axes.spines[['top', 'right']].set_visible(False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.diagnosis', description='Error diagnosis of a result file, after DETAD.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--subset', metavar='NAME', help='what to diagnose (default: that of the predicted videos)')
    parser.add_argument('--tiou', type=float, nargs='+', default=[0.5], metavar='T', help='thresholds (default: 0.5)')
    parser.add_argument('--bins', choices=BINS, default='thumos14', help='bins of the instances (default: thumos14)')
    parser.add_argument('--output', metavar='FILE', help='also write the numbers there, as JSON')
    parser.add_argument('--picture', metavar='FILE', help='also draw them there, as .png or .svg')
    parser.add_argument('--overwrite', action='store_true', help='also write over files of another kind')
    args = parser.parse_args(arguments)
    return run_cli(lambda: diagnose_file(args))


def diagnose_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    refuse_overwriting_inputs([args.ground_truth, args.detections], args.output, args.picture)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, r'{\s*"num_videos": \d+,\s*"num_instances"')
        refuse_overwriting_foreign(args.picture, IMAGE_SIGNATURES)
    truth, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    truth = scored_subset(truth, detections.videos, args.subset)
    diagnosis = diagnose(truth, detections, args.tiou, BINS[args.bins])
    for line in warnings(evaluate(truth, detections, args.tiou, diagnosis.matches)):
        print(f'warning: {line}', file=sys.stderr)
    if args.output:
        write_json(args.output, to_json(diagnosis))
    if args.picture:
        save_figure(args.picture, draw(diagnosis))
    print(f'subset {truth.subsets[0]!a}:', format_table(diagnosis), flush=True)


if __name__ == '__main__':
    sys.exit(main())
