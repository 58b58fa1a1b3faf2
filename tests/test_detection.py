"""mAP: against a slow implementation of the definition, against published numbers, and the command."""
import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_data import GOLDEN, read_released
from hypothesis import given, settings
from hypothesis import strategies as st

import eval.detection
from eval.detection import (
    average_precision,
    averages,
    best_threshold,
    check_tiou,
    evaluate,
    format_table,
    main,
    match,
    overlapping_pairs,
    scored_subset,
    temporal_iou,
    warnings,
)
from formats.annotations import GroundTruth, read_ground_truth, select_videos
from formats.detections import Detections, read_detections, select_detections, write_detections
from utils import InputError

ROOT = Path(__file__).resolve().parents[1]
ACTIVITYNET = [i / 20 for i in range(10, 20)]


def make_gt(*instances: tuple[str, str, float, float], subset: str = 'testing') -> GroundTruth:
    """Return a ground truth from rows of video, label, start, end."""
    videos, labels = sorted({row[0] for row in instances}), sorted({row[1] for row in instances})
    return GroundTruth(videos, [subset] * len(videos), np.full(len(videos), np.nan), labels,
                       np.array([videos.index(row[0]) for row in instances], np.int64),
                       np.array([labels.index(row[1]) for row in instances], np.int64),
                       np.array([row[2:] for row in instances], float).reshape(-1, 2))


def make_detections(*rows: tuple[str, str, float, float, float]) -> Detections:
    """Return detections from rows of video, label, start, end, score."""
    videos, labels = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    return Detections(videos, labels, np.array([videos.index(row[0]) for row in rows], np.int64),
                      np.array([labels.index(row[1]) for row in rows], np.int64),
                      np.array([row[2:4] for row in rows], float).reshape(-1, 2),
                      np.array([row[4] for row in rows], float))


def slow_iou(a: list[float], b: list[float]) -> float:
    intersection = max(0., min(a[1], b[1]) - max(a[0], b[0]))
    union = (a[1] - a[0]) + (b[1] - b[0]) - intersection
    return intersection / union if union > 0 else 0.


def slow_average_precision(hits: list[bool], positives: int) -> float:
    """Return the area under the precision envelope, point by point."""
    found, points = 0, []
    for rank, hit in enumerate(hits, start=1):
        found += hit
        points.append((found / positives, found / rank))
    area, recall = 0., 0.
    for i, (reached, _) in enumerate(points):
        area += (reached - recall) * max(precision for _, precision in points[i:])
        recall = reached
    return area


def slow_ap(gt: GroundTruth, detections: Detections, tiou: list[float]) -> np.ndarray:
    """Return the AP by its definition, one detection after the other; equal tIoUs as the reference sorts them."""
    ap: list[list[float]] = []
    for label in sorted({gt.labels[i] for i in gt.label}):
        rows = [i for i in range(len(detections.scores)) if detections.labels[detections.label[i]] == label]
        rows.sort(key=lambda i: -detections.scores[i])
        positives = sum(gt.labels[i] == label for i in gt.label)
        ranked = []  # of each detection the instances of its video and class with their tIoU, best first
        for row in rows:
            video = detections.videos[detections.video[row]]
            indices = [i for i in range(len(gt.label))
                   if gt.videos[gt.video[i]] == video and gt.labels[gt.label[i]] == label]
            overlaps = np.array([slow_iou(detections.segments[row].tolist(), gt.segments[i].tolist()) for i in indices])
            ranked.append([(indices[i], overlaps[i]) for i in overlaps.argsort()[::-1]])
        ap.append([])
        for threshold in tiou:
            taken, hits = set(), []
            for candidates in ranked:
                free = [i for i, overlap in candidates if overlap >= threshold and i not in taken]
                taken.update(free[:1])
                hits.append(bool(free))
            ap[-1].append(slow_average_precision(hits, positives))
    return np.array(ap)


