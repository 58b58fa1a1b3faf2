"""AICL: weakly-supervised temporal action localization from video-level labels.

    python main.py --dataset thumos14 --data_path DIR --exp_name NAME                                       train
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --resume                              resume
    python main.py --dataset thumos14 --data_path DIR --exp_name NAME --inference_only --model_file FILE    localize
    python main.py --dataset thumos14 --data_path DIR --check                                               check data
    torchrun --nproc_per_node=N main.py ...                                                                 on N GPUs

Training and inference localize the test videos and score the detections if they are annotated. Files are written to
outputs/NAME.
"""
import argparse
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for python -I and PYTHONSAFEPATH
from config import MODALITIES, RECIPES, Config, fill_unset, format_recipe, print_overrides, resolve_config
from utils import InputError, lossy_output, make_dir, print_section, run_cli, truncate, warn, write_json

# torch takes a second to import. `train` and `infer` import what needs it, so that --help, a wrong flag and a missing
# folder are answered at once.
if TYPE_CHECKING:
    import torch

    from dataset import VideoDataset
    from engine.runtime import Distributed

# Flags that may differ between the ranks of a run: where files are, and what does not change any result.
LOCAL_FLAGS = {'data_path', 'output_dir', 'model_file', 'videos', 'device', 'layout', 'cache', 'num_workers'}


# ---- training -------------------------------------------------------------------------------------------------------

def train(args: argparse.Namespace, device: 'torch.device', distributed: 'Distributed') -> int:
    """Train and evaluate; return the exit status, 128 + signal where a signal ended the run early."""
    from dataset import DataOptions, build_dataset
    from engine import auto_config, checkpoint, run_folder
    from engine.device import suggest_precision
    from engine.inference import AsyncEvaluator, Evaluator, EvaluatorOptions, ReportOptions, select_scored_videos
    from engine.lock import Lock
    from engine.runtime import check_batches
    from engine.trainer import Trainer, TrainerOptions, fit
    from formats.annotations import require_annotations
    from formats.check import check_labels
    from formats.data_folder import has_test_videos
    from formats.features import detect_modal

    # 1. Data. Nothing here draws a random number.
    args.modal = args.modal or detect_modal(Path(args.data_path))
    folder, data = Path(args.output_dir) / args.exp_name, DataOptions.from_args(args)
    run_folder.check_output_outside_data(folder, args.data_path)
    run_folder.check_output_dir(folder, args.resume, args.overwrite)
    gt = require_annotations(data.data_path)
    train_set = test_set = build_dataset(data, 'train', gt, gt.labels, args.cache, device)
    if has_test_videos(data.data_path, gt):  # otherwise the training videos are localized
        test_set = build_dataset(data, 'test', gt, gt.labels, args.cache, device)
    check_labels(data.data_path, train_set.split, test_set.split)
    check_videos(args, test_set)

    # 2. Settings that the recipe leaves to the data, and the normalization of features.
    chosen = fill_unset(args, auto_config.choose_sizes(train_set.lengths))
    check_batches([train_set, test_set], args.num_segments, args.batch_size, args.num_workers, distributed.shard)
    normalization = train_set.measure() if args.normalize else None
    for dataset in (train_set, test_set):
        dataset.normalize(normalization)
    scored = select_scored_videos(data.data_path, gt, test_set)
    fingerprint = checkpoint.data_fingerprint(train_set, test_set, scored)
    distributed.require_same(fingerprint)
    if args.topk_ratio is None:
        chosen += fill_unset(args, [auto_config.choose_topk_ratio(TrainerOptions.from_args(args), train_set, device,
                                                                  distributed)])

    # 3. Network, optimizer, evaluator.
    trainer = Trainer(TrainerOptions.from_args(args), train_set.feature_dim, len(train_set.class_names),
                      train_set.lengths, device, distributed.shard)
    num_steps = args.num_steps or args.num_epochs * trainer.steps_per_epoch
    evaluator = Evaluator(test_set, scored, EvaluatorOptions.from_args(args), distributed.shard, distributed.gather)

    # 4. The run folder: a new run, or one to resume. Rank 0 writes after all ranks have read.
    environment = checkpoint.environment_fingerprint(device, distributed.world_size)
    current = checkpoint.Checkpoint(vars(args), fingerprint, environment, trainer.state(), {}, None)
    make_dir(folder, 'choose another --output_dir or --exp_name')
    with Lock(folder) if distributed.is_main_process else nullcontext() as lock:
        saved = run_folder.open_run(folder, args.resume, args.overwrite, current, trainer, num_steps, distributed)
        logger = None
        if lock:
            print_run_summary(args, {'train': train_set, 'test': test_set}, device)
            print_section('chosen', chosen)
            print_section('note', suggest_precision(args.precision, device, trainer.step_flops))
            logger = run_folder.RunLogger(folder, lock, current, saved, normalization)

        # 5. Train, then report the best and the last weights.
        with logger or nullcontext():
            evaluations = AsyncEvaluator(evaluator, logger.log_evaluation if logger else lambda *_: None)
            eval_interval = args.detection_inf_step if evaluator.gt else 0
            stopped_by = fit(trainer, train_set, num_steps, evaluations, logger, distributed, eval_interval,
                             args.log_every, args.num_workers)
            if not stopped_by:
                run_folder.final_evaluation(trainer.network, folder, evaluator, logger, distributed, train_set)
            if logger and stopped_by:
                print(f'{signal.Signals(stopped_by).name} after step {trainer.loop.step}: resume with the same command '
                      f'and --resume')
            elif logger:
                logger.lock.check()
                _, best = logger.evaluations['best']
                best.write_report(folder, ReportOptions.from_args(args, logger.best_name, args.min_score, folder))
                logger.log_hparams()
                checkpoint.remove_previous(folder)
                run_folder.print_next_steps(args.output_dir, args.exp_name, args.data_path, num_steps,
                                            args.known_labels, args.videos)
    return 128 + stopped_by if stopped_by else 0


