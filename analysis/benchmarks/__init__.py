"""The benchmark's suites, one module each, and what they share: timing, targets and floors, the table.

A suite is a module with `measure(setting) -> list[Figure]`; it is loaded when it is run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.benchmarks.figures import Figure
    from analysis.benchmarks.setting import Setting

#: name -> one line for --help, in the order in which `core` runs them
SUITES = {
    "loop": "the joint loop against a bare PyTorch loop, and what explanation and revision cost",
    "cam": "batched Grad-CAM++ against its floor and against pytorch-grad-cam",
    "data": "TexMM.batch against the step it feeds and against a Dataset with a DataLoader",
    "sweep": "one pass of the reconciler over a finished sweep",
    "scaling": "two processes against one at half the threads",
}
#: every suite in its short form
CORE = "core"


def measure(suite: str, setting: Setting) -> list[Figure]:
    """The figures of one suite, or of all in their short form for `core`."""
    if suite == CORE:
        return [figure for name in SUITES for figure in measure(name, setting.shortened())]
    module = importlib.import_module(f"analysis.benchmarks.{suite}")
    figures: list[Figure] = module.measure(setting)
    return figures
