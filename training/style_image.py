"""The style image, and the target of a training: VGG-19 and the painting's Gram matrices."""

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
from allaprima.training.config import STYLE_LAYERS, WASSERSTEIN_LAYERS
from allaprima.training.device import in_precision
from allaprima.training.images import to_image

BORDER_LEVELS = 12  # of 255; a plain border may differ this much from its own color
MIN_BORDER_SHARE = 0.02  # of the painting; a smaller plain border is not mentioned
MIN_CONTRAST = 2.0  # standard deviation of a painting's pixels, 0-255: below it there is nothing to learn
MIN_SIDE_PX = 32
MAX_ASPECT = 8
GRAIN_PX = 1.0  # standard deviation of the blur that removes it
STYLE_COLORS = 1024  # samples that represent a painting's palette
MOSTLY = 0.9  # of a painting's highest alpha: pixels with less count as cut away


@dataclass(frozen=True)
class StyleTarget:
    """What the stylized images are compared with.

    Attributes:
        style_grams: layer -> (1, C, C), or (N, C, C) if each image of a batch has its own painting.
        style_quantiles: layer -> (1, C, Q) or (N, C, Q), see `losses.quantiles`.
        style_colors: (1, S, 3) or (N, S, 3), see `losses.palette_loss`.
    """

    vgg: VGG19Features
    style_grams: dict[str, Tensor]
    style_quantiles: dict[str, Tensor]
    style_colors: Tensor

    @classmethod
    def of_all(cls, targets: Sequence["StyleTarget"]) -> "StyleTarget":
        """Several paintings' targets in one, concatenated in each tensor; `of_each` selects from them."""
        first = targets[0]
        return cls(
            first.vgg,
            {layer: torch.cat([each.style_grams[layer] for each in targets]) for layer in first.style_grams},
            {layer: torch.cat([each.style_quantiles[layer] for each in targets]) for layer in first.style_quantiles},
            torch.cat([each.style_colors for each in targets]),
        )

    @classmethod
    def blended(cls, targets: Sequence["StyleTarget"], shares: Sequence[float]) -> "StyleTarget":
        """The target of a painting that has a part of each of several: Gram matrices are averaged, and distributions and
        colors are drawn from all of them.

        Args:
            targets: of one painting each. shares: how much each counts; only proportions matter.
        """
        if len(targets) == 1:
            return targets[0]
        parts = [share / sum(shares) for share in shares]

        def drawn(tensors: Sequence[Tensor], dim: int) -> list[Tensor]:
            """From each as many values as its share, spread over all of them."""
            ends = np.rint(np.cumsum([0.0, *parts]) * tensors[0].shape[dim]).astype(int)
            spread = [
                torch.linspace(0, each.shape[dim] - 1, int(n)).round().long()
                for each, n in zip(tensors, np.diff(ends), strict=True)
            ]
            return [each.index_select(dim, at.to(each.device)) for each, at in zip(tensors, spread, strict=True)]

        first = targets[0]
        return cls(
            first.vgg,
            {
                layer: torch.stack([part * each.style_grams[layer] for part, each in zip(parts, targets, strict=True)]).sum(0)
                for layer in first.style_grams
            },
            {
                layer: torch.cat(drawn([each.style_quantiles[layer] for each in targets], 2), 2).sort(dim=2).values
                for layer in first.style_quantiles
            },
            torch.cat(drawn([each.style_colors for each in targets], 1), 1),
        )

    def of_each(self, styles: Tensor) -> "StyleTarget":
        """The target for a batch whose images have these paintings, (N,) indices in the order of `of_all`."""
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
        enlarged: enlarge a smaller one; else it keeps its size.
        crop_border: cut off a plain border, as of a scan or a frame.
    Raises:
        PictureError: unreadable. TrainingError: one flat color, fully transparent, tiny, or hopelessly narrow.
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
    """Rows and columns inside a plain border of a (H, W, 3) uint8 frame; all of it if the whole picture is plain."""
    whole = slice(0, frame.shape[0]), slice(0, frame.shape[1])
    inside = []
    for axis in (0, 1):
        lines = frame if axis == 0 else frame.transpose(1, 0, 2)
        middle = np.median(lines[[0, -1]], axis=1)  # of the first and of the last line
        first = next((i for i, line in enumerate(lines) if not _is_plain(line, middle[0])), None)
        last = next((i for i, line in enumerate(lines[::-1]) if not _is_plain(line, middle[1])), None)
        if first is None or last is None:
            return whole
        soft = -(-len(lines) // 100)  # a scan is blurred where the painting begins
        inside.append(slice(first + soft * (first > 0), len(lines) - last - soft * (last > 0)))
    return inside[0], inside[1]


def _is_plain(line: np.ndarray, color: np.ndarray) -> bool:
    """Whether nearly all of a row or column is of one color; a JPEG's noise does not count."""
    return bool(np.quantile(np.abs(line.astype(np.int16) - color).max(axis=1), 0.98) <= BORDER_LEVELS)


def plain_border_text(style_image: str, style_frame: np.ndarray) -> str:
    """What to tell the user of a plain border, which the network would learn, too; empty if there is none."""
    rows, columns = inside_of(style_frame)
    height, width = style_frame.shape[:2]
    share = 1.0 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)
    if share < MIN_BORDER_SHARE:
        return ""
    of = f"{share:.0%} of {style_image}"
    return f"{of} is a plain border, which the network learns to paint, too; --crop-border cuts it off"


def _only_visible(frame: np.ndarray, alpha: np.ndarray, style_image: str) -> np.ndarray:
    """A cut-out painting with its visible part mirrored into the hidden part, as the white around it is no part of it."""
    hidden = (alpha < MOSTLY * alpha.max()).astype(np.uint8)  # soft edges, half white paper, are not learned either
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
    """A painting, (H, W, 3) uint8, without detail finer than the networks can draw.

    They work at a quarter of the size. Asked for a canvas's grain, they give their own: copies of their strokes, mirrored at
    the grid of 4 px, which hatch every flat part.
    """
    return np.asarray(cv2.GaussianBlur(style_frame, (0, 0), GRAIN_PX))


@torch.no_grad()
def make_target(vgg: VGG19Features, style_frame: np.ndarray, precision: str) -> StyleTarget:
    """VGG-19 in the precision used for training, and what the float32 one sees in the painting, (H, W, 3) uint8."""
    image = to_image(style_frame, vgg.mean.device)
    features = vgg(image, STYLE_LAYERS)
    colors = losses.colors_of(image)
    places = np.random.default_rng(0).permutation(colors.shape[2] * colors.shape[3])
    places = np.resize(places, STYLE_COLORS)  # repeats those of a tiny painting
    return StyleTarget(
        in_precision(vgg, precision),
        losses.gram_matrices(features),
        {layer: losses.quantiles(features[layer]) for layer in WASSERSTEIN_LAYERS},
        losses.sampled(colors, torch.from_numpy(places).to(image.device)),
    )
