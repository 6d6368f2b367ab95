import cv2
import numpy as np
import pytest

from allaprima.inference.color import (
    CUT,
    HOLD_S,
    SteadyColor,
    channel_histograms,
    color_statistics,
    keep_color,
    keep_luminance,
    linear_transform,
    match_histogram,
    match_linear,
)
from allaprima.inference.landscape import paint_landscape

LUMA = np.array([0.299, 0.587, 0.114])  # Rec. 601, the Y of YIQ


@pytest.fixture(scope="module")
def content() -> np.ndarray:
    """Colors in the middle of the range, so that nothing clips."""
    return (paint_landscape(90, 130, seed=1) // 3 + 80).astype(np.uint8)


@pytest.fixture(scope="module")
def stylized() -> np.ndarray:
    return (paint_landscape(90, 130, seed=4)[:, ::-1] // 4 + 90).astype(np.uint8)


def test_luminance_only_keeps_the_contents_chroma_exactly(content, stylized):
    out = keep_luminance(content, stylized).astype(int)
    for a, b in ((0, 1), (1, 2)):  # I and Q are combinations of R - G and G - B
        np.testing.assert_array_equal(out[:, :, a] - out[:, :, b], content[:, :, a].astype(int) - content[:, :, b])


def test_luminance_only_takes_the_stylized_luminance(content, stylized):
    assert np.abs(keep_luminance(content, stylized) @ LUMA - stylized @ LUMA).max() <= 1.5  # rounding of three bytes


def test_matched_luminance_has_the_contents_mean_and_deviation(content, stylized):
    y = keep_luminance(content, stylized, match=True) @ LUMA
    wanted = content @ LUMA
    assert y.mean() == pytest.approx(wanted.mean(), abs=0.5)
    assert y.std() == pytest.approx(wanted.std(), rel=0.02)


def test_matched_luminance_survives_a_flat_picture(content):
    flat = np.full_like(content, 99)
    y = keep_luminance(content, flat, match=True) @ LUMA
    assert y.std() < 1


@pytest.mark.parametrize("method", ["cholesky", "optimal-transport"])
def test_linear_transform_reproduces_mean_and_covariance(method):
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(2, 3, 3))
    cov_s, cov_c = (root @ root.T + 0.1 * np.eye(3) for root in roots)
    mean_s, mean_c = rng.normal(size=(2, 3))
    a, b = linear_transform(mean_s, cov_s, mean_c, cov_c, method)
    np.testing.assert_allclose(a @ cov_s @ a.T, cov_c, atol=1e-10)
    np.testing.assert_allclose(a @ mean_s + b, mean_c, atol=1e-10)


def test_optimal_transport_is_symmetric_and_cholesky_triangular():
    rng = np.random.default_rng(1)
    roots = rng.normal(size=(2, 3, 3))
    cov_s, cov_c = (root @ root.T + 0.1 * np.eye(3) for root in roots)
    a, _ = linear_transform(np.zeros(3), cov_s, np.zeros(3), cov_c, "optimal-transport")
    np.testing.assert_allclose(a, a.T, atol=1e-10)
    a, _ = linear_transform(np.zeros(3), cov_s, np.zeros(3), cov_c, "cholesky")
    np.testing.assert_allclose(a, np.tril(a), atol=1e-10)


@pytest.mark.parametrize("method", ["cholesky", "optimal-transport"])
def test_linear_matching_gives_a_picture_the_statistics_of_the_reference(content, stylized, method):
    mean, covariance = color_statistics(match_linear(stylized, content, method))
    wanted_mean, wanted_covariance = color_statistics(content)
    np.testing.assert_allclose(mean, wanted_mean, atol=0.6)
    np.testing.assert_allclose(covariance, wanted_covariance, atol=0.03 * np.abs(wanted_covariance).max())


def test_color_statistics_equal_numpys(content):
    mean, covariance = color_statistics(content)
    pixels = content.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(mean, pixels.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(pixels.T, bias=True) + 1e-5 * 255**2 * np.eye(3))


def test_histogram_matching_equals_scikit_images(content, stylized):
    from skimage.exposure import match_histograms

    np.testing.assert_array_equal(match_histogram(stylized, content), match_histograms(stylized, content, channel_axis=-1))


@pytest.mark.parametrize("mode", ["luminance", "histogram", "linear"])
def test_every_mode_survives_one_pixel_and_gray(mode):
    one = np.array([[[10, 200, 30]]], np.uint8)
    assert keep_color(one, one[:, :, ::-1].copy(), mode).shape == (1, 1, 3)
    gray = np.full((4, 4, 3), 128, np.uint8)
    out = keep_color(gray, cv2.GaussianBlur(paint_landscape(32, 32)[:4, :4], (3, 3), 0), mode)
    assert np.ptp(out.astype(int), axis=2).max() <= 2  # gray stays gray


def test_none_returns_the_stylized_frame(content, stylized):
    assert keep_color(content, stylized, "none") is stylized


def test_unknown_mode_and_unequal_sizes_are_refused(content, stylized):
    with pytest.raises(ValueError, match=r'"sepia"; one of none, luminance'):
        keep_color(content, stylized, "sepia")
    with pytest.raises(ValueError, match="one size is wanted"):
        keep_color(content, stylized[1:], "luminance")


@pytest.mark.parametrize("mode", ["histogram", "linear"])
def test_color_statistics_do_not_flicker(mode):
    rng = np.random.default_rng(0)
    content, stylized = paint_landscape(96, 128), paint_landscape(96, 128, seed=2)
    flickering, steady = [], []
    keeper, unsteady = SteadyColor(mode), SteadyColor(mode)
    for i in range(40):
        light = 1.0 + 0.1 * rng.standard_normal()  # a flickering lamp
        lit = np.clip(content * light, 0, 255).astype(np.uint8)
        steady.append(keeper.keep(lit, stylized, i / 30).mean())
        unsteady.forget()
        flickering.append(unsteady.keep(lit, stylized, i / 30).mean())
    assert np.abs(np.diff(steady[5:])).mean() < 0.25 * np.abs(np.diff(flickering[5:])).mean()


@pytest.mark.parametrize("mode", ["histogram", "linear"])
def test_statistics_restart_at_a_cut_and_follow_slow_changes(mode):
    first, second = paint_landscape(96, 128), 255 - paint_landscape(96, 128, seed=5)
    stylized = paint_landscape(96, 128, seed=2)
    fresh = SteadyColor(mode)
    wanted = fresh.keep(second, stylized, 0.0)
    keeper = SteadyColor(mode)
    for i in range(10):
        keeper.keep(first, stylized, i / 30)
    np.testing.assert_array_equal(keeper.keep(second, stylized, 10 / 30), wanted)
    for i in range(60):  # a slow fade is not a cut
        faded = cv2.addWeighted(second, 1 - i / 59, first, i / 59, 0)
        last = keeper.keep(faded, stylized, (11 + i) / 30)
    for i in range(int(8 * HOLD_S * 30)):
        last = keeper.keep(first, stylized, (71 + i) / 30)
    fresh.forget()
    assert np.abs(last.astype(int) - fresh.keep(first, stylized, 0.0)).max() <= 3
    assert 0 < CUT < 1


def test_a_still_film_has_the_histograms_of_the_photo():
    content, stylized = paint_landscape(96, 128), paint_landscape(96, 128, seed=2)  # below 20,000 pixels, all are counted
    keeper = SteadyColor("histogram")
    for i in range(5):
        out = keeper.keep(content, stylized, i / 30)
    np.testing.assert_array_equal(out, match_histogram(stylized, content))
    assert channel_histograms(content).sum() == content.size
