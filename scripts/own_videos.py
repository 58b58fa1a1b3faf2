"""From videos to events: features, a training on labels without times, and a page that plays the videos.

    python scripts/own_videos.py train VIDEOS LABELS.csv [flags of the extraction] [-- flags of main.py]
    python scripts/own_videos.py localize --model_file FILE VIDEO_OR_FOLDER... [flags of the extraction] [-- ...]
    python scripts/own_videos.py train                                            a demonstration on rendered clips

Files are written to OUTPUT_DIR/EXP_NAME and OUTPUT_DIR/EXP_NAME-features. All flags are checked before the first stage,
and a stage is complete before the next one begins: a video that cannot be read is reported and left out, anything else
ends the program. The same command resumes; stages whose videos, labels or settings have changed are repeated.
"""
import argparse
import csv
import hashlib
import io
import json
import shlex
import shutil
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for python scripts/own_videos.py
import main as main_program
from config import MUTABLE_ON_RESUME, parse_explicit, relative_run_name, resolve_config
from config import get_parser as get_main_parser
from engine.checkpoint import CHECKPOINTS, read_checkpoint
from engine.device import check_precision, pick_device
from engine.localizer import Localizer
from engine.lock import Lock
from engine.run_folder import FILES
from eval import report
from eval.detection import scored_subset
from eval.events import format_scores, read_events, score_events
from examples.make_clips import write_clips
from extraction import __main__ as extraction
from extraction.backbone import load_backbone
from extraction.download import CHECKPOINT_BLOB_ID, NAMES
from extraction.i3d import CHANNELS, WIDTH, git_blob_id
from extraction.manifest import Manifest, describe_changes, weights_ids
from extraction.snippets import SNIPPET_FRAMES
from formats.annotations import match_videos, read_ground_truth, read_labels
from formats.features import is_feature_file
from formats.videos import list_videos
from utils import (
    InputError,
    Parser,
    make_dir,
    plural,
    preview,
    print_section,
    printable,
    quote,
    read_json,
    run_cli,
    truncate,
    warn,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parents[1]
RUN_NAMES = {'train': 'own_videos', 'localize': 'localized'}  # by default
SPLITS = {'train': 'train', 'localize': 'test'}
STATE = 'own_videos.json'  # of a run: what it was trained on; of features: the state of the video files
# Flags of main.py that this program sets.
SET_HERE = ('data_path', 'exp_name', 'output_dir', 'videos', 'inference_only', 'model_file', 'resume', 'check')
LENGTHS = ('num_steps', 'num_epochs')

# The demonstration. I3D is fully convolutional: half the width of its training frames is a quarter of the work.
CLIPS = {'train': 30, 'test': 9}
CLIP_SECONDS, CLIP_SIZE = 16, 96
CLIP_RECIPE = ('--resize', 'short128', '--crop', '112')


# ---- the command line -----------------------------------------------------------------------------------------------

class Command(NamedTuple):
    """A command line, checked."""

    run: Path   # the results
    data: Path  # features, labels, links to the videos
    extraction: argparse.Namespace
    model_file: Path | None
    main_flags: list[str]
    given: dict[str, Any]  # flags of main.py, those of this program included

    @property
    def links(self) -> Path:
        """Return the folder of links to the videos, for the page."""
        return self.data / 'videos'

    def lock(self) -> AbstractContextManager:
        """Return the exclusive use of both folders, for all stages."""
        make_dir(self.links, 'choose another --output_dir or --exp_name')
        return Lock(self.links)


def split_arguments(argv: list[str], name: str) -> tuple[argparse.Namespace, list[str], list[str]]:
    """Return this program's flags, the arguments of the extraction, and those of main.py."""
    end = argv.index('--') if '--' in argv else len(argv)
    parser = Parser(prog='own_videos', add_help=False, allow_abbrev=False)
    parser.add_argument('--exp_name', type=relative_run_name, default=name)
    parser.add_argument('--output_dir', type=Path, default=ROOT / 'outputs')
    parser.add_argument('--model_file', type=Path)
    own, rest = parser.parse_known_args(argv[:end])
    return own, rest, argv[end + 1:]


def parse(kind: str, argv: list[str]) -> Command:
    """Return the command line of `kind`, train or localize; raises InputError or SystemExit for a wrong one."""
    own, rest, after = split_arguments(argv, RUN_NAMES[kind])
    run = own.output_dir / own.exp_name
    data = run.with_name(f'{run.name}-features')
    trained: dict = {}
    if kind == 'localize':
        if own.model_file is None:
            raise InputError('give the trained weights as --model_file FILE')
        if not own.model_file.is_file():
            raise InputError(f'{own.model_file}: no such file; give the best.pt or last.pt of a training run')
        if not rest:
            raise InputError('give videos, or folders of videos')
        if (run / 'args.json').exists():
            raise InputError(f'{run}: contains a training run; choose another --exp_name')
        trained = read_trained_recipe(own.model_file.parent)
    elif own.model_file is not None:
        raise InputError('--model_file is for localize.sh')

    # Features: with the recipe of those that the weights were trained on.
    split = SPLITS[kind]
    args = extraction.parse_args([*recipe_flags(trained), '--output', str(data), '--split', split, *rest])
    if (args.output, args.split) != (data, split):
        raise InputError('--output and --split are set by this program; give --output_dir and --exp_name')
    pick_device(args.device)
    if args.backbone:
        sys.path.append('')  # the working directory
        load_backbone(args.backbone)
    if trained and (changes := describe_recipe_changes(trained, args)):
        raise InputError(f'{own.model_file}: was trained on other features ({truncate("; ".join(changes))}); give the '
                         f'weights and flags of that extraction')

    # Training or inference.
    refused = [f'--{name}' for name in SET_HERE if name in parse_explicit(get_main_parser(), after)]
    if refused:
        raise InputError(f'{", ".join(refused)} after --: set by this program; give --output_dir, --exp_name and '
                         f'--model_file before --')
    flags = [f'--data_path={data}', f'--output_dir={own.output_dir}', f'--exp_name={own.exp_name}',
             f'--videos={data / "videos"}', '--subtitles', 'srt']
    if kind == 'train':
        flags += ['--dataset', 'own', '--known_labels']
        flags += ['--feature_fps', f'{args.fps:g}'] if args.fps != 25 else []
        flags += ['--snippet_frames', str(args.stride)] if args.stride != SNIPPET_FRAMES else []
    else:
        flags += ['--inference_only', f'--model_file={own.model_file}']
    config = resolve_config([*flags, *after])
    check_precision(config.args.precision, pick_device(config.args.device))
    if own.model_file is not None:
        check_weights(own.model_file, config.args, args)
    return Command(run, data, args, own.model_file, [*flags, *after], config.given)


def check_weights(path: Path, args: argparse.Namespace, features: argparse.Namespace) -> None:
    """Raise InputError where weights cannot be read, or belong to other settings or other features."""
    model = Localizer.from_args(argparse.Namespace(**vars(args)))
    modalities = ('rgb', 'flow') if 'flow' in features.sources else ('rgb',)
    if not {*model.modalities} <= {*modalities} or not features.backbone and model.feature_dim != WIDTH:
        raise InputError(f'{path}: was trained on features of {" and ".join(model.modalities)} of width '
                         f'{model.feature_dim}, and this extraction writes {" and ".join(modalities)}'
                         f'{"" if features.backbone else f" of width {WIDTH}"}; give the flags of its extraction')


def read_state(run: Path) -> dict:
    """Return the state of a run, empty where this program did not make it."""
    path = run / STATE
    if not path.exists():
        return {}
    state = read_json(path)
    if isinstance(state, dict) and all(isinstance(state.get(name), dict) for name in ('recipe', 'weights')):
        return state
    raise InputError(f'{path}: not written by this program; remove it')


def read_trained_recipe(run: Path) -> dict:
    """Return recipe and weights of the features of a run, as in extraction.json; empty where they are unknown."""
    state = read_state(run)
    args = {} if state or not (run / 'args.json').exists() else read_json(run / 'args.json')
    data = Path(args.get('data_path', '') if isinstance(args, dict) else '')
    return read_manifest(data) if args and (data / 'extraction.json').exists() else state


def read_manifest(data: Path) -> dict:
    """Read the extraction.json of a data folder."""
    return Manifest(data, '', (), {}, {}, {}, False).read()


def recipe_flags(trained: dict) -> list[str]:
    """Return the flags of the extraction that made the features of a training."""
    recipe = {name: value for name, value in trained.get('recipe', {}).items() if name != 'snippet_frames'}
    switches = ['--quantize' if recipe.pop('quantize') else '--no-quantize'] if 'quantize' in recipe else []
    return [f'--{name}={value}' for name, value in recipe.items()] + switches


def describe_recipe_changes(saved: dict, args: argparse.Namespace) -> list[str]:
    """Return how the recipe and the weights of features differ from those of a command line."""
    modalities = [] if args.backbone else [name for name in CHANNELS if name == 'rgb' or name in args.sources]
    recipe = extraction.recipe_of(args, modalities, args.stride)
    ids = {f'{name} weights': weights_id(args.sources.get(name)) for name in modalities}
    return (describe_changes({'stride': SNIPPET_FRAMES} | saved['recipe'], recipe) +
            describe_changes(weights_ids(saved), ids))


def weights_id(source: Path | str | None) -> str:
    """Return the git blob id of a weights file, of published weights, or of those used by default."""
    if source is None:
        return CHECKPOINT_BLOB_ID
    return NAMES[source] if isinstance(source, str) else git_blob_id(source)


# ---- labels ---------------------------------------------------------------------------------------------------------

class Labeled(NamedTuple):
    """Videos that have a label."""

    videos: dict[str, Path]       # by name
    labels: dict[str, list[str]]  # by name; an empty label for a video without any of the classes

    def select(self, names: list[str]) -> 'Labeled':
        """Return some of the videos."""
        return Labeled({name: self.videos[name] for name in names}, {name: self.labels[name] for name in names})

    def to_csv(self) -> str:
        """Return a labels.csv."""
        text = io.StringIO(newline='')
        rows = [(name, label) for name, labels in self.labels.items() for label in labels]
        csv.writer(text, lineterminator='\n').writerows([('video', 'label'), *rows])
        return text.getvalue()

    def check(self, path: Path) -> None:
        """Raise InputError where nothing can be learned."""
        names = sorted({label for labels in self.labels.values() for label in labels})
        if len(names) == 1:
            raise InputError(f'{path}: a single label, {quote(names[0])}: nothing can be learned; add videos without '
                             f'it, with an empty label (video,)')


def read_labeled_videos(folder: Path, path: Path) -> Labeled:
    """Return the videos in a folder that a labels.csv contains, before hours are spent on features.

    Warns of videos without a label and of labels without a video; raises InputError where nothing can be learned.
    """
    if not folder.is_dir():
        raise InputError(f'{folder}: not a folder; give the folder of the videos')
    gt = read_labels(path)
    files = extraction.collect_videos([str(file) for file in list_videos(folder) if not file.is_dir()])
    names = list(files)
    index = match_videos(gt.videos, names)
    if (match_videos(gt.labels, names) >= 0).sum() > (index >= 0).sum():
        raise InputError(f'{path}: its labels are the names of the videos: the columns seem to be swapped; correct the '
                         f'header to label,video')
    if (index < 0).all():
        raise InputError(f'{path}: no label is for one of the {plural(len(names), "video")} in {folder}; write the '
                         f'names of the files, like {quote([*names, "my_video"][0])}, not {quote(gt.videos[0])}')
    if missing := [name for name, i in zip(gt.videos, index) if i < 0]:
        warn(f'{path}: {plural(len(missing), "labeled video")} not in {folder}: {preview(missing)}')
    labels: dict[str, list[str]] = {names[i]: [] for i in sorted(index[index >= 0])}
    if unlabeled := [name for name in names if name not in labels]:
        warn(f'{folder}: {plural(len(unlabeled), "video")} without a label, left out: {preview(unlabeled)}')
    for video, label in zip(gt.tag_video, gt.tag_label):
        if index[video] >= 0:
            labels[names[index[video]]].append(gt.labels[label])
    labeled = Labeled(files, labels).select(list(labels))
    labeled.check(path)
    classes, negative = [label for label in gt.labels if label], list(labels.values()).count([''])
    print_section('labels', [f'{plural(len(labels), "video")}, {plural(len(classes), "label")}: {preview(classes)}' +
                             (f'; {plural(negative, "video")} with none of them' if negative else '')])
    return labeled


# ---- features -------------------------------------------------------------------------------------------------------

def extract(command: Command, videos: dict[str, Path]) -> list[str]:
    """Extract the features of videos that have none yet, link the videos, and return the names of those that have some.

    Damaged videos are reported and left out. Raises InputError where no video remains.
    """
    args, path = command.extraction, command.data / 'extraction.json'
    if wrong := [str(video) for video in videos.values() if not video.is_file()]:
        raise InputError(f'{preview(wrong)}: not a file; correct the path, or remove it from the folder')
    forget_stale_features(command, videos)
    if args.overwrite or not path.exists() or not videos.keys() <= read_manifest(command.data)['videos'].keys():
        args.videos = [str(video) for video in videos.values()]
        extraction.run(args)
    else:
        print(f'{plural(len(videos), "video")} already extracted', flush=True)
    extracted = read_manifest(command.data)['videos']
    names = [name for name in videos if name in extracted]
    if not names:
        raise InputError('none of the videos could be read')
    link_videos(command.links, [videos[name] for name in names])
    return names


def forget_stale_features(command: Command, videos: dict[str, Path]) -> None:
    """Remove features of another recipe, and entries of videos whose files have changed, from the data folder.

    The state of the files is written before they are read: a file that is replaced meanwhile is extracted again.
    """
    data, split = command.data, command.extraction.split
    path = data / 'extraction.json'
    foreign = ['gt.json', 'split_train.txt', *(['split_test.txt'] if split == 'train' else [])]
    foreign += [] if path.exists() else ['features', 'labels.csv']
    if found := [name for name in foreign if (data / name).exists()]:
        raise InputError(f'{data / found[0]}: not written by this program; move it away, or choose another --exp_name')
    before = read_json(data / STATE) if (data / STATE).exists() else {}
    before = before if isinstance(before, dict) else {}
    now = {name: file_state(video) for name, video in videos.items()}
    if path.exists():
        saved = read_manifest(data)
        entries = saved['videos']
        if any(entry['split'] != split for entry in entries.values()):
            raise InputError(f'{data}: contains features of another command; choose another --exp_name')
        if entries and (changes := describe_recipe_changes(saved, command.extraction)):
            print_section('note', [f'features of another recipe are replaced ({"; ".join(changes)})'])
            shutil.rmtree(data / 'features', ignore_errors=True)
            entries = {}
        streams = [data / 'features' / split / stream for stream in saved['weights'] or ['rgb']]
        entries = {name: entry for name, entry in entries.items() if name not in now or before.get(name) == now[name]
                   and all(is_feature_file(stream / f'{name}.npy') for stream in streams)}
        write_json(path, saved | {'videos': entries})
    write_json(data / STATE, before | now)


def file_state(video: Path) -> list:
    """Return what changes when a file is replaced, as JSON."""
    state = video.stat()
    return [str(video.absolute()), state.st_size, state.st_mtime_ns]


def link_videos(folder: Path, videos: list[Path]) -> None:
    """Fill a folder with links to videos, and remove all other links from it."""
    targets = {path.name: path.resolve() for path in videos}
    for link in folder.iterdir():
        if link.is_symlink() and targets.get(link.name) != link.readlink():
            link.unlink()
    for name, target in targets.items():
        if not (folder / name).is_symlink():
            try:
                (folder / name).symlink_to(target)
            except OSError as error:
                raise InputError(f'{folder / name}: cannot be a link to the video: {error.strerror}') from None


# ---- training -------------------------------------------------------------------------------------------------------

def fingerprint(command: Command, labeled: Labeled) -> str:
    """Return a hash of labels, features and settings of a training, without what a resumed one may change."""
    settings = {name: value for name, value in command.given.items() if name not in MUTABLE_ON_RESUME}
    sha = hashlib.sha256(json.dumps([labeled.labels, settings], sort_keys=True).encode())
    for name in sorted(labeled.videos):
        for path in sorted(command.data.glob('features/train/*')):
            with open(path / f'{name}.npy', 'rb') as file:
                sha.update(hashlib.file_digest(file, 'sha256').digest())
    return sha.hexdigest()


def choose_start(command: Command, current: str) -> str:
    """Return --resume, or --overwrite after the state of the run is written.

    Raises InputError where the folder contains a run that this program did not make.
    """
    run, given = command.run, command.given
    state = read_state(run)
    has_started = any((run / name).exists() and (run / name).stat().st_mtime_ns >= (run / STATE).stat().st_mtime_ns
                      for name in CHECKPOINTS if state)
    if (has_started and state.get('fingerprint') == current and not given.get('overwrite') and
            is_length_reachable(run, given, state)):
        try:
            read_checkpoint(run)
        except InputError:  # its weights may be good: replace them only on request
            raise InputError(f'{run}: no checkpoint can be read; start the training again with -- --overwrite at the '
                             f'end of the command, or choose another --exp_name') from None
        return '--resume'
    if not state and not given.get('overwrite') and any(path for name in FILES for path in run.glob(name)):
        raise InputError(f'{run}: contains a run that this program did not make; choose another --exp_name, or replace '
                         f'it with -- --overwrite')
    if has_started:
        print_section('note', ['labels, videos or settings have changed: the training starts again'])
    extracted = read_json(command.data / 'extraction.json')
    make_dir(run, 'choose another --output_dir or --exp_name')
    write_json(run / STATE, {'fingerprint': current, 'has_length': any(name in given for name in LENGTHS),
                             'recipe': extracted['recipe'], 'weights': extracted['weights']})
    return '--overwrite'


def is_length_reachable(run: Path, given: dict[str, Any], state: dict) -> bool:
    """Return whether a run can be resumed with the given length: it may be longer than before, not shorter."""
    lengths = [name for name in LENGTHS if name in given]
    if not lengths:
        return not state.get('has_length')
    before = read_json(run / 'args.json') if (run / 'args.json').exists() else {}
    return all(isinstance(before.get(name), int) and before[name] <= given[name] for name in lengths[:1])


def train(argv: list[str]) -> int:
    """Learn from labeled videos when their labels happen; return the exit status."""
    command = parse('train', argv)
    places = command.extraction.videos
    if len(places) != 2:
        raise InputError('give a folder of videos and a labels.csv')
    labels = Path(places[1])
    labeled = read_labeled_videos(Path(places[0]), labels)
    with command.lock():
        print_stage(f'features of {plural(len(labeled.videos), "video")}')
        extracted = labeled.select(extract(command, labeled.videos))
        extracted.check(labels)
        write_text(command.data / 'labels.csv', extracted.to_csv())
        print_stage(f'training on {plural(len(extracted.videos), "video")}')
        start = choose_start(command, fingerprint(command, extracted))
        flags = [flag for flag in command.main_flags if flag != '--overwrite']
        status = main_program.main([*flags, start])
    return status or print_results(command, len(labeled.videos) - len(extracted.videos))


# ---- localization ---------------------------------------------------------------------------------------------------

def localize(argv: list[str]) -> int:
    """Localize actions in videos with trained weights; return the exit status."""
    command = parse('localize', argv)
    videos = extraction.collect_videos(command.extraction.videos)
    with command.lock():
        print_stage(f'features of {plural(len(videos), "video")}')
        names = extract(command, videos)
        write_text(command.data / 'split_test.txt', ''.join(f'{name}\n' for name in names))
        print_stage(f'localization in {plural(len(names), "video")}')
        status = main_program.main(command.main_flags)
    return status or print_results(command, len(videos) - len(names))


# ---- results --------------------------------------------------------------------------------------------------------

def print_stage(title: str) -> None:
    """Print the title of a stage."""
    print(f'\n======== {title}', flush=True)


def print_results(command: Command, num_failed: int) -> int:
    """Print where the results are; return the exit status, 2 where videos could not be read."""
    print()
    for title, name in (('page', 'report.html'), ('events', 'events.csv'), ('subtitles', 'subtitles')):
        print(f'{title:<10} {printable(command.run / name)}', flush=True)
    if command.model_file is None:
        weights = printable(shlex.quote(str(command.run / 'best.pt')))
        print(f'new videos bash scripts/localize.sh --model_file {weights} VIDEO_OR_FOLDER', flush=True)
    if num_failed:
        warn(f'{plural(num_failed, "video")} could not be read and left out, see the errors above')
    return 2 if num_failed else 0


def demonstrate(name: str, output_dir: Path, main_flags: list[str]) -> int:
    """Render clips, learn from the labels of some, and find the events of the others; return the exit status."""
    clips, run = output_dir / f'{name}-videos', output_dir / f'{name}-test'
    print(f'Clips of moving shapes, rendered to {printable(clips)}: these numbers do not predict those of real videos.')
    write_clips(clips, CLIPS, CLIP_SECONDS, CLIP_SIZE, seed=0)
    place = f'--output_dir={output_dir}'
    status = train([place, f'--exp_name={name}', str(clips / 'train'), str(clips / 'labels.csv'), *CLIP_RECIPE, '--',
                    *main_flags])
    status = status or localize([place, f'--exp_name={run.name}', f'--model_file={output_dir / name / "best.pt"}',
                                 str(clips / 'test')])
    if status:
        return status
    print_stage('score: the times of the test clips were not used until here')
    gt = clips / 'gt.json'
    status = report.main([str(gt), str(run / 'detections.json'), '--curves', str(run / 'curves.npz'),
                          '--events', str(run / 'events.csv'), '--videos', f'{run}-features/videos',
                          '--title', 'clips of moving shapes', '-o', str(run / 'report.html')])
    events = read_events(run / 'events.csv')
    for video, label, (start, end) in zip(events.video, events.label, events.segments.tolist()):
        print(f'{events.videos[video]}  {start:5.1f} to {end:5.1f} s  {events.labels[label]}')
    print(format_scores(score_events(scored_subset(read_ground_truth(gt), events.videos), events)))
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    kind, *rest = (sys.argv[1:] if argv is None else argv) or ['']
    is_help = bool({'-h', '--help'} & {kind, *rest})
    if kind not in RUN_NAMES or is_help:
        print((__doc__ or '').strip())
        return 0 if is_help else 2

    def command() -> int:
        if kind == 'localize':
            return localize(rest)
        own, positional, after = split_arguments(rest, 'clips')
        return train(rest) if positional else demonstrate(own.exp_name, own.output_dir, after)

    return run_cli(command)


if __name__ == '__main__':
    sys.exit(main())
