"""Numbers of a classifier's predictions over a whole split: accuracy, groups, parity, calibration. All in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from genxai.data.factors import groups_of
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

    def __post_init__(self) -> None:
        """Raises ValueError for an empty split or tensors of different lengths."""
        size = self.probabilities.shape[:1]
        if self.probabilities.dim() != 2 or not len(self.probabilities):
            raise ValueError(f"probabilities must have shape [N, K] with N > 0, got {list(self.probabilities.shape)}")
        for name in ("labels", "textures", "aligned"):
            if getattr(self, name).shape != size:
                raise ValueError(f"{name} must have shape {list(size)}, got {list(getattr(self, name).shape)}")

    @property
    def predicted(self) -> Tensor:
        return self.probabilities.argmax(dim=1)

    @property
    def correct(self) -> Tensor:
        return self.predicted == self.labels


@dataclass(frozen=True)
class OfSums:
    """A metric that knows its samples through sums alone: value(sum_i rows_i).

    What it is under a resampling of the samples is then a matrix product away (`intervals`).
    """

    #: a row for each unit that is resampled: [n, s]
    rows: Callable[[Predictions], Tensor]
    #: sums [..., s] in float64 -> [...]
    value: Callable[[Tensor], Tensor]

    def __call__(self, predictions: Predictions) -> float:
        return float(self.value(self.rows(predictions).double().sum(dim=0)))


def of_sums(value: Callable[[Tensor], Tensor]) -> Callable[[Callable[[Predictions], Tensor]], OfSums]:
    """Make a metric of a function that gives the rows."""
    return lambda rows: OfSums(rows, value)


def classification_metrics(predictions: Predictions) -> dict[str, float]:
    """Every registered classification metric by name."""
    return {entry.name: float(entry.function(predictions)) for entry in metrics_of("classification")}


def pair_metrics(predictions: Predictions) -> dict[str, float]:
    """Every registered metric of counterfactual pairs: samples 2 i and 2 i + 1 are one object with two textures."""
    return {entry.name: float(entry.function(predictions)) for entry in metrics_of("pairs")}


def _share(sums: Tensor) -> Tensor:
    """Of sums (hits, size)."""
    return sums[..., 0] / sums[..., 1]


def _counted(hits: Tensor) -> Tensor:
    return torch.stack([hits, torch.ones_like(hits)], dim=1)


@metric("accuracy", "classification", reference="share of samples whose most probable class is the true one")
@of_sums(_share)
def accuracy(predictions: Predictions) -> Tensor:
    return _counted(predictions.correct)


def _mean_f1(sums: Tensor) -> Tensor:
    """Mean over the classes that occur among the labels or predictions of 2 TP / (2 TP + FP + FN)."""
    hits, size = sums.unflatten(-1, (2, -1)).unbind(dim=-2)
    occurs = size > 0
    return (2.0 * hits / torch.where(occurs, size, 1.0)).sum(dim=-1) / occurs.sum(dim=-1)


@metric("f1_macro", "classification", reference="van Rijsbergen 1979; unweighted mean over classes, as scikit-learn")
@of_sums(_mean_f1)
def f1_macro(predictions: Predictions) -> Tensor:
    classes = predictions.probabilities.shape[1]
    said, true = (one_hot(column, classes) for column in (predictions.predicted, predictions.labels))
    return torch.cat([said * true, said + true], dim=1)


def _smallest_share(sums: Tensor) -> Tensor:
    """The smallest of hits / size over groups; groups without samples do not count."""
    hits, size = sums.unflatten(-1, (2, -1)).unbind(dim=-2)
    return torch.where(size > 0, hits / size, torch.inf).amin(dim=-1)


@metric("worst_group_accuracy", "classification", reference="Sagawa et al. 2020; groups (class, aligned or not)")
@of_sums(_smallest_share)
def worst_group_accuracy(predictions: Predictions) -> Tensor:
    members = one_hot(groups_of(predictions.labels, predictions.aligned))
    return torch.cat([members * predictions.correct[:, None], members], dim=1)


@metric(
    "delta_fair_accuracy",
    "classification",
    reference="Delta_fair, Eq. 6, of m(x) = [right]: largest gap between the accuracies on two textures",
    higher_is_better=False,
)
def delta_fair_accuracy(predictions: Predictions) -> float:
    return subgroup_disparity(predictions.correct, predictions.textures)


@metric(
    "delta_fair_selection",
    "classification",
    reference="Delta_fair, Eq. 6, of m(x) = [class k is predicted] (definition 17.3), the largest over k",
    higher_is_better=False,
)
def delta_fair_selection(predictions: Predictions) -> float:
    """max_k max_{a, a'} |P(predicted k | texture a) - P(predicted k | texture a')|, over textures that occur.

    0 is demographic parity. Only where texture and class are independent (test_unbiased) is that fair: where they go
    together, a classifier that is always right has a gap as well.
    """
    classes = predictions.probabilities.shape[1]
    _, texture = predictions.textures.unique(return_inverse=True)
    said = torch.bincount(texture * classes + predictions.predicted, minlength=(int(texture.max()) + 1) * classes)
    table = said.view(-1, classes).double()
    rates = table / table.sum(dim=1, keepdim=True)
    return float((rates.amax(dim=0) - rates.amin(dim=0)).max())


@metric("ece", "classification", reference="Naeini et al. 2015; 15 equal-width bins", higher_is_better=False)
def expected_calibration_error(predictions: Predictions) -> float:
    """sum_b n_b / N |accuracy_b - confidence_b| over bins (l, u] of the largest probability."""
    confidence = predictions.probabilities.amax(dim=1).double()
    edges = torch.linspace(0, 1, ECE_BINS + 1, dtype=torch.float64, device=confidence.device)
    bins = torch.bucketize(confidence, edges[1:-1])
    # n_b cancels: |sum of hits - sum of confidences| per bin
    surplus = torch.bincount(bins, weights=predictions.correct.double() - confidence, minlength=ECE_BINS)
    return float(surplus.abs().sum() / len(confidence))


@metric("nmi_pred", "classification", reference="2 I / (H + H) of predicted and true class, as scikit-learn")
def nmi_pred(predictions: Predictions) -> float:
    return label_nmi(predictions.predicted, predictions.labels)


@metric("flip_rate", "pairs", reference="Kusner et al. 2017, counterfactual textures", higher_is_better=False)
@of_sums(_share)
def flip_rate(predictions: Predictions) -> Tensor:
    """Share of counterfactual pairs (same object, two textures) that are given different classes.

    Raises ValueError for an odd number of predictions.
    """
    predicted = predictions.predicted
    if len(predicted) % 2:
        raise ValueError(f"needs pairs of predictions, shape [2 n], got {list(predicted.shape)}")
    first, second = predicted.unflatten(0, (-1, 2)).unbind(dim=1)
    return _counted(first != second)


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
