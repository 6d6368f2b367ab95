"""Keep the content's colors (Gatys, Bethge, Hertzmann, Shechtman 2016, "Preserving Color in Neural Artistic Style
Transfer"). A network's palette is fixed by training, so its output is corrected for each picture; the classic optimization
(training/classic/optimize.py) applies the same math to the style image before the transfer, as the paper does."""

import cv2
import numpy as np

from allaprima.inference.buffers import Scratch
from allaprima.inference.options import COLOR_MODES

LINEAR_METHODS = ("cholesky", "image-analogies", "optimal-transport")


def keep_color(
    content_frame: np.ndarray,
    stylized_frame: np.ndarray,
    mode: str,
    match_luminance: bool = False,
    out: np.ndarray | None = None,
    scratch: Scratch | None = None,
) -> np.ndarray:
    """Give a stylized frame the content's colors.

    Args:
        content_frame, stylized_frame: (H, W, 3) uint8 RGB of one size.
        mode: one of `COLOR_MODES`. "none" returns the stylized frame; "luminance" takes only its luminance; "histogram" and
            "linear" move its palette to the content's, by statistics of the whole picture.
        match_luminance: with "luminance", see `keep_luminance`.
        out: where to write the result; may be `stylized_frame`. scratch: for intermediate arrays.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        ValueError: unknown mode, or sizes that differ.
    """
    _check(content_frame, stylized_frame, mode)
    if mode == "luminance":
        return keep_luminance(content_frame, stylized_frame, match_luminance, out, scratch)
    if mode == "histogram":
        return match_histogram(stylized_frame, content_frame, out)
    if mode == "linear":
        return match_linear(stylized_frame, content_frame, out=out)
    return stylized_frame


def _check(content_frame: np.ndarray, stylized_frame: np.ndarray, mode: str) -> None:
    if mode not in COLOR_MODES:
        raise ValueError(f'color mode is "{mode}"; one of {", ".join(COLOR_MODES)} is wanted')
    if content_frame.shape != stylized_frame.shape:
        raise ValueError(f"content is {content_frame.shape}, stylized {stylized_frame.shape}; one size is wanted")


class SteadyColor:
    """`keep_color` for the frames of a film, one after another.

    "histogram" and "linear" use statistics of the whole picture, which jump a little from frame to frame, so that colors
    would flicker. Here both pictures' statistics are averaged over time (exponentially, `HOLD_S`). They restart at a cut.

    Attributes:
        mode: one of `COLOR_MODES`; may be changed between two frames.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self._scratch = Scratch()
        self._statistics: list[np.ndarray] = []
        self._of = (mode, 0.0)  # mode and time of the previous frame
        self._histogram = np.zeros(0)  # of its content

    def keep(
        self, content_frame: np.ndarray, stylized_frame: np.ndarray, time_s: float, out: np.ndarray | None = None
    ) -> np.ndarray:
        """As `keep_color`; `time_s` is the frame's time in seconds, from any origin."""
        _check(content_frame, stylized_frame, self.mode)
        if self.mode not in ("histogram", "linear"):
            return keep_color(content_frame, stylized_frame, self.mode, out=out, scratch=self._scratch)
        content, stylized = _sample(content_frame), _sample(stylized_frame)
        histogram = channel_histograms(content)
        if self.mode == "histogram":
            new = [channel_histograms(stylized), histogram]
        else:
            new = [*color_statistics(stylized), *color_statistics(content)]
        mode, before_s = self._of
        if not self._statistics or mode != self.mode or time_s < before_s or self._is_cut(histogram):
            self._statistics = new
        else:
            share = 1.0 - np.exp((before_s - time_s) / HOLD_S)
            self._statistics = [old + share * (now - old) for old, now in zip(self._statistics, new, strict=True)]
        self._of, self._histogram = (self.mode, time_s), histogram
        if self.mode == "histogram":
            return np.asarray(cv2.LUT(stylized_frame, histogram_table(*self._statistics), out))
        mean_s, cov_s, mean_c, cov_c = self._statistics
        return _apply(stylized_frame, *linear_transform(mean_s, cov_s, mean_c, cov_c), out)

    def forget(self) -> None:
        """Restart with the next frame, which is of another film or style."""
        self._statistics = []

    def _is_cut(self, histogram: np.ndarray) -> bool:
        """Whether most of the content's colors changed within one frame."""
        coarse, before = (each.reshape(3, 16, 16).sum(axis=2) for each in (histogram, self._histogram))
        return bool(0.5 * np.abs(coarse / coarse.sum() - before / before.sum()).sum() > CUT)


