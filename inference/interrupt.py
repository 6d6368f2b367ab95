"""Ctrl-C noted rather than thrown: raised in the midst of anything, Python may lose it (in a finalizer, a callback of a
future), and it leaves halves behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def catch_interrupt() -> Iterator[list[int]]:
    """A list that is empty until Ctrl-C or SIGTERM; the second Ctrl-C acts at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
