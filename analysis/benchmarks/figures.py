"""A measured figure: its values over the repeats and what stands for them in the table and in the JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

#: x is a ratio; the others are absolute and hold for the named machine only
Unit = Literal["x", "%", "ms", "s", "/s", ""]


@dataclass(frozen=True)
class Figure:
    """One line of the benchmark. `key` is <suite>/<name> in floors.yaml and in the JSON."""

    key: str
    name: str
    unit: Unit
    values: tuple[float, ...]
    #: a ratio of the best times instead of the median of ratios: what is left of it on a machine that is never quiet
    of_best: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def suite(self) -> str:
        return self.key.partition("/")[0]

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "median": significant(self.median),
            "min": significant(min(self.values)),
            "max": significant(max(self.values)),
            "of_best": None if self.of_best is None else significant(self.of_best),
            "repeats": len(self.values),
        }


def significant(value: float) -> float:
    """Four significant digits: more would be noise."""
    return float(f"{value:.4g}")


def ratio(
    key: str, name: str, numerator: Sequence[float], denominator: Sequence[float], *, percent: bool = False
) -> Figure:
    """The quotient within each round, so that load which comes and goes falls on both sides of it."""
    unit: Unit = "%" if percent else "x"
    scale = 100.0 if percent else 1.0
    values = tuple(scale * one / other for one, other in zip(numerator, denominator, strict=True))
    return Figure(key, name, unit, values, of_best=scale * min(numerator) / min(denominator))


def milliseconds(key: str, name: str, seconds: Sequence[float]) -> Figure:
    """Times given in seconds, shown in ms."""
    return Figure(key, name, "ms", tuple(1e3 * value for value in seconds))
