"""Fixtures of the tests that kill, tear, fill and remove: an undisturbed run to compare with, and a small disk."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# scripts and helpers, not packages; fake_trainer is what the jobs of a light sweep call
sys.path[:0] = [str(HERE), str(HERE.parent / "launch"), str(HERE.parent / "integration")]

from light_sweeps import LightSweep  # noqa: E402
from light_training import LightRun  # noqa: E402
from writes import Fault  # noqa: E402


@pytest.fixture(scope="session")
def undisturbed_run(tmp_path_factory: pytest.TempPathFactory, small: tuple[str, ...]) -> LightRun:
    """The real run that every damaged one must equal."""
    folder = tmp_path_factory.mktemp("undisturbed-run")
    run = LightRun(folder, small)
    assert run.train() == 0, run.said()
    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], list[str]]:
    """What the light sweep comes to, and its writing calls."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep = LightSweep(folder)
    assert sweep.run(Fault(), counted=folder / "calls") == 0, sweep.said()
    return sweep.findings(), (folder / "calls").read_text().splitlines()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
