import random
import shutil

import pytest

from genxai.files import write_json
from launch.attempts import Live, Status
from launch.outcomes import non_dominated, outcome, pareto_front, scaled_sums, select
from launch.plan import remembered, wanted_runs
from launch.survey import Surveyor, affordable


def look(planner, trials=None, live=None, submissions=()):
    trials = trials if trials is not None else {t.number: t for t in planner.grid()}
    return Surveyor(planner).look(trials, live or {}, submissions)


def test_a_grid_point_has_one_run_per_seed_in_the_folder_of_its_signature(make_planner, tmp_path):
    trials = make_planner().grid()
    runs = wanted_runs(trials)
    assert len(runs) == 8 and [p.config.seed for p in trials[0].runs] == [0, 1]
    assert all(p.run.path == tmp_path / "runs" / "s" / p.signature for p in runs.values())


def test_what_the_sweep_calls_a_run_does_not_change_its_signature(make_planner):
    planner = make_planner()
    point = planner.sweep.grid[0]
    as_grid, as_bayes = planner.trial(0, "grid", point), planner.trial(17, "bayes", point)
    assert [p.signature for p in as_grid.runs] == [p.signature for p in as_bayes.runs]


def test_a_run_that_two_trials_want_is_computed_once_and_counts_for_both(make_planner, finish):
    planner = make_planner()
    trials = {t.number: t for t in planner.grid()}
    trials[4] = planner.trial(4, "bayes", planner.sweep.grid[0])
    for planned in trials[0].runs:
        finish(planned)
    survey = look(planner, trials)
    assert len(survey.runs) == 8
    assert survey.outcomes[4].state == survey.outcomes[0].state == "complete"


def test_one_of_the_k_directories_recovers_a_bayesian_trial(make_planner):
    planner = make_planner()
    trial = planner.trial(5, "bayes", {"objective.lambda_gp": 2.5, "objective.lambda_bias": 0.031})
    for planned in trial.runs:
        planned.run.plan(planned.config)
    shutil.rmtree(trial.runs[0].run.path)
    assert planner.recover() == {5: trial}


def test_a_bayesian_trial_is_recovered_by_a_seed_that_the_sweep_no_longer_wants(make_planner):
    point = {"objective.lambda_gp": 2.5, "objective.lambda_bias": 0.031}
    old = make_planner().trial(5, "bayes", point)
    old.runs[1].run.plan(old.runs[1].config)
    planner = make_planner("seeds=[7, 8]")
    assert planner.recover() == {5: planner.trial(5, "bayes", point)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("trial: 5", "trial: -5"),
        ("trial: 5", "trial: [5"),
        ("trial: 5", "trial: five"),
        ("stage: bayes", "stage: grid"),
        ("lambda_gp: 2.5", "lambda_gp: -2.5"),
        ("lambda_gp: 2.5", "lambda_pg: 2.5"),
        ("seed: 0", "seed: 1"),
        ("origin:", "origin: " + "[" * 5000),
        ("origin:", "# " + "x" * 20_000 + "\norigin:"),
        ("objective.lambda_bias: 0.031", "objective.lambda_bias: 0.031\n# " + "x" * 20_000),
    ],
)
def test_a_configuration_that_no_trial_of_today_has_is_no_memory_of_one(make_planner, old, new):
    planner = make_planner()
    planned = planner.trial(5, "bayes", {"objective.lambda_gp": 2.5, "objective.lambda_bias": 0.031}).runs[0]
    planned.run.plan(planned.config)
    head, origin, tail = planned.run.config_file.read_text().rpartition("\norigin:")
    text = head.replace(old, new) + (origin + tail).replace(old, new)
    assert text != head + origin + tail
    planned.run.config_file.write_text(text)
    assert planner.recover() == {}


def test_a_run_that_the_grid_knows_is_skipped_by_its_name(make_planner, finish):
    planner = make_planner()
    grid = planner.grid()
    for trial in grid:
        for planned in trial.runs:
            finish(planned)
    known = {planned.signature for trial in grid for planned in trial.runs}
    assert {signature for signature, _ in remembered(planner.folder)} == known
    assert list(remembered(planner.folder, known)) == []


