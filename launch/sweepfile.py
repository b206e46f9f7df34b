"""A sweep as data: the YAML file under sweeps/, validated, with command-line overrides on top.

Every point of the grid, or row of a table, is validated against the configuration here, before any work.
"""

from __future__ import annotations

import itertools
import math
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from genxai.config import Config, Section, Seed
from genxai.configfile import (
    Tree,
    apply_override,
    get_dotted,
    preset_names,
    read_tree,
    set_dotted,
    validate,
)
from genxai.errors import UsageError
from launch.cli import REPOSITORY
from launch.points import Point, check_option, config_at
from launch.rowfile import LOWER_IS_BETTER, Row, RowName, SeedList, check_row_trees
from launch.rows import Rows, expand

SweepName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]


class Axis(Section):
    """One searched option: values for the grid, a range for the Bayesian stage."""

    grid: tuple[Any, ...] = Field((), description="values of stage 1; empty: the base value only")
    low: float | None = Field(None, allow_inf_nan=False, description="lower end of the Bayesian range")
    high: float | None = Field(None, allow_inf_nan=False, description="upper end of the Bayesian range")
    log: bool = Field(False, description="search the range on a logarithmic scale")

    @model_validator(mode="after")
    def _range(self) -> Axis:
        if not self.grid and self.low is None:
            raise ValueError("needs a grid, a range (low and high), or both")
        if (self.low is None) != (self.high is None):
            raise ValueError("a range needs both low and high")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must be smaller than high")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError("a logarithmic range needs low > 0")
        return self


class Bayes(Section):
    """Stage 2."""

    points: Annotated[int, Field(ge=0)] = Field(0, description="Bayesian points after the grid")
    sampler: Literal["tpe", "gp"] = Field("tpe", description="tree-structured Parzen estimator or Gaussian process")
    window: Annotated[int, Field(ge=1)] = Field(
        2, description="trials in flight: trial n knows the results of 0..n-window"
    )
    startup: Annotated[int, Field(ge=1)] = Field(
        4, description="finished trials before the model is used; points are random until then"
    )


class Objective(Section):
    """A named metric on a named split."""

    metric: Annotated[str, Field(pattern=r"^[^/\s]+/\S+$")] = Field(..., description="<split>/<metric> of result.json")
    direction: Literal["maximize", "minimize"] = "maximize"


class Budget(Section):
    """What the sweep may cost."""

    device_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="cap on the hours of all runs; null: none"
    )


DEFAULT_OBJECTIVES = (Objective(metric="val/accuracy"), Objective(metric="val/ssim_align"))


class SweepFile(Section):
    """A complete sweep definition."""

    name: SweepName = Field(..., description="folder under RUNS; the file's name if not given")
    base: str = Field(..., description="preset name or YAML file of the common configuration")
    overrides: dict[str, Any] = Field(default_factory=dict, description="dotted key: value, on top of the base")
    space: dict[str, Axis] = Field(
        default_factory=dict, description="dotted key: what is searched; with rows: the grid of their settings"
    )
    bayes: Bayes = Field(default_factory=Bayes)
    rows: dict[RowName, Row] = Field(default_factory=dict, description="name: a row of a table, run in the settings")
    seeds: SeedList = Field((0, 1, 2), description="seeds of every point")
    selection_seeds: tuple[Seed, ...] = Field((), description="seeds of the runs by which rows choose; no others")
    reuse: tuple[SweepName, ...] = Field(
        (), description="sweeps under the same RUNS whose finished runs count here as well"
    )
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = DEFAULT_OBJECTIVES
    select: Literal["scaled_sum"] = Field(
        "scaled_sum", description="largest sum of the objectives, each scaled to its range over the finished trials"
    )
    retries: Annotated[int, Field(ge=0)] = Field(2, description="how often a failed run is started again")
    budget: Budget = Field(default_factory=Budget)

    @model_validator(mode="after")
    def _distinct(self) -> SweepFile:
        if any(len(set(seeds)) != len(seeds) for seeds in (self.seeds, self.selection_seeds)):
            raise ValueError("a seed is listed twice")
        if len({objective.metric for objective in self.objectives}) != len(self.objectives):
            raise ValueError("an objective is listed twice")
        if self.name in self.reuse:
            raise ValueError(f"reuse: {self.name} is this sweep itself")
        return self

    @model_validator(mode="after")
    def _rows_are_no_search(self) -> SweepFile:
        if self.selection_seeds and not any(row.choose for row in self.rows.values()):
            raise ValueError("selection_seeds are for rows that choose, of which there are none: remove them")
        if not self.rows:
            return self
        if self.bayes.points:
            raise ValueError(f"rows are not searched: bayes.points={self.bayes.points} does not go with them")
        if self.objectives != DEFAULT_OBJECTIVES:
            raise ValueError("rows choose `by` a metric of their own: objectives do not go with them")
        for key, axis in self.space.items():
            if axis.low is not None or not axis.grid:
                raise ValueError(f"space.{key}: with rows the space is the grid of their settings: no range")
        return self


