"""The extractor for grey images: a small CNN trained on clean real data, whose 128 features FID and its kin compare.

Its name holds the data set and the hash of its weights (genxai-mnist-cnn-1a2b3c4d), so that figures from two
extractors cannot pass for each other. They are never comparable with an Inception FID.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from genxai import optional
from genxai.errors import DataError, UsageError

#: side of the images that the extractor sees [px]
SIDE = 28
#: output channels of the convolutions and their strides: 28 -> 14 -> 7 px
CHANNELS = (32, 32, 64, 64, 128)
STRIDES = (1, 2, 1, 2, 1)
FEATURES = CHANNELS[-1]
CLASSES = 10
#: images a pass; the features are the same in any
BATCH = 500
#: what torch-fidelity calls the two outputs
FEATURE_LAYER, LOGITS_LAYER = "features", "logits"


class GreyCnn(nn.Module):
    """Images float [B, 1, 28, 28] in [0, 1] to features [B, 128] (averaged over positions, >= 0) and logits [B, 10]."""

    def __init__(self, *, batch_norm: bool = False) -> None:
        """batch_norm: as it is trained; `folded` gives the shipped form, whose convolutions contain it."""
        super().__init__()
        pairs = itertools.pairwise((1, *CHANNELS))
        self.convs = nn.ModuleList(
            nn.Conv2d(here, there, kernel_size=3, stride=stride, padding=1, bias=not batch_norm)
            for (here, there), stride in zip(pairs, STRIDES, strict=True)
        )
        norms = [nn.BatchNorm2d(count) if batch_norm else nn.Identity() for count in CHANNELS]
        self.norms = nn.ModuleList(norms)
        self.classify = nn.Linear(FEATURES, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = 2.0 * images - 1.0
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = norm(conv(maps)).relu()
        features = maps.mean(dim=(2, 3))
        return features, self.classify(features)


@dataclass(frozen=True)
class Extractor:
    """A trained network with its name and what is recorded of its training."""

    name: str
    network: GreyCnn
    record: dict[str, Any]

    def to(self, device: torch.device | str) -> Extractor:
        """The same on another device; the network itself is moved."""
        return Extractor(self.name, self.network.to(device), self.record)

    @torch.no_grad()
    def rows(self, images: Tensor) -> Tensor:
        """128 features and 10 logits of each image, float32 [N, 138]; images in [0, 1], [N, 1, H, W] of any size.

        Images are rounded to 8 bits first, so that this is what torch-fidelity would get from the files.
        """
        parts = (as_bytes(at_extractor_size(part)).float() / 255.0 for part in images.split(BATCH))
        return torch.cat([torch.cat(self.network(part), dim=1) for part in parts])


def split_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, 128] and logits [N, 10] of `Extractor.rows`."""
    features, logits = rows.split([FEATURES, CLASSES], dim=1)
    return features, logits


def as_bytes(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8."""
    return (images.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)


def at_extractor_size(images: Tensor) -> Tensor:
    """Images [B, 1, H, W] at [B, 1, 28, 28], averaged over what a pixel covers."""
    if images.shape[-1] == SIDE:
        return images
    return interpolate(images, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)


def load_extractor(dataset: str) -> Extractor:
    """The shipped extractor of "mnist" or "fashion-mnist", on the CPU, in eval mode, its parameters frozen.

    Raises UsageError for another data set, DataError if the weights are missing or not those of the record.
    """
    record, content = _shipped(dataset)
    return Extractor(extractor_name(dataset, content), network_of(content), record)


def extractor_name(dataset: str, weights: bytes) -> str:
    """genxai-mnist-cnn-1a2b3c4d: the data set and the first 8 hex digits of the SHA-256 of the weights' file."""
    return f"genxai-{dataset}-cnn-{hashlib.sha256(weights).hexdigest()[:8]}"


def network_of(weights: bytes) -> GreyCnn:
    """The network of a safetensors file's content; half-precision weights are computed with in float32."""
    from safetensors.torch import load

    network = GreyCnn()
    network.load_state_dict({name: tensor.float() for name, tensor in load(weights).items()})
    return network.eval().requires_grad_(False)


@functools.lru_cache(maxsize=4)
def _shipped(dataset: str) -> tuple[dict[str, Any], bytes]:
    folder = resources.files("genxai") / "metrics" / "weights"
    file = folder / f"{dataset}-cnn.safetensors"
    known = sorted(entry.name.removesuffix("-cnn.json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if dataset not in known:
        raise UsageError(f"there is no feature extractor for {dataset!r}; there is one for {', '.join(known)}")
    record = json.loads((folder / f"{dataset}-cnn.json").read_text())
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}; install genxai again") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != record["sha256"]:
        raise DataError(
            f"{file}: SHA-256 {digest} is not the recorded {record['sha256']}; install genxai again, or make both anew "
            f"with python -m genxai.metrics.make_extractor {dataset}"
        )
    return record, content


def require_torch_fidelity() -> None:
    """Raises UsageError where the library is missing."""
    optional.load("torch_fidelity", "train.generator_metrics=true", "set train.generator_metrics=false")


@functools.cache
def register(dataset: str) -> str:
    """Register the extractor with torch-fidelity, once; -> the name to ask for.

    It takes images, uint8 [B, 1, 28, 28], or what `Extractor.rows` has made of them. UsageError without torch-fidelity.
    """
    require_torch_fidelity()
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor

    extractor = load_extractor(dataset)

    class GreyFeatures(FeatureExtractorBase):
        """The extractor as torch-fidelity wants it."""

        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.network = network_of(_shipped(dataset)[1])

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return FEATURE_LAYER, LOGITS_LAYER

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return LOGITS_LAYER if metric == "isc" else FEATURE_LAYER

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 1, SIDE, SIDE, dtype=torch.uint8)

        def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
            rows = inputs if inputs.is_floating_point() else torch.cat(self.network(inputs.float() / 255.0), dim=1)
            features, logits = split_rows(rows)
            found = {FEATURE_LAYER: features, LOGITS_LAYER: logits}
            return tuple(found[name] for name in self.features_list)

    register_feature_extractor(extractor.name, GreyFeatures)
    return extractor.name
