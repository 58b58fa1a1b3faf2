"""A report page: one HTML file that shows how good detections are, where their errors lie, and every video.

    python -m eval.report gt.json detections.json -o report.html
    python -m eval.report gt.json detections.json --curves curves.npz --tiou 0.5 0.75 0.95 --bins activitynet \\
        -o report.html
    python -m eval.report detections.json --curves curves.npz --durations extraction.json --videos clips -o report.html

The last is a page without ground truth: curves and detections, no scores. With --videos the video plays beside its
timeline; it stays where it is, the page holds its address relative to itself.

The page needs no network and no other file. It draws plain SVG with its own script, page/report.js, and not with a
charting library: the timeline (hundreds of detections placed by score, instances, curves and regions on one time axis,
redrawn while a slider moves) is what no library has ready made, the other charts are bars and lines, and an embedded
library would be one to four megabytes, as much as all THUMOS14 videos' data. SVG takes its colours from the style
sheet, light or dark, stays sharp, and can be counted by a test.

Text from the files cannot run: it is escaped where it enters the page, the script shows it as text only, and the page's
content security policy allows nothing but the one script and the one style sheet that stand in it, by their hashes, and
the videos if there are any. All numbers are packed as little-endian arrays in base64; the same input gives the same
page, byte for byte.
"""
import argparse
import base64
import hashlib
import html
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote as quote_address

import numpy as np
from numpy.typing import ArrayLike

from eval.curves import Curves, read_curves, regions
from eval.detection import TIOU, averages, best_threshold, evaluate, scored_subset, tiou_key, warnings
from eval.diagnosis import BINS, COLOURS, KINDS, TITLES, Diagnosis, diagnose, notes
from formats.annotations import GroundTruth, match_videos, read_ground_truth
from formats.columns import MAX_SECONDS
from formats.detections import Detections, read_detections
from utils import InputError, Parser, refuse_overwriting_inputs, refuse_overwriting_foreign, printable, read_json, run_cli, write_text

PAGE = Path(__file__).parent / 'page'
HEAD = r'(<[^>]*>\s*){4}<meta http-equiv="Content-Security-Policy"'  # how a report begins, so that nothing else is lost
MOST = 200_000  # detections on a page: about 8 MB
SHORTEST = 1e-3  # seconds; a video that is said to be shorter has no known duration
VIDEO_SUFFIXES = ('.mp4', '.m4v', '.webm', '.mov', '.mkv', '.ogv', '.avi')  # which play is up to the browser


class Rows(NamedTuple):
    """The N detections that a page holds: class by class, inside a class by falling score."""
    row: np.ndarray  # (N,) index into the detections
    video: np.ndarray  # (N,) index into the videos of the page
    label: np.ndarray  # (N,) index into the labels of the page
    rank: np.ndarray  # (N,) place among all detections of the class, those left out too
    best: int  # how many of each video are kept at least, the best of each class first; 0 where all are


