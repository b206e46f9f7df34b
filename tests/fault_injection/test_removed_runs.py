"""A run directory deleted by hand while its run is trained: it is computed again, all else is as ever."""

import shutil
import time

import children
import pytest
from damage import remove
from light_sweeps import LightSweep
from light_training import LightRun

from genxai.errors import RunRemoved
from genxai.runs import Run, find_runs


def until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def test_a_process_whose_run_was_begun_anew_by_another_knows(tmp_path):
    run = Run(tmp_path / "s" / "0")
    run.path.mkdir(parents=True)
    run.require()  # without a lock nothing is required
    with run.lock() as acquired:
        assert acquired
        run.require()
        shutil.rmtree(run.path)
        with pytest.raises(RunRemoved, match="was removed while it was being trained"):
            run.require()
        run.path.mkdir()
        (run.path / ".lock").touch()  # another process has taken its place
        with pytest.raises(RunRemoved):
            run.require()
    run.require()


@pytest.mark.slow
def test_a_run_removed_while_it_trains_ends_with_one_message_and_leaves_nothing_behind(
    tmp_path, small, undisturbed_run
):
    run = LightRun(tmp_path, small)
    process = run.start()
    until(lambda: (run.run.checkpoints / "LATEST").exists() or not process.is_alive())
    config = run.run.config_file.read_bytes()
    remove(run.run.path)
    assert children.wait(process) and process.exitcode == 1
    said = run.output.read_text()
    assert "was removed while it was being trained" in said.splitlines()[-1] and "Traceback" not in said, said
    assert not run.run.path.exists(), sorted(run.run.path.rglob("*"))

    run.run.path.mkdir()
    run.run.config_file.write_bytes(config)
    assert run.train() == 0, run.said()
    assert run.findings() == undisturbed_run.findings()


@pytest.mark.slow
def test_a_run_removed_while_its_sweep_goes_on_is_computed_again_and_the_tables_are_right(tmp_path):
    words = ("bayes.points=0", "retries=0")
    undisturbed = LightSweep(tmp_path / "undisturbed", *words)
    sweep = LightSweep(tmp_path / "removed", *words)
    for each in (undisturbed, sweep):
        (each.runs / "real").touch()
    assert undisturbed.run() == 0, undisturbed.said()
    process = sweep.start()
    until(lambda: any((run.checkpoints / "LATEST").exists() for run in find_runs(sweep.runs)))
    victim = next(run for run in find_runs(sweep.runs) if (run.checkpoints / "LATEST").exists())
    remove(victim.path)
    assert children.wait(process, 300) and process.exitcode == 0, sweep.said()
    assert sweep.findings() == undisturbed.findings() and "Traceback" not in sweep.said()
