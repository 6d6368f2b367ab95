"""How long each stage of a pipeline takes, for `--profile`."""

import contextlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator

import numpy as np

from allaprima.inference.style.session import StyleSession, frame_to_image

KEPT = 2000  # newest times of each stage


class Profile:
    """Milliseconds by stage, from any thread."""

    def __init__(self) -> None:
        self._times_ms: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the enclosed code."""
        start = time.perf_counter()
        yield
        self.add(name, 1000.0 * (time.perf_counter() - start))

    def add(self, name: str, milliseconds: float) -> None:
        with self._lock:
            self._times_ms[name].append(milliseconds)

    def median_ms(self, name: str) -> float:
        return self.percentile_ms(name, 50.0)

    def percentile_ms(self, name: str, percent: float) -> float:
        """A percentile of a stage's times; NaN if nothing was timed."""
        with self._lock:
            times_ms = list(self._times_ms.get(name, ()))
        return float(np.percentile(times_ms, percent)) if times_ms else float("nan")

    def table(self) -> str:
        """One line per stage, in order of first appearance: median, 95th percentile, count."""
        with self._lock:
            names = {name: len(times_ms) for name, times_ms in self._times_ms.items()}
        lines = [f"{'stage':10} {'median':>10} {'95 %':>10} {'frames':>8}"]
        for name, count in names.items():
            median, high = self.median_ms(name), self.percentile_ms(name, 95.0)
            lines.append(f"{name:10} {median:>7.2f} ms {high:>7.2f} ms {count:>8}")
        return "\n".join(lines)


def bare_session_ms(session: StyleSession, height: int, width: int, seconds: float = 2.0) -> float:
    """Median milliseconds that the session alone takes for an image of this size, without the rest of the pipeline."""
    rng = np.random.default_rng(0)
    image = frame_to_image(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    session.stylize_image(image)
    times_ms: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not times_ms:
        start = time.perf_counter()
        session.stylize_image(image)
        times_ms.append(1000.0 * (time.perf_counter() - start))
    return float(np.median(times_ms))
