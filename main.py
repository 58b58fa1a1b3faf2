"""AICL: weakly-supervised temporal action localization from video-level labels.

    python main.py --dataset thumos14 --data_path DIR --exp_name NAME                                       trains
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --resume                              goes on
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --inference_only --model_file FILE    localizes
    torchrun --nproc_per_node=N main.py ...                                                                 on N GPUs

All localize the test videos and, where annotations are there, score the detections. Files go to outputs/NAME.
"""
import argparse
import signal
import sys
import textwrap
import time
from contextlib import nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from data_folder import MODALITIES
from dataset import VideoDataset
from eval.detection import check_tiou
from eval.diagnosis import BINS
from eval.files import GroundTruth, read_ground_truth
from eval.localization import LocalizationOptions
from inference import Evaluator, ScoredEvaluation, scored_videos
from losses import Losses, LossWeights
from model import NetworkOptions, build_network, load_weights, num_classes_of, read_weights, unwrap
from run import (PendingLosses, Ranks, Run, StopSignal, check_same_run, find_checkpoint, make_folder, pick_device,
                 settings)
from training import Training, TrainingOptions, random_state, set_random_state
from utils import InputError, Parser, number, number_of, print_block, read_json, run_command, shorten, warn, write_json

PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp64')
CHECKPOINT_SECONDS = 60    # between two checkpoints, at least


# ---- the recipes ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Recipe:
    """What differs between the data sets (supplement of the paper); every value has a flag of its own."""
    tiou: list[float]
    num_segments: int = 50
    topk_ratio: int = 2
    hidden_dim: int = 512
    fusion_weight: float = 1 / 2
    # For ActivityNet the supplement is silent on these: they are from the ActivityNet 1.3 code that AICL's first author
    # released later and named as the same code base.
    batch_size: int = 32
    drop_last: bool = True
    num_epochs: int | None = None
    num_steps: int | None = 50_000
    detection_inf_step: int = 200
    seed: int = 0
    class_th: float = 0.1
    nms_thresh: float = 0.7
    # Not options:
    bins: str = 'activitynet'    # of the error diagnosis
    source: str = ('tiou, num_segments, topk_ratio, hidden_dim, fusion_weight as in the supplement of the paper; '
                   "the rest, not stated there, from the ActivityNet code that AICL's first author released later")


ACTIVITYNET_TIOU = np.linspace(0.5, 0.95, 10).round(2).tolist()
RECIPES = {
    'thumos14': Recipe(
        tiou=np.linspace(0.1, 0.7, 7).round(1).tolist(), num_segments=750, topk_ratio=8, fusion_weight=1 / 3,
        batch_size=16, drop_last=False, num_epochs=900, num_steps=None, detection_inf_step=50, seed=1, class_th=0.25,
        nms_thresh=0.4, bins='thumos14', source='supplement of the paper and the released code'),
    'activitynet1.2': Recipe(tiou=ACTIVITYNET_TIOU),
    'activitynet1.3': Recipe(tiou=ACTIVITYNET_TIOU, hidden_dim=1024),
}
IN_RECIPE = [field.name for field in fields(Recipe) if field.name not in ('bins', 'source')]    # each has a flag


# ---- the command line -----------------------------------------------------------------------------------------------

# What else is to be known of a flag, said where it is declared:
RESUME = 'a resumed run may change it'
DIFFER = 'runs that differ in it are still runs of one kind, of which eval.summary takes the mean'
TRAINED = 'weights are made for one value of it, so inference should use that of the training'


