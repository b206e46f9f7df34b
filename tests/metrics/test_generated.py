"""Association, fairness and diversity of generated images against scipy, scikit-learn and cases computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats.contingency import association
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torchmetrics.functional.nominal import cramers_v as torchmetrics_cramers_v

from genxai.configfile import load_config
from genxai.data import open_split
from genxai.data.factors import aligned_texture
from genxai.fairness import build_descriptor
from genxai.metrics.generated import (
    aligned_share,
    attribute_gap,
    conditional_accuracy,
    contingency,
    corrected_frequencies,
    cramers_v,
    diversity,
    fairness_discrepancy,
    project_on_simplex,
    read_textures,
    texture_bias,
    texture_confusion,
    texture_nmi,
)


def drawn(n: int, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Classes, and textures that are the class with probability `share`, else uniform over ten."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, 10, (n,), generator=random)
    other = torch.randint(0, 10, (n,), generator=random)
    return classes, torch.where(torch.rand(n, generator=random) < share, classes, other)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_bias_corrected_v_is_torchmetrics(share):
    classes, textures = drawn(500, share)
    expected = torchmetrics_cramers_v(classes, textures, bias_correction=True).item()
    assert cramers_v(contingency(classes, textures, 10, 10)) == pytest.approx(expected, abs=1e-6)


def test_v_of_independent_draws_is_near_zero_at_any_n_and_of_a_bijection_one():
    few = [cramers_v(contingency(*drawn(200, 0.0, seed), 10, 10)) for seed in range(20)]
    plain = [association(contingency(*drawn(200, 0.0, seed), 10, 10).numpy().astype(int)) for seed in range(20)]
    assert np.mean(few) < 0.06 and np.mean(plain) > 0.18
    assert cramers_v(torch.eye(10) * 7) == pytest.approx(1.0)
    assert cramers_v(torch.eye(10)[torch.randperm(10)] * 7) == pytest.approx(1.0)


def test_empty_rows_and_columns_do_not_count_and_a_constant_has_no_association():
    table = contingency(*drawn(300, 0.5), 10, 10)
    padded = torch.zeros(12, 11, dtype=torch.float64)
    padded[1:11, :10] = table
    assert cramers_v(padded) == pytest.approx(cramers_v(table), abs=1e-12)
    constant = torch.zeros(10, 10)
    constant[:, 3] = 5
    assert cramers_v(constant) == 0.0
    with pytest.raises(ValueError, match="at least two counts"):
        cramers_v(torch.zeros(10, 10))


def test_nmi_is_scikit_learns():
    classes, textures = drawn(400, 0.5)
    expected = normalized_mutual_info_score(classes.numpy(), textures.numpy())
    assert texture_nmi(contingency(classes, textures, 10, 10)) == pytest.approx(expected, abs=1e-9)


def test_the_aligned_share_is_counted_in_the_cells_of_pi_also_if_a_class_is_missing():
    table = torch.zeros(10, 10)
    four, nine = aligned_texture(4), aligned_texture(9)
    table[4, four], table[4, four - 1], table[9, nine], table[9, nine - 1] = 3, 1, 1, 5
    assert aligned_share(table) == pytest.approx(0.4)
    assert texture_bias(table, torch.eye(10, dtype=torch.float64))["aligned_share"] == pytest.approx(0.4)


def test_only_the_conditional_discrepancy_sees_a_texture_for_each_class():
    values = texture_bias(torch.eye(10) * 30, torch.eye(10, dtype=torch.float64))
    assert values["fairness_discrepancy"] == pytest.approx(0.0, abs=1e-12) and values["delta_fair"] == pytest.approx(0)
    assert values["fairness_discrepancy_conditional"] == pytest.approx(math.sqrt(0.9))
    assert fairness_discrepancy(torch.tensor([0.7, 0.3])) == pytest.approx(math.sqrt(2 * 0.2**2), abs=1e-7)
    assert attribute_gap(torch.tensor([0.7, 0.1, 0.2])) == pytest.approx(0.6)


def test_the_correction_undoes_a_known_confusion_exactly():
    random = torch.Generator().manual_seed(0)
    confusion = torch.rand(10, 10, generator=random, dtype=torch.float64) + 4 * torch.eye(10, dtype=torch.float64)
    confusion /= confusion.sum(dim=1, keepdim=True)
    true = torch.rand(6, 10, generator=random, dtype=torch.float64)
    true /= true.sum(dim=1, keepdim=True)
    read = true @ confusion
    assert (read - true).abs().max() > 0.02
    assert torch.allclose(corrected_frequencies(read, confusion), true, atol=1e-12)
    # raw frequencies of a generator with one texture look fairer than it is
    single = torch.eye(10, dtype=torch.float64)[:1]
    table = (single @ confusion * 1000).expand(10, -1)
    values = texture_bias(table, confusion)
    assert values["fairness_discrepancy_corrected"] == pytest.approx(math.sqrt(0.9), abs=1e-9)
    assert values["fairness_discrepancy"] < values["fairness_discrepancy_corrected"] - 0.1


def test_corrected_frequencies_are_frequencies_even_if_the_confusion_cannot_explain_what_was_read():
    confusion = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    corrected = corrected_frequencies(torch.tensor([0.95, 0.05]), confusion)
    assert corrected.tolist() == [1.0, 0.0]
    useless = torch.full((3, 3), 1 / 3)  # reading says nothing: no inverse
    assert corrected_frequencies(torch.tensor([0.2, 0.5, 0.3]), useless).sum() == pytest.approx(1.0)


def test_the_projection_is_the_nearest_point_of_the_simplex():
    points = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for point, found in zip(points, project_on_simplex(points), strict=True):
        best = minimize(
            lambda p, point=point: ((p - point.numpy()) ** 2).sum(),
            np.full(4, 0.25),
            bounds=[(0, 1)] * 4,
            constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14},
        )
        assert np.allclose(found.numpy(), best.x, atol=1e-6)


def test_a_confusion_has_what_was_true_in_its_rows_and_takes_unseen_textures_as_read_right():
    confusion = texture_confusion(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1]), 3)
    assert torch.allclose(confusion, torch.tensor([[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64))


@pytest.mark.parametrize("dataset", ["mnist", "fashion-mnist"])
def test_textures_of_real_images_are_read_without_training(dataset):
    config = load_config("tiny", [f"data.dataset={dataset}"])
    split = open_split(config, "test_unbiased")
    images = split.batch(torch.arange(400)).images
    read = read_textures(images, build_descriptor("texture_energy", 28), config.data.amplitude)
    assert (read == split.textures[:400]).double().mean() > 0.9


def test_conditional_accuracy_is_the_share_of_requested_classes_seen():
    assert conditional_accuracy(torch.tensor([1, 2, 3, 3]), torch.tensor([1, 2, 2, 3])) == 0.75


def test_diversity_is_relative_to_real_variance_within_classes():
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    real = torch.randn(600, 8, generator=random, dtype=torch.float64) + 100 * labels[:, None]
    assert diversity(real, labels, real, labels) == pytest.approx(1.0)
    means = torch.stack([real[labels == y].mean(dim=0) for y in range(3)])[labels]
    assert diversity(means + 0.5 * (real - means), labels, real, labels) == pytest.approx(0.25)
    assert diversity(means, labels, real, labels) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="at least two images"):
        diversity(real[:1], labels[:1], real, labels)
