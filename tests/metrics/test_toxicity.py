"""The audit by identity against scikit-learn on subsets, and against loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from genxai.metrics.classification import Predictions
from genxai.metrics.registry import METRICS
from genxai.metrics.toxicity import (
    PER_IDENTITY,
    Audited,
    audit_metrics,
    auroc,
    completeness_gap,
    identity_metrics,
    power_mean,
    text_metrics,
)


def audited(size: int = 400, identities: int = 4, seed: int = 0) -> Audited:
    """Scores with ties that lean on the first identity."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (size,), generator=generator)
    groups = torch.rand(size, identities, generator=generator) < 0.3
    scores = torch.rand(size, generator=generator) + 0.4 * labels + 0.5 * groups[:, 0]
    return Audited((scores / 2).mul(20).round() / 20, labels, groups)


def test_auroc_is_that_of_scikit_learn_ties_included() -> None:
    data = audited()
    assert auroc(data.scores, data.labels) == pytest.approx(roc_auc_score(data.labels, data.scores), abs=1e-12)
    assert auroc(torch.ones(4), torch.tensor([0, 1, 0, 1])) == 0.5
    assert math.isnan(auroc(torch.ones(2), torch.ones(2)))


@pytest.mark.parametrize("seed", range(3))
def test_each_auc_is_scikit_learns_on_its_subset(seed: int) -> None:
    data = audited(seed=seed)
    scores, labels = data.scores.numpy(), data.labels.numpy() == 1
    for place, group in enumerate(data.identities.T.numpy()):
        subsets = {
            "subgroup_auc": group,
            "bpsn_auc": (~group & labels) | (group & ~labels),
            "bnsp_auc": (~group & ~labels) | (group & labels),
        }
        for name, subset in subsets.items():
            expected = roc_auc_score(labels[subset], scores[subset])
            assert data.per_identity[name][place] == pytest.approx(expected, abs=1e-12)


def test_error_rates_and_their_gaps_are_the_counted_ones() -> None:
    data, found = audited(), audit_metrics(audited())
    said, true = data.scores.numpy() > 0.5, data.labels.numpy() == 1
    groups = data.identities.T.numpy()
    positive = [np.mean(said[group & ~true]) for group in groups]
    negative = [np.mean(~said[group & true]) for group in groups]
    assert data.per_identity["false_positive_rate"] == pytest.approx(positive)
    assert data.per_identity["false_negative_rate"] == pytest.approx(negative)
    assert found["false_positive_gap"] == pytest.approx(max(positive) - min(positive))
    assert found["false_negative_gap"] == pytest.approx(max(negative) - min(negative))
    assert found["false_positive_difference"] == pytest.approx(np.mean(np.abs(positive - np.mean(said[~true]))))
    assert found["false_negative_difference"] == pytest.approx(np.mean(np.abs(negative - np.mean(~said[true]))))


def test_sums_over_identities_are_the_least_and_the_generalised_mean_and_the_bias_score_has_four_parts() -> None:
    data, found, parts = audited(), audit_metrics(audited()), []
    for name in ("subgroup_auc", "bpsn_auc", "bnsp_auc"):
        values = np.array(data.per_identity[name])
        assert found[f"{name}_min"] == pytest.approx(values.min())
        assert found[f"{name}_mean"] == pytest.approx(np.mean(values**-5.0) ** (-1 / 5))
        parts.append(found[f"{name}_mean"])
    overall = roc_auc_score(data.labels, data.scores)
    assert found["bias_score"] == pytest.approx((overall + sum(parts)) / 4)


def test_a_classifier_that_leans_on_an_identity_is_found_out_where_it_should_be() -> None:
    labels = torch.tensor([0, 1] * 50)
    groups = (torch.arange(100) < 40)[:, None]
    fair = Audited(0.25 + 0.5 * labels, labels, groups)
    leaning = Audited(0.25 + 0.25 * labels + 0.3 * groups[:, 0], labels, groups)
    assert set(audit_metrics(fair).values()) <= {0.0, 1.0} and audit_metrics(fair)["bias_score"] == 1.0
    assert leaning.per_identity["subgroup_auc"] == (1.0,) and leaning.per_identity["bpsn_auc"] == (0.0,)
    found = audit_metrics(leaning)
    assert found["bpsn_auc_mean"] == 0.0 and found["false_positive_difference"] == pytest.approx(0.6)


def test_the_generalised_mean_goes_towards_the_worst() -> None:
    values = torch.tensor([0.5, 1.0])
    assert power_mean(values, 1.0) == 0.75
    assert 0.5 < power_mean(values) < 0.6 and power_mean(torch.tensor([0.0, 1.0])) == 0.0
    assert math.isnan(power_mean(values[:0]))


def test_an_identity_that_a_number_is_not_defined_for_is_left_out_of_the_sums() -> None:
    data = audited(identities=2)
    labels, scores = data.labels, data.scores
    missing = torch.cat([data.identities, torch.zeros(400, 1, dtype=torch.bool)], dim=1)
    values = Audited(scores, labels, missing)
    assert math.isnan(values.per_identity["subgroup_auc"][2])
    assert audit_metrics(values) == pytest.approx(audit_metrics(data))
    nobody = audit_metrics(Audited(scores, labels, missing[:, 2:]))
    assert all(math.isnan(nobody[name]) for name in ("subgroup_auc_min", "bias_score", "false_positive_gap"))


def test_every_identity_has_each_number_under_a_plain_name() -> None:
    found = identity_metrics(audited(identities=2), ("african american", "sikh"))
    assert list(found) == [f"{name}/{term}" for name in PER_IDENTITY for term in ("african_american", "sikh")]


def predictions(scores: Tensor, labels: Tensor) -> Predictions:
    return Predictions(torch.stack([1 - scores, scores], dim=1), labels, torch.zeros_like(labels), labels == 0)


def test_f1_is_scikit_learns_of_the_toxic_class() -> None:
    data = audited()
    found = text_metrics(predictions(data.scores, data.labels))
    assert list(found) == ["f1", "auroc"]
    assert found["f1"] == pytest.approx(f1_score(data.labels, data.scores > 0.5))
    assert found["auroc"] == pytest.approx(roc_auc_score(data.labels, data.scores))
    nothing = torch.zeros(3, dtype=torch.long)
    assert text_metrics(predictions(torch.zeros(3), nothing))["f1"] == 0.0


def test_every_number_is_registered_with_its_reference() -> None:
    for name in (
        *audit_metrics(audited()),
        "f1",
        "auroc",
        "identity_share",
        "ig_identity_share",
        "ig_completeness_gap",
    ):
        assert METRICS[name].reference


def test_completeness_is_missed_by_the_share_that_the_sums_miss() -> None:
    attribution, difference = torch.tensor([[1.0, 1.0], [-3.0, 1.0]]), torch.tensor([2.5, -2.0])
    assert completeness_gap(attribution, difference) == pytest.approx(0.5 / 4.5)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"needs scores \[N\].*\[\[0\], \[0\], \[0, 2\]\]"):
        Audited(torch.zeros(0), torch.zeros(0), torch.zeros(0, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="identities"):
        Audited(torch.zeros(2), torch.zeros(2), torch.zeros(3, 2, dtype=torch.bool))
