"""The base class of every method against shortcuts, which is ERM: the places where one may differ from it.

The loop calls these at fixed places, so that a method is what it changes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from genxai.config import Config
from genxai.errors import UsageError

#: groups: `aligned` of each sample; masks: S; images, textures: that the classifier sees them; val_balanced: the split
Need = Literal["groups", "masks", "images", "textures", "val_balanced"]
#: (function of a batch -> Tensor [b, ...], split) -> Tensor [N, ...]: the function over a whole split, in batches
Measure = Callable[[Callable[[Any], Tensor], Any], Tensor]


class Peers(Protocol):
    """The processes of the run, as far as a method needs them."""

    @property
    def count(self) -> int: ...

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes, detached from any graph."""
        ...


class Method:
    """Empirical risk minimisation. Every method is a subclass that overrides what it does otherwise.

    config: of the run. train: its training split, TexMM or ToxicText; what only TexMM has (groups, masks,
    textures) is there for a method that says it `needs` it.
    peers: the processes that share a global batch; every hook is called by each of them.
    """

    #: set by the registry
    name: ClassVar[str] = ""
    #: what it cannot do without; refused where it is not there
    needs: ClassVar[frozenset[Need]] = frozenset()
    #: what `method.strength` means here, with its unit; empty: the method has no number
    strength_is: ClassVar[str] = ""
    #: used where `method.strength` is null
    default_strength: ClassVar[float] = 0.0
    #: the splits whose labels it learns from; a metric of these is a training metric
    trained_on: ClassVar[tuple[str, ...]] = ("train",)

    def __init__(self, config: Config, train: Any, peers: Peers) -> None:
        self.config, self.train, self.peers = config, train, peers
        given = config.method.strength
        if given is not None and not self.strength_is:
            raise UsageError(f"method.strength={given}: {self.name} has no such number; set method.strength=null")
        self.strength: float = self.default_strength if given is None else given

    @property
    def restart_epoch(self) -> int:
        """After this epoch the classifier starts again from its initial state; 0: it never does."""
        return 0

    def sampling_weights(self) -> Tensor | None:
        """How often each training sample is drawn, float [N] >= 0, up to a factor; None: every one once an epoch.

        Asked at the start, after a resume and after a restart.
        """
        return None

    def batch(self, step: int, indices: Tensor, positions: Tensor) -> Any:
        """The classifier's batch of a step: the samples at `indices` [b], `positions` [b] of the global batch."""
        return self.train.batch(indices)

    def loss(self, logits: Tensor, sample: Any) -> Tensor:
        """The classification loss of float32 logits [b, K]: a scalar whose mean over the processes is the batch's."""
        return F.cross_entropy(logits, sample.labels)

    def penalty(self, classifier: nn.Module, sample: Any) -> Tensor | None:
        """What is added to the loss, its weight included; a mean over processes as `loss`. None: nothing."""
        return None

    def before_restart(self, classifier: nn.Module, measure: Measure) -> None:
        """Called once, with the classifier of the end of `restart_epoch`."""

    def finish(self, classifier: nn.Module, measure: Measure) -> None:
        """Called once, with the kept classifier when training has ended; it may be changed in place."""

    def facts(self) -> dict[str, Any]:
        """What result.json shall say of this run besides name, strength and `trained_on`: JSON values."""
        return {}

    def record(self) -> dict[str, Any]:
        """The entry `method` of result.json."""
        strength = self.strength if self.strength_is else None
        return {"name": self.name, "strength": strength, "trained_on": list(self.trained_on), **self.facts()}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and JSON values, the same on every process."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; tensors come on the CPU."""
