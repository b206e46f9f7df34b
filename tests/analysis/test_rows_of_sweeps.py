"""Rows that a sweep names: exactly the runs it lists, what was chosen for them, and nothing that only chose."""

from __future__ import annotations

from typing import Any

import pytest

from analysis.choices import choose, settings
from analysis.formats import Row, Table
from analysis.measured import load_runs
from analysis.row_words import row_notes, why_not
from analysis.rows import comparison
from analysis.specs import TableSpec, load_tables
from analysis.sweep_table import sweep_tables
from genxai.configfile import validate
from launch.selected import read_selected

HERE = {"data.dataset": "mnist", "data.rho": 0.98}
FULL = {"objective.lambda_attribution": 5.0}
CROSS = {"objective.lambda_attribution": 0.0, "revise.enabled": False, "train.generator": False}

SPEC: dict[str, Any] = {
    "id": "small",
    "kind": "comparison",
    "caption": "Small",
    "split_by": ["data"],
    "sweeps": ["table2"],
    "against": "cross_modal_attention",
    "columns": [
        {"id": "accuracy", "title": "Acc.", "metric": "test/accuracy"},
        {"id": "gain", "title": "gain", "metric": "test/accuracy", "difference": True},
    ],
    "rows": [
        {"id": "cross_modal_attention", "label": "Cross", "where": {"revise.enabled": False}},
        {"id": "full", "label": "Full", "where": {"revise.enabled": True}},
        {"id": "jtt", "label": "JTT", "where": {"method.name": "jtt"}, "extra": True, "rule": True},
        {"id": "dfr", "label": "DFR", "where": {"method.name": "dfr"}, "extra": True},
    ],
}


def small(**changes: Any) -> TableSpec:
    return validate(TableSpec, {**SPEC, **changes}, "test")


def table(runs: Any, spec: TableSpec | None = None) -> Table:
    (found,) = comparison(spec or small(), load_runs(runs.path)).tables
    return found


def row(found: Table, name: str) -> Row:
    return next(each for each in found.rows if each.id == name)


def text(found: Table, name: str, column: int = 1) -> str:
    return row(found, name).cells[column].text


def notes(found: Table, name: str) -> str:
    return " ".join(row(found, name).cells[0].notes)


def accuracy(*values: float) -> dict[str, tuple[float, ...]]:
    return {"test/accuracy": values}


def choice(runs: dict[float, list[str]], chosen: float = 5.0, **changes: Any) -> dict[str, Any]:
    candidates = [
        {"point": {"objective.lambda_attribution": value}, "mean": 0.9, "sd": None, "n": 1, "runs": signatures}
        for value, signatures in runs.items()
    ]
    settled = {"state": "complete", "chosen": {"objective.lambda_attribution": chosen}}
    return (
        {"row": "full", "setting": HERE, "by": "val/accuracy", "split": "val", "candidates": candidates}
        | settled
        | changes
    )


@pytest.fixture
def filled(runs: Any) -> Any:
    """A sweep with two rows, whose full one has chosen 5 among 1, 5 and 20 with seed 100."""
    tried = {
        value: runs.row(
            "full", {"objective.lambda_attribution": value}, accuracy(0.1), first_seed=100, stage="selection"
        )
        for value in (1.0, 5.0, 20.0)
    }
    full = runs.row("full", FULL, accuracy(0.90, 0.91, 0.92))
    cross = runs.row("cross_modal_attention", CROSS, accuracy(0.80, 0.82, 0.84))
    rows = [
        {"row": "cross_modal_attention", "setting": HERE, "point": {}, "seeds": [0, 1, 2], "runs": cross},
        {"row": "full", "setting": HERE, "point": FULL, "chosen_at": HERE, "seeds": [0, 1, 2], "runs": full},
    ]
    runs.select("table2", rows, [choice(tried)])
    runs.rows, runs.tried = rows, tried
    return runs


def test_a_row_is_answered_by_exactly_the_runs_listed_for_it(filled: Any) -> None:
    filled.row("placebo", {**FULL, "explain.masks": "random"}, accuracy(0.99, 0.99, 0.99))  # fits the question too
    found = table(filled)
    assert set(row(found, "full").signatures) == set(filled.rows[1]["runs"])
    assert text(found, "full") == "91.0 ± 1.0 (n=3)"


def test_a_note_says_what_was_chosen_by_what_among_what(filled: Any) -> None:
    expected = "lambda_attribution = 5 chosen by val/accuracy (split val) among {1, 5, 20}, 1 seed; sweep 'table2'."
    assert notes(table(filled), "full") == expected
    assert notes(table(filled), "cross_modal_attention") == ""


