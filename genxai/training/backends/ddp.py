"""One process, or DistributedDataParallel: every process holds the whole network."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from genxai.training.precision import Precision


class Replicated:
    """`Trained` with the network copied to every process; any precision.

    One backward per update: two would be averaged by DistributedDataParallel only in part (docs/scaling.md).
    """

    def __init__(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision, processes: int
    ) -> None:
        self.module, self._optimizer, self._precision = module, optimizer, precision
        self._scaler = precision.scaler()
        self._averaging = _averaging(module, precision.device) if processes > 1 else module

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def __call__(self, *inputs: Tensor) -> Any:
        with self._precision.autocast():
            return self._averaging(*inputs)

    def update(self, loss: Tensor, clip_norm: float | None) -> None:
        optimizer, scaler = self._optimizer, self._scaler
        optimizer.zero_grad()
        (loss if scaler is None else scaler.scale(loss)).backward()
        if clip_norm is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), clip_norm)
        if scaler is None:
            optimizer.step()
            return
        scaler.step(optimizer)  # skipped where a gradient is not finite, which halves the scale
        scaler.update()

    def loss_scale(self) -> Tensor | None:
        return None if self._scaler is None else self._scaler.scale(torch.ones((), device=self._precision.device))

    def network_state(self) -> dict[str, Tensor]:
        return self.module.state_dict()

    def optimizer_state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def scaler_state(self) -> dict[str, Any] | None:
        return None if self._scaler is None else self._scaler.state_dict()

    def load(self, network: dict[str, Tensor], optimizer: dict[str, Any], scaler: dict[str, Any] | None) -> None:
        self.module.load_state_dict(network)
        self._optimizer.load_state_dict(optimizer)
        if self._scaler is not None and scaler is not None:
            self._scaler.load_state_dict(scaler)


def _averaging(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with gradients averaged over processes. No parameter is ever unused, no buffer needs sending."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a new name of broadcast_buffers that torch 2.11 lacks
        return DistributedDataParallel(
            module,
            device_ids=[device.index] if device.type == "cuda" else None,
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
        )
