"""Every metric by name: what it is computed from, the function, and where it is defined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

#: what a metric is a function of:
#:   classification  (Predictions) -> float, in the result of every evaluated split
#:   localisation    (maps [B, h, w], masks bool [B, 1, H, W]) -> Tensor [B], averaged over the explained samples
#:   other           its own arguments; called by whoever needs it
Kind = Literal["classification", "localisation", "other"]
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Metric:
    """A registered metric; values are shares in [0, 1] (SSIM: in [-1, 1]), not percent."""

    name: str
    kind: Kind
    function: Callable[..., Any]
    reference: str
    higher_is_better: bool


METRICS: dict[str, Metric] = {}


def metric(name: str, kind: Kind, *, reference: str, higher_is_better: bool = True) -> Callable[[Function], Function]:
    """Register a function under a name; classification and localisation metrics then appear in every result."""

    def register(function: Function) -> Function:
        if name in METRICS:
            raise ValueError(f"a metric named {name!r} is registered already")
        METRICS[name] = Metric(name, kind, function, reference, higher_is_better)
        return function

    return register


def metrics_of(kind: Kind) -> list[Metric]:
    """The registered metrics of one kind, in the order of registration."""
    return [entry for entry in METRICS.values() if entry.kind == kind]
