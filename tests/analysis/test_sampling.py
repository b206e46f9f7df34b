"""What sampling alone makes of a group metric: closed forms, and how tables show it."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from scipy import stats

from analysis.formats import tidy_csv
from analysis.measured import load_runs
from analysis.rows import comparison
from analysis.sampling import by_sampling
from analysis.specs import TableSpec
from genxai.configfile import validate

EVEN = [300] * 10


@pytest.mark.parametrize("accuracy", [0.95, 0.9])
def test_the_worst_group_is_the_mean_of_the_smallest_of_independent_binomials(accuracy: float) -> None:
    # E[min] of shares on [0, 1] is the integral of P(min >= x): ten groups of 30 and ten of 270
    grid = [(place + 0.5) / 20_000 for place in range(20_000)]
    small, large = (stats.binom.sf([size * x - 1e-9 for x in grid], size, accuracy) for size in (30, 270))
    exact = float((small**10 * large**10).mean())
    # sf(k) is P(X > k): at size * x - tiny it is P(X >= size * x)
    assert by_sampling("worst_group_accuracy", accuracy, EVEN) == pytest.approx(exact, abs=0.004)


@pytest.mark.parametrize(("statistic", "share"), [("delta_fair_accuracy", 0.9), ("delta_fair_selection", 0.1)])
def test_a_gap_between_textures_is_the_range_of_ten_shares_or_more(statistic: Any, share: float) -> None:
    # the mean range of ten normal variables is 3.078 standard deviations; the largest of ten such ranges lies above it
    one = 3.078 * (share * (1 - share) / 300) ** 0.5
    found = by_sampling(statistic, 0.9, EVEN)
    if statistic == "delta_fair_accuracy":
        assert found == pytest.approx(one, rel=0.03)
    else:
        assert 1.2 * one < found < 1.8 * one


def test_larger_groups_leave_less_to_chance_and_a_class_without_samples_has_no_group() -> None:
    assert by_sampling("worst_group_accuracy", 0.9, [30_000] * 10) > by_sampling("worst_group_accuracy", 0.9, EVEN)
    assert by_sampling("worst_group_accuracy", 1.0, [300, 0, 300]) == 1.0


def test_a_table_shows_it_below_the_value_and_only_where_group_sizes_are_known(runs: Any) -> None:
    spec = validate(
        TableSpec,
        {
            "id": "small",
            "kind": "comparison",
            "caption": "Small",
            "split_by": ["data"],
            "columns": [
                {
                    "id": "worst",
                    "title": "worst",
                    "metric": "test_unbiased/worst_group_accuracy",
                    "sampling": "worst_group_accuracy",
                }
            ],
            "rows": [{"id": name, "label": name, "where": {"model.fusion": name}} for name in ("image", "early")],
        },
        "test",
    )
    values = {"test_unbiased/accuracy": (0.95,), "test_unbiased/worst_group_accuracy": (0.7,)}
    runs.seeds({"model.fusion": "image"}, values, result={"class_counts": {"test_unbiased": EVEN}})
    runs.seeds({"model.fusion": "early"}, values)
    found = {r["row"]: r for r in csv.DictReader(io.StringIO(tidy_csv(comparison(spec, load_runs(runs.path)))))}
    assert found["image"]["text"] == "70.0 (1/3); sampling alone 88.1"
    assert float(found["image"]["reference"]) == pytest.approx(88.1, abs=0.3)
    assert (found["early"]["text"], found["early"]["reference"]) == ("70.0 (1/3)", "")
