"""ActivityNet detection mAP, of a run or of any result file in the ActivityNet format.

    python -m eval.detection gt.json detections.json
    python -m eval.detection gt.json detections.json --subset validation --tiou 0.5 0.75 0.95 --output results.json

Every detection, best score first, takes the free instance of its video and class that it overlaps most, if their tIoU
reaches the threshold. Average precision is the area under the precision envelope (all points, as in VOC 2011).
"""
import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from formats.annotations import GroundTruth, match_videos, read_ground_truth, select_videos, subset_name
from formats.detections import Detections, read_detections
from utils import InputError, Parser, refuse_overwriting_inputs, refuse_overwriting_foreign, plural, quote, run_cli, truncate, write_json

TIOU = tuple(i / 10 for i in range(1, 8))  # the command's thresholds: THUMOS14's 0.1:0.1:0.7
AVERAGES = {  # what papers report, where all of its thresholds were scored
    '0.1:0.5': [i / 10 for i in range(1, 6)],
    '0.3:0.7': [i / 10 for i in range(3, 8)],
    '0.1:0.7': [i / 10 for i in range(1, 8)],
    '0.5:0.95': [i / 20 for i in range(10, 20)],
}
NOBODY = np.iinfo(np.int64).max
MOST_TIED = 10_000  # instances of a class in one video up to which equal tIoUs are ordered as in the reference
BLOCK = 2 ** 16  # pairs of detection and instance that are looked at together: they stay in the cache


class Matches(NamedTuple):
    """How R detections meet G instances at K thresholds; P of the detections have a label that an instance has."""
    video: np.ndarray  # (R,) index into the videos of the ground truth, -1 where it does not list the video
    label: np.ndarray  # (R,) index into the labels of the ground truth, -1 where no instance has the label
    order: np.ndarray  # (P,) the detections that count: class by class, inside a class by falling score
    instance: np.ndarray  # (K, P) the instance that detection `order[p]` matched, -1 for a false positive

    def at(self, k: int) -> 'Matches':
        """Those at one of the thresholds alone."""
        return self._replace(instance=self.instance[[k]])


