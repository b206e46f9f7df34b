"""Contract 4 in the background: training waits for a copy, the disk sees what it saw before, nothing is lost."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from genxai import files
from genxai.training import checkpoints, publisher
from genxai.training.publisher import Publisher


def state(step: int, size: int = 6) -> dict:
    generator = torch.Generator().manual_seed(step)
    return {
        "weights": {
            "image": torch.randn(2, 3, size, size, generator=generator).to(memory_format=torch.channels_last),
            "odd": torch.randint(0, 255, (3,), dtype=torch.uint8, generator=generator),
            "half": torch.randn(5, generator=generator).bfloat16(),
            "none": torch.empty(0),
            "learned": torch.nn.Parameter(torch.randn(4, generator=generator)),
        },
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": [{"betas": (0.0, 0.9)}]},
        "loop": {"step": step, "best": None},
    }


def content(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def gate(monkeypatch):
    """Holds the writer up at the door until it is opened."""
    door, publish_flat = threading.Event(), checkpoints.publish_flat

    def waiting(*arguments):
        assert door.wait(60)
        return publish_flat(*arguments)

    monkeypatch.setattr(checkpoints, "publish_flat", waiting)
    yield door
    door.set()


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", full)


@pytest.fixture
def uncaught(monkeypatch):
    """What would have been printed as the traceback of a thread."""
    seen = []
    monkeypatch.setattr(threading, "excepthook", seen.append)
    return seen


def test_the_files_are_byte_for_byte_those_of_publishing_in_the_foreground(tmp_path):
    with Publisher(tmp_path / "background") as background:
        for step in (1, 2, 3):
            checkpoints.publish(tmp_path / "foreground", step, state(step))
            background.publish(step, state(step))
    assert content(tmp_path / "background") == content(tmp_path / "foreground")
    assert len(content(tmp_path / "background")) == 7  # two checkpoints of three files, and the pointer


def test_publish_returns_before_anything_is_written_and_finish_waits_for_it(tmp_path, gate):
    with Publisher(tmp_path) as background:
        background.publish(1, state(1))
        assert not os.listdir(tmp_path)
        gate.set()
        background.finish()
        assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 1


def test_training_that_goes_on_does_not_reach_into_what_is_being_written(tmp_path, gate):
    live, kept = state(1), state(1)
    with Publisher(tmp_path) as background, torch.no_grad():
        background.publish(1, live)
        for tensor in [*live["weights"].values(), live["optimizer"]["state"][0]["step"]]:
            tensor.zero_()
        live["loop"]["step"] = 99
        live["optimizer"]["param_groups"][0]["betas"] = (0.5, 0.5)
        gate.set()
    checkpoints.publish(tmp_path / "expected", 1, kept)
    assert content(tmp_path / "step-000000001") == content(tmp_path / "expected" / "step-000000001")


def test_only_one_write_is_in_flight_and_the_wait_for_it_is_measured(tmp_path, monkeypatch):
    clock, doors, order = SimpleNamespace(now=0.0), {1: threading.Event(), 2: threading.Event()}, []

    def writing(folder, step, flat):
        order.append(f"begin {step}")
        assert doors[step].wait(60)
        clock.now += 5.0
        order.append(f"end {step}")

    monkeypatch.setattr(publisher, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(checkpoints, "publish_flat", writing)
    with Publisher(tmp_path) as background:
        background.publish(1, state(1))
        assert background.blocked_seconds == 0.0
        threading.Timer(0.05, doors[1].set).start()
        background.publish(2, state(2))
        assert background.blocked_seconds == background.blocked_seconds_total == background.written_seconds == 5.0
        doors[2].set()
    assert order == ["begin 1", "end 1", "begin 2", "end 2"]


def test_the_buffer_is_reused_and_only_grows(tmp_path):
    with Publisher(tmp_path) as background:
        places = []
        for step, size in ((1, 6), (2, 6), (3, 2), (4, 6), (5, 60)):
            background.publish(step, state(step, size))
            background.finish()
            places.append(background._buffer.data_ptr())
            found = checkpoints.latest(tmp_path)[0]["weights"]["image"]
            assert torch.equal(found, state(step, size)["weights"]["image"])
    assert len(set(places[:4])) == 1
    assert background._buffer.numel() >= 2 * 3 * 60 * 60 * 4


@pytest.mark.parametrize(
    "ask",
    [lambda background: background.finish(), lambda background: background.publish(3, {})],
    ids=["finish", "publish"],
)
def test_a_full_disk_is_raised_once_by_what_is_called_next(tmp_path, monkeypatch, uncaught, ask):
    with Publisher(tmp_path) as background:
        background.publish(1, state(1))
        background.finish()
        before = content(tmp_path)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", full)
            background.publish(2, state(2))
            with pytest.raises(OSError, match="No space") as caught:
                ask(background)
        assert caught.value.errno == errno.ENOSPC and caught.value.filename.endswith(checkpoints.TENSORS)
        assert content(tmp_path) == before
        assert sorted(os.listdir(tmp_path)) == ["LATEST", "step-000000001"]  # no half-written folder either
        background.finish()
        background.publish(4, state(4))
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 4
    assert not uncaught


def test_what_cannot_be_saved_is_said_at_once(tmp_path):
    with Publisher(tmp_path) as background:
        background.publish(1, state(1))
        with pytest.raises(ValueError, match="JSON"):
            background.publish(2, {"loss": float("nan")})
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 1


def test_leaving_normally_finishes_and_raises_what_the_writer_raised(tmp_path, full_disk, uncaught):
    with pytest.raises(OSError, match="No space"), Publisher(tmp_path) as background:
        background.publish(1, state(1))
    assert not uncaught


def test_leaving_by_an_exception_waits_for_the_write_and_does_not_hide_it(tmp_path, gate):
    threading.Timer(0.05, gate.set).start()
    with pytest.raises(ZeroDivisionError), Publisher(tmp_path) as background:
        background.publish(1, state(1))
        raise ZeroDivisionError
    assert checkpoints.latest(tmp_path)[0]["loop"]["step"] == 1


def test_leaving_by_an_exception_puts_the_writers_own_error_in_the_log(tmp_path, full_disk, uncaught, caplog):
    with caplog.at_level(logging.ERROR), pytest.raises(ZeroDivisionError), Publisher(tmp_path) as background:
        background.publish(1, state(1))
        raise ZeroDivisionError
    assert "could not be written" in caplog.text and "No space" in caplog.text
    assert not uncaught


def test_no_thread_outlives_the_publisher(tmp_path):
    before = threading.active_count()
    with Publisher(tmp_path) as background:
        background.publish(1, state(1))
    assert threading.active_count() == before


def test_training_resumed_from_any_checkpoint_ends_bit_for_bit_the_same(tmp_path):
    def made() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))
        return network, torch.optim.Adam(network.parameters(), lr=0.1)

    def train(network, optimizer, steps, folder):
        with Publisher(folder) as background:
            for step in steps:
                batch = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
                optimizer.zero_grad()
                network(batch).square().mean().backward()
                optimizer.step()
                background.publish(step, {"network": network.state_dict(), "optimizer": optimizer.state_dict()})
        return checkpoints.digest({"network": network.state_dict()})

    whole = train(*made(), range(9), tmp_path / "whole")
    for stop in (1, 5):
        train(*made(), range(stop), tmp_path / str(stop))
        network, optimizer = made()
        saved, _ = checkpoints.latest(tmp_path / str(stop))
        network.load_state_dict(saved["network"])
        optimizer.load_state_dict(saved["optimizer"])
        assert train(network, optimizer, range(stop, 9), tmp_path / str(stop)) == whole


KILLED_AT_EVERY_LINE = """
import itertools, json, os, signal, sys, threading
from pathlib import Path
import torch
from genxai import files
from genxai.training import checkpoints
from genxai.training.publisher import Publisher

