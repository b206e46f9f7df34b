"""Bias descriptors B(x), the regulariser R_bias, and the pieces of Reveal-to-Revise.

Names are imported on first use, so that `--help` and the sweep do not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.fairness.bias import (
        BiasReference,
        bias_deviation,
        bias_gap,
        bias_loss,
        bias_reference,
        subgroup_disparity,
    )
    from genxai.fairness.descriptors import DESCRIPTORS, Descriptor, build_descriptor, descriptor
    from genxai.fairness.revise import Ledger, correction, estimated_mask, flags, in_order, reveal_score

_HOME = {
    "DESCRIPTORS": "descriptors",
    "BiasReference": "bias",
    "Descriptor": "descriptors",
    "Ledger": "revise",
    "bias_deviation": "bias",
    "bias_gap": "bias",
    "bias_loss": "bias",
    "bias_reference": "bias",
    "build_descriptor": "descriptors",
    "correction": "revise",
    "descriptor": "descriptors",
    "estimated_mask": "revise",
    "flags": "revise",
    "in_order": "revise",
    "reveal_score": "revise",
    "subgroup_disparity": "bias",
}

__all__ = [
    "DESCRIPTORS",
    "BiasReference",
    "Descriptor",
    "Ledger",
    "bias_deviation",
    "bias_gap",
    "bias_loss",
    "bias_reference",
    "build_descriptor",
    "correction",
    "descriptor",
    "estimated_mask",
    "flags",
    "in_order",
    "reveal_score",
    "subgroup_disparity",
]

__getattr__ = lazy_exports(__name__, _HOME)
