"""What explaining adds to a step on comments: the share of attribution on identity terms, in place of R(M)."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from genxai.config import Config
from genxai.explain.placebo import other_tokens
from genxai.explain.text import margin, share_on, token_attribution
from genxai.models import FusionClassifier, evaluating


class Comments(Protocol):
    """Comments to be explained: tokens int64 [B, L], token_mask bool [B, L], labels and ids int64 [B]."""

    @property
    def tokens(self) -> Tensor: ...
    @property
    def token_mask(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor: ...
    @property
    def masks(self) -> Tensor:
        """bool [B, L], true on the tokens of identity terms."""
        ...

    @property
    def ids(self) -> Tensor: ...


def identity_share(
    classifier: FusionClassifier, config: Config, comments: Comments, pad_id: int, *, create_graph: bool
) -> Tensor:
    """R: the share of the attribution of each label's margin that is on identity terms, float32 [B] in [0, 1].

    0 for a comment without one. With `explain.masks=random` on as many random tokens instead, which is the placebo.
    With create_graph differentiable in the parameters.
    """
    terms = comments.masks
    if config.explain.masks == "random":
        terms = other_tokens(terms, comments.token_mask, config.seed, comments.ids)
    attribution = attribute(
        classifier, comments.tokens, comments.token_mask, comments.labels, pad_id, create_graph=create_graph
    )
    return share_on(attribution, terms, comments.token_mask)


def attribute(
    classifier: FusionClassifier, tokens: Tensor, token_mask: Tensor, labels: Tensor, pad_id: int, *, create_graph: bool
) -> Tensor:
    """`token_attribution` of each label's margin, its logit minus the other's, against padding: float32 [B, L].

    The margin and not the logit, from which dependence could move to the other one.

    What is explained is the network as it is used, without dropout, and in float32: it is differentiated twice.
    """
    with evaluating(classifier), torch.autocast(tokens.device.type, enabled=False):
        embeddings = classifier.text_encoder.embedding_layer(tokens)
        if not embeddings.requires_grad:  # of a frozen network
            embeddings.requires_grad_()
        images = torch.zeros(len(tokens), 1, 0, 0, device=tokens.device)
        logits = classifier(images, tokens, token_mask, embeddings=embeddings).logits
        padding = classifier.text_encoder.embedding_layer(tokens.new_full((), pad_id))
        return token_attribution(margin(logits, labels), embeddings, padding, create_graph=create_graph)
