"""AICL: weakly-supervised temporal action localization from video-level labels.

    python main.py --dataset thumos14 --data_path DIR --exp_name NAME                                       trains
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --resume                              goes on
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --inference_only --model_file FILE    localizes
    torchrun --nproc_per_node=N main.py ...                                                                 on N GPUs

All localize the test videos and, where annotations are there, score the detections. Files go to outputs/NAME.
"""
import argparse
import math
import platform
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data_folder import MODALITIES
from dataset import Batch, SnippetSampler, VideoDataset, loader
from eval.detection import check_tiou, tiou_key
from eval.files import GroundTruth, read_ground_truth
from inference import Evaluation, evaluate_model, scored_videos, show_on_board
from losses import Losses, LossWeights, aicl_losses
from model import AICL, load_weights, mine, num_classes_of, pseudo_targets, read_weights, unwrap
from run import (
    Ranks,
    Run,
    StopSignal,
    check_finite,
    pick_device,
    random_state,
    read_checkpoint,
    rows_state,
    save,
    seed_everything,
    set_random_state,
    set_rows_state,
    write_checkpoint,
)
from utils import InputError, Parser, number_of, read_json, run_command, shorten, warn, write_json, write_text

PRECISIONS = ('fp32', 'tf32', 'bf16', 'fp64')
CHECKPOINT_SECONDS = 60    # between two checkpoints, at least
FIGURE_SECONDS = 30        # between evaluations whose timelines are drawn, at least: drawing takes a second


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
OPTIONS = [field.name for field in fields(Recipe) if field.name not in ('bins', 'source')]


# ---- the command line -----------------------------------------------------------------------------------------------

def number(kind: type, low: float, high: float = 1e9):
    """An argparse type: a `kind` between low and high."""
    def parse(text: str):
        value = kind(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f'{text} is not between {low:g} and {high:g}')
        return value
    parse.__name__ = kind.__name__    # argparse names the type by it when `kind` itself refuses the text
    return parse


def run_name(text: str) -> str:
    path = Path(text)
    if path == Path() or path.is_absolute() or '..' in path.parts:
        raise argparse.ArgumentTypeError(f'{text!r} does not name a folder in OUTPUT_DIR')
    return text


def step_interval(text: str) -> int:
    return 0 if text == 'never' else number(int, 0)(text)


