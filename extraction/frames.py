"""The frames of a video file at a constant rate, resized, one after the other: those of FFmpeg's `fps` filter.

Decoding, the `fps` filter, resizing, rotation and the conversion to RGB are FFmpeg's, through PyAV. Frame `i` is what a
player shows `i / fps` seconds after it starts: times count from the beginning of the file, as FFmpeg counts them, and
where its pictures begin later than its sound the first one is shown until then.
"""
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from os import fspath
from pathlib import Path

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.stream import VideoStream

from utils import InputError, plural, truncate, warn

# Without the latter two FFmpeg converts even widths by a table that is off by one or two grey levels.
BILINEAR = 'bilinear+accurate_rnd+full_chroma_int'
MISSING = 0.1    # share of the promised length without which a video is cut off
MEND = 'download it again, or mend it (ffmpeg -i OLD -c:v libx264 NEW.mp4)'


class BadVideo(InputError):
    """A video that cannot be used; others may be."""


# ---- files ----------------------------------------------------------------------------------------------------------

@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """A video file and its stream of pictures. Raises BadVideo, for FFmpeg's errors inside the block too."""
    try:
        if not path.stat().st_size:
            raise BadVideo(f'{path}: is empty; {MEND}')
        with av.open(f'file:{fspath(path)}', metadata_errors='replace') as container:    # no other protocol, no URL
            yield container, picture_stream(path, container)
    except av.FFmpegError as error:
        reason = truncate(error.strerror or error)
        raise BadVideo(f'{path}: not a video that can be read ({reason}); {MEND}') from None
    except OSError as error:
        raise BadVideo(f'{path}: cannot be read: {error.strerror}') from None


def picture_stream(path: Path, container: InputContainer) -> VideoStream:
    """The stream that a player would show; cover pictures of music are none."""
    best = container.streams.best('video')
    streams = [best, *container.streams.video] if isinstance(best, VideoStream) else []
    for stream in streams:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams if stream.type != 'video'})
    raise BadVideo(f'{path}: holds no moving pictures, only {" and ".join(kinds) or "one"}; give a video')


def promised_duration(path: Path) -> float:
    """The seconds that a video says it lasts, 0 if it does not say; nothing is decoded. Raises BadVideo."""
    with opened(path) as (container, stream):
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / av.time_base


# ---- sizes ----------------------------------------------------------------------------------------------------------

def parse_resize(resize: str) -> tuple[str, int, int]:
    """('short', N, N) for shortN, ('fixed', W, H) for WxH and squashN. Raises ValueError for anything else."""
    found = re.fullmatch(r'short(?P<short>\d{2,4})|squash(?P<squash>\d{2,4})|(?P<width>\d{2,4})x(?P<height>\d{2,4})',
                         resize)
    if not found:
        raise ValueError(f'{resize!r} is not like short256, 340x256 or squash224')
    if found['short']:
        return 'short', int(found['short']), int(found['short'])
    return 'fixed', int(found['width'] or found['squash']), int(found['height'] or found['squash'])


def target_size(resize: str, width: int, height: int) -> tuple[int, int]:
    """Width and height that frames of a given size are resized to, as `parse_resize` reads it.

    shortN keeps their shape and makes the shorter side N; WxH and squashN (NxN) do not keep it.
    """
    kind, new_width, new_height = parse_resize(resize)
    if kind == 'short':
        factor = new_width / min(width, height)
        new_width, new_height = round(width * factor), round(height * factor)
    return new_width, new_height


# ---- frames ---------------------------------------------------------------------------------------------------------

def read_frames(path: Path, fps: float = 25, resize: str = 'short256') -> Generator[np.ndarray, None, None]:
    """The frames of a video as it is shown, each (H, W, 3) uint8 RGB, bilinearly resized as `target_size` says.

    Nothing but a few frames is held at a time. Raises BadVideo where the file is none, is damaged or is cut.
    """
    for frame in decode(path, fps, resize):
        yield frame.to_ndarray()


