"""The mask S against scipy's morphology and cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from genxai.data.masks import close, fill_holes, object_masks
from genxai.data.sources import load_arrays

SQUARE = np.ones((3, 3))


def drawing(*rows: str) -> torch.Tensor:
    return torch.tensor([[char == "#" for char in row] for row in rows])[None]


def test_mnist_strokes_are_the_pixels_above_a_quarter():
    images = torch.tensor(load_arrays("mnist", "embedded").test_images)
    assert torch.equal(object_masks(images, "mnist"), images.double() / 255 > 0.25)


def test_fashion_silhouettes_are_closed_and_filled_as_scipy_does():
    images = load_arrays("fashion-mnist", "embedded").test_images
    masks = object_masks(torch.tensor(images), "fashion-mnist")
    assert masks.dtype == torch.bool and masks.shape == (1000, 28, 28)
    for image, mask in zip(images[:200], masks, strict=False):
        # padding keeps scipy from eroding what touches the border
        bright = np.pad(image.astype(np.float64) / 255 > 0.08, 3)
        expected = ndimage.binary_fill_holes(ndimage.binary_closing(bright, SQUARE))[3:-3, 3:-3]
        assert np.array_equal(mask.numpy(), expected)


def test_a_silhouette_covers_every_bright_pixel():
    images = torch.tensor(load_arrays("fashion-mnist", "embedded").train_images)
    masks = object_masks(images, "fashion-mnist")
    assert not ((images > 20.4) & ~masks).any()
    assert masks.float().mean() == pytest.approx(0.46, abs=0.03)  # science.md: 46 % of the pixels


@pytest.mark.parametrize("density", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("shape", [(28, 28), (5, 9), (40, 61)])
def test_closing_and_filling_agree_with_scipy_on_noise(density, shape):
    noise = torch.rand(20, *shape, generator=torch.Generator().manual_seed(0)) < density
    for image, closed, filled in zip(noise, close(noise), fill_holes(noise), strict=True):
        assert np.array_equal(closed.numpy(), ndimage.binary_closing(np.pad(image, 3), SQUARE)[3:-3, 3:-3])
        assert np.array_equal(filled.numpy(), ndimage.binary_fill_holes(image))


def test_a_hole_is_background_that_cannot_reach_the_border_by_four_neighbours():
    ring = drawing("#####", "#...#", "#.#.#", "#...#", "#####")
    assert fill_holes(ring).all()
    diagonal = drawing("..#..", ".#.#.", "..#..")  # the middle touches the outside at corners only
    assert fill_holes(diagonal)[0, 1, 2]
    opened = drawing("##.##", "#...#", "#####")
    assert torch.equal(fill_holes(opened), opened)


def test_a_long_winding_way_out_is_found():
    rows = ["." * 28 if y % 2 == 0 else "#" * 27 + "." if y % 4 == 1 else "." + "#" * 27 for y in range(28)]
    maze = drawing("#" * 28, *rows[1:27], "#" * 28)
    assert np.array_equal(fill_holes(maze)[0].numpy(), ndimage.binary_fill_holes(maze[0]))


def test_images_do_not_influence_each_other():
    images = torch.tensor(load_arrays("fashion-mnist", "embedded").test_images[:20])
    together = object_masks(images, "fashion-mnist")
    assert all(torch.equal(object_masks(images[k : k + 1], "fashion-mnist")[0], together[k]) for k in range(20))


def test_other_images_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        object_masks(torch.rand(2, 28, 28), "mnist")
    with pytest.raises(ValueError, match="61 pixels"):
        object_masks(torch.zeros(1, 64, 64, dtype=torch.uint8), "fashion-mnist")
