"""Films in and out, on generated films. The network is a stand-in that copies, unless a test needs another."""

import errno
import os
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from films import Copier, Inverter, drifting, packets_of, paint, psnr, read_film, write_film

from allaprima.inference import precision
from allaprima.inference.film.frames import Moment, VideoReader
from allaprima.inference.film.sinks import VideoWriter, encoder_opens
from allaprima.inference.film.video import paint_video
from allaprima.inference.options import StylizeOptions, VideoOptions
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import Interrupted, VideoError

ROOT = Path(__file__).resolve().parents[3]


def test_every_frame_is_painted_in_its_place(tmp_path):
    frames = drifting(12)
    source = write_film(tmp_path / "a.mp4", frames)
    report = paint(source, tmp_path / "b.mp4", Inverter())
    painted, times_ms = read_film(tmp_path / "b.mp4")
    assert report.frames == len(painted) == 12
    assert times_ms == pytest.approx([40.0 * i for i in range(12)], abs=1)
    for frame, stylized in zip(frames, painted, strict=True):
        assert psnr(255 - frame, stylized) > 26
    assert report.end_s == pytest.approx(0.48, abs=0.002)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".webm"])
def test_variable_rate_timestamps_are_kept_to_the_millisecond(tmp_path, suffix):
    times_ms = [0, 33, 40, 190, 191, 450, 1450, 1467, 2000]
    source = write_film(tmp_path / "vfr.mkv", drifting(9), times_ms)
    paint(source, tmp_path / f"out{suffix}")
    assert read_film(tmp_path / f"out{suffix}")[1] == pytest.approx(times_ms, abs=1)


def test_a_film_that_begins_late_is_moved_to_zero_with_its_sound_in_sync(tmp_path):
    source = write_film(tmp_path / "a.ts", drifting(30), sounds=1, container_options={"output_ts_offset": "100"})
    with av.open(str(source)) as container:
        assert container.start_time > 99 * 10**6
    paint(source, tmp_path / "b.mkv")

    def begin_s(path: Path, kind: str) -> float:
        with av.open(str(path)) as container:
            stream = next(stream for stream in container.streams if stream.type == kind)
            packet = next(p for p in container.demux(stream) if p.pts is not None)
            return float(packet.pts * packet.time_base)

    step = begin_s(source, "audio") - begin_s(source, "video")
    assert begin_s(tmp_path / "b.mkv", "audio") - begin_s(tmp_path / "b.mkv", "video") == pytest.approx(step, abs=0.002)
    assert abs(begin_s(tmp_path / "b.mkv", "video")) < 0.1


@pytest.mark.parametrize(("rotation", "turns"), [(0, 0), (90, 1), (180, 2), (270, 3)])
def test_a_rotated_film_is_painted_and_written_upright(tmp_path, rotation, turns):
    frames = drifting(3)
    source = write_film(tmp_path / "a.mp4", frames, rotation=rotation, sample_aspect=Fraction(4, 3))
    paint(source, tmp_path / "b.mp4")
    painted, _ = read_film(tmp_path / "b.mp4")
    assert psnr(np.rot90(frames[0], turns), painted[0]) > 30  # both display angles and numpy's turns are counterclockwise
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
        assert frame.rotation == 0
        wanted = Fraction(3, 4) if turns % 2 else Fraction(4, 3)
        assert container.streams.video[0].sample_aspect_ratio == wanted


def test_a_mirrored_film_is_mirrored(tmp_path):
    frames = drifting(2)
    source = write_film(tmp_path / "a.mp4", frames, rotation=90, hflip=True)
    with VideoReader(source) as reader:
        [first, _] = [item for item in reader if isinstance(item, Moment)]
    # Flipped after the turn, or before it: either is accepted.
    shown = [np.rot90(frames[0])[:, ::-1], np.rot90(frames[0][:, ::-1])]
    assert max(psnr(first.frame, each) for each in shown) > 30


@pytest.mark.parametrize(
    ("codec", "pixel_format"), [("h264", "yuv444p"), ("hevc", "yuv444p"), ("av1", "yuv420p")], ids=lambda value: value
)
def test_odd_sizes_are_kept_to_the_pixel(tmp_path, codec, pixel_format):
    frames = drifting(3, 241, 321)
    source = write_film(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format="yuv444p")
    report = paint(source, tmp_path / "b.mp4", codec=codec)
    painted, _ = read_film(tmp_path / "b.mp4")
    assert painted[0].shape == (241, 321, 3)
    assert psnr(frames[0], painted[0]) > 28
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == pixel_format
    assert any("odd" in note for note in report.notes) == (pixel_format == "yuv444p")


