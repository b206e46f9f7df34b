"""RRR: the penalty and its gradients against an explicit computation, and what it is computed with."""

import pytest
import torch

from genxai.fairness.methods.rrr import input_gradient_penalty
from genxai.training.experiment import build


def test_the_penalty_and_its_gradients_are_those_of_the_written_out_network():
    """log p = log softmax(V tanh(U x)): d/dx sum_k log p_k = U^T ((1 - h^2) V^T (1 - K p)), in float64."""
    generator = torch.Generator().manual_seed(0)
    hidden, classes, samples, side = 5, 3, 4, 3
    u = torch.randn(hidden, side * side, generator=generator, dtype=torch.float64)
    v = torch.randn(classes, hidden, generator=generator, dtype=torch.float64)
    images = torch.rand(samples, 1, side, side, generator=generator, dtype=torch.float64)
    masks = torch.rand(samples, 1, side, side, generator=generator) < 0.4

    u1, v1, x = u.clone().requires_grad_(), v.clone().requires_grad_(), images.clone().requires_grad_()
    log_p = (torch.tanh(x.flatten(1) @ u1.T) @ v1.T).log_softmax(1)
    penalty = input_gradient_penalty(log_p, x, masks)
    penalty.backward()

    u2, v2 = u.clone().requires_grad_(), v.clone().requires_grad_()
    h = torch.tanh(images.flatten(1) @ u2.T)
    p = (h @ v2.T).softmax(1)
    slope = ((1 - classes * p) @ v2 * (1 - h**2)) @ u2
    expected = ((slope * ~masks.flatten(1)) ** 2).sum() / samples
    expected.backward()
    torch.testing.assert_close(penalty, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(u1.grad, u2.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(v1.grad, v2.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("fusion", ["image", "early", "cross"])
def test_every_fusion_is_differentiated_twice_and_the_step_adds_the_weighted_penalty(configured, fusion):
    experiment = build(configured("method.name=rrr", "method.strength=3.0", f"model.fusion={fusion}"))
    sample = experiment.classifier_batch(0)
    penalty = experiment.method.penalty(experiment.classifier, sample)
    images = sample.images.clone().requires_grad_()
    log_p = experiment.classifier(images, sample.tokens, sample.token_mask).logits.log_softmax(1)
    torch.testing.assert_close(penalty, 3 * input_gradient_penalty(log_p, images, sample.masks))
    penalty.backward()
    reached = [name for name, p in experiment.classifier.named_parameters() if p.grad is not None and p.grad.any()]
    assert any(name.startswith("image_encoder") for name in reached) and any(
        name.startswith("head") for name in reached
    )


def test_dropout_is_off_and_half_precision_does_not_reach_the_penalty(configured):
    """As the gradient penalty: the value under bf16 is that of float32, bit for bit."""
    plain, half = (
        build(configured("method.name=rrr", "model.dropout=0.5", f"train.precision={precision}"))
        for precision in ("fp32", "bf16")
    )
    sample = plain.classifier_batch(0)
    value = plain.method.penalty(plain.classifier, sample)
    with half.precision.autocast():
        assert torch.equal(half.method.penalty(half.classifier, sample), value)
    assert value.dtype == torch.float32
    assert torch.equal(plain.method.penalty(plain.classifier, sample), value)
    assert plain.classifier.training


def test_gradients_inside_the_mask_cost_nothing():
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    log_p = (images.flatten(1) @ torch.randn(16, 3)).log_softmax(1)
    assert input_gradient_penalty(log_p, images, torch.ones(2, 1, 4, 4, dtype=torch.bool)) == 0
