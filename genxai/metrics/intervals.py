"""Bootstrap intervals over test samples: how much a number owes to which images happen to be in the test split.

They say nothing about other training seeds; those intervals are made in analysis, from several runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from genxai.data.counter_rng import integers
from genxai.metrics.classification import OfSums, Predictions
from genxai.metrics.registry import Kind, metrics_of

RESAMPLES = 1000
#: the share of resamples that an interval covers
LEVEL = 0.95
#: counts held at a time (resamples x samples); bounds memory, does not change a value
COUNTS = 2**21

Interval = tuple[float, float]


class Resampled(NamedTuple):
    """A number of n units as a function of sums over them: rows [n, s], and sums [..., s] -> [...]."""

    rows: Tensor
    value: Callable[[Tensor], Tensor]


def prediction_intervals(predictions: Predictions, kind: Kind, seed: int) -> dict[str, Interval]:
    """Intervals of those metrics of a kind that are functions of sums: of the units that their rows stand for.

    kind "classification": samples are resampled; "pairs": both samples of a counterfactual pair together.
    """
    functions = {entry.name: entry.function for entry in metrics_of(kind)}
    return bootstrap_intervals(
        {
            name: Resampled(function.rows(predictions), function.value)
            for name, function in functions.items()
            if isinstance(function, OfSums)
        },
        seed,
    )


def mean_intervals(values: Mapping[str, Tensor], seed: int) -> dict[str, Interval]:
    """Intervals of means over samples, of values [n] each."""
    return bootstrap_intervals(
        {name: Resampled(column[:, None], partial(_mean, size=len(column))) for name, column in values.items()}, seed
    )


def bootstrap_intervals(numbers: Mapping[str, Resampled], seed: int) -> dict[str, Interval]:
    """Percentile bootstrap (Efron 1979): 95 % of 1,000 resamples of the n units with replacement.

    numbers: of the same n units each; they are resampled together, and alike in every call with this seed and n, so
    that intervals of runs on the same test split share their resamples. Raises ValueError if the numbers are not of
    equally many units.
    """
    if not numbers:
        return {}
    sizes = {len(number.rows) for number in numbers.values()}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"numbers must be of the same units, at least one; got {sorted(sizes)} of them")
    (size,) = sizes
    rows = torch.cat([number.rows.double() for number in numbers.values()], dim=1)
    widths = [number.rows.shape[1] for number in numbers.values()]
    sums = torch.cat([counts.double() @ rows for counts in _counts(size, seed, rows.device)])
    found = {}
    edges = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64, device=rows.device)
    for (name, number), part in zip(numbers.items(), sums.split(widths, dim=1), strict=True):
        low, high = torch.quantile(number.value(part), edges).tolist()
        found[name] = (low, high)
    return found


def _mean(sums: Tensor, size: int) -> Tensor:
    return sums[..., 0] / size


def _counts(size: int, seed: int, device: torch.device) -> Iterator[Tensor]:
    """How often each of `size` units occurs in each resample: int64 [resamples, size], some resamples at a time."""
    unit = torch.arange(size, device=device)
    for resample in torch.arange(RESAMPLES, device=device).split(max(1, COUNTS // size)):
        drawn = integers(seed, "bootstrap", size, resample[:, None], unit)
        row = torch.arange(len(resample), device=device)[:, None]
        yield torch.bincount((row * size + drawn).flatten(), minlength=len(resample) * size).view(-1, size)
