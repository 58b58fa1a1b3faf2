"""From video files to a data folder: frames, snippets, flow workers, the manifest, the command."""
import hashlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from socket import AF_UNIX, socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_data import GOLDEN, GT, THUMOS14

av = pytest.importorskip('av', reason='needs PyAV: pip install -r requirements-video.txt')
cv2 = pytest.importorskip('cv2', reason='needs OpenCV: pip install -r requirements-video.txt')

from av.bitstream import BitStreamFilterContext  # noqa: E402

import extraction.__main__ as extraction_main  # noqa: E402
from examples import torchvision_backbone  # noqa: E402
from extraction import decoders, frames  # noqa: E402
from extraction.__main__ import collect_videos, main  # noqa: E402
from extraction.compare import read_rows  # noqa: E402
from extraction.decoders import Recipe, count_processes, prefetch, read_in_processes, read_videos  # noqa: E402
from extraction.flow_workers import FlowPool, FlowRecipe, center_crop  # noqa: E402
from extraction.frames import BadVideo, decode, read_frames, target_size  # noqa: E402
from extraction.i3d import I3D, Weights, read_weights  # noqa: E402
from extraction.snippets import End, extract, num_rows, to_clip  # noqa: E402
from formats.annotations import read_annotations  # noqa: E402
from formats.data_folder import find_split  # noqa: E402
from utils import InputError, read_json  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SMALL = ('--resize', 'short32', '--crop', '32', '--flow', 'dis', '--workers', '0')
CLOCK = 90_000  # ticks per second of the videos rendered here


# ---- videos and stubs -----------------------------------------------------------------------------------------------

