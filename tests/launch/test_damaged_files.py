"""Runs with damaged files: the commands name the file, and status goes on with the others."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from genxai.errors import GenxaiError
from genxai.files import append_jsonl, write_json
from launch import status, train
from launch.attempts import tried
from launch.records import read_result
from launch.submissions import History, intend, read_submissions
from launch.sweepfile import dump_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
GARBAGE = [b"\x00\xff\xfe\n", b"{\n", b"[1, 2]\n", b"null\n", b"3\n", b"[" * 100_000 + b"\n"]
RESULTS = [b"{}", b'{"metrics": 3}', b'{"metrics": {"val/accuracy": true}}', b'{"metrics": {}, "seconds": NaN}']


@pytest.fixture
def look(tmp_path, capsys):
    """What status tells of the sweep, and its warnings."""

    def told():
        assert status.main([str(tmp_path / "runs")]) == 0
        capsys.readouterr()
        assert status.main([str(tmp_path / "runs"), "--json"]) == 0
        said = capsys.readouterr()
        return json.loads(said.out)["sweeps"][0], said.err

    return told


@pytest.fixture
def victim(make_planner, finish):
    """A run that has failed, beside one that is done."""
    planner = make_planner("bayes.points=0")
    good, bad = planner.grid()[0].runs
    finish(good)
    bad.run.plan(bad.config)
    append_jsonl(bad.run.provenance_file, {"resumed_from_step": 0})
    append_jsonl(bad.run.metrics_file, {"step": 1, "seconds": 2.0})
    append_jsonl(bad.run.failures_file, {"exception": "ValueError", "message": "broken", "step": 4})
    write_json(bad.run.failed_file, {"exception": "ValueError", "message": "broken", "step": 4})
    return bad.run


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("name", ["result.json", "FAILED.json", "failures.jsonl", "provenance.jsonl", "metrics.jsonl"])
def test_status_names_a_damaged_file_and_shows_the_other_runs(look, victim, name, content):
    if name == "provenance.jsonl":  # asked only if the run has not failed
        victim.failed_file.unlink()
        victim.failures_file.unlink()
    (victim.path / name).write_bytes(content)
    told, said = look()
    assert told["counts"]["done"] == 1 and told["counts"]["unreadable"] == 1
    assert said.startswith(f"warning: {victim.path / name}") and said.count("\n") == 1 and len(said) < 600
    assert told["problems"] == [said.removeprefix("warning: ").rstrip("\n")]


@pytest.mark.parametrize("content", RESULTS)
def test_a_result_of_odd_types_is_damaged(look, victim, content):
    victim.result_file.write_bytes(content)
    told, said = look()
    assert told["counts"]["unreadable"] == 1 and "result.json is damaged: " in said
    with pytest.raises(GenxaiError, match="remove it to have the evaluation repeated"):
        read_result(victim)


def test_a_folder_in_place_of_a_file_is_named(look, victim):
    victim.result_file.mkdir()
    told, said = look()
    assert told["counts"]["unreadable"] == 1 and f"{victim.result_file}: cannot be read: Is a directory" in said


@pytest.mark.parametrize("content", GARBAGE)
@pytest.mark.parametrize("name", ["config.yaml", "progress.json"])
def test_status_does_not_need_these_files(look, victim, name, content):
    (victim.path / name).write_bytes(content)
    told, said = look()
    assert told["counts"]["done"] == 1 and told["counts"]["unreadable"] == 0 and said == ""


@pytest.mark.parametrize("content", [*GARBAGE, b"seeds: 3\n", b"name: s\nbase: tiny\nspace: []\n"])
def test_a_damaged_sweep_definition_only_hides_how_many_runs_are_wanted(look, victim, content):
    (victim.path.parent / "sweep.yaml").write_bytes(content)
    told, said = look()
    assert told["total"] is None and told["counts"]["done"] == 1 and "sweep.yaml" in said


@pytest.mark.parametrize("content", [*GARBAGE, b"selected: {trial: 1, objectives: [1], point: [2], runs: 3}\n"])
def test_a_damaged_selection_is_no_selection(look, victim, content):
    (victim.path.parent / "selected.yaml").write_bytes(content)
    told, _ = look()
    assert told["best"] is None and told["counts"]["done"] == 1


@pytest.mark.parametrize("content", [*GARBAGE, b'{"nonce": 3}', b'{"nonce": "a", "created": []}'])
def test_a_damaged_submission_is_named_by_status_and_stops_a_sweep(look, victim, make_planner, content):
    folder = make_planner().folder
    kept = intend(folder, "local", [(victim.signature, 0)], device="0")
    (folder.submissions / "0123456789.json").write_bytes(content)
    told, said = look()
    assert told["counts"]["done"] == 1 and "0123456789.json is no record of a submission" in said
    assert read_submissions(folder, []) == [kept]
    with pytest.raises(GenxaiError, match="remove it once its jobs have ended"):
        read_submissions(folder)


def test_the_number_of_wanted_runs_is_that_of_the_definition(look, make_planner, finish):
    planner = make_planner()
    finish(planner.grid()[0].runs[0])
    planner.folder.definition.write_text(dump_sweep(planner.sweep.definition))
    told, said = look()
    assert told["total"] == 14 and told["counts"]["missing"] == 13 and said == ""


def test_a_sweep_does_not_count_attempts_in_a_damaged_file(victim):
    victim.provenance_file.write_bytes(b"[]\n")
    with pytest.raises(GenxaiError, match=r"provenance\.jsonl: line 1 is damaged"):
        tried(victim, History())


@pytest.mark.parametrize("content", [*GARBAGE, *RESULTS])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_training_a_run_with_a_damaged_result_says_what_to_remove(victim, content, words, monkeypatch, capsys):
    from genxai import training

    monkeypatch.setattr(training, "train", lambda run, **options: training.Outcome.DONE)
    victim.failed_file.unlink()
    victim.result_file.write_bytes(content)
    assert train.main([str(victim.path), *words]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {victim.result_file} is damaged") and "remove it to have the evaluation" in last


def test_a_result_without_every_metric_is_summed_up(victim):
    write_json(victim.result_file, {"metrics": {"val/accuracy": 1, "val/f1_macro": None, "generator/bias_gap": None}})
    text = train.summary(victim)
    assert "1.000" in text and "generator/bias_gap: no value" in text


def unprivileged(*words: str) -> subprocess.CompletedProcess:
    """The command without root's right to open every file, which tests in containers have."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may read anywhere")
        words = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search", *words)
    return subprocess.run(words, capture_output=True, text=True, check=False)


