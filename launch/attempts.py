"""What has become of a run, read from its directory and from who is alive: running, stopped, failed, done.

A run fails for good when it has raised, or died without a word, more often than the sweep's `retries` allow.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from genxai.runs import Run, State, append_jsonl, make_folder
from launch.records import Evaluation, Excuse, Start, read_failures, read_lines, read_result, read_starts
from launch.submissions import History
from launch.sweepdir import SweepDir


class Status(enum.StrEnum):
    """State of a run as a sweep sees it."""

    MISSING = "missing"  # never started
    QUEUED = "queued"  # submitted, not started
    RUNNING = "running"
    STOPPED = "stopped"  # started, stopped or killed, to be continued
    RETRY = "retry"  # has failed, may be tried again
    FAILED = "failed"  # has failed too often
    DONE = "done"
    UNREADABLE = "unreadable"  # its files are damaged or closed; said by status only, a sweep ends with the message


#: statuses in which a run waits to be submitted
TO_SUBMIT = (Status.MISSING, Status.STOPPED, Status.RETRY)


@dataclass(frozen=True)
class Tried:
    """How often a run has been tried; `--retry-failed` forgives what happened before."""

    failures: int = 0
    starts: int = 0
    submissions: int = 0


@dataclass(frozen=True)
class Report:
    """One run: its status, why, and what it has cost."""

    status: Status
    reason: str = ""
    seconds: float = 0.0
    restarts: int = 0
    steps_redone: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    #: those of the latest start, each of which has a device
    processes: int = 1

    @property
    def device_seconds(self) -> float:
        """What the run has cost: its seconds on every device."""
        return self.seconds * self.processes


@dataclass(frozen=True)
class Live:
    """The living job of a run as its cluster sees it; a queued one with the cluster's word for why it waits."""

    status: Literal[Status.QUEUED, Status.RUNNING]
    reason: str = ""


def report(run: Run, live: Live | None, retries: int, history: History, forgiven: Tried | None = None) -> Report:
    """The report of one run. `live` must have been asked BEFORE: then a job that ends meanwhile is seen as done.

    Raises GenxaiError that names the file if one is damaged.
    """
    state = run.state
    if state is State.DONE:
        return finished(run)
    if live is None and state is State.STARTED and run.is_running():
        live = Live(Status.RUNNING)  # started by hand, or by a sweep on another host that shares our locks
    if live is None and state is State.PENDING and not history.starts:
        return Report(Status.MISSING)
    seconds, processes = seconds_so_far(run), processes_so_far(run)
    if live is not None:
        return Report(live.status, live.reason, seconds, progress=run.progress(), processes=processes)
    reason = given_up(run, retries, history, forgiven or Tried())
    if reason:
        return Report(Status.FAILED, reason, seconds, processes=processes)
    if state is State.FAILED:
        return Report(Status.RETRY, exception_line(run), seconds, processes=processes)
    return Report(Status.STOPPED if state is State.STARTED else Status.MISSING, seconds=seconds, processes=processes)


def finished(run: Run) -> Report:
    """The report of a run that has its result.json."""
    result = read_result(run)
    return Report(
        Status.DONE,
        seconds=result.seconds or 0.0,
        restarts=result.restarts or 0,
        steps_redone=result.steps_redone or 0,
        metrics=result.metrics,
        processes=result.processes or 1,
    )


def seconds_so_far(run: Run) -> float:
    """Seconds of training a run without a result has recorded at its last evaluation."""
    records = read_lines(run.metrics_file, Evaluation)
    return records[-1].seconds or 0.0 if records else 0.0


def processes_so_far(run: Run) -> int:
    """Processes of the latest start of a run without a result; 1 before the first."""
    starts = read_starts(run)
    return starts[-1].processes or 1 if starts else 1


def tried(run: Run, history: History) -> Tried:
    """How often the run has been tried so far."""
    return Tried(len(read_failures(run)), len(read_starts(run)), len(history.starts))


def given_up(run: Run, retries: int, history: History, forgiven: Tried) -> str:
    """Why the run is not tried again; empty if it is."""
    failures = read_failures(run)[forgiven.failures :]
    if len(failures) > retries:
        return exception_line(run) + (f" ({len(failures)} times)" if len(failures) > 1 else "")
    starts = read_starts(run)
    excuses = Counter((end.outcome, end.starts) for end in read_lines(excuses_file(run), Excuse))
    stopped = {number for outcome, number in excuses if outcome == "stopped"}
    steps = _unexplained(starts, stopped, forgiven.starts)[-(retries + 2) :]
    if len(steps) == retries + 2 and len(set(steps)) == 1:
        return f"died {len(steps)} times at step {steps[0]} without a word (out of memory?){_said(history)}"
    # a job that ends before the run has begun leaves no trace in the run directory: count submissions
    early = history.starts[forgiven.submissions :].count(len(starts)) - excuses["busy", len(starts)]
    if early > retries:
        return f"its job ended {early} times before the run began (cancelled?){_said(history)}"
    return ""


def _unexplained(starts: Sequence[Start], stopped: Collection[int], after: int) -> list[int]:
    """Steps of the starts (counted from 1) later than `after`, without those that ended in a stop or a requeue.

    The next start by the same Slurm job tells of a requeue: preemption, time limit, a lost node.
    """
    steps = []
    for number, start in enumerate(starts, 1):
        following = starts[number].slurm_job if number < len(starts) else None
        requeued = start.slurm_job is not None and start.slurm_job == following
        if number > after and not requeued and number not in stopped:
            steps.append(start.resumed_from_step or 0)
    return steps


def excuses_file(run: Run) -> Path:
    """Where jobs of the run note that they ended without a failure; kept by the sweep, not by the run."""
    return SweepDir(run.path.parent).excuses / f"{run.signature}.jsonl"


def excuse(run: Run, outcome: str) -> None:
    """Note that the job at hand was `stopped`, or found the run `busy`: neither counts against the run."""
    make_folder(excuses_file(run).parent)
    append_jsonl(excuses_file(run), {"outcome": outcome, "starts": len(read_starts(run))})


def _said(history: History) -> str:
    """The last line of the latest job's stderr, and where the rest is."""
    log = history.last_log()
    if log is None:
        return ""
    lines = last_lines(log, 1)
    return f": {lines[0]} ({log})" if lines else f"; its log is {log}"


def exception_line(run: Run) -> str:
    """The latest failure on one line: exception, message, step."""
    failures = read_failures(run)
    if not failures:
        return ""
    latest = failures[-1]
    words = [word.strip() for word in (latest.exception, latest.message) if word]
    line = ": ".join(word.splitlines()[0] for word in words if word) or "failed without a message"
    return f"{line} at step {latest.step}" if latest.step else line


def last_lines(file: Path, count: int = 5, window_bytes: int = 8192) -> list[str]:
    """The last lines of a log, without reading all of it; [] if there is none."""
    try:
        with open(file, "rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - window_bytes))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-count:]
