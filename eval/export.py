"""Export events to annotation tools: ELAN, BORIS, Audacity, Label Studio.

    python -m eval.export events.csv --to elan -o annotations --videos clips
    python -m eval.export events.csv --to boris -o annotations --fps 25
    python -m eval.export detections.json --min_score 0.6 --to audacity -o annotations
    python -m eval.export events.csv --to label_studio --fps 25 -o tasks.json

From a detections.json, the events that `eval.events` selects by default are exported, or with --min_score all
detections of at least this score that do not overlap a better one. For ELAN, BORIS and Audacity, `-o` is a folder for
one file per video, named after it; for Label Studio, one file of all videos.

ELAN: an .eaf file in the format of its schema EAFv3.0.xsd: one tier per class, integer milliseconds.

BORIS: the table of its events, to paste into an observation of the video (copy the whole file, then "Paste events"):
time, subject, code, modifier, comment and frame index, separated by tabs, without a header and without a line end after
the last row, as BORIS requires. An event is a state event with two rows, START and STOP. The frame index is NA without
--fps. The ethogram needs the classes as behaviors.

Audacity: a label track (File > Import > Labels): start, end and label, separated by tabs.

Label Studio: tasks with predictions for a labeling configuration with <Video name="video" value="$video"/> and
<TimelineLabels name="events" toName="video">. Frames count from 1, both ends included.
"""
import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from mimetypes import guess_type
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote as quote_url
from xml.etree import ElementTree

import numpy as np

from eval.events import EventOptions, negative_scores, read_events, select_events
from eval.subtitles import file_name
from formats.detections import Detections, read_detections, select_detections
from formats.videos import find_videos
from utils import (
    InputError,
    Parser,
    bounded,
    make_dir,
    plural,
    printable,
    read_bytes,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    warn,
    write_text,
)

SCHEMA = 'http://www.mpi.nl/tools/elan/EAFv3.0.xsd'


class Event(NamedTuple):
    """One event of a video."""

    label: str
    start: float  # seconds
    end: float
    score: float


def events_by_video(events: Detections) -> dict[str, list[Event]]:
    """Return the events of every video, by start."""
    by_video: dict[str, list[Event]] = {name: [] for name in events.videos}
    order = np.lexsort((events.label, events.segments[:, 0]))
    columns = events.video, events.label, *events.segments.T, events.scores
    for video, label, start, end, score in zip(*(column[order].tolist() for column in columns)):
        by_video[events.videos[video]].append(Event(printable(events.labels[label]), max(0.0, start), end, score))
    return by_video


# ---- the formats ----------------------------------------------------------------------------------------------------

def to_elan(events: list[Event], video: str, file: Path | None, fps: float | None) -> str:
    """Return an ELAN document with a tier per class; raises InputError where events of a class overlap."""
    root = ElementTree.Element('ANNOTATION_DOCUMENT', {
        'AUTHOR': 'AICL', 'DATE': '1970-01-01T00:00:00Z', 'FORMAT': '3.0', 'VERSION': '3.0',
        'xmlns:xsi': 'http://www.w3.org/2001/XMLSchema-instance', 'xsi:noNamespaceSchemaLocation': SCHEMA})
    header = ElementTree.SubElement(root, 'HEADER', {'MEDIA_FILE': '', 'TIME_UNITS': 'milliseconds'})
    if file is not None:
        ElementTree.SubElement(header, 'MEDIA_DESCRIPTOR', {
            'MEDIA_URL': file.absolute().as_uri(), 'MIME_TYPE': guess_type(file.name)[0] or 'video/mp4',
            'RELATIVE_MEDIA_URL': './' + quote_url(file.name)})
    order = ElementTree.SubElement(root, 'TIME_ORDER')
    number = 0
    for label in sorted({event.label for event in events}):
        tier = ElementTree.SubElement(root, 'TIER', {'TIER_ID': label, 'LINGUISTIC_TYPE_REF': 'default-lt'})
        last = 0
        for event in (event for event in events if event.label == label):
            start, end = round(1000 * event.start), round(1000 * event.end)
            if start < last:
                raise InputError(f'video {video!r}: events of {label!r} overlap at {event.start:g} s, which a tier of '
                                 'ELAN cannot contain; correct them in the CSV file')
            last = end = max(end, start + 1)  # ELAN has no annotation without a duration
            number += 1
            annotation = ElementTree.SubElement(ElementTree.SubElement(tier, 'ANNOTATION'), 'ALIGNABLE_ANNOTATION', {
                'ANNOTATION_ID': f'a{number}', 'TIME_SLOT_REF1': f'ts{2 * number - 1}',
                'TIME_SLOT_REF2': f'ts{2 * number}'})
            ElementTree.SubElement(annotation, 'ANNOTATION_VALUE').text = f'{label} {event.score:.2f}'
            for slot, time in ((2 * number - 1, start), (2 * number, end)):
                ElementTree.SubElement(order, 'TIME_SLOT', {'TIME_SLOT_ID': f'ts{slot}', 'TIME_VALUE': str(time)})
    ElementTree.SubElement(root, 'LINGUISTIC_TYPE', {
        'GRAPHIC_REFERENCES': 'false', 'LINGUISTIC_TYPE_ID': 'default-lt', 'TIME_ALIGNABLE': 'true'})
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, 'unicode') + '\n'


