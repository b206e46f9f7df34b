"""Text-only runs against the accuracy that captions allow at best, in closed form, with the binomial interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.captions import DATASET_NAMES, RHO, caption
from analysis.configuration import Configuration
from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent
from analysis.measured import Results
from analysis.specs import ColumnSpec, TableSpec
from analysis.verdicts import fixed, mean_sd, plain

#: how often texture and class agree in each split; the IID one is as training (None)
ALIGNED: dict[str, float | None] = {"test": None, "test_unbiased": 0.1, "test_conflict": 0.0}
OLD = "These runs have no class frequencies in result.json, which the closed form needs."


def text_table(spec: TableSpec, results: Results) -> Document:
    """One row per configuration that sees the caption alone."""
    found = [
        c for c in results.reported().configurations() if c["model.fusion"] == "text" and not c.config.data.is_text
    ]
    columns = [Column("row", "Captions", left=True), *(Column(c.id, c.title, notes=c.notes) for c in spec.columns)]
    rows = [_row(spec, configuration) for configuration in sorted(found, key=_order)]
    title = caption(spec.caption, "" if found else "No text-only run yet")
    return Document(spec.id, (Table(spec.id, title, tuple(columns), tuple(rows), spec.remarks),))


def _order(configuration: Configuration) -> tuple[str, float, str, str]:
    data = configuration.config.data
    return data.dataset, data.rho, data.captions.model_dump_json(), configuration.key


def _row(spec: TableSpec, configuration: Configuration) -> Row:
    data = configuration.config.data
    words = [DATASET_NAMES[data.dataset], f"{RHO} = {plain(data.rho)}"]
    words += [f"{name} {plain(value)}" for name, value in data.captions.model_dump().items()]
    cells = [Cell((", ".join(words[:2]), ", ".join(words[2:])), _notes(configuration))]
    cells += [_cell(configuration, column, spec.verdict.confidence) for column in spec.columns]
    return Row(configuration.key, tuple(cells), configuration.key, tuple(configuration.signatures()))


def _notes(configuration: Configuration) -> tuple[str, ...]:
    config = configuration.config
    half = f"{configuration.progress()}." if len(configuration.done) < configuration.asked else ""
    said = f"{config.train.epochs} epochs, text encoder {config.model.text.name}."
    if config.data.train_limit is not None:
        said = f"{config.data.train_limit} training images, {said}"
    return tuple(note for note in (said[:1].upper() + said[1:], half) if note)


def _cell(configuration: Configuration, column: ColumnSpec, confidence: float) -> Cell:
    sample = configuration.sample(column.metric, column.scale)
    empty = Measured(column.metric, column.unit)
    if sample.mean is None:
        return absent(configuration.gaps(column.metric) or f"{configuration.progress()}.", measured=empty)
    measured = Measured(column.metric, column.unit, sample.mean, sample.sd, sample.n, sample.asked)
    counts = configuration.class_counts(column.metric.partition("/")[0])
    if not counts:
        return Cell((mean_sd(sample, column.digits),), (OLD,), measured)
    best = bayes_accuracy(configuration, column.metric.partition("/")[0], counts)
    low, high = binomial_interval(best, sum(counts), confidence)
    inside = low <= sample.mean / column.scale <= high
    ends = ", ".join(fixed(column.scale * end, column.digits) for end in (low, high))
    lines = (
        mean_sd(sample, column.digits),
        f"Bayes {fixed(column.scale * best, column.digits)} [{ends}], n = {sum(counts)}",
        "within" if inside else "outside",
    )
    numbers = replace(
        measured,
        reference=column.scale * best,
        difference=sample.mean - column.scale * best,
        ci_low=column.scale * low,
        ci_high=column.scale * high,
        verdict=lines[-1],
    )
    return Cell(lines, (), numbers)


def bayes_accuracy(configuration: Configuration, split: str, counts: Sequence[int]) -> float:
    """`genxai.data.text_bayes_accuracy` of the run's captions under the split's class frequencies, in [0, 1]."""
    from genxai.data.captions import captions_in_use, text_bayes_accuracy  # late: most tables need no caption

    data = configuration.config.data
    prior = [count / sum(counts) for count in counts]
    captions = captions_in_use(data)
    return text_bayes_accuracy(captions, data.dataset, data.rho, test_rho=ALIGNED.get(split), prior=prior)


def binomial_interval(p: float, n: int, confidence: float) -> tuple[float, float]:
    """Central interval of Binomial(n, p) / n: how far an accuracy of p may lie from p on n samples."""
    from scipy.stats import binom

    low, high = binom.interval(confidence, n, p)
    return float(low) / n, float(high) / n
