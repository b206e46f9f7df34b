"""Recorded results: what is kept of a run, what is not, and tables that do not notice the difference."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import analysis.commands
import analysis.make_tables
from analysis.measured import load_runs
from analysis.record import main
from analysis.recorded import refuse_paths, without_messages
from genxai.errors import GenxaiError
from genxai.files import append_jsonl

HERE = {"data.dataset": "mnist", "data.rho": 0.98}


@pytest.fixture
def record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: exit code, stdout, stderr."""

    def command(*arguments: str) -> tuple[int, str, str]:
        code = main(["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "kept"), *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def finished(runs: Any) -> Any:
    """A sweep with rows that has ended."""
    ends = {"intervals": {"test/accuracy": [0.8, 0.95]}, "class_counts": {"test": [10] * 10}}
    for seed, value in enumerate((0.90, 0.91, 0.92)):
        origin = {"sweep": "table2", "trial": 1, "stage": "row", "point": {}, "row": "full"}
        run = runs.add({}, {"test/accuracy": value}, seed=seed, folder="table2", origin=origin, result=ends)
        append_jsonl(run.metrics_file, {"step": 3, "split": "val", "accuracy": 0.123456789012})
    signatures = sorted(path.parent.name for path in (runs.path / "table2").glob("*/result.json"))
    runs.sweep_files("table2", {"base": "/home/somebody/base.yaml", "space": {"train.lr": {"grid": [1]}}}, None)
    runs.select("table2", [{"row": "full", "setting": HERE, "seeds": [0, 1, 2], "runs": signatures}])
    return runs


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "runs.jsonl").read_text().splitlines()]


