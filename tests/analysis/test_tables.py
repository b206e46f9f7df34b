"""The tables themselves: expected cells worked out by hand from synthetic runs."""

# ruff: noqa: RUF001 - the typographic minus is what a table shows

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.captions import scale_warning
from analysis.formats import Document, Row, Table, tidy_csv
from analysis.hyperparameters import hyperparameters
from analysis.measured import Results, load_runs
from analysis.rows import comparison
from analysis.specs import TableSpec, load_tables, paper_rows
from analysis.sweep_table import sweep_tables
from genxai.errors import UsageError

BASELINE = {"objective.lambda_attribution": 0.0, "revise.enabled": False}
CROSS_PLAIN = {"model.fusion": "cross", **BASELINE}


def spec(name: str) -> TableSpec:
    return next(table for table in load_tables() if table.id == name)


def table2(results: Results) -> Table:
    """The table of the paper's columns, of the one setting there is."""
    table, *others = comparison(spec("table2"), results).tables
    assert [other.id.rpartition("-")[2] for other in others] == ["b", "c"]
    return table


def row(table: Table, name: str) -> Row:
    return next(row for row in table.rows if row.id == name)


def text(table: Table, name: str, column: str) -> str:
    return cell(table, name, column).text


def cell(table: Table, name: str, column: str) -> Any:
    position = [each.id for each in table.columns].index(column)
    return row(table, name).cells[position]


def notes(table: Table, name: str, column: str = "row") -> str:
    position = 0 if column == "row" else [each.id for each in table.columns].index(column)
    return " ".join(row(table, name).cells[position].notes)


# --- Table 2 -------------------------------------------------------------------------------------


def test_a_complete_row_stands_beside_the_papers_figure(runs: Any) -> None:
    options = {"model.fusion": "image", **BASELINE}
    runs.seeds(options, {"test/accuracy": [0.872, 0.873, 0.874], "test/f1_macro": [0.70, 0.80, 0.90]})
    table = table2(load_runs(runs.path))
    # sd 0.1; half-width 4.3027 * 0.1 / sqrt(3) = 0.248
    assert text(table, "visual_only", "accuracy") == "87.3 ± 0.1 (n=3); paper 87.3: 0.0 [−0.2, +0.2]; consistent"
    # sd 10; half-width 24.84; difference 80 - 84.6
    assert text(table, "visual_only", "f1") == "80.0 ± 10.0 (n=3); paper 84.6: −4.6 [−29.4, +20.2]; inconclusive"
    measured = cell(table, "visual_only", "f1").measured
    assert (measured.ci_low, measured.ci_high) == (pytest.approx(-29.4414, abs=1e-3), pytest.approx(20.2414, abs=1e-3))


def test_missing_seeds_show_in_the_cell_and_a_note_says_where_they_are(runs: Any) -> None:
    options = {"model.fusion": "image", **BASELINE}
    runs.seeds(options, {"test/accuracy": [0.8, 0.9]})
    runs.add(options, seed=2, state="failed")
    table = table2(load_runs(runs.path))
    assert text(table, "visual_only", "accuracy").startswith("85.0 ± 7.1 (2/3)")
    assert "2/3 seeds done, 1 failed (NonFiniteError: loss_critic)" in notes(table, "visual_only")


def test_runs_without_a_result_give_an_em_dash_and_the_reason(runs: Any) -> None:
    runs.add({"model.fusion": "image", **BASELINE}, {"test/accuracy": 0.9}, state="started")
    table = table2(load_runs(runs.path))
    assert text(table, "visual_only", "accuracy") == "—; paper 87.3"
    assert "0/3 seeds done, 1 started" in notes(table, "visual_only", "accuracy")
    assert "No run of this setting has model.fusion = early" in notes(table, "early_fusion", "accuracy")


def test_a_null_metric_is_an_em_dash_with_the_runs_own_reason(runs: Any) -> None:
    runs.add({"model.fusion": "image", **BASELINE}, {"test/accuracy": float("inf")})
    table = table2(load_runs(runs.path))
    assert text(table, "visual_only", "accuracy") == "—; paper 87.3"
    assert notes(table, "visual_only", "accuracy") == "No value in 1 of 1 finished runs: infinite."


def test_text_only_has_no_image_map_even_if_a_run_recorded_one(runs: Any) -> None:
    runs.add({"model.fusion": "text", **BASELINE}, {"test/accuracy": 0.9, "test/iou_half_max": 0.639})
    table = table2(load_runs(runs.path))
    assert text(table, "text_only", "iou_half_max") == "—; paper 63.9"
    assert "no map over the image" in notes(table, "text_only", "iou_half_max")


