"""own_videos.sh and localize.sh: the clips that are rendered, settings from the data, and what is refused in time."""
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('av')
pytest.importorskip('cv2')

from data_folder import read_labels
from eval.files import read_ground_truth
from extraction.frames import read_frames
from extraction.i3d import read_weights
from scripts import check_labels, choose_settings, make_clips, standardize
from scripts.make_clips import CLASSES, FPS, Clip
from utils import InputError

ROOT = Path(__file__).resolve().parents[1]
VARIABLES = ('DATASET', 'DATA_PATH', 'EXP_NAME', 'OUTPUT_DIR', 'MODEL_FILE', 'RESUME')

# Stands in for the extraction of features: its arguments go to a file, a video's features are drawn from its name.
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


# ---- the clips ------------------------------------------------------------------------------------------------------

def clip_of(action, seed=5):
    return Clip('clip_test_000', 'test', 200, [(CLASSES.index(action), 3., 5.5)], seed)


def tracked(clip):
    """The centre (x, y) and the area of the larger shape in every picture, by its colour."""
    pictures = make_clips.frames(clip)
    pure = np.isin(pictures, (20, 235)).all(axis=3)
    found = []
    for picture, mask in zip(pictures, pure):
        colours, counts = np.unique(picture[mask], axis=0, return_counts=True)
        own = (picture == colours[counts.argmax()]).all(axis=2)
        y, x = np.nonzero(own)
        found.append([x.mean(), y.mean(), own.sum() ** 0.5])
    return np.array(found)


@pytest.mark.parametrize('action, column', [('Bounce', 1), ('Shake', 0), ('Pulse', 2)])
def test_a_shape_moves_as_its_class_says_within_the_true_times_and_not_outside(action, column):
    track = tracked(clip_of(action))
    smooth = np.apply_along_axis(lambda values: np.convolve(values, np.ones(25) / 25, 'same'), 0, track)
    quick = np.abs(track - smooth)[25:-25]
    time = np.arange(200)[25:-25] / FPS
    inside, outside = quick[(time > 3.2) & (time < 5.3)], quick[(time < 2.4) | (time > 6.1)]
    assert inside[:, column].mean() > 4 * outside[:, column].mean()
    others = [other for other in range(2) if other != column]
    assert (inside[:, others].mean(axis=0) < inside[:, column].mean() / 2).all()


def test_files_hold_what_was_drawn_and_only_what_is_missing_is_rendered_again(tmp_path, monkeypatch):
    monkeypatch.setattr(make_clips, 'NUM_CLIPS', {'train': 3, 'test': 1})
    monkeypatch.setattr(make_clips, 'random_i3d', lambda modality, seed: memoryview(modality.encode()))
    clips = make_clips.draw_clips(0)
    assert make_clips.make_clips(tmp_path, 0) == 4
    for clip in clips:
        path = tmp_path / clip.split / f'{clip.name}.mp4'
        assert sum(1 for _ in read_frames(path)) == clip.num_frames
        edges = [0.5, *(edge for _, *times in clip.actions for edge in times), clip.num_frames / FPS - 0.5]
        assert sorted(edges) == edges

    truth = read_ground_truth(tmp_path / 'gt.json')
    (test,) = [clip for clip in clips if clip.split == 'test']
    assert truth.videos == [test.name] and truth.subsets == ['test']
    assert truth.segments.tolist() == [list(times) for _, *times in test.actions]
    labels = read_labels(tmp_path / 'labels.csv')
    named = {(labels.videos[v], labels.labels[c]) for v, c in zip(labels.tag_video, labels.tag_label)}
    assert named == {(clip.name, CLASSES[c]) for clip in clips if clip.split == 'train' for c, _, _ in clip.actions}

    path = tmp_path / 'train' / f'{clips[1].name}.mp4'
    before = path.read_bytes()
    path.unlink()
    assert make_clips.make_clips(tmp_path, 0) == 1 and path.read_bytes() == before
    with pytest.raises(InputError, match='holds something else'):
        make_clips.make_clips(tmp_path, 1)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'mine.mp4').write_bytes(b'x')
    with pytest.raises(InputError, match='holds something else.*give another folder'):
        make_clips.make_clips(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == ['mine.mp4']


def test_random_filters_are_a_file_that_the_extraction_reads(tmp_path):
    (tmp_path / 'flow.pt').write_bytes(make_clips.random_i3d('flow', 1))
    filters = read_weights(tmp_path / 'flow.pt', 'flow').parameters['Conv3d_2c_3x3.conv3d.weight']
    assert filters.std() == pytest.approx((2 / (64 * 27)) ** 0.5, rel=0.01)


# ---- from the data to settings --------------------------------------------------------------------------------------

def write_features(folder, split, name, rows):
    for stream in ('rgb', 'flow'):
        path = folder / 'features' / split / stream / f'{name}.npy'
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, rows.astype(np.float32))


def test_standardized_training_rows_have_mean_0_and_deviation_1_and_test_rows_go_with_them(tmp_path):
    rng, source, dest = np.random.RandomState(0), tmp_path / 'source', tmp_path / 'dest'
    rows = {name: rng.normal(5, 3, (20, 4)) for name in 'abc'}
    for name, values in rows.items():
        values[:, 3] = 7    # a feature that never changes
        write_features(source, 'test' if name == 'c' else 'train', name, values)
    (source / 'extraction.json').write_text('{}')
    assert standardize.standardize(source, dest) == 6
    a, b, c = (np.load(dest / 'features' / split / 'flow' / f'{name}.npy')
               for name, split in (('a', 'train'), ('b', 'train'), ('c', 'test')))
    both = np.concatenate([a, b])
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(both[:, :3].std(axis=0), 1, atol=1e-5)
    raw = np.concatenate([rows['a'], rows['b']])[:, 0]
    np.testing.assert_allclose(c[:, 0], (rows['c'][:, 0] - raw.mean()) / raw.std(), atol=1e-4)
    assert (both[:, 3] == 0).all() and (c[:, 3] == 0).all()


