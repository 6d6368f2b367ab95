import itertools

import numpy as np
import pytest

from allaprima.inference import levels
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.levels import level_sizes, paint_levels, scaled
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import paint_photo
from allaprima.inference.style.session import StyleSession


class Fake:
    """A network that applies `change` to a frame and records the sizes it got."""

    def __init__(self, change=lambda frame: frame):
        self.change, self.sizes = change, []

    def stylize(self, frame, progress=lambda _: None):
        self.sizes.append(frame.shape[:2])
        progress(0.5)
        progress(1.0)
        return np.ascontiguousarray(self.change(frame))


@pytest.fixture
def small_levels(monkeypatch):
    monkeypatch.setattr(levels, "STROKES_PIXELS", 32 * 24)


@pytest.mark.parametrize(
    ("size", "strokes", "expected"),
    [
        ((576, 768), 1.0, [(576, 768)]),
        ((640, 853), 1.0, [(640, 853)]),  # not enough larger for a second pass
        ((768, 1024), 1.0, [(576, 768), (768, 1024)]),
        ((3024, 4032), 1.0, [(576, 768), (1320, 1760), (3024, 4032)]),
        ((3024, 4032), 0.5, [(1152, 1536), (3024, 4032)]),
        ((3024, 4032), 0.0, [(3024, 4032)]),
        ((576, 768), 2.0, [(288, 384), (576, 768)]),
        ((200, 30000), 1.0, [(54, 8146), (104, 15633), (200, 30000)]),
        ((1, 1), 10.0, [(1, 1)]),
        ((1, 100_000), 10.0, None),
    ],
)
def test_levels_grow_steadily_to_the_pictures_size(size, strokes, expected):
    found = level_sizes(*size, strokes)
    assert expected is None or found == expected
    assert found[-1] == size
    assert all(0 < before[0] <= after[0] and 0 < before[1] < after[1] for before, after in itertools.pairwise(found))


@pytest.mark.parametrize("size", [(1, 1), (1, 999), (203, 158), (97, 640), (480, 641)])
def test_a_network_that_changes_nothing_returns_the_photo_exactly(small_levels, size):
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(paint_levels(Fake(), frame, 1.0, 1.0), frame)


def test_progress_is_the_share_of_pixels_painted(small_levels):
    shares = []
    paint_levels(Fake(), paint_landscape(48, 64), 1.0, 1.0, progress=shares.append)
    np.testing.assert_allclose(shares, [0.1, 0.2, 0.6, 1.0])
    shares.clear()
    paint_levels(Fake(), paint_landscape(48, 64), 0.0, 1.0, progress=shares.append)
    np.testing.assert_allclose(shares, [0.5, 1.0])


def test_a_networks_change_of_color_is_applied_once_despite_several_levels(small_levels):
    """Otherwise, a network that darkens would end in black."""
    frame = paint_landscape(240, 320)
    fake = Fake(lambda frame: frame // 2)
    painted = paint_levels(fake, frame, 1.0, 1.0)
    assert len(fake.sizes) == 4
    np.testing.assert_allclose(painted.mean(axis=(0, 1)), (frame // 2).mean(axis=(0, 1)), atol=2.0)


def test_detail_is_how_much_of_the_photos_detail_is_restored(small_levels):
    frame = paint_landscape(96, 128)
    frame[:, ::8] = 255
    without, half, whole = (paint_levels(Fake(), frame, 1.0, detail).astype(int) for detail in (0.0, 0.5, 1.0))
    errors = [np.abs(painted - frame).mean() for painted in (without, half, whole)]
    assert errors[0] > 1.5 * errors[1] > 0
    assert errors[2] == 0


def test_strokes_scale_with_the_photo(small_levels):
    """A network that draws lines four pixels apart draws them farther apart on a larger photo."""

    def stripe(frame):
        frame = frame.copy()
        frame[:, ::4] = 0
        return frame

    def large_lines(frame):
        """The strength of lines 16 pixels apart, in levels of 255."""
        row = frame[:, :, 0].mean(axis=0)
        return 2 * np.abs(np.fft.rfft(row)[len(row) // 16]) / len(row)

    gray = np.full((96, 128, 3), 128, np.uint8)
    assert large_lines(paint_levels(Fake(stripe), gray, 0.0, 1.0)) < 1
    assert large_lines(paint_levels(Fake(stripe), gray, 1.0, 1.0)) > 10


def test_the_better_tier_paints_small_levels_and_the_faster_one_the_rest(small_levels, monkeypatch):
    monkeypatch.setattr(levels, "SLOW_PIXELS", 70 * 60)
    best, fast = Fake(), Fake()
    paint_levels(best, paint_landscape(240, 320), 1.0, 1.0, fast)
    assert [size[0] * size[1] <= 70 * 60 for size in best.sizes] == [True] * 2
    assert [size[0] * size[1] > 70 * 60 for size in fast.sizes] == [True] * 2


def test_a_small_photo_is_painted_in_one_pass_by_the_better_tier(style_file):
    frame, fast = paint_landscape(120, 160), Fake()
    session = StyleSession(style_file)
    np.testing.assert_array_equal(paint_photo(session, frame, StylizeOptions(), fast), session.stylize(frame))
    assert not fast.sizes


def test_a_real_network_paints_coarse_to_fine_and_strokes_0_is_one_pass(small_levels, style_file):
    frame, session = paint_landscape(150, 201), StyleSession(style_file)
    painted = paint_photo(session, frame, StylizeOptions())
    assert painted.shape == frame.shape
    assert painted.dtype == np.uint8
    one_pass = session.stylize(frame)
    assert np.abs(painted.astype(int) - one_pass).mean() > 1
    np.testing.assert_array_equal(paint_photo(session, frame, StylizeOptions(strokes=0.0)), one_pass)


def test_scaled_keeps_signs():
    frame = np.full((4, 4, 3), -7, np.int16)
    assert (scaled(frame, (9, 7)) == -7).all()
    assert scaled(frame, (9, 7)).dtype == np.int16
