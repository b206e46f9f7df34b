"""Which backend a run uses, and its networks under it.

`train.backend` says so, or what `accelerate launch` or a Slurm profile have put into the environment.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from torch import nn

from genxai.backend_rules import ACCELERATE_WRAPPERS, backend_of, unsupported
from genxai.config import Config
from genxai.errors import UsageError
from genxai.training.backends import Trained
from genxai.training.backends.ddp import Replicated
from genxai.training.optimizers import make_optimizer
from genxai.training.precision import Precision


def choose_backend(config: Config, environment: Mapping[str, str] | None = None) -> str:
    """'ddp', 'fsdp2', 'zero1', 'zero2' or 'zero3'.

    Raises UsageError when the configuration and the launcher disagree, or the launcher's choice cannot train this.
    """
    environment = os.environ if environment is None else environment
    try:
        launcher = backend_of(environment)
    except ValueError as error:
        raise UsageError(str(error)) from None
    named = config.train.backend
    if launcher and named not in ("auto", launcher):
        raise UsageError(f"train.backend={named}, but the launcher was told to use {launcher}: make them agree")
    backend = (launcher or "ddp") if named == "auto" else named
    reason = unsupported(config, backend)
    if reason:
        raise UsageError(f"the launcher asks for {backend}: {reason}")
    return backend


def keep_accelerate_out() -> None:
    """Have Accelerate not wrap everything in one engine of its own: each network gets the wrapper it can stand."""
    for name in ACCELERATE_WRAPPERS:
        os.environ.pop(name, None)


def prepare(
    backend: str, modules: Mapping[str, nn.Module], config: Config, precision: Precision, processes: int
) -> dict[str, Trained]:
    """Each network with its optimiser under the backend, or under what of it the network can stand.

    Networks that are differentiated twice keep whole weights: under fsdp2 and zero3 that is all but the classifier.
    """
    trained: dict[str, Trained] = {}
    for name, module in modules.items():
        make = functools.partial(make_optimizer, name, train=config.train)
        if backend == "fsdp2" and name == "classifier":
            from genxai.training.backends import fsdp

            make = functools.partial(make, sharded=True)
            trained[name] = fsdp.prepare(module, make, device=precision.device, autocast=precision.autocast)
        elif backend.startswith("zero"):
            from genxai.training.backends import zero

            stage = int(backend[-1]) if name == "classifier" else min(2, int(backend[-1]))
            trained[name] = zero.prepare(
                name,
                module,
                make(module.parameters()),
                stage=stage,
                device=precision.device,
                autocast=precision.autocast,
            )
        else:
            trained[name] = Replicated(module, make(module.parameters()), precision, processes)
    return trained
