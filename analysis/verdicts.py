"""Few-seed statistics: mean, sample standard deviation, t-interval, and a verdict against a printed figure.

Also how such numbers are rounded, so that every table says the same thing about the same value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from pydantic import Field

from genxai.config import Section

EM_DASH = "—"
MINUS = "\N{MINUS SIGN}"


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
            "Each cell stands alone: no correction for the number of cells."
        )


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
        from scipy.stats import t

        sd = self.sd
        return None if sd is None else float(t.ppf((1 + confidence) / 2, self.n - 1)) * sd / math.sqrt(self.n)


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
    mean, half = sample.mean, sample.half_width(rule.confidence)
    if mean is None:
        return None
    difference = mean - paper
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
