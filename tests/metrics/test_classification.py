"""Classification metrics against scikit-learn, fairlearn, torchmetrics and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fairlearn.metrics import MetricFrame, demographic_parity_difference
from sklearn import metrics as sklearn_metrics
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_f1_score,
)

from genxai.metrics import METRICS, Predictions, classification_metrics, label_nmi, metric, pair_metrics

NAMES = [
    "accuracy",
    "f1_macro",
    "worst_group_accuracy",
    "delta_fair_accuracy",
    "delta_fair_selection",
    "ece",
    "nmi_pred",
]


def split(size: int = 500, classes: int = 10, seed: int = 0) -> Predictions:
    """Predictions of a middling classifier."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (size,), generator=generator)
    logits = torch.randn(size, classes, generator=generator)
    logits[torch.arange(size), labels] += 1.5
    textures = torch.randint(0, 10, (size,), generator=generator)
    return Predictions(logits.softmax(1), labels, textures, textures == labels)


def said(predicted: list[int], labels: list[int], textures: list[int] | None = None, classes: int = 3) -> Predictions:
    """Certain predictions; every texture is the one that goes with its class."""
    truth = torch.tensor(labels)
    where = torch.zeros_like(truth) if textures is None else torch.tensor(textures)
    return Predictions(torch.eye(classes)[torch.tensor(predicted)], truth, where, torch.ones(len(truth), dtype=bool))


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_and_macro_f1_are_those_of_scikit_learn_and_torchmetrics(seed: int) -> None:
    predictions = split(seed=seed)
    found, labels, predicted = classification_metrics(predictions), predictions.labels, predictions.predicted
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert found["f1_macro"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro"))
    theirs = multiclass_accuracy(predictions.probabilities, labels, 10, average="micro")
    assert found["accuracy"] == pytest.approx(theirs.item())
    theirs = multiclass_f1_score(predictions.probabilities, labels, 10, average="macro")
    assert found["f1_macro"] == pytest.approx(theirs.item())


@pytest.mark.parametrize(("labels", "predicted"), [([0, 0, 2], [0, 2, 2]), ([0, 0, 0], [0, 0, 0]), ([0, 1], [2, 2])])
def test_macro_f1_counts_the_classes_that_occur(labels: list[int], predicted: list[int]) -> None:
    found = classification_metrics(said(predicted, labels))["f1_macro"]
    assert found == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro"))


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_class_and_aligned_for_the_worst_and_textures_for_the_gap_as_fairlearn_has_them(seed: int) -> None:
    predictions = split(seed=seed)
    labels, predicted = predictions.labels.numpy(), predictions.predicted.numpy()

    def frame(groups: np.ndarray) -> MetricFrame:
        return MetricFrame(
            metrics=sklearn_metrics.accuracy_score, y_true=labels, y_pred=predicted, sensitive_features=groups
        )

    found = classification_metrics(predictions)
    groups = np.stack([labels, predictions.aligned.numpy()], axis=1)
    assert found["worst_group_accuracy"] == pytest.approx(frame(groups).group_min())
    assert found["delta_fair_accuracy"] == pytest.approx(frame(predictions.textures.numpy()).difference())


@pytest.mark.parametrize("seed", range(3))
def test_the_selection_gap_is_the_largest_demographic_parity_difference_of_a_class(seed: int) -> None:
    predictions = split(seed=seed)
    predicted, textures = predictions.predicted.numpy(), predictions.textures.numpy()
    by_class = [
        demographic_parity_difference(
            y_true=np.zeros(500, int), y_pred=(predicted == k).astype(int), sensitive_features=textures
        )
        for k in range(10)
    ]
    assert classification_metrics(predictions)["delta_fair_selection"] == pytest.approx(max(by_class))


def test_the_selection_gap_is_zero_at_parity_and_one_for_a_classifier_that_reads_the_texture() -> None:
    labels, textures = [0, 1, 2] * 4, [4] * 6 + [7] * 6
    right = classification_metrics(said(labels, labels, textures))
    assert right["delta_fair_selection"] == right["delta_fair_accuracy"] == 0
    fooled = classification_metrics(said([0] * 6 + [1] * 6, labels, textures))
    assert fooled["delta_fair_selection"] == 1 and fooled["delta_fair_accuracy"] == 0


def test_groups_without_samples_do_not_count() -> None:
    found = classification_metrics(said([0, 0, 1, 0], [0, 0, 1, 1], [4, 4, 9, 9]))
    assert found["worst_group_accuracy"] == 0.5 and found["delta_fair_accuracy"] == 0.5
    assert found["delta_fair_selection"] == 0.5


def test_calibration_error_is_the_written_out_sum_over_fifteen_bins() -> None:
    predictions = split()
    probabilities, labels = predictions.probabilities, predictions.labels
    expected = 0.0
    for b in range(15):
        rows = [i for i, p in enumerate(probabilities.amax(1).tolist()) if b / 15 < p <= (b + 1) / 15]
        if rows:
            hit = np.mean([int(probabilities[i].argmax()) == int(labels[i]) for i in rows])
            expected += len(rows) / 500 * abs(hit - np.mean([float(probabilities[i].max()) for i in rows]))
    found = classification_metrics(predictions)["ece"]
    assert found == pytest.approx(expected)
    assert found == pytest.approx(multiclass_calibration_error(probabilities, labels, 10, n_bins=15).item(), abs=1e-6)


def test_a_confidence_on_the_edge_belongs_to_the_bin_below() -> None:
    edge = torch.linspace(0, 1, 16, dtype=torch.float64)[9].item()
    confidence = torch.tensor([edge, 0.62], dtype=torch.float64)
    labels = torch.tensor([0, 1])  # right, wrong
    found = classification_metrics(
        Predictions(torch.stack([confidence, 1 - confidence], 1), labels, labels, labels == 0)
    )
    assert found["ece"] == pytest.approx((0.4 + 0.62) / 2)


def test_calibration_error_of_certain_predictions_is_the_error_rate() -> None:
    found = classification_metrics(said([0, 1, 1, 1], [0, 1, 2, 0]))
    assert found["ece"] == pytest.approx(0.5) and found["accuracy"] == 0.5


def test_values_are_plain_floats_in_zero_one_under_their_names() -> None:
    found = classification_metrics(split())
    assert list(found) == NAMES
    assert all(type(value) is float and 0 <= value <= 1 for value in found.values())
    assert all(METRICS[name].reference and METRICS[name].kind == "classification" for name in found)
    assert METRICS["accuracy"].higher_is_better and not METRICS["delta_fair_selection"].higher_is_better


def test_flip_rate_counts_pairs_with_two_answers() -> None:
    assert pair_metrics(said([1, 1, 2, 3, 4, 4, 0, 9], [0] * 8, classes=10)) == {"flip_rate": 0.5}
    with pytest.raises(ValueError, match="pairs of predictions"):
        pair_metrics(said([1, 2, 0], [0] * 3))


@pytest.mark.parametrize("seed", range(3))
def test_nmi_of_predicted_and_true_labels_is_that_of_scikit_learn(seed: int) -> None:
    predictions = split(seed=seed)
    expected = sklearn_metrics.normalized_mutual_info_score(predictions.labels, predictions.predicted)
    assert classification_metrics(predictions)["nmi_pred"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [([3, 3, 3], [3, 3, 3]), ([0, 0, 0], [0, 1, 2]), ([0, 1, 2], [5, 4, 9]), ([0, 0, 1, 1], [0, 1, 0, 1]), ([2], [7])],
)
def test_nmi_of_degenerate_labels_is_that_of_scikit_learn(first: list[int], second: list[int]) -> None:
    expected = sklearn_metrics.normalized_mutual_info_score(first, second)
    assert label_nmi(torch.tensor(first), torch.tensor(second)) == pytest.approx(expected, abs=1e-12)


def test_wrong_input_is_named() -> None:
    good = split(8)
    columns = good.probabilities, good.labels, good.textures, good.aligned
    with pytest.raises(ValueError, match=r"textures must have shape \[8\], got \[7\]"):
        Predictions(columns[0], columns[1], columns[2][:7], columns[3])
    with pytest.raises(ValueError, match="N > 0"):
        Predictions(*(column[:0] for column in columns))
    with pytest.raises(ValueError, match="equally long"):
        label_nmi(good.labels, good.labels[:3])


def test_a_split_of_one_sample_has_numbers_for_everything() -> None:
    found = classification_metrics(split(1))
    assert not any(math.isnan(value) for value in found.values())


def test_a_new_metric_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genxai.metrics.registry.METRICS", dict(METRICS))

    @metric("confidence", "classification", reference="a test")
    def confidence(predictions: Predictions) -> Tensor:
        return predictions.probabilities.amax(1).mean()

    assert classification_metrics(said([0, 1], [0, 0]))["confidence"] == 1
