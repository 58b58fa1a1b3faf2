"""Detections on training videos as annotations, from which a second, fully supervised detector can be trained.

    python -m eval.pseudo_labels gt.json detections.json -o pseudo.json --min_score 0.3 --known_labels
    python -m eval.pseudo_labels gt.json detections.json -o pseudo.json --top 5 --fps 25

`gt.json` contains subset and duration of the videos. In the subset of the detected videos, detections replace all
annotations, even those of videos without detections, so that no true time remains. The videos of other subsets are not
changed, so that the second stage is tested on the ground truth.

The format is that of ActivityNet, with the additional keys that the loaders of ActionFormer and OpenTAD need: a
`label_id` in every annotation (index of the label among all labels, sorted) and "annotations" in every video; with
--fps also `fps` and `frame`, the number of frames, where the ground truth lacks them. Each pseudo label also has its
`score`.
"""
import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.detection import suspicious_files
from formats.annotations import GroundTruth, in_subset, match_videos, read_ground_truth, subset_name
from formats.detections import Detections, read_detections, select_detections
from utils import (
    InputError,
    Parser,
    bounded,
    plural,
    quote,
    read_json,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    warn,
    write_json,
)

SIGNATURE = 'pseudo labels'  # "version" of the files written here


def select_pseudo_labels(gt: GroundTruth, detections: Detections, min_score: float = -math.inf, top: int | None = None,
                         known_labels: bool = False) -> Detections:
    """Return the detections that become pseudo labels, clipped to the duration of their video, if `gt` lists it.

    Those with at least `min_score`, the `top` best of each class in a video, and with `known_labels` only those of
    labels that the video has in the ground truth, with times or without.
    """
    video = match_videos(detections.videos, gt.videos)[detections.video]
    duration = np.where(video >= 0, gt.durations[video], math.nan)
    segments = np.stack([detections.segments[:, 0].clip(0), np.fmin(detections.segments[:, 1], duration)], axis=1)
    keep = (video >= 0) & (detections.scores >= min_score) & (segments[:, 0] < segments[:, 1])
    if known_labels:
        known = {(v, gt.labels[c]) for v, c in zip(*(column.tolist() for column in gt.video_labels()))}
        keep &= [(v, detections.labels[c]) in known for v, c in zip(video.tolist(), detections.label.tolist())]
    selected = select_detections(detections._replace(segments=segments), keep)
    if top is None:
        return selected
    order = np.lexsort((-selected.scores, selected.label, selected.video))
    group = selected.video[order] * len(selected.labels) + selected.label[order]
    rank = np.arange(len(order)) - np.searchsorted(group, group)
    is_best = np.zeros(len(order), bool)
    is_best[order[rank < top]] = True
    return select_detections(selected, is_best)


def detected_subset(gt: GroundTruth, detections: Detections, subset: str | None = None) -> np.ndarray:
    """Return the videos of `subset`, or of the only one with detections, (V,) bool.

    Raises InputError if several subsets have detections, or the given one has none.
    """
    index = match_videos(detections.videos, gt.videos)
    counts = Counter(subset_name(gt.subsets[i]) for i in index[index >= 0])
    if not counts:
        raise InputError('the ground truth lists none of the videos with detections')
    if subset is None and len(counts) > 1:
        names = ' and '.join(f'{quote(name)} ({plural(count, "video")})' for name, count in counts.most_common(5))
        raise InputError(f'the videos with detections are in several subsets, {names}; choose the one to label with '
                         '--subset')
    subset = next(iter(counts)) if subset is None else subset
    if subset_name(subset) not in counts:
        raise InputError(f'no video with detections is in the subset {quote(subset)}')
    return in_subset(gt, subset)


