import dataclasses
import io
import os
import struct
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from allaprima.inference import pictures
from allaprima.inference.hdr import ToSdr, coded_as_srgb
from allaprima.inference.landscape import paint_landscape
from allaprima.inference.pictures import (
    FORMATS,
    Animation,
    Picture,
    contact_sheet,
    decode_picture,
    picture_of,
    read_animation,
    read_picture,
    resize_short_side,
    sort_files,
    write_animation,
    write_picture,
)
from allaprima.models.errors import PictureError


def gray_profile(gamma):
    """A gray profile with a power curve."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    tags = struct.pack(">I4sII4sII", 2, b"wtpt", 156, len(white), b"kTRC", 156 + len(white), len(curve))
    header = struct.pack(">I4sI4s4s4s", 156 + len(white) + len(curve), bytes(4), 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    return header + tags + white + curve


LINEAR_GRAY = gray_profile(1.0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_is_written_and_read_back(tmp_path, landscape, suffix):
    path = tmp_path / f"x{suffix}"
    write_picture(path, Picture(landscape))
    back = read_picture(path).frame
    assert back.shape == landscape.shape
    lossy = suffix in (".jpg", ".jpeg", ".webp", ".avif", ".gif")
    assert np.abs(back.astype(int) - landscape).mean() <= (6 if lossy else 0)


def test_16_bit_rgb_keeps_its_tones(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None].repeat(4, axis=0).repeat(3, axis=2)
    for suffix in (".png", ".tif"):
        cv2.imwrite(str(tmp_path / f"x{suffix}"), ramp)
        frame = read_picture(tmp_path / f"x{suffix}").frame
        assert np.abs(frame[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA", "RGBA", "YCbCr"])
def test_every_mode_is_converted_to_rgb(tmp_path, landscape, mode):
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


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 0, 255)])
def test_hidden_parts_become_white_and_half_transparent_ones_keep_their_color(tmp_path, landscape, hidden):
    alpha = np.array([0, 1, 40, 128, 254, 255], np.uint8)[np.arange(landscape.shape[1]) % 6][None].repeat(120, axis=0)
    pixels = np.dstack([np.where(alpha[:, :, None] > 0, landscape, np.uint8(hidden)), alpha])
    Image.fromarray(pixels).save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    on_white = landscape * (alpha[:, :, None] / 255.0) + 255.0 - alpha[:, :, None]
    assert np.abs(picture.frame - on_white).max() <= 0.5 + 1e-9
    for suffix in (".png", ".webp", ".tif", ".gif", ".bmp", ".jpg"):  # the last two show white instead of transparency
        write_picture(tmp_path / f"y{suffix}", picture)
        back = read_picture(tmp_path / f"y{suffix}")
        if suffix in (".png", ".tif"):
            assert np.abs(back.frame.astype(int) - picture.frame).max() <= 1
            written = np.asarray(Image.open(tmp_path / f"y{suffix}"))[:, :, :3].astype(int)
            assert np.abs(written - landscape)[alpha >= 128].max() <= 1
            assert (written[alpha == 0] == 255).all()
        elif suffix == ".bmp":
            assert back.alpha is None
            np.testing.assert_array_equal(back.frame, picture.frame)


def test_16_bits_are_written_without_the_white_background(tmp_path):
    alpha = np.full((4, 4), 51, np.uint8)  # an opacity of 1/5
    frame = np.full((4, 4, 3), 65535 - 20000 // 5, np.uint16)
    write_picture(tmp_path / "x.png", Picture(frame, alpha))
    pixels = cv2.imread(str(tmp_path / "x.png"), cv2.IMREAD_UNCHANGED)
    assert np.abs(pixels[:, :, :3].astype(int) - 45535).max() <= 1
    assert (pixels[:, :, 3] == 51 * 257).all()


def test_exif_orientation_is_applied(tmp_path, landscape):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(landscape).save(tmp_path / "x.jpg", exif=exif)
    assert read_picture(tmp_path / "x.jpg").frame.shape == (landscape.shape[1], landscape.shape[0], 3)


def test_an_rgb_profile_is_kept_but_not_for_a_cmyk_picture(tmp_path, landscape):
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
def test_what_is_not_a_picture_is_named_and_explained(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(PictureError, match=f"{name} {message}"):
        read_picture(tmp_path / name)


@pytest.mark.parametrize("picture_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
def test_truncated_pictures_raise_only_picture_errors(landscape, tmp_path, picture_format):
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


@pytest.mark.skipif(os.name != "posix", reason="pipes and links with names")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (os.mkfifo, "is empty"),  # nothing writes to it
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
        (lambda path: (path.touch(), os.truncate(path, 2**43)), "is not a picture"),  # 8 TB of zeros
    ],
)
def test_what_would_be_read_forever_is_refused_at_once(tmp_path, make, message):
    make(tmp_path / "x.jpg")
    with pytest.raises(PictureError, match=rf"x\.jpg {message}"):
        read_picture(tmp_path / "x.jpg")


@pytest.mark.skipif(os.name != "posix", reason="a pipe with a name")
def test_a_picture_comes_through_a_pipe(photo):
    read, write = os.pipe()
    os.write(write, photo.read_bytes())  # fits into a pipe's buffer
    os.close(write)
    assert read_picture(f"/dev/fd/{read}").frame.shape == (120, 160, 3)
    os.close(read)


def test_a_decompression_bomb_is_refused_before_decoding_and_the_limit_can_be_raised(tmp_path):
    Image.new("1", (3000, 2000)).save(tmp_path / "bomb.png")
    with pytest.raises(PictureError, match=r"3000x2000 px, over the limit of 1000000 .*--max-pixels"):
        read_picture(tmp_path / "bomb.png", max_pixels=1_000_000)
    assert read_picture(tmp_path / "bomb.png", max_pixels=6_000_000).frame.shape == (2000, 3000, 3)


def test_a_picture_that_does_not_fit_into_memory_is_refused_before_decoding(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "free_bytes", lambda: 2**28)
    Image.new("1", (6000, 5000)).save(tmp_path / "x.png")
    with pytest.raises(
        PictureError, match=r"6000x5000 px, for which about 0\.7 GB are needed, 0\.2 GB are free; make it smaller"
    ):
        read_picture(tmp_path / "x.png")
    monkeypatch.setattr(pictures, "free_bytes", lambda: 2**30)
    assert read_picture(tmp_path / "x.png").frame.shape == (5000, 6000, 3)


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


def test_an_unknown_suffix_lists_the_known_ones(tmp_path, landscape):
    with pytest.raises(PictureError, match=r'"\.psd"; one of \.jpg'):
        write_picture(tmp_path / "x.psd", Picture(landscape))


def test_resize_keeps_the_aspect(landscape):
    assert resize_short_side(landscape, 60).shape == (60, 80, 3)


def test_contact_sheet_holds_every_frame(landscape):
    red, blue = np.full((50, 50, 3), (255, 0, 0), np.uint8), np.full((20, 90, 3), (0, 0, 255), np.uint8)
    sheet = contact_sheet([[red, blue], [landscape]], [["a", "b"], ["c"]], cell_px=100)
    assert ((sheet == (255, 0, 0)).all(axis=2)).sum() == 100 * 100
    assert ((sheet == (0, 0, 255)).all(axis=2)).sum() == 100 * 22


@pytest.mark.parametrize("transparent", [None, 0, 257 * 200])
def test_16_bit_gray_keeps_its_tones_and_transparency(tmp_path, transparent):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(4, axis=0)
    options = {} if transparent is None else {"transparency": transparent}
    Image.fromarray(ramp).save(tmp_path / "x.png", **options)
    picture = read_picture(tmp_path / "x.png")
    tones = np.arange(256)
    if transparent is None:
        assert picture.alpha is None
    else:
        assert (picture.alpha[0] == 0).nonzero()[0].tolist() == [transparent // 257]
        tones[transparent // 257] = 255
    np.testing.assert_array_equal(picture.frame[0, :, 0], tones)


@pytest.mark.parametrize(("low", "high"), [(-(2**30), 2**30), (0, 2**20), (0, 1000)])
def test_32_bit_gray_is_scaled_by_its_own_range(tmp_path, low, high):
    ramp = np.linspace(low, high, 256).astype(np.int32)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "x.tif")
    assert np.abs(read_picture(tmp_path / "x.tif").frame[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
def test_float_tiffs_are_scaled_by_their_range(tmp_path, white):
    ramp = np.linspace(0, white, 256).astype(np.float32)[None].repeat(4, axis=0)
    Image.fromarray(ramp).save(tmp_path / "x.tif")
    assert np.abs(read_picture(tmp_path / "x.tif").frame[0, :, 0].astype(int) - np.arange(256)).max() <= 1


def test_a_gray_profile_is_applied_alike_in_8_and_16_bits(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(4, axis=0)
    for name, pixels in (("8.png", ramp), ("16.png", ramp.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(tmp_path / name, icc_profile=LINEAR_GRAY)
    shallow, deep = (read_picture(tmp_path / name) for name in ("8.png", "16.png"))
    np.testing.assert_array_equal(shallow.frame, deep.frame)
    assert shallow.frame[0, 64, 0] > 120  # linear light of 1/4
    assert shallow.icc_profile is deep.icc_profile is None


@pytest.mark.parametrize(
    ("gamma", "srgb", "expected"), [(1.0, False, 137), (0.45455, False, 64), (1.0, True, 64), (0.0, False, 64)]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_a_png_with_a_gamma_is_read_as_browsers_show_it(tmp_path, mode, gamma, srgb, expected):
    pixels = np.full((4, 4), 64, np.uint8)
    image = Image.fromarray(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    info = PngInfo()
    info.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    if srgb:
        info.add(b"sRGB", b"\0")
    image.save(tmp_path / "x.png", pnginfo=info)
    assert (read_picture(tmp_path / "x.png").frame == expected).all()


MODES = {
    "1": "png",
    "L": "png",
    "LA": "png",
    "P": "png",
    "RGB": "webp",
    "RGBA": "png",
    "CMYK": "tif",
    "I;16": "png",
    "F": "tif",
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("profile", [None, SRGB, b"nonsense"])
def test_every_mode_is_turned_upright_with_any_profile(tmp_path, landscape, mode, profile):
    image = Image.fromarray(landscape)
    gray = np.asarray(image.convert("L"))
    if mode == "I;16":
        image = Image.fromarray(gray.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(gray.astype(np.float32) / 255.0) if mode == "F" else image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"x.{MODES[mode]}"
    image.save(
        path, exif=exif, **({"icc_profile": profile} if profile else {}), **({"lossless": True} if mode == "RGB" else {})
    )
    frame = read_picture(path).frame
    expected = np.rot90(gray if mode in ("I;16", "F") else np.asarray(image.convert("L")), -1)
    assert frame.shape == (160, 120, 3)
    assert np.abs(np.asarray(Image.fromarray(frame).convert("L")).astype(int) - expected).mean() < 2


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif", ".avif"])
def test_metadata_about_the_photo_is_kept_but_not_about_its_storage(tmp_path, landscape, suffix):
    exif = Image.Exif()
    exif[0x0112], exif[271], exif[306] = 6, "Maker", "2026:11:27 12:00:00"
    exif[0x8769] = {36867: "2026:11:27 12:00:00", 37500: b"notes with addresses"}
    exif[0x8825] = {1: "N", 2: (59.0, 54.0, 0.0)}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6">title</a></x:xmpmeta>'
    options = {"xmp": xmp}
    if suffix == ".tif":
        options = {"tiffinfo": {**dict(exif.items()), 700: xmp}}
    if suffix == ".png":
        options = {"pnginfo": PngInfo()}
        options["pnginfo"].add_itxt("XML:com.adobe.xmp", xmp.decode())
    Image.fromarray(landscape).save(tmp_path / f"x{suffix}", **{"exif": exif, "dpi": (300, 300), **options})
    picture = read_picture(tmp_path / f"x{suffix}")
    write_picture(tmp_path / f"y{suffix}", picture)
    with Image.open(tmp_path / f"y{suffix}") as image:
        assert image.size == (120, 160)
        found = image.getexif()
        assert (found[271].rstrip("\0"), found.get(0x0112, 1)) == ("Maker", 1)
        camera, place = found.get_ifd(0x8769), found.get_ifd(0x8825)
        assert (camera[36867].rstrip("\0"), 37500 in camera) == ("2026:11:27 12:00:00", False)
        assert tuple(map(float, place[2])) == (59.0, 54.0, 0.0)
        kept = image.info["xmp"]
        kept = kept.encode() if isinstance(kept, str) else kept
        assert b"title" in kept
        assert b'Orientation="6"' not in kept
        if suffix in (".jpg", ".png", ".tif"):
            assert round(float(image.info["dpi"][0])) == 300


def test_damaged_or_too_long_metadata_is_left_out(tmp_path, landscape):
    Image.fromarray(landscape).save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", dpi=(300, 0))
    picture = read_picture(tmp_path / "x.png")
    assert picture.about == {}
    write_picture(tmp_path / "y.jpg", dataclasses.replace(picture, about={"xmp": b"x" * 70_000}))
    assert read_picture(tmp_path / "y.jpg").about == {}


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".avif", ".tif"])
def test_animations_and_pages_are_read_and_written_completely(tmp_path, landscape, suffix):
    frames = [np.roll(landscape, 20 * i, axis=1) for i in range(3)]
    images, times = [Image.fromarray(frame) for frame in frames], {"duration": [100, 250, 3000], "loop": 2}
    lossless = {"lossless": True} if suffix == ".webp" else {}
    images[0].save(
        tmp_path / f"x{suffix}", save_all=True, append_images=images[1:], **({} if suffix == ".tif" else times), **lossless
    )
    assert read_picture(tmp_path / f"x{suffix}").later == 2
    animation = read_animation(tmp_path / f"x{suffix}")
    write_animation(tmp_path / f"y{suffix}", animation)
    again = read_animation(tmp_path / f"y{suffix}")
    for found in (animation, again):
        for picture, frame in zip(found.pictures, frames, strict=True):
            assert np.abs(picture.frame.astype(int) - frame).mean() < 6
    assert again.moving == (suffix != ".tif")
    if again.moving:
        assert again.durations_ms == [100, 250, 3000]
    if suffix in (".gif", ".webp", ".png"):
        assert again.loop == (3 if suffix == ".gif" else 2)  # a GIF counts repeats, not plays


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
@pytest.mark.parametrize("loop", [0, 1, 5])
def test_an_animation_is_played_as_often_as_before_in_every_format(tmp_path, landscape, suffix, loop):
    pictures = [Picture(landscape[:16, :16]), Picture(landscape[-16:, :16])]
    write_animation(tmp_path / f"x{suffix}", Animation(pictures, [100.0, 100.0], loop))
    assert read_animation(tmp_path / f"x{suffix}").loop == loop
    if suffix == ".gif":
        with Image.open(tmp_path / "x.gif") as image:
            assert image.info.get("loop") == {0: 0, 1: None, 5: 4}[loop]


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png", ".avif"])
def test_pages_of_several_sizes_are_refused_by_formats_that_need_one_size(tmp_path, landscape, suffix):
    path = tmp_path / f"x{suffix}"
    with pytest.raises(PictureError, match=r"holds pictures of one size, not of 2; give a \.tif"):
        write_animation(path, Animation([Picture(landscape), Picture(landscape[:50])], [0.0, 0.0], moving=False))
    assert not path.exists()


def test_smaller_copies_in_a_tiff_and_a_phones_depth_map_are_not_pages(tmp_path, landscape):
    image = Image.fromarray(landscape)
    small = image.resize((40, 30))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(tmp_path / "x.tif", save_all=True, append_images=[small])
    image.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[small])
    for name in ("x.tif", "x.jpg"):
        picture = read_picture(tmp_path / name)
        assert (picture.later, picture.frame.shape) == (0, landscape.shape)


def test_a_heic_photo_is_read_or_the_missing_package_is_named(tmp_path, landscape, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(landscape)).save(tmp_path / "x.heic", quality=95)
    assert np.abs(read_picture(tmp_path / "x.heic").frame.astype(int) - landscape).mean() < 6
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(PictureError, match=r"x\.heic is a HEIC picture.*pip install pillow-heif"):
        read_picture(tmp_path / "x.heic")


def test_linked_folders_are_searched_once_and_other_files_are_counted(tmp_path):
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("a/1.jpg", "a/deep/2.PNG", "a/notes.txt", "a/more.txt", "a/raw.cr2", "a/LICENSE", "elsewhere/3.heic"):
        (tmp_path / name).touch()
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a" / "deep" / "up").symlink_to(tmp_path / "a")
    paths, others = sort_files(tmp_path / "a")
    assert [path.relative_to(tmp_path / "a").as_posix() for path in paths] == ["1.jpg", "deep/2.PNG", "linked/3.heic"]
    assert others == {".txt": 2, ".cr2": 1, "no suffix": 1}


def test_an_unreadable_folder_is_listed_like_a_file_that_will_fail(tmp_path, monkeypatch):
    (tmp_path / "b.jpg").touch()
    (tmp_path / "a").mkdir()
    scandir = os.scandir

    def locked(path):  # the tests may run as root
        if os.path.basename(path) == "a":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert sort_files(tmp_path)[0] == [tmp_path / "a", tmp_path / "b.jpg"]


def test_a_links_target_is_written_and_the_longest_names_work(tmp_path, landscape):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "real" / "x.png")
    write_picture(tmp_path / "link.png", Picture(landscape))
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real" / "x.png").is_file()
    longest = tmp_path / ("\N{WATER WAVE}" * 62 + ".png")
    write_picture(longest, Picture(landscape))
    assert longest.is_file()


def test_a_gray_profile_is_applied_and_not_written_into_an_rgb_file(tmp_path, landscape):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    gray = Image.fromarray(landscape).convert("LA")
    gray.putalpha(Image.fromarray(landscape[:, :, 0]))
    gray.save(tmp_path / "x.png", icc_profile=lab)
    picture = read_picture(tmp_path / "x.png")
    assert picture.icc_profile is None
    assert picture.alpha is not None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_profile_does_not_stop_an_intact_picture(tmp_path, landscape, mode):
    Image.fromarray(landscape).convert(mode).save(tmp_path / "x.jpg", icc_profile=b"garbage" * 30)
    picture = read_picture(tmp_path / "x.jpg")
    assert picture.frame.shape == landscape.shape
    assert picture.icc_profile is None


@pytest.mark.parametrize(("suffix", "most"), [(".jpg", 65500), (".gif", 65535), (".avif", 65535), (".webp", 16383)])
def test_a_side_that_a_format_cannot_hold_is_named(tmp_path, suffix, most):
    with pytest.raises(PictureError, match=rf"holds at most {most} px a side, not 69920x3; use \.png or \.tif"):
        write_picture(tmp_path / f"wide{suffix}", Picture(np.zeros((3, 69920, 3), np.uint8)))
    assert not list(tmp_path.iterdir())
    write_picture(tmp_path / "wide.png", Picture(np.zeros((3, 69920, 3), np.uint8)))


def test_a_png_with_damaged_text_is_read_but_not_with_a_damaged_header(tmp_path):
    frame, words = paint_landscape(20, 30), PngInfo()
    words.add_text("Comment", "a" * 50)
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", pnginfo=words)
    data = file.getvalue()
    at = data.index(b"tEXt") + 20
    np.testing.assert_array_equal(decode_picture(data[:at] + b"b" + data[at + 1 :], "x.png").frame, frame)
    at = data.index(b"IHDR") + 7
    with pytest.raises(PictureError):
        decode_picture(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :], "x.png")


def test_a_damaged_png_larger_than_memory_is_refused_and_not_read(tmp_path):
    path = tmp_path / "huge.png"
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + bytes(20))
        file.truncate(2**42)  # a sparse file takes no disk space
    with pytest.raises(PictureError, match="is not a picture"):
        read_picture(path)


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:GCamera="http://ns.google.com/photos/1.0/camera/" xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"
 xmlns:Container="http://ns.google.com/photos/1.0/container/" xmlns:Item="http://ns.google.com/photos/1.0/container/item/"
 GCamera:MotionPhoto="1" GCamera:MicroVideo='1' hdrgm:Version="1.0" dc:title="Kept"><Container:Directory><rdf:Seq><rdf:li>
<Container:Item Item:Semantic="MotionPhoto" Item:Length="4096"/></rdf:li></rdf:Seq></Container:Directory>
<GCamera:MotionPhotoVersion>1</GCamera:MotionPhotoVersion></rdf:Description></rdf:RDF></x:xmpmeta>"""


