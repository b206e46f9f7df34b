"""The reconciler in the background: a session of its own on this machine, or a small job on Slurm.

Either way it is the same command without --detach; killed or requeued, it starts from the run directories again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

from genxai.errors import EXIT_OK, EXIT_STOPPED, GenxaiError
from genxai.files import is_locked, make_folder
from genxai.training.stopping import handling
from launch.cli import Interrupted
from launch.profiles import Profile, slurm_parameters
from launch.sbatch import submit_jobs
from launch.slurm import queue
from launch.submissions import RECONCILER, intend, read_submissions
from launch.sweepdir import SweepDir
from launch.worker import requeue, was_requeued

#: what tells a job that it is preempted or near its time limit
_NOTICES = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def detach(folder: SweepDir, argv: Sequence[str], profile: Profile | None) -> int:
    """Start `sweep.py argv` in the background, with a profile as a Slurm job, and say where to look; the exit code."""
    check_free(folder, on_slurm=profile is not None)
    rest = [word for word in argv if word != "--detach"]
    watch = f"watch it with: python launch/status.py {folder.path.parent} --watch"
    if profile is not None:
        job = submit_reconciler(folder, profile, rest)
        print(f"the sweep is run by Slurm job {job}, logging to {folder.log}; {watch}")
        return EXIT_OK
    pid, code = start_session(folder, rest)
    if code is None:
        print(f"running as process {pid}, logging to {folder.log}; {watch}")
        return EXIT_OK
    print(f"ended at once with exit code {code}; see {folder.log}", file=sys.stderr if code else sys.stdout)
    return code


def check_free(folder: SweepDir, on_slurm: bool) -> None:
    """Raises GenxaiError if a reconciler of this sweep is alive, or waits in Slurm's queue.

    Raises SlurmSilent if Slurm cannot say whether an earlier one waits.
    """
    if is_locked(folder.lock):
        raise GenxaiError(f"this sweep is already being run: {folder.path}; watch it with launch/status.py")
    names = {s.name for s in read_submissions(folder) if s.details.get("role") == RECONCILER} if on_slurm else set()
    for job in queue() if names else ():
        if job.name in names:
            raise GenxaiError(
                f"this sweep is run by Slurm job {job.job_id} already ({job.state.lower()}): {folder.path}; "
                "--cancel ends it"
            )
    make_folder(folder.path)


def start_session(folder: SweepDir, argv: Sequence[str], look_seconds: float = 2.0) -> tuple[int, int | None]:
    """Start `sweep.py argv` in a session of its own; its pid, and its exit code if it ended while we looked."""
    with open(folder.log, "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "launch.sweep", *argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        return process.pid, process.wait(look_seconds)
    except subprocess.TimeoutExpired:
        return process.pid, None


class DetachedSweep:
    """What the Slurm job calls. On any notice to end it stops watching and requeues itself; submitit has no part in it.

    submitit's own way writes the job's file anew inside a signal handler, and fails for good on what a kill left there.
    """

    def __init__(self, argv: Sequence[str], directory: str, log: str) -> None:
        self.argv, self.directory, self.log = list(argv), directory, log

    def __call__(self) -> int:
        with _noticing() as noticed:
            code = self._run()
            again = code == 128 + signal.SIGTERM or (bool(noticed) and code != EXIT_OK)
            noticed.append(0)  # from here on a notice changes nothing
            if again:
                requeue()  # a job that a person cancels is not
                sys.exit(EXIT_STOPPED)
        return code

    def _run(self) -> int:
        from launch.sweep import main

        # forgiven when it was submitted: what has failed since counts
        argv = [word for word in self.argv if not (word == "--retry-failed" and was_requeued())]
        os.chdir(self.directory)  # --runs and the sweep file may be relative
        with open(self.log, "a", buffering=1) as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            try:
                return main(argv)
            except Interrupted as stop:  # before the command could listen
                return stop.exit_code


@contextlib.contextmanager
def _noticing() -> Iterator[list[int]]:
    """Our handlers over submitit's: the first notice ends the sweep's loop, later ones change nothing."""
    noticed: list[int] = []

    def notice(number: int, frame: FrameType | None) -> None:
        noticed.append(number)
        if len(noticed) == 1:
            raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)

    with handling(notice, _NOTICES):
        yield noticed


def submit_reconciler(folder: SweepDir, profile: Profile, argv: Sequence[str]) -> str:
    """Submit the reconciler as a small requeueable job without a GPU; its job id."""
    record = intend(folder, "slurm", [], role=RECONCILER)
    one = {"tasks": 1, "nodes": 1, "accelerate": None, "cpus_per_task": 1, "mem": "2G"}
    small = profile.model_copy(update={"gres": None, "constraint": None, **one})
    work = DetachedSweep(argv, os.getcwd(), str(folder.log))
    parameters = slurm_parameters(small, record.name, threads=1)
    return submit_jobs(folder, record, parameters, lambda slurm: [slurm.submit(work)]).jobs[0]
