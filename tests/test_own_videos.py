"""own_videos.sh and localize.sh: the rendered clips, settings from the data, and errors before the extraction."""
import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from eval.detection import TIOU
from examples import make_clips, score_clips
from formats.annotations import read_ground_truth, read_labels
from formats.detections import Detections
from scripts import auto_config, standardize
from utils import InputError, read_json

ROOT = Path(__file__).resolve().parents[1]

# Replaces the extraction of features: its arguments are logged, the features of a video are random, seeded by its name.
EXTRACTION = '''
import sys, zlib
from pathlib import Path
import numpy as np
places = [Path(a) for a in sys.argv[1:3] if not a.startswith('--')]
output = Path(sys.argv[sys.argv.index('--output') + 1])
split = sys.argv[sys.argv.index('--split') + 1]
output.mkdir(parents=True, exist_ok=True)
with open(output.parent / 'extraction.log', 'a') as log:
    print(*sys.argv[1:], file=log)
files = [file for place in places for file in (sorted(place.iterdir()) if place.is_dir() else [place])]
for file in files:
    rows = np.random.RandomState(zlib.crc32(file.stem.encode())).rand(20, 8).astype(np.float32)
    for stream in ('rgb', 'flow'):
        path = output / 'features' / split / stream / f'{file.stem}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows)
sys.exit(2 if any('broken' in file.stem for file in files) else 0)
'''


