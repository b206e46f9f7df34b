"""The placebo of Reveal-to-Revise: maps held to the object's shape, at a place that has nothing to do with it."""

import torch

from genxai.explain.placebo import moved_masks


def test_the_placebo_keeps_the_shape_and_moves_it_the_same_way_for_the_same_sample():
    masks = torch.zeros(64, 1, 28, 28, dtype=torch.bool)
    masks[:, :, 3:9, 10:12] = True
    ids = torch.arange(64)
    moved = moved_masks(masks, 0, ids)
    assert (moved.sum(dim=(1, 2, 3)) == 12).all() and not torch.equal(moved, masks)
    assert torch.equal(moved_masks(masks[5:9], 0, ids[5:9]), moved[5:9])
    assert not torch.equal(moved_masks(masks, 1, ids), moved)
    # every place is as likely as any other: over samples the mean overlap is that of chance
    many = moved_masks(masks[:1].expand(4000, -1, -1, -1), 0, torch.arange(4000))
    assert abs((many & masks[:1]).float().sum(dim=(1, 2, 3)).mean() - 12 * 12 / 784) < 0.05


def test_a_rolled_mask_is_a_roll_of_the_mask():
    mask = torch.rand(1, 1, 28, 28) < 0.2
    moved = moved_masks(mask, 0, torch.tensor([7]))
    rolls = {mask.roll((down, right), (2, 3)).numpy().tobytes() for down in range(28) for right in range(28)}
    assert moved.numpy().tobytes() in rolls
