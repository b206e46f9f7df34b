"""Group resampling and GroupDRO: how often groups are drawn, and q and the loss in closed form."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from genxai.data.factors import groups_of
from genxai.fairness.methods.group_dro import GroupDRO
from genxai.fairness.methods.group_resample import GroupResample, equal_groups
from genxai.training.experiment import build


def drawn_groups(experiment, steps: int) -> torch.Tensor:
    indices = [experiment.classifier_batch(step).indices for step in range(steps)]
    groups = groups_of(experiment.train.labels, experiment.train.aligned)
    return torch.bincount(groups[torch.cat(indices)], minlength=20).double()


def test_each_group_that_occurs_is_drawn_equally_often(configured):
    experiment = build(configured("method.name=group_resample", "data.rho=0.9", "train.batch_size=64"))
    counts = drawn_groups(experiment, 100)
    groups = groups_of(experiment.train.labels, experiment.train.aligned)
    occurs = torch.bincount(groups, minlength=20) > 0
    assert 10 < occurs.sum() <= 20
    assert not counts[~occurs].any()
    # chi-squared of a multinomial with equal probabilities: mean df, standard deviation sqrt(2 df)
    expected, freedom = 6400 / occurs.sum(), float(occurs.sum()) - 1
    chi_squared = ((counts[occurs] - expected) ** 2 / expected).sum()
    assert chi_squared < freedom + 4 * (2 * freedom) ** 0.5


def test_groups_without_samples_get_no_weight_at_rho_1(configured):
    experiment = build(configured("method.name=group_resample", "data.rho=1.0"))
    counts = drawn_groups(experiment, 20)
    assert not counts[0::2].any() and counts[1::2].all()


def test_weights_are_the_reciprocal_of_the_size_of_the_group(configured, split, alone):
    data = split([0, 0, 0, 2, 2], [True, True, False, True, True], 3)
    weights = GroupResample(configured("method.name=group_resample"), data, alone).sampling_weights()
    assert weights.tolist() == [0.5, 0.5, 1.0, 0.5, 0.5]
    groups = groups_of(data.labels, data.aligned)
    assert torch.equal(equal_groups(groups, 6), weights)
    mass = torch.zeros(6, dtype=torch.float64).index_add_(0, groups, weights)
    assert mass.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 1.0]


@pytest.fixture
def dro(configured, split, alone):
    """Three of four groups occur: 0 (y=0, conflicting), 1 (y=0, aligned), 3 (y=1, aligned)."""
    config = configured("method.name=group_dro", "method.strength=0.5")
    return lambda peers=alone: GroupDRO(config, split([0, 0, 1, 1], [False, True, True, True], 2), peers)


def sample(labels: list[int], aligned: list[bool]) -> SimpleNamespace:
    return SimpleNamespace(labels=torch.tensor(labels), aligned=torch.tensor(aligned))


def test_after_k_steps_q_is_the_exponential_of_the_summed_group_losses(dro):
    method = dro()
    torch.testing.assert_close(method.q, torch.tensor([1, 1, 0, 1]).double() / 3)
    batch = sample([0, 0, 1, 1, 0], [False, True, True, True, True])
    summed = torch.zeros(4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        logits = torch.randn(5, 2, generator=generator)
        losses = F.cross_entropy(logits, batch.labels, reduction="none").double()
        means = torch.stack([losses[0], losses[[1, 4]].mean(), torch.zeros(()).double(), losses[[2, 3]].mean()])
        loss = method.loss(logits, batch)
        summed += means
        weights = torch.exp(0.5 * summed) * torch.tensor([1, 1, 0, 1])
        torch.testing.assert_close(method.q, weights / weights.sum(), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(loss.double(), (method.q * means).sum(), rtol=1e-6, atol=1e-7)


def test_a_group_that_is_not_in_the_batch_has_loss_zero_and_one_that_never_occurs_keeps_zero(dro):
    method = dro()
    logits = torch.tensor([[2.0, 0.0]], requires_grad=True)
    method.loss(logits, sample([0], [True])).backward()
    raised = torch.exp(0.5 * F.cross_entropy(logits.detach(), torch.tensor([0])).double())
    torch.testing.assert_close(
        method.q, torch.stack([torch.ones(()), raised, torch.zeros(()), torch.ones(())]) / (2 + raised)
    )
    # the gradient is that of q_g l_g with q held
    expected = method.q[1].float() * (logits.detach().softmax(1) - torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(logits.grad, expected)


def test_no_loss_and_no_number_of_steps_overflows(dro):
    method = dro()
    for _ in range(300):
        method.loss(torch.tensor([[-1e4, 1e4]]), sample([0], [False]))
    assert method.q.tolist() == [1.0, 0.0, 0.0, 0.0]


def test_q_and_gradients_of_two_halves_are_those_of_the_whole_batch(dro):
    """Each process sees half of the batch; `total` gives the sums of both, losses are averaged over processes."""
    logits = torch.randn(6, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels, aligned = torch.tensor([0, 0, 1, 1, 0, 0]), torch.tensor([False, True, True, True, True, False])
    whole = dro()
    one = logits.clone().requires_grad_()
    whole.loss(one, sample(labels.tolist(), aligned.tolist())).backward()
    sums = []

    class Half:
        count = 2

        def total(self, values):
            sums.append(values)
            return self.of_both if hasattr(self, "of_both") else values

    halves = [slice(0, None, 2), slice(1, None, 2)]
    for half in halves:  # the first round finds the sums
        dro(Half()).loss(logits[half], sample(labels[half].tolist(), aligned[half].tolist()))
    peers = Half()
    peers.of_both = sums[0] + sums[1]
    gradient = torch.zeros_like(logits)
    for half in halves:
        method, own = dro(peers), logits[half].clone().requires_grad_()
        method.loss(own, sample(labels[half].tolist(), aligned[half].tolist())).backward()
        gradient[half] = own.grad / 2
        torch.testing.assert_close(method.q, whole.q, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient, one.grad, rtol=1e-12, atol=1e-15)


def test_the_step_size_moves_q_towards_the_worst_group_in_training(configured):
    slow, fast = (build(configured("method.name=group_dro", f"method.strength={eta}")) for eta in (0.0, 1.0))
    sample_ = slow.classifier_batch(0)
    logits = torch.randn(len(sample_.labels), 10)
    for experiment in (slow, fast):
        experiment.method.loss(logits, sample_)
    groups = groups_of(sample_.labels, sample_.aligned)
    losses = F.cross_entropy(logits, sample_.labels, reduction="none")
    means = {int(g): float(losses[groups == g].mean()) for g in groups.unique()}
    assert int(fast.method.q.argmax()) == max(means, key=means.__getitem__)
    torch.testing.assert_close(
        slow.method.q[slow.method.q > 0], slow.method.q.max().expand(int((slow.method.q > 0).sum()))
    )
