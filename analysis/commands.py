"""What the commands here share: where they find runs, and how they write and show what they have made of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genxai.errors import GenxaiError
from launch.cli import runs_folder

if TYPE_CHECKING:
    from analysis.formats import Document
    from analysis.measured import Results

#: what analysis/record.py has written and the repository keeps
RECORDED = Path(__file__).resolve().parent / "results"
#: of RUNS and of a record: the counts of analysis/complexity.py, which belong to no run
COUNTED = "complexity"


def results_folder(given: Path | None) -> Path:
    """RUNS as every command finds it; where nobody has named one and ./runs is not there, the recorded results."""
    from analysis.recorded import RUNS_FILE

    root = runs_folder(given)
    if given is not None or os.environ.get("GENXAI_RUNS") or root.exists() or not any(RECORDED.glob(f"*/{RUNS_FILE}")):
        return root
    print(f"no runs in {root}; showing the recorded results in {RECORDED} (--runs for others)", file=sys.stderr)
    return RECORDED


def read_runs(root: Path, without: str) -> Results:
    """The runs under RUNS; says on stderr what was left out, and what `without` any run is missing."""
    from analysis.measured import load_runs

    results = load_runs(root)
    for problem in results.problems:
        print(f"warning: left out: {problem}", file=sys.stderr)
    if not len(results):
        print(f"no runs in {root} yet; {without}", file=sys.stderr)
    return results


def write_documents(
    documents: Sequence[Document], folder: Path, suffixes: Sequence[str] = ("md", "csv", "tex")
) -> list[Path]:
    """Publish every document in every format; raises GenxaiError if the folder cannot be written."""
    from analysis.formats import markdown, tidy_csv
    from analysis.latex import latex

    render = {"md": markdown, "csv": tidy_csv, "tex": latex}
    return write_files(
        {f"{document.name}.{suffix}": render[suffix](document) for document in documents for suffix in suffixes}, folder
    )


def write_files(contents: Mapping[str, str | bytes], folder: Path) -> list[Path]:
    """Publish each file whole; raises GenxaiError if the folder cannot be written."""
    from genxai.files import write_atomic

    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomic(folder / name, content)
    except OSError as error:
        raise GenxaiError(f"cannot write to {folder}: {error.strerror}; choose another folder with --out") from None
    return [folder / name for name in contents]


def print_documents(documents: Sequence[Document]) -> None:
    """Tables on a terminal, Markdown into a pipe."""
    from rich.console import Console

    from analysis.formats import show

    console = Console()
    for document in documents:
        show(document, console)
