"""A sweep of real runs, again and again, with faults injected at random until enough of them have been; then the count.

Every round is the same sweep in a fresh folder: its runs must end as those of the undisturbed one did.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mischief
import tiny_model
from training_runs import science
from watch import Watch

from genxai.runs import find_runs

HERE = Path(__file__).resolve().parent

#: runs of 100 short steps, evaluated once on the way; it is killed more often than any sweep may retry
SWEEP = tiny_model.as_sweep(
    {
        "train.epochs": 5,
        "train.eval_every": 5,
        "train.batch_size": 8,
        "run.log_every": 1,
        "run.checkpoint_seconds": 0.5,
    },
    """
space:
  objective.lambda_gp: {grid: [1, 10], low: 0.3, high: 100, log: true}
bayes: {points: 2}
seeds: [0]
retries: 1000
""",
)
#: grid and Bayesian points
RUNS = 4
#: faults of a round, after which it is left to end: with more of them nothing but starts would be disturbed
FAULTS_PER_ROUND = 20
#: between one fault and the next [s]
PAUSE_SECONDS = (0.3, 3.0)
#: how long a fault waits for something to be done to, a run that trains for instance [s]
TARGET_SECONDS = 15.0
#: how long there are faults in a round, and how long it may take to end without any more [s]
ROUND_SECONDS = 900.0


@dataclass
class Count:
    """What a campaign has come to."""

    faults: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)  # of the reconciler: tracebacks, refusals that were not
    steps_redone: list[int] = field(default_factory=list)
    exit_seconds: list[float] = field(default_factory=list)
    first_step_seconds: list[float] = field(default_factory=list)

    @property
    def troubles(self) -> int:
        return len(self.lost) + len(self.duplicated) + len(self.changed) + len(self.complaints)

    @property
    def clean(self) -> bool:
        return self.troubles == 0


class Round:
    """One sweep in a folder of its own: its reconciler, its jobs and what is done to them."""

    def __init__(
        self, folder: Path, options: list[str], environment: Mapping[str, str], chooser: random.Random
    ) -> None:
        self.runs, self.log, self.file = folder / "runs", folder / "log", folder / "s.yaml"
        self.options, self.chooser = options, chooser
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
        self.runs.mkdir(parents=True)
        self.file.write_text(SWEEP)
        self.watch = Watch(self.runs)
        self.reconciler: subprocess.Popen[bytes] | None = None
        self.second: subprocess.Popen[bytes] | None = None  # started beside it, for a moment
        self.clock = ""  # seed of the clock of the reconcilers to come and of their jobs

    def start(self, kill_at: int = 0) -> subprocess.Popen[bytes]:
        """The reconciler, running; killed before its n-th writing call if there is such an n."""
        environment = {**self.environment, "FAULTY_WRITE": str(kill_at)}
        if self.clock:
            environment |= {"FAULTY_CLOCK": self.clock, "PYTHONPATH": str(HERE / "jumping")}
        command = [sys.executable, str(HERE / "faulty_sweep.py"), str(self.file), "--runs", str(self.runs)]
        with open(self.log, "ab") as log:
            return subprocess.Popen([*command, *self.options], env=environment, stdout=log, stderr=log)

    def restart(self, kill_at: int = 0) -> None:
        """SIGKILL the reconciler and start another."""
        self.kill_reconciler()
        self.reconciler = self.start(kill_at)

    def kill_reconciler(self) -> None:
        for process in (self.reconciler, self.second):
            if process is not None:
                process.kill()
                process.wait()
        self.second = None

    def start_second(self) -> None:
        """Another reconciler beside the one that lives; `wait_for_one` then says what has come of the two."""
        self.second = self.start()

    def wait_for_one(self, seconds: float) -> tuple[int | None, int | None]:
        """Look on until the reconciler or the second one has ended; the exit codes, None for one that lives."""
        assert self.reconciler is not None and self.second is not None
        deadline = time.monotonic() + seconds
        while True:
            codes = self.reconciler.poll(), self.second.poll()
            if codes != (None, None) or time.monotonic() > deadline:
                return codes
            self.watch.look()
            time.sleep(0.05)

    def drop_second(self, takes_over: bool) -> None:
        """The second one is the reconciler from now on, or is ended."""
        if takes_over:
            self.reconciler, self.second = self.second, None
        elif self.second is not None:
            self.second.kill()
            self.second.wait()
            self.second = None

    def step(self) -> bool:
        """Look once, and see to it that there is a reconciler; whether the sweep is complete."""
        self.watch.look()
        code = self.reconciler.poll() if self.reconciler else None
        if self.reconciler is None or (code is not None and code != 0):
            self.reconciler = self.start()
        return code == 0

    def pause(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Go on for a while, or until something is so; whether the sweep is complete."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not until():
            if self.step():
                return True
            time.sleep(0.05)
        return False

    def end(self) -> None:
        """End what is left of the round's own processes."""
        self.kill_reconciler()
        self.watch.look()
        for pid in self.watch.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def reference(folder: Path, options: list[str]) -> dict[str, Any]:
    """Signature -> what the run says, of the sweep undisturbed."""
    undisturbed = Round(folder, options, {}, random.Random(0))
    undisturbed.reconciler = undisturbed.start()
    if undisturbed.reconciler.wait(ROUND_SECONDS) != 0:
        raise RuntimeError(f"the undisturbed sweep has failed:\n{undisturbed.log.read_text()}")
    return {run.signature: science(run) for run in find_runs(undisturbed.runs)}


