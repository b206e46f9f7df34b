"""The newest checkpoint cut off or altered at a random byte, one file after the other, and the pointer to it."""

import random

import pytest
from damage import damage
from light_training import LightRun
from writes import Fault

from genxai.files import read_jsonl


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_steps_and_changes_nothing(tmp_path, small, undisturbed_run):
    """One run, killed five times: each time another file of the checkpoint it would go on from is damaged."""
    chooser = random.Random(20261124)
    run = LightRun(tmp_path, small)
    for name in ("tensors.safetensors", "values.json", "manifest.json", "LATEST", "tensors.safetensors"):
        assert run.train(Fault(3, call="os.rename .LATEST")) < 0
        pointer = run.run.checkpoints / "LATEST"
        damage(pointer if name == "LATEST" else pointer.parent / pointer.read_text().strip() / name, chooser)
    assert run.train() == 0, run.said()
    assert run.said().count("checkpoint skipped") >= 4
    assert run.findings() == undisturbed_run.findings()
    assert any(start["resumed_from_step"] for start in read_jsonl(run.run.provenance_file))


@pytest.mark.slow
def test_without_one_whole_checkpoint_a_run_begins_anew_and_ends_the_same(tmp_path, small, undisturbed_run):
    run = LightRun(tmp_path, small)
    assert run.train(Fault(5, call="os.rename .LATEST")) < 0
    for file in run.run.checkpoints.glob("step-*/manifest.json"):
        file.write_bytes(file.read_bytes()[:-1])
    (run.run.checkpoints / "LATEST").write_bytes(b"\xff\xfe")
    assert run.train() == 0, run.said()
    assert run.findings() == undisturbed_run.findings()
