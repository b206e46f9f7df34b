"""sbatch that refuses, is not answered, or is limited: what is submitted, what is remembered, what is said."""

import json
import time
import types

import pytest

from genxai.errors import GenxaiError
from launch import status, sweep
from launch.attempts import Live, Status
from launch.executors import SlurmRuns
from launch.profiles import Profile
from launch.reconciler import Reconciler
from launch.sbatch import SubmitLimit
from launch.slurm import SlurmSilent
from launch.submissions import histories, intend, read_submissions


@pytest.fixture
def reconciler(make_planner, fake_slurm):
    """Of the test sweep's 8 grid runs, on the fake Slurm; its notes are in `said`."""

    def make(max_parallel=None, **profile):
        planner, said = make_planner("bayes.points=0"), []
        found = Reconciler(planner, SlurmRuns(planner.folder, Profile(**profile), max_parallel), said.append)
        found.said = said
        return found

    return make


def sizes(reconciler) -> list[int]:
    return [len(record.signatures) for record in reconciler.submissions]


def test_refused_submissions_are_no_attempts(reconciler, fake_slurm, make_planner):
    fake_slurm.refuse("sbatch", "sbatch: error: invalid partition specified: nowhere")
    for _ in range(4):
        with pytest.raises(GenxaiError, match="refused the submission: invalid partition specified: nowhere"):
            reconciler(partition="nowhere").run_pass()
    assert read_submissions(make_planner().folder) == []
    fake_slurm.answer("sbatch", "Submitted batch job 77\n")
    survey, submitted = reconciler().run_pass()
    assert submitted == 8 and survey.count(Status.FAILED) == 0


def test_an_intent_whose_job_was_never_seen_is_no_attempt(make_planner):
    folder = make_planner().folder
    record = intend(folder, "local", [("0" * 12, 0)])
    assert histories(folder, [record]) == {}
    (folder.jobs / record.nonce).mkdir(parents=True)
    (folder.jobs / record.nonce / "7_0_log.err").touch()  # killed before it noted the id, but the job has begun
    assert histories(folder, [record])["0" * 12].starts == (0,)


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    ],
)
def test_a_submission_that_was_not_answered_is_cancelled_before_it_is_repeated(reconciler, fake_slurm, words):
    mine = reconciler()
    fake_slurm.refuse("sbatch", words)
    with pytest.raises(SlurmSilent):
        mine.run_pass()
    (record,) = mine.submissions  # its jobs may exist
    fake_slurm.answer("sbatch", "Submitted batch job 77\n")
    fake_slurm.refuse("scancel", "Unable to contact slurm controller")
    with pytest.raises(SlurmSilent):
        mine.run_pass()
    assert mine.submissions == [record] and len(fake_slurm.calls("sbatch")) == 1
    fake_slurm.answer("scancel", "")
    assert mine.run_pass()[1] == 8
    assert fake_slurm.calls("scancel")[-1] == f"scancel --name={record.name}"
    assert record not in mine.submissions and sizes(mine) == [8]


def test_a_reconciler_killed_after_its_jobs_were_in_place_keeps_them(reconciler, fake_slurm):
    first = reconciler()
    first.run_pass()
    (record,) = first.submissions
    file = first.planner.folder.submissions / f"{record.nonce}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "intent", "jobs": []}))
    fake_slurm.answer("squeue", "".join(f"77_{i}|{i}|PENDING|Priority|{record.name}\n" for i in range(8)))
    survey, submitted = reconciler().run_pass()
    assert (submitted, survey.count(Status.QUEUED), fake_slurm.calls("scancel")) == (0, 8, [])


def test_what_was_submitted_before_an_error_is_remembered(reconciler, fake_slurm):
    fake_slurm.answer("scontrol", "MaxArraySize = 3\n")
    fake_slurm.room(3)
    mine = reconciler()
    _, submitted = mine.run_pass()
    assert submitted == 3 and sizes(mine) == [3] and sizes(reconciler()) == [3]


def test_at_a_submit_limit_arrays_are_halved_and_the_rest_waits(reconciler, fake_slurm):
    fake_slurm.room(5)
    mine = reconciler()
    assert mine.run_pass()[1] == 5 and sizes(mine) == [4, 1]
    assert mine.said == ["sbatch: QOSMaxSubmitJobPerUserLimit; the other runs wait until jobs have ended"]
    (record, other) = mine.submissions
    queue = "".join(f"77_{i}|{i}|PENDING|Priority|{record.name}\n" for i in range(4))
    fake_slurm.answer("squeue", queue + f"78|N/A|PENDING|Priority|{other.name}\n")
    assert mine.run_pass()[1] == 0 and len(mine.said) == 1  # said once
    fake_slurm.room(8)
    assert mine.run_pass()[1] == 3 and sizes(mine) == [4, 1, 1, 2]  # one by one at first, then more


