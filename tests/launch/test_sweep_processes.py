"""The reconciler as a real process with real jobs: kills, restarts, limits. Only the trainer is a fake."""

import json
import math
import os
import random
import signal
import time

import pytest
import yaml

from genxai.files import read_jsonl
from genxai.runs import Run
from launch.processes import find_processes
from launch.submissions import histories, read_submissions
from launch.sweepdir import SweepDir

SMALL = ("bayes.points=0", "space.objective.lambda_gp.grid=[1]")


def jobs_of(fake_sweep) -> dict[int, str]:
    return find_processes(f"{fake_sweep.runs}/s/jobs/")


def test_a_sweep_completes_and_starting_it_again_computes_nothing(fake_sweep):
    words = ("bayes.points=1", "space.objective.lambda_bias.grid=[1]")
    done = fake_sweep.run("--max-parallel", "2", *words)
    assert done.returncode == 0, done.stderr
    assert "2 grid points + 1 Bayesian points" in done.stdout and "6/6 runs done" in done.stdout
    assert len(fake_sweep.finished()) == len(set(fake_sweep.finished())) == 6
    assert fake_sweep.most_alive() <= 2
    selected = yaml.safe_load((fake_sweep.runs / "s" / "selected.yaml").read_text())
    assert selected["selected"] in selected["front"] and selected["trials"]["complete"] == 3
    accuracy = selected["selected"]["objectives"]["val/accuracy"]
    off = abs(math.log10(selected["selected"]["point"]["objective.lambda_gp"] / 10))
    assert accuracy["n"] == 2 and math.isclose(accuracy["mean"], 1 / (1 + off) + 0.005)  # what the fake gives

    again = fake_sweep.run(*words, "--json")
    assert again.returncode == 0 and json.loads(again.stdout)["complete"] is True
    assert len(fake_sweep.finished()) == 6


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 3, 8])
def test_the_grid_is_visited_exactly_once_at_any_parallelism(fake_sweep, make_planner, parallel):
    words = ("bayes.points=0", "seeds=[0]", "space.objective.lambda_gp.grid=[1, 10, 50]")
    done = fake_sweep.run("--max-parallel", str(parallel), *words)
    assert done.returncode == 0, done.stderr
    wanted = [planned.config.objective for trial in make_planner(*words).grid() for planned in trial.runs]
    visited = [Run(fake_sweep.runs / "s" / name).config().objective for name in fake_sweep.finished()]
    assert len(visited) == len(wanted) == 6 and all(visited.count(point) == 1 for point in wanted)
    assert fake_sweep.jobs_started() == 6 and fake_sweep.most_alive() <= parallel


@pytest.mark.slow
def test_killed_at_any_moment_no_run_is_lost_or_computed_twice_and_the_same_points_are_proposed(
    fake_sweep, tmp_path, sweep_file
):
    moments = random.Random(7)
    codes = []
    words = ("bayes.points=2", "seeds=[0]")
    for _ in range(3):
        process = fake_sweep.start("--max-parallel", "2", *words)
        time.sleep(0.5 + moments.random())
        process.send_signal(signal.SIGKILL)
        process.communicate()
        codes.append(process.returncode)
    assert -signal.SIGKILL in codes
    end = fake_sweep.run("--max-parallel", "2", *words)
    assert end.returncode == 0, end.stderr
    assert len(fake_sweep.finished()) == len(set(fake_sweep.finished())) == 6
    assert fake_sweep.most_alive() <= 2
    assert fake_sweep.jobs_started() == 6  # not even started twice

    undisturbed = type(fake_sweep)(tmp_path / "undisturbed", sweep_file)
    assert undisturbed.run("--max-parallel", "4", *words).returncode == 0  # another degree of parallelism, too
    assert undisturbed.points() == fake_sweep.points()
    assert set(undisturbed.finished()) == set(fake_sweep.finished())


def test_jobs_that_outlive_a_killed_reconciler_are_recognised_even_without_their_ids(fake_sweep):
    (fake_sweep.runs / "steps").write_text("80")
    process = fake_sweep.start("--max-parallel", "2", *SMALL)
    fake_sweep.wait_until(lambda: len(list(fake_sweep.runs.glob("s/*/progress.json"))) == 2)
    process.kill()
    process.communicate()
    records = list((fake_sweep.runs / "s" / "submissions").glob("*.json"))
    for file in records:  # as if it had been killed before it noted the ids
        file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "intent", "jobs": []}))
    once = fake_sweep.run("--max-parallel", "2", "--once", "--json", *SMALL)
    assert json.loads(once.stdout)["runs"]["running"] == 2
    assert len(list((fake_sweep.runs / "s" / "submissions").glob("*.json"))) == len(records) == 2
    fake_sweep.wait_until(lambda: not jobs_of(fake_sweep))


