"""TexMM: textured, captioned MNIST / Fashion-MNIST with the truth about every factor (docs/benchmark.md).

Images stay on the device as uint8; a sample is composed there, a pure function of (config.data.seed, split, index).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genxai.config import Config
from genxai.data import counter_rng
from genxai.data.caption_bank import caption_bank
from genxai.data.captions import CLASS_NAMES, captions_in_use
from genxai.data.factors import NUM_CLASSES, NUM_TEXTURES, aligned_texture
from genxai.data.masks import object_masks
from genxai.data.resize import resize_bilinear, resize_nearest
from genxai.data.sources import fingerprint, load_arrays
from genxai.data.splits import make_splits
from genxai.data.supply import TEXMM
from genxai.data.textures import compose
from genxai.data.tokens import load_tokenizer
from genxai.errors import UsageError


@dataclass(frozen=True)
class Sample:
    """A batch of B samples, H = W = data.image_size, L = model.text.max_tokens, all on one device."""

    images: Tensor  # float32 [B, 1, H, W] in [0, 1]
    labels: Tensor  # int64 [B]: class y
    textures: Tensor  # int64 [B]: texture a
    masks: Tensor  # bool [B, 1, H, W]: S, the pixels that show the object
    tokens: Tensor  # int64 [B, L]: the caption
    token_mask: Tensor  # bool [B, L]: true on tokens, false on padding
    aligned: Tensor  # bool [B]: a = pi(y)
    indices: Tensor  # int64 [B]: places in the split


@dataclass(frozen=True)
class _Images:
    """A whole data set on a device, its training file first: untextured images and their masks, at 28 px."""

    images: Tensor  # uint8 [N, 28, 28]
    masks: Tensor  # bool [N, 28, 28]
    labels: Tensor  # int64 [N]
    num_train: int
    origin: str
    checksums: dict[str, str]


@functools.lru_cache(maxsize=4)
def _images_on(dataset: str, source: str, device: torch.device) -> _Images:
    arrays = load_arrays(dataset, source)
    images = torch.cat([torch.tensor(arrays.train_images), torch.tensor(arrays.test_images)]).to(device)
    labels = torch.cat([torch.tensor(arrays.train_labels), torch.tensor(arrays.test_labels)]).to(device, torch.int64)
    masks = object_masks(images, dataset)
    return _Images(images, masks, labels, len(arrays.train_labels), arrays.origin, arrays.checksums)


class TexMM:
    """One split of the benchmark.

    A sample has a class y, a texture a with P(a = pi(y)) = rho exactly (the other nine share 1 - rho equally, so
    rho = 0.1 is independence and rho = 0 never aligns), a grating of random phase and slightly jittered orientation,
    a mask S and a caption (`captions.py`). The splits:

    * train, val: as described; test: the same with the paraphrases kept for testing (IID).
    * val_balanced: held-out images of val, each class equally often with each texture, at most balanced_val_size.
    * test_unbiased: the test images, the texture uniform whatever the class. The primary test.
    * test_conflict: the test images, the texture uniform over the nine that are not pi(y).
    * test_counterfactual: samples 2i and 2i + 1 are test image i with pi(y) and with the texture it has in
      test_conflict; phase, jitter, corner and caption are the same. The caption names no texture, since it would be
      false of one of the two.

    In mode "none" textures are drawn too, so that the splits hold the same images as in other modes, but nothing
    shows them: neither the picture nor (see `captions.captions_in_use`) the caption.
    """

    num_classes = NUM_CLASSES

    def __init__(self, config: Config, split: str, device: torch.device | str = "cpu") -> None:
        """Raises UsageError for an unknown split or captions longer than max_tokens, DataError without data."""
        if split not in TEXMM.every:
            raise UsageError(f"unknown split {split!r}; the splits are {', '.join(TEXMM.every)}")
        self.split = split
        self.device = _indexed(torch.device(device))
        self._config, self._data = config, config.data
        self._store = _images_on(self._data.dataset, self._data.source, self.device)
        #: class y, int64 [N]; texture a, int64 [N]; a = pi(y), bool [N]: of the whole split
        self._image, self.textures = self._choose()
        self.labels = self._store.labels[self._image]
        self.aligned = self.textures == aligned_texture(self.labels)
        # keyed by image and not by place, so that the two samples of a counterfactual pair share them
        self._phase = counter_rng.uniform(config.data.seed, f"{split}/phase", self._image)
        self._jitter = counter_rng.uniform(config.data.seed, f"{split}/jitter", self._image) * 2 - 1
        self._corner = counter_rng.integers(config.data.seed, f"{split}/corner", 4, self._image)
        paraphrases = "test" if split.startswith("test") else "train"
        self._bank = caption_bank(config.model.text, self._data.dataset, paraphrases, self.device)
        self._train_bank = caption_bank(config.model.text, self._data.dataset, "train", self.device)
        captions = captions_in_use(self._data)
        if split == "test_counterfactual":
            captions = captions.model_copy(update={"texture": 0.0})
        self._caption = self._bank.draw(
            captions,
            self.labels,
            self.textures,
            seed=config.data.seed,
            stream=f"{split}/caption",
            counters=self._image,
        )

    def _choose(self) -> tuple[Tensor, Tensor]:
        """The image and the texture of each sample of the split."""
        seed, labels = self._config.data.seed, self._store.labels
        own = _draw_textures(labels, self._data.rho, seed)
        splits = make_splits(self._data, labels, own, self._store.num_train, seed)
        match self.split:
            case "train" | "val" | "test":
                images: Tensor = getattr(splits, self.split)
                return images, own[images]
            case "val_balanced":
                return splits.val_balanced, splits.val_balanced_textures
            case "test_unbiased":
                return splits.test, counter_rng.integers(seed, "texture/unbiased", NUM_TEXTURES, splits.test)
        pi = aligned_texture(labels[splits.test])
        other = (pi + 1 + counter_rng.integers(seed, "texture/conflict", NUM_TEXTURES - 1, splits.test)) % NUM_TEXTURES
        if self.split == "test_conflict":
            return splits.test, other
        return splits.test.repeat_interleave(2), torch.stack([pi, other], dim=1).flatten()

    def __len__(self) -> int:
        return len(self._image)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The word of each class."""
        return CLASS_NAMES[self._data.dataset]

    @property
    def vocab_size(self) -> int:
        """The number of token ids there are."""
        return load_tokenizer(self._config.model.text).vocab_size

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the images came from, for provenance.jsonl."""
        return {
            "dataset": self._data.dataset,
            "source": self._data.source,
            "origin": self._store.origin,
            "fingerprint": fingerprint(self._data),
            "sha256": dict(self._store.checksums),
        }

    def batch(self, indices: Tensor | Sequence[int], textures: Tensor | None = None) -> Sample:
        """The samples at places `indices` (integers [B] in 0..len-1) of the split.

        A sample has the same bits alone and in any batch. Nothing waits for the device. textures: int64 [B], other
        textures than the samples' own to compose the images with; captions stay as they are.
        """
        indices = torch.as_tensor(indices, dtype=torch.int64).to(self.device, non_blocking=True)
        image, labels = self._image[indices], self.labels[indices]
        textures = self.textures[indices] if textures is None else textures
        caption = self._caption[indices]
        pictures, masks = self._composed(indices, image, textures)
        return Sample(
            images=pictures,
            labels=labels,
            textures=textures,
            masks=masks,
            tokens=self._bank.tokens[caption],
            token_mask=self._bank.token_mask[caption],
            aligned=textures == aligned_texture(labels),
            indices=indices,
        )

    def _composed(self, indices: Tensor, image: Tensor, textures: Tensor) -> tuple[Tensor, Tensor]:
        # a product, since a quotient is rounded differently on some devices
        pictures = self._store.images[image][:, None].to(torch.float32) * (1 / 255)
        masks = self._store.masks[image][:, None]
        if self._data.image_size != pictures.shape[-1]:
            pictures = resize_bilinear(pictures, self._data.image_size)
            masks = resize_nearest(masks, self._data.image_size)
        pictures, masks = compose(
            pictures,
            masks,
            textures,
            self._phase[indices],
            self._jitter[indices],
            self._corner[indices],
            mode=self._data.mode,
            amplitude=self._data.amplitude,
        )
        if self._data.noise > 0:
            pictures = (pictures + self._data.noise * self._noise(image)).clamp(0.0, 1.0)
        return pictures, masks

    def _noise(self, image: Tensor) -> Tensor:
        """N(0, 1) per pixel, [B, 1, H, W]; keyed by image, so that a counterfactual pair shares it."""
        side = self._data.image_size
        pixel = torch.arange(side * side, device=image.device)
        draws = counter_rng.normal(self._config.data.seed, f"{self.split}/noise", image[:, None], pixel)
        return draws.view(-1, 1, side, side)

    def captions(self, indices: Tensor | Sequence[int]) -> list[str]:
        """The captions of the samples as people read them; '' where the modality is missing."""
        numbers = self._caption[torch.as_tensor(indices, dtype=torch.int64).to(self.device)]
        return [self._bank.texts[number] for number in numbers.tolist()]

    def caption_tokens(self, labels: Tensor, textures: Tensor, counters: Tensor, stream: str) -> tuple[Tensor, Tensor]:
        """Captions for generated samples: tokens int64 [B, L] and token_mask bool [B, L].

        labels, textures, counters: int64 [B] on the split's device. Training paraphrases, drawn as in training: a
        pure function of (config.data.seed, stream, counter, label, texture).
        """
        captions = captions_in_use(self._data)
        number = self._train_bank.draw(
            captions, labels, textures, seed=self._config.data.seed, stream=f"generated/{stream}", counters=counters
        )
        return self._train_bank.tokens[number], self._train_bank.token_mask[number]


def _draw_textures(labels: Tensor, rho: float, seed: int) -> Tensor:
    """The texture of each image of the data set: pi(y) with probability rho, else uniform over the other nine."""
    image = torch.arange(len(labels), device=labels.device)
    other = 1 + counter_rng.integers(seed, "texture/other", NUM_TEXTURES - 1, image)
    shift = torch.where(counter_rng.uniform(seed, "texture/aligned", image) < rho, 0, other)
    return (aligned_texture(labels) + shift) % NUM_TEXTURES


def _indexed(device: torch.device) -> torch.device:
    """ "cuda" and "cuda:0" are one device and share their images."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device
