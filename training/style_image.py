"""The style image, and what a network is trained towards: VGG-19 and the painting's Gram matrices."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from allaprima.inference.pictures import read_picture, resize_short_side
from allaprima.models.errors import TrainingError
from allaprima.models.vgg import VGG19Features
from allaprima.training import losses
from allaprima.training.config import STYLE_LAYERS, WASSERSTEIN_LAYERS, TrainConfig
from allaprima.training.device import in_precision
from allaprima.training.images import to_image

BORDER_LEVELS = 12  # of 255, that a plain border may differ from its own color
MIN_BORDER_SHARE = 0.02  # of the painting, that is worth a word
MIN_CONTRAST = 2.0  # standard deviation of a painting's pixels, 0-255: below it there is nothing to learn
MIN_SIDE_PX = 32
MAX_ASPECT = 8
GRAIN_PX = 1.0  # standard deviation of the blur that takes it away
STYLE_COLORS = 1024  # of a painting, that stand for its palette
MOSTLY = 0.9  # of a painting's strongest alpha: what has less counts as cut away


@dataclass(frozen=True)
class StyleTarget:
    """What the stylized images are compared with.

    Attributes:
        style_grams: layer -> (1, C, C), or (N, C, C) where each image of a batch has a painting of its own.
        style_quantiles: layer -> (1, C, Q) or (N, C, Q), see `losses.quantiles`.
        style_colors: (1, S, 3) or (N, S, 3), see `losses.palette_loss`.
    """

    vgg: VGG19Features
    style_grams: dict[str, Tensor]
    style_quantiles: dict[str, Tensor]
    style_colors: Tensor

    @classmethod
    def of_all(cls, targets: Sequence["StyleTarget"]) -> "StyleTarget":
        """Several paintings' in one, one after the other in each tensor; `of_each` chooses among them."""
        first = targets[0]
        return cls(
            first.vgg,
            {layer: torch.cat([each.style_grams[layer] for each in targets]) for layer in first.style_grams},
            {layer: torch.cat([each.style_quantiles[layer] for each in targets]) for layer in first.style_quantiles},
            torch.cat([each.style_colors for each in targets]),
        )

    def of_each(self, styles: Tensor) -> "StyleTarget":
        """For a batch whose images have these paintings, (N,) numbers in the order of `of_all`."""
        return StyleTarget(
            self.vgg,
            {layer: grams[styles] for layer, grams in self.style_grams.items()},
            {layer: each[styles] for layer, each in self.style_quantiles.items()},
            self.style_colors[styles],
        )


def read_style_image(
    style_image: str, style_size_px: int, max_pixels: int = 0, *, enlarged: bool = True, crop_border: bool = False
) -> np.ndarray:
    """The style image, (H, W, 3) uint8, its short side `style_size_px`.

    Args:
        enlarged: a smaller one, too; else it stays as it is.
        crop_border: a plain border, of a scan or a frame, is cut off.
    Raises:
        PictureError: unreadable. TrainingError: one flat color, transparent all over, tiny, or hopelessly narrow.
    """
    picture = read_picture(style_image, max_pixels)
    frame = picture.frame
    if picture.alpha is not None:
        frame = _only_visible(frame, picture.alpha, style_image)
    if crop_border:
        frame = frame[inside_of(frame)]
    height, width = frame.shape[:2]
    if cv2.meanStdDev(frame)[1].max() < MIN_CONTRAST:  # NumPy's std makes a copy in float64
        raise TrainingError(f"{style_image} is one flat color; a painting with something on it is wanted")
    if min(height, width) < MIN_SIDE_PX:
        raise TrainingError(f"{style_image} is {width}x{height} px; at least {MIN_SIDE_PX} px a side are needed")
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise TrainingError(f"{style_image} is {width}x{height} px; at most {MAX_ASPECT} times as long as wide is wanted")
    return resize_short_side(frame, style_size_px if enlarged else min(style_size_px, height, width))


