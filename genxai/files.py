"""Files and locks that survive a kill at any instant: published by rename after fsync, read back with plain messages.

JSONL is appended line by line, and a torn last line is ignored.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from genxai.configfile import shortened
from genxai.errors import GenxaiError

# --- writing -------------------------------------------------------------------------------------


def make_folder(path: Path) -> None:
    """mkdir -p whose failure is a message a person can act on."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        long = error.errno == errno.ENAMETOOLONG
        remedy = "shorten `name`" if long else "choose another with --runs"
        raise GenxaiError(f"cannot make the folder {shortened(str(path))}: {error.strerror}; {remedy}") from None


def write_atomic(path: Path, content: str | bytes) -> None:
    """Publish a file: temporary name, flush, fsync, rename, fsync of the folder."""
    data = content.encode() if isinstance(content, str) else content
    with _naming(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an error of the file system say which file it is about: a full disk does not."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


_ASKING = threading.Lock()


def _umask() -> int:
    """The mask of permissions of the process. Asking the system call for it sets it, for every thread."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_bytes().splitlines():
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    with _ASKING:  # no /proc: at least two threads shall not restore each other's
        mask = os.umask(0o077)
        os.umask(mask)
        return mask


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Publish a JSON file; numbers that are not finite become null with a reason."""
    write_atomic(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def append_jsonl(path: Path, *records: dict[str, Any]) -> None:
    """Append whole lines in one write; mends a torn last line left by a kill or a full disk."""
    text = "".join(json.dumps(finite(record), allow_nan=False) + "\n" for record in records)
    created = not path.exists()
    with _naming(path), open(path, "ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.truncate(_whole_lines(path))
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
    if created:
        sync_folder(path.parent)


def _whole_lines(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1


def finite(value: Any) -> Any:
    """JSON-ready copy: NaN and infinities become null, the reason under `<key>_reason`."""
    if isinstance(value, dict):
        out = {}
        for key, item in value.items():
            out[str(key)] = finite(item)
            if isinstance(item, float) and not math.isfinite(item):
                out[f"{key}_reason"] = "not a number" if math.isnan(item) else "infinite"
        return out
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- reading -------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """A published JSON object; empty if there is none."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise GenxaiError(f"{path}: cannot be read: {error}; remove it to have it computed again") from None
    return value if isinstance(value, dict) else {}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file; a torn last line is ignored."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    records = []
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except ValueError:
            raise GenxaiError(f"{path}: line {number} is not JSON; remove that line or the file") from None
    return records


# --- who is writing ------------------------------------------------------------------------------

#: locks of this process by path: a file that is open keeps its inode, so that a new one at the same place is another
_HELD: dict[str, int] = {}


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[bool]:
    """An advisory lock tied to this process; yields whether it was free. Never waits."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError as error:  # a file system without locks; flock itself names no file
            error.filename = str(path)
            raise
        _HELD[str(path)] = descriptor
        try:
            yield True
        finally:
            del _HELD[str(path)]
    finally:
        os.close(descriptor)


def still_held(path: Path) -> bool | None:
    """Whether the file at `path` is the one that this process holds as a lock; None if it holds none there."""
    held = _HELD.get(str(path))
    if held is None:
        return None
    try:
        return os.path.samestat(os.fstat(held), os.stat(path))
    except FileNotFoundError:
        return False


def is_locked(path: Path) -> bool:
    """Whether some process holds `exclusive(path)`; False where this user may not ask (a colleague's runs)."""
    try:
        if not path.exists():
            return False
        with exclusive(path) as free:
            return not free
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return False
        raise
