"""What the rows of a sweep file come to: the choices to be made, and each row in each of its settings.

All of it is known before any work, and so are the numbers of the trials; only which candidate is chosen is not.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genxai.config import Config
from genxai.configfile import get_dotted
from genxai.errors import UsageError
from launch.points import Point, check_option, config_at
from launch.rowfile import LEARNT_FROM, LOWER_IS_BETTER, Choose, Row
from launch.words import keys_words

if TYPE_CHECKING:
    from launch.sweepfile import SweepFile


@dataclass(frozen=True)
class Candidate:
    """One of the points that a row may choose."""

    trial: int
    values: Point  # of the keys that are chosen
    point: Point  # these, and those that the setting and the row set


@dataclass(frozen=True)
class Question:
    """A choice to be made, for one row at one setting."""

    row: str
    setting: Point
    by: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Case:
    """A row in one of its settings: a trial, at a point that may wait for a choice."""

    trial: int
    row: str
    setting: Point
    seeds: tuple[int, ...]
    options: tuple[Point, ...]  # its point for each candidate; one alone if nothing is chosen
    question: int | None  # whose answer it takes
    like: str | None


@dataclass(frozen=True)
class Rows:
    """A table as trials: the candidates of all questions first, then the cases, in the file's order."""

    questions: tuple[Question, ...]
    cases: tuple[Case, ...]

    @property
    def candidates(self) -> Iterator[tuple[Question, Candidate]]:
        return ((question, candidate) for question in self.questions for candidate in question.candidates)


def count_runs(definition: SweepFile) -> int:
    """Runs that the rows come to at most; those of equal configurations are counted apart."""
    settings = [dict(zip(definition.space, values, strict=True)) for values in _product(definition)]
    count = 0
    for row in definition.rows.values():
        count += len(_settings_of(row, settings)) * len(row.seeds or definition.seeds)
        if row.choose is not None:
            tried = len(_choosing_settings(row, settings)) * len(_combinations(row.choose))
            count += tried * len(definition.selection_seeds)
    return count


def expand(definition: SweepFile, base: Config, where: str) -> Rows:
    """The rows of a sweep file in their settings, every configuration validated.

    Raises UsageError naming the row, the setting and what is wrong.
    """
    settings = _settings(definition, where)
    for name, row in definition.rows.items():
        _check(definition, name, row, f"{where}: rows.{name}")
    _check_budget(definition.rows, where)
    questions: list[Question] = []
    asked: dict[str, list[tuple[Point, int]]] = {}  # by row: the setting of choosing, and the question
    number = itertools.count()
    for name, row in definition.rows.items():
        asked[name] = []
        for setting in _choosing_settings(row, settings):
            asked[name].append((setting, len(questions)))
            questions.append(_question(base, name, row, setting, number, where))
    cases = []
    for name, row in definition.rows.items():
        chooser = row.like or name
        for setting in _settings_of(row, settings):
            index = _asked_at(definition.rows[chooser], asked[chooser], setting)
            if row.like is not None and index is None:
                raise UsageError(
                    f"{where}: rows.{name}: at {keys_words(setting)} the row {chooser!r} chooses nothing, because "
                    "its `only` leaves that setting out"
                )
            question = None if index is None else questions[index]
            options = _options(base, name, row, setting, question, where)
            seeds = row.seeds or definition.seeds
            shown = {key: options[0][key] for key in setting}
            cases.append(Case(next(number), name, shown, seeds, options, index, row.like))
    return Rows(tuple(questions), tuple(cases))


# --- settings ------------------------------------------------------------------------------------


def _settings(definition: SweepFile, where: str) -> list[Point]:
    settings = [dict(zip(definition.space, values, strict=True)) for values in _product(definition)]
    for number, setting in enumerate(settings):
        if setting in settings[:number]:
            raise UsageError(f"{where}: the settings hold {keys_words(setting)} twice")
    return settings


def _product(definition: SweepFile) -> Iterator[tuple[Any, ...]]:
    return itertools.product(*(axis.grid for axis in definition.space.values()))


def _settings_of(row: Row, settings: Iterable[Point]) -> list[Point]:
    return [setting for setting in settings if all(setting.get(key) in values for key, values in row.only.items())]


def _choosing_settings(row: Row, settings: Iterable[Point]) -> list[Point]:
    """Where the row chooses: its settings with the fixed part in place, each once."""
    if row.choose is None:
        return []
    found: list[Point] = []
    for setting in _settings_of(row, settings):
        fixed = setting | row.choose.at
        if fixed not in found:
            found.append(fixed)
    return found


def _asked_at(row: Row, asked: Iterable[tuple[Point, int]], setting: Point) -> int | None:
    """The question that the row answers for a setting; None if there is none."""
    if row.choose is None:
        return None
    fixed = setting | row.choose.at
    return next((index for at, index in asked if at == fixed), None)


# --- points --------------------------------------------------------------------------------------


def _question(base: Config, name: str, row: Row, setting: Point, number: Iterator[int], where: str) -> Question:
    choose = row.choose
    assert choose is not None
    candidates: list[Candidate] = []
    for values in _combinations(choose):
        point = _resolved(base, name, row, setting, values, where)
        chosen = {key: point[key] for key in values}
        if any(chosen == known.values for known in candidates):
            raise UsageError(f"{where}: rows.{name}.choose.space holds {keys_words(chosen)} twice")
        _check_chooser(config_at(base, point, where), choose.by, f"{where}: rows.{name}.choose.by")
        candidates.append(Candidate(next(number), chosen, point))
    shown = {key: candidates[0].point[key] for key in setting}
    return Question(name, shown, choose.by, tuple(candidates))


