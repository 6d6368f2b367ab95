"""Strokes in proportion to the picture: a large photo is first painted small, where the strokes are large. Level by level,
that painting is then painted again, larger each time, with the photo's own finer lines added.

A network's strokes have a fixed size in pixels. Painted in one pass, a photo of 12 megapixels gets strokes four pixels wide
in four thousand, which vanish on a screen. The idea is that of Gatys et al. 2017 ("Controlling Perceptual Factors in Neural
Style Transfer", Sec. 6, coarse to fine), with a network in place of the optimization."""

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from allaprima.inference.buffers import Scratch
from allaprima.inference.style.session import StyleSession
from allaprima.models.levels_graph import MAX_GAIN, MIN_FINER, OWN, STROKES_PIXELS

BAND_ROWS = 256
SLOW_PIXELS = 1_000_000  # levels of at most this size are painted by the better of two tiers

ENLARGE, REDUCE = cv2.INTER_CUBIC, cv2.INTER_AREA


def level_sizes(height: int, width: int, strokes: float) -> list[tuple[int, int]]:
    """The sizes at which to paint a picture, in order, the last being its own; each is about twice the previous one.

    Args:
        strokes: how large the strokes are: 1 as on a picture of `STROKES_PIXELS`, 2 twice as large; 0 for one pass at the
            picture's own size.
    """
    finer = strokes * math.sqrt(height * width / STROKES_PIXELS)
    steps = max(1, math.ceil(math.log2(finer) - 0.5)) if finer >= MIN_FINER else 0
    scales = [finer ** (step / steps) / finer for step in range(steps)]
    return [*((max(1, round(height * scale)), max(1, round(width * scale))) for scale in scales), (height, width)]


def paint_levels(
    session: StyleSession,
    content_frame: np.ndarray,
    strokes: float,
    detail: float,
    fine_session: StyleSession | None = None,
    *,
    progress: Callable[[float], object] = lambda _: None,
) -> np.ndarray:
    """Paint a picture coarse to fine.

    Args:
        content_frame: (H, W, 3) uint8 RGB.
        strokes: see `level_sizes`.
        detail: how much of the photo's own lines every finer level gets to see, 0 to 1.
        fine_session: paints the levels of more than `SLOW_PIXELS`; None uses `session` for all.
        progress: receives the painted share, 0 to 1, if the picture is large.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        StyleError: ONNX Runtime failed, usually for lack of memory.
    """
    sizes = level_sizes(content_frame.shape[0], content_frame.shape[1], strokes)
    contents = [content_frame]
    for size in sizes[-2::-1]:
        contents.insert(0, scaled(contents[0], size))
    todo, done = sum(height * width for height, width in sizes), 0

    def tell(share: float) -> None:  # of the current level, whose content is the first one left
        progress((done + share * contents[0].shape[0] * contents[0].shape[1]) / todo)

    stylized_frame = session.stylize(contents[0], tell)
    while len(contents) > 1:
        height, width = contents[1].shape[:2]
        painter = fine_session if fine_session and height * width > SLOW_PIXELS else session
        done += contents[0].shape[0] * contents[0].shape[1]
        to_paint = _with_detail(stylized_frame, contents.pop(0), contents[0], detail)
        stylized_frame = _held(painter.stylize(to_paint, tell), stylized_frame)
    return stylized_frame


# Both work channel by channel and in bands of rows: otherwise, for a picture of 100 megapixels (300 MB), they would need
# three times as much memory besides.


def _with_detail(coarse: np.ndarray, coarse_content: np.ndarray, content: np.ndarray, detail: float) -> np.ndarray:
    """The input of a level's network: the previous level's painting, enlarged, plus the photo's detail, which is the photo
    minus what the previous level saw of it."""
    to_paint = np.empty_like(content)
    for i in range(3):
        seen = cv2.convertScaleAbs(coarse_content[:, :, i], alpha=detail)
        unseen = scaled(cv2.subtract(coarse[:, :, i], seen, dtype=cv2.CV_16S), content.shape[:2])
        for rows in _bands(content):
            lines = cv2.convertScaleAbs(content[rows, :, i], alpha=detail)
            to_paint[rows, :, i] = cv2.add(lines, unseen[rows], dtype=cv2.CV_8U)
    return to_paint


def _held(finer: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """A level's painting, held to the previous level's; `finer` itself is changed."""
    # It gets the coarse painting's palette, in mean and deviation; then most of its own light and color is removed.
    small = scaled(finer, coarse.shape[:2])
    (mean, std), (wanted_mean, wanted_std) = cv2.meanStdDev(small), cv2.meanStdDev(coarse)
    gain = np.clip((wanted_std + 1.0) / (std + 1.0), 1.0 / MAX_GAIN, MAX_GAIN)
    shift = wanted_mean - gain * mean
    for i in range(3):
        to_coarse = np.array([[gain[i, 0], shift[i, 0]]])
        own = cv2.transform(small[:, :, i], to_coarse)
        drift = scaled(cv2.addWeighted(coarse[:, :, i], 1.0 - OWN, own, OWN - 1.0, 0.0, dtype=cv2.CV_16S), finer.shape[:2])
        for rows in _bands(finer):
            finer[rows, :, i] = cv2.add(cv2.transform(finer[rows, :, i], to_coarse), drift[rows], dtype=cv2.CV_8U)
    return finer


def _bands(frame: np.ndarray) -> Iterator[slice]:
    for start in range(0, frame.shape[0], BAND_ROWS):
        yield slice(start, start + BAND_ROWS)


def scaled(frame: np.ndarray, size: tuple[int, int], scratch: Scratch | None = None) -> np.ndarray:
    """A frame, (H, W, 3) or (H, W), uint8 or int16, scaled to a size; if `scratch` is given, in it and (H, W, 3) uint8."""
    if frame.shape[:2] == size:
        return frame
    way = REDUCE if size[0] * size[1] < frame.shape[0] * frame.shape[1] else ENLARGE
    out = scratch.get("scaled", (*size, 3)) if scratch else None
    return np.asarray(cv2.resize(frame, size[::-1], out, interpolation=way))
