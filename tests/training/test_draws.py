"""Batches and noise are pure functions of (seed, step): there is no loader position to restore."""

import torch

from genxai.training.draws import Draws


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
