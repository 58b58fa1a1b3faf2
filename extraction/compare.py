r"""Find the recipe of published features: extract the first rows of a video in every way and rank them by similarity.

    python -m extraction.compare VIDEO rgb/VIDEO.npy flow/VIDEO.npy --weights rgb_imagenet flow_imagenet \
        --output recipes.json

A published file is (L, 1024) with rgb or flow in its name or that of its folder, or (L, 2048), RGB first. All
combinations of the values of the recipe flags are tried.
"""
import argparse
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.device import pick_device
from extraction.__main__ import resize
from extraction.download import NAMES, choose_weights, open_weights
from extraction.flow import quantize
from extraction.flow_workers import METHODS, FlowPool, center_crop
from extraction.frames import decode, parse_resize, read_frames
from extraction.i3d import CHANNELS, EPSILON, WIDTH, build_i3d, download_hint, log_weights_origin
from extraction.snippets import SNIPPET_FRAMES, End, Network, iter_snippets, to_clip, with_flow
from utils import (
    InputError,
    Parser,
    bounded,
    open_file,
    print_section,
    progress,
    refuse_overwriting_foreign,
    refuse_overwriting_inputs,
    run_cli,
    truncate,
    write_json,
)


class Grid(NamedTuple):
    """The values to try."""

    fps: tuple[float, ...] = (25, 30)
    resize: tuple[str, ...] = ('short256', '340x256', 'squash224')
    crop: tuple[int, ...] = (224, 256)              # those larger than the frames are skipped
    quantized: tuple[bool, ...] = (True, False)     # flow only
    epsilon: tuple[float, ...] = (EPSILON, 1e-5)    # of the batch norm
    offset: tuple[int, ...] = (0, 1, 8)             # frames skipped before the first row; < 0: repeats the first frame


class Variant(NamedTuple):
    """One way to compute the rows of a stream."""

    stream: str
    fps: float
    resize: str
    crop: int
    quantized: bool | None  # None for RGB
    epsilon: float
    offset: int


class Match(NamedTuple):
    """How similar the rows of a variant are to the published ones."""

    variant: Variant
    rows: int             # L of the whole video, to compare with the published number
    cosines: list[float]  # cosine similarity per compared row
    distance: float       # |ours - published| / |published|

    @property
    def cosine(self) -> float:
        """The mean cosine similarity."""
        return float(np.mean(self.cosines))


class FrameBlock(NamedTuple):
    """SNIPPET_FRAMES frames at full size and the flow from each to the next."""

    rgb: np.ndarray          # (16, H, W, 3) uint8
    flow: np.ndarray | None  # (16, H, W, 2) float32 in pixels; None if only RGB is compared


# ---- rows of all variants -------------------------------------------------------------------------------------------

def flow_fields(method: str, gray: np.ndarray) -> np.ndarray:
    """Return the flow in pixels: (F + 1, H, W) uint8 -> (F, H, W, 2)."""
    return np.stack([METHODS[method](first, second) for first, second in pairwise(gray)])


def frame_blocks(frames: Iterable[np.ndarray], pool: FlowPool | None) -> Iterator[FrameBlock]:
    """Cut frames into blocks, in order; without a pool there is no flow."""
    if pool is None:
        for snippet in iter_snippets(frames, flow=False):
            yield FrameBlock(snippet.rgb, None)
    else:
        for clips in with_flow(iter_snippets(frames), pool):
            assert not isinstance(clips, End)
            yield FrameBlock(clips.rgb, clips.flow)


def pad_frames(frames: Iterable[np.ndarray], before: int) -> Iterator[np.ndarray]:
    """Repeat the first frame `before` times, and the last one so that every row has a following block."""
    frame = None
    for frame in frames:
        yield from [frame] * before
        before = 0
        yield frame
    if frame is not None:
        yield from [frame] * SNIPPET_FRAMES


def prepare_clip(images: list[np.ndarray], crop: int, quantized: bool | None) -> np.ndarray:
    """Return the clip (16, crop, crop, C) of frames or flow fields at full size; flow in [-1, 1]."""
    clip = np.stack([center_crop(image, crop) for image in images])
    return clip if quantized is None else quantize(clip, enabled=quantized)


def rows_of_block(block: FrameBlock, following: FrameBlock, grid: Grid, networks: dict[tuple[str, float], Network],
                  before: int, device: torch.device | str) -> Iterator[tuple[Variant, Tensor]]:
    """Yield the row (D,) of each variant that begins in a block; clips of one size are one batch.

    The block has the first frame rate and size of the grid. before: number of repeated frames before the first one.
    """
    crops = [crop for crop in grid.crop if crop <= min(block.rgb.shape[1:3])]
    for stream, crop in product(dict.fromkeys(stream for stream, _ in networks), crops):
        images = [*getattr(block, stream), *getattr(following, stream)]
        kinds = list(product((None,) if stream == 'rgb' else grid.quantized, grid.offset))
        starts = [offset + before for _, offset in kinds]
        clips = [prepare_clip(images[start:start + SNIPPET_FRAMES], crop, quantized)
                 for start, (quantized, _) in zip(starts, kinds)]
        batch = to_clip(clips, device, torch.float32)
        for epsilon in grid.epsilon:
            with torch.inference_mode():
                rows = networks[stream, epsilon](batch).mean(dim=1).float().cpu()  # (N, 1, D) -> (N, D)
            for row, (quantized, offset) in zip(rows, kinds):
                yield Variant(stream, grid.fps[0], grid.resize[0], crop, quantized, epsilon, offset), row


