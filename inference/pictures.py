"""Picture files: read any common kind as a frame, write a frame back with the file's other information."""

import contextlib
import dataclasses
import functools
import io
import math
import os
import re
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError
from PIL.Image import Resampling
from PIL.PngImagePlugin import PngInfo

from allaprima.inference.atomic import write_atomically
from allaprima.inference.hdr import coded_as_srgb
from allaprima.inference.tiff import is_misread, page_kinds, read_page
from allaprima.models.errors import AllaPrimaError, PictureError
from allaprima.models.memory import free_bytes

# Written formats by suffix. An allow-list: Pillow opens dozens of rare formats
# (EPS runs Ghostscript) that nobody's photographs are in.
FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".avif": "AVIF",
}
READABLE_FORMATS = tuple(dict.fromkeys(FORMATS.values()))
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
SEARCHED = (*FORMATS, ".jfif", ".jpe", ".heic", ".heif")  # suffixes that are looked for in folders
KINDS = "JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF or HEIC"
ANIMATED = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")  # formats that can hold several pictures, which in a TIFF are pages
MAX_PIXELS = 178_956_970  # Pillow's own limit for decompression bombs
PIXEL_BYTES = 24  # a cautious bound on decoding and painting: 12 megapixels took 0.9 GB in all, 100 took 1.8
LARGE_BYTES = 2**28  # from here on, free memory is checked first
# The largest side that a format, by its header or encoder, can hold.
MAX_SIDE_PX = {"WEBP": 16383, "JPEG": 65500, "GIF": 65535, "AVIF": 65535}
PNG_GAMMA = 0.45455  # the value that stands for sRGB

# Of a file's EXIF block: description, maker, model, program, date, artist, copyright; and the blocks of camera and place,
# except for the maker's notes, which contain byte offsets in the old file.
KEPT_TAGS = (270, 271, 272, 305, 306, 315, 33432)
DROPPED_TAGS = (37500, ExifTags.IFD.Interop)
TURNED_TAGS = ((40962, 40963), (41486, 41487))  # pixels, and pixels per unit of the sensor, across and down
SUBFILE, SUBFILES, XMP, DNG_VERSION = 254, 330, 700, 50706  # tags of a TIFF
SMALLER, MASK = 1, 4  # kinds of a TIFF's page
HEAD_BYTES = 64  # that say what a file is
CODED_BYTES = 4096  # among which a file says what its colors are
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers that say how pixels are coded
READ_JPEG_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)  # baseline, extended, progressive; the last two arithmetic
ODD_JPEG = "a kind that is not read (lossless, JPEG-LS, or 12 bits); make a PNG of it"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
JPEG_MAGIC, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
# Motion photos, and Ultra HDR's gain maps (developer.android.com: motion-photo-format, hdr-image-format).
GONE_FROM_XMP = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rb"<Container:Directory\b.*?</Container:Directory>",
        rb"<((?:GCamera|Camera|MotionPhoto|MicroVideo|hdrgm|HDRGainMap):\w+)\b[^>]*?(?:/>|>.*?</\1>)",
        rb"\s(?:GCamera:(?:Motion|Micro)\w*|Camera:(?:Motion|Micro)\w*|hdrgm:\w+|HDRGainMap:\w+)\s*=\s*(?:\"[^\"]*\"|'[^']*')",
    )
)
MAX_ABOUT_BYTES = 65000  # as much as a JPEG file can hold in one piece

T = TypeVar("T")

# Pillow warns of broken EXIF blocks and the like, but only the pixels matter. Set once, because changing filters just while
# decoding would also affect other threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


@dataclass(frozen=True)
class Picture:
    """A picture and what belongs to it.

    Attributes:
        frame: (H, W, 3) uint8 RGB, upright (EXIF orientation applied), as it looks on white paper, so that the color of
            what is transparent never counts. For writing PNG and TIFF also uint16.
        alpha: (H, W) uint8, or None for an opaque picture; written beside the color that gives `frame` on white.
        icc_profile: of `frame`'s numbers, as in the file; None means sRGB.
        about: what else the file told, as `Image.save` takes it: "exif" (date, place, camera; no orientation), "xmp", "dpi".
        later: how many more pictures the file holds, as an animation or a TIFF of several pages does.
        note: what is odd about the file, for the user; as a rule nothing.
    """

    frame: np.ndarray
    alpha: np.ndarray | None = None
    icc_profile: bytes | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    later: int = 0
    note: str = ""


