"""Command: recorded results back into run directories, so that a sweep goes on where another machine has left it.

The inverse of `analysis/record.py`: what is recorded is finished, and never computed again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.commands import RECORDED
from genxai.errors import EXIT_OK, GenxaiError, UsageError
from launch.cli import absolute, add_runs_option, make_parser, run_command, runs_folder

DESCRIPTION = """
Make finished run directories of recorded results: RUNS/<sweep>/<signature> with the configuration, result, evaluations
and what it was made with; no checkpoint. launch/sweep.py finds them done and runs what is missing. Runs that RUNS has
already begun are left alone. The counts of Table 7 come along. Interrupted, start it again.
"""

EXAMPLES = """
  python analysis/restore.py                        every sweep of analysis/results into ./runs
  python analysis/restore.py table2 --runs DIR      this one, elsewhere
  python launch/sweep.py table2                     goes on with what is missing of it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 restored, 1 if a line cannot be read or is not what it says, 2 for a wrong option."""
    options = _parser().parse_args(argv)
    return run_command(lambda: restore(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("restore.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="recorded sweeps; default: all")
    add_runs_option(parser)
    parser.add_argument(
        "--results", type=Path, default=RECORDED, metavar="DIR", help="what record.py has written (analysis/results)"
    )
    return parser


def restore(options: argparse.Namespace) -> int:
    """Check every line first, then write: a record that is damaged restores nothing."""
    from analysis.recorded import RUNS_FILE
    from analysis.restoring import restorable, restore_counted, restore_sweep
    from genxai.runs import State

    results, root = absolute(options.results), runs_folder(options.runs)
    if results.resolve() in (root.resolve(), *root.resolve().parents):
        raise UsageError(f"--runs: {root} is where the record is; choose another folder for the runs")
    known = sorted(file.parent.name for file in results.glob(f"*/{RUNS_FILE}"))
    if not known:
        raise GenxaiError(f"there are no recorded results in {results}; choose another folder with --results")
    for name in options.sweeps:
        if name not in known:
            raise UsageError(f"{name!r} is not recorded in {results}; there are: {', '.join(known)}")
    found = {name: restorable(results / name / RUNS_FILE) for name in options.sweeps or known}
    for name, runs in found.items():
        before = restore_sweep(root / name, results / name, runs)
        restored = before.pop(None, 0) + before.pop(State.PENDING, 0)
        left = "".join(f", {count} left as they were: {state}" for state, count in sorted(before.items()))
        print(f"{name}: {restored} runs restored in {root / name}{left}", file=sys.stderr)
        for other in sorted(_reused(results / name, known) - set(found)):
            print(f"{name}: note: runs of its rows may lie in {other}: restore that too", file=sys.stderr)
    restore_counted(root, results)
    return EXIT_OK


def _reused(recorded: Path, known: Sequence[str]) -> set[str]:
    """The recorded sweeps whose runs this one counts as its own."""
    from analysis.sweeps import yaml_file
    from launch.sweepdir import SweepDir

    return {str(name) for name in yaml_file(SweepDir(recorded).definition).get("reuse") or ()} & set(known)


if __name__ == "__main__":
    sys.exit(main())