def test_the_papers_two_fusion_rows_are_one_model_and_the_table_says_so(runs: Any) -> None:
    runs.seeds(CROSS_PLAIN, {"test/accuracy": [0.92, 0.92, 0.92], "test/iou_half_max": [0.4, 0.5, 0.6]})
    table = table2(load_runs(runs.path))
    first, second = row(table, "cross_modal_attention"), row(table, "fusion_no_xai")
    assert first.signatures == second.signatures and len(first.signatures) == 3
    assert "The same runs as 'Cross-modal attention'." in notes(table, "fusion_no_xai")
    assert "The same runs" not in notes(table, "cross_modal_attention")
    for name in ("cross_modal_attention", "fusion_no_xai"):
        assert "at most one of them can describe one model" in notes(table, name)
    assert "0.0 means 'no maps were made'" in notes(table, "fusion_no_xai")
    # the IoU the paper gives as 0.0 is measured: 50 ± 10, half-width 24.8
    assert text(table, "fusion_no_xai", "iou_half_max").endswith("paper 0.0: +50.0 [+25.2, +74.8]; differs")


def test_the_two_fusion_rows_part_when_both_kinds_have_been_run(runs: Any) -> None:
    without = runs.add({**CROSS_PLAIN, "objective.lambda_bias": 0.0}, {"test/accuracy": 0.91})
    with_bias = runs.add({**CROSS_PLAIN, "objective.lambda_bias": 0.1}, {"test/accuracy": 0.90})
    table = table2(load_runs(runs.path))
    assert row(table, "cross_modal_attention").signatures == (without.signature,)
    assert row(table, "fusion_no_xai").signatures == (with_bias.signature,)
    assert "The same runs" not in notes(table, "fusion_no_xai")


def test_the_full_row_needs_attribution_loss_and_revision(runs: Any) -> None:
    runs.add({"revise.enabled": False}, {"test/accuracy": 0.5})
    runs.add({"objective.lambda_attribution": 0.0}, {"test/accuracy": 0.5})
    full = runs.add({}, {"test/accuracy": 0.9})
    assert row(table2(load_runs(runs.path)), "full").signatures == (full.signature,)


def test_a_baseline_trained_with_the_attribution_loss_is_shown_only_for_want_of_a_plain_one(runs: Any) -> None:
    runs.add({"model.fusion": "early"}, {"test/accuracy": 0.99, "val/accuracy": 0.99})
    results = load_runs(runs.path)
    assert "Run with objective.lambda_attribution = 5" in notes(table2(results), "early_fusion")
    plain = runs.add({"model.fusion": "early", **BASELINE}, {"test/accuracy": 0.5, "val/accuracy": 0.5})
    table = table2(load_runs(runs.path))
    assert row(table, "early_fusion").signatures == (plain.signature,)
    assert "Run with" not in notes(table, "early_fusion")


def test_the_sweeps_selected_point_stands_for_its_row(sweep: Any) -> None:
    table = table2(load_runs(sweep.path))
    assert text(table, "full", "accuracy").startswith("90.0 ± 1.0 (n=3)")  # trial 2 would give 98.0
    assert "One of 3 configurations that fit: objective.lambda_gp = 10" in notes(table, "full")
    assert "selected by sweep 'lambda' on val/accuracy, val/ssim_align; provisional" in notes(table, "full")


def test_the_selected_point_stands_even_where_another_has_better_validation_accuracy(sweep: Any) -> None:
    file = sweep.path / "lambda" / "selected.yaml"
    selected = yaml.safe_load(file.read_text())
    selected["selected"] = {"trial": 0, "point": {"objective.lambda_gp": 1.0, "objective.lambda_bias": 0.1}}
    file.write_text(yaml.safe_dump(selected))
    assert text(table2(load_runs(sweep.path)), "full", "accuracy").startswith("81.0 ± 2.0 (n=3)")


