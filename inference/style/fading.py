"""The palette as one network that moves from style to style, for the camera and for films."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from allaprima.inference.style.palette import PHOTO, as_shipped, palette_style, parse_mix, shares_of, unknown
from allaprima.inference.style.session import StyleSession


class PaletteRack:
    """Styles of the palette: one network for all, which moves from style to style. Used as a `live.rack.StyleRack`.

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
        shares = shares_of(parse_mix(name) or {as_shipped(name): 1.0})
        for each in shares:
            if each not in known:
                raise unknown(each, known)
        return np.array([shares.get(each, 0.0) for each in known], np.float32)

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
