"""Batches and noise are pure functions of (seed, step): there is no loader position to restore."""

import pytest
import torch

from genxai.training import draws as draws_module
from genxai.training.draws import Draws, running_sum


def draws(seed: int = 0, positions: torch.Tensor | None = None) -> Draws:
    return Draws(seed, 100, 32, torch.arange(32) if positions is None else positions)


def test_a_step_draws_the_same_whatever_was_drawn_before():
    fresh, used = draws(), draws()
    for step in range(9):
        used.classifier_indices(step), used.latents("generator", 4, step), used.critic_indices(step, 2)
    for name in ("classifier_indices", "paired_indices"):
        assert torch.equal(getattr(fresh, name)(9), getattr(used, name)(9))
    assert torch.equal(fresh.latents("generator", 4, 9), used.latents("generator", 4, 9))
    assert torch.equal(fresh.critic_indices(9, 2), used.critic_indices(9, 2))


def test_an_epoch_shows_every_image_to_the_classifier():
    d = draws()
    assert d.steps_per_epoch == 4
    first = torch.cat([d.classifier_indices(step) for step in range(4)])
    second = torch.cat([d.classifier_indices(step) for step in range(4, 8)])
    assert set(first.tolist()) == set(second.tolist()) == set(range(100))
    assert not torch.equal(first, second)


def test_steps_turns_and_seeds_differ():
    one, second = draws().critic_indices(0, 2)
    assert not torch.equal(one, second)
    assert not torch.equal(one, draws().critic_indices(1, 2)[0])
    assert not torch.equal(one, draws(seed=1).critic_indices(0, 2)[0])


def test_a_turn_draws_the_same_however_many_there_are():
    few, many = draws(), draws()
    assert torch.equal(few.critic_indices(3, 1), many.critic_indices(3, 5)[:1])
    assert torch.equal(few.latents("critic", 4, 3, 1), many.latents("critic", 4, 3, 5)[:1])
    assert torch.equal(few.epsilon(3, 1), many.epsilon(3, 5)[:1])


def test_two_processes_draw_the_two_halves_of_the_global_batch():
    whole = draws()
    halves = [draws(positions=torch.arange(16)), draws(positions=torch.arange(16, 32))]
    for take in (lambda d: d.critic_indices(3, 2), lambda d: d.latents("critic", 5, 3, 2), lambda d: d.epsilon(3, 2)):
        assert torch.equal(take(whole), torch.cat([take(half) for half in halves], dim=1))
    for take in (
        lambda d: d.classifier_indices(3),
        lambda d: d.paired_indices(3),
    ):
        assert torch.equal(take(whole), torch.cat([take(half) for half in halves]))


def test_the_generator_step_draws_every_label_twice():
    indices = draws().paired_indices(5)
    assert torch.equal(indices[0::2], indices[1::2])


def test_latents_are_standard_normal_and_epsilon_uniform():
    d = Draws(0, 100, 4000, torch.arange(4000))
    z = d.latents("generator", 8, 0)[0].double()
    assert abs(z.mean()) < 0.02 and abs(z.var() - 1) < 0.03 and abs((z**4).mean() - 3) < 0.2
    assert abs(torch.corrcoef(z.T) - torch.eye(8, dtype=torch.float64)).max() < 0.06
    e = d.epsilon(0, 1)
    assert e.min() >= 0 and e.max() < 1 and abs(e.mean() - 0.5) < 0.02


def test_dropout_is_seeded_per_step():
    d = draws()
    d.seed_everything(4)
    one = torch.rand(3)
    torch.rand(100)
    d.seed_everything(4)
    assert torch.equal(one, torch.rand(3))
    d.seed_everything(5)
    assert not torch.equal(one, torch.rand(3))


def test_weighted_draws_come_as_often_as_their_weights_and_zero_never():
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0, 6.0, 0.0])
    d = Draws(0, 6, 50_000, torch.arange(50_000))
    counts = torch.bincount(d.weighted_indices(0, running_sum(weights)), minlength=6).double()
    assert not counts[weights == 0].any()
    expected = 50_000 * weights / weights.sum()
    kept = weights > 0
    assert ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum() < 2 + 4 * 2


def test_a_weighted_draw_is_a_function_of_step_and_position():
    cumulative = running_sum(torch.rand(100, generator=torch.Generator().manual_seed(0)))
    whole = draws().weighted_indices(3, cumulative)
    assert torch.equal(whole[1::2], draws(positions=torch.arange(1, 32, 2)).weighted_indices(3, cumulative))
    assert not torch.equal(whole, draws().weighted_indices(4, cumulative))
    assert not torch.equal(whole, draws(seed=1).weighted_indices(3, cumulative))


@pytest.mark.parametrize("total", [1.0, 1e-30, 3e7, 1.5, 1.9999999, 1.0000001])
def test_a_share_next_to_one_draws_the_last_sample_that_has_a_weight(monkeypatch, total):
    monkeypatch.setattr(draws_module, "hash_bits", lambda *_: torch.tensor([0, 2**63 - 1]))
    drawn = draws().weighted_indices(0, running_sum(torch.tensor([0.0, total / 3, 2 * total / 3, 0.0])))
    assert drawn.tolist() == [1, 2]


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="one of them positive"):
        running_sum(torch.tensor(weights))
