"""What the finished runs of every sweep took: hours, elapsed time, and how many fit into an hour."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from analysis.captions import caption, devices
from analysis.configuration import is_number
from analysis.formats import Cell, Column, Document, Measured, Row, Table, absent
from analysis.measured import Results
from analysis.specs import TableSpec
from analysis.verdicts import fixed
from genxai.runs import State

#: cores that runs per hour are given for
CORES = 2
HOUR = 3600.0

COLUMNS = (
    Column("sweep", "Sweep", left=True),
    Column("runs", "Runs"),
    Column("hours", "Hours, added up"),
    Column("elapsed", "Hours elapsed"),
    Column("mean", "Seconds per run"),
    Column("per_hour", f"Runs per hour on {CORES} cores"),
    Column("device", "Device", left=True),
)


def cost_table(spec: TableSpec, results: Results) -> Document:
    """A row per folder under RUNS with finished runs, and their sum where there are several."""
    done = _finished(results)
    folders = sorted({run["folder"] for run in done})
    rows = [_row(folder, [run for run in done if run["folder"] == folder]) for folder in folders]
    if len(folders) > 1:
        once = {run["signature"]: run for run in done}  # a run that two sweeps keep was computed once
        rows.append(_row("all", list(once.values()), rule=True))
    title = caption(spec.caption, "" if rows else "No finished run yet")
    return Document(spec.id, (Table(spec.id, title, COLUMNS, tuple(rows), spec.remarks),))


def _finished(results: Results) -> list[dict[str, Any]]:
    names = ("folder", "signature", "state", "seconds", "starts", "train.threads")
    columns = (list(results.frame[name]) for name in names) if len(results) else ()
    runs = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return [run for run in runs if run["state"] is State.DONE and is_number(run["seconds"])]


def _row(name: str, runs: list[dict[str, Any]], rule: bool = False) -> Row:
    seconds = sum(run["seconds"] for run in runs)
    threads = max(run["train.threads"] for run in runs)
    at_a_time = max(1, CORES // threads)
    on_cpu = not any("GPU" in device or "NVIDIA" in device for device in _devices(runs))
    per_hour = at_a_time * HOUR * len(runs) / seconds if seconds and on_cpu else None
    elapsed = _elapsed(runs)
    cells = (
        Cell((name,)),
        _number(len(runs), 0, "runs"),
        _number(seconds / HOUR, 2, "h"),
        absent("Not noted in these runs.") if elapsed is None else _number(elapsed / HOUR, 2, "h"),
        _number(seconds / len(runs), 1, "s"),
        absent("These runs were made on a GPU.") if per_hour is None else _number(per_hour, 0, "1/h"),
        Cell((", ".join(_devices(runs)) or "not noted",)),
    )
    return Row(name, cells, signatures=tuple(sorted(run["signature"] for run in runs)), rule_above=rule)


def _number(value: float, digits: int, unit: str) -> Cell:
    return Cell((fixed(value, digits),), (), Measured("cost", unit, mean=value))


def _devices(runs: list[dict[str, Any]]) -> list[str]:
    return devices(start for run in runs for start in run["starts"])


def _elapsed(runs: list[dict[str, Any]]) -> float | None:
    """Seconds from the first start to the last end; a run ends its own seconds after it was first started."""
    begun = [(_first_time(run), run["seconds"]) for run in runs]
    known = [(time, seconds) for time, seconds in begun if time is not None]
    if len(known) < len(runs):
        return None
    return max(time + seconds for time, seconds in known) - min(time for time, _ in known)


def _first_time(run: Mapping[str, Any]) -> float | None:
    """Unix time of the first start."""
    for start in run["starts"]:
        try:
            return datetime.datetime.fromisoformat(start["time"]).timestamp()
        except (KeyError, TypeError, ValueError):
            continue
    return None
