"""Whether content or style rules a training, measured; and a style weight that holds the two in balance."""

import torch
from torch import Tensor

# Weighted style loss over weighted content loss. Five trainings that looked right, style weight 5 or 8, ended with
# single steps between 0.5 and 1.7, most of them near 0.8 (2026-11-22).
TARGET = 0.8
SANE = (0.5, 1.7)
# How much that ratio still fell from step 50 to the end in the same trainings: not at all where they had started from
# another style's network, up to 11 times where they had started from noise.
LEAST_FALL, LARGEST_FALL = 0.9, 11.0

MEASURED_AT = 50  # steps
RANGE = (0.5, 50.0)  # of the automatic weight
RATE = 0.01  # share of the logarithm's distance to the target that is made up in a step


def verdict(content: float, style: float, content_weight: float, style_weight: float) -> str:
    """A line for the user about the losses after `MEASURED_AT` steps, with a weight to try where one is called for.

    Args:
        content, style: unweighted losses.
    """
    weighted_content, weighted_style = content_weight * content, style_weight * style
    if weighted_content <= 0 or weighted_style <= 0:
        return "one of content and style has no weight or no loss: there is no balance to measure"
    ratio = weighted_style / weighted_content
    ruler = "style" if ratio > 1 else "content"
    measured = (
        f"after {MEASURED_AT} steps {ruler} dominates, {max(ratio, 1 / ratio):.1f} to 1 "
        f"(content {weighted_content:.2f}, style {weighted_style:.2f}, weighted)"
    )
    lowest, highest = ratio / LARGEST_FALL, ratio / LEAST_FALL  # where the training will end, by experience
    if highest < SANE[0]:
        return f"{measured}; more of the painting: --style-weight {_round(style_weight * TARGET / highest)}"
    if lowest > SANE[1]:
        return f"{measured}; more of the photo: --style-weight {_round(style_weight * TARGET / lowest)}"
    return f"{measured}; style still falls, the weight may stay"


def _round(weight: float) -> str:
    return f"{weight:.2g}" if weight < 10 else f"{weight:.0f}"


@torch.no_grad()
def follow_(style_weight: Tensor, content: Tensor, style: Tensor, content_weight: float) -> None:
    """Move the style weight a little towards the one that gives the ratio `TARGET`; nothing is read back from a GPU.

    Args:
        style_weight: scalar float32, changed in place.
        content, style: unweighted losses of this step, scalars.
    """
    wanted = TARGET * content_weight * content.detach() / style.detach().clamp_min(1e-6)
    moved = style_weight * (wanted.clamp(*RANGE) / style_weight) ** RATE
    style_weight.copy_(torch.where(moved.isfinite(), moved.clamp(*RANGE), style_weight))
