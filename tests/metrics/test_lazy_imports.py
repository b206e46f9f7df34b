"""The packages' front doors: every public name is there, and none is loaded before it is used."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

ROOMS = ["genxai.explain", "genxai.fairness", "genxai.metrics"]


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_can_be_imported_and_no_other(room: str) -> None:
    package = importlib.import_module(room)
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


def test_importing_the_packages_does_not_load_torch() -> None:
    code = f"import sys, {', '.join(ROOMS)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
