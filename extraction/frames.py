"""The frames of a video file at a constant rate, resized, in order: those of FFmpeg's `fps` filter.

Decoding, the `fps` filter, resizing, rotation and the conversion to RGB are FFmpeg's, through PyAV. Frame `i` is what a
player shows `i / fps` seconds after the start. Times are relative to the beginning of the file, as in FFmpeg; if the
video stream starts later than the audio, its first frame is repeated until then. Where the timestamps of a file jump
(joined recordings, a damaged one), counting continues: see `Clock`.
"""
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, pairwise
from os import fspath
from pathlib import Path

import av
import numpy as np
from av.buffer import Buffer
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition
from av.video.stream import VideoStream

from utils import InputError, open_file, plural, truncate, warn

# Without the last two flags FFmpeg converts even widths by a table that is off by one or two gray levels.
BILINEAR = 'bilinear+accurate_rnd+full_chroma_int'
MAX_MISSING = 0.5  # seconds of the duration in the header that may be missing at the end
DISCONTINUOUS = 'mpegts', 'mpeg', 'ogg'  # formats whose clock may restart
MAX_GAP, MAX_GAP_DISCONTINUOUS = 600, 10  # seconds from one frame to the next; more is a jump. 10 is FFmpeg's
DISORDER = 0.5  # seconds; AVI files of H.264 contain timestamps in the order of decoding
MAX_PIXELS = 2 ** 24  # of a resized frame
FIX = 'download it again, or repair it (ffmpeg -i OLD -c:v libx264 NEW.mp4)'


class BadVideo(InputError):
    """A video that cannot be used; other videos are still extracted."""


# ---- files ----------------------------------------------------------------------------------------------------------

