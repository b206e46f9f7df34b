"""What a job does when its run has ended, and what of it counts against the run."""

import contextlib
import os
import signal
import time
from types import SimpleNamespace

import pytest

from genxai.configfile import load_config
from genxai.errors import GenxaiError
from genxai.files import append_jsonl, read_jsonl
from genxai.runs import Run
from launch import cli, detach, worker
from launch.attempts import Status, excuse, excuses_file
from launch.detach import DetachedSweep
from launch.profiles import Profile
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


def test_a_job_that_slurm_does_not_know_is_not_requeued(fake_slurm, in_job):
    in_job()
    fake_slurm.refuse("squeue", "slurm_load_jobs error: Invalid job id specified")
    worker.requeue()
    assert fake_slurm.calls("scontrol") == [] and len(fake_slurm.calls("squeue")) == 1


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_controller_that_is_silent_for_a_moment_is_asked_again(fake_slurm, in_job, monkeypatch, state, requeued):
    in_job()
    fake_slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    answer = lambda seconds: fake_slurm.answer("squeue", state + "\n")  # noqa: E731
    monkeypatch.setattr(worker, "time", SimpleNamespace(sleep=answer, monotonic=time.monotonic))
    worker.requeue()
    assert len(fake_slurm.calls("squeue")) == 2
    assert fake_slurm.calls("scontrol") == ["scontrol requeue 12"] * requeued


def test_a_job_is_requeued_although_the_controller_does_not_say_its_state(fake_slurm, in_job, monkeypatch, capsys):
    in_job()
    monkeypatch.setattr(worker, "ASK_SECONDS", 0.2)
    monkeypatch.setattr(worker, "ASK_AGAIN_SECONDS", 0.05)
    fake_slurm.refuse("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    worker.requeue()
    assert fake_slurm.calls("scontrol") == ["scontrol requeue 12"]
    fake_slurm.refuse("scontrol", "Unable to contact slurm controller (connect failure)")
    worker.requeue()  # nobody can help then, but the job ends as it should
    assert "not requeued: scontrol: Unable to contact" in capsys.readouterr().err


@pytest.mark.parametrize("outcome", ["STOPPED", "BUSY"])
def test_a_notice_after_the_training_is_not_answered_by_submitit(
    fake_slurm, in_job, training, run, monkeypatch, outcome
):
    in_job()
    training(outcome)
    monkeypatch.setattr(worker, "BUSY_SECONDS", 0.0)
    calls = []
    before = signal.signal(signal.SIGUSR2, lambda *_: calls.append("submitit"))
    for name in ("note_end", "requeue"):
        monkeypatch.setattr(
            worker, name, lambda *_, name=name: (os.kill(os.getpid(), signal.SIGUSR2), calls.append(name))
        )
    try:
        with contextlib.suppress(SystemExit):
            worker.work(str(run.path))
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert calls == ["note_end", "requeue"][: 2 if outcome == "STOPPED" else 1]


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


def test_failures_are_forgiven_once_not_at_every_requeue(detached, monkeypatch):
    seen = []

    def main(argv):
        seen.append(argv)
        return 0

    for count in ("0", "1"):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        monkeypatch.setattr("launch.sweep.main", main)
        DetachedSweep(["quickstart", "--retry-failed", "seeds=[0]"], os.getcwd(), "log")()
    assert seen == [["quickstart", "--retry-failed", "seeds=[0]"], ["quickstart", "seeds=[0]"]]


def test_the_job_of_a_detached_reconciler_is_small_whatever_its_runs_ask_for(make_planner, fake_slurm):
    folder = make_planner().folder
    profile = Profile(tasks=4, nodes=2, gres="gpu:2", constraint="big", accelerate="fsdp2", cpus_per_task=8, mem="64G")
    assert detach.submit_reconciler(folder, profile, ["s"]) == "77"
    (script,) = (file.read_text() for file in folder.jobs.glob("*/*submission.sh"))
    for wanted in ("--nodes=1", "--ntasks-per-node=1", "--cpus-per-task=1", "--mem=2G"):
        assert f"#SBATCH {wanted}\n" in script
    assert not any(word in script for word in ("gres", "constraint", "ACCELERATE", "kill-on-bad-exit"))


def test_a_second_detached_reconciler_is_refused_while_the_first_waits_in_the_queue(make_planner, fake_slurm, capsys):
    folder = make_planner().folder
    assert detach.detach(folder, ["s", "--detach"], Profile()) == 0
    (name,) = (f"genxai-s-{file.stem}" for file in folder.submissions.glob("*.json"))
    fake_slurm.answer("squeue", f"76|N/A|RUNNING|None|somebody else's\n77|N/A|PENDING|Priority|{name}\n")
    with pytest.raises(GenxaiError, match=r"run by Slurm job 77 already \(pending\)"):
        detach.detach(folder, ["s", "--detach"], Profile())
    assert len(fake_slurm.calls("sbatch")) == 1
    fake_slurm.answer("squeue", "")
    assert detach.detach(folder, ["s", "--detach"], Profile()) == 0 and len(fake_slurm.calls("sbatch")) == 2
