"""Eq. 3 against closed forms, and the schedule against torch's."""

import math

import pytest
import torch

from genxai.training import gradient_penalty
from genxai.training.optimizers import learning_rate

LABELS = torch.zeros(6, dtype=torch.int64)


def images(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_a_linear_critic_is_penalised_by_its_slope():
    weights = torch.full((16,), 0.75)  # slope 3
    penalty = gradient_penalty(lambda x, y: x.flatten(1) @ weights, images(0), images(1), LABELS)
    assert penalty.item() == pytest.approx((3.0 - 1.0) ** 2, rel=1e-6)


def test_a_quadratic_critic_is_penalised_at_the_mixed_point():
    epsilon = torch.linspace(0, 1, 6)
    real, fake = images(0), images(1)
    mixed = epsilon.view(-1, 1, 1, 1) * real + (1 - epsilon.view(-1, 1, 1, 1)) * fake
    expected = (mixed.flatten(1).norm(dim=1) - 1).square().mean()  # grad of |x|^2 / 2 is x
    found = gradient_penalty(lambda x, y: x.flatten(1).square().sum(1) / 2, real, fake, LABELS, epsilon=epsilon)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_its_gradient_in_the_parameters_is_the_closed_form():
    weights = torch.full((16,), 0.75, requires_grad=True)
    gradient_penalty(lambda x, y: x.flatten(1) @ weights, images(0), images(1), LABELS).backward()
    expected = 2 * (3.0 - 1.0) * weights.detach() / 3.0  # d(|w| - 1)^2 / dw
    torch.testing.assert_close(weights.grad, expected)


def test_each_sample_is_mixed_by_its_own_epsilon_and_the_critic_sees_its_label():
    seen = {}

    def critic(x, y):
        seen["x"], seen["y"] = x.detach(), y
        return x.flatten(1).sum(1)

    labels = torch.arange(6)
    generator = torch.Generator().manual_seed(3)
    gradient_penalty(critic, torch.ones(6, 1, 2, 2), torch.zeros(6, 1, 2, 2), labels, generator=generator)
    assert torch.equal(seen["y"], labels)
    per_sample = seen["x"].flatten(1)
    assert (per_sample == per_sample[:, :1]).all() and len(per_sample[:, 0].unique()) == 6


def test_it_is_computed_in_float32_under_autocast():
    seen = {}

    def critic(x, y):
        out = torch.nn.functional.linear(x.flatten(1), torch.full((1, 16), 0.75)).squeeze(1)
        seen["dtype"] = out.dtype
        return out

    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = gradient_penalty(critic, images(0).bfloat16(), images(1).bfloat16(), LABELS)
    assert seen["dtype"] == penalty.dtype == torch.float32 and penalty.item() == pytest.approx(4.0, rel=1e-6)


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        gradient_penalty(lambda x, y: x.sum(), images(0), images(0)[:, :, :2], LABELS)


def test_cosine_annealing_is_torchs():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        assert learning_rate("cosine", 0.3, step, 40) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_the_other_schedules():
    assert [learning_rate("step", 1.0, s, 8) for s in (0, 3, 4, 5, 6, 7)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert learning_rate("constant", 0.2, 5, 8) == 0.2
    assert math.isclose(learning_rate("cosine", 1.0, 8, 8), 0.0, abs_tol=1e-12)
