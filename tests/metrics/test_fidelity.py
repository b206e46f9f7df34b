"""torch-fidelity with the grey extractor against torchmetrics, closed forms, and what must be refused."""

from __future__ import annotations

import sys

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from genxai.data.sources import load_arrays
from genxai.errors import GenxaiError, UsageError
from genxai.metrics import extractor
from genxai.metrics.extractor import FEATURES, load_extractor
from genxai.metrics.fidelity import Fidelity


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    """600 and 600 clean images, uint8 [600, 1, 28, 28]."""
    train = torch.tensor(load_arrays("mnist", "embedded").train_images)[:, None]
    return train[:600], train[600:1200]


@pytest.fixture(scope="module")
def fidelity() -> Fidelity:
    return Fidelity("grey", "mnist")


class FeaturesOf(nn.Module):
    """The extractor as torchmetrics wants it."""

    num_features = FEATURES

    def __init__(self, output: int = 0) -> None:
        super().__init__()
        self.network, self.output = load_extractor("mnist").network, output

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.float() / 255.0)[self.output]


def torchmetrics_fid(one: Tensor, other: Tensor) -> float:
    metric = FrechetInceptionDistance(FeaturesOf(), input_img_size=(1, 28, 28))  # sums in float64 anyway
    metric.update(one, real=False)
    metric.update(other, real=True)
    return float(metric.compute())