def pseudo_database(database: dict[str, dict], gt: GroundTruth, labeled: np.ndarray, selected: Detections,
                    fps: float | None = None) -> dict[str, dict]:
    """Return the "database" of the output: that of the ground truth, with the selected detections in `labeled` videos.

    labeled (V,) bool; `fps` is for videos without a frame rate.
    """
    labels = sorted({*gt.labels, *(selected.labels[c] for c in np.unique(selected.label))})
    label_id = {label: index for index, label in enumerate(labels)}
    pseudo_labels: dict[str, list] = {}
    columns = selected.label, selected.segments, selected.scores
    video = match_videos(selected.videos, gt.videos)[selected.video]
    for v, label, segment, score in zip(video.tolist(), *(column.tolist() for column in columns)):
        annotation = {'label': selected.labels[label], 'segment': segment, 'score': score}
        pseudo_labels.setdefault(gt.videos[v], []).append(annotation)

    result = {}
    for name, is_labeled, duration in zip(gt.videos, labeled.tolist(), gt.durations.tolist()):
        entry: dict[str, Any] = {**database[name]}
        timed = [annotation for annotation in entry.get('annotations') or [] if 'segment' in annotation]
        entry['annotations'] = [{**annotation, 'label_id': label_id[annotation['label']]}
                                for annotation in (pseudo_labels.get(name, []) if is_labeled else timed)]
        if not math.isnan(duration):
            entry['duration'] = duration
        if fps and type(entry.get('fps')) not in (int, float):
            entry['fps'] = fps
        if fps and not math.isnan(duration):
            entry.setdefault('frame', round(duration * entry['fps']))
        result[name] = entry
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.pseudo_labels', description='Detections on training videos as annotations.')
    parser.add_argument('ground_truth', metavar='GT.json', help='contains subset and duration of every video')
    parser.add_argument('detections', metavar='DETECTIONS.json', help='on training videos')
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='the annotations, as JSON')
    parser.add_argument('--subset', metavar='NAME',
                        help='subset to label (default: the one that contains the videos with detections)')
    parser.add_argument('--min_score', type=bounded(float, -math.inf, math.inf), default=-math.inf, metavar='S',
                        help='minimum score of a detection (default: all)')
    parser.add_argument('--top', type=bounded(int, 1), metavar='K', help='only the K best of each class in a video')
    parser.add_argument('--known_labels', action='store_true',
                        help='only labels that the video has in the ground truth')
    parser.add_argument('--fps', type=bounded(float, 1e-3, 1e6), metavar='F',
                        help='frame rate of videos without one in the ground truth')
    parser.add_argument('--overwrite', action='store_true', help='overwrite the output even if it is another kind of '
                        'file')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Write the pseudo labels of a result file."""
    refuse_overwriting_inputs([args.ground_truth, args.detections], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, rf'{{\s*"version": "{SIGNATURE}')
    gt, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    database = read_json(args.ground_truth)['database']
    labeled = detected_subset(gt, detections, args.subset)
    index = match_videos(detections.videos, gt.videos)
    inside = (index >= 0) & labeled[index]
    selected = select_pseudo_labels(gt, select_detections(detections, inside[detections.video]), args.min_score,
                                    args.top, args.known_labels)
    suspicious = suspicious_files(gt, detections)
    if not len(selected.scores):
        reason = suspicious[0] if suspicious else 'lower --min_score'
        raise InputError(f'{args.detections}: no detection is left to be a pseudo label; {reason}')
    result = pseudo_database(database, gt, labeled, selected, args.fps)
    for line in suspicious:
        warn(line)
    if not inside.all():
        warn(f'{plural(int((~inside).sum()), "video")} with detections ignored: in another subset or not in the ground '
             'truth')
    for key, needed_by in (('duration', 'OpenTAD needs'), ('fps', 'ActionFormer needs, unless its config contains it'),
                           ('frame', 'OpenTAD needs')):
        without = sum(key not in entry for entry in result.values())
        if without:
            fix = '' if key == 'duration' else ': see --fps'
            warn(f'{plural(without, "video")} without "{key}", which {needed_by}{fix}')
    write_json(args.output, {'version': SIGNATURE, 'database': result})
    num_detected = len(np.unique(selected.video))
    print(f'{args.output}: {plural(len(selected.scores), "pseudo label")} in {plural(num_detected, "video")}, '
          f'{plural(int(labeled.sum()) - num_detected, "video")} of the subset without any', flush=True)


if __name__ == '__main__':
    sys.exit(main())
