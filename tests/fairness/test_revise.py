"""Reveal-to-Revise: the mask of generated images, the score, the correction and the ledger."""

from __future__ import annotations

import json

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from genxai.fairness import Ledger, correction, estimated_mask, flags, in_order, reveal_score


def test_the_estimated_mask_is_what_is_brighter_than_the_texture_can_be_and_what_that_surrounds() -> None:
    image = torch.zeros(1, 1, 5, 6)
    image[0, 0, 1:4, 1] = image[0, 0, 1:4, 3] = 0.9  # two strokes and the soft pixels between them
    image[0, 0, :, 5] = 0.5  # as bright as texture can be: not brighter
    rows = ["......", ".#.#..", ".###..", ".#.#..", "......"]
    drawn = torch.tensor([[c == "#" for c in row] for row in rows])
    # (1, 2) and (3, 2) have four bright neighbours as well
    drawn[1, 2] = drawn[3, 2] = True
    assert torch.equal(estimated_mask(image, 0.5)[0, 0], drawn)
    assert not estimated_mask(torch.ones(1, 1, 4, 4), 1.0).any()


def test_the_estimated_mask_finds_the_object_of_composed_samples() -> None:
    from genxai.config import Config
    from genxai.data import TexMM
    from genxai.explain import iou_xai

    config = Config.model_validate({"data": {"source": "embedded", "rho": 0.1}})
    sample = TexMM(config, "train").batch(range(500))
    found = estimated_mask(sample.images, config.data.amplitude)
    assert iou_xai(found[:, 0].float(), sample.masks).mean() > 0.8


def test_the_estimated_mask_carries_no_gradient() -> None:
    assert not estimated_mask(torch.rand(1, 1, 4, 4, requires_grad=True), 0.5).requires_grad


def test_scores_are_shares_of_the_mass() -> None:
    heatmap = torch.tensor([[[3.0, 1.0]], [[0.0, 0.0]]])
    mask = torch.tensor([[[[True, False]]]]).repeat(2, 1, 1, 1)
    evidence = torch.tensor([[[[0.5, 1.0]]]]).repeat(2, 1, 1, 1)
    assert reveal_score(heatmap, mask, None, "out_of_mask").tolist() == [0.25, 0.0]
    assert reveal_score(heatmap, None, evidence, "texture_evidence").tolist() == [0.625, 0.0]


