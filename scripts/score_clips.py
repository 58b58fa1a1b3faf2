"""Score detections in rendered clips, and show that times and labels count: the truth moved must score less.

    python -m scripts.score_clips data/clips/gt.json outputs/own_videos/detections.json

Beside the mAP by the true times it prints that by the same times moved by one snippet (0.64 s), which is lower if the
detections are where they belong, and the mean of those by the times and labels of the other clips, which is chance.
"""
import argparse
import sys

import numpy as np

from eval.detection import TIOU, evaluate, format_table, scored_subset
from formats.annotations import GroundTruth, read_ground_truth
from formats.detections import Detections, read_detections
from utils import InputError, Parser, run_cli

SNIPPET_SECONDS = 16 / 25


def moved(truth: GroundTruth, seconds: float) -> GroundTruth:
    """The same instances, `seconds` later."""
    return truth._replace(segments=truth.segments + seconds)


def of_others(truth: GroundTruth, places: int) -> GroundTruth:
    """Each clip with the instances of the clip `places` further on."""
    return truth._replace(video=(truth.video - places) % len(truth.videos))


def average(truth: GroundTruth, detections: Detections) -> float:
    """Average mAP in percent."""
    return 100 * evaluate(truth, detections, TIOU).average


def chance(truth: GroundTruth, detections: Detections) -> float:
    """The average mAP of detections against the instances of each other clip in turn."""
    return float(np.mean([average(of_others(truth, places), detections) for places in range(1, len(truth.videos))]))


def run(argv: list[str] | None) -> None:
    parser = Parser(prog='python -m scripts.score_clips', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('ground_truth', metavar='GT.json')
    parser.add_argument('detections', metavar='DETECTIONS.json')
    args = parser.parse_args(argv)
    truth, detections = read_ground_truth(args.ground_truth), read_detections(args.detections)
    truth = scored_subset(truth, detections.videos)
    if len(truth.videos) < 2:
        raise InputError(f'{args.ground_truth}: needs two clips at least')
    scores = evaluate(truth, detections, TIOU)
    print(format_table(scores))
    print('Average mAP by the true times, by these moved by one snippet, and by those of other clips (chance): '
          f'{100 * scores.average:.1f}, later {average(moved(truth, SNIPPET_SECONDS), detections):.1f}, '
          f'earlier {average(moved(truth, -SNIPPET_SECONDS), detections):.1f}, {chance(truth, detections):.1f}')


def main(argv: list[str] | None = None) -> int:
    return run_cli(lambda: run(argv))


if __name__ == '__main__':
    sys.exit(main())
