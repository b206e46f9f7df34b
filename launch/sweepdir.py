"""The folder of one sweep, RUNS/<sweep>: what the sweep's own files are called.

Run directories lie beside them; everything here but `sweep.yaml` and the submissions can be thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genxai.runs import Run


@dataclass(frozen=True)
class SweepDir:
    """RUNS/<sweep>; names its files, reads and writes nothing."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def definition(self) -> Path:
        """The sweep as it was last started, overrides applied."""
        return self.path / "sweep.yaml"

    @property
    def selected(self) -> Path:
        """The chosen point, the rule, and the Pareto front; of rows what each has chosen, and its runs."""
        return self.path / "selected.yaml"

    @property
    def journal(self) -> Path:
        """The Optuna study for optuna-dashboard; a cache."""
        return self.path / "optuna-journal.log"

    @property
    def journal_digest(self) -> Path:
        """Of the study in the journal, so that an unchanged one is not written again."""
        return self.path / ".optuna-journal.digest"

    @property
    def submissions(self) -> Path:
        """One JSON per submission round, written before anything is submitted."""
        return self.path / "submissions"

    @property
    def jobs(self) -> Path:
        """submitit's files and logs, one folder per submission."""
        return self.path / "jobs"

    @property
    def excuses(self) -> Path:
        """One JSONL per run: its jobs that ended without a failure although the run was not done."""
        return self.path / "excuses"

    @property
    def lock(self) -> Path:
        return self.path / ".reconciler.lock"

    @property
    def holder(self) -> Path:
        """Who holds the lock, for the message to a second one."""
        return self.path / "reconciler.json"

    @property
    def log(self) -> Path:
        """What a detached reconciler prints."""
        return self.path / "reconciler.log"

    def run(self, signature: str) -> Run:
        return Run(self.path / signature)
