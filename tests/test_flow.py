"""Optical flow: equal to OpenCV's, quantized; the same algorithm in torch."""
import numpy as np
import pytest
import torch

cv2 = pytest.importorskip('cv2', reason='needs OpenCV: pip install -r requirements-video.txt')

from extraction import flow  # noqa: E402
from extraction.flow import dis, quantize, torch_tvl1, tvl1  # noqa: E402


def texture(height, width, seed=0):
    """Return an image (H, W) in [0, 255] with detail at several scales."""
    rng = np.random.RandomState(seed)
    layers = [weight * cv2.resize(rng.uniform(0, 1, (height // cell + 2, width // cell + 2)), (width, height),
                                  interpolation=cv2.INTER_CUBIC) for cell, weight in ((3, 1), (7, 2), (17, 3))]
    image = sum(layers)
    return 255 * (image - image.min()) / np.ptp(image)


def moved(x, y, height=48, width=64, noise=0.):
    """Return two gray frames; the second one is the first one moved by (x, y) pixels."""
    image = texture(height + 80, width + 80)
    shifted = cv2.warpAffine(image, np.float64([[1, 0, x], [0, 1, y]]), image.shape[::-1],
                             flags=cv2.INTER_CUBIC)
    shifted = np.clip(shifted + noise * np.random.RandomState(1).standard_normal(image.shape), 0, 255)
    return [np.ascontiguousarray(one[40:40 + height, 40:40 + width].round().astype(np.uint8))
            for one in (image, shifted)]


def levels(field):
    return np.rint((quantize(field).astype(np.float64) + 1) * 127.5)


def in_torch(*pairs):
    firsts, seconds = (torch.from_numpy(np.stack(frames)) for frames in zip(*pairs))
    return torch_tvl1(firsts, seconds).numpy()


def test_dis_equals_opencv():
    pair = moved(2, 1)
    reference = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*pair, None)
    np.testing.assert_array_equal(dis(*pair), reference)


@pytest.mark.parametrize('method', [tvl1, dis])
def test_flow_is_the_motion_in_pixels_horizontal_first(method):
    field = method(*moved(3, -1.5))
    assert field.dtype == np.float32 and field.shape == (48, 64, 2)
    np.testing.assert_allclose(np.median(field, axis=(0, 1)), [3, -1.5], atol=0.1)


def test_quantized_flow_equals_opencv_bit_for_bit():
    first, second = moved(4.3, 2.1)
    reference = cv2.optflow.DualTVL1OpticalFlow_create().calc(first, second, None)
    stored = [[min(max(round(255 * (value + 20) / 40), 0), 255) for value in row]
              for row in reference.reshape(-1, 2).tolist()]
    expected = (2 * np.array(stored) / 255 - 1).astype(np.float32).reshape(reference.shape)
    assert quantize(tvl1(first, second)).tobytes() == expected.tobytes()


def test_quantized_flow_has_256_levels_within_its_bounds():
    pixels = np.linspace(-30, 30, 10_001, dtype=np.float32)
    found = quantize(pixels)
    assert found.dtype == np.float32
    assert (found.min(), found.max(), len(np.unique(found))) == (-1, 1, 256)
    assert np.abs(found - np.clip(pixels / 20, -1, 1)).max() < 1.0001 / 255
    assert quantize(np.zeros(1))[0] == np.float32(1 / 255)  # no level is 0
    np.testing.assert_array_equal(quantize(np.array([-3., 0, 3.3, 9]), bound=6, enabled=False),
                                  np.float32([-0.5, 0, 0.55, 1]))
    assert quantize(np.array([3.]), bound=6)[0] == np.float32(2 * 191 / 255 - 1)


def test_torch_equals_opencv_where_both_run_all_iterations(monkeypatch):
    pair = moved(1.2, -0.7, height=40, width=55)
    reference = cv2.optflow.DualTVL1OpticalFlow_create()
    for name, setter, value in (('EPSILON', reference.setEpsilon, 0), ('SCALES', reference.setScalesNumber, 3),
                                ('WARPS', reference.setWarpingsNumber, 2), ('OUTER', reference.setOuterIterations, 3)):
        monkeypatch.setattr(flow, name, value)
        setter(value)
    np.testing.assert_allclose(in_torch(pair)[0], reference.calc(*pair, None), atol=2e-3)


# Iterations stop where the flow changes by less than 0.01 pixels. Sums in another order may stop one iteration apart,
# and later iterations start from that difference.
@pytest.mark.parametrize('motion', [
    dict(x=0, y=0, noise=2), dict(x=1.2, y=-0.7), dict(x=6.5, y=4),
    dict(x=2, y=1, height=30, width=41)])  # where the pyramid ends early
def test_torch_agrees_with_opencv(motion):
    check_agreement(moved(**motion))


def check_agreement(pair):
    reference, flow_field = tvl1(*pair), in_torch(pair)[0]
    assert flow_field.dtype == np.float32 and flow_field.shape == reference.shape
    assert np.abs(flow_field - reference).mean() < 0.03
    assert (np.abs(levels(flow_field) - levels(reference)) <= 1).mean() > 0.98


def test_torch_agrees_with_opencv_where_an_object_covers_the_background():
    """A smooth background moves by 0.7 pixels and a disk in front of it by 3; the light changes, and there is noise."""
    near, rows, columns = texture(48, 85, seed=1), *np.mgrid[:48, :85]
    back = cv2.GaussianBlur(texture(48, 85), (0, 0), 2)
    frames = []
    for step in range(2):
        far = cv2.warpAffine(back, np.float64([[1, 0, 0.7 * step], [0, 1, 0]]), (85, 48), borderMode=cv2.BORDER_REFLECT)
        covers = (rows - 24) ** 2 + (columns - 38 - 3 * step) ** 2 < 14 ** 2
        image = np.where(covers, np.roll(near, 3 * step, axis=1), far) * (0.9 - 0.02 * step)
        image = image + np.random.RandomState(step).standard_normal(image.shape)
        frames.append(np.clip(image, 0, 255).round().astype(np.uint8))
    assert np.abs(tvl1(*frames)).mean() > 0.1
    check_agreement(frames)


def test_pairs_of_a_batch_stop_separately():
    pairs = [moved(0, 0, 30, 41), moved(3, 1, 30, 41)]
    together = in_torch(*pairs)
    for pair, field in zip(pairs, together):
        np.testing.assert_allclose(field, in_torch(pair)[0], atol=1e-3)