def test_a_film_of_one_frame(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(1))
    assert paint(source, tmp_path / "b.mp4").frames == 1
    assert len(read_film(tmp_path / "b.mp4")[0]) == 1


def test_a_film_without_frames_is_refused_and_leaves_no_file(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(5), sounds=1)
    only_sound = tmp_path / "sound.mp4"
    with av.open(str(source)) as container, av.open(str(only_sound), "w") as out:
        stream = out.add_stream_from_template(container.streams.audio[0])
        for packet in container.demux(audio=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    with pytest.raises(VideoError, match="holds no video, only audio"):
        paint(only_sound, tmp_path / "b.mp4")
    empty = tmp_path / "header.mkv"
    with av.open(str(empty), "w") as out:
        stream = out.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        out.start_encoding()
    with pytest.raises(VideoError, match=r"holds no frame that can be decoded|not a video that can be read"):
        paint(empty, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["a.h264", "a.avi", "a.mkv"])
def test_files_without_an_index_are_read(tmp_path, name):
    frames = drifting(20)
    codec, options = ("mpeg4", {"qscale": "1", "b": "20000000"}) if name == "a.avi" else ("libx264", {"crf": "10", "g": "5"})
    source = write_film(tmp_path / "whole.mkv", frames, codec=codec, options=options)
    with av.open(str(source)) as container, av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    data = (tmp_path / name).read_bytes()
    for index in (b"idx1", b"\x1c\x53\xbb\x6b"):  # the index of an AVI, the cues of a Matroska file
        if index in data:
            (tmp_path / name).write_bytes(data[: data.rindex(index)])
    paint(tmp_path / name, tmp_path / "b.mp4")
    painted, times_ms = read_film(tmp_path / "b.mp4")
    assert len(painted) == 20
    assert np.diff(times_ms) == pytest.approx([40.0] * 19, abs=1)
    paint(tmp_path / name, tmp_path / "c.mp4", start_s=0.4)
    later, _ = read_film(tmp_path / "c.mp4")
    assert psnr(later[0], frames[10]) > 28


def test_a_truncated_film_is_painted_as_far_as_it_goes(tmp_path):
    source = write_film(
        tmp_path / "a.mp4", drifting(60, 240, 320), sounds=1, container_options={"movflags": "frag_keyframe+empty_moov"}
    )
    data = source.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) * 6 // 10])
    report = paint(tmp_path / "cut.mp4", tmp_path / "b.mp4")
    assert 10 < report.frames < 60
    assert len(read_film(tmp_path / "b.mp4")[0]) == report.frames


def test_an_mp4_whose_index_was_cut_off_is_refused_with_the_likely_cause(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(30))
    source.write_bytes(source.read_bytes()[:-2000])
    with pytest.raises(VideoError, match="may lack its index"):
        paint(source, tmp_path / "b.mp4")


@pytest.mark.parametrize("sounds", [0, 1, 2])
def test_sound_passes_through_untouched(tmp_path, sounds):
    source = write_film(tmp_path / "a.mp4", drifting(25), sounds=sounds)
    paint(source, tmp_path / "b.mp4")
    before, after = packets_of(source, "audio"), packets_of(tmp_path / "b.mp4", "audio")
    assert len(after) == sounds
    assert after == before


def test_subtitles_pass_through_if_the_format_holds_them(tmp_path):
    source = write_film(tmp_path / "a.mkv", drifting(5), subtitle=True)
    assert not paint(source, tmp_path / "b.mkv").notes
    assert packets_of(tmp_path / "b.mkv", "subtitle") == packets_of(source, "subtitle")
    [note] = paint(source, tmp_path / "b.mp4").notes
    assert "left out: subtitle (srt); .mkv holds more" in note


