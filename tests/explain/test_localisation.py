"""Maps judged against masks, by hand-computed cases and properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from genxai.explain import (
    at_half_max,
    grad_cam_plus_plus,
    iou_xai,
    out_of_mask,
    pointing_game,
    relevance_mass,
    resize_map,
)


def square(*rows: str) -> Tensor:
    """A bool mask [1, H, W] drawn with # and dots."""
    return torch.tensor([[[c == "#" for c in row] for row in rows]])


MASK = square("##..", "##..", "....", "....")
RAMP = torch.arange(16.0, 0.0, -1.0).view(1, 4, 4)  # 16 15 14 13 / 12 11 10 9 / ...


def test_half_max_takes_the_pixels_of_at_least_half_the_maximum() -> None:
    # 16 .. 8 are nine pixels: rows 0 and 1 and one of row 2; the mask has four of them
    assert iou_xai(RAMP, MASK).item() == pytest.approx(4 / 9)


def test_area_matched_takes_as_many_pixels_as_the_mask_has() -> None:
    # the four highest are the first row, two of them in the mask: 2 / (4 + 4 - 2)
    assert iou_xai(RAMP, MASK, rule="area_matched").item() == pytest.approx(2 / 6)


def test_ties_at_the_threshold_share_the_places_that_are_left() -> None:
    heatmap = torch.zeros(1, 4, 4)
    heatmap[0, 0] = torch.tensor([2.0, 1.0, 1.0, 1.0])
    # one place to the 2, three to three 1s: all four of row 0 -> 2 / 6
    assert iou_xai(heatmap, MASK, rule="area_matched").item() == pytest.approx(2 / 6)
    heatmap[0, 0, 3] = 0.0
    # one place is left for 13 zeros, of which two are in the mask: overlap 2 + 2/13
    overlap = 2 + 2 / 13
    assert iou_xai(heatmap, MASK, rule="area_matched").item() == pytest.approx(overlap / (8 - overlap))


def test_a_constant_map_scores_what_chance_would() -> None:
    constant = torch.full((1, 4, 4), 0.3)
    assert iou_xai(constant, MASK).item() == pytest.approx(4 / 16)
    assert iou_xai(constant, MASK, rule="area_matched").item() == pytest.approx(1 / 7)  # overlap 1 of 4 + 4 - 1
    assert pointing_game(constant, MASK).item() == pytest.approx(4 / 16)
    assert out_of_mask(constant, MASK).item() == pytest.approx(12 / 16)


