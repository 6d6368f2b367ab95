"""`allaprima webcam`: camera -> newest frame -> network -> newest painting -> window, each in its own thread.

Between two threads lies a queue of one in which the newest wins, so a slow network or screen drops pictures and never
falls behind. The display has the main thread, which window systems want.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from inference.buffers import Buffers, Scratch
from inference.color import MODES
from inference.film.sinks import VideoWriter
from inference.live.cameras import CameraFeed, Newest
from inference.live.displays import Display, VirtualCamera
from inference.painter import FilmPainter, StylizeOptions, one_opencv_thread
from inference.pictures import Picture, write_picture
from inference.profile import Profile
from inference.session import StyleSession
from models.errors import AllaPrimaError, VideoError

KEYS = (
    ("n / p", "next, previous style"),
    ("c", "colors: none, luminance, histogram, linear"),
    ("+ / -", "strength up, down"),
    ("m", "mirror"),
    ("b", "side by side with the original"),
    ("s", "save this picture"),
    ("r", "start, stop recording"),
    ("h", "this help"),
    ("q, Esc", "quit"),
)
RECORDING_QUEUE = 8  # frames that may wait for the encoder; more are dropped


@dataclass
class Controls:
    """What the keys change; the network's thread looks at it before each frame.

    Attributes:
        style: which of the styles. keep_color, strength: as in `StylizeOptions`.
    """

    style: int = 0
    keep_color: str = "none"
    strength: float = 1.0
    mirror: bool = False
    side_by_side: bool = False
    help: bool = False
    quit: bool = False


@dataclass(frozen=True)
class Sketch:
    """What the network made of a frame.

    Attributes:
        content_frame: (H, W, 3) uint8 RGB. stylized_image: (1, 3, H', W') float32 in [0, 1], of the working size.
        shot_s, painted_s: when it was captured and when it was painted, by time.perf_counter.
        style: its name.
    """

    content_frame: np.ndarray
    stylized_image: np.ndarray
    shot_s: float
    painted_s: float
    style: str


@dataclass(frozen=True)
class Painting:
    """A sketch finished: `stylized_frame` has the content's size, and its colours where they are kept."""

    content_frame: np.ndarray
    stylized_frame: np.ndarray
    sketch: Sketch


class StyleRack:
    """Styles that are opened in the background, so that changing to one does not hold up the picture.

    Args:
        paths: .onnx files by name. device: see `StyleSession`.
    Attributes:
        names: of the styles. first: the session of the first one. errors: why styles could not be opened, by name.
    Raises:
        StyleError: the first one cannot be opened.
    """

    def __init__(self, paths: dict[str, Path], device: str = "auto") -> None:
        self.names = list(paths)
        self.errors: dict[str, str] = {}
        self._paths, self._device = paths, device
        self.first = StyleSession(paths[self.names[0]], device, shared=True)
        self._sessions = {self.names[0]: self.first}
        self._size = (0, 0)
        self._opener: threading.Thread | None = None
        self._opening: StyleSession | None = None
        self._closing = False

    def session(self, name: str) -> StyleSession | None:
        """None while it is being opened, or cannot be."""
        return self._sessions.get(name)

    def open_all(self, height: int, width: int) -> None:
        """Open the others and let each paint an empty frame of this size, one after the other."""
        self._size = (height, width)
        self._opener = threading.Thread(target=self._open_all, name="styles", daemon=True)
        self._opener.start()

    def _open_all(self) -> None:
        for name in self.names:
            if self._closing:
                return
            try:
                if name in self._sessions:
                    continue
                session = self._opening = StyleSession(self._paths[name], self._device, shared=True)
                session.stylize(np.zeros((*self._size, 3), np.uint8))  # the first run of a size takes longer
            except AllaPrimaError as error:
                self.errors[name] = str(error)
            else:
                self._sessions[name] = session

    def close(self) -> None:
        """Ends the opening, also in the middle of an empty frame."""
        self._closing = True
        if self._opening:
            self._opening.run_options.terminate = True
        if self._opener:
            self._opener.join(5.0)


