"""Few-seed statistics: mean, sample standard deviation, t-interval, and a verdict against a printed figure.

Also how such numbers are rounded, so that every table says the same thing about the same value.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import Field

from genxai.config import Section

EM_DASH = "—"
MINUS = "\N{MINUS SIGN}"
#: what an interval over seeds is about, and what not
SHARED_DATA = (
    "All seeds share one data set (data.seed): intervals over seeds are about initialisation, batches and dropout, not "
    "about the draw of which images contradict the shortcut."
)


class Verdict(StrEnum):
    """What the measured mean says about the paper's value."""

    CONSISTENT = "consistent"
    DIFFERS = "differs"
    INCONCLUSIVE = "inconclusive"


class Rule(Section):
    """When a verdict is given. All lengths are in the unit of the compared values."""

    confidence: float = Field(0.95, gt=0.0, lt=1.0, description="level of the t-interval of the mean")
    margin: float = Field(2.0, gt=0.0, description="widest half-width that still supports 'consistent'")
    rounding: float = Field(0.05, ge=0.0, description="half of the last digit the paper prints")

    def in_words(self) -> str:
        """The rule as a footnote."""
        return (
            f"Difference = measured - paper, with its {100 * self.confidence:g} % t-interval over seeds (n - 1 degrees "
            f"of freedom; the paper prints no spread, so its figure is taken as exact to ±{self.rounding:g}). "
            f"'differs': the paper's figure lies outside the interval. 'consistent': it lies inside and the interval's "
            f"half-width is at most {self.margin:g}. 'inconclusive': inside a wider interval, or fewer than two seeds. "
            f"Each cell stands alone: no correction for the number of cells. {SHARED_DATA}"
        )


@functools.lru_cache(maxsize=4096)
def t_quantile(confidence: float, freedom: float) -> float:
    """How many standard errors a central interval of this level reaches to either side."""
    from scipy.stats import t

    return float(t.ppf((1 + confidence) / 2, freedom))


@dataclass(frozen=True)
class Sample:
    """One value per finished seed, out of `asked` seeds."""

    values: tuple[float, ...]
    asked: int

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float | None:
        """Arithmetic mean; None without values."""
        return math.fsum(self.values) / self.n if self.values else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (ddof = 1); None below two values."""
        if self.n < 2:
            return None
        mean = math.fsum(self.values) / self.n
        return math.sqrt(math.fsum((value - mean) ** 2 for value in self.values) / (self.n - 1))

    def half_width(self, confidence: float) -> float | None:
        """Half-width of the t-interval of the mean, t_{(1+c)/2, n-1} sd / sqrt(n); None below two values."""
        sd = self.sd
        return None if sd is None else t_quantile(confidence, self.n - 1) * sd / math.sqrt(self.n)

    def estimate(self, confidence: float) -> Estimate | None:
        """The mean with its t-interval; None without values."""
        mean = self.mean
        return None if mean is None else Estimate(mean, self.half_width(confidence), self.sd, self.n, f"n = {self.n}")


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means, with the half-width of its interval (None below two seeds)."""

    value: float
    half: float | None
    sd: float | None  # of the seeds, or of the paired differences; None for unpaired ones
    n: int  # seeds, pairs, or the smaller of two unpaired samples
    how: str


def seed_difference(
    one: Mapping[int, float], other: Mapping[int, float], confidence: float, *, same_data: bool
) -> Estimate | None:
    """Mean of `one` minus mean of `other`, both {seed: value}; None if either is empty.

    On the same data, with two seeds or more in common: the t-interval of the paired differences over the common seeds.
    Else Welch's interval over all seeds: t_{(1+c)/2, df} se, se^2 = s1^2/n1 + s2^2/n2, Welch-Satterthwaite df.
    """
    common = sorted(one.keys() & other.keys())
    if same_data and len(common) >= 2:
        paired = Sample(tuple(one[seed] - other[seed] for seed in common), len(common)).estimate(confidence)
        return paired and replace(paired, how=f"paired over seeds {', '.join(map(str, common))}")
    first, second = Sample(tuple(one.values()), len(one)), Sample(tuple(other.values()), len(other))
    if first.mean is None or second.mean is None:
        return None
    how = f"unpaired (Welch), n = {first.n} and {second.n}"
    return Estimate(first.mean - second.mean, _welch(first, second, confidence), None, min(first.n, second.n), how)


