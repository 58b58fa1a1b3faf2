"""Events: from many overlapping proposals to a list of what happens when.

    python -m eval.events detections.json -o events.csv
    python -m eval.events detections.json --gt gt.json --share 0.7 --overlap 0.1 --min_score 0.5

In every video, the proposals of a class are selected by descending score: those that overlap no better event by more
than `overlap` of the shorter, and whose score is at least `min_score` and `share` of the best one. Remaining overlaps
are cut off the lower-scoring event, so the events of a class do not overlap.
"""
import argparse
import csv
import io
import math
import os
import sys
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eval.detection import match, scored_subset, suspicious_files
from formats.annotations import GroundTruth, read_ground_truth
from formats.detections import Detections, read_detections, select_detections, write_detections_csv
from utils import (
    InputError,
    Parser,
    bounded,
    plural,
    read_bytes,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    warn,
)

COLUMNS = ('video', 'label', 'start', 'end', 'score')
SIGNATURE = ','.join(COLUMNS)  # how events.csv begins


class EventOptions(NamedTuple):
    """Which proposals become events."""

    share: float = 0.7    # minimum score, as a fraction of the best one of the same video and class; 0: none
    overlap: float = 0.1  # maximum overlap with a better event of the class, as a fraction of the shorter; at most 1/2
    min_score: float = -math.inf


class EventScores(NamedTuple):
    """How well events match the instances at one tIoU (fractions, over all classes)."""

    num_events: int
    num_instances: int
    precision: float
    recall: float
    f1: float


def select_events(detections: Detections, options: EventOptions = EventOptions()) -> Detections:
    """Return the events among detections, sorted by the name of the video, then by start."""
    share, overlap, min_score = options
    start, end = detections.segments.T
    num_labels = max(1, len(detections.labels))
    group, scores = detections.video * num_labels + detections.label, detections.scores
    rows = np.flatnonzero(end > start)
    rows = rows[np.lexsort((-scores[rows], group[rows]))]
    best = np.flatnonzero(np.diff(group[rows], prepend=-1))
    top = np.repeat(scores[rows[best]], np.diff(best, append=len(rows)))
    rows = rows[((share == 0) | (scores[rows] >= share * top)) & (scores[rows] >= min_score)]

    chosen = rows[_without_overlap(group[rows], start[rows], end[rows], overlap)]
    chosen = chosen[np.lexsort((start[chosen], group[chosen]))]
    start, end = _cut_overlaps(group[chosen], start[chosen], end[chosen], scores[chosen])
    events = select_detections(detections, chosen)._replace(segments=np.stack([start, end], axis=1))
    events = select_detections(events, np.flatnonzero(end > start))
    name_rank = np.argsort(np.argsort(np.array(detections.videos, object), kind='stable'))
    return select_detections(events, np.lexsort((events.label, events.segments[:, 0], name_rank[events.video])))


def negative_scores(detections: Detections, options: EventOptions) -> list[str]:
    """Return a warning where --share leaves out the events of a video whose scores are all negative."""
    best = np.full(len(detections.videos), -math.inf)
    np.maximum.at(best, detections.video, detections.scores)
    count = int(((best < 0) & (best > -math.inf)).sum())
    return [f'all scores of {plural(count, "video")} are negative, so --share selects no events there; use --share 0 '
            f'with --min_score'] if count and options.share else []


def _without_overlap(group: np.ndarray, start: np.ndarray, end: np.ndarray, overlap: float) -> list[int]:
    """Return the indices of segments that overlap no better one of their group by more than `overlap` of the shorter.

    The segments are sorted by group, then by descending score. Those taken overlap by at most half of the shorter, so
    a further segment has to be compared with its two neighbors only.
    """
    taken, current = [], -1
    starts: list[float] = []  # of the taken segments of the current group, ascending, and their ends
    ends: list[float] = []
    for i, (g, first, last) in enumerate(zip(group.tolist(), start.tolist(), end.tolist())):
        if g != current:
            current, starts, ends = g, [], []
        place = bisect_left(starts, first)
        if all(min(last, ends[j]) - max(first, starts[j]) <= overlap * min(last - first, ends[j] - starts[j])
               for j in (place - 1, place) if 0 <= j < len(starts)):
            taken.append(i)
            starts.insert(place, first)
            ends.insert(place, last)
    return taken


