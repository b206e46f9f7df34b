"""Gratings against a float64 formula, the four modes by their definitions, resizing against torch's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genxai.data.resize import resize_bilinear, resize_nearest
from genxai.data.textures import (
    FREQUENCIES,
    JITTER_DEGREES,
    ORIENTATIONS,
    aligned_texture,
    compose,
    cosine_of_turns,
    render,
    swatch,
    texture_frequencies,
)

TEXTURES = torch.arange(10)
ZERO = torch.zeros(10)


def draw(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    textures = torch.randint(10, (count,), generator=generator)
    phase = torch.rand(count, generator=generator)
    return textures, phase, torch.rand(count, generator=generator) * 2 - 1


def test_each_class_has_its_own_texture():
    labels = torch.arange(10)
    assert aligned_texture(labels).tolist() == [(7 * y + 3) % 10 for y in range(10)]
    assert aligned_texture(labels).unique().numel() == 10
    assert aligned_texture(4) == 1 and aligned_texture(np.array([4])).tolist() == [1]


def test_the_cosine_is_right_to_seven_digits():
    turns = torch.linspace(-3, 3, 100_001)
    assert (cosine_of_turns(turns).double() - torch.cos(math.tau * turns.double())).abs().max() < 5e-7


@pytest.mark.parametrize("size", [28, 64])
def test_a_grating_is_the_sinusoid_of_its_frequency_orientation_and_phase(size):
    textures, phase, jitter = draw(50)
    angle = torch.tensor(ORIENTATIONS, dtype=torch.float64)[textures % 5] + JITTER_DEGREES * jitter.double()
    angle = torch.deg2rad(angle)[:, None, None]
    frequency = torch.tensor(FREQUENCIES, dtype=torch.float64)[textures // 5][:, None, None]
    place = (torch.arange(size, dtype=torch.float64) + 0.5) * 28 / size
    v, u = torch.meshgrid(place, place, indexing="ij")
    along = frequency * (torch.sin(angle) * v + torch.cos(angle) * u) + phase.double()[:, None, None]
    expected = 0.5 + 0.5 * torch.sin(math.tau * along)
    picture = render(textures, phase, jitter, size)
    assert picture.shape == (50, 1, size, size) and picture.min() >= 0 and picture.max() <= 1
    assert (picture[:, 0].double() - expected).abs().max() < 1e-5


@pytest.mark.parametrize("size", [28, 56])
def test_the_stated_frequencies_are_those_of_the_pictures(size):
    stated = texture_frequencies(size).double()
    assert stated.shape == (10, 2)
    assert torch.allclose(stated * size, texture_frequencies().double() * 28)
    # the peak of a finely sampled spectrum of the rendered picture
    grid = torch.linspace(-0.3, 0.3, 121, dtype=torch.float64) * 28 / size
    waves = torch.exp(-2j * math.pi * grid[:, None] * (torch.arange(size, dtype=torch.float64)))
    window = torch.hann_window(size, periodic=False, dtype=torch.float64)
    pictures = (render(TEXTURES, ZERO, ZERO, size)[:, 0].double() - 0.5) * window[:, None] * window
    spectrum = (waves @ pictures.to(waves.dtype) @ waves.T).abs()
    for texture in range(10):
        row, column = divmod(int(spectrum[texture].argmax()), len(grid))
        peak = torch.stack([grid[row], grid[column]])
        error = min((peak - stated[texture]).abs().max(), (peak + stated[texture]).abs().max())
        assert error < 0.011 * 28 / size


def test_a_quadrature_filter_bank_tells_the_textures_apart():
    textures, phase, jitter = draw(1000)
    place = torch.arange(28.0)
    frequencies = texture_frequencies()
    angle = math.tau * (frequencies[:, 0, None, None] * place[:, None] + frequencies[:, 1, None, None] * place)
    pictures = render(textures, phase, jitter)[:, 0] - 0.5
    energy = torch.einsum("bij,tij->bt", pictures, angle.cos()) ** 2
    energy += torch.einsum("bij,tij->bt", pictures, angle.sin()) ** 2
    ranked = energy.sort(dim=1, descending=True)
    assert torch.equal(ranked.indices[:, 0], textures)
    assert (ranked.values[:, 0] / ranked.values[:, 1]).min() > 2


def test_phase_and_jitter_move_the_picture():
    one = torch.tensor([3])
    base = render(one, torch.tensor([0.0]), torch.tensor([0.0]))
    assert torch.allclose(render(one, torch.tensor([0.5]), torch.tensor([0.0])), 1 - base, atol=1e-5)
    assert torch.allclose(render(one, torch.tensor([1.0]), torch.tensor([0.0])), base, atol=1e-5)
    assert not torch.allclose(render(one, torch.tensor([0.0]), torch.tensor([1.0])), base, atol=0.05)


def scene(count: int = 40) -> dict[str, torch.Tensor]:
    textures, phase, jitter = draw(count)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 28, 28, generator=generator)
    return {
        "images": images,
        "masks": images > 0.4,
        "textures": textures,
        "phase": phase,
        "jitter": jitter,
        "corners": torch.arange(count) % 4,
    }


def test_background_leaves_the_object_exactly_as_it_was():
    s = scene()
    pictures, masks = compose(**s, mode="background", amplitude=0.5)
    assert torch.equal(pictures[s["masks"]], s["images"][s["masks"]]) and torch.equal(masks, s["masks"])
    grating = 0.5 * render(s["textures"], s["phase"], s["jitter"])
    outside = s["images"] + (1 - s["images"]) * grating
    assert torch.allclose(pictures[~s["masks"]], outside[~s["masks"]])


def test_overlay_changes_the_inside_as_much_as_the_outside():
    s = scene()
    pictures, masks = compose(**s, mode="overlay", amplitude=0.25)
    expected = 0.75 * s["images"] + 0.25 * render(s["textures"], s["phase"], s["jitter"])
    assert torch.allclose(pictures, expected, atol=1e-6) and torch.equal(masks, s["masks"])


def test_patch_puts_the_shade_of_the_texture_into_one_corner():
    s = scene()
    pictures, masks = compose(**s, mode="patch", amplitude=0.5)
    places = {0: np.s_[:4, :4], 1: np.s_[:4, -4:], 2: np.s_[-4:, :4], 3: np.s_[-4:, -4:]}
    for k in range(40):
        covered = torch.zeros(28, 28, dtype=torch.bool)
        covered[places[int(s["corners"][k])]] = True
        assert torch.allclose(pictures[k, 0][covered], (255 - 25 * s["textures"][k]) / 255.0)
        assert torch.equal(pictures[k, 0][~covered], s["images"][k, 0][~covered])
        assert torch.equal(masks[k, 0], s["masks"][k, 0] & ~covered)


def test_the_patch_grows_with_the_picture():
    assert swatch(torch.tensor([3]), 56)[0, 0, -8:, -8:].all() and swatch(torch.tensor([3]), 56).sum() == 64


def test_none_changes_nothing_and_other_modes_are_refused():
    s = scene()
    pictures, masks = compose(**s, mode="none", amplitude=0.5)
    assert torch.equal(pictures, s["images"]) and torch.equal(masks, s["masks"])
    with pytest.raises(ValueError, match="colour"):
        compose(**s, mode="colour", amplitude=0.5)


@pytest.mark.parametrize("mode", ["background", "overlay", "patch"])
def test_pictures_stay_in_range_for_every_amplitude(mode):
    s = scene()
    for images in (s["images"], torch.ones_like(s["images"]), torch.zeros_like(s["images"])):
        for amplitude in [k / 37 for k in range(1, 38)]:
            pictures, _ = compose(**{**s, "images": images}, mode=mode, amplitude=amplitude)
            assert pictures.min() >= 0 and pictures.max() <= 1 and pictures.dtype == torch.float32


@pytest.mark.parametrize("size", [28, 32, 56, 100, 224])
def test_resizing_agrees_with_torch(size):
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    assert torch.allclose(resize_bilinear(images, size), expected, atol=1e-6)
    masks = images > 0.5
    nearest = torch.nn.functional.interpolate(masks.float(), size=(size, size), mode="nearest-exact") > 0.5
    assert torch.equal(resize_nearest(masks, size), nearest)
