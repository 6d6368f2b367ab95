import io
import os

import numpy as np
import pytest
from PIL import Image, ImageCms

from inference.pictures import FORMATS, Picture, contact_sheet, read_picture, resize_short_side, write_picture
from models.errors import PictureError

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_written_and_read_back(tmp_path, landscape, suffix):
    path = tmp_path / f"x{suffix}"
    write_picture(path, Picture(landscape))
    back = read_picture(path).frame
    assert back.shape == landscape.shape
    lossy = suffix in (".jpg", ".jpeg", ".webp")
    assert np.abs(back.astype(int) - landscape).mean() <= (6 if lossy else 0)


def test_16_bit_grey_keeps_its_tones(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    frame = read_picture(tmp_path / "x.png").frame
    np.testing.assert_array_equal(frame[0, :, 0], np.arange(256))


def test_16_bit_rgb_keeps_its_tones(tmp_path):
    import cv2

    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None].repeat(4, axis=0).repeat(3, axis=2)
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"x{suffix}"), ramp)
        frame = read_picture(tmp_path / f"x{suffix}").frame
        assert np.abs(frame[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, landscape, mode):
    image = Image.fromarray(landscape).convert("RGB")
    path = tmp_path / ("x.tif" if mode in ("CMYK", "YCbCr") else "x.png")
    image.convert(mode).save(path)
    picture = read_picture(path)
    assert picture.frame.dtype == np.uint8
    assert picture.alpha is None  # all of it opaque
    difference = np.abs(picture.frame.astype(int) - image.convert(mode).convert("RGB")).mean()
    assert difference < 2
    gray = mode in ("1", "L", "LA")
    assert (np.ptp(picture.frame, axis=2).max() == 0) == gray


def test_alpha_survives_png_webp_and_tiff(tmp_path, landscape):
    alpha = np.linspace(0, 255, landscape.shape[1]).astype(np.uint8)[None].repeat(landscape.shape[0], axis=0)
    for suffix in (".png", ".webp", ".tif"):
        write_picture(tmp_path / f"x{suffix}", Picture(landscape, alpha))
        np.testing.assert_array_equal(read_picture(tmp_path / f"x{suffix}").alpha, alpha)


def test_alpha_becomes_white_paper_where_the_format_has_none(tmp_path, landscape):
    alpha = np.zeros(landscape.shape[:2], np.uint8)
    write_picture(tmp_path / "x.bmp", Picture(np.zeros_like(landscape), alpha))
    assert (read_picture(tmp_path / "x.bmp").frame == 255).all()


def test_exif_orientation_is_applied(tmp_path, landscape):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(landscape).save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg").frame.shape == (landscape.shape[1], landscape.shape[0], 3)


def test_rgb_profile_is_kept_and_a_cmyk_ones_is_not_misused(tmp_path, landscape):
    write_picture(tmp_path / "x.jpg", Picture(landscape, None, SRGB))
    assert read_picture(tmp_path / "x.jpg").icc_profile == SRGB
    Image.fromarray(landscape).convert("CMYK").save(tmp_path / "c.tif", icc_profile=SRGB)  # wrong profile for CMYK
    assert read_picture(tmp_path / "c.tif").icc_profile is None


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("empty.jpg", b"", "is empty"),
        ("text.jpg", b"hello, I am text", "is not a picture"),
        ("page.png", b"<!doctype html><html></html>", "is not a picture"),
        ("vector.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture"),
    ],
)
def test_what_is_no_picture_is_named_and_said(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PictureError, match=f"{name} {message}"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_pictures_raise_nothing_but_picture_errors(landscape, tmp_path, picture_format):
    encoded = io.BytesIO()
    Image.fromarray(landscape).save(encoded, picture_format)
    data = encoded.getvalue()
    failures = 0
    for cut in np.linspace(1, len(data) - 1, 25).astype(int):
        (tmp_path / "x").write_bytes(data[:cut])
        try:
            read_picture(tmp_path / "x")
        except PictureError:
            failures += 1
    assert failures >= 20


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(PictureError, match=r"nothing\.jpg cannot be read: No such file"):
        read_picture(tmp_path / "nothing.jpg")
    with pytest.raises(PictureError, match="directory"):
        read_picture(tmp_path)


def test_a_decompression_bomb_is_refused_before_decoding_and_the_limit_can_be_raised(tmp_path):
    Image.new("1", (3000, 2000)).save(tmp_path / "bomb.png")
    with pytest.raises(PictureError, match=r"3000x2000 px, over the limit of 1000000 .*--max-pixels"):
        read_picture(tmp_path / "bomb.png", max_pixels=1_000_000)
    assert read_picture(tmp_path / "bomb.png", max_pixels=6_000_000).frame.shape == (2000, 3000, 3)


def test_writing_keeps_what_exists_unless_told_otherwise(tmp_path, landscape):
    path = tmp_path / "x.png"
    path.write_text("precious")
    with pytest.raises(PictureError, match="--overwrite"):
        write_picture(path, Picture(landscape), overwrite=False)
    assert path.read_text() == "precious"


def test_a_failed_write_leaves_the_old_file_and_no_leftovers(tmp_path, landscape, monkeypatch):
    path = tmp_path / "x.png"
    path.write_text("precious")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(PictureError, match="No space left"):
        write_picture(path, Picture(landscape))
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["x.png"]


def test_unknown_suffix_lists_those_known(tmp_path, landscape):
    with pytest.raises(PictureError, match=r'"\.gif"; one of \.jpg'):
        write_picture(tmp_path / "x.gif", Picture(landscape))


def test_resize_keeps_the_aspect(landscape):
    assert resize_short_side(landscape, 60).shape == (60, 80, 3)


def test_contact_sheet_holds_every_frame(landscape):
    red, blue = np.full((50, 50, 3), (255, 0, 0), np.uint8), np.full((20, 90, 3), (0, 0, 255), np.uint8)
    sheet = contact_sheet([[red, blue], [landscape]], [["a", "b"], ["c"]], cell_px=100)
    assert ((sheet == (255, 0, 0)).all(axis=2)).sum() == 100 * 100
    assert ((sheet == (0, 0, 255)).all(axis=2)).sum() == 100 * 22


def test_16_bit_grey_with_a_transparent_color_keeps_its_tones(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "x.png", transparency=0)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png").frame[0, :, 0], np.arange(256))


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiffs_are_scaled_by_their_range(tmp_path, white):
    ramp = np.linspace(0, white, 256).astype(np.float32)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "x.tif")
    assert np.abs(read_picture(tmp_path / "x.tif").frame[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_a_grey_profile_is_applied_and_not_written_into_an_rgb_file(tmp_path, landscape):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    gray = Image.fromarray(landscape).convert("LA")
    gray.putalpha(Image.fromarray(landscape[:, :, 0]))
    gray.save(tmp_path / "x.png", icc_profile=lab)
    picture = read_picture(tmp_path / "x.png")
    assert picture.icc_profile is None
    assert picture.alpha is not None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_profile_does_not_stop_a_healthy_picture(tmp_path, landscape, mode):
    Image.fromarray(landscape).convert(mode).save(tmp_path / "x.jpg", icc_profile=b"garbage" * 30)
    picture = read_picture(tmp_path / "x.jpg")
    assert picture.frame.shape == landscape.shape
    assert picture.icc_profile is None
