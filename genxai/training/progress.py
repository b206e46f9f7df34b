"""What a run says while it trains: a live bar or plain lines, progress.json for others, log.txt for later."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column
from torch import Tensor

from genxai.errors import NonFiniteError
from genxai.runs import Run
from genxai.training.parallel import Processes
from genxai.training.resume import LoopState

#: seconds between updates of progress.json
INTERVAL = 1.0
_NEVER = torch.iinfo(torch.int64).max


class LossMeter:
    """Means of the loss terms since the last look, and the first step at which one was not finite.

    Updates stay on the device; only `drain` and `check` wait for it.
    """

    def __init__(self, device: torch.device, processes: Processes) -> None:
        self.device, self.processes = device, processes
        self.names: list[str] = []
        self.totals = torch.zeros(0, device=self.device)
        self.first_bad = torch.zeros(0, device=self.device)
        self.count = 0

    def update(self, step: int, terms: dict[str, Tensor]) -> None:
        if not self.names:
            self.names = list(terms)
            self.totals = torch.zeros(len(terms), device=self.device)
            self.first_bad = torch.full((len(terms),), _NEVER, dtype=torch.int64, device=self.device)
        values = torch.stack([terms[name].float() for name in self.names])
        self.totals += values
        self.first_bad = torch.where(values.isfinite(), self.first_bad, self.first_bad.clamp_max(step))
        self.count += 1

    def check(self) -> None:
        """Raise NonFiniteError for the term that failed first, on every process alike."""
        if not self.names:
            return
        steps = self.processes.all_rows(self.first_bad[None]).amin(0).tolist()
        if min(steps) != _NEVER:
            raise NonFiniteError(self.names[steps.index(min(steps))], min(steps))

    def drain(self) -> dict[str, float]:
        self.check()
        means = (self.processes.total(self.totals) / (max(self.count, 1) * self.processes.count)).tolist()
        self.totals.zero_()
        self.count = 0
        return dict(zip(self.names, means, strict=True))


class Reporter:
    """Shows the losses, images per second and time left of one run; `silent` for all its processes but the first.

    While it is entered, progress.json follows `state`: the next start counts what a kill has lost from it.
    """

    def __init__(
        self, run: Run, state: LoopState, steps: int, images_per_step: int, show: bool, silent: bool = False
    ) -> None:
        self.run, self.state, self.steps, self.images_per_step, self.silent = run, state, steps, images_per_step, silent
        show = show and not silent
        self._console = Console(file=sys.stderr)
        self._bar = self._make_bar() if show and self._console.is_terminal else None
        self._task = self._bar.add_task(run.signature, total=steps, losses="") if self._bar else None
        self._lines = show and self._bar is None
        self._started = (time.monotonic(), state.step)
        self._written = self._printed = 0.0

    def _make_bar(self) -> Progress:
        return Progress(
            BarColumn(bar_width=16, table_column=Column(no_wrap=True, min_width=8)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=9)),
            TextColumn("left", table_column=Column(no_wrap=True, min_width=4)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=5)),
            # what a narrow terminal cuts off
            TextColumn("{task.fields[losses]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=self._console,
        )

    def __enter__(self) -> Reporter:
        self._publish()  # at once: what earlier starts have lost is in no checkpoint yet
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar:
            self._bar.stop()
        self._publish()

    def passed(self) -> None:
        """Note a finished step for others to see, now and then."""
        if time.monotonic() - self._written > INTERVAL:
            self._publish()

    def _pace(self) -> tuple[float, float | None]:
        """Images per second since this start, and seconds left (None before the first step)."""
        elapsed, done = time.monotonic() - self._started[0], self.state.step - self._started[1]
        speed = done * self.images_per_step / elapsed if elapsed > 0 else 0.0
        return speed, ((self.steps - self.state.step) * elapsed / done if done else None)

    def update(self, losses: dict[str, float]) -> None:
        """Tell how far the run is; `losses` are means since the last call."""
        if self.silent:
            return
        now, step = time.monotonic(), self.state.step
        speed, left = self._pace()
        text = _describe(losses, speed)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=step, losses=text)
        if self._lines and now - self._printed > 10:
            self._printed = now
            eta = f"eta {left:.0f} s" if left is not None else "eta unknown"
            self._console.print(f"step {step}/{self.steps} {eta} {text}", highlight=False, soft_wrap=True)
        if now - self._written > INTERVAL or step == self.steps:
            self._publish()

    def say(self, message: str) -> None:
        """A line worth keeping: to the terminal if shown, and to log.txt."""
        if self.silent:
            return
        logging.getLogger("genxai").info(message)
        if self._bar is not None:
            self._bar.console.print(message, highlight=False)
        elif self._lines:
            self._console.print(message, highlight=False, soft_wrap=True)

    def _publish(self) -> None:
        if self.silent:
            return
        self._written = time.monotonic()
        speed, left = self._pace()
        record = {
            "step": self.state.step,
            "steps": self.steps,
            "seconds": round(self.state.seconds, 3),
            "steps_redone": self.state.steps_redone,
            "images_per_second": round(speed, 1),
            "eta_seconds": None if left is None else round(left, 1),
            "updated": time.time(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        # for eyes only: renamed so that no reader sees half of it, but not fsynced; a full disk is no reason to fail
        with contextlib.suppress(OSError):
            temporary = self.run.path / f".progress.{os.getpid()}"
            temporary.write_text(json.dumps(record))
            temporary.replace(self.run.progress_file)


#: the terms a person watches, and what the equations call them
_SHOWN = {
    "critic/wasserstein": "L_D",
    "generator/adversarial": "L_G",
    "generator/bias": "R_bias",
    "classifier/cross_entropy": "CE",
    "classifier/attribution": "R(M)",
}


def _describe(losses: dict[str, float], speed: float) -> str:
    terms = " ".join(f"{short} {losses[name]:.2g}" for name, short in _SHOWN.items() if name in losses)
    return f"{speed:.0f} img/s {terms}"


class _QuietFileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A log line that cannot be written (full disk) is lost without a traceback on the terminal."""


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Messages of this package, appended to the run's log.txt for the duration."""
    handler = _QuietFileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("genxai")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()
