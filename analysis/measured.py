"""Run directories, and recorded results, as a data frame: one row per run, asked questions by configuration.

Only finished runs have metrics here, so an unfinished one cannot enter a mean; all others are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analysis.conditions import Conditions, configuration_key, flatten, matches, setting_of
from analysis.configuration import Configuration
from analysis.recorded import RecordedRun, read_recorded
from analysis.sweeps import Sweep, read_sweeps
from genxai.config import Config
from genxai.errors import GenxaiError
from genxai.files import read_jsonl
from genxai.runs import Run, State, canonical_json, find_runs
from launch.records import Result, closed_folders, read_failures, read_own_result

if TYPE_CHECKING:
    import pandas as pd

#: seeds that are expected of a run nobody's sweep asked for (the paper repeats everything three times)
USUAL_SEEDS = 3
#: the stage of runs that only choose a value for a row
SELECTION = "selection"


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
        columns = [[matches(value, wanted) for value in self._column(key)] for key, wanted in conditions.items()]
        return self._keep([all(row) for row in zip(*columns, strict=True)]) if columns else self

    def in_folder(self, folder: str) -> Results:
        """The runs kept in RUNS/<folder>."""
        return self._keep([name == folder for name in self._column("folder")])

    def reported(self) -> Results:
        """Without the runs that only chose a value for a row: a mean over them would be of what looked best."""
        return self._keep([stage != SELECTION for stage in self._column("stage")])

    def selecting(self) -> Results:
        """The runs that only chose a value for a row."""
        return self._keep([stage == SELECTION for stage in self._column("stage")])

    @cached_property
    def unnamed(self) -> Results:
        """Without the runs that a sweep made for a row of its own: they answer for that row and for no other."""
        return self._keep([not isinstance(row, str) for row in self._column("row")])

    def signed(self, signatures: Iterable[str]) -> Results:
        """The runs with these signatures."""
        wanted = set(signatures)
        return self._keep([signature in wanted for signature in self._column("signature")])

    def folders(self) -> list[str]:
        """Folders under RUNS with runs in them."""
        return sorted(set(self._column("folder")))

    def sweep_names(self) -> list[str]:
        """Folders that a sweep fills: with a definition, a selection, or runs that name their trial."""
        with_trials = {folder for folder in self.folders() if self.in_folder(folder).frame["trial"].notna().any()}
        return sorted(with_trials | set(self.sweeps))

    def has_rows(self, name: str) -> bool:
        """Whether a sweep fills the rows of a table, which searches nothing: what its rows choose stands there."""
        definition = self.sweeps.get(name, Sweep(name)).definition
        named = any(isinstance(row, str) for row in self.in_folder(name)._column("row"))
        return bool(definition and definition.rows) or named

    def swept_keys(self, name: str) -> list[str]:
        """Dotted keys that a sweep searched, in its own order."""
        definition = self.sweeps.get(name, Sweep(name)).definition
        keys: dict[str, None] = dict.fromkeys(definition.space if definition else ())
        for point in self.in_folder(name)._column("point"):
            keys |= dict.fromkeys(point or ())
        return list(keys)

    def split_by(self, keys: Sequence[str], across: Sequence[str] = ()) -> list[Results]:
        """One part per combination of values of the keys; a key that names a section stands for all below it.

        Keys of `across` are not looked at: runs that differ there stay together.
        """
        parts: dict[str, list[int]] = {}
        for position, config in enumerate(self._column("config")):
            parts.setdefault(canonical_json(setting_of(config, keys, across)), []).append(position)
        return [replace(self, frame=self.frame.iloc[parts[key]]) for key in sorted(parts)]

    def configurations(self) -> list[Configuration]:
        """Runs grouped by everything but the seed; a run kept in two folders counts once."""
        return list(self._configurations)

    @cached_property
    def _configurations(self) -> list[Configuration]:
        if not len(self):
            return []
        asked = self._asked()
        return [
            _configuration(str(key), rows, max(asked[path] for path in rows["path"]))
            for key, rows in self.frame.groupby("key", sort=True)
        ]

    def one_configuration(self, asked: int) -> Configuration | None:
        """These runs as the seeds of one configuration; None if there are none."""
        return _configuration(str(self.frame["key"].iloc[0]), self.frame, asked) if len(self) else None

    def _column(self, name: str) -> list[Any]:
        return list(self.frame[name]) if len(self) else []

    def _keep(self, wanted: Sequence[bool]) -> Results:
        return replace(self, frame=self.frame[list(wanted)]) if len(self) else self

    def _asked(self) -> dict[str, int]:
        """Seeds asked of each run's configuration: what its sweep says, else what the fullest sibling has."""
        asked: dict[str, int] = {}
        for folder, siblings in self.frame.groupby("folder"):
            most = int(siblings.groupby("key")["seed"].nunique().max())
            sweep = self.sweeps.get(str(folder))
            columns = (siblings[name] for name in ("path", "trial", "stage", "row"))
            for path, trial, stage, row in zip(*columns, strict=True):
                if trial is None:
                    asked[path] = USUAL_SEEDS
                else:
                    asked[path] = sweep.asked(stage == SELECTION, row) if sweep and sweep.definition else most
        return asked


