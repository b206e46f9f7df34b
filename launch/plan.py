"""What a sweep wants: trials, their runs, and which trials the run directories already remember.

Pure functions of the sweep and of the files under RUNS/<sweep>; nothing here writes or starts anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from genxai.config import Config, DataConfig, Origin
from genxai.configfile import set_dotted, validate
from genxai.errors import UsageError
from genxai.runs import Run, run_signature
from launch.sweepdir import SweepDir
from launch.sweepfile import Point, Sweep, has_point, resolve_point

Fingerprint = Callable[[DataConfig], str]


@dataclass(frozen=True)
class PlannedRun:
    """One seed of a trial: where it runs and with what configuration."""

    run: Run
    config: Config

    @property
    def signature(self) -> str:
        return self.run.signature


@dataclass(frozen=True)
class Trial:
    """A point of the search space with one run per seed."""

    number: int
    stage: Literal["grid", "bayes"]
    point: Point
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class Planner:
    """Turns points of one sweep into trials; knows where they live and how data is identified."""

    sweep: Sweep
    folder: SweepDir
    fingerprint: Fingerprint

    def trial(self, number: int, stage: Literal["grid", "bayes"], point: Point) -> Trial:
        """The trial of a point: one run per seed, named by its signature."""
        resolved = resolve_point(self.sweep.definition, self.sweep.base, point, f"trial {number}")
        origin = Origin(sweep=self.sweep.name, trial=number, stage=stage, point=resolved)
        tree = self.sweep.base.model_dump()
        for key, value in resolved.items():
            set_dotted(tree, key, value)
        config = validate(Config, tree, f"trial {number}").model_copy(update={"origin": origin})
        runs = tuple(self._planned(config, seed) for seed in self.sweep.definition.seeds)
        return Trial(number, stage, resolved, runs)

    def _planned(self, config: Config, seed: int) -> PlannedRun:
        config = config.model_copy(update={"seed": seed})
        return PlannedRun(self.folder.run(self.signature(config)), config)

    def signature(self, config: Config) -> str:
        return run_signature(config, self.fingerprint(config.data))

    def grid(self) -> list[Trial]:
        """Stage 1: every point of the grid exactly once, always in the same order."""
        return [self.trial(number, "grid", point) for number, point in enumerate(self.sweep.grid)]

    def recover(self, skip: Iterable[str] = ()) -> dict[int, Trial]:
        """Bayesian trials that run directories remember, by number; one of the k directories is enough.

        A directory counts if its configuration is the one this sweep would give its point today: runs of an
        older definition in the same folder are left alone. Trials whose number lies outside the present range
        (the grid has grown or shrunk since) take the free numbers in order, so that no finished work is lost.
        """
        first, last = len(self.sweep.grid), self.sweep.trial_count
        known = set(skip)
        found: dict[int, Point] = {}
        for signature, memory in remembered(self.folder):
            if signature in known or memory.stage != "bayes" or memory.trial in found:
                continue
            if self._is_mine(signature, memory):
                found[memory.trial] = memory.point
        inside = {number: point for number, point in found.items() if first <= number < last}
        outside = [found[number] for number in sorted(found) if number not in inside]
        free = [number for number in range(first, last) if number not in inside]
        inside.update(zip(free, outside, strict=False))
        return {number: self.trial(number, "bayes", point) for number, point in sorted(inside.items())}

    def _is_mine(self, signature: str, memory: Memory) -> bool:
        if not has_point(self.sweep.definition, memory.point):
            return False
        try:
            trial = self.trial(memory.trial, "bayes", memory.point)
        except UsageError:
            return False  # a value that today's options no longer allow
        config = trial.runs[0].config.model_copy(update={"seed": memory.seed})
        return self.signature(config) == signature


@dataclass(frozen=True)
class Memory:
    """What a run directory says about the trial it belongs to."""

    trial: int
    stage: str
    point: Point
    seed: int


def remembered(folder: SweepDir) -> Iterator[tuple[str, Memory]]:
    """Signature and origin of every run directory of the sweep, in a stable order."""
    for file in sorted(folder.path.glob("*/config.yaml")):
        memory = _read_memory(file)
        if memory is not None:
            yield file.parent.name, memory


_SEED = re.compile(r"^seed: *(\d+) *$", re.MULTILINE)
_ORIGIN = re.compile(r"^origin:", re.MULTILINE)


def _read_memory(file: Path) -> Memory | None:
    """Seed and origin of a config.yaml without parsing the rest: a sweep may have ten thousand of them."""
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError):
        return None  # removed between the listing and now, or no text; its run will say so
    start, seed = _ORIGIN.search(text), _SEED.search(text)
    if start is None or seed is None:
        return None
    try:
        origin: Any = yaml.safe_load(text[start.start() :])["origin"]
        return Memory(int(origin["trial"]), str(origin["stage"]), dict(origin["point"]), int(seed[1]))
    except (yaml.YAMLError, KeyError, TypeError, ValueError, RecursionError):
        return None


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
