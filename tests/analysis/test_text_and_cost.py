"""The table of text-only accuracy against its closed form, and the table of what the runs took."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from analysis.cost_table import cost_table
from analysis.formats import Row, Table
from analysis.measured import load_runs
from analysis.specs import TableSpec, load_tables
from analysis.text_table import binomial_interval, text_table
from genxai.config import CaptionConfig
from genxai.data import text_bayes_accuracy

TEXT = {"model.fusion": "text", "objective.lambda_attribution": 0.0, "revise.enabled": False}
COUNTS = {"class_counts": {"test": [400] * 10, "test_unbiased": [400] * 10, "test_conflict": [400] * 10}}


def spec(name: str) -> TableSpec:
    return next(table for table in load_tables() if table.id == name)


def text(runs: Any) -> Table:
    (table,) = text_table(spec("text"), load_runs(runs.path)).tables
    return table


def test_text_only_accuracy_stands_beside_the_best_that_captions_allow(runs: Any) -> None:
    best = text_bayes_accuracy(CaptionConfig(), "mnist", 0.98)
    low, high = (end / 4000 for end in stats.binom.interval(0.95, 4000, best))
    for seed, value in enumerate((best, low, high)):
        runs.add(TEXT, {"test/accuracy": value, "test_unbiased/accuracy": 0.9}, seed=seed, result=COUNTS)
    (row,) = text(runs).rows
    _, inside, verdict = row.cells[1].lines
    assert inside == f"Bayes {100 * best:.1f} [{100 * low:.1f}, {100 * high:.1f}], n = 4000"
    assert verdict == "within"
    assert row.cells[2].lines[2] == "outside"  # independent textures: 0.9 is out of reach
    assert row.cells[1].measured is not None and row.cells[1].measured.reference == pytest.approx(100 * best)
    assert row.cells[3].lines == ("—",)


def test_the_closed_form_takes_the_splits_own_classes_and_textures(runs: Any) -> None:
    counts = [1000, *[300] * 9]
    runs.add(TEXT, {"test_conflict/accuracy": 0.5}, result={"class_counts": {"test_conflict": counts}})
    (row,) = text(runs).rows
    prior = [count / sum(counts) for count in counts]
    best = text_bayes_accuracy(CaptionConfig(), "mnist", 0.98, test_rho=0.0, prior=prior)
    assert row.cells[3].measured is not None and row.cells[3].measured.reference == pytest.approx(100 * best)


def test_every_caption_setting_has_its_row_and_other_runs_have_none(runs: Any) -> None:
    for exact in (0.25, 0.5, 0.7):
        runs.add({**TEXT, "data.captions.exact": exact}, {"test/accuracy": 0.5}, result=COUNTS)
    runs.add({"model.fusion": "cross"}, {"test/accuracy": 0.5}, result=COUNTS)
    origin = {"sweep": "t", "trial": 0, "stage": "selection", "point": {}, "row": "text_only"}
    runs.add({**TEXT, "train.lr": 0.5}, {"test/accuracy": 0.5}, result=COUNTS, origin=origin)
    assert [row.cells[0].lines[1].split(",")[0] for row in text(runs).rows] == ["exact 0.25", "exact 0.5", "exact 0.7"]


def test_results_without_class_frequencies_say_what_is_missing(runs: Any) -> None:
    runs.add(TEXT, {"test/accuracy": 0.8})
    (row,) = text(runs).rows
    assert row.cells[1].lines == ("80.0 (1/3)",)
    assert "no class frequencies" in row.cells[1].notes[0]


def test_the_binomial_interval_covers_what_it_says() -> None:
    low, high = binomial_interval(0.78, 4000, 0.95)
    inside = stats.binom.cdf(high * 4000, 4000, 0.78) - stats.binom.cdf(low * 4000 - 1, 4000, 0.78)
    assert 0.95 <= inside < 0.96
    assert binomial_interval(1.0, 100, 0.95) == (1.0, 1.0)


def cost(runs: Any) -> dict[str, Row]:
    (table,) = cost_table(spec("cost"), load_runs(runs.path)).tables
    return {row.id: row for row in table.rows}


def test_the_cost_of_a_sweep_is_the_sum_of_its_finished_runs(runs: Any) -> None:
    for seed, seconds in enumerate((1800.0, 5400.0)):
        runs.add({}, {}, seed=seed, folder="a", result={"seconds": seconds})
    runs.add({}, {}, seed=2, folder="a", state="started")
    (row,) = cost(runs).values()
    # both began at the same time; the longer one ended after an hour and a half; two at a time on two cores
    assert [cell.text for cell in row.cells] == ["a", "2", "2.00", "1.50", "3600.0", "2", "a processor"]


def test_several_sweeps_are_summed_and_a_run_in_two_of_them_counts_once(runs: Any) -> None:
    for folder in ("a", "b"):
        runs.add({}, {}, folder=folder, result={"seconds": 3600.0})
    runs.add({}, {}, seed=1, folder="b", result={"seconds": 3600.0})
    found = cost(runs)
    assert [found[name].cells[1].text for name in ("a", "b", "all")] == ["1", "2", "2"]
    assert found["all"].cells[2].text == "2.00" and found["all"].rule_above
