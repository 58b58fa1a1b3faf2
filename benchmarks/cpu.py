"""What is measured on the processor: one function a group of lines."""
import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import workloads
from benchmarks.step import step
from benchmarks.table import Row, Times, take_turns, timed
from benchmarks.workloads import ACTIVITYNET, SHARED, THUMOS14, Size
from formats.annotations import read_annotations
from formats.data_folder import find_split
from dataset import ShuffledSampler, VideoDataset, make_loader
from eval.detection import TIOU, evaluate, scored_subset
from formats.annotations import GroundTruth, in_subset, read_ground_truth, select_videos
from formats.detections import read_detections, write_detections
from eval.localization import LocalizationOptions, Proposals, localize
from config import MODALITIES
from utils import pick

ROOT = Path(__file__).resolve().parents[1]
NUM_DETECTIONS = 36_195      # of the authors' released file
NUM_ACTIVITYNET = 300_000    # about what a run on ActivityNet 1.3 finds
READ_ONLY = 'import json, sys, numpy; [json.load(open(path)) for path in sys.argv[1:]]'


def run(*command: object) -> float:
    """Seconds of a Python command, from its start to its end; fails as it fails."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True,
                           env=os.environ | {'PYTHONPATH': path})
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise RuntimeError(f'{" ".join(map(str, command))} failed:\n{ended.stderr}')
    return seconds


def run_main(data: Path, size: Size, folder: Path, name: str, *flags: object) -> dict:
    """A run of main.py in a process of its own: its stages and its peak memory (see stages.py), and its seconds."""
    report = data / f'{name}.stages.json'
    report.parent.mkdir(parents=True, exist_ok=True)
    seconds = run('-P', '-m', 'benchmarks.stages', report, *size.command(), '--data_path', folder, '--exp_name', name,
                  '--output_dir', data / 'outputs', '--device', 'cpu', *flags)
    found = json.loads(report.read_text())
    stages = found['seconds'] | {'start and end of Python': seconds - found['inside']}
    stages['the rest'] = seconds - sum(stages.values())
    return {'total': seconds, 'gigabytes': found['peak_memory'] / 1e9, 'stages': stages}


def stage_rows(runs: list[dict]) -> list[Row]:
    """Where the seconds of runs went, the longest first, and their memory."""
    stages = {name: [run['stages'].get(name, 0.) for run in runs] for name in runs[0]['stages']}
    rows = [Row(f'of it: {name}', seconds) for name, seconds in stages.items()]
    return [*sorted(rows, key=lambda row: -row.median), Row('peak memory', [run['gigabytes'] for run in runs], 'GB')]


# ---- scoring and localization ---------------------------------------------------------------------------------------

def peak_allocated(call: Callable[[], object]) -> list[float]:
    """The most gigabytes that a call has allocated at one time, beyond its arguments."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return [peak / 1e9]


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
    """mAP: match and integrate alone, its growth, ActivityNet's size and ten times that, and the whole command."""
    files = scoring_files(data)
    detections = read_detections(files[1])
    truth = scored_subset(read_ground_truth(files[0]), detections.videos)
    large, tious = workloads.activitynet_truth(), ACTIVITYNET.arguments().tiou
    many = workloads.draw_detections(large, NUM_ACTIVITYNET)
    ten = workloads.repeat_videos(large, many, 10)
    path = data / 'detections.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    write_detections(path, many)
    content = json.loads(path.read_text())
    calls: dict[str, Callable[[], object]] = {
        f'{n}x': partial(evaluate, truth, workloads.repeat_detections(detections, n), TIOU) for n in (1, 4, 16)}
    calls |= {'ActivityNet': partial(evaluate, large, many, tious), 'ten': partial(evaluate, *ten, tious),
              'write': partial(write_detections, path, many), 'encode': partial(json.dumps, content),
              'read': partial(read_detections, path), 'decode': lambda: json.loads(path.read_text()),
              'command': partial(run, '-m', 'eval.detection', *files), 'reading': partial(run, '-c', READ_ONLY, *files)}
    times = take_turns(calls, rounds)
    return [
        timed(f'mAP of {len(detections.scores):,} detections at 7 tIoUs: match and integrate', times['1x'],
              target='<= 0.15 s', elsewhere='330x to 640x'),
        *[timed(f'the same, {n}x the detections; limit: {n} times the line above', times[f'{n}x'], times['1x'].times(n))
          for n in (4, 16)],
        timed(f'mAP of ActivityNet 1.3: {len(large.videos)} videos, {len(large.labels)} classes, '
              f'{len(many.scores):,} detections, {len(tious)} tIoUs', times['ActivityNet'], target='<= 6 s',
              elsewhere='1000x'),
        timed(f'ten of it: {len(ten[0].videos):,} videos, {len(ten[1].scores):,} detections; limit: 10 times the line '
              f'above', times['ten'], times['ActivityNet'].times(10)),
        Row('memory that scoring one ActivityNet takes beyond its input', peak_allocated(calls['ActivityNet']), 'GB'),
        Row('memory that scoring ten takes', peak_allocated(calls['ten']), 'GB'),
        timed(f'writing {len(many.scores):,} detections, checked and whole; limit: `json.dumps` of as many',
              times['write'], times['encode'], '<= 0.7 s'),
        timed('reading them, checked; limit: `json.loads` of the file', times['read'], times['decode'], '<= 0.6 s'),
        timed('`python -m eval.detection`, whole process; limit: a process that imports numpy and parses both files',
              times['command'], times['reading'], '<= 1 s')]


