import itertools
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from allaprima.inference import pictures
from allaprima.inference.options import StylizeOptions
from allaprima.inference.painter import FilmPainter, paint_photo, paint_where
from allaprima.inference.pictures import FORMATS, read_animation, read_picture
from allaprima.inference.style.session import StyleSession
from allaprima.inference.stylize import Job, make_folder, plan_jobs, read_mask, run_jobs
from allaprima.models.errors import PictureError

ROOT = Path(__file__).resolve().parents[2]


def test_a_photo_of_a_kind_that_is_not_written_yields_its_name_to_one_that_is(tmp_path, landscape):
    for name in ("IMG_1.jfif", "IMG_1.png", "IMG_2.jfif"):
        Image.fromarray(landscape).save(tmp_path / name, "PNG" if name.endswith("png") else "JPEG")
    said = []
    jobs = plan_jobs([str(tmp_path)], str(tmp_path / "out"), "wave", said.append)
    assert [(job.source.name, job.destination.name) for job in jobs] == [
        ("IMG_1.jfif", "IMG_1.jfif.png"),
        ("IMG_1.png", "IMG_1.png"),
        ("IMG_2.jfif", "IMG_2.png"),
    ]
    assert len(said) == 1
    assert "IMG_1.jfif becomes IMG_1.jfif.png" in said[0]


def test_strength_0_is_the_photo_and_1_the_painting(style_file, landscape):
    session = StyleSession(style_file)
    np.testing.assert_array_equal(paint_photo(session, landscape, StylizeOptions(strength=0.0)), landscape)
    np.testing.assert_array_equal(paint_photo(session, landscape, StylizeOptions()), session.stylize(landscape))


def test_max_side_paints_small_and_returns_the_photos_size(style_file, landscape, monkeypatch):
    session = StyleSession(style_file)
    sizes = []
    paint = session.stylize
    monkeypatch.setattr(session, "stylize", lambda frame, progress: (sizes.append(frame.shape), paint(frame))[1])
    assert paint_photo(session, landscape, StylizeOptions(max_side_px=80)).shape == landscape.shape
    assert paint_photo(session, landscape, StylizeOptions(max_side_px=999)).shape == landscape.shape
    assert sizes == [(60, 80, 3), (120, 160, 3)]


def test_results_are_named_after_photo_and_style(tmp_path):
    (tmp_path / "trip" / "day1").mkdir(parents=True)
    for name in ("trip/a.jpg", "trip/day1/b.png", "trip/notes.txt", "c.jpeg"):
        (tmp_path / name).touch()
    jobs = plan_jobs([str(tmp_path / "trip"), str(tmp_path / "c.jpeg")], None, "wave")
    assert [job.destination.relative_to(tmp_path).as_posix() for job in jobs] == [
        "trip_wave/a.jpg",
        "trip_wave/day1/b.png",
        "c_wave.jpeg",
    ]


def test_an_output_folder_keeps_the_structure(tmp_path):
    (tmp_path / "trip" / "day1").mkdir(parents=True)
    (tmp_path / "trip" / "day1" / "b.png").touch()
    [job] = plan_jobs([str(tmp_path / "trip")], str(tmp_path / "out"), "wave")
    assert job.destination == tmp_path / "out" / "day1" / "b.png"


