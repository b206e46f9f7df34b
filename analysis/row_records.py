"""What the selected.yaml of a sweep with rows says: which runs stand for which row, and what was chosen for it.

Files that other programs wrote: what cannot be understood is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.verdicts import plain

#: what an attempt of choosing is called once all its candidates have ended
CHOSEN = "complete"


@dataclass(frozen=True)
class Choosing:
    """How a row's free values were, or are being, chosen in one setting."""

    row: str
    setting: Mapping[str, Any]
    by: str
    split: str
    state: str
    points: tuple[Mapping[str, Any], ...]  # of the candidates
    seeds: int | None  # per candidate, the fewest
    chosen: Mapping[str, Any]
    winners: frozenset[str] = frozenset()  # signatures of the chosen candidate's runs

    @property
    def on_test_data(self) -> bool:
        return not self.split.startswith("val")

    def in_words(self) -> str:
        """`lambda_attribution = 5 chosen by val/accuracy (split val) among {1, 5, 20}, 1 seed`."""
        seeds = "" if self.seeds is None else f", {self.seeds} seed{'s' if self.seeds != 1 else ''}"
        among = ", ".join(_short(point) for point in self.points)
        words = f"{_named(self.chosen)} chosen by {self.by} (split {self.split}) among {{{among}}}{seeds}"
        return words + (" (CHOSEN ON TEST DATA: its test values are too good)" if self.on_test_data else "")


@dataclass(frozen=True)
class RowRecord:
    """A row of a sweep in one setting: exactly these runs stand for it."""

    sweep: str
    row: str
    setting: Mapping[str, Any]
    seeds: tuple[int, ...]
    runs: tuple[str, ...]  # signatures; empty while a choice is open
    like: str = ""  # the row whose choice it took over
    chosen_at: Mapping[str, Any] | None = None  # the setting that choice was made in, if another one
    choosing: Choosing | None = None

    def notes(self) -> list[str]:
        """What a reader must know about the values this row was run with."""
        if self.choosing is None:
            return []
        elsewhere = [f"for the row '{self.like}'"] if self.like else []
        if self.chosen_at:
            elsewhere.append(f"at {', '.join(f'{_last(key)} = {plain(v)}' for key, v in self.chosen_at.items())}")
        words = self.choosing.in_words()
        return [f"{words}{f', {chr(32).join(elsewhere)}' if elsewhere else ''}; sweep '{self.sweep}'."]

    def why_not(self) -> str:
        """Why there is no run to show."""
        if self.runs:
            return f"Sweep '{self.sweep}' has not started a run of this row yet."
        if self.choosing is not None and self.choosing.state == "failed":
            return f"Sweep '{self.sweep}' could not choose a value for this row: every candidate failed."
        return f"Sweep '{self.sweep}' is still choosing a value for this row on validation data."


def row_records(sweep: str, selected: Mapping[str, Any]) -> tuple[RowRecord, ...]:
    """The rows of a selected.yaml; none if it is of a sweep without rows."""
    choices = choosings(selected)
    found = []
    for entry in _mappings(selected.get("rows")):
        name, like, at = entry.get("row"), entry.get("like"), entry.get("chosen_at")
        if not isinstance(name, str):
            continue
        setting = _mapping(entry.get("setting"))
        chooser, place = (like if isinstance(like, str) else name), (_mapping(at) if at else setting)
        choosing = next((c for c in choices if c.row == chooser and _same(c.setting, place)), None)
        elsewhere = {key: value for key, value in place.items() if setting.get(key) != value}
        record = RowRecord(
            sweep=sweep,
            row=name,
            setting=setting,
            seeds=tuple(seed for seed in _sequence(entry.get("seeds")) if isinstance(seed, int)),
            runs=tuple(run for run in _sequence(entry.get("runs")) if isinstance(run, str)),
            like=like if isinstance(like, str) and like != name else "",
            chosen_at=elsewhere or None,
            choosing=choosing,
        )
        found.append(record)
    return tuple(found)


def choosings(selected: Mapping[str, Any]) -> tuple[Choosing, ...]:
    """The choices of a selected.yaml, open ones too."""
    return tuple(_choosing(entry) for entry in _mappings(selected.get("choices")))


def _choosing(entry: Mapping[str, Any]) -> Choosing:
    candidates = _mappings(entry.get("candidates"))
    chosen = _mapping(entry.get("chosen"))
    best = [run for c in candidates if chosen and c.get("point") == chosen for run in _sequence(c.get("runs"))]
    counts = [c["n"] for c in candidates if isinstance(c.get("n"), int)]
    return Choosing(
        row=str(entry.get("row")),
        setting=_mapping(entry.get("setting")),
        by=str(entry.get("by")),
        split=str(entry.get("split")),
        state=str(entry.get("state")),
        points=tuple(_mapping(candidate.get("point")) for candidate in candidates),
        seeds=min(counts, default=None),
        chosen=chosen,
        winners=frozenset(run for run in best if isinstance(run, str)),
    )


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal at the keys both name: a choice may be made once for settings that it does not tell apart."""
    return all(other[key] == value for key, value in one.items() if key in other)


def _named(point: Mapping[str, Any]) -> str:
    return ", ".join(f"{_last(key)} = {plain(value)}" for key, value in point.items()) or "nothing"


def _short(point: Mapping[str, Any]) -> str:
    """The value alone where there is one."""
    return plain(next(iter(point.values()))) if len(point) == 1 else f"({_named(point)})"


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in _sequence(value) if isinstance(entry, Mapping)]


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
