"""From a network and a test set to detections, their scores, and the files and pictures that show them."""
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_folder import read_split_file
from dataset import Share, UniformSampler, VideoDataset, loader
from eval.curves import Curves, pick_curves, write_curves
from eval.detection import (TIOU, Scores, Threshold, best_threshold, evaluate, format_table, match, scored_subset,
                            to_json, warnings)
from eval.files import (Detections, GroundTruth, match_videos, select_videos, subset_name, write_detections,
                        write_detections_csv)
from eval.localization import LocalizationOptions, localize, predict_classes
from eval.report import addresses, build_report, find_videos
from model import AICL
from utils import InputError, first_few, number_of, quote, warn, write_text

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SWITCH_SECONDS = 0.0005    # that an evaluation may go on while a step waits for it: Python's own is ten times as long

Bins = Mapping[str, Sequence[float]]    # of the error diagnosis, see eval.diagnosis


class Page(NamedTuple):
    """How the report page is made."""
    bins: Bins
    title: str
    subtitle: str
    videos: Path | None        # a folder of video files that the page plays
    min_score: float | None    # where its score slider begins, at the score of best F1 if None


@dataclass(frozen=True)
class Evaluation:
    """Detections of the test videos, where there is nothing to score them against."""
    detections: Detections
    curves: Curves
    video_accuracy: float | None    # share of labelled videos whose predicted set of classes is the true one, if any is
    durations: dict[str, float]     # seconds, of the videos whose length is known

    def to_json(self) -> dict:
        """What results.json says of it."""
        counts = {'num_videos': len(self.detections.videos), 'num_predictions': len(self.detections.scores)}
        return counts if self.video_accuracy is None else {'video_accuracy': self.video_accuracy, **counts}

    def write(self, folder: Path) -> None:
        """Write detections.json, detections.csv and curves.npz."""
        write_detections(folder / 'detections.json', self.detections)
        write_detections_csv(folder / 'detections.csv', self.detections)
        write_curves(folder / 'curves.npz', self.curves)

    def write_report(self, folder: Path, page: Page) -> None:
        """Write report.html."""
        path = folder / 'report.html'
        files = find_videos(page.videos, self.detections.videos) if page.videos else {}
        tiou = self.scores.tiou if isinstance(self, ScoredEvaluation) else TIOU
        truth = self.truth if isinstance(self, ScoredEvaluation) else None
        write_text(path, build_report(truth, self.detections, tiou, self.curves, page.bins, page.title, page.subtitle,
                                      durations=self.durations, videos=addresses(files, path),
                                      min_score=page.min_score))

    def title(self, name: str) -> str:
        found = (f'{name}: {number_of(len(self.detections.scores), "detection")} in '
                 f'{number_of(len(self.detections.videos), "video")}')
        return found if self.video_accuracy is None else f'{found}, video accuracy {100 * self.video_accuracy:.1f} %'

    def show(self, name: str) -> None:
        """Print what was found."""
        print(f'\n{self.title(name)}; no test video is annotated with times, so there is nothing to score')

    def warn(self) -> None:
        """Say which detections could not be scored."""


@dataclass(frozen=True)
class ScoredEvaluation(Evaluation):
    """Detections of test videos of which some are annotated, and how good they are."""
    truth: GroundTruth    # what the detections are scored against
    scores: Scores
    localized: Scores     # over the annotated videos that were localized alone
    threshold: Threshold | None    # the score of best F1 at tIoU 0.5, None where nothing is found

    def to_json(self) -> dict:
        localized = to_json(self.localized)
        threshold = {} if self.threshold is None else {'threshold': self.threshold._asdict()}
        # What comes first tells it from the scores that eval.detection writes, and may write over.
        return {'video_accuracy': self.video_accuracy, **to_json(self.scores), **threshold,
                'num_ground_truth_videos': self.scores.num_videos,
                'localized_only': {name: localized[name] for name in ('average_mAP', 'mAP', 'num_videos')},
                **super().to_json()}

    def show(self, name: str) -> None:
        print(f'\n{self.title(name)}\n{format_table(self.scores)}')
        if self.localized.num_videos < self.scores.num_videos:
            print(f'over only the {self.localized.num_videos} of these videos that have features: average mAP '
                  f'{100 * self.localized.average:.2f}')

    def warn(self) -> None:
        for line in warnings(self.scores):
            warn(line)

    def draw(self, board: 'SummaryWriter', name: str, step: int, num_figures: int) -> None:
        """Draw timelines of a few fixed test videos and the precision-recall curve for TensorBoard.

        `name` sets them apart from those of other evaluations.
        """
        def tag(*words: str) -> str:
            return '/'.join(filter(None, words))

        from eval.timeline import Result, draw_timeline  # matplotlib takes half a second to import
        truth, detections = self.truth, self.detections
        known = [name for name, at in zip(detections.videos, match_videos(detections.videos, truth.videos)) if at >= 0]
        for i in np.linspace(0, len(known) - 1, min(num_figures, len(known))).astype(int):
            figure = draw_timeline(known[i], truth, [Result('AICL', detections)], self.curves)
            board.add_figure(tag('timeline', name, known[i]), figure, step)

        middle = float(self.scores.tiou[np.abs(self.scores.tiou - 0.5).argmin()])
        matches = match(truth, detections, [middle])
        levels = np.linspace(0, 1, 101)
        scores, hit = detections.scores[matches.order], matches.instance[0] >= 0
        true, kept = ((np.sort(s)[None] >= levels[:, None]).sum(axis=1) for s in (scores[hit], scores))
        missed = len(truth.video) - true
        board.add_pr_curve_raw(tag('precision_recall', name, f'tIoU_{middle:g}'), true, kept - true, 0 * true, missed,
                               true / np.maximum(kept, 1), true / len(truth.video), step, len(levels))


