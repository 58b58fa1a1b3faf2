"""Extract features: decode videos, compute optical flow, run I3D, and write a data folder.

    python -m extraction VIDEO_OR_FOLDER... --output DIR --rgb_weights rgb_imagenet.pt --flow_weights flow_imagenet.pt
    python main.py --data_path DIR --inference_only --model_file best.pt --exp_name NAME

Each stream gets one row of 1024 features per 0.64 seconds. Run the same command again to resume after an interruption
or to add videos: those that are already extracted are skipped.
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

from engine.device import pick_device
from engine.lock import Lock
from extraction.backbone import extract_by_backbone, load_backbone
from extraction.flow_workers import METHODS, FlowPool, FlowRecipe, TorchFlow
from extraction.frames import BadVideo, header_duration, parse_resize, read_frames
from extraction.i3d import CHANNELS, Weights, build_i3d, download_hint, log_weights_origin, read_weights
from extraction.manifest import Manifest
from extraction.snippets import SNIPPET_FRAMES, Features, Network, extract, num_rows
from formats.videos import SUFFIXES, list_videos
from utils import InputError, Parser, bounded, make_dir, plural, printable, quote, run_cli, truncate, warn

# Audio files in a folder are reported as such instead of being skipped.
AUDIO_SUFFIXES = ('.mp3', '.m4a', '.aac', '.wav', '.flac', '.ogg', '.opus', '.wma')
PRECISIONS = ('fp32', 'bf16', 'fp64')
BATCH_SIZES = {'cpu': 2, 'cuda': 32}  # snippets
Extractor = Callable[[Iterable[np.ndarray]], Features]


# ---- the command line -----------------------------------------------------------------------------------------------

def get_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog='python -m extraction', description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    files = parser.add_argument_group('files')
    files.add_argument('videos', nargs='+', metavar='VIDEO_OR_FOLDER', help='video files, or folders of videos')
    files.add_argument('--output', type=Path, required=True, metavar='DIR', help='data folder to write')
    files.add_argument('--split', default='test', choices=('train', 'test'), help='split the videos belong to')
    files.add_argument('--rgb_weights', help='I3D weights for RGB, in either published naming')
    files.add_argument('--flow_weights', help='I3D weights for flow')
    files.add_argument('--backbone', metavar='MODULE:FUNCTION',
                       help='instead of I3D: a function from frames (F, H, W, 3) uint8 to (rows, width)')
    files.add_argument('--overwrite', action='store_true', help='extract videos again that are already extracted')

    recipe = parser.add_argument_group('recipe (see docs/videos.md for its source)')
    recipe.add_argument('--fps', type=bounded(float, 0.1, 1000), default=25, help='frames per second')
    recipe.add_argument('--resize', type=resize, default='short256',
                        help='short256: shorter side to 256; 340x256, squash224: to that size, ignoring the aspect '
                             'ratio')
    recipe.add_argument('--crop', type=bounded(int, 32, 4096), default=224, help='side of the center crop')
    recipe.add_argument('--flow', choices=METHODS, default='tvl1',
                        help='optical flow; dis is many times faster, for drafts: I3D was not trained on it')
    recipe.add_argument('--flow_bound', type=bounded(float, 1e-3, 1000), default=20,
                        help='pixels per frame at which flow is clipped')
    recipe.add_argument('--quantize', action=argparse.BooleanOptionalAction, default=True,
                        help='flow in 256 levels, as in the training of I3D')

    machine = parser.add_argument_group('machine')
    machine.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    machine.add_argument('--workers', type=bounded(int, 0, 1024), default=len(os.sched_getaffinity(0)),
                         help='worker processes for optical flow; 0: compute it in the main process')
    machine.add_argument('--precision', choices=PRECISIONS, default='fp32', help='of I3D')
    for group in (files, recipe, machine):
        for action in group._group_actions:
            if action.default not in (None, False, argparse.SUPPRESS):
                action.help = f'{action.help} (default: {action.default})'
    return parser


def resize(text: str) -> str:
    """Return a valid --resize; an argparse type."""
    try:
        parse_resize(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the arguments and check their combinations."""
    parser = get_parser()
    args = parser.parse_args(argv)
    missing = [modality for modality in CHANNELS if getattr(args, f'{modality}_weights') is None]
    if args.backbone and len(missing) < len(CHANNELS):
        parser.error('--backbone replaces I3D: leave out --rgb_weights and --flow_weights')
    if missing and not args.backbone:
        raise InputError(download_hint(missing))
    if args.crop > min(parse_resize(args.resize)[1:]):
        parser.error(f'--crop {args.crop} is larger than frames of --resize {args.resize}')
    return args


