"""launch/sweep.py with the fake trainer as its submitted callable: the reconciler as a real process."""

import sys

import fake_trainer

from launch import sweep
from launch.executors import LocalRuns


def make_executor(arguments, planner):
    return LocalRuns(planner.folder, arguments.max_parallel or 2, function=fake_trainer.work)


if __name__ == "__main__":
    sweep.make_executor = make_executor
    sweep.POLL_SECONDS["local"] = (0.1, 0.1)
    sys.exit(sweep.main())
