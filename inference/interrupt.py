"""Ctrl-C noted rather than thrown: raised in the midst of anything, Python may lose it (in a finalizer, a callback of a
future), and it leaves halves behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def catch_interrupt() -> Iterator[list[int]]:
    """A list that gets the number of the first Ctrl-C, SIGTERM or closed terminal (not under `nohup`). A second one ends the
    program at once."""
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before: dict[int, Any] = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
