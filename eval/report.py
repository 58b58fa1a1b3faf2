"""A report page: one HTML file that shows how good detections are, where their errors lie, and every video.

    python -m eval.report gt.json detections.json -o report.html
    python -m eval.report gt.json detections.json --curves curves.npz --tiou 0.5 0.75 0.95 --bins activitynet \\
        -o report.html

The page needs no network and no other file. It draws plain SVG with its own script, page/report.js, and not with a
charting library: the timeline (hundreds of detections placed by score, instances, curves and regions on one time axis,
redrawn while a slider moves) is what no library has ready made, the other charts are bars and lines, and an embedded
library would be one to four megabytes, as much as all THUMOS14 videos' data. SVG takes its colours from the style
sheet, light or dark, stays sharp, and can be counted by a test.

Text from the files cannot run: it is escaped where it enters the page, the script shows it as text only, and the page's
content security policy allows nothing but the one script and the one style sheet that stand in it, by their hashes. All
numbers are packed as little-endian arrays in base64; the same input gives the same page, byte for byte.
"""
import argparse
import base64
import hashlib
import html
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from eval.curves import Curves, read_curves, regions
from eval.detection import TIOU, averages, evaluate, scored_subset, tiou_key, warnings
from eval.diagnosis import BINS, COLOURS, KINDS, TITLES, Diagnosis, diagnose, notes
from eval.files import Detections, GroundTruth, match_videos, read_detections, read_ground_truth
from utils import InputError, Parser, keep_inputs, printable, run_command, write_text

PAGE = Path(__file__).parent / 'page'


def build_report(truth: GroundTruth, detections: Detections, tiou: ArrayLike = TIOU, curves: Curves | None = None,
                 bins: Mapping[str, Sequence[float]] = BINS['thumos14'], title: str = 'Detections') -> str:
    """The page, as text, for detections in the videos of `truth` (see `eval.detection.scored_subset`).

    `bins` are those of `eval.diagnosis`. Raises InputError if there is nothing to score.
    """
    diagnosis = diagnose(truth, detections, tiou, bins)
    scores = evaluate(truth, detections, tiou, diagnosis.matches)
    labels = truth.labels + sorted({*detections.labels} - {*truth.labels})
    listed = match_videos(detections.videos, truth.videos) >= 0
    videos = truth.videos + [name for name, known in zip(detections.videos, listed) if not known]
    number = np.bincount(truth.label, minlength=len(truth.labels))
    data = {
        'tiou': [tiou_key(threshold) for threshold in scores.tiou],
        'labels': labels,
        'mean_ap': scores.mean_ap.tolist(),
        'averages': averages(scores),
        'classes': [{'label': c, 'instances': int(number[c]), 'ap': ap}
                    for c, ap in zip(np.flatnonzero(number).tolist(), scores.ap.tolist())],
        'facts': f'{scores.num_videos} annotated videos of the subset “{truth.subsets[0]}” '
                 f'({scores.videos_without_prediction} without a detection), {scores.num_instances} instances of '
                 f'{len(scores.labels)} classes, {scores.num_predictions} detections',
        'notes': warnings(scores) + notes(diagnosis),
        'kinds': [*KINDS, 'not judged'],
        'errors': {
            'shares': diagnosis.shares.tolist(), 'gain': diagnosis.gain.tolist(), 'mean_ap': diagnosis.mean_ap.tolist(),
            'missed': diagnosis.missed.tolist(), 'normalized': diagnosis.normalized_mean_ap.tolist(),
            'kept': diagnosis.num_kept,
            'characteristics': [{
                'title': TITLES[c.name], 'bins': c.bins, 'ranges': c.ranges, 'instances': c.instances.tolist(),
                'missed': _nullable(c.missed), 'normalized': _nullable(c.mean_ap)} for c in diagnosis.characteristics]},
        'videos': videos,
        'durations': [*_nullable(truth.durations), *[None] * (len(videos) - len(truth.videos))],
        'instances': _instances(truth, diagnosis.found),
        'detections': _detections(detections, diagnosis, videos, labels),
        'curves': None if curves is None else _curves(curves, videos, labels)}
    return _page(title, json.dumps(data, allow_nan=False, separators=(',', ':')))


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


def _instances(truth: GroundTruth, found: np.ndarray) -> dict:
    """The G instances as columns; `found` (K, G) tells which are matched at each threshold."""
    return {'video': _pack(truth.video), 'label': _pack(truth.label), 'found': _pack(found, 'u1'),
            'start': _pack(truth.segments[:, 0], 'f8'), 'end': _pack(truth.segments[:, 1], 'f8')}


def _detections(detections: Detections, diagnosis: Diagnosis, videos: list[str], labels: list[str]) -> dict:
    """The R detections as columns: class by class and there by falling score, as mAP ranks them; `kind` is (K, R)."""
    matches = diagnosis.matches
    order = np.concatenate((matches.order, np.flatnonzero(matches.label < 0)))
    video = match_videos(detections.videos, videos)[detections.video]
    place = {name: index for index, name in enumerate(labels)}
    label = np.array([place[name] for name in detections.labels], np.int64)[detections.label]
    return {'video': _pack(video[order]), 'label': _pack(label[order]),
            'start': _pack(detections.segments[order, 0], 'f4'), 'end': _pack(detections.segments[order, 1], 'f4'),
            'score': _pack(detections.scores[order], 'f8'),  # exact: the page counts who reaches a threshold
            'kind': _pack(diagnosis.kinds[:, order])}


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


def _page(title: str, data: str) -> str:
    """The template with style sheet, script and data in place."""
    colours = ''.join(f'--k{kind}:{colour};' for kind, colour in enumerate(COLOURS))
    style = f':root{{{colours}}}\n' + (PAGE / 'report.css').read_text(encoding='utf-8')
    script = (PAGE / 'report.js').read_text(encoding='utf-8')

    def sha256(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    title = html.escape(printable(title))
    policy = (f"default-src 'none'; script-src {sha256(script)}; style-src {sha256(style)}; img-src data:; "
              "base-uri 'none'; form-action 'none'")
    parts = {'policy': policy, 'title': title, 'style': style, 'script': script,
             'data': data.replace('<', '\\u003c')}  # so that no label ends the element or opens a comment
    pieces = (PAGE / 'report.html').read_text(encoding='utf-8').split('@')
    return ''.join(parts.get(piece, piece) for piece in pieces)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.report', description='A report page of a result file.')
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('--curves', metavar='FILE', help='curves.npz of the same run')
    parser.add_argument('--subset', metavar='NAME', help='what to score (default: the subset of the predicted videos)')
    parser.add_argument('--tiou', type=float, nargs='+', default=TIOU, metavar='T',
                        help='thresholds (default: those of THUMOS14, 0.1 0.2 ... 0.7; ActivityNet: 0.5 0.55 ... 0.95)')
    parser.add_argument('--bins', choices=BINS, default='thumos14', help='of the error diagnosis (default: thumos14)')
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='the page, an .html')
    args = parser.parse_args(arguments)
    return run_command(lambda: report_file(args))


def report_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    keep_inputs([args.ground_truth, args.detections, args.curves], args.output)
    truth, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    curves = read_curves(args.curves) if args.curves else None
    truth = scored_subset(truth, detections.videos, args.subset)
    page = build_report(truth, detections, args.tiou, curves, BINS[args.bins], title=str(Path(args.detections)))
    write_text(args.output, page)
    print(f'{args.output}: {len(page.encode()) / 1e6:.1f} MB', flush=True)


if __name__ == '__main__':
    sys.exit(main())
