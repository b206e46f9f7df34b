"""selected.yaml of a sweep with rows, read without its sweep file: what was chosen, and whose runs are whose.

launch/choices.py writes it. What another program or hand has spoiled is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Candidate:
    """One value that a choice tries."""

    point: Mapping[str, Any]
    runs: tuple[str, ...]  # signatures
    seeds: int | None  # how many have finished


@dataclass(frozen=True)
class Choosing:
    """How a row's free values were, or are being, chosen in one setting."""

    row: str
    setting: Mapping[str, Any]
    by: str  # the metric
    split: str
    state: str  # open, complete or failed
    candidates: tuple[Candidate, ...]
    chosen: Mapping[str, Any]  # empty while it is open

    @property
    def on_test_data(self) -> bool:
        return not self.split.startswith("val")

    @property
    def winners(self) -> frozenset[str]:
        """Signatures of the chosen candidate's runs."""
        return frozenset(run for c in self.candidates if self.chosen and c.point == self.chosen for run in c.runs)


@dataclass(frozen=True)
class RowRuns:
    """A row of a sweep in one setting: exactly these runs stand for it."""

    sweep: str
    row: str
    setting: Mapping[str, Any]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]  # signatures; empty while a choice is open, and for ever where it failed
    failed: bool = False
    like: str = ""  # the row whose choice it took over
    chosen_at: Mapping[str, Any] | None = None  # where that choice was made, if in another setting
    choosing: Choosing | None = None


@dataclass(frozen=True)
class Selected:
    """What selected.yaml says; empty for a sweep without rows."""

    choices: tuple[Choosing, ...] = ()
    rows: tuple[RowRuns, ...] = ()


def read_selected(sweep: str, content: object) -> Selected:
    """sweep: the name of its folder. content: selected.yaml as parsed."""
    tree = _mapping(content)
    choices = tuple(_choosing(entry) for entry in _mappings(tree.get("choices")))
    rows = (_row(sweep, entry, choices) for entry in _mappings(tree.get("rows")))
    return Selected(choices, tuple(row for row in rows if row is not None))


def _choosing(entry: Mapping[str, Any]) -> Choosing:
    return Choosing(
        row=str(entry.get("row")),
        setting=_mapping(entry.get("setting")),
        by=str(entry.get("by")),
        split=str(entry.get("split")),
        state=str(entry.get("state")),
        candidates=tuple(_candidate(candidate) for candidate in _mappings(entry.get("candidates"))),
        chosen=_mapping(entry.get("chosen")),
    )


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    seeds = entry.get("n")
    return Candidate(_mapping(entry.get("point")), _names(entry.get("runs")), seeds if isinstance(seeds, int) else None)


def _row(sweep: str, entry: Mapping[str, Any], choices: Sequence[Choosing]) -> RowRuns | None:
    """None for what is no row."""
    name, like, at = entry.get("row"), entry.get("like"), entry.get("chosen_at")
    if not isinstance(name, str):
        return None
    setting = _mapping(entry.get("setting"))
    chooser, place = (like if isinstance(like, str) else name), (_mapping(at) if at else setting)
    elsewhere = {key: value for key, value in place.items() if setting.get(key) != value}
    return RowRuns(
        sweep=sweep,
        row=name,
        setting=setting,
        seeds=tuple(seed for seed in _sequence(entry.get("seeds")) if isinstance(seed, int)),
        runs=_names(entry.get("runs")),
        failed="failed" in entry,
        like=like if isinstance(like, str) and like != name else "",
        chosen_at=elsewhere or None,
        choosing=next((c for c in choices if c.row == chooser and _same(c.setting, place)), None),
    )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal at the keys both name: a choice may be made once for settings that it does not tell apart."""
    return all(other[key] == value for key, value in one.items() if key in other)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in _sequence(value) if isinstance(entry, Mapping)]


def _names(value: object) -> tuple[str, ...]:
    return tuple(name for name in _sequence(value) if isinstance(name, str))


def _sequence(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
