"""Where sweeps on Slurm are known to break: limits of the cluster, a client that dies, what an earlier cluster left."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_cluster import LocalCluster
from local_processes import ClusterError
from slurm_sweeps import ONE_POINT, TINY, SlurmSweep, hold

from genxai.files import read_json, read_jsonl
from genxai.runs import State

Until = Callable[[Callable[[], object], float, str], None]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def sweep(slurm_cluster: LocalCluster, tmp_path: Path) -> Iterator[SlurmSweep]:
    """Two short runs on the session's cluster."""
    yield SlurmSweep(slurm_cluster, tmp_path, TINY + ONE_POINT + "seeds: [0, 1]\n")
    slurm_cluster.output("scancel", "--me")


def arrays(sweep: SlurmSweep) -> list[int]:
    """Elements of each array of the sweep, the largest first."""
    return sorted(Counter(job.partition("_")[0] for job in sweep.jobs()).values(), reverse=True)


# --- what the cluster allows -------------------------------------------------------------------------


def test_more_runs_than_max_array_size_become_several_arrays(cluster_folder: Path, tmp_path: Path) -> None:
    with LocalCluster(cluster_folder, nodes=1, max_array_size=4) as cluster:
        sweep = SlurmSweep(cluster, tmp_path, TINY + ONE_POINT + "seeds: [0, 1, 2, 3, 4, 5]\n")
        said = sweep.complete("--once")
        assert arrays(sweep) == [4, 2], said
        sweep.complete("--once")
        assert arrays(sweep) == [4, 2]


def test_a_sweep_completes_although_only_two_jobs_may_be_submitted_at_a_time(
    cluster_folder: Path, tmp_path: Path, until: Until
) -> None:
    """MaxSubmitJobsPerUser, which Slurm enforces through its accounting database."""
    cluster = LocalCluster(cluster_folder, nodes=1, accounting=True, enforce_limits=True)
    if missing := cluster.missing_packages():
        pytest.skip(f"Debian packages {' '.join(missing)} are not installed")
    with cluster:
        cluster.output("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxSubmitJobsPerUser=2")
        sweep = SlurmSweep(cluster, tmp_path, TINY + ONE_POINT + "seeds: [0, 1, 2, 3]\n")
        with pytest.raises(ClusterError, match="QOSMaxSubmitJobPerUserLimit"):
            cluster.output("sbatch", "--array=0-2", "--wrap=true")
        said = sweep.complete("train.epochs=1")
        assert "the other runs wait until jobs have ended" in said
        assert [run.state for run in sweep.found()] == [State.DONE] * 4 and sweep.starts() == [1] * 4
        assert len(sweep.jobs()) == 4 and max(arrays(sweep)) == 2


def test_without_accounting_a_sweep_completes_from_squeue_and_the_run_directories(sweep: SlurmSweep) -> None:
    with pytest.raises(ClusterError, match="accounting storage is disabled"):
        sweep.cluster.output("sacct")
    said = sweep.complete("train.epochs=1", "seeds=[0]")
    assert "sacct" not in said and sweep.starts() == [1]


# --- a client that dies ------------------------------------------------------------------------------


def test_jobs_of_a_reconciler_killed_before_it_knew_their_ids_are_found_by_name_and_no_run_is_computed_twice(
    sweep: SlurmSweep, until: Until
) -> None:
    """sbatch submits, and its caller is killed before it can read the answer."""
    folder = sweep.folder / "bin"
    folder.mkdir()
    script = folder / "sbatch"
    script.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@"; kill -9 $PPID\n')
    script.chmod(0o755)
    with sweep.reconciler("train.epochs=1", PATH=f"{folder}{os.pathsep}{os.environ['PATH']}") as killed:
        killed.wait(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    orphans = sweep.jobs()
    (record,) = [read_json(file) for file in (sweep.path / "submissions").glob("*.json")]
    assert len(orphans) == 2 and record["state"] == "intent" and not record["jobs"]
    assert sweep.cluster.output("squeue", "-h", "-r", "-n", record["name"], "-o", "%i").split()

    sweep.complete("train.epochs=1")
    assert [run.state for run in sweep.found()] == [State.DONE] * 2 and sweep.starts() == [1, 1]
    started = {read_jsonl(run.provenance_file)[0]["slurm_job"] for run in sweep.found()}
    # none of the orphans has trained: without the names that submitit gives to their files they only wait.
    # Arrays are compared: one that was cancelled as a whole is listed without the places of its elements
    arrays_of_orphans = {job.partition("_")[0] for job in orphans}
    new = {job for job in sweep.jobs() if job.partition("_")[0] not in arrays_of_orphans}
    assert len(new) == len(started) == 2
    states = sweep.cluster.output("squeue", "-h", "-r", "-t", "all", "-n", record["name"], "-o", "%T").split()
    assert set(states) <= {"CANCELLED", "COMPLETING"}


# --- what an earlier cluster has left ----------------------------------------------------------------


def test_a_new_cluster_that_counts_its_jobs_from_one_again_takes_nothing_of_the_old_ones_for_its_own(
    tmp_path: Path, until: Until
) -> None:
    """Every job id comes twice, with pickles, results and logs of the first one in the same RUNS."""
    ids, before = [], set()
    for life in (1, 2):
        with (
            tempfile.TemporaryDirectory(prefix="slurm-") as folder,
            LocalCluster(Path(folder), nodes=1, first_job_id=1) as cluster,
        ):
            sweep = SlurmSweep(cluster, tmp_path, TINY + ONE_POINT + "seeds: [0, 1]\n", "twice")
            if life == 1:
                with sweep.reconciler():
                    until(sweep.found, 60, "runs are planned")
                    hold(*sweep.found())
                    ids.append(sweep.jobs())
                before = {file for file in sweep.path.glob("jobs/*/*") if file.is_file()}
                continue  # the reconciler is killed, and the cluster with its jobs goes down
            old = {file: file.read_bytes() for file in before}
            said = sweep.complete()
            ids.append(sweep.jobs())
            assert {file: file.read_bytes() for file in before} == old, said
    assert ids[0] == ids[1] and any("_log" in file.name for file in before)
    assert [run.state for run in sweep.found()] == [State.DONE] * 2 and sweep.starts() == [2, 2]
    for run in sweep.found():
        assert read_jsonl(run.provenance_file)[1]["resumed_from_step"] > 0 and run.failures() == []