@pytest.mark.parametrize("rule", ["half_max", "area_matched"])
def test_the_mask_itself_scores_one_and_its_complement_zero(rule) -> None:
    masks = torch.rand(20, 1, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.3
    assert (iou_xai(masks[:, 0].float(), masks, rule=rule) == 1).all()
    assert (iou_xai((~masks[:, 0]).float(), masks, rule=rule) == 0).all()


@pytest.mark.parametrize("rule", ["half_max", "area_matched"])
def test_scores_do_not_depend_on_the_order_of_pixels(rule) -> None:
    generator = torch.Generator().manual_seed(0)
    heatmap = torch.randint(0, 4, (50, 6, 6), generator=generator).float()  # many ties
    masks = torch.rand(50, 6, 6, generator=generator) < 0.4
    torch.testing.assert_close(iou_xai(heatmap, masks, rule=rule), iou_xai(heatmap.flip(1), masks.flip(1), rule=rule))
    torch.testing.assert_close(pointing_game(heatmap, masks), pointing_game(heatmap.flip(2), masks.flip(2)))


def test_area_matched_is_a_sort_in_a_loop_where_there_are_no_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    heatmap, masks = torch.rand(30, 7, 7, generator=generator), torch.rand(30, 1, 7, 7, generator=generator) < 0.3
    expected = []
    for values, mask in zip(heatmap, masks[:, 0], strict=True):
        highest = set(values.flatten().argsort(descending=True)[: int(mask.sum())].tolist())
        inside = set(mask.flatten().nonzero()[:, 0].tolist())
        expected.append(len(highest & inside) / len(highest | inside))
    torch.testing.assert_close(iou_xai(heatmap, masks, rule="area_matched"), torch.tensor(expected))


def test_scores_do_not_depend_on_the_scale_of_the_map() -> None:
    for scale in (1e-30, 1e30):
        for score in (iou_xai, out_of_mask, pointing_game):
            torch.testing.assert_close(score(RAMP * scale, MASK), score(RAMP, MASK))


def test_out_of_mask_is_the_share_of_mass_outside() -> None:
    inside = 16 + 15 + 12 + 11
    assert out_of_mask(RAMP, MASK).item() == pytest.approx(1 - inside / 136)


def test_relevance_mass_is_the_rest_and_nothing_for_an_empty_map() -> None:
    maps, masks = torch.cat([RAMP, torch.zeros(1, 4, 4)]), MASK.repeat(2, 1, 1)
    assert relevance_mass(maps, masks).tolist() == pytest.approx([54 / 136, 0])
    assert out_of_mask(maps, masks).tolist() == pytest.approx([82 / 136, 0])


def test_at_half_the_maximum_is_included_and_an_empty_map_has_nothing() -> None:
    assert at_half_max(torch.tensor([[[4.0, 2.0, 1.9]], [[0.0, 0.0, 0.0]]])).tolist() == [
        [[True, True, False]],
        [[False, False, False]],
    ]


def test_out_of_mask_is_differentiable() -> None:
    heatmap = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    assert torch.autograd.gradcheck(lambda maps: out_of_mask(maps, mask), (heatmap,))
    assert torch.autograd.gradgradcheck(lambda maps: out_of_mask(maps, mask), (heatmap,))


@pytest.mark.parametrize("value", [0.0, 1e-45])
def test_an_empty_map_is_zero_everywhere_with_a_zero_gradient(value: float) -> None:
    heatmap = torch.full((1, 2, 2), value, requires_grad=True)
    share = out_of_mask(heatmap, MASK)
    share.sum().backward()
    assert share.item() == 0 and heatmap.grad is not None and heatmap.grad.abs().max() == 0
    zero = torch.zeros(1, 2, 2)
    assert iou_xai(zero, MASK).item() == iou_xai(zero, MASK, rule="area_matched").item() == 0
    assert pointing_game(zero, MASK).item() == 0


def test_an_empty_mask_scores_zero() -> None:
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert iou_xai(RAMP, empty).item() == iou_xai(RAMP, empty, rule="area_matched").item() == 0
    assert out_of_mask(RAMP, empty).item() == 1


def test_pointing_asks_whether_the_highest_pixel_is_inside() -> None:
    maps = torch.cat([RAMP, RAMP.flip(1, 2)])
    assert pointing_game(maps, MASK.repeat(2, 1, 1)).tolist() == [1.0, 0.0]
    two = torch.zeros(1, 4, 4)
    two[0, 0, 0] = two[0, 3, 3] = 1.0
    assert pointing_game(two, MASK).item() == 0.5


def test_maps_are_resized_bilinearly_with_pixel_areas_aligned() -> None:
    heatmap = torch.tensor([[[0.0, 4.0]]])
    torch.testing.assert_close(resize_map(heatmap, (1, 4)), torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]))
    torch.testing.assert_close(resize_map(torch.full((2, 1, 1), 3.0), 5), torch.full((2, 5, 5), 3.0))
    assert iou_xai(torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), MASK).item() == pytest.approx(4 / 4)


def test_masks_may_carry_a_channel() -> None:
    for score in (iou_xai, out_of_mask, pointing_game):
        torch.testing.assert_close(score(RAMP, MASK[:, None]), score(RAMP, MASK))


def test_explaining_and_judging_never_wait_for_the_host() -> None:
    with FakeTensorMode():  # reading a value of a fake tensor raises
        activations = torch.rand(3, 2, 4, 4, requires_grad=True)
        heatmap = grad_cam_plus_plus(activations.square().sum((1, 2, 3)), activations, create_graph=True)
        mask = torch.rand(3, 1, 8, 8) < 0.5
        out_of_mask(heatmap, mask).sum().backward()
        for score in (
            iou_xai(heatmap, mask),
            iou_xai(heatmap, mask, rule="area_matched"),
            pointing_game(heatmap, mask),
        ):
            assert score.shape == (3,)


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="half_max, area_matched, got 'best'"):
        iou_xai(RAMP, MASK, rule="best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mask must be bool"):
        out_of_mask(RAMP, MASK.float())
    with pytest.raises(ValueError, match=r"\[1, 1, H, W\] or \[1, H, W\], got \[2, 4, 4\]"):
        pointing_game(RAMP, MASK.repeat(2, 1, 1))
    with pytest.raises(ValueError, match=r"heatmap must have shape \[B, h, w\]"):
        iou_xai(RAMP[:, None], MASK)
