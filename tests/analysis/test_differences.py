"""Paired differences between rows, Holm's correction, and how tables show them; scipy is the oracle."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from scipy import stats

from analysis.differences import corrected, holm, paired
from analysis.formats import tidy_csv
from analysis.measured import load_runs
from analysis.rows import comparison
from analysis.specs import TableSpec
from genxai.configfile import validate
from genxai.errors import UsageError

SPEC: dict[str, Any] = {
    "id": "small",
    "kind": "comparison",
    "caption": "Small",
    "split_by": ["data"],
    "against": "image",
    "per_seed": True,
    "columns": [
        {"id": "accuracy", "title": "Acc.", "metric": "test/accuracy"},
        {"id": "gain", "title": "gain", "metric": "test/accuracy", "difference": True},
    ],
    "rows": [
        {"id": "image", "label": "image", "where": {"model.fusion": "image"}},
        {"id": "early", "label": "early", "where": {"model.fusion": "early"}},
        {"id": "cross", "label": "cross", "where": {"model.fusion": "cross"}},
        {"id": "early_cross", "label": "cross - early", "of": "cross", "against": "early"},
        {"id": "chance", "label": "chance", "reference": {"accuracy": "test/chance"}},
    ],
}


def make(**changes: Any) -> TableSpec:
    return validate(TableSpec, {**SPEC, **changes}, "test")


def lines(runs: Any, **changes: Any) -> dict[tuple[str, str, str], dict[str, str]]:
    document = comparison(make(**changes), load_runs(runs.path))
    return {(r["row"], r["column"], r["seed"]): r for r in csv.DictReader(io.StringIO(tidy_csv(document)))}


@pytest.fixture
def three(runs: Any) -> Any:
    values = {"image": (0.80, 0.82, 0.81), "early": (0.81, 0.84, 0.83), "cross": (0.90, 0.91, 0.95)}
    for name, series in values.items():
        runs.seeds({"model.fusion": name}, {"test/accuracy": series, "test/chance": (0.1, 0.1, 0.1)})
    return runs


def test_the_interval_and_the_p_value_are_those_of_the_paired_t_test() -> None:
    one, other = {0: 90.0, 1: 91.0, 2: 95.0, 7: 0.0}, {0: 80.0, 1: 82.0, 2: 81.0}
    found = paired(one, other, "base", 0.95)
    assert found is not None
    oracle = stats.ttest_rel([90.0, 91.0, 95.0], [80.0, 82.0, 81.0])
    interval = oracle.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.estimate.n == 3


def test_a_single_common_seed_is_no_pair() -> None:
    assert paired({0: 1.0, 1: 2.0}, {1: 1.0, 2: 5.0}, "base", 0.95) is None


def test_differences_without_spread_have_no_p_value_and_are_not_counted_by_the_correction() -> None:
    base = {0: 0.1, 1: 0.2, 2: 0.7}
    same = paired(base, base, "x", 0.95)
    more = paired({0: 0.3, 1: 0.4, 2: 0.9}, base, "x", 0.95)  # but for binary fractions all +0.2
    real = paired({0: 0.3, 1: 0.5, 2: 0.9}, base, "x", 0.95)
    assert same is not None and more is not None and real is not None
    assert (same.p, more.p) == (None, None)
    found = corrected({"same": same, "more": more, "real": real})
    assert found["more"].p_holm is None and found["real"].p_holm == pytest.approx(real.p)
    assert found["more"].lines(1) == ("+0.2 [+0.2, +0.2]", "n=3, no p")


def test_a_table_says_why_a_difference_has_no_p_value(runs: Any) -> None:
    runs.seeds({"model.fusion": "image"}, {"test/accuracy": (0.5, 0.6, 0.7)})
    runs.seeds({"model.fusion": "early"}, {"test/accuracy": (0.6, 0.7, 0.8)})
    found = lines(runs, rows=SPEC["rows"][:2])
    assert found["early", "gain", ""]["text"].endswith("n=3, no p")
    assert "all seeds differ by the same amount" in found["early", "gain", ""]["notes"]
    assert found["early", "accuracy", ""]["against_p_holm"] == ""


def test_a_row_can_be_paired_with_another_than_the_tables(three: Any) -> None:
    rows = [dict(row) for row in SPEC["rows"][:3]]
    rows[2]["against"] = "early"
    found = lines(three, rows=rows)["cross", "gain", ""]
    assert found["against"] == "early" and found["text"].startswith("+9.3 [")


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04, made monotone
    assert holm({"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02}) == pytest.approx(
        {"a": 0.04, "b": 0.06, "c": 0.06, "d": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_every_row_is_corrected_for_the_others_of_its_column() -> None:
    base = {0: 80.0, 1: 82.0, 2: 81.0}
    pairs = {
        "a": paired({0: 81.0, 1: 84.0, 2: 83.0}, base, "x", 0.95),
        "b": paired({0: 90.0, 1: 91.0, 2: 95.0}, base, "x", 0.95),
    }
    found = corrected({name: pair for name, pair in pairs.items() if pair is not None})
    smaller, larger = sorted(found.values(), key=lambda difference: difference.p or 0.0)
    assert smaller.p is not None and larger.p is not None
    assert smaller.p_holm == pytest.approx(2 * smaller.p)
    assert larger.p_holm == pytest.approx(max(2 * smaller.p, larger.p))


def test_the_csv_has_each_rows_difference_to_the_row_the_table_is_against(three: Any) -> None:
    rows = [row for row in SPEC["rows"] if "of" not in row]
    found = lines(three, rows=rows)
    early, cross = found["early", "accuracy", ""], found["cross", "accuracy", ""]
    oracle = stats.ttest_rel([90, 91, 95], [80, 82, 81])
    other = stats.ttest_rel([81, 84, 83], [80, 82, 81])
    assert float(cross["against_difference"]) == pytest.approx(11.0)
    assert float(cross["against_p"]) == pytest.approx(oracle.pvalue)
    assert float(cross["against_p_holm"]) == pytest.approx(2 * min(oracle.pvalue, other.pvalue))
    assert (cross["against"], cross["against_n"]) == ("image", "3")
    assert float(early["against_low"]) == pytest.approx(other.confidence_interval(0.95).low)
    assert found["image", "accuracy", ""]["against_difference"] == ""


def test_a_difference_column_and_a_difference_row_show_the_interval(three: Any) -> None:
    found = lines(three)
    # cross - early: 9, 7, 12; mean 9.33, sd 2.517, half-width 6.25; the only difference row, so Holm changes nothing
    p = stats.ttest_rel([90, 91, 95], [81, 84, 83]).pvalue
    assert found["early_cross", "accuracy", ""]["text"] == f"+9.3 [+3.1, +15.6]; n=3, Holm p = {p:.3f}"
    rows = [row for row in SPEC["rows"] if "of" not in row]
    assert lines(three, rows=rows)["cross", "gain", ""]["text"].startswith("+11.0 [+4.4, +17.6]; n=3, Holm p =")
    assert "Other rows are compared with this one." in lines(three, rows=rows)["image", "gain", ""]["notes"]


def test_what_no_model_changes_is_shown_once_and_a_spread_is_told(three: Any) -> None:
    assert lines(three)["chance", "accuracy", ""]["text"] == "10.0"
    three.add(
        {"model.fusion": "text", "revise.enabled": False, "objective.lambda_attribution": 0}, {"test/chance": 0.2}
    )
    differing = lines(three)["chance", "accuracy", ""]
    assert differing["text"] == "11.0 ± 3.2 (n=10)"
    assert "Differs between models" in differing["notes"]


def test_the_csv_has_a_line_per_seed_with_its_bootstrap_interval(runs: Any) -> None:
    for seed, value in enumerate((0.80, 0.82)):
        ends = {"intervals": {"test/accuracy": [value - 0.01, value + 0.02]}}
        runs.add({"model.fusion": "image"}, {"test/accuracy": value}, seed=seed, result=ends)
    found = lines(runs)
    mean, second = found["image", "accuracy", ""], found["image", "accuracy", "1"]
    half = 12.706205 * 1.4142136 / 2**0.5  # t with one degree of freedom, sd 1.414
    assert (float(mean["seed_low"]), float(mean["seed_high"])) == (pytest.approx(81 - half), pytest.approx(81 + half))
    assert mean["bootstrap_low"] == ""  # an interval over samples says nothing about the spread over seeds
    assert (float(second["mean"]), second["n"]) == (pytest.approx(82.0), "1")
    assert (float(second["bootstrap_low"]), float(second["bootstrap_high"])) == (pytest.approx(81), pytest.approx(84))
    assert ("image", "accuracy", "2") not in found


def test_one_run_has_its_bootstrap_interval_in_the_cell(runs: Any) -> None:
    runs.add({"model.fusion": "image"}, {"test/accuracy": 0.8}, result={"intervals": {"test/accuracy": [0.78, None]}})
    assert lines(runs)["image", "accuracy", ""]["bootstrap_low"] == ""  # half an interval is none
    runs.add({"model.fusion": "early"}, {"test/accuracy": 0.8}, result={"intervals": {"test/accuracy": [0.78, 0.81]}})
    alone = lines(runs)["early", "accuracy", ""]
    assert (float(alone["bootstrap_low"]), alone["seed_low"]) == (pytest.approx(78.0), "")


def test_what_a_value_cannot_be_read_without_stands_below_it(runs: Any) -> None:
    values = {"test/accuracy": (0.5, 0.7), "test/floor": (0.1, 0.2), "test/n": (5000.0, 5000.0)}
    runs.seeds({"model.fusion": "image"}, values)
    column = {
        "id": "accuracy",
        "title": "A",
        "metric": "test/accuracy",
        "beside": {"floor": "test/floor", "n": "test/n"},
    }
    found = lines(runs, columns=[column], rows=SPEC["rows"][:1])
    assert found["image", "accuracy", ""]["text"] == "60.0 ± 14.1 (2/3); floor 15.0, n = 5000"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"against": "nobody"}, "no row 'nobody'"),
        ({"rows": [{"id": "a", "label": "a"}]}, "needs exactly one of where, of and reference"),
        ({"rows": [{"id": "image", "label": "a", "where": {}, "of": "image"}]}, "needs exactly one"),
        ({"rows": [{"id": "image", "label": "a", "reference": {"nothing": "test/x"}}]}, "no column 'nothing'"),
        ({"groups": [{"id": "a", "caption": "a", "columns": ["nothing"]}]}, "no column 'nothing'"),
        ({"across": ["data.colour"]}, "there is no option 'data.colour'"),
    ],
)
def test_a_wrong_specification_is_one_plain_message(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make(**change)
