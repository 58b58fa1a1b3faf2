"""From a network and a test set to detections, their scores, and the report files."""
import argparse
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from config import RECIPES
from dataset import Shard, UniformSampler, VideoDataset, make_loader
from engine.checkpoint import current_versions
from engine.torch_io import serialize
from eval.curves import Curves, pick_curves, write_curves
from eval.detection import (
    TIOU,
    OperatingPoint,
    Scores,
    best_threshold,
    evaluate,
    format_table,
    match,
    scored_subset,
    to_json,
    warnings,
)
from eval.diagnosis import BINS
from eval.events import EventOptions, EventScores, format_scores, score_events, select_events
from eval.localization import LocalizationOptions, localize, predict_classes
from eval.report import build_report, read_training, relative_urls
from eval.subtitles import write_subtitles
from formats.annotations import NEGATIVE, GroundTruth, match_videos, read_split_file, select_videos, subset_name
from formats.detections import Detections, write_detections, write_detections_csv
from formats.videos import find_videos
from model import AICL
from utils import InputError, plural, preview, quote, warn, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

MAX_QUEUED_BYTES = 2 ** 27  # of predictions: a second evaluation is queued only where they are small
GIL_SWITCH_INTERVAL = 0.0005  # seconds, while an evaluation thread runs; Python's 5 ms would stall training steps


class ReportOptions(NamedTuple):
    """How the report page and the subtitles are written."""

    bins: Mapping[str, Sequence[float]]  # of the error diagnosis, see eval.diagnosis
    title: str
    subtitle: str
    videos: Path | None      # folder of video files that the page plays
    min_score: float | None  # initial value of the page's score slider; None: that of best F1
    subtitles: str | None    # 'srt' or 'vtt'
    training: dict | None    # of the run that trained the weights, see eval.report.read_training

    @classmethod
    def from_args(cls, args: argparse.Namespace, weights: str, min_score: float | None, run: Path) -> 'ReportOptions':
        """Pick the options from the command line; `run` is the folder of the weights."""
        title = f'{Path(args.data_path).resolve().name} · {args.exp_name}'
        training = None
        if (run / 'args.json').is_file():
            training = read_training(run, {**vars(args), 'versions': current_versions()})
        return cls(BINS[RECIPES[args.dataset].bins], title, weights, Path(args.videos) if args.videos else None,
                   min_score, args.subtitles, training)


@dataclass(frozen=True)
class Evaluation:
    """Detections of the test videos without ground truth to score them."""

    detections: Detections
    curves: Curves
    video_accuracy: float | None  # fraction of labeled videos with exactly the predicted classes, if any is labeled
    durations: dict[str, float]   # seconds, of the videos whose length is known
    event_options: EventOptions
    events: Detections            # those among the detections

    def to_json(self) -> dict:
        """Return its block of results.json."""
        counts = {'num_videos': len(self.detections.videos), 'num_predictions': len(self.detections.scores)}
        return counts if self.video_accuracy is None else {'video_accuracy': self.video_accuracy, **counts}

    def write(self, folder: Path) -> None:
        """Write detections.json, detections.csv, events.csv and curves.npz."""
        write_detections(folder / 'detections.json', self.detections)
        write_detections_csv(folder / 'detections.csv', self.detections)
        write_detections_csv(folder / 'events.csv', self.events)
        write_curves(folder / 'curves.npz', self.curves)

    def write_report(self, folder: Path, options: ReportOptions) -> None:
        """Write report.html, and subtitles if they are requested."""
        path = folder / 'report.html'
        files = find_videos(options.videos, self.detections.videos) if options.videos else {}
        tiou = self.scores.tiou if isinstance(self, ScoredEvaluation) else TIOU
        gt = self.gt if isinstance(self, ScoredEvaluation) else None
        write_text(path, build_report(gt, self.detections, tiou, self.curves, options.bins, options.title,
                                      options.subtitle, durations=self.durations, videos=relative_urls(files, path),
                                      min_score=options.min_score, events=self.events,
                                      training=options.training))
        if options.subtitles:
            write_subtitles(folder / 'subtitles', self.events, options.subtitles, overwrite=True)

    def title(self, name: str) -> str:
        """Return the counts in one line."""
        name += ', known labels' if self.detections.known_labels else ''
        line = (f'{name}: {plural(len(self.detections.scores), "detection")} in '
                f'{plural(len(self.detections.videos), "video")}, {plural(len(self.events.scores), "event")}')
        return line if self.video_accuracy is None else f'{line}, video accuracy {100 * self.video_accuracy:.1f} %'

    def show(self, name: str) -> None:
        """Print the results."""
        print(f'\n{self.title(name)}; no test video is annotated with times, so there is nothing to score')

    def warn(self) -> None:
        """Warn about detections that could not be scored."""


