"""`allaprima webcam`: camera -> newest frame -> network -> newest painting -> window, each in its own thread.

Between two threads is a queue of one item, in which the newest wins, so a slow network or screen drops pictures and never
falls behind. The display uses the main thread, which window systems require.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from allaprima.inference.buffers import Buffers, Scratch
from allaprima.inference.live.cameras import CameraFeed, Newest
from allaprima.inference.live.displays import Display, VirtualCamera
from allaprima.inference.live.overlay import lay_out
from allaprima.inference.live.pace import Pace
from allaprima.inference.live.rack import StyleRack
from allaprima.inference.live.recorder import Recorder, free_name
from allaprima.inference.options import COLOR_MODES, StylizeOptions
from allaprima.inference.painter import FilmPainter, one_opencv_thread
from allaprima.inference.pictures import Picture, write_picture
from allaprima.inference.profile import Profile
from allaprima.inference.style.fading import PaletteRack
from allaprima.models.errors import AllaPrimaError, VideoError

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


ONE_PASS = StylizeOptions(strokes=0.0)


@dataclass
class Controls:
    """What the keys change; the network's thread reads it before each frame.

    Attributes:
        style: which of the styles. keep_color, strength: as in `StylizeOptions`.
    """

    style: int = 0
    keep_color: str = StylizeOptions.keep_color
    strength: float = StylizeOptions.strength
    mirror: bool = False
    side_by_side: bool = False
    help: bool = False
    quit: bool = False


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """The network's result for a frame.

    Attributes:
        content_frame: (H, W, 3) uint8 RGB. stylized_image: (1, 3, H', W') float32 in [0, 1], of the working size.
        shot_s, painted_s: when it was captured and when it was painted, by time.perf_counter.
        style: its name. runs_in: what painted it, see `StyleSession.runs_in`.
    """

    content_frame: np.ndarray
    stylized_image: np.ndarray
    shot_s: float
    painted_s: float
    style: str
    runs_in: str


@dataclass(frozen=True)
class Finished:
    """A finished sketch: `stylized_frame` has the content's size, and its colors if they are kept."""

    content_frame: np.ndarray
    stylized_frame: np.ndarray
    sketch: Sketch


