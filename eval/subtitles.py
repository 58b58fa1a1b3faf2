"""Detections as subtitles: any player then shows what is detected while the video plays.

    python -m eval.subtitles detections.json -o subtitles --min_score 0.3
    python -m eval.subtitles detections.json -o subtitles --format vtt

Each video gets a file of its name. At every moment the classes detected there are shown, the best first, each once with
its best score. Cues do not overlap, because few players show two at once.
"""
import argparse
import html
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from formats.detections import Detections, read_detections
from utils import InputError, Parser, refuse_overwriting_foreign, bounded, plural, printable, run_cli, write_text

# How the files written here begin, so that nobody's own subtitles are written over.
OURS = {'srt': r'1\n[\d:,]+ --> [\d:,]+\n.* -?\d+\.\d\d\n', 'vtt': r'WEBVTT - detections\n'}


def write_subtitles(folder: str | Path, detections: Detections, min_score: float = -math.inf, form: str = 'srt',
                    overwrite: bool = False) -> list[Path]:
    """Writes a file for every video into `folder`, which is made; `form` is 'srt' or 'vtt'. The paths of the files.

    Raises InputError if one cannot be written, or, without `overwrite`, would replace other subtitles.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be made: {error.strerror}') from None
    paths = [Path(folder) / f'{_file_name(video)}.{form}' for video in detections.videos]
    if not overwrite:
        for path in paths:
            refuse_overwriting_foreign(path, OURS[form])
    rows = np.flatnonzero(detections.scores >= min_score)
    rows = rows[np.argsort(detections.video[rows], kind='stable')]
    ends = np.searchsorted(detections.video[rows], np.arange(len(paths) + 1))
    for path, first, last in zip(paths, ends, ends[1:]):
        write_text(path, subtitles(detections, rows[first:last], form))
    return paths


def subtitles(detections: Detections, rows: np.ndarray, form: str) -> str:
    """The subtitles of the detections `rows` (n,) of one video."""
    cues = list(_cues(detections, rows))
    if form == 'vtt':
        blocks = ['WEBVTT - detections\n', *(f'{_time(start, ".")} --> {_time(end, ".")}\n{html.escape(text, False)}\n'
                                             for start, end, text in cues)]
    else:
        blocks = [f'{i}\n{_time(start, ",")} --> {_time(end, ",")}\n{text.replace("-->", "->")}\n'
                  for i, (start, end, text) in enumerate(cues, 1)]
    return '\n'.join(blocks)


def _cues(detections: Detections, rows: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """Start and end in milliseconds, and the text, in the order of time; the text changes from one to the next."""
    times = np.rint(1000 * np.maximum(detections.segments[rows], 0)).astype(np.int64)
    edges, place = np.unique(times, return_inverse=True)
    labels, line = np.unique(detections.label[rows], return_inverse=True)
    best = np.full((len(labels), len(edges)), -np.inf)  # of each class from one edge to the next
    for i in np.argsort(detections.scores[rows], kind='stable'):
        start, end = place.reshape(-1, 2)[i]
        best[line[i], start:end] = detections.scores[rows[i]]

    names = [printable(detections.labels[label]) for label in labels]
    since, shown = 0, ''
    for edge, scores in zip(edges.tolist(), best.T):
        order = np.argsort(-scores, kind='stable')
        text = '\n'.join(f'{names[i]} {scores[i]:.2f}' for i in order if scores[i] > -np.inf)
        if text != shown:
            if shown:
                yield since, edge, shown
            since, shown = edge, text


def _time(milliseconds: int, point: str) -> str:
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f'{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{milliseconds:03}'


def _file_name(video: str) -> str:
    """A name that leads to no other folder; different videos have different ones."""
    return re.sub(r'[%/\\\0]', lambda match: f'%{ord(match[0]):02X}', video)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = Parser(prog='python -m eval.subtitles', description='Detections as subtitles, a file for each video.')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('-o', '--output', required=True, metavar='DIR', help='folder of the subtitles')
    parser.add_argument('--min_score', type=bounded(float, -math.inf, math.inf), default=-math.inf, metavar='S',
                        help='leave out detections below it (default: none)')
    parser.add_argument('--format', choices=OURS, default='srt', help='default: srt, for players; vtt is for pages')
    parser.add_argument('--overwrite', action='store_true', help='also write over subtitles that are not from here')
    args = parser.parse_args(arguments)
    return run_cli(lambda: write_files(args))


def write_files(args: argparse.Namespace) -> None:
    """Do what the command line says."""
    paths = write_subtitles(args.output, read_detections(args.detections), args.min_score, args.format, args.overwrite)
    print(f'{args.output}: {plural(len(paths), "file")}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
