"""Pseudo labels: the selected detections, and a file with everything that the loaders of second stages need."""
import json
from collections import Counter

import golden_data
import numpy as np
import pytest

from eval.pseudo_labels import main, select_pseudo_labels
from formats.annotations import read_ground_truth
from formats.detections import read_detections


def row(label: str, start: float, end: float, score: float) -> dict:
    return {'label': label, 'segment': [start, end], 'score': score}


GT = {
    'a': {'subset': 'training', 'duration': 10, 'fps': 30, 'url': 'x', 'annotations': [
        {'label': 'run', 'segment': [1, 2]}, {'label': 'swim'}]},
    'v_b': {'subset': 'Train', 'duration': 20, 'annotations': [{'label': 'jump', 'segment': [7, 8]}]},
    'bare': {'subset': 'training', 'annotations': [{'label': 'jump', 'segment': [7, 8]}]},
    'test': {'subset': 'testing', 'duration': 30, 'frame': 899, 'annotations': [{'label': 'run', 'segment': [3, 4]}]}}
DETECTIONS = {
    'a': [row('run', -1, 3, 0.9), row('run', 4, 12, 0.5), row('run', 8, 9, 0.7), row('swim', 5, 6, 0.3),
          row('jump', 2, 3, 0.8), row('run', 11, 12, 0.9)],
    'b': [row('jump', 0, 25, 0.6), row('hop', 1, 2, 0.2)]}


@pytest.fixture
def files(tmp_path):
    (tmp_path / 'gt.json').write_text(json.dumps({'database': GT}))
    (tmp_path / 'd.json').write_text(json.dumps({'results': DETECTIONS}))
    return tmp_path


def rows_of(files, **options) -> list[tuple]:
    selected = select_pseudo_labels(read_ground_truth(files / 'gt.json'), read_detections(files / 'd.json'), **options)
    return [(selected.videos[v], selected.labels[c], *segment, score) for v, c, segment, score in zip(
        selected.video, selected.label, selected.segments.tolist(), selected.scores.tolist())]


def test_segments_are_clipped_to_the_video_and_those_outside_are_dropped(files):
    assert rows_of(files) == [
        ('a', 'run', 0, 3, 0.9), ('a', 'run', 4, 10, 0.5), ('a', 'run', 8, 9, 0.7), ('a', 'swim', 5, 6, 0.3),
        ('a', 'jump', 2, 3, 0.8), ('b', 'jump', 0, 20, 0.6), ('b', 'hop', 1, 2, 0.2)]


def test_minimum_score_best_of_each_class_and_known_labels(files):
    assert [row[-1] for row in rows_of(files, min_score=0.5)] == [0.9, 0.5, 0.7, 0.8, 0.6]
    assert rows_of(files, top=1)[:3] == [('a', 'run', 0, 3, 0.9), ('a', 'swim', 5, 6, 0.3), ('a', 'jump', 2, 3, 0.8)]
    assert [row[-1] for row in rows_of(files, top=2) if row[1] == 'run'] == [0.9, 0.7]
    assert {row[:2] for row in rows_of(files, known_labels=True)} == {('a', 'run'), ('a', 'swim'), ('b', 'jump')}


def loaded(path, subset: str) -> dict:
    """Return what the loaders of ActionFormer and OpenTAD read from a file: they require these keys."""
    videos, label_ids = {}, {}
    for name, entry in json.loads(path.read_text())['database'].items():
        for annotation in entry['annotations']:
            label_ids[annotation['label']] = annotation['label_id']
        if entry['subset'].lower() in subset:
            spans = np.array([a['segment'] for a in entry['annotations']], np.float32).reshape(-1, 2)
            videos[name] = entry['fps'], entry['frame'], entry['duration'], spans
    assert [label_ids[label] for label in sorted(label_ids)] == list(range(len(label_ids)))
    return videos


