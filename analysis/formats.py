"""One table model, and how it is written: Markdown, tidy CSV, LaTeX (booktabs), JSON and the terminal.

A cell is what is shown (lines, footnotes) plus the numbers behind it, so that no format has to parse another.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from analysis.verdicts import EM_DASH

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Measured:
    """The numbers behind a cell, in the cell's unit; None where there is none."""

    metric: str
    unit: str
    mean: float | None = None
    sd: float | None = None
    n: int = 0
    asked: int | None = None
    paper: float | None = None
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    verdict: str | None = None
    #: a closed form, or what sampling alone gives, that the value is held against in place of a figure of the paper
    reference: float | None = None
    #: ends of the t-interval of the mean over seeds; of one run's bootstrap over test samples
    seed_low: float | None = None
    seed_high: float | None = None
    bootstrap_low: float | None = None
    bootstrap_high: float | None = None
    #: difference to the row `against`, paired by seed; its p-value alone and corrected for the rows of the table
    against: str | None = None
    against_difference: float | None = None
    against_low: float | None = None
    against_high: float | None = None
    against_n: int | None = None
    against_p: float | None = None
    against_p_holm: float | None = None


@dataclass(frozen=True)
class SeedValue:
    """One seed's value of a cell, and the ends of its bootstrap interval over test samples where it has one."""

    seed: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Cell:
    """Lines shown one under another, remarks that become footnotes, and the numbers."""

    lines: tuple[str, ...]
    notes: tuple[str, ...] = ()
    measured: Measured | None = None
    seeds: tuple[SeedValue, ...] = ()

    @property
    def text(self) -> str:
        return "; ".join(self.lines)


def absent(reason: str, *more: str, measured: Measured | None = None) -> Cell:
    """An em-dash that says why, with further lines below."""
    return Cell((EM_DASH, *more), (reason,), measured)


@dataclass(frozen=True)
class Column:
    id: str
    title: str
    left: bool = False  # text is aligned left, numbers right
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """Cells in the order of the columns; `configuration` and `signatures` name the runs behind them."""

    id: str
    cells: tuple[Cell, ...]
    configuration: str = ""
    signatures: tuple[str, ...] = ()
    rule_above: bool = False


@dataclass(frozen=True)
class Table:
    id: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    remarks: tuple[str, ...] = ()  # about the whole table, below the footnotes
    per_seed: bool = False  # the CSV has a line per seed, too

    @cached_property
    def footnotes(self) -> dict[str, int]:
        """The different notes of titles and cells with their marks: 1, 2, ... in order of appearance."""
        in_titles = [note for column in self.columns for note in column.notes]
        in_cells = [note for row in self.rows for cell in row.cells for note in cell.notes]
        return {note: mark for mark, note in enumerate(dict.fromkeys(in_titles + in_cells), 1)}

    def marks(self, place: Cell | Column) -> list[int]:
        """The marks a cell or a title carries."""
        return [self.footnotes[note] for note in dict.fromkeys(place.notes)]


@dataclass(frozen=True)
class Document:
    """The tables of one file name: the same table for every setting found."""

    name: str
    tables: tuple[Table, ...]


# --- Markdown ------------------------------------------------------------------------------------


def markdown(document: Document) -> str:
    return "\n".join(_markdown_table(table) for table in document.tables)


def _markdown_table(table: Table) -> str:
    lines = [f"**{_escape_markdown(table.caption)}**", ""]
    titles = (_escape_markdown(column.title) + _bracketed(table.marks(column)) for column in table.columns)
    lines.append("| " + " | ".join(titles) + " |")
    lines.append("|" + "|".join(" :--- " if column.left else " ---: " for column in table.columns) + "|")
    for row in table.rows:
        if row.rule_above:
            lines.append("|" + "  |" * len(table.columns))
        cells = []
        for cell in row.cells:
            first, *rest = (_escape_markdown(line) for line in cell.lines)
            cells.append("<br>".join([first + _bracketed(table.marks(cell)), *rest]))
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    lines += [f"{mark}. {_escape_markdown(note)}" for note, mark in table.footnotes.items()]
    lines += ["", *(f"{_escape_markdown(remark)}\n" for remark in table.remarks)]
    return "\n".join(lines) + "\n"


def _bracketed(marks: Sequence[int]) -> str:
    return f" [{','.join(map(str, marks))}]" if marks else ""


def _escape_markdown(text: str) -> str:
    text = " ".join(text.split())
    return "".join(_MARKDOWN.get(character, character) for character in text)


_MARKDOWN = {"|": "\\|", "<": "&lt;", "*": "\\*", "`": "\\`", "\\": "\\\\"}


# --- CSV and JSON --------------------------------------------------------------------------------

