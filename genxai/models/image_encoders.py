"""The visual branch: images to an explained activation map and to the tokens the fusion works on.

Images are float32 in [0, 1], [B, 1, H, W]; each encoder resizes and normalises them itself.
"""

from __future__ import annotations

import abc
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from genxai.config import ImageEncoderConfig
from genxai.errors import GenxaiError
from genxai.models.normalization import group_count
from genxai.models.weights import load_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
RESNET_STRIDE = {"layer2": 8, "layer3": 16, "layer4": 32}  # image pixels per position of a block's map


class ImageFeatures(NamedTuple):
    """activations [B, C, h, w]: the map that is explained, non-negative; tokens [B, N, D], computed from it."""

    activations: Tensor
    tokens: Tensor


class ImageEncoder(nn.Module, abc.ABC):
    """images [B, 1, H, W] -> `ImageFeatures`; activations are in the graph of tokens.

    In two halves, below and above the explained map: `maps` of images [B, C, h, w], and `tokens` of these [B, N, D].
    """

    map_channels: int
    token_channels: int

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size

    @abc.abstractmethod
    def maps(self, images: Tensor) -> Tensor:
        """The explained map, [B, C, h, w]."""

    @abc.abstractmethod
    def tokens(self, activations: Tensor) -> Tensor:
        """What the fusion sees of the map, [B, N, D]."""

    def forward(self, images: Tensor) -> ImageFeatures:
        activations = start_of_graph(self.maps(images))
        return ImageFeatures(activations, self.tokens(activations))

    def resize(self, images: Tensor) -> Tensor:
        """Bilinear, to input_size x input_size; images of that size pass unchanged."""
        if images.shape[-2:] == (self.input_size, self.input_size):
            return images
        return interpolate(images, size=(self.input_size, self.input_size), mode="bilinear", align_corners=False)


def build_image_encoder(cfg: ImageEncoderConfig) -> ImageEncoder:
    """The encoder a configuration names, with its weights.

    Options that do not fit together are refused by the configuration. Raises GenxaiError for weights that cannot be
    had.
    """
    return SmallCNN(cfg) if cfg.name == "small_cnn" else ResNetEncoder(cfg)


class SmallCNN(ImageEncoder):
    """A 14x14 explained map and 49 tokens at 28 px, as a ResNet has layer3 explained and layer4 tokens.

    Three 3x3 convolutions (width, 2 width at stride 2, 2 width) give the map; two more (4 width at stride 2, 4 width)
    the tokens, each of which sees 21 px. Tokens read straight off the map see 9 px: pooled, they learn textures, not
    digits. Chosen on val_balanced (image-only, lambda_attribution 5, width 16, 4,000 images, 6 epochs, seeds 100 and
    101): accuracy 0.81 and 0.90, against 0.14 and 0.16; val, as biased as training, prefers the latter, 0.97 to 0.96.

    GroupNorm, not BatchNorm: explaining extra samples changes nothing, and batches of any make-up give the same maps.
    None after the last convolution: it would fix the mean of each group of channels, which is what is pooled.
    """

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__(cfg.input_size)
        width = cfg.width
        self.map_channels, self.token_channels = 2 * width, 4 * width
        self.to_map = nn.Sequential(
            *_normed_convolution(1, width),
            *_normed_convolution(width, 2 * width, stride=2),
            *_normed_convolution(2 * width, 2 * width),
        )
        self.to_tokens = nn.Sequential(
            *_normed_convolution(2 * width, 4 * width, stride=2),
            nn.Conv2d(4 * width, 4 * width, kernel_size=3, padding=1),
            nn.ReLU(),
        )

    def maps(self, images: Tensor) -> Tensor:
        return self.to_map(2 * self.resize(images) - 1)

    def tokens(self, activations: Tensor) -> Tensor:
        return as_tokens(self.to_tokens(activations))


def _normed_convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
    return convolution, nn.GroupNorm(group_count(outputs), outputs), nn.ReLU()


class ResNetEncoder(ImageEncoder):
    """torchvision's ResNet-18 or -50 without its classifier; tokens are the positions of layer4's map.

    The explained map is `cam_layer`'s, layer3 by default: 14x14 at 224 px, where layer4's is 7x7.
    """

    def __init__(self, cfg: ImageEncoderConfig) -> None:
        super().__init__(cfg.input_size)
        network = _torchvision_resnet(cfg)
        self.batch_norm = cfg.batch_norm
        self.cam_layer = cfg.cam_layer or "layer3"
        self.stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
        self.blocks = nn.ModuleDict({name: getattr(network, name) for name in ("layer1", *RESNET_STRIDE)})
        names = list(self.blocks)
        self._below = names[: names.index(self.cam_layer) + 1]
        self._above = names[names.index(self.cam_layer) + 1 :]
        self.token_channels = network.fc.in_features
        # each block doubles the channels of the one before
        self.map_channels = self.token_channels * RESNET_STRIDE[self.cam_layer] // RESNET_STRIDE["layer4"]
        self.mean: Tensor
        self.std: Tensor
        # constants: they move with the module, but a checkpoint need not hold them
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.train()  # what is frozen is so from the start

    def train(self, mode: bool = True) -> ResNetEncoder:
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def maps(self, images: Tensor) -> Tensor:
        features = self.stem((self.resize(images) - self.mean) / self.std)  # one channel broadcast to three
        for name in self._below:
            features = self.blocks[name](features)
        return features

    def tokens(self, activations: Tensor) -> Tensor:
        features = activations
        for name in self._above:
            features = self.blocks[name](features)
        return as_tokens(features)


def start_of_graph(activations: Tensor) -> Tensor:
    """The map, able to be explained even where nothing below it needs a gradient (see `frozen`)."""
    if torch.is_grad_enabled() and not activations.requires_grad:
        activations.requires_grad_()
    return activations


def as_tokens(maps: Tensor) -> Tensor:
    """[B, C, h, w] -> [B, h w, C], row by row."""
    return maps.flatten(2).transpose(1, 2)


def _torchvision_resnet(cfg: ImageEncoderConfig) -> Any:
    try:
        from torchvision import models
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: built for another torch
        raise GenxaiError(
            f"model.image.name={cfg.name!r} needs torchvision, which cannot be imported ({error}); install the build "
            f"that belongs to torch {torch.__version__}, or use model.image.name=small_cnn"
        ) from None
    network = models.get_model(cfg.name)
    if cfg.weights == "none":
        return network
    if cfg.weights != "imagenet":
        # the classifier of another data set has other classes, and is not used
        load_weights(network, cfg.weights, option="model.image.weights", optional_prefix="fc.")
        return network
    # V1 by name, because DEFAULT changes with torchvision and the run signature would not
    weights = models.get_model_weights(cfg.name)["IMAGENET1K_V1"]
    try:
        state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network, full disk; wrong checksum
        raise GenxaiError(
            f"model.image.weights='imagenet': {weights.url} cannot be downloaded to {torch.hub.get_dir()} ({error}); "
            "download it where there is a network and give the file, or use 'none'"
        ) from None
    network.load_state_dict(state)
    return network
