"""Integrated gradients of a text, through captum: a second opinion on `token_attribution`, for evaluations alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from genxai import optional
from genxai.explain.text import margin

if TYPE_CHECKING:
    from genxai.models import FusionClassifier

#: points of the path from the baseline to the text, by Gauss and Legendre's rule
STEPS = 32


class Integrated(NamedTuple):
    """attribution float [B, L], signed, in the score's units; score and baseline float [B]: of text and of baseline."""

    attribution: Tensor
    score: Tensor
    baseline: Tensor


def require_captum() -> None:
    """Raises UsageError where captum is not installed."""
    optional.require("captum", "the attribution of toxic text", "use images (data.dataset=mnist)")


def integrated_gradients(
    classifier: FusionClassifier,
    tokens: Tensor,
    token_mask: Tensor,
    classes: Tensor,
    pad_id: int,
    *,
    steps: int = STEPS,
) -> Integrated:
    """LayerIntegratedGradients (Sundararajan et al. 2017) of each class's margin, at the token embeddings.

    tokens int64 [B, L], token_mask bool [B, L], classes int64 [B]. The baseline is the same text with every token but
    the first and the last replaced by padding that is not masked; `steps` points lie between. To be called in eval
    mode; leaves no gradients.
    """
    require_captum()
    method = importlib.import_module("captum.attr").LayerIntegratedGradients
    place = torch.arange(tokens.shape[1], device=tokens.device)
    last = token_mask.sum(dim=1, keepdim=True) - 1
    empty = torch.where(token_mask & (place > 0) & (place < last), pad_id, tokens)

    def score(ids: Tensor, mask: Tensor, chosen: Tensor) -> Tensor:
        logits = classifier(torch.zeros(len(ids), 1, 0, 0, device=ids.device), ids, mask).logits
        return margin(logits, chosen)

    with torch.enable_grad():
        found = method(score, classifier.text_encoder.embedding_layer).attribute(
            tokens,
            empty,
            additional_forward_args=(token_mask, classes),
            n_steps=steps,
            internal_batch_size=max(128, len(tokens)),
        )
    with torch.no_grad():
        ends = (score(ids, token_mask, classes) for ids in (tokens, empty))
        return Integrated(found.detach().sum(dim=2), *ends)