@pytest.mark.parametrize("keyframes", ["1", "10"])
def test_a_subtitle_shown_at_the_start_of_a_part_is_kept_and_none_outlasts_the_part(tmp_path, keyframes):
    """The subtitle is shown from 0.04 s to 0.12 s, and may lie before the key frame at which reading begins."""
    source = write_film(tmp_path / "a.mkv", drifting(10), subtitle=True, options={"g": keyframes})
    for start_s, duration_s, shown in ((0.08, 0.0, (0, 40)), (0.08, 0.02, (0, 20)), (0.0, 0.08, (40, 80)), (0.12, 0.0, None)):
        paint(source, tmp_path / f"{start_s}{duration_s}.mkv", start_s=start_s, duration_s=duration_s)
        with av.open(str(tmp_path / f"{start_s}{duration_s}.mkv")) as container:
            packets = [packet for packet in container.demux(subtitles=0) if packet.size]
            found = [(packet.pts, packet.pts + packet.duration) for packet in packets]
        assert found == ([shown] if shown else [])


def test_ten_bits_are_read_and_the_loss_is_reported(tmp_path):
    frames = drifting(3)
    source = write_film(tmp_path / "a.mkv", frames, codec="libx265", pixel_format="yuv420p10le", options={"crf": "5"})
    [note] = paint(source, tmp_path / "b.mp4").notes
    assert "10 bits a channel in, 8 out" in note
    assert psnr(read_film(tmp_path / "b.mp4")[0][0], frames[0]) > 30


def test_alpha_shows_white_paper(tmp_path):
    frames = drifting(2)
    rgba = [np.dstack([frame, np.full(frame.shape[:2], 255, np.uint8)]) for frame in frames]
    for frame in rgba:
        frame[:48, :, 3] = 0
    source = write_film(tmp_path / "a.mov", rgba, codec="png", pixel_format="rgba", source_format="rgba")
    [note] = paint(source, tmp_path / "b.mp4").notes
    assert "transparency is not kept" in note
    painted = read_film(tmp_path / "b.mp4")[0][0]
    assert painted[:40].min() > 240
    assert psnr(painted[56:], frames[0][56:]) > 28


