"""R_bias: unbiased where the plug-in is not, and aware of class-texture dependence where the marginal is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from genxai.fairness import bias_gap, bias_loss, bias_reference, subgroup_disparity


def identity(features: Tensor) -> Tensor:
    return features


def plug_in(generated: Tensor, reference: Tensor) -> Tensor:
    return (generated.mean(0) - reference.mean(0)).square().sum()


class Population:
    """Normal features whose mean depends on class and side; the exact value of Eq. 5 is known."""

    def __init__(self, dimension: int = 4) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.means = torch.randn(2, 3, dimension, generator=self.generator, dtype=torch.float64)

    def sample(self, side: int, labels: Tensor) -> Tensor:
        noise = torch.randn(len(labels), 4, generator=self.generator, dtype=torch.float64)
        return self.means[side, labels] + 2.0 * noise

    def exact(self, weights: Tensor) -> float:
        return float((weights * (self.means[0] - self.means[1]).square().sum(dim=1)).sum())


def mean_and_error(values: list[Tensor]) -> tuple[float, float]:
    stacked = torch.stack(values)
    return stacked.mean().item(), stacked.std().item() / len(values) ** 0.5


def test_the_marginal_gap_is_unbiased_and_the_plug_in_is_not() -> None:
    population = Population()
    ours, naive = [], []
    zeros = torch.zeros(6, dtype=torch.long)
    for _ in range(3000):
        generated, reference = population.sample(0, zeros), population.sample(1, zeros)
        ours.append(bias_gap(identity, generated, reference))
        naive.append(plug_in(generated, reference))
    exact = population.exact(torch.tensor([1.0, 0.0, 0.0]))
    mean, error = mean_and_error(ours)
    assert abs(mean - exact) < 3 * error
    mean, error = mean_and_error(naive)
    assert mean - exact == pytest.approx(4 * 4.0 * (1 / 6 + 1 / 6), abs=4 * error)  # d sigma^2 (1/n + 1/m)
    assert mean - exact > 10 * error


def test_the_conditional_gap_is_unbiased() -> None:
    population = Population()
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    theirs = torch.tensor([2, 2, 2, 1, 1, 0, 0, 0])
    values = [
        bias_gap(
            identity,
            population.sample(0, labels),
            population.sample(1, theirs),
            labels=labels,
            reference_labels=theirs,
        )
        for _ in range(3000)
    ]
    mean, error = mean_and_error(values)
    assert abs(mean - population.exact(torch.tensor([0.5, 0.25, 0.25]))) < 3 * error
    assert error < 0.2


@pytest.mark.parametrize("conditional", [False, True])
def test_the_loss_is_unbiased_against_a_fixed_reference_and_so_is_its_gradient(conditional: bool) -> None:
    population = Population()
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2])
    weights = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    every = torch.arange(3)
    reference = bias_reference(
        population.means[1], every, every, kind="data", conditional=conditional, num_classes=3, num_textures=3
    )
    differences = population.means[0] - population.means[1]
    if conditional:
        exact, slope = population.exact(weights), (2 * weights[:, None] * differences).sum(0)
    else:
        # the population mean of a fixed label list is its weighted mean; classes are drawn here, so use one class
        labels = torch.zeros(8, dtype=torch.long)
        difference = population.means[0, 0] - population.means[1].mean(0)
        exact, slope = difference.square().sum().item(), 2 * difference
    values, slopes = [], []
    for _ in range(3000):
        shift = torch.zeros(4, dtype=torch.float64, requires_grad=True)
        loss = bias_loss(population.sample(0, labels) + shift, labels, reference)
        slopes.append(torch.autograd.grad(loss, shift)[0])
        values.append(loss.detach())
    mean, error = mean_and_error(values)
    assert abs(mean - exact) < 3 * error
    gradient = torch.stack(slopes)
    assert ((gradient.mean(0) - slope).abs() < 4 * gradient.std(0) / 3000**0.5).all()


def test_the_loss_is_the_mean_over_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([1, 0, 1, 1, 0, 1, 2])  # class 2 once: left out
    real = torch.randn(9, 3, generator=generator, dtype=torch.float64)
    real_labels, textures = torch.arange(9) % 3, torch.arange(9) % 2
    reference = bias_reference(
        real, real_labels, textures, kind="data", conditional=True, num_classes=3, num_textures=2
    )
    expected = 0.0
    for y, weight in ((0, 2 / 6), (1, 4 / 6)):
        own = features[labels == y] - real[real_labels == y].mean(0)
        pairs = [float(own[i] @ own[j]) for i in range(len(own)) for j in range(len(own)) if i != j]
        expected += weight * sum(pairs) / len(pairs)
    assert bias_loss(features, labels, reference).item() == pytest.approx(expected)


def test_the_gap_is_the_written_out_u_statistic() -> None:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(5, 3, generator=generator).double(), torch.randn(4, 3, generator=generator).double()
    own = [float(x[i] @ x[j]) for i in range(5) for j in range(5) if i != j]
    other = [float(y[i] @ y[j]) for i in range(4) for j in range(4) if i != j]
    expected = sum(own) / 20 + sum(other) / 12 - 2 * float((x @ y.T).mean())
    assert bias_gap(identity, x, y).item() == pytest.approx(expected)


def test_identical_distributions_give_estimates_on_both_sides_of_zero() -> None:
    generator = torch.Generator().manual_seed(0)
    values = [
        bias_gap(identity, torch.randn(8, 3, generator=generator), torch.randn(8, 3, generator=generator)).item()
        for _ in range(100)
    ]
    assert min(values) < 0 < max(values)


def test_marginal_matching_misses_that_every_class_has_its_own_texture() -> None:
    """Finding 7: the data have texture = class; the generator has textures independent of class."""
    textures_of_data = torch.arange(1000) % 10
    labels_of_data = textures_of_data
    generated_labels = torch.arange(1000) // 100
    generated = torch.eye(10)[torch.arange(1000) % 10]  # every texture in every class
    data = torch.eye(10)[textures_of_data]
    marginal = bias_gap(identity, generated, data).item()
    conditional = bias_gap(identity, generated, data, labels=generated_labels, reference_labels=labels_of_data).item()
    assert abs(marginal) < 0.005
    assert conditional == pytest.approx(0.9, abs=0.02)  # ||1/10 - e_y||^2 = 0.81 + 9 * 0.01


def test_classes_with_fewer_than_two_samples_on_a_side_are_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(9, 3, generator=generator).double(), torch.randn(8, 3, generator=generator).double()
    # 7 is common; 3 is single here, 5 single there, 4 here only, 9 there only
    labels = torch.tensor([7, 7, 7, 3, 5, 5, 4, 4, 7])
    theirs = torch.tensor([7, 3, 3, 5, 9, 9, 7, 7])
    found = bias_gap(identity, x, y, labels=labels, reference_labels=theirs)
    assert found.item() == pytest.approx(bias_gap(identity, x[labels == 7], y[theirs == 7]).item())


def test_without_any_usable_class_gap_and_loss_are_zero_with_zero_gradient() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    labels = torch.arange(3)
    reference = bias_reference(
        torch.randn(3, 2), labels, labels, kind="data", conditional=True, num_classes=3, num_textures=3
    )
    total = bias_gap(identity, x, torch.randn(3, 2), labels=labels, reference_labels=labels)
    total = total + bias_loss(x, labels, reference)
    total.backward()
    assert total.item() == 0 and x.grad is not None and x.grad.abs().max() == 0


def test_labels_go_both_ways_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="both labels and reference_labels"):
        bias_gap(identity, torch.rand(3, 2), torch.rand(3, 2), labels=torch.arange(3))
    with pytest.raises(ValueError, match="at least 2 images a side, got 1 and 3"):
        bias_gap(identity, torch.rand(1, 2), torch.rand(3, 2))


# --- the reference -------------------------------------------------------------------------------

# class 0: texture 0 thrice (mean 1), texture 1 once (5); class 1: texture 1 twice (mean 10); texture 2 never
FEATURES = torch.tensor([[0.0], [1.0], [2.0], [5.0], [8.0], [12.0]])
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])
TEXTURES = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize(
    ("kind", "conditional", "expected"),
    [
        ("data", False, [28 / 6]),
        ("data", True, [2.0, 10.0]),
        ("balanced", True, [3.0, 10.0]),  # (1 + 5) / 2; class 1 has one texture only
        ("balanced", False, [4.25]),  # texture 0: 1; texture 1: (5 + 10) / 2; their mean
    ],
)
def test_reference_means_by_hand(kind, conditional: bool, expected: list[float]) -> None:
    reference = bias_reference(
        FEATURES, LABELS, TEXTURES, kind=kind, conditional=conditional, num_classes=2, num_textures=3
    )
    assert reference.means.flatten().tolist() == pytest.approx(expected)
    assert reference.means.shape == ((2, 1) if conditional else (1,))
    assert reference.conditional is conditional and reference.missing_groups == 3


def test_a_balanced_reference_of_biased_data_is_that_of_unbiased_data() -> None:
    """B of (y, a) is the same in both; only how often the pairs occur differs."""
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(4, 4, 2, generator=generator)
    labels = torch.arange(4000) % 4
    shift = torch.where(torch.rand(4000, generator=generator) < 0.9, 0, torch.randint(0, 4, (4000,)))
    biased = (labels + shift) % 4
    unbiased = torch.arange(4000) // 4 % 4
    for conditional in (True, False):
        options = {"conditional": conditional, "num_classes": 4, "num_textures": 4}
        found = bias_reference(table[labels, biased], labels, biased, kind="balanced", **options)
        wanted = bias_reference(table[labels, unbiased], labels, unbiased, kind="data", **options)
        torch.testing.assert_close(found.means, wanted.means)
    literal = bias_reference(table[labels, biased], labels, biased, kind="data", **options | {"conditional": True})
    balanced = bias_reference(table[labels, unbiased], labels, unbiased, kind="data", **options | {"conditional": True})
    assert (literal.means - balanced.means).abs().max() > 0.1


def test_a_class_the_reference_has_not_seen_does_not_count() -> None:
    reference = bias_reference(
        FEATURES, LABELS, TEXTURES, kind="balanced", conditional=True, num_classes=3, num_textures=3
    )
    assert reference.known.tolist() == [True, True, False]
    features, labels = torch.tensor([[4.0], [4.0], [99.0], [77.0]]), torch.tensor([0, 0, 2, 2])
    assert bias_loss(features, labels, reference).item() == pytest.approx(1.0)


def test_a_wrong_kind_or_nothing_is_an_error() -> None:
    options = {"conditional": True, "num_classes": 2, "num_textures": 3}
    with pytest.raises(ValueError, match="'balanced' or 'data', got 'fair'"):
        bias_reference(FEATURES, LABELS, TEXTURES, kind="fair", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one image"):
        bias_reference(FEATURES[:0], LABELS[:0], TEXTURES[:0], kind="data", **options)


def test_gap_and_loss_never_wait_for_the_host() -> None:
    reference = bias_reference(
        FEATURES, LABELS, TEXTURES, kind="balanced", conditional=True, num_classes=2, num_textures=3
    )
    with FakeTensorMode(allow_non_fake_inputs=True):  # reading a value of a fake tensor raises
        x, labels = torch.rand(6, 1), torch.zeros(6, dtype=torch.long)
        assert bias_loss(x, labels, reference).shape == ()
        assert bias_gap(identity, x, x, labels=labels, reference_labels=labels).shape == ()


# --- Eq. 6 ---------------------------------------------------------------------------------------


def test_disparity_is_the_largest_difference_of_group_means() -> None:
    assert subgroup_disparity([1.0, 0.0, 1.0, 1.0, 0.0], [0, 0, 7, 7, 3]) == pytest.approx(1.0)
    assert subgroup_disparity(torch.tensor([True, False, True, True]), torch.tensor([0, 0, 1, 1])) == 0.5
    assert subgroup_disparity([0.3, 0.9], [4, 4]) == 0.0
    with pytest.raises(ValueError, match="equally long"):
        subgroup_disparity([1.0], [0, 1])
