"""What IoU is read beside: chance against enumeration, ceiling and mean mask against the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import gammaln
from torch import Tensor

from genxai.explain import iou_xai, resize_map
from genxai.metrics import METRICS, Explained, baseline_metrics, expected_iou, localisation_metrics, metric

RULES = ["half_max", "area_matched"]


def explained(count: int = 6, side: int = 4, size: int = 8, seed: int = 0) -> Explained:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(count, side, side, generator=generator)
    masks = torch.rand(count, 1, size, size, generator=generator) < 0.3
    return Explained(maps, masks, torch.rand(size, size, generator=generator))


def of_explained(found: Explained) -> dict[str, float]:
    return baseline_metrics(found, localisation_metrics(found.maps, found.masks))


def iou(first: set[int], second: set[int]) -> float:
    return len(first & second) / len(first | second)


def log_choose(n: int, k: np.ndarray | int) -> np.ndarray:
    return gammaln(n + 1) - gammaln(np.add(k, 1)) - gammaln(n - np.asarray(k) + 1)


@pytest.mark.parametrize(("a", "b"), [(0, 3), (1, 1), (2, 5), (3, 3), (4, 4), (7, 2), (9, 4), (9, 9)])
def test_chance_is_the_mean_over_every_placement_of_the_pixels(a: int, b: int) -> None:
    fixed = set(range(a))
    every = [iou(fixed, set(chosen)) for chosen in itertools.combinations(range(9), b)]
    assert expected_iou(9, torch.tensor([a]), torch.tensor([b])).item() == pytest.approx(np.mean(every), abs=1e-12)


@pytest.mark.parametrize("pixels", [784, 224 * 224])
def test_chance_of_a_whole_image_is_the_full_hypergeometric_sum(pixels: int) -> None:
    areas = [(1, 1), (pixels // 7, pixels // 7), (pixels // 2, pixels // 2), (pixels // 3, pixels), (pixels, pixels)]
    expected = []
    for a, b in areas:
        k = np.arange(max(0, a + b - pixels), min(a, b) + 1)
        ways = log_choose(a, k) + log_choose(pixels - a, b - k) - log_choose(pixels, b)
        expected.append(float((np.exp(ways) * k / (a + b - k)).sum()))
    a, b = torch.tensor(areas).unbind(1)
    assert expected_iou(pixels, a, b).tolist() == pytest.approx(expected, rel=1e-8)


def test_two_empty_sets_have_no_overlap() -> None:
    assert expected_iou(9, torch.tensor([0]), torch.tensor([0])).item() == 0


def test_chance_at_half_maximum_is_that_of_maps_whose_pixels_are_permuted() -> None:
    given = explained(2, side=5, size=5)
    generator = torch.Generator().manual_seed(3)
    order = torch.rand(20000, 25, generator=generator).argsort(dim=1)
    found = baseline_metrics(given, {"iou_half_max": 0.0, "iou_area_matched": 0.0})
    for rule in RULES:
        permuted = [
            iou_xai(heat.flatten()[order].view(-1, 5, 5), mask.expand(20000, -1, -1), rule=rule).mean().item()
            for heat, mask in zip(given.maps, given.masks, strict=True)
        ]
        assert found[f"iou_{rule}_chance"] == pytest.approx(np.mean(permuted), abs=4e-3)
    # far from each other: the two rules choose different numbers of pixels
    assert abs(found["iou_half_max_chance"] - found["iou_area_matched_chance"]) > 0.02


def test_a_map_that_chooses_nothing_has_no_chance_at_half_maximum() -> None:
    given = explained()
    found = of_explained(Explained(torch.zeros_like(given.maps), given.masks, given.mean_mask))
    assert found["iou_half_max_chance"] == 0 and found["iou_area_matched_chance"] > 0


@pytest.mark.parametrize("rule", RULES)
def test_the_ceiling_is_the_mask_averaged_over_the_areas_of_the_map(rule) -> None:
    given = explained()
    pooled = torch.tensor(
        [
            [[mask[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].float().mean() for j in range(4)] for i in range(4)]
            for mask in given.masks
        ]
    )
    expected = iou_xai(resize_map(pooled, 8), given.masks, rule=rule).mean().item()
    assert of_explained(given)[f"iou_{rule}_ceiling"] == pytest.approx(expected)


@pytest.mark.parametrize("rule", RULES)
def test_a_map_as_fine_as_the_mask_has_a_ceiling_of_one(rule) -> None:
    assert of_explained(explained(side=8))[f"iou_{rule}_ceiling"] == 1


@pytest.mark.parametrize("rule", RULES)
def test_the_mean_mask_is_scored_as_everybodys_map(rule) -> None:
    given = explained()
    expected = [iou_xai(given.mean_mask[None], mask, rule=rule).item() for mask in given.masks]
    assert of_explained(given)[f"iou_{rule}_mean_mask"] == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("rule", RULES)
def test_the_normalised_value_is_zero_at_chance_and_one_at_the_ceiling(rule) -> None:
    given = explained()
    ideal = torch.nn.functional.avg_pool2d(given.masks.float(), 2)[:, 0]
    assert of_explained(Explained(ideal, given.masks, given.mean_mask))[f"iou_{rule}_normalised"] == pytest.approx(1)
    found = baseline_metrics(given, {"iou_half_max": 0.25, "iou_area_matched": 0.25})
    low, high = found[f"iou_{rule}_chance"], found[f"iou_{rule}_ceiling"]
    assert found[f"iou_{rule}_normalised"] == pytest.approx((0.25 - low) / (high - low))
    at_chance = {f"iou_{name}": found[f"iou_{name}_chance"] for name in RULES}
    assert baseline_metrics(given, at_chance)[f"iou_{rule}_normalised"] == 0


def test_a_map_of_one_position_has_no_room_above_chance_and_no_normalised_value() -> None:
    given = explained(side=1)
    found = of_explained(Explained(given.maps, torch.ones_like(given.masks), given.mean_mask))
    assert found["iou_half_max_ceiling"] == found["iou_half_max_chance"] == 1
    assert math.isnan(found["iou_half_max_normalised"])


def test_every_baseline_is_registered_with_where_it_comes_from() -> None:
    found = of_explained(explained())
    kinds = ("chance", "mean_mask", "ceiling", "normalised")
    assert set(found) == {f"iou_{rule}_{kind}" for rule in RULES for kind in kinds}
    assert all(METRICS[name].reference for name in found)


def test_a_new_baseline_is_one_function_and_is_summarised_with_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genxai.metrics.registry.METRICS", dict(METRICS))

    @metric("area", "baseline", reference="a test")
    def area(given: Explained) -> Tensor:
        return given.masks.float().mean((1, 2, 3))

    metric("twice", "summary", reference="a test")(lambda values: 2 * values["area"])
    given = explained()
    found = of_explained(given)
    assert found["area"] == pytest.approx(given.masks.float().mean().item())
    assert found["twice"] == pytest.approx(2 * found["area"])
