"""Progress on stderr: a bar with the time left on a terminal, a line per measurement elsewhere.

It is drawn between measurements only, never by a thread of its own, which would take time from what is measured.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

#: nothing is shown of what takes less than this [s]
PATIENCE = 2.0
#: between redrawings of the bar [s]
INTERVAL = 0.2


class Progress:
    """One bar at a time, named after what is being measured."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, line: str) -> None:
        """A line that is worth reading whoever reads it."""
        print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, what: str, total: int) -> Iterator[Callable[[], None]]:
        """Yields a function to be called after each of `total` parts of the work."""
        bar = _bar(what, total) if sys.stderr.isatty() else _Lines(what)
        drawn = 0.0

        def tick() -> None:
            nonlocal drawn
            bar.advance()
            now = time.monotonic()
            if now - self._began > PATIENCE and now - drawn > INTERVAL:
                bar.draw()
                drawn = now

        try:
            yield tick
        finally:
            bar.close()


class _Lines:
    """For a log: what is being measured, once."""

    def __init__(self, what: str) -> None:
        self._what: str | None = what

    def advance(self) -> None:
        pass

    def draw(self) -> None:
        if self._what is not None:
            print(f"measuring {self._what} ...", file=sys.stderr, flush=True)
            self._what = None

    def close(self) -> None:
        pass


def _bar(what: str, total: int) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    class Bar:
        def __init__(self) -> None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=16),
                MofNCompleteColumn(),
                TextColumn("left"),
                TimeRemainingColumn(compact=True),
            )
            self.bars = Bars(*columns, console=Console(file=sys.stderr), auto_refresh=False, transient=True)
            self.task = self.bars.add_task(what, total=total)
            self.started = False

        def advance(self) -> None:
            self.bars.advance(self.task)

        def draw(self) -> None:
            if not self.started:
                self.bars.start()
                self.started = True
            self.bars.refresh()

        def close(self) -> None:
            if self.started:
                self.bars.stop()

    return Bar()
