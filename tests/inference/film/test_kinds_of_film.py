"""Films from the real world: old cameras, screen recorders, the web. Nothing in them is lost without a note."""

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from films import drifting, paint, psnr, read_film, write_film
from PIL import Image, ImageOps

from allaprima.inference.film import frames, sinks
from allaprima.inference.film.frames import VideoReader
from allaprima.inference.film.sinks import VideoWriter
from allaprima.models.errors import VideoError


def length_s(path: Path) -> float:
    with av.open(str(path)) as container:
        assert container.duration
        return container.duration / av.time_base


def write_animation(path: Path, durations_ms: list[int]) -> Path:
    first, *others = [Image.fromarray(frame) for frame in drifting(len(durations_ms))]
    disposal = {"disposal": 2} if path.suffix == ".gif" else {}
    first.save(path, save_all=True, append_images=others, duration=durations_ms, **disposal)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_mjpeg_with_exif_is_painted_upright(tmp_path, orientation):
    """EXIF is side data that PyAV 18 has no name for; FFmpeg also gives its orientation as a display matrix."""
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


def test_an_exception_in_a_decoder_costs_one_packet(tmp_path, monkeypatch):
    source = write_film(tmp_path / "a.mkv", drifting(6), codec="mjpeg", pixel_format="yuvj420p")

    class Moody:
        calls = 0

        def decode(self, packet):
            self.calls += 1
            if self.calls == 5:  # the first call decodes a frame only to learn the format
                raise NotImplementedError("no such pixels")
            return self.decoder.decode(packet)

    moody = Moody()

    def decoder(stream):
        moody.decoder = stream.codec_context
        return moody

    monkeypatch.setattr(frames, "_decoder", decoder)
    report = paint(source, tmp_path / "b.mkv")
    assert (report.frames, report.skipped) == (5, 1)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_the_last_picture_of_a_gif_stays_as_long_as_it_did(tmp_path, suffix):
    source = write_animation(tmp_path / "a.gif", [100, 200, 3000])
    report = paint(source, tmp_path / f"b{suffix}")
    assert not report.notes  # none about transparency: any GIF could have some, this one has none
    assert report.end_s == pytest.approx(3.3, abs=0.001)
    assert length_s(tmp_path / f"b{suffix}") == pytest.approx(3.3, abs=0.001)
    assert read_film(tmp_path / f"b{suffix}")[1] == pytest.approx([0, 100, 300], abs=1)


def test_a_part_of_a_gif_begins_with_the_current_picture_and_ends_on_time(tmp_path):
    source = write_animation(tmp_path / "a.gif", [100, 200, 3000])
    pictures, _ = read_film(source)
    for start_s, duration_s, wanted, times_ms in ((0.15, 1.0, [1, 2], [0, 150]), (2.0, 0.5, [2], [0]), (0.1, 0.1, [1], [0])):
        output = tmp_path / f"{start_s}.mkv"
        assert paint(source, output, start_s=start_s, duration_s=duration_s).end_s == pytest.approx(duration_s, abs=0.001)
        painted, found_ms = read_film(output)
        assert found_ms == pytest.approx(times_ms, abs=1)
        assert length_s(output) == pytest.approx(duration_s, abs=0.001)
        for frame, index in zip(painted, wanted, strict=True):
            assert psnr(frame, pictures[index]) > 28


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


@pytest.mark.parametrize("rate", [10, 12])
@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".h264"), ("libx265", ".hevc")])
def test_a_raw_stream_plays_at_its_own_rate(tmp_path, codec, suffix, rate):
    options = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    source = write_film(tmp_path / f"a{suffix}", drifting(10), codec=codec, rate=rate, options=options)
    report = paint(source, tmp_path / "b.mp4")
    assert (report.frames, report.end_s) == (10, pytest.approx(10 / rate, abs=0.001))
    assert read_film(tmp_path / "b.mp4")[1] == pytest.approx([1000 / rate * i for i in range(10)], abs=1)
    assert f"there are no timestamps in it; {rate} frames a second are taken" in report.notes
    with VideoReader(source) as reader:
        assert reader.rate == rate


@pytest.mark.parametrize("suffix", [".gif", ".png", ".avif"])
def test_an_animation_keeps_its_times_without_needless_notes(tmp_path, suffix):
    source = write_animation(tmp_path / f"a{suffix}", [100, 300, 50, 200])
    report = paint(source, tmp_path / "b.mp4")
    assert not report.notes
    assert read_film(tmp_path / "b.mp4")[1] == pytest.approx([0, 100, 400, 450], abs=1)


def test_the_lost_transparency_of_an_animated_avif_is_reported_by_name(tmp_path):
    pictures = [Image.fromarray(frame).convert("RGBA") for frame in drifting(2)]
    for picture in pictures:
        picture.putalpha(100)
    pictures[0].save(tmp_path / "a.avif", save_all=True, append_images=pictures[1:])
    assert paint(tmp_path / "a.avif", tmp_path / "b.mp4").notes == ("left out: transparency",)


