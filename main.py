"""AICL: weakly-supervised temporal action localization from video-level labels.

    python main.py --dataset thumos14 --data_path DIR --exp_name NAME                                       trains
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --inference_only --model_file FILE    localizes

Both localize the test videos and, where annotations are there, score the detections. Files go to outputs/NAME.
"""
import argparse
import math
import platform
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from dataset import SnippetSampler, VideoDataset, loader
from eval.detection import Scores, evaluate, format_table, scored_subset, to_json
from eval.files import Detections, GroundTruth, InputError, read_ground_truth, write_detections, write_json, write_text
from eval.localization import LocalizationOptions, localize, predict_classes
from losses import Losses, LossWeights, aicl_losses
from model import AICL, mine, pseudo_targets
from utils import Table, load_weights, num_classes_of, pick_device, read_checkpoint, save, seed_everything, warn

MODALITIES = {'all': ('rgb', 'flow'), 'rgb': ('rgb',), 'flow': ('flow',)}
PRECISIONS = {'fp32': torch.float32, 'fp64': torch.float64}


# ---- the recipes ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Recipe:
    """What differs between the data sets (supplement of the paper); every value has a flag of its own."""
    tiou: tuple[float, ...]
    num_segments: int = 50
    topk_ratio: int = 2
    hidden_dim: int = 512
    fusion_weight: float = 1 / 2
    # The supplement is silent on the rest for ActivityNet: these values are from the ActivityNet 1.3 code that
    # AICL's first author released later and named as the same code base.
    batch_size: int = 32
    drop_last: bool = True
    num_epochs: int | None = None
    num_steps: int | None = 50_000
    detection_inf_step: int = 200
    seed: int = 0
    class_th: float = 0.1
    nms_thresh: float = 0.7


ACTIVITYNET_TIOU = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
RECIPES = {
    'thumos14': Recipe(
        tiou=tuple(np.linspace(0.1, 0.7, 7).round(1).tolist()), num_segments=750, topk_ratio=8, fusion_weight=1 / 3,
        batch_size=16, drop_last=False, num_epochs=900, num_steps=None, detection_inf_step=50, seed=1, class_th=0.25,
        nms_thresh=0.4),
    'activitynet1.2': Recipe(tiou=ACTIVITYNET_TIOU),
    'activitynet1.3': Recipe(tiou=ACTIVITYNET_TIOU, hidden_dim=1024),
}


# ---- the command line -----------------------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message: str):
        self.exit(2, f'error: {message} (see python main.py --help)\n')


def number(kind: type, low: float, high: float = math.inf):
    """An argparse type: a finite `kind` between low and high."""
    def parse(text: str):
        value = kind(text)
        if not (low <= value <= high and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f'{text} is not between {low:g} and {high:g}')
        return value
    parse.__name__ = kind.__name__    # argparse names the type by it when `kind` itself refuses the text
    return parse


def step_interval(text: str) -> int:
    return 0 if text == 'never' else number(int, 1)(text)


