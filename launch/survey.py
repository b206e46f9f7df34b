"""One look at a sweep: every trial, the report of every run, the totals, and what it has cost so far.

Read from the run directories and from who is alive; the display, the plan and the JSON all come from this.
"""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from genxai.runs import Run
from launch.attempts import ENDED, IN_FLIGHT, TO_SUBMIT, Live, Report, Status, Tried, report
from launch.choices import RowTrials, row_trials, selection_outcomes
from launch.outcomes import Outcome, outcome
from launch.plan import PlannedRun, Planner, Trial, wanted_runs
from launch.rows import Rows
from launch.submissions import History, Submission, histories


@dataclass(frozen=True)
class Survey:
    """State of a sweep at one moment."""

    trials: Mapping[int, Trial]
    runs: Mapping[str, PlannedRun]
    reports: Mapping[str, Report]
    outcomes: Mapping[int, Outcome]
    unplanned: int  # runs of Bayesian trials that have not been proposed, or of rows that wait for a choice
    rows: RowTrials | None = None  # of a sweep of rows
    reused: frozenset[str] = frozenset()  # runs that lie in another sweep's folder, where they were finished

    def count(self, *statuses: Status) -> int:
        """Runs in one of these statuses; those of trials that are not known yet count as missing."""
        counted = Counter(r.status for r in self.reports.values())
        return sum(counted[status] for status in statuses) + (self.unplanned if Status.MISSING in statuses else 0)

    @property
    def total(self) -> int:
        """Runs wanted by all stages."""
        return len(self.runs) + self.unplanned

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do: each run is done or has failed for good."""
        return self.unplanned == 0 and self.count(*ENDED) == len(self.runs)

    @property
    def hours_used(self) -> float:
        """Device-hours of all runs so far, unfinished ones included; a run uses one device per process.

        Runs that another sweep has finished cost this one nothing.
        """
        return sum(r.device_seconds for name, r in self.reports.items() if name not in self.reused) / 3600

    @property
    def hours_lost(self) -> float:
        """The part of them that went into steps done again after a preemption, a kill or a failure."""
        return sum(r.device_seconds_lost for name, r in self.reports.items() if name not in self.reused) / 3600

    @property
    def hours_per_run(self) -> float | None:
        """Mean device-hours of a finished run; None while none is."""
        seconds = [r.device_seconds for r in self.reports.values() if r.status is Status.DONE]
        return statistics.fmean(seconds) / 3600 if seconds else None

    @property
    def hours_to_come(self) -> float | None:
        """Estimated device-hours of everything that is neither done nor failed; None while no run is done."""
        if self.hours_per_run is None:
            return None
        left = to_come(self.reports.values(), self.unplanned, lambda r: r.device_seconds - r.device_seconds_lost)
        return None if left is None else sum(left) / 3600

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


#: inode, size in bytes and time of change of a file
_Stamp = tuple[int, int, int]


@dataclass
class FinishedReports:
    """The reports of finished runs, kept while their result.json stays the same file."""

    _known: dict[Path, tuple[_Stamp, Report]] = field(default_factory=dict)

    def get(self, run: Run, read: Callable[[], Report]) -> Report:
        """The report of a run, by `read` unless it is known."""
        stamp = _stamp(run.result_file)
        known = self._known.get(run.path)
        if known is not None and known[0] == stamp:
            return known[1]
        found = read()
        if found.status is Status.DONE and stamp is not None:
            self._known[run.path] = stamp, found
        return found


@dataclass
class Surveyor:
    """Looks again and again at one sweep; remembers the reports of finished runs while their files stay the same."""

    planner: Planner
    forgiven: Mapping[str, Tried] = field(default_factory=dict)
    _finished: FinishedReports = field(default_factory=FinishedReports)

    def look(
        self,
        trials: Mapping[int, Trial],
        live: Mapping[str, Live],
        submissions: Sequence[Submission],
        before: Survey | None = None,
    ) -> Survey:
        """The survey of these trials. `live` and `submissions` must have been read before calling.

        With the survey `before` some trials were added, only those are looked at.
        """
        past = histories(self.planner.folder, submissions)
        sweep = self.planner.sweep
        if sweep.rows is not None:
            return self._look_at_rows(sweep.rows, trials, live, past)
        runs, reports = self._reports(trials, live, past, before.reports if before else {})
        outcomes = dict(before.outcomes) if before else {}
        for number in sorted(trials):
            if number not in outcomes:
                outcomes[number] = outcome(trials[number], reports, sweep.definition.objectives)
        unplanned = (sweep.trial_count - len(trials)) * len(sweep.definition.seeds)
        return Survey(trials, runs, reports, outcomes, unplanned)

    def _look_at_rows(
        self, rows: Rows, selection: Mapping[int, Trial], live: Mapping[str, Live], past: Mapping[str, History]
    ) -> Survey:
        """The candidates first, then the rows that follow from what has become of them."""
        _, reports = self._reports(selection, live, past, {})
        outcomes = selection_outcomes(rows, selection, reports)
        found = row_trials(self.planner, rows, outcomes)
        trials = {**selection, **found.known}
        runs, reports = self._reports(trials, live, past, reports)
        outcomes |= {number: outcome(trial, reports, ()) for number, trial in found.known.items()} | dict(found.failed)
        unplanned = sum(len(case.seeds) for case in found.waiting)
        own, reuse = self.planner.folder.path, self.planner.sweep.definition.reuse
        reused = frozenset(name for name, planned in runs.items() if planned.run.path.parent != own) if reuse else ()
        return Survey(trials, runs, reports, outcomes, unplanned, found, frozenset(reused))

    def _reports(
        self,
        trials: Mapping[int, Trial],
        live: Mapping[str, Live],
        past: Mapping[str, History],
        known: Mapping[str, Report],
    ) -> tuple[dict[str, PlannedRun], dict[str, Report]]:
        """The distinct runs of the trials, and the report of each."""
        runs, reports = wanted_runs(trials[number] for number in sorted(trials)), dict(known)
        for name, planned in runs.items():
            if name not in reports:
                reports[name] = self._report(planned, live, past.get(name, History()))
        return runs, reports

    def _report(self, planned: PlannedRun, live: Mapping[str, Live], history: History) -> Report:
        retries, name = self.planner.sweep.definition.retries, planned.signature
        read = partial(report, planned.run, live.get(name), retries, history, self.forgiven.get(name))
        return self._finished.get(planned.run, read)


def _stamp(file: Path) -> _Stamp | None:
    """Changes when the file is replaced or edited; None if there is none."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def eta_seconds(survey: Survey, parallel: int) -> float | None:
    """`time_left` of the sweep."""
    return time_left(survey.reports.values(), survey.unplanned, parallel)


