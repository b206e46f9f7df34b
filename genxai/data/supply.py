"""Which splits a configuration's data have, what each may be used for, and how to open one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from genxai.config import Config, DataConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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


class Split(Protocol):
    """What training and evaluation need of any split; everything on one device."""

    num_classes: int
    labels: Tensor  # int64 [N]

    def __len__(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def provenance(self) -> dict[str, Any]: ...

    def batch(self, indices: Tensor) -> Any:
        """The samples at these places, with at least images, labels, tokens, token_mask and indices."""
        ...


def open_split(config: Config, split: str, device: torch.device | str = "cpu") -> Any:
    """A split of the configured data: TexMM, or ToxicText for a corpus of comments.

    Raises UsageError for a split there is not, DataError without data.
    """
    if config.data.is_text:
        from genxai.data.toxicity import ToxicText

        return ToxicText(config, split, device)
    from genxai.data.texmm import TexMM

    return TexMM(config, split, device)
