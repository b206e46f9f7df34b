"""A sweep whose jobs start in milliseconds: submitit's local controller is a shell that waits, the job itself a fork.

Everything up to the start of the controller and all that is found of it afterwards (its command line, the pickle, the
logs) is as submitit has it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clocks
import fake_trainer
import writes

from launch import sweep
from launch.executors import LocalRuns
from launch.worker import work


def run_sweep(
    argv: Sequence[str], fault: writes.Fault | None, counted: Path | None = None, clock: int | None = None
) -> int:
    """launch/sweep.py with a fault in it; `counted` is given the names of its writing calls.

    clock: seed of a wall clock that jumps, here and in the jobs.
    """
    if clock is not None:
        clocks.jump(clock)
    from submitit.local import local

    local.start_controller = _start_controller
    sweep.make_executor = _make_executor
    sweep.POLL_SECONDS["local"] = (0.02, 0.02)
    runs = Path(argv[list(argv).index("--runs") + 1])
    if fault is not None:
        writes.install(runs, fault)
    code = sweep.main(list(argv))
    if counted is not None:
        names = writes.calls()
        writes.remove()
        counted.write_text("\n".join(names))
    return code


def _make_executor(arguments: Any, planner: Any) -> LocalRuns:
    real = (planner.folder.path.parent / "real").exists()  # whether the jobs shall train
    return LocalRuns(planner.folder, arguments.max_parallel or 2, function=work if real else _pretend)


def _pretend(run_dir: str) -> str:
    """The fake trainer, once there is no RUNS/hold."""
    while (Path(run_dir).parent.parent / "hold").exists():
        time.sleep(0.01)
    return fake_trainer.work(run_dir)


def _start_controller(folder: Path, setup: Sequence[str] = (), **_: Any) -> Any:
    """As submitit's, but the controller does nothing and the job is a fork that outlives this process."""
    writes._tick("start", "")
    reading, writing = os.pipe()
    if os.fork() == 0:
        try:
            writes.remove()
            os.setsid()
            # above all the sweep's lock: it belongs to the open file, which a fork would share
            os.closerange(3, writing)
            os.closerange(writing + 1, 1024)
            _job(Path(folder), writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        pid = int(pipe.read())
    return _Controller(pid)


def _job(folder: Path, answer: int) -> None:
    from submitit.core.utils import DelayedSubmission

    # it ends with this process, whose end of the pipe closes
    controller = subprocess.Popen(
        ["/bin/sh", "-c", "read line", "submitit.local._local", str(folder)], stdin=subprocess.PIPE
    )
    os.write(answer, str(controller.pid).encode())
    os.close(answer)
    for stream, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{controller.pid}_0_log.{stream}", os.O_WRONLY | os.O_CREAT, 0o666), number)
    pickle = folder / f"{controller.pid}_submitted.pkl"
    while not pickle.exists():
        if controller.poll() is not None:
            return
        time.sleep(0.01)
    DelayedSubmission.load(pickle).result()


class _Controller:
    """What submitit asks of the process it has started."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def poll(self) -> int | None:
        return None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)
