"""progress.json and what is left of a killed start: hours and redone steps survive, temporary files do not."""

import os
import signal

import pytest

from genxai import runs
from genxai.configfile import load_config
from genxai.data import fingerprint
from genxai.files import append_jsonl, read_json, read_jsonl, write_json
from genxai.runs import Run, run_signature
from genxai.training import Outcome, loop, train
from genxai.training import run as run_module


@pytest.fixture
def run(tmp_path, small):
    config = load_config("tiny", [*small, "run.pictures=false", "train.epochs=1"])
    run = Run(tmp_path / "sweep" / run_signature(config, fingerprint(config.data)))
    run.plan(config)
    return run


@pytest.fixture
def killed(run):
    """As after kills at step 7 which lost 4 steps before and left no checkpoint; 50 s of training."""
    append_jsonl(run.provenance_file, {"resumed_from_step": 0})
    write_json(run.progress_file, {"step": 7, "steps": 50, "seconds": 50.0, "steps_redone": 4})
    return run


@pytest.fixture
def before_steps(monkeypatch):
    """Calls a function before every step of training."""

    def call(function):
        step = loop.joint_step
        monkeypatch.setattr(loop, "joint_step", lambda *arguments: (function(), step(*arguments))[1])

    return call


@pytest.fixture
def stop_at_once(before_steps):
    """Has training stop after its first step, which is quicker than to go on to the end."""
    before_steps(lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_while_a_run_trains_its_steps_and_seconds_can_be_read(run, before_steps, monkeypatch):
    monkeypatch.setattr("genxai.training.progress.INTERVAL", 0.0)
    seen = []
    before_steps(lambda: seen.append(run.progress()))
    assert train(run) is Outcome.DONE
    steps = run.result()["steps"]
    assert [progress["step"] for progress in seen] == list(range(steps))
    assert [progress["seconds"] for progress in seen] == sorted(progress["seconds"] for progress in seen)
    assert all(progress["steps"] == steps and progress["steps_redone"] == 0 for progress in seen)
    end = run.progress()
    assert end["step"] == steps and seen[-1]["seconds"] < end["seconds"] <= run.result()["seconds"]


def test_what_kills_have_lost_is_known_from_the_next_start_on(killed, before_steps):
    seen = []
    before_steps(lambda: seen.append(killed.progress()))
    assert train(killed) is Outcome.DONE
    assert (seen[0]["step"], seen[0]["steps_redone"], seen[0]["seconds"]) == (0, 11, 50.0)
    assert killed.result()["steps_redone"] == 11 and killed.result()["seconds"] > 50.0


def test_a_checkpoint_keeps_what_was_lost_and_a_stop_loses_nothing(killed, stop_at_once):
    assert train(killed) is Outcome.STOPPED
    assert killed.progress()["step"] == 1 and killed.progress()["steps_redone"] == 11
    killed.progress_file.unlink()
    assert train(killed) is Outcome.STOPPED
    assert killed.progress()["steps_redone"] == 11 and killed.progress()["seconds"] > 50.0


@pytest.mark.parametrize("content", ["", '{"step": "many", "seconds": null, "steps_redone": NaN}'])
def test_a_damaged_progress_file_loses_only_the_count(killed, stop_at_once, content):
    killed.progress_file.write_text(content)
    assert train(killed) is Outcome.STOPPED
    assert killed.progress()["steps_redone"] == 0 and killed.progress()["seconds"] < 50.0


def test_progress_that_cannot_be_written_is_no_reason_to_fail(run, stop_at_once):
    run.progress_file.mkdir()
    assert train(run) is Outcome.STOPPED and run.progress() == {}


def test_a_start_removes_the_temporary_files_of_killed_ones_and_nothing_else(run, stop_at_once):
    ours = [".config.yaml.abcd1234", ".result.json.a_b2c3d4", ".FAILED.json.xxxxxxxx", ".progress.123"]
    ours += ["checkpoints/.LATEST.abcdefgh", "pictures/.samples-0000010.png.abcdefgh"]
    others = [".hidden", ".result.json.bak", "result.json.abcdefgh", ".config.yaml.ABCDEFGH", ".progress.old"]
    for name in (*ours, *others):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).touch()
    assert train(run) is Outcome.STOPPED
    assert [name for name in ours if (run.path / name).exists()] == []
    assert [name for name in others if not (run.path / name).exists()] == []


def test_a_start_that_finds_the_run_busy_touches_nothing(run, monkeypatch):
    monkeypatch.setattr(run_module, "PATIENCE", 0.01)
    leftover = run.path / ".result.json.abcd1234"
    leftover.touch()
    with run.lock():
        assert train(run) is Outcome.BUSY
    assert leftover.exists() and not run.provenance_file.exists()


def test_the_configuration_of_a_run_that_is_training_is_not_renewed(run, monkeypatch):
    monkeypatch.setattr(runs, "PLAN_PATIENCE", 0.01)
    config = run.config()
    more = config.model_copy(update={"run": config.run.model_copy(update={"processes": 2})})
    with run.lock():
        run.plan(more)
        assert run.config() == config
    run.plan(more)
    assert run.config() == more


def test_a_failure_is_counted_once_although_the_retry_was_killed_while_it_was_moved_aside(run, stop_at_once):
    failure = {"exception": "RuntimeError", "message": "a cosmic ray", "time": 1.0}
    append_jsonl(run.failures_file, failure)
    write_json(run.failed_file, failure)
    assert train(run) is Outcome.STOPPED
    assert read_jsonl(run.failures_file) == [failure] and not run.failed_file.exists()


def test_a_failure_says_on_which_device(run, monkeypatch):
    monkeypatch.setattr(loop, "joint_step", lambda *arguments: 1 / 0)
    assert train(run) is Outcome.FAILED
    assert read_json(run.failed_file)["device"] == "cpu"
