"""What has become of every sweep under RUNS: counts, best point, device-hours, failures with their logs.

The command line and the table; what is shown is read by `launch.sights`.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from genxai.errors import EXIT_OK, UsageError
from launch.cli import Interrupted, add_runs_option, make_parser, run_command, runs_folder

if TYPE_CHECKING:
    from rich.console import RenderableType

    from launch.sights import Sight, Tally, Watcher

DESCRIPTION = """
Show the state of all sweeps and runs under RUNS, from their files alone; changes nothing.

A run is done, running, queued, preempted (it had begun, and is in the cluster's queue again) or failed; also stopped
(it had begun, is in no queue, and will be continued), retry (has failed, may be tried again), missing, or unreadable
(named, and left out). Hours are device-hours of training, of unfinished runs too; lost are those that went into steps
done again after a preemption, a kill or a failure. `left` is what `of` will take at the present speed and number of
running runs, without the time jobs wait in a queue; in the total it is that of the longest sweep, with a > where it is
unknown of another.
Exit code: 0, 1 if nothing may be read, 2 if there is no such folder, 130 after Ctrl-C ends --watch.
"""

EXAMPLES = """
  python launch/status.py runs                one look
  python launch/status.py runs --watch        again every two seconds (ten where Slurm is asked), until Ctrl-C
  python launch/status.py runs --json         for a program; with --watch one object a line
  python launch/status.py runs --pictures     also where the newest sample grids and attribution overlays are
"""

#: columns of a pipe: wide, so that no number is cut in two
PIPE_WIDTH = 200
#: seconds between two looks of --watch, and where a cluster's controller has to answer
WATCH_SECONDS, SLURM_SECONDS = 2.0, 10.0
LOG_MARK = "  | "
#: long headings on two lines, for a narrow terminal
BROKEN = {
    "running": "run-\nning", "preempted": "pre-\nempted", "stopped": "stop-\nped", "missing": "miss-\ning",
    "unreadable": "unread-\nable",
}  # fmt: skip


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
    from launch.sights import Watcher

    watcher = Watcher(root)
    if arguments.watch:
        _watch(watcher, arguments.json)
    sights = watcher.look()
    if arguments.json:
        print(json.dumps(as_json(root, sights), indent=1))
    else:
        from rich.console import Console

        console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
        console.print(table(root, sights, console.width))
        if arguments.pictures:
            _print_pictures(root, sights)
    return EXIT_OK


def _print_pictures(root: Path, sights: Sequence[Sight]) -> None:
    """One line per picture, unwrapped so that the paths can be copied."""
    from launch.pictures import picture_lines
    from launch.sweepdir import SweepDir

    lines = [line for s in sights if (line := picture_lines(SweepDir(root / s.name)))]
    print("\n".join(lines) or "no pictures yet: no run is done, or run.pictures is off")


def _watch(watcher: Watcher, in_json: bool) -> NoReturn:
    """Look again and again. Raises Interrupted on Ctrl-C, SIGTERM and SIGHUP, with the terminal as it was."""
    from launch.interrupts import stop_signals

    try:
        with stop_signals(), _screen(watcher.root, in_json) as show:
            while True:
                show(watcher.look())
                time.sleep(SLURM_SECONDS if watcher.asked_slurm else WATCH_SECONDS)
    except Interrupted:
        raise
    except KeyboardInterrupt:
        raise Interrupted("stopped watching; the runs go on") from None


@contextlib.contextmanager
def _screen(root: Path, in_json: bool) -> Iterator[Callable[[Sequence[Sight]], None]]:
    """A table that is drawn over on a terminal, a table per change or a JSON line per look elsewhere."""
    from rich.console import Console
    from rich.live import Live

    if in_json:
        yield lambda sights: print(json.dumps(as_json(root, sights)), flush=True)
    elif sys.stdout.isatty():
        console = Console()
        with Live(console=console, auto_refresh=False) as live:
            yield lambda sights: live.update(table(root, sights, console.width), refresh=True)
    else:
        console, shown = Console(width=PIPE_WIDTH), [""]

        def show(sights: Sequence[Sight]) -> None:
            with console.capture() as capture:
                console.print(table(root, sights, console.width))
            if capture.get() != shown[0]:
                shown[0] = capture.get()
                print(f"{time.strftime('%H:%M:%S')}\n{shown[0]}", flush=True)

        yield show


def as_json(root: Path, sights: Sequence[Sight]) -> dict[str, object]:
    """What the table says, for programs."""
    from launch.sights import total_of

    sweeps = [sight.as_json() for sight in sights]
    return {"runs": str(root), "sweeps": sweeps, "total": total_of(sights).as_json()}


def table(root: Path, sights: Sequence[Sight], width: int) -> RenderableType:
    """The table of all sweeps, their best points and their failures, on so many columns."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from launch.display import ALWAYS, ORDER
    from launch.sights import total_of

    if not sights:
        return Text(f"{root}: no runs yet")
    total = total_of(sights)
    names = [str(status) for status in ORDER if status in ALWAYS or total.counts[str(status)]]
    rows = [[s.name, *_cells(s, names, "-" if s.total is None else str(s.total))] for s in sights]
    if len(sights) > 1:
        rows.append(["total", *_cells(total, names, str(total.total))])
    headings, gap = _fitting(["sweep", *names, "of", "hours", "lost", "left"], rows, width)
    out = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0))
    for heading in headings:
        words = heading in ("sweep", "left")  # what may be broken in the end; a number is never cut
        out.add_column(heading, justify="left" if heading == "sweep" else "right", no_wrap=not words, overflow="fold")
    for row in rows:
        out.add_row(*row)
    lines = [line for s in sights for line in (*_words(s), *_failure_lines(s))]
    if total.steps_redone or total.restarts:
        lines.insert(0, f"{total.restarts} restarts; {total.steps_redone} steps had to be done again")
    # of a long line of a log the beginning will do: --json has all of it
    return Group(out, *(Text(line, no_wrap=line.startswith(LOG_MARK), overflow="ellipsis") for line in lines))


