"""How tables are written: escaping, footnote marks, alignment, and LaTeX that a TeX engine accepts."""

# ruff: noqa: RUF001 - the typographic minus is what a table shows

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent, as_json, markdown, show, tidy_csv
from analysis.latex import escape, latex

NASTY = r"50% of $x_1 & {a}|b #3 ~ ^ \ <tag> λ_GP ρ − ± — × é ≥ ≤ ✓ ↑ 漢 *b* `c` [d] " + '"q"'


@pytest.fixture
def document() -> Document:
    columns = (Column("row", "Model", left=True), Column("a", "A (%)", notes=("of all",)), Column("b", "B"))
    rows = (
        Row("x", (Cell(("x & y",), ("first",)), Cell(("1.0", "paper 2.0"), ("second", "first")), Cell(("3",)))),
        Row("z", (Cell((NASTY,)), absent("second"), Cell(("[4]",), (), Measured("m", "%", 4.0, n=1)))),
        Row("w", (Cell(("w",)), Cell(("",)), Cell(("5",))), rule_above=True),
    )
    return Document("demo", (Table("demo-1", NASTY, columns, rows, (NASTY,)), Table("demo-2", "two", columns, ())))


def test_equal_notes_share_one_mark_in_order_of_appearance(document: Document) -> None:
    assert document.tables[0].footnotes == {"of all": 1, "first": 2, "second": 3}
    lines = markdown(document).splitlines()
    assert "| Model | A (%) [1] | B |" in lines
    assert "| x & y [2] | 1.0 [3,2]<br>paper 2.0 | 3 |" in lines
    assert [line for line in lines if re.match(r"\d\.", line)][:3] == ["1. of all", "2. first", "3. second"]


def test_every_markdown_row_has_the_columns_of_the_header(document: Document) -> None:
    rows = [line for line in markdown(document).splitlines() if line.startswith("|")]
    assert len(rows) == 8
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} == {4}


def test_csv_has_one_line_per_cell(document: Document) -> None:
    lines = tidy_csv(document).splitlines()
    assert lines[0].startswith(
        "table,row,label,column,text,metric,unit,mean,sd,n,asked,paper,difference,ci_low,ci_high"
    )
    assert len(lines) == 1 + 3 * 2
    assert any(line.startswith("demo-1,z,") and ",b,[4],m,%,4.0,,1," in line for line in lines)


def test_json_holds_texts_numbers_and_notes(document: Document) -> None:
    content = json.loads(json.dumps(as_json(document)))
    first, second, _ = content["tables"][0]["rows"]
    assert first["cells"]["a"] == {"text": "1.0; paper 2.0", "notes": ["second", "first"]}
    assert second["cells"]["b"]["mean"] == 4.0


def test_latex_escapes_everything_and_is_ascii() -> None:
    assert escape("50% & $x_1 {a}#~^\\") == (
        r"50\% \& \$x\_1 \{a\}\#\textasciitilde{}\textasciicircum{}\textbackslash{}"
    )
    assert escape("λ − ± — é 漢") == r"$\lambda$ $-$ $\pm$ --- e ?"
    assert escape(NASTY).isascii()


def test_latex_is_balanced_with_booktabs_rules_and_full_rows(document: Document) -> None:
    text = latex(document)
    bare = re.sub(r"\\[\\{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert _environments_match(text)
    for rule in ("toprule", "bottomrule"):
        assert text.count(f"\\{rule}") == 2
    assert text.count("\\midrule") == 3  # one per header, one drawn by a row
    assert "\\hline" not in text
    rows = re.findall(r"^(?!\\begin).*\\\\$", text, re.MULTILINE)
    assert {len(re.findall(r"(?<!\\)&", line)) for line in rows} == {2}


def _environments_match(text: str) -> bool:
    stack: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            stack.append(name)
        elif not stack or stack.pop() != name:
            return False
    return not stack


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(document: Document, sweep: Any, tables: Any, tmp_path: Path) -> None:
    assert tables()[0] == 0
    (tmp_path / "tables" / "demo.tex").write_text(latex(document))
    inputs = "".join(f"\\input{{{name}}}\n" for name in ("demo", "table1", "table2", "sweep_lambda"))
    source = (
        f"\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\begin{{document}}\n{inputs}\\end{{document}}"
    )
    (tmp_path / "tables" / "all.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path / "tables", capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-2000:]


def test_a_terminal_gets_blocks_of_columns_that_fit(document: Document) -> None:
    wide = tuple(Column(f"c{number}", f"column {number}") for number in range(12))
    row = Row("r", (Cell(("name",)), *(Cell((f"value {number}",)) for number in range(12))))
    table = Table("t", "wide", (Column("row", "Model", left=True), *wide), (row,))
    file = io.StringIO()
    show(Document("d", (table,)), Console(file=file, force_terminal=True, width=60, color_system=None))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= 60
    assert all(f"value {number}" in text for number in range(12))
    assert text.count("Model") > 1  # the row's name opens every block


def test_a_pipe_gets_markdown(document: Document) -> None:
    file = io.StringIO()
    show(document, Console(file=file, force_terminal=False))
    assert file.getvalue() == markdown(document) + "\n"


def test_every_character_of_the_shipped_tables_has_a_latex_equivalent() -> None:
    from analysis.specs import load_tables

    for spec in load_tables():
        words = [spec.caption, *spec.remarks, *(group.caption for group in spec.groups)]
        for part in (*spec.columns, *spec.rows):
            words += [getattr(part, "title", ""), getattr(part, "label", ""), *part.notes]
        text = " ".join(words)
        assert escape(text).count("?") == text.count("?"), spec.id
