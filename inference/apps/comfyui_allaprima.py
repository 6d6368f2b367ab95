"""Alla Prima in ComfyUI: copy this file into ComfyUI/custom_nodes and install allaprima in ComfyUI's environment."""

from typing import TYPE_CHECKING, Any

import numpy as np

from allaprima.inference.options import COLOR_MODES, StylizeOptions
from allaprima.inference.painter import paint_photo
from allaprima.inference.style.session import StyleSession
from allaprima.inference.style.styles import find_style, shipped_styles
from allaprima.models.contract import MAX_STROKES

if TYPE_CHECKING:
    import torch


class AllaPrimaStylize:
    """One node: pictures in, a style, pictures out.

    ComfyUI's IMAGE is (N, H, W, 3) float32, RGB, sRGB-encoded, in [0, 1].
    """

    CATEGORY = "image/stylize"
    FUNCTION = "stylize"
    RETURN_TYPES = ("IMAGE",)

    def __init__(self) -> None:
        self._opened: tuple[str, StyleSession] | None = None

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        share = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}
        return {
            "required": {
                "image": ("IMAGE",),
                "style": ([style.full_name for style in shipped_styles()],),
                "strokes": ("FLOAT", {"default": 1.0, "min": 0.0, "max": MAX_STROKES, "step": 0.1}),
                "strength": ("FLOAT", share),
                "keep_color": (list(COLOR_MODES),),
            },
            "optional": {"onnx_file": ("STRING", {"default": ""})},
        }

    def stylize(
        self, image: "torch.Tensor", style: str, strokes: float, strength: float, keep_color: str, onnx_file: str = ""
    ) -> "tuple[torch.Tensor]":
        """Paint the pictures.

        Args:
            image: (N, H, W, 3) float32 in [0, 1].
            style: a shipped one; if `onnx_file` is given, a file of `allaprima train` or `export`, it is used instead.
            strokes: how large they are, 0 for one pass. strength: 0 is the picture, 1 the painting.
            keep_color: one of `COLOR_MODES`.
        Returns:
            the same shape.
        Raises:
            StyleError: no such style, or not a style's file.
        """
        name = onnx_file.strip() or style
        if self._opened is None or self._opened[0] != name:
            self._opened = name, StyleSession(find_style(name))
        session = self._opened[1]
        options = StylizeOptions(keep_color=keep_color, strength=strength, strokes=strokes)
        frames = np.rint(255.0 * image[..., :3].clamp(0.0, 1.0).cpu().numpy()).astype(np.uint8)
        painted = np.stack([paint_photo(session, np.ascontiguousarray(frame), options) for frame in frames])
        return (image.cpu().new_tensor(painted / np.float32(255.0)),)


NODE_CLASS_MAPPINGS = {"AllaPrimaStylize": AllaPrimaStylize}
NODE_DISPLAY_NAME_MAPPINGS = {"AllaPrimaStylize": "Alla Prima: paint"}
