r"""The report page: one HTML file with the scores, an error analysis, and a timeline of every video.

    python -m eval.report gt.json detections.json -o report.html
    python -m eval.report gt.json detections.json --curves curves.npz --tiou 0.5 0.75 0.95 --bins activitynet \
        -o report.html
    python -m eval.report detections.json --curves curves.npz --durations extraction.json --videos clips -o report.html

The third form has no ground truth: the page shows curves and detections, and no scores. With --videos the video plays
above its timeline; the files are not copied, the page links to them by relative paths.

The page needs no network and no other file. It draws plain SVG with report_assets/report.js: a charting library would
add megabytes, and has no timeline like this one.

Text from the input files cannot run as code: it is escaped in the page, the script inserts it as text only, and the
content security policy allows only the one script and the one style sheet of the page, by their hashes, and the videos
if there are any. Arrays are packed as little-endian bytes in base64. The same input gives the same page, byte for byte.
"""
import argparse
import base64
import hashlib
import html
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote as quote_url

import numpy as np
from numpy.typing import ArrayLike

from eval.curves import Curves, read_curves, regions
from eval.detection import TIOU, averages, best_threshold, evaluate, scored_subset, tiou_key, warnings
from eval.diagnosis import BINS, COLORS, ERROR_TYPES, TITLES, Diagnosis, diagnose, notes
from eval.events import format_scores, read_events, score_events, select_events
from formats.annotations import GroundTruth, match_videos, read_durations, read_ground_truth
from formats.detections import Detections, read_detections
from formats.videos import find_videos
from utils import (
    InputError,
    Parser,
    printable,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    write_text,
)

ASSETS = Path(__file__).parent / 'report_assets'
SIGNATURE = r'(<[^>]*>\s*){4}<meta http-equiv="Content-Security-Policy"'  # start of a report; other files are kept
MAX_DETECTIONS = 200_000  # on a page: about 8 MB
MIN_DURATION = 1e-3  # seconds; a shorter duration counts as unknown


class Rows(NamedTuple):
    """The N detections on the page: sorted by class, then by falling score."""

    row: np.ndarray    # (N,) index into the detections
    video: np.ndarray  # (N,) index into the videos of the page
    label: np.ndarray  # (N,) index into the labels of the page
    rank: np.ndarray   # (N,) rank among all detections of the class, including those that are not on the page
    per_video: int     # number of top detections kept per video, the best of each class first; 0: all are kept


def build_report(gt: GroundTruth | None, detections: Detections, tiou: ArrayLike = TIOU, curves: Curves | None = None,
                 bins: Mapping[str, Sequence[float]] = BINS['thumos14'], title: str = 'Detections',
                 subtitle: str = '', *, durations: Mapping[str, float] | None = None,
                 videos: Mapping[str, str] | None = None, min_score: float | None = None,
                 events: Detections | None = None) -> str:
    """Return the HTML text of the page for detections in the videos of `gt` (see `eval.detection.scored_subset`).

    Without `gt`, or without any annotated instance, the page shows curves and detections only. `bins` are those of
    `eval.diagnosis`. `durations` maps video names to seconds and fills in what `gt` lacks; `videos` maps them to the
    URL of the video file, relative to the page (see `relative_urls`). `min_score` is the initial value of the score
    slider, by default that of the best F1. `events` are by default selected from the detections. Scores should lie
    between 1e-9 and 1e9 in size. Raises InputError where `curves` contain none of the videos.
    """
    events = select_events(detections) if events is None else events
    names = _all_videos(gt, detections)
    gt_labels = [] if gt is None else gt.labels
    labels = gt_labels + sorted({*detections.labels} - {*gt_labels})
    data: dict[str, Any] = {
        'labels': labels, 'videos': names, 'durations': _durations(gt, names, durations),
        'clips': None if not videos else [videos.get(name) for name in names],
        'curves': None if curves is None else _pack_curves(curves, names, labels),
        'events': _pack_events(events, names, labels)}
    if gt is None or not len(gt.segments):
        rows = _select_rows(detections, names, labels, np.zeros(len(detections.scores), bool))
        types = np.zeros((1, len(detections.scores)), np.uint8)
        data |= _unscored(detections, events, names) | {'instances': _pack_instances(gt, np.zeros((0, 0), bool))}
    else:
        diagnosis = diagnose(gt, detections, tiou, bins)
        types = diagnosis.error_types
        rows = _select_rows(detections, names, labels, (types == 0).any(axis=0))
        data |= _scored(gt, detections, events, diagnosis)
        data['instances'] = _pack_instances(gt, diagnosis.matched_instances)
        min_score = _best_f1_score(gt, detections, diagnosis) if min_score is None else min_score
    if rows.per_video:
        data['notes'].append(
            f'the page contains {len(rows.row):,} of {len(detections.scores):,} detections: the top {rows.per_video} '
            'of each video, the best of each class first' + (', and all true positives' if data['tiou'] else '') +
            '; numbers of a single video refer to these')
    scores = detections.scores[rows.row]
    data['detections'] = _pack_detections(detections, types, rows) | {
        'score': _pack(scores, 'f8'),  # exact: the page counts detections above a threshold
        'total': _pack(np.bincount(_video_index(detections, names), minlength=len(names)))}
    data['threshold'] = _initial_threshold(scores, rows.video, min_score)
    return _render(title, subtitle, json.dumps(data, allow_nan=False, separators=(',', ':')), bool(videos))


