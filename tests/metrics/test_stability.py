"""Stability of maps: what it is one for, what it falls for, and that shifts are undone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genxai.explain import noisy, shifted
from genxai.metrics import METRICS, mask_nmi, metric, ssim, stability_metrics
from genxai.metrics.stability import Perturbed


def maps(count: int = 5, side: int = 28, seed: int = 0) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_maps_that_do_not_change_are_perfectly_stable_whatever_their_scale() -> None:
    clean = maps()
    moved = shifted(clean[:, None])[:, 0]
    found = stability_metrics(clean, 7 * clean, 3 * moved, (28, 28))
    assert list(found) == ["ssim_stability", "nmi_stability", "ssim_stability_shift"]
    # at the right edge a maximum may have left the picture, and with it the scale of a map
    assert found == pytest.approx(dict.fromkeys(found, 1.0), abs=0.02)
    assert found["ssim_stability"] == pytest.approx(1, abs=1e-9) and found["nmi_stability"] == pytest.approx(1)


def test_a_map_that_stays_where_it_was_while_the_image_moves_is_not_stable() -> None:
    clean = maps()
    found = stability_metrics(clean, clean, clean, (28, 28))
    assert found["ssim_stability"] == pytest.approx(1) and found["ssim_stability_shift"] < 0.2


def test_values_are_ssim_and_nmi_of_the_maps_scaled_to_one_at_the_size_of_the_image() -> None:
    clean, other = maps(side=7), maps(side=7, seed=1)

    def full(low: Tensor) -> Tensor:
        large = torch.nn.functional.interpolate(low[:, None], size=(28, 28), mode="bilinear")[:, 0]
        return large / large.amax((1, 2), keepdim=True)

    found = stability_metrics(clean, other, other, (28, 28))
    a, b = full(clean), full(other)
    assert found["ssim_stability"] == pytest.approx(ssim(a, b).mean().item())
    assert found["nmi_stability"] == pytest.approx(mask_nmi(a >= 0.5, b >= 0.5).mean().item())
    assert found["ssim_stability_shift"] == pytest.approx(ssim(a[..., :-2], b[..., 2:]).mean().item())


def test_stability_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stability_metrics(maps(), maps(seed=1), maps(seed=2), (28, 28))
    monkeypatch.setattr("genxai.metrics.stability.CHUNK", 2)
    assert stability_metrics(maps(), maps(seed=1), maps(seed=2), (28, 28)) == pytest.approx(whole, rel=1e-12)


def test_maps_of_different_shapes_are_an_error() -> None:
    with pytest.raises(ValueError, match="one shape"):
        stability_metrics(maps(5), maps(5), maps(4), (28, 28))
    with pytest.raises(ValueError, match="one shape"):
        stability_metrics(*[maps(0)] * 3, (28, 28))


def test_a_new_stability_metric_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genxai.metrics.registry.METRICS", dict(METRICS))

    @metric("largest_change", "stability", reference="a test")
    def largest_change(found: Perturbed) -> Tensor:
        return (found.clean - found.noisy).abs().amax((1, 2))

    assert stability_metrics(maps(), maps(), maps(), (28, 28))["largest_change"] == 0


def test_noise_is_of_the_given_strength_and_of_the_image_not_of_the_batch() -> None:
    images, counters = torch.full((64, 1, 28, 28), 0.5), torch.arange(64)
    changed = noisy(images, counters, seed=3)
    difference = (changed - images).flatten()
    assert difference.std().item() == pytest.approx(0.05, rel=0.02) and abs(difference.mean().item()) < 1e-3
    assert torch.equal(noisy(images[5:7], counters[5:7], seed=3), changed[5:7])
    assert not torch.equal(noisy(images, counters, seed=4), changed)
    ends = noisy(torch.tensor([0.0, 1.0]).repeat(8).view(1, 1, 4, 4), counters[:1], seed=3)
    assert ends.min() == 0 and ends.max() == 1


def test_a_shifted_image_is_the_image_two_pixels_further_right_with_its_edge_repeated() -> None:
    image = torch.arange(10.0).view(1, 1, 2, 5)
    assert shifted(image).tolist() == [[[[0, 0, 0, 1, 2], [5, 5, 5, 6, 7]]]]
