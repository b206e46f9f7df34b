"""On the PYTHONPATH of a sweep whose clocks shall jump: Python imports this before anything else, in jobs as well."""

import os
import sys
from pathlib import Path

if os.environ.get("FAULTY_CLOCK"):
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    import clocks

    clocks.jump(int(os.environ["FAULTY_CLOCK"]) + os.getpid())
