"""What rows choose, and what becomes of them: passes of the reconciler, with jobs that end when the test says so."""

import json
import random

import pytest
import yaml
from ending_jobs import EndingJobs, Killed

from genxai.files import write_json
from genxai.runs import Run
from launch import status
from launch.attempts import Status
from launch.cost import sweep_jobs
from launch.display import as_json, conclusion, failure_lines, live_table, plan_lines
from launch.reconciler import Reconciler, all_trials, only_reconciler
from launch.rowdisplay import row_name
from launch.survey import Surveyor

GP, RHO = "objective.lambda_gp", "data.rho"
#: lambda_gp -> what validation and test data say of it; they disagree
VAL, BALANCED, TEST = (
    {1.0: 0.6, 10.0: 0.8, 50.0: 0.7},
    {1.0: 0.9, 10.0: 0.5, 50.0: 0.4},
    {1.0: 0.1, 10.0: 0.2, 50.0: 0.9},
)


def jobs_that(*, parallel=3, seed=0, val=VAL, test=TEST, broken=()) -> EndingJobs:
    """Jobs that end with these scores."""
    return EndingJobs(lambda planned: end(planned, val, test, broken), parallel, random.Random(seed))


def end(planned, val=VAL, test=TEST, broken=()):
    """The run is done, or has raised (often enough to be given up) if its lambda_gp is broken."""
    if not planned.run.config_file.exists():
        planned.run.plan(planned.config)
    gp = planned.config.objective.lambda_gp
    if gp in broken and planned.config.seed == 100:
        failure = {"exception": "ValueError", "message": f"broken at {gp:g}", "step": 3}
        planned.run.failures_file.write_text((json.dumps(failure) + "\n") * 3)
        write_json(planned.run.failed_file, failure)
        return
    metrics = {"val/accuracy": val[gp], "val_balanced/accuracy": BALANCED[gp], "test/accuracy": test[gp]}
    write_json(planned.run.result_file, {"metrics": metrics, "seconds": 36.0, "steps": 3})


def quiet(planner, jobs) -> Reconciler:
    return Reconciler(planner, jobs, note=lambda line: None)


def run_sweep(rows_planner, jobs, *overrides, interrupted=False) -> Reconciler:
    """The table, complete; `interrupted` starts anew for every pass."""
    reconciler = quiet(rows_planner(*overrides), jobs)
    for _ in range(300):
        try:
            if reconciler.run_pass()[0].complete:
                return reconciler
        except Killed:
            pass
        jobs.end_one()
        if interrupted:
            reconciler = quiet(rows_planner(*overrides), jobs)
    raise AssertionError("the sweep does not end")


def told(reconciler) -> dict:
    return yaml.safe_load(reconciler.planner.folder.selected.read_text())


def points(content) -> dict:
    """Row and setting -> the point that was run there."""
    return {(row["row"], row["setting"][RHO]): row.get("point") for row in content["rows"]}


# --- choosing ------------------------------------------------------------------------------------


def test_each_row_is_run_with_the_candidate_that_its_own_metric_likes_best(rows_planner):
    content = told(run_sweep(rows_planner, jobs_that()))
    chosen = {choice["row"]: (choice["chosen"], choice["split"], choice["state"]) for choice in content["choices"]}
    assert chosen == {
        "full": ({GP: 10.0}, "val", "complete"),
        "full_balanced": ({GP: 1.0}, "val_balanced", "complete"),
    }
    assert points(content) == {
        ("plain", 0.5): {RHO: 0.5, "objective.lambda_bias": 0.0},
        ("plain", 0.9): {RHO: 0.9, "objective.lambda_bias": 0.0},
        ("full", 0.5): {RHO: 0.5, GP: 10.0},
        ("full", 0.9): {RHO: 0.9, GP: 10.0},
        ("full_balanced", 0.9): {RHO: 0.9, GP: 1.0},
        ("placebo", 0.9): {RHO: 0.9, "explain.masks": "random", GP: 10.0},
    }