@dataclass(frozen=True)
class Animation:
    """Several pictures in one file, all of one size except for a TIFF's pages.

    Attributes:
        durations_ms: how long each is shown; 0 if the file does not say.
        loop: how often it is played, 0 for forever.
        moving: whether they follow one another in time; a TIFF's pages do not.
    """

    pictures: list[Picture]
    durations_ms: list[float]
    loop: int = 0
    moving: bool = True


def read_picture(path: str | Path, max_pixels: int = 0, draft_px: int = 0) -> Picture:
    """Read a picture file of any depth and color mode; only the first picture of an animation.

    Args:
        path: the file.
        max_pixels: refuse larger pictures before decoding them; 0 for `MAX_PIXELS`.
        draft_px: if not 0, a JPEG may be decoded at 1/2, 1/4 or 1/8 size as long as both sides stay above this.
    Raises:
        PictureError: missing, unreadable, empty, truncated, not a picture or too large; the message says which.
    """
    with _opened(path) as file:
        return _first_picture(file, str(path), max_pixels, draft_px)


def decode_picture(data: bytes, name: str, max_pixels: int = 0, draft_px: int = 0) -> Picture:
    """`read_picture` for a file's bytes; `name` is for messages."""
    return _first_picture(io.BytesIO(data), name, max_pixels, draft_px)


def _first_picture(file: BinaryIO, name: str, max_pixels: int, draft_px: int) -> Picture:
    def first(image: Image.Image) -> Picture:
        note = "the mark of the file's end is missing; all of the picture is there" if _is_mended(image) else ""
        if draft_px:
            image.draft(None, (draft_px, draft_px))
        own, *later = _pages(image, file, name)  # of an APNG, 0 is what is shown where it cannot be played
        return dataclasses.replace(_upright(_page(image, file, own, name)), later=len(later), note=note)

    return _decoded(file, name, max_pixels or MAX_PIXELS, first)


def picture_of(image: Image.Image) -> Picture:
    """A Pillow image of any mode as a picture, upright."""
    return _upright(image.copy())


def image_of(picture: Picture) -> Image.Image:
    """A picture as a Pillow image, RGB or RGBA, with its color profile."""
    image = _with_alpha(picture, "PNG")
    if picture.icc_profile is not None:
        image.info["icc_profile"] = picture.icc_profile
    return image


def read_animation(path: Path, max_pixels: int = 0) -> Animation:
    """All pictures of an animation or of a multi-page TIFF.

    Raises:
        PictureError: as `read_picture`; or together they have more pixels than `max_pixels`.
    """
    most = max_pixels or MAX_PIXELS

    def all_of(file: BinaryIO, image: Image.Image) -> Animation:
        pages = _pages(image, file, str(path))
        count = len(pages)
        if count * math.prod(image.size) > most:
            raise PictureError(
                f"{path} holds {count} pictures of {image.width}x{image.height} px, together over the limit of {most} pixels; "
                "raise --max-pixels, or make a film of it for: allaprima video"
            )
        pictures, durations_ms = [], []
        for page in pages:
            each = _page(image, file, page, str(path)).copy()
            durations_ms.append(float(image.info.get("duration") or 0.0))
            pictures.append(_upright(each))
        loop = int(image.info.get("loop", 0 if image.format == "GIF" else 1))
        if image.format == "GIF" and (loop or "loop" not in image.info):  # GIF counts repeats
            loop += 1
        return Animation(pictures, durations_ms, loop, image.format != "TIFF")

    with _opened(path) as file:
        return _decoded(file, str(path), most, functools.partial(all_of, file))


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    """An open file, read only as needed: a file that is no picture may be larger than memory. A pipe is read completely."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            yield file if file.seekable() else io.BytesIO(file.read())
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """Opens without waiting: a pipe that has no writer is empty."""
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    if sys.platform != "win32":
        os.set_blocking(handle, True)
    return handle


def _decoded(file: BinaryIO, name: str, max_pixels: int, take: Callable[[Image.Image], T]) -> T:
    """The result of `take` for a file's opened picture; whatever Pillow raises becomes a `PictureError`."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if not head:
        raise PictureError(f"{name} is empty; a picture is wanted")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > max(MAX_PIXELS, Image.MAX_IMAGE_PIXELS):
        Image.MAX_IMAGE_PIXELS = max_pixels  # never restored: another thread may be decoding

    def check_size(width: int, height: int) -> None:
        if width * height > max_pixels:
            text = f"{name} is {width}x{height} px, over the limit of {max_pixels} pixels"
            raise PictureError(f"{text}; if you trust it, raise --max-pixels")
        needed = width * height * PIXEL_BYTES
        if needed > LARGE_BYTES and needed > (free := free_bytes()):
            text = f"{name} is {width}x{height} px, for which about {needed / 2**30:.1f} GB are needed"
            raise PictureError(f"{text}, {free / 2**30:.1f} GB are free; make it smaller first")

    formats = READABLE_FORMATS
    # An AVIF's main brand may be HEIC's most general one, with its own only among the compatible brands.
    if head[4:8] == b"ftyp" and head[8:12] in HEIC_BRANDS and not {b"avif", b"avis"} & set(_brands(head)):
        try:
            import pillow_heif
        except ImportError as error:
            wanted = "pip install pillow-heif, or make a JPEG of it"
            raise PictureError(f"{name} is a HEIC picture, which needs one package more: {wanted}") from error
        pillow_heif.register_heif_opener()
        formats = ("HEIF",)
    try:
        with _open_image(file, head, formats, name, check_size) as image:
            return take(image)
    except PictureError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # Pillow's limit is checked before ours
        raise PictureError(f"{name} is over the limit of {max_pixels} pixels; if you trust it, raise --max-pixels") from error
    except MemoryError as error:
        raise PictureError(f"{name} needs more memory to decode than there is; make it smaller first") from error
    except UnidentifiedImageError as error:
        if _is_odd_jpeg(file, head):
            raise PictureError(f"{name} is a JPEG of {ODD_JPEG}") from error
        raise PictureError(f"{name} is not a picture ({KINDS} is wanted)") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error, ...
        if isinstance(error, OSError) and error.errno:  # from the disk, not from a decoder
            raise
        if mended := _with_its_end(file, head) or (_without_damaged_words(file, head) if "TEXT" in str(error) else None):
            return _decoded(mended, name, max_pixels, take)
        if _is_odd_jpeg(file, head):
            raise PictureError(f"{name} is a JPEG of {ODD_JPEG}") from error
        raise PictureError(f"{name} is damaged: {error}") from error


