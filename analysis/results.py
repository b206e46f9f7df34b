"""Run directories as a data frame (one row per run) and as configurations (runs that differ only in seed).

Only finished runs have metrics here, so an unfinished one cannot enter a mean; all others are counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.sweeps import Sweep, read_sweeps
from analysis.verdicts import Sample, plain
from genxai.config import WITHOUT_EFFECT, Config
from genxai.errors import GenxaiError
from genxai.runs import Run, State, canonical_json, find_runs
from launch.records import closed_folders, read_failures, read_result

if TYPE_CHECKING:
    import pandas as pd

#: seeds that are expected of a run nobody's sweep asked for (the paper repeats everything three times)
USUAL_SEEDS = 3

Conditions = Mapping[str, Any]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, limit: value is not None and value > limit,
    "ge": lambda value, limit: value is not None and value >= limit,
    "lt": lambda value, limit: value is not None and value < limit,
    "le": lambda value, limit: value is not None and value <= limit,
    "ne": lambda value, limit: value != limit,
}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "ne": "≠"}


def matches(value: Any, condition: Any) -> bool:
    """Whether a value meets a condition: a value, a list of allowed values, or {gt, ge, lt, le, ne: limit}."""
    if isinstance(condition, Mapping):
        return all(_OPERATORS[name](value, limit) for name, limit in condition.items())
    if isinstance(condition, list | tuple):
        return value in condition
    return value == condition


def in_words(conditions: Conditions) -> str:
    """`model.fusion = cross, objective.lambda_attribution > 0`."""
    parts = []
    for key, condition in conditions.items():
        if isinstance(condition, Mapping):
            parts += [f"{key} {_SIGNS[name]} {plain(limit)}" for name, limit in condition.items()]
        elif isinstance(condition, list | tuple):
            parts.append(f"{key} in {{{', '.join(plain(item) for item in condition)}}}")
        else:
            parts.append(f"{key} = {plain(condition)}")
    return ", ".join(parts)


def condition_problem(condition: Any) -> str | None:
    """Why a condition cannot be used, or None."""
    if isinstance(condition, Mapping):
        unknown = [str(name) for name in condition if name not in _OPERATORS]
        return f"unknown comparison {unknown[0]!r}; allowed: {', '.join(_OPERATORS)}" if unknown else None
    return None


@dataclass(frozen=True)
class Configuration:
    """Runs that differ only in their seed: one row per seed, in every state."""

    key: str
    frame: pd.DataFrame
    asked: int
    folders: frozenset[str]

    def __getitem__(self, dotted: str) -> Any:
        """The configured value at a dotted key."""
        return self.frame[dotted].iloc[0]

    def meets(self, conditions: Conditions) -> bool:
        return all(matches(self[key], condition) for key, condition in conditions.items())

    @cached_property
    def config(self) -> Config:
        return self.frame["config"].iloc[0]

    @cached_property
    def done(self) -> pd.DataFrame:
        return self.frame[self.frame["state"] == State.DONE]

    def differing_keys(self, others: Sequence[Configuration]) -> list[str]:
        """Dotted keys of options in which some of the others have another value."""
        theirs = [effective(other.config) for other in others]
        return [key for key, value in effective(self.config).items() if any(t[key] != value for t in theirs)]

    def signatures(self) -> list[str]:
        """The finished runs that means are taken over."""
        return list(self.done["signature"])

    def sample(self, metric: str, scale: float = 1.0) -> Sample:
        """The finite values of a metric over the finished seeds, times `scale`."""
        return Sample(tuple(self.by_seed(metric, scale).values()), self.asked)

    def by_seed(self, metric: str, scale: float = 1.0) -> dict[int, float]:
        """{seed: scale x value} of the finished seeds that have a finite value."""
        values: Iterable[Any] = self.done.get(metric, ())
        pairs = zip(self.done["seed"], values, strict=False)  # no value at all if no run has the metric
        return {int(seed): scale * float(value) for seed, value in pairs if _is_number(value)}

    def gaps(self, metric: str) -> str | None:
        """Why finished runs have no value of a metric, or None if all have one."""
        lacking = [row for _, row in self.done.iterrows() if not _is_number(row.get(metric))]
        if not lacking:
            return None
        reasons = {row.get(f"{metric}_reason") for row in lacking}
        why = " / ".join(sorted(reason for reason in reasons if isinstance(reason, str))) or "not in result.json"
        return f"No value in {len(lacking)} of {len(self.done)} finished runs: {why}."

    def progress(self) -> str:
        """`2/3 seeds done, 1 failed (NonFiniteError: ...)`: what is there and what is not."""
        counts = self.frame["state"].value_counts()
        parts = [f"{len(self.done)}/{self.asked} seeds done"]
        parts += [f"{counts[state]} {word}" for state, word in _UNFINISHED.items() if state in counts]
        reasons = sorted({text for text in self.frame["failure"] if isinstance(text, str)})
        return ", ".join(parts) + (f" ({'; '.join(reasons)})" if reasons else "")


_UNFINISHED = {State.STARTED: "started", State.FAILED: "failed", State.PENDING: "planned"}


@dataclass(frozen=True)
class Results:
    """A question to the runs: `runs.where({"model.fusion": "cross"}).in_folder("lambda").configurations()`."""

    frame: pd.DataFrame
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)  # what the sweeps' own files say, by folder
    problems: tuple[str, ...] = ()  # files that could not be read

    def __len__(self) -> int:
        return len(self.frame)

    def where(self, conditions: Conditions) -> Results:
        """The runs that meet every condition (see `matches`)."""
        keep = [all(matches(row[key], wanted) for key, wanted in conditions.items()) for row in self._rows()]
        return replace(self, frame=self.frame[keep]) if len(self) else self

    def in_folder(self, folder: str) -> Results:
        """The runs kept in RUNS/<folder>."""
        return replace(self, frame=self.frame[self.frame["folder"] == folder]) if len(self) else self

    def folders(self) -> list[str]:
        """Folders under RUNS with runs in them."""
        return sorted(set(self.frame["folder"])) if len(self) else []

    def split_by(self, keys: Sequence[str]) -> list[Results]:
        """One part per combination of values of the keys; a key that names a section stands for all below it."""
        parts: dict[str, list[int]] = {}
        for position, row in enumerate(self._rows()):
            parts.setdefault(canonical_json(setting(row["config"], keys)), []).append(position)
        return [replace(self, frame=self.frame.iloc[parts[key]]) for key in sorted(parts)]

    def configurations(self) -> list[Configuration]:
        """Runs grouped by everything but the seed; a run kept in two folders counts once."""
        if not len(self):
            return []
        asked = self._asked()
        found = []
        for key, rows in self.frame.groupby("key", sort=True):
            ranked = rows.assign(rank=[_PRECEDENCE[state] for state in rows["state"]]).sort_values(["rank", "path"])
            unique = ranked.drop_duplicates("seed").sort_values("seed")
            kept_in = frozenset(rows["folder"])
            found.append(Configuration(str(key), unique, max(asked[path] for path in rows["path"]), kept_in))
        return found

    def _rows(self) -> list[dict[str, Any]]:
        return [{str(name): value for name, value in row.items()} for row in self.frame.to_dict("records")]

    def _asked(self) -> dict[str, int]:
        """Seeds asked of each run's configuration: what its sweep says, else what the fullest sibling has."""
        asked: dict[str, int] = {}
        for folder, siblings in self.frame.groupby("folder"):
            most = int(siblings.groupby("key")["seed"].nunique().max())
            sweep = self.sweeps.get(str(folder))
            for path, trial in zip(siblings["path"], siblings["trial"], strict=True):
                if trial is None:
                    asked[path] = USUAL_SEEDS
                else:
                    asked[path] = len(sweep.definition.seeds) if sweep and sweep.definition else most
        return asked


