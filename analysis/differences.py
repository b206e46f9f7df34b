"""Rows against one of their own: paired by seed, with a t-interval, and p-values corrected by Holm's method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.verdicts import MINUS, Estimate, fixed, seed_difference


@dataclass(frozen=True)
class Difference:
    """A row minus the row `against`, in one column; `p` of the paired t-test that they do not differ."""

    against: str
    estimate: Estimate
    p: float
    p_holm: float = math.nan  # once the whole family is known

    @property
    def low(self) -> float:
        return self.estimate.value - (self.estimate.half or 0.0)

    @property
    def high(self) -> float:
        return self.estimate.value + (self.estimate.half or 0.0)

    def lines(self, digits: int) -> tuple[str, str]:
        """`+52.1 [+50.3, +53.9]` and `n=5, Holm p = 0.001`."""
        ends = ", ".join(fixed(end, digits, signed=True) for end in (self.low, self.high))
        value = fixed(self.estimate.value, digits, signed=True)
        return f"{value} [{ends}]", f"n={self.estimate.n}, Holm p {written(self.p_holm)}"


def paired(one: Mapping[int, float], other: Mapping[int, float], against: str, confidence: float) -> Difference | None:
    """Mean of `one` minus `other`, both {seed: value}, over their common seeds; None with fewer than two."""
    common = one.keys() & other.keys()
    if len(common) < 2:
        return None
    estimate = seed_difference(one, other, confidence, same_data=True)
    return None if estimate is None else Difference(against, estimate, paired_p(estimate))


def paired_p(estimate: Estimate) -> float:
    """Two-sided p-value of the paired t-test, n - 1 degrees of freedom; 0 for a difference without any spread."""
    from scipy.stats import t

    if not estimate.sd:
        return 0.0 if estimate.value else 1.0
    return float(2 * t.sf(abs(estimate.value) / (estimate.sd / math.sqrt(estimate.n)), estimate.n - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted by Holm (1979): of m p-values in ascending order the i-th is max_{j <= i} min(1, (m - j + 1) p_j)."""
    adjusted, largest = {}, 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        adjusted[name] = largest
    return adjusted


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The differences of one column's rows with their p-values corrected for each other's number."""
    adjusted = holm({row: difference.p for row, difference in differences.items()})
    return {row: replace(difference, p_holm=adjusted[row]) for row, difference in differences.items()}


def written(p: float) -> str:
    """`= 0.012`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def in_words(confidence: float) -> str:
    """What a difference is, as a remark."""
    return (
        f"Differences between two rows are paired over the seeds that both have, with their {100 * confidence:g} % "
        f"t-interval (n {MINUS} 1 degrees of freedom); p-values of the paired t-test are corrected by Holm's method "
        "for the rows of the table, column by column."
    )
