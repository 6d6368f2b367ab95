"""Cameras that hang, freeze and vanish, without hardware."""

import http.server
import os
import sys
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fakes import FakeCamera
from films import drifting, write_film

from allaprima.inference.buffers import Buffers
from allaprima.inference.live import cameras
from allaprima.inference.live.cameras import CameraFeed, FileCamera, Newest, Shot, open_camera
from allaprima.models.errors import VideoError


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds become tenths."""
    monkeypatch.setattr(cameras, "SILENT_S", 0.3)
    monkeypatch.setattr(cameras, "OPENING_S", 0.6)
    monkeypatch.setattr(cameras, "BACK_OFF_S", (0.05, 0.1, 0.2))


def wait_until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread is not threading.main_thread()}


def test_the_newest_item_wins_and_put_never_waits():
    slot: Newest[int] = Newest()
    assert [slot.put(1), slot.put(2), slot.put(3)] == [None, 1, 2]
    assert slot.get(0.0) == 3
    assert slot.get(0.01) is None


def test_buffers_are_reused_but_not_a_decoders_memory():
    buffers = Buffers()
    array = buffers.take((4, 6, 3))
    buffers.give(array)
    assert buffers.take((4, 6, 3)) is array
    view = np.zeros((8, 6, 3), np.uint8)[:4]
    buffers.give(view)
    assert buffers.take((4, 6, 3)) is not view


def test_silence_is_noticed_within_two_seconds():
    assert cameras.SILENT_S < 2.0


@pytest.mark.parametrize(
    ("mode", "words"),
    [("blocked", "gives no picture"), ("frozen", "picture is frozen"), ("gone", "camera is gone")],
)
def test_trouble_is_noticed_reported_and_repaired(hurried, mode, words):
    opened: list[FakeCamera] = []

    def open_again() -> FakeCamera:
        opened.append(FakeCamera())
        return opened[-1]

    feed = CameraFeed(open_again, Buffers())
    try:
        assert isinstance(feed.newest.get(5.0), Shot)
        assert feed.trouble == ""
        opened[0].mode = mode
        wait_until(lambda: words in feed.trouble)
        wait_until(lambda: len(opened) == 2 and feed.trouble == "")
        assert feed.newest.get(5.0) is not None
        opened[0].released.set()
        wait_until(lambda: opened[0].closed)
    finally:
        feed.close()
    assert opened[-1].closed
    assert "capture" not in threads()


def test_opening_is_retried_with_longer_and_longer_pauses(hurried):
    attempts: list[float] = []

    def open_again() -> FakeCamera:
        attempts.append(time.monotonic())
        if len(attempts) in (2, 3, 4):
            raise VideoError("camera 0 cannot be opened")
        return FakeCamera("gone" if len(attempts) == 1 else "living")

    feed = CameraFeed(open_again, Buffers())
    try:
        wait_until(lambda: "cannot be opened" in feed.trouble)
        wait_until(lambda: feed.newest.get(0.01) is not None)
        assert feed.trouble == ""
        pauses = np.diff(attempts)
        assert pauses[1] > pauses[0] - 0.02
        assert pauses[3] >= 0.2
    finally:
        feed.close()


def test_a_picture_that_stays_frozen_after_reopening_is_accepted(hurried):
    opened: list[FakeCamera] = []
    feed = CameraFeed(lambda: opened.append(FakeCamera("frozen")) or opened[-1], Buffers())
    try:
        wait_until(lambda: len(opened) == 2)
        time.sleep(0.8)
        assert len(opened) == 2
        assert feed.trouble == ""
        assert feed.newest.get(1.0) is not None
    finally:
        feed.close()


def test_a_slow_first_picture_is_waited_for(hurried, monkeypatch):
    monkeypatch.setattr(cameras, "OPENING_S", 5.0)
    opened: list[FakeCamera] = []

    def open_again() -> FakeCamera:
        opened.append(FakeCamera())
        read, opened[-1].read = opened[-1].read, lambda: time.sleep(0.8) or setattr(opened[-1], "read", read) or read()
        return opened[-1]

    feed = CameraFeed(open_again, Buffers())
    try:
        wait_until(lambda: feed.trouble or feed.newest.get(0.01) is not None)
        assert (feed.trouble, len(opened)) == ("", 1)
    finally:
        feed.close()


def test_a_wrong_camera_is_reported_at_once():
    def open_again() -> FakeCamera:
        raise VideoError("camera 7 cannot be opened")

    with pytest.raises(VideoError, match="camera 7"):
        CameraFeed(open_again, Buffers())


def test_a_camera_that_stays_blocked_starts_a_bounded_number_of_threads(hurried):
    opened: list[FakeCamera] = []
    feed = CameraFeed(lambda: opened.append(FakeCamera("blocked")) or opened[-1], Buffers())
    try:
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            assert feed.trouble in ("", "the camera gives no picture")
            time.sleep(0.01)
        assert 2 <= len(opened) <= cameras.MAX_STUCK + 1
        start = time.monotonic()
        feed.close(timeout_s=0.1)
        assert time.monotonic() - start < 1.0  # quitting does not wait for the camera
    finally:
        for camera in opened:
            camera.released.set()
    wait_until(lambda: "capture" not in threads())
    assert all(camera.closed for camera in opened)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts descriptors in /proc")
def test_a_hundred_unpluggings_leave_no_thread_and_no_descriptor(hurried, monkeypatch, tmp_path):
    monkeypatch.setattr(cameras, "BACK_OFF_S", (0.001,))
    film = write_film(tmp_path / "a.mp4", drifting(3))
    opened = 0

    class Unplugged(FileCamera):
        def read(self) -> np.ndarray | None:
            return None if self._stays_s else super().read()

    def open_again() -> FileCamera:
        nonlocal opened
        opened += 1
        return Unplugged(film, None, Buffers())

    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    feed = CameraFeed(open_again, Buffers())
    wait_until(lambda: opened >= 5)
    files, running = open_files(), threading.active_count()
    wait_until(lambda: opened >= 105, 60)
    assert abs(open_files() - files) <= 2  # one film may be open at any time
    assert threading.active_count() == running
    feed.close()
    assert "capture" not in threads()


def test_a_film_plays_at_its_own_speed_in_a_loop(tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(5), rate=25)
    camera = FileCamera(film, None, Buffers())
    start = time.perf_counter()
    frames = [camera.read() for _ in range(13)]
    seconds = time.perf_counter() - start
    camera.close()
    assert seconds == pytest.approx(12 * 0.04, abs=0.25)
    assert seconds > 0.4
    np.testing.assert_array_equal(frames[0], frames[5])
    np.testing.assert_array_equal(frames[2], frames[12])


def test_a_raw_film_plays_at_its_headers_rate_and_the_last_picture_has_its_full_time(tmp_path, monkeypatch):
    raw = write_film(tmp_path / "a.h264", drifting(3), rate=10)
    late = write_film(tmp_path / "b.mkv", drifting(3), [0, 100, 200], rate=1)  # the last frame is shown for a second
    for film, wanted_s in ((raw, [0.0, 0.1, 0.2, 0.3, 0.4]), (late, [0.0, 0.1, 0.2, 1.2, 1.3])):
        now_s, seen_s = 0.0, []

        def wait(seconds: float) -> None:
            nonlocal now_s
            now_s += seconds

        monkeypatch.setattr(cameras.time, "perf_counter", lambda: now_s)  # noqa: B023
        camera = FileCamera(film, None, Buffers())
        monkeypatch.setattr(camera._closed, "wait", wait)
        for _ in wanted_s:
            camera.read()
            seen_s.append(now_s)
        camera.close()
        assert seen_s == pytest.approx(wanted_s, abs=0.001)


def test_size_limits_a_film_without_distorting_it(tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(2, 96, 128))
    for size, wanted in (((48, 640), (48, 64)), ((480, 640), (96, 128)), (None, (96, 128))):
        camera = FileCamera(film, size, Buffers())
        frame = camera.read()
        assert frame is not None
        assert frame.shape == (*wanted, 3)
        camera.close()


@pytest.mark.parametrize(
    ("aspect", "rotation", "wanted"),
    [
        (Fraction(4, 3), 0, (96, 170)),
        (Fraction(8, 9), 0, (108, 128)),
        (Fraction(4, 3), 90, (170, 96)),
        (Fraction(200), 0, (96, 128)),
    ],
)
def test_non_square_pixels_of_a_film_are_made_square(tmp_path, aspect, rotation, wanted):
    film = write_film(tmp_path / "a.mp4", drifting(2, 96, 128), sample_aspect=aspect, rotation=rotation)
    camera = FileCamera(film, None, Buffers())
    frame = camera.read()
    camera.close()
    assert frame is not None
    assert frame.shape == (*wanted, 3)


def test_a_network_stream_is_a_camera_and_its_end_is_noticed(tmp_path, monkeypatch):
    write_film(tmp_path / "a.ts", drifting(4), sample_aspect=Fraction(2))
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    monkeypatch.chdir(tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        camera = open_camera(f"{address}/a.ts", None, Buffers())
        frames = [camera.read() for _ in range(5)]
        camera.close()
        with pytest.raises(VideoError, match=r"camera http://127\.0\.0\.1.*nothing.ts cannot be opened"):
            open_camera(f"{address}/nothing.ts", None, Buffers())
        with av.open("sound.ts", "w") as out:
            tone = out.add_stream("aac", 48000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate = 48000
            out.mux(tone.encode(sound))
            out.mux(tone.encode(None))
        with pytest.raises(VideoError, match="there is no video in it"):
            open_camera(f"{address}/sound.ts", None, Buffers())
        server.shutdown()
    assert all(frame is not None and frame.shape == (96, 256, 3) for frame in frames[:4])
    assert frames[4] is None


@pytest.mark.parametrize(
    ("camera", "message"), [("9", "camera 9 cannot be opened; "), ("nowhere.mp4", "there is no camera or film nowhere.mp4; ")]
)
def test_a_missing_camera_is_refused_with_a_list_of_those_found(camera, message):
    with pytest.raises(VideoError, match=message + "(found: .*--camera N|no camera was found; --camera FILE)"):
        open_camera(camera, None, Buffers())


def test_cameras_are_listed_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    for index, name in ((10, "Capture"), (2, "Integrated Camera")):
        (tmp_path / f"video{index}").mkdir()
        (tmp_path / f"video{index}" / "name").write_text(f"{name}\n")
    monkeypatch.setattr(cameras, "Path", lambda _: tmp_path)
    assert cameras.cameras_found.__wrapped__() == "found: 2 (Integrated Camera), 10 (Capture); choose with --camera N"


def test_a_damaged_film_is_refused_as_a_camera(tmp_path):
    Path(tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(VideoError, match="not a video"):
        open_camera(str(tmp_path / "a.mp4"), None, Buffers())
