"""AICL: weakly-supervised temporal action localization from video-level labels.

    python main.py --dataset thumos14 --data_path DIR --exp_name NAME                                       trains
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --resume                              goes on
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --inference_only --model_file FILE    localizes
    torchrun --nproc_per_node=N main.py ...                                                                 on N GPUs

All localize the test videos and, where annotations are there, score the detections. Files go to outputs/NAME.
"""
import argparse
import math
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from settings import (DIFFER, MODALITIES, RECIPES, RESUME, describe_recipe, get_parser, get_settings,
                      say_what_is_special)
from utils import (InputError, first_few, number_of, pick, print_block, printable, read_json, run_command, shorten,
                   warn, write_json)

# torch takes a second to import, numpy a sixth of one. The rooms that need them are imported where they are used, so
# that --help, a wrong flag and a missing folder are answered at once.
if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from tqdm import tqdm

    from dataset import VideoDataset
    from eval.files import GroundTruth
    from inference import Evaluation, Evaluator
    from run import Checkpoint, PendingLosses, Ranks, Run
    from training import Training

CHECKPOINT_SECONDS = 60    # between two checkpoints, at least


# ---- from arguments to what the rooms take ---------------------------------------------------------------------------

def folder_of(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / args.exp_name


def check_paths(args: argparse.Namespace) -> None:
    """Raises InputError where a folder is not there."""
    root = Path(args.data_path)
    if not (root.is_dir() or args.inference_only and root.is_file()):
        raise InputError(f'--data_path {args.data_path}: not a folder')
    if args.videos and not Path(args.videos).is_dir():
        raise InputError(f'--videos {args.videos}: not a folder')


def check_thresholds(tiou: list[float]) -> None:
    """Raises InputError where these are no thresholds to score at."""
    from eval.detection import check_tiou
    try:
        check_tiou(tiou)
    except InputError as error:
        raise InputError(f'--tiou: {error}') from None


def open_videos(args: argparse.Namespace, split: str, truth: 'GroundTruth', class_names: list[str],
                device: 'torch.device') -> 'VideoDataset':
    from data_folder import find_split
    from dataset import VideoDataset
    found = find_split(Path(args.data_path), split, truth, class_names, MODALITIES[args.modal], args.layout,
                       loose=args.inference_only)
    return VideoDataset(found, args.cache, device)


def check_videos(args: argparse.Namespace, test_set: 'VideoDataset') -> None:
    """Raises InputError where --videos has none of the test videos: the report would say so, but hours later."""
    from eval.report import find_videos
    if args.videos:
        find_videos(args.videos, test_set.names)


def get_evaluator(args: argparse.Namespace, test_set: 'VideoDataset', truth: 'GroundTruth',
                  ranks: 'Ranks') -> 'Evaluator':
    from eval.localization import LocalizationOptions
    from inference import Evaluator, scored_videos
    scored = scored_videos(args.data_path, truth, test_set)
    return Evaluator(test_set, scored, args.num_segments, args.batch_size, args.num_workers,
                     pick(LocalizationOptions, vars(args)), args.known_labels, args.tiou, ranks.share, ranks.gather)


def describe(args: argparse.Namespace, datasets: 'dict[str, VideoDataset]', device: 'torch.device') -> None:
    """Say what this run works with."""
    first_set = next(iter(datasets.values()))
    print_block('data', [f'{args.data_path}: {len(first_set.class_names)} classes, {first_set.feature_dim} features a '
                         f'modality ({args.modal})'])
    for split, dataset in datasets.items():
        first, *more = dataset.summary(args.feature_fps, args.snippet_frames).lines()
        found = (f'{dataset.folder} ({dataset.layout}): {number_of(len(dataset), "video")} of {min(dataset.lengths)} '
                 f'to {max(dataset.lengths)} snippets, cache {dataset.cache}')
        print_block(split, [first, found, *filter(None, [dataset.split.folder.guess()]), *more])
        time_base = dataset.time_base(args.feature_fps, args.snippet_frames)
        if time_base and time_base.is_off:
            warn(f'{split}: {time_base.advice()}')
    print_block('recipe', describe_recipe(args))
    print_block('device', [f'{device}, {args.precision}'])


def show_detections(evaluation: 'Evaluation', folder: Path, args: argparse.Namespace, title: str,
                    subtitle: str) -> None:
    """Write the report page, and subtitles where they are wanted."""
    from eval.diagnosis import BINS
    from eval.subtitles import write_subtitles
    from inference import Page
    min_score = args.min_score if args.min_score is not None else known_threshold(args)
    videos = Path(args.videos) if args.videos else None
    evaluation.write_report(folder, Page(BINS[RECIPES[args.dataset].bins], title, subtitle, videos, min_score))
    if args.subtitles:
        least = -math.inf if min_score is None else min_score
        write_subtitles(folder / 'subtitles', evaluation.detections, least, args.subtitles, overwrite=True)


def known_threshold(args: argparse.Namespace) -> float | None:
    """The score of best F1 on the test videos of the run that gave the weights; None where it is not known."""
    if not args.inference_only:
        return None
    path = Path(args.model_file).with_name('results.json')
    results = read_json(path) if path.is_file() else {}
    block = results.get(Path(args.model_file).stem) if isinstance(results, dict) else None
    threshold = block.get('threshold') if isinstance(block, dict) else None
    score = threshold.get('score') if isinstance(threshold, dict) else None
    return float(score) if isinstance(score, (int, float)) and abs(score) < 1e308 else None


def tell_what_next(args: argparse.Namespace, folder: Path, num_steps: int | None = None) -> None:
    """Say where to look and what to try next: after a training run of so many steps, commands that work as they are."""
    report = folder / 'report.html'
    lines = [f'report: {report}'] if report.exists() else [f'detections: {folder / "detections.csv"}']
    if num_steps:
        weights = next(path for path in (folder / 'best.pt', folder / 'last.pt') if path.exists())
        lines.append(f'curves: {command_line("tensorboard", logdir=args.output_dir)}')
        lines.append('other thresholds: ' + command_line(
            'python main.py --inference_only', model_file=weights, data_path=args.data_path,
            output_dir=args.output_dir, exp_name=f'{args.exp_name}-inference', class_th=0.2))
        lines.append('longer: ' + command_line(
            'python main.py --resume', exp_name=args.exp_name, output_dir=args.output_dir, num_steps=2 * num_steps))
    print('\n' + '\n'.join(map(printable, lines)))


def command_line(command: str, **flags: object) -> str:
    """A command with its flags as a shell takes it; the usual output folder is left out."""
    said = [f'--{name} {shlex.quote(str(value))}' for name, value in flags.items()
            if (name, value) != ('output_dir', 'outputs')]
    return ' '.join([command, *said])


# ---- training -------------------------------------------------------------------------------------------------------

def train(args: argparse.Namespace, device: 'torch.device', ranks: 'Ranks') -> int:
    """Train, evaluate on the way and at the end; the exit status, 128 + signal where one ended the run early."""
    from data_folder import has_test_videos, missing_annotations, read_annotations
    from dataset import check_batches
    from run import (Checkpoint, Lock, Run, begin_run, check_folder, check_same_run, describe_data, describe_machine,
                     find_checkpoint, keep_data, make_folder)
    from training import Training, training_options

    # 1. The data. Nothing here draws a random number.
    folder = folder_of(args)
    keep_data(folder, args.data_path)
    check_folder(folder, args.resume, args.overwrite)
    truth = read_annotations(Path(args.data_path))
    if not truth.labels:
        raise missing_annotations(Path(args.data_path))
    train_set = open_videos(args, 'train', truth, truth.labels, device)
    # Who has videos and tags alone wants to know when things happen in them: then the training videos are localized.
    has_tests = has_test_videos(Path(args.data_path), truth)
    test_set = open_videos(args, 'test', truth, truth.labels, device) if has_tests else train_set
    if train_set.feature_dim != test_set.feature_dim:
        raise InputError(f'{args.data_path}: training features are {train_set.feature_dim} wide a modality, '
                         f'test features {test_set.feature_dim}')
    check_videos(args, test_set)
    check_batches([train_set, test_set], args.num_segments, args.batch_size, args.num_workers, ranks.share)
    evaluator = get_evaluator(args, test_set, truth, ranks)

    # 2. The network, its optimiser, the order of the batches.
    training = Training(training_options(vars(args)), train_set.feature_dim, len(train_set.class_names),
                        train_set.lengths, device, ranks.share)
    num_steps = args.num_steps or args.num_epochs * training.steps_per_epoch

    # 3. The run: a new one, or one to go on with.
    own = Checkpoint(vars(args), describe_data(train_set, test_set, evaluator.truth),
                     describe_machine(device, ranks.count), training.state(), {}, None)
    make_folder(folder)
    with Lock(folder) if ranks.is_first else nullcontext():
        state = find_checkpoint(folder, args.resume, args.overwrite)
        if state:
            check_same_run(folder, state, own, get_parser().with_trait(RESUME))
            go_on(training, state, folder, num_steps)
        ranks.wait()    # nobody writes into the folder before all have looked at it
        run = None
        if ranks.is_first:
            describe(args, {'train': train_set, 'test': test_set}, device)
            if state:
                print(f'resumed  at step {training.progress.step} of {num_steps}', flush=True)
            else:
                begin_run(folder, own)
            run = Run(folder, own, get_parser().with_trait(DIFFER), state or own)

        # 4. The steps, and what they came to.
        with run or nullcontext():
            stopped_by = take_steps(training, num_steps, train_set, evaluator, run, ranks, args)
            if not stopped_by:
                conclude(training, folder, evaluator, run, ranks, args)
                if run:
                    tell_what_next(args, folder, num_steps)
                return 0
            if run:
                print(f'{signal.Signals(stopped_by).name} after step {training.progress.step}: go on with the same '
                      f'command and --resume')
            return 128 + stopped_by


def go_on(training: 'Training', state: 'Checkpoint', folder: Path, num_steps: int) -> None:
    """Bring a training to where a checkpoint stands. Raises InputError where it cannot, or need not, go on there."""
    from model import load_weights
    if fault := training.find_fault(state.training):
        raise InputError(f'{folder}: its checkpoint is damaged, or not of this version of the program: its {fault} is '
                         f'not one of this training; start again with --overwrite')
    if state.best is not None:
        load_weights(training.network, state.best, folder / 'checkpoint.pt')    # only to see that they can be
    training.restore(state.training)
    evaluated = state.results.get('last', {}).get('step')
    step = training.progress.step
    if num_steps < step or num_steps == step != evaluated:
        raise InputError(f'{folder}: is at step {step} already, which is not before the end at {num_steps}; give more '
                         f'with --num_steps or --num_epochs')


def take_steps(training: 'Training', num_steps: int, train_set: 'VideoDataset', evaluator: 'Evaluator',
               run: 'Run | None', ranks: 'Ranks', args: argparse.Namespace) -> int:
    """Train to the end, with evaluations and checkpoints on the way; the signal that ended it early, else 0."""
    from inference import Judging
    from run import PendingLosses, StopSignal
    from training import random_state, set_random_state

    def keep(*found: Any) -> None:
        if run:
            keep_evaluation(run, *found)

    progress, batches = training.progress, training.batches(train_set, args.num_workers)
    every = args.detection_inf_step if evaluator.truth else 0    # where nothing is scored, the end is soon enough
    pending, fetched, saved = PendingLosses(), time.monotonic(), time.monotonic()
    with (StopSignal() as stop, progress_bar(num_steps, progress.step, ranks.is_first) as bar,
          Judging(evaluator, keep) as judging):
        while progress.step < num_steps:
            batch = next(batches)
            terms = training.step(batch)
            pending.add(progress.step, progress.epoch, ranks.sum(terms), batch.videos)
            bar.update()

            is_last = progress.step == num_steps
            in_turn = every > 0 and progress.step % every == 0
            stopped_by = ranks.largest(stop.number) if ranks.count == 1 or progress.step % 10 == 0 else 0
            save_now = is_last or bool(stopped_by) or time.monotonic() - saved > CHECKPOINT_SECONDS
            if is_last or in_turn or save_now or time.monotonic() - fetched > 1:
                log_losses(pending, train_set.names, run, args.log_every, bar)
                fetched = time.monotonic()
            if is_last or in_turn or save_now:
                training.check_finite()
            if is_last or in_turn:
                generators = random_state()
                judging.begin(progress.step, progress.epoch, training.network)
                if not in_turn:    # at the end alone: a longer run, which this one may become, draws nothing here
                    set_random_state(generators)
            judging.collect(wait=save_now)
            if run and save_now:
                run.save(training.state())
                saved = time.monotonic()
            if stopped_by and not is_last:
                return stopped_by
    return 0


def progress_bar(num_steps: int, step: int, is_shown: bool) -> 'tqdm':
    from tqdm import tqdm
    return tqdm(total=num_steps, initial=step, desc='training', unit='step', dynamic_ncols=True,
                disable=not is_shown, mininterval=0.1 if sys.stderr.isatty() else 30)


def log_losses(pending: 'PendingLosses', names: list[str], run: 'Run | None', log_every: int, bar: 'tqdm') -> None:
    """Bring losses from the device and log them. Raises InputError at the first step with one that is not finite."""
    from losses import Losses
    rows, complaint = pending.fetch(names)
    if run:
        run.log_losses([row for row in rows if row.step % log_every == 0])
    if complaint:
        raise complaint
    newest = dict(zip(Losses._fields, rows[-1].terms))
    shown = {'total': newest['total'], 'mil': newest['mil'], 'consistency': newest['action_consistency'],
             'contrast': sum(value for name, value in newest.items() if name.startswith('contrastive'))}
    words = {name: f'{value:.3f}' for name, value in shown.items()}
    if run and 'average_mAP' in run.results.get('last', {}):
        words['mAP'] = f'{100 * run.results["last"]["average_mAP"]:.1f}'
    bar.set_postfix(words, refresh=False)


def keep_evaluation(run: 'Run', step: int, epoch: int, evaluation: 'Evaluation', weights: 'dict[str, Tensor]') -> None:
    """Keep what an evaluation found, and say it."""
    from tqdm import tqdm

    from inference import ScoredEvaluation
    run.keep(step, epoch, evaluation, weights)
    run.draw_in_turn(step, evaluation)
    if isinstance(evaluation, ScoredEvaluation):
        best, accuracy = run.results['best'], run.results['last']['video_accuracy']
        tqdm.write(f'step {step:>6}   average mAP {100 * evaluation.scores.average:5.2f}   video accuracy '
                   f'{100 * accuracy:5.1f}   best so far {100 * best["average_mAP"]:5.2f} '
                   f'(step {best["step"]})', file=sys.stdout)


def conclude(training: 'Training', folder: Path, evaluator: 'Evaluator', run: 'Run | None', ranks: 'Ranks',
             args: argparse.Namespace) -> None:
    """Show the best and the last weights side by side; those that this process has not evaluated itself are again."""
    from inference import ScoredEvaluation
    from model import load_weights, read_weights

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
        if name == 'last' or isinstance(evaluation, ScoredEvaluation):    # without scores the last are the best
            evaluation.show(f'{name} weights (step {step})')
        run.draw(name, step, evaluation)
    step, best = run.evaluated['best']
    best.warn()
    chosen = 'best weights, chosen on the test videos' if isinstance(best, ScoredEvaluation) else 'last weights'
    show_detections(best, folder, args, f'{folder.name}: {args.dataset}, step {step}', chosen)
    run.conclude()


# ---- inference ------------------------------------------------------------------------------------------------------

def class_names_of(args: argparse.Namespace, truth: 'GroundTruth', num_classes: int) -> list[str]:
    """Names of the classes of a checkpoint: labels.txt beside the weights, else the labels of gt.json, else numbers."""
    path = Path(args.model_file).with_name('labels.txt')
    try:
        names = path.read_text(encoding='utf-8').splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({shorten(error)}); write one class a line') from None
    if len(names) == num_classes == len(set(names)):
        if unknown := [label for label in truth.labels if label not in names]:
            warn(f'{args.data_path}: {number_of(len(unknown), "label")} of the annotations are none of the '
                 f'{num_classes} classes in {path}, and nothing can be found of them: {first_few(unknown)}')
        return names
    if names:
        warn(f'{path}: lists {len(names)} classes, the weights have {num_classes}; it is left aside')
    if not truth.labels:
        warn(f'{args.data_path}: nothing there names a class, and there is no fitting {path}; classes are named by '
             f'their number')
        return [f'class_{c}' for c in range(num_classes)]
    if len(truth.labels) != num_classes:
        raise InputError(f'{args.model_file}: was trained on {num_classes} classes, but {args.data_path}/gt.json has '
                         f'{len(truth.labels)}; use the gt.json of the training data, or put the labels.txt of the '
                         f'training beside the weights')
    return truth.labels


def infer(args: argparse.Namespace, device: 'torch.device', ranks: 'Ranks') -> int:
    """Localize the test videos with given weights and score the detections; the exit status."""
    from data_folder import read_annotations
    from dataset import check_batches
    from model import build_network, load_weights, network_options, num_classes_of, read_weights, unwrap
    from run import Lock, arguments_and_versions, keep_data, make_folder

    folder = folder_of(args)
    keep_data(folder, args.data_path)
    state = unwrap(read_weights(args.model_file))
    truth = read_annotations(Path(args.data_path))
    class_names = class_names_of(args, truth, num_classes_of(state, args.model_file))
    test_set = open_videos(args, 'test', truth, class_names, device)
    check_videos(args, test_set)
    check_batches([test_set], args.num_segments, args.batch_size, args.num_workers, ranks.share)
    evaluator = get_evaluator(args, test_set, truth, ranks)
    network = build_network(network_options(vars(args)), test_set.feature_dim, len(class_names), device)
    load_weights(network, state, args.model_file)
    make_folder(folder)
    with Lock(folder) if ranks.is_first else nullcontext():
        if ranks.is_first:
            if (folder / 'args.json').exists():
                warn(f'{folder}: holds a training run; its detections.json, results.json, curves.npz and report.html '
                     f'are replaced')
            describe(args, {'test': test_set}, device)
        evaluation = evaluator.evaluate(network)
        if evaluation:
            write_json(folder / 'inference_args.json', arguments_and_versions(vars(args)))
            evaluation.write(folder)
            show_detections(evaluation, folder, args, f'{folder.name}: {args.dataset}', f'weights {args.model_file}')
            write_json(folder / 'results.json', evaluation.to_json())
            evaluation.show(args.model_file)
            evaluation.warn()
            tell_what_next(args, folder)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, 2 after bad input, 128 + signal after a signal."""
    settings = get_settings(argv, __doc__)
    args = settings.args

    def command() -> int:
        check_paths(args)
        check_thresholds(args.tiou)
        from dataset import has_lost_worker, lost_worker
        from model import precision_advice
        from run import Ranks, pick_device
        device = pick_device(args.device)
        advice = precision_advice(args.precision, device)
        ranks = Ranks(device)
        if ranks.is_first:
            say_what_is_special(settings, advice)
        try:
            status = (infer if args.inference_only else train)(args, device, ranks)
        except RuntimeError as error:
            if has_lost_worker(error):
                raise lost_worker(error) from None
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
