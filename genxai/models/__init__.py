"""Networks: generator and critic, image and text encoders, and the classifier that fuses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.models.fusion import FusionClassifier, Prediction
    from genxai.models.gan import Critic, Generator, update_ema
    from genxai.models.normalization import evaluating, frozen

_HOMES = {
    "Critic": "gan",
    "FusionClassifier": "fusion",
    "Generator": "gan",
    "Prediction": "fusion",
    "evaluating": "normalization",
    "frozen": "normalization",
    "update_ema": "gan",
}

__all__ = ["Critic", "FusionClassifier", "Generator", "Prediction", "evaluating", "frozen", "update_ema"]

__getattr__ = lazy_exports(__name__, _HOMES)
