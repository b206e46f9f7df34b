"""Tables as LaTeX (booktabs): a `table` environment per table, every character escaped, pdflatex-safe."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from analysis.formats import Cell, Document, Table

#: tables with more columns are scaled to the line
WIDE = 4

HEADER = "% needs \\usepackage{booktabs} and \\usepackage{graphicx}; plain ASCII, any engine\n"


def latex(document: Document) -> str:
    """The document's tables as floats, to be \\input into a paper."""
    return HEADER + "\n".join(_float(table) for table in document.tables)


def _float(table: Table) -> str:
    wide = len(table.columns) > WIDE
    lines = [
        "\\begin{table}[htbp]",
        "\\centering\\small",
        f"\\caption{{{escape(table.caption)}}}",
        f"\\label{{tab:{label(table.id)}}}",
        "\\resizebox{\\textwidth}{!}{%" if wide else "",
        _tabular(table) + ("}" if wide else ""),
        *_below(table),
        "\\end{table}",
    ]
    return "\n".join(line for line in lines if line) + "\n"


def _tabular(table: Table) -> str:
    alignment = "".join("l" if column.left else "r" for column in table.columns)
    lines = [f"\\begin{{tabular}}{{{alignment}}}", "\\toprule"]
    lines.append(" & ".join(escape(column.title) + _raised(table.marks(column)) for column in table.columns) + " \\\\")
    lines.append("\\midrule")
    for row in table.rows:
        if row.rule_above:
            lines.append("\\midrule")
        cells = zip(table.columns, row.cells, strict=True)
        lines.append(" & ".join(_cell(table, cell, "l" if column.left else "r") for column, cell in cells) + " \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])


def _cell(table: Table, cell: Cell, side: str) -> str:
    lines = [escape(line) for line in cell.lines]
    lines[0] += _raised(table.marks(cell))
    if len(lines) == 1:
        # braces keep a leading "[" from being read as the optional argument of the row before
        return f"{{{lines[0]}}}" if lines[0].startswith("[") else lines[0]
    stacked = " \\\\ ".join(f"{{{line}}}" for line in lines)
    return f"\\begin{{tabular}}[t]{{@{{}}{side}@{{}}}}{stacked}\\end{{tabular}}"


def _raised(marks: Sequence[int]) -> str:
    return f"\\textsuperscript{{{','.join(map(str, marks))}}}" if marks else ""


def _below(table: Table) -> list[str]:
    notes = [f"\\textsuperscript{{{mark}}} {escape(note)}" for note, mark in table.footnotes.items()]
    notes += [escape(remark) for remark in table.remarks]
    if not notes:
        return []
    return ["\\par\\medskip", "\\begin{minipage}{\\textwidth}\\footnotesize", "\\par\n".join(notes), "\\end{minipage}"]


def label(text: str) -> str:
    """Letters, digits and hyphens of a name."""
    return "".join(character if character.isascii() and character.isalnum() else "-" for character in text)


def escape(text: str) -> str:
    """Any text as printable LaTeX in plain ASCII; a character without an equivalent becomes a question mark."""
    return "".join(_escape_character(character) for character in " ".join(text.split()))


def _escape_character(character: str) -> str:
    if character in _LATEX:
        return _LATEX[character]
    if character.isascii():
        return character
    decomposed = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return "".join(_LATEX.get(part, part) for part in decomposed) or "?"


_LATEX = {
    "\\": "\\textbackslash{}",
    "{": "\\{",
    "}": "\\}",
    "&": "\\&",
    "%": "\\%",
    "$": "\\$",
    "#": "\\#",
    "_": "\\_",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "<": "\\textless{}",
    ">": "\\textgreater{}",
    "|": "\\textbar{}",
    '"': "''",
    "—": "---",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": "$-$",
    "±": "$\\pm$",
    "\N{MULTIPLICATION SIGN}": "$\\times$",
    "·": "$\\cdot$",
    "≥": "$\\ge$",
    "≤": "$\\le$",
    "≠": "$\\ne$",
    "→": "$\\to$",
    "↑": "$\\uparrow$",
    "↓": "$\\downarrow$",
    "✓": "$\\surd$",
    "λ": "$\\lambda$",
    "Δ": "$\\Delta$",
    "\N{GREEK SMALL LETTER RHO}": "$\\rho$",
    "τ": "$\\tau$",
}