def rows_of_variants(path: Path, grid: Grid, networks: dict[tuple[str, float], Network], pool: FlowPool | None,
                     num_rows: int, device: torch.device | str = 'cpu') -> dict[Variant, np.ndarray]:
    """Compute the first rows (at most num_rows, D) of a video for each variant.

    networks: by stream and epsilon; without a pool only those for RGB. Each combination of frame rate and size is
    decoded once, and its flow is computed once. Memory is bounded by the rows.
    """
    rows: dict[Variant, list[Tensor]] = {}
    before = max(0, -min(grid.offset))
    with progress(total=len(grid.fps) * len(grid.resize) * num_rows, desc='comparing', unit='row') as bar:
        for fps, size in product(grid.fps, grid.resize):
            bar.set_description_str(f'{fps:g} fps, {size}')
            with closing(read_frames(path, fps, size)) as frames:
                needed = islice(pad_frames(frames, before), SNIPPET_FRAMES * (num_rows + 1) + 1)
                for block, following in pairwise(frame_blocks(needed, pool)):
                    one = grid._replace(fps=(fps,), resize=(size,))
                    for variant, row in rows_of_block(block, following, one, networks, before, device):
                        rows.setdefault(variant, []).append(row)
                    bar.update()
    return {variant: torch.stack(parts).numpy() for variant, parts in rows.items()}


def count_rows(path: Path, grid: Grid) -> dict[tuple[float, int], int]:
    """Return L of the whole video by frame rate and offset."""
    num_frames = {fps: sum(1 for _ in decode(path, fps)) for fps in grid.fps}
    return {(fps, offset): max(0, (num_frames[fps] - offset - 1) // SNIPPET_FRAMES)
            for fps, offset in product(grid.fps, grid.offset)}


# ---- comparison -----------------------------------------------------------------------------------------------------

def rank_variants(rows: dict[Variant, np.ndarray], lengths: dict[tuple[float, int], int],
                  published: dict[str, np.ndarray]) -> list[Match]:
    """Compare each variant with the published rows of its stream; RGB before flow, the most similar variant first.

    lengths: L by frame rate and offset. Sorted by mean cosine similarity, equal ones by distance.
    """
    matches = []
    for variant, own in rows.items():
        length = lengths[variant.fps, variant.offset]
        theirs = published[variant.stream].astype(np.float64)
        compared = min(len(own), len(theirs), length)
        if not compared:
            continue
        ours, theirs = own[:compared].astype(np.float64), theirs[:compared]
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines = (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-30)
        distance = float(np.linalg.norm(ours - theirs)) / max(float(np.linalg.norm(theirs)), 1e-30)
        matches.append(Match(variant, length, cosines.tolist(), distance))
    streams = list(CHANNELS)
    return sorted(matches, key=lambda match: (streams.index(match.variant.stream), -match.cosine, match.distance))


def read_published(paths: list[str]) -> dict[str, np.ndarray]:
    """Read published rows by stream; raises InputError for invalid files and where the stream is unclear."""
    published: dict[str, np.ndarray] = {}
    for path in paths:
        rows = read_rows(path)
        parts = {stream_of(path): rows} if rows.shape[1] == WIDTH else {'rgb': rows[:, :WIDTH], 'flow': rows[:, WIDTH:]}
        for stream, part in parts.items():
            if stream in published:
                raise InputError(f'{path}: contains {stream} features, as an earlier file does; use one of each stream')
            published[stream] = part
    return published


def read_rows(path: str) -> np.ndarray:
    """Read published rows; raises InputError for anything else than finite I3D features."""
    try:
        with open_file(path) as file:
            rows = np.load(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or truncate(error)}') from None
    except (ValueError, EOFError):
        raise InputError(f'{path}: not a .npy file of numbers; download it again') from None
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] not in (WIDTH, 2 * WIDTH) or not len(rows):
        shape = getattr(rows, 'shape', 'several arrays')
        raise InputError(f'{path}: contains {shape}, not (L, {WIDTH}) or (L, {2 * WIDTH}) I3D features')
    if rows.dtype.kind not in 'fiu' or not np.isfinite(rows).all():
        raise InputError(f'{path}: contains other values than finite numbers')
    return rows


def stream_of(path: str) -> str:
    """Return 'rgb' or 'flow', by the file's name or the nearest folder that has one of them in its name."""
    for part in reversed(Path(path).absolute().parts):
        streams = [stream for stream in CHANNELS if stream in part.lower()]
        if len(streams) == 1:
            return streams[0]
    raise InputError(f'{path}: neither its name nor that of a folder contains rgb or flow; rename it')


