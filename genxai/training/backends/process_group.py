"""The process group that sharding backends communicate in."""

from __future__ import annotations

import torch
from torch import distributed as dist


def ensure_process_group(device: torch.device) -> None:
    """Use the launcher's group, or make one of this process alone: DeepSpeed and FSDP2 do not work without any.

    A run that began on several GPUs may go on, with the same configuration, on one.
    """
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
