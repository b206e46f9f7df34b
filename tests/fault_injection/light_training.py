"""Runs of the real trainer that start at once: launch/train.py in a fork of a process that has imported torch."""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import children
import clocks
import tiny_model
import writes
from training_runs import science

from genxai.runs import Run

#: what the `small` fixture becomes: 15 steps and 3 evaluations of the whole method, a checkpoint after every step
SMALLER = tiny_model.as_words({"train.epochs": 3, "run.checkpoint_seconds": 0})


class LightRun:
    """One run of preset tiny in a folder of its own."""

    def __init__(self, folder: Path, small: Sequence[str], *overrides: str) -> None:
        self.runs, self.output = folder / "runs", folder / "output"
        self.overrides = (*small, *SMALLER, *overrides)
        self.runs.mkdir(parents=True)
        self.run = _plan(self.runs, self.overrides)

    def start(self, fault: writes.Fault | None = None, clock: int | None = None) -> BaseProcess:
        """The process, training."""
        return children.start(train, str(self.run.path), fault, clock, output=self.output)

    def train(
        self, fault: writes.Fault | None = None, clock: int | None = None, counted: Path | None = None
    ) -> int | None:
        """Train to the end; the exit code of launch/train.py, negative for the signal that ended it."""
        return children.run(train, str(self.run.path), fault, clock, counted, output=self.output)

    def said(self) -> str:
        return self.output.read_text() + (self.run.log_file.read_text() if self.run.log_file.exists() else "")

    def findings(self) -> dict[str, object]:
        """Everything the run says, without the clock and the history of its starts."""
        return science(self.run)


def _plan(runs: Path, overrides: Sequence[str]) -> Run:
    from launch.train import planned_run

    return planned_run("tiny", overrides, runs)


def train(run_dir: str, fault: writes.Fault | None, clock: int | None = None, counted: Path | None = None) -> int:
    """launch/train.py on a planned run, with a fault in it and on a clock that jumps (seeded)."""
    from launch import train as command

    if clock is not None:
        clocks.jump(clock)
    if fault is not None:
        writes.install(Path(run_dir), fault)
    code = command.main([run_dir, "--quiet"])
    if counted is not None:
        names = writes.calls()
        writes.remove()
        counted.write_text("\n".join(names))
    return code
