"""The pages: every example in Python runs unchanged, from another folder; every command on small files."""
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_docs import PAGES, commands, program_of, text_of
from test_main import TINY, train, write_data

from dataset import uniform_indices
from eval.detection import main
from eval.localization import LocalizationOptions, localize
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
    np.save(folder / 'video.npy', rng.normal(size=(40, 12)).astype(np.float16))
    torch.manual_seed(0)
    torch.save(network().state_dict(), folder / 'best.pt')
    (folder / 'labels.txt').write_text('a\nb\nc\n')
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


def test_the_table_in_pandas_has_all_detections(folder):
    rows = json.loads((folder / 'detections.json').read_text())['results']
    expected = [[video, row['label'], *row['segment'], row['score']]
                for video, detections in rows.items() for row in detections]
    save = "table.to_json('table.json', orient='values', double_precision=15)"
    run(folder, EXAMPLES[2], save)
    found = json.loads((folder / 'table.json').read_text())
    assert [row[:2] for row in found] == [row[:2] for row in expected]
    np.testing.assert_allclose([row[2:] for row in found], [row[2:] for row in expected])


def test_two_files_are_scored_as_by_the_command(folder, capsys):
    assert main([str(folder / 'gt.json'), str(folder / 'detections.json'), '--tiou', '0.3', '0.5', '0.7',
                 '--output', str(folder / 'results.json')]) == 0
    expected = json.loads((folder / 'results.json').read_text())
    found = run(folder, EXAMPLES[3], 'print(scores.average, *scores.mean_ap)')
    assert [*map(float, found.split())] == [expected['average_mAP'], *expected['mAP'].values()]
    assert 0 < expected['average_mAP'] < 1


def test_two_dictionaries_are_scored(folder):
    assert run(folder, EXAMPLES[4]) == '1.0\n'


def test_an_array_of_features_is_localized(folder):
    found = run(folder, EXAMPLES[0].replace('/path/to/this/repository', str(ROOT)))
    lines = sorted((label, *map(float, numbers)) for label, *numbers in map(str.split, found.splitlines()))
    trained = network().eval()
    trained.load_state_dict(torch.load(folder / 'best.pt', weights_only=True))
    features = torch.from_numpy(np.load(folder / 'video.npy')[uniform_indices(40, 750)]).float()
    with torch.inference_mode():
        out = trained(features[None])
    expected = localize(out.selection.numpy(), out.video_logits.softmax(1).numpy(), np.array([40]), THUMOS14)
    rows = sorted(zip(['abc'[i] for i in expected.label], *expected.segments.T, expected.scores))
    assert [row[0] for row in lines] == [row[0] for row in rows] and rows
    np.testing.assert_allclose([row[1:] for row in lines], [row[1:] for row in rows], rtol=1e-5, atol=1e-6)


def test_a_trainer_takes_a_step_on_a_batch_of_the_caller(folder):
    assert re.match(r'Losses\(total=\d', run(folder, EXAMPLES[1]))
    assert torch.load(folder / 'trained.pt', weights_only=True).keys() == network().state_dict().keys()


