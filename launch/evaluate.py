"""Evaluate a finished or checkpointed run on named splits, without training."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from genxai.errors import EXIT_OK, UsageError
from genxai.files import finite
from genxai.runs import Run
from launch.cli import make_parser, run_command

DESCRIPTION = """
Evaluate the classifier kept by a run (best on validation so far) on named splits. Reads the run's newest intact
checkpoint; writes nothing.

exit codes: 0 done, 1 no usable checkpoint or data, 2 wrong usage.
"""
EXAMPLES = """
  python launch/evaluate.py runs/tiny/0123456789ab
  python launch/evaluate.py runs/tiny/0123456789ab --split test_unbiased --split test_conflict --json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = make_parser("evaluate.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--split", action="append", metavar="NAME", help="split to evaluate (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    run = Run(options.run.absolute())
    if not run.config_file.is_file():
        raise UsageError(f"{options.run} is not a run directory (it has no config.yaml)")

    from genxai.data import split_names
    from genxai.training.final_evaluation import evaluate_checkpoint

    allowed = split_names(run.config().data).evaluated
    wrong = [name for name in options.split or () if name not in allowed]
    if wrong:
        raise UsageError(f"--split {wrong[0]}: allowed are {', '.join(allowed)}")
    metrics = evaluate_checkpoint(run, tuple(options.split or allowed))
    if options.json:
        print(json.dumps(finite(metrics), indent=1))
    else:
        print("\n".join(f"{name:38s} {value:.4f}" for name, value in metrics.items()))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
