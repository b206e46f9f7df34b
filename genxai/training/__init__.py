"""Training: the joint loop, its objectives, checkpoints and stopping. Imported late, since it needs torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.training.objectives import gradient_penalty as gradient_penalty
    from genxai.training.run import Outcome as Outcome
    from genxai.training.run import train as train

_HOME = {"gradient_penalty": "objectives", "Outcome": "run", "train": "run"}
__all__ = ["Outcome", "gradient_penalty", "train"]

__getattr__ = lazy_exports(__name__, _HOME)
