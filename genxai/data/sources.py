"""MNIST and Fashion-MNIST as arrays: found, read strictly and checked against known content.

Nothing here imports torch, so a sweep can ask for a fingerprint in no time.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import hashlib
import importlib
import json
import os
import shutil
import socket
import sys
import tempfile
import zlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import numpy as np

from genxai.config import DataConfig
from genxai.errors import DataError

#: raised whenever the same configuration composes other samples; part of every fingerprint
BENCHMARK_VERSION = 1
SIDE = 28

#: file -> shape of its content
FILES = {
    "train-images-idx3-ubyte.gz": (60_000, SIDE, SIDE),
    "train-labels-idx1-ubyte.gz": (60_000,),
    "t10k-images-idx3-ubyte.gz": (10_000, SIDE, SIDE),
    "t10k-labels-idx1-ubyte.gz": (10_000,),
}
#: SHA-256 of the decompressed files (compression differs between distributors), in the order of FILES
CHECKSUMS = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion-mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}
DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
_TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_CONNECT_SECONDS = 20.0


@dataclass(frozen=True)
class Arrays:
    """One data set in memory: images uint8 [N, 28, 28], labels uint8 [N] in 0..9, and where they came from."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    origin: str
    checksums: dict[str, str]


def load_arrays(dataset: str, source: str) -> Arrays:
    """Images and labels of "mnist" or "fashion-mnist".

    source="full" tries $GENXAI_DATA/<dataset>, Debian's package and the torchvision download, in this order;
    source="embedded" reads the sample inside the package.
    Raises DataError: a file that is truncated, corrupt or not what it should be is named and never skipped over;
    when nothing is found, one error lists every way tried, with its reason, and every way to get the data.
    """
    if source == "embedded":
        return _read_embedded(dataset)
    tried = []
    for name, find in (
        (f"$GENXAI_DATA/{dataset}", _in_environment),
        ("Debian's package dataset-fashion-mnist", _in_debian),
        ("torchvision download", _downloaded),
    ):
        folder, reason = find(dataset)
        if folder is not None:
            return _read_folder(dataset, folder, f"{name} ({folder})")
        tried.append(f"  {name}: {reason}")
    raise DataError("\n".join([f"no copy of {dataset} was found. Tried:", *tried, *_ways(dataset)]))


def _ways(dataset: str) -> list[str]:
    debian = ["  - on Debian and Ubuntu: apt-get install dataset-fashion-mnist"] if dataset in DEBIAN else []
    return [
        "Ways to get it, any one of them:",
        f"  - put {', '.join(FILES)} into a folder {dataset}/ and set GENXAI_DATA to the folder that holds it",
        *debian,
        "  - start once on a machine with a network: torchvision downloads it into " + str(cache_folder() / dataset),
        "  - use the 3,000 + 1,000 images inside the package: data.source=embedded",
    ]


# --- the ways: each gives a folder, or None and the reason -----------------------------------------


def _in_environment(dataset: str) -> tuple[Path | None, str]:
    root = os.environ.get("GENXAI_DATA")
    if not root:
        return None, "GENXAI_DATA is not set"
    return _if_present(Path(root).expanduser() / dataset)


def _in_debian(dataset: str) -> tuple[Path | None, str]:
    if dataset not in DEBIAN:
        return None, f"Debian has no package of {dataset}"
    return _if_present(DEBIAN[dataset])


def _if_present(folder: Path) -> tuple[Path | None, str]:
    try:
        if not folder.is_dir():
            return None, f"{folder} is not a folder"
        if not any((folder / name).exists() for name in FILES):
            return None, f"{folder} holds none of {', '.join(FILES)}"
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    return folder, ""


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "genxai" / "datasets"


def _downloaded(dataset: str) -> tuple[Path | None, str]:
    target = cache_folder() / dataset
    if _if_present(target)[0] is not None:
        return target, ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{dataset}.") as scratch:
            _publish(_download(dataset, Path(scratch)), target)
    except Exception as error:  # torchvision raises whatever the network, the mirror or the disk makes of it
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return target, ""


def _download(dataset: str, scratch: Path) -> Path:
    """The folder below `scratch` with the four files, fetched and MD5-checked by torchvision."""
    datasets = importlib.import_module("torchvision.datasets")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_SECONDS)
    try:
        # torchvision prints; standard output belongs to the command
        with contextlib.redirect_stdout(sys.stderr):
            getattr(datasets, _TORCHVISION[dataset])(str(scratch), train=True, download=True)
    finally:
        socket.setdefaulttimeout(timeout)
    return scratch / _TORCHVISION[dataset] / "raw"


