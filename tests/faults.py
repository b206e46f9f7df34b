"""Faults at random against real sweeps, and what they have cost: nothing may be lost, done twice or changed."""

# ruff: noqa: T201 - a command prints
from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "fault_injection"), str(HERE / "integration"), str(HERE.parent)]

from launch.cli import make_parser, run_command  # noqa: E402

DESCRIPTION = """
Run a sweep of four small real runs again and again while processes are killed, files damaged, disks filled and clocks
put back at random. Each time it must end with the results of the same sweep undisturbed.

A run is duplicated if its training came to its end twice, or if two processes trained it at once at any look (about
twenty a second). A result is changed if parameters, metrics or ledger differ in a bit; the clock does not count.
Steps redone are those since the last checkpoint; for a run whose directory was removed they are all of its steps.
About three seconds a fault on two cores. Filling a disk needs root, for a small tmpfs; without it that is left out.
Exit code: 0 nothing lost, duplicated or changed; 1 otherwise (the rounds that went wrong are kept); 2 wrong usage.
"""

EXAMPLES = """
  python tests/faults.py --faults 200            a campaign of about ten minutes
  python tests/faults.py --faults 12 --seed 3    a short one, other faults
  python tests/faults.py --json > faults.json    for a program
  python tests/faults.py --cluster slurm         the same on a one-machine Slurm of its own (slurm/README.md)
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of tests/faults.py."""
    parser = make_parser("faults.py", DESCRIPTION, EXAMPLES)
    parser.add_argument("--faults", type=int, default=200, metavar="N", help="faults to inject (default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of what happens when (default: 0)")
    parser.add_argument(
        "--cluster", choices=("local", "slurm"), default="local", help="where runs run (default: local)"
    )
    parser.add_argument("--json", action="store_true", help="print the count as JSON")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = build_parser().parse_args(argv)
    if options.faults < 1:
        build_parser().error("--faults: expected at least 1")
    return run_command(lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    import campaign

    # a short path, since Slurm's sockets lie in it
    folder, began = Path(tempfile.mkdtemp(prefix="faults-")), time.monotonic()
    with _cluster(options.cluster, folder) as (words, environment), _progress(options.faults) as tell:
        count = campaign.run_campaign(folder, options.faults, options.seed, words, environment, tell, campaign.mounted)
    told = summary(count) | {
        "seed": options.seed,
        "cluster": options.cluster,
        "minutes": (time.monotonic() - began) / 60,
    }
    if options.json:
        print(json.dumps(told, indent=1))
    else:
        print("\n".join(lines(told)))
    if count.clean:
        shutil.rmtree(folder)
        return 0
    print(f"the rounds that went wrong are kept in {folder}", file=sys.stderr)
    return 1


def summary(count: Any) -> dict[str, Any]:
    """What there is to say about a campaign, as JSON has it."""

    def spread(values: Sequence[float], middle: str, of: Callable[[Sequence[float]], float]) -> dict[str, float | None]:
        return {middle: of(values) if values else None, "max": max(values, default=None), "n": len(values)}

    return {
        "faults": dict(sorted(count.faults.items())),
        "runs": count.runs,
        "lost": count.lost,
        "duplicated": count.duplicated,
        "changed": count.changed,
        "complaints": count.complaints,
        "steps_redone": spread(count.steps_redone, "mean", statistics.fmean),
        "signal_to_exit_seconds": spread(count.exit_seconds, "median", statistics.median),
        "restart_to_first_step_seconds": spread(count.first_step_seconds, "median", statistics.median),
    }


def lines(told: dict[str, Any]) -> list[str]:
    """The count as a table."""
    faults, total = told["faults"], sum(told["faults"].values())
    text = [f"{'faults injected':34s}{total:6d}   in {told['minutes']:.1f} min, seed {told['seed']}, {told['cluster']}"]
    text += [f"  {name:32s}{number:6d}" for name, number in faults.items()]
    text += [f"{'runs completed':34s}{told['runs']:6d}"]
    for key, title in (("lost", "runs lost"), ("duplicated", "runs duplicated"), ("changed", "results changed")):
        text.append(f"{title:34s}{len(told[key]):6d}")
        text += [f"  {item}" for item in told[key]]
    for key, title in (
        ("steps_redone", "steps redone per fault"),
        ("signal_to_exit_seconds", "signal to exit [s]"),
        ("restart_to_first_step_seconds", "restart to first step [s]"),
    ):
        values = told[key]
        middle = "mean" if "mean" in values else "median"
        if values["n"]:
            text.append(f"{title:34s}{middle} {values[middle]:.1f}, max {values['max']:.1f} (n={values['n']})")
        else:
            text.append(f"{title:34s}none measured")
    return text + [f"complaint: {item}" for item in told["complaints"]]


@contextlib.contextmanager
def _cluster(name: str, folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Options of launch/sweep.py and the environment in which it finds its cluster."""
    if name == "local":
        yield ["--max-parallel", "3"], {}
        return
    sys.path.insert(0, str(HERE.parent / "slurm"))
    from local_cluster import LocalCluster

    with LocalCluster(folder / "cluster") as cluster:
        yield ["--cluster", "slurm", "--profile", "local"], dict(cluster.environment())


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """A bar with the time left on a terminal, a line at every tenth of the way elsewhere."""
    began = time.monotonic()
    if not sys.stderr.isatty():

        def line(number: int, name: str) -> None:
            if number == 0 or number % max(1, total // 10) == 0:
                left = (time.monotonic() - began) / number * (total - number) if number else None
                eta = f", about {left / 60:.0f} min left" if left is not None else ", the undisturbed sweep is there"
                print(f"{number}/{total} faults{eta}", file=sys.stderr, flush=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("left"), TimeRemainingColumn(compact=True))
    with Progress(*columns, TextColumn("{task.description}"), console=Console(file=sys.stderr), transient=True) as bars:
        task = bars.add_task("the undisturbed sweep", total=total)
        yield lambda number, name: bars.update(task, completed=number, description=name)


if __name__ == "__main__":
    sys.exit(main())