def test_selected_yaml_says_who_chose_what_by_which_runs_and_which_runs_followed(rows_planner):
    reconciler = run_sweep(rows_planner, jobs_that())
    content, runs = told(reconciler), {}
    for file in reconciler.planner.folder.path.glob("*/config.yaml"):
        runs[file.parent.name] = Run(file.parent).config()
    full = content["choices"][0]
    assert (content["sweep"], full["by"], full["setting"]) == ("r", "val/accuracy", {RHO: 0.9})
    assert [(c["point"], c["mean"], c["sd"], c["n"]) for c in full["candidates"]] == [
        ({GP: value}, VAL[value], None, 1) for value in (1.0, 10.0, 50.0)
    ]
    assert [runs[c["runs"][0]].seed for c in full["candidates"]] == [100, 100, 100]
    placebo = content["rows"][-1]
    assert (placebo["like"], placebo["chosen_at"], placebo["seeds"]) == ("full", {RHO: 0.9}, [0, 1])
    origins = [runs[name].origin for name in placebo["runs"]]
    assert {(o.stage, o.row, o.trial) for o in origins} == {("row", "placebo", 11)}
    assert [runs[name].seed for name in placebo["runs"]] == [0, 1]
    assert all(runs[name].explain.masks == "random" for name in placebo["runs"])
    assert not reconciler.planner.folder.journal.exists()


def test_test_data_choose_nothing(rows_planner, tmp_path):
    first = run_sweep(rows_planner, jobs_that()).planner.folder
    before = first.selected.read_bytes()
    first.path.rename(tmp_path / "first")
    permuted = run_sweep(rows_planner, jobs_that(test={1.0: 0.9, 10.0: 0.1, 50.0: 0.2})).planner.folder
    assert permuted.selected.read_bytes() == before
    permuted.path.rename(tmp_path / "second")
    other = told(run_sweep(rows_planner, jobs_that(val={1.0: 0.6, 10.0: 0.7, 50.0: 0.8})))
    assert other["choices"][0]["chosen"] == {GP: 50.0}


def test_the_first_candidate_in_the_files_order_wins_a_tie(rows_planner):
    tied = {1.0: 0.6, 10.0: 0.8, 50.0: 0.8}
    assert told(run_sweep(rows_planner, jobs_that(val=tied)))["choices"][0]["chosen"] == {GP: 10.0}
    words = "rows.full.choose.space.objective.lambda_gp=[50, 10, 1]"
    assert told(run_sweep(rows_planner, jobs_that(val=tied), words, "name=s"))["choices"][0]["chosen"] == {GP: 50.0}


def test_the_mean_over_the_selection_seeds_chooses(rows_planner):
    reconciler = quiet(rows_planner("selection_seeds=[100, 101]"), jobs_that())
    scores = {1.0: (0.9, 0.1), 10.0: (0.6, 0.5), 50.0: (0.2, 0.2)}
    for trial in reconciler.trials.values():
        for planned, value in zip(trial.runs, scores[planned_gp(trial)], strict=True):
            end(planned, val={planned.config.objective.lambda_gp: value})
    reconciler.run_pass()
    choice = told(reconciler)["choices"][0]
    assert choice["chosen"] == {GP: 10.0} and [c["n"] for c in choice["candidates"]] == [2, 2, 2]
    assert [round(c["sd"], 4) for c in choice["candidates"]] == [0.5657, 0.0707, 0.0]


def planned_gp(trial) -> float:
    return trial.point[GP]


def test_nothing_is_chosen_while_a_candidate_is_open_and_its_rows_count_as_missing(rows_planner):
    reconciler = quiet(rows_planner(), jobs_that())
    for number in (0, 1):
        end(reconciler.trials[number].runs[0])
    survey, _ = reconciler.run_pass()
    content = told(reconciler)
    assert content["choices"][0]["state"] == "open" and "chosen" not in content["choices"][0]
    assert points(content)["full", 0.9] is None and "runs" not in content["rows"][2]
    assert points(content)["plain", 0.9] is not None  # which chooses nothing and is run at once
    # full 2 x 3, full_balanced 2 and placebo 2 are not known yet; 3 shared candidates and plain are
    assert (survey.unplanned, survey.total) == (10, 10 + 3 + 4)
    assert survey.count(Status.MISSING) == 10 + 1 + 4 and not survey.complete


def test_rows_that_choose_among_the_same_candidates_share_their_runs(rows_planner):
    jobs = jobs_that()
    content = told(run_sweep(rows_planner, jobs))
    by_row = [[c["runs"] for c in choice["candidates"]] for choice in content["choices"]]
    assert by_row[0] == by_row[1]
    assert len(jobs.submitted) == len(set(jobs.submitted)) == 3 + 4 + 6 + 2 + 2


