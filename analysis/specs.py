"""Tables as data: the YAML files of `analysis/definitions` and the paper's figures in `analysis/paper`.

Adding a row, a column or a table is adding lines there; nothing in the code names one.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, model_validator

from analysis.conditions import condition_problem
from analysis.sampling import Statistic
from analysis.verdicts import Rule
from genxai.config import Config, Section
from genxai.configfile import find_field, validate
from genxai.errors import UsageError

PaperRows = dict[str, dict[str, str]]


def _known_conditions(conditions: dict[str, Any]) -> dict[str, Any]:
    for key, condition in conditions.items():
        if find_field(Config, key) is None:
            raise ValueError(f"there is no option {key!r}")
        if problem := condition_problem(condition):
            raise ValueError(f"{key}: {problem}")
    return conditions


#: what a run's configuration must say: {dotted key: value, list of values, or {gt, ge, lt, le, ne: limit}}
KnownConditions = Annotated[dict[str, Any], AfterValidator(_known_conditions)]


class ColumnSpec(Section):
    """A measured column."""

    id: str
    title: str
    metric: str = Field(..., description="name in result.json, split/name")
    paper: str | None = Field(None, description="column of the paper's CSV; null: the paper has no such figure")
    scale: float = Field(100.0, description="shown value = scale x metric")
    digits: int = Field(1, ge=0, le=6, description="decimals shown")
    unit: str = "%"
    difference: bool = Field(False, description="show the paired difference to the row that the table is `against`")
    beside: dict[str, str] = Field(default_factory=dict, description="word: metric, shown below every value")
    sampling: Statistic | None = Field(
        None, description="what sampling alone makes of this in a fair classifier, shown below every value"
    )
    notes: tuple[str, ...] = ()


class RowSpec(Section):
    """A row: a question to the runs, the difference of two rows, or a property of the splits."""

    id: str = Field(..., description="also the row of the paper's CSV that it is compared with")
    label: str
    where: KnownConditions | None = Field(None, description="what the configuration must be")
    prefer: KnownConditions = Field(default_factory=dict, description="taken first; a miss is told in a note")
    answers: str | None = Field(None, description="the row of a sweep that stands here; null: the one of this id")
    each: tuple[str, ...] = Field((), description="one row per value of these options among all runs that fit")
    at: KnownConditions = Field(default_factory=dict, description="where in the settings of one table (see `across`)")
    of: str | None = Field(None, description="show the difference of this row to the one that it is `against`")
    against: str | None = Field(None, description="what it is paired with; null: what the table is against")
    reference: dict[str, str] = Field(default_factory=dict, description="column id: metric, the same for every model")
    absent: dict[str, str] = Field(default_factory=dict, description="column id: why the row can have no such value")
    notes: tuple[str, ...] = ()
    rule: bool = Field(False, description="draw a rule above")
    extra: bool = Field(False, description="left out, and named below the table, where nobody has run it")

    @property
    def asked(self) -> dict[str, Any]:
        """Every condition on a configuration."""
        return {**(self.where or {}), **self.at}

    @property
    def sweep_row(self) -> str:
        """The row of a sweep that stands here."""
        return self.answers or self.id

    @model_validator(mode="after")
    def _one_kind(self) -> RowSpec:
        if sum(kind is not None for kind in (self.where, self.of, self.reference or None)) != 1:
            raise ValueError(f"row {self.id!r} needs exactly one of where, of and reference")
        if self.each and self.where is None:
            raise ValueError(f"row {self.id!r}: each belongs to where")
        for key in self.each:
            if find_field(Config, key) is None:
                raise ValueError(f"row {self.id!r}: each: there is no option {key!r}")
        return self


class GroupSpec(Section):
    """Some of a table's columns as a table of their own: a page is only so wide."""

    id: str = Field(..., pattern=r"^[a-z0-9]+$")
    caption: str
    columns: tuple[str, ...] = Field(..., min_length=1)


class HyperparameterSpec(Section):
    """A row of Table 1."""

    id: str = Field(..., description="row of the paper's CSV")
    label: str
    key: str | None = Field(None, description="dotted key of our option; null: there is none")
    same: dict[str, Any] = Field(default_factory=dict, description="paper's word: our value")
    why: str = Field("", description="why there is no option")

    @model_validator(mode="after")
    def _key_exists(self) -> HyperparameterSpec:
        if self.key is None and not self.why:
            raise ValueError("without a key, 'why' must say why")
        if self.key is not None and find_field(Config, self.key) is None:
            raise ValueError(f"there is no option {self.key!r}")
        return self