@st.composite
def scenes(draw) -> tuple[GroundTruth, Detections]:
    """Return a few crowded videos: a coarse time grid, few scores, lengths of 0 and below, unknown names."""
    rng = np.random.default_rng(draw(st.integers(0, 2 ** 32)))
    num_videos, num_labels, grid = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([3, 8, 40]))
    num_instances, num_rows = draw(st.integers(1, 40)), draw(st.integers(0, 60))

    def rows(number: int, extra: int) -> list[tuple]:
        names = [f'{kind}{i}' for kind, top in (('video', num_videos), ('label', num_labels))
                 for i in rng.integers(top + extra, size=number)]
        times = rng.integers(grid, size=(number, 2)) / 4
        ordered = np.where(rng.random((number, 1)) < 0.8, np.sort(times), times)
        return [(names[i], names[number + i], *ordered[i]) for i in range(number)]

    scored = [(*row, score) for row, score in zip(rows(num_rows, 1), rng.integers(4, size=num_rows) / 3)]
    return make_gt(*rows(num_instances, 0)), make_detections(*scored)


@settings(deadline=None)
@given(scenes(), st.lists(st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75, 1.]), min_size=1, max_size=4, unique=True))
def test_ap_is_that_of_the_definition(scene, tiou):
    gt, detections = scene
    scores = evaluate(gt, detections, tiou)
    assert scores.ap.shape == (len(scores.labels), len(tiou))
    np.testing.assert_allclose(scores.ap, slow_ap(gt, detections, tiou), rtol=0, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(scenes(), st.integers(1, 50))
def test_matches_do_not_depend_on_the_block_size(scene, block):
    gt, detections = scene
    whole = match(gt, detections, [0.1, 0.5]).instance
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eval.detection, 'BLOCK_PAIRS', block)
        np.testing.assert_array_equal(match(gt, detections, [0.1, 0.5]).instance, whole)


@settings(deadline=None, max_examples=50)
@given(scenes())
def test_all_overlapping_pairs_are_found(scene):
    gt, detections = scene
    for copies in 1, 20:  # with 20 copies of every instance, only those near in time are candidates
        instances, groups = np.tile(gt.segments, (copies, 1)), np.tile(gt.video, copies)
        found = {}
        for place, instance, overlap in overlapping_pairs(detections.segments, detections.video, instances, groups):
            assert (np.diff(place) >= 0).all()
            found |= dict(zip(zip(place.tolist(), instance.tolist()), overlap.tolist()))
        overlaps = temporal_iou(detections.segments[:, None], instances)
        overlaps[detections.video[:, None] != groups] = 0
        assert {pair for pair in found if found[pair] > 0} == set(zip(*map(np.ndarray.tolist, np.nonzero(overlaps))))
        assert all(overlaps[pair] == overlap for pair, overlap in found.items())


@settings(deadline=None, max_examples=50)
@given(scenes())
def test_matches_fulfill_the_protocol(scene):
    gt, detections = scene
    matches = match(gt, detections, [0.3, 0.6])
    counted = matches.order
    assert sorted(counted) == [i for i, name in enumerate(detections.labels[i] for i in detections.label)
                               if name in {gt.labels[i] for i in gt.label}]
    keys = [(matches.label[i], -detections.scores[i], i) for i in counted]
    assert keys == sorted(keys)
    for threshold, instance in zip([0.3, 0.6], matches.instance):
        taken = instance[instance >= 0]
        assert len(set(taken)) == len(taken)
        for place in np.flatnonzero(instance >= 0):
            row, matched = counted[place], instance[place]
            assert gt.videos[gt.video[matched]] == detections.videos[detections.video[row]]
            assert gt.labels[gt.label[matched]] == detections.labels[detections.label[row]]
            assert slow_iou(detections.segments[row], gt.segments[matched]) >= threshold


def test_average_precision_by_hand():
    # Four instances; hits at ranks 1, 3, 4: precision 1, 2/3, 3/4, whose envelope is 1, 3/4, 3/4.
    hits = np.array([[True, False, True, True, False], [False] * 5])
    np.testing.assert_allclose(average_precision(hits, 4), [(1 + 0.75 + 0.75) / 4, 0], atol=1e-15)
    assert average_precision(np.zeros((2, 0), bool), 3).tolist() == [0, 0]


def test_tiou_by_hand():
    segments = np.array([[0, 10], [5, 15], [10, 20], [0, 0], [7, 3], [2, 4]], float)
    np.testing.assert_allclose(temporal_iou(segments[0], segments), [1, 1 / 3, 0, 0, 0, 0.2])
    assert not temporal_iou(segments[3:5, None], segments).any()


