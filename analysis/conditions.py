"""Questions to a configuration: what it must say, what it says at a few keys, and what names it whatever its seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from analysis.verdicts import plain
from genxai.config import WITHOUT_EFFECT, Config
from genxai.runs import canonical_json

Conditions = Mapping[str, Any]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": lambda value, limit: value is not None and value > limit,
    "ge": lambda value, limit: value is not None and value >= limit,
    "lt": lambda value, limit: value is not None and value < limit,
    "le": lambda value, limit: value is not None and value <= limit,
    "ne": lambda value, limit: value != limit,
}
_SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "ne": "≠"}


def matches(value: Any, condition: Any) -> bool:
    """Whether a value meets a condition: a value, a list of allowed values, or {gt, ge, lt, le, ne: limit}."""
    if isinstance(condition, Mapping):
        return all(_OPERATORS[name](value, limit) for name, limit in condition.items())
    if isinstance(condition, list | tuple):
        return value in condition
    return value == condition


def in_words(conditions: Conditions) -> str:
    """`model.fusion = cross, objective.lambda_attribution > 0`."""
    parts = []
    for key, condition in conditions.items():
        if isinstance(condition, Mapping):
            parts += [f"{key} {_SIGNS[name]} {plain(limit)}" for name, limit in condition.items()]
        elif isinstance(condition, list | tuple):
            parts.append(f"{key} in {{{', '.join(plain(item) for item in condition)}}}")
        else:
            parts.append(f"{key} = {plain(condition)}")
    return ", ".join(parts)


def condition_problem(condition: Any) -> str | None:
    """Why a condition cannot be used, or None."""
    if isinstance(condition, Mapping):
        unknown = [str(name) for name in condition if name not in _OPERATORS]
        return f"unknown comparison {unknown[0]!r}; allowed: {', '.join(_OPERATORS)}" if unknown else None
    return None


def setting_of(config: Config, keys: Sequence[str], across: Sequence[str] = ()) -> dict[str, Any]:
    """The flat part of a configuration below the given keys or sections, without those of `across`."""
    flat = flatten(config.model_dump(mode="json", exclude={"origin"}))
    return {key: value for key, value in flat.items() if _below(key, keys) and not _below(key, across)}


def _below(key: str, sections: Sequence[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def effective(config: Config) -> dict[str, Any]:
    """Everything that can change the result except the seed, under dotted names."""
    return flatten(config.model_dump(mode="json", exclude=WITHOUT_EFFECT | {"seed": True}))


def configuration_key(config: Config) -> str:
    """12 hex digits of `effective`; equal for all seeds of a point."""
    return hashlib.sha256(canonical_json(effective(config)).encode()).hexdigest()[:12]