def _open_image(
    file: BinaryIO, head: bytes, formats: tuple[str, ...], name: str, check_size: Callable[[int, int], None]
) -> Image.Image:
    """A file's picture, opened and not yet decoded; if Pillow does not recognize it, other ways are tried.

    Raises:
        UnidentifiedImageError: it is not a picture.
    """
    try:
        image: Image.Image = Image.open(file, formats=formats)
    except UnidentifiedImageError:
        if head[:4] in TIFF_MAGIC:
            return read_page(file, 0, name, check_size)
        mended = _without_damaged_words(file, head)
        if mended is None:
            raise
        image = Image.open(mended, formats=formats)
    check_size(*image.size)
    if image.format in ("PNG", "AVIF") and (coded := _coded_colors(file, image.format)):
        image.info["nclx_profile"] = coded  # as pillow-heif has it
    return image


def _coded_colors(file: BinaryIO, picture_format: str) -> dict[str, int] | None:
    """Colors that a file says by H.273's numbers, a PNG's cICP or an AVIF's nclx; None where it does not, or far behind."""
    at = file.tell()
    file.seek(0)
    start = file.read(CODED_BYTES)
    file.seek(at)
    word, size = (b"cICP", 1) if picture_format == "PNG" else (b"colrnclx", 2)
    found = start.find(word, 0, start.find(b"IDAT") if b"IDAT" in start else len(start))
    numbers = start[found + len(word) : found + len(word) + 2 * size]
    if found < 0 or len(numbers) < 2 * size:
        return None
    primaries, transfer = (int.from_bytes(numbers[i : i + size], "big") for i in (0, size))
    return {"color_primaries": primaries, "transfer_characteristics": transfer}


def _reread(image: Image.Image, file: BinaryIO, name: str) -> Image.Image:
    """The current picture, or TIFF page, of an opened file; read in another way if Pillow would misread it."""
    if image.format != "TIFF" or not is_misread(image.tag_v2):  # type: ignore[attr-defined]
        return image
    page = read_page(file, image.tell(), name)
    exif = image.getexif().tobytes()
    page.info = {**image.info, **page.info, **({"exif": exif} if exif else {})}
    return page


