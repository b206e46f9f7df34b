"""Signatures of the many configurations of a sweep: what they share is put into text once.

The same text and so the same signature as `genxai.runs.run_signature`, which is the definition.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from genxai.config import WITHOUT_EFFECT, Config, DataConfig, Section
from genxai.runs import canonical_json, effective_options

Fingerprint = Callable[[DataConfig], str]

_NAMES = tuple(sorted(name for name in Config.model_fields if WITHOUT_EFFECT.get(name) is not True))


@dataclass
class Signatures:
    """Made anew for each round of planning: local weights are read once per round and section that names them."""

    fingerprint: Fingerprint
    # by identity, since equal values can have different texts (0.0 and -0.0); the section is kept, and so its id
    _texts: dict[int, tuple[Section, str]] = field(default_factory=dict)
    _data: dict[int, tuple[Section, str]] = field(default_factory=dict)

    def of(self, config: Config) -> str:
        """`run_signature` of the configuration."""
        options = ",".join(f'"{name}":{self._text(config, name)}' for name in _NAMES)
        return hashlib.sha256(f'{{"config":{{{options}}},"data":{self._data_text(config)}}}'.encode()).hexdigest()[:12]

    def _text(self, config: Config, name: str) -> str:
        value = getattr(config, name)
        known = self._texts.get(id(value)) if isinstance(value, Section) else None
        if known is not None:
            return known[1]
        text = canonical_json(effective_options(config, {name})[name])
        if isinstance(value, Section):
            self._texts[id(value)] = value, text
        return text

    def _data_text(self, config: Config) -> str:
        known = self._data.get(id(config.data))
        if known is None:
            known = self._data[id(config.data)] = config.data, canonical_json(self.fingerprint(config.data))
        return known[1]
