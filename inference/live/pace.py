"""How small to paint in order to hold a frame rate."""

from collections import deque

import numpy as np


class Pace:
    """Chooses the share of its size at which a frame is painted so that a rate is held.

    Time grows with the number of pixels. The size goes down as soon as a few frames took too long, and up again once the
    next larger size would have been fast enough for a while.

    Args:
        target_fps: the wanted rate; 0 for always full size.
    """

    LEAST, STEP, WATCHED, PATIENCE_S = 0.25, 1.125, 6, 2.0

    def __init__(self, target_fps: float) -> None:
        self._budget_ms = 950.0 / target_fps if target_fps else float("inf")
        self.scale = 1.0
        self._times_ms: deque[float] = deque(maxlen=self.WATCHED)
        self._roomy_since_s: float | None = None

    def update(self, frame_ms: float, now_s: float) -> float:
        """Report how long the last frame took; returns the scale for the next one."""
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
