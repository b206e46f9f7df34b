"""Run directories -> rows -> configurations: what counts, what is left out, and what is only counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from analysis.conditions import in_words, matches
from analysis.measured import load_runs
from analysis.sweeps import pareto_front
from genxai.errors import GenxaiError
from genxai.files import write_json
from genxai.runs import State


def test_a_row_holds_the_flat_configuration_and_the_metrics(runs: Any) -> None:
    run = runs.add({"model.fusion": "early", "objective.lambda_gp": 3}, {"test/accuracy": 0.5}, seed=4)
    row = load_runs(runs.path).frame.iloc[0]
    assert (row["signature"], row["folder"], row["state"]) == (run.signature, "demo", State.DONE)
    assert (row["model.fusion"], row["objective.lambda_gp"], row["seed"]) == ("early", 3.0, 4)
    assert row["data.captions.exact"] == 0.5
    assert row["test/accuracy"] == 0.5


def test_runs_that_differ_only_in_seed_name_or_execution_are_one_configuration(runs: Any) -> None:
    runs.add({}, {}, seed=0)
    runs.add({"run.log_every": 7}, {}, seed=1)
    runs.add({}, {}, seed=2, folder="elsewhere")
    runs.add({"train.lr": 0.5}, {}, seed=0)
    sizes = sorted(len(configuration.frame) for configuration in load_runs(runs.path).configurations())
    assert sizes == [1, 3]


def test_a_run_kept_in_two_folders_counts_once(runs: Any) -> None:
    for folder in ("one", "two"):
        runs.add({}, {"test/accuracy": 0.5}, folder=folder)
    (configuration,) = load_runs(runs.path).configurations()
    assert configuration.sample("test/accuracy").values == (0.5,)
    assert configuration.folders == {"one", "two"}


def test_a_finished_copy_of_a_run_stands_for_an_unfinished_one(runs: Any) -> None:
    runs.add({}, {"test/accuracy": 0.1}, folder="a", state="started")
    runs.add({}, {"test/accuracy": 0.9}, folder="b", state="done")
    (configuration,) = load_runs(runs.path).configurations()
    assert configuration.sample("test/accuracy").values == (0.9,)


@pytest.mark.parametrize("state", ["started", "failed", "pending"])
def test_an_unfinished_run_never_enters_a_mean(runs: Any, state: str) -> None:
    runs.add({}, {"test/accuracy": 0.8}, seed=0)
    runs.add({}, {"test/accuracy": 0.0}, seed=1, state=state)
    (configuration,) = load_runs(runs.path).configurations()
    sample = configuration.sample("test/accuracy", 100)
    assert (sample.mean, sample.n) == (80.0, 1)


def test_progress_counts_every_state_and_gives_the_reason_of_failures(runs: Any) -> None:
    for seed, state in enumerate(("done", "started", "failed", "pending")):
        runs.add({}, {}, seed=seed, state=state)
    (configuration,) = load_runs(runs.path).configurations()
    expected = "1/3 seeds done, 1 started, 1 failed, 1 planned (NonFiniteError: loss_critic)"
    assert configuration.progress() == expected


def test_seeds_asked_are_those_of_the_sweep_file_else_of_the_fullest_sibling_else_three(runs: Any) -> None:
    def trial(number: int) -> dict[str, Any]:
        return {"sweep": "s", "trial": number, "stage": "grid", "point": {"train.lr": float(number + 1)}}

    for number, count in ((0, 2), (1, 1)):
        for seed in range(count):
            runs.add({"train.lr": float(number + 1)}, {}, seed=seed, folder="s", origin=trial(number))
    runs.add({"train.lr": 9.0}, {}, folder="alone")
    asked = {c["train.lr"]: c.asked for c in load_runs(runs.path).configurations()}
    assert asked == {1.0: 2, 2.0: 2, 9.0: 3}
    runs.sweep_files("s", {"space": {"train.lr": {"grid": [1, 2]}}, "seeds": [0, 1, 2, 3, 4]}, None)
    asked = {c["train.lr"]: c.asked for c in load_runs(runs.path).configurations()}
    assert asked == {1.0: 5, 2.0: 5, 9.0: 3}


def test_a_metric_that_is_not_finite_is_left_out_with_its_reason(runs: Any) -> None:
    runs.add({}, {"test/accuracy": 0.5}, seed=0)
    runs.add({}, {"test/accuracy": float("nan")}, seed=1)
    (configuration,) = load_runs(runs.path).configurations()
    assert configuration.sample("test/accuracy").values == (0.5,)
    assert configuration.gaps("test/accuracy") == "No value in 1 of 2 finished runs: not a number."


def test_a_broken_run_directory_is_named_and_the_others_are_read(runs: Any) -> None:
    good = runs.add({}, {"test/accuracy": 0.5}, seed=0)
    torn = runs.add({}, {}, seed=1)
    torn.result_file.write_text('{"metrics": {')
    old = runs.add({}, {}, seed=2)
    old.config_file.write_text("no_such_option: 1\n")
    bare = runs.add({}, {}, seed=3)
    write_json(bare.result_file, {"seed": 3})
    results = load_runs(runs.path)
    assert list(results.frame["signature"]) == [good.signature]
    assert len(results.problems) == 3
    for run in (torn, old, bare):
        assert any(run.signature in problem for problem in results.problems)


@pytest.mark.parametrize(
    "content",
    [b"\x00\xff", b"[1, 2]", b"null", b"{}", b'{"metrics": 3}', b'{"metrics": {"test/accuracy": [1]}}', b"[" * 900],
)
@pytest.mark.parametrize("name", ["result.json", "FAILED.json", "config.yaml"])
def test_garbage_in_a_file_leaves_out_that_run_alone(runs: Any, name: str, content: bytes) -> None:
    good = runs.add({}, {"test/accuracy": 0.5}, seed=0)
    bad = runs.add({}, {}, seed=1, state="started")
    (bad.path / name).write_bytes(content)
    results = load_runs(runs.path)
    if (name == "FAILED.json" and content.startswith(b"{")) or (name == "config.yaml" and content == b"{}"):
        # nothing in them is needed
        assert len(results) == 2
        return
    assert list(results.frame["signature"]) == [good.signature]
    (problem,) = results.problems
    assert str(bad.path / name) in problem and len(problem) < 600


def test_a_metric_cannot_take_the_place_of_another_column(runs: Any) -> None:
    run = runs.add({}, {"state": 1.0, "path": 2.0, "train.lr": 3.0, "test/accuracy": 0.5})
    row = load_runs(runs.path).frame.iloc[0]
    assert (row["state"], row["path"], row["test/accuracy"]) == (State.DONE, str(run.path), 0.5)
    assert row["train.lr"] != 3.0


def test_a_run_whose_point_names_no_option_is_left_out(runs: Any) -> None:
    runs.add({}, {}, origin={"sweep": "s", "trial": 0, "stage": "grid", "point": {"no.such": 1}})
    results = load_runs(runs.path)
    assert len(results) == 0 and "origin.point" in results.problems[0]


def test_a_missing_folder_has_no_runs(tmp_path: Path) -> None:
    results = load_runs(tmp_path / "nothing")
    assert (len(results), results.configurations(), results.folders()) == (0, [], [])


def test_a_file_in_place_of_the_folder_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(GenxaiError, match=r"cannot read the runs.*--runs"):
        load_runs(tmp_path / "runs")


def test_questions_read_like_questions(runs: Any) -> None:
    runs.add({"model.fusion": "cross", "objective.lambda_attribution": 5}, {})
    runs.add({"model.fusion": "cross", "objective.lambda_attribution": 0}, {})
    runs.add({"model.fusion": "early"}, {}, folder="other")
    results = load_runs(runs.path)
    assert len(results.where({"model.fusion": "cross"})) == 2
    assert len(results.where({"model.fusion": "cross", "objective.lambda_attribution": {"gt": 0}})) == 1
    assert len(results.where({"model.fusion": ["cross", "early"]}).in_folder("demo")) == 2
    assert [len(part) for part in results.split_by(["model.fusion"])] == [2, 1]


@pytest.mark.parametrize(
    ("value", "condition", "expected"),
    [
        (0.1, {"gt": 0}, True),
        (0.0, {"gt": 0}, False),
        (5, {"ge": 5, "lt": 6}, True),
        (6, {"ge": 5, "lt": 6}, False),
        (None, {"lt": 3}, False),
        (None, None, True),
        (1, 1.0, True),
        ("a", ["a", "b"], True),
        ("a", {"ne": "a"}, False),
    ],
)
def test_conditions(value: Any, condition: Any, expected: bool) -> None:
    assert matches(value, condition) is expected


def test_conditions_can_be_said_in_words() -> None:
    conditions = {"model.fusion": "cross", "train.epochs": {"ge": 50}, "data.rho": [0, 0.9], "revise.enabled": False}
    words = "model.fusion = cross, train.epochs ≥ 50, data.rho in {0, 0.9}, revise.enabled = off"
    assert in_words(conditions) == words


def test_the_pareto_front_keeps_equals_and_drops_the_beaten() -> None:
    points = {"a": [1.0, 5.0], "b": [2.0, 4.0], "c": [1.0, 4.0], "d": [2.0, 4.0], "e": [0.0, 9.0]}
    assert pareto_front(points, ["maximize", "maximize"]) == {"a", "b", "d", "e"}
    assert pareto_front(points, ["maximize", "minimize"]) == {"b", "d"}
    assert pareto_front({}, ["maximize"]) == set()