class Pace:
    """Chooses at which share of its size a frame is painted so that a rate is held.

    The time grows with the number of pixels. It goes down as soon as a few frames took too long, and up again once the
    next size up would have fit for a while.

    Args:
        target_fps: wanted; 0 for always full size.
    """

    LEAST, STEP, WATCHED, PATIENCE_S = 0.25, 1.125, 6, 2.0

    def __init__(self, target_fps: float) -> None:
        self._budget_ms = 950.0 / target_fps if target_fps else float("inf")
        self.scale = 1.0
        self._times_ms: deque[float] = deque(maxlen=self.WATCHED)
        self._roomy_since_s: float | None = None

    def update(self, frame_ms: float, now_s: float) -> float:
        """Tell how long the last frame took; returns the scale for the next."""
        self._times_ms.append(frame_ms)
        if len(self._times_ms) < self.WATCHED or self._budget_ms == float("inf"):
            return self.scale
        usual_ms = float(np.median(self._times_ms))
        if usual_ms > self._budget_ms:
            self._change(self.scale * max(0.5, (0.95 * self._budget_ms / usual_ms) ** 0.5))
        elif self.scale < 1.0 and usual_ms * self.STEP**2 < 0.9 * self._budget_ms:
            if self._roomy_since_s is None:
                self._roomy_since_s = now_s
            elif now_s - self._roomy_since_s > self.PATIENCE_S:
                self._change(self.scale * self.STEP)
        else:
            self._roomy_since_s = None
        return self.scale

    def _change(self, scale: float) -> None:
        self.scale = min(1.0, max(self.LEAST, scale))
        self._times_ms.clear()
        self._roomy_since_s = None


class Recorder:
    """A recording in a thread of its own; while the encoder is behind, frames are dropped, not the picture's pace.

    Args:
        path, height, width, overwrite: see `VideoWriter`.
    Attributes:
        path: the file. frames: written so far. dropped: frames so far. error: what ended it.
    Raises:
        VideoError: such a file cannot be written.
    """

    def __init__(self, path: Path, height: int, width: int, overwrite: bool = False) -> None:
        self.path, self.dropped = path, 0
        self.error: VideoError | None = None
        self._writer = VideoWriter(path, height, width, Fraction(30), Fraction(1, 1000), overwrite=overwrite)
        self._size = (width, height)
        self._queue: queue.Queue[tuple[np.ndarray, float] | None] = queue.Queue(RECORDING_QUEUE)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> int:
        return self._writer.frames

    def add(self, frame: np.ndarray, time_s: float) -> None:
        """A frame, (H, W, 3) uint8 RGB, copied, and its time in seconds from any beginning."""
        if self._queue.full():
            self.dropped += 1
        elif self.error is None:
            self._queue.put((frame.copy(), time_s))

    def _run(self) -> None:
        first_s, last = None, -1
        while (item := self._queue.get()) is not None:
            frame, time_s = item
            first_s = time_s if first_s is None else first_s
            pts = round(1000 * (time_s - first_s))
            if pts <= last or self.error:
                continue
            last = pts
            try:
                if frame.shape[1::-1] != self._size:
                    frame = np.asarray(cv2.resize(frame, self._size))
                self._writer.write(frame, pts)
            except Exception as error:
                self.error = error if isinstance(error, VideoError) else VideoError(f"{self.path}: {error}")

    def close(self) -> None:
        """Finish the file; a recording without a frame leaves none.

        Raises:
            VideoError: it could not be written; nothing is left of it.
        """
        self._queue.put(None)
        self._thread.join()
        if self.error is None and not self._writer.frames:
            self._writer.abort()
            return
        if self.error:
            self._writer.abort()
            raise self.error
        self._writer.close()
        self.path = self._writer.path


@dataclass
class LiveReport:
    """What a live session was like, in frames and milliseconds."""

    frames: int = 0
    wall_s: float = 0.0
    dropped: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    recordings: list[Path] = field(default_factory=list)

    @property
    def fps(self) -> float:
        return (self.frames - 1) / self.wall_s if self.frames > 1 else 0.0

    def __str__(self) -> str:
        if not self.latencies_ms:
            return "no frame was painted"
        median_ms, high_ms = np.percentile(list(self.latencies_ms), [50, 95])
        return (
            f"{self.frames} frames, {self.fps:.1f} a second; camera to display {median_ms:.0f} ms, 95 % below {high_ms:.0f} ms"
        )


