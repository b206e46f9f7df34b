"""What the sharded backends share: forward passes past every engine, no loss scaling, one rule for clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

#: against division by zero when a norm is clipped, as in torch.nn.utils.clip_grad_norm_
SMALLEST_NORM = 1e-6

Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


class Sharded:
    """The part of `Trained` that does not depend on what is sharded. Subclasses set the attributes."""

    module: nn.Module
    _optimizer: Any
    _autocast: Autocast

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        return self._optimizer.param_groups

    def __call__(self, *inputs: Tensor) -> Any:
        with self._autocast():
            return self.module(*inputs)

    def loss_scale(self) -> Tensor | None:
        return None

    def scaler_state(self) -> dict[str, Any] | None:
        return None


def clip_factor(norm: Tensor, clip_norm: float) -> Tensor:
    """What gradients of this norm [] are multiplied by, on the device."""
    return (clip_norm / (norm + SMALLEST_NORM)).clamp(max=1.0)