def build_report(truth: GroundTruth | None, detections: Detections, tiou: ArrayLike = TIOU,
                 curves: Curves | None = None, bins: Mapping[str, Sequence[float]] = BINS['thumos14'],
                 title: str = 'Detections', subtitle: str = '', *, durations: Mapping[str, float] | None = None,
                 videos: Mapping[str, str] | None = None, min_score: float | None = None) -> str:
    """The page, as text, for detections in the videos of `truth` (see `eval.detection.scored_subset`).

    Without `truth`, or with one that times nothing, it shows curves and detections alone. `bins` are those of
    `eval.diagnosis`. `durations` tells seconds by the name of a video where `truth` does not, `videos` the address of
    its file, relative to the page (see `addresses`). The score slider begins at `min_score`, or else where F1 is best.
    """
    names = _all_videos(truth, detections)
    known = [] if truth is None else truth.labels
    labels = known + sorted({*detections.labels} - {*known})
    data: dict[str, Any] = {
        'labels': labels, 'videos': names, 'durations': _durations(truth, names, durations),
        'clips': None if not videos else [videos.get(name) for name in names],
        'curves': None if curves is None else _curves(curves, names, labels)}
    if truth is None or not len(truth.segments):
        rows = _rows(detections, names, labels, np.zeros(len(detections.scores), bool))
        data |= _unscored(detections, names) | {
            'instances': _instances(truth, np.zeros((0, 0), bool)),
            'detections': _detections(detections, np.zeros((1, len(detections.scores)), np.uint8), rows)}
    else:
        diagnosis = diagnose(truth, detections, tiou, bins)
        kinds = diagnosis.kinds
        rows = _rows(detections, names, labels, (kinds == 0).any(axis=0))
        data |= _scores(truth, detections, diagnosis) | {
            'instances': _instances(truth, diagnosis.found), 'detections': _detections(detections, kinds, rows)}
        min_score = _best_f1(truth, detections, diagnosis) if min_score is None else min_score
    if rows.best:
        data['notes'].append(
            f'the page holds {len(rows.row):,} of {len(detections.scores):,} detections: the {rows.best} best of each '
            'video, the best of each class first' + (', and all that match an instance' if data['tiou'] else '') +
            '; what is said of a single video is said of these')
    scores = detections.scores[rows.row]
    unit = _unit(scores)
    data['unit'] = f'{unit:g}' if unit != 1 else ''
    data['threshold'] = _begin(scores, rows.video, min_score) / unit
    data['detections']['score'] = _pack(scores / unit, 'f8')  # exact: the page counts who reaches a threshold
    data['detections']['number'] = _pack(np.bincount(_video_of(detections, names), minlength=len(names)))
    return _page(title, subtitle, json.dumps(data, allow_nan=False, separators=(',', ':')), bool(videos))


def _all_videos(truth: GroundTruth | None, detections: Detections) -> list[str]:
    """The videos of the ground truth, then those that it does not list."""
    known = [] if truth is None else truth.videos
    listed = match_videos(detections.videos, known) >= 0
    return known + [name for name, known in zip(detections.videos, listed) if not known]


def _durations(truth: GroundTruth | None, names: list[str], durations: Mapping[str, float] | None) -> list:
    """Seconds of every video of the page, None where nobody knows."""
    seconds = np.full(len(names), np.nan)
    if durations:
        place = match_videos(list(durations), names)
        listed = np.flatnonzero(place >= 0)
        seconds[place[listed]] = np.fromiter(durations.values(), np.float64, len(durations))[listed]
    if truth is not None:
        given = np.flatnonzero(~np.isnan(truth.durations))
        seconds[given] = truth.durations[given]
    seconds[~(seconds >= SHORTEST)] = np.nan
    return _nullable(seconds)


def _scores(truth: GroundTruth, detections: Detections, diagnosis: Diagnosis) -> dict:
    """What the page says of all detections together."""
    scores = evaluate(truth, detections, diagnosis.tiou, diagnosis.matches)
    instances = np.bincount(truth.label, minlength=len(truth.labels))
    found = np.bincount(diagnosis.matches.label[diagnosis.matches.order], minlength=len(truth.labels))
    spans = list(averages(scores).items())
    return {
        'tiou': [tiou_key(threshold) for threshold in scores.tiou],
        'mean_ap': scores.mean_ap.tolist(),
        'averages': dict(spans[-1:] + spans[:-1]),  # the last spans all thresholds
        'classes': [{'label': c, 'instances': int(instances[c]), 'detections': int(found[c]), 'ap': ap}
                    for c, ap in zip(np.flatnonzero(instances).tolist(), scores.ap.tolist())],
        'facts': f'{scores.num_videos:,} annotated videos of the subset “{truth.subsets[0]}” '
                 f'({scores.videos_without_detection:,} without a detection), {scores.num_instances:,} instances of '
                 f'{len(scores.labels)} classes, {scores.num_detections:,} detections',
        'notes': warnings(scores) + notes(diagnosis),
        'kinds': [*KINDS, 'not judged'],
        'errors': {
            'shares': diagnosis.shares.tolist(), 'gain': diagnosis.gain.tolist(), 'mean_ap': diagnosis.mean_ap.tolist(),
            'missed': diagnosis.missed.tolist(), 'normalized': diagnosis.normalized_mean_ap.tolist(),
            'kept': diagnosis.num_kept,
            'characteristics': [{
                'title': TITLES[c.name], 'bins': c.bins, 'ranges': c.ranges, 'instances': c.instances.tolist(),
                'missed': _nullable(c.missed), 'normalized': _nullable(c.mean_ap)}
                for c in diagnosis.characteristics]}}


