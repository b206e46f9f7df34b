"""The corpora of toxic text as arrays: found, read strictly and checked against known content.

Nothing here imports torch, so a sweep can ask for a fingerprint in no time.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import urllib.request
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from genxai.data.sources import cache_folder
from genxai.errors import DataError
from genxai.files import write_atomic

#: raised whenever the same configuration gives other splits, tokens or terms; part of every fingerprint
PREPARATION_VERSION = 1
#: folder of the files below $GENXAI_DATA and in the cache
FOLDER = "toxicity"
MADLIBS = "madlibs"
_CONNECT_SECONDS = 20.0


@dataclass(frozen=True)
class Corpus:
    """Where a corpus is and how it is read: `toxic` are the values of the label column that mean toxic."""

    file: str
    url: str
    sha256: str
    text: str
    label: str
    toxic: tuple[str, ...]


_GITHUB = "https://raw.githubusercontent.com"
CORPORA = {
    "toxicity-surge": Corpus(
        file="surge_toxicity_en.csv",
        url=f"{_GITHUB}/surge-ai/toxicity/f064d868292c639feb7c81ffb89abf72f25fef89/toxicity_en.csv",
        sha256="3bfcdd54ab90c8bab232235226a00e28b0d457c3c19e87230f73dde1880e6c44",
        text="text",
        label="is_toxic",
        toxic=("Toxic",),
    ),
    # hate speech (0) and offensive language (1), as against neither (2)
    "toxicity-davidson": Corpus(
        file="davidson_hate_offensive.csv",
        url=f"{_GITHUB}/t-davidson/hate-speech-and-offensive-language/6a1e3f02522963d820e302c3ad48b189552c143b"
        "/data/labeled_data.csv",
        sha256="fcb8bc7c68120ae4af04a5b9acd58585513ede11e1548ebf36a5c2040b6f6281",
        text="tweet",
        label="class",
        toxic=("0", "1"),
    ),
    MADLIBS: Corpus(
        file="bias_madlibs_77k.csv",
        url=f"{_GITHUB}/conversationai/unintended-ml-bias-analysis/ff0f436f0c3bf336702f80644b935b9bcc296cb4"
        "/unintended_ml_bias/eval_datasets/bias_madlibs_77k.csv",
        sha256="aac542254cf158415ec74623d54fa76176f26a7e7d8ef20788e1748a05ba5b4c",
        text="Text",
        label="Label",
        toxic=("BAD",),
    ),
}
#: what the package holds, gzip-compressed: file, and the SHA-256 of its content
EMBEDDED = {
    "toxicity-surge": ("toxicity-surge.csv.gz", CORPORA["toxicity-surge"].sha256),
    MADLIBS: ("toxicity-madlibs.csv.gz", "4cb4113038ceb5532e9a4a475d40ddf223799c615f84aaf4acb385da5988a04b"),
}


@dataclass(frozen=True)
class Comments:
    """One corpus in memory: texts as they are in the file, labels uint8 [N] (1: toxic), and where they came from."""

    texts: tuple[str, ...]
    labels: np.ndarray
    origin: str
    sha256: str


def load_comments(corpus: str, source: str) -> Comments:
    """The comments of "toxicity-surge" or "toxicity-davidson", or the sentences of "madlibs".

    source="full" tries $GENXAI_DATA/toxicity and the download from the project's repository, in this order;
    source="embedded" reads what is inside the package.
    Raises DataError: a file that cannot be read or is not what it should be is named and never skipped over; when
    nothing is found, one error lists every way tried, with its reason, and every way to get the data.
    """
    about = CORPORA[corpus]
    if source == "embedded":
        name, sha256 = EMBEDDED[corpus]
        packed = (resources.files("genxai") / "data" / "embedded" / name).read_bytes()
        return _parse(gzip.decompress(packed), about, sha256, f"{name} inside the package")
    path = find_file(corpus)
    return _parse(_content(path), about, about.sha256, str(path))


def find_file(corpus: str) -> Path:
    """The full file of a corpus, fetched if need be; its content is not checked yet. Raises DataError, see above."""
    about, tried = CORPORA[corpus], []
    for name, find in ((f"$GENXAI_DATA/{FOLDER}", _in_environment), ("download", _downloaded)):
        path, reason = find(about)
        if path is not None:
            return path
        tried.append(f"  {name}: {reason}")
    raise DataError("\n".join([f"no copy of {about.file} was found. Tried:", *tried, *_ways(about)]))


def corpus_checksums(dataset: str, source: str) -> list[str]:
    """SHA-256 of the content behind a configuration: its corpus, and the sentences its audit uses."""
    if source == "embedded":
        return [EMBEDDED[name][1] for name in (dataset, MADLIBS)]
    return [CORPORA[name].sha256 for name in (dataset, MADLIBS)]


def _ways(about: Corpus) -> list[str]:
    return [
        "Ways to get it, any one of them:",
        f"  - put {about.file} into a folder {FOLDER}/ and set GENXAI_DATA to the folder that holds it",
        f"  - start once on a machine with a network: it is downloaded into {cache_folder() / FOLDER}",
        f"  - fetch {about.url} yourself and save it as {about.file}",
        "  - use what is inside the package: data.dataset=toxicity-surge data.source=embedded",
    ]


# --- the ways: each gives a file, or None and the reason --------------------------------------------


def _in_environment(about: Corpus) -> tuple[Path | None, str]:
    root = os.environ.get("GENXAI_DATA")
    if not root:
        return None, "GENXAI_DATA is not set"
    path = Path(root).expanduser() / FOLDER / about.file
    return (path, "") if path.exists() else (None, f"there is no {path}")


def _downloaded(about: Corpus) -> tuple[Path | None, str]:
    target = cache_folder() / FOLDER / about.file
    if target.exists():
        return target, ""
    try:
        with urllib.request.urlopen(about.url, timeout=_CONNECT_SECONDS) as answer:
            content = answer.read()
        _check(content, about.url, about.sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content)
    except (OSError, DataError) as error:
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return target, ""


# --- reading ---------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None


def _check(content: bytes, where: str, sha256: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(f"{where}: altered content: SHA-256 is {digest}, expected {sha256}")


def _parse(content: bytes, about: Corpus, sha256: str, origin: str) -> Comments:
    """The comments of a file of known content; with that known, its columns and labels are too."""
    _check(content, origin, sha256)
    rows = list(csv.DictReader(io.StringIO(content.decode(), newline=""), strict=True))
    labels = np.array([row[about.label] in about.toxic for row in rows], np.uint8)
    return Comments(tuple(row[about.text] for row in rows), labels, origin, sha256)
