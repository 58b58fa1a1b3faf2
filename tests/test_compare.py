"""Finding the recipe of published features: the rows of each variant match that variant best."""
import json
from fractions import Fraction
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

av = pytest.importorskip('av', reason='needs PyAV: pip install -r requirements-video.txt')
cv2 = pytest.importorskip('cv2', reason='needs OpenCV: pip install -r requirements-video.txt')

from extraction import compare  # noqa: E402
from extraction.compare import Grid, count_rows, flow_fields, main, rank_variants, rows_of_variants  # noqa: E402
from extraction.flow_workers import FlowPool, FlowRecipe  # noqa: E402
from extraction.frames import read_frames  # noqa: E402
from extraction.i3d import I3D, load_i3d  # noqa: E402
from extraction.snippets import extract  # noqa: E402

GRID = Grid(fps=(25, 30), resize=('short48', 'squash40'), crop=(40, 48), offset=(-3, 0, 1))


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    """Two seconds at 30 frames per second of a texture that moves faster and faster."""
    path = tmp_path_factory.mktemp('video') / 'clip.mp4'
    rng = np.random.RandomState(0)
    texture = cv2.resize(rng.uniform(0, 255, (40, 60, 3)), (640, 400), interpolation=cv2.INTER_CUBIC).clip(0, 255)
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('mpeg4', rate=30, options={'qscale': '2'})
        stream.width, stream.height, stream.pix_fmt = 128, 72, 'yuv420p'
        stream.time_base = stream.codec_context.time_base = Fraction(1, 30)
        for i in range(60):
            x, y = 4 * i + i * i // 40, 2 * i
            image = np.ascontiguousarray(texture[y:y + 72, x:x + 128].astype(np.uint8))
            frame = av.VideoFrame.from_ndarray(image, 'rgb24')
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def stand_in(clip, epsilon):
    """A fast network that depends on every pixel and frame: (N, C, 16, H, W) -> (N, 1, 1024)."""
    seen = F.adaptive_avg_pool3d(clip, (8, 8, 8)).flatten(1)[:, :1024]
    return (seen / (seen.square() + 0.1 + 100 * epsilon).sqrt())[:, None]


NETWORKS = {(stream, epsilon): partial(stand_in, epsilon=epsilon)
            for stream in ('rgb', 'flow') for epsilon in GRID.epsilon}


@cache
def decoded(video, fps, resize):
    return list(read_frames(video, fps, resize))


def made_with(video, variant, network):
    """Return the rows that the extraction computes with this recipe."""
    frames = decoded(video, variant.fps, variant.resize)
    frames = [frames[0]] * -variant.offset + frames[max(0, variant.offset):]
    with FlowPool(FlowRecipe('dis', 20, bool(variant.quantized), variant.crop), 0) as pool:
        return extract(frames, {variant.stream: network}, pool, variant.crop).streams[variant.stream]


@pytest.fixture(scope='module')
def all_rows(video):
    with FlowPool(partial(flow_fields, 'dis'), 0) as pool:
        return rows_of_variants(video, GRID, NETWORKS, pool, 9)


def test_every_variant_is_computed_once(all_rows):
    sizes = 2 * (2 + 1)  # frame rates, and crops that fit into each size: 48 is too large for 40 pixels
    assert len(all_rows) == sizes * 2 * 3 * (1 + 2)  # epsilons, offsets, RGB and two kinds of flow
    assert not any(variant.resize == 'squash40' and variant.crop == 48 for variant in all_rows)


def test_the_right_variant_matches_best(video, all_rows):
    lengths = count_rows(video, GRID)
    for variant in all_rows:
        rows = made_with(video, variant, NETWORKS[variant.stream, variant.epsilon])
        others = {one: own for one, own in all_rows.items() if one.stream == variant.stream}
        best, second = rank_variants(others, lengths, {variant.stream: rows})[:2]
        assert best.variant == variant
        assert best.rows == len(rows) == len(best.cosines)  # every row was compared, the last one too
        assert best.distance < 1e-6 and min(best.cosines) > 1 - 1e-9
        assert second.cosine < best.cosine - 1e-7


def test_only_the_first_rows_are_computed(video, all_rows):
    grid = GRID._replace(fps=(25,), resize=('short48',))
    with FlowPool(partial(flow_fields, 'dis'), 0) as pool:
        first = rows_of_variants(video, grid, NETWORKS, pool, 1)
    for variant, rows in first.items():
        assert rows.shape == (1, 1024)
        np.testing.assert_allclose(rows, all_rows[variant][:1], atol=1e-6)


def test_rows_are_compared_up_to_the_shorter_of_both(video, all_rows):
    lengths = count_rows(video, GRID)
    assert lengths[25, 0] == 3 and lengths[30, 0] == 3 and lengths[25, 1] == 3 and lengths[25, -3] == 3
    variant = next(iter(all_rows))
    long = np.concatenate([all_rows[variant], np.ones((5, 1024))])
    one = next(one for one in rank_variants(all_rows, lengths, {'rgb': long, 'flow': long}) if one.variant == variant)
    assert len(one.cosines) == lengths[variant.fps, variant.offset]


