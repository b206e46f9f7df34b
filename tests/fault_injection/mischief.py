"""The faults of a campaign: each is done to the sweep that runs, and says whether there was anything to do it to."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import damage

from genxai.runs import Run

if TYPE_CHECKING:
    from campaign import Round

#: what a fault in files is counted as when its worker was killed and nothing else could be done
WORKER_KILLED = "worker killed"
#: how long two reconcilers may be there until one of them is refused: most of it is their start [s]
REFUSAL_SECONDS = 60.0
#: how long a reconciler whose sweep is complete may take to end [s]
ENDING_SECONDS = 10.0


@dataclass(frozen=True)
class Kind:
    """A kind of fault; `do` gets the round and a list for complaints, and returns False if nothing was done."""

    name: str
    do: Callable[[Round, list[str]], bool]

    def inject(self, this: Round, complaints: list[str]) -> str:
        """The name of the fault that has happened; empty if none has."""
        return self.name if self.do(this, complaints) else ""


@dataclass(frozen=True)
class Harm:
    """A fault in the files of a run whose job has been killed; often there is nothing but the kill."""

    name: str
    do: Callable[[Round, Run], bool]

    def inject(self, this: Round, complaints: list[str]) -> str:
        """The name of the fault that has happened; empty if none has."""
        signature = _killed(this)
        if not signature:
            return ""
        run = this.watch.run(signature)
        # the lock keeps a new job away; without its folder the run has just been removed or begun anew
        with contextlib.suppress(OSError), run.lock() as is_free:
            if is_free and not run.result_file.exists() and self.do(this, run):
                return self.name
        return WORKER_KILLED


def _victim(this: Round, is_training: bool = True) -> tuple[int, str]:
    """Pid and run of a job chosen at random; (0, "") if there is none."""
    jobs = sorted(this.watch.training().items() if is_training else this.watch.pids.items())
    return this.chooser.choice(jobs) if jobs else (0, "")


def _signal(this: Round, pid: int, signature: str, number: int) -> None:
    this.watch.disturbed(signature)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _killed(this: Round) -> str:
    """Kill a job that trains; its run once the process has gone, empty if there is none."""
    pid, signature = _victim(this)
    if pid:
        _signal(this, pid, signature, signal.SIGKILL)
        this.pause(10, lambda: pid not in this.watch.pids)
    return signature


def _kill_worker(this: Round, complaints: list[str]) -> bool:
    pid, signature = _victim(this, is_training=this.chooser.random() < 0.8)
    if pid:
        _signal(this, pid, signature, signal.SIGKILL)
    return bool(pid)


def _stop_worker(this: Round, complaints: list[str]) -> bool:
    pid, signature = _victim(this)
    if pid:
        this.watch.asked_to_stop(pid)
        _signal(this, pid, signature, signal.SIGTERM)
    return bool(pid)


def _kill_reconciler(this: Round, complaints: list[str]) -> bool:
    this.restart(kill_at=this.chooser.randint(1, 45))
    return True


def _kill_both(this: Round, complaints: list[str]) -> bool:
    pid, signature = _victim(this, is_training=this.chooser.random() < 0.8)
    if not pid:
        return False
    _signal(this, pid, signature, signal.SIGKILL)
    this.kill_reconciler()
    return True


def _tear_line(this: Round, run: Run) -> bool:
    files = [file for file in sorted(run.path.glob("*.jsonl")) if file.stat().st_size]
    if files:
        damage.tear(this.chooser.choice(files), this.chooser)
    return bool(files)


def _damage_checkpoint(this: Round, run: Run) -> bool:
    newest = sorted(run.checkpoints.glob("step-*"))[-1:]
    files = [*(file for folder in newest for file in sorted(folder.iterdir())), run.checkpoints / "LATEST"]
    files = [file for file in files if file.is_file() and file.stat().st_size]
    if files:
        damage.damage(this.chooser.choice(files), this.chooser)
    return bool(files)


def _second_reconciler(this: Round, complaints: list[str]) -> bool:
    if this.reconciler is None or this.reconciler.poll() is not None or not (this.runs / "s/reconciler.json").exists():
        return False
    said_before = this.log.stat().st_size
    this.start_second()
    first, second = this.wait_for_one(REFUSAL_SECONDS)
    if first is None and second is None:
        complaints.append(f"{this.runs}: two reconcilers live side by side")
    elif first is None and not (second == 1 and b"already being run" in this.log.read_bytes()[said_before:]):
        # all is well if the sweep is complete, and the first one is about to end
        with contextlib.suppress(subprocess.TimeoutExpired):
            first = this.reconciler.wait(ENDING_SECONDS)
        if first != 0:
            complaints.append(f"{this.runs}: a second reconciler ended with {second} while the first one lived")
    this.drop_second(takes_over=first is not None and second is None)
    return True


def _remove_run(this: Round, complaints: list[str]) -> bool:
    _, signature = _victim(this)
    if not signature:
        return False
    this.watch.disturbed(signature)
    damage.remove(this.watch.run(signature).path)
    this.watch.removed(signature)
    return True


def _fill_disk(this: Round, complaints: list[str]) -> bool:
    if not this.watch.training():
        return False
    for signature in this.watch.training().values():
        this.watch.disturbed(signature)
    ballast = damage.fill(this.runs.parent.parent)
    this.pause(this.chooser.uniform(0.5, 2.5))
    ballast.unlink()
    return True


def _jump_clock(this: Round, complaints: list[str]) -> bool:
    this.clock = "" if this.clock and this.chooser.random() < 0.3 else str(this.chooser.randrange(1, 10**6))
    this.restart()
    return True


KINDS: tuple[Kind | Harm, ...] = (
    Kind(WORKER_KILLED, _kill_worker),
    Kind("worker asked to stop", _stop_worker),
    Kind("reconciler killed at a write", _kill_reconciler),
    Kind("both killed at once", _kill_both),
    Harm("line torn", _tear_line),
    Harm("checkpoint damaged", _damage_checkpoint),
    Kind("second reconciler", _second_reconciler),
    Kind("run directory removed", _remove_run),
    Kind("disk full", _fill_disk),
    Kind("clock jumps", _jump_clock),
)
