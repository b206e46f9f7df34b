"""Normalisation that depends on nothing but the sample, and guards for passes that only look."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from torch import Tensor, nn

CHANNELS_PER_GROUP = 8


def group_count(channels: int) -> int:
    """Groups of a GroupNorm: about `CHANNELS_PER_GROUP` channels in each, any number of channels allowed."""
    return math.gcd(channels, max(1, channels // CHANNELS_PER_GROUP))


class ClassConditionalNorm(nn.Module):
    """Group normalisation of each sample, then a scale and a shift that depend on its class.

    Conditional *batch* normalisation, the usual choice, would make a generated image depend on the others of its
    batch, keep running statistics that the averaged generator and a checkpoint have to carry, and change with the
    number of GPUs. This has no buffers and gives the same image in any batch and at any world size.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(group_count(channels), channels, affine=False)
        self.scale = nn.Embedding(num_classes, channels)
        self.shift = nn.Embedding(num_classes, channels)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """features [B, C, H, W], labels int64 [B] -> [B, C, H, W]"""
        scale, shift = self.scale(labels)[:, :, None, None], self.shift(labels)[:, :, None, None]
        return self.norm(features) * scale + shift


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Parameters that need no gradient for the duration; each one's own setting is restored.

    A classifier explained so builds no graph below its map: half the cost, and the memory of the layers above only.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """eval() for the duration: no dropout, no batch statistics, no buffer that counts samples.

    For passes that explain or measure. Every submodule's own mode is restored exactly, also after an exception.
    """
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
