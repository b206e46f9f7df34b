"""A torn last line in every JSONL that the suite writes: what was written after it is done again, nothing else."""

import random

import pytest
from damage import tear
from light_sweeps import LightSweep
from light_training import LightRun
from writes import Fault

from genxai.files import read_jsonl
from genxai.runs import Run
from launch.attempts import disk_problem, excuse, excuses_file, given_up
from launch.submissions import History
from launch.sweepdir import SweepDir

#: every JSONL of a run directory and of a sweep's, by name or by folder
OF_A_RUN = {"metrics.jsonl", "ledger.jsonl", "provenance.jsonl", "failures.jsonl"}


@pytest.mark.slow
def test_killed_in_the_middle_of_lines_a_run_goes_on_and_ends_as_if_undisturbed(tmp_path, small, undisturbed_run):
    """One run, killed in the middle of a line of metrics, then of provenance, then of the ledger."""
    run = LightRun(tmp_path, small)
    assert run.train(Fault(1, "torn", "write metrics.jsonl")) < 0
    assert not run.run.metrics_file.read_bytes().endswith(b"\n")
    assert run.train(Fault(1, "torn", "write provenance.jsonl")) < 0
    assert not run.run.provenance_file.read_bytes().endswith(b"\n")
    assert run.train(Fault(3, "torn", "write ledger.jsonl")) < 0
    assert not run.run.ledger_file.read_bytes().endswith(b"\n")
    assert run.train() == 0, run.said()
    assert run.findings() == undisturbed_run.findings()
    assert read_jsonl(run.run.provenance_file)[0]["resumed_from_step"] == 0
    assert {file.name for file in run.run.path.glob("*.jsonl")} <= OF_A_RUN


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metrics.jsonl", "ledger.jsonl"])
def test_lines_that_the_disk_lost_although_a_checkpoint_counts_on_them_are_computed_again(
    tmp_path, small, undisturbed_run, name
):
    """An older checkpoint is used, or none."""
    run = LightRun(tmp_path, small)
    assert run.train(Fault(12, call="os.rename .LATEST")) < 0
    file = run.run.path / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert run.train() == 0, run.said()
    assert run.findings() == undisturbed_run.findings()
    assert f"{name} lost lines" in run.said()


def test_a_torn_line_of_failures_costs_nothing_but_that_failure(tmp_path):
    sweep = LightSweep(tmp_path, "retries=3", "bayes.points=0")
    (sweep.runs / "fail").write_text("1")
    assert sweep.run() == 1
    (failures,) = sweep.runs.glob("s/*/failures.jsonl")
    assert failures.read_bytes().count(b"\n") == 3
    tear(failures, random.Random(3))
    (sweep.runs / "fail").unlink()
    assert sweep.run() == 0, sweep.said()  # three failures are known, which leaves one more try
    assert len(sweep.finished()) == 2


def test_a_torn_excuse_is_no_excuse_and_the_next_one_is_whole(tmp_path):
    run = Run(tmp_path / "s" / "0")
    run.path.mkdir(parents=True)
    run.provenance_file.write_text("{}\n" * 3)
    for _ in range(2):
        excuse(run, "stopped")
    tear(excuses_file(run), random.Random(5))
    assert len(read_jsonl(excuses_file(run))) == 1
    excuse(run, "disk", "no room")
    assert [line["outcome"] for line in read_jsonl(excuses_file(run))] == ["stopped", "disk"]
    assert disk_problem(run) == "no room" and given_up(run, 1, History(), _never()) == ("", None)


def _never():
    from launch.attempts import Tried

    return Tried()


def test_a_torn_journal_is_whole_again_after_the_next_start(tmp_path):
    import optuna
    from optuna.storages.journal import JournalFileBackend

    sweep = LightSweep(tmp_path)
    assert sweep.run() == 0, sweep.said()
    journal = SweepDir(sweep.runs / "s").journal
    whole = journal.read_bytes()
    tear(journal, random.Random(7))
    assert sweep.run() == 0, sweep.said()
    assert journal.read_bytes().endswith(b"\n") and len(journal.read_bytes()) >= len(whole)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    trials = optuna.load_study(study_name="s", storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3


def test_no_other_jsonl_is_written(tmp_path):
    """A file that this test does not know needs a test of its own."""
    sweep = LightSweep(tmp_path)
    assert sweep.run() == 0, sweep.said()
    found = {file.relative_to(sweep.runs / "s") for file in (sweep.runs / "s").rglob("*.jsonl")}
    assert {file.name for file in found if file.parent.name != "excuses"} <= OF_A_RUN