def test_a_choice_made_elsewhere_or_for_another_row_says_so(filled: Any) -> None:
    weaker = {**FULL, "data.rho": 0.9}
    runs = filled.row("placebo", weaker, accuracy(0.7, 0.7, 0.7))
    entry = {
        "row": "placebo",
        "setting": HERE | {"data.rho": 0.9},
        "like": "full",
        "chosen_at": HERE,
        "seeds": [0, 1, 2],
    }
    filled.select("table2", [entry | {"runs": runs}], [choice(filled.tried)])
    (record,) = load_runs(filled.path).sweeps["table2"].rows
    (note,) = row_notes(record)
    assert note.endswith("among {1, 5, 20}, 1 seed, for the row 'full' at rho = 0.98; sweep 'table2'.")


def test_a_choice_on_test_data_is_called_out(filled: Any) -> None:
    filled.select("table2", filled.rows, [choice(filled.tried, by="test/accuracy", split="test")])
    assert "CHOSEN ON TEST DATA" in notes(table(filled), "full")


def test_a_run_that_only_chose_never_enters_a_mean(filled: Any) -> None:
    listed = [*filled.rows[1]["runs"], *filled.tried[5.0]]  # even where the record lists it: its seed is missing then
    filled.select("table2", [filled.rows[0], filled.rows[1] | {"runs": listed, "seeds": [0, 1, 2, 100]}])
    assert text(table(filled), "full") == "91.0 ± 1.0 (3/4)"
    filled.select("table2", [])  # and where no record answers
    anything = [{"id": "any", "label": "any", "where": {"revise.enabled": True}}]
    assert text(table(filled, small(rows=anything, against=None)), "any") == "—"


def test_runs_made_for_a_row_answer_for_no_other_and_those_by_hand_still_match_by_configuration(filled: Any) -> None:
    filled.select("table2", [])
    assert text(table(filled), "full") == "—"  # they are of the row `full`, and nothing says yet which of them stand
    filled.seeds({"objective.lambda_attribution": 1.0}, accuracy(0.5, 0.6, 0.7))
    assert text(table(filled), "full") == "60.0 ± 10.0 (n=3)"


def test_an_open_choice_is_an_em_dash_that_says_so(filled: Any) -> None:
    waiting = {"row": "full", "setting": HERE, "seeds": [0, 1, 2]}
    filled.select("table2", [filled.rows[0], waiting], [choice(filled.tried, state="open", chosen=None)])
    found = table(filled)
    assert text(found, "full") == "—"
    assert "is still choosing a value for this row on validation data" in " ".join(row(found, "full").cells[1].notes)


def test_rows_that_a_sweep_does_not_have_here_are_left_out_and_named(filled: Any) -> None:
    found = table(filled)
    assert [each.id for each in found.rows] == ["cross_modal_attention", "full"]
    assert "Not run in this setting: JTT; DFR." in found.remarks
    filled.seeds({"method.name": "dfr", **CROSS}, accuracy(0.5, 0.5, 0.5))
    found = table(filled)
    assert [each.id for each in found.rows] == ["cross_modal_attention", "full", "dfr"]
    assert row(found, "dfr").rule_above  # the rule of the row that is left out


def test_a_run_that_another_sweep_finished_counts_where_it_is_listed(filled: Any) -> None:
    filled.select(
        "table3", [{"row": "without_xai", "setting": HERE, "seeds": [0, 1, 2], "runs": filled.rows[0]["runs"]}]
    )
    spec = small(
        sweeps=["table3"], rows=[{"id": "without_xai", "label": "w/o", "where": {"train.lr": 7.0}}], against=None
    )
    spec = spec.model_copy(update={"columns": spec.columns[:1]})
    assert text(table(filled, spec), "without_xai") == "82.0 ± 2.0 (n=3)"


def test_the_tables_own_sweep_stands_before_others(filled: Any) -> None:
    other = filled.row("full", FULL, accuracy(0.1, 0.2, 0.3), folder="aaa", first_seed=5)
    filled.select("aaa", [{"row": "full", "setting": HERE, "seeds": [5, 6, 7], "runs": other}])
    found = table(filled)
    assert text(found, "full") == "91.0 ± 1.0 (n=3)"
    assert "Sweep 'aaa' has other runs of this row." in notes(found, "full")


def test_settings_are_told_apart_and_joined_across_an_option(filled: Any) -> None:
    weaker = filled.row("full", {**FULL, "data.rho": 0.9}, accuracy(0.6, 0.6, 0.6))
    cross = filled.row("cross_modal_attention", {**CROSS, "data.rho": 0.9}, accuracy(0.5, 0.5, 0.5))
    other = HERE | {"data.rho": 0.9}
    rows = [
        {"row": "full", "setting": other, "seeds": [0, 1, 2], "runs": weaker},
        {"row": "cross_modal_attention", "setting": other, "seeds": [0, 1, 2], "runs": cross},
    ]
    filled.select("table2", [*filled.rows, *rows], [choice(filled.tried)])
    apart = comparison(small(), load_runs(filled.path)).tables
    assert [text(one, "full") for one in apart] == ["60.0 ± 0.0 (n=3)", "91.0 ± 1.0 (n=3)"]
    asked = [
        {
            "id": f"full_{name}",
            "label": name,
            "answers": "full",
            "at": {"data.rho": rho},
            "where": {"revise.enabled": True},
        }
        for name, rho in (("a", 0.9), ("b", 0.98))
    ]
    joined = table(filled, small(rows=asked, across=["data.rho"], against=None))
    assert [text(joined, name) for name in ("full_a", "full_b")] == ["60.0 ± 0.0 (n=3)", "91.0 ± 1.0 (n=3)"]
    assert all("\N{GREEK SMALL LETTER RHO}" in one.caption for one in apart)
    assert "\N{GREEK SMALL LETTER RHO}" not in joined.caption