def test_a_damaged_stretch_is_skipped_and_counted_and_the_rest_keeps_its_time(tmp_path):
    frames = drifting(100)
    source = write_film(tmp_path / "a.mkv", frames, codec="mjpeg", pixel_format="yuvj420p", options={"q:v": "2"})
    with av.open(str(source)) as container, av.open(str(tmp_path / "bad.mkv"), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for i, packet in enumerate(p for p in container.demux(video=0) if p.size):
            if i == 40:
                broken = av.Packet(b"\x00" * packet.size)
                broken.pts, broken.dts, broken.time_base = packet.pts, packet.dts, packet.time_base
                packet = broken
            packet.stream = stream
            out.mux(packet)
    report = paint(tmp_path / "bad.mkv", tmp_path / "b.mkv")
    painted, times_ms = read_film(tmp_path / "b.mkv")
    assert report.skipped == 1
    assert len(painted) == 99
    assert times_ms == pytest.approx([40 * i for i in range(100) if i != 40], abs=1)


def test_noise_in_the_middle_of_a_file_does_not_end_the_film(tmp_path):
    source = write_film(tmp_path / "a.ts", drifting(100), sounds=1)
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    source.write_bytes(data)
    report = paint(source, tmp_path / "b.mp4")
    assert report.frames > 80
    assert read_film(tmp_path / "b.mp4")[1][-1] > 3500


@pytest.mark.parametrize("tags", [(1, 1, 1, 1), (6, 1, 6, 6), (5, 2, 5, 6), (1, 2, 1, 13)])
def test_color_range_matrix_and_values_are_kept(tmp_path, tags):
    frames = [np.full((64, 64, 3), color, np.uint8) for color in ((200, 60, 40), (250, 250, 250), (5, 5, 5))]
    source = write_film(tmp_path / "a.mp4", frames, tags=tags, options={"crf": "0"}, pixel_format="yuv444p")
    paint(source, tmp_path / "b.mp4")
    for path in (source, tmp_path / "b.mp4"):
        with av.open(str(path)) as container:
            found = list(container.decode(video=0))
        frame = found[0]
        assert (frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc) == tags
        if path == source:
            wanted = [frame.to_ndarray(format="yuv444p").mean(axis=(1, 2)) for frame in found]
    values = [frame.reformat(format="yuv444p").to_ndarray().mean(axis=(1, 2)) for frame in found]
    np.testing.assert_allclose(values, wanted, atol=2.5)


def test_a_part_of_a_film(tmp_path):
    frames = drifting(50)
    source = write_film(tmp_path / "a.mp4", frames, sounds=1)
    report = paint(source, tmp_path / "b.mp4", start_s=0.8, duration_s=0.6)
    painted, times_ms = read_film(tmp_path / "b.mp4")
    assert report.frames == len(painted) == 15
    assert times_ms[0] == pytest.approx(0, abs=1)
    assert psnr(painted[0], frames[20]) > 28
    [sound] = packets_of(tmp_path / "b.mp4", "audio")
    assert len(sound) == pytest.approx(0.6 * 48000 / 1024, abs=2)
    with pytest.raises(VideoError, match="has no frame from 5 s on"):
        paint(source, tmp_path / "c.mp4", start_s=5.0)


def test_metadata_of_the_film_is_kept(tmp_path):
    source = write_film(tmp_path / "a.mkv", drifting(2))
    with av.open(str(source)) as container, av.open(str(tmp_path / "b.mkv"), "w") as out:
        out.metadata["title"] = "Fox"
        stream = out.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    paint(tmp_path / "b.mkv", tmp_path / "c.mp4")
    with av.open(str(tmp_path / "c.mp4")) as container:
        assert container.metadata["title"] == "Fox"


def test_files_are_not_overwritten_unasked_and_the_film_itself_never(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(2))
    before = source.read_bytes()
    (tmp_path / "b.mp4").write_text("precious")
    with pytest.raises(VideoError, match="exists; give --overwrite"):
        paint(source, tmp_path / "b.mp4")
    assert (tmp_path / "b.mp4").read_text() == "precious"
    with pytest.raises(VideoError, match="is read and would be replaced"):
        paint_video(source, source, Copier(), how=StylizeOptions(), options=VideoOptions(), overwrite=True)
    assert source.read_bytes() == before
    paint_video(source, tmp_path / "b.mp4", Copier(), how=StylizeOptions(), options=VideoOptions(), overwrite=True)
    assert len(read_film(tmp_path / "b.mp4")[0]) == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b.gif", r'no video format for ".gif"; one of .mp4'),
        ("nowhere/b.mp4", "there is no folder"),
        ("folder.mp4", "it is a folder"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_at_once(tmp_path, name, message):
    source = write_film(tmp_path / "a.mp4", drifting(2))
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match=message):
        paint(source, tmp_path / name)


def test_a_folder_without_write_permission_is_refused(tmp_path, monkeypatch):
    source = write_film(tmp_path / "a.mp4", drifting(2))
    monkeypatch.setattr("allaprima.inference.pictures.os.access", lambda path, mode: False)  # the tests may run as root
    with pytest.raises(VideoError, match="may not be written to"):
        paint(source, tmp_path / "b.mp4")


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
@pytest.mark.parametrize("name", ["b.mp4", "b.mkv"])
def test_a_full_disk_is_reported_and_the_old_file_kept(tmp_path, name):
    """A limit on file sizes stands in for a full disk: write fails with EFBIG instead of ENOSPC."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (240, 320, 3), dtype=np.uint8) for _ in range(40)]
    source = write_film(tmp_path / "a.mp4", noise)
    (tmp_path / name).write_text("precious")
    code = f"""
import resource, signal, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}, {str(Path(__file__).parents[1])!r}, {str(ROOT)!r}]
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
from test_video import *
source, output = Path({str(source)!r}), Path({str(tmp_path / name)!r})
try:
    paint_video(source, output, Copier(), how=StylizeOptions(), options=VideoOptions(), overwrite=True)
except VideoError as error:
    print(error)
    sys.exit(7)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 7, result.stderr
    assert f"{tmp_path / name} cannot be written: {os.strerror(errno.EFBIG)}" in result.stdout
    assert (tmp_path / name).read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", name]


def test_a_stopped_film_replaces_nothing(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(20))
    (tmp_path / "b.mp4").write_text("precious")
    done = []
    report = paint_video(
        source, tmp_path / "b.mp4", Copier(), how=StylizeOptions(), options=VideoOptions(), overwrite=True,
        stopped=lambda: len(done) >= 3, progress=lambda *_: done.append(1),
    )  # fmt: skip
    assert (report.whole, report.output) == (False, tmp_path / "b_2.mp4")
    assert (tmp_path / "b.mp4").read_text() == "precious"
    assert len(read_film(tmp_path / "b_2.mp4")[0]) == report.frames


