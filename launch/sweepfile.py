"""A sweep as data: the YAML file under sweeps/, validated, with command-line overrides on top.

Every point of the grid is validated against the configuration here, before any work.
"""

from __future__ import annotations

import difflib
import itertools
import math
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from genxai.config import Config, Section
from genxai.configfile import (
    Tree,
    apply_override,
    dotted_keys,
    find_field,
    get_dotted,
    preset_names,
    read_tree,
    set_dotted,
    validate,
)
from genxai.errors import UsageError
from launch.cli import REPOSITORY

Point = dict[str, Any]


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

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = Field(
        ..., description="folder under RUNS; the file's name if not given"
    )
    base: str = Field(..., description="preset name or YAML file of the common configuration")
    overrides: dict[str, Any] = Field(default_factory=dict, description="dotted key: value, on top of the base")
    space: dict[str, Axis] = Field(default_factory=dict, description="dotted key: what is searched")
    bayes: Bayes = Field(default_factory=Bayes)
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] = Field(
        (0, 1, 2), description="seeds of every point"
    )
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)] = DEFAULT_OBJECTIVES
    select: Literal["scaled_sum"] = Field(
        "scaled_sum", description="largest sum of the objectives, each scaled to its range over the finished trials"
    )
    retries: Annotated[int, Field(ge=0)] = Field(2, description="how often a failed run is started again")
    budget: Budget = Field(default_factory=Budget)

    @model_validator(mode="after")
    def _distinct(self) -> SweepFile:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a seed is listed twice")
        if len({objective.metric for objective in self.objectives}) != len(self.objectives):
            raise ValueError("an objective is listed twice")
        return self


class Sweep(typing.NamedTuple):
    """A checked sweep: its definition, the configuration all points share, and the grid."""

    definition: SweepFile
    base: Config
    grid: tuple[Point, ...]

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
    definition = validate(SweepFile, tree, where, for_sweep)
    _check_space_keys(definition, where, for_config)
    base = _load_base(definition, where, for_config)
    return Sweep(definition, base, _grid(definition, base, where))


def _sort_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides of the sweep file's own keys, and those of the configuration."""
    for_sweep: list[str] = []
    for_config: list[str] = []
    for text in overrides:
        apply_override({}, text)  # a malformed one is named here
        head = text.partition("=")[0].partition(".")[0]
        (for_sweep if head in SweepFile.model_fields else for_config).append(text)
    return for_sweep, for_config


def _override_sweep(tree: Tree, text: str) -> None:
    key, _, value = text.partition("=")
    head, _, rest = key.partition(".")
    if head not in ("space", "overrides") or not rest:
        apply_override(tree, text)
        return
    section = tree.setdefault(head, {})
    if not isinstance(section, dict):
        raise UsageError(f"command line: {head} is not a mapping in the sweep file")
    # the keys of these two sections are dotted themselves
    parsed: Tree = {}
    apply_override(parsed, f"value={value}")
    config_key, _, field = rest.rpartition(".")
    if head == "space" and field in Axis.model_fields:
        section.setdefault(config_key, {})[field] = parsed["value"]
    else:
        section[rest] = parsed["value"]


def _check_space_keys(definition: SweepFile, where: str, for_config: Sequence[str]) -> None:
    for key in definition.space:
        if find_field(Config, key) is None or key not in dotted_keys(Config):
            near = _nearest(key)
            raise UsageError(f"{where}: space: unknown key {key!r}; the nearest key is {near!r}")
        if key in _sections() or key.partition(".")[0] in ("name", "seed", "origin", "run"):
            raise UsageError(f"{where}: space: {key!r} cannot be searched; name one option that changes the result")
    for text in for_config:
        key = text.partition("=")[0]
        if key in definition.space:
            raise UsageError(f"command line: {key} is searched by {where}; change space.{key}.grid=[...] instead")
    if not definition.bayes.points and not any(axis.grid for axis in definition.space.values()):
        raise UsageError(
            f"{where}: no points: give some key of `space` a grid, or set bayes.points and a range (low, high)"
        )
    if definition.bayes.points and not definition.space:
        raise UsageError(f"{where}: bayes.points={definition.bayes.points}, but `space` is empty")


def _nearest(key: str) -> str:
    return difflib.get_close_matches(key, dotted_keys(Config), 1, cutoff=0.0)[0]


def _sections() -> set[str]:
    keys = dotted_keys(Config)
    return {key.rpartition(".")[0] for key in keys} - {""}


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


def config_at(base: Config, point: Point, where: str) -> Config:
    """The base with the point's values, validated. Sections that the point does not touch are the base's own objects.

    Raises UsageError for a value that an option, or a rule about several, does not allow.
    """
    tree: Tree = dict(base)
    for section in {key.partition(".")[0] for key in point}:
        if isinstance(tree.get(section), Section):
            tree[section] = tree[section].model_dump()
    for key, value in point.items():
        set_dotted(tree, key, value)
    return validate(Config, tree, where)


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