def test_without_a_selection_validation_accuracy_chooses_and_never_test(runs: Any) -> None:
    better = runs.seeds({"train.lr": 0.1}, {"val/accuracy": [0.90] * 3, "test/accuracy": [0.10] * 3})
    runs.seeds({"train.lr": 0.2}, {"val/accuracy": [0.80] * 3, "test/accuracy": [0.99] * 3})
    runs.seeds({"train.lr": 0.3}, {"val/accuracy": [0.95], "test/accuracy": [0.99]})  # lucky, but one seed
    table = table2(load_runs(runs.path))
    assert set(row(table, "full").signatures) == {run.signature for run in better}
    assert "best mean val/accuracy" in notes(table, "full")


def test_a_selection_made_on_test_data_is_called_out(sweep: Any) -> None:
    definition = yaml.safe_load((sweep.path / "lambda" / "sweep.yaml").read_text())
    definition["objectives"] = [{"metric": "test/accuracy"}]
    (sweep.path / "lambda" / "sweep.yaml").write_text(yaml.safe_dump(definition))
    assert "CHOSEN ON TEST DATA" in notes(table2(load_runs(sweep.path)), "full")


def test_every_data_set_and_budget_has_its_own_table(runs: Any) -> None:
    for options in ({}, {"data.dataset": "fashion-mnist"}, {"data.rho": 0.9}, {"train.epochs": 2}, {"train.lr": 0.5}):
        runs.add(options, {"test/accuracy": 0.5})
    tables = comparison(spec("table2"), load_runs(runs.path)).tables[::3]
    assert len(tables) == 4  # the learning rate is no setting
    assert len({table.id for table in tables}) == 4
    assert sum("Fashion-MNIST" in table.caption for table in tables) == 1
    assert sum("ρ = 0.9," in table.caption for table in tables) == 1


def test_small_runs_are_labelled_in_the_caption(runs: Any) -> None:
    runs.add({"data.source": "embedded", "train.epochs": 2, "data.train_limit": 200, "data.amplitude": 0.25}, {})
    caption = table2(load_runs(runs.path)).caption
    assert "NOT THE PAPER'S SCALE" in caption
    assert "embedded sample" in caption and "2 epochs instead of the paper's 100" in caption
    assert "at most 200 training images" in caption and "data.amplitude = 0.25" in caption


def test_comments_are_not_called_images(runs: Any) -> None:
    text = {
        "data.dataset": "toxicity-davidson",
        "data.train_limit": 200,
        "model.fusion": "text",
        "revise.enabled": False,
    }
    run = runs.add({**text, "train.generator": False})
    assert "at most 200 training comments" in scale_warning([run.config()])


def test_runs_at_the_papers_scale_carry_no_warning(runs: Any) -> None:
    encoders = {"model.image.name": "resnet50", "model.image.input_size": 224, "model.text.name": "bert-base-uncased"}
    runs.add({**encoders, "train.epochs": 100}, {})
    assert "NOT THE PAPER'S SCALE" not in table2(load_runs(runs.path)).caption


def test_no_runs_give_a_table_of_em_dashes(tmp_path: Path) -> None:
    table = table2(load_runs(tmp_path))
    assert [each.id for each in table.rows] == list(paper_rows("table2_comparison.csv"))
    assert "Not run in this setting: Group resampling; GroupDRO; JTT" in " ".join(table.remarks)
    assert {cell.lines[0] for each in table.rows for cell in each.cells[1:]} == {"—"}
    assert all(cell.notes for each in table.rows for cell in each.cells[1:])


# --- adding is data ------------------------------------------------------------------------------

TABLE_9 = """
id: table9
kind: comparison
caption: Table 9
paper: table3_ablation.csv
split_by: [data.dataset]
columns:
  - {id: ssim, title: SSIM, metric: test/ssim_align, paper: ssim_pct, digits: 2}
rows:
  - {id: without_fusion, label: w/o fusion, where: {model.fusion: image}}
  - {id: rrr, label: input gradients, where: {train.lr: {gt: 0.4}}, rule: true}
"""


def test_a_new_table_is_a_new_file(runs: Any, tmp_path: Path) -> None:
    (tmp_path / "table9.yaml").write_text(TABLE_9)
    runs.seeds({"model.fusion": "image", "train.lr": 0.5}, {"test/ssim_align": [0.80, 0.81, 0.82]})
    (table,) = comparison(load_tables(tmp_path)[0], load_runs(runs.path)).tables
    # half-width 4.3027 / sqrt(3) = 2.484
    expected = "81.00 ± 1.00 (n=3); paper 80.20: +0.80 [−1.68, +3.28]; inconclusive"
    assert text(table, "without_fusion", "ssim") == expected
    assert text(table, "rrr", "ssim") == "81.00 ± 1.00 (n=3)"  # the paper has no such row
    assert [each.rule_above for each in table.rows] == [False, True]


