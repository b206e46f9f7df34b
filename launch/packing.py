"""A job that holds several runs: a child process for each on the job's one GPU, side by side or one after the other.

Submitted by reference through submitit, so it must stay importable as `launch.packing.work_together`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from genxai.errors import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, GenxaiError
from genxai.runs import Run, State
from genxai.training.stopping import listening
from launch.cli import run_command
from launch.ranks import STARTED_HERE, end_with_parent, passing_signals
from launch.submissions import left_file, run_log
from launch.worker import end_job, excusing, job_id, note_end, thread_limits, train_patiently, was_requeued

#: what trains one run directory, its last argument, in a process of its own
CHILD: tuple[str, ...] = (sys.executable, "-m", "launch.packing")

#: a job that Slurm ends loses all its processes: if this one is still alive after so long, a child died by itself [s]
ALONE_SECONDS = 1.0


@dataclass
class Child:
    """A run of the job and the process that trains it."""

    run: Run
    process: subprocess.Popen[bytes]


def work_together(run_dirs: Sequence[str], in_sequence: bool = False) -> str:
    """Train every run, each in a process of its own; what became of each. Submitted to Slurm, one call per job.

    USR1, USR2 and TERM are passed on; if any run was stopped, the job is requeued, once. A run that fails or dies
    leaves the others alone, and a later life of this job leaves it to the reconciler, which counts its attempts.
    """
    folder = Path(os.environ["SUBMITIT_FOLDER"])
    waiting = [run for run in map(Run, map(Path, run_dirs)) if not _is_over(run, folder)]
    outcomes = {Path(run_dir).name: "left alone" for run_dir in run_dirs}
    width = 1 if in_sequence else len(waiting)
    alive: list[Child] = []
    processes: list[subprocess.Popen[bytes]] = []
    with passing_signals(processes) as asked:
        while (waiting and not asked) or alive:
            while waiting and len(alive) < width and not asked:
                run = waiting.pop(0)
                process = _start(run, folder)
                if process is None:
                    outcomes[run.signature] = "failed"
                    continue
                alive.append(Child(run, process))
                processes.append(process)
                for number in asked:  # it came while this one was not listed yet
                    process.send_signal(number)
            for child in [child for child in alive if child.process.poll() is not None]:
                alive.remove(child)
                outcomes[child.run.signature] = _outcome(child, asked, folder)
            time.sleep(0.05)
        outcomes |= {run.signature: "stopped" for run in waiting}
        told = ", ".join(f"{signature} {outcome}" for signature, outcome in outcomes.items())
        print(told, flush=True)
        end_job(stopped="stopped" in outcomes.values(), failed="failed" in outcomes.values())
    return told


def _is_over(run: Run, folder: Path) -> bool:
    """Whether nothing is to be done for a run in this life of the job."""
    state = _state(run)
    if state is State.DONE or (folder / left_file(run.signature)).exists():
        return True
    # a failure that this job has not seen is of an earlier submission, and this one is its new attempt
    failed = state is State.FAILED and was_requeued() and _log(run, folder).exists()
    if failed:
        _leave(run, folder)
    return failed


def _state(run: Run) -> State | None:
    """The state of a run; None where this person may not look, as its start will say."""
    try:
        return run.state
    except OSError:
        return None


def _log(run: Run, folder: Path) -> Path:
    """What a run prints, beside the job's log."""
    return folder / f"{job_id()}{run_log(run.signature)}"


def _leave(run: Run, folder: Path) -> None:
    """Leave a run to the reconciler from now on."""
    with contextlib.suppress(OSError):  # a full disk ends one run, not its companions
        (folder / left_file(run.signature)).touch()


def _start(run: Run, folder: Path) -> subprocess.Popen[bytes] | None:
    """The process of one run; None if it cannot be started, which is said and leaves it to the reconciler."""
    try:
        with excusing(run):
            return _open(run, folder)
    except (GenxaiError, OSError) as error:
        print(f"{run.path}: not started: {error}", file=sys.stderr, flush=True)
        _leave(run, folder)
        return None


def _open(run: Run, folder: Path) -> subprocess.Popen[bytes]:
    """The process of one run, in a session of its own, with a log of its own."""
    environment = {**os.environ, **thread_limits(run.config().train.threads), STARTED_HERE: str(os.getpid())}
    with open(_log(run, folder), "ab") as log:
        return subprocess.Popen(
            [*CHILD, str(run.path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _outcome(child: Child, asked: Sequence[int], folder: Path) -> str:
    """done, stopped, busy or failed; a run that ended badly, or that another process has, is left to the reconciler."""
    code = child.process.returncode
    if code == EXIT_OK:
        if _state(child.run) is State.DONE:
            return "done"
        if not asked:
            _leave(child.run, folder)
        return "busy"
    if code < 0 and not asked:
        time.sleep(ALONE_SECONDS)
    # one that a signal reached before it could listen has nothing to save
    if code == EXIT_STOPPED or -code in asked:
        return "stopped"
    if not (asked and code == -signal.SIGKILL):  # Slurm's last word to the whole job
        _leave(child.run, folder)
    return "failed"


def main(argv: Sequence[str] | None = None) -> int:
    """What a child runs; the exit code."""
    return run_command(lambda: _train_one(Run(Path((sys.argv[1:] if argv is None else argv)[0]))))


def _train_one(run: Run) -> int:
    with listening() as stop, excusing(run):
        end_with_parent()
        outcome = train_patiently(run, stop)
    note_end(run, outcome)
    print(f"{run.path}: {outcome}", flush=True)
    return {"stopped": EXIT_STOPPED, "failed": EXIT_FAILED}.get(outcome.value, EXIT_OK)


if __name__ == "__main__":
    sys.exit(main())
