import pytest

from launch.outcomes import Outcome
from launch.search import may_propose, propose, sampler_seed


@pytest.fixture
def told(make_planner, complete):
    """The planner and five complete outcomes: the grid and one Bayesian trial."""

    def make(*overrides):
        planner = make_planner(*overrides)
        trials = planner.grid()
        trials.append(planner.trial(4, "bayes", {"objective.lambda_gp": 5.0, "objective.lambda_bias": 0.2}))
        return planner, [complete(t, 0.5 + 0.1 * t.number, 0.9 - 0.1 * t.number) for t in trials]

    return make


def test_the_sampler_seed_depends_on_sweep_and_trial_only():
    assert sampler_seed("lambda", 16) == sampler_seed("lambda", 16)
    assert len({sampler_seed("lambda", 16), sampler_seed("lambda", 17), sampler_seed("other", 16)}) == 3


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.slow)])
def test_a_proposal_ignores_whether_later_trials_have_ended(told, sampler):
    planner, outcomes = told(f"bayes.sampler={sampler}")
    # window 2: trial 5 may know 0..3; trial 4 is running for it, whatever has become of it
    running = [*outcomes[:4], Outcome(outcomes[4].trial, "open")]
    assert propose(planner.sweep, outcomes, 5) == propose(planner.sweep, running, 5)


def test_a_proposal_depends_on_what_it_may_know_and_on_the_trial_that_is_running(told, complete):
    planner, outcomes = told()
    other = [complete(outcomes[0].trial, 0.95, 0.95), *outcomes[1:]]
    moved = [*outcomes[:4], Outcome(planner.trial(4, "bayes", planner.sweep.grid[3]), "open")]
    first = propose(planner.sweep, outcomes, 5)
    assert propose(planner.sweep, other, 5) != first
    assert propose(planner.sweep, moved, 5) != first


def test_proposals_lie_in_the_space_although_the_grid_does_not(told):
    planner, outcomes = told()  # lambda_bias = 0 is below the logarithmic range
    point = propose(planner.sweep, outcomes, 5)
    assert 0.3 <= point["objective.lambda_gp"] <= 100 and 0.001 <= point["objective.lambda_bias"] <= 10


def test_keys_without_a_range_are_choices_of_the_grid(told):
    planner, outcomes = told()
    planner, _ = told("space.model.fusion.grid=[early, cross]")
    trials = planner.grid()
    outcomes = [Outcome(t, "complete", (0.5, 0.1 * t.number), (0.1, 0.1), 2) for t in trials]
    point = propose(planner.sweep, outcomes, len(trials))
    assert point["model.fusion"] in ("early", "cross")


def test_a_trial_waits_for_exactly_the_trials_its_window_says(told):
    _, outcomes = told()
    still_open = Outcome(outcomes[3].trial, "open")
    assert may_propose(5, outcomes, window=2)
    assert not may_propose(5, [*outcomes[:3], still_open, outcomes[4]], window=2)
    assert may_propose(5, [*outcomes[:3], still_open, outcomes[4]], window=3)
    assert not may_propose(5, outcomes[:4], window=2)  # trial 4 is not even known


def test_a_failed_trial_does_not_stop_the_search(told):
    planner, outcomes = told()
    outcomes[2] = Outcome(outcomes[2].trial, "failed", reasons=("no",))
    assert set(propose(planner.sweep, outcomes, 5)) == set(planner.sweep.definition.space)
