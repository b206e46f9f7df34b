"""Networks: generator and critic, image and text encoders, and the classifier that fuses them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genxai.models.fusion import FusionClassifier, Prediction
    from genxai.models.gan import Critic, Generator, update_ema
    from genxai.models.normalization import frozen_statistics

_HOMES = {
    "Critic": "gan",
    "FusionClassifier": "fusion",
    "Generator": "gan",
    "Prediction": "fusion",
    "frozen_statistics": "normalization",
    "update_ema": "gan",
}

__all__ = ["Critic", "FusionClassifier", "Generator", "Prediction", "frozen_statistics", "update_ema"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that importing the package does not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
