"""End a sweep: its reconciler first, which would submit again, then its jobs and local runs, which save before.

Nothing is lost: the same sweep started again goes on where its runs stopped, and no attempt is counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from genxai.errors import EXIT_FAILED, EXIT_OK, GenxaiError, UsageError
from genxai.files import exclusive, is_locked, read_json
from genxai.runs import State, find_runs
from launch.attempts import Live, Status, excuse
from launch.executors import LocalRuns, local_live, slurm_live
from launch.processes import find_processes
from launch.sbatch import settle
from launch.slurm import QueuedJob, SlurmSilent, cancel, queue
from launch.submissions import RECONCILER, Submission, asked_to_stop, read_submissions
from launch.sweepdir import SweepDir

#: how long runs have to save before Slurm ends them; a reconciler of local runs gives them as long [s]
SAVE_SECONDS = 60.0
#: how long Slurm has to end jobs that have not saved: its own KillWait and then some [s]
END_SECONDS = 90.0
#: a run that is just starting may not hear the first signal [s]
SIGNAL_AGAIN_SECONDS = 5.0


@dataclass(frozen=True)
class Targets:
    """What of a sweep is alive: runs by signature, its jobs in Slurm's queue, who runs the sweep."""

    slurm: Mapping[str, Live]
    local: Mapping[str, Live]
    jobs: Sequence[QueuedJob]
    detached: Sequence[Submission]  # reconcilers in Slurm's queue
    reconciler: str = ""  # in words; empty without one
    waits: bool = False  # it is in Slurm's queue still, and runs nothing yet
    pid: int | None = None  # of a reconciler on this machine that is no Slurm job

    def count(self, status: Status) -> int:
        """Runs that run or are queued."""
        return sum(live.status is status for live in (*self.slurm.values(), *self.local.values()))

    @property
    def anything(self) -> bool:
        return bool(self.slurm or self.local or self.jobs or self.reconciler)


def cancel_sweep(folder: SweepDir, say: Callable[[str], None], yes: bool, dry_run: bool, as_json: bool) -> int:
    """Say what is alive, ask, end it; the exit code.

    Raises UsageError where nobody can be asked, SlurmSilent if Slurm does not answer, GenxaiError if the sweep is run
    on another machine or does not exist.
    """
    if not folder.path.is_dir():
        raise GenxaiError(f"no sweep in {folder.path}; --runs says where to look")
    found = look(folder)
    elsewhere = _elsewhere(folder, found)
    say(_words(folder, found, elsewhere))
    told: dict[str, Any] = {
        "sweep": folder.name,
        "running": found.count(Status.RUNNING),
        "queued": found.count(Status.QUEUED),
        "elsewhere": elsewhere,
        "reconciler": found.reconciler or None,
        "cancelled": False,
    }
    code = EXIT_OK
    if found.anything and not dry_run:
        if not yes and not _agreed():
            say("nothing was cancelled")
            code = EXIT_FAILED
        else:
            ended, killed, left = _cancel(folder)
            told |= {"cancelled": True, "killed": killed, "still_alive": left}
            say(_last_words(ended, killed, left))
            code = EXIT_FAILED if left or elsewhere else EXIT_OK
    if as_json:
        print(json.dumps(told, indent=1))
    return code


def look(folder: SweepDir) -> Targets:
    """What is alive. Raises SlurmSilent, and GenxaiError if another machine runs the sweep."""
    found = _look_for_jobs(folder, read_submissions(folder))
    names = {record.name for record in found.detached}
    reconcilers = sorted((job for job in found.jobs if job.name in names), key=lambda job: job.waiting)
    if reconcilers:
        found = replace(found, reconciler=f"Slurm job {reconcilers[0].job_id}", waits=reconcilers[0].waiting)
    if is_locked(folder.lock) and not (reconcilers and not found.waits):
        name, pid = _holder(folder)
        found = replace(found, reconciler=name, waits=False, pid=pid)
    return found


def _look_for_jobs(folder: SweepDir, submissions: Sequence[Submission]) -> Targets:
    """What is alive but the process that runs the sweep."""
    on_slurm = {s.name: s for s in submissions if s.cluster == "slurm"}
    jobs = [job for job in queue() if job.name in on_slurm] if on_slurm else []
    names = {job.name for job in jobs}
    return Targets(
        _unfinished(folder, slurm_live(folder, submissions, jobs)),
        local_live(submissions),
        jobs,
        [s for s in on_slurm.values() if s.details.get("role") == RECONCILER and s.name in names],
    )


def _unfinished(folder: SweepDir, live: Mapping[str, Live]) -> dict[str, Live]:
    """Without the runs that are done: their job may go on for the sake of others."""
    return {name: one for name, one in live.items() if folder.run(name).state is not State.DONE}


def _holder(folder: SweepDir) -> tuple[str, int]:
    """The reconciler that holds the sweep, in words, and its pid on this machine."""
    who = read_json(folder.holder)
    host, pid = who.get("host"), who.get("pid")
    name = f"process {pid} on {host}"
    if host != socket.gethostname() or "sweep" not in find_processes("").get(pid or 0, ""):
        raise GenxaiError(f"this sweep is being run by {name}, which would submit again: end it there first")
    return name, int(pid or 0)


def _elsewhere(folder: SweepDir, found: Targets) -> int:
    """Runs that are being trained by nobody's job: started by hand, or by a sweep on another machine."""
    mine = {*found.slurm, *found.local}
    runs = [run for run in find_runs(folder.path.parent, folder.name) if run.signature not in mine]
    return sum(run.state is State.STARTED and run.is_running() for run in runs)


