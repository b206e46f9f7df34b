"""The same mathematics at any number of processes: real processes on the CPU (gloo), one global batch.

Batch norm with frozen statistics (on GPUs it is synchronised, which CPUs cannot). In float64, where rounding hides
nothing, gradients must agree to 1e-12. In float32 one process's own gradient is 0.3e-6 to 1.1e-6 from that of float64;
that of several may be 1e-6 further.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launch.ranks import start_ranks

STEPS = Path(__file__).parent / "processes" / "steps.py"
PLAIN = ("train.threads=1", "train.optimizer=sgd", "train.batch_size=16", "explain.fraction=0.25")


@pytest.fixture(scope="module")
def computed(tmp_path_factory, small):
    """What `world` processes compute; every combination once."""
    folder, known = tmp_path_factory.mktemp("world"), {}

    def compute(world: int, steps: int, precision: str, *overrides: str) -> dict:
        key = (world, steps, precision, overrides)
        if key not in known:
            output = folder / f"{len(known)}.pt"
            command = [sys.executable, str(STEPS), str(output), str(steps), precision, *small, *PLAIN, *overrides]
            code = start_ranks(command, world) if world > 1 else subprocess.run(command, check=False).returncode
            assert code == 0
            known[key] = torch.load(output, weights_only=True)
            assert known[key]["world"] == world  # a launcher that silently starts one process would pass everything
        return known[key]

    return compute


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.double() - other).norm() / other.norm())


SLOW, THOROUGH = pytest.mark.slow, pytest.mark.thorough
OPTIONS = {
    "default": (),
    "every fusion's own branch": ("model.fusion=early", "model.text.layers=2"),
    "marginal bias, texture score": ("objective.bias_conditional=false", "revise.score=texture_evidence"),
    "fewer explained samples than processes": ("explain.fraction=0.1",),
    "frozen batch norm": ("model.image.name=resnet18", "model.image.input_size=64", "model.image.batch_norm=frozen"),
}


@pytest.mark.parametrize(
    ("world", "options"),
    [
        pytest.param(world, options, id=f"{name}-{world}", marks=marks)
        for world in (2, 4)
        for name, options in OPTIONS.items()
        # four processes with every option are variants of two with it and of four without
        for marks in [(SLOW, THOROUGH) if world == 4 and options else SLOW if world == 4 or options else ()]
    ],
)
def test_gradients_terms_and_decisions_are_those_of_one_process(computed, world, options):
    alone, together = computed(1, 1, "float64", *options), computed(world, 1, "float64", *options)
    for name, gradient in alone["gradients"][0].items():
        assert gradient.abs().max() > 0
        assert relative(together["gradients"][0][name], gradient) < 1e-12, name
    for name, term in alone["terms"][0].items():
        torch.testing.assert_close(together["terms"][0][name], term, rtol=1e-12, atol=1e-14, msg=name)
    assert [decision(record) for record in together["ledger"]] == [decision(record) for record in alone["ledger"]]
    assert alone["ledger"]


BACKENDS = ["zero1", "zero2", "fsdp2"]


@SLOW
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_makes_the_steps_of_one_process(computed, backend):
    """Three real joint steps, the shared explanation and the correction of the generator included.

    SGD: Adam's first steps turn rounding into full steps (tests/training/backends has it with a larger epsilon).
    """
    if backend != "fsdp2":
        pytest.importorskip("deepspeed")
    options = ("revise.generator_weight=5", "revise.audit_every=1", "revise.tau=0.1")
    alone = computed(1, 3, "float32", *options)
    together = computed(2, 3, "float32", *options, f"train.backend={backend}")
    for step in range(3):
        for name, term in alone["terms"][step].items():
            torch.testing.assert_close(together["terms"][step][name], term, rtol=1e-4, atol=1e-5, msg=f"{step} {name}")
    assert [decision(record) for record in together["ledger"]] == [decision(record) for record in alone["ledger"]]
    for owner, state in alone["states"].items():
        for name, value in state.items():
            torch.testing.assert_close(together["states"][owner][name], value, rtol=1e-4, atol=1e-5)


def decision(record: dict) -> tuple:
    return tuple(record[key] for key in ("step", "origin", "position", "sample", "label", "action"))


@SLOW
@pytest.mark.parametrize("world", [pytest.param(2, marks=THOROUGH), 4])
def test_in_float32_they_agree_as_far_as_float32_goes(computed, world):
    exact, alone, together = computed(1, 1, "float64"), computed(1, 1, "float32"), computed(world, 1, "float32")
    for name, gradient in exact["gradients"][0].items():
        own = relative(alone["gradients"][0][name], gradient)
        assert relative(together["gradients"][0][name], gradient) < own + 1e-6, name


@SLOW
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=THOROUGH)])
def test_after_several_steps_metrics_and_decisions_still_agree(computed, world):
    alone, together = computed(1, 4, "float32"), computed(world, 4, "float32")
    for name, state in alone["states"].items():
        for key, value in state.items():
            torch.testing.assert_close(together["states"][name][key], value, rtol=1e-4, atol=1e-5, msg=f"{name}.{key}")
    assert together["metrics"] == pytest.approx(alone["metrics"], abs=2e-3)
    assert together["metrics"]["val/accuracy"] == alone["metrics"]["val/accuracy"]
    assert [decision(record) for record in together["ledger"]] == [decision(record) for record in alone["ledger"]]


@SLOW
def test_a_bert_branch_agrees_for_longer_than_one_step(computed, tmp_path_factory):
    """Its pooling layer, were it kept, would be unused: DistributedDataParallel fails on that at the second step."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.BertConfig(vocab_size=30_522, **size).save_pretrained(folder)
    options = (f"model.text.name={folder}", "model.text.pretrained=false")
    alone, together = computed(1, 3, "float32", *options), computed(2, 3, "float32", *options)
    for name, gradient in alone["gradients"][2].items():
        assert relative(together["gradients"][2][name], gradient) < 1e-4, name


def test_dropout_drops_the_same_features_of_the_same_samples(computed):
    """With dropout on (the default), the classifier's gradient could not agree otherwise; without it, it differs."""
    dropped, whole = computed(2, 1, "float64"), computed(1, 1, "float64", "model.dropout=0")
    assert relative(dropped["gradients"][0]["classifier"], whole["gradients"][0]["classifier"]) > 1e-3


def test_batch_statistics_are_refused_on_several_cpus(tmp_path, small, capfd):
    command = [
        sys.executable,
        str(STEPS),
        str(tmp_path / "x"),
        "1",
        "float32",
        *small,
        *PLAIN,
        "model.image.name=resnet18",
    ]
    assert start_ranks([*command, "model.image.input_size=64"], 2) == 1
    assert "model.image.batch_norm=frozen" in capfd.readouterr().err


def test_processes_that_did_not_all_come_are_refused(tmp_path, small):
    """`accelerate launch --cpu --num_processes 2` silently starts one: run.processes says how many there shall be."""
    environment = {key: value for key, value in os.environ.items() if key not in ("WORLD_SIZE", "RANK")}
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [*launcher, str(STEPS), str(tmp_path / "x"), "1", "float32", *small, *PLAIN, "run.processes=2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0 and "1 process(es) joined, but run.processes=2" in done.stderr
