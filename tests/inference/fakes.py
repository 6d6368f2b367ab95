"""A camera, networks and a display for the tests of the live pipeline, and `go`, which runs it with them."""

import threading
import time
from collections.abc import Callable

import numpy as np

from allaprima.inference.buffers import Buffers
from allaprima.inference.live.cameras import CameraFeed
from allaprima.inference.live.webcam import Controls, Webcam
from allaprima.models.contract import Contract


class FakeCamera:
    """Delivers frames until told otherwise.

    Attributes:
        mode: "living", "blocked" (read does not return until released), "frozen" (the same frame again and again) or
            "gone" (read returns None).
    """

    def __init__(self, mode: str = "living", frame_s: float = 0.01, silent_s: float = 0.3) -> None:
        self.mode, self.frame_s, self.silent_s, self.freezes = mode, frame_s, silent_s, True
        self.released, self.closed = threading.Event(), False
        self._count = 0

    def read(self) -> np.ndarray | None:
        time.sleep(self.frame_s)
        if self.mode == "blocked":
            self.released.wait()
        if self.mode == "gone":
            return None
        if self.mode != "frozen":
            self._count += 1
        return np.full((48, 64, 3), self._count % 256, np.uint8)

    def close(self) -> None:
        self.closed = True


class SlowSession:
    """A network that takes its time and paints one color."""

    runs_in = "ONNX Runtime"

    def __init__(self, network_s: float = 0.0, level: float = 0.5) -> None:
        self.contract, self.network_s, self.level = Contract(4, 16), network_s, level
        self.sizes: list[tuple[int, int]] = []

    def stylize_image(self, image: np.ndarray) -> np.ndarray:
        time.sleep(self.network_s)
        self.sizes.append(image.shape[2:])
        return np.full_like(image, self.level)


class FakeRack:
    """Styles that are ready at once, or never."""

    def __init__(self, **sessions: SlowSession | None) -> None:
        self.names, self._sessions, self.errors = list(sessions), sessions, {}
        self.first = sessions[self.names[0]]

    def session(self, name: str) -> SlowSession | None:
        return self._sessions[name]

    def open_all(self, height: int, width: int) -> None:
        self.size = (height, width)


class FakeDisplay:
    """Remembers what was shown and presses keys: one of `keys` after each frame, or whatever `press` returns."""

    def __init__(self, keys: str = "", press: Callable[["FakeDisplay"], str] | None = None) -> None:
        self.shown: list[np.ndarray] = []
        self._keys, self._press = list(keys), press

    def show(self, frame: np.ndarray) -> None:
        self.shown.append(frame.copy())

    def key(self) -> str:
        if self._press:
            return self._press(self)
        return self._keys.pop(0) if self._keys else ""

    def close(self) -> None: ...


def go(camera=None, display=None, frames=0, controls=None, rack=None, **options) -> Webcam:
    """Runs a webcam to its end; the lines it printed are in `said`."""
    buffers = Buffers()
    feed = CameraFeed(lambda: camera or FakeCamera(), buffers)
    said: list[str] = []
    deadline = time.monotonic() + 30  # a test that would otherwise wait forever fails
    live = Webcam(
        feed, rack or FakeRack(a=SlowSession()), buffers, controls or Controls(), display=display, say=said.append, **options
    )
    live.said = said
    try:
        live.run(frames, stopped=lambda: len(said) > 50 or time.monotonic() > deadline)
    finally:
        feed.close()
    return live
