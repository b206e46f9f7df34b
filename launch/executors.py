"""Where runs are executed: local processes or Slurm jobs, both through submitit.

An executor submits runs and says which of them are alive now. It remembers nothing about them: submission records,
the process table and squeue are asked anew every time.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import math
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from genxai.config import Config
from genxai.errors import UsageError
from genxai.files import make_folder
from launch.attempts import Live, Status
from launch.packing import work_together
from launch.plan import PlannedRun
from launch.processes import find_processes
from launch.profiles import Profile, check_packing_fits, check_profile_fits, check_shares_gpu, slurm_parameters
from launch.sbatch import SubmitLimit, in_place, settle, submit_jobs
from launch.slurm import QueuedJob, SlurmSilent, max_array_size, queue
from launch.submissions import Submission, Turns, asked_to_stop, intend, submitted, withdraw
from launch.sweepdir import SweepDir
from launch.worker import thread_limits, work

#: a local job has no time limit; submitit insists on one [minutes]
_A_YEAR = 60 * 24 * 365
#: between two questions of a local reconciler about jobs that an earlier one has handed to Slurm [s]
ASK_SLURM_SECONDS = 10.0

Function = Callable[[str], Any]


class Executor(abc.ABC):
    """Submits runs of one sweep and tells which are alive. `function` gets the run directory."""

    cluster: ClassVar[Literal["local", "slurm"]]
    runs_per_job = 1

    def __init__(self, folder: SweepDir, function: Function = work) -> None:
        self.folder, self.function = folder, function

    @abc.abstractmethod
    def live(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        """Signature -> running or queued, for every run with a living job. Raises GenxaiError if nobody can say."""

    @abc.abstractmethod
    def slots(self, submissions: Sequence[Submission], live: Mapping[str, Live]) -> int | None:
        """How many more runs may be submitted while these are alive; None: any number."""

    @abc.abstractmethod
    def submit(self, runs: Sequence[tuple[PlannedRun, int]]) -> list[Submission]:
        """Submit runs (each with how often it had been started before); the records written.

        After an error, records of what was submitted before it, or may have been, are on disk.
        """

    @abc.abstractmethod
    def array_size(self, count: int) -> int:
        """How many jobs one submission of `count` runs holds."""

    def settle(self, submissions: Sequence[Submission]) -> list[Submission]:
        """The submissions without those that, after an error or a kill, have turned out never to have come about."""
        return list(submissions)

    def stop(self, submissions: Sequence[Submission]) -> int:
        """Ask jobs that would not outlive their owner's wish to save and stop; how many are still alive."""
        return 0


