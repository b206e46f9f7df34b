"""Which processes of this machine belong to a job, found by the job's folder in their command line.

A process cannot lose its command line, so jobs are recognised even if their pid was never written down.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


def find_processes(text: str) -> dict[int, str]:
    """Pid -> command line of every living process whose command line contains the text (not this process)."""
    return {pid: command for pid, command in _processes() if text in command and pid != os.getpid()}


def _processes() -> Iterator[tuple[int, str]]:
    """Pid and command line of every process; zombies have none."""
    proc = Path("/proc")
    if not (proc / "self" / "cmdline").exists():
        yield from _from_ps()
        return
    for name in os.listdir(proc):
        if name.isdigit():
            try:
                yield int(name), (proc / name / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # ended meanwhile


def _from_ps() -> Iterator[tuple[int, str]]:
    """The same where there is no /proc (macOS)."""
    answer = subprocess.run(
        ["ps", "-axww", "-o", "pid=,args="], capture_output=True, text=True, timeout=20, check=False
    )
    for line in answer.stdout.splitlines():
        pid, _, command = line.strip().partition(" ")
        yield int(pid), command
