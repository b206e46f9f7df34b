"""Contract 4, publishing: a checkpoint appears whole, the previous one is kept, damage is passed over."""

import errno
import logging
import os
import random

import pytest
import safetensors.torch
import torch

from genxai.errors import CheckpointError
from genxai.training import checkpoints


def state(step: int) -> dict:
    return {
        "weights": {"a": torch.full((3, 2), float(step)), "bits": torch.tensor([step], dtype=torch.uint8)},
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"betas": (0.0, 0.9)}]},
        "loop": {"step": step, "best": None, "name": "x"},
    }


def test_what_is_loaded_is_what_was_saved(tmp_path):
    checkpoints.publish(tmp_path, 5, state(5))
    found, path = checkpoints.latest(tmp_path)
    assert path.name == "step-000000005"
    assert torch.equal(found["weights"]["a"], torch.full((3, 2), 5.0)) and found["weights"]["bits"].dtype == torch.uint8
    assert found["optimizer"]["state"][0]["step"] == 5.0  # integer keys survive
    assert found["optimizer"]["param_groups"][0]["betas"] == [0.0, 0.9]
    assert found["loop"] == {"step": 5, "best": None, "name": "x"}


def test_the_pointer_names_the_newest_and_the_one_before_is_kept(tmp_path):
    for step in (1, 2, 3):
        checkpoints.publish(tmp_path, step, state(step))
    assert (tmp_path / "LATEST").read_text() == "step-000000003\n"
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000000002", "step-000000003"]


@pytest.mark.parametrize("name", [checkpoints.TENSORS, checkpoints.VALUES, checkpoints.MANIFEST])
def test_a_checkpoint_cut_at_any_byte_is_skipped_with_a_warning(tmp_path, caplog, name):
    checkpoints.publish(tmp_path, 1, state(1))
    path = checkpoints.publish(tmp_path, 2, state(2)) / name
    whole = path.read_bytes()
    for length in sorted({0, 1, len(whole) - 1, *random.Random(0).sample(range(len(whole)), 5)}):
        path.write_bytes(whole[:length])
        with caplog.at_level(logging.WARNING):
            found, _ = checkpoints.latest(tmp_path)
        assert found["loop"]["step"] == 1 and "skipped" in caplog.text
        caplog.clear()


def test_one_flipped_bit_is_noticed(tmp_path):
    checkpoints.publish(tmp_path, 1, state(1))
    path = checkpoints.publish(tmp_path, 2, state(2)) / checkpoints.TENSORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 1


def test_a_missing_or_senseless_pointer_does_not_hide_the_newest(tmp_path):
    for step in (1, 2):
        checkpoints.publish(tmp_path, step, state(step))
    for damage in (b"", b"step-000000009\n", b"\xff\xfe", None):
        pointer = tmp_path / "LATEST"
        pointer.unlink(missing_ok=True)
        if damage is not None:
            pointer.write_bytes(damage)
        assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 2


def test_after_a_fallback_the_damaged_one_goes_and_the_good_one_stays(tmp_path):
    checkpoints.publish(tmp_path, 10, state(10))
    (checkpoints.publish(tmp_path, 20, state(20)) / checkpoints.TENSORS).write_bytes(b"")
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 10
    checkpoints.publish(tmp_path, 15, state(15))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000000010", "step-000000015"]


def test_a_folder_that_was_never_pointed_at_is_written_anew(tmp_path):
    checkpoints.publish(tmp_path, 10, state(10))
    stale = state(20) | {"lengths": {"metrics.jsonl": 111}}
    checkpoints.publish(tmp_path, 20, stale)
    (tmp_path / "LATEST").write_text("step-000000010\n")  # killed between the rename and the pointer
    checkpoints.publish(tmp_path, 20, state(20) | {"lengths": {"metrics.jsonl": 222}})
    assert checkpoints.latest(tmp_path)[0]["lengths"] == {"metrics.jsonl": 222}


def test_a_folder_that_was_never_pointed_at_does_not_become_the_one_before(tmp_path):
    for step in (10, 20, 30):
        checkpoints.publish(tmp_path, step, state(step))
    (tmp_path / "LATEST").write_text("step-000000020\n")  # killed between the rename and the pointer
    checkpoints.publish(tmp_path, 40, state(40))
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-000000020", "step-000000040"]


def test_a_leftover_of_the_same_process_id_is_no_obstacle(tmp_path):
    (tmp_path / f".step-000000003.{os.getpid()}").mkdir()
    checkpoints.publish(tmp_path, 3, state(3))
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 3