# ---- videos ---------------------------------------------------------------------------------------------------------

def collect_videos(places: list[str]) -> dict[str, Path]:
    """Return the video files by name, in order; raises InputError where two have the same name."""
    videos: dict[str, Path] = {}
    for path in (path for place in places for path in files_in(Path(place))):
        same = {f'v_{path.stem}', path.stem, path.stem.removeprefix('v_')} & videos.keys()
        for name in same:
            if videos[name].absolute() != path.absolute():
                raise InputError(f'{videos[name]} and {path} would both be the video {quote(name)} of the data folder: '
                                 f'names are without suffix and v_; rename one')
        if not same:
            videos[path.stem] = path
    return videos


def files_in(place: Path) -> list[Path]:
    """Return the video and audio files in a folder; for a file, the file itself."""
    if not place.is_dir():
        return [place]
    audio = [path for path in place.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES and path.name[0] != '.']
    files = sorted([*list_videos(place), *audio])
    if not files:
        raise InputError(f'{place}: contains no video ({" ".join(SUFFIXES[:6])} ...)')
    return files


# ---- extraction -----------------------------------------------------------------------------------------------------

def recipe_of(args: argparse.Namespace) -> dict:
    """Return everything that determines the features, except weights and versions."""
    flags = ['fps', 'resize', 'crop']
    flags += ['backbone'] if args.backbone else ['flow', 'flow_bound', 'quantize', 'precision']
    return {flag: getattr(args, flag) for flag in flags} | {'snippet_frames': SNIPPET_FRAMES}


def versions(args: argparse.Namespace, device: torch.device) -> dict[str, str]:
    """Return the versions of the libraries, and the device."""
    libraries = {'python': platform.python_version(), 'numpy': np.__version__, 'torch': torch.__version__,
                 'av': av.__version__, 'opencv': cv2.__version__, 'device': device.type}
    return libraries if args.backbone else libraries | {'flow by': flow_library(args, device)}


def flow_library(args: argparse.Namespace, device: torch.device) -> str:
    """Return the library that computes optical flow: OpenCV from PyPI has no CUDA."""
    return 'torch' if device.type == 'cuda' and args.flow == 'tvl1' else 'opencv'


def extract_all(videos: dict[str, Path], extractor: Extractor, manifest: Manifest, args: argparse.Namespace) -> int:
    """Extract the videos in order; return how many failed."""
    expected = {name: expected_frames(path, args.fps) for name, path in videos.items()}
    bar = tqdm(total=sum(expected.values()), unit='frame', dynamic_ncols=True, smoothing=0.05,
               mininterval=0.1 if sys.stderr.isatty() else 30)

    def with_progress(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        for frame in frames:
            yield frame
            bar.update()

    failed = 0
    for count, (name, path) in enumerate(videos.items(), 1):
        bar.set_description(f'{count}/{len(videos)} {truncate(name, 30)}', refresh=False)
        before = bar.n
        try:
            with closing(read_frames(path, args.fps, args.resize)) as frames:
                features = extractor(with_progress(frames))
            check_features(path, features, args.fps)
        except BadVideo as error:
            tqdm.write(f'error: {printable(error)}', file=sys.stderr)
            failed += 1
        else:
            manifest.write(name, features.streams, {
                'frames': features.num_frames, 'fps': args.fps, 'duration': features.num_frames / args.fps,
                'rows': len(features.streams['rgb']), 'file': str(path.absolute()), 'size': path.stat().st_size,
                'split': args.split})
        bar.total += bar.n - before - expected[name]  # replaces the estimate
    bar.close()
    return failed


def check_features(path: Path, features: Features, fps: float) -> None:
    """Check the rows of a video; raises BadVideo where there are none, InputError for NaN and infinity."""
    count = features.num_frames
    if not features.streams:
        raise BadVideo(f'{path}: too short: {plural(count, "frame")} at {fps:g} fps, a row needs {SNIPPET_FRAMES + 1}')
    for stream, rows in features.streams.items():
        if not np.isfinite(rows).all():
            raise InputError(f'{path}: its {stream} features contain NaN or infinity; check the weights or the '
                             f'backbone')
        if len(rows) not in (num_rows(count), count // SNIPPET_FRAMES):  # of a backbone
            warn(f'{path}: {plural(len(rows), "row")} for {plural(count, "frame")}; train and localize with '
                 f'--snippet_frames {count / len(rows):.4g}, and check the folder with main.py --check')


def expected_frames(path: Path, fps: float) -> int:
    """Estimate the number of frames of a video, 0 where it cannot be read: the error is reported in its turn."""
    try:
        return round(header_duration(path) * fps)
    except BadVideo:
        return 0


def run(args: argparse.Namespace) -> int:
    """Extract the videos; return the exit status."""
    videos = collect_videos(args.videos)
    device = pick_device(args.device)
    backbone = load_backbone(args.backbone) if args.backbone else None
    modalities = [] if backbone else list(CHANNELS)
    weights = [read_weights(getattr(args, f'{modality}_weights'), modality) for modality in modalities]
    ids = {file.modality: {'file': Path(file.path).name, 'git_blob': file.blob_id} for file in weights}
    make_dir(args.output, 'choose another --output')
    with Lock(args.output):
        manifest = Manifest(args.output, args.split, ('rgb',) if backbone else tuple(CHANNELS), recipe_of(args), ids,
                            versions(args, device), args.overwrite)
        manifest.open(list(videos))
        new = {name: path for name, path in videos.items() if not manifest.has(name, path)}
        print(f'{plural(len(new), "video")} to extract, {len(videos) - len(new)} already extracted', flush=True)
        if not new:
            return 0
        if backbone:
            extractor = partial(extract_by_backbone, backbone, crop=args.crop, folder=args.output)
            failed = extract_all(new, extractor, manifest, args)
        else:
            failed = extract_by_i3d(new, weights, manifest, args, device)
    done = f'{plural(len(new) - failed, "video")} extracted to {args.output}'
    print(done + (f', {failed} failed' if failed else ''), flush=True)
    if args.fps != 25:
        print(f'train and localize with --feature_fps {args.fps:g}', flush=True)
    return 2 if failed else 0


def extract_by_i3d(videos: dict[str, Path], weights: list[Weights], manifest: Manifest, args: argparse.Namespace,
                   device: torch.device) -> int:
    """Extract with I3D and optical flow; return how many videos failed."""
    for file in weights:
        log_weights_origin(file)
    dtype = torch.float64 if args.precision == 'fp64' else torch.float32
    networks: dict[str, Network] = {
        file.modality: build_i3d(file, dtype=dtype, device=device, precision=args.precision) for file in weights}
    recipe = FlowRecipe(args.flow, args.flow_bound, args.quantize, args.crop)
    with TorchFlow(recipe, device) if flow_library(args, device) == 'torch' else FlowPool(recipe, args.workers) as pool:
        extractor = partial(extract, networks=networks, pool=pool, crop=args.crop, batch_size=BATCH_SIZES[device.type],
                            device=device, dtype=dtype)
        return extract_all(videos, extractor, manifest, args)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_cli(lambda: run(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
