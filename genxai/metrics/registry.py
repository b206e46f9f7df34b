"""Every metric by name: what it is computed from, the function, and where it is defined."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from genxai import metrics

#: what a metric is a function of, and when it is computed:
#:   classification  (Predictions) -> float: every split of images but pairs, at every evaluation; of comments SHARED
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
    """The registered metrics of one kind, in the order of registration; imports the files of this package."""
    for module in pkgutil.iter_modules(metrics.__path__):
        if not module.name.startswith("make_"):
            importlib.import_module(f"{metrics.__name__}.{module.name}")
    return [entry for entry in METRICS.values() if entry.kind == kind]


def values_of(kind: Kind, parts: Sequence[tuple[Any, ...]]) -> dict[str, Tensor]:
    """Every registered metric of a kind, float64 [N] by name; parts: its arguments for some of the samples each."""
    return {entry.name: torch.cat([entry.function(*part).double() for part in parts]) for entry in metrics_of(kind)}


def means(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Of values per sample the mean over the samples."""
    return {name: float(column.mean()) for name, column in values.items()}
