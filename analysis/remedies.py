"""Which of this repository's sweeps would run what a table or a claim lacks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.conditions import matches, setting_of
from analysis.specs import RowSpec
from genxai.config import Config
from genxai.configfile import get_dotted
from genxai.errors import GenxaiError
from launch.cli import REPOSITORY
from launch.points import config_at
from launch.sweepfile import Sweep, load_sweep


@dataclass(frozen=True)
class Planned:
    """A configuration that a sweep would run, and for which row of a table (none: a point of a search)."""

    row: str | None
    config: Config


def command(row: RowSpec, place: Mapping[str, object] | None, across: Sequence[str] = ()) -> str:
    """Which sweep of this repository would run a row, in this setting if one does."""
    elsewhere = ""
    for path, planned in _shipped_sweeps():
        fitting = [run.config for run in planned if _answers(run, row)]
        here = [config for config in fitting if place is None or setting_of(config, list(place), across) == place]
        line = f"python launch/sweep.py {path.stem}"
        if here:
            return f"`{line}` runs it"
        if fitting:
            elsewhere = elsewhere or f"`{line}` runs it in another setting, its overrides can make it this one"
    return elsewhere or "no sweep in sweeps/ runs it"


def _answers(run: Planned, row: RowSpec) -> bool:
    """By its name where the run is made for a row, else by its options."""
    conditions = row.at if run.row is not None else row.asked
    named = run.row in (None, row.sweep_row)
    return named and all(matches(get_dotted(run.config, key), condition) for key, condition in conditions.items())


@functools.cache
def _shipped_sweeps() -> tuple[tuple[Path, tuple[Planned, ...]], ...]:
    """Every sweep of this checkout with what it would run; none where only the package is installed.

    Those with rows first, the largest before the others, then those that change least of their preset: special ones
    come when no other will do.
    """
    found = []
    for path in sorted((REPOSITORY / "sweeps").glob("*.yaml")):
        try:
            sweep = load_sweep(path)
            planned = _planned(sweep)
            special = -len(planned) if sweep.rows else len(sweep.definition.overrides)
            found.append((not sweep.rows, special, path, planned))
        except GenxaiError:
            continue  # launch/sweep.py says what is wrong with it
    return tuple((path, planned) for *_, path, planned in sorted(found, key=lambda entry: entry[:3]))


def _planned(sweep: Sweep) -> tuple[Planned, ...]:
    if sweep.rows is None:
        return tuple(Planned(None, config_at(sweep.base, point, sweep.name)) for point in sweep.grid or ({},))
    cases = sweep.rows.cases
    return tuple(Planned(case.row, config_at(sweep.base, case.options[0], sweep.name)) for case in cases)