def test_the_paintings_metadata_does_not_mention_the_photos_video_or_gain_map(tmp_path):
    file = io.BytesIO()
    Image.fromarray(paint_landscape(20, 30)).save(file, "JPEG", xmp=XMP)
    write_picture(tmp_path / "painting.jpg", decode_picture(file.getvalue(), "x.jpg"))
    with Image.open(tmp_path / "painting.jpg") as image:
        xmp = image.info["xmp"]
    for gone in (b"Motion", b"MicroVideo", b"hdrgm:Version", b"4096"):
        assert gone not in xmp
    assert b'dc:title="Kept"' in xmp
    assert xmp.count(b"<") == xmp.count(b">")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_width_and_height_in_the_metadata_turn_with_the_picture(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    exif.get_ifd(34665).update({40962: 30, 40963: 20})
    file = io.BytesIO()
    Image.fromarray(paint_landscape(20, 30)).save(file, "JPEG", exif=exif, dpi=(100, 200))
    picture = decode_picture(file.getvalue(), "x.jpg")
    write_picture(tmp_path / "painting.jpg", picture)
    with Image.open(tmp_path / "painting.jpg") as image:
        ifd = image.getexif().get_ifd(34665)
        assert (ifd[40962], ifd[40963]) == image.size == picture.frame.shape[1::-1]
        assert image.info["dpi"] == ((200, 100) if orientation in (6, 8) else (100, 200))


def tiff_of_pages(path, *pages, **more):
    """A TIFF of (gray level, subfile kind) pages, 20x30, or 10x15 for kind 1."""
    with tifffile.TiffWriter(path) as writer:
        for i, (level, kind) in enumerate(pages):
            shape = (10, 15) if kind & 1 else (20, 30)
            tags = more.get("extratags", []) if i == 0 else []
            levels = np.full(shape, level, np.uint8) if kind != 4 else np.full(shape, level > 127, bool)
            writer.write(
                levels,
                photometric="minisblack",
                subfiletype=kind,
                metadata=None,
                extratags=tags,
                subifds=more.get("subifds", 0) if i == 0 else None,
            )
        for _ in range(more.get("subifds", 0)):
            writer.write(np.full((40, 60), 9, np.uint8), photometric="minisblack", metadata=None)


@pytest.mark.parametrize(
    ("pages", "levels"),
    [
        ([(10, 1), (50, 0)], [50]),  # the small copy comes first
        ([(50, 0), (10, 1), (90, 0), (10, 1)], [50, 90]),
        ([(50, 0), (255, 4), (90, 0)], [50, 90]),  # a mask is not a page
        ([(10, 1)], [10]),
    ],
)
def test_small_copies_and_masks_are_not_pages(tmp_path, pages, levels):
    tiff_of_pages(tmp_path / "x.tif", *pages)
    assert [int(each.frame[0, 0, 0]) for each in read_animation(tmp_path / "x.tif").pictures] == levels
    first = read_picture(tmp_path / "x.tif")
    assert (int(first.frame[0, 0, 0]), first.later) == (levels[0], len(levels) - 1)


@pytest.mark.parametrize(
    "more", [{"subifds": 1}, {"extratags": [(50706, "B", 4, (1, 4, 0, 0), True)]}], ids=["small copy, raw beside", "DNG"]
)
def test_a_cameras_raw_file_is_refused_instead_of_reading_its_preview(tmp_path, more):
    tiff_of_pages(tmp_path / "x.tif", (10, 1), **more)
    with pytest.raises(PictureError, match="is a camera's raw file; make a JPEG or TIFF of it"):
        read_picture(tmp_path / "x.tif")


def test_an_avif_with_the_most_general_brand_is_read_as_avif(tmp_path, landscape):
    Image.fromarray(landscape).save(tmp_path / "x.avif", quality=95)
    data = bytearray((tmp_path / "x.avif").read_bytes())
    size = int.from_bytes(data[:4], "big")
    assert b"avif" in data[16:size]
    data[8:12] = b"mif1"
    assert np.abs(decode_picture(bytes(data), "x").frame.astype(int) - landscape).mean() < 8


def test_premultiplied_gray_is_read(landscape):
    picture = picture_of(Image.fromarray(landscape).convert("LA").convert("La"))
    assert picture.frame.shape == landscape.shape


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0, "restart_marker_blocks": 4}, {"quality": 30}]
)
@pytest.mark.parametrize("size", [(64, 64), (120, 161)])
def test_a_jpeg_without_its_end_marker_is_read_but_not_if_more_is_missing(tmp_path, options, size):
    path = tmp_path / "x.jpg"
    Image.fromarray(paint_landscape(*size)).save(path, **options)
    data, whole = path.read_bytes(), read_picture(path)
    assert data.endswith(b"\xff\xd9")
    assert whole.note == ""
    path.write_bytes(data[:-2])
    found = read_picture(path)
    assert np.array_equal(found.frame, whole.frame)
    if "restart_marker_blocks" not in options:  # Pillow reads some of those without complaint
        assert "the mark of the file's end is missing" in found.note
    for lost in (12, 100, len(data) // 3):
        path.write_bytes(data[:-lost])
        with pytest.raises(PictureError, match="is damaged"):
            read_picture(path)


def test_a_jpeg_of_an_unsupported_kind_is_named_as_such(tmp_path, landscape):
    path = tmp_path / "x.jpg"
    Image.fromarray(landscape).save(path)
    path.write_bytes(path.read_bytes().replace(b"\xff\xc0", b"\xff\xc3", 1))  # lossless
    with pytest.raises(PictureError, match="is a JPEG of a kind that is not read"):
        read_picture(path)


def test_a_png_with_more_text_than_pillows_limit_is_read(tmp_path, landscape):
    words = PngInfo()
    words.add_text("comment", "x" * 5_000_000, zip=True)
    Image.fromarray(landscape).save(tmp_path / "x.png", pnginfo=words)
    assert np.array_equal(read_picture(tmp_path / "x.png").frame, landscape)


@pytest.mark.parametrize(
    ("primaries", "transfer", "expected"),
    [
        (1, 13, (220, 40, 30)),
        (12, 13, (240, 0, 0)),  # Display P3
        (9, 13, (255, 0, 6)),  # BT.2020's primaries
    ],
)
def test_a_heic_picture_in_a_wide_gamut_is_converted_to_srgb(tmp_path, primaries, transfer, expected):
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 64), (220, 40, 30))
    coded = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 1, "full_range_flag": 1}
    heif.from_pillow(image).save(tmp_path / "x.heic", quality=100, **coded)
    assert np.abs(read_picture(tmp_path / "x.heic").frame[32, 32].astype(int) - expected).max() <= 8