def test_tables_from_recorded_results_are_those_from_the_runs(
    finished: Any, record: Any, tables: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert record()[0] == 0
    assert tables()[0] == 0
    arguments = ["--runs", str(tmp_path / "kept"), "--out", str(tmp_path / "again")]
    assert analysis.make_tables.main(arguments) == 0
    capsys.readouterr()
    made = {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()}
    assert made == {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert b"91.0" in made["table2.md"]


def test_a_line_has_what_another_person_can_use_and_nothing_of_the_machine(
    finished: Any, record: Any, tmp_path: Path
) -> None:
    assert record()[0] == 0
    first, *_ = lines(tmp_path / "kept" / "table2")
    assert set(first) == {"signature", "config", "result", "metrics", "provenance"}
    assert first["result"]["intervals"] == {"test/accuracy": [0.8, 0.95]}
    assert first["metrics"] == [{"step": 3, "split": "val", "accuracy": 0.123457}]
    assert first["provenance"] == [
        {"time": "2026-01-01T00:00:00+00:00", "restart": 0, "device": "a processor", "threads": 1, "data": "data"}
    ]
    everything = "".join(file.read_text() for file in (tmp_path / "kept").rglob("*") if file.is_file())
    assert "somebody" not in everything and "node17" not in everything and str(tmp_path) not in everything
    assert yaml.safe_load((tmp_path / "kept" / "table2" / "sweep.yaml").read_text())["base"] == "base.yaml"


def test_local_weights_are_named_by_their_content(runs: Any, record: Any, tmp_path: Path) -> None:
    weights = tmp_path / "resnet.safetensors"
    weights.write_bytes(b"weights")
    image = {"model.image.name": "resnet18", "model.image.input_size": 64, "model.image.weights": str(weights)}
    origin = {"sweep": "s", "trial": 0, "stage": "grid", "point": {"model.image.weights": str(weights)}}
    runs.add(image, {"test/accuracy": 0.5}, folder="s", origin=origin)
    assert record()[0] == 0
    (line,) = lines(tmp_path / "kept" / "s")
    named = line["config"]["model"]["image"]["weights"]
    assert named.startswith("sha256:") and line["config"]["origin"]["point"] == {"model.image.weights": named}
    assert len(load_runs(tmp_path / "kept")) == 1


def test_weights_that_are_no_longer_here_cannot_be_named_and_nothing_is_written(
    runs: Any, record: Any, tmp_path: Path
) -> None:
    image = {"model.image.name": "resnet18", "model.image.input_size": 64, "model.image.weights": "/gone/w.safetensors"}
    runs.add(image, {}, folder="s")
    code, _, err = record()
    assert code == 1 and "config.model.image.weights is '/gone/w.safetensors'" in err
    assert not (tmp_path / "kept").exists()


def test_recording_again_gives_the_same_bytes_and_replaces_what_has_changed(
    finished: Any, record: Any, tmp_path: Path
) -> None:
    def content() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in (tmp_path / "kept" / "table2").iterdir()}

    record()
    first = content()
    assert set(first) == {"sweep.yaml", "selected.yaml", "runs.jsonl"}
    record()
    assert content() == first
    finished.add({"train.lr": 0.5}, {"test/accuracy": 0.5}, folder="table2")
    record()
    assert set(content()) == {"sweep.yaml", "selected.yaml", "runs.jsonl"}
    assert [line["signature"] for line in lines(tmp_path / "kept" / "table2")] == sorted(
        path.parent.name for path in (finished.path / "table2").glob("*/result.json")
    )


def test_a_sweep_that_has_not_ended_is_refused_with_what_is_missing(finished: Any, record: Any, tmp_path: Path) -> None:
    started = finished.add({"train.lr": 0.5}, {}, folder="table2", state="started")
    waiting = {"row": "jtt", "setting": HERE, "seeds": [0]}
    planned = {"row": "dfr", "setting": HERE, "seeds": [0], "runs": ["0123456789ab"]}
    finished.select("table2", [waiting, planned])
    code, _, err = record()
    assert code == 1
    assert f"1 runs only started ({started.signature})" in err
    assert "nothing chosen yet for jtt" in err and "1 runs of its rows not begun" in err
    assert not (tmp_path / "kept").exists()
    code, _, err = record("--partial")
    assert code == 0 and "nothing chosen yet for jtt" in err
    assert len(lines(tmp_path / "kept" / "table2")) == 3


def test_a_search_that_has_not_ended_is_refused(sweep: Any, record: Any) -> None:
    code, _, err = record("lambda")
    assert code == 1 and "3 of 4 trials have ended" in err and "1 runs only failed" in err


def test_a_record_never_loses_a_run_that_the_runs_folder_lacks(finished: Any, record: Any, tmp_path: Path) -> None:
    """As on a machine where the runs of another session have not been restored."""
    record()
    kept = {file: file.read_bytes() for file in (tmp_path / "kept" / "table2").iterdir()}
    shutil.rmtree(min((finished.path / "table2").glob("*/result.json")).parent)
    for options, said in (((), "has not ended"), (("--partial",), "has 1 runs that are not finished")):
        code, _, err = record(*options)
        assert code == 1 and said in err
        assert {file: file.read_bytes() for file in (tmp_path / "kept" / "table2").iterdir()} == kept
    assert "analysis/restore.py" in err


@pytest.mark.parametrize("damage", [b'{"signature": ', b"\xff\xfe"])
def test_a_damaged_line_does_not_let_the_others_be_lost(
    finished: Any, record: Any, tmp_path: Path, damage: bytes
) -> None:
    record()
    file = tmp_path / "kept" / "table2" / "runs.jsonl"
    whole = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([damage, *whole[1:]]) + b"\n")
    assert record()[0] == 0 and file.read_bytes().splitlines() == whole  # all are here: the record is whole again
    file.write_bytes(b"\n".join([damage, *whole[1:]]) + b"\n")
    shutil.rmtree(finished.path / "table2" / json.loads(whole[1])["signature"])
    code, _, err = record("--partial")
    assert code == 1 and "has 1 runs that are not finished" in err


def test_a_record_never_loses_the_sweeps_own_files(finished: Any, record: Any, tmp_path: Path) -> None:
    record()
    kept = {file: file.read_bytes() for file in (tmp_path / "kept" / "table2").iterdir()}
    for name in ("sweep.yaml", "selected.yaml"):
        (finished.path / "table2" / name).unlink()
    code, _, err = record()
    assert code == 1 and "has sweep.yaml and selected.yaml, the folder of runs has not" in err
    assert record("--partial")[0] == 0
    assert {file: file.read_bytes() for file in (tmp_path / "kept" / "table2").iterdir()} == kept


def test_a_sweep_without_a_finished_run_leaves_no_record(runs: Any, record: Any, tmp_path: Path) -> None:
    runs.add({}, {}, folder="s", state="pending")
    code, _, err = record("--partial")
    assert code == 1 and "none of its runs has finished" in err
    assert not (tmp_path / "kept").exists()


def test_only_the_sweeps_asked_for_are_recorded(finished: Any, record: Any, tmp_path: Path) -> None:
    finished.add({}, {"test/accuracy": 0.1}, folder="other")
    assert record("table2")[0] == 0
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["table2"]
    code, _, err = record("nobody")
    assert code == 2 and "there are: other, table2" in err


