"""Sweeps on the one-machine Slurm, watched from outside: their reconciler, their jobs, the processes that train."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from local_cluster import LocalCluster
from local_processes import ClusterError, Process, processes_with

from genxai.files import read_json, read_jsonl
from genxai.runs import Run, find_runs

REPOSITORY = Path(__file__).resolve().parents[2]

#: the whole method in thirty steps, saved after almost every one; six seconds of a core, most of them imports
TINY = """\
base: tiny
overrides:
  data.train_limit: 160
  data.test_limit: 80
  data.balanced_val_size: 20
  train.batch_size: 16
  train.threads: 1
  train.epochs: 3
  train.eval_every: 3
  train.explain_samples: 8
  objective.n_critic: 1
  run.checkpoint_seconds: 0.1
  run.pictures: false
  run.trackers: []
"""

#: to come after TINY: one point, with as many seeds as there shall be runs
TWO_POINTS = "space:\n  objective.lambda_bias: {grid: [0.0, 0.1]}\nseeds: [0]\n"
ONE_POINT = "space:\n  objective.lambda_bias: {grid: [0.1]}\n"


class SlurmSweep:
    """A sweep file in `folder`, its runs beside it, and a cluster to bring it about on.

    Without a name it gets one of its own: the cluster remembers the jobs of other tests.
    """

    def __init__(self, cluster: LocalCluster, folder: Path, text: str, name: str = "") -> None:
        self.cluster, self.folder, self.runs = cluster, folder, folder / "runs"
        self.name = name or f"sweep{secrets.token_hex(4)}"
        self.file = folder / f"{self.name}.yaml"
        self.file.write_text(text)

    @property
    def path(self) -> Path:
        """RUNS/<sweep>."""
        return self.runs / self.name

    @contextlib.contextmanager
    def reconciler(self, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """launch/sweep.py on Slurm, running; killed by SIGKILL when the block is left, if it has not ended."""
        command = [sys.executable, str(REPOSITORY / "launch/sweep.py"), str(self.file), *options]
        command += ["--cluster", "slurm", "--profile", "local", "--runs", str(self.runs)]
        with subprocess.Popen(
            command,
            env=os.environ | self.cluster.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def complete(self, *options: str, timeout: float = 300.0) -> str:
        """Run the reconciler to its end, which must be a good one; what it said."""
        with self.reconciler(*options) as process:
            said, _ = process.communicate(timeout=timeout)
        assert process.returncode == 0, said
        return said

    # --- runs ----------------------------------------------------------------------------------------

    def found(self) -> list[Run]:
        return find_runs(self.runs, self.name)

    def starts(self) -> list[int]:
        return [len(read_jsonl(run.provenance_file)) for run in self.found()]

    def stepping(self) -> list[Run]:
        """The runs that are being trained now and have made steps since they were started last."""
        return [run for run in self.found() if (process := trainer(run)) and has_saved(process, run)]

    # --- jobs ----------------------------------------------------------------------------------------

    def jobs(self) -> set[str]:
        """Every job and array element of this sweep that the cluster remembers, ended ones too: ID or ID_INDEX."""
        lines = self.cluster.output("squeue", "-h", "-r", "-t", "all", "-o", "%i %j").splitlines()
        return {job for job, name in map(str.split, lines) if name.startswith(f"genxai-{self.name}-")}

    def job(self, run: Run) -> str:
        """The job that has started the run last, by a name that means no other: ID or ID_INDEX."""
        number = read_jsonl(run.provenance_file)[-1]["slurm_job"]
        lines = self.cluster.output("squeue", "-h", "-r", "-t", "all", "-o", "%A %i").splitlines()
        return dict(map(str.split, lines))[number]

    def node(self, run: Run) -> str:
        """Where that job runs."""
        return self.cluster.output("squeue", "-h", "-j", self.job(run), "-o", "%N").strip()

    def minutes(self, job: str) -> int:
        """Whole minutes that the job has run."""
        text = self.cluster.output("squeue", "-h", "-j", job, "-o", "%M").strip()  # [D-][H:]M:SS
        hours, _, rest = text.rpartition(":")[0].rpartition(":")
        return 60 * int(hours or 0) + int(rest)

    def preempt(self, *spared: str) -> None:
        """Have a job of the higher partition take every node but these for a moment."""
        nodes = [name for name in self.cluster.node_names if name not in spared]
        where = (f"-N{len(nodes)}", f"--nodelist={','.join(nodes)}")
        self.cluster.output("srun", *where, "--exclusive", "--partition=high", "true", timeout=120)

    def was_requeued(self, job: str, times: int = 1) -> bool:
        """Whether Slurm has queued the job again so often; it holds back every such job for a while."""
        return requeues(self.cluster, job) >= times

    def start_now(self, job: str) -> None:
        """Do not let a requeued job wait longer than it must."""
        start_now(self.cluster, job)

    def cancel_jobs(self) -> None:
        """End what a test may have left."""
        self.cluster.output("scancel", "--me")
        self.cluster.output("scancel", "--me", "--signal=KILL")


def requeues(cluster: LocalCluster, job: str) -> int:
    """How often Slurm has queued the job again; it only grows, unlike what squeue says of it."""
    found = re.search(r"\bRestarts=(\d+) ", cluster.output("scontrol", "show", "job", job))
    assert found, f"Slurm does not say how often job {job} was queued"
    return int(found[1])


def start_now(cluster: LocalCluster, job: str, seconds: int = 2) -> None:
    """Let a requeued job wait so long only, if it has not been started already.

    Two seconds it must on its old node, which refuses what it takes for the job it has just ended ("credential
    revoked").
    """
    try:
        cluster.output("scontrol", "update", f"JobId={job}", f"StartTime=now+{seconds}")
    except ClusterError as error:
        if "no longer pending" not in str(error):
            raise


def trainer(run: Run) -> Process | None:
    """The process that trains the run: it holds the run's lock."""
    lock = run.path / ".lock"
    if not lock.exists():
        return None
    for line in Path("/proc/locks").read_text().splitlines():
        found = re.match(r"\d+: FLOCK .* (\d+) [0-9a-f]+:[0-9a-f]+:(\d+) ", line)
        if found and int(found[2]) == lock.stat().st_ino:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{found[1]}/cmdline").read_bytes()
                if b"submitit" in command or b"launch.packing" in command:  # not one that only asks
                    return Process.find(int(found[1]))
    return None


def has_saved(process: Process, run: Run) -> bool:
    """Whether the run has a checkpoint that this process has made, not an earlier one."""
    try:
        saved = (run.checkpoints / "LATEST").stat().st_mtime
    except FileNotFoundError:
        return False
    since_boot = process.started / os.sysconf("SC_CLK_TCK")
    return saved > time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def hold(*runs: Run, seconds: float = 180.0) -> list[Process]:
    """The runs' processes, each stopped once it makes steps: however quick, it does not end before it is hit.

    Slurm lets a stopped process go on before it tells it to end, so that it hears the signal.
    """
    found = hold_some(lambda: runs, len(runs), seconds)
    return [found[run] for run in runs]


def hold_some(candidates: Callable[[], Iterable[Run]], count: int, seconds: float = 180.0) -> dict[Run, Process]:
    """The first `count` of these runs that make steps, their processes stopped as by `hold`."""
    deadline, found = time.monotonic() + seconds, {}
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} runs make steps"
        for run in candidates():
            if run not in found and len(found) < count and (process := trainer(run)) and has_saved(process, run):
                process.send(signal.SIGSTOP)
                found[run] = process
        time.sleep(0.01)
    return found


def step_daemons(cluster: LocalCluster, run: Run) -> list[Process]:
    """The slurmstepd of the job that has started the run last: through them Slurm signals it and sees it end."""
    number = read_jsonl(run.provenance_file)[-1]["slurm_job"]
    name = read_json(cluster.root / "cluster.json")["cluster"]
    found = []
    for process in processes_with(f"SLURM_CLUSTER_NAME={name}", "SLURMD_NODENAME="):
        with contextlib.suppress(OSError):
            if f"slurmstepd: [{number}.".encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                found.append(process)
    return found
