"""How to paint, and how to write a film: the one home of these defaults and choices. Standard library only, so that --help
is instant."""

from dataclasses import dataclass

COLOR_MODES = ("none", "luminance", "histogram", "linear")
CODECS = ("auto", "h264", "hevc", "av1")
MAX_STEADY = 0.9  # more would hardly let anything new in
QUALITY = 75  # of films, 1 to 100


@dataclass(frozen=True)
class StylizeOptions:
    """How to paint.

    Attributes:
        keep_color: one of `COLOR_MODES`.
        match_luminance: with "luminance", keep the content's contrast and brightness too.
        strength: 0 is the photo, 1 the painting.
        max_side_px: paint at this size at most, 0 for the photo's own; the result is scaled back. Smaller means
            larger strokes, and less time and memory.
        strokes: how large they are: 1 as on a picture of 768 px, 2 twice as large; 0 paints in one pass at the
            picture's own size; None is the style's own size, as its card has it.
        steady: of films, how much of the painting before stays where the movement is sure, 0 to `MAX_STEADY`.
        detail: how much of the photo's own fine lines comes back where it is painted coarse to fine, 0 to 1.
    """

    keep_color: str = "none"
    match_luminance: bool = False
    strength: float = 1.0
    max_side_px: int = 0
    strokes: float | None = None
    detail: float = 1.0
    steady: float = 0.5


@dataclass(frozen=True)
class VideoOptions:
    """Which part to paint and how to write it; see `VideoReader` and `VideoWriter`."""

    codec: str = "auto"
    quality: int = QUALITY
    start_s: float = 0.0
    duration_s: float = 0.0
