"""What a person sees of a sweep: the plan, the live table, plain lines where there is no terminal, JSON.

Everything is drawn from a `Survey`; nothing here writes files, and of a failed run's log only the end is read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.attempts import WAITING, Report, Status, last_lines
from launch.outcomes import Outcome, scaled_sums, select
from launch.plan import PlannedRun
from launch.rowdisplay import (
    choice_lines,
    headline,
    origin_words,
    progress_line,
    row_lines,
    rows_json,
    trial_name,
)
from launch.survey import Survey, eta_seconds
from launch.sweepfile import Objective, Sweep
from launch.words import point_words

if TYPE_CHECKING:
    from rich.console import RenderableType

#: as a person reads them; those of `ALWAYS` are shown even where they are 0
ORDER = (
    Status.DONE, Status.RUNNING, Status.QUEUED, Status.PREEMPTED, Status.FAILED, Status.STOPPED, Status.RETRY,
    Status.MISSING, Status.UNREADABLE,
)  # fmt: skip
ALWAYS = ORDER[:5]


#: what squeue says of jobs that no change in the queue will ever start
HOPELESS = frozenset(
    ("BadConstraints", "InvalidAccount", "InvalidQOS", "PartitionConfig", "PartitionNodeLimit", "PartitionTimeLimit")
)


def plan_lines(sweep: Sweep, survey: Survey, cluster: str, array: int, runs_per_job: int = 1) -> list[str]:
    """The plan that is printed before anything is submitted. array: jobs of a Slurm array, or local runs at once."""
    definition = sweep.definition
    counts = ", ".join(f"{survey.count(status)} {status}" for status in ORDER if survey.count(status))
    to_come, each = survey.hours_to_come, survey.hours_per_run
    cost = (
        f"about {hours(to_come)} device-hours to come ({hours(each)} per run)"
        if to_come is not None and each is not None
        else "device-hours to come unknown until a run has finished"
    )
    lines = [
        headline(sweep, sweep.rows, survey)
        if sweep.rows is not None
        else f"sweep {sweep.name}: {len(sweep.grid)} grid points + {definition.bayes.points} Bayesian points "
        f"({definition.bayes.sampler}), {len(definition.seeds)} seeds each = {survey.total} runs",
        *(row_lines(sweep, sweep.rows, survey) if sweep.rows is not None else ()),
        f"runs: {counts or 'none'}",
        f"cost: {cost}, {used_words(survey.hours_used, survey.hours_lost)}",
        f"next: {_next_words(survey, cluster, array, runs_per_job)}",
    ]
    budget = definition.budget.device_hours
    if budget is not None:
        over = to_come is not None and survey.hours_used + to_come > budget
        lines.append(f"budget: {budget:g} device-hours" + (" - not enough for all runs; will pause there" * over))
    return lines


def _next_words(survey: Survey, cluster: str, array: int, runs_per_job: int) -> str:
    missing = len(survey.to_submit())
    if not missing:
        return "nothing to submit now"
    if cluster == "local":
        return f"{missing} runs to start as local processes, {array} at a time"
    arrays = math.ceil(missing / (array * runs_per_job))
    words = f"{missing} runs to submit as {arrays} Slurm array{'s' * (arrays > 1)} of up to {array} jobs"
    return words + (f" of {runs_per_job} runs" if runs_per_job > 1 else "")


def as_json(sweep: Sweep, survey: Survey, parallel: int) -> dict[str, Any]:
    """The survey for programs."""
    return {
        "sweep": sweep.name,
        **_wanted_json(sweep, survey),
        "runs": {"total": survey.total} | {str(status): survey.count(status) for status in ORDER},
        "waiting": waiting_reasons(survey.reports.values()),
        "complete": survey.complete,
        "device_hours": {
            "used": survey.hours_used,
            "lost": survey.hours_lost,
            "to_come": survey.hours_to_come,
            "per_run": survey.hours_per_run,
        },
        "eta_seconds": eta_seconds(survey, parallel),
        "restarts": sum(r.restarts for r in survey.reports.values()),
        "steps_redone": sum(r.steps_redone for r in survey.reports.values()),
        "failed_trials": [trial_json(o, sweep.definition.objectives) for o in survey.failed_trials()],
    }


def _wanted_json(sweep: Sweep, survey: Survey) -> dict[str, Any]:
    """The points and the best of them; or choices and rows."""
    if sweep.rows is not None:
        return rows_json(sweep, sweep.rows, survey)
    best = select(list(survey.outcomes.values()), sweep.definition.objectives)
    return {
        "points": {"grid": len(sweep.grid), "bayes": sweep.definition.bayes.points},
        "seeds": list(sweep.definition.seeds),
        "best": None if best is None else trial_json(best, sweep.definition.objectives),
    }


def trial_json(outcome: Outcome, objectives: tuple[Objective, ...]) -> dict[str, Any]:
    """A trial for programs."""
    names = [objective.metric for objective in objectives]
    return {
        "trial": outcome.trial.number,
        "stage": outcome.trial.stage,
        **({} if outcome.trial.row is None else {"row": outcome.trial.row}),
        "point": outcome.trial.point,
        "state": outcome.state,
        "means": dict(zip(names, outcome.means, strict=False)),
        "sds": {name: None if math.isnan(sd) else sd for name, sd in zip(names, outcome.sds, strict=False)},
        "n": outcome.n,
        "reasons": list(outcome.reasons),
    }


def totals_line(sweep: Sweep, survey: Survey, parallel: int) -> str:
    """One line of totals: counts, device-hours, the time left."""
    words = {status: f", {survey.count(status)} {status}" for status in ORDER[1:] if survey.count(status)}
    if reasons := waiting_reasons(survey.reports.values()):
        words[[status for status in WAITING if status in words][-1]] += f" ({waiting_words(reasons)})"
    counts = "".join(words.values())
    line = f"{survey.count(Status.DONE)}/{survey.total} runs done{counts}"
    line += f"; device-hours: {used_words(survey.hours_used, survey.hours_lost)}"
    return line if survey.complete else f"{line}; left: {left_words(eta_seconds(survey, parallel))}"


def used_words(used: float, lost: float) -> str:
    """Device-hours in words; what was lost to preemption only where something was."""
    return f"{hours(used)} used" + (f", {hours(lost)} of them lost to preemption" if lost else "")


def left_words(seconds: float | None) -> str:
    """The time left in words."""
    return "unknown" if seconds is None else f"about {duration(seconds)}"


def hours(number: float) -> str:
    """Device-hours for reading: a few digits, never an exponent."""
    digits = 4 if number < 0.01 else 3 if number < 1 else 2 if number < 10 else 1 if number < 100 else 0
    return f"{number:,.{digits}f}" if number else "0"


def waiting_reasons(reports: Iterable[Report]) -> dict[str, int]:
    """Slurm's reason -> how many runs in its queue wait for it, the most frequent first: a held job is seen here."""
    reasons = Counter(r.reason for r in reports if r.status in WAITING and r.reason not in ("", "None"))
    return dict(reasons.most_common())


