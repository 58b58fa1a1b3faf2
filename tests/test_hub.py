"""hubconf.py and engine/localizer.py: torch.hub's way to trained weights, for arrays of features."""
import ast
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from data_folders import error_of
from test_layout import MODULES, SOURCES
from test_main import CLASSES, localize, train, write_data

from config import parse_args
from dataset import Normalization
from engine.inference import EvaluatorOptions
from engine.localizer import Localizer
from hubconf import dependencies as DEPENDENCIES
from model import AICL

ROOT = Path(__file__).resolve().parents[1]
ARGV = ['--data_path', 'none', '--exp_name', 'none', '--num_segments', '16', '--scale', '4', '--dataset', 'thumos14']


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A data folder and a run on it, with a normalization and with settings that differ from the recipe."""
    folder = tmp_path_factory.mktemp('hub')
    data = write_data(folder / 'data')
    train(data, folder / 'outputs' / 'run', '--normalize', '--class_th', 0.2, '--feature_fps', 30, '--min_score', 0.3)
    return data, folder / 'outputs' / 'run'


def features_of(data, name):
    return [np.load(data / 'features' / 'test' / stream / f'{name}.npy') for stream in ('rgb', 'flow')]


def load(weights, **settings):
    return torch.hub.load(str(ROOT), 'aicl', source='local', weights=weights, **settings)


def untrained(class_names=('a', 'b'), width=3, modalities=('rgb', 'flow'), feature_fps='25', normalization=None):
    torch.manual_seed(0)
    options = EvaluatorOptions.from_args(parse_args([*ARGV, '--feature_fps', feature_fps]))
    network = AICL(width, len(class_names), 8, fusion_weight=1 / 3, topk_ratio=8, modalities=modalities)
    return Localizer(network, list(class_names), options, normalization).eval()


# ---- results ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('settings', [{}, {'class_th': 0.0, 'soft_nms': False, 'min_score': -1.0, 'tiou': [0.3, 0.5]}])
def test_rows_are_those_of_the_command(run, tmp_path, settings):
    data, folder = run
    flags = [word for name, value in settings.items()
             for word in ([f'--no-{name}'] if value is False else
                          [f'--{name}', *value] if isinstance(value, list) else [f'--{name}={value}'])]
    found = localize(data, folder / 'best.pt', tmp_path / 'found', '--batch_size', 1, *flags)
    model = load(folder / 'best.pt', **settings)
    assert not model.training and model.class_names == CLASSES
    results = json.loads((found / 'detections.json').read_text())['results']
    events = [line.split(',') for line in (found / 'events.csv').read_text().splitlines()[1:]]
    assert len(results) == 3 and events
    for name, expected in results.items():
        streams = features_of(data, name)
        rows = model.localize(np.concatenate(streams, axis=1))
        assert rows == model.localize(streams) == model.localize([torch.from_numpy(stream) for stream in streams])
        assert sorted(rows) == sorted((row['label'], *row['segment'], row['score']) for row in expected)
        assert [row.start for row in rows] == sorted(row.start for row in rows)
        of_video = [(label, *map(float, numbers)) for video, label, *numbers in events if video == name]
        for row, other in zip(model.events(streams), of_video, strict=True):
            assert (row.label, row[1:]) == (other[0], pytest.approx(other[1:], abs=6e-5))


def test_a_duration_or_a_frame_rate_changes_the_times_of_one_call(run):
    data, folder = run
    model, streams = load(folder / 'best.pt'), features_of(data, 'test_0')
    rows = model.localize(streams)
    length = len(streams[0]) * 16 / 30
    for options, factor in (({'duration': 3 * length}, 3), ({'fps': 60}, 1 / 2),
                            ({'fps': 60, 'duration': length / 2}, 1 / 2)):
        changed = model.localize(streams, **options)
        assert [row.label for row in changed] == [row.label for row in rows]
        assert max(row.end for row in changed) == pytest.approx(factor * max(row.end for row in rows))
    assert model.localize(streams) == rows


def test_the_rate_of_each_video_must_be_given_where_the_run_uses_it():
    model, features = untrained(feature_fps='video'), np.ones((30, 6))
    assert '--feature_fps video' in error_of(model.localize, features)
    assert model.localize(features, fps=25) == untrained().localize(features)


def test_the_class_of_negative_videos_is_not_detected():
    features = np.random.RandomState(0).randn(40, 6)
    rows = untrained(['a', 'b']).localize(features)
    assert {row.label for row in rows} == {'a', 'b'}
    assert untrained(['', 'b']).localize(features) == [row for row in rows if row.label == 'b']


def test_the_module_normalizes_and_moves_with_its_parameters():
    rng = np.random.RandomState(0)
    features, mean, deviation = rng.randn(40, 6), rng.randn(6).astype(np.float32), np.full(6, 2, np.float32)
    normalized = untrained(normalization=Normalization(mean, deviation)).double()
    plain = untrained().double()
    expected = plain.localize((np.float32(features) - mean) / deviation)
    for row, other in zip(normalized.localize(features), expected, strict=True):
        assert row.label == other.label and row[1:] == pytest.approx(other[1:], abs=1e-5)
    assert set(normalized.state_dict()) == set(plain.state_dict())


@pytest.mark.parametrize('features, reason', [
    (np.ones((5, 7)), r'\(L, 6\).*\(L, 3\) each.*\[\(5, 7\)\]'),
    (np.ones((5, 3)), 'array'),
    (np.ones((1, 5, 6)), 'array'),
    (np.ones((0, 6)), 'array'),
    ([np.ones((5, 3))], 'array'),
    ([np.ones((5, 3)), np.ones((9, 3))], '5 rgb rows but 9 flow rows'),
    (np.ones((5, 6), int), 'floating point'),
    (np.full((5, 6), np.nan), 'NaN or infinite in row 0'),
    (np.full((5, 6), 1e300), 'NaN or infinite in row 0'),
    (3.0, 'array'),
    ([], 'array')])
def test_features_that_do_not_fit_are_refused(features, reason):
    with pytest.raises(Exception, match=reason) as error:
        untrained().localize(features)
    assert type(error.value).__name__ == 'InputError' and '\n' not in str(error.value)


@pytest.mark.parametrize('option', [{'duration': 0}, {'fps': -25}, {'duration': float('nan')}, {'fps': float('inf')}])
def test_times_must_be_positive(option):
    assert 'positive' in error_of(untrained().localize, np.ones((5, 6)), **option)


def test_streams_that_differ_by_a_row_are_truncated():
    rgb, flow = np.random.RandomState(0).randn(2, 30, 3)
    assert untrained().localize([rgb, flow[:29]]) == untrained().localize(np.hstack([rgb[:29], flow[:29]]))


def test_one_stream():
    model = untrained(modalities=('flow',))
    features = np.random.RandomState(0).randn(30, 3)
    assert model.localize(features) == model.localize([features]) != []


@pytest.mark.parametrize('settings, reason', [
    ({'class_th': 2}, '--class_th'), ({'clas_th': 0.1}, '--class_th'), ({'dataset': 'x'}, 'thumos14')])
def test_invalid_settings_raise_instead_of_exiting(run, capsys, settings, reason):
    assert reason in error_of(Localizer.load, run[1] / 'best.pt', **settings)
    assert capsys.readouterr() == ('', '')


def test_a_missing_file_and_other_weights(run, tmp_path):
    assert 'cannot be read' in error_of(Localizer.load, tmp_path / 'best.pt')
    torch.save({'x': torch.zeros(2)}, tmp_path / 'best.pt')
    assert 'not weights of AICL' in error_of(Localizer.load, tmp_path / 'best.pt')
    (tmp_path / 'best.pt').write_bytes((run[1] / 'best.pt').read_bytes())
    (tmp_path / 'args.json').write_bytes((run[1] / 'args.json').read_bytes())
    assert 'normalization.npz' in error_of(Localizer.load, tmp_path / 'best.pt')


# ---- isolation -------------------------------------------------------------------------------------------------------

HOSTILE = ['utils', 'config', 'model', 'dataset', 'losses', 'main', 'eval', 'engine.localizer', 'formats']
NOTEBOOK = '''
import sys
assert sys.path[0] == ''
import utils, engine  # the user's
theirs = {name: module for name, module in sys.modules.items()}
path, meta_path = list(sys.path), len(sys.meta_path)
import torch, numpy as np
packages = lambda: {name.split('.')[0] for name, module in sys.modules.items()
                    if '-packages' in (getattr(module, '__file__', None) or '')}
installed = packages()
model = torch.hub.load(sys.argv[1], 'aicl', source='local', weights=sys.argv[2])
rows = model.localize(np.load('video.npy'))
import model as user_model, eval
assert all(sys.modules[name] is module for name, module in theirs.items()), 'replaced'
assert {module.MARK for module in (utils, engine, user_model, eval)} == {'user'}
assert sys.path == path
again = torch.hub.load(sys.argv[1], 'aicl', source='local', weights=sys.argv[2])
assert type(again) is type(model) and len(sys.meta_path) == meta_path + 1
import copy, pickle
assert copy.deepcopy(model).localize(np.load('video.npy')) == rows
assert pickle.loads(pickle.dumps(rows)) == rows
print(len(rows), *sorted({row.label for row in rows}), *packages() - installed)
'''


def test_modules_of_the_user_with_the_same_names_do_no_harm(run, tmp_path):
    data, folder = run
    for name in HOSTILE:
        path = tmp_path / f'{name.replace(".", "/")}.py' if name != 'eval' else tmp_path / 'eval' / '__init__.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text("MARK = 'user'\n" if name in ('utils', 'eval', 'model') else 'raise SystemExit(3)\n')
    (tmp_path / 'engine' / '__init__.py').write_text("MARK = 'user'\n")
    for name in ('labels.csv', 'args.json', 'labels.txt', 'gt.json'):  # of other data
        (tmp_path / name).write_text('other\n')
    np.save(tmp_path / 'video.npy', np.concatenate(features_of(data, 'test_0'), axis=1))
    expected = Localizer.load(folder / 'best.pt').localize(np.load(tmp_path / 'video.npy'))
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    ended = subprocess.run([sys.executable, '-c', NOTEBOOK, str(ROOT), str(folder / 'best.pt')], cwd=tmp_path,
                           capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stderr) == (0, '')
    count, *words = ended.stdout.split()
    assert int(count) == len(expected)
    assert {row.label for row in expected} <= {*words} <= {*CLASSES, *DEPENDENCIES}


def test_the_archive_that_torch_hub_downloads(run, tmp_path, monkeypatch):
    def download(url, path, progress=True):
        assert url == 'https://github.com/owner/aicl/zipball/main'
        with zipfile.ZipFile(path, 'w') as archive:  # as GitHub's: one folder
            archive.writestr('owner-aicl-0123abc/', '')
            for name in SOURCES:
                archive.write(ROOT / name, f'owner-aicl-0123abc/{name}')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    model = torch.hub.load('owner/aicl:main', 'aicl', weights=run[1] / 'best.pt', trust_repo=True, verbose=False,
                           skip_validation=True)
    streams = features_of(run[0], 'test_1')
    assert model.localize(streams) == Localizer.load(run[1] / 'best.pt').localize(streams)
    assert type(model) is not type(load(run[1] / 'best.pt'))  # another copy of the repository


def test_modules_are_imported_by_from():
    """hubconf.py changes `from X import Y` only."""
    tops = {name.split('.')[0] for name in MODULES}
    wrong = [f'{module}:{node.lineno}' for module, tree in MODULES.items() for node in ast.walk(tree)
             if isinstance(node, ast.Import) and any(alias.name.split('.')[0] in tops for alias in node.names)
             and module.split('.')[0] not in ('scripts', 'benchmarks', 'examples')]
    assert not wrong