def render(path: Path, times: Iterable[Fraction | float], image_at: Callable[[float], np.ndarray], codec: str = 'mpeg4',
           rotation: int = 0, pixels: str = 'yuv420p', sound_from: float | None = None) -> Path:
    """Write a video that shows `image_at(t)`, (H, W) or (H, W, 3) uint8, from each of `times` to the next."""
    times = list(times)
    first = image_at(float(times[0]))
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=30, options={'qscale': '1'} if codec == 'mpeg4' else {'qp': '0'})
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixels
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000 if codec == 'mpeg4' else CLOCK)
        if rotation:
            stream.set_display_rotation(rotation)
        if sound_from is not None:
            add_sound(container, sound_from)
        for at in times:
            image = image_at(float(at))
            frame = av.VideoFrame.from_ndarray(image, 'gray' if image.ndim == 2 else 'rgb24')
            frame.time_base = stream.time_base
            frame.pts = round(Fraction(at) / stream.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def add_sound(container, begin: float, seconds: float = 1) -> None:
    stream = container.add_stream('pcm_s16le', rate=8000, layout='mono')
    frame = av.AudioFrame.from_ndarray(np.zeros((1, int(8000 * seconds)), np.int16), 's16', 'mono')
    frame.rate, frame.time_base, frame.pts = 8000, Fraction(1, 8000), int(8000 * begin)
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def steady(fps: float | Fraction, seconds: float) -> list[Fraction]:
    return [Fraction(i) / Fraction(fps) for i in range(round(seconds * fps))]


def gray(value: int, height: int = 48, width: int = 64) -> np.ndarray:
    return np.full((height, width), value, np.uint8)


def moving(at: float) -> np.ndarray:
    """Return a frame of a bright square on a circular path."""
    image = gray(40, 36, 48)
    x, y = int(16 + 12 * np.cos(2 * at)), int(14 + 10 * np.sin(2 * at))
    image[y:y + 10, x:x + 10] = 220
    return image


def brightness(clip: torch.Tensor) -> torch.Tensor:
    """Replace I3D: (N, C, F, H, W) -> (N, 1, 4), the mean of the clip."""
    return clip.mean(dim=(1, 2, 3, 4))[:, None, None].expand(-1, 1, 4)


def changes(frames: np.ndarray) -> np.ndarray:
    """Replace optical flow: (F + 1, H, W) -> (F, 32, 32, 2), how much brighter each pixel becomes."""
    rise = np.stack([center_crop(b.astype(np.float32) - a, 32) for a, b in zip(frames[:-1], frames[1:])]) / 255
    return np.stack([rise, rise], axis=-1)


def mean_brightness(path: Path, fps: float = 25, resize: str = 'short32') -> dict[str, np.ndarray]:
    """Return (L,) for each stream: the brightness of every snippet and its change."""
    with FlowPool(changes, 0) as pool:
        features = extract(read_frames(path, fps, resize), {'rgb': brightness, 'flow': brightness}, pool, crop=32)
    return {stream: rows[:, 0] for stream, rows in features.streams.items()}


@pytest.fixture(scope='module')
def weights(tmp_path_factory) -> list[str]:
    """Return the flags for I3D with random weights."""
    folder, flags = tmp_path_factory.mktemp('weights'), []
    for modality in ('rgb', 'flow'):
        torch.manual_seed(0)
        torch.save(I3D(modality).state_dict(), folder / f'{modality}.pt')
        flags += [f'--{modality}_weights', str(folder / f'{modality}.pt')]
    return flags


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Return the same flags, where the brightness replaces I3D."""
    monkeypatch.setattr(extraction_main, 'open_weights', lambda modality, path: Weights(path, modality, '', '', {}))
    monkeypatch.setattr(extraction_main, 'log_weights_origin', lambda file: None)
    monkeypatch.setattr(extraction_main, 'build_i3d', lambda file, **options: brightness)
    return ['--rgb_weights', 'rgb.pt', '--flow_weights', 'flow.pt']


@pytest.fixture
def clips(tmp_path) -> Path:
    """Write three short videos of 2, 3 and 4 rows."""
    folder = tmp_path / 'clips'
    folder.mkdir()
    for count, length in enumerate((33, 50, 79)):
        render(folder / f'clip{count}.mp4', steady(25, length / 25), moving)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


# ---- frames ---------------------------------------------------------------------------------------------------------

def noise(number: int) -> np.ndarray:
    """Return the planes of frame `number`, 48 x 32 in yuv420p: (48, 48)."""
    return np.random.RandomState(number).randint(0, 256, (48, 48)).astype(np.uint8)


def render_noise(folder: Path, name: str) -> Path:
    """Write one of the lossless clips of tests/golden/frames_25fps.json: frame i is `noise(i)`."""
    case = read_json(GOLDEN / 'frames_25fps.json')['clips'][name]
    path = folder / name
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(case['codec'], rate=30, options={'qp': '0', 'preset': 'medium'})
        stream.width, stream.height, stream.pix_fmt = 48, 32, 'yuv420p'
        stream.time_base = stream.codec_context.time_base = Fraction(1, case['ticks_per_second'])
        if case['audio']:
            add_sound(container, 0)
        for number, ticks in enumerate(case['ticks']):
            frame = av.VideoFrame.from_ndarray(noise(number), 'yuv420p')
            frame.pts, frame.time_base = ticks, stream.time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize('name', read_json(GOLDEN / 'frames_25fps.json')['clips'])
def test_frames_equal_those_of_ffmpeg(tmp_path, name):
    """The same frames at the same times, byte for byte."""
    found = []
    for frame in decode(render_noise(tmp_path, name), 25):
        planes = [np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, :plane.width]
                  for plane in frame.planes]
        found.append(b''.join(plane.tobytes() for plane in planes))
    expected = read_json(GOLDEN / 'frames_25fps.json')['clips'][name]['frames']
    assert abs(len(found) - len(expected)) <= 1  # versions of FFmpeg round the end differently
    for number, content in zip(expected, found):
        assert content == noise(number).tobytes()


def test_row_counts_from_the_durations_of_thumos14_match_the_published_features():
    lengths = read_json(THUMOS14 / 'feature_lengths.json.gz')
    database = read_json(GT)['database']
    off = [num_rows(int(database[name]['duration'] * 25)) - rows for name, rows in lengths.items()]
    assert len(off) == 210 and off.count(0) >= 197 and set(off) <= {0, 1}


@pytest.mark.parametrize('fps', [25, 30, Fraction(24000, 1001), 60])
@pytest.mark.parametrize('rotation', [0, 90])
def test_a_flash_at_second_7_is_in_the_row_of_that_time(tmp_path, fps, rotation):
    path = render(tmp_path / 'flash.mp4', steady(fps, 10), lambda at: gray(235 if 7 <= at < 7.5 else 16), 'libx264',
                  rotation)
    rows = mean_brightness(path)
    assert len(rows['rgb']) == (250 - 1) // 16 == len(rows['flow'])
    assert np.flatnonzero(rows['flow'] > 0.01).tolist() == [10]  # rows last 0.64 s
    assert np.flatnonzero(rows['rgb'] > rows['rgb'][0] + 0.01).tolist() in ([10, 11], [11])


def test_a_flash_has_the_right_time_in_a_video_of_variable_frame_rate(tmp_path):
    times = [Fraction(k, 1000) for k in [*range(0, 7000, 37), 7000, 7090, 7093, 7300, 7700, 8900, 9970]]
    path = render(tmp_path / 'flash.mkv', times, lambda at: gray(235 if 7 <= at < 7.5 else 16), 'libx264')
    rows = mean_brightness(path)
    assert np.flatnonzero(rows['flow'] > 0.01).tolist() == [10]
    assert len(rows['rgb']) == (250 - 1) // 16


def test_frames_that_start_later_than_the_audio_have_the_right_time(tmp_path):
    path = render(tmp_path / 'late.mkv', [2 + at for at in steady(25, 8)], lambda at: gray(235 if at >= 7 else 16),
                  'libx264', sound_from=0)
    rows = mean_brightness(path)
    assert np.flatnonzero(rows['flow'] > 0.01).tolist() == [10]
    assert len(rows['rgb']) == (250 - 1) // 16


def test_times_are_relative_to_the_start_of_a_stream(tmp_path):
    path = render(tmp_path / 'broadcast.ts', [100 + at for at in steady(25, 10)],
                  lambda at: gray(235 if at >= 107 else 16), 'libx264')
    with av.open(str(path)) as container:
        assert container.start_time > 50 * av.time_base
    assert np.flatnonzero(mean_brightness(path)['flow'] > 0.01).tolist() == [10]


@pytest.mark.parametrize('quarters', [0, 1, 2, 3])
def test_frames_are_rotated_as_displayed(tmp_path, quarters):
    image = np.kron(np.array([[235, 100, 60], [16, 16, 180]], np.uint8), np.ones((32, 32), np.uint8))
    path = render(tmp_path / 'phone.mp4', steady(25, 0.2), lambda at: image, 'libx264', 90 * quarters)
    frame = next(read_frames(path, 25, 'short64'))[..., 0]
    corners = frame[16::32, 16::32].astype(float)
    expected = np.rot90(image[16::32, 16::32], quarters)  # counterclockwise quarter turns
    assert frame.shape == np.rot90(image, quarters).shape
    assert np.corrcoef(corners.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.mark.parametrize('size, pixels', [((50, 34), 'yuv420p'), ((35, 51), 'yuv444p'), ((64, 36), 'yuv420p10le')])
def test_portrait_odd_sizes_and_ten_bits_are_read(tmp_path, size, pixels):
    width, height = size
    path = render(tmp_path / 'odd.mkv', steady(25, 1), lambda at: gray(126, height, width), 'libx264', pixels=pixels)
    frames = list(read_frames(path, 25, 'short32'))
    short = min(size)
    assert len(frames) == 25
    assert frames[0].shape == (round(height * 32 / short), round(width * 32 / short), 3)
    assert abs(np.stack(frames).astype(int) - 126).max() <= 2


def test_resizing_is_bilinear(tmp_path):
    """Compare with torch's antialiased resizing. A frame of unchanged size is converted as exactly."""
    random = np.random.RandomState(0)
    image = np.kron(random.randint(40, 200, (15, 20)), np.ones((4, 4))).astype(np.uint8)
    path = render(tmp_path / 'still.mkv', steady(25, 0.2), lambda at: image, 'libx264')
    stored = next(read_frames(path, 25, '80x60'))
    for resize, (width, height) in (('short90', (120, 90)), ('56x40', (56, 40))):
        expected = torch.nn.functional.interpolate(torch.from_numpy(stored).permute(2, 0, 1)[None].float(),
                                                   (height, width), mode='bilinear', antialias=True)
        found = next(read_frames(path, 25, resize))
        assert found.shape == (height, width, 3)
        assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() < 1.5
    assert np.abs(stored[..., 0] - image.astype(float)).max() < 1.5


def test_sizes_of_resized_frames():
    assert target_size('short256', 320, 180) == (455, 256) and target_size('short256', 180, 320) == (256, 455)
    assert target_size('short256', 320, 240) == (341, 256) and target_size('340x256', 180, 320) == (340, 256)
    assert target_size('squash224', 320, 180) == (224, 224)
    for wrong in ('256', 'short', 'long256', '340x', 'short1'):
        with pytest.raises(ValueError, match='is not like short256'):
            target_size(wrong, 320, 180)


def test_files_that_are_no_videos_are_refused(tmp_path):
    (tmp_path / 'text.mp4').write_text('no video')
    whole = render(tmp_path / 'whole.mp4', steady(25, 4), moving)
    (tmp_path / 'half.mp4').write_bytes(whole.read_bytes()[:whole.stat().st_size // 2])
    with av.open(str(tmp_path / 'sound.mkv'), 'w') as container:
        add_sound(container, 0)
    (tmp_path / 'playlist.m3u8').write_text('#EXTM3U\n#EXTINF:9\nwhole.mp4\n')
    for name, message in (('absent.mp4', 'No such file'), ('text.mp4', 'not a readable video'),
                          ('half.mp4', 'not a readable video'), ('sound.mkv', 'contains no video, only audio')):
        with pytest.raises(BadVideo, match=f'{name}: .*{message}'):
            list(read_frames(tmp_path / name))


def render_late(path: Path, start: int) -> Path:
    """Write 200 frames of noise at 25 per second from second `start`."""
    random = np.random.RandomState(0)
    with av.open(str(path), 'w', options={'movflags': 'faststart'} if path.suffix == '.mp4' else {}) as container:
        stream = container.add_stream('wmv2' if path.suffix == '.wmv' else 'libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(200):
            frame = av.VideoFrame.from_ndarray(random.randint(0, 256, (48, 64), np.uint8), 'gray')
            frame.pts, frame.time_base = i + 25 * start, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize('suffix, start', [('mkv', 0), ('mkv', 3), ('flv', 0), ('flv', 3), ('mp4', 0), ('mp4', 3),
                                           ('wmv', 3), ('avi', 3)])
def test_a_video_that_starts_late_is_read_whole(tmp_path, suffix, start):
    """Durations count from 0 in Matroska and ASF. FLV and AVI are off by a frame; AVI repeats the first one."""
    frames = sum(1 for _ in read_frames(render_late(tmp_path / f'whole.{suffix}', start)))
    assert frames in ((272, 273, 274) if suffix == 'avi' else (199, 200))


@pytest.mark.parametrize('share', [0.5, 0.91])
@pytest.mark.parametrize('suffix, start', [('mkv', 0), ('mkv', 3), ('flv', 0), ('mp4', 0), ('mp4', 3), ('avi', 0)])
def test_a_video_whose_end_is_missing_is_refused(tmp_path, suffix, start, share):
    whole, cut = render_late(tmp_path / f'whole.{suffix}', start), tmp_path / f'cut.{suffix}'
    cut.write_bytes(whole.read_bytes()[:int(whole.stat().st_size * share)])
    with pytest.raises(BadVideo, match='the last .* seconds are missing') as caught:
        list(read_frames(cut))
    missing = float(str(caught.value).partition('the last ')[2].split()[0])
    assert missing == pytest.approx(8 * (1 - share), abs=0.3)


def test_a_video_that_is_damaged_in_the_middle_is_refused(tmp_path):
    whole = bytearray(render(tmp_path / 'whole.mp4', steady(25, 8), lambda at: moving(at) + np.uint8(at), 'libx264'
                             ).read_bytes())
    middle = len(whole) // 3
    whole[middle:2 * middle] = np.random.RandomState(0).bytes(middle)
    (tmp_path / 'damaged.mp4').write_bytes(whole)
    with pytest.raises(BadVideo, match=r'damaged.mp4: damaged after \d+\.\d seconds'):
        list(read_frames(tmp_path / 'damaged.mp4'))


# ---- clocks ---------------------------------------------------------------------------------------------------------

def render_stream(path: Path, start: float = 0, frames: int = 50, size: tuple[int, int] = (48, 64),
                  sound: float = 0) -> Path:
    """Write a stream of 25 frames per second whose clock begins at `start`, with `sound` seconds of sound from 0."""
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mpeg2video', rate=25)
        (stream.height, stream.width), stream.pix_fmt, stream.max_b_frames = size, 'yuv420p', 0
        audio = container.add_stream('mp2', rate=16000, layout='mono') if sound else None
        for i in range(int(sound * 16000 / 1152) if audio else 0):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), 's16', 'mono')
            frame.rate, frame.time_base, frame.pts = 16000, Fraction(1, 16000), 1152 * i
            container.mux(audio.encode(frame))
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(np.random.RandomState(i).randint(0, 256, size, np.uint8), 'gray')
            frame.pts, frame.time_base = round(25 * start) + i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def join(path: Path, *parts: Path) -> Path:
    path.write_bytes(b''.join(part.read_bytes() for part in parts))
    return path


def shift_packet(source: Path, target: Path, number: int, seconds: float) -> Path:
    """Copy a video with another time of one of its packets."""
    with av.open(str(source)) as read, av.open(str(target), 'w') as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for i, packet in enumerate(read.demux(read.streams.video[0])):
            if packet.dts is not None:
                packet.stream = stream
                packet.pts += round(seconds / packet.time_base) if i == number else 0
                written.mux(packet)
    return target


def shown(path: Path) -> list[bytes]:
    return [frame.tobytes() for frame in read_frames(path, 25, '64x48')]


@pytest.mark.parametrize('starts', [(0, 0), (600, 0), (0, 3600), (0, 30000, 5)])
@pytest.mark.parametrize('suffix', ['ts', 'mpg'])
def test_joined_streams_whose_clock_restarts_or_jumps_are_read_whole(tmp_path, capfd, starts, suffix):
    parts = [render_stream(tmp_path / f'{i}.{suffix}', start) for i, start in enumerate(starts)]
    separate = [frame for part in parts for frame in shown(part)]
    assert len(separate) == 50 * len(parts) and capfd.readouterr().err == ''
    assert shown(join(tmp_path / f'all.{suffix}', *parts)) == separate
    warning = capfd.readouterr().err
    assert warning.count('\n') == 1 and 'its timestamps jump by' in warning
    assert 'after 2.0 seconds' in warning or 'after 1.9 seconds' in warning
    assert ('and 1 more time' in warning) == (len(parts) == 3)


def test_a_gap_of_a_few_seconds_or_one_with_sound_is_kept(tmp_path, capfd):
    parts = [render_stream(tmp_path / f'{start}.ts', start) for start in (0, 5)]
    assert len(shown(join(tmp_path / 'gap.ts', *parts))) == pytest.approx(7 * 25, abs=1)
    late = render_stream(tmp_path / 'late.ts', 15, sound=17)
    assert len(shown(late)) == pytest.approx(17 * 25, abs=2)
    slides = render(tmp_path / 'slides.mkv', [0, 30, 60, Fraction(1501, 25)], moving)
    assert len(shown(slides)) == pytest.approx(1502, abs=2)
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize('number', [25, 49])
@pytest.mark.parametrize('seconds', [3 * 86400, 5000])
def test_one_wild_timestamp_costs_no_frame(tmp_path, capfd, seconds, number):
    plain = render_stream(tmp_path / 'plain.ts')
    wild = shift_packet(plain, tmp_path / 'wild.ts', number, seconds)
    assert shown(wild) == shown(plain)
    assert capfd.readouterr().err.count('\n') == 1


@pytest.mark.parametrize('suffix, seconds', [('mkv', 3 * 86400), ('mp4', 7200)])
def test_a_frame_days_or_hours_later_is_the_next_one(tmp_path, capfd, suffix, seconds):
    path = render(tmp_path / f'later.{suffix}', [*steady(25, 1), seconds], moving, 'libx264')
    assert len(shown(path)) in (26, 27)
    assert 'its timestamps jump by' in capfd.readouterr().err


def test_timestamps_slightly_out_of_order_are_left_to_ffmpeg(tmp_path, capfd):
    """AVI files of H.264 with B-frames contain some."""
    path = tmp_path / 'b.avi'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, 'yuv420p'
        for i in range(100):
            frame = av.VideoFrame.from_ndarray(np.random.RandomState(i).randint(0, 256, (48, 64), np.uint8), 'gray')
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        times = [frame.pts for frame in container.decode(video=0)]
        assert times != sorted(times)
    assert len(shown(path)) in (99, 100, 101) and capfd.readouterr().err == ''


@pytest.mark.parametrize('later', [{'size': (64, 48)}, {'rotate': '90'}])
def test_a_size_or_rotation_that_changes_in_the_middle_is_reported(tmp_path, capfd, later):
    first = render(tmp_path / 'first.ts', steady(25, 2), moving, 'libx264')
    second = tmp_path / 'second.ts'
    if 'size' in later:
        render(second, steady(25, 2), lambda at: gray(90, *later['size']), 'libx264')
    else:
        with av.open(str(first)) as read, av.open(str(second), 'w') as written:
            source = read.streams.video[0]
            stream = written.add_stream_from_template(source)
            turn = BitStreamFilterContext('h264_metadata=display_orientation=insert:rotate=90', source, stream)
            for packet in (turned for packet in read.demux(source) if packet.dts is not None
                           for turned in turn.filter(packet)):
                packet.stream = stream
                written.mux(packet)
    frames = list(read_frames(join(tmp_path / 'both.ts', first, second), 25, 'short32'))
    assert len(frames) in (98, 99, 100) and {frame.shape for frame in frames} == {(32, 43, 3)}
    warnings = [line for line in capfd.readouterr().err.splitlines() if 'size or rotation changes' in line]
    assert len(warnings) == 1 and 'both.ts: ' in warnings[0] and 'after 2.0 seconds' in warnings[0]


# ---- snippets -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('num_frames', [0, 1, 16, 17, 32, 33, 100])
@pytest.mark.parametrize('stride', [16, 1, 4, 7, 17, 40])
@pytest.mark.parametrize('flow', [True, False])
def test_number_and_values_of_rows(num_frames, stride, flow):
    frames = [np.full((40, 50, 3), i, np.uint8) for i in range(num_frames)]
    networks = {'rgb': brightness, 'flow': brightness} if flow else {'rgb': brightness}
    with FlowPool(changes, 0) as pool:
        features = extract(frames, networks, pool if flow else None, crop=32, batch_size=3, stride=stride)
    starts = [i for i in range(0, 100, stride) if i + 16 + flow <= num_frames]
    assert features.num_frames == num_frames and num_rows(num_frames, stride, flow) == len(starts)
    if stride == 16:
        assert len(starts) == (max(0, (num_frames - 1) // 16) if flow else num_frames // 16)
    assert [len(part) for part in features.streams.values()] == [len(starts)] * len(networks if starts else [])
    for row, start in enumerate(starts):
        assert features.streams['rgb'][row] == pytest.approx(2 * (start + 7.5) / 255 - 1, abs=1e-5)
        if flow:
            assert features.streams['flow'][row] == pytest.approx(1 / 255, abs=1e-6)


def test_clips_are_channels_first_in_minus_one_to_one():
    frames = np.zeros((16, 8, 8, 3), np.uint8)
    frames[3, 1, 2] = 255, 0, 51
    clip = to_clip([frames, frames], 'cpu', torch.float64)
    assert clip.shape == (2, 3, 16, 8, 8) and clip.dtype == torch.float64
    assert clip[1, :, 3, 1, 2].tolist() == pytest.approx([1, -1, -0.6], abs=1e-15)


def test_flow_is_computed_on_the_whole_frame_and_then_cropped():
    random = np.random.RandomState(1)
    large = np.kron(random.randint(0, 256, (20, 24)), np.ones((4, 4))).astype(np.uint8)
    frames = np.stack([large[:64, 2 * i:2 * i + 80] for i in range(3)])  # everything moves 2 pixels to the left
    fields = FlowRecipe('dis', 20, False, 32)(frames)
    assert fields.shape == (2, 32, 32, 2) and fields.dtype == np.float32
    assert np.median(fields[..., 0]) == pytest.approx(-2 / 20, abs=0.01)
    assert np.median(fields[..., 1]) == pytest.approx(0, abs=0.01)
    whole = FlowRecipe('dis', 20, False, 64)(frames)
    assert np.array_equal(fields, whole[:, 16:48, 16:48])


def slow_at_first(frames: np.ndarray) -> np.ndarray:
    """Run in a worker: the first snippets take longest, a frame of 254 is an error of OpenCV, 255 kills the worker."""
    if frames[0, 0, 0] == 254:
        cv2.cvtColor(frames[0, :1, :1], cv2.COLOR_RGB2GRAY)
    if frames[0, 0, 0] == 255:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2 / (1 + frames[0, 0, 0]))
    return frames


def test_workers_return_flow_in_order_and_a_killed_one_is_reported():
    with FlowPool(slow_at_first, 2) as pool:
        tasks = [pool.submit(np.full((17, 2, 2), i, np.uint8)) for i in range(8)]
        assert [int(pool.result(task)[0, 0, 0]) for task in tasks] == list(range(8))
        with pytest.raises(cv2.error):
            pool.result(pool.submit(np.full((17, 2, 2), 254, np.uint8)))
        killed = pool.submit(np.full((17, 2, 2), 255, np.uint8))
        with pytest.raises(InputError, match='was killed.*--workers'):
            pool.result(killed)
        with pytest.raises(InputError, match='was killed'):
            pool.submit(np.zeros((17, 2, 2), np.uint8))


# ---- the command ----------------------------------------------------------------------------------------------------

def test_a_folder_of_twelve_videos_of_which_four_are_broken_in_four_ways(tmp_path, weights, capsys):
    folder, output = tmp_path / 'in', tmp_path / 'out'
    folder.mkdir()
    for count in range(8):
        render(folder / f'good{count}.mp4', steady(25, (20 + 16 * (count % 3)) / 25), moving)
    good = (folder / 'good7.mp4').read_bytes()
    (folder / 'damaged.mp4').write_bytes(good[:len(good) // 2])
    (folder / 'empty.mp4').write_bytes(b'')
    render(folder / 'short.mp4', steady(25, 16 / 25), moving)
    with av.open(str(folder / 'sound.mov'), 'w') as container:
        add_sound(container, 0)
    (folder / 'labels.csv').write_text('video,label\n')
    argv = [str(folder), '--output', str(output), *weights, *SMALL]

    assert main(argv) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith('error: ')]
    assert '8 videos extracted' in printed.out and '4 failed' in printed.out and 'Traceback' not in printed.err
    assert [any(f'{name}: {why}' in line for line in errors) for name, why in (
        ('damaged.mp4', 'not a readable video'), ('empty.mp4', 'is empty'), ('short.mp4', 'too short: 16 frames'),
        ('sound.mov', 'contains no video, only audio'))] == [True] * 4 and len(errors) == 4

    manifest = json.loads((output / 'extraction.json').read_text())
    assert manifest['recipe'] == {'fps': 25, 'resize': 'short32', 'crop': 32, 'flow': 'dis', 'flow_bound': 20,
                                'quantize': True, 'precision': 'fp32', 'snippet_frames': 16, 'stride': 16}
    content = Path(weights[1]).read_bytes()
    assert manifest['weights']['rgb']['git_blob'] == hashlib.sha1(b'blob %d\0' % len(content) + content).hexdigest()
    videos = manifest['videos'].items()
    assert {name: (entry['frames'], entry['rows'], entry['duration']) for name, entry in videos} == {
        f'good{count}': (20 + 16 * (count % 3), 1 + count % 3, (20 + 16 * (count % 3)) / 25) for count in range(8)}
    for stream in ('rgb', 'flow'):
        rows = np.load(output / 'features' / 'test' / stream / 'good5.npy')
        assert rows.shape == (3, 1024) and rows.dtype == np.float32

    gt = read_annotations(output)  # a valid data folder
    split = find_split(output, 'test', gt, [], ('rgb', 'flow'))
    assert split.names == [f'good{count}' for count in range(8)] and split.shape == (15, 2048)
    assert gt.durations[gt.videos.index('good2')] == 52 / 25

    before = contents(output)
    assert main(argv) == 2  # only the broken ones are tried again
    assert '4 videos to extract, 8 already extracted' in capsys.readouterr().out
    assert contents(output) == before


def test_features_equal_those_of_the_parts_called_separately(clips, tmp_path, weights):
    assert main([str(clips / 'clip1.mp4'), '--output', str(tmp_path / 'out'), *weights, *SMALL, '--precision', 'fp64',
                 '--no-quantize', '--flow_bound', '10', '--split', 'train']) == 0
    from extraction.flow import dis, quantize
    from extraction.i3d import load_i3d
    frames = list(read_frames(clips / 'clip1.mp4', 25, 'short32'))
    gray_frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[:, 5:37] for frame in frames]
    whole = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    assert frames[0].shape == (32, 43, 3) and gray_frames[0].shape == (32, 32)
    flow = np.stack([quantize(dis(a, b), 10, False) for a, b in zip(whole[:-1], whole[1:])])[:, :, 5:37]
    rgb = np.stack(frames)[:, :, 5:37].astype(np.float64) * 2 / 255 - 1
    for stream, values in (('rgb', rgb), ('flow', flow)):
        network = load_i3d(weights[1 if stream == 'rgb' else 3], stream, dtype=torch.float64)
        with torch.inference_mode():
            expected = [network(torch.from_numpy(values[i:i + 16].astype(np.float64)).permute(3, 0, 1, 2)[None])[0, 0]
                        for i in (0, 16, 32)]
        found = np.load(tmp_path / 'out' / 'features' / 'train' / stream / 'clip1.npy')
        assert found == pytest.approx(torch.stack(expected).numpy(), rel=1e-6, abs=1e-9)


def test_a_killed_extraction_resumes_to_the_same_files(clips, tmp_path, weights, capsys):
    os.link(clips / 'clip1.mp4', clips / 'clip3.mp4')
    argv = [str(clips), *weights, *SMALL[:-1], '1', '--output', str(tmp_path / 'killed')]
    process = subprocess.Popen([sys.executable, '-m', 'extraction', *argv], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: (tmp_path / 'killed' / 'features' / 'test' / 'rgb' / 'clip0.npy').exists())
        process.send_signal(signal.SIGSTOP)
        workers = children(process.pid)
        assert main(argv) == 2 and 'in use by process' in capsys.readouterr().err
    finally:
        process.kill()
        process.wait()
    assert workers
    wait_until(lambda: not any(Path(f'/proc/{worker}').exists() for worker in workers))
    assert not (tmp_path / 'killed' / 'features' / 'test' / 'rgb' / 'clip3.npy').exists()
    argv = argv[:-3] + ['0', '--output']
    assert main([*argv, str(tmp_path / 'killed')]) == 0
    assert main([*argv, str(tmp_path / 'whole')]) == 0
    whole, killed = contents(tmp_path / 'whole'), contents(tmp_path / 'killed')
    assert len(whole) == 9 and killed.keys() == whole.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []


def wait_until(happened: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.01)


def children(parent: int) -> list[int]:
    """Return the child processes of a process."""
    found = []
    for stat in Path('/proc').glob('[0-9]*/stat'):
        try:
            fields = stat.read_text().rpartition(')')[2].split()
        except OSError:  # has ended
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def test_without_flow_weights_rgb_alone_is_extracted(clips, tmp_path, weights, capsys, monkeypatch):
    """No flow is computed, and a row needs no frame after it: 33, 50 and 79 frames; 80 give one row more than flow."""
    monkeypatch.setattr('extraction.__main__.FlowPool', None)
    monkeypatch.setattr('utils.LINE_SECONDS', 0)
    render(clips / 'clip3.mp4', steady(25, 80 / 25), moving)
    both, alone = tmp_path / 'both', tmp_path / 'alone'
    assert main([str(clips), '--output', str(alone), *weights[:2], *SMALL]) == 0
    assert re.search('^extraction 3/4: frame [0-9]+/[0-9]+, [0-9:]+ left$', capsys.readouterr().err, re.MULTILINE)
    monkeypatch.undo()
    assert main([str(clips), '--output', str(both), *weights, *SMALL]) == 0
    assert sorted(path.name for path in (alone / 'features' / 'test').iterdir()) == ['rgb']
    for name, length in (('clip0', 2), ('clip1', 3), ('clip2', 4), ('clip3', 5)):
        rows, with_flow = (np.load(folder / 'features' / 'test' / 'rgb' / f'{name}.npy') for folder in (alone, both))
        assert len(rows) == length and len(with_flow) == min(length, 4)
        if len(rows) == len(with_flow):
            assert rows.tobytes() == with_flow.tobytes()
    manifest = json.loads((alone / 'extraction.json').read_text())
    assert manifest['recipe'] == {'fps': 25, 'resize': 'short32', 'crop': 32, 'precision': 'fp32', 'snippet_frames': 16,
                                  'stride': 16}
    assert list(manifest['weights']) == ['rgb'] and 'flow by' not in manifest['versions']
    capsys.readouterr()
    assert main([str(clips), '--output', str(alone), *weights, *SMALL]) == 2  # one stream does not become two
    assert 'extracted with another recipe' in capsys.readouterr().err


def test_the_weights_of_each_network_are_recorded_and_do_not_mix(clips, tmp_path, weights, capsys, monkeypatch):
    """Without --rgb_weights those trained on Kinetics-400 are used, also next to a file for flow."""
    file = read_weights(weights[1], 'rgb')
    monkeypatch.setattr('extraction.__main__.load_kinetics400',
                        lambda: file._replace(path='/cache/i3d-kinetics-400.pt', blob_id='k400'))
    argv = [str(clips / 'clip0.mp4'), *SMALL, '--output', str(tmp_path / 'out')]
    assert main(argv) == 0
    assert json.loads((tmp_path / 'out' / 'extraction.json').read_text())['weights'] == {
        'rgb': {'file': 'i3d-kinetics-400.pt', 'git_blob': 'k400'}}
    capsys.readouterr()
    assert main([*argv, *weights[:2]]) == 2
    assert 'rgb weights k400, now' in capsys.readouterr().err
    assert main([*argv[:-1], str(tmp_path / 'two'), *weights[2:]]) == 0
    assert sorted(path.name for path in (tmp_path / 'two' / 'features' / 'test').iterdir()) == ['flow', 'rgb']


def test_another_recipe_and_another_video_of_the_same_name_are_refused(clips, tmp_path, weights, capsys):
    video, output = clips / 'clip0.mp4', tmp_path / 'out'
    argv = ['--output', str(output), *weights, *SMALL]
    assert main([str(video), *argv]) == 0
    before = contents(output)

    def refusal(*words: object) -> str:
        capsys.readouterr()
        assert main(list(map(str, words))) == 2
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and contents(output) == before
        return error

    assert 'fps 25, now 30' in refusal(video, *argv, '--fps', 30)
    assert 'rgb weights' in refusal(video, '--output', output, '--backbone', 'numpy:array', *SMALL)
    assert 'clip0' in refusal(clips / 'clip1.mp4', *argv, '--fps', 30, '--overwrite')  # would mix two recipes
    other = tmp_path / 'clip0.avi'
    other.write_bytes((clips / 'clip2.mp4').read_bytes())
    assert 'features of another file' in refusal(other, *argv)
    assert "both be the video 'clip0'" in refusal(video, other, *argv)
    assert 'belongs to the split test' in refusal(video, *argv, '--split', 'train')

    assert main([str(video), *argv, '--fps', '30', '--overwrite']) == 0
    manifest = json.loads((output / 'extraction.json').read_text())
    assert manifest['recipe']['fps'] == 30 and manifest['videos']['clip0']['frames'] in (39, 40)

    foreign = tmp_path / 'foreign' / 'features' / 'test' / 'rgb' / 'clip0.npy'
    foreign.parent.mkdir(parents=True)
    foreign.write_bytes(b'published')
    capsys.readouterr()
    assert main([str(video), '--output', str(tmp_path / 'foreign'), *weights, *SMALL]) == 2
    assert 'clip0.npy: exists' in capsys.readouterr().err and foreign.read_bytes() == b'published'


def test_videos_of_the_same_name_are_refused(tmp_path):
    for name in ('a.mp4', 'v_a.mkv', 'b.mp4'):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match='would both be the video'):
        collect_videos([str(tmp_path)])
    found = collect_videos([str(tmp_path / 'a.mp4'), str(tmp_path / 'b.mp4'), str(tmp_path / 'a.mp4')])
    assert list(found) == ['a', 'b']
    (tmp_path / 'none').mkdir()
    with pytest.raises(InputError, match='contains no video'):
        collect_videos([str(tmp_path / 'none')])


def mean_colors(frames: np.ndarray) -> np.ndarray:
    """Backbone: the mean color of each second."""
    return np.stack([frames[i:i + 25].mean(axis=(0, 1, 2)) for i in range(0, len(frames), 25)])


def test_a_backbone_replaces_i3d(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    argv = [str(clips), '--output', str(tmp_path / 'out'), *SMALL, '--backbone']
    assert main([*argv, 'test_extraction:mean_colors']) == 0
    assert '--snippet_frames 25' in capsys.readouterr().err
    rows = np.load(tmp_path / 'out' / 'features' / 'test' / 'rgb' / 'clip1.npy')
    frames = np.stack(list(read_frames(clips / 'clip1.mp4', 25, 'short32')))[:, :, 5:37]
    assert rows.dtype == np.float32 and rows == pytest.approx(mean_colors(frames), rel=1e-5)
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['extraction.json', 'features']

    for wrong, why in (('test_extraction:nothing', 'AttributeError'), ('no_such_module:f', 'ModuleNotFoundError'),
                       ('test_extraction:ROOT', 'not a function')):
        assert main([*argv, wrong, '--output', str(tmp_path / 'other')]) == 2
        assert why in capsys.readouterr().err


def test_an_extraction_ends_when_its_folder_is_replaced(clips, tmp_path, capsys, monkeypatch):
    output, compute_rows = tmp_path / 'out', mean_colors

    def replace_folder(frames):
        if not (tmp_path / 'moved').exists():
            output.rename(tmp_path / 'moved')
            output.mkdir()
        return compute_rows(frames)

    monkeypatch.setattr(sys.modules[__name__], 'mean_colors', replace_folder)
    argv = [str(clips), '--output', str(output), *SMALL, '--backbone', f'{__name__}:mean_colors']
    assert main(argv) == 2
    assert f'{output}: is no longer the folder of this run' in capsys.readouterr().err
    assert not list(output.iterdir())


def brightness_rows(frames: np.ndarray, stride: int) -> np.ndarray:
    """Backbone: the brightness of 16 frames, every `stride` frames."""
    return np.stack([frames[i:i + 16].mean(keepdims=True).reshape(1) for i in range(0, len(frames) - 15, stride)])


def test_a_backbone_with_a_stride_gets_it_and_one_without_refuses_it(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    argv = [str(clips), '--output', str(tmp_path / 'out'), *SMALL, '--stride', '4', '--backbone']
    assert main([*argv, 'test_extraction:mean_colors']) == 2
    assert 'has no parameter stride' in capsys.readouterr().err
    assert main([*argv, 'test_extraction:brightness_rows']) == 0
    printed = capsys.readouterr()
    assert 'warning' not in printed.err and '--snippet_frames 4' in printed.out
    assert len(np.load(tmp_path / 'out' / 'features' / 'test' / 'rgb' / 'clip1.npy')) == 9  # (50 - 16) // 4 + 1
    assert json.loads((tmp_path / 'out' / 'extraction.json').read_text())['recipe']['stride'] == 4


def slices_of_snippets(frames: np.ndarray) -> np.ndarray:
    """Backbone: the first pixels of every 16 frames; no rows for a short video, where `brightness_rows` fails."""
    return frames[:len(frames) // 16 * 16:16, 0, :3, 0].astype(np.float32)


def test_a_video_shorter_than_a_snippet_does_not_end_an_extraction_by_a_backbone(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    render(tmp_path / 'a.mp4', steady(25, 0.4), moving)
    argv = [str(tmp_path / 'a.mp4'), str(clips / 'clip1.mp4'), *SMALL, '--output']
    for backbone in 'brightness_rows', 'slices_of_snippets':
        assert main([*argv, str(tmp_path / backbone), '--backbone', f'test_extraction:{backbone}']) == 2
        printed = capsys.readouterr()
        assert 'a.mp4: too short: 10 frames' in printed.err and '1 video extracted' in printed.out


class Torchvision:
    """Replaces torchvision.models: a network that returns the mean of each channel, then its classifier."""

    class Transforms:
        crop_size, resize_size, mean, std = [32], [32, 43], [0.4, 0.5, 0.6], [0.2, 0.25, 0.5]

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(3, 400)

        def forward(self, clips: torch.Tensor) -> torch.Tensor:
            assert clips.shape[1:] == (3, 16, 32, 32)
            return self.fc(clips.mean(dim=(2, 3, 4)))

    def get_model_weights(self, name: str):
        return SimpleNamespace(DEFAULT=SimpleNamespace(transforms=self.Transforms))

    def get_model(self, name: str, weights: object) -> torch.nn.Module:
        return self.Network()


def test_the_example_of_torchvision_normalizes_and_drops_the_classifier(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision', SimpleNamespace())
    monkeypatch.setitem(sys.modules, 'torchvision.models', Torchvision())
    torchvision_backbone.load_network.cache_clear()
    argv = [str(clips / 'clip1.mp4'), '--backbone', 'examples.torchvision_backbone:r3d_18', '--stride', '5', *SMALL]
    assert main([*argv, '--output', str(tmp_path / 'out')]) == 0
    frames = np.stack(list(read_frames(clips / 'clip1.mp4', 25, 'short32')))[:, :, 5:37] / 255
    expected = [(frames[i:i + 16].mean(axis=(0, 1, 2)) - [0.4, 0.5, 0.6]) / [0.2, 0.25, 0.5] for i in range(0, 31, 5)]
    assert np.load(tmp_path / 'out' / 'features' / 'test' / 'rgb' / 'clip1.npy') == pytest.approx(
        np.stack(expected), abs=1e-4)
    capsys.readouterr()
    assert main([*argv, '--output', str(tmp_path / 'other'), '--resize', 'short48', '--crop', '40']) == 2
    assert 'use --resize 43x32 --crop 32' in capsys.readouterr().err
    torchvision_backbone.load_network.cache_clear()


@pytest.mark.long  # needs torchvision, which is not among the requirements
@pytest.mark.parametrize('name, width', [('s3d', 1024), ('r3d_18', 512)])
def test_networks_of_torchvision_with_random_weights(name, width, monkeypatch):
    models = import_torchvision_models()
    build = models.get_model
    monkeypatch.setattr(models, 'get_model', lambda name, weights: build(name, weights=None))
    torchvision_backbone.load_network.cache_clear()
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    side = transforms.crop_size[0]
    frames = np.random.RandomState(0).randint(0, 256, (21, side, side, 3)).astype(np.uint8)
    rows = torchvision_backbone.compute_rows(name, frames, stride=4)
    assert rows.shape == (2, width) and rows.dtype == np.float32 and rows[0].std() > 0
    torchvision_backbone.load_network.cache_clear()


def import_torchvision_models():
    """Return torchvision.models; skip the test where it is not installed, or not for this torch."""
    try:
        return importlib.import_module('torchvision.models')
    except Exception as error:  # RuntimeError for another version of torch
        return pytest.skip(f'needs torchvision for torch {torch.__version__}: {type(error).__name__}')


# ---- one odd video --------------------------------------------------------------------------------------------------

def error_lines(capfd) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]


def test_a_strip_of_two_rows_of_pixels_does_not_end_the_others(clips, tmp_path, no_network, capfd):
    """Resized, it is too wide for optical flow, or for the memory."""
    strip = render(clips / 'a_strip.mp4', steady(25, 0.8), lambda at: gray(90, 2, 4096), 'libx264')
    assert main([str(clips), '--output', str(tmp_path / 'out'), *no_network, *SMALL]) == 2
    lines = error_lines(capfd)
    assert len(lines) == 1 and lines[0].startswith(f'error: {strip}: optical flow cannot be extracted (error: ')
    assert len(list((tmp_path / 'out' / 'features' / 'test' / 'flow').iterdir())) == 3
    with pytest.raises(BadVideo, match='a_strip.mp4: 4096 x 2 pixels: .* 524288 x 256'):
        list(read_frames(strip))


@pytest.mark.parametrize('part', ['decoder', 'snippets', 'flow'])
def test_whatever_is_raised_for_one_video_is_its_line(clips, tmp_path, no_network, capfd, monkeypatch, part):
    broken = {'decoder': 'extraction.frames.rotation_filters', 'snippets': 'extraction.snippets.center_crop',
              'flow': 'extraction.flow_workers.quantize'}[part]
    module, _, name = broken.rpartition('.')
    function, calls = getattr(sys.modules[module], name), iter(range(10 ** 6))

    def fail_once(*arguments):
        if next(calls) == 0:
            raise ZeroDivisionError('of a library\nin two lines')
        return function(*arguments)

    monkeypatch.setattr(broken, fail_once)
    assert main([str(clips), '--output', str(tmp_path / 'out'), *no_network, *SMALL]) == 2
    lines = error_lines(capfd)
    assert len(lines) == 1 and f'{clips / "clip0.mp4"}: ' in lines[0] and 'ZeroDivisionError: of a library' in lines[0]
    assert list(json.loads((tmp_path / 'out' / 'extraction.json').read_text())['videos']) == ['clip1', 'clip2']


@pytest.mark.parametrize('how', ['replaced', 'appended', 'removed'])
@pytest.mark.parametrize('backbone', [False, True])
def test_a_video_replaced_while_it_is_read_is_extracted_again(clips, tmp_path, no_network, capfd, monkeypatch, how,
                                                              backbone):
    path, other = clips / 'clip0.mp4', (clips / 'clip2.mp4').read_bytes()
    start = frames.Clock.restamp

    def change(self, items):
        if self.path == path:
            path.unlink() if how != 'appended' else None
            if how != 'removed':
                with open(path, 'ab') as file:
                    file.write(other)
        return start(self, items)

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(frames.Clock, 'restamp', change)
    argv = [str(path), str(clips / 'clip1.mp4'), '--output', str(tmp_path / 'out'), *SMALL]
    argv += ['--backbone', 'test_extraction:mean_colors'] if backbone else no_network[:2]
    assert main(argv) == 2
    lines = error_lines(capfd)
    assert len(lines) == 1 and ('No such file' if how == 'removed' else 'was changed or replaced') in lines[0]
    assert list(json.loads((tmp_path / 'out' / 'extraction.json').read_text())['videos']) == ['clip1']
    monkeypatch.setattr(frames.Clock, 'restamp', start)
    path.write_bytes(other)
    assert main(argv) == 0
    entry = json.loads((tmp_path / 'out' / 'extraction.json').read_text())['videos']['clip0']
    assert entry['size'] == len(other) and entry['frames'] == 79


def test_a_video_replaced_after_it_was_read_is_recorded_with_the_size_that_was_read(clips, tmp_path, no_network,
                                                                                     monkeypatch):
    path = clips / 'clip0.mp4'
    size = path.stat().st_size
    check = extraction_main.check_features

    def replace(*arguments):
        os.replace(clips / 'clip2.mp4', path)
        check(*arguments)

    monkeypatch.setattr(extraction_main, 'check_features', replace)
    assert main([str(path), '--output', str(tmp_path / 'out'), *no_network[:2], *SMALL]) == 0
    assert json.loads((tmp_path / 'out' / 'extraction.json').read_text())['videos']['clip0']['size'] == size


def test_pipes_devices_sockets_and_folders_are_a_line_each(clips, tmp_path, no_network, capfd):
    folder = tmp_path / 'odd'
    folder.mkdir()
    os.mkfifo(folder / 'pipe.mp4')
    (folder / 'zero.mp4').symlink_to('/dev/zero')
    (folder / 'folder.mp4').mkdir()
    (folder / 'loop.mp4').symlink_to('loop.mp4')
    (folder / 'good.mp4').write_bytes((clips / 'clip0.mp4').read_bytes())
    with socket(AF_UNIX) as listening:
        listening.bind(str(folder / 'socket.mp4'))
        assert main([str(folder), '--output', str(tmp_path / 'out'), *no_network[:2], *SMALL]) == 2
    lines = sorted(error_lines(capfd))
    assert [line.split(': ')[1].rpartition('/')[2] for line in lines] == [
        'folder.mp4', 'loop.mp4', 'pipe.mp4', 'socket.mp4', 'zero.mp4']
    assert 'is a pipe or a device' in lines[2] and 'is a pipe or a device' in lines[4]
    assert list(json.loads((tmp_path / 'out' / 'extraction.json').read_text())['videos']) == ['good']
    os.mkfifo(tmp_path / 'rows.npy')
    with pytest.raises(InputError, match='rows.npy: is a pipe'):
        read_rows(str(tmp_path / 'rows.npy'))


# ---- overlap --------------------------------------------------------------------------------------------------------

def snippets_by_video(items) -> dict[int, list]:
    videos: dict[int, list] = {}
    for item in items:
        videos.setdefault(item.video, []).append(item)
    return videos


def test_decoding_processes_yield_the_snippets_of_the_thread(clips):
    """Three videos, one of which is damaged."""
    (clips / 'clip1.mp4').write_bytes((clips / 'clip1.mp4').read_bytes()[:2000])
    paths = sorted(clips.iterdir())
    recipe = Recipe(resize='short32', crop=32, stride=8, flow=True)
    serial, parallel = (snippets_by_video(read_videos(paths, recipe, processes)) for processes in (0, 2))
    assert serial.keys() == parallel.keys() == {0, 1, 2}
    for video, items in serial.items():
        assert parallel[video][-1] == items[-1] and isinstance(items[-1], End)
        assert len(parallel[video]) == len(items) == {0: 4, 1: 1, 2: 9}[video]
        for ours, theirs in zip(items[:-1], parallel[video][:-1]):
            assert ours.rgb.tobytes() == theirs.rgb.tobytes() and ours.gray.tobytes() == theirs.gray.tobytes()
            assert isinstance(theirs.rgb, np.ndarray) and theirs.rgb.shape == (16, 32, 32, 3)
    assert 'clip1.mp4: ' in serial[1][-1].error and serial[2][-1].num_frames == 79


def test_videos_that_are_decoded_at_once_have_the_rows_of_each(clips, tmp_path, weights, monkeypatch):
    """As with a GPU, whose snippets come in any order."""
    monkeypatch.setattr('extraction.__main__.count_processes', lambda *_: 2)
    assert main([str(clips), '--output', str(tmp_path / 'mixed'), *weights[:2], *SMALL]) == 0
    monkeypatch.undo()
    assert main([str(clips), '--output', str(tmp_path / 'serial'), *weights[:2], *SMALL]) == 0
    assert contents(tmp_path / 'mixed') == contents(tmp_path / 'serial')


def test_a_killed_decoding_process_is_reported(clips):
    clip = sorted(clips.iterdir())[2]
    items = read_in_processes([clip] * 40, Recipe(resize='short32', crop=32, stride=1), 1)
    next(items)
    servers = children(os.getpid())
    workers = [worker for server in servers for worker in children(server)]
    os.kill(workers[-1], signal.SIGKILL)
    with pytest.raises(InputError, match='a decoding process was killed.*--workers'):
        list(items)


def test_the_number_of_decoding_processes_is_bounded(monkeypatch):
    free, gpu = 10 ** 12, torch.device('cuda')
    monkeypatch.setattr(decoders, 'disk_usage', lambda path: SimpleNamespace(free=free))
    assert count_processes(8, 20, Recipe(), gpu) == 8 and count_processes(8, 3, Recipe(), gpu) == 3
    assert count_processes(8, 20, Recipe(), torch.device('cpu')) == 0
    free = 64 * 2 ** 20  # of a container: a snippet has 2.4 MB
    assert count_processes(8, 20, Recipe(), gpu) == 2
    monkeypatch.undo()
    monkeypatch.setattr(decoders, 'SHARED_MEMORY', Path('/nonexistent'))
    assert count_processes(8, 20, Recipe(), gpu) == 0


def test_items_are_computed_ahead_in_order_and_errors_are_raised_in_their_place():
    started: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(6):
            started.append(i)
            if i == 5:
                raise ValueError('the sixth')
            yield i

    items = prefetch(numbers(), 3)
    assert next(items) == 0
    wait_until(lambda: len(started) == 4)
    assert [next(items) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match='the sixth'):
        next(items)
    closed = prefetch(iter(range(100)), 3)
    assert next(closed) == 0
    closed.close()


@pytest.mark.long
def test_two_hours_are_extracted_in_bounded_memory(tmp_path):
    """Compare the peak memory of processes that read 2 hours and 2 minutes."""
    peaks = []
    for minutes in (2, 120):
        path = render(tmp_path / f'{minutes}.mp4', steady(5, 60 * minutes), moving)
        code = (f'import resource, sys; sys.path[:0] = ["tests"]; from test_extraction import *; '
                f'rows = mean_brightness(Path({str(path)!r})); '
                f'assert len(rows["flow"]) == num_rows({60 * minutes * 25}); '
                f'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)')
        ended = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
        peaks.append(int(ended.stdout) / 1024)
    print(f'peak memory: {peaks[0]:.0f} MiB for 2 minutes, {peaks[1]:.0f} MiB for 2 hours')
    assert peaks[1] < peaks[0] + 50