def waiting_words(reasons: Mapping[str, int]) -> str:
    """Priority: 3, JobHeldUser: 1; and what to do about jobs that wait for ever."""
    words = ", ".join(f"{reason}: {count}" for reason, count in reasons.items())
    if HOPELESS.isdisjoint(reasons):
        return words
    return f"{words}; they ask for more than the cluster gives: --cancel, change the profile, start again"


def best_line(sweep: Sweep, survey: Survey) -> str:
    """The selected point so far, or how far the rows are; empty while no trial is complete."""
    if sweep.rows is not None:
        return progress_line(sweep.rows, survey)
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


def duration(seconds: float) -> str:
    """A length of time in the largest two units."""
    whole = max(0, round(seconds))
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def conclusion(sweep: Sweep, survey: Survey, file: Path) -> list[str]:
    """What has been selected or chosen, and the file that says it; [] while nothing has."""
    best = best_line(sweep, survey)
    if survey.complete and sweep.rows is None:
        best = best.replace("best so far", "selected")
    lines = [*(choice_lines(survey) if sweep.rows is not None else ()), *([best] if best else [])]
    return [*lines, f"written to {file}"] if lines else []


def failure_lines(sweep: Sweep, survey: Survey) -> list[str]:
    """Each failed trial with its reasons, and the end of the log of each of its failed runs."""
    lines = []
    for failed in survey.failed_trials():
        name = f"trial {failed.trial.number} failed ({point_words(failed.trial.point)}):"
        lines.append(name if sweep.rows is None else f"{trial_name(sweep, failed.trial)} failed:")
        lines += [f"  {reason}" for reason in failed.reasons]
        for planned in failed.trial.runs:
            report = survey.reports[planned.signature]
            if report.status is Status.FAILED:
                lines += [f"  {line}" for line in log_lines(report)]
    return lines