def _without_damaged_words(file: BinaryIO, head: bytes) -> BinaryIO | None:
    """A PNG without those chunks that it can do without and whose checksums are wrong, or that hold more text than Pillow
    reads, as browsers show it; None where there is none."""
    if head[:8] != PNG_MAGIC or 2 * file.seek(0, os.SEEK_END) > free_bytes():
        return None
    file.seek(0)
    data, at, parts = file.read(), len(PNG_MAGIC), [PNG_MAGIC]
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        chunk = data[at:end]
        whole = len(chunk) == end - at and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        needed = not chunk[4] & 32  # the first letter's case says so
        if (whole and chunk[4:8] not in TEXT_CHUNKS) or needed:
            parts.append(chunk)
        at = end
    mended = b"".join(parts)
    return io.BytesIO(mended) if len(mended) < len(data) else None


def _brands(head: bytes) -> list[bytes]:
    """The main and compatible brands at the beginning of an ISO media file."""
    end = min(len(head), int.from_bytes(head[:4], "big"))
    return [head[at : at + 4] for at in range(8, end, 4)]


def _with_its_end(file: BinaryIO, head: bytes) -> BinaryIO | None:
    """A JPEG that lacks nothing but the mark of its end, with that; None where there is none. Browsers show such files.

    Whatever is put before the mark then changes no pixel; where pixels are missing, they are made of it.
    """
    if head[:3] != JPEG_MAGIC or isinstance(file, _Mended) or 4 * file.seek(0, os.SEEK_END) > free_bytes():
        return None
    file.seek(0)
    data = file.read()
    pixels = []
    for filler in (b"", b"\x55" * 64):
        try:
            with Image.open(io.BytesIO(data + filler + JPEG_END), formats=("JPEG",)) as image:
                pixels.append(np.asarray(image))
        except Exception:
            return None
    return _Mended(data + JPEG_END) if np.array_equal(pixels[0], pixels[1]) else None


def _is_odd_jpeg(file: BinaryIO, head: bytes) -> bool:
    """Whether a file is a JPEG of a kind that browsers do not show either: neither baseline nor progressive, or its samples
    have not 8 bits."""
    if head[:3] != JPEG_MAGIC:
        return False
    file.seek(2)
    while len(marker := file.read(4)) == 4 and marker[0] == 0xFF:
        if marker[1] in JPEG_FRAMES:
            return marker[1] not in READ_JPEG_FRAMES or file.read(1) != b"\x08"
        file.seek(int.from_bytes(marker[2:], "big") - 2, os.SEEK_CUR)
    return False


class _Mended(io.BytesIO):
    """A JPEG whose end was missing."""


def _is_mended(image: Image.Image) -> bool:
    return isinstance(getattr(image, "fp", None), _Mended)  # as long as it is not decoded


def _pages(image: Image.Image, file: BinaryIO, name: str) -> list[int]:
    """The pictures of a file to look at, in order.

    Raises:
        PictureError: a camera's raw file, of which only the thumbnail could be read.
    """
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        if DNG_VERSION in tags or (int(tags.get(SUBFILE, 0)) & SMALLER and SUBFILES in tags):
            raise PictureError(f"{name} is a camera's raw file; make a JPEG or TIFF of it")
        # Smaller copies of a page, and its mask, do not count as pages.
        return [i for i, kind in enumerate(page_kinds(file)) if not kind & (SMALLER | MASK)] or [0]
    count = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1  # a phone's JPEG may hold a depth map, too
    return list(range(1 if count > 1 and getattr(image, "default_image", False) else 0, count))


def _page(image: Image.Image, file: BinaryIO, page: int, name: str) -> Image.Image:
    """One of a file's pictures."""
    try:
        image.seek(page)
    except SyntaxError:  # a page after one of a kind that Pillow does not know
        return read_page(file, page, name)
    return _reread(image, file, name)


def _upright(image: Image.Image) -> Picture:
    icc_profile = image.info.get("icc_profile")
    white_is_zero = getattr(image, "tag_v2", {}).get(262) == 0  # of a TIFF
    if isinstance(transparent := image.info.get("transparency"), int) and image.mode == "L":
        # For a gray PNG with less than 8 bits, Pillow scales the levels, but not the transparent one.
        image.info["transparency"] = transparent * 255 // (2 ** _gray_bits(image) - 1)
    about = _about(image)
    ImageOps.exif_transpose(image, in_place=True)  # a copy of 100 megapixels has 400 MB
    if xmp := image.info.get("xmp"):
        about["xmp"] = without_what_is_gone(xmp.encode() if isinstance(xmp, str) else xmp)
    return dataclasses.replace(_to_picture(image, icc_profile, white_is_zero), about=about)


def _gray_bits(image: Image.Image) -> int:
    """Bits per pixel in the file of a gray PNG that is not yet decoded."""
    tiles = getattr(image, "tile", [])
    _, _, bits = str(tiles[0][3] if tiles else "").partition(";")
    return int(bits) if bits in ("2", "4") else 8