HOLD_S = 0.5  # after this time, 63 % of a change of light has been followed
CUT = 0.35  # share of pixels in other sixteenths of the range than in the previous frame


def _sample(frame: np.ndarray) -> np.ndarray:
    """Every n-th pixel, about 20,000: enough for statistics, a tenth of the time at 640x480."""
    step = max(1, int(np.sqrt(frame.shape[0] * frame.shape[1] / 20_000)))
    return np.ascontiguousarray(frame[::step, ::step])


def keep_luminance(
    content_frame: np.ndarray,
    stylized_frame: np.ndarray,
    match: bool = False,
    out: np.ndarray | None = None,
    scratch: Scratch | None = None,
) -> np.ndarray:
    """The stylized luminance with the content's chroma: out = content + Y(stylized) - Y(content).

    A change of luminance in YIQ adds the same to R, G and B, so I and Q stay exactly the content's wherever the sum
    stays within the range.

    Args:
        content_frame: (H, W, 3) uint8 or uint16 RGB.
        stylized_frame: (H, W, 3) RGB of the same type, or (H, W), its luminance alone.
        match: first give the stylized luminance the content's mean and standard deviation.
        out: where to write the result; may be `stylized_frame`. scratch: for intermediate arrays.
    Returns:
        (H, W, 3) RGB of the same type.
    """
    scratch = scratch or Scratch()
    shape, dtype = content_frame.shape, content_frame.dtype
    content_y = luminance(content_frame, scratch.get("content_y", shape[:2], dtype))
    stylized_y = stylized_frame
    if stylized_frame.ndim == 3:
        stylized_y = luminance(stylized_frame, scratch.get("stylized_y", shape[:2], dtype))
    if match:
        matched = match_luminance(stylized_y, content_y)
        stylized_y = np.rint(matched).clip(0, np.iinfo(dtype).max).astype(dtype)
    # Lightening and darkening are done separately, in saturating whole numbers; a signed difference takes 2.6 times as long
    # in OpenCV, and longer in numpy.
    change, changes = scratch.get("change", shape[:2], dtype), scratch.get("changes", shape, dtype)
    cv2.cvtColor(cv2.subtract(stylized_y, content_y, change), cv2.COLOR_GRAY2RGB, changes)
    out = np.asarray(cv2.add(content_frame, changes, out))
    cv2.cvtColor(cv2.subtract(content_y, stylized_y, change), cv2.COLOR_GRAY2RGB, changes)
    return np.asarray(cv2.subtract(out, changes, out))


