"""Command: one metric of two configurations, their difference paired by seed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analysis.commands import read_runs, results_folder
from genxai.errors import EXIT_OK, GenxaiError, UsageError
from launch.cli import add_runs_option, make_parser, run_command

if TYPE_CHECKING:
    from analysis.configuration import Configuration
    from analysis.measured import Results

DESCRIPTION = """
Print the mean of METRIC in ONE minus that in OTHER, with the t-interval over the seeds that both have finished. Each
side is named by what is true of its runs: options, dotted, and `row` of a sweep with rows; exactly one configuration
must fit. Runs are those of RUNS, or the recorded results where there are none.
"""

EXAMPLES = """
  python analysis/compare.py test_unbiased/accuracy --sweep longer --one row=full --other row=texture_swap
  python analysis/compare.py generator/cramers_v --sweep frontier \\
      --one row=per_class_balanced objective.lambda_bias=300 --other row=per_class_balanced objective.lambda_bias=0
  python analysis/compare.py madlibs/bias_score --sweep toxicity-pretrained --json \\
      --one objective.lambda_attribution=50 --other objective.lambda_attribution=0
"""

CONFIDENCE = 0.95


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 compared, 1 if fewer than two seeds are common or runs cannot be read, 2 for a wrong option."""
    options = _parser().parse_args(argv)
    return run_command(lambda: compare(options))


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("compare.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("metric", metavar="METRIC", help="of result.json, such as test_unbiased/accuracy")
    add_runs_option(parser)
    parser.add_argument("--sweep", metavar="NAME", help="only runs in RUNS/NAME")
    for side in ("one", "other"):
        parser.add_argument(f"--{side}", nargs="+", required=True, metavar="KEY=VALUE", help="what is true of its runs")
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of a line")
    return parser


def compare(options: argparse.Namespace) -> int:
    from analysis.differences import paired
    from analysis.verdicts import fixed

    results = read_runs(results_folder(options.runs), "there is nothing to compare").reported()
    if options.sweep:
        results = results.in_folder(options.sweep)
    one, other = (_side(results, side, getattr(options, side)).by_seed(options.metric) for side in ("one", "other"))
    found = paired(one, other, "other", CONFIDENCE)
    if found is None:
        raise GenxaiError(
            f"{options.metric}: fewer than two seeds of both sides have it (seeds {[*one]} and {[*other]})"
        )
    content = {"metric": options.metric, "difference": found.estimate.value, "low": found.low, "high": found.high}
    content |= {"seeds": sorted(one.keys() & other.keys()), "p": found.p}
    value, low, high = (fixed(each, 4, signed=True) for each in (found.estimate.value, found.low, found.high))
    seeds = ", ".join(map(str, content["seeds"]))
    print(json.dumps(content) if options.json else f"{options.metric}: {value} [{low}, {high}], seeds {seeds}")
    return EXIT_OK


def _side(results: Results, side: str, words: Sequence[str]) -> Configuration:
    """The one configuration for which all words are true. Raises UsageError for none, several, or a wrong word."""
    from analysis.conditions import in_words

    conditions = dict(_condition(side, word) for word in words)
    known = results.configurations()
    for key in conditions:
        if known and key not in known[0].frame:
            raise UsageError(f"--{side}: {key!r} is no option of a run; use a dotted one, such as data.rho, or row")
    fitting = [each for each in known if each.meets(conditions)]
    if len(fitting) != 1:
        differ = fitting[0].differing_keys(fitting) if fitting else []
        hint = f", which differ in {', '.join(differ)}: say which" if differ else ""
        raise UsageError(f"--{side}: {len(fitting)} configurations have {in_words(conditions)}{hint}")
    return fitting[0]


def _condition(side: str, word: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--{side}: {word!r} is not KEY=VALUE")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--{side}: the value of {word!r} is not YAML") from None


if __name__ == "__main__":
    sys.exit(main())
