"""launch/sweep.py that SIGKILLs itself before its n-th writing call, n being FAULTY_WRITE in its environment."""

import os
import sys
from pathlib import Path

import writes

from launch import sweep

if __name__ == "__main__":
    # its jobs are to be killed by others
    number = int(os.environ.pop("FAULTY_WRITE", "0"))
    sweep.POLL_SECONDS["local"] = (0.3, 0.3)
    writes.install(Path(sys.argv[sys.argv.index("--runs") + 1]), writes.Fault(number))
    sys.exit(sweep.main())
