"""Windows that can or cannot be opened, a missing virtual camera."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from films import drifting, write_film

from allaprima.inference.live import displays
from allaprima.models.errors import VideoError

ROOT = Path(__file__).resolve().parents[3]


def test_a_missing_display_is_reported_before_opencv_would_abort(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(VideoError, match="neither DISPLAY nor WAYLAND_DISPLAY is set"):
        displays.Window()
    monkeypatch.setenv("DISPLAY", ":4711")
    with pytest.raises(VideoError, match=r"no window can be opened: .*; --headless"):
        displays.Window()


def test_opencv_is_loaded_before_pyav_or_its_windows_would_hang():
    code = "import allaprima.inference.film.sinks, sys; print([name for name in sys.modules if name in ('av', 'cv2')])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "['cv2', 'av']\n"


@pytest.mark.skipif(not shutil.which("Xvfb"), reason="needs Xvfb")
def test_a_real_window_opens_and_shows_frames(style_file, tmp_path):
    film = write_film(tmp_path / "a.mp4", drifting(20))
    read, write = os.pipe()
    with subprocess.Popen(
        ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24"],
        pass_fds=(write,),
        stderr=subprocess.DEVNULL,
    ) as server:
        os.close(write)
        with open(read) as numbers:  # closing it before the line is complete would end the server
            number = numbers.readline().strip()
        command = [sys.executable, "-m", "allaprima", "webcam", "-s", str(style_file), "--camera", str(film)]
        environment = {**os.environ, "DISPLAY": f":{number}"}
        try:
            result = subprocess.run(
                [*command, "--frames", "20"], env=environment, capture_output=True, text=True, timeout=60, check=False
            )
        finally:
            server.terminate()
    assert result.returncode == 0, result.stderr
    assert "20 frames" in result.stdout
    assert result.stderr.count("\n") == 1  # the device's line; none by OpenCV or Qt


def test_virtual_camera_without_pyvirtualcam_says_how_to_install_it(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    code, _, err = run("webcam", "--headless", "--virtual-camera")
    assert code == 1
    assert "pip install pyvirtualcam" in err
