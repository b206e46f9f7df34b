"""Methods against shortcuts are the same mathematics at any number of processes, under every backend they allow."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.ranks import start_ranks

STEPS = Path(__file__).parent / "processes" / "methods.py"
PLAIN = (
    *("train.optimizer=sgd", "train.lr=0.05", "train.batch_size=16", "model.dropout=0.2"),
    *("train.generator=false", "revise.enabled=false", "explain.fraction=0.25"),
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def computed(tmp_path_factory, small):
    folder, known = tmp_path_factory.mktemp("methods"), {}

    def compute(world: int, precision: str, *overrides: str) -> dict:
        key = (world, precision, overrides)
        if key not in known:
            output = folder / f"{len(known)}.pt"
            command = [sys.executable, str(STEPS), str(output), precision, *small, *PLAIN, *overrides]
            code = start_ranks(command, world) if world > 1 else subprocess.run(command, check=False).returncode
            assert code == 0
            known[key] = torch.load(output, weights_only=True)
            assert {entry["world"] for entry in known[key].values()} == {world}
        return known[key]

    return compute


def assert_same(alone: dict, together: dict, rtol: float, atol: float) -> None:
    assert together["state"].keys() == alone["state"].keys()
    for name, value in alone["state"].items():
        torch.testing.assert_close(together["state"][name], value, rtol=rtol, atol=atol, msg=name)


def test_two_processes_make_the_steps_of_one(computed):
    alone, together = computed(1, "float64"), computed(2, "float64")
    assert len({entry["state"]["head.1.bias"].sum().item() for entry in alone.values()}) == len(alone)
    for name, entry in alone.items():
        # the refit goes through an iterative solver
        tolerance = 1e-5 if name == "dfr" else 1e-10
        assert_same(entry, together[name], tolerance, tolerance)
    q, expected = (found["group_dro"]["method"]["q"] for found in (together, alone))
    torch.testing.assert_close(q, expected, rtol=1e-10, atol=0)
    assert torch.equal(together["jtt"]["method"]["errors"], alone["jtt"]["method"]["errors"])
    assert together["dfr"]["method"] == alone["dfr"]["method"]


@pytest.mark.parametrize(
    "backend", ["fsdp2", *(pytest.param(stage, marks=pytest.mark.thorough) for stage in ("zero2", "zero3"))]
)
def test_the_backends_allow_a_restart_and_a_second_derivative(computed, backend):
    if backend != "fsdp2":
        pytest.importorskip("deepspeed")
    options = ("objective.lambda_attribution=0.0", *(["only=jtt"] if backend == "zero3" else ["only=jtt", "only=rrr"]))
    alone, together = computed(1, "float32", *options), computed(2, "float32", *options, f"train.backend={backend}")
    for name, entry in alone.items():
        assert_same(entry, together[name], 1e-4, 1e-5)