def test_a_detection_falls_back_to_its_second_best_instance():
    gt = make_gt(('v', 'a', 0, 10), ('v', 'a', 4, 14))
    rows = [('v', 'a', 0, 10, 0.9), ('v', 'a', 1, 11, 0.8)]  # the second overlaps the first instance more: 9/11 to 7/13
    assert match(gt, make_detections(*rows), [0.5, 0.6]).instance.tolist() == [[0, 1], [0, -1]]
    assert evaluate(gt, make_detections(*rows), [0.5, 0.6]).ap.tolist() == [[1, 0.5]]


def test_a_rejected_detection_tries_its_next_instance():
    # By score: the first takes the middle instance, and every later one the next instance.
    gt = make_gt(*(('v', 'a', 10 * i, 10 * i + 12) for i in range(6)))
    detections = make_detections(*(('v', 'a', 10 * i + shift, 10 * i + 12 + shift, 1 - 0.1 * i)
                                 for i, shift in ((0, 0), (0, 2), (1, 2), (2, 2), (3, 2))))
    np.testing.assert_allclose(evaluate(gt, detections, [0.01]).ap, slow_ap(gt, detections, [0.01]))


def test_equal_scores_keep_the_order_of_the_file():
    gt = make_gt(('u', 'a', 0, 1), ('v', 'a', 0, 1))
    hit, miss = ('v', 'a', 0, 1, 0.5), ('u', 'a', 5, 6, 0.5)
    assert evaluate(gt, make_detections(hit, miss), [0.5]).average == 0.5
    assert evaluate(gt, make_detections(miss, hit), [0.5]).average == 0.25


def test_a_tiou_at_the_threshold_is_enough():
    scores = evaluate(make_gt(('v', 'a', 0, 3)), make_detections(('v', 'a', 0, 1.5, 1)), [0.5, 0.50001])
    assert scores.ap.tolist() == [[1, 0]]


def test_map_includes_classes_without_detections_and_excludes_classes_without_instances():
    gt = make_gt(('v', 'a', 0, 1), ('v', 'b', 0, 1), ('w', 'c', 0, 1))
    gt = select_videos(gt, np.array([True, False]))
    scores = evaluate(gt, make_detections(('v', 'a', 0, 1, 1), ('v', 'c', 0, 1, 1)), [0.5])
    assert (scores.labels, scores.ap.tolist(), scores.average) == (['a', 'b'], [[1], [0]], 0.5)
    assert (scores.unknown_labels, scores.detections_of_unknown_labels) == (1, 1)


def test_unknown_videos_are_false_positives_and_unknown_labels_are_ignored():
    gt = make_gt(('v', 'a', 0, 1), ('w', 'a', 0, 1))
    known = [('v', 'a', 0, 1, 0.5)]
    stray = [('x', 'a', 0, 1, 0.9), ('y', 'a', 0, 1, 0.9), ('y', 'a', 3, 4, 0.9)]
    other = [('v', 'z', 0, 1, 0.9), ('v', 'zz', 0, 1, 0.9)]
    assert evaluate(gt, make_detections(*known), [0.5]).average == 0.5
    assert evaluate(gt, make_detections(*known, *other), [0.5]).average == 0.5
    scores = evaluate(gt, make_detections(*known, *stray, *other), [0.5])
    assert scores.average == 0.125  # rank 4 of 4, one of two instances
    assert (scores.num_videos, scores.num_instances, scores.num_detections) == (2, 2, 6)
    assert (scores.videos_without_detection, scores.unknown_videos, scores.detections_in_unknown_videos) == (1, 2, 3)
    assert (scores.unknown_labels, scores.detections_of_unknown_labels) == (2, 2)
    assert [line[:6] for line in warnings(scores)] == ['3 of 6', '2 of 6']
    assert not warnings(evaluate(gt, make_detections(*known), [0.5]))


def test_both_spellings_of_a_video_match():
    gt = make_gt(('v_UmAH95xls', 'a', 0, 1), ('abc', 'a', 0, 1))
    rows = [('v_v_UmAH95xls', 'a', 0, 1, 1), ('v_abc', 'a', 0, 1, 1)]
    assert evaluate(gt, make_detections(*rows), [0.5]).average == 1
    assert evaluate(gt, make_detections(('UmAH95xls', 'a', 0, 1, 1), rows[1]), [0.5]).average == 1


@pytest.mark.parametrize('tiou', [[], [0], [-0.1], [1.1], [float('nan')], [float('inf')], [0.5, 0.5]])
def test_bad_thresholds(tiou):
    with pytest.raises(InputError, match='tIoU'):
        check_tiou(tiou)


