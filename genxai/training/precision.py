"""Mixed precision: what runs in half precision, and the loss scaling that fp16 needs.

Half precision comes from autocast alone. Weights, the gradient penalty, and of an explained pass what lies between the
map and the score, which is differentiated twice, are IEEE float32 always.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Literal

import torch

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The precision of a run on its device."""

    kind: Literal["fp32", "bf16", "fp16"]
    device: torch.device

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Where forward passes of the networks run."""
        if self.kind == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_HALF[self.kind])

    def scaler(self) -> torch.amp.GradScaler | None:
        """A new loss scaler, one per network, for fp16 (Micikevicius et al. 2018): its gradients underflow without."""
        return torch.amp.GradScaler(self.device.type) if self.kind == "fp16" else None


def compute_in_float32() -> None:
    """float32 means IEEE float32, also in convolutions on a GPU, where cuDNN would take TF32 by default."""
    # by the older names: after the newer ones torch refuses to have the older read, which torch itself does in places
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
