"""Alla Prima: fast neural style. A network is trained on one painting, then paints photos, films and live video in one pass.

    import allaprima
    style = allaprima.Style("great_wave")
    painting = style(photo)  # a PIL image, or a (H, W, 3) uint8 array

What takes long to import (numpy, ONNX Runtime, torch) is imported only when it is first needed."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from allaprima.inference.options import StylizeOptions
from allaprima.models import __version__ as __version__

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from allaprima.inference.style.session import StyleSession

    T = TypeVar("T", Image.Image, np.ndarray)

# Otherwise, ONNX Runtime 1.29 and newer would write an ID of this machine into the home folder and send usage data to its
# makers. This is set here because this module is imported before any other of ours.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ["Style", "styles", "train"]


def styles() -> list[str]:
    """The names of the shipped styles, for `Style`; the command `allaprima styles` tells more."""
    from allaprima.inference.style.styles import shipped_styles

    return list(dict.fromkeys(style.name for style in shipped_styles()))


class Style:
    """A style, ready to paint pictures; several threads may share it.

    Args:
        style: a shipped style ("great_wave", see `styles`), one of its tiers ("great_wave/realtime"), a mix
            ("great_wave:0.6,starry_night:0.4"), an .onnx file written by `train` or `allaprima export`, or such a file's bytes.
        device: "auto" takes CUDA if it works, otherwise the CPU; or "cpu", "cuda", "coreml" or "directml".
        engine: on the CPU, "auto" takes OpenVINO if it is installed and faster here; or "onnxruntime" or "openvino".
    Attributes:
        card: information about it: "title", "painter", "year", "license", ...
        strokes: the size of its strokes if a call gives none.
        device: where it runs: one of the above except "auto".
    Raises:
        allaprima.models.errors.StyleError: there is no such style, the file is not one of ours, or the device or
            engine does not work here. The message says what to do.
    """

    def __init__(self, style: "str | os.PathLike[str] | bytes", device: str = "auto", engine: str = "auto") -> None:
        from allaprima.inference.style.session import StyleSession
        from allaprima.inference.style.styles import faster_tier, find_style, mix_of

        name = style if isinstance(style, bytes) else os.fspath(style)
        self._session = StyleSession(name if isinstance(name, bytes) else find_style(name), device, engine=engine)
        fast = None if isinstance(name, bytes) else faster_tier(name)
        self._fine_session = StyleSession(fast, device, engine=engine) if fast else None
        self._weights, self._engine = None if isinstance(name, bytes) else mix_of(name), engine
        self._gentler: tuple[float, StyleSession] | None = None  # the last strength, and the mix at it
        self.card: dict[str, Any] = dict(self._session.contract.card)
        self.strokes, self.device = self._session.contract.own_strokes, self._session.device

    def __call__(
        self,
        photo: "T",
        *,
        strokes: float | None = StylizeOptions.strokes,
        strength: float = StylizeOptions.strength,
        keep_color: str = StylizeOptions.keep_color,
        match_luminance: bool = StylizeOptions.match_luminance,
        detail: float = StylizeOptions.detail,
        max_side_px: int = StylizeOptions.max_side_px,
    ) -> "T":
        """Paint a picture; the options and defaults are those of `allaprima stylize`.

        Args:
            photo: a PIL image of any mode, or (H, W, 3) uint8 RGB, sRGB-encoded, 1x1 or larger.
            strokes: their size: 1 as in a picture of 768 px, 2 twice as large; 0 paints in one pass at the picture's own
                size; None is the style's default.
            strength: 0 is the photo, 1 the painting; in between, a mix has gentler strokes, and other styles are blended with
                the photo.
            keep_color: "luminance" takes only the luminance from the painting, "histogram" and "linear" move its palette to
                the photo's; or "none".
            match_luminance: with "luminance", also keep the photo's contrast and brightness.
            detail: how much of a large photo's own fine detail is restored, 0 to 1.
            max_side_px: longest side to paint at, 0 for the photo's own; the result is scaled back.
        Returns:
            the same kind and size: a PIL image, turned upright by its EXIF orientation, RGB, or RGBA if the photo has
            transparency, with the photo's color profile; or (H, W, 3) uint8 RGB.
        Raises:
            TypeError, ValueError: `photo` is something else.
            allaprima.models.errors.StyleError: an option is out of range, or painting failed.
        """
        import dataclasses

        import numpy as np
        from PIL import Image

        from allaprima.inference.painter import paint_photo
        from allaprima.inference.pictures import image_of, picture_of

        how = StylizeOptions(keep_color, match_luminance, strength, max_side_px, strokes, detail)
        session, how = self._at_strength(how)
        if isinstance(photo, Image.Image):
            picture = picture_of(photo)
            stylized_frame = paint_photo(session, picture.frame, how, self._fine_session)
            return image_of(dataclasses.replace(picture, frame=stylized_frame))
        if not isinstance(photo, np.ndarray):
            raise TypeError(f"photo is a {type(photo).__name__}; a PIL image or a (H, W, 3) uint8 array is wanted")
        if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or not photo.size:
            raise ValueError(f"photo is {photo.shape} {photo.dtype}; (H, W, 3) uint8 RGB is wanted")
        return paint_photo(session, np.ascontiguousarray(photo), how, self._fine_session)

    def _at_strength(self, how: StylizeOptions) -> "tuple[StyleSession, StylizeOptions]":
        """The session and options to paint with: for a mix, strength becomes part of the mix."""
        import dataclasses

        from allaprima.inference.style.palette import gentler, mixed_style
        from allaprima.inference.style.session import StyleSession

        if not self._weights or not 0.0 < how.strength < 1.0:
            return self._session, how
        kept = self._gentler
        if kept is None or kept[0] != how.strength:
            mixed = mixed_style(gentler(self._weights, how.strength))
            self._gentler = kept = how.strength, StyleSession(mixed, self.device, engine=self._engine)
        return kept[1], dataclasses.replace(how, strength=1.0)


def train(
    style_image: "str | os.PathLike[str]",
    photos: "str | os.PathLike[str]",
    output: "str | os.PathLike[str]",
    *,
    quick: bool = False,
    **options: Any,
) -> Path:
    """Train a style on one painting, as `allaprima train` does; needs `pip install 'allaprima[train]'`.

    Args:
        style_image: the painting's file.
        photos: a folder of any photos, a thousand or more, or the name of a Hugging Face dataset.
        output: the run folder, for checkpoints, previews and finally style.onnx. One that holds a training is refused.
        quick: train a preview in minutes, with small crops and few steps.
        options: other fields of `allaprima.training.config.TrainConfig`, such as `steps`, `size_px`, `style_weight` or
            `recipe`; they are the options of `allaprima train`.
    Returns:
        the .onnx file, for `Style` and for any app.
    Raises:
        allaprima.models.errors.AllaPrimaError: a file is missing, or an option is out of range; the message says which.
        TypeError: there is no such option.
    """
    from allaprima.training.commands import train_style

    return train_style(Path(style_image).expanduser(), Path(photos).expanduser(), Path(output).expanduser(), quick, options)