def _combinations(choose: Choose) -> list[Point]:
    """In the file's order, the last key varying fastest."""
    return [dict(zip(choose.space, values, strict=True)) for values in itertools.product(*choose.space.values())]


def _options(
    base: Config, name: str, row: Row, setting: Point, question: Question | None, where: str
) -> tuple[Point, ...]:
    """The row's point in a setting for each candidate; what a row like another one sets itself is not taken over."""
    if question is None:
        return (_resolved(base, name, row, setting, {}, where),)
    taken = [{k: v for k, v in c.values.items() if k not in row.set} for c in question.candidates]
    return tuple(_resolved(base, name, row, setting, values, where) for values in taken)


def _resolved(base: Config, name: str, row: Row, setting: Point, values: Point, where: str) -> Point:
    """The validated values of all keys that the setting, the row and the choice set."""
    given = {**setting, **row.set, **values}
    place = f"{where}: row {name!r} at {keys_words(setting)}" + (f", {keys_words(values)}" if values else "")
    config = config_at(base, given, place)
    return {key: get_dotted(config, key) for key in given}


# --- checks --------------------------------------------------------------------------------------


def _check(definition: SweepFile, name: str, row: Row, where: str) -> None:
    choose = row.choose
    for section, keys in (("set", row.set), ("choose.space", choose.space if choose else {})):
        for key in keys:
            check_option(key, f"{where}.{section}", "chosen" if section != "set" else "set")
            if key in definition.space:
                raise UsageError(
                    f"{where}.{section}: {key!r} is part of the settings; `only` says which a row is run in"
                )
    _check_settings(definition, row.only, f"{where}.only")
    if choose is not None:
        _check_settings(definition, {key: (value,) for key, value in choose.at.items()}, f"{where}.choose.at")
        both = [key for key in choose.space if key in row.set]
        if both:
            raise UsageError(f"{where}: {both[0]!r} is both set and chosen")
        if not definition.selection_seeds:
            raise UsageError(f"{where}: the row chooses, but the sweep has no selection_seeds")
    shared = sorted({*(row.seeds or definition.seeds)} & {*definition.selection_seeds})
    if shared:
        raise UsageError(
            f"{where}: seed {shared[0]} is one of the selection_seeds; what is chosen is run on fresh seeds"
        )
    if row.like is not None:
        _check_like(definition.rows, name, row, row.like, where)


def _check_settings(definition: SweepFile, given: Mapping[str, Sequence[Any]], where: str) -> None:
    """The keys are axes of the settings and the values are on them."""
    for key, values in given.items():
        if key not in definition.space:
            known = ", ".join(definition.space) or "none"
            raise UsageError(f"{where}: {key!r} is no key of `space`, which has {known}")
        grid = definition.space[key].grid
        for value in values:
            if value not in grid:
                raise UsageError(f"{where}: {key}={value} is not in the grid, which has {', '.join(map(str, grid))}")


def _check_chooser(config: Config, by: str, where: str) -> None:
    """The metric is of a validation split of this data, which the method has not learnt from."""
    from genxai.data.supply import split_names  # the tables read sweep files without it

    splits = split_names(config.data).validation
    split, _, metric = by.partition("/")
    if split not in splits or not metric or metric != metric.strip():
        allowed = " or ".join(f"{name}/<metric>" for name in splits)
        raise UsageError(f"{where}: {by!r} cannot choose: hyper-parameters are chosen on validation data, by {allowed}")
    if metric in LOWER_IS_BETTER:
        raise UsageError(
            f"{where}: {by!r} cannot choose: the largest mean is chosen, and {metric} is better when small"
        )
    learnt = LEARNT_FROM.get(config.method.name, ())
    if split in learnt:
        others = " or ".join(f"{name}/<metric>" for name in splits if name not in learnt)
        raise UsageError(
            f"{where}: {by!r} cannot choose: method.name={config.method.name} learns from {split}, on which its "
            f"values are those of training data; choose by {others}"
        )


def _check_like(rows: Mapping[str, Row], name: str, row: Row, like: str, where: str) -> None:
    choosing = [other for other, candidate in rows.items() if candidate.choose is not None and other != name]
    names = ", ".join(choosing) or "none"
    if like not in rows:
        raise UsageError(f"{where}.like: there is no row {like!r}; rows that choose are {names}")
    choose = rows[like].choose
    if choose is None:
        raise UsageError(f"{where}.like: the row {like!r} chooses nothing itself; rows that choose are {names}")
    if all(key in row.set for key in choose.space):
        raise UsageError(f"{where}: the row sets all that {like!r} chooses, so it takes nothing from it: remove `like`")


def _check_budget(rows: Mapping[str, Row], where: str) -> None:
    """Every row that chooses has as many candidates as the others, so that none has been tuned harder."""
    counts = {name: len(_combinations(row.choose)) for name, row in rows.items() if row.choose is not None}
    if len({*counts.values()}) > 1:
        words = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise UsageError(
            f"{where}: rows: each row that chooses must have equally many candidates, the same budget for all: {words}"
        )
