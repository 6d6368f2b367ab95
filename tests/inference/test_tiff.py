"""TIFFs and PNGs of every depth, compared with the pixels that were written."""

import io
import itertools
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from allaprima.inference.landscape import paint_landscape
from allaprima.inference.pictures import decode_picture, read_picture
from allaprima.models.errors import PictureError

RGB = paint_landscape(45, 61)
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
COVER = np.tile(np.linspace(0, 255, 61).astype(np.uint8), (45, 1))
DTYPES = ("uint8", "uint16", "uint32", "float32")
# Tolerance for deeper pictures, which are rounded to 8 bits, or truncated, as Pillow does with 16.
LEVELS = 1


def as_type(levels: np.ndarray, dtype: str) -> np.ndarray:
    if dtype.startswith("float"):
        return (levels / 255).astype(dtype)
    return (levels.astype(np.uint64) * np.iinfo(dtype).max // 255).astype(dtype)


def on_white(levels: np.ndarray, cover: np.ndarray) -> np.ndarray:
    share = cover[..., None] / 255
    return levels * share + 255 * (1 - share)


@pytest.mark.parametrize(
    ("color", "dtype", "alpha", "planes", "order"),
    list(itertools.product(("gray", "rgb"), DTYPES, (False, True), ("contig", "separate"), "<>")),
)
def test_a_tiff_is_read_as_it_was_written(tmp_path, color, dtype, alpha, planes, order):
    if color == "gray" and planes == "separate" and not alpha:
        pytest.skip("one plane is one plane")
    levels = RGB if color == "rgb" else GRAY[..., None]
    values = np.dstack([levels, COVER]) if alpha else levels
    stored = as_type(values, dtype).astype(np.dtype(dtype).newbyteorder(order))
    stored = np.moveaxis(stored, 2, 0) if planes == "separate" else stored
    stored = stored[..., 0] if values.shape[2] == 1 else stored
    path = tmp_path / "picture.tif"
    photometric = "rgb" if color == "rgb" else "minisblack"
    more = {"planarconfig": planes} if values.shape[2] > 1 else {}
    if alpha:
        more["extrasamples"] = ["unassalpha"]
    tifffile.imwrite(path, stored, photometric=photometric, byteorder=order, metadata=None, **more)
    picture = read_picture(path)
    wanted = np.broadcast_to(levels, RGB.shape).astype(float)
    if alpha:
        np.testing.assert_allclose(picture.alpha, COVER, atol=LEVELS)
        wanted = on_white(wanted, COVER)
    else:
        assert picture.alpha is None
    assert np.abs(picture.frame - wanted).max() <= LEVELS + 1


def test_a_compressed_tiff_of_separate_planes_is_read(tmp_path):
    path = tmp_path / "picture.tif"
    stored = as_type(np.moveaxis(RGB, 2, 0), "uint16")
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig="separate", compression="zlib", metadata=None)
    assert np.abs(read_picture(path).frame.astype(int) - RGB).max() <= LEVELS


def test_a_32_bit_tiff_whose_zero_is_white_is_read(tmp_path):
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, as_type(255 - GRAY, "uint32"), photometric="miniswhite", metadata=None)
    assert np.abs(read_picture(path).frame[..., 0].astype(int) - GRAY).max() <= LEVELS


def test_a_tiff_that_tifffile_cannot_read_either_is_refused(tmp_path):
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, np.zeros((20, 30, 7), np.float32), photometric="minisblack", planarconfig="contig", metadata=None)
    with pytest.raises(PictureError, match=r"is a TIFF of a kind that is not read \(float32, 7 channels"):
        read_picture(path)
    path.write_bytes(b"II*\0" + bytes(40))
    with pytest.raises(PictureError, match="is a TIFF of a kind that is not read, or damaged"):
        read_picture(path)


@pytest.mark.parametrize("dtype", ["float32", "uint32"])  # Pillow does not open the first and misreads the second
def test_a_tiff_read_by_tifffile_is_turned_upright_too(tmp_path, dtype):
    path = tmp_path / "picture.tif"
    levels, photometric = (RGB, "rgb") if dtype == "float32" else (GRAY, "minisblack")
    turned = as_type(np.rot90(levels), dtype)  # needs a turn of 90 degrees clockwise
    tifffile.imwrite(path, turned, photometric=photometric, metadata=None, extratags=[(274, "H", 1, 6, True)])
    found = read_picture(path).frame.astype(int)
    assert np.abs(found - np.broadcast_to(levels if levels.ndim == 3 else levels[..., None], found.shape)).max() <= LEVELS


def test_a_tiff_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "picture.tif"
    tifffile.imwrite(path, np.zeros((20, 30, 3), np.float32), photometric="rgb", metadata=None)
    with pytest.raises(PictureError, match="is 30x20 px, over the limit of 599 pixels"):
        read_picture(path, max_pixels=599)


def gray_png(levels: np.ndarray, bits: int, transparent: int | None = None) -> bytes:
    """A gray PNG of any bit depth; Pillow does not write the smaller ones."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = levels.shape
    digits = (levels[..., None] >> np.arange(bits - 1, -1, -1)) & 1
    rows = np.packbits(digits.reshape(height, width * bits).astype(np.uint8), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0))]
    if transparent is not None:
        parts.append(chunk(b"tRNS", struct.pack(">H", transparent)))
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b"")])


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_one_gray_level_of_a_png_may_be_transparent_at_any_depth(bits):
    levels = GRAY.astype(int) >> (8 - bits)
    for transparent in (int(levels.min()), int(levels.max())):
        picture = decode_picture(gray_png(levels, bits, transparent), "x.png")
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha == 0, levels == transparent)
        seen = levels != transparent
        np.testing.assert_array_equal(picture.frame[seen][:, 0], (levels * 255 // (2**bits - 1))[seen])


@pytest.mark.parametrize("transparent", [False, True])
def test_a_gray_profile_is_applied_with_and_without_alpha(tmp_path, transparent):
    icc = _gray_profile(1.0)
    image = Image.fromarray(GRAY)
    if transparent:
        image.putalpha(Image.fromarray(COVER))
    file = io.BytesIO()
    image.save(file, "PNG", icc_profile=icc)
    plain = Image.fromarray(GRAY)
    alone = io.BytesIO()
    plain.save(alone, "PNG", icc_profile=icc)
    without = decode_picture(alone.getvalue(), "x.png").frame.astype(float)
    assert np.abs(without - GRAY[..., None]).mean() > 10
    picture = decode_picture(file.getvalue(), "x.png")
    wanted = on_white(without, COVER) if transparent else without
    assert np.abs(picture.frame - wanted).max() <= 2


def _gray_profile(gamma: float) -> bytes:
    """A minimal gray profile with a curve (ICC.1:2001, 6.3.2)."""
    curve = b"curv" + bytes(4) + struct.pack(">I", 1) + struct.pack(">H", round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", *(round(x * 65536) for x in (0.9642, 1.0, 0.8249)))
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"gray\0" + bytes(78)
    words = b"text" + bytes(4) + b"none\0" + bytes(3)
    tags, at, table, body = [(b"desc", text), (b"cprt", words), (b"wtpt", white), (b"kTRC", curve)], 128 + 4 + 4 * 12, b"", b""
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at, len(data))
        at += len(data)
        body += data
    head = struct.pack(">I4sI4s4s4s", at, b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">iii", *(round(x * 65536) for x in (0.9642, 1.0, 0.8249)))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body