def _welch(first: Sample, second: Sample, confidence: float) -> float | None:
    if first.sd is None or second.sd is None:
        return None
    parts = [(sample.sd or 0.0) ** 2 / sample.n for sample in (first, second)]
    variance = math.fsum(parts)
    if variance == 0.0:
        return 0.0
    freedom = variance**2 / (parts[0] ** 2 / (first.n - 1) + parts[1] ** 2 / (second.n - 1))
    return t_quantile(confidence, freedom) * math.sqrt(variance)


@dataclass(frozen=True)
class Comparison:
    """A sample against the paper's value: difference of the means, its interval, and the verdict."""

    paper: float
    difference: float
    low: float | None
    high: float | None
    verdict: Verdict


def compare(sample: Sample, paper: float, rule: Rule) -> Comparison | None:
    """The comparison by `rule`; None if nothing has been measured."""
    estimate = sample.estimate(rule.confidence)
    return None if estimate is None else compare_estimate(estimate, paper, rule)


def compare_estimate(estimate: Estimate, paper: float, rule: Rule) -> Comparison:
    """The comparison of a mean, or of a difference of means, by `rule`."""
    difference, half = estimate.value - paper, estimate.half
    if half is None:
        return Comparison(paper, difference, None, None, Verdict.INCONCLUSIVE)
    low, high = difference - half, difference + half
    slack = rule.rounding * (
        1 + 1e-9
    )  # a figure that rounds to the printed one is not outside because of binary fractions
    if low > slack or high < -slack:
        verdict = Verdict.DIFFERS
    elif half <= rule.margin:
        verdict = Verdict.CONSISTENT
    else:
        verdict = Verdict.INCONCLUSIVE
    return Comparison(paper, difference, low, high, verdict)


# --- how numbers are written ---------------------------------------------------------------------


def fixed(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with fixed decimals, a typographic minus, and no negative zero."""
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0.0:
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def mean_sd(sample: Sample, digits: int) -> str:
    """`93.2 ± 0.4 (n=3)`; `(2/3)` when fewer seeds than asked; an em-dash without values.

    The standard deviation has the digits of the mean; one that would round to nothing is written `<0.1`,
    because `± 0.0` claims more than was measured.
    """
    if sample.mean is None:
        return EM_DASH
    count = f"(n={sample.n})" if sample.n >= sample.asked else f"({sample.n}/{sample.asked})"
    if sample.sd is None:
        return f"{fixed(sample.mean, digits)} {count}"
    spread = fixed(sample.sd, digits)
    if sample.sd > 0 and float(spread) == 0.0:
        spread = f"<{10**-digits:.{digits}f}" if digits else "<1"
    return f"{fixed(sample.mean, digits)} ± {spread} {count}"


def interval(comparison: Comparison, digits: int) -> str:
    """`−1.2 [−2.4, +0.1]`; without brackets when there is no interval."""
    text = fixed(comparison.difference, digits, signed=True)
    if comparison.low is None or comparison.high is None:
        return text
    return f"{text} [{fixed(comparison.low, digits, signed=True)}, {fixed(comparison.high, digits, signed=True)}]"


def plain(value: object) -> str:
    """A configuration value as a person writes it: 10 for 10.0, 'off'/'on' for switches, at most 4 digits."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, int | float):
        return f"{value:.4g}" if abs(value) < 1e4 or value != int(value) else f"{value:g}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(plain(item) for item in value) + ")"
    return str(value)
