"""Several runs in one job of a real Slurm: each saves, is requeued with its companions and goes on by itself."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest
from slurm_sweeps import SlurmSweep, hold, hold_some

from genxai.files import read_jsonl
from genxai.runs import State

Until = Callable[[Callable[[], object], float, str], None]

pytestmark = [pytest.mark.slurm, pytest.mark.slow]


def test_four_runs_in_two_jobs_are_preempted_requeued_and_complete(sweep: SlurmSweep) -> None:
    with sweep.reconciler("seeds=[0,1]", "--runs-per-gpu", "2") as reconciler:
        hold_some(sweep.found, 4)
        asked = sweep.cluster.output("squeue", "-h", "-r", "-o", "%C %m").split("\n")[0]
        sweep.preempt()
        said, _ = reconciler.communicate(timeout=200)
    assert reconciler.returncode == 0 and asked.strip() == "2 3000M", said
    assert "4 runs to submit as 1 Slurm array of up to 2 jobs of 2 runs" in said
    assert len(sweep.jobs()) == 2  # requeued, not submitted anew
    jobs = []
    for run in sweep.found():
        first, second = read_jsonl(run.provenance_file)
        assert first["resumed_from_step"] == 0 < second["resumed_from_step"]
        assert run.result()["steps_redone"] == 0 and run.failures() == []
        jobs.append({first["slurm_job"], second["slurm_job"]})
    assert all(len(ids) == 1 for ids in jobs) and len(set.union(*jobs)) == 2


def test_in_sequence_the_runs_of_a_job_take_turns(sweep: SlurmSweep) -> None:
    with sweep.reconciler("--runs-per-gpu", "2", "--in-sequence") as reconciler:
        (first,) = hold_some(sweep.found, 1).values()
        assert sorted(sweep.starts()) == [0, 1]
        first.send(signal.SIGCONT)
        said, _ = reconciler.communicate(timeout=200)
    assert reconciler.returncode == 0, said
    assert [run.state for run in sweep.found()] == [State.DONE] * 2 and sweep.starts() == [1, 1]
    assert len(sweep.jobs()) == 1


def test_a_run_that_is_killed_leaves_its_companion_alone_and_is_submitted_again(
    sweep: SlurmSweep, until: Until
) -> None:
    with sweep.reconciler("--runs-per-gpu", "2") as reconciler:
        until(lambda: len(sweep.found()) == 2, 60, "both are planned")
        victim, companion = sweep.found()
        (process,) = hold(victim)
        process.send(signal.SIGKILL)
        said, _ = reconciler.communicate(timeout=200)
    assert reconciler.returncode == 0, said
    assert len(read_jsonl(victim.provenance_file)) == 2 and len(read_jsonl(companion.provenance_file)) == 1
    assert len(sweep.jobs()) == 2
