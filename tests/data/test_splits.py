"""Splits: disjoint, complete, stratified, of the right size, and a pure function of the seed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from genxai.config import DataConfig
from genxai.data.splits import Splits, make_splits

N, NUM_TRAIN = 7000, 6000


def factors() -> tuple[torch.Tensor, torch.Tensor]:
    """Unequal classes and a texture aligned 90 times in a hundred."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.linspace(1, 2, 10)
    labels = torch.multinomial(weights, N, replacement=True, generator=generator)
    noise = torch.randint(10, (N,), generator=generator)
    aligned = torch.rand(N, generator=generator) < 0.9
    return labels, torch.where(aligned, (7 * labels + 3) % 10, noise)


def split(seed: int = 0, **data: Any) -> Splits:
    return make_splits(DataConfig.model_validate(data), *factors(), NUM_TRAIN, seed)


def cells(images: torch.Tensor) -> torch.Tensor:
    labels, textures = factors()
    return torch.bincount(labels[images] * 10 + textures[images], minlength=100)


@pytest.mark.parametrize("kind", ["pooled", "canonical"])
@pytest.mark.parametrize("limits", [{}, {"train_limit": 900, "test_limit": 300}])
def test_splits_are_disjoint(kind, limits):
    s = split(split=kind, **limits)
    together = torch.cat([s.train, s.val, s.test])
    assert together.unique().numel() == together.numel()
    assert torch.isin(s.val_balanced, s.val).all()
    assert all((part.diff() > 0).all() for part in (s.train, s.val, s.test, s.val_balanced))
    if not limits:
        assert together.numel() == N


def test_pooled_is_eighty_twenty_and_canonical_is_the_files_own():
    pooled, canonical = split(), split(split="canonical")
    assert len(pooled.test) == 1400 and len(pooled.val) == 560 and len(pooled.train) == 5040
    assert torch.equal(canonical.test, torch.arange(NUM_TRAIN, N))
    assert len(canonical.val) == 600 and len(canonical.train) == 5400
    assert (pooled.test < NUM_TRAIN).any() and (pooled.test >= NUM_TRAIN).any()


def test_every_class_and_texture_has_its_share_to_within_an_image():
    s = split(val_fraction=0.25)
    whole = cells(torch.arange(N))
    assert (cells(s.test) - whole * 0.2).abs().max() < 1
    rest = whole - cells(s.test)
    assert (cells(s.val) - rest * 0.25).abs().max() < 1


def test_limits_are_kept_and_stratified():
    s = split(train_limit=900, test_limit=500)
    assert len(s.train) == 900 and len(s.test) == 500
    assert len(s.val) == 100  # val_fraction stays the share that is held out
    full = split()
    assert torch.isin(s.train, full.train).all() and torch.isin(s.test, full.test).all()
    assert torch.isin(s.val, full.val).all()
    assert (cells(s.train) - cells(full.train) * 900 / len(full.train)).abs().max() < 1
    assert (cells(s.test) - cells(full.test) * 500 / len(full.test)).abs().max() < 1


def test_limits_beyond_what_there_is_change_nothing():
    s, full = split(train_limit=10**6, test_limit=10**6), split()
    assert torch.equal(s.train, full.train) and torch.equal(s.val, full.val) and torch.equal(s.test, full.test)


@pytest.mark.parametrize("limit", [10, 100, 250, 10**6])
def test_the_balanced_images_have_each_class_with_each_texture_equally_often(limit):
    s = split(val_fraction=0.5, balanced_val_size=limit)
    labels = factors()[0][s.val_balanced]
    table = torch.bincount(labels * 10 + s.val_balanced_textures, minlength=100).reshape(10, 10)
    assert 0 < len(s.val_balanced) <= limit
    assert table.sum(dim=1).unique().numel() == 1
    assert table.sum(dim=0).unique().numel() == 1
    if limit >= 100:
        assert table.unique().numel() == 1 and table.min() >= 1


def test_balanced_textures_are_not_tied_to_the_order_of_images():
    s = split(val_fraction=0.5, balanced_val_size=10**6)
    labels = factors()[0][s.val_balanced]
    first = (s.val_balanced_textures - labels) % 10
    early = torch.bincount(first[: len(first) // 2], minlength=10)
    assert early.min() > 0.6 * early.double().mean()


def test_splits_are_a_pure_function_of_the_seed():
    a, b, other = split(3), split(3), split(4)
    for name in ("train", "val", "test", "val_balanced", "val_balanced_textures"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert not torch.equal(a.test, other.test) and not torch.equal(a.val, other.val)


def test_every_image_is_tested_equally_often_over_seeds():
    hits = torch.zeros(N)
    for seed in range(100):
        hits[split(seed).test] += 1
    # binomial(100, .2): mean 20, sd 4
    assert hits.mean() == pytest.approx(20) and hits.std() < 4.5 and hits.min() > 2 and hits.max() < 42