def without_what_is_gone(xmp: bytes) -> bytes:
    """XMP without entries about a film or gain map that phones append to a picture: a painting has none."""
    for gone in GONE_FROM_XMP:
        xmp = gone.sub(b"", xmp)
    return xmp


def _about(image: Image.Image) -> dict[str, Any]:
    """A file's information about its picture, except how it is stored: no orientation, thumbnail or maker's notes."""
    about: dict[str, Any] = {}
    turned = False
    try:
        found, kept = image.getexif(), Image.Exif()
        turned = found.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        for tag in KEPT_TAGS:
            if tag in found:
                kept[tag] = found[tag]
        for ifd in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            tags = {tag: value for tag, value in found.get_ifd(ifd).items() if tag not in DROPPED_TAGS}
            for one, other in TURNED_TAGS if turned else ():
                if one in tags and other in tags:
                    tags[one], tags[other] = tags[other], tags[one]
            if tags:
                kept[ifd] = tags
        if len(kept) and len(kept.tobytes()) < MAX_ABOUT_BYTES:
            about["exif"] = kept
    except Exception:  # damaged blocks raise nearly anything; only the pixels matter
        about.clear()
    dpi = image.info.get("dpi")
    if isinstance(dpi, tuple) and len(dpi) == 2 and all(0.5 <= float(x) < 65535.0 for x in dpi):  # NaN fails, too
        across, down = reversed(dpi) if turned else dpi
        about["dpi"] = (float(across), float(down))
    return about


def _to_picture(image: Image.Image, icc_profile: bytes | None, white_is_zero: bool) -> Picture:
    alpha = None
    gamma = PNG_GAMMA if icc_profile or "srgb" in image.info else image.info.get("gamma", PNG_GAMMA)
    if image.mode == "La":  # the only mode that Pillow converts it to
        image = image.convert("LA")
    if image.mode == "F" or image.mode.startswith("I"):
        if image.mode != "F" and isinstance(transparent := image.info.get("transparency"), int):
            alpha = np.where(np.asarray(image) == transparent, 0, 255).astype(np.uint8)
        image = _deep_gray(image, white_is_zero)
    if image.mode not in ("RGB", "RGBA", "P") or not _is_profile(icc_profile):
        # A CMYK or gray profile does not apply to the RGB we return: convert to sRGB with it, then drop it.
        if icc_profile and image.mode in ("L", "LA", "CMYK"):
            has_alpha = image.mode == "LA" or (image.mode == "L" and "transparency" in image.info)
            cover = image.convert("LA").getchannel("A") if has_alpha else None
            image = _to_srgb(image.getchannel(0) if has_alpha else image, icc_profile)
            image.info.pop("transparency", None)
            if cover:
                image = image.convert("RGB")
                image.putalpha(cover)
        icc_profile = None
    if image.mode in ("LA", "PA", "RGBA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = np.asarray(image.getchannel("A"))
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    rgb = _as_srgb(rgb, gamma)
    if icc_profile is None and (coded := image.info.get("nclx_profile")):
        primaries, transfer = (int(coded.get(name, 0)) for name in ("color_primaries", "transfer_characteristics"))
        rgb = Image.fromarray(coded_as_srgb(np.asarray(rgb), primaries, transfer))
    if alpha is None or alpha.min() == 255:
        return Picture(np.asarray(rgb), None, icc_profile)
    return Picture(
        np.asarray(Image.composite(rgb, Image.new("RGB", rgb.size, "white"), Image.fromarray(alpha))), alpha, icc_profile
    )


def _as_srgb(image: Image.Image, gamma: float) -> Image.Image:
    """RGB values that are light to the power of `gamma`, from a PNG's gAMA, as sRGB; browsers do the same."""
    if not 0.1 < gamma < 10.0 or abs(gamma - PNG_GAMMA) < 0.02:  # nonsense, or close enough
        return image
    light = (np.arange(256) / 255.0) ** (1.0 / gamma)
    shown = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1.0 / 2.4) - 0.055)
    return image.point((shown * 255.0 + 0.5).astype(int).tolist() * 3)


