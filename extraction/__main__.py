"""Extract features: decode videos, compute optical flow, run I3D, and write a data folder.

    python -m extraction VIDEO_OR_FOLDER... --output DIR
    python main.py --data_path DIR --inference_only --model_file best.pt --exp_name NAME

Each stream has one row of 1024 features per 0.64 seconds. By default, only RGB is extracted, by I3D trained on
Kinetics-400, which is downloaded once. Flow needs weights: --weights rgb_imagenet flow_imagenet downloads the published
two-stream ones. Run the same command again to resume after an interruption or to add videos: those that are already
extracted are skipped.
"""
import argparse
import os
import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np
import torch

from engine.device import pick_device
from engine.lock import Lock
from extraction.backbone import Backbone, extract_by_backbone, load_backbone, takes_stride
from extraction.decoders import Recipe, count_processes, read_videos
from extraction.download import NAMES, choose_weights, load_kinetics400, open_weights
from extraction.flow_workers import METHODS, FlowPool, FlowRecipe, TorchFlow
from extraction.frames import BadVideo, header_duration, parse_resize, read_frames
from extraction.i3d import CHANNELS, Weights, build_i3d, log_weights_origin
from extraction.manifest import Manifest
from extraction.snippets import SNIPPET_FRAMES, End, Features, Network, Snippet, extract_videos, num_rows
from formats.videos import SUFFIXES, list_videos
from utils import (
    InputError,
    Parser,
    bounded,
    lossy_output,
    make_dir,
    plural,
    print_line,
    printable,
    progress,
    quote,
    run_cli,
    truncate,
    warn,
)

# Audio files in a folder are reported as such instead of being skipped.
AUDIO_SUFFIXES = ('.mp3', '.m4a', '.aac', '.wav', '.flac', '.ogg', '.opus', '.wma')
PRECISIONS = ('fp32', 'bf16', 'fp64')
BATCH_SIZES = {'cpu': 2, 'cuda': 32}  # snippets
Item = TypeVar('Item')


# ---- the command line -----------------------------------------------------------------------------------------------

