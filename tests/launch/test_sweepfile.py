import pytest

from genxai.errors import UsageError
from launch.sweepfile import Axis, clamp, dump_sweep, find_sweep, load_sweep


def test_the_shipped_sweeps_are_valid_and_have_the_points_they_claim():
    assert (len(load_sweep(find_sweep(None)).grid), load_sweep(find_sweep("lambda")).trial_count) == (16, 28)
    assert load_sweep(find_sweep("quickstart")).trial_count == 6


def test_the_grid_holds_each_combination_once_in_file_order(sweep_file):
    grid = load_sweep(sweep_file).grid
    assert [tuple(point.values()) for point in grid] == [(1.0, 0.0), (1.0, 1.0), (10.0, 0.0), (10.0, 1.0)]


def test_overrides_reach_the_sweep_its_space_and_the_base(sweep_file):
    sweep = load_sweep(
        sweep_file, ["seeds=[5]", "bayes.points=1", "train.epochs=7", "space.objective.lambda_gp.grid=[3]"]
    )
    assert sweep.definition.seeds == (5,) and sweep.trial_count == 3
    assert sweep.base.train.epochs == 7
    assert {point["objective.lambda_gp"] for point in sweep.grid} == {3.0}


def test_a_relative_base_is_relative_to_the_sweep_file(tmp_path, sweep_file, monkeypatch):
    (tmp_path / "mine.yaml").write_text("train: {epochs: 9}")
    sweep_file.write_text(sweep_file.read_text().replace("base: tiny", "base: mine.yaml"))
    monkeypatch.chdir("/")
    assert load_sweep(sweep_file).base.train.epochs == 9


def test_the_dumped_definition_is_the_same_sweep(sweep_file, tmp_path):
    sweep = load_sweep(sweep_file, ["seeds=[4, 5]"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_sweep(sweep.definition))
    assert load_sweep(again).definition == sweep.definition


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["space.objective.lambda_gq.grid=[1]"], ["s.yaml", "objective.lambda_gq", "objective.lambda_gp"]),
        (["space.objective.lambda_bias.grid=[-1]"], ["s.yaml", "lambda_bias", "-1", ">= 0"]),
        (["space.objective.lambda_bias.low=0"], ["low > 0"]),
        (["space.objective.lambda_bias.low=20"], ["low must be smaller"]),
        (["space.objective.lambda_gp.grid=[1, 1.0]"], ["twice"]),
        (["space.model.fusion.low=1", "space.model.fusion.high=2"], ["only numbers have a range"]),
        (["space.objective.grid=[1]"], ["cannot be searched"]),
        (["space.run.log_every.grid=[1]"], ["cannot be searched"]),
        (["objective.lambda_gp=3"], ["command line", "searched"]),
        (["space={}", "bayes.points=0"], ["no points"]),
        (["seeds=[1, 1]"], ["twice"]),
        (["seeds=[]"], ["seeds"]),
        (["bayes.sampler=cma"], ["'tpe', 'gp'"]),
        (["train.epoch=3"], ["command line", "train.epoch", "train.epochs"]),
        (["retrys=3"], ["retrys"]),
        (["name=" + "n" * 300], ["command line", "name", "at most 200 characters"]),
        (["base=tinny"], ["tinny"]),
    ],
)
def test_a_wrong_sweep_is_one_message_that_names_what_is_wrong(sweep_file, overrides, words):
    with pytest.raises(UsageError) as caught:
        load_sweep(sweep_file, overrides)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_missing_file_and_an_unknown_key_in_it_are_named(tmp_path, sweep_file):
    with pytest.raises(UsageError, match=r"nowhere\.yaml: no such sweep file"):
        load_sweep(tmp_path / "nowhere.yaml")
    sweep_file.write_text(sweep_file.read_text() + "seed: [1]\n")
    with pytest.raises(UsageError, match=r"unknown key 'seed'.*nearest key is 'seeds'"):
        load_sweep(sweep_file)


def test_values_for_a_sampler_lie_inside_the_range_with_four_digits():
    axis = Axis(low=0.001, high=10, log=True)
    assert [clamp(axis, value) for value in (0.0, 99.0, 1.234567)] == [0.001, 10.0, 1.235]
    assert clamp(Axis(low=1.5, high=4.5), 9) == 4


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("{metric: test/accuracy}", "'test/accuracy' cannot select: points are selected on validation data"),
        ("{metric: vall/accuracy}", "'vall/accuracy' cannot select"),
        ("{metric: generator/fid, direction: minimize}", "'generator/fid' cannot select"),  # against test images
        ("{metric: val/ece}", "val/ece is better when small: direction: minimize"),
        ("{metric: generator/bias_gap}", "generator/bias_gap is better when small"),
    ],
)
def test_only_validation_data_select_a_point_and_the_right_end_of_it(objective, said):
    with pytest.raises(UsageError) as caught:
        load_sweep(find_sweep("quickstart"), [f"objectives=[{objective}]"])
    assert said in str(caught.value)


def test_what_is_better_when_small_may_be_minimised():
    chosen = "objectives=[{metric: val/ece, direction: minimize}, {metric: generator/bias_gap, direction: minimize}]"
    assert len(load_sweep(find_sweep("quickstart"), [chosen]).definition.objectives) == 2


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("rows.nope.seeds=[0]", "there is no row 'nope'; rows are visual_only, "),
        ("seed=3", "a sweep has `seeds`"),
        ("origin.trial=3", "origin is each run's own"),
    ],
)
def test_an_override_of_what_is_not_there_is_no_new_row_and_not_ignored(override, said):
    with pytest.raises(UsageError) as caught:
        load_sweep(find_sweep("table2"), [override])
    assert said in str(caught.value)


def test_a_key_that_is_there_twice_is_named_with_its_line(tmp_path):
    file = tmp_path / "twice.yaml"
    file.write_text("base: tiny\nspace: {train.lr: {grid: [0.1]}}\nseeds: [0]\nseeds: [1]\n")
    with pytest.raises(UsageError, match=r"the key 'seeds' is there twice.*line 4"):
        load_sweep(file)
