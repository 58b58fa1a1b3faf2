"""Which recipe made published features? Extracts the first rows of a video in every way, the nearest one first.

    python -m extraction.compare VIDEO rgb/VIDEO.npy flow/VIDEO.npy --rgb_weights rgb_imagenet.pt \\
        --flow_weights flow_imagenet.pt --output recipes.json

A published file is (L, 1024) with rgb or flow in its name or its folder's, or (L, 2048), RGB first. Every value given
to a flag of the recipe is tried with every other one.
"""
import argparse
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice, pairwise, product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from extraction.__main__ import pick_device, resize
from extraction.flow import quantize
from extraction.flow_pool import METHODS, FlowPool, centre
from extraction.frames import decode, parse_resize, read_frames
from extraction.i3d import CHANNELS, EPSILON, WIDTH, build_i3d, introduce, read_weights, where_to_get
from extraction.snippets import SNIPPET_FRAMES, Network, snippets, to_clip
from utils import InputError, Parser, refuse_overwriting_inputs, refuse_overwriting_foreign, bounded, print_section, run_cli, truncate, write_json


class Grid(NamedTuple):
    """The values that are tried."""
    fps: tuple[float, ...] = (25, 30)
    resize: tuple[str, ...] = ('short256', '340x256', 'squash224')
    crop: tuple[int, ...] = (224, 256)               # those larger than the frames are left out
    quantized: tuple[bool, ...] = (True, False)      # flow alone
    epsilon: tuple[float, ...] = (EPSILON, 1e-5)     # of the batch norm
    offset: tuple[int, ...] = (0, 1, 8)              # frames before the first row; below 0 the first frame is repeated


class Variant(NamedTuple):
    """One way to make the rows of a stream."""
    stream: str
    fps: float
    resize: str
    crop: int
    quantized: bool | None    # None for RGB
    epsilon: float
    offset: int


class Comparison(NamedTuple):
    """How near the rows of a variant are to the published ones."""
    variant: Variant
    rows: int                 # L of the whole video, to be compared with the published number
    cosines: list[float]      # of each row that was compared
    distance: float           # |ours - published| / |published|

    @property
    def cosine(self) -> float:
        return float(np.mean(self.cosines))


class Block(NamedTuple):
    """SNIPPET_FRAMES frames of whole size and the flow from each to the next."""
    rgb: np.ndarray           # (16, H, W, 3) uint8
    flow: np.ndarray | None   # (16, H, W, 2) float32 in pixels; None where nobody asks for it


# ---- rows of all variants -------------------------------------------------------------------------------------------

def fields(method: str, grey: np.ndarray) -> np.ndarray:
    """(F + 1, H, W) uint8 -> (F, H, W, 2), the flow in pixels."""
    return np.stack([METHODS[method](first, second) for first, second in pairwise(grey)])


def blocks(frames: Iterable[np.ndarray], pool: FlowPool | None) -> Iterator[Block]:
    """Frames cut into blocks in order; without a pool there is no flow."""
    waiting: deque = deque()
    for snippet in snippets(frames):
        if pool is None:
            yield Block(snippet.rgb, None)
            continue
        waiting.append((snippet.rgb, pool.submit(snippet.grey)))
        if len(waiting) > pool.depth:
            rgb, task = waiting.popleft()
            yield Block(rgb, pool.result(task))
    for rgb, task in waiting:
        if pool is not None:
            yield Block(rgb, pool.result(task))


def lengthened(frames: Iterable[np.ndarray], before: int) -> Iterator[np.ndarray]:
    """The first frame repeated before, and the last so often behind that every row has a following block."""
    frame = None
    for frame in frames:
        yield from [frame] * before
        before = 0
        yield frame
    if frame is not None:
        yield from [frame] * SNIPPET_FRAMES


def clip_of(images: list[np.ndarray], crop: int, quantized: bool | None) -> np.ndarray:
    """The clip (16, crop, crop, C) of whole frames or fields, flow in [-1, 1]."""
    clip = np.stack([centre(image, crop) for image in images])
    return clip if quantized is None else quantize(clip, enabled=quantized)


def rows_of_block(block: Block, following: Block, grid: Grid, networks: dict[tuple[str, float], Network],
                  before: int, device: torch.device | str) -> Iterator[tuple[Variant, Tensor]]:
    """The row (D,) of each variant that begins in a block; clips of one size go through a network together.

    Their rate and size are those of the first values in grid. before: frames that stand before the first true one.
    """
    crops = [crop for crop in grid.crop if crop <= min(block.rgb.shape[1:3])]
    for stream, crop in product(dict.fromkeys(stream for stream, _ in networks), crops):
        images = [*getattr(block, stream), *getattr(following, stream)]
        kinds = list(product((None,) if stream == 'rgb' else grid.quantized, grid.offset))
        starts = [offset + before for _, offset in kinds]
        clips = [clip_of(images[start:start + SNIPPET_FRAMES], crop, quantized)
                 for start, (quantized, _) in zip(starts, kinds)]
        batch = to_clip(clips, device, torch.float32)
        for epsilon in grid.epsilon:
            with torch.inference_mode():
                rows = networks[stream, epsilon](batch).mean(dim=1).float().cpu()    # (N, 1, D) -> (N, D)
            for row, (quantized, offset) in zip(rows, kinds):
                yield Variant(stream, grid.fps[0], grid.resize[0], crop, quantized, epsilon, offset), row


