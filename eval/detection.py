"""ActivityNet detection mAP, of a run or of any result file in the ActivityNet format.

    python -m eval.detection gt.json detections.json
    python -m eval.detection gt.json detections.json --subset validation --tiou 0.5 0.75 0.95 --output results.json

In the order of descending score, each detection is matched to the unmatched instance of its video and class with the
largest tIoU, if that reaches the threshold. Average precision is the area under the precision envelope (all points, as
in VOC 2011).
"""
import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from formats.annotations import (
    NEGATIVE,
    GroundTruth,
    match_videos,
    read_ground_truth,
    select_videos,
    subset_name,
    suspicious_times,
)
from formats.columns import nearest_name, plain_form, quote_distinct
from formats.detections import Detections, read_detections
from utils import (
    InputError,
    Parser,
    plural,
    preview,
    quote,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    truncate,
    warn,
    write_json,
)

TIOU = tuple(i / 10 for i in range(1, 8))  # the command's thresholds: THUMOS14's 0.1:0.1:0.7
AVERAGES = {  # that papers report
    '0.1:0.5': [i / 10 for i in range(1, 6)],
    '0.3:0.7': [i / 10 for i in range(3, 8)],
    '0.1:0.7': [i / 10 for i in range(1, 8)],
    '0.5:0.95': [i / 20 for i in range(10, 20)],
}
KNOWN_LABELS = ('only the given labels of each video were localized, so this does not compare with results of '
                'predicted classes')
UNASSIGNED = np.iinfo(np.int64).max
MAX_TIES = 10_000  # instances of a class in one video up to which equal tIoUs are sorted as in the reference
MAX_TIED = 0.01  # share of detections with equal scores, correct and wrong ones mixed, above which a warning is given
MAX_FACTOR = 8  # between the ends of detections and instances: frames, milliseconds and fractions differ by more
BLOCK_PAIRS = 2 ** 16  # pairs of detection and instance per block: they fit into the CPU's cache
SIGNATURE = r'{\s*"average_mAP"'  # how files of --output begin


class Matches(NamedTuple):
    """Matches of R detections to G instances at K thresholds; P of the detections have a label of some instance."""

    video: np.ndarray     # (R,) index into the videos of the ground truth, -1 for an unlisted video
    label: np.ndarray     # (R,) index into the labels of the ground truth, -1 for a label without instances
    order: np.ndarray     # (P,) index into the detections, sorted by class, then by descending score
    instance: np.ndarray  # (K, P) instance that detection `order[p]` is matched to, -1 for a false positive

    def at(self, k: int) -> 'Matches':
        """Return the matches at only the k-th threshold."""
        return self._replace(instance=self.instance[[k]])


class Scores(NamedTuple):
    """Average precision of C classes at K thresholds, and what was scored."""

    tiou: np.ndarray  # (K,)
    labels: list[str]  # (C,) the classes with instances in the scored ground truth, sorted
    ap: np.ndarray  # (C, K) fractions
    num_videos: int
    num_instances: int
    num_detections: int
    videos_without_detection: int
    unknown_videos: int  # videos with detections that the ground truth does not list
    detections_in_unknown_videos: int
    unknown_labels: int  # predicted labels without instances
    detections_of_unknown_labels: int
    negative_videos: int = 0  # videos with detections that the ground truth lists without an instance
    detections_in_negative_videos: int = 0
    unknown_video_names: tuple[str, ...] = ()  # a few of them
    unknown_label_names: tuple[str, ...] = ()  # a few of them, with the nearest label of the ground truth
    undetected: tuple[str, ...] = ()  # classes without a detection
    remarks: tuple[str, ...] = ()  # what looks wrong in the two files, a line each
    known_labels: bool = False  # the detections are those of the given labels, see Detections

    @property
    def mean_ap(self) -> np.ndarray:
        """Return the mAP at every threshold, (K,)."""
        return self.ap.mean(axis=0)

    @property
    def average(self) -> float:
        """Return the mean of the mAPs over the thresholds."""
        return float(self.mean_ap.mean())


class OperatingPoint(NamedTuple):
    """A minimum score, and precision, recall and F1 of the detections that reach it (fractions, over all classes)."""

    score: float
    precision: float
    recall: float
    f1: float


