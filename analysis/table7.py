"""Table 7, complexity: what analysis/complexity.py has counted, beside Eq. 12 and the paper's 'less than 12 %'.

Reads RUNS/complexity/*.json, never models. A file that cannot be used is named and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.captions import caption, scale_warning
from analysis.commands import COUNTED
from analysis.costs import labels
from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent
from analysis.specs import paper_rows
from analysis.verdicts import fixed
from genxai.config import Config
from genxai.configfile import validate
from genxai.errors import GenxaiError
from genxai.files import read_json

ID, NUMBER = "table7", "7"
TITLE = "Table 7. Complexity of one joint step"
PAPER = "table7_complexity.csv"
#: Remark 13.1: fusion and explainability are "less than 12% of total floating-point operations"
CLAIMED_PERCENT = 12.0
HOW = "Not counted yet: run python analysis/complexity.py paper with the same --runs."
GIGA, MEGA = 1e9, 1e6
BLANK = Cell(("",))

COLUMNS = (
    Column("component", "Component", left=True),
    Column("dominant", "paper: dominant", left=True),
    Column("parameters", "parameters (M)"),
    Column("forward", "forward (GFLOP)"),
    Column("backward", "backward (GFLOP)"),
    Column("double_backward", "backward through a gradient (GFLOP)"),
    Column("flops", "all (GFLOP)"),
    Column("share", "share (%)"),
    Column("predicted", "Eq. 12 (GFLOP)"),
    Column("ratio", "Eq. 12 / counted"),
    Column("memory", "peak memory (MB)"),
)
REMARKS = (
    "Operations per joint step, all repetitions included, counted on the passes of the loop by torch's FlopCounterMode "
    "(a multiply-add is two): convolutions, matrix products, attention, Fourier transforms. Elementwise operations are "
    "not counted. 'Backward' includes the gradient that a map or the penalty is made of; 'backward through a gradient' "
    "is the pass that differentiates it, for a map down to the explained layer; below that it is 'backward'.",
    "The paper's cells (time and memory) are lost in its source text, and Eq. 12 has no constants; ours are in "
    "analysis/costs/formulas.py and, per term, in the notes.",
)


def complexity(root: Path) -> tuple[Document, list[str]]:
    """One table per file of RUNS/complexity, one of em-dashes if there is none; and why files were left out."""
    tables, problems = [], []
    for file in sorted((root / COUNTED).glob("*.json")):
        try:
            tables.append(_table(file.stem, read_json(file)))
        except GenxaiError as error:
            problems.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(f"{file}: not written by analysis/complexity.py ({type(error).__name__}: {error})")
    return Document(ID, tuple(tables) or (_empty(),)), problems


def _empty() -> Table:
    paper = paper_rows(PAPER)
    nothing = {column.id: absent(HOW) for column in COLUMNS[2:]}
    rows = [Row(name, _cells(label, _dominant(paper, name), nothing)) for name, label in labels.PAPER.items()]
    share = absent(HOW, f"paper < {CLAIMED_PERCENT:g}", measured=Measured("share", "%", paper=CLAIMED_PERCENT))
    rows.append(Row("claim", _cells("Fusion and explainability", BLANK, {"share": share}), rule_above=True))
    return Table(ID, caption(TITLE, "Nothing has been counted yet"), COLUMNS, tuple(rows))


def _cells(label: str, dominant: Cell, cells: Mapping[str, Cell]) -> tuple[Cell, ...]:
    """A row's cells in the order of the columns, blank where there is none."""
    return (Cell((label,)), dominant, *(cells.get(column.id, BLANK) for column in COLUMNS[2:]))


