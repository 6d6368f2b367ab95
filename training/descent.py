"""Gradient descent on a picture's pixels towards content and style (Gatys et al. 2016, Sec. 2)."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import OptimizeError
from models.vgg import VGG19Features
from training import losses

ADAM_LR = 0.03  # of pixels in [0, 1]
LBFGS_HISTORY = 20  # pictures and gradients kept
WORSE, PATIENCE = 1.5, 20  # times the lowest total so far, and for how many steps in a row, before they are taken back


@dataclass(frozen=True)
class Objective:
    """What a picture is compared with, and how much each comparison counts.

    Attributes:
        vgg: on the picture's device; features have its weights' precision.
        content_features, style_grams: of one image each, as `training.losses` wants them; empty: not compared.
        content_weight, style_weight, tv_weight, normalization, style_layer_weights: see `losses.perceptual_losses`.
    """

    vgg: VGG19Features
    content_features: Mapping[str, Tensor]
    style_grams: Mapping[str, Tensor]
    content_weight: float = 1.0
    style_weight: float = 1.0
    tv_weight: float = 0.0
    normalization: str = "unitless"
    style_layer_weights: Mapping[str, float] | None = None

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        """The losses of an image, (1, 3, H, W) or, grey, (1, 1, H, W), in [0, 1]; see `losses.perceptual_losses`."""
        image = image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        return losses.perceptual_losses(
            image,
            self.vgg(image, list({**self.style_grams, **self.content_features})),
            self.content_features,
            self.style_grams,
            self.content_weight,
            self.style_weight,
            self.tv_weight,
            self.normalization,
            self.style_layer_weights,
        )


@dataclass(frozen=True)
class Step:
    """A picture on its way.

    Attributes:
        iteration: how many updates made it; 0 is the initial picture.
        image: (1, 3, H, W) or (1, 1, H, W) float32 in [0, 1]; not changed afterwards.
        losses: of this very picture: content, style, tv and total.
    """

    iteration: int
    image: Tensor
    losses: dict[str, float]


def descend(image: Tensor, objective: Objective, iterations: int, optimizer: str = "lbfgs") -> Iterator[Step]:
    """Change an image so that its total loss falls; yields it as it is and after each update.

    After each update the picture is brought back into [0, 1], as Johnson et al. 2016 do (Sec. 4.1), so that the losses are
    those of a picture that can be saved.

    Args:
        image: (1, 3, H, W), or (1, 1, H, W) for a grey picture, in [0, 1]; not changed.
        iterations: updates, each one forward and backward pass. L-BFGS runs without a line search: it may
            overshoot, and mends that within a few updates. If it does not, or the total is not finite, it begins anew at
            the best picture.
        optimizer: "lbfgs" or "adam".
    Raises:
        OptimizeError: the losses are not finite from the start.
    """
    pixels = image.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    update = _optimizer(pixels, optimizer)
    parts: dict[str, Tensor] = {}
    scales: list[float] = []

    def closure() -> float:
        pixels.grad = None
        parts.update(objective(pixels))
        if not parts["total"].requires_grad:  # every weight is zero
            pixels.grad = torch.zeros_like(pixels)
            return 0.0
        parts["total"].backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        # The first gradient's mean size becomes 1: torch's L-BFGS drops pairs of step and change of gradient whose product
        # is below 1e-10, and then creeps. Otherwise neither optimizer minds the scale.
        scales.append(scales[0] if scales else 1.0 / (pixels.grad.abs().mean().item() or 1.0))
        pixels.grad *= scales[0]
        return scales[0] * parts["total"].item()

    best, best_total, worse = image, math.inf, 0
    for iteration in range(iterations + 1):
        now = pixels.detach().clone()
        if iteration < iterations:
            update.step(closure)  # looks at the losses of `now` first, then changes the pixels
        else:
            with torch.no_grad():
                parts.update(objective(pixels))
        read = {name: part.item() for name, part in parts.items()}
        worse = 0 if read["total"] <= WORSE * best_total else worse + 1
        if read["total"] < best_total:
            best, best_total = now, read["total"]
        elif best_total == math.inf:
            raise OptimizeError(f"the total loss is {read['total']} from the start; try smaller weights or --precision fp32")
        elif worse > PATIENCE or not math.isfinite(read["total"]):
            worse = 0
            with torch.no_grad():
                pixels.copy_(best)
            update = _optimizer(pixels, optimizer)
        yield Step(iteration, now, read)
        with torch.no_grad():
            pixels.clamp_(0.0, 1.0)


def _optimizer(pixels: Tensor, name: str) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam([pixels], lr=ADAM_LR)
    # One update a call; the history is kept between calls. Its own tolerances would end it early: with unitless losses
    # gradients are small from the start.
    return torch.optim.LBFGS([pixels], max_iter=1, history_size=LBFGS_HISTORY, tolerance_grad=0.0, tolerance_change=0.0)
