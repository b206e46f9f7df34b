"""Dropout that does not depend on how many processes share a batch.

The mask of a sample belongs to its place in the global batch, so 1, 2 or 8 GPUs drop the same features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SampleDropout(nn.Dropout):
    """Inverted dropout [b, ...] -> [b, ...] (Srivastava et al. 2014); identity in eval mode.

    Masks are drawn for the whole global batch from torch's global stream, of which each process keeps its own rows:
    all processes must be seeded alike and make the same passes. Without `share_rows` the batch is this process's.
    """

    rows: Tensor | None = None
    batch_size: int = 0

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        size = self.batch_size if self.rows is not None else len(input)
        kept = torch.rand(size, *input.shape[1:], device=input.device) >= self.p
        if self.rows is not None:
            kept = kept[self.rows]
        return input * kept / (1.0 - self.p)


def replace_dropout(network: nn.Module) -> None:
    """Make every Dropout inside a network a SampleDropout, in place."""
    for name, child in network.named_children():
        if type(child) is nn.Dropout:
            setattr(network, name, SampleDropout(child.p))
        else:
            replace_dropout(child)


def share_rows(network: nn.Module, rows: Tensor, batch_size: int) -> None:
    """Tell the dropouts of a network which rows (int64 [b]) of the global batch this process computes."""
    for module in network.modules():
        if isinstance(module, SampleDropout):
            module.rows, module.batch_size = rows, batch_size
