"""Run a sweep: grid, then Bayesian points, or the rows of a table, here or on Slurm, until it is complete.

The command line and the loop around `launch.reconciler`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from genxai.errors import EXIT_FAILED, EXIT_OK, GenxaiError
from launch.cli import run_command, runs_folder, split_overrides
from launch.sweepoptions import build_parser, check_options

if TYPE_CHECKING:
    from launch.executors import Executor
    from launch.plan import Planner
    from launch.reconciler import Reconciler
    from launch.survey import Survey

T = TypeVar("T")

#: seconds between two passes, at first and at most: a cluster's controller is shared by many
POLL_SECONDS = {"local": (1.0, 1.0), "slurm": (2.0, 25.0)}

#: for a person without a cluster
_WITHOUT_SLURM = "use --cluster local, or start a Slurm of your own with slurm/local_cluster.py"

#: where there is no terminal, seconds between two lines that only tell of runs that have begun, at least
LINE_SECONDS = 10.0

#: seconds until Slurm is asked again when it has not answered
SILENCE_SECONDS = 20.0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    arguments = build_parser().parse_intermixed_args(argv)
    check_options(arguments)
    planner = make_planner(arguments)
    if arguments.cancel:
        from launch.cancel import cancel_sweep

        return cancel_sweep(planner.folder, _sayer(arguments.json), arguments.yes, arguments.dry_run, arguments.json)
    executor = make_executor(arguments, planner)
    if arguments.detach and not arguments.dry_run:
        from launch.detach import detach
        from launch.profiles import chosen_profile

        slurm = arguments.cluster == "slurm"
        return detach(planner.folder, argv, chosen_profile(arguments.profile) if slurm else None)
    return run_sweep(arguments, planner, executor)


def make_planner(arguments: argparse.Namespace) -> Planner:
    """The sweep that the command line names, and where its runs live."""
    from genxai.data import fingerprint
    from launch.plan import Planner, cached
    from launch.sweepdir import SweepDir
    from launch.sweepfile import find_sweep, load_sweep

    name, overrides = split_overrides(arguments.words, "sweep file")
    sweep = load_sweep(find_sweep(name), overrides)
    return Planner(sweep, SweepDir(runs_folder(arguments.runs) / sweep.name), cached(fingerprint))


def make_executor(arguments: argparse.Namespace, planner: Planner) -> Executor:
    """The executor that --cluster names. Raises UsageError if there is no Slurm, or options do not fit."""
    from launch.executors import LocalRuns, SlurmRuns, check_slurm, default_parallel
    from launch.profiles import check_shares_gpu, chosen_profile

    runs_per_gpu, config = arguments.runs_per_gpu or 1, planner.sweep.base
    check_shares_gpu(config, runs_per_gpu)
    if arguments.cluster == "slurm":
        if not arguments.dry_run:
            check_slurm()
        profile = chosen_profile(arguments.profile)
        return SlurmRuns(planner.folder, profile, arguments.max_parallel, runs_per_gpu, arguments.in_sequence)
    parallel, limit = default_parallel(config, arguments.runs_per_gpu), arguments.max_parallel
    return LocalRuns(planner.folder, min(parallel, limit or parallel) if arguments.runs_per_gpu else limit or parallel)


def run_sweep(arguments: argparse.Namespace, planner: Planner, executor: Executor) -> int:
    """Print the plan, then reconcile until complete; the exit code."""
    from launch.display import plan_lines
    from launch.interrupts import orderly_stop, stop_signals
    from launch.reconciler import Reconciler, only_reconciler
    from launch.worker import in_slurm_job

    say = _sayer(arguments.json)
    reconciler = Reconciler(planner, executor, say)
    if arguments.retry_failed:
        reconciler.retry_failed()
    # a person is told at once; a requeued reconciler waits for a controller that has gone down as well
    survey = _planned(reconciler, say) if arguments.dry_run else _answered(reconciler.look, in_slurm_job(), say)
    at_once = _at_once(executor, survey)
    for line in plan_lines(planner.sweep, survey, executor.cluster, at_once, executor.runs_per_job):
        say(line)
    if arguments.dry_run:
        return _dry_run(arguments, planner, executor, survey, say)
    with only_reconciler(planner), stop_signals(), orderly_stop(reconciler, say):
        reconciler.read()
        if arguments.retry_failed:
            reconciler.retry_failed()
        survey = _loop(arguments, reconciler, say)
    return _conclude(arguments, planner, executor, survey, say)


def _planned(reconciler: Reconciler, say: Callable[[str], None]) -> Survey:
    """The survey for a plan: where Slurm does not answer, of what the run directories alone tell."""
    from launch.slurm import SlurmSilent

    try:
        return reconciler.look()
    except SlurmSilent as error:
        say(f"{error}: nobody knows what is queued or running; the plan takes it that nothing is ({_WITHOUT_SLURM})")
        return reconciler.surveyor.look(reconciler.trials, {}, reconciler.submissions)


def _dry_run(
    arguments: argparse.Namespace, planner: Planner, executor: Executor, survey: Survey, say: Callable[[str], None]
) -> int:
    """After the plan: what the runs to come would cost here and on other cards."""
    from launch.attempts import Status
    from launch.cost import as_json, cost_lines, estimates_or_reason

    say("counting what a step of these runs costs ...")
    found, reason = estimates_or_reason(planner, survey)
    for line in [reason] if reason else cost_lines(found, survey.total - survey.count(Status.DONE, Status.FAILED)):
        say(line)
    _finish(arguments, planner, executor, survey, as_json(found, reason))
    return EXIT_OK


def _at_once(executor: Executor, survey: Survey) -> int:
    """How many runs one round of submission holds."""
    count = max(1, len(survey.to_submit()))
    parallel = getattr(executor, "max_parallel", None)
    return parallel if executor.cluster == "local" and parallel else executor.array_size(count)


def _sayer(quiet_stdout: bool) -> Callable[[str], None]:
    """Lines for the person: on stdout, or on stderr where stdout is for JSON."""

    def say(line: str) -> None:
        print(line, file=sys.stderr if quiet_stdout else sys.stdout, flush=True)

    return say


def _loop(arguments: argparse.Namespace, reconciler: Reconciler, say: Callable[[str], None]) -> Survey:
    """Pass after pass until the sweep is complete; one pass with --once."""
    from launch.reconciler import budget_message

    budget = reconciler.planner.sweep.definition.budget.device_hours
    began = time.monotonic()
    with _display(arguments, reconciler, say) as show:
        while True:
            survey, submitted = _answered(reconciler.run_pass, not arguments.once, say)
            show(survey)
            if survey.complete or arguments.once:
                return reconciler.look() if submitted else survey
            if budget is not None and not submitted and reconciler.over_budget(survey):
                raise GenxaiError(budget_message(survey, budget))
            time.sleep(poll_seconds(reconciler.executor.cluster, time.monotonic() - began))


def _answered(ask: Callable[[], T], patient: bool, say: Callable[[str], None]) -> T:
    """What `ask` returns; if Slurm does not answer it is asked again and again, and that is said once."""
    from launch.slurm import SlurmSilent

    silence = ""
    while True:
        try:
            answer = ask()
            if silence:
                say("Slurm answers again")
            return answer
        except SlurmSilent as error:
            if not patient:
                raise GenxaiError(f"{error}; try again later, or {_WITHOUT_SLURM}") from None
            if str(error) != silence:
                silence = str(error)
                say(f"{error}; nothing is submitted until Slurm answers")
        time.sleep(SILENCE_SECONDS)


def poll_seconds(cluster: str, elapsed_seconds: float) -> float:
    """Seconds until the next pass: a tenth of the time the sweep has been watched, within the cluster's bounds."""
    first, longest = POLL_SECONDS[cluster]
    return min(longest, max(first, elapsed_seconds / 10))


