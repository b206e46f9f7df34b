"""What has become of a run, read from its directory and from who is alive: running, preempted, failed, done.

A run fails for good when it has raised, or died without a word, more often than the sweep's `retries` allow.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from genxai.errors import NonFiniteError
from genxai.files import append_jsonl, make_folder
from genxai.runs import Run, State
from launch.records import Evaluation, Excuse, Failure, Start, read_failures, read_lines, read_result, read_starts
from launch.submissions import History
from launch.sweepdir import SweepDir


class Status(enum.StrEnum):
    """State of a run as a sweep sees it."""

    MISSING = "missing"  # never started
    QUEUED = "queued"  # submitted, not started
    RUNNING = "running"
    PREEMPTED = "preempted"  # started, and in the cluster's queue again
    STOPPED = "stopped"  # started, stopped or killed and in no queue, to be continued
    RETRY = "retry"  # has failed, may be tried again
    FAILED = "failed"  # has failed too often
    DONE = "done"
    UNREADABLE = "unreadable"  # its files are damaged or closed; said by status only, a sweep ends with the message


#: statuses in which a run waits to be submitted
TO_SUBMIT = (Status.MISSING, Status.STOPPED, Status.RETRY)
#: statuses in which a run waits in the cluster's queue
WAITING = (Status.QUEUED, Status.PREEMPTED)
#: statuses in which a run has a living job
IN_FLIGHT = (Status.RUNNING, *WAITING)
#: statuses in which a run has nothing more to do
ENDED = (Status.DONE, Status.FAILED)


#: Slurm's words for why it has ended a job: memory, or DUE TO TIME LIMIT, NODE FAILURE, PREEMPTION
_CAUSE = re.compile(r"memory|\boom|due to ", re.IGNORECASE)


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
    progress: Mapping[str, float] = field(default_factory=dict)
    #: those of the latest start, each of which has a device
    processes: int = 1
    #: how far it is; steps done again are not in it
    steps: int = 0
    #: of a failed run: where to read on
    log: Path | None = None

    @property
    def seconds_lost(self) -> float:
        """The part of `seconds` that went into steps which a kill, a preemption or a failure had done again."""
        computed = self.steps + self.steps_redone
        return self.seconds * self.steps_redone / computed if computed else 0.0

    @property
    def device_seconds(self) -> float:
        """What the run has cost: its seconds on every device."""
        return self.seconds * self.processes

    @property
    def device_seconds_lost(self) -> float:
        """The part of `device_seconds` that went into steps done again."""
        return self.seconds_lost * self.processes


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
    if live is not None:
        again = live.status is Status.QUEUED and state is State.STARTED
        return so_far(run, Status.PREEMPTED if again else live.status, live.reason)
    reason, log = given_up(run, retries, history, forgiven or Tried())
    if reason:
        return replace(so_far(run, Status.FAILED, reason), log=log)
    if state is State.FAILED:
        return so_far(run, Status.RETRY, exception_line(run))
    return so_far(run, Status.STOPPED if state is State.STARTED else Status.MISSING)


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
        steps=result.steps or 0,
    )


def so_far(run: Run, status: Status, reason: str = "") -> Report:
    """The report of a run without a result: what it has recorded at its last evaluation, or in progress.json since.

    What a kill has lost is known once the run has been started again.
    """
    records, starts, progress = read_lines(run.metrics_file, Evaluation), read_starts(run), run.progress()
    latest = records[-1] if records else Evaluation()
    return Report(
        status,
        reason,
        # the clock goes on over restarts, so the larger one is the newer one; progress.json may be old or missing
        seconds=max(latest.seconds or 0.0, progress.get("seconds", 0.0)),
        restarts=max(0, len(starts) - 1),
        steps_redone=int(progress.get("steps_redone", 0)),
        progress=progress,
        processes=starts[-1].processes or 1 if starts else 1,
        steps=int(progress.get("step", latest.step or 0)),
    )


def tried(run: Run, history: History) -> Tried:
    """How often the run has been tried so far."""
    return Tried(len(read_failures(run)), len(read_starts(run)), len(history.starts))


def given_up(run: Run, retries: int, history: History, forgiven: Tried) -> tuple[str, Path | None]:
    """Why the run is not tried again, and the log that tells more; an empty reason if it is."""
    failures = read_failures(run)[forgiven.failures :]
    if len(failures) > retries:
        return exception_line(run) + (f" ({len(failures)} times)" if len(failures) > 1 else ""), _own_log(run, history)
    if _is_reproduced(failures):
        reason = f"{exception_line(run)} (twice the same; on a CPU a third try would end there as well)"
        return reason, _own_log(run, history)
    starts = read_starts(run)
    excuses = Counter((end.outcome, end.starts) for end in read_lines(excuses_file(run), Excuse))
    stopped = {number for outcome, number in excuses if outcome in ("stopped", "disk")}
    steps = _unexplained(starts, stopped, forgiven.starts)[-(retries + 2) :]
    if len(steps) == retries + 2 and len(set(steps)) == 1:
        reason = f"died {len(steps)} times at step {steps[0]} without a word (out of memory?){_said(history)}"
        return reason, _own_log(run, history)
    # a job that ends before the run has begun leaves no trace in the run directory: count submissions
    innocent = sum(excuses[outcome, len(starts)] for outcome in ("busy", "removed", "disk"))
    early = history.starts[forgiven.submissions :].count(len(starts)) - innocent
    if early > retries:
        return f"its job ended {early} times before the run began (cancelled?){_said(history)}", history.last_log()
    return "", None


def _own_log(run: Run, history: History) -> Path | None:
    """log.txt, or the stderr of the latest job of a run that had nothing to write yet."""
    return run.log_file if last_lines(run.log_file, 1) else history.last_log()


def _is_reproduced(failures: Sequence[Failure]) -> bool:
    """Whether the last two are one: numbers that stop being finite on a CPU do so at the same step every time."""
    last = failures[-2:]
    same = len({(end.exception, end.message, end.step, end.device) for end in last}) == 1
    return len(last) == 2 and same and (last[0].exception, last[0].device) == (NonFiniteError.__name__, "cpu")


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


def excuse(run: Run, outcome: str, message: str = "") -> None:
    """Note how the job at hand ended without the run being to blame, which does not count against the run.

    outcome: it was `stopped`, found the run `busy` or its directory `removed`, or the `disk` to be full (message).
    """
    make_folder(excuses_file(run).parent)
    line = {"outcome": outcome, "starts": len(read_starts(run))}
    append_jsonl(excuses_file(run), line | ({"message": message} if message else {}))


def disk_problem(run: Run) -> str:
    """What the system said to the latest job of the run if it ended for the disk's sake; else empty."""
    ends = read_lines(excuses_file(run), Excuse)
    return ends[-1].message if ends and ends[-1].outcome == "disk" and ends[-1].starts == len(read_starts(run)) else ""


def _said(history: History) -> str:
    """What Slurm ended the latest job for, or the last line of its stderr, and where the rest is."""
    log = history.last_log()
    if log is None:
        return ""
    lines = last_lines(log, 10)
    # srun's "task 0: Killed" may come after the line that says why
    telling = [line for line in lines if _CAUSE.search(line)] or lines
    return f": {telling[-1]} ({log})" if telling else f"; its log is {log}"


def exception_line(run: Run) -> str:
    """The latest failure on one line: exception, message, step."""
    failures = read_failures(run)
    if not failures:
        return ""
    latest = failures[-1]
    words = [word.strip() for word in (latest.exception, latest.message) if word]
    line = ": ".join(word.splitlines()[0] for word in words if word) or "failed without a message"
    return f"{line} at step {latest.step}" if latest.step and not line.endswith(f" at step {latest.step}") else line


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
