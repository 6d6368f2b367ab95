"""Measures whether content or style dominates a training.

The measure is style loss over content loss, both unweighted: it falls when the style weight rises.
"""

# Style over content. The fourteen shipped networks ended with 0.12 to 0.34 (2026-12-01).
TARGET = 0.2
SANE = (0.08, 0.35)
# By what factor that ratio still fell from photo 200 to the end in the same trainings: not at all if they had started from
# another style's network, up to 11 times if they had started from noise.
MIN_FALL, MAX_FALL = 0.9, 11.0

MEASURED_AT = 200  # photos


def verdict(content: float, style: float, content_weight: float, style_weight: float, photos: int = MEASURED_AT) -> str:
    """A line for the user about the losses early in a training; suggests another style weight if needed.

    Args:
        content, style: unweighted losses.
        photos: number seen so far, about `MEASURED_AT`.
    """
    weighted_content, weighted_style = content_weight * content, style_weight * style
    if weighted_content <= 0 or weighted_style <= 0:
        return "one of content and style has no weight or no loss: there is no balance to measure"
    share = weighted_style / weighted_content
    measured = (
        f"after {photos} photos {'style' if share > 1 else 'content'} dominates the loss, {max(share, 1 / share):.1f} to 1 "
        f"(content {weighted_content:.2f}, style {weighted_style:.2f}, weighted)"
    )
    ratio = style / content
    lowest, highest = ratio / MAX_FALL, ratio / MIN_FALL  # where the training will end, from experience
    if highest < SANE[0]:
        return f"{measured}; the photo gets lost, try --style-weight {_round(style_weight * highest / TARGET)}"
    if lowest > SANE[1]:
        return f"{measured}; the painting is hardly there, try --style-weight {_round(style_weight * lowest / TARGET)}"
    return f"{measured}; style still falls, the weight may stay"


def _round(weight: float) -> str:
    return f"{weight:.2g}" if weight < 10 else f"{weight:.0f}"
