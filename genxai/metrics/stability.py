"""How much a map stays as it is when its image hardly changes: SSIM and NMI of the two maps, not of map and mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.explain.localisation import at_half_max
from genxai.explain.perturbation import shift_back
from genxai.metrics.localisation import CHUNK, mask_nmi, scaled_maps, ssim
from genxai.metrics.registry import means, metric, values_of


@dataclass(frozen=True)
class Perturbed:
    """Maps [B, H, W] of one class of B images, at the images' size and in [0, 1]."""

    clean: Tensor
    noisy: Tensor  # of the image under Gaussian noise (`explain.perturbation.noisy`)
    shifted: Tensor  # of the shifted image, not shifted back (`explain.perturbation.shifted`)


@torch.no_grad()
def stability_metrics(clean: Tensor, noisy: Tensor, shifted: Tensor, size: tuple[int, int]) -> dict[str, float]:
    """Means over samples of every registered stability metric.

    clean, noisy, shifted: the network's maps [N, h, w] >= 0 of one class; size: (H, W) of the images. A map that is
    zero everywhere, and stays it, is stable. Raises ValueError without maps, or if their shapes differ.
    """
    if not len(clean) or not clean.shape == noisy.shape == shifted.shape:
        raise ValueError(f"needs maps of one shape, got {[list(maps.shape) for maps in (clean, noisy, shifted)]}")
    columns = (scaled_maps(maps, size).split(CHUNK) for maps in (clean, noisy, shifted))
    return means(values_of("stability", [(Perturbed(*part),) for part in zip(*columns, strict=True)]))


@metric("ssim_stability", "stability", reference="Wang et al. 2004, of the maps of an image and of it under noise")
def ssim_stability(maps: Perturbed) -> Tensor:
    return ssim(maps.clean, maps.noisy)


@metric("nmi_stability", "stability", reference="2 I / (H + H) of the two maps, binarised at half their maximum")
def nmi_stability(maps: Perturbed) -> Tensor:
    return mask_nmi(at_half_max(maps.clean), at_half_max(maps.noisy))


@metric(
    "ssim_stability_shift",
    "stability",
    reference="Wang et al. 2004, of the maps of an image and of it shifted by 2 px, shifted back",
)
def ssim_stability_shift(maps: Perturbed) -> Tensor:
    return ssim(*shift_back(maps.clean, maps.shifted))