def to_boris(events: list[Event], video: str, file: Path | None, fps: float | None) -> str:
    """Return rows to paste into the events of a BORIS observation."""
    rows = []
    for event in events:
        for time, comment in ((event.start, f'START {event.score:.2f}'), (event.end, 'STOP')):
            frame = 'NA' if fps is None else str(round(time * fps))
            rows.append((time, comment != 'STOP', f'{time:.3f}\t\t{event.label}\t\t{comment}\t{frame}'))
    return '\n'.join(text for *_, text in sorted(rows))


def to_audacity(events: list[Event], video: str, file: Path | None, fps: float | None) -> str:
    """Return a label track."""
    return ''.join(f'{event.start:.6f}\t{event.end:.6f}\t{event.label}\n' for event in events)


def to_label_studio(events: Mapping[str, list[Event]], files: Mapping[str, Path], fps: float) -> str:
    """Return a task with one prediction for every video."""
    tasks = []
    for video, own in events.items():
        results = []
        for number, event in enumerate(own, 1):
            first = round(event.start * fps) + 1
            results.append({
                'id': f'event{number}', 'from_name': 'events', 'to_name': 'video', 'type': 'timelinelabels',
                'value': {'ranges': [{'start': first, 'end': max(first, round(event.end * fps))}],
                          'timelinelabels': [event.label]},
                'score': event.score})
        tasks.append({'data': {'video': files[video].name if video in files else video},
                      'predictions': [{'model_version': 'AICL', 'result': results}]})
    return json.dumps(tasks, indent=2) + '\n'


class Format(NamedTuple):
    """How a tool's file of one video is written."""

    suffix: str
    write: Callable[[list[Event], str, Path | None, float | None], str]
    signature: str  # how its files begin


FORMATS = {
    'elan': Format('.eaf', to_elan, r'<\?xml[^>]*>\s*<ANNOTATION_DOCUMENT AUTHOR="AICL"'),
    'boris': Format('.tsv', to_boris, r'[\d.]+\t\t[^\t\n]*\t\tSTART '),
    'audacity': Format('.txt', to_audacity, r'[\d.]+\t[\d.]+\t'),
}
LABEL_STUDIO_SIGNATURE = r'\[\]|\[\s*\{\s*"data": \{\s*"video"'


# ---- the command ----------------------------------------------------------------------------------------------------

def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = Parser(prog='python -m eval.export', description='Write events for an annotation tool.')
    parser.add_argument('events', metavar='EVENTS.csv', help='or a detections.json')
    parser.add_argument('--to', required=True, choices=[*FORMATS, 'label_studio'], help='annotation tool')
    parser.add_argument('-o', '--output', required=True, metavar='PATH',
                        help='folder for one file per video; for label_studio one file')
    parser.add_argument('--min_score', type=bounded(float, -math.inf, math.inf), metavar='S',
                        help='minimum score of an event (default: all events)')
    parser.add_argument('--fps', type=bounded(float, 1e-3, 1e6), help='frame rate of the videos (label_studio, boris)')
    parser.add_argument('--videos', metavar='DIR', help='folder of the annotated video files')
    parser.add_argument('--overwrite', action='store_true', help='overwrite files that this command did not write')
    args = parser.parse_args(argv)
    if args.to == 'label_studio' and args.fps is None:
        parser.error('--to label_studio needs --fps, the frame rate of the videos: its times are frames')
    return run_cli(lambda: run(args))


def run(args: argparse.Namespace) -> None:
    """Export the events of a file."""
    refuse_overwriting_inputs([args.events], args.output)
    events = load_events(args.events, args.min_score)
    by_video = events_by_video(events)
    files = {name: Path(file) for name, file in
             (find_videos(args.videos, events.videos) if args.videos else {}).items()}
    if args.to == 'label_studio':
        if not args.overwrite:
            refuse_overwriting_foreign(args.output, LABEL_STUDIO_SIGNATURE)
        write_text(args.output, to_label_studio(by_video, files, args.fps))
        paths = [Path(args.output)]
    else:
        paths = write_files(Path(args.output), by_video, files, FORMATS[args.to], args.fps, args.overwrite)
    print(f'{args.output}: {plural(len(events.scores), "event")} in {plural(len(paths), "file")}', flush=True)


def load_events(path: str | os.PathLike, min_score: float | None) -> Detections:
    """Return the events of an events.csv or a detections.json."""
    if not read_bytes(path).lstrip(b'\xef\xbb\xbf \t\r\n').startswith(b'{'):
        events = read_events(path)
        return events if min_score is None else select_detections(events, events.scores >= min_score)
    options = EventOptions() if min_score is None else EventOptions(share=0, min_score=min_score)
    detections = read_detections(path)
    if negative_scores(detections, options):
        warn(f'{path}: contains videos with negative scores only, which have no events without --min_score')
    return select_events(detections, options)


def write_files(folder: Path, events: Mapping[str, list[Event]], files: Mapping[str, Path], form: Format,
                fps: float | None, overwrite: bool) -> list[Path]:
    """Write a file per video into `folder`, which is created, and return the paths."""
    texts = {folder / (file_name(video) + form.suffix): form.write(own, video, files.get(video), fps)
             for video, own in events.items()}
    make_dir(folder)
    for path in texts:
        if not overwrite:
            refuse_overwriting_foreign(path, form.signature)
    for path, text in texts.items():
        write_text(path, text)
    return list(texts)


if __name__ == '__main__':
    sys.exit(main())
