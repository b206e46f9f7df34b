"""Map metrics against a float64 loop, torchmetrics, scikit-learn and hand-computed cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score, normalized_mutual_info_score
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from genxai.explain import iou_xai, out_of_mask, pointing_game, resize_map
from genxai.metrics import METRICS, localisation_metrics, mask_nmi, metric, ssim


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def masks(count: int, side: int, seed: int = 1) -> Tensor:
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(seed)) < 0.3


def ssim_by_loop(x: np.ndarray, y: np.ndarray, side: int) -> float:
    """Wang et al. 2004: weighted moments under a Gaussian window, at each place it fits."""
    half = (side - 1) / 2
    weights = np.array(
        [[math.exp(-((i - half) ** 2 + (j - half) ** 2) / (2 * 1.5**2)) for j in range(side)] for i in range(side)]
    )
    weights /= weights.sum()
    values = []
    for top in range(x.shape[0] - side + 1):
        for left in range(x.shape[1] - side + 1):
            a, b = (image[top : top + side, left : left + side] for image in (x, y))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
            covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            values.append(luminance * (2 * covariance + 0.03**2) / (var_a + var_b + 0.03**2))
    return float(np.mean(values))


@pytest.mark.parametrize(("size", "side"), [(28, 7), (70, 11)])
def test_ssim_is_the_published_formula_with_a_window_for_the_size(size: int, side: int) -> None:
    x = pictures(2, size)
    y = (0.6 * x + 0.4 * pictures(2, size, 5)).clamp(0, 1)
    expected = [ssim_by_loop(a, b, side) for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    assert ssim(x, y).tolist() == pytest.approx(expected, rel=1e-9)
    assert ssim(x.float(), y.float()).tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("size", [28, 70])
def test_ssim_is_that_of_torchmetrics_with_its_window_of_eleven(size: int) -> None:
    x = pictures(3, size)
    y = (0.6 * x + 0.4 * pictures(3, size, 5)).clamp(0, 1)
    _, theirs = structural_similarity_index_measure(
        x[:, None], y[:, None], data_range=1.0, reduction="none", return_full_image=True
    )
    inside = theirs[:, 0, 5:-5, 5:-5]  # they reflect images at their edges and average over those places too
    torch.testing.assert_close(ssim(x, y, side=11), inside.mean((1, 2)), rtol=1e-6, atol=1e-8)


def test_ssim_of_a_picture_with_itself_is_one_and_with_its_negative_below_zero() -> None:
    x = (pictures(3, 28) > 0.5).double()
    torch.testing.assert_close(ssim(x, x), torch.ones(3, dtype=torch.float64))
    assert (ssim(x, 1 - x) < 0).all()
    torch.testing.assert_close(ssim(x, 1 - x), ssim(1 - x, x))


def test_ssim_names_wrong_shapes() -> None:
    with pytest.raises(ValueError, match="window of 7 px does not fit"):
        ssim(pictures(1, 5), pictures(1, 5))
    with pytest.raises(ValueError, match="two tensors"):
        ssim(pictures(1, 8), pictures(2, 8))


def test_nmi_of_masks_is_that_of_scikit_learn() -> None:
    first, second = masks(6, 9)[:, 0], masks(6, 9, 2)[:, 0]
    second[0], second[1] = first[0], ~first[1]
    first[2] = False  # one constant
    first[3] = second[3] = True  # both constant
    expected = [normalized_mutual_info_score(a.flatten(), b.flatten()) for a, b in zip(first, second, strict=True)]
    assert mask_nmi(first, second).tolist() == pytest.approx(expected, abs=1e-12)
    assert expected[:4] == pytest.approx([1, 1, 0, 1])


def test_iou_is_scikit_learns_jaccard_score_under_both_rules() -> None:
    maps, truth = pictures(6, 5).float(), masks(6, 10)
    resized, wanted = resize_map(maps, 10).flatten(1), truth[:, 0].flatten(1)
    half = resized >= 0.5 * resized.amax(1, keepdim=True)
    areas = wanted.sum(1)
    ranks = resized.argsort(1, descending=True).argsort(1)
    for rule, binary in (("half_max", half), ("area_matched", ranks < areas[:, None])):
        expected = [jaccard_score(t.numpy(), b.numpy()) for t, b in zip(wanted, binary, strict=True)]
        assert iou_xai(maps, truth, rule=rule).tolist() == pytest.approx(expected, abs=1e-6)


def test_localisation_metrics_are_means_over_samples() -> None:
    maps, truth = pictures(7, 5).float(), masks(7, 10)
    found = localisation_metrics(maps, truth)
    assert list(found) == ["iou_half_max", "iou_area_matched", "relevance_mass", "pointing", "ssim_align", "nmi_align"]
    assert found["iou_half_max"] == pytest.approx(iou_xai(maps, truth).mean().item())
    assert found["iou_area_matched"] == pytest.approx(iou_xai(maps, truth, rule="area_matched").mean().item())
    assert found["relevance_mass"] == pytest.approx(1 - out_of_mask(maps, truth).mean().item())
    assert found["pointing"] == pytest.approx(pointing_game(maps, truth).mean().item())
    resized = resize_map(maps, 10)
    peaks = resized.amax((1, 2), keepdim=True)
    aligned = [
        normalized_mutual_info_score(t.flatten(), m.flatten())
        for t, m in zip(truth[:, 0], resized >= 0.5 * peaks, strict=True)
    ]
    assert found["nmi_align"] == pytest.approx(np.mean(aligned))
    assert found["ssim_align"] == pytest.approx(ssim(resized / peaks, truth[:, 0].float()).mean().item())
    assert all(type(value) is float for value in found.values())


def test_the_mask_as_its_own_map_is_perfect_and_an_empty_map_is_worth_nothing() -> None:
    truth = masks(4, 28)
    perfect = localisation_metrics(truth[:, 0].float() * 7, truth)
    assert perfect == pytest.approx(
        {"iou_half_max": 1, "iou_area_matched": 1, "relevance_mass": 1, "pointing": 1, "ssim_align": 1, "nmi_align": 1}
    )
    empty = localisation_metrics(torch.zeros(4, 14, 14), truth)
    names = ("iou_half_max", "iou_area_matched", "relevance_mass", "pointing", "nmi_align")
    assert [empty[name] for name in names] == [0] * 5
    assert empty["ssim_align"] < 0.1


def test_scoring_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, truth = pictures(7, 5).float(), masks(7, 10)
    whole = localisation_metrics(maps, truth)
    monkeypatch.setattr("genxai.metrics.localisation.CHUNK", 3)
    assert localisation_metrics(maps, truth) == pytest.approx(whole, rel=1e-5)


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one map"):
        localisation_metrics(pictures(0, 5), masks(0, 10))
    with pytest.raises(ValueError, match="one mask per map, got 2 maps and 3 masks"):
        localisation_metrics(pictures(2, 5), masks(3, 10))


def test_a_new_metric_is_one_function_and_appears_in_every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genxai.metrics.registry.METRICS", dict(METRICS))
    metric("mean_mask", "localisation", reference="a test")(lambda maps, truth: truth.float().mean((1, 2, 3)))
    assert localisation_metrics(pictures(2, 5), masks(2, 10))["mean_mask"] == pytest.approx(
        masks(2, 10).float().mean().item()
    )
    with pytest.raises(ValueError, match="registered already"):
        metric("mean_mask", "localisation", reference="a test")(lambda maps, truth: maps)
