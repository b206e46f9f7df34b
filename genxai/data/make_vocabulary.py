"""Makes the vocabulary of our own WordPiece: `python -m genxai.data.make_vocabulary [FILE]`.

Every word of every caption, and every printable ASCII character alone and as a continuation.
"""

from __future__ import annotations

import string
import sys
from pathlib import Path

from genxai.data.captions import CLASS_NAMES, TEMPLATES, variants
from genxai.data.tokens import SPECIAL, split_words
from genxai.files import write_atomic


def build_vocabulary() -> list[str]:
    """The pieces in the order of their ids: special tokens, characters, continuations, words."""
    characters = string.digits + string.ascii_lowercase + string.punctuation
    continuations = [f"##{char}" for char in string.digits + string.ascii_lowercase]
    captions = (text for dataset in CLASS_NAMES for kind in TEMPLATES for text in variants(dataset, kind))
    words = {word for text in captions for word in split_words(text)}
    return [*SPECIAL, *characters, *continuations, *sorted(words - set(characters))]


def main() -> None:
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("vocab.txt")
    write_atomic(file, "".join(f"{piece}\n" for piece in build_vocabulary()))


if __name__ == "__main__":
    main()
