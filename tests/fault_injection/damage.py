"""What is done to files: cut off in a line, altered at a byte, filled up around, removed while they are written."""

from __future__ import annotations

import errno
import random
import shutil
from pathlib import Path


def tear(path: Path, chooser: random.Random) -> None:
    """Cut the file somewhere in its last line, as a power cut may leave it."""
    data = path.read_bytes()
    begin = data[:-1].rfind(b"\n") + 1
    path.write_bytes(data[: chooser.randrange(begin, max(begin + 1, len(data) - 1))])


def damage(path: Path, chooser: random.Random) -> None:
    """Cut the file, which must not be empty, at a random byte or alter that byte."""
    data = bytearray(path.read_bytes())
    place = chooser.randrange(len(data))
    if chooser.random() < 0.5:
        del data[place:]
    else:
        data[place] ^= 0x20
    path.write_bytes(data)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is on the disk of the folder."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 16, 64):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return ballast


def remove(path: Path) -> None:
    """Remove the folder, even while a process writes in it."""
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)
