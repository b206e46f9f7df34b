"""One submission to Slurm through submitit: what a refusal means, and what becomes of its record.

sbatch says no in three ways: for good, because of a limit on submitted jobs, and by not reaching the controller.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from genxai.errors import GenxaiError
from genxai.files import make_folder
from launch.slurm import SlurmSilent, cancel
from launch.submissions import Submission, submitted, withdraw
from launch.sweepdir import SweepDir

#: the controller is busy or down: the jobs may have been accepted all the same
_SILENT = re.compile(
    r"timed out|unable to (contact|connect)|connection (refused|reset)|communication|zero bytes|not responding|standby",
    re.IGNORECASE,
)

#: nothing was accepted, fewer jobs or later ones may be: QOSMaxSubmitJobPerUserLimit, AssocGrpSubmitJobsLimit, ...
_LIMIT = re.compile(
    r"(max|grp)submit|temporarily un(able|available)|job queue full|unable to create job record", re.IGNORECASE
)


class SubmitLimit(GenxaiError):
    """As many jobs as Slurm lets this person submit are submitted."""


def submit_jobs(
    folder: SweepDir,
    record: Submission,
    parameters: Mapping[str, Any],
    submit: Callable[[Any], Sequence[Any]],
) -> Submission:
    """The record with its job ids, after `submit` has made the jobs with the submitit executor it is given.

    Raises SlurmSilent if the controller could not be reached: the record stays, because the jobs may exist (`settle`
    finds out). Raises SubmitLimit, or GenxaiError with what sbatch said, if there are none: then the record is gone.
    """
    import submitit

    # a folder per submission: a cluster that counts its job ids anew must not meet old pickles
    jobs = folder.jobs / record.nonce
    make_folder(jobs)
    executor = submitit.SlurmExecutor(jobs)
    executor.update_parameters(**parameters)
    try:
        # submitit prints what sbatch complains of, which is in its error as well
        with submission_environment(), contextlib.redirect_stderr(io.StringIO()):
            ids = [str(job.job_id) for job in submit(executor)]
    except submitit.core.utils.FailedJobError as error:
        said = _complaint(error)
        if _SILENT.search(said):
            raise SlurmSilent(f"sbatch: {said}") from None
        withdraw(folder, record)
        if _LIMIT.search(said):
            raise SubmitLimit(f"sbatch: {said}") from None
        raise GenxaiError(f"sbatch refused the submission: {said} (its files: {jobs})") from None
    except submitit.core.utils.FailedSubmissionError as error:
        raise GenxaiError(f"sbatch gave no job id: {' '.join(str(error).split())} (its files: {jobs})") from None
    return submitted(folder, record, ids)


def settle(folder: SweepDir, submissions: Sequence[Submission]) -> list[Submission]:
    """The submissions without those that never came about: sbatch was not answered, or the reconciler was killed in it.

    Jobs cannot start before submitit has put their pickles in place, so those that may exist without are cancelled
    by name. Raises SlurmSilent if Slurm does not answer.
    """
    settled = []
    for submission in submissions:
        if submission.cluster == "slurm" and submission.state == "intent" and not in_place(folder, submission):
            cancel(submission.name)
            withdraw(folder, submission)
        else:
            settled.append(submission)
    return settled


def in_place(folder: SweepDir, submission: Submission) -> bool:
    """Whether every job has its pickle. A detached reconciler's is looked after by whoever submits it."""
    found = (folder.jobs / submission.nonce).glob("*_submitted.pkl")
    return len(list(found)) >= submission.job_count


@contextlib.contextmanager
def submission_environment() -> Iterator[None]:
    """Inside a job, the environment without that job's own variables; elsewhere, as it is.

    SLURM_CONF is kept: it says where the cluster is, not which job this is.
    """
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    import submitit

    configuration = os.environ.get("SLURM_CONF")
    with submitit.helpers.clean_env():
        if configuration is not None:
            os.environ["SLURM_CONF"] = configuration
        yield


def _complaint(error: Exception) -> str:
    """What sbatch said, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("sbatch:", "srun:"))]
    words = [line.removeprefix("sbatch:").strip().removeprefix("error:").strip() for line in told or lines[-1:]]
    return "; ".join(words) or "no reason given"
