"""Training: the joint loop, its objectives, checkpoints and stopping. Imported late, since it needs torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genxai.training.objectives import gradient_penalty as gradient_penalty
    from genxai.training.run import Outcome as Outcome
    from genxai.training.run import train as train

_HOME = {"gradient_penalty": "objectives", "Outcome": "run", "train": "run"}
__all__ = ["Outcome", "gradient_penalty", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
