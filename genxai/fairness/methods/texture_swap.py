"""Counterexamples by texture swap: the object on another texture, with its label."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genxai.config import Config
from genxai.data.counter_rng import integers, uniform
from genxai.data.factors import NUM_TEXTURES
from genxai.errors import UsageError
from genxai.fairness.methods.base import Method, Peers
from genxai.fairness.methods.registry import method


@method("texture_swap")
class TextureSwap(Method):
    """Counterexamples (Schramowski et al. 2020, CAIPI of Teso and Kersting 2019): what the mask S does not cover is
    made random.

    A random share of each batch is composed with a texture that is uniform over all ten, whatever the class; object,
    phase and caption stay. The share is drawn anew at each step.
    """

    needs = frozenset({"masks", "images", "textures"})
    strength_is = "share of the samples that get a random texture, 0 to 1"
    default_strength = 0.5

    def __init__(self, config: Config, train: Any, peers: Peers) -> None:
        super().__init__(config, train, peers)
        if self.strength > 1:
            raise UsageError(f"method.strength={self.strength}: texture_swap takes a share, 0 to 1")

    def batch(self, step: int, indices: Tensor, positions: Tensor) -> Any:
        seed = self.config.seed
        swapped = uniform(seed, "texture-swap/which", step, positions) < self.strength
        random = integers(seed, "texture-swap/texture", NUM_TEXTURES, step, positions)
        return self.train.batch(indices, textures=torch.where(swapped, random, self.train.textures[indices]))
