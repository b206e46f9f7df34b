"""What a reader of a table must know about a row of a sweep: how its values were chosen, or why it has no run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analysis.verdicts import plain
from launch.selected import Choosing, RowRuns

ON_TEST_DATA = " (CHOSEN ON TEST DATA: its test values are too good)"


def choosing_words(choosing: Choosing) -> str:
    """`lambda_attribution = 5 chosen by val/accuracy (split val) among {1, 5, 20}, 1 seed`."""
    fewest = min((c.seeds for c in choosing.candidates if c.seeds is not None), default=None)
    seeds = "" if fewest is None else f", {fewest} seed{'s' if fewest != 1 else ''}"
    among = ", ".join(_short(candidate.point) for candidate in choosing.candidates)
    words = f"{values_words(choosing.chosen)} chosen by {choosing.by} (split {choosing.split}) among {{{among}}}{seeds}"
    return words + (ON_TEST_DATA if choosing.on_test_data else "")


def row_notes(record: RowRuns) -> list[str]:
    """What a reader must know about the values this row was run with."""
    if record.choosing is None:
        return []
    elsewhere = [f"for the row '{record.like}'"] if record.like else []
    if record.chosen_at:
        elsewhere.append(f"at {values_words(record.chosen_at)}")
    where = f", {' '.join(elsewhere)}" if elsewhere else ""
    return [f"{choosing_words(record.choosing)}{where}; sweep '{record.sweep}'."]


def why_not(record: RowRuns) -> str:
    """Why there is no run to show."""
    if record.runs:
        return f"Sweep '{record.sweep}' has not started a run of this row yet."
    if record.choosing is not None and record.choosing.state == "failed":
        return f"Sweep '{record.sweep}' could not choose a value for this row: every candidate failed."
    return f"Sweep '{record.sweep}' is still choosing a value for this row on validation data."


def values_words(point: Mapping[str, Any]) -> str:
    """`rho = 0.98, lambda_gp = 10`: the last part of each key."""
    return ", ".join(f"{key.rpartition('.')[2]} = {plain(value)}" for key, value in point.items()) or "nothing"


def _short(point: Mapping[str, Any]) -> str:
    """The value alone where there is one."""
    return plain(next(iter(point.values()))) if len(point) == 1 else f"({values_words(point)})"
