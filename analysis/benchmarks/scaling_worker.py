"""One of the processes that suite `scaling` times: makes as many joint steps as each line of its input says.

python -m analysis.benchmarks.scaling_worker SOURCE [key=value ...]
"""

from __future__ import annotations

import logging
import sys


def main(source: str, *overrides: str) -> None:
    """Build, say so, then answer every number of steps with a line once they are made."""
    from analysis.benchmarks.loop import JointLoop
    from genxai.configfile import load_config

    answers = sys.stdout
    sys.stdout = sys.stderr  # nothing but answers may go to the pipe
    logging.getLogger("genxai").setLevel(logging.ERROR)
    joint = JointLoop(load_config(source, list(overrides)))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        for _ in range(int(line)):
            joint()
        print("done", file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