def test_nothing_to_score():
    with pytest.raises(InputError, match='nothing to score'):
        evaluate(make_gt(), make_detections(), [0.5])


def test_scored_subset():
    train, test = make_gt(('a', 'x', 0, 1), subset='Train'), make_gt(('b', 'x', 0, 1), ('c', 'x', 0, 1))
    both = GroundTruth([*train.videos, *test.videos, 'bare'], [*train.subsets, *test.subsets, 'testing'],
                       np.full(4, np.nan), ['x'], np.array([0, 1, 2]), np.zeros(3, np.int64), np.tile([0., 1], (3, 1)))
    assert scored_subset(both, ['v_b']).videos == ['b', 'c']
    assert scored_subset(both, ['bare', 'unknown']).videos == ['b', 'c']
    assert scored_subset(both, ['b'], ' Train ').videos == ['a']
    with pytest.raises(InputError, match="several subsets.*'testing' .2 videos. and 'Train' .1 videos."):
        scored_subset(both, ['a', 'b', 'c'])
    with pytest.raises(InputError, match='none of the videos with detections'):
        scored_subset(both, ['unknown'])
    with pytest.raises(InputError, match="subset 'val' is annotated.*'testing', 'Train'"):
        scored_subset(both, ['a'], 'val')
    assert scored_subset(test, ['unknown']).videos == ['b', 'c']  # there is only one


def test_table_and_averages():
    gt, perfect = make_gt(('v', 'a', 0, 1)), make_detections(('v', 'a', 0, 1, 1))
    tiou = [i / 10 for i in range(1, 8)]
    scores = evaluate(gt, perfect, tiou)._replace(ap=np.array([tiou]))
    assert averages(scores) == pytest.approx({'0.1:0.5': 0.3, '0.3:0.7': 0.5, '0.1:0.7': 0.4})
    table = format_table(scores).splitlines()
    assert table[1].split() == ['tIoU', '0.1', '0.2', '0.3', '0.4', '0.5', '0.6', '0.7']
    assert table[2].split() == ['mAP', '(%)', '10.00', '20.00', '30.00', '40.00', '50.00', '60.00', '70.00']
    assert table[3].split() == ['average', '0.1:0.5', '30.00', '0.3:0.7', '50.00', '0.1:0.7', '40.00']
    scores = evaluate(gt, perfect, ACTIVITYNET)
    assert averages(scores) == {'0.5:0.95': 1.0}
    assert max(map(len, format_table(scores).splitlines())) <= 80
    assert averages(evaluate(gt, perfect, [0.5, 0.75])) == {'all': 1.0}


@settings(deadline=None, max_examples=60)
@given(scenes(), st.sampled_from([0.1, 0.5, 1.0]))
def test_the_best_threshold_is_the_best_of_all_scores(scene, tiou):
    gt, detections = scene
    best = None
    for score in sorted(set(detections.scores), reverse=True):
        kept = select_detections(detections, detections.scores >= score)
        matches = match(gt, kept, [tiou])
        true, counted = (matches.instance[0] >= 0).sum(), len(matches.order)
        if true and (best is None or 2 * true / (counted + len(gt.segments)) > best[3] + 1e-12):
            precision, recall = true / counted, true / len(gt.segments)
            best = score, precision, recall, 2 * precision * recall / (precision + recall)
    found = best_threshold(gt, detections, tiou)
    several = sorted({0.05, tiou, 0.7})
    assert found == best_threshold(gt, detections, tiou, match(gt, detections, several).at(several.index(tiou)))
    assert (found is None) == (best is None)
    if best:
        assert found == pytest.approx(best)


def test_the_best_threshold_by_hand():
    gt = make_gt(('v', 'a', 0, 1), ('w', 'b', 0, 1), ('w', 'b', 5, 6))
    rows = [('v', 'a', 0, 1, 0.8), ('v', 'a', 7, 8, 0.7), ('w', 'b', 0, 1, 0.6), ('w', 'b', 8, 9, 0.5),
            ('w', 'z', 0, 1, 1)]
    assert best_threshold(gt, make_detections(*rows)) == pytest.approx((0.6, 2 / 3, 2 / 3, 2 / 3))
    assert best_threshold(gt, make_detections(*rows[1:2])) is best_threshold(gt, make_detections()) is None


# The numbers of published files