def _cut_overlaps(group: np.ndarray, start: np.ndarray, end: np.ndarray, scores: np.ndarray
                  ) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends where the worse of two overlapping neighbors is cut; sorted by group, then by start."""
    cut_start, cut_end = start.copy(), end.copy()
    before = np.flatnonzero((group[1:] == group[:-1]) & (start[1:] < end[:-1]))
    earlier_is_better = scores[before] >= scores[before + 1]
    worse = before[earlier_is_better]
    cut_start[worse + 1] = end[worse]
    worse = before[~earlier_is_better]
    cut_end[worse] = start[worse + 1]
    return cut_start, cut_end


def score_events(gt: GroundTruth, events: Detections, tiou: float = 0.5) -> EventScores:
    """Return precision, recall and F1 against all videos of `gt` (see `eval.detection.scored_subset`).

    An event in an unlisted video or of an unlisted label is a false positive.
    """
    hits = int((match(gt, events, [tiou]).instance[0] >= 0).sum())
    num_events, num_instances = len(events.scores), len(gt.segments)
    return EventScores(num_events, num_instances, hits / max(1, num_events), hits / max(1, num_instances),
                       2 * hits / max(1, num_events + num_instances))


def format_scores(scores: EventScores) -> str:
    """Return the scores in one line."""
    return (f'{plural(scores.num_events, "event")}, {plural(scores.num_instances, "instance")}: '
            f'precision {scores.precision:.3f}, recall {scores.recall:.3f}, F1 {scores.f1:.3f} at tIoU 0.5')


# ---- events.csv -----------------------------------------------------------------------------------------------------

def read_events(path: str | os.PathLike) -> Detections:
    """Read an events.csv, also one that was edited: other columns are ignored, and `score` may be missing (1).

    Raises InputError with the file, the line and the fix.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_bytes(path).decode('utf-8-sig'), newline=''), strict=True)
        missing = [name for name in COLUMNS[:-1] if name not in (reader.fieldnames or [])]
        if missing:
            raise InputError(f'{path}: needs the header {SIGNATURE}; it lacks {", ".join(missing)}')
        names: list[tuple[str, str]] = []
        numbers: list[tuple[float, float, float]] = []
        for row in reader:
            place = f'{path}: line {reader.line_num}'
            start, end = (_number(row[name], f'{place}: {name}') for name in ('start', 'end'))
            if end < start:
                raise InputError(f'{place}: the event ends before it starts')
            if not row['video'] or not row['label']:
                raise InputError(f'{place}: needs a video and a label')
            names.append((row['video'], row['label']))
            numbers.append((start, end, _number(row['score'], f'{place}: score', sys.float_info.max)
                            if row.get('score') else 1.0))
    except UnicodeDecodeError:
        raise InputError(f'{path}: is not UTF-8; save it as CSV in UTF-8') from None
    except csv.Error as error:
        raise InputError(f'{path}: line {reader.line_num}: not valid CSV: {error}') from None
    videos, labels = sorted({video for video, _ in names}), sorted({label for _, label in names})
    index_of_video, index_of_label = ({name: i for i, name in enumerate(column)} for column in (videos, labels))
    values = np.array(numbers, np.float64).reshape(-1, 3)
    return Detections(videos, labels, np.array([index_of_video[video] for video, _ in names], np.int64),
                      np.array([index_of_label[label] for _, label in names], np.int64), values[:, :2], values[:, 2])


def _number(text: str | None, place: str, limit: float = 1e12) -> float:
    """Return a number of at most `limit` in size; raises InputError with the place."""
    try:
        value = float(text or '')
    except ValueError:
        value = math.nan
    if not abs(value) <= limit:
        raise InputError(f'{place} must be a number')
    return value


# ---- the command ----------------------------------------------------------------------------------------------------

def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.events', description='Select the events among the detections of a file.')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('-o', '--output', metavar='FILE', help='write the events to this file, as CSV')
    parser.add_argument('--gt', metavar='GT.json', help='print precision, recall and F1 at tIoU 0.5')
    parser.add_argument('--subset', metavar='NAME', help='subset of GT.json (default: that of the detected videos)')
    parser.add_argument('--overwrite', action='store_true', help='also overwrite a file of another kind')
    add_arguments(parser)
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of EventOptions to the parser of a command."""
    usual = EventOptions()
    parser.add_argument('--share', type=bounded(float, 0, 1), default=usual.share, metavar='S',
                        help='minimum score of an event, as a fraction of the best one of its video and class; 0: '
                             'none (default: %(default)g)')
    parser.add_argument('--overlap', type=bounded(float, 0, 0.5), default=usual.overlap, metavar='S',
                        help='maximum overlap of two events of a class, as a fraction of the shorter '
                             '(default: %(default)g)')
    parser.add_argument('--min_score', type=bounded(float, -math.inf, math.inf), default=usual.min_score, metavar='S',
                        help='minimum score of an event (default: all)')


def run(args: argparse.Namespace) -> None:
    """Select the events of a result file."""
    refuse_overwriting_inputs([args.detections, args.gt], args.output)
    if args.output and not args.overwrite:
        refuse_overwriting_foreign(args.output, SIGNATURE)
    detections = read_detections(args.detections)
    options = EventOptions(args.share, args.overlap, args.min_score)
    for warning in negative_scores(detections, options):
        warn(f'{args.detections}: {warning}')
    events = select_events(detections, options)
    if args.output:
        write_detections_csv(args.output, events)
    line = plural(len(events.scores), 'event') + f' in {plural(len(set(events.video.tolist())), "video")}'
    if args.gt:
        gt = scored_subset(read_ground_truth(args.gt), events.videos, args.subset)
        for warning in (*gt.warnings, *suspicious_files(gt, detections)):
            warn(warning)
        line = f'subset {gt.subsets[0]!a}: {format_scores(score_events(gt, events))}'
        line += ' (with known labels)' if events.known_labels else ''
    print(line, flush=True)


if __name__ == '__main__':
    sys.exit(main())