class LocalRuns(Executor):
    """Each run a process of its own, at most `max_parallel` alive, counting those of an earlier reconciler.

    Where there are GPUs a new run gets those that the fewest living runs use.
    """

    cluster = "local"

    def __init__(self, folder: SweepDir, max_parallel: int, function: Function = work) -> None:
        super().__init__(folder, function)
        self.max_parallel = max_parallel
        self._devices = visible_gpus()
        self._asked: set[str] = set()  # nonces of submissions that were asked to stop
        self._on_slurm: dict[str, Live] = {}  # as of the latest answer
        self._ask_slurm = 0.0

    def live(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        return self._live_on_slurm(submissions) | local_live(submissions)

    def _live_on_slurm(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        """What an earlier reconciler has handed to Slurm. No answer is no obstacle: each run has its own lock."""
        if not any(s.cluster == "slurm" for s in submissions) or shutil.which("squeue") is None:
            return {}
        if time.monotonic() >= self._ask_slurm:
            with contextlib.suppress(SlurmSilent):
                self._on_slurm = slurm_live(self.folder, submissions)
            self._ask_slurm = time.monotonic() + ASK_SLURM_SECONDS
        return self._on_slurm

    def slots(self, submissions: Sequence[Submission], live: Mapping[str, Live]) -> int:
        return max(0, self.max_parallel - len(_local(submissions, job_processes())))

    def array_size(self, count: int) -> int:
        return 1

    def submit(self, runs: Sequence[tuple[PlannedRun, int]]) -> list[Submission]:
        return [self._submit_one(planned, starts) for planned, starts in runs]

    def _submit_one(self, planned: PlannedRun, starts: int) -> Submission:
        import submitit

        device = self._least_used_devices(planned.config.run.processes or 1)
        record = intend(self.folder, "local", [(planned.signature, starts)], device=device)
        # a folder per submission: a pid that comes round again must not find the pickle of its namesake
        jobs = self.folder.jobs / record.nonce
        make_folder(jobs)
        # the thread count and the GPU are the job's own, so they are set by env(1), not in this process
        executor = submitit.LocalExecutor(jobs, python=_python(planned.config.train.threads, device))
        executor.update_parameters(timeout_min=_A_YEAR, setup=_detached(jobs / "controller.log"))
        job = executor.submit(self.function, str(planned.run.path))
        return submitted(self.folder, record, [job.job_id])

    def settle(self, submissions: Sequence[Submission]) -> list[Submission]:
        """A reconciler killed while it started a job never gave it its pickle: nobody will, and the job only waits."""
        settled, alive = [], job_processes()
        for submission in submissions:
            mine = submission.cluster == "local" and submission.host == socket.gethostname()
            if not mine or submission.state != "intent" or in_place(self.folder, submission):
                settled.append(submission)
                continue
            for pid in alive.get(submission.nonce, {}):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            withdraw(self.folder, submission)
        return settled

    def stop(self, submissions: Sequence[Submission]) -> int:
        """SIGTERM to the runs themselves: they save at the next step and exit."""
        alive = job_processes()
        mine = _local(submissions, alive)
        for submission in mine:
            if submission.nonce not in self._asked:
                self._asked.add(submission.nonce)
                asked_to_stop(self.folder, submission)
            for pid, command in alive[submission.nonce].items():
                if "submitit.core._submit" in command:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
        return len(mine)

    def _least_used_devices(self, count: int) -> str | None:
        """The GPUs that the fewest living runs use, one per process, as CUDA_VISIBLE_DEVICES; None without GPUs.

        Raises UsageError where a run wants more than there are.
        """
        if count > len(self._devices) > 0:
            raise UsageError(f"run.processes={count}, but this machine shows {len(self._devices)} GPUs")
        if not self._devices:
            return None
        from launch.submissions import read_submissions

        alive = job_processes()
        living = [s for s in read_submissions(self.folder) if s.nonce in alive]
        used = [device for s in living for device in str(s.details.get("device") or "").split(",")]
        return ",".join(sorted(self._devices, key=used.count)[:count])


def local_live(submissions: Sequence[Submission]) -> dict[str, Live]:
    """Signature -> running for the local runs that are alive on this machine."""
    mine = _local(submissions, job_processes())
    return {signature: Live(Status.RUNNING) for s in mine for signature in s.signatures}


def job_processes() -> dict[str, dict[int, str]]:
    """Nonce -> pid -> command line of the living processes of any submission."""
    alive: dict[str, dict[int, str]] = {}
    for pid, command in find_processes("submitit.").items():
        for nonce in _NONCE.findall(command):
            alive.setdefault(nonce, {})[pid] = command
    return alive


def _local(submissions: Sequence[Submission], alive: Mapping[str, Any]) -> list[Submission]:
    """Those of local runs among the living: on a node of a cluster a Slurm job's processes are seen as well."""
    return [s for s in submissions if s.cluster == "local" and s.nonce in alive]


_NONCE = re.compile(r"/jobs/([0-9a-f]{10})(?=[\s/]|$)")


def _python(threads: int, device: str | None) -> str:
    """The command that starts Python with a run's own environment (submitit splits it like a shell)."""
    command = ["env", *(f"{name}={value}" for name, value in thread_limits(threads).items())]
    command += [f"CUDA_VISIBLE_DEVICES={device or ''}", sys.executable]
    return shlex.join(command)


def _detached(log: Path) -> list[str]:
    """Shell commands before submitit's controller that cut it loose from the reconciler's terminal.

    Ctrl-C and a closed terminal are answered by the reconciler alone, in order (the controller would SIGKILL the
    run in the middle of its save), and whoever reads the reconciler's output does not wait for the run to end.
    """
    return ["trap '' INT HUP", f"exec </dev/null >>{shlex.quote(str(log))} 2>&1"]


def default_parallel(config: Config, runs_per_gpu: int | None = None) -> int:
    """Local runs at once: so many per GPU if the runs may use GPUs, else as many as the cores hold without sharing.

    Raises UsageError where runs_per_gpu is given and there is no GPU.
    """
    gpus = len(visible_gpus()) if config.run.device != "cpu" else 0
    if runs_per_gpu is not None and not gpus:
        why = "run.device=cpu" if config.run.device == "cpu" else "this machine shows none"
        raise UsageError(
            f"--runs-per-gpu needs a GPU, but {why}; --max-parallel N says how many runs are alive at once"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return gpus * (runs_per_gpu or 1) or max(1, cores // config.train.threads)


def visible_gpus() -> list[str]:
    """The GPUs a run may be given, as CUDA_VISIBLE_DEVICES names them; [] without any. Imports nothing heavy."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


class SlurmRuns(Executor):
    """Jobs of one run, or of several that share a GPU, as elements of arrays: one per round or per MaxArraySize.

    max_parallel: jobs in the queue; in_sequence: the runs of a job come one after the other.
    """

    cluster = "slurm"

    def __init__(
        self,
        folder: SweepDir,
        profile: Profile,
        max_parallel: int | None = None,
        runs_per_job: int = 1,
        in_sequence: bool = False,
        function: Function = work,
    ) -> None:
        super().__init__(folder, function)
        self.profile, self.max_parallel = profile, max_parallel
        self.runs_per_job, self.in_sequence = runs_per_job, in_sequence
        self._accepted = sys.maxsize  # jobs of one array that the submit limit may let through
        if runs_per_job > 1:
            check_packing_fits(profile)

    def live(self, submissions: Sequence[Submission]) -> dict[str, Live]:
        return slurm_live(self.folder, submissions) | local_live(submissions)

    def slots(self, submissions: Sequence[Submission], live: Mapping[str, Live]) -> int | None:
        if self.max_parallel is None:
            return None
        mine = [s for s in submissions if s.cluster == "slurm"]
        places = {name: (s.nonce, i // s.runs_per_job) for s in mine for i, name in enumerate(s.signatures)}
        jobs = {places[name] for name in live if name in places}
        return max(0, self.max_parallel - len(jobs)) * self.runs_per_job

    def array_size(self, count: int) -> int:
        jobs = math.ceil(count / self.runs_per_job)
        return min(jobs, max_array_size(), self.max_parallel or jobs)

    def submit(self, runs: Sequence[tuple[PlannedRun, int]]) -> list[Submission]:
        """At a limit on submitted jobs arrays are halved until one fits, and grow again later.

        Raises SubmitLimit when not even one job more is accepted, UsageError when the profile's backend or number of
        tasks cannot train a run.
        """
        for planned, _ in runs:
            check_profile_fits(self.profile, planned.config)
            check_shares_gpu(planned.config, self.runs_per_job)
        records: list[Submission] = []
        first, growth = 0, 2
        while first < len(runs):
            jobs = min(self._accepted, self.array_size(len(runs) - first))
            part = runs[first : first + jobs * self.runs_per_job]
            try:
                records.append(self._submit_array(part))
            except SubmitLimit:
                if jobs == 1:
                    raise
                self._accepted, growth = jobs // 2, 1
                continue
            first += len(part)
            self._accepted *= growth
        return records

    def settle(self, submissions: Sequence[Submission]) -> list[Submission]:
        return settle(self.folder, submissions)

    def _submit_array(self, runs: Sequence[tuple[PlannedRun, int]]) -> Submission:
        packed, details = self.runs_per_job, {"in_sequence": True} if self.in_sequence else {}
        record = intend(
            self.folder, "slurm", [(planned.signature, starts) for planned, starts in runs], packed, **details
        )
        parameters = slurm_parameters(
            self.profile,
            record.name,
            threads=max(planned.config.train.threads for planned, _ in runs),
            side_by_side=1 if self.in_sequence else min(packed, len(runs)),
        )
        paths = [str(planned.run.path) for planned, _ in runs]
        if packed == 1:
            return submit_jobs(self.folder, record, parameters, lambda slurm: slurm.map_array(self.function, paths))
        jobs = [paths[first : first + packed] for first in range(0, len(paths), packed)]
        together = functools.partial(work_together, in_sequence=self.in_sequence)
        return submit_jobs(self.folder, record, parameters, lambda slurm: slurm.map_array(together, jobs))


def slurm_live(
    folder: SweepDir, submissions: Sequence[Submission], jobs: Sequence[QueuedJob] | None = None
) -> dict[str, Live]:
    """Signature -> running or queued for the runs in the queue, recognised by job name and array index.

    jobs: the queue if it has been asked for already. A run that its job has left alone, because it ended badly, is
    not alive although its companions are.
    """
    by_name = {s.name: s for s in submissions if s.cluster == "slurm"}
    turns: dict[str, Turns] = {}
    live: dict[str, Live] = {}
    for job in queue() if jobs is None else jobs:
        record = by_name.get(job.name)
        if record is None:
            continue
        if record.name not in turns:
            turns[record.name] = Turns.of(folder, record)
        found = turns[record.name]
        for signature in record.runs_of(job.index):
            if signature in found.left:
                continue
            if job.waiting:
                live[signature] = Live(Status.QUEUED, job.reason)
            elif record.in_sequence and signature not in found.begun:
                live.setdefault(signature, Live(Status.QUEUED, "its turn in the job"))
            else:
                live[signature] = Live(Status.RUNNING)
    return live


def check_slurm(environment: Mapping[str, str] | None = None) -> None:
    """Raises UsageError unless Slurm's commands can be found."""
    path = (environment or os.environ).get("PATH")
    missing = [name for name in ("sbatch", "squeue", "scontrol", "srun") if shutil.which(name, path=path) is None]
    if missing:
        raise UsageError(
            f"--cluster slurm: {', '.join(missing)} not found on the PATH; run this on a login node of the cluster, "
            "or use --cluster local"
        )