def test_a_failed_candidate_is_left_out_with_its_reason(rows_planner):
    reconciler = run_sweep(rows_planner, jobs_that(broken=(10.0,)))
    content = told(reconciler)
    assert content["choices"][0]["chosen"] == {GP: 50.0}
    assert "broken at 10" in content["choices"][0]["candidates"][1]["failed"]
    lines = failure_lines(reconciler.planner.sweep, reconciler.look())
    assert lines[0] == "full, rho 0.9, trying lambda_gp=10 failed:"


def test_a_row_without_a_candidate_left_fails_with_the_reasons_and_the_others_go_on(rows_planner):
    reconciler = run_sweep(rows_planner, jobs_that(broken=(1.0, 10.0, 50.0)))
    survey, content = reconciler.look(), told(reconciler)
    assert {choice["state"] for choice in content["choices"]} == {"failed"}
    failed = [row for row in content["rows"] if "failed" in row]
    assert [row["row"] for row in failed] == ["full", "full", "full_balanced", "placebo"]
    assert all("broken at 1 " in row["failed"] and "broken at 50" in row["failed"] for row in failed)
    assert survey.complete and survey.total == survey.count(Status.DONE, Status.FAILED) == 3 + 4
    assert "full, rho 0.5 failed:" in failure_lines(reconciler.planner.sweep, survey)


def test_failed_candidates_that_are_given_another_chance_choose_anew(rows_planner):
    reconciler = run_sweep(rows_planner, jobs_that(broken=(10.0,)))
    again = quiet(rows_planner(), jobs_that())
    again.retry_failed()
    for _ in range(30):
        if again.run_pass()[0].complete:
            break
        again.executor.end_one()
    assert told(reconciler)["choices"][0]["chosen"] == {GP: 10.0}
    assert again.look().failed_trials() == []


def test_failed_rows_whose_choice_had_a_failed_candidate_are_given_another_chance_as_well(rows_planner):
    val = {1.0: 0.6, 10.0: 0.1, 50.0: 0.7}
    reconciler = run_sweep(rows_planner, jobs_that(val=val, broken=(10.0,)))
    (first, *_) = next(t for t in reconciler.look().trials.values() if t.row == "placebo").runs
    first.run.result_file.unlink()
    first.run.failures_file.write_text('{"exception": "ValueError"}\n' * 3)
    write_json(first.run.failed_file, {"exception": "ValueError"})
    assert reconciler.look().reports[first.signature].status is Status.FAILED
    reconciler.retry_failed()
    reconciler.retry_failed()  # as a sweep does it: before the lock, and again with it
    assert first.signature not in reconciler.look().reports  # nobody knows yet what will be chosen
    end(reconciler.trials[1].runs[0], val=val)
    assert reconciler.look().reports[first.signature].status is Status.RETRY


def test_a_metric_that_no_run_has_ends_the_sweep_with_the_names_there_are(rows_planner):
    from genxai.errors import GenxaiError

    with pytest.raises(GenxaiError, match=r"rows\.full\.choose\.by.*val/acuracy.*val/accuracy"):
        run_sweep(rows_planner, jobs_that(), "rows.full.choose.by=val/acuracy")


# --- kills ---------------------------------------------------------------------------------------


@pytest.fixture
def undisturbed(rows_planner, tmp_path):
    """selected.yaml of the table run one after the other; its folder is gone."""
    folder = run_sweep(rows_planner, jobs_that(parallel=1)).planner.folder
    content = folder.selected.read_bytes()
    (tmp_path / "runs").rename(tmp_path / "undisturbed")
    return content


@pytest.mark.parametrize(("parallel", "seed"), [(1, 1), (3, 2), (20, 3)])
def test_a_table_started_anew_at_every_pass_and_killed_between_ends_as_an_undisturbed_one(
    rows_planner, undisturbed, monkeypatch, parallel, seed
):
    moments, plan = random.Random(seed), Run.plan

    def plan_or_die(run, config):
        if moments.random() < 0.1:  # before anything is submitted, with some directories planned
            raise Killed
        plan(run, config)

    monkeypatch.setattr(Run, "plan", plan_or_die)
    jobs = jobs_that(parallel=parallel, seed=seed)
    reconciler = run_sweep(rows_planner, jobs, interrupted=True)
    assert reconciler.planner.folder.selected.read_bytes() == undisturbed
    assert len(jobs.submitted) == len(set(jobs.submitted)) == 17


