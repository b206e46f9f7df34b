"""What trains a network: one process, DistributedDataParallel, FSDP2 or DeepSpeed, behind one small interface."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Trained(Protocol):
    """One network and its optimiser under some backend.

    Losses are means over this process's share of the global batch; `update` makes of them one step with the gradient
    of the mean over all processes, the same on every process.
    """

    #: the network itself. Passes that are differentiated twice, and passes through a frozen network, use it directly.
    module: nn.Module

    @property
    def parameter_groups(self) -> list[dict[str, Any]]:
        """The optimiser's groups; `lr` may be set at any step."""

    def __call__(self, *inputs: Tensor) -> Any:
        """The forward pass of the step that trains this network."""

    def update(self, loss: Tensor, clip_norm: float | None) -> None:
        """Set gradients to zero, differentiate, average over processes, clip to a global norm, step."""

    def loss_scale(self) -> Tensor | None:
        """What `update` multiplies the loss by before it differentiates (fp16), on the device; None: nothing."""

    def network_state(self) -> dict[str, Tensor]:
        """The whole state_dict, whatever is sharded; to be called by every process."""

    def optimizer_state(self) -> dict[str, Any]:
        """The whole state in torch's own format, keyed by parameter number; to be called by every process."""

    def scaler_state(self) -> dict[str, Any] | None:
        """The loss scaler's state (fp16); None without one."""

    def load(self, network: dict[str, Tensor], optimizer: dict[str, Any], scaler: dict[str, Any] | None) -> None:
        """Put back what these gave, at this or any other number of processes and under any backend."""
