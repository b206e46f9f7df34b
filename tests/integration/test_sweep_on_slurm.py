"""A sweep on a real Slurm, its reconciler killed on the way: what was submitted goes on and is never computed twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_cluster import LocalCluster

from genxai.runs import Run, State, find_runs, read_json, read_jsonl

REPOSITORY = Path(__file__).resolve().parents[2]
Until = Callable[[Callable[[], object], float, str], None]

SWEEP = """\
base: tiny
overrides:
  data.train_limit: 256
  data.test_limit: 64
  data.balanced_val_size: 20
  train.epochs: 1
  train.explain_samples: 8
  objective.n_critic: 1
  run.pictures: false
  run.trackers: []
space:
  objective.lambda_bias: {grid: [0.0, 0.1]}
seeds: [0]
"""

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


class Sweep:
    """Two grid points of one seed, and the command that brings them about."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        self.cluster, self.folder, self.runs = cluster, folder, folder / "runs"

    @contextlib.contextmanager
    def reconciler(self, *options: str) -> Iterator[subprocess.Popen[str]]:
        """launch/sweep.py on Slurm, running; killed by SIGKILL when the block is left, if it has not ended."""
        command = [sys.executable, str(REPOSITORY / "launch/sweep.py"), str(self.folder / "two.yaml"), *options]
        command += ["--cluster", "slurm", "--profile", "local", "--runs", str(self.runs)]
        with subprocess.Popen(
            command,
            env=os.environ | self.cluster.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def found(self) -> list[Run]:
        return find_runs(self.runs, "two")

    def starts(self) -> list[int]:
        return [len(read_jsonl(run.provenance_file)) for run in self.found()]

    def jobs(self) -> set[str]:
        """Every job and array element of sweeps that the cluster remembers, ended ones included: ID or ID_INDEX."""
        lines = self.cluster.output("squeue", "-h", "-r", "-t", "all", "-o", "%i %j").splitlines()
        return {job for job, name in map(str.split, lines) if name.startswith("genxai-")}


@pytest.fixture
def sweep(slurm_cluster: LocalCluster, tmp_path: Path) -> Iterator[Sweep]:
    """The tiny sweep on the session's cluster; its jobs are cancelled afterwards, whatever happened."""
    (tmp_path / "two.yaml").write_text(SWEEP)
    yield Sweep(slurm_cluster, tmp_path)
    slurm_cluster.output("scancel", "--me")


def test_a_reconciler_killed_twice_submits_nothing_twice_and_ends_with_every_run_computed_once(
    sweep: Sweep, until: Until
) -> None:
    before = sweep.jobs()
    with sweep.reconciler():
        until(lambda: sweep.jobs() - before, 60, "jobs have been submitted")
    submitted = sweep.jobs()
    with sweep.reconciler():
        until(lambda: any(sweep.starts()), 120, "a run has been started")
    with sweep.reconciler() as last:
        said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert [run.state for run in sweep.found()] == [State.DONE, State.DONE]
    assert sweep.starts() == [1, 1]
    assert sweep.jobs() == submitted and len(submitted - before) == 2
    assert (sweep.runs / "two" / "selected.yaml").is_file()

    with sweep.reconciler() as again:
        assert again.wait(timeout=120) == 0
    assert sweep.jobs() == submitted


def test_preempted_runs_save_are_requeued_by_slurm_and_go_on_where_they_stopped(sweep: Sweep, until: Until) -> None:
    """Both elements of one array: the last one's job id is also the name of the whole array."""
    before = sweep.jobs()
    with sweep.reconciler("train.epochs=8") as reconciler:
        until(
            lambda: sum(read_json(run.progress_file).get("step", 0) > 0 for run in sweep.found()) == 2,
            120,
            "both runs make steps",
        )
        sweep.cluster.output("srun", "-N4", "--exclusive", "--partition=high", "true", timeout=60)
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    assert len(sweep.jobs() - before) == 2  # requeued, not submitted anew
    for run in sweep.found():
        first, second = read_jsonl(run.provenance_file)
        assert first["resumed_from_step"] == 0 < second["resumed_from_step"]
        assert run.result()["steps_redone"] == 0 and run.failures() == []


def test_a_run_of_two_tasks_finds_itself_and_is_preempted_and_requeued_as_one(sweep: Sweep, until: Until) -> None:
    """srun starts the processes: no torchrun. Both save at the same step, and rank 0 alone requeues the job."""
    tasks = ("--profile", "tasks=2", "--profile", "nodes=2")
    (sweep.folder / "two.yaml").write_text(SWEEP.replace("[0.0, 0.1]", "[0.1]"))
    with sweep.reconciler("train.epochs=3", *tasks) as reconciler:
        until(
            lambda: any(read_json(run.progress_file).get("step", 0) > 0 for run in sweep.found()), 240, "it makes steps"
        )
        sweep.cluster.output("srun", "-N4", "--exclusive", "--partition=high", "true", timeout=60)
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    (run,) = sweep.found()
    starts = read_jsonl(run.provenance_file)
    assert [start["processes"] for start in starts] == [2, 2] and run.result()["processes"] == 2
    assert starts[1]["resumed_from_step"] > 0 and run.result()["steps_redone"] == 0 and run.failures() == []


def test_a_profile_whose_backend_cannot_train_the_runs_is_refused_before_anything_is_submitted(sweep: Sweep) -> None:
    before = sweep.jobs()
    with sweep.reconciler("--profile", "accelerate=zero3") as refused:
        said, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2 and "cannot be differentiated twice" in said
    assert sweep.jobs() == before


def test_a_detached_reconciler_that_is_sent_sigterm_is_requeued_and_ends_the_sweep(sweep: Sweep, until: Until) -> None:
    def job(what: str) -> str:
        lines = sweep.cluster.output("squeue", "-h", "-n", name, "-o", f"%i {what}").splitlines()
        return lines[0] if lines else ""

    with sweep.reconciler("--detach", "--profile", "signal_delay_s=10") as command:
        said, _ = command.communicate(timeout=60)
    assert command.returncode == 0, said
    records = [read_json(file) for file in (sweep.runs / "two" / "submissions").glob("*.json")]
    (name,) = [record["name"] for record in records if not record["signatures"]]
    until(lambda: (sweep.runs / "two" / "reconciler.json").exists(), 60, "the reconciler holds the sweep")
    number = job("").strip()
    sweep.cluster.output("scancel", "--signal=TERM", number)
    until(lambda: "Restarts=1 " in sweep.cluster.output("scontrol", "show", "job", number), 30, "it is requeued")
    until(lambda: [run.state for run in sweep.found()] == [State.DONE, State.DONE], 200, "both runs are done")
    until(lambda: not job("%T"), 60, "the reconciler has ended")
    assert "stopped watching; the Slurm jobs go on" in (sweep.runs / "two" / "reconciler.log").read_text()


def test_a_refused_partition_is_one_message_and_no_attempt(sweep: Sweep) -> None:
    for _ in range(3):
        with sweep.reconciler("--profile", "partition=nowhere") as refused:
            said, _ = refused.communicate(timeout=60)
        assert refused.returncode == 1 and "Traceback" not in said
        assert "sbatch refused the submission" in said and "partition" in said.splitlines()[-1]
    with sweep.reconciler("--once") as right:
        said, _ = right.communicate(timeout=60)
    assert right.returncode == 0 and "2 queued" in said.splitlines()[-2], said


def test_jobs_of_an_sbatch_that_was_not_answered_are_cancelled_and_submitted_again(
    sweep: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sbatch submits, then says it has timed out, as it does when the controller is slow."""
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "sbatch"
    script.write_text(
        f'#!/bin/sh\nmkdir {tmp_path}/first 2>/dev/null || exec {shutil.which("sbatch")} "$@"\n'
        f"{shutil.which('sbatch')} \"$@\"; echo 'sbatch: error: Socket timed out on send/recv operation' >&2; exit 1\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    before = sweep.jobs()
    with sweep.reconciler() as reconciler:
        said, _ = reconciler.communicate(timeout=200)
    assert reconciler.returncode == 0 and said.count("nothing is submitted until Slurm answers") == 1, said
    assert len(sweep.jobs() - before) == 4 and len(list((sweep.runs / "two" / "submissions").iterdir())) == 1
    assert [run.state for run in sweep.found()] == [State.DONE, State.DONE] and sweep.starts() == [1, 1]
