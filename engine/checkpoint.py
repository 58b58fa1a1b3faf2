"""Checkpoints of a run, and weights files under the released parameter names."""
import hashlib
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn

from config import MUTABLE_ON_RESUME
from dataset import UniformSampler, VideoDataset
from engine.torch_io import read_torch_file, save
from formats.annotations import GroundTruth
from utils import InputError, is_json, plural, preview, truncate, warn

CHECKPOINTS = 'checkpoint.next.pt', 'checkpoint.pt', 'checkpoint.previous.pt'  # the first only after a kill
CODE_FOLDERS = '', 'engine', 'eval', 'formats'  # what a training run imports
CLASSIFIER_KEY = 'actionness_module.cls.0.weight'  # (C, H, 1)
SAMPLED_BYTES = 2 ** 26  # of a split's features that are hashed, about: a fifth of a second


# ---- weights --------------------------------------------------------------------------------------------------------

def read_weights(path: str | Path) -> dict:
    """Read a dictionary of parameters; raises InputError as `read_torch_file`, and for anything else."""
    state = read_torch_file(path)
    if not isinstance(state, dict):
        raise InputError(f'{path}: contains a {type(state).__name__}, not a dictionary of parameters')
    return state


def is_dense(value: object) -> TypeGuard[Tensor]:
    """Return whether this is a dense tensor that is stored in full, so that its size is bounded by its file."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout != torch.strided:
        return False
    if value.is_quantized or value.device.type == 'meta':
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def strip_wrappers(state: dict) -> dict:
    """Return the parameters of a dictionary under 'state_dict', and without DataParallel's `module.`."""
    state = state['state_dict'] if isinstance(state.get('state_dict'), dict) else state
    return {str(name).removeprefix('module.'): value for name, value in state.items()}


def infer_num_classes(state: dict, path: str | Path) -> int:
    """Return C, the number of classes that weights were trained on."""
    weight = state.get(CLASSIFIER_KEY)
    if not is_dense(weight) or not weight.ndim:
        fix = 'use best.pt or last.pt in the same folder' if 'optimizer' in state else 'these are not weights of AICL'
        raise InputError(f'{path}: {CLASSIFIER_KEY} is missing; {fix}')
    return weight.shape[0]


def infer_modality(state: dict) -> str | None:
    """Return the --modal that weights were trained with, None for neither stream."""
    found = [modality for modality in ('rgb', 'flow') if any(f'_{modality}.' in str(name) for name in state)]
    return 'all' if len(found) == 2 else found[0] if found else None


def load_weights(model: nn.Module, state: dict, path: str | Path) -> None:
    """Load parameters under the released names into `model`, from any device and floating point type.

    Unknown parameters are ignored with a warning, as the released code does. Raises InputError with the first missing,
    mis-shaped or non-finite parameters.
    """
    own = model.state_dict()
    unknown = [str(name) for name in state if name not in own]
    problems = [f'{name} is missing' for name in own if name not in state]
    problems += [f'{truncate(name)} is unknown' for name in unknown if problems]
    for name in (name for name in own if name in state):
        value = state[name]
        if not is_dense(value) or not value.is_floating_point():
            problems.append(f'{name} is not a dense floating point tensor')
        elif value.shape != own[name].shape:
            problems.append(f'{name} is {tuple(value.shape)} instead of {tuple(own[name].shape)}')
        elif not torch.isfinite(value.to(own[name].dtype)).all():
            problems.append(f'{name} contains NaN or infinity')
    if problems:
        theirs, ours = infer_modality(state), infer_modality(own)
        cause = f'was trained with --modal {theirs}, not {ours}, and ' if theirs not in (None, ours) else ''
        weight, width = state.get(CLASSIFIER_KEY), own[CLASSIFIER_KEY].shape[1]
        if is_dense(weight) and weight.ndim == 3 and weight.shape[1] != width:
            cause += f'was trained with --hidden_dim {weight.shape[1]}, not {width}, and '
        raise InputError(f'{path}: {cause}does not match this network: {preview(problems, 5)}')
    if unknown:
        warn(f'{path}: {plural(len(unknown), "parameter")} that this network does not have are ignored: '
             f'{preview(unknown)}')
    model.load_state_dict({name: state[name] for name in own})


