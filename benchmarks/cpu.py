"""What is measured on the processor: one function a group of lines."""
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import workloads
from benchmarks.step import forward_pass, make_batch, make_network, product, training_step
from benchmarks.table import Row, Times, take_turns, timed
from benchmarks.workloads import ACTIVITYNET, SHARED, THUMOS14, Size
from dataset import SnippetSampler, VideoDataset, loader
from eval.detection import TIOU, evaluate, scored_subset
from eval.files import in_subset, read_detections, read_ground_truth, write_detections
from eval.localization import CHUNK_SAMPLES, LocalizationOptions, localize, upsample

ROOT = Path(__file__).resolve().parents[1]
NUM_DETECTIONS = 36_195    # of the authors' released file
READ_ONLY = 'import json, sys, numpy; [json.load(open(path)) for path in sys.argv[1:]]'


def run(*command: object) -> float:
    """Seconds of a Python command, from its start to its end; fails as it fails."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
                           env=os.environ | {'PYTHONPATH': str(ROOT)})
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise RuntimeError(f'{" ".join(map(str, command))} failed:\n{ended.stderr}')
    return seconds


def run_main(data: Path, name: str, *flags: object) -> dict:
    """A run of main.py in a process of its own: its stages and its peak memory (see stages.py), and `seconds`."""
    report = data / f'{name}.stages.json'
    report.parent.mkdir(parents=True, exist_ok=True)
    seconds = run('-P', '-m', 'benchmarks.stages', report, '--exp_name', name, '--output_dir', data / 'outputs',
                  '--device', 'cpu', *flags)
    stages = json.loads(report.read_text())
    stages['seconds']['start and end of Python'] = seconds - stages['inside']
    rest = seconds - sum(stages['seconds'].values())
    return {'total': seconds, 'gigabytes': stages['peak_memory'] / 1e9,
            'stages': stages['seconds'] | {'the rest': rest}}


def recipe(size: Size) -> list[object]:
    return ['--hidden_dim', size.hidden_dim, '--batch_size', size.batch_size, '--num_segments', size.num_segments]


# ---- scoring and localization ---------------------------------------------------------------------------------------

def scoring_files(data: Path) -> tuple[Path, Path]:
    """A gt.json and detections of THUMOS14: the authors' own, or drawn ones of that size."""
    if (SHARED / 'thumos14').is_dir():
        return SHARED / 'thumos14' / 'gt.json', SHARED / 'thumos14' / 'released_detections.json'

    def write(folder: Path) -> None:
        truth = workloads.thumos14_truth()
        test = np.array(truth.videos)[in_subset(truth, 'test')].tolist()
        workloads.write_annotations(folder, truth, {'test': test})
        write_detections(folder / 'detections.json',
                         workloads.draw_detections(scored_subset(truth, [], 'testing'), NUM_DETECTIONS))

    folder = workloads.build(data / 'scoring', write)
    return folder / 'gt.json', folder / 'detections.json'


def scoring(data: Path, rounds: int, device: torch.device) -> list[Row]:
    """mAP: match and integrate alone, its growth, ActivityNet's size, and the whole command."""
    files = scoring_files(data)
    detections = read_detections(files[1])
    truth = scored_subset(read_ground_truth(files[0]), detections.videos)
    large = workloads.activitynet_truth()
    calls = {f'{n}x': partial(evaluate, truth, workloads.repeat_detections(detections, n), TIOU) for n in (1, 4, 16)}
    calls['ActivityNet'] = partial(evaluate, large, workloads.draw_detections(large, 300_000),
                                   np.linspace(0.5, 0.95, 10).round(2))
    calls['command'] = partial(run, '-m', 'eval.detection', *files)
    calls['reading'] = partial(run, '-c', READ_ONLY, *files)
    times = take_turns(calls, rounds)
    rows = [timed(f'mAP of {len(detections.scores):,} detections at 7 tIoUs: match and integrate', times['1x'],
                  target='<= 0.15 s', elsewhere='30-50 s (OpenTAD 23 s, ActionFormer 33 s)')]
    for n in (4, 16):
        rows.append(timed(f'the same, {n}x the detections; limit: {n} times the line above', times[f'{n}x'],
                          times['1x'].times(n)))
    return rows + [
        timed(f'mAP of ActivityNet 1.3: {len(large.videos)} videos, 200 classes, 300,000 detections, 10 tIoUs',
              times['ActivityNet'], target='<= 6 s', elsewhere='168 s (on its own detections)'),
        timed('`python -m eval.detection`, whole process; limit: a process that imports numpy and parses both files',
              times['command'], times['reading'], '<= 1 s', '30-50 s')]


