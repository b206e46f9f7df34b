"""What raw IoU-XAI is to be read beside: chance, the mean mask, the map's resolution; and the value between them.

IoU depends on the mask's area, on the binarisation and on how coarse a map is. For both rules of `iou_xai`:

* chance: what the map would score if its pixels lay anywhere, in expectation;
* mean_mask: what the mean of the training masks scores as the map of every image, without any model;
* ceiling: what the mask itself scores, averaged over the areas of the map's h x w positions and resized as maps are.
  A map can beat it: positions chosen for their IoU, not for their share of the object, fit a mask better;
* normalised: (IoU - chance) / (ceiling - chance), of the means over the samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from genxai.explain.localisation import Rule, at_half_max, iou_xai, resize_map
from genxai.metrics.localisation import CHUNK
from genxai.metrics.registry import means, metric, metrics_of, values_of

#: half the width of the window of overlaps that chance is summed over, in square roots of the number of pixels:
#: beyond it lies a probability of at most 2 exp(-2 4^2) = 3e-14 (Hoeffding 1963, section 6)
WINDOW = 4


@dataclass(frozen=True)
class Explained:
    """Maps of B samples and what they are judged by."""

    maps: Tensor  # [B, h, w] >= 0
    masks: Tensor  # bool [B, 1, H, W]
    mean_mask: Tensor  # [H, W] in [0, 1]: mean of the training split's masks


@torch.no_grad()
def baseline_values(explained: Explained) -> dict[str, Tensor]:
    """Every registered baseline of every sample: float64 [N] by name."""
    parts = zip(explained.maps.split(CHUNK), explained.masks.split(CHUNK), strict=True)
    return values_of("baseline", [(Explained(maps, masks, explained.mean_mask),) for maps, masks in parts])


def baseline_metrics(explained: Explained, localisation: Mapping[str, float]) -> dict[str, float]:
    """Means of every registered baseline, and the summaries of these and of the `localisation` means."""
    found = means(baseline_values(explained))
    known = {**localisation, **found}
    return found | {entry.name: entry.function(known) for entry in metrics_of("summary")}


def expected_iou(pixels: int, first: Tensor, second: Tensor) -> Tensor:
    """E |A and B| / |A or B| over a uniformly random set B: areas |A|, |B| as integers [N] -> float64 [N], exact.

    The overlap k of a fixed set of a and a random set of b of n pixels is hypergeometric, P(k) = C(a,k) C(n-a,b-k) /
    C(n,b), and the union is a + b - k. The IoU at the mean overlap a b / n is another number, a little less (Jensen).
    Two empty sets give 0.
    """
    a, b = first.long()[:, None], second.long()[:, None]
    reach = math.ceil(WINDOW * math.sqrt(pixels))
    k = a * b // pixels + torch.arange(-reach, reach + 1, device=a.device)
    possible = (k >= 0) & (k >= a + b - pixels) & (k <= a) & (k <= b)
    k = torch.where(possible, k, torch.maximum(a + b - pixels, torch.zeros_like(a)))
    counts = torch.arange(1, pixels + 1, dtype=torch.float64, device=a.device)
    factorial = torch.cat([counts.new_zeros(1), counts.log().cumsum(0)])  # log n!

    def choose(n: Tensor, r: Tensor) -> Tensor:
        return factorial[n] - factorial[r] - factorial[n - r]

    logarithm = choose(a, k) + choose(pixels - a, b - k) - choose(torch.full_like(b, pixels), b)
    probability = torch.where(possible, logarithm.exp(), 0.0)
    return (probability * k / (a + b - k).clamp_min(1)).sum(dim=1)


def chance(explained: Explained, rule: Rule) -> Tensor:
    """Expected IoU when the pixels of the resized map are permuted at random. [B]

    half_max: as many pixels are chosen as the map has above half its maximum. area_matched: as many as the mask has,
    of a map without ties.
    """
    inside = explained.masks.flatten(1)
    area = inside.sum(dim=1)
    chosen = area
    if rule == "half_max":
        chosen = at_half_max(resize_map(explained.maps, _size(explained.masks))).flatten(1).sum(dim=1)
    return expected_iou(inside.shape[1], area, chosen)


def mean_mask_iou(explained: Explained, rule: Rule) -> Tensor:
    """IoU of the mean of the training masks as everybody's map. [B]"""
    masks = explained.masks
    return iou_xai(explained.mean_mask.expand(len(masks), -1, -1), masks, rule=rule)


def ceiling(explained: Explained, rule: Rule) -> Tensor:
    """IoU of the mask itself, pooled to the map's resolution (means over areas) and resized as maps are. [B]"""
    pooled = adaptive_avg_pool2d(explained.masks.float(), (explained.maps.shape[1], explained.maps.shape[2]))
    return iou_xai(pooled[:, 0], explained.masks, rule=rule)


def normalised(values: Mapping[str, float], rule: Rule) -> float:
    """(IoU - chance) / (ceiling - chance): 0 is chance; not a number where a map is too coarse to beat chance.

    Of means over the samples, since the ratio of a single sample has no bounds.
    """
    value, low, high = (values[f"iou_{rule}{suffix}"] for suffix in ("", "_chance", "_ceiling"))
    return (value - low) / (high - low) if high > low else math.nan


def _size(masks: Tensor) -> tuple[int, int]:
    return masks.shape[-2], masks.shape[-1]


_BASELINES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "chance": (chance, "expectation over permutations of the map's pixels; hypergeometric overlap"),
    "mean_mask": (mean_mask_iou, "mean of the training masks as the map"),
    "ceiling": (ceiling, "the mask averaged over the map's positions, as the map"),
}


def _register(rule: Rule) -> None:
    for suffix, (function, reference) in _BASELINES.items():
        metric(f"iou_{rule}_{suffix}", "baseline", reference=reference)(partial(function, rule=rule))
    reference = "(IoU - chance) / (ceiling - chance), as Cohen's kappa corrects agreement"
    metric(f"iou_{rule}_normalised", "summary", reference=reference)(partial(normalised, rule=rule))


for _rule in get_args(Rule):
    _register(_rule)