def localization(data: Path, rounds: int, device: torch.device, sizes: tuple[Size, ...] = (THUMOS14, ACTIVITYNET)
                 ) -> list[Row]:
    """From snippet scores to suppressed detections: of THUMOS14, of ActivityNet and of ten times that."""
    thumos14, activitynet = sizes
    truth = workloads.thumos14_truth(thumos14)
    few = localizer(select_videos(truth, in_subset(truth, 'testing')), thumos14)
    large = workloads.activitynet_truth()
    one, ten = localizer(large, activitynet), localizer(large, activitynet, 10)
    times = take_turns({'few': few, 'one': one, 'ten': ten}, rounds)
    return [timed(f'localization of THUMOS14: {len(few().scores):,} detections', times['few'], target='<= 0.35 s'),
            timed(f'localization of ActivityNet 1.3: {len(large.videos):,} videos, {len(one().scores):,} detections',
                  times['one']),
            timed(f'localization of ten times that: {len(ten().scores):,} detections; limit: 10 times the line above',
                  times['ten'], times['one'].times(10)),
            Row('memory that localizing one ActivityNet takes beyond its input', peak_allocated(one), 'GB'),
            Row('memory that localizing ten takes', peak_allocated(ten), 'GB')]


def localizer(truth: GroundTruth, size: Size, times: int = 1) -> Callable[[], Proposals]:
    """A function that localizes videos with these instances, each so many times."""
    args = size.arguments()
    selection, probabilities, lengths = (
        np.concatenate([part] * times) for part in workloads.draw_selection(truth, args.num_segments))
    return partial(localize, selection, probabilities, lengths, pick(LocalizationOptions, vars(args)))


# ---- loading --------------------------------------------------------------------------------------------------------