def localization(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """From snippet scores to suppressed detections."""
    selection, probabilities, lengths = workloads.draw_selection(size)
    options = LocalizationOptions()
    found = localize(selection, probabilities, lengths, options)
    video, label = np.nonzero(probabilities >= options.class_th)
    step = max(1, int(CHUNK_SAMPLES / (size.num_segments * options.scale)))

    def upsample_only() -> None:
        for first in range(0, len(video), step):
            some = slice(first, first + step)
            upsample(selection[video[some], :, label[some]].astype(np.float64), options.scale)

    times = take_turns({'localize': partial(localize, selection, probabilities, lengths, options),
                        'upsample': upsample_only}, rounds)
    return [timed(f'localization of {len(lengths)} videos, {len(found.scores):,} runs; limit: their upsampling alone',
                  times['localize'], times['upsample'], '<= 0.35 s', '2.6 s (2.1 s contrast, 0.5 s NMS)')]


# ---- loading --------------------------------------------------------------------------------------------------------

def drop_page_cache(dataset: VideoDataset) -> None:
    for file in dataset.files:
        for path in file.paths:
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def epoch(dataset: VideoDataset, size: Size) -> Callable[[], int]:
    """A function that loads an epoch of full training batches and returns their number."""
    sampler = SnippetSampler(dataset.lengths, size.num_segments, size.batch_size, np.random.RandomState(0),
                             drop_last=True)
    return lambda: sum(1 for _ in loader(dataset, sampler))


def loading(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """Batches from memory in float32 and float16, and from disk."""
    def videos(root: Path, cache: str) -> VideoDataset:
        truth = read_ground_truth(root / 'gt.json')
        return VideoDataset(root, 'train', truth, truth.labels, cache=cache)

    folder = workloads.thumos14(data / 'thumos14', size)
    half = workloads.thumos14(data / 'thumos14_float16', size, np.float16)
    disk = videos(folder, 'none')
    source = torch.rand(size.batch_size * size.num_segments, 2 * size.feature_dim).numpy()
    times = take_turns({'float32': epoch(videos(folder, 'ram'), size), 'float16': epoch(videos(half, 'ram'), size),
                        'disk': epoch(disk, size), 'cold': epoch(disk, size), 'copy': source.copy}, rounds,
                       before={'cold': partial(drop_page_cache, disk)})
    batch = f'a batch of {size.batch_size} x {size.num_segments} x {2 * size.feature_dim}'
    return [timed(f'{batch} from memory, float32; limit: a plain copy of as much', times['float32'], times['copy'],
                  '<= 0.06 s', '0.42-0.59 s'),
            timed(f'{batch} from memory, float16 made float32', times['float16'], times['copy'], '<= 0.06 s'),
            timed(f'{batch} from disk (`--cache none`), files in the page cache', times['disk'], times['copy'],
                  elsewhere='0.42-0.59 s'),
            timed(f'{batch} from disk, page cache emptied before the epoch', times['cold'], times['copy'])]


# ---- the network ----------------------------------------------------------------------------------------------------

def step(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """The training step and the forward pass against torch.mm, and both by Conv1d layers in the same rounds."""
    features, labels = make_batch(size, device)
    calls = {'product': product(size, device)}
    for name, convolutions in (('own', False), ('Conv1d', True)):
        calls[name] = training_step(make_network(size, device, convolutions=convolutions), features, labels)
        calls[f'{name} forward'] = forward_pass(make_network(size, device, convolutions=convolutions), features)
    times = take_turns(calls, rounds)
    four, two = times['product'].times(4), times['product'].times(2)
    shape = (f'({size.batch_size * size.num_segments} x {3 * size.feature_dim}) @ '
             f'({3 * size.feature_dim} x {2 * size.hidden_dim})')
    return [timed(f'training step; limit: 4 times `torch.mm` {shape}', times['own'], four, '<= 1.5 x',
                  '2.8-3.0 s, 2.1 x'),
            timed('training step by `Conv1d` layers, as before', times['Conv1d'], four),
            timed('inference forward; limit: 2 times `torch.mm`', times['own forward'], two, '<= 1.4 x', '1.8 x'),
            timed('inference forward by `Conv1d` layers, as before', times['Conv1d forward'], two)]


# ---- whole processes ------------------------------------------------------------------------------------------------

REFERENCE = {'reading features': '4.5 s', 'forward passes': '19 s', 'localization': '2.6 s', 'scoring': '30-50 s'}


def inference(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """`python main.py --inference_only`: the whole against its forward passes, where its seconds go, its memory."""
    folder = workloads.thumos14(data / 'thumos14', size)
    runs = []

    def whole() -> None:
        runs.append(run_main(data, 'inference', '--data_path', folder, '--inference_only', '--model_file',
                             folder / 'weights.pt', *recipe(size)))

    whole_times = take_turns({'whole': whole}, rounds)['whole']
    runs = runs[1:]
    forward = Times([run['stages']['forward passes'] for run in runs], [])
    found = json.loads((data / 'outputs' / 'inference' / 'results.json').read_text())
    rows = [timed(f'`python main.py --inference_only`, {size.num_test} videos, '
                  f'{found["num_predictions"]:,} detections, whole process; limit: its forward passes',
                  whole_times, forward, '<= 1.4 x',
                  '62 s an evaluation, without imports')]
    for name in sorted(runs[0]['stages'], key=lambda name: -np.median([r['stages'][name] for r in runs])):
        rows.append(Row(f'of it: {name}', [r['stages'][name] for r in runs], elsewhere=REFERENCE.get(name, '')))
    return [*rows, Row('peak memory of inference', [r['gigabytes'] for r in runs], 'GB')]


def training(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """A short training run with its evaluation: where its seconds go, and its peak memory."""
    folder, steps = workloads.thumos14(data / 'thumos14', size), 10
    found = run_main(data, 'training', '--data_path', folder, '--num_steps', steps, '--detection_inf_step', 'never',
                     '--overwrite', *recipe(size))
    rows = [Row(f'`python main.py`, {steps} steps and one evaluation', [found['total']])]
    for name, seconds in sorted(found['stages'].items(), key=lambda item: -item[1]):
        rows.append(Row(f'of it: {name}', [seconds]))
    return [*rows, Row('peak memory of training', [found['gigabytes']], 'GB')]


def memory(data: Path, rounds: int, device: torch.device, size: Size = ACTIVITYNET, mean_length: int = 180
           ) -> list[Row]:
    """ActivityNet 1.3 in float16 at a tenth of its size; narrow features tell what the number of videos costs."""
    tenth = size._replace(num_train=size.num_train // 10, num_test=size.num_test // 10)
    narrow = 16
    folders = {name: workloads.activitynet(data / name, of, mean_length) for name, of in (
        ('activitynet_tenth', tenth), ('activitynet_narrow', size._replace(feature_dim=narrow)),
        ('activitynet_narrow_tenth', tenth._replace(feature_dim=narrow)))}

    def peak(name: str, cache: str) -> float:
        return run_main(data, name, '--dataset', 'activitynet1.3', '--data_path', folders[name], '--cache', cache,
                        '--num_steps', 10, '--detection_inf_step', 'never', '--overwrite', *recipe(size))['gigabytes']

    ram, none = peak('activitynet_tenth', 'ram'), peak('activitynet_tenth', 'none')
    growth = peak('activitynet_narrow', 'none') - peak('activitynet_narrow_tenth', 'none')
    features = sum(path.stat().st_size for path in folders['activitynet_tenth'].glob('*/*.npy')) / 1e9
    return [Row(f'training on a tenth of ActivityNet 1.3, {features:.2f} GB of float16 features, `--cache ram`', [ram],
                'GB'),
            Row('the same, `--cache none`', [none], 'GB'),
            Row('what ten times as many videos add apart from their features (measured with features of width '
                f'{2 * narrow})', [growth], 'GB'),
            Row('computed for the whole: `--cache ram`, first line + 9 tenths of the features more + '
                'what the videos add',
                [ram + 9 * features + growth], 'GB', target='<= 24 GB'),
            Row('computed for the whole: `--cache none`, second line + what the videos add', [none + growth], 'GB',
                target='<= 2 GB')]


def extraction(data: Path, rounds: int, device: torch.device) -> list[Row]:
    """The stages from video to features."""
    from benchmarks import extraction    # what it needs is not installed everywhere
    return extraction.extraction(data, rounds, device)


GROUPS = {'scoring': scoring, 'localization': localization, 'loading': loading, 'step': step, 'inference': inference,
          'training': training, 'memory': memory, 'extraction': extraction}
