"""Verdicts on the paper's sentences: expected ones worked out by hand from synthetic runs."""

# ruff: noqa: RUF001 - the typographic minus is what a table shows

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from analysis.check_claims import main
from analysis.claim_specs import load_claims
from analysis.claims import check_claims
from analysis.formats import Row, Table, markdown, tidy_csv
from analysis.measured import load_runs
from analysis.verdicts import seed_difference
from genxai.errors import UsageError

REPOSITORY = Path(__file__).resolve().parents[2]
T_2 = 4.302653  # t_{0.975} with 2 degrees of freedom
PLAIN = {"objective.lambda_attribution": 0.0, "revise.enabled": False}
IMAGE, TEXT, EARLY, CROSS = ({"model.fusion": name, **PLAIN} for name in ("image", "text", "early", "cross"))
FULL: dict[str, Any] = {}

BOOK = """
table: table2
claims:
  - id: gain
    section: Section 5.1
    sentence: full is better than image
    conditions: [{{row: full, over: [visual_only], columns: [accuracy], {relation}}}]
"""


def judged(runs: Any, book: str | None = None) -> tuple[Table, Table]:
    """The verdicts and the comparisons behind them, of the one setting there is."""
    verdicts, evidence = check_claims(load_claims(book), load_runs(runs.path)).tables
    return verdicts, evidence


def cells(table: Table, name: str) -> dict[str, str]:
    row: Row = next(row for row in table.rows if row.id == name)
    return {column.id: cell.text for column, cell in zip(table.columns, row.cells, strict=True)}


def gain(runs: Any, relation: str) -> tuple[str, dict[str, str]]:
    verdicts, evidence = judged(runs, BOOK.format(relation=relation))
    return cells(verdicts, "gain")["verdict"], cells(evidence, "gain-1")


def accuracy(*values: float) -> dict[str, tuple[float, ...]]:
    return {"test/accuracy": values}


# --- differences between rows --------------------------------------------------------------------


def test_seeds_in_common_are_paired() -> None:
    one, other = {0: 92.0, 1: 94.0, 2: 99.0, 7: 0.0}, {0: 90.0, 1: 91.0, 2: 95.0}
    found = seed_difference(one, other, 0.95, same_data=True)
    # differences 2, 3, 4: mean 3, sd 1; seed 7 has no partner
    assert found is not None and found.half is not None
    assert (found.value, found.sd, found.n) == (pytest.approx(3.0), pytest.approx(1.0), 3)
    assert found.half == pytest.approx(T_2 / 3**0.5, rel=1e-6)
    assert found.how == "paired over seeds 0, 1, 2"


@pytest.mark.parametrize("same_data, seeds", [(True, (5, 6, 0)), (False, (0, 1, 2))])
def test_other_data_or_fewer_than_two_seeds_in_common_are_not_paired(
    same_data: bool, seeds: tuple[int, int, int]
) -> None:
    first, second = [92.0, 94.0, 99.0], [90.0, 91.0, 95.0]
    one = dict(enumerate(first))
    found = seed_difference(one, dict(zip(seeds, second, strict=True)), 0.95, same_data=same_data)
    assert found is not None and found.half is not None
    oracle = stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert (found.value - found.half, found.value + found.half) == (
        pytest.approx(oracle.low),
        pytest.approx(oracle.high),
    )
    assert found.how == "unpaired (Welch), n = 3 and 3"


def test_one_seed_has_a_difference_without_an_interval_and_none_has_no_difference() -> None:
    found = seed_difference({0: 92.0}, {0: 90.0}, 0.95, same_data=True)
    assert found is not None and (found.value, found.half) == (2.0, None)
    assert seed_difference({}, {0: 90.0}, 0.95, same_data=True) is None


