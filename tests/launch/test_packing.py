"""Several runs in one Slurm job: what is asked for, what the job does with its runs, and whose attempt is counted."""

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

from genxai.errors import UsageError
from genxai.files import read_jsonl, write_json
from genxai.runs import State
from launch import packing, sweep
from launch.attempts import Live, Status, excuse, excuses_file
from launch.executors import SlurmRuns, default_parallel, slurm_live
from launch.profiles import Profile, slurm_parameters
from launch.reconciler import Reconciler
from launch.submissions import asked_to_stop, histories, intend, read_submissions, submitted
from launch.survey import Surveyor

HERE = Path(__file__).parent

# --- what is submitted ---------------------------------------------------------------------------


@pytest.fixture
def reconciler(make_planner, fake_slurm):
    """Of the test sweep's 8 grid runs, packed, on the fake Slurm."""

    def make(*words, packed=3, max_parallel=None, in_sequence=False, **profile):
        planner = make_planner("bayes.points=0", *words)
        executor = SlurmRuns(planner.folder, Profile(**profile), max_parallel, packed, in_sequence)
        return Reconciler(planner, executor, lambda line: None)

    return make


def scripts(mine) -> list[str]:
    return [
        next((mine.planner.folder.jobs / record.nonce).glob("*submission.sh")).read_text()
        for record in mine.submissions
    ]


def test_a_job_holds_several_runs_and_the_last_one_what_is_left(reconciler):
    mine = reconciler()
    assert mine.run_pass()[1] == 8
    (record,) = mine.submissions
    assert record.jobs == ("77_0", "77_1", "77_2") and record.runs_per_job == 3
    assert [len(record.runs_of(job)) for job in range(record.job_count)] == [3, 3, 2]
    assert "--array=0-2" in scripts(mine)[0]
    assert read_submissions(mine.planner.folder) == [record]


@pytest.mark.parametrize(("in_sequence", "cpus", "memory"), [(False, 6, "12G"), (True, 2, "4G")])
def test_runs_side_by_side_get_the_cores_and_memory_of_each(reconciler, in_sequence, cpus, memory):
    mine = reconciler(in_sequence=in_sequence, cpus_per_task=2, mem="4G", gres="gpu:1")
    mine.run_pass()
    (script,) = scripts(mine)
    assert f"--cpus-per-task={cpus}" in script and f"--mem={memory}" in script and "--gres=gpu:1" in script


def test_one_run_per_job_asks_for_what_the_profile_says():
    wanted = slurm_parameters(Profile(cpus_per_task=2, mem="4000"), "n", threads=4)
    assert (wanted["cpus_per_task"], wanted["mem"]) == (4, "4000")


def test_arrays_are_cut_and_halved_by_jobs(reconciler, fake_slurm):
    fake_slurm.answer("scontrol", "MaxArraySize = 2\n")
    cut = reconciler()
    assert cut.run_pass()[1] == 8 and [record.job_count for record in cut.submissions] == [2, 1]


def test_at_a_submit_limit_arrays_of_packed_jobs_are_halved(reconciler, fake_slurm):
    fake_slurm.room(3)
    mine = reconciler(packed=2)
    assert mine.run_pass()[1] == 6
    assert [(record.job_count, len(record.signatures)) for record in mine.submissions] == [(2, 4), (1, 2)]


def queue_of(record, *states: str) -> str:
    return "".join(f"77_{i}|{i}|{state}|Priority|{record.name}\n" for i, state in enumerate(states))


def test_max_parallel_counts_jobs(reconciler, fake_slurm):
    mine = reconciler(max_parallel=2)
    assert mine.run_pass()[1] == 6
    fake_slurm.answer("squeue", queue_of(mine.submissions[0], "RUNNING"))
    assert mine.run_pass()[1] == 3  # one job's place is free; its three runs go into it


def test_the_plan_says_how_many_jobs_hold_how_many_runs(sweep_file, tmp_path, fake_slurm, capsys):
    words = [str(sweep_file), "--cluster", "slurm", "--dry-run", "--runs", str(tmp_path / "runs")]
    assert sweep.main([*words, "bayes.points=0", "--runs-per-gpu", "3"]) == 0
    assert "8 runs to submit as 1 Slurm array of up to 3 jobs of 3 runs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--profile", "tasks=2"], "tasks=2 processes"),
        (["--profile", "gres=gpu:a6000:2"], "2 GPUs, but its runs share one"),
        (["run.processes=2"], "run.processes=2"),
        (["--runs-per-gpu", "0"], "expected at least 1, got 0"),
    ],
)
def test_what_cannot_share_a_gpu_is_refused_with_the_reason(sweep_file, tmp_path, fake_slurm, capsys, words, said):
    base = [str(sweep_file), "--cluster", "slurm", "--runs", str(tmp_path / "runs"), "--runs-per-gpu", "2"]
    assert sweep.main([*base, *words]) == 2
    assert said in capsys.readouterr().err and fake_slurm.calls("sbatch") == []