_PRECEDENCE = {State.DONE: 0, State.STARTED: 1, State.FAILED: 2, State.PENDING: 3}


def _configuration(key: str, rows: pd.DataFrame, asked: int) -> Configuration:
    """One row per seed: the finished copy of a run stands for unfinished ones."""
    ranked = rows.assign(rank=[_PRECEDENCE[state] for state in rows["state"]]).sort_values(["rank", "path"])
    unique = ranked.drop_duplicates("seed").sort_values("seed")
    return Configuration(key, unique, asked, frozenset(rows["folder"]))


def load_runs(root: Path) -> Results:
    """Every run under RUNS, as a run directory or as `analysis/record.py` writes them; none if the folder is missing.

    A run that cannot be read is left out and named in `problems`. Raises GenxaiError if RUNS itself cannot be read, or
    all that is there is closed.
    """
    import pandas as pd

    problems = [f"{path}: Permission denied" for path in closed_folders(root)]
    found = find_runs(root)
    records = [_recorded(run) for run in read_recorded(root, problems)]
    if problems and not found and not records:
        raise GenxaiError(f"cannot read the runs in {root}: {problems[0]}")
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
    if config.origin and not set(config.origin.point) <= set(_options(config)):
        raise GenxaiError(f"{run.config_file}: origin.point names options that there are not")
    failure = _failure(run) if state is State.FAILED else None
    result = read_own_result(run) if state is State.DONE else None
    return _row(str(run.path), run.sweep, run.signature, config, state, failure, result, _starts(run))


def _recorded(run: RecordedRun) -> dict[str, Any]:
    path = f"{run.folder}/{run.signature}"
    starts = list(run.provenance)
    return _row(path, run.folder, run.signature, run.config, State.DONE, None, run.result, starts)


def _row(
    path: str,
    folder: str,
    signature: str,
    config: Config,
    state: State,
    failure: str | None,
    result: Result | None,
    starts: list[dict[str, Any]],
) -> dict[str, Any]:
    origin = config.origin
    record: dict[str, Any] = {
        "path": path,
        "folder": folder,
        "signature": signature,
        "state": state,
        "failure": failure,
        "key": configuration_key(config),
        "stage": origin.stage if origin else None,
        "trial": origin.trial if origin else None,
        "point": origin.point if origin else None,
        "row": origin.row if origin else None,
        "config": config,
        "seconds": result.seconds if result else None,
        "intervals": result.intervals if result else None,
        "class_counts": result.class_counts if result else None,
        "starts": starts,
    }
    record |= _options(config)
    if result is not None:
        record |= {name: value for name, value in result.metrics.items() if "/" in name}  # never another column's name
    return record


def _options(config: Config) -> dict[str, Any]:
    return flatten(config.model_dump(mode="json", exclude={"origin"}))


def _starts(run: Run) -> list[dict[str, Any]]:
    """What was noted at each (re)start; a table needs no run to have it."""
    try:
        return read_jsonl(run.provenance_file)
    except (GenxaiError, OSError, RecursionError):
        return []


def _failure(run: Run) -> str:
    """The last failure in a few words."""
    failures = read_failures(run)
    return " ".join((failures[-1].exception or "failed").split())[:120] if failures else "failed"
