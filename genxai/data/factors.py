"""The factors a sample is made of: class y and texture a, and which of them go together.

Free of torch, so that closed forms need none of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    Labels = TypeVar("Labels", int, np.ndarray, Tensor)

NUM_CLASSES = 10
NUM_TEXTURES = 10


def aligned_texture(labels: Labels) -> Labels:
    """pi(y) = (7 y + 3) mod 10, the texture a class goes with; a bijection of 0..9. Integers of any shape."""
    return (7 * labels + 3) % NUM_TEXTURES


def groups_of(labels: Tensor, aligned: Tensor) -> Tensor:
    """The group 2 y + aligned of each sample, int64 [N]: a class with, or without, the texture it goes with."""
    return 2 * labels + aligned.long()
