"""DeepSpeed ZeRO, one engine per network: optimiser state (stage 1), gradients (2) and weights (3) are partitioned.

Forward passes never go through the engine, only backward and the step do. The engine watches the outputs of its own
forward and takes any gradient of them for the update's; the gradient penalty and Grad-CAM++ take such gradients first.
Its reductions hang on the parameters, so they see every pass.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch import distributed as dist

from genxai import optional
from genxai.errors import NonFiniteError, UsageError
from genxai.training.backends import Trained
from genxai.training.backends.process_group import ensure_process_group
from genxai.training.backends.sharded import Autocast, Sharded, clip_factor

#: elements reduced at a time; the engine allocates a buffer of this size [200 MB in float32]
LARGEST_BUCKET = 50_000_000


def prepare(
    name: str,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    stage: int,
    device: torch.device,
    autocast: Autocast,
) -> Trained:
    """`module` under ZeRO `stage` 1, 2 or 3; to be called by every process, for each network in the same order.

    `optimizer` is torch's own over the float32 parameters of the module, which is on the device; `autocast` is what
    its training forward runs in. Stage 3 takes the weights away between passes, so that nothing can be differentiated
    twice, and `module` gives no attribution maps: only for a network that is trained on plain losses.
    Raises UsageError when DeepSpeed cannot be used on this machine.
    """
    deepspeed = _import_deepspeed(device)
    ensure_process_group(device)
    groups = [list(group["params"]) for group in optimizer.param_groups]  # DeepSpeed puts its partitions there
    engine = _engine(deepspeed, module, optimizer, stage, device)
    if stage == 3:
        return _PartitionedWeights(name, module, engine, groups, autocast, deepspeed.zero.GatheredParameters)
    return _Partitioned(name, module, engine, groups, autocast)


def _import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, set to the device, without its talk and without compiling anything."""
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"  # read when it is imported; it would take a GPU that it sees
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    deepspeed = optional.load("deepspeed", "train.backend=zero1, zero2 or zero3", "use train.backend=ddp")
    accelerator = importlib.import_module("deepspeed.accelerator").get_accelerator()
    if accelerator.device_name() != device.type:
        raise UsageError(
            f"DeepSpeed has chosen {accelerator.device_name()!r}, the run {device.type!r}; "
            f"set DS_ACCELERATOR={device.type} in the environment"
        )
    if device.type == "cpu":
        # an all-reduce for inference, which every process would compile: half a minute and a C++ compiler
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*deprecated", category=FutureWarning, module="torch.distributed")
    return deepspeed


def _engine(
    deepspeed: Any, module: nn.Module, optimizer: torch.optim.Optimizer, stage: int, device: torch.device
) -> Any:
    parameters = list(module.parameters())
    zero: dict[str, Any] = {
        "stage": stage,
        "reduce_bucket_size": min(LARGEST_BUCKET, sum(parameter.numel() for parameter in parameters)),
        "contiguous_gradients": True,
        "overlap_comm": False,  # with it, stages 1 and 2 wait for the device in every backward
    }
    if stage == 3:
        # the replacement it has for every linear layer of the process cannot be differentiated twice
        zero |= {"memory_efficient_linear": False}
    else:
        zero |= {"compute_grad_norm": False}  # it would wait for the device and skip an update that is not finite
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # of its statistics only
        "gradient_accumulation_steps": 1,
        "gradient_clipping": 0.0,  # its default is not 0
        "communication_data_type": "fp32",
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # SGD; tests/training/backends is the test
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},
    }
    with _without_broadcast_of_scalars(parameters):
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    if stage < 3:
        # they only run timers, and a copy of the module would share them
        engine.module_forward_pre_hook.remove()
        engine.module_forward_post_hook.remove()
    return engine


@contextlib.contextmanager
def _without_broadcast_of_scalars(parameters: list[nn.Parameter]) -> Any:
    """DeepSpeed 0.19 cannot broadcast a 0-dimensional parameter; every process has initialised it alike anyway."""
    scalars = [parameter for parameter in parameters if parameter.dim() == 0]
    for parameter in scalars:
        dist.broadcast(parameter.data, src=0)
        parameter.ds_optim_param = True  # type: ignore[attr-defined]  # the mark of what is not to be broadcast
    try:
        yield
    finally:
        for parameter in scalars:
            del parameter.ds_optim_param  # type: ignore[attr-defined]


class _Part(NamedTuple):
    """Where this process keeps a piece of a parameter: flat[start : start + numel] is parameter[first : ...]."""

    flat: Tensor
    start: int
    first: int
    numel: int


