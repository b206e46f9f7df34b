"""An executor of tests: its jobs end one by one, in an order drawn at random, with what the test says of them."""

import random
from collections.abc import Callable
from typing import Any

from launch.attempts import Live, Status


class EndingJobs:
    """`end` is called with the planned run whose turn it is, and writes what the run leaves behind."""

    cluster = "local"

    def __init__(self, end: Callable[[Any], None], parallel: int, order: random.Random) -> None:
        self.end, self.parallel, self.order = end, parallel, order
        self.alive, self.submitted = [], []

    def settle(self, submissions):
        return list(submissions)

    def live(self, submissions):
        return {planned.signature: Live(Status.RUNNING) for planned in self.alive}

    def slots(self, submissions, live):
        return self.parallel - len(self.alive)

    def submit(self, runs):
        self.alive += [planned for planned, _ in runs]
        self.submitted += [planned.signature for planned, _ in runs]
        return []

    def end_one(self) -> None:
        if self.alive:
            self.end(self.alive.pop(self.order.randrange(len(self.alive))))


class Killed(BaseException):
    """What a SIGKILL is to the reconciler, as far as this process can have it."""