os.fsync = lambda descriptor: None  # of use in a power cut only, and slow
checkpoints.CHUNK = 128

def state(step):
    return {"weights": torch.full((64,), float(step)), "step": step}

def kill_at(line):
    passed = 0
    def trace(frame, event, argument):
        nonlocal passed
        if frame.f_code.co_filename not in (checkpoints.__file__, files.__file__):
            return None
        passed += event == "line"
        if passed == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    threading.settrace(trace)  # threads that are started from now on: the writer

def publish_and_be_killed(folder, line):
    checkpoints.publish(folder, 1, state(1))
    checkpoints.publish(folder, 2, state(2))
    kill_at(line)
    with Publisher(folder) as background:
        background.publish(3, state(3))

for line in itertools.count(1):
    folder = Path(sys.argv[1]) / str(line)
    child = os.fork()
    if child == 0:
        publish_and_be_killed(folder, line)
        os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    left = sorted(os.listdir(folder))
    found, path = checkpoints.latest(folder)
    with Publisher(folder) as background:
        background.publish(4, state(4))
    print(json.dumps({
        "killed": killed,
        "left": left,
        "found": found["step"],
        "whole": path.name == f"step-{found['step']:09d}" and bool((found["weights"] == found["step"]).all()),
        "after": sorted(os.listdir(folder)),
        "newest": checkpoints.latest(folder)[0]["step"],
    }))
    if not killed:
        break
