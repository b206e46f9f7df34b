"""Cells of comparison tables: a mean over seeds beside the paper's figure, a paired difference, a split's property."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from analysis.configuration import Configuration
from analysis.differences import NO_SPREAD, Difference
from analysis.formats import Cell, Measured, SeedValue, absent
from analysis.sampling import by_sampling
from analysis.specs import ColumnSpec
from analysis.verdicts import EM_DASH, Rule, Sample, compare, fixed, interval, mean_sd


def measured_cell(
    configuration: Configuration,
    column: ColumnSpec,
    figure: float | None,
    rule: Rule,
    difference: Difference | None = None,
) -> Cell:
    """Mean ± sd (n) over the finished seeds, and the paper's figure with difference, interval and verdict below."""
    sample = configuration.sample(column.metric, column.scale)
    gap = configuration.gaps(column.metric)
    versus = None if figure is None else compare(sample, figure, rule)
    numbers = Measured(
        metric=column.metric,
        unit=column.unit,
        mean=sample.mean,
        sd=sample.sd,
        n=sample.n,
        asked=sample.asked,
        paper=figure,
        difference=versus.difference if versus else None,
        ci_low=versus.low if versus else None,
        ci_high=versus.high if versus else None,
        verdict=str(versus.verdict) if versus else None,
    )
    seeds = _seeds(configuration, column)
    numbers = with_difference(_with_intervals(numbers, sample, seeds, rule.confidence), difference)
    even = _by_sampling(configuration, column)
    numbers = replace(numbers, reference=even)
    lines = [mean_sd(sample, column.digits), *_beside(configuration, column)]
    lines += [f"sampling alone {fixed(even, column.digits)}"] if even is not None else []
    if versus and figure is not None:
        lines += [f"paper {fixed(figure, column.digits)}: {interval(versus, column.digits)}", str(versus.verdict)]
    elif figure is not None:
        lines.append(f"paper {fixed(figure, column.digits)}")
    notes = [gap] if gap else []
    if lines[0] == EM_DASH and not gap:
        notes = [f"{configuration.progress()}."]
    return Cell(tuple(lines), tuple(notes), numbers, seeds)


def _seeds(configuration: Configuration, column: ColumnSpec) -> tuple[SeedValue, ...]:
    values = configuration.by_seed(column.metric, column.scale)
    ends = configuration.bootstrap(column.metric, column.scale)
    return tuple(SeedValue(seed, value, *ends.get(seed, (None, None))) for seed, value in values.items())


def _with_intervals(numbers: Measured, sample: Sample, seeds: tuple[SeedValue, ...], confidence: float) -> Measured:
    """Over seeds where there are two, over test samples where there is one."""
    half = sample.half_width(confidence)
    if half is not None and sample.mean is not None:
        return replace(numbers, seed_low=sample.mean - half, seed_high=sample.mean + half)
    if len(seeds) == 1:
        return replace(numbers, bootstrap_low=seeds[0].low, bootstrap_high=seeds[0].high)
    return numbers


def with_difference(numbers: Measured, difference: Difference | None) -> Measured:
    """The numbers of a cell with those of its paired difference."""
    if difference is None:
        return numbers
    return replace(
        numbers,
        against=difference.against,
        against_difference=difference.estimate.value,
        against_low=difference.low,
        against_high=difference.high,
        against_n=difference.estimate.n,
        against_p=difference.p,
        against_p_holm=difference.p_holm,
    )


def _beside(configuration: Configuration, column: ColumnSpec) -> list[str]:
    """`floor 1.20, n = 5000`: what a value cannot be read without."""
    parts = []
    for word, metric in column.beside.items():
        mean = configuration.sample(metric).mean
        if mean is not None:
            counts = metric.partition("/")[2].partition("_")[0] == "n"  # n_generated, ...: images, not a measurement
            parts.append(f"{word} = {mean:.0f}" if counts else f"{word} {fixed(mean * column.scale, column.digits)}")
    return [", ".join(parts)] if parts else []


def _by_sampling(configuration: Configuration, column: ColumnSpec) -> float | None:
    """What a classifier with this row's mean accuracy would show here if it were equally good in every group."""
    split = column.metric.partition("/")[0]
    accuracy, counts = configuration.sample(f"{split}/accuracy").mean, configuration.class_counts(split)
    if column.sampling is None or accuracy is None or not counts or not configuration.by_seed(column.metric):
        return None
    return column.scale * by_sampling(column.sampling, accuracy, counts)


def difference_cell(column: ColumnSpec, difference: Difference | None, why: str) -> Cell:
    """A paired difference with its interval, or why there is none."""
    empty = Measured(column.metric, column.unit)
    if difference is None:
        return absent(why, measured=empty)
    numbers = replace(
        empty, mean=difference.estimate.value, sd=difference.estimate.sd, n=difference.estimate.n, asked=None
    )
    numbers = replace(numbers, seed_low=difference.low, seed_high=difference.high)
    notes = () if difference.p is not None else (NO_SPREAD,)
    return Cell(difference.lines(column.digits), notes, with_difference(numbers, difference))


def reference_cell(column: ColumnSpec, metric: str, configurations: Iterable[Configuration]) -> Cell:
    """What is the same for every model: one value if all finished runs agree, else their mean, spread and number."""
    values = [value for c in configurations for value in c.by_seed(metric, column.scale).values()]
    empty = Measured(metric, column.unit)
    if not values:
        return absent(f"No finished run of this setting has {metric}.", measured=empty)
    sample = Sample(tuple(values), len(values))
    numbers = replace(empty, mean=sample.mean, sd=sample.sd, n=sample.n)
    if max(values) - min(values) <= 1e-6 * max(1.0, abs(values[0])):
        return Cell((fixed(values[0], column.digits),), (), numbers)
    return Cell((mean_sd(sample, column.digits),), ("Differs between models: mean over all finished runs.",), numbers)
