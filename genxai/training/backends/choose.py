"""Which backend a run uses, and its networks under it.

`train.backend` says so, or what `accelerate launch` or a Slurm profile have put into the environment.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping

from accelerate import Accelerator
from torch import nn

from genxai.config import ACCELERATE_WRAPPERS, Config, backend_of, unsupported
from genxai.errors import UsageError
from genxai.training.backends import Trained
from genxai.training.backends.ddp import Replicated
from genxai.training.optimizers import make_optimizer


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
    backend: str, modules: Mapping[str, nn.Module], config: Config, accelerator: Accelerator
) -> dict[str, Trained]:
    """Each network with its optimiser under the backend, or under what of it the network can stand.

    Networks that are differentiated twice keep whole weights: under fsdp2 and zero3 that is all but the classifier.
    """
    trained: dict[str, Trained] = {}
    for name, module in modules.items():
        make: Callable[[], contextlib.AbstractContextManager[None]] = accelerator.autocast
        if backend == "fsdp2" and name == "classifier":
            from genxai.training.backends import fsdp

            trained[name] = fsdp.prepare(
                module,
                lambda parameters: make_optimizer("classifier", parameters, config.train),
                device=accelerator.device,
                autocast=make,
            )
        elif backend.startswith("zero"):
            from genxai.training.backends import zero

            stage = int(backend[-1]) if name == "classifier" else min(2, int(backend[-1]))
            optimizer = make_optimizer(name, module.parameters(), config.train)
            trained[name] = zero.prepare(name, module, optimizer, stage=stage, device=accelerator.device, autocast=make)
        else:
            trained[name] = Replicated(module, make_optimizer(name, module.parameters(), config.train), accelerator)
    return trained