def load_class_names(model_file: str, data_path: str, gt: GroundTruth, num_classes: int) -> list[str]:
    """Return the class names of weights: labels.txt in their folder, else the labels of the annotations, else numbers.

    Raises InputError where their number does not match.
    """
    path = Path(model_file).with_name('labels.txt')
    try:
        text = path.read_text(encoding='utf-8') if path.is_file() else ''
        names = text.removesuffix('\n').split('\n') if text else []  # splitlines() also splits at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'{path}: not a readable text file ({truncate(error)}); write one class per line') from None
    if len(names) == num_classes == len(set(names)):
        if unknown := [label for label in gt.labels if label not in names]:
            warn(f'{data_path}: {plural(len(unknown), "label")} of the annotations are not among the {num_classes} '
                 f'classes in {path} and cannot be detected: {preview(unknown)}')
        return names
    if names:
        warn(f'{path}: lists {len(names)} classes, the weights have {num_classes}; ignored')
    if not gt.labels:
        warn(f'{data_path}: no class names in the data and no matching {path}; using class_0, class_1, ...')
        return [f'class_{c}' for c in range(num_classes)]
    if len(gt.labels) != num_classes:
        raise InputError(f'{model_file}: was trained on {num_classes} classes, but {data_path}/gt.json has '
                         f'{len(gt.labels)}; use the gt.json of the training data, or copy the labels.txt of the '
                         f'training next to the weights')
    return gt.labels


# ---- checkpoints ----------------------------------------------------------------------------------------------------

class TrainingState(NamedTuple):
    """What a training resumes from, as tensors and plain values."""

    loop: dict   # the fields of trainer.LoopState
    rng: dict    # see runtime.get_rng_state
    model: dict  # the network's parameters
    optimizer: dict


class Checkpoint(NamedTuple):
    """What a run resumes from. In the file, the parts of the training are on the same level as the others."""

    args: dict         # of the command line
    data: dict         # see `data_fingerprint`
    environment: dict  # see `environment_fingerprint`
    training: TrainingState
    results: dict      # 'best' and 'last': their blocks of results.json; empty before the first evaluation
    best: dict | None  # the best weights


# Keys of checkpoint.pt that have another name here, so that runs of earlier versions can be resumed.
FILE_KEYS = {'data': 'identity', 'environment': 'machine', 'loop': 'progress', 'rng': 'random'}
LOOP_KEYS = {'batch_in_epoch': 'position', 'sampler_rng_start': 'rows_start'}


def rename_keys(value: dict, names: dict[str, str]) -> dict:
    """Return a dictionary with some keys replaced."""
    return {names.get(key, key): item for key, item in value.items()}


def to_file(checkpoint: Checkpoint) -> dict:
    """Return the content of checkpoint.pt without its digest."""
    state = checkpoint._asdict()
    training = state.pop('training')._asdict()
    training['loop'] = rename_keys(training['loop'], LOOP_KEYS)
    return rename_keys({**state, **training}, FILE_KEYS)


def from_file(state: dict) -> Checkpoint:
    """Return the checkpoint in a file; raises InputError where its structure is not that of one."""
    state = {'environment': {}, **rename_keys(state, {key: name for name, key in FILE_KEYS.items()})}
    names = {*Checkpoint._fields, *TrainingState._fields} - {'training'}
    if state.keys() != names or not all(isinstance(state[name], dict) for name in names - {'best'}):
        raise InputError('is not a checkpoint of this program')
    if not all(is_json(state[name]) for name in ('args', 'data', 'environment', 'results')):
        raise InputError('contains arguments, data or results that are not plain values')
    state['loop'] = rename_keys(state['loop'], {key: name for name, key in LOOP_KEYS.items()})
    training = TrainingState(*(state.pop(name) for name in TrainingState._fields))
    return Checkpoint(training=training, **state)


