"""What a person sees of sweeps: statuses, device-hours used and lost, the time left, failures with their logs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genxai.files import append_jsonl, write_json
from launch import sights, status
from launch.attempts import Live, Report, Status, report
from launch.display import as_json, failure_lines, hours, live_table, plan_lines, totals_line
from launch.outcomes import selection, write_selection
from launch.sights import Watcher
from launch.submissions import History, intend, submitted
from launch.survey import Surveyor, affordable, time_left
from launch.sweepdir import SweepDir
from launch.sweepfile import dump_sweep

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def planner(make_planner):
    """A sweep of 4 points with two seeds, started once."""
    planner = make_planner("bayes.points=0")
    planner.folder.path.mkdir(parents=True)
    planner.folder.definition.write_text(dump_sweep(planner.sweep.definition))
    return planner


@pytest.fixture
def runs(planner):
    return [planned for trial in planner.grid() for planned in trial.runs]


@pytest.fixture
def begin():
    """Writes what a run has that was started and has come to a step."""

    def write(planned, step=0, steps=100, seconds=0.0, redone=0, processes=1, starts=1) -> None:
        planned.run.plan(planned.config)
        append_jsonl(planned.run.provenance_file, *[{"resumed_from_step": 0, "processes": processes}] * starts)
        write_json(
            planned.run.progress_file, {"step": step, "steps": steps, "seconds": seconds, "steps_redone": redone}
        )

    return write


@pytest.fixture
def fail(begin):
    def write(planned, **failure) -> None:
        begin(planned)
        failure = {"exception": "ValueError", "message": "broken", "step": 4} | failure
        for _ in range(2):
            append_jsonl(planned.run.failures_file, failure)
        write_json(planned.run.failed_file, failure)

    return write


@pytest.fixture
def survey(planner):
    def look(live=None):
        return Surveyor(planner).look({trial.number: trial for trial in planner.grid()}, live or {}, ())

    return look


@pytest.fixture
def told(tmp_path, capsys):
    """What --json says of the one sweep, and of all."""

    def look():
        assert status.main([str(tmp_path / "runs"), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        (sweep,) = content["sweeps"]
        return sweep, content["total"]

    return look


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """What the command prints on so many columns."""

    def look(columns: int = 80) -> str:
        monkeypatch.setattr(status, "PIPE_WIDTH", columns)
        assert status.main([str(tmp_path / "runs")]) == 0
        return capsys.readouterr().out

    return look


# --- statuses ------------------------------------------------------------------------------------


def test_a_run_that_had_begun_and_waits_in_the_queue_again_is_preempted_and_any_other_there_is_queued(
    survey, runs, begin, fail
):
    begun, failed, new = runs[:3]
    begin(begun, step=30, seconds=3.0)
    fail(failed)
    found = survey({planned.signature: Live(Status.QUEUED, "Priority") for planned in runs[:3]})
    assert [found.reports[p.signature].status for p in (begun, failed, new)] == ["preempted", "queued", "queued"]
    assert (found.count(Status.PREEMPTED), found.count(Status.QUEUED), found.count(Status.STOPPED)) == (1, 2, 0)
    assert found.reports[begun.signature].seconds == 3.0
    assert survey().reports[begun.signature].status is Status.STOPPED


def test_a_preempted_run_is_in_flight_for_the_budget_and_not_submitted_again(survey, runs, begin, finish):
    finish(runs[0])  # 0.01 device-hours
    begin(runs[1])
    found = survey({runs[1].signature: Live(Status.QUEUED)})
    assert runs[1] not in found.to_submit() and runs[1] in survey().to_submit()
    assert affordable(found, 0.05, 6) == 3


def test_preempted_runs_are_told_of_everywhere(planner, survey, runs, begin):
    begin(runs[0], step=30, steps=120)
    found = survey({runs[0].signature: Live(Status.QUEUED, "BeginTime")})
    assert "1 preempted (BeginTime: 1)" in totals_line(planner.sweep, found, 1)
    assert "1 preempted" in plan_lines(planner.sweep, found, "slurm", 8)[1]
    told = as_json(planner.sweep, found, 1)
    assert told["runs"]["preempted"] == 1 and told["waiting"] == {"BeginTime": 1}
    columns = live_table(planner.sweep, found, 1).renderables[0].columns
    assert list(columns[3].cells) == ["30/120"] and list(columns[4].cells) == ["preempted BeginTime"]


def test_status_asks_slurm_once_for_all_sweeps_and_shows_who_is_preempted(
    planner, make_planner, runs, begin, fake_slurm, told, shown, tmp_path
):
    other = make_planner("name=other", "bayes.points=0")
    names = []
    for mine, planned in ((planner, runs[0]), (other, other.grid()[0].runs[0])):
        begin(planned)
        record = submitted(mine.folder, intend(mine.folder, "slurm", [(planned.signature, 0)]), ["7"])
        names.append(record.name)
    fake_slurm.answer("squeue", "".join(f"7|N/A|PENDING|Priority|{name}\n" for name in names))
    assert status.main([str(tmp_path / "runs"), "--json"]) == 0
    assert len(fake_slurm.calls("squeue")) == 1
    assert "queued runs wait for Priority: 1" in shown()


# --- device-hours --------------------------------------------------------------------------------


def test_hours_are_used_by_unfinished_runs_too_and_lost_by_steps_done_again(survey, told, runs, begin, finish):
    finish(runs[0])
    write_json(
        runs[0].run.result_file,
        {"metrics": {}, "seconds": 3600.0, "restarts": 2, "steps": 90, "steps_redone": 10, "processes": 2},
    )
    begin(runs[1], step=30, steps=90, seconds=1800.0, redone=15, processes=4, starts=3)
    found = survey()
    assert found.hours_used == pytest.approx(2 * 1.0 + 4 * 0.5)
    assert found.hours_lost == pytest.approx(2 * 1.0 * 10 / 100 + 4 * 0.5 * 15 / 45)
    sweep, total = told()
    for content in (sweep, total):
        assert content["hours_used"] == pytest.approx(found.hours_used)
        assert content["hours_lost"] == pytest.approx(found.hours_lost)
        assert (content["restarts"], content["steps_redone"]) == (4, 25)


def test_hours_of_a_single_run_come_from_the_newer_of_its_metrics_and_its_progress(told, runs, begin):
    begin(runs[0], step=10, seconds=36.0)
    append_jsonl(runs[0].run.metrics_file, {"step": 5, "seconds": 18.0})
    assert told()[0]["hours_used"] == pytest.approx(0.01)
    append_jsonl(runs[0].run.metrics_file, {"step": 20, "seconds": 72.0})
    assert told()[0]["hours_used"] == pytest.approx(0.02)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[3]",
        "[" * 100_000,
        '{"step": "x", "seconds": [], "steps_redone": null}',
        '{"seconds": NaN, "step": -1, "steps": 0}',
        '{"seconds": Infinity, "steps_redone": true, "steps": 1e999, "eta_seconds": -Infinity}',
    ],
)
def test_a_damaged_progress_file_hides_hours_and_harms_nothing(planner, survey, runs, begin, told, content):
    begin(runs[0])
    append_jsonl(runs[0].run.metrics_file, {"step": 5, "seconds": 36.0})
    runs[0].run.progress_file.write_text(content)
    sweep, _ = told()
    assert sweep["hours_used"] == pytest.approx(0.01) and sweep["hours_lost"] == 0 and sweep["problems"] == []
    found = survey({runs[0].signature: Live(Status.RUNNING)})
    columns = live_table(planner.sweep, found, 1).renderables[0].columns
    assert list(columns[4].cells) == ["starting"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.00004, "0.0000"), (0.012, "0.012"), (1.239, "1.24"), (12.34, "12.3"), (12345.6, "12,346")],
)
def test_hours_are_a_few_digits_and_never_an_exponent(number, text):
    assert hours(number) == text


# --- time left -----------------------------------------------------------------------------------


def done(seconds, **more) -> Report:
    return Report(Status.DONE, seconds=seconds, steps=100, **more)


def at(step, seconds, state=Status.RUNNING, **more) -> Report:
    return Report(state, seconds=seconds, steps=step, progress={"step": step, "steps": 100}, **more)


def test_the_time_left_is_what_finished_runs_took_less_what_is_done_shared_by_those_that_run():
    finished = [done(80.0), done(120.0)]
    assert time_left([*finished, at(50, 40.0), Report(Status.MISSING)], 2, parallel=2) == (60 + 3 * 100) / 2
    assert time_left([*finished, at(50, 40.0, Status.PREEMPTED)], 0, parallel=1) == 60
    assert time_left([*finished, Report(Status.FAILED, seconds=9.0)], 0, parallel=0) == 0
    assert time_left([], 0, parallel=1) == 0


def test_the_time_left_is_never_shorter_than_the_longest_run():
    assert time_left([done(100.0), at(50, 40.0), at(50, 90.0)], 0, parallel=4) == 60


def test_steps_done_twice_neither_lengthen_nor_shorten_the_time_left():
    assert time_left([done(150.0, steps_redone=50), at(25, 75.0, steps_redone=50)], 0, parallel=1) == 75


def test_while_no_run_has_finished_the_speed_of_those_that_run_tells_the_time_left():
    assert time_left([at(25, 50.0), Report(Status.MISSING)], 1, parallel=1) == 150 + 2 * 200
    assert time_left([at(0, 0.0), Report(Status.MISSING)], 1, parallel=1) is None


def test_a_run_that_takes_longer_than_the_others_is_believed_its_own_speed():
    assert time_left([done(100.0), at(50, 200.0)], 0, parallel=1) == 200


def test_the_time_left_is_unknown_while_nothing_runs_or_nothing_is_known():
    assert time_left([done(100.0), Report(Status.MISSING)], 0, parallel=0) is None
    assert time_left([Report(Status.MISSING)], 5, parallel=2) is None


def test_the_total_row_sums_up_and_waits_for_the_longest_sweep(
    make_planner, planner, runs, begin, finish, tmp_path, shown, capsys
):
    other = make_planner("name=other", "bayes.points=0", "seeds=[0]")
    more = [planned for trial in other.grid() for planned in trial.runs]
    for mine, planned in (*((planner, p) for p in runs), (other, more[0])):
        finish(planned)
        mine.folder.definition.write_text(dump_sweep(mine.sweep.definition))
    alone = SweepDir(tmp_path / "runs" / "alone").run(runs[0].signature)  # launch/train.py, outside a sweep
    alone.plan(runs[0].config)
    append_jsonl(alone.provenance_file, {"resumed_from_step": 0})
    write_json(alone.progress_file, {"step": 25, "steps": 100, "seconds": 36.0, "steps_redone": 75})
    with alone.lock() as acquired:
        assert acquired and status.main([str(tmp_path / "runs"), "--json"]) == 0
        content = json.loads(capsys.readouterr().out)
        out = shown()
    left = {sweep["name"]: sweep["eta_seconds"] for sweep in content["sweeps"]}
    assert left == {"s": 0, "other": None, "alone": pytest.approx(9.0 * 3)}
    total = content["total"]
    assert (total["counts"]["done"], total["counts"]["running"], total["counts"]["missing"]) == (9, 1, 3)
    assert (total["total"], total["eta_seconds"], total["eta_unknown"]) == (8 + 4 + 1, pytest.approx(27.0), 1)
    assert total["hours_used"] == pytest.approx(0.1) and total["hours_lost"] == pytest.approx(0.0075)
    (row,) = [line.split() for line in out.splitlines() if line.startswith("total")]
    assert row == ["total", "9", "1", "0", "0", "0", "3", "13", "0.100", "0.0075", ">27", "s"]


@pytest.mark.parametrize("columns", [80, 120])
def test_the_table_fits_a_terminal_and_cuts_no_number(planner, runs, begin, fail, shown, columns):
    begin(runs[0], step=10, seconds=4e6)
    fail(runs[1])
    runs[2].run.plan(runs[2].config)
    write_json(runs[2].run.failed_file, {"exception": "E"})
    out = shown(columns)
    assert max(map(len, out.splitlines()[:4])) <= columns and "…" not in out
    head = out[: out.index("\ns ")].split()
    assert head[-4:] == ["of", "hours", "lost", "left"] and {"sweep", "done", "queued", "failed", "retry"} <= set(head)
    (row,) = [line.split() for line in out.splitlines() if line.startswith("s ")]
    assert {"1,111", "8", "unknown"} <= set(row)


# --- failures ------------------------------------------------------------------------------------


def test_a_failed_run_is_shown_with_its_reason_and_the_end_of_its_log(planner, survey, runs, finish, fail, told, shown):
    for planned in runs[:2]:
        finish(planned, accuracy=0.75)
    bad = runs[2]
    fail(bad)
    bad.run.log_file.write_text("first\nlast words\n")
    found = survey()
    write_selection(planner.folder, selection(planner.sweep, list(found.outcomes.values())))
    sweep, _ = told()
    assert (sweep["total"], sweep["counts"]["done"], sweep["counts"]["failed"], sweep["counts"]["missing"]) == (
        8, 2, 1, 5,
    )  # fmt: skip
    assert sweep["failures"] == [
        {
            "run": bad.signature,
            "reason": "ValueError: broken at step 4 (3 times)",
            "log": str(bad.run.log_file),
            "last_lines": ["first", "last words"],
        }
    ]
    assert sweep["best"]["objectives"]["val/accuracy"]["mean"] == 0.75 and sweep["best"]["n"] == 2
    out = shown(200)
    assert "last words" in out and "lambda_gp=1" in out and "val/accuracy 0.7500" in out
    finish(runs[3])
    os.utime(runs[3].run.result_file, (2e9, 2e9))
    assert "1 runs have ended since" in shown(200)
    assert failure_lines(planner.sweep, survey())[-3:] == ["  | first", "  | last words", f"  log: {bad.run.log_file}"]


def test_a_run_that_never_began_is_shown_with_the_end_of_its_jobs_stderr(planner, survey, runs, told):
    bad = runs[0]
    bad.run.plan(bad.config)
    for _ in range(3):
        record = submitted(planner.folder, intend(planner.folder, "slurm", [(bad.signature, 0)]), ["7"])
        stderr = planner.folder.jobs / record.nonce / "7_0_log.err"
        stderr.parent.mkdir(parents=True)
        stderr.write_text("loading modules\nno such module: cuda\n")
    (failure,) = told()[0]["failures"]
    assert failure["last_lines"] == ["loading modules", "no such module: cuda"]
    assert failure["log"].endswith("7_0_log.err") and "its job ended 3 times before the run began" in failure["reason"]


def test_a_failure_says_its_step_once(runs, fail):
    fail(runs[0], exception="NonFiniteError", message="critic/wasserstein is not finite at step 4")
    found = report(runs[0].run, None, 2, History())
    assert found.reason == "NonFiniteError: critic/wasserstein is not finite at step 4 (3 times)"


@pytest.mark.parametrize(
    ("second", "state"),
    [
        ({}, Status.FAILED),
        ({"device": "cuda"}, Status.RETRY),
        ({"step": 5, "message": "critic is not finite at step 5"}, Status.RETRY),
        ({"exception": "ValueError"}, Status.RETRY),
    ],
)
def test_numbers_that_stop_being_finite_twice_at_one_step_of_a_cpu_are_not_tried_a_third_time(
    runs, begin, second, state
):
    first = {"exception": "NonFiniteError", "message": "critic is not finite at step 4", "step": 4, "device": "cpu"}
    planned = runs[0]
    begin(planned)
    write_json(planned.run.failed_file, first)
    assert report(planned.run, None, 5, History()).status is Status.RETRY
    append_jsonl(planned.run.failures_file, first)
    write_json(planned.run.failed_file, first | second)
    found = report(planned.run, None, 5, History())
    assert found.status is state and ("twice the same" in found.reason) is (state is Status.FAILED)


# --- watching ------------------------------------------------------------------------------------


def watching(folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "launch" / "status.py"), str(folder), "--watch", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_watch_ends_with_one_line(tmp_path, runs, finish, number, code):
    finish(runs[0])
    process = watching(tmp_path / "runs")
    for line in process.stdout:
        if line.startswith("s "):
            break
    process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code and said.count("\n") == 1 and "stopped" in said


def test_a_watch_in_json_is_one_object_a_line(tmp_path, runs, finish):
    finish(runs[0])
    process = watching(tmp_path / "runs", "--json")
    looks = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.kill()
    process.communicate()
    assert looks[0] == looks[1] and looks[0]["total"]["counts"]["done"] == 1


def test_a_watch_reads_a_finished_run_once_and_sees_it_replaced_or_removed(tmp_path, runs, finish, monkeypatch):
    finish(runs[0])
    finish(runs[1])
    read = []
    monkeypatch.setattr(sights, "report", lambda run, *rest: read.append(run.signature) or report(run, *rest))
    watcher = Watcher(tmp_path / "runs")
    for _ in range(2):
        assert watcher.look()[0].counts["done"] == 2
    assert [read.count(planned.signature) for planned in runs[:2]] == [1, 1]
    runs[0].run.result_file.write_text("{")
    runs[1].run.result_file.unlink()
    counts = watcher.look()[0].counts
    assert (counts["done"], counts["unreadable"]) == (0, 1)
