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
RESULTS = "docs/results.md"
#: of the recorded tables: the setting of sweeps/paper-like.yaml
PAPER_LIKE = "table2-mnist-full-rho0.1-a"
FRONTIER = (
    "| R_bias | lambda_bias | V (%) | asked for (%) | FID | FID, unbiased | FID, object | Eq. 6 of textures (points) |"
)
#: of docs/toxicity.md
TOXIC_HEADER = (
    "| encoder, comments | lambda_a | accuracy (%) | AUROC (%) | share of identity terms (%) | bias score (%) "
    "| BPSN AUC, least (%) | false-positive gap (points) |"
)
TOXIC = {
    "small Transformer, 8,000 of Davidson's tweets": "toxicity-toxicity-davidson-full-rho0.98",
    "pretrained MiniLM, Surge's comments": "toxicity-toxicity-surge-embedded-rho0.98",
}
TOXIC_COLUMNS = ("accuracy", "auroc", "identity_share", "bias_score", "bpsn_auc", "false_positive_gap")
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


def shown_below(page: str, header: str) -> list[str]:
    """The rows of the page's table that begins so."""
    _, _, rest = (REPOSITORY / page).read_text().partition(f"{header}\n")
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
    assert len(lines) > 3 and shown_below("README.md", f"| {HEADERS[setting]} |") == lines, "\n".join(lines)


def test_the_table_over_rho_is_that_of_the_records() -> None:
    cells, lines = cells_of("rho"), []
    for dataset, name in (("mnist", "MNIST"), ("fashion-mnist", "Fashion-MNIST")):
        for row, label in (("cross", "cross-modal attention"), ("full", "ours")):
            keys = [
                (f"rho-{dataset}-full", f"{row}_{rho}", "unbiased_accuracy") for rho in ("010", "090", "098", "100")
            ]
            lines.append(f"| {name}, {label} | {' | '.join(short(cells[key]) for key in keys)} |")
    assert shown_below(RESULTS, "| | 0.1 | 0.9 | 0.98 | 1 |") == lines, "\n".join(lines)


def test_the_table_of_the_methods_parts_is_that_of_the_records() -> None:
    cells, column = cells_of("table3"), "unbiased_accuracy"
    mnist, fashion = (f"table3-{dataset}-full-rho0.98-b" for dataset in ("mnist", "fashion-mnist"))
    rows = [row for (table, row, name) in cells if (table, name) == (mnist, column)]
    lines = [
        f"| {cells[mnist, row, column]['label']} | {short(cells[mnist, row, column])} | "
        f"{short(cells[fashion, row, column])} |"
        for row in rows
        if cells[mnist, row, column]["mean"]
    ]
    assert len(lines) > 10
    assert shown_below(RESULTS, "| unbiased accuracy | MNIST | Fashion-MNIST |") == lines, "\n".join(lines)


def test_the_table_under_captions_like_the_papers_is_that_of_the_records() -> None:
    cells = cells_of("table2")
    found = [cell for (table, _, column), cell in cells.items() if (table, column) == (PAPER_LIKE, "accuracy")]
    lines = [f"| {cell['label']} | {cell['paper']} | {short(cell)} |" for cell in found if cell["mean"]]
    assert len(lines) == 6 and shown_below(RESULTS, "| | paper | measured |") == lines, "\n".join(lines)


def test_the_table_of_the_frontier_is_that_of_the_records() -> None:
    """Cramér's V in percent and the three distances; conditional accuracy and Eq. 6 are of the generator's table."""
    with (TABLES / "frontier.csv").open() as file:
        points = list(csv.DictReader(file))
    shown = [line.strip("| ").split(" | ") for line in shown_below(RESULTS, FRONTIER)]
    cells = [cell for (_, row, _), cell in cells_of("generator").items() if row.startswith("by_lambda")]
    assert len(shown) == len(points) == 9
    for line, point in zip(shown, points, strict=True):
        values = [of_csv(point, name, scale) for name, scale in (("cramers_v", 100), ("fid", 1))]
        values += [of_csv(point, name, 1) for name in ("fid_unbiased", "fid_object")]
        assert [line[0], line[1], line[2], *line[4:7]] == [point["curve"], point["lambda_bias"], *values]
        runs = point["runs"]
        own = {cell["column"]: short(cell) for cell in cells if cell["signatures"] == runs}
        assert [line[3], line[7]] == [own["conditional_accuracy"], own["delta_fair"]]


def test_the_table_of_toxic_text_is_that_of_the_records() -> None:
    cells, lines = cells_of("toxicity"), []
    for name, table in TOXIC.items():
        for weight in (0, 5, 50):
            row = [(table, f"by_lambda-{1 + [0, 5, 50].index(weight)}", column) for column in TOXIC_COLUMNS]
            assert cells[row[0]]["label"].endswith(f"lambda_attribution = {weight}")
            lines.append(f"| {name} | {weight} | {' | '.join(short(cells[key]) for key in row)} |")
    assert shown_below("docs/toxicity.md", TOXIC_HEADER) == lines, "\n".join(lines)


def of_csv(point: dict[str, str], name: str, scale: float) -> str:
    """`90.1 ± 1.2` of a line of frontier.csv."""
    return f"{scale * float(point[f'{name}_mean']):.1f} ± {scale * float(point[f'{name}_sd']):.1f}"


def short(cell: dict[str, str]) -> str:
    """`90.1 ± 1.2` of a cell of the CSV; empty where there is no value."""
    return f"{float(cell['mean']):.1f} ± {float(cell['sd']):.1f}" if cell["sd"] else ""
