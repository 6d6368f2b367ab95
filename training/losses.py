"""Perceptual losses: content, style and total variation (Gatys et al. 2016, Johnson et al. 2016); and those that the
painter's recipe adds, computed on samples: sorted Wasserstein, self-similarity, palette.

Three normalizations of content and style:

    unitless   each layer's content error over the mean square of the content's features, each layer's Gram error over
               the mean square of the style's Gram; means over layers. 1.0 is as bad as a black feature map, for any
               painting and any VGG-19 file, so one default style weight serves them all.
    gatys      Gatys et al. 2016, Eq. 1, 4 and 5: sums of squares, 1/2 and 1/(4 C^2 M^2), style layers 1/L each.
    johnson    Johnson et al. 2016, Eq. 2 and 4: squared error over C*H*W, squared Frobenius norm of Grams over C*H*W.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allaprima.models.contract import LUMA

BORDER_PX = 24  # how far a border is visible; the realtime network's reach is about 40
FLAT = 1e-4  # added to a luminance's variance: a picture with less than this has no strokes to compare
LATTICE_PX, LATTICE_CELLS = 4, 8
QUANTILES = 2048  # of the painting's channels
_TINY = 1e-12  # keeps a flat picture's loss finite


def gram_matrix(features: Tensor) -> Tensor:
    """Channel correlations of one layer (Johnson et al. 2016, Eq. 3).

    Args:
        features: (N, C, H, W) activations, any range, any float dtype.
    Returns:
        (N, C, C) float32, divided by C*H*W so that image size does not set the scale.
    Raises:
        ValueError: not 4-D; the message shows the shape.
    Gatys et al. 2016 do not divide.
    """
    if features.ndim != 4:
        raise ValueError(f"features are {tuple(features.shape)}; (N, C, H, W) is wanted")
    c, h, w = features.shape[1:]
    # A half-precision Gram overflows on ordinary photographs; bfloat16 has float32's range.
    psi = features.float() if features.dtype == torch.float16 else features
    return _Gram.apply(psi.permute(0, 2, 3, 1).flatten(1, 2)) / (c * h * w)


def gram_matrices(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`gram_matrix` of each layer."""
    return {layer: gram_matrix(each) for layer, each in features.items()}