def _all_videos(gt: GroundTruth | None, detections: Detections) -> list[str]:
    """Return the videos of the ground truth, then those that it does not contain."""
    known = [] if gt is None else gt.videos
    is_known = match_videos(detections.videos, known) >= 0
    return known + [name for name, found in zip(detections.videos, is_known) if not found]


def _durations(gt: GroundTruth | None, names: list[str], durations: Mapping[str, float] | None) -> list:
    """Return the seconds of every video of the page, None where they are unknown."""
    seconds = np.full(len(names), np.nan)
    if durations:
        index = match_videos(list(durations), names)
        listed = np.flatnonzero(index >= 0)
        seconds[index[listed]] = np.fromiter(durations.values(), np.float64, len(durations))[listed]
    if gt is not None:
        annotated = np.flatnonzero(~np.isnan(gt.durations))
        seconds[annotated] = gt.durations[annotated]
    seconds[~(seconds >= MIN_DURATION)] = np.nan
    return _nan_to_none(seconds)


def _scored(gt: GroundTruth, detections: Detections, events: Detections, diagnosis: Diagnosis) -> dict:
    """Return the scores and the error analysis of all detections."""
    scores = evaluate(gt, detections, diagnosis.tiou, diagnosis.matches)
    num_instances = np.bincount(gt.label, minlength=len(gt.labels))
    num_detections = np.bincount(diagnosis.matches.label[diagnosis.matches.order], minlength=len(gt.labels))
    spans = list(averages(scores).items())
    return {
        'tiou': [tiou_key(threshold) for threshold in scores.tiou],
        'mean_ap': scores.mean_ap.tolist(),
        'averages': dict(spans[-1:] + spans[:-1]),  # the last one is over all thresholds
        'classes': [{'label': c, 'instances': int(num_instances[c]), 'detections': int(num_detections[c]), 'ap': ap}
                    for c, ap in zip(np.flatnonzero(num_instances).tolist(), scores.ap.tolist())],
        'facts': f'{scores.num_videos:,} annotated videos of the subset “{gt.subsets[0]}” '
                 f'({scores.videos_without_detection:,} without a detection), {scores.num_instances:,} instances of '
                 f'{len(scores.labels)} classes, {scores.num_detections:,} detections; '
                 f'{format_scores(score_events(gt, events))}',
        'notes': warnings(scores) + notes(diagnosis),
        'types': [*ERROR_TYPES, 'unclassified'],
        'errors': {
            'shares': diagnosis.shares.tolist(), 'gain': diagnosis.map_gain.tolist(),
            'mean_ap': diagnosis.mean_ap.tolist(), 'missed': diagnosis.missed.tolist(),
            'normalized': diagnosis.normalized_mean_ap.tolist(), 'kept': diagnosis.num_kept,
            'characteristics': [{
                'title': TITLES[c.name], 'bins': c.bins, 'ranges': c.ranges, 'instances': c.instances.tolist(),
                'missed': _nan_to_none(c.missed), 'normalized': _nan_to_none(c.mean_ap)}
                for c in diagnosis.characteristics]}}


