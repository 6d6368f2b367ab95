"""The styles that keys switch between: each is opened in the background while another one paints, or all are one network,
which moves from one to the next."""

import difflib
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from allaprima.inference.style.palette import PHOTO, palette_style, parse_mix
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import AllaPrimaError, StyleError


class StyleRack:
    """Styles that are opened in the background, so that switching to one does not hold up the picture.

    Args:
        paths: .onnx files by name. device, engine: see `StyleSession`.
    Attributes:
        names: of the styles. first: the session of the first one. errors: why styles could not be opened, by name.
    Raises:
        StyleError: the first one cannot be opened.
    """

    def __init__(self, paths: dict[str, Path], device: str = "auto", engine: str = "auto") -> None:
        self.names = list(paths)
        self.errors: dict[str, str] = {}
        self._paths, self._device, self._engine = paths, device, engine
        self.first = StyleSession(paths[self.names[0]], device, shared=True, engine=engine)
        self._sessions = {self.names[0]: self.first}
        self._size = (0, 0)
        self._opener: threading.Thread | None = None
        self._opening: StyleSession | None = None
        self._closing = False

    def session(self, name: str) -> StyleSession | None:
        """A style's session; None while it is being opened, or if it cannot be."""
        return self._sessions.get(name)

    def open_all(self, height: int, width: int) -> None:
        """Open the others, one after another, and let each paint an empty frame of this size."""
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
                session = self._opening = StyleSession(self._paths[name], self._device, shared=True, engine=self._engine)
                session.stylize(np.zeros((*self._size, 3), np.uint8))  # the first run at a size takes longer
            except AllaPrimaError as error:
                self.errors[name] = str(error)
            else:
                self._sessions[name] = session

    def close(self) -> None:
        """Stops the opening, even in the middle of an empty frame."""
        self._closing = True
        if self._opening:
            self._opening.run_options.terminate = True
        if self._opener:
            self._opener.join(5.0)


class PaletteRack:
    """Styles of the palette: one network for all, which moves from style to style. Used as a `StyleRack`.

    Args:
        names: of the palette's styles, or mixes of them; none for all, the photo last.
        fade_s: how long it takes from one style to the next.
        device, engine: see `StyleSession`.
        clock: seconds.
    Raises:
        StyleError: there is no such style, or the palette cannot be opened.
    """

    def __init__(
        self,
        names: Sequence[str],
        fade_s: float,
        device: str = "auto",
        engine: str = "auto",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.first = StyleSession(palette_style(), device, shared=True, engine=engine)
        self.first.name = "the palette"
        known = list(self.first.contract.mix)
        self._weights = {name: self._parsed(name, known) for name in names or sorted(known, key=lambda name: name == PHOTO)}
        self.names, self.errors = list(self._weights), dict[str, str]()
        self._fade_s, self._clock = fade_s, clock
        self.begin()

    def begin(self) -> None:
        """Be at the first style at once."""
        self._target = self.names[0]
        self._from = self.first.weights = self._weights[self._target]
        self._began_s = -np.inf

    @staticmethod
    def _parsed(name: str, known: Sequence[str]) -> np.ndarray:
        weights = parse_mix(name) or parse_mix(f"{name}:1") or {name: 1.0}
        for each in weights:
            if each not in known:
                near = difflib.get_close_matches(each, known, n=1)
                hint = f'; did you mean "{near[0]}"?' if near else "."
                raise StyleError(f'there is no "{each}" in the palette{hint} There are {", ".join(known)}')
        row = np.array([weights.get(each, 0.0) for each in known], np.float32)
        if not (row >= 0.0).all() or not 0.0 < row.sum() < np.inf:
            raise StyleError(f"{name} is no mix; weights of at least 0 are wanted, and one above it")
        return row / row.sum()

    def session(self, name: str) -> StyleSession:
        """The network, as far on its way to this style as it should be now; called for each frame."""
        now_s = self._clock()
        if name != self._target:
            self._from, self._target, self._began_s = self._now(now_s), name, now_s
        self.first.weights = self._now(now_s)
        return self.first

    def _now(self, now_s: float) -> np.ndarray:
        share = min(1.0, (now_s - self._began_s) / self._fade_s) if self._fade_s else 1.0
        return (1.0 - share) * self._from + share * self._weights[self._target]

    def open_all(self, height: int, width: int) -> None:
        """All are open already."""

    def close(self) -> None:
        """Nothing is being opened."""
