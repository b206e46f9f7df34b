"""The processes of one run: who this one is, and the few things all of them must agree on.

A global batch is shared out by striding: process r of n computes the positions r, r + n, r + 2n, ... The first k
positions of the global batch, those that are explained, are then spread evenly whatever n is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from genxai.errors import UsageError


def world_size() -> int:
    """Processes that a launcher (torchrun, accelerate, srun, launch/train.py) started for this run; needs no group.

    Raises UsageError for an environment that no launcher would make.
    """
    given = {name: os.environ.get(name) or default for name, default in (("WORLD_SIZE", "1"), ("RANK", "0"))}
    if not all(value.isdigit() for value in given.values()) or not int(given["RANK"]) < int(given["WORLD_SIZE"]):
        told = " ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(
            f"{told} in the environment: expected numbers, RANK below WORLD_SIZE; unset them or use a launcher"
        )
    return int(given["WORLD_SIZE"])


@dataclass(frozen=True)
class Processes:
    """This process among those of its run. With a single process everything here is free.

    Decisions (`any`, `share`) go through a gloo group on the host: the hosts wait for each other, but for no GPU.
    Tensors (`total`, `all_rows`) go through the device's own group.
    """

    rank: int = 0
    count: int = 1
    _control: Any = field(default=None, repr=False)

    @classmethod
    def of_this_run(cls) -> Processes:
        """The processes of the default process group; one if there is none."""
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether any process has set it; the same answer on all of them."""
        if self.count == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self._control)
        return tuple(bool(vote) for vote in votes.tolist())

    def share(self, value: Any) -> Any:
        """What the first process passes in, on all of them; plain Python values."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._control)
        return box[0]

    def collect(self, items: list[Any]) -> list[Any]:
        """The items of all processes in their order, on the first one; nothing on the others. Plain Python values."""
        if self.count == 1:
            return items
        parts: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(items, parts, dst=0, group=self._control)
        return [item for part in parts or [] for item in part]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            dist.barrier(group=self._control)

    def leave(self) -> None:
        """Close the connections to the others; before the interpreter ends.

        A thread of a group that then still waits for the interpreter would abort a process that has done everything.
        """
        if self.count > 1:
            dist.destroy_process_group()

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, detached from any graph; a new tensor."""
        values = values.detach().clone()
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def all_rows(self, rows: Tensor) -> Tensor:
        """[b, ...] of every process as [count b, ...], in the order of processes; only one's own rows carry a graph.

        Every process must have as many rows. A loss of all rows, times `count`, has with respect to this process's
        parameters the gradient whose mean over the processes is that of the whole: what DistributedDataParallel takes.
        """
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(parts, rows.detach().contiguous())
        parts[self.rank] = rows
        return torch.cat(parts)


def is_lost_peer(error: Exception) -> bool:
    """Whether a collective failed because another process has ended: killed, or failed with a reason of its own."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _LOST) and "out of memory" not in text


#: what gloo, NCCL and the store say when the other side is gone
_LOST = (
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "timed out",
    "timeout",
    "remote process exited",
    "communicator was aborted",
)
