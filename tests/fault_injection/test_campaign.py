"""tests/faults.py: that its count notices what it is there to notice, and a short campaign with nothing to notice."""

import json
import random
import subprocess
import sys
from pathlib import Path

import campaign
import pytest
from training_runs import science

from genxai.files import write_json
from genxai.runs import Run

SCRIPT = Path(__file__).resolve().parents[1] / "faults.py"


@pytest.fixture
def ended(tmp_path):
    """A round whose two runs are done, and what they should say."""
    this = campaign.Round(tmp_path / "round", [], {}, random.Random(0))
    this.log.touch()
    for name in ("a", "b"):
        run = Run(this.runs / "s" / name)
        run.path.mkdir(parents=True)
        run.config_file.write_text("name: s\n")
        run.log_file.write_text("2026-11-21 INFO done: val/accuracy 0.5\n")
        write_json(run.result_file, {"metrics": {"val/accuracy": 0.5}, "seconds": 3.0})
    return this, {name: science(Run(this.runs / "s" / name)) for name in ("a", "b")}


def test_a_round_like_the_undisturbed_sweep_is_clean_however_long_it_took(ended):
    this, expected = ended
    write_json(this.runs / "s/a/result.json", {"metrics": {"val/accuracy": 0.5}, "seconds": 99.0, "restarts": 4})
    campaign._compare(this, expected, True, count := campaign.Count())
    assert count.clean and count.runs == 2


def test_a_lost_a_changed_and_a_repeated_run_are_counted(ended):
    this, expected = ended
    write_json(this.runs / "s/a/result.json", {"metrics": {"val/accuracy": 0.6}})
    (this.runs / "s/b/log.txt").write_text("2026-11-21 INFO done: x\n2026-11-21 INFO done: x\n")
    campaign._compare(this, expected | {"c": {}}, False, count := campaign.Count())
    assert [Path(path).name for path in (*count.changed, *count.duplicated, *count.lost)] == ["a", "b", "c"]
    assert len(count.complaints) == 1 and not count.clean


def test_two_processes_that_hold_locks_of_one_run_are_seen(tmp_path):
    """The kernel lets one process lock a file; a directory removed and made anew has two files."""
    from watch import _locks_held

    code = "import fcntl, sys; f = open(sys.argv[1] + '/.lock', 'w'); fcntl.flock(f, 2); print(flush=True); input()"
    holders = []
    for _ in range(2):
        folder = tmp_path / "s" / "a"
        folder.mkdir(parents=True)
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        holder.stdout.readline()
        (folder / ".lock").unlink()
        folder.rmdir()
        holders.append(holder)
    found = dict(_locks_held([holder.pid for holder in holders]))
    for holder in holders:
        holder.communicate("\n")
    assert list(found.values()) == ["a", "a"]


@pytest.mark.slow
def test_a_short_campaign_loses_repeats_and_changes_nothing():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--faults", "12", "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert sum(told["faults"].values()) == 12 and told["runs"] >= campaign.RUNS
    assert told["lost"] == told["duplicated"] == told["changed"] == told["complaints"] == []