def log_lines(report: Report) -> list[str]:
    """The end of a failed run's log, and where the rest is."""
    if report.log is None:
        return ["no log"]
    return [f"| {line}" for line in last_lines(report.log)] + [f"log: {report.log}"]


def live_table(sweep: Sweep, survey: Survey, parallel: int) -> RenderableType:
    """The live display: one row per run in flight, then the totals."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"sweep {sweep.name}", title_justify="left", box=None, pad_edge=False)
    what, where = ("trial", "point") if sweep.rows is None else ("row", "setting")
    for heading in (what, "seed", where, "step", "progress", "images/s", "left"):
        words = heading in ("row", where, "progress")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading != where)
    rows = list(_rows(sweep, survey))
    for row in rows[:20]:
        table.add_row(*row)
    if len(rows) > 20:
        table.add_row("", "", f"and {len(rows) - 20} more")
    footer = [totals_line(sweep, survey, parallel), best_line(sweep, survey)]
    return Group(table, Text("\n".join(line for line in footer if line)))


def _rows(sweep: Sweep, survey: Survey) -> list[tuple[str, ...]]:
    flight = (Status.RUNNING, Status.PREEMPTED, Status.QUEUED)
    runs = [(planned, survey.reports[name]) for name, planned in survey.runs.items()]
    running_first = sorted((pair for pair in runs if pair[1].status in flight), key=lambda p: flight.index(p[1].status))
    return [_row(sweep, planned, report) for planned, report in running_first]


def _row(sweep: Sweep, planned: PlannedRun, report: Report) -> tuple[str, ...]:
    config, origin = planned.config, planned.config.origin
    trial, words = (str(origin.trial), point_words(origin.point)) if origin else ("", "")
    if origin and origin.row is not None:
        trial, words = origin_words(sweep, origin.row, origin.stage, origin.point)
    progress = report.progress
    step, steps = progress.get("step", 0), progress.get("steps", 0)
    where = f"{int(step)}/{int(steps)}" if steps else ""
    if report.status in WAITING:
        return trial, str(config.seed), words, where, f"{report.status} {report.reason}".rstrip(), "", ""
    if not steps:
        return trial, str(config.seed), words, "", "starting", "", ""
    left, speed = progress.get("eta_seconds"), progress.get("images_per_second")
    return (
        trial,
        str(config.seed),
        words,
        where,
        bar(step / steps),
        f"{speed:.0f}" if speed else "",
        "" if left is None else duration(left),
    )


def bar(share: float, width: int = 10) -> str:
    """A bar of text."""
    full = round(min(1.0, max(0.0, share)) * width)
    return "━" * full + "╌" * (width - full) + f" {share:4.0%}"