def get_parser() -> Parser:
    epilog = textwrap.fill(f'recipes: thumos14: {RECIPES["thumos14"].source}. activitynet: '
                           f'{RECIPES["activitynet1.3"].source}.', 100)
    parser = Parser(description=__doc__, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter,
                    allow_abbrev=False)
    switch = argparse.BooleanOptionalAction
    count, amount, positive, share = number(int, 1), number(float, 0), number(float, 1e-9), number(float, 0, 1)

    run = parser.add_argument_group('run')
    run.add_argument('--dataset', choices=RECIPES, default='thumos14', help='sets the recipe; other flags win over it')
    run.add_argument('--data_path', required=True, help='folder of features, gt.json and split files')
    run.add_argument('--exp_name', type=run_name, required=True, help="the run's name")
    run.add_argument('--output_dir', default='outputs', help='files go to OUTPUT_DIR/EXP_NAME')
    run.add_argument('--inference_only', action='store_true', help='localize and evaluate with --model_file')
    run.add_argument('--model_file', help='weights to load: released or written here')
    run.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    run.add_argument('--precision', choices=PRECISIONS, default='fp32',
                     help='tf32 and bf16 speed up the large products on a GPU; fp64 is for comparisons')
    run.add_argument('--compile', action='store_true', help='compile the training step (torch.compile)')
    run.add_argument('--resume', action='store_true', help='go on where the run of this name stopped, or begin it')
    run.add_argument('--overwrite', action='store_true', help='replace the run of this name')
    run.add_argument('--seed', type=number(int, 0, 2 ** 32 - 1), help='of every random number')
    run.add_argument('--num_workers', type=number(int, 0), default=0, help='processes that read features')

    data = parser.add_argument_group('data')
    data.add_argument('--cache', choices=('auto', 'ram', 'device', 'none'), default='auto',
                      help='where features are kept: auto takes what fits, none reads sampled rows from disk')
    data.add_argument('--modal', choices=MODALITIES, default='all', help='feature streams to use')
    data.add_argument('--num_segments', type=count, help='T, snippets sampled from a video')
    data.add_argument('--feature_fps', type=positive, default=25.0, help='frames a second at extraction')
    data.add_argument('--snippet_frames', type=positive, default=16, help='frames a feature row')

    model = parser.add_argument_group('network')
    model.add_argument('--hidden_dim', type=count, help='H, width of the embeddings')
    model.add_argument('--fusion_weight', type=share, help='g, share of the class scores in the selection score')
    model.add_argument('--topk_ratio', type=count, help='k = T // this snippets make a video logit')
    model.add_argument('--contrast_ratio', type=count, default=20, help='K = T // this snippets are mined a set')

    training = parser.add_argument_group('training')
    training.add_argument('--batch_size', type=count, help='videos a step')
    training.add_argument('--drop_last', action=switch, help='leave out the last, smaller batch of an epoch')
    training.add_argument('--num_epochs', type=count, help='length of the training')
    training.add_argument('--num_steps', type=count, help='wins over --num_epochs')
    training.add_argument('--lr', type=number(float, 0, 1e38), default=1e-4, help='learning rate of Adam')
    training.add_argument('--weight_decay', type=amount, default=5e-4, help='weight decay of Adam')
    training.add_argument('--q_val', type=number(float, 1e-9, 1), default=0.7, help='q of generalized cross entropy')
    training.add_argument('--lambda_modality', type=amount, default=5.0, help='weight of the modality consistency')
    training.add_argument('--lambda_contrast', type=amount, default=0.01, help='weight of the contrastive terms')
    training.add_argument('--lambda_action', type=amount, default=0.1, help='weight of the action consistency')
    training.add_argument('--detection_inf_step', type=step_interval, metavar='STEPS',
                          help="evaluate every so many steps, and at the end; 'never': only there")
    training.add_argument('--log_every', type=count, default=1, help='steps from one row of losses.csv to the next')
    training.add_argument('--figures', type=number(int, 0), default=2,
                          help='timelines that TensorBoard shows of an evaluation, at most every 30 seconds')

    inference = parser.add_argument_group('localization and evaluation')
    inference.add_argument('--class_th', type=share, help='probability from which a class is localized')
    inference.add_argument('--scale', type=count, default=24, help='samples a snippet after upsampling')
    inference.add_argument('--oic_margin', '--gamma', type=amount, default=0.2,
                           help='outer part of the outer-inner contrast (--gamma is the released name)')
    inference.add_argument('--oic_class_weight', type=amount, default=0.2, help='weight of the class probability')
    inference.add_argument('--nms_thresh', type=share, help='overlap from which a run is suppressed')
    inference.add_argument('--nms_alpha', type=positive, default=0.35, help='decay of soft NMS')
    inference.add_argument('--soft_nms', action=switch, default=True,
                           help='lower the score of what is suppressed, or drop it')
    inference.add_argument('--tiou', type=number(float, 1e-9, 1), nargs='+', help='tIoU thresholds of the mAP')
    for action in parser._actions:
        if action.dest in OPTIONS:
            values = [getattr(recipe, action.dest) for recipe in RECIPES.values()]
            said = values[:1] if len(set(map(str, values))) == 1 else values
            action.help = f'{action.help or ""} (recipes: {", ".join(map(show_value, said))})'.strip()
        elif action.default not in (None, False, argparse.SUPPRESS):
            action.help = f'{action.help or ""} (default: {show_value(action.default)})'.strip()
    return parser