class FlagParser(Parser):
    """An argument parser whose flags have traits."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.traits: dict[str, tuple[str, ...]] = {}    # by the flag's name

    def section(self, title: str) -> 'Section':
        return Section(self, self.add_argument_group(title))

    def with_trait(self, trait: str) -> list[str]:
        """The names of the flags that have a trait."""
        return [name for name, traits in self.traits.items() if trait in traits]

    def tell_values(self) -> None:
        """Add the recipes' values, or the default, to every flag's help."""
        for action in self._actions:
            if action.dest in IN_RECIPE:
                values = [getattr(recipe, action.dest) for recipe in RECIPES.values()]
                said = values[:1] if len(set(map(str, values))) == 1 else values
                action.help = f'{action.help or ""} (recipes: {", ".join(map(show_value, said))})'.strip()
            elif action.default not in (None, False, argparse.SUPPRESS):
                action.help = f'{action.help or ""} (default: {show_value(action.default)})'.strip()


class Section:
    """A group of flags in the help."""

    def __init__(self, parser: FlagParser, group: Any):
        self.parser, self.group = parser, group

    def flag(self, *names: str, traits: tuple[str, ...] = (), **options: Any) -> None:
        """Declare a flag: all that is to be known of it stands here, but for the values in RECIPES."""
        action = self.group.add_argument(*names, **options)
        self.parser.traits[action.dest] = traits


def run_name(text: str) -> str:
    path = Path(text)
    if path == Path() or path.is_absolute() or '..' in path.parts:
        raise argparse.ArgumentTypeError(f'{text!r} does not name a folder in OUTPUT_DIR')
    return text


def step_interval(text: str) -> int:
    return 0 if text == 'never' else number(int, 0)(text)


def show_value(value: object) -> str:
    if isinstance(value, list):
        return f'{value[0]:g} to {value[-1]:g}'
    return f'{value:g}' if isinstance(value, float) else str(value)


def get_parser() -> FlagParser:
    epilog = textwrap.fill(f'recipes: thumos14: {RECIPES["thumos14"].source}. activitynet: '
                           f'{RECIPES["activitynet1.3"].source}.', 100)
    parser = FlagParser(description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter,
                        allow_abbrev=False)
    switch = argparse.BooleanOptionalAction
    count, amount, positive, share = number(int, 1), number(float, 0), number(float, 1e-9), number(float, 0, 1)

    run = parser.section('run')
    run.flag('--dataset', choices=RECIPES, default='thumos14', help='sets the recipe; other flags win over it')
    run.flag('--data_path', required=True, traits=(RESUME,), help='folder of features, gt.json and split files')
    run.flag('--exp_name', type=run_name, required=True, traits=(RESUME, DIFFER), help="the run's name")
    run.flag('--output_dir', default='outputs', traits=(RESUME, DIFFER), help='files go to OUTPUT_DIR/EXP_NAME')
    run.flag('--inference_only', action='store_true', traits=(DIFFER,), help='localize and evaluate with --model_file')
    run.flag('--model_file', traits=(DIFFER,), help='weights to load: released or written here')
    run.flag('--device', default='auto', traits=(RESUME, DIFFER), help='auto, cpu, cuda or cuda:N')
    run.flag('--precision', choices=PRECISIONS, default='fp32',
             help='tf32 and bf16 speed up the large products on a GPU; fp64 is for comparisons')
    run.flag('--compile', action='store_true', traits=(RESUME, DIFFER),
             help='compile the training step (torch.compile)')
    run.flag('--resume', action='store_true', traits=(RESUME, DIFFER),
             help='go on where the run of this name stopped, or begin it')
    run.flag('--overwrite', action='store_true', traits=(RESUME, DIFFER), help='replace the run of this name')
    run.flag('--seed', type=number(int, 0, 2 ** 32 - 1), traits=(DIFFER,), help='of every random number')
    run.flag('--num_workers', type=number(int, 0), default=0, traits=(RESUME, DIFFER),
             help='processes that read features')

    data = parser.section('data')
    data.flag('--cache', choices=('auto', 'ram', 'device', 'none'), default='auto', traits=(RESUME, DIFFER),
              help='where features are kept: auto takes what fits, none reads sampled rows from disk')
    data.flag('--modal', choices=MODALITIES, default='all', help='feature streams to use')
    data.flag('--num_segments', type=count, traits=(TRAINED,), help='T, snippets sampled from a video')
    data.flag('--feature_fps', type=positive, default=25.0, traits=(TRAINED,), help='frames a second at extraction')
    data.flag('--snippet_frames', type=positive, default=16, traits=(TRAINED,), help='frames a feature row')

    model = parser.section('network')
    model.flag('--hidden_dim', type=count, help='H, width of the embeddings')
    model.flag('--fusion_weight', type=share, traits=(TRAINED,),
               help='g, share of the class scores in the selection score')
    model.flag('--topk_ratio', type=count, traits=(TRAINED,), help='k = T // this snippets make a video logit')
    model.flag('--contrast_ratio', type=count, default=20, help='K = T // this snippets are mined a set')

    training = parser.section('training')
    training.flag('--batch_size', type=count, help='videos a step')
    training.flag('--drop_last', action=switch, help='leave out the last, smaller batch of an epoch')
    training.flag('--num_epochs', type=count, traits=(RESUME,), help='length of the training')
    training.flag('--num_steps', type=count, traits=(RESUME,), help='wins over --num_epochs')
    training.flag('--lr', type=number(float, 0, 1e38), default=1e-4, help='learning rate of Adam')
    training.flag('--weight_decay', type=amount, default=5e-4, help='weight decay of Adam')
    training.flag('--q_val', type=number(float, 1e-9, 1), default=0.7, help='q of generalized cross entropy')
    training.flag('--lambda_modality', type=amount, default=5.0, help='weight of the modality consistency')
    training.flag('--lambda_contrast', type=amount, default=0.01, help='weight of the contrastive terms')
    training.flag('--lambda_action', type=amount, default=0.1, help='weight of the action consistency')
    training.flag('--detection_inf_step', type=step_interval, metavar='STEPS',
                  help="evaluate every so many steps, and at the end; 'never': only there")
    training.flag('--log_every', type=count, default=1, traits=(DIFFER,),
                  help='steps from one row of losses.csv to the next')
    training.flag('--figures', type=number(int, 0), default=2, traits=(RESUME, DIFFER),
                  help='timelines that TensorBoard shows of an evaluation, at most every 30 seconds')

    inference = parser.section('localization and evaluation')
    inference.flag('--class_th', type=share, help='probability from which a class is localized')
    inference.flag('--scale', type=count, default=24, help='samples a snippet after upsampling')
    # quirk: the released --gamma, meant to be the weight of the class score, sets the margin, so it is its other name
    inference.flag('--oic_margin', '--gamma', type=amount, default=0.2,
                   help='outer part of the outer-inner contrast (--gamma is the released name)')
    inference.flag('--oic_class_weight', type=amount, default=0.2, help='weight of the class probability')
    inference.flag('--nms_thresh', type=share, help='overlap from which a proposal is suppressed')
    inference.flag('--nms_alpha', type=positive, default=0.35, help='decay of soft NMS')
    inference.flag('--soft_nms', action=switch, default=True, help='lower the score of what is suppressed, or drop it')
    inference.flag('--tiou', type=number(float, 1e-9, 1), nargs='+', help='tIoU thresholds of the mAP')
    parser.tell_values()
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse flags; what is not given comes from the recipe of --dataset."""
    parser = get_parser()
    args = parser.parse_args(argv)
    recipe = {name: getattr(RECIPES[args.dataset], name) for name in IN_RECIPE}
    if args.num_steps or args.num_epochs:    # a length that the user gives replaces the recipe's, whichever its unit
        recipe.update(num_steps=None, num_epochs=None)
    for name, value in recipe.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    try:
        check_tiou(args.tiou)
    except InputError as error:
        parser.error(f'argument --tiou: {error}')
    if args.inference_only and not args.model_file:
        parser.error('--inference_only needs --model_file')
    if args.model_file and not args.inference_only:
        parser.error('--model_file is for --inference_only')
    if args.inference_only and (args.resume or args.overwrite):
        parser.error('--resume and --overwrite are for training')
    if args.resume and args.overwrite:
        parser.error('--resume goes on with a run and --overwrite replaces it; give one')
    return args