def test_a_table_can_have_the_rows_of_another(tmp_path: Path) -> None:
    (tmp_path / "table9.yaml").write_text(TABLE_9)
    again = {**yaml.safe_load(TABLE_9), "id": "again", "rows_of": "table9"}
    del again["rows"]
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(again))
    first, second = load_tables(tmp_path)
    assert first.rows == second.rows and len(first.rows) > 1
    for wrong in ({**again, "rows_of": "nobody"}, {**again, "rows_of": "again"}, {**again, "rows": []}):
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(wrong))
        with pytest.raises(UsageError, match=r"again\.yaml: rows_of"):
            load_tables(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("train.lr: {gt: 0.4}", "train.speed: 1"),
        ("train.lr: {gt: 0.4}", "train.lr: {above: 0.4}"),
        ("id: rrr", "id: without_fusion"),
        ("rule: true", "absent: {nothing: because}"),
        ("kind: comparison", "kind: pie"),
        ("split_by: [data.dataset]", "split_by: [data.colour]"),
    ],
)
def test_a_wrong_table_file_is_named(tmp_path: Path, wrong: str, message: str) -> None:
    (tmp_path / "table9.yaml").write_text(TABLE_9.replace(wrong, message))
    with pytest.raises(UsageError, match=r"table9\.yaml"):
        load_tables(tmp_path)


def test_every_paper_column_and_row_of_the_shipped_tables_is_transcribed() -> None:
    for table in load_tables():
        paper = paper_rows(table.paper)
        for column in table.columns:
            assert column.paper is None or all(column.paper in figures for figures in paper.values())
        if table.kind == "hyperparameters":
            assert [item.id for item in table.hyperparameters] == list(paper)


# --- Table 1 -------------------------------------------------------------------------------------


def test_table_1_sets_our_space_and_selection_beside_the_papers(sweep: Any) -> None:
    (table,) = hyperparameters(spec("table1"), load_runs(sweep.path)).tables
    assert "Sweep 'lambda'" in table.caption
    space = "grid {1, 10}; range [0.1, 100], log scale; visited {1, 10, 30}"
    assert text(table, "lambda_gp", "our_space") == space
    assert [text(table, "lambda_gp", c) for c in ("paper_selected", "our_selected", "verdict")] == ["10", "10", "equal"]
    assert [text(table, "epochs", c) for c in ("paper_selected", "our_selected", "verdict")] == ["100", "10", "differs"]
    assert [text(table, "optimizer", c) for c in ("our_space", "our_selected", "verdict")] == [
        "fixed",
        "adamw",
        "equal",
    ]
    assert text(table, "scheduler", "verdict") == "equal"
    assert text(table, "learning_rate", "paper_selected") == "—"
    assert "Lost in the paper's source text." in notes(table, "learning_rate", "verdict")
    assert text(table, "mc_samples", "our_selected") == "—"
    assert "Selection: largest scaled sum (provisional: 3 of 4 trials have ended)." in table.remarks


def test_a_searched_value_is_not_selected_before_the_sweep_says_so(sweep: Any) -> None:
    (sweep.path / "lambda" / "selected.yaml").unlink()
    (table,) = hyperparameters(spec("table1"), load_runs(sweep.path)).tables
    assert text(table, "lambda_gp", "our_selected") == "—"
    assert notes(table, "lambda_gp", "our_selected") == "The sweep has not selected a point yet."
    assert text(table, "dropout", "our_selected") == "0.3"


def test_a_searched_option_that_the_paper_does_not_list_gets_a_row(runs: Any) -> None:
    origin = {"sweep": "s", "trial": 0, "stage": "grid", "point": {"revise.tau": 0.4}}
    runs.add({"revise.tau": 0.4}, {}, folder="s", origin=origin)
    (table,) = hyperparameters(spec("table1"), load_runs(runs.path)).tables
    assert text(table, "revise.tau", "our_space") == "visited {0.4}"
    assert notes(table, "revise.tau", "paper_selected") == "Not in the paper's table."


def test_planned_points_are_not_called_visited(runs: Any) -> None:
    for trial, state in enumerate(("done", "pending")):
        point = {"objective.lambda_gp": float(trial)}
        origin = {"sweep": "s", "trial": trial, "stage": "grid", "point": point}
        runs.add(point, {}, folder="s", origin=origin, state=state)
    (table,) = hyperparameters(spec("table1"), load_runs(runs.path)).tables
    assert text(table, "lambda_gp", "our_space") == "visited {0}"


