"""The stop protocol: a signal only sets a flag, which the loop reads at a step boundary.

Nothing is saved inside a signal handler, where the interpreter may be anywhere and other ranks in a collective.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

#: USR2 from submitit, USR1 from `sbatch --signal`, TERM from preemption and time limits, INT from a person
SIGNALS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)


class StopFlag:
    """Whether this process has been asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def set(self, number: int, frame: FrameType | None = None) -> None:
        """Signal handler. A second Ctrl-C gives up at once, for a person who will not wait."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def handling(handler: Callable[[int, FrameType | None], None], numbers: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Put the handler over any other (submitit's) for the duration; a no-op outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@contextlib.contextmanager
def listening(flag: StopFlag | None = None) -> Iterator[StopFlag]:
    """Have the flag listen for the duration.

    Needs no torch, so that a command can listen before it spends seconds on importing it.
    """
    flag = flag or StopFlag()
    with handling(flag.set):
        yield flag
