"""The error diagnosis: each type by hand, DETAD's figures on real detections, gains against mAP, a slow version."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden_data import read_released
from hypothesis import given, settings
from hypothesis import strategies as st

import eval.detection
from eval.detection import evaluate, scored_subset
from eval.diagnosis import (
    BINS,
    ERROR_TYPES,
    UNCLASSIFIED,
    classify_errors,
    diagnose,
    format_table,
    main,
    match,
    matched_instances,
    notes,
    plot,
    to_json,
)
from formats.annotations import GroundTruth
from formats.detections import Detections, write_detections
from utils import InputError

TRUE, DOUBLE, WRONG, LOCALIZATION, CONFUSION, BACKGROUND = range(6)


def make_gt(instances, durations=(100, 100), videos=('v', 'w')):
    """Return a ground truth from rows of video, label, start, end."""
    labels = sorted({label for _, label, _, _ in instances})
    return GroundTruth(
        list(videos), ['testing'] * len(videos), np.array(durations, np.float64), labels,
        np.array([videos.index(row[0]) for row in instances], np.int64),
        np.array([labels.index(row[1]) for row in instances], np.int64),
        np.array([row[2:] for row in instances], np.float64).reshape(-1, 2))


def make_detections(rows):
    """Return detections from rows of video, label, start, end, score."""
    videos, labels = (sorted({row[i] for row in rows}) for i in (0, 1))
    return Detections(
        videos, labels, np.array([videos.index(row[0]) for row in rows], np.int64),
        np.array([labels.index(row[1]) for row in rows], np.int64),
        np.array([row[2:4] for row in rows], np.float64).reshape(-1, 2), np.array([row[4] for row in rows], np.float64))


def select(detections, rows):
    return detections._replace(video=detections.video[rows], label=detections.label[rows],
                               segments=detections.segments[rows], scores=detections.scores[rows])


def types_of(gt, detections, tiou):
    """Return {detection: error type} of the kept ones at one threshold."""
    errors = classify_errors(gt, detections, [tiou])
    return dict(zip(errors.detection.tolist(), errors.error_type[0].tolist()))


# Two instances of A and one of B; every detection with its error type at tIoU 0.5.
INSTANCES = [('v', 'A', 0, 10), ('v', 'A', 20, 30), ('v', 'B', 40, 50)]
CASES = [
    (('v', 'A', 0, 10, .95), TRUE),
    (('v', 'A', 0, 9, .9), DOUBLE),
    (('v', 'A', 0, 5, .85), DOUBLE),  # exactly 0.5
    (('v', 'A', 40, 49, .8), WRONG),
    (('v', 'A', 20, 24, .75), LOCALIZATION),
    (('v', 'A', 20, 21, .7), LOCALIZATION),  # exactly 0.1
    (('v', 'A', 40, 44, .65), CONFUSION),
    (('v', 'A', 20, 20.9, .6), BACKGROUND),
    (('v', 'A', 12, 18, .55), BACKGROUND),
    (('w', 'A', 0, 10, .5), BACKGROUND),  # a video without instances
    (('x', 'A', 0, 10, .45), BACKGROUND),  # a video that the ground truth does not list
    (('v', 'B', 45, 55, .4), LOCALIZATION),
    (('v', 'B', 40, 50, .35), TRUE),
    (('v', 'C', 0, 10, .99), None),  # a label without instances: none are kept
]


def test_every_error_type_by_hand():
    gt, detections = make_gt(INSTANCES), make_detections([row for row, _ in CASES])
    expected = {i: kind for i, (_, kind) in enumerate(CASES) if kind is not None}
    assert types_of(gt, detections, 0.5) == expected
    assert types_of(gt, detections, 0.4) == expected | {4: TRUE, 6: WRONG}  # both overlap by exactly 0.4

    diagnosis = diagnose(gt, detections, [0.5])
    # N_A = 2 and N_B = 1: the best three are 0, 1 and the better of B; then come 2, 3 and the other of B; ...
    assert diagnosis.profile[0, :3].tolist() == [[1, 1, 0, 1, 0, 0], [2, 2, 1, 1, 0, 0], [2, 2, 1, 3, 0, 0]]
    np.testing.assert_array_equal(diagnosis.profile[0, -1], [2, 2, 1, 3, 1, 4])
    assert (diagnosis.num_kept, diagnosis.num_detections) == (13, 14)
    np.testing.assert_allclose(diagnosis.missed, 1 / 3)  # the second of A
    # The AP of A is always 1 / 2, that of B 1 / 2, and 1 without its localization error.
    np.testing.assert_allclose(diagnosis.mean_ap, 1 / 2)
    np.testing.assert_allclose(diagnosis.map_gain, [[0, 0, 1 / 4, 0, 0]])


@pytest.mark.parametrize('first, kind', [('A', DOUBLE), ('B', WRONG)])
def test_of_equally_near_instances_the_first_decides(first, kind):
    other = 'B' if first == 'A' else 'A'
    gt = make_gt([('v', first, 0, 10), ('v', other, 0, 10)])
    assert types_of(gt, make_detections([('v', 'A', 0, 10, .9), ('v', 'A', 0, 10, .8)]), 0.5) == {0: TRUE, 1: kind}


def test_only_the_nearest_instance_decides():
    gt = make_gt([('v', 'A', 0, 10), ('v', 'B', 0, 8)])
    detections = make_detections([('v', 'A', 0, 10, .9), ('v', 'A', 0, 8, .8), ('v', 'B', 0, 10, .7)])
    # 1 overlaps A by 0.8, but B completely; 2 is nearest to A, but is matched to B as for mAP.
    assert types_of(gt, detections, 0.5) == {0: TRUE, 1: WRONG, 2: TRUE}


def test_the_ten_best_of_each_instance_are_kept_in_the_order_of_the_file():
    gt = make_gt([('v', 'A', 0, 10)])
    detections = make_detections([('v', 'A', 50, 60, .5)] * 12 + [('v', 'A', 0, 10, .1), ('v', 'A', 0, 10, .6)])
    errors = classify_errors(gt, detections, [0.5])
    assert errors.detection.tolist() == [13, *range(9)]
    assert errors.depth.tolist() == [*range(10)]
    assert diagnose(gt, detections).profile[0, :, TRUE].tolist() == [1] * 10


def test_instances_without_length_and_duplicates_are_accepted():
    gt = make_gt([('v', 'A', 5, 5), ('v', 'A', 9, 3), ('v', 'A', 20, 30), ('v', 'A', 20, 30)])
    times = [(5, 5), (9, 3), (20, 30), (20, 30), (20, 30)]
    detections = make_detections([('v', 'A', *segment, -i) for i, segment in enumerate(times)])
    with np.errstate(all='raise'):
        assert types_of(gt, detections, 0.5) == {0: BACKGROUND, 1: BACKGROUND, 2: TRUE, 3: TRUE, 4: DOUBLE}
        diagnosis = diagnose(gt, detections)
    assert diagnosis.missed == [0.5]
    assert diagnosis.characteristics[1].instances.tolist() == [2, 0, 2, 0, 0]


def assert_gains_are_those_of_evaluate(gt, detections, tiou):
    diagnosis, errors = diagnose(gt, detections, tiou), classify_errors(gt, detections, tiou)
    kept = select(detections, np.sort(errors.detection))
    np.testing.assert_allclose(diagnosis.mean_ap, evaluate(gt, kept, tiou).mean_ap, atol=1e-12)
    for k, threshold in enumerate(tiou):
        for kind in range(1, 6):
            rest = select(detections, np.sort(errors.detection[errors.error_type[k] != kind]))
            gain = evaluate(gt, rest, [threshold]).mean_ap[0] - diagnosis.mean_ap[k]
            assert diagnosis.map_gain[k, kind - 1] == pytest.approx(gain, abs=1e-12)
            assert gain > -1e-12


@pytest.fixture(scope='module')
def released():
    gt, detections = read_released()
    return scored_subset(gt, detections.videos, 'test'), detections


def test_removing_an_error_type_from_the_released_detections_has_the_reported_gain(released):
    assert_gains_are_those_of_evaluate(*released, [0.3, 0.5, 0.7])


# A slow version of the definitions: loops, one threshold, no array of the module under test.

def slow_tiou(a, b):
    shared = min(a[1], b[1]) - max(a[0], b[0])
    return shared / (a[1] - a[0] + b[1] - b[0] - shared) if shared > 0 else 0


def slow_match(instances, rows, threshold):
    """Return {detection: instance}; both are lists of (video, label, start, end, ...)."""
    taken = {}
    for p in sorted(range(len(rows)), key=lambda p: -rows[p][4]):
        candidates = [i for i, g in enumerate(instances) if g[:2] == rows[p][:2]]
        overlaps = [slow_tiou(rows[p][2:4], instances[i][2:4]) for i in candidates]
        for best in np.argsort(overlaps)[::-1]:  # equal ones as in evaluate
            if overlaps[best] >= threshold and candidates[best] not in taken.values():
                taken[p] = candidates[best]
                break
    return taken


def slow_types(instances, rows, threshold):
    matched, kinds = slow_match(instances, rows, threshold), {}
    for p, row in enumerate(rows):
        number = sum(g[1] == row[1] for g in instances)
        better = sum(other[1] == row[1] and (other[4] > row[4] or (other[4] == row[4] and q < p))
                     for q, other in enumerate(rows))
        if better >= 10 * number:
            continue
        near = [(slow_tiou(row[2:4], g[2:4]), -i) for i, g in enumerate(instances) if g[0] == row[0]]
        overlap, i = max(near, default=(0, 0))
        same = instances[-i][1] == row[1]
        if p in matched:
            kinds[p] = TRUE
        elif overlap >= threshold:
            kinds[p] = DOUBLE if same else WRONG
        elif overlap >= 0.1:
            kinds[p] = LOCALIZATION if same else CONFUSION
        else:
            kinds[p] = BACKGROUND
    return kinds


def slow_normalized_map(instances, inside, rows, threshold):
    """Return the mAP of a second matching of the remaining detections to only the instances of the bin."""
    matched = slow_match(instances, rows, threshold)
    rows = [row for p, row in enumerate(rows) if p not in matched or matched[p] in inside]
    normal = len(instances) / len({g[1] for g in instances})
    instances, aps = [instances[i] for i in inside], []
    matched = slow_match(instances, rows, threshold)
    for label in {g[1] for g in instances}:
        number, points, hits, misses = sum(g[1] == label for g in instances), [], 0, 0
        for p in sorted((p for p in range(len(rows)) if rows[p][1] == label), key=lambda p: -rows[p][4]):
            hits, misses = hits + (p in matched), misses + (p not in matched)
            recall = hits / number
            points.append((recall, recall * normal / (recall * normal + misses)))
        aps.append(sum(max((precision for recall, precision in points if recall >= step / number), default=0)
                       for step in range(1, number + 1)) / number)
    return np.mean(aps)


TIMES = st.tuples(st.integers(0, 12), st.integers(1, 8)).map(lambda pair: (pair[0], pair[0] + pair[1]))
ROWS = st.tuples(st.sampled_from('vw'), st.sampled_from('AB'), TIMES).map(lambda row: (*row[:2], *row[2]))
PREDICTED = st.tuples(st.sampled_from('vwx'), st.sampled_from('ABC'), TIMES, st.sampled_from([.1, .2, .3, .4])).map(
    lambda row: (*row[:2], *row[2], row[3]))


@settings(max_examples=150, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=6), st.lists(PREDICTED, max_size=40),
       st.sampled_from([0.05, 0.1, 0.3, 0.5, 0.75]))
def test_invariants_and_the_slow_version(instances, rows, threshold):
    gt, detections = make_gt(instances, [20, 10]), make_detections(rows)
    assert types_of(gt, detections, threshold) == slow_types(instances, rows, threshold)
    assert_gains_are_those_of_evaluate(gt, detections, [threshold])

    diagnosis = diagnose(gt, detections, [threshold], {'coverage': (.2, .3), 'length': (2, 5), 'instances': (1, 2)})
    kept = {label: sum(row[1] == label for row in rows) for label in 'AB'}
    most = {label: 10 * sum(g[1] == label for g in instances) for label in 'AB'}
    assert diagnosis.num_kept == sum(min(kept[label], most[label]) for label in 'AB')
    np.testing.assert_allclose(diagnosis.shares.sum(axis=2), diagnosis.profile.sum(axis=2) > 0)
    assert (np.diff(diagnosis.profile, axis=1) >= 0).all()

    found = set(slow_match(instances, rows, threshold).values())
    assert diagnosis.missed[0] == pytest.approx(1 - len(found) / len(instances))
    everything = range(len(instances))
    assert diagnosis.normalized_mean_ap[0] == pytest.approx(slow_normalized_map(instances, everything, rows, threshold))
    values = {'coverage': [(g[3] - g[2]) / {'v': 20, 'w': 10}[g[0]] for g in instances],
              'length': [g[3] - g[2] for g in instances],
              'instances': [sum(other[:2] == g[:2] for other in instances) for g in instances]}
    ends = {'coverage': (-9, .2, .3, 9), 'length': (-9, 2, 5, 99), 'instances': (0, 1, 2, 99)}
    for characteristic in diagnosis.characteristics:
        name = characteristic.name
        for b, (low, high) in enumerate(zip(ends[name], ends[name][1:])):
            inside = [i for i in everything if low < values[name][i] <= high]
            assert characteristic.instances[b] == len(inside)
            if inside:
                assert characteristic.missed[0, b] == pytest.approx(1 - len(found & {*inside}) / len(inside))
                slow = slow_normalized_map(instances, inside, rows, threshold)
                assert characteristic.mean_ap[0, b] == pytest.approx(slow)
            else:
                assert np.isnan([characteristic.missed[0, b], characteristic.mean_ap[0, b]]).all()


def test_thresholds_are_independent():
    gt, detections = make_gt(INSTANCES), make_detections([row for row, _ in CASES])
    both = diagnose(gt, detections, [0.5, 0.4])
    for k, threshold in enumerate([0.5, 0.4]):
        one = diagnose(gt, detections, [threshold])
        for together, alone in ((both.profile, one.profile), (both.map_gain, one.map_gain), (both.missed, one.missed)):
            np.testing.assert_array_equal(together[k], alone[0])
    found = matched_instances(match(gt, detections, [0.5, 0.4]), 3)
    assert found.tolist() == [[True, False, True], [True, True, True]]


def test_bins_include_their_upper_end_and_durations_may_be_wrong():
    instances = [('v', 'A', 0, 2), ('v', 'A', 0, 3), ('v', 'A', 0, 3.5), ('w', 'A', 0, 20), ('w', 'B', 5, 10)]
    # v: 2 % is still XS. w: shorter than its instances.
    coverage, length, number = diagnose(make_gt(instances, [100, 1.0]), make_detections([])).characteristics
    assert (coverage.name, coverage.bins, coverage.unknown) == ('coverage', ['XS', 'S', 'M', 'L', 'XL'], 0)
    assert coverage.instances.tolist() == [1, 2, 0, 0, 2]
    assert (length.instances.tolist(), length.ranges) == ([2, 2, 0, 0, 1], ['<= 3', '3-6', '6-12', '12-18', '> 18'])
    assert (number.instances.tolist(), number.ranges) == ([2, 3, 0, 0], ['<= 1', '2-40', '41-80', '> 80'])
    assert diagnose(make_gt(instances), make_detections([]), bins=BINS['activitynet']).characteristics[2].ranges == [
        '<= 1', '2-4', '5-8', '> 8']

    for bad in (np.nan, 0.0):
        diagnosis = diagnose(make_gt(instances, [100, bad]), make_detections([]))
        assert diagnosis.characteristics[0].instances.tolist() == [1, 2, 0, 0, 0]
        assert 'note: coverage excludes 2 of 5 instances' in format_table(diagnosis)
        diagnosis = diagnose(make_gt(instances, [bad, bad]), make_detections([]))
        assert [c.name for c in diagnosis.characteristics] == ['length', 'instances']
        assert 'excludes 5 of 5' in notes(diagnosis)[0]
        plot(diagnosis)
    assert diagnose(make_gt(instances, [1e-320, 1e-320]), make_detections([])).characteristics[0].instances[-1] == 5


@pytest.mark.parametrize('ends', [(), (1, 1), (1, 2, 3, 4, 5)])
def test_wrong_bins_are_an_error(ends):
    with pytest.raises(InputError, match='bins of length'):
        diagnose(make_gt(INSTANCES), make_detections([]), bins=BINS['thumos14'] | {'length': ends})


def test_nothing_to_diagnose_is_an_error():
    with pytest.raises(InputError, match='nothing to diagnose'):
        diagnose(make_gt([]), make_detections([]))


@pytest.fixture
def files(tmp_path):
    """Write the case by hand to files."""
    annotations = [{'label': label, 'segment': [start, end]} for _, label, start, end in INSTANCES]
    database = {'v': {'subset': 'test', 'duration': 100, 'annotations': annotations}}
    (tmp_path / 'gt.json').write_text(json.dumps({'database': database}))
    write_detections(tmp_path / 'detections.json', make_detections([row for row, _ in CASES]))
    return [str(tmp_path / 'gt.json'), str(tmp_path / 'detections.json')]


def test_command_prints_and_writes(files, tmp_path, capsys):
    output = tmp_path / 'diagnosis.json'
    for name, flag, start in (('a.png', '--figure', b'\x89PNG'), ('a.svg', '--picture', b'<?xml')):
        figure = tmp_path / name
        assert main([*files, '--tiou', '0.5', '0.55', '--output', str(output), flag, str(figure)]) == 0
        assert figure.read_bytes().startswith(start)
    printed = capsys.readouterr()
    assert '14 detections, of which 13 are kept' in printed.out
    assert 'does not use their label' in printed.err
    written = json.loads(output.read_text())
    assert written['share']['wrong label']['0.5'] == pytest.approx(1 / 13)
    assert written['profile']['0.55']['true positive'][0] == pytest.approx(1 / 3)
    assert written['average_mAP_gain']['localization'] == pytest.approx(1 / 4)
    assert written['mAP_of_kept'] == pytest.approx({'0.5': 1 / 2, '0.55': 1 / 2})
    assert written['characteristics']['coverage']['bins'][0] == {
        'bin': 'XS', 'range': '<= 0.02', 'instances': 0, 'missed': {'0.5': None, '0.55': None},
        'normalized_mAP': {'0.5': None, '0.55': None}}
    assert written['characteristics']['length']['bins'][2]['missed']['0.5'] == pytest.approx(1 / 3)


def test_figure_shows_the_numbers(released):
    diagnosis = diagnose(*released, [0.5])
    profile, gain, *rest = plot(diagnosis).axes
    heights = np.array([[bar.get_height() for bar in bars] for bars in profile.containers])
    np.testing.assert_allclose(heights, 100 * diagnosis.shares[0].T)
    assert [text.get_text() for text in gain.texts] == [f'{100 * value:.2f}' for value in diagnosis.map_gain[0]]
    assert len(rest) == 6


@pytest.mark.parametrize('more, message', [
    (['--figure', 'a.jpg'], 'must end in .png, .svg or .pdf'),
    (['--figure', 'no/such/folder/a.png'], 'No such file or directory'),
    (['--tiou', '0'], 'tIoU thresholds must be above 0'),
    (['--subset', 'training'], "'training'"),
])
def test_bad_input_gives_one_line_and_status_2(files, more, message, capsys):
    assert main([*files, *more]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ') and message in error


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=Path(__file__).parents[1])


def test_command_imports_no_plotting_library_without_a_figure(files):
    code = ('import sys; from eval.diagnosis import main; main(sys.argv[1:]);'
            'print({"torch", "matplotlib"} & {*sys.modules})')
    assert run('-c', code, *files).stdout.endswith('set()\n')


def test_command_shows_no_traceback(files):
    for arguments in (['nowhere.json', files[1]], [files[0], files[0]], [*files, '--tiou', 'x'], []):
        result = run('-m', 'eval.diagnosis', *arguments)
        assert result.returncode == 2 and result.stderr.startswith('error: ') and result.stderr.count('\n') == 1


def test_error_types_have_their_names():
    assert [*to_json(diagnose(make_gt(INSTANCES), make_detections([])))['share']] == [*ERROR_TYPES]


def test_a_diagnosis_contains_matches_and_errors():
    gt, detections = make_gt(INSTANCES), make_detections([row for row, _ in CASES])
    diagnosis = diagnose(gt, detections, [0.4, 0.5])
    separate = classify_errors(gt, detections, [0.4, 0.5])
    assert all(np.array_equal(together, alone) for together, alone in zip(diagnosis.errors, separate))
    behind = [UNCLASSIFIED if kind is None else kind for _, kind in CASES]
    assert diagnosis.error_types[1].tolist() == behind
    assert diagnosis.matched_instances.tolist() == [[True, True, True], [True, False, True]]


def test_a_match_beyond_the_ten_best_is_a_true_positive_that_is_not_kept():
    gt = make_gt([('v', 'A', 0, 10)])
    diagnosis = diagnose(gt, make_detections([('v', 'A', 50, 60, .5)] * 12 + [('v', 'A', 0, 10, .1)]), [0.5])
    assert diagnosis.error_types[0].tolist() == [BACKGROUND] * 10 + [UNCLASSIFIED] * 2 + [TRUE]
    assert diagnosis.num_kept == 10


def test_other_files_are_not_overwritten(files, tmp_path, capsys):
    weights = tmp_path / 'best.png'
    weights.write_bytes(b'PK a checkpoint')
    for flag in ('--output', '--figure'):
        assert main([*files, flag, str(weights)]) == 2
        assert 'another kind' in capsys.readouterr().err and weights.read_bytes() == b'PK a checkpoint'
        assert main([*files, flag, str(weights), '--overwrite']) == main([*files, flag, str(weights)]) == 0
        weights.write_bytes(b'PK a checkpoint')


@pytest.mark.parametrize('block', [1, 64, 65536])
def test_the_nearest_of_many_instances_is_found_in_blocks_of_any_size(monkeypatch, block):
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 50, 400)
    gt = make_gt([('vw'[i % 2], 'ABC'[i % 3], start, start + i % 7) for i, start in enumerate(starts)])
    rows = [('vwx'[i % 3], 'ABC'[i % 2], start, start + rng.integers(0, 20), rng.random())
            for i, start in enumerate(rng.integers(-5, 60, 300))]
    detections = make_detections(rows)
    monkeypatch.setattr(eval.detection, 'BLOCK_PAIRS', block)
    instances = [(gt.videos[v], gt.labels[c], *segment)
                 for v, c, segment in zip(gt.video, gt.label, gt.segments.tolist())]
    assert types_of(gt, detections, 0.5) == slow_types(instances, rows, 0.5)
