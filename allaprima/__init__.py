"""Alla Prima: fast neural style. A network is trained on one painting, then paints photos, films and a camera in one pass.

    import allaprima
    style = allaprima.Style("great_wave")
    painting = style(photo)  # a PIL image, or a (H, W, 3) uint8 array

What takes long to import (numpy, ONNX Runtime, torch) is imported where it is first needed."""

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

# Otherwise ONNX Runtime 1.29 and newer would write an ID of this machine into the home folder and report what it ran. Set
# here because this module is always imported first.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__all__ = ["Style", "styles", "train"]


def styles() -> list[str]:
    """The names of the shipped styles, for `Style`; `allaprima styles` on the command line tells more."""
    from allaprima.inference.style.styles import shipped_styles

    return list(dict.fromkeys(style.name for style in shipped_styles()))


class Style:
    """A style, ready to paint pictures; several threads may share it.

    Args:
        style: a shipped style ("great_wave", see `styles`), one of its tiers ("great_wave/realtime"), a mix
            ("great_wave:0.6,starry_night:0.4"), an .onnx file that `train` or `allaprima export` wrote, or such a file's bytes.
        device: "auto" takes CUDA where it works and else the CPU; "cpu", "cuda", "coreml" or "directml".
        engine: on the CPU: "auto" takes OpenVINO where it is installed and faster here; "onnxruntime" or "openvino".
    Attributes:
        card: what is known about it: "title", "painter", "year", "license", ...
        strokes: the size of its strokes if a call does not give one.
        device: where it runs, as above except "auto".
    Raises:
        allaprima.models.errors.StyleError: there is no such style, or the file is not one of ours; or "cuda" does not work
            here. The message says what to do.
    """

    def __init__(self, style: "str | os.PathLike[str] | bytes", device: str = "auto", engine: str = "auto") -> None:
        from allaprima.inference.style.session import StyleSession
        from allaprima.inference.style.styles import faster_tier, find_style

        name = style if isinstance(style, bytes) else os.fspath(style)
        self._session = StyleSession(name if isinstance(name, bytes) else find_style(name), device, engine=engine)
        fast = None if isinstance(name, bytes) else faster_tier(name)
        self._fine_session = StyleSession(fast, device, engine=engine) if fast else None
        self._name, self._engine = name, engine
        self._gentler: tuple[float, StyleSession] | None = None  # the strength asked for last, and its mix
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
        """Paint a picture; the options are those of `allaprima stylize`, and so are their defaults.

        Args:
            photo: a PIL image of any mode, or (H, W, 3) uint8 RGB, sRGB-encoded, from 1x1 up.
            strokes: how large they are: 1 as on a picture of 768 px, 2 twice as large; 0 paints in one pass at the picture's
                own size; None is the style's own size.
            strength: 0 is the photo, 1 the painting; between them a mix has gentler strokes, another style fades.
            keep_color: "luminance" takes only light and dark from the painting, "histogram" and "linear" move its palette to
                the photo's; "none".
            match_luminance: with "luminance", keep the photo's contrast and brightness too.
            detail: how much of a large photo's own fine lines comes back, 0 to 1.
            max_side_px: paint at this size at most, 0 for the photo's own; the result is scaled back.
        Returns:
            the same kind and size: a PIL image, upright as its EXIF orientation has it, RGB, or RGBA where the photo is
            transparent, with the photo's color profile; or (H, W, 3) uint8 RGB.
        Raises:
            TypeError, ValueError: `photo` is something else.
            allaprima.models.errors.StyleError: an option is out of its range, or ONNX Runtime failed.
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
        """What paints with these options: a mix has gentler strokes, another style is faded into the photo."""
        import dataclasses

        from allaprima.inference.style.session import StyleSession
        from allaprima.inference.style.styles import find_styles

        kept = self._gentler
        if kept is None or kept[0] != how.strength:
            if isinstance(self._name, bytes):
                return self._session, how
            (path,), strength = find_styles([self._name], how.strength)
            if strength == how.strength:
                return self._session, how
            self._gentler = kept = how.strength, StyleSession(path, self.device, engine=self._engine)
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
        photos: a folder of any photos, a thousand or more, or a Hugging Face dataset's name.
        output: the run folder: checkpoints, previews, and in the end style.onnx. One that holds a training is refused.
        quick: a preview in minutes: small crops, few steps.
        options: others of `allaprima.training.config.TrainConfig` by their names there: `steps`, `size_px`, `style_weight`,
            `recipe`, ..., which are the options of `allaprima train`.
    Returns:
        the .onnx file, for `Style` and for any app.
    Raises:
        allaprima.models.errors.AllaPrimaError: a file is missing, or an option is out of its range; the message says what.
        TypeError: there is no such option.
    """
    from allaprima.training.commands import train_style

    return train_style(Path(style_image).expanduser(), Path(photos).expanduser(), Path(output).expanduser(), quick, options)
