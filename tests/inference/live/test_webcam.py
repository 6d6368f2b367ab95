"""The live pipeline with a camera, networks and a display that are made here; and the command on a film."""

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeCamera, FakeDisplay, FakeRack, SlowSession, go
from films import drifting, read_film, write_film

from inference.buffers import Buffers
from inference.color import CUT, HOLD_S, MODES, SteadyColor, channel_histograms, match_histogram
from inference.demo import paint_landscape
from inference.live import displays, webcam
from inference.live.cameras import CameraFeed, FileCamera
from inference.live.displays import VirtualCamera
from inference.live.webcam import Controls, Pace, StyleRack, Webcam
from inference.painter import FilmPainter, StylizeOptions, stylize_frame
from inference.profile import Profile, bare_session_ms
from inference.session import StyleSession
from models.errors import StyleError, VideoError

ROOT = Path(__file__).resolve().parents[3]


def test_latency_stays_bounded_when_the_camera_is_three_times_faster_than_the_network():
    network_s, frame_s = 0.09, 0.03
    live = go(FakeCamera(frame_s=frame_s), frames=30, rack=FakeRack(a=SlowSession(network_s)))
    assert np.percentile(live.report.latencies_ms, 95) <= 1000 * (2 * network_s + frame_s)


def test_a_slow_display_does_not_pile_up_frames():
    display = FakeDisplay(press=lambda _: time.sleep(0.05) or "")
    live = go(FakeCamera(frame_s=0.005), display, frames=20)
    assert live.report.dropped > 20
    assert np.percentile(live.report.latencies_ms, 95) < 150


def test_keys_change_style_color_strength_mirror_side_and_help():
    controls = Controls()
    rack = FakeRack(a=SlowSession(level=0.2), b=SlowSession(level=0.8))
    steps: list[Controls] = []

    def press(display: FakeDisplay) -> str:
        steps.append(Controls(**vars(controls)))
        return "npnc--+mbhq"[len(steps) - 1]

    go(display=FakeDisplay(press=press), controls=controls, rack=rack)
    assert [step.style for step in steps[:4]] == [0, 1, 0, 1]
    assert [step.keep_color for step in steps[3:5]] == ["none", "luminance"]
    assert [step.strength for step in steps[4:8]] == [1.0, 0.9, 0.8, 0.9]
    assert (controls.mirror, controls.side_by_side, controls.help, controls.quit) == (True, True, True, True)


def test_every_color_mode_is_reached_and_strength_stays_within_its_range():
    controls = Controls()
    keys = "c" * len(MODES) + "+" * 3 + "-" * 14 + "q"
    go(display=FakeDisplay(keys), controls=controls)
    assert controls.keep_color == "none"
    assert controls.strength == 0.0


def test_side_by_side_shows_the_original_at_the_left_and_mirror_turns_both():
    camera = FakeCamera()
    frame = drifting(1)[0]
    camera.read = lambda: time.sleep(0.01) or frame.copy()
    display = FakeDisplay("bm" + " " * 20 + "q")
    live = go(camera, display, rack=FakeRack(a=SlowSession(level=1.0)))
    last = display.shown[-1]
    assert last.shape == (96, 256, 3)
    np.testing.assert_array_equal(last[60:, :128], frame[60:, ::-1])
    assert last[60:, 128:].min() == 255
    assert live.report.frames > 2


