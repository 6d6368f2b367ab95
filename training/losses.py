"""Perceptual losses: content, style and total variation (Gatys et al. 2016, Johnson et al. 2016).

Three normalizations of the same two sums:

    unitless   each layer's content error over the mean square of the content's features, each layer's Gram error over
               the mean square of the style's Gram; means over layers. 1.0 is as bad as a black feature map, whatever
               the painting and whatever VGG-19 file, so one default style weight serves them all.
    gatys      Gatys et al. 2016, Eq. 1, 4 and 5: sums of squares, 1/2 and 1/(4 C^2 M^2), style layers 1/L each.
    johnson    Johnson et al. 2016, Eq. 2 and 4: squared error over C*H*W, squared Frobenius norm of Grams over C*H*W.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from models.contract import LUMA

BORDER_PX = 24  # how far a border shows; the realtime network's own reach is some 40
FLAT = 1e-4  # of a luminance's variance, added: a picture with less than this has no strokes to be compared
_TINY = 1e-12  # keeps a flat picture's loss finite


def gram_matrix(features: Tensor) -> Tensor:
    """Channel correlations of one layer (Johnson et al. 2016, Eq. 3).

    Args:
        features: (N, C, H, W) activations, any range, any float dtype.
    Returns:
        (N, C, C) float32, divided by C*H*W so that image size does not set the scale.
    Raises:
        ValueError: not 4-D; the message shows the shape.
    Differs from Gatys et al. 2016, who do not divide.
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
    """X^T X of (N, H*W, C) in float32, the order that channels-last features lie in, so that nothing is copied.

    Its own backward is one product, X (G + G^T); autograd, blind to the symmetry, takes two and a sum. On a GPU sums over
    65,536 pixels stay in float32; a CPU adds in float32, too, but has no product that hands that on unrounded.
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
        layer_weights: layer -> how much it counts beside the others, w_l of Gatys et al. 2016, Eq. 5; only their
            proportions matter. None: all alike.
    Returns:
        scalar float32, the mean over the batch; 0 where no layer is compared.
    """
    losses = []
    for layer, target in style_grams.items():
        squares = (gram_matrix(features[layer]) - target).square()
        if normalization == "unitless":
            losses.append((squares.mean((1, 2)) / (target.square().mean((1, 2)) + _TINY)).mean())
        elif normalization == "gatys":
            # Ours is divided by C*H*W, Eq. 4 is not: (C*M)^2 / (4 C^2 M^2) = 1/4. Images of different size stay
            # comparable, which the paper's own form, written for equal sizes, does not give.
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
    """Total variation: mean squared difference of neighbouring pixels (Johnson et al. 2016, after Mahendran 2015).

    Args:
        image: (N, 3, H, W) RGB in [0, 1], H and W at least 2.
    Returns:
        scalar float32; 0 for a flat image.
    """
    image = image.float()
    return image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean()


def border_loss(alone: Tensor, with_margin: Tensor) -> Tensor:
    """How much else a network paints where its picture ends.

    Rows and columns of the outer `BORDER_PX` are compared by their mean color: a band counts, not where its strokes lie.

    Args:
        alone: (N, 3, H, W) RGB in [0, 1], what it makes of a crop.
        with_margin: the same crop, painted with what lies around it; constant.
    Returns:
        scalar float32, the mean squared difference.
    """
    off = alone.float() - with_margin.detach().float()
    rows, columns = off.mean(3), off.mean(2)  # (N, 3, H), (N, 3, W)
    sides = [side for each in (rows, columns) for side in (each[..., :BORDER_PX], each[..., -BORDER_PX:])]
    return torch.cat(sides, 2).square().mean()


def steady_loss(image: Tensor, expected: Tensor) -> Tensor:
    """How much else a network paints where a photo has hardly changed: other strokes, not other colors.

    Args:
        image: (N, 3, H, W) RGB in [0, 1], what it makes of the changed photo.
        expected: what it made of the photo, moved as that was; constant.
    Returns:
        scalar float32: the mean squared difference in luminance over the luminance's variance; 2 is nothing in common.
    """
    found, wanted = luminance(image), luminance(expected.detach())
    return ((found - wanted).square().mean((1, 2)) / (wanted.var((1, 2), correction=0) + FLAT)).mean()


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