@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open a video file and its video stream.

    Raises BadVideo, also for whatever FFmpeg raises inside the block, and where the file is changed meanwhile.
    """
    try:
        with open_file(path) as file:
            before = os.fstat(file.fileno())
            if not before.st_size:
                raise BadVideo(f'{path}: is empty; {FIX}')
            # The prefix excludes URLs and other protocols.
            with av.open(f'file:{fspath(path)}', metadata_errors='replace') as container:
                yield container, select_stream(path, container)
            if any(fingerprint(now) != fingerprint(before) for now in (os.fstat(file.fileno()), os.stat(path))):
                raise BadVideo(f'{path}: was changed or replaced while it was read; run the same command again')
    except av.FFmpegError as error:
        reason = truncate(error.strerror or error)
        raise BadVideo(f'{path}: not a readable video ({reason}); {FIX}') from None
    except OSError as error:
        raise BadVideo(f'{path}: cannot be read: {error.strerror}') from None
    except InputError as error:
        raise BadVideo(str(error)) from None
    except Exception as error:  # a decoder or filter may raise anything for an odd file
        raise BadVideo(f'{path}: {describe(error)}; {FIX}') from None


def fingerprint(state: os.stat_result) -> tuple[int, ...]:
    """Return what changes when a file is written to or replaced."""
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


def describe(error: Exception) -> str:
    """Return an error of a library in one line."""
    return f'cannot be extracted ({type(error).__name__}: {truncate(error, 120)})'


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
        clock = Clock(path, container, stream)
        graph, num_corrupt, shape = None, 0, None
        for frame in clock.restamp(decode_packets(path, container, stream, clock)):
            current = frame.width, frame.height, rotation_filters(frame)
            if graph is None:
                graph, shape = build_graph(path, stream, frame, fps, resize, threads), current
            elif shape and current != shape:
                warn(f'{path}: its size or rotation changes after {frame.time:.1f} seconds; all frames are resized and '
                     f'rotated like the first one')
                shape = None  # once per video
            num_corrupt += frame.is_corrupt
            graph.push(frame)
            yield from drain_graph(graph)
        if graph is None:
            raise BadVideo(f'{path}: contains no decodable frame; {FIX}')
        graph.push(None)
        yield from drain_graph(graph)
        clock.report_jumps()
    if num_corrupt:
        warn(f'{path}: {plural(num_corrupt, "damaged frame")} concealed by the decoder')


def decode_packets(path: Path, container: InputContainer, stream: VideoStream,
                   clock: 'Clock') -> Iterator[av.VideoFrame]:
    """Yield the frames as stored.

    Errors before the first frame are ignored: a recording may start between two keyframes. Raises BadVideo for later
    ones, and where the streams end before the duration in the header.
    """
    time = None
    for packet in container.demux():
        clock.update(packet)
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
    if (missing := clock.missing_seconds()) > MAX_MISSING:
        raise BadVideo(f'{path}: the last {missing:.1f} seconds are missing; {FIX}')


class Clock:
    """The times of a video's frames, from its start, where the timestamps in the file may jump.

    As in players, a frame that is earlier than the one before it, or later by more than a bound, follows that one. A
    gap that other streams fill is kept: a still image with an hour of audio. So the number of repeated frames is
    bounded for each frame and second of audio in the file.
    """

    def __init__(self, path: Path, container: InputContainer, stream: VideoStream):
        self.path, self.container, self.stream = path, container, stream
        self.time_base = stream.time_base or Fraction(1, av.time_base)
        self.discontinuous = container.format.name in DISCONTINUOUS
        self.max_gap = MAX_GAP_DISCONTINUOUS if self.discontinuous else MAX_GAP
        self.time_bases = {one.index: float(one.time_base or 0) for one in container.streams}  # by stream
        self.spans: dict[int, list[float]] = {}  # by stream: first and last second since its own last jump
        self.longest = 0.  # seconds from one packet of the video to the next
        self.jumps: list[tuple[int, int]] = []  # ticks, and after how many from the start

    def update(self, packet: av.Packet) -> None:
        """Note the time of a packet."""
        index, ticks = packet.stream.index, packet.dts if packet.pts is None else packet.pts
        if ticks is None:
            return
        tick = self.time_bases.get(index, 0.)
        begin, end = ticks * tick, (ticks + (packet.duration or 0)) * tick
        span = self.spans.setdefault(index, [begin, begin])
        if index == self.stream.index:
            self.longest = max(self.longest, begin - span[1])
        elif not -self.max_gap < begin - span[1] < self.max_gap:
            span[:] = begin, begin
        span[1] = max(span[1], end)

    def missing_seconds(self) -> float:
        """Return how long before the duration in the header the file ends.

        That of the video itself, where the header has it: from its first frame in MP4, from 0 in ASF, in frames in AVI,
        where FFmpeg estimates it by the size of the file if the index is missing. Else that of all streams, which
        Matroska counts from 0 and in which the last frame may last as long as any other. Clocks that may restart have
        no header.
        """
        if self.discontinuous or self.jumps or self.stream.index not in self.spans:
            return 0
        if self.stream.duration:
            is_mp4 = self.container.format.name.startswith('mov')
            end = self.stream.duration + (self.stream.start_time or 0 if is_mp4 else 0)
            if self.container.format.name == 'avi':
                end = max(end, self.stream.frames)
            return end * float(self.time_base) - self.spans[self.stream.index][1]
        reached = max(last for _, last in self.spans.values())
        return (self.container.duration or 0) / av.time_base - reached - self.longest

    def is_filled(self, begin: int, end: int) -> bool:
        """Return whether another stream continues from one tick of the video to the other."""
        return any(first <= begin * self.time_base + self.max_gap and end * self.time_base - self.max_gap <= last
                   for index, (first, last) in self.spans.items() if index != self.stream.index)

    def restamp(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Yield the frames with `pts` from the start, not decreasing; a frame without one follows the one before it."""
        start = round(Fraction(self.container.start_time or 0, av.time_base) / self.time_base)
        step = round(1 / (self.stream.guessed_rate or 25) / self.time_base)
        bound, disorder, second = (round(seconds / self.time_base) for seconds in (self.max_gap, DISORDER, 1))
        last, offset, is_first = start, start, True  # of the frame before, in the file
        for frame, following in pairwise(chain(frames, [None])):
            assert frame is not None
            ticks = frame.pts if frame.pts is not None else last if is_first else last + step
            after = following.pts if following is not None else None
            if (not is_first and after is not None and 0 <= after - last <= bound
                    and not last - disorder <= ticks <= after + disorder):
                self.jumps.append((ticks - last, last - offset))
                ticks = (last + after) // 2  # a single wrong one
            gap = ticks - last
            if (gap < -disorder and not is_first) or (gap > bound and not self.is_filled(last, ticks)):
                self.jumps.append((gap, last - offset))
                offset += gap - (0 if is_first else step)
            elif 0 < gap <= second:
                step = gap
            if (frame.duration or 0) > bound and not self.is_filled(ticks, ticks + frame.duration):
                frame.duration = step  # the last frame is shown that long
            last, is_first = ticks, False
            frame.pts = ticks - offset
            yield frame

    def report_jumps(self) -> None:
        """Warn where the clock jumped."""
        if self.jumps:
            by, after = (float(ticks * self.time_base) for ticks in self.jumps[0])
            more = f' and {plural(len(self.jumps) - 1, "more time")}' if len(self.jumps) > 1 else ''
            warn(f'{self.path}: its timestamps jump by {by:.1f} seconds after {after:.1f} seconds{more}; the frames '
                 f'after a jump continue the time before it')


def build_graph(path: Path, stream: VideoStream, first: av.VideoFrame, fps: float, resize: str | None,
                threads: int) -> Graph:
    """Return the filter graph for a video whose first frame is `first`; raises BadVideo where it is too elongated."""
    rate = Fraction(str(fps))
    filters = [('fps', f'fps={rate.numerator}/{rate.denominator}:start_time=0')]
    if resize:
        rotation = rotation_filters(first)
        width, height = first.width, first.height
        if 'transpose' in rotation:  # after scaling: smaller frames are rotated faster
            height, width = target_size(resize, height, width)
        else:
            width, height = target_size(resize, width, height)
        if width * height > MAX_PIXELS:
            raise BadVideo(f'{path}: {first.width} x {first.height} pixels: resized to {resize} it would have '
                           f'{width} x {height}; extract it to another --output with --resize 340x256')
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