def rows_of_variants(path: Path, grid: Grid, networks: dict[tuple[str, float], Network], pool: FlowPool | None,
                     num_rows: int, device: torch.device | str = 'cpu') -> dict[Variant, np.ndarray]:
    """The first rows (at most num_rows, D) of a video by each variant.

    networks: by stream and epsilon; without a pool none for flow. Each combination of rate and size is decoded once and
    has its flow computed once. Memory is bounded by the rows.
    """
    rows: dict[Variant, list[Tensor]] = {}
    before = max(0, -min(grid.offset))
    with tqdm(total=len(grid.fps) * len(grid.resize) * num_rows, unit='row', dynamic_ncols=True,
              mininterval=0.1 if sys.stderr.isatty() else 30) as bar:
        for fps, size in product(grid.fps, grid.resize):
            bar.set_description(f'{fps:g} fps, {size}')
            with closing(read_frames(path, fps, size)) as frames:
                needed = islice(lengthened(frames, before), SNIPPET_FRAMES * (num_rows + 1) + 1)
                for block, following in pairwise(blocks(needed, pool)):
                    one = grid._replace(fps=(fps,), resize=(size,))
                    for variant, row in rows_of_block(block, following, one, networks, before, device):
                        rows.setdefault(variant, []).append(row)
                    bar.update()
    return {variant: torch.stack(found).numpy() for variant, found in rows.items()}


def count_rows(path: Path, grid: Grid) -> dict[tuple[float, int], int]:
    """L of the whole video by rate and offset."""
    num_frames = {fps: sum(1 for _ in decode(path, fps)) for fps in grid.fps}
    return {(fps, offset): max(0, (num_frames[fps] - offset - 1) // SNIPPET_FRAMES)
            for fps, offset in product(grid.fps, grid.offset)}


# ---- comparison -----------------------------------------------------------------------------------------------------

def rank(found: dict[Variant, np.ndarray], lengths: dict[tuple[float, int], int], published: dict[str, np.ndarray]
         ) -> list[Comparison]:
    """The variants beside the published rows of their stream, RGB before flow, the nearest first.

    lengths: L by rate and offset. Nearest by mean cosine; among equal ones by distance.
    """
    comparisons = []
    for variant, rows in found.items():
        length = lengths[variant.fps, variant.offset]
        theirs = published[variant.stream].astype(np.float64)
        compared = min(len(rows), len(theirs), length)
        if not compared:
            continue
        ours, theirs = rows[:compared].astype(np.float64), theirs[:compared]
        norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
        cosines = (ours * theirs).sum(axis=1) / np.maximum(norms, 1e-30)
        distance = float(np.linalg.norm(ours - theirs)) / max(float(np.linalg.norm(theirs)), 1e-30)
        comparisons.append(Comparison(variant, length, cosines.tolist(), distance))
    streams = list(CHANNELS)
    return sorted(comparisons, key=lambda one: (streams.index(one.variant.stream), -one.cosine, one.distance))


def read_published(paths: list[str]) -> dict[str, np.ndarray]:
    """The published rows by stream. Raises InputError for files that are none or of which the stream is not clear."""
    published: dict[str, np.ndarray] = {}
    for path in paths:
        rows = read_rows(path)
        parts = {stream_of(path): rows} if rows.shape[1] == WIDTH else {'rgb': rows[:, :WIDTH], 'flow': rows[:, WIDTH:]}
        for stream, own in parts.items():
            if stream in published:
                raise InputError(f'{path}: holds {stream} features as a file before it does; give one of each stream')
            published[stream] = own
    return published


def read_rows(path: str) -> np.ndarray:
    try:
        rows = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f'{path}: cannot be read: {error.strerror or truncate(error)}') from None
    except (ValueError, EOFError):
        raise InputError(f'{path}: not a .npy file of numbers; download it again') from None
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] not in (WIDTH, 2 * WIDTH) or not len(rows):
        shape = getattr(rows, 'shape', 'several arrays')
        raise InputError(f'{path}: holds {shape}, not (L, {WIDTH}) or (L, {2 * WIDTH}) features of I3D')
    if rows.dtype.kind not in 'fiu' or not np.isfinite(rows).all():
        raise InputError(f'{path}: holds something else than finite numbers')
    return rows


def stream_of(path: str) -> str:
    """'rgb' or 'flow', by the file's name or the nearest folder that has one of them in its name."""
    for part in reversed(Path(path).absolute().parts):
        found = [stream for stream in CHANNELS if stream in part.lower()]
        if len(found) == 1:
            return found[0]
    raise InputError(f'{path}: neither its name nor a folder of it says rgb or flow; rename it, or move it to such a '
                     'folder')


