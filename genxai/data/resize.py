"""Enlarging images and masks with the same bits in any batch and on any device.

Library routines choose their arithmetic by shape and device; these are gathers, products and sums.
"""

from __future__ import annotations

import torch
from torch import Tensor


def resize_bilinear(images: Tensor, size: int) -> Tensor:
    """Images float32 [B, C, H, W] at [B, C, size, size], bilinear between pixel centres (align_corners=False).

    For enlarging: nothing is averaged when `size` is smaller than H or W.
    """
    for dim in (-2, -1):
        low, high, weight = _taps(images.shape[dim], size, images.device)
        weight = weight[:, None] if dim == -2 else weight
        near, far = images.index_select(dim, low), images.index_select(dim, high)
        images = near * (1.0 - weight) + far * weight
    return images


def resize_nearest(masks: Tensor, size: int) -> Tensor:
    """Masks [B, C, H, W] of any type at [B, C, size, size], each pixel from the one that covers its centre."""
    for dim in (-2, -1):
        length = masks.shape[dim]
        place = (2 * torch.arange(size, device=masks.device) + 1) * length // (2 * size)
        masks = masks.index_select(dim, place)
    return masks


def _taps(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The two source pixels of each target pixel, int64 [size] each, and the weight of the second, float32 [size]."""
    # the place (i + 1/2) length / size - 1/2, times 2 size: integers, so that only the weight is ever rounded
    numerator = ((2 * torch.arange(size, device=device) + 1) * length - size).clamp(min=0)
    low = (numerator // (2 * size)).clamp(max=length - 1)
    rest = (numerator - low * 2 * size).to(torch.float32) * (1.0 / (2 * size))
    return low, (low + 1).clamp(max=length - 1), rest
