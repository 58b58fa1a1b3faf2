r"""The report page: one HTML file with the scores, the error diagnosis, and a timeline of every video.

    python -m eval.report gt.json detections.json -o report.html
    python -m eval.report gt.json detections.json --curves curves.npz --tiou 0.5 0.75 0.95 --bins activitynet \
        -o report.html
    python -m eval.report detections.json --curves curves.npz --durations extraction.json --videos clips -o report.html

The third form has no ground truth: the page shows curves and detections, and no scores. With --videos the video plays
above its timeline; the files are not copied, the page links to them by relative paths. With --run outputs/NAME it also
shows the losses, the mAP and the settings of this training run.

The page needs no internet connection and no other file. It draws plain SVG with report_assets/report.js: a charting
library would add megabytes.

Text from the input files cannot run as code: it is escaped in the page, the script inserts it as text only, and the
content security policy allows only the one script and the one style sheet of the page, by their hashes, and the videos
if there are any. Arrays are packed as little-endian bytes in base64. The same input gives the same page, byte for byte.
"""
import argparse
import base64
import csv
import hashlib
import html
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote as quote_url

import numpy as np
from numpy.typing import ArrayLike

from config import changed_settings
from eval.curves import Curves, read_curves, regions
from eval.detection import KNOWN_LABELS, TIOU, averages, best_threshold, evaluate, scored_subset, tiou_key, warnings
from eval.diagnosis import BINS, COLORS, ERROR_TYPES, TITLES, Characteristic, Diagnosis, diagnose, notes
from eval.events import format_scores, read_events, score_events, select_events
from formats.annotations import GroundTruth, empty_ground_truth, match_videos, read_durations, read_ground_truth
from formats.detections import Detections, read_detections
from formats.videos import find_videos
from utils import (
    InputError,
    Parser,
    open_file,
    plural,
    printable,
    read_json,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    warn,
    write_text,
)

ASSETS = Path(__file__).parent / 'report_assets'
SIGNATURE = r'(<[^>]*>\s*){4}<meta http-equiv="Content-Security-Policy"'  # start of a report; other files are kept
MAX_DETECTIONS = 200_000  # on a page: about 8 MB
MAX_POINTS = 250  # of a curve over the steps; more are averaged
MIN_DURATION = 1e-3  # seconds; a shorter duration counts as unknown
# Marks in the head of the page, and why a result with them is not one on real videos, or comparable with others.
SYNTHETIC = {
    'synthetic sample': 'random features written by scripts/make_sample.py: these scores do not predict those on real '
                        'videos',
    'synthetic clips': 'clips rendered by examples/make_clips.py: these scores do not predict those on real videos'}


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
                 events: Detections | None = None, training: Mapping[str, Any] | None = None) -> str:
    """Return the HTML text of the page for detections in the videos of `gt` (see `eval.detection.scored_subset`).

    Without `gt`, or without any annotated instance, the page shows curves and detections only. `bins` are those of
    `eval.diagnosis`. `durations` maps video names to seconds and fills in what `gt` lacks; `videos` maps them to the
    URL of the video file, relative to the page (see `relative_urls`). `min_score` is the initial value of the score
    slider, by default that of the best F1. `events` are by default selected from the detections. `training` is that of
    `read_training`. Scores should lie between 1e-9 and 1e9 in size. Raises InputError where `curves` contain none of
    the videos.
    """
    gt = empty_ground_truth() if gt is None else gt
    events = select_events(detections) if events is None else events
    names = gt.videos + [name for name, index in zip(detections.videos, match_videos(detections.videos, gt.videos))
                         if index < 0]
    labels = gt.labels + sorted({*detections.labels} - {*gt.labels})
    data: dict[str, Any] = {
        'labels': labels, 'videos': names, 'durations': _durations(gt, names, durations, curves, detections),
        'clips': None if not videos else [videos.get(name) for name in names],
        'curves': None if curves is None else _pack_curves(curves, names, labels),
        'events': _pack_events(events, names, labels), 'training': training}
    marks = _marks(gt, detections)
    if not len(gt.segments):
        rows = _select_rows(detections, names, labels, np.zeros(len(detections.scores), bool))
        types = np.zeros((1, len(detections.scores)), np.uint8)
        data |= {'tiou': [], 'mean_ap': [], 'averages': {}, 'classes': [], 'errors': None, 'types': ['detection'],
                 'notes': [], 'facts': [('ground truth', 'none, so there are no scores')],
                 'instances': _pack_instances(gt, np.zeros((0, 0), bool))}
    else:
        diagnosis = diagnose(gt, detections, tiou, bins)
        types = diagnosis.error_types
        rows = _select_rows(detections, names, labels, (types == 0).any(axis=0))
        data |= _scored(gt, detections, events, diagnosis)
        data['instances'] = _pack_instances(gt, diagnosis.matched_instances)
        min_score = _best_f1_score(gt, detections, diagnosis) if min_score is None else min_score
    if subtitle:
        data['facts'].insert(0, ('result of', subtitle))
    if detections.scores.max(initial=0) > 1:
        data['notes'].append(
            f'scores exceed 1 here, up to {detections.scores.max():.4g}: they rank detections and are not '
            'probabilities (those of AICL are the contrast of a segment with its surroundings, plus '
            '--oic_class_weight times the class probability)')
    data['notes'] += [f'{mark}: {reason}' for mark, reason in marks.items()]
    if rows.per_video:
        data['notes'].append(
            f'the page contains {len(rows.row):,} of {len(detections.scores):,} detections: the top {rows.per_video} '
            'of each video, the best of each class first' + (', and all true positives' if data['tiou'] else '') +
            '; numbers of a single video refer to these')
    scores = detections.scores[rows.row]
    data['detections'] = _pack_detections(detections, types, rows) | {
        'score': _pack(scores, 'f8'),  # exact: the page counts detections above a threshold
        'total': _pack(np.bincount(_video_index(detections, names), minlength=len(names)))}
    data['range'] = [float(scores.min()), float(scores.max())] if len(scores) else [0, 1]
    data['threshold'] = _initial_threshold(scores, rows.video, min_score)
    return _render(title, subtitle, marks, json.dumps(data, allow_nan=False, separators=(',', ':')), bool(videos))


