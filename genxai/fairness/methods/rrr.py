"""Right for the Right Reasons: input gradients outside the object are penalised."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genxai.fairness.methods.base import Method
from genxai.fairness.methods.registry import method
from genxai.models import evaluating


def input_gradient_penalty(log_probabilities: Tensor, images: Tensor, masks: Tensor) -> Tensor:
    """mean over samples of sum over pixels ((1 - S) d/dx sum_k log p_k)^2, a scalar that can be differentiated.

    log_probabilities [B, K] in the graph of images [B, 1, H, W], which need a gradient; masks bool [B, 1, H, W].
    """
    (gradient,) = torch.autograd.grad(log_probabilities.sum(), images, create_graph=True)
    return (gradient * ~masks).square().flatten(1).sum(dim=1).mean()


@method("rrr")
class RRR(Method):
    """Ross et al. 2017, with the object's mask as the right reason.

    As Grad-CAM++ it looks at the network as it is used, without dropout; all of it is IEEE float32 under any
    `train.precision`, since all of the image branch is differentiated twice.
    """

    needs = frozenset({"masks", "images"})
    strength_is = "weight lambda_1 of the penalty on input gradients"
    default_strength = 1.0

    def penalty(self, classifier: nn.Module, sample: Any) -> Tensor | None:
        images = sample.images.detach().requires_grad_(True)
        with evaluating(classifier), torch.autocast(images.device.type, enabled=False):
            logits = classifier(images, sample.tokens, sample.token_mask).logits
            return self.strength * input_gradient_penalty(logits.log_softmax(dim=1), images, sample.masks)