def inside_of(frame: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of what lies inside a plain border, (H, W, 3) uint8; all of a picture that is plain everywhere."""
    whole = slice(0, frame.shape[0]), slice(0, frame.shape[1])
    inside = []
    for axis in (0, 1):
        lines = frame if axis == 0 else frame.transpose(1, 0, 2)
        middle = np.median(lines[[0, -1]], axis=1)  # of the first and of the last line
        first = next((i for i, line in enumerate(lines) if not _is_plain(line, middle[0])), None)
        last = next((i for i, line in enumerate(lines[::-1]) if not _is_plain(line, middle[1])), None)
        if first is None or last is None:
            return whole
        soft = -(-len(lines) // 100)  # where the painting begins a scan is soft
        inside.append(slice(first + soft * (first > 0), len(lines) - last - soft * (last > 0)))
    return inside[0], inside[1]


def _is_plain(line: np.ndarray, color: np.ndarray) -> bool:
    """Whether nearly all of a row or column is of one color; a JPEG's noise does not count."""
    return bool(np.quantile(np.abs(line.astype(np.int16) - color).max(axis=1), 0.98) <= BORDER_LEVELS)


def plain_border_text(config: TrainConfig, style_frame: np.ndarray) -> str:
    """What to say of a painting with a plain border, which would be learned, too; empty where it has none."""
    rows, columns = inside_of(style_frame)
    height, width = style_frame.shape[:2]
    share = 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    if share < MIN_BORDER_SHARE:
        return ""
    of = f"{share:.0%} of {config.style_image}"
    return f"{of} is a plain border, which the network learns to paint, too; --crop-border cuts it off"


def _only_visible(frame: np.ndarray, alpha: np.ndarray, style_image: str) -> np.ndarray:
    """A painting cut out, with what is visible mirrored into what is not, as the white around it is no part of it."""
    hidden = (alpha < MOSTLY * alpha.max()).astype(np.uint8)  # soft edges, half of white paper, are not learned either
    if not alpha.any():
        raise TrainingError(f"{style_image} is transparent all over; a painting with something on it is wanted")
    if not hidden.any():
        return frame
    _, labels = cv2.distanceTransformWithLabels(hidden, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    nearest = np.zeros((labels.max() + 1, 2), np.intp)
    nearest[labels[hidden == 0]] = np.argwhere(hidden == 0)
    rows_columns = np.argwhere(hidden)
    border = nearest[labels[hidden == 1]]
    mirrored = np.clip(2 * border - rows_columns, 0, np.array(frame.shape[:2]) - 1)
    there = hidden[mirrored[:, 0], mirrored[:, 1]] == 0
    source = np.where(there[:, None], mirrored, border)
    filled = frame.copy()
    filled[rows_columns[:, 0], rows_columns[:, 1]] = frame[source[:, 0], source[:, 1]]
    return filled


def without_grain(style_frame: np.ndarray) -> np.ndarray:
    """A painting, (H, W, 3) uint8, without what is finer than the networks draw.

    They think at a quarter of the size. Asked for a canvas' grain they give their own: images of their strokes, mirrored at the
    grid of 4 px, which hatch every flat part.
    """
    return np.asarray(cv2.GaussianBlur(style_frame, (0, 0), GRAIN_PX))


@torch.no_grad()
def make_target(vgg: VGG19Features, style_frame: np.ndarray, precision: str) -> StyleTarget:
    """VGG-19 in the precision to train with, and what the float32 one sees in the painting, (H, W, 3) uint8."""
    image = to_image(style_frame, vgg.mean.device)
    features = vgg(image, STYLE_LAYERS)
    colors = losses.colors_of(image)
    places = np.random.default_rng(0).permutation(colors.shape[2] * colors.shape[3])
    places = np.resize(places, STYLE_COLORS)  # a tiny painting's more than once
    return StyleTarget(
        in_precision(vgg, precision),
        losses.gram_matrices(features),
        {layer: losses.quantiles(features[layer]) for layer in WASSERSTEIN_LAYERS},
        losses.sampled(colors, torch.from_numpy(places).to(image.device)),
    )
