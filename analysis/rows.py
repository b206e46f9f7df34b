"""Comparison tables (2, 3, 9): each row a question to the configurations, its answer beside the paper's figure.

Which configuration stands for a row is decided on configuration and validation data alone, never on a test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from analysis.captions import caption, describe_setting, scale_warning
from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent
from analysis.results import Configuration, Results, in_words
from analysis.specs import ColumnSpec, PaperRows, RowSpec, TableSpec, paper_rows, paper_value
from analysis.sweeps import Sweep
from analysis.verdicts import EM_DASH, Rule, compare, fixed, interval, mean_sd, plain

#: what chooses between configurations when no sweep has selected one
CHOOSING_METRIC = "val/accuracy"


@dataclass(frozen=True)
class Choice:
    """The configuration that stands for a row, and what a reader must know about it."""

    configuration: Configuration
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """The runs that may stand in one table, with that table's name and caption; `runs` is None if there are none."""

    id: str
    caption: str
    runs: Results | None


def settings(spec: TableSpec, results: Results) -> list[Setting]:
    """One per setting found (`split_by`) in which a run fits a row; one without runs if there is none."""
    parts = [part for part in results.split_by(spec.split_by) if any(len(part.where(row.where)) for row in spec.rows)]
    if not parts:
        return [Setting(spec.id, caption(spec.caption, "No run fits any row yet"), None)]
    found: list[Setting] = []
    names: list[str] = []
    for part in parts:
        config = part.frame["config"].iloc[0]
        title = caption(spec.caption, describe_setting(config, spec.split_by), scale_warning([config]))
        names.append(f"{spec.id}-{config.data.dataset}-{config.data.source}-rho{plain(config.data.rho)}")
        found.append(Setting(names[-1], title, part))
    return [
        replace(setting, id=f"{name}-{names[:place].count(name) + 1}") if names.count(name) > 1 else setting
        for place, (name, setting) in enumerate(zip(names, found, strict=True))
    ]


def comparison(spec: TableSpec, results: Results) -> Document:
    """The table once per setting found (`split_by`); once with nothing but em-dashes if no run fits any row."""
    return Document(spec.id, tuple(_table(spec, setting) for setting in settings(spec, results)))


def _table(spec: TableSpec, setting: Setting) -> Table:
    columns = [Column("row", "Model", left=True)]
    columns += [Column(column.id, column.title, notes=column.notes) for column in spec.columns]
    paper = paper_rows(spec.paper)
    configurations = setting.runs.configurations() if setting.runs else []
    sweeps = setting.runs.sweeps if setting.runs else {}
    rows, shown = [], dict[str, str]()
    for row in spec.rows:
        choice = choose(configurations, row, sweeps)
        same = shown.setdefault(choice.configuration.key, row.label) if choice else row.label
        rows.append(_row(spec, row, choice, paper, [] if same == row.label else [f"The same runs as '{same}'."]))
    remarks = (*spec.remarks, spec.verdict.in_words()) if spec.paper else spec.remarks
    return Table(setting.id, setting.caption, tuple(columns), tuple(rows), remarks)


def choose(configurations: Sequence[Configuration], row: RowSpec, sweeps: Mapping[str, Sweep]) -> Choice | None:
    """The configuration for a row: of those that fit, the ones meeting most of `prefer`; of these a sweep's selected
    point, else one with all its seeds, else any; ties and rivals by mean validation accuracy. None if none fits.
    """
    fitting = [configuration for configuration in configurations if configuration.meets(row.where)]
    if not fitting:
        return None
    wishes = {c.key: sum(c.meets({key: wish}) for key, wish in row.prefer.items()) for c in fitting}
    rivals = [c for c in fitting if wishes[c.key] == max(wishes.values())]
    selected = {c.key: name for name, sweep in sweeps.items() if (c := sweep.chosen(rivals)) and len(c.done)}
    best = max(rivals, key=lambda c: (c.key in selected, _complete(c), _validation(c), c.key))
    notes = [_unmet(best, row), _why(best, rivals, sweeps.get(selected.get(best.key, ""))), _unfinished(best)]
    return Choice(best, tuple(note for note in notes if note))


def _complete(configuration: Configuration) -> int:
    """2 with every seed, 1 with some, 0 with none."""
    done = len(configuration.done)
    return 2 if done >= configuration.asked else min(done, 1)


def _validation(configuration: Configuration) -> float:
    mean = configuration.sample(CHOOSING_METRIC).mean
    return -1.0 if mean is None else mean


def _unmet(best: Configuration, row: RowSpec) -> str:
    missed = {key: wish for key, wish in row.prefer.items() if not best.meets({key: wish})}
    if not missed:
        return ""
    return f"Run with {in_words({key: best[key] for key in missed})}; the row prefers {in_words(missed)}."


def _why(best: Configuration, rivals: Sequence[Configuration], sweep: Sweep | None) -> str:
    """How one of several fitting configurations was chosen."""
    if len(rivals) == 1:
        return ""
    keys = best.differing_keys(rivals)
    point = in_words({key: best[key] for key in keys})
    if sweep is None:
        how = f"the best mean {CHOOSING_METRIC} (complete ones first); no sweep has selected one of them"
    else:
        how = f"selected by sweep '{sweep.name}' on {', '.join(objective.metric for objective in sweep.objectives)}"
        if any(not objective.metric.startswith("val") for objective in sweep.objectives):
            how += " (CHOSEN ON TEST DATA: its test values are too good)"
        if sweep.provisional:
            how += "; provisional, the sweep has not ended"
    return f"One of {len(rivals)} configurations that fit: {point}; {how}."


def _unfinished(best: Configuration) -> str:
    return f"{best.progress()}." if 0 < len(best.done) < best.asked else ""


def _row(spec: TableSpec, row: RowSpec, choice: Choice | None, paper: PaperRows, extra: Sequence[str]) -> Row:
    label = Cell((row.label,), (*row.notes, *(choice.notes if choice else ()), *extra))
    cells = [label]
    for column in spec.columns:
        figure = paper_value(paper, row.id, column.paper)
        cells.append(_cell(row, column, choice, figure, spec.verdict))
    if choice is None:
        return Row(row.id, tuple(cells), rule_above=row.rule)
    configuration = choice.configuration
    return Row(row.id, tuple(cells), configuration.key, tuple(configuration.signatures()), row.rule)


def _cell(row: RowSpec, column: ColumnSpec, choice: Choice | None, figure: float | None, rule: Rule) -> Cell:
    below = () if figure is None else (f"paper {fixed(figure, column.digits)}",)
    nothing = Measured(column.metric, column.unit, paper=figure)
    if column.id in row.absent:
        return absent(row.absent[column.id], *below, measured=nothing)
    if choice is None:
        return absent(f"No run of this setting has {in_words(row.where)}.", *below, measured=nothing)
    return measured_cell(choice.configuration, column, figure, rule)


def measured_cell(configuration: Configuration, column: ColumnSpec, figure: float | None, rule: Rule) -> Cell:
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
    lines = [mean_sd(sample, column.digits)]
    if versus and figure is not None:
        lines += [f"paper {fixed(figure, column.digits)}: {interval(versus, column.digits)}", str(versus.verdict)]
    elif figure is not None:
        lines.append(f"paper {fixed(figure, column.digits)}")
    notes = [gap] if gap else []
    if lines[0] == EM_DASH and not gap:
        notes = [f"{configuration.progress()}."]
    return Cell(tuple(lines), tuple(notes), numbers)
