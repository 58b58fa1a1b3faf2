"""Detections on training videos as annotations, from which a second, fully supervised detector can be trained.

    python -m eval.pseudo_labels gt.json detections.json -o pseudo.json --min_score 0.3 --known_labels
    python -m eval.pseudo_labels gt.json detections.json -o pseudo.json --top 5 --fps 25

`gt.json` tells subset and duration of the videos. In what comes out, every video of the subset of the detections has
its detections in place of its annotations, and none where there are none: no true time is left in it. The videos of
other subsets stay as they are, so that the second stage is tested on the truth.

The form is ActivityNet's, with what the loaders of ActionFormer and OpenTAD ask for beyond it: a `label_id` in every
annotation (the place of the label among all, sorted) and "annotations" in every video; with --fps also `fps` and
`frame`, the number of frames, where the ground truth has none. Each pseudo label keeps its `score`.
"""
import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from formats.annotations import GroundTruth, in_subset, match_videos, read_ground_truth, subset_name
from formats.detections import Detections, read_detections, select_detections
from utils import (
    InputError,
    Parser,
    refuse_overwriting_inputs,
    refuse_overwriting_foreign,
    number,
    plural,
    quote,
    read_json,
    run_cli,
    warn,
    write_json,
)

VERSION = 'pseudo labels'  # how the files written here begin


def choose(truth: GroundTruth, detections: Detections, min_score: float = -math.inf, top: int | None = None,
           known_labels: bool = False) -> Detections:
    """The detections that become pseudo labels, cut to the duration of their video; nothing is left of a video unknown.

    Those with `min_score` or more, the `top` best of each class in a video, and with `known_labels` only those of
    labels that the ground truth has for the video, timed or not.
    """
    video = match_videos(detections.videos, truth.videos)[detections.video]
    last = np.where(video >= 0, truth.durations[video], math.nan)
    segments = np.stack([detections.segments[:, 0].clip(0), np.fmin(detections.segments[:, 1], last)], axis=1)
    keep = (video >= 0) & (detections.scores >= min_score) & (segments[:, 0] < segments[:, 1])
    if known_labels:
        known = {(v, truth.labels[c]) for v, c in zip(*(column.tolist() for column in truth.video_labels()))}
        keep &= [(v, detections.labels[c]) in known for v, c in zip(video.tolist(), detections.label.tolist())]
    kept = select_detections(detections._replace(segments=segments), keep)
    if top is None:
        return kept
    order = np.lexsort((-kept.scores, kept.label, kept.video))
    group = kept.video[order] * len(kept.labels) + kept.label[order]
    rank = np.arange(len(order)) - np.searchsorted(group, group)
    best = np.zeros(len(order), bool)
    best[order[rank < top]] = True
    return select_detections(kept, best)


def detected_subset(truth: GroundTruth, detections: Detections, subset: str | None = None) -> np.ndarray:
    """The videos of `subset`, or of the one in which the detections lie, (V,) bool; InputError if that is none."""
    listed = match_videos(detections.videos, truth.videos)
    held = Counter(subset_name(truth.subsets[i]) for i in listed[listed >= 0])
    if not held:
        raise InputError('the ground truth lists none of the videos with detections')
    if subset is None and len(held) > 1:
        names = ' and '.join(f'{quote(name)} ({plural(count, "video")})' for name, count in held.most_common(5))
        raise InputError(f'the videos with detections lie in several subsets, {names}: name the one to label with '
                         '--subset')
    subset = next(iter(held)) if subset is None else subset
    if subset_name(subset) not in held:
        raise InputError(f'no video with detections lies in the subset {quote(subset)}')
    return in_subset(truth, subset)


