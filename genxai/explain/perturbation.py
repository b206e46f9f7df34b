"""Images changed so little that a stable explanation should stay as it is: pixel noise, a shift of a few pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from genxai.data import counter_rng

#: standard deviation of the noise, of full white
NOISE = 0.05
#: pixels of the image that it is shifted to the right
SHIFT = 2


def noisy(images: Tensor, counters: Tensor, seed: int) -> Tensor:
    """Images [B, C, H, W] in [0, 1] plus N(0, 0.05^2) on every pixel, cut off to [0, 1].

    The noise of an image is a pure function of (seed, its counter), int64 [B]: the same in any batch, on any device.
    """
    place = torch.arange(images[0].numel(), device=images.device)
    draws = counter_rng.normal(seed, "stability/noise", counters[:, None], place)
    return (images + NOISE * draws.view_as(images)).clamp(0.0, 1.0)


def shifted(images: Tensor) -> Tensor:
    """Images [B, C, H, W] two pixels further right; the left edge is repeated where nothing comes in."""
    return pad(images, (SHIFT, 0, 0, 0), mode="replicate")[..., :-SHIFT]


def shift_back(maps: Tensor, of_shifted: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, H, W] of images and of the `shifted` ones, cut to what both show, in register: twice [B, H, W - 2]."""
    return maps[..., :-SHIFT], of_shifted[..., SHIFT:]
