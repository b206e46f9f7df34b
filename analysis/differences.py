"""Rows against one of their own: paired by seed, with a t-interval, and p-values corrected by Holm's method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from analysis.verdicts import MINUS, SHARED_DATA, Estimate, fixed, seed_difference

#: relative to the difference: a smaller spread is that of binary fractions
ROUNDING = 1e-9
NO_SPREAD = "No p-value: all seeds differ by the same amount, and the t-test divides by their spread."


@dataclass(frozen=True)
class Difference:
    """A row minus the row `against`, in one column; `p` of the paired t-test that they do not differ."""

    against: str
    estimate: Estimate
    p: float | None  # None where the seeds' differences are all equal
    p_holm: float | None = None  # once the whole family is known

    @property
    def low(self) -> float:
        return self.estimate.value - (self.estimate.half or 0.0)

    @property
    def high(self) -> float:
        return self.estimate.value + (self.estimate.half or 0.0)

    def lines(self, digits: int) -> tuple[str, str]:
        """`+52.1 [+50.3, +53.9]` and `n=5, Holm p = 0.001`; `no p` where there is none."""
        ends = ", ".join(fixed(end, digits, signed=True) for end in (self.low, self.high))
        value = fixed(self.estimate.value, digits, signed=True)
        tested = "no p" if self.p_holm is None else f"Holm p {written(self.p_holm)}"
        return f"{value} [{ends}]", f"n={self.estimate.n}, {tested}"


def paired(one: Mapping[int, float], other: Mapping[int, float], against: str, confidence: float) -> Difference | None:
    """Mean of `one` minus `other`, both {seed: value}, over their common seeds; None with fewer than two."""
    common = one.keys() & other.keys()
    if len(common) < 2:
        return None
    estimate = seed_difference(one, other, confidence, same_data=True)
    return None if estimate is None else Difference(against, estimate, paired_p(estimate))


def paired_p(estimate: Estimate) -> float | None:
    """Two-sided p-value of the paired t-test, n - 1 degrees of freedom; None without spread, which t divides by."""
    from scipy.stats import t

    if not estimate.sd or estimate.sd <= ROUNDING * max(1.0, abs(estimate.value)):
        return None
    return float(2 * t.sf(abs(estimate.value) / (estimate.sd / math.sqrt(estimate.n)), estimate.n - 1))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted by Holm (1979): of m p-values in ascending order the i-th is max_{j <= i} min(1, (m - j + 1) p_j)."""
    adjusted, largest = {}, 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: (item[1], item[0]))):
        largest = max(largest, min(1.0, (len(p_values) - place) * p))
        adjusted[name] = largest
    return adjusted


def corrected(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The differences of one column's rows with their p-values, where they have one, corrected for their number."""
    adjusted = holm({row: difference.p for row, difference in differences.items() if difference.p is not None})
    return {row: replace(difference, p_holm=adjusted.get(row)) for row, difference in differences.items()}


def written(p: float) -> str:
    """`= 0.012`, `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def in_words(confidence: float) -> str:
    """What a difference is, as a remark."""
    return (
        f"Differences between two rows are paired over the seeds that both have, with their {100 * confidence:g} % "
        f"t-interval (n {MINUS} 1 degrees of freedom); p-values of the paired t-test are corrected by Holm's method "
        "for the rows of the table, column by column; the CSV has them uncorrected as well. With three seeds and "
        "many rows a corrected p-value is hardly ever below 0.05: 'not significant' then says little. "
        f"{SHARED_DATA}"
    )