def write_rich(path: Path) -> Path:
    """A film with two chapters, two sound tracks, of which the second is the default, and forced subtitles."""
    plain = write_film(path.with_name("plain.mkv"), drifting(25), sounds=2, subtitle=True)
    flags = (Disposition(0), Disposition(0), Disposition.default, Disposition.forced)
    titles = ("The film", "Commentary", "Original", "Signs")
    with av.open(str(plain)) as source, av.open(str(path), "w") as out:
        out.set_chapters(
            [
                {
                    "id": i + 1,
                    "start": 500 * i,
                    "end": 500 * (i + 1),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for i, title in enumerate(("First", "Second"))
            ]
        )
        streams = [out.add_stream_from_template(stream) for stream in source.streams]
        for stream, flag, title in zip(streams, flags, titles, strict=True):
            stream.disposition, stream.metadata["title"], stream.metadata["language"] = flag, title, "deu"
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                out.mux(packet)
    return path


def chapters_s(path: Path) -> list[tuple[str, float, float]]:
    with av.open(str(path)) as container:
        return [
            (chapter["metadata"]["title"], *(float(chapter[side] * chapter["time_base"]) for side in ("start", "end")))
            for chapter in container.chapters()
        ]


def test_chapters_titles_and_flags_stay(tmp_path):
    source = write_rich(tmp_path / "a.mkv")
    assert not paint(source, tmp_path / "b.mkv").notes
    assert chapters_s(tmp_path / "b.mkv") == chapters_s(source) == [("First", 0.0, 0.5), ("Second", 0.5, 1.0)]
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert [stream.disposition for stream in container.streams] == [0, 0, Disposition.default, Disposition.forced]
        titles = [stream.metadata["title"] for stream in container.streams]
        assert titles == ["The film", "Commentary", "Original", "Signs"]
        assert {stream.metadata["language"] for stream in container.streams} == {"deu"}


def test_chapters_of_a_part_are_counted_from_its_start_and_an_mp4s_are_not_reported_as_a_stream(tmp_path):
    paint(write_rich(tmp_path / "a.mkv"), tmp_path / "b.mp4")
    assert chapters_s(tmp_path / "b.mp4") == [("First", 0.0, 0.5), ("Second", 0.5, 1.0)]
    assert not paint(tmp_path / "b.mp4", tmp_path / "c.mp4", start_s=0.2, duration_s=0.5).notes
    assert chapters_s(tmp_path / "c.mp4") == [("First", 0.0, 0.3), ("Second", 0.3, 0.5)]


@pytest.mark.parametrize(
    ("source_codec", "source_suffix", "suffix", "name"),
    [("wmav2", ".wmv", ".mp4", "aac"), ("wmav2", ".wmv", ".mkv", "aac"), ("aac", ".mp4", ".webm", "opus")],
)
def test_sound_that_a_format_refuses_is_reencoded_and_stays_in_sync(tmp_path, source_codec, source_suffix, suffix, name):
    source = tmp_path / f"a{source_suffix}"
    with av.open(str(source), "w") as out:
        film, tone = out.add_stream("mpeg4", 25), out.add_stream(source_codec, 44100)
        film.width, film.height, film.pix_fmt, tone.layout = 128, 96, "yuv420p", "stereo"
        tone.bit_rate = 128_000
        wave = np.zeros((2, 2 * 44100), np.float32)
        wave[:, 44100:] = 0.5 * np.sin(np.arange(44100) * 0.1)  # silence for a second, then a tone
        for frame in drifting(50):
            out.mux(film.encode(av.VideoFrame.from_ndarray(frame)))
        sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout="stereo")
        sound.sample_rate, sound.pts, sound.time_base = 44100, 0, Fraction(1, 44100)
        out.mux([*film.encode(None), *tone.encode(sound), *tone.encode(None)])
    report = paint(source, tmp_path / f"b{suffix}")
    assert any("encoded anew" in note and source_codec in note for note in report.notes)
    assert not any("left out" in note for note in report.notes)

    def tone_s(path: Path) -> float:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            if path != source:
                assert stream.codec_context.name == name
            assert stream.codec_context.layout.nb_channels == 2
            sounds = list(container.decode(stream))
        loud = next(frame for frame in sounds if np.abs(frame.to_ndarray()).max() > 0.2)
        first = np.argmax(np.abs(loud.to_ndarray()[0]) > 0.2)
        return float(loud.pts * loud.time_base) + first / loud.sample_rate

    assert tone_s(tmp_path / f"b{suffix}") == pytest.approx(tone_s(source), abs=0.01)
    assert report.end_s == pytest.approx(2.0, abs=0.1)


