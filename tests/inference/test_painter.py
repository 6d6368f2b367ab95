"""The painter of films."""

import dataclasses

import numpy as np
import pytest
from fakes import SlowSession

from allaprima.inference import levels
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import FilmPainter, paint_photo
from allaprima.inference.style.session import StyleSession


def paint(painter: FilmPainter, frame: np.ndarray, time_s: float) -> np.ndarray:
    return painter.finish(frame, painter.stylize(frame), time_s)


@pytest.mark.parametrize(
    "options", [StylizeOptions(), StylizeOptions("luminance", strength=0.7), StylizeOptions(max_side_px=64)]
)
def test_films_are_painted_as_photos_are(style_file, options):
    session = StyleSession(style_file)
    frame = paint_landscape(90, 130)
    painter = FilmPainter(session, options)
    first = paint(painter, frame, 0.0).copy()
    paint(painter, 255 - frame, 0.1)
    again = paint(painter, frame, 0.2)
    assert np.abs(again.astype(int) - first).mean() < 0.5  # nothing visible is left of the frame in between
    np.testing.assert_array_equal(first, paint_photo(session, frame, options))


def test_large_frames_are_painted_coarse_to_fine_as_photos_are(style_file, monkeypatch):
    monkeypatch.setattr(levels, "STROKES_PIXELS", 48 * 64)
    session, frame = StyleSession(style_file), paint_landscape(120, 160)
    options = StylizeOptions(strokes=1.0, detail=0.5)
    first = paint(FilmPainter(session, options), frame, 0.0)
    np.testing.assert_array_equal(first, paint_photo(session, frame, options))
    fine = paint(FilmPainter(session, StylizeOptions(strokes=0.0)), frame, 0.0)
    np.testing.assert_array_equal(fine, session.stylize(frame))
    assert np.abs(fine.astype(int) - first).mean() > 1


def test_photos_and_films_get_the_styles_own_strokes_by_default(style_file, monkeypatch):
    session, frame = StyleSession(style_file), paint_landscape(120, 160)
    session.contract = dataclasses.replace(session.contract, card=dict(session.contract.card) | {"strokes": 8.0})
    large, one_pass = (paint_photo(session, frame, StylizeOptions(strokes=strokes)) for strokes in (8.0, 0.0))
    assert np.abs(large.astype(int) - one_pass).mean() > 1
    np.testing.assert_array_equal(paint_photo(session, frame, StylizeOptions()), large)
    np.testing.assert_array_equal(paint(FilmPainter(session, StylizeOptions()), frame, 0.0), large)


def test_a_frame_painted_at_lower_resolution_keeps_chroma_at_full_resolution():
    rng = np.random.default_rng(0)
    content = rng.integers(100, 150, (64, 64, 3), dtype=np.uint8)
    painter = FilmPainter(SlowSession(level=0.5), StylizeOptions("luminance"))
    painter.scale = 0.25
    out = paint(painter, content, 0.0).astype(int)
    assert painter.session.sizes == [(16, 16)]
    np.testing.assert_array_equal(out[:, :, 0] - out[:, :, 1], content[:, :, 0].astype(int) - content[:, :, 1])
