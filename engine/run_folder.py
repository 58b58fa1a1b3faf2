"""The output folder of a run: lock, CSV files, TensorBoard events, weights, results.

    with Lock(folder) as lock, RunLogger(folder, lock, current, saved) as logger:
        logger.log_losses(rows)
        logger.log_evaluation(finished)
        logger.save(trainer.state())
"""
import csv
import errno
import io
import math
import os
import shlex
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from config import IGNORED_FOR_GROUPING
from dataset import Normalization, VideoDataset
from engine.checkpoint import (
    CHECKPOINTS,
    Checkpoint,
    TrainingState,
    check_resumable,
    check_unfinished,
    current_versions,
    load_weights,
    read_checkpoint,
    read_weights,
    sha256_of,
    versions_of,
    with_history,
    write_checkpoint,
    write_initial_checkpoint,
)
from engine.inference import Evaluation, Evaluator, FinishedEvaluation, ScoredEvaluation, measure_learning
from engine.lock import Lock
from engine.runtime import Distributed
from engine.torch_io import save
from engine.trainer import LossRow, Trainer
from eval.detection import tiou_key
from formats.features import SPLIT_FOLDERS, split_folders
from losses import Losses
from model import AICL
from utils import (
    InputError,
    preview,
    print_section,
    printable,
    read_bytes,
    read_json,
    remove_stale_tmp,
    write_bytes,
    write_json,
    write_text,
)

FIGURE_SECONDS = 60  # between evaluations whose figures are logged, at least: drawing takes a second
# All files that a training run or an inference writes into its folder.
FILES = (*CHECKPOINTS, 'losses.csv', 'metrics.csv', 'best.pt', 'last.pt', 'results.json', 'detections.json',
         'detections.csv', 'events.csv', 'curves.npz', 'report.html', 'labels.txt', 'normalization.npz',
         'inference_args.json', 'events.out.tfevents.*', 'args.json')


# ---- the folder -----------------------------------------------------------------------------------------------------

def check_output_outside_data(folder: Path, data_path: str) -> None:
    """Raise InputError where a run's folder is or contains the data folder, or is inside its features."""
    output, root = (Path(os.path.realpath(path)) for path in (folder, data_path))
    folders = [root / 'features', *(folder for split in SPLIT_FOLDERS for folder in split_folders(root, split))]
    trees = [Path(os.path.realpath(folder)) for folder in folders]
    if any(tree.is_relative_to(output) for tree in (root, *trees)) or any(map(output.is_relative_to, trees)):
        raise InputError(f'{folder}: is or contains the data folder {data_path}, or is inside its features; choose '
                         f'another --output_dir or --exp_name')


