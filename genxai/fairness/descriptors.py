"""Bias descriptors B(x): what an image carries besides its class, as a vector the generator can be held to.

A descriptor is registered under its name with `@descriptor("name")`; `objective.bias_descriptor` selects it.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from genxai.errors import UsageError

#: spatial width of a Gabor window in wavelengths: about one octave, neighbours 36 degrees apart leak 7 %
WAVELENGTHS = 0.6
#: rounds the square root at zero energy so that its gradient exists [grey levels, white = 1]
ROUNDING = 1e-3
#: contrast below which nothing counts as texture [grey levels, white = 1]
CONTRAST_FLOOR = 0.05


class Descriptor(nn.Module, ABC):
    """B: images [B, 1, H, W] in [0, 1] -> [B, dimension], differentiable, with no trained parameters."""

    #: length d of the vector
    dimension: int
    #: L_B: ||B(x) - B(y)||_2 <= L_B ||x - y||_2 for all images, analytic (theorem 11.9, Eq. 13)
    lipschitz: float

    @abstractmethod
    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """B(x) [B, dimension]; with `mask` (bool [B, 1, H, W]) only of what lies outside it."""

    @abstractmethod
    def evidence(self, images: Tensor) -> Tensor:
        """Where the bias shows: a map [B, 1, H, W] in [0, 1], differentiable."""


Builder = Callable[[int], Descriptor]
AnyBuilder = TypeVar("AnyBuilder", bound=Builder)

#: name -> function of the image size [px]
DESCRIPTORS: dict[str, Builder] = {}


def descriptor(name: str) -> Callable[[AnyBuilder], AnyBuilder]:
    """Register a function (image_size -> Descriptor) under a name."""

    def register(builder: AnyBuilder) -> AnyBuilder:
        if name in DESCRIPTORS:
            raise ValueError(f"a bias descriptor named {name!r} is registered already")
        DESCRIPTORS[name] = builder
        return builder

    return register


def build_descriptor(name: str, image_size: int) -> Descriptor:
    """The descriptor of that name for square images of `image_size` [px]; UsageError names the known ones."""
    if name not in DESCRIPTORS:
        near = difflib.get_close_matches(name, DESCRIPTORS, 1, cutoff=0.0)
        raise UsageError(
            f"objective.bias_descriptor: unknown {name!r}; allowed: {', '.join(sorted(DESCRIPTORS))}; "
            f"the nearest is {near[0]!r}"
        )
    return DESCRIPTORS[name](image_size)


@descriptor("texture_energy")
def texture_energy(image_size: int) -> Descriptor:
    """One energy for each of the benchmark's textures."""
    from genxai.data.textures import texture_frequencies

    return TextureEnergy(image_size, texture_frequencies(image_size))


