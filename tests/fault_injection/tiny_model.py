"""Overrides of preset tiny that all real runs of the fault tests share: the whole method with a very small model."""

from __future__ import annotations

import json
from typing import Any

OVERRIDES: dict[str, Any] = {
    "data.train_limit": 160,
    "data.test_limit": 80,
    "data.balanced_val_size": 20,
    "objective.n_critic": 1,
    "train.threads": 1,
    "train.explain_samples": 2,
    "run.trackers": [],
    "run.pictures": False,
    "model.dim": 16,
    "model.hidden": 16,
    "model.image.width": 8,
    "model.text.width": 16,
    "model.gan.latent_dim": 8,
    "model.gan.width": 4,
}


def as_words(more: dict[str, Any]) -> tuple[str, ...]:
    """For a command line."""
    return tuple(f"{key}={json.dumps(value)}" for key, value in (OVERRIDES | more).items())


def as_sweep(more: dict[str, Any], rest: str) -> str:
    """Sweep file s.yaml of these runs; `rest` is YAML."""
    lines = [f"  {key}: {json.dumps(value)}" for key, value in (OVERRIDES | more).items()]
    return "\n".join(["name: s", "base: tiny", "overrides:", *lines, rest.lstrip()])
