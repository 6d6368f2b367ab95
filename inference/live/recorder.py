"""A live session's recording, written in its own thread, and names for files that a key saves."""

import queue
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from allaprima.inference.film.sinks import VideoWriter
from allaprima.models.errors import VideoError

RECORDING_QUEUE = 8  # frames that may wait for the encoder; further ones are dropped


class Recorder:
    """A recording in its own thread; while the encoder is behind, frames are dropped, so that the picture is not slowed.

    Args:
        path, height, width, overwrite: see `VideoWriter`.
    Attributes:
        path: the file. frames: written so far. dropped: frames dropped so far. error: what ended it.
    Raises:
        VideoError: such a file cannot be written.
    """

    def __init__(self, path: Path, height: int, width: int, overwrite: bool = False) -> None:
        self.path, self.dropped = path, 0
        self.error: VideoError | None = None
        self._writer = VideoWriter(
            path, height=height, width=width, rate=Fraction(30), time_base=Fraction(1, 1000), overwrite=overwrite
        )
        self._size = (width, height)
        self._queue: queue.Queue[tuple[np.ndarray, float] | None] = queue.Queue(RECORDING_QUEUE)
        self._thread = threading.Thread(target=self._run, name="record", daemon=True)
        self._thread.start()

    @property
    def frames(self) -> int:
        return self._writer.frames

    def add(self, frame: np.ndarray, time_s: float) -> None:
        """Add a frame, (H, W, 3) uint8 RGB, which is copied, and its time in seconds, from any origin."""
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


def free_name(suffix: str) -> Path:
    """An unused file name in the current folder."""
    stem = time.strftime("allaprima_%Y%m%d_%H%M%S")
    names = [Path(f"{stem}.{suffix}"), *(Path(f"{stem}_{i}.{suffix}") for i in range(2, 100))]
    return next((name for name in names if not name.exists()), names[0])
