import numpy as np
import pytest

from allaprima.inference.denoise import TemporalDenoiser
from allaprima.inference.landscape import paint_landscape


def noisy(frame: np.ndarray, rng: np.random.Generator, sigma: float = 2.0) -> np.ndarray:
    return np.clip(frame + rng.normal(0, sigma, frame.shape), 0, 255).astype(np.uint8)


def test_a_noisy_but_still_picture_stays_still():
    rng, frame, denoiser = np.random.default_rng(0), paint_landscape(96, 128), TemporalDenoiser()
    first = denoiser.filter(noisy(frame, rng)).copy()
    for _ in range(10):
        last = denoiser.filter(noisy(frame, rng))
    assert (last == first).mean() > 0.99


@pytest.mark.parametrize("color", [(200, 30, 30), (40, 40, 255)])
def test_moving_things_are_followed_at_once_and_leave_no_trace(color):
    rng, ground, denoiser = np.random.default_rng(0), np.full((96, 128, 3), 40, np.uint8), TemporalDenoiser()
    for i in range(20):
        frame = noisy(ground, rng)
        frame[30:60, 4 * i : 4 * i + 20] = color
        out = denoiser.filter(frame)
        assert np.abs(out.astype(int) - frame).max() < 16  # noise, nowhere the square of an earlier frame
        assert (out[30:60, 4 * i : 4 * i + 20] == color).all()


def test_a_slow_fade_is_followed():
    ground, denoiser = np.full((48, 64, 3), 40, np.uint8), TemporalDenoiser()
    for i in range(120):
        frame = ground + np.uint8(i)
        assert np.abs(denoiser.filter(frame).astype(int) - frame).max() <= 5


def test_a_cut_and_another_size_restart_it():
    denoiser = TemporalDenoiser()
    denoiser.filter(np.zeros((48, 64, 3), np.uint8))
    frame = paint_landscape(48, 64) // 2 + 60
    np.testing.assert_array_equal(denoiser.filter(frame), frame)
    other = paint_landscape(64, 48)
    np.testing.assert_array_equal(denoiser.filter(other), other)
    np.testing.assert_array_equal(denoiser.filter(other[:1, :1]), other[:1, :1])
