"""Every metric by name: what it is computed from, the function, and where it is defined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

#: what a metric is a function of, and when it is computed:
#:   classification  (Predictions) -> float: every evaluated split, at every evaluation
#:   pairs           (Predictions of counterfactual pairs) -> float: test_counterfactual
#:   localisation    (maps [B, h, w], masks bool [B, 1, H, W]) -> Tensor [B]: explained samples, at every evaluation
#:   baseline        (Explained) -> Tensor [B]: what a localisation metric is read beside; at the final evaluation
#:   summary         (means of the two above by name) -> float: at the final evaluation
#:   stability       (Perturbed) -> Tensor [B]: at the final evaluation
#:   text            (Predictions of comments) -> float: every split of toxic text, at every evaluation
#:   audit           (Audited) -> float: the sentences that name identities; at the final evaluation
#:   other           its own arguments; called by whoever needs it
#: values per sample are averaged over the samples
Kind = Literal["classification", "pairs", "localisation", "baseline", "summary", "stability", "text", "audit", "other"]
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
    """Register a function under a name; every kind but `other` then appears in the results without further ado."""

    def register(function: Function) -> Function:
        if name in METRICS:
            raise ValueError(f"a metric named {name!r} is registered already")
        METRICS[name] = Metric(name, kind, function, reference, higher_is_better)
        return function

    return register


def metrics_of(kind: Kind) -> list[Metric]:
    """The registered metrics of one kind, in the order of registration."""
    return [entry for entry in METRICS.values() if entry.kind == kind]
