"""What each backend cannot train, and which one Accelerate's environment asks for.

Free of torch, so that a configuration is refused before any process is started (docs/scaling.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genxai.config import Config


def unsupported(config: Config, backend: str) -> str | None:
    """Why a backend cannot train this configuration; None if it can."""
    if backend.startswith("zero") and config.train.precision == "fp16":
        return (
            "DeepSpeed's fp16 halves the weights too, and the gradient penalty needs them in float32; use "
            "train.precision=bf16 or train.backend=ddp"
        )
    if backend == "zero3" and config.explains:
        return (
            "ZeRO-3 takes weights away between passes, so a loss on attribution maps cannot be differentiated twice; "
            "use zero2, or set revise.enabled=false and objective.lambda_attribution=0"
        )
    if backend == "zero3" and config.method.name == "rrr":
        return (
            "ZeRO-3 takes weights away between passes, so method.name=rrr, a loss on input gradients, cannot be "
            "differentiated twice; use zero2 or ddp"
        )
    if backend == "fsdp2" and config.data.is_text and config.explains:
        return (
            "it shards the text encoder, which attribution to tokens differentiates twice; use ddp, zero1 or zero2, or "
            "set objective.lambda_attribution=0"
        )
    if backend == "fsdp2" and config.model.fusion == "image":
        return (
            "only the text encoder is sharded (the image branch is differentiated twice), and model.fusion=image has "
            "none; use ddp"
        )
    if backend == "fsdp2" and config.train.precision == "fp16":
        return "loss scaling of sharded gradients is not supported; use train.precision=bf16 or train.backend=ddp"
    return None


#: how `accelerate launch` tells a process that it wants one of its own wrappers
ACCELERATE_WRAPPERS = ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP")


def backend_of(environment: Mapping[str, str]) -> str | None:
    """The backend that Accelerate's variables ask for, None if they ask for none. Raises ValueError for a bad stage."""
    deepspeed, fsdp = (environment.get(name, "").lower() == "true" for name in ACCELERATE_WRAPPERS)
    if deepspeed:
        stage = environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
        if stage not in ("0", "1", "2", "3"):
            raise ValueError(f"ACCELERATE_DEEPSPEED_ZERO_STAGE={stage}: DeepSpeed's stages are 0 to 3")
        return "ddp" if stage == "0" else f"zero{stage}"
    return "fsdp2" if fsdp else None
