"""What trains the classifier against a shortcut: the baselines by name, one file each (docs/methods.md).

Names are imported on first use; the files of the package are when a method is asked for by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from genxai.lazy import lazy_exports

if TYPE_CHECKING:
    from genxai.fairness.methods.base import Measure, Method
    from genxai.fairness.methods.registry import build_method, known_methods, method

_HOME = {
    "Measure": "base",
    "Method": "base",
    "build_method": "registry",
    "known_methods": "registry",
    "method": "registry",
}

__all__ = ["Measure", "Method", "build_method", "known_methods", "method"]

__getattr__ = lazy_exports(__name__, _HOME)
