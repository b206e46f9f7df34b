"""Contract 4 with real processes killed for real: a run that was stopped or killed ends as if it never had been."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import saved_step, science, started, wait_for_step

from genxai.errors import EXIT_OK, EXIT_STOPPED
from genxai.files import read_jsonl
from genxai.runs import Run, State

ROOT = Path(__file__).parents[2]


def command(runs: Path, small: tuple[str, ...], *more: str) -> list[str]:
    script = str(ROOT / "launch" / "train.py")
    longer = ("train.epochs=4", "train.eval_every=2", "run.checkpoint_seconds=0.2")
    return [sys.executable, script, "tiny", "--runs", str(runs), "--quiet", *small, *longer, *more]


def start(runs: Path, small: tuple[str, ...], *more: str) -> tuple[subprocess.Popen[str], Run]:
    return started(command(runs, small, *more))


def everything(run: Run) -> dict[str, object]:
    """What a run says, and the bytes of its configuration."""
    return science(run) | {"config": run.config_file.read_bytes()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, small):
    process, run = start(tmp_path_factory.mktemp("undisturbed"), small)
    assert process.wait() == EXIT_OK
    assert len(everything(run)["metrics"]) == 6 and everything(run)["ledger"]
    return everything(run)


def test_three_kills_at_random_steps_change_nothing(tmp_path, small, undisturbed):
    chooser = random.Random(20261121)
    killed = 0
    for further in chooser.choices(range(1, 4), k=3):
        process, run = start(tmp_path, small)
        wait_for_step(run, min(saved_step(run) + further, undisturbed["result"]["steps"]), process)
        time.sleep(chooser.uniform(0.0, 0.3))  # so that work since the checkpoint is lost
        process.send_signal(signal.SIGKILL)
        process.wait()
        if run.state is State.DONE:  # a fast machine
            break
        killed += 1
    assert killed
    process, run = start(tmp_path, small)
    assert process.wait() == EXIT_OK
    assert everything(run) == undisturbed
    assert run.result()["restarts"] == killed
    assert [line["restart"] for line in read_jsonl(run.provenance_file)] == list(range(killed + 1))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=pytest.mark.thorough)])
def test_a_stop_saves_exits_with_its_own_code_and_changes_nothing(tmp_path, small, undisturbed, number):
    process, run = start(tmp_path, small)
    wait_for_step(run, 3, process)
    process.send_signal(number)
    assert process.wait() == EXIT_STOPPED
    assert run.state is State.STARTED and not run.failed_file.exists()
    process, run = start(tmp_path, small)
    assert process.wait() == EXIT_OK
    assert everything(run) == undisturbed
    assert run.result()["steps_redone"] == 0


def test_a_damaged_newest_checkpoint_costs_steps_and_changes_nothing(tmp_path, small, undisturbed):
    process, run = start(tmp_path, small)
    wait_for_step(run, 6, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = max(run.checkpoints.glob("step-*")) / "tensors.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    process, run = start(tmp_path, small)
    assert process.wait() == EXIT_OK
    assert "skipped" in run.log_file.read_text()
    assert everything(run) == undisturbed


def test_starting_a_finished_run_again_computes_nothing(tmp_path, small):
    process, run = start(tmp_path, small, "train.epochs=1")
    assert process.wait() == EXIT_OK
    before = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    process, run = start(tmp_path, small, "train.epochs=1")
    assert process.wait() == EXIT_OK
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()} == before


def test_a_second_process_leaves_a_running_run_alone(tmp_path, small):
    first, run = start(tmp_path, small)
    wait_for_step(run, 1, first)
    first.send_signal(signal.SIGSTOP)  # so that it does not end while the second one tries
    second = subprocess.run(command(tmp_path, small), capture_output=True, text=True, check=False)
    first.send_signal(signal.SIGCONT)
    assert second.returncode == 1 and "another process" in second.stderr
    assert first.wait() == EXIT_OK
    assert len(read_jsonl(run.provenance_file)) == 1


def test_the_json_output_is_the_result(tmp_path, small):
    done = subprocess.run(
        command(tmp_path, small, "--json", "train.epochs=1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_OK, done.stderr
    assert json.loads(done.stdout)["metrics"]["val/accuracy"] >= 0
