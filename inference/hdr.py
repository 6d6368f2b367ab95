"""HDR and wide colors of films and pictures as SDR: networks know sRGB-like pictures, and what is written has 8 bits."""

import cv2
import numpy as np

PQ, HLG = 16, 18  # transfer characteristics of H.273
NAMES = {PQ: "PQ", HLG: "HLG"}
BT2020, P3 = 9, 12  # primaries of H.273
WHITE_NITS, PEAK_NITS = 203.0, 1000.0  # of the paper's white, and the brightest that is told apart (ITU-R BT.2408)
PEAK = PEAK_NITS / WHITE_NITS
KNEE = 0.3  # below it, light is unchanged
GAMMA = 2.4  # of an SDR display (ITU-R BT.1886)
TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])  # BT.2087
# Of Display P3's light to sRGB's; both have the same white.
P3_TO_SRGB = np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]])
LUMINANCE = np.array([[0.2627, 0.6780, 0.0593]])  # of BT.2020
STEPS = 4096


class ToSdr:
    """Frames of a PQ or HLG film in BT.709's colors, tone-mapped (Mobius, as in FFmpeg's tonemap filter).

    Args:
        transfer: `PQ` or `HLG`. primaries: H.273's number.
    """

    def __init__(self, transfer: int, primaries: int) -> None:
        self._is_hlg, self._wide = transfer == HLG, primaries == BT2020
        code = np.arange(256) / 255.0
        self._light = (_hlg_scene(code) if self._is_hlg else _pq_nits(code) / WHITE_NITS).astype(np.float32)
        mapped = _mobius(np.square(np.arange(STEPS) / (STEPS - 1)) * PEAK)
        self._levels = np.rint(255.0 * mapped ** (1.0 / GAMMA)).astype(np.uint8)

    def __call__(self, frame: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB, as coded in the film, to the same in BT.709."""
        light = self._light[frame]  # relative to white, of the scene for HLG, else of the display
        if self._is_hlg:  # the display's own curve, by luminance (ITU-R BT.2100, Table 5, gamma 1.2)
            luminance = np.maximum(cv2.transform(light, LUMINANCE), 1e-6)
            light *= (PEAK * luminance**0.2)[..., None]
        if self._wide:
            light = cv2.transform(light, TO_BT709)
        steps = np.sqrt(np.clip(light, 0.0, PEAK) / PEAK) * (STEPS - 1) + 0.5
        return self._levels[steps.astype(np.uint16)]


def coded_as_srgb(frame: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """A picture whose colors are said by H.273's numbers, (H, W, 3) uint8, in sRGB; other ones than those here stay."""
    if transfer in NAMES:
        return ToSdr(transfer, primaries)(frame)
    matrix = {BT2020: TO_BT709, P3: P3_TO_SRGB}.get(primaries)
    if matrix is None:
        return frame
    code = np.arange(256) / 255.0  # of sRGB's curve, which is near enough to BT.2020's
    light = np.where(code <= 0.04045, code / 12.92, ((code + 0.055) / 1.055) ** 2.4).astype(np.float32)
    light = cv2.transform(light[frame], matrix).clip(0.0, 1.0)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1.0 / 2.4) - 0.055)
    return np.rint(255.0 * shown).astype(np.uint8)


def _pq_nits(code: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084's EOTF."""
    m1, m2, c1, c2, c3 = 0.1593017578125, 78.84375, 0.8359375, 18.8515625, 18.6875
    power = code ** (1.0 / m2)
    return np.asarray(10_000.0 * (np.maximum(power - c1, 0.0) / (c2 - c3 * power)) ** (1.0 / m1))


def _hlg_scene(code: np.ndarray) -> np.ndarray:
    """The inverse of HLG's OETF (ITU-R BT.2100, Table 5), 1 for its brightest."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(code <= 0.5, np.square(code) / 3.0, (np.exp((code - c) / a) + b) / 12.0)


def _mobius(light: np.ndarray) -> np.ndarray:
    """Light relative to white, to [0, 1]: unchanged up to the knee, `PEAK` to 1, smooth in between."""
    j, peak = KNEE, PEAK
    a = -j * j * (peak - 1.0) / (j * j - 2.0 * j + peak)
    b = (j * j - 2.0 * j * peak + peak) / (peak - 1.0)
    scale = (b * b + 2.0 * b * j + j * j) / (b - a)
    return np.where(light <= j, light, scale * (light + a) / (light + b))
