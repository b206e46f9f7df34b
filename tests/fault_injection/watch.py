"""What an onlooker sees of a sweep's jobs: which processes there are, which run each one trains, how far it is."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from genxai.errors import GenxaiError
from genxai.files import read_jsonl
from genxai.runs import Run, find_runs
from launch.processes import find_processes


@dataclass
class Restart:
    """A process that trains a run, from when it was first seen to its first step."""

    seen: float
    starts: int
    length: int = -1  # of the ledger once this start has cut it back; -1 until then


@dataclass
class Watch:
    """Looks again and again at the sweep in RUNS; call `look` about twenty times a second."""

    runs: Path
    pids: dict[int, str] = field(default_factory=dict)  # living jobs; the run's signature once it holds its lock
    twice: set[str] = field(default_factory=set)  # runs that two processes trained at once
    first_step_seconds: list[float] = field(default_factory=list)
    exit_seconds: list[float] = field(default_factory=list)
    steps_redone: list[int] = field(default_factory=list)
    _asked: dict[int, float] = field(default_factory=dict)
    _restarts: dict[int, Restart] = field(default_factory=dict)
    _disturbed: dict[str, tuple[int, int]] = field(default_factory=dict)  # signature -> starts and step at the fault

    def look(self) -> None:
        now = time.monotonic()
        found = find_processes(f"{self.runs}/s/jobs/")
        pids = [pid for pid, command in found.items() if "submitit.core._submit" in command and "srun" not in command]
        locked = dict(_locks_held(pids))
        self.twice |= {signature for signature, count in Counter(locked.values()).items() if count > 1}
        self.pids = {pid: locked.get(pid, "") for pid in pids}
        for pid in [pid for pid in self._asked if pid not in self.pids]:
            self.exit_seconds.append(now - self._asked.pop(pid))
        for pid in pids:
            self._restarts.setdefault(pid, Restart(now, -1))
            if self.pids[pid]:
                self._follow(pid, self.run(self.pids[pid]), now)
        self._settle_disturbed()

    def run(self, signature: str) -> Run:
        return Run(self.runs / "s" / signature)

    def found(self) -> list[Run]:
        return find_runs(self.runs, "s")

    def training(self) -> dict[int, str]:
        """Pid -> signature of the jobs that hold their run's lock."""
        return {pid: signature for pid, signature in self.pids.items() if signature}

    def asked_to_stop(self, pid: int) -> None:
        self._asked.setdefault(pid, time.monotonic())

    def disturbed(self, signature: str) -> None:
        """Note how far the run was; how far back it goes is read from its next start."""
        if signature and signature not in self._disturbed:
            run = self.run(signature)
            self._disturbed[signature] = (_starts(run), int(run.progress().get("step", 0)))

    def removed(self, signature: str) -> None:
        """The run's directory has gone: all its steps are to be done again."""
        _, step = self._disturbed.get(signature, (0, 0))
        self._disturbed[signature] = (0, step)

    def _follow(self, pid: int, run: Run, now: float) -> None:
        restart = self._restarts[pid]
        if restart.starts == -2:
            return
        starts = _starts(run)
        if restart.starts == -1:
            restart.starts = starts
        length = run.ledger_file.stat().st_size if run.ledger_file.exists() else 0
        if restart.length < 0:
            if starts > restart.starts or run.progress().get("pid") == pid:
                restart.length = length
        elif length > restart.length:
            self.first_step_seconds.append(now - restart.seen)
            restart.starts = -2

    def _settle_disturbed(self) -> None:
        for signature, (starts, step) in list(self._disturbed.items()):
            with contextlib.suppress(GenxaiError, OSError):
                lines = read_jsonl(self.run(signature).provenance_file)
                if len(lines) > starts:
                    self.steps_redone.append(max(0, step - int(lines[-1]["resumed_from_step"])))
                    del self._disturbed[signature]
                elif self.run(signature).result_file.exists():
                    del self._disturbed[signature]


def _starts(run: Run) -> int:
    try:
        return len(read_jsonl(run.provenance_file))
    except (GenxaiError, OSError):
        return 0


def _locks_held(pids: list[int]) -> Iterator[tuple[int, str]]:
    """Pid and signature for every process that holds the lock of a run, even of one that has been removed since."""
    holders: dict[int, set[int]] = {}
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words:
            place = words.index("FLOCK")
            holders.setdefault(int(words[place + 3]), set()).add(int(words[place + 4].rpartition(":")[2]))
    for pid in pids:
        folder = f"/proc/{pid}/fd"
        try:
            for name in os.listdir(folder):
                path = os.readlink(f"{folder}/{name}").removesuffix(" (deleted)")
                if path.endswith("/.lock") and os.stat(f"{folder}/{name}").st_ino in holders.get(pid, ()):
                    yield pid, Path(path).parent.name
                    break
        except OSError:
            continue  # has ended
