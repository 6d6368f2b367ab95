"""Films as numbered pictures, several films in one command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from films import drifting, packets_of, paint, psnr, read_film, write_film
from PIL import Image

from allaprima.inference.film.frames import VideoReader
from allaprima.inference.film.sequences import UNREAD
from allaprima.inference.film.video import plan_films
from allaprima.inference.pictures import FORMATS
from allaprima.models.errors import VideoError

ROOT = Path(__file__).resolve().parents[3]


def write_pictures(folder, frames, first=1):
    folder.mkdir()
    for i, frame in enumerate(frames, first):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    return folder / "%05d.png"


def test_numbered_pictures_become_a_film_at_25_fps(tmp_path):
    frames = drifting(5)
    source = write_pictures(tmp_path / "100% frames", frames, first=98)
    report = paint(source, tmp_path / "b.mp4")
    painted, times_ms = read_film(tmp_path / "b.mp4")
    assert report.frames == len(painted) == 5
    assert times_ms == pytest.approx([0, 40, 80, 120, 160], abs=1)
    for frame, stylized in zip(frames, painted, strict=True):
        assert psnr(frame, stylized) > 28


def test_a_film_becomes_numbered_pictures_and_what_is_lost_is_reported(tmp_path):
    frames = drifting(5)
    source = write_film(tmp_path / "a.mp4", frames, sounds=1)
    (tmp_path / "out").mkdir()
    report = paint(source, tmp_path / "out" / "%03d.png")
    assert report.notes == ("left out: audio",)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"00{i}.png" for i in range(1, 6)]
    assert psnr(np.asarray(Image.open(tmp_path / "out" / "005.png")), frames[4]) > 30
    with pytest.raises(VideoError, match="5 such pictures exist; give --overwrite"):
        paint(source, tmp_path / "out" / "%03d.png")


def test_transparency_is_kept_from_pictures_to_pictures(tmp_path):
    frames = [np.dstack([frame, np.tile(np.linspace(0, 255, 128).astype(np.uint8), (96, 1))]) for frame in drifting(2)]
    source = write_pictures(tmp_path / "in", frames)
    assert not paint(source, tmp_path / "%d.png").notes
    for i, frame in enumerate(frames, 1):
        painted = np.asarray(Image.open(tmp_path / f"{i}.png"))
        np.testing.assert_array_equal(painted[:, :, 3], frame[:, :, 3])
    [note] = paint(source, tmp_path / "%d.jpg").notes
    assert "white shows through" in note


def test_each_picture_has_its_own_transparency_and_what_it_hides_never_shows(tmp_path):
    """The first is opaque, stored without alpha as PNG optimizers do; the third is a palette with a transparent color."""
    (tmp_path / "in").mkdir()
    red, blue = np.full((64, 64, 3), (200, 40, 30), np.uint8), (20, 60, 200)
    red[:, 32:] = blue
    hidden = np.dstack([red, np.full((64, 64), 255, np.uint8)])
    hidden[:, :32, 3] = 0
    palette = Image.fromarray(red).quantize(2)
    pictures = [Image.fromarray(red), Image.fromarray(hidden), palette, palette]
    for i, picture in enumerate(pictures, 1):
        picture.save(tmp_path / "in" / f"{i}.png", **({"transparency": palette.getpixel((5, 5))} if i == 3 else {}))
    assert not paint(tmp_path / "in" / "%d.png", tmp_path / "%d.png").notes
    painted = [Image.open(tmp_path / f"{i}.png") for i in range(1, 5)]
    assert [picture.mode for picture in painted] == ["RGB", "RGBA", "RGBA", "RGB"]
    colors = [picture.convert("RGBA").getpixel((5, 5)) for picture in painted]
    assert [color[3] for color in colors] == [255, 0, 0, 255]
    assert min(colors[1][:3] + colors[2][:3]) > 240
    [note] = paint(tmp_path / "in" / "%d.png", tmp_path / "b.mp4").notes
    assert "white shows through" in note


def test_an_empty_picture_and_an_unreadable_format_are_refused(tmp_path):
    source = write_pictures(tmp_path / "in", drifting(5))
    (tmp_path / "in" / "00003.png").write_bytes(b"")
    with pytest.raises(VideoError, match=r"00003\.png is empty; a film has no gaps"):
        paint(source, tmp_path / "b.mp4")
    for suffix in UNREAD:
        Image.fromarray(drifting(1)[0]).save(tmp_path / f"1{suffix}")
        with pytest.raises(VideoError, match=rf"not read as {suffix}; convert them to one of \.jpg"):
            paint(tmp_path / f"%d{suffix}", tmp_path / "b.mp4")
    assert not list(tmp_path.glob("b*"))


@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix not in UNREAD])
def test_numbered_pictures_are_read_in_all_other_formats(tmp_path, suffix):
    frame = drifting(1)[0]
    for i in (1, 2):
        Image.fromarray(frame).save(tmp_path / f"{i}{suffix}")
    with VideoReader(tmp_path / f"%d{suffix}") as reader:
        found = [moment.frame for moment in reader]
    assert len(found) == 2
    assert psnr(found[1], frame) > 25


def test_a_gap_in_the_numbers_and_missing_pictures_are_refused(tmp_path):
    source = write_pictures(tmp_path / "in", drifting(5))
    (tmp_path / "in" / "00003.png").unlink()
    with pytest.raises(VideoError, match="number 3 is missing between 1 and 5"):
        paint(source, tmp_path / "b.mp4")
    with pytest.raises(VideoError, match="no picture of such a name"):
        paint(tmp_path / "in" / "x%05d.png", tmp_path / "b.mp4")
    film = write_film(tmp_path / "100%d.mp4", drifting(2))
    paint(film, tmp_path / "101%d.mp4")
    assert len(read_film(tmp_path / "101%d.mp4")[0]) == 2
    assert not list(tmp_path.glob("b*"))


def test_several_films_get_names_of_their_own(tmp_path):
    films = [str(tmp_path / name) for name in ("a.mp4", "b.avi", "a.mp4", "in/%05d.png")]
    plan = plan_films(films, None, "wave")
    assert [path.name for _, path in plan] == ["a_wave.mp4", "b_wave.mp4", "in_wave.mp4"]
    plan = plan_films(films, f"{tmp_path}/out/", "wave")
    assert [path for _, path in plan] == [tmp_path / "out" / name for name in ("a.mp4", "b.mp4", "in.mp4")]
    for empty in (["a.mp4", ""], None), (["a.mp4"], ""):
        with pytest.raises(VideoError, match="an empty name"):
            plan_films(*empty, "wave")
    with pytest.raises(VideoError, match="one file for 3 films; give a folder"):
        plan_films(films, str(tmp_path / "x.mp4"), "wave")
    with pytest.raises(VideoError, match=r"b/a\.mov and a\.mov would both become"):
        plan_films(["a.mov", "b/a.mov"], "out/", "wave")
    with pytest.raises(VideoError, match="is read and would be replaced"):
        plan_films(films, str(tmp_path), "wave")


def test_a_film_that_fails_does_not_stop_the_others(run, tmp_path, style_file):
    for name in ("a.mkv", "c.mkv"):
        write_film(tmp_path / name, drifting(3), sounds=1)
    (tmp_path / "b.mkv").write_text("no film")
    code, out, err = run("video", *(tmp_path / f"{i}.mkv" for i in "abc"), "-s", style_file, "-o", f"{tmp_path}/out/")
    assert code == 1
    assert "b.mkv is not a video" in err
    assert "1 of 3 films failed, the others are painted" in err
    assert len(out.splitlines()) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mkv", "c.mkv"]
    assert packets_of(tmp_path / "out" / "c.mkv", "audio") == packets_of(tmp_path / "c.mkv", "audio")


def test_a_film_goes_through_standard_input_and_output(tmp_path, style_file):
    source = write_film(tmp_path / "a.ts", drifting(5), sounds=1)
    command = [sys.executable, "-m", "allaprima", "video", "-", "-s", str(style_file)]
    result = subprocess.run([*command, "-o", "-"], input=source.read_bytes(), capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    (tmp_path / "b.mkv").write_bytes(result.stdout)
    assert len(read_film(tmp_path / "b.mkv")[0]) == 5
    assert len(packets_of(tmp_path / "b.mkv", "audio")[0]) == len(packets_of(source, "audio")[0])
    assert b"\nstandard output: 5 frames" in result.stderr
    result = subprocess.run(command, input=b"", capture_output=True, timeout=60, check=False)
    assert result.returncode == 1
    assert b"standard input has no name; give -o" in result.stderr


@pytest.mark.parametrize("damaged", [3, 4, 5])
def test_a_damaged_picture_does_not_affect_the_others(tmp_path, damaged):
    source = write_pictures(tmp_path / "a", drifting(5))
    (tmp_path / "a" / f"{damaged:05d}.png").write_bytes(b"nothing")
    with VideoReader(source) as reader:
        times = [round(float(moment.pts * reader.time_base) * 25) for moment in reader]
    assert times == [i for i in range(5) if i != damaged - 1]
    assert reader.skipped == 1
