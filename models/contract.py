"""What the exporter writes into an .onnx file and the runtime relies on. Standard library only, no torch.

An image is float32 NCHW RGB, sRGB-encoded, in [0, 1]; N, H and W are free, H and W multiples of `stride_px` and at
least `least_px`. The caller pads to that and crops the result.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import StyleError

VERSION = "1"
INPUT, OUTPUT = "content_image", "stylized_image"
DIMS = ("batch", 3, "height", "width")
OPSET = 18  # ONNX Runtime had no CUDA kernel for opset 19's Pad for long


@dataclass(frozen=True)
class Contract:
    """One file's promises.

    Attributes:
        stride_px: H and W must be multiples of it.
        least_px: H and W must be at least this.
        card: title, painter, year, license, tier, options, losses, ... as training wrote them.
    """

    stride_px: int
    least_px: int
    card: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self, version: str) -> dict[str, str]:
        """The file's metadata_props, flat and readable in any viewer; `version` is the program's."""
        card = self.card
        return {
            "allaprima.contract": VERSION,
            "allaprima.version": version,
            "allaprima.stride_px": str(self.stride_px),
            "allaprima.least_px": str(self.least_px),
            "allaprima.layout": "NCHW",
            "allaprima.color": "RGB, sRGB-encoded",
            "allaprima.range": "0..1",
            "allaprima.card": json.dumps(card),
            **{f"allaprima.{key}": str(card.get(key, "")) for key in ("title", "painter", "year", "license", "tier")},
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], name: str) -> "Contract":
        """What `to_metadata` wrote; `name` is for messages.

        Raises:
            StyleError: not ours, of a newer contract, or damaged.
        """
        version = metadata.get("allaprima.contract")
        if version is None:
            raise StyleError(f"{name} is an ONNX file, but not one of ours; make one with: allaprima export RUN")
        if version != VERSION:
            raise StyleError(f"{name} has contract {version}, this program reads {VERSION}; update allaprima")
        try:
            contract = cls(
                int(metadata["allaprima.stride_px"]),
                int(metadata["allaprima.least_px"]),
                json.loads(metadata["allaprima.card"]),
            )
        except (KeyError, ValueError) as error:
            raise StyleError(f"{name} has a damaged contract ({error}); export it again") from error
        if not (1 <= contract.stride_px <= 64 and 1 <= contract.least_px <= 1024 and isinstance(contract.card, dict)):
            raise StyleError(f"{name} has a damaged contract (stride {contract.stride_px} px); export it again")
        return contract