def _marks(gt: GroundTruth, detections: Detections) -> dict[str, str]:
    """Return the marks of a result on synthetic data or with known labels, and their reasons."""
    marks = {mark: reason for mark, reason in SYNTHETIC.items() if gt.version.startswith(mark)}
    return marks | ({'known labels': KNOWN_LABELS} if detections.known_labels else {})


def _durations(gt: GroundTruth, names: list[str], durations: Mapping[str, float] | None, curves: Curves | None,
               detections: Detections) -> list[float]:
    """Return the seconds of every video of the page; if unknown, those of its curves or the end of its last segment."""
    sources = [(gt.videos, gt.durations)]
    if durations:
        sources.append(([*durations], np.fromiter(durations.values(), np.float64, len(durations))))
    if curves is not None:
        sources.append((curves.videos, curves.seconds * curves.aware.shape[1]))
    seconds, ends = np.full(len(names), np.nan), np.ones(len(names))
    for videos, values in sources:
        index = match_videos(videos, names)
        rows = np.flatnonzero((index >= 0) & (values >= MIN_DURATION))
        rows = rows[np.isnan(seconds[index[rows]])]
        seconds[index[rows]] = values[rows]
    np.maximum.at(ends, gt.video, gt.segments[:, 1])  # the videos of `gt` are the first names
    np.maximum.at(ends, _video_index(detections, names), detections.segments[:, 1])
    return np.where(np.isnan(seconds), ends, seconds).tolist()


def _scored(gt: GroundTruth, detections: Detections, events: Detections, diagnosis: Diagnosis) -> dict:
    """Return the scores and the error analysis of all detections."""
    scores = evaluate(gt, detections, diagnosis.tiou, diagnosis.matches)
    num_instances = np.bincount(gt.label, minlength=len(gt.labels))
    num_detections = np.bincount(diagnosis.matches.label[diagnosis.matches.order], minlength=len(gt.labels))
    spans, without = list(averages(scores).items()), scores.videos_without_detection
    return {
        'tiou': [tiou_key(threshold) for threshold in scores.tiou],
        'mean_ap': scores.mean_ap.tolist(),
        'averages': dict(spans[-1:] + spans[:-1]),  # the last one is over all thresholds
        'classes': [{'label': c, 'instances': int(num_instances[c]), 'detections': int(num_detections[c]), 'ap': ap}
                    for c, ap in zip(np.flatnonzero(num_instances).tolist(), scores.ap.tolist())],
        'facts': [
            ('ground truth', f'{scores.num_videos:,} annotated videos of the subset “{gt.subsets[0]}”, '
                             f'{scores.num_instances:,} instances of {len(scores.labels)} classes'),
            ('detections', f'{scores.num_detections:,}' + (f' ({without:,} videos without one)' if without else '')),
            ('events', format_scores(score_events(gt, events)))],
        'notes': warnings(scores) + notes(diagnosis),
        'types': [*ERROR_TYPES, 'unclassified'],
        'errors': {
            'shares': diagnosis.shares.tolist(), 'gain': diagnosis.map_gain.tolist(),
            'mean_ap': diagnosis.mean_ap.tolist(), 'missed': diagnosis.missed.tolist(),
            'normalized': diagnosis.normalized_mean_ap.tolist(), 'kept': diagnosis.num_kept,
            'characteristics': [{
                'title': TITLES[c.name] + (' (%)' if c.name == 'coverage' else ''), 'ranges': _short_ranges(c),
                'instances': c.instances.tolist(),
                'missed': _nan_to_none(c.missed), 'normalized': _nan_to_none(c.mean_ap)}
                for c in diagnosis.characteristics]}}


