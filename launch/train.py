"""Train one run: a preset or YAML with overrides, or a run directory to go on with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from genxai.config import Config
from genxai.configfile import load_config
from genxai.errors import EXIT_FAILED, EXIT_OK, EXIT_STOPPED, UsageError
from genxai.runs import Run, run_signature
from genxai.training.stopping import listening
from launch.attempts import exception_line
from launch.cli import add_runs_option, make_parser, run_command, runs_folder, split_overrides
from launch.ranks import end_with_parent, is_first_rank, is_rank, is_started_here, join_slurm_step, start_ranks
from launch.records import read_result

DESCRIPTION = """
Train one run. Its directory is RUNS/<name>/<signature>, where the signature covers everything that can change the
result: under one name the same configuration is never computed twice, and a run that was killed goes on, bit for bit.
The progress line shows L_D and L_G (Eqs. 1 and 2, before their penalties), R_bias, cross-entropy and R(M) of Eq. 11.

exit codes: 0 done, 1 failed (FAILED.json says why), 2 wrong usage, 75 stopped on request with everything saved.
"""
EXAMPLES = """
  python launch/train.py tiny                              the whole method in under half a minute
  python launch/train.py cpu train.epochs=3 model.fusion=early --runs results
  python launch/train.py my.yaml objective.lambda_bias=1   a YAML file of your own
  python launch/train.py runs/tiny/0123456789ab            go on with a run directory
  python launch/train.py paper run.processes=4             one run on four GPUs of this machine
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    parser = make_parser("train.py", DESCRIPTION, EXAMPLES)
    parser.usage = "%(prog)s SOURCE [key=value ...] [--runs DIR] [--json] [--quiet]"
    parser.add_argument(
        "words", nargs="+", metavar="SOURCE", help="preset, YAML or run directory; then overrides key=value"
    )
    add_runs_option(parser)
    parser.add_argument("--json", action="store_true", help="print result.json instead of a summary")
    parser.add_argument("--quiet", action="store_true", help="no progress display")
    options = parser.parse_intermixed_args(argv)
    source, overrides = split_overrides(options.words, "preset, YAML or run directory")
    if source is None:
        raise UsageError("which preset, YAML file or run directory? for example: train.py tiny")
    run = planned_run(source, overrides, runs_folder(options.runs))
    os.environ.update(join_slurm_step(os.environ))
    if is_first_rank() and not is_started_here():
        print(f"run {run.signature} in {run.path}", file=sys.stderr)
    processes = run.config().run.processes or 1
    if processes > 1 and not is_rank():
        flags = [flag for flag, given in (("--json", options.json), ("--quiet", options.quiet)) if given]
        return start_ranks([sys.executable, __file__, str(run.path), *flags], processes)
    if is_started_here():
        end_with_parent()
    with listening() as stop:
        from genxai.training import Outcome, train  # late: torch takes seconds to import

        outcome = train(run, show_progress=not options.quiet, stop=stop)
    if not is_first_rank():
        return {Outcome.DONE: EXIT_OK, Outcome.STOPPED: EXIT_STOPPED}.get(outcome, EXIT_FAILED)
    if outcome is Outcome.BUSY:
        print(f"{run.path} is being trained by another process; see launch/status.py", file=sys.stderr)
        return EXIT_FAILED
    if outcome is Outcome.FAILED:
        print(f"failed: {exception_line(run)}; details in {run.failed_file}", file=sys.stderr)
        return EXIT_FAILED
    if outcome is Outcome.STOPPED:
        print("stopped with everything saved; start the same command again to go on", file=sys.stderr)
        return EXIT_STOPPED
    told = summary(run)  # with --json as well: a damaged result is an error
    print(json.dumps(run.result(), indent=1) if options.json else told)
    return EXIT_OK


def planned_run(source: str, overrides: Sequence[str], runs: Path) -> Run:
    """The run directory of a source, made and with its configuration frozen."""
    folder = Path(source)
    if (folder / "config.yaml").is_file() and not overrides:
        return Run(folder.absolute())
    config = load_config(source, overrides).model_copy(update={"origin": None})
    run = Run(runs / config.name / signature(config))
    run.plan(config)
    return run


def signature(config: Config) -> str:
    """The signature of a configuration with the data it names."""
    from genxai.data import fingerprint

    return run_signature(config, fingerprint(config.data))


#: columns of the summary; result.json has every metric
COLUMNS = ("accuracy", "f1_macro", "worst_group_accuracy", "iou_half_max", "iou_area_matched", "relevance_mass")


def summary(run: Run) -> str:
    """The final metrics as a small table and where the pictures are, for reading."""
    result = read_result(run)
    metrics = result.metrics
    times = f"{result.seconds or 0:.0f} s of training, {result.steps or 0} steps, {result.restarts or 0} restarts"
    lines = [f"done: {times}", f"{'':15s}" + "".join(f"{name.removesuffix('_accuracy'):>17s}" for name in COLUMNS)]
    for split in dict.fromkeys(name.partition("/")[0] for name in metrics):
        values = [metrics.get(f"{split}/{column}") for column in COLUMNS]
        if any(isinstance(value, float) for value in values):
            lines.append(f"{split:15s}" + "".join(f"{_number(value, 3):>17s}" for value in values))
    others = ("test_counterfactual/flip_rate", "generator/bias_gap", "test/auroc", "madlibs/bias_score")
    lines += [f"{name}: {_number(metrics[name], 4) or 'no value'}" for name in others if name in metrics]
    lines.append(f"every metric: {run.result_file}")
    lines += [f"picture: {path}" for path in run.newest_pictures()]
    return "\n".join(lines)


def _number(value: float | str | None, digits: int) -> str:
    """Empty where a metric has no value."""
    return f"{value:.{digits}f}" if isinstance(value, float) else ""


if __name__ == "__main__":
    sys.exit(main())