# --- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "relation, expected",
    [
        # paired differences 2, 3, 4 points: 3 ± 2.484 = [0.516, 5.484]
        ("above: 0", "holds"),
        ("above: 0.5", "holds"),
        ("above: 0.6", "cannot be told"),
        ("above: 5.4", "cannot be told"),
        ("above: 5.5", "does not hold"),
        ("below: 0", "does not hold"),
        ("below: 5.5", "holds"),
        ("below: 5.4", "cannot be told"),
        ("equals: 5.6", "does not hold"),
        ("equals: 5.5", "cannot be told"),  # inside but for rounding, and wider than the table's margin of 2
        ("equals: 3", "cannot be told"),
        ("equals: 3, margin: 2.5", "holds"),
    ],
)
def test_the_interval_decides(runs: Any, relation: str, expected: str) -> None:
    runs.seeds(FULL, accuracy(0.92, 0.94, 0.99))
    runs.seeds(IMAGE, accuracy(0.90, 0.91, 0.95))
    verdict, evidence = gain(runs, relation)
    assert verdict == expected
    assert evidence["measured"] == "+3.0 [+0.5, +5.5]"
    assert evidence["how"] == "paired over seeds 0, 1, 2"


def test_exactly_the_limit_is_not_above_it(runs: Any) -> None:
    runs.seeds(FULL, accuracy(0.924, 0.914))
    runs.seeds(IMAGE, accuracy(0.884, 0.874))  # 4 and 4 but for binary fractions
    assert gain(runs, "above: 4")[0] == "does not hold"
    assert gain(runs, "above: 3.99")[0] == "holds"


def test_one_seed_tells_nothing(runs: Any) -> None:
    runs.seeds(FULL, accuracy(0.99))
    runs.seeds(IMAGE, accuracy(0.10))
    verdict, evidence = gain(runs, "above: 0")
    assert (verdict, evidence["measured"]) == ("cannot be told", "+89.0")
    assert "too few seeds" in evidence["how"]


def test_seeds_that_do_not_meet_are_compared_unpaired(runs: Any) -> None:
    runs.seeds(FULL, accuracy(0.92, 0.94, 0.99))
    for seed, value in ((3, 0.90), (4, 0.91), (5, 0.95)):
        runs.add(IMAGE, {"test/accuracy": value}, seed=seed)
    verdict, evidence = gain(runs, "above: 0")  # paired by position it would hold
    assert (verdict, evidence["how"]) == ("cannot be told", "unpaired (Welch), n = 3 and 3")


def test_missing_rows_are_named_with_the_sweep_that_runs_them(runs: Any) -> None:
    runs.seeds(IMAGE, accuracy(0.90, 0.91, 0.95))
    verdicts, evidence = judged(runs, BOOK.format(relation="above: 0"))
    assert cells(verdicts, "gain")["verdict"] == "not measured"
    why = cells(verdicts, "gain")["why"]
    assert why.startswith("Ours (full model): no run of this setting has model.fusion = cross")
    assert "`python launch/sweep.py table2` runs it in another setting" in why and "Visual-only" not in why
    assert cells(evidence, "gain-1")["measured"] == "—"


def test_unfinished_rows_are_not_measured_and_say_how_far_they_are(runs: Any) -> None:
    runs.seeds(IMAGE, accuracy(0.90, 0.91, 0.95))
    runs.add(FULL, {"test/accuracy": 0.99}, state="started")
    verdict, evidence = gain(runs, "above: 0")
    assert verdict == "not measured"
    verdicts, _ = judged(runs, BOOK.format(relation="above: 0"))
    assert cells(verdicts, "gain")["why"] == "Ours (full model): 0/3 seeds done, 1 started."
    assert evidence["how"] == ""


def test_one_failing_comparison_refutes_a_claim_whatever_is_missing(runs: Any) -> None:
    runs.seeds(FULL, accuracy(0.90, 0.91, 0.95))
    runs.seeds(IMAGE, accuracy(0.96, 0.97, 0.99))
    verdicts, _ = judged(runs)
    found = cells(verdicts, "best_of_all")
    assert found["verdict"] == "does not hold"
    # differences -6, -6, -4: mean -5.333, sd 1.155, half-width 2.868
    assert found["why"].startswith("Ours (full model) − Visual-only, Acc. (%): −5.3 [−8.2, −2.5], needed > 0; paired")


