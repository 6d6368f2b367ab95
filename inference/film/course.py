"""The styles of a film, each from a time on."""

import argparse
from bisect import bisect_right

from allaprima.inference.options import read_seconds
from allaprima.inference.style.fading import PaletteRack
from allaprima.inference.style.session import StyleSession
from allaprima.models.errors import StyleError


class Course:
    """Styles of the palette that follow one another in a film.

    Args:
        text: "great_wave@0,starry_night@5,photo@1:10": styles, or mixes of them, each with the time from which on it paints.
        fade_s: how long it takes from one to the next.
        device, engine: see `StyleSession`.
    Attributes:
        session: paints each frame, after `at` was told its time.
    Raises:
        StyleError: the text is nothing of the kind, or there is no such style.
    """

    def __init__(self, text: str, fade_s: float, device: str = "auto", engine: str = "auto") -> None:
        wanted = "STYLE@TIME,STYLE@TIME is wanted, times in seconds or [H:]M:S that rise from 0"
        styles: list[str] = []
        self._times_s: list[float] = []
        mix: list[str] = []
        for part in text.split(","):
            style, at, time = part.strip().partition("@")
            mix.append(style)  # without a time, it is a part of a mix
            if not at:
                continue
            styles.append(",".join(mix))
            mix = []
            try:
                self._times_s.append(read_seconds(time))
            except argparse.ArgumentTypeError as error:
                raise StyleError(f"{text}: {error}; {wanted}") from error
        if mix or self._times_s[0] != 0 or sorted(set(self._times_s)) != self._times_s:
            raise StyleError(f"{text} is no list of styles with times; {wanted}")
        self._styles, self._now_s = styles, 0.0
        self._rack = PaletteRack(styles, fade_s, device, engine, clock=lambda: self._now_s)
        self.session: StyleSession = self._rack.first

    def at(self, time_s: float) -> None:
        """Mix what paints at this time; going back begins anew, with the next film."""
        if time_s < self._now_s:
            self._rack.begin()
        self._now_s = time_s
        self._rack.session(self._styles[max(0, bisect_right(self._times_s, time_s) - 1)])