def check_output_dir(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raise InputError where a run would overwrite files that it cannot resume from, without --overwrite."""
    existing = [path.name for name in FILES for path in sorted(folder.glob(name))]
    is_run = any(name in CHECKPOINTS for name in existing)
    if not existing or overwrite or (resume and is_run):
        return
    if is_run:
        raise InputError(f'{folder}: already contains a run; add --resume to continue it or --overwrite to replace it, '
                         f'or choose another --exp_name')
    raise InputError(f'{folder}: contains {preview(existing)} but no checkpoint to resume from; add --overwrite to '
                     f'replace them, or choose another --exp_name')


# ---- CSV files ------------------------------------------------------------------------------------------------------

class CSVLogger:
    """A CSV file of numbers whose first column is the step. Rows after `last_step` are dropped at the start."""

    def __init__(self, path: Path, columns: list[str], last_step: int):
        self.path = path
        rows = self.read() if last_step and path.exists() else []
        sizes = {len(columns), *map(len, rows[:1])}  # an earlier version may have written fewer columns
        kept = [row + [''] * (len(columns) - len(row)) for row in rows
                if row and len(row) in sizes and row[0].isdecimal() and len(row[0]) < 19 and int(row[0]) <= last_step]
        write_bytes(path, self.encode([columns, *kept]))

    def read(self) -> list[list[str]]:
        """Return the rows, up to the first that is not valid CSV."""
        rows, text = [], read_bytes(self.path).decode('utf-8', 'replace')
        with suppress(csv.Error):
            for row in csv.reader(io.StringIO(text, newline='')):
                rows.append(row)
        return rows

    def append(self, rows: list[list]) -> None:
        """Append rows; raises InputError, without a partial row in the file, where the disk is full."""
        size = None
        try:
            with open(self.path, 'ab', buffering=0) as file:
                size, content = file.tell(), self.encode(rows)
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if size is not None:
                os.truncate(self.path, size)
            raise InputError(f'{self.path}: cannot be written: {error.strerror}') from None

    @staticmethod
    def encode(rows: list[list]) -> bytes:
        """Return rows as CSV."""
        text = io.StringIO(newline='')
        csv.writer(text, lineterminator='\n').writerows(rows)
        return text.getvalue().encode()


# ---- the logger -----------------------------------------------------------------------------------------------------

def open_run(folder: Path, resume: bool, overwrite: bool, current: Checkpoint, trainer: Trainer, num_steps: int,
             distributed: Distributed) -> Checkpoint | None:
    """Return the checkpoint of the run to resume, restored into the trainer, None for a new run.

    Returns on all ranks after all have read the folder. Raises InputError where the run cannot be resumed.
    """
    check_output_dir(folder, resume, overwrite)
    saved = read_checkpoint(folder) if resume else None
    if saved:
        check_resumable(folder, saved, current)
        trainer.restore(saved.training, saved.best)
        check_unfinished(folder, saved, num_steps)
    distributed.require_same({'checkpoints': saved and sha256_of([saved.training.loop, saved.results])})
    return saved


class RunLogger:
    """Writes the files of a training run.

    `current` describes this invocation; `saved` is the checkpoint to resume, None for a new run. All methods that write
    raise InputError where the folder is no longer the locked one.
    """

    def __init__(self, folder: Path, lock: Lock, current: Checkpoint, saved: Checkpoint | None = None,
                 normalization: Normalization | None = None):
        lock.check()
        if saved:
            current = with_history(current, saved)
            print(f'resumed  at step {saved.training.loop["step"]}', flush=True)
        else:
            if current.args.get('resume'):
                print_section('note', [f'{folder}: there is no run to resume, a new one starts'])
            write_initial_checkpoint(folder, current)
            saved = current
        self.folder, self.lock, self.current, self.args = folder, lock, current, current.args
        self.results: dict[str, dict] = {}                        # 'best', 'last': their blocks of results.json
        self.evaluations: dict[str, tuple[int, Evaluation]] = {}  # those that this process has made, with the step
        self.new_evaluations: list[tuple[int, float, float]] = []  # step, mAP, best mAP; not yet printed
        self.best_is_flushed = True                               # detections and curves are those of the best
        self.last_figure_time = -math.inf
        last_step = saved.training.loop['step']
        self.clear(is_new=last_step == 0)
        by_tiou = [f'mAP@{tiou_key(threshold)}' for threshold in self.args['tiou']]
        self.metric_names = ['average_mAP', 'video_accuracy', 'num_predictions', *by_tiou]
        self.losses = CSVLogger(folder / 'losses.csv', ['step', 'epoch', *Losses._fields], last_step)
        columns = ['step', 'epoch', *self.metric_names] + ['known_labels'] * bool(self.args.get('known_labels'))
        self.metrics = CSVLogger(folder / 'metrics.csv', columns, last_step)
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import, not needed for inference
        threading.excepthook = thread_excepthook
        with self.report_io_errors():
            self.writer = SummaryWriter(str(folder), purge_step=last_step + 1 if last_step else None)
        if normalization:
            normalization.save(folder / 'normalization.npz')
        write_text(folder / 'labels.txt', ''.join(f'{name}\n' for name in current.data['classes']))
        write_json(folder / 'args.json', {**args_with_versions(self.args, versions_of(current)),
                                          'differ': sorted(IGNORED_FOR_GROUPING)})
        self.restore(saved)

    def __enter__(self) -> 'RunLogger':
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.lock.check()
            if kind is None or issubclass(kind, (InputError, KeyboardInterrupt)):
                self.flush_best()
            with self.report_io_errors():
                self.writer.close()
        except InputError:
            if kind is None:  # otherwise the first error is reported
                raise

    @contextmanager
    def report_io_errors(self) -> Iterator[None]:
        """Raise InputError where TensorBoard events cannot be written: it opens their file by its path every time."""
        self.lock.check()
        try:
            yield
        except OSError as error:
            raise InputError(f'{self.folder}/events.out.tfevents.*: cannot be written: '
                             f'{error.strerror or error}') from None

    def clear(self, is_new: bool) -> None:
        """Remove temporary files of a killed run, and for a new run the files of an earlier one, nothing else."""
        for name in FILES:
            remove_stale_tmp(self.folder, name)
            if is_new and name not in CHECKPOINTS[:2]:  # these are of step 0
                for path in self.folder.glob(name):
                    path.unlink()

    def restore(self, saved: Checkpoint) -> None:
        """Restore results and best weights from a checkpoint: the files may be of later steps."""
        self.results = saved.results
        if self.results:
            self.write_results()
        if saved.best:
            save(saved.best, self.folder / 'best.pt')

    def save(self, training: TrainingState) -> None:
        """Write a checkpoint of the run with this state of its training."""
        self.lock.check()
        self.flush_best()
        best = read_weights(self.folder / 'best.pt') if self.results else None
        write_checkpoint(self.folder, self.current._replace(training=training, results=self.results, best=best))

    def flush_best(self) -> None:
        """Write the best weights' detections and curves; deferred so that not every new best rewrites them."""
        if not self.best_is_flushed:
            _, best = self.evaluations['best']
            best.write(self.folder)
            self.best_is_flushed = True

    def log_losses(self, rows: list[LossRow]) -> None:
        """Log loss terms to losses.csv and TensorBoard."""
        self.lock.check()
        self.losses.append([[row.step, row.epoch, *row.terms] for row in rows])
        for row in rows:
            self.add_scalars(row.step, {f'loss/{name}': value
                                        for name, value in zip(Losses._fields, row.terms, strict=True)})

    def add_scalars(self, step: int, values: dict[str, float]) -> None:
        """Log scalars to TensorBoard in one event, six times as fast as one event for each."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        writer: Any = self.writer.file_writer
        with self.report_io_errors():
            writer.add_summary(Summary(value=points), step)

    def log_evaluation(self, finished: FinishedEvaluation) -> None:
        """Save weights and results as the last ones, and as the best if their average mAP is the highest so far.

        Without ground truth the last ones count as the best.
        """
        self.lock.check()
        step, epoch, evaluation, weights = finished
        self.evaluations['last'] = step, evaluation
        result = evaluation.to_json()
        self.results['last'] = {'step': step, **result}
        write_bytes(self.folder / 'last.pt', weights)
        best = self.results.get('best')
        # quirk: the best weights are chosen on the test videos, as in the reference, so the last ones are also reported
        is_best = best is None or 'average_mAP' not in best or result['average_mAP'] > best['average_mAP']
        if is_best:
            self.evaluations['best'], self.results['best'] = self.evaluations['last'], self.results['last']
            write_bytes(self.folder / 'best.pt', weights)
        self.write_results()
        self.best_is_flushed &= not is_best
        if isinstance(evaluation, ScoredEvaluation):
            self.log_metrics(step, epoch, evaluation)
            self.maybe_log_figures(step, evaluation)
            self.new_evaluations.append((step, result['average_mAP'], self.results['best']['average_mAP']))

    def log_metrics(self, step: int, epoch: int, evaluation: ScoredEvaluation) -> None:
        """Log an evaluation to metrics.csv and TensorBoard."""
        scores = evaluation.scores
        values = [scores.average, evaluation.video_accuracy, scores.num_detections, *scores.mean_ap.tolist()]
        known_labels = [int(evaluation.detections.known_labels)] if self.args.get('known_labels') else []
        self.metrics.append([[step, epoch, *values, *known_labels]])
        self.add_scalars(step, {name.replace('@', '/'): value
                                for name, value in zip(self.metric_names, values, strict=True)})

    def maybe_log_figures(self, step: int, evaluation: Evaluation) -> None:
        """Log the figures of an evaluation, at most every FIGURE_SECONDS."""
        if time.monotonic() - self.last_figure_time > FIGURE_SECONDS:
            self.log_figures('', step, evaluation)
            self.last_figure_time = time.monotonic()

    def log_figures(self, name: str, step: int, evaluation: Evaluation) -> None:
        """Log the figures of an evaluation to TensorBoard, tagged with `name`."""
        if self.args['figures'] and isinstance(evaluation, ScoredEvaluation):
            with self.report_io_errors():
                evaluation.log_figures(self.writer, name, step, self.args['figures'])

    def write_results(self) -> None:
        """Write results.json."""
        write_json(self.folder / 'results.json', {name: self.results[name] for name in ('best', 'last')})

    @property
    def best_name(self) -> str:
        """What the best weights are, for the report."""
        step, best = self.evaluations['best']
        scored = isinstance(best, ScoredEvaluation)
        return f'best weights (step {step}), chosen on the test videos' if scored else f'last weights (step {step})'

    def log_hparams(self) -> None:
        """Log the hyper-parameters with the best and last mAP to TensorBoard."""
        plain = {name: value for name, value in self.args.items() if isinstance(value, (bool, int, float, str))}
        metrics = {f'hparam/{name}_average_mAP': result['average_mAP'] for name, result in self.results.items()
                   if 'average_mAP' in result}
        if metrics:
            with self.report_io_errors():
                self.writer.add_hparams(plain, metrics, run_name='.')


def final_evaluation(network: AICL, folder: Path, evaluator: Evaluator, logger: RunLogger | None,
                     distributed: Distributed, train_set: VideoDataset) -> None:
    """Print and log the best and the last weights; those of an earlier process are evaluated again."""
    learned = measure_learning(evaluator, train_set, network)
    last = {name: value.clone() for name, value in network.state_dict().items()}
    for name in ('best', 'last'):
        if distributed.all_reduce_max(logger is not None and name not in logger.evaluations):
            path = folder / f'{name}.pt'
            if logger:
                logger.lock.check()
            if logger and name == 'last':  # the file may be of a later step
                save(last, path)
            load_weights(network, read_weights(path) if name == 'best' else last, path)
            evaluation = evaluator.evaluate(network)
            if logger and evaluation:
                logger.evaluations[name] = logger.results[name]['step'], evaluation
                if name == 'best':
                    logger.lock.check()
                    evaluation.write(folder)
    if logger is None:
        return
    for name, (step, evaluation) in sorted(logger.evaluations.items()):
        if name == 'last' or isinstance(evaluation, ScoredEvaluation):  # without scores the last are the best
            evaluation.show(f'{name} weights (step {step})')
        logger.log_figures(name, step, evaluation)
    logger.evaluations['best'][1].warn()
    learned.report()


def thread_excepthook(failure: Any) -> None:
    """Report an exception of a thread, except I/O errors of TensorBoard's, which `report_io_errors` reports."""
    if not (isinstance(failure.exc_value, OSError) and type(failure.thread).__module__.startswith('tensorboard')):
        threading.__excepthook__(failure)


def print_next_steps(output_dir: str, exp_name: str, data_path: str, num_steps: int | None = None,
                     known_labels: bool = False, videos: str | None = None) -> None:
    """Print where the results are, and after a training of `num_steps` the commands to try next."""
    folder = Path(output_dir) / exp_name
    report = folder / 'report.html'
    lines = [f'report: {report}'] if report.exists() else [f'detections: {folder / "detections.csv"}']

    def add(title: str, command: str, **flags: object) -> None:
        words = [f'--{name}{"=" if str(value).startswith("-") else " "}{shlex.quote(str(value))}'
                 for name, value in flags.items() if (name, value) != ('output_dir', 'outputs')]
        lines.append(' '.join([f'{title}:', command, *words]))

    if num_steps:
        weights = next(path for path in (folder / 'best.pt', folder / 'last.pt') if path.exists())
        add('curves', 'tensorboard', logdir=output_dir)
        add('other thresholds', 'python main.py --inference_only', model_file=weights, data_path=data_path,
            output_dir=output_dir, exp_name=f'{exp_name}-inference',
            **{'videos': videos} if videos else {},
            **{'min_score': 0.5} if known_labels else {'class_th': 0.2})  # known labels are not selected by class_th
        add('longer', 'python main.py --resume', exp_name=exp_name, output_dir=output_dir, num_steps=2 * num_steps)
    print('\n' + '\n'.join(map(printable, lines)))


def args_with_versions(args: dict, history: list[dict] | None = None) -> dict:
    """Return the content of args.json: all arguments, the versions in use, and those of a run resumed with others."""
    changed = {'history': history} if history and len(history) > 1 else {}
    return {**args, 'versions': {**current_versions(), **changed}}


def best_f1_threshold(model_file: str) -> float | None:
    """Return the score of best F1 of the run that trained these weights, None where it is unknown."""
    path = Path(model_file).with_name('results.json')
    results = read_json(path) if path.is_file() else {}
    block = results.get(Path(model_file).stem) if isinstance(results, dict) else None
    threshold = block.get('threshold') if isinstance(block, dict) else None
    score = threshold.get('score') if isinstance(threshold, dict) else None
    return float(score) if isinstance(score, (int, float)) and abs(score) < 1e308 else None
