"""TIFF pages that Pillow cannot read or misreads: 16 bits in separate planes, unsigned 32 bits, floats in color, 16-bit gray
with alpha. tifffile reads them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np
import tifffile
from PIL import Image

from allaprima.models.errors import PictureError

BITS, ORIENTATION, PLANES, SAMPLE_FORMAT = 258, 274, 284, 339  # tags
GRAY_FROM_WHITE, GRAY, RGB = 0, 1, 2  # photometric interpretations
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def is_misread(tags: Mapping[int, Any]) -> bool:
    """Whether Pillow opens a page with such tags but returns wrong pixels."""
    bits, kinds = max(tags.get(BITS, (1,))), tags.get(SAMPLE_FORMAT, (1,))
    channels = len(tags.get(BITS, (1,)))
    apart = tags.get(PLANES, 1) == 2 and channels > 1
    return (apart and (bits > 8 or channels == 2)) or (bits == 32 and kinds[0] == 1)


def page_kinds(file: BinaryIO) -> list[int]:
    """How each page relates to the others: the bits of TIFF's NewSubfileType; a damaged file's last pages are left out."""
    kinds = []
    at = file.tell()
    file.seek(0)
    with contextlib.suppress(Exception), tifffile.TiffFile(file) as pages:
        for page in pages.pages:
            kinds.append(int(page.aspage().subfiletype))
    file.seek(at)
    return kinds


def read_page(
    file: BinaryIO, page: int, name: str, check_size: Callable[[int, int], object] = lambda width, height: None
) -> Image.Image:
    """A page in 8 bits, L, LA, RGB or RGBA; its color profile and orientation are in `info`, as with Pillow.

    Args:
        check_size: receives width and height before anything is decoded, and may raise.
    Raises:
        PictureError: an unsupported kind of TIFF; the message says which.
    """
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            about = tiff.pages[page].aspage()
            kind = f"{about.dtype}, {about.samplesperpixel} channels, photometric {int(about.photometric)}"
            check_size(about.imagewidth, about.imagelength)
            values = about.asarray()
            photometric, extra = int(about.photometric), len(about.extrasamples)
            icc_profile, apart = about.iccprofile, int(about.planarconfig) == 2
            orientation = int(about.tags.valueof(ORIENTATION, 1))
    except (MemoryError, PictureError):
        raise
    except Exception as error:  # a damaged file raises nearly anything, as do compressions that need another package
        raise PictureError(f"{name} is a TIFF of a kind that is not read, or damaged ({error})") from error
    if values.ndim == 3 and apart:
        values = np.moveaxis(values, 0, 2)
    channels = values.shape[2] if values.ndim == 3 else 1
    colors = channels - extra
    if (
        values.ndim not in (2, 3)
        or extra > 1
        or (photometric, colors) not in ((GRAY_FROM_WHITE, 1), (GRAY, 1), (RGB, 3))
        or (values.dtype.kind not in "uif")
    ):
        raise PictureError(f"{name} is a TIFF of a kind that is not read ({kind}); make a PNG or JPEG of it")
    levels = _in_8_bits(values.reshape(*values.shape[:2], channels))
    if photometric == GRAY_FROM_WHITE:
        levels[:, :, 0] = 255 - levels[:, :, 0]
    image = Image.fromarray(levels[:, :, 0] if channels == 1 else levels, MODES[channels])
    if icc_profile:
        image.info["icc_profile"] = icc_profile
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.info["exif"] = exif.tobytes()
    return image


def _in_8_bits(values: np.ndarray) -> np.ndarray:
    """Scales whole numbers by their type's range; floats by [0, 1], or by the range of 8 or 16 bits if they are larger."""
    light = np.nan_to_num(values.astype(np.float32))
    if values.dtype.kind == "f":
        most = float(light.max(initial=0.0))
        black, white = 0.0, 1.0 if most <= 1.0 else 255.0 if most <= 255.0 else max(65535.0, most)
    else:
        black, white = float(min(0, np.iinfo(values.dtype).min)), float(np.iinfo(values.dtype).max)
    return np.rint((light - black) * (255.0 / (white - black))).clip(0.0, 255.0).astype(np.uint8)
