"""texture_energy: what it measures, its Lipschitz constant, and the theorem that rests on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from genxai.data.textures import texture_frequencies
from genxai.errors import UsageError
from genxai.fairness import DESCRIPTORS, build_descriptor, descriptor
from genxai.fairness.descriptors import ROUNDING, Descriptor

SIZE = 28


@pytest.fixture(scope="module")
def texture_energy() -> Descriptor:
    return build_descriptor("texture_energy", SIZE)


def gratings(size: int, amplitude: float, phase: float = 0.3) -> Tensor:
    """One grating of each texture, [10, 1, size, size], about mid-grey."""
    v, u = torch.meshgrid(torch.arange(float(size)), torch.arange(float(size)), indexing="ij")
    turns = texture_frequencies(size) @ torch.stack([v.flatten(), u.flatten()]) + phase
    return (0.5 + amplitude * torch.cos(2 * math.pi * turns)).view(-1, 1, size, size)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("size", [28, 56])
def test_each_energy_reads_the_amplitude_of_its_own_grating(size: int) -> None:
    energies = build_descriptor("texture_energy", size)(gratings(size, 0.25))
    assert energies.shape == (10, 10)
    assert energies.argmax(dim=1).tolist() == list(range(10))
    # texture 5 has whole periods across the image; for others the seam of the periodic continuation takes a little
    assert energies[5, 5].item() == pytest.approx(0.25, abs=2 * ROUNDING)
    torch.testing.assert_close(energies.diagonal(), torch.full((10,), 0.25), rtol=0, atol=0.06)
    assert energies[~torch.eye(10, dtype=torch.bool)].max() < 0.12


def test_energies_are_rms_responses_of_an_explicit_convolution(texture_energy: Descriptor) -> None:
    images = noise(2, 1, SIZE, SIZE, dtype=torch.float64)
    kernels = torch.fft.ifft2(texture_energy.response.double()).numpy()
    for image, found in zip(images[:, 0].numpy(), texture_energy(images), strict=True):
        for kernel, energy in zip(kernels, found.tolist(), strict=True):
            even, odd = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE))
            for dy in range(SIZE):
                for dx in range(SIZE):
                    shifted = np.roll(image, (dy, dx), (0, 1))
                    even += kernel.real[dy, dx] * shifted
                    odd += kernel.imag[dy, dx] * shifted
            mean = (even**2 + odd**2).mean()
            assert energy == pytest.approx(math.sqrt(mean + ROUNDING**2) - ROUNDING, rel=1e-5)


def test_flat_images_have_no_energy_and_brightness_does_not_matter(texture_energy: Descriptor) -> None:
    assert texture_energy(torch.full((1, 1, SIZE, SIZE), 0.7)).max() < 1e-6
    images = noise(3, 1, SIZE, SIZE) / 2
    torch.testing.assert_close(texture_energy(images + 0.4), texture_energy(images), rtol=1e-4, atol=1e-5)


def test_it_does_not_depend_on_phase_or_on_periodic_shifts(texture_energy: Descriptor) -> None:
    images = noise(3, 1, SIZE, SIZE)
    torch.testing.assert_close(texture_energy(images.roll((5, 9), (2, 3))), texture_energy(images))
    spread = torch.stack([texture_energy(gratings(SIZE, 0.25, phase)).diagonal() for phase in (0.0, 0.2, 0.5)])
    assert spread.std(dim=0).max() < 0.02


def test_a_mask_leaves_out_what_it_covers(texture_energy: Descriptor) -> None:
    texture, mask = gratings(SIZE, 0.25), torch.zeros(10, 1, SIZE, SIZE, dtype=torch.bool)
    torch.testing.assert_close(texture_energy(texture, mask), texture_energy(texture), rtol=1e-4, atol=1e-5)
    mask[..., 14:] = True
    half = torch.where(mask, 0.5, texture)
    assert (texture_energy(half, mask).diagonal() > texture_energy(half).diagonal()).all()
    assert texture_energy(texture, torch.ones_like(mask)).max() == 0


def test_gradients_are_right_and_finite_at_zero(texture_energy: Descriptor) -> None:
    small = Small()
    assert torch.autograd.gradcheck(small, (noise(2, 1, 8, 8, dtype=torch.float64).requires_grad_(),))
    assert torch.autograd.gradcheck(small.evidence, (noise(1, 1, 8, 8, dtype=torch.float64).requires_grad_(),))
    black = torch.zeros(1, 1, SIZE, SIZE, requires_grad=True)
    (texture_energy(black).sum() + texture_energy.evidence(black).sum()).backward()
    assert black.grad is not None and black.grad.isfinite().all()


class Small(torch.nn.Module):
    """A two-filter bank of float64 for finite differences."""

    def __init__(self) -> None:
        super().__init__()
        from genxai.fairness.descriptors import TextureEnergy

        self.bank = TextureEnergy(8, torch.tensor([[0.25, 0.0], [0.1, 0.2]]))

    def forward(self, images: Tensor) -> Tensor:
        return self.bank(images)

    def evidence(self, images: Tensor) -> Tensor:
        return self.bank.evidence(images)


# --- the Lipschitz constant ----------------------------------------------------------------------


def slope(texture_energy: Descriptor, x: Tensor, y: Tensor) -> Tensor:
    return (texture_energy(x) - texture_energy(y)).norm(dim=1) / (x - y).flatten(1).norm(dim=1)


def test_no_pair_of_images_exceeds_the_lipschitz_constant(texture_energy: Descriptor) -> None:
    x, y = noise(200, 1, SIZE, SIZE, seed=1).double(), noise(200, 1, SIZE, SIZE, seed=2).double()
    waves = gratings(SIZE, 0.25).double()
    for first, second in ((x, y), (x, x + 1e-4 * y), (waves, waves.roll(1, 0)), (waves, 0 * waves), (x[:10], waves)):
        assert slope(texture_energy, first, second).max() <= texture_energy.lipschitz * (1 + 1e-6)


def test_gradient_ascent_on_the_slope_comes_close_to_the_constant_and_never_passes_it(
    texture_energy: Descriptor,
) -> None:
    x = noise(4, 1, SIZE, SIZE, seed=3, dtype=torch.float64).requires_grad_()
    y = noise(4, 1, SIZE, SIZE, seed=4, dtype=torch.float64).requires_grad_()
    optimizer = torch.optim.Adam([x, y], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (-slope(texture_energy, x, y).sum()).backward()
        optimizer.step()
    found = slope(texture_energy, x, y).max().item()
    assert 0.9 * texture_energy.lipschitz < found <= texture_energy.lipschitz * (1 + 1e-6)


def test_power_iteration_on_the_filter_bank_finds_the_constant(texture_energy: Descriptor) -> None:
    """The largest singular value of x -> (h_k * x) / sqrt(HW), by its own adjoint through autograd."""
    image = torch.randn(1, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernels = texture_energy.response.double()
    for _ in range(300):
        image = (image / image.norm()).detach().requires_grad_()
        responses = torch.fft.ifft2(torch.fft.fft2(image) * kernels) / SIZE
        (image_next,) = torch.autograd.grad(0.5 * (responses.real.square() + responses.imag.square()).sum(), image)
        largest, image = image_next.norm().sqrt().item(), image_next
    assert largest == pytest.approx(texture_energy.lipschitz, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_equation_13_bounds_the_gap_of_means_by_the_wasserstein_distance(texture_energy: Descriptor, seed: int) -> None:
    """||E B(x) - E B(y)||_2 <= L_B W1(x, y), W1 exact by optimal assignment; the paper's sqrt(d) is not needed."""
    x = noise(24, 1, SIZE, SIZE, seed=seed).double()
    wave = gratings(SIZE, 0.25)[torch.arange(24) % (seed + 1)].double()
    y = wave + 0.2 * noise(24, 1, SIZE, SIZE, seed=seed + 100).double()
    cost = torch.cdist(x.flatten(1), y.flatten(1)).numpy()
    w1 = cost[linear_sum_assignment(cost)].mean()
    gap = (texture_energy(x).mean(0) - texture_energy(y).mean(0)).norm().item()
    assert 0 < gap <= texture_energy.lipschitz * w1
    # the same set in another order is at distance zero, and so is its B
    order = torch.randperm(24, generator=torch.Generator().manual_seed(seed))
    assert (texture_energy(x).mean(0) - texture_energy(x[order]).mean(0)).norm() < 1e-12


