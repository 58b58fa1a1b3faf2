"""Runs `main.py` in this process and tells where its seconds went and how much memory it took at most.

    python -m benchmarks.stages REPORT.json main.py's flags
"""
import functools
import importlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

STARTED = time.perf_counter()
ROOT = Path(__file__).resolve().parents[1]
STAGES = {
    'data_folder:read_annotations': 'annotations', 'inference:select_scored_videos': 'annotations',
    'data_folder:find_split': 'reading features', 'dataset:VideoDataset.__init__': 'reading features',
    'dataset:VideoDataset.sample': 'sampling rows', 'model:build_network': 'building the network',
    'model:read_weights': 'building the network', 'model:load_weights': 'building the network',
    'model:AICL.forward': 'forward passes', 'losses:aicl_losses': 'losses', 'model:mine': 'losses',
    'model:pseudo_labels': 'losses', 'torch:Tensor.backward': 'backward passes', 'torch:optim.Adam.step': 'optimizer',
    'inference:Evaluator.evaluate': 'rest of the evaluation', 'inference:Evaluator.look': 'rest of the evaluation',
    'inference:AsyncEvaluator.collect': 'waiting for an evaluation', 'inference:AsyncEvaluator.begin': 'rest of the evaluation',
    'main:record_evaluation': 'writing', 'run:LossBuffer.fetch': 'waiting for the steps',
    'training:Trainer.step': 'rest of the steps', 'training:Trainer.check_finite': 'waiting for the steps',
    'run:Run.log_losses': 'curves of the losses', 'eval.localization:localize': 'localization',
    'eval.detection:evaluate': 'scoring', 'eval.curves:pick_curves': 'writing', 'eval.curves:write_curves': 'writing',
    'eval.files:write_detections': 'writing', 'eval.files:write_detections_csv': 'writing',
    'eval.report:build_report': 'the report', 'utils:write_json': 'writing', 'run:write_checkpoint': 'writing',
}


class Clock:
    """Seconds by stage; of nested stages the outer one does not count what the inner one took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner = [0.]

    def add(self, stage: str, start: float) -> None:
        taken = time.perf_counter() - start
        self.seconds[stage] = self.seconds.get(stage, 0) + taken - self.inner.pop()
        self.inner[-1] += taken

    def timed(self, function: Callable, stage: str) -> Callable:
        @functools.wraps(function)
        def call(*args, **kwargs):
            if threading.current_thread() is not threading.main_thread():    # beside the steps: it costs them nothing
                return function(*args, **kwargs)
            self.inner.append(0.)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.add(stage, start)

        return call


def peak_memory() -> int:
    """The most bytes that were resident, shared libraries and mapped files included."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM:'):
            return 1024 * int(line.split()[1])
    raise OSError('the kernel tells no VmHWM')


def watch(clock: Clock) -> None:
    """Time the stages of a run. They do not overlap, so that with the rest they make up the whole."""
    project = [module for module in list(sys.modules.values())
               if str(getattr(module, '__file__', None)).startswith(str(ROOT))]
    for place, stage in STAGES.items():
        home, _, name = place.partition(':')
        owner = functools.reduce(getattr, name.split('.')[:-1], importlib.import_module(home))
        function = getattr(owner, name.split('.')[-1])
        timed = clock.timed(function, stage)
        setattr(owner, name.split('.')[-1], timed)
        for module in project:    # where `from ... import` has put it
            if vars(module).get(name) is function:
                setattr(module, name, timed)


def run(report: Path, argv: list[str]) -> int:
    clock = Clock()
    import inference  # noqa: F401 the rooms that main imports later, with torch: that takes long, so it is timed
    import main
    import run as folder  # noqa: F401
    import training  # noqa: F401
    clock.seconds['imports'] = time.perf_counter() - STARTED
    watch(clock)
    status = main.main(argv)
    report.write_text(json.dumps({'seconds': clock.seconds, 'inside': time.perf_counter() - STARTED,
                                  'peak_memory': peak_memory()}))
    return status


if __name__ == '__main__':
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]))
