"""Numbers computed from predictions, images and maps; each a function registered under its name.

Names are imported on first use, so that `--help` and the sweep do not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.metrics.classification import Predictions, classification_metrics, counterfactual_flip_rate, label_nmi
    from genxai.metrics.registry import METRICS, Metric, metric
    from genxai.metrics.structure import localisation_metrics, mask_nmi, ssim

_HOME = {
    "METRICS": "registry",
    "Metric": "registry",
    "Predictions": "classification",
    "classification_metrics": "classification",
    "counterfactual_flip_rate": "classification",
    "label_nmi": "classification",
    "localisation_metrics": "structure",
    "mask_nmi": "structure",
    "metric": "registry",
    "ssim": "structure",
}

__all__ = [
    "METRICS",
    "Metric",
    "Predictions",
    "classification_metrics",
    "counterfactual_flip_rate",
    "label_nmi",
    "localisation_metrics",
    "mask_nmi",
    "metric",
    "ssim",
]

__getattr__ = lazy_exports(__name__, _HOME)
