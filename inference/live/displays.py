"""Where live pictures go: a window, a virtual camera."""

import os
import subprocess
import sys
from types import ModuleType
from typing import Any, Protocol

import cv2
import numpy as np

from allaprima.inference.buffers import Scratch
from allaprima.models.errors import VideoError

TITLE = "Alla Prima"
PROBE_S = 20.0  # a display that has not answered by then does not work


class Display(Protocol):
    """Shows pictures and receives keys."""

    def show(self, frame: np.ndarray) -> None:
        """Show (H, W, 3) uint8 RGB."""

    def key(self) -> str:
        """The key pressed since the last call, "" for none, "q" if the window was closed. Waits a millisecond."""

    def close(self) -> None: ...


class Window:
    """A window on this computer's screen.

    Raises:
        VideoError: there is no display, or OpenCV cannot use it.
    """

    def __init__(self) -> None:
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")  # OpenCV's Qt prints line after line about fonts
        trouble = display_trouble() or _probe()
        if trouble:
            raise VideoError(f"no window can be opened: {trouble}; --headless runs without one (with --record, say)")
        self._scratch = Scratch()
        self._size = (0, 0)
        self._shown = False

    def show(self, frame: np.ndarray) -> None:
        if not self._shown:
            cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            self._shown = True
        if frame.shape[:2] != self._size:  # at first, and when the original appears beside the painting
            self._size = frame.shape[0], frame.shape[1]
            cv2.resizeWindow(TITLE, frame.shape[1], frame.shape[0])
        cv2.imshow(TITLE, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR, self._scratch.get("bgr", frame.shape)))

    def key(self) -> str:
        if not self._shown:
            return ""
        code = cv2.waitKey(1)
        if code == 27 or cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
            return "q"
        return chr(code & 0xFF) if code >= 0 else ""

    def close(self) -> None:
        if self._shown:
            cv2.destroyAllWindows()
            cv2.waitKey(1)


def display_trouble() -> str:
    """Why no window can be opened, as far as the environment tells; "" if one may be."""
    if sys.platform in ("win32", "darwin") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return ""
    return "there is no display (neither DISPLAY nor WAYLAND_DISPLAY is set)"


def _probe() -> str:
    """Try in another process: if the display does not answer, OpenCV's toolkit ends its own process."""
    if sys.platform in ("win32", "darwin"):
        return ""
    code = f"import cv2; cv2.namedWindow('{TITLE}'); cv2.waitKey(1)"
    try:
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "the display does not answer"
    if result.returncode == 0:
        return ""
    said = result.stderr.decode(errors="replace").strip().splitlines()
    missing = next((line for line in said if "cannot open shared object" in line or "not implemented" in line), "")
    if missing:
        return f"OpenCV lacks a library ({missing}); on Debian: apt-get install libsm6 libice6 libxext6"
    return f"the display {os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY')} does not answer"


class VirtualCamera:
    """A camera that other programs see (OBS on Windows and macOS, v4l2loopback on Linux), through pyvirtualcam.

    Raises:
        VideoError: pyvirtualcam is not installed, or finds no device.
    """

    def __init__(self, height: int, width: int, fps: float) -> None:
        pyvirtualcam = _pyvirtualcam()
        try:
            self._camera: Any = pyvirtualcam.Camera(
                width=width, height=height, fps=fps, fmt=pyvirtualcam.PixelFormat.RGB, print_fps=False
            )
        except RuntimeError as error:
            advice = "install OBS, which brings one, and start its virtual camera once"
            if sys.platform.startswith("linux"):
                advice = "apt-get install v4l2loopback-dkms && modprobe v4l2loopback devices=1"
            raise VideoError(f"no virtual camera: {str(error).strip()}; {advice}") from error
        self._size = (width, height)

    def send(self, frame: np.ndarray) -> None:
        """Send (H, W, 3) uint8 RGB, scaled to the initial size."""
        if frame.shape[1::-1] != self._size:
            frame = np.asarray(cv2.resize(frame, self._size))
        self._camera.send(frame)

    def close(self) -> None:
        self._camera.close()


def check_virtual_camera() -> None:
    """Raises VideoError, with the command that installs it, if pyvirtualcam is missing."""
    _pyvirtualcam()


def _pyvirtualcam() -> ModuleType:
    try:
        import pyvirtualcam
    except ImportError as error:
        text = "--virtual-camera needs pyvirtualcam, which is not installed: pip install pyvirtualcam"
        raise VideoError(text) from error
    return pyvirtualcam
