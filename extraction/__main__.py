"""From video files to a data folder: decode, optical flow, I3D, a row of 1024 features a stream for every 0.64 seconds.

    python -m extraction VIDEO_OR_FOLDER... --output DIR --rgb_weights rgb_imagenet.pt --flow_weights flow_imagenet.pt
    python main.py --data_path DIR --inference_only --model_file best.pt --exp_name NAME

Run it again to go on after an interruption, or with further videos: what is there already is kept.
"""
import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from tqdm import tqdm

from extraction.backbone import extract_by_backbone, load_backbone
from extraction.flow_pool import METHODS, FlowPool, FlowRecipe, TorchFlow
from extraction.frames import BadVideo, parse_resize, promised_duration, read_frames
from extraction.i3d import CHANNELS, Weights, build_i3d, introduce, read_weights, where_to_get
from extraction.record import Record, alone_in
from extraction.snippets import SNIPPET_FRAMES, Features, Network, extract, num_rows
from utils import InputError, Parser, bounded, plural, printable, quote, run_cli, truncate, warn

SUFFIXES = ('.mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .mts .m2ts .ts .vob .flv .wmv .3gp .3g2 .ogv .mxf .y4m .gif '
            '.mp3 .m4a .aac .wav .flac .ogg .opus .wma').split()    # sound is named as such, not passed over
PRECISIONS = ('fp32', 'bf16', 'fp64')
BATCH = {'cpu': 2, 'cuda': 32}    # snippets at a time
Extractor = Callable[[Iterable[np.ndarray]], Features]


# ---- the command line -----------------------------------------------------------------------------------------------

def get_parser() -> Parser:
    parser = Parser(prog='python -m extraction', description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    files = parser.add_argument_group('files')
    files.add_argument('videos', nargs='+', metavar='VIDEO_OR_FOLDER', help='a folder stands for the videos in it')
    files.add_argument('--output', type=Path, required=True, metavar='DIR', help='the data folder to write')
    files.add_argument('--split', default='test', choices=('train', 'test'), help='whose features they are')
    files.add_argument('--rgb_weights', help='I3D for RGB, in one of the two published namings')
    files.add_argument('--flow_weights', help='I3D for flow')
    files.add_argument('--backbone', metavar='MODULE:FUNCTION',
                       help='in place of I3D: a function from frames (F, H, W, 3) uint8 to (rows, width)')
    files.add_argument('--overwrite', action='store_true', help='extract anew what is there already')

    recipe = parser.add_argument_group('recipe (docs/videos.md tells where it is from)')
    recipe.add_argument('--fps', type=bounded(float, 0.1, 1000), default=25, help='frames a second')
    recipe.add_argument('--resize', type=resize, default='short256',
                        help='short256: the shorter side to 256; 340x256, squash224: to that size whatever the shape')
    recipe.add_argument('--crop', type=bounded(int, 32, 4096), default=224, help='side of the centre that is used')
    recipe.add_argument('--flow', choices=METHODS, default='tvl1',
                        help='dis is a draft, many times faster: not what I3D was trained on')
    recipe.add_argument('--flow_bound', type=bounded(float, 1e-3, 1000), default=20,
                        help='pixels a frame beyond which flow is cut off')
    recipe.add_argument('--quantize', action=argparse.BooleanOptionalAction, default=True,
                        help='flow in 256 levels, as the training of I3D stored it')

    machine = parser.add_argument_group('machine')
    machine.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    machine.add_argument('--workers', type=bounded(int, 0, 1024), default=len(os.sched_getaffinity(0)),
                         help='processes that compute flow; 0: none of its own')
    machine.add_argument('--precision', choices=PRECISIONS, default='fp32', help='of the networks')
    for group in (files, recipe, machine):
        for action in group._group_actions:
            if action.default not in (None, False, argparse.SUPPRESS):
                action.help = f'{action.help} (default: {action.default})'
    return parser


def resize(text: str) -> str:
    try:
        parse_resize(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = get_parser()
    args = parser.parse_args(argv)
    missing = [modality for modality in CHANNELS if getattr(args, f'{modality}_weights') is None]
    if args.backbone and len(missing) < len(CHANNELS):
        parser.error('--backbone takes the place of I3D; leave out the weights')
    if missing and not args.backbone:
        raise InputError(where_to_get(missing))
    if args.crop > min(parse_resize(args.resize)[1:]):
        parser.error(f'--crop {args.crop} is larger than frames of --resize {args.resize}')
    return args


# ---- videos ---------------------------------------------------------------------------------------------------------

def find_videos(places: list[str]) -> dict[str, Path]:
    """The video files by name, in order. Raises InputError where two would be written to one file."""
    videos: dict[str, Path] = {}
    for path in (path for place in places for path in files_of(Path(place))):
        same = {f'v_{path.stem}', path.stem, path.stem.removeprefix('v_')} & videos.keys()
        for name in same:
            if videos[name].absolute() != path.absolute():
                raise InputError(f'{videos[name]} and {path} are both the video {quote(name)} to a data folder, which '
                                 'knows videos by their names, without suffix and v_; rename one')
        if not same:
            videos[path.stem] = path
    return videos


def files_of(place: Path) -> list[Path]:
    """A file itself, or what lies in a folder and is a video by its suffix."""
    if not place.is_dir():
        return [place]
    files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != '.')
    if not files:
        raise InputError(f'{place}: holds no video ({" ".join(SUFFIXES[:6])} ...)')
    return files


# ---- extraction -----------------------------------------------------------------------------------------------------

def pick_device(name: str) -> torch.device:
    try:
        device = torch.device(('cuda' if torch.cuda.is_available() else 'cpu') if name == 'auto' else name)
        if device.type not in BATCH:
            raise RuntimeError
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f'--device {truncate(name)}: cannot be used here; give auto, cpu, cuda or cuda:N') from None
    return device


