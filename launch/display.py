"""What a person sees of a sweep: the plan, the live table, plain lines where there is no terminal, JSON.

Everything is drawn from a `Survey`; nothing here reads or writes files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from launch.attempts import Report, Status
from launch.outcomes import Outcome, scaled_sums, select
from launch.plan import PlannedRun
from launch.survey import Survey, eta_seconds
from launch.sweepfile import Objective, Sweep

if TYPE_CHECKING:
    from rich.console import RenderableType

_ORDER = (Status.DONE, Status.RUNNING, Status.QUEUED, Status.STOPPED, Status.RETRY, Status.MISSING, Status.FAILED)


def plan_lines(sweep: Sweep, survey: Survey, cluster: str, array: int) -> list[str]:
    """The plan that is printed before anything is submitted."""
    definition = sweep.definition
    counts = ", ".join(f"{survey.count(status)} {status}" for status in _ORDER if survey.count(status))
    to_come, each = survey.hours_to_come, survey.hours_per_run
    cost = (
        f"about {to_come:.3g} device-hours to come ({each:.3g} per run), {survey.hours_used:.3g} used"
        if to_come is not None and each is not None
        else f"device-hours to come unknown until a run has finished, {survey.hours_used:.3g} used"
    )
    lines = [
        f"sweep {sweep.name}: {len(sweep.grid)} grid points + {definition.bayes.points} Bayesian points "
        f"({definition.bayes.sampler}), {len(definition.seeds)} seeds each = {survey.total} runs",
        f"runs: {counts or 'none'}",
        f"cost: {cost}",
        f"next: {_next_words(survey, cluster, array)}",
    ]
    budget = definition.budget.device_hours
    if budget is not None:
        over = to_come is not None and survey.hours_used + to_come > budget
        lines.append(f"budget: {budget:g} device-hours" + (" - not enough for all runs; will pause there" * over))
    return lines


def _next_words(survey: Survey, cluster: str, array: int) -> str:
    missing = len(survey.to_submit())
    if not missing:
        return "nothing to submit now"
    if cluster == "local":
        return f"{missing} runs to start as local processes, {array} at a time"
    arrays = math.ceil(missing / array)
    return f"{missing} runs to submit as {arrays} Slurm array{'s' * (arrays > 1)} of up to {array} jobs"


def as_json(sweep: Sweep, survey: Survey, parallel: int) -> dict[str, Any]:
    """The survey for programs."""
    best = select(list(survey.outcomes.values()), sweep.definition.objectives)
    return {
        "sweep": sweep.name,
        "points": {"grid": len(sweep.grid), "bayes": sweep.definition.bayes.points},
        "seeds": list(sweep.definition.seeds),
        "runs": {"total": survey.total} | {str(status): survey.count(status) for status in _ORDER},
        "waiting": waiting_reasons(survey.reports.values()),
        "complete": survey.complete,
        "device_hours": {"used": survey.hours_used, "to_come": survey.hours_to_come, "per_run": survey.hours_per_run},
        "eta_seconds": eta_seconds(survey, parallel),
        "restarts": sum(r.restarts for r in survey.reports.values()),
        "steps_redone": sum(r.steps_redone for r in survey.reports.values()),
        "best": None if best is None else trial_json(best, sweep.definition.objectives),
        "failed_trials": [trial_json(o, sweep.definition.objectives) for o in survey.failed_trials()],
    }


def trial_json(outcome: Outcome, objectives: tuple[Objective, ...]) -> dict[str, Any]:
    """A trial for programs."""
    names = [objective.metric for objective in objectives]
    return {
        "trial": outcome.trial.number,
        "stage": outcome.trial.stage,
        "point": outcome.trial.point,
        "state": outcome.state,
        "means": dict(zip(names, outcome.means, strict=False)),
        "sds": {name: None if math.isnan(sd) else sd for name, sd in zip(names, outcome.sds, strict=False)},
        "n": outcome.n,
        "reasons": list(outcome.reasons),
    }


def totals_line(sweep: Sweep, survey: Survey, parallel: int) -> str:
    """One line of totals: counts, the best point, the time left."""
    words = {s: f"{survey.count(s)} {s}" for s in _ORDER if survey.count(s) and s is not Status.DONE}
    if reasons := waiting_reasons(survey.reports.values()):
        words[Status.QUEUED] += f" ({waiting_words(reasons)})"
    counts = ", ".join(words.values())
    line = f"{survey.count(Status.DONE)}/{survey.total} runs done" + (f", {counts}" if counts else "")
    if (left := eta_seconds(survey, parallel)) is not None and not survey.complete:
        line += f"; about {duration(left)} left"
    return line


def waiting_reasons(reports: Iterable[Report]) -> dict[str, int]:
    """Slurm's reason -> how many queued runs wait for it, the most frequent first: a held job is seen here."""
    reasons = Counter(r.reason for r in reports if r.status is Status.QUEUED and r.reason not in ("", "None"))
    return dict(reasons.most_common())