def test_the_backbone_of_the_page_returns_a_row_per_stride(monkeypatch):
    example, = re.findall(r'```python\n(.*?)```', text_of(ROOT / 'docs' / 'videos.md'), re.S)
    network = SimpleNamespace(module=lambda: lambda clip: clip.mean(dim=(2, 3, 4)))
    monkeypatch.setattr(torch.export, 'load', lambda path: network)
    names: dict = {}
    exec(example, names)
    frames = np.full((40, 4, 4, 3), 255, np.uint8) * np.arange(40)[:, None, None, None] // 39
    found = names['rows'](frames.astype(np.uint8), 8)
    assert found.shape == (4, 3)
    np.testing.assert_allclose(found[1, 0], np.mean([255 * i // 39 for i in range(8, 24)]) / 255, rtol=1e-6)


# ---- commands --------------------------------------------------------------------------------------------------------

PLACES = {'/data/THUMOS14': 'thumos14', '/data/THUMOS14/features/train': 'thumos14/features/train', 'NAME': 'test_0',
          'SOURCE': 'thumos14/features', 'FILE': 'thumos14/gt.json', 'DEST': 'converted', 'F': '25', 'n': '16'}


def runnable() -> list[list[str]]:
    """Return the commands of all pages that need neither videos nor a GPU: programs and arguments.

    A command is left out where a later one has the same files and more flags, or for the sample, see test_sample.py.
    """
    found: list[list[str]] = []
    for words in reversed([words for page in PAGES for words in commands(page)]):
        program, arguments = program_of(words)
        is_ours = program == 'main.py' or program.startswith(('eval.', 'scripts.convert'))
        if (words[0] == 'python' and is_ours and arguments[1:] and 'data/sample' not in arguments and
                not any(program == other[0] and {*arguments} <= {*other} for other in found)):
            found.insert(0, [program, *arguments])
    return found


@pytest.fixture(scope='module')
def workspace(tmp_path_factory) -> Path:
    """A folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp('workspace')
    data = write_data(folder / 'thumos14')
    shutil.copytree(data / 'features' / 'test', folder / 'new_features')
    for name in ('mine', 'DIR'):
        shutil.copytree(data / 'features' / 'train', folder / name / 'features' / 'train')
        (folder / name / 'labels.csv').write_text('video,label\n' + ''.join(
            f'train_{i},{"Run" if i % 2 else "Jump"}\n' for i in range(5)))
    first = train(data, folder / 'outputs' / 'first')
    for name in ('gt.json', 'curves.npz', 'detections.json', 'events.csv', 'best.pt', 'baseline.json', 'aicl.json'):
        source = {'gt.json': data / 'gt.json', 'baseline.json': first / 'detections.json',
                  'aicl.json': first / 'detections.json'}
        shutil.copy(source.get(name, first / name), folder / name)
    for place in (folder, folder / 'outputs' / 'AICL'):
        place.mkdir(exist_ok=True)
        shutil.copy(first / 'best.pt', place / 'CAS_Only.pkl')
    for name in ('args.json', 'labels.txt'):
        shutil.copy(first / name, folder / name)
    for name, weight in (('full', 0.01), ('base', 0)):
        run = shutil.copytree(first, folder / 'outputs' / f'{name}-seed1')
        settings = json.loads((run / 'args.json').read_text())
        (run / 'args.json').write_text(json.dumps({**settings, 'exp_name': run.name, 'lambda_contrast': weight}))
    (folder / 'extraction.json').write_text(json.dumps({'videos': {f'test_{i}': {'duration': 20} for i in range(3)}}))
    (folder / 'clips').mkdir()
    for split, count in (('train', 5), ('test', 3)):
        for i in range(count):
            (folder / 'clips' / f'{split}_{i}.mp4').write_bytes(b'a video')
    return folder


def test_commands_end_without_an_error(workspace, monkeypatch, capsys):
    monkeypatch.chdir(workspace)
    num_steps = 6
    for program, *arguments in runnable():
        words = [PLACES.get(word, word) for word in arguments]
        if program == 'main.py' and '--check' not in words:
            words += [] if '--resume' in words else TINY
            if '--inference_only' not in words:
                num_steps += 2
                words += ['--num_steps', str(num_steps)]
        monkeypatch.setattr(sys, 'argv', [program, *words])
        with monkeypatch.context() as patch:
            patch.syspath_prepend(ROOT)
            module = importlib.import_module(program.removesuffix('.py').replace('/', '.'))
            status = module.main()
        printed = capsys.readouterr()
        assert status in (0, None), (program, words, printed.err)
        for flag, path in zip(words, words[1:]):
            assert flag not in ('-o', '--output', '--figure', '--csv', '--markdown', '--latex') or Path(path).exists()
