"""The Optuna study of a sweep as a Journal file, for optuna-dashboard: a cache that follows the run directories.

It grows by appending as long as what it says still holds, so that a dashboard that has it open can read on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from genxai.files import append_jsonl, make_folder, write_atomic
from launch.outcomes import Outcome
from launch.search import as_trial, quiet_optuna, search_space
from launch.sweepdir import SweepDir
from launch.sweepfile import Sweep

if TYPE_CHECKING:
    import optuna


def journal_digest(outcomes: Sequence[Outcome]) -> str:
    """Changes whenever the saved study would."""
    content = [(o.trial.number, o.trial.point, o.state, o.means, o.reasons) for o in outcomes]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def read_digest(folder: SweepDir) -> str:
    """Digest of the study in the journal; empty if there is no journal, or its last line is torn."""
    try:
        with open(folder.journal, "rb") as journal:
            journal.seek(-1, os.SEEK_END)
            return folder.journal_digest.read_text().strip() if journal.read() == b"\n" else ""
    except (OSError, UnicodeDecodeError):
        return ""


def write_journal(folder: SweepDir, sweep: Sweep, outcomes: Sequence[Outcome], digest: str = "") -> None:
    """Bring the Journal file up to these outcomes: append to what there is, or replace it if it says otherwise.

    No lock of Optuna's is taken, so a stale one cannot be in the way; whoever writes holds the sweep's own.
    """
    make_folder(folder.path)
    with quiet_optuna() as optuna:
        space = search_space(optuna, sweep)
        trials = [as_trial(optuna, sweep, outcome, space, _attributes(sweep, outcome)) for outcome in outcomes]
        old = _read(folder)
        journal = _updated(optuna, sweep, trials, old) if old else None
        if journal is not None:
            append_jsonl(folder.journal, *journal.logs[len(old) :])
        else:
            journal = _Logs()
            _study(optuna, sweep, optuna.storages.JournalStorage(journal)).add_trials(trials)
            write_atomic(folder.journal, "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in journal.logs))
    write_atomic(folder.journal_digest, digest)


def _attributes(sweep: Sweep, outcome: Outcome) -> dict[str, Any]:
    """What the dashboard shows beside the values: the exact point, the spread, the runs, the reasons."""
    attributes: dict[str, Any] = {"stage": outcome.trial.stage, "point": json.dumps(outcome.trial.point)}
    attributes["runs"] = " ".join(planned.signature for planned in outcome.trial.runs)
    for objective, sd in zip(sweep.definition.objectives, outcome.sds, strict=False):
        attributes[f"sd {objective.metric}"] = None if math.isnan(sd) else sd
    if outcome.state == "complete":
        attributes["n"] = outcome.n
    if outcome.reasons:
        attributes["reasons"] = "\n".join(outcome.reasons)
    return attributes


@dataclass
class _Logs:
    """A backend of Optuna's JournalStorage in memory: its own opens, locks and syncs the file for every trial."""

    logs: list[dict[str, Any]] = field(default_factory=list)

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs += json.loads(json.dumps(logs))  # as they will be read: states are numbers, nothing is shared


def _read(folder: SweepDir) -> list[dict[str, Any]]:
    """The whole lines of the journal there is; none if it is damaged."""
    try:
        data = folder.journal.read_bytes()
        return [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    except (OSError, ValueError, RecursionError):
        return []


def _study(optuna: Any, sweep: Sweep, storage: optuna.storages.JournalStorage) -> optuna.Study:
    """The sweep's study, made if it is not there."""
    objectives = sweep.definition.objectives
    study = optuna.create_study(
        storage=storage,
        study_name=sweep.name,
        directions=[objective.direction for objective in objectives],
        load_if_exists=True,
    )
    names = [objective.metric for objective in objectives]
    if study.metric_names != names:
        study.set_metric_names(names)
    return study


def _updated(
    optuna: Any, sweep: Sweep, wanted: Sequence[optuna.trial.FrozenTrial], old: Sequence[dict[str, Any]]
) -> _Logs | None:
    """The old journal with what has happened since; None if it cannot be had by appending."""
    journal = _Logs(list(old))
    try:
        storage = optuna.storages.JournalStorage(journal)
        study = _study(optuna, sweep, storage)
        there = study.get_trials(deepcopy=False)
    except Exception:  # whatever a foreign or damaged journal makes Optuna raise, a new one is as good
        return None
    ends = [objective.direction for objective in sweep.definition.objectives]
    if [direction.name.lower() for direction in study.directions] != ends or len(there) > len(wanted):
        return None
    for old_trial, trial in zip(there, wanted, strict=False):
        if (old_trial.params, old_trial.distributions) != (trial.params, trial.distributions):
            return None
        if _says(old_trial, trial):
            continue
        if old_trial.state.is_finished():
            return None  # Optuna never changes a finished trial
        for key, value in trial.user_attrs.items():
            storage.set_trial_user_attr(old_trial._trial_id, key, value)
        if trial.state.is_finished():
            storage.set_trial_state_values(old_trial._trial_id, trial.state, trial.values)
    study.add_trials(wanted[len(there) :])
    return journal


def _says(there: optuna.trial.FrozenTrial, wanted: optuna.trial.FrozenTrial) -> bool:
    """Whether a trial of the journal is as wanted; a person may have added attributes in the dashboard."""
    attributes = {key: there.user_attrs.get(key) for key in wanted.user_attrs}
    return (there.state, there.values, attributes) == (wanted.state, wanted.values, wanted.user_attrs)