def sha256_of(value: Any, sha: Any = None) -> str:
    """Return the SHA-256 of nested dictionaries, lists, tensors and plain values."""
    sha = sha or hashlib.sha256()
    if isinstance(value, Tensor):
        sha.update(f'{value.dtype} {tuple(value.shape)}'.encode())
        plain = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # any strides
        sha.update(plain.flatten().view(torch.uint8).numpy())
    elif isinstance(value, (dict, list, tuple)):
        sha.update(f'{type(value).__name__} {len(value)}'.encode())
        for item in value.items() if isinstance(value, dict) else value:
            sha256_of(item, sha)
    else:
        sha.update(repr(value).encode())
    return sha.hexdigest()


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write checkpoint.pt with its digest; the previous one is kept as checkpoint.previous.pt."""
    tmp, path, previous = (folder / name for name in CHECKPOINTS)
    state = to_file(checkpoint)
    save({**state, 'digest': sha256_of(state)}, tmp)
    if path.exists():
        os.replace(path, previous)
    os.replace(tmp, path)


def write_initial_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the first checkpoint of a new run over that of an earlier one.

    It is written before every other file, so that a folder with files of a run always has a checkpoint.
    """
    tmp, _, previous = (folder / name for name in CHECKPOINTS)
    tmp.unlink(missing_ok=True)
    write_checkpoint(folder, checkpoint)
    previous.unlink(missing_ok=True)


