"""Paints one frame: scaled to the working size, painted, scaled back, its colors kept, blended."""

import contextlib
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from allaprima.inference.buffers import Scratch
from allaprima.inference.color import SteadyColor, keep_color
from allaprima.inference.denoise import TemporalDenoiser
from allaprima.inference.levels import ENLARGE, level_sizes, paint_levels, scaled
from allaprima.inference.options import StylizeOptions
from allaprima.inference.pictures import fitted
from allaprima.inference.profile import Profile
from allaprima.inference.steady import Steadier
from allaprima.inference.style.session import StyleSession, frame_to_image, image_to_frame


def paint_photo(
    session: StyleSession,
    content_frame: np.ndarray,
    options: StylizeOptions,
    fine_session: StyleSession | None = None,
    *,
    progress: Callable[[float], object] = lambda _: None,
) -> np.ndarray:
    """Paint one photo, (H, W, 3) uint8 RGB, coarse to fine; returns the same shape. See also `paint_levels`."""
    height, width = content_frame.shape[:2]
    work = scaled(content_frame, fitted(height, width, options.max_side_px))
    strokes = session.contract.own_strokes if options.strokes is None else options.strokes
    stylized_frame = paint_levels(session, work, strokes, options.detail, fine_session, progress=progress)
    stylized_frame = scaled(stylized_frame, (height, width))
    stylized_frame = keep_color(content_frame, stylized_frame, options.keep_color, options.match_luminance)
    return _blended(content_frame, stylized_frame, options.strength)


def paint_where(mask: np.ndarray, white_frame: np.ndarray, black_frame: np.ndarray) -> np.ndarray:
    """Combine two frames by a mask.

    Args:
        mask: (h, w) uint8, scaled to the frames' size: 255 for `white_frame`, 0 for `black_frame`, mixed in between.
        white_frame, black_frame: (H, W, 3) uint8 RGB.
    Returns:
        the same shape.
    """
    share = scaled(mask, white_frame.shape[:2])
    out = np.empty_like(white_frame)
    for i in range(3):
        white, black = (
            cv2.multiply(frame[:, :, i], part, dtype=cv2.CV_16U)
            for frame, part in ((white_frame, share), (black_frame, cv2.bitwise_not(share)))
        )
        out[:, :, i] = cv2.convertScaleAbs(cv2.add(white, black), alpha=1 / 255)
    return out


class FilmPainter:
    """Paints the frames of a film or a camera one after another, in reused buffers; still parts and color statistics are kept
    steady.

    Args:
        session: the style.
        profile: receives the time of each stage.
    Attributes:
        session, strength, max_side_px, steady: as in `StylizeOptions`; may be changed between two frames.
        color: keeps the content's colors, steadily; its `mode` may be changed, too.
        scale: share of their size at which frames are painted, 0 to 1.
    """

    def __init__(self, session: StyleSession, options: StylizeOptions, profile: Profile | None = None) -> None:
        self.session, self.strength, self.max_side_px = session, options.strength, options.max_side_px
        self.color = SteadyColor(options.keep_color)
        self.scale = 1.0
        self.steady = options.steady
        self._strokes, self._detail = options.strokes, options.detail
        self._profile = profile or Profile()
        self._denoiser, self._steadier = TemporalDenoiser(), Steadier()
        self._before, self._after = Scratch(), Scratch()  # for `stylize` and `finish`, which run in two threads

    def work_size(self, height: int, width: int) -> tuple[int, int]:
        """The size at which such a frame is painted; scaled sizes are multiples of the network's stride."""
        size = fitted(height, width, self.max_side_px)
        if self.scale >= 1.0:
            return size
        stride, least = self.session.contract.stride_px, self.session.contract.least_px
        scaled = [min(side, max(least, round(side * self.scale / stride) * stride)) for side in size]
        return scaled[0], scaled[1]

    def stylize(self, content_frame: np.ndarray) -> np.ndarray:
        """The network's part of painting a frame.

        Args:
            content_frame: (H, W, 3) uint8 RGB.
        Returns:
            (1, 3, H', W') float32 in [0, 1], of the size that `work_size` returns; for `finish`.
        Raises:
            StyleError: ONNX Runtime failed, usually for lack of memory.
        """
        with self._profile.stage("convert"):
            size = self.work_size(*content_frame.shape[:2])
            work = self._denoiser.filter(scaled(content_frame, size, self._before))
            strokes = self.session.contract.own_strokes if self._strokes is None else self._strokes
            fine = len(level_sizes(*size, strokes)) == 1
            image = frame_to_image(work, self._before) if fine else None
        with self._profile.stage("network"):
            if image is not None:
                return self.session.stylize_image(image)
            painted = paint_levels(self.session, work, strokes, self._detail)
        with self._profile.stage("convert"):
            return frame_to_image(painted)

    def finish(
        self, content_frame: np.ndarray, stylized_image: np.ndarray, time_s: float, out: np.ndarray | None = None
    ) -> np.ndarray:
        """The rest: back to the frame's size, colors, strength. It may run in another thread than `stylize`, so that the
        network need not wait for it.

        Args:
            content_frame: (H, W, 3) uint8 RGB. stylized_image: the result of `stylize` for it.
            time_s: when it appears, in seconds from any origin, for the color statistics.
            out: where to write the result, else a new array; not `content_frame`.
        Returns:
            (H, W, 3) uint8 RGB.
        """
        out = np.empty_like(content_frame) if out is None else out
        size, work_size = content_frame.shape[:2], stylized_image.shape[2:]
        with self._profile.stage("steady"):
            painted = out if work_size == size else self._after.get("painted", (*work_size, 3))
            image_to_frame(stylized_image, painted, self._after)
            self._steadier.steady(content_frame, painted, self.steady)
        with self._profile.stage("color"):
            if painted is not out:
                cv2.resize(painted, size[::-1], out, interpolation=ENLARGE)
            self.color.keep(content_frame, out, time_s, out)
            return _blended(content_frame, out, self.strength, out)


@contextlib.contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Run OpenCV only in the calling thread: while the network uses the cores, OpenCV's own threads cost more than they gain
    (on two cores, 640x480, a camera's frames came 3 % faster without them, median of six pairs of runs)."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _blended(
    content_frame: np.ndarray, stylized_frame: np.ndarray, strength: float, out: np.ndarray | None = None
) -> np.ndarray:
    if strength >= 1.0:
        return stylized_frame
    return np.asarray(cv2.addWeighted(stylized_frame, strength, content_frame, 1.0 - strength, 0.0, out))
