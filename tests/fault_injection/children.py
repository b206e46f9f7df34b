"""Processes of a test that begin as forks of one that has imported everything: a start takes milliseconds, not seconds.

What is started is a function of one of this folder's modules; it may be killed like any other process.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
#: what launch/sweep.py, analysis/make_tables.py and training import on their way
_IMPORTED = """
torch optuna optuna.samplers optuna.storages.journal submitit pandas rich.console rich.live
genxai.training genxai.data launch.sweep launch.reconciler launch.display launch.pictures launch.interrupts
analysis.make_tables analysis.measured analysis.sweep_table analysis.hyperparameters analysis.table7 analysis.latex
"""
_context.set_forkserver_preload(_IMPORTED.split())
#: starting one process asks after all the others; two threads that ask at once take the exit code from each other
_one_at_a_time = threading.Lock()


def start(function: Callable[..., int | None], *arguments: Any, output: Path | None = None) -> BaseProcess:
    """The process, running; what it prints goes to the file, or nowhere."""
    process = _context.Process(target=_call, args=(function, arguments, output))
    with _one_at_a_time:
        process.start()
    return process


def run(function: Callable[..., int | None], *arguments: Any, output: Path | None = None, seconds: float = 120) -> int:
    """The exit code of the process, negative for the signal that ended it."""
    process = start(function, *arguments, output=output)
    if not wait(process, seconds):
        process.kill()
        said = output.read_text() if output else ""
        raise AssertionError(f"{function.__name__}{arguments} has not ended after {seconds:.0f} s: {said}")
    assert process.exitcode is not None
    return process.exitcode


def wait(process: BaseProcess, seconds: float = 120) -> bool:
    """Whether the process has ended within the time."""
    deadline = time.monotonic() + seconds
    while True:
        with _one_at_a_time:
            ended = not process.is_alive()
        if ended or time.monotonic() > deadline:
            return ended
        time.sleep(0.01)


def _call(function: Callable[..., int | None], arguments: tuple[Any, ...], output: Path | None) -> None:
    descriptor = os.open(output or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    code = 1
    try:
        code = function(*arguments) or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # nothing of the test's own is to be wound up here