def test_the_released_detections_against_the_definition():
    """Two crowded classes, detection by detection."""
    gt, detections = read_released()
    gt = scored_subset(gt, detections.videos)
    for name in 'CricketShot', 'TennisSwing':
        one = gt.label == gt.labels.index(name)
        part = gt._replace(video=gt.video[one], label=gt.label[one], segments=gt.segments[one])
        rows = detections.label == detections.labels.index(name)
        found = detections._replace(video=detections.video[rows], label=detections.label[rows],
                                    segments=detections.segments[rows], scores=detections.scores[rows])
        expected = slow_ap(part, found, [0.1, 0.5])
        np.testing.assert_allclose(evaluate(part, found, [0.1, 0.5]).ap, expected, rtol=0, atol=1e-12)


@pytest.fixture(params=['1.2', '1.3'])
def validation(request) -> GroundTruth:
    gt = read_ground_truth(GOLDEN / f'activitynet{request.param}.json.gz')
    assert gt.labels == sorted(gt.labels) and len(gt.labels) == {'1.2': 100, '1.3': 200}[request.param]
    gt = scored_subset(gt, [], 'validation')
    assert (len(gt.videos), len(gt.label)) == {'1.2': (2383, 3582), '1.3': (4926, 7654)}[request.param]
    return gt


def as_detections(gt: GroundTruth, rows: np.ndarray | slice = slice(None), shift: float = 0) -> Detections:
    """Return instances as detections of score 1, shifted by a multiple of their length."""
    segments = gt.segments[rows]
    return Detections(gt.videos, gt.labels, gt.video[rows], gt.label[rows],
                      segments + shift * np.diff(segments), np.ones(len(segments)))


def without(gt: GroundTruth, rows: np.ndarray) -> GroundTruth:
    return gt._replace(video=gt.video[~rows], label=gt.label[~rows], segments=gt.segments[~rows])


def test_activitynet_scored_against_itself_has_map_1(validation):
    rows = set(zip(validation.video, validation.label, map(tuple, validation.segments)))
    assert len(rows) < len(validation.label)  # exact duplicates are among them
    tidy = without(validation, validation.segments[:, 1] <= validation.segments[:, 0])
    assert len(tidy.label) < len(validation.label)
    assert (evaluate(tidy, as_detections(tidy), ACTIVITYNET).ap == 1).all()


def test_instances_without_length_cannot_be_matched(validation):
    """They are missed, and as detections false positives at their rank in the file."""
    empty = validation.segments[:, 1] <= validation.segments[:, 0]
    found, both = (evaluate(validation, as_detections(validation, rows), ACTIVITYNET) for rows in (~empty, slice(None)))
    for c, label in enumerate(found.labels):
        rows = validation.label == validation.labels.index(label)
        np.testing.assert_allclose(found.ap[c], 1 - empty[rows].sum() / rows.sum(), rtol=0, atol=1e-12)
        expected = slow_average_precision((~empty[rows]).tolist(), rows.sum())
        np.testing.assert_allclose(both.ap[c], expected, rtol=0, atol=1e-12)
    assert both.average < found.average < 1


def test_activitynet_shifted_by_half_a_length(validation):
    """An isolated segment shifted by half its length has tIoU 1/3; with neighbors the definition decides."""
    scores = evaluate(validation, as_detections(validation, shift=0.5), [0.3, 0.35, 0.5])
    few = np.bincount(validation.video)
    np.testing.assert_allclose(scores.ap, fast_enough_ap(validation, 0.5, [0.3, 0.35, 0.5]), rtol=0, atol=1e-12)
    assert (few == 1).sum() > len(few) / 2 and scores.mean_ap[0] > 0.8 > 0.2 > scores.mean_ap[1] > scores.mean_ap[2]


def fast_enough_ap(gt: GroundTruth, shift: float, tiou: list[float]) -> np.ndarray:
    """Return the AP by its definition for shifted instances in the order of the file, with equal scores."""
    by_group: dict[tuple[int, int], list[int]] = {}
    for i, group in enumerate(zip(gt.video.tolist(), gt.label.tolist())):
        by_group.setdefault(group, []).append(i)
    segments = gt.segments.tolist()
    hits = {threshold: [False] * len(segments) for threshold in tiou}
    for group in by_group.values():
        for threshold in tiou:
            taken = set()
            for row in group:
                start, end = segments[row]
                moved = [start + shift * (end - start), end + shift * (end - start)]
                overlaps = np.array([slow_iou(moved, segments[i]) for i in group])
                best = overlaps.argsort()[::-1]
                free = [group[i] for i in best if overlaps[i] >= threshold and group[i] not in taken]
                taken.update(free[:1])
                hits[threshold][row] = bool(free)
    return np.array([[slow_average_precision([hits[threshold][i] for i in np.flatnonzero(gt.label == label)],
                                             (gt.label == label).sum()) for threshold in tiou]
                     for label in np.unique(gt.label)])


