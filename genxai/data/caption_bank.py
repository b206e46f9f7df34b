"""Every caption tokenised once, and which of them a sample gets: draws and look-ups, vectorised.

A draw is a pure function of (seed, stream, counter, label, texture).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.config import CaptionConfig, TextEncoderConfig
from genxai.data import counter_rng
from genxai.data.captions import TEMPLATES, contents, superclass_of, variants
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES
from genxai.data.tokens import load_tokenizer


@dataclass(frozen=True)
class CaptionBank:
    """All captions of one data set and one set of templates, on one device.

    texts: V strings, in the order of `captions.variants`. tokens: int64 [V, L]; token_mask: bool [V, L], true on
    tokens. superclass: int64 [10], the super-class of each label.
    """

    texts: tuple[str, ...]
    tokens: Tensor
    token_mask: Tensor
    superclass: Tensor
    num_templates: int
    num_contents: int

    def draw(
        self, config: CaptionConfig, labels: Tensor, textures: Tensor, *, seed: int, stream: str, counters: Tensor
    ) -> Tensor:
        """The number of the caption of each sample, int64 [B].

        The class is named with probability q_c (a wrong one, uniform over the other nine, with probability eta), else
        its super-class with q_s, else neither; the texture is named with q_a; no caption with m. Any template is as
        likely as any other. labels, textures, counters: int64 [B].
        """
        channels = torch.arange(6, device=counters.device)
        u = counter_rng.uniform(seed, stream, counters[:, None], channels).unbind(dim=1)
        wrong = (labels + 1 + _below(NUM_CLASSES - 1, u[2])) % NUM_CLASSES
        named = torch.where(u[1] < config.flip, wrong, labels)
        grouped = NUM_CLASSES + self.superclass[labels]
        content = torch.where(u[0] < config.exact + config.superclass, grouped, self.num_contents - 1)
        content = torch.where(u[0] < config.exact, named, content)
        texture = torch.where(u[3] < config.texture, textures + 1, 0)
        template = _below(self.num_templates, u[4])
        number = (template * self.num_contents + content) * (NUM_TEXTURES + 1) + texture
        return torch.where(u[5] < config.missing, len(self.texts) - 1, number)


def _below(n: int, u: Tensor) -> Tensor:
    """Uniform int64 in 0..n-1 from uniform u in [0, 1); in float32 u * n stays below n for small n."""
    return (u * n).to(torch.int64)


@functools.lru_cache(maxsize=8)
def caption_bank(text: TextEncoderConfig, dataset: str, templates: str, device: torch.device) -> CaptionBank:
    """The bank of a data set's "train" or "test" captions, made once per process.

    Raises what `tokens.load_tokenizer` and its `encode` raise (a caption that is too long is named).
    """
    texts = variants(dataset, templates)
    tokens, token_mask = load_tokenizer(text).encode(texts)
    return CaptionBank(
        texts=tuple(texts),
        tokens=tokens.to(device),
        token_mask=token_mask.to(device),
        superclass=torch.tensor(superclass_of(dataset), device=device),
        num_templates=len(TEMPLATES[templates]),
        num_contents=len(contents(dataset)),
    )
