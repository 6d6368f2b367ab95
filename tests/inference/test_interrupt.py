import os
import signal

import pytest

from allaprima.inference.interrupt import catch_interrupt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_recorded_and_the_old_handler_restored(name):
    number = signal.Signals[name]
    outside = signal.signal(number, signal.default_int_handler)  # under nohup, SIGHUP would be ignored
    try:
        with catch_interrupt() as received:
            os.kill(os.getpid(), number)
            assert received == [number]
            assert signal.getsignal(number) == signal.default_int_handler  # a second signal acts at once
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_under_nohup_closing_the_terminal_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_interrupt() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not received
    finally:
        signal.signal(signal.SIGHUP, before)
