"""Bootstrap intervals: coverage of known distributions, the metrics' own values, what is resampled together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from genxai.metrics import (
    METRICS,
    Predictions,
    bootstrap_intervals,
    classification_metrics,
    mean_intervals,
    metric,
    prediction_intervals,
)
from genxai.metrics.classification import OfSums
from genxai.metrics.intervals import Resampled


def predictions(size: int = 400, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (size,), generator=generator)
    logits = torch.randn(size, 5, generator=generator)
    logits[torch.arange(size), labels] += 1.0
    textures = torch.randint(0, 5, (size,), generator=generator)
    return Predictions(logits.softmax(1), labels, textures, textures == labels)


def taken(given: Predictions, rows: Tensor) -> Predictions:
    return Predictions(*(column[rows] for column in vars(given).values()))


def test_the_interval_of_a_mean_is_the_normal_one_where_that_holds() -> None:
    values = torch.randn(2000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (low, high) = mean_intervals({"x": values}, seed=0)["x"]
    half = 1.96 * values.std(correction=0).item() / 2000**0.5
    assert (low, high) == pytest.approx((values.mean().item() - half, values.mean().item() + half), abs=0.15 * half)


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "worst_group_accuracy"])
def test_the_interval_is_that_of_the_metric_itself_on_resampled_samples(name: str) -> None:
    given = predictions()
    draws = np.random.default_rng(0).integers(0, 400, (1000, 400))
    values = [METRICS[name].function(taken(given, torch.from_numpy(rows))) for rows in draws]
    low, high = prediction_intervals(given, "classification", seed=0)[name]
    width = high - low
    # two bootstraps with different draws: edges of 1,000 resamples wobble by about a twentieth of the width
    assert (low, high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.15 * width)
    assert 0 < width < 0.4 and low < classification_metrics(given)[name] < high


def test_accuracy_f1_worst_group_and_flip_rate_have_an_interval() -> None:
    assert {"accuracy", "f1_macro", "worst_group_accuracy"} <= set(
        prediction_intervals(predictions(), "classification", 0)
    )
    assert set(prediction_intervals(predictions(), "pairs", 0)) == {"flip_rate"}


def test_both_samples_of_a_pair_are_resampled_together() -> None:
    # all pairs flip: apart, half of the resampled pairs would agree
    probabilities = torch.eye(2).repeat(50, 1)
    column = torch.zeros(100, dtype=torch.long)
    flipping = Predictions(probabilities, column, column, column == 0)
    assert prediction_intervals(flipping, "pairs", 0)["flip_rate"] == (1.0, 1.0)


def test_numbers_of_one_call_share_their_resamples_and_so_do_two_calls() -> None:
    values = torch.rand(50, dtype=torch.float64)
    found = mean_intervals({"x": values, "y": 2 * values + 1}, seed=5)
    assert found["y"] == pytest.approx(tuple(2 * edge + 1 for edge in found["x"]))
    assert mean_intervals({"x": values}, seed=5)["x"] == pytest.approx(found["x"])
    assert mean_intervals({"x": values}, seed=6)["x"] != pytest.approx(found["x"], rel=1e-6)


def test_counting_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prediction_intervals(predictions(), "classification", 0)
    monkeypatch.setattr("genxai.metrics.intervals.COUNTS", 1000)
    pieces = prediction_intervals(predictions(), "classification", 0)
    assert {name: pytest.approx(interval) for name, interval in pieces.items()} == whole


def test_one_sample_and_a_constant_have_an_interval_without_width() -> None:
    assert mean_intervals({"x": torch.tensor([0.25])}, 0) == {"x": (0.25, 0.25)}


def test_numbers_of_different_samples_are_an_error() -> None:
    rows = [Resampled(torch.ones(n, 1), lambda sums: sums[..., 0]) for n in (3, 4)]
    with pytest.raises(ValueError, match="same units"):
        bootstrap_intervals({"a": rows[0], "b": rows[1]}, 0)
    with pytest.raises(ValueError, match="at least one"):
        mean_intervals({"x": torch.zeros(0)}, 0)


def test_a_new_metric_of_sums_has_an_interval_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genxai.metrics.registry.METRICS", dict(METRICS))
    metric("count", "classification", reference="a test")(
        OfSums(lambda given: torch.ones(len(given.labels), 1), lambda sums: sums[..., 0])
    )
    assert prediction_intervals(predictions(), "classification", 0)["count"] == (400.0, 400.0)
