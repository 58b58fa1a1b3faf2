"""Detections: detections.json and detections.csv."""
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import orjson

from formats.annotations import GroundTruth, _ground_truth
from formats.columns import (gc_paused, _blocks, _check, _check_types, _check_videos, _labels, _numbering, _numbers, _read, _segments, _sort_labels, _values, _videos_of_rows)
from utils import InputError, quote, write_bytes, write_text



class Detections(NamedTuple):
    """R detections in the file's order."""
    videos: list[str]  # every key of "results", also those with an empty list
    labels: list[str]  # the labels used, sorted (ASCII)
    video: np.ndarray  # (R,) int64 index into videos
    label: np.ndarray  # (R,) int64 index into labels
    segments: np.ndarray  # (R, 2) float64 seconds
    scores: np.ndarray  # (R,) float64



def select_detections(detections: Detections, keep: np.ndarray) -> Detections:
    """The detections where `keep` (R,) bool is true; `videos` and `labels` stay as they are."""
    return detections._replace(video=detections.video[keep], label=detections.label[keep],
                               segments=detections.segments[keep], scores=detections.scores[keep])



def read_detections(path: str | os.PathLike) -> Detections:
    """Reads a detections.json; the key of a score is `score`, or `score300` as in the released files.

    Raises InputError naming file, video and mend for anything that is not of the form above.
    """
    return _read(path, {'results': _detections}, 'detections')



def read_any(path: str | os.PathLike) -> GroundTruth | Detections:
    """Reads a file of ground truth or of detections, whichever it is."""
    return _read(path, {'database': _ground_truth, 'results': _detections}, 'ground truth or detections')



def parse_detections(results: dict[str, Any], path: str | os.PathLike = 'detections') -> Detections:
    """What `read_detections` gives for the value of "results"; messages name it by `path`."""
    return _detections(results, path)[0]



def _detections(results: dict[str, Any], path: str | os.PathLike) -> tuple[Detections, int]:
    """The detections, and how many keys they have."""
    _check_videos(path, results)
    _check_types(results.values(), {list}, lambda index: f'{path}: video {quote(list(results)[index])}',
                 'must have a list of detections')
    video = _videos_of_rows(results)
    label, segments, scores = np.zeros(len(video), np.int64), np.zeros((len(video), 2)), np.zeros(len(video))
    numbers, keys = _numbering(), 0
    for at, rows, where in _blocks(path, results, 'detection'):
        label[at] = _labels(rows, numbers, where)
        segments[at] = _segments(_values(rows, 'segment'), where)
        scores[at] = _numbers(_values(rows, 'score', 'score300'))
        _check(np.isfinite(scores[at]), where, 'needs a "score" that is a finite number')
        keys += sum(map(len, rows))
    labels, label = _sort_labels(path, numbers, label)
    return Detections(list(results), labels, video, label, segments, scores), keys



@gc_paused()
def write_detections(path: str | os.PathLike, detections: Detections) -> None:
    """Writes a detections.json, video by video; a video without detections gets an empty list.

    Raises ValueError for NaN and infinity, which JSON cannot hold.
    """
    if not (np.isfinite(detections.scores).all() and np.isfinite(detections.segments).all()):
        raise ValueError('scores and segments must be finite')
    order = np.argsort(detections.video, kind='stable')
    ends = np.searchsorted(detections.video[order], np.arange(len(detections.videos)), 'right').tolist()
    names = [_writable(name) for name in detections.labels]
    columns = detections.label[order], detections.scores[order], detections.segments[order]
    rows = [{'label': names[label], 'score': score, 'segment': segment}
            for label, score, segment in zip(*(column.tolist() for column in columns))]
    results = {_writable(video): rows[start:end]
               for video, start, end in zip(detections.videos, [0, *ends], ends)}
    write_bytes(path, orjson.dumps({'version': 'VERSION 1.3', 'results': results, 'external_data': {}}))



def write_detections_csv(path: str | os.PathLike, detections: Detections) -> None:
    """Writes a table of detections in the order of the rows, one line each: video, label, start, end, score."""
    def cell(name: str) -> str:
        name = _writable(name)
        return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name

    videos, labels = (list(map(cell, names)) for names in (detections.videos, detections.labels))
    columns = detections.video, detections.label, *detections.segments.T, detections.scores
    lines = [f'{videos[video]},{labels[label]},{start},{end},{score}\n'
             for video, label, start, end, score in zip(*(column.tolist() for column in columns))]
    write_text(path, 'video,label,start,end,score\n' + ''.join(lines))



def _writable(name: str) -> str:
    """A name as UTF-8 can hold it: lone surrogates, which stand in file names that are no UTF-8, are escaped."""
    return name.encode('utf-8', 'backslashreplace').decode()