def test_runs_of_another_definition_in_the_same_folder_are_left_alone(make_planner):
    planned = make_planner("train.epochs=9").trial(5, "bayes", {"objective.lambda_gp": 2.5, "objective.lambda_bias": 1})
    planned.runs[0].run.plan(planned.runs[0].config)
    assert make_planner().recover() == {}
    assert set(make_planner("train.epochs=9").recover()) == {5}


def test_finished_bayesian_trials_survive_a_larger_grid(make_planner):
    point = {"objective.lambda_gp": 2.5, "objective.lambda_bias": 0.031}
    old = make_planner().trial(5, "bayes", point)
    old.runs[0].run.plan(old.runs[0].config)
    grown = make_planner("space.objective.lambda_gp.grid=[1, 3, 10]")
    found = grown.recover()
    assert list(found) == [6] and found[6].point == point
    assert found[6].runs[0].signature == old.runs[0].signature


def test_a_trial_is_open_until_all_seeds_are_done_then_has_mean_and_sample_sd(make_planner, finish):
    planner = make_planner()
    first = planner.grid()[0]
    finish(first.runs[0], accuracy=0.8)
    assert look(planner).outcomes[0].state == "open"
    finish(first.runs[1], accuracy=0.6)
    told = look(planner).outcomes[0]
    assert told.state == "complete" and told.n == 2
    assert abs(told.means[0] - 0.7) < 1e-12 and abs(told.sds[0] - 0.02**0.5) < 1e-12


def test_a_trial_without_a_finite_objective_fails_with_the_reason(make_planner, finish):
    planner = make_planner()
    for planned in planner.grid()[0].runs:
        finish(planned, accuracy=None)
    told = look(planner).outcomes[0]
    assert told.state == "failed" and "no value of val/accuracy" in told.reasons[0]


def test_failures_up_to_the_limit_are_retried_and_one_more_is_final(make_planner):
    planner = make_planner("retries=1")
    planned = planner.grid()[0].runs[0]
    planned.run.plan(planned.config)
    write_json(planned.run.failed_file, {"exception": "ValueError", "message": "no", "step": 7})
    assert look(planner).reports[planned.signature].status is Status.RETRY
    planned.run.failures_file.write_text('{"exception": "ValueError"}\n')
    report = look(planner).reports[planned.signature]
    assert report.status is Status.FAILED and report.reason == "ValueError: no at step 7 (2 times)"


def test_a_run_that_keeps_dying_at_one_step_fails_but_one_that_advances_does_not(make_planner):
    planner = make_planner("retries=1")
    planned = planner.grid()[0].runs[0]
    planned.run.plan(planned.config)
    planned.run.provenance_file.write_text("".join(f'{{"resumed_from_step": {s}}}\n' for s in (0, 5, 9)))
    assert look(planner).reports[planned.signature].status is Status.STOPPED
    planned.run.provenance_file.write_text("".join(f'{{"resumed_from_step": {s}}}\n' for s in (0, 5, 5, 5)))
    report = look(planner).reports[planned.signature]
    assert report.status is Status.FAILED and "died 3 times at step 5" in report.reason
    alive = look(planner, live={planned.signature: Live(Status.RUNNING)}).reports[planned.signature]
    assert alive.status is Status.RUNNING


