"""Runs that differ only in their seed, and what they have measured: means are taken over these and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from analysis.conditions import Conditions, effective, matches
from analysis.verdicts import Sample
from genxai.config import Config
from genxai.runs import State

if TYPE_CHECKING:
    import pandas as pd

Ends = tuple[float, float]

_UNFINISHED = {State.STARTED: "started", State.FAILED: "failed", State.PENDING: "planned"}


@dataclass(frozen=True)
class Configuration:
    """One row per seed, in every state."""

    key: str
    frame: pd.DataFrame
    asked: int
    folders: frozenset[str]

    def __getitem__(self, dotted: str) -> Any:
        """The configured value at a dotted key."""
        return self.frame[dotted].iloc[0]

    def meets(self, conditions: Conditions) -> bool:
        return all(matches(self[key], condition) for key, condition in conditions.items())

    @cached_property
    def config(self) -> Config:
        return self.frame["config"].iloc[0]

    @cached_property
    def done(self) -> pd.DataFrame:
        return self.frame[self.frame["state"] == State.DONE]

    def differing_keys(self, others: Sequence[Configuration]) -> list[str]:
        """Dotted keys of options in which some of the others have another value."""
        theirs = [effective(other.config) for other in others]
        return [key for key, value in effective(self.config).items() if any(t[key] != value for t in theirs)]

    def signatures(self) -> list[str]:
        """The finished runs that means are taken over."""
        return list(self.done["signature"])

    def sample(self, metric: str, scale: float = 1.0) -> Sample:
        """The finite values of a metric over the finished seeds, times `scale`."""
        return Sample(tuple(self.by_seed(metric, scale).values()), self.asked)

    def by_seed(self, metric: str, scale: float = 1.0) -> dict[int, float]:
        """{seed: scale x value} of the finished seeds that have a finite value."""
        pairs = zip(self.done["seed"], self._column(metric), strict=True)
        return {int(seed): scale * float(value) for seed, value in pairs if is_number(value)}

    def bootstrap(self, metric: str, scale: float = 1.0) -> dict[int, Ends]:
        """{seed: ends of the interval over test samples} of the finished seeds whose result has one, times `scale`."""
        found = {}
        for seed, intervals in zip(self.done["seed"], self.done["intervals"], strict=True):
            ends = intervals.get(metric) if isinstance(intervals, Mapping) else None
            if ends is not None and all(is_number(end) for end in ends):
                found[int(seed)] = (scale * float(ends[0]), scale * float(ends[1]))
        return found

    def class_counts(self, split: str) -> Sequence[int]:
        """Samples per class of a split, which all seeds share; empty where no finished run says it."""
        known = [counts.get(split) for counts in self.done["class_counts"] if isinstance(counts, dict)]
        return next((counts for counts in known if counts and sum(counts)), ())

    def gaps(self, metric: str) -> str | None:
        """Why finished runs have no value of a metric, or None if all have one."""
        values, reasons_given = (self._column(name) for name in (metric, f"{metric}_reason"))
        lacking = [place for place, value in enumerate(values) if not is_number(value)]
        if not lacking:
            return None
        reasons = {reasons_given[place] for place in lacking}
        why = " / ".join(sorted(reason for reason in reasons if isinstance(reason, str))) or "not in result.json"
        return f"No value in {len(lacking)} of {len(self.done)} finished runs: {why}."

    def _column(self, name: str) -> list[Any]:
        """What the finished runs have under a name; None where there is no such column."""
        return list(self.done[name]) if name in self.done else [None] * len(self.done)

    def progress(self) -> str:
        """`2/3 seeds done, 1 failed (NonFiniteError: ...)`: what is there and what is not."""
        counts = self.frame["state"].value_counts()
        parts = [f"{len(self.done)}/{self.asked} seeds done"]
        parts += [f"{counts[state]} {word}" for state, word in _UNFINISHED.items() if state in counts]
        reasons = sorted({text for text in self.frame["failure"] if isinstance(text, str)})
        return ", ".join(parts) + (f" ({'; '.join(reasons)})" if reasons else "")


def is_number(value: Any) -> bool:
    """Finite, and neither a boolean nor None."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != float("inf")
    )
