import copy
from itertools import pairwise

import pytest
import torch

from genxai.config import GanConfig
from genxai.models import Critic, Generator, update_ema
from genxai.models.gan import map_channels, map_sizes

GAN = GanConfig(latent_dim=8, width=4)
FORMS = ["residual", "literal", "none"]


def generator(image_size=28, **options):
    return Generator(GAN.model_copy(update=options), num_classes=3, image_size=image_size)


def critic(image_size=28):
    return Critic(GAN, num_classes=3, image_size=image_size)


@pytest.mark.parametrize(
    ("image_size", "sizes"), [(28, [7, 14, 28]), (32, [8, 16, 32]), (36, [9, 18, 36]), (60, [15, 30, 60])]
)
def test_feature_maps_double_up_to_the_image(image_size, sizes):
    assert map_sizes(image_size) == sizes


def test_every_allowed_image_size_starts_from_at_most_a_quarter_of_it():
    for image_size in range(28, 225, 4):
        sizes = map_sizes(image_size)
        assert sizes[0] <= image_size // 4
        assert all(fine == 2 * coarse for coarse, fine in pairwise(sizes))


def test_channels_double_at_each_halving_up_to_eightfold():
    assert map_channels(28, 16) == [64, 32, 16]
    assert map_channels(224, 2) == [16, 16, 16, 8, 4, 2]


@pytest.mark.parametrize("attention", FORMS)
def test_generated_images_have_the_size_of_the_data_and_lie_in_the_unit_interval(attention):
    images = generator(attention=attention)(torch.randn(5, 8), torch.tensor([0, 1, 2, 0, 1]))
    assert images.shape == (5, 1, 28, 28)
    assert images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    assert images.std() > 0


@pytest.mark.parametrize("image_size", [32, 64])
def test_other_image_sizes_work_in_both_networks(image_size):
    labels = torch.tensor([0, 2])
    images = generator(image_size)(torch.randn(2, 8), labels)
    assert images.shape == (2, 1, image_size, image_size)
    assert critic(image_size)(images, labels).shape == (2,)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    network, z, labels = generator(), torch.randn(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    together = network(z, labels)
    torch.testing.assert_close(together[2:3], network(z[2:3], labels[2:3]))
    assert list(network.buffers()) == []


def test_the_class_decides_only_through_its_scale_and_shift():
    network, z = generator(), torch.randn(1, 8)
    labels = torch.tensor([0, 1])
    same = network(z.expand(2, -1), labels)
    torch.testing.assert_close(same[0], same[1])  # untrained classes are equal
    torch.nn.init.normal_(network.norms[0].scale.weight)
    different = network(z.expand(2, -1), labels)
    assert not torch.allclose(different[0], different[1], atol=1e-3)


@pytest.mark.parametrize("attention", FORMS)
def test_every_parameter_of_the_generator_and_critic_gets_a_gradient(attention):
    networks = generator(attention=attention), critic()
    if attention == "residual":
        for layer in networks[0].attention:  # at gamma = 0, where training starts, the score has none yet
            layer.gamma.data.fill_(0.5)
    labels = torch.tensor([0, 1, 2])
    networks[1](networks[0](torch.randn(3, 8), labels), labels).square().sum().backward()
    for network in networks:
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_critic_is_an_unconditional_score_plus_a_projection_on_the_class():
    network = critic()
    images = torch.rand(1, 1, 28, 28).expand(3, -1, -1, -1)
    before = network(images, torch.tensor([0, 1, 2]))
    assert len(set(before.tolist())) == 3
    network.project.weight.data.zero_()
    after = network(images, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(after, after[:1].expand(3))


def test_the_score_of_an_image_does_not_depend_on_the_others_of_its_batch():
    network, images, labels = critic(), torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 0])
    torch.testing.assert_close(network(images, labels)[1:2], network(images[1:2], labels[1:2]))
    assert list(network.buffers()) == []


def test_the_critic_sees_the_whole_image():
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    (gradient,) = torch.autograd.grad(critic()(images, torch.tensor([0, 1])).sum(), images)
    assert (gradient != 0).all()


def test_the_gradient_penalty_trains_the_critic_with_an_exact_second_derivative():
    network, labels = critic().double(), torch.tensor([0, 1])
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64)

    def penalty():
        inputs = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(inputs, labels).sum(), inputs, create_graph=True)
        return (gradient.flatten(1).norm(dim=1) - 1).square().mean()

    weight = network.features.weight
    (analytic,) = torch.autograd.grad(penalty(), weight)
    direction = analytic / analytic.norm()
    step = 1e-5
    with torch.no_grad():
        weight += step * direction
    above = penalty().item()
    with torch.no_grad():
        weight -= 2 * step * direction
    below = penalty().item()
    assert (above - below) / (2 * step) == pytest.approx(analytic.norm().item(), rel=1e-4)


def test_the_same_seed_builds_the_same_networks():
    def build():
        torch.manual_seed(3)
        return [*generator().state_dict().values(), *critic().state_dict().values()]

    assert all(torch.equal(one, other) for one, other in zip(build(), build(), strict=True))


def test_the_average_follows_its_formula_and_copies_buffers():
    source = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = copy.deepcopy(source)
    before = [parameter.detach().clone() for parameter in average.parameters()]
    for parameter in source.parameters():
        parameter.data.normal_()
    source[1].running_mean.fill_(5.0)
    source[1].num_batches_tracked.fill_(7)
    update_ema(average, source, 0.9)
    for old, new, now in zip(before, source.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(now, 0.9 * old + 0.1 * new)
        assert now.grad_fn is None
    assert average[1].running_mean.tolist() == [5.0, 5.0]
    assert average[1].num_batches_tracked.item() == 7


@pytest.mark.parametrize(("decay", "follows"), [(0.0, True), (1.0, False)])
def test_decay_0_is_the_source_and_decay_1_never_moves(decay, follows):
    average, source = generator(), generator()
    before = average.project.weight.clone()
    update_ema(average, source, decay)
    assert torch.equal(average.project.weight, source.project.weight if follows else before)


def test_averages_of_different_architectures_are_refused():
    with pytest.raises(ValueError, match="differ in their parameters"):
        update_ema(generator(), generator(width=8), 0.9)
    with pytest.raises(ValueError, match="decay"):
        update_ema(generator(), generator(), 1.5)
