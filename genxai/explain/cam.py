"""Class activation maps that can sit in a training loop: batched, differentiable, free of side effects.

Grad-CAM (Selvaraju et al. 2017), Grad-CAM++ (Chattopadhyay et al. 2018, Eq. 19; Eqs. 7-8 of the paper) and the
control with positive gradients only (Lerma & Lucas, arXiv:2205.10838).

All three take `score` [B], one scalar per sample, in the graph of `activations` [B, C, h, w], and return a map
[B, h, w], ReLU-ed and not normalised. They use no hooks, run no forward pass and touch neither `.grad`, train/eval
mode, buffers nor random streams; the graph of `score` is kept, so the caller can still call `loss.backward()`.

Conditions
* Samples must not meet between `activations` and `score` (no batch norm in training mode there): one backward pass
  of the summed score gives every sample's own gradient only then.
* The graph must exist, so `score` cannot come from `torch.no_grad()` or `torch.inference_mode()`.
* With `create_graph=False` the map is detached. With `create_graph=True` it is differentiable, which takes a double
  backward through the head: attention there needs the math SDPA backend, and `torch.compile` does not support it.
* Half-precision activations give a float32 map, but their gradients come in half precision and float16 ones can
  underflow: run the explained pass with autocast off.
"""

from __future__ import annotations

import torch
from torch import Tensor

# 2 + S g is at least 2 for non-negative activations; below 1 only negative ones bring it, see grad_cam_plus_plus
SMALLEST_DENOMINATOR = 1.0


def grad_cam(score: Tensor, activations: Tensor, *, create_graph: bool = False) -> Tensor:
    """Grad-CAM: M = ReLU(sum_k w_k A_k) with w_k = mean over positions of dscore/dA_k.

    score [B], activations [B, C, h, w] -> [B, h, w] >= 0, in units of the score's change. Raises ValueError for wrong
    shapes, or a score that does not depend on the activations.
    """
    maps, gradients = _maps_and_gradients(score, activations, create_graph)
    return _weighted(maps, gradients.mean(dim=(2, 3)))


def grad_cam_plus(score: Tensor, activations: Tensor, *, create_graph: bool = False) -> Tensor:
    """The control row of Grad-CAM++: alpha = 1/2 everywhere, so w_k = 1/2 sum over positions of ReLU(dscore/dA_k).

    Arguments, result and errors as `grad_cam`. Report it beside Grad-CAM++: after training the two maps nearly agree.
    """
    maps, gradients = _maps_and_gradients(score, activations, create_graph)
    return _weighted(maps, 0.5 * gradients.relu().sum(dim=(2, 3)))


def grad_cam_plus_plus(score: Tensor, activations: Tensor, *, create_graph: bool = False) -> Tensor:
    """Grad-CAM++, Eqs. 7-8: w_k = sum_ij alpha_ij ReLU(g_ij), alpha = 1 / (2 + S_k g_ij) where g > 0.

    g = dscore/dA and S_k = sum_ab A_k,ab. This is g^2 / (2 g^2 + S g^3), the published weight for exp(score), divided
    through by g^2: no epsilon, so neither the scale of the logits nor that of the activations can drown it. S g, and
    with it the map, does not change when the activations are rescaled and the head undoes it; scaling the logits by
    c -> 0 takes alpha to 1/2 (`grad_cam_plus`), as the formula says, instead of to 0.

    The published derivation assumes A >= 0 (after a ReLU), where alpha lies in (0, 1/2]. Activations with S_k < 0 can
    bring 2 + S g to zero or below, where alpha is infinite or of the wrong sign; the denominator is held at 1, so that
    alpha <= 1 and map and gradients stay finite. The formula is exact wherever S g >= -1.

    Arguments, result and errors as `grad_cam`.
    """
    maps, gradients = _maps_and_gradients(score, activations, create_graph)
    positive = gradients.relu()
    total = maps.sum(dim=(2, 3), keepdim=True)
    alpha = (2.0 + total * positive).clamp_min(SMALLEST_DENOMINATOR).reciprocal()
    return _weighted(maps, (alpha * positive).sum(dim=(2, 3)))


def _weighted(maps: Tensor, weights: Tensor) -> Tensor:
    # not einsum: autocast would run it in half precision
    return (weights[:, :, None, None] * maps).sum(dim=1).relu()


def _maps_and_gradients(score: Tensor, activations: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Activations and dscore/dactivations [B, C, h, w], at least float32."""
    _check(score, activations, create_graph)
    (gradients,) = torch.autograd.grad(
        score,
        activations,
        grad_outputs=torch.ones_like(score),  # the gradient of the sum, also where no_grad would cut a sum off
        create_graph=create_graph,
        retain_graph=True,  # the graph belongs to the caller, who still has a loss to differentiate
        allow_unused=True,
    )
    if gradients is None:
        raise ValueError("the score does not depend on these activations: take both from the same forward pass")
    maps = activations if create_graph else activations.detach()
    precision = torch.promote_types(activations.dtype, torch.float32)
    return maps.to(precision), gradients.to(precision)


def _check(score: Tensor, activations: Tensor, create_graph: bool) -> None:
    if activations.dim() != 4:
        raise ValueError(f"activations must have shape [B, C, h, w], got {list(activations.shape)}")
    if score.shape != activations.shape[:1]:
        raise ValueError(
            f"score must hold one value per sample, shape [{activations.shape[0]}], got {list(score.shape)}"
        )
    for name, tensor in (("score", score), ("activations", activations)):
        if not tensor.requires_grad:
            raise ValueError(f"{name} carries no graph: run the forward pass outside no_grad and inference_mode")
    if create_graph and not torch.is_grad_enabled():
        raise ValueError("create_graph=True needs gradients enabled: call it outside no_grad and inference_mode")