def test_standardizing_needs_training_features(tmp_path):
    with pytest.raises(InputError, match='features/train/rgb; extract them first'):
        standardize.standardize(tmp_path, tmp_path / 'dest')


@pytest.mark.parametrize('lengths, wanted', [
    ([25] * 36, {'num_segments': 40, 'topk_ratio': 4, 'batch_size': 16}),            # the short clips
    ([252] * 200, {'num_segments': 260, 'topk_ratio': 8, 'batch_size': 16, 'num_steps': 11_700}),    # as THUMOS14
    ([5000] * 3, {'num_segments': 750, 'topk_ratio': 8, 'batch_size': 3, 'num_steps': 1000}),
    ([50] * 99 + [4000], {'num_segments': 50}),                                      # one long video among short ones
])
def test_settings_follow_the_lengths_and_the_number_of_videos(lengths, wanted):
    chosen = {choice.flag[2:]: choice.value for choice in choose_settings.choose(lengths)}
    assert {name: chosen[name] for name in wanted} == wanted


# ---- the scripts ----------------------------------------------------------------------------------------------------

@pytest.fixture
def project(tmp_path):
    """The project with a stand-in for the extraction; gives a function that runs a script of it."""
    root = tmp_path / 'project'
    root.mkdir()
    for path in ROOT.iterdir():
        if path.suffix in ('.py', '.txt') or path.name in ('scripts', 'eval'):
            (root / path.name).symlink_to(path)
    (root / 'extraction').mkdir()
    (root / 'extraction' / '__main__.py').write_text(EXTRACTION)
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
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


def test_videos_and_a_list_go_in_and_times_come_out(project, tmp_path):
    videos, labels = write_videos(tmp_path / 'my videos', 'a', 'b', 'broken'), tmp_path / 'labels.csv'
    labels.write_text('video,label\na.mp4,Jump\nb,Run\nbroken,Run\nbroken,Jump\n')
    command = ('own_videos.sh', videos, labels, '--rgb_weights', 'x.pt', '--flow_weights', 'y.pt', '--flow', 'dis',
               '--output_dir', tmp_path / 'out', '--', '--num_steps', '2', '--hidden_dim', '4')
    ended = project(*command)
    assert ended.returncode == 2, ended.stderr    # one video could not be read, the others were gone on with
    assert extractions(tmp_path) == [f'{videos} --flow dis --split train --output {tmp_path}/out/own_videos-features '
                                     f'--rgb_weights x.pt --flow_weights y.pt']
    assert 'chosen   --num_segments 40' in ended.stderr and 'num_steps 2 (None)' in ended.stdout
    run = tmp_path / 'out' / 'own_videos'
    with open(run / 'detections.csv', newline='') as file:
        found = {(row['video'], row['label']) for row in csv.DictReader(file)}
    assert found <= {('a', 'Jump'), ('b', 'Run'), ('broken', 'Run'), ('broken', 'Jump')}    # no other label
    assert {video for video, _ in found} == {'a', 'b', 'broken'}
    assert 'a.mp4' in (run / 'report.html').read_text()    # the page plays it

    weights = (run / 'last.pt').read_bytes()
    again = project(*command)    # goes on where nothing is left to do
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
    ('video,label\na\n', 'row 2 must hold a video and a label'),
    ('video,label\n', 'labels no video'),
    ('video,label\nc,Jump\n', "labels none of the 2 videos .* like 'a', not 'c'"),
])
def test_labels_that_do_not_fit_are_told_before_anything_is_extracted(content, complaint, tmp_path):
    videos, labels = write_videos(tmp_path / 'videos', 'a', 'b'), tmp_path / 'labels.csv'
    labels.write_text(content)
    with pytest.raises(InputError, match=complaint):
        check_labels.check(videos, labels)


def test_what_is_labelled_without_a_video_and_a_video_without_a_label_are_told(tmp_path, capsys):
    videos, labels = write_videos(tmp_path / 'videos', 'a', 'b'), tmp_path / 'labels.csv'
    labels.write_text('video,label\nv_a,Jump\nlost,Run\n')
    check_labels.check(videos, labels)
    out, err = capsys.readouterr()
    assert '1 labelled video not in' in err and ': lost\n' in err
    assert '1 video without a label, left out of the training: b\n' in err
    assert out == 'labels   1 video with 2 labels: Jump, Run\n'


@pytest.mark.parametrize('script, args, complaint', [
    ('own_videos.sh', ['videos'], 'give a folder of videos and a labels.csv'),
    ('own_videos.sh', ['nowhere', 'labels.csv'], 'nowhere: not a folder'),
    ('own_videos.sh', ['videos', 'nowhere.csv'], 'nowhere.csv: not a readable CSV file'),
    ('localize.sh', ['videos'], 'give the trained weights as --model_file FILE'),
    ('localize.sh', ['--model_file', 'nowhere.pt', 'videos'], 'nowhere.pt: no such file'),
    ('localize.sh', ['--model_file', 'labels.csv'], 'give videos, or folders of videos'),
])
def test_what_is_missing_is_one_line_before_anything_is_extracted(script, args, complaint, project, tmp_path):
    write_videos(tmp_path / 'videos', 'a')
    (tmp_path / 'labels.csv').write_text('video,label\na,Jump\n')
    ended = project(script, '--output_dir', tmp_path / 'out', *args)
    assert ended.returncode == 2 and ended.stderr.startswith('error: ') and ended.stderr.count('\n') == 1
    assert complaint in ended.stderr and not extractions(tmp_path)
