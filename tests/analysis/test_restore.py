"""Recorded results made run directories again: what the next record has, and what a sweep finds done."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import analysis.restore
import analysis.restoring
from analysis.record import main as record
from analysis.restoring import restorable, restore_sweep
from genxai.files import append_jsonl, exclusive, write_json
from genxai.runs import Run, State, find_runs
from launch.sweepdir import SweepDir

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def recorded(runs: Any, tmp_path: Path) -> Path:
    """The record of three finished runs, one of which was resumed."""
    origin = {"sweep": "table2", "trial": 1, "stage": "row", "point": {"train.lr": 0.01}, "row": "full"}
    for seed, value in enumerate((0.90, 0.91, 0.92)):
        run = runs.add({"train.lr": 0.01}, {"test/accuracy": value}, seed=seed, folder="table2", origin=origin)
        append_jsonl(run.metrics_file, {"step": 3, "split": "val", "accuracy": 0.123456789012})
    append_jsonl(run.provenance_file, {"restart": 1, "resumed_from_step": 2, "device": "another processor"})
    assert record(["--runs", str(runs.path), "--out", str(tmp_path / "kept")]) == 0
    return tmp_path / "kept"


@pytest.fixture
def restore(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process: exit code and stderr."""

    def command(*arguments: str) -> tuple[int, str]:
        code = analysis.restore.main(["--results", str(recorded), "--runs", str(tmp_path / "again"), *arguments])
        return code, capsys.readouterr().err

    return command


def test_what_is_restored_and_recorded_again_is_the_same_to_the_byte(
    recorded: Path, restore: Command, tmp_path: Path
) -> None:
    assert restore()[0] == 0
    assert record(["--runs", str(tmp_path / "again"), "--out", str(tmp_path / "twice")]) == 0
    assert (tmp_path / "twice/table2/runs.jsonl").read_bytes() == (recorded / "table2/runs.jsonl").read_bytes()


def test_the_counts_of_table_7_come_along_and_never_replace_others(
    recorded: Path, restore: Command, tmp_path: Path
) -> None:
    (recorded / "complexity").mkdir()
    for name in ("paper.json", "mine.json"):
        (recorded / "complexity" / name).write_text('{"name": "recorded"}')
    counted = tmp_path / "again" / "complexity"
    counted.mkdir(parents=True)
    (counted / "mine.json").write_text("{}")
    assert restore()[0] == 0
    assert (counted / "paper.json").read_text() == '{"name": "recorded"}'
    assert (counted / "mine.json").read_text() == "{}"


def test_a_sweep_finds_the_runs_done_and_may_plan_them_again(runs: Any, restore: Command, tmp_path: Path) -> None:
    assert "table2: 3 runs restored" in restore("table2")[1]
    originals = {run.signature: run.config() for run in find_runs(runs.path)}
    found = find_runs(tmp_path / "again", "table2")
    assert [run.signature for run in found] == sorted(originals)
    for run in found:
        assert run.state is State.DONE and run.result()["metrics"]["test/accuracy"] >= 0.9
        run.plan(originals[run.signature])
        assert run.config().origin == originals[run.signature].origin


def test_the_sweeps_own_files_come_along_and_never_replace_others(
    runs: Any, recorded: Path, restore: Command, tmp_path: Path
) -> None:
    for name in ("sweep.yaml", "selected.yaml"):
        (recorded / "table2" / name).write_text("name: table2\n")
    again = tmp_path / "again/table2"
    again.mkdir(parents=True)
    (again / "sweep.yaml").write_text("name: mine\n")
    restore()
    assert (again / "sweep.yaml").read_text() == "name: mine\n"
    assert (again / "selected.yaml").read_text() == "name: table2\n"


def test_a_run_that_is_only_planned_is_restored_and_what_was_begun_is_left_alone(
    runs: Any, restore: Command, tmp_path: Path
) -> None:
    planned, started, failed = sorted(find_runs(runs.path, "table2"), key=lambda run: run.config().seed)
    for run in (planned, started, failed):
        Run(tmp_path / "again/table2" / run.signature).plan(run.config())
    begun, broken = (Run(tmp_path / "again/table2" / run.signature) for run in (started, failed))
    append_jsonl(begun.provenance_file, {"restart": 0})
    write_json(broken.failed_file, {"exception": "OSError"})
    code, said = restore()
    assert code == 0 and "1 runs restored" in said
    assert "1 left as they were: started" in said and "1 left as they were: failed" in said
    assert Run(tmp_path / "again/table2" / planned.signature).state is State.DONE
    assert begun.state is State.STARTED and broken.state is State.FAILED
    again = restore()[1]
    assert "0 runs restored" in again and "1 left as they were: done" in again


