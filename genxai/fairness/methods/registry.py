"""Methods by their registered names: every file of this package may register one with `@method("name")`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from genxai.config import Config
from genxai.errors import UsageError
from genxai.fairness import methods
from genxai.fairness.methods.base import Method, Need, Peers

AnyMethod = TypeVar("AnyMethod", bound=type[Method])

METHODS: dict[str, type[Method]] = {}


def method(name: str) -> Callable[[AnyMethod], AnyMethod]:
    """Register a subclass of `Method` under a name."""

    def register(kind: AnyMethod) -> AnyMethod:
        if name in METHODS:
            raise ValueError(f"a method named {name!r} is registered already")
        kind.name = name
        METHODS[name] = kind
        return kind

    return register


def known_methods() -> dict[str, type[Method]]:
    """Every registered method by its name; imports the files of this package."""
    for module in pkgutil.iter_modules(methods.__path__, f"{methods.__name__}."):
        importlib.import_module(module.name)
    return dict(sorted(METHODS.items()))


def build_method(config: Config, train: Any, peers: Peers) -> Method:
    """The configured method. Raises UsageError for an unknown name, which lists the known ones, and for a method that
    needs, or does, what this configuration does not allow."""
    known, name = known_methods(), config.method.name
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, cutoff=0.0)
        raise UsageError(f"method.name: unknown {name!r}; allowed: {', '.join(known)}; the nearest is {near[0]!r}")
    absent = missing(config)
    for need in sorted(known[name].needs):
        if need in absent:
            able = ", ".join(other for other, kind in known.items() if not kind.needs & absent.keys())
            raise UsageError(f"method.name={name} needs {need}, but {absent[need]}; what can be used: {able}")
    if config.train.select_on in known[name].trained_on:
        split = config.train.select_on
        raise UsageError(f"method.name={name} trains on {split}, which so cannot select: set train.select_on otherwise")
    built = known[name](config, train, peers)
    if built.restart_epoch and config.explains and config.explain.from_epoch:
        raise UsageError(
            f"method.name={name} and explain.from_epoch both have the classifier start again: use one of them"
        )
    return built


def missing(config: Config) -> dict[Need, str]:
    """What a method cannot have under this configuration, and why."""
    data = config.data
    if data.is_text:
        return dict.fromkeys(get_args(Need), f"data.dataset={data.dataset} has comments alone")
    absent: dict[Need, str] = {}
    if config.model.fusion == "text":
        absent["images"] = "a classifier with model.fusion=text sees none"
    if data.mode == "none":
        absent["textures"] = "data.mode=none shows none"
    return absent
