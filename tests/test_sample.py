"""The synthetic sample: the same bytes for the same seed, the THUMOS14 layout, and the documented structure."""
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from dataset import VideoDataset
from formats.annotations import read_ground_truth
from formats.data_folder import find_split

SCRIPT = Path(__file__).resolve().parents[1] / 'scripts' / 'make_sample.py'
specification = importlib.util.spec_from_file_location('make_sample', SCRIPT)
make_sample = importlib.util.module_from_spec(specification)
specification.loader.exec_module(make_sample)


def sha256_of(folder: Path) -> str:
    """Return one hash of the names and bytes of all files."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob('*')):
        if path.is_file():
            total.update(f'{path.relative_to(folder)}\0'.encode() + path.read_bytes())
    return total.hexdigest()


def run(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, SCRIPT, *map(str, args)], capture_output=True, text=True)


class Sample:
    """The sample as read from its files."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.database = json.loads((folder / 'gt.json').read_text())['database']
        self.names = {s: (folder / f'split_{s}.txt').read_text().split() for s in ('train', 'test')}
        self.features = {name: [np.load(folder / 'features' / s / stream / f'{name}.npy') for stream in ('rgb', 'flow')]
                         for s, names in self.names.items() for name in names}

    def actions(self, name: str) -> list[tuple[str, float, float]]:
        """Return (label, start, end) in snippets."""
        annotations = self.database[name]['annotations']
        return [(a['label'], a['segment'][0] / 0.64, a['segment'][1] / 0.64) for a in annotations]

    def masks(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the snippets well inside an action, and those well outside of all actions, both (L,) bool."""
        center = np.arange(len(self.features[name][0])) + 0.5
        inside, near = np.zeros((2, len(center)), bool)
        for _, start, end in self.actions(name):
            inside |= (center > start + 0.5) & (center < end - 0.5)
            near |= (center > start - 2) & (center < end + 2)
        return inside, ~near


@pytest.fixture(scope='module')
def sample(tmp_path_factory) -> Sample:
    folder = tmp_path_factory.mktemp('data') / 'sample'
    assert make_sample.write_sample(folder)
    return Sample(folder)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


# ---- writing --------------------------------------------------------------------------------------------------------

def test_same_seed_gives_the_same_bytes(sample, tmp_path):
    assert run(tmp_path / 'again').returncode == 0
    assert run(tmp_path / 'other', '--seed', 1).returncode == 0
    assert sha256_of(tmp_path / 'again') == sha256_of(sample.folder)
    assert sha256_of(tmp_path / 'other') != sha256_of(sample.folder)


def test_a_complete_sample_is_not_written_again(sample):
    before = (sample.folder / 'gt.json').stat()
    ended = run(sample.folder)
    assert ended.returncode == 0 and 'synthetic' in ended.stdout
    assert (sample.folder / 'gt.json').stat().st_mtime_ns == before.st_mtime_ns


def test_another_sample_is_replaced_and_nothing_is_left_over(sample, tmp_path):
    for seed in (1, 0):
        assert make_sample.write_sample(tmp_path / 'sample', seed)
    assert sha256_of(tmp_path / 'sample') == sha256_of(sample.folder)
    assert [path.name for path in tmp_path.iterdir()] == ['sample']


@pytest.mark.parametrize('seed', ['-1', str(2 ** 32), 'nan'])
def test_an_invalid_seed_is_refused(tmp_path, seed):
    refused = run(tmp_path / 'sample', '--seed', seed)
    assert refused.returncode == 2 and 'argument --seed: ' in refused.stderr and 'Traceback' not in refused.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('content', ['', '[]', '{"version": "1.3", "database": {}}'])
def test_a_folder_of_something_else_is_refused_and_not_changed(tmp_path, content):
    (tmp_path / 'gt.json').write_text(content)
    refused = run(tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith('error: ') and str(tmp_path) in refused.stderr and refused.stderr.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['gt.json'] and (tmp_path / 'gt.json').read_text() == content


def test_an_interrupted_write_leaves_no_sample(tmp_path, monkeypatch):
    saved = []

    def save(path, array):
        saved.append(path)
        if len(saved) == 50:
            raise KeyboardInterrupt

    monkeypatch.setattr(make_sample.np, 'save', save)
    with pytest.raises(KeyboardInterrupt):
        make_sample.write_sample(tmp_path / 'sample')
    assert not list(tmp_path.iterdir())


def test_several_writers_at_once_leave_one_complete_sample(sample, tmp_path):
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(run, [tmp_path / 'sample'] * 3))
    assert [e.returncode for e in ended] == [0, 0, 0], [e.stderr for e in ended]
    assert sha256_of(tmp_path / 'sample') == sha256_of(sample.folder)
    assert [path.name for path in tmp_path.iterdir()] == ['sample']


# ---- layout ---------------------------------------------------------------------------------------------------------

def test_the_program_reads_it(sample):
    gt = read_ground_truth(sample.folder / 'gt.json')
    assert gt.labels == sorted(make_sample.CLASSES)
    for split, count in (('train', 60), ('test', 30)):
        data = VideoDataset(find_split(sample.folder, split, gt, gt.labels, ('rgb', 'flow')), 'auto')
        assert data.names == sample.names[split] and len(data) == count
        assert data.feature_dim == 64
        assert data.labels.any(dim=0).all()  # each class is in both splits


def test_features_are_of_the_right_kind(sample):
    total = 0
    for rgb, flow in sample.features.values():
        assert rgb.dtype == flow.dtype == np.float32 and rgb.shape == flow.shape and rgb.shape[1] == 64
        assert rgb.min() >= 0 and flow.min() >= 0 and np.isfinite(rgb).all() and np.isfinite(flow).all()
        total += rgb.nbytes + flow.nbytes
    lengths = [len(rgb) for rgb, _ in sample.features.values()]
    assert 20 <= min(lengths) < 40 and 300 < max(lengths) <= 400
    assert total < 60e6


def test_annotations_are_sound(sample):
    assert set(sample.database) == set(sample.features)
    for name, video in sample.database.items():
        assert name in sample.names[video['subset']]
        assert video['duration'] == pytest.approx(0.64 * len(sample.features[name][0]), abs=0.01)
        segments = [a['segment'] for a in video['annotations']]
        assert segments == sorted(segments) and 0 <= segments[0][0] and segments[-1][1] <= video['duration']
        assert all(end < start for (_, end), (start, _) in zip(segments, segments[1:]))


# ---- structure ------------------------------------------------------------------------------------------------------

def test_actions_are_short_and_long_and_never_most_of_a_video(sample):
    lengths = [end - start for name in sample.features for _, start, end in sample.actions(name)]
    assert 1.97 < min(lengths) < 3 and 20 < max(lengths) < 30.03
    fraction = [sum(end - start for _, start, end in sample.actions(name)) / len(sample.features[name][0])
                for name in sample.features]
    assert 0.1 < np.mean(fraction) < 0.3 and max(fraction) < 0.6


def test_some_videos_have_two_labels(sample):
    for names in sample.names.values():
        counts = [len({label for label, _, _ in sample.actions(name)}) for name in names]
        assert set(counts) == {1, 2}
        assert 0.15 < np.mean(np.array(counts) == 2) < 0.35


def test_background_shows_the_scene_of_the_action(sample):
    """The rgb of background and action of a video are similar, and the background predicts the class above chance."""
    similarities, background_of = [], {}
    for name, (rgb, _) in sample.features.items():
        inside, outside = sample.masks(name)
        background_of[name] = rgb[outside].mean(0)
        if inside.any():
            similarities.append(cosine(rgb[inside].mean(0), background_of[name]))
    assert np.median(similarities) > 0.85

    by_class = defaultdict(list)
    for name in sample.names['train']:
        by_class[sample.actions(name)[0][0]].append(background_of[name])
    typical = {label: np.median(vectors, axis=0) for label, vectors in by_class.items()}
    right = [max(typical, key=lambda label: cosine(typical[label], background_of[name])) == sample.actions(name)[0][0]
             for name in sample.names['test']]
    assert np.mean(right) > 2 / len(typical)


def test_motion_predicts_the_action_and_background_moves_too(sample):
    """The mean flow of a class in training locates its actions in test videos, the strength of motion less well."""
    motion = defaultdict(list)
    for name in sample.names['train']:
        flow = sample.features[name][1]
        for label, start, end in sample.actions(name):
            motion[label].append(flow[int(start) + 1:max(int(end), int(start) + 2)].mean(0) - flow.mean(0))
    motion = {label: np.mean(vectors, axis=0) for label, vectors in motion.items()}

    by_class, by_strength = [], []
    for name in sample.names['test']:
        flow, (inside, outside) = sample.features[name][1], sample.masks(name)
        label = sample.actions(name)[0][0]
        if len({a[0] for a in sample.actions(name)}) == 1 and inside.any():
            for scores, areas in ((flow @ motion[label], by_class), (np.linalg.norm(flow, axis=1), by_strength)):
                areas.append(np.mean(scores[inside][:, None] > scores[outside]))  # area under the ROC curve
    assert np.mean(by_class) > 0.95
    assert 0.5 < np.mean(by_strength) < np.mean(by_class) - 0.1