def test_the_choice_is_read_off_the_finished_runs_and_nothing_else(rows_planner, tmp_path):
    folder = run_sweep(rows_planner, jobs_that()).planner.folder
    before = folder.selected.read_bytes()
    for file in folder.path.iterdir():
        if file.is_file():
            file.unlink()
    jobs = jobs_that()
    run_sweep(rows_planner, jobs)
    assert folder.selected.read_bytes() == before and jobs.submitted == []


# --- runs of other sweeps ------------------------------------------------------------------------


def test_a_run_that_another_sweep_has_finished_is_not_run_again_and_costs_nothing(rows_planner):
    run_sweep(rows_planner, jobs_that(), "name=other")
    jobs = jobs_that()
    reconciler = run_sweep(rows_planner, jobs, "reuse=[other]", "rows.placebo.set.revise.weight=2")
    survey = reconciler.look()
    assert len(jobs.submitted) == 2  # the placebo's, which is another one here
    assert len(survey.reused) == 15 and survey.hours_used == pytest.approx(0.02)
    ours = {trial.row for trial in survey.trials.values() for p in trial.runs if p.run.path.parent.name == "r"}
    assert ours == {"placebo"}


def test_a_run_that_another_sweep_has_begun_or_lost_is_run_here(rows_planner):
    other = run_sweep(rows_planner, jobs_that(), "name=other")
    lost, *_ = next(t for t in other.look().trials.values() if t.row == "plain").runs
    lost.run.result_file.unlink()
    jobs = jobs_that()
    reconciler = run_sweep(rows_planner, jobs, "reuse=[other]")
    assert jobs.submitted == [lost.signature]
    write_json(lost.run.result_file, {"metrics": {}})  # it goes on there: the one here is ours all the same
    assert lost.signature not in reconciler.look().reused


def test_without_reuse_another_sweeps_runs_are_not_looked_at(rows_planner):
    run_sweep(rows_planner, jobs_that(), "name=other")
    jobs = jobs_that()
    run_sweep(rows_planner, jobs)
    assert len(jobs.submitted) == 17


# --- what a person sees --------------------------------------------------------------------------


def test_the_plan_has_a_line_per_row_and_tells_selection_runs_from_row_runs(rows_planner):
    reconciler = quiet(rows_planner(), jobs_that())
    end(reconciler.trials[0].runs[0])
    lines = plan_lines(reconciler.planner.sweep, reconciler.look(), "local", 2)
    assert lines[0] == "sweep r: 4 rows in 2 settings, 2 choices: 3 selection runs + 14 row runs = 17 runs"
    (full,) = [line for line in lines if line.startswith("  full ")]
    assert "2 settings x 3 seeds =   6 runs, 0 done" in full
    assert "chooses lambda_gp by val/accuracy: 3 runs, 1 done" in full
    assert any("placebo" in line and line.endswith("like full") for line in lines)
    assert "16 missing" in " ".join(lines) and "about 0.160 device-hours to come" in " ".join(lines)


def test_rows_are_named_everywhere_and_no_trial_number_is(rows_planner):
    reconciler = quiet(rows_planner(), jobs_that(parallel=20))
    reconciler.run_pass()
    survey, sweep = reconciler.look(), reconciler.planner.sweep
    columns = live_table(sweep, survey, 20).renderables[0].columns
    assert [column.header for column in columns][:3] == ["row", "seed", "setting"]
    cells = list(zip(columns[0].cells, columns[2].cells, strict=True))
    assert ("full", "rho 0.9, trying lambda_gp=50") in cells and ("plain", "rho 0.5") in cells
    done = run_sweep(rows_planner, jobs_that(), "name=s")
    lines = conclusion(done.planner.sweep, done.look(), done.planner.folder.selected)
    assert lines[0] == "full, rho 0.9: chose lambda_gp=10, val/accuracy 0.8000, of 3 candidates"
    assert "2 of 2 choices made, 6 of 6 rows complete" in lines[2] and lines[3].endswith("selected.yaml")
    assert row_name("full", {"data.dataset": "mnist", RHO: 0.98}) == "full, mnist, rho 0.98"


