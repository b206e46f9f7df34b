"""What all suites are told: the configuration, how often to repeat, and where progress is shown."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from analysis.benchmarks.progress import Progress

if TYPE_CHECKING:
    from genxai.config import Config


@dataclass(frozen=True)
class Setting:
    """source and overrides name the configuration, as for launch/train.py; short asks for the headline only."""

    source: str = "tiny"
    overrides: tuple[str, ...] = ()
    repeats: int = 20
    short: bool = False
    #: seconds after which a comparison makes no further rounds; None: never
    limit: float | None = None
    progress: Progress = field(default_factory=Progress)

    def shortened(self) -> Setting:
        return dataclasses.replace(self, short=True)

    def config(self, *more: str) -> Config:
        """The configuration, with further overrides. Raises UsageError for one that does not fit."""
        from genxai.configfile import load_config

        return load_config(self.source, [*self.overrides, *more])


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch with that many CPU threads, and afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


#: the method without what the paper adds to the loop: no maps, no revision
WITHOUT_EXPLANATION: Sequence[str] = ("revise.enabled=false", "objective.lambda_attribution=0")
