"""What the exporter writes into an .onnx file and the runtime relies on. Standard library only, no torch.

One network comes in two kinds of file.

image  float32 NCHW RGB, sRGB-encoded, in [0, 1]; N, H and W are free, but H and W must be multiples of `stride_px` and at
       least `least_px`. The caller pads the picture to such a size and crops the result.
frame  uint8 NHWC RGB, any height and width from 1 up; padding, cropping and scaling are inside. The scalar inputs
       `strength` and `keep_color` are optional. With the levels of `inference.levels` inside, the file has two more
       optional inputs, `strokes` and `detail`, and a loop, which not every runtime supports.

A file of either kind may hold several styles. It then has one more input, `weights`: how much of each is mixed.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from allaprima.models.errors import StyleError

VERSION = "2"
WITH_LEVELS = "3"
WITH_MIX = "4"
READABLE = ("1", VERSION, WITH_LEVELS, WITH_MIX)  # 1 had images in fp32 only
LEAST_STROKES, MAX_STROKES = 0.1, 10.0  # 0 is one pass
MAX_SIDE_PX = 16384  # of a fixed-size file
OPSET = 18  # the highest: ONNX Runtime had no CUDA kernel for opset 19's Pad for long
LOWEST_OPSET = 11  # from here on all nodes of an image file are written alike
PRECISIONS = ("fp32", "fp16", "int8")
LUMA = (0.299, 0.587, 0.114)  # Y of YIQ and of inference.color: ITU-R BT.601


def size_px(text: str) -> tuple[int, int]:
    """Width and height of "640x480".

    Raises:
        ValueError: the text does not have this form.
    """
    width, height = (int(side) for side in text.lower().split("x"))
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise ValueError(f"sides are 1 to {MAX_SIDE_PX} px")
    return width, height


@dataclass(frozen=True)
class Tensors:
    """Input and output of one kind of file: names, dims (free ones are named), element type, layout, range."""

    input: str
    output: str
    dims: tuple[str | int, ...]
    type: str
    layout: str
    range: str


IMAGE = Tensors("content_image", "stylized_image", ("batch", 3, "height", "width"), "float32", "NCHW", "0..1")
FRAME = Tensors("content_frame", "stylized_frame", ("batch", "height", "width", 3), "uint8", "NHWC", "0..255")
IO = {"image": IMAGE, "frame": FRAME}
OPTIONAL_INPUTS = ("strength", "keep_color")  # of a frame file: float32 scalars, 0 to 1
LEVELS_INPUTS = ("strokes", "detail")  # more of them, with levels inside: 0 to `MAX_STROKES`, 0 to 1
WEIGHTS = "weights"  # of a file of several styles: float32, one of at least 0 for each; what counts is their share
MAX_STYLES = 256


@dataclass(frozen=True)
class Contract:
    """One file's promises.

    Attributes:
        stride_px: H and W must be multiples of it.
        least_px: H and W must be at least this.
        card: title, painter, year, license, tier, strokes, options, losses, ... as training wrote them.
        io: "image" or "frame".
        precision: one of `PRECISIONS`, of the network inside.
        strength: 0 gives the content, 1 the stylized picture. Fixed in an image file; in a frame file the default of the
            input of this name.
        keep_color: 0 gives the style's colors, 1 the content's with the stylized luminance; fixed or default like `strength`.
        report: how the file compared with torch when it was checked before saving.
        thumbnail: a small picture painted with it, base64 of a JPEG file; may be empty.
        version: of the program that wrote it.
        target: the runtime the file was made for, if this program cannot read that form; else empty.
        size: width and height in pixels, of a fixed-size file.
        strokes, detail: of a frame file with levels inside, the defaults of the inputs of these names, as in
            `inference.options.StylizeOptions`; `strokes` is None for a file without levels.
        mix: of a file of several styles, their names in the order of the input `weights`, with weights to begin with; else
            empty.
    """

    stride_px: int
    least_px: int
    card: Mapping[str, Any] = field(default_factory=dict)
    io: str = "image"
    precision: str = "fp32"
    strength: float = 1.0
    keep_color: float = 0.0
    report: Mapping[str, Any] = field(default_factory=dict)
    thumbnail: str = ""
    version: str = field(default="", compare=False)
    strokes: float | None = None
    detail: float = 1.0
    target: str = ""
    size: tuple[int, int] | None = None
    mix: Mapping[str, float] = field(default_factory=dict)

    @property
    def tensors(self) -> Tensors:
        return IO[self.io]

    @property
    def own_strokes(self) -> float:
        """The `strokes` of `inference.options.StylizeOptions` at which the style looks best: from its card, else 1."""
        strokes = self.card.get("strokes")
        return float(strokes) if isinstance(strokes, int | float) and 0.0 <= strokes <= MAX_STROKES else 1.0

    @property
    def optional(self) -> dict[str, float]:
        """The optional inputs and their defaults."""
        inputs = (*OPTIONAL_INPUTS, *(LEVELS_INPUTS if self.strokes is not None else ())) if self.io == "frame" else ()
        return {name: getattr(self, name) for name in inputs}

    def to_metadata(self, version: str) -> dict[str, str]:
        """The file's metadata_props, flat and readable in any viewer; `version` is the program's."""
        card, tensors = self.card, self.tensors
        return {
            "allaprima.contract": WITH_MIX if self.mix else VERSION if self.strokes is None else WITH_LEVELS,
            "allaprima.version": version,
            "allaprima.io": self.io,
            "allaprima.precision": self.precision,
            "allaprima.input": tensors.input,
            "allaprima.output": tensors.output,
            "allaprima.type": tensors.type,
            "allaprima.layout": tensors.layout,
            "allaprima.range": tensors.range,
            "allaprima.color": "RGB, sRGB-encoded",
            "allaprima.stride_px": str(self.stride_px),
            "allaprima.least_px": str(self.least_px),
            "allaprima.optional_inputs": ", ".join(self.optional),
            "allaprima.strength": f"{self.strength:g}",
            "allaprima.keep_color": f"{self.keep_color:g}",
            **({} if self.strokes is None else {f"allaprima.{name}": f"{self.optional[name]:g}" for name in LEVELS_INPUTS}),
            **({"allaprima.mix": json.dumps(self.mix, allow_nan=False)} if self.mix else {}),
            **({"allaprima.target": self.target} if self.target else {}),
            **({"allaprima.size": f"{self.size[0]}x{self.size[1]}"} if self.size else {}),
            "allaprima.report": json.dumps(self.report, allow_nan=False),
            "allaprima.card": json.dumps(card),
            **{f"allaprima.{key}": str(card.get(key, "")) for key in ("title", "painter", "year", "license", "tier")},
            "allaprima.thumbnail": self.thumbnail,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], name: str) -> "Contract":
        """What `to_metadata` wrote; `name` is for messages.

        Raises:
            StyleError: not our file, a newer contract, or damaged.
        """
        version = metadata.get("allaprima.contract")
        if version is None:
            raise StyleError(f"{name} is an ONNX file, but not one of ours; make one with: allaprima export RUN")
        if version not in READABLE:
            raise StyleError(f"{name} has contract {version[:20]!r}, this program reads up to {READABLE[-1]}; update allaprima")
        try:
            contract = cls(
                int(metadata["allaprima.stride_px"]),
                int(metadata["allaprima.least_px"]),
                json.loads(metadata["allaprima.card"]),
                metadata.get("allaprima.io", "image"),
                metadata.get("allaprima.precision", "fp32"),
                float(metadata.get("allaprima.strength", 1.0)),
                float(metadata.get("allaprima.keep_color", 0.0)),
                json.loads(metadata.get("allaprima.report", "{}")),
                metadata.get("allaprima.thumbnail", ""),
                metadata.get("allaprima.version", ""),
                float(metadata["allaprima.strokes"]) if "allaprima.strokes" in metadata else None,
                float(metadata["allaprima.detail"]) if "allaprima.strokes" in metadata else 1.0,
                metadata.get("allaprima.target", ""),
                size_px(metadata["allaprima.size"]) if "allaprima.size" in metadata else None,
                json.loads(metadata.get("allaprima.mix", "{}")),
            )
            for text in (contract.card, contract.report):
                json.dumps(text, ensure_ascii=False).encode()  # raises ValueError on text that cannot be printed
        except (KeyError, ValueError, RecursionError) as error:
            raise StyleError(f"{name} has a damaged contract ({str(error)[:100]!r}); export it again") from error
        sane = {
            "stride": 1 <= contract.stride_px <= 64 and 1 <= contract.least_px <= 1024,
            "card": isinstance(contract.card, dict) and isinstance(contract.report, dict),
            "io": contract.io in IO,
            "precision": contract.precision in PRECISIONS,
            "strength": 0.0 <= contract.strength <= 1.0 and 0.0 <= contract.keep_color <= 1.0,
            "strokes": contract.strokes is None or (contract.io == "frame" and 0.0 <= contract.strokes <= MAX_STROKES),
            "detail": 0.0 <= contract.detail <= 1.0,
            "mix": _is_mix(contract.mix) and bool(contract.mix) == (version == WITH_MIX),
        }
        for what, is_sane in sane.items():
            if not is_sane:
                raise StyleError(f"{name} has a damaged contract ({what}); export it again")
        return contract


def _is_mix(mix: Any) -> bool:
    if (
        not isinstance(mix, dict)
        or len(mix) > MAX_STYLES
        or not all(isinstance(weight, int | float) for weight in mix.values())
    ):
        return False
    return not mix or (all(0.0 <= weight < math.inf for weight in mix.values()) and 0.0 < math.fsum(mix.values()) < math.inf)
