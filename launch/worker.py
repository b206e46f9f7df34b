"""What a job does: train one run directory, and ask Slurm to start it again if it was stopped.

Submitted by reference through submitit, so it must stay importable as `launch.worker.work`.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genxai.errors import DISK_ERRORS, EXIT_FAILED, EXIT_OK, EXIT_STOPPED, GenxaiError, RunRemoved
from genxai.runs import Run, State
from genxai.training.stopping import StopFlag, listening
from launch.attempts import excuse
from launch.ranks import is_first_rank, is_rank, join_slurm_step, start_ranks
from launch.slurm import ENDED, ask
from launch.submissions import is_cancelled

if TYPE_CHECKING:
    from genxai.training.run import Outcome

#: how long a requeued job waits for its former process, which may still be saving on another node [s]
BUSY_SECONDS = 120.0
#: how long a stopped job asks a controller that does not answer, and how long it pauses in between [s]
ASK_SECONDS, ASK_AGAIN_SECONDS = 60.0, 3.0


def work(run_dir: str) -> str:
    """Train the run in `run_dir`; the outcome's name. Under Slurm a stopped run is requeued and the job exits.

    submitit has installed its signal handlers before; ours go over them before torch is imported, which takes seconds,
    and stay until the job is requeued: submitit's would requeue it as well, in its own way.
    """
    run = Run(Path(run_dir))
    os.environ.update(join_slurm_step(os.environ))
    processes = run.config().run.processes or 1
    with listening() as stop:
        if processes > 1 and not is_rank():
            outcome = _train_on_ranks(run, processes, stop)
        else:
            with excusing(run):
                outcome = train_patiently(run, stop)
        from genxai.training.run import Outcome

        if not is_first_rank():
            # the first one speaks for the job, and must not be killed on the way because another has ended badly
            sys.exit(EXIT_FAILED if outcome is Outcome.FAILED else EXIT_OK)
        print(f"{run_dir}: {outcome}", flush=True)
        note_end(run, outcome)
        end_job(stopped=outcome is Outcome.STOPPED, failed=outcome is Outcome.FAILED)
    return str(outcome)


def train_patiently(run: Run, stop: StopFlag, pause_seconds: float = 5.0) -> Outcome:
    """Train; in a Slurm job a run that is busy is tried again for a while, unless it is to stop."""
    from genxai.training.run import Outcome, train

    deadline = time.monotonic() + BUSY_SECONDS
    while (outcome := train(run, stop=stop)) is Outcome.BUSY and in_slurm_job() and not stop.requested:
        if time.monotonic() >= deadline:
            break
        time.sleep(pause_seconds)
    return outcome


@contextlib.contextmanager
def excusing(run: Run) -> Iterator[None]:
    """Note an end that the run is not to blame for: a full disk, or its directory was removed."""
    try:
        yield
    except RunRemoved:
        excuse(run, "removed")
        raise
    except OSError as error:
        if error.errno in DISK_ERRORS:
            with contextlib.suppress(OSError):  # the disk may be too full for that as well
                excuse(run, "disk", str(error))
        raise


def note_end(run: Run, outcome: Outcome) -> None:
    """Note an end that does not count against the run: it was stopped, or another process has it."""
    if outcome.value in ("stopped", "busy"):
        excuse(run, outcome.value)


def thread_limits(threads: int) -> dict[str, str]:
    """Environment of a process whose libraries shall use so many CPU threads."""
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def _train_on_ranks(run: Run, processes: int, stop: StopFlag) -> Outcome:
    """Train with several processes of this machine, which hear from us of a stop."""
    from genxai.training.run import Outcome

    if stop.requested:  # while torch was imported
        return Outcome.STOPPED
    train = Path(__file__).with_name("train.py")
    code = start_ranks([sys.executable, str(train), str(run.path), "--quiet"], processes)
    if code == EXIT_STOPPED:
        return Outcome.STOPPED
    if run.state is not State.DONE and run.is_running():
        return Outcome.BUSY
    return Outcome.DONE if run.state is State.DONE else Outcome.FAILED


def in_slurm_job() -> bool:
    """Whether this process is a Slurm job of a sweep, not merely inside a job somebody else has submitted."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"


def job_id() -> str:
    """The id of this job alone: SLURM_JOB_ID of an array's last element is also the id of the whole array."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{index}" if array and index else os.environ["SLURM_JOB_ID"]


def was_requeued() -> bool:
    """Whether this job has had a life before."""
    return os.environ.get("SLURM_RESTART_COUNT", "0") not in ("", "0")


def end_job(stopped: bool, failed: bool) -> None:
    """End a Slurm job as its cluster should see it: requeued if a run was stopped. Elsewhere, nothing."""
    if not in_slurm_job():
        return
    if stopped:
        requeue()
        sys.exit(EXIT_STOPPED)
    if failed:
        sys.exit(EXIT_FAILED)  # so that squeue and sacct say so too


def requeue() -> None:
    """Have Slurm queue this job again (from one rank). If it refuses, the reconciler submits the run anew.

    Not a job of a cancelled sweep, nor one that is completing: that was cancelled by a person, too (who does not want
    it back), or Slurm is requeueing it by itself. While the controller does not say which, it is asked again; then the
    job is requeued all the same, since nobody else would bring back a reconciler.
    """
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return
    if is_cancelled(os.environ.get("SUBMITIT_FOLDER")):
        print("not requeued: the sweep has been cancelled", file=sys.stderr, flush=True)
        return
    job = job_id()
    state = _state(job)
    if state is not None and (not state or state in ("COMPLETING", *ENDED)):
        print(f"not requeued: Slurm says the job is {state or 'unknown'}", file=sys.stderr, flush=True)
        return
    try:
        ask(["scontrol", "requeue", job])
    except GenxaiError as error:
        print(f"not requeued: {error}", file=sys.stderr, flush=True)


def _state(job: str) -> str | None:
    """Slurm's word for the state of a job, empty if it does not know it; None if it does not answer for a while."""
    deadline = time.monotonic() + ASK_SECONDS
    while (left := deadline - time.monotonic()) > 0:
        try:
            return ask(["squeue", "--noheader", "--jobs", job, "--format=%T"], timeout_seconds=left).strip()
        except GenxaiError as error:
            if "invalid job id" in str(error).lower():
                return ""
            print(f"asking again: {error}", file=sys.stderr, flush=True)
        time.sleep(ASK_AGAIN_SECONDS)
    return None