def _unscored(detections: Detections, names: list[str]) -> dict:
    """The same where there is nothing to score against."""
    return {
        'tiou': [], 'mean_ap': [], 'averages': {}, 'classes': [], 'errors': None, 'kinds': ['detection'], 'notes': [],
        'facts': f'{len(names):,} videos, {len(detections.scores):,} detections of {len(detections.labels)} classes; '
                 'no ground truth, so nothing is scored'}


def _best_f1(truth: GroundTruth, detections: Detections, diagnosis: Diagnosis) -> float | None:
    """The score at which F1 is best at the tIoU nearest to 0.5; None where nothing is found."""
    middle = int(np.abs(diagnosis.tiou - 0.5).argmin())
    best = best_threshold(truth, detections, diagnosis.tiou[middle], diagnosis.matches.at(middle))
    return best and best.score


def _begin(scores: np.ndarray, video: np.ndarray, wanted: float | None) -> float:
    """Where the score slider begins: at `wanted`, or lower, so that nine videos of ten show a detection.

    Without a wish there are ten detections a video.
    """
    if not len(scores):
        return 0.0
    best = np.full(video.max() + 1, -np.inf)
    np.maximum.at(best, video, scores)
    best = np.sort(best[best > -np.inf])
    if wanted is None:
        wanted = np.sort(scores)[-min(len(scores), 10 * len(best))]
    return float(min(wanted, best[len(best) // 10]))


def _unit(scores: np.ndarray) -> float:
    """A power of ten that brings scores near 1 where they are so large or small that a browser's numbers give out."""
    largest = np.abs(scores).max(initial=0)
    if not largest or 1e-9 < largest < 1e9:
        return 1.0
    return 10.0 ** np.clip(np.floor(np.log10(largest)), -307, 308)


def _nullable(values: np.ndarray) -> list:
    """An array as lists, None for NaN."""
    nullable = values.astype(object)
    nullable[np.isnan(values)] = None
    return nullable.tolist()


def _pack(values: np.ndarray, dtype: str | None = None) -> list[str]:
    """An array as its type and its bytes in base64; without a `dtype` as the smallest whole numbers that hold it."""
    if dtype is None:
        dtype = next(small for small in ('u1', 'u2', 'u4') if values.max(initial=0) <= np.iinfo(small).max)
    return [dtype, base64.b64encode(np.ascontiguousarray(values, np.dtype(dtype).newbyteorder('<')).tobytes()).decode()]


def _instances(truth: GroundTruth | None, found: np.ndarray) -> dict:
    """The G instances as columns; `found` (K, G) tells which are matched at each threshold. Tags have no time."""
    empty = np.zeros((0, 2))
    video, label, segments = (empty[:, 0], empty[:, 0], empty) if truth is None else (
        truth.video, truth.label, truth.segments)
    tags = (empty[:, 0], empty[:, 0]) if truth is None else (truth.tag_video, truth.tag_label)
    return {'video': _pack(video), 'label': _pack(label), 'found': _pack(found, 'u1'),
            'start': _pack(segments[:, 0], 'f8'), 'end': _pack(segments[:, 1], 'f8'),
            'tag_video': _pack(tags[0]), 'tag_label': _pack(tags[1])}


def _video_of(detections: Detections, names: list[str]) -> np.ndarray:
    """The place among `names` of the video of every detection, (R,)."""
    return match_videos(detections.videos, names)[detections.video]


def _rows(detections: Detections, names: list[str], labels: list[str], matched: np.ndarray) -> Rows:
    """Which detections the page holds: all, or of more than `MOST` the best of each video and those `matched` (R,)."""
    place = {name: index for index, name in enumerate(labels)}
    video = _video_of(detections, names)
    label = np.array([place[name] for name in detections.labels], np.int64)[detections.label]
    order = np.lexsort((-detections.scores, label))
    rank = _rank(label[order])
    best, keep = 0, np.ones(len(order), bool)
    if len(order) > MOST:
        # Inside a video: the best of each class, then the second of each, ...
        pair = np.lexsort((-detections.scores, label, video))
        turn = np.empty(len(order), np.int64)
        turn[pair] = _rank(video[pair] * len(labels) + label[pair])
        queue = np.lexsort((-detections.scores, turn, video))
        turn[queue] = _rank(video[queue])
        number = np.sort(np.bincount(video))
        best = _largest_share(number[number > 0], MOST)
        keep = ((turn < best) | matched)[order]
    order = order[keep]
    return Rows(order, video[order], label[order], rank[keep], best)


def _rank(group: np.ndarray) -> np.ndarray:
    """The place of every row inside its group, (N,), of groups that stand together."""
    first = np.flatnonzero(np.diff(group, prepend=-1))
    return np.arange(len(group)) - np.repeat(first, np.diff(first, append=len(group)))


def _largest_share(number: np.ndarray, most: int) -> int:
    """How many each of groups with `number` (rising) members may send at most, so that `most` come; at least 1."""
    shares = np.arange(1, number[-1] + 1)
    below = np.searchsorted(number, shares)
    total = np.append(0, np.cumsum(number))[below] + shares * (len(number) - below)
    return int(shares[total <= most].max(initial=1))


def _detections(detections: Detections, kinds: np.ndarray, rows: Rows) -> dict:
    """The N detections of the page as columns; `kinds` (K, R) has the kind of all of them."""
    segments = detections.segments[rows.row]
    return {'video': _pack(rows.video), 'label': _pack(rows.label),
            'start': _pack(segments[:, 0], 'f4'), 'end': _pack(segments[:, 1], 'f4'),
            'kind': _pack(kinds[:, rows.row]), 'rank': _pack(rows.rank) if rows.best else None}


def _curves(curves: Curves, videos: list[str], labels: list[str]) -> dict:
    """The curves of the page's videos, a byte a value: actionness and selection from 0 to 1, a CAS over its range."""
    place = {name: index for index, name in enumerate(labels)}
    label = np.array([place.get(name, -1) for name in curves.labels], np.int64)
    video = match_videos(curves.videos, videos)
    rows = np.flatnonzero(video >= 0)
    pairs = np.flatnonzero((video[curves.video] >= 0) & (label[curves.label] >= 0))
    if not len(rows):
        raise InputError('the curves are of other videos than the detections: give the curves.npz of the same run')
    aware, agnostic, cas = curves.aware[rows], curves.agnostic[rows], curves.cas[pairs].astype(np.float64)
    low, high = cas.min(axis=1), cas.max(axis=1)
    scale = np.maximum(high - low, 1e-9)
    return {'count': curves.aware.shape[1], 'video': video[rows].tolist(), 'seconds': curves.seconds[rows].tolist(),
            'snippets': curves.num_snippets[rows].tolist(),
            'medians': [np.median(a.astype(np.float64), axis=1).tolist() for a in (aware, agnostic)],
            'aware': _bytes(aware), 'agnostic': _bytes(agnostic), 'region': _pack(regions(aware, agnostic)),
            'pair_video': video[curves.video[pairs]].tolist(), 'pair_label': label[curves.label[pairs]].tolist(),
            'selection': _bytes(curves.selection[pairs]), 'cas': _bytes((cas - low[:, None]) / scale[:, None]),
            'low': low.tolist(), 'high': high.tolist()}


def _bytes(values: np.ndarray) -> list[str]:
    """Values from 0 to 1 as 0 to 255."""
    return _pack(np.rint(np.clip(values, 0, 1).astype(np.float32) * 255), 'u1')


def _page(title: str, subtitle: str, data: str, plays: bool) -> str:
    """The template with style sheet, script and data in place; `plays` allows it to load video files."""
    colours = ''.join(f'--k{kind}:{colour};' for kind, colour in enumerate(COLOURS))
    style = f':root{{{colours}}}\n' + (PAGE / 'report.css').read_text(encoding='utf-8')
    script = (PAGE / 'report.js').read_text(encoding='utf-8')

    def sha256(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    policy = (f"default-src 'none'; script-src {sha256(script)}; style-src {sha256(style)}; img-src data:; "
              + ("media-src 'self' file:; " if plays else '') + "base-uri 'none'; form-action 'none'")
    parts = {'policy': policy, 'title': html.escape(printable(title)), 'subtitle': html.escape(printable(subtitle)),
             'style': style, 'script': script,
             'data': data.replace('<', '\\u003c')}  # so that no label ends the element or opens a comment
    pieces = (PAGE / 'report.html').read_text(encoding='utf-8').split('@')
    return ''.join(parts.get(piece, piece) for piece in pieces)


def addresses(files: Mapping[str, str | os.PathLike], page: str | os.PathLike) -> dict[str, str]:
    """The address of every video's file as `page` must spell it, relative to where it lies; by the name of the video.

    A page and its videos can be moved together.
    """
    folder = Path(page).absolute().parent
    return {name: './' + quote_address(os.fsencode(os.path.relpath(Path(file).absolute(), folder)))
            for name, file in files.items()}


def find_videos(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, Path]:
    """The video file in `folder`, or below it, of each of `names` that has one there, `v_` or not.

    Raises InputError if none has.
    """
    if not Path(folder).is_dir():
        raise InputError(f'{folder}: is no folder of videos')
    files = sorted(path for path in Path(folder).rglob('*') if path.suffix.lower() in VIDEO_SUFFIXES)
    names = list(names)
    place = match_videos(names, [path.stem for path in files])
    if (place < 0).all():
        raise InputError(f'{folder}: holds no file of these videos: they are named like '
                         f'{printable(names[0]) if names else "no video"}{VIDEO_SUFFIXES[0]}')
    return {name: files[at] for name, at in zip(names, place) if at >= 0}


def read_durations(path: str | os.PathLike) -> dict[str, float]:
    """Seconds of every video that an extraction.json, or a gt.json, tells of."""
    content = read_json(path)
    videos = content.get('videos', content.get('database')) if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise InputError(f'{path}: tells no durations: it needs {{"videos": {{video: {{"duration": seconds}}}}}}')
    given = [(name, entry.get('duration')) for name, entry in videos.items() if isinstance(entry, dict)]
    return {name: float(seconds) for name, seconds in given
            if isinstance(seconds, (int, float)) and 0 < seconds <= MAX_SECONDS}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.report', description='A report page of a result file.')
    parser.add_argument('ground_truth', metavar='GT.json', nargs='?',
                        help='without it the page shows detections and curves, and no scores')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the same run')
    parser.add_argument('--videos', metavar='DIR', help='folder of the video files, which then play in the page')
    parser.add_argument('--durations', metavar='FILE', help='extraction.json, where GT.json tells no durations')
    parser.add_argument('--subset', metavar='NAME', help='what to score (default: the subset of the detected videos)')
    parser.add_argument('--tiou', type=float, nargs='+', default=TIOU, metavar='T',
                        help='thresholds (default: those of THUMOS14, 0.1 0.2 ... 0.7; ActivityNet: 0.5 0.55 ... 0.95)')
    parser.add_argument('--bins', choices=BINS, default='thumos14', help='of the error diagnosis (default: thumos14)')
    parser.add_argument('--title', metavar='TEXT', help='what the page is called (default: the file of the detections)')
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='the page, an .html')
    parser.add_argument('--overwrite', action='store_true', help='also write over a file that is no report')
    args = parser.parse_intermixed_args(arguments)
    for flag in ('subset', 'tiou', 'bins'):
        if not args.ground_truth and getattr(args, flag) is not parser.get_default(flag):
            parser.error(f'--{flag} says how to score, and without a GT.json before the detections nothing is scored')
    return run_cli(lambda: report_file(args))


def report_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    refuse_overwriting_inputs([args.ground_truth, args.detections, args.curves, args.durations], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, HEAD)
    detections = read_detections(args.detections)
    truth = None
    if args.ground_truth:
        truth = scored_subset(read_ground_truth(args.ground_truth), detections.videos, args.subset)
    page = build_report(
        truth, detections, args.tiou, read_curves(args.curves) if args.curves else None, BINS[args.bins],
        args.title or args.detections,
        durations=read_durations(args.durations) if args.durations else None,
        videos=addresses(find_videos(args.videos, detections.videos), args.output) if args.videos else None)
    write_text(args.output, page)
    print(f'{printable(args.output)}: {len(page.encode()) / 1e6:.1f} MB', flush=True)


if __name__ == '__main__':
    sys.exit(main())
