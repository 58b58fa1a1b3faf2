"""Measure this repository next to references, and print Markdown tables.

    python -m benchmarks                                    all groups on the CPU
    python -m benchmarks step scoring --rounds 9            two of them
    python -m benchmarks --device cuda > cuda.md            on a GPU

A line and its reference take turns, round by round, so that other load on the machine slows both down: read the ratios
rather than the seconds. Synthetic data (2.7 GB) is written to data/bench once.
"""
import argparse
import gc
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import workloads
from benchmarks.workloads import ACTIVITYNET, ACTIVITYNET12, THUMOS14, Size, make_batch, make_trainer
from config import MODALITIES
from dataset import ShuffledSampler, VideoDataset, make_loader
from engine.checkpoint import commit
from engine.device import bf16_gain, pick_device
from engine.inference import EvaluatorOptions
from engine.runtime import configure
from eval.detection import evaluate
from eval.localization import Proposals, localize
from formats.annotations import GroundTruth, read_annotations
from formats.data_folder import find_split
from formats.detections import read_detections, write_detections
from model import AICL, TemporalConv1d
from utils import InputError, Parser, bounded, make_dir, run_cli

ROOT = Path(__file__).resolve().parents[1]
Calls = dict[str, Callable[[], object]]


class Setup(NamedTuple):
    """What a group measures: sizes, rounds, the device, and the folder of the synthetic data."""

    data: Path
    rounds: int
    device: torch.device
    thumos14: Size = THUMOS14
    activitynet: Size = ACTIVITYNET
    activitynet12: Size = ACTIVITYNET12


# ---- measuring ------------------------------------------------------------------------------------------------------

class Line(NamedTuple):
    """A line of a table."""

    what: str
    values: np.ndarray                          # (rounds, 2) wall and CPU seconds, or (1, 1) in another unit
    reference: str = ''                         # what it is compared with
    reference_values: np.ndarray | None = None  # of the same rounds
    unit: str = 's'

    def ratios(self) -> list[float]:
        """Return the median ratios to the reference: of wall times, then of CPU times."""
        if self.reference_values is None:
            return []
        with np.errstate(divide='ignore', invalid='ignore'):
            return np.median(self.values / self.reference_values, axis=0).tolist()


def clocks() -> np.ndarray:
    """Return (2,) wall-clock time, and CPU time of all threads and of the processes that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return np.array([time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages)])


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_in_turns(calls: Calls, rounds: int, repeats: int = 1) -> dict[str, np.ndarray]:
    """Return (rounds, 2) wall and CPU seconds of each call, after a round that does not count.

    With `repeats` a call is issued that many times per round, without waiting for the device in between.
    """
    times = {name: np.zeros((rounds, 2)) for name in calls}
    for i in range(-1, rounds):
        for name, call in calls.items():
            synchronize()
            start = clocks()
            for _ in range(repeats):
                call()
            synchronize()
            if i >= 0:
                times[name][i] = (clocks() - start) / repeats
    return times


def peak_allocated(call: Callable[[], object]) -> np.ndarray:
    """Return the peak of the memory that a call allocates, (1, 1) GB."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return np.array([[peak / 1e9]])


def run_python(*command: object) -> str:
    """Run Python with these arguments and return its standard output; raises RuntimeError if it fails."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f'{" ".join(map(str, command))} failed:\n{done.stderr}')
    return done.stdout


def main_flags(setup: Setup, size: Size, folder: Path, name: str, *flags: object) -> list[object]:
    """Return a command line of main.py."""
    return [*size.command(), '--data_path', folder, '--exp_name', name, '--output_dir', setup.data / 'outputs',
            '--device', setup.device.type, *flags]


def run_main(*flags: object) -> np.ndarray:
    """Run main.py in a process and return its peak memory, (1, 1) GB, shared libraries included."""
    # VmHWM, because ru_maxrss also counts this process, from which the other one is started.
    code = ('import sys; from main import main; status = main(sys.argv[1:]); '
            'print(open("/proc/self/status").read()); sys.exit(status)')
    peak = re.search(r'VmHWM:\s*(\d+)', run_python('-c', code, *flags))
    assert peak is not None
    return np.array([[1024 * int(peak[1]) / 1e9]])


# ---- the training step and the forward pass -------------------------------------------------------------------------

class PlainConv1d(nn.Conv1d):
    """nn.Conv1d in the dtype of its input, with outputs in that of its weight, as in model.TemporalConv1d."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, H, T) for x (N, D, T)."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return self._conv_forward(x, self.weight.to(x.dtype), bias).to(self.weight.dtype)


