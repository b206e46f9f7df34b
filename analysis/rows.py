"""Comparison tables: each row a question to the runs, its answer beside the paper's figure or another row's.

Which runs stand for a row is decided in `analysis.choices`; this is how they are set out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from analysis.captions import caption
from analysis.cells import difference_cell, measured_cell, reference_cell
from analysis.choices import Choice, Setting, choose, each_row, settings
from analysis.configuration import Configuration
from analysis.differences import Difference, corrected, in_words, paired
from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent
from analysis.measured import Results
from analysis.specs import ColumnSpec, GroupSpec, RowSpec, TableSpec, paper_rows, paper_value
from analysis.verdicts import fixed


def comparison(spec: TableSpec, results: Results) -> Document:
    """The table once per setting found (`split_by`) and group of columns; once, with nothing in it, without runs."""
    return Document(spec.id, tuple(table for place in settings(spec, results) for table in _Page(spec, place).tables()))


@dataclass(frozen=True)
class _Page:
    """One setting's rows, answered once for all groups of columns."""

    spec: TableSpec
    place: Setting

    def tables(self) -> list[Table]:
        spec = self.spec
        groups = spec.groups or (GroupSpec(id="all", caption=spec.caption, columns=tuple(c.id for c in spec.columns)),)
        return [self._table(group, f"{self.place.id}-{group.id}" if spec.groups else self.place.id) for group in groups]

    def _table(self, group: GroupSpec, name: str) -> Table:
        chosen = [next(c for c in self.spec.columns if c.id == wanted) for wanted in group.columns]
        columns = [Column("row", "Model", left=True)]
        columns += [Column(column.id, column.title, notes=column.notes) for column in chosen]
        rows: list[Row] = []
        rule = False
        for row in self.rows:
            rule = rule or row.rule  # of a row that is left out, its rule stands above the next one
            if self.shown(row) and (not row.reference or set(row.reference) & set(group.columns)):
                rows.append(replace(self._row(row, chosen), rule_above=rule and bool(rows)))
                rule = False
        title = self.place.described(group.caption)
        return Table(name, title, tuple(columns), tuple(rows), self._remarks(chosen), self.spec.per_seed)

    # --- which rows -----------------------------------------------------------------------------

    @cached_property
    def rows(self) -> tuple[RowSpec, ...]:
        return tuple(one for row in self.spec.rows for one in each_row(self.place, row))

    @cached_property
    def choices(self) -> dict[str, Choice]:
        return {row.id: choose(self.place, row) for row in self.rows}

    @cached_property
    def _everything(self) -> list[Configuration]:
        return self.place.runs.configurations() if self.place.runs else []

    def shown(self, row: RowSpec) -> bool:
        """A row that a sweep has, or could answer, in this setting; of the others those that nobody has to ask for."""
        if row.of is not None:
            return all(self.choices[name].configuration is not None for name in (row.of, self._against(row)))
        if row.reference:
            return any(c.by_seed(metric) for c in self._everything for metric in row.reference.values())
        choice = self.choices[row.id]
        if choice.configuration is not None or choice.planned:
            return True
        return not row.extra and not self.place.records

    def _against(self, row: RowSpec) -> str:
        return row.against or self.spec.against or row.id

    # --- differences ----------------------------------------------------------------------------

    @cached_property
    def differences(self) -> dict[str, dict[str, Difference]]:
        """By column and row, corrected for the number of rows: rows `of` others where there are such, else all."""
        asking = [row for row in self.rows if row.of is not None]
        asking = asking or [row for row in self.rows if row.where is not None and self.spec.against]
        found = {}
        for column in self.spec.columns:
            pairs = {row.id: self._difference(row, column) for row in asking if self.shown(row)}
            found[column.id] = corrected({name: pair for name, pair in pairs.items() if pair is not None})
        return found

    def _difference(self, row: RowSpec, column: ColumnSpec) -> Difference | None:
        name, against = row.of or row.id, self._against(row)
        one, other = self.choices[name].configuration, self.choices[against].configuration
        if one is None or other is None or one.key == other.key or column.id in row.absent:
            return None
        values = (one.by_seed(column.metric, column.scale), other.by_seed(column.metric, column.scale))
        return paired(*values, against, self.spec.verdict.confidence)

    # --- rows -----------------------------------------------------------------------------------

    def _row(self, row: RowSpec, columns: Sequence[ColumnSpec]) -> Row:
        if row.reference:
            return self._reference(row, columns)
        if row.of is not None:
            return self._difference_row(row, columns)
        choice = self.choices[row.id]
        cells = [Cell((row.label,), (*row.notes, *choice.notes, *self._repeated(row, choice)))]
        cells += [self._cell(row, column, choice) for column in columns]
        if choice.configuration is None:
            return Row(row.id, tuple(cells))
        return Row(row.id, tuple(cells), choice.configuration.key, tuple(choice.configuration.signatures()))

    def _repeated(self, row: RowSpec, choice: Choice) -> list[str]:
        """That an earlier row has the same runs."""
        for other in self.rows:
            if other.id == row.id or choice.configuration is None:
                return []
            theirs = self.choices[other.id].configuration
            if theirs is not None and theirs.key == choice.configuration.key:
                return [f"The same runs as '{other.label}'."]
        return []

    def _cell(self, row: RowSpec, column: ColumnSpec, choice: Choice) -> Cell:
        paper = paper_rows(self.spec.paper)
        figure = paper_value(paper, row.id, column.paper)
        below = () if figure is None else (f"paper {fixed(figure, column.digits)}",)
        nothing = Measured(column.metric, column.unit, paper=figure)
        if column.id in row.absent:
            return absent(row.absent[column.id], *below, measured=nothing)
        if choice.configuration is None:
            return absent(choice.reason, *below, measured=nothing)
        difference = self.differences[column.id].get(row.id)
        if not column.difference:
            return measured_cell(choice.configuration, column, figure, self.spec.verdict, difference)
        if row.id == self._against(row):
            return absent("Other rows are compared with this one.", measured=nothing)
        return difference_cell(column, difference, self._why_no_pair(row, column))

    def _why_no_pair(self, row: RowSpec, column: ColumnSpec) -> str:
        name, against = row.of or row.id, self._against(row)
        one, other = self.choices[name].configuration, self.choices[against].configuration
        if one is None or other is None:
            return f"'{against}' has not been run in this setting."
        if one.key == other.key:
            return "The same runs stand for both rows."
        return f"Fewer than two seeds in common with a value of {column.metric}."

    def _difference_row(self, row: RowSpec, columns: Sequence[ColumnSpec]) -> Row:
        cells = [Cell((row.label,), row.notes)]
        for column in columns:
            found = self.differences[column.id].get(row.id)
            cells.append(difference_cell(column, found, self._why_no_pair(row, column)))
        both = [self.choices[name].configuration for name in (row.of or row.id, self._against(row))]
        signatures = [signature for one in both if one is not None for signature in one.signatures()]
        return Row(row.id, tuple(cells), signatures=tuple(signatures))

    def _reference(self, row: RowSpec, columns: Sequence[ColumnSpec]) -> Row:
        cells = [Cell((row.label,), row.notes)]
        for column in columns:
            metric = row.reference.get(column.id)
            cells.append(reference_cell(column, metric, self._everything) if metric else Cell(("",)))
        return Row(row.id, tuple(cells))

    # --- below the table ------------------------------------------------------------------------

    def _remarks(self, columns: Sequence[ColumnSpec]) -> tuple[str, ...]:
        remarks = list(self.spec.remarks)
        missing = [row.label for row in self.rows if row.where is not None and not self.shown(row)]
        if missing:
            remarks.append(caption(f"Not run in this setting: {'; '.join(missing)}"))
        if any(column.difference for column in columns) or any(row.of for row in self.rows):
            remarks.append(in_words(self.spec.verdict.confidence))
        if any(column.paper for column in columns):
            remarks.append(self.spec.verdict.in_words())
        return tuple(remarks)