def test_readings_that_disagree_leave_it_open(runs: Any) -> None:
    values = {"test/iou_half_max": (0.0, 0.0, 0.0), "test/iou_area_matched": (0.4, 0.41, 0.42)}
    runs.seeds(CROSS, values)
    verdicts, evidence = judged(runs)
    assert cells(verdicts, "no_iou_without_xai")["verdict"] == "cannot be told"
    ends = [cells(evidence, f"no_iou_without_xai-{place}")["verdict"] for place in (1, 2)]
    assert ends == ["holds", "does not hold"]


def test_readings_that_agree_decide(runs: Any) -> None:
    runs.seeds(CROSS, {"test/iou_half_max": (0.38, 0.39, 0.4), "test/iou_area_matched": (0.4, 0.41, 0.42)})
    verdicts, _ = judged(runs)
    assert cells(verdicts, "no_iou_without_xai")["verdict"] == "does not hold"


def test_what_no_run_could_have_is_set_aside_and_said(runs: Any) -> None:
    better = dict.fromkeys(("test/accuracy", "test/f1_macro"), (0.8, 0.81, 0.82))
    maps = dict.fromkeys(("test/iou_half_max", "test/iou_area_matched"), (0.5, 0.5, 0.5))
    runs.seeds(FULL, {name: tuple(value + 0.1 for value in series) for name, series in (better | maps).items()})
    for options in (IMAGE, EARLY, CROSS):
        runs.seeds(options, better | maps)
    runs.seeds(TEXT, better)
    verdicts, evidence = judged(runs)
    found = cells(verdicts, "best_of_all")
    assert (found["verdict"], found["why"]) == ("holds", "all 14 comparisons hold, 1 not checkable")
    verdict_of_maps = [row.cells[-1].text for row in evidence.rows if "Text-only, IoU" in row.cells[0].text]
    assert verdict_of_maps == ["not checkable", "not checkable"]


@pytest.mark.parametrize(("fid", "verdict"), [(1.0, "holds"), (5.5, "holds"), (9.0, "does not hold")])
def test_a_better_fid_is_no_sacrifice_and_a_clearly_worse_one_is(runs: Any, fid: float, verdict: str) -> None:
    gap = {"generator/bias_gap": (0.1, 0.11, 0.12), "generator/fid": (fid, fid + 0.1, fid - 0.1)}
    runs.seeds({"objective.lambda_bias": 0.1}, gap)
    plain = {"generator/bias_gap": (0.5, 0.52, 0.51), "generator/fid": (5.0, 5.1, 5.0)}
    runs.seeds({"objective.lambda_bias": 0.0}, plain)
    verdicts, _ = judged(runs)
    assert cells(verdicts, "bias_regulariser")["verdict"] == verdict


def test_the_papers_own_figures_are_held_against_its_sentence(runs: Any) -> None:
    verdicts, _ = check_claims(load_claims(), load_runs(runs.path)).tables
    own = {row.id: row.cells[-1].text for row in verdicts.rows}
    # 92.4 - 88.5 = 3.9 in its Table 2; SSIM 87.5 and NMI 83.6 in its Table 3
    assert own["cross_over_unimodal"] == "contradict; Cross-modal attention − Text-only, Acc. (%): +3.9, needed > 4.0"
    assert own["structural_coherence"].startswith(
        "contradict; Ours (full model), SSIM, alignment (%): 87.5, needed = 88.8"
    )
    # 92.4 - 89.4 = 3.0 in its Table 3, 0.8 in its Table 2
    assert own["best_of_all"] == own["revision_gain"] == own["revision_worth"] == own["xai_and_structure"] == "agree"
    # removing fusion lowers its SSIM from 87.5 to 80.2, removing bias feedback to 83.1
    assert own["stability"].startswith(
        "contradict; w/o bias feedback − w/o fusion, SSIM, alignment (%): +2.9, needed < 0"
    )
    assert own["overhead"] == "—"


def test_below_the_papers_scale_says_so(runs: Any) -> None:
    runs.seeds({"data.source": "embedded"}, accuracy(0.9, 0.9, 0.9))
    for table in judged(runs):
        assert "NOT THE PAPER'S SCALE: the embedded sample" in table.caption


