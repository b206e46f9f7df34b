"""A sweep's own table: every point with its objectives and test metrics, the Pareto front and the selected point."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.captions import caption, describe_setting, scale_warning
from analysis.cells import measured_cell
from analysis.configuration import Configuration
from analysis.formats import Cell, Column, Document, Row, Table
from analysis.measured import Results
from analysis.row_words import choosing_words, values_words
from analysis.specs import ColumnSpec, TableSpec
from analysis.sweeps import Sweep, pareto_front
from analysis.verdicts import EM_DASH, plain
from genxai.config import Config
from genxai.configfile import find_field
from genxai.runs import State

MARK = "✓"
_ARROWS = {"maximize": "↑", "minimize": "↓"}


def sweep_tables(spec: TableSpec, results: Results) -> list[Document]:
    """One document `sweep_<name>` per folder that a sweep fills."""
    return [
        Document(f"{spec.id}_{name}", (_table(spec, results.in_folder(name), results.sweeps.get(name, Sweep(name))),))
        for name in results.sweep_names()
    ]


def _table(spec: TableSpec, runs: Results, sweep: Sweep) -> Table:
    # a row's runs and those that chose its value may differ in their seeds alone
    points = sorted([*runs.reported().configurations(), *runs.selecting().configurations()], key=_order)
    with_rows = runs.has_rows(sweep.name)
    keys = _row_keys(sweep) if with_rows else runs.swept_keys(sweep.name)
    objectives, others = _measured_columns(spec, sweep)
    measured = (*objectives, *others)
    front = _front(points, sweep)
    marked = _selected(points, sweep)
    columns = [Column("trial", "Trial", left=True), Column("stage", "Stage", left=True)]
    columns += [Column("row", "Row", left=True)] if with_rows else []
    columns += [Column(key, key) for key in keys]
    columns += [Column(column.id, column.title, notes=column.notes) for column in measured]
    columns += [] if with_rows else [Column("pareto", "Pareto", left=True)]
    columns.append(Column("selected", "selected", left=True))
    rows = []
    for point in points:
        cells = [Cell((_trial(point),), (f"{point.progress()}.",) if len(point.done) < point.asked else ())]
        cells.append(Cell((point["stage"] or EM_DASH,)))
        cells += [Cell((point["row"] or EM_DASH,))] if with_rows else []
        cells += [Cell((plain(point[key]),)) for key in keys]
        cells += [measured_cell(point, column, None, spec.verdict) for column in measured]
        cells += [] if with_rows else [Cell((MARK if point.key in front else "",))]
        cells.append(Cell((MARK if set(point.frame["signature"]) & marked else "",)))
        rows.append(Row(_trial(point), tuple(cells), point.key, tuple(point.signatures())))
    config = points[0].config if points else None
    setting = describe_setting(config, ()) if config and not with_rows else "" if config else "No run yet"
    title = caption(
        f"{spec.caption} '{sweep.name}'", _progress(runs), setting, scale_warning([p.config for p in points])
    )
    remarks = (*spec.remarks, *(_choices(sweep) if with_rows else _about(sweep, points)))
    return Table(f"{spec.id}-{sweep.name}", title, tuple(columns), tuple(rows), remarks)


def _row_keys(sweep: Sweep) -> list[str]:
    """What the settings of a sweep with rows differ in, and what its rows choose."""
    keys = dict.fromkeys(sweep.definition.space if sweep.definition else ())
    for choosing in sweep.choices:
        for candidate in choosing.candidates:
            keys |= dict.fromkeys(candidate.point)
    return [key for key in keys if find_field(Config, key) is not None]


def _selected(points: Sequence[Configuration], sweep: Sweep) -> set[str]:
    """Signatures of what was selected: the point's runs, or those of each row's chosen candidate."""
    chosen = sweep.chosen(points)
    if chosen is not None:
        return set(chosen.frame["signature"])
    return {signature for choosing in sweep.choices for signature in choosing.winners}


def _choices(sweep: Sweep) -> list[str]:
    """How each row's value was chosen, as remarks."""
    remarks = []
    for choosing in sweep.choices:
        words = choosing_words(choosing) if choosing.chosen else f"nothing chosen yet ({choosing.state})"
        where = values_words(choosing.setting) if choosing.setting else "every setting"
        remarks.append(f"{choosing.row} at {where}: {words}.")
    return remarks


def _order(point: Configuration) -> tuple[bool, int, str]:
    trial = point["trial"]
    return trial is None, -1 if trial is None else int(trial), point.key


def _trial(point: Configuration) -> str:
    return f"run {point.key}" if point["trial"] is None else str(point["trial"])


def _measured_columns(spec: TableSpec, sweep: Sweep) -> tuple[list[ColumnSpec], list[ColumnSpec]]:
    """Columns of the objectives, with the table's way of writing them where it has one, and all other columns."""
    known = {column.metric: column for column in spec.columns}
    objectives = []
    for objective in sweep.objectives:
        metric = objective.metric
        column = known.pop(metric, None) or ColumnSpec(
            id=metric, title=metric, metric=metric, scale=1.0, digits=4, unit=""
        )
        objectives.append(column.model_copy(update={"title": f"{column.title} {_ARROWS[objective.direction]}"}))
    return objectives, list(known.values())


def _front(points: Sequence[Configuration], sweep: Sweep) -> set[str]:
    """Keys of the complete points no other complete point beats in every objective's mean."""
    means = {}
    for point in points:
        values = [point.sample(objective.metric).mean for objective in sweep.objectives]
        if len(point.done) >= point.asked and all(value is not None for value in values):
            means[point.key] = [value for value in values if value is not None]
    return pareto_front(means, [objective.direction for objective in sweep.objectives])


def _progress(runs: Results) -> str:
    """`18 of 27 runs done, 2 failed`."""
    states = list(runs.frame["state"]) if len(runs) else []
    failed = states.count(State.FAILED)
    return f"{states.count(State.DONE)} of {len(states)} runs done" + (f", {failed} failed" if failed else "")


def _about(sweep: Sweep, points: Sequence[Configuration]) -> list[str]:
    remarks = ["Pareto: no other complete point is at least as good in every objective and better in one."]
    if sweep.rule:
        remarks.append(f"Selection: {sweep.rule}")
    if not sweep.point:
        remarks.append("No point has been selected yet.")
    elif sweep.chosen(points) is None:
        remarks.append(f"The selected point {dict(sweep.point)} is not among these runs.")
    return remarks
