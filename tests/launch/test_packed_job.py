"""A job that holds several runs, as a real process with stand-ins for training: stops, failures, kills, requeues."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from genxai.files import read_jsonl, write_json
from genxai.runs import State
from launch import packing
from launch.attempts import Status, excuse, excuses_file
from launch.submissions import asked_to_stop, intend
from launch.survey import Surveyor

HERE = Path(__file__).parent


class Job:
    """A packed job of the four runs with seed 0; `start` begins one of its lives."""

    def __init__(self, planner, monkeypatch) -> None:
        self.planned = [trial.runs[0] for trial in planner.grid()]
        self.runs = planner.folder.path.parent
        self.folder = planner.folder.jobs / "0123456789"
        self.folder.mkdir(parents=True)
        self.monkeypatch, self.lives = monkeypatch, 0
        for planned in self.planned:
            planned.run.plan(planned.config)
        for name, value in {
            "PYTHONPATH": f"{HERE}{os.pathsep}{HERE.parents[1]}",
            "SUBMITIT_EXECUTOR": "slurm",
            "SUBMITIT_FOLDER": str(self.folder),
            "SLURM_JOB_ID": "12",
        }.items():
            monkeypatch.setenv(name, value)

    def start(self, mode: str = "together") -> subprocess.Popen:
        self.monkeypatch.setenv("SLURM_RESTART_COUNT", str(self.lives))
        self.lives += 1
        dirs = [str(planned.run.path) for planned in self.planned]
        return subprocess.Popen([sys.executable, str(HERE / "fake_packing.py"), mode, *dirs], stderr=subprocess.PIPE)

    def end(self, process: subprocess.Popen) -> int:
        _, said = process.communicate(timeout=60)
        assert b"Traceback" not in said, said.decode()
        return process.returncode

    def starts(self) -> list[int]:
        return [len(read_jsonl(planned.run.provenance_file)) for planned in self.planned]

    def states(self) -> list[State]:
        return [planned.run.state for planned in self.planned]

    def steps(self) -> list[int]:
        files = [planned.run.path / "step" for planned in self.planned]
        return [int(file.read_text() or "0") if file.exists() else 0 for file in files]  # it is not written atomically

    def alive(self) -> list[int]:
        folder = self.runs / "alive"
        return [int(file.name) for file in folder.iterdir()] if folder.exists() else []

    def most_alive(self) -> int:
        return max(line["alive"] for line in read_jsonl(self.runs / "alive.jsonl"))

    def wait_until(self, condition, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)


@pytest.fixture
def job(make_planner, fake_slurm, monkeypatch):
    fake_slurm.answer("squeue", "RUNNING\n")
    return Job(make_planner("bayes.points=0"), monkeypatch)


@pytest.mark.parametrize(("mode", "most"), [("together", 4), ("in-sequence", 1)])
def test_runs_go_side_by_side_or_one_after_the_other_each_with_a_log_of_its_own(job, mode, most):
    (job.runs / "steps").write_text("20" if mode == "together" else "3")
    assert job.end(job.start(mode)) == 0
    assert job.states() == [State.DONE] * 4 and job.starts() == [1] * 4 and job.most_alive() == most
    assert sorted(file.name for file in job.folder.glob("*_run.err")) == sorted(
        f"12_{planned.signature}_run.err" for planned in job.planned
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_notice_stops_every_run_and_the_job_is_requeued_once(job, fake_slurm, number):
    (job.runs / "steps").write_text("1000")
    process = job.start()
    job.wait_until(lambda: all(job.steps()))
    process.send_signal(number)
    assert job.end(process) == 75
    assert fake_slurm.calls("scontrol") == ["scontrol requeue 12"]
    excuses = [read_jsonl(excuses_file(planned.run)) for planned in job.planned]
    assert [[(line["outcome"], line["starts"]) for line in lines] for lines in excuses] == [[("stopped", 1)]] * 4
    (job.runs / "steps").write_text("3")  # they are beyond that
    assert job.end(job.start()) == 0
    assert job.states() == [State.DONE] * 4 and job.starts() == [2] * 4


def test_in_sequence_a_notice_begins_no_further_run_and_the_requeued_job_goes_on(job, fake_slurm):
    (job.runs / "steps").write_text("1000")
    process = job.start("in-sequence")
    job.wait_until(lambda: job.steps()[0])
    process.send_signal(signal.SIGUSR2)
    assert job.end(process) == 75 and job.starts() == [1, 0, 0, 0]
    (job.runs / "steps").write_text("3")
    assert job.end(job.start("in-sequence")) == 0 and job.starts() == [2, 1, 1, 1]
    assert len(fake_slurm.calls("scontrol")) == 1


def test_a_failed_run_takes_no_other_down_and_a_requeued_job_leaves_it_alone(job):
    (job.runs / "fail").write_text("1")  # lambda_gp of the first two
    assert job.end(job.start()) == 1
    assert job.states() == [State.FAILED, State.FAILED, State.DONE, State.DONE]
    left = [job.folder / f"{planned.signature}.left" for planned in job.planned[:2]]
    for file in left:
        file.unlink()  # FAILED.json alone says it, too
    assert job.end(job.start()) == 0 and job.starts() == [1] * 4
    assert all(file.exists() for file in left)  # they do not look alive while the others go on


def test_a_new_job_tries_a_failed_run_again(job):
    write_json(job.planned[0].run.failed_file, {"exception": "ValueError", "step": 1})
    assert job.end(job.start()) == 0 and job.states() == [State.DONE] * 4


def test_a_requeued_job_tries_a_run_that_had_failed_before_the_job_and_whose_turn_had_not_come(job):
    write_json(job.planned[1].run.failed_file, {"exception": "ValueError", "step": 1})
    (job.runs / "steps").write_text("1000")
    process = job.start("in-sequence")
    job.wait_until(lambda: job.steps()[0])
    process.terminate()
    assert job.end(process) == 75
    (job.runs / "steps").write_text("3")
    assert job.end(job.start("in-sequence")) == 0 and job.states() == [State.DONE] * 4


@pytest.mark.parametrize("fault", ["removed", "log"])
def test_a_run_that_cannot_be_started_is_left_and_takes_no_other_down(job, fault):
    first = job.planned[0]
    if fault == "removed":
        shutil.rmtree(first.run.path)
    else:
        (job.folder / f"12_{first.signature}_run.err").mkdir()
    process = job.start()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and f"{first.run.path}: not started" in said.decode()
    assert job.states()[1:] == [State.DONE] * 3 and (job.folder / f"{first.signature}.left").exists()


def test_a_mark_that_cannot_be_made_takes_no_other_down(job):
    (job.runs / "fail").write_text("1")
    for planned in job.planned[:2]:
        (job.folder / f"{planned.signature}.left").symlink_to(job.runs / "missing" / "mark")
    assert job.end(job.start()) == 1
    assert job.states() == [State.FAILED, State.FAILED, State.DONE, State.DONE]


def test_a_run_that_another_process_has_is_left_to_the_reconciler_unless_all_are_to_stop(job):
    first = job.planned[0]
    with first.run.lock():
        assert job.end(job.start()) == 0
    mark = job.folder / f"{first.signature}.left"
    assert mark.exists() and job.states()[1:] == [State.DONE] * 3
    child = packing.Child(first.run, SimpleNamespace(returncode=0))
    mark.unlink()
    assert packing._outcome(child, [signal.SIGTERM], job.folder) == "busy" and not mark.exists()


def test_a_notice_while_the_job_is_being_requeued_changes_nothing(job, fake_slurm):
    """submitit's handler, which requeues in its own way, is not back before."""
    (job.runs / "steps").write_text("1000")
    (fake_slurm.folder / "squeue").write_text("#!/bin/sh\nkill -USR2 $PPID\nsleep 0.3\necho RUNNING\n")
    process = job.start()
    job.wait_until(lambda: all(job.steps()))
    process.terminate()
    assert job.end(process) == 75 and fake_slurm.calls("scontrol") == ["scontrol requeue 12"]


