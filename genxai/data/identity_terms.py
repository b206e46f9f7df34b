"""Words that name a group of people (identity_terms.txt): which comments hold one, and where.

The list is that of the madlibs of Conversation AI (Dixon et al. 2018): what their templates put where an identity goes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources

#: no term: the word is not part of one
NONE = -1


@functools.cache
def identity_terms() -> tuple[str, ...]:
    """The terms in alphabetical order, lower case; some have two words."""
    return tuple((resources.files("genxai") / "data" / "identity_terms.txt").read_text().splitlines())


@functools.cache
def _numbers() -> dict[tuple[str, ...], int]:
    """The words of each term, and of its plural in -s, to its number."""
    found = {tuple(term.split()): number for number, term in enumerate(identity_terms())}
    return {(*words[:-1], words[-1] + "s"): number for words, number in found.items()} | found


def find_terms(words: Sequence[str]) -> list[int]:
    """For each lower-case word the number of the term that it is part of, or NONE.

    A plural in -s counts as the term; of two terms that begin alike the longer one is taken ("african american").
    """
    numbers, found, place = _numbers(), [NONE] * len(words), 0
    longest = max(map(len, numbers))
    while place < len(words):
        lengths = range(min(longest, len(words) - place), 0, -1)
        length = next((n for n in lengths if tuple(words[place : place + n]) in numbers), 0)
        if length:
            found[place : place + length] = [numbers[tuple(words[place : place + length])]] * length
        place += max(length, 1)
    return found
