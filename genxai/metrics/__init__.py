"""Numbers computed from predictions, images and maps; each a function registered under its name.

Names are imported on first use, so that `--help` and the sweep do not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.metrics.baselines import Explained, baseline_metrics, expected_iou
    from genxai.metrics.classification import Predictions, classification_metrics, label_nmi, pair_metrics
    from genxai.metrics.intervals import bootstrap_intervals, mean_intervals, prediction_intervals
    from genxai.metrics.localisation import localisation_metrics, localisation_values, mask_nmi, ssim
    from genxai.metrics.registry import METRICS, Metric, means, metric
    from genxai.metrics.stability import stability_metrics

_HOME = {
    "Explained": "baselines",
    "METRICS": "registry",
    "Metric": "registry",
    "Predictions": "classification",
    "baseline_metrics": "baselines",
    "bootstrap_intervals": "intervals",
    "classification_metrics": "classification",
    "expected_iou": "baselines",
    "label_nmi": "classification",
    "localisation_metrics": "localisation",
    "localisation_values": "localisation",
    "mask_nmi": "localisation",
    "mean_intervals": "intervals",
    "means": "registry",
    "metric": "registry",
    "pair_metrics": "classification",
    "prediction_intervals": "intervals",
    "ssim": "localisation",
    "stability_metrics": "stability",
}

__all__ = [
    "METRICS",
    "Explained",
    "Metric",
    "Predictions",
    "baseline_metrics",
    "bootstrap_intervals",
    "classification_metrics",
    "expected_iou",
    "label_nmi",
    "localisation_metrics",
    "localisation_values",
    "mask_nmi",
    "mean_intervals",
    "means",
    "metric",
    "pair_metrics",
    "prediction_intervals",
    "ssim",
    "stability_metrics",
]

__getattr__ = lazy_exports(__name__, _HOME)
