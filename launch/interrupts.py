"""How a sweep is interrupted: signals end its loop as Ctrl-C does, and local runs are asked to save before it goes."""

from __future__ import annotations

import contextlib
import signal
import time
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from genxai.training.stopping import handling
from launch.cli import Interrupted
from launch.submissions import read_submissions

if TYPE_CHECKING:
    from launch.reconciler import Reconciler

#: how long Ctrl-C waits for local runs to save [s]
STOP_SECONDS = 60.0


@contextlib.contextmanager
def stop_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the loop as Ctrl-C does."""

    def stop(number: int, frame: types.FrameType | None) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}", 128 + number)

    with handling(stop, (signal.SIGTERM, signal.SIGHUP)):
        yield


@contextlib.contextmanager
def orderly_stop(reconciler: Reconciler, say: Callable[[str], None]) -> Iterator[None]:
    """On an interruption: local runs are asked to save and stop, and waited for; Slurm jobs are left alone."""
    try:
        yield
    except KeyboardInterrupt as error:
        code = error.exit_code if isinstance(error, Interrupted) else Interrupted("").exit_code
        raise Interrupted(_stop_jobs(reconciler, say), code) from None


def _stop_jobs(reconciler: Reconciler, say: Callable[[str], None]) -> str:
    again = "start the same command again to go on"
    if reconciler.executor.cluster == "slurm":
        return f"stopped watching; the Slurm jobs go on. {again[0].upper()}{again[1:]}, with --cancel to end them"
    # from the files: the interruption may have come before the reconciler had noted what it was submitting
    submissions = read_submissions(reconciler.planner.folder, problems=[])
    alive = reconciler.executor.stop(submissions)
    if not alive:
        return f"stopped; {again}"
    say(f"asked {alive} runs to save and stop; Ctrl-C again leaves them running")
    deadline = time.monotonic() + STOP_SECONDS
    while alive and time.monotonic() < deadline:
        try:
            time.sleep(0.5)
            alive = reconciler.executor.stop(submissions)  # again: one that was just starting missed it
        except KeyboardInterrupt:
            break
    if alive:
        return f"stopped; {alive} runs are still running and will finish by themselves. {again[0].upper()}{again[1:]}"
    return f"stopped, all runs saved; {again}"