# --- evidence ------------------------------------------------------------------------------------


def test_evidence_is_near_one_on_gratings_and_zero_on_flat_ground(texture_energy: Descriptor) -> None:
    for amplitude in (0.25, 0.5):
        middle = texture_energy.evidence(gratings(SIZE, amplitude))[..., 8:20, 8:20]
        assert middle.mean() > 0.8
    assert texture_energy.evidence(torch.full((1, 1, SIZE, SIZE), 0.5)).max() < 1e-3
    assert texture_energy.evidence(gratings(SIZE, 0.002)).max() < 0.05  # below the contrast floor


def test_evidence_lies_where_the_texture_lies(texture_energy: Descriptor) -> None:
    images = gratings(SIZE, 0.25)
    images[..., :14] = 0.5
    found = texture_energy.evidence(images)
    assert found.shape == images.shape and found.min() >= 0 and found.max() <= 1
    assert (found[..., 18:26].mean(dim=(1, 2, 3)) > 5 * found[..., 4:10].mean(dim=(1, 2, 3))).all()


def test_evidence_of_noise_is_low(texture_energy: Descriptor) -> None:
    assert texture_energy.evidence(noise(8, 1, SIZE, SIZE)).mean() < 0.4


# --- registry ------------------------------------------------------------------------------------