@pytest.mark.parametrize(("name", "codec"), [("b.mov", "av1"), ("b.webm", "h264"), ("b.webm", "hevc")])
def test_a_codec_that_a_format_cannot_hold_is_refused_with_formats_that_can(tmp_path, name, codec):
    source = write_film(tmp_path / "a.mp4", drifting(2))
    with pytest.raises(VideoError, match=r"holds no .*; take \.mp4"):
        paint(source, tmp_path / name, codec=codec)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--duration", "0"], "no time at all"),
        (["--start", "1:75"], "not a time in seconds"),
        (["--start", "abc"], "not a time in seconds"),
        (["--quality", "0"], "whole number, from 1 to 100"),
        (["--quality", "7.5"], "whole number, from 1 to 100"),
        (["--strength", "much"], "not a number from 0 to 1"),
    ],
)
def test_wrong_arguments_are_explained(run, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        run("video", "a.mp4", "-s", "great_wave", *arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_no_room_for_standard_input_suggests_tmpdir(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    code, _, err = run("video", "-", "-s", "great_wave/realtime", "-o", "x.mp4")
    assert code == 1
    assert "No space left on device; TMPDIR names another place" in err


def test_an_address_is_not_a_film(run):
    code, _, err = run("video", "http://127.0.0.1:9/x.mp4", "-s", "great_wave/realtime")
    assert code == 1
    assert "webcam --camera takes addresses" in err


def test_ctrl_c_finishes_the_film_with_what_is_done(tmp_path, style_file):
    source = write_film(tmp_path / "a.mp4", drifting(400, 240, 320), sounds=1)
    command = [sys.executable, "-m", "allaprima", "video", str(source), "-s", str(style_file)]
    process = subprocess.Popen([*command, "-o", str(tmp_path / "b.mp4")], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while sum(part.stat().st_size for part in tmp_path.glob(".b.mp4*")) < 100_000 and time.monotonic() < deadline:
        time.sleep(0.02)  # the temporary files of picture and sound
    assert not (tmp_path / "b.mp4").exists()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped;" in err
    frames, _ = read_film(tmp_path / "b.mp4")
    assert 0 < len(frames) < 400
    assert f"({len(frames)} frames)" in err
    [sound] = packets_of(tmp_path / "b.mp4", "audio")
    assert sound
    assert not list(tmp_path.glob(".*"))


def test_the_commands_last_line_names_the_file(run, tmp_path, style_file):
    source = write_film(tmp_path / "clip.mp4", drifting(5))
    code, out, err = run("video", source, "-s", style_file, "--keep-color", "luminance", "--profile")
    assert code == 0, err
    assert f"{tmp_path / 'clip_strokes.mp4'}: 5 frames, 0.2 s, libx264, painted at " in out
    for stage in ("read", "convert", "network", "color", "write", "the network alone"):
        assert stage in out
    assert "on the CPU" in err
    code, _, err = run("video", source, "-s", style_file)
    assert code == 1
    assert "exists; give --overwrite" in err


def test_int8_is_chosen_if_a_rate_is_asked_for_and_a_trial_favors_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        precision, "bare_session_ms", lambda session, *_: 20.0 if session.contract.precision == "int8" else 90.0
    )
    source = write_film(tmp_path / "clip.mp4", drifting(2))
    code, _, err = run("video", source, "-s", "great_wave", "--target-fps", "25")
    assert code == 0, err
    assert "realtime.int8.onnx on the CPU (int8 20 ms, fp32 90 ms a picture of 640x480)" in err
    assert (tmp_path / "clip_great_wave.mp4").exists()
    code, _, err = run("video", source, "-s", "great_wave", "--overwrite")
    assert "realtime.onnx on the CPU\n" in err


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"", "is empty"), (b"no film" * 99, "is not a video that can be read")],
)
def test_what_is_not_a_film_is_refused_with_a_reason(run, tmp_path, style_file, content, message):
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    code, _, err = run("video", tmp_path / "a.mp4", "-s", style_file)
    assert code == 1
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == (["a.mp4"] if content is not None else [])


def test_a_films_frames_are_painted_as_photos_are(tmp_path, style_file):
    """`stylize` and `video` see the same pixels."""
    session = StyleSession(style_file)
    frames = drifting(2)
    source = write_film(tmp_path / "a.mkv", frames, codec="ffv1", pixel_format="bgr0")
    painted = []
    with VideoReader(source) as reader:
        for item in reader:
            assert isinstance(item, Moment)
            painted.append(session.stylize(item.frame))
    np.testing.assert_array_equal(painted[0], session.stylize(frames[0]))
    paint(source, tmp_path / "b.mp4", session)
    assert psnr(read_film(tmp_path / "b.mp4")[0][1], painted[1]) > 25