@dataclass(frozen=True)
class ScoredEvaluation(Evaluation):
    """Detections of annotated test videos, and their scores."""

    gt: GroundTruth  # what the detections are scored against
    scores: Scores
    scores_with_features: Scores  # over the annotated videos that have features
    threshold: OperatingPoint | None  # the score of best F1 at tIoU 0.5, None without a correct detection
    event_scores: EventScores

    def to_json(self) -> dict:
        """Return its block of results.json."""
        with_features = to_json(self.scores_with_features)
        threshold = {} if self.threshold is None else {'threshold': self.threshold._asdict()}
        # The first key distinguishes it from the file of eval.detection, which that command may overwrite.
        return {'video_accuracy': self.video_accuracy, **to_json(self.scores), **threshold,
                'events': self.event_scores._asdict(),
                'num_ground_truth_videos': self.scores.num_videos, 'num_instances': self.scores.num_instances,
                'localized_only': {name: with_features[name] for name in ('average_mAP', 'mAP', 'num_videos')},
                **super().to_json()}

    def show(self, name: str) -> None:
        """Print the results."""
        print(f'\n{self.title(name)}\n{format_table(self.scores)}')
        if self.event_options.min_score > -math.inf:
            print(f'events  {format_scores(self.event_scores)}')
        if self.scores_with_features.num_videos < self.scores.num_videos:
            print(f'over only the {self.scores_with_features.num_videos} of these videos that have features: average '
                  f'mAP {100 * self.scores_with_features.average:.2f}')

    def warn(self) -> None:
        """Warn about detections that could not be scored."""
        for line in warnings(self.scores):
            warn(line)

    def log_figures(self, writer: 'SummaryWriter', name: str, step: int, num_figures: int) -> None:
        """Log timelines of a few fixed test videos and the precision-recall curve to TensorBoard, tagged `name`."""
        def tag(*parts: str) -> str:
            return '/'.join(filter(None, parts))

        from eval.timeline import ResultFile, plot_timeline  # matplotlib takes half a second to import
        gt, detections = self.gt, self.detections
        index = match_videos(detections.videos, gt.videos)
        annotated = [name for name, i in zip(detections.videos, index, strict=True) if i >= 0]
        for i in np.linspace(0, len(annotated) - 1, min(num_figures, len(annotated))).astype(int):
            figure = plot_timeline(annotated[i], gt, [ResultFile('AICL', detections)], self.curves)
            writer.add_figure(tag('timeline', name, annotated[i]), figure, step)

        middle = float(self.scores.tiou[np.abs(self.scores.tiou - 0.5).argmin()])
        matches = match(gt, detections, [middle])
        levels = np.linspace(0, 1, 101)
        scores, hit = detections.scores[matches.order], matches.instance[0] >= 0
        true, kept = ((np.sort(s)[None] >= levels[:, None]).sum(axis=1) for s in (scores[hit], scores))
        missed = len(gt.video) - true
        writer.add_pr_curve_raw(tag('precision_recall', name, f'tIoU_{middle:g}'), true, kept - true, 0 * true, missed,
                                true / np.maximum(kept, 1), true / len(gt.video), step, len(levels))


