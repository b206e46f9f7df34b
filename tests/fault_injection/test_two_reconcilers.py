"""Two reconcilers started at the same instant: one of them does the work, the other says who does."""

import time

import children
import pytest
from light_sweeps import LightSweep


@pytest.mark.parametrize("attempt", range(4))
def test_of_two_reconcilers_started_at_once_exactly_one_runs_the_sweep(tmp_path, attempt):
    sweep = LightSweep(tmp_path)
    hold = sweep.runs / "hold"  # no run ends, nor does the sweep, before the other reconciler has come
    hold.touch()
    both = [sweep.start(), sweep.start()]
    try:
        deadline = time.monotonic() + 120
        while all(not children.wait(process, 0) for process in both):
            assert time.monotonic() < deadline, "neither has been refused"
    finally:
        hold.unlink()
    assert all(children.wait(process) for process in both)
    assert sorted(process.exitcode for process in both) == [0, 1], sweep.said()
    assert sweep.said().count("already being run") == 1 and "Traceback" not in sweep.said()
    assert len(sweep.finished()) == len(set(sweep.finished())) == sweep.jobs_begun() == 3