def scored_videos(data_path: str, truth: GroundTruth, test_set: VideoDataset) -> GroundTruth | None:
    """The ground truth that the test videos are scored against; None where none of them has an annotation with a time.

    That is every annotated video of their subset, as in `eval.detection`, without those that split_train.txt lists;
    where they lie in several subsets, they alone.
    """
    timed = {truth.videos[video] for video in truth.video.tolist()}
    names = [name for name in test_set.names if name in timed]
    if not names or test_set.split.name == 'train':    # training videos, localized for want of others: no test
        return None
    untimed = set(test_set.split.truth.tag_video.tolist()) & set(test_set.split.known.tolist())
    if untimed:
        warn(f'{data_path}: {number_of(len(untimed), "test video")} with labels without a time, which count for the '
             f'video accuracy alone: {first_few([truth.videos[v] for v in sorted(untimed)])}')
    tested = match_videos(names, truth.videos)
    subsets = {subset_name(truth.subsets[i]): truth.subsets[i] for i in tested}
    if len(subsets) > 1:
        warn(f'{data_path}/gt.json: the annotated test videos lie in several subsets, '
             f'{", ".join(map(quote, subsets.values()))}; they are scored without the other videos of these')
        return select_videos(truth, np.isin(np.arange(len(truth.videos)), tested))
    truth = scored_subset(truth, names)
    path = Path(data_path) / 'split_train.txt'
    if path.is_file():
        keep = np.ones(len(truth.videos), bool)
        trained = match_videos(read_split_file(path), truth.videos)
        keep[trained[trained >= 0]] = False
        keep[match_videos(names, truth.videos)] = True
        if not keep.all():
            warn(f'{path}: lists {number_of(int((~keep).sum()), "video")} of the subset {quote(truth.subsets[0])}, in '
                 f'which the test videos lie; they are not scored here, but eval.detection would')
        truth = select_videos(truth, keep)
    return truth


class Outcome(NamedTuple):
    """What the network says of the N test videos, T snippets each, as the localization and the pictures need it."""
    probabilities: np.ndarray    # (N, C) of the classes in a video
    selection: np.ndarray        # (N, T, C)
    cas: np.ndarray              # (N, T, C)
    aware: np.ndarray            # (N, T)
    agnostic: np.ndarray         # (N, T)


def allocate_columns(parts: Sequence[Tensor], num_videos: int) -> list[Tensor]:
    """A column of `num_videos` rows like those of each part, all in one piece of memory on the parts' device."""
    shapes = [(num_videos, *part.shape[1:]) for part in parts]
    sizes = [math.prod(shape) for shape in shapes]
    memory = parts[0].new_empty(sum(sizes))
    return [piece.view(shape) for piece, shape in zip(memory.split(sizes), shapes)]


def bring_columns(table: list[Tensor]) -> list[np.ndarray]:
    """The columns of `allocate_columns` as arrays, in one transfer where they lie on a GPU."""
    sizes = [column.numel() for column in table]
    whole = table[0].as_strided((sum(sizes),), (1,), 0)
    return [piece.view(column.shape).numpy() for piece, column in zip(whole.cpu().split(sizes), table)]