def decode(path: Path, fps: float, resize: str | None = None) -> Iterator[av.VideoFrame]:
    """The frames of a video at a constant rate; their `pts` counts them.

    Without `resize` they are as they were stored: neither resized nor turned nor converted. Raises as `read_frames`.
    """
    with opened(path) as (container, stream):
        stream.thread_type = 'AUTO'
        begin = Fraction(container.start_time or 0, av.time_base)
        graph, repaired = None, 0
        for frame in pictures(path, container, stream):
            if frame.pts is None or frame.time_base is None:
                continue
            if graph is None:
                graph = build_graph(stream, frame, fps, resize)
            frame.pts -= round(begin / frame.time_base)
            repaired += frame.is_corrupt
            graph.push(frame)
            yield from filtered(graph)
        if graph is None:
            raise BadVideo(f'{path}: holds no picture that can be decoded and has a time; {MEND}')
        graph.push(None)
        yield from filtered(graph)
    if repaired:
        warn(f'{path}: {plural(repaired, "damaged picture")} repaired by the decoder')


def pictures(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The frames as they are stored.

    What cannot be decoded before the first, as in a recording that began in the midst of things, is passed over. After
    it, it is a BadVideo, and so is a file that ends, with all of its streams, before it should.
    """
    time, reached = None, Fraction(container.start_time or 0, av.time_base)
    end = reached + Fraction(container.duration or 0, av.time_base)
    for packet in container.demux():
        if packet.pts is not None and packet.time_base is not None:
            reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.stream.index != stream.index:
            continue
        try:
            frames = stream.decode(packet)
        except av.FFmpegError as error:
            if time is None:
                continue
            raise BadVideo(f'{path}: damaged after {time:.1f} seconds ({truncate(error.strerror)}); {MEND}') from None
        for frame in frames:
            time = frame.time if frame.time is not None else time or 0.
            yield frame
    missing = float(end - reached)
    if missing > MISSING * (container.duration or 0) / av.time_base:
        raise BadVideo(f'{path}: its last {missing:.1f} seconds are missing; {MEND}')


def build_graph(stream: VideoStream, first: av.VideoFrame, fps: float, resize: str | None) -> Graph:
    """The filters that frames go through."""
    rate = Fraction(str(fps))
    filters = [('fps', f'fps={rate.numerator}/{rate.denominator}:start_time=0')]
    if resize:
        turns = display_turns(first)
        width, height = first.width, first.height
        if 'transpose' in turns:    # after scaling: smaller frames are turned faster
            height, width = target_size(resize, height, width)
        else:
            width, height = target_size(resize, width, height)
        filters += [('scale', f'{width}:{height}:flags={BILINEAR}'), ('format', 'rgb24')]
        filters += [(name, 'dir=cclock_flip' if name == 'transpose' else '') for name in turns]
    graph = Graph()
    last = graph.add_buffer(template=stream, width=first.width, height=first.height, format=first.format,
                            time_base=first.time_base)
    for name, options in filters:
        following = graph.add(name, options)
        last.link_to(following)
        last = following
    last.link_to(graph.add('buffersink'))
    graph.configure()
    return graph


def filtered(graph: Graph) -> Iterator[av.VideoFrame]:
    """The frames that are ready behind the filters."""
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield frame


def display_turns(frame: av.VideoFrame) -> list[str]:
    """The filters, in their order, that turn a stored frame as a player shows it.

    Phones store a video as the sensor lies and how it was held as a matrix: (x, y) is shown at (a x + c y, b x + d y).
    """
    sides: Mapping[str, object] = frame.side_data
    matrix = sides.get('DISPLAYMATRIX')
    if not isinstance(matrix, Buffer):
        return []
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    turns = []
    if abs(b) > abs(a):
        turns.append('transpose')
        a, d = c, b
    return turns + ['hflip'] * (a < 0) + ['vflip'] * (d < 0)
