"""What a job does: train one run directory, and ask Slurm to start it again if it was stopped.

Submitted by reference through submitit, so it must stay importable as `launch.worker.work`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from genxai.errors import EXIT_FAILED, EXIT_STOPPED


def work(run_dir: str) -> str:
    """Train the run in `run_dir`; the outcome's name. Under Slurm a stopped run is requeued and the job exits.

    submitit has installed its signal handlers before; train() installs ours over them.
    """
    from genxai.runs import Run
    from genxai.training.run import Outcome, train

    outcome = train(Run(Path(run_dir)))
    print(f"{run_dir}: {outcome}", flush=True)
    if "SLURM_JOB_ID" in os.environ:
        if outcome is Outcome.STOPPED:
            requeue()
            sys.exit(EXIT_STOPPED)
        if outcome is Outcome.FAILED:
            sys.exit(EXIT_FAILED)  # so that squeue and sacct say so too
    return str(outcome)


def requeue(timeout_seconds: float = 60.0) -> None:
    """Have Slurm queue this job again (from one rank). If it refuses, the reconciler submits the run anew.

    Only a job that Slurm still counts as running: one that is completing was cancelled by a person (who does not
    want it back), or Slurm is requeueing it by itself.
    """
    if os.environ.get("SLURM_PROCID", "0") != "0":
        return
    job = os.environ["SLURM_JOB_ID"]
    state = _slurm(["squeue", "--noheader", "--jobs", job, "--format=%T"], timeout_seconds)
    if state == "RUNNING":
        _slurm(["scontrol", "requeue", job], timeout_seconds)
    else:
        print(f"not requeued: Slurm says the job is {state or 'unknown'}", file=sys.stderr, flush=True)


def _slurm(command: list[str], timeout_seconds: float) -> str:
    """What a Slurm command answered; its complaint goes to the job's log."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{' '.join(command)}: {error}", file=sys.stderr, flush=True)
        return ""
    if answer.returncode:
        print(f"{' '.join(command)}: {answer.stderr.strip()}", file=sys.stderr, flush=True)
    return answer.stdout.strip()
