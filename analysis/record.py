"""Command: finished runs in a compact form that a repository can keep and tables can be made from.

Per sweep its definition, what it selected, and one line per run; no checkpoint, no host name, no path of a machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxai.errors import EXIT_OK, GenxaiError, UsageError
from launch.cli import absolute, add_runs_option, make_parser, run_command, runs_folder

if TYPE_CHECKING:
    from genxai.runs import Run

DESCRIPTION = """
Write the finished runs of sweeps in a compact form: OUT/<sweep>/sweep.yaml, selected.yaml and runs.jsonl (one line per
run: signature, configuration, result, evaluations, what it was made with). What was recorded before is replaced, and
nothing of it is lost: a record with runs that RUNS lacks is refused until analysis/restore.py has brought them back.

A sweep that has not ended is refused unless --partial is given; what is missing is said either way.
"""

EXAMPLES = """
  python analysis/record.py --out analysis/results                    every sweep under ./runs
  python analysis/record.py --out analysis/results table2 table3      these two
  python analysis/record.py --out analysis/results table2 --partial   what there is of one that has not ended
  python analysis/make_tables.py --runs analysis/results              tables from them, on any machine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 recorded, 1 if a sweep has not ended or cannot be read or written, 2 for a wrong option."""
    options = _parser().parse_args(argv)
    return run_command(lambda: record(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("record.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="folders under RUNS; default: all with runs in them")
    add_runs_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--partial", action="store_true", help="record what is finished of a sweep that has not ended")
    return parser


def record(options: argparse.Namespace) -> int:
    """Read every sweep first, then write: a sweep that is refused leaves all as it was."""
    from analysis.commands import print_documents, write_files
    from analysis.cost_table import cost_table
    from analysis.measured import load_runs
    from analysis.recorded import RUNS_FILE
    from analysis.specs import load_tables

    root, out = runs_folder(options.runs), absolute(options.out)
    if root.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(f"--out: {out} is where the runs are; choose another folder, for example analysis/results")
    known = _with_runs(root)
    if not known:
        raise GenxaiError(f"there are no runs in {root}; choose another folder with --runs")
    for name in options.sweeps:
        if name not in known:
            raise UsageError(f"{name!r} is no sweep with runs in {root}; there are: {', '.join(known)}")
    content = {name: _compact(root, name, options.partial) for name in options.sweeps or known}
    content = {name: _keeping(out / name, files, options.partial) for name, files in content.items()}
    for name in content:
        _check_reused(root, name, {*content, *(file.parent.name for file in out.glob(f"*/{RUNS_FILE}"))})
    for name, files in content.items():
        texts = [text for text in files.values() if text is not None]
        write_files({file: text for file, text in files.items() if text is not None}, out / name)
        size, count = sum(len(text.encode()) for text in texts), texts[0].count("\n")
        print(f"{name}: {count} runs, {size / 1e6:.1f} MB in {out / name}", file=sys.stderr)
        if len(made_by := _commits(texts[0])) > 1:
            words = ", ".join(f"{commit[:12]} ({runs})" for commit, runs in made_by.most_common())
            print(f"{name}: note: its runs were started by several versions of the code: {words}", file=sys.stderr)
    _copy_counted(root, out)
    spec = next(table for table in load_tables() if table.kind == "cost")
    print_documents([cost_table(spec, load_runs(out))])
    return EXIT_OK


def _with_runs(root: Path) -> list[str]:
    from genxai.runs import find_runs

    return sorted({run.sweep for run in find_runs(root)})


def _compact(root: Path, name: str, partial: bool) -> dict[str, str | None]:
    """The files of one sweep by name, None for one that it does not have.

    Raises GenxaiError if it has not ended, or something in it cannot be recorded.
    """
    from analysis.recorded import RUNS_FILE, hashes, recorded_line
    from analysis.sweeps import yaml_file
    from genxai.runs import State, find_runs
    from launch.sweepdir import SweepDir

    runs = sorted(find_runs(root, name), key=lambda run: run.signature)
    folder = SweepDir(root / name)
    definition, selected = yaml_file(folder.definition), yaml_file(folder.selected)
    missing = unfinished(root, runs, selected)
    if definition.get("rows") and not selected.get("rows"):
        missing.append(f"{folder.selected} does not say which runs are whose: start the sweep again, which writes it")
    if missing and not partial:
        raise GenxaiError(
            f"{name} has not ended: {'; '.join(missing)}. Finish it, or give --partial to record the rest"
        )
    for line in missing:
        print(f"{name}: {line}", file=sys.stderr)
    done = [run for run in runs if run.state is State.DONE]
    if not done:
        raise GenxaiError(f"{name}: none of its runs has finished; there is nothing to record")
    renamed: dict[str, str] = {}
    try:
        for run in runs:
            renamed |= hashes(run.config())
        files: dict[str, str | None] = {RUNS_FILE: "".join(f"{recorded_line(run)}\n" for run in done)}
    except UsageError as error:  # a configuration that cannot be read, which is no wrong option
        raise GenxaiError(str(error)) from None
    if isinstance(definition.get("base"), str):
        definition["base"] = Path(definition["base"]).name  # a preset, or a file whose path is of this machine
    for file, tree in ((folder.definition, definition), (folder.selected, selected)):
        files[file.name] = _dumped(tree, renamed, str(file)) if tree else None
    return files


def _keeping(folder: Path, files: dict[str, str | None], partial: bool) -> dict[str, str | None]:
    """The files to write, with what the record has of the sweep's own and RUNS has not.

    Raises GenxaiError if runs of the record would be lost, or without --partial if such a file is kept.
    """
    from analysis.recorded import RUNS_FILE

    file = folder / RUNS_FILE
    old, new = (_signatures(text or "") for text in (_text(file) if file.exists() else "", files[RUNS_FILE]))
    if old - new:
        raise GenxaiError(
            f"{folder} has {len(old - new)} runs that are not finished in the folder of runs, {min(old - new)} for "
            f"one: bring them back with analysis/restore.py --results {folder.parent} (where they were begun, finish "
            f"them or remove their directories first), or remove {folder} to have them forgotten"
        )
    absent = [name for name, content in files.items() if content is None and (folder / name).exists()]
    if absent and not partial:
        raise GenxaiError(
            f"{folder} has {' and '.join(absent)}, the folder of runs has not: analysis/restore.py brings it back, "
            "--partial keeps the one that is recorded"
        )
    return {**files, **{name: _text(folder / name) for name in absent}}


def _text(file: Path) -> str:
    return file.read_text(errors="replace")


def _signatures(recorded: str) -> set[str]:
    """Of the lines that can be read."""
    found = set()
    for line in recorded.splitlines():
        try:
            found.add(str(json.loads(line)["signature"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


def _commits(recorded: str) -> Counter[str]:
    """How many of the recorded runs each commit has started."""
    starts: Iterator[list[dict[str, Any]]] = (json.loads(line)["provenance"] for line in recorded.splitlines())
    origins = ((start[0] if start else {}).get("git") for start in starts)
    return Counter(str(git.get("commit")) if isinstance(git, dict) else "unknown" for git in origins)


def _copy_counted(root: Path, out: Path) -> None:
    """What Table 7 is made of, which no run has."""
    from analysis.commands import COUNTED, write_files

    counted = {file.name: file.read_bytes() for file in sorted((root / COUNTED).glob("*.json"))}
    if counted:
        write_files(counted, out / COUNTED)


def _check_reused(root: Path, name: str, recorded: set[str]) -> None:
    """Raise GenxaiError if runs of its rows lie in another sweep that is not recorded: the tables would lack them."""
    from analysis.sweeps import Sweep, yaml_file
    from genxai.runs import find_runs
    from launch.sweepdir import SweepDir

    wanted = {run for row in Sweep(name, None, yaml_file(SweepDir(root / name).selected)).rows for run in row.runs}
    here = {run.signature for sweep in recorded if (root / sweep).is_dir() for run in find_runs(root, sweep)}
    elsewhere = {run.sweep for run in find_runs(root) if run.signature in wanted - here}
    if elsewhere:
        raise GenxaiError(f"{name}: runs of its rows lie in {', '.join(sorted(elsewhere))}: record that too")


def unfinished(root: Path, runs: Sequence[Run], selected: dict[str, Any]) -> list[str]:
    """What a sweep still lacks, in words; empty if it has ended."""
    from analysis.sweeps import Sweep
    from genxai.runs import State, find_runs

    name = runs[0].sweep
    lacking = []
    for state, word in ((State.STARTED, "started"), (State.PENDING, "planned"), (State.FAILED, "failed")):
        those = [run.signature for run in runs if run.state is state]
        if those:
            lacking.append(f"{len(those)} runs only {word} ({', '.join(those[:3])}{', ...' if len(those) > 3 else ''})")
    sweep = Sweep(name, None, selected)
    open_rows = sorted({record.row for record in sweep.rows if not record.runs})
    if open_rows:
        lacking.append(f"nothing chosen yet for {', '.join(open_rows)}")
    here = {run.signature for run in runs} | {run.signature for run in find_runs(root) if run.state is State.DONE}
    absent = sorted({run for record in sweep.rows for run in record.runs} - here)
    if absent:
        lacking.append(f"{len(absent)} runs of its rows not begun")
    return lacking + ([sweep.provisional] if sweep.provisional else [])


def _dumped(tree: dict[str, Any], renamed: dict[str, str], where: str) -> str:
    import yaml

    from analysis.recorded import refuse_paths, without_messages, without_paths

    clean = without_messages(without_paths(tree, renamed))
    refuse_paths(clean, where)
    return yaml.safe_dump(clean, sort_keys=False, allow_unicode=True)


if __name__ == "__main__":
    sys.exit(main())