class Sweep(typing.NamedTuple):
    """A checked sweep: its definition, the configuration all points share, and the grid, or the rows of a table."""

    definition: SweepFile
    base: Config
    grid: tuple[Point, ...]
    rows: Rows | None = None

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def trial_count(self) -> int:
        """Points of both stages."""
        return len(self.grid) + self.definition.bayes.points


def find_sweep(name: str | None) -> Path:
    """The file a person means: a path, or the name of a file in the repository's sweeps/ (default: lambda)."""
    if name is None:
        return REPOSITORY / "sweeps" / "lambda.yaml"
    path = Path(name)
    shipped = REPOSITORY / "sweeps" / f"{name}.yaml"
    return shipped if not path.exists() and shipped.is_file() else path


def load_sweep(path: Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read and check a sweep file with `key=value` overrides of the sweep or of its base configuration.

    Raises UsageError naming the file, the key and what is allowed.
    """
    where = str(path)
    if not path.is_file():
        shipped = ", ".join(sorted(file.stem for file in (REPOSITORY / "sweeps").glob("*.yaml")))
        raise UsageError(f"{where}: no such sweep file; shipped ones are {shipped}")
    tree, _ = read_tree(path.absolute())
    tree.setdefault("name", path.stem)
    if isinstance(tree.get("base"), str) and tree["base"] not in preset_names():
        tree["base"] = str((path.parent / tree["base"]).absolute())  # relative to the file, not to the shell
    for_sweep, for_config = _sort_overrides(overrides)
    for text in for_sweep:
        _override_sweep(tree, text)
    if for_sweep:  # what is wrong may not stand in the file
        where = f"{where} with {' '.join(for_sweep)}"
    check_row_trees(tree, where)
    definition = validate(SweepFile, tree, where, for_sweep)
    _check_space_keys(definition, where, for_config)
    base = _load_base(definition, where, for_config)
    if definition.rows:
        return Sweep(definition, base, (), expand(definition, base, where))
    _check_objectives(definition, base, where)
    return Sweep(definition, base, _grid(definition, base, where))


def _sort_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the sweep file's own keys, and those of the configuration."""
    for_sweep: list[str] = []
    for_config: list[str] = []
    for text in overrides:
        apply_override({}, text)  # a malformed one is named here
        head = text.partition("=")[0].partition(".")[0]
        if head in ("seed", "origin"):
            raise UsageError(f"override {text}: {head} is each run's own; a sweep has `seeds`: seeds=[0, 1, 2]")
        (for_sweep if head in SweepFile.model_fields else for_config).append(text)
    return for_sweep, for_config


#: mappings in a sweep file whose keys are dotted themselves
_DOTTED = re.compile(r"(overrides|space|rows\.[^.]+\.(?:set|only|choose\.(?:space|at)))\.(.+)")


def _override_sweep(tree: Tree, text: str) -> None:
    key, _, value = text.partition("=")
    head, *names = key.split(".")
    rows = tree.get("rows")
    if head == "rows" and len(names) > 1 and names[0] not in (rows if isinstance(rows, dict) else ()):
        known = ", ".join(map(str, rows)) if isinstance(rows, dict) else "none"
        raise UsageError(f"override {text}: there is no row {names[0]!r}; rows are {known}")
    found = _DOTTED.fullmatch(key)
    if found is None:
        apply_override(tree, text)
        return
    section = tree
    for part in found[1].split("."):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise UsageError(f"command line: {found[1]} is not a mapping in the sweep file")
    parsed: Tree = {}
    apply_override(parsed, f"value={value}")
    config_key, _, field = found[2].rpartition(".")
    if found[1] == "space" and field in Axis.model_fields:
        section.setdefault(config_key, {})[field] = parsed["value"]
    else:
        section[found[2]] = parsed["value"]


def _check_space_keys(definition: SweepFile, where: str, for_config: Sequence[str]) -> None:
    for key in definition.space:
        check_option(key, f"{where}: space", "searched")
    chosen = {
        key: f"rows.{name}.choose.space.{key}"
        for name, row in definition.rows.items()
        for key in (row.choose.space if row.choose else ())
    } | {key: f"space.{key}.grid" for key in definition.space}
    for text in for_config:
        key = text.partition("=")[0]
        if key in chosen:
            raise UsageError(f"command line: {key} is searched by {where}; change {chosen[key]}=[...] instead")
    if definition.rows:
        return
    if not definition.bayes.points and not any(axis.grid for axis in definition.space.values()):
        raise UsageError(
            f"{where}: no points: give some key of `space` a grid, or set bayes.points and a range (low, high)"
        )
    if definition.bayes.points and not definition.space:
        raise UsageError(f"{where}: bayes.points={definition.bayes.points}, but `space` is empty")


def _check_objectives(definition: SweepFile, base: Config, where: str) -> None:
    """Only validation data choose, and a number that is better when small is not made large."""
    from genxai.data.supply import split_names  # the tables read sweep files without it

    allowed = (*split_names(base.data).validation, "generator")
    for objective in definition.objectives:
        split, _, metric = objective.metric.partition("/")
        if split not in allowed or (split == "generator" and not metric.startswith("bias_gap")):
            splits = ", ".join(f"{name}/..." for name in allowed[:-1])
            raise UsageError(
                f"{where}: objectives: {objective.metric!r} cannot select: points are selected on validation data, by "
                f"{splits} or generator/bias_gap"
            )
        if objective.direction == "maximize" and metric in (*LOWER_IS_BETTER, "bias_gap", "bias_gap_reference"):
            raise UsageError(f"{where}: objectives: {objective.metric} is better when small: direction: minimize")


def _load_base(definition: SweepFile, where: str, for_config: Sequence[str]) -> Config:
    tree, base_where = read_tree(definition.base)
    for key, value in definition.overrides.items():
        set_dotted(tree, key, value)
    for text in for_config:
        apply_override(tree, text)
    # name, seed and origin belong to the sweep
    tree["name"], tree["seed"] = definition.name, definition.seeds[0]
    tree.pop("origin", None)
    source = f"{base_where} (base of {where})" if not definition.overrides else f"{base_where} + overrides of {where}"
    return validate(Config, tree, source, for_config)


def _grid(definition: SweepFile, base: Config, where: str) -> tuple[Point, ...]:
    """Every combination once, the last key varying fastest; () if no key has a grid."""
    axes = {key: axis.grid for key, axis in definition.space.items() if axis.grid}
    _check_ranges(definition, base, where)
    if not axes:
        return ()
    points: dict[tuple[Any, ...], Point] = {}
    for values in itertools.product(*axes.values()):
        given = dict(zip(axes, values, strict=True))
        point = resolve_point(definition, base, given, f"{where}: point {given}")
        if points.setdefault(tuple(point.values()), point) is not point:  # values of one option can be hashed
            raise UsageError(f"{where}: the grid holds the point {point} twice")
    return tuple(points.values())


def _check_ranges(definition: SweepFile, base: Config, where: str) -> None:
    """Both ends of each range are values the option may have."""
    for key, axis in definition.space.items():
        if axis.low is not None and axis.high is not None:
            current = get_dotted(base, key)
            if isinstance(current, bool) or not isinstance(current, int | float):
                raise UsageError(f"{where}: space.{key}: only numbers have a range; give a grid of choices")
            for end in (axis.low, axis.high):
                config_at(base, {key: end}, f"{where}: the range of space.{key}")


def resolve_point(definition: SweepFile, base: Config, given: Point, where: str) -> Point:
    """The validated value of every searched key: 1 becomes 1.0 where the option is a float."""
    return point_of(definition, config_at(base, given, where))


def point_of(definition: SweepFile, config: Config) -> Point:
    """What a configuration has at the searched keys."""
    return {key: get_dotted(config, key) for key in definition.space}


def clamp(axis: Axis, value: Any) -> Any:
    """The nearest value inside the range, 4 significant digits kept: tables can print what was run."""
    if axis.low is None or axis.high is None:
        return value
    if isinstance(value, int):
        return min(max(value, math.ceil(axis.low)), math.floor(axis.high))
    return min(max(float(f"{value:.4g}"), axis.low), axis.high)


def clamped(definition: SweepFile, point: Point) -> Point:
    """The point as a sampler with these ranges can see it: values outside lie on the nearest end."""
    return {key: clamp(definition.space[key], value) for key, value in point.items()}


def has_point(definition: SweepFile, point: Point) -> bool:
    """Whether a Bayesian point of an earlier start fits this space: the same keys, choices still on offer."""
    if set(point) != set(definition.space):
        return False
    axes = definition.space
    return all(
        axes[key].low is not None or as_choice(axes[key], value) in axes[key].grid for key, value in point.items()
    )


def as_choice(axis: Axis, value: Any) -> Any:
    """The grid's own spelling of a value: 1 in the file is 1.0 in a configuration, a tuple is a list."""
    plain = list(value) if isinstance(value, tuple) else value
    return next((choice for choice in axis.grid if choice == plain), plain)


def dump_sweep(definition: SweepFile) -> str:
    """The definition as YAML; loading it gives an equal one."""
    return yaml.safe_dump(definition.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