def _deep_gray(image: Image.Image, white_is_zero: bool) -> Image.Image:
    """16-bit, 32-bit and float gray in 8 bits: Pillow's own convert("L") clips at 255 instead of scaling."""
    light = np.nan_to_num(np.asarray(image, np.float32))
    black, white = float(light.min(initial=0.0)), float(light.max(initial=0.0))
    if image.mode.startswith("I;16"):
        black, white = 0.0, 65535.0
    elif image.mode == "F" and black == 0.0 and white <= 65535.0:
        white = 65535.0 if white > 255.0 else 255.0 if white > 1.0 else 1.0
    light -= black  # 32 bits, and floats beyond those ranges, use their own range
    light *= 255.0 / max(white - black, 1e-30)
    gray = (light.clip(0.0, 255.0) + 0.5).astype(np.uint8)
    return Image.fromarray(255 - gray if white_is_zero else gray)


def _is_profile(icc_profile: bytes | None) -> bool:
    """Whether a profile can be parsed and is for RGB."""
    try:
        return bool(icc_profile) and ImageCms.ImageCmsProfile(io.BytesIO(icc_profile or b"")).profile.xcolor_space == "RGB "
    except (ImageCms.PyCMSError, OSError):
        return False


def _to_srgb(image: Image.Image, icc_profile: bytes) -> Image.Image:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # damaged, or for another mode: common in the wild, ignored by viewers
        return image
    return converted if converted is not None else image


def write_picture(path: str | Path, picture: Picture, overwrite: bool = True) -> None:
    """Write a picture in the format of the path's suffix; the file appears only when it is complete.

    Raises:
        PictureError: unknown suffix, a format that cannot hold the picture, a folder that cannot be written to, a full
            disk, or the file exists and `overwrite` is False.
    """
    path = Path(path)
    picture_format = check_writable(path, overwrite, picture.frame.dtype.itemsize * 8)
    if picture.frame.dtype == np.uint16:
        write_encoded(path, _encode_deep(picture, path.suffix), overwrite)
        return
    write_encoded(path, _encoded(path, picture_format, picture, {}), overwrite)


def write_animation(path: Path, animation: Animation, overwrite: bool = True) -> None:
    """Write several pictures to one file.

    Raises:
        PictureError: as `write_picture`; or the format holds only one picture.
    """
    picture_format = check_writable(path, overwrite)
    check_animated(path, len(animation.pictures), {picture.frame.shape for picture in animation.pictures})
    options: dict[str, Any] = {"save_all": True}
    options["append_images"] = [_with_alpha(picture, picture_format) for picture in animation.pictures[1:]]
    if animation.moving:
        durations = [round(duration) for duration in animation.durations_ms]
        options |= {"duration": durations, "loop": animation.loop}
        if picture_format == "GIF":
            options["loop"] = None if animation.loop == 1 else max(0, animation.loop - 1)
            options["disposal"] = 2 if any(picture.alpha is not None for picture in animation.pictures) else 0
    write_encoded(path, _encoded(path, picture_format, animation.pictures[0], options), overwrite)


def check_animated(path: Path, count: int, shapes: Collection[tuple[int, ...]] = ()) -> None:
    """Raises a `PictureError` if a file of this name can hold only one picture, or only pictures of one size."""
    if FORMATS.get(path.suffix.lower()) not in ANIMATED:
        suffixes = ", ".join(suffix for suffix, name in FORMATS.items() if name in ANIMATED)
        raise PictureError(f"{path} holds one picture, not {count}; give one of {suffixes}")
    if len(shapes) > 1 and FORMATS[path.suffix.lower()] != "TIFF":
        raise PictureError(f"{path} holds pictures of one size, not of {len(shapes)}; give a .tif")


def _encoded(path: Path, picture_format: str, picture: Picture, more: Mapping[str, Any]) -> bytes:
    height, width = picture.frame.shape[:2]
    most = MAX_SIDE_PX.get(picture_format, max(height, width))
    if max(height, width) > most:
        raise PictureError(f"{path}: {picture_format} holds at most {most} px a side, not {width}x{height}; use .png or .tif")
    options: dict[str, Any] = dict(more)
    if picture_format in ("JPEG", "WEBP", "AVIF"):
        options |= {"quality": 95}
    if picture_format == "JPEG":
        options |= {"subsampling": 0}
    if picture_format == "WEBP":
        options |= {"method": 4, "exact": True}
    if picture_format == "PNG":
        options |= {"compress_level": 4}  # on one stylized 640x480 photo 8 to 17 % faster than Pillow's 6, 0.1 % larger
    if picture.icc_profile and picture_format not in ("BMP", "GIF"):
        options["icc_profile"] = picture.icc_profile
    options |= _as_written(picture.about, picture_format)
    encoded = io.BytesIO()
    try:
        _with_alpha(picture, picture_format).save(encoded, picture_format, **options)
    except (OSError, ValueError, RuntimeError, OverflowError) as error:
        raise PictureError(f"{path} cannot be encoded as {picture_format}: {error}") from error
    return encoded.getvalue()