def time_left(reports: Collection[Report], unplanned: int, parallel: int) -> float | None:
    """Seconds until all of these runs and the unplanned ones have ended, if `parallel` of them go on at once.

    A run is expected to take as long as the finished ones on average, or, while none has finished, as long as those
    that have begun will at their present speed; either without the steps that were done twice. What a run has done is
    taken from it; one that has taken longer already is believed its own speed. The sum is shared out evenly, and no
    answer is shorter than the longest run. 0.0 if nothing is left; None if nothing is known, or nothing goes on.
    It does not know how long jobs will wait in a queue, nor that Bayesian points wait for one another.
    """
    left = to_come(reports, unplanned, lambda r: r.seconds - r.seconds_lost)
    if not left:
        return None if left is None else 0.0
    return max(sum(left) / parallel, *left) if parallel > 0 else None


def to_come(reports: Collection[Report], unplanned: int, spent: Callable[[Report], float]) -> list[float] | None:
    """What each run that has not ended, and each unplanned one, has yet to spend; None if nothing is known of that."""
    waiting = [r for r in reports if r.status not in (*ENDED, Status.UNREADABLE)]
    if not waiting and not unplanned:
        return []
    finished = [spent(r) for r in reports if r.status is Status.DONE]
    expected = finished or [whole for r in waiting if (whole := _at_its_speed(r, spent)) is not None]
    if not expected:
        return None
    each = statistics.fmean(expected)
    return [_left(r, each, spent) for r in waiting] + [each] * unplanned


def _left(run: Report, each: float, spent: Callable[[Report], float]) -> float:
    whole = each if each > spent(run) else _at_its_speed(run, spent) or each
    return max(0.0, whole - spent(run))


def _at_its_speed(run: Report, spent: Callable[[Report], float]) -> float | None:
    """What the whole run will have spent if it goes on as it has begun; None before its first step."""
    steps, share = run.progress.get("steps", 0), spent(run)
    return share * max(steps, run.steps) / run.steps if steps and run.steps and share else None


def affordable(survey: Survey, budget_hours: float | None, wanted: int) -> int:
    """How many of `wanted` runs may be submitted within the budget.

    Runs in flight are charged in full. While no run has finished, its cost is unknown: then one point's worth of
    runs may go ahead, and the rest waits for what they cost.
    """
    if budget_hours is None:
        return wanted
    in_flight = [r for r in survey.reports.values() if r.status in IN_FLIGHT]
    each = survey.hours_per_run
    if each is None:
        first = next(iter(survey.trials.values()), None)
        return max(0, min(wanted, (len(first.runs) if first else 0) - len(in_flight)))
    charged = survey.hours_used + sum(max(0.0, each - r.device_seconds / 3600) for r in in_flight)
    if each <= 0:
        return wanted if charged < budget_hours else 0
    return max(0, min(wanted, math.floor((budget_hours - charged) / each + 1e-9)))
