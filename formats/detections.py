"""Detections: read detections.json, write detections.json and detections.csv.

    detections = read_detections('detections.json')  # any file of the ActivityNet format
    good = select_detections(detections, detections.scores > 0.5)
    write_detections('good.json', good)
"""
import os
from typing import Any, NamedTuple

import numpy as np
import orjson

from formats.annotations import GroundTruth, build_ground_truth
from formats.columns import (
    check_all,
    check_types,
    check_video_names,
    gc_paused,
    label_column,
    label_ids,
    read_file,
    row_blocks,
    segment_column,
    sort_labels,
    to_float64,
    values_of,
    video_column,
)
from utils import quote, write_bytes, write_text


class Detections(NamedTuple):
    """R detections in V videos, in the order of the file."""

    videos: list[str]  # (V,) every key of "results", also those with an empty list
    labels: list[str]  # the labels used, sorted (ASCII)
    video: np.ndarray  # (R,) int64 index into videos
    label: np.ndarray  # (R,) int64 index into labels
    segments: np.ndarray  # (R, 2) float64 seconds
    scores: np.ndarray  # (R,) float64
    known_labels: bool = False  # of the given labels of each video, not of predicted classes


def select_detections(detections: Detections, mask: np.ndarray) -> Detections:
    """Return the detections where `mask` (R,) bool is true; `videos` and `labels` are unchanged."""
    return detections._replace(video=detections.video[mask], label=detections.label[mask],
                               segments=detections.segments[mask], scores=detections.scores[mask])


# ---- reading --------------------------------------------------------------------------------------------------------

def read_detections(path: str | os.PathLike) -> Detections:
    """Read a detections.json: `{"results": {video: [{"label": ..., "segment": [start, end], "score": ...}]}}`.

    The key of a score is `score`, or `score300` as in the released files. Raises InputError with the file, the video
    and the fix for anything else.
    """
    return read_file(path, {'results': build_detections}, 'detections')


def read_any(path: str | os.PathLike) -> GroundTruth | Detections:
    """Read a file of either ground truth or detections."""
    return read_file(path, {'database': build_ground_truth, 'results': build_detections}, 'ground truth or detections')


def parse_detections(results: dict[str, Any], path: str | os.PathLike = 'detections') -> Detections:
    """Return the detections in the value of "results", as `read_detections`; messages contain `path`."""
    return build_detections({'results': results}, path)[0]


def build_detections(content: dict[str, Any], path: str | os.PathLike) -> tuple[Detections, int]:
    """Return the detections and the number of JSON keys in their rows; see `columns.Builder`."""
    results, external = content['results'], content.get('external_data')
    check_video_names(path, results)
    check_types(results.values(), {list}, lambda index: f'{path}: video {quote(list(results)[index])}',
                'must have a list of detections')
    video = video_column(results)
    label, segments, scores = np.zeros(len(video), np.int64), np.zeros((len(video), 2)), np.zeros(len(video))
    ids, num_keys = label_ids(), 0
    for block, rows, location in row_blocks(path, results, 'detection'):
        label[block] = label_column(rows, ids, location)
        segments[block] = segment_column(values_of(rows, 'segment'), location)
        scores[block] = to_float64(values_of(rows, 'score', 'score300'))
        check_all(np.isfinite(scores[block]), location, 'needs a "score" that is a finite number')
        num_keys += sum(map(len, rows))
    labels, label = sort_labels(path, ids, label)
    known_labels = isinstance(external, dict) and external.get('known_labels') is True
    return Detections(list(results), labels, video, label, segments, scores, known_labels), num_keys


# ---- writing --------------------------------------------------------------------------------------------------------

@gc_paused()
def write_detections(path: str | os.PathLike, detections: Detections) -> None:
    """Write a detections.json, video by video; a video without detections gets an empty list.

    Raises ValueError for NaN and infinity, which JSON cannot represent.
    """
    if not (np.isfinite(detections.scores).all() and np.isfinite(detections.segments).all()):
        raise ValueError('scores and segments must be finite')
    order = np.argsort(detections.video, kind='stable')
    ends = np.searchsorted(detections.video[order], np.arange(len(detections.videos)), 'right').tolist()
    names = [_encodable(name) for name in detections.labels]
    columns = detections.label[order], detections.scores[order], detections.segments[order]
    rows = [{'label': names[label], 'score': score, 'segment': segment}
            for label, score, segment in zip(*(column.tolist() for column in columns))]
    results = {_encodable(video): rows[start:end]
               for video, start, end in zip(detections.videos, [0, *ends], ends)}
    external = {'known_labels': True} if detections.known_labels else {}
    write_bytes(path, orjson.dumps({'version': 'VERSION 1.3', 'results': results, 'external_data': external}))


def write_detections_csv(path: str | os.PathLike, detections: Detections) -> None:
    """Write detections as rows of video,label,start,end,score, by name and time, with at most four decimals."""
    def cell(name: str) -> str:
        name = _encodable(name)
        return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name

    videos, labels = (list(map(cell, names)) for names in (detections.videos, detections.labels))
    place = {name: i for i, name in enumerate(sorted(detections.videos))}
    rank = np.array([place[name] for name in detections.videos], np.int64)
    start, end = detections.segments.T
    order = np.lexsort((end, detections.label, start, rank[detections.video]))
    columns = [column[order].tolist() for column in (detections.video, detections.label, start, end, detections.scores)]
    lines = [f'{videos[video]},{labels[label]},{",".join(f"{round(value, 4) + 0.}" for value in numbers)}\n'  # no -0.0
             for video, label, *numbers in zip(*columns)]
    write_text(path, 'video,label,start,end,score\n' + ''.join(lines))


def _encodable(name: str) -> str:
    """Return a name that UTF-8 can encode: lone surrogates, from file names that are not UTF-8, are escaped."""
    return name.encode('utf-8', 'backslashreplace').decode()
