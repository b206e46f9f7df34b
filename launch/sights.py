"""What has become of every sweep folder under RUNS, read from its files and from who is alive; writes nothing.

A sweep whose definition cannot be read, and single runs of launch/train.py, are counted as they lie there.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from genxai.configfile import read_tree, validate
from genxai.errors import GenxaiError
from genxai.runs import SAFE_LOADER, Run
from launch.attempts import Live, Report, Status, last_lines, report
from launch.display import ORDER, waiting_reasons
from launch.executors import local_live, slurm_live
from launch.pictures import newest_pictures
from launch.records import closed_folders
from launch.rowdisplay import Told, read_told
from launch.rows import count_runs
from launch.selected import read_selected
from launch.slurm import QueuedJob, SlurmSilent, queue
from launch.submissions import History, Submission, histories, read_submissions
from launch.survey import FinishedReports, time_left
from launch.sweepdir import SweepDir
from launch.sweepfile import SweepFile


@dataclass(frozen=True)
class Tally:
    """Totals of one sweep, or of several."""

    counts: dict[str, int]  # by status
    total: int | None  # runs wanted; None for a folder that no sweep has written
    hours_used: float  # device-hours of training, of unfinished runs too
    hours_lost: float  # those of them that went into steps done again
    restarts: int
    steps_redone: int
    eta_seconds: float | None  # see `launch.survey.time_left`; of several sweeps the longest that is known
    eta_unknown: int  # sweeps of which it is not known

    def as_json(self) -> dict[str, Any]:
        """Its fields by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}


@dataclass(frozen=True)
class Sight(Tally):
    """One sweep folder as it is now."""

    name: str
    best: dict[str, Any] | None  # `selected` of selected.yaml
    rows: dict[str, int] | None  # of a sweep of rows: choices and rows, and how many of them are made and complete
    ended_since: int  # runs that have ended since that was written
    waiting: dict[str, int]  # Slurm's reason -> runs in its queue
    failures: tuple[dict[str, Any], ...]
    pictures: tuple[str, ...]
    problems: tuple[str, ...]  # files that could not be read


@dataclass
class Watcher:
    """Looks again and again at RUNS; remembers what it has warned of and the reports of finished runs."""

    root: Path
    told: set[str] = field(default_factory=set)
    asked_slurm: bool = False  # at the latest look
    _finished: FinishedReports = field(default_factory=FinishedReports)
    _queue: list[QueuedJob] | SlurmSilent | None = None  # as of this look

    def look(self) -> list[Sight]:
        """Every sweep folder by name; warns on stderr of what cannot be read. Raises GenxaiError if nothing may be."""
        self._queue, self.asked_slurm = None, False
        closed = closed_folders(self.root)
        folders = sorted({file.parent.parent for file in self.root.glob("*/*/config.yaml")} | _defined(self.root))
        if closed and not folders:
            raise GenxaiError(f"cannot read the runs in {self.root}: {closed[0]}: Permission denied")
        sights = [self.sight(SweepDir(folder)) for folder in folders]
        problems = [f"{path}: Permission denied" for path in closed]
        for problem in problems + [problem for s in sights for problem in s.problems]:
            if problem not in self.told:
                print(f"warning: {problem}", file=sys.stderr)
                self.told.add(problem)
        return sights

    def sight(self, folder: SweepDir) -> Sight:
        """The state of one folder. Runs are taken as they lie there; wanted but unplanned ones count as missing."""
        problems: list[str] = []
        definition = _definition(folder, problems)
        submissions = read_submissions(folder, problems)
        live, past = self._alive(folder, submissions, problems), histories(folder, submissions)
        retries = definition.retries if definition else 0
        reports: dict[str, Report] = {}
        for file in sorted(folder.path.glob("*/config.yaml")):
            name = file.parent.name
            try:
                read = partial(report, folder.run(name), live.get(name), retries, past.get(name, History()))
                reports[name] = self._finished.get(folder.run(name), read)
            except (GenxaiError, OSError) as error:
                problems.append(str(error))
                reports[name] = Report(Status.UNREADABLE, str(error))
        told = _told(folder) if definition and definition.rows else None
        total = _wanted(definition) if told is None else told.total
        done = {name for name, r in reports.items() if r.status is Status.DONE}
        reused = _reused(folder, definition, told, reports)
        unplanned = max(0, (total or 0) - len(reports) - len(reused))
        counts = Counter(str(r.status) for r in reports.values()) + Counter({str(Status.MISSING): unplanned})
        counts[str(Status.DONE)] += len(reused)
        left = time_left(reports.values(), unplanned, counts[str(Status.RUNNING)])
        best = _best(folder)
        return Sight(
            name=folder.name,
            counts={str(status): counts[str(status)] for status in ORDER},
            total=total,
            best=best,
            rows=None if told is None else told.progress(done | reused),
            ended_since=_ended_since(folder, reports) if best else 0,
            hours_used=sum(r.device_seconds for r in reports.values()) / 3600,
            hours_lost=sum(r.device_seconds_lost for r in reports.values()) / 3600,
            restarts=sum(r.restarts for r in reports.values()),
            steps_redone=sum(r.steps_redone for r in reports.values()),
            eta_seconds=left,
            eta_unknown=int(left is None),
            waiting=waiting_reasons(reports.values()),
            pictures=tuple(map(str, newest_pictures(folder))),
            failures=tuple(
                _failure(name, r, told.labels.get(name) if told else None)
                for name, r in reports.items()
                if r.status is Status.FAILED
            ),
            problems=tuple(problems),
        )

    def _alive(self, folder: SweepDir, submissions: Sequence[Submission], problems: list[str]) -> dict[str, Live]:
        """Who is alive, as far as this machine can tell; that a cluster does not answer is added to `problems`."""
        live = local_live(submissions)
        if any(s.cluster == "slurm" for s in submissions) and shutil.which("squeue"):
            self.asked_slurm = True
            if self._queue is None:  # once for all sweeps: a cluster's controller is shared by many
                try:
                    self._queue = queue()
                except SlurmSilent as error:
                    self._queue = error
            if isinstance(self._queue, SlurmSilent):
                problems.append(f"{self._queue}; states of Slurm jobs are unknown")
            else:
                live |= slurm_live(folder, submissions, self._queue)
        return live


