"""From finished runs to trial outcomes: mean and spread over seeds, the Pareto front, the selected point.

Pure functions of reports; the only thing written is `selected.yaml`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from genxai.errors import GenxaiError
from genxai.files import write_atomic
from launch.attempts import Report, Status
from launch.plan import Trial
from launch.sweepdir import SweepDir
from launch.sweepfile import Objective, Sweep

#: through libyaml where it is installed: a table's choices are looked at in every pass
_SAFE_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)

RULE = (
    "largest sum of the objectives, each scaled to [0, 1] over its range among the finished trials "
    "(0 worst, 1 best; an objective without spread counts 0); the lower trial number wins a tie"
)


@dataclass(frozen=True)
class Outcome:
    """What is known of a trial. `means` and `sds` follow the sweep's objectives; sd is nan for one seed."""

    trial: Trial
    state: Literal["open", "complete", "failed"]
    means: tuple[float, ...] = ()
    sds: tuple[float, ...] = ()
    n: int = 0
    reasons: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return self.state != "open"


def outcome(trial: Trial, reports: Mapping[str, Report], objectives: Sequence[Objective]) -> Outcome:
    """Open until every seed is done or has failed for good; the mean objectives once all are done.

    A seed without a finite value of an objective fails the trial: a mean over fewer seeds is another quantity.
    """
    mine = [(planned, reports[planned.signature]) for planned in trial.runs]
    if any(r.status not in (Status.DONE, Status.FAILED) for _, r in mine):
        return Outcome(trial, "open")
    reasons = [f"seed {p.config.seed} ({p.signature}): {r.reason}" for p, r in mine if r.status is Status.FAILED]
    values: list[list[float]] = []
    for objective in objectives:
        found = [(p, r.metrics.get(objective.metric)) for p, r in mine if r.status is Status.DONE]
        bad = [p for p, value in found if not _is_number(value)]
        reasons += [f"seed {p.config.seed} ({p.signature}): no value of {objective.metric}" for p in bad]
        values.append([float(value) for _, value in found if value is not None and _is_number(value)])
    if reasons:
        return Outcome(trial, "failed", reasons=tuple(reasons))
    return Outcome(
        trial,
        "complete",
        means=tuple(statistics.fmean(v) for v in values),
        sds=tuple(_sample_sd(v) for v in values),
        n=len(mine),
    )


def _sample_sd(values: Sequence[float]) -> float:
    """ddof = 1; nan for one value. statistics.stdev works with fractions, a quarter of a second per 10,000 runs."""
    if len(values) < 2:
        return math.nan
    mean = statistics.fmean(values)
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def check_objectives(reports: Mapping[str, Report], objectives: Sequence[Objective]) -> None:
    """Raise GenxaiError if runs are done and none of them knows an objective: a wrong name, or the wrong model."""
    done = [r for r in reports.values() if r.status is Status.DONE]
    for objective in objectives:
        if done and not any(objective.metric in r.metrics for r in done):
            known = ", ".join(sorted(done[0].metrics)) or "none"
            raise GenxaiError(
                f"no finished run has the objective {objective.metric!r}; metrics of the first one: {known}. "
                "Change `objectives` in the sweep file; finished runs are kept"
            )


