"""Toxic text: comments that are toxic or not, and templated sentences that name identities, for an audit.

Everything lies on the device; a split is a pure function of config.data, and its tokens of config.model.text too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genxai.config import Config, DataConfig, TextEncoderConfig
from genxai.data.identity_terms import NONE, find_terms, identity_terms
from genxai.data.sources import fingerprint
from genxai.data.splits import TEST_SHARE, hold_out, limited, take_share
from genxai.data.supply import TOXICITY
from genxai.data.tokens import Tokenizer, WordPiece, load_tokenizer
from genxai.data.toxicity_sources import MADLIBS, load_comments
from genxai.data.toxicity_text import Encoded, build_vocabulary, comment_words, encode_comments
from genxai.errors import UsageError

CLASS_NAMES = ("not toxic", "toxic")


@dataclass(frozen=True)
class TextSample:
    """A batch of B comments, L tokens long at most, G identity terms, all on one device."""

    images: Tensor  # float32 [B, 1, 0, 0]: there are none
    labels: Tensor  # int64 [B]: 1 is toxic
    masks: Tensor  # bool [B, L]: true on the tokens of identity terms, where a prediction should not rest
    tokens: Tensor  # int64 [B, L]
    token_mask: Tensor  # bool [B, L]: true on tokens, false on padding
    identities: Tensor  # bool [B, G]: the identity terms that the comment holds
    indices: Tensor  # int64 [B]: places in the split


@dataclass(frozen=True)
class _Corpus:
    """The different comments of one corpus as words, its repeats left out, so that no two splits share one."""

    words: tuple[tuple[str, ...], ...]
    labels: Tensor  # int64 [N]
    repeats: int
    origin: str
    sha256: str


@functools.lru_cache(maxsize=4)
def _corpus(name: str, source: str) -> _Corpus:
    comments = load_comments(name, source)
    first: dict[tuple[str, ...], int] = {}
    for words, label in zip(map(comment_words, comments.texts), comments.labels.tolist(), strict=True):
        first.setdefault(tuple(words), label)
    labels = torch.tensor(list(first.values()), dtype=torch.int64)
    return _Corpus(tuple(first), labels, len(comments.texts) - len(first), comments.origin, comments.sha256)


@functools.lru_cache(maxsize=8)
def _places(data: DataConfig) -> dict[str, Tensor]:
    """The comments of train, val and test: int64, ascending, disjoint; and the sentences of madlibs."""
    labels, seed = _corpus(data.dataset, data.source).labels, data.seed
    comments = torch.arange(len(labels))
    test, rest = take_share(comments, labels, round(len(labels) * TEST_SHARE), seed, "test")
    train, val = hold_out(rest, labels, data, seed)
    test = limited(test, labels, data.test_limit, seed, "test_limit")
    return {"train": train, "val": val, "test": test, MADLIBS: _audited(data)}


def _audited(data: DataConfig) -> Tensor:
    """All sentences of the madlibs, or a share of each (label, identity) of test_limit in all."""
    corpus = _corpus(MADLIBS, data.source)
    sentences = torch.arange(len(corpus.labels))
    if data.test_limit is None or data.test_limit >= len(sentences):
        return sentences
    term = torch.tensor([max(find_terms(words), default=NONE) for words in corpus.words])  # one at most each
    strata = corpus.labels * (len(identity_terms()) + 1) + term - NONE
    return take_share(sentences, strata, data.test_limit, data.seed, MADLIBS)[0]


@functools.lru_cache(maxsize=4)
def _tokenizer(data: DataConfig, text: TextEncoderConfig) -> Tokenizer:
    """A BERT's own, or for the small Transformer WordPiece with the vocabulary of the training comments."""
    if text.name != "small":
        return load_tokenizer(text)
    words = _corpus(data.dataset, data.source).words
    return WordPiece(build_vocabulary(words[place] for place in _places(data)["train"].tolist()), text.max_tokens)


@functools.lru_cache(maxsize=16)
def _encoded(data: DataConfig, text: TextEncoderConfig, split: str) -> Encoded:
    words = _corpus(MADLIBS if split == MADLIBS else data.dataset, data.source).words
    comments = [words[place] for place in _places(data)[split].tolist()]
    return encode_comments(comments, _tokenizer(data, text), text.max_tokens)


class ToxicText:
    """One split of a corpus of comments.

    * train, val, test: stratified by label, the test 20 % of the comments (the paper's 80/20).
    * madlibs: sentences made of templates, toxic as often as not with each of the identity terms, for audits alone: a
      classifier that has learned a term itself to be toxic is wrong on them (Dixon et al. 2018).

    Comments are lower-cased, cut to model.text.max_tokens and padded to the longest of the split.
    """

    num_classes = len(CLASS_NAMES)
    class_names = CLASS_NAMES

    def __init__(self, config: Config, split: str, device: torch.device | str = "cpu") -> None:
        """Raises UsageError for an unknown split, DataError without data, GenxaiError without the tokenizer."""
        if split not in TOXICITY.every:
            raise UsageError(f"unknown split {split!r}; the splits are {', '.join(TOXICITY.every)}")
        self.split = split
        self.device = torch.device(device)
        self._data, self._text = config.data, config.model.text
        self._corpus = _corpus(MADLIBS if split == MADLIBS else self._data.dataset, self._data.source)
        places, encoded = _places(self._data)[split], _encoded(self._data, self._text, split)
        self._truncated = encoded.truncated
        #: int64 [N], 1 is toxic; bool [N, G], the identity terms that each comment holds: of the whole split
        self.labels = self._corpus.labels[places].to(self.device)
        self.identities = encoded.identities.to(self.device)
        self.tokens, self.token_mask = encoded.tokens.to(self.device), encoded.token_mask.to(self.device)
        self.identity_mask = encoded.identity_mask.to(self.device)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def terms(self) -> tuple[str, ...]:
        """The identity terms, in the order of the columns of `identities`."""
        return identity_terms()

    @property
    def vocab_size(self) -> int:
        """The number of token ids there are."""
        return _tokenizer(self._data, self._text).vocab_size

    @property
    def pad_id(self) -> int:
        return _tokenizer(self._data, self._text).pad_id

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the comments came from, for provenance.jsonl."""
        return {
            "dataset": self._data.dataset,
            "source": self._data.source,
            "origin": self._corpus.origin,
            "fingerprint": fingerprint(self._data),
            "sha256": {MADLIBS if self.split == MADLIBS else self._data.dataset: self._corpus.sha256},
            "repeats_left_out": self._corpus.repeats,
            "truncated": self._truncated,
            "max_tokens": self._text.max_tokens,
            "vocab_size": self.vocab_size,
        }

    def batch(self, indices: Tensor | Sequence[int]) -> TextSample:
        """The comments at places `indices` (integers [B] in 0..len-1) of the split. Nothing waits for the device."""
        indices = torch.as_tensor(indices, dtype=torch.int64).to(self.device, non_blocking=True)
        return TextSample(
            images=torch.zeros(len(indices), 1, 0, 0, device=self.device),
            labels=self.labels[indices],
            masks=self.identity_mask[indices],
            tokens=self.tokens[indices],
            token_mask=self.token_mask[indices],
            identities=self.identities[indices],
            indices=indices,
        )
