"""Which image belongs to which split: stratified, disjoint, a pure function of the seed.

Images are numbered through the whole data set, its training file first, then its test file.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.config import DataConfig
from genxai.data import counter_rng
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES

TEST_SHARE = 0.2  # of the pooled images: the paper's 80/20


@dataclass(frozen=True)
class Splits:
    """Image numbers, int64, ascending; train, val and test are disjoint, val_balanced is part of val.

    val_balanced_textures: int64, the texture of each image of val_balanced (its own, independent of the class).
    """

    train: Tensor
    val: Tensor
    test: Tensor
    val_balanced: Tensor
    val_balanced_textures: Tensor


def make_splits(data: DataConfig, labels: Tensor, textures: Tensor, num_train: int, seed: int) -> Splits:
    """The splits of a data set, stratified by (class, texture).

    labels, textures: int64 [N], of every image; the first num_train come from the data set's training file.
    pooled: TEST_SHARE of all images are for testing; canonical: those of the test file. Of the rest val_fraction is
    held out. The limits keep that many images of each; without val_limit, train_limit keeps as many held-out images as
    leave their share as it is.
    """
    strata = labels * NUM_TEXTURES + textures
    images = torch.arange(len(labels), device=labels.device)
    if data.split == "canonical":
        rest, test = images[:num_train], images[num_train:]
    else:
        test, rest = take_share(images, strata, round(len(images) * TEST_SHARE), seed, "test")
    train, val = hold_out(rest, strata, data, seed)
    test = limited(test, strata, data.test_limit, seed, "test_limit")
    return Splits(train, val, test, *_balanced(val, labels, data.balanced_val_size, seed))


def hold_out(items: Tensor, strata: Tensor, data: DataConfig, seed: int) -> tuple[Tensor, Tensor]:
    """Training and held-out items of what is not for testing, within their limits; strata int64 [N], of all items."""
    val, train = take_share(items, strata, max(1, round(len(items) * data.val_fraction)), seed, "val")
    val_limit = data.val_limit
    if val_limit is None and data.train_limit is not None and data.train_limit < len(train):
        val_limit = max(1, round(data.train_limit * data.val_fraction / (1 - data.val_fraction)))
    train = limited(train, strata, data.train_limit, seed, "train_limit")
    return train, limited(val, strata, val_limit, seed, "val_limit")


def limited(items: Tensor, strata: Tensor, limit: int | None, seed: int, stream: str) -> Tensor:
    """At most `limit` of the items, each stratum keeping its share; all of them for None."""
    return items if limit is None or limit >= len(items) else take_share(items, strata, limit, seed, stream)[0]


def take_share(images: Tensor, strata: Tensor, size: int, seed: int, stream: str) -> tuple[Tensor, Tensor]:
    """`size` of the images and the others; each stratum gives its proportional share to within one image.

    The images are sorted by stratum, in random order within each, and every (N / size)-th is taken from a random
    start on, so that the only image of a stratum is taken as often as any other (systematic sampling).
    """
    order = _random_order(images, strata[images], seed, stream)
    start = counter_rng.integers(seed, f"splits/{stream}/start", len(images))
    step = (torch.arange(len(images) + 1, device=images.device) * size + start) // len(images)
    taken = step[1:] > step[:-1]
    return images[order[taken]].sort().values, images[order[~taken]].sort().values


def _balanced(val: Tensor, labels: Tensor, limit: int, seed: int) -> tuple[Tensor, Tensor]:
    """Equally many images of each class, and within each class equally many of each texture.

    With fewer than ten images per class, textures differ within a class and classes start at different ones.
    """
    classes = labels[val]
    counts = torch.bincount(classes, minlength=NUM_CLASSES)
    size = min(limit // NUM_CLASSES, int(counts.min()))
    size = size if size < NUM_TEXTURES else size - size % NUM_TEXTURES
    order = _random_order(val, classes, seed, "val_balanced")
    grouped = classes[order]
    rank = torch.arange(len(val), device=val.device) - (counts.cumsum(0) - counts)[grouped]
    kept = rank < size
    images, ascending = val[order[kept]].sort()
    return images, ((rank + grouped) % NUM_TEXTURES)[kept][ascending]


def _random_order(images: Tensor, strata: Tensor, seed: int, stream: str) -> Tensor:
    """Places of the images, sorted by stratum, in random order within each."""
    shuffled = counter_rng.hash_bits(seed, f"splits/{stream}", images).argsort(stable=True)
    return shuffled[strata[shuffled].argsort(stable=True)]
