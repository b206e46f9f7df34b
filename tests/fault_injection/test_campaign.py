"""tests/faults.py: that its count notices what it is there to notice, and a short campaign with nothing to notice."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import campaign
import mischief
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


def _round_whose_second_reconciler(tmp_path, code):
    """Its first reconciler lives for long, its second is this shell command."""
    this = campaign.Round(tmp_path / "round", [], {}, random.Random(0))
    (this.runs / "s").mkdir()
    (this.runs / "s/reconciler.json").touch()
    this.log.touch()

    def start(command):
        with open(this.log, "ab") as log:
            return subprocess.Popen(["/bin/sh", "-c", command], stdout=log)

    this.reconciler, this.start = start("exec sleep 600"), lambda: start(code)
    return this


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("exec sleep 600", "two reconcilers live side by side"),
        ("exit 0", "ended with 0 while the first one lived"),
        ("exit 1", "ended with 1 while the first one lived"),
        ("echo this sweep is already being run; exit 1", ""),
    ],
)
def test_a_second_reconciler_that_is_not_refused_is_a_complaint(tmp_path, monkeypatch, code, complaint):
    monkeypatch.setattr(mischief, "REFUSAL_SECONDS", 0.5 if "sleep" in code else 60)
    monkeypatch.setattr(mischief, "ENDING_SECONDS", 0.1)
    this, complaints = _round_whose_second_reconciler(tmp_path, code), []
    try:
        assert mischief._second_reconciler(this, complaints)
        assert len(complaints) == bool(complaint) and all(complaint in text for text in complaints)
        assert this.reconciler.poll() is None and this.second is None
    finally:
        this.end()
    assert this.reconciler.poll() is not None


def test_a_second_reconciler_that_comes_when_the_first_has_died_takes_its_place(tmp_path):
    this, complaints = _round_whose_second_reconciler(tmp_path, "exec sleep 600"), []
    this.start_second()
    first, second = this.reconciler, this.second
    this.start_second = first.kill  # dies while the second one starts
    try:
        assert mischief._second_reconciler(this, complaints) and complaints == []
        assert this.reconciler is second and second.poll() is None
    finally:
        this.end()
    assert second.poll() is not None


def test_a_kill_without_anything_to_damage_is_counted_as_a_kill(tmp_path, monkeypatch):
    this = campaign.Round(tmp_path / "round", [], {}, random.Random(0))
    names = {kind.name: kind for kind in mischief.KINDS}
    run = Run(this.runs / "s/a")
    for name, file in (("line torn", run.ledger_file), ("checkpoint damaged", run.checkpoints / "step-000001/values")):
        monkeypatch.setattr(mischief, "_killed", lambda this: "")
        assert names[name].inject(this, []) == ""
        monkeypatch.setattr(mischief, "_killed", lambda this: "a")
        assert names[name].inject(this, []) == "worker killed"  # its folder has gone
        run.path.mkdir(parents=True)
        assert names[name].inject(this, []) == "worker killed"  # and is empty now
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
        with run.lock():
            assert names[name].inject(this, []) == "worker killed"  # a new job trains
        assert names[name].inject(this, []) == name and file.read_text() != "{}\n"
        shutil.rmtree(run.path)


@pytest.mark.parametrize("trouble", [True, False])
def test_a_round_that_went_wrong_is_kept_where_it_was_when_its_disk_has_gone(tmp_path, trouble):
    place, count = tmp_path / "round0", campaign.Count()
    place.mkdir()
    with campaign._kept_if_troubled(place, count, campaign.mounted) as is_small:
        if not is_small:
            pytest.skip("a small file system cannot be mounted here")
        (place / "log").write_text("Traceback")
        count.lost += ["a"] * trouble
    assert [file.name for file in place.iterdir()] == ["log"] * trouble and list(tmp_path.iterdir()) == [place]


@pytest.mark.slow
def test_a_short_campaign_loses_repeats_and_changes_nothing():
    command = [sys.executable, str(SCRIPT), "--faults", "5", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert sum(told["faults"].values()) == 5 and told["runs"] >= campaign.RUNS
    assert told["lost"] == told["duplicated"] == told["changed"] == told["complaints"] == []
