"""Command: a verdict on each of the paper's checkable sentences, from the numbers of the tables.

Reads run directories, never models. What has not been run is 'not measured', with the command that would run it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.commands import print_documents, read_runs, results_folder, write_documents
from genxai.errors import EXIT_OK
from launch.cli import add_runs_option, make_parser, run_command

DESCRIPTION = """
Say of each checkable sentence of the paper whether it holds, does not hold, cannot be told, is not measured or is not
checkable, and why: the sentences and what would have to be so are in analysis/paper/claims.yaml.

Only finished runs count; differences between rows are paired by seed. The comparisons follow below the verdicts.
"""

EXAMPLES = """
  python analysis/check_claims.py                           verdicts from ./runs
  python analysis/check_claims.py --out tables              also written to tables/claims.md and claims.csv
  python analysis/check_claims.py --runs /scratch/runs --json | jq '.claims.tables[0].rows[].id'
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 whatever the verdicts, 1 if runs cannot be read or files not written, 2 for a wrong option."""
    options = _parser().parse_args(argv)
    return run_command(lambda: report(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("check_claims.py", DESCRIPTION, EXAMPLES)
    add_runs_option(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write claims.md and claims.csv there")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser


def report(options: argparse.Namespace) -> int:
    """Read, judge, write, print."""
    from analysis.claim_specs import load_claims
    from analysis.claims import check_claims
    from analysis.formats import as_json
    from genxai.files import finite

    root = results_folder(options.runs)
    claims = load_claims()
    document = check_claims(claims, read_runs(root, "no claim has been measured"))
    files = write_documents([document], options.out, ("md", "csv")) if options.out else []
    if options.json:
        content = {"runs": str(root), "claims": as_json(document)}
        print(json.dumps(finite(content), indent=1, ensure_ascii=False, default=str))
    else:
        print_documents([document])
    if files:
        print(f"wrote {len(files)} files to {options.out}", file=sys.stderr)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
