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
    """Raises UsageError where the module is not installed; looks for it without importing it.

    what: the option that needs it. instead: what to set to do without.
    """
    if importlib.util.find_spec(module) is None:
        raise UsageError(_advice(module, what, "is not installed", instead))


def load(module: str, what: str, instead: str) -> Any:
    """The module, imported. Raises UsageError where it is missing or cannot be imported."""
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: transformers beside a broken package
        raise UsageError(_advice(module, what, f"cannot be imported ({error})", instead)) from None


def _advice(module: str, what: str, state: str, instead: str) -> str:
    return f"{what} needs {module}, which {state}: pip install 'genxai[{EXTRAS[module]}]', or {instead}"
