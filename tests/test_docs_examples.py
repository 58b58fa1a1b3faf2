"""docs/results.md: every example runs unchanged, from another folder, with the results of the commands."""
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset import uniform_indices
from eval.detection import main
from eval.localization import LocalizationOptions, localize
from formats.detections import read_detections, write_detections_csv
from model import AICL

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'results.md').read_text(encoding='utf-8'), re.S)

THUMOS14 = LocalizationOptions(class_th=0.25, scale=24, oic_margin=0.2, oic_class_weight=0.2, nms_thresh=0.4,
                               nms_alpha=0.35, soft_nms=True, feature_fps=25, snippet_frames=16)


def network():
    return AICL(6, 3, 512, fusion_weight=1 / 3, topk_ratio=8)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('elsewhere')
    rng = np.random.default_rng(0)
    gt = {f'v{i}': {'subset': subset, 'annotations': [{'label': label, 'segment': [i, i + 3]} for label in 'ab']}
             for i, subset in enumerate(['training', 'testing', 'testing'])}
    rows = {f'v{i}': [{'label': label, 'score': float(rng.random()), 'segment': [float(i + shift), i + 3.0]}
                      for label in 'abc' for shift in rng.random(4)] for i in (1, 2)}
    (folder / 'gt.json').write_text(json.dumps({'database': gt}))
    (folder / 'detections.json').write_text(json.dumps({'results': rows}))
    write_detections_csv(folder / 'detections.csv', read_detections(folder / 'detections.json'))
    np.save(folder / 'video.npy', rng.normal(size=(40, 12)).astype(np.float16))
    torch.manual_seed(0)
    torch.save(network().state_dict(), folder / 'best.pt')
    return folder


def run(folder: Path, example: str, last_line: str = '') -> str:
    """Return what an example prints; `last_line` replaces its print."""
    if last_line:
        example = example[:example.rindex('print(')] + last_line
    ended = subprocess.run([sys.executable, '-c', example], cwd=folder, capture_output=True, text=True,
                           env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return ended.stdout


def test_examples_are_short():
    assert len(EXAMPLES) == 5
    for example in EXAMPLES:
        lines = [line for line in example.splitlines() if line and not re.match('import|from', line)]
        assert len(lines) < 10, example


def test_tables_in_pandas_have_all_detections(folder):
    rows = json.loads((folder / 'detections.json').read_text())['results']
    expected = [[video, row['label'], *row['segment'], row['score']]
                for video, detections in rows.items() for row in detections]
    save = "table.to_json('table.json', orient='values', double_precision=15)"
    for example in EXAMPLES[:2]:
        run(folder, example, save)
        found = json.loads((folder / 'table.json').read_text())
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        np.testing.assert_allclose([row[2:] for row in found], [row[2:] for row in expected])
    best = run(folder, EXAMPLES[0], "print(best.groupby(['video', 'label']).size().tolist())")
    assert best.split() == ['[3,'] + ['3,'] * 4 + ['3]']


def test_two_files_are_scored_as_by_the_command(folder, capsys):
    assert main([str(folder / 'gt.json'), str(folder / 'detections.json'), '--tiou', '0.3', '0.5', '0.7',
                 '--output', str(folder / 'results.json')]) == 0
    expected = json.loads((folder / 'results.json').read_text())
    found = run(folder, EXAMPLES[2], 'print(scores.average, *scores.mean_ap)')
    assert [*map(float, found.split())] == [expected['average_mAP'], *expected['mAP'].values()]
    assert 0 < expected['average_mAP'] < 1


def test_two_dictionaries_are_scored(folder):
    assert run(folder, EXAMPLES[3]) == '1.0\n'


def test_an_array_of_features_is_localized(folder):
    keep = 'np.savez("found.npz", *localize(*parts, EvaluatorOptions.from_args(args).localization))'
    found = run(folder, EXAMPLES[4], keep)
    assert not found
    trained = network().eval()
    trained.load_state_dict(torch.load(folder / 'best.pt', weights_only=True))
    features = torch.from_numpy(np.load(folder / 'video.npy')[uniform_indices(40, 750)]).float()
    with torch.inference_mode():
        out = trained(features[None])
    expected = localize(out.selection.numpy(), out.video_logits.softmax(1).numpy(), np.array([40]), THUMOS14)
    with np.load(folder / 'found.npz') as columns:
        for i, column in enumerate(expected):
            np.testing.assert_allclose(columns[f'arr_{i}'], column, rtol=1e-5, atol=1e-6)
    assert len(expected.scores) and expected.segments.max() <= 40 * 16 / 25
