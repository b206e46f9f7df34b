"""The placebo of Reveal-to-Revise (explain.masks=random): what attributions are held to says nothing about the object.

Drawn from seed and ids (int64, one per sample), so a sample keeps its place through a run, as it does the true one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genxai.data.counter_rng import integers, uniform


def moved_masks(masks: Tensor, seed: int, ids: Tensor) -> Tensor:
    """Each mask, bool [m, 1, H, W], of the same shape at a random place, rolled around the image's edges."""
    side = masks.shape[-1]
    down, right = (integers(seed, f"placebo-{axis}", side, ids)[:, None] for axis in ("down", "right"))
    pixel = torch.arange(side, device=masks.device)
    rows, columns = (pixel - down) % side, (pixel - right) % side
    sample = torch.arange(len(masks), device=masks.device)
    return masks[sample[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


def other_tokens(terms: Tensor, token_mask: Tensor, seed: int, ids: Tensor) -> Tensor:
    """Of each comment as many random tokens as its identity terms have, bool [B, L]; [CLS] and [SEP] are not chosen.

    terms, token_mask: bool [B, L].
    """
    place = torch.arange(terms.shape[1], device=terms.device)
    inner = token_mask & (place > 0) & (place < token_mask.sum(dim=1, keepdim=True) - 1)
    drawn = uniform(seed, "placebo-token", ids[:, None], place).masked_fill(~inner, 2.0)
    rank = drawn.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return rank < terms.sum(dim=1, keepdim=True)
