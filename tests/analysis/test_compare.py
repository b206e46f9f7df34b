"""One metric of two configurations, paired by seed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from analysis import compare

ONE, OTHER = ("--one", "objective.lambda_bias=1"), ("--other", "objective.lambda_bias=0")


@pytest.fixture
def pair(runs: Any) -> list[str]:
    """Differences of 1, 2 and 3, and a fourth seed that one side alone has."""
    runs.seeds({"objective.lambda_bias": 1.0}, {"test/accuracy": [0.2, 0.4, 0.6, 9.0]})
    runs.seeds({"objective.lambda_bias": 0.0}, {"test/accuracy": [0.1, 0.2, 0.3]})
    return ["test/accuracy", "--runs", str(runs.path)]


def test_the_interval_is_that_of_the_differences_of_common_seeds(pair: list[str], capsys: Any) -> None:
    assert compare.main([*pair, *ONE, *OTHER, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["seeds"] == [0, 1, 2] and found["difference"] == pytest.approx(0.2)
    assert found["high"] - found["difference"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)  # t of 2 degrees
    assert compare.main([*pair, *OTHER, *("--one", "objective.lambda_bias=1")]) == 0
    assert capsys.readouterr().out.startswith("test/accuracy: +0.2000 [")


def test_a_side_that_is_not_one_configuration_is_refused(pair: list[str], runs: Any, capsys: Any) -> None:
    runs.add({"objective.lambda_bias": 1.0, "data.rho": 0.9}, {"test/accuracy": 0.5})
    assert compare.main([*pair, *ONE, *OTHER]) == 2
    assert "2 configurations" in (said := capsys.readouterr().err) and "data.rho" in said
    assert compare.main([*pair, "--one", "nonsense=1", *OTHER]) == 2
    assert "'nonsense' is no option" in capsys.readouterr().err
    assert compare.main([*pair, "--one", "data.rho", *OTHER]) == 2
    assert "not KEY=VALUE" in capsys.readouterr().err


def test_without_two_common_seeds_there_is_no_interval(pair: list[str], capsys: Any) -> None:
    assert compare.main(["val/nothing", *pair[1:], *ONE, *OTHER]) == 1
    assert "fewer than two seeds" in capsys.readouterr().err
