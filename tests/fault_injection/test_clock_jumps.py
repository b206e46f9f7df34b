"""The wall clock put back and forth by a day between any two looks at it, in reconcilers and in jobs."""

import itertools
import json
import time

import children
import clocks
import pytest
from light_sweeps import LightSweep
from light_training import LightRun, train
from writes import Fault

from genxai.files import read_jsonl
from launch.submissions import histories, intend, read_submissions, submitted
from launch.sweepdir import SweepDir


def numbers(value):
    """Every number of a JSON value, with the key it stands under."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from ((key, item),) if isinstance(item, int | float) else numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from numbers(item)


def test_a_sweep_on_a_jumping_clock_comes_to_the_same(tmp_path):
    undisturbed = LightSweep(tmp_path / "undisturbed")
    assert undisturbed.run() == 0, undisturbed.said()
    sweep = LightSweep(tmp_path / "jumping")
    for seed, number in enumerate((30, 60, 0)):  # killed twice on the way
        sweep.run(Fault(number), clock=seed)
    assert sweep.run(clock=3) == 0, sweep.said()
    assert sweep.findings() == undisturbed.findings() and sweep.jobs_begun() == 3


def test_the_attempts_of_a_run_stay_in_order_when_the_clock_is_put_back(tmp_path, monkeypatch):
    folder = SweepDir(tmp_path / "s")
    clock = iter([3e8, 1e8, 2e8])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    for started in range(3):
        record = submitted(folder, intend(folder, "local", [("0" * 12, started)]), ["1"])
        (folder.jobs / record.nonce).mkdir(parents=True)
        (folder.jobs / record.nonce / "1_0_log.err").touch()
    history = histories(folder, read_submissions(folder))["0" * 12]
    assert history.starts == (0, 1, 2) and history.last_log().parent.name == record.nonce


def test_no_number_of_status_is_negative_on_a_jumping_clock(tmp_path):
    sweep = LightSweep(tmp_path, "retries=1", "bayes.points=0")
    (sweep.runs / "fail").write_text("1")
    assert sweep.run(clock=11) == 1, sweep.said()
    for seed in range(3):
        file = tmp_path / f"status{seed}"
        assert children.run(clocks.status_on_a_jumping_clock, seed, str(sweep.runs), output=file) == 0
        shown = json.loads(file.read_text())
        assert all(number >= 0 for _, number in numbers(shown)), shown


@pytest.mark.slow
def test_a_run_on_a_jumping_clock_is_the_same_run_and_its_seconds_only_grow(tmp_path, small, undisturbed_run):
    run = LightRun(tmp_path, small)
    children.run(train, str(run.run.path), Fault(7, call="os.rename .LATEST"), 1, output=run.output)
    assert run.train(clock=2) == 0, run.said()
    assert run.findings() == undisturbed_run.findings()
    seconds = [line["seconds"] for line in read_jsonl(run.run.metrics_file)]
    assert seconds[0] > 0 and seconds == sorted(seconds) and seconds[-1] <= run.run.result()["seconds"] < 3600


def test_the_clocks_of_these_tests_do_jump(tmp_path):
    assert children.run(clocks.looks, 0, output=tmp_path / "looks") == 0
    looks = json.loads((tmp_path / "looks").read_text())
    steps = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert min(steps) < -80_000 and max(steps) > 80_000