def test_the_file_contains_pseudo_labels_in_training_videos_and_ground_truth_in_others(files, capsys):
    output = files / 'pseudo.json'
    assert main([str(files / 'gt.json'), str(files / 'd.json'), '-o', str(output), '--fps', '25']) == 0
    captured = capsys.readouterr()
    assert captured.out == f'{output}: 7 pseudo labels in 2 videos, 1 video of the subset without any\n'
    gt = read_ground_truth(output)
    assert gt.labels == ['hop', 'jump', 'run', 'swim'] and gt.videos == list(GT)
    assert [(gt.videos[v], gt.labels[c], *segment)
            for v, c, segment in zip(gt.video, gt.label, gt.segments.tolist())] == [
        ('a', 'run', 0, 3), ('a', 'run', 4, 10), ('a', 'run', 8, 9), ('a', 'swim', 5, 6), ('a', 'jump', 2, 3),
        ('v_b', 'jump', 0, 20), ('v_b', 'hop', 1, 2), ('test', 'run', 3, 4)]
    database = json.loads(output.read_text())['database']
    assert database['bare'] == {'subset': 'training', 'fps': 25, 'annotations': []}  # no true time remains
    assert database['a']['url'] == 'x' and database['a']['annotations'][3]['score'] == 0.3
    assert captured.err.splitlines() == ['warning: 3 of 8 detections end after their videos: are the times frames '
                                         'instead of seconds?',
                                         'warning: 1 video without "duration", which OpenTAD needs',
                                         'warning: 1 video without "frame", which OpenTAD needs: see --fps']


def test_the_file_has_the_keys_that_second_stages_need(files):
    database = {name: entry for name, entry in GT.items() if name != 'bare'}
    (files / 'gt.json').write_text(json.dumps({'database': database}))
    output = files / 'pseudo.json'
    assert main([str(files / 'gt.json'), str(files / 'd.json'), '-o', str(output), '--fps', '25']) == 0
    training = loaded(output, 'training')
    assert {name: video[:3] for name, video in training.items()} == {'a': (30, 300, 10), 'v_b': (25, 500, 20)}
    assert training['a'][3].shape == (5, 2)
    assert {name: video[:3] for name, video in loaded(output, 'testing').items()} == {'test': (25, 899, 30)}


def test_the_published_annotations_of_thumos14(tmp_path):
    """The released detections replace the annotations of their subset."""
    output = tmp_path / 'pseudo.json'
    assert main([str(golden_data.GT), str(golden_data.RELEASED), '-o', str(output), '--fps', '30',
                 '--min_score', '0.3', '--known_labels', '--top', '3']) == 0
    before, after = read_ground_truth(golden_data.GT), read_ground_truth(output)
    assert before.labels == after.labels and before.videos == after.videos and before.subsets == after.subsets
    known = set(zip(before.video.tolist(), before.label.tolist()))
    counts = Counter(zip(after.video.tolist(), after.label.tolist()))
    test = {v for v, subset in enumerate(after.subsets) if subset == 'test'}
    assert counts.keys() <= known and max(counts[pair] for pair in counts if pair[0] in test) == 3
    assert [counts[pair] for pair in sorted(known) if pair[0] not in test] == [
        count for pair, count in sorted(Counter(zip(before.video.tolist(), before.label.tolist())).items())
        if pair[0] not in test]


@pytest.mark.parametrize(('change', 'words'), [
    (['--min_score', '7'], 'no detection is left'), (['--subset', 'testing'], "no video with detections is in"),
    (['--top', '0'], '--top'), (['-o', 'gt.json'], 'would be overwritten'), (['-o', 'other.json'], 'another kind'),
    (['--fps', '0'], '--fps')])
def test_bad_usage_gives_one_line_and_writes_nothing(files, capsys, monkeypatch, change, words):
    monkeypatch.chdir(files)
    (files / 'other.json').write_bytes((files / 'd.json').read_bytes())
    before = {path: path.read_bytes() for path in files.iterdir()}
    try:
        status = main(['gt.json', 'd.json', '-o', 'new.json', *change])
    except SystemExit as end:
        status = end.code
    message = capsys.readouterr().err
    assert status == 2 and message.startswith('error: ') and message.count('\n') == 1 and words in message
    assert {path: path.read_bytes() for path in files.iterdir()} == before


def test_detections_of_several_subsets_need_a_subset(files, capsys):
    (files / 'd.json').write_text(json.dumps({'results': {**DETECTIONS, 'test': [row('run', 0, 1, 1)], 'who': []}}))
    command = [str(files / 'gt.json'), str(files / 'd.json'), '-o', str(files / 'new.json'), '--fps', '25']
    assert main(command) == 2
    assert "'training' (2 videos) and 'testing' (1 video)" in capsys.readouterr().err
    assert main([*command, '--subset', 'train']) == 0
    error = capsys.readouterr().err
    assert 'warning: 2 videos with detections ignored: in another subset or not in the ground truth' in error
    assert read_ground_truth(files / 'new.json').segments[-1].tolist() == [3, 4]
