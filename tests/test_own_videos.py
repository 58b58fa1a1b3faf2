"""From videos and tags to times: the rendered clips, their features, the settings, and what the scripts say."""
import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from data_folder import read_labels
from eval.detection import TIOU
from eval.files import Detections, read_ground_truth
from scripts import choose_settings, make_clips, score_clips, standardize
from utils import read_json

ROOT = Path(__file__).resolve().parents[1]


def decode(path: Path) -> np.ndarray:
    """The grey frames of a video, (F, H, W)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format='gray') for frame in container.decode(video=0)]).astype(float)


def refusal(capsys, module, *arguments: object) -> str:
    assert module.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    return error


def script(name: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
                                'OUTPUT_DIR': str(folder / 'outputs')}
    return subprocess.run(['bash', str(ROOT / 'scripts' / name), *map(str, arguments)], capture_output=True, text=True,
                          env=environment, cwd=folder, timeout=120)


# ---- clips ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('rendered') / 'clips'
    make_clips.write_clips(folder, {'train': 1, 'test': 3}, 8, 64, seed=3)
    return folder


@pytest.mark.parametrize('place', range(3))
def test_a_clip_moves_inside_its_true_times_and_hardly_outside(clips, place):
    truth = read_json(clips / 'gt.json')['database'][f'test_{place:03d}']
    frames = decode(clips / 'test' / f'test_{place:03d}.mp4')
    assert len(frames) == truth['duration'] * 25
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))    # from each frame to the next
    happens = np.zeros(len(changes), bool)
    for annotation in truth['annotations']:
        start, end = (round(25 * edge) for edge in annotation['segment'])
        assert 0 < start < end < len(frames)
        happens[start:end] = True
    second = np.convolve(changes, np.ones(12) / 12, 'valid')    # a swing stands still twice: means of half a second
    clear = np.convolve(happens, np.ones(12) / 12, 'valid')
    assert second[clear == 1].min() > 1.3 * second[clear == 0].max()


def test_clips_tell_labels_without_times_to_the_training_and_times_to_the_scoring(clips):
    rows = list(csv.reader(io.StringIO((clips / 'labels.csv').read_text())))
    assert rows == [['video', 'label'], ['train_000', 'Bounce']]
    assert read_labels(clips / 'labels.csv').videos == ['train_000']
    truth = read_ground_truth(clips / 'gt.json')
    assert truth.videos == ['test_000', 'test_001', 'test_002'] and set(truth.subsets) == {'test'}
    assert truth.labels == list(make_clips.MOTIONS)


def test_clips_are_those_of_their_seed_and_a_missing_one_is_rendered_again(clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / 'clips')
    before = (folder / 'test' / 'test_001.mp4').read_bytes()
    (folder / 'test' / 'test_001.mp4').unlink()
    weights = (folder / 'rgb.pt').stat().st_mtime_ns
    assert make_clips.write_clips(folder, {'train': 1, 'test': 3}, 8, 64, seed=3) == 1
    assert (folder / 'test' / 'test_001.mp4').read_bytes() == before
    assert (folder / 'rgb.pt').stat().st_mtime_ns == weights
    assert before != (folder / 'test' / 'test_002.mp4').read_bytes()


def test_clips_do_not_mix_with_others(clips, tmp_path, capsys):
    assert 'holds other clips' in refusal(capsys, make_clips, clips, '--seed', 4)
    (tmp_path / 'notes.txt').touch()
    assert 'holds something else' in refusal(capsys, make_clips, tmp_path)


# ---- features -------------------------------------------------------------------------------------------------------

@pytest.fixture
def features(tmp_path) -> Path:
    """A data folder of two training videos and a test video, three columns, of which the last never changes."""
    random = np.random.RandomState(0)
    folder = tmp_path / 'features'
    for split, name, length in (('train', 'a', 30), ('train', 'b', 12), ('test', 'c', 9)):
        for stream in ('rgb', 'flow'):
            place = folder / 'features' / split / stream
            place.mkdir(parents=True, exist_ok=True)
            rows = random.randn(length, 3).astype(np.float32) * [1, 40, 0] + [1000, 3, 7]
            np.save(place / f'{name}.npy', rows.astype(np.float32))
    (folder / 'labels.csv').write_text('video,label\na,Run\nb,Jump\n')
    return folder


def test_features_are_standardized_by_the_training_videos_alone(features, tmp_path, capsys):
    assert standardize.main([str(features), str(tmp_path / 'new')]) == 0
    for stream in ('rgb', 'flow'):
        train = np.concatenate([np.load(features / 'features' / 'train' / stream / f'{name}.npy') for name in 'ab'])
        test = np.load(features / 'features' / 'test' / stream / 'c.npy').astype(np.float64)
        mean, deviation = train[:, :2].mean(axis=0, dtype=np.float64), train[:, :2].std(axis=0, dtype=np.float64)
        found = np.load(tmp_path / 'new' / 'features' / 'test' / stream / 'c.npy')
        np.testing.assert_allclose(found[:, :2], (test[:, :2] - mean) / deviation, rtol=1e-4, atol=1e-5)
        assert found.dtype == np.float32 and not found[:, 2].any()
    assert (tmp_path / 'new' / 'labels.csv').read_text() == (features / 'labels.csv').read_text()


def test_features_that_cannot_be_standardized_are_named(features, tmp_path, capsys):
    assert 'is read by this command' in refusal(capsys, standardize, features, features)
    assert 'holds no streams' in refusal(capsys, standardize, tmp_path, tmp_path / 'new')
    (features / 'features' / 'train' / 'rgb' / 'b.npy').write_bytes(b'no array')
    assert 'b.npy: not a readable .npy file' in refusal(capsys, standardize, features, tmp_path / 'new')


@pytest.mark.parametrize('lengths, segments', [([3, 4], 20), ([25] * 36, 25), ([100] * 9 + [5000], 590),
                                               ([5000] * 3, 750)])
def test_segments_follow_the_lengths_within_bounds(lengths, segments):
    chosen = {flag: value for flag, value, _ in choose_settings.choose(lengths)}
    assert chosen['--num_segments'] == segments
    assert 1 <= chosen['--topk_ratio'] <= segments // 2


def test_settings_are_flags_on_stdout_and_reasons_on_stderr(features, tmp_path, capsys):
    assert choose_settings.main([str(features)]) == 0
    printed = capsys.readouterr()
    words = printed.out.split()
    assert words[::2] == ['--num_segments', '--topk_ratio', '--num_steps'] and words[1] == '29'    # 90 % of 12 and 30
    assert all(f'{flag} {value}: ' in printed.err for flag, value in zip(words[::2], words[1::2]))
    assert 'no features of training videos' in refusal(capsys, choose_settings, tmp_path)


# ---- scores ---------------------------------------------------------------------------------------------------------

def test_moving_the_truth_by_one_snippet_costs_map(clips):
    truth = read_ground_truth(clips / 'gt.json')
    exact = Detections(truth.videos, truth.labels, truth.video, truth.label, truth.segments,
                       np.ones(len(truth.segments)))
    assert score_clips.average(truth, exact) == 100
    overlap = [max(0, (end - start - 0.64) / (end - start + 0.64)) for start, end in truth.segments]
    found = np.mean([[np.mean([o >= t for o, label in zip(overlap, truth.label) if label == c]) for c in range(3)]
                     for t in TIOU])
    for seconds in (0.64, -0.64):
        # all of one score and one label a clip: AP is the share found, squared or less where false ones come first
        assert score_clips.average(score_clips.moved(truth, seconds), exact) <= 100 * found + 1e-9 < 100
    assert score_clips.chance(truth, exact) == 0    # the other clips show other motions


# ---- scripts --------------------------------------------------------------------------------------------------------

def test_scripts_say_what_is_missing(tmp_path):
    (tmp_path / 'videos').mkdir()
    (tmp_path / 'labels.csv').write_text('video,label\na,Run\n')
    (tmp_path / 'no_header.csv').write_text('a,Run\n')
    (tmp_path / 'best.pt').touch()
    for name, arguments, said in (
            ('own_videos.sh', ['videos'], 'give a folder of videos and a labels.csv'),
            ('own_videos.sh', ['videos', 'absent.csv'], 'absent.csv is no file'),
            ('own_videos.sh', ['absent', 'labels.csv'], 'absent is no folder'),
            ('own_videos.sh', ['videos', 'no_header.csv'], 'its first line must be the header'),
            ('own_videos.sh', ['videos', 'labels.csv'], 'the weights of I3D are not part of this program'),
            ('localize.sh', ['videos'], 'give the trained weights'),
            ('localize.sh', ['--model_file', 'absent.pt', 'videos'], 'absent.pt: no such file'),
            ('localize.sh', ['--model_file', 'best.pt'], 'give videos')):
        ended = script(name, *arguments, folder=tmp_path)
        assert ended.returncode == 2, (name, arguments, ended.stderr)
        assert ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1, ended.stderr
        assert said in ended.stderr
