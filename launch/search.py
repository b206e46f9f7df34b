"""The Bayesian stage: Optuna proposes a point as a pure function of the results that trial may know.

Nothing is kept between calls. The study is rebuilt from trial outcomes every time, so what is proposed depends
neither on timing nor on whether the search was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from genxai.configfile import get_dotted
from genxai.runs import make_folder, write_atomic
from launch.outcomes import Outcome
from launch.sweepdir import SweepDir
from launch.sweepfile import Axis, Point, Sweep, as_choice, clamp, clamped

if TYPE_CHECKING:
    import optuna


def sampler_seed(sweep: str, trial: int) -> int:
    """Seed of the sampler that proposes one trial; the same on every machine."""
    digest = hashlib.sha256(json.dumps([sweep, trial]).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 2**32


def may_propose(number: int, outcomes: Sequence[Outcome], window: int) -> bool:
    """Whether trial `number` can be proposed: all before it are known and 0..number-window have ended."""
    return len(outcomes) >= number and all(o.ended for o in outcomes[: max(0, number - window + 1)])


def propose(sweep: Sweep, outcomes: Sequence[Outcome], number: int) -> Point:
    """The point of trial `number`, given the outcomes of the trials before it (in trial order).

    It knows the results of trials 0..number-window and of no later one, even if they are there; the trials in
    between are shown as running, so that their neighbourhood is avoided (constant liar).
    """
    definition = sweep.definition
    visible = max(0, number - definition.bayes.window + 1)
    with _quiet() as optuna:
        study = optuna.create_study(
            directions=[objective.direction for objective in definition.objectives],
            sampler=_sampler(optuna, sweep, number),
        )
        space = search_space(optuna, sweep)
        for index, outcome in enumerate(outcomes[:number]):
            study.add_trial(_frozen(optuna, sweep, outcome, space, hide=index >= visible))
        trial = study.ask(space)
        axes = definition.space
        return {key: _decode(axes[key], value) for key, value in trial.params.items()}


def _sampler(optuna: Any, sweep: Sweep, number: int) -> optuna.samplers.BaseSampler:
    seed, bayes = sampler_seed(sweep.name, number), sweep.definition.bayes
    if bayes.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=bayes.startup)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=bayes.startup, multivariate=True, constant_liar=True)


def search_space(optuna: Any, sweep: Sweep) -> dict[str, optuna.distributions.BaseDistribution]:
    """Distribution of each key: its range, or the grid's values as choices."""
    space = {}
    for key, axis in sweep.definition.space.items():
        if axis.low is None or axis.high is None:
            space[key] = optuna.distributions.CategoricalDistribution([_encode(axis, value) for value in axis.grid])
        elif isinstance(get_dotted(sweep.base, key), int):
            low, high = math.ceil(axis.low), math.floor(axis.high)
            space[key] = optuna.distributions.IntDistribution(low, high, log=axis.log)
        else:
            space[key] = optuna.distributions.FloatDistribution(axis.low, axis.high, log=axis.log)
    return space


def _encode(axis: Axis, value: Any) -> Any:
    """A value as Optuna stores it: choices as JSON text, numbers of a range as they are."""
    if axis.low is not None:
        return value
    return json.dumps(as_choice(axis, value))


def _decode(axis: Axis, value: Any) -> Any:
    return clamp(axis, value) if axis.low is not None else json.loads(value)


def _frozen(optuna: Any, sweep: Sweep, outcome: Outcome, space: dict[str, Any], hide: bool) -> Any:
    """The trial as Optuna sees it. Grid values outside a range are shown at its nearest end (0 on a log scale)."""
    states = optuna.trial.TrialState
    state = {"open": states.RUNNING, "complete": states.COMPLETE, "failed": states.FAIL}[outcome.state]
    if hide:
        state = states.RUNNING
    axes = sweep.definition.space
    params = {key: _encode(axes[key], value) for key, value in clamped(sweep.definition, outcome.trial.point).items()}
    return optuna.trial.create_trial(
        state=state,
        values=list(outcome.means) if state == states.COMPLETE else None,
        params=params,
        distributions=space,
        user_attrs=_attributes(sweep, outcome) if not hide else {},
    )


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


def journal_digest(outcomes: Sequence[Outcome]) -> str:
    """Changes whenever the saved study would."""
    content = [(o.trial.number, o.trial.point, o.state, o.means, o.reasons) for o in outcomes]
    return hashlib.sha256(repr(content).encode()).hexdigest()


def read_digest(folder: SweepDir) -> str:
    """Digest of the study in the journal; empty if there is no journal."""
    try:
        return folder.journal_digest.read_text().strip() if folder.journal.exists() else ""
    except (OSError, UnicodeDecodeError):
        return ""


def write_journal(folder: SweepDir, sweep: Sweep, outcomes: Sequence[Outcome], digest: str = "") -> None:
    """Save the study as an Optuna Journal file for optuna-dashboard; built aside, then renamed over the old one."""
    make_folder(folder.path)
    temporary = folder.path / f".{folder.journal.name}.{os.getpid()}"
    _remove(temporary)
    definition = sweep.definition
    with _quiet() as optuna:
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        # an absolute path and the open-lock: the symlink lock never recovers on a relative path in a folder
        name = str(temporary.absolute())
        storage = optuna.storages.JournalStorage(JournalFileBackend(name, lock_obj=JournalFileOpenLock(name)))
        try:
            study = optuna.create_study(
                storage=storage,
                study_name=sweep.name,
                directions=[objective.direction for objective in definition.objectives],
            )
            study.set_metric_names([objective.metric for objective in definition.objectives])
            space = search_space(optuna, sweep)
            study.add_trials([_frozen(optuna, sweep, outcome, space, hide=False) for outcome in outcomes])
            os.replace(temporary, folder.journal)
            write_atomic(folder.journal_digest, digest)
        finally:
            _remove(temporary)


def _remove(file: Any) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(file)


@contextlib.contextmanager
def _quiet() -> Iterator[Any]:
    """Optuna, without its log lines and the warnings about features it calls experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        optuna.logging.set_verbosity(before)
