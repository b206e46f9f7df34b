"""Fixtures that start real things: one Slurm for the whole session, where its packages are installed."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "slurm"))  # a folder of scripts, not a package
sys.path.insert(0, str(Path(__file__).resolve().parent))  # training_runs

from local_cluster import LocalCluster
from slurm_sweeps import TINY, TWO_POINTS, SlurmSweep


@pytest.fixture(scope="session")
def slurm_packages() -> None:
    """Skips where Slurm is not installed, and says what to install."""
    missing = LocalCluster(Path("unused")).missing_packages()
    if missing:
        pytest.skip(f"no Slurm on this machine: Debian packages {' '.join(missing)} are not installed")


@pytest.fixture(scope="session")
def slurm_cluster(slurm_packages: None) -> Iterator[LocalCluster]:
    """Four nodes, no accounting; preemption is quick so that tests are."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, LocalCluster(Path(folder), grace_time=2) as cluster:
        yield cluster


@pytest.fixture
def sweep(slurm_cluster: LocalCluster, tmp_path: Path) -> Iterator[SlurmSweep]:
    """Two grid points of one seed on the session's cluster; its jobs are cancelled afterwards, whatever happened."""
    sweep = SlurmSweep(slurm_cluster, tmp_path, TINY + TWO_POINTS)
    yield sweep
    sweep.cancel_jobs()


@pytest.fixture
def cluster_folder(slurm_packages: None) -> Iterator[Path]:
    """For a cluster of a test's own; tmp_path is too long for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def until() -> Callable[..., None]:
    """until(condition, seconds, what): poll; fails the test with `what` when time is up."""

    def poll(condition: Callable[[], object], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"after {seconds:.0f} s still not so: {what}")
            time.sleep(0.05)

    return poll
