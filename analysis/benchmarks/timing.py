"""Timing side by side: contenders take turns in one process, so that the machine's other load falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

#: rounds before the first that counts: allocators, caches, kernels chosen on first use
WARM_UP = 2
#: rounds that a median needs, whatever they take
FEWEST = 3


def seconds(work: Callable[[], Any], device: Any = None) -> float:
    """Wall time of one call, everything queued on a GPU included."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start


def synchronise(device: Any) -> None:
    """Wait for a GPU to be idle; `device` is a torch.device, None is the CPU."""
    if device is not None and device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


def alternate(
    contenders: Mapping[str, Callable[[], Any]],
    repeats: int,
    tick: Callable[[], None],
    device: Any = None,
    warm_up: int = WARM_UP,
    limit: float | None = None,
) -> dict[str, list[float]]:
    """Seconds of each contender in each of `repeats` rounds; `tick` is called after every call, outside the clock.

    The order rotates from round to round: nobody always runs on the caches that the same other one leaves behind. After
    `limit` seconds no further round begins, but there are at least `FEWEST`: a busy machine makes less, not later.
    """
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    began = time.monotonic()
    for round_number in range(-warm_up, repeats):
        if limit is not None and round_number >= FEWEST and time.monotonic() - began > limit:
            break
        first = round_number % len(names)
        for name in names[first:] + names[:first]:
            elapsed = seconds(contenders[name], device)
            if round_number >= 0:
                times[name].append(elapsed)
            tick()
    return times


def calls(contenders: int, repeats: int, warm_up: int = WARM_UP) -> int:
    """How many calls `alternate` makes, for the progress bar."""
    return contenders * (repeats + warm_up)