def test_nothing_published_is_none_and_nothing_intact_is_an_error(tmp_path):
    assert checkpoints.latest(tmp_path / "none") is None
    (checkpoints.publish(tmp_path, 1, state(1)) / checkpoints.TENSORS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of the 1"):
        checkpoints.latest(tmp_path)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_rubbish(tmp_path, monkeypatch):
    checkpoints.publish(tmp_path, 1, state(1))
    before = sorted(os.listdir(tmp_path))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space") as caught:
        patched.setattr(os, "fsync", full)
        checkpoints.publish(tmp_path, 2, state(2))
    assert caught.value.filename.endswith(checkpoints.TENSORS)
    assert sorted(os.listdir(tmp_path)) == before
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 1


def test_leftovers_of_a_killed_writer_are_ignored_and_swept_up(tmp_path):
    leftover = tmp_path / ".step-000000002.1234"
    leftover.mkdir()
    (leftover / checkpoints.TENSORS).write_bytes(b"half")
    assert checkpoints.latest(tmp_path) is None
    checkpoints.publish(tmp_path, 1, state(1))
    assert not leftover.exists()


def test_the_leftover_of_a_killed_pointer_is_swept_up_and_other_files_are_not(tmp_path):
    for name in (".LATEST.k2j3h4", ".nfs0000000001"):
        (tmp_path / name).write_bytes(b"step-000")
    checkpoints.publish(tmp_path, 1, state(1))
    assert sorted(os.listdir(tmp_path)) == [".nfs0000000001", "LATEST", "step-000000001"]


def test_leftovers_go_before_the_new_checkpoint_needs_their_room(tmp_path, monkeypatch):
    (tmp_path / ".step-000000001.77").mkdir()
    there = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: there.append((tmp_path / ".step-000000001.77").exists()))
    checkpoints.publish(tmp_path, 2, state(2))
    assert there and not any(there)


def test_the_tensors_file_is_byte_for_byte_what_the_safetensors_library_writes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f'{place}.{str(dtype)[6:]} é"': torch.randint(0, 2, (place, 3), generator=generator).to(dtype)
        for place in (1, 10, 2)
        for dtype in checkpoints.DTYPES
    }
    tensors |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "empty bytes": torch.empty(0, dtype=torch.uint8),
        "channels last": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
        "every second": torch.randn(6, 4, generator=generator)[::2, 1:3],
        "transposed": torch.randn(3, 5, dtype=torch.float64, generator=generator).t(),
    }
    path = checkpoints.publish(tmp_path, 1, tensors)
    oracle = safetensors.torch.save({f"/{name}": tensor.contiguous() for name, tensor in tensors.items()})
    assert (path / checkpoints.TENSORS).read_bytes() == oracle
    found, _ = checkpoints.latest(tmp_path)
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )


def test_a_tensor_longer_than_what_is_written_at_a_time_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHUNK", 1000)
    long = torch.arange(2501, dtype=torch.int16)
    checkpoints.publish(tmp_path, 1, {"long": long})
    assert torch.equal(checkpoints.latest(tmp_path)[0]["long"], long)


def test_what_was_loaded_does_not_depend_on_the_file_any_more(tmp_path):
    path = checkpoints.publish(tmp_path, 1, state(1)) / checkpoints.TENSORS
    found, _ = checkpoints.latest(tmp_path)
    path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(found["weights"]["a"], torch.full((3, 2), 1.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"loss": float("nan")}, "JSON compliant"),
        ({"a": {"b": torch.ones(1)}, "a/b": torch.zeros(1)}, "two tensors of the state have the path /a/b"),
        ({"a": torch.ones(1, dtype=torch.complex64)}, "/a: tensors of torch.complex64 cannot be saved"),
        ({"a": object()}, "not JSON serializable"),
    ],
)
def test_what_cannot_be_in_a_checkpoint_is_refused_before_anything_is_written(tmp_path, wrong, message):
    with pytest.raises((ValueError, TypeError), match=message):
        checkpoints.publish(tmp_path / "checkpoints", 1, wrong)
    assert not (tmp_path / "checkpoints").exists()


def test_the_files_cannot_carry_code(tmp_path):
    path = checkpoints.publish(tmp_path, 1, state(1))
    assert {file.name for file in path.iterdir()} == {"tensors.safetensors", "values.json", "manifest.json"}


def test_the_digest_sees_every_bit_and_not_the_order():
    one = {"m": {"a": torch.zeros(3), "b": torch.ones(2)}}
    assert checkpoints.digest(one) == checkpoints.digest({"m": dict(reversed(one["m"].items()))})
    other = {"m": {"a": torch.tensor([0.0, 0.0, 1e-45]), "b": torch.ones(2)}}
    assert checkpoints.digest(one) != checkpoints.digest(other)
