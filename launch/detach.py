"""The reconciler in the background: a session of its own on this machine, or a small job on Slurm.

Either way it is the same command without --detach; killed or requeued, it starts from the run directories again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from genxai.errors import GenxaiError
from genxai.runs import is_locked, make_folder
from launch.profiles import Profile, slurm_parameters
from launch.sbatch import submit_jobs
from launch.submissions import intend
from launch.sweepdir import SweepDir
from launch.worker import requeue


def check_free(folder: SweepDir) -> None:
    """Raises GenxaiError if a reconciler of this sweep is alive."""
    if is_locked(folder.lock):
        raise GenxaiError(f"this sweep is already being run: {folder.path}; watch it with launch/status.py")
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
    """What the Slurm job calls; requeued by submitit at the time limit (`checkpoint`), by itself after a SIGTERM."""

    def __init__(self, argv: Sequence[str], directory: str, log: str) -> None:
        self.argv, self.directory, self.log = list(argv), directory, log

    def __call__(self) -> int:
        from launch.sweep import main

        os.chdir(self.directory)  # --runs and the sweep file may be relative
        with open(self.log, "a", buffering=1) as log:
            sys.stdout = sys.stderr = log
            try:
                code = main(self.argv)
                if code == 128 + signal.SIGTERM:
                    requeue()  # preempted, or the node goes down; a job that a person cancels is not
                return code
            finally:
                sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__

    def checkpoint(self) -> Any:
        """Nothing to save: the next start reads the run directories."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(DetachedSweep(self.argv, self.directory, self.log))


def submit_reconciler(folder: SweepDir, profile: Profile, argv: Sequence[str]) -> str:
    """Submit the reconciler as a small requeueable job without a GPU; its job id."""
    record = intend(folder, "slurm", [], role="reconciler")
    small = profile.model_copy(update={"gres": None, "constraint": None, "cpus_per_task": 1, "mem": "2G"})
    work = DetachedSweep(argv, os.getcwd(), str(folder.log))
    # the reconciler may outlive any number of time limits
    record = submit_jobs(
        folder,
        record,
        slurm_parameters(small, record.name, threads=1),
        lambda slurm: [slurm.submit(work)],
        max_timeouts=1_000_000,
    )
    return record.jobs[0]
