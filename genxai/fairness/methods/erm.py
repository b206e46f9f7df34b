"""Empirical risk minimisation: what every other method is compared with."""

from __future__ import annotations

from genxai.fairness.methods.base import Method
from genxai.fairness.methods.registry import method


@method("erm")
class ERM(Method):
    """The mean cross-entropy over the training samples, each once an epoch (Vapnik 1991)."""
