"""A sweep on a real Slurm, its reconciler killed on the way: what was submitted goes on and is never computed twice."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_sweeps import ONE_POINT, TINY, SlurmSweep, hold_some

from genxai.files import read_jsonl
from genxai.runs import State

Until = Callable[[Callable[[], object], float, str], None]


pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_a_reconciler_killed_twice_submits_nothing_twice_and_ends_with_every_run_computed_once(
    sweep: SlurmSweep, until: Until
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
    assert (sweep.path / "selected.yaml").is_file()

    with sweep.reconciler() as again:
        assert again.wait(timeout=120) == 0
    assert sweep.jobs() == submitted


def test_preempted_runs_save_are_requeued_by_slurm_and_go_on_where_they_stopped(sweep: SlurmSweep) -> None:
    """Both elements of one array: the last one's job id is also the name of the whole array."""
    before = sweep.jobs()
    with sweep.reconciler() as reconciler:
        hold_some(sweep.found, 2)
        sweep.preempt()
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    assert len(sweep.jobs() - before) == 2  # requeued, not submitted anew
    for run in sweep.found():
        first, second = read_jsonl(run.provenance_file)
        assert first["resumed_from_step"] == 0 < second["resumed_from_step"]
        assert run.result()["steps_redone"] == 0 and run.failures() == []


def test_a_run_of_two_tasks_finds_itself_and_is_preempted_and_requeued_as_one(sweep: SlurmSweep) -> None:
    """srun starts the processes: no torchrun. Both save at the same step, and rank 0 alone requeues the job."""
    tasks = ("--profile", "tasks=2", "--profile", "nodes=2")
    sweep.file.write_text(TINY + ONE_POINT + "seeds: [0]\n")
    with sweep.reconciler(*tasks) as reconciler:
        hold_some(sweep.found, 1)
        sweep.preempt()
        said, _ = reconciler.communicate(timeout=300)
    assert reconciler.returncode == 0, said
    (run,) = sweep.found()
    starts = read_jsonl(run.provenance_file)
    assert [start["processes"] for start in starts] == [2, 2] and run.result()["processes"] == 2
    assert starts[1]["resumed_from_step"] > 0 and run.result()["steps_redone"] == 0 and run.failures() == []


def test_a_profile_whose_backend_cannot_train_the_runs_is_refused_before_anything_is_submitted(
    sweep: SlurmSweep,
) -> None:
    before = sweep.jobs()
    with sweep.reconciler("--profile", "accelerate=zero3") as refused:
        said, _ = refused.communicate(timeout=60)
    assert refused.returncode == 2 and "cannot be differentiated twice" in said
    assert sweep.jobs() == before


def test_a_detached_reconciler_that_is_sent_sigterm_is_requeued_and_ends_the_sweep(
    sweep: SlurmSweep, until: Until
) -> None:
    with sweep.reconciler("--detach", "--profile", "signal_delay_s=10") as command:
        said, _ = command.communicate(timeout=60)
    assert command.returncode == 0, said
    (number,) = sweep.jobs()
    until((sweep.path / "reconciler.json").exists, 60, "the reconciler holds the sweep")
    sweep.cluster.output("scancel", "--signal=TERM", number)
    until(lambda: sweep.was_requeued(number), 60, "it is requeued")
    sweep.start_now(number)
    until(lambda: [run.state for run in sweep.found()] == [State.DONE, State.DONE], 200, "both runs are done")
    until(lambda: number not in sweep.cluster.output("squeue", "-h", "-o", "%i"), 60, "the reconciler has ended")
    assert "stopped watching; the Slurm jobs go on" in (sweep.path / "reconciler.log").read_text()


def test_a_refused_partition_is_one_message_and_no_attempt(sweep: SlurmSweep) -> None:
    for _ in range(3):
        with sweep.reconciler("--profile", "partition=nowhere") as refused:
            said, _ = refused.communicate(timeout=60)
        assert refused.returncode == 1 and "Traceback" not in said
        assert "sbatch refused the submission" in said and "partition" in said.splitlines()[-1]
    with sweep.reconciler("--once") as right:
        said, _ = right.communicate(timeout=60)
    assert right.returncode == 0 and "2 queued" in said.splitlines()[-2], said


def test_jobs_of_an_sbatch_that_was_not_answered_are_cancelled_and_submitted_again(
    sweep: SlurmSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
    assert len(sweep.jobs() - before) == 4 and len(list((sweep.path / "submissions").iterdir())) == 1
    assert [run.state for run in sweep.found()] == [State.DONE, State.DONE] and sweep.starts() == [1, 1]
