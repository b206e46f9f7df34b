"""The conditional attention WGAN-GP: generator with Eq. 4 attention, projection critic, averaged generator.

Images are float32 in [0, 1], [B, 1, H, W]; nothing here depends on batch statistics.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, leaky_relu, relu
from torch.optim.swa_utils import get_ema_multi_avg_fn

from genxai.config import GanConfig
from genxai.models.attention import FeatureAttention
from genxai.models.normalization import ClassConditionalNorm

COARSEST = 8  # maps are halved while they are larger than this [px]
MAX_WIDENING = 8  # channels double with every halving, up to this factor
LEAK = 0.2  # slope of the critic's LeakyReLU below 0, the usual value since DCGAN


def map_sizes(image_size: int) -> list[int]:
    """Sides of the feature maps from coarse to fine: 28 -> [7, 14, 28], 224 -> [7, 14, 28, 56, 112, 224]."""
    sizes = [image_size]
    while sizes[0] > COARSEST and sizes[0] % 2 == 0:
        sizes.insert(0, sizes[0] // 2)
    return sizes


def map_channels(image_size: int, width: int) -> list[int]:
    """Channels of the feature maps from coarse to fine: `width` at full resolution, doubled at each halving."""
    levels = len(map_sizes(image_size))
    return [width * min(2**level, MAX_WIDENING) for level in reversed(range(levels))]


class Generator(nn.Module):
    """G(z, y): z float [B, latent_dim] and labels int64 [B] to images [B, 1, H, W] in [0, 1].

    A linear map to the coarsest grid, then blocks of nearest upsampling and convolution; every map is normalised with
    the class's scale and shift and weighed by attention (Eq. 4).
    """

    def __init__(self, gan: GanConfig, num_classes: int, image_size: int) -> None:
        super().__init__()
        sizes, channels = map_sizes(image_size), map_channels(image_size, gan.width)
        self.latent_dim = gan.latent_dim
        self.num_classes = num_classes
        self._coarsest = (channels[0], sizes[0], sizes[0])
        self.project = nn.Linear(gan.latent_dim, math.prod(self._coarsest))
        self.convs = nn.ModuleList(
            nn.Conv2d(coarse, fine, kernel_size=3, padding=1) for coarse, fine in itertools.pairwise(channels)
        )
        self.norms = nn.ModuleList(ClassConditionalNorm(count, num_classes) for count in channels)
        self.attention = nn.ModuleList(FeatureAttention(count, gan.attention) for count in channels)
        self.to_image = nn.Conv2d(channels[-1], 1, kernel_size=3, padding=1)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        features = self._select(0, self.project(z).unflatten(1, self._coarsest), labels)
        for level, conv in enumerate(self.convs, start=1):
            features = self._select(level, conv(interpolate(features, scale_factor=2.0, mode="nearest")), labels)
        return self.to_image(features).sigmoid()

    def _select(self, level: int, features: Tensor, labels: Tensor) -> Tensor:
        return self.attention[level](relu(self.norms[level](features, labels)))


class Critic(nn.Module):
    """D(x, y) [B] of images [B, 1, H, W] in [0, 1] and labels int64 [B]; unbounded, larger means more real.

    A projection critic (Miyato & Koyama, "cGANs with Projection Discriminator", 2018): psi(phi(x)) + <V_y, phi(x)>.
    No normalisation: the gradient penalty constrains D per sample, and batch statistics would tie samples together.
    """

    def __init__(self, gan: GanConfig, num_classes: int, image_size: int) -> None:
        super().__init__()
        sizes, channels = map_sizes(image_size)[::-1], map_channels(image_size, gan.width)[::-1]
        self.from_image = nn.Conv2d(1, channels[0], kernel_size=3, padding=1)
        # 4x4 at stride 2: each pixel is seen equally often, so that its gradient has no checkerboard
        self.convs = nn.ModuleList(
            nn.Conv2d(fine, coarse, kernel_size=4, stride=2, padding=1) for fine, coarse in itertools.pairwise(channels)
        )
        # a linear map of the flattened grid, because its convolutions see only a part of the image each
        features = channels[-1]
        self.features = nn.Linear(features * sizes[-1] ** 2, features)
        self.score = nn.Linear(features, 1)
        self.project = nn.Embedding(num_classes, features)
        nn.init.normal_(self.project.weight, std=features**-0.5)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = leaky_relu(self.from_image(2 * images - 1), LEAK)
        for conv in self.convs:
            maps = leaky_relu(conv(maps), LEAK)
        features = leaky_relu(self.features(maps.flatten(1)), LEAK)
        return self.score(features).squeeze(1) + (self.project(labels) * features).sum(dim=1)


@torch.no_grad()
def update_ema(average: nn.Module, source: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * source for parameters; buffers are copied. In place, fused.

    Both modules must have the same architecture. decay in [0, 1], ValueError otherwise.
    """
    averages, sources = list(average.parameters()), list(source.parameters())
    if [parameter.shape for parameter in averages] != [parameter.shape for parameter in sources]:
        raise ValueError("the averaged module and its source differ in their parameters")
    get_ema_multi_avg_fn(decay)(averages, sources, None)
    for buffer, current in zip(average.buffers(), source.buffers(), strict=True):
        buffer.copy_(current)