def _short_ranges(characteristic: Characteristic) -> list[str]:
    """Return the ranges of the bins as labels of a few characters, such as ≤6 for 3-6; coverage in percent."""
    labels = []
    for name in characteristic.ranges:
        end = name.split()[-1].rpartition('-')[2]
        end = f'{100 * float(end):g}' if characteristic.name == 'coverage' else end
        labels.append(('>' if '>' in name else '≤') + end)
    return labels


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


# ---- the training run ------------------------------------------------------------------------------------------------

def read_training(folder: str | os.PathLike, args: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what the page shows of a training run: losses, mAP, best and last weights, settings and versions.

    `args` are the settings of the result, by default those of args.json. Raises InputError for another folder.
    """
    root = Path(folder)
    args = read_json(root / 'args.json') if args is None else args
    try:
        recipe, changed = args['dataset'], changed_settings(args)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise InputError(f'{root / "args.json"}: not the arguments of a training run; give a folder like outputs/NAME'
                         ) from None
    versions = args['versions'] if isinstance(args.get('versions'), dict) else {}
    steps, metrics = _read_steps(root / 'metrics.csv')
    average = 100 * metrics.pop('average_mAP', np.zeros(len(steps)))
    return {
        'title': f'{Path(str(args.get("data_path"))).resolve().name} · {root.resolve().name}',
        'name': f'run {root.resolve().name}',
        'about': ('that differ from' if changed else 'all as in') + f' the recipe {recipe} and the defaults',
        'settings': [('setting', 'here', 'default'), *changed] if changed else [],
        'versions': ' · '.join(f'{name} {re.sub("[0-9a-f]{40}", lambda sha: sha[0][:10], str(value))}'
                               for name, value in versions.items() if isinstance(value, str)),
        'metrics': _pack_lines(steps, {'average': average} | {
            f'tIoU {name[4:]}': 100 * values for name, values in metrics.items() if name.startswith('mAP@')}),
        'marks': _weights_marks(root / 'results.json', dict(zip(steps.tolist(), _nan_to_none(average)))),
        'losses': _pack_lines(*_read_steps(root / 'losses.csv'))}


def _read_steps(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the steps (S,) and the other columns (S,) of a CSV file of numbers; without rows where it has none."""
    if not path.is_file():
        return np.zeros(0), {}
    try:
        with open_file(path) as file:
            header, *rows = csv.reader(file.read().decode().splitlines())
        table = np.array([[float(cell or 'nan') for cell in row] for row in rows]).reshape(-1, len(header))
        columns = dict(zip(header, np.where(np.isfinite(table), table, np.nan).T))
        steps = columns.pop('step')
        if np.isnan(steps).any():
            raise ValueError
        return steps, columns
    except (OSError, ValueError, KeyError, csv.Error):
        raise InputError(f'{path}: damaged, or not a table of numbers by step; make the page without it') from None


def _pack_lines(steps: np.ndarray, columns: Mapping[str, np.ndarray]) -> dict | None:
    """Return the lines of a chart, as means over groups of steps where there are many; None without steps."""
    if not len(steps):
        return None
    starts = np.linspace(0, len(steps), min(len(steps), MAX_POINTS), endpoint=False).astype(int)
    sizes = np.diff(starts, append=len(steps))

    def means(values: np.ndarray) -> list:
        with np.errstate(invalid='ignore'):
            reduced = np.add.reduceat(values, starts) / sizes
        return _nan_to_none(np.where(np.isfinite(reduced), reduced, np.nan))

    about = f'steps {steps[0]:,.0f} to {steps[-1]:,.0f}'
    return {'about': about + (f'; a point is the mean of {sizes.max()} steps' if sizes.max() > 1 else ''),
            'steps': steps[starts + sizes - 1].tolist(),
            'lines': [(name, means(values)) for name, values in columns.items()
                      if name != 'epoch' and values.any()]}  # the terms of a missing stream are 0


def _weights_marks(path: Path, average: Mapping[float, float | None]) -> list[tuple[str, int, float]]:
    """Return name, step and mAP in percent of the best and the last weights, as far as results.json has them."""
    results = read_json(path) if path.is_file() else {}
    marks = []
    for name in ('best', 'last'):
        block = results.get(name) if isinstance(results, dict) else None
        step = block.get('step') if isinstance(block, dict) else None
        if isinstance(step, int) and (value := average.get(step)) is not None:
            marks.append((name, step, value))
    if len(marks) == 2 and marks[0][1] == marks[1][1]:
        return [('best and last', *marks[0][1:])]
    return marks


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


def _pack_instances(gt: GroundTruth, found: np.ndarray) -> dict:
    """Return the columns of the G instances; `found` (K, G): matched per threshold. Tags are labels without times."""
    return {'video': _pack(gt.video), 'label': _pack(gt.label), 'found': _pack(found, 'u1'),
            'start': _pack(gt.segments[:, 0], 'f8'), 'end': _pack(gt.segments[:, 1], 'f8'),
            'tag_video': _pack(gt.tag_video), 'tag_label': _pack(gt.tag_label)}


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

def _render(title: str, subtitle: str, marks: Mapping[str, str], data: str, has_videos: bool) -> str:
    """Return the template with style sheet, script and data; `has_videos` allows it to load video files."""
    colors = ''.join(f'--type{index}:{color};' for index, color in enumerate(COLORS))
    style = f':root{{{colors}}}\n' + (ASSETS / 'report.css').read_text(encoding='utf-8')
    script = (ASSETS / 'report.js').read_text(encoding='utf-8')

    def sha256(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    policy = (f"default-src 'none'; script-src {sha256(script)}; style-src {sha256(style)}; img-src data:; "
              + ("media-src 'self' file:; " if has_videos else '') + "base-uri 'none'; form-action 'none'")
    parts = {'policy': policy, 'title': html.escape(printable(title)), 'subtitle': html.escape(printable(subtitle)),
             'marks': ''.join(f'<b class="mark" title="{reason}">{mark}</b>' for mark, reason in marks.items()),
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
                        help='without it, the page shows detections and curves but no scores')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the same run')
    parser.add_argument('--events', metavar='FILE',
                        help='events.csv of the same run (default: the events that eval.events selects)')
    parser.add_argument('--videos', metavar='DIR', help='folder of the video files that the page plays')
    parser.add_argument('--durations', metavar='FILE', help='extraction.json, where GT.json contains no durations')
    parser.add_argument('--run', metavar='DIR', help='folder of the training run: the page shows its losses, mAP and '
                        'settings')
    parser.add_argument('--subset', metavar='NAME', help='subset to score (default: that of the detected videos)')
    parser.add_argument('--tiou', type=float, nargs='+', default=TIOU, metavar='T',
                        help='tIoU thresholds (default: THUMOS14, 0.1 0.2 ... 0.7; ActivityNet: 0.5 0.55 ... 0.95)')
    parser.add_argument('--bins', choices=BINS, default='thumos14', help='bins of the diagnosis (default: thumos14)')
    parser.add_argument('--title', metavar='TEXT', help='title of the page (default: the file of the detections)')
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='.html file to write')
    parser.add_argument('--overwrite', action='store_true', help='also overwrite a file that is not a report')
    args = parser.parse_intermixed_args(arguments)
    for flag in ('subset', 'tiou', 'bins'):
        if not args.ground_truth and getattr(args, flag) is not parser.get_default(flag):
            parser.error(f'--{flag} has no effect without ground truth: give a GT.json before the detections')
    return run_cli(lambda: run(args))


def belongs(events: Detections, detections: Detections) -> np.ndarray:
    """Return which events have a video and a label of the detections, and end with the last of that video: (R,)."""
    last = np.full(len(detections.videos) + 1, -np.inf)  # and of index -1, another video
    np.maximum.at(last, detections.video, detections.segments[:, 1])
    is_known = np.isin(events.labels, detections.labels)[events.label]
    video = match_videos(events.videos, detections.videos)[events.video]
    return is_known & (events.segments[:, 1] <= last[video] + 1)  # a second, for corrected events


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
    training = read_training(args.run) if args.run else None
    events = read_events(args.events) if args.events else None
    if events and (count := int((~belongs(events, detections)).sum())):
        warn(f'{args.events}: {count} of {plural(len(events.scores), "event")} are of other videos, classes or times '
             f'than the detections; give the events.csv of the same run')
    page = build_report(
        gt, detections, args.tiou, read_curves(args.curves) if args.curves else None, BINS[args.bins],
        args.title or (training['title'] if training else args.detections),
        durations=read_durations(args.durations) if args.durations else None,
        videos=relative_urls(find_videos(args.videos, detections.videos), args.output) if args.videos else None,
        events=events, training=training)
    write_text(args.output, page)
    print(f'{printable(args.output)}: {len(page.encode()) / 1e6:.1f} MB', flush=True)


if __name__ == '__main__':
    sys.exit(main())