"""


@pytest.mark.slow
def test_sigkill_at_every_line_of_the_writer_leaves_a_readable_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_LINE, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *killed, whole = map(json.loads, done.stdout.splitlines())
    assert len(killed) > 50 and all(line["killed"] for line in killed) and not whole["killed"]
    assert all(line["whole"] for line in killed)
    # first the checkpoint before, from some line on the new one, and never anything else
    found = [line["found"] for line in killed]
    assert set(found) == {2, 3} and found == sorted(found)
    assert any(name.startswith(".step-") for line in killed for name in line["left"])
    assert any(name.startswith(".LATEST") for line in killed for name in line["left"])
    for line in [*killed, whole]:
        assert line["newest"] == 4
        assert line["after"] == ["LATEST", f"step-{line['found']:09d}", "step-000000004"]


LEFT_WITHOUT_FINISHING = """
import sys, time
from pathlib import Path
import torch
from genxai.training import checkpoints
from genxai.training.publisher import Publisher

publish_flat = checkpoints.publish_flat
def slow(*arguments):
    time.sleep(0.5)
    publish_flat(*arguments)
checkpoints.publish_flat = slow
background = Publisher(Path(sys.argv[1]))
background.publish(1, {"weights": torch.ones(3)})
exec(sys.argv[2])
"""


@pytest.mark.parametrize(("ending", "code"), [("pass", 0), ("raise KeyError", 1)])
def test_the_interpreter_ends_by_itself_and_not_before_the_checkpoint_is_written(tmp_path, ending, code):
    command = [sys.executable, "-c", LEFT_WITHOUT_FINISHING, str(tmp_path), ending]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == code
    assert torch.equal(checkpoints.latest(tmp_path)[0]["weights"], torch.ones(3))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the mask can be read without setting it on Linux")
def test_writing_a_file_never_changes_the_mask_that_other_threads_write_under(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "umask", lambda mask: pytest.fail("the mask was set"))
            files.write_atomic(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_launched_after_publish_do_not_change_what_is_written(tmp_path):
    weights = torch.ones(1_000_003, device="cuda")
    half = torch.ones(2, 3, 8, 8, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    with Publisher(tmp_path) as background:
        for step in (1, 2, 3):
            torch.cuda._sleep(200_000_000)  # the copy is queued behind this, so that publish returns before it
            weights.fill_(step)
            half.fill_(step)
            background.publish(step, {"weights": weights, "half": half, "host": torch.tensor([step])})
            weights.fill_(-1.0)
            half.fill_(-1.0)
            background.finish()
            found, _ = checkpoints.latest(tmp_path)
            assert found["host"].item() == step
            assert bool((found["weights"] == step).all()) and bool((found["half"] == step).all())
    assert background._buffer.is_pinned()