@pytest.mark.parametrize("transfer", [16, 18])
def test_a_heic_picture_in_hdr_is_tone_mapped(tmp_path, transfer):
    heif = pytest.importorskip("pillow_heif")
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    coded = {"color_primaries": 9, "transfer_characteristics": transfer, "matrix_coefficients": 9, "full_range_flag": 1}
    heif.from_pillow(image).save(tmp_path / "x.heic", quality=100, **coded)
    found = read_picture(tmp_path / "x.heic").frame[32, 32].astype(int)
    wanted = ToSdr(transfer, 9)(np.full((1, 1, 3), 128, np.uint8))[0, 0].astype(int)
    assert np.abs(found - wanted).max() <= 4
    assert abs(int(found[0]) - 128) > 8


@pytest.mark.parametrize(("primaries", "transfer"), [(1, 13), (12, 13), (9, 16), (9, 18)])
def test_a_png_with_cicp_and_an_avif_with_nclx_are_converted_to_srgb(tmp_path, primaries, transfer):
    image = Image.new("RGB", (64, 64), (120, 90, 60))
    data = io.BytesIO()
    image.save(data, "PNG")
    chunk = b"cICP" + bytes([primaries, transfer, 0, 1])
    after_header = 8 + 25
    png = data.getvalue()[:after_header] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    found = {"png": decode_picture(png + data.getvalue()[after_header:], "x").frame}
    image.save(tmp_path / "x.avif", quality=100)
    avif = bytearray((tmp_path / "x.avif").read_bytes())
    at = avif.index(b"colrnclx") + 8
    avif[at : at + 4] = struct.pack(">HH", primaries, transfer)
    found["avif"] = decode_picture(bytes(avif), "x").frame
    expected = coded_as_srgb(np.asarray(image), primaries, transfer)
    for frame in found.values():
        assert np.abs(frame.astype(int) - expected).max() <= 6
