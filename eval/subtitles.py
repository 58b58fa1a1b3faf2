"""Write events as subtitles, for any video player.

    python -m eval.subtitles detections.json -o subtitles --min_score 0.3
    python -m eval.subtitles detections.json -o subtitles --format vtt

One file per video, with its name and one cue per event. Cues do not overlap, because few players show two at once:
where events of several classes overlap, a cue has one line per class, sorted by score.
"""
import argparse
import hashlib
import html
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from eval.events import EventOptions, add_arguments, select_events
from formats.detections import Detections, read_detections
from utils import Parser, make_dir, plural, printable, refuse_overwriting_foreign, run_cli, write_text

# How the files written here begin, so that other subtitles are not overwritten.
SIGNATURE = {'srt': r'1\n[\d:,]+ --> [\d:,]+\n.* -?\d+\.\d\d\n', 'vtt': r'WEBVTT - detections\n'}


def write_subtitles(folder: str | Path, events: Detections, form: str = 'srt', overwrite: bool = False) -> list[Path]:
    """Write a file for every video into `folder`, which is created, and return the paths.

    `events` are those of `eval.events.select_events`; `form` is 'srt' or 'vtt'. Raises InputError if a file cannot be
    written, or, without `overwrite`, would replace other subtitles.
    """
    make_dir(Path(folder))
    paths = [Path(folder) / f'{file_name(video)}.{form}' for video in events.videos]
    if not overwrite:
        for path in paths:
            refuse_overwriting_foreign(path, SIGNATURE[form])
    rows = np.argsort(events.video, kind='stable')
    ends = np.searchsorted(events.video[rows], np.arange(len(paths) + 1))
    for path, first, last in zip(paths, ends, ends[1:]):
        write_text(path, subtitles(events, rows[first:last], form))
    return paths


def subtitles(events: Detections, rows: np.ndarray, form: str) -> str:
    """Return the subtitles of the events `rows` (n,) of one video."""
    cues = list(_cues(events, rows))
    if form == 'vtt':
        blocks = ['WEBVTT - detections\n', *(f'{_time(start, ".")} --> {_time(end, ".")}\n{html.escape(text, False)}\n'
                                             for start, end, text in cues)]
    else:
        blocks = [f'{i}\n{_time(start, ",")} --> {_time(end, ",")}\n{text.replace("-->", "->")}\n'
                  for i, (start, end, text) in enumerate(cues, 1)]
    return '\n'.join(blocks)


def _cues(events: Detections, rows: np.ndarray) -> Iterator[tuple[int, int, str]]:
    """Yield start and end in milliseconds and the text of every cue, in the order of time; no text follows itself."""
    times = np.rint(1000 * np.maximum(events.segments[rows], 0)).astype(np.int64)
    edges, edge_index = np.unique(times, return_inverse=True)
    labels, label_index = np.unique(events.label[rows], return_inverse=True)
    best = np.full((len(labels), len(edges)), -np.inf)  # score of each class from one edge to the next
    for i in np.argsort(events.scores[rows], kind='stable'):
        start, end = edge_index.reshape(-1, 2)[i]
        best[label_index[i], start:end] = events.scores[rows[i]]

    names = [printable(events.labels[label]) for label in labels]
    cue_start, cue_text = 0, ''
    for edge, scores in zip(edges.tolist(), best.T):
        order = np.argsort(-scores, kind='stable')
        text = '\n'.join(f'{names[i]} {scores[i]:.2f}' for i in order if scores[i] > -np.inf)
        if text != cue_text:
            if cue_text:
                yield cue_start, edge, cue_text
            cue_start, cue_text = edge, text


def _time(milliseconds: int, point: str) -> str:
    """Return a time as subtitles spell it, with this decimal point."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    return f'{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{milliseconds:03}'


def file_name(video: str) -> str:
    """Return a file name without a path separator, different for different videos; a long one is cut."""
    name = re.sub(r'[%/\\\0]', lambda match: f'%{ord(match[0]):02X}', video)
    if len(name.encode()) <= 200:  # file systems allow 255 bytes, which include a suffix and that of a temporary file
        return name
    return f'{name.encode()[:180].decode(errors="ignore")}%{hashlib.sha256(video.encode()).hexdigest()[:12]}'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.subtitles', description='Write events as subtitles, one file per video.')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    parser.add_argument('-o', '--output', required=True, metavar='DIR', help='folder for the subtitles')
    add_arguments(parser)
    parser.add_argument('--format', choices=SIGNATURE, default='srt',
                        help='srt for players, vtt for web pages (default: srt)')
    parser.add_argument('--overwrite', action='store_true', help='overwrite subtitles that this command did not write')
    args = parser.parse_args(argv)
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Write the subtitles of a result file."""
    events = select_events(read_detections(args.detections), EventOptions(args.share, args.overlap, args.min_score))
    paths = write_subtitles(args.output, events, args.format, args.overwrite)
    print(f'{args.output}: {plural(len(paths), "file")}', flush=True)


if __name__ == '__main__':
    sys.exit(main())
