"""The full reproduction as data (launch/reproduction.yaml), and the runs that its sweeps come to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from genxai.config import Config, Section
from genxai.configfile import read_tree, validate
from genxai.runs import canonical_json, effective_options
from launch.cards import run_key
from launch.cost import Job
from launch.points import Point, config_at
from launch.rows import Rows
from launch.sweepfile import Sweep, find_sweep, load_sweep


class TableSpec(Section):
    """A line of the listing, and the sweep that makes it."""

    title: str
    sweep: str = Field(..., description="sweep file, or its name in sweeps/")


class Reproduction(Section):
    """The whole listing."""

    base: str = Field(..., description="takes the place of the sweeps' own base; their overrides and rows stay")
    tables: Annotated[tuple[TableSpec, ...], Field(min_length=1)]


def load_reproduction(file: Path) -> Reproduction:
    """Raises UsageError naming the file, the key and what is allowed."""
    tree, where = read_tree(file)
    return validate(Reproduction, tree, where)


def jobs_by_table(listing: Reproduction) -> dict[str, list[Job]]:
    """Title of each table -> its runs; a run that an earlier table has is not counted again.

    A row that waits for a choice is charged as with its first candidate, Bayesian points as the base.
    Raises UsageError for a sweep that is wrong, or is on this base.
    """
    known: set[str] = set()
    found: dict[str, list[Job]] = {}
    for table in listing.tables:
        sweep = load_sweep(find_sweep(table.sweep), [f"base={listing.base}"])
        found[table.title] = _search_jobs(sweep) if sweep.rows is None else _row_jobs(sweep, sweep.rows, known)
    return found


def _search_jobs(sweep: Sweep) -> list[Job]:
    seeds, bayes = len(sweep.definition.seeds), sweep.definition.bayes
    jobs = [
        Job(sweep.base, len(sweep.grid) * seeds),
        Job(sweep.base, bayes.points * seeds, at_once=bayes.window * seeds),
    ]
    return [job for job in jobs if job.count]


def _row_jobs(sweep: Sweep, rows: Rows, known: set[str]) -> list[Job]:
    """A job per cost, the runs in `known` left out; adds its own there."""
    groups: dict[str, tuple[Config, int]] = {}
    for row, point, seeds in _points(sweep, rows):
        config = config_at(sweep.base, point, f"sweep {sweep.name}, row {row}")
        runs = {canonical_json(effective_options(config.model_copy(update={"seed": seed}))) for seed in seeds} - known
        known |= runs
        if runs:
            key = run_key(config)
            first, count = groups.get(key, (config, 0))
            groups[key] = first, count + len(runs)
    return [Job(config, count) for config, count in groups.values()]


def _points(sweep: Sweep, rows: Rows) -> Iterator[tuple[str, Point, tuple[int, ...]]]:
    """Row, point and seeds of every candidate, then of every row in its settings."""
    for question, candidate in rows.candidates:
        yield question.row, candidate.point, sweep.definition.selection_seeds
    for case in rows.cases:
        yield case.row, case.options[0], case.seeds