def _as_written(about: Mapping[str, Any], picture_format: str) -> dict[str, Any]:
    """What a format can hold of `Picture.about`, in the form for `Image.save`."""
    options = {key: value for key, value in about.items() if key != "xmp"}
    exif = options.pop("exif", {})
    if picture_format == "TIFF":
        options["tiffinfo"] = dict(exif.items())
        if all(not isinstance(value, dict) for value in exif.values()):  # Pillow cannot compress one with a camera's block
            options["compression"] = "tiff_lzw"
    elif exif and picture_format not in ("BMP", "GIF"):
        options["exif"] = exif
    if (xmp := about.get("xmp")) and len(xmp) < MAX_ABOUT_BYTES:
        if picture_format == "PNG":
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode("utf-8", "replace"))
        elif picture_format == "TIFF":
            options["tiffinfo"][XMP] = xmp
        elif picture_format in ("JPEG", "WEBP", "AVIF"):
            options["xmp"] = xmp
    return options


def _with_alpha(picture: Picture, picture_format: str) -> Image.Image:
    image = Image.fromarray(picture.frame)
    if picture.alpha is not None and picture_format not in ("JPEG", "BMP"):  # these have no alpha: white paper shows through
        image = Image.fromarray(_without_white(picture.frame, picture.alpha))
        image.putalpha(Image.fromarray(picture.alpha))
    return image


