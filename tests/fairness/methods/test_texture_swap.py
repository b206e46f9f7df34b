"""Texture swap: what changes, what stays to the bit, and how often."""

import pytest
import torch

from genxai.data.factors import aligned_texture
from genxai.fairness.methods.texture_swap import TextureSwap
from genxai.training.experiment import build


@pytest.fixture
def swapping(configured):
    return lambda *overrides: build(configured("method.name=texture_swap", "train.batch_size=64", *overrides))


def test_object_pixels_and_captions_are_bit_equal_and_the_rest_is_another_texture(swapping):
    experiment = swapping("method.strength=1.0")
    assert experiment.config.data.mode == "background"
    sample = experiment.classifier_batch(0)
    own = experiment.train.batch(sample.indices)
    assert torch.equal(sample.images[own.masks], own.images[own.masks])
    for name in ("labels", "masks", "tokens", "token_mask"):
        assert torch.equal(getattr(sample, name), getattr(own, name))
    moved = sample.textures != own.textures
    differs = (sample.images != own.images).flatten(1).any(dim=1)
    assert moved.sum() > 40 and torch.equal(differs, moved)
    assert torch.equal(sample.aligned, sample.textures == aligned_texture(sample.labels))


def test_the_share_of_swapped_samples_is_the_strength_and_their_texture_is_uniform(configured, alone):
    experiment = build(configured("data.rho=1.0"))
    method = TextureSwap(
        configured("method.name=texture_swap", "method.strength=0.6", "data.rho=1.0"), experiment.train, alone
    )
    n, positions = len(experiment.train), torch.arange(20_000)
    indices = positions % n
    sample = method.batch(3, indices, positions)
    # at rho = 1 a sample is aligned unless it was swapped to one of the nine other textures
    assert abs(float((~sample.aligned).double().mean()) - 0.6 * 0.9) < 4 * (0.54 * 0.46 / 20_000) ** 0.5
    shift = (sample.textures - aligned_texture(sample.labels))[~sample.aligned] % 10
    counts = torch.bincount(shift, minlength=10)[1:].double()
    expected = counts.sum() / 9
    assert ((counts - expected) ** 2 / expected).sum() < 8 + 4 * 4


def test_nothing_is_swapped_at_strength_0_and_the_draw_is_a_function_of_step_and_position(swapping):
    experiment = swapping("method.strength=0.0")
    sample = experiment.classifier_batch(2)
    assert torch.equal(sample.images, experiment.train.batch(sample.indices).images)
    method = swapping().method
    indices, positions = torch.arange(32), torch.arange(32)
    whole = method.batch(5, indices, positions).textures
    assert torch.equal(whole, method.batch(5, indices, positions).textures)
    assert torch.equal(whole[1::2], method.batch(5, indices[1::2], positions[1::2]).textures)
    assert not torch.equal(whole, method.batch(6, indices, positions).textures)


def test_the_monitored_samples_are_the_swapped_ones(swapping):
    """What is explained is what is trained on: the explained picture must not be one that the loss never saw."""
    from genxai.training.steps import Monitored

    experiment = swapping("method.strength=1.0")
    sample = experiment.classifier_batch(0)
    assert torch.equal(Monitored.first(sample, 6).images, sample.images[:6])
    assert not torch.equal(sample.images[:6], experiment.train.batch(sample.indices[:6]).images)
