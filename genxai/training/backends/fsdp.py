"""FSDP2 for the classifier: its text encoder is sharded layer by layer, the rest is whole on every process.

The image branch and the fusion are differentiated twice, which fully_shard cannot do: it frees weights after their
first backward. A loss on attribution maps passes through the text encoder once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from genxai.training.backends import Trained
from genxai.training.backends.process_group import ensure_process_group
from genxai.training.backends.sharded import Sharded, clip_factor


def prepare(
    module: nn.Module,
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    *,
    device: torch.device,
    autocast: Callable[[], contextlib.AbstractContextManager[Any]],
) -> Trained:
    """A `FusionClassifier` with a text encoder, its text encoder sharded; to be called by every process.

    make_optimizer: torch's optimiser over the parameters, in one group; called after sharding, which replaces them.
    autocast: what the training forward runs in. Weights and their gradients are float32.
    Passes of `module` gather the text encoder's weights, so every process has to make the same ones.
    """
    ensure_process_group(device)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    text_encoder = module.get_submodule("text_encoder")
    # after every forward, or a pass through the frozen network leaves weights behind that stay frozen
    for blocks in [part for part in text_encoder.modules() if isinstance(part, nn.ModuleList)]:
        for block in blocks:
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(text_encoder, mesh=mesh, reshard_after_forward=True)
    return _TextSharded(module, make_optimizer(list(module.parameters())), autocast)


class _TextSharded(Sharded):
    """`Trained` with some parameters sharded (DTensor) and the others whole."""

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, autocast: Callable[[], contextlib.AbstractContextManager[Any]]
    ) -> None:
        self.module, self._optimizer, self._autocast = module, optimizer, autocast
        self._parameters = list(module.parameters())
        self._sharded = [parameter for parameter in self._parameters if isinstance(parameter, DTensor)]
        self._whole = [parameter for parameter in self._parameters if not isinstance(parameter, DTensor)]
        # a fused optimiser takes a group at a time, and cannot take both kinds at once
        (group,) = optimizer.param_groups
        group["params"] = self._whole
        optimizer.add_param_group({**group, "params": self._sharded})

    def update(self, loss: Tensor, clip_norm: float | None) -> None:
        self._optimizer.zero_grad()
        loss.backward()  # FSDP2 averages the shards' gradients
        whole = [parameter.grad for parameter in self._whole if parameter.grad is not None]
        self._average(whole)
        if clip_norm is not None:
            self._clip(whole, clip_norm)
        self._optimizer.step()

    def _average(self, gradients: list[Tensor]) -> None:
        """The mean over processes, in place, in one all-reduce."""
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= dist.get_world_size()
        means = together.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [mean.view_as(gradient) for mean, gradient in zip(means, gradients, strict=True)]
        )

    def _clip(self, whole: list[Tensor], clip_norm: float) -> None:
        """As torch.nn.utils.clip_grad_norm_ of the unsharded network."""
        shards = [_local(parameter.grad) for parameter in self._sharded if parameter.grad is not None]
        square = torch.nn.utils.get_total_norm(shards).square()
        dist.all_reduce(square)
        norm = (square + torch.nn.utils.get_total_norm(whole).square()).sqrt()
        torch._foreach_mul_(whole + shards, clip_factor(norm, clip_norm))

    def network_state(self) -> dict[str, Tensor]:
        return {name: _unsharded(value) for name, value in self.module.state_dict().items()}

    def optimizer_state(self) -> dict[str, Any]:
        options = {key: value for key, value in self.parameter_groups[0].items() if key != "params"}
        states = {number: self._optimizer.state.get(parameter) for number, parameter in enumerate(self._parameters)}
        return {
            "state": {
                # one at a time: what was sharded need not fit on the device
                number: {
                    key: value.cpu() if isinstance(value := _unsharded(held), Tensor) else value
                    for key, held in state.items()
                }
                for number, state in states.items()
                if state
            },
            "param_groups": [{**options, "params": list(range(len(self._parameters)))}],
        }

    def load(self, network: dict[str, Tensor], optimizer: dict[str, Any], scaler: dict[str, Any] | None) -> None:
        targets = self.module.state_dict()
        self.module.load_state_dict({name: _like(targets.get(name), value) for name, value in network.items()})
        # numbered by group: first the whole parameters, then the sharded ones
        number_of = {parameter: number for number, parameter in enumerate(self._parameters)}
        order = [*self._whole, *self._sharded]
        state = {
            number: {key: _like(parameter, value) for key, value in saved.items()}
            for number, parameter in enumerate(order)
            if (saved := optimizer["state"].get(number_of[parameter]))
        }
        (options,) = optimizer["param_groups"]
        numbers = list(range(len(self._whole))), list(range(len(self._whole), len(order)))
        groups = [{**options, "params": group} for group in numbers]
        self._optimizer.load_state_dict({"state": state, "param_groups": groups})


def _local(gradient: Tensor) -> Tensor:
    """This process's shard; a view."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient


def _unsharded(value: Any) -> Any:
    if isinstance(value, DTensor):
        return value.full_tensor().detach()
    return value.detach().clone() if isinstance(value, Tensor) else value


def _like(target: Tensor | None, value: Any) -> Any:
    """`value` sharded as `target` is, if it has an entry for each of its elements; no process sends anything."""
    if not isinstance(target, DTensor) or not isinstance(value, Tensor) or value.shape != target.shape:
        return value
    return distribute_tensor(value.to(target.device), target.device_mesh, target.placements, src_data_rank=None)
