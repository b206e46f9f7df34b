"""What a job does when its run has ended, and what of it counts against the run."""

import contextlib
import os
import signal
import time

import pytest

from genxai.configfile import load_config
from genxai.files import append_jsonl, read_jsonl
from genxai.runs import Run
from launch import cli, worker
from launch.attempts import Status, excuse, excuses_file
from launch.detach import DetachedSweep
from launch.survey import Surveyor


@pytest.fixture
def in_job(monkeypatch):
    """As in job 12, submitted by a sweep, which is element 3 of array 9 if asked for."""

    def enter(array: bool = False) -> None:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        monkeypatch.setenv("SLURM_JOB_ID", "12")
        if array:
            monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")

    return enter


@pytest.fixture
def training(monkeypatch):
    """Has train() end as told, one outcome per call."""
    module = pytest.importorskip("genxai.training.run")

    def tell(*names: str) -> None:
        outcomes = [getattr(module.Outcome, name) for name in names]
        monkeypatch.setattr(module, "train", lambda run, stop: outcomes.pop(0))

    return tell


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "s" / "0123456789ab")
    run.plan(load_config("tiny"))
    return run


@pytest.mark.parametrize(
    ("state", "requeued"),
    [("RUNNING", True), ("SIGNALING", True), ("COMPLETING", False), ("CANCELLED", False), ("", False)],
)
def test_a_stopped_job_is_requeued_unless_slurm_is_already_ending_it(fake_slurm, in_job, state, requeued):
    in_job()
    fake_slurm.answer("squeue", state + "\n")
    worker.requeue()
    assert fake_slurm.calls("scontrol") == ["scontrol requeue 12"] * requeued


def test_an_array_element_requeues_itself_alone(fake_slurm, in_job):
    in_job(array=True)  # the last element's SLURM_JOB_ID is the id of the whole array
    fake_slurm.answer("squeue", "RUNNING\n")
    worker.requeue()
    assert "--jobs 9_3 " in fake_slurm.calls("squeue")[0] and fake_slurm.calls("scontrol") == ["scontrol requeue 9_3"]


def test_only_one_rank_requeues(fake_slurm, in_job, monkeypatch):
    in_job()
    monkeypatch.setenv("SLURM_PROCID", "1")
    worker.requeue()
    assert fake_slurm.calls() == []


@pytest.mark.parametrize(
    ("outcome", "in_sweep", "code"),
    [("STOPPED", True, 75), ("FAILED", True, 1), ("DONE", True, None), ("STOPPED", False, None)],
)
def test_outcomes_become_what_the_cluster_should_see(
    fake_slurm, in_job, monkeypatch, training, run, outcome, in_sweep, code
):
    training(outcome)
    fake_slurm.answer("squeue", "RUNNING\n")
    in_job()
    if not in_sweep:  # a local run inside a job of the person's own, which is nobody's to requeue
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "local")
    if code is None:
        assert worker.work(str(run.path)) == outcome.lower()
    else:
        with pytest.raises(SystemExit) as caught:
            worker.work(str(run.path))
        assert caught.value.code == code
    assert ("scontrol requeue 12" in fake_slurm.calls()) is (outcome == "STOPPED" and in_sweep)


def test_a_requeued_job_waits_for_its_former_process(fake_slurm, in_job, training, run, monkeypatch):
    pauses = []
    monkeypatch.setattr(worker.time, "sleep", pauses.append)
    in_job()
    training("BUSY", "BUSY", "DONE")
    assert worker.work(str(run.path)) == "done" and len(pauses) == 2
    monkeypatch.setattr(worker, "BUSY_SECONDS", 0.0)
    training("BUSY")
    assert worker.work(str(run.path)) == "busy"
    assert [(line["outcome"], line["starts"]) for line in read_jsonl(excuses_file(run))] == [("busy", 0)]


@pytest.fixture
def started(make_planner):
    """Starts of one run with retries=0, under which two unexplained deaths at one step are final."""
    planner = make_planner("retries=0")
    planned = planner.grid()[0].runs[0]
    planned.run.plan(planned.config)

    def note(*starts: dict) -> None:
        append_jsonl(planned.run.provenance_file, *starts)

    def status() -> Status:
        return Surveyor(planner).look({0: planner.grid()[0]}, {}, ()).reports[planned.signature].status

    return planned.run, note, status


def test_stops_never_count_as_deaths(started):
    run, note, status = started
    for _ in range(4):
        note({"resumed_from_step": 0})
        excuse(run, "stopped")
    assert status() is Status.STOPPED
    note({"resumed_from_step": 0})
    assert status() is Status.STOPPED
    note({"resumed_from_step": 0})
    assert status() is Status.FAILED


def test_requeues_by_slurm_never_count_as_deaths(started):
    _, note, status = started
    for _ in range(4):
        note({"resumed_from_step": 0, "slurm_job": "12"})
    assert status() is Status.STOPPED
    note({"resumed_from_step": 0, "slurm_job": "13"})  # job 12 ended without a requeue
    assert status() is Status.FAILED


@pytest.fixture
def detached(fake_slurm, in_job, monkeypatch, tmp_path):
    """A detached reconciler's job whose sweep command is the function given."""
    monkeypatch.chdir(tmp_path)
    in_job()
    fake_slurm.answer("squeue", "RUNNING\n")

    def call(main) -> int:
        monkeypatch.setattr("launch.sweep.main", main)
        try:
            return DetachedSweep(["quickstart"], str(tmp_path), str(tmp_path / "log"))()
        except SystemExit as end:
            return end.code

    return call


@pytest.mark.parametrize(("code", "requeued"), [(143, True), (0, False), (1, False), (130, False)])
def test_a_detached_reconciler_requeues_itself_after_a_sigterm(detached, fake_slurm, code, requeued):
    assert detached(lambda argv: code) == (75 if requeued else code)
    assert ("scontrol requeue 12" in fake_slurm.calls()) is requeued


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_detached_reconciler_hears_every_notice_itself_and_only_the_first(detached, monkeypatch, number):
    """Slurm may send USR2 and, a little later, TERM; what submitit had installed before is not called."""
    calls = []
    before = signal.signal(number, lambda *_: calls.append("submitit"))

    def requeue():
        os.kill(os.getpid(), number)
        calls.append("requeued")

    def loop():
        try:
            os.kill(os.getpid(), number)
            time.sleep(30)
        finally:
            os.kill(os.getpid(), number)
            calls.append("stopped watching")

    monkeypatch.setattr("launch.detach.requeue", requeue)
    try:
        assert detached(lambda argv: cli.run_command(loop)) == 75
    finally:
        signal.signal(number, before)
    assert calls == ["stopped watching", "requeued"]


def test_a_notice_to_a_sweep_that_is_just_complete_requeues_nothing(detached, fake_slurm):
    def main(argv):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR2)
            time.sleep(30)
        return 0

    assert detached(main) == 0 and fake_slurm.calls("scontrol") == []
