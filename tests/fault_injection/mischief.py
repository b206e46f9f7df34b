"""The faults of a campaign: each is done to the sweep that runs, and says whether there was anything to do it to."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from campaign import Round


@dataclass(frozen=True)
class Kind:
    """A kind of fault; `inject` gets the round and a list for complaints, and returns False if nothing was done."""

    name: str
    inject: Callable[[Round, list[str]], bool]


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


def _tear_line(this: Round, complaints: list[str]) -> bool:
    signature = _killed(this)
    files = sorted(this.watch.run(signature).path.glob("*.jsonl")) if signature else []
    if not files or this.watch.run(signature).result_file.exists() or signature in this.watch.training().values():
        return bool(signature)
    file = this.chooser.choice(files)
    data = file.read_bytes()
    begin = data[:-1].rfind(b"\n") + 1
    file.write_bytes(data[: this.chooser.randrange(begin, max(begin + 1, len(data)))])
    return True


def _damage_checkpoint(this: Round, complaints: list[str]) -> bool:
    signature = _killed(this)
    run = this.watch.run(signature)
    checkpoints = sorted(run.checkpoints.glob("step-*")) if signature else []
    if not checkpoints or signature in this.watch.training().values():
        return bool(signature)
    files = [*sorted(checkpoints[-1].iterdir()), run.checkpoints / "LATEST"]
    file = this.chooser.choice([file for file in files if file.is_file() and file.stat().st_size])
    data = bytearray(file.read_bytes())
    place = this.chooser.randrange(len(data))
    if this.chooser.random() < 0.5:
        del data[place:]
    else:
        data[place] ^= 0x55
    file.write_bytes(data)
    return True


def _second_reconciler(this: Round, complaints: list[str]) -> bool:
    if this.reconciler is None or this.reconciler.poll() is not None or not (this.runs / "s/reconciler.json").exists():
        return False
    second, first = this.start(), this.reconciler
    this.pause(30, lambda: second.poll() is not None or first.poll() is not None)
    if second.poll() is None:  # the first has ended meanwhile: the second is the only one now
        this.reconciler = second
    return True


def _remove_run(this: Round, complaints: list[str]) -> bool:
    _, signature = _victim(this)
    if not signature:
        return False
    this.watch.disturbed(signature)
    path = this.watch.run(signature).path
    while path.exists():  # its process may be writing
        shutil.rmtree(path, ignore_errors=True)
    this.watch.removed(signature)
    return True


def _fill_disk(this: Round, complaints: list[str]) -> bool:
    if not this.watch.training():
        return False
    ballast = this.runs.parent.parent / "ballast"
    for signature in this.watch.training().values():
        this.watch.disturbed(signature)
    _fill(ballast)
    this.pause(this.chooser.uniform(0.5, 2.5))
    ballast.unlink()
    return True


def _fill(ballast: Path) -> None:
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


def _jump_clock(this: Round, complaints: list[str]) -> bool:
    this.clock = "" if this.clock and this.chooser.random() < 0.3 else str(this.chooser.randrange(1, 10**6))
    this.restart()
    return True


KINDS = (
    Kind("worker killed", _kill_worker),
    Kind("worker asked to stop", _stop_worker),
    Kind("reconciler killed at a write", _kill_reconciler),
    Kind("both killed at once", _kill_both),
    Kind("line torn", _tear_line),
    Kind("checkpoint damaged", _damage_checkpoint),
    Kind("second reconciler", _second_reconciler),
    Kind("run directory removed", _remove_run),
    Kind("disk full", _fill_disk),
    Kind("clock jumps", _jump_clock),
)
