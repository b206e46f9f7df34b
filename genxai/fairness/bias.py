"""R_bias, Eq. 5: how far the mean bias descriptor of generated images is from that of the reference, unbiased.

The plug-in ||mean - mean'||^2 of a small batch is too large by the variance of the means; every estimate here takes
that out (a U-statistic), so it is right on average and can come out slightly negative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ReferenceKind = Literal["balanced", "data"]


def bias_gap(
    descriptor: Callable[[Tensor], Tensor],
    generated: Tensor,
    reference: Tensor,
    *,
    labels: Tensor | None = None,
    reference_labels: Tensor | None = None,
) -> Tensor:
    """Unbiased estimate of Eq. 5 between two samples of images, a scalar in squared units of B.

    Without labels: ||E B(generated) - E B(reference)||^2 (the marginal, literal form). It is zero for data in which
    every class has its own texture but all textures are equally frequent. With labels (int64 [n] and [m]):
    sum_y p(y) ||E[B(generated) | y] - E[B(reference) | y]||^2, p(y) from the generated labels.

    Each squared norm is ||mean - mean'||^2 - tr S / n - tr S' / m with the sample covariances S, S' (ddof 1), so it
    needs two samples a side: a class with fewer on either side is left out and p(y) is taken over the others; if none
    is left the result is 0. The estimate can be slightly negative. Never synchronises with the host.

    Raises ValueError if only one of the label tensors is given, or if without labels a side has fewer than 2 images.
    """
    if (labels is None) != (reference_labels is None):
        raise ValueError("give both labels and reference_labels (class-conditional) or neither (marginal)")
    ours, theirs = descriptor(generated), descriptor(reference)
    if labels is None or reference_labels is None:
        if min(len(ours), len(theirs)) < 2:
            raise ValueError(f"needs at least 2 images a side, got {len(ours)} and {len(theirs)}")
        labels = torch.zeros(len(ours), dtype=torch.long, device=ours.device)
        reference_labels = torch.zeros(len(theirs), dtype=torch.long, device=theirs.device)
    # the classes are those of the generated images: class = first place of the label among the sorted ones. A class
    # the reference alone has gets the extra slot at the end, which nothing generated falls into.
    sorted_labels = labels.sort().values
    slots = len(ours) + 1
    place = torch.searchsorted(sorted_labels, reference_labels.contiguous())
    shared = sorted_labels[place.clamp_max(len(ours) - 1)] == reference_labels
    classes = torch.searchsorted(sorted_labels, labels.contiguous())
    mean, noise, count = _class_moments(ours, classes, slots)
    their_mean, their_noise, their_count = _class_moments(theirs, torch.where(shared, place, len(ours)), slots)
    squared = (mean - their_mean).square().sum(dim=1) - noise - their_noise
    usable = (count >= 2) & (their_count >= 2)
    return _average(squared, count * usable)


def _class_moments(features: Tensor, classes: Tensor, slots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Per class: mean [slots, d], tr S / n [slots] (the squared error of the mean), n [slots]."""
    count = features.new_zeros(slots).index_add(0, classes, features.new_ones(len(features)))
    total = features.new_zeros(slots, features.shape[1]).index_add(0, classes, features)
    mean = total / count.clamp_min(1.0)[:, None]
    deviation = (features - mean[classes]).square().sum(dim=1)
    spread = features.new_zeros(slots).index_add(0, classes, deviation)
    return mean, spread / (count * (count - 1.0)).clamp_min(1.0), count


