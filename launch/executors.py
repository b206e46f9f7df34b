"""Where runs are executed: local processes or Slurm jobs, both through submitit.

An executor submits runs and says which of them are alive now. It keeps no state of its own: submission records,
the process table and squeue are asked anew every time.
"""

from __future__ import annotations

import abc
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from genxai.errors import GenxaiError, UsageError
from genxai.runs import make_folder
from launch.attempts import Live
from launch.plan import PlannedRun
from launch.processes import find_processes
from launch.profiles import Profile, slurm_parameters
from launch.slurm import max_array_size, queue
from launch.submissions import Submission, intend, submitted
from launch.sweepdir import SweepDir
from launch.worker import work

#: a local job has no time limit; submitit insists on one [minutes]
_A_YEAR = 60 * 24 * 365

Function = Callable[[str], Any]


class Executor(abc.ABC):
    """Submits runs of one sweep and tells which are alive. `function` gets the run directory."""

    cluster: ClassVar[Literal["local", "slurm"]]

    def __init__(self, folder: SweepDir, function: Function = work) -> None:
        self.folder, self.function = folder, function

    @abc.abstractmethod
    def live(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        """Signature -> running or queued, for every run with a living job. Raises GenxaiError if nobody can say."""

    @abc.abstractmethod
    def slots(self, submissions: Sequence[Submission]) -> int | None:
        """How many more runs may be submitted now; None: any number."""

    @abc.abstractmethod
    def submit(self, runs: Sequence[tuple[PlannedRun, int]]) -> list[Submission]:
        """Submit runs (each with how often it had been started before); the records written."""

    @abc.abstractmethod
    def array_size(self, count: int) -> int:
        """How many of `count` runs one submission holds."""

    def stop(self, submissions: Sequence[Submission]) -> int:
        """Ask jobs that would not outlive their owner's wish to save and stop; how many are still alive."""
        return 0


class LocalRuns(Executor):
    """Each run a process of its own, at most `max_parallel` alive, counting those of an earlier reconciler."""

    cluster = "local"

    def __init__(self, folder: SweepDir, max_parallel: int, function: Function = work) -> None:
        super().__init__(folder, function)
        self.max_parallel = max_parallel
        self._devices = visible_gpus()

    def live(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        alive = self._processes()
        mine = [s for s in submissions if s.cluster == "local" and s.nonce in alive]
        return {signature: Live.RUNNING for s in mine for signature in s.signatures}

    def slots(self, submissions: Sequence[Submission]) -> int:
        alive = self._processes()
        return max(0, self.max_parallel - sum(s.nonce in alive for s in submissions))

    def array_size(self, count: int) -> int:
        return 1

    def submit(self, runs: Sequence[tuple[PlannedRun, int]]) -> list[Submission]:
        return [self._submit_one(planned, starts) for planned, starts in runs]

    def _submit_one(self, planned: PlannedRun, starts: int) -> Submission:
        import submitit

        device = self._least_used_device()
        record = intend(self.folder, "local", [(planned.signature, starts)], device=device)
        # a folder per submission: a pid that comes round again must not find the pickle of its namesake
        jobs = self.folder.jobs / record.nonce
        make_folder(jobs)
        # the thread count and the GPU are the job's own, so they are set by env(1), not in this process
        executor = submitit.LocalExecutor(jobs, python=_python(planned.config.train.threads, device))
        executor.update_parameters(timeout_min=_A_YEAR, setup=_detached(jobs / "controller.log"))
        job = executor.submit(self.function, str(planned.run.path))
        return submitted(self.folder, record, [job.job_id])

    def stop(self, submissions: Sequence[Submission]) -> int:
        """SIGTERM to the runs themselves: they save at the next step and exit."""
        alive = self._processes()
        mine = {s.nonce for s in submissions if s.nonce in alive}
        for nonce in mine:
            for pid, command in alive[nonce].items():
                if "submitit.core._submit" in command:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        return len(mine)

    def _processes(self) -> dict[str, dict[int, str]]:
        """Nonce -> pid -> command line of the living processes of any submission."""
        alive: dict[str, dict[int, str]] = {}
        for pid, command in find_processes("submitit.").items():
            for nonce in _NONCE.findall(command):
                alive.setdefault(nonce, {})[pid] = command
        return alive

    def _least_used_device(self) -> str | None:
        """The GPU that the fewest living runs use; None without GPUs."""
        if not self._devices:
            return None
        from launch.submissions import read_submissions

        alive = self._processes()
        used = [s.details.get("device") for s in read_submissions(self.folder) if s.nonce in alive]
        return min(self._devices, key=used.count)


_NONCE = re.compile(r"/jobs/([0-9a-f]{10})(?=[\s/]|$)")


def _python(threads: int, device: str | None) -> str:
    """The command that starts Python with a run's own environment (submitit splits it like a shell)."""
    command = ["env", f"OMP_NUM_THREADS={threads}", f"MKL_NUM_THREADS={threads}", f"OPENBLAS_NUM_THREADS={threads}"]
    command += [f"CUDA_VISIBLE_DEVICES={device or ''}", sys.executable]
    return shlex.join(command)


def _detached(log: Path) -> list[str]:
    """Shell commands before submitit's controller that cut it loose from the reconciler's terminal.

    Ctrl-C and a closed terminal are answered by the reconciler alone, in order (the controller would SIGKILL the
    run in the middle of its save), and whoever reads the reconciler's output does not wait for the run to end.
    """
    return ["trap '' INT HUP", f"exec </dev/null >>{shlex.quote(str(log))} 2>&1"]


def visible_gpus() -> list[str]:
    """The GPUs a run may be given, as CUDA_VISIBLE_DEVICES names them; [] without any. Imports nothing heavy."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


class SlurmRuns(Executor):
    """Runs as elements of Slurm arrays, one array per round (or per MaxArraySize elements)."""

    cluster = "slurm"

    def __init__(
        self, folder: SweepDir, profile: Profile, max_parallel: int | None = None, function: Function = work
    ) -> None:
        super().__init__(folder, function)
        self.profile, self.max_parallel = profile, max_parallel
        check_slurm()

    def live(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        return slurm_live(submissions)

    def slots(self, submissions: Sequence[Submission]) -> None:
        return None

    def array_size(self, count: int) -> int:
        return min(count, max_array_size())

    def submit(self, runs: Sequence[tuple[PlannedRun, int]]) -> list[Submission]:
        size = self.array_size(len(runs))
        return [self._submit_array(runs[first : first + size]) for first in range(0, len(runs), size)]

    def _submit_array(self, runs: Sequence[tuple[PlannedRun, int]]) -> Submission:
        import submitit

        record = intend(self.folder, "slurm", [(planned.signature, starts) for planned, starts in runs])
        # a folder per submission: a cluster that counts its job ids anew must not meet old pickles
        jobs = self.folder.jobs / record.nonce
        make_folder(jobs)
        executor = submitit.SlurmExecutor(jobs)
        threads = max(planned.config.train.threads for planned, _ in runs)
        executor.update_parameters(**slurm_parameters(self.profile, record.name, threads, self.max_parallel))
        try:
            with submission_environment():
                array = executor.map_array(self.function, [str(planned.run.path) for planned, _ in runs])
        except submitit.core.utils.FailedJobError as error:
            raise GenxaiError(f"sbatch refused the submission: {_last_line(error)} (its files: {jobs})") from None
        return submitted(self.folder, record, [job.job_id for job in array])


def slurm_live(submissions: Sequence[Submission]) -> dict[str, Live]:
    """Signature -> running or queued for the runs in the queue, recognised by job name and array index."""
    by_name = {s.name: s for s in submissions if s.cluster == "slurm"}
    live: dict[str, Live] = {}
    for job in queue():
        record = by_name.get(job.name)
        if record is not None and job.index < len(record.signatures):
            live[record.signatures[job.index]] = Live.QUEUED if job.waiting else Live.RUNNING
    return live


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


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("sbatch:", "srun:"))]
    return " ".join(told or lines[-1:])


def check_slurm(environment: Mapping[str, str] | None = None) -> None:
    """Raises UsageError unless Slurm's commands can be found."""
    path = (environment or os.environ).get("PATH")
    missing = [name for name in ("sbatch", "squeue", "scontrol", "srun") if shutil.which(name, path=path) is None]
    if missing:
        raise UsageError(
            f"--cluster slurm: {', '.join(missing)} not found on the PATH; run this on a login node of the cluster, "
            "or use --cluster local"
        )
