"""What a sweep's own files say: its definition, its selected point or rows; and the Pareto front of its means.

Both files are optional: a table is made from run directories alone and says what is not known yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from genxai.config import Config
from genxai.configfile import dotted_keys, validate
from genxai.errors import GenxaiError
from launch.selected import Choosing, RowRuns, read_selected
from launch.sweepdir import SweepDir
from launch.sweepfile import DEFAULT_OBJECTIVES, Objective, SweepFile

if TYPE_CHECKING:
    from analysis.configuration import Configuration

T = TypeVar("T", dict[str, Any], list[str])


@dataclass(frozen=True)
class Sweep:
    """One folder under RUNS that a sweep fills."""

    name: str
    definition: SweepFile | None = None
    selected: Mapping[str, Any] = field(default_factory=dict)  # selected.yaml; empty until there is one

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self.definition.objectives if self.definition else DEFAULT_OBJECTIVES

    @cached_property
    def rows(self) -> tuple[RowRuns, ...]:
        """Which runs stand for which row, of a sweep that has rows."""
        return read_selected(self.name, self.selected).rows

    @cached_property
    def choices(self) -> tuple[Choosing, ...]:
        """What the rows choose, open choices too."""
        return read_selected(self.name, self.selected).choices

    def asked(self, selecting: bool, row: str | None) -> int:
        """How many seeds the definition asks of a point, or of a row of its own."""
        if self.definition is None:
            return 0
        if selecting:
            return len(self.definition.selection_seeds)
        own = self.definition.rows[row].seeds if row in self.definition.rows else None
        return len(own or self.definition.seeds)

    @property
    def point(self) -> Mapping[str, Any]:
        """The selected value of every searched key; empty if nothing has been selected."""
        return self._selected("point", dict)

    @property
    def rule(self) -> str:
        """How the point was selected, in words; empty if unknown."""
        rule = self.selected.get("rule")
        if not isinstance(rule, str):
            return ""
        return f"{rule.rstrip('.')}{f' (provisional: {self.provisional})' if self.provisional else ''}."

    @property
    def provisional(self) -> str:
        """`5 of 12 trials have ended`, if something was selected before all had; else empty."""
        trials = self.selected.get("trials")
        counts = trials if isinstance(trials, Mapping) else {}
        try:
            ended, wanted = int(counts["complete"]) + int(counts.get("failed", 0)), int(counts["wanted"])
        except (KeyError, TypeError, ValueError):
            return ""
        return f"{ended} of {wanted} trials have ended" if ended < wanted else ""

    def chosen(self, configurations: Sequence[Configuration]) -> Configuration | None:
        """The configuration at the selected point, if it is among those given."""
        if not self.point:
            return None
        here = [c for c in configurations if self.name in c.folders]
        runs = {name for name in self._selected("runs", list) if isinstance(name, str)}
        # the runs are the safer name: a folder may keep runs of an earlier definition at the same point
        by_run = [c for c in here if runs & set(c.frame["signature"])]
        fitting = by_run or [
            c for c in here if all(key in c.frame and c[key] == value for key, value in self.point.items())
        ]
        return max(fitting, key=lambda c: len(c.done), default=None)

    def _selected(self, name: str, kind: type[T]) -> T:
        """A field of the selected trial; empty if it is missing or something else."""
        trial = self.selected.get("selected")
        value = trial.get(name) if isinstance(trial, Mapping) else None
        return value if isinstance(value, kind) else kind()


def read_sweeps(root: Path, problems: list[str]) -> dict[str, Sweep]:
    """Every folder under RUNS with a sweep.yaml or selected.yaml; what cannot be read is added to `problems`."""
    sweeps = {}
    for path in sorted({file.parent for name in ("sweep.yaml", "selected.yaml") for file in root.glob(f"*/{name}")}):
        folder = SweepDir(path)
        definition = _definition(folder, problems)
        sweeps[folder.name] = Sweep(folder.name, definition, _mapping(folder.selected, problems))
    return sweeps


def _definition(folder: SweepDir, problems: list[str]) -> SweepFile | None:
    tree = _mapping(folder.definition, problems)
    if not tree:
        return None
    try:
        definition = validate(SweepFile, tree, str(folder.definition))
    except GenxaiError as error:
        problems.append(" ".join(str(error).split()))
        return None
    unknown = [key for key in definition.space if key not in dotted_keys(Config)]
    if unknown:
        problems.append(f"{folder.definition}: space: unknown key {unknown[0]!r}")
    return None if unknown else definition


def yaml_file(path: Path) -> dict[str, Any]:
    """A YAML mapping; empty if there is no such file. Raises GenxaiError if it is no mapping or cannot be read."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise GenxaiError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(tree, dict):
        raise GenxaiError(f"{path}: expected a mapping, got {type(tree).__name__}")
    return tree


def _mapping(path: Path, problems: list[str]) -> dict[str, Any]:
    """As `yaml_file`, but what is wrong is added to `problems`, and nothing is known."""
    try:
        return yaml_file(path)
    except GenxaiError as error:
        problems.append(str(error))
        return {}


def pareto_front(points: Mapping[str, Sequence[float]], directions: Sequence[str]) -> set[str]:
    """Names of the points that no other point beats: at least as good in every objective and better in one."""
    signs = [1.0 if direction == "maximize" else -1.0 for direction in directions]
    scores = {
        name: [sign * value for sign, value in zip(signs, values, strict=True)] for name, values in points.items()
    }
    return {name for name, score in scores.items() if not any(_beats(other, score) for other in scores.values())}


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