def test_in_sequence_is_for_jobs_of_several_runs(sweep_file, tmp_path, fake_slurm, capsys):
    for words in (["--cluster", "slurm"], ["--runs-per-gpu", "2"]):
        assert sweep.main([str(sweep_file), "--runs", str(tmp_path), "--in-sequence", *words]) == 2
        assert "--in-sequence" in capsys.readouterr().err


def test_on_this_machine_it_multiplies_the_gpus(make_planner, monkeypatch):
    config = make_planner("run.device=auto").sweep.base
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert default_parallel(config) == 2 and default_parallel(config, 3) == 6
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert default_parallel(config) >= 1
    with pytest.raises(UsageError, match="needs a GPU, but this machine shows none"):
        default_parallel(config, 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(UsageError, match=r"run\.device=cpu"):
        default_parallel(make_planner("run.device=cpu").sweep.base, 3)


# --- who is alive, and whose attempt it was ------------------------------------------------------


@pytest.fixture
def packed(make_planner):
    """A record of two jobs of two runs, ids noted, and the folder that its jobs write to."""
    planner = make_planner()
    names = [planned.signature for trial in planner.grid()[:2] for planned in trial.runs]

    def make(**details):
        record = intend(planner.folder, "slurm", [(name, 0) for name in names], 2, **details)
        folder = planner.folder.jobs / record.nonce
        folder.mkdir(parents=True)
        return planner.folder, submitted(planner.folder, record, ["77_0", "77_1"]), folder

    return make


def test_every_run_of_a_living_job_is_alive_but_those_it_has_left(packed, fake_slurm):
    folder, record, jobs = packed()
    a, b, c, d = record.signatures
    (jobs / f"{b}.left").touch()
    fake_slurm.answer("squeue", queue_of(record, "RUNNING", "PENDING"))
    waits = Live(Status.QUEUED, "Priority")
    assert slurm_live(folder, [record]) == {a: Live(Status.RUNNING), c: waits, d: waits}


def test_in_sequence_a_run_is_queued_until_its_turn_comes(packed, fake_slurm):
    folder, record, jobs = packed(in_sequence=True)
    a, b = record.runs_of(0)
    (jobs / f"77_0_{a}_run.err").touch()
    fake_slurm.answer("squeue", queue_of(record, "RUNNING"))
    assert slurm_live(folder, [record]) == {a: Live(Status.RUNNING), b: Live(Status.QUEUED, "its turn in the job")}


def test_an_attempt_is_counted_for_the_runs_that_the_job_came_to(packed):
    folder, record, jobs = packed(in_sequence=True)
    a, _, c, d = record.signatures
    (jobs / f"77_0_{a}_run.err").write_text("Killed\n")
    (jobs / "77_0_0_log.err").write_text("the job's own\n")
    (jobs / "77_1_0_log.err").write_text("module: command not found\n")
    found = histories(folder, [record])
    assert {name: found[name].starts for name in found} == {a: (0,), c: (0,), d: (0,)}  # the second's turn did not come
    assert found[a].last_log() == jobs / f"77_0_{a}_run.err" and found[c].last_log() == jobs / "77_1_0_log.err"
    asked_to_stop(folder, record)
    assert histories(folder, read_submissions(folder)) == {}


def test_a_killed_submission_of_packed_jobs_is_settled_by_its_jobs(packed, fake_slurm):
    from launch.sbatch import settle

    folder, record, jobs = packed()
    file = folder.submissions / f"{record.nonce}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "intent", "jobs": []}))
    (jobs / "77_0_submitted.pkl").touch()
    (jobs / "77_1_submitted.pkl").touch()
    assert len(settle(folder, read_submissions(folder))) == 1 and fake_slurm.calls("scancel") == []
    (jobs / "77_1_submitted.pkl").unlink()
    assert settle(folder, read_submissions(folder)) == []
    assert fake_slurm.calls("scancel") == [f"scancel --name={record.name}"]


# --- what the job does ---------------------------------------------------------------------------


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