def luminance(frame: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Y of YIQ, (H, W), of an (H, W, 3) RGB frame, uint8 or uint16; of the same type."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, out))


def match_luminance(y: np.ndarray, reference_y: np.ndarray) -> np.ndarray:
    """L' = (sigma_C / sigma_S) (L - mu_S) + mu_C: mean and standard deviation become the reference's (Gatys et al. 2016,
    Sec. 4; their published code moves only the mean).

    Args:
        y: (H, W). reference_y: (H', W') of the same range.
    Returns:
        (H, W) float64, not clipped; a flat `y` is hardly stretched.
    """
    gain = reference_y.std() / max(float(y.std()), 1.0)
    return np.asarray((y - y.mean()) * gain + reference_y.mean())


def match_histogram(frame: np.ndarray, reference_frame: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Per channel, map values so that their distribution becomes the reference's (Gonzalez & Woods).

    Args:
        frame: (H, W, 3) uint8. reference_frame: (H', W', 3) uint8.
        out: where to write the result; may be `frame`.
    Returns:
        (H, W, 3) uint8, equal to scikit-image's match_histograms.
    """
    return np.asarray(cv2.LUT(frame, histogram_table(channel_histograms(frame), channel_histograms(reference_frame)), out))


def channel_histograms(frame: np.ndarray) -> np.ndarray:
    """(3, 256) float64: how many of a frame's pixels have each value, channel by channel."""
    counts = [cv2.calcHist([frame], [channel], None, [256], [0, 256]).ravel() for channel in range(3)]
    return np.asarray(counts, np.float64)


def histogram_table(histograms: np.ndarray, reference_histograms: np.ndarray) -> np.ndarray:
    """(256, 1, 3) uint8, for cv2.LUT: for each value, by channel, the reference's value at the same quantile."""
    table = np.empty((256, 1, 3), np.uint8)
    for channel, (histogram, reference) in enumerate(zip(histograms, reference_histograms, strict=True)):
        values = np.nonzero(reference)[0]
        quantiles, reference_quantiles = np.cumsum(histogram) / histogram.sum(), np.cumsum(reference) / reference.sum()
        table[:, 0, channel] = np.interp(quantiles, reference_quantiles[values], values).astype(np.uint8)
    return table


def linear_transform(
    mean_s: np.ndarray, cov_s: np.ndarray, mean_c: np.ndarray, cov_c: np.ndarray, method: str = "optimal-transport"
) -> tuple[np.ndarray, np.ndarray]:
    """A and b of x' = A x + b, which maps colors with mean and covariance S to those of C: A cov_s A^T = cov_c.

    Args:
        mean_s, mean_c: (3,). cov_s, cov_c: (3, 3), positive definite.
        method: "cholesky", A = L_C L_S^-1, depends on the order of channels; "image-analogies", A = cov_c^1/2 cov_s^-1/2
            (Hertzmann et al. 2001); "optimal-transport", the Monge-Kantorovich map, which moves colors least (Pitie &
            Kokaram 2007).
    Raises:
        ValueError: unknown method.
    """
    if method == "cholesky":
        a = np.linalg.cholesky(cov_c) @ np.linalg.inv(np.linalg.cholesky(cov_s))
    elif method == "image-analogies":
        a = _matrix_root(cov_c) @ np.linalg.inv(_matrix_root(cov_s))
    elif method == "optimal-transport":
        root_s = _matrix_root(cov_s)
        inverse_root_s = np.linalg.inv(root_s)
        a = inverse_root_s @ _matrix_root(root_s @ cov_c @ root_s) @ inverse_root_s
    else:
        raise ValueError(f'method is "{method}"; one of {", ".join(LINEAR_METHODS)} is wanted')
    return a, mean_c - a @ mean_s


def match_linear(
    frame: np.ndarray, reference_frame: np.ndarray, method: str = "optimal-transport", out: np.ndarray | None = None
) -> np.ndarray:
    """Map colors linearly so that their mean and covariance become the reference's (Gatys et al. 2016, Sec. 3).

    Args:
        frame: (H, W, 3) uint8. reference_frame: (H', W', 3) uint8.
        method: see `linear_transform`.
        out: where to write the result; may be `frame`.
    Returns:
        (H, W, 3) uint8; values beyond [0, 255] are clipped, so those do not match exactly.
    """
    return _apply(frame, *linear_transform(*color_statistics(frame), *color_statistics(reference_frame), method), out)


def _apply(frame: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    return np.asarray(cv2.transform(frame, np.hstack([a, b[:, None]]), out))


def color_statistics(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (3,) and covariance (3, 3) of a frame's colors, values 0-255; regularized so that gray's can be inverted."""
    covariance, mean = cv2.calcCovarMatrix(
        frame.reshape(-1, 3), np.zeros((1, 3)), cv2.COVAR_NORMAL | cv2.COVAR_ROWS | cv2.COVAR_SCALE, ctype=cv2.CV_64F
    )
    # The paper's I * 1e-5 is for values in [0, 1].
    return np.asarray(mean).ravel(), np.asarray(covariance) + 1e-5 * 255.0**2 * np.eye(3)


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