def _without_white(frame: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The colors that look like `frame` when they cover white paper with `alpha`; white where that is 0."""
    most = np.iinfo(frame.dtype).max
    out = np.empty_like(frame)
    for start in range(0, len(frame), 256):  # in strips: in float32 a frame is four times as large
        rows = slice(start, start + 256)
        cover = alpha[rows, :, None].astype(np.float32) / 255.0
        color = most - (most - frame[rows].astype(np.float32)) / np.maximum(cover, 1e-6)
        out[rows] = np.where(cover > 0.0, color.clip(0.0, most) + 0.5, most).astype(frame.dtype)
    return out


def check_writable(path: Path, overwrite: bool, bits: int = 8) -> str:
    """Check a picture file before there is a picture.

    Returns:
        Pillow's name of the format.
    Raises:
        PictureError: unknown suffix, no folder, a format without 16 bits, or the file exists and `overwrite` is False.
    """
    picture_format = FORMATS.get(path.suffix.lower())
    if picture_format is None:
        raise PictureError(f'{path}: no format for "{path.suffix}"; one of {", ".join(FORMATS)} is wanted')
    if bits == 16 and picture_format not in ("PNG", "TIFF"):
        raise PictureError(f"{path}: {picture_format} holds 8 bits a channel; for 16 give a .png or .tif")
    check_folder(path)
    if not overwrite and path.exists():
        raise PictureError(f"{path} exists; give --overwrite to replace it, or another -o")
    return picture_format


def check_folder(path: Path, error: type[AllaPrimaError] = PictureError) -> None:
    """Raises an error if a file of this name cannot be written, as far as can be told beforehand."""
    if not path.parent.is_dir():
        raise error(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise error(f"{path} cannot be written: it is a folder")
    if not os.access(path.parent, os.W_OK):
        raise error(f"{path} cannot be written: the folder may not be written to; give another -o")


def check_no_input(output: str | Path, inputs: Iterable[str | Path], error: type[AllaPrimaError] = PictureError) -> None:
    """Raises an error if the output is one of the files that are read."""
    for path in inputs:
        same = os.path.realpath(output) == os.path.realpath(path)
        with contextlib.suppress(OSError):  # one of them is not there
            same = same or os.path.samefile(output, path)  # a hard link
        if same:
            raise error(f"{output} is read and would be replaced; give another -o")


def write_encoded(path: Path, data: bytes, overwrite: bool = True) -> None:
    """Write a complete file or nothing.

    Raises:
        PictureError: a folder that cannot be written to, a full disk, ..., or the file exists and `overwrite` is False.
    """
    try:
        write_atomically(path, data, overwrite)
    except FileExistsError as error:  # another program has created it meanwhile
        raise PictureError(f"{path} exists; give --overwrite to replace it, or another -o") from error
    except OSError as error:
        raise PictureError(f"{path} cannot be written: {error.strerror or error}") from error


def _encode_deep(picture: Picture, suffix: str) -> bytes:
    """A file with 16 bits per channel, which Pillow cannot write; without a profile, which cannot be written here."""
    frame = picture.frame if picture.alpha is None else _without_white(picture.frame, picture.alpha)
    pixels = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    if picture.alpha is not None:
        pixels = np.dstack([pixels, np.multiply(picture.alpha, 257, dtype=np.uint16)])
    _, encoded = cv2.imencode(suffix.lower(), pixels)
    return encoded.tobytes()


def to_srgb(picture: Picture) -> Picture:
    """A picture's colors as sRGB, without a profile."""
    if picture.icc_profile is None:
        return picture
    converted = _to_srgb(Image.fromarray(picture.frame), picture.icc_profile)
    return dataclasses.replace(picture, frame=np.asarray(converted), icc_profile=None)


def list_pictures(folder: Path, without: Path | None = None) -> list[Path]:
    """All files with a picture's suffix in a folder, in an order that does not depend on the file system; also folders that
    cannot be read, which later fail as pictures.

    Args:
        folder: searched recursively, including linked folders; hidden files are left out.
        without: a folder that is not searched.
    """
    return sort_files(folder, without)[0]


def sort_files(folder: Path, without: Path | None = None) -> tuple[list[Path], Counter[str]]:
    """What `list_pictures` finds, and the number of other files by suffix."""
    paths, others, entered = list[Path](), Counter[str](), set[str]()
    left_out = os.path.realpath(without) if without else None
    for root, folders, names in os.walk(folder, onerror=lambda error: paths.append(Path(error.filename)), followlinks=True):
        entered.add(os.path.realpath(root))
        # A link may lead to a folder that is already being searched, such as its own parent.
        folders[:] = sorted(name for name in folders if os.path.realpath(Path(root, name)) not in entered | {left_out})
        for name in names:
            suffix = Path(name).suffix.lower()
            if name.startswith("."):
                continue
            if suffix in SEARCHED:
                paths.append(Path(root, name))
            else:
                others[suffix or "no suffix"] += 1
    return sorted(paths, key=lambda path: path.relative_to(folder).as_posix()), others


def fitted(height: int, width: int, max_side_px: int) -> tuple[int, int]:
    """A size with the same aspect whose longer side is at most `max_side_px`, 0 for any."""
    return fitted_within(height, width, max_side_px, max_side_px) if max_side_px else (height, width)


def fitted_within(height: int, width: int, max_height: int, max_width: int) -> tuple[int, int]:
    """The largest size with the same aspect that fits within another; never larger than the original."""
    scale = min(1.0, max_height / height, max_width / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_short_side(frame: np.ndarray, short_side_px: int) -> np.ndarray:
    """Scale a frame, (H, W, 3) uint8, so that its shorter side has the given length; the aspect is kept."""
    height, width = frame.shape[:2]
    scale = short_side_px / min(height, width)
    return resize(frame, max(1, round(height * scale)), max(1, round(width * scale)))


def resize(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale a uint8 frame, (H, W, 3) or gray (H, W), to a size."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Resampling.LANCZOS))


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray | None]], labels: Sequence[Sequence[str]], cell_px: int = 256
) -> np.ndarray:
    """Frames side by side with a line of text under each.

    Args:
        rows: rows of (H, W, 3) uint8 frames of any size; each is fitted into a square cell, uncropped; None: an empty cell.
        labels: a text for each frame.
        cell_px: width of a cell, and its greatest height.
    Returns:
        (H, W, 3) uint8.
    """
    margin, text_px = 8, 20
    font = ImageFont.load_default(14)
    strips = []
    columns = max(len(row) for row in rows)
    for row, texts in zip(rows, labels, strict=True):
        cells = [frame if frame is None else _fit(frame, cell_px) for frame in row]
        row_px = max((cell.height for cell in cells if cell is not None), default=0)
        strip = Image.new("RGB", (columns * (cell_px + margin) + margin, margin + row_px + text_px), (248, 246, 242))
        draw = ImageDraw.Draw(strip)
        for j, (cell, text) in enumerate(zip(cells, texts, strict=True)):
            if cell is not None:
                x = margin + j * (cell_px + margin)
                strip.paste(cell, (x + (cell_px - cell.width) // 2, margin + (row_px - cell.height) // 2))
                draw.text((x + 1, margin + row_px + 2), text, fill=(40, 38, 36), font=font)
        strips.append(np.asarray(strip))
    return np.vstack(strips)


def _fit(frame: np.ndarray, cell_px: int) -> Image.Image:
    return ImageOps.contain(Image.fromarray(frame), (cell_px, cell_px), Resampling.LANCZOS)
