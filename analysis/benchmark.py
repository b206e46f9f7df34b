"""Time the suite against what it could be at best and against its peers, as ratios measured side by side.

The command line; what is compared with what stands in each module of `analysis.benchmarks`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from analysis.benchmarks import CORE, SUITES, measure
from genxai.errors import EXIT_FAILED, EXIT_OK, UsageError
from launch.cli import make_parser, run_command, split_overrides

if TYPE_CHECKING:
    from analysis.benchmarks.figures import Figure
    from analysis.benchmarks.setting import Setting

DESCRIPTION = """
Measure ratios: contenders take turns in one process after a warm-up, and each figure is the median, minimum and
maximum of the quotient over the repeats. Times in ms hold for the named machine only. Targets stand beside the figures.

suites:
  core     the headline of every suite below (default)
"""
EXAMPLES = """
  python analysis/benchmark.py                                  the headline figures, on preset tiny
  python analysis/benchmark.py cpu --suite loop --repeats 40    preset cpu: parts of a step, curve over fractions
  python analysis/benchmark.py --suite cam train.threads=1
  python analysis/benchmark.py --short --check                  under a minute; exit 1 if a ratio has clearly fallen
"""
REPEATS, SHORT_REPEATS = 20, 8
#: seconds that one comparison may take with --short, if it can be helped
SHORT_SECONDS = 3.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(lambda: _main(argv))


def build_parser() -> argparse.ArgumentParser:
    """The command line of analysis/benchmark.py."""
    described = "\n".join(f"  {name:9s}{meaning}" for name, meaning in SUITES.items())
    parser = make_parser("benchmark.py", f"{DESCRIPTION.rstrip()}\n{described}", EXAMPLES)
    parser.add_argument("words", nargs="*", metavar="SOURCE [key=value ...]", help="preset or YAML (default: tiny)")
    parser.add_argument("--suite", choices=(CORE, *SUITES), default=CORE, help="what is measured (default: core)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=None,
        metavar="N",
        help=f"rounds of each comparison (default: {REPEATS}, with --short {SHORT_REPEATS}; slow ones make fewer)",
    )
    parser.add_argument("--short", action="store_true", help="headline figures and small sizes, under a minute")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--check", action="store_true", help="exit 1 if a median is on the wrong side of its floor")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    options = build_parser().parse_intermixed_args(argv)
    repeats = options.repeats if options.repeats is not None else SHORT_REPEATS if options.short else REPEATS
    if repeats < 1:
        raise UsageError(f"--repeats: expected at least 1, got {repeats}")
    from analysis.benchmarks.setting import Setting

    source, overrides = split_overrides(options.words, "preset or YAML")
    limit = SHORT_SECONDS if options.short else None
    setting = Setting(source or "tiny", tuple(overrides), repeats, options.short, limit)
    return run(setting, options)


@contextlib.contextmanager
def _errors_only() -> Iterator[None]:
    """What a run's data lack is told by the run."""
    logger = logging.getLogger("genxai")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def run(setting: Setting, options: argparse.Namespace) -> int:
    """Measure, print, and with --check compare with the floors; the exit code."""
    from analysis.benchmarks import machine, report
    from analysis.benchmarks.floors import fallen, load_marks

    config, marks = setting.config(), load_marks()
    from genxai.training.experiment import choose_device

    described = machine.describe(choose_device(config), config.train.threads)
    if options.suite in (CORE, "cam") and importlib.util.find_spec("pytorch_grad_cam") is None:
        setting.progress.say("cam: pytorch-grad-cam is not there to compare with: pip install grad-cam")
    with _errors_only():
        figures: list[Figure] = measure(options.suite, setting)
    if options.json:
        about = {"suite": options.suite, "source": setting.source, "overrides": list(setting.overrides)}
        print(json.dumps(report.as_json(figures, marks, described, about), indent=1))
    else:
        title = " ".join((options.suite, "on", setting.source, *setting.overrides))
        print(report.table(figures, marks, described, title))
    if options.check and (sentences := fallen(figures, marks)):
        print("fallen: " + "; ".join(sentences), file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
