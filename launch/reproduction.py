"""The rows of the full reproduction as data (launch/reproduction.yaml), and the runs they come to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genxai.config import Config, Section
from genxai.configfile import read_tree, set_dotted, validate
from genxai.errors import UsageError
from genxai.runs import canonical_json, effective_options
from launch.cost import Job
from launch.sweepfile import find_sweep, load_sweep

Count = Annotated[int, Field(ge=1)]


class RowSpec(Section):
    """A row: the configuration that executes the same passes, and how many trainings it is."""

    id: str
    overrides: dict[str, Any] = Field(default_factory=dict, description="dotted key: value, on top of the base")
    headline: bool = Field(False, description="on every rho, with more seeds")
    factor: Annotated[float, Field(gt=0)] = Field(1.0, description="trainings that one run of the method is worth")
    variant: str = Field("", description="tells planned methods apart that no option does")


class TableSpec(Section):
    """The rows of a table, or the sweep that makes it."""

    id: str
    title: str
    status: Literal["sweep", "planned"]
    sweep: str | None = None
    rows: tuple[RowSpec, ...] = ()

    @model_validator(mode="after")
    def _one_source(self) -> TableSpec:
        if (self.sweep is None) == (not self.rows):
            raise ValueError("needs either a sweep or rows")
        return self


class Reproduction(Section):
    """The whole listing."""

    base: str
    datasets: tuple[str, ...]
    seeds: Count
    headline_seeds: Count
    rho: tuple[float, ...]
    headline_rho: tuple[float, ...]
    tables: tuple[TableSpec, ...]


def load_reproduction(file: Path) -> Reproduction:
    """Raises UsageError naming the file, the key and what is allowed."""
    tree, where = read_tree(file)
    return validate(Reproduction, tree, where)


def jobs_by_table(listing: Reproduction) -> dict[str, list[Job]]:
    """Title and status of each table -> its runs; a run that an earlier table has is not counted again."""
    known: set[str] = set()
    found: dict[str, list[Job]] = {}
    for table in listing.tables:
        title = f"{table.title} ({table.status})"
        found[title] = _sweep_jobs(listing, table.sweep) if table.sweep else _row_jobs(listing, table, known)
    return found


def _sweep_jobs(listing: Reproduction, name: str) -> list[Job]:
    sweep = load_sweep(find_sweep(name), [f"base={listing.base}"])
    if sweep.rows is not None:
        raise UsageError(f"the listing's sweep {name!r} has rows: list them as the rows of a table")
    seeds, bayes = len(sweep.definition.seeds), sweep.definition.bayes
    jobs = [
        Job(sweep.base, len(sweep.grid) * seeds),
        Job(sweep.base, bayes.points * seeds, at_once=bayes.window * seeds),
    ]
    return [job for job in jobs if job.count]


def _row_jobs(listing: Reproduction, table: TableSpec, known: set[str]) -> list[Job]:
    jobs: list[Job] = []
    for row in table.rows:
        rhos = listing.headline_rho if row.headline else listing.rho
        seeds = listing.headline_seeds if row.headline else listing.seeds
        for dataset, rho in itertools.product(listing.datasets, rhos):
            config = _config(listing, row, {"data.dataset": dataset, "data.rho": rho})
            runs = {canonical_json([effective_options(config), row.variant, seed]) for seed in range(seeds)} - known
            known |= runs
            if runs:
                jobs.append(Job(config, len(runs), row.factor))
    return jobs


def _config(listing: Reproduction, row: RowSpec, more: dict[str, Any]) -> Config:
    tree, where = read_tree(listing.base)
    for key, value in {**row.overrides, **more}.items():
        set_dotted(tree, key, value)
    tree["name"] = "reproduction"
    return validate(Config, tree, f"{where}, row {row.id} of the listing")
