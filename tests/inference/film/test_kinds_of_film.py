"""Films as they come: from old cameras, screen recorders, the web. Nothing of them is lost in silence."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from films import drifting, paint, psnr, read_film, write_film
from PIL import Image, ImageOps

from inference.film.frames import Moment, VideoReader


def length_s(path: Path) -> float:
    with av.open(str(path)) as container:
        assert container.duration
        return container.duration / av.time_base


def write_gif(path: Path, durations_ms: list[int]) -> Path:
    first, *others = [Image.fromarray(frame) for frame in drifting(len(durations_ms))]
    first.save(path, save_all=True, append_images=others, duration=durations_ms, disposal=2)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_mjpeg_with_exif_is_painted_upright(tmp_path, orientation):
    """EXIF is side data that PyAV 18 has no name for; the orientation in it is a display matrix beside it."""
    picture, exif = Image.fromarray(drifting(1)[0]), Image.Exif()
    exif[0x112] = orientation
    encoded, png = io.BytesIO(), io.BytesIO()
    picture.save(encoded, "JPEG", exif=exif, quality=95)
    picture.save(png, "PNG", exif=exif)
    with av.open(str(tmp_path / "a.avi"), "w") as out:
        stream = out.add_stream("mjpeg", 10)
        stream.width, stream.height, stream.pix_fmt = picture.width, picture.height, "yuvj420p"
        out.start_encoding()
        for i in range(3):
            packet = av.Packet(encoded.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, i, i, Fraction(1, 10)
            out.mux(packet)
    assert paint(tmp_path / "a.avi", tmp_path / "b.mp4").frames == 3
    upright = np.asarray(ImageOps.exif_transpose(Image.open(png)))
    assert psnr(read_film(tmp_path / "b.mp4")[0][0], upright) > 30


def test_a_decoder_that_fails_in_its_own_way_costs_one_packet(tmp_path, monkeypatch):
    source = write_film(tmp_path / "a.mp4", drifting(6))

    class Packets:
        def __init__(self, reader):
            self.reader, self.demux = reader, reader._container.demux

        def __call__(self, streams):
            for i, packet in enumerate(self.demux(streams)):
                yield Unlucky(packet) if i == 5 else packet

    class Unlucky:
        def __init__(self, packet):
            self.stream, self.size = packet.stream, packet.size

        def decode(self):
            raise NotImplementedError("no such pixels")

    with VideoReader(source) as reader:
        container = reader._container

        class Container:
            demux = Packets(reader)
            close = container.close

        reader._container = Container()
        moments = [item for item in reader if isinstance(item, Moment)]
        assert len(moments) == 5
        assert reader.skipped == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_the_last_picture_of_a_gif_stays_as_long_as_it_did(tmp_path, suffix):
    source = write_gif(tmp_path / "a.gif", [100, 200, 3000])
    report = paint(source, tmp_path / f"b{suffix}")
    assert report.end_s == pytest.approx(3.3, abs=0.001)
    assert length_s(tmp_path / f"b{suffix}") == pytest.approx(3.3, abs=0.001)
    assert read_film(tmp_path / f"b{suffix}")[1] == pytest.approx([0, 100, 300], abs=1)


def test_a_part_of_a_gif_begins_with_the_picture_that_is_there_and_ends_with_the_part(tmp_path):
    source = write_gif(tmp_path / "a.gif", [100, 200, 3000])
    frames, _ = read_film(source)
    for start_s, duration_s, wanted, times_ms in ((0.15, 1.0, [1, 2], [0, 150]), (2.0, 0.5, [2], [0]), (0.1, 0.1, [1], [0])):
        output = tmp_path / f"{start_s}.mkv"
        assert paint(source, output, start_s=start_s, duration_s=duration_s).end_s == pytest.approx(duration_s, abs=0.001)
        painted, found_ms = read_film(output)
        assert found_ms == pytest.approx(times_ms, abs=1)
        assert length_s(output) == pytest.approx(duration_s, abs=0.001)
        for frame, index in zip(painted, wanted, strict=True):
            assert psnr(frame, frames[index]) > 28


@pytest.mark.parametrize(("rate", "count"), [(Fraction(1, 5), 3), (Fraction(480), 48)])
def test_slow_and_fast_films_last_as_long_as_before(tmp_path, rate, count):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for frame in drifting(count):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(stream.encode(None))
    report = paint(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert report.frames == count
    assert report.end_s == pytest.approx(float(count / rate), abs=0.001)
    assert length_s(tmp_path / "b.mp4") == pytest.approx(float(count / rate), abs=0.001)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".h264"), ("libx265", ".hevc"), ("mpeg4", ".m4v")])
def test_a_raw_stream_plays_at_its_own_rate(tmp_path, codec, suffix):
    options = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    source = write_film(tmp_path / f"a{suffix}", drifting(10), codec=codec, rate=10, options=options)
    report = paint(source, tmp_path / "b.mp4")
    assert (report.frames, report.end_s) == (10, pytest.approx(1.0, abs=0.001))
    assert read_film(tmp_path / "b.mp4")[1] == pytest.approx([100 * i for i in range(10)], abs=1)
    with VideoReader(source) as reader:
        assert reader.rate == 10
