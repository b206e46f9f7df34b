"""Makes the toxic text inside the package from the full files: `python -m genxai.data.make_toxicity_sample [FOLDER]`.

All of Surge AI's comments, unchanged; of the madlibs an evenly spread part of each identity term and label.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from genxai.data.identity_terms import NONE, find_terms
from genxai.data.make_embedded import compress
from genxai.data.toxicity_sources import CORPORA, EMBEDDED, MADLIBS, find_file
from genxai.files import write_atomic

MADLIBS_SIZE = 2000


def choose_madlibs(content: bytes, size: int) -> bytes:
    """The CSV file with `size` of its sentences, in their order: sorted by label and term, every (N / size)-th."""
    about = CORPORA[MADLIBS]
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))

    def group(number: int) -> tuple[str, int]:
        words = rows[number][about.text].lower().rstrip(".").split()
        return rows[number][about.label], max(find_terms(words), default=NONE)

    order = sorted(range(len(rows)), key=group)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[number] for number in sorted(order[place * len(rows) // size] for place in range(size)))
    return out.getvalue().encode()


def contents() -> dict[str, bytes]:
    """The content of each file of the package, by corpus."""
    surge, madlibs = (find_file(corpus).read_bytes() for corpus in ("toxicity-surge", MADLIBS))
    return {"toxicity-surge": surge, MADLIBS: choose_madlibs(madlibs, MADLIBS_SIZE)}


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("embedded")
    for corpus, content in contents().items():
        write_atomic(folder / EMBEDDED[corpus][0], compress(content))


if __name__ == "__main__":
    main()
