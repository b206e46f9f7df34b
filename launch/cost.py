"""Device-hours, wall time and money of a sweep or of the full reproduction, on cards nobody need have at hand.

What `launch/sweep.py --dry-run` adds to its plan; as a command, the listing of launch/reproduction.yaml.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genxai.errors import EXIT_OK, GenxaiError
from launch.cli import add_runs_option, make_parser, run_command, runs_folder

if TYPE_CHECKING:
    from analysis.costs.step import StepCost
    from genxai.config import Config
    from launch.cards import Card, Measured, RunTime
    from launch.plan import Planner
    from launch.survey import Survey

DESCRIPTION = """
Estimate the full reproduction, table by table, in device-hours, wall time and money: on 1, 4 and 8 A6000s, on one
H200 and on this machine.

A run's time is that of finished runs of the same cost on that kind of device (measured), else its operations over the
card's dense peak times an assumed utilisation (assumed). Cards, prices and assumptions: launch/cards.yaml; tables and
their sweeps: launch/reproduction.yaml. For one sweep: launch/sweep.py SWEEP --dry-run.
"""

EXAMPLES = """
  python launch/cost.py
  python launch/cost.py my_tables.yaml --runs /scratch/runs
  python launch/cost.py --json | jq '.total[] | {title, devices, device_hours, money}'
"""
HOUR = 3600.0


@dataclass(frozen=True)
class Job:
    """Runs of one cost: `count` of them, each as long as a run of `config`."""

    config: Config
    count: int
    #: most of them that may run at once (the window of a Bayesian search); None: any number
    at_once: int | None = None


@dataclass(frozen=True)
class Estimate:
    """One line of a cost table."""

    card: str
    title: str
    devices: int
    device_hours: float
    wall_hours: float
    money: float | None
    #: seconds of a joint step, mean over the runs
    step_seconds: float
    #: measured, assumed, or part measured
    basis: str
    memory_gb: float | None
    memory_of_card_gb: float | None

    @property
    def fits(self) -> bool | None:
        """Whether every run fits into the card's memory; None if that is not known."""
        if self.memory_gb is None or self.memory_of_card_gb is None:
            return None
        return self.memory_gb <= self.memory_of_card_gb


@dataclass
class Counter:
    """Operations per joint step, counted once per cost; `measured` times need none."""

    measured: Measured
    _counts: dict[str, StepCost] = field(default_factory=dict)

    def cost(self, config: Config) -> StepCost:
        """Raises GenxaiError for an architecture that cannot be had."""
        from analysis.costs.step import measure_step
        from launch.cards import step_key

        # the passes of methods are assumed (cards.yaml), not counted
        config = config.model_copy(update={"method": type(config.method)()})
        key = step_key(config)
        if key not in self._counts:
            self._counts[key] = measure_step(config)
        return self._counts[key]

    def run(self, config: Config, name: str, card: Card) -> RunTime:
        """One run of a configuration on a card."""
        from launch.cards import RunTime, assumed_run, run_key, steps

        if seconds := self.measured.get((run_key(config), name)):
            mean = sum(seconds) / len(seconds)
            return RunTime(mean, mean / steps(config), "measured", len(seconds))
        return assumed_run(self.cost(config), config, card)


def estimate(jobs: Sequence[Job], counter: Counter, here: tuple[str, int]) -> list[Estimate]:
    """The shown cards, then this machine (`here`: its device's name, and how many runs it holds at once)."""
    from launch.cards import load_cards, memory_gb

    cards = load_cards()
    device, parallel = here
    lines = [(name, cards.cards[name].title, count) for name, count in cards.shown]
    lines.append((cards.named(device) or "cpu", f"this machine ({device})", parallel))
    gigabytes = max((memory_gb(counter.cost(job.config)) for job in jobs), default=0.0)
    return [
        _estimate(jobs, counter, name, cards.cards[name], title, devices, gigabytes) for name, title, devices in lines
    ]


