"""Ctrl-C noted rather than raised: raised in the middle of something, it may get lost (in a finalizer or a future's
callback) and leaves half-finished work behind."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


@contextmanager
def catch_interrupt() -> Iterator[list[int]]:
    """A list that receives the signal number of the first Ctrl-C, SIGTERM or closed terminal (not under `nohup`). A second
    signal ends the program at once."""
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