def _average(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of the values that have weight; 0 if none has."""
    return (torch.where(weights > 0, values, 0.0) * weights).sum() / weights.sum().clamp_min(1.0)


@dataclass(frozen=True)
class BiasReference:
    """What the generator's E[B] is held to; computed once over the training images."""

    #: mu: [d] (marginal) or [K, d] (one row per class)
    means: Tensor
    #: bool [] or [K]: whether there was an image to take the mean of
    known: Tensor
    conditional: bool
    #: how many of the K x A (class, texture) groups the training images lack
    missing_groups: int


def bias_reference(
    features: Tensor,
    labels: Tensor,
    textures: Tensor,
    *,
    kind: ReferenceKind,
    conditional: bool,
    num_classes: int,
    num_textures: int,
) -> BiasReference:
    """The reference means of B over the training images.

    features [N, d] = B(x), labels and textures int64 [N]. kind "data": means over the images as they are (Eq. 5 as
    printed; it keeps the data's bias). kind "balanced": every texture counts equally. Conditional: mu_y is the mean,
    over the textures that occur in class y, of the mean of their (class, texture) group. Marginal: the mean over
    textures of the mean over the classes that occur with them, so neither class nor texture frequency counts.

    Groups without images are left out and counted in `missing_groups`: at rho = 1 there is one texture per class, and
    the balanced conditional reference is the data. Raises ValueError for an unknown kind or no images.
    """
    if kind not in ("balanced", "data"):
        raise ValueError(f"kind must be 'balanced' or 'data', got {kind!r}")
    if not len(features):
        raise ValueError("a bias reference needs at least one image")
    group = labels * num_textures + textures
    # float64: hundreds of thousands of terms are summed
    total = features.new_zeros(num_classes * num_textures, features.shape[1], dtype=torch.float64)
    total = total.index_add(0, group, features.detach().double()).unflatten(0, (num_classes, num_textures))
    count = torch.bincount(group, minlength=num_classes * num_textures).view(num_classes, num_textures)
    if kind == "balanced":
        present = (count > 0).double()
        groups = total / count.clamp_min(1)[:, :, None]
        sums = groups if conditional else groups.sum(dim=0) / present.sum(dim=0).clamp_min(1.0)[:, None]
        weights = present if conditional else present.amax(dim=0)
    else:
        sums, weights = (total, count.double()) if conditional else (total.flatten(0, 1), count.double().flatten())
    weight = weights.sum(dim=-1)
    means = sums.sum(dim=-2) / weight.clamp_min(1.0)[..., None]
    return BiasReference(
        means=means.to(features.dtype),
        known=weight > 0,
        conditional=conditional,
        missing_groups=int((count == 0).sum()),
    )


def bias_loss(features: Tensor, labels: Tensor, reference: BiasReference) -> Tensor:
    """R_bias of a batch of generated images against a fixed reference, unbiased: the mean over pairs. Scalar.

    features [B, d] = B(G(z, y)), labels int64 [B]. Marginal: sum over i != j of <f_i - mu, f_j - mu> / (B (B - 1)).
    Conditional: the same within each class, averaged with p(y) of the batch. A class with fewer than two images in the
    batch, or none in the reference, is left out; if none is left the loss is 0. Can be slightly negative. No host
    synchronisation.
    """
    if reference.conditional:
        means, known, classes = reference.means, reference.known, labels
    else:
        means, known, classes = reference.means[None], reference.known[None], torch.zeros_like(labels)
    offsets = features - means[classes]
    slots = len(means)
    count = features.new_zeros(slots).index_add(0, classes, features.new_ones(len(features)))
    total = features.new_zeros(slots, features.shape[1]).index_add(0, classes, offsets)
    squares = features.new_zeros(slots).index_add(0, classes, offsets.square().sum(dim=1))
    pairs = count * (count - 1.0)
    squared = (total.square().sum(dim=1) - squares) / pairs.clamp_min(1.0)
    return _average(squared, count * (known & (count >= 2)))


def bias_deviation(features: Tensor, labels: Tensor, reference: BiasReference) -> Tensor:
    """||B(x) - mu_y||^2 of each image, [B]: how far one sample is from the reference, its own spread included.

    What pulls a flagged sample back through B, where `bias_loss` speaks of means. 0 for a class without reference.
    """
    means = reference.means if reference.conditional else reference.means[None]
    known = reference.known if reference.conditional else reference.known[None]
    classes = labels if reference.conditional else torch.zeros_like(labels)
    return (features - means[classes]).square().sum(dim=1) * known[classes]


def subgroup_disparity(values: Tensor | Sequence[float], groups: Tensor | Sequence[int]) -> float:
    """Delta_fair, Eq. 6: the largest difference between the mean values of two groups; lower is better.

    values [N] (numbers or bool, e.g. correct predictions), groups int [N]. One group gives 0. Raises ValueError if the
    lengths differ or there is nothing.
    """
    values, groups = torch.as_tensor(values), torch.as_tensor(groups)
    if values.dim() != 1 or values.shape != groups.shape or not len(values):
        raise ValueError(
            f"values and groups must be equally long lists, got shapes {list(values.shape)} and {list(groups.shape)}"
        )
    _, index = groups.unique(return_inverse=True)
    totals = torch.bincount(index, weights=values.double())
    means = totals / torch.bincount(index)
    return float(means.max() - means.min())