_NUMBERS = [field.name for field in dataclasses.fields(Measured)]
CSV_HEADER = ["table", "row", "label", "column", "text", *_NUMBERS, "notes", "configuration", "signatures", "seed"]


def tidy_csv(document: Document) -> str:
    """One line per cell: what is shown, and every number in a column of its own, unrounded.

    A table `per_seed` has below each cell's line one per seed: `mean` is that seed's value.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for table in document.tables:
        for row, column, cell in _cells(table):
            head = [table.id, row.id, row.cells[0].text, column.id]
            tail = [row.configuration, " ".join(row.signatures)]
            writer.writerow([*head, cell.text, *_numbers(cell.measured), " / ".join(cell.notes), *tail, ""])
            for seed, alone in _per_seed(cell) if table.per_seed else ():
                writer.writerow([*head, "", *_numbers(alone), "", *tail, seed])
    return file.getvalue()


def _per_seed(cell: Cell) -> Iterator[tuple[int, Measured]]:
    for one in cell.seeds if cell.measured else ():
        metric, unit = (cell.measured.metric, cell.measured.unit) if cell.measured else ("", "")
        yield one.seed, Measured(metric, unit, one.value, n=1, bootstrap_low=one.low, bootstrap_high=one.high)


def _numbers(measured: Measured | None) -> list[Any]:
    numbers = dataclasses.asdict(measured) if measured else {}
    return ["" if numbers.get(name) is None else numbers[name] for name in _NUMBERS]


def _cells(table: Table) -> Iterator[tuple[Row, Column, Cell]]:
    for row in table.rows:
        for column, cell in zip(table.columns[1:], row.cells[1:], strict=True):
            yield row, column, cell


def as_json(document: Document) -> dict[str, Any]:
    """The tables as plain values for json.dumps."""
    return {"name": document.name, "tables": [_json_table(table) for table in document.tables]}


def _json_table(table: Table) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        cells = {}
        for column, cell in zip(table.columns, row.cells, strict=True):
            numbers = dataclasses.asdict(cell.measured) if cell.measured else {}
            cells[column.id] = {"text": cell.text, **numbers, "notes": list(cell.notes)}
        rows.append(
            {"id": row.id, "configuration": row.configuration, "signatures": list(row.signatures), "cells": cells}
        )
    columns = [{"id": column.id, "title": column.title, "notes": list(column.notes)} for column in table.columns]
    remarks = list(table.remarks)
    return {"id": table.id, "caption": table.caption, "columns": columns, "rows": rows, "remarks": remarks}


# --- the terminal --------------------------------------------------------------------------------


#: a column of text asks for at most this many characters; longer lines wrap
WRAPPED = 40


def show(document: Document, console: Console) -> None:
    """Rich tables on a terminal, cut into blocks of columns that fit its width; Markdown into a pipe."""
    if not console.is_terminal:
        console.file.write(markdown(document) + "\n")
        return
    for table in document.tables:
        _show_table(table, console)


def _show_table(table: Table, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table as RichTable

    console.print(f"\n[bold]{escape(table.caption)}[/bold]", highlight=False)
    for block in _blocks(table, console.width):
        rich = RichTable(show_lines=any(len(cell.lines) > 1 for row in table.rows for cell in row.cells))
        for index in block:
            column = table.columns[index]
            rich.add_column(escape(_terminal_title(table, column)), justify="left" if column.left else "right")
        for row in table.rows:
            if row.rule_above:
                rich.add_section()
            rich.add_row(*(escape(_terminal_text(table, row.cells[index])) for index in block))
        console.print(rich, highlight=False)
    for note, mark in table.footnotes.items():
        console.print(f"[dim]{mark:>3}. {escape(note)}[/dim]", highlight=False)
    for remark in table.remarks:
        console.print(f"[dim]     {escape(remark)}[/dim]", highlight=False)


def _terminal_title(table: Table, column: Column) -> str:
    return column.title + _bracketed(table.marks(column))


def _terminal_text(table: Table, cell: Cell) -> str:
    return "\n".join([cell.lines[0] + _bracketed(table.marks(cell)), *cell.lines[1:]])


def _blocks(table: Table, width: int) -> list[list[int]]:
    """Column indices per block; the first column opens every block."""
    border = 3
    sizes = []
    for index, column in enumerate(table.columns):
        texts = [_terminal_title(table, column), *(_terminal_text(table, row.cells[index]) for row in table.rows)]
        size = max(len(line) for text in texts for line in text.split("\n"))
        sizes.append((min(size, WRAPPED) if column.left else size) + border)
    blocks, used = [[0]], sizes[0] + 1
    for index in range(1, len(sizes)):
        if len(blocks[-1]) > 1 and used + sizes[index] > width:
            blocks.append([0])
            used = sizes[0] + 1
        blocks[-1].append(index)
        used += sizes[index]
    return blocks