COMMANDS = ["launch/status.py", "analysis/check_claims.py"]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("closed", [".", "s"])
def test_runs_that_are_all_closed_are_one_message(tmp_path, command, closed):
    (tmp_path / "runs" / "s" / "0").mkdir(parents=True)
    (tmp_path / "runs" / closed).chmod(0)
    done = unprivileged(sys.executable, str(REPOSITORY / command), "--runs", str(tmp_path / "runs"))
    (tmp_path / "runs" / closed).chmod(0o755)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "Permission denied" in done.stderr and str(tmp_path / "runs") in done.stderr


def test_status_of_a_colleagues_runs_shows_what_may_be_read(tmp_path, make_planner, finish):
    planner = make_planner("bayes.points=0")
    started, closed, done = (trial.runs[0] for trial in planner.grid()[:3])
    for planned in (started, closed):
        planned.run.plan(planned.config)
        append_jsonl(planned.run.provenance_file, {"resumed_from_step": 0})
    finish(done)
    (started.run.path / ".lock").touch(0)
    hidden = closed.run.path
    hidden.chmod(0)
    told = unprivileged(sys.executable, str(REPOSITORY / "launch" / "status.py"), str(tmp_path / "runs"), "--json")
    hidden.chmod(0o755)
    assert told.returncode == 0 and told.stderr == f"warning: {hidden}: Permission denied\n"
    counts = json.loads(told.stdout)["sweeps"][0]["counts"]
    assert counts["stopped"] == counts["done"] == 1 and sum(counts.values()) == 2
