"""The Journal file: what optuna-dashboard shows, how it follows a sweep, and what a kill leaves behind."""

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from genxai.runs import Run
from launch.journal import read_digest, write_journal
from launch.outcomes import Outcome
from launch.reconciler import only_reconciler

#: for each name a process that is killed between writing the file and publishing it
KILLED_WRITERS = """
import os, signal, sys
from pathlib import Path
from genxai.files import write_atomic

os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        write_atomic(Path(name), "half")
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


@pytest.fixture
def sweep(make_planner, complete):
    """A planner and five outcomes: two complete, one failed, two open, the last of them Bayesian."""
    planner = make_planner()
    trials = [*planner.grid(), planner.trial(4, "bayes", {"objective.lambda_gp": 5.0, "objective.lambda_bias": 0.2})]
    return planner, [
        complete(trials[0], 0.5, 0.9),
        complete(trials[1], 0.6, 0.8),
        Outcome(trials[2], "failed", reasons=("seed 0: no",)),
        Outcome(trials[3], "open"),
        Outcome(trials[4], "open"),
    ]


def saved(planner) -> optuna.Study:
    """The study as anybody reads it."""
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(planner.folder.journal)))
    return optuna.load_study(study_name="s", storage=storage)


def content(study: optuna.Study) -> list[tuple]:
    return [(t.number, t.state.name, t.values, t.params, t.distributions, t.user_attrs) for t in study.trials]


def test_the_journal_loads_in_optuna_with_values_states_and_exact_points(sweep):
    planner, outcomes = sweep
    write_journal(planner.folder, planner.sweep, outcomes)
    study = saved(planner)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING", "RUNNING"]
    assert study.trials[1].values == list(outcomes[1].means)
    assert '"objective.lambda_bias": 0.0' in study.trials[0].user_attrs["point"]
    assert study.trials[2].user_attrs["reasons"] == "seed 0: no"
    assert study.metric_names == ["val/accuracy", "val/ssim_align"]
    assert sorted(os.listdir(planner.folder.path)) == [".optuna-journal.digest", "optuna-journal.log"]


def test_a_study_that_is_open_follows_the_sweep_and_reads_what_a_new_one_reads(sweep, complete):
    planner, outcomes = sweep
    write_journal(planner.folder, planner.sweep, outcomes)
    standing = saved(planner)
    assert len(standing.trials) == 5
    before = planner.folder.journal.read_bytes()
    outcomes[3] = complete(outcomes[3].trial, 0.7, 0.7)
    outcomes[4] = Outcome(outcomes[4].trial, "failed", reasons=("seed 1: no",))
    point = {"objective.lambda_gp": 6.0, "objective.lambda_bias": 0.3}
    outcomes.append(Outcome(planner.trial(5, "bayes", point), "open"))
    write_journal(planner.folder, planner.sweep, outcomes)
    assert planner.folder.journal.read_bytes().startswith(before)
    assert [t.state.name for t in standing.trials] == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "FAIL", "RUNNING"]
    followed = content(standing)
    planner.folder.journal.unlink()
    write_journal(planner.folder, planner.sweep, outcomes)
    assert content(saved(planner)) == followed


@pytest.mark.parametrize("change", ["result", "retried", "fewer", "range", "name of an objective"])
def test_what_cannot_be_appended_is_written_anew(sweep, complete, make_planner, change):
    planner, outcomes = sweep
    write_journal(planner.folder, planner.sweep, outcomes)
    if change == "result":  # a run was removed and computed again, by another version
        outcomes[0] = complete(outcomes[0].trial, 0.1, 0.9)
    elif change == "retried":
        outcomes[2] = Outcome(outcomes[2].trial, "open")
    elif change == "fewer":
        outcomes = outcomes[:4]
    elif change == "range":
        planner = make_planner("space.objective.lambda_gp.high=300")
    else:
        planner = make_planner("objectives=[{metric: val/a}, {metric: val/b, direction: minimize}]")
    write_journal(planner.folder, planner.sweep, outcomes)
    found = content(saved(planner))
    planner.folder.journal.unlink()
    write_journal(planner.folder, planner.sweep, outcomes)
    assert content(saved(planner)) == found
    assert [state for _, state, *_ in found].count("COMPLETE") == 2
    assert saved(planner).metric_names == [objective.metric for objective in planner.sweep.definition.objectives]


def test_a_journal_with_a_torn_last_line_is_mended_and_a_damaged_one_replaced(sweep, complete):
    planner, outcomes = sweep
    write_journal(planner.folder, planner.sweep, outcomes)
    whole = planner.folder.journal.read_bytes()
    outcomes[3] = complete(outcomes[3].trial, 0.7, 0.7)
    for damaged in (whole + b'{"op_code": 8, "worker', whole[:-30], whole[30:], b"\x00\xff\n", b"[]\n3\n", b""):
        planner.folder.journal.write_bytes(damaged)
        write_journal(planner.folder, planner.sweep, outcomes, "digest")
        assert [trial.values for trial in saved(planner).trials][3] == [0.7, 0.7]
        assert len(saved(planner).trials) == 5
    assert read_digest(planner.folder) == "digest"


def test_a_stale_lock_of_another_program_is_not_waited_for(sweep):
    planner, outcomes = sweep
    planner.folder.path.mkdir(parents=True)
    lock = planner.folder.path / "optuna-journal.log.lock"  # of a dashboard that was killed while it wrote a note
    lock.touch()
    began = time.monotonic()
    write_journal(planner.folder, planner.sweep, outcomes)
    write_journal(planner.folder, planner.sweep, outcomes[:4])
    assert time.monotonic() - began < 20  # Optuna's own backend waits 30 s for each of its writes
    assert len(saved(planner).trials) == 4 and lock.exists()


def test_what_killed_writers_leave_behind_is_removed_by_the_next_reconciler_and_nothing_else(sweep):
    planner, outcomes = sweep
    folder = planner.folder.path
    write_journal(planner.folder, planner.sweep, outcomes)
    study = content(saved(planner))
    names = ["optuna-journal.log", ".optuna-journal.digest", "selected.yaml", "sweep.yaml", "reconciler.json"]
    subprocess.run([sys.executable, "-c", KILLED_WRITERS, *(str(folder / name) for name in names)], check=True)
    run = Run(folder / "0123456789ab")
    run.path.mkdir()
    kept = [".notes.yaml.abcdefgh", ".selected.yaml.mine", "selected.yaml.abcdefgh"]
    kept.append("0123456789ab/.config.yaml.abcdefgh")  # the run's own, for whoever holds the run's lock
    for name in kept:
        (folder / name).touch()
    assert {name[:-9].removeprefix(".") for name in leftovers(folder)} == {*names, "notes.yaml"}
    with only_reconciler(planner):
        assert leftovers(folder) == [".notes.yaml.abcdefgh"]
        assert all((folder / name).exists() for name in kept)
    assert content(saved(planner)) == study


def leftovers(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(".") and len(name.rpartition(".")[2]) == 8]


def ask(app, path: str) -> dict:
    """GET of a WSGI application, as JSON."""
    status: list[str] = []
    environment = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "here",
        "SERVER_PORT": "80",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.url_scheme": "http",
    }
    body = b"".join(app(environment, lambda line, headers, *rest: status.append(line)))
    assert status == ["200 OK"], (path, status, body)
    return json.loads(body)


def test_optuna_dashboard_opens_the_journal_and_shows_the_study(sweep):
    dashboard = pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is in the extra `dev`")
    planner, outcomes = sweep
    write_journal(planner.folder, planner.sweep, outcomes)
    app = dashboard.wsgi(str(planner.folder.journal))  # as `optuna-dashboard RUNS/s/optuna-journal.log` opens it
    (study,) = ask(app, "/api/studies")["study_summaries"]
    assert study["study_name"] == "s"
    assert study["directions"] == ["maximize", "maximize"]
    shown = ask(app, f"/api/studies/{study['study_id']}")
    assert shown["name"] == "s" and shown["objective_names"] == ["val/accuracy", "val/ssim_align"]
    assert [trial["state"] for trial in shown["trials"]] == ["Complete", "Complete", "Fail", "Running", "Running"]
    assert [trial.get("values") for trial in shown["trials"][:3]] == [[0.5, 0.9], [0.6, 0.8], None]
    assert {trial["number"] for trial in shown["best_trials"]} == {0, 1}
    names = {param["name"] for param in shown["union_search_space"]}
    assert names == {"objective.lambda_gp", "objective.lambda_bias"}
    attributes = {each["key"]: each["value"] for each in shown["trials"][2]["user_attrs"]}
    assert "seed 0: no" in attributes["reasons"]
