"""The frames of a video file at a constant rate, resized, in order: those of FFmpeg's `fps` filter.

Decoding, the `fps` filter, resizing, rotation and the conversion to RGB are FFmpeg's, through PyAV. Frame `i` is what a
player shows `i / fps` seconds after the start. Times are relative to the beginning of the file, as in FFmpeg; if the
video stream starts later than the audio, its first frame is repeated until then.
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

# Without the last two flags FFmpeg converts even widths by a table that is off by one or two gray levels.
BILINEAR = 'bilinear+accurate_rnd+full_chroma_int'
MAX_MISSING = 0.1  # share of the duration in the header that may be missing at the end
FIX = 'download it again, or repair it (ffmpeg -i OLD -c:v libx264 NEW.mp4)'


class BadVideo(InputError):
    """A video that cannot be used; other videos are still extracted."""


# ---- files ----------------------------------------------------------------------------------------------------------

@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and its video stream. Raises BadVideo, also for FFmpeg's errors inside the block."""
    try:
        if not path.stat().st_size:
            raise BadVideo(f'{path}: is empty; {FIX}')
        # The prefix excludes URLs and other protocols.
        with av.open(f'file:{fspath(path)}', metadata_errors='replace') as container:
            yield container, select_stream(path, container)
    except av.FFmpegError as error:
        reason = truncate(error.strerror or error)
        raise BadVideo(f'{path}: not a readable video ({reason}); {FIX}') from None
    except OSError as error:
        raise BadVideo(f'{path}: cannot be read: {error.strerror}') from None


def select_stream(path: Path, container: InputContainer) -> VideoStream:
    """Return the stream that a player would show; raises BadVideo where there are only cover images or audio."""
    best = container.streams.best('video')
    streams = [best, *container.streams.video] if isinstance(best, VideoStream) else []
    for stream in streams:
        if not stream.disposition & Disposition.attached_pic:
            return stream
    kinds = sorted({stream.type for stream in container.streams if stream.type != 'video'})
    raise BadVideo(f'{path}: contains no video, only {" and ".join(kinds) or "a cover image"}; use a video file')


def header_duration(path: Path) -> float:
    """Return the duration in seconds from the header, 0 if it is not set, without decoding. Raises BadVideo."""
    with open_video(path) as (container, stream):
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        return (container.duration or 0) / av.time_base


# ---- sizes ----------------------------------------------------------------------------------------------------------

def parse_resize(resize: str) -> tuple[str, int, int]:
    """Return ('short', N, N) for shortN, ('fixed', W, H) for WxH and squashN; raises ValueError for anything else."""
    match = re.fullmatch(r'short(?P<short>\d{2,4})|squash(?P<squash>\d{2,4})|(?P<width>\d{2,4})x(?P<height>\d{2,4})',
                         resize)
    if not match:
        raise ValueError(f'{resize!r} is not like short256, 340x256 or squash224')
    if match['short']:
        return 'short', int(match['short']), int(match['short'])
    return 'fixed', int(match['width'] or match['squash']), int(match['height'] or match['squash'])


def target_size(resize: str, width: int, height: int) -> tuple[int, int]:
    """Return the width and height to which frames of a given size are resized.

    shortN preserves the aspect ratio and makes the shorter side N; WxH and squashN (NxN) do not preserve it.
    """
    kind, new_width, new_height = parse_resize(resize)
    if kind == 'short':
        factor = new_width / min(width, height)
        new_width, new_height = round(width * factor), round(height * factor)
    return new_width, new_height


# ---- frames ---------------------------------------------------------------------------------------------------------

def read_frames(path: Path, fps: float = 25, resize: str = 'short256',
                threads: int = 0) -> Generator[np.ndarray, None, None]:
    """Yield the frames of a video as displayed, each (H, W, 3) uint8 RGB, bilinearly resized to `target_size`.

    threads: of the decoder, 0 for one per core. Only a few frames are in memory at a time. Raises BadVideo where the
    file is no video, damaged or truncated.
    """
    for frame in decode(path, fps, resize, threads):
        yield frame.to_ndarray()


