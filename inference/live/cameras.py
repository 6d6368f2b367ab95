"""Cameras: a device, a stream's address, or a film that plays as one; and the thread that keeps the newest frame."""

import contextlib
import functools
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import av
import cv2
import numpy as np
from av.error import FFmpegError, InvalidDataError

from allaprima.inference.buffers import Buffers
from allaprima.inference.film.frames import Moment, ToRgb, VideoReader
from allaprima.inference.pictures import fitted_within
from allaprima.inference.profile import Profile
from allaprima.models.errors import VideoError, without_secrets

CAMERA_SIZE = (480, 640)  # height and width that a camera is asked for
SILENT_S = 1.8  # without a new picture, the camera is blocked or frozen; the screen says so within 2 s
OPENING_S = 10.0  # opening may take longer than a picture
BACK_OFF_S = (0.5, 1.0, 2.0, 4.0, 8.0)  # between two attempts to open it again
MAX_STUCK = 2  # when so many threads hang in a blocked camera, no more are started
MAX_ASPECT = Fraction(4)  # of a pixel; a larger one is from a damaged header
INDEXES = 5  # devices to try if the system cannot list them

T = TypeVar("T")


class Newest(Generic[T]):
    """A queue of one item, in which the newest wins."""

    def __init__(self) -> None:
        self._item: T | None = None
        self._change = threading.Condition()

    def put(self, item: T) -> T | None:
        """Never waits; returns the replaced item, if nobody took it."""
        with self._change:
            replaced, self._item = self._item, item
            self._change.notify()
        return replaced

    def get(self, timeout_s: float) -> T | None:
        """Waits for an item; None if there was none in time."""
        with self._change:
            self._change.wait_for(lambda: self._item is not None, timeout_s)
            item, self._item = self._item, None
        return item


class Camera(Protocol):
    """What `CameraFeed` reads from.

    Attributes:
        silent_s: if there is no picture for so long, it is blocked.
        freezes: whether bit-identical pictures mean that it hangs: a working sensor's noise always changes.
    """

    silent_s: float
    freezes: bool

    def read(self) -> np.ndarray | None:
        """Wait for the next frame, (H, W, 3) uint8 RGB; None once no more will come."""

    def close(self) -> None: ...


class DeviceCamera:
    """A camera of this computer, read by OpenCV.

    Args:
        device: its index, or its path on Linux.
        size: (height, width) to ask for; the camera gives what it can.
        buffers: where frames come from.
    Raises:
        VideoError: it cannot be opened or gives no picture; the message lists the cameras found.
    """

    silent_s, freezes = SILENT_S, True

    def __init__(self, device: int | str, size: tuple[int, int], buffers: Buffers) -> None:
        self._buffers = buffers
        # Else OpenCV prints its own lines about a missing camera.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        backend = cv2.CAP_V4L2 if sys.platform.startswith("linux") else cv2.CAP_ANY
        self._capture = cv2.VideoCapture(device, backend)
        if not self._capture.isOpened():
            raise VideoError(f"camera {device} cannot be opened; {cameras_found()}")
        if size[0] * size[1] > 640 * 480:  # larger frames do not fit through USB uncompressed at 30 per second
            self._capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
        self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[1])
        self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[0])
        self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        self._bgr: np.ndarray | None = None

    def read(self) -> np.ndarray | None:
        well, self._bgr = self._capture.read(self._bgr)
        if not well or self._bgr is None:
            return None
        return np.asarray(cv2.cvtColor(self._bgr, cv2.COLOR_BGR2RGB, self._buffers.take(self._bgr.shape)))

    def close(self) -> None:
        self._capture.release()


class FileCamera:
    """A film that plays at its own speed, over and over, as if it were a camera.

    Args:
        path: the film. size: (height, width) that frames are fitted into, keeping their aspect; None for their own size.
            Pixels that are not square become square.
    Raises:
        VideoError: not a film.
    """

    silent_s, freezes = float("inf"), False  # a film may well stand still

    def __init__(self, path: Path, size: tuple[int, int] | None, buffers: Buffers) -> None:
        self._path, self._size, self._buffers = path, size, buffers
        self._reader = VideoReader(path)
        self._items = iter(self._reader)
        self._start_s = time.perf_counter()
        self._stays_s = 0.0  # how long the picture read last is shown; 0 before the first one
        self._closed = threading.Event()

    def read(self) -> np.ndarray | None:
        while not self._closed.is_set():
            item = next(self._items, None)
            if isinstance(item, Moment):
                self._wait_for(float(item.pts * self._reader.time_base))
                self._stays_s = float(item.duration * self._reader.time_base or 1 / self._reader.rate)
                return _square(item.frame, self._reader.sample_aspect, self._size, self._buffers)
            if item is None:
                self._rewind()
        return None

    def _wait_for(self, time_s: float) -> None:
        late_s = time.perf_counter() - self._start_s - time_s
        if late_s < 0:
            self._closed.wait(-late_s)
        elif late_s > 0.5:  # this computer cannot keep up with the film: play slower rather than with jumps
            self._start_s += late_s

    def _rewind(self) -> None:
        if not self._stays_s:
            raise VideoError(f"{self._path} holds no frame that can be decoded")
        self._reader.close()
        self._reader = VideoReader(self._path)
        self._items = iter(self._reader)
        self._start_s, self._stays_s = time.perf_counter() + self._stays_s, 0.0

    def close(self) -> None:
        self._closed.set()
        self._reader.close()


