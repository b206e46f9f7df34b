"""What a sweep wants: trials, their runs, and which trials the run directories already remember.

Pure functions of the sweep and of the files under RUNS/<sweep>; nothing here writes or starts anything.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import yaml

from genxai.config import Config, Origin
from genxai.errors import UsageError
from genxai.runs import LARGEST_CONFIG, SAFE_LOADER, Run, State
from launch.points import Point, config_at
from launch.rows import Case
from launch.signatures import Fingerprint, Signatures
from launch.sweepdir import SweepDir
from launch.sweepfile import Sweep, has_point, point_of


@dataclass(frozen=True)
class PlannedRun:
    """One seed of a trial: where it runs and with what configuration."""

    run: Run
    config: Config

    @property
    def signature(self) -> str:
        return self.run.signature


Stage = Literal["grid", "bayes", "selection", "row"]


@dataclass(frozen=True)
class Trial:
    """A point of the search space with one run per seed; or a candidate of a row, or a row in one of its settings."""

    number: int
    stage: Stage
    point: Point
    runs: tuple[PlannedRun, ...]
    row: str | None = None


@dataclass(frozen=True)
class Planner:
    """Turns points of one sweep into trials; knows where they live and how data is identified."""

    sweep: Sweep
    folder: SweepDir
    fingerprint: Fingerprint

    def trial(self, number: int, stage: Stage, point: Point, signatures: Signatures | None = None) -> Trial:
        """The trial of a point: one run per seed, named by its signature."""
        config = config_at(self.sweep.base, point, f"trial {number}")
        origin = Origin(sweep=self.sweep.name, trial=number, stage=stage, point=point_of(self.sweep.definition, config))
        return self._trial(config, origin, self.sweep.definition.seeds, signatures or Signatures(self.fingerprint))

    def _trial(self, config: Config, origin: Origin, seeds: Iterable[int], signatures: Signatures) -> Trial:
        runs = []
        for seed in seeds:
            seeded = config.model_copy(update={"seed": seed, "origin": origin})
            runs.append(PlannedRun(self._place(signatures.of(seeded)), seeded))
        return Trial(origin.trial, origin.stage, origin.point, tuple(runs), origin.row)

    def _place(self, signature: str) -> Run:
        """The sweep's own folder, unless it has not begun the run and a sweep that it may `reuse` has finished it."""
        own = self.folder.run(signature)
        for name in self.sweep.definition.reuse:
            other = Run(self.folder.path.parent / name / signature)
            if other.state is State.DONE and not own.path.exists():
                return other
        return own

    def grid(self) -> list[Trial]:
        """Stage 1: every point of the grid exactly once, always in the same order."""
        signatures = Signatures(self.fingerprint)
        return [self.trial(number, "grid", point, signatures) for number, point in enumerate(self.sweep.grid)]

    def selection(self) -> list[Trial]:
        """The candidates that rows choose from, by number."""
        rows, seeds = self.sweep.rows, self.sweep.definition.selection_seeds
        signatures = Signatures(self.fingerprint)
        return [
            self._row_trial(candidate.trial, "selection", question.row, candidate.point, seeds, signatures)
            for question, candidate in (rows.candidates if rows else ())
        ]

    def cases(self, known: Iterable[tuple[Case, Point]]) -> list[Trial]:
        """Rows in their settings, each at the point that has been chosen for it."""
        signatures = Signatures(self.fingerprint)
        return [self._row_trial(case.trial, "row", case.row, point, case.seeds, signatures) for case, point in known]

    def _row_trial(
        self, number: int, stage: Stage, row: str, point: Point, seeds: Iterable[int], signatures: Signatures
    ) -> Trial:
        config = config_at(self.sweep.base, point, f"trial {number}")
        origin = Origin(sweep=self.sweep.name, trial=number, stage=stage, point=point, row=row)
        return self._trial(config, origin, seeds, signatures)

    def recover(self, skip: Iterable[str] = ()) -> dict[int, Trial]:
        """Bayesian trials that run directories remember, by number; one of the k directories is enough.

        A directory counts if its configuration is the one this sweep would give its point today: runs of an
        older definition in the same folder are left alone. Trials whose number lies outside the present range
        (the grid has grown or shrunk since) take the free numbers in order, so that no finished work is lost.
        """
        first, last = len(self.sweep.grid), self.sweep.trial_count
        known = set(skip)
        signatures = Signatures(self.fingerprint)
        found: dict[int, Trial] = {}
        for signature, memory in remembered(self.folder, known):
            trial = self._recovered(memory, signatures) if memory.trial not in found else None
            if trial and signatures.of(trial.runs[0].config.model_copy(update={"seed": memory.seed})) == signature:
                found[memory.trial] = trial
                known.update(planned.signature for planned in trial.runs)  # the other seeds have nothing to add
        inside = {number: trial for number, trial in found.items() if first <= number < last}
        outside = [found[number] for number in sorted(found) if number not in inside]
        free = [number for number in range(first, last) if number not in inside]
        for number, trial in zip(free, outside, strict=False):
            inside[number] = self.trial(number, "bayes", trial.point, signatures)
        return dict(sorted(inside.items()))

    def _recovered(self, memory: Memory, signatures: Signatures) -> Trial | None:
        """The trial as it would be planned today; None if it would not."""
        if memory.stage != "bayes" or not has_point(self.sweep.definition, memory.point):
            return None
        try:
            return self.trial(memory.trial, "bayes", memory.point, signatures)
        except UsageError:
            return None  # a value that today's options no longer allow


@dataclass(frozen=True)
class Memory:
    """What a run directory says about the trial it belongs to."""

    trial: int
    stage: str
    point: Point
    seed: int


def remembered(folder: SweepDir, known: Container[str] = ()) -> Iterator[tuple[str, Memory]]:
    """Signature and origin of every run directory of the sweep that is not known yet, in a stable order."""
    try:
        names = sorted(os.listdir(folder.path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # no run yet; or no folder of ours, which is said when it is written to
    for name in names:
        memory = _read_memory(f"{folder.path}/{name}/config.yaml") if name not in known else None
        if memory is not None:
            yield name, memory


_SEED = re.compile(r"^seed: *(\d+) *$", re.MULTILINE)
_ORIGIN = re.compile(r"^origin:", re.MULTILINE)


def _read_memory(file: str) -> Memory | None:
    """Seed and origin of a config.yaml without parsing the rest: a sweep may have ten thousand of them."""
    try:
        with open(file, encoding="utf-8") as stream:
            text = stream.read(LARGEST_CONFIG + 1)
    except (OSError, UnicodeDecodeError):
        return None  # no run directory, removed between the listing and now, or no text; its run will say so
    start, seed = _ORIGIN.search(text), _SEED.search(text)
    if start is None or seed is None or len(text) > LARGEST_CONFIG:
        return None
    try:
        origin: Any = yaml.load(text[start.start() :], Loader=SAFE_LOADER)["origin"]
        memory = Memory(int(origin["trial"]), str(origin["stage"]), dict(origin["point"]), int(seed[1]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return memory if memory.trial >= 0 else None


def cached(fingerprint: Fingerprint) -> Fingerprint:
    """The fingerprint asked once per distinct data section."""
    return lru_cache(maxsize=None)(fingerprint)


def wanted_runs(trials: Iterable[Trial]) -> dict[str, PlannedRun]:
    """The distinct runs of the trials by signature: a run that two trials want is computed once."""
    wanted: dict[str, PlannedRun] = {}
    for trial in trials:
        for planned in trial.runs:
            wanted.setdefault(planned.signature, planned)
    return wanted
