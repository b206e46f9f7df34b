"""A sweep's own table: every point with its objectives and test metrics, the Pareto front and the selected point."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.captions import caption, describe_setting, scale_warning
from analysis.formats import Cell, Column, Document, Row, Table
from analysis.hyperparameters import sweep_names, swept_keys
from analysis.results import Configuration, Results
from analysis.rows import measured_cell
from analysis.specs import ColumnSpec, TableSpec
from analysis.sweeps import Sweep, pareto_front
from analysis.verdicts import EM_DASH, plain
from genxai.runs import State

MARK = "✓"
_ARROWS = {"maximize": "↑", "minimize": "↓"}


def sweep_tables(spec: TableSpec, results: Results) -> list[Document]:
    """One document `sweep_<name>` per folder that a sweep fills."""
    return [
        Document(f"{spec.id}_{name}", (_table(spec, results.in_folder(name), results.sweeps.get(name, Sweep(name))),))
        for name in sweep_names(results)
    ]


def _table(spec: TableSpec, runs: Results, sweep: Sweep) -> Table:
    points = sorted(runs.configurations(), key=_order)
    keys = swept_keys(runs, sweep)
    objectives, others = _measured_columns(spec, sweep)
    front = _front(points, sweep)
    chosen = sweep.chosen(points)
    columns = [Column("trial", "Trial", left=True), Column("stage", "Stage", left=True)]
    columns += [Column(key, key) for key in keys]
    columns += [Column(column.id, column.title, notes=column.notes) for column in (*objectives, *others)]
    columns += [Column("pareto", "Pareto", left=True), Column("selected", "selected", left=True)]
    rows = [
        Row(
            id=_trial(point),
            cells=(
                Cell((_trial(point),), (f"{point.progress()}.",) if len(point.done) < point.asked else ()),
                Cell((point["stage"] or EM_DASH,)),
                *(Cell((plain(point[key]),)) for key in keys),
                *(measured_cell(point, column, None, spec.verdict) for column in (*objectives, *others)),
                Cell((MARK if point.key in front else "",)),
                Cell((MARK if chosen and point.key == chosen.key else "",)),
            ),
            configuration=point.key,
            signatures=tuple(point.signatures()),
        )
        for point in points
    ]
    config = points[0].config if points else None
    setting = describe_setting(config, ()) if config else "No run yet"
    title = caption(
        f"{spec.caption} '{sweep.name}'", _progress(runs), setting, scale_warning([p.config for p in points])
    )
    return Table(f"{spec.id}-{sweep.name}", title, tuple(columns), tuple(rows), (*spec.remarks, *_about(sweep, chosen)))


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


def _about(sweep: Sweep, chosen: Configuration | None) -> list[str]:
    remarks = ["Pareto: no other complete point is at least as good in every objective and better in one."]
    if sweep.rule:
        remarks.append(f"Selection: {sweep.rule}")
    if not sweep.point:
        remarks.append("No point has been selected yet.")
    elif chosen is None:
        remarks.append(f"The selected point {dict(sweep.point)} is not among these runs.")
    return remarks