# ---- inference ------------------------------------------------------------------------------------------------------

def infer(args: argparse.Namespace, device: 'torch.device', distributed: 'Distributed') -> int:
    """Localize the test videos with given weights and score the detections; return the exit status."""
    from dataset import DataOptions, Normalization, build_dataset
    from engine import checkpoint, run_folder
    from engine.inference import Evaluator, EvaluatorOptions, ReportOptions, select_scored_videos
    from engine.lock import Lock
    from engine.runtime import check_batches
    from formats.annotations import read_annotations
    from formats.data_folder import split_to_localize
    from model import NetworkOptions, build_network

    # 1. Weights and data.
    folder = Path(args.output_dir) / args.exp_name
    run_folder.check_output_outside_data(folder, args.data_path)
    state = checkpoint.strip_wrappers(checkpoint.read_weights(args.model_file))
    args.modal = args.modal or checkpoint.infer_modality(state) or 'all'
    data = DataOptions.from_args(args)
    gt = read_annotations(data.data_path)
    num_classes = checkpoint.infer_num_classes(state, args.model_file)
    class_names = checkpoint.load_class_names(args.model_file, args.data_path, gt, num_classes)
    split = split_to_localize(data.data_path, gt)
    test_set = build_dataset(data, split, gt, class_names, args.cache, device, flat=split == 'test')
    if args.normalize:
        test_set.normalize(Normalization.load(Path(args.model_file).with_name('normalization.npz')))
    check_videos(args, test_set)
    check_batches([test_set], args.num_segments, args.batch_size, args.num_workers, distributed.shard)

    # 2. Network.
    evaluator = Evaluator(test_set, select_scored_videos(data.data_path, gt, test_set),
                          EvaluatorOptions.from_args(args), distributed.shard, distributed.gather)
    network = build_network(NetworkOptions.from_args(args), test_set.feature_dim, num_classes, device)
    checkpoint.load_weights(network, state, args.model_file)
    if distributed.world_size > 1:
        distributed.require_same({'weights': checkpoint.sha256_of(state), 'classes': class_names, 'test videos':
                                  test_set.names, 'test features': checkpoint.hash_features(test_set)})

    # 3. Localize, score, report.
    make_dir(folder, 'choose another --output_dir or --exp_name')
    with Lock(folder) if distributed.is_main_process else nullcontext() as lock:
        if lock:
            if (folder / 'args.json').exists():
                warn(f'{folder}: contains a training run; its detections.json, results.json, curves.npz and '
                     f'report.html are replaced')
            print_run_summary(args, {'test': test_set}, device)
        evaluation = evaluator.evaluate(network)
        if evaluation and lock:
            lock.check()
            write_json(folder / 'inference_args.json', run_folder.args_with_versions(vars(args)))
            evaluation.write(folder)
            min_score = run_folder.best_f1_threshold(args.model_file) if args.min_score is None else args.min_score
            evaluation.write_report(folder, ReportOptions.from_args(args, f'weights {args.model_file}', min_score,
                                                                    Path(args.model_file).parent))
            write_json(folder / 'results.json', evaluation.to_json())
            evaluation.show(args.model_file)
            evaluation.warn()
            run_folder.print_next_steps(args.output_dir, args.exp_name, args.data_path)
    return 0