def test_a_run_whose_process_is_killed_is_continued_from_its_checkpoint(fake_sweep):
    (fake_sweep.runs / "steps").write_text("40")
    words = ("seeds=[0]", "space.objective.lambda_bias.grid=[1]", *SMALL)
    process = fake_sweep.start("--max-parallel", "1", *words)
    fake_sweep.wait_until(lambda: list(fake_sweep.runs.glob("s/*/step")))
    victims = [pid for pid, command in jobs_of(fake_sweep).items() if "submitit.core._submit" in command]
    os.kill(victims[0], signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (provenance,) = fake_sweep.runs.glob("s/*/provenance.jsonl")
    first, second = (start["resumed_from_step"] for start in read_jsonl(provenance))
    assert first == 0 < second and len(fake_sweep.finished()) == 1


def test_ctrl_c_has_local_runs_save_and_stop_and_a_second_start_goes_on(fake_sweep):
    (fake_sweep.runs / "steps").write_text("200")
    words = ("--max-parallel", "2", "seeds=[0]", *SMALL)
    process = fake_sweep.start(*words)
    fake_sweep.wait_until(lambda: len(list(fake_sweep.runs.glob("s/*/step"))) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "all runs saved" in err and "Traceback" not in err
    assert not jobs_of(fake_sweep) and fake_sweep.finished() == []
    folder = SweepDir(fake_sweep.runs / "s")
    assert histories(folder, read_submissions(folder)) == {}  # jobs that were asked to stop are no attempts
    (fake_sweep.runs / "steps").write_text("3")
    assert fake_sweep.run(*words).returncode == 0


def test_sigterm_stops_as_ctrl_c_does(fake_sweep):
    (fake_sweep.runs / "steps").write_text("200")
    process = fake_sweep.start("--max-parallel", "1", *SMALL)
    fake_sweep.wait_until(lambda: list(fake_sweep.runs.glob("s/*/step")))
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and "all runs saved" in err and not jobs_of(fake_sweep)


def test_a_second_reconciler_says_who_holds_the_sweep_and_ends(fake_sweep):
    (fake_sweep.runs / "steps").write_text("40")
    first = fake_sweep.start("--max-parallel", "1", *SMALL)
    fake_sweep.wait_until(lambda: (fake_sweep.runs / "s" / "reconciler.json").exists())
    second = fake_sweep.run(*SMALL)
    assert second.returncode == 1
    assert "already being run" in second.stderr and f"process {first.pid}" in second.stderr
    first.terminate()
    first.communicate(timeout=30)


def test_failures_are_retried_up_to_the_limit_then_the_trial_fails_with_its_reasons(fake_sweep):
    (fake_sweep.runs / "fail").write_text("1")  # every run with lambda_gp = 1
    words = ("bayes.points=0", "retries=1", "seeds=[0]", "space.objective.lambda_bias.grid=[1]")
    done = fake_sweep.run(*words, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["complete"] and told["runs"]["failed"] == told["runs"]["done"] == 1
    assert [(t["trial"], t["n"]) for t in told["failed_trials"]] == [(0, 0)]
    assert "ValueError: asked to fail (2 times)" in told["failed_trials"][0]["reasons"][0]
    assert "  log: " in done.stderr and "_log.err" in done.stderr  # the fake writes no log.txt: its job's stderr
    (fake_sweep.runs / "fail").unlink()
    assert fake_sweep.run(*words).returncode == 1  # still failed, for good
    assert fake_sweep.run(*words, "--retry-failed").returncode == 0


def test_a_run_that_dies_without_a_word_is_not_started_for_ever(fake_sweep):
    (fake_sweep.runs / "die").write_text("1")
    done = fake_sweep.run("retries=0", "seeds=[0]", "space.objective.lambda_bias.grid=[1]", *SMALL)
    assert done.returncode == 1 and "died 2 times at step 0" in done.stdout


def test_once_submits_what_fits_and_ends_while_the_jobs_go_on(fake_sweep):
    (fake_sweep.runs / "steps").write_text("40")
    began = time.monotonic()
    done = fake_sweep.run("--once", "--max-parallel", "2", *SMALL)
    assert done.returncode == 0 and "start the same command again" in done.stdout
    assert time.monotonic() - began < 15 and len(jobs_of(fake_sweep)) > 0  # our pipe is not held open by the jobs
    fake_sweep.wait_until(lambda: len(fake_sweep.finished()) == 2)


def test_a_dry_run_prints_the_plan_and_writes_nothing(fake_sweep):
    done = fake_sweep.run("--dry-run")
    assert done.returncode == 0 and "14 missing" in done.stdout and "unknown until a run has finished" in done.stdout
    plan = json.loads(fake_sweep.run("--dry-run", "--json").stdout)
    assert plan["runs"]["total"] == 14 and plan["points"] == {"grid": 4, "bayes": 3}
    assert list(fake_sweep.runs.iterdir()) == []


def test_at_its_budget_a_sweep_pauses_with_a_message(fake_sweep):
    words = ("bayes.points=0", "seeds=[0]", "--max-parallel", "4")
    done = fake_sweep.run("budget.device_hours=0.03", *words)  # a fake run costs 0.01 device-hours
    assert done.returncode == 1 and "paused at the budget of 0.03 device-hours" in done.stderr
    assert len(fake_sweep.finished()) == 3
    refused = fake_sweep.run("budget.device_hours=0.03", *words)
    assert refused.returncode == 1 and len(fake_sweep.finished()) == 3
    assert fake_sweep.run("budget.device_hours=1", *words).returncode == 0


def test_a_wrong_objective_stops_the_sweep_after_the_first_run_and_names_the_metrics(fake_sweep):
    done = fake_sweep.run("objectives=[{metric: val/acuracy}]", "--max-parallel", "1", *SMALL)
    assert done.returncode == 1 and "val/acuracy" in done.stderr and "val/accuracy" in done.stderr
    assert len(fake_sweep.finished()) == 1
