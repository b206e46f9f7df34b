"""The command: what it writes and prints, how it ends, and what it never imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(REPOSITORY / "analysis" / "make_tables.py")]


def test_every_table_is_written_three_ways_and_printed(sweep: Any, tables: Any, tmp_path: Path) -> None:
    code, out, err = tables()
    assert code == 0
    names = {"cost", "rho", "table1", "table2", "table3", "table7", "table9", "sweep_lambda"}
    files = {file.name for file in (tmp_path / "tables").iterdir()}
    assert files == {f"{name}.{suffix}" for name in names for suffix in ("md", "csv", "tex")}
    assert (tmp_path / "tables" / "table2.md").read_text() in out
    assert "wrote 24 files" in err


def test_tables_can_be_chosen_by_number_or_name(sweep: Any, tables: Any, tmp_path: Path) -> None:
    def made(names: str) -> set[str]:
        code, _, _ = tables("--tables", names, "--out", str(tmp_path / names))
        assert code == 0
        return {file.stem for file in (tmp_path / names).iterdir()}

    assert made("2") == {"table2"}
    assert made("1,sweep") == {"table1", "sweep_lambda"}
    assert made("sweep_lambda") == {"sweep_lambda"}


@pytest.mark.parametrize("name", ["17", "sweep_nobody", ""])
def test_an_unknown_table_is_a_usage_error_and_writes_nothing(
    sweep: Any, tables: Any, tmp_path: Path, name: str
) -> None:
    code, out, err = tables("--tables", name)
    assert (code, out) == (2, "")
    assert err.startswith("error: --tables:") and "Traceback" not in err
    assert not (tmp_path / "tables").exists()


def test_a_missing_runs_folder_still_gives_tables(tables: Any, tmp_path: Path) -> None:
    code, out, err = tables()
    assert code == 0
    assert "no runs in" in err and "| Visual-only | — [" in out
    assert {file.stem for file in (tmp_path / "tables").iterdir()} == {"table1", "table2", "table3", "table7", "table9"}


def test_tables_beyond_the_papers_are_made_where_there_are_runs_or_they_are_asked_for(
    tables: Any, tmp_path: Path
) -> None:
    code, _, _ = tables("--tables", "generator,toxicity,text,rho,cost")
    assert code == 0
    assert {file.stem for file in (tmp_path / "tables").iterdir()} == {"generator", "toxicity", "text", "rho", "cost"}


def test_an_unreadable_runs_folder_is_one_plain_message(tables: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    code, out, err = tables()
    assert (code, out) == (1, "")
    assert err.startswith("error: cannot read the runs in") and err.count("\n") == 1


def test_an_unwritable_folder_is_one_plain_message(sweep: Any, tables: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    code, _, err = tables("--out", str(tmp_path / "file"))
    assert code == 1
    assert "choose another folder with --out" in err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_broken_run_is_a_warning(sweep: Any, tables: Any) -> None:
    victim = next((sweep.path / "lambda").glob("*/result.json"))
    victim.write_text("{")
    code, _, err = tables()
    assert code == 0
    assert f"warning: left out: {victim}" in err


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\xff",
        b"[" * 5000,
        b"2026-99-99",
        b"rule: [1]\ntrials: 3\nselected: {point: {no.such: 1}, runs: [[1], {a: 2}]}\n",
        b"selected: {point: {objective.lambda_gp: {foo: 1}}, runs: 3}\n",
        b"name: lambda\nbase: tiny\nspace: {no.such: {grid: [1]}}\n",
    ],
)
@pytest.mark.parametrize("name", ["sweep.yaml", "selected.yaml"])
def test_odd_files_of_a_sweep_do_not_keep_its_runs_from_the_tables(
    sweep: Any, tables: Any, name: str, content: bytes
) -> None:
    (sweep.path / "lambda" / name).write_bytes(content)
    for words in ((), ("--json",)):
        code, out, _ = tables(*words)
        assert code == 0 and "8 of 9 runs done" in out


def test_json_is_one_object_with_every_number(sweep: Any, tables: Any) -> None:
    code, out, _ = tables("--json")
    content = json.loads(out)
    assert code == 0
    documents = {document["name"]: document for document in content["documents"]}
    assert list(documents) == ["cost", "rho", "sweep_lambda", "table1", "table2", "table3", "table9", "table7"]
    rows = {row["id"]: row for row in documents["table2"]["tables"][0]["rows"]}
    assert rows["full"]["cells"]["accuracy"]["mean"] == pytest.approx(90.0)
    assert content["selected"]["lambda"]["selected"]["trial"] == 1


def test_the_same_runs_give_the_same_bytes(sweep: Any, tables: Any, tmp_path: Path) -> None:
    tables()
    first = {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()}
    tables()
    assert {file.name: file.read_bytes() for file in (tmp_path / "tables").iterdir()} == first


def test_the_script_runs_from_anywhere_and_imports_neither_torch_nor_training(sweep: Any, tmp_path: Path) -> None:
    check = (
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end.code\n"
        "loaded = {name.partition('.')[0] for name in sys.modules} & {'torch', 'torchvision', 'optuna'}\n"
        "rooms = [f'genxai.{room}' for room in ('training', 'models', 'data', 'explain')]\n"
        "loaded |= {name for name in rooms if name in sys.modules}\n"
        "assert not loaded, loaded\n"
    )
    arguments = ["--runs", str(sweep.path), "--out", "out"]
    command = [sys.executable, "-c", check, COMMAND[1], *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "table2.tex").exists()


def test_help_shows_examples_without_importing_anything_slow() -> None:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    code = "import sys; from analysis.make_tables import _parser; _parser().format_help()\n"
    code += "slow = {'pandas', 'scipy', 'torch', 'pydantic', 'rich'} & set(sys.modules)\nassert not slow, slow"
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=60).returncode == 0
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=60)
        times.append(time.perf_counter() - start)
    assert done.returncode == 0
    assert "examples:" in done.stdout and "--tables 1,2" in done.stdout
    assert min(times) < 1.5


def test_a_closed_pipe_is_no_traceback(sweep: Any, tmp_path: Path) -> None:
    arguments = [*COMMAND, "--runs", str(sweep.path), "--out", str(tmp_path / "out")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
