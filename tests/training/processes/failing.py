"""One of several processes that train a run, of which one raises at its third step.

python failing.py RUN_DIRECTORY RANK
"""

import os
import sys
from pathlib import Path

from genxai.errors import GenxaiError
from genxai.runs import Run
from genxai.training import Outcome, loop, train


def main(path: str, rank: str) -> int:
    step = loop.joint_step

    def sometimes(experiment, number, ledger):
        if number == 2 and os.environ["RANK"] == rank:
            raise RuntimeError("this process alone is broken")
        return step(experiment, number, ledger)

    loop.joint_step = sometimes
    try:
        return 0 if train(Run(Path(path))) is Outcome.DONE else 1
    except GenxaiError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