def waiting_words(reasons: Mapping[str, int]) -> str:
    """Priority: 3, PartitionTimeLimit: 1."""
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.items())


def best_line(sweep: Sweep, survey: Survey) -> str:
    """The selected point so far; empty while no trial is complete."""
    outcomes = list(survey.outcomes.values())
    best = select(outcomes, sweep.definition.objectives)
    if best is None:
        return ""
    score = scaled_sums(outcomes, sweep.definition.objectives)[best.trial.number]
    return (
        f"best so far: trial {best.trial.number} ({best.trial.stage}) {point_words(best.trial.point)}: "
        f"{means_words(best, sweep.definition.objectives)}, score {score:.3f}"
    )


def means_words(outcome: Outcome, objectives: tuple[Objective, ...]) -> str:
    """Mean +- sample sd (n) of each objective."""
    words = []
    for objective, mean, sd in zip(objectives, outcome.means, outcome.sds, strict=True):
        spread = "" if math.isnan(sd) else f" +- {sd:.4f}"
        words.append(f"{objective.metric} {mean:.4f}{spread} (n={outcome.n})")
    return ", ".join(words)


def point_words(point: Mapping[str, Any]) -> str:
    """lambda_gp=10 lambda_bias=0.1: the last part of each key, or the whole where that is ambiguous."""
    short = [key.rpartition(".")[2] for key in point]
    names = short if len(set(short)) == len(short) else list(point)
    return " ".join(f"{name}={_number(value)}" for name, value in zip(names, point.values(), strict=True))


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """A length of time in the largest two units."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def failure_lines(survey: Survey) -> list[str]:
    """Each failed trial with its reasons and where its logs are."""
    lines = []
    for failed in survey.failed_trials():
        lines.append(f"trial {failed.trial.number} failed ({point_words(failed.trial.point)}):")
        lines += [f"  {reason}" for reason in failed.reasons]
        reports = [(planned, survey.reports[planned.signature]) for planned in failed.trial.runs]
        lines += [f"  log: {planned.run.log_file}" for planned, r in reports if r.status is Status.FAILED]
    return lines


def live_table(sweep: Sweep, survey: Survey, parallel: int) -> RenderableType:
    """The live display: one row per run in flight, then the totals."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"sweep {sweep.name}", title_justify="left", box=None, pad_edge=False)
    for heading in ("trial", "seed", "point", "step", "progress", "images/s", "left"):
        words = heading in ("point", "progress")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading != "point")
    rows = list(_rows(survey))
    for row in rows[:20]:
        table.add_row(*row)
    if len(rows) > 20:
        table.add_row("", "", f"and {len(rows) - 20} more")
    footer = [totals_line(sweep, survey, parallel), best_line(sweep, survey)]
    return Group(table, Text("\n".join(line for line in footer if line)))


def _rows(survey: Survey) -> list[tuple[str, ...]]:
    flight = (Status.RUNNING, Status.QUEUED)
    runs = [(planned, survey.reports[name]) for name, planned in survey.runs.items()]
    running_first = sorted((pair for pair in runs if pair[1].status in flight), key=lambda p: flight.index(p[1].status))
    return [_row(planned, report) for planned, report in running_first]


def _row(planned: PlannedRun, report: Report) -> tuple[str, ...]:
    config = planned.config
    trial = str(config.origin.trial) if config.origin else ""
    words = point_words(config.origin.point) if config.origin else ""
    if report.status is Status.QUEUED:
        return trial, str(config.seed), words, "", f"queued {report.reason}".rstrip(), "", ""
    progress = report.progress
    step, steps = progress.get("step"), progress.get("steps")
    if not isinstance(step, int | float) or not isinstance(steps, int | float) or steps <= 0:
        return trial, str(config.seed), words, "", "starting", "", ""
    left, speed = progress.get("eta_seconds"), progress.get("images_per_second")
    return (
        trial,
        str(config.seed),
        words,
        f"{step}/{steps}",
        bar(step / steps),
        f"{speed:.0f}" if isinstance(speed, int | float) else "",
        duration(left) if isinstance(left, int | float) else "",
    )


def bar(share: float, width: int = 10) -> str:
    """A bar of text."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "━" * full + "╌" * (width - full) + f" {share:4.0%}"