# ---- the command ----------------------------------------------------------------------------------------------------

def get_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog='python -m extraction.compare', description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('video', type=Path, metavar='VIDEO')
    parser.add_argument('published', nargs='+', metavar='PUBLISHED.npy')
    parser.add_argument('--weights', nargs='+', default=[], choices=NAMES, metavar='NAME',
                        help=f'published weights of I3D, downloaded once: {" ".join(NAMES)}')
    parser.add_argument('--rgb_weights', metavar='FILE', help='I3D weights for RGB')
    parser.add_argument('--flow_weights', metavar='FILE', help='I3D weights for flow')
    parser.add_argument('--output', metavar='FILE', help='write all variants as JSON')
    parser.add_argument('--overwrite', action='store_true', help='also overwrite a file that is not such a list')
    parser.add_argument('--rows', type=bounded(int, 1), default=5, help='compare only the first rows (default: 5)')
    grid = parser.add_argument_group('recipes: all given values are tried')
    default = Grid()
    grid.add_argument('--fps', type=bounded(float, 0.1, 1000), nargs='+', default=default.fps)
    grid.add_argument('--resize', type=resize, nargs='+', default=default.resize)
    grid.add_argument('--crop', type=bounded(int, 32, 4096), nargs='+', default=default.crop)
    grid.add_argument('--offset', type=bounded(int, -8, 8), nargs='+', default=default.offset,
                      help='frames skipped before the first row; negative values repeat the first frame')
    grid.add_argument('--epsilon', type=bounded(float, 0, 1), nargs='+', default=default.epsilon,
                      help='of the batch norm')
    machine = parser.add_argument_group('machine')
    machine.add_argument('--flow', choices=METHODS, default='tvl1', help='dis is many times faster, for drafts')
    machine.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    machine.add_argument('--workers', type=bounded(int, 0, 1024), default=len(os.sched_getaffinity(0)),
                         help='worker processes for optical flow; 0: compute it in the main process')
    for action in grid._group_actions:
        values = ' '.join(f'{value:g}' if isinstance(value, float) else str(value) for value in action.default)
        action.help = f'{action.help or ""} (default: {values})'.strip()
    return parser


def table_lines(matches: list[Match], published: dict[str, np.ndarray]) -> Iterator[str]:
    """Yield the lines of the printed table."""
    yield 'cosine    distance   rows       fps  resize     crop  quantized  epsilon  offset'
    for match in matches:
        variant = match.variant
        quantized = {None: '-', True: 'yes', False: 'no'}[variant.quantized]
        rows = f'{match.rows}/{len(published[variant.stream])}'
        yield (f'{match.cosine:.6f}  {match.distance:.2e}  {rows:9}  {variant.fps:3g}  {variant.resize:9}  '
               f'{variant.crop:4}  {quantized:9}  {variant.epsilon:7g}  {variant.offset:6}')


def run(args: argparse.Namespace) -> None:
    """Compare all variants with the published features, print them and write them to --output."""
    refuse_overwriting_inputs([args.video, *args.published, args.rgb_weights, args.flow_weights], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, r'{\s*"video": .*\s*"published_rows"')
    published = read_published(args.published)
    sources = choose_weights(args.weights, {'rgb': args.rgb_weights, 'flow': args.flow_weights})
    streams = [stream for stream in CHANNELS if stream in published]
    if missing := [stream for stream in streams if stream not in sources]:
        raise InputError(download_hint(missing))
    grid = Grid(**{name: tuple(dict.fromkeys(getattr(args, name))) for name in ('fps', 'resize', 'crop', 'epsilon',
                                                                                'offset')})
    if min(grid.crop) > min(min(parse_resize(size)[1:]) for size in grid.resize):
        raise InputError(f'--crop {min(grid.crop)} is larger than the frames of a --resize')
    device = pick_device(args.device)
    networks: dict[tuple[str, float], Network] = {}
    for stream in streams:
        weights = open_weights(stream, sources[stream])
        log_weights_origin(weights)
        networks |= {(stream, epsilon): build_i3d(weights, epsilon, device=device) for epsilon in grid.epsilon}
    lengths = count_rows(args.video, grid)
    num_rows = min(args.rows, max(map(len, published.values())), max(lengths.values()))
    with FlowPool(partial(flow_fields, args.flow), args.workers) as pool:
        rows = rows_of_variants(args.video, grid, networks, pool if 'flow' in streams else None, num_rows, device)
    matches = rank_variants(rows, lengths, published)
    if not matches:
        raise InputError(f'{args.video}: too short: contains no row to compare')
    for stream in streams:
        print_section(stream, table_lines([match for match in matches if match.variant.stream == stream], published), 6)
    if args.output:
        write_json(args.output, {
            'video': str(args.video), 'published_rows': {stream: len(rows) for stream, rows in published.items()},
            'flow': args.flow, 'variants': [
                match.variant._asdict() | {'rows': match.rows, 'cosine': match.cosine, 'distance': match.distance,
                                           'cosines': match.cosines} for match in matches]})


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_cli(lambda: run(get_parser().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