def _parallel(executor: Executor, survey: Survey) -> int:
    """Runs that go on at once, for the estimate of the time left."""
    limit = getattr(executor, "max_parallel", None)
    from launch.attempts import Status

    return limit if executor.cluster == "local" and limit else survey.count(Status.RUNNING)


@contextlib.contextmanager
def _display(
    arguments: argparse.Namespace, reconciler: Reconciler, say: Callable[[str], None]
) -> Iterator[Callable[[Survey], None]]:
    """A live table on a terminal, a line per change elsewhere; yields the function that shows a survey."""
    from launch.attempts import Status
    from launch.display import best_line, live_table, totals_line, waiting_reasons

    sweep, executor = reconciler.planner.sweep, reconciler.executor
    if sys.stdout.isatty() and not arguments.json and not arguments.once:
        from rich.console import Console
        from rich.live import Live

        console = Console()
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            reconciler.note = console.print
            yield lambda survey: live.update(live_table(sweep, survey, _parallel(executor, survey)))
        return
    shown: list[object] = [None, None, ""]
    reasons: set[str] = set()
    began = said = time.monotonic()

    def show(survey: Survey) -> None:
        # an ended or preempted run and a new reason to wait are worth a line at once; what runs changes all the while,
        # and is worth one now and then; only a new best point is worth its words
        nonlocal said
        ended = [survey.count(status) for status in (Status.DONE, Status.FAILED, Status.PREEMPTED)]
        best, counts, now = best_line(sweep, survey), [survey.count(status) for status in Status], time.monotonic()
        new = set(waiting_reasons(survey.reports.values())) - reasons
        due = counts != shown[1] and now - said > max(LINE_SECONDS, (now - began) / 20)
        if ended != shown[0] or new or due:
            words = totals_line(sweep, survey, _parallel(executor, survey))
            say(f"{time.strftime('%H:%M:%S')}  {words}" + (f"; {best}" if best and best != shown[2] else ""))
            shown[:], said = [ended, counts, best], now
            reasons.update(new)

    yield show


def _conclude(
    arguments: argparse.Namespace, planner: Planner, executor: Executor, survey: Survey, say: Callable[[str], None]
) -> int:
    """Last words and the exit code of a sweep that has not been interrupted."""
    from launch.display import conclusion, failure_lines, totals_line
    from launch.pictures import picture_lines

    _finish(arguments, planner, executor, survey)
    failures = failure_lines(planner.sweep, survey)
    for line in failures:
        say(line)
    say(totals_line(planner.sweep, survey, _parallel(executor, survey)))
    for line in conclusion(planner.sweep, survey, planner.folder.selected):
        say(line)
    if pictures := picture_lines(planner.folder):
        say(pictures)
    if not survey.complete:
        say("not complete; start the same command again to go on")
    return EXIT_FAILED if failures else EXIT_OK


def _finish(
    arguments: argparse.Namespace,
    planner: Planner,
    executor: Executor,
    survey: Survey,
    cost: dict[str, Any] | None = None,
) -> None:
    if arguments.json:
        from launch.display import as_json

        content = as_json(planner.sweep, survey, _parallel(executor, survey))
        print(json.dumps(content | ({"cost": cost} if cost else {}), indent=1))


if __name__ == "__main__":
    sys.exit(main())