def test_nothing_accepted_at_all_is_no_error_either(reconciler, fake_slurm):
    fake_slurm.room(0)
    mine = reconciler()
    with pytest.raises(SubmitLimit):
        mine.executor.submit([(planned, 0) for planned in mine.look().to_submit()])
    assert mine.run_pass()[1] == 0 and read_submissions(mine.planner.folder) == []


def test_an_answer_without_a_job_id_is_one_message(reconciler, fake_slurm):
    fake_slurm.answer("sbatch", "what?\n")
    with pytest.raises(GenxaiError, match="sbatch gave no job id"):
        reconciler().run_pass()


def test_max_parallel_limits_all_jobs_in_the_queue(reconciler, fake_slurm):
    mine = reconciler(max_parallel=3)
    assert mine.run_pass()[1] == 3
    (record,) = mine.submissions
    fake_slurm.answer("squeue", f"77_0|0|RUNNING|None|{record.name}\n77_1|1|PENDING|Priority|{record.name}\n")
    assert mine.run_pass()[1] == 1 and mine.executor.array_size(8) == 3


def test_the_cluster_is_asked_once_a_pass_however_many_trials_are_proposed(make_planner, finish, fake_slurm):
    planner = make_planner("bayes.window=3", "bayes.points=3")
    for trial in planner.grid():
        for planned in trial.runs:
            finish(planned, accuracy=0.1 * trial.number)
    mine = Reconciler(planner, SlurmRuns(planner.folder, Profile()), lambda line: None)
    assert mine.run_pass()[1] == 6 and len(fake_slurm.calls("squeue")) == 1


def test_slurm_is_asked_less_often_as_time_goes_by():
    assert [sweep.poll_seconds("slurm", elapsed) for elapsed in (0, 15, 60, 100, 9999)] == [2, 2, 6, 10, 25]
    assert sweep.poll_seconds("local", 9999) == 1


def test_why_jobs_wait_is_shown(reconciler, fake_slurm, capsys):
    from launch.display import live_table, totals_line

    mine = reconciler()
    mine.run_pass()
    (record,) = mine.submissions
    fake_slurm.answer("squeue", "".join(f"77_{i}|{i}|PENDING|PartitionTimeLimit|{record.name}\n" for i in range(8)))
    assert set(mine.executor.live(mine.submissions).values()) == {Live(Status.QUEUED, "PartitionTimeLimit")}
    survey = mine.look()
    said = totals_line(mine.planner.sweep, survey, 1)
    assert "8 queued (PartitionTimeLimit: 8; they ask for more than the cluster gives: --cancel" in said
    table = live_table(mine.planner.sweep, survey, 1).renderables[0]
    assert "queued PartitionTimeLimit" in list(table.columns[4].cells)
    assert status.main([str(mine.planner.folder.path.parent)]) == 0
    assert "queued runs wait for PartitionTimeLimit: 8" in capsys.readouterr().out


def test_a_running_sweep_waits_for_slurm_and_says_so_once(sweep_file, tmp_path, fake_slurm, monkeypatch, capsys):
    pauses = []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    # in sweep.py alone: subprocess sleeps, too
    monkeypatch.setattr(sweep, "time", types.SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    fake_slurm.refuse("sbatch", "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation")
    assert sweep.main([str(sweep_file), "--cluster", "slurm", "--runs", str(tmp_path / "runs")]) == 130
    assert capsys.readouterr().out.count("nothing is submitted until Slurm answers") == 1
    assert pauses == [sweep.SILENCE_SECONDS] * 3 and len(fake_slurm.calls("sbatch")) == 3


def test_a_refusal_ends_the_command_with_one_message(sweep_file, tmp_path, fake_slurm, capsys):
    fake_slurm.refuse("sbatch", "sbatch: error: Invalid account or account/partition combination specified")
    for words in ((), ("--detach",)):
        code = sweep.main([str(sweep_file), "--cluster", "slurm", "--runs", str(tmp_path / "runs"), *words])
        said = capsys.readouterr().err
        assert code == 1 and said.count("\n") == 1 and "Invalid account or account/partition" in said