# The command


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """A ground truth of two subsets, and detections of the test videos."""
    database = {'a': {'subset': 'Test', 'annotations': [{'label': 'x', 'segment': ['0', '1']}]},
                'b': {'subset': 'test', 'annotations': [{'label': 'y', 'segment': [0, 1]}]},
                'c': {'subset': 'train', 'annotations': [{'label': 'y', 'segment': [0, 1]}]}}
    results = {'a': [{'label': 'x', 'score300': 1, 'segment': [0, 0.6]}]}
    (tmp_path / 'gt.json').write_text(json.dumps({'database': database}))
    (tmp_path / 'detections.json').write_text(json.dumps({'results': results}))
    return str(tmp_path / 'gt.json'), str(tmp_path / 'detections.json')


def test_the_command(files, tmp_path, capsys):
    output = tmp_path / 'results.json'
    assert main([*files, '--tiou', '0.5', '0.65', '--output', str(output)]) == 0
    out, err = capsys.readouterr()
    assert "subset 'Test': 2 videos (1 without a detection), 2 instances, 1 detection\n" in out and not err
    assert '50.00' in out
    assert json.loads(output.read_text()) == {
        'average_mAP': 0.25, 'mAP': {'0.5': 0.5, '0.65': 0},
        'AP': {'x': {'0.5': 1, '0.65': 0}, 'y': {'0.5': 0, '0.65': 0}},
        'num_videos': 2, 'num_predictions': 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['detections.json', 'gt.json', 'results.json']


def score(gt, detections, subset=None):
    """Return the warnings about detections of ground truth."""
    return warnings(evaluate(scored_subset(gt, detections.videos, subset), detections, [0.5]))


GOOD = make_gt(*[(video, 'run', start, start + 10) for video in 'abc' for start in (5, 30)])._replace(
    durations=np.full(3, 60.))
FOUND = make_detections(*[(video, 'run', start, start + 10, start / 100 + i / 1000)
                          for i, video in enumerate('abc') for start in (5, 30)])


def test_good_files_give_no_warning():
    assert score(GOOD, FOUND) == []


@pytest.mark.parametrize(('change', 'words'), [
    (lambda times: times * 30, 'end after their videos'), (lambda times: times * 1000, 'end after their videos'),
    (lambda times: times / 60, 'fractions of the duration'), (lambda times: times[:, ::-1], 'end before they start'),
    (lambda times: times - 20, 'start before second 0'),
    (lambda times: times[:, :1].repeat(2, axis=1), 'have no length, and match nothing')])
@pytest.mark.parametrize('which', ['instances', 'detections'])
def test_impossible_times_are_noticed(change, words, which):
    changed = [file._replace(segments=change(file.segments)) if which == kind else file
               for file, kind in ((GOOD, 'instances'), (FOUND, 'detections'))]
    warning, = score(*changed)
    assert words in warning and which in warning


@pytest.mark.parametrize('factor', [30, 1 / 60, 1000])
def test_files_in_different_units_are_noticed_without_durations(factor):
    gt = GOOD._replace(durations=np.full(3, np.nan))
    assert score(gt, FOUND) == []
    for files in ((gt._replace(segments=gt.segments * factor), FOUND),
                  (gt, FOUND._replace(segments=FOUND.segments * factor))):
        warning, = score(*files)
        assert 'are both files in seconds?' in warning


def test_a_few_errors_of_annotation_are_no_other_unit():
    gt = make_gt(*[('a', 'run', i, i + 1) for i in range(100)], ('a', 'run', 300, 310))
    gt = gt._replace(durations=np.full(1, 120.))
    assert score(gt, make_detections(('a', 'run', 3, 4, 1), ('a', 'run', 99, 110, 0.5))) == []


def test_ambiguous_is_no_class():
    warning, = score(make_gt(('a', 'run', 0, 5), ('a', 'Ambiguous', 7, 9)), make_detections(('a', 'run', 0, 5, 1)))
    assert "'Ambiguous' is scored as a class" in warning


def test_equal_scores_are_counted_where_they_matter():
    rows = [('a', 'run', 5, 15, 1), ('a', 'run', 50, 60, 1), ('a', 'run', 16, 18, 0.5), ('b', 'run', 44, 60, 0.5)]
    warning, = score(GOOD, make_detections(*rows))
    assert warning.startswith('2 of 4 detections have the score of another one of their class')
    assert evaluate(GOOD, make_detections(*rows), [0.5]).average == pytest.approx(1 / 6)  # in the order of the file
    assert evaluate(GOOD, make_detections(rows[1], rows[0]), [0.5]).average == pytest.approx(1 / 12)


def test_unknown_labels_are_named_with_the_nearest():
    rows = [('a', 'Run ', 5, 15, 1), ('a', 'swim', 5, 15, 0.5)]
    warning, = score(GOOD, make_detections(*rows))
    assert warning.endswith("(such labels: 2): 'Run ' (near 'run'), 'swim'")
    warning, = score(make_gt(('a', 'caf\u00e9', 0, 5)), make_detections(('a', 'cafe\u0301', 0, 5, 1)))
    assert r"'cafe\u0301' (near 'caf\xe9')" in warning  # on a screen both look alike


def test_durations_in_other_units_are_noticed():
    gt = make_gt(*[('a', 'run', 2 * i, 2 * i + 1) for i in range(10)])
    found = make_detections(('a', 'run', 3, 4, 1))
    assert score(gt._replace(durations=np.full(1, 20.)), found) == []
    for seconds in (20_000., 500.):  # in milliseconds, in frames
        warning, = score(gt._replace(durations=np.full(1, seconds)), found)
        assert 'all instances lie within the first' in warning and 'is "duration" in seconds' in warning


def test_classes_without_a_detection_are_named():
    gt = make_gt(('a', 'run', 0, 5), ('a', 'jump', 7, 9))
    assert 'classes without a detection: 1 of 2: jump' in format_table(evaluate(gt, make_detections(
        ('a', 'run', 0, 5, 1)), [0.5]))


def test_negative_videos_are_counted_as_such():
    gt = make_gt(('a', 'run', 0, 5))
    gt = gt._replace(videos=['a', 'n', 'm'], subsets=['test'] * 3, durations=np.full(3, np.nan))
    rows = [('a', 'run', 0, 5, 0.5), ('n', 'run', 0, 5, 0.9), ('x', 'run', 0, 5, 0.1)]
    negative, unknown = score(gt, make_detections(*rows))
    assert negative == ('1 of 3 detections are false positives in 1 video that the ground truth lists without an '
                        'instance')
    assert unknown.endswith("does not list their video (such videos: 1): 'x'")
    scores = evaluate(scored_subset(gt, ['a', 'n']), make_detections(*rows), [0.5])
    assert scores.average == 0.5 and scores.num_videos == 1  # the false positive comes first
    gt = gt._replace(labels=['', 'run'], label=gt.label + 1, tag_video=np.array([1]), tag_label=np.array([0]))
    assert not scored_subset(gt, ['a', 'n']).warnings  # an empty label marks a negative video


def test_tags_and_misspelled_keys_are_reported(tmp_path, capsys):
    entry = {'annotations': [{'label': 'x', 'segment': [5, 15]}, {'label': 'x', 'segement': [30, 40]}, {'label': 'y'}]}
    (tmp_path / 'gt.json').write_text(json.dumps({'database': {'a': entry}}))
    (tmp_path / 'd.json').write_text(json.dumps({'results': {'a': [{'label': 'x', 'score': 1, 'segment': [5, 15]}]}}))
    assert main([str(tmp_path / 'gt.json'), str(tmp_path / 'd.json')]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert 'the key \'segement\' of 1 annotations is ignored: did you mean "segment"?' in first
    assert '2 labels without a time ("segment") in this subset: not scored' in second
    (tmp_path / 'gt.json').write_text(json.dumps({'database': {'a': {'Annotations': entry['annotations']}}}))
    assert main([str(tmp_path / 'gt.json'), str(tmp_path / 'd.json')]) == 2
    assert 'did you mean "annotations"?' in capsys.readouterr().err  # the cause, where nothing is left to score


def test_the_command_prints_classes(files, capsys):
    assert main([*files, '--tiou', '0.5', '0.65', '--classes']) == 0
    table = [line.split() for line in capsys.readouterr().out.split('\n\n')[1].splitlines()]
    assert table == [['AP', '(%)', '0.5', '0.65', 'mean'], ['x', '100.00', '0.00', '50.00'], ['y', *['0.00'] * 3]]


def test_other_results_are_not_overwritten(files, tmp_path, capsys):
    output = tmp_path / 'results.json'
    output.write_text('{"best": {"step": 1}}')  # of a training run
    assert main([*files, '--output', str(output)]) == 2
    assert 'another kind' in capsys.readouterr().err and output.read_text() == '{"best": {"step": 1}}'
    assert main([*files, '--output', str(output), '--overwrite']) == main([*files, '--output', str(output)]) == 0


def test_the_command_scores_another_subset_and_warns(files, capsys):
    assert main([*files, '--subset', 'Training']) == 0
    out, err = capsys.readouterr()
    assert "subset 'train': 1 video (1 without" in out
    assert err.count('\n') == 2 and all(line.startswith('warning: 1 of 1 detections') for line in err.splitlines())


@pytest.mark.parametrize(('extra', 'words'), [
    (['--tiou', '0'], 'above 0'), (['--tiou', 'nan'], 'above 0'), (['--tiou', 'x'], "invalid float value: 'x'"),
    (['--tiou', '0.5', '0.50'], 'twice'), (['--subset', 'none such'], "'none such'"),
    (['--frobnicate'], '--frobnicate'),
    (['--output', '{tmp}'], 'Is a directory'), (['--output', '{tmp}/none/results.json'], 'No such file')])
def test_bad_usage_gives_one_line_and_status_2(files, tmp_path, capsys, extra, words):
    try:
        status = main([*files, *(word.replace('{tmp}', str(tmp_path)) for word in extra)])
    except SystemExit as leave:
        status = leave.code
    out, err = capsys.readouterr()
    assert status == 2 and not out
    assert err.startswith('error: ') and words in err and err.count('\n') == 1


@pytest.mark.parametrize('index', [0, 1])
def test_inputs_are_never_overwritten(files, tmp_path, capsys, index):
    before = Path(files[index]).read_bytes()
    (tmp_path / 'link.json').symlink_to(files[index])
    assert main([*files, '--output', str(tmp_path / 'link.json')]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count('\n') == 1 and 'link.json: is an input of this command' in err
    assert Path(files[index]).read_bytes() == before


def test_detections_in_two_subsets(files, tmp_path, capsys):
    path = tmp_path / 'both.json'
    path.write_text(json.dumps({'results': {'a': [], 'c': []}}))
    assert main([files[0], str(path)]) == 2
    err = capsys.readouterr().err
    assert "'test'" in err and "'train'" in err and '--subset' in err and err.count('\n') == 1


def test_the_files_in_the_wrong_order(files, capsys):
    assert main([files[1], files[0]]) == 2
    assert 'not a file of ground truth' in capsys.readouterr().err


@pytest.mark.parametrize('line', ['({command}) > /dev/full', '(sleep 0.1; {command}) | true'])
def test_a_full_disk_and_a_closed_pipe_give_no_traceback(files, line):
    command = shlex.join([sys.executable, '-m', 'eval.detection', *files])
    done = subprocess.run(['bash', '-c', line.format(command=command)], cwd=ROOT, text=True, capture_output=True)
    assert done.stderr.startswith('error: the output') and done.stderr.count('\n') == 1, done.stderr


def test_scoring_imports_no_heavy_library():
    code = 'import sys, eval.detection; print(*{"torch", "pandas", "scipy", "matplotlib", "tqdm"} & set(sys.modules))'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert not done.stdout.strip()


# ---- known labels ---------------------------------------------------------------------------------------------------

def test_known_labels_are_stored_and_marked(files, tmp_path, capsys):
    for known in True, False:
        path = tmp_path / 'd.json'
        write_detections(path, read_detections(files[1])._replace(known_labels=known))
        assert read_detections(path).known_labels == known
        assert main([files[0], str(path), '--output', str(tmp_path / 'r.json'), '--overwrite']) == 0
        assert ('with known labels' in capsys.readouterr().out) == known
        assert json.loads((tmp_path / 'r.json').read_text()).get('known_labels', False) == known
