"""A table as launch/sweep.py brings it about: the reconciler as a real process, with fake jobs and once real ones."""

import json
import signal
import subprocess
import sys

import pytest
import yaml

from genxai.runs import Run, State
from launch.cli import REPOSITORY

GP = "objective.lambda_gp"
#: one seed per row: 3 selection runs and 6 row runs
SMALL = ("seeds=[0]", "rows.full.seeds=[0]")


def selected(fake_table) -> dict:
    return yaml.safe_load((fake_table.runs / "r" / "selected.yaml").read_text())


def test_a_table_is_chosen_and_run_in_one_command_and_starting_it_again_computes_nothing(fake_table):
    done = fake_table.run("--max-parallel", "4")
    assert done.returncode == 0, done.stderr
    assert "3 selection runs + 14 row runs = 17 runs" in done.stdout and "17/17 runs done" in done.stdout
    assert "full, rho 0.9: chose lambda_gp=10, val/accuracy 2.0" in done.stdout
    assert "full_balanced, rho 0.9: chose lambda_gp=1, val_balanced/accuracy" in done.stdout
    assert len(fake_table.finished()) == len(set(fake_table.finished())) == 17
    before = (fake_table.runs / "r" / "selected.yaml").read_bytes()
    again = fake_table.run("--json")
    told = json.loads(again.stdout)
    assert again.returncode == 0 and told["complete"] is True
    assert {row["state"] for row in told["rows"]} == {"complete"}
    assert len(fake_table.finished()) == 17
    assert (fake_table.runs / "r" / "selected.yaml").read_bytes() == before
    assert not list((fake_table.runs / "r").glob("*optuna*"))


def test_a_table_whose_reconciler_is_killed_while_it_chooses_and_while_rows_run_goes_on(fake_table):
    (fake_table.runs / "steps").write_text("8")
    for finished in (1, 5):  # of the three that choose, and of the six rows
        process = fake_table.start("--max-parallel", "3", *SMALL)
        fake_table.wait_until(lambda finished=finished: len(fake_table.finished()) >= finished)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert fake_table.run("--max-parallel", "3", *SMALL).returncode == 0
    assert len(fake_table.finished()) == len(set(fake_table.finished())) == 9
    assert [choice["chosen"] for choice in selected(fake_table)["choices"]] == [{GP: 10.0}, {GP: 1.0}]


def test_a_failed_candidate_makes_the_exit_code_1_and_the_rows_go_on_without_it(fake_table):
    (fake_table.runs / "fail").write_text("10")  # every run with lambda_gp = 10: plain rows too, which is tiny's
    done = fake_table.run("--max-parallel", "4", "retries=0", *SMALL)
    assert done.returncode == 1, done.stderr
    assert "full, rho 0.9, trying lambda_gp=10 failed:" in done.stdout and "plain, rho 0.5 failed:" in done.stdout
    assert "full, rho 0.9: chose lambda_gp=50" in done.stdout and "of 3 candidates (1 failed)" in done.stdout
    (fake_table.runs / "fail").unlink()
    assert fake_table.run("--max-parallel", "4", "--retry-failed", *SMALL).returncode == 0
    assert selected(fake_table)["choices"][0]["chosen"] == {GP: 10.0}


TABLE = """
name: real
base: tiny
space: {data.rho: {grid: [0.9]}}
seeds: [0]
selection_seeds: [100]
rows:
  full: {choose: {space: {objective.lambda_attribution: [1, 5]}, by: val/accuracy}}
"""


@pytest.mark.slow
def test_a_table_of_real_runs_is_chosen_on_validation_data_and_frozen(tmp_path, small):
    file = tmp_path / "real.yaml"
    file.write_text(TABLE)
    words = [*small, "train.epochs=1"]
    command = [sys.executable, str(REPOSITORY / "launch" / "sweep.py"), str(file), "--runs", str(tmp_path / "runs")]
    done = subprocess.run(
        [*command, "--max-parallel", "2", *words], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    content = yaml.safe_load((tmp_path / "runs" / "real" / "selected.yaml").read_text())
    (choice,) = content["choices"]
    candidates = {c["point"]["objective.lambda_attribution"]: c for c in choice["candidates"]}
    for candidate in candidates.values():
        result = Run(tmp_path / "runs" / "real" / candidate["runs"][0]).result()
        assert candidate["mean"] == result["metrics"]["val/accuracy"] and result["seed"] == 100
    best = max(candidates, key=lambda value: (candidates[value]["mean"], -value))
    assert choice["chosen"] == {"objective.lambda_attribution": best}
    for row in content["rows"]:
        run = Run(tmp_path / "runs" / "real" / row["runs"][0])
        assert run.state is State.DONE and run.config().objective.lambda_attribution == best
        assert run.config().seed == 0 and run.config().origin.row == row["row"]
