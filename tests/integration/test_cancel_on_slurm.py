"""Ending a sweep on a real Slurm, and its detached reconciler: who is told what, and what is saved before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from slurm_sweeps import REPOSITORY, SlurmSweep

from genxai.files import read_json, read_jsonl
from genxai.runs import State

Until = Callable[[Callable[[], object], float, str], None]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def cancelled(sweep: SlurmSweep) -> dict[str, object]:
    """What launch/sweep.py --cancel --yes --json says, when it has ended well."""
    command = [sys.executable, str(REPOSITORY / "launch/sweep.py"), str(sweep.file), "--runs", str(sweep.runs)]
    done = subprocess.run(
        [*command, "--cancel", "--yes", "--json"],
        env=os.environ | sweep.cluster.environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_queue(sweep: SlurmSweep) -> list[str]:
    names = sweep.cluster.output("squeue", "-h", "-r", "-o", "%j").split()
    return [name for name in names if name.startswith(f"genxai-{sweep.name}-")]


@pytest.mark.parametrize("packing", [(), ("--runs-per-gpu", "2")])
def test_cancelled_runs_have_saved_are_not_requeued_and_go_on_later_where_they_were(
    sweep: SlurmSweep, until: Until, packing: tuple[str, ...]
) -> None:
    with sweep.reconciler("train.epochs=30", *packing) as reconciler:
        until(lambda: len(sweep.stepping()) == 2, 120, "both runs make steps")
        told = cancelled(sweep)  # its reconciler is alive, on this machine
        assert reconciler.wait(timeout=60) == 143
    assert (told["running"], told["killed"], told["still_alive"]) == (2, 0, 0) and in_queue(sweep) == []
    assert [run.state for run in sweep.found()] == [State.STARTED] * 2
    steps = [read_json(run.progress_file)["step"] for run in sweep.found()]
    with sweep.reconciler("train.epochs=30", *packing):
        until(lambda: sweep.starts() == [2, 2], 120, "both runs go on")
    for run, step in zip(sweep.found(), steps, strict=True):
        assert read_jsonl(run.provenance_file)[1]["resumed_from_step"] == step > 0


def test_a_detached_reconciler_hears_usr2_in_spite_of_what_a_kill_left_and_is_cancelled_with_the_sweep(
    sweep: SlurmSweep, until: Until
) -> None:
    """submitit's own way to requeue fails for good on a leftover .save_tmp."""
    with sweep.reconciler("train.epochs=30", "--detach", "--profile", "signal_delay_s=10") as command:
        said, _ = command.communicate(timeout=60)
    assert command.returncode == 0, said
    records = [read_json(file) for file in (sweep.path / "submissions").glob("*.json")]
    (record,) = [record for record in records if not record["signatures"]]
    (number,) = record["jobs"]
    for name in (f"{number}_submitted.pkl", f"{number}_0_result.pkl"):
        (sweep.path / "jobs" / record["nonce"] / f"{name}.save_tmp").touch()
    log = sweep.path / "reconciler.log"
    until(lambda: (sweep.path / "reconciler.json").exists(), 60, "the reconciler holds the sweep")
    sweep.cluster.output("scancel", "--signal=USR2", number)
    until(lambda: "Restarts=1 " in sweep.cluster.output("scontrol", "show", "job", number), 30, "it is requeued")
    assert "stopped watching; the Slurm jobs go on" in log.read_text()
    sweep.start_now(number)
    until(lambda: log.read_text().count(f"sweep {sweep.name}: ") == 2, 60, "it runs the sweep again")
    until(lambda: len(sweep.stepping()) == 2, 120, "both runs make steps")
    told = cancelled(sweep)
    assert told["reconciler"] == f"Slurm job {number}" and (told["killed"], told["still_alive"]) == (0, 0)
    assert in_queue(sweep) == [] and [run.state for run in sweep.found()] == [State.STARTED] * 2
