"""Recorded results made run directories again: what the next record has, and what a sweep finds done."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import analysis.recorded
import analysis.restore
from analysis.record import main as record
from genxai.files import append_jsonl
from genxai.runs import Run, State, find_runs

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


def test_a_sweep_finds_the_runs_done_and_may_plan_them_again(runs: Any, restore: Command, tmp_path: Path) -> None:
    assert "table2: 3 runs restored" in restore("table2")[1]
    originals = {run.signature: run.config() for run in find_runs(runs.path)}
    found = find_runs(tmp_path / "again", "table2")
    assert [run.signature for run in found] == sorted(originals)
    for run in found:
        assert run.state is State.DONE and run.result()["metrics"]["test/accuracy"] >= 0.9
        run.plan(originals[run.signature])
        assert run.config().origin == originals[run.signature].origin


def test_a_run_that_has_been_begun_is_left_alone(restore: Command, recorded: Path, tmp_path: Path) -> None:
    restore()
    first, *_ = find_runs(tmp_path / "again")
    first.result_file.unlink()
    before = first.provenance_file.read_bytes()
    code, said = restore()
    assert code == 0 and "0 runs restored" in said and "3 were there" in said
    assert first.state is State.STARTED and first.provenance_file.read_bytes() == before


def test_killed_between_any_two_files_it_leaves_no_run_and_the_next_call_completes_it(
    restore: Command, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.loads((recorded / "table2/runs.jsonl").read_text().splitlines()[0])
    whole = tmp_path / "whole"
    assert analysis.recorded.restore_run(whole, line)
    for name in ("append_jsonl", "write_json", "write_atomic"):
        folder = tmp_path / name

        def dies(*_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(analysis.recorded, name, dies)
            with pytest.raises(KeyboardInterrupt):
                analysis.recorded.restore_run(folder, line)
        assert find_runs(folder.parent, folder.name) == []
        assert analysis.recorded.restore_run(folder, line)
        run, same = Run(folder / line["signature"]), Run(whole / line["signature"])
        for file in os.listdir(same.path):
            assert (run.path / file).read_bytes() == (same.path / file).read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line["config"].update(seed=7), "has been changed"),
        (lambda line: line.pop("result"), "line 2 is damaged"),
        (lambda line: line["provenance"].clear(), "has been changed"),
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
    code, said = restore("--results", str(tmp_path))
    assert code == 1 and "no recorded results" in said