def write_sound(path: Path, codec: str, layout: str) -> Path:
    """A film of one second whose sound channels are tones, each louder than the one before."""
    with av.open(str(path), "w") as out:
        film, tone = out.add_stream("mpeg4", 25), out.add_stream(codec, 48000, layout=layout)
        film.width, film.height, film.pix_fmt = 128, 96, "yuv420p"
        out.start_encoding()
        for frame in drifting(25):
            out.mux(film.encode(av.VideoFrame.from_ndarray(frame)))
        out.mux(film.encode(None))
        wave = np.stack([0.1 * (i + 1) * np.sin(np.arange(48000) * 0.05) for i in range(tone.layout.nb_channels)])
        for start in range(0, 48000, 1536):
            part = np.ascontiguousarray(wave[:, start : start + 1536], np.float32)
            sound = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
            sound.sample_rate, sound.pts, sound.time_base = 48000, start, Fraction(1, 48000)
            out.mux(tone.encode(sound))
        out.mux(tone.encode(None))
    return path


def heard(path: Path) -> tuple[str, list[float]]:
    """The layout of a film's sound, and how loud each channel is."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="fltp", rate=48000)
        parts = [part.to_ndarray() for sound in container.decode(stream) for part in resampler.resample(sound)]
        return stream.layout.name, [float(np.abs(channel).max()) for channel in np.concatenate(parts, 1)[:, 5000:20000]]


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [("a.avi", "pcm_s16le", "stereo"), ("a.mkv", "pcm_s24le", "5.1"), ("a.mov", "pcm_s16be", "2.1")],
)
def test_pcm_is_copied_into_an_mp4_with_the_usual_layout_for_its_channels(tmp_path, name, codec, layout):
    source = write_sound(tmp_path / name, codec, layout)
    assert not paint(source, tmp_path / "b.mp4").notes
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.audio[0].codec_context.name == codec
    assert heard(tmp_path / "b.mp4") == (layout, pytest.approx(heard(source)[1], abs=0.001))


def test_pcm_that_an_mp4_refuses_only_at_the_end_is_reencoded(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "_add_as_it_is", lambda container, source: container.add_stream_from_template(source))
    source = write_sound(tmp_path / "a.avi", "pcm_s16le", "stereo")
    [note] = paint(source, tmp_path / "b.mp4").notes
    assert note == ".mp4 cannot take the sound as it is; it is encoded anew: pcm_s16le as AAC"
    assert len(read_film(tmp_path / "b.mp4")[0]) == 25


@pytest.mark.parametrize(
    ("codec", "layout", "wanted", "levels", "said"),
    [
        ("ac3", "5.1(side)", "5.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "ac3 as Opus"),
        ("pcm_s16le", "5.1", "5.1", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], "pcm_s16le as Opus"),
        ("ac3", "2.1", "5.1", [0.1, 0.2, 0.0, 0.3, 0.0, 0.0], "ac3 as Opus"),
        ("ac3", "5.0(side)", "5.1", [0.1, 0.2, 0.3, 0.0, 0.4, 0.5], "ac3 as Opus"),
        ("ac3", "4.0", "stereo", None, "ac3 as Opus (stereo instead of 4.0)"),
    ],
)
def test_reencoded_sound_keeps_its_channels_or_the_change_is_reported(tmp_path, codec, layout, wanted, levels, said):
    source = write_sound(tmp_path / "a.mkv", codec, layout)
    [note] = paint(source, tmp_path / "b.webm").notes
    assert note.endswith(f"encoded anew: {said}")
    found, loud = heard(tmp_path / "b.webm")
    assert found == wanted
    if levels:
        assert loud == pytest.approx(levels, abs=0.05)


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize(
    "times_ms",
    [
        [40 * i for i in range(24)],
        [0, 33, 40, 190, 191, 450, 1450, 1467, 2000],
        [0, 40, 80, 120, 160, 200, 1200, 4200],
        [0],
    ],
    ids=["steady", "variable", "slow at its end", "one frame"],
)
@pytest.mark.parametrize("last_ms", [40, 3000])
def test_decoding_times_add_up_to_the_film(tmp_path, suffix, times_ms, last_ms):
    """In H.264 with B-frames, the last packet is not the last frame. Readers compute the rate as frames / sum of times."""
    end_ms = times_ms[-1] + last_ms
    lasting_ms = [later - sooner for sooner, later in zip(times_ms, [*times_ms[1:], end_ms], strict=True)]
    with VideoWriter(tmp_path / f"a{suffix}", height=96, width=128, rate=Fraction(25), time_base=Fraction(1, 1000)) as writer:
        for frame, time_ms, duration_ms in zip(drifting(len(times_ms)), times_ms, lasting_ms, strict=True):
            writer.write(frame, time_ms, duration_ms)
    with av.open(str(writer.path)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(1000 * len(times_ms) / end_ms, rel=1e-4)
        assert float(stream.duration * stream.time_base) == pytest.approx(end_ms / 1000, abs=0.001)
    assert length_s(writer.path) == pytest.approx(end_ms / 1000, abs=0.001)
    assert read_film(writer.path)[1] == pytest.approx(times_ms, abs=1)


@pytest.mark.parametrize(("codec", "options"), [("libvpx", {"auto-alt-ref": "0"}), ("libvpx-vp9", {"auto-alt-ref": "0"})])
@pytest.mark.parametrize("known", [True, False])
def test_hidden_parts_of_a_vp8_or_vp9_are_white_or_that_is_reported(tmp_path, monkeypatch, codec, options, known):
    rgba = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in drifting(3)]
    for frame in rgba:
        frame[:48, :, 3] = 0
    source = write_film(
        tmp_path / "a.webm", rgba, codec=codec, pixel_format="yuva420p", source_format="rgba", options={**options, "b": "2M"}
    )
    if not known:
        monkeypatch.setattr(frames, "_decoder", lambda stream: stream.codec_context)
    [note] = paint(source, tmp_path / "b.mp4").notes
    painted = read_film(tmp_path / "b.mp4")[0][0]
    if known:
        assert "white shows through" in note
        assert painted[:40].min() > 240
    else:
        assert "transparency cannot be read" in note
        assert painted[:40].mean() < 240
    assert psnr(painted[56:], rgba[0][56:, :, :3]) > 24


def test_lost_hdr_tags_are_reported(tmp_path):
    light = "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
    options = {"x265-params": f"log-level=none:{light}"}
    source = write_film(tmp_path / "a.mkv", drifting(2), codec="libx265", pixel_format="yuv420p10le", options=options)
    notes = paint(source, tmp_path / "b.mp4").notes
    assert "tags that are not kept: HDR mastering display, HDR light level" in notes


def test_an_empty_first_video_stream_is_skipped_for_the_next(tmp_path):
    source = write_film(tmp_path / "a.mkv", drifting(5))
    with av.open(str(source)) as film, av.open(str(tmp_path / "b.mkv"), "w") as out:
        empty, full = (out.add_stream_from_template(film.streams.video[0]) for _ in range(2))
        empty.disposition = Disposition.default
        for packet in film.demux(video=0):
            if packet.size:
                packet.stream = full
                out.mux(packet)
    report = paint(tmp_path / "b.mkv", tmp_path / "c.mkv")
    assert (report.frames, report.notes) == (5, ("left out: video",))


def test_a_film_with_an_unknown_codec_is_refused(tmp_path):
    source = write_film(tmp_path / "a.avi", drifting(3), codec="mpeg4")
    source.write_bytes(source.read_bytes().replace(b"FMP4", b"ZZZZ"))
    with pytest.raises(VideoError, match=r"a\.avi holds video of a kind that cannot be decoded here"):
        paint(source, tmp_path / "b.mp4")


def test_an_animated_webp_is_refused_with_the_command_that_paints_it(tmp_path):
    first, *others = [Image.fromarray(frame) for frame in drifting(3)]
    first.save(tmp_path / "a.webp", save_all=True, append_images=others)
    with pytest.raises(VideoError, match=r"a\.webp is an animated WebP, which is no film; .* allaprima stylize"):
        VideoReader(tmp_path / "a.webp")


def test_pictures_that_change_size_are_scaled_to_the_first_and_that_is_reported(tmp_path):
    parts = [write_film(tmp_path / f"{i}.h264", drifting(4, *size)) for i, size in enumerate([(96, 128), (192, 256)])]
    (tmp_path / "a.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    report = paint(tmp_path / "a.h264", tmp_path / "b.mp4")
    assert report.frames == 8
    assert "its pictures change size; all are scaled to 128x96" in report.notes
    assert {frame.shape for frame in read_film(tmp_path / "b.mp4")[0]} == {(96, 128, 3)}


@pytest.mark.parametrize(
    ("name", "codec", "kept"),
    [
        ("b.mp4", "av1", True),
        ("b.mkv", "hevc", True),
        ("b.mkv", "av1", False),
        ("b.webm", "auto", False),
        ("%d.png", "auto", False),
    ],
)
def test_the_shape_of_pixels_is_kept_or_the_loss_is_reported(tmp_path, name, codec, kept):
    source = write_film(tmp_path / "a.mkv", drifting(2), sample_aspect=Fraction(64, 45))
    notes = paint(source, tmp_path / name, codec=codec).notes
    assert any("the shape of its pixels, 64:45, is not kept" in note for note in notes) != kept
    if name != "%d.png":
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].sample_aspect_ratio == (Fraction(64, 45) if kept else 1)