def select_scored_videos(data_path: Path, gt: GroundTruth, test_set: VideoDataset) -> GroundTruth | None:
    """Return the ground truth of the test videos, None where none of them is annotated with times.

    It covers every annotated video of their subset, as in `eval.detection`, except those in split_train.txt; where
    they belong to several subsets, only the test videos.
    """
    timed = {gt.videos[video] for video in gt.video.tolist()}
    names = [name for name in test_set.names if name in timed]
    if not names or test_set.split.name == 'train':  # training videos that are localized themselves
        return None
    untimed = set(test_set.split.gt.tag_video.tolist()) & set(test_set.split.gt_index.tolist())
    if untimed:
        warn(f'{data_path}: {plural(len(untimed), "test video")} with labels without a time, which count only for the '
             f'video accuracy: {preview([gt.videos[v] for v in sorted(untimed)])}')
    tested = match_videos(names, gt.videos)
    subsets = {subset_name(gt.subsets[i]): gt.subsets[i] for i in tested}
    if len(subsets) > 1:
        warn(f'{data_path}/gt.json: the annotated test videos are in several subsets, '
             f'{", ".join(map(quote, subsets.values()))}; they are scored without the other videos of these subsets')
        return select_videos(gt, np.isin(np.arange(len(gt.videos)), tested))
    gt = scored_subset(gt, names)
    path = Path(data_path) / 'split_train.txt'
    if path.is_file():
        keep = np.ones(len(gt.videos), bool)
        trained = match_videos(read_split_file(path), gt.videos)
        keep[trained[trained >= 0]] = False
        keep[match_videos(names, gt.videos)] = True
        if not keep.all():
            warn(f'{path}: lists {plural(int((~keep).sum()), "video")} of the subset {quote(gt.subsets[0])}, which '
                 f'contains the test videos; they are not scored here, but would be by eval.detection')
        gt = select_videos(gt, keep)
    return gt


class Predictions(NamedTuple):
    """Network outputs for the N test videos, T snippets each, as localization and figures need them."""

    probabilities: np.ndarray  # (N, C) video-level class probabilities
    selection: np.ndarray      # (N, T, C)
    cas: np.ndarray            # (N, T, C)
    aware: np.ndarray          # (N, T)
    agnostic: np.ndarray       # (N, T)


def allocate_buffers(parts: Sequence[Tensor], num_videos: int) -> list[Tensor]:
    """Allocate a buffer of `num_videos` rows for each part of a batch, all in one block of memory on their device."""
    shapes = [(num_videos, *part.shape[1:]) for part in parts]
    sizes = [math.prod(shape) for shape in shapes]
    memory = parts[0].new_empty(sum(sizes))
    return [piece.view(shape) for piece, shape in zip(memory.split(sizes), shapes, strict=True)]


def buffers_to_numpy(buffers: list[Tensor]) -> list[np.ndarray]:
    """Return the buffers of `allocate_buffers` as arrays, with one transfer from a GPU."""
    sizes = [buffer.numel() for buffer in buffers]
    block = buffers[0].as_strided((sum(sizes),), (1,), 0)
    return [piece.view(buffer.shape).numpy() for piece, buffer in zip(block.cpu().split(sizes), buffers, strict=True)]


class EvaluatorOptions(NamedTuple):
    """How test videos are localized and scored."""

    num_segments: int  # T
    batch_size: int
    num_workers: int
    localization: LocalizationOptions
    use_video_labels: bool  # localize the labels of a labeled video instead of its predicted classes
    tiou: list[float]
    events: EventOptions
    feature_fps: float | str

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> 'EvaluatorOptions':
        """Pick the options from the command line."""
        localization = LocalizationOptions(*(getattr(args, name) for name in LocalizationOptions._fields))
        # Without any evidence for the class, actionness gives a score up to 1 - gamma (docs/videos.md).
        evidence, min_score = RECIPES[args.dataset].class_evidence, args.min_score
        if min_score is None:
            min_score = -math.inf if evidence is None else 1 - evidence * args.fusion_weight
        events = EventOptions(args.event_share, args.event_overlap, min_score)
        return cls(args.num_segments, args.batch_size, args.num_workers, localization, args.known_labels, args.tiou,
                   events, args.feature_fps)