class _Partitioned(Sharded):
    """`Trained` under ZeRO-1 or ZeRO-2: every process has all weights and updates a part of them."""

    def __init__(
        self, name: str, module: nn.Module, engine: Any, groups: list[list[nn.Parameter]], autocast: Autocast
    ) -> None:
        self.name, self.module = name, module
        self._engine, self._groups, self._autocast = engine, groups, autocast
        self._parameters = [parameter for group in groups for parameter in group]
        self._zero = engine.optimizer  # DeepSpeed's, which partitions
        self._optimizer: torch.optim.Optimizer = engine.basic_optimizer  # torch's, over this process's partition

    def update(self, loss: Tensor, clip_norm: float | None) -> None:
        """See `Trained`. Raises RuntimeError for gradients of another backward pass, which DeepSpeed would add."""
        if self._zero.ready_for_gradients:
            raise RuntimeError(
                f"a backward pass outside update has reached the parameters of {self.name}: set requires_grad_(False) "
                "for passes that train another network"
            )
        self._engine.backward(loss)
        if clip_norm is not None:
            self._clip(clip_norm)
        self._engine.step()

    def _clip(self, clip_norm: float) -> None:
        """As torch.nn.utils.clip_grad_norm_ of the averaged gradient, of which each process has a part."""
        parts = [part for group in self._zero.averaged_gradients.values() for part in group]
        square = torch.nn.utils.get_total_norm(parts).square()
        dist.all_reduce(square)
        torch._foreach_mul_(parts, clip_factor(square.sqrt(), clip_norm))

    def network_state(self) -> dict[str, Tensor]:
        # copies: the weights are views of one buffer
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def optimizer_state(self) -> dict[str, Any]:
        state = {number: self._whole_state(parameter) for number, parameter in enumerate(self._parameters)}
        numbers = iter(range(len(self._parameters)))
        return {
            "state": {number: entries for number, entries in state.items() if entries},
            "param_groups": [
                {**options, "params": [next(numbers) for _ in group]}
                for options, group in zip(self.parameter_groups, self._groups, strict=True)
            ],
        }

    def load(self, network: dict[str, Tensor], optimizer: dict[str, Any], scaler: dict[str, Any] | None) -> None:
        self._load_network(network)
        for group, saved in zip(self.parameter_groups, optimizer["param_groups"], strict=True):
            group.update({key: value for key, value in saved.items() if key != "params"})
        self._optimizer.state.clear()
        for number, parameter in enumerate(self._parameters):
            self._set_state(parameter, optimizer["state"].get(number, {}))

    def _load_network(self, network: dict[str, Tensor]) -> None:
        self.module.load_state_dict(network)
        self._zero.refresh_fp32_params()  # the partition that is updated is a copy

    def _part(self, parameter: nn.Parameter) -> _Part:
        group = next(index for index, group in enumerate(self._groups) if any(member is parameter for member in group))
        flat, mapping = self._zero.single_partition_of_fp32_groups[group], parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # all of it is other processes'
            return _Part(flat, 0, 0, 0)
        inside, address = mapping.lp_fragment_address, mapping.hp_fragment_address
        return _Part(flat, address.start, inside.start, inside.numel)

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return parameter.shape

    def _whole_state(self, parameter: nn.Parameter) -> dict[str, Any]:
        """The optimiser's state of one parameter: its pieces from all processes, and what is not per element."""
        part, shape = self._part(parameter), self._shape(parameter)
        whole: dict[str, Any] = {}
        for key, value in self._optimizer.state.get(part.flat, {}).items():
            if isinstance(value, Tensor) and value.shape == part.flat.shape:
                pieces = torch.zeros(shape.numel(), dtype=value.dtype, device=value.device)
                pieces[part.first : part.first + part.numel] = value[part.start : part.start + part.numel]
                dist.all_reduce(pieces)
                whole[key] = pieces.view(shape).cpu()  # one at a time: what was sharded need not fit on the device
            else:
                whole[key] = value.clone() if isinstance(value, Tensor) else value
        return whole

    def _set_state(self, parameter: nn.Parameter, whole: dict[str, Any]) -> None:
        part, shape = self._part(parameter), self._shape(parameter)
        for key, value in whole.items():
            state = self._optimizer.state[part.flat]
            if isinstance(value, Tensor) and value.shape == shape and key != "step":
                if key not in state:
                    state[key] = torch.zeros_like(part.flat, requires_grad=False)
                piece = value.flatten()[part.first : part.first + part.numel]
                state[key][part.start : part.start + part.numel] = piece.to(part.flat.device)
            elif key == "step" and isinstance(value, Tensor):
                # a fused optimiser counts on the device
                fused = any(group.get("fused") or group.get("capturable") for group in self.parameter_groups)
                state[key] = value.clone().to(part.flat.device) if fused else value.clone().cpu()
            else:
                state[key] = value


class _PartitionedWeights(_Partitioned):
    """`Trained` under ZeRO-3: weights are gathered for each layer's pass and taken away after it.

    Unlike the rest, an update waits for the device: DeepSpeed asks whether the gradient's norm is finite.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        engine: Any,
        groups: list[list[nn.Parameter]],
        autocast: Autocast,
        gathered: Callable[..., contextlib.AbstractContextManager[None]],
    ) -> None:
        super().__init__(name, module, engine, groups, autocast)
        self._gathered = gathered

    def update(self, loss: Tensor, clip_norm: float | None) -> None:
        self._zero.clip_grad = clip_norm or 0.0
        self._engine.backward(loss)
        self._engine.step()
        if self._zero.overflow:  # it has skipped the update and would go on so for ever
            raise NonFiniteError(f"gradient of {self.name}", self._engine.global_steps)

    def network_state(self) -> dict[str, Tensor]:
        with self._gathered(self._parameters):
            return super().network_state()

    def _load_network(self, network: dict[str, Tensor]) -> None:
        with self._gathered(self._parameters, modifier_rank=0):
            self.module.load_state_dict(network)
        self._zero.refresh_fp32_params()

    def _part(self, parameter: nn.Parameter) -> _Part:
        group, start, numel = self._zero.grad_position[self._zero.get_param_id(parameter)]
        first = dist.get_rank() * numel  # equal pieces, the last ones padded
        own = max(0, min(numel, self._shape(parameter).numel() - first))
        return _Part(self._zero.fp32_partitioned_groups_flat[group], start, first, own)

    def _shape(self, parameter: nn.Parameter) -> torch.Size:
        return torch.Size(parameter.ds_shape)  # type: ignore[attr-defined]