def _publish(found: Path, target: Path) -> None:
    """Move the four files to their place in one rename, so that a killed download leaves nothing there."""
    ready = found.parent / "ready"
    ready.mkdir()
    for name in FILES:
        shutil.move(found / name, ready / name)
    try:
        ready.rename(target)
    except OSError:
        # another process downloaded it meanwhile; its files are checked like any others
        if _if_present(target)[0] is None:
            raise


# --- reading ---------------------------------------------------------------------------------------


def _read_folder(dataset: str, folder: Path, origin: str) -> Arrays:
    files = dict(zip(FILES, CHECKSUMS[dataset], strict=True))
    arrays = [read_idx(folder / name, FILES[name], checksum) for name, checksum in files.items()]
    return _arrays(arrays, origin, files)


def _read_embedded(dataset: str) -> Arrays:
    folder = resources.files("genxai") / "data" / "embedded"
    entries = embedded_manifest()[dataset]
    arrays = [read_idx(folder / f"{dataset}-{name}", tuple(e["shape"]), e["sha256"]) for name, e in entries.items()]
    return _arrays(arrays, "the sample inside the package", {name: e["sha256"] for name, e in entries.items()})


def _arrays(arrays: list[np.ndarray], origin: str, checksums: dict[str, str]) -> Arrays:
    train_images, train_labels, test_images, test_labels = arrays
    return Arrays(train_images, train_labels, test_images, test_labels, origin, checksums)


@functools.cache
def embedded_manifest() -> dict[str, dict[str, dict]]:
    """data set -> file (in the order of FILES) -> its shape and the SHA-256 of its decompressed content."""
    return json.loads((resources.files("genxai") / "data" / "embedded" / "checksums.json").read_text())


def read_idx(path: Path | Traversable, shape: tuple[int, ...], sha256: str) -> np.ndarray:
    """The uint8 array in a gzip-compressed idx file of a known shape and content.

    Raises DataError naming the file, what was found and what was expected: a file that cannot be read, is not
    whole, has another magic number, other dimensions, another length or another SHA-256 (of the decompressed bytes).
    """
    magic = 0x0800 | len(shape)  # 0x08: unsigned byte; then the number of dimensions
    header = 4 + 4 * len(shape)
    size = header + int(np.prod(shape))
    try:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) as unpacked:
            content = unpacked.read(size + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: the file is missing (its neighbours are there); all four are needed") from None
    except EOFError:
        raise DataError(f"{path}: truncated: the gzip stream ends early; expected {size} bytes when unpacked") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not an intact gzip file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    words = np.frombuffer(content[: len(content[:header]) // 4 * 4], ">u4").tolist()
    if words[:1] != [magic]:
        found = f"{words[0]:#010x}" if words else f"{len(content)} bytes"
        raise DataError(f"{path}: magic number {found}, expected {magic:#010x} (idx file of {len(shape)} dimensions)")
    if tuple(words[1:]) != shape:
        raise DataError(f"{path}: dimensions {_times(words[1:])}, expected {_times(shape)}")
    if len(content) != size:
        found = "more" if len(content) > size else str(len(content))
        raise DataError(f"{path}: {found} bytes when unpacked, expected {size}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataError(f"{path}: altered content: SHA-256 of the unpacked bytes is {digest}, expected {sha256}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _times(dimensions: tuple[int, ...] | list[int]) -> str:
    return "x".join(str(length) for length in dimensions) or "none"


def fingerprint(data: DataConfig) -> str:
    """A short stable id of the content behind a configuration: its images or comments, and their version.

    Needs no file of the full data set and depends on no path, so any machine gives a run the same signature.
    """
    version = BENCHMARK_VERSION
    if data.is_text:
        from genxai.data.toxicity_sources import PREPARATION_VERSION, corpus_checksums  # it imports this module

        checksums, version = corpus_checksums(data.dataset, data.source), PREPARATION_VERSION
    elif data.source == "embedded":
        checksums = [entry["sha256"] for entry in embedded_manifest()[data.dataset].values()]
    else:
        checksums = list(CHECKSUMS[data.dataset])
    digest = hashlib.sha256(json.dumps(checksums).encode()).hexdigest()[:12]
    return f"{data.dataset}-{data.source}-{digest}-v{version}"
