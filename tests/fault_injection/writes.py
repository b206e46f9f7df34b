"""Every system call by which this process changes a folder, counted; the n-th one can be its last, or find a full disk.

Python's audit events tell of files opened, renamed, made and removed and of processes started; what files are told to
write is counted in the files themselves. fsync is not counted: a SIGKILL before it leaves what one after it leaves.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

_OPENED_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

#: audit events of calls that change a folder: where their paths are among the arguments, and their directory handles
_CHANGES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
}


@dataclass(frozen=True)
class Fault:
    """What happens at the n-th writing call (from 1; 0: nothing, only count)."""

    at: int = 0
    #: killed before the call; killed in the middle of a write; no space left from this call on
    kind: Literal["kill", "torn", "full"] = "kill"
    #: count only calls whose name begins so; threads make the order of the others vary
    call: str = ""


@dataclass
class _Watch:
    root: str
    fault: Fault
    calls: list[str] = field(default_factory=list)
    seen: int = 0
    is_full: bool = False


_watch: _Watch | None = None
_real_open = builtins.open
_is_hooked = False


def install(root: Path, fault: Fault | None = None) -> None:
    """Count this process's writing calls under `root` from now on, and have the fault happen."""
    global _watch, _is_hooked
    _watch = _Watch(os.path.realpath(root) + os.sep, fault or Fault())
    if not _is_hooked:
        _is_hooked = True
        sys.addaudithook(_audit)
        builtins.open = io.open = _open
        os.write = _counted_os_write(os.write)


def remove() -> None:
    """Count no longer: for a process that has been forked off the one at fault."""
    global _watch
    _watch = None


def calls() -> list[str]:
    """What has been counted so far, one word and the file's name each."""
    return list(_watch.calls) if _watch else []


def _tick(what: str, path: str, tear: Callable[[], Any] | None = None, needs_space: bool = True) -> None:
    watch = _watch
    if watch is None or not (path == "" or (path + os.sep).startswith(watch.root)):
        return
    watch.calls.append(f"{what} {os.path.basename(path)}")
    fault = watch.fault
    watch.seen += watch.calls[-1].startswith(fault.call)
    number = watch.seen if watch.calls[-1].startswith(fault.call) else -1
    if fault.kind == "full":
        watch.is_full |= bool(fault.at) and number >= fault.at
        if watch.is_full and needs_space:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif number == fault.at:
        if fault.kind == "torn" and tear is not None:
            tear()
        os.kill(os.getpid(), signal.SIGKILL)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _watch is None:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(flags, int) and flags & _OPENED_TO_WRITE and not isinstance(path, int):
            exists = os.path.exists(path)
            _tick("open", _path(path), needs_space=not exists)
    elif event in _CHANGES:
        for path, handle in _CHANGES[event]:
            name = _path(args[path], args[handle] if handle is not None else -1)
            if (name + os.sep).startswith(_watch.root):
                _tick(event, name, needs_space=event in ("os.mkdir", "os.symlink", "os.link"))
                return
    elif event in ("subprocess.Popen", "os.posix_spawn"):
        _tick("start", "", needs_space=False)


def _path(path: Any, handle: int = -1) -> str:
    """The absolute path that a call means; a file given by its number is looked up."""
    if isinstance(path, int):
        try:
            return os.readlink(f"/proc/self/fd/{path}")
        except OSError:
            return "?"
    text = os.fsdecode(path)
    folder = os.readlink(f"/proc/self/fd/{handle}") if handle >= 0 else os.getcwd()
    return os.path.normpath(os.path.join(folder, text))


class _CountedFile(io.FileIO):
    def write(self, data: Any) -> int:
        _tick("write", _path(self.fileno()), lambda: super(_CountedFile, self).write(bytes(data)[: len(data) // 2]))
        return super().write(data) or 0

    def truncate(self, size: int | None = None) -> int:
        _tick("truncate", _path(self.fileno()), needs_space=False)
        return super().truncate(size)


def _open(
    file: Any,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    if _watch is None or not set(mode) & set("wax+"):
        return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
    raw = _CountedFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
    if "b" in mode and buffering == 0:
        return raw
    if "+" in mode:
        binary: Any = io.BufferedRandom(raw)
        binary.seek(0, os.SEEK_END if "a" in mode else os.SEEK_SET)
    else:
        binary = io.BufferedWriter(raw)
    return binary if "b" in mode else io.TextIOWrapper(binary, encoding, errors, newline, buffering == 1)


def _counted_os_write(real: Callable[[int, bytes], int]) -> Callable[[int, bytes], int]:
    def write(descriptor: int, data: bytes) -> int:
        _tick("write", _path(descriptor), lambda: real(descriptor, bytes(data)[: len(data) // 2]))
        return real(descriptor, data)

    return write