def _table(name: str, content: Mapping[str, Any]) -> Table:
    config = validate(Config, dict(content["configuration"]), f"complexity/{name}.json")
    step, paper = content["step"], paper_rows(PAPER)
    rows, total = [], float(step["flops"])
    for place, component in enumerate(content["components"]):
        first_of_gan = component["id"] not in paper and content["components"][place - 1]["id"] in paper
        rows.append(_component(component, total, _dominant(paper, component["id"]), first_of_gan))
    rows.append(_total(step, content["eq12"], paper))
    rows += [_share(share, place == 0) for place, share in enumerate(content["shares"])]
    model = config.model
    text = f", text encoder {model.text.name} with {model.text.max_tokens} tokens" if model.fusion != "image" else ""
    setting = (
        f"Batch {content['batch_size']}, {content['explained']} of it explained; image encoder {model.image.name} at "
        f"{model.image.input_size} px{text}; {config.train.precision}"
    )
    how = f"Memory: {content['memory_is']} (device: {content['device']}; torch {content['torch']})."
    symbols = ", ".join(f"{symbol} = {value:g}" for symbol, value in content["symbols"].items())
    remarks = (*REMARKS, how, f"Eq. 12 here: {symbols}; memory {content['eq12']['memory_formula']}.")
    return Table(f"{ID}-{name}", caption(TITLE, setting, scale_warning([config])), COLUMNS, tuple(rows), remarks)


def _dominant(paper: Mapping[str, Mapping[str, str]], row: str) -> Cell:
    return Cell((paper[row]["dominant"] if row in paper else "",))


def _component(row: Mapping[str, Any], total: float, dominant: Cell, rule: bool) -> Row:
    measured = {
        "parameters": _number("parameters", row["parameters"], MEGA, "M"),
        **{key: _number(key, row[key], GIGA, "GFLOP") for key in ("forward", "backward", "double_backward", "flops")},
        "share": _percent(row["flops"] / total),
        "predicted": _number("predicted", row["predicted"], GIGA, "GFLOP", *_formula(row["formula"])),
        "ratio": _number("predicted_over_measured", row["predicted_over_measured"], 1.0, ""),
        "memory": _number("peak_bytes", row["peak_bytes"], MEGA, "MB"),
    }
    return Row(str(row["id"]), _cells(str(row["label"]), dominant, measured), rule_above=rule)


def _formula(formula: str | None) -> tuple[str, ...]:
    return (f"{formula}.",) if formula else ()


def _total(step: Mapping[str, Any], eq12: Mapping[str, Any], paper: Mapping[str, Mapping[str, str]]) -> Row:
    note = (
        "Parameters, gradients, optimiser state and averaged generator, and the most that one update allocates on top; "
        f"Eq. 12's memory is {fixed(eq12['memory_bytes'] / MEGA, 1)} MB."
    )
    alone = "Its terms alone: it has none for the WGAN-GP."
    measured = {
        "double_backward": _number("double_backward", step["flops_double_backward"], GIGA, "GFLOP"),
        "flops": _number("flops", step["flops"], GIGA, "GFLOP"),
        "share": _percent(1.0),
        "predicted": _number("predicted", eq12["flops"], GIGA, "GFLOP", alone),
        "memory": _number("memory_bytes", step["memory_bytes"], MEGA, "MB", note),
    }
    return Row("total", _cells("Joint step", _dominant(paper, "total"), measured), rule_above=True)


def _share(share: Mapping[str, Any], rule: bool) -> Row:
    """A share of operations, with the paper's limit below where it is one of fusion and explainability."""
    percent = 100.0 * float(share["share"])
    compared = share["id"] in ("eq12", "classifier", "joint")
    lines = [fixed(percent, 1)]
    if compared:
        lines += [f"paper < {CLAIMED_PERCENT:g}", "holds" if percent < CLAIMED_PERCENT else "does not hold"]
    measured = Measured("share", "%", mean=percent, paper=CLAIMED_PERCENT if compared else None)
    cell = Cell(tuple(lines), measured=measured)
    words = str(share["definition"])
    cells = _cells(words[:1].upper() + words[1:], BLANK, {"share": cell})
    return Row(str(share["id"]), cells, rule_above=rule)


def _percent(share: float) -> Cell:
    return Cell((fixed(100.0 * share, 1),), measured=Measured("share", "%", mean=100.0 * share))


def _number(metric: str, value: float | None, unit: float, name: str, *notes: str) -> Cell:
    """Three significant digits; blank where the component has no such number."""
    if value is None:
        return BLANK
    return Cell((_significant(value / unit),), notes, Measured(metric, name, mean=value / unit))


def _significant(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
