"""Makes the sample inside the package from the full data: `python -m genxai.data.make_embedded [FOLDER]`.

The rule is fixed and needs no randomness: classes in proportion, images evenly spread over each class's file order.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np

from genxai.data.sources import CHECKSUMS, FILES, load_arrays
from genxai.files import write_atomic

TRAIN_SIZE, TEST_SIZE = 3000, 1000


def choose(labels: np.ndarray, size: int) -> np.ndarray:
    """Indices of `size` images, ascending: class counts within one of proportional, evenly spread in file order.

    labels: uint8 [N]. Sorted by class (stable), every (N / size)-th image is taken.
    """
    order = np.argsort(labels, kind="stable")
    return np.sort(order[np.arange(size) * len(labels) // size])


def encode_idx(array: np.ndarray) -> bytes:
    """A uint8 array as an uncompressed idx file."""
    header = np.array([0x0800 | array.ndim, *array.shape], ">u4").tobytes()
    return header + np.ascontiguousarray(array).tobytes()


def compress(content: bytes) -> bytes:
    """gzip without a time or a name, so that equal content gives equal bytes (with one zlib)."""
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


def sample(dataset: str) -> dict[str, np.ndarray]:
    """The four arrays of the sample, by the file name they have in the full data set."""
    full = load_arrays(dataset, "full")
    train, test = choose(full.train_labels, TRAIN_SIZE), choose(full.test_labels, TEST_SIZE)
    arrays = (full.train_images[train], full.train_labels[train], full.test_images[test], full.test_labels[test])
    return dict(zip(FILES, arrays, strict=True))


def write(folder: Path) -> None:
    """Write the sample's files and checksums.json into a folder."""
    manifest: dict[str, dict[str, dict]] = {}
    for dataset in CHECKSUMS:
        manifest[dataset] = {}
        for name, array in sample(dataset).items():
            content = encode_idx(array)
            write_atomic(folder / f"{dataset}-{name}", compress(content))
            digest = hashlib.sha256(content).hexdigest()
            manifest[dataset][name] = {"shape": list(array.shape), "sha256": digest}
    write_atomic(folder / "checksums.json", json.dumps(manifest, indent=1) + "\n")


def main() -> None:
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("embedded"))


if __name__ == "__main__":
    main()
