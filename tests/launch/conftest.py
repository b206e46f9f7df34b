"""Sweeps of the tests: a small space over the tiny preset, and ways to run it without training anything."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genxai.files import write_json
from launch import slurm
from launch.outcomes import Outcome
from launch.plan import Planner
from launch.sweepdir import SweepDir
from launch.sweepfile import load_sweep

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # ending_jobs

SWEEP = """
name: s
base: tiny
space:
  objective.lambda_gp: {grid: [1, 10], low: 0.3, high: 100, log: true}
  objective.lambda_bias: {grid: [0, 1], low: 0.001, high: 10, log: true}
bayes: {points: 3}
seeds: [0, 1]
"""


ROWS = """
name: r
base: tiny
space:
  data.rho: {grid: [0.5, 0.9]}
seeds: [0, 1]
selection_seeds: [100]
rows:
  plain: {set: {objective.lambda_bias: 0}}
  full:
    seeds: [0, 1, 2]
    choose: {space: {objective.lambda_gp: [1, 10, 50]}, by: val/accuracy, at: {data.rho: 0.9}}
  full_balanced:
    choose: {space: {objective.lambda_gp: [1, 10, 50]}, by: val_balanced/accuracy}
    only: {data.rho: [0.9]}
  placebo: {set: {explain.masks: random}, only: {data.rho: [0.9]}, like: full}
"""


@pytest.fixture
def rows_file(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(ROWS)
    return file


@pytest.fixture
def rows_planner(rows_file, tmp_path):
    """A planner of the test table with overrides."""

    def make(*overrides: str) -> Planner:
        sweep = load_sweep(rows_file, overrides)
        return Planner(sweep, SweepDir(tmp_path / "runs" / sweep.name), lambda data: "data")

    return make


@pytest.fixture
def sweep_file(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text(SWEEP)
    return file


@pytest.fixture
def make_planner(sweep_file, tmp_path):
    """A planner of the test sweep with overrides; data is identified by a constant."""

    def make(*overrides: str) -> Planner:
        sweep = load_sweep(sweep_file, overrides)
        return Planner(sweep, SweepDir(tmp_path / "runs" / sweep.name), lambda data: "data")

    return make


@pytest.fixture
def finish():
    """Writes the result of a planned run."""

    def write(planned, **metrics) -> None:
        planned.run.plan(planned.config)
        values = {"val/accuracy": 0.5, "val/ssim_align": 0.5} | {
            f"val/{name}": value for name, value in metrics.items()
        }
        write_json(planned.run.result_file, {"metrics": values, "seconds": 36.0, "restarts": 0, "steps": 3})

    return write


@pytest.fixture
def complete():
    """The outcome of a trial that is done."""

    def make(trial, accuracy: float, alignment: float) -> Outcome:
        return Outcome(trial, "complete", (accuracy, alignment), (0.01, 0.01), 2)

    return make


class FakeSweep:
    """sweep.py with the fake trainer as a process; RUNS is a folder of the test."""

    def __init__(self, runs: Path, sweep_file: Path) -> None:
        self.runs, self.file = runs, sweep_file
        self.runs.mkdir()
        self.environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}

    def command(self, *words: str) -> list[str]:
        return [sys.executable, str(HERE / "fake_sweep.py"), str(self.file), "--runs", str(self.runs), *words]

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            self.command(*words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            self.command(*words), env=self.environment, capture_output=True, text=True, timeout=120, check=False
        )

    def wait_until(self, condition, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.05)

    def finished(self) -> list[str]:
        file = self.runs / "finished.jsonl"
        return [json.loads(line)["signature"] for line in file.read_text().splitlines()] if file.exists() else []

    def points(self) -> dict[int, dict]:
        """Trial number -> point, as the run directories remember them."""
        from launch.plan import remembered

        return {memory.trial: memory.point for _, memory in remembered(SweepDir(self.runs / "s"))}

    def jobs_started(self) -> int:
        return len((self.runs / "alive.jsonl").read_text().splitlines())

    def most_alive(self) -> int:
        return max(json.loads(line)["alive"] for line in (self.runs / "alive.jsonl").read_text().splitlines())


@pytest.fixture
def fake_sweep(tmp_path, sweep_file):
    return FakeSweep(tmp_path / "runs", sweep_file)


@pytest.fixture
def fake_table(tmp_path, rows_file):
    return FakeSweep(tmp_path / "runs", rows_file)


#: an sbatch that accepts as many jobs as the file `room` says
SBATCH_ROOM = """
if [ -f {folder}/room ]; then
    last=$(sed -n 's/.*--array=0-\\([0-9]*\\).*/\\1/p' "$1")
    room=$(($(cat {folder}/room) - ${{last:-0}} - 1))
    [ $room -lt 0 ] && {{ echo 'sbatch: error: QOSMaxSubmitJobPerUserLimit' >&2; exit 1; }}
    echo $room > {folder}/room
fi
"""


class FakeSlurm:
    """Slurm's commands on the PATH: they log how they were called and answer, or fail, as they are told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
            script = folder / name
            script.write_text(
                f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n'
                f"[ -f {folder}/{name}.fails ] && {{ cat {folder}/{name}.fails >&2; exit 1; }}\n"
                + (SBATCH_ROOM.format(folder=folder) if name == "sbatch" else "")
                + f"cat {folder}/{name}.answer 2>/dev/null || true\n"
            )
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.answer("sbatch", "Submitted batch job 77\n")

    def answer(self, command: str, text: str) -> None:
        (self.folder / f"{command}.answer").write_text(text)
        (self.folder / f"{command}.fails").unlink(missing_ok=True)

    def refuse(self, command: str, text: str) -> None:
        (self.folder / f"{command}.fails").write_text(text + "\n")

    def room(self, jobs: int) -> None:
        (self.folder / "room").write_text(str(jobs))

    def calls(self, command: str = "") -> list[str]:
        file = self.folder / "calls"
        return [line for line in file.read_text().splitlines() if line.startswith(command)] if file.exists() else []


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    fake = FakeSlurm(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{fake.folder}{os.pathsep}{os.environ['PATH']}")
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    slurm.max_array_size.cache_clear()
    return fake
