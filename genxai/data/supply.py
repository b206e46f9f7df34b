"""Which splits a configuration's data have, what each may be used for, and how to open one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from genxai.config import Config, DataConfig

if TYPE_CHECKING:
    import torch

    from genxai.data.texmm import TexMM
    from genxai.data.toxicity import ToxicText


@dataclass(frozen=True)
class SplitNames:
    """The splits of a data set by what they may do."""

    #: may choose something: the kept epoch, early stopping, a sweep's point
    validation: tuple[str, ...]
    #: only report
    test: tuple[str, ...]
    #: whose attributions are scored
    explained: tuple[str, ...]

    @property
    def evaluated(self) -> tuple[str, ...]:
        """In the order of result.json."""
        return self.validation + self.test

    @property
    def every(self) -> tuple[str, ...]:
        return ("train", *self.evaluated)


#: what each is stands in `genxai.data.texmm`
TEXMM = SplitNames(
    validation=("val", "val_balanced"),
    test=("test", "test_unbiased", "test_conflict", "test_counterfactual"),
    explained=("val", "test", "test_unbiased"),
)
#: what each is stands in `genxai.data.toxicity`
TOXICITY = SplitNames(validation=("val",), test=("test", "madlibs"), explained=("val", "test"))


def split_names(data: DataConfig) -> SplitNames:
    """The splits of a configuration's data."""
    return TOXICITY if data.is_text else TEXMM


def open_split(config: Config, split: str, device: torch.device | str = "cpu") -> TexMM | ToxicText:
    """A split of the configured data: TexMM, or ToxicText for a corpus of comments.

    Raises UsageError for a split there is not, DataError without data.
    """
    if config.data.is_text:
        from genxai.data.toxicity import ToxicText

        return ToxicText(config, split, device)
    from genxai.data.texmm import TexMM

    return TexMM(config, split, device)