def test_the_pareto_front_and_the_stated_rule(make_planner, complete):
    planner = make_planner()
    objectives = planner.sweep.definition.objectives
    grid = planner.grid()
    outcomes = [complete(t, *v) for t, v in zip(grid, [(0.0, 1.0), (1.0, 0.0), (0.8, 0.8), (0.7, 0.8)], strict=True)]
    assert [o.trial.number for o in pareto_front(outcomes, objectives)] == [0, 1, 2]
    assert scaled_sums(outcomes, objectives) == {0: 1.0, 1: 1.0, 2: 1.6, 3: 1.5}
    assert select(outcomes, objectives).trial.number == 2
    assert select(outcomes[:2], objectives).trial.number == 0  # a tie


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_the_front_is_what_nothing_dominates_whatever_the_number_of_objectives_and_ties(objectives):
    values = random.Random(objectives)
    for size in [0, 1, *[40] * 60]:
        levels = values.choice([2, 5, 1000])  # few levels: ties in one coordinate, and whole points twice
        points = [tuple(values.randrange(levels) / 7 - 1 for _ in range(objectives)) for _ in range(size)]
        expected = {
            p for p in points if not any(all(a >= b for a, b in zip(q, p, strict=True)) and q != p for q in points)
        }
        assert non_dominated(points) == expected


def test_equal_trials_share_the_front_and_a_minimised_objective_is_turned_round(make_planner, complete):
    planner = make_planner(
        "objectives=[{metric: val/loss, direction: minimize}, {metric: val/accuracy, direction: maximize}]"
    )
    objectives = planner.sweep.definition.objectives
    grid = planner.grid()
    outcomes = [complete(grid[0], 1.0, 0.5), complete(grid[1], 1.0, 0.5), complete(grid[2], 2.0, 0.5)]
    assert [o.trial.number for o in pareto_front(outcomes, objectives)] == [0, 1]


def test_the_budget_counts_runs_in_flight_and_lets_one_point_go_ahead_to_learn_the_cost(make_planner, finish):
    planner = make_planner()
    assert affordable(look(planner), 1.0, 8) == 2  # one point of two seeds
    runs = list(wanted_runs(planner.grid()).values())
    finish(runs[0])  # 0.01 device-hours
    survey = look(planner, live={runs[1].signature: Live(Status.RUNNING)})
    assert affordable(survey, 0.05, 7) == 3
    assert affordable(survey, None, 7) == 7


def test_totals_follow_the_files(make_planner, finish):
    planner = make_planner()
    finish(planner.grid()[0].runs[0])
    survey = look(planner)
    assert (survey.total, survey.count(Status.DONE), survey.count(Status.MISSING)) == (14, 1, 13)
    assert abs(survey.hours_to_come - 13 * 0.01) < 1e-12 and not survey.complete


def test_an_edited_and_a_removed_result_are_noticed_by_a_reconciler_that_has_read_them(make_planner, finish):
    planner = make_planner()
    trial = planner.grid()[0]
    for planned in trial.runs:
        finish(planned, accuracy=0.5)
    surveyor = Surveyor(planner)
    assert surveyor.look({0: trial}, {}, ()).outcomes[0].means[0] == 0.5
    file = trial.runs[0].run.result_file
    file.write_text(file.read_text().replace('"val/accuracy": 0.5', '"val/accuracy": 0.7'))
    assert abs(surveyor.look({0: trial}, {}, ()).outcomes[0].means[0] - 0.6) < 1e-12
    file.unlink()
    survey = surveyor.look({0: trial}, {}, ())
    assert survey.outcomes[0].state == "open"
    assert survey.reports[trial.runs[0].signature].status is Status.MISSING


def test_a_survey_with_one_before_it_looks_at_added_trials_only_and_says_the_same(make_planner, finish):
    planner = make_planner()
    trials = {trial.number: trial for trial in planner.grid()}
    finish(trials[0].runs[0])
    surveyor = Surveyor(planner)
    before = surveyor.look(trials, {}, ())
    trials[4] = planner.trial(4, "bayes", {"objective.lambda_gp": 2.5, "objective.lambda_bias": 0.031})
    finish(trials[4].runs[1])
    assert surveyor.look(trials, {}, (), before) == surveyor.look(trials, {}, ())
    finish(trials[0].runs[1])  # later than `before`
    assert surveyor.look(trials, {}, (), before).outcomes[0].state == "open"


def test_outcome_of_an_unfinished_trial_has_no_means(make_planner):
    planner = make_planner()
    survey = look(planner)
    told = outcome(planner.grid()[0], survey.reports, planner.sweep.definition.objectives)
    assert told.means == () and not told.ended