def test_table_1_without_runs_says_so(tmp_path: Path) -> None:
    (table,) = hyperparameters(spec("table1"), load_runs(tmp_path)).tables
    assert "No sweep has been run" in table.caption
    assert text(table, "dropout", "paper_selected") == "0.3"
    assert notes(table, "dropout", "our_selected") == "No run yet."


# --- a sweep's own table -------------------------------------------------------------------------


def test_the_sweep_table_lists_every_point_with_its_marks(sweep: Any) -> None:
    (document,) = sweep_tables(spec("sweep"), load_runs(sweep.path))
    (table,) = document.tables
    assert document.name == "sweep_lambda"
    assert [each.id for each in table.rows] == ["0", "1", "2"]
    assert "8 of 9 runs done, 1 failed" in table.caption
    assert [text(table, "0", c) for c in ("val_accuracy", "val_ssim_align", "test_accuracy")] == [
        "82.0 ± 2.0 (n=3)",
        "50.0 ± 0.0 (n=3)",
        "81.0 ± 2.0 (n=3)",
    ]
    assert [text(table, "2", c) for c in ("stage", "objective.lambda_gp", "val_accuracy")] == [
        "bayes",
        "30",
        "99.0 ± 0.0 (2/3)",
    ]
    assert text(table, "0", "bias_gap") == "0.0100 ± 0.0000 (n=3)"
    assert [text(table, trial, "pareto") for trial in "012"] == ["", "✓", ""]  # 2 is not complete
    assert [text(table, trial, "selected") for trial in "012"] == ["", "✓", ""]


def test_a_sweep_with_no_run_yet_has_an_empty_table(runs: Any) -> None:
    runs.sweep_files("s", {"space": {"train.lr": {"grid": [1, 2]}}}, None)
    (document,) = sweep_tables(spec("sweep"), load_runs(runs.path))
    assert document.tables[0].rows == ()
    assert "0 of 0 runs done" in document.tables[0].caption


def test_the_selected_point_is_found_by_its_runs_where_an_older_definition_left_the_same_point(sweep: Any) -> None:
    point = {"objective.lambda_gp": 10.0, "objective.lambda_bias": 0.1}
    origin = {"sweep": "lambda", "trial": 1, "stage": "grid", "point": point}
    sweep.seeds({**point, "train.lr": 0.7}, {"val/accuracy": [1.0] * 4}, folder="lambda", origin=origin)
    (table,) = hyperparameters(spec("table1"), load_runs(sweep.path)).tables
    assert text(table, "learning_rate", "our_selected") == "0.001"


def test_the_csv_has_every_number_unrounded_in_its_own_column(sweep: Any) -> None:
    documents: list[Document] = [comparison(spec("table2"), load_runs(sweep.path))]
    rows = list(csv.DictReader(io.StringIO(tidy_csv(documents[0]))))
    full = next(line for line in rows if line["row"] == "full" and line["column"] == "accuracy")
    assert float(full["mean"]) == pytest.approx(90.0) and float(full["sd"]) == pytest.approx(1.0)
    assert (full["n"], full["asked"], full["paper"], full["verdict"]) == ("3", "3", "93.2", "differs")
    assert float(full["difference"]) == pytest.approx(-3.2)
    assert float(full["ci_low"]) == pytest.approx(-3.2 - 2.48414, abs=1e-4)
    assert float(full["ci_high"]) == pytest.approx(-3.2 + 2.48414, abs=1e-4)
    assert len(full["signatures"].split()) == 3
    missing = next(line for line in rows if line["row"] == "visual_only" and line["column"] == "accuracy")
    assert (missing["mean"], missing["n"], missing["verdict"]) == ("", "0", "")
    assert missing["notes"]


def test_comments_are_not_measured_by_what_images_are(runs: Any) -> None:
    options = {"data.dataset": "toxicity-surge", "data.source": "embedded", "model.fusion": "text"}
    runs.add({**options, "train.generator": False, "revise.enabled": False}, {"test/accuracy": 0.5})
    (table,) = comparison(spec("toxicity"), load_runs(runs.path)).tables
    assert "text encoder small instead of BERT-base" in table.caption and "image" not in table.caption
    assert text(table, "by_lambda-1", "accuracy") == "50.0 (1/3)"