# ---- the command ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    folder, flags = tmp_path_factory.mktemp('weights'), []
    for modality in ('rgb', 'flow'):
        torch.manual_seed(0)
        network = I3D(modality)
        for module in network.modules():  # so that activations do not vanish over the layers
            if isinstance(module, torch.nn.Conv3d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_var.fill_(0.01)  # where the epsilon matters
                module.weight.data.fill_(0.1)
        torch.save(network.state_dict(), folder / f'{modality}.pt')
        flags += [f'--{modality}_weights', str(folder / f'{modality}.pt')]
    return flags


SMALL = ['--fps', '25', '30', '--resize', 'short48', '--crop', '40', '--offset', '0', '2', '--flow', 'dis', '--rows',
         '2', '--workers', '0', '--device', 'cpu']


def test_the_command_finds_the_recipe_through_the_network_and_writes_it(video, weights, tmp_path, capsys):
    recipe = {'fps': 30, 'resize': 'short48', 'crop': 40, 'epsilon': 1e-5, 'offset': 2}  # not the defaults
    streams = [made_with(video, compare.Variant(stream, quantized=quantized, **recipe), load_i3d(file, stream, 1e-5))
               for stream, quantized, file in (('rgb', None, weights[1]), ('flow', False, weights[3]))]
    np.save(tmp_path / 'joint.npy', np.concatenate(streams, axis=1))
    capsys.readouterr()
    output = tmp_path / 'out.json'
    output.write_text('foreign')
    argv = [str(video), str(tmp_path / 'joint.npy'), '--output', str(output), *weights, *SMALL]
    assert main(argv) == 2 and output.read_text() == 'foreign'
    assert 'is a file of another kind' in capsys.readouterr().err
    assert main([*argv, '--overwrite']) == 0
    capsys.readouterr()
    assert main(argv) == 0  # its own output
    content = json.loads(output.read_text())
    assert content['published_rows'] == {'rgb': 3, 'flow': 3}
    for stream, quantized in (('rgb', None), ('flow', False)):
        of_stream = [one for one in content['variants'] if one['stream'] == stream]
        assert len(of_stream) == {'rgb': 8, 'flow': 16}[stream]
        best = of_stream[0]
        assert best.items() >= (recipe | {'stream': stream, 'quantized': quantized, 'rows': 3}).items()
        assert len(best['cosines']) == 2 and best['distance'] < 1e-4
        assert [one['cosine'] for one in of_stream] == sorted((one['cosine'] for one in of_stream), reverse=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + 8 + 16
    assert lines[1].split()[:1] == ['1.000000'] and lines[1].split()[-1] == '2'


@pytest.mark.parametrize('names, streams', [
    (['flow.npy'], ['flow']), (['x_RGB.npy'], ['rgb']), (['rgb/v.npy', 'flow/v.npy'], ['rgb', 'flow']),
    (['my_rgb/flow.npy'], ['flow']), (['rgb_and_flow/rgb/flow_and_rgb.npy'], ['rgb'])])
def test_the_nearest_name_determines_the_stream(tmp_path, names, streams):
    for value, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, np.full((2, 1024), value, np.float16))
    published = compare.read_published([str(tmp_path / name) for name in names])
    assert [(stream, rows[0, 0]) for stream, rows in published.items()] == list(zip(streams, range(2)))


@pytest.mark.parametrize('name, content, message', [
    ('v.npy', np.ones((3, 1024)), 'neither its name nor that of a folder'),
    ('rgb.npy', np.ones((3, 1000)), 'contains (3, 1000), not'),
    ('rgb.npy', np.ones((0, 1024)), 'contains (0, 1024), not'),
    ('rgb.npy', np.full((3, 1024), np.nan), 'finite numbers'),
    ('rgb.npy', np.full((3, 1024), 'a'), 'finite numbers'),
    ('rgb.npy', b'no array', 'not a .npy file'),
    ('rgb.npy', b'', 'not a .npy file'),
    ('rgb.npy', None, 'cannot be read')])
def test_invalid_published_files_are_refused(video, weights, tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    assert main([str(video), str(path), *weights, *SMALL]) == 2
    err = capsys.readouterr().err
    assert err.startswith('error: ') and message in err and err.count('\n') == 1


def test_the_same_stream_twice_missing_weights_and_a_wide_crop_are_refused(video, weights, tmp_path, capsys):
    for name in ('rgb.npy', 'rgb2.npy'):
        np.save(tmp_path / name, np.ones((3, 1024)))
    one, two = str(tmp_path / 'rgb.npy'), str(tmp_path / 'rgb2.npy')
    for argv, message in (([one, two, *weights], 'one of each stream'), ([one], 'rgb_imagenet.pt'),
                          ([one, *weights, '--resize', 'short48', '--crop', '64'], '--crop 64 is larger'),
                          ([one, *weights, '--output', one], 'would be overwritten')):
        assert main([str(video), *argv]) == 2
        assert message in capsys.readouterr().err