def test_a_run_that_is_killed_is_left_to_the_reconciler_which_counts_it_alone(job, make_planner):
    """The same Slurm job starts its companions again: that is no excuse for the one that died."""
    (job.runs / "steps").write_text("1000")
    (job.runs / "die").write_text("1")  # lambda_gp of the first two
    process = job.start()
    job.wait_until(lambda: all(job.steps()[2:]) and len(list(job.folder.glob("*.left"))) == 2)
    process.terminate()
    assert job.end(process) == 75
    (job.runs / "die").unlink()
    (job.runs / "steps").write_text("3")
    assert job.end(job.start()) == 0
    assert job.states() == [State.STARTED, State.STARTED, State.DONE, State.DONE] and job.starts() == [1, 1, 2, 2]


def test_a_dead_job_takes_its_runs_with_it(job):
    (job.runs / "steps").write_text("1000")
    process = job.start()
    job.wait_until(lambda: all(job.steps()))
    children = job.alive()
    process.kill()
    job.end(process)
    job.wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 20)
    assert list(job.folder.glob("*.left")) == []  # nobody was there to say that they had ended badly


def test_no_job_of_a_cancelled_sweep_requeues_itself(job, fake_slurm, make_planner):
    folder = make_planner().folder
    record = intend(folder, "slurm", [(planned.signature, 0) for planned in job.planned], 4)
    asked_to_stop(folder, record)
    job.monkeypatch.setenv("SUBMITIT_FOLDER", str(folder.jobs / record.nonce))
    (folder.jobs / record.nonce).mkdir()
    (job.runs / "steps").write_text("1000")
    process = job.start()
    job.wait_until(lambda: all(job.steps()))
    process.terminate()
    assert job.end(process) == 75 and fake_slurm.calls("scontrol") == []


@pytest.mark.parametrize(("outcome", "code"), [("done", 0), ("stopped", 75), ("busy", 0), ("failed", 1)])
def test_a_child_says_how_its_run_ended(job, monkeypatch, outcome, code):
    (run, *_) = (planned.run for planned in job.planned)
    monkeypatch.setattr(packing, "end_with_parent", lambda: None)
    monkeypatch.setattr(packing, "train_patiently", lambda run, stop: SimpleNamespace(value=outcome))
    assert packing.main([str(run.path)]) == code
    assert [line["outcome"] for line in read_jsonl(excuses_file(run))] == [outcome] * (outcome in ("stopped", "busy"))


def test_only_the_run_that_died_is_given_up(make_planner):
    """Side by side with one that kills itself each time, a run that is stopped each time is never given up."""
    planner = make_planner("retries=0", "bayes.points=0")
    bad, good = (planned.run for planned in planner.grid()[0].runs)
    for planned in planner.grid()[0].runs:
        planned.run.plan(planned.config)
    for job in ("12", "13"):
        for run in (bad, good):
            with open(run.provenance_file, "a") as file:
                file.write(json.dumps({"resumed_from_step": 0, "slurm_job": job}) + "\n")
        excuse(good, "stopped")
    reports = Surveyor(planner).look({0: planner.grid()[0]}, {}, ()).reports
    assert (reports[bad.signature].status, reports[good.signature].status) == (Status.FAILED, Status.STOPPED)
