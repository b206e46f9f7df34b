"""A small sweep of light jobs in a folder of its own, and everything it has come to in the end."""

from __future__ import annotations

import hashlib
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import children
import light_jobs
import tiny_model
from writes import Fault

from genxai.files import read_jsonl
from launch.plan import remembered
from launch.sweepdir import SweepDir

#: a grid of two points and one Bayesian, one seed; the runs are short where they are real, as a file RUNS/real asks
SWEEP = tiny_model.as_sweep(
    {"train.epochs": 2, "run.checkpoint_seconds": 0},
    """
space:
  objective.lambda_gp: {grid: [1, 10], low: 0.3, high: 100, log: true}
  objective.lambda_bias: {grid: [1], low: 0.001, high: 10, log: true}
bayes: {points: 1}
seeds: [0]
""",
)


class LightSweep:
    """The command that brings the sweep about, and what its folder says."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.runs, self.file, self.output = folder / "runs", folder / "s.yaml", folder / "output"
        self.overrides = overrides
        self.runs.mkdir(parents=True)
        self.file.write_text(SWEEP)
        (self.runs / "steps").write_text("1")

    def argv(self, *words: str) -> list[str]:
        return [str(self.file), "--runs", str(self.runs), "--max-parallel", "2", *self.overrides, *words]

    def start(self, *words: str) -> BaseProcess:
        """launch/sweep.py, running."""
        return children.start(light_jobs.run_sweep, self.argv(*words), None, output=self.output)

    def run(
        self, fault: Fault | None = None, *words: str, counted: Path | None = None, clock: int | None = None
    ) -> int:
        """The exit code of launch/sweep.py; negative for the signal that ended it."""
        return children.run(light_jobs.run_sweep, self.argv(*words), fault, counted, clock, output=self.output)

    def said(self) -> str:
        return self.output.read_text()

    def finished(self) -> list[str]:
        """Signature of every training that came to its end, as often as it did."""
        return sorted(line["signature"] for line in read_jsonl(self.runs / "finished.jsonl"))

    def jobs_begun(self) -> int:
        return len(read_jsonl(self.runs / "alive.jsonl"))

    def findings(self) -> dict[str, Any]:
        """What a person takes from the sweep: the runs, the points, the choice, and the bytes of every table."""
        tables = self.runs.parent / "tables"
        code = children.run(_make_tables, str(self.runs), str(tables), output=self.output)
        assert code == 0, self.said()
        folder = SweepDir(self.runs / "s")
        return {
            "finished": self.finished(),
            "points": {memory.trial: memory.point for _, memory in remembered(folder)},
            "selected": folder.selected.read_text(),
            "study": folder.journal_digest.read_text(),
            "tables": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(tables.iterdir())},
        }


def _make_tables(runs: str, tables: str) -> int:
    from analysis import make_tables

    return make_tables.main(["--runs", runs, "--out", tables, "--tables", "1,sweep"])