def test_half_precision_images_are_measured_in_float32(texture_energy: Descriptor) -> None:
    images = noise(2, 1, SIZE, SIZE)
    found = texture_energy(images.bfloat16())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, texture_energy(images), rtol=0.02, atol=1e-3)


def test_it_has_nothing_to_train_and_nothing_to_save(texture_energy: Descriptor) -> None:
    assert not list(texture_energy.parameters()) and not texture_energy.state_dict()
    assert texture_energy.dimension == 10


def test_an_unknown_name_names_the_nearest_and_all() -> None:
    with pytest.raises(UsageError, match=r"'texture_energi'; allowed: .*texture_energy.*nearest is 'texture_energy'"):
        build_descriptor("texture_energi", SIZE)


def test_a_new_descriptor_is_one_decorated_function(
    monkeypatch: pytest.MonkeyPatch, texture_energy: Descriptor
) -> None:
    monkeypatch.setattr("genxai.fairness.descriptors.DESCRIPTORS", dict(DESCRIPTORS))
    descriptor("mine")(lambda size: texture_energy)
    assert build_descriptor("mine", SIZE) is texture_energy
    with pytest.raises(ValueError, match="registered already"):
        descriptor("mine")(lambda size: texture_energy)


def test_images_of_another_size_are_an_error(texture_energy: Descriptor) -> None:
    with pytest.raises(ValueError, match=r"\[B, 1, 28, 28\], got \[2, 3, 28, 28\]"):
        texture_energy(noise(2, 3, SIZE, SIZE))


def test_measuring_never_waits_for_the_host(texture_energy: Descriptor) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):  # reading a value of a fake tensor raises
        images = torch.rand(2, 1, SIZE, SIZE, requires_grad=True)
        mask = torch.rand(2, 1, SIZE, SIZE) < 0.5
        total = (
            texture_energy(images).sum() + texture_energy(images, mask).sum() + texture_energy.evidence(images).sum()
        )
        total.backward()