# ---- both -----------------------------------------------------------------------------------------------------------

def check_paths(args: argparse.Namespace) -> None:
    """Raise InputError where a folder does not exist."""
    root = Path(args.data_path)
    if not (root.is_dir() or args.inference_only and root.is_file()):
        raise InputError(f'--data_path {args.data_path}: not a folder')
    if args.videos and not Path(args.videos).is_dir():
        raise InputError(f'--videos {args.videos}: not a folder')


def check_videos(args: argparse.Namespace, test_set: 'VideoDataset') -> None:
    """Raise InputError where --videos contains none of the test videos."""
    from formats.videos import find_videos
    if args.videos:
        find_videos(args.videos, test_set.names)


def print_run_summary(args: argparse.Namespace, datasets: 'dict[str, VideoDataset]', device: 'torch.device') -> None:
    """Print the data, the recipe and the device."""
    first = next(iter(datasets.values()))
    print_section('data', [f'{args.data_path}: {len(first.class_names)} classes, feature width {first.feature_dim} per '
                           f'modality ({", ".join(MODALITIES[args.modal])})'])
    for split, dataset in datasets.items():
        print_section(split, dataset.describe(args.feature_fps, args.snippet_frames))
    print_section('recipe', format_recipe(args))
    print_section('device', [f'{device}, {args.precision}'])


@lossy_output()
def run(config: Config) -> int:
    """Train or localize, in one of several processes where torchrun started them; return the exit status."""
    from dataset import is_worker_failure, worker_died_error
    from engine.checkpoint import code_version
    from engine.device import check_precision, pick_device
    from engine.runtime import Distributed, configure
    args = config.args
    device = pick_device(args.device)
    check_precision(args.precision, device)
    configure(args.precision)
    distributed = Distributed(device)
    try:
        seed = distributed.broadcast(args.seed)
        if config.given.get('seed') == -1:
            args.seed = seed
        flags = {f'--{name}': value for name, value in vars(args).items() if name not in LOCAL_FLAGS}
        distributed.require_same({**flags, 'versions of the code': code_version()['code'],
                                  'types of device': device.type})
        if distributed.is_main_process:
            print_overrides(config)
        status = (infer if args.inference_only else train)(args, device, distributed)
    except (InputError, SystemExit):
        if device.type == 'cpu':  # the threads of gloo may abort the process at its end; NCCL could wait here
            distributed.close()
        raise
    except RuntimeError as error:
        if is_worker_failure(error):
            raise worker_died_error(error) from None
        if not distributed.is_peer_failure(error):
            raise
        reason = truncate(str(error).split('. ')[0], 150)
        raise InputError(f'rank {distributed.rank}: another rank died or does not answer ({reason}); fix its error and '
                         f'rerun with --resume') from None
    distributed.close()
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0, 2 after bad input, 128 + signal after a signal."""
    config = resolve_config(argv, __doc__)
    args = config.args

    def command() -> int:
        check_paths(args)
        if args.check:
            from formats.check import check_data_folder
            from formats.features import detect_modal
            args.modal = args.modal or detect_modal(Path(args.data_path))
            size = RECIPES[args.dataset].size if 'dataset' in config.given else None
            check_data_folder(Path(args.data_path), MODALITIES[args.modal], args.layout, args.feature_fps,
                              args.snippet_frames, size)
            return 0
        return run(config)

    return run_cli(command)


if __name__ == '__main__':
    sys.exit(main())
