import re
import sys

import pytest
import torch
from safetensors.torch import save_file

from genxai.config import ImageEncoderConfig
from genxai.errors import GenxaiError, UsageError
from genxai.models.image_encoders import IMAGENET_MEAN, IMAGENET_STD, as_tokens, build_image_encoder

models = pytest.importorskip("torchvision.models", exc_type=(ImportError, RuntimeError))


def encoder(**options):
    return build_image_encoder(ImageEncoderConfig(**options))


def resnet18(**options):
    return encoder(name="resnet18", **{"input_size": 64, **options})


@pytest.fixture(scope="module")
def weights():
    """State of a torchvision ResNet-18 that differs from any freshly built one."""
    torch.manual_seed(123)
    return models.resnet18().state_dict()


def test_the_small_cnn_explains_a_14x14_map_at_28_px_and_gives_49_tokens():
    small = encoder(width=4)
    activations, tokens = small(torch.rand(2, 1, 28, 28))
    assert activations.shape == (2, small.map_channels, 14, 14) == (2, 8, 14, 14)
    assert tokens.shape == (2, 49, small.token_channels) == (2, 49, 16)
    assert torch.autograd.grad(tokens[0].sum(), activations)[0].abs().sum() > 0
    assert activations.min() == 0  # after the ReLU


def test_the_small_cnn_accepts_other_sizes_and_resizes_to_its_own():
    small = encoder(width=4)
    images = torch.rand(2, 1, 14, 14)
    resized = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(small(images).tokens, small(resized).tokens)
    assert encoder(width=4, input_size=56)(images).activations.shape[-2:] == (28, 28)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_a_resnet_explains_a_14x14_map_at_224_px_and_gives_49_tokens(name):
    network = encoder(name=name, input_size=224).eval()
    with torch.no_grad():
        activations, tokens = network(torch.rand(1, 1, 28, 28))
    assert activations.shape == (1, network.map_channels, 14, 14)
    assert tokens.shape == (1, 49, network.token_channels)
    assert network.token_channels == 2 * network.map_channels == {"resnet18": 512, "resnet50": 2048}[name]
    assert activations.min() == 0


@pytest.mark.parametrize(("layer", "channels", "side"), [("layer2", 128, 8), ("layer3", 256, 4), ("layer4", 512, 2)])
def test_the_explained_block_can_be_chosen_and_feeds_the_tokens(layer, channels, side):
    network = resnet18(cam_layer=layer)
    activations, tokens = network(torch.rand(2, 1, 28, 28))
    assert activations.shape == (2, channels, side, side)
    (gradient,) = torch.autograd.grad(tokens.sum(), activations)
    assert gradient.abs().sum() > 0
    assert torch.equal(tokens, as_tokens(activations)) == (layer == "layer4")


def test_the_resnet_is_torchvisions_on_grey_images_normalised_as_imagenet(tmp_path, weights):
    save_file(weights, tmp_path / "weights.safetensors")
    reference = models.resnet18()
    reference.load_state_dict(weights)
    features = torch.nn.Sequential(*list(reference.children())[:-2]).eval()
    images = torch.rand(2, 1, 64, 64)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    expected = features((images.repeat(1, 3, 1, 1) - mean) / std).flatten(2).transpose(1, 2)
    actual = resnet18(weights=str(tmp_path / "weights.safetensors")).eval()(images).tokens
    torch.testing.assert_close(actual, expected)


def test_every_parameter_of_the_resnet_is_used():
    network = resnet18()
    network(torch.rand(2, 1, 28, 28)).tokens.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_smallest_size_that_the_message_names_works():
    assert resnet18(input_size=33, cam_layer="layer4")(torch.rand(2, 1, 28, 28)).activations.shape[-2:] == (2, 2)


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
def test_local_weights_may_come_with_any_classifier_or_none(file, tmp_path, weights):
    path = tmp_path / file
    state = {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}
    state["fc.weight"] = torch.zeros(7, 512)
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    loaded = resnet18(weights=str(path))
    assert torch.equal(loaded.stem[0].weight, weights["conv1.weight"])
    assert torch.equal(loaded.blocks["layer4"][1].bn2.running_var, weights["layer4.1.bn2.running_var"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.weight"), "lacks conv1.weight"),
        (lambda s: s.update(extra=torch.zeros(1)), "has the unknown extra"),
        (lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), "has another shape for conv1.weight"),
        (lambda s: s.update(epoch=3), "flat dictionary of tensors"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(change, message, tmp_path, weights):
    path, state = tmp_path / "weights.pth", dict(weights)
    change(state)
    torch.save(state, path)
    with pytest.raises(GenxaiError, match=message) as caught:
        resnet18(weights=str(path))
    assert str(path) in str(caught.value) and "model.image.weights" in str(caught.value)


@pytest.mark.parametrize("file", ["weights.pth", "weights.safetensors"])
def test_a_truncated_file_is_named_and_never_half_read(file, tmp_path, weights):
    path = tmp_path / file
    torch.save(weights, path) if path.suffix == ".pth" else save_file(weights, path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(GenxaiError, match=f"{re.escape(str(path))} cannot be read as weights"):
        resnet18(weights=str(path))


def test_a_pickle_that_runs_code_is_refused_without_running_it(tmp_path):
    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Attack(), tmp_path / "weights.pth")
    with pytest.raises(GenxaiError, match="cannot be read as weights"):
        resnet18(weights=str(tmp_path / "weights.pth"))
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_and_an_unknown_kind_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*nowhere\.pth"):
        resnet18(weights=str(tmp_path / "nowhere.pth"))
    with pytest.raises(UsageError, match="allowed are 'none', 'imagenet'"):
        resnet18(weights="ImageNet")


def test_imagenet_weights_are_torchvisions_and_checked(monkeypatch, weights):
    asked = {}

    def get_state_dict(self, **options):
        asked.update(options, url=self.url)
        return weights

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", get_state_dict)
    loaded = resnet18(weights="imagenet")
    assert torch.equal(loaded.stem[0].weight, weights["conv1.weight"])
    assert asked["check_hash"] and asked["weights_only"]
    assert asked["url"] == models.ResNet18_Weights.IMAGENET1K_V1.url


def test_a_machine_without_network_is_told_what_to_do(monkeypatch):
    def unreachable(self, **options):
        raise OSError("Name or service not known")

    monkeypatch.setattr(models.ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(GenxaiError, match=r"cannot be downloaded.*not known.*give the file, or use 'none'"):
        resnet18(weights="imagenet")


def test_a_missing_torchvision_is_told_plainly_and_the_small_cnn_does_without(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(GenxaiError, match=r"needs torchvision.*small_cnn"):
        resnet18()
    assert encoder(width=4)(torch.rand(1, 1, 28, 28)).tokens.isfinite().all()
