"""A run of several real processes: one directory, one result, stopped, killed and resumed at any number of them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genxai.errors import EXIT_OK, EXIT_STOPPED
from genxai.runs import Run, State, read_jsonl
from launch.ranks import STARTED_HERE

ROOT = Path(__file__).parents[2]
LONGER = ("train.epochs=4", "train.eval_every=2", "run.checkpoint_seconds=0.2", "train.optimizer=sgd", "train.lr=0.01")


def command(runs: Path, small: tuple[str, ...], *more: str) -> list[str]:
    script = str(ROOT / "launch" / "train.py")
    return [sys.executable, script, "tiny", "--runs", str(runs), "--quiet", *small, *LONGER, *more]


def start(runs: Path, small: tuple[str, ...], *more: str) -> tuple[subprocess.Popen[str], Run]:
    process = subprocess.Popen(command(runs, small, *more), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("run "), line + process.stderr.read()
    return process, Run(Path(line.split(" in ")[1].strip()))


def finish(runs: Path, small: tuple[str, ...], *more: str) -> Run:
    process, run = start(runs, small, *more)
    _, errors = process.communicate()
    assert process.returncode == EXIT_OK, errors
    return run


def wait_for_step(run: Run, step: int, process: subprocess.Popen[str]) -> None:
    pointer = run.checkpoints / "LATEST"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if pointer.exists() and int(pointer.read_text().split("-")[1]) >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached; exit code {process.poll()}")


def science(run: Run) -> dict[str, object]:
    clock = ("seconds", "restarts", "steps_redone")
    return {
        "result": {key: value for key, value in run.result().items() if key not in clock},
        "metrics": [{k: v for k, v in line.items() if k != "seconds"} for line in read_jsonl(run.metrics_file)],
        "ledger": run.ledger_file.read_bytes(),
    }


def ranks_of(parent: int) -> dict[int, int]:
    """Rank -> pid of the processes that one command has started."""
    found = {}
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                variables = dict(v.split("=", 1) for v in (folder / "environ").read_text().split("\0") if "=" in v)
                if STARTED_HERE in variables:
                    found[int(variables["RANK"])] = int(folder.name)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small):
    run = finish(tmp_path_factory.mktemp("two"), small, "run.processes=2")
    (line,) = read_jsonl(run.provenance_file)
    assert line["processes"] == 2 and run.result()["processes"] == 2
    return science(run)


def test_two_processes_decide_and_measure_as_one(tmp_path, small, undisturbed):
    alone = science(finish(tmp_path, small))
    for mine, theirs in zip(alone["metrics"], undisturbed["metrics"], strict=True):
        assert mine == pytest.approx(theirs, abs=0.02)
    assert alone["ledger"].count(b"\n") == pytest.approx(undisturbed["ledger"].count(b"\n"), abs=2)
    assert alone["result"]["signature"] == undisturbed["result"]["signature"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_stop_reaches_every_process_and_changes_nothing(tmp_path, small, undisturbed, number):
    process, run = start(tmp_path, small, "run.processes=2")
    wait_for_step(run, 3, process)
    process.send_signal(number)
    assert process.wait() == EXIT_STOPPED
    assert run.state is State.STARTED and not run.failed_file.exists() and not run.is_running()
    assert science(finish(tmp_path, small, "run.processes=2")) == undisturbed
    assert run.result()["steps_redone"] == 0


@pytest.mark.slow
def test_a_stop_that_reaches_one_process_alone_stops_all(tmp_path, small, undisturbed):
    process, run = start(tmp_path, small, "run.processes=2")
    wait_for_step(run, 2, process)
    os.kill(ranks_of(process.pid)[1], signal.SIGUSR1)
    assert process.wait() == EXIT_STOPPED
    assert science(finish(tmp_path, small, "run.processes=2")) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_others_is_no_failure_and_changes_nothing(tmp_path, small, undisturbed, rank):
    process, run = start(tmp_path, small, "run.processes=2")
    wait_for_step(run, 3, process)
    os.kill(ranks_of(process.pid)[rank], signal.SIGKILL)
    assert process.wait(timeout=60) not in (EXIT_OK, EXIT_STOPPED)
    assert not run.failed_file.exists() and not run.is_running()
    assert science(finish(tmp_path, small, "run.processes=2")) == undisturbed


@pytest.mark.slow
def test_killing_the_command_leaves_no_process_behind(tmp_path, small):
    process, run = start(tmp_path, small, "run.processes=2")
    wait_for_step(run, 2, process)
    ranks = ranks_of(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in ranks.values()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(ranks) == 2 and not any(Path(f"/proc/{pid}").exists() for pid in ranks.values())
    assert run.state is State.STARTED


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [("run.processes=2", "run.processes=4"), ("run.processes=2", "seed=0")])
def test_a_checkpoint_of_one_number_of_processes_goes_on_at_another(tmp_path, small, undisturbed, before, after):
    process, run = start(tmp_path, small, before)
    wait_for_step(run, 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_STOPPED
    finish(tmp_path, small, after)
    assert len(read_jsonl(run.provenance_file)) == 2
    for mine, theirs in zip(science(run)["metrics"], undisturbed["metrics"], strict=True):
        assert mine == pytest.approx(theirs, abs=0.02)
