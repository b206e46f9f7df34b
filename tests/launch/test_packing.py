"""Several runs in one Slurm job: what is asked for, who is alive, and whose attempt is counted."""

import json
from pathlib import Path

import pytest

from genxai.errors import UsageError
from launch import sweep
from launch.attempts import Live, Status
from launch.executors import SlurmRuns, default_parallel, slurm_live
from launch.profiles import Profile, slurm_parameters
from launch.reconciler import Reconciler
from launch.submissions import asked_to_stop, histories, intend, read_submissions, submitted

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
