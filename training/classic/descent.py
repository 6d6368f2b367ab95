"""Gradient descent on a picture's pixels towards content and style (Gatys et al. 2016, Sec. 2)."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from allaprima.models.errors import OptimizeError
from allaprima.models.vgg import VGG19Features
from allaprima.training import losses

ADAM_LR = 0.03  # of pixels in [0, 1]
LBFGS_HISTORY = 20  # kept pairs of a step and the change of gradient over it
MIN_CURVATURE = 1e-10  # inner product of such a pair; smaller ones are dropped, as torch.optim's L-BFGS does
# L-BFGS runs without a line search, as usual in style transfer, since its full step is nearly always good. But from noise
# some pictures overshot to 25 times the loss and took ten iterations to recover, so a step that raises the total is
# shortened, and after some shortenings in a row the history is dropped. Allowing a rise of 0.5 % gained nothing; 2 % made
# the end of a long run wander.
MAX_SHORTENINGS = 5


@dataclass(frozen=True)
class Objective:
    """What a picture is compared with, and how much each comparison counts.

    Attributes:
        vgg: on the picture's device; features have its weights' precision.
        content_features, style_grams: of one image each, in the form of `training.losses`; empty: not compared.
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
        """The losses of an image, (1, 3, H, W), or (1, 1, H, W) if gray, in [0, 1]; see `losses.perceptual_losses`."""
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
    """The picture after an iteration.

    Attributes:
        iteration: how many were done; 0 is the initial picture.
        image: (1, 3, H, W) or (1, 1, H, W) float32 in [0, 1]; not changed afterwards.
        losses: of exactly this picture: content, style, tv and total.
    """

    iteration: int
    image: Tensor
    losses: dict[str, float]


def descend(
    image: Tensor, objective: Callable[[Tensor], dict[str, Tensor]], iterations: int, optimizer: str = "lbfgs"
) -> Iterator[Step]:
    """Change an image so that its total loss falls; yields it at the start and after each iteration.

    After each update the picture is clipped to [0, 1], as Johnson et al. 2016 do (Sec. 4.1), so that the losses are
    those of a picture that can be saved.

    Args:
        image: (1, 3, H, W), or (1, 1, H, W) for a gray picture, in [0, 1]; not changed.
        objective: image -> losses with "total".
        iterations: each is one forward and one backward pass. A failed one yields the previous picture again, so the
            total is always finite and, with L-BFGS, never rises.
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
        moved = (pixels.detach() != (step.image if step else image)).any()
        read = _read({**parts, "moved": moved})
        if not read.pop("moved"):  # just begun, step undone, or rounding left L-BFGS no way down
            update = _optimizer(pixels, optimizer)
        total = read["total"]
        if step is None and not math.isfinite(total):
            raise OptimizeError(f"the total loss is {total} from the start; try smaller weights or --precision fp32")

        # Take a step back.
        if step is not None and not (math.isfinite(total) and (may_rise or total <= step.losses["total"])):
            shortenings += 1
            if isinstance(update, LBFGS) and update.has_stepped and shortenings <= MAX_SHORTENINGS:
                update.shorten_(step.image, scale * (total - step.losses["total"]))
            else:
                shortenings = 0
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

        # Take a step forward. Gradients are scaled so that the first one's mean size is 1: with a smaller one L-BFGS would
        # drop pairs below `MIN_CURVATURE` and creep. Otherwise the scale does not matter to either optimizer.
        parts["total"].backward()  # type: ignore[no-untyped-call]
        assert pixels.grad is not None
        scale = scale or 1.0 / (pixels.grad.abs().mean().item() or 1.0)
        pixels.grad *= scale
        update.step()
        with torch.no_grad():
            pixels.clamp_(0.0, 1.0)


def _read(scalars: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of some scalars; waits for a GPU only once."""
    total = scalars["total"]  # others may be on the CPU, such as a loss that compares nothing
    values = torch.stack([scalar.detach().to(total, non_blocking=True) for scalar in scalars.values()])
    return dict(zip(scalars, values.tolist(), strict=True))


def _optimizer(pixels: Tensor, name: str) -> "torch.optim.Adam | LBFGS":
    return torch.optim.Adam([pixels], lr=ADAM_LR) if name == "adam" else LBFGS(pixels)


class LBFGS:
    """Limited-memory BFGS with full steps (Nocedal & Wright 2006, Sec. 7.2, with their names).

    It takes the same steps as torch.optim's L-BFGS, which turns its coefficients, two per pair, into Python numbers and
    waits for a GPU at each. Here they stay on the device; a step waits once, to know whether its pair is kept, and so does
    shortening it.

    Args:
        pixels: changed in place by each step, using their `grad`.
    Attributes:
        has_stepped: whether there is a step to shorten.
    """

    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels
        self.has_stepped = False
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=LBFGS_HISTORY)  # s, y and rho
        self._gamma: Tensor | float = 1.0  # scale of the initial H
        self._t: Tensor | float = 1.0  # length of the step, as a multiple of p
        self._p = self._gradient = torch.empty(0)  # the newest step's direction, and the gradient where it began

    @torch.no_grad()
    def step(self) -> None:
        assert self.pixels.grad is not None
        gradient = self.pixels.grad.flatten()
        if self.has_stepped:
            s, y = self._t * self._p, gradient - self._gradient
            sy = s @ y
            if sy > MIN_CURVATURE:  # waits for the device
                self._pairs.append((s, y, 1.0 / sy))
                self._gamma = sy / (y @ y)  # Eq. 7.20
            self._t = 1.0
        else:
            self._t = (1.0 / gradient.abs().sum()).clamp(max=1.0)
        self._p = self._direction(gradient)
        self._gradient = gradient
        self.has_stepped = True
        length = self._t * (gradient @ self._p <= 0.0)  # rounding can turn it uphill
        self.pixels.addcmul_(self._p.view_as(self.pixels), length)

    def _direction(self, gradient: Tensor) -> Tensor:
        """-H times the gradient, by the two-loop recursion (Nocedal & Wright 2006, Alg. 7.4)."""
        q = gradient.clone()
        alphas: list[Tensor] = []
        for s, y, rho in reversed(self._pairs):
            alphas.append(rho * (s @ q))
            q.addcmul_(y, alphas[-1], value=-1.0)  # q - alpha y
        r = self._gamma * q
        for (s, y, rho), alpha in zip(self._pairs, reversed(alphas), strict=True):
            beta = rho * (y @ r)
            r.addcmul_(s, alpha - beta)  # r + (alpha - beta) s
        return -r

    @torch.no_grad()
    def shorten_(self, image: Tensor, rise: float) -> None:
        """Shorten the newest step so that it ends at the lowest point of a parabola (Nocedal & Wright 2006, Sec. 3.5).

        Args:
            image: the picture before the step. rise: of the scaled total; may be infinite or NaN.
        """
        slope = float(self._t * (self._gradient @ self._p))  # of the whole step; negative
        part = -slope / (2.0 * (rise - slope)) if math.isfinite(rise) else 0.0
        self._t = self._t * min(0.5, max(0.1, part))  # so that the pair has the step actually taken
        self.pixels.copy_((image.flatten() + self._t * self._p).view_as(self.pixels).clamp(0.0, 1.0))