def temporal_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the tIoU of segments (..., 2) that broadcast; 0 where a segment has no or negative length."""
    intersection = np.minimum(first[..., 1], second[..., 1]) - np.maximum(first[..., 0], second[..., 0])
    union = (first[..., 1] - first[..., 0]) + (second[..., 1] - second[..., 0]) - intersection
    # Where they intersect both lengths are positive, and so is the union.
    return np.divide(intersection, union, out=np.zeros_like(union), where=intersection > 0)


def match(gt: GroundTruth, detections: Detections, tiou: ArrayLike) -> Matches:
    """Match detections to instances by the ActivityNet protocol, greedily by descending score, for all thresholds.

    A detection whose best instance is already matched is tried with its next best one that reaches the threshold.
    Equal scores stay in the order of the rows; for equal tIoUs see `_TieBreak`.
    """
    thresholds, num_labels = np.asarray(tiou, np.float64), len(gt.labels)
    used = {gt.labels[label]: label for label in np.unique(gt.label)}
    video = match_videos(detections.videos, gt.videos)[detections.video]
    label = np.array([used.get(name, -1) for name in detections.labels], np.int64)[detections.label]
    # quirk: equal scores stay in the order of the file. The official evaluation sorts them as numpy's unstable sort
    # does, backwards, so that a file with many equal scores gets another mAP there.
    order = np.lexsort((-detections.scores, label))
    order = order[label[order] >= 0]

    instance_group = gt.video * num_labels + gt.label
    group = np.where(video >= 0, video * num_labels + label, -1)[order]
    segments = detections.segments[order]
    matches = np.full((len(thresholds), len(order)), -1)
    assignee = np.full(len(thresholds) * len(instance_group), UNASSIGNED)  # of each instance at each threshold
    tie_break = _TieBreak(segments, group, gt.segments, instance_group)
    for place, instance, overlap in overlapping_pairs(segments, group, gt.segments, instance_group):
        near = np.flatnonzero(overlap >= thresholds.min())
        near = near[np.lexsort((-overlap[near], place[near]))]  # by detection, then by descending tIoU
        place, overlap = place[near], overlap[near]
        instance = tie_break.sort_ties(place, overlap, instance[near])
        # The candidates that can still be matched, by threshold, then by detection, then by descending tIoU.
        instance = np.arange(len(thresholds))[:, None] * len(instance_group) + instance
        threshold, candidate = np.nonzero((overlap >= thresholds[:, None]) & (assignee[instance] == UNASSIGNED))
        detection, instance = place[candidate], instance[threshold, candidate]
        matched = _assign(threshold * len(order) + detection, instance, assignee)
        matches[threshold[matched], detection[matched]] = instance[matched] % len(instance_group)
    return Matches(video, label, order, matches)


def overlapping_pairs(segments: np.ndarray, groups: np.ndarray, instances: np.ndarray, instance_groups: np.ndarray
                      ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield all pairs of a segment and an instance of the same group that overlap, block by block.

    segments (P, 2) of `groups` (P,) and instances (G, 2) of `instance_groups` (G,) -> for each pair the index of the
    segment, ascending, that of the instance, and their tIoU. Some pairs that do not overlap are among them.
    """
    order, first, last = _candidate_ranges(segments, groups, instances, instance_groups)
    count = last - first
    before = np.cumsum(count) - count
    blocks = np.flatnonzero(np.diff(before // BLOCK_PAIRS, prepend=-1))
    for a, b in pairwise([*blocks, len(segments)]):
        place = np.repeat(np.arange(a, b), count[a:b])
        instance = order[np.arange(len(place)) + np.repeat(first[a:b] - before[a:b] + before[a], count[a:b])]
        yield place, instance, temporal_iou(segments.take(place, axis=0), instances.take(instance, axis=0))


def _candidate_ranges(segments: np.ndarray, groups: np.ndarray, instances: np.ndarray, instance_groups: np.ndarray
                      ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return an order of the instances (G,), and first and last (P,) in it: segment p overlaps none outside of them.

    This avoids all pairs of a long video.
    """
    order = np.lexsort((instances[:, 0], instance_groups))
    sorted_groups, (start, end) = instance_groups[order], instances[order].T
    first, last = (np.searchsorted(sorted_groups, groups, side) for side in ('left', 'right'))
    if (last - first).sum() < 10 * len(segments):
        return order, first, last  # the whole groups: they are so small that selecting would take longer
    # The ranks of distinct times make one ascending key of group and time. Candidates start before the segment ends ...
    starts, rank = np.unique(start, return_inverse=True)
    key = sorted_groups * (len(starts) + 1) + rank
    last = np.searchsorted(key, groups * (len(starts) + 1) + np.searchsorted(starts, segments[:, 1]))
    # ... and come after those of the group that have all ended before it starts.
    ends, rank = np.unique(end, return_inverse=True)
    latest_end = np.maximum.accumulate(sorted_groups * (len(ends) + 1) + rank)
    first = np.searchsorted(latest_end, groups * (len(ends) + 1) + np.searchsorted(ends, segments[:, 0], 'right'))
    return order, first, np.maximum(first, last)


class _TieBreak:
    """The order of instances that have exactly the same tIoU with one detection.

    quirk: the reference orders these as numpy's `argsort()[::-1]` does. That sort is not stable and differs between
    CPUs, but the published numbers come from it, so it is called here too, on the same values: the tIoUs with all
    instances of the video and class, in the order of the file. It decides on 47 of the authors' 36,195 detections, and
    so on up to 0.01 % of mAP: 73.236 at tIoU 0.1 where numpy sorts with AVX2, 73.233 where it does not.
    """

    def __init__(self, segments: np.ndarray, groups: np.ndarray, instances: np.ndarray, instance_groups: np.ndarray):
        self.segments, self.groups, self.instances = segments, groups, instances
        self.by_group = np.argsort(instance_groups, kind='stable')
        self.sorted_groups = instance_groups[self.by_group]

    def sort_ties(self, place: np.ndarray, overlap: np.ndarray, instance: np.ndarray) -> np.ndarray:
        """Return the instances of pairs sorted by place, then by descending tIoU, with equal tIoUs in that order."""
        result = instance.copy()
        tied = np.unique(place[1:][(np.diff(place) == 0) & (np.diff(overlap) == 0)])
        for p, first, last in zip(tied, np.searchsorted(place, tied), np.searchsorted(place, tied, 'right')):
            start, stop = (np.searchsorted(self.sorted_groups, self.groups[p], side) for side in ('left', 'right'))
            group = self.by_group[start:stop]
            if len(group) <= MAX_TIES:
                best = temporal_iou(self.segments[p], self.instances[group]).argsort()[::-1]
                result[first:last] = group[best[:last - first]]
        return result


def _assign(detection: np.ndarray, instance: np.ndarray, assignee: np.ndarray) -> np.ndarray:
    """Match greedily, by deferred acceptance; return the indices of the candidate pairs that are matched.

    detection (W,), ascending, and instance (W,): the candidate pairs; those of one detection are sorted by descending
    tIoU. Every instance prefers the earlier detection, which has the better score. So there is one stable matching,
    the same that a loop over the detections finds. Here it is found for all groups and thresholds together: each
    unmatched detection tries its next candidate, and each instance is assigned to the first detection that tried it.
    `assignee` is updated: every value but UNASSIGNED is a matched instance.
    """
    next_detection = np.append(detection[1:], -1)
    trying = np.flatnonzero(np.diff(detection, prepend=-1))
    while len(trying):
        previous = assignee[instance[trying]]
        np.minimum.at(assignee, instance[trying], trying)
        accepted = assignee[instance[trying]] == trying
        rejected = np.concatenate((trying[~accepted], previous[accepted & (previous < UNASSIGNED)]))
        trying = rejected[next_detection[rejected] == detection[rejected]] + 1
    return np.flatnonzero(assignee[instance] == np.arange(len(instance)))


def average_precision(hit: np.ndarray, num_instances: int) -> np.ndarray:
    """Return the area under the precision envelope of one class, (K,), 0 for a class without detections.

    `hit` (K, P) bool: which detections, sorted by descending score, are matched at each threshold.
    """
    precision = np.cumsum(hit, axis=1) / np.arange(1, hit.shape[1] + 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (envelope * hit).sum(axis=1) / num_instances


def check_tiou(tiou: ArrayLike) -> np.ndarray:
    """Return the thresholds as float64 (K,); raises InputError unless they are distinct and in (0, 1]."""
    values = np.asarray(tiou, np.float64)
    if not len(values) or not ((values > 0) & (values <= 1)).all():
        raise InputError(f'tIoU thresholds must be above 0 and at most 1, not {", ".join(f"{t:g}" for t in values)}')
    if len({tiou_key(threshold) for threshold in values}) < len(values):
        raise InputError('a tIoU threshold is given twice; give each one once')
    return values


def evaluate(gt: GroundTruth, detections: Detections, tiou: ArrayLike, matches: Matches | None = None) -> Scores:
    """Score detections against all videos of `gt` (see `scored_subset`).

    mAP is the mean over the classes with instances in `gt`. A detection in a negative or unlisted video is a false
    positive, one of a label without instances is ignored, and all are counted. `matches` at the same `tiou` saves the
    matching.
    Raises InputError if there is no instance, or for a wrong threshold.
    """
    thresholds = check_tiou(tiou)
    if not len(gt.segments):
        raise InputError('the ground truth has no annotated instance: there is nothing to score')
    matches = match(gt, detections, thresholds) if matches is None else matches
    classes, num_instances = np.unique(gt.label, return_counts=True)
    first, last = (np.searchsorted(matches.label[matches.order], classes, side) for side in ('left', 'right'))
    ap = [average_precision(matches.instance[:, a:b] >= 0, n) for a, b, n in zip(first, last, num_instances)]
    unlisted, unknown_label = matches.video < 0, matches.label < 0
    negative = unlisted & (match_videos(detections.videos, gt.negatives) >= 0)[detections.video]
    unknown_video = unlisted & ~negative
    labels = [gt.labels[c] for c in classes]
    unknown_names = [detections.labels[label] for label in np.unique(detections.label[unknown_label])]
    return Scores(
        tiou=thresholds, labels=labels, ap=np.stack(ap),
        num_videos=len(gt.videos), num_instances=len(gt.segments), num_detections=len(detections.scores),
        videos_without_detection=len(gt.videos) - len(np.unique(matches.video[~unlisted])),
        unknown_videos=len(np.unique(detections.video[unknown_video])),
        detections_in_unknown_videos=int(unknown_video.sum()),
        unknown_labels=len(unknown_names),
        detections_of_unknown_labels=int(unknown_label.sum()),
        negative_videos=len(np.unique(detections.video[negative])),
        detections_in_negative_videos=int(negative.sum()),
        unknown_video_names=tuple(detections.videos[v] for v in np.unique(detections.video[unknown_video])[:3]),
        unknown_label_names=tuple(map(partial(_with_nearest, labels), unknown_names[:3])),
        undetected=tuple(label for label, a, b in zip(labels, first, last) if a == b),
        remarks=(*gt.warnings, *_suspicious_labels(gt, labels, detections, matches),
                 *suspicious_files(gt, detections)),
        known_labels=detections.known_labels)


def _with_nearest(labels: list[str], name: str) -> str:
    """Return an unknown label for a message, with the nearest of the known ones if one is near."""
    nearest = nearest_name(name, labels)
    return ' (near '.join(quote_distinct([name, nearest])) + ')' if nearest else quote(name)


def _suspicious_labels(gt: GroundTruth, labels: list[str], detections: Detections, matches: Matches) -> list[str]:
    """Return a line each for labels that are not a class, and for scores that are equal."""
    lines = []
    if ambiguous := [label for label in labels if plain_form(label) == 'ambiguous']:
        lines.append(f'{quote(ambiguous[0])} is scored as a class; in THUMOS14 it marks segments to leave out: remove '
                     'them from the ground truth')
    # Ties matter where a correct and a wrong detection of a class have the same score.
    label, score = matches.label[matches.order], detections.scores[matches.order]
    is_first = np.append(True, (label[1:] != label[:-1]) | (score[1:] != score[:-1]))
    if len(score) and len(is_first) - is_first.sum() > MAX_TIED / 2 * len(score):  # each group has a first one
        first, hit = np.flatnonzero(is_first), matches.instance >= 0
        size, hits = np.diff(first, append=len(score)), np.add.reduceat(hit, first, axis=1, dtype=np.int64)
        num_tied = int(size[((hits > 0) & (hits < size)).any(axis=0)].sum())
        if num_tied > MAX_TIED * len(score):
            lines.append(f'{num_tied} of {len(score)} detections have the score of another one of their class, correct '
                         'and wrong ones mixed: their order in the file decides; other evaluators may differ')
    return lines


def suspicious_files(gt: GroundTruth, detections: Detections) -> list[str]:
    """Return a line for each kind of times of either file that are impossible, or in another unit than seconds."""
    video = match_videos(detections.videos, gt.videos)[detections.video]
    listed = video >= 0
    video, segments = video[listed], detections.segments[listed]
    lines = [*suspicious_times('instances', gt.segments, gt.durations[gt.video]),
             *suspicious_times('detections', segments, gt.durations[video])]
    if not lines and len(video):
        last = [np.full(len(gt.videos), -np.inf), np.full(len(gt.videos), -np.inf)]
        np.maximum.at(last[0], gt.video, gt.segments[:, 1])
        np.maximum.at(last[1], video, segments[:, 1])
        both = (last[0] > 0) & (last[1] > 0)
        factor = float(np.median(last[1][both] / last[0][both])) if both.any() else 1.0
        if not 1 / MAX_FACTOR < factor < MAX_FACTOR:
            lines.append(f'the last detection of a video ends at {factor:.3g} times the end of its last instance '
                         f'(median of {int(both.sum())}): are both files in seconds?')
    return lines


def best_threshold(gt: GroundTruth, detections: Detections, tiou: float = 0.5,
                   matches: Matches | None = None) -> OperatingPoint | None:
    """Return the score threshold with the best F1 against all videos of `gt` (see `scored_subset`).

    Of equal ones the highest; None if no detection is matched. Detections of labels without instances are ignored, as
    in mAP.
    """
    matches = match(gt, detections, check_tiou([tiou])) if matches is None else matches
    scores, hit = detections.scores[matches.order], matches.instance[0] >= 0
    order = np.argsort(-scores, kind='stable')
    scores, hits = scores[order], np.cumsum(hit[order])
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # a threshold accepts all detections of its score
    f1 = 2 * hits[last] / (last + 1 + len(gt.segments))
    if not len(hits) or not hits[-1]:
        return None
    best = f1.argmax()
    accepted, correct = last[best] + 1, hits[last[best]]
    return OperatingPoint(float(scores[last[best]]), float(correct / accepted), float(correct / len(gt.segments)),
                          float(f1[best]))


def scored_subset(gt: GroundTruth, videos: Sequence[str], subset: str | None = None) -> GroundTruth:
    """Return the annotated videos of `subset`, in any spelling, or of the one subset with the detected `videos`.

    Raises InputError if these are in several subsets, or if no video of the subset is annotated.
    """
    subsets = np.array([*map(subset_name, gt.subsets)], object)
    spelling = dict(zip(subsets, gt.subsets))
    annotated = np.bincount(gt.video, minlength=len(gt.videos)) > 0
    if subset is None:
        index = match_videos(videos, gt.videos)
        counts = Counter(subsets[index[index >= 0]]) or Counter(subsets[annotated])
        if len(counts) > 1:
            names = ' and '.join(f'{quote(spelling[name])} ({count} videos)' for name, count in counts.most_common(5))
            problem = 'the videos with detections are in several subsets of the ground truth'
            if not (index >= 0).any():
                problem = 'the ground truth lists none of the videos with detections, and has several subsets'
            raise InputError(f'{problem}, {names}; choose the one to score with --subset')
        subset = next(iter(counts), '')
    chosen = subsets == subset_name(subset)
    keep = annotated & chosen
    if not keep.any():
        names = ', '.join(quote(spelling[name]) for name, _ in Counter(subsets[annotated]).most_common(5)) or 'none'
        cause = f'; {gt.warnings[0]}' if gt.warnings else ''
        raise InputError(f'no video of the subset {quote(subset)} is annotated; subsets with annotated videos: '
                         f'{names}{cause}')
    negatives = tuple(gt.videos[v] for v in np.flatnonzero(chosen & ~annotated))
    num_tags = sum(gt.labels[label] != NEGATIVE for label in gt.tag_label[chosen[gt.tag_video]])
    tags = [f'{plural(num_tags, "label")} without a time ("segment") in this subset: not scored'] if num_tags else []
    return select_videos(gt, keep)._replace(negatives=negatives, warnings=(*gt.warnings, *tags))


def tiou_key(threshold: float) -> str:
    """Return a threshold as results.json and the tables spell it: 0.1, 0.55."""
    return f'{round(float(threshold), 10):g}'


def to_json(scores: Scores) -> dict:
    """Return the scores for results.json: fractions, by threshold."""
    keys = [tiou_key(threshold) for threshold in scores.tiou]
    return {'average_mAP': scores.average, 'mAP': dict(zip(keys, scores.mean_ap.tolist())),
            'AP': {label: dict(zip(keys, ap)) for label, ap in zip(scores.labels, scores.ap.tolist())},
            'num_videos': scores.num_videos, 'num_predictions': scores.num_detections,
            **({'known_labels': True} if scores.known_labels else {})}


def averages(scores: Scores) -> dict[str, float]:
    """Return those of AVERAGES whose thresholds are scored, and that over all thresholds if it is not one of them."""
    by_key = dict(zip(map(tiou_key, scores.tiou), scores.mean_ap.tolist()))
    ranges = {name: [tiou_key(threshold) for threshold in tiou] for name, tiou in AVERAGES.items()}
    ranges = {name: keys for name, keys in ranges.items() if by_key.keys() >= set(keys)}
    if all(len(keys) < len(by_key) for keys in ranges.values()):
        ranges['all'] = list(by_key)
    return {name: float(np.mean([by_key[key] for key in keys])) for name, keys in ranges.items()}


def format_table(scores: Scores) -> str:
    """Return what was scored, mAP in percent at every threshold, and the averages that papers report, as text."""
    undetected = [f'classes without a detection: {len(scores.undetected)} of {len(scores.labels)}: '
                  f'{preview([*scores.undetected])}'] if scores.undetected and scores.num_detections else []
    return '\n'.join([
        f'{plural(scores.num_videos, "video")} ({scores.videos_without_detection} without a detection), '
        f'{plural(scores.num_instances, "instance")}, {plural(scores.num_detections, "detection")}',
        'tIoU   ' + ''.join(f'{tiou_key(threshold):>7}' for threshold in scores.tiou),
        'mAP (%)' + ''.join(f'{value:7.2f}' for value in 100 * scores.mean_ap),
        'average' + ''.join(f'{name:>9} {100 * value:6.2f}' for name, value in averages(scores).items()),
        *undetected, *([f'with known labels: {KNOWN_LABELS}'] if scores.known_labels else [])])


def format_classes(scores: Scores) -> str:
    """Return the AP of every class in percent at every threshold, and its mean over them, as text."""
    names = [truncate(label, 40) for label in scores.labels]
    width = max(6, *map(len, names))
    rows = [f'{name:<{width}}' + ''.join(f'{value:7.2f}' for value in 100 * np.append(ap, ap.mean()))
            for name, ap in zip(names, scores.ap)]
    columns = [*map(tiou_key, scores.tiou), 'mean']
    return '\n'.join(['', f'{"AP (%)":<{width}}' + ''.join(f'{column:>7}' for column in columns), *rows])


def warnings(scores: Scores) -> list[str]:
    """Return a line each for detections in other videos and of labels without instances, and for what looks wrong."""
    lines, total = [], scores.num_detections
    if scores.negative_videos:
        lines.append(f'{scores.detections_in_negative_videos} of {total} detections are false positives in '
                     f'{plural(scores.negative_videos, "video")} that the ground truth lists without an instance')
    if scores.unknown_videos:
        lines.append(f'{scores.detections_in_unknown_videos} of {total} detections are false positives: the ground '
                     f'truth does not list their video (such videos: {scores.unknown_videos}): '
                     f'{", ".join(map(quote, scores.unknown_video_names))}')
    if scores.unknown_labels:
        lines.append(f'{scores.detections_of_unknown_labels} of {total} detections are ignored: the ground truth does '
                     f'not use their label (such labels: {scores.unknown_labels}): '
                     f'{", ".join(scores.unknown_label_names)}')
    return [*lines, *scores.remarks]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.detection', description='ActivityNet detection mAP of a result file.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--subset', metavar='NAME',
                        help='subset to score (default: the one that contains the videos with detections)')
    parser.add_argument('--tiou', type=float, nargs='+', default=TIOU, metavar='T',
                        help='tIoU thresholds (default: THUMOS14, 0.1:0.1:0.7; ActivityNet: 0.5:0.05:0.95)')
    parser.add_argument('--classes', action='store_true', help='also print the AP of every class')
    parser.add_argument('--output', metavar='FILE', help='also write the results to this file, as JSON')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the output even if it is another kind of '
                        'file')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Score a result file."""
    refuse_overwriting_inputs([args.ground_truth, args.detections], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, SIGNATURE)
    gt, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    gt = scored_subset(gt, detections.videos, args.subset)
    scores = evaluate(gt, detections, args.tiou)
    for line in warnings(scores):
        warn(line)
    if args.output:
        write_json(args.output, to_json(scores))
    print(f'subset {gt.subsets[0]!a}:', format_table(scores), flush=True)
    if args.classes:
        print(format_classes(scores), flush=True)


if __name__ == '__main__':
    sys.exit(main())