def test_globs_are_expanded(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.png"):
        (tmp_path / name).touch()
    assert [job.source.name for job in plan_jobs([str(tmp_path / "*.jpg")], None, "wave")] == ["a.jpg", "b.jpg"]


def test_an_existing_name_with_brackets_is_not_a_glob(tmp_path):
    (tmp_path / "a[1].jpg").touch()
    assert [job.source.name for job in plan_jobs([str(tmp_path / "a[1].jpg")], None, "wave")] == ["a[1].jpg"]


def test_two_photos_with_the_same_result_are_refused(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jpg").touch()
    with pytest.raises(PictureError, match="would both become"):
        plan_jobs([str(tmp_path / "x" / "a.jpg"), str(tmp_path / "y" / "a.jpg")], str(tmp_path / "out"), "wave")


def test_one_output_file_for_several_photos_is_refused(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(PictureError, match="give a folder"):
        plan_jobs([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")], "out.jpg", "wave")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(PictureError, match="no pictures found"):
        plan_jobs([str(tmp_path)], None, "wave")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_goes_through_the_command(run, tmp_path, style_file, landscape, suffix):
    Image.fromarray(landscape).save(tmp_path / f"x{suffix}")
    code, out, _ = run("stylize", tmp_path / f"x{suffix}", "--style", style_file)
    assert code == 0
    assert out.strip() == str(tmp_path / f"x_strokes{suffix}")
    assert read_picture(tmp_path / f"x_strokes{suffix}").frame.shape == landscape.shape


def test_size_orientation_alpha_and_profile_of_the_photo_are_kept(run, tmp_path, style_file, landscape):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    alpha = np.arange(160, dtype=np.uint8)[None].repeat(120, axis=0)
    exif = Image.Exif()
    exif[0x0112] = 8
    image = Image.fromarray(landscape)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / "x.png", exif=exif, icc_profile=profile)
    assert run("stylize", tmp_path / "x.png", "-s", style_file, "-o", tmp_path / "y.png")[0] == 0
    picture = read_picture(tmp_path / "y.png")
    assert picture.frame.shape == (160, 120, 3)
    np.testing.assert_array_equal(picture.alpha, np.rot90(alpha))
    assert picture.icc_profile == profile


def test_what_is_hidden_does_not_change_the_painting(style_file, tmp_path, landscape):
    alpha = np.zeros((120, 160), np.uint8)
    alpha[30:90, 40:120] = 255
    jobs = []
    for name, color in (("black", (0, 0, 0)), ("magenta", (255, 0, 255))):
        pixels = np.where(alpha[:, :, None] > 0, landscape, np.uint8(color))
        Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / f"{name}.png")
        jobs.append(Job(tmp_path / f"{name}.png", tmp_path / f"{name}_painted.png"))
    assert all(error is None for _, error in run_jobs(jobs, StyleSession(style_file), StylizeOptions(keep_color="histogram")))
    assert jobs[0].destination.read_bytes() == jobs[1].destination.read_bytes()


def test_animations_are_painted_frame_by_frame_or_refused_by_the_format(run, tmp_path, style_file, landscape, half_mask):
    images = [Image.fromarray(np.roll(landscape, 20 * i, axis=1)) for i in range(3)]
    images[0].save(tmp_path / "x.webp", save_all=True, append_images=images[1:], duration=[100, 200, 300], lossless=True)
    images[0].save(tmp_path / "pages.tif", save_all=True, append_images=[*images[1:], images[0].resize((40, 30))])
    code, out, _ = run("stylize", tmp_path / "x.webp", tmp_path / "pages.tif", "-s", style_file, "--mask", half_mask)
    assert code == 0
    moving, pages = (read_animation(Path(line)) for line in out.split())
    assert moving.durations_ms == [100, 200, 300]
    session = StyleSession(style_file)
    film = FilmPainter(session, StylizeOptions())
    for i, image in enumerate(images):
        frame = np.asarray(image)
        white = paint_where(read_mask(str(half_mask)), film.finish(frame, film.stylize(frame), 0.0), frame)
        assert np.abs(moving.pictures[i].frame.astype(int) - white).mean() < 6
        white = paint_where(read_mask(str(half_mask)), session.stylize(frame), frame)
        np.testing.assert_array_equal(pages.pictures[i].frame, white)
    assert [picture.frame.shape for picture in pages.pictures][3] == (30, 40, 3)
    code, _, err = run("stylize", tmp_path / "x.webp", "-s", style_file, "-o", tmp_path / "y.jpg")
    assert code == 1
    assert "y.jpg holds one picture, not 3; give one of .png" in err
    code, _, err = run("stylize", tmp_path / "x.webp", "-s", style_file, "--max-pixels", 40_000, "-o", tmp_path / "y.gif")
    assert code == 1
    assert "holds 3 pictures of 160x120 px, together over the limit of 40000 pixels" in err


def test_files_left_out_of_a_folder_are_reported(run, tmp_path, style_file, photo):
    for name in ("a.txt", "b.txt", "c.xmp"):
        (tmp_path / name).touch()
    code, _, err = run("stylize", tmp_path, "-s", style_file, "-o", tmp_path / "out", "--match-luminance")
    assert code == 0
    assert "3 files are no pictures by their names and are left out: 2 .txt, 1 .xmp" in err
    assert "--match-luminance changes nothing without --keep-color luminance" in err


@pytest.mark.parametrize("options", [["", "-s", "x"], ["a.png", "-s", ""], ["a.png", "-s", "x", "--output="]])
def test_an_empty_argument_is_refused(run, tmp_path, monkeypatch, landscape, options):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(landscape).save("a.png")
    with pytest.raises(SystemExit) as stop:
        run("stylize", *options)
    assert stop.value.code == 2
    assert os.listdir() == ["a.png"]


@pytest.mark.parametrize("mode", ["none", "luminance", "histogram", "linear"])
def test_every_color_mode_goes_through_the_command(run, photo, style_file, mode):
    out = photo.with_name(f"{mode}.png")
    assert run("stylize", photo, "-s", style_file, "--keep-color", mode, "-o", out, "--strength", "0.7")[0] == 0
    assert out.exists()


def test_one_bad_file_is_reported_and_the_rest_done(run, tmp_path, style_file, photo):
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    code, out, err = run("stylize", tmp_path / "bad.jpg", photo, "-s", style_file)
    assert code == 1
    assert "photo_strokes.png" in out
    assert "bad.jpg is not a picture" in err
    assert "1 of 2 pictures failed" in err


def test_files_are_not_overwritten_unless_asked(run, style_file, photo):
    out = photo.with_name("photo_strokes.png")
    out.write_text("precious")
    code, _, err = run("stylize", photo, "-s", style_file)
    assert code == 1
    assert "--overwrite" in err
    assert out.read_text() == "precious"
    assert run("stylize", photo, "-s", style_file, "--overwrite")[0] == 0
    assert read_picture(out).frame.shape == (120, 160, 3)


def test_a_photo_is_never_replaced_by_its_own_painting(run, style_file, photo):
    before = photo.read_bytes()
    code, _, err = run("stylize", photo, "-s", style_file, "-o", photo, "--overwrite")
    assert code == 1
    assert "is a photo to be painted and would be replaced" in err
    assert photo.read_bytes() == before


def test_an_output_folder_that_cannot_be_made_is_reported(run, style_file, photo):
    (photo.parent / "wall").write_text("a file")
    code, _, err = run("stylize", photo, "-s", style_file, "-o", photo.parent / "wall" / "out")
    assert code == 1
    assert "wall" in err
    assert err.count("\n") == 2  # the other line names the device


def test_a_bomb_is_refused_and_the_limit_can_be_raised(run, style_file, photo):
    code, _, err = run("stylize", photo, "-s", style_file, "--max-pixels", "100")
    assert code == 1
    assert "--max-pixels" in err
    assert not Path(photo.parent, "photo_strokes.png").exists()
    assert run("stylize", photo, "-s", style_file, "--max-pixels", 120 * 160)[0] == 0
    assert Path(photo.parent, "photo_strokes.png").exists()


def test_one_photos_result_never_replaces_another_photo(run, style_file, photo):
    other = photo.with_name("photo_strokes.png")
    other.write_bytes(photo.read_bytes())
    code, _, err = run("stylize", photo, other, "-s", style_file, "--overwrite")
    assert code == 1
    assert "photo_strokes.png is a photo to be painted" in err
    assert other.read_bytes() == photo.read_bytes()


def test_results_inside_the_folder_are_not_painted_again(tmp_path):
    (tmp_path / "out").mkdir()
    for name in ("a.jpg", "out/a.jpg"):
        (tmp_path / name).touch()
    jobs = plan_jobs([str(tmp_path)], str(tmp_path / "out"), "wave")
    assert [job.source.name for job in jobs] == ["a.jpg"]
    assert jobs[0].destination == tmp_path / "out" / "a.jpg"


def test_a_photo_named_twice_is_painted_once(tmp_path):
    (tmp_path / "a.jpg").touch()
    jobs = plan_jobs([str(tmp_path), str(tmp_path / "*.jpg")], str(tmp_path / "out"), "wave")
    assert len(jobs) == 1


def test_an_output_name_of_unknown_format_is_not_taken_for_a_folder(tmp_path):
    (tmp_path / "a.jpg").touch()
    with pytest.raises(PictureError, match=r"no format for \.psd"):
        plan_jobs([str(tmp_path / "a.jpg")], str(tmp_path / "b.psd"), "wave")


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_a_link_to_itself_does_not_stop_the_others(run, tmp_path, style_file, photo):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "b.png").symlink_to("b.png")
    code, out, err = run("stylize", tmp_path / "loop.png", photo, "-s", style_file)
    assert code == 1
    assert "photo_strokes.png" in out
    assert "loop.png cannot be read: Too many levels of symbolic links" in err
    code, _, err = run("video", tmp_path / "loop.png", "-s", style_file, "-o", tmp_path / "c.mp4")
    assert (code, err.count("\n")) == (1, 2)


def test_a_name_too_long_does_not_stop_the_others(run, tmp_path, style_file, photo):
    code, out, err = run("stylize", tmp_path / ("x" * 250 + ".png"), photo, "-s", style_file)
    assert code == 1
    assert "photo_strokes.png" in out
    assert "xxx" in err


def test_any_number_of_jobs_gives_the_same_files_in_the_same_order(run, tmp_path, style_file, photo_folder):
    (tmp_path / "trip").mkdir()
    for path in photo_folder.rglob("*.jpg"):
        (tmp_path / "trip" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "trip" / "2.jpg").write_bytes(b"nothing")
    painted = []
    for jobs in (1, 3, 50):
        out = tmp_path / f"out{jobs}"
        code, listed, err = run("stylize", tmp_path / "trip", "-s", style_file, "-o", out, "--jobs", jobs)
        assert code == 1
        assert "2.jpg is not a picture" in err
        assert [Path(line).name for line in listed.split()] == ["0.jpg", "1.jpg", "3.jpg", "4.jpg", "5.jpg"]
        painted.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert painted[0] == painted[1] == painted[2]


def test_photos_are_read_only_as_threads_become_free(tmp_path, style_file, photo, monkeypatch):
    from allaprima.inference import stylize

    most, active, lock = 0, 0, threading.Lock()

    def counted(path, max_pixels):
        nonlocal most, active
        with lock:
            active += 1
            most = max(most, active)
        return read_picture(path, max_pixels)

    def uncounted(*arguments):
        nonlocal active
        with lock:
            active -= 1

    monkeypatch.setattr(stylize, "read_picture", counted)
    monkeypatch.setattr(stylize, "write_picture", uncounted)
    taken = itertools.count()
    jobs = (Job(photo, tmp_path / f"{i}.png") for i in taken)
    session = StyleSession(style_file, shared=True)
    results = run_jobs(jobs, session, StylizeOptions(), at_once=3)
    names = [job.destination.name for job, error in itertools.islice(results, 60) if error is None]
    results.close()
    assert names == [f"{i}.png" for i in range(60)]
    assert 1 < most <= 3
    assert next(taken) < 60 + 8 * 3 + 2
    assert session.stylize(np.zeros((16, 16, 3), np.uint8)).shape == (16, 16, 3)  # closing did not stop the session


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_stops_soon_and_leaves_only_complete_files(tmp_path, style_file, photo):
    (tmp_path / "trip").mkdir()
    for i in range(500):
        (tmp_path / "trip" / f"{i:03}.png").write_bytes(photo.read_bytes())
    command = [sys.executable, "-m", "allaprima", "stylize", tmp_path / "trip", "-s", style_file, "-o", tmp_path / "out"]
    with subprocess.Popen([*map(str, command), "--jobs", "3"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "out" / "000.png").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read().endswith("allaprima: stopped\n")
    written = sorted((tmp_path / "out").iterdir())
    assert 1 <= len(written) < 500
    for path in written:
        assert path.suffix == ".png"
        read_picture(path)


def test_decoding_in_threads_does_not_change_pillows_settings_or_warnings(photo_folder):
    filters, limit = list(warnings.filters), Image.MAX_IMAGE_PIXELS
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(read_picture, [*photo_folder.rglob("*.jpg")] * 20))) == 120
    assert list(warnings.filters) == filters
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_broken_exif_block_prints_no_warning(tmp_path, landscape):
    Image.fromarray(landscape).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    code = "import sys; from inference.pictures import read_picture; read_picture(sys.argv[1])"
    process = subprocess.run([sys.executable, "-c", code, tmp_path / "x.jpg"], cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(tmp_path / "x.jpg"):
        pass  # Pillow itself warns


def test_pillows_own_limit_is_raised_with_ours(photo, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1000)
    for pillows in (1000, 12_000):  # Pillow refuses above twice its limit and warns above it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        with pytest.raises(PictureError, match=r"over the limit of 1000 pixels; .*--max-pixels"):
            read_picture(photo)
        assert pillows == Image.MAX_IMAGE_PIXELS
        assert read_picture(photo, max_pixels=120 * 160).frame.shape == (120, 160, 3)


@pytest.fixture
def half_mask(tmp_path):
    """White on the left, black on the right; an eighth of the photo's size."""
    light = np.zeros((15, 20), np.uint8)
    light[:, :10] = 255
    Image.fromarray(light).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_a_mask_says_where_to_paint(run, style_file, half_mask, tmp_path, landscape):
    Image.fromarray(landscape).save(tmp_path / "a.png")
    code, *_ = run("stylize", tmp_path / "a.png", "-s", style_file, "--mask", half_mask, "-o", tmp_path / "b.png")
    assert code == 0
    found, painted = read_picture(tmp_path / "b.png").frame, StyleSession(style_file).stylize(landscape)
    np.testing.assert_array_equal(found[:, :60], painted[:, :60])
    np.testing.assert_array_equal(found[:, -60:], landscape[:, -60:])


def test_a_second_style_paints_the_black_part(run, style_file, half_mask, tmp_path, landscape):
    Image.fromarray(landscape).save(tmp_path / "a.png")
    styles = ("-s", style_file, "-s", "the_scream")
    code, out, _ = run("stylize", tmp_path / "a.png", *styles, "--mask", half_mask)
    assert (code, out) == (0, f"{tmp_path / 'a_strokes_and_the_scream.png'}\n")
    found = read_picture(out.strip()).frame
    np.testing.assert_array_equal(found[:, :60], StyleSession(style_file).stylize(landscape)[:, :60])
    scream = StyleSession(ROOT / "checkpoints/the_scream/realtime.onnx").stylize(landscape)
    np.testing.assert_array_equal(found[:, -60:], scream[:, -60:])


def test_gray_and_half_transparent_parts_of_a_mask_are_mixed(tmp_path):
    white, black = np.full((1, 4, 3), 201, np.uint8), np.full((1, 4, 3), 100, np.uint8)
    Image.fromarray(np.array([[[0, 255], [128, 255], [255, 255], [255, 128]]], np.uint8), "LA").save(tmp_path / "mask.png")
    mask = read_mask(str(tmp_path / "mask.png"))
    assert mask.tolist() == [[0, 128, 255, 128]]
    assert paint_where(mask, white, black)[0, :, 0].tolist() == [100, 151, 201, 151]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-s", "the_scream"], "2 styles are given, one; --mask says where a second one paints"),
        (["-s", "the_scream", "-s", "sunflowers", "--mask", "mask.png"], "3 styles are given, two at most"),
        (["--mask", "nothing.png"], "nothing.png cannot be read"),
        (["--mask", "mask.png", "-o", "mask.png", "--overwrite"], "mask.png is read and would be replaced"),
    ],
)
def test_masks_that_do_not_work_are_refused(run, style_file, half_mask, landscape, monkeypatch, options, message):
    monkeypatch.chdir(half_mask.parent)
    Image.fromarray(landscape).save("a.png")
    before = half_mask.read_bytes()
    code, _, err = run("stylize", "a.png", "-s", style_file, *options)
    assert code == 1
    assert message in err
    assert half_mask.read_bytes() == before