def test_a_row_of_another_tables_sweep_makes_no_table_on_its_own(filled: Any) -> None:
    weaker = filled.row("full", {**FULL, "data.rho": 0.9}, accuracy(0.6, 0.6, 0.6))
    alone = {"row": "full", "setting": HERE | {"data.rho": 0.9}, "seeds": [0, 1, 2], "runs": weaker}
    filled.select("table2", [*filled.rows, alone], [choice(filled.tried)])
    ours = comparison(small(), load_runs(filled.path)).tables
    other = comparison(small(sweeps=["table3", "table2"]), load_runs(filled.path)).tables
    assert (len(ours), len(other)) == (2, 1)


def test_a_row_for_each_value_is_a_row_per_value_there_is(runs: Any) -> None:
    for weight, value in ((0.0, 0.5), (1.0, 0.6)):
        runs.seeds({"objective.lambda_bias": weight}, accuracy(value, value, value))
    each = {"id": "g", "label": "G", "each": ["objective.lambda_bias"], "where": {"revise.enabled": True}}
    found = table(runs, small(rows=[each], against=None))
    labels = [one.cells[0].lines[0] for one in found.rows]
    assert labels == ["G, lambda_bias = 0", "G, lambda_bias = 1"]
    assert [one.cells[1].text for one in found.rows] == ["50.0 ± 0.0 (n=3)", "60.0 ± 0.0 (n=3)"]


def test_the_sweeps_own_table_keeps_choosing_and_reporting_apart(filled: Any) -> None:
    spec = next(one for one in load_tables() if one.kind == "sweep")
    (document,) = sweep_tables(spec, load_runs(filled.path))
    (found,) = document.tables
    columns = [column.id for column in found.columns]
    lines = [dict(zip(columns, (cell.text for cell in one.cells), strict=True)) for one in found.rows]
    chosen = [line for line in lines if line["selected"]]
    assert [(line["stage"], line["objective.lambda_attribution"]) for line in chosen] == [("selection", "5")]
    assert sorted(line["stage"] for line in lines) == ["row", "row", "selection", "selection", "selection"]
    assert "pareto" not in columns
    assert "full at dataset = mnist, rho = 0.98: lambda_attribution = 5 chosen by val/accuracy" in " ".join(
        found.remarks
    )


@pytest.mark.parametrize(
    "selected",
    [
        {"rows": 3, "choices": "no"},
        {"rows": [3, {"row": 4}, {"row": "full", "setting": 1, "runs": [1, {}], "seeds": "x", "chosen_at": 7}]},
        {"rows": [{"row": "full"}], "choices": [{"candidates": [{"point": 3, "n": "many"}], "chosen": []}]},
    ],
)
def test_an_odd_record_is_no_error_and_stands_for_nothing(runs: Any, selected: dict[str, Any]) -> None:
    records = read_selected("table2", selected).rows
    assert all(record.runs == () and isinstance(row_notes(record), list) and why_not(record) for record in records)
    runs.seeds(FULL, accuracy(0.5, 0.6, 0.7))
    runs.select("table2", [])
    spec = small()
    (place,) = settings(spec, load_runs(runs.path))
    assert choose(place, spec.rows[1]).configuration is not None


def test_the_shipped_sweeps_have_the_rows_of_the_shipped_tables() -> None:
    from pathlib import Path

    from launch.sweepfile import load_sweep

    sweeps = Path(__file__).parents[2] / "sweeps"
    specs = {spec.id: spec for spec in load_tables()}
    for name in ("table2", "table3"):
        ours = {row.sweep_row for row in specs[name].rows if row.where is not None}
        assert ours == set(load_sweep(sweeps / f"{name}.yaml").definition.rows)


def test_settings_that_differ_in_a_length_keep_their_own_names_whatever_their_order(runs: Any) -> None:
    for dataset, epochs in (("fashion-mnist", 3), ("fashion-mnist", 5), ("mnist", 5)):
        runs.add({"data.dataset": dataset, "train.epochs": epochs}, {"test/accuracy": 0.5})
    spec = next(table for table in load_tables() if table.id == "table2")
    found = settings(spec, load_runs(runs.path))
    named = {setting.id: setting.runs.frame["config"].iloc[0].data.dataset for setting in found if setting.runs}
    assert len(named) == 3 and all(f"-{dataset}-" in name for name, dataset in named.items())
    assert found[0].id.startswith("table2-mnist-")
