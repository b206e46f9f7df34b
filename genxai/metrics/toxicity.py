"""How a toxicity classifier treats comments that name an identity: per-identity AUCs and error rates, and sums of them.

Borkan et al. 2019, "Nuanced metrics for measuring unintended bias"; Dixon et al. 2018, "Measuring and mitigating
unintended bias in text classification". An identity is a subgroup of the comments, all others are its background.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.explain.text import share_on
from genxai.metrics.classification import Predictions
from genxai.metrics.registry import metric, metrics_of

#: the exponent of the generalised mean over identities: the worse a value, the more it counts
POWER = -5.0
TOXIC = 1


def auroc(scores: Tensor, labels: Tensor) -> float:
    """P(score of a toxic comment > score of another one), ties counting half; NaN where one class is missing.

    scores float [N]; labels [N], true or 1 where toxic. The Mann-Whitney statistic, as scikit-learn's roc_auc_score.
    """
    toxic = labels.bool()
    positive, negative = scores[toxic].double(), scores[~toxic].double().sort().values
    if not len(positive) or not len(negative):
        return math.nan
    below, at_most = (torch.searchsorted(negative, positive, right=right) for right in (False, True))
    return float((below + at_most).double().mean() / (2 * len(negative)))


@dataclass(frozen=True)
class Audited:
    """What was said about N comments, and the G identities that they name."""

    scores: Tensor  # float [N]: probability that the comment is toxic
    labels: Tensor  # int64 [N]: 1 is toxic
    identities: Tensor  # bool [N, G]

    def __post_init__(self) -> None:
        """Raises ValueError for no comments or tensors of different lengths."""
        size = self.scores.shape
        if len(size) != 1 or not len(self.scores) or self.labels.shape != size or self.identities.shape[:1] != size:
            shapes = [list(part.shape) for part in (self.scores, self.labels, self.identities)]
            raise ValueError(f"needs scores [N], labels [N], identities [N, G] with N > 0, got {shapes}")

    @functools.cached_property
    def per_identity(self) -> dict[str, tuple[float, ...]]:
        """Each number of `PER_IDENTITY` for every identity; NaN where its comments do not define it."""
        return {
            name: tuple(function(self, subgroup) for subgroup in self.identities.unbind(dim=1))
            for name, function in PER_IDENTITY.items()
        }

    def defined(self, name: str) -> Tensor:
        """The values of `per_identity` that are numbers, float64."""
        values = torch.tensor(self.per_identity[name], dtype=torch.float64)
        return values[~values.isnan()]

    def auroc_of(self, chosen: Tensor) -> float:
        return auroc(self.scores[chosen], self.labels[chosen])

    def error_rate(self, of_toxic: bool, among: Tensor | None = None) -> float:
        """Share of the toxic (or other) comments that are taken for the opposite at probability 1/2."""
        chosen = (self.labels == TOXIC) == of_toxic
        chosen = chosen if among is None else chosen & among
        wrong = (self.scores[chosen] > 0.5) != of_toxic
        return float(wrong.double().mean())


def _bpsn(audited: Audited, subgroup: Tensor) -> float:
    return audited.auroc_of(subgroup ^ (audited.labels == TOXIC))


def _bnsp(audited: Audited, subgroup: Tensor) -> float:
    return audited.auroc_of(subgroup ^ (audited.labels != TOXIC))


#: subgroup_auc: within the subgroup. bpsn_auc: background positive, subgroup negative; low where harmless comments that
#: name the identity are taken for toxic. bnsp_auc: the other way round. And the two error rates within the subgroup
PER_IDENTITY: dict[str, Callable[[Audited, Tensor], float]] = {
    "subgroup_auc": Audited.auroc_of,
    "bpsn_auc": _bpsn,
    "bnsp_auc": _bnsp,
    "false_positive_rate": lambda audited, subgroup: audited.error_rate(False, subgroup),
    "false_negative_rate": lambda audited, subgroup: audited.error_rate(True, subgroup),
}
AUCS = ("subgroup_auc", "bpsn_auc", "bnsp_auc")


def audit_metrics(audited: Audited) -> dict[str, float]:
    """Every registered metric of the kind "audit" by name, NaN where no identity defines it."""
    return {entry.name: float(entry.function(audited)) for entry in metrics_of("audit")}


def identity_metrics(audited: Audited, terms: tuple[str, ...]) -> dict[str, float]:
    """`PER_IDENTITY` as `<name>/<term>`, spaces in terms as underscores."""
    names = [term.replace(" ", "_") for term in terms]
    columns = audited.per_identity.items()
    return {f"{name}/{term}": value for name, values in columns for term, value in zip(names, values, strict=True)}


def text_metrics(predictions: Predictions) -> dict[str, float]:
    """Every registered metric of the kind "text" by name."""
    return {entry.name: float(entry.function(predictions)) for entry in metrics_of("text")}


def power_mean(values: Tensor, power: float = POWER) -> float:
    """Generalised mean (mean of v^p)^(1/p) of values [G] >= 0; 0 as soon as one is 0 under p < 0, NaN of none."""
    return float(values.double().pow(power).mean().pow(1.0 / power)) if len(values) else math.nan


@metric("f1", "text", reference="van Rijsbergen 1979, of the toxic class, as scikit-learn's f1_score")
def f1(predictions: Predictions) -> float:
    """2 TP / (2 TP + FP + FN); 0 where nothing is toxic and nothing is said to be."""
    said, true = predictions.predicted == TOXIC, predictions.labels == TOXIC
    size = int(said.sum() + true.sum())
    return 2 * int((said & true).sum()) / size if size else 0.0


@metric("auroc", "text", reference="area under the ROC curve; Mann-Whitney, as scikit-learn's roc_auc_score")
def prediction_auroc(predictions: Predictions) -> float:
    return auroc(predictions.probabilities[:, TOXIC], predictions.labels)


def _least(values: Tensor) -> float:
    return float(values.min()) if len(values) else math.nan


def _over_identities(name: str, which: str) -> None:
    metric(f"{name}_min", "audit", reference=f"Borkan et al. 2019; {which}, the least over identities")(
        lambda audited: _least(audited.defined(name))
    )
    metric(f"{name}_mean", "audit", reference=f"Borkan et al. 2019; {which}, generalised mean with power -5")(
        lambda audited: power_mean(audited.defined(name))
    )


_over_identities("subgroup_auc", "AUC among the comments that name an identity")
_over_identities("bpsn_auc", "AUC of background positive against subgroup negative")
_over_identities("bnsp_auc", "AUC of background negative against subgroup positive")


@metric("bias_score", "audit", reference="Borkan et al. 2019, as in the Jigsaw challenge: four equal parts")
def bias_score(audited: Audited) -> float:
    """1/4 (AUC + the generalised means of subgroup, BPSN and BNSP AUC over identities); 1 is best."""
    overall = auroc(audited.scores, audited.labels)
    return (overall + sum(power_mean(audited.defined(name)) for name in AUCS)) / (1 + len(AUCS))


def _range(values: Tensor) -> float:
    return float(values.max() - values.min()) if len(values) else math.nan


def _equality_difference(values: Tensor, overall: float) -> float:
    return float((values - overall).abs().mean()) if len(values) else math.nan


@metric(
    "false_positive_gap",
    "audit",
    reference="Delta_fair, Eq. 6, of the false-positive rate over identities",
    higher_is_better=False,
)
def false_positive_gap(audited: Audited) -> float:
    return _range(audited.defined("false_positive_rate"))


@metric(
    "false_negative_gap",
    "audit",
    reference="Delta_fair, Eq. 6, of the false-negative rate over identities",
    higher_is_better=False,
)
def false_negative_gap(audited: Audited) -> float:
    return _range(audited.defined("false_negative_rate"))


@metric(
    "false_positive_difference",
    "audit",
    reference="false positive equality difference, Dixon et al. 2018, divided by the number of identities",
    higher_is_better=False,
)
def false_positive_difference(audited: Audited) -> float:
    """Mean over identities of |FPR of the identity - FPR of all|."""
    return _equality_difference(audited.defined("false_positive_rate"), audited.error_rate(False))


@metric(
    "false_negative_difference",
    "audit",
    reference="false negative equality difference, Dixon et al. 2018, divided by the number of identities",
    higher_is_better=False,
)
def false_negative_difference(audited: Audited) -> float:
    return _equality_difference(audited.defined("false_negative_rate"), audited.error_rate(True))


metric(
    "identity_share",
    "other",
    reference="share of |gradient x (embedding - padding's)| of the margin (Shrikumar et al. 2016) on identity terms",
    higher_is_better=False,
)(share_on)
metric(
    "ig_identity_share",
    "other",
    reference="share of |integrated gradients| (Sundararajan et al. 2017, through captum) on identity terms",
    higher_is_better=False,
)(share_on)


@metric(
    "ig_completeness_gap",
    "other",
    reference="completeness axiom, Sundararajan et al. 2017: what the sum rule of integration misses",
    higher_is_better=False,
)
def completeness_gap(attribution: Tensor, difference: Tensor) -> float:
    """sum_n |sum_l a_nl - (F(x_n) - F(x'_n))| / sum_n |F(x_n) - F(x'_n)|, of attribution [N, L], difference [N]."""
    return float((attribution.sum(dim=1) - difference).abs().sum() / difference.abs().sum())