def decode(path: Path) -> np.ndarray:
    """Return the gray frames of a video, (F, H, W)."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format='gray') for frame in container.decode(video=0)]).astype(float)


def refusal(capsys, module, *arguments: object) -> str:
    assert module.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1
    return error


# ---- clips ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('rendered') / 'clips'
    make_clips.write_clips(folder, {'train': 1, 'test': 3}, 8, 64, seed=3)
    return folder


@pytest.mark.parametrize('number', range(3))
def test_a_clip_moves_inside_its_true_times_and_hardly_outside(clips, number):
    gt = read_json(clips / 'gt.json')['database'][f'test_{number:03d}']
    frames = decode(clips / 'test' / f'test_{number:03d}.mp4')
    assert len(frames) == gt['duration'] * 25
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2))  # from each frame to the next
    happens = np.zeros(len(changes), bool)
    for annotation in gt['annotations']:
        start, end = (round(25 * edge) for edge in annotation['segment'])
        assert 0 < start < end < len(frames)
        happens[start:end] = True
    second = np.convolve(changes, np.ones(12) / 12, 'valid')  # a swing is at rest twice: means of half a second
    clear = np.convolve(happens, np.ones(12) / 12, 'valid')
    assert second[clear == 1].min() > 1.3 * second[clear == 0].max()


def test_training_clips_have_labels_without_times_and_test_clips_times(clips):
    rows = list(csv.reader(io.StringIO((clips / 'labels.csv').read_text())))
    assert rows == [['video', 'label'], ['train_000', 'Bounce']]
    assert read_labels(clips / 'labels.csv').videos == ['train_000']
    gt = read_ground_truth(clips / 'gt.json')
    assert gt.videos == ['test_000', 'test_001', 'test_002'] and set(gt.subsets) == {'test'}
    assert gt.labels == list(make_clips.MOTIONS)


def test_clips_depend_on_the_seed_and_a_missing_one_is_rendered_again(clips, tmp_path):
    folder = shutil.copytree(clips, tmp_path / 'clips')
    before = (folder / 'test' / 'test_001.mp4').read_bytes()
    (folder / 'test' / 'test_001.mp4').unlink()
    weights = (folder / 'rgb.pt').stat().st_mtime_ns
    assert make_clips.write_clips(folder, {'train': 1, 'test': 3}, 8, 64, seed=3) == 1
    assert (folder / 'test' / 'test_001.mp4').read_bytes() == before
    assert (folder / 'rgb.pt').stat().st_mtime_ns == weights
    assert before != (folder / 'test' / 'test_002.mp4').read_bytes()


def test_clips_do_not_mix_with_others(clips, tmp_path, capsys):
    assert 'contains other clips' in refusal(capsys, make_clips, clips, '--seed', 4)
    (tmp_path / 'notes.txt').touch()
    assert 'contains something else' in refusal(capsys, make_clips, tmp_path)


# ---- features and settings -------------------------------------------------------------------------------------------

@pytest.fixture
def features(tmp_path) -> Path:
    """Return a data folder of two training videos and a test video with three columns; the last one is constant."""
    random = np.random.RandomState(0)
    folder = tmp_path / 'features'
    for split, name, length in (('train', 'a', 30), ('train', 'b', 12), ('test', 'c', 9)):
        for stream in ('rgb', 'flow'):
            parent = folder / 'features' / split / stream
            parent.mkdir(parents=True, exist_ok=True)
            rows = random.randn(length, 3).astype(np.float32) * [1, 40, 0] + [1000, 3, 7]
            np.save(parent / f'{name}.npy', rows.astype(np.float32))
    (folder / 'labels.csv').write_text('video,label\na,Run\nb,Jump\n')
    return folder


def test_features_are_standardized_by_the_training_videos_only(features, tmp_path, capsys):
    assert standardize.main([str(features), str(tmp_path / 'new')]) == 0
    for stream in ('rgb', 'flow'):
        train = np.concatenate([np.load(features / 'features' / 'train' / stream / f'{name}.npy') for name in 'ab'])
        test = np.load(features / 'features' / 'test' / stream / 'c.npy').astype(np.float64)
        mean, std = train[:, :2].mean(axis=0, dtype=np.float64), train[:, :2].std(axis=0, dtype=np.float64)
        result = np.load(tmp_path / 'new' / 'features' / 'test' / stream / 'c.npy')
        np.testing.assert_allclose(result[:, :2], (test[:, :2] - mean) / std, rtol=1e-4, atol=1e-5)
        assert result.dtype == np.float32 and not result[:, 2].any()
    assert (tmp_path / 'new' / 'labels.csv').read_text() == (features / 'labels.csv').read_text()


def test_features_that_cannot_be_standardized_are_named(features, tmp_path, capsys):
    assert 'is the input of this command' in refusal(capsys, standardize, features, features)
    assert 'contains no streams' in refusal(capsys, standardize, tmp_path, tmp_path / 'new')
    (features / 'features' / 'train' / 'rgb' / 'b.npy').write_bytes(b'no array')
    assert 'b.npy: not a readable .npy file' in refusal(capsys, standardize, features, tmp_path / 'new')


@pytest.mark.parametrize('lengths, expected', [
    ([25] * 36, {'num_segments': 40, 'topk_ratio': 4, 'batch_size': 16}),            # the short clips
    ([252] * 200, {'num_segments': 260, 'topk_ratio': 8, 'batch_size': 16, 'num_steps': 11_700}),  # as THUMOS14
    ([5000] * 3, {'num_segments': 750, 'topk_ratio': 8, 'batch_size': 3, 'num_steps': 1000}),
    ([50] * 99 + [4000], {'num_segments': 50}),                                      # one long video among short ones
])
def test_settings_follow_the_lengths_and_the_number_of_videos(lengths, expected):
    chosen = {choice.flag[2:]: choice.value for choice in auto_config.choose(lengths)}
    assert {name: chosen[name] for name in expected} == expected


# ---- scores ---------------------------------------------------------------------------------------------------------

def test_shifting_the_ground_truth_by_one_snippet_lowers_the_map(clips):
    gt = read_ground_truth(clips / 'gt.json')
    exact = Detections(gt.videos, gt.labels, gt.video, gt.label, gt.segments, np.ones(len(gt.segments)))
    assert score_clips.average_map(gt, exact) == 100
    overlap = [max(0, (end - start - 0.64) / (end - start + 0.64)) for start, end in gt.segments]
    recall = np.mean([[np.mean([o >= t for o, label in zip(overlap, gt.label) if label == c]) for c in range(3)]
                      for t in TIOU])
    for seconds in (0.64, -0.64):
        # all have one score, and each clip one label: AP is the recall, or less where false positives come first
        assert score_clips.average_map(score_clips.shifted(gt, seconds), exact) <= 100 * recall + 1e-9 < 100
    assert score_clips.chance(gt, exact) == 0  # the other clips show other motions


# ---- the scripts ----------------------------------------------------------------------------------------------------

@pytest.fixture
def project(tmp_path):
    """Return a function that runs a script of the project, with a stand-in for the extraction."""
    root = tmp_path / 'project'
    root.mkdir()
    for path in ROOT.iterdir():
        if path.suffix in ('.py', '.txt') or path.name in ('scripts', 'engine', 'eval', 'formats'):
            (root / path.name).symlink_to(path)
    (root / 'extraction').mkdir()
    (root / 'extraction' / '__main__.py').write_text(EXTRACTION)
    environment = {name: value for name, value in os.environ.items() if name != 'DATA_PATH'}
    environment['PATH'] = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'

    def run(script, *args):
        return subprocess.run(['bash', str(root / 'scripts' / script), *map(str, args)], text=True, capture_output=True,
                              cwd=tmp_path, env=environment, timeout=120)

    return run


def write_videos(folder, *names):
    folder.mkdir()
    for name in names:
        (folder / f'{name}.mp4').write_bytes(b'a video')
    return folder


def extractions(tmp_path):
    path = tmp_path / 'out' / 'extraction.log'
    return path.read_text().splitlines() if path.exists() else []


def test_videos_and_labels_become_detections(project, tmp_path):
    for name in ('x.pt', 'y.pt'):
        (tmp_path / name).touch()
    videos, labels = write_videos(tmp_path / 'my videos', 'a', 'b', 'broken'), tmp_path / 'labels.csv'
    labels.write_text('video,label\na.mp4,Jump\nb,Run\nbroken,Run\nbroken,Jump\n')
    command = ('own_videos.sh', videos, labels, '--rgb_weights', 'x.pt', '--flow_weights', 'y.pt', '--flow', 'dis',
               '--output_dir', tmp_path / 'out', '--', '--num_steps', '2', '--hidden_dim', '4')
    ended = project(*command)
    assert ended.returncode == 2, ended.stderr  # one video could not be read, the others were used
    assert extractions(tmp_path) == [f'{videos} --rgb_weights x.pt --flow_weights y.pt --flow dis --split train '
                                     f'--output {tmp_path}/out/own_videos-features']
    assert 'chosen   --num_segments 40' in ended.stderr and 'num_steps 2 (unset)' in ended.stdout
    run = tmp_path / 'out' / 'own_videos'
    with open(run / 'detections.csv', newline='') as file:
        detected = {(row['video'], row['label']) for row in csv.DictReader(file)}
    assert detected <= {('a', 'Jump'), ('b', 'Run'), ('broken', 'Run'), ('broken', 'Jump')}  # no other label
    assert {video for video, _ in detected} == {'a', 'b', 'broken'}
    links = sorted(path.name for path in (tmp_path / 'out' / 'own_videos-features' / 'videos').iterdir())
    assert links == ['a.mp4', 'b.mp4', 'broken.mp4']  # and not the weights
    assert 'a.mp4' in (run / 'report.html').read_text()  # the page plays it

    weights = (run / 'last.pt').read_bytes()
    again = project(*command)  # nothing is left to do
    assert again.returncode == 2 and 'step 2 of 2' in again.stdout and (run / 'last.pt').read_bytes() == weights

    new = write_videos(tmp_path / 'more', 'new')
    ended = project('localize.sh', '--model_file', run / 'last.pt', new / 'new.mp4', '--output_dir', tmp_path / 'out',
                    '--', '--subtitles', 'vtt')
    assert ended.returncode == 0, ended.stderr
    assert extractions(tmp_path)[-1] == f'{new / "new.mp4"} --split test --output {tmp_path}/out/localized-features'
    results = json.loads((tmp_path / 'out' / 'localized' / 'detections.json').read_text())['results']
    assert list(results) == ['new'] and {row['label'] for row in results['new']} <= {'Jump', 'Run'}
    assert (tmp_path / 'out' / 'localized' / 'subtitles' / 'new.vtt').is_file()


@pytest.mark.parametrize('content, complaint', [
    ('name,label\na,Jump\n', 'must be the header video,label'),
    ('video,label\na\n', 'row 2 must contain a video and a label'),
    ('video,label\n', 'contains no labels'),
    ('video,label\nc,Jump\n', "no label is for one of the 2 videos .* like 'a', not 'c'"),
])
def test_labels_that_do_not_fit_are_an_error(content, complaint, tmp_path):
    videos, labels = write_videos(tmp_path / 'videos', 'a', 'b'), tmp_path / 'labels.csv'
    labels.write_text(content)
    with pytest.raises(InputError, match=complaint):
        auto_config.check_label_file(videos, labels)


def test_labels_without_a_video_and_videos_without_a_label_are_warnings(tmp_path, capsys):
    videos, labels = write_videos(tmp_path / 'videos', 'a', 'b'), tmp_path / 'labels.csv'
    (videos / 'notes.txt').touch()
    labels.write_text('video,label\nv_a,Jump\nlost,Run\n')
    auto_config.check_label_file(videos, labels)
    out, err = capsys.readouterr()
    assert '1 labeled video not in' in err and ': lost\n' in err
    assert '1 video without a label, left out of the training: b\n' in err
    assert out == 'labels   1 video with 2 labels: Jump, Run\n'


@pytest.mark.parametrize('script, args, complaint', [
    ('own_videos.sh', ['videos'], 'give a folder of videos and a labels.csv'),
    ('own_videos.sh', ['nowhere', 'labels.csv'], 'nowhere: not a folder'),
    ('own_videos.sh', ['videos', 'nowhere.csv'], 'nowhere.csv: not a readable CSV file'),
    ('localize.sh', ['videos'], 'give the trained weights as --model_file FILE'),
    ('localize.sh', ['--model_file', 'nowhere.pt', 'videos'], 'nowhere.pt: no such file'),
    ('localize.sh', ['--model_file', 'labels.csv'], 'give videos, or folders of videos'),
    ('localize.sh', ['--model_file=labels.csv'], 'give videos, or folders of videos'),
    ('localize.sh', ['videos', '--model_file'], '--model_file needs a value'),
])
def test_a_missing_argument_is_one_line_before_anything_is_extracted(script, args, complaint, project, tmp_path):
    write_videos(tmp_path / 'videos', 'a')
    (tmp_path / 'labels.csv').write_text('video,label\na,Jump\n')
    ended = project(script, '--output_dir', tmp_path / 'out', *args)
    assert ended.returncode == 2 and ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1
    assert complaint in ended.stderr and not extractions(tmp_path)