def show_value(value: object) -> str:
    if isinstance(value, list):
        return f'{value[0]:g} to {value[-1]:g}'
    return f'{value:g}' if isinstance(value, float) else str(value)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse flags; what is not given comes from the recipe of --dataset."""
    parser = get_parser()
    args = parser.parse_args(argv)
    recipe = {name: getattr(RECIPES[args.dataset], name) for name in OPTIONS}
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


# ---- what both runs share -------------------------------------------------------------------------------------------

def open_annotations(args: argparse.Namespace) -> GroundTruth | None:
    path = Path(args.data_path) / 'gt.json'
    if not Path(args.data_path).is_dir():
        raise InputError(f'--data_path {args.data_path}: not a folder')
    return None if args.inference_only and not path.exists() else read_ground_truth(path)


def open_videos(args: argparse.Namespace, split: str, truth: GroundTruth | None, class_names: list[str],
                device: torch.device) -> VideoDataset:
    return VideoDataset(args.data_path, split, truth, class_names, MODALITIES[args.modal], args.cache, device)


def build_model(args: argparse.Namespace, feature_dim: int, num_classes: int, device: torch.device) -> AICL:
    torch.set_float32_matmul_precision('high' if args.precision == 'tf32' else 'highest')
    model = AICL(feature_dim, num_classes, args.hidden_dim, args.fusion_weight, args.topk_ratio, MODALITIES[args.modal],
                 torch.bfloat16 if args.precision == 'bf16' else None)
    return model.to(device, torch.float64 if args.precision == 'fp64' else torch.float32)


def make_folder(args: argparse.Namespace) -> Path:
    """OUTPUT_DIR/EXP_NAME, made where it is not there."""
    folder = Path(args.output_dir) / args.exp_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be made: {error.strerror}; choose another --output_dir or '
                         f'--exp_name') from None
    return folder


def describe(args: argparse.Namespace, datasets: dict[str, VideoDataset], num_classes: int,
             device: torch.device) -> None:
    """Say what this run works with."""
    width = next(iter(datasets.values())).feature_dim
    print(f'data     {args.data_path}: {num_classes} classes, {width} features a modality ({args.modal})')
    for split, dataset in datasets.items():
        first, *more = dataset.summary(args.feature_fps, args.snippet_frames).lines()
        found = (f'{dataset.folder} ({dataset.layout}): {number_of(len(dataset), "video")} of {min(dataset.lengths)} '
                 f'to {max(dataset.lengths)} snippets, cache {dataset.cache}')
        for title, line in zip([split, *[''] * 9], [first, found, *more]):
            print(f'{title:<9}{line}')
        time_base = dataset.time_base(args.feature_fps, args.snippet_frames)
        if time_base and time_base.is_off:
            warn(f'{split}: {time_base.advice()}')
    recipe = RECIPES[args.dataset]
    values = [f'{name} {show_value(getattr(args, name))}' for name in OPTIONS if getattr(args, name) is not None]
    print(f'recipe   {args.dataset}: {", ".join(values)}')
    print(f'         {recipe.source}')
    print(f'device   {device}, {args.precision}', flush=True)


def settings_of(args: argparse.Namespace) -> dict:
    """Every argument, and the versions of what computes with them."""
    versions = {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}
    return {**vars(args), 'versions': versions}


def list_files(folder: Path) -> None:
    files = sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))
    print(f'\nfiles in {folder}: {", ".join(files)}')


# ---- training -------------------------------------------------------------------------------------------------------

HARMLESS = {'resume', 'overwrite', 'figures', 'num_steps', 'num_epochs', 'num_workers', 'cache', 'compile', 'device',
            'data_path', 'output_dir', 'exp_name'}    # arguments that a resumed run may change


@dataclass
class Progress:
    """How far a run is, and the random states from which the order and the rows of this epoch can be drawn again."""
    step: int = 0
    epoch: int = 0
    position: int = 0                   # batches of this epoch that are done
    epoch_start: dict | None = None     # of torch's and Python's generators
    rows_start: list | None = None      # of the generator that draws the rows


class Pending(NamedTuple):
    """Losses of a step that wait on the device until somebody looks at them."""
    step: int
    epoch: int
    losses: torch.Tensor
    videos: list[int]


def log_pending(pending: list[Pending], run: Run | None, log_every: int, names: list[str]) -> list[float]:
    """Bring losses from the device, all at once, and log them; the newest ones.

    Raises InputError at the first that is not finite, once those before it are logged.
    """
    rows = [(p.step, p.epoch, values) for p, values in zip(pending, torch.stack([p.losses for p in pending]).tolist())]
    num_finite = next((i for i, (_, _, values) in enumerate(rows) if not all(map(math.isfinite, values))), len(rows))
    if run:
        run.log_losses([row for row in rows[:num_finite] if row[0] % log_every == 0])
    if num_finite < len(rows):
        step, _, (total, *terms) = rows[num_finite]
        term = next((name for name, value in zip(Losses._fields[1:], terms) if not math.isfinite(value)), 'total')
        videos = ', '.join(names[v] for v in pending[num_finite].videos)
        raise InputError(f'step {step}: the loss term {term} is not finite, on the videos {videos}; the weights saved '
                         f'before stay as they are, try a lower --lr and check the features of these videos')
    return rows[-1][2]


def read_state(args: argparse.Namespace) -> dict | None:
    """The checkpoint to go on from, None for a new run. Raises InputError where the folder holds another run."""
    folder = Path(args.output_dir) / args.exp_name
    if (folder / 'args.json').exists() and not (args.resume or args.overwrite):
        raise InputError(f'{folder}: holds a run already; add --resume to go on with it or --overwrite to replace it, '
                         f'or choose another --exp_name')
    return read_checkpoint(folder) if args.resume else None


def check_same_run(args: argparse.Namespace, identity: dict, state: dict) -> None:
    """Raises InputError, by name, where arguments or data (`identity`) make it another run than the checkpoint's."""
    changed = [f'--{name} was {value!r} and is {vars(args)[name]!r}' for name, value in state['args'].items()
               if name not in HARMLESS and vars(args).get(name, value) != value]
    changed += [f'the {name} are others' for name, value in identity.items() if state['identity'][name] != value]
    if changed:
        raise InputError(f'{args.output_dir}/{args.exp_name}: cannot be resumed with other settings: '
                         f'{"; ".join(changed)}')


