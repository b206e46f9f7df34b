"""Classification metrics against scikit-learn and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from torch import Tensor

from genxai.metrics import METRICS, classification_metrics, counterfactual_flip_rate, label_nmi


def split(size: int = 500, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Probabilities of a middling classifier, labels, textures, aligned."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (size,), generator=generator)
    logits = torch.randn(size, classes, generator=generator)
    logits[torch.arange(size), labels] += 1.5
    textures = torch.randint(0, 10, (size,), generator=generator)
    return logits.softmax(1), labels, textures, textures == labels


def one_hot(predicted: list[int], classes: int = 3) -> Tensor:
    return torch.eye(classes)[torch.tensor(predicted)]


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(seed: int) -> None:
    probabilities, labels, textures, aligned = split(seed=seed)
    found, predicted = classification_metrics(probabilities, labels, textures, aligned), probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert found["f1_macro"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro"))


@pytest.mark.parametrize(("labels", "predicted"), [([0, 0, 2], [0, 2, 2]), ([0, 0, 0], [0, 0, 0]), ([0, 1], [2, 2])])
def test_macro_f1_counts_the_classes_that_occur(labels: list[int], predicted: list[int]) -> None:
    textures, aligned = torch.zeros(len(labels), dtype=torch.long), torch.zeros(len(labels), dtype=torch.bool)
    found = classification_metrics(one_hot(predicted), torch.tensor(labels), textures, aligned)["f1_macro"]
    assert found == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro"))


def test_groups_are_class_and_aligned_for_the_worst_and_textures_for_the_gap() -> None:
    probabilities, labels, textures, aligned = split()
    correct = (probabilities.argmax(1) == labels).numpy()

    def accuracies(*columns: Tensor) -> list[float]:
        keys = list(zip(*(column.tolist() for column in columns), strict=True))
        return [np.mean([c for c, k in zip(correct, keys, strict=True) if k == key]) for key in set(keys)]

    found = classification_metrics(probabilities, labels, textures, aligned)
    assert found["worst_group_accuracy"] == pytest.approx(min(accuracies(labels, aligned)))
    by_texture = accuracies(textures)
    assert found["texture_gap"] == pytest.approx(max(by_texture) - min(by_texture))


def test_groups_without_samples_do_not_count() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    found = classification_metrics(
        one_hot([0, 0, 1, 0]), labels, torch.tensor([4, 4, 9, 9]), torch.tensor([True, True, True, True])
    )
    assert found["worst_group_accuracy"] == 0.5 and found["texture_gap"] == 0.5


def test_calibration_error_is_the_written_out_sum_over_fifteen_bins() -> None:
    probabilities, labels, textures, aligned = split()
    expected = 0.0
    for b in range(15):
        rows = [i for i, p in enumerate(probabilities.amax(1).tolist()) if b / 15 < p <= (b + 1) / 15]
        if rows:
            hit = np.mean([int(probabilities[i].argmax()) == int(labels[i]) for i in rows])
            expected += len(rows) / 500 * abs(hit - np.mean([float(probabilities[i].max()) for i in rows]))
    assert classification_metrics(probabilities, labels, textures, aligned)["ece"] == pytest.approx(expected)


def test_a_confidence_on_the_edge_belongs_to_the_bin_below() -> None:
    edge = torch.linspace(0, 1, 16, dtype=torch.float64)[9].item()
    confidence = torch.tensor([edge, 0.62], dtype=torch.float64)
    labels = torch.tensor([0, 1])  # right, wrong
    found = classification_metrics(torch.stack([confidence, 1 - confidence], 1), labels, labels, labels == 0)
    assert found["ece"] == pytest.approx((0.4 + 0.62) / 2)


def test_calibration_error_of_certain_predictions_is_the_error_rate() -> None:
    labels = torch.tensor([0, 1, 2, 0])
    found = classification_metrics(one_hot([0, 1, 1, 1]), labels, labels, labels == 0)
    assert found["ece"] == pytest.approx(0.5) and found["accuracy"] == 0.5


def test_values_are_plain_floats_in_zero_one_under_their_names() -> None:
    found = classification_metrics(*split())
    assert list(found) == ["accuracy", "f1_macro", "worst_group_accuracy", "texture_gap", "ece"]
    assert all(type(value) is float and 0 <= value <= 1 for value in found.values())
    assert all(METRICS[name].reference and METRICS[name].kind == "classification" for name in found)


def test_flip_rate_counts_pairs_with_two_answers() -> None:
    assert counterfactual_flip_rate(torch.tensor([1, 1, 2, 3, 4, 4, 0, 9])) == 0.5
    for wrong in ([1, 2, 3], []):
        with pytest.raises(ValueError, match="pairs of predictions"):
            counterfactual_flip_rate(torch.tensor(wrong, dtype=torch.long))


@pytest.mark.parametrize("seed", range(3))
def test_nmi_of_labels_is_that_of_scikit_learn(seed: int) -> None:
    probabilities, labels, _, _ = split(seed=seed)
    predicted = probabilities.argmax(1)
    expected = sklearn_metrics.normalized_mutual_info_score(labels, predicted)
    assert label_nmi(predicted, labels) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [([3, 3, 3], [3, 3, 3]), ([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [5, 4, 9]), ([0, 0, 1, 1], [0, 1, 0, 1]), ([2], [7])],
)
def test_nmi_of_degenerate_labels_is_that_of_scikit_learn(first: list[int], second: list[int]) -> None:
    expected = sklearn_metrics.normalized_mutual_info_score(first, second)
    assert label_nmi(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, abs=1e-12)


def test_wrong_input_is_named() -> None:
    probabilities, labels, textures, aligned = split(8)
    with pytest.raises(ValueError, match=r"textures must have shape \[8\], got \[7\]"):
        classification_metrics(probabilities, labels, textures[:7], aligned)
    with pytest.raises(ValueError, match="N > 0"):
        classification_metrics(probabilities[:0], labels[:0], textures[:0], aligned[:0])
    with pytest.raises(ValueError, match="equally long"):
        label_nmi(labels, labels[:3])


def test_a_split_of_one_sample_has_numbers_for_everything() -> None:
    found = classification_metrics(*split(1))
    assert not any(math.isnan(value) for value in found.values())