def _fitting(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> tuple[Sequence[str], int]:
    """The headings, broken on a narrow terminal, and the columns between two of them, so that the table fits."""
    for words, gap in ((headings, 2), (headings, 1)):
        cells = zip(words, *rows, strict=True)
        if sum(max(map(len, column)) + gap for column in cells) - gap <= width:
            return words, gap
    return [BROKEN.get(heading, heading) for heading in headings], 1


def _cells(tally: Tally, names: Sequence[str], wanted: str) -> list[str]:
    from launch.display import duration, hours

    left = "unknown" if tally.eta_seconds is None else duration(tally.eta_seconds) if tally.eta_seconds else "0"
    bound = ">" if tally.eta_unknown and tally.eta_seconds is not None else ""
    counts = [str(tally.counts[name]) for name in names]
    return [*counts, wanted, hours(tally.hours_used), hours(tally.hours_lost), bound + left]


def _words(s: Sight) -> list[str]:
    """The best point so far, and what the runs in the queue wait for."""
    from launch.display import waiting_words
    from launch.words import point_words

    lines = []
    if s.best is not None:
        means = ", ".join(
            f"{name} {value['mean']:.4f}" + (f" +- {value['sd']:.4f}" if value["sd"] is not None else "")
            for name, value in s.best["objectives"].items()
        )
        since = f"; {s.ended_since} runs have ended since" if s.ended_since else ""
        point = point_words(s.best["point"])
        lines.append(f"{s.name}: best trial {s.best['trial']} ({point}): {means} (n={s.best['n']}{since})")
    if s.rows is not None:
        choices = f"{s.rows['chosen']} of {s.rows['choices']} choices made, " if s.rows["choices"] else ""
        lines.append(f"{s.name}: {choices}{s.rows['complete']} of {s.rows['rows']} rows complete")
    other = sum(s.counts.values()) - (s.total or 0)
    if s.total is not None and other > 0:
        lines.append(f"{s.name}: {other} of these runs belong to another version of the sweep")
    if s.waiting:
        lines.append(f"{s.name}: queued runs wait for {waiting_words(s.waiting)}")
    return lines


def _failure_lines(s: Sight) -> list[str]:
    lines = []
    for failure in s.failures:
        name = f" ({failure['row']})" if "row" in failure else ""
        lines.append(f"{s.name}/{failure['run']}{name} failed: {failure['reason']}")
        lines += [f"{LOG_MARK}{line}" for line in failure["last_lines"]]
        lines.append(f"  log: {failure['log']}" if failure["log"] else "  no log")
    return lines


if __name__ == "__main__":
    sys.exit(main())
