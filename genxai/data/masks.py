"""The exact mask S of an object: the strokes of a digit, the filled silhouette of a garment.

Whole data sets at once: each row of an image is one int64 of bits, and morphology is shifts and logic.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: S = x > threshold (of full white); part of the benchmark's definition (docs/benchmark.md)
THRESHOLDS = {"mnist": 0.25, "fashion-mnist": 0.08}
_BITS = 63  # an int64 without its sign


def object_masks(images: Tensor, dataset: str) -> Tensor:
    """Masks S, bool [N, H, W], of untextured images, uint8 [N, H, W].

    MNIST: x > 0.25. Fashion-MNIST: the silhouette x > 0.08, closed by a 3x3 square, its holes filled.
    Raises ValueError for another type or shape, or for images wider than 61 pixels.
    """
    if images.dtype != torch.uint8 or images.ndim != 3:
        raise ValueError(f"expected uint8 [N, H, W], got {images.dtype} {list(images.shape)}")
    bright = images > THRESHOLDS[dataset] * 255.0
    return bright if dataset == "mnist" else fill_holes(close(bright))


def close(masks: Tensor) -> Tensor:
    """Morphological closing (dilation, then erosion) by a 3x3 square, bool [N, H, W].

    The world outside an image neither grows into it nor eats its border.
    """
    rows = _pack(masks)
    dilated = _vertically(rows | rows << 1 | rows >> 1)
    holes = dilated ^ _frame(masks)  # eroding an object is dilating what surrounds it
    return _unpack(~_vertically(holes | holes << 1 | holes >> 1), masks)


def fill_holes(masks: Tensor) -> Tensor:
    """Masks with every hole filled, bool [N, H, W]: background without a 4-connected way to the border."""
    whole = _frame(masks)
    free = _pack(masks) ^ whole
    outside = whole & ~_interior(masks)
    while True:
        grown = free & (_vertically(outside) | outside << 1 | outside >> 1)
        if torch.equal(grown, outside):
            return _unpack(~outside, masks)
        outside = grown


def _pack(masks: Tensor) -> Tensor:
    """int64 [N, H + 2]: the bits of each row, with an empty pixel added on every side."""
    width = masks.shape[-1]
    if width + 2 > _BITS:
        raise ValueError(f"images of at most {_BITS - 2} pixels width, got {width}")
    rows = torch.zeros(masks.shape[:-1], dtype=torch.int64, device=masks.device)
    for column in range(width):  # one column of all images at a time: eight bytes per pixel would be a lot at once
        rows |= masks[..., column].to(torch.int64) << (column + 1)
    return torch.nn.functional.pad(rows, (1, 1))


def _unpack(rows: Tensor, like: Tensor) -> Tensor:
    masks = torch.empty_like(like)
    for column in range(like.shape[-1]):
        masks[..., column] = rows[:, 1:-1] >> (column + 1) & 1
    return masks


def _frame(masks: Tensor) -> Tensor:
    """int64 [H + 2]: every pixel set, the added ones too."""
    height, width = masks.shape[-2:]
    return torch.full((height + 2,), (1 << (width + 2)) - 1, device=masks.device)


def _interior(masks: Tensor) -> Tensor:
    """int64 [H + 2]: every pixel of the image itself set."""
    height, width = masks.shape[-2:]
    inside = torch.full((height,), ((1 << width) - 1) << 1, device=masks.device)
    return torch.nn.functional.pad(inside, (1, 1))


def _vertically(rows: Tensor) -> Tensor:
    """Each row united with its neighbours above and below."""
    grown = rows.clone()
    grown[..., 1:] |= rows[..., :-1]
    grown[..., :-1] |= rows[..., 1:]
    return grown