def test_fid_is_that_of_torchmetrics_with_the_same_extractor(images, fidelity):
    one, other = images
    noise = torch.randint(0, 256, one.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for left, right in (one, other), (noise, other):
        found = fidelity.compare(fidelity.inputs(left / 255), fidelity.inputs(right / 255), "fid")["fid"]
        assert found == pytest.approx(torchmetrics_fid(left, right), rel=1e-3)


def test_is_and_kid_are_those_of_torchmetrics_up_to_their_random_parts(images, fidelity):
    one, other = images
    noise = torch.randint(0, 256, one.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for side, tolerance in ((one, {"abs": 0.01}), (noise, {"rel": 0.02})):
        found = fidelity.compare(fidelity.inputs(side / 255), fidelity.inputs(other / 255), "is", "kid")
        torch.manual_seed(0)
        score = InceptionScore(FeaturesOf(1), splits=10)
        score.update(side)
        assert found["is"] == pytest.approx(float(score.compute()[0]), rel=0.02)
        # subsets as large as the sets: nothing is left to chance
        distance = KernelInceptionDistance(FeaturesOf(), subsets=1, subset_size=len(one))
        distance.update(side, real=False)
        distance.update(other, real=True)
        assert found["kid"] == pytest.approx(float(distance.compute()[0]), **tolerance)
    assert found["kid"] > 1  # so the relative tolerance says something


def test_precision_and_recall_are_those_of_kynkaanniemi_counted_pair_by_pair(images, fidelity):
    """A sample counts if it lies within the distance of some sample of the other side to its 3rd neighbour."""
    one, other = (fidelity.inputs(side[:300] / 255) for side in images)
    found = fidelity.compare(one, other, "prc")
    left, right = (side[:, :FEATURES].double() for side in (one, other))

    def covered(points: Tensor, centres: Tensor) -> float:
        radii = [sorted((centre - each).norm() for each in centres)[3] for centre in centres]
        inside = [any((p - c).norm() <= r for c, r in zip(centres, radii, strict=True)) for p in points]
        return sum(inside) / len(inside)

    assert found["precision"] == pytest.approx(covered(left, right), abs=0.01)
    assert found["recall"] == pytest.approx(covered(right, left), abs=0.01)


def test_rows_computed_once_give_what_torch_fidelity_computes_from_the_images(images, fidelity):
    one, other = images
    rows = fidelity.compare(fidelity.inputs(one / 255), fidelity.inputs(other / 255), "fid", "is", "kid", "prc")
    pixels = fidelity.compare(one, other, "fid", "is", "kid", "prc")
    assert rows.keys() == {"fid", "is", "is_spread", "kid", "kid_spread", "precision", "recall"}
    assert rows == pytest.approx(pixels, rel=1e-4, abs=1e-5)


def test_fid_of_given_features_is_the_closed_form(fidelity):
    random = torch.Generator().manual_seed(0)
    spread = torch.rand(FEATURES, generator=random) + 0.5
    left, right = (torch.randn(2000, FEATURES + 10, generator=random) for _ in range(2))
    left[:, :FEATURES] = left[:, :FEATURES] * spread + 0.3
    found = fidelity.compare(left, right, "fid")["fid"]
    (mean, cov), (other_mean, other_cov) = (
        (rows[:, :FEATURES].double().mean(0).numpy(), rows[:, :FEATURES].double().T.cov().numpy())
        for rows in (left, right)
    )
    expected = ((mean - other_mean) ** 2).sum() + (cov + other_cov - 2 * sqrtm(cov @ other_cov).real).trace()
    assert found == pytest.approx(expected, rel=1e-4)
    exact = FEATURES * 0.3**2 + float((spread - 1).square().sum())  # of the distributions, not the samples
    assert found == pytest.approx(exact, rel=0.5) and found > exact  # a finite sample's FID is too large


def test_real_images_are_nearer_to_real_ones_than_noise_and_the_floor_is_not_zero(images, fidelity):
    one, other = (fidelity.inputs(side / 255) for side in images)
    noise = fidelity.inputs(torch.rand(600, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    floor, far = (fidelity.compare(side, other, "fid", "is", "prc") for side in (one, noise))
    assert 0 < floor["fid"] < 0.05 * far["fid"]
    assert floor["is"] > 8 > 2 > far["is"]
    assert floor["precision"] > 0.8 > 0.1 > far["precision"]


def test_kid_subsets_fit_into_few_images(fidelity, images):
    one, other = (fidelity.inputs(side[:100] / 255) for side in images)
    found = fidelity.compare(one, other, "kid")
    assert abs(found["kid"]) < 0.5 and found["kid_spread"] > 0


def test_without_torch_fidelity_a_plain_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr("genxai.metrics.fidelity.register", extractor.register.__wrapped__)  # not what it did before
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    for kind in ("grey", "inception"):
        with pytest.raises(UsageError, match=r"pip install 'genxai\[fid\]'"):
            Fidelity(kind, "mnist")


class FakeInception:
    """Takes the arguments of the library's class."""

    made: list = []  # noqa: RUF012

    def __init__(self, name, features_list, feature_extractor_weights_path=None, **options):
        self.made.append((name, features_list, feature_extractor_weights_path))


@pytest.fixture
def fake_inception(monkeypatch):
    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.FeatureExtractorInceptionV3", FakeInception)
    monkeypatch.setattr(FakeInception, "made", [])
    return FakeInception.made


def test_inception_gets_the_local_weights_and_the_grey_channel_three_times(monkeypatch, fake_inception, tmp_path):
    file = tmp_path / "inception.pth"
    torch.save({"weight": torch.zeros(2)}, file)
    inception, asked = Fidelity("inception", "mnist", weights=str(file)), {}
    monkeypatch.setattr("torch_fidelity.calculate_metrics", lambda **kwargs: asked.update(kwargs) or {"precision": 0.5})
    pixels = inception.inputs(torch.full((300, 1, 28, 28), 0.5))
    assert inception.compare(pixels, pixels, "fid", "prc") == {"precision": 0.5}
    assert asked["feature_extractor"] == "inception-v3-compat"
    assert asked["feature_extractor_weights_path"] == str(file) == fake_inception[0][2]
    assert asked["fid"] and asked["prc"] and not asked.get("isc") and not asked["cache"] and not asked["cuda"]
    assert asked["input1"][7].shape == (3, 28, 28) and (asked["input1"][7] == 128).all()
    assert asked["input1"][7].dtype == torch.uint8


def test_inception_weights_that_are_not_there_or_not_tensors_are_refused_before_they_are_unpickled(tmp_path):
    with pytest.raises(UsageError, match=r"run\.inception_weights: there is no file .*weights-inception-2015-12-05"):
        Fidelity("inception", "mnist", weights=str(tmp_path / "none.pth"))

    class Hostile:
        def __reduce__(self):
            return (tmp_path / "executed").touch, ()

    file = tmp_path / "hostile.pth"
    torch.save({"weight": Hostile()}, file)
    with pytest.raises(UsageError, match="holds no tensors"):
        Fidelity("inception", "mnist", weights=str(file))
    assert not (tmp_path / "executed").exists()


def test_without_a_network_the_message_says_where_inception_weights_go(monkeypatch):
    def no_network(url, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", no_network)
    with pytest.raises(
        GenxaiError, match=r"no weights of Inception.*Name or service not known.*run\.inception_weights"
    ):
        Fidelity("inception", "mnist")
