"""What the repository keeps of measured results: tables, claims and README are what the records give."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml

import analysis.check_claims
import analysis.frontier
import analysis.make_tables
from analysis.commands import RECORDED
from analysis.measured import load_runs
from analysis.recorded import RUNS_FILE, USEFUL, refuse_paths
from analysis.restoring import restorable
from launch.sweepdir import SweepDir

REPOSITORY = Path(__file__).parents[2]
TABLES = RECORDED / "tables"
RECORDS = sorted(RECORDED.glob(f"*/{RUNS_FILE}"))
#: what README's tables of Table 2 show of either data set: part of the table, column
SHOWN = (("a", "accuracy"), ("b", "unbiased_accuracy"), ("b", "conflict_accuracy"), ("a", "iou_area_matched"))


#: of README's tables of Table 2, by the number that the recorded tables give their setting
HEADERS = {
    "": "trained at rho = 0.98 | paper: acc. | MNIST: acc. | unbiased | conflict | IoU | Fashion: acc. | unbiased | "
    "conflict | IoU",
    "-2": "after 940 steps | paper: acc. | MNIST: acc. | unbiased | conflict | IoU | Fashion: acc. | unbiased | "
    "conflict | IoU",
}


@pytest.mark.parametrize("file", RECORDS, ids=lambda file: file.parent.name)
def test_every_recorded_line_is_the_run_it_says_and_names_no_machine(file: Path) -> None:
    for run in restorable(file):
        refuse_paths(run.line, run.signature)
        assert all(set(start) <= {*USEFUL, "data"} for start in run.provenance)
    for other in (SweepDir(file.parent).definition, SweepDir(file.parent).selected):
        refuse_paths(yaml.safe_load(other.read_text()) if other.exists() else {}, str(other))
    assert file.stat().st_size < 5e6


def test_the_records_are_read_without_a_problem() -> None:
    results = load_runs(RECORDED)
    assert RECORDS and len(results) and results.problems == ()


def test_the_tables_beside_the_records_are_made_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert analysis.make_tables.main(["--runs", str(RECORDED), "--out", str(tmp_path)]) == 0
    assert analysis.check_claims.main(["--runs", str(RECORDED), "--out", str(tmp_path)]) == 0
    assert analysis.frontier.main(["--runs", str(RECORDED), "--sweep", "frontier", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    made = {file.name: file.read_text() for file in tmp_path.iterdir() if file.suffix != ".png"}
    assert set(made) == {file.name for file in TABLES.iterdir() if file.suffix != ".png"}
    for name, content in made.items():
        assert content == (TABLES / name).read_text(), f"{name}: make it again (docs/contracts.md says how)"


def cells_of(table: str) -> dict[tuple[str, str, str], dict[str, str]]:
    """The cells of a recorded table that are of all seeds together, by part, row and column."""
    with (TABLES / f"{table}.csv").open() as file:
        return {(row["table"], row["row"], row["column"]): row for row in csv.DictReader(file) if not row["seed"]}


def shown_below(header: str) -> list[str]:
    """The rows of README's table that begins so."""
    _, _, rest = (REPOSITORY / "README.md").read_text().partition(header)
    return rest.strip("\n").split("\n\n")[0].splitlines()[1:]  # below the line of dashes


@pytest.mark.parametrize("setting", HEADERS)
def test_the_tables_of_the_readme_are_those_of_the_records(setting: str) -> None:
    """Their rows are Table 2's models in their order, `mean ± sample standard deviation` over seeds in every column."""
    columns = [
        (f"table2-{dataset}-full-rho0.98{setting}-{part}", column)
        for dataset in ("mnist", "fashion-mnist")
        for part, column in SHOWN
    ]
    cells, first, lines = cells_of("table2"), columns[0], []
    for model in [row for (table, _, column), row in cells.items() if (table, column) == first and row["mean"]]:
        found = [cells[table, model["row"], column] for table, column in columns]
        lines.append(f"| {' | '.join([model['label'], model['paper'], *map(short, found)])} |")
    shown = shown_below(f"| {HEADERS[setting]} |\n")
    assert len(lines) > 3 and shown == lines, "README's table should be:\n" + "\n".join(lines)


def test_the_readmes_table_over_rho_is_that_of_the_records() -> None:
    cells, lines = cells_of("rho"), []
    for dataset, name in (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")):
        for row, label in (("cross", "cross-modal attention"), ("full", "ours")):
            keys = [
                (f"rho-{dataset}-full", f"{row}_{rho}", "unbiased_accuracy") for rho in ("010", "090", "098", "100")
            ]
            lines.append(f"| {name}, {label} | {' | '.join(short(cells[key]) for key in keys)} |")
    assert shown_below("| | 0.1 | 0.9 | 0.98 | 1 |\n") == lines, "README's table should be:\n" + "\n".join(lines)


def short(cell: dict[str, str]) -> str:
    """`90.1 ± 1.2` of a cell of the CSV; empty where there is no value."""
    return f"{float(cell['mean']):.1f} ± {float(cell['sd']):.1f}" if cell["sd"] else ""
