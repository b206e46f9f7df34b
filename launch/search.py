"""The Bayesian stage: Optuna proposes a point as a pure function of the results that trial may know.

Nothing is kept between calls. The study is rebuilt from trial outcomes every time, so what is proposed depends
neither on timing nor on whether the search was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from genxai.configfile import get_dotted
from launch.outcomes import Outcome
from launch.points import Point
from launch.sweepfile import Axis, Sweep, as_choice, clamp, clamped

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
    with quiet_optuna() as optuna:
        study = optuna.create_study(
            directions=[objective.direction for objective in definition.objectives],
            sampler=_sampler(optuna, sweep, number),
        )
        space = search_space(optuna, sweep)
        for outcome in [*outcomes[:visible], *(Outcome(o.trial, "open") for o in outcomes[visible:number])]:
            study.add_trial(as_trial(optuna, sweep, outcome, space))
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


def as_trial(
    optuna: Any, sweep: Sweep, outcome: Outcome, space: dict[str, Any], attributes: dict[str, Any] | None = None
) -> optuna.trial.FrozenTrial:
    """The trial as Optuna sees it. Grid values outside a range are shown at its nearest end (0 on a log scale)."""
    states = optuna.trial.TrialState
    state = {"open": states.RUNNING, "complete": states.COMPLETE, "failed": states.FAIL}[outcome.state]
    axes = sweep.definition.space
    return optuna.trial.create_trial(
        state=state,
        values=list(outcome.means) if state == states.COMPLETE else None,
        params={
            key: _encode(axes[key], value) for key, value in clamped(sweep.definition, outcome.trial.point).items()
        },
        distributions=space,
        user_attrs=attributes,
    )


@contextlib.contextmanager
def quiet_optuna() -> Iterator[Any]:
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
