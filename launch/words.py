"""How numbers and points of a configuration are written for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def number_words(value: Any) -> str:
    """A float with four digits; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def point_words(point: Mapping[str, Any]) -> str:
    """lambda_gp=10 lambda_bias=0.1: the last part of each key, or the whole where that is ambiguous."""
    short = [key.rpartition(".")[2] for key in point]
    names = short if len(set(short)) == len(short) else list(point)
    return " ".join(f"{name}={number_words(value)}" for name, value in zip(names, point.values(), strict=True))


def keys_words(point: Mapping[str, Any]) -> str:
    """data.dataset=mnist, data.rho=0.98: whole keys, for messages about a file."""
    return ", ".join(f"{key}={number_words(value)}" for key, value in point.items()) or "the base"
