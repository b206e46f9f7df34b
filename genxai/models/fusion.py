"""The classifier: image-only, text-only, early fusion, or cross-modal attention over token sequences (Eq. 10).

Only the branches that a fusion mode uses exist, so that every parameter takes part in every step.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genxai.config import ModelConfig
from genxai.models.attention import TokenAttention
from genxai.models.dropout import SampleDropout
from genxai.models.image_encoders import build_image_encoder, start_of_graph
from genxai.models.text_encoders import EMBEDDING_STD, build_text_encoder


class Prediction(NamedTuple):
    """logits [B, K]; activations [B, C, h, w], the explained image map in the graph of logits (None: text only)."""

    logits: Tensor
    activations: Tensor | None


class FusionClassifier(nn.Module):
    """images [B, 1, H, W] in [0, 1], tokens int64 [B, L], token_mask bool [B, L] -> `Prediction`.

    A row of token_mask without any True is an image whose caption is missing: a learned null token stands for it.
    """

    def __init__(self, model: ModelConfig, num_classes: int, vocab_size: int) -> None:
        super().__init__()
        self.fusion = model.fusion
        features = 0
        if model.fusion != "text":
            self.image_encoder = build_image_encoder(model.image)
            features += self.image_encoder.token_channels
        if model.fusion != "image":
            self.text_encoder = build_text_encoder(model.text, vocab_size)
            features += self.text_encoder.token_channels
        if model.fusion == "cross":
            self.cross = CrossAttentionFusion(
                self.image_encoder.token_channels, self.text_encoder.token_channels, model
            )
            features = 2 * model.dim
        elif model.fusion != "image":
            self.null_token = _null_token(self.text_encoder.token_channels)
        # means over many positions differ little between samples; normalised, they are learned several times faster
        self.head = nn.Sequential(
            nn.LayerNorm(features),
            nn.Linear(features, model.hidden),
            nn.ReLU(),
            SampleDropout(model.dropout),
            nn.Linear(model.hidden, num_classes),
        )

    def forward(
        self,
        images: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
        *,
        float32_above_map: bool = False,
        embeddings: Tensor | None = None,
    ) -> Prediction:
        """float32_above_map: from the explained map to the logits autocast is off, and the map is float32.

        That part is differentiated twice by a loss on maps; below it and in the text encoder half precision does no
        more harm than in any forward pass.
        embeddings: of the tokens, in place of the text encoder's own, to be explained (see `TextEncoder`).
        """
        text = None if self.fusion == "image" else self.text_encoder(tokens, token_mask, embeddings=embeddings)
        activations = None if self.fusion == "text" else self.image_encoder.maps(images)
        with torch.autocast(images.device.type, enabled=False) if float32_above_map else contextlib.nullcontext():
            if float32_above_map:
                text, activations = (None if part is None else part.float() for part in (text, activations))
            if activations is not None:
                activations = start_of_graph(activations)
            return Prediction(self.head(self._joint(activations, text, token_mask)), activations)

    def _joint(self, activations: Tensor | None, text: Tensor | None, token_mask: Tensor) -> Tensor:
        """What the head sees, [B, F], of the map and the text tokens [B, L, D]; a branch that is not there is None."""
        if activations is None:
            assert text is not None
            return self._pooled(text, token_mask)
        image_tokens = self.image_encoder.tokens(activations)
        if text is None:
            return image_tokens.mean(dim=1)
        if self.fusion == "early":
            return torch.cat([image_tokens.mean(dim=1), self._pooled(text, token_mask)], dim=1)
        return self.cross(image_tokens, text, token_mask)

    def _pooled(self, text: Tensor, token_mask: Tensor) -> Tensor:
        """Mean over the tokens of each caption, or the null token: [B, D]."""
        mean = masked_mean(text, token_mask)
        return torch.where(token_mask.any(dim=1, keepdim=True), mean, self.null_token)


class CrossAttentionFusion(nn.Module):
    """image tokens [B, N, C] and text tokens [B, L, D] with their mask to one joint vector [B, 2 dim].

    Eq. 10 with its one visual query and one text key is degenerate: a softmax over one key is 1, so the result would
    not depend on the image. Here all tokens of both sides attend to the other side, and a learned null token beside
    the text gives the image something to attend to when the caption says nothing.
    """

    def __init__(self, image_channels: int, text_channels: int, model: ModelConfig) -> None:
        super().__init__()
        self.project_image = nn.Linear(image_channels, model.dim)
        self.project_text = nn.Linear(text_channels, model.dim)
        self.null_token = _null_token(model.dim)
        self.layers = nn.ModuleList(CrossAttentionLayer(model.dim, model.heads) for _ in range(model.layers))

    def forward(self, image_tokens: Tensor, text_tokens: Tensor, token_mask: Tensor) -> Tensor:
        image, text = self.project_image(image_tokens), self.project_text(text_tokens)
        text = torch.cat([self.null_token.to(text.dtype).expand(len(text), 1, -1), text], dim=1)
        text_mask = nn.functional.pad(token_mask, (1, 0), value=True)
        for layer in self.layers:
            image, text = layer(image, text, text_mask)
        return torch.cat([image.mean(dim=1), masked_mean(text, text_mask)], dim=1)


class CrossAttentionLayer(nn.Module):
    """Both directions of Eq. 10 at once, each a residual on the LayerNorm of both sides.

    The norm comes before the attention (pre-norm), so that what is pooled in the end contains the image tokens
    themselves. No feed-forward network: the equation has none, the MLP head follows, and one of the usual expansion on
    the image tokens would cost more than everything else in the layer.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.image_from_text = TokenAttention(dim, heads)
        self.text_from_image = TokenAttention(dim, heads)
        self.image_norm = nn.LayerNorm(dim)
        self.text_norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Tensor]:
        """image [B, N, D], text [B, M, D] with bool [B, M] -> the same shapes."""
        normed_image, normed_text = self.image_norm(image), self.text_norm(text)
        return (
            image + self.image_from_text(normed_image, normed_text, text_mask),
            text + self.text_from_image(normed_text, normed_image),
        )


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean of tokens [B, L, D] where mask [B, L] is True: [B, D]; 0 for a row that is masked as a whole."""
    kept = tokens.masked_fill(~mask[:, :, None], 0.0)
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp(min=1)


def _null_token(width: int) -> nn.Parameter:
    return nn.Parameter(EMBEDDING_STD * torch.randn(width))
