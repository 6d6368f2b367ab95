import os
import signal

import pytest

from allaprima.inference.interrupt import catch_interrupt

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_is_noted_and_what_was_before_comes_back(name):
    number = signal.Signals[name]
    outside = signal.signal(number, signal.default_int_handler)  # the tests themselves may run under nohup
    try:
        with catch_interrupt() as received:
            os.kill(os.getpid(), number)
            assert received == [number]
            assert signal.getsignal(number) == signal.default_int_handler  # the second one acts
        assert signal.getsignal(number) == signal.default_int_handler
    finally:
        signal.signal(number, outside)


def test_under_nohup_the_terminals_end_is_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with catch_interrupt() as received:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not received
    finally:
        signal.signal(signal.SIGHUP, before)
