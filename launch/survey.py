"""One look at a sweep: every trial, the report of every run, the totals, and what it has cost so far.

Read from the run directories and from who is alive; the display, the plan and the JSON all come from this.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from launch.attempts import TO_SUBMIT, Live, Report, Status, Tried, report
from launch.outcomes import Outcome, outcome
from launch.plan import PlannedRun, Planner, Trial, wanted_runs
from launch.submissions import History, Submission, histories


@dataclass(frozen=True)
class Survey:
    """State of a sweep at one moment."""

    trials: Mapping[int, Trial]
    runs: Mapping[str, PlannedRun]
    reports: Mapping[str, Report]
    outcomes: Mapping[int, Outcome]
    unplanned: int  # runs of Bayesian trials that have not been proposed yet

    def count(self, *statuses: Status) -> int:
        """Runs in one of these statuses; trials not proposed yet count as missing."""
        counted = Counter(r.status for r in self.reports.values())
        return sum(counted[status] for status in statuses) + (self.unplanned if Status.MISSING in statuses else 0)

    @property
    def total(self) -> int:
        """Runs wanted by both stages."""
        return len(self.runs) + self.unplanned

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: each run is done or has failed for good."""
        return self.unplanned == 0 and self.count(Status.DONE, Status.FAILED) == len(self.runs)

    @property
    def hours_used(self) -> float:
        """Device-hours of all runs so far, unfinished ones included; a run uses one device per process."""
        return sum(r.device_seconds for r in self.reports.values()) / 3600

    @property
    def hours_per_run(self) -> float | None:
        """Mean device-hours of a finished run; None while none is."""
        seconds = [r.device_seconds for r in self.reports.values() if r.status is Status.DONE]
        return statistics.fmean(seconds) / 3600 if seconds else None

    @property
    def hours_to_come(self) -> float | None:
        """Estimated device-hours of everything that is neither done nor failed; None while unknown."""
        seconds = self.to_come(lambda r: r.device_seconds)
        return None if seconds is None else seconds / 3600

    def to_come(self, spent: Callable[[Report], float]) -> float | None:
        """What everything that is neither done nor failed has yet to spend, a run as much as the finished ones."""
        finished = [spent(r) for r in self.reports.values() if r.status is Status.DONE]
        if not finished:
            return None
        each = statistics.fmean(finished)
        open_runs = [r for r in self.reports.values() if r.status not in (Status.DONE, Status.FAILED)]
        return sum(max(0.0, each - spent(r)) for r in open_runs) + self.unplanned * each

    def to_submit(self) -> list[PlannedRun]:
        """Runs that wait to be submitted, in trial order."""
        return [planned for name, planned in self.runs.items() if self.reports[name].status in TO_SUBMIT]

    def in_order(self) -> list[Outcome]:
        """Outcomes by trial number, up to the first trial that is not proposed yet."""
        ordered = []
        for number in range(len(self.outcomes)):
            if number not in self.outcomes:
                break
            ordered.append(self.outcomes[number])
        return ordered

    def failed_trials(self) -> list[Outcome]:
        return [self.outcomes[number] for number in sorted(self.outcomes) if self.outcomes[number].state == "failed"]


@dataclass
class Surveyor:
    """Looks again and again at one sweep; remembers only what cannot change: the reports of finished runs."""

    planner: Planner
    forgiven: Mapping[str, Tried] = field(default_factory=dict)
    _finished: dict[str, Report] = field(default_factory=dict)

    def look(self, trials: Mapping[int, Trial], live: Mapping[str, Live], submissions: Sequence[Submission]) -> Survey:
        """The survey of these trials. `live` and `submissions` must have been read before calling."""
        definition = self.planner.sweep.definition
        ordered = [trials[number] for number in sorted(trials)]
        runs = wanted_runs(ordered)
        past = histories(self.planner.folder, submissions)
        reports = {name: self._report(planned, live, past.get(name, History())) for name, planned in runs.items()}
        outcomes = {trial.number: outcome(trial, reports, definition.objectives) for trial in ordered}
        unplanned = (self.planner.sweep.trial_count - len(trials)) * len(definition.seeds)
        return Survey(trials, runs, reports, outcomes, unplanned)

    def _report(self, planned: PlannedRun, live: Mapping[str, Live], history: History) -> Report:
        known = self._finished.get(planned.signature)
        if known is not None and planned.run.result_file.exists():
            return known
        retries = self.planner.sweep.definition.retries
        found = report(
            planned.run,
            live.get(planned.signature),
            retries,
            history,
            self.forgiven.get(planned.signature),
        )
        if found.status is Status.DONE:
            self._finished[planned.signature] = found
        return found


def eta_seconds(survey: Survey, parallel: int) -> float | None:
    """Seconds until the sweep is complete if `parallel` runs go on at the same speed; None while unknown."""
    seconds = survey.to_come(lambda r: r.seconds)
    return None if seconds is None else seconds / max(1, parallel)


def affordable(survey: Survey, budget_hours: float | None, wanted: int) -> int:
    """How many of `wanted` runs may be submitted within the budget.

    Runs in flight are charged in full. While no run has finished, its cost is unknown: then one point's worth of
    runs may go ahead, and the rest waits for what they cost.
    """
    if budget_hours is None:
        return wanted
    in_flight = [r for r in survey.reports.values() if r.status in (Status.RUNNING, Status.QUEUED)]
    each = survey.hours_per_run
    if each is None:
        first = next(iter(survey.trials.values()), None)
        return max(0, min(wanted, (len(first.runs) if first else 0) - len(in_flight)))
    charged = survey.hours_used + sum(max(0.0, each - r.device_seconds / 3600) for r in in_flight)
    if each <= 0:
        return wanted if charged < budget_hours else 0
    return max(0, min(wanted, math.floor((budget_hours - charged) / each + 1e-9)))
