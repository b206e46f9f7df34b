"""Attention: spatial selection of feature maps (Eq. 4) and attention between token sequences (Eq. 10).

Everything here can be differentiated twice, as the loss on Grad-CAM++ maps needs.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

FeatureAttentionForm = Literal["residual", "literal", "none"]


class FeatureAttention(nn.Module):
    """Weighs the positions of a feature map F [B, C, H, W] by alpha = softmax(conv1x1(F)) over all H*W, Eq. 4.

    residual: F (1 + gamma (H W alpha - 1)), gamma learned from 0, so that training starts from the plain map
    literal: alpha F as printed, which also shrinks F by a factor of about 1 / (H W)
    none: F
    """

    def __init__(self, channels: int, form: FeatureAttentionForm) -> None:
        super().__init__()
        self.form = form
        if form != "none":
            # no bias: softmax cancels a constant, so that it would never get a gradient
            self.score = nn.Conv2d(channels, 1, kernel_size=1, bias=False)
        if form == "residual":
            self.gamma = nn.Parameter(torch.zeros(()))

    def weights(self, features: Tensor) -> Tensor:
        """alpha [B, 1, H, W]: positive, sums to 1 over the positions. Not defined for the form 'none'."""
        score = self.score(features)
        return score.flatten(2).softmax(dim=2).view_as(score)

    def forward(self, features: Tensor) -> Tensor:
        if self.form == "none":
            return features
        alpha = self.weights(features)
        if self.form == "literal":
            return alpha * features
        positions = features.shape[2] * features.shape[3]
        return features * (1 + self.gamma * (positions * alpha - 1))


class TokenAttention(nn.Module):
    """Multi-head scaled dot-product attention from one token sequence to another, Eq. 10.

    queries [B, N, D], keys [B, M, D] (also the values), key_mask bool [B, M] (True: may be attended to; None: all
    may) -> [B, N, D]. A row without any visible key attends to nothing: its result is the output bias, never NaN.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        # no biases: softmax cancels that of the keys, and the output's bias absorbs that of the values
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None = None) -> Tensor:
        query, key, value = self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(keys))
        if key_mask is None:
            attended = twice_differentiable_attention(query, key, value)
        else:
            any_key = key_mask.any(dim=1, keepdim=True)
            visible = (key_mask | ~any_key)[:, None, None, :]
            attended = twice_differentiable_attention(query, key, value, visible) * any_key[:, :, None, None]
        return self.out(attended.transpose(1, 2).flatten(2))

    def _split(self, tokens: Tensor) -> Tensor:
        """[B, N, D] -> [B, heads, N, D / heads]"""
        return tokens.unflatten(2, (self.heads, -1)).transpose(1, 2)


def twice_differentiable_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V by plain matrix products, over [B, heads, N, d].

    The fused kernels have no second derivative, which a loss on a map that is itself a gradient asks for.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask)