def total_of(sights: Sequence[Sight]) -> Tally:
    """All sweeps together; their time left is that of the one that needs longest."""
    known = [s.eta_seconds for s in sights if s.eta_seconds is not None]
    return Tally(
        counts={str(status): sum(s.counts[str(status)] for s in sights) for status in ORDER},
        total=sum(sum(s.counts.values()) if s.total is None else s.total for s in sights),
        hours_used=sum(s.hours_used for s in sights),
        hours_lost=sum(s.hours_lost for s in sights),
        restarts=sum(s.restarts for s in sights),
        steps_redone=sum(s.steps_redone for s in sights),
        eta_seconds=max(known, default=None),
        eta_unknown=sum(s.eta_unknown for s in sights),
    )


def _defined(root: Path) -> set[Path]:
    return {file.parent for file in root.glob("*/sweep.yaml")}


def _definition(folder: SweepDir, problems: list[str]) -> SweepFile | None:
    """The sweep as it was last started; None if no sweep has written the folder, or nobody can read what it wrote."""
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
    if definition.rows:
        return count_runs(definition)
    grids = [len(axis.grid) for axis in definition.space.values() if axis.grid]
    return ((math.prod(grids) if grids else 0) + definition.bayes.points) * len(definition.seeds)


def _best(folder: SweepDir) -> dict[str, Any] | None:
    """The selected point with its objectives; None if nothing is selected (yet), or not in our words."""
    try:
        chosen = yaml.safe_load(folder.selected.read_text())["selected"]
        objectives = {
            str(name): {"mean": float(value["mean"]), "sd": value["sd"] if value["sd"] is None else float(value["sd"])}
            for name, value in chosen["objectives"].items()
        }
        point, n = dict(chosen["point"]), len(chosen["runs"])
        return {"trial": int(chosen["trial"]), "point": point, "objectives": objectives, "n": n}
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _ended_since(folder: SweepDir, reports: Mapping[str, Report]) -> int:
    """Runs that have ended after the best point was chosen: nobody watches the sweep, or has looked since."""
    try:
        chosen = folder.selected.stat().st_mtime_ns
        done = [folder.run(name).result_file for name, r in reports.items() if r.status is Status.DONE]
        return sum(file.stat().st_mtime_ns > chosen for file in done)
    except OSError:
        return 0


def _told(folder: SweepDir) -> Told | None:
    """What selected.yaml says of rows; None if there is none, or not in our words."""
    try:
        selected = read_selected(folder.name, yaml.load(folder.selected.read_text(), Loader=SAFE_LOADER))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return None
    return read_told(selected) if selected.rows else None


def _reused(
    folder: SweepDir, definition: SweepFile | None, told: Told | None, own: Mapping[str, Report]
) -> frozenset[str]:
    """Runs of the rows that another sweep has finished, and this one does not run again."""
    others = definition.reuse if definition and told else ()
    wanted = [name for name in (told.labels if told and others else ()) if name not in own]
    root = folder.path.parent
    return frozenset(name for name in wanted if any(Run(root / o / name).result_file.exists() for o in others))


def _failure(signature: str, found: Report, label: str | None) -> dict[str, Any]:
    log = found.log
    lines = [] if log is None else last_lines(log)
    return {
        "run": signature,
        **({"row": label} if label else {}),
        "reason": found.reason,
        "log": None if log is None else str(log),
        "last_lines": lines,
    }