def test_a_run_that_is_being_trained_is_left_alone(runs: Any, restore: Command, tmp_path: Path) -> None:
    first, *_ = find_runs(runs.path, "table2")
    busy = Run(tmp_path / "again/table2" / first.signature)
    busy.plan(first.config())
    with busy.lock():
        assert "2 runs restored" in restore()[1]
        assert busy.state is State.PENDING
    assert "1 runs restored" in restore()[1]


def test_it_has_the_folder_for_itself(restore: Command, tmp_path: Path) -> None:
    """Beside another one, or a sweep that plans runs in the same folder."""
    (tmp_path / "again/table2").mkdir(parents=True)
    with exclusive(SweepDir(tmp_path / "again/table2").lock):
        code, said = restore()
    assert code == 1 and "is in use by a sweep or another restore.py" in said
    assert find_runs(tmp_path / "again") == []


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("call", range(1, 7))
def test_killed_between_any_two_calls_it_leaves_the_finished_run_or_none(
    runs: Any, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, planned: bool
) -> None:
    """The calls of restoring one run: its four files, and one rename; two where it had been planned."""
    target, source, left = tmp_path / "again/table2", recorded / "table2", [call]
    (first, *_) = restorable(source / "runs.jsonl")
    if planned:
        Run(target / first.signature).plan(first.config)

    def dies_in_time(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
            return function(*arguments, **named)

        return counted

    with monkeypatch.context() as patch:
        for name in ("append_jsonl", "write_json", "write_atomic"):
            patch.setattr(analysis.restoring, name, dies_in_time(getattr(analysis.restoring, name)))
        patch.setattr(analysis.restoring.os, "rename", dies_in_time(os.rename))
        patch.setattr(analysis.restoring.shutil, "rmtree", lambda *_, **__: None)  # as after SIGKILL
        with pytest.raises(KeyboardInterrupt) if call <= 5 + planned else contextlib.nullcontext():
            restore_sweep(target, source, [first])
    assert all(run.state in (State.DONE, State.PENDING) for run in find_runs(target.parent))
    restore_sweep(target, source, [first])
    (run,) = find_runs(target.parent)
    whole = tmp_path / "whole"
    restore_sweep(whole, source, [first])
    same = Run(whole / first.signature)
    assert {file for file in os.listdir(run.path) if file != ".lock"} == set(os.listdir(same.path))
    for file in os.listdir(same.path):
        assert (run.path / file).read_bytes() == (same.path / file).read_bytes()


@pytest.mark.parametrize("folder", ["kept", "kept/table2", "kept/x/.."])
def test_runs_are_never_put_into_the_record(restore: Command, tmp_path: Path, folder: str) -> None:
    code, said = restore("--runs", str(tmp_path / folder))
    assert code == 2 and "is where the record is" in said


def test_evaluating_a_restored_run_says_that_its_checkpoints_were_not_kept(restore: Command, tmp_path: Path) -> None:
    from genxai.errors import CheckpointError
    from genxai.training.resume import kept_classifier

    restore()
    with pytest.raises(CheckpointError, match=r"its checkpoints were not kept; .* remove .*result.json"):
        kept_classifier(find_runs(tmp_path / "again")[0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line["config"].update(seed=7), "has been changed"),
        (lambda line: line.pop("result"), "line 2 is damaged"),
        (lambda line: line["provenance"].clear(), "does not say which data"),
    ],
)
def test_a_line_that_is_not_the_run_it_says_restores_nothing(
    recorded: Path, restore: Command, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    file = recorded / "table2/runs.jsonl"
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    change(lines[1])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, message = restore()
    assert code == 1 and said in message
    assert not (tmp_path / "again").exists()


def test_what_is_not_recorded_is_named_with_what_is(restore: Command, tmp_path: Path) -> None:
    code, said = restore("nobody")
    assert code == 2 and "'nobody' is not recorded" in said and "there are: table2" in said
    code, said = restore("--results", str(tmp_path / "empty"))
    assert code == 1 and "no recorded results" in said
