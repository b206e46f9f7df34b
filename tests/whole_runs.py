"""Whole runs in the test's own process: what they say in the end, and one that is stopped after every step."""

import os
import signal

import pytest

from genxai.files import read_jsonl
from genxai.runs import Run
from genxai.training import Outcome, loop, train


def comparable(run: Run) -> tuple[object, ...]:
    """Everything a run says, without the clock, its folder's name and the history of its starts."""
    result = {k: v for k, v in run.result().items() if k not in ("seconds", "restarts", "steps_redone", "signature")}
    lines = [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(run.metrics_file)]
    return result, lines, run.ledger_file.read_bytes() if run.ledger_file.exists() else b""


def train_in_pieces(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Stopped by a signal after every step and started again until it is done."""
    step = loop.joint_step

    def step_then_signal(*arguments):
        terms = step(*arguments)
        os.kill(os.getpid(), signal.SIGUSR2)
        return terms

    with monkeypatch.context() as patch:
        patch.setattr(loop, "joint_step", step_then_signal)
        outcomes = [train(run)]
        while outcomes[-1] is Outcome.STOPPED and len(outcomes) < 50:
            outcomes.append(train(run))
    return outcomes