class StreamCamera:
    """A camera on the network: rtsp://, http://, ...

    Raises:
        VideoError: no answer, or no video.
    """

    silent_s, freezes = SILENT_S, False  # a compressed stream repeats what does not change

    def __init__(self, address: str, size: tuple[int, int] | None, buffers: Buffers) -> None:
        self._size, self._buffers = size, buffers
        options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}  # over UDP, lost packets tear the picture
        try:
            self._container = av.open(address, options=options, timeout=(5.0, 5.0))
        except (FFmpegError, OSError) as error:
            raise VideoError(f"camera {address} cannot be opened: {error.strerror or error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"camera {address} cannot be opened: there is no video in it")
        self._av_frames = self._decode()
        self._to_rgb: ToRgb | None = None

    def _decode(self) -> Iterator[av.VideoFrame]:
        for packet in self._container.demux(video=0):
            with contextlib.suppress(InvalidDataError):  # damaged on the way; the next one may be intact
                yield from packet.decode()

    def read(self) -> np.ndarray | None:
        try:
            av_frame = next(self._av_frames, None)
        except (FFmpegError, OSError):
            return None
        if av_frame is None:
            return None
        self._to_rgb = self._to_rgb or ToRgb(av_frame)
        aspect = Fraction(self._container.streams.video[0].sample_aspect_ratio or 1) or Fraction(1)
        return _square(self._to_rgb(av_frame), 1 / aspect if self._to_rgb.turned else aspect, self._size, self._buffers)

    def close(self) -> None:
        self._container.close()


def open_camera(camera: str, size: tuple[int, int] | None, buffers: Buffers) -> Camera:
    """Open whatever a user names as a camera: an index, a device's path, a film, or an address.

    Args:
        camera: "0", "/dev/video2", "clip.mp4", "rtsp://...".
        size: (height, width) to ask a device for (None: 480x640), or to fit films and streams into (None: their own).
    Raises:
        VideoError: no such camera.
    """
    if camera.isdecimal():
        return DeviceCamera(int(camera), size or CAMERA_SIZE, buffers)
    if "://" in camera:
        return StreamCamera(camera, size, buffers)
    if Path(camera).is_char_device():
        return DeviceCamera(camera, size or CAMERA_SIZE, buffers)
    if not Path(camera).exists():
        raise VideoError(f"there is no camera or film {camera}; {cameras_found()}")
    return FileCamera(Path(camera), size, buffers)


@functools.cache  # looked for once: except on Linux, each one must be opened for that, and its light goes on
def cameras_found() -> str:
    """What to tell a user whose camera is missing."""
    names = []
    if sys.platform.startswith("linux"):
        for device in sorted(Path("/sys/class/video4linux").glob("video*"), key=lambda path: int(path.name[5:])):
            with contextlib.suppress(OSError):
                names.append(f"{device.name[5:]} ({(device / 'name').read_text().strip()})")
    else:
        for index in range(INDEXES):
            capture = cv2.VideoCapture(index)
            if capture.isOpened():
                names.append(str(index))
            capture.release()
    if names:
        return f"found: {', '.join(names)}; choose with --camera N"
    return "no camera was found; --camera FILE plays a film as if it were one"


def _square(frame: np.ndarray, aspect: Fraction, size: tuple[int, int] | None, buffers: Buffers) -> np.ndarray:
    """A frame with square pixels that fits within a size; making them square loses none.

    Args:
        frame: (H, W, 3) uint8 RGB. aspect: width to height of its pixels. size: (height, width), or None.
    """
    height, width = frame.shape[:2]
    if 1 < aspect <= MAX_ASPECT:
        width = 2 * round(width * aspect / 2)  # even, for encoders
    elif 1 / MAX_ASPECT <= aspect < 1:
        height = 2 * round(height / aspect / 2)
    if size is not None:
        height, width = fitted_within(height, width, *size)
    if (height, width) == frame.shape[:2]:
        return frame
    return np.asarray(cv2.resize(frame, (width, height), buffers.take((height, width, 3)), interpolation=cv2.INTER_AREA))


@dataclass(frozen=True)
class Shot:
    """A camera's frame, (H, W, 3) uint8 RGB, and the time of its arrival, by time.perf_counter."""

    frame: np.ndarray
    time_s: float


class CameraFeed:
    """The newest frame of a camera that may hang, freeze or be unplugged; it is then opened again, with pauses.

    Args:
        open_again: opens the camera; first called in the constructor, so that a wrong one is noticed at once.
        buffers: where unused frames are returned.
        profile: receives the time that reading takes.
    Attributes:
        newest: the newest shot.
    Raises:
        VideoError: it cannot be opened.
    """

    def __init__(self, open_again: Callable[[], Camera], buffers: Buffers, profile: Profile | None = None) -> None:
        self.newest: Newest[Shot] = Newest()
        self._open, self._buffers, self._profile = open_again, buffers, profile or Profile()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards everything below
        self._trouble = ""
        self._attempts = 0  # attempts to open it again since the last picture
        self._limit_s = float("inf")  # when the current call into the camera should have returned
        self._next_attempt_s = 0.0
        self._still: int | None = None  # fingerprint of a picture unchanged by reopening: it is just still
        self._threads: list[threading.Thread] = []
        self._start(self._open())

    @property
    def trouble(self) -> str:
        """Why there is no picture, "" if there is one. Reading this also starts a new thread if the old one is stuck in the
        camera, so read it several times a second."""
        now_s = time.perf_counter()
        with self._lock:
            if now_s > self._limit_s and not self._closing.is_set():
                self._trouble = "the camera gives no picture"
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                if now_s > self._next_attempt_s and len(self._threads) <= MAX_STUCK:
                    self._next_attempt_s = now_s + self._pause_s()
                    self._attempts += 1
                    self._start(None)
            return self._trouble

    def _pause_s(self) -> float:
        return BACK_OFF_S[min(self._attempts, len(BACK_OFF_S) - 1)]

    def _start(self, camera: Camera | None) -> None:
        self._limit_s = time.perf_counter() + OPENING_S
        self._current = threading.Thread(target=self._capture, args=(camera,), name="capture", daemon=True)
        self._threads.append(self._current)
        self._current.start()

    def _mine(self) -> bool:
        """Whether the calling thread is the current one; when that is stuck, another replaces it."""
        return self._current is threading.current_thread() and not self._closing.is_set()

    def _capture(self, camera: Camera | None) -> None:
        while self._mine():
            trouble = ""
            try:
                if camera is None:
                    with self._lock:
                        self._limit_s = time.perf_counter() + OPENING_S if self._mine() else self._limit_s
                    camera = self._open()
                trouble = self._read(camera)
            except VideoError as error:
                trouble = str(error)
            except Exception as error:  # from a driver
                trouble = without_secrets(f"the camera failed ({error})")
            finally:
                if camera is not None:
                    with contextlib.suppress(Exception):
                        camera.close()
                    camera = None
            with self._lock:
                if not self._mine():
                    return
                self._trouble, self._limit_s = trouble, float("inf")
                pause_s = self._pause_s()
                self._attempts += 1
            self._closing.wait(pause_s)

    def _read(self, camera: Camera) -> str:
        """Read until there is trouble, and return what it is."""
        last, changed_s = None, time.perf_counter()
        patience_s = max(OPENING_S, camera.silent_s)  # for the first picture
        while True:
            start_s = time.perf_counter()
            with self._lock:
                if not self._mine():
                    return ""
                self._limit_s = start_s + patience_s
            frame = camera.read()
            now_s = time.perf_counter()
            patience_s = camera.silent_s
            with self._lock:
                if frame is None or not self._mine():
                    self._buffers.give(frame)
                    return "the camera is gone"
                self._limit_s = now_s + patience_s
            if camera.freezes:
                fingerprint = zlib.crc32(frame[::8, ::8].tobytes())
                if fingerprint != last:
                    last, changed_s = fingerprint, now_s
                elif now_s - changed_s > SILENT_S and self._still != fingerprint:
                    self._still = fingerprint  # if it is the same after opening again, the picture is just still
                    return "the camera's picture is frozen"
            self._profile.add("capture", 1000.0 * (now_s - start_s))
            with self._lock:
                if self._mine():
                    self._trouble, self._attempts = "", 0
            replaced = self.newest.put(Shot(frame, now_s))
            if replaced is not None:
                self._buffers.give(replaced.frame)

    def close(self, timeout_s: float = 0.5) -> None:
        """Ends the thread; one that is stuck in the camera is abandoned rather than waited for."""
        self._closing.set()
        for thread in self._threads:
            thread.join(timeout_s)