# ---- from arguments to what the rooms take ---------------------------------------------------------------------------

def pick(kind: type, args: argparse.Namespace, **others: Any) -> Any:
    """A NamedTuple of the arguments that have its fields' names, and of `others`."""
    own = {name: getattr(args, name) for name in kind._fields if name not in others}
    return kind(**own, **others)


def network_options(args: argparse.Namespace) -> NetworkOptions:
    return pick(NetworkOptions, args, modalities=MODALITIES[args.modal])


def training_options(args: argparse.Namespace) -> TrainingOptions:
    weights = LossWeights(**{name: getattr(args, f'lambda_{name}') for name in LossWeights._fields})
    return pick(TrainingOptions, args, network=network_options(args), loss_weights=weights)


def folder_of(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / args.exp_name


def annotations_of(args: argparse.Namespace) -> Path:
    if not Path(args.data_path).is_dir():
        raise InputError(f'--data_path {args.data_path}: not a folder')
    return Path(args.data_path) / 'gt.json'


def open_videos(args: argparse.Namespace, split: str, truth: GroundTruth | None, class_names: list[str],
                device: torch.device) -> VideoDataset:
    return VideoDataset(args.data_path, split, truth, class_names, MODALITIES[args.modal], args.cache, device)


def get_evaluator(args: argparse.Namespace, test_set: VideoDataset, truth: GroundTruth | None,
                  ranks: Ranks) -> Evaluator:
    truth = scored_videos(args.data_path, truth, test_set)
    return Evaluator(test_set, truth, args.num_segments, args.batch_size, args.num_workers,
                     pick(LocalizationOptions, args), args.tiou, ranks.share, ranks.gather)


def describe(args: argparse.Namespace, datasets: dict[str, VideoDataset], device: torch.device) -> None:
    """Say what this run works with."""
    first_set = next(iter(datasets.values()))
    print_block('data', [f'{args.data_path}: {len(first_set.class_names)} classes, {first_set.feature_dim} features a '
                         f'modality ({args.modal})'])
    for split, dataset in datasets.items():
        first, *more = dataset.summary(args.feature_fps, args.snippet_frames).lines()
        found = (f'{dataset.folder} ({dataset.layout}): {number_of(len(dataset), "video")} of {min(dataset.lengths)} '
                 f'to {max(dataset.lengths)} snippets, cache {dataset.cache}')
        print_block(split, [first, found, *more])
        time_base = dataset.time_base(args.feature_fps, args.snippet_frames)
        if time_base and time_base.is_off:
            warn(f'{split}: {time_base.advice()}')
    values = [f'{name} {show_value(getattr(args, name))}' for name in IN_RECIPE if getattr(args, name) is not None]
    print_block('recipe', [f'{args.dataset}: {", ".join(values)}', RECIPES[args.dataset].source])
    print_block('device', [f'{device}, {args.precision}'])


def list_files(folder: Path) -> None:
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    print(f'\nfiles in {folder}: {", ".join(files)}')


# ---- training -------------------------------------------------------------------------------------------------------

def train(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> int:
    """Train, evaluate on the way and at the end; the exit status, 128 + signal where one ended the run early."""
    # 1. The data. Nothing here draws a random number.
    folder = folder_of(args)
    state = find_checkpoint(folder, args.resume, args.overwrite)
    ranks.wait()    # nobody writes into the folder before all have looked at it
    truth = read_ground_truth(annotations_of(args))
    train_set, test_set = (open_videos(args, split, truth, truth.labels, device) for split in ('train', 'test'))
    if train_set.feature_dim != test_set.feature_dim:
        raise InputError(f'{args.data_path}: training features are {train_set.feature_dim} wide a modality, '
                         f'test features {test_set.feature_dim}')
    evaluator = get_evaluator(args, test_set, truth, ranks)

    # 2. The network, its optimiser, the order of the batches.
    training = Training(training_options(args), train_set.feature_dim, len(train_set.class_names), train_set.lengths,
                        device, ranks.share)
    num_steps = args.num_steps or args.num_epochs * training.steps_per_epoch

    # 3. The run: a new one, or one to go on with.
    identity = {'classes': train_set.class_names, 'training videos': train_set.names,
                'lengths of videos': train_set.lengths, 'test videos': test_set.names}
    if state:
        check_same_run(folder, state, vars(args), get_parser().with_trait(RESUME), identity)
        go_on(training, state, folder, num_steps)
    make_folder(folder)
    run = None
    if ranks.is_first:
        describe(args, {'train': train_set, 'test': test_set}, device)
        run = Run(folder, vars(args), identity, train_set.class_names, args.tiou, state)
        if state:
            print(f'resumed  at step {training.progress.step} of {num_steps}', flush=True)

    # 4. The steps, and what they came to.
    with run or nullcontext():
        stopped_by = take_steps(training, num_steps, train_set, evaluator, run, ranks, args)
        if stopped_by:
            if run:
                print(f'{signal.Signals(stopped_by).name} after step {training.progress.step}: go on with the same '
                      f'command and --resume')
            return 128 + stopped_by
        conclude(training, folder, evaluator, run, ranks, RECIPES[args.dataset].bins)
    return 0


def go_on(training: Training, state: dict, folder: Path, num_steps: int) -> None:
    """Bring a training to where a checkpoint stands. Raises InputError where it cannot, or need not, go on there."""
    try:
        if state['best'] is not None:
            load_weights(training.network, state['best'], 'checkpoint.pt')    # only to see that they can be
        training.restore(state)
        evaluated = state['results'].get('last', {}).get('step')
    except (LookupError, TypeError, ValueError, AttributeError):
        raise InputError(f'{folder}: its checkpoint is not one of this version of the program; start again with '
                         f'--overwrite') from None
    step = training.progress.step
    if num_steps < step or num_steps == step != evaluated:
        raise InputError(f'{folder}: is at step {step} already, which is not before the end at {num_steps}; give more '
                         f'with --num_steps or --num_epochs')


def take_steps(training: Training, num_steps: int, train_set: VideoDataset, evaluator: Evaluator, run: Run | None,
               ranks: Ranks, args: argparse.Namespace) -> int:
    """Train to the end, with evaluations and checkpoints on the way; the signal that ended it early, else 0."""
    progress, batches = training.progress, training.batches(train_set, args.num_workers)
    pending, fetched, saved = PendingLosses(), time.monotonic(), time.monotonic()
    with StopSignal() as stop, progress_bar(num_steps, progress.step, ranks.is_first) as bar:
        while progress.step < num_steps:
            batch = next(batches)
            terms = training.step(batch)
            pending.add(progress.step, progress.epoch, ranks.sum(terms), batch.videos)
            bar.update()

            is_last = progress.step == num_steps
            in_turn = bool(args.detection_inf_step) and progress.step % args.detection_inf_step == 0
            stopped_by = ranks.largest(stop.number) if ranks.count == 1 or progress.step % 10 == 0 else 0
            save_now = is_last or bool(stopped_by) or time.monotonic() - saved > CHECKPOINT_SECONDS
            if is_last or in_turn or save_now or time.monotonic() - fetched > 1:
                log_losses(pending, train_set.names, run, args.log_every, bar)
                fetched = time.monotonic()
            if is_last or in_turn or save_now:
                training.check_finite()
            if is_last or in_turn:
                evaluate_now(training, evaluator, run, in_turn, args.figures)
            if run and save_now:
                run.save(training.state())
                saved = time.monotonic()
            if stopped_by and not is_last:
                return stopped_by
    return 0


def progress_bar(num_steps: int, step: int, is_shown: bool) -> tqdm:
    return tqdm(total=num_steps, initial=step, desc='training', unit='step', dynamic_ncols=True,
                disable=not is_shown, mininterval=0.1 if sys.stderr.isatty() else 30)


def log_losses(pending: PendingLosses, names: list[str], run: Run | None, log_every: int, bar: tqdm) -> None:
    """Bring losses from the device and log them. Raises InputError at the first step with one that is not finite."""
    rows, complaint = pending.fetch(names)
    if run:
        run.log_losses([row for row in rows if row.step % log_every == 0])
    if complaint:
        raise complaint
    newest = dict(zip(Losses._fields[:4], rows[-1].terms))
    bar.set_postfix({name: f'{value:.3f}' for name, value in newest.items()}, refresh=False)


def evaluate_now(training: Training, evaluator: Evaluator, run: Run | None, in_turn: bool, num_figures: int) -> None:
    """Evaluate the weights as they are, and keep what that gave."""
    generators = random_state()
    evaluation = evaluator.evaluate(training.network)
    if not in_turn:    # at the end alone: a longer run, which this one may become, draws nothing here
        set_random_state(generators)
    if run is None or evaluation is None:
        return
    step = training.progress.step
    run.keep(step, training.progress.epoch, evaluation, training.network.state_dict())
    run.draw(step, evaluation, num_figures)
    if isinstance(evaluation, ScoredEvaluation):
        best = run.results['best']
        tqdm.write(f'step {step:>6}   average mAP {100 * evaluation.scores.average:5.2f}   video accuracy '
                   f'{100 * evaluation.video_accuracy:5.1f}   best so far {100 * best["average_mAP"]:5.2f} '
                   f'(step {best["step"]})', file=sys.stdout)


def conclude(training: Training, folder: Path, evaluator: Evaluator, run: Run | None, ranks: Ranks, bins: str) -> None:
    """Show the best and the last weights side by side; those that this process has not evaluated itself are again."""
    for name in ('best', 'last'):
        if ranks.largest(run is not None and name not in run.evaluated):
            path = folder / f'{name}.pt'
            load_weights(training.network, read_weights(path), path)
            evaluation = evaluator.evaluate(training.network)
            if run and evaluation:
                run.evaluated[name] = run.results[name]['step'], evaluation
                if name == 'best':
                    evaluation.write(folder)
    if run is None:
        return
    for name, (step, evaluation) in sorted(run.evaluated.items()):
        evaluation.show(f'{name} weights (step {step})')
    _, best = run.evaluated['best']
    best.warn()
    best.write_report(folder, BINS[bins])
    run.conclude()
    list_files(folder)


# ---- inference ------------------------------------------------------------------------------------------------------

def class_names_of(args: argparse.Namespace, truth: GroundTruth | None, num_classes: int) -> list[str]:
    """Names of the classes of a checkpoint: the labels of gt.json, else labels.txt beside the weights, else numbers."""
    if truth is not None and truth.labels:
        if len(truth.labels) != num_classes:
            raise InputError(f'{args.model_file}: was trained on {num_classes} classes, but {args.data_path}/gt.json '
                             f'has {len(truth.labels)}; use the gt.json of the training data')
        return truth.labels
    path = Path(args.model_file).with_name('labels.txt')
    try:
        names = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({shorten(error)}); write one class a line') from None
    if len(names) == num_classes:
        return names
    warn(f'{args.data_path}/gt.json names no class and there is no fitting {path}; classes are named by their number')
    return [f'class_{c}' for c in range(num_classes)]


def warn_of_other_settings(args: argparse.Namespace) -> None:
    """Weights do not say how they were trained, but args.json beside them does."""
    path = Path(args.model_file).with_name('args.json')
    if path.is_file():
        trained = read_json(path)
        for name in get_parser().with_trait(TRAINED):
            if isinstance(trained, dict) and trained.get(name, getattr(args, name)) != getattr(args, name):
                warn(f'{args.model_file}: was trained with --{name} {shorten(trained[name], 40)}, '
                     f'and is used with {getattr(args, name)}')


def infer(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> int:
    """Localize the test videos with given weights and score the detections; the exit status."""
    state = unwrap(read_weights(args.model_file))
    warn_of_other_settings(args)
    path = annotations_of(args)
    truth = read_ground_truth(path) if path.exists() else None
    class_names = class_names_of(args, truth, num_classes_of(state, args.model_file))
    test_set = open_videos(args, 'test', truth, class_names, device)
    evaluator = get_evaluator(args, test_set, truth, ranks)
    network = build_network(network_options(args), test_set.feature_dim, len(class_names), device)
    load_weights(network, state, args.model_file)
    folder = folder_of(args)
    make_folder(folder)
    if (folder / 'args.json').exists():
        warn(f'{folder}: holds a training run; its detections.json, results.json, curves.npz and report.html are '
             f'replaced')
    if ranks.is_first:
        describe(args, {'test': test_set}, device)
    evaluation = evaluator.evaluate(network)
    if evaluation:
        write_json(folder / 'inference_args.json', settings(vars(args)))
        evaluation.write(folder)
        evaluation.write_report(folder, BINS[RECIPES[args.dataset].bins])
        write_json(folder / 'results.json', evaluation.to_json())
        evaluation.show(args.model_file)
        evaluation.warn()
        list_files(folder)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 after bad input, 128 + signal after a signal."""
    args = parse_args(argv)

    def command() -> int:
        device = pick_device(args.device)
        ranks = Ranks(device)
        try:
            status = (infer if args.inference_only else train)(args, device, ranks)
        except RuntimeError as error:
            if not ranks.has_lost_one(error):
                raise
            reason = shorten(str(error).split('. ')[0], 150)
            raise InputError(f'rank {ranks.rank} has lost another process of this run ({reason}); mend what that one '
                             f'says, if it does, and go on with the same command and --resume') from None
        ranks.close()
        return status

    return run_command(command)


if __name__ == '__main__':
    sys.exit(main())
