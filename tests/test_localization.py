"""Localization against a slow version with loops, and its quirks by hand."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.interpolate import interp1d

from eval import localization
from eval.localization import LocalizationOptions, localize, nms, predict_classes, threshold_and_score, upsample

THUMOS14 = LocalizationOptions(class_th=0.25, scale=24, oic_margin=0.2, oic_class_weight=0.2, nms_thresh=0.4,
                               nms_alpha=0.35, soft_nms=True, feature_fps=25, snippet_frames=16)
SECOND = THUMOS14._replace(scale=1, feature_fps=16)     # with L = T, a sample is a snippet and lasts one second


def slow_samples(scores, scale):
    """Upsample (T,) -> (M,) with scipy."""
    x = np.arange(0, len(scores), 1 / scale)
    if len(scores) == 1:
        return np.full(len(x), scores[0])
    return interp1d(np.arange(len(scores)), scores, fill_value='extrapolate')(x)


def slow_spans(samples, margin):
    """Return [(first, last, contrast)], one span at a time."""
    spans = []
    for threshold in np.arange(0.1, 1, 0.1):
        above = [i for i, sample in enumerate(samples) if sample >= threshold]
        if not any(above):                                # nothing, or sample 0 alone
            continue
        for first in above:
            if first - 1 in above:
                continue
            last = first
            while last + 1 in above:
                last += 1
            reach = margin * (last - first + 1)
            low, high = max(0, int(first - reach)), min(len(samples) - 1, int(last + reach))
            outer = np.concatenate([samples[low:first], samples[last + 1:high + 1]])
            spans.append((first, last, np.mean(samples[first:last + 1]) - (np.mean(outer) if len(outer) else 0)))
    return spans


def slow_nms(spans, options):
    """Apply NMS to [(start, end, score)]: those that are not suppressed, each followed by those that it suppresses."""
    left, out = sorted(spans, key=lambda span: -span[2]), []
    while left:
        best, rest, left = left[0], left[1:], []
        out.append(best)
        for start, end, score in rest:
            inter = max(0, min(end, best[1]) - max(start, best[0]) + 1)
            overlap = inter / ((end - start + 1) + (best[1] - best[0] + 1) - inter)
            if overlap < options.nms_thresh:
                left.append((start, end, score))
            elif options.soft_nms:
                out.append((start, end, score * np.exp(-overlap ** 2 / options.nms_alpha)))
    return out


def slow_localize(selection, class_probs, num_snippets, options):
    """Return rows (video, label, start, end, score), sorted."""
    out = []
    for video, probs in enumerate(class_probs):
        labels = [c for c, p in enumerate(probs) if p >= options.class_th] or [int(np.argmax(probs))]
        unit = options.snippet_frames * num_snippets[video] / (options.scale * selection.shape[1] * options.feature_fps)
        for label in labels:
            spans = slow_spans(slow_samples(selection[video, :, label], options.scale), options.oic_margin)
            spans = [(s * unit, (e + 1) * unit, c + options.oic_class_weight * probs[label]) for s, e, c in spans]
            out += [(video, label, *span) for span in slow_nms(spans, options)]
    return np.array(sorted(out)).reshape(-1, 5)


def as_rows(proposals):
    """Return proposals as rows (video, label, start, end, score), sorted."""
    rows = np.column_stack([proposals.video, proposals.label, proposals.segments, proposals.scores])
    return np.array(sorted(rows.tolist())).reshape(-1, 5)


def localize_one(scores, options=SECOND, num_snippets=None):
    """Return the proposals of one video with one class of probability 0."""
    scores = np.array(scores, dtype=float)
    num_snippets = len(scores) if num_snippets is None else num_snippets
    return localize(scores[None, :, None], np.zeros((1, 1)), np.array([num_snippets]), options)


# Multiples of 1/64 and scales that are powers of two: every sum is exact, so equal scores are equal to the last bit in
# both versions, and ties must be in the same order.
@settings(deadline=None, max_examples=150)
@given(st.data())
def test_equals_the_slow_version_with_ties(data):
    num_videos, length, num_classes = (data.draw(st.integers(1, n)) for n in (3, 12, 3))
    selection = data.draw(arrays(int, (num_videos, length, num_classes), elements=st.integers(-8, 72))) / 64
    class_probs = data.draw(arrays(int, (num_videos, num_classes), elements=st.integers(0, 8))) / 8
    num_snippets = data.draw(arrays(int, num_videos, elements=st.integers(1, 60)))
    options = THUMOS14._replace(
        class_th=data.draw(st.sampled_from([0.25, 0.5, 2])), scale=data.draw(st.sampled_from([1, 2, 4])),
        oic_margin=data.draw(st.sampled_from([0, 0.2, 0.5, 3])), oic_class_weight=data.draw(st.sampled_from([0, 0.25])),
        nms_thresh=data.draw(st.sampled_from([0, 0.4, 0.5, 1, 1.5])), soft_nms=data.draw(st.booleans()))
    found = as_rows(localize(selection, class_probs, num_snippets, options))
    expected = slow_localize(selection, class_probs, num_snippets, options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2 ** 32 - 1), scale=st.sampled_from([20, 24, 49]), margin=st.sampled_from([0.2, 0.35]),
       soft_nms=st.booleans(), dtype=st.sampled_from([np.float32, np.float64]),
       chunk=st.sampled_from([1, 1000, 2 ** 17]))
def test_equals_the_slow_version(seed, scale, margin, soft_nms, dtype, chunk):
    rng = np.random.default_rng(seed)
    num_videos, num_classes = rng.integers(1, 4, 2)
    length = rng.choice([1, *range(3, 20)])  # two snippets are one ramp: different spans have the same score
    selection = rng.random((num_videos, length, num_classes)).astype(dtype)
    class_probs = rng.dirichlet(np.ones(num_classes), num_videos)
    num_snippets = rng.integers(1, 300, num_videos)
    options = THUMOS14._replace(scale=scale, soft_nms=soft_nms, oic_margin=margin, nms_thresh=rng.random())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(localization, 'CHUNK_SAMPLES', chunk)
        found = as_rows(localize(selection, class_probs, num_snippets, options))
    expected = slow_localize(selection.astype(np.float64), class_probs, num_snippets, options)
    # scores differ by rounding, so only the segments are compared to the last bit
    np.testing.assert_array_equal(found[:, :4], expected[:, :4])
    np.testing.assert_allclose(found[:, 4], expected[:, 4], rtol=0, atol=1e-12)


def test_proposals_do_not_depend_on_chunks_and_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    inputs = rng.random((5, 40, 3)), rng.dirichlet(np.ones(3), 5), rng.integers(1, 300, 5)
    whole = localize(*inputs, THUMOS14)
    for chunk, block in ((1, 2048), (40 * 24 * 3, 2048), (40 * 24 * 3, 4), (1, 1)):
        monkeypatch.setattr(localization, 'CHUNK_SAMPLES', chunk)
        monkeypatch.setattr(localization, 'BLOCK_ROWS', block)
        for one, other in zip(localize(*inputs, THUMOS14), whole, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('length', [1, 2, 3, 50, 750])
@pytest.mark.parametrize('scale', [1, 7, 20, 24, 49, 0.5])
def test_upsampling_is_that_of_scipy_to_the_last_bit(length, scale):
    rows = np.random.default_rng(length).random((3, length))
    np.testing.assert_array_equal(upsample(rows, scale), [slow_samples(row, scale) for row in rows])


def test_prefix_sums_are_exact_enough_at_full_length():
    samples = np.random.default_rng(0).random((1, 750 * 24)) ** 0.01        # long spans, large sums
    samples[0, ::5000] = 0
    spans = threshold_and_score(samples, margin=0.2)
    for start, end, contrast in zip(spans.start[::50], spans.end[::50], spans.contrast[::50]):
        reach = 0.2 * (end - start)
        outer = np.r_[samples[0, max(0, int(start - reach)):start], samples[0, end:int(end - 1 + reach) + 1]]
        assert contrast == pytest.approx(samples[0, start:end].mean() - (outer.mean() if len(outer) else 0), abs=2e-12)


def test_sample_0_alone_gives_no_span():
    assert len(localize_one([0.95, 0, 0]).scores) == 0
    assert len(localize_one([0, 0.95, 0]).scores) == 9
    # at 0.1 there is another sample, so that both are found; from 0.2 on sample 0 is alone again
    assert sorted(localize_one([0.95, 0, 0.15]).segments.tolist()) == [[0, 1], [2, 3]]


def test_a_score_equal_to_the_threshold_is_inside():
    assert len(localize_one([0, 0.5, 0]).scores) == 5
    # the reference's third threshold is 0.30000000000000004
    assert len(localize_one([0, 0.3, 0]).scores) == 2


def test_samples_after_the_last_snippet_are_extrapolated():
    found = localize_one([0, 0.5], SECOND._replace(scale=4))                  # samples 0, 0.125, ... 0.875
    assert found.segments[:, 0].max() == 7 / 4                                # 0.8 is reached by extrapolation only
    assert (found.segments[:, 1] == 2).all() and len(found.scores) == 8


def test_contrast_truncates_the_outer_region():
    # reach 0.2: int(2 - 0.2) = 1 is one sample on the left, int(2 + 0.2) = 2 none on the right
    assert localize_one([0, 0.05, 0.95, 0.01, 0]).scores[0] == pytest.approx(0.95 - 0.05)
    # reach 1: one sample on each side
    assert localize_one([0, 0.05, 0.95, 0.01, 0], SECOND._replace(oic_margin=1)).scores[0] == pytest.approx(0.95 - 0.03)
    # the outer region ends at the ends of the video, and the class probability is added
    found = localize(np.full((1, 3, 1), 0.15), np.array([[0.5]]), np.array([3]), SECOND)
    assert found.scores.tolist() == pytest.approx([0.15 + 0.2 * 0.5])         # no outer region: 0 is subtracted


def test_identical_spans_overlap_completely():
    for length, scale in ((1, 24), (2, 12)):
        options = THUMOS14._replace(scale=scale)
        found = localize_one([0.55] * length, options, num_snippets=100)      # the same span at five thresholds
        np.testing.assert_allclose(found.segments, [[0, 64]] * 5)
        np.testing.assert_allclose(found.scores, [0.55] + [0.55 * np.exp(-1 / 0.35)] * 4)
        assert len(localize_one([0.55] * length, options._replace(soft_nms=False)).scores) == 1


def test_seconds_follow_rate_and_length():
    options = THUMOS14._replace(scale=1, feature_fps=200, snippet_frames=32)
    found = localize_one([0, 0, 0.15, 0], options, num_snippets=100)          # a snippet is 25 rows of 0.16 s
    np.testing.assert_allclose(found.segments, [[8, 12]])


@pytest.mark.parametrize('thresh, kept', [(0.5, False), (np.nextafter(0.5, 1), True)])
def test_nms_suppresses_at_equality(thresh, kept):
    # with the second added: lengths 4 and 2, intersection 2, overlap 2 / 4
    keep, scores = nms(np.zeros(2, int), np.array([[0, 3], [0, 1.]]), np.array([0.9, 0.8]), thresh, 0.35)
    assert keep.tolist() == [True, kept]
    assert scores.tolist() == pytest.approx([0.9, 0.8 if kept else 0.8 * np.exp(-0.25 / 0.35)])


def test_suppressed_spans_suppress_nothing_and_groups_are_separate():
    # 1 is suppressed by 0; 2 overlaps only 1, so it stays unchanged
    segments = np.array([[0, 9], [4, 13], [8, 17], [0, 9.]])
    keep, scores = nms(np.array([0, 0, 0, 1]), segments, np.array([0.9, 0.8, 0.7, 0.1]), 0.4, 0.35)
    assert keep.tolist() == [True, False, True, True]
    assert scores[[0, 2, 3]].tolist() == [0.9, 0.7, 0.1]
    assert scores[1] == pytest.approx(0.8 * np.exp(-(6 / 14) ** 2 / 0.35))


def test_spans_less_than_a_second_apart_overlap():
    keep, _ = nms(np.zeros(2, int), np.array([[0, 0.1], [0.2, 0.3]]), np.array([0.9, 0.8]), 0.4, 0.35)
    assert keep.tolist() == [True, False]


def test_predicted_classes():
    probs = np.array([[0.25, 0.25, 0.5], [0.2, 0.24, 0.1], [0.1, 0.1, 0.8]])
    assert predict_classes(probs, 0.25).tolist() == [[1, 1, 1], [0, 1, 0], [0, 0, 1]]
    # in float32 0.7 is 0.69999999; the threshold is rounded likewise
    assert predict_classes(np.array([[0.7, 0.9]], dtype=np.float32), 0.7).all()


def test_no_videos_and_no_spans():
    assert len(localize(np.zeros((0, 10, 2)), np.zeros((0, 2)), np.zeros(0, int), THUMOS14).scores) == 0
    found = localize(np.zeros((3, 10, 2)), np.ones((3, 2)), np.ones(3, int), THUMOS14)
    assert len(found.scores) == 0 and found.segments.shape == (0, 2)


def test_nan_affects_only_the_samples_interpolated_from_it():
    assert set(map(tuple, localize_one([0.5, 0.5, np.nan, 0.5, 0.2]).segments.tolist())) == {(0, 2), (4, 5)}