def test_the_json_of_a_table_has_its_rows_with_their_states(rows_planner):
    reconciler = quiet(rows_planner(), jobs_that())
    before = as_json(reconciler.planner.sweep, reconciler.look(), 1)
    assert [row["state"] for row in before["rows"]] == ["open"] * 2 + ["waiting"] * 4
    assert (before["runs"]["total"], before["runs"]["missing"]) == (17, 17)
    for number in (0, 1, 2):
        end(reconciler.trials[number].runs[0])
    content = json.loads(json.dumps(as_json(reconciler.planner.sweep, reconciler.look(), 1)))
    assert content["selection_runs"] == {"total": 3, "done": 3} and content["row_runs"] == {"total": 14, "done": 0}
    assert {row["state"] for row in content["rows"]} == {"open"} and content["choices"][0]["chosen"] == {GP: 10.0}
    assert content["runs"]["missing"] == 14 and "best" not in content


def test_status_counts_runs_that_are_not_known_yet_and_names_rows(rows_planner, tmp_path, capsys):
    planner = rows_planner()
    reconciler = quiet(planner, jobs_that(broken=(10.0,), parallel=20))
    with only_reconciler(planner):
        reconciler.run_pass()
        seen = sight(tmp_path, capsys)
        assert (seen["total"], seen["counts"]["missing"]) == (17, 17)  # 7 of them lie there, planned
        assert seen["rows"] == {"choices": 2, "chosen": 0, "rows": 6, "complete": 0}
        for planned in reconciler.executor.alive:
            end(planned, broken=(10.0,))
        reconciler.executor.alive.clear()
        reconciler.run_pass()
    seen = sight(tmp_path, capsys)
    assert (seen["total"], seen["counts"]["failed"], seen["counts"]["done"]) == (17, 1, 6)
    assert seen["rows"] == {"choices": 2, "chosen": 2, "rows": 6, "complete": 2}
    assert [failure["row"] for failure in seen["failures"]] == ["full_balanced, rho 0.9, trying lambda_gp=10"]
    assert status.main([str(tmp_path / "runs")]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 choices made, 2 of 6 rows complete" in out and "(full_balanced, rho 0.9, trying lambda_gp=10)" in out


def sight(tmp_path, capsys) -> dict:
    assert status.main([str(tmp_path / "runs"), "--json"]) == 0
    return json.loads(capsys.readouterr().out)["sweeps"][0]


@pytest.mark.parametrize("content", [b"", b"[1]", b"choices: [{row: 1}]\nrows: []\n", b"\xff", b"rows: 3", None])
def test_status_does_without_a_damaged_selection(rows_planner, tmp_path, capsys, content):
    planner = rows_planner()
    with only_reconciler(planner):
        quiet(planner, jobs_that()).run_pass()
    planner.folder.selected.unlink() if content is None else planner.folder.selected.write_bytes(content)
    seen = sight(tmp_path, capsys)
    assert seen["total"] == 6 + 14 and seen["rows"] is None  # shared runs cannot be told from the sweep file


def test_status_counts_what_another_sweep_has_finished(rows_planner, tmp_path, capsys):
    run_sweep(rows_planner, jobs_that(), "name=other")
    planner = rows_planner("reuse=[other]")
    with only_reconciler(planner):
        quiet(planner, jobs_that()).run_pass()
    assert status.main([str(tmp_path / "runs"), "--json"]) == 0
    (seen,) = [s for s in json.loads(capsys.readouterr().out)["sweeps"] if s["name"] == "r"]
    assert (seen["counts"]["done"], seen["counts"]["missing"], seen["total"], seen["hours_used"]) == (17, 0, 17, 0)
    assert seen["rows"]["complete"] == 6


def test_rows_that_wait_for_a_choice_are_charged_as_with_their_first_candidate(rows_planner):
    planner = rows_planner("rows.plain.set.objective.lambda_bias=0.2", "rows.placebo.set.explain.fraction=0.5")
    survey = Surveyor(planner).look(all_trials(planner), {}, ())
    jobs = sweep_jobs(planner, survey)
    assert sum(job.count for job in jobs) == survey.total == 17
    assert sorted((job.config.explain.fraction, job.count) for job in jobs) == [(0.1, 15), (0.5, 2)]
    assert all(job.at_once is None for job in jobs)