def _unscored(detections: Detections, events: Detections, names: list[str]) -> dict:
    """Return the same entries where there is no ground truth to score against."""
    return {
        'tiou': [], 'mean_ap': [], 'averages': {}, 'classes': [], 'errors': None, 'types': ['detection'], 'notes': [],
        'facts': f'{len(names):,} videos, {len(events.scores):,} events, {len(detections.scores):,} detections of '
                 f'{len(detections.labels)} classes; no ground truth, so no scores'}


def _best_f1_score(gt: GroundTruth, detections: Detections, diagnosis: Diagnosis) -> float | None:
    """Return the score threshold with the best F1 at the tIoU nearest to 0.5; None without a true positive."""
    middle = int(np.abs(diagnosis.tiou - 0.5).argmin())
    best = best_threshold(gt, detections, diagnosis.tiou[middle], diagnosis.matches.at(middle))
    return best and best.score


def _initial_threshold(scores: np.ndarray, video: np.ndarray, min_score: float | None) -> float:
    """Return the initial score threshold: `min_score`, or lower, so that 9 of 10 videos show a detection.

    Without `min_score` it leaves ten detections per video.
    """
    if not len(scores):
        return 0.0
    best = np.full(video.max() + 1, -np.inf)
    np.maximum.at(best, video, scores)
    best = np.sort(best[best > -np.inf])
    if min_score is None:
        min_score = np.sort(scores)[-min(len(scores), 10 * len(best))]
    return float(min(min_score, best[len(best) // 10]))


# ---- which detections the page contains ----------------------------------------------------------------------------

def _video_index(detections: Detections, names: list[str]) -> np.ndarray:
    """Return the index into `names` of the video of every detection, (R,)."""
    return match_videos(detections.videos, names)[detections.video]


def _select_rows(detections: Detections, names: list[str], labels: list[str], is_positive: np.ndarray) -> Rows:
    """Return all detections, or of more than MAX_DETECTIONS the best of each video and those of `is_positive` (R,)."""
    label_index = {name: index for index, name in enumerate(labels)}
    video = _video_index(detections, names)
    label = np.array([label_index[name] for name in detections.labels], np.int64)[detections.label]
    order = np.lexsort((-detections.scores, label))
    rank = _rank_in_group(label[order])
    per_video, keep = 0, np.ones(len(order), bool)
    if len(order) > MAX_DETECTIONS:
        # Within a video: the best detection of each class, then the second of each, ...
        by_class = np.lexsort((-detections.scores, label, video))
        rank_in_video = np.empty(len(order), np.int64)
        rank_in_video[by_class] = _rank_in_group(video[by_class] * len(labels) + label[by_class])
        by_rank = np.lexsort((-detections.scores, rank_in_video, video))
        rank_in_video[by_rank] = _rank_in_group(video[by_rank])
        counts = np.sort(np.bincount(video))
        per_video = _largest_quota(counts[counts > 0], MAX_DETECTIONS)
        keep = ((rank_in_video < per_video) | is_positive)[order]
    order = order[keep]
    return Rows(order, video[order], label[order], rank[keep], per_video)


def _rank_in_group(group: np.ndarray) -> np.ndarray:
    """Return the position of every row within its group, (N,); the rows of a group are adjacent."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))


def _largest_quota(counts: np.ndarray, total: int) -> int:
    """Return the largest q with sum(min(counts, q)) <= total, but at least 1; `counts` rises."""
    quotas = np.arange(1, counts[-1] + 1)
    num_below = np.searchsorted(counts, quotas)
    sums = np.append(0, np.cumsum(counts))[num_below] + quotas * (len(counts) - num_below)
    return int(quotas[sums <= total].max(initial=1))


# ---- packing --------------------------------------------------------------------------------------------------------

def _nan_to_none(values: np.ndarray) -> list:
    """Return an array as lists, None for NaN."""
    objects = values.astype(object)
    objects[np.isnan(values)] = None
    return objects.tolist()


def _pack(values: np.ndarray, dtype: str | None = None) -> list[str]:
    """Return [type, base64 of the bytes]; without `dtype` in the smallest unsigned integers that fit."""
    if dtype is None:
        dtype = next(small for small in ('u1', 'u2', 'u4') if values.max(initial=0) <= np.iinfo(small).max)
    return [dtype, base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder('<')).tobytes()).decode()]


def _pack_bytes(values: np.ndarray) -> list[str]:
    """Return values in [0, 1], quantized to bytes."""
    return _pack(np.rint(np.clip(values, 0, 1).astype(np.float32) * 255), 'u1')


def _pack_instances(gt: GroundTruth | None, found: np.ndarray) -> dict:
    """Return the columns of the G instances; `found` (K, G): matched per threshold. Tags are labels without times."""
    empty = np.zeros((0, 2))
    video, label, segments = (empty[:, 0], empty[:, 0], empty) if gt is None else (gt.video, gt.label, gt.segments)
    tags = (empty[:, 0], empty[:, 0]) if gt is None else (gt.tag_video, gt.tag_label)
    return {'video': _pack(video), 'label': _pack(label), 'found': _pack(found, 'u1'),
            'start': _pack(segments[:, 0], 'f8'), 'end': _pack(segments[:, 1], 'f8'),
            'tag_video': _pack(tags[0]), 'tag_label': _pack(tags[1])}


def _pack_detections(detections: Detections, types: np.ndarray, rows: Rows) -> dict:
    """Return the columns of the N detections on the page; `types` (K, R) are the error types of all detections."""
    segments = detections.segments[rows.row]
    return {'video': _pack(rows.video), 'label': _pack(rows.label),
            'start': _pack(segments[:, 0], 'f4'), 'end': _pack(segments[:, 1], 'f4'),
            'type': _pack(types[:, rows.row]), 'rank': _pack(rows.rank) if rows.per_video else None}


def _pack_events(events: Detections, videos: list[str], labels: list[str]) -> dict:
    """Return the columns of the events of the page's videos and labels, sorted by video, then by start."""
    video = match_videos(events.videos, videos)[events.video]
    label_index = {name: index for index, name in enumerate(labels)}
    label = np.array([label_index.get(name, -1) for name in events.labels], np.int64)[events.label]
    rows = np.flatnonzero((video >= 0) & (label >= 0))
    rows = rows[np.lexsort((events.segments[rows, 0], video[rows]))]
    return {'video': _pack(video[rows]), 'label': _pack(label[rows]), 'score': _pack(events.scores[rows], 'f8'),
            'start': _pack(events.segments[rows, 0], 'f8'), 'end': _pack(events.segments[rows, 1], 'f8')}


def _pack_curves(curves: Curves, videos: list[str], labels: list[str]) -> dict:
    """Return the curves of the page's videos, one byte per value: a CAS is scaled to its own range."""
    label_index = {name: index for index, name in enumerate(labels)}
    label = np.array([label_index.get(name, -1) for name in curves.labels], np.int64)
    video = match_videos(curves.videos, videos)
    rows = np.flatnonzero(video >= 0)
    pairs = np.flatnonzero((video[curves.video] >= 0) & (label[curves.label] >= 0))
    if not len(rows):
        raise InputError('the curves contain none of the videos of the detections: give the curves.npz of the same run')
    aware, agnostic, cas = curves.aware[rows], curves.agnostic[rows], curves.cas[pairs].astype(np.float64)
    low, high = cas.min(axis=1), cas.max(axis=1)
    scale = np.maximum(high - low, 1e-9)
    return {'count': curves.aware.shape[1], 'video': video[rows].tolist(), 'seconds': curves.seconds[rows].tolist(),
            'snippets': curves.num_snippets[rows].tolist(),
            'medians': [np.median(a.astype(np.float64), axis=1).tolist() for a in (aware, agnostic)],
            'aware': _pack_bytes(aware), 'agnostic': _pack_bytes(agnostic), 'region': _pack(regions(aware, agnostic)),
            'pair_video': video[curves.video[pairs]].tolist(), 'pair_label': label[curves.label[pairs]].tolist(),
            'selection': _pack_bytes(curves.selection[pairs]),
            'cas': _pack_bytes((cas - low[:, None]) / scale[:, None]),
            'low': low.tolist(), 'high': high.tolist()}


# ---- the page -------------------------------------------------------------------------------------------------------

def _render(title: str, subtitle: str, data: str, has_videos: bool) -> str:
    """Return the template with style sheet, script and data; `has_videos` allows it to load video files."""
    colors = ''.join(f'--type{index}:{color};' for index, color in enumerate(COLORS))
    style = f':root{{{colors}}}\n' + (ASSETS / 'report.css').read_text(encoding='utf-8')
    script = (ASSETS / 'report.js').read_text(encoding='utf-8')

    def sha256(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    policy = (f"default-src 'none'; script-src {sha256(script)}; style-src {sha256(style)}; img-src data:; "
              + ("media-src 'self' file:; " if has_videos else '') + "base-uri 'none'; form-action 'none'")
    parts = {'policy': policy, 'title': html.escape(printable(title)), 'subtitle': html.escape(printable(subtitle)),
             'style': style, 'script': script,
             'data': data.replace('<', '\\u003c')}  # so that no label ends the element or opens a comment
    pieces = (ASSETS / 'report.html').read_text(encoding='utf-8').split('@')
    return ''.join(parts.get(piece, piece) for piece in pieces)


def relative_urls(files: Mapping[str, str | os.PathLike], page: str | os.PathLike) -> dict[str, str]:
    """Return the URL of every video's file relative to the file `page`, by the name of the video.

    A page and its videos can be moved together.
    """
    folder = Path(page).absolute().parent
    return {name: './' + quote_url(os.fsencode(os.path.relpath(Path(file).absolute(), folder)))
            for name, file in files.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.report', description='Write the report page of a result file.')
    parser.add_argument('ground_truth', metavar='GT.json', nargs='?',
                        help='without it the page shows detections and curves, and no scores')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the same run')
    parser.add_argument('--events', metavar='FILE',
                        help='events.csv of the same run (default: the events that eval.events selects)')
    parser.add_argument('--videos', metavar='DIR', help='folder of the video files that the page plays')
    parser.add_argument('--durations', metavar='FILE', help='extraction.json, where GT.json contains no durations')
    parser.add_argument('--subset', metavar='NAME', help='subset to score (default: that of the detected videos)')
    parser.add_argument('--tiou', type=float, nargs='+', default=TIOU, metavar='T',
                        help='thresholds (default: those of THUMOS14, 0.1 0.2 ... 0.7; ActivityNet: 0.5 0.55 ... 0.95)')
    parser.add_argument('--bins', choices=BINS, default='thumos14', help='of the error analysis (default: thumos14)')
    parser.add_argument('--title', metavar='TEXT', help='title of the page (default: the file of the detections)')
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='the page, an .html file')
    parser.add_argument('--overwrite', action='store_true', help='also overwrite a file that is not a report')
    args = parser.parse_intermixed_args(arguments)
    for flag in ('subset', 'tiou', 'bins'):
        if not args.ground_truth and getattr(args, flag) is not parser.get_default(flag):
            parser.error(f'--{flag} has no effect without ground truth: give a GT.json before the detections')
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Read the files, write the page."""
    refuse_overwriting_inputs([args.ground_truth, args.detections, args.curves, args.durations, args.events],
                              args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, SIGNATURE)
    detections = read_detections(args.detections)
    gt = None
    if args.ground_truth:
        gt = scored_subset(read_ground_truth(args.ground_truth), detections.videos, args.subset)
    page = build_report(
        gt, detections, args.tiou, read_curves(args.curves) if args.curves else None, BINS[args.bins],
        args.title or args.detections,
        durations=read_durations(args.durations) if args.durations else None,
        videos=relative_urls(find_videos(args.videos, detections.videos), args.output) if args.videos else None,
        events=read_events(args.events) if args.events else None)
    write_text(args.output, page)
    print(f'{printable(args.output)}: {len(page.encode()) / 1e6:.1f} MB', flush=True)


if __name__ == '__main__':
    sys.exit(main())
