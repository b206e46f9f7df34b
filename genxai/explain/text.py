"""Attribution to the tokens of a text that can sit in a training loop: gradient times embedding.

Like `cam`: batched, differentiable, without hooks or forward passes of its own, and under the same conditions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_attribution(score: Tensor, embeddings: Tensor, *, create_graph: bool = False) -> Tensor:
    """Gradient x input per token (Shrikumar et al. 2016; Kindermans et al. 2016): a_l = |sum_d g_ld e_ld|.

    score [B], one scalar per sample, in the graph of embeddings e [B, L, D]; g = dscore/de. Returns [B, L] >= 0 in the
    score's units, at least float32: to first order, what the score would lose if the token's embedding were 0. With
    create_graph it is differentiable, else detached. The graph of `score` is kept. Raises ValueError for wrong shapes,
    or a score that does not depend on the embeddings.
    """
    if embeddings.dim() != 3:
        raise ValueError(f"embeddings must have shape [B, L, D], got {list(embeddings.shape)}")
    if score.shape != embeddings.shape[:1]:
        raise ValueError(f"score must hold one value per sample, shape [{len(embeddings)}], got {list(score.shape)}")
    if not (score.requires_grad and embeddings.requires_grad):
        raise ValueError("score and embeddings must carry a graph: run the forward pass outside no_grad")
    (gradients,) = torch.autograd.grad(
        score,
        embeddings,
        grad_outputs=torch.ones_like(score),
        create_graph=create_graph,
        retain_graph=True,  # the graph belongs to the caller, who still has a loss to differentiate
        allow_unused=True,
    )
    if gradients is None:
        raise ValueError("the score does not depend on these embeddings: take both from the same forward pass")
    precision = torch.promote_types(embeddings.dtype, torch.float32)
    values = embeddings if create_graph else embeddings.detach()
    return (values.to(precision) * gradients.to(precision)).sum(dim=2).abs()


def share_on(attribution: Tensor, chosen: Tensor, token_mask: Tensor) -> Tensor:
    """The share of attribution on chosen tokens, of that on all tokens: [B] in [0, 1].

    attribution [B, L] >= 0; chosen, token_mask bool [B, L]. 0 where nothing is chosen or nothing is attributed;
    differentiable, with zero gradient there. Raises ValueError for wrong shapes or masks that are not bool.
    """
    for name, mask in (("chosen", chosen), ("token_mask", token_mask)):
        if mask.shape != attribution.shape or mask.dtype != torch.bool:
            raise ValueError(f"{name} must be bool {list(attribution.shape)}, got {mask.dtype} {list(mask.shape)}")
    total = (attribution * token_mask).sum(dim=1)
    there = total > 0
    return torch.where(there, (attribution * (chosen & token_mask)).sum(dim=1) / torch.where(there, total, 1.0), 0.0)
