"""The text branch: token ids of a caption or comment to one vector per token.

A small Transformer that needs nothing but this package, or any BERT that transformers can load.
"""

from __future__ import annotations

import abc
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from genxai import optional
from genxai.config import TextEncoderConfig
from genxai.errors import GenxaiError, UsageError
from genxai.models.attention import TokenAttention
from genxai.models.dropout import replace_dropout

EXPANSION = 4  # hidden width of a feed-forward layer over that of its tokens, as in the original Transformer
EMBEDDING_STD = 0.02  # as in BERT: small beside what the layers add


class TextEncoder(nn.Module, abc.ABC):
    """tokens int64 [B, L], token_mask bool [B, L] (True: a token, False: padding) -> [B, L, D].

    A row may be masked as a whole (a missing caption): its output is finite and means nothing. Given `embeddings`
    [B, L, E] of the tokens (`embedding_layer(tokens)`, to be explained), the pass can be differentiated twice.
    """

    token_channels: int
    max_tokens: int

    @property
    @abc.abstractmethod
    def embedding_layer(self) -> nn.Module:
        """Token ids to their embeddings, positions not yet added."""


def build_text_encoder(cfg: TextEncoderConfig, vocab_size: int) -> TextEncoder:
    """The encoder a configuration names; vocab_size is that of the tokenizer that makes its input.

    Raises UsageError for options that do not fit the model, GenxaiError for one that cannot be loaded.
    """
    return SmallTransformer(cfg, vocab_size) if cfg.name == "small" else PretrainedBert(cfg, vocab_size)


class TransformerLayer(nn.Module):
    """Pre-norm self-attention and feed-forward layer over [B, L, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = TokenAttention(width, heads)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, EXPANSION * width), nn.GELU(), nn.Linear(EXPANSION * width, width)
        )

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        normed = self.attention_norm(tokens)
        tokens = tokens + self.attention(normed, normed, token_mask)
        return tokens + self.feed_forward(tokens)


class SmallTransformer(TextEncoder):
    """Learned token and position embeddings and a few pre-norm Transformer layers, trained from scratch."""

    def __init__(self, cfg: TextEncoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.token_channels, self.max_tokens = cfg.width, cfg.max_tokens
        self.embedding = nn.Embedding(vocab_size, cfg.width)
        self.position = nn.Parameter(torch.empty(cfg.max_tokens, cfg.width))
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        nn.init.normal_(self.position, std=EMBEDDING_STD)
        self.layers = nn.ModuleList(TransformerLayer(cfg.width, cfg.heads) for _ in range(cfg.layers))
        self.norm = nn.LayerNorm(cfg.width)

    @property
    def embedding_layer(self) -> nn.Module:
        return self.embedding

    def forward(self, tokens: Tensor, token_mask: Tensor, *, embeddings: Tensor | None = None) -> Tensor:
        _check_length(tokens, self.max_tokens)
        hidden = (self.embedding(tokens) if embeddings is None else embeddings) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, token_mask)
        return self.norm(hidden)


class PretrainedBert(TextEncoder):
    """A BERT-like encoder of transformers, by hub name or local folder, without its pooling layer.

    It keeps the fused attention kernels: a loss on image maps differentiates the fusion twice, but passes through
    the text branch once. Where its own embeddings are explained it does without them.
    """

    def __init__(self, cfg: TextEncoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.bert = _load_bert(cfg)
        replace_dropout(self.bert)
        limits = self.bert.config
        if vocab_size > limits.vocab_size:
            raise UsageError(
                f"model.text.name={cfg.name!r} knows {limits.vocab_size} tokens, but the tokenizer makes {vocab_size}; "
                "use the tokenizer that belongs to the model"
            )
        if cfg.max_tokens > limits.max_position_embeddings:
            raise UsageError(
                f"model.text.max_tokens={cfg.max_tokens}: {cfg.name!r} allows at most {limits.max_position_embeddings}"
            )
        self.token_channels, self.max_tokens = limits.hidden_size, cfg.max_tokens

    @property
    def embedding_layer(self) -> nn.Module:
        layer: nn.Module = self.bert.get_input_embeddings()
        return layer

    def forward(self, tokens: Tensor, token_mask: Tensor, *, embeddings: Tensor | None = None) -> Tensor:
        _check_length(tokens, self.max_tokens)
        # not every fused kernel gives numbers for a row without keys; what it gives for this one is not used
        visible = token_mask | ~token_mask.any(dim=1, keepdim=True)
        # the full [B, 1, L, L] mask: given one of [B, L], transformers asks the device whether it is all True
        visible = visible[:, None, None, :].expand(-1, 1, tokens.shape[1], -1)
        if embeddings is None:
            return self.bert(input_ids=tokens, attention_mask=visible).last_hidden_state
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
            return self.bert(inputs_embeds=embeddings, attention_mask=visible).last_hidden_state


def _check_length(tokens: Tensor, limit: int) -> None:
    if tokens.shape[1] > limit:
        raise UsageError(f"a caption batch is {tokens.shape[1]} tokens long; model.text.max_tokens allows {limit}")


def _load_bert(cfg: TextEncoderConfig) -> Any:
    transformers = optional.load("transformers", f"model.text.name={cfg.name}", "use model.text.name=small")
    # float32 whatever the file holds, as the loop expects; the attention that understands bool masks; and without the
    # pooling layer, which the fusion would leave unused and DistributedDataParallel refuses
    options: dict[str, Any] = {"attn_implementation": "sdpa", "dtype": torch.float32, "add_pooling_layer": False}
    missing: set[str] = set()
    try:
        architecture = transformers.AutoConfig.from_pretrained(cfg.name)
        if not all(hasattr(architecture, limit) for limit in ("vocab_size", "max_position_embeddings", "hidden_size")):
            raise _not_bert(cfg.name, architecture)
        # inside the fused kernels no mask can belong to a sample (see `dropout`); the other dropouts stay
        architecture.attention_probs_dropout_prob = 0.0
        if cfg.pretrained:
            bert, report = transformers.AutoModel.from_pretrained(
                cfg.name, config=architecture, output_loading_info=True, **options
            )
            missing = set(report["missing_keys"])
        else:
            bert = transformers.AutoModel.from_config(architecture, **options)
    except TypeError:  # it has no pooling layer to leave out
        raise _not_bert(cfg.name, architecture) from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GenxaiError(
            f"model.text.name={cfg.name!r} is neither 'small', nor a local folder with a BERT, nor a model that can "
            f"be had from the Hugging Face hub: {reason}"
        ) from None
    if missing:
        raise GenxaiError(
            f"model.text.name={cfg.name!r}: the weights lack {min(missing)} (of {len(missing)}); "
            "use model.text.pretrained=false for the architecture with random weights"
        )
    return bert


def _not_bert(name: str, architecture: Any) -> UsageError:
    return UsageError(
        f"model.text.name={name!r} is not BERT-like ({architecture.model_type}); name a BERT, MiniLM or RoBERTa"
    )