def start_run(args: argparse.Namespace, folder: Path, class_names: list[str], progress: Progress,
              state: dict | None) -> Run:
    """Open the run's folder and bring it to where `progress` stands."""
    if state is None:
        Run.clear(folder)
    metrics = ('average_mAP', 'video_accuracy', 'num_predictions', *(f'mAP@{tiou_key(t)}' for t in args.tiou))
    run = Run(folder, Losses._fields, metrics, progress.step)
    write_text(folder / 'labels.txt', ''.join(f'{name}\n' for name in class_names))
    write_json(folder / 'args.json', settings_of(args))
    if state:
        run.results = state['results']
        if run.results:
            run.write_results()
        if state['best']:    # the file may be that of a later step, which was not saved
            save(state['best'], folder / 'best.pt')
    return run


def train(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> int:
    """Train, evaluate on the way and at the end; the exit status, 128 + signal where one ended the run early."""
    # 1. Data. Nothing here draws a random number.
    state = read_state(args)
    ranks.largest(0)    # nobody writes into the folder before all have looked at it
    truth = open_annotations(args)
    class_names = truth.labels
    train_set, test_set = (open_videos(args, split, truth, class_names, device) for split in ('train', 'test'))
    if train_set.feature_dim != test_set.feature_dim:
        raise InputError(f'{args.data_path}: training features are {train_set.feature_dim} wide a modality, '
                         f'test features {test_set.feature_dim}')
    test_truth = scored_videos(args.data_path, truth, test_set)

    # 2. Network and optimiser. Seeded before the network and again before the first batch, as the reference is.
    seed_everything(args.seed)
    model = build_model(args, train_set.feature_dim, len(class_names), device)
    dtype = next(model.parameters()).dtype
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=args.weight_decay, fused=True)
    seed_everything(args.seed)
    rng = np.random.RandomState(args.seed)
    sampler = SnippetSampler(train_set.lengths, args.num_segments, args.batch_size, rng, args.drop_last,
                             (ranks.rank, ranks.count))
    if not len(sampler):
        raise InputError(f'--batch_size {args.batch_size} is more than the {len(train_set)} training videos; '
                         f'lower it or add --no-drop_last')
    num_steps = args.num_steps or args.num_epochs * len(sampler)

    # 3. The run: a new one, or one to go on with.
    identity = {'classes': class_names, 'training videos': train_set.names, 'lengths of videos': train_set.lengths,
                'test videos': test_set.names}
    progress = Progress()
    if state:
        try:
            check_same_run(args, identity, state)
            progress = Progress(**state['progress'])
            if state['best'] is not None:
                load_weights(model, state['best'], 'checkpoint.pt')    # only to see that they can be
            load_weights(model, state['model'], 'checkpoint.pt')
            optimizer.load_state_dict(state['optimizer'])
            set_random_state(state['random'])    # for the time being only to see that it can be
            evaluated = state['results'].get('last', {}).get('step')
        except (LookupError, TypeError, ValueError, AttributeError):
            raise InputError(f'{args.output_dir}/{args.exp_name}: its checkpoint is not one of this version of the '
                             f'program; start again with --overwrite') from None
        if num_steps < progress.step or num_steps == progress.step != evaluated:
            raise InputError(f'{args.output_dir}/{args.exp_name}: is at step {progress.step} already, which is not '
                             f'before the end at {num_steps}; give more with --num_steps or --num_epochs')
    folder, run = make_folder(args), None
    if ranks.is_first:
        describe(args, {'train': train_set, 'test': test_set}, len(class_names), device)
        run = start_run(args, folder, class_names, progress, state)
        if state:
            print(f'resumed  at step {progress.step} of {num_steps}', flush=True)

    # 4. The step. With several ranks each has its part of the batch, weighted so that the gradients are the whole's.
    network = model if ranks.count == 1 else DistributedDataParallel(model)
    weights = LossWeights(args.lambda_modality, args.lambda_contrast, args.lambda_action)
    num_mined = max(1, args.num_segments // args.contrast_ratio)

    def losses_of(features: torch.Tensor, labels: torch.Tensor) -> Losses:
        outputs = network(features)
        mined = mine(outputs.actionness_aware, outputs.actionness_agnostic, num_mined)
        return aicl_losses(outputs, mined, labels, pseudo_targets(outputs, labels), weights, args.q_val)

    losses_of = torch.compile(losses_of) if args.compile else losses_of

    # 5. The loop. Losses stay on the device and are fetched about once a second, so that no step waits for them.
    stop, pending, evaluations = StopSignal(), [], {}
    fetched = saved = time.monotonic()
    bar = tqdm(total=num_steps, initial=progress.step, desc='training', unit='step', dynamic_ncols=True,
               disable=not ranks.is_first, mininterval=0.1 if sys.stderr.isatty() else 30)
    if state:
        set_random_state(state['random'])
    for batch in endless_batches(train_set, sampler, progress, args.num_workers, device):
        if progress.step >= num_steps:
            break
        losses = losses_of(*(x.to(device, dtype, non_blocking=True) for x in (batch.features, batch.labels)))
        whole = min(args.batch_size, len(train_set) - progress.position * args.batch_size)
        part = len(range(ranks.rank, whole, ranks.count)) / whole    # of the batch's videos that this rank has
        optimizer.zero_grad(set_to_none=True)
        (losses.total * (part * ranks.count)).backward()
        optimizer.step()
        progress.step += 1
        progress.position += 1
        terms = ranks.sum(torch.stack(losses).detach() * part)
        pending.append(Pending(progress.step, progress.epoch, terms, batch.videos))
        bar.update()

        is_last = progress.step == num_steps
        in_turn = args.detection_inf_step and progress.step % args.detection_inf_step == 0
        evaluate_now = is_last or in_turn
        stopped_by = ranks.largest(stop.number) if ranks.count == 1 or progress.step % 10 == 0 else 0
        save_now = is_last or stopped_by or time.monotonic() - saved > CHECKPOINT_SECONDS
        if evaluate_now or save_now or time.monotonic() - fetched > 1:
            newest = log_pending(pending, run, args.log_every, train_set.names)
            pending, fetched = [], time.monotonic()
            bar.set_postfix({name: f'{value:.3f}' for name, value in zip(Losses._fields[:4], newest)}, refresh=False)
        if evaluate_now or save_now:
            check_finite(model, progress.step)
        if evaluate_now:
            generators = random_state()
            evaluation = evaluate_model(model, test_set, test_truth, class_names, args, ranks)
            if not in_turn:    # a longer run, which this one may become, draws nothing here
                set_random_state(generators)
            if run:
                keep_evaluation(run, evaluation, progress, model, evaluations, args)
        if run and save_now:
            saved = time.monotonic()
            write_checkpoint(folder, {
                'args': vars(args), 'identity': identity, 'progress': vars(progress), 'random': random_state(),
                'model': model.state_dict(), 'optimizer': optimizer.state_dict(), 'results': run.results,
                'best': read_weights(folder / 'best.pt') if run.results else None})
        if stopped_by and not is_last:
            bar.close()
            if run:
                print(f'{signal.Signals(stopped_by).name} after step {progress.step}: go on with the same command '
                      f'and --resume')
            return 128 + stopped_by
        if is_last:
            break
    bar.close()
    stop.release()

    # 6. The best and the last weights, side by side; those that this process has not evaluated itself are again.
    for name in ('best', 'last'):
        if ranks.largest(ranks.is_first and name not in evaluations):
            load_weights(model, read_weights(folder / f'{name}.pt'), folder / f'{name}.pt')
            evaluation = evaluate_model(model, test_set, test_truth, class_names, args, ranks)
            if run:
                evaluations[name] = run.results[name]['step'], evaluation
                if name == 'best':
                    evaluation.write(folder)
    if run:
        for name, (step, evaluation) in sorted(evaluations.items()):
            evaluation.show(f'{name} weights (step {step})')
        evaluations['best'][1].warn()
        evaluations['best'][1].write_report(folder, RECIPES[args.dataset].bins)
        run.close(vars(args))
        list_files(folder)
    return 0


def endless_batches(train_set: VideoDataset, sampler: SnippetSampler, progress: Progress, num_workers: int,
                    device: torch.device) -> Iterator[Batch]:
    """Batches of one epoch after the other, from where `progress` stands; the caller counts steps and positions."""
    while True:
        now = None
        if progress.position:    # resumed: draw this epoch's order and rows again, and pass over what is done
            now = random_state()
            set_random_state(progress.epoch_start)
            set_rows_state(sampler.rng, progress.rows_start)
            sampler.start = progress.position
        else:
            progress.epoch_start, progress.rows_start = random_state(), rows_state(sampler.rng)
        for batch in loader(train_set, sampler, num_workers, device.type == 'cuda'):
            if now:
                set_random_state(now)
                now = None
            yield batch
        if now:
            set_random_state(now)
        progress.epoch, progress.position = progress.epoch + 1, 0


def keep_evaluation(run: Run, evaluation: Evaluation, progress: Progress, model: AICL,
                    evaluations: dict[str, tuple[int, Evaluation]], args: argparse.Namespace) -> None:
    """Write what an evaluation found, and remember it in `evaluations` as the last and, if it is, the best."""
    evaluations['last'] = progress.step, evaluation
    if run.keep(progress.step, evaluation.to_json(), model.state_dict()):
        evaluations['best'] = evaluations['last']
        evaluation.write(run.folder)
    scores = evaluation.scores
    if scores is not None:
        run.log_metrics(progress.step, progress.epoch, [
            scores.average, evaluation.video_accuracy, scores.num_predictions, *scores.mean_ap.tolist()])
        if args.figures and time.monotonic() - run.drawn > FIGURE_SECONDS:
            show_on_board(run, evaluation, progress.step, args.figures)
            run.drawn = time.monotonic()
        best = run.results['best']
        tqdm.write(f'step {progress.step:>6}   average mAP {100 * scores.average:5.2f}   video accuracy '
                   f'{100 * evaluation.video_accuracy:5.1f}   best so far {100 * best["average_mAP"]:5.2f} '
                   f'(step {best["step"]})', file=sys.stdout)


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
        for name in ('num_segments', 'topk_ratio', 'fusion_weight', 'feature_fps', 'snippet_frames'):
            if isinstance(trained, dict) and trained.get(name, getattr(args, name)) != getattr(args, name):
                warn(f'{args.model_file}: was trained with --{name} {shorten(trained[name], 40)}, '
                     f'and is used with {getattr(args, name)}')


def infer(args: argparse.Namespace, device: torch.device, ranks: Ranks) -> int:
    """Localize the test videos with given weights and score the detections; the exit status."""
    state = unwrap(read_weights(args.model_file))
    warn_of_other_settings(args)
    truth = open_annotations(args)
    class_names = class_names_of(args, truth, num_classes_of(state, args.model_file))
    test_set = open_videos(args, 'test', truth, class_names, device)
    test_truth = scored_videos(args.data_path, truth, test_set)
    model = build_model(args, test_set.feature_dim, len(class_names), device)
    load_weights(model, state, args.model_file)
    folder = make_folder(args)
    if (folder / 'args.json').exists():
        warn(f'{folder}: holds a training run; its detections.json, results.json, curves.npz and report.html are '
             f'replaced')
    if ranks.is_first:
        describe(args, {'test': test_set}, len(class_names), device)
    evaluation = evaluate_model(model, test_set, test_truth, class_names, args, ranks)
    if evaluation:
        write_json(folder / 'inference_args.json', settings_of(args))
        evaluation.write(folder)
        evaluation.write_report(folder, RECIPES[args.dataset].bins)
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
