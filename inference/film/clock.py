"""Films whose clock restarts or leaps: joined recordings, playlists with a discontinuity, a receiver that lost its signal.

Some containers allow that (FFmpeg's AVFMT_TS_DISCONT: MPEG-TS, MPEG-PS, HLS), and players join the parts one after
another. A leap is recognized as by FFmpeg's own tool: a packet comes 0.1 s before or 10 s after it is due."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import av

EARLY_S, LATE_S = Fraction(1, 10), 10
BEHIND_S = 5  # how far a file may store sound behind its picture


class Clock:
    """Gives packets of a file the times of a clock that never leaps.

    Args:
        film: index of the stream that sets the clock. frame_s: duration of a frame that has none.
    Attributes:
        leaps: how many there were so far.
    """

    def __init__(self, film: int, frame_s: Fraction) -> None:
        self._film, self._frame_s = film, frame_s
        self._offsets_s = [Fraction(0)]  # of each part
        self._part: dict[int, int] = defaultdict(int)  # the part that a stream is in
        self._due_s: dict[int, Fraction] = {}  # when a stream's next packet is, by the file's clock
        self._ends_s: dict[int, Fraction] = defaultdict(Fraction)  # of what has come of a stream, by ours
        self._began_s = Fraction(0)  # when the film's newest part began, by ours
        self._joined: set[int] = set()  # streams whose part has just begun
        self._waiting: list[av.Packet] = []  # sound of a part that the film has not begun yet
        self._waits_since_s, self._waits_in = Fraction(0), 0  # the film's end and part when they began to wait

    @property
    def leaps(self) -> int:
        return len(self._offsets_s) - 1

    def mended(self, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
        """The packets, with `pts` and `dts` changed in all parts but the first. Sound of a part that would begin before the
        previous part's sound ends is left out."""
        for packet in packets:
            stream: Any = packet.stream
            time_s = _seconds(packet)
            if time_s is None:
                yield from self._shifted(packet)
            elif stream.index == self._film:
                if self._leapt(packet, time_s):
                    first_s = time_s if packet.pts is None else packet.pts * Fraction(packet.time_base)
                    self._offsets_s.append(self._ends_s[self._film] - first_s)
                    self._part[self._film] += 1
                    self._began_s = self._ends_s[self._film]
                yield from self._shifted(packet)
                if self._waiting and (
                    self._part[self._film] > self._waits_in or self._ends_s[self._film] - self._waits_since_s > BEHIND_S
                ):
                    yield from self._released()
            elif stream.type != "audio":  # packets are rare and far apart: they belong to the film's part
                self._part[stream.index] = self._part[self._film]
                yield from self._shifted(packet)
            else:
                leapt = self._leapt(packet, time_s)
                behind = self._part[stream.index] < self._part[self._film]
                if (leapt and not behind) or any(each.stream.index == stream.index for each in self._waiting):
                    if not self._waiting:
                        self._waits_since_s, self._waits_in = self._ends_s[self._film], self._part[self._film]
                    self._waiting.append(packet)
                    continue
                if leapt or self._ends_s[self._film] - self._began_s > 1:
                    self._follow(stream.index)
                yield from self._shifted(packet)
        yield from self._released()

    def _released(self) -> Iterator[av.Packet]:
        waiting, self._waiting = self._waiting, []
        for packet in waiting:
            self._follow(packet.stream.index)
            yield from self._shifted(packet)

    def _follow(self, stream: int) -> None:
        """Move a stream of sound to the part that the film is in, if it is not there yet."""
        if self._part[stream] < self._part[self._film]:
            self._part[stream] = self._part[self._film]
            self._joined.add(stream)

    def _leapt(self, packet: av.Packet, time_s: Fraction) -> bool:
        due_s = self._due_s.get(packet.stream.index)
        self._due_s[packet.stream.index] = time_s + self._length_s(packet)
        return due_s is not None and not due_s - EARLY_S <= time_s <= due_s + LATE_S

    def _length_s(self, packet: av.Packet) -> Fraction:
        if packet.duration:
            return packet.duration * Fraction(packet.time_base)
        return self._frame_s if packet.stream.index == self._film else Fraction(0)

    def _shifted(self, packet: av.Packet) -> Iterator[av.Packet]:
        """A packet by our clock; none if it would sound at the same time as the previous part."""
        index = packet.stream.index
        time_base = Fraction(packet.time_base or 1)
        offset = round(self._offsets_s[self._part[index]] / time_base)
        if offset:
            packet.pts = None if packet.pts is None else packet.pts + offset
            packet.dts = None if packet.dts is None else packet.dts + offset
        start = packet.dts if packet.pts is None else packet.pts
        if start is not None:
            if index in self._joined and start * time_base < self._ends_s[index]:
                return
            self._joined.discard(index)
            self._ends_s[index] = max(self._ends_s[index], start * time_base + self._length_s(packet))
        yield packet


def _seconds(packet: av.Packet) -> Fraction | None:
    return None if packet.dts is None else packet.dts * Fraction(packet.time_base)