@dataclass(frozen=True)
class Evaluator:
    """Localizes and scores the test videos with a network."""

    test_set: VideoDataset
    gt: GroundTruth | None  # see `select_scored_videos`
    options: EvaluatorOptions
    shard: Shard = Shard()  # this rank's shard of the videos
    gather: Callable[[Any], list] = lambda value: []  # see runtime.Distributed

    def __post_init__(self) -> None:
        self.frame_rates  # raises InputError before the first step

    @cached_property
    def frame_rates(self) -> np.ndarray:
        """(N,) of the features of each test video; raises InputError where one is unknown."""
        options = self.options
        return self.test_set.split.frame_rates(options.feature_fps, options.localization.snippet_frames)

    def evaluate(self, model: AICL) -> Evaluation | None:
        """Localize every test video and score the detections; None on all ranks but the first."""
        predictions = self.predict(model)
        return self.score(predictions) if self.shard.rank == 0 else None

    @torch.inference_mode()
    def predict(self, model: AICL) -> Predictions:
        """Run the network on this rank's test videos; rank 0 gathers all of them."""
        options, reference = self.options, next(model.parameters())
        sampler = UniformSampler(self.test_set.lengths, options.num_segments, options.batch_size, self.shard)
        videos: list[int] = []
        buffers: list[Tensor] = []  # of Predictions, on the device until the last batch
        was_training = model.training
        model.eval()  # AICL has no layer that depends on it; a dropout that is added to the network does
        # quirk: iterating the loader draws one number from torch's global generator, as the reference's evaluation
        # does, which changes the order of later training batches
        for batch in make_loader(self.test_set, sampler, options.num_workers, reference.is_cuda):
            out = model(batch.features.to(reference.device, reference.dtype, non_blocking=True))
            parts = (out.video_logits.softmax(dim=1), out.selection, out.cas, out.actionness_aware,
                     out.actionness_agnostic)
            buffers = buffers or allocate_buffers(parts, len(self.test_set))
            for buffer, part in zip(buffers, parts, strict=True):
                buffer[batch.videos] = part
            videos += batch.videos
        model.train(was_training)
        arrays = buffers_to_numpy(buffers)
        for other_videos, other_parts in self.gather((videos, [array[videos] for array in arrays])):
            for array, part in zip(arrays, other_parts, strict=True):
                array[other_videos] = part
        return Predictions(*arrays)

    def score(self, predictions: Predictions) -> Evaluation:
        """Localize, and score where there is ground truth."""
        test_set, options = self.test_set, self.options
        num_snippets = np.array(test_set.lengths)

        # Which classes are localized in which video. The class of negative videos is neither detected nor scored.
        predicted = predict_classes(predictions.probabilities, options.localization.class_th)
        labels = np.greater(test_set.labels.numpy(), 0)
        labeled = np.asarray(labels.any(axis=1))
        visible = np.array([name != NEGATIVE for name in test_set.class_names])
        class_names = [name for name in test_set.class_names if name != NEGATIVE]
        if not visible.all():
            predicted, labels = predicted[:, visible], labels[:, visible]
            predictions = predictions._replace(probabilities=predictions.probabilities[:, visible],
                                               selection=predictions.selection[..., visible],
                                               cas=predictions.cas[..., visible])
        classes = np.where(labeled[:, None], labels, predicted) if options.use_video_labels else predicted

        # Localize.
        localization = options.localization._replace(feature_fps=self.frame_rates)
        proposals = localize(predictions.selection, predictions.probabilities, num_snippets, localization, classes)
        detections = Detections(test_set.names, class_names, proposals.video, proposals.label, proposals.segments,
                                proposals.scores, options.use_video_labels and bool(labeled.any()))
        seconds = num_snippets * localization.snippet_frames / self.frame_rates
        curves = pick_curves(test_set.names, class_names, seconds / options.num_segments,
                             num_snippets, predictions.aware, predictions.agnostic, predictions.selection,
                             predictions.cas, keep=predicted | labels)
        durations = {name: seconds for name, seconds in zip(test_set.names, test_set.durations.tolist(), strict=True)
                     if np.isfinite(seconds)}
        accuracy = float((predicted == labels).all(axis=1)[labeled].mean()) if labeled.any() else None
        events = select_events(detections, options.events)
        if self.gt is None:
            return Evaluation(detections, curves, accuracy, durations, options.events, events)

        # Score.
        matches = match(self.gt, detections, options.tiou)
        at_half = matches.at(options.tiou.index(0.5)) if 0.5 in options.tiou else None
        scores = scores_with_features = evaluate(self.gt, detections, options.tiou, matches)
        has_features = np.zeros(len(self.gt.videos), bool)
        index = match_videos(test_set.names, self.gt.videos)
        has_features[index[index >= 0]] = True
        if not has_features.all():
            scores_with_features = evaluate(select_videos(self.gt, has_features), detections, options.tiou)
        return ScoredEvaluation(detections, curves, accuracy, durations, options.events, events, self.gt, scores,
                                scores_with_features, best_threshold(self.gt, detections, 0.5, at_half),
                                score_events(self.gt, events))