def test_every_setting_has_its_own_verdicts(runs: Any) -> None:
    for rho, values in ((0.98, (0.99, 0.98, 0.97)), (0.5, (0.79, 0.78, 0.77))):
        runs.seeds({"data.rho": rho}, accuracy(*values))
        runs.seeds({**IMAGE, "data.rho": rho}, accuracy(0.90, 0.89, 0.88))
    tables = check_claims(load_claims(BOOK.format(relation="above: 0")), load_runs(runs.path)).tables
    found = {table.id: cells(table, "gain")["verdict"] for table in tables[::2]}
    assert found == {"claims-mnist-full-rho0.98": "holds", "claims-mnist-full-rho0.5": "does not hold"}


# --- claims as data ------------------------------------------------------------------------------


def test_adding_a_claim_a_row_and_a_column_is_adding_yaml(runs: Any) -> None:
    book = """
table: table2
rows: [{id: strong, label: strong penalty, where: {objective.lambda_gp: 30}}]
columns: [{id: error, title: ECE, metric: test/ece, scale: 1, digits: 2, unit: ""}]
claims:
  - {id: calibrated, section: here, sentence: ours, conditions: [{row: strong, columns: [error], below: 0.1}]}
"""
    runs.seeds({"objective.lambda_gp": 30.0}, {"test/ece": (0.01, 0.02, 0.03)})
    verdicts, evidence = judged(runs, book)
    assert cells(verdicts, "calibrated")["verdict"] == "holds"
    assert cells(evidence, "calibrated-1")["measured"] == "0.02 [0.00, 0.04]"  # half-width 4.303 * 0.01 / sqrt(3)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"visual_only": "visual"}, "claim 'gain': there is no row 'visual'"),
        ({"[accuracy]": "[acc]"}, "claim 'gain': there is no column 'acc'"),
        ({"above: 0": "above: 0, below: 1"}, "needs exactly one of above, below and equals"),
        ({"above: 0": "margin: 1, above: 0"}, "margin belongs to equals"),
        ({"table2": "table17"}, "there is no table 'table17'"),
    ],
)
def test_a_wrong_claim_is_one_plain_message(change: dict[str, str], message: str) -> None:
    book = BOOK.format(relation="above: 0")
    for old, new in change.items():
        book = book.replace(old, new)
    with pytest.raises(UsageError, match=message):
        load_claims(book)


def test_every_shipped_claim_has_a_name_of_its_own_and_a_quotation() -> None:
    claims = load_claims().claims
    assert len({claim.id for claim in claims}) == len(claims) > 10
    assert all(claim.sentence and claim.section for claim in claims)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["--runs", str(tmp_path / "runs"), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_without_runs_everything_is_unmeasured_and_the_command_succeeds(command: Any) -> None:
    code, out, err = command("--json")
    assert code == 0 and "no runs in" in err
    verdicts = {row["cells"]["verdict"]["text"] for row in json.loads(out)["claims"]["tables"][0]["rows"]}
    assert verdicts == {"not measured", "not checkable"}


def test_out_writes_what_is_printed_and_the_numbers(sweep: Any, command: Any, tmp_path: Path) -> None:
    code, out, err = command("--out", str(tmp_path / "out"))
    assert code == 0 and "wrote 2 files" in err
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["claims.csv", "claims.md"]
    document = check_claims(load_claims(), load_runs(tmp_path / "runs"))
    assert (tmp_path / "out" / "claims.md").read_text() == markdown(document) and markdown(document) in out
    assert (tmp_path / "out" / "claims.csv").read_text() == tidy_csv(document)


def test_an_unreadable_runs_folder_is_one_plain_message(command: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    code, out, err = command()
    assert (code, out) == (1, "") and err.startswith("error: cannot read the runs in")


def test_the_script_runs_from_anywhere_without_torch(sweep: Any, tmp_path: Path) -> None:
    check = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "assert not {'torch', 'optuna', 'submitit'} & set(sys.modules)\n"
    )
    script = str(REPOSITORY / "analysis" / "check_claims.py")
    arguments = [sys.executable, "-c", check, script, "--runs", str(sweep.path)]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "| headline |" in done.stdout
