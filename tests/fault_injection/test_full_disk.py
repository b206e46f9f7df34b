"""The disk full at any publication: one plain message, nothing lost, and on it goes once there is room."""

import random

import pytest
from damage import fill
from light_sweeps import LightSweep
from light_training import LightRun
from writes import Fault

from genxai.runs import State


def test_a_disk_that_fills_up_at_any_write_of_a_sweep_ends_it_with_one_message(tmp_path, undisturbed):
    findings, calls = undisturbed
    chooser = random.Random(20261125)
    submission = next(number for number, call in enumerate(calls, 1) if call.startswith("start")) + 2
    selected = next(number for number, call in enumerate(calls, 1) if "selected.yaml" in call)
    for number in sorted({submission, selected, *chooser.sample(range(1, len(calls) + 1), 5)}):
        sweep = LightSweep(tmp_path / str(number))
        code = sweep.run(Fault(number, "full"))
        errors = [line for line in sweep.said().splitlines() if "No space left" in line]
        assert "Traceback" not in sweep.said(), sweep.said()
        assert code == 0 or (code == 1 and len(errors) == 1 and errors[0].startswith("error: ")), sweep.said()
        assert sweep.run() == 0, sweep.said()
        assert sweep.findings() == findings


@pytest.mark.slow
def test_a_disk_that_is_really_full_ends_a_sweep_with_one_message(small_disk, tmp_path, undisturbed):
    sweep = LightSweep(small_disk / "sweep")
    sweep.output = tmp_path / "output"  # a terminal has room
    ballast = fill(small_disk)
    assert sweep.run() == 1
    assert sweep.said().count("No space left") == 1 and "Traceback" not in sweep.said()
    ballast.unlink()
    assert sweep.run() == 0, sweep.said()
    assert sweep.findings() == undisturbed[0]


@pytest.mark.slow
def test_a_disk_that_fills_up_while_a_run_publishes_ends_it_and_it_goes_on_when_there_is_room(
    tmp_path, small, undisturbed_run
):
    """One run, ended by a full disk at a start, at a checkpoint, at an evaluation, at its result."""
    run = LightRun(tmp_path, small)
    for call in ("write provenance", "write tensors", "write metrics", "os.rename .step", "write .result"):
        at = 40 if call == "write tensors" else 1
        assert run.train(Fault(at, "full", call)) == 1, f"{call}: {run.said()}"
        said = run.output.read_text()
        assert run.run.state in (State.PENDING, State.STARTED) and "Traceback" not in said, said
        assert "No space left on device" in said.splitlines()[-1] and said.splitlines()[-1].startswith("error: ")
    assert run.train() == 0, run.said()
    assert run.findings() == undisturbed_run.findings()


@pytest.mark.slow
def test_a_sweep_whose_runs_meet_a_full_disk_says_so_and_counts_nothing_against_them(small_disk):
    """Checkpoints no longer fit, the reconciler's own small files do: without a word it would try for ever."""
    sweep = LightSweep(small_disk / "sweep", "bayes.points=0", "space.objective.lambda_gp.grid=[1]", "retries=0")
    (sweep.runs / "real").touch()
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"\0" * (8 * (1 << 20) - 400_000))
    assert sweep.run() == 1
    assert sweep.said().splitlines()[-1].startswith("error: ") and "No space left" in sweep.said().splitlines()[-1]
    assert "make room, then start the same command again" in sweep.said()
    ballast.unlink()
    assert sweep.run() == 0, sweep.said()
