"""Score detections in rendered clips, and show that times and labels count: a shifted ground truth scores lower.

    python -m examples.score_clips data/clips/gt.json outputs/clips/detections.json

Next to the mAP it prints the mAP against the ground truth shifted by one snippet (0.64 s), which is lower if the
detections are where they should be, and the mean mAP against the ground truth of the other clips, which is chance.
"""
import argparse
import sys

import numpy as np

from eval.detection import TIOU, evaluate, format_table, scored_subset
from formats.annotations import GroundTruth, read_ground_truth
from formats.detections import Detections, read_detections
from utils import InputError, Parser, run_cli

SNIPPET_SECONDS = 16 / 25


def shifted(gt: GroundTruth, seconds: float) -> GroundTruth:
    """Return the same instances, `seconds` later."""
    return gt._replace(segments=gt.segments + seconds)


def from_other_clips(gt: GroundTruth, offset: int) -> GroundTruth:
    """Return each clip with the instances of the clip `offset` further on."""
    return gt._replace(video=(gt.video - offset) % len(gt.videos))


def average_map(gt: GroundTruth, detections: Detections) -> float:
    """Return the average mAP in percent."""
    return 100 * evaluate(gt, detections, TIOU).average


def chance(gt: GroundTruth, detections: Detections) -> float:
    """Return the mean over the average mAP against the instances of each other clip."""
    return float(np.mean([average_map(from_other_clips(gt, i), detections) for i in range(1, len(gt.videos))]))


def score(ground_truth: str, path: str) -> None:
    """Print the scores of a file of detections; raises InputError for fewer than two clips."""
    gt, detections = read_ground_truth(ground_truth), read_detections(path)
    gt = scored_subset(gt, detections.videos)
    if len(gt.videos) < 2:
        raise InputError(f'{ground_truth}: needs at least two clips')
    scores = evaluate(gt, detections, TIOU)
    print(format_table(scores))
    print('Average mAP with the true times, with times shifted by one snippet, with the times of other clips (chance): '
          f'{100 * scores.average:.1f}, later {average_map(shifted(gt, SNIPPET_SECONDS), detections):.1f}, '
          f'earlier {average_map(shifted(gt, -SNIPPET_SECONDS), detections):.1f}, {chance(gt, detections):.1f}')


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog='python -m examples.score_clips', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    args = parser.parse_args(argv)
    return run_cli(lambda: score(args.ground_truth, args.detections))


if __name__ == '__main__':
    sys.exit(main())
