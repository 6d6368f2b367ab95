"""Keep the content's colours (Gatys, Bethge, Hertzmann, Shechtman 2016, "Preserving Color in Neural Artistic Style
Transfer"). A network's palette froze at training, so its output is mended per picture; the classic optimization
(training/optimize.py) applies the same maths to the style image, before the transfer, as the paper does."""

import cv2
import numpy as np

MODES = ("none", "luminance", "histogram", "linear")
LINEAR_METHODS = ("cholesky", "image-analogies", "optimal-transport")


def keep_color(content_frame: np.ndarray, stylized_frame: np.ndarray, mode: str, match_luminance: bool = False) -> np.ndarray:
    """Give a stylized frame the content's colours.

    Args:
        content_frame, stylized_frame: (H, W, 3) uint8 RGB of one size.
        mode: one of `MODES`. "none" returns the stylized frame; "luminance" takes only its light and dark; "histogram"
            and "linear" move its palette to the content's, statistics of the whole picture.
        match_luminance: with "luminance", see `keep_luminance`.
    Returns:
        (H, W, 3) uint8 RGB.
    Raises:
        ValueError: unknown mode, or sizes that differ.
    """
    if mode not in MODES:
        raise ValueError(f'color mode is "{mode}"; one of {", ".join(MODES)} is wanted')
    if content_frame.shape != stylized_frame.shape:
        raise ValueError(f"content is {content_frame.shape}, stylized {stylized_frame.shape}; one size is wanted")
    if mode == "luminance":
        return keep_luminance(content_frame, stylized_frame, match_luminance)
    if mode == "histogram":
        return match_histogram(stylized_frame, content_frame)
    if mode == "linear":
        return match_linear(stylized_frame, content_frame)
    return stylized_frame


def keep_luminance(content_frame: np.ndarray, stylized_frame: np.ndarray, match: bool = False) -> np.ndarray:
    """The stylized luminance with the content's chroma: out = content + Y(stylized) - Y(content).

    A change of luminance in YIQ adds the same to R, G and B, so I and Q stay exactly the content's wherever the sum
    stays within the range.

    Args:
        content_frame: (H, W, 3) uint8 or uint16 RGB.
        stylized_frame: (H, W, 3) RGB of the same type, or (H, W), its luminance alone.
        match: first give the stylized luminance the content's mean and standard deviation.
    Returns:
        (H, W, 3) RGB of the same type.
    """
    wide = np.int16 if content_frame.dtype == np.uint8 else np.int32
    content_y = luminance(content_frame).astype(wide)
    stylized_y: np.ndarray = (luminance(stylized_frame) if stylized_frame.ndim == 3 else stylized_frame).astype(wide)
    if match:
        stylized_y = np.rint(match_luminance(stylized_y, content_y)).astype(wide)
    change = np.subtract(stylized_y, content_y)
    return np.clip(content_frame + change[:, :, None], 0, np.iinfo(content_frame.dtype).max).astype(content_frame.dtype)


def luminance(frame: np.ndarray) -> np.ndarray:
    """Y of YIQ, (H, W), of an (H, W, 3) RGB frame, uint8 or uint16; of the same type."""
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY))


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


def match_histogram(frame: np.ndarray, reference_frame: np.ndarray) -> np.ndarray:
    """Per channel, map values so that their distribution becomes the reference's (Gonzalez & Woods).

    Args:
        frame: (H, W, 3) uint8. reference_frame: (H', W', 3) uint8.
    Returns:
        (H, W, 3) uint8, equal to scikit-image's match_histograms.
    """
    table = np.empty((256, 1, 3), np.uint8)
    for channel in range(3):
        counts = np.bincount(frame[:, :, channel].ravel(), minlength=256)
        reference_counts = np.bincount(reference_frame[:, :, channel].ravel(), minlength=256)
        quantiles = np.cumsum(counts) / counts.sum()
        values = np.nonzero(reference_counts)[0]
        reference_quantiles = np.cumsum(reference_counts)[values] / reference_counts.sum()
        table[:, 0, channel] = np.interp(quantiles, reference_quantiles, values).astype(np.uint8)
    return np.asarray(cv2.LUT(frame, table))


def linear_transform(
    mean_s: np.ndarray, cov_s: np.ndarray, mean_c: np.ndarray, cov_c: np.ndarray, method: str = "optimal-transport"
) -> tuple[np.ndarray, np.ndarray]:
    """A and b of x' = A x + b that takes colours of mean and covariance S to those of C: A cov_s A^T = cov_c.

    Args:
        mean_s, mean_c: (3,). cov_s, cov_c: (3, 3), positive definite.
        method: "cholesky", A = L_C L_S^-1, depends on the order of channels; "image-analogies", A = cov_c^1/2 cov_s^-1/2
            (Hertzmann et al. 2001); "optimal-transport", the Monge-Kantorovich map, which moves colours least (Pitie &
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


def match_linear(frame: np.ndarray, reference_frame: np.ndarray, method: str = "optimal-transport") -> np.ndarray:
    """Map colours linearly so that their mean and covariance become the reference's (Gatys et al. 2016, Sec. 3).

    Args:
        frame: (H, W, 3) uint8. reference_frame: (H', W', 3) uint8.
        method: see `linear_transform`.
    Returns:
        (H, W, 3) uint8; values beyond [0, 255] are clipped, which is where the match ends.
    """
    a, b = linear_transform(*color_statistics(frame), *color_statistics(reference_frame), method)
    return np.asarray(cv2.transform(frame, np.hstack([a, b[:, None]])))


def color_statistics(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (3,) and covariance (3, 3) of a frame's colours, values 0-255; regularised so that grey has an inverse."""
    covariance, mean = cv2.calcCovarMatrix(
        frame.reshape(-1, 3), np.zeros((1, 3)), cv2.COVAR_NORMAL | cv2.COVAR_ROWS | cv2.COVAR_SCALE, ctype=cv2.CV_64F
    )
    # The paper's I * 1e-5 is for values in [0, 1].
    return np.asarray(mean).ravel(), np.asarray(covariance) + 1e-5 * 255.0**2 * np.eye(3)


def _matrix_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)
