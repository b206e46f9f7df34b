"""The objectives of the paper that need networks: gradient penalty (Eq. 3) and attribution scores (Eq. 11)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genxai.explain import grad_cam, grad_cam_plus, grad_cam_plus_plus

if TYPE_CHECKING:
    from genxai.models import Prediction

#: the values of `explain.method`
ATTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "grad_cam_plus_plus": grad_cam_plus_plus,
    "grad_cam_plus": grad_cam_plus,
    "grad_cam": grad_cam,
}


def gradient_penalty(
    critic: Callable[[Tensor, Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    labels: Tensor,
    *,
    generator: torch.Generator | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """Eq. 3: E[(||grad D(x_hat, y)||_2 - 1)^2] on x_hat = eps x + (1 - eps) x_tilde (Gulrajani et al. 2017).

    critic: (images [B, ...], labels [B]) -> [B]. real, fake: [B, ...] of equal shape, sharing `labels` [B].
    epsilon: [B] in [0, 1], drawn from `generator` (or torch's global one) when not given.
    Returns a scalar >= 0 in float32 whatever autocast says, since the penalty is a second-order quantity.
    Raises ValueError when real and fake differ in shape.
    """
    if real.shape != fake.shape:
        raise ValueError(f"real and fake must have one shape, got {tuple(real.shape)} and {tuple(fake.shape)}")
    with torch.autocast(real.device.type, enabled=False):
        real, fake = real.float(), fake.float()
        if epsilon is None:
            epsilon = torch.rand(len(real), device=real.device, generator=generator)
        epsilon = epsilon.view(-1, *[1] * (real.ndim - 1))
        mixed = (epsilon * real + (1.0 - epsilon) * fake).detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(mixed, labels).sum(), mixed, create_graph=True)
        return (gradient.flatten(1).norm(2, dim=1) - 1.0).square().mean()


def attribution_map(prediction: Prediction, labels: Tensor, method: str, *, create_graph: bool) -> Tensor:
    """Eqs. 7-8 for the class scores of `labels` [B]: maps [B, h, w] >= 0 in float32.

    The score is the logit, not the probability: a softmax would mix in the other classes' evidence.
    """
    if prediction.activations is None:
        raise ValueError("a text-only classifier has no image map to explain")
    with torch.autocast(labels.device.type, enabled=False):
        score = prediction.logits.float().gather(1, labels[:, None]).squeeze(1)
        return ATTRIBUTIONS[method](score, prediction.activations, create_graph=create_graph)
