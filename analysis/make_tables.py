"""Command: the paper's tables and every sweep's own from whatever has been run so far.

Reads run directories, never models. Any partial state gives a table; an em-dash says why it is one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.commands import print_documents, read_runs, results_folder, write_documents
from genxai.errors import UsageError
from launch.cli import add_runs_option, make_parser, run_command

if TYPE_CHECKING:
    from analysis.formats import Document
    from analysis.measured import Results
    from analysis.specs import TableSpec

DESCRIPTION = """
Write the paper's tables from run directories: each as Markdown, tidy CSV and LaTeX (booktabs), and print them.

Only finished runs enter a mean. A cell is mean ± sample standard deviation with the number of seeds, (2/3) when some
are missing; the paper's figure stands below it with the difference, its 95 % t-interval and a verdict. Without --runs
and without ./runs the tables are made from the recorded results in analysis/results.
"""

EXAMPLES = """
  python analysis/make_tables.py                            all tables from ./runs into ./tables
  python analysis/make_tables.py --tables 1,2               only Tables 1 and 2
  python analysis/make_tables.py --tables sweep_lambda      only the table of the sweep 'lambda'
  python analysis/make_tables.py --tables 7                 what analysis/complexity.py has counted
  python analysis/make_tables.py --runs /scratch/runs --out paper/tables
  python analysis/make_tables.py --tables rho,generator     the headline by strength of the shortcut; the generator
  python analysis/make_tables.py --runs analysis/results    from the results that the repository keeps
  python analysis/make_tables.py --json | jq '.documents[].name'
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 with tables written, 1 if runs cannot be read or files not written, 2 for a wrong option."""
    options = _parser().parse_args(argv)
    return run_command(lambda: make_tables(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("make_tables.py", DESCRIPTION, EXAMPLES)
    add_runs_option(parser)
    parser.add_argument("--out", type=Path, default=Path("tables"), metavar="DIR", help="folder to write to (./tables)")
    parser.add_argument(
        "--tables", metavar="NAMES", help="comma-separated: 1, 2, ..., sweep (all sweeps) or sweep_NAME; default: all"
    )
    parser.add_argument("--json", action="store_true", help="print the tables as one JSON object instead")
    return parser


def make_tables(options: argparse.Namespace) -> int:
    """Read, build, write, print."""
    from analysis.formats import as_json
    from analysis.specs import load_tables
    from genxai.files import finite

    root = results_folder(options.runs)
    specs = load_tables()
    wanted = _wanted(options.tables, specs)
    results = read_runs(root, "the tables have no measured values")
    documents = build(specs, results, wanted) + counted(root, wanted)
    files = write_documents(documents, options.out)
    if options.json:
        sweeps = {name: sweep.selected for name, sweep in results.sweeps.items()}
        content = {"runs": str(root), "documents": [as_json(document) for document in documents], "selected": sweeps}
        print(json.dumps(finite(content), indent=1, ensure_ascii=False, default=str))
        return 0
    # the sweep's own table last: it is what a person has just waited for
    print_documents(sorted(documents, key=lambda document: document.name.startswith("sweep_")))
    print(f"wrote {len(files)} files to {options.out}", file=sys.stderr)
    return 0


def _wanted(text: str | None, specs: Sequence[TableSpec]) -> set[str] | None:
    """Names asked for; None for all. `sweep_NAME` is checked when the sweeps are known."""
    if text is None:
        return None
    from analysis import table7

    known = {name: spec.id for spec in specs for name in (spec.id, spec.number)}
    known |= {table7.ID: table7.ID, table7.NUMBER: table7.ID}
    wanted = set()
    for name in (part.strip() for part in text.split(",")):
        if name not in known and not name.startswith("sweep_"):
            allowed = ", ".join(sorted({spec.number for spec in specs} | {table7.NUMBER, "sweep_NAME"}))
            raise UsageError(f"--tables: unknown table {name!r}; allowed: {allowed}")
        wanted.add(known.get(name, name))
    return wanted


def build(specs: Sequence[TableSpec], results: Results, wanted: set[str] | None) -> list[Document]:
    """The documents asked for, in the order of the specifications."""
    from analysis.cost_table import cost_table
    from analysis.hyperparameters import hyperparameters
    from analysis.rows import comparison
    from analysis.sweep_table import sweep_tables
    from analysis.text_table import text_table

    documents: list[Document] = []
    makers = {"comparison": comparison, "hyperparameters": hyperparameters, "text": text_table, "cost": cost_table}
    for spec in specs:
        if spec.kind == "sweep":
            every = sweep_tables(spec, results)
            documents += [d for d in every if wanted is None or spec.id in wanted or d.name in wanted]
        elif wanted is None or spec.id in wanted:
            document = makers[spec.kind](spec, results)
            if wanted is not None or not spec.optional or _has_runs(document):
                documents.append(document)
    made = {document.name for document in documents}
    for name in sorted(wanted or ()):
        if name.startswith("sweep_") and name not in made:
            raise UsageError(f"--tables: there is no sweep {name.removeprefix('sweep_')!r} among the runs")
    return documents


def _has_runs(document: Document) -> bool:
    return any(row.signatures for table in document.tables for row in table.rows)


def counted(root: Path, wanted: set[str] | None) -> list[Document]:
    """Table 7, which no run directory has: analysis/complexity.py writes what it is made of."""
    from analysis import table7

    if wanted is not None and table7.ID not in wanted:
        return []
    document, problems = table7.complexity(root)
    for problem in problems:
        print(f"warning: left out: {problem}", file=sys.stderr)
    return [document]


if __name__ == "__main__":
    sys.exit(main())