def test_a_photo_is_not_replaced_through_another_of_its_names(tmp_path, photo):
    link = tmp_path / "link.png"
    os.link(photo, link)
    with pytest.raises(PictureError, match=r"link\.png is a photo to be painted and would be replaced"):
        plan_jobs([str(photo)], str(link), "s")


@pytest.mark.parametrize(("inputs", "output"), [(["-"], None), (["photo.png"], "-")])
def test_standard_streams_are_not_photos(inputs, output):
    with pytest.raises(PictureError, match="standard input and output are for `allaprima video`"):
        plan_jobs(inputs, output, "s")


def test_a_device_is_not_a_folder_and_nothing_is_written_next_to_one(tmp_path):
    with pytest.raises(PictureError, match="is there already, and no folder"):
        make_folder(Path(os.devnull))
    with pytest.raises(PictureError, match="is no file that a painting could lie beside; give -o FILE"):
        plan_jobs([os.devnull], None, "s")


def test_a_note_about_a_damaged_photo_is_printed(run, tmp_path, photo):
    path = tmp_path / "cut.jpg"
    Image.open(photo).save(path)
    path.write_bytes(path.read_bytes()[:-2])
    code, _, err = run("stylize", path, "-s", "great_wave/realtime", "-o", tmp_path / "out.png")
    assert code == 0
    assert "cut.jpg: the mark of the file's end is missing; all of the picture is there" in err
