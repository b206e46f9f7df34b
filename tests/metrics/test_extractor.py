"""The shipped grey-image extractors: their hashes, their accuracy, their names, and that they can be made anew."""

from __future__ import annotations

import hashlib
import json
import os
from importlib import resources

import pytest
import torch
from torch import Tensor

from genxai.data.sources import CHECKSUMS, FILES, Arrays, load_arrays
from genxai.errors import DataError, UsageError
from genxai.metrics import extractor, make_extractor
from genxai.metrics.extractor import GreyCnn, at_extractor_size, load_extractor, split_rows
from genxai.metrics.make_extractor import RECIPES, Recipe, augmented, folded, train

WEIGHTS = resources.files("genxai") / "metrics" / "weights"
#: on the official test images
REQUIRED = {"mnist": 0.992, "fashion-mnist": 0.92}


def test_images(dataset: str, source: str) -> tuple[Tensor, Tensor]:
    arrays: Arrays = load_arrays(dataset, source)
    return torch.tensor(arrays.test_images)[:, None] / 255, torch.tensor(arrays.test_labels).long()


test_images.__test__ = False  # type: ignore[attr-defined]


def accuracy(dataset: str, source: str) -> float:
    images, labels = test_images(dataset, source)
    return float((split_rows(load_extractor(dataset).rows(images))[1].argmax(1) == labels).double().mean())


@pytest.mark.parametrize("dataset", REQUIRED)
def test_the_shipped_weights_are_those_of_the_record_and_of_the_name(dataset):
    content = (WEIGHTS / f"{dataset}-cnn.safetensors").read_bytes()
    record = json.loads((WEIGHTS / f"{dataset}-cnn.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    assert record["sha256"] == digest and len(content) < 1_000_000
    assert record["name"] == load_extractor(dataset).name == f"genxai-{dataset}-cnn-{digest[:8]}"
    assert record["data_sha256"] == dict(zip(FILES, CHECKSUMS[dataset], strict=True))
    assert record["recipe"]["epochs"] == RECIPES[dataset].epochs and record["recipe"]["trained_on"] == 55_000


@pytest.mark.parametrize("dataset", REQUIRED)
def test_the_recorded_accuracy_is_as_required_and_that_of_the_embedded_test_images_fits_it(dataset):
    record = load_extractor(dataset).record
    assert record["test_accuracy"] >= REQUIRED[dataset] and record["held_out_accuracy"] >= REQUIRED[dataset]
    tolerance = 4 * (record["test_accuracy"] * (1 - record["test_accuracy"]) / 1000) ** 0.5
    assert accuracy(dataset, "embedded") == pytest.approx(record["test_accuracy"], abs=tolerance)
    assert accuracy(dataset, "embedded") >= {"mnist": 0.98, "fashion-mnist": 0.88}[dataset]


@pytest.mark.skipif("GENXAI_DATA" not in os.environ, reason="needs the full data: GENXAI_DATA is not set")
@pytest.mark.parametrize("dataset", REQUIRED)
def test_the_accuracy_on_all_test_images_is_the_recorded_one(dataset):
    assert accuracy(dataset, "full") == pytest.approx(load_extractor(dataset).record["test_accuracy"], abs=2e-4)


def test_rows_are_the_same_in_any_batch_and_rounded_to_the_levels_of_a_file():
    images, _ = test_images("mnist", "embedded")
    found = load_extractor("mnist")
    rows = found.rows(images[:700])
    assert rows.shape == (700, 138) and (split_rows(rows)[0] >= 0).all()
    assert torch.allclose(found.rows(images[100:103]), rows[100:103], atol=1e-4)
    assert torch.equal(found.rows(images[:5] + 0.3 / 255), found.rows(images[:5]))


def test_large_images_are_averaged_down_to_what_the_extractor_knows():
    images, labels = test_images("mnist", "embedded")
    large = images[:200].repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert at_extractor_size(large).shape == (200, 1, 28, 28)
    assert (split_rows(load_extractor("mnist").rows(large))[1].argmax(1) == labels[:200]).double().mean() > 0.97


def test_altered_weights_and_unknown_data_sets_are_refused(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"no feature extractor for 'cifar'.*mnist"):
        load_extractor("cifar")
    folder = tmp_path / "metrics" / "weights"
    folder.mkdir(parents=True)
    for name in ("mnist-cnn.safetensors", "mnist-cnn.json"):
        (folder / name).write_bytes((WEIGHTS / name).read_bytes())
    weights = folder / "mnist-cnn.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x55")
    monkeypatch.setattr(extractor.resources, "files", lambda package: tmp_path)
    extractor._shipped.cache_clear()
    with pytest.raises(DataError, match=r"is not the recorded .*make_extractor mnist"):
        load_extractor("mnist")
    weights.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_extractor("mnist")
    extractor._shipped.cache_clear()


# --- making them anew ----------------------------------------------------------------------------


def few() -> tuple[Tensor, Tensor]:
    arrays = load_arrays("mnist", "embedded")
    return torch.tensor(arrays.train_images[:256])[:, None], torch.tensor(arrays.train_labels[:256]).long()


def test_training_is_deterministic_and_learns():
    recipe = Recipe(epochs=5, flip=False, shift=2, batch=32)
    networks = [train(*few(), recipe) for _ in range(2)]
    assert all(torch.equal(*pair) for pair in zip(*(n.state_dict().values() for n in networks), strict=True))
    assert make_extractor.accuracy(networks[0], *few()) > 0.5


def test_the_shipped_form_is_the_same_function_without_batch_norm():
    network = train(*few(), Recipe(epochs=1, flip=False, shift=2, batch=64))
    images = few()[0][:64] / 255
    plain = folded(network)
    assert not any("norm" in name for name in plain.state_dict())
    for ours, theirs in zip(plain(images), network(images), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_augmentation_shifts_and_mirrors_and_nothing_else():
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[0, 0, 10:14, 8:10] = 200
    image[0, 0, 10, 12] = 100  # not symmetric
    seen = augmented(
        image.expand(400, -1, -1, -1), Recipe(epochs=1, flip=True, shift=2), torch.Generator().manual_seed(0)
    )
    allowed = {
        shown.roll((down, right), (2, 3)).numpy().tobytes()
        for shown in (image, image.flip(3))
        for down in range(-2, 3)
        for right in range(-2, 3)
    }
    assert {one.numpy().tobytes() for one in seen.split(1)} == allowed
    straight = augmented(
        image.expand(400, -1, -1, -1), Recipe(epochs=1, flip=False, shift=2), torch.Generator().manual_seed(0)
    )
    assert len(straight.unique(dim=0)) == 25


def test_the_network_keeps_positions_out_of_its_features():
    network = GreyCnn().eval()
    features, logits = network(torch.rand(3, 1, 28, 28))
    assert features.shape == (3, 128) and logits.shape == (3, 10)
