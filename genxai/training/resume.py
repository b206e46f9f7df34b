"""What must be saved so that a run goes on as if nothing had happened, and putting it back."""

from __future__ import annotations

import logging
import os
import random
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genxai.errors import CheckpointError
from genxai.runs import Run, State
from genxai.training import checkpoints
from genxai.training.experiment import Experiment
from genxai.training.publisher import Publisher

log = logging.getLogger(__name__)
#: options of an optimiser that say which kernels it uses and not what it computes
EXECUTION = {"fused", "foreach", "capturable"}


@dataclass
class LoopState:
    """Where the loop is. Everything else it needs is a function of the configuration."""

    step: int = 0  # generator steps finished
    best_accuracy: float | None = None  # val/accuracy of the kept classifier
    best_epoch: int = 0
    stale: int = 0  # evaluations since the best one
    stopped_early: bool = False
    seconds: float = 0.0  # of training so far, over all starts
    steps_redone: int = 0  # computed again because a kill lost them
    best: dict[str, torch.Tensor] | None = None  # the kept classifier


def save(
    run: Run,
    experiment: Experiment,
    state: LoopState,
    networks: dict[str, dict[str, torch.Tensor]],
    publisher: Publisher | None,
) -> None:
    """Have a checkpoint of the loop published at a step boundary; to be called by every process.

    networks: the whole state_dict of every network. publisher: the first process's; None on the others.
    """
    optimizers = {name: trained.optimizer_state() for name, trained in experiment.trained.items()}
    if publisher is None:
        return
    publisher.publish(
        state.step,
        {
            "signature": run.signature,
            "modules": networks,
            "optimizers": optimizers,
            "scalers": {name: trained.scaler_state() for name, trained in experiment.trained.items()},
            "loop": {field.name: getattr(state, field.name) for field in fields(state)},
            "method": experiment.method.state_dict(),
            "random": random_state(),
            "lengths": {path.name: _length(path) for path in _appended(run)},
        },
    )


def restore(run: Run, experiment: Experiment) -> LoopState:
    """The loop as last checkpointed, or at step 0; lines written after the checkpoint are cut off and redone.

    A checkpoint may have been written by any number of processes and under any backend.
    """
    try:
        found = checkpoints.latest(run.checkpoints, lambda state: _lost_lines(run, state))
    except CheckpointError as problem:
        log.warning("%s; starting from step 0, which gives the same run", problem)
        found = None
    path = found[1].name if found else None
    if any(experiment.processes.any(experiment.processes.share(path) != path)):
        raise CheckpointError(f"{run.checkpoints}: not every process of the run sees the same checkpoints")
    if found is None:
        _truncate(run, experiment, {})
        return LoopState()
    saved, _ = found
    if saved["signature"] != run.signature:
        raise CheckpointError(
            f"{run.checkpoints / str(path)} belongs to run {saved['signature']}, not to this one; remove "
            f"{run.checkpoints}"
        )
    for name, trained in experiment.trained.items():
        for group in saved["optimizers"][name]["param_groups"]:
            # how steps are executed is this start's business: sharded parameters know no fused SGD
            group |= {key: trained.parameter_groups[0][key] for key in EXECUTION & trained.parameter_groups[0].keys()}
        trained.load(saved["modules"][name], saved["optimizers"][name], saved["scalers"][name])
    if experiment.generation is not None:
        experiment.average.load_state_dict(saved["modules"]["average"])
    experiment.method.load_state_dict(saved["method"])
    experiment.weigh_samples()
    restore_random_state(saved["random"])
    _truncate(run, experiment, saved["lengths"])
    state = LoopState(**saved["loop"])
    log.info("resumed from %s at step %d", path, state.step)
    return state


def kept_classifier(run: Run) -> dict[str, torch.Tensor]:
    """Weights of the classifier that the newest intact checkpoint keeps: the best evaluated so far, else the current.

    Raises CheckpointError when there is no checkpoint.
    """
    found = checkpoints.latest(run.checkpoints)
    if found is None:
        if run.state is State.DONE:
            raise CheckpointError(
                f"{run.path} has ended and its checkpoints were not kept; to have it computed again, remove "
                f"{run.result_file} and start it with launch/train.py {run.path}"
            )
        raise CheckpointError(f"{run.path} has no checkpoint yet; start it with launch/train.py {run.path}")
    saved, _ = found
    weights: dict[str, torch.Tensor] = saved["loop"]["best"] or saved["modules"]["classifier"]
    return weights


def random_state() -> dict[str, Any]:
    """All global generators. The loop reseeds them each step; what else may draw from them is kept in step too."""
    # the global numpy generator is what a foreign library would draw from
    version, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    python = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [str(version), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [python[0], list(python[1]), python[2]],
    }


def restore_random_state(saved: dict[str, Any]) -> None:
    """Put back what `random_state` took; GPU generators only as far as this machine has GPUs."""
    torch.set_rng_state(saved["torch"])
    if torch.cuda.is_available():
        for device, value in zip(range(torch.cuda.device_count()), saved["cuda"], strict=False):
            torch.cuda.set_rng_state(value, device)
    version, keys, position, has_gauss, gauss = saved["numpy"]
    np.random.set_state((version, keys.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, keys, gauss = saved["python"]
    random.setstate((version, tuple(keys), gauss))


def _appended(run: Run) -> tuple[Path, ...]:
    return run.metrics_file, run.ledger_file


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lost_lines(run: Run, saved: dict[str, Any]) -> str:
    """What is missing of the files that a checkpoint continues; empty if nothing is. A disk may lose what it has."""
    if saved["signature"] != run.signature:
        return ""  # nothing of this run; whoever asked refuses it
    short = [path.name for path in _appended(run) if _length(path) < saved["lengths"].get(path.name, 0)]
    return f"{' and '.join(short)} lost lines that were there at the checkpoint" if short else ""


def _truncate(run: Run, experiment: Experiment, lengths: dict[str, int]) -> None:
    if not experiment.processes.first:
        return
    for path in _appended(run):
        length = lengths.get(path.name, 0)
        if _length(path) > length:
            os.truncate(path, length)