# ---- the command ----------------------------------------------------------------------------------------------------

def get_parser() -> Parser:
    parser = Parser(prog='python -m extraction.compare', description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('video', type=Path, metavar='VIDEO')
    parser.add_argument('published', nargs='+', metavar='PUBLISHED.npy')
    parser.add_argument('--rgb_weights', help='I3D for RGB')
    parser.add_argument('--flow_weights', help='I3D for flow')
    parser.add_argument('--output', metavar='FILE', help='write all variants as JSON')
    parser.add_argument('--overwrite', action='store_true', help='also write over a file that is no such list')
    parser.add_argument('--rows', type=bounded(int, 1), default=5, help='compare the first rows only (default: 5)')
    grid = parser.add_argument_group('recipes: all values that are given are tried')
    default = Grid()
    grid.add_argument('--fps', type=bounded(float, 0.1, 1000), nargs='+', default=default.fps)
    grid.add_argument('--resize', type=resize, nargs='+', default=default.resize)
    grid.add_argument('--crop', type=bounded(int, 32, 4096), nargs='+', default=default.crop)
    grid.add_argument('--offset', type=bounded(int, -8, 8), nargs='+', default=default.offset,
                      help='frames left out before the first row; below 0 the first frame is repeated')
    grid.add_argument('--epsilon', type=bounded(float, 0, 1), nargs='+', default=default.epsilon,
                      help='of the batch norm')
    machine = parser.add_argument_group('machine')
    machine.add_argument('--flow', choices=METHODS, default='tvl1', help='dis is a draft, many times faster')
    machine.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    machine.add_argument('--workers', type=bounded(int, 0, 1024), default=len(os.sched_getaffinity(0)),
                         help='processes that compute flow; 0: none of its own')
    for action in grid._group_actions:
        values = ' '.join(f'{value:g}' if isinstance(value, float) else str(value) for value in action.default)
        action.help = f'{action.help or ""} (default: {values})'.strip()
    return parser


def table(comparisons: list[Comparison], published: dict[str, np.ndarray]) -> Iterator[str]:
    """The lines that are printed."""
    yield 'cosine    distance   rows       fps  resize     crop  quantized  epsilon  offset'
    for one in comparisons:
        variant = one.variant
        kept = {None: '-', True: 'yes', False: 'no'}[variant.quantized]
        rows = f'{one.rows}/{len(published[variant.stream])}'
        yield (f'{one.cosine:.6f}  {one.distance:.2e}  {rows:9}  {variant.fps:3g}  {variant.resize:9}  '
               f'{variant.crop:4}  {kept:9}  {variant.epsilon:7g}  {variant.offset:6}')


def run(args: argparse.Namespace) -> None:
    refuse_overwriting_inputs([args.video, *args.published, args.rgb_weights, args.flow_weights], args.output)
    if not args.overwrite:
        refuse_overwriting_foreign(args.output, r'{\s*"video": .*\s*"published_rows"')
    published = read_published(args.published)
    files = {stream: getattr(args, f'{stream}_weights') for stream in CHANNELS if stream in published}
    if missing := [stream for stream, file in files.items() if file is None]:
        raise InputError(where_to_get(missing))
    grid = Grid(**{name: tuple(dict.fromkeys(getattr(args, name))) for name in ('fps', 'resize', 'crop', 'epsilon',
                                                                                'offset')})
    if min(grid.crop) > min(min(parse_resize(size)[1:]) for size in grid.resize):
        raise InputError(f'--crop {min(grid.crop)} is larger than the frames of a --resize')
    device = pick_device(args.device)
    networks: dict[tuple[str, float], Network] = {}
    for stream, file in files.items():
        weights = read_weights(file, stream)
        introduce(weights)
        networks |= {(stream, epsilon): build_i3d(weights, epsilon, device=device) for epsilon in grid.epsilon}
    lengths = count_rows(args.video, grid)
    num_rows = min(args.rows, max(map(len, published.values())), max(lengths.values()))
    with FlowPool(partial(fields, args.flow), args.workers) as pool:
        found = rows_of_variants(args.video, grid, networks, pool if 'flow' in files else None, num_rows, device)
    comparisons = rank(found, lengths, published)
    if not comparisons:
        raise InputError(f'{args.video}: too short, has no row to compare')
    for stream in files:
        print_section(stream, table([one for one in comparisons if one.variant.stream == stream], published), 6)
    if args.output:
        write_json(args.output, {
            'video': str(args.video), 'published_rows': {stream: len(rows) for stream, rows in published.items()},
            'flow': args.flow, 'variants': [
                one.variant._asdict() | {'rows': one.rows, 'cosine': one.cosine, 'distance': one.distance,
                                         'cosines': one.cosines} for one in comparisons]})


def main(argv: list[str] | None = None) -> int:
    return run_cli(lambda: run(get_parser().parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
