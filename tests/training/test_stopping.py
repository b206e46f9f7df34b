"""Contract 4: a stop is a flag; handlers only set it and are put back."""

import os
import signal

import pytest

from genxai.training.stopping import SIGNALS, listening


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_only_sets_the_flag(number):
    with listening() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested and stop.signal == number


def test_the_handler_that_was_there_is_overridden_and_restored():
    called = []
    previous = signal.signal(signal.SIGUSR2, lambda *_: called.append("submitit"))
    try:
        with listening() as stop:
            os.kill(os.getpid(), signal.SIGUSR2)
            assert stop.requested and not called
        os.kill(os.getpid(), signal.SIGUSR2)
        assert called == ["submitit"]
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_a_second_ctrl_c_does_not_wait():
    with listening(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
