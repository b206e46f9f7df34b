"""What has become of every sweep under RUNS: counts, best point, device-hours, failures with their logs.

Reads run directories, submission records and this machine's processes; on Slurm also squeue if it is there.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from genxai.errors import EXIT_OK, GenxaiError, UsageError
from launch.cli import add_runs_option, make_parser, run_command, runs_folder

if TYPE_CHECKING:
    from rich.console import RenderableType

    from launch.attempts import Live, Report
    from launch.submissions import Submission
    from launch.sweepdir import SweepDir
    from launch.sweepfile import SweepFile

DESCRIPTION = """
Show the state of all sweeps and runs under RUNS, from their files alone; changes nothing.

A run is done, running, queued, stopped (will be continued), failed, or missing. Hours are device-hours of training,
restarts included. What cannot be read is named and counted as unreadable, and the others are shown.
Exit code: 0, 1 if nothing may be read, 2 if there is no such folder.
"""

EXAMPLES = """
  python launch/status.py runs                one look
  python launch/status.py runs --watch        again every two seconds, until Ctrl-C
  python launch/status.py runs --json         for a program
  python launch/status.py runs --pictures     also where the newest sample grids and attribution overlays are
"""

#: seconds between two looks of --watch
PIPE_WIDTH = 200
WATCH_SECONDS = 2.0


@dataclass(frozen=True)
class Sight:
    """One sweep folder as it is now."""

    name: str
    counts: dict[str, int]
    total: int | None  # runs wanted; None for a folder that no sweep has written
    best: str
    hours: float
    restarts: int
    steps_redone: int
    eta_seconds: float | None
    waiting: dict[str, int]  # Slurm's reason -> queued runs
    failures: tuple[dict[str, Any], ...]
    pictures: tuple[str, ...]
    problems: tuple[str, ...]  # files that could not be read

    def as_json(self) -> dict[str, Any]:
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.__dict__.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    parser = make_parser("status.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("folder", nargs="?", type=Path, default=None, metavar="RUNS", help="the same as --runs RUNS")
    add_runs_option(parser)
    parser.add_argument("--watch", action="store_true", help="look again until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--pictures", action="store_true", help="end with the newest pictures of each sweep")
    arguments = parser.parse_intermixed_args(argv)
    if arguments.pictures and (arguments.watch or arguments.json):
        raise UsageError("--pictures goes with neither --watch nor --json (which has them anyway)")
    if arguments.folder and arguments.runs:
        raise UsageError(f"expected one folder, got {arguments.folder} and --runs {arguments.runs}")
    root = runs_folder(arguments.folder or arguments.runs)
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give the RUNS folder of your sweeps")
    if arguments.watch:
        _watch(root)
    sights = look(root, told=set())
    if arguments.json:
        print(json.dumps({"runs": str(root), "sweeps": [sight.as_json() for sight in sights]}, indent=1))
    else:
        from rich.console import Console

        # into a pipe: wide, so that no number is cut in two
        Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table(root, sights))
        if arguments.pictures:
            _print_pictures(root, sights)
    return EXIT_OK


def _print_pictures(root: Path, sights: Sequence[Sight]) -> None:
    """One line per picture, unwrapped so that the paths can be copied."""
    from launch.pictures import picture_lines
    from launch.sweepdir import SweepDir

    lines = [line for s in sights if (line := picture_lines(SweepDir(root / s.name)))]
    print("\n".join(lines) or "no pictures yet: no run is done, or run.pictures is off")


def _watch(root: Path) -> NoReturn:
    from rich.live import Live

    told: set[str] = set()
    with Live(table(root, look(root, told)), auto_refresh=False) as live:
        while True:
            time.sleep(WATCH_SECONDS)
            live.update(table(root, look(root, told)), refresh=True)


def look(root: Path, told: set[str]) -> list[Sight]:
    """Every sweep folder under RUNS, by name; warns of what cannot be read unless that is in `told`.

    Raises GenxaiError if nothing may be read.
    """
    from launch.records import closed_folders
    from launch.sweepdir import SweepDir

    closed = closed_folders(root)
    folders = sorted({file.parent.parent for file in root.glob("*/*/config.yaml")} | _defined(root))
    if closed and not folders:
        raise GenxaiError(f"cannot read the runs in {root}: {closed[0]}: Permission denied")
    sights = [sight(SweepDir(folder)) for folder in folders]
    problems = [f"{path}: Permission denied" for path in closed]
    for problem in problems + [problem for s in sights for problem in s.problems]:
        if problem not in told:
            print(f"warning: {problem}", file=sys.stderr)
            told.add(problem)
    return sights


def _defined(root: Path) -> set[Path]:
    return {file.parent for file in root.glob("*/sweep.yaml")}


def sight(folder: SweepDir) -> Sight:
    """The state of one folder. Runs are taken as they lie there; wanted but unplanned ones count as missing."""
    from launch.attempts import Report, Status, report
    from launch.display import waiting_reasons
    from launch.pictures import newest_pictures
    from launch.submissions import History, histories, read_submissions

    problems: list[str] = []
    definition = _definition(folder, problems)
    submissions = read_submissions(folder, problems)
    live, past = alive(folder, submissions, problems), histories(folder, submissions)
    retries = definition.retries if definition else 0
    reports: dict[str, Report] = {}
    for file in sorted(folder.path.glob("*/config.yaml")):
        run, name = folder.run(file.parent.name), file.parent.name
        try:
            reports[name] = report(run, live.get(name), retries, past.get(name, History()))
        except (GenxaiError, OSError) as error:
            problems.append(str(error))
            reports[name] = Report(Status.UNREADABLE, str(error))
    counts = Counter(str(r.status) for r in reports.values())
    total = _wanted(definition)
    if total is not None and total > len(reports):
        counts[str(Status.MISSING)] += total - len(reports)
    done = [r.seconds for r in reports.values() if r.status is Status.DONE]
    return Sight(
        name=folder.name,
        counts={str(status): counts[str(status)] for status in Status},
        total=total,
        best=_best(folder),
        hours=sum(r.device_seconds for r in reports.values()) / 3600,
        restarts=sum(r.restarts for r in reports.values()),
        steps_redone=sum(r.steps_redone for r in reports.values()),
        eta_seconds=_eta(counts, done),
        waiting=waiting_reasons(reports.values()),
        pictures=tuple(map(str, newest_pictures(folder))),
        failures=tuple(_failure(folder, name, r) for name, r in reports.items() if r.status is Status.FAILED),
        problems=tuple(problems),
    )


def alive(folder: SweepDir, submissions: Sequence[Submission], problems: list[str]) -> dict[str, Live]:
    """Who is alive, as far as this machine can tell; that a cluster does not answer is added to `problems`."""
    import shutil

    from launch.executors import LocalRuns, slurm_live
    from launch.slurm import SlurmSilent

    live = LocalRuns(folder, max_parallel=1).live(submissions)
    if any(s.cluster == "slurm" for s in submissions) and shutil.which("squeue"):
        try:
            live |= slurm_live(submissions)
        except SlurmSilent as error:
            problems.append(f"{error}; states of Slurm jobs are unknown")
    return live


def _definition(folder: SweepDir, problems: list[str]) -> SweepFile | None:
    """The sweep as it was last started; None if no sweep has written the folder, or nobody can read what it wrote."""
    from genxai.configfile import read_tree, validate
    from launch.sweepfile import SweepFile

    if not folder.definition.exists():
        return None
    try:
        tree, where = read_tree(folder.definition)
        return validate(SweepFile, tree, where)
    except GenxaiError as error:
        problems.append(" ".join(str(error).split()))
        return None


def _wanted(definition: SweepFile | None) -> int | None:
    """Runs that the definition asks for; None if there is none."""
    if definition is None:
        return None
    grids = [len(axis.grid) for axis in definition.space.values() if axis.grid]
    return ((math.prod(grids) if grids else 0) + definition.bayes.points) * len(definition.seeds)


def _best(folder: SweepDir) -> str:
    """The selected point in words, from selected.yaml."""
    import yaml

    from launch.display import point_words

    try:
        chosen = yaml.safe_load(folder.selected.read_text())["selected"]
        means = ", ".join(
            f"{name} {value['mean']:.4f}" + (f" +- {value['sd']:.4f}" if value["sd"] is not None else "")
            for name, value in chosen["objectives"].items()
        )
        return f"trial {chosen['trial']} ({point_words(chosen['point'])}): {means} (n={len(chosen['runs'])})"
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return ""  # nothing is selected (yet), or not in our words


def _eta(counts: Counter[str], done_seconds: Sequence[float]) -> float | None:
    """Seconds left if as many runs as now go on at the mean speed of the finished ones."""
    left = sum(counts[name] for name in ("missing", "queued", "running", "stopped", "retry"))
    if not done_seconds or not left or not counts["running"]:
        return None
    return left * (sum(done_seconds) / len(done_seconds)) / counts["running"]


def _failure(folder: SweepDir, signature: str, found: Report) -> dict[str, Any]:
    from launch.attempts import last_lines

    run = folder.run(signature)
    log = run.log_file
    return {"run": signature, "reason": found.reason, "log": str(log), "last_lines": last_lines(log)}


def table(root: Path, sights: Sequence[Sight]) -> RenderableType:
    """The table of all sweeps, their best points and their failures."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from launch.display import duration, waiting_words

    if not sights:
        return Text(f"{root}: no runs yet")
    rare = ("queued", "stopped", "retry", "missing", "failed", "unreadable")  # a column only where there are any
    names = ("done", "running", *(name for name in rare if any(s.counts[name] for s in sights)))
    out = Table(box=None, pad_edge=False)
    out.add_column("sweep")
    for heading in (*names, "of", "device-h", "restarts", "redone", "left"):
        out.add_column(heading, justify="right")
    for s in sights:
        left = "" if s.eta_seconds is None else duration(s.eta_seconds)
        cells = [str(s.counts[name]) for name in names]
        total = str(s.total) if s.total is not None else "-"
        out.add_row(s.name, *cells, total, f"{s.hours:.3g}", str(s.restarts), str(s.steps_redone), left)
    if len(sights) > 1:
        sums = [str(sum(s.counts[name] for s in sights)) for name in names]
        hours, again = sum(s.hours for s in sights), sum(s.restarts for s in sights)
        out.add_row("total", *sums, "", f"{hours:.3g}", str(again), str(sum(s.steps_redone for s in sights)), "")
    lines = [f"{s.name}: best {s.best}" for s in sights if s.best]
    lines += [f"{s.name}: queued runs wait for {waiting_words(s.waiting)}" for s in sights if s.waiting]
    for s in sights:
        for failure in s.failures:
            lines.append(f"{s.name}/{failure['run']} failed: {failure['reason']}")
            lines += [f"  | {line}" for line in failure["last_lines"]]
            lines.append(f"  log: {failure['log']}")
    return Group(out, Text("\n".join(lines)))


if __name__ == "__main__":
    sys.exit(main())