def _estimate(
    jobs: Sequence[Job], counter: Counter, name: str, card: Card, title: str, devices: int, gigabytes: float
) -> Estimate:
    times = [(job, counter.run(job.config, name, card)) for job in jobs]
    hours = sum(job.count * time.seconds for job, time in times) / HOUR
    runs = sum(job.count for job in jobs)
    bases = {time.basis for _, time in times}
    return Estimate(
        card=name,
        title=title,
        devices=devices,
        device_hours=hours,
        wall_hours=_wall_seconds(times, devices) / HOUR,
        money=None if card.price_per_hour is None else hours * card.price_per_hour,
        step_seconds=sum(job.count * time.step_seconds for job, time in times) / max(runs, 1),
        basis=bases.pop() if len(bases) == 1 else "part measured",
        memory_gb=gigabytes,
        memory_of_card_gb=card.memory_gb,
    )


def _wall_seconds(times: Sequence[tuple[Job, RunTime]], devices: int) -> float:
    """Free runs shared out over the devices, longest first; then those that may only run a few at a time."""
    free = [time.seconds for job, time in times for _ in range(job.count) if job.at_once is None]
    seconds = makespan(free, devices)
    for job, time in times:
        if job.at_once is not None:
            seconds += makespan([time.seconds] * job.count, min(devices, job.at_once))
    return seconds


def makespan(seconds: Iterable[float], devices: int) -> float:
    """When the last of these runs ends, each on the device that is free first, the longest first (Graham 1969)."""
    ends = [0.0] * max(1, devices)
    for length in sorted(seconds, reverse=True):
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


# --- one sweep -----------------------------------------------------------------------------------


def sweep_estimates(planner: Planner, survey: Survey) -> list[Estimate]:
    """What is still to be run of a sweep; [] if nothing is. Raises GenxaiError if it cannot be counted."""
    jobs = sweep_jobs(planner, survey)
    if not jobs:
        return []
    from launch.cards import measured_seconds

    measured = measured_seconds(planned.run for planned in survey.runs.values())
    return estimate(jobs, Counter(measured), this_machine(planner.sweep.base))


def sweep_jobs(planner: Planner, survey: Survey) -> list[Job]:
    """The runs that are neither done nor failed, by cost; Bayesian ones at most a window at a time.

    Points that are not proposed yet are charged as the base configuration, rows that wait for a choice as with their
    first candidate.
    """
    from launch.attempts import Status
    from launch.cards import run_key
    from launch.points import config_at

    definition = planner.sweep.definition
    window = definition.bayes.window * len(definition.seeds)
    groups: dict[tuple[str, bool], list[Config]] = {}
    for name, planned in survey.runs.items():
        if survey.reports[name].status not in (Status.DONE, Status.FAILED):
            origin = planned.config.origin
            bayes = origin is not None and origin.stage == "bayes"
            groups.setdefault((run_key(planned.config), bayes), []).append(planned.config)
    base = planner.sweep.base
    for case in survey.rows.waiting if survey.rows else ():
        config = config_at(base, case.options[0], f"row {case.row}")
        groups.setdefault((run_key(config), False), []).extend([config] * len(case.seeds))
    if survey.unplanned and survey.rows is None:
        groups.setdefault((run_key(base), True), []).extend([base] * survey.unplanned)
    return [Job(configs[0], len(configs), at_once=window if bayes else None) for (_, bayes), configs in groups.items()]