class _Gram(torch.autograd.Function):
    """X^T X of (N, H*W, C) in float32, the memory order of channels-last features, so that nothing is copied.

    Its own backward is one product, X (G + G^T); autograd, blind to the symmetry, takes two and a sum. On a GPU sums over
    65,536 pixels stay in float32; a CPU adds in float32, too, but has no product that returns its sums unrounded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        if x.is_cuda and x.dtype == torch.bfloat16:
            return torch.bmm(x.transpose(1, 2), x, out_dtype=torch.float32)
        return (x.transpose(1, 2) @ x).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x @ (grad + grad.transpose(1, 2)).to(x.dtype)


def content_loss(
    features: Mapping[str, Tensor], content_features: Mapping[str, Tensor], normalization: str = "unitless"
) -> Tensor:
    """How far the features are from the content's (feature reconstruction loss, Johnson et al. 2016, Eq. 2).

    Args:
        features: layer -> (N, C, H, W) of the stylized image; further layers are ignored.
        content_features: layer -> (N, C, H, W) of the content image; its keys are the layers compared.
        normalization: unitless, gatys or johnson.
    Returns:
        scalar float32, the mean over the batch; 0 where no layer is compared.
    """
    losses = []
    for layer, target in content_features.items():
        p, f = target.float(), features[layer].float()
        squares = (f - p).square()
        if normalization == "unitless":
            losses.append((squares.mean((1, 2, 3)) / (p.square().mean((1, 2, 3)) + _TINY)).mean())
        elif normalization == "gatys":
            losses.append(0.5 * squares.sum((1, 2, 3)).mean())
        else:
            losses.append(squares.mean((1, 2, 3)).mean())
    return torch.stack(losses).mean() if losses else torch.zeros(())


def style_loss(
    features: Mapping[str, Tensor],
    style_grams: Mapping[str, Tensor],
    normalization: str = "unitless",
    layer_weights: Mapping[str, float] | None = None,
) -> Tensor:
    """How far the Gram matrices are from the style's (style reconstruction loss, Johnson et al. 2016, Eq. 4).

    Args:
        features: layer -> (N, C, H, W) of the stylized image; further layers are ignored.
        style_grams: layer -> (1, C, C) `gram_matrix` of the style image, or (N, C, C), one for each image; its keys are the
            layers compared.
        normalization: unitless, gatys or johnson.
        layer_weights: layer -> its relative weight, w_l of Gatys et al. 2016, Eq. 5; only proportions matter. None: all
            equal.
    Returns:
        scalar float32, the mean over the batch; 0 where no layer is compared.
    """
    losses = []
    for layer, target in style_grams.items():
        squares = (gram_matrix(features[layer]) - target).square()
        if normalization == "unitless":
            losses.append((squares.mean((1, 2)) / (target.square().mean((1, 2)) + _TINY)).mean())
        elif normalization == "gatys":
            # Our Gram is divided by C*H*W, that of Eq. 4 is not: (C*M)^2 / (4 C^2 M^2) = 1/4. This keeps images of
            # different sizes comparable, unlike the paper's own form, which is written for equal sizes.
            losses.append(0.25 * squares.sum((1, 2)).mean())
        else:
            losses.append(squares.sum((1, 2)).mean())
    if not losses:
        return torch.zeros(())
    if layer_weights is not None:
        mean = sum(layer_weights[layer] for layer in style_grams) / len(style_grams)
        losses = [layer_weights[layer] / mean * loss for layer, loss in zip(style_grams, losses, strict=True)]
    return torch.stack(losses).mean() if normalization != "johnson" else torch.stack(losses).sum()


def tv_loss(image: Tensor) -> Tensor:
    """Total variation: mean squared difference of neighboring pixels (Johnson et al. 2016, after Mahendran 2015).

    Args:
        image: (N, 3, H, W) RGB in [0, 1], H and W at least 2.
    Returns:
        scalar float32; 0 for a flat image.
    """
    image = image.float()
    return image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean()


def border_loss(alone: Tensor, with_margin: Tensor) -> Tensor:
    """How differently a network paints where its picture ends.

    Rows and columns of the outer `BORDER_PX` are compared by their mean color: a band counts, the place of strokes does not.

    Args:
        alone: (N, 3, H, W) RGB in [0, 1], the painting of a crop.
        with_margin: the same crop, painted together with its surroundings; constant.
    Returns:
        scalar float32, the mean squared difference.
    """
    off = alone.float() - with_margin.detach().float()
    rows, columns = off.mean(3), off.mean(2)  # (N, 3, H), (N, 3, W)
    sides = [side for each in (rows, columns) for side in (each[..., :BORDER_PX], each[..., -BORDER_PX:])]
    return torch.cat(sides, 2).square().mean()


def steady_loss(image: Tensor, expected: Tensor) -> Tensor:
    """How differently a network paints a photo that has hardly changed: in its strokes, not its colors.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], the painting of the changed photo.
        expected: the painting of the original photo, moved as the photo was; constant.
    Returns:
        scalar float32: the mean squared difference in luminance over the luminance's variance; 2 means nothing in common.
    """
    found, wanted = luminance(image), luminance(expected.detach())
    return ((found - wanted).square().mean((1, 2)) / (wanted.var((1, 2), correction=0) + FLAT)).mean()


def sampled(features: Tensor, places: Tensor) -> Tensor:
    """The features at some positions: (N, P, C) float32 of (N, C, H, W), `places` (P,) int64 counted row by row."""
    return features.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, places).float()


def quantiles(features: Tensor, count: int = QUANTILES) -> Tensor:
    """The distribution of each channel over all positions: (N, C, count) float32, rising, of (N, C, H, W)."""
    return requantiled(features.flatten(2).float().sort(dim=2).values, count)


def requantiled(ordered: Tensor, count: int) -> Tensor:
    """(N, C, count) of (N, C, P): value i is the quantile (i + 1/2) / count, interpolated between its two neighbors."""
    return ordered if ordered.shape[2] == count else F.interpolate(ordered, size=count, mode="linear")


def wasserstein_loss(
    features: Mapping[str, Tensor], style_quantiles: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> Tensor:
    """How far each channel's distribution is from the painting's: the sorted (unmixed) 2-Wasserstein distance, squared.

    Args:
        features: layer -> (N, C, H, W) of the stylized image.
        style_quantiles: layer -> (1, C, Q) or (N, C, Q) `quantiles` of the style image; its keys are the layers compared.
        places: layer -> positions where the stylized image is sampled.
    Returns:
        scalar float32, each layer over the painting's variance, the mean over layers: 1.0 is as bad as a flat picture of
        the painting's mean.
    Heitz et al. 2021 slice onto random directions; slicing onto the channels themselves needs no product.
    """
    losses = []
    for layer, target in style_quantiles.items():
        ordered = sampled(features[layer], places[layer]).transpose(1, 2).contiguous().sort(dim=2).values  # (N, C, P)
        wanted = requantiled(target, ordered.shape[2])
        variance = (target - target.mean(2, keepdim=True)).square().mean((1, 2))
        losses.append(((ordered - wanted).square().mean((1, 2)) / (variance + _TINY)).mean())
    return torch.stack(losses).mean()


def self_similarity_loss(
    features: Mapping[str, Tensor], content_features: Mapping[str, Tensor], places: Mapping[str, Tensor]
) -> Tensor:
    """How far the pattern of similarities between places is from the photo's (Kolkin et al. 2019, Eq. 2, "STROTSS").

    Ignores how things are painted as long as similar things stay similar: faces and forms stay, colors need not.

    Args:
        features, content_features: layer -> (N, C, H, W).
        places: layer -> positions; its keys are the layers compared.
    Returns:
        scalar float32; 0 if all similarities equal the photo's.
    """
    losses = []
    for layer, at in places.items():
        found, wanted = (_likeness(sampled(each[layer], at)) for each in (features, content_features))
        losses.append((found - wanted).abs().mean() * len(at))
    return torch.stack(losses).mean()


def _likeness(vectors: Tensor) -> Tensor:
    """Cosine distances between all pairs of (N, P, C), columns divided by their sum: (N, P, P)."""
    unit = F.normalize(vectors, dim=2)
    distances = (1.0 - unit @ unit.transpose(1, 2)).clamp_min(0.0)
    return distances / (distances.sum(1, keepdim=True) + _TINY)


def colors_of(image: Tensor) -> Tensor:
    """The colors that `palette_loss` compares, means of 2x2 px: (N, 3, H/2, W/2) of (N, 3, H, W) RGB in [0, 1].

    Intensity and two opponent colors, which are decorrelated in natural pictures (Ohta, Kanade, Sakai 1980).
    """
    red, green, blue = F.avg_pool2d(image.float(), 2).unbind(1)
    axes = ((red + green + blue) / 3**0.5, (red - blue) / 2**0.5, (red - 2.0 * green + blue) / 6**0.5)
    return torch.stack(axes, 1)


def palette_loss(image: Tensor, style_colors: Tensor, places: Tensor) -> Tensor:
    """How far a picture's colors are from the painting's: relaxed earth mover's distance (Kolkin et al. 2019, Eq. 5).

    The larger of two means: from each color of the picture to the nearest of the painting's, and from each of the
    painting's to the nearest of the picture's, so that none is missing.

    Args:
        image: (N, 3, H, W) RGB in [0, 1].
        style_colors: (1, S, 3) or (N, S, 3), a sample of `colors_of(style_image)`.
        places: (P,) positions in `colors_of(image)`.
    Returns:
        scalar float32, distance Euclidean + cosine; 0 where the palettes are the same.
    """
    found = sampled(colors_of(image), places)  # (N, P, 3)
    wanted = style_colors.expand(len(found), -1, -1)
    squares = found.square().sum(2)[:, :, None] + wanted.square().sum(2)[:, None, :] - 2.0 * found @ wanted.transpose(1, 2)
    cosine = 1.0 - F.normalize(found, dim=2, eps=1e-3) @ F.normalize(wanted, dim=2, eps=1e-3).transpose(1, 2)
    distances = squares.clamp_min(1e-6).sqrt() + cosine
    return torch.maximum(distances.amin(2).mean(1), distances.amin(1).mean(1)).mean()


def lattice_loss(image: Tensor) -> Tensor:
    """How much of a picture's finest detail repeats from cell to cell of `LATTICE_PX`, the networks' stride.

    In windows of `LATTICE_CELLS` x `LATTICE_CELLS` cells, the variance of the mean cell, less what is due to chance.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], H and W multiples of `LATTICE_PX`, its cells aligned with the network's.
    Returns:
        scalar float32, over the variance of the fine luminance, which counts as constant; 0 where nothing repeats.
    """
    side = LATTICE_PX * LATTICE_CELLS
    height, width = (size // side * side for size in image.shape[2:])
    light = luminance(image)[:, None, :height, :width]
    fine = light - F.interpolate(F.avg_pool2d(light, LATTICE_PX), scale_factor=LATTICE_PX, mode="bilinear")
    windows = fine.unfold(2, side, side).unfold(3, side, side)  # (N, 1, Y, X, side, side)
    cells = windows.reshape(len(image), -1, LATTICE_CELLS, LATTICE_PX, LATTICE_CELLS, LATTICE_PX)
    mean = cells.mean((2, 4), keepdim=True)  # (N, windows, 1, 4, 1, 4)
    by_chance = (cells - mean).square().mean((2, 3, 4, 5)) / LATTICE_CELLS**2
    repeated = (mean - mean.mean((3, 5), keepdim=True)).square().mean((2, 3, 4, 5)) - by_chance
    return (repeated.clamp_min(0.0).mean(1) / (fine.detach().square().mean((1, 2, 3)) + FLAT)).mean()


def luminance(image: Tensor) -> Tensor:
    """(N, H, W) float32 of (N, 3, H, W) RGB."""
    red, green, blue = (weight * channel for weight, channel in zip(LUMA, image.float().unbind(1), strict=True))
    return red + green + blue


def perceptual_losses(
    stylized_image: Tensor,
    features: Mapping[str, Tensor],
    content_features: Mapping[str, Tensor],
    style_grams: Mapping[str, Tensor],
    content_weight: float,
    style_weight: float | Tensor,
    tv_weight: float,
    normalization: str = "unitless",
    style_layer_weights: Mapping[str, float] | None = None,
) -> dict[str, Tensor]:
    """All losses by name, unweighted, and their weighted sum as "total"."""
    losses = {
        "content": content_loss(features, content_features, normalization),
        "style": style_loss(features, style_grams, normalization, style_layer_weights),
        "tv": tv_loss(stylized_image),
    }
    weights = {"content": content_weight, "style": style_weight, "tv": tv_weight}
    return losses | {"total": sum((weights[name] * loss for name, loss in losses.items()), torch.zeros(()))}
