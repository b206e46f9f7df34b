"""Asking Slurm: which of my jobs are in the queue, and how long an array may be.

Only squeue and scontrol: accounting (sacct) is absent on many clusters, and a run's end is read from its files.
"""

from __future__ import annotations

import functools
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from genxai.errors import GenxaiError

#: states in which an element does not run yet
_WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT")

#: states that squeue may still list although the job will never run again. A preempted job that is requeued is never
#: shown as PREEMPTED: it is COMPLETING, then REQUEUED or PENDING.
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
)  # fmt: skip


class SlurmSilent(GenxaiError):
    """Slurm did not answer: nobody knows what is alive, so nothing may be submitted."""


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue: one array element or job."""

    job_id: str
    index: int  # position in its array; 0 for a job that is no array
    name: str
    state: str
    reason: str

    @property
    def waiting(self) -> bool:
        return self.state in _WAITING


def queue(timeout_seconds: float = 60.0) -> list[QueuedJob]:
    """My jobs that are waiting or running, arrays expanded. Raises SlurmSilent if squeue cannot answer."""
    try:
        text = ask(["squeue", "--me", "--noheader", "--array", "--format=%i|%K|%T|%r|%j"], timeout_seconds)
    except GenxaiError as error:
        raise SlurmSilent(f"squeue does not reach a Slurm controller ({error})") from None
    jobs = [_parse(line) for line in text.splitlines() if line.count("|") >= 4]
    return [job for job in jobs if job.state not in ENDED]


def _parse(line: str) -> QueuedJob:
    job_id, index, state, reason, name = (part.strip() for part in line.split("|", 4))
    return QueuedJob(job_id, int(index) if index.isdigit() else 0, name, state, reason)


def cancel(name: str, *options: str) -> None:
    """scancel every job of mine with this name, if there is any. Raises SlurmSilent if Slurm does not answer."""
    try:
        ask(["scancel", *options, f"--name={name}"])
    except GenxaiError as error:
        raise SlurmSilent(str(error)) from None


@functools.lru_cache(maxsize=1)
def max_array_size(default: int = 1000) -> int:
    """Elements of the largest array this cluster accepts: indices run from 0 to MaxArraySize - 1.

    Nor may it hold more jobs than the controller does (MaxJobCount): sbatch would try for two minutes, then give up.
    """
    try:
        found = re.findall(r"^Max(?:ArraySize|JobCount)\s*=\s*(\d+)", ask(["scontrol", "show", "config"]), re.MULTILINE)
    except GenxaiError:
        return default
    return max(1, min(map(int, found))) if found else default


def ask(command: Sequence[str], timeout_seconds: float = 60.0) -> str:
    """stdout of a Slurm command. Raises GenxaiError with what it said."""
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GenxaiError(f"{command[0]}: {error}") from None
    if answer.returncode:
        raise GenxaiError(f"{command[0]}: {_complaint(answer.stderr) or f'exit code {answer.returncode}'}")
    return answer.stdout


def _complaint(stderr: str) -> str:
    """The last line, where Slurm's commands say what they died of, without their name before it."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return re.sub(r"^\w+: ((error|fatal): )?", "", lines[-1]) if lines else ""