def this_machine(config: Config) -> tuple[str, int]:
    """The device runs would use here, and how many at once: one per GPU, else as many as the cores hold."""
    from launch.cards import this_device
    from launch.executors import visible_gpus

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return this_device(), len(visible_gpus()) or max(1, cores // config.train.threads)


def cost_lines(estimates: Sequence[Estimate], runs: int) -> list[str]:
    """The cost table in words, with warnings and what it assumes."""
    from launch.display import duration

    if not estimates:
        return []
    lines = [f"cost of the {runs} runs to come, each on one device:"]
    lines.append(
        f"  {'':34s}{'step':>9s}{'device-hours':>14s}{'wall time':>14s}{'money':>10s}{'memory':>18s}  step time is"
    )
    for line in estimates:
        memory = "" if line.memory_of_card_gb is None else f"{line.memory_gb:.1f} of {line.memory_of_card_gb:g} GB"
        money = "" if line.money is None else f"${line.money:,.2f}" if line.money < 10 else f"${line.money:,.0f}"
        title = f"{line.devices} x {line.title}" if not line.title.startswith("this") else line.title
        lines.append(
            f"  {title[:33]:34s}{_seconds(line.step_seconds):>9s}{_hours(line.device_hours):>14s}"
            f"{duration(line.wall_hours * HOUR):>14s}{money:>10s}{memory:>18s}  {line.basis}"
        )
    for line in {line.card: line for line in estimates if line.fits is False}.values():
        lines.append(
            f"  warning: a run needs about {line.memory_gb:.1f} GB, more than the {line.memory_of_card_gb:g} GB of "
            f"{line.title}: use a smaller train.batch_size or explain.fraction, or train.precision=bf16"
        )
    if any(line.basis != "measured" for line in estimates):
        lines.append(f"  assumed: {assumptions_words()}")
    return lines


def assumptions_words() -> str:
    """The assumptions that an `assumed` time rests on."""
    from launch.cards import CARDS_FILE, load_cards

    assumed = load_cards().assumptions
    shares = ", ".join(f"{100 * share:g} % of {name}" for name, share in assumed.utilisation.items())
    kernel = f"{1e6 * assumed.kernel_seconds:g} us or more a kernel"
    return (
        f"of a card's dense peak {shares}; {kernel}; prices and the rest in {CARDS_FILE.parent.name}/{CARDS_FILE.name}"
    )


def _hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"


# --- the full reproduction -----------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 estimated, 1 an architecture cannot be had, 2 wrong usage or a wrong listing."""
    return run_command(lambda: _main(argv))


def _main(argv: Sequence[str] | None) -> int:
    options = _parser().parse_args(argv)
    from genxai.runs import find_runs
    from launch.cards import measured_seconds
    from launch.reproduction import jobs_by_table, load_reproduction

    listing = load_reproduction(options.listing)
    tables = jobs_by_table(listing)
    counter = Counter(measured_seconds(find_runs(runs_folder(options.runs))))
    here = this_machine(next(jobs[0].config for jobs in tables.values() if jobs))
    found = {title: estimate(jobs, counter, here) for title, jobs in tables.items()}
    total = estimate([job for jobs in tables.values() for job in jobs], counter, here)
    counts = {title: sum(job.count for job in jobs) for title, jobs in tables.items()}
    if options.json:
        content = {
            "assumptions": assumptions_words(),
            "tables": {title: {"runs": counts[title], "estimates": _plain(lines)} for title, lines in found.items()},
            "runs": sum(counts.values()),
            "total": _plain(total),
        }
        print(json.dumps(content, indent=1))
    else:
        print("\n".join(_listing_lines(found, counts, total)))
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("cost.py", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "listing",
        nargs="?",
        type=Path,
        default=Path(__file__).with_name("reproduction.yaml"),
        metavar="LISTING.yaml",
        help="tables and their sweeps to estimate (default: launch/reproduction.yaml)",
    )
    add_runs_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _listing_lines(
    found: Mapping[str, Sequence[Estimate]], counts: Mapping[str, int], total: Sequence[Estimate]
) -> list[str]:
    first = total[0]
    lines = [f"{'':66s}{'runs':>6s}{'device-hours on one ' + first.title:>32s}"]
    lines += [f"{title[:65]:66s}{counts[title]:>6d}{rows[0].device_hours:>32,.0f}" for title, rows in found.items()]
    lines += ["", *cost_lines(total, sum(counts.values()))]
    return lines


def as_json(estimates: Sequence[Estimate], unknown: str) -> dict[str, Any]:
    """The estimates of a sweep for programs; `unknown`: why there are none, or empty."""
    return {"assumptions": assumptions_words(), "estimates": _plain(estimates), "unknown": unknown or None}


def _plain(estimates: Sequence[Estimate]) -> list[dict[str, Any]]:
    return [asdict(line) | {"fits": line.fits} for line in estimates]


def estimates_or_reason(planner: Planner, survey: Survey) -> tuple[list[Estimate], str]:
    """`sweep_estimates`, or none and why: a plan is printed even where its cost cannot be counted."""
    try:
        return sweep_estimates(planner, survey), ""
    except (GenxaiError, ImportError) as error:
        return [], f"cost on other devices unknown: {error}"


if __name__ == "__main__":
    sys.exit(main())
