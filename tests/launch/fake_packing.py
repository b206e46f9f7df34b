"""A job of several runs with the fake trainer in its children: `launch.packing` as real processes.

fake_packing.py together|in-sequence RUN_DIR...    the job
fake_packing.py child RUN_DIR                      one of its children
"""

import os
import signal
import sys
from pathlib import Path

import fake_trainer

from genxai.runs import Run
from launch import packing
from launch.attempts import excuse


def child(run_dir: str) -> int:
    packing.end_with_parent()
    signal.signal(signal.SIGUSR2, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    outcome = fake_trainer.work(run_dir)
    if outcome == "stopped":
        excuse(Run(Path(run_dir)), outcome)
    return {"stopped": 75, "failed": 1}.get(outcome, 0)


if __name__ == "__main__":
    mode, *run_dirs = sys.argv[1:]
    if mode == "child":
        sys.exit(child(run_dirs[0]))
    packing.CHILD = (sys.executable, __file__, "child")
    packing.work_together(run_dirs, mode == "in-sequence")