def test_a_writer_without_frames_leaves_no_file(tmp_path):
    with (
        pytest.raises(VideoError, match="no frame was painted"),
        VideoWriter(tmp_path / "a.mp4", height=64, width=64, rate=Fraction(25), time_base=Fraction(1, 25)),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_start_between_two_ticks_keeps_every_frame(tmp_path):
    frames = drifting(30)
    source = write_film(tmp_path / "a.avi", frames, codec="mjpeg", pixel_format="yuvj420p")
    report = paint(source, tmp_path / "b.mkv", start_s=0.5)  # 12.5 frames of 1/25 s
    assert (report.frames, report.skipped) == (18, 0)
    assert np.diff(read_film(tmp_path / "b.mkv")[1]) == pytest.approx([40.0] * 17, abs=1)


def test_one_packet_of_sound_out_of_order_is_dropped_and_the_film_goes_on(tmp_path, monkeypatch):
    source = write_film(tmp_path / "a.mp4", drifting(25), sounds=1)
    inorder = VideoReader.__iter__

    def swapped(self):
        held = None
        for count, item in enumerate(inorder(self)):
            if isinstance(item, av.Packet) and held is None and count > 10:
                held = item
                continue
            yield item
            if held is not None and held is not True and isinstance(item, av.Packet):
                yield held
                held = True

    monkeypatch.setattr(VideoReader, "__iter__", swapped)
    assert paint(source, tmp_path / "b.mp4").frames == 25
    assert len(packets_of(tmp_path / "b.mp4", "audio")[0]) == len(packets_of(source, "audio")[0]) - 1


def test_a_film_of_rgb_pixels_is_not_tagged_as_rgb(tmp_path):
    frames = drifting(3)
    source = write_film(tmp_path / "a.mkv", frames, codec="libx264rgb", pixel_format="rgb24", options={"crf": "5"})
    paint(source, tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.colorspace != 0
    assert psnr(read_film(tmp_path / "b.mp4")[0][0], frames[0]) > 28


def test_a_part_keeps_sound_that_is_stored_later_in_the_file(tmp_path):
    source = write_film(tmp_path / "a.ts", drifting(75), sounds=1, container_options={"muxdelay": "0"})
    with av.open(str(source)) as container, av.open(str(tmp_path / "late.mkv"), "w") as out:
        streams = {stream.index: out.add_stream_from_template(stream) for stream in container.streams}
        packets = [packet for packet in container.demux() if packet.size]
        origin = {stream.index: stream.start_time for stream in container.streams}
        order = sorted(packets, key=lambda p: (p.dts - origin[p.stream.index]) * p.time_base + (p.stream.type == "audio") * 0.8)
        for packet in order:
            packet.pts -= origin[packet.stream.index]
            packet.dts -= origin[packet.stream.index]
            packet.stream = streams[packet.stream.index]
            out.mux_one(packet)
    report = paint(tmp_path / "late.mkv", tmp_path / "b.mkv", duration_s=1.0)
    assert report.frames == 25
    assert len(packets_of(tmp_path / "b.mkv", "audio")[0]) == pytest.approx(48000 / 1024, abs=2)


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be")
def test_a_file_name_may_contain_a_colon(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_film(tmp_path / "a.mp4", drifting(2))
    os.rename("a.mp4", "12:30.mp4")
    paint(Path("12:30.mp4"), Path("13:30.mp4"))
    assert len(read_film(tmp_path / "13:30.mp4")[0]) == 2


def test_av1_takes_a_film_that_claims_a_thousand_frames_a_second(tmp_path):
    source = write_film(tmp_path / "a.mkv", drifting(4), [0, 30, 50, 110], rate=1000)
    assert paint(source, tmp_path / "b.webm").encoder == "libsvtav1"
    assert read_film(tmp_path / "b.webm")[1] == pytest.approx([0, 30, 50, 110], abs=1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there does SVT-AV1 do so, and only for root")
def test_av1_threads_do_not_get_realtime_priority(tmp_path):
    def priorities() -> set[int]:
        return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}

    frames = list(drifting(3))
    with VideoWriter(tmp_path / "a.webm", height=64, width=64, rate=Fraction(25), time_base=Fraction(1, 25)) as writer:
        for i, frame in enumerate(frames):
            writer.write(np.ascontiguousarray(frame[:64, :64]), i)
            assert priorities() == {os.SCHED_OTHER}
    assert priorities() == {os.SCHED_OTHER}


def test_a_file_that_appears_in_the_meantime_is_not_replaced(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(3))

    class Intruder(Copier):
        def stylize_image(self, image: np.ndarray) -> np.ndarray:
            (tmp_path / "b.mp4").write_text("precious")
            return image.copy()

    assert paint(source, tmp_path / "b.mp4", Intruder()).output == tmp_path / "b_2.mp4"
    assert (tmp_path / "b.mp4").read_text() == "precious"
    assert len(read_film(tmp_path / "b_2.mp4")[0]) == 3


def test_a_stop_before_the_first_frame_is_an_interrupt_and_leaves_no_file(tmp_path):
    source = write_film(tmp_path / "a.mp4", drifting(3))
    with pytest.raises(Interrupted, match="before the first frame"):
        paint_video(source, tmp_path / "b.mp4", Copier(), how=StylizeOptions(), options=VideoOptions(), stopped=lambda: True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_hevc_in_mp4_has_the_tag_that_apple_plays_even_in_short_films(tmp_path):
    for count in (1, 2, 3, 2, 2, 1, 5):  # x265 used to read uninitialized memory here, though not every time
        source = write_film(tmp_path / "a.mp4", drifting(count))
        paint_video(source, tmp_path / "b.mp4", Copier(), how=StylizeOptions(), options=VideoOptions("hevc"), overwrite=True)
        assert b"hvc1" in (tmp_path / "b.mp4").read_bytes()
        assert len(read_film(tmp_path / "b.mp4")[0]) == count


def test_an_encoder_that_ignores_an_option_does_not_count_as_open():
    assert encoder_opens("libx264", options={"crf": "20"})
    assert not encoder_opens("libx264", options={"crf": "20", "nonsense": "1"})
    assert not encoder_opens("no_such_encoder")


def test_a_film_that_changes_size_keeps_the_first_size(tmp_path):
    small = write_film(tmp_path / "small.ts", drifting(10, 96, 128))
    large = write_film(tmp_path / "large.ts", drifting(10, 144, 192), container_options={"output_ts_offset": "1"})
    (tmp_path / "a.ts").write_bytes(small.read_bytes() + large.read_bytes())
    report = paint(tmp_path / "a.ts", tmp_path / "b.mp4")
    frames, _ = read_film(tmp_path / "b.mp4")
    assert report.frames > 12
    assert {frame.shape for frame in frames} == {(96, 128, 3)}


def test_a_cover_picture_is_not_a_film(tmp_path):
    source = write_film(tmp_path / "a.mkv", drifting(2), sounds=1)
    picture = write_film(tmp_path / "cover.mkv", drifting(1), codec="mjpeg", pixel_format="yuvj420p")
    with av.open(str(source)) as film, av.open(str(picture)) as cover, av.open(str(tmp_path / "b.mp4"), "w") as out:
        heard = out.add_stream_from_template(film.streams.audio[0])
        seen = out.add_stream_from_template(cover.streams.video[0])
        seen.disposition = Disposition.attached_pic
        for stream, packets in ((heard, film.demux(audio=0)), (seen, cover.demux(video=0))):
            for packet in packets:
                if packet.size:
                    packet.stream = stream
                    out.mux(packet)
    with pytest.raises(VideoError, match="holds no video, only audio, cover picture"):
        paint(tmp_path / "b.mp4", tmp_path / "c.mp4")


@pytest.mark.parametrize("suffix", [".mov", ".mp4", ".mkv"])
def test_a_phones_location_and_camera_are_kept_or_the_loss_is_reported(tmp_path, suffix):
    source = tmp_path / "phone.mov"
    with av.open(str(source), "w", options={"movflags": "use_metadata_tags"}) as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        tags = {"location.ISO6709": "+52.5200+013.4050/", "make": "Apple", "model": "iPhone"}
        container.metadata.update({f"com.apple.quicktime.{name}": text for name, text in tags.items()})
        for frame in drifting(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode(None))
    report = paint(source, tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        found = {name.lower(): text for name, text in container.metadata.items()}
    assert found["location"] == "+52.5200+013.4050/"
    if suffix == ".mp4":
        assert "the camera's make and model is not kept in .mp4; .mov and .mkv keep it" in report.notes
    else:
        assert (found["make"], found["model"]) == ("Apple", "iPhone")
