"""Finding, reading and checking the images; a file that is not what it should be is named, never half-read."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from genxai.config import DataConfig
from genxai.data import make_embedded, sources
from genxai.data.make_embedded import choose, compress, encode_idx
from genxai.data.sources import FILES, embedded_manifest, fingerprint, load_arrays, read_idx
from genxai.errors import DataError

DATASETS = ("mnist", "fashion-mnist")
IMAGES = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# --- strict reading --------------------------------------------------------------------------------


def test_an_intact_file_is_read(tmp_path):
    content = encode_idx(IMAGES)
    array = read_idx(write(tmp_path / "a.gz", compress(content)), IMAGES.shape, sha256(content))
    assert array.dtype == np.uint8 and np.array_equal(array, IMAGES)


def broken() -> dict[str, tuple[bytes, str]]:
    good = encode_idx(IMAGES)
    packed = compress(good)
    return {
        "truncated stream": (packed[: len(packed) // 2], "truncated"),
        "bad crc": (packed[:-8] + bytes(4) + packed[-4:], "not an intact gzip file"),
        "not gzip": (b"<html>404</html>", "not an intact gzip file"),
        "damaged stream": (packed[:12] + bytes(40) + packed[52:], "not an intact gzip file|truncated"),
        "empty": (b"", "truncated|magic"),
        "empty inside": (compress(b""), "magic number 0 bytes, expected 0x00000803"),
        "labels instead": (compress(encode_idx(IMAGES[:, 0, 0])), "magic number 0x00000801, expected 0x00000803"),
        "header cut": (compress(good[:9]), "dimensions 3, expected 3x28x28"),
        "fewer images": (compress(encode_idx(IMAGES[:2])), "dimensions 2x28x28, expected 3x28x28"),
        "short": (compress(good[:-1]), "2367 bytes when unpacked, expected 2368"),
        "long": (compress(good + b"x"), "more bytes when unpacked, expected 2368"),
        "one pixel changed": (compress(good[:-1] + b"x"), "altered content: SHA-256"),
    }


@pytest.mark.parametrize("case", broken())
def test_a_broken_file_is_named_with_what_was_found_and_expected(tmp_path, case):
    content, message = broken()[case]
    path = write(tmp_path / "train-images.gz", content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, IMAGES.shape, sha256(encode_idx(IMAGES)))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_neighbour_and_a_folder_in_its_place_are_named(tmp_path):
    with pytest.raises(DataError, match="missing"):
        read_idx(tmp_path / "nothing.gz", IMAGES.shape, "")
    (tmp_path / "folder.gz").mkdir()
    with pytest.raises(DataError, match=r"folder\.gz: cannot be read"):
        read_idx(tmp_path / "folder.gz", IMAGES.shape, "")


# --- the order of the ways --------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No data anywhere and no network; the cache is empty and private."""

    def offline(dataset: str, scratch: Path) -> Path:
        raise RuntimeError("no route to host")

    monkeypatch.delenv("GENXAI_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "DEBIAN", {"fashion-mnist": tmp_path / "debian"})
    monkeypatch.setattr(sources, "_download", offline)
    return tmp_path


@pytest.fixture
def small(monkeypatch):
    """The embedded sample stands for the full data, so that reading it is quick."""
    manifest = embedded_manifest()
    monkeypatch.setattr(sources, "FILES", {n: tuple(e["shape"]) for n, e in manifest["mnist"].items()})
    sums = {dataset: tuple(e["sha256"] for e in files.values()) for dataset, files in manifest.items()}
    monkeypatch.setattr(sources, "CHECKSUMS", sums)

    def place(dataset: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in FILES:
            shutil.copy(Path(sources.__file__).parent / "embedded" / f"{dataset}-{name}", folder / name)
        return folder

    return place


@pytest.mark.parametrize("dataset", DATASETS)
def test_without_data_one_error_lists_every_way_tried_and_every_way_there_is(nowhere, dataset):
    with pytest.raises(DataError) as caught:
        load_arrays(dataset, "full")
    message = str(caught.value)
    for part in ("GENXAI_DATA is not set", "no route to host", "data.source=embedded", *FILES, dataset):
        assert part in message
    assert ("apt-get install dataset-fashion-mnist" in message) == (dataset == "fashion-mnist")
    assert ("debian is not a folder" in message) == (dataset == "fashion-mnist")


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_environment_comes_first(nowhere, small, monkeypatch, dataset):
    small(dataset, nowhere / "debian")
    folder = small(dataset, nowhere / "mine" / dataset)
    monkeypatch.setenv("GENXAI_DATA", str(nowhere / "mine"))
    arrays = load_arrays(dataset, "full")
    assert str(folder) in arrays.origin and arrays.train_images.shape == (3000, 28, 28)
    assert list(arrays.checksums) == list(FILES)


def test_debian_comes_second_and_only_for_fashion(nowhere, small, monkeypatch):
    small("fashion-mnist", nowhere / "debian")
    monkeypatch.setenv("GENXAI_DATA", str(nowhere / "no such folder"))
    assert "Debian" in load_arrays("fashion-mnist", "full").origin
    with pytest.raises(DataError, match="Debian has no package of mnist"):
        load_arrays("mnist", "full")


def test_the_download_comes_last_and_is_kept(nowhere, small, monkeypatch):
    calls = []

    def download(dataset: str, scratch: Path) -> Path:
        calls.append(dataset)
        return small(dataset, scratch / "MNIST" / "raw")

    monkeypatch.setattr(sources, "_download", download)
    for _ in range(2):
        assert str(nowhere / "cache" / "genxai" / "datasets" / "mnist") in load_arrays("mnist", "full").origin
    assert calls == ["mnist"]
    assert [entry.name for entry in (nowhere / "cache/genxai/datasets").iterdir()] == ["mnist"]


def test_of_two_downloads_at_once_the_first_stays(nowhere, small, monkeypatch):
    def download(dataset: str, scratch: Path) -> Path:
        small(dataset, nowhere / "cache/genxai/datasets/mnist")  # the other process was quicker
        return small(dataset, scratch / "MNIST" / "raw")

    monkeypatch.setattr(sources, "_download", download)
    assert len(load_arrays("mnist", "full").test_labels) == 1000


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_never_skipped_over(nowhere, small, monkeypatch, name):
    small("fashion-mnist", nowhere / "debian")
    path = small("fashion-mnist", nowhere / "mine" / "fashion-mnist") / name
    write(path, path.read_bytes()[:200])
    monkeypatch.setenv("GENXAI_DATA", str(nowhere / "mine"))
    with pytest.raises(DataError, match="truncated") as caught:
        load_arrays("fashion-mnist", "full")
    assert str(path) in str(caught.value)


def test_a_folder_with_some_of_the_files_is_an_error_too(nowhere, small, monkeypatch):
    (small("mnist", nowhere / "mine" / "mnist") / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setenv("GENXAI_DATA", str(nowhere / "mine"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: the file is missing"):
        load_arrays("mnist", "full")


def test_one_data_set_in_the_place_of_the_other_is_found_out(nowhere, small, monkeypatch):
    small("mnist", nowhere / "mine" / "fashion-mnist")
    monkeypatch.setenv("GENXAI_DATA", str(nowhere / "mine"))
    with pytest.raises(DataError, match="altered content"):
        load_arrays("fashion-mnist", "full")


def test_the_full_data_has_the_well_known_content(full):
    dataset, arrays = full
    assert arrays.train_images.shape == (60_000, 28, 28) and arrays.test_images.shape == (10_000, 28, 28)
    if dataset == "mnist":
        digest = hashlib.md5(encode_idx(arrays.train_images)).hexdigest()
        assert digest == "6bbc9ace898e44ae57da46a324031adb"  # published beside the data
    else:
        assert np.bincount(arrays.train_labels).tolist() == [6000] * 10


# --- the embedded sample ----------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_embedded_sample_is_small_and_stratified(dataset):
    arrays = load_arrays(dataset, "embedded")
    assert arrays.train_images.shape == (3000, 28, 28) and arrays.test_images.shape == (1000, 28, 28)
    assert arrays.train_labels.dtype == np.uint8 and set(arrays.train_labels) == set(range(10))
    folder = Path(sources.__file__).parent / "embedded"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4e6


def test_the_embedded_sample_needs_no_data_no_network_and_no_torch(nowhere):
    code = (
        "import sys; from genxai.config import DataConfig; from genxai.data import fingerprint, load_arrays; "
        "load_arrays('mnist', 'embedded'); print(fingerprint(DataConfig()), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.split() == [fingerprint(DataConfig()), "False"]


def test_embedded_images_are_members_of_the_full_data_in_its_class_proportions(full):
    dataset, whole = full
    sample = load_arrays(dataset, "embedded")
    for part in ("train", "test"):
        pictures, labels = getattr(whole, f"{part}_images"), getattr(whole, f"{part}_labels")
        known = {image.tobytes(): label for image, label in zip(pictures, labels, strict=True)}
        chosen = list(zip(getattr(sample, f"{part}_images"), getattr(sample, f"{part}_labels"), strict=True))
        assert all(known.get(image.tobytes()) == label for image, label in chosen)
        counts = np.bincount([label for _, label in chosen])
        assert np.abs(counts - np.bincount(labels) * len(chosen) / len(labels)).max() <= 1


def test_the_embedded_files_can_be_made_again(full, tmp_path):
    dataset, _ = full
    for name, array in make_embedded.sample(dataset).items():
        shipped = Path(sources.__file__).parent / "embedded" / f"{dataset}-{name}"
        content = encode_idx(array)
        assert gzip.decompress(shipped.read_bytes()) == content
        assert compress(content)[3:8] == shipped.read_bytes()[3:8] == bytes(5)  # no name, no time
        assert sha256(content) == embedded_manifest()[dataset][name]["sha256"]


def test_the_choice_is_spread_evenly_and_in_file_order():
    labels = np.repeat(np.arange(10), [50, 70] + [60] * 8).astype(np.uint8)
    chosen = choose(np.random.default_rng(0).permutation(labels), 100)
    assert len(set(chosen)) == 100 and (np.diff(chosen) > 0).all()


def test_the_readme_states_the_checksums():
    text = (Path(sources.__file__).parent / "embedded" / "README.md").read_text()
    for dataset, files in embedded_manifest().items():
        for name, entry in files.items():
            assert f"| `{dataset}-{name}` | `{entry['sha256']}` |" in text


# --- fingerprints -----------------------------------------------------------------------------------


def test_fingerprints_tell_contents_apart_and_nothing_else(monkeypatch, tmp_path):
    configs = [DataConfig(dataset=d, source=s) for d in DATASETS for s in ("full", "embedded")]
    prints = [fingerprint(config) for config in configs]
    assert len(set(prints)) == 4
    assert fingerprint(DataConfig(rho=0.5, image_size=64)) == fingerprint(DataConfig())
    monkeypatch.setenv("GENXAI_DATA", str(tmp_path))
    assert [fingerprint(config) for config in configs] == prints


def test_fingerprints_never_change_unless_the_benchmark_does():
    assert fingerprint(DataConfig()) == "mnist-full-895b1dec347b-v1"
    assert fingerprint(DataConfig(source="embedded")) == "mnist-embedded-4e460dbcfe92-v1"
