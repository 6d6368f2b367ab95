import itertools
import threading

import numpy as np
import pytest

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.style import session as session_module
from allaprima.inference.style import tiles as tiles_module
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.tiles import MARGIN_PX, samples, tiles
from allaprima.models.errors import StyleError

TILE_PX = 256


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(session_module, "WHOLE_BYTES", session_module.PIXEL_BYTES["realtime"] * TILE_PX**2)
    # A network of random weights needs the same margin, but fewer samples for its statistics.
    monkeypatch.setattr(tiles_module, "SAMPLES", 60)


@pytest.mark.parametrize("size", [(1, 1), (203, 30_000), (256, 257), (1000, 700), (513, 2048), (4001, 999)])
@pytest.mark.parametrize("stride", [1, 4])
def test_tiles_cover_a_picture_once_and_have_their_margins(size, stride):
    covered = np.zeros(size, np.uint8)
    for tile in tiles(*size, TILE_PX, stride):
        covered[tile.inside] += 1
        for inside, around, side in zip(tile.inside, tile.around, size, strict=True):
            assert around.start % stride == 0
            assert around.stop - around.start <= TILE_PX
            assert around.start == max(0, inside.start - MARGIN_PX) or around == slice(0, side)
            assert around.stop == min(side, inside.stop + MARGIN_PX) or around == slice(0, side)
    assert (covered == 1).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (80, 80), (81, 5000), (700, 500), (3000, 4000)])
def test_samples_lie_in_the_picture_and_cover_it_evenly(size):
    frame = np.arange(size[0] * size[1], dtype=np.int64).reshape(size)
    squares, margins = samples(frame, 10**7)
    assert len({square.shape for square in squares}) == 1
    assert all(0 < have <= 80 for have in squares[0].shape)
    assert 2 * max(margins) < 80
    assert len(squares) <= tiles_module.SAMPLES * 1.1
    rows, columns = (np.unique([divmod(square.flat[0], size[1])[i] for square in squares]) for i in (0, 1))
    for starts, side in ((rows, size[0]), (columns, size[1])):
        gaps = [starts[0], *(after - before for before, after in itertools.pairwise(starts)), side - starts[-1]]
        assert max(gaps) <= max(side / 5, 160)


def test_tiles_have_no_seams(small_tiles, style_file):
    """With the same statistics, a picture painted in many tiles equals one painted in a single tile."""
    frame = paint_landscape(517, 702)
    session = StyleSession(style_file, "cpu")
    shares = []
    many = session.stylize(frame, shares.append)
    assert len(shares) > 4
    np.testing.assert_allclose(shares, np.arange(1, len(shares) + 1) / len(shares))

    def run(network, given, wanted):
        return network.run(wanted, given)

    one = session._tiler.paint(frame, 1024**2, session_module.MEASURED_BYTES // 135, run, lambda _: None)
    difference = np.abs(many.astype(int) - one)
    assert difference.max() <= 1
    assert difference.mean() < 0.001


@pytest.mark.parametrize("size", [(600, 500), (203, 1500), (20, 4000)])
def test_tiles_come_close_to_painting_the_whole_picture_at_once(small_tiles, style_file, size, monkeypatch):
    frame = paint_landscape(*size)
    tiled = StyleSession(style_file, "cpu").stylize(frame)
    monkeypatch.setattr(session_module, "WHOLE_BYTES", 2**40)
    whole = StyleSession(style_file, "cpu").stylize(frame)
    difference = np.abs(tiled.astype(int) - whole)
    assert difference.any()  # it was painted in tiles
    assert difference.mean() < 3  # for random weights; trained networks come closer


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_are_painted_in_tiles_too(small_tiles, precision):
    frame = paint_landscape(600, 500)
    path = session_module.__file__.replace("inference/style/session.py", f"checkpoints/great_wave/realtime.{precision}.onnx")
    session = StyleSession(path, "cpu")
    tiled = session.stylize(frame)
    assert session._tiler
    whole = session.stylize_image(session_module.frame_to_image(frame))
    assert np.abs(tiled.astype(int) - session_module.image_to_frame(whole)).mean() < 6


def test_with_less_memory_tiles_are_smaller_and_with_too_little_it_says_so(style_file, monkeypatch):
    frame, sides = paint_landscape(600, 500), []
    original = tiles_module.tiles
    monkeypatch.setattr(tiles_module, "tiles", lambda *args: sides.append(args[2]) or original(*args))
    bytes_of = session_module.PIXEL_BYTES["realtime"]
    monkeypatch.setattr(session_module, "free_bytes", lambda: bytes_of / session_module.TILES_SHARE * 300.1**2 + frame.size)
    StyleSession(style_file, "cpu").stylize(frame)
    assert sides == [300]
    monkeypatch.setattr(session_module, "free_bytes", lambda: bytes_of / session_module.TILES_SHARE * 200**2 + frame.size)
    with pytest.raises(StyleError, match=r"painting 500x600 px, in parts of 256x256, needs about 8 MB, .* are free"):
        StyleSession(style_file, "cpu").stylize(frame)


def test_threads_can_share_a_tiled_session_and_an_interrupt_ends_it(small_tiles, style_file):
    session, frame = StyleSession(style_file, "cpu"), paint_landscape(600, 500)
    alone, found = session.stylize(frame), []
    threads = [threading.Thread(target=lambda: found.append(session.stylize(frame))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(np.array_equal(alone, each) for each in found)
    session.run_options.terminate = True
    with pytest.raises(StyleError):
        session.stylize(frame)
