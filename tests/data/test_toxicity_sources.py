"""Where the corpora of toxic text come from: the order of the ways, strict reading, checksums."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genxai.config import Config, DataConfig
from genxai.data import fingerprint, make_toxicity_sample
from genxai.data import toxicity_sources as sources
from genxai.data.toxicity_sources import CORPORA, EMBEDDED, MADLIBS, load_comments
from genxai.errors import DataError

SURGE = CORPORA["toxicity-surge"]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data anywhere: an empty home and cache, no network."""
    monkeypatch.delenv("GENXAI_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def unreachable(url: str, timeout: float) -> io.BytesIO:
        raise OSError("no route to host")

    monkeypatch.setattr(sources.urllib.request, "urlopen", unreachable)
    return tmp_path


@pytest.fixture
def content() -> bytes:
    """The file of Surge AI's comments."""
    folder = Path(sources.__file__).parent / "embedded"
    return gzip.decompress((folder / EMBEDDED["toxicity-surge"][0]).read_bytes())


def placed(root: Path, content: bytes) -> Path:
    path = root / "toxicity" / SURGE.file
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_without_data_one_error_lists_every_way_tried_and_every_way_there_is(nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_comments("toxicity-surge", "full")
    text = str(caught.value)
    for part in ("GENXAI_DATA is not set", "no route to host", SURGE.url, "data.source=embedded", str(nowhere)):
        assert part in text


def test_the_environment_comes_first(nowhere: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path = placed(nowhere, content)
    monkeypatch.setenv("GENXAI_DATA", str(nowhere))
    found = load_comments("toxicity-surge", "full")
    assert found.origin == str(path) and len(found.texts) == 1000 and found.labels.sum() == 501


def test_an_altered_file_is_named_and_never_skipped_over(
    nowhere: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = placed(nowhere, content.replace(b"Not Toxic", b"Toxic", 1))
    monkeypatch.setenv("GENXAI_DATA", str(nowhere))
    with pytest.raises(DataError, match="altered content") as caught:
        load_comments("toxicity-surge", "full")
    assert str(path) in str(caught.value) and SURGE.sha256 in str(caught.value)


def test_what_cannot_be_read_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (nowhere / "toxicity" / SURGE.file).mkdir(parents=True)
    monkeypatch.setenv("GENXAI_DATA", str(nowhere))
    with pytest.raises(DataError, match="cannot be read"):
        load_comments("toxicity-surge", "full")


def test_a_download_is_checked_before_it_is_kept(
    nowhere: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [content[:1000], content]
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda url, timeout: io.BytesIO(answers.pop(0)))
    with pytest.raises(DataError, match="altered content"):
        load_comments("toxicity-surge", "full")
    kept = nowhere / "cache" / "genxai" / "datasets" / "toxicity" / SURGE.file
    assert not kept.exists()
    assert load_comments("toxicity-surge", "full").origin == str(kept)
    assert load_comments("toxicity-surge", "full").origin == str(kept)  # nothing is left to download


def test_what_is_inside_the_package_needs_no_data_no_network_and_no_torch(nowhere: Path) -> None:
    code = (
        "import sys; from genxai.data.toxicity_sources import load_comments; from genxai.config import DataConfig; "
        "from genxai.data import fingerprint; fingerprint(DataConfig(dataset='toxicity-davidson')); "
        "sys.exit(load_comments('madlibs', 'embedded').labels.mean() != 0.5 or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_davidsons_tweets_are_not_inside_the_package() -> None:
    with pytest.raises(ValueError, match="use source=full"):
        DataConfig(dataset="toxicity-davidson", source="embedded")


def test_fingerprints_tell_corpora_and_sources_apart() -> None:
    configs = [DataConfig(dataset="toxicity-surge", source=source) for source in ("full", "embedded")]
    found = [fingerprint(data) for data in (*configs, DataConfig(dataset="toxicity-davidson"))]
    assert len(set(found)) == 3
    assert found[1] == "toxicity-surge-embedded-370000b8848f-v1"


def test_a_fingerprint_covers_the_sentences_of_the_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = DataConfig(dataset="toxicity-surge", source="embedded")
    before = fingerprint(data)
    monkeypatch.setitem(sources.EMBEDDED, MADLIBS, ("other.csv.gz", "0" * 64))
    assert fingerprint(data) != before


def test_the_readme_states_the_checksums() -> None:
    text = (Path(sources.__file__).parent / "embedded" / "README.md").read_text()
    for name, sha256 in EMBEDDED.values():
        assert f"| `{name}` | `{sha256}` |" in text


@pytest.mark.skipif(not os.environ.get("GENXAI_DATA"), reason="GENXAI_DATA is not set: no full data to compare with")
def test_the_files_inside_the_package_can_be_made_again() -> None:
    for corpus, made in make_toxicity_sample.contents().items():
        assert hashlib.sha256(made).hexdigest() == EMBEDDED[corpus][1]


@pytest.mark.skipif(not os.environ.get("GENXAI_DATA"), reason="GENXAI_DATA is not set: no full data to read")
def test_davidsons_classes_hate_and_offensive_are_toxic() -> None:
    found = load_comments("toxicity-davidson", "full")
    assert len(found.texts) == 24_783 and int(found.labels.sum()) == 1430 + 19_190


def test_text_needs_a_text_classifier_alone() -> None:
    with pytest.raises(ValueError, match="preset toxicity"):
        Config.model_validate({"data": {"dataset": "toxicity-surge"}})
