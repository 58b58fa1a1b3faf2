"""ActivityNet 1.3 with its real annotations and synthetic features: the same result in every layout."""
import json

import numpy as np
import pytest
from golden_data import GOLDEN

import main
from utils import read_json

WIDTH = 4  # features per modality
FLAGS = ['--dataset', 'activitynet1.3', '--num_segments', 10, '--hidden_dim', 8, '--num_steps', 3, '--batch_size', 16,
         '--detection_inf_step', 'never', '--figures', 0, '--device', 'cpu', '--exp_name', 'run']


@pytest.fixture(scope='module')
def database():
    """Return a part of the validation subset: a training video of each class, 60 validation and 5 test videos."""
    chosen, classes, others = {}, set(), 5 * ['testing'] + 60 * ['validation']
    for name, video in read_json(GOLDEN / 'activitynet1.3.json.gz')['database'].items():
        labels = {row['label'] for row in video['annotations']}
        if labels - classes:
            classes |= labels
            chosen[name] = {**video, 'subset': 'training'}
        elif others:
            chosen[name] = {**video, 'subset': others.pop()}
            if chosen[name]['subset'] == 'testing':
                chosen[name]['annotations'] = []
    assert len(classes) == 200 and not others
    return chosen


# Base folder, split folders, layout, prefixes of names in files, lists (None: no lists) and gt.json, subset spelling.
LAYOUTS = {
    'two-stream': ('features/{}', {'validation': 'test', 'training': 'train'}, 'two-stream', '', 'v_', '', str),
    'joint': ('{}', {'validation': 'validation', 'training': 'train'}, 'joint', 'v_', '', '', str.title),
    'joint, other spellings': ('features/{}', {'validation': 'test', 'training': 'train'}, 'joint', '', '', 'v_',
                               {'training': 'Train', 'validation': 'val', 'testing': 'Test'}.get),
    'without lists': ('{}', {'validation': 'val', 'training': 'train'}, 'two-stream', 'v_', None, '', str.upper),
}


def write(root, database, how):
    """Write the data set; ten annotated validation videos have no features and are in no list."""
    base, folders, layout, file_prefix, list_prefix, gt_prefix, spelling = LAYOUTS[how]
    names, num_excluded = {'training': [], 'validation': []}, 0
    for i, (name, video) in enumerate(database.items()):
        if video['subset'] not in names or not video['annotations']:
            continue
        if video['subset'] == 'validation' and num_excluded < 10:
            num_excluded += 1
            continue
        names[video['subset']].append(name)
        rng = np.random.RandomState(i)
        seconds = video['duration'] or max(float(row['segment'][1]) for row in video['annotations'])
        features = rng.rand(max(1, int(seconds / 0.64)), 2 * WIDTH).astype(np.float16)
        parts = {'.': features} if layout == 'joint' else {'rgb': features[:, :WIDTH], 'flow': features[:, WIDTH:]}
        for part, columns in parts.items():
            path = root / base.format(folders[video['subset']]) / part / f'{file_prefix}{name}.npy'
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, columns)
    if list_prefix is not None:
        for split, subset in (('train', 'training'), ('test', 'validation')):
            (root / f'split_{split}.txt').write_text('\n'.join(list_prefix + name for name in names[subset]))
    (root / 'gt.json').write_text(json.dumps({'database': {
        gt_prefix + name: {**video, 'subset': spelling(video['subset'])} for name, video in database.items()}}))


def test_the_result_is_the_same_in_every_layout(database, tmp_path, capsys):
    results = {}
    for cache, how in zip(('ram', 'none', 'auto', 'ram'), LAYOUTS):
        root, output = tmp_path / how, tmp_path / f'{how} output'
        root.mkdir()
        write(root, database, how)
        assert main.main(['--data_path', str(root), '--check']) == 0
        report = capsys.readouterr().out
        assert '200 classes' in report and 'TIME BASE' not in report and 'fine: ready to train' in report
        flags = [*FLAGS, '--data_path', root, '--output_dir', output, '--cache', cache]
        assert main.main(list(map(str, flags))) == 0
        warned = [line for line in capsys.readouterr().err.splitlines() if 'left out' in line]
        assert len(warned) == (how == 'without lists')
        assert not warned or '10 of the 60 test videos in subset validation have no features' in warned[0]
        run = output / 'run'
        detections = json.loads((run / 'detections.json').read_text())['results']
        assert len(detections) == 50 and any(detections.values())
        results[how] = [(run / name).read_text() for name in ('losses.csv', 'metrics.csv', 'labels.txt')]
        results[how].append({name.removeprefix(LAYOUTS[how][5]): rows for name, rows in detections.items()})
    first = results['two-stream']
    classes = first[2].splitlines()
    assert classes == sorted(classes) and len(classes) == 200
    for how, result in results.items():
        assert result == first, how