def run_campaign(
    folder: Path,
    faults: int,
    seed: int,
    options: list[str],
    environment: Mapping[str, str],
    tell: Callable[[int, str], None],
    small_disk: Callable[[Path], contextlib.AbstractContextManager[bool]],
) -> Count:
    """Inject so many faults; `tell` gets how many there have been and the name of the latest."""
    expected, count, number = reference(folder / "reference", ["--max-parallel", "2"]), Count(), 0
    tell(0, "")
    while count.faults.total() < faults:
        place = folder / f"round{number}"
        place.mkdir()
        with _kept_if_troubled(place, count, small_disk) as is_small:
            this = Round(place / "sweep", options, environment, random.Random(f"{seed}/{number}"))
            try:
                is_complete = _play(this, count, faults, is_small, tell)
                _compare(this, expected, is_complete, count)
            finally:
                this.end()
        number += 1
    return count


@contextlib.contextmanager
def _kept_if_troubled(
    place: Path, count: Count, small_disk: Callable[[Path], contextlib.AbstractContextManager[bool]]
) -> Iterator[bool]:
    """A round's disk; unless it ends without trouble, what lies there has the same place when the disk has gone."""
    copy, before, is_clean = place.with_name(f"{place.name}.copy"), count.troubles, False
    try:
        with small_disk(place) as is_small:
            try:
                yield is_small
                is_clean = count.troubles == before
            finally:
                if is_small and not is_clean:
                    with contextlib.suppress(shutil.Error):  # a Slurm job may be writing; the rest is copied
                        shutil.copytree(place, copy, symlinks=True)
    finally:
        if copy.exists():
            place.rmdir()
            copy.rename(place)


def _play(this: Round, count: Count, faults: int, is_small: bool, tell: Callable[[int, str], None]) -> bool:
    """Faults until the sweep is complete in spite of them, or there have been enough; whether it is complete."""
    deadline, wanted = time.monotonic() + ROUND_SECONDS, min(faults, count.faults.total() + FAULTS_PER_ROUND)
    kinds = [kind for kind in mischief.KINDS if is_small or kind.name != "disk full"]
    while count.faults.total() < wanted and time.monotonic() < deadline:
        if this.pause(this.chooser.uniform(*PAUSE_SECONDS)):
            return True
        # the rarer a fault has been the sooner it comes, so that a short campaign has most of them
        kind = min(this.chooser.sample(kinds, 3), key=lambda kind: count.faults[kind.name])
        limit = time.monotonic() + TARGET_SECONDS
        while not (injected := kind.inject(this, count.complaints)) and time.monotonic() < limit:
            if this.pause(0.1):
                return True
        if injected:
            count.faults[injected] += 1
            tell(count.faults.total(), injected)
    return this.pause(ROUND_SECONDS)


def _compare(this: Round, expected: Mapping[str, Any], is_complete: bool, count: Count) -> None:
    """Count what is lost, done twice or different."""
    where = this.runs
    found = {run.signature: run for run in find_runs(where) if run.result_file.exists()}
    count.runs += len(found)
    count.lost += [f"{where}/s/{name}" for name in expected if name not in found]
    if not is_complete:
        count.complaints.append(f"{where}: the sweep has not become complete; see {this.log}")
    count.changed += [str(run.path) for name, run in found.items() if science(run) != expected.get(name)]
    trained_twice = {name for name, run in found.items() if run.log_file.read_text().count(" INFO done: ") > 1}
    count.duplicated += [f"{where}/s/{name}" for name in sorted(trained_twice | this.watch.twice)]
    if "Traceback" in this.log.read_text():
        count.complaints.append(f"a traceback in {this.log}")
    count.steps_redone += this.watch.steps_redone
    count.exit_seconds += this.watch.exit_seconds
    count.first_step_seconds += this.watch.first_step_seconds


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int = 64) -> Iterator[bool]:
    """A small file system at the folder; yields False, and leaves the folder as it is, where it cannot be mounted."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