class TableSpec(Section):
    """A table: what kind, which rows and columns, and what the paper printed."""

    id: str = Field(..., pattern=r"^[a-z0-9]+$", description="file name, for example table2")
    kind: Literal["comparison", "hyperparameters", "sweep", "text", "cost"]
    caption: str
    paper: str | None = Field(None, description="CSV in analysis/paper with the paper's figures")
    split_by: tuple[str, ...] = Field((), description="one table per combination of these options (or whole sections)")
    across: tuple[str, ...] = Field((), description="options below split_by that differ within one table")
    sweeps: tuple[str, ...] = Field((), description="sweeps whose rows come first; none: the one named like the table")
    against: str | None = Field(None, description="row that every other row is paired with by seed")
    optional: bool = Field(False, description="made only where there are runs, or when asked for by name")
    per_seed: bool = Field(False, description="the CSV has a line per seed as well")
    groups: tuple[GroupSpec, ...] = ()
    columns: tuple[ColumnSpec, ...] = ()
    rows: tuple[RowSpec, ...] = ()
    rows_of: str | None = Field(None, description="the table that has the rows of this one")
    hyperparameters: tuple[HyperparameterSpec, ...] = ()
    verdict: Rule = Field(default_factory=Rule)
    remarks: tuple[str, ...] = ()

    @property
    def own_sweeps(self) -> tuple[str, ...]:
        """Sweeps whose rows come first."""
        return self.sweeps or (self.id,)

    @property
    def number(self) -> str:
        """`2` of `table2`."""
        return self.id.removeprefix("table")

    @model_validator(mode="after")
    def _names_fit(self) -> TableSpec:
        for what, names in (
            ("column", [column.id for column in self.columns]),
            ("row", [row.id for row in self.rows] + [row.id for row in self.hyperparameters]),
        ):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"{what} {twice.pop()!r} is there twice")
        columns = {column.id for column in self.columns}
        rows = {row.id for row in self.rows}
        named = [(f"row {row.id!r}: absent", "column", name, columns) for row in self.rows for name in row.absent]
        named += [
            (f"row {row.id!r}: reference", "column", name, columns) for row in self.rows for name in row.reference
        ]
        named += [(f"group {group.id!r}", "column", name, columns) for group in self.groups for name in group.columns]
        for row in self.rows:
            named += [(f"row {row.id!r}", "row", name, rows) for name in (row.of, row.against) if name is not None]
        named += [("against", "row", self.against, rows)] if self.against is not None else []
        for where, what, name, known in named:
            if name not in known:
                raise ValueError(f"{where}: no {what} {name!r}")
        for key in (*self.split_by, *self.across):
            if find_field(Config, key) is None:
                raise ValueError(f"split_by and across: there is no option {key!r}")
        return self


class ScaleSpec(Section):
    """One thing that must be so for a run to be at the paper's scale."""

    key: str
    paper: Any = Field(..., description="condition on the option, as in a row's `where`")
    say: str = Field(
        ...,
        description="said when it is not so; {value}: the run's, {shown}: images or comments",
    )


def load_tables(folder: Path | None = None) -> list[TableSpec]:
    """Every table of a folder (default: the shipped ones), in natural order of their numbers.

    Raises UsageError naming the file and the key that is wrong.
    """
    root = folder if folder is not None else resources.files("analysis") / "definitions"
    trees = {
        entry.name: yaml_mapping(entry.read_text(), entry.name)
        for entry in sorted(root.iterdir(), key=lambda item: item.name)
        if entry.name.endswith(".yaml")
    }
    owners = {tree.get("id"): tree for tree in trees.values()}
    specs = [validate(TableSpec, _with_rows(tree, owners, name), name) for name, tree in trees.items()]
    return sorted(specs, key=lambda spec: [int(part) if part.isdigit() else -1 for part in re.split(r"(\d+)", spec.id)])


def _with_rows(tree: dict[str, Any], owners: Mapping[Any, dict[str, Any]], where: str) -> dict[str, Any]:
    """The tree with the rows of the table that it names as `rows_of`."""
    name = tree.get("rows_of")
    if name is None:
        return tree
    if "rows" in tree or name not in owners or "rows" not in owners[name]:
        raise UsageError(f"{where}: rows_of: needs a table with rows of its own, and none here; got {name!r}")
    return {**tree, "rows": owners[name]["rows"]}


def yaml_mapping(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping; raises UsageError naming `where`."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise UsageError(f"{where}: expected a mapping, got {type(tree).__name__}")
    return tree


@functools.cache
def paper_scale() -> tuple[ScaleSpec, ...]:
    """What the paper's scale is, from analysis/paper/scale.yaml."""
    tree = yaml_mapping(paper_file("scale.yaml"), "paper/scale.yaml")
    return tuple(validate(ScaleSpec, item, "paper/scale.yaml") for item in tree["scale"])


@functools.cache
def paper_rows(name: str | None) -> PaperRows:
    """The paper's figures by row; an empty cell is one the source does not give. Empty for None."""
    if name is None:
        return {}
    return {row["row"]: row for row in csv.DictReader(paper_file(name).splitlines())}


def paper_file(name: str) -> str:
    """The text of a file in analysis/paper; raises UsageError if there is none."""
    try:
        return (resources.files("analysis") / "paper" / name).read_text()
    except OSError:
        raise UsageError(f"analysis/paper/{name}: there is no such transcription") from None


def paper_value(rows: Mapping[str, Mapping[str, str]], row: str, column: str | None) -> float | None:
    """A printed figure, or None where the paper has none."""
    text = rows.get(row, {}).get(column or "", "") or ""
    try:
        return float(text)
    except ValueError:
        return None