_PRECEDENCE = {State.DONE: 0, State.STARTED: 1, State.FAILED: 2, State.PENDING: 3}


def setting(config: Config, keys: Sequence[str]) -> dict[str, Any]:
    """The flat part of a configuration below the given keys or sections."""
    flat = flatten(config.model_dump(mode="json", exclude={"origin"}))
    return {key: value for key, value in flat.items() if any(key == k or key.startswith(f"{k}.") for k in keys)}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def effective(config: Config) -> dict[str, Any]:
    """Everything that can change the result except the seed, under dotted names."""
    return flatten(config.model_dump(mode="json", exclude=WITHOUT_EFFECT | {"seed": True}))


def configuration_key(config: Config) -> str:
    """12 hex digits of `effective`; equal for all seeds of a point."""
    return hashlib.sha256(canonical_json(effective(config)).encode()).hexdigest()[:12]


def load_runs(root: Path) -> Results:
    """Every run under RUNS; none if the folder is missing.

    A run directory that cannot be read is left out and named in `problems`. Raises GenxaiError if RUNS itself
    cannot be read, or all that is there is closed.
    """
    import pandas as pd

    problems = [f"{path}: Permission denied" for path in closed_folders(root)]
    found = find_runs(root)
    if problems and not found:
        raise GenxaiError(f"cannot read the runs in {root}: {problems[0]}")
    records = []
    for run in found:
        try:
            records.append(_record(run))
        except (GenxaiError, OSError) as error:
            problems.append(" ".join(str(error).split()))
    sweeps = read_sweeps(root, problems)
    return Results(pd.DataFrame(records, dtype=object), sweeps, tuple(problems))


def _record(run: Run) -> dict[str, Any]:
    """One row: where, what state, the flat configuration under dotted names, the metrics under split/name."""
    config, state = run.config(), run.state
    origin = config.origin
    record: dict[str, Any] = {
        "path": str(run.path),
        "folder": run.sweep,
        "signature": run.signature,
        "state": state,
        "failure": _failure(run) if state is State.FAILED else None,
        "key": configuration_key(config),
        "stage": origin.stage if origin else None,
        "trial": origin.trial if origin else None,
        "point": origin.point if origin else None,
        "config": config,
    }
    options = flatten(config.model_dump(mode="json", exclude={"origin"}))
    if origin and not set(origin.point) <= set(options):
        raise GenxaiError(f"{run.config_file}: origin.point names options that there are not")
    record |= options
    if state is State.DONE:
        result = read_result(run)
        record |= {name: value for name, value in result.metrics.items() if "/" in name}  # never another column's name
        record["seconds"] = result.seconds
    return record


def _failure(run: Run) -> str:
    """The last failure in a few words."""
    failures = read_failures(run)
    return " ".join((failures[-1].exception or "failed").split())[:120] if failures else "failed"


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value == value and abs(value) != float("inf")
    )
