"""Points of a configuration: options by their dotted key, put on top of a common base.

What may be such a key, and the validated configuration at a point.
"""

from __future__ import annotations

import difflib
from typing import Any

from genxai.config import Config, Section
from genxai.configfile import Tree, dotted_keys, set_dotted, validate
from genxai.errors import UsageError

Point = dict[str, Any]

#: sections that belong to the sweep, or change nothing
_NOT_OPTIONS = ("name", "seed", "origin", "run")


def check_option(key: str, where: str, verb: str) -> None:
    """Raises UsageError unless the key names one option that changes the result. verb: what was to be done with it."""
    keys = dotted_keys(Config)
    if key not in keys:
        near = difflib.get_close_matches(key, keys, 1, cutoff=0.0)[0]
        raise UsageError(f"{where}: unknown key {key!r}; the nearest key is {near!r}")
    sections = {known.rpartition(".")[0] for known in keys}
    if key in sections or key.partition(".")[0] in _NOT_OPTIONS:
        raise UsageError(f"{where}: {key!r} cannot be {verb}; name one option that changes the result")


def config_at(base: Config, point: Point, where: str) -> Config:
    """The base with the point's values, validated. Sections that the point does not touch are the base's own objects.

    Raises UsageError for a value that an option, or a rule about several, does not allow.
    """
    tree: Tree = dict(base)
    for section in {key.partition(".")[0] for key in point}:
        if isinstance(tree.get(section), Section):
            tree[section] = tree[section].model_dump()
    for key, value in point.items():
        set_dotted(tree, key, value)
    return validate(Config, tree, where)