class Learning(NamedTuple):
    """How well a network predicts the labels that it was trained on."""

    accuracy: float  # fraction of training videos whose most probable class is one of their labels
    chance: float    # the same for the most frequent class

    def report(self) -> None:
        """Print it, with a warning where little was learned."""
        line = (f'the most probable class is right for {100 * self.accuracy:.0f} % of the training videos (the most '
                f'frequent class: {100 * self.chance:.0f} %)')
        if self.accuracy < (1 + self.chance) / 2:
            warn(f'little was learned: {line}; try more --num_steps, a higher --lr, --normalize, or more videos per '
                 f'class')
        else:
            print(f'learned: {line}')


@torch.inference_mode()
def measure_learning(evaluator: Evaluator, train_set: VideoDataset, network: AICL) -> Learning:
    """Compare the network's predictions for the training videos with their labels; complete on rank 0 only."""
    options, reference = evaluator.options, next(network.parameters())
    sampler = UniformSampler(train_set.lengths, options.num_segments, options.batch_size, evaluator.shard)
    is_correct: dict[int, bool] = {}
    network.eval()
    for batch in make_loader(train_set, sampler, pin_memory=reference.is_cuda):
        logits = network(batch.features.to(reference.device, reference.dtype)).video_logits
        labels = batch.labels.gather(1, logits.argmax(dim=1, keepdim=True).cpu()).squeeze(1)
        is_correct |= zip(batch.videos, (labels > 0).tolist())
    network.train()
    for other in evaluator.gather(is_correct):
        is_correct |= other
    frequencies = (train_set.labels > 0).float().mean(dim=0)
    return Learning(sum(is_correct.values()) / len(is_correct), float(frequencies.max()))


class FinishedEvaluation(NamedTuple):
    """An evaluation, and the content of the file of its weights."""

    step: int
    epoch: int
    evaluation: Evaluation
    weights: memoryview


class AsyncEvaluator:
    """Evaluates during training without stalling it.

    `submit` runs the forward passes immediately; localization, scoring and the serialization of the weights run in a
    worker thread; `poll` passes finished evaluations to `callback` in order, on the calling thread. What a training
    draws and computes does not depend on their timing. Only rank 0 localizes and scores.
    """

    def __init__(self, evaluator: Evaluator, callback: Callable[[FinishedEvaluation], None]):
        self.evaluator, self.callback = evaluator, callback
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='evaluation')
        self.pending: list[Future[FinishedEvaluation]] = []
        test_set = evaluator.test_set
        size = 8 * len(test_set) * evaluator.options.num_segments * (len(test_set.class_names) + 1)  # of Predictions
        self.max_pending = 2 if size < MAX_QUEUED_BYTES else 1

    def __enter__(self) -> 'AsyncEvaluator':
        self.switch_interval = sys.getswitchinterval()
        sys.setswitchinterval(GIL_SWITCH_INTERVAL)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.setswitchinterval(self.switch_interval)
        if kind is None or issubclass(kind, (InputError, KeyboardInterrupt)):
            self.poll(wait=True)
        self.thread.shutdown(wait=False, cancel_futures=True)

    def submit(self, step: int, epoch: int, network: AICL) -> None:
        """Run the network with its current weights, and queue localization and scoring."""
        while len(self.pending) >= self.max_pending:
            self.callback(self.pending.pop(0).result())
        predictions = self.evaluator.predict(network)
        if self.evaluator.shard.rank == 0:
            weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
            self.pending.append(self.thread.submit(lambda: FinishedEvaluation(
                step, epoch, self.evaluator.score(predictions), serialize(weights))))

    def poll(self, wait: bool) -> None:
        """Pass finished evaluations to the callback; with `wait`, all pending ones."""
        while self.pending and (wait or self.pending[0].done()):
            self.callback(self.pending.pop(0).result())