def get_parser() -> Parser:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    switch = argparse.BooleanOptionalAction
    count, amount, share = number(int, 1), number(float, 0), number(float, 0, 1)

    run = parser.add_argument_group('run')
    run.add_argument('--dataset', choices=RECIPES, default='thumos14', help='sets the recipe; further flags win over it')
    run.add_argument('--data_path', required=True, help='folder of features, gt.json and split files')
    run.add_argument('--exp_name', required=True, help="the run's name")
    run.add_argument('--output_dir', default='outputs', help='files go to OUTPUT_DIR/EXP_NAME')
    run.add_argument('--inference_only', action='store_true', help='localize and evaluate with --model_file')
    run.add_argument('--model_file', help='weights to load: released or written here')
    run.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    run.add_argument('--precision', choices=PRECISIONS, default='fp32')
    run.add_argument('--seed', type=number(int, 0, 2 ** 32 - 1), help='recipe: 1 on THUMOS14, 0 on ActivityNet')
    run.add_argument('--num_workers', type=number(int, 0), default=0, help='processes that read features')

    data = parser.add_argument_group('data')
    data.add_argument('--modal', choices=MODALITIES, default='all', help='feature streams to use')
    data.add_argument('--num_segments', type=count, help='T, snippets sampled from a video')
    data.add_argument('--feature_fps', type=amount, default=25.0, help='frames a second that features were extracted at')
    data.add_argument('--snippet_frames', type=amount, default=16, help='frames a feature row')

    model = parser.add_argument_group('network')
    model.add_argument('--hidden_dim', type=count, help='H, width of the embeddings')
    model.add_argument('--fusion_weight', type=share, help='g, share of the class scores in the selection score')
    model.add_argument('--topk_ratio', type=count, help='k = T // this snippets make a video logit')
    model.add_argument('--contrast_ratio', type=count, default=20, help='K = T // this snippets are mined a set')

    training = parser.add_argument_group('training')
    training.add_argument('--batch_size', type=count)
    training.add_argument('--drop_last', action=switch, help='leave out the last, smaller batch of an epoch')
    training.add_argument('--num_epochs', type=count)
    training.add_argument('--num_steps', type=count, help='wins over --num_epochs')
    training.add_argument('--lr', type=amount, default=1e-4)
    training.add_argument('--weight_decay', type=amount, default=5e-4)
    training.add_argument('--q_val', type=number(float, 1e-6, 1), default=0.7, help='q of the generalized cross entropy')
    training.add_argument('--lambda_modality', type=amount, default=5.0, help='weight of the modality consistency')
    training.add_argument('--lambda_contrast', type=amount, default=0.01, help='weight of the contrastive terms')
    training.add_argument('--lambda_action', type=amount, default=0.1, help='weight of the action consistency')
    training.add_argument('--detection_inf_step', type=step_interval, metavar='STEPS',
                          help="evaluate every so many steps, or 'never' before the end")
    training.add_argument('--log_every', type=count, default=1, help='steps from one row of losses.csv to the next')

    inference = parser.add_argument_group('localization and evaluation')
    inference.add_argument('--class_th', type=share, help='probability from which a class is localized')
    inference.add_argument('--scale', type=count, default=24, help='samples a snippet after upsampling')
    inference.add_argument('--oic_margin', '--gamma', type=amount, default=0.2,
                           help='outer part of the outer-inner contrast (--gamma is the released name)')
    inference.add_argument('--oic_class_weight', type=amount, default=0.2, help='weight of the class probability in a score')
    inference.add_argument('--nms_thresh', type=share)
    inference.add_argument('--nms_alpha', type=number(float, 1e-6), default=0.35, help='decay of soft NMS')
    inference.add_argument('--soft_nms', action=switch, default=True)
    inference.add_argument('--tiou', type=number(float, 1e-6, 1), nargs='+', help='tIoU thresholds of the mAP')
    return parser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse flags; what is not given comes from the recipe of --dataset."""
    parser = get_parser()
    args = parser.parse_args(argv)
    recipe = asdict(RECIPES[args.dataset])
    if args.num_steps or args.num_epochs:    # a length that the user gives replaces the recipe's, whichever its unit
        recipe.update(num_steps=None, num_epochs=None)
    for name, value in recipe.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.inference_only and not args.model_file:
        parser.error('--inference_only needs --model_file')
    if args.model_file and not args.inference_only:
        parser.error('--model_file needs --inference_only')
    return args


# ---- what both runs share -------------------------------------------------------------------------------------------

def open_annotations(args: argparse.Namespace) -> GroundTruth | None:
    path = Path(args.data_path) / 'gt.json'
    if not Path(args.data_path).is_dir():
        raise InputError(f'--data_path {args.data_path}: not a folder')
    return None if args.inference_only and not path.exists() else read_ground_truth(path)


def annotated_test_videos(truth: GroundTruth | None, test_set: VideoDataset) -> GroundTruth | None:
    """The ground truth that the test videos are scored against; None where none of them is annotated."""
    if truth is None or not test_set.labels.any():
        return None
    annotated = test_set.labels.any(dim=1)
    return scored_subset(truth, [name for name, known in zip(test_set.names, annotated) if known])


def build_model(args: argparse.Namespace, feature_dim: int, num_classes: int) -> AICL:
    model = AICL(feature_dim, num_classes, args.hidden_dim, args.fusion_weight, args.topk_ratio, MODALITIES[args.modal])
    return model.to(pick_device(args.device), PRECISIONS[args.precision])


class Evaluation(NamedTuple):
    """Detections of the test videos and, where they are annotated, how good they are."""
    detections: Detections
    scores: Scores | None
    video_accuracy: float | None    # share of annotated videos whose predicted set of classes is the true one
    num_videos: int

    def to_json(self) -> dict:
        counts = {'num_videos': self.num_videos, 'num_predictions': len(self.detections.scores)}
        if self.scores is None:
            return counts
        return {**to_json(self.scores), 'video_accuracy': self.video_accuracy,
                'num_ground_truth_videos': self.scores.num_videos, **counts}


@torch.inference_mode()
def evaluate_model(model: AICL, test_set: VideoDataset, truth: GroundTruth | None, class_names: list[str],
                   args: argparse.Namespace) -> Evaluation:
    """Localize every test video and score the detections (sections 7 and 8 of the method)."""
    reference = next(model.parameters())
    sampler = SnippetSampler(test_set.lengths, args.num_segments, args.batch_size)
    selections, logits = [], []
    # Iterating the loader draws one number from torch's global generator, as the reference's evaluation does.
    for batch in loader(test_set, sampler, args.num_workers):
        outputs = model(batch.features.to(reference.device, reference.dtype))
        selections.append(outputs.selection.cpu())
        logits.append(outputs.video_logits)
    selection, probabilities = torch.cat(selections).numpy(), torch.cat(logits).softmax(dim=1).cpu().numpy()

    options = LocalizationOptions(**{name: getattr(args, name) for name in LocalizationOptions._fields})
    proposals = localize(selection, probabilities, np.array(test_set.lengths), options)
    detections = Detections(test_set.names, class_names, proposals.video, proposals.label, proposals.segments,
                            proposals.scores)
    if truth is None:
        return Evaluation(detections, None, None, len(test_set))
    labels = test_set.labels.numpy() > 0
    annotated = labels.any(axis=1)
    correct = (predict_classes(probabilities, args.class_th) == labels).all(axis=1)
    return Evaluation(detections, evaluate(truth, detections, np.array(args.tiou)),
                      float(correct[annotated].mean()), len(test_set))


def make_folder(args: argparse.Namespace) -> Path:
    """OUTPUT_DIR/EXP_NAME, made where it is not there."""
    folder = Path(args.output_dir) / args.exp_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'{folder}: cannot be made: {error.strerror}; choose another --output_dir or --exp_name') from None
    return folder


def describe(args: argparse.Namespace, datasets: list[VideoDataset], num_classes: int) -> None:
    """Say what this run works with."""
    print(f'data       {args.data_path}: {num_classes} classes, {datasets[0].feature_dim} features a modality ({args.modal})')
    for dataset in datasets:
        print(f'           {len(dataset)} videos in {dataset.folder} ({dataset.layout}), {min(dataset.lengths)} to '
              f'{max(dataset.lengths)} snippets')
    given = {name: getattr(args, name) for name in asdict(RECIPES[args.dataset]) if getattr(args, name) is not None}
    print(f'recipe     {args.dataset}: ' + ', '.join(f'{name} {value}' for name, value in given.items() if name != 'tiou'))
    print(f'device     {pick_device(args.device)}, {args.precision}', flush=True)


def report(blocks: dict[str, Evaluation], folder: Path) -> None:
    """Print the table of mAP of each evaluation and where the files are."""
    for title, evaluation in blocks.items():
        if evaluation.scores is None:
            print(f'\n{title}: no test video is annotated, so there is nothing to score; '
                  f'{len(evaluation.detections.scores)} detections in {evaluation.num_videos} videos')
        else:
            print(f'\n{title}: {len(evaluation.detections.scores)} detections in {evaluation.num_videos} videos, '
                  f'video accuracy {100 * evaluation.video_accuracy:.1f} %\n{format_table(evaluation.scores)}')
    print(f'\nfiles in {folder}: ' + ', '.join(sorted(path.name for path in folder.iterdir() if not path.name.startswith('.'))))


# ---- training -------------------------------------------------------------------------------------------------------

class Run:
    """The folder of a training run: its tables, TensorBoard events, weights and results."""

    def __init__(self, args: argparse.Namespace, class_names: list[str]):
        self.folder = make_folder(args)
        write_json(self.folder / 'args.json', {**vars(args), 'torch': torch.__version__, 'numpy': np.__version__,
                                               'python': platform.python_version()})
        write_text(self.folder / 'labels.txt', ''.join(f'{name}\n' for name in class_names))
        self.losses = Table(self.folder / 'losses.csv', ['step', 'epoch', *Losses._fields])
        self.metrics = Table(self.folder / 'metrics.csv', ['step', 'epoch', 'average_mAP', 'video_accuracy', 'num_predictions',
                                                           *(f'mAP@{t:g}' for t in args.tiou)])
        self.board = SummaryWriter(str(self.folder))
        self.best: tuple[int, Evaluation] | None = None
        self.last: tuple[int, Evaluation] | None = None

    def log_losses(self, rows: list[tuple[int, int, list[float]]]) -> None:
        self.losses.append([[step, epoch, *values] for step, epoch, values in rows])
        for step, _, values in rows:
            for name, value in zip(Losses._fields, values):
                self.board.add_scalar(f'loss/{name}', value, step)

    def log_evaluation(self, step: int, epoch: int, evaluation: Evaluation, model: AICL) -> None:
        """Record an evaluation; the weights are kept as `last`, and as `best` if their average mAP is the largest yet."""
        self.last = step, evaluation
        save(model.state_dict(), self.folder / 'last.pt')
        # quirk: the best weights are chosen on the test videos, as in the reference; so `last` stands beside them.
        if self.best is None or evaluation.scores is None or evaluation.scores.average > self.best[1].scores.average:
            self.best = self.last
            save(model.state_dict(), self.folder / 'best.pt')
            write_detections(self.folder / 'detections.json', evaluation.detections)
        write_json(self.folder / 'results.json', {name: {'step': at, **found.to_json()} for name, (at, found) in
                                                  (('best', self.best), ('last', self.last))})
        scores = evaluation.scores
        if scores is None:
            return
        self.metrics.append([[step, epoch, scores.average, evaluation.video_accuracy, scores.num_predictions,
                              *scores.mean_ap.tolist()]])
        for name, value in (('average', scores.average), *((f'{t:g}', m) for t, m in zip(scores.tiou, scores.mean_ap))):
            self.board.add_scalar(f'mAP/{name}', value, step)
        self.board.add_scalar('video_accuracy', evaluation.video_accuracy, step)
        tqdm.write(f'step {step:>6}   average mAP {100 * scores.average:5.2f}   video accuracy '
                   f'{100 * evaluation.video_accuracy:5.1f}   best so far {100 * self.best[1].scores.average:5.2f} '
                   f'(step {self.best[0]})', file=sys.stdout)


class Pending(NamedTuple):
    """Losses of a step that wait on the device until somebody looks at them."""
    step: int
    epoch: int
    losses: torch.Tensor
    videos: list[str]


def fetch_losses(pending: list[Pending]) -> list[tuple[int, int, list[float]]]:
    """Bring losses from the device, all at once. Raises InputError at the first that is not finite."""
    rows = torch.stack([p.losses for p in pending]).tolist() if pending else []
    for p, values in zip(pending, rows):
        if not all(map(math.isfinite, values)):
            term = next(name for name, value in zip(Losses._fields[1:] + Losses._fields[:1], values[1:] + values[:1])
                        if not math.isfinite(value))
            raise InputError(f'step {p.step}: the loss term {term} is not finite on {", ".join(p.videos)}; '
                             f'no weights were saved since; lower --lr or check these features')
    return [(p.step, p.epoch, values) for p, values in zip(pending, rows)]


def train(args: argparse.Namespace) -> None:
    # 1. Data. Nothing here draws a random number.
    truth = open_annotations(args)
    class_names = truth.labels
    modalities = MODALITIES[args.modal]
    train_set = VideoDataset(args.data_path, 'train', truth, class_names, modalities)
    test_set = VideoDataset(args.data_path, 'test', truth, class_names, modalities)
    if train_set.feature_dim != test_set.feature_dim:
        raise InputError(f'{args.data_path}: training features are {train_set.feature_dim} wide a modality, '
                         f'test features {test_set.feature_dim}')
    test_truth = annotated_test_videos(truth, test_set)
    describe(args, [train_set, test_set], len(class_names))

    # 2. Network and optimiser. Seeded before the network and again before the first batch, as the reference is.
    seed_everything(args.seed)
    model = build_model(args, train_set.feature_dim, len(class_names))
    reference = next(model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    seed_everything(args.seed)
    sampler = SnippetSampler(train_set.lengths, args.num_segments, args.batch_size, np.random.RandomState(args.seed),
                             args.drop_last)
    if not len(sampler):
        raise InputError(f'--batch_size {args.batch_size} is more than the {len(train_set)} training videos; '
                         f'lower it or add --no-drop_last')
    num_steps = args.num_steps or args.num_epochs * len(sampler)
    num_mined = max(1, args.num_segments // args.contrast_ratio)
    weights = LossWeights(args.lambda_modality, args.lambda_contrast, args.lambda_action)

    # 3. The steps. Losses stay on the device and are fetched about once a second, so that no step waits for them.
    run = Run(args, class_names)
    step, epoch, pending, fetched = 0, 0, [], time.monotonic()
    with tqdm(total=num_steps, desc='training', unit='step', dynamic_ncols=True) as bar:
        while step < num_steps:
            for batch in loader(train_set, sampler, args.num_workers, reference.is_cuda):
                features = batch.features.to(reference.device, reference.dtype, non_blocking=True)
                labels = batch.labels.to(reference.device, reference.dtype, non_blocking=True)
                outputs = model(features)
                mined = mine(outputs.actionness_aware, outputs.actionness_agnostic, num_mined)
                losses = aicl_losses(outputs, mined, labels, pseudo_targets(outputs, labels), weights, args.q_val)
                optimizer.zero_grad(set_to_none=True)
                losses.total.backward()
                optimizer.step()
                step += 1
                bar.update()
                if step % args.log_every == 0:
                    pending.append(Pending(step, epoch, torch.stack(losses).detach(), [train_set.names[v] for v in batch.videos]))

                evaluate_now = step == num_steps or (args.detection_inf_step and step % args.detection_inf_step == 0)
                if evaluate_now or time.monotonic() - fetched > 1:
                    rows, pending, fetched = fetch_losses(pending), [], time.monotonic()
                    run.log_losses(rows)
                    if rows:
                        bar.set_postfix({name: f'{value:.3f}' for name, value in zip(('total', 'mil', 'gce_rgb', 'gce_flow'), rows[-1][2])})
                if evaluate_now:
                    evaluation = evaluate_model(model, test_set, test_truth, class_names, args)
                    run.log_evaluation(step, epoch, evaluation, model)
                if step == num_steps:
                    break
            epoch += 1
    run.board.close()
    report({f'{name} weights (step {at})': found for name, (at, found) in (('best', run.best), ('last', run.last))},
           run.folder)


# ---- inference ------------------------------------------------------------------------------------------------------

def class_names_of(args: argparse.Namespace, truth: GroundTruth | None, num_classes: int) -> list[str]:
    """Names of the classes of a checkpoint: the labels of gt.json, else labels.txt beside the weights, else numbers."""
    if truth is not None and truth.labels:
        if len(truth.labels) != num_classes:
            raise InputError(f'{args.model_file}: was trained on {num_classes} classes, but {args.data_path}/gt.json '
                             f'has {len(truth.labels)}; use the gt.json of the training data')
        return truth.labels
    path = Path(args.model_file).with_name('labels.txt')
    names = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    if len(names) == num_classes:
        return names
    warn(f'{args.data_path}/gt.json names no class and there is no fitting {path}; classes are named by their number')
    return [f'class_{c}' for c in range(num_classes)]


def infer(args: argparse.Namespace) -> None:
    state = read_checkpoint(args.model_file)
    truth = open_annotations(args)
    class_names = class_names_of(args, truth, num_classes_of(state, args.model_file))
    test_set = VideoDataset(args.data_path, 'test', truth, class_names, MODALITIES[args.modal])
    test_truth = annotated_test_videos(truth, test_set)
    describe(args, [test_set], len(class_names))
    model = build_model(args, test_set.feature_dim, len(class_names))
    load_weights(model, state, args.model_file)
    evaluation = evaluate_model(model, test_set, test_truth, class_names, args)
    folder = make_folder(args)
    write_detections(folder / 'detections.json', evaluation.detections)
    write_json(folder / 'results.json', evaluation.to_json())
    report({args.model_file: evaluation}, folder)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        infer(args) if args.inference_only else train(args)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