def pseudo_database(database: dict[str, dict], truth: GroundTruth, labelled: np.ndarray, chosen: Detections,
                    fps: float | None = None) -> dict[str, dict]:
    """The "database" of the file: that of the ground truth, the `labelled` (V,) videos with the `chosen` detections."""
    labels = sorted({*truth.labels, *(chosen.labels[c] for c in np.unique(chosen.label))})
    label_id = {label: index for index, label in enumerate(labels)}
    own: dict[str, list] = {}
    rows = zip(match_videos(chosen.videos, truth.videos)[chosen.video].tolist(), chosen.label.tolist(),
               chosen.segments.tolist(), chosen.scores.tolist())
    for video, label, segment, score in rows:
        row = {'label': chosen.labels[label], 'segment': segment, 'score': score}
        own.setdefault(truth.videos[video], []).append(row)

    written = {}
    for name, replaced, duration in zip(truth.videos, labelled.tolist(), truth.durations.tolist()):
        entry: dict[str, Any] = {**database[name]}
        timed = [row for row in entry.get('annotations') or [] if 'segment' in row]
        entry['annotations'] = [{**row, 'label_id': label_id[row['label']]}
                                for row in (own.get(name, []) if replaced else timed)]
        if not math.isnan(duration):
            entry['duration'] = duration
        if fps and type(entry.get('fps')) not in (int, float):
            entry['fps'] = fps
        if fps and not math.isnan(duration):
            entry.setdefault('frame', round(duration * entry['fps']))
        written[name] = entry
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.pseudo_labels', description='Detections on training videos as annotations.')
    parser.add_argument('ground_truth', metavar='GT.json', help='tells subset and duration of every video')
    parser.add_argument('detections', metavar='DETECTIONS.json', help='on training videos')
    parser.add_argument('-o', '--output', required=True, metavar='FILE', help='the annotations, as JSON')
    parser.add_argument('--subset', metavar='NAME', help='what to label (default: that of the videos with detections)')
    parser.add_argument('--min_score', type=number(float, -math.inf, math.inf), default=-math.inf, metavar='S',
                        help='leave out detections below it (default: none)')
    parser.add_argument('--top', type=number(int, 1), metavar='K', help='the K best of each class in a video alone')
    parser.add_argument('--known_labels', action='store_true',
                        help='only labels that the ground truth has for the video')
    parser.add_argument('--fps', type=number(float, 1e-3, 1e6), metavar='F',
                        help='frames a second of videos for which the ground truth does not tell')
    parser.add_argument('--overwrite', action='store_true', help='also write over a file that holds no pseudo labels')
    args = parser.parse_args(arguments)
    return run_cli(lambda: write_file(args))


def write_file(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    refuse_overwriting_inputs([args.ground_truth, args.detections], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, rf'{{\s*"version": "{VERSION}')
    truth, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    database = read_json(args.ground_truth)['database']
    labelled = detected_subset(truth, detections, args.subset)
    listed = match_videos(detections.videos, truth.videos)
    inside = (listed >= 0) & labelled[listed]
    chosen = choose(truth, select_detections(detections, inside[detections.video]), args.min_score, args.top,
                    args.known_labels)
    if not len(chosen.scores):
        raise InputError(f'{args.detections}: no detection is left to be a pseudo label; lower --min_score')
    written = pseudo_database(database, truth, labelled, chosen, args.fps)
    if not inside.all():
        warn(f'{plural(int((~inside).sum()), "video")} with detections of another subset, or of none, left out')
    for key, reader in (('duration', 'OpenTAD needs'), ('fps', 'ActionFormer needs, unless its own settings say it'),
                        ('frame', 'OpenTAD needs')):
        without = sum(key not in entry for entry in written.values())
        if without:
            warn(f'{plural(without, "video")} without "{key}", which {reader}'
                 + ('' if key == 'duration' else ': see --fps'))
    write_json(args.output, {'version': VERSION, 'database': written})
    empty = int(labelled.sum()) - len(np.unique(chosen.video))
    print(f'{args.output}: {plural(len(chosen.scores), "pseudo label")} in '
          f'{plural(len(np.unique(chosen.video)), "video")}, {plural(empty, "video")} of the subset without any',
          flush=True)


if __name__ == '__main__':
    sys.exit(main())
