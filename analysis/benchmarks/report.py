"""The figures as a table for people and as one JSON object for programs, targets and machine beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.benchmarks import machine as machines
from analysis.benchmarks.figures import Figure
from analysis.benchmarks.floors import Mark, has_fallen

HEADINGS = ("median", "min", "max", "unit", "target", "")


def as_json(
    figures: Sequence[Figure], marks: Mapping[str, Mark], machine: Mapping[str, Any], about: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything: `about` (what was asked), machine, figures by key with target, floor and whether each is met."""
    return {**about, "machine": dict(machine), "figures": {f.key: _record(f, marks, machine) for f in figures}}


def _record(figure: Figure, marks: Mapping[str, Mark], machine: Mapping[str, Any]) -> dict[str, Any]:
    mark = marks.get(figure.key)
    target = mark.aim(device_of(machine)) if mark else None
    return {
        **figure.as_json(),
        "better": mark.better if mark else None,
        "target": target,
        "met": mark.reaches(figure.median, target) if mark and target is not None else None,
        "floor": mark.floor if mark else None,
        "fallen": has_fallen(figure, mark) if mark and mark.floor is not None else None,
    }


def device_of(machine: Mapping[str, Any]) -> str:
    return "cuda" if machine["gpu"] else "cpu"


def table(figures: Sequence[Figure], marks: Mapping[str, Mark], machine: Mapping[str, Any], title: str) -> str:
    """Aligned columns, one block per suite, the machine in the last line."""
    rows = [(figure.suite, figure.name, *_cells(figure, marks, machine)) for figure in figures]
    width = max([len(name) for _, name, *_ in rows], default=0)
    lines = [_line(title, HEADINGS, width)]
    suite = ""
    for row_suite, name, *cells in rows:
        if row_suite != suite:
            lines.append(row_suite)
            suite = row_suite
        lines.append(_line(f"  {name}", cells, width))
    lines.append(f"on {machines.sentence(dict(machine))}")
    return "\n".join(lines)


def _cells(figure: Figure, marks: Mapping[str, Mark], machine: Mapping[str, Any]) -> tuple[str, ...]:
    record = _record(figure, marks, machine)
    numbers = tuple(shown(record[key]) for key in ("median", "min", "max"))
    if record["target"] is None:
        return (*numbers, figure.unit, "", "")
    sign = ">=" if record["better"] == "higher" else "<="
    return (*numbers, figure.unit, f"{sign} {record['target']:g}", "met" if record["met"] else "not met")


def shown(value: float) -> str:
    """Three digits after the point at most, and no more than there is sense in."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 3}f}"


def _line(name: str, cells: Sequence[str], width: int) -> str:
    median, low, high, unit, target, verdict = cells
    return f"{name:<{width + 2}}{median:>9}{low:>9}{high:>9}  {unit:<4}  {target:<8}{verdict}".rstrip()
