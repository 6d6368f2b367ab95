"""Gradient descent on a picture's pixels towards content and style (Gatys et al. 2016, Sec. 2)."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import OptimizeError
from models.vgg import VGG19Features
from training import losses

ADAM_LR = 0.03  # of pixels in [0, 1]
LBFGS_HISTORY = 20  # pictures and gradients kept
# L-BFGS runs without a line search, as everywhere in style transfer, since its full step is nearly always good. But from
# noise some pictures overshot to 25 times the loss and took ten iterations to recover, so a step that raises the total is
# shortened, and the history forgotten after some shortenings in a row. Letting it rise by 0.5 % gained nothing, by 2 % made
# the end of a long run wander.
MOST_SHORTENINGS = 5


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
        iteration: after how many it was the picture; 0 is the initial one.
        image: (1, 3, H, W) or (1, 1, H, W) float32 in [0, 1]; not changed afterwards.
        losses: of this very picture: content, style, tv and total.
    """

    iteration: int
    image: Tensor
    losses: dict[str, float]


def descend(
    image: Tensor, objective: Callable[[Tensor], dict[str, Tensor]], iterations: int, optimizer: str = "lbfgs"
) -> Iterator[Step]:
    """Change an image so that its total loss falls; yields it as it is and after each iteration.

    After each update the picture is brought back into [0, 1], as Johnson et al. 2016 do (Sec. 4.1), so that the losses are
    those of a picture that can be saved.

    Args:
        image: (1, 3, H, W), or (1, 1, H, W) for a grey picture, in [0, 1]; not changed.
        objective: image -> losses with "total".
        iterations: each one forward and one backward pass. One that went wrong yields the picture before it again, so
            the total is always finite, and with L-BFGS never rises.
        optimizer: "lbfgs" or "adam".
    Raises:
        OptimizeError: the total is not finite from the start.
    """
    pixels = image.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    update = _optimizer(pixels, optimizer)
    may_rise = optimizer == "adam"
    scale = 0.0
    shortenings = 0
    step: Step | None = None
    for iteration in range(iterations + 1):
        # Look at the picture.
        pixels.grad = None
        parts = objective(pixels)
        read = {name: part.item() for name, part in parts.items()}
        total = read["total"]
        if step is None and not math.isfinite(total):
            raise OptimizeError(f"the total loss is {total} from the start; try smaller weights or --precision fp32")

        # Take a step back.
        if step is not None and not (math.isfinite(total) and (may_rise or total <= step.losses["total"])):
            shortenings += 1
            if "t" in update.state[pixels] and shortenings <= MOST_SHORTENINGS:  # L-BFGS has a step behind it
                _shorten_(pixels, update, step, scale * (total - step.losses["total"]))
            else:
                shortenings = 0
                update = _optimizer(pixels, optimizer)
                with torch.no_grad():
                    pixels.copy_(step.image)
            step = Step(iteration, step.image, step.losses)
            yield step
            continue
        shortenings = 0
        step = Step(iteration, pixels.detach().clone(), read)
        yield step
        if iteration == iterations:
            return

        # Take a step forward. The first gradient's mean size becomes 1: torch's L-BFGS drops pairs of step and change of
        # gradient whose product is below 1e-10, and then creeps. Otherwise neither optimizer minds the scale.
        parts["total"].backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        scale = scale or 1.0 / (pixels.grad.abs().mean().item() or 1.0)
        pixels.grad *= scale
        update.step(lambda: scale * total)  # noqa: B023 (called at once)
        with torch.no_grad():
            pixels.clamp_(0.0, 1.0)
        if torch.equal(pixels, step.image):  # rounding left L-BFGS without a way down
            update = _optimizer(pixels, optimizer)


@torch.no_grad()
def _shorten_(pixels: Tensor, update: torch.optim.Optimizer, step: Step, rise: float) -> None:
    """Take back an L-BFGS step and go a part of it, to the lowest point of a parabola (Nocedal & Wright 2006, Sec. 3.5).

    Args:
        step: where it came from. rise: of the scaled total; may be infinite or not a number.
    """
    state = update.state[pixels]
    slope = state["t"] * float(state["prev_flat_grad"] @ state["d"])  # of the whole step; negative
    part = -slope / (2.0 * (rise - slope)) if math.isfinite(rise) else 0.0
    state["t"] *= min(0.5, max(0.1, part))  # so that its history holds the step that was taken
    pixels.copy_((step.image.flatten() + state["t"] * state["d"]).view_as(pixels).clamp(0.0, 1.0))


def _optimizer(pixels: Tensor, name: str) -> torch.optim.Optimizer:
    if name == "adam":
        return torch.optim.Adam([pixels], lr=ADAM_LR)
    # One update a call; the history is kept between calls. Its own tolerances would end it early.
    return torch.optim.LBFGS([pixels], max_iter=1, history_size=LBFGS_HISTORY, tolerance_grad=0.0, tolerance_change=0.0)