class Scores(NamedTuple):
    """Average precision of C classes at K thresholds, and what was scored."""
    tiou: np.ndarray  # (K,)
    labels: list[str]  # (C,) the classes that occur in the ground truth that was scored, sorted
    ap: np.ndarray  # (C, K) fractions
    num_videos: int
    num_instances: int
    num_detections: int
    videos_without_detection: int
    unknown_videos: int  # videos with detections that the ground truth does not list ...
    detections_in_unknown_videos: int
    unknown_labels: int  # ... and predicted labels that it does not use
    detections_of_unknown_labels: int

    @property
    def mean_ap(self) -> np.ndarray:
        """mAP at every threshold, (K,)."""
        return self.ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Mean of the mAPs over the thresholds."""
        return float(self.mean_ap.mean())


class Threshold(NamedTuple):
    """The least score at which detections are kept, and how good those are, fractions; all classes are pooled."""
    score: float
    precision: float
    recall: float
    f1: float


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """tIoU of segments (..., 2) in seconds that broadcast; 0 where one of the two has no or negative length."""
    intersection = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - intersection
    # Where they intersect both lengths are positive, and so is the union.
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def match(truth: GroundTruth, detections: Detections, tiou: ArrayLike) -> Matches:
    """Matches detections to instances as the ActivityNet protocol does, greedily by falling score, for all thresholds.

    A detection whose best instance is taken goes on to its next best that reaches the threshold. Equal scores keep the
    order of the rows; for equal tIoUs see `_TieBreak`.
    """
    thresholds, num_labels = np.asarray(tiou, np.float64), len(truth.labels)
    used = {truth.labels[label]: label for label in np.unique(truth.label)}
    video = match_videos(detections.videos, truth.videos)[detections.video]
    label = np.array([used.get(name, -1) for name in detections.labels], np.int64)[detections.label]
    order = np.lexsort((-detections.scores, label))
    order = order[label[order] >= 0]

    group = truth.video * num_labels + truth.label
    own_group = np.where(video >= 0, video * num_labels + label, -1)[order]
    segments = detections.segments[order]
    matched = np.full((len(thresholds), len(order)), -1)
    holder = np.full(len(thresholds) * len(group), NOBODY)  # who has each instance, at each threshold
    tie_break = _TieBreak(segments, own_group, truth.segments, group)
    for place, instance, overlap in overlapping(segments, own_group, truth.segments, group):
        near = np.flatnonzero(overlap >= thresholds.min())
        near = near[np.lexsort((-overlap[near], place[near]))]  # place by place, from the best overlap down
        place, overlap = place[near], overlap[near]
        instance = tie_break.settle(place, overlap, instance[near])
        # The wishes that can still come true: by threshold, by place in the order, then from the best overlap down.
        wanted = np.arange(len(thresholds))[:, None] * len(group) + instance
        threshold, wish = np.nonzero((overlap >= thresholds[:, None]) & (holder[wanted] == NOBODY))
        asker, wanted = place[wish], wanted[threshold, wish]
        granted = _assign(threshold * len(order) + asker, wanted, holder)
        matched[threshold[granted], asker[granted]] = wanted[granted] % len(group)
    return Matches(video, label, order, matched)


def overlapping(segments: np.ndarray, groups: np.ndarray, instances: np.ndarray, instance_groups: np.ndarray
                ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All pairs of a segment and an instance of the same group that overlap, and some that do not, block by block.

    segments (P, 2) of `groups` (P,), instances (G, 2) of `instance_groups` (G,) -> of each pair the index of the
    segment, which rises, that of the instance, and their tIoU.
    """
    order, first, last = _reaching(segments, groups, instances, instance_groups)
    count = last - first
    before = np.cumsum(count) - count
    blocks = np.flatnonzero(np.diff(before // BLOCK, prepend=-1))
    for a, b in pairwise([*blocks, len(segments)]):
        place = np.repeat(np.arange(a, b), count[a:b])
        instance = order[np.arange(len(place)) + np.repeat(first[a:b] - before[a:b] + before[a], count[a:b])]
        yield place, instance, temporal_iou(segments.take(place, axis=0), instances.take(instance, axis=0))


def _reaching(segments: np.ndarray, groups: np.ndarray, instances: np.ndarray, instance_groups: np.ndarray
              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An order of the instances (G,), and first and last (P,) in it: those that segment p overlaps are in between.

    So nobody must look at all pairs of a long video.
    """
    order = np.lexsort((instances[:, 0], instance_groups))
    sorted_groups, (start, end) = instance_groups[order], instances[order].T
    first, last = (np.searchsorted(sorted_groups, groups, side) for side in ('left', 'right'))
    if (last - first).sum() < 10 * len(segments):
        return order, first, last  # the whole groups: they are so small that a choice would take longer
    # Distributed of times make one rising key of group and time. Candidates start before the segment ends ...
    starts, rank = np.unique(start, return_inverse=True)
    key = sorted_groups * (len(starts) + 1) + rank
    last = np.searchsorted(key, groups * (len(starts) + 1) + np.searchsorted(starts, segments[:, 1]))
    # ... and come after those of the group that have all ended before it starts.
    ends, rank = np.unique(end, return_inverse=True)
    reach = np.maximum.accumulate(sorted_groups * (len(ends) + 1) + rank)
    first = np.searchsorted(reach, groups * (len(ends) + 1) + np.searchsorted(ends, segments[:, 0], 'right'))
    return order, first, np.maximum(first, last)


class _TieBreak:
    """The order of instances that one detection overlaps by exactly the same tIoU.

    quirk: the reference takes these as numpy's `argsort()[::-1]` leaves them. That sort is not stable, nor the same on
    every processor, but the published numbers come from it, so it is called here too, on the same values: the tIoUs
    with all instances of the video and class, in the file's order. It decides on 47 of the authors' 36,195 detections,
    and so on up to 0.01 % of mAP: 73.236 at tIoU 0.1 where numpy sorts with AVX2, 73.233 where it does not.
    """

    def __init__(self, segments: np.ndarray, groups: np.ndarray, instances: np.ndarray, instance_groups: np.ndarray):
        self.segments, self.groups, self.instances = segments, groups, instances
        self.by_group = np.argsort(instance_groups, kind='stable')
        self.sorted_groups = instance_groups[self.by_group]

    def settle(self, place: np.ndarray, overlap: np.ndarray, instance: np.ndarray) -> np.ndarray:
        """The instances of pairs sorted by place, then by falling overlap; those of equal overlap in that order."""
        settled = instance.copy()
        tied = np.unique(place[1:][(np.diff(place) == 0) & (np.diff(overlap) == 0)])
        for p, first, last in zip(tied, np.searchsorted(place, tied), np.searchsorted(place, tied, 'right')):
            start, stop = (np.searchsorted(self.sorted_groups, self.groups[p], side) for side in ('left', 'right'))
            own = self.by_group[start:stop]
            if len(own) <= MOST_TIED:
                best = temporal_iou(self.segments[p], self.instances[own]).argsort()[::-1]
                settled[first:last] = own[best[:last - first]]
        return settled


def _assign(asker: np.ndarray, wanted: np.ndarray, holder: np.ndarray) -> np.ndarray:
    """The wishes that are granted: `asker` (W,), sorted, wants the instance `wanted` (W,) of those that nobody holds.

    Of one asker the best wish stands first, and every instance prefers the earlier asker: the better score. So there is
    one stable matching, and going through the detections one by one gives the same. Deferred acceptance finds it for
    all groups and thresholds together: whoever has nothing asks for the next instance on the list, and each instance
    stays with the first of those who asked. `holder` is updated: anything but NOBODY is taken.
    """
    next_asker = np.append(asker[1:], -1)
    asking = np.flatnonzero(np.diff(asker, prepend=-1))
    while len(asking):
        previous = holder[wanted[asking]]
        np.minimum.at(holder, wanted[asking], asking)
        won = holder[wanted[asking]] == asking
        refused = np.concatenate((asking[~won], previous[won & (previous < NOBODY)]))
        asking = refused[next_asker[refused] == asker[refused]] + 1
    return np.flatnonzero(holder[wanted] == np.arange(len(wanted)))


def average_precision(hit: np.ndarray, positives: int) -> np.ndarray:
    """Area under the precision envelope of one class, (K,), from its detections by falling score.

    `hit` (K, P) tells who matched an instance at each threshold, `positives` how many instances there are. A class that
    nobody predicted has 0.
    """
    precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (envelope * hit).sum(axis=1) / positives


def check_tiou(tiou: ArrayLike, prefix: str = '') -> np.ndarray:
    """Return the thresholds as float64 (K,); raises InputError unless they are distinct and in (0, 1]."""
    values = np.asarray(tiou, np.float64)
    if not len(values) or not ((values > 0) & (values <= 1)).all():
        raise InputError(f'{prefix}tIoU thresholds must be above 0 and at most 1, not '
                         f'{", ".join(f"{t:g}" for t in values)}')
    if len({tiou_key(threshold) for threshold in values}) < len(values):
        raise InputError(f'{prefix}a tIoU threshold is given twice; give each one once')
    return values


def evaluate(truth: GroundTruth, detections: Detections, tiou: ArrayLike,
             matches: Matches | None = None) -> Scores:
    """Scores detections against all videos of `truth` (see `scored_subset`); InputError if it has no instance.

    mAP is the mean over the classes that occur in `truth`. A detection in a video that it does not list is a false
    positive, one of a label that it does not use changes nothing, and both are counted.
    """
    thresholds = check_tiou(tiou)
    if not len(truth.segments):
        raise InputError('the ground truth has no annotated instance: there is nothing to score')
    matches = match(truth, detections, thresholds) if matches is None else matches
    classes, positives = np.unique(truth.label, return_counts=True)
    first, last = (np.searchsorted(matches.label[matches.order], classes, side) for side in ('left', 'right'))
    ap = [average_precision(matches.instance[:, a:b] >= 0, n) for a, b, n in zip(first, last, positives)]
    unknown_video, unknown_label = matches.video < 0, matches.label < 0
    return Scores(
        tiou=thresholds, labels=[truth.labels[c] for c in classes], ap=np.stack(ap),
        num_videos=len(truth.videos), num_instances=len(truth.segments), num_detections=len(detections.scores),
        videos_without_detection=len(truth.videos) - len(np.unique(matches.video[~unknown_video])),
        unknown_videos=len(np.unique(detections.video[unknown_video])),
        detections_in_unknown_videos=int(unknown_video.sum()),
        unknown_labels=len(np.unique(detections.label[unknown_label])),
        detections_of_unknown_labels=int(unknown_label.sum()))


def best_threshold(truth: GroundTruth, detections: Detections, tiou: float = 0.5,
                   matches: Matches | None = None) -> Threshold | None:
    """The score threshold at which F1 is best against all videos of `truth` (see `scored_subset`).

    Of equals the highest; None if no detection matches an instance. Detections of labels that `truth` does not use
    change nothing, as in mAP.
    """
    matches = match(truth, detections, check_tiou([tiou])) if matches is None else matches
    scores, hit = detections.scores[matches.order], matches.instance[0] >= 0
    order = np.argsort(-scores, kind='stable')
    scores, hits = scores[order], np.cumsum(hit[order])
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # a threshold keeps all detections of its score
    f1 = 2 * hits[last] / (last + 1 + len(truth.segments))
    if not len(hits) or not hits[-1]:
        return None
    best = f1.argmax()
    kept, true = last[best] + 1, hits[last[best]]
    return Threshold(float(scores[last[best]]), float(true / kept), float(true / len(truth.segments)), float(f1[best]))


def scored_subset(truth: GroundTruth, videos: Sequence[str], subset: str | None = None) -> GroundTruth:
    """The annotated videos of `subset` in any spelling, or of the one subset that holds the detected `videos`.

    InputError if these lie in several subsets, or if no video of the subset is annotated.
    """
    subsets = np.array([*map(subset_name, truth.subsets)], object)
    spelled = dict(zip(subsets, truth.subsets))
    annotated = np.bincount(truth.video, minlength=len(truth.videos)) > 0
    if subset is None:
        listed = match_videos(videos, truth.videos)
        held = Counter(subsets[listed[listed >= 0]]) or Counter(subsets[annotated])
        if len(held) > 1:
            names = ' and '.join(f'{quote(spelled[name])} ({number} videos)' for name, number in held.most_common(5))
            problem = 'the videos with detections lie in several subsets of the ground truth'
            if not (listed >= 0).any():
                problem = 'the ground truth lists none of the videos with detections, and has several subsets'
            raise InputError(f'{problem}, {names}: name the one to score with --subset')
        subset = next(iter(held), '')
    keep = annotated & (subsets == subset_name(subset))
    if not keep.any():
        names = ', '.join(quote(spelled[name]) for name, _ in Counter(subsets[annotated]).most_common(5)) or 'none'
        raise InputError(f'no video of the subset {quote(subset)} is annotated; subsets with annotated videos: {names}')
    return select_videos(truth, keep)


def tiou_key(threshold: float) -> str:
    """A threshold as results.json and the tables spell it: 0.1, 0.55."""
    return f'{round(float(threshold), 10):g}'


def to_json(scores: Scores) -> dict:
    """What results.json says of the scores: fractions, thresholds as keys."""
    keys = [tiou_key(threshold) for threshold in scores.tiou]
    return {'average_mAP': scores.average, 'mAP': dict(zip(keys, scores.mean_ap.tolist())),
            'AP': {label: dict(zip(keys, ap)) for label, ap in zip(scores.labels, scores.ap.tolist())},
            'num_videos': scores.num_videos, 'num_predictions': scores.num_detections}


def averages(scores: Scores) -> dict[str, float]:
    """The averages that papers report, by the thresholds that are there, and that of all if it is none of these."""
    by_key = dict(zip(map(tiou_key, scores.tiou), scores.mean_ap.tolist()))
    spans = {name: [tiou_key(threshold) for threshold in span] for name, span in AVERAGES.items()}
    spans = {name: span for name, span in spans.items() if by_key.keys() >= set(span)}
    if all(len(span) < len(by_key) for span in spans.values()):
        spans['all'] = list(by_key)
    return {name: float(np.mean([by_key[key] for key in span])) for name, span in spans.items()}


def format_table(scores: Scores) -> str:
    """What was scored, mAP in per cent at every threshold, and the averages that papers report."""
    return '\n'.join([
        f'{plural(scores.num_videos, "video")} ({scores.videos_without_detection} without a detection), '
        f'{plural(scores.num_instances, "instance")}, {plural(scores.num_detections, "detection")}',
        'tIoU   ' + ''.join(f'{tiou_key(threshold):>7}' for threshold in scores.tiou),
        'mAP (%)' + ''.join(f'{value:7.2f}' for value in 100 * scores.mean_ap),
        'average' + ''.join(f'{name:>9} {100 * value:6.2f}' for name, value in averages(scores).items())])


def format_classes(scores: Scores) -> str:
    """AP in per cent of every class at every threshold, and its mean over them."""
    names = [truncate(label, 40) for label in scores.labels]
    width = max(6, *map(len, names))
    rows = [f'{name:<{width}}' + ''.join(f'{value:7.2f}' for value in 100 * np.append(ap, ap.mean()))
            for name, ap in zip(names, scores.ap)]
    heads = [*map(tiou_key, scores.tiou), 'mean']
    return '\n'.join(['', f'{"AP (%)":<{width}}' + ''.join(f'{head:>7}' for head in heads), *rows])


def warnings(scores: Scores) -> list[str]:
    """A line each for detections in unknown videos and of unknown labels, if there are any."""
    lines, total = [], scores.num_detections
    if scores.unknown_videos:
        lines.append(f'{scores.detections_in_unknown_videos} of {total} detections are false positives: the ground '
                     f'truth does not list their video (such videos: {scores.unknown_videos})')
    if scores.unknown_labels:
        lines.append(f'{scores.detections_of_unknown_labels} of {total} detections change nothing: the ground '
                     f'truth does not use their label (such labels: {scores.unknown_labels})')
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.detection', description='ActivityNet detection mAP of a result file.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--subset', metavar='NAME', help='what to score (default: that of the videos with detections)')
    parser.add_argument('--tiou', type=float, nargs='+', default=TIOU, metavar='T',
                        help='thresholds (default: those of THUMOS14, 0.1 0.2 ... 0.7; ActivityNet: 0.5 0.55 ... 0.95)')
    parser.add_argument('--classes', action='store_true', help='also print the AP of every class')
    parser.add_argument('--output', metavar='FILE', help='also write the results there, as JSON')
    parser.add_argument('--overwrite', action='store_true', help='also write over a file that is no such results')
    args = parser.parse_args(arguments)
    return run_cli(lambda: score_file(args))


def score_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    refuse_overwriting_inputs([args.ground_truth, args.detections], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, r'{\s*"average_mAP"')
    truth, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    truth = scored_subset(truth, detections.videos, args.subset)
    scores = evaluate(truth, detections, args.tiou)
    for line in warnings(scores):
        print(f'warning: {line}', file=sys.stderr)
    if args.output:
        write_json(args.output, to_json(scores))
    print(f'subset {truth.subsets[0]!a}:', format_table(scores), flush=True)
    if args.classes:
        print(format_classes(scores), flush=True)


if __name__ == '__main__':
    sys.exit(main())
