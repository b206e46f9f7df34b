"""What is said to Slurm and read from it, with scripts in its place; the real one is in tests/integration."""

import os
import sys

import pytest

from genxai.errors import UsageError
from launch import slurm, sweep
from launch.attempts import Live, Status
from launch.executors import LocalRuns, SlurmRuns
from launch.profiles import Profile, chosen_profile, load_profile, profile_names, slurm_parameters
from launch.reconciler import Reconciler
from launch.sbatch import submission_environment
from launch.submissions import intend, read_submissions


def test_the_shipped_profiles_are_valid():
    assert {"gpu", "a6000", "local"} <= set(profile_names())
    assert load_profile("a6000").gres == "gpu:a6000:1" and load_profile("a6000").time == 480
    assert load_profile("local").partition == "low" and load_profile("local").gres is None


@pytest.mark.parametrize(
    ("text", "minutes"), [("90", 90), ("4:00:00", 240), ('"00:00:30"', 1), ("1-02:00:00", 1560), ("04:30:00", 270)]
)
def test_a_time_limit_is_minutes_or_a_clock_however_yaml_would_read_it(tmp_path, text, minutes):
    (tmp_path / "p.yaml").write_text(f"time: {text}\nsignal_delay_s: 5\n")
    assert load_profile(str(tmp_path / "p.yaml")).time == minutes
    (tmp_path / "q.yaml").write_text("signal_delay_s: 5\n")
    assert load_profile(str(tmp_path / "q.yaml"), ["time=" + text.strip('"')]).time == minutes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("partiton: x", ["partiton", "partition"]),
        ("time: soon", ["time", "HH:MM:SS"]),
        ("mem: lots", ["mem"]),
        ("cpus_per_task: 0", ["cpus_per_task", ">= 1"]),
        ("time: 1\nsignal_delay_s: 90", ["signal_delay_s must be shorter than the time limit", "90 s and 1 min"]),
    ],
)
def test_a_wrong_profile_is_one_message(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_profile(str(tmp_path / "p.yaml"))
    assert all(word in str(caught.value) for word in ["p.yaml", *words])


def test_a_machine_of_no_cluster_is_one_message_that_names_the_ways_out(fake_slurm, sweep_file, tmp_path, capsys):
    fake_slurm.refuse(
        "squeue", "squeue: error: no such host\nsqueue: fatal: Could not establish a configuration source"
    )
    assert sweep.main([str(sweep_file), "--cluster", "slurm", "--runs", str(tmp_path / "runs")]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "does not reach a Slurm controller (squeue: Could not establish" in said
    assert "--cluster local" in said and "slurm/local_cluster.py" in said


@pytest.mark.parametrize("installed", [True, False])
def test_without_slurm_a_dry_run_prints_the_plan_and_that_nobody_knows_what_is_queued(
    fake_slurm, sweep_file, tmp_path, capsys, monkeypatch, installed
):
    fake_slurm.refuse("squeue", "squeue: error: no such host")
    if not installed:
        monkeypatch.setenv("PATH", str(tmp_path))
    assert sweep.main([str(sweep_file), "--cluster", "slurm", "--dry-run", "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "nobody knows what is queued" in said and "8 runs to submit as 1 Slurm array of up to 8 jobs" in said
    assert not (tmp_path / "runs").exists()


def test_the_profile_is_one_name_and_any_number_of_overrides(tmp_path):
    chosen = chosen_profile(["time=8:00:00", "a6000", "env.NCCL_DEBUG=INFO", "env.DEBUG=yes", "partition=p"])
    assert (chosen.gres, chosen.time, chosen.partition) == ("gpu:a6000:1", 480, "p")
    assert chosen.env == {"NCCL_DEBUG": "INFO", "DEBUG": "yes"}
    assert chosen_profile(["mem=1G"]).gres == "gpu:1"  # of the default, gpu
    with pytest.raises(UsageError, match="expected one profile, got 'a6000' and 'local'"):
        chosen_profile(["a6000", "local"])


def test_a_profile_is_no_option_of_local_runs(sweep_file, tmp_path, capsys):
    assert sweep.main([str(sweep_file), "--runs", str(tmp_path), "--profile", "time=60"]) == 2
    assert "--profile is for --cluster slurm" in capsys.readouterr().err


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'a6000'"):
        load_profile("a600")


def test_a_profile_becomes_submitit_parameters():
    profile = Profile(partition="p", gres="gpu:1", env={"A": "b c"}, setup=("module load x",), array_parallelism=9)
    wanted = slurm_parameters(profile, "genxai-s-1", threads=4)
    assert wanted["job_name"] == "genxai-s-1" and wanted["array_parallelism"] == 9
    assert wanted["srun_args"] == ["--cpus-per-task=4"]  # srun does not take it from sbatch
    assert wanted["cpus_per_task"] == 4 and "account" not in wanted
    assert wanted["setup"][0] == "module load x" and "export A='b c'" in wanted["setup"]
    assert "export OMP_NUM_THREADS=4" in wanted["setup"]


def test_a_round_is_one_array_and_a_longer_one_is_cut_to_what_the_cluster_accepts(make_planner, fake_slurm):
    fake_slurm.answer("sbatch", "Submitted batch job 77\n")
    fake_slurm.answer("scontrol", "MaxArraySize            = 5\n")
    planner = make_planner()
    runs = [(planned, 0) for trial in planner.grid() for planned in trial.runs]
    executor = SlurmRuns(planner.folder, Profile(partition="low"))
    records = executor.submit(runs)
    assert [len(record.signatures) for record in records] == [5, 3]
    assert sum(call.startswith("sbatch") for call in fake_slurm.calls()) == 2
    assert records[0].jobs == ("77_0", "77_1", "77_2", "77_3", "77_4")
    script = next((planner.folder.jobs / records[0].nonce).glob("*submission.sh")).read_text()
    assert "--array=0-4%5" in script and f"--job-name={records[0].name}" in script and "--partition=low" in script
    assert "--signal=USR2@90" in script and "--requeue" in script


@pytest.mark.parametrize(("largest", "calls"), [(1001, 1), (300, 4)])
def test_a_thousand_missing_runs_are_one_array_or_one_per_largest_array(
    make_planner, fake_slurm, monkeypatch, largest, calls
):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # two thousand of them take seconds on a disk
    fake_slurm.answer("scontrol", f"MaxArraySize            = {largest}\n")
    grid = f"space.objective.lambda_gp.grid={[float(number) for number in range(1, 251)]}"
    planner = make_planner("bayes.points=0", grid)  # with two values of lambda_bias and two seeds
    reconciler = Reconciler(planner, SlurmRuns(planner.folder, Profile(partition="low")))
    survey, submitted = reconciler.run_pass()
    assert submitted == survey.total == 1000
    assert len(fake_slurm.calls("sbatch")) == calls
    names = [name for submission in read_submissions(planner.folder) for name in submission.signatures]
    assert sorted(names) == sorted(survey.runs)


def test_an_array_is_no_longer_than_the_number_of_jobs_that_the_controller_holds(make_planner, fake_slurm):
    fake_slurm.answer("scontrol", "MaxArraySize            = 1001\nMaxJobCount             = 3\n")
    assert SlurmRuns(make_planner().folder, Profile()).array_size(8) == 3


def test_jobs_are_recognised_by_name_and_index_although_their_ids_were_never_noted(make_planner, fake_slurm):
    planner = make_planner()
    names = [planned.signature for planned in planner.grid()[0].runs]
    record = intend(planner.folder, "slurm", [(name, 0) for name in names])
    executor = SlurmRuns(planner.folder, Profile())
    fake_slurm.answer(
        "squeue",
        f"7_0|0|RUNNING|None|{record.name}\n7_1|1|PENDING|Priority|{record.name}\n9|N/A|RUNNING|None|somebody else's\n",
    )
    submissions = read_submissions(planner.folder)
    assert executor.live(submissions) == {names[0]: Live(Status.RUNNING), names[1]: Live(Status.QUEUED, "Priority")}
    fake_slurm.answer("squeue", f"7_0|0|CANCELLED|None|{record.name}\n")
    assert executor.live(submissions) == {}


def test_if_squeue_does_not_answer_nobody_is_taken_for_dead(make_planner, fake_slurm):
    planner = make_planner()
    executor = SlurmRuns(planner.folder, Profile())
    fake_slurm.refuse("squeue", "no")
    with pytest.raises(slurm.SlurmSilent):
        executor.live([])


def test_accounting_is_never_asked(make_planner, fake_slurm):
    planner = make_planner()
    SlurmRuns(planner.folder, Profile()).live([])
    assert not any("sacct" in call for call in fake_slurm.calls())


def test_a_submission_from_inside_a_job_keeps_only_the_place_of_the_cluster(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_CONF", "/etc/here")
    with submission_environment():
        assert "SLURM_JOB_ID" not in os.environ and os.environ["SLURM_CONF"] == "/etc/here"
    assert os.environ["SLURM_JOB_ID"] == "12" and os.environ["SLURM_CONF"] == "/etc/here"


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


def test_a_local_reconciler_knows_what_an_earlier_one_has_handed_to_slurm(make_planner, fake_slurm):
    planner = make_planner()
    runs = [planned for trial in planner.grid() for planned in trial.runs][:2]
    record = intend(planner.folder, "slurm", [(planned.signature, 0) for planned in runs])
    fake_slurm.answer("squeue", f"5_0|0|RUNNING|None|{record.name}\n5_1|1|PENDING|Priority|{record.name}\n")
    local = LocalRuns(planner.folder, max_parallel=2)
    assert [live.status for live in local.live([record]).values()] == [Status.RUNNING, Status.QUEUED]
    assert local.slots([record], local.live([record])) == 2  # their processes are no local runs
    fake_slurm.refuse("squeue", "no")
    assert LocalRuns(planner.folder, max_parallel=2).live([record]) == {}