def get_parser() -> Parser:
    """Return the parser of the command."""
    parser = Parser(prog='python -m extraction', description=__doc__, allow_abbrev=False,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    files = parser.add_argument_group('files')
    files.add_argument('videos', nargs='+', metavar='VIDEO_OR_FOLDER', help='video files, or folders of videos')
    files.add_argument('--output', type=Path, required=True, metavar='DIR', help='data folder to write')
    files.add_argument('--split', default='test', choices=('train', 'test'), help='split the videos belong to')
    files.add_argument('--weights', nargs='+', default=[], choices=NAMES, metavar='NAME',
                       help=f'published weights of I3D, downloaded once: {" ".join(NAMES)} (unset: for RGB those '
                            f'trained on Kinetics-400, no flow)')
    files.add_argument('--rgb_weights', metavar='FILE', help='I3D weights for RGB, in either published naming')
    files.add_argument('--flow_weights', metavar='FILE', help='I3D weights for flow')
    files.add_argument('--backbone', metavar='MODULE:FUNCTION',
                       help='instead of I3D: a function from frames (F, H, W, 3) uint8 to (rows, width), see '
                            'examples/torchvision_backbone.py')
    files.add_argument('--overwrite', action='store_true', help='also extract videos that are already extracted')

    recipe = parser.add_argument_group('recipe (see docs/videos.md for its source)')
    recipe.add_argument('--fps', type=bounded(float, 0.1, 1000), default=25, help='frames per second')
    recipe.add_argument('--resize', type=resize, default='short256',
                        help='short256: shorter side to 256; 340x256, squash224: to that size, ignoring the aspect '
                             'ratio')
    recipe.add_argument('--crop', type=bounded(int, 32, 4096), default=224, help='side of the center crop')
    recipe.add_argument('--stride', type=bounded(int, 1, 1000), default=SNIPPET_FRAMES,
                        help='frames from each row to the next; a row always covers 16')
    recipe.add_argument('--flow', choices=METHODS, default='tvl1',
                        help='optical flow; dis is many times faster, for drafts: I3D was not trained on it')
    recipe.add_argument('--flow_bound', type=bounded(float, 1e-3, 1000), default=20,
                        help='pixels per frame at which flow is clipped')
    recipe.add_argument('--quantize', action=argparse.BooleanOptionalAction, default=True,
                        help='flow in 256 levels, as in the training of I3D')

    machine = parser.add_argument_group('machine')
    machine.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    machine.add_argument('--workers', type=bounded(int, 0, 1024), default=len(os.sched_getaffinity(0)),
                         help='processes for optical flow and, with a GPU, for decoding; 0: use the main process')
    machine.add_argument('--precision', choices=PRECISIONS, default='fp32', help='precision of I3D')
    for group in (files, recipe, machine):
        for action in group._group_actions:
            if action.default not in (None, False, [], argparse.SUPPRESS):
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
    args.sources = choose_weights(args.weights, {'rgb': args.rgb_weights, 'flow': args.flow_weights})
    if args.backbone and args.sources:
        parser.error('--backbone replaces I3D: leave out --weights, --rgb_weights and --flow_weights')
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

def recipe_of(args: argparse.Namespace, modalities: list[str], stride: int | None) -> dict:
    """Return everything that determines the features, except weights and versions."""
    flags = ['fps', 'resize', 'crop', 'backbone' if args.backbone else 'precision']
    flags += ['flow', 'flow_bound', 'quantize'] if 'flow' in modalities else []
    recipe = {flag: getattr(args, flag) for flag in flags} | {'snippet_frames': SNIPPET_FRAMES}
    return recipe if stride is None else recipe | {'stride': stride}


def versions(modalities: list[str], args: argparse.Namespace, device: torch.device) -> dict[str, str]:
    """Return the versions of the libraries, and the device."""
    libraries = {'python': platform.python_version(), 'numpy': np.__version__, 'torch': torch.__version__,
                 'av': av.__version__, 'opencv': cv2.__version__, 'device': device.type}
    return libraries | ({'flow by': flow_library(args, device)} if 'flow' in modalities else {})


def flow_library(args: argparse.Namespace, device: torch.device) -> str:
    """Return the library that computes optical flow: OpenCV from PyPI has no CUDA."""
    return 'torch' if device.type == 'cuda' and args.flow == 'tvl1' else 'opencv'


class Progress:
    """A progress bar over the frames of all videos."""

    def __init__(self, videos: dict[str, Path], fps: float):
        self.num_videos = len(videos)
        self.expected = [expected_frames(path, fps) for path in videos.values()]
        self.done = [0] * len(videos)
        self.num_ended = 0
        self.bar = progress(total=sum(self.expected), desc='extraction', unit='frame', leave=True, smoothing=0.05)

    def follow(self, items: Iterable[Item], frames: int = 1, video: int = 0) -> Iterator[Item]:
        """Yield items unchanged and count `frames` for each: snippets, or the frames of a video."""
        for item in items:
            yield item
            if not isinstance(item, End):
                index = item.video if isinstance(item, Snippet) else video
                self.done[index] += frames
                self.bar.update(frames)

    def end(self, end: End) -> None:
        """Replace the estimated number of frames of a video."""
        self.num_ended += 1
        self.bar.set_description_str(f'extraction {self.num_ended}/{self.num_videos}', refresh=False)
        self.bar.total += end.num_frames - self.expected[end.video]
        self.bar.update(end.num_frames - self.done[end.video])


def write_features(videos: dict[str, Path], results: Iterable[tuple[End, Features]], progress: Progress,
                   manifest: Manifest, args: argparse.Namespace) -> int:
    """Write the features of each video once they are computed; return how many videos failed."""
    names, failed = list(videos), 0
    with progress.bar:
        for end, features in results:
            name, path = names[end.video], videos[names[end.video]]
            try:
                if end.error:
                    raise BadVideo(f'{path}: {end.error.removeprefix(f"{path}: ")}')
                check_features(path, features, args.fps, args.stride)
            except BadVideo as error:
                print_line(f'error: {printable(error)}', sys.stderr)
                failed += 1
            else:
                manifest.write(name, features.streams, {
                    'frames': features.num_frames, 'fps': args.fps, 'duration': features.num_frames / args.fps,
                    'rows': len(features.streams['rgb']), 'file': str(path.absolute()), 'size': end.size,
                    'split': args.split})
            progress.end(end)
    return failed


def check_features(path: Path, features: Features, fps: float, stride: int) -> None:
    """Check the rows of a video; raises BadVideo where there are none, and for NaN and infinity."""
    count = features.num_frames
    if not features.streams:
        raise BadVideo(f'{path}: too short: {plural(count, "frame")} at {fps:g} fps, a row needs {SNIPPET_FRAMES}, '
                       f'with flow one more')
    for stream, rows in features.streams.items():
        if not np.isfinite(rows).all():
            raise BadVideo(f'{path}: its {stream} features contain NaN or infinity; check the weights or the backbone')
        if len(rows) not in (num_rows(count, stride), num_rows(count, stride, flow=False)):  # of a backbone
            warn(f'{path}: {plural(len(rows), "row")} for {plural(count, "frame")}; train and localize with '
                 f'--snippet_frames {count / len(rows):.4g}, and check the folder with main.py --check')


def expected_frames(path: Path, fps: float) -> int:
    """Estimate the number of frames of a video, 0 where it cannot be read: the error is reported in its turn."""
    try:
        return round(header_duration(path) * fps)
    except BadVideo:
        return 0


@lossy_output()
def run(args: argparse.Namespace) -> int:
    """Extract the videos; return the exit status."""
    videos = collect_videos(args.videos)
    device = pick_device(args.device)
    backbone, weights, stride = None, [], args.stride
    if args.backbone:
        backbone = load_backbone(args.backbone)
        if takes_stride(backbone):
            backbone = partial(backbone, stride=stride)
        elif stride != SNIPPET_FRAMES:
            raise InputError(f'--backbone {truncate(args.backbone)}: has no parameter stride; leave out --stride')
        else:
            stride = None  # unknown
    else:
        weights = [open_weights(modality, args.sources[modality]) if modality in args.sources else load_kinetics400()
                   for modality in CHANNELS if modality == 'rgb' or modality in args.sources]
    modalities = [file.modality for file in weights]
    ids = {file.modality: {'file': Path(file.path).name, 'git_blob': file.blob_id} for file in weights}
    make_dir(args.output, 'choose another --output')
    with Lock(args.output) as lock:
        manifest = Manifest(args.output, args.split, tuple(modalities or ['rgb']), recipe_of(args, modalities, stride),
                            ids, versions(modalities, args, device), args.overwrite, lock)
        manifest.open(list(videos))
        new = {name: path for name, path in videos.items() if not manifest.has(name, path)}
        print(f'{plural(len(new), "video")} to extract, {len(videos) - len(new)} already extracted', flush=True)
        if not new:
            return 0
        progress = Progress(new, args.fps)
        if backbone:
            failed = write_features(new, backbone_features(new, backbone, progress, args), progress, manifest, args)
        else:
            failed = extract_by_i3d(new, weights, progress, manifest, args, device)
    done = f'{plural(len(new) - failed, "video")} extracted to {args.output}'
    print(done + (f', {failed} failed' if failed else ''), flush=True)
    if args.fps != 25:
        print(f'train and localize with --feature_fps {args.fps:g}', flush=True)
    if args.stride != SNIPPET_FRAMES:
        print(f'train and localize with --snippet_frames {args.stride}', flush=True)
    return 2 if failed else 0


def extract_by_i3d(videos: dict[str, Path], weights: list[Weights], progress: Progress, manifest: Manifest,
                   args: argparse.Namespace, device: torch.device) -> int:
    """Extract with I3D, and optical flow where there are weights for it; return how many videos failed."""
    for file in weights:
        log_weights_origin(file)
    dtype = torch.float64 if args.precision == 'fp64' else torch.float32
    networks: dict[str, Network] = {
        file.modality: build_i3d(file, dtype=dtype, device=device, precision=args.precision) for file in weights}
    has_flow = 'flow' in networks
    recipe = Recipe(args.fps, args.resize, args.crop, args.stride, has_flow)
    processes = count_processes(args.workers, len(videos), recipe, device)
    with open_flow_pool(args, device) if has_flow else nullcontext() as pool:
        snippets = progress.follow(read_videos(list(videos.values()), recipe, processes), frames=args.stride)
        results = extract_videos(snippets, networks, pool, BATCH_SIZES[device.type], device, dtype)
        return write_features(videos, results, progress, manifest, args)


def open_flow_pool(args: argparse.Namespace, device: torch.device) -> FlowPool:
    """Return the workers for optical flow, or the GPU."""
    recipe = FlowRecipe(args.flow, args.flow_bound, args.quantize, args.crop)
    return TorchFlow(recipe, device) if flow_library(args, device) == 'torch' else FlowPool(recipe, args.workers)


def backbone_features(videos: dict[str, Path], backbone: Backbone, progress: Progress,
                      args: argparse.Namespace) -> Iterator[tuple[End, Features]]:
    """Yield the features of each video by a backbone."""
    for video, path in enumerate(videos.values()):
        try:
            size = path.stat().st_size if path.exists() else 0
            with closing(read_frames(path, args.fps, args.resize)) as frames:
                features = extract_by_backbone(backbone, progress.follow(frames, video=video), args.crop, args.output)
        except BadVideo as error:
            yield End(video, 0, str(error)), Features({}, 0)
        except InputError as error:
            raise InputError(f'{path}: {error}') from None
        else:
            yield End(video, features.num_frames, size=size), features


def main(argv: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_cli(lambda: run(parse_args(argv)))


if __name__ == '__main__':
    sys.exit(main())
