"""One process, or DistributedDataParallel: every process holds the whole network.

Precision and loss scaling are Accelerate's.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn


class Replicated:
    """`Trained` with the network copied to every process.

    One backward per update: two would be averaged by DistributedDataParallel only in part (docs/scaling.md).
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
        self.module, self._accelerator = module, accelerator
        # what Accelerate makes of them: autocast around forward, gradients averaged in backward, steps under a scaler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # a new name of broadcast_buffers that torch 2.11 lacks
            self._wrapped, self._optimizer = accelerator.prepare(module, optimizer)

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def __call__(self, *inputs: Tensor) -> Any:
        return self._wrapped(*inputs)

    def update(self, loss: Tensor, clip_norm: float | None) -> None:
        self._optimizer.zero_grad()
        self._accelerator.backward(loss)
        if clip_norm is not None:
            # not accelerator.clip_grad_norm_: under fp16 it unscales the stale gradients of the other optimisers too
            self._accelerator.unscale_gradients(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm)
        self._optimizer.step()

    def loss_scale(self) -> Tensor | None:
        scaler = self._accelerator.scaler
        if scaler is None:
            return None
        return scaler.scale(torch.ones((), device=self._accelerator.device))

    def network_state(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def optimizer_state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load(self, network: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        self.module.load_state_dict(network)
        self._optimizer.load_state_dict(optimizer)
