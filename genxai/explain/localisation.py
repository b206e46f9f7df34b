"""How well a map falls on the true mask: IoU-XAI, mass outside the mask, pointing game.

Maps are [B, h, w], non-negative and not normalised; masks are bool [B, 1, H, W] or [B, H, W], true on the object.
Every function resizes the map to the mask, gives one value in [0, 1] per sample and never synchronises with the host.

Nothing depends on the order of pixels. Where equal values compete for fewer places (the zeros of a ReLU-ed map, a
constant map), they share the places evenly: a constant map overlaps as much as a random choice does on average. A map
that is zero everywhere points at nothing and scores 0.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

Rule = Literal["half_max", "area_matched"]


def resize_map(heatmap: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Bilinear resize of maps [B, h, w] to [B, H, W]; pixel areas are aligned, not corners. Differentiable."""
    if heatmap.dim() != 3:
        raise ValueError(f"heatmap must have shape [B, h, w], got {list(heatmap.shape)}")
    target = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(heatmap.shape[1:]) == target:
        return heatmap
    return F.interpolate(heatmap[:, None], size=target, mode="bilinear", align_corners=False)[:, 0]


def at_half_max(maps: Tensor) -> Tensor:
    """Pixels of at least half their map's maximum: [B, ...] >= 0 -> bool [B, ...]; none in an all-zero map."""
    maximum = maps.flatten(1).amax(dim=1).view(-1, *[1] * (maps.dim() - 1))
    return (maps >= 0.5 * maximum) & (maximum > 0)


@torch.no_grad()
def iou_xai(heatmap: Tensor, mask: Tensor, *, rule: Rule = "half_max") -> Tensor:
    """IoU-XAI (definition 11.3): |S and M| / |S or M| per sample, M the binarised map. heatmap, mask -> [B].

    rule "half_max": M = pixels of at least half the map's maximum (after resizing).
    rule "area_matched": M = the |S| highest pixels; pixels tied at the threshold share what places are left.
    An all-zero map or an empty mask scores 0. Raw IoU depends on the mask's area: read it beside chance and ceiling
    (`genxai.metrics.baselines`).

    Raises ValueError for wrong shapes, a mask that is not bool, or an unknown rule.
    """
    if rule not in get_args(Rule):
        raise ValueError(f"rule must be one of {', '.join(get_args(Rule))}, got {rule!r}")
    values, inside = _flat(heatmap, mask)
    area = inside.sum(dim=1)
    if rule == "half_max":
        chosen = at_half_max(values)
        overlap = (chosen & inside).sum(dim=1).to(values.dtype)
        union = (chosen | inside).sum(dim=1)
    else:
        overlap = _area_matched_overlap(values, inside, area) * (values.amax(dim=1) > 0)
        union = 2 * area - overlap
    return overlap / union.clamp_min(1)


def _area_matched_overlap(values: Tensor, inside: Tensor, area: Tensor) -> Tensor:
    ranked = values.sort(dim=1, descending=True).values
    threshold = ranked.gather(1, (area - 1).clamp_min(0)[:, None])
    above, tied = values > threshold, values == threshold
    share = (area - above.sum(dim=1)).clamp_min(0).to(values.dtype) / tied.sum(dim=1).clamp_min(1)
    return (above & inside).sum(dim=1) + share * (tied & inside).sum(dim=1)


def mass_share(heatmap: Tensor, weight: Tensor) -> Tensor:
    """sum(M * weight) / sum(M) per sample: the share of the map's mass on `weight` in [0, 1]. -> [B]

    heatmap [B, h, w] >= 0, weight [B, 1, H, W] or [B, H, W]. Differentiable in both, and free of the map's scale.
    An all-zero map gives 0 with zero gradient.
    """
    weight = without_channel(weight)
    resized = resize_map(heatmap, (weight.shape[1], weight.shape[2]))
    total = resized.sum(dim=(1, 2))
    # below the smallest normal number the reciprocal overflows; such a map is zero for every purpose
    present = total > torch.finfo(total.dtype).tiny
    share = (resized * weight).sum(dim=(1, 2)) / torch.where(present, total, 1.0)
    return torch.where(present, share, 0.0)


def out_of_mask(heatmap: Tensor, mask: Tensor) -> Tensor:
    """R_out of Eq. 11: the fraction of the map's mass outside the mask, in [0, 1]. heatmap, mask -> [B].

    Differentiable. An all-zero map gives 0 with zero gradient: there is nothing to move. As a score it would make such
    a map perfect: report `relevance_mass`. Raises ValueError for wrong shapes or a mask that is not bool.
    """
    _check(heatmap, mask)
    return mass_share(heatmap, ~mask)


@torch.no_grad()
def relevance_mass(heatmap: Tensor, mask: Tensor) -> Tensor:
    """The fraction of the map's mass inside the mask: 1 - `out_of_mask`, but 0 for an all-zero map. -> [B]

    Relevance mass accuracy, Arras et al. 2022. Raises as `out_of_mask`.
    """
    _check(heatmap, mask)
    return mass_share(heatmap, mask)


@torch.no_grad()
def pointing_game(heatmap: Tensor, mask: Tensor) -> Tensor:
    """1 where the map's highest pixel lies in the mask, else 0; tied maxima count by their share in it. -> [B]

    Zhang et al. 2016, without the tolerance margin. An all-zero map scores 0. Raises as `iou_xai`.
    """
    values, inside = _flat(heatmap, mask)
    maximum = values.amax(dim=1, keepdim=True)
    highest = (values == maximum) & (maximum > 0)
    return (highest & inside).sum(dim=1).to(values.dtype) / highest.sum(dim=1).clamp_min(1)


def _flat(heatmap: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Resized map and mask as [B, H*W]."""
    _check(heatmap, mask)
    inside = without_channel(mask)
    return resize_map(heatmap, (inside.shape[1], inside.shape[2])).flatten(1), inside.flatten(1)


def without_channel(image: Tensor) -> Tensor:
    """[B, 1, H, W] or [B, H, W] -> [B, H, W]."""
    return image[:, 0] if image.dim() == 4 else image


def _check(heatmap: Tensor, mask: Tensor) -> None:
    if heatmap.dim() != 3:
        raise ValueError(f"heatmap must have shape [B, h, w], got {list(heatmap.shape)}")
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be bool, got {mask.dtype}")
    if mask.dim() not in (3, 4) or (mask.dim() == 4 and mask.shape[1] != 1) or mask.shape[0] != heatmap.shape[0]:
        raise ValueError(
            f"mask must have shape [{heatmap.shape[0]}, 1, H, W] or [{heatmap.shape[0]}, H, W], got {list(mask.shape)}"
        )
