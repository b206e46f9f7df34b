"""Table 1: every hyper-parameter of the paper, what was searched and selected there and here.

Our search space is what the sweep's definition says and what its runs actually visited.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analysis.captions import caption, scale_warning
from analysis.configuration import Configuration
from analysis.formats import Cell, Column, Document, Row, Table, absent
from analysis.measured import Results
from analysis.specs import HyperparameterSpec, TableSpec, paper_rows
from analysis.sweeps import Sweep
from analysis.verdicts import EM_DASH, plain
from genxai.configfile import get_dotted
from genxai.runs import State

COLUMNS = (
    Column("hyperparameter", "Hyper-parameter", left=True),
    Column("key", "option", left=True),
    Column("paper_space", "paper: searched", left=True),
    Column("paper_selected", "paper: selected", left=True),
    Column("our_space", "ours: searched", left=True),
    Column("our_selected", "ours: selected", left=True),
    Column("verdict", "verdict", left=True),
)

LOST = "Lost in the paper's source text."
#: more visited values than this are told as a range
LISTED = 6


def hyperparameters(spec: TableSpec, results: Results) -> Document:
    """The table once per sweep that searched something; else once over all runs there are."""
    names = [name for name in results.sweep_names() if not results.has_rows(name) and results.swept_keys(name)]
    if names:
        tables = [_table(spec, name, results.in_folder(name), results.sweeps.get(name, Sweep(name))) for name in names]
    else:
        tables = [_table(spec, "", results.reported().unnamed, Sweep(""))]
    return Document(spec.id, tuple(tables))


def _table(spec: TableSpec, name: str, runs: Results, sweep: Sweep) -> Table:
    configurations = runs.configurations()
    chosen = sweep.chosen(configurations)
    searched = runs.swept_keys(name)
    paper = paper_rows(spec.paper)
    rows = [
        _row(item, paper.get(item.id, {}), _Ours(item.key, searched, configurations, chosen, sweep))
        for item in spec.hyperparameters
    ]
    known = {item.key for item in spec.hyperparameters}
    for key in searched:
        if key not in known:
            extra = HyperparameterSpec(id=key, label=key.rpartition(".")[2].replace("_", " "), key=key)
            rows.append(_row(extra, None, _Ours(key, searched, configurations, chosen, sweep)))
    which = f"Sweep '{name}'" if name else "No sweep has been run"
    title = caption(spec.caption, which, scale_warning([c.config for c in configurations]))
    remarks = (*spec.remarks, f"Selection: {sweep.rule}") if sweep.rule else spec.remarks
    return Table(f"{spec.id}-{name}" if name else spec.id, title, COLUMNS, tuple(rows), remarks)


class _Ours:
    """What our runs say about one option."""

    def __init__(
        self,
        key: str | None,
        searched: Sequence[str],
        configurations: Sequence[Configuration],
        chosen: Configuration | None,
        sweep: Sweep,
    ) -> None:
        self.searched = key in searched
        self.axis = sweep.definition.space.get(key or "") if sweep.definition else None
        started = [c for c in configurations if any(state is not State.PENDING for state in c.frame["state"])]
        self.visited = _distinct([get_dotted(c.config, key) for c in started]) if key else []
        self.planned = _distinct([get_dotted(c.config, key) for c in configurations]) if key else []
        self.chosen = [get_dotted(chosen.config, key)] if chosen and key else []

    def space(self) -> Cell:
        """Grid and range of the definition, then what has been visited."""
        if not self.planned and not self.axis:
            return absent("No run yet.")
        if not self.searched:
            return Cell(("fixed",)) if len(self.planned) == 1 else Cell((f"set by hand: {_values(self.planned)}",))
        lines = []
        if self.axis and self.axis.grid:
            lines.append(f"grid {_values(self.axis.grid)}")
        if self.axis and self.axis.low is not None:
            scale = ", log scale" if self.axis.log else ""
            lines.append(f"range [{plain(self.axis.low)}, {plain(self.axis.high)}]{scale}")
        lines.append(f"visited {_values(self.visited)}" if self.visited else "nothing visited yet")
        return Cell(tuple(lines))

    def selected(self) -> list[Any]:
        """One value, or none if nothing has been selected."""
        if self.chosen:
            return self.chosen
        return self.planned if len(self.planned) == 1 and not self.searched else []


def _row(item: HyperparameterSpec, paper: dict[str, str] | None, ours: _Ours) -> Row:
    label = Cell((item.label,))
    printed = [_printed(None if paper is None else paper.get(name, "")) for name in ("search_space", "selected")]
    if item.key is None:
        return Row(item.id, (label, absent(item.why), *printed, *(absent(item.why) for _ in range(3))))
    value = ours.selected()
    reason = "The sweep has not selected a point yet." if ours.searched else "Runs with different values, no sweep."
    selected = Cell((plain(value[0]),)) if value else absent(reason if ours.planned else "No run yet.")
    cells = (label, Cell((item.key,)), *printed, ours.space(), selected, _verdict(item, printed[1], value))
    return Row(item.id, cells)


def _printed(text: str | None) -> Cell:
    """What the paper prints; an em-dash where it is lost or there is no such row."""
    if text is None:
        return absent("Not in the paper's table.")
    return absent(LOST) if not text or text.startswith("(lost") else Cell((text,))


def _verdict(item: HyperparameterSpec, printed: Cell, value: Sequence[Any]) -> Cell:
    if printed.lines == (EM_DASH,):
        return Cell((EM_DASH,), printed.notes)
    if not value:
        return absent("Nothing selected here to compare with.")
    return Cell(("equal" if _equal(item.same.get(printed.text, printed.text), value[0]) else "differs",))


def _equal(paper: Any, ours: Any) -> bool:
    try:
        return float(paper) == float(ours)
    except (TypeError, ValueError):
        return str(paper).lower() == str(ours).lower()


def _distinct(values: Sequence[Any]) -> list[Any]:
    """Each value once; numbers in order."""
    once = list({repr(value): value for value in values}.values())
    return sorted(once) if all(isinstance(value, int | float) for value in once) else sorted(once, key=str)


def _values(values: Sequence[Any]) -> str:
    """`{1, 3, 10}`, or `0.1 to 42 (17 values)` when there are many numbers."""
    if len(values) > LISTED and all(isinstance(value, int | float) for value in values):
        return f"{plain(min(values))} to {plain(max(values))} ({len(values)} values)"
    return "{" + ", ".join(plain(value) for value in values) + "}"
