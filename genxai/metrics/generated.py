"""Numbers of generated images whose class was asked for and whose texture was read: association, fairness, diversity.

Textures are read by a fixed filter bank (`read_textures`); how often it errs is measured on real images and corrected.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genxai.data.factors import aligned_texture
from genxai.fairness.bias import BiasReference, bias_loss
from genxai.fairness.descriptors import Descriptor
from genxai.fairness.revise import estimated_mask
from genxai.metrics.classification import table_nmi
from genxai.metrics.registry import metric


@torch.no_grad()
def read_textures(images: Tensor, bank: Descriptor, threshold: float) -> Tensor:
    """The texture that each image shows, int64 [B]: the strongest grating outside the estimated object.

    images [B, 1, H, W] in [0, 1]. bank: the descriptor texture_energy for H px. threshold: the texture's amplitude (see
    `estimated_mask`). Nothing in it is trained.
    """
    return bank(images, estimated_mask(images, threshold)).argmax(dim=1)


def texture_confusion(read: Tensor, true: Tensor, textures: int) -> Tensor:
    """P(read = j | true = i), float64 [A, A] with rows i that sum to 1.

    read, true: int64 [N] in 0..textures-1. A texture without images is taken as read right.
    """
    counts = contingency(true, read, textures, textures)
    seen = counts.sum(dim=1, keepdim=True)
    right = torch.eye(textures, dtype=torch.float64, device=counts.device)
    return torch.where(seen > 0, counts / seen.clamp_min(1.0), right)


def contingency(rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """How often each pair occurs, float64 [height, width]. rows, columns: int64 [N]."""
    return torch.bincount(rows * width + columns, minlength=height * width).view(height, width).double()


@metric(
    "generator/bias_gap",
    "other",
    reference="Eq. 5, unbiased, against what the run holds its generator to; against val_balanced as _reference",
    higher_is_better=False,
)
def generated_bias(features: Tensor, labels: Tensor, reference: BiasReference) -> float:
    """`bias_loss` of many generated images: features [N, d] = B(G(z, y)), labels int64 [N], in squared units of B."""
    return bias_loss(features, labels, reference).item()


@metric(
    "generator/texture_accuracy",
    "other",
    reference="share of real images (val_balanced) whose texture is read right, by which the corrected numbers stand",
)
def texture_accuracy(read: Tensor, true: Tensor) -> float:
    """Share in [0, 1] of read, int64 [N], that is true, int64 [N]."""
    return float((read == true).double().mean())


@metric(
    "generator/cramers_v",
    "other",
    reference="Bergsma 2013, bias-corrected Cramer's V of requested class and texture",
    higher_is_better=False,
)
def cramers_v(table: Tensor) -> float:
    """Association of rows and columns of a contingency table [r, c], in [0, 1]; 0 if either is constant.

    With phi^2 = chi^2 / n: sqrt(max(0, phi^2 - (r-1)(c-1)/(n-1)) / (min(r', c') - 1)), r' = r - (r-1)^2/(n-1) and c'
    alike. Unlike the plain V it is about 0 for independent rows and columns whatever n. Empty rows and columns do not
    count. Raises ValueError for a table of fewer than two counts.
    """
    table = table.double()
    table = table[table.sum(dim=1) > 0][:, table.sum(dim=0) > 0]
    n = float(table.sum())
    if n < 2:
        raise ValueError(f"needs at least two counts, got {n:g}")
    rows, columns = table.shape
    if min(rows, columns) < 2:
        return 0.0
    expected = table.sum(dim=1, keepdim=True) * table.sum(dim=0, keepdim=True) / n
    phi2 = float(((table - expected).square() / expected).sum()) / n
    phi2 = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    smaller = min(size - (size - 1) ** 2 / (n - 1) for size in (rows, columns))
    return min(1.0, (phi2 / (smaller - 1)) ** 0.5) if smaller > 1 else 0.0


@metric(
    "generator/texture_nmi",
    "other",
    reference="2 I(y; a) / (H(y) + H(a)) of requested class and texture; arithmetic mean, as scikit-learn",
    higher_is_better=False,
)
def texture_nmi(table: Tensor) -> float:
    """Normalised mutual information of a table of counts [r, c], in [0, 1]; unlike `cramers_v` it grows as n falls."""
    return float(table_nmi(table[None]))


@metric(
    "generator/aligned_share",
    "other",
    reference="share of images with a = pi(y): the training's rho if the shortcut is copied, 1 / A if it is gone",
    higher_is_better=False,
)
def aligned_share(table: Tensor) -> float:
    """Share of the counts [K, A] in the cells (y, pi(y))."""
    classes = torch.arange(len(table), device=table.device)
    return float(table[classes, aligned_texture(classes)].sum() / table.sum())


@metric(
    "generator/fairness_discrepancy",
    "other",
    reference="Choi et al. 2020, Teo et al. 2023: ||uniform - p(a)||_2; of p(a | y), averaged over y, as _conditional",
    higher_is_better=False,
)
def fairness_discrepancy(frequencies: Tensor) -> Tensor:
    """||u - p||_2 of texture frequencies p [..., A], u uniform, in [0, sqrt(1 - 1/A)]; -> [...].

    Where each class has its own texture all textures are equally frequent and only the conditional form sees it. It is
    not 0 for n fair draws, but about sqrt((1 - 1/A) / n).
    """
    return (frequencies - 1.0 / frequencies.shape[-1]).square().sum(dim=-1).sqrt()


@metric(
    "generator/delta_fair",
    "other",
    reference="Delta_fair, Eq. 6, as the generator's attribute gap: largest difference of texture frequencies",
    higher_is_better=False,
)
def attribute_gap(frequencies: Tensor) -> float:
    """max p - min p of texture frequencies [A], in [0, 1]. Marginal: see `fairness_discrepancy`."""
    return float(frequencies.max() - frequencies.min())


def corrected_frequencies(read: Tensor, confusion: Tensor) -> Tensor:
    """What was there, given how often each texture was read and how often reading errs; float64 [..., A].

    read [..., A] sums to 1, confusion as `texture_confusion`. E[read] = p C, so p = read C^-1 (the pseudo-inverse where
    C has none), projected on the simplex. In the spirit of CLEAM (Teo et al. 2023), which does it for two values.
    """
    return project_on_simplex(read.double() @ torch.linalg.pinv(confusion.double()))


def project_on_simplex(points: Tensor) -> Tensor:
    """The nearest point with coordinates >= 0 that sum to 1, [..., d] (Duchi et al. 2008)."""
    ordered = points.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(dim=-1) - 1.0
    place = torch.arange(1, points.shape[-1] + 1, dtype=points.dtype, device=points.device)
    kept = (ordered * place > excess).sum(dim=-1, keepdim=True)
    return (points - excess.gather(-1, kept - 1) / kept).clamp_min(0.0)


def texture_bias(table: Tensor, confusion: Tensor) -> dict[str, float]:
    """Every measure of one table of (requested class, texture read), counts [K, A].

    Classes without images are left out. Frequencies come raw and corrected for errors of reading (`_corrected`); V,
    NMI and the aligned share raw only.
    """
    asked = table[table.sum(dim=1) > 0].double()
    marginal, conditional = asked.sum(dim=0) / asked.sum(), asked / asked.sum(dim=1, keepdim=True)
    values = {
        "cramers_v": cramers_v(table),
        "texture_nmi": texture_nmi(table),
        "aligned_share": aligned_share(table),
    }
    ways = {
        "": (marginal, conditional),
        "_corrected": (corrected_frequencies(marginal, confusion), corrected_frequencies(conditional, confusion)),
    }
    for suffix, (of_all, per_class) in ways.items():
        values[f"fairness_discrepancy{suffix}"] = float(fairness_discrepancy(of_all))
        values[f"fairness_discrepancy_conditional{suffix}"] = float(fairness_discrepancy(per_class).mean())
        values[f"delta_fair{suffix}"] = attribute_gap(of_all)
    return values


@metric(
    "generator/conditional_accuracy",
    "other",
    reference="Ravuri & Vinyals 2019 turned round: a classifier of clean real images says y of G(z, y)",
)
def conditional_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of images [N] in which a classifier trained on real ones sees the requested class."""
    return float((predicted == labels).double().mean())


@metric(
    "generator/diversity",
    "other",
    reference="mean over classes of tr Cov of features, over that of real images; 1: as diverse, 0: one image a class",
)
def diversity(features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor) -> float:
    """Intra-class feature variance relative to real images'. features [N, d], labels int64 [N] in 0..K-1, both sides.

    Only classes with two images on either side count; ValueError if there is none.
    """
    ours, theirs = _class_variances(features, labels), _class_variances(real, real_labels)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("needs a class with at least two images on either side")
    return sum(ours[y] for y in shared) / sum(theirs[y] for y in shared)


def _class_variances(features: Tensor, labels: Tensor) -> dict[int, float]:
    """tr Cov (ddof 1) of each class that has two images."""
    counts = torch.bincount(labels)
    usable = (counts >= 2).nonzero().flatten().tolist()
    return {y: float(features[labels == y].double().var(dim=0).sum()) for y in usable}
