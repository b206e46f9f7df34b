"""Numbers of a classifier's predictions over a whole split: accuracy, groups, calibration. All in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.fairness.bias import subgroup_disparity
from genxai.metrics.registry import metric, metrics_of

#: equal-width confidence bins of the calibration error (the paper's)
ECE_BINS = 15


@dataclass(frozen=True)
class Predictions:
    """What a classifier said about N samples, and what is true of them."""

    probabilities: Tensor  # float [N, K], rows sum to 1
    labels: Tensor  # int64 [N]
    textures: Tensor  # int64 [N]
    aligned: Tensor  # bool [N]: the texture is the one that goes with the class

    @property
    def predicted(self) -> Tensor:
        return self.probabilities.argmax(dim=1)

    @property
    def correct(self) -> Tensor:
        return self.predicted == self.labels


def classification_metrics(
    probabilities: Tensor, labels: Tensor, textures: Tensor, aligned: Tensor
) -> dict[str, float]:
    """Every registered classification metric: accuracy, f1_macro, worst_group_accuracy, texture_gap, ece.

    probabilities [N, K]; labels, textures int64 [N]; aligned bool [N]. Raises ValueError for an empty split or tensors
    of different lengths.
    """
    if probabilities.dim() != 2 or not len(probabilities):
        raise ValueError(f"probabilities must have shape [N, K] with N > 0, got {list(probabilities.shape)}")
    for name, tensor in (("labels", labels), ("textures", textures), ("aligned", aligned)):
        if tensor.shape != probabilities.shape[:1]:
            raise ValueError(f"{name} must have shape [{len(probabilities)}], got {list(tensor.shape)}")
    predictions = Predictions(probabilities, labels, textures, aligned)
    return {entry.name: float(entry.function(predictions)) for entry in metrics_of("classification")}


@metric("accuracy", "classification", reference="share of samples whose most probable class is the true one")
def accuracy(predictions: Predictions) -> float:
    return float(predictions.correct.double().mean())


@metric("f1_macro", "classification", reference="van Rijsbergen 1979; unweighted mean over classes, as scikit-learn")
def f1_macro(predictions: Predictions) -> float:
    """Mean over the classes that occur among the labels or predictions of 2 TP / (2 TP + FP + FN)."""
    classes = predictions.probabilities.shape[1]
    said = torch.bincount(predictions.predicted, minlength=classes)
    true = torch.bincount(predictions.labels, minlength=classes)
    hits = torch.bincount(predictions.labels[predictions.correct], minlength=classes)
    size = (said + true).double()
    return float((2.0 * hits / size)[size > 0].mean())


@metric("worst_group_accuracy", "classification", reference="Sagawa et al. 2020; groups (class, aligned)")
def worst_group_accuracy(predictions: Predictions) -> float:
    """The smallest accuracy of a group (class, aligned or not); groups without samples do not count."""
    groups = 2 * predictions.labels + predictions.aligned.long()
    return min(_group_means(predictions.correct, groups).tolist())


@metric(
    "texture_gap",
    "classification",
    reference="Delta_fair, Eq. 6, of the accuracy over textures",
    higher_is_better=False,
)
def texture_gap(predictions: Predictions) -> float:
    """Largest difference between the accuracies on two textures."""
    return subgroup_disparity(predictions.correct, predictions.textures)


@metric("ece", "classification", reference="Naeini et al. 2015; 15 equal-width bins", higher_is_better=False)
def expected_calibration_error(predictions: Predictions) -> float:
    """sum_b n_b / N |accuracy_b - confidence_b| over bins (l, u] of the largest probability."""
    confidence = predictions.probabilities.amax(dim=1).double()
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64, device=confidence.device)
    bins = torch.bucketize(confidence, edges[1:-1])
    # n_b cancels: |sum of hits - sum of confidences| per bin
    surplus = torch.bincount(bins, weights=predictions.correct.double() - confidence, minlength=ECE_BINS)
    return float(surplus.abs().sum() / len(confidence))


@metric("flip_rate", "other", reference="Kusner et al. 2017, counterfactual textures", higher_is_better=False)
def counterfactual_flip_rate(predicted: Tensor) -> float:
    """Share of counterfactual pairs (same object, two textures) that are given different classes.

    predicted int64 [2 n]: entries 2 i and 2 i + 1 are a pair, as in the split test_counterfactual of TexMM. Raises
    ValueError for an odd number of predictions or none.
    """
    if predicted.dim() != 1 or not len(predicted) or len(predicted) % 2:
        raise ValueError(f"needs pairs of predictions, shape [2 n], got {list(predicted.shape)}")
    first, second = predicted.unflatten(0, (-1, 2)).unbind(dim=1)
    return float((first != second).double().mean())


@metric("nmi_pred", "other", reference="2 I(a; b) / (H(a) + H(b)); arithmetic mean, as scikit-learn")
def label_nmi(first: Tensor, second: Tensor) -> float:
    """Normalised mutual information of two label sequences, int64 [N] each; two constant ones give 1."""
    if first.shape != second.shape or first.dim() != 1 or not len(first):
        raise ValueError(f"needs two equally long lists, got shapes {list(first.shape)} and {list(second.shape)}")
    rows, columns = (labels.unique(return_inverse=True)[1] for labels in (first, second))
    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    table = torch.bincount(rows * width + columns, minlength=height * width).view(1, height, width)
    return float(table_nmi(table))


def table_nmi(tables: Tensor) -> Tensor:
    """NMI of contingency tables: counts [N, r, c] -> float64 [N]. Both margins in one cell give 1, one gives 0."""
    joint = tables.double()
    joint = joint / joint.sum(dim=(1, 2), keepdim=True)
    first, second = _entropy(joint.sum(dim=2)), _entropy(joint.sum(dim=1))
    information = (first + second - _entropy(joint.flatten(1))).clamp_min(0.0)
    total = first + second
    return torch.where(total > 0, 2.0 * information / torch.where(total > 0, total, 1.0), 1.0).clamp_max(1.0)


def _entropy(probabilities: Tensor) -> Tensor:
    return torch.special.entr(probabilities).sum(dim=1)


def _group_means(values: Tensor, groups: Tensor) -> Tensor:
    """Mean of the values in each group that occurs."""
    _, index = groups.unique(return_inverse=True)
    return torch.bincount(index, weights=values.double()) / torch.bincount(index)