@dataclass(frozen=True)
class Evaluator:
    """All that an evaluation needs besides the network."""
    test_set: VideoDataset
    truth: GroundTruth | None    # see `scored_videos`
    num_segments: int            # T
    batch_size: int
    num_workers: int
    options: LocalizationOptions
    known_labels: bool           # of a labelled video, localize its labels and no other class
    tiou: list[float]
    share: Share                 # of the videos, that this process takes
    gather: Callable[[Any], list]    # the values of all processes on the first one; nothing elsewhere or alone

    def evaluate(self, model: AICL) -> Evaluation | None:
        """Localize every test video and score the detections (sections 7 and 8 of the method).

        None in all processes but the first.
        """
        outcome = self.look(model)
        return self.judge(outcome) if self.share.rank == 0 else None

    @torch.inference_mode()
    def look(self, model: AICL) -> Outcome:
        """What the network says of every test video; in other processes than the first, of their share alone."""
        reference = next(model.parameters())
        sampler = UniformSampler(self.test_set.lengths, self.num_segments, self.batch_size, self.share)
        videos: list[int] = []
        table: list[Tensor] = []    # the columns of an Outcome, on the device until all videos are seen
        # quirk: iterating the loader draws one number from torch's global generator, as the reference's evaluation
        # does, and so moves the order of later batches.
        for batch in loader(self.test_set, sampler, self.num_workers, reference.is_cuda):
            out = model(batch.features.to(reference.device, reference.dtype, non_blocking=True))
            parts = (out.video_logits.softmax(dim=1), out.selection, out.cas, out.actionness_aware,
                     out.actionness_agnostic)
            table = table or allocate_columns(parts, len(self.test_set))
            for column, part in zip(table, parts):
                column[batch.videos] = part
            videos += batch.videos
        columns = bring_columns(table)
        for others, parts_of_others in self.gather((videos, [column[videos] for column in columns])):
            for column_array, part_array in zip(columns, parts_of_others):
                column_array[others] = part_array
        return Outcome(*columns)

    def judge(self, outcome: Outcome) -> Evaluation:
        """Localize, and score where there is something to score."""
        test_set, options = self.test_set, self.options
        num_snippets = np.array(test_set.lengths)
        predicted = predict_classes(outcome.probabilities, options.class_th)
        labels = np.greater(test_set.labels.numpy(), 0)
        labelled = np.asarray(labels.any(axis=1))
        wanted = np.where(labelled[:, None], labels, predicted) if self.known_labels else predicted
        found = localize(outcome.selection, outcome.probabilities, num_snippets, options, wanted)
        detections = Detections(test_set.names, test_set.class_names, found.video, found.label, found.segments,
                                found.scores)
        seconds = num_snippets * options.snippet_frames / options.feature_fps / self.num_segments
        curves = pick_curves(test_set.names, test_set.class_names, seconds, num_snippets, outcome.aware,
                             outcome.agnostic, outcome.selection, outcome.cas, keep=predicted | labels)
        durations = {name: seconds for name, seconds in zip(test_set.names, test_set.durations.tolist())
                     if np.isfinite(seconds)}
        accuracy = float((predicted == labels).all(axis=1)[labelled].mean()) if labelled.any() else None
        if self.truth is None:
            return Evaluation(detections, curves, accuracy, durations)

        matches = match(self.truth, detections, self.tiou)
        at_half = matches.at(self.tiou.index(0.5)) if 0.5 in self.tiou else None
        scores = localized = evaluate(self.truth, detections, self.tiou, matches)
        has_features = np.zeros(len(self.truth.videos), bool)
        known = match_videos(test_set.names, self.truth.videos)
        has_features[known[known >= 0]] = True
        if not has_features.all():
            localized = evaluate(select_videos(self.truth, has_features), detections, self.tiou)
        return ScoredEvaluation(detections, curves, accuracy, durations, self.truth, scores, localized,
                                best_threshold(self.truth, detections, 0.5, at_half))


class Judged(NamedTuple):
    """An evaluation that is being made, and the weights that it is of."""
    step: int
    epoch: int
    weights: dict[str, Tensor]
    evaluation: 'Future[Evaluation]'


class Judging:
    """Evaluations on the way of a training: the network looks at once, and is judged beside the steps that follow.

    One at a time is judged, in a thread; `keep` gets each, in their order and in the caller's thread. What a training
    draws and computes does not depend on when that is. In other processes than the first nothing is judged.
    """

    def __init__(self, evaluator: Evaluator, keep: Callable[[int, int, Evaluation, dict[str, Tensor]], None]):
        self.evaluator, self.keep = evaluator, keep
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='evaluation')
        self.waiting: list[Judged] = []

    def __enter__(self) -> 'Judging':
        self.switch_seconds = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        sys.setswitchinterval(self.switch_seconds)
        if kind is None or issubclass(kind, (InputError, KeyboardInterrupt)):    # what was found is kept
            self.collect(wait=True)
        self.thread.shutdown(wait=False, cancel_futures=True)

    def begin(self, step: int, epoch: int, network: AICL) -> None:
        """Look at the test videos with the weights as they are now."""
        self.collect(wait=True)    # of two outcomes at once the memory would be too much
        outcome = self.evaluator.look(network)
        if self.evaluator.share.rank == 0:
            weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
            self.waiting.append(Judged(step, epoch, weights, self.thread.submit(self.evaluator.judge, outcome)))

    def collect(self, wait: bool) -> None:
        """Keep what has been judged; with `wait` all that is waiting."""
        while self.waiting and (wait or self.waiting[0].evaluation.done()):
            judged = self.waiting.pop(0)
            self.keep(judged.step, judged.epoch, judged.evaluation.result(), judged.weights)