@dataclass
class LiveReport:
    """Statistics of a live session, in frames and milliseconds."""

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
        controls: their initial state.
        how: the other options of painting.
        target_fps: see `Pace`.
        display: a window; None for none.
        record: where to record from the beginning; later recordings, and those started by key, get their own names.
        virtual_camera: opens one for a height and width; None for none.
        overwrite: whether `record` may be replaced.
        profile: receives the time of each stage.
        say: prints a line.
    """

    def __init__(
        self,
        feed: CameraFeed,
        rack: StyleRack | PaletteRack,
        buffers: Buffers,
        controls: Controls,
        how: StylizeOptions = ONE_PASS,
        *,
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
        self._painter = FilmPainter(rack.first, how, self._profile)
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
        self._last: Finished | None = None
        self._trouble, self._first_s, self._shown_s = "", 0.0, 0.0
        self.report = LiveReport()
        self.work_size = (0, 0)  # at which the last frame was painted

    def run(self, frames: int = 0, stopped: Callable[[], object] = lambda: False) -> LiveReport:
        """Run until "q", for so many frames (0: any number), or until `stopped`.

        Raises:
            AllaPrimaError: the network failed, or a recording could not be written.
        """
        with one_opencv_thread():
            return self._run(frames, stopped)

    def _run(self, frames: int, stopped: Callable[[], object]) -> LiveReport:
        network = threading.Thread(target=self._paint, name="network", daemon=True)
        network.start()
        self._shown_s = time.perf_counter()
        try:
            while not (self.controls.quit or stopped() or (frames and self.report.frames >= frames)):
                self._step(self._sketches.get(0.03))
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

    def _step(self, sketch: Sketch | None) -> None:
        """One turn of the display's thread: with a sketch as soon as there is one, else without one now and then."""
        if self._error:
            raise self._error
        now_s = time.perf_counter()
        trouble = self._look_at_camera()
        if sketch is not None:
            self._next(sketch, now_s)
        self._look_at_style()
        if self._display is not None:
            if sketch is not None or now_s - self._shown_s > 0.2:
                with self._profile.stage("show"):
                    self._show(self._display, trouble)
                self._shown_s = now_s
            self._press(self._display.key())
        if sketch is not None:
            self._latencies_ms.append(1000.0 * (time.perf_counter() - sketch.shot_s))
            self.report.latencies_ms.append(self._latencies_ms[-1])

    def _look_at_camera(self) -> str:
        """The camera's trouble, which is printed once, when it begins."""
        trouble = self._feed.trouble
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble:
                self._say(trouble)
        return trouble

    def _look_at_style(self) -> None:
        """Go back to the style that is painting if the wanted one cannot be opened."""
        wanted = self._rack.names[self.controls.style]
        if wanted in self._rack.errors and self._last is not None:
            self._announce(self._rack.errors[wanted])
            self.controls.style = self._rack.names.index(self._last.sketch.style)

    def _next(self, sketch: Sketch, now_s: float) -> None:
        """Finish a sketch and use it; it replaces the last painting."""
        self._first_s = self._first_s or now_s
        self.report.frames += 1
        self.report.wall_s = now_s - self._first_s
        finished = self._finish(sketch)
        self._use(finished)
        if self._last is not None:
            self._buffers.give(self._last.stylized_frame)
            self._buffers.give(self._last.content_frame)
        self._last = finished

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
                if session is not None:  # until it is open, the previous one goes on
                    self._painter.session, showing = session, name
                self._painter.scale = self._pace.scale
                content = np.asarray(cv2.flip(shot.frame, 1)) if self.controls.mirror else shot.frame
                stylized_image = self._painter.stylize(content)
                end_s = time.perf_counter()
                sketch = Sketch(
                    content_frame=content,
                    stylized_image=stylized_image,
                    shot_s=shot.time_s,
                    painted_s=end_s,
                    style=showing,
                    runs_in=self._painter.session.runs_in,
                )
                replaced = self._sketches.put(sketch)
                if replaced is not None:
                    self.report.dropped += 1
                    self._buffers.give(replaced.content_frame)
                self._pace.update(1000.0 * (end_s - start_s), end_s)
        except BaseException as error:
            self._error = error

    def _finish(self, sketch: Sketch) -> Finished:
        """Colors, strength, size: done here, so that the network's thread can go on with the next frame."""
        painter, controls, last = self._painter, self.controls, self._last
        if last is not None:
            self._intervals_ms.append(1000.0 * (sketch.painted_s - last.sketch.painted_s))
            self._profile.add("interval", self._intervals_ms[-1])
            if last.sketch.style != sketch.style:
                painter.color.forget()
        painter.color.mode, painter.strength = controls.keep_color, controls.strength
        self.work_size = sketch.stylized_image.shape[2], sketch.stylized_image.shape[3]
        out = self._buffers.take(sketch.content_frame.shape)
        frame = painter.finish(sketch.content_frame, sketch.stylized_image, sketch.shot_s, out)
        return Finished(sketch.content_frame, frame, sketch)

    def _use(self, finished: Finished) -> None:
        """Record the painting and send it on."""
        frame = finished.stylized_frame
        if self._record_path and self._recorder is None:
            path, self._record_path = self._record_path, None
            self._recorder = Recorder(path, frame.shape[0], frame.shape[1], self._overwrite)
        if self._recorder is not None:
            self._recorder.add(frame, finished.sketch.shot_s)
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
            if recorder.path == self._wanted:  # if a recording started by key fails, that is only announced
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

    def _press(self, key: str) -> None:
        """Do what a key stands for."""
        controls, styles = self.controls, len(self._rack.names)
        if key == "q":
            controls.quit = True
        elif key in ("n", "p"):
            controls.style = (controls.style + (1 if key == "n" else -1)) % styles
        elif key == "c":
            controls.keep_color = COLOR_MODES[(COLOR_MODES.index(controls.keep_color) + 1) % len(COLOR_MODES)]
        elif key in ("+", "=", "-", "_"):
            step = 0.1 if key in "+=" else -0.1
            controls.strength = round(min(1.0, max(0.0, controls.strength + step)), 1)
        elif key == "m":
            controls.mirror = not controls.mirror
        elif key == "b":
            controls.side_by_side = not controls.side_by_side
        elif key == "h":
            controls.help = not controls.help
        elif key == "s" and self._last is not None:
            self._save(self._last.stylized_frame)
        elif key == "r" and self._recorder is not None:
            self._stop_recording()
        elif key == "r" and self._last is not None:
            self._start_recording(self._last.stylized_frame)

    def _save(self, frame: np.ndarray) -> None:
        path = free_name("png")
        try:
            write_picture(path, Picture(frame), overwrite=False)
            self._announce(f"saved {path}")
        except AllaPrimaError as error:
            self._announce(str(error))

    def _start_recording(self, frame: np.ndarray) -> None:
        try:
            self._recorder = Recorder(free_name("mp4"), *frame.shape[:2])
        except VideoError as error:
            self._announce(str(error))

    def _show(self, display: Display, trouble: str) -> None:
        frames: list[np.ndarray] = []
        words: list[str] = []
        if self._last is not None:
            frames = [self._last.stylized_frame]
            if self.controls.side_by_side:
                frames.insert(0, self._last.content_frame)
            words = self._words(self._last)
        keys = KEYS if self.controls.help else ()
        display.show(lay_out(frames, words, trouble=trouble, keys=keys, scratch=self._scratch))

    def _words(self, finished: Finished) -> list[str]:
        words = [self._status(finished)]
        if self._recorder is not None:
            words.append(f"recording {self._recorder.path}")
        if time.perf_counter() < self._note_until_s:
            words.append(self._note)
        return words

    def _status(self, finished: Finished) -> str:
        intervals_ms = list(self._intervals_ms)
        fps = 1000.0 / float(np.mean(intervals_ms)) if intervals_ms else 0.0
        latency_ms = float(np.median(self._latencies_ms)) if self._latencies_ms else 0.0
        wanted = self._rack.names[self.controls.style]
        style = finished.sketch.style if wanted == finished.sketch.style else f"{finished.sketch.style}, opening {wanted}"
        parts = [f"{fps:.0f} fps", f"{latency_ms:.0f} ms", style, finished.sketch.runs_in]
        if self.controls.keep_color != "none":
            parts.append(self.controls.keep_color)
        if self.controls.strength < 1.0:
            parts.append(f"strength {self.controls.strength:.1f}")
        height, width = finished.sketch.stylized_image.shape[2:]
        if (height, width) != finished.stylized_frame.shape[:2]:
            parts.append(f"painted at {width}x{height}")
        return "  |  ".join([*parts, "h: keys"])