def _words(folder: SweepDir, found: Targets, elsewhere: int) -> str:
    if not found.anything:
        words = "nothing is running or queued"
    else:
        waiting = found.count(Status.QUEUED)
        slurm = sum(live.status is Status.RUNNING for live in found.slurm.values())
        parts = [f"{slurm} running and {waiting} queued on Slurm"] if found.slurm or found.jobs else []
        parts += [f"{len(found.local)} running on this machine"] if found.local else []
        run_by = "to be run by" if found.waits else "run by"
        parts += [f"{run_by} {found.reconciler}, which is ended first"] if found.reconciler else []
        words = ", ".join(parts)
    note = f"; {elsewhere} more, started by hand or from another machine, are not this command's to end" * bool(
        elsewhere
    )
    return f"sweep {folder.name}: {words}{note}"


def _agreed() -> bool:
    """Whether the person at the terminal says yes. Raises UsageError where there is none."""
    if not sys.stdin.isatty():
        raise UsageError("--cancel asks before it ends anything, and there is no terminal: add --yes")
    print(
        "cancel all of it? running ones save first, and the sweep can be started again [y/N] ", end="", file=sys.stderr
    )
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _cancel(folder: SweepDir) -> tuple[Targets, int, int]:
    """End everything; what was ended, how many runs before they had saved, and how many are alive still."""
    found = look(folder)  # again: an answer may have taken long, and a pid be somebody else's by now
    for record in found.detached:
        asked_to_stop(folder, record)
        _scancel(record.name)
    if found.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGTERM)
    with _in_its_place(folder, found):
        submissions = settle(folder, read_submissions(folder))
        now = _look_for_jobs(folder, submissions)  # its reconciler may have submitted until it ended
        late, left = _end_jobs(folder, submissions) if now.jobs else ({}, 0)
        left += _stop_local(folder, submissions)
    ended = replace(found, slurm={**found.slurm, **now.slurm, **late}, local={**found.local, **now.local})
    return ended, len(late), left


def _end_jobs(folder: SweepDir, submissions: Sequence[Submission]) -> tuple[dict[str, Live], int]:
    """End Slurm's jobs: the runs that had not saved in time, and how many submissions are alive still."""
    late = {name: live for name, live in _stop_slurm(folder, submissions).items() if live.status is Status.RUNNING}
    left = _end_slurm(submissions)
    for name in late:
        if folder.run(name).state is State.STARTED:
            excuse(folder.run(name), "stopped")  # it was we who ended it
    return late, left


@contextlib.contextmanager
def _in_its_place(folder: SweepDir, found: Targets) -> Iterator[None]:
    """Hold the sweep's lock, once its reconciler is gone, so that no other one starts meanwhile."""
    deadline = time.monotonic() + SAVE_SECONDS + END_SECONDS
    while True:
        with exclusive(folder.lock) as free:
            if free:
                yield
                return
        if time.monotonic() > deadline:
            raise GenxaiError(
                f"{found.reconciler or 'the reconciler of this sweep'} does not end; no run was cancelled"
            )
        time.sleep(0.2)


def _stop_local(folder: SweepDir, submissions: Sequence[Submission]) -> int:
    """Have local runs save and stop; how many are still alive."""
    runs = LocalRuns(folder, max_parallel=1)
    deadline = time.monotonic() + SAVE_SECONDS
    while (alive := runs.stop(submissions)) and time.monotonic() < deadline:
        time.sleep(0.3)
    return alive


def _stop_slurm(folder: SweepDir, submissions: Sequence[Submission]) -> dict[str, Live]:
    """Take waiting jobs out of the queue, have running ones save and end; the runs in those that have not in time.

    A plain scancel leaves them KillWait, half a minute on most clusters; a signal first leaves them as long as they
    need. They do not come back: a job requeues itself only while its record does not say that it was asked to stop.
    """
    deadline, signal_at = time.monotonic() + SAVE_SECONDS, 0.0
    noted: set[str] = set()
    while jobs := _jobs(submissions):
        if time.monotonic() > deadline:
            break
        for record in jobs.values():
            if record.name not in noted:
                noted.add(record.name)
                asked_to_stop(folder, record)
        if time.monotonic() >= signal_at:
            signal_at = time.monotonic() + SIGNAL_AGAIN_SECONDS
            for name in jobs:
                _scancel(name, "--state=PENDING")
                _scancel(name, "--signal=TERM", "--state=RUNNING")
        time.sleep(0.5)
    return _unfinished(folder, slurm_live(folder, submissions)) if jobs else {}


def _end_slurm(submissions: Sequence[Submission]) -> int:
    """End what is left, as Slurm does it; how many jobs do not go even so."""
    for name in _jobs(submissions):
        _scancel(name)
    deadline = time.monotonic() + END_SECONDS
    while (jobs := _jobs(submissions)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return len(jobs)


def _jobs(submissions: Sequence[Submission]) -> dict[str, Submission]:
    """The submissions that have jobs in the queue, by job name."""
    known = {s.name: s for s in submissions if s.cluster == "slurm"}
    return {job.name: known[job.name] for job in queue() if job.name in known}


def _scancel(name: str, *options: str) -> None:
    """Whether it worked is seen in the queue: scancel also complains of jobs that are just ending."""
    with contextlib.suppress(SlurmSilent):
        cancel(name, *options)


def _last_words(found: Targets, killed: int, left: int) -> str:
    running = found.count(Status.RUNNING)
    saved = f"{running - killed} saved and stopped" + (f", {killed} were ended before they had saved" if killed else "")
    words = [saved] if running else []
    words += [f"{found.count(Status.QUEUED)} taken out of the queue"] if found.count(Status.QUEUED) else []
    if left:
        return f"not everything ended: {left} are still alive; {', '.join(words)}; try again"
    return f"cancelled: {', '.join(words) or 'nobody runs the sweep any more'}; start the sweep again to go on"