class Webcam:
    """A camera, painted live.

    Args:
        feed: the camera. rack: the styles.
        controls: how it begins.
        target_fps: see `Pace`.
        display: a window; None for none.
        record: where to record from the beginning; later recordings, and those begun by key, get names of their own.
        virtual_camera: opens one for a height and width; None for none.
        overwrite: whether `record` may be replaced.
        profile: is told how long each stage takes.
        say: prints a line.
    """

    def __init__(
        self,
        feed: CameraFeed,
        rack: StyleRack,
        buffers: Buffers,
        controls: Controls,
        target_fps: float = 0.0,
        display: Display | None = None,
        record: Path | None = None,
        virtual_camera: Callable[[int, int], VirtualCamera] | None = None,
        overwrite: bool = False,
        profile: Profile | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self._feed, self._rack, self._buffers, self.controls = feed, rack, buffers, controls
        self._display, self._open_virtual_camera, self._overwrite = display, virtual_camera, overwrite
        self._record_path, self._wanted, self._say = record, record, say
        self._profile = profile or Profile()
        self._pace = Pace(target_fps)
        self._painter = FilmPainter(rack.first, StylizeOptions(controls.keep_color, strength=controls.strength), self._profile)
        self._sketches: Newest[Sketch] = Newest()
        self._stopping = threading.Event()
        self._error: BaseException | None = None
        self._recorder: Recorder | None = None
        self._virtual_camera: VirtualCamera | None = None
        self._scratch = Scratch()
        self._intervals_ms: deque[float] = deque(maxlen=30)
        self._latencies_ms: deque[float] = deque(maxlen=30)
        self._recording_error: VideoError | None = None
        self._note, self._note_until_s = "", 0.0
        self.report = LiveReport()
        self.work_size = (0, 0)  # that the last frame was painted at

    def run(self, frames: int = 0, stopped: Callable[[], object] = lambda: False) -> LiveReport:
        """Until "q", so many frames (0: any number), or `stopped`.

        Raises:
            AllaPrimaError: the network failed, or a recording could not be written.
        """
        with one_opencv_thread():
            return self._run(frames, stopped)

    def _run(self, frames: int, stopped: Callable[[], object]) -> LiveReport:
        network = threading.Thread(target=self._paint, name="network", daemon=True)
        network.start()
        last: Painting | None = None
        said, shown_s, first_s = "", time.perf_counter(), 0.0
        try:
            while not (self.controls.quit or stopped() or (frames and self.report.frames >= frames)):
                sketch = self._sketches.get(0.03)
                if self._error:
                    raise self._error
                now_s = time.perf_counter()
                trouble = self._feed.trouble
                if trouble != said:
                    said = trouble
                    if trouble:
                        self._say(trouble)
                if sketch is not None:
                    first_s = first_s or now_s
                    self.report.frames += 1
                    self.report.wall_s = now_s - first_s
                    painting = self._finish(sketch, last)
                    self._use(painting)
                    if last is not None:
                        self._buffers.give(last.stylized_frame)
                        self._buffers.give(last.content_frame)
                    last = painting
                wanted = self._rack.names[self.controls.style]
                if wanted in self._rack.errors and last is not None:
                    self._announce(self._rack.errors[wanted])
                    self.controls.style = self._rack.names.index(last.sketch.style)
                if self._display is not None:
                    if sketch is not None or now_s - shown_s > 0.2:
                        with self._profile.stage("show"):
                            self._show(last, trouble)
                        shown_s = now_s
                    self._press(self._display.key(), last)
                if sketch is not None:
                    self._latencies_ms.append(1000.0 * (time.perf_counter() - sketch.shot_s))
                    self.report.latencies_ms.append(self._latencies_ms[-1])
        finally:
            self._stopping.set()
            network.join(5.0)
            try:
                self._stop_recording()
            finally:
                if self._virtual_camera is not None:
                    self._virtual_camera.close()
        if self._recording_error:
            raise self._recording_error
        return self.report

    def _paint(self) -> None:
        """The network's thread: newest shot in, newest sketch out."""
        showing = self._rack.names[0]
        opening = False
        try:
            while not self._stopping.is_set():
                shot = self._feed.newest.get(0.1)
                if shot is None:
                    continue
                start_s = time.perf_counter()
                if not opening:
                    self._rack.open_all(*shot.frame.shape[:2])
                    opening = True
                name = self._rack.names[self.controls.style]
                session = self._rack.session(name)
                if session is not None:  # until it is open, the one before goes on
                    self._painter.session, showing = session, name
                self._painter.scale = self._pace.scale
                content = np.asarray(cv2.flip(shot.frame, 1)) if self.controls.mirror else shot.frame
                stylized_image = self._painter.stylize(content)
                end_s = time.perf_counter()
                replaced = self._sketches.put(Sketch(content, stylized_image, shot.time_s, end_s, showing))
                if replaced is not None:
                    self.report.dropped += 1
                    self._buffers.give(replaced.content_frame)
                self._pace.update(1000.0 * (end_s - start_s), end_s)
        except BaseException as error:
            self._error = error

    def _finish(self, sketch: Sketch, last: Painting | None) -> Painting:
        """Colors, strength, size: here, so that the network's thread can go on with the next frame."""
        painter, controls = self._painter, self.controls
        if last is not None:
            self._intervals_ms.append(1000.0 * (sketch.painted_s - last.sketch.painted_s))
            self._profile.add("interval", self._intervals_ms[-1])
            if last.sketch.style != sketch.style:
                painter.color.forget()
        painter.color.mode, painter.strength = controls.keep_color, controls.strength
        self.work_size = sketch.stylized_image.shape[2], sketch.stylized_image.shape[3]
        out = self._buffers.take(sketch.content_frame.shape)
        frame = painter.finish(sketch.content_frame, sketch.stylized_image, sketch.shot_s, out)
        return Painting(sketch.content_frame, frame, sketch)

    def _use(self, painting: Painting) -> None:
        """Record it, send it on."""
        frame = painting.stylized_frame
        if self._record_path and self._recorder is None:
            path, self._record_path = self._record_path, None
            self._recorder = Recorder(path, frame.shape[0], frame.shape[1], self._overwrite)
        if self._recorder is not None:
            self._recorder.add(frame, painting.sketch.shot_s)
            if self._recorder.error:
                self._stop_recording()
        if self._open_virtual_camera is not None and self._virtual_camera is None:
            self._virtual_camera = self._open_virtual_camera(*frame.shape[:2])
        if self._virtual_camera is not None:
            self._virtual_camera.send(frame)

    def _stop_recording(self) -> None:
        if self._recorder is None:
            return
        recorder, self._recorder = self._recorder, None
        try:
            recorder.close()
        except VideoError as error:
            if recorder.path == self._wanted:  # a recording begun by key is announced, and that is all
                self._recording_error = error
            self._announce(str(error))
            return
        if not recorder.frames:
            self._announce("nothing was recorded")
            return
        self.report.recordings.append(recorder.path)
        self._announce(f"recorded {recorder.path}" + (f", {recorder.dropped} frames dropped" if recorder.dropped else ""))

    def _announce(self, text: str) -> None:
        self._note, self._note_until_s = text, time.perf_counter() + 3.0
        self._say(text)

    def _press(self, key: str, last: Painting | None) -> None:
        """What a key does."""
        controls, styles = self.controls, len(self._rack.names)
        if key == "q":
            controls.quit = True
        elif key in ("n", "p"):
            controls.style = (controls.style + (1 if key == "n" else -1)) % styles
        elif key == "c":
            controls.keep_color = MODES[(MODES.index(controls.keep_color) + 1) % len(MODES)]
        elif key in ("+", "=", "-", "_"):
            step = 0.1 if key in "+=" else -0.1
            controls.strength = round(min(1.0, max(0.0, controls.strength + step)), 1)
        elif key == "m":
            controls.mirror = not controls.mirror
        elif key == "b":
            controls.side_by_side = not controls.side_by_side
        elif key == "h":
            controls.help = not controls.help
        elif key == "s" and last is not None:
            path = _free_name("png")
            try:
                write_picture(path, Picture(last.stylized_frame), overwrite=False)
                self._announce(f"saved {path}")
            except AllaPrimaError as error:
                self._announce(str(error))
        elif key == "r" and self._recorder is not None:
            self._stop_recording()
        elif key == "r" and last is not None:
            try:
                self._recorder = Recorder(_free_name("mp4"), *last.stylized_frame.shape[:2])
            except VideoError as error:
                self._announce(str(error))

    def _show(self, painting: Painting | None, trouble: str) -> None:
        """Lay out the window: the painting, the original beside it, words over it."""
        assert self._display is not None
        if painting is None:
            canvas = np.zeros((480, 640, 3), np.uint8)
        else:
            parts = [painting.stylized_frame]
            if self.controls.side_by_side:
                parts.insert(0, painting.content_frame)
            height, width = painting.stylized_frame.shape[:2]
            canvas = self._scratch.get("canvas", (height, width * len(parts), 3))
            for i, part in enumerate(parts):
                canvas[:, i * width : (i + 1) * width] = part
        now_s = time.perf_counter()
        if trouble:
            np.right_shift(canvas, 2, out=canvas)
            _write(canvas, [trouble, "trying to open it again; q quits"], centred=True)
        elif painting is None:
            _write(canvas, ["waiting for the camera"], centred=True)
        else:
            lines = [self._status(painting)]
            if self._recorder is not None:
                lines.append(f"recording {self._recorder.path}")
            if now_s < self._note_until_s:
                lines.append(self._note)
            _write(canvas, lines)
        if self.controls.help:
            _write(canvas, [f"{key}\t{what}" for key, what in KEYS], centred=True)
        self._display.show(canvas)

    def _status(self, painting: Painting) -> str:
        intervals_ms = list(self._intervals_ms)
        fps = 1000.0 / float(np.mean(intervals_ms)) if intervals_ms else 0.0
        latency_ms = float(np.median(self._latencies_ms)) if self._latencies_ms else 0.0
        wanted = self._rack.names[self.controls.style]
        style = painting.sketch.style if wanted == painting.sketch.style else f"{painting.sketch.style}, opening {wanted}"
        parts = [f"{fps:.0f} fps", f"{latency_ms:.0f} ms", style]
        if self.controls.keep_color != "none":
            parts.append(self.controls.keep_color)
        if self.controls.strength < 1.0:
            parts.append(f"strength {self.controls.strength:.1f}")
        height, width = painting.sketch.stylized_image.shape[2:]
        if (height, width) != painting.stylized_frame.shape[:2]:
            parts.append(f"painted at {width}x{height}")
        return "  |  ".join([*parts, "h: keys"])


def _free_name(suffix: str) -> Path:
    """A name in the current folder that nothing has yet."""
    stem = time.strftime("allaprima_%Y%m%d_%H%M%S")
    names = [Path(f"{stem}.{suffix}"), *(Path(f"{stem}_{i}.{suffix}") for i in range(2, 100))]
    return next((name for name in names if not name.exists()), names[0])


def _write(canvas: np.ndarray, lines: Sequence[str], centred: bool = False) -> None:
    """Write small text with a dark ground onto a canvas; what follows a tab begins in a second column."""
    height, width = canvas.shape[:2]
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.35, min(0.5, width / 1400))
    line_px = round(40 * size)
    rows = [line.encode("ascii", "replace").decode().split("\t") for line in lines]  # the font has no other letters

    def text_px(text: str) -> int:
        return int(cv2.getTextSize(text, font, size, 1)[0][0])

    second_px = 14 + max((text_px(row[0]) for row in rows if len(row) > 1), default=0)
    wide_px = 16 + max(second_px + text_px(row[1]) if len(row) > 1 else text_px(row[0]) for row in rows)
    top = max(0, (height - line_px * len(rows)) // 2) if centred else 0
    left = max(0, (width - wide_px) // 2) if centred else 0
    ground = canvas[top : top + line_px * len(rows) + 6, left : left + wide_px]
    np.right_shift(ground, 2, out=ground)
    for i, row in enumerate(rows):
        y = top + (i + 1) * line_px - round(10 * size)
        for x, text in zip((left + 8, left + 8 + second_px), row, strict=False):
            cv2.putText(canvas, text, (x, y), font, size, (255, 250, 240), 1, cv2.LINE_AA)