def recipe_of(args: argparse.Namespace) -> dict:
    """All that decides which numbers come out, except weights and versions."""
    flags = ['fps', 'resize', 'crop']
    flags += ['backbone'] if args.backbone else ['flow', 'flow_bound', 'quantize', 'precision']
    return {flag: getattr(args, flag) for flag in flags} | {'snippet_frames': SNIPPET_FRAMES}


def versions(args: argparse.Namespace, device: torch.device) -> dict[str, str]:
    found = {'python': platform.python_version(), 'numpy': np.__version__, 'torch': torch.__version__,
             'av': av.__version__, 'opencv': cv2.__version__, 'device': device.type}
    return found if args.backbone else found | {'flow by': flow_library(args, device)}


def flow_library(args: argparse.Namespace, device: torch.device) -> str:
    return 'torch' if device.type == 'cuda' and args.flow == 'tvl1' else 'opencv'    # PyPI's OpenCV has no CUDA


def extract_all(videos: dict[str, Path], extractor: Extractor, record: Record, args: argparse.Namespace) -> int:
    """Extract one video after the other; how many could not be."""
    expected = {name: frames_to_expect(path, args.fps) for name, path in videos.items()}
    bar = tqdm(total=sum(expected.values()), unit='frame', dynamic_ncols=True, smoothing=0.05,
               mininterval=0.1 if sys.stderr.isatty() else 30)

    def watched(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            yield frame
            bar.update()

    failed = 0
    for count, (name, path) in enumerate(videos.items(), 1):
        bar.set_description(f'{count}/{len(videos)} {truncate(name, 30)}', refresh=False)
        before = bar.n
        try:
            with closing(read_frames(path, args.fps, args.resize)) as frames:
                features = extractor(watched(frames))
            check(path, features, args.fps)
        except BadVideo as error:
            tqdm.write(f'error: {printable(error)}', file=sys.stderr)
            failed += 1
        else:
            record.write(name, features.streams, {
                'frames': features.num_frames, 'fps': args.fps, 'duration': features.num_frames / args.fps,
                'rows': len(features.streams['rgb']), 'file': str(path.absolute()), 'size': path.stat().st_size,
                'split': args.split})
        bar.total += bar.n - before - expected[name]    # which was a guess
    bar.close()
    return failed


def check(path: Path, features: Features, fps: float) -> None:
    """Raises BadVideo for a video without a row, InputError for rows that are no numbers."""
    count = features.num_frames
    if not features.streams:
        raise BadVideo(f'{path}: has {plural(count, "frame")} at {fps:g} fps; a row needs {SNIPPET_FRAMES + 1}')
    for stream, rows in features.streams.items():
        if not np.isfinite(rows).all():
            raise InputError(f'{path}: its {stream} rows are not all finite; check the weights or the backbone')
        if len(rows) not in (num_rows(count), count // SNIPPET_FRAMES):    # of a backbone
            warn(f'{path}: {plural(len(rows), "row")} of {plural(count, "frame")}; tell main.py and dataset.py '
                 f'--snippet_frames {count / len(rows):.4g}')


def frames_to_expect(path: Path, fps: float) -> int:
    try:
        return round(promised_duration(path) * fps)
    except BadVideo:    # said in its turn
        return 0


def run(args: argparse.Namespace) -> int:
    videos = find_videos(args.videos)
    device = pick_device(args.device)
    backbone = load_backbone(args.backbone) if args.backbone else None
    modalities = [] if backbone else list(CHANNELS)
    weights = [read_weights(getattr(args, f'{modality}_weights'), modality) for modality in modalities]
    ids = {file.modality: {'file': Path(file.path).name, 'git_blob': file.blob_id} for file in weights}
    with alone_in(args.output):
        record = Record(args.output, args.split, ('rgb',) if backbone else tuple(CHANNELS), recipe_of(args), ids,
                        versions(args, device), args.overwrite)
        record.open(list(videos))
        new = {name: path for name, path in videos.items() if not record.has(name, path)}
        print(f'{plural(len(new), "video")} to extract, {len(videos) - len(new)} there already', flush=True)
        if not new:
            return 0
        if backbone:
            extractor = partial(extract_by_backbone, backbone, crop=args.crop, folder=args.output)
            failed = extract_all(new, extractor, record, args)
        else:
            failed = extract_by_i3d(new, weights, record, args, device)
    done = f'{plural(len(new) - failed, "video")} extracted to {args.output}'
    print(done + (f', {failed} could not be' if failed else ''), flush=True)
    if args.fps != 25:
        print(f'dataset.py and main.py need --feature_fps {args.fps:g} for these', flush=True)
    return 2 if failed else 0


def extract_by_i3d(videos: dict[str, Path], weights: list[Weights], record: Record, args: argparse.Namespace,
                   device: torch.device) -> int:
    """Extract with I3D and optical flow; how many videos could not be."""
    for file in weights:
        introduce(file)
    dtype = torch.float64 if args.precision == 'fp64' else torch.float32
    networks: dict[str, Network] = {
        file.modality: build_i3d(file, dtype=dtype, device=device, precision=args.precision) for file in weights}
    recipe = FlowRecipe(args.flow, args.flow_bound, args.quantize, args.crop)
    with TorchFlow(recipe, device) if flow_library(args, device) == 'torch' else FlowPool(recipe, args.workers) as pool:
        extractor = partial(extract, networks=networks, pool=pool, crop=args.crop, batch_size=BATCH[device.type],
                            device=device, dtype=dtype)
        return extract_all(videos, extractor, record, args)


def main(argv: list[str] | None = None) -> int:
    return run_cli(lambda: run(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
