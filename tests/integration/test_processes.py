"""A run of several real processes: one directory, one result, stopped, killed and resumed at any number of them."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training_runs import science, started, wait_for_step

from genxai.configfile import load_config
from genxai.data import fingerprint
from genxai.errors import EXIT_OK, EXIT_STOPPED
from genxai.files import read_json, read_jsonl
from genxai.runs import Run, State, run_signature
from launch.ranks import STARTED_HERE, start_ranks

THOROUGH = pytest.mark.thorough
ROOT = Path(__file__).parents[2]
LONGER = ("train.epochs=4", "train.eval_every=2", "run.checkpoint_seconds=0.2", "train.optimizer=sgd", "train.lr=0.01")


def command(runs: Path, small: tuple[str, ...], *more: str) -> list[str]:
    script = str(ROOT / "launch" / "train.py")
    return [sys.executable, script, "tiny", "--runs", str(runs), "--quiet", *small, *LONGER, *more]


def start(runs: Path, small: tuple[str, ...], *more: str) -> tuple[subprocess.Popen[str], Run]:
    return started(command(runs, small, *more))


def finish(runs: Path, small: tuple[str, ...], *more: str) -> Run:
    process, run = start(runs, small, *more)
    _, errors = process.communicate()
    assert process.returncode == EXIT_OK, errors
    return run


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
    # the first evaluation's steps: later ones drift by rounding
    decisions = [
        [(line["step"], line["origin"], line["position"]) for line in map(json.loads, one["ledger"].splitlines())]
        for one in (alone, undisturbed)
    ]
    early = [[decision for decision in found if decision[0] < 10] for found in decisions]
    assert early[0] == early[1] and early[0]
    assert alone["result"]["signature"] == undisturbed["result"]["signature"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR2, marks=THOROUGH)])
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
@pytest.mark.parametrize("rank", [pytest.param(0, marks=THOROUGH), 1])
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
@pytest.mark.parametrize(
    ("before", "after"), [pytest.param("2", "4", marks=THOROUGH), ("2", "1"), pytest.param("1", "2", marks=THOROUGH)]
)
def test_a_checkpoint_of_one_number_of_processes_goes_on_at_another(tmp_path, small, undisturbed, before, after):
    process, run = start(tmp_path, small, f"run.processes={before}")
    wait_for_step(run, 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_STOPPED
    finish(tmp_path, small, f"run.processes={after}")
    assert len(read_jsonl(run.provenance_file)) == 2
    for mine, theirs in zip(science(run)["metrics"], undisturbed["metrics"], strict=True):
        assert mine == pytest.approx(theirs, abs=0.02)


def planned(folder: Path, small: tuple[str, ...], *more: str) -> Run:
    config = load_config("tiny", [*small, *more])
    run = Run(folder / run_signature(config, fingerprint(config.data)))
    run.plan(config)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("rank", [pytest.param(0, marks=THOROUGH), 1])
def test_an_exception_on_one_process_ends_all_and_is_the_runs_failure(tmp_path, small, rank, capfd):
    run = planned(tmp_path, small, "run.processes=2")
    script = ROOT / "tests" / "training" / "processes" / "failing.py"
    started = time.monotonic()
    assert start_ranks([sys.executable, str(script), str(run.path), str(rank)], 2) == 1
    assert time.monotonic() - started < 90
    assert "this process alone is broken" in read_json(run.failed_file)["message"]
    assert f"process {rank} failed: this process alone is broken" in capfd.readouterr().err
    assert not run.is_running()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "backend"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "fsdp2"),
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "zero1"),
    ],
)
def test_the_backend_that_a_launcher_was_told_is_the_one_that_trains(tmp_path, small, monkeypatch, told, backend):
    if backend == "zero1":
        pytest.importorskip("deepspeed")
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    run = finish(tmp_path, small, "run.processes=2", "explain.fraction=0.25", "train.epochs=1")
    assert [line["backend"] for line in read_jsonl(run.provenance_file)] == [backend]
    process, _ = start(tmp_path / "other", small, "run.processes=2", "train.backend=ddp")
    _, errors = process.communicate()
    assert process.returncode == 2 and f"the launcher was told to use {backend}: make them agree" in errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "backends",
    [
        pytest.param(("ddp", "fsdp2"), marks=THOROUGH),
        pytest.param(("zero2", "ddp"), marks=THOROUGH),
        ("fsdp2", "zero1"),
    ],
)
def test_a_run_goes_on_under_another_backend(tmp_path, small, backends):
    pytest.importorskip("deepspeed")
    common = ("run.processes=2", "explain.fraction=0.25")
    whole = finish(tmp_path / "whole", small, *common)
    process, run = start(tmp_path, small, *common, f"train.backend={backends[0]}")
    wait_for_step(run, 6, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() == EXIT_STOPPED
    finish(tmp_path, small, *common, f"train.backend={backends[1]}")
    assert [line["backend"] for line in read_jsonl(run.provenance_file)] == list(backends)
    for mine, theirs in zip(science(run)["metrics"], science(whole)["metrics"], strict=True):
        assert mine == pytest.approx(theirs, abs=0.02)


@pytest.mark.slow
def test_fsdp2_with_a_process_that_would_explain_nothing_is_refused(tmp_path, small):
    process, run = start(tmp_path, small, "run.processes=2", "train.backend=fsdp2", "explain.fraction=0.01")
    _, errors = process.communicate()
    assert process.returncode == 2 and "needs a sample to explain on each of 2 processes" in errors
    assert run.state is State.PENDING


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "abc"}, {"RANK": "abc"}, {"WORLD_SIZE": "2", "RANK": "5"}])
def test_an_environment_that_no_launcher_makes_is_one_message(tmp_path, small, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run(command(tmp_path, small), capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2 and "expected numbers, RANK below WORLD_SIZE" in done.stderr
    assert "Traceback" not in done.stderr
