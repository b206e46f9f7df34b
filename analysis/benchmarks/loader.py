"""TexMM as a torchvision user would write it: a Dataset that composes one sample at a time, for a DataLoader.

The same samples as `TexMM.batch` (a test compares them), from the same arrays on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as transforms

from genxai.data import TexMM
from genxai.data.factors import NUM_TEXTURES
from genxai.data.textures import FREQUENCIES, JITTER_DEGREES, ORIENTATIONS, REFERENCE_SIZE, SWATCH_SIZE

#: image, label, texture, mask, tokens, token mask
Item = tuple[Tensor, int, int, Tensor, Tensor, Tensor]


class TexturedImages(Dataset[Item]):
    """One split: picture through PIL and ToTensor as torchvision's MNIST has it, then texture, mask and caption."""

    def __init__(self, split: TexMM) -> None:
        # the arrays that TexMM keeps, so that both compose the same samples; they are nobody else's business
        data, store = split._data, split._store
        self.side, self.mode, self.amplitude = data.image_size, data.mode, data.amplitude
        self.images = store.images[split._image].cpu().numpy()
        self.masks = store.masks[split._image].cpu().numpy()
        self.labels, self.textures = split.labels.tolist(), split.textures.tolist()
        self.phase, self.jitter = split._phase.tolist(), split._jitter.tolist()
        self.corner, self.caption = split._corner.tolist(), split._caption.tolist()
        self.tokens, self.token_mask = split._bank.tokens.cpu(), split._bank.token_mask.cpu()
        centres = (torch.arange(self.side) + 0.5) * (REFERENCE_SIZE / self.side)
        self.rows, self.columns = torch.meshgrid(centres, centres, indexing="ij")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        picture = transforms.to_tensor(Image.fromarray(self.images[index]))
        mask = torch.from_numpy(self.masks[index])[None]
        if self.side != REFERENCE_SIZE:
            size = [self.side, self.side]
            picture = transforms.resize(picture, size, antialias=False)
            mask = transforms.resize(mask, size, transforms.InterpolationMode.NEAREST)
        texture, caption = self.textures[index], self.caption[index]
        picture, mask = self._composed(picture, mask, index, texture)
        return picture, self.labels[index], texture, mask, self.tokens[caption], self.token_mask[caption]

    def _composed(self, picture: Tensor, mask: Tensor, index: int, texture: int) -> tuple[Tensor, Tensor]:
        if self.mode == "none":
            return picture, mask
        if self.mode == "patch":
            return self._with_swatch(picture, mask, index, texture)
        angle = math.radians(ORIENTATIONS[texture % len(ORIENTATIONS)] + JITTER_DEGREES * self.jitter[index])
        frequency = FREQUENCIES[texture // len(ORIENTATIONS)]
        turns = frequency * (math.sin(angle) * self.rows + math.cos(angle) * self.columns) + self.phase[index]
        grating = self.amplitude * (0.5 + 0.5 * torch.sin(2.0 * math.pi * turns))
        if self.mode == "overlay":
            return picture * (1.0 - self.amplitude) + grating, mask
        return torch.where(mask, picture, picture + (1.0 - picture) * grating), mask

    def _with_swatch(self, picture: Tensor, mask: Tensor, index: int, texture: int) -> tuple[Tensor, Tensor]:
        side = max(1, round(SWATCH_SIZE * self.side / REFERENCE_SIZE))
        bottom, right = divmod(self.corner[index], 2)
        rows = slice(-side, None) if bottom else slice(side)
        columns = slice(-side, None) if right else slice(side)
        mask = mask.clone()
        picture[:, rows, columns] = 1.0 - texture / NUM_TEXTURES * (250 / 255)
        mask[:, rows, columns] = False
        return picture, mask


def batches(dataset: TexturedImages, batch_size: int, count: int, workers: int, device: torch.device) -> Any:
    """A function that goes once through `count` shuffled batches and leaves each on the device."""
    sampler = _Forever(len(dataset), batch_size * count)
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )

    def once() -> list[Any]:
        last: list[Any] = []
        for batch in loader:
            last = [column.to(device, non_blocking=True) for column in batch]
        return last

    return once


class _Forever(torch.utils.data.Sampler[int]):
    """`count` random places, however small the data set is."""

    def __init__(self, size: int, count: int) -> None:
        self.size, self.count = size, count

    def __iter__(self) -> Iterator[int]:
        yield from torch.randint(self.size, (self.count,)).tolist()

    def __len__(self) -> int:
        return self.count