def test_the_overlay_says_fps_latency_style_and_work_size_on_the_display_only(tmp_path, monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(webcam, "_write", lambda canvas, lines, centred=False: written.extend(lines))
    go(display=FakeDisplay(" " * 10 + "hq"), controls=Controls(keep_color="luminance", strength=0.5))
    assert any(" fps  |  " in line and " ms  |  a  |  luminance  |  strength 0.5  |  h: keys" in line for line in written)


def test_help_lists_every_key(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(webcam, "_write", lambda canvas, lines, centred=False: written.extend(lines))
    go(display=FakeDisplay(press=lambda display: "q" if len(display.shown) > 3 else "h" if len(display.shown) == 1 else ""))
    for key, what in webcam.KEYS:
        assert any(line.startswith(key) and what in line for line in written)


def test_letters_are_drawn():
    canvas = np.full((100, 400, 3), 128, np.uint8)
    webcam._write(canvas, ["30 fps   naïve"])
    assert canvas.max() > 200
    assert canvas.min() < 64
    assert (canvas[50:] == 128).all()


def test_a_style_that_is_still_opening_keeps_the_old_one_on(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(webcam, "_write", lambda canvas, lines, centred=False: written.extend(lines))
    live = go(display=FakeDisplay("n" + " " * 5 + "q"), rack=FakeRack(a=SlowSession(), b=None))
    assert live.report.frames >= 5
    assert any("a, opening b" in line for line in written)


def test_snapshot_and_recording_hold_the_painting_without_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    display = FakeDisplay("sr" + " " * 20 + "r" + "s" + "q")
    live = go(FakeCamera(frame_s=0.02), display, rack=FakeRack(a=SlowSession(level=0.4)))
    pictures, films = sorted(tmp_path.glob("*.png")), sorted(tmp_path.glob("*.mp4"))
    assert len(pictures) == 2
    assert live.report.recordings == [films[0].relative_to(tmp_path)]
    assert (cv2.imread(str(pictures[0])) == 102).all()
    frames, times_ms = read_film(films[0])
    assert 10 <= len(frames) <= 22
    assert times_ms[0] == 0
    assert all(gap >= 10 for gap in np.diff(times_ms))
    assert all(np.abs(frame.astype(int) - 102).max() <= 3 for frame in frames)
    assert not list(tmp_path.glob(".*"))


def test_record_from_the_beginning_and_an_existing_file_is_kept(tmp_path):
    live = go(frames=8, record=tmp_path / "a.mp4")
    assert live.report.recordings == [tmp_path / "a.mp4"]
    assert len(read_film(tmp_path / "a.mp4")[0]) >= 2
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(VideoError, match="exists; give --overwrite"):
        go(frames=8, record=tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_recording_that_fails_is_said_at_once_and_at_the_end_while_the_picture_goes_on(tmp_path, monkeypatch):
    def fails(self, *_):
        raise VideoError("a.mp4 cannot be written: No space left on device")

    monkeypatch.setattr(webcam.VideoWriter, "write", fails)
    display = FakeDisplay(" " * 30 + "q")
    with pytest.raises(VideoError, match="No space left"):
        go(display=display, record=tmp_path / "a.mp4")
    assert len(display.shown) >= 30
    assert not list(tmp_path.iterdir())


def test_a_recording_without_a_frame_is_announced_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webcam.Recorder, "add", lambda *_: None)
    live = go(display=FakeDisplay("rr" + " " * 5 + "q"))
    assert "nothing was recorded" in live.said
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_breaks_does_not_hang_the_end(tmp_path, monkeypatch):
    def breaks(self, *_):
        raise MemoryError("no memory")

    monkeypatch.setattr(webcam.VideoWriter, "write", breaks)
    with pytest.raises(VideoError, match="no memory"):
        go(frames=30, record=tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_style_that_cannot_be_opened_is_said_and_the_old_one_stays():
    rack = FakeRack(a=SlowSession(), b=None)
    rack.errors = {"b": "b.onnx is not an ONNX file"}
    controls = Controls()
    live = go(display=FakeDisplay(" n" + " " * 5 + "q"), controls=controls, rack=rack)
    assert "b.onnx is not an ONNX file" in live.said
    assert controls.style == 0


def test_trouble_with_the_camera_is_on_the_picture_and_quitting_answers_at_once(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(webcam, "_write", lambda canvas, lines, centred=False: written.extend(lines))
    camera = FakeCamera()
    pressed: list[float] = []

    def press(display: FakeDisplay) -> str:
        if len(display.shown) == 3:
            camera.mode = "blocked"
        if any("gives no picture" in line for line in written) and not pressed:
            pressed.append(time.monotonic())
            return "q"
        return ""

    live = go(camera, FakeDisplay(press=press))
    assert time.monotonic() - pressed[0] < 2.0
    assert "the camera gives no picture" in live.said
    camera.released.set()


def test_a_network_that_fails_ends_it_with_its_message():
    class Broken(SlowSession):
        def stylize_image(self, image: np.ndarray) -> np.ndarray:
            raise StyleError("painting 64x48 px failed")

    with pytest.raises(StyleError, match="painting 64x48"):
        go(frames=5, rack=FakeRack(a=Broken()))


# --- the pace


def settle(pace: Pace, full_ms: Callable[[float], float], seconds: float) -> list[tuple[float, float]]:
    """Scales over time for a network whose full-size frames take `full_ms(time)`; the time a frame takes grows with area."""
    now_s, history = 0.0, []
    while now_s < seconds:
        frame_ms = full_ms(now_s) * pace.scale**2 + 1.0
        now_s += frame_ms / 1000
        pace.update(frame_ms, now_s)
        history.append((now_s, pace.scale))
    return history


def test_the_pace_comes_down_to_the_target_within_a_second_and_stays():
    pace = Pace(30)
    history = settle(pace, lambda _: 90.0, 20)
    assert 90 * pace.scale**2 + 1 < 1000 / 30
    late = [scale for now_s, scale in history if now_s > 1.5]
    assert max(late) == min(late)  # it does not hunt
    assert 0.5 < pace.scale < 0.62


def test_the_pace_goes_up_again_when_there_is_room_and_never_beyond_the_picture():
    pace = Pace(30)
    settle(pace, lambda now_s: 120.0 if now_s < 5 else 15.0, 60)
    assert pace.scale == 1.0
    assert Pace(0).update(1000.0, 1.0) == 1.0


def test_target_fps_lowers_the_working_size_and_the_picture_keeps_its_own():
    class Real(SlowSession):
        def stylize_image(self, image: np.ndarray) -> np.ndarray:
            time.sleep(image.shape[2] * image.shape[3] * 2e-5)  # 61 ms at 64x48
            return super().stylize_image(image)

    session, display = Real(), FakeDisplay()
    go(FakeCamera(frame_s=0.005), display, frames=40, rack=FakeRack(a=session), target_fps=30)
    assert session.sizes[0] == (48, 64)
    height, width = session.sizes[-1]
    assert height < 48
    assert (height % 4, width % 4) == (0, 0)
    assert all(frame.shape == (48, 64, 3) for frame in display.shown[-30:])


def test_a_frame_painted_small_keeps_the_contents_chroma_at_full_resolution():
    rng = np.random.default_rng(0)
    content = rng.integers(100, 150, (64, 64, 3), dtype=np.uint8)
    painter = FilmPainter(SlowSession(level=0.5), StylizeOptions("luminance"))
    painter.scale = 0.25
    out = paint(painter, content, 0.0).astype(int)
    assert painter.session.sizes == [(16, 16)]
    np.testing.assert_array_equal(out[:, :, 0] - out[:, :, 1], content[:, :, 0].astype(int) - content[:, :, 1])


# --- one frame


def paint(painter: FilmPainter, frame: np.ndarray, time_s: float) -> np.ndarray:
    return painter.finish(frame, painter.stylize(frame), time_s)


@pytest.mark.parametrize(
    "options", [StylizeOptions(), StylizeOptions("luminance", strength=0.7), StylizeOptions(max_side_px=64)]
)
def test_the_painter_of_films_paints_as_the_painter_of_photos(style_file, options):
    session = StyleSession(style_file)
    frame = paint_landscape(90, 130)
    painter = FilmPainter(session, options)
    first = paint(painter, frame, 0.0).copy()
    paint(painter, 255 - frame, 0.1)
    again = paint(painter, frame, 0.2)
    assert np.abs(again.astype(int) - first).mean() < 0.5  # nothing of the frame between is left but what hardly differed
    np.testing.assert_array_equal(first, stylize_frame(session, frame, options))


@pytest.mark.parametrize("mode", ["histogram", "linear"])
def test_statistics_of_colors_do_not_flicker(mode):
    rng = np.random.default_rng(0)
    content, stylized = paint_landscape(96, 128), paint_landscape(96, 128, seed=2)
    flickering, steady = [], []
    keeper, unsteady = SteadyColor(mode), SteadyColor(mode)
    for i in range(40):
        light = 1.0 + 0.1 * rng.standard_normal()  # of a lamp
        lit = np.clip(content * light, 0, 255).astype(np.uint8)
        steady.append(keeper.keep(lit, stylized, i / 30).mean())
        unsteady.forget()
        flickering.append(unsteady.keep(lit, stylized, i / 30).mean())
    assert np.abs(np.diff(steady[5:])).mean() < 0.25 * np.abs(np.diff(flickering[5:])).mean()


@pytest.mark.parametrize("mode", ["histogram", "linear"])
def test_statistics_start_anew_at_a_cut_and_follow_slow_changes(mode):
    first, second = paint_landscape(96, 128), 255 - paint_landscape(96, 128, seed=5)
    stylized = paint_landscape(96, 128, seed=2)
    fresh = SteadyColor(mode)
    wanted = fresh.keep(second, stylized, 0.0)
    keeper = SteadyColor(mode)
    for i in range(10):
        keeper.keep(first, stylized, i / 30)
    np.testing.assert_array_equal(keeper.keep(second, stylized, 10 / 30), wanted)
    for i in range(60):  # a slow fade is no cut
        faded = cv2.addWeighted(second, 1 - i / 59, first, i / 59, 0)
        last = keeper.keep(faded, stylized, (11 + i) / 30)
    for i in range(int(8 * HOLD_S * 30)):
        last = keeper.keep(first, stylized, (71 + i) / 30)
    fresh.forget()
    assert np.abs(last.astype(int) - fresh.keep(first, stylized, 0.0)).max() <= 3
    assert 0 < CUT < 1


def test_histograms_of_a_still_film_are_those_of_the_photo():
    content, stylized = paint_landscape(96, 128), paint_landscape(96, 128, seed=2)  # below 20,000 pixels: all are counted
    keeper = SteadyColor("histogram")
    for i in range(5):
        out = keeper.keep(content, stylized, i / 30)
    np.testing.assert_array_equal(out, match_histogram(stylized, content))
    assert channel_histograms(content).sum() == content.size


# --- styles, displays, virtual cameras


def test_the_rack_opens_the_first_style_at_once_and_the_others_behind_the_picture(style_file, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    rack = StyleRack({"a": style_file, "b": style_file, "bad": tmp_path / "bad.onnx"}, "cpu")
    assert rack.session("a") is not None
    assert rack.session("b") is None
    rack.open_all(48, 64)
    deadline = time.monotonic() + 20
    while not (rack.session("b") and rack.errors) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert rack.session("b") is not None
    assert "bad.onnx is not an ONNX file" in rack.errors["bad"]
    rack.close()


def test_no_display_is_said_before_opencv_would_abort(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(VideoError, match="neither DISPLAY nor WAYLAND_DISPLAY is set"):
        displays.Window()
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(VideoError, match=r"no window can be opened: .*; --headless"):
        displays.Window()


def test_opencv_is_loaded_before_pyav_whose_libraries_would_hang_its_windows():
    code = "import inference.film.sinks, sys; print([name for name in sys.modules if name in ('av', 'cv2')])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "['cv2', 'av']\n"


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="needs Xvfb")
def test_a_real_window_opens_and_shows_frames(film, style_file, tmp_path):
    read, write = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write)
        with open(read) as numbers:  # closing it before the line is whole would end the server
            number = numbers.readline().strip()
        command = [sys.executable, str(ROOT / "allaprima.py"), "webcam", "-s", str(style_file), "--camera", str(film)]
        environment = {**os.environ, "DISPLAY": f":{number}"}
        try:
            result = subprocess.run(
                [*command, "--frames", "20"], env=environment, capture_output=True, text=True, timeout=60, check=False
            )
        finally:
            server.terminate()
    assert result.returncode == 0, result.stderr
    assert "20 frames" in result.stdout
    assert result.stderr.count("\n") == 1  # where it paints; nothing of OpenCV's or Qt's


def test_virtual_camera_without_pyvirtualcam_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    code, _, err = run("webcam", "--headless", "--virtual-camera")
    assert code == 1
    assert "pip install pyvirtualcam" in err


def test_virtual_camera_is_sent_every_frame_in_one_size(monkeypatch):
    class Camera:
        def __init__(self, **options):
            if options["width"] == 1:
                raise RuntimeError("no device")
            self.options, self.frames = options, []

        def send(self, frame):
            self.frames.append(frame.shape)

        def close(self):
            self.closed = True

    module = types.SimpleNamespace(Camera=Camera, PixelFormat=types.SimpleNamespace(RGB="rgb"))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", module)
    opened: list[VirtualCamera] = []
    go(frames=5, virtual_camera=lambda height, width: opened.append(VirtualCamera(height, width, 30.0)) or opened[-1])
    camera = opened[0]._camera
    assert camera.options["width"] == 64
    assert camera.frames == [(48, 64, 3)] * 5
    assert camera.closed
    opened[0].send(np.zeros((96, 128, 3), np.uint8))
    assert camera.frames[-1] == (48, 64, 3)
    with pytest.raises(VideoError, match="no virtual camera: no device; "):
        VirtualCamera(1, 1, 30.0)


# --- the whole command


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_film(tmp_path_factory.mktemp("film") / "a.mp4", drifting(20))


def test_a_film_as_camera_runs_headless_and_profiled(run, film, style_file, tmp_path):
    record = tmp_path / "r.mp4"
    code, out, err = run(
        "webcam", "-s", f"{style_file},{style_file}", "--camera", film, "--headless", "--frames", 15, "--profile",
        "--keep-color", "luminance", "--record", record,
    )  # fmt: skip
    assert code == 0, err
    assert "15 frames, " in out
    assert "camera to display" in out
    for stage in ("capture", "convert", "network", "color", "interval", "the network alone at 128x96"):
        assert stage in out
    assert "on the CPU" in err
    assert f"recorded {record}" in err
    assert len(read_film(record)[0]) > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--camera", "nowhere.mp4"], "there is no camera or film nowhere.mp4"),
        (["-s", "grate_wave"], 'did you mean "great_wave"'),
        (["--record", "a.gif"], 'no video format for ".gif"'),
        (["--record", "nowhere/a.mp4"], "there is no folder"),
    ],
)
def test_what_cannot_start_says_why(run, arguments, message):
    code, _, err = run("webcam", "--headless", *arguments)
    assert code == 1
    assert message in err


def test_the_film_that_plays_as_the_camera_is_not_recorded_over(run, film, style_file):
    before = film.read_bytes()
    code, _, err = run(
        "webcam", "-s", style_file, "--camera", film, "--headless", "--frames", 3, "--record", film, "--overwrite"
    )
    assert code == 1
    assert "is the film that plays as the camera" in err
    assert film.read_bytes() == before


@pytest.mark.parametrize(
    "arguments", [["--size", "640"], ["--size", "1x1"], ["--target-fps", "-1"], ["--strength", "2"], ["-s", ""]]
)
def test_wrong_arguments_are_refused(run, arguments):
    with pytest.raises(SystemExit) as stopped:
        run("webcam", "--headless", *arguments)
    assert stopped.value.code == 2


def test_ctrl_c_ends_a_live_session_and_finishes_its_recording(film, style_file, tmp_path):
    command = [sys.executable, str(ROOT / "allaprima.py"), "webcam", "-s", str(style_file), "--camera", str(film)]
    process = subprocess.Popen(
        [*command, "--headless", "--record", str(tmp_path / "r.mp4")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".r.mp4*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "frames, " in out
    assert len(read_film(tmp_path / "r.mp4")[0]) > 3


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_over_10000_frames(style_file, tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(200, 96, 128), rate=1000)
    buffers, profile = Buffers(), Profile()
    feed = CameraFeed(lambda: FileCamera(film, None, buffers), buffers, profile)
    rack = StyleRack({"a": style_file})
    live = Webcam(feed, rack, buffers, Controls(keep_color="histogram"), profile=profile, say=lambda _: None)
    resident: list[int] = []

    def stopped() -> bool:
        if live.report.frames >= 1000 and not resident:
            gc.collect()
            resident.append(resident_bytes())
        return False

    live.run(10_000, stopped)
    gc.collect()
    resident.append(resident_bytes())
    feed.close()
    rack.close()
    assert live.report.frames == 10_000
    assert resident[1] - resident[0] < 20 * 2**20
    assert threading.active_count() < 10


def test_the_bare_session_is_timed(style_file):
    assert 0.0 < bare_session_ms(StyleSession(style_file), 48, 64, seconds=0.05) < 1000.0