def test_a_damaged_line_is_named_and_the_others_are_read(finished: Any, record: Any, tmp_path: Path) -> None:
    record()
    file = tmp_path / "kept" / "table2" / "runs.jsonl"
    whole = file.read_text().splitlines()
    file.write_text("\n".join([whole[0], '{"signature": "x", "config": {}}', "[1]", whole[2]]) + "\n")
    results = load_runs(tmp_path / "kept")
    assert len(results) == 2
    assert [problem.split(": ")[1] for problem in results.problems] == ["line 2 is damaged", "line 3 is damaged"]
    file.write_text("\n".join(whole))  # its last newline is gone, so the last line may be cut off
    results = load_runs(tmp_path / "kept")
    assert len(results) == 2 and "its last line is cut off" in results.problems[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line["result"]["metrics"].update({"test/accuracy": 5.0}), "no share between 0 and 1"),
        (lambda line: line["result"].update(signature="0123456789ab"), "that of the run 0123456789ab"),
        (lambda line: line.update(metrics=[1]), "lists of objects"),
        (lambda line: line.update(metrics=None), "is damaged"),
        (lambda line: line.update(provenance="words"), "lists of objects"),
    ],
)
def test_a_recorded_line_is_held_to_what_a_run_is(
    finished: Any, record: Any, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    record()
    kept = lines(tmp_path / "kept" / "table2")
    change(kept[1])
    (tmp_path / "kept" / "table2" / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    results = load_runs(tmp_path / "kept")
    assert len(results) == 2 and len(results.problems) == 1
    assert "line 2" in results.problems[0] and said in results.problems[0]


def test_a_run_recorded_twice_in_one_file_counts_once_and_is_named(finished: Any, record: Any, tmp_path: Path) -> None:
    record()
    file = tmp_path / "kept" / "table2" / "runs.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    results = load_runs(tmp_path / "kept")
    assert len(results) == 3 and "stands there twice" in results.problems[0]


def test_the_runs_and_their_record_side_by_side_count_once(finished: Any, record: Any, tmp_path: Path) -> None:
    assert record()[0] == 0
    (tmp_path / "kept" / "table2").rename(tmp_path / "runs" / "recorded")
    (configuration,) = load_runs(tmp_path / "runs").configurations()
    assert configuration.sample("test/accuracy").n == 3


@pytest.mark.parametrize("name", ["", "table*", "../runs/table2", "[ab]", "/tmp"])
def test_a_sweep_is_named_by_its_folder_and_by_nothing_else(
    finished: Any, record: Any, tmp_path: Path, name: str
) -> None:
    code, _, err = record(name)
    assert code == 2 and f"{name!r} is no sweep with runs in" in err
    assert not (tmp_path / "kept").exists()


def test_a_folder_with_a_pattern_for_a_name_is_recorded_like_any_other(runs: Any, record: Any, tmp_path: Path) -> None:
    runs.add({}, {"test/accuracy": 0.5}, folder="s")
    (runs.path / "s").rename(runs.path / "[ab]")
    assert record()[0] == 0 and len(lines(tmp_path / "kept" / "[ab]")) == 1


@pytest.mark.parametrize("out", ["runs", "runs/table2", "runs/x/..", "link"])
def test_nothing_is_recorded_where_the_runs_are(finished: Any, record: Any, tmp_path: Path, out: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    before = sorted(tmp_path.rglob("*"))
    code, _, err = record("--out", str(tmp_path / out))
    assert code == 2 and "is where the runs are" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_rows_that_share_runs_with_another_sweep_need_that_recorded_too(
    finished: Any, record: Any, tmp_path: Path
) -> None:
    runs = sorted(path.parent.name for path in (finished.path / "table2").glob("*/result.json"))
    finished.add({"train.lr": 0.5}, {"test/accuracy": 0.5}, folder="table3")
    finished.select("table3", [{"row": "full", "setting": HERE, "seeds": [0, 1, 2], "runs": runs}])
    code, _, err = record("table3")
    assert code == 1 and "table3: runs of its rows lie in table2: record that too" in err
    assert record("table2")[0] == 0 and record("table3")[0] == 0


def test_a_sweep_with_rows_whose_selection_is_gone_has_not_ended(runs: Any, record: Any) -> None:
    definition = {"base": "tiny", "space": {"data.rho": {"grid": [0.98]}}, "rows": {"full": {"set": {}}}}
    runs.add({}, {"test/accuracy": 0.5}, folder="s")
    runs.sweep_files("s", definition, None)
    code, _, err = record()
    assert code == 1 and "does not say which runs are whose" in err


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("result.json", "[]", "damaged"),
        ("result.json", '{"metrics": {"test/accuracy": NaN}}', "damaged"),
        ("result.json", '{"metrics": {"test/accuracy": 93.2}}', "no share between 0 and 1"),
        ("result.json", '{"metrics": {}, "signature": "0123456789ab"}', "that of the run 0123456789ab"),
        ("result.json", "[" * 100_000, "damaged"),
        ("metrics.jsonl", '{"step": NaN}\n', "damaged"),
        ("provenance.jsonl", "5\n", "damaged"),
        ("provenance.jsonl", "[1]\n", "damaged"),
        ("config.yaml", "3", "config.yaml"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_recorded(
    finished: Any, record: Any, tmp_path: Path, file: str, content: str, said: str
) -> None:
    victim = min((finished.path / "table2").glob("*/result.json")).parent
    (victim / file).write_text(content)
    code, _, err = record()
    assert code == 1 and said in err and str(victim) in err
    assert not (tmp_path / "kept").exists()


def test_a_changed_configuration_is_not_recorded_as_the_run_of_its_folder(finished: Any, record: Any) -> None:
    victim = min((finished.path / "table2").glob("*/config.yaml"))
    victim.write_text(victim.read_text().replace("seed: 0", "seed: 4", 1).replace("seed: 1", "seed: 4", 1))
    code, _, err = record()
    assert code == 1 and f"{victim} has been changed" in err


def test_failures_are_recorded_by_their_exceptions_without_what_they_name(
    finished: Any, record: Any, tmp_path: Path
) -> None:
    why = "seed 100: DataError: cannot read '/home/bob/data.gz' on node17"
    finished.select("table2", [{"row": "jtt", "setting": HERE, "seeds": [0], "failed": why}])
    assert record("--partial")[0] == 0
    kept = (tmp_path / "kept" / "table2" / "selected.yaml").read_text()
    assert "failed: DataError" in kept and "bob" not in kept and "node17" not in kept


def test_what_a_search_selected_is_kept_with_its_counts() -> None:
    trials = {"wanted": 3, "complete": 2, "failed": 1}
    assert without_messages({"trials": trials}) == {"trials": trials}


@pytest.mark.parametrize("value", ["/data/x", "see /data/x", "file:///data/x", "~/x"])
def test_a_path_anywhere_in_a_text_is_refused(value: str) -> None:
    with pytest.raises(GenxaiError, match="a path of a machine"):
        refuse_paths({"notes": [value]}, "here")
    with pytest.raises(GenxaiError, match="a path of a machine"):
        refuse_paths({value: 1}, "here")
    refuse_paths({"metric": "val/accuracy, 1/2 of it", "ratio": "a / b"}, "here")


@pytest.mark.parametrize("command", ["make_tables", "check_claims"])
def test_without_runs_the_recorded_results_are_shown_and_that_is_said(
    finished: Any,
    record: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    import importlib

    record()
    monkeypatch.setattr(analysis.commands, "RECORDED", tmp_path / "kept")
    monkeypatch.delenv("GENXAI_RUNS", raising=False)
    monkeypatch.chdir(tmp_path / "kept")
    program = importlib.import_module(f"analysis.{command}").main
    only = ["--tables", "2"] if command == "make_tables" else []
    assert program([*only, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert f"showing the recorded results in {tmp_path / 'kept'}" in shown.err and "91.0" in shown.out
    (tmp_path / "kept" / "runs").mkdir()  # now there is a folder of runs, though nothing is in it
    assert program([*only, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "showing" not in shown.err and "no runs in" in shown.err


def test_what_table_7_is_made_of_is_recorded_too(finished: Any, record: Any, tmp_path: Path) -> None:
    (finished.path / "complexity").mkdir()
    (finished.path / "complexity" / "tiny.json").write_text("{}")
    assert record()[0] == 0
    assert (tmp_path / "kept" / "complexity" / "tiny.json").read_text() == "{}"


def test_several_versions_of_the_code_are_told(finished: Any, record: Any) -> None:
    assert "several versions" not in record()[2]
    first = min((finished.path / "table2").glob("*/provenance.jsonl"))
    start = json.loads(first.read_text()) | {"git": {"commit": "0123456789abcdef", "dirty": None}}
    first.write_text(json.dumps(start) + "\n")
    assert "several versions of the code: unknown (2), 0123456789ab (1)" in record()[2]
