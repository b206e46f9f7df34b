"""A wall clock that jumps by a day, forwards or backwards, between calls; the monotonic clock goes on as clocks do."""

from __future__ import annotations

import json
import random
import sys
import time

_DAY = 86_400.0


def jump(seed: int, share: float = 0.3) -> None:
    """Have time.time and time.time_ns of this process jump from now on, at this share of their calls."""
    chooser = random.Random(seed)
    real = time.time
    offset = chooser.choice((-_DAY, 0.0, _DAY))

    def jumping() -> float:
        nonlocal offset
        if chooser.random() < share:
            offset = chooser.choice((-_DAY, 0.0, _DAY))
        return real() + offset

    time.time = jumping
    time.time_ns = lambda: int(jumping() * 1e9)


def looks(seed: int) -> int:
    """Print what fifty looks at such a clock say."""
    jump(seed)
    json.dump([time.time() for _ in range(50)], sys.stdout)
    return 0


def status_on_a_jumping_clock(seed: int, runs: str) -> int:
    """launch/status.py --json."""
    from launch import status

    jump(seed)
    return status.main([runs, "--json"])
