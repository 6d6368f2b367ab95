"""The live pipeline with a fake camera, fake networks and a fake display; and the command on a film."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from fakes import FakeCamera, FakeDisplay, FakeRack, SlowSession, go
from films import drifting, read_film, write_film

from allaprima.inference.buffers import Buffers
from allaprima.inference.commands import _names
from allaprima.inference.live import cameras, overlay, recorder, webcam
from allaprima.inference.live.cameras import CameraFeed, FileCamera
from allaprima.inference.live.displays import VirtualCamera
from allaprima.inference.live.rack import StyleRack
from allaprima.inference.live.webcam import Controls, Webcam
from allaprima.inference.options import COLOR_MODES
from allaprima.inference.profile import Profile, bare_session_ms
from allaprima.inference.style.fading import PaletteRack
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import StyleError, VideoError

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


def test_keys_reach_every_color_mode_and_strength_stays_in_range():
    controls = Controls()
    keys = "c" * len(COLOR_MODES) + "+" * 3 + "-" * 14 + "q"
    go(display=FakeDisplay(keys), controls=controls)
    assert controls.keep_color == "none"
    assert controls.strength == 0.0


def test_side_by_side_shows_the_original_on_the_left_and_mirror_flips_both():
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


def test_the_overlay_shows_fps_latency_style_engine_color_and_strength(tmp_path, monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(overlay, "write_words", lambda canvas, lines, centered=False: written.extend(lines))
    go(display=FakeDisplay(" " * 10 + "hq"), controls=Controls(keep_color="luminance", strength=0.5))
    assert any(
        " fps  |  " in line and " ms  |  a  |  ONNX Runtime  |  luminance  |  strength 0.5  |  h: keys" in line
        for line in written
    )


def test_help_lists_every_key(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(overlay, "write_words", lambda canvas, lines, centered=False: written.extend(lines))
    go(display=FakeDisplay(press=lambda display: "q" if len(display.shown) > 3 else "h" if len(display.shown) == 1 else ""))
    for key, what in webcam.KEYS:
        assert any(line.startswith(key) and what in line for line in written)


def test_the_old_style_stays_while_a_new_one_is_opening(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(overlay, "write_words", lambda canvas, lines, centered=False: written.extend(lines))
    live = go(display=FakeDisplay("n" + " " * 5 + "q"), rack=FakeRack(a=SlowSession(), b=None))
    assert live.report.frames >= 5
    assert any("a, opening b" in line for line in written)


def test_snapshot_and_recording_show_the_painting_without_the_overlay(tmp_path, monkeypatch):
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


def test_recording_from_the_start_works_and_an_existing_file_is_kept(tmp_path):
    live = go(frames=8, record=tmp_path / "a.mp4")
    assert live.report.recordings == [tmp_path / "a.mp4"]
    assert len(read_film(tmp_path / "a.mp4")[0]) >= 2
    before = (tmp_path / "a.mp4").read_bytes()
    with pytest.raises(VideoError, match="exists; give --overwrite"):
        go(frames=8, record=tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").read_bytes() == before


def test_a_failed_recording_is_reported_at_the_end_and_the_picture_goes_on(tmp_path, monkeypatch):
    def fails(self, *_):
        raise VideoError("a.mp4 cannot be written: No space left on device")

    monkeypatch.setattr(recorder.VideoWriter, "write", fails)
    display = FakeDisplay(" " * 30 + "q")
    with pytest.raises(VideoError, match="No space left"):
        go(display=display, record=tmp_path / "a.mp4")
    assert len(display.shown) >= 30
    assert not list(tmp_path.iterdir())


def test_a_recording_without_frames_is_reported_and_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(webcam.Recorder, "add", lambda *_: None)
    live = go(display=FakeDisplay("rr" + " " * 5 + "q"))
    assert "nothing was recorded" in live.said
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_fails_does_not_block_quitting(tmp_path, monkeypatch):
    def breaks(self, *_):
        raise MemoryError("no memory")

    monkeypatch.setattr(recorder.VideoWriter, "write", breaks)
    with pytest.raises(VideoError, match="no memory"):
        go(frames=30, record=tmp_path / "a.mp4")
    assert not list(tmp_path.iterdir())


def test_a_style_that_cannot_be_opened_is_reported_and_the_old_one_stays():
    rack = FakeRack(a=SlowSession(), b=None)
    rack.errors = {"b": "b.onnx is not an ONNX file"}
    controls = Controls()
    live = go(display=FakeDisplay(" n" + " " * 5 + "q"), controls=controls, rack=rack)
    assert "b.onnx is not an ONNX file" in live.said
    assert controls.style == 0


def test_camera_trouble_is_shown_on_the_picture_and_quitting_is_quick(monkeypatch):
    written: list[str] = []
    monkeypatch.setattr(overlay, "write_words", lambda canvas, lines, centered=False: written.extend(lines))
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


def test_a_failing_network_ends_the_session_with_its_message():
    class Broken(SlowSession):
        def stylize_image(self, image: np.ndarray) -> np.ndarray:
            raise StyleError("painting 64x48 px failed")

    with pytest.raises(StyleError, match="painting 64x48"):
        go(frames=5, rack=FakeRack(a=Broken()))


def test_target_fps_lowers_the_working_size_but_not_the_pictures_size():
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


def test_the_virtual_camera_gets_every_frame_in_one_size(monkeypatch):
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


def test_the_film_used_as_the_camera_is_not_overwritten_by_the_recording(run, film, style_file):
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


def test_the_palette_moves_from_style_to_style():
    now = [0.0]
    rack = PaletteRack(["great_wave", "Starry Night", "photo:1,great_wave:3"], 2.0, "cpu", clock=lambda: now[0])
    known = list(rack.first.contract.mix)
    seen = []
    for now[0], name in ((0.0, 0), (1.0, 1), (2.0, 1), (2.5, 2), (9.0, 2)):
        weights = rack.session(rack.names[name]).weights
        seen.append({known[i]: round(float(weights[i]), 3) for i in np.flatnonzero(weights)})
    assert seen[0] == seen[1] == {"great_wave": 1.0}
    assert seen[2] == {"great_wave": 0.5, "starry_night": 0.5}
    assert seen[3] == {"great_wave": 0.25, "starry_night": 0.75}  # a new fade begins at the current mix
    assert seen[4] == {"great_wave": 0.75, "photo": 0.25}
    assert PaletteRack([], 0.0, "cpu").names == [*known[:-1], "photo"]
    for name, message in (("great_wav", 'did you mean "great_wave"'), ("great_wave:-1", "is no mix")):
        with pytest.raises(StyleError, match=message):
            PaletteRack([name], 1.0, "cpu")


def test_a_film_is_painted_with_the_palette(run, film):
    code, out, err = run(
        "webcam", "--camera", film, "--headless", "--frames", "3", "--fade", "-s", "great_wave,photo:1,the_scream:1"
    )
    assert code == 0, err
    assert out.startswith("3 frames, ")
    assert "painting with the palette on" in err


def test_adjacent_names_with_weights_form_one_mix():
    assert _names("a, b:1,c:2,d,e:1") == ["a", "b:1,c:2", "d", "e:1"]


def test_ctrl_c_ends_a_live_session_and_finishes_its_recording(film, style_file, tmp_path):
    command = [sys.executable, "-m", "allaprima", "webcam", "-s", str(style_file), "--camera", str(film)]
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
    """Memory in use, without what the allocator keeps for reuse."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_stays_flat_over_20000_frames(style_file, tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(200, 96, 128), rate=1000)
    buffers, profile = Buffers(), Profile()
    feed = CameraFeed(lambda: FileCamera(film, None, buffers), buffers, profile)
    rack = StyleRack({"a": style_file})
    live = Webcam(feed, rack, buffers, Controls(keep_color="histogram"), profile=profile, say=lambda _: None)
    resident: list[int] = []
    threads = threading.active_count()

    def stopped() -> bool:
        if live.report.frames >= 1000 and not resident:
            resident.append(resident_bytes())
        return False

    live.run(20_000, stopped)
    resident.append(resident_bytes())
    feed.close()
    rack.close()
    assert live.report.frames == 20_000
    assert resident[1] - resident[0] < 20 * 2**20
    assert threading.active_count() <= threads


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_200_unplugs_leave_nothing_behind(monkeypatch, tmp_path):
    """The camera is a film that is gone after twenty pictures and then is plugged in again."""
    monkeypatch.setattr(cameras, "BACK_OFF_S", (0.02,))
    film = write_film(tmp_path / "a.mp4", drifting(200, 96, 128), rate=500)
    buffers, opened = Buffers(), []

    class Unplugged(FileCamera):
        left = 20

        def read(self):
            self.left -= 1
            return super().read() if self.left >= 0 else None

    def open_again():
        opened.append(None)
        return Unplugged(film, None, buffers)

    feed = CameraFeed(open_again, buffers)
    live = Webcam(feed, FakeRack(a=SlowSession()), buffers, Controls(), say=lambda _: None)
    found = []

    def stopped() -> bool:
        if len(opened) in (50, 250) and len(found) < 1 + (len(opened) == 250):  # earlier, memory still grows
            found.append((resident_bytes(), len(os.listdir("/proc/self/fd")), threading.active_count()))
        return len(found) == 2

    live.run(0, stopped)
    feed.close()
    (early, files, threads), (late, files_later, threads_later) = found
    assert late - early < 20 * 2**20
    assert abs(files_later - files) <= 2  # the one that is open at the moment
    assert abs(threads_later - threads) <= 2


def test_the_bare_session_is_timed(style_file):
    assert 0.0 < bare_session_ms(StyleSession(style_file), 48, 64, seconds=0.05) < 1000.0
