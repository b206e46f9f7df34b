"""What is said to Slurm and read from it, with scripts in its place; the real one is in tests/integration."""

import os
import stat
import sys

import pytest

from genxai.errors import UsageError
from launch import slurm, worker
from launch.attempts import Live
from launch.executors import SlurmRuns, submission_environment
from launch.profiles import Profile, load_profile, profile_names, slurm_parameters
from launch.submissions import intend, read_submissions


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Commands on the PATH that log their arguments and answer with the text of a file."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "srun"):
        script = folder / name
        script.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n'
            f"[ -f {folder}/{name}.fails ] && {{ echo no >&2; exit 1; }}\n"
            f"cat {folder}/{name}.answer 2>/dev/null || true\n"
        )
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    slurm.max_array_size.cache_clear()
    return folder


def calls(fake_slurm) -> list[str]:
    file = fake_slurm / "calls"
    return file.read_text().splitlines() if file.exists() else []


def test_the_shipped_profiles_are_valid():
    assert {"gpu", "a6000", "local"} <= set(profile_names())
    assert load_profile("a6000").gres == "gpu:a6000:1" and load_profile("a6000").time == 480
    assert load_profile("local").partition == "low" and load_profile("local").gres is None


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("4:00:00", 240), ('"00:00:30"', 1), ("1-02:00:00", 1560), ("04:30:00", 270)]
)
def test_a_time_limit_is_minutes_or_a_clock_however_yaml_would_read_it(tmp_path, text, minutes):
    (tmp_path / "p.yaml").write_text(f"time: {text}\n")
    assert load_profile(str(tmp_path / "p.yaml")).time == minutes
    (tmp_path / "q.yaml").write_text("mem: 4G\n")
    assert load_profile(str(tmp_path / "q.yaml"), ["time=" + text.strip('"')]).time == minutes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partiton: x", ["partiton", "partition"]),
        ("time: soon", ["time", "HH:MM:SS"]),
        ("mem: lots", ["mem"]),
        ("cpus_per_task: 0", ["cpus_per_task", ">= 1"]),
    ],
)
def test_a_wrong_profile_is_one_message(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_profile(str(tmp_path / "p.yaml"))
    assert all(word in str(caught.value) for word in ["p.yaml", *words])


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'a6000'"):
        load_profile("a600")


def test_a_profile_becomes_submitit_parameters():
    profile = Profile(partition="p", gres="gpu:1", env={"A": "b c"}, setup=("module load x",), array_parallelism=9)
    wanted = slurm_parameters(profile, "genxai-s-1", threads=4, max_parallel=3)
    assert wanted["job_name"] == "genxai-s-1" and wanted["array_parallelism"] == 3
    assert wanted["cpus_per_task"] == 4 and "account" not in wanted
    assert wanted["setup"][0] == "module load x" and "export A='b c'" in wanted["setup"]
    assert "export OMP_NUM_THREADS=4" in wanted["setup"]


def test_a_round_is_one_array_and_a_longer_one_is_cut_to_what_the_cluster_accepts(make_planner, fake_slurm):
    (fake_slurm / "sbatch.answer").write_text("Submitted batch job 77\n")
    (fake_slurm / "scontrol.answer").write_text("MaxArraySize            = 5\n")
    planner = make_planner()
    runs = [(planned, 0) for trial in planner.grid() for planned in trial.runs]
    executor = SlurmRuns(planner.folder, Profile(partition="low"))
    records = executor.submit(runs)
    assert [len(record.signatures) for record in records] == [5, 3]
    assert sum(call.startswith("sbatch") for call in calls(fake_slurm)) == 2
    assert records[0].jobs == ("77_0", "77_1", "77_2", "77_3", "77_4")
    script = next((planner.folder.jobs / records[0].nonce).glob("*submission.sh")).read_text()
    assert "--array=0-4%5" in script and f"--job-name={records[0].name}" in script and "--partition=low" in script
    assert "--signal=USR2@90" in script and "--requeue" in script


def test_jobs_are_recognised_by_name_and_index_although_their_ids_were_never_noted(make_planner, fake_slurm):
    planner = make_planner()
    names = [planned.signature for planned in planner.grid()[0].runs]
    record = intend(planner.folder, "slurm", [(name, 0) for name in names])
    executor = SlurmRuns(planner.folder, Profile())
    (fake_slurm / "squeue.answer").write_text(
        f"7_0|0|RUNNING|None|{record.name}\n7_1|1|PENDING|Priority|{record.name}\n9|N/A|RUNNING|None|somebody else's\n"
    )
    submissions = read_submissions(planner.folder)
    assert executor.live(submissions) == {names[0]: Live.RUNNING, names[1]: Live.QUEUED}
    (fake_slurm / "squeue.answer").write_text(f"7_0|0|CANCELLED|None|{record.name}\n")
    assert executor.live(submissions) == {}


def test_if_squeue_does_not_answer_nobody_is_taken_for_dead(make_planner, fake_slurm):
    planner = make_planner()
    executor = SlurmRuns(planner.folder, Profile())
    (fake_slurm / "squeue.fails").touch()
    with pytest.raises(slurm.SlurmSilent):
        executor.live([])


def test_accounting_is_never_asked(make_planner, fake_slurm):
    planner = make_planner()
    SlurmRuns(planner.folder, Profile()).live([])
    assert not any("sacct" in call for call in calls(fake_slurm))


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_a_stopped_job_is_requeued_unless_slurm_is_already_ending_it(fake_slurm, monkeypatch, state, requeued):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    (fake_slurm / "squeue.answer").write_text(state + "\n")
    worker.requeue()
    assert ("scontrol requeue 12" in calls(fake_slurm)) is requeued


def test_only_one_rank_requeues(fake_slurm, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_PROCID", "1")
    worker.requeue()
    assert calls(fake_slurm) == []


def test_a_submission_from_inside_a_job_keeps_only_the_place_of_the_cluster(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CONF", "/etc/here")
    with submission_environment():
        assert "SLURM_JOB_ID" not in os.environ and os.environ["SLURM_CONF"] == "/etc/here"
    assert os.environ["SLURM_JOB_ID"] == "12" and os.environ["SLURM_CONF"] == "/etc/here"


@pytest.mark.parametrize(
    ("outcome", "slurm_job", "code"),
    [("STOPPED", True, 75), ("FAILED", True, 1), ("DONE", True, None), ("STOPPED", False, None)],
)
def test_the_worker_turns_outcomes_into_what_the_cluster_should_see(
    fake_slurm, monkeypatch, make_planner, outcome, slurm_job, code
):
    training = pytest.importorskip("genxai.training.run")
    told = getattr(training.Outcome, outcome)
    monkeypatch.setattr(training, "train", lambda run: told)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    (fake_slurm / "squeue.answer").write_text("RUNNING\n")
    if slurm_job:
        monkeypatch.setenv("SLURM_JOB_ID", "12")
    if code is None:
        assert worker.work("/runs/s/0") == str(told)
    else:
        with pytest.raises(SystemExit) as caught:
            worker.work("/runs/s/0")
        assert caught.value.code == code
    assert ("scontrol requeue 12" in calls(fake_slurm)) is (outcome == "STOPPED" and slurm_job)


def test_local_runs_get_their_own_threads_and_gpu(monkeypatch):
    from launch.executors import _python, visible_gpus

    assert _python(3, "1").split()[:5] == [
        "env", "OMP_NUM_THREADS=3", "MKL_NUM_THREADS=3", "OPENBLAS_NUM_THREADS=3", "CUDA_VISIBLE_DEVICES=1",
    ]  # fmt: skip
    assert _python(1, None).endswith(f"CUDA_VISIBLE_DEVICES= {sys.executable}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert visible_gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []
