"""Submission records: which runs were handed to which jobs, written before the jobs exist.

The record's nonce is in the job's name and folder, so a reconciler that was killed between submitting and
noting the job ids finds its jobs again and does not submit them twice.
"""

from __future__ import annotations

import functools
import socket
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from genxai.errors import GenxaiError
from genxai.runs import make_folder, write_json
from launch.sweepdir import SweepDir


@dataclass(frozen=True)
class Submission:
    """One round of submission: runs in array order, and what is known of their jobs."""

    nonce: str
    cluster: Literal["local", "slurm"]
    name: str  # job name, genxai-<sweep>-<nonce>
    signatures: tuple[str, ...]
    starts: tuple[int, ...]  # how often each run had been started when this was written
    host: str
    created: float  # unix time [s]
    state: Literal["intent", "submitted", "stopped"] = "intent"
    jobs: tuple[str, ...] = ()  # job id of each run; for local jobs the pid of the controller
    details: Mapping[str, Any] = field(default_factory=dict)


def job_name(sweep: str, nonce: str) -> str:
    """Name under which the cluster knows the jobs of a submission."""
    return f"genxai-{sweep}-{nonce}"


def intend(
    folder: SweepDir, cluster: Literal["local", "slurm"], runs: Sequence[tuple[str, int]], **details: Any
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
    if found is None or len(found.starts) != len(found.signatures):
        raise GenxaiError(f"{file} is no record of a submission; remove it once its jobs have ended")
    return found


@dataclass(frozen=True)
class History:
    """The submissions of one run: how often it had been started before each, and where the last one logs."""

    starts: tuple[int, ...] = ()
    logs: Path | None = None
    pattern: str = ""

    def last_log(self) -> Path | None:
        """The stderr of the latest job of the run; None if there is none (yet)."""
        found = sorted(self.logs.glob(self.pattern)) if self.logs else []
        return found[-1] if found else None


def histories(folder: SweepDir, submissions: Iterable[Submission]) -> dict[str, History]:
    """Signature -> history of every run that has ever been submitted; those that are no attempts left out."""
    found: dict[str, History] = {}
    for submission in submissions:
        if not is_attempt(folder, submission):
            continue
        array = len(submission.signatures) > 1
        for index, (signature, count) in enumerate(zip(submission.signatures, submission.starts, strict=True)):
            before = found.get(signature, History()).starts
            pattern = f"*_{index}_0_log.err" if array else "*_0_log.err"
            found[signature] = History((*before, count), folder.jobs / submission.nonce, pattern)
    return found