def decode(path: Path, fps: float, resize: str | None = None, threads: int = 0) -> Iterator[av.VideoFrame]:
    """Yield the frames of a video at a constant rate; their `pts` is their index.

    Without `resize` they are as stored: not resized, rotated or converted. Raises as `read_frames`.
    """
    with open_video(path) as (container, stream):
        stream.thread_type = 'AUTO'
        stream.codec_context.thread_count = threads
        start = Fraction(container.start_time or 0, av.time_base)
        graph, num_corrupt = None, 0
        for frame in decode_packets(path, container, stream):
            if frame.pts is None or frame.time_base is None:
                continue
            if graph is None:
                graph = build_graph(stream, frame, fps, resize, threads)
            frame.pts -= round(start / frame.time_base)
            num_corrupt += frame.is_corrupt
            graph.push(frame)
            yield from drain_graph(graph)
        if graph is None:
            raise BadVideo(f'{path}: contains no decodable frame with a timestamp; {FIX}')
        graph.push(None)
        yield from drain_graph(graph)
    if num_corrupt:
        warn(f'{path}: {plural(num_corrupt, "damaged frame")} concealed by the decoder')


def decode_packets(path: Path, container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """Yield the frames as stored.

    Errors before the first frame are ignored: a recording may start between two keyframes. Raises BadVideo for later
    ones, and where all streams end before the duration in the header.
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
            raise BadVideo(f'{path}: damaged after {time:.1f} seconds ({truncate(error.strerror)}); {FIX}') from None
        for frame in frames:
            time = frame.time if frame.time is not None else time or 0.
            yield frame
    missing = float(end - reached)
    if missing > MAX_MISSING * (container.duration or 0) / av.time_base:
        raise BadVideo(f'{path}: the last {missing:.1f} seconds are missing; {FIX}')


def build_graph(stream: VideoStream, first: av.VideoFrame, fps: float, resize: str | None, threads: int) -> Graph:
    """Return the filter graph for a video whose first frame is `first`."""
    rate = Fraction(str(fps))
    filters = [('fps', f'fps={rate.numerator}/{rate.denominator}:start_time=0')]
    if resize:
        rotation = rotation_filters(first)
        width, height = first.width, first.height
        if 'transpose' in rotation:  # after scaling: smaller frames are rotated faster
            height, width = target_size(resize, height, width)
        else:
            width, height = target_size(resize, width, height)
        filters += [('scale', f'{width}:{height}:flags={BILINEAR}'), ('format', 'rgb24')]
        filters += [(name, 'dir=cclock_flip' if name == 'transpose' else '') for name in rotation]
    graph = Graph()
    graph.threads = threads
    last = graph.add_buffer(template=stream, width=first.width, height=first.height, format=first.format,
                            time_base=first.time_base)
    for name, options in filters:
        following = graph.add(name, options)
        last.link_to(following)
        last = following
    last.link_to(graph.add('buffersink'))
    graph.configure()
    return graph


def drain_graph(graph: Graph) -> Iterator[av.VideoFrame]:
    """Yield the frames that are ready at the output of the filter graph."""
    while True:
        try:
            frame = graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
        yield frame


def rotation_filters(frame: av.VideoFrame) -> list[str]:
    """Return the filters, in order, that rotate and flip a stored frame to its display orientation.

    Phones store the orientation as a matrix: the pixel (x, y) is displayed at (a x + c y, b x + d y).
    """
    sides: Mapping[str, object] = frame.side_data
    matrix = sides.get('DISPLAYMATRIX')
    if not isinstance(matrix, Buffer):
        return []
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    filters = []
    if abs(b) > abs(a):
        filters.append('transpose')
        a, d = c, b
    return filters + ['hflip'] * (a < 0) + ['vflip'] * (d < 0)
