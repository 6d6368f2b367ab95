"""How to paint, and how to write a film: the only place for these defaults, bounds, choices and help. Standard library only,
so that --help is instant."""

import argparse
from dataclasses import dataclass

from allaprima.models.contract import LEAST_STROKES, MAX_STROKES
from allaprima.models.errors import StyleError, VideoError
from allaprima.models.options import check, option, strokes

COLOR_MODES = ("none", "luminance", "histogram", "linear")
DEVICES = ("auto", "cpu", "cuda", "coreml", "directml")
ENGINES = ("auto", "onnxruntime", "openvino")  # on the CPU
CODECS = ("auto", "h264", "hevc", "av1")
MAX_STEADY = 0.9  # more would hardly let anything new in


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
            picture's own size; None is the style's own size, from its card.
        detail: how much of the photo's own fine lines comes back when it is painted coarse to fine, 0 to 1.
        steady: for films, how much of the previous painting stays where the movement is certain, 0 to `MAX_STEADY`.
    Raises:
        StyleError: one is out of its range; the message says which, and what is wanted.
    """

    keep_color: str = option(
        "none",
        "keep the picture's colors: luminance takes only light and dark from the painting, histogram and linear move its "
        "palette to the picture's",
        choices=COLOR_MODES,
    )
    match_luminance: bool = option(False, "with --keep-color luminance: keep the picture's contrast, too")
    strength: float = option(1.0, "0 is the picture as it is, 1 the painting", "0..1", most=1.0)
    max_side_px: int = option(
        0,
        "paint at this size at most and scale the result back: larger strokes, less time and memory",
        "PX",
        least=16,
        default_text="the picture's own size",
    )
    strokes: float | None = option(
        None,
        "how large strokes are; 1 as on a picture of 768 px, whatever the size, 2 twice as large; fine paints in one pass, "
        "strokes of a few pixels",
        "X|fine",
        most=MAX_STROKES,
        read=strokes,
        default_text="the size that suits the style",
    )
    detail: float = option(1.0, "how much of a large picture's own fine lines comes back", "0..1", most=1.0)
    steady: float = option(
        0.5,
        "how much of the painting before stays, moved along with the film, where that movement is sure; 0 paints every frame "
        "by itself",
        f"0..{MAX_STEADY:g}",
        most=MAX_STEADY,
    )

    def __post_init__(self) -> None:
        check(self, StyleError)
        if self.strokes is not None and 0 < self.strokes < LEAST_STROKES:
            raise StyleError(f"--strokes is {self.strokes:g}; at least {LEAST_STROKES:g} is needed, or 0 for one pass")


@dataclass(frozen=True)
class MachineOptions:
    """What to ask of the machine: where networks run, and how large a picture to accept, 0 for 179 million pixels."""

    device: str = option("auto", "where to run; auto takes CUDA where it works, else the CPU", choices=DEVICES)
    engine: str = option("auto", "on the CPU; auto takes OpenVINO where it is installed and faster here", choices=ENGINES)
    max_pixels: int = option(
        0, "refuse larger pictures, which may be decompression bombs", "N", least=1, default_text="179 million"
    )


def read_seconds(text: str) -> float:
    """ "90", "1:30" or "0:01:30"."""
    try:
        seconds = [float(part) for part in text.split(":")]
    except ValueError:
        seconds = [float("nan")]
    total = sum(part * 60.0**power for power, part in enumerate(reversed(seconds)))
    if not (0.0 <= total < 1e9 and len(seconds) <= 3 and all(0.0 <= part < 60.0 for part in seconds[1:])):
        raise argparse.ArgumentTypeError(f"{text} is not a time in seconds or [H:]M:S")
    return total


def _length(text: str) -> float:
    seconds = read_seconds(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text} is no time at all; leave --duration out to paint to the end")
    return seconds


@dataclass(frozen=True)
class VideoOptions:
    """Which part of a film to paint and how to write it; see `VideoReader` and `VideoWriter`.

    Raises:
        VideoError: one is out of its range; the message says which, and what is wanted.
    """

    codec: str = option("auto", "auto is H.264, AV1 in .webm; .mov holds no AV1; in hardware where that works", choices=CODECS)
    quality: int = option(75, "more is better and larger", "1..100", least=1, most=100)
    start_s: float = option(0.0, "begin here, in seconds or [H:]M:S", "T", read=read_seconds)
    duration_s: float = option(0.0, "paint this long", "T", read=_length, default_text="to the end")

    def __post_init__(self) -> None:
        check(self, VideoError)
