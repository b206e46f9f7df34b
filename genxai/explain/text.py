"""Attribution to the tokens of a text that can sit in a training loop: gradient times difference from padding.

Like `cam`: batched, differentiable, without hooks or forward passes of its own, and under the same conditions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_attribution(
    score: Tensor, embeddings: Tensor, baseline: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """Gradient x difference from a baseline per token (Shrikumar et al. 2016): a_l = |sum_d g_ld (e_ld - b_d)|.

    score [B], one scalar per sample, in the graph of embeddings e [B, L, D]; g = dscore/de; baseline b [D], None for 0.
    Returns [B, L] >= 0 in the score's units, at least float32: to first order, what the score would lose if the token
    were the baseline. Take the embedding of padding: a BERT normalises its embeddings, so g is orthogonal to e with
    its position, and g e says nothing of the word. With create_graph it is differentiable, else detached. The graph of
    `score` is kept. Raises ValueError for wrong shapes, or a score that does not depend on the embeddings.
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
    if baseline is not None:
        values = values - (baseline if create_graph else baseline.detach())
    return (values.to(precision) * gradients.to(precision)).sum(dim=2).abs()


def margin(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of each sample's class minus that of the other: logits [B, 2], classes int64 [B] -> [B].

    What the probabilities depend on; a single logit can lose its dependence on a word while the other keeps it.
    """
    return (logits[:, 1] - logits[:, 0]) * (2 * classes - 1)


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
