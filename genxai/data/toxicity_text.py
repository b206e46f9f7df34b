"""Comments to words, and words to token ids: the paper's lower-casing, tokenising and padding."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genxai.data.identity_terms import NONE, find_terms, identity_terms
from genxai.data.tokens import SPECIAL, Tokenizer, split_words

#: a character, word or ending is a piece of the vocabulary if training comments have it at least this often
MIN_COUNT = 2
MAX_WORDS = 8000
#: endings, in characters, that stand for themselves behind a shorter word or a letter
ENDINGS = (2, 3, 4)
#: different words that must share an ending
MIN_SHARED = 3


def comment_words(text: str) -> list[str]:
    """Lower-case words and punctuation marks of a comment, its HTML entities resolved."""
    return split_words(html.unescape(text))


def build_vocabulary(comments: Iterable[Sequence[str]]) -> list[str]:
    """A WordPiece vocabulary of the words of training comments; a pure function of them, whatever their order.

    The special tokens, every character (alone and as a continuation), the MAX_WORDS most frequent words, and frequent
    endings. So a frequent word is one token, a rarer or a disguised one is cut into known parts, longest match first.
    """
    counts = Counter(word for words in comments for word in words)
    letters, endings = Counter[str](), Counter[str]()
    for word, count in counts.items():
        letters.update(dict.fromkeys(word, count))
        endings.update(word[-size:] for size in ENDINGS if len(word) > size)
    characters = sorted(letter for letter, count in letters.items() if count >= MIN_COUNT)
    frequent = sorted((-count, word) for word, count in counts.items() if count >= MIN_COUNT and len(word) > 1)
    shared = sorted(ending for ending, count in endings.items() if count >= MIN_SHARED)
    words = [word for _, word in frequent[:MAX_WORDS]]
    return [*SPECIAL, *characters, *(f"##{letter}" for letter in characters), *words, *(f"##{end}" for end in shared)]


@dataclass(frozen=True)
class Encoded:
    """Tokenised comments: [N, L] with L the longest one's, and which identity terms each holds, [N, G]."""

    tokens: Tensor  # int64 [N, L]
    token_mask: Tensor  # bool [N, L]: true on tokens, false on padding
    identity_mask: Tensor  # bool [N, L]: true on the tokens of identity terms
    identities: Tensor  # bool [N, G]: comment n names identity g, whether or not it was cut off
    truncated: int  # comments that were cut to max_tokens


def encode_comments(comments: Sequence[Sequence[str]], tokenizer: Tokenizer, max_tokens: int) -> Encoded:
    """Token ids of comments given as words; one of more than max_tokens tokens loses its end, never its [SEP]."""
    terms = [find_terms(words) for words in comments]
    rows = [
        [(token, word >= 0 and terms[number][word] != NONE) for token, word in row]
        for number, row in enumerate(tokenizer.encode_words(comments))
    ]
    truncated = sum(len(row) > max_tokens for row in rows)
    rows = [row if len(row) <= max_tokens else [*row[: max_tokens - 1], row[-1]] for row in rows]
    length = max(map(len, rows), default=0)
    padding = (tokenizer.pad_id, False)
    table = torch.tensor([[*row, *[padding] * (length - len(row))] for row in rows], dtype=torch.int64)
    tokens, on_terms = table.view(len(rows), length, 2).unbind(dim=2)
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    identities = torch.zeros(len(rows), len(identity_terms()), dtype=torch.bool)
    for number, found in enumerate(terms):
        identities[number, sorted({term for term in found if term != NONE})] = True
    return Encoded(tokens.contiguous(), torch.arange(length) < lengths[:, None], on_terms.bool(), identities, truncated)