def test_scores_are_differentiable_in_the_map_and_in_the_evidence() -> None:
    heatmap = torch.rand(2, 3, 3, dtype=torch.float64, requires_grad=True)
    evidence = torch.rand(2, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(2, 1, 6, 6) < 0.5
    assert torch.autograd.gradcheck(lambda m: reveal_score(m, mask, None, "out_of_mask"), (heatmap,))
    assert torch.autograd.gradcheck(lambda m, e: reveal_score(m, None, e, "texture_evidence"), (heatmap, evidence))


def test_a_score_without_what_it_needs_is_an_error() -> None:
    heatmap = torch.rand(1, 2, 2)
    with pytest.raises(ValueError, match="needs a mask"):
        reveal_score(heatmap, None, None, "out_of_mask")
    with pytest.raises(ValueError, match="needs an evidence map"):
        reveal_score(heatmap, None, None, "texture_evidence")
    with pytest.raises(ValueError, match="out_of_mask, texture_evidence, got 'luck'"):
        reveal_score(heatmap, None, None, "luck")  # type: ignore[arg-type]


def test_only_flagged_samples_are_corrected() -> None:
    scores = torch.tensor([0.2, 0.4, 0.8, 0.3], requires_grad=True)
    flagged = flags(scores, 0.3)
    loss = correction(scores, flagged)
    loss.backward()
    assert flagged.tolist() == [False, True, True, False]
    assert loss.item() == pytest.approx(0.6)
    assert scores.grad is not None and scores.grad.tolist() == [0.0, 0.5, 0.5, 0.0]


def test_nothing_flagged_gives_zero_loss_and_zero_gradient() -> None:
    scores = torch.tensor([0.1, 0.2], requires_grad=True)
    flagged = flags(scores, 0.3)
    loss = correction(scores, flagged)
    loss.backward()
    assert loss.item() == 0 and not flagged.any()
    assert scores.grad is not None and scores.grad.tolist() == [0.0, 0.0]


def test_a_score_that_is_not_a_number_is_not_hidden() -> None:
    scores = torch.tensor([0.5, torch.nan])
    assert correction(scores, flags(scores, 0.3)).isnan()


def test_shares_of_a_batch_add_up_to_the_whole_batchs_correction() -> None:
    scores = torch.tensor([0.2, 0.4, 0.8, 0.6])
    flagged = flags(scores, 0.3)
    parts = [correction(scores[part], flagged[part], flagged.sum()) for part in (slice(None, 1), slice(1, None))]
    torch.testing.assert_close(torch.stack(parts).sum(), correction(scores, flagged))


def fill(ledger: Ledger) -> None:
    scores, after = torch.tensor([0.7, 0.1, 0.3333333]), torch.tensor([0.25, 0.1, 0.1])
    flagged = torch.tensor([True, False, True])
    samples, labels, positions = torch.tensor([12, 5, 2**40]), torch.tensor([1, 2, 9]), torch.tensor([0, 2, 4])
    ledger.add(3, "real", positions, samples, labels, scores, flagged, "classifier", after)
    zero = torch.tensor([0])
    ledger.add(4, "generated", zero, zero, torch.tensor([7]), scores[:1], flagged[:1], "generator", None)


def test_the_ledger_gives_back_the_flagged_samples_once_and_in_order() -> None:
    ledger = Ledger(0.3)
    fill(ledger)
    assert ledger.drain() == [
        {
            "step": 3, "origin": "real", "position": 0, "sample": 12, "label": 1, "score": 0.7, "tau": 0.3,
            "action": "classifier", "score_after": 0.25,
        },
        {
            "step": 3, "origin": "real", "position": 4, "sample": 2**40, "label": 9, "score": 0.3333333, "tau": 0.3,
            "action": "classifier", "score_after": 0.1,
        },
        {
            "step": 4, "origin": "generated", "position": 0, "sample": 0, "label": 7, "score": 0.7, "tau": 0.3,
            "action": "generator", "score_after": None,
        },
    ]  # fmt: skip
    assert ledger.drain() == []


def test_ledger_scores_are_the_shortest_decimals_of_their_float32() -> None:
    ledger = Ledger(0.3)
    scores = torch.rand(200, generator=torch.Generator().manual_seed(0))
    numbers = torch.arange(200)
    ledger.add(0, "real", numbers, numbers, numbers, scores, scores > -1, "none", scores)
    records = [json.loads(json.dumps(record)) for record in ledger.drain()]
    assert torch.equal(torch.tensor([record["score"] for record in records]), scores)
    assert max(len(str(record["score"])) for record in records) <= 12 + 2


def test_the_ledger_keeps_values_and_not_tensors() -> None:
    ledger, scores = Ledger(0.3), torch.tensor([0.5], requires_grad=True)
    zero = torch.tensor([0])
    ledger.add(0, "real", zero, zero, zero, scores, torch.tensor([True]), "none", None)
    with torch.no_grad():
        scores += 1
    assert ledger.drain()[0]["score"] == 0.5


def test_scoring_and_noting_never_wait_for_the_host() -> None:
    with FakeTensorMode():  # reading a value of a fake tensor raises
        images = torch.rand(3, 1, 8, 8)
        scores = reveal_score(torch.rand(3, 4, 4), estimated_mask(images, 0.5), None, "out_of_mask")
        flagged = flags(scores, 0.3)
        numbers = torch.arange(3)
        Ledger(0.3).add(0, "generated", numbers, numbers, numbers, scores, flagged, "none", scores)


def test_records_of_several_processes_come_in_the_order_of_one() -> None:
    def record(step: int, origin: str, position: int) -> dict[str, object]:
        return {"step": step, "origin": origin, "position": position}

    first = [record(0, "real", 0), record(0, "real", 2), record(0, "generated", 0), record(1, "real", 0)]
    second = [record(0, "real", 1), record(0, "generated", 1), record(1, "real", 3)]
    order = [(r["step"], r["origin"], r["position"]) for r in in_order(first + second)]
    assert order == [
        *((0, "real", position) for position in (0, 1, 2)),
        *((0, "generated", position) for position in (0, 1)),
        *((1, "real", position) for position in (0, 3)),
    ]
