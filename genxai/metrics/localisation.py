"""How attribution maps agree with the true mask: IoU, mass, pointing, SSIM, NMI of each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genxai.explain.localisation import at_half_max, iou_xai, pointing_game, relevance_mass, resize_map, without_channel
from genxai.metrics.classification import table_nmi
from genxai.metrics.registry import means, metric, values_of

#: stabilisers of SSIM for values in [0, 1], and the width of its Gaussian window [px] (Wang et al. 2004)
SSIM_C1, SSIM_C2, SSIM_SIGMA = 0.01**2, 0.03**2, 1.5
#: side of the window: 11 as published; 7 on images smaller than this, where 11 would cover most of the object
SSIM_SIDE, SSIM_SMALL_SIDE, SSIM_SMALL_IMAGE = 11, 7, 64
#: samples scored at a time; bounds memory, does not change a value
CHUNK = 512


@torch.no_grad()
def localisation_values(maps: Tensor, masks: Tensor) -> dict[str, Tensor]:
    """Every registered localisation metric of every sample: float64 [N] by name.

    maps [N, h, w] >= 0, not normalised; masks bool [N, 1, H, W]. Raises ValueError if there are no maps or shapes do
    not fit.
    """
    if not len(maps):
        raise ValueError("needs at least one map")
    if len(maps) != len(masks):
        raise ValueError(f"needs one mask per map, got {len(maps)} maps and {len(masks)} masks")
    return values_of("localisation", list(zip(maps.split(CHUNK), masks.split(CHUNK), strict=True)))


def localisation_metrics(maps: Tensor, masks: Tensor) -> dict[str, float]:
    """Means over samples of every registered localisation metric; arguments and errors as `localisation_values`."""
    return means(localisation_values(maps, masks))


@metric("iou_half_max", "localisation", reference="IoU-XAI, definition 11.3; binarised at half the maximum")
def iou_half_max(maps: Tensor, masks: Tensor) -> Tensor:
    return iou_xai(maps, masks, rule="half_max")


@metric("iou_area_matched", "localisation", reference="IoU-XAI, definition 11.3; as many pixels as the mask has")
def iou_area_matched(maps: Tensor, masks: Tensor) -> Tensor:
    return iou_xai(maps, masks, rule="area_matched")


metric(
    "relevance_mass",
    "localisation",
    reference="Arras et al. 2022, relevance mass accuracy; 1 - R_out of Eq. 11",
)(relevance_mass)
metric("pointing", "localisation", reference="Zhang et al. 2016, without the margin")(pointing_game)


@metric("ssim_align", "localisation", reference="Wang et al. 2004, between the map scaled to [0, 1] and the mask")
def ssim_align(maps: Tensor, masks: Tensor) -> Tensor:
    """SSIM of the resized map, divided by its maximum, with the mask as a 0/1 image; below 0 if they oppose."""
    return ssim(scaled_maps(maps, masks.shape[-2:]), without_channel(masks).float())


@metric("nmi_align", "localisation", reference="2 I / (H + H) of the map binarised at half its maximum and the mask")
def nmi_align(maps: Tensor, masks: Tensor) -> Tensor:
    return mask_nmi(at_half_max(scaled_maps(maps, masks.shape[-2:])), without_channel(masks))


def mask_nmi(first: Tensor, second: Tensor) -> Tensor:
    """Normalised mutual information per pair of binary images, bool [N, H, W] each -> float64 [N] in [0, 1].

    Arithmetic mean of the entropies, as scikit-learn; two constant images give 1, one constant image gives 0. A map
    and its complement say the same: read it beside IoU.
    """
    cells = (2 * first.long() + second.long()).flatten(1)
    table = torch.stack([(cells == cell).sum(dim=1) for cell in range(4)], dim=1)
    return table_nmi(table.view(-1, 2, 2))


def ssim(first: Tensor, second: Tensor, *, side: int | None = None) -> Tensor:
    """Structural similarity of images [N, H, W] in [0, 1] -> [N] in [-1, 1], Wang et al. 2004.

    Gaussian window (sigma 1.5 px) of `side` pixels, by default 11, or 7 below 64 px; mean over the positions where the
    window lies inside the image. Raises ValueError if the shapes differ or the window does not fit.
    """
    if first.shape != second.shape or first.dim() != 3:
        raise ValueError(f"needs two tensors [N, H, W], got {list(first.shape)} and {list(second.shape)}")
    smallest = min(first.shape[1:])
    side = side or (SSIM_SMALL_SIDE if smallest < SSIM_SMALL_IMAGE else SSIM_SIDE)
    if side > smallest:
        raise ValueError(f"the window of {side} px does not fit an image of {list(first.shape[1:])}")
    precision = torch.promote_types(first.dtype, torch.float32)
    x, y = first.to(precision), second.to(precision)
    offsets = torch.arange(side, dtype=precision, device=x.device) - (side - 1) / 2
    profile = torch.exp(-0.5 * (offsets / SSIM_SIGMA).square())
    profile = profile / profile.sum()

    def blurred(images: Tensor) -> Tensor:
        rows = F.conv2d(images[:, None], profile.view(1, 1, side, 1))
        return F.conv2d(rows, profile.view(1, 1, 1, side))[:, 0]

    mean_x, mean_y = blurred(x), blurred(y)
    variance_x = blurred(x * x) - mean_x.square()
    variance_y = blurred(y * y) - mean_y.square()
    covariance = blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x.square() + mean_y.square() + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (variance_x + variance_y + SSIM_C2)
    return (luminance * structure).mean(dim=(1, 2))


def scaled_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps [B, h, w] at a size (H, W), each divided by its maximum; an all-zero map stays zero."""
    resized = resize_map(maps, (size[0], size[1]))
    maximum = resized.amax(dim=(1, 2), keepdim=True)
    return resized / torch.where(maximum > 0, maximum, 1.0)
