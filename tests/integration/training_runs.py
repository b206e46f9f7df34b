"""Runs started as a person starts them, watched from outside, and what they say in the end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from genxai.files import read_jsonl
from genxai.runs import Run


def started(command: Sequence[str]) -> tuple[subprocess.Popen[str], Run]:
    """The process of a launch/train.py command, and its run, once it has said which that is."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("run "), line + process.stderr.read()
    return process, Run(Path(line.split(" in ")[1].strip()))


def saved_step(run: Run) -> int:
    """The step of the published checkpoint; 0 if there is none yet."""
    pointer = run.checkpoints / "LATEST"
    return int(pointer.read_text().split("-")[1]) if pointer.exists() else 0


def wait_for_step(run: Run, step: int, process: subprocess.Popen[str]) -> None:
    """Until a checkpoint at or after the step is published."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if saved_step(run) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached; exit code {process.poll()}")


def science(run: Run) -> dict[str, object]:
    """Everything a run says, without the clock, the history of its starts and how it was executed."""
    clock = ("seconds", "restarts", "steps_redone")
    return {
        "result": {key: value for key, value in run.result().items() if key not in clock},
        "metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(run.metrics_file)],
        "ledger": run.ledger_file.read_bytes() if run.ledger_file.exists() else b"",
    }