def use_plain_convolutions(network: nn.Module) -> None:
    """Replace every TemporalConv1d of a network by nn.Conv1d; the parameters remain the same objects."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, TemporalConv1d):
                plain = PlainConv1d(layer.in_channels, layer.out_channels, layer.kernel_size[0],
                                    padding=layer.kernel_size[0] // 2)
                plain.weight, plain.bias = layer.weight, layer.bias
                plain.weight.data = plain.weight.data.contiguous()  # nn.Conv1d's layout in memory
                setattr(parent, name, plain)


def matmuls(size: Size, precision: str, device: torch.device) -> Calls:
    """Return half of a forward pass and half of the weight gradients of a step, as one matmul each.

    (N T, 3D) @ (2H, 3D)^T and (N T, 2H)^T @ (N T, 3D): the convolutions of both branches have the same size.
    """
    args, dtype = size.args(), torch.bfloat16 if precision == 'bf16' else torch.float32
    rows, width, hidden = args.batch_size * args.num_segments, 3 * size.feature_dim, 2 * args.hidden_dim
    features, weights, gradient = (torch.rand(shape, device=device, dtype=dtype)
                                   for shape in ((rows, width), (hidden, width), (rows, hidden)))
    return {'forward': lambda: torch.mm(features, weights.t()), 'gradient': lambda: torch.mm(gradient.t(), features)}


def forward_pass(network: AICL, features: Tensor) -> Callable[[], object]:
    """Return a function that runs the network without gradients, on a GPU as a CUDA graph."""
    call = torch.inference_mode()(partial(network, features))
    if not features.is_cuda:
        return call
    call()  # initializes cuBLAS
    gc.collect()  # a graph freed during capture would invalidate it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def precisions(device: torch.device) -> tuple[str, ...]:
    """Return the precisions worth measuring on a device."""
    if device.type == 'cuda':
        return 'fp32', 'tf32', 'bf16'
    return ('fp32', 'bf16') if bf16_gain(device) > 1 else ('fp32',)


def step(setup: Setup) -> list[Line]:
    """Measure the training step and the forward pass of both recipes in every precision."""
    return [line for size in (setup.thumos14, setup.activitynet) for precision in precisions(setup.device)
            for line in step_lines(setup, size, precision)]


def step_lines(setup: Setup, size: Size, precision: str) -> list[Line]:
    """Measure step and forward pass as they are, with nn.Conv1d and, on a GPU, a step without its CUDA graph."""
    device, on_gpu, batch = setup.device, setup.device.type == 'cuda', make_batch(size, setup.device)
    configure(precision)
    torch.backends.cudnn.allow_tf32 = precision == 'tf32'  # of nn.Conv1d
    halves = matmuls(size, precision, device)
    calls: Calls = {}
    for variant in ['', ', nn.Conv1d'] + [', eager'] * on_gpu:
        trainer = make_trainer(size, device, '--precision', precision)
        trainer.use_cuda_graphs = on_gpu and variant != ', eager'
        if variant == ', nn.Conv1d':
            use_plain_convolutions(trainer.network)
        calls['training step' + variant] = partial(trainer.step, batch)
        if variant != ', eager':
            calls['forward pass' + variant] = forward_pass(trainer.network, batch.features)
    times = measure_in_turns(halves | calls, setup.rounds, 20 if on_gpu else 1)
    forward, gradient = 2 * times['forward'], 2 * times['gradient']
    return [Line(f'{size.dataset}, {precision}: {name}', times[name], 'its matmuls by `torch.mm`',
                 forward if name.startswith('forward') else forward + gradient) for name in calls]


# ---- loading, localization, scoring ---------------------------------------------------------------------------------

def loading(setup: Setup) -> list[Line]:
    """Measure a training batch from memory in float32 and float16, and from disk."""
    size, args = setup.thumos14, setup.thumos14.args()
    full = workloads.write_thumos14(setup.data / 'thumos14', size)
    half = workloads.write_thumos14(setup.data / 'thumos14_float16', size, np.float16)

    def epoch(root: Path, cache: str) -> Callable[[], object]:
        gt = read_annotations(root)
        videos = VideoDataset(find_split(root, 'train', gt, gt.labels, MODALITIES['all']), cache)
        sampler = ShuffledSampler(videos.lengths, args.num_segments, args.batch_size, True, np.random.RandomState(0))
        return lambda: sum(1 for _ in make_loader(videos, sampler))

    shape = args.batch_size, args.num_segments, 2 * size.feature_dim
    calls: Calls = {'from memory, float32': epoch(full, 'ram'), 'from memory, float16': epoch(half, 'ram'),
                    'from disk (page cache)': epoch(full, 'none')}
    copy: Calls = {'copy': torch.rand(shape).numpy().copy}
    times = measure_in_turns(calls | copy, setup.rounds)
    return [Line(f'a batch of {" x ".join(map(str, shape))} {name}', times[name] / (size.num_train // args.batch_size),
                 'copying an array of its size', times['copy']) for name in calls]


def localization(setup: Setup) -> list[Line]:
    """Measure the way from snippet scores to detections for THUMOS14, ActivityNet and ten times that."""
    def localizer(size: Size, gt: GroundTruth, times: int = 1) -> Callable[[], Proposals]:
        selection, probabilities, lengths = (np.concatenate([part] * times) for part in
                                             workloads.draw_selection(gt, size.args().num_segments))
        options = EvaluatorOptions.from_args(size.args()).localization
        return lambda: localize(selection, probabilities, lengths, options)

    few = localizer(setup.thumos14, workloads.thumos14_test_gt(setup.thumos14))
    large = workloads.activitynet_gt(setup.activitynet)
    one, ten = (localizer(setup.activitynet, large, times) for times in (1, 10))
    times = measure_in_turns({'few': few, 'one': one, 'ten': ten}, setup.rounds)
    return [Line(f'THUMOS14, {len(few().scores):,} detections', times['few']),
            Line(f'ActivityNet 1.3, {len(large.videos):,} videos, {len(one().scores):,} detections', times['one']),
            Line('ten times that', times['ten'], '10 x the line above', 10 * times['one']),
            Line('memory for ActivityNet 1.3', peak_allocated(one), unit='GB'),
            Line('memory for ten times that', peak_allocated(ten), unit='GB')]


def scoring(setup: Setup) -> list[Line]:
    """Measure mAP for THUMOS14, ActivityNet and ten times that, result files, and the whole command."""
    gt, large = workloads.thumos14_test_gt(setup.thumos14), workloads.activitynet_gt(setup.activitynet)
    tiou = [size.args().tiou for size in (setup.thumos14, setup.activitynet)]
    few = workloads.draw_detections(gt, setup.thumos14.num_detections)
    many = workloads.draw_detections(large, setup.activitynet.num_detections)
    workloads.write_annotations(setup.data, gt, {'test': gt.videos})
    small_file, large_file = setup.data / 'thumos14.json', setup.data / 'activitynet.json'
    write_detections(small_file, few)
    write_detections(large_file, many)
    files, content = (setup.data / 'gt.json', small_file), json.loads(large_file.read_text())
    parse = 'import json, sys, numpy; [json.load(open(path)) for path in sys.argv[1:]]'
    one, ten = partial(evaluate, large, many, tiou[1]), workloads.repeat_videos(large, many, 10)
    times = measure_in_turns({
        'few': partial(evaluate, gt, few, tiou[0]), 'one': one, 'ten': partial(evaluate, *ten, tiou[1]),
        'write': partial(write_detections, large_file, many), 'encode': partial(json.dumps, content),
        'read': partial(read_detections, large_file), 'decode': lambda: json.loads(large_file.read_text()),
        'command': partial(run_python, '-m', 'eval.detection', *files),
        'parse': partial(run_python, '-c', parse, *files)}, setup.rounds)
    return [Line(f'mAP, THUMOS14: {len(few.scores):,} detections, {len(tiou[0])} tIoUs', times['few']),
            Line(f'mAP, ActivityNet 1.3: {len(many.scores):,} detections, {len(tiou[1])} tIoUs', times['one']),
            Line('mAP, ten times that', times['ten'], '10 x the line above', 10 * times['one']),
            Line('memory for ActivityNet 1.3', peak_allocated(one), unit='GB'),
            Line(f'writing {len(many.scores):,} detections', times['write'], '`json.dumps`', times['encode']),
            Line('reading them, with all checks', times['read'], '`json.loads`', times['decode']),
            Line('`python -m eval.detection`, whole process', times['command'],
                 'a process that imports numpy and parses both files', times['parse'])]


# ---- whole processes ------------------------------------------------------------------------------------------------

def inference(setup: Setup) -> list[Line]:
    """Measure `python main.py --inference_only` against its forward passes, and its peak memory."""
    size, peaks = setup.thumos14, []
    folder = workloads.write_thumos14(setup.data / 'thumos14', size)
    flags = main_flags(setup, size, folder, 'inference', '--inference_only', '--model_file', folder / 'weights.pt')
    trainer, batch = make_trainer(size, setup.device), make_batch(size, setup.device)
    call = forward_pass(trainer.network, batch.features)
    num_videos = len(batch.videos)
    passes = -(-size.num_test // num_videos)
    times = measure_in_turns({'process': lambda: peaks.append(run_main(*flags)),
                              'forward': lambda: [call() for _ in range(passes)]}, setup.rounds)
    return [Line(f'`python main.py --inference_only`, {size.num_test} videos', times['process'],
                 'its forward passes alone', times['forward'] * size.num_test / (passes * num_videos)),
            Line('its peak memory', np.median(peaks, axis=0), unit='GB')]


def begin_training(flags: list[object]) -> None:
    """Start a training and kill it as soon as its progress bar appears, just before the first step."""
    command = [sys.executable, 'main.py', *map(str, flags)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        output = b''
        while b'training:' not in output:
            chunk = os.read(process.stderr.fileno(), 4096)
            output += chunk
            if not chunk:
                raise RuntimeError(f'{" ".join(command)} failed:\n{output.decode()}')
        process.kill()


def start(setup: Setup) -> list[Line]:
    """Measure `python main.py --help`, and a training up to its first step."""
    folder = workloads.write_thumos14(setup.data / 'thumos14', setup.thumos14)
    flags = main_flags(setup, setup.thumos14, folder, 'start', '--overwrite')
    reading = ('import sys, numpy, torch; from pathlib import Path; '
               '[numpy.load(path) for path in Path(sys.argv[1]).rglob("*.npy")]')
    times = measure_in_turns({
        'help': partial(run_python, 'main.py', '--help'), 'python': partial(run_python, '-c', 'pass'),
        'training': partial(begin_training, flags), 'reading': partial(run_python, '-c', reading, folder)},
        setup.rounds)
    return [Line('`python main.py --help`', times['help'], '`python -c pass`', times['python']),
            Line('a training from its start to its first step', times['training'],
                 'a process that imports torch and reads the features', times['reading'])]


def memory(setup: Setup) -> list[Line]:
    """Measure the peak memory of trainings: THUMOS14, and a tenth of ActivityNet 1.3."""
    full, size = setup.thumos14, setup.activitynet
    tenth = size._replace(num_train=size.num_train // 10, num_test=size.num_test // 10)
    folder = workloads.write_activitynet(setup.data / 'activitynet_tenth', tenth)
    gigabytes = sum(path.stat().st_size for path in folder.glob('*/*.npy')) / 1e9
    tenth_of = f'a tenth of ActivityNet 1.3 ({gigabytes:.2f} GB of features)'
    runs = [('THUMOS14', full, workloads.write_thumos14(setup.data / 'thumos14', full), 'ram'),
            (tenth_of, tenth, folder, 'ram'), (tenth_of, tenth, folder, 'none')]
    return [Line(f'training on {name}, `--cache {cache}`', run_main(*main_flags(
                setup, recipe, data, 'memory', '--cache', cache, '--num_steps', 10, '--detection_inf_step', 'never',
                '--overwrite')), unit='GB') for name, recipe, data, cache in runs]


def schedule(setup: Setup) -> list[Line]:
    """Measure the whole training on THUMOS14 in every precision, one run each."""
    folder = workloads.write_thumos14(setup.data / 'thumos14', setup.thumos14)
    lines: list[Line] = []
    for precision in precisions(setup.device):
        started = clocks()
        run_main(*main_flags(setup, setup.thumos14, folder, f'schedule_{precision}', '--precision', precision,
                             '--overwrite'))
        seconds = (clocks() - started)[None]
        fp32 = lines[0].values if lines else seconds
        lines.append(Line(f'`python main.py`, whole process, {precision}', seconds, 'the same in fp32', fp32))
    return lines


def activitynet(setup: Setup) -> list[Line]:
    """Measure the whole training on ActivityNet 1.2 and 1.3 in the last precision, one run each, on 15 GB of noise."""
    lines, precision = [], precisions(setup.device)[-1]
    for size in (setup.activitynet12, setup.activitynet):
        folder = workloads.write_activitynet(setup.data / size.dataset, size)
        started = clocks()
        run_main(*main_flags(setup, size, folder, f'schedule_{size.dataset}', '--precision', precision, '--overwrite'))
        lines.append(Line(f'`python main.py --dataset {size.dataset}`, whole process, {precision}',
                          (clocks() - started)[None]))
    return lines


# ---- extraction -----------------------------------------------------------------------------------------------------

def extraction(setup: Setup) -> list[Line]:
    """Measure decoding against bare PyAV, the overlap of both, and I3D against its matmuls."""
    try:
        import av
        from torch.utils.flop_counter import FlopCounterMode

        from extraction.frames import read_frames
        from extraction.i3d import CHANNELS, I3D, Weights, build_i3d
    except ModuleNotFoundError as error:
        raise InputError(f'extraction: {error.name} is not installed; pip install -r requirements-video.txt') from None
    lines, clip = [], workloads.SHARED / 'video' / 'women_long_jump.mp4'

    def read() -> int:
        return sum(1 for _ in read_frames(clip, 25, '340x256'))

    def read_plain() -> None:
        with av.open(str(clip)) as container:
            for frame in container.decode(video=0):
                frame.reformat(340, 256, 'rgb24', interpolation='BILINEAR').to_ndarray()

    if clip.is_file():
        times = measure_in_turns({'ours': read, 'plain': read_plain}, setup.rounds)
        lines.append(Line('a frame at 25 fps, resized to 340 x 256', times['ours'] / read(),
                          'PyAV: decode, reformat to RGB', times['plain'] / read()))
        lines += [overlap(setup, clip, crop) for crop in (112, 224)]
    if setup.device.type == 'cuda':
        return lines

    side, batch_size, operations = 2048, 2, {}
    matrix = torch.rand(side, side)
    calls: Calls = {'matmul': lambda: torch.mm(matrix, matrix)}
    for modality, channels in CHANNELS.items():
        network = build_i3d(Weights('', modality, '', '', I3D(modality).state_dict()))
        calls[modality] = partial(network, torch.rand(batch_size, channels, 16, 224, 224))
        with FlopCounterMode(display=False) as counter:
            calls[modality]()
        operations[modality] = counter.get_total_flops()
    times = measure_in_turns(calls, setup.rounds)
    for modality, count in operations.items():
        lines.append(Line(f'I3D ({modality}) per snippet, {count / batch_size / 1e9:.1f} GFLOP',
                          times[modality] / batch_size, '`torch.mm` of as many FLOP',
                          times['matmul'] * count / batch_size / (2 * side ** 3)))
    return lines


def overlap(setup: Setup, clip: Path, crop: int, num_rows: int = 8) -> Line:
    """Measure a second of video, from the file to RGB features, against the slower of decoding and network alone.

    On a CPU the first rows of the clip, on a GPU 32 copies of the whole clip.
    """
    from extraction.decoders import Recipe, count_processes, read_videos
    from extraction.i3d import I3D, Weights, build_i3d
    from extraction.snippets import SNIPPET_FRAMES, End, Network, Snippet, extract_videos

    on_gpu = setup.device.type == 'cuda'
    recipe, clips = Recipe(resize=f'short{crop * 8 // 7}', crop=crop), [clip] * (32 if on_gpu else 1)
    processes = count_processes(len(os.sched_getaffinity(0)), len(clips), recipe, setup.device)
    weights = Weights('', 'rgb', '', '', I3D('rgb').state_dict())
    networks: dict[str, Network] = {'rgb': build_i3d(weights, device=setup.device)}

    def decode() -> Iterator[Snippet | End]:
        items = read_videos(clips, recipe, processes)
        return items if on_gpu else chain(islice(items, num_rows), [End(0, 0)])

    def compute(items: Iterable[Snippet | End]) -> None:
        for _ in extract_videos(items, networks, batch_size=32 if on_gpu else 2, device=setup.device):
            pass

    snippets = [item for item in decode() if isinstance(item, Snippet)]
    resident: list[Snippet | End] = [*snippets, *(End(video, 0) for video in range(len(clips)))]
    times = measure_in_turns({'whole': lambda: compute(decode()), 'decoding': lambda: [None for _ in decode()],
                              'network': lambda: compute(resident)}, setup.rounds)
    seconds = len(snippets) * SNIPPET_FRAMES / recipe.fps
    slower = max('decoding', 'network', key=lambda name: np.median(times[name][:, 0]))
    return Line(f'a second of video, from file to RGB features, {crop} pixels', times['whole'] / seconds,
                f'{slower} alone', times[slower] / seconds)


# ---- the tables -----------------------------------------------------------------------------------------------------

GROUPS: dict[str, dict[str, Callable[[Setup], list[Line]]]] = {
    'cpu': {'step': step, 'loading': loading, 'localization': localization, 'scoring': scoring,
            'inference': inference, 'start': start, 'memory': memory, 'extraction': extraction},
    'cuda': {'step': step, 'inference': inference, 'start': start, 'schedule': schedule, 'activitynet': activitynet,
             'extraction': extraction}}


def show(value: float, unit: str) -> str:
    """Return a number with three digits and its unit; short times in milliseconds."""
    if unit == 's' and value < 1:
        value, unit = 1000 * value, 'ms'
    digits = max(0, 2 - int(np.floor(np.log10(abs(value))))) if value else 0
    return f'{value:.{min(digits, 4)}f} {unit}'


def format_table(lines: list[Line]) -> str:
    """Return the lines in Markdown."""
    head = ['', 'median', 'fastest - slowest', 'reference', 'ratio', 'ratio of CPU times']
    rows = [head, ['---'] * len(head)]
    for line in lines:
        values = line.values[:, 0]
        spread = f'{show(values.min(), line.unit)} - {show(values.max(), line.unit)}' if len(values) > 1 else 'one run'
        reference = '' if line.reference_values is None else (
            f'{show(float(np.median(line.reference_values[:, 0])), line.unit)}, {line.reference}')
        ratios = [f'{ratio:.2f}' if np.isfinite(ratio) else '' for ratio in line.ratios()]
        rows.append([line.what, show(float(np.median(values)), line.unit), spread, reference,
                     *(ratios + ['', ''])[:2]])
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def describe_machine(device: torch.device) -> str:
    """Return the date, the commit, the machine and the versions in one line."""
    info = Path('/proc/cpuinfo').read_text()
    cpu = next((line.split(':')[1].strip() for line in info.splitlines() if line.startswith('model name')), 'CPU')
    ram = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2 ** 30
    gpu = f', {torch.cuda.get_device_name(device)}' if device.type == 'cuda' else ''
    return (f'{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {commit()[:12]}, {cpu}, {os.cpu_count()} cores, '
            f'{ram:.0f} GiB{gpu}; Python {platform.python_version()}, torch {torch.__version__}, '
            f'{torch.get_num_threads()} threads; load average {os.getloadavg()[0]:.1f}')


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = Parser(prog='python -m benchmarks', description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('groups', nargs='*', metavar='GROUP', help='default: all; ' + '; '.join(
        f'{device}: {" ".join(groups)}' for device, groups in GROUPS.items()))
    parser.add_argument('--rounds', type=bounded(int, 1), default=7, help='rounds of each group (default: 7)')
    parser.add_argument('--device', choices=GROUPS, default='cpu', help='device to measure (default: cpu)')
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'bench', help='folder of the synthetic data')
    args = parser.parse_args(argv)
    groups = GROUPS[args.device]
    if unknown := [name for name in args.groups if name not in groups]:
        parser.error(f'unknown group {", ".join(unknown)}: use {", ".join(groups)}')

    def measure() -> None:
        setup = Setup(args.data.resolve(), args.rounds, pick_device(args.device))
        make_dir(setup.data, 'choose another --data')
        for name in args.groups or groups:
            machine = describe_machine(setup.device)
            print(f'### {name}\n\n{machine}\n\n{format_table(groups[name](setup))}\n', flush=True)

    return run_cli(measure)


if __name__ == '__main__':
    sys.exit(main())
