"""Processes of this machine, named so that a signal never reaches a stranger: what local_cluster.py starts and ends.

A pid alone is given out again after its process has ended; pid, start time and boot together are not.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from genxai.errors import GenxaiError


class ClusterError(GenxaiError):
    """The local cluster could not be started, asked or stopped."""


def boot_id() -> str:
    """Names the time since the machine was started: pids and start times mean nothing beyond it."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@dataclass(frozen=True)
class Process:
    """A process by pid and start time [clock ticks since boot]."""

    pid: int
    started: int

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """The process that has this pid now; None if there is none, or only its zombie."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()  # the name in brackets may itself hold spaces and brackets
        # a zombie has ended, and who should reap it may never do so: in containers pid 1 often does not
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether this very process still runs."""
        return Process.find(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        """Signal this very process, or nobody if it has ended. Raises ClusterError if it is another user's."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.alive():  # asked after opening: the handle stays with the process that has just been recognised
                signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise ClusterError(f"process {self.pid} belongs to another user: stop the cluster as that one") from None
        finally:
            os.close(handle)


def end_processes(processes: Iterable[Process], *, grace: float) -> None:
    """TERM, then KILL what is left after `grace` seconds. Raises ClusterError if even that does not end them."""
    left = list(processes)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        if not left or not seconds:
            continue
        for process in left:
            process.send(number)
        deadline = time.monotonic() + seconds
        while (left := [process for process in left if process.alive()]) and time.monotonic() < deadline:
            time.sleep(0.02)
    if left:
        raise ClusterError(f"these processes do not end: {', '.join(str(process.pid) for process in left)}")


def processes_with(*variables: str) -> list[Process]:
    """Every other process started with all these in its environment: `NAME=value`, or `NAME=` for any value.

    Processes of other users are seen by root only.
    """
    wanted = [variable.encode() for variable in variables]
    found = []
    for entry in os.listdir("/proc"):
        process = Process.find(int(entry)) if entry.isdigit() and int(entry) != os.getpid() else None
        if process is not None:
            with contextlib.suppress(OSError):
                environment = Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
                if all(any(_sets(item, variable) for item in environment) for variable in wanted):
                    found.append(process)
    return found


def _sets(item: bytes, variable: bytes) -> bool:
    # a value is compared as a whole: local0 is not local0a1b2c3d, which is somebody else's cluster
    return item.startswith(variable) if variable.endswith(b"=") else item == variable


def find_program(name: str) -> str | None:
    """Full path of a program; looks into the sbin folders too, which are not on the PATH of ordinary users."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def free_ports(count: int) -> int:
    """The first of `count` consecutive free TCP ports, below those that the kernel gives to outgoing connections."""
    while True:
        first = 20_000 + secrets.randbelow(32_768 - 20_000 - count)
        with contextlib.ExitStack() as sockets, contextlib.suppress(OSError):
            for port in range(first, first + count):
                sockets.enter_context(socket.socket()).bind(("", port))
            return first


def answers(port: int) -> bool:
    """Whether something on this machine accepts connections on a TCP port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def write_private(path: Path, content: bytes) -> None:
    """Make a file that only this user can read, at no moment anybody else (keys, slurmdbd.conf)."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
