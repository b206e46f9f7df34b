"""Captions to token ids: our own WordPiece with the shipped vocabulary, or the tokenizer of any BERT.

WordPiece as in BERT (Devlin et al. 2019): lower case, split at spaces and punctuation, longest match first.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import unicodedata
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from genxai import optional
from genxai.config import TextEncoderConfig
from genxai.errors import GenxaiError, UsageError

PAD, UNKNOWN, FIRST, LAST = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
SPECIAL = (PAD, UNKNOWN, FIRST, LAST, "[MASK]")
#: in place of a word's number, for a token that belongs to none
NO_WORD = -1
_LONGEST_WORD = 100  # characters; BERT reads a longer word as unknown


class Tokenizer(Protocol):
    """What the captions and the text encoders need of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def pad_id(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """ids int64 [N, L] and mask bool [N, L], true on tokens, with L = max_tokens.

        A text is [CLS] pieces [SEP] and padding; the empty text is [CLS] [SEP] alone, so no row is all padding.
        Raises UsageError naming the longest text if one does not fit into L tokens.
        """
        ...

    def encode_words(self, texts: Sequence[Sequence[str]]) -> list[list[tuple[int, int]]]:
        """For each text, given as its words: (id, number of its word) of each token, neither cut nor padded.

        The first and the last are [CLS] and [SEP], of no word: their number is -1.
        """
        ...


@functools.lru_cache(maxsize=4)
def load_tokenizer(text: TextEncoderConfig) -> Tokenizer:
    """The tokenizer of a text encoder: "small" is our own, any other name a BERT's (hub name or local folder).

    Raises GenxaiError where transformers is not installed, or the name leads to no usable tokenizer.
    """
    return WordPiece(load_vocabulary(), text.max_tokens) if text.name == "small" else _HubTokenizer(text)


def load_vocabulary() -> list[str]:
    """The shipped vocabulary, one piece per id."""
    return (resources.files("genxai") / "data" / "vocab.txt").read_text(encoding="utf-8").splitlines()


class WordPiece:
    """BERT's uncased tokenizer over a given vocabulary."""

    def __init__(self, vocabulary: Sequence[str], max_tokens: int) -> None:
        self._ids = {piece: number for number, piece in enumerate(vocabulary)}
        self._max_tokens = max_tokens
        self._known: dict[str, list[int]] = {}

    @property
    def vocab_size(self) -> int:
        return len(self._ids)

    @property
    def pad_id(self) -> int:
        return self._ids[PAD]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return _pad([self.ids(text) for text in texts], texts, self._max_tokens, self.pad_id)

    def ids(self, text: str) -> list[int]:
        """[CLS] pieces [SEP] of one text, without padding."""
        pieces = [number for word in split_words(text) for number in self._word(word)]
        return [self._ids[FIRST], *pieces, self._ids[LAST]]

    def encode_words(self, texts: Sequence[Sequence[str]]) -> list[list[tuple[int, int]]]:
        first, last = (self._ids[FIRST], NO_WORD), (self._ids[LAST], NO_WORD)
        return [
            [first, *((piece, place) for place, word in enumerate(words) for piece in self._word(word)), last]
            for words in texts
        ]

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = self._split(word) or [self._ids[UNKNOWN]]
        return self._known[word]

    def _split(self, word: str) -> list[int]:
        """The pieces of a word, longest match first; none if some part of it is in no piece."""
        numbers: list[int] = []
        start = 0 if len(word) <= _LONGEST_WORD else len(word)
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self._ids), None)
            if end is None:
                return []
            numbers.append(self._ids[prefix + word[start:end]])
            start = end
        return numbers


def split_words(text: str) -> list[str]:
    """Lower-case words and punctuation marks, accents and control characters removed (BERT's basic tokenizer)."""
    text = "".join(" " if char in "\t\n\r" else char for char in text if not _is_control(char))
    text = unicodedata.normalize("NFD", text)
    text = "".join(char for char in text if unicodedata.category(char) != "Mn").lower()
    spaced = (f" {char} " if _stands_alone(char) else char for char in text)
    return "".join(spaced).split()


def _is_control(char: str) -> bool:
    return char in "\x00\ufffd" or (char not in "\t\n\r" and unicodedata.category(char).startswith("C"))


#: the blocks that BERT takes for ideographs, each a word of its own
_IDEOGRAPHS = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)),
    *((0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)


def _stands_alone(char: str) -> bool:
    code = ord(char)
    if code < 128:
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P") or any(low <= code <= high for low, high in _IDEOGRAPHS)


def _pad(rows: list[list[int]], texts: Sequence[str], length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    needed = max((len(row) for row in rows), default=0)
    if needed > length:
        longest = next(text for text, row in zip(texts, rows, strict=True) if len(row) == needed)
        raise UsageError(
            f"model.text.max_tokens: the caption {longest!r} has {needed} tokens, got {length}; allowed: >= {needed}"
        )
    ids = torch.tensor([row + [pad_id] * (length - len(row)) for row in rows], dtype=torch.int64)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    return ids.reshape(len(rows), length), torch.arange(length) < lengths[:, None]


class _HubTokenizer:
    """The tokenizer of a BERT, through transformers."""

    def __init__(self, text: TextEncoderConfig) -> None:
        self._max_tokens = text.max_tokens
        self._tokenizer: Any = _from_transformers(text.name)
        if self._tokenizer.pad_token_id is None:
            raise UsageError(f"model.text.name: {text.name!r} has no padding token, so it is no BERT")

    @property
    def vocab_size(self) -> int:
        return len(self._tokenizer)

    @property
    def pad_id(self) -> int:
        return int(self._tokenizer.pad_token_id)

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        rows = self._tokenizer(list(texts), truncation=False)["input_ids"] if texts else []
        return _pad(rows, texts, self._max_tokens, self.pad_id)

    def encode_words(self, texts: Sequence[Sequence[str]]) -> list[list[tuple[int, int]]]:
        if not texts:
            return []
        if not self._tokenizer.is_fast:
            raise UsageError("model.text.name: its tokenizer cannot say where its tokens are in a text; use another")
        found = self._tokenizer(
            [" ".join(words) for words in texts], truncation=False, return_offsets_mapping=True, verbose=False
        )
        rows = zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
        return [list(zip(ids, _words_at(words, spans), strict=True)) for words, ids, spans in rows]


def _words_at(words: Sequence[str], spans: Sequence[tuple[int, int]]) -> list[int]:
    """The number of the word that each span (from, to) of the joined words ends in; NO_WORD for an empty span."""
    ends = list(itertools.accumulate(len(word) + 1 for word in words))
    return [bisect.bisect_left(ends, end) if end > start else NO_WORD for start, end in spans]


def _from_transformers(name: str) -> Any:
    transformers = optional.load("transformers", f"model.text.name={name}", "use model.text.name=small")
    load: Callable[..., Any] = transformers.AutoTokenizer.from_pretrained
    if name.startswith(("/", ".", "~")) and not Path(name).expanduser().is_dir():
        raise GenxaiError(f"model.text.name: {name!r} is not a folder; use a BERT's folder or hub name, or small")
    try:
        return load(str(Path(name).expanduser()) if name.startswith("~") else name)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GenxaiError(
            f"model.text.name: no tokenizer in {name!r}, neither as a local folder nor on the Hugging Face hub: "
            f"{reason}; use a BERT's folder or hub name, or small"
        ) from None
