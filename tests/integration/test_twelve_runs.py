"""Sweeps on Slurm lose nothing: preempted and killed on the way, one ends byte for byte as if left alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from local_cluster import LocalCluster
from slurm_sweeps import REPOSITORY, TINY, SlurmSweep, hold_some
from training_runs import science

from genxai.files import read_jsonl
from genxai.runs import Run, State, find_runs

Until = Callable[[Callable[[], object], float, str], None]

SPACE = """\
space:
  objective.lambda_gp: {grid: [1.0, 10.0]}
  objective.lambda_bias: {grid: [0.0, 0.1]}
seeds: [0, 1, 2]
"""


def command(script: str, *options: str | Path) -> None:
    """A command of the suite, which must succeed."""
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / script), *map(str, options)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def tables(runs: Path, folder: Path) -> dict[str, bytes]:
    """Every file that make_tables writes of these runs, but the one of their computing time: that is the clock's."""
    command("analysis/make_tables.py", "--runs", runs, "--out", folder)
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.stem != "cost"}


def everything(runs: Path) -> dict[str, dict[str, object]]:
    """Signature -> what the run says, with the bytes of its configuration."""
    return {run.signature: science(run) | {"config": run.config_file.read_bytes()} for run in find_runs(runs)}


def restarts(run: Run) -> list[int]:
    """The steps from which the run went on after its first start."""
    return [line["resumed_from_step"] for line in read_jsonl(run.provenance_file)[1:]]


@pytest.mark.slurm
@pytest.mark.slow
def test_twelve_runs_preempted_twice_with_a_dead_node_and_two_dead_reconcilers_end_as_if_nothing_had_been(
    cluster_folder: Path, tmp_path: Path, until: Until
) -> None:
    one_run_per_node = ("--max-parallel", "4", "--profile", "cpus_per_task=8")
    with LocalCluster(cluster_folder, slurmd_timeout=5) as cluster:
        sweep = SlurmSweep(cluster, tmp_path, TINY + SPACE, "twelve")
        with sweep.reconciler(*one_run_per_node):
            lost, *preempted = hold_some(sweep.found, 4)
            job, node = sweep.job(lost), sweep.node(lost)
            cluster.crash_node(node)
            sweep.preempt(node)
        # the reconciler is dead now; a new one finds jobs that run, wait, and do not know yet that their node is gone
        with sweep.reconciler(*one_run_per_node):
            preempted += hold_some(sweep.found, 2)
            sweep.preempt(node)
        with sweep.reconciler(*one_run_per_node) as reconciler:
            until(lambda: sweep.cluster.node_states()[node].startswith("down"), 120, "Slurm finds that a node is dead")
            cluster.restart_node(node)
            until(lambda: sweep.was_requeued(job), 120, "its job is requeued")
            said, _ = reconciler.communicate(timeout=300)
        assert reconciler.returncode == 0, said

    runs = sweep.found()
    assert [run.state for run in runs] == [State.DONE] * 12 and not any(run.failures() for run in runs)
    assert len(restarts(lost)) >= 1 and all(restarts(run) for run in preempted)

    undisturbed = tmp_path / "undisturbed"
    command("launch/sweep.py", sweep.file, "--cluster", "local", "--runs", undisturbed, "--max-parallel", "2")
    assert not any(restarts(run) for run in find_runs(undisturbed))
    assert everything(sweep.runs) == everything(undisturbed)
    assert (sweep.path / "selected.yaml").read_bytes() == (undisturbed / "twelve" / "selected.yaml").read_bytes()
    written = tables(sweep.runs, tmp_path / "tables")
    assert written == tables(undisturbed, tmp_path / "undisturbed-tables") and "sweep_twelve.md" in written
