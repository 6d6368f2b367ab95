"""What the window shows: the painting, the original beside it, and text over them."""

from collections.abc import Sequence

import cv2
import numpy as np

from allaprima.inference.buffers import Scratch


def lay_out(
    frames: Sequence[np.ndarray],
    words: Sequence[str],
    *,
    trouble: str,
    keys: Sequence[tuple[str, str]],
    scratch: Scratch,
) -> np.ndarray:
    """A picture for the window.

    Args:
        frames: (H, W, 3) uint8 RGB of one size, from left to right; none before the first painting.
        words: lines at the top left.
        trouble: why the camera gives no picture, "" if it does; shown instead of the words, over darkened frames.
        keys: keys to list in the middle, with what they do.
        scratch: holds the picture.
    Returns:
        (H, W, 3) uint8 RGB, `frames` side by side.
    """
    canvas = _side_by_side(frames, scratch) if frames else np.zeros((480, 640, 3), np.uint8)
    if trouble:
        np.right_shift(canvas, 2, out=canvas)
        write_words(canvas, [trouble, "trying to open it again; q quits"], centered=True)
    elif not frames:
        write_words(canvas, ["waiting for the camera"], centered=True)
    else:
        write_words(canvas, words)
    if keys:
        write_words(canvas, [f"{key}\t{what}" for key, what in keys], centered=True)
    return canvas


def _side_by_side(frames: Sequence[np.ndarray], scratch: Scratch) -> np.ndarray:
    height, width = frames[0].shape[:2]
    canvas = scratch.get("canvas", (height, width * len(frames), 3))
    for i, frame in enumerate(frames):
        canvas[:, i * width : (i + 1) * width] = frame
    return canvas


def write_words(canvas: np.ndarray, lines: Sequence[str], centered: bool = False) -> None:
    """Write small text on a dark background onto a canvas; text after a tab begins in a second column."""
    height, width = canvas.shape[:2]
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.35, min(0.5, width / 1400))
    line_px = round(40 * size)
    rows = [line.encode("ascii", "replace").decode().split("\t") for line in lines]  # the font has no other letters

    def text_px(text: str) -> int:
        return int(cv2.getTextSize(text, font, size, 1)[0][0])

    second_px = 14 + max((text_px(row[0]) for row in rows if len(row) > 1), default=0)
    wide_px = 16 + max(second_px + text_px(row[1]) if len(row) > 1 else text_px(row[0]) for row in rows)
    top = max(0, (height - line_px * len(rows)) // 2) if centered else 0
    left = max(0, (width - wide_px) // 2) if centered else 0
    ground = canvas[top : top + line_px * len(rows) + 6, left : left + wide_px]
    np.right_shift(ground, 2, out=ground)
    for i, row in enumerate(rows):
        y = top + (i + 1) * line_px - round(10 * size)
        for x, text in zip((left + 8, left + 8 + second_px), row, strict=False):
            cv2.putText(canvas, text, (x, y), font, size, (255, 250, 240), 1, cv2.LINE_AA)
