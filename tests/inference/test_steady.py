"""Strokes move along with moving things and leave nothing behind."""

import itertools

import numpy as np
import pytest
from films import drifting

from allaprima.inference.options import StylizeOptions
from allaprima.inference.steady import Steadier

FRAMES = drifting(12, 240, 320)


def strokes(seed: int, shape: tuple[int, ...] = (240, 320, 3)) -> np.ndarray:
    """A painting of 4-pixel blocks, unrelated to those of other seeds."""
    blocks = np.random.default_rng(seed).integers(0, 256, (shape[0] // 4, shape[1] // 4, 3), np.uint8)
    return blocks.repeat(4, 0).repeat(4, 1)


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b).mean())


def test_strokes_move_along_with_the_film():
    """The frames move by two pixels, and each has different strokes."""
    steadier = Steadier()
    paintings = [steadier.steady(frame, strokes(i), 0.6).copy() for i, frame in enumerate(FRAMES)]
    inside = np.s_[16:-16, 16:-16]
    alone = difference(strokes(3)[:, 2:][inside], strokes(4)[:, :-2][inside])
    for before, after in itertools.pairwise(paintings[4:]):
        along = difference(before[:, 2:][inside], after[:, :-2][inside])
        assert along < 0.5 * alone
        assert along < 0.9 * difference(before[inside], after[inside])


def test_still_parts_settle():
    steadier = Steadier()
    paintings = [steadier.steady(FRAMES[0], strokes(i), 0.6).copy() for i in range(8)]
    assert difference(paintings[-1], paintings[-2]) < 0.5 * difference(strokes(6), strokes(7))


def test_nothing_crosses_a_cut_and_the_first_frame_is_unchanged():
    steadier, other = Steadier(), np.ascontiguousarray(255 - FRAMES[0][::-1])
    np.testing.assert_array_equal(steadier.steady(FRAMES[0], strokes(0), 0.6), strokes(0))
    np.testing.assert_array_equal(steadier.steady(other, strokes(1), 0.6), strokes(1))
    np.testing.assert_array_equal(steadier.steady(FRAMES[5], strokes(2), 0.6), strokes(2))


def test_no_ghost_is_left_behind_a_moving_thing():
    """A white disc, painted red, moves by 40 pixels a frame over a background that is painted gray."""
    y, x = np.mgrid[:240, :320]
    steadier = Steadier()
    for step in range(5):
        disc = (x - 60 - 40 * step) ** 2 + (y - 120) ** 2 < 30**2
        content = np.where(disc[..., None], np.uint8(255), FRAMES[0])
        painting = np.where(disc[..., None], np.uint8([255, 0, 0]), np.uint8(128))
        steadied = steadier.steady(content, painting.copy(), 0.6)
        red = np.abs(steadied.astype(int) - 128).max(-1) > 16
        near = (x - 60 - 40 * step) ** 2 + (y - 120) ** 2 < 40**2
        assert not (red & ~near).any(), step


@pytest.mark.parametrize("size", [(240, 320), (120, 160), (241, 323), (480, 640)])
def test_paintings_may_have_another_size(size):
    steadier = Steadier()
    painting = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for frame in FRAMES[:3]:
        steadied = steadier.steady(frame, painting.copy(), 0.6)
        assert steadied.shape == painting.shape


def test_strength_zero_and_tiny_pictures_change_nothing():
    steadier = Steadier()
    for i, frame in enumerate(FRAMES[:3]):
        np.testing.assert_array_equal(steadier.steady(frame, strokes(i), 0.0), strokes(i))
    for i in range(3):
        tiny = strokes(i, (48, 64, 3))
        np.testing.assert_array_equal(steadier.steady(FRAMES[i], tiny.copy(), 0.6), tiny)


def test_a_change_of_size_restarts_it():
    steadier = Steadier()
    steadier.steady(FRAMES[0], strokes(0), 0.6)
    small = strokes(1, (120, 160, 3))
    np.testing.assert_array_equal(steadier.steady(FRAMES[1], small.copy(), 0.6), small)


def test_films_are_steady_by_default():
    assert StylizeOptions().steady == 0.5