def remove_previous(folder: Path) -> None:
    """Remove checkpoint.previous.pt of a finished run, once checkpoint.pt would survive a power loss."""
    _, path, previous = (folder / name for name in CHECKPOINTS)
    if previous.exists():
        try:
            with open(path, 'rb') as file:
                os.fsync(file.fileno())
            previous.unlink()
        except OSError as error:
            raise InputError(f'{path}: cannot be written: {error.strerror}') from None


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest valid checkpoint of a run, None where there is none; raises InputError if all are damaged."""
    paths = [path for path in map(folder.joinpath, CHECKPOINTS) if path.exists()]
    for path in paths:
        try:
            state = read_weights(path)
            expected = state.pop('digest', None)
            if sha256_of(state) == expected:
                return from_file(state)
            problem = f'{path}: damaged, its content does not match its digest {truncate(expected, 70)}'
        except InputError as error:
            problem = str(error) if str(path) in str(error) else f'{path}: {error}'
        except (RecursionError, RuntimeError, TypeError, ValueError) as error:  # sha256_of, of a crafted file
            problem = f'{path}: damaged ({truncate(error, 80)})'
        warn(f'{problem}; trying the previous checkpoint')
    if paths:
        raise InputError(f'{folder}: no checkpoint can be read; fix what the warnings name, or start again with '
                         f'--overwrite')
    return None


def check_resumable(folder: Path, saved: Checkpoint, current: Checkpoint) -> None:
    """Raise InputError with the arguments and data in which this invocation differs from the saved run."""
    changed = [f'--{name} was {truncate(repr(value))} and is {current.args[name]!r}'
               for name, value in saved.args.items()
               if name not in MUTABLE_ON_RESUME and current.args.get(name, value) != value]
    changed += [f'the {name} differ' for name, value in current.data.items() if saved.data.get(name, value) != value]
    if changed:
        raise InputError(f'{folder}: cannot be resumed with other settings or data: {"; ".join(changed)}; restore '
                         f'them, or start again with --overwrite')
    if unknown := [name for name in current.data if name not in saved.data]:
        warn(f'{folder}: its checkpoint is from an older version that did not record the {", ".join(unknown)}; '
             f'whether they are the same is not checked')
    differences = [f'{name} ({truncate(saved.environment[name], 40)}, now {value})'
                   for name, value in current.environment.items()
                   if name != 'versions' and saved.environment.get(name, value) != value]
    warn_other_code(folder, saved, current)
    if differences:
        warn(f'{folder}: resumes with different {", ".join(differences)}; the last digits may differ from those of an '
             f'uninterrupted run')


def check_unfinished(folder: Path, saved: Checkpoint, num_steps: int) -> None:
    """Raise InputError where `num_steps` is before the saved step, or at it without an evaluation of it."""
    step, evaluated = saved.training.loop['step'], saved.results.get('last', {}).get('step')
    if num_steps < step or num_steps == step != evaluated:
        raise InputError(f'{folder}: already at step {step} of {num_steps}; raise --num_steps or --num_epochs')


# ---- versions -------------------------------------------------------------------------------------------------------

@cache
def code_version() -> dict[str, str]:
    """Return the commit of this program and the SHA-256 of its files, which needs no git."""
    sha, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(path for folder in CODE_FOLDERS for path in (root / folder).glob('[!.]*.py')):
        sha.update(f'{path.relative_to(root)} {path.stat().st_size}\n'.encode() + path.read_bytes())
    return {'commit': commit(), 'code': sha.hexdigest()[:16]}


def commit() -> str:
    """Return the commit of this program, with -dirty for modified files; 'unknown' outside of a git checkout."""
    root = str(Path(__file__).parents[1])
    command = ['git', '-C', root, 'describe', '--always', '--dirty', '--abbrev=40', '--exclude=*']
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return 'unknown'


def current_versions() -> dict[str, str]:
    """Return the versions of the code and its libraries."""
    return {**code_version(), 'python': platform.python_version(), 'torch': str(torch.__version__),
            'numpy': np.__version__}


def versions_of(checkpoint: Checkpoint) -> list[dict]:
    """Return the versions that trained a run in their order, each with the step from which; [] if not recorded."""
    versions = checkpoint.environment.get('versions')
    return versions if isinstance(versions, list) and all(isinstance(one, dict) for one in versions) else []


def with_history(current: Checkpoint, saved: Checkpoint) -> Checkpoint:
    """Return `current` with the versions of the run that it resumes."""
    history = versions_of(saved)
    now = {**versions_of(current)[-1], 'step': saved.training.loop['step']}
    if not history or {**history[-1], 'step': now['step']} != now:
        history = [*history, now]
    return current._replace(environment={**current.environment, 'versions': history})


def warn_other_code(folder: Path, saved: Checkpoint, current: Checkpoint) -> None:
    """Warn where the code differs from that of the saved run."""
    if not versions_of(saved):
        return
    before, now = versions_of(saved)[-1], versions_of(current)[-1]
    commits = [str(one.get('commit', 'unknown')).removesuffix('-dirty') for one in (before, now)]
    if before.get('code') != now['code'] or 'unknown' not in commits and commits[0] != commits[1]:
        shown = [f'commit {truncate(one.get("commit"), 50)}, code {truncate(one.get("code"), 20)}'
                 for one in (before, now)]
        warn(f'{folder}: resumes with another version of the code ({shown[0]}; now {shown[1]}); the results may be '
             f'those of neither, args.json lists both')


# ---- fingerprints ---------------------------------------------------------------------------------------------------

def environment_fingerprint(device: torch.device, world_size: int) -> dict:
    """Return what determines the last digits besides the arguments: the order of summation and the versions."""
    model = torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()
    return {'threads': torch.get_num_threads(), 'ranks': world_size, 'device': f'{device.type} {model}',
            'instruction set': torch.backends.cpu.get_cpu_capability(), 'torch': str(torch.__version__),
            'numpy': np.__version__, 'versions': [{**current_versions(), 'step': 0}]}


def data_fingerprint(train_set: VideoDataset, test_set: VideoDataset, gt: GroundTruth | None) -> dict:
    """Return what a run reads, by the names used in messages; large parts as digests.

    `gt` is what the test videos are scored against.
    """
    arrays = [torch.from_numpy(part) if isinstance(part, np.ndarray) else part
              for part in (gt[:gt._fields.index('warnings')] if gt else ())]  # which contain the path
    return {'classes': train_set.class_names, 'training videos': train_set.names,
            'lengths of videos': train_set.lengths, 'training labels': sha256_of(train_set.labels),
            'training features': hash_features(train_set), 'test videos': test_set.names,
            'lengths of test videos': test_set.lengths, 'test annotations': sha256_of(arrays),
            'test features': hash_features(test_set)}


def hash_features(videos: VideoDataset) -> str:
    """Return the SHA-256 of a split's features: of all if they are few, else of rows spread evenly over every video."""
    max_rows = SAMPLED_BYTES // (4 * videos.num_features * len(videos))
    num_rows = min(max(max_rows, 2), max(videos.lengths))
    sha = hashlib.sha256(repr((videos.lengths, videos.num_features)).encode())
    for indices in UniformSampler(videos.lengths, num_rows, batch_size=32):
        sha.update(videos.sample(indices).cpu().numpy().data)
    return sha.hexdigest()
