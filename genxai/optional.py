"""Packages that only some options need: where one is missing, what to install and how to do without it."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from genxai.errors import UsageError

#: module -> the extra of genxai that installs it
EXTRAS = {
    "captum": "text",
    "transformers": "text",
    "deepspeed": "deepspeed",
    "torch_fidelity": "fid",
    "pytorch_grad_cam": "second-opinion",
    "matplotlib": "figures",
}


def require(module: str, what: str, instead: str) -> None:
    """Raises UsageError where the module is not installed; looks for it without importing it, which may take seconds.

    what: the option that needs it. instead: what to set to do without.
    """
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"{what} needs {module}, which is not installed: {install(module)}, or {instead}")


def load(module: str, what: str, instead: str) -> Any:
    """The module, imported. Raises UsageError where it is missing or cannot be imported."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: transformers beside a broken package
        raise UsageError(
            f"{what} needs {module}, which cannot be imported ({error}): {install(module)}, or {instead}"
        ) from None


def install(module: str) -> str:
    """The command that installs it."""
    return f"pip install 'genxai[{EXTRAS[module]}]'"
