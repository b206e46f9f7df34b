"""Checkpoints published in the background: training waits for a copy of the state in memory, not for the disk.

What lies on disk at any instant, and what a kill leaves behind, is as `genxai.training.checkpoints.publish` has it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from genxai.training import checkpoints
from genxai.training.checkpoints import Flat, State

log = logging.getLogger(__name__)


class Publisher:
    """Publishes the checkpoints of one folder, one at a time, from a thread of its own.

    An error of the writing (OSError for a full disk, ...) is raised once, in the caller's thread, by the next `publish`
    or `finish`; what was published before it is left as it was. Leaving `with` finishes; where an exception leaves it,
    the write in flight is waited for and its own error, if any, goes to the log. Leaving the interpreter without either
    waits for the write too. To be used from one thread.

    blocked_seconds: what the last `publish` kept its caller waiting [s], all it did included.
    blocked_seconds_total: the sum over every `publish` and `finish` so far [s].
    written_seconds: from the start of the last write that ended to its end, in the background [s].
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blocked_seconds = self.blocked_seconds_total = self.written_seconds = 0.0
        # not a daemon: at its exit the interpreter lets the pool end what it was given
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def publish(self, step: int, state: State) -> None:
        """Copy the state and have the copy published; waits first if the last one is still being written.

        state: as for `checkpoints.publish`; nothing of it is shared with the copy, so that training may go on at once.
        Raises what the write before this one raised (this state is then not published), and TypeError or ValueError
        for what cannot be in a checkpoint.
        """
        started = time.perf_counter()
        try:
            self._settle()
            flat = checkpoints.flatten(state)
            tensors, copied = self._snapshot(flat.tensors)
            self._writing = self._pool.submit(self._write, step, Flat(tensors, flat.values), copied)
        finally:
            self.blocked_seconds = time.perf_counter() - started
            self.blocked_seconds_total += self.blocked_seconds

    def finish(self) -> None:
        """Wait until everything handed over is on disk. Raises what its writing raised."""
        started = time.perf_counter()
        try:
            self._settle()
        finally:
            self.blocked_seconds_total += time.perf_counter() - started

    def __enter__(self) -> Publisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.finish()
        except Exception as unwritten:
            if problem is None:
                raise
            log.error("the last checkpoint could not be written: %s", unwritten)
        finally:
            self._pool.shutdown()

    def _settle(self) -> None:
        if self._writing is not None:
            self._writing.exception()  # may be interrupted by a signal, and is then still to be settled
            writing, self._writing = self._writing, None
            writing.result()

    def _snapshot(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], Sequence[torch.cuda.Event]]:
        """Copies of the tensors in the one buffer that all publishes share, and what to wait for before reading them.

        Copies from a GPU are queued behind the step that has been launched and ahead of the one that follows, which
        therefore cannot change what is copied; the caller does not wait for either.
        """
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        size = sum(tensor.nbytes for tensor in tensors.values())
        if self._buffer.numel() < size or (devices and not self._buffer.is_pinned()):
            self._buffer = torch.empty(0, dtype=torch.uint8)  # the old one goes before the new one comes
            self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=bool(devices))
        copies, begin = {}, 0
        for path, tensor in tensors.items():
            end = begin + tensor.nbytes
            # in the order of the file, which puts wide types first, every tensor begins at a multiple of its type
            copies[path] = self._buffer[begin:end].view(tensor.dtype).view(tensor.shape)
            copies[path].copy_(tensor, non_blocking=True)
            begin = end
        return copies, [_recorded(device) for device in devices]

    def _write(self, step: int, flat: Flat, copied: Sequence[torch.cuda.Event]) -> None:
        started = time.perf_counter()
        for event in copied:
            event.synchronize()
        checkpoints.publish_flat(self.folder, step, flat)
        self.written_seconds = time.perf_counter() - started


def _recorded(device: torch.device) -> torch.cuda.Event:
    """What tells that everything launched on the device so far has been done; its waiting thread sleeps."""
    event = torch.cuda.Event(blocking=True)
    event.record(torch.cuda.current_stream(device))
    return event