def drop_page_cache(folder: Path) -> None:
    for path in folder.glob('features/train/*/*.npy'):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def loading(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """Batches from memory in float32 and float16, and from disk."""
    folder = workloads.thumos14(data / 'thumos14', size)
    half = workloads.thumos14(data / 'thumos14_float16', size, np.float16)
    args = size.arguments()

    def epoch(root: Path, cache: str) -> Callable[[], int]:
        """A function that loads an epoch of full training batches and returns their number."""
        truth = read_annotations(root)
        videos = VideoDataset(find_split(root, 'train', truth, truth.labels, MODALITIES['all']), cache)
        sampler = ShuffledSampler(videos.lengths, args.num_segments, args.batch_size, True, np.random.RandomState(0))
        return lambda: sum(1 for _ in make_loader(videos, sampler))

    source = torch.rand(args.batch_size * args.num_segments, 2 * size.feature_dim).numpy()
    disk = epoch(folder, 'none')
    times = take_turns({'float32': epoch(folder, 'ram'), 'float16': epoch(half, 'ram'), 'disk': disk, 'cold': disk,
                        'copy': source.copy}, rounds, before={'cold': partial(drop_page_cache, folder)})
    batch = f'a batch of {args.batch_size} x {args.num_segments} x {2 * size.feature_dim}'
    return [timed(f'{batch} from memory, float32; limit: a plain copy of as much', times['float32'], times['copy'],
                  '<= 0.06 s'),
            timed(f'{batch} from memory, float16 made float32', times['float16'], times['copy'], '<= 0.06 s'),
            timed(f'{batch} from disk (`--cache none`), files in the page cache', times['disk'], times['copy']),
            timed(f'{batch} from disk, page cache emptied before the epoch', times['cold'], times['copy'])]


# ---- whole processes ------------------------------------------------------------------------------------------------

def inference(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """`python main.py --inference_only`: the whole against its forward passes, where its seconds go, its memory."""
    folder = workloads.thumos14(data / 'thumos14', size)
    runs: list[dict] = []

    def whole() -> None:
        runs.append(run_main(data, size, folder, 'inference', '--inference_only', '--model_file',
                             folder / 'weights.pt'))

    times = take_turns({'whole': whole}, rounds)['whole']
    counted = runs[1:]
    forward = Times([run['stages']['forward passes'] for run in counted], [])
    found = json.loads((data / 'outputs' / 'inference' / 'results.json').read_text())
    return [timed(f'`python main.py --inference_only`, {size.num_test} videos, {found["num_predictions"]:,} '
                  f'detections, whole process; limit: its forward passes', times, forward, '<= 1.4 x', '3.8x'),
            *stage_rows(counted)]


def training(data: Path, rounds: int, device: torch.device, size: Size = THUMOS14) -> list[Row]:
    """A short training run with its evaluation: where its seconds go, and its peak memory."""
    found = run_main(data, size, workloads.thumos14(data / 'thumos14', size), 'training', '--num_steps', 10,
                     '--detection_inf_step', 'never', '--overwrite')
    return [Row('`python main.py`, 10 steps and one evaluation', [found['total']]), *stage_rows([found])]


def memory(data: Path, rounds: int, device: torch.device, size: Size = ACTIVITYNET, mean_length: int = 180
           ) -> list[Row]:
    """ActivityNet 1.3 in float16 at a tenth of its size; narrow features tell what the number of videos costs."""
    tenth = size._replace(num_train=size.num_train // 10, num_test=size.num_test // 10)
    narrow = 16
    folders = {name: workloads.activitynet(data / name, of, mean_length) for name, of in (
        ('activitynet_tenth', tenth), ('activitynet_narrow', size._replace(feature_dim=narrow)),
        ('activitynet_narrow_tenth', tenth._replace(feature_dim=narrow)))}

    def peak(name: str, cache: str) -> float:
        return run_main(data, size, folders[name], name, '--cache', cache, '--num_steps', 10, '--detection_inf_step',
                        'never', '--overwrite')['gigabytes']

    ram, none = peak('activitynet_tenth', 'ram'), peak('activitynet_tenth', 'none')
    growth = peak('activitynet_narrow', 'none') - peak('activitynet_narrow_tenth', 'none')
    features = sum(path.stat().st_size for path in folders['activitynet_tenth'].glob('*/*.npy')) / 1e9
    return [Row(f'training on a tenth of ActivityNet 1.3, {features:.2f} GB of float16 features, `--cache ram`', [ram],
                'GB'),
            Row('the same, `--cache none`', [none], 'GB'),
            Row('what ten times as many videos add apart from their features (measured with features of width '
                f'{2 * narrow})', [growth], 'GB'),
            Row('computed for the whole: `--cache ram`, first line + 9 tenths of the features more + '
                'what the videos add', [ram + 9 * features + growth], 'GB', target='<= 24 GB'),
            Row('computed for the whole: `--cache none`, second line + what the videos add', [none + growth], 'GB',
                target='<= 2 GB')]


def extraction(data: Path, rounds: int, device: torch.device) -> list[Row]:
    """The stages from video to features."""
    from benchmarks import extraction    # what it needs is not installed everywhere
    return extraction.extraction(data, rounds, device)


GROUPS: dict[str, Callable[..., list[Row]]] = {
    'scoring': scoring, 'localization': localization, 'loading': loading, 'step': step, 'inference': inference,
    'training': training, 'memory': memory, 'extraction': extraction}
