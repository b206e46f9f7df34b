"""Submission records: which runs were handed to which jobs, written before the jobs exist.

The record's nonce is in the job's name and folder, so a reconciler that was killed between submitting and
noting the job ids finds its jobs again and does not submit them twice.
"""

from __future__ import annotations

import functools
import os
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from genxai.errors import GenxaiError
from genxai.files import make_folder, read_json, write_json
from launch.sweepdir import SweepDir

#: the role of a submission without runs, a detached reconciler
RECONCILER = "reconciler"


@dataclass(frozen=True)
class Submission:
    """One round of submission: runs in array order, and what is known of their jobs.

    Job i of the array holds signatures[i * runs_per_job : (i + 1) * runs_per_job]; the last may hold fewer.
    """

    nonce: str
    cluster: Literal["local", "slurm"]
    name: str  # job name, genxai-<sweep>-<nonce>
    signatures: tuple[str, ...]
    starts: tuple[int, ...]  # how often each run had been started when this was written
    host: str
    created: float  # unix time [s]
    state: Literal["intent", "submitted", "stopped"] = "intent"
    jobs: tuple[str, ...] = ()  # one id per job; for local jobs the pid of the controller
    runs_per_job: int = 1
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def job_count(self) -> int:
        """Jobs that hold its runs."""
        return -(-len(self.signatures) // self.runs_per_job)

    def runs_of(self, job: int) -> tuple[str, ...]:
        """Signatures of the runs in one of its jobs."""
        return self.signatures[job * self.runs_per_job : (job + 1) * self.runs_per_job]

    @property
    def in_sequence(self) -> bool:
        """Whether the runs of a job come one after the other."""
        return bool(self.details.get("in_sequence"))


def job_name(sweep: str, nonce: str) -> str:
    """Name under which the cluster knows the jobs of a submission."""
    return f"genxai-{sweep}-{nonce}"


def intend(
    folder: SweepDir,
    cluster: Literal["local", "slurm"],
    runs: Sequence[tuple[str, int]],
    runs_per_job: int = 1,
    **details: Any,
) -> Submission:
    """Write down what is about to be submitted: (signature, starts so far) in array order."""
    nonce = uuid.uuid4().hex[:10]
    submission = Submission(
        nonce=nonce,
        cluster=cluster,
        name=job_name(folder.name, nonce),
        signatures=tuple(signature for signature, _ in runs),
        starts=tuple(starts for _, starts in runs),
        host=socket.gethostname(),
        created=time.time(),
        runs_per_job=runs_per_job,
        details=details,
    )
    make_folder(folder.submissions)
    _write(folder, submission)
    return submission


def submitted(folder: SweepDir, submission: Submission, jobs: Sequence[str]) -> Submission:
    """Add the job ids once they are known."""
    submission = replace(submission, state="submitted", jobs=tuple(jobs))
    _write(folder, submission)
    return submission


def asked_to_stop(folder: SweepDir, submission: Submission) -> None:
    """Note that its jobs were asked to stop, perhaps before their runs had begun: it is no attempt."""
    _write(folder, replace(submission, state="stopped"))


def is_cancelled(jobs: str | None) -> bool:
    """Whether the jobs of the submission with this folder were asked to stop, and are not wanted back."""
    if not jobs:
        return False
    folder = Path(jobs)
    try:
        return read_json(folder.parent.parent / "submissions" / f"{folder.name}.json").get("state") == "stopped"
    except GenxaiError:  # damaged: whoever runs the sweep says so
        return False


def withdraw(folder: SweepDir, submission: Submission) -> None:
    """Remove the record of a submission that never came about."""
    (folder.submissions / f"{submission.nonce}.json").unlink(missing_ok=True)


def is_attempt(folder: SweepDir, submission: Submission) -> bool:
    """Whether its jobs have existed (their ids were noted, or one has begun to log) and were not asked to stop."""
    if submission.state == "intent":
        return any((folder.jobs / submission.nonce).glob("*_log.*"))
    return submission.state == "submitted"


def _write(folder: SweepDir, submission: Submission) -> None:
    write_json(folder.submissions / f"{submission.nonce}.json", asdict(submission))


def read_submissions(folder: SweepDir, problems: list[str] | None = None) -> list[Submission]:
    """Every submission of the sweep, oldest first.

    A damaged record is added to `problems`. Without them it raises GenxaiError: who submits must know what is alive.
    """
    found = []
    for file in folder.submissions.glob("[!.]*.json"):
        try:
            found.append(_read(file))
        except FileNotFoundError:
            continue  # withdrawn between the listing and now
        except GenxaiError as error:
            if problems is None:
                raise
            problems.append(str(error))
    return sorted(found, key=lambda s: (s.created, s.nonce))


@functools.cache
def _adapter() -> TypeAdapter[Submission]:
    return TypeAdapter(Submission)


def _read(file: Path) -> Submission:
    try:
        found = _adapter().validate_json(file.read_bytes())
    except (PermissionError, IsADirectoryError) as error:
        raise GenxaiError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError:
        found = None
    if found is None or len(found.starts) != len(found.signatures) or found.runs_per_job < 1:
        raise GenxaiError(f"{file} is no record of a submission; remove it once its jobs have ended")
    return found


@dataclass(frozen=True)
class History:
    """The submissions of one run: how often it had been started before each, and where the last one logs."""

    starts: tuple[int, ...] = ()
    logs: Path | None = None
    patterns: tuple[str, ...] = ()  # the first that a file has counts

    def last_log(self) -> Path | None:
        """The stderr of the latest job of the run; None if there is none (yet)."""
        if self.logs is None:
            return None
        found = (sorted(self.logs.glob(pattern)) for pattern in self.patterns)
        return next((logs[-1] for logs in found if logs), None)


def histories(folder: SweepDir, submissions: Iterable[Submission]) -> dict[str, History]:
    """Signature -> history of every run that has ever been submitted; those that are no attempts left out."""
    found: dict[str, History] = {}
    for submission in submissions:
        if not is_attempt(folder, submission):
            continue
        logs, turns = folder.jobs / submission.nonce, Turns.of(folder, submission)
        for index, (signature, count) in enumerate(zip(submission.signatures, submission.starts, strict=True)):
            job = index // submission.runs_per_job
            if not turns.had(signature, submission.runs_of(job)):
                continue
            pattern = f"*_{job}_0_log.err" if submission.job_count > 1 else "*_0_log.err"
            own = (f"*{run_log(signature)}",) if submission.runs_per_job > 1 else ()
            before = found.get(signature, History())
            # by what had been started before each, not by the clock, which may have been put back
            starts = tuple(sorted((*before.starts, count)))
            newest = count == starts[-1]
            found[signature] = History(starts, logs, (*own, pattern)) if newest else replace(before, starts=starts)
    return found


# --- runs that share a job -----------------------------------------------------------------------


def run_log(signature: str) -> str:
    """What one of several runs of a job prints; the job's id comes before it."""
    return f"_{signature}_run.err"


def left_file(signature: str) -> str:
    """Marks in the job's folder that a run ended badly: its job, requeued, leaves it to the reconciler."""
    return f"{signature}.left"


@dataclass(frozen=True)
class Turns:
    """Which runs of a submission with several per job have begun or been left; of one run per job nothing is noted."""

    begun: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()

    @classmethod
    def of(cls, folder: SweepDir, submission: Submission) -> Turns:
        """Read from the names in the submission's folder."""
        if submission.runs_per_job == 1:
            return cls()
        try:
            names = os.listdir(folder.jobs / submission.nonce)
        except FileNotFoundError:
            return cls()
        return cls(
            frozenset(name.split("_")[-2] for name in names if name.endswith("_run.err")),
            frozenset(name.removesuffix(".left") for name in names if name.endswith(".left")),
        )

    def had(self, signature: str, companions: Collection[str]) -> bool:
        """Whether the job was an attempt of this run: it came to it, or ended before it came to any."""
        return signature in self.begun or self.begun.isdisjoint(companions)