def pareto_front(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> list[Outcome]:
    """Complete trials that no other complete trial beats or equals everywhere and beats somewhere."""
    complete = [o for o in outcomes if o.state == "complete"]
    gains = [_gains(o, objectives) for o in complete]
    best = non_dominated(gains)
    return [o for o, gain in zip(complete, gains, strict=True) if gain in best]


def non_dominated(points: Iterable[tuple[float, ...]]) -> set[tuple[float, ...]]:
    """The points that no other one equals or exceeds in every coordinate; n log n steps for one or two coordinates."""
    front: list[tuple[float, ...]] = []
    for point in sorted(set(points), reverse=True):  # whoever dominates a point comes before it
        # with two coordinates, the latest of the front has the largest second one so far
        rivals = front[-1:] if len(point) <= 2 else front
        if not any(_dominates(rival, point) for rival in rivals):
            front.append(point)
    return set(front)


def _gains(outcome: Outcome, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The means, signed so that more is better."""
    pairs = zip(outcome.means, objectives, strict=True)
    return tuple(mean if objective.direction == "maximize" else -mean for mean, objective in pairs)


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x >= y for x, y in zip(a, b, strict=True)) and a != b


def scaled_sums(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> dict[int, float]:
    """Trial number -> sum of scaled objectives, over the complete trials; see `RULE`."""
    complete = [o for o in outcomes if o.state == "complete"]
    gains = {o.trial.number: _gains(o, objectives) for o in complete}
    columns = list(zip(*gains.values(), strict=True))
    spans = [(min(column), max(column) - min(column)) for column in columns]
    return {
        number: sum((gain - low) / span if span > 0 else 0.0 for gain, (low, span) in zip(row, spans, strict=True))
        for number, row in gains.items()
    }


def ranked_front(
    outcomes: Sequence[Outcome], objectives: Sequence[Objective]
) -> tuple[list[Outcome], dict[int, float]]:
    """The Pareto front with the selected trial first, and the scores it is ordered by."""
    scores = scaled_sums(outcomes, objectives)
    front = pareto_front(outcomes, objectives)
    return sorted(front, key=lambda o: (-scores[o.trial.number], o.trial.number)), scores


def select(outcomes: Sequence[Outcome], objectives: Sequence[Objective]) -> Outcome | None:
    """The chosen trial of the Pareto front; None while no trial is complete."""
    return next(iter(ranked_front(outcomes, objectives)[0]), None)


def selection(sweep: Sweep, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Content of selected.yaml; empty while no trial is complete."""
    objectives = sweep.definition.objectives
    front, scores = ranked_front(outcomes, objectives)
    if not front:
        return {}
    return {
        "sweep": sweep.name,
        "rule": RULE,
        "objectives": {o.metric: o.direction for o in objectives},
        "trials": {
            "wanted": sweep.trial_count,
            "complete": sum(o.state == "complete" for o in outcomes),
            "failed": sum(o.state == "failed" for o in outcomes),
        },
        "selected": _row(front[0], scores, objectives),
        "front": [_row(o, scores, objectives) for o in front],
    }


def _row(outcome: Outcome, scores: Mapping[int, float], objectives: Sequence[Objective]) -> dict[str, Any]:
    trial = outcome.trial
    return {
        "trial": trial.number,
        "stage": trial.stage,
        "point": dict(trial.point),
        "score": round(scores[trial.number], 6),
        "objectives": {
            objective.metric: {"mean": mean, "sd": None if math.isnan(sd) else sd, "n": outcome.n}
            for objective, mean, sd in zip(objectives, outcome.means, outcome.sds, strict=True)
        },
        "runs": [planned.signature for planned in trial.runs],
    }


def write_selection(folder: SweepDir, content: dict[str, Any]) -> None:
    """Publish selected.yaml if its content has changed; nothing is written while there is none."""
    if not content:
        return
    text = yaml.dump(without_anchors(content), Dumper=_SAFE_DUMPER, sort_keys=False, allow_unicode=True)
    text = f"# Written by launch/sweep.py whenever a trial ends; do not edit.\n{text}"
    try:
        if folder.selected.read_text() == text:
            return
    except (OSError, UnicodeDecodeError):
        pass  # not there yet, or damaged
    write_atomic(folder.selected, text)


def without_anchors(value: Any) -> Any:
    """Tuples as lists, and no object twice: YAML that safe_load reads, without anchors."""
    if isinstance(value, dict):
        return {key: without_anchors(item) for key, item in value.items()}
    return [without_anchors(item) for item in value] if isinstance(value, list | tuple) else value