class TextureEnergy(Descriptor):
    """Energies of a fixed bank of quadrature Gabor pairs: B_k(x) is the amplitude of grating k in the image.

    Pair k is one complex filter h_k, a Gaussian window times a plane wave, corrected to have zero mean (Morlet), with
    gain 2 so that a grating a cos(2 pi f_k u) gives |h_k * x| = a. B_k(x) is the root mean square of |h_k * x| over
    all positions, images continued periodically: a seminorm, with its kink at zero rounded off (`ROUNDING`).

    Lipschitz constant: B_k is a seminorm, so |B_k(x) - B_k(y)| <= B_k(x - y), and by Parseval
        ||B(d)||^2 = sum_k mean |h_k * d|^2 = sum_w P(w) |D(w)|^2 / (HW)^2 <= max_w P(w) ||d||^2 / (HW),
    P(w) the mean over w and -w of sum_k |H_k(w)|^2 (d is real). L_B = sqrt(max P / HW) is attained by a grating, so
    no smaller constant would do (rounding only lowers slopes).
    """

    response: Tensor
    window: Tensor
    power: Tensor

    def __init__(self, image_size: int, frequencies: Tensor) -> None:
        """frequencies [d, 2]: (fy, fx) of each grating in cycles per pixel, not zero."""
        super().__init__()
        if frequencies.dim() != 2 or frequencies.shape[1] != 2:
            raise ValueError(f"frequencies must have shape [d, 2], got {list(frequencies.shape)}")
        self.image_size, self.dimension = image_size, frequencies.shape[0]
        response, window = _gabor_responses(image_size, frequencies.double())
        power = _symmetric(response.square())
        self.lipschitz = math.sqrt(float(power.sum(dim=0).max())) / image_size
        # a copy of what is computed from the frequencies would only bloat checkpoints
        self.register_buffer("response", response.float(), persistent=False)
        self.register_buffer("window", window.float(), persistent=False)
        self.register_buffer("power", (power / image_size**4).float().flatten(1), persistent=False)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Tensor:
        """B(x) [B, d] in grey levels; ValueError for images of another shape.

        With `mask` (bool [B, 1, H, W]) the mean runs over the positions outside it, and the constant for that image is
        `lipschitz` * sqrt(HW / number of positions outside). A mask that covers everything gives 0.
        """
        pixels = self._pixels(images)
        if mask is None:
            energy = _squared(torch.fft.fft2(pixels)).flatten(1) @ self.power.to(pixels.dtype).T
        else:
            outside = (~mask).to(pixels.dtype)
            local = _squared(self._responses(pixels))
            energy = (local * outside).sum(dim=(2, 3)) / outside.sum(dim=(2, 3)).clamp_min(1.0)
        # sqrt(E + r^2) - r, written so that nothing cancels
        return energy / ((energy + ROUNDING**2).sqrt() + ROUNDING)

    def evidence(self, images: Tensor) -> Tensor:
        """The share of the local contrast that one grating of the bank explains, [B, 1, H, W] in [0, 1].

        max_k |h_k * x|^2 / (2 var_k + floor^2), var_k the variance under the window of filter k: 1 on a pure grating,
        0 on flat ground and below `CONTRAST_FLOOR`, in between on edges and strokes, whose energy is spread, and near
        them. On TexMM (background, amplitude 0.5) its mean off / on the object is 0.38 / 0.19 for MNIST and 0.33 / 0.11
        for Fashion-MNIST, and 0.07 off the object without texture: a threshold on it belongs near 0.25.
        """
        pixels = self._pixels(images)
        window = self.window.to(pixels.dtype)
        # about the image's mean, so that float32 keeps the small difference of the two moments
        centred = pixels - pixels.mean(dim=(1, 2), keepdim=True)
        mean = torch.fft.ifft2(torch.fft.fft2(centred)[:, None] * window).real
        square = torch.fft.ifft2(torch.fft.fft2(centred.square())[:, None] * window).real
        variance = (square - mean.square()).clamp_min(0.0)
        explained = _squared(self._responses(centred)) / (2.0 * variance + CONTRAST_FLOOR**2)
        return explained.amax(dim=1, keepdim=True).clamp(0.0, 1.0)

    def _responses(self, pixels: Tensor) -> Tensor:
        """h_k * x at every position: complex [B, d, H, W]."""
        return torch.fft.ifft2(torch.fft.fft2(pixels)[:, None] * self.response.to(pixels.dtype))

    def _pixels(self, images: Tensor) -> Tensor:
        side = self.image_size
        if images.dim() != 4 or images.shape[1:] != (1, side, side):
            raise ValueError(f"images must have shape [B, 1, {side}, {side}], got {list(images.shape)}")
        # transforms exist in no half precision
        return images[:, 0].to(torch.promote_types(images.dtype, torch.float32))


def _gabor_responses(image_size: int, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Frequency responses [d, H, W] of the filters and of their windows (both real), float64."""
    axis = torch.fft.fftfreq(image_size, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"))
    sigma = WAVELENGTHS / frequencies.norm(dim=1)

    def gaussian(centre: Tensor) -> Tensor:
        offset = grid[None] - centre[:, :, None, None]
        offset = offset - offset.round()  # frequencies repeat with period 1
        return torch.exp(-2.0 * (math.pi * sigma[:, None, None]) ** 2 * offset.square().sum(dim=1))

    window = gaussian(torch.zeros_like(frequencies))
    wave = gaussian(frequencies)
    wave = wave - wave[:, :1, :1] * window
    # what the correction took from the gain at f_k is given back there, so that B_k reads in grey levels
    gain = 1.0 - torch.exp(-2.0 * (math.pi * sigma) ** 2 * frequencies.square().sum(dim=1)) ** 2
    return 2.0 * wave / gain[:, None, None], window


def _symmetric(spectrum: Tensor) -> Tensor:
    """Mean of the values at w and -w."""
    mirrored = spectrum.flip((-2, -1)).roll((1, 1), (-2, -1))
    return 0.5 * (spectrum + mirrored)


def _squared(values: Tensor) -> Tensor:
    """|z|^2, differentiable at zero (abs is not)."""
    return values.real.square() + values.imag.square()
