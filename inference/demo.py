"""`allaprima demo`: one picture in every shipped style, on one sheet. The picture itself is generated from noise."""

import time
from collections.abc import Sequence

import numpy as np

from allaprima.inference.color import keep_color
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import paint_photo
from allaprima.inference.pictures import contact_sheet
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import Style

COLUMNS = 5  # as many as fit on a screen


def demo_sheet(
    frames: Sequence[np.ndarray], styles: Sequence[Style], cell_px: int = 320
) -> tuple[np.ndarray, dict[str, float]]:
    """Every style with its own colors and, below, with the content's.

    Args:
        frames: (H, W, 3) uint8 RGB contents.
        styles: what to paint them in.
    Returns:
        the contact sheet, (H', W', 3) uint8, `COLUMNS` to a row, and the milliseconds per picture (mean over the frames), by
        full name.
    """
    sessions = {style.full_name: StyleSession(style.path) for style in styles}
    times_ms: dict[str, list[float]] = {name: [] for name in sessions}
    rows: list[list[np.ndarray | None]] = []
    labels: list[list[str]] = []
    names = ["content", *sessions]
    kept_names = ["", *("with the content's colors" for _ in sessions)]
    for frame in frames:
        own: list[np.ndarray | None] = [frame]
        kept: list[np.ndarray | None] = [None]
        for name, session in sessions.items():
            paint_photo(session, frame, StylizeOptions())  # the first run of a size sets up buffers
            began = time.perf_counter()
            stylized_frame = paint_photo(session, frame, StylizeOptions())
            times_ms[name].append(1000.0 * (time.perf_counter() - began))
            own.append(stylized_frame)
            kept.append(keep_color(frame, stylized_frame, "luminance"))
        for i in range(0, len(own), COLUMNS):
            rows += [own[i : i + COLUMNS], kept[i : i + COLUMNS]]
            labels += [names[i : i + COLUMNS], kept_names[i : i + COLUMNS]]
    return contact_sheet(rows, labels, cell_px), {name: float(np.mean(times)) for name, times in times_ms.items()}
