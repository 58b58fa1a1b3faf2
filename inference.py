"""From a network and a test set to detections, their scores, and the files and pictures that show them."""
import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data_folder import read_split_file
from dataset import SnippetSampler, VideoDataset, loader
from eval.curves import Curves, pick_curves, write_curves
from eval.detection import Scores, evaluate, format_table, match, scored_subset, to_json, warnings
from eval.diagnosis import BINS
from eval.files import Detections, GroundTruth, match_videos, select_videos, subset_name, write_detections
from eval.localization import LocalizationOptions, localize, predict_classes
from eval.report import build_report
from model import AICL
from run import Ranks, Run
from utils import number_of, quote, warn, write_text


class Evaluation(NamedTuple):
    """Detections of the test videos and, where some are annotated, how good they are."""
    detections: Detections
    curves: Curves
    truth: GroundTruth | None              # what the detections are scored against
    scores: Scores | None = None
    localized: Scores | None = None        # over the annotated videos that were localized alone
    video_accuracy: float | None = None    # share of annotated videos whose predicted set of classes is the true one

    def to_json(self) -> dict:
        """What results.json says of it."""
        counts = {'num_videos': len(self.detections.videos), 'num_predictions': len(self.detections.scores)}
        if self.scores is None:
            return counts
        return {**to_json(self.scores), 'video_accuracy': self.video_accuracy,
                'num_ground_truth_videos': self.scores.num_videos,
                'localized_only': {name: value for name, value in to_json(self.localized).items()
                                   if name in ('average_mAP', 'mAP', 'num_videos')}, **counts}

    def write(self, folder: Path) -> None:
        """Write detections.json and curves.npz."""
        write_detections(folder / 'detections.json', self.detections)
        write_curves(folder / 'curves.npz', self.curves)

    def write_report(self, folder: Path, bins: str) -> None:
        """Write report.html, where there is something to score."""
        if self.scores is not None:
            write_text(folder / 'report.html', build_report(self.truth, self.detections, self.scores.tiou, self.curves,
                                                            BINS[bins], folder.name))

    def show(self, title: str) -> None:
        """Print the table of mAP."""
        found = (f'{title}: {number_of(len(self.detections.scores), "detection")} in '
                 f'{number_of(len(self.detections.videos), "video")}')
        if self.scores is None:
            print(f'\n{found}; no test video is annotated, so there is nothing to score')
            return
        print(f'\n{found}, video accuracy {100 * self.video_accuracy:.1f} %\n{format_table(self.scores)}')
        if self.localized.num_videos < self.scores.num_videos:
            print(f'over only the {self.localized.num_videos} of these videos that have features: average mAP '
                  f'{100 * self.localized.average:.2f}')

    def warn(self) -> None:
        """Say which predictions could not be scored."""
        for line in warnings(self.scores) if self.scores is not None else []:
            warn(line)


def scored_videos(data_path: str, truth: GroundTruth | None, test_set: VideoDataset) -> GroundTruth | None:
    """The ground truth that the test videos are scored against; None where none of them is annotated.

    That is every annotated video of their subset, as in `eval.detection`, without those that split_train.txt lists;
    where they lie in several subsets, they alone.
    """
    annotated = test_set.labels.any(dim=1).tolist()
    if truth is None or not any(annotated):
        return None
    names = [name for name, known in zip(test_set.names, annotated) if known]
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


@torch.inference_mode()
def evaluate_model(model: AICL, test_set: VideoDataset, truth: GroundTruth | None, class_names: list[str],
                   args: argparse.Namespace, ranks: Ranks) -> Evaluation | None:
    """Localize every test video and score the detections (sections 7 and 8 of the method); None but on rank 0."""
    reference = next(model.parameters())
    sampler = SnippetSampler(test_set.lengths, args.num_segments, args.batch_size, part=(ranks.rank, ranks.count))
    videos, columns = [], []
    # Iterating the loader draws one number from torch's global generator, as the reference's evaluation does.
    for batch in loader(test_set, sampler, args.num_workers, reference.is_cuda):
        out = model(batch.features.to(reference.device, reference.dtype, non_blocking=True))
        parts = [part.cpu().numpy() for part in (out.video_logits.softmax(dim=1), out.selection, out.cas,
                                                 out.actionness_aware, out.actionness_agnostic)]
        # One array a column, filled in place: on ActivityNet a second copy of it would be 0.2 GB.
        columns = columns or [np.empty((len(test_set), *part.shape[1:]), part.dtype) for part in parts]
        for column, part in zip(columns, parts):
            column[batch.videos] = part
        videos += batch.videos
    if ranks.count > 1:
        found = ranks.gather((videos, [column[videos] for column in columns]))
        for videos, parts in found or []:
            for column, part in zip(columns, parts):
                column[videos] = part
    if not ranks.is_first:
        return None
    probabilities, selection, cas, aware, agnostic = columns

    num_snippets = np.array(test_set.lengths)
    options = LocalizationOptions(**{name: getattr(args, name) for name in LocalizationOptions._fields})
    found = localize(selection, probabilities, num_snippets, options)
    detections = Detections(test_set.names, class_names, found.video, found.label, found.segments, found.scores)
    predicted, labels = predict_classes(probabilities, args.class_th), test_set.labels.numpy() > 0
    seconds = num_snippets * args.snippet_frames / args.feature_fps / args.num_segments
    curves = pick_curves(test_set.names, class_names, seconds, num_snippets, aware, agnostic, selection, cas,
                         keep=predicted | labels)
    if truth is None:
        return Evaluation(detections, curves, None)

    scores = localized = evaluate(truth, detections, args.tiou)
    has_features = np.zeros(len(truth.videos), bool)
    known = match_videos(test_set.names, truth.videos)
    has_features[known[known >= 0]] = True
    if not has_features.all():
        localized = evaluate(select_videos(truth, has_features), detections, args.tiou)
    correct = (predicted == labels).all(axis=1)[labels.any(axis=1)]
    return Evaluation(detections, curves, truth, scores, localized, float(correct.mean()))


def show_on_board(run: Run, evaluation: Evaluation, step: int, num_figures: int) -> None:
    """Draw timelines of a few fixed test videos and the precision-recall curve for TensorBoard."""
    from eval.timeline import draw_timeline  # matplotlib takes half a second to import
    truth, detections = evaluation.truth, evaluation.detections
    known = [name for name, at in zip(detections.videos, match_videos(detections.videos, truth.videos)) if at >= 0]
    for i in np.linspace(0, len(known) - 1, min(num_figures, len(known))).astype(int):
        figure = draw_timeline(known[i], truth, [('AICL', detections)], evaluation.curves)
        run.board.add_figure(f'timeline/{known[i]}', figure, step)

    middle = float(evaluation.scores.tiou[np.abs(evaluation.scores.tiou - 0.5).argmin()])
    matches = match(truth, detections, [middle])
    levels = np.linspace(0, 1, 101)
    scores, hit = detections.scores[matches.order], matches.instance[0] >= 0
    true, kept = ((np.sort(s)[None] >= levels[:, None]).sum(axis=1) for s in (scores[hit], scores))
    missed = len(truth.video) - true
    run.board.add_pr_curve_raw(f'precision_recall/tIoU_{middle:g}', true, kept - true, 0 * true, missed,
                               true / np.maximum(kept, 1), true / len(truth.video), step, len(levels))
